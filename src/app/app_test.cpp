// husk: tests of the program as a user meets it, and of what it finds on a host
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "app/doctor.h"
#include "app/host_files.h"
#include "app/kvm_probe.h"
#include "app/session.h"
#include "host/file.h"
#include "host/thread.h"

namespace husk::app {
namespace {

struct Outcome {
  int status = -1;
  std::string output, errors;
};

std::string drain(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(got));
  return text;
}

/// Runs the program with `arguments`; `name` is its argv[0].
Outcome husk(std::vector<std::string> arguments, const char* name = "husk") {
  int out[2], err[2];
  EXPECT_EQ(::pipe(out), 0);
  EXPECT_EQ(::pipe(err), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    for (const int fd : {out[0], out[1], err[0], err[1]}) ::close(fd);
    std::vector<char*> words{const_cast<char*>(name)};
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    ::execv(HUSK_PROGRAM, words.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  Outcome outcome;
  outcome.output = drain(out[0]);
  outcome.errors = drain(err[0]);
  ::close(out[0]);
  ::close(err[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  return outcome;
}

TEST(Program, SaysItsVersionAndHelp) {
  const Outcome version = husk({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_TRUE(version.output.starts_with("husk 0.")) << version.output;
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--help"},
                                                    {"run", "--help"},
                                                    {"qemu", "-help"},
                                                    {"qemu", "--help"},
                                                    {"doctor", "--help"}}) {
    const Outcome help = husk(arguments);
    EXPECT_EQ(help.status, 0) << arguments[0];
    EXPECT_NE(help.output.find(arguments[0] == "--help" ? "husk run" : "husk " + arguments[0]), std::string::npos)
        << help.output;
    EXPECT_EQ(help.errors, "");
  }
}

TEST(Program, UnderQemusNameItTakesQemusOptions) {
  const Outcome help = husk({"-version"}, "/usr/bin/qemu-system-x86_64");
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.output.find("QEMU's options"), std::string::npos) << help.output;
  const Outcome wrong = husk({"-kernle", "x"}, "qemu-system-x86_64");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_TRUE(wrong.errors.starts_with("qemu-system-x86_64: husk has no option '-kernle'")) << wrong.errors;
}

TEST(Program, MistakesGiveOneMessageAndStatusTwo) {
  for (const auto& [arguments, message] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"rum"}, "husk: there is no command 'rum' (did you mean 'run'?); 'husk --help' lists those there are\n"},
           {{"run", "--memroy=1G"},
            "husk run: husk run has no option '--memroy'; the nearest one it has is --memory; 'husk run --help' lists "
            "all\n"},
           {{"qemu", "-m", "x"},
            "husk qemu: -m x: 'x' is not a size; give a number with K, M, G or T after it, such as 512M or 2G\n"},
           {{"doctor", "--yaml"}, "husk doctor: there is no option '--yaml'; it has --json and --help\n"}}) {
    const Outcome outcome = husk(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments[0];
    EXPECT_EQ(outcome.errors, message);
    EXPECT_EQ(outcome.output, "");
  }
}

TEST(Program, WithoutArgumentsItShowsHelpAsAnError) {
  const Outcome outcome = husk({});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.errors.find("husk run"), std::string::npos);
}

TEST(Doctor, ReportsAsJsonWhatItReportsAsText) {
  const Outcome text = husk({"doctor"});
  EXPECT_EQ(text.status, 0);
  for (const char* subject : {"KVM", "CPU", "memory", "hugepages", "kernel", "busybox", "gdb"})
    EXPECT_NE(text.output.find(subject), std::string::npos) << subject;
  const Outcome json = husk({"doctor", "--json"});
  EXPECT_EQ(json.status, 0);
  const auto report = nlohmann::json::parse(json.output, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << json.output;
  EXPECT_GT(report["cpu"]["cores"].get<int>(), 0);
  EXPECT_GT(report["memory"]["total_bytes"].get<std::uint64_t>(), 1u << 20);
  EXPECT_TRUE(report["kernels"].is_array());
}

TEST(Doctor, EveryLackComesWithAStep) {
  DoctorReport bare;
  bare.kvm = probe_kvm(ProbeDepth::measure, "/nonexistent/kvm");
  bare.tools = {{"gdb", "debug a guest", "gdb", ""}};
  const std::string text = to_text(bare);
  std::size_t lacks = 0, steps = 0;
  for (std::size_t at = 0; (at = text.find("[--]", at)) != std::string::npos; ++at) ++lacks;
  for (std::size_t at = 0; (at = text.find("-> ", at)) != std::string::npos; ++at) ++steps;
  EXPECT_GE(lacks, 5u) << text;
  // The number of cores is the one thing that cannot be mended.
  EXPECT_EQ(steps, lacks - 1) << text;
}

TEST(KvmProbe, TellsAnAbsentDeviceFromABrokenOne) {
  EXPECT_EQ(probe_kvm(ProbeDepth::measure, "/nonexistent/kvm").state, KvmReport::State::absent);
  const KvmReport null = probe_kvm(ProbeDepth::measure, "/dev/null");
  EXPECT_EQ(null.state, KvmReport::State::broken);
  EXPECT_NE(null.detail.find("KVM_GET_API_VERSION"), std::string::npos) << null.detail;
}

TEST(KvmProbe, MeasuresThisHostIfItHasKvm) {
  const KvmReport report = probe_kvm(ProbeDepth::measure);
  if (report.state == KvmReport::State::absent || report.state == KvmReport::State::no_access)
    GTEST_SKIP() << "no KVM on this host: " << report.detail;
  if (report.state == KvmReport::State::usable || report.state == KvmReport::State::slow)
    EXPECT_GT(report.million_per_second, 0.1);
  else
    EXPECT_NE(report.detail, "");
}

TEST(KvmProbe, DecidesAsTheLongMeasurementDoes) {
  const KvmReport measured = probe_kvm(ProbeDepth::measure);
  if (measured.million_per_second == 0) GTEST_SKIP() << "no KVM runs on this host: " << measured.detail;
  EXPECT_EQ(probe_kvm(ProbeDepth::decide).state, measured.state);
}

TEST(Versions, AreOrderedAsDpkgOrdersThem) {
  // dpkg --compare-versions agrees with each.
  EXPECT_TRUE(newer_version("6.1.0-28-amd64", "6.1.0-9-amd64"));
  EXPECT_TRUE(newer_version("6.10.1", "6.9.12"));
  EXPECT_TRUE(newer_version("6.1", "6.1~rc3"));
  EXPECT_TRUE(newer_version("6.1.1", "6.1"));
  EXPECT_FALSE(newer_version("6.1", "6.1"));
  EXPECT_FALSE(newer_version("6.1.0-9-amd64", "6.1.0-28-amd64"));
  EXPECT_FALSE(newer_version("6.01", "6.1"));
}

struct GuestFiles : ::testing::Test {
  GuestFiles() {
    char name[] = "/tmp/husk-app-test.XXXXXX";
    directory = ::mkdtemp(name);
    ::mkdir((directory + "/boot").c_str(), 0700);
    ::mkdir((directory + "/guest").c_str(), 0700);
    ::mkdir((directory + "/guest/cloud").c_str(), 0700);
  }
  ~GuestFiles() override {
    for (const char* folder : {"/boot", "/guest/cloud", "/guest", ""}) {
      const auto names = host::list_directory(directory + folder);
      if (names)
        for (const std::string& name : *names) ::unlink((directory + folder + "/" + name).c_str());
      ::rmdir((directory + folder).c_str());
    }
  }
  void put(const std::string& name) { ASSERT_TRUE(host::write_file(directory + name, "x")); }
  std::string directory;
};

TEST_F(GuestFiles, TheNewestKernelOfBootComesFirstThenTheCache) {
  put("/boot/vmlinuz-6.1.0-9-amd64");
  put("/boot/vmlinuz-6.1.0-28-amd64");
  put("/boot/config-6.1.0-28-amd64");
  put("/guest/cloud/vmlinuz");
  const auto kernels = find_kernels(directory + "/boot", {directory + "/guest"});
  ASSERT_EQ(kernels.size(), 3u);
  EXPECT_EQ(kernels[0].version, "6.1.0-28-amd64");
  EXPECT_EQ(kernels[1].version, "6.1.0-9-amd64");
  EXPECT_EQ(kernels[2].path, directory + "/guest/cloud/vmlinuz");
  EXPECT_EQ(default_kernel(directory + "/boot", {}).value(), directory + "/boot/vmlinuz-6.1.0-28-amd64");
}

TEST_F(GuestFiles, WithoutAKernelTheErrorSaysHowToGetOne) {
  const auto kernel = default_kernel(directory + "/boot", {directory + "/guest"});
  ASSERT_FALSE(kernel);
  EXPECT_NE(kernel.error().next_step.find("apt install"), std::string::npos);
}

TEST_F(GuestFiles, ABusyboxThatNeedsLibrariesIsNotTaken) {
  // This test program itself is dynamically linked.
  ASSERT_EQ(::symlink("/proc/self/exe", (directory + "/guest/busybox").c_str()), 0);
  EXPECT_NE(find_busybox({directory + "/guest"}), directory + "/guest/busybox");
}

// The session, in a child with a terminal of its own.
machine::MachineConfig terminal_machine() {
  machine::MachineConfig config;
  config.chardevs = {{.id = "serial0", .kind = chardev::StdioSpec{.signals = false}, .mux = true}};
  return config;
}

/// Runs `body` in a child with a pty as its terminal, standard input and output.
struct TerminalChild {
  template <class Body>
  explicit TerminalChild(Body body) {
    EXPECT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    ::tcgetattr(slave, &before);
    child = ::fork();
    if (child == 0) {
      ::setsid();
      for (const int fd : {0, 1, 2}) ::dup2(slave, fd);
      ::_exit(body());
    }
  }
  ~TerminalChild() {
    ::close(master);
    ::close(slave);
  }
  std::string read_until(std::string_view end) const {
    std::string text;
    while (text.find(end) == std::string::npos) {
      pollfd waiting{master, POLLIN, 0};
      char buffer[256];
      if (::poll(&waiting, 1, 10'000) != 1) break;
      const ssize_t got = ::read(master, buffer, sizeof buffer);
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
  bool raw() const {
    termios now{};
    ::tcgetattr(slave, &now);
    return !(now.c_lflag & (ICANON | ECHO));
  }
  bool restored() const {
    termios now{};
    ::tcgetattr(slave, &now);
    return now.c_lflag == before.c_lflag && now.c_iflag == before.c_iflag && now.c_oflag == before.c_oflag;
  }
  int wait(int flags = 0) const {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, flags), child);
    return status;
  }
  int master = -1, slave = -1;
  pid_t child = -1;
  termios before{};
};

int run_session(machine::MachineConfig config, Dialect dialect = Dialect::run) {
  Ending ending;
  {
    auto session = Session::create(config, {.dialect = dialect});
    if (!session) return 99;
    auto front = (*session)->attach("serial0", {}, "serial port 0");
    if (!front) return 98;
    constexpr std::string_view kText = "running\n";
    (*front)->write({reinterpret_cast<const std::uint8_t*>(kText.data()), kText.size()});
    ending = (*session)->run();
  }
  return conclude(ending, dialect);
}

TEST(Session, CtrlAXQuitsAndGivesTheTerminalBack) {
  const TerminalChild child([] { return run_session(terminal_machine()); });
  child.read_until("running");
  EXPECT_TRUE(child.raw());
  ASSERT_EQ(::write(child.master, "\x01x", 2), 2);
  const int status = child.wait();
  EXPECT_EQ(WEXITSTATUS(status), exit_status({.kind = Ending::Kind::user_quit}, Dialect::run));
  EXPECT_TRUE(child.restored());
}

TEST(Session, ASignalEndsItByThatSignalAndGivesTheTerminalBack) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    const TerminalChild child([] { return run_session(terminal_machine()); });
    child.read_until("running");
    EXPECT_TRUE(child.raw());
    ::kill(child.child, signal);
    const int status = child.wait();
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), signal);
    EXPECT_TRUE(child.restored());
  }
}

