// husk: tests of files, mappings, sockets and the terminal
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "host/file.h"
#include "host/mmap.h"
#include "host/signals.h"
#include "host/socket.h"
#include "host/terminal.h"

namespace husk::host {
namespace {

/// A directory of its own for each test, removed with it.
struct TemporaryDirectory {
  TemporaryDirectory() {
    char name[] = "/tmp/husk-host-test.XXXXXX";
    path = ::mkdtemp(name);
  }
  ~TemporaryDirectory() {
    const auto names = list_directory(path);
    if (names)
      for (const std::string& name : *names) ::unlink((path + "/" + name).c_str());
    ::rmdir(path.c_str());
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::string path;
};

TEST(File, WritesAndReadsBack) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(write_file(directory / "f", "hello"));
  ASSERT_TRUE(write_file(directory / "f", "hello again"));
  EXPECT_EQ(read_text(directory / "f").value(), "hello again");
  EXPECT_EQ(list_directory(directory.path).value(), std::vector<std::string>{"f"}) << "no temporary file is left";
}

TEST(File, ErrorsNameThePathAndTheCause) {
  const auto missing = read_file("/nonexistent/file", 10);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "cannot read '/nonexistent/file': No such file or directory");
  const auto directory = read_file("/tmp", 10);
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().message, "cannot read '/tmp': it is a directory");
}

TEST(File, RefusesWhatIsLongerThanAllowedAndWhatHasNoEnd) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(write_file(directory / "f", std::string(100, 'x')));
  EXPECT_TRUE(read_file(directory / "f", 100));
  EXPECT_FALSE(read_file(directory / "f", 99));
  EXPECT_FALSE(read_file("/dev/zero", 1000));
}

TEST(File, ReadsFilesThatSayTheyAreEmpty) {
  const auto status = read_text("/proc/self/status");
  ASSERT_TRUE(status);
  EXPECT_NE(status->find("Pid:"), std::string::npos);
}

TEST(PidFile, HoldsThisProcessAndRefusesASecondHolder) {
  const TemporaryDirectory directory;
  {
    const auto pid_file = PidFile::create(directory / "pid");
    ASSERT_TRUE(pid_file);
    EXPECT_EQ(read_text(directory / "pid").value(), std::to_string(::getpid()) + "\n");
    const auto second = PidFile::create(directory / "pid");
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message.find("running process"), std::string::npos);
  }
  EXPECT_FALSE(is_readable(directory / "pid"));
}

TEST(Mmap, MapsFilesAndAnonymousMemory) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(write_file(directory / "f", "content"));
  ASSERT_TRUE(write_file(directory / "empty", ""));
  const Mmap file = Mmap::file(directory / "f").value();
  EXPECT_EQ(std::string(file.bytes().begin(), file.bytes().end()), "content");
  EXPECT_EQ(Mmap::file(directory / "empty").value().size(), 0u);
  EXPECT_FALSE(Mmap::file(directory.path));
  Mmap memory = Mmap::anonymous(1 << 20).value();
  EXPECT_EQ(memory.bytes()[12345], 0);
  memory.bytes()[12345] = 1;
  EXPECT_FALSE(Mmap::anonymous(~std::size_t{0} / 2)) << "more than an address space holds";
}

TEST(Socket, UnixListenerAcceptsAndRemovesItsFile) {
  const TemporaryDirectory directory;
  const UnixAddress address{directory / "s"};
  {
    Listener listener = Listener::listen(address).value();
    EXPECT_FALSE(listener.accept().value()) << "nobody is there yet";
    const UniqueFd client = connect_socket(address).value();
    const std::optional<UniqueFd> server = listener.accept().value();
    ASSERT_TRUE(server);
    ASSERT_EQ(::write(client.get(), "hi", 2), 2);
    char buffer[4];
    EXPECT_EQ(::read(server->get(), buffer, 4), 2);
  }
  EXPECT_FALSE(is_readable(address.path));
}

TEST(Socket, ReplacesAStaleUnixSocketButNotOneInUseNorAFile) {
  const TemporaryDirectory directory;
  {
    // A listener that dies without removing its file: bound by hand.
    Listener listener = Listener::listen(UnixAddress{directory / "live"}).value();
    EXPECT_FALSE(Listener::listen(UnixAddress{directory / "live"}));
    ASSERT_EQ(::rename((directory / "live").c_str(), (directory / "stale").c_str()), 0);
  }
  EXPECT_TRUE(Listener::listen(UnixAddress{directory / "stale"}));
  ASSERT_TRUE(write_file(directory / "file", "precious"));
  EXPECT_FALSE(Listener::listen(UnixAddress{directory / "file"}));
  EXPECT_EQ(read_text(directory / "file").value(), "precious");
}

TEST(Socket, RefusesAUnixPathThatIsTooLongAndSaysTheLimit) {
  const auto listener = Listener::listen(UnixAddress{std::string(200, 'p')});
  ASSERT_FALSE(listener);
  EXPECT_NE(listener.error().message.find("allows 107"), std::string::npos) << listener.error().message;
}

