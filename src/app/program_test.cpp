// husk: tests of the whole program with guests of a few bytes: output, exit status, the terminal
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "host/file.h"

namespace husk::app {
namespace {

using namespace std::string_literals;

/// 16-bit code that prints "running" on COM1 and goes on with `code`, as a ROM that starts at the reset vector.
std::string rom_of(const std::string& code) {
  std::string rom(0x10000, '\x90');
  constexpr std::size_t kEntry = 0x8000, kVector = 0xfff0;
  std::string body = "\xba\xf8\x03"s;                                         // mov dx, 0x3f8
  for (const char letter : "running\n"s) body += "\xb0"s + letter + "\xee"s;  // mov al, letter; out dx, al
  body += code;
  rom.replace(kEntry, body.size(), body);
  const auto jump = static_cast<std::uint16_t>(kEntry - (kVector + 3));
  rom[kVector] = '\xe9';  // jmp near
  rom[kVector + 1] = static_cast<char>(jump & 0xff);
  rom[kVector + 2] = static_cast<char>(jump >> 8);
  return rom;
}
const std::string kLoop = "\xeb\xfe"s;                           // jmp $
const std::string kDebugExit = "\xb0\x10\xe6\xf4\xeb\xfe"s;      // mov al, 0x10; out 0xf4, al
const std::string kReset = "\xba\xf9\x0c\xb0\x06\xee\xeb\xfe"s;  // mov dx, 0xcf9; mov al, 6; out dx, al
// lidt of a word of zeros in memory: no vector is within the limit, so int3 is a triple fault.
const std::string kTripleFault = "\x0f\x01\x1e\x00\x00\xcc"s;
// Prints what it reads: in al, dx of the line status, test for data, read, write back.
const std::string kEcho =
    "\xba\xfd\x03"  // 0: mov dx, 0x3fd
    "\xec"          // 3: in al, dx
    "\xa8\x01"      // 4: test al, 1
    "\x74\xfb"      // 6: jz 3
    "\xba\xf8\x03"  // 8: mov dx, 0x3f8
    "\xec"          // 11: in al, dx
    "\xee"          // 12: out dx, al
    "\xeb\xf1"s;    // 13: jmp 0

struct ProgramTest : ::testing::Test {
  ProgramTest() {
    char name[] = "/tmp/husk-program-test.XXXXXX";
    directory = ::mkdtemp(name);
  }
  ~ProgramTest() override {
    for (const char* name : {"/rom", "/log"}) ::unlink((directory + name).c_str());
    ::rmdir(directory.c_str());
  }
  std::string rom(const std::string& code) {
    EXPECT_TRUE(host::write_file(directory + "/rom", rom_of(code)));
    return directory + "/rom";
  }
  /// Starts the program on a new terminal.
  void start(std::vector<std::string> arguments) {
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    ::tcgetattr(slave, &before);
    child = ::fork();
    if (child == 0) {
      ::setsid();
      for (const int fd : {0, 1, 2}) ::dup2(slave, fd);
      ::close(master);
      ::close(slave);
      std::vector<char*> words{const_cast<char*>("husk")};
      for (std::string& argument : arguments) words.push_back(argument.data());
      words.push_back(nullptr);
      ::execv(HUSK_PROGRAM, words.data());
      ::_exit(127);
    }
  }
  void type(std::string_view text) const {
    ASSERT_EQ(::write(master, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string read_until(std::string_view end) const {
    std::string text;
    while (text.find(end) == std::string::npos) {
      pollfd waiting{master, POLLIN, 0};
      char buffer[256];
      if (::poll(&waiting, 1, 60'000) != 1) break;
      const ssize_t got = ::read(master, buffer, sizeof buffer);
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
  bool has_mode_of_before() const {
    termios now{};
    ::tcgetattr(slave, &now);
    return now.c_lflag == before.c_lflag && now.c_iflag == before.c_iflag && now.c_oflag == before.c_oflag;
  }
  /// The wait status; closes the terminal's ends.
  int wait() {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(has_mode_of_before()) << "the terminal was not restored";
    // What is left unread, for messages.
    ::fcntl(master, F_SETFL, O_NONBLOCK);
    left.clear();
    char buffer[4096];
    for (ssize_t got; (got = ::read(master, buffer, sizeof buffer)) > 0;)
      left.append(buffer, static_cast<std::size_t>(got));
    ::close(master);
    ::close(slave);
    return status;
  }
  int exit_of(std::vector<std::string> arguments) {
    start(std::move(arguments));
    const int status = wait();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }
  std::string directory;
  int master = -1, slave = -1;
  pid_t child = -1;
  termios before{};
  std::string left;
};

TEST_F(ProgramTest, DebugExitGivesTheGuestsStatusAfterItsOutput) {
  EXPECT_EQ(exit_of({"run", "--bios", rom(kDebugExit), "--device", "isa-debug-exit,iobase=0xf4,iosize=1"}),
            0x10 * 2 + 1);
  const std::size_t output = left.find("running"), message = left.find("husk: the guest ended husk with status 33");
  EXPECT_NE(output, std::string::npos) << left;
  EXPECT_NE(message, std::string::npos) << left;
  EXPECT_LT(output, message);
  EXPECT_EQ(left.find("husk:", message + 1), std::string::npos) << "said twice";
}

TEST_F(ProgramTest, EndingsHaveTheirStatus) {
  EXPECT_EQ(exit_of({"run", "--bios", rom(kReset), "--no-reboot"}), 4);
  EXPECT_EQ(exit_of({"run", "--bios", rom(kTripleFault)}), 8);
  EXPECT_EQ(exit_of({"run", "--bios", rom(kLoop), "--timeout", "200ms"}), 124);
  EXPECT_EQ(exit_of({"run", "--bios", directory + "/none"}), 2);
}

TEST_F(ProgramTest, QemusDialectGivesQemusStatus) {
  EXPECT_EQ(exit_of({"qemu", "-nographic", "-bios", rom(kReset), "-no-reboot"}), 0);
  EXPECT_EQ(exit_of({"qemu", "-nographic", "-bios", rom(kTripleFault), "-no-reboot"}), 0);
  EXPECT_EQ(
      exit_of({"qemu", "-nographic", "-bios", rom(kDebugExit), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"}),
      33);
}

TEST_F(ProgramTest, KeysReachTheGuestAndItsAnswersTheTerminal) {
  start({"run", "--bios", rom(kEcho)});
  EXPECT_NE(read_until("running").find("running"), std::string::npos);
  type("abc\x03xyz");  // Ctrl-C is for the guest
  EXPECT_NE(read_until("xyz").find("abc\x03xyz"), std::string::npos);
  type("\x01x");
  const int status = wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 12);
}

TEST_F(ProgramTest, ASignalIsTheCauseOfDeathAndTheTerminalIsRestored) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    start({"run", "--bios", rom(kLoop)});
    read_until("running");
    EXPECT_FALSE(has_mode_of_before());
    ::kill(child, signal);
    const int status = wait();
    ASSERT_TRUE(WIFSIGNALED(status)) << signal;
    EXPECT_EQ(WTERMSIG(status), signal);
  }
}

TEST_F(ProgramTest, ASerialPortMayLeadToAFile) {
  EXPECT_EQ(exit_of({"run", "--bios", rom(kDebugExit), "--console", "file:" + directory + "/log", "--device",
                     "isa-debug-exit,iobase=0xf4,iosize=1"}),
            33);
  EXPECT_EQ(host::read_text(directory + "/log").value(), "running\n");
}

}  // namespace
}  // namespace husk::app