TEST(Session, InQemusDialectASignalGivesStatusZero) {
  const TerminalChild child([] { return run_session(terminal_machine(), Dialect::qemu); });
  child.read_until("running");
  ::kill(child.child, SIGTERM);
  const int status = child.wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Session, StoppedItGivesTheTerminalBackAndTakesItAgainWhenContinued) {
  const TerminalChild child([] { return run_session(terminal_machine()); });
  child.read_until("running");
  ::kill(child.child, SIGTSTP);
  EXPECT_TRUE(WIFSTOPPED(child.wait(WUNTRACED)));
  EXPECT_TRUE(child.restored());
  ::kill(child.child, SIGCONT);
  // The answer shows that the loop runs again, which is after the terminal is raw again.
  ASSERT_EQ(::write(child.master, "\x01h", 2), 2);
  EXPECT_NE(child.read_until("Ctrl-A x").find("Ctrl-A x"), std::string::npos);
  EXPECT_TRUE(child.raw());
  ASSERT_EQ(::write(child.master, "\x01x", 2), 2);
  child.wait();
  EXPECT_TRUE(child.restored());
}

TEST(Session, ATimeOutEndsIt) {
  const TerminalChild child([] {
    auto config = terminal_machine();
    config.timeout_ns = 1'000'000;
    return run_session(config);
  });
  EXPECT_EQ(WEXITSTATUS(child.wait()), 124);
  EXPECT_TRUE(child.restored());
}