TEST(Socket, TcpChoosesAPortAndConnects) {
  Listener listener = Listener::listen(TcpAddress{"127.0.0.1", 0}).value();
  const auto address = std::get<TcpAddress>(listener.address());
  EXPECT_NE(address.port, 0);
  const UniqueFd client = connect_socket(address).value();
  pollfd waiting{listener.fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 5000), 1);
  EXPECT_TRUE(listener.accept().value());
}

TEST(Socket, ARefusedConnectionNamesTheAddress) {
  std::uint16_t port;
  {
    const Listener listener = Listener::listen(TcpAddress{"127.0.0.1", 0}).value();
    port = std::get<TcpAddress>(listener.address()).port;
  }
  const auto client = connect_socket(TcpAddress{"127.0.0.1", port});
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().message, fmt::format("cannot connect to tcp:127.0.0.1:{}: Connection refused", port));
  const auto local = connect_socket(UnixAddress{"/nonexistent/socket"});
  ASSERT_FALSE(local);
  EXPECT_EQ(local.error().message, "cannot connect to unix:/nonexistent/socket: No such file or directory");
}

// Terminal tests: the child has a pty as its terminal; the parent looks at the mode through the master.
struct Pty {
  Pty() { EXPECT_EQ(::openpty(&master_fd, &slave_fd, nullptr, nullptr, nullptr), 0); }
  ~Pty() {
    ::close(master_fd);
    ::close(slave_fd);
  }
  termios mode() const {
    termios now{};
    EXPECT_EQ(::tcgetattr(slave_fd, &now), 0);
    return now;
  }
  bool raw() const { return !(mode().c_lflag & (ICANON | ECHO)); }
  int master_fd = -1, slave_fd = -1;
};

TEST(RawTerminal, RestoresTheModeWhenTheObjectGoes) {
  const Pty pty;
  const termios before = pty.mode();
  {
    auto terminal = RawTerminal::enter(pty.slave_fd, false);
    ASSERT_TRUE(terminal);
    EXPECT_TRUE(pty.raw());
    EXPECT_FALSE(pty.mode().c_lflag & ISIG);
    EXPECT_TRUE(pty.mode().c_oflag & OPOST);
    terminal->suspend();
    EXPECT_FALSE(pty.raw());
    terminal->resume();
    EXPECT_TRUE(pty.raw());
  }
  EXPECT_EQ(pty.mode().c_lflag, before.c_lflag);
  EXPECT_EQ(pty.mode().c_iflag, before.c_iflag);
}

TEST(RawTerminal, KeepsSignalKeysIfAsked) {
  const Pty pty;
  const auto terminal = RawTerminal::enter(pty.slave_fd, true);
  ASSERT_TRUE(terminal);
  EXPECT_TRUE(pty.mode().c_lflag & ISIG);
  EXPECT_TRUE(pty.raw());
}

TEST(RawTerminal, RefusesWhatIsNotATerminal) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  EXPECT_FALSE(RawTerminal::enter(fds[0], false));
  ::close(fds[0]);
  ::close(fds[1]);
}

/// Enters raw mode in a child, tells so through a pipe, does `act`; returns the child's wait status.
template <class Act>
int in_child(const Pty& pty, Act act) {
  int ready[2];
  EXPECT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto terminal = RawTerminal::enter(pty.slave_fd, false);
    if (!terminal) ::_exit(99);
    const char yes = 1;
    if (::write(ready[1], &yes, 1) != 1) ::_exit(98);
    act();
    for (;;) ::pause();
  }
  ::close(ready[1]);
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  return child;
}

class RawTerminalDeath : public ::testing::TestWithParam<int> {};

TEST_P(RawTerminalDeath, RestoresTheModeWhenASignalKillsTheProcess) {
  const Pty pty;
  const int child = in_child(pty, [] {});
  EXPECT_TRUE(pty.raw());
  ASSERT_EQ(::kill(child, GetParam()), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_FALSE(pty.raw());
  // A sanitizer's own handler, which gets the synchronous ones after ours, exits instead.
  EXPECT_TRUE(WIFSIGNALED(status) ? WTERMSIG(status) == GetParam() : WEXITSTATUS(status) != 0);
}
INSTANTIATE_TEST_SUITE_P(Signals, RawTerminalDeath,
                         ::testing::Values(SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM, SIGINT, SIGHUP, SIGQUIT),
                         [](const auto& death) { return std::string(::sigabbrev_np(death.param)); });

TEST(RawTerminal, RestoresTheModeOnExitWithoutDestructors) {
  const Pty pty;
  const int child = in_child(pty, [] { std::exit(3); });
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_FALSE(pty.raw());
}

TEST(DieBySignal, ShowsTheTrueCauseToTheParent) {
  const pid_t child = ::fork();
  if (child == 0) die_by_signal(SIGTERM);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
}

}  // namespace
}  // namespace husk::host