TEST(Session, TheFirstEndingCountsFromWhicheverThread) {
  machine::MachineConfig config;
  const auto session = Session::create(config, {.dialect = Dialect::run}).value();
  {
    const host::Thread vcpu =
        host::Thread::start("vcpu", [&] { session->end({.kind = Ending::Kind::debug_exit, .status = 33}); }).value();
  }
  session->end({.kind = Ending::Kind::power_off});
  EXPECT_EQ(session->run(), (Ending{.kind = Ending::Kind::debug_exit, .status = 33}));
}

TEST(Session, WaitsForTheFirstClientOfAServerThatWasToldTo) {
  char name[] = "/tmp/husk-session-test.XXXXXX";
  const std::string directory = ::mkdtemp(name);
  machine::MachineConfig config;
  const host::UnixAddress address{directory + "/s"};
  config.chardevs = {{.id = "a", .kind = chardev::SocketSpec{.address = address, .server = true}}};
  {
    const auto session = Session::create(config, {}).value();
    const host::UniqueFd client = host::connect_socket(address).value();
    EXPECT_EQ(session->wait_for_clients(), std::nullopt);
    session->end({.kind = Ending::Kind::power_off});
    EXPECT_EQ(session->run(), Ending{});
  }
  ::rmdir(directory.c_str());
}

TEST(Session, WhatItCannotOpenIsNamed) {
  machine::MachineConfig config;
  config.pid_file = "/nonexistent/pid";
  const auto session = Session::create(config, {});
  ASSERT_FALSE(session);
  EXPECT_NE(session.error().message.find("/nonexistent/pid"), std::string::npos);
}

}  // namespace
}  // namespace husk::app
