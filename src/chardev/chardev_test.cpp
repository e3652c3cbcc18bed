// husk: tests of the character devices, each against a true peer: sockets, pseudo-terminals, files
#include "chardev/chardev.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "chardev/telnet.h"
#include "host/file.h"
#include "host/thread.h"

namespace husk::chardev {
namespace {

using host::EventLoop;
using host::UniqueFd;
using namespace std::string_literals;

constexpr std::uint64_t kSecond = 1'000'000'000;

std::span<const std::uint8_t> bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// A device's end that records what it is told.
struct Front {
  explicit Front(Chardev& device, DomainRunner run = {}) : backend(device.attach(std::move(run), "test").value()) {
    backend->set_callbacks({
        .received =
            [this](std::span<const std::uint8_t> data) {
              input.append(data.begin(), data.end());
              if (auto_credit) backend->set_read_credit(auto_credit);
            },
        .writable = [this] { ++writable; },
        .connection = [this](bool now) { connected = now; },
        .break_received = [this] { ++breaks; },
    });
  }
  std::size_t write(std::string_view text) { return backend->write(bytes(text)); }
  std::unique_ptr<core::CharBackend> backend;
  std::string input;
  std::size_t auto_credit = 0;
  unsigned writable = 0, breaks = 0;
  bool connected = false;
};

struct ChardevTest : ::testing::Test {
  ChardevTest() {
    ::signal(SIGPIPE, SIG_IGN);
    char name[] = "/tmp/husk-chardev-test.XXXXXX";
    directory = ::mkdtemp(name);
  }
  ~ChardevTest() override {
    const auto names = host::list_directory(directory).value();
    for (const std::string& name : names) ::unlink((directory + "/" + name).c_str());
    ::rmdir(directory.c_str());
  }
  std::unique_ptr<Chardev> make(Kind kind, bool mux = false) {
    auto device = Chardev::create(*loop, Spec{.id = "c0", .kind = std::move(kind), .mux = mux},
                                  Environment{.quit = [this] { ++quits; }});
    EXPECT_TRUE(device) << device.error().text();
    return std::move(*device);
  }
  /// Runs the loop until `done`; a test that waits for what never comes fails after ten seconds.
  template <class Done>
  bool run_until(Done done) {
    const std::uint64_t end = host::monotonic_now() + 10 * kSecond;
    while (!done()) {
      if (host::monotonic_now() > end) return false;
      loop->run_once(20'000'000);
    }
    return true;
  }
  /// Runs what is due now.
  void settle() {
    for (int i = 0; i < 8; ++i) loop->run_once(0);
  }
  static std::string read_some(int fd) {
    char buffer[65536];
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    return got > 0 ? std::string(buffer, static_cast<std::size_t>(got)) : std::string();
  }
  /// What arrives at `fd` (nonblocking), until it is `count` bytes.
  std::string read_from(int fd, std::size_t count) {
    std::string text;
    run_until([&] {
      text += read_some(fd);
      return text.size() >= count;
    });
    return text;
  }
  /// What arrives until `end` is in it.
  std::string read_until(int fd, std::string_view end) {
    std::string text;
    run_until([&] {
      text += read_some(fd);
      return text.find(end) != std::string::npos;
    });
    return text;
  }
  UniqueFd connect(const Chardev& device) {
    const std::string text = device.describe();
    EXPECT_TRUE(text.starts_with("tcp:127.0.0.1:")) << text;
    const auto port = static_cast<std::uint16_t>(std::stoi(text.substr(14)));
    return host::connect_socket(host::TcpAddress{"127.0.0.1", port}).value();
  }

  std::unique_ptr<EventLoop> loop = EventLoop::create().value();
  std::string directory;
  int quits = 0;
};

TEST_F(ChardevTest, NullTakesEverythingAndGivesNothing) {
  const auto device = make(NullSpec{});
  Front front(*device);
  front.backend->set_read_credit(100);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(front.write(std::string(1000, 'x')), 1000u);
  settle();
  EXPECT_EQ(front.input, "");
  EXPECT_TRUE(front.connected);
}

TEST_F(ChardevTest, ASecondFrontEndIsRefusedByName) {
  const auto device = make(NullSpec{});
  {
    const Front front(*device);
    const auto second = device->attach({}, "serial port 1");
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().message, "character device 'c0' is in use already, so serial port 1 cannot have it");
  }
  EXPECT_TRUE(device->attach({}, "serial port 1")) << "the first one has left";
}

TEST_F(ChardevTest, FileHoldsWhatWasWrittenAfterTheDeviceIsGone) {
  ASSERT_TRUE(host::write_file(directory + "/out", "old"));
  {
    const auto device = make(FileSpec{.path = directory + "/out"});
    Front front(*device);
    EXPECT_EQ(front.write("hello "), 6u);
    EXPECT_EQ(front.write("world"), 5u);
  }
  EXPECT_EQ(host::read_text(directory + "/out").value(), "hello world");
  {
    const auto device = make(FileSpec{.path = directory + "/out", .append = true});
    Front(*device).write("!");
  }
  EXPECT_EQ(host::read_text(directory + "/out").value(), "hello world!");
}

TEST_F(ChardevTest, FileGivesItsInputAsTheCreditAllows) {
  ASSERT_TRUE(host::write_file(directory + "/in", "0123456789"));
  const auto device = make(FileSpec{.path = directory + "/out", .input_path = directory + "/in"});
  Front front(*device);
  settle();
  EXPECT_EQ(front.input, "");
  front.backend->set_read_credit(4);
  settle();
  EXPECT_EQ(front.input, "0123");
  front.auto_credit = 1;
  front.backend->set_read_credit(1);
  EXPECT_TRUE(run_until([&] { return front.input.size() == 10; }));
  EXPECT_EQ(front.input, "0123456789");
}

TEST_F(ChardevTest, AFileThatCannotBeOpenedIsNamedWithItsDevice) {
  const auto device = Chardev::create(*loop, Spec{.id = "log", .kind = FileSpec{.path = "/nonexistent/x"}});
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().message,
            "character device 'log': cannot create '/nonexistent/x': No such file or directory");
}

TEST_F(ChardevTest, PipesPassBothWays) {
  ASSERT_EQ(::mkfifo((directory + "/p.in").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((directory + "/p.out").c_str(), 0600), 0);
  const auto device = make(PipeSpec{directory + "/p"});
  Front front(*device);
  front.backend->set_read_credit(100);
  const UniqueFd in(::open((directory + "/p.in").c_str(), O_WRONLY | O_NONBLOCK));
  const UniqueFd out(::open((directory + "/p.out").c_str(), O_RDONLY | O_NONBLOCK));
  front.write("from guest");
  EXPECT_EQ(read_from(out.get(), 10), "from guest");
  ASSERT_EQ(::write(in.get(), "to guest", 8), 8);
  EXPECT_TRUE(run_until([&] { return front.input == "to guest"; }));
}

TEST_F(ChardevTest, APipeWithoutFifosSaysHowToMakeThem) {
  const auto device = Chardev::create(*loop, Spec{.id = "p", .kind = PipeSpec{directory + "/none"}});
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().next_step.find("mkfifo"), std::string::npos);
}

TEST_F(ChardevTest, RingKeepsTheLastBytes) {
  const auto device = make(RingSpec{8});
  Front front(*device);
  front.write("abcdef");
  front.write("ghijkl");
  const auto text = [](const std::vector<std::uint8_t>& data) { return std::string(data.begin(), data.end()); };
  EXPECT_EQ(text(device->ring_contents(100, false)), "efghijkl");
  EXPECT_EQ(text(device->ring_contents(3, true)), "efg");
  EXPECT_EQ(text(device->ring_contents(100, true)), "hijkl");
  EXPECT_EQ(text(device->ring_contents(100, true)), "");
}

TEST_F(ChardevTest, UnixServerPassesBothWaysAndServesTheNextClientAfterTheFirst) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  front.backend->set_read_credit(100);
  EXPECT_FALSE(device->ready());
  EXPECT_EQ(front.write("nobody hears this"), 17u);
  settle();
  EXPECT_FALSE(front.connected);
  for (const std::string name : {"first", "second"}) {
    UniqueFd client = host::connect_socket(spec.address).value();
    EXPECT_TRUE(run_until([&] { return front.connected; }));
    EXPECT_TRUE(device->ready());
    front.write("hello " + name);
    EXPECT_EQ(read_from(client.get(), 6 + name.size()), "hello " + name);
    ASSERT_EQ(::write(client.get(), name.data(), name.size()), static_cast<ssize_t>(name.size()));
    EXPECT_TRUE(run_until([&] { return front.input.ends_with(name); }));
    client.reset();
    EXPECT_TRUE(run_until([&] { return !front.connected; }));
  }
}

TEST_F(ChardevTest, AClientThatLeavesWhileTheGuestTakesNoInputIsNoticed) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  front.backend->set_read_credit(1);
  UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_EQ(::write(client.get(), "a", 1), 1);
  EXPECT_TRUE(run_until([&] { return front.input == "a"; }));
  client.reset();
  EXPECT_TRUE(run_until([&] { return !front.connected; }));
}

TEST_F(ChardevTest, WhatAClientSentBeforeItLeftStillArrives) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  front.backend->set_read_credit(1);
  UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_EQ(::write(client.get(), "abc", 3), 3);
  client.reset();
  EXPECT_TRUE(run_until([&] { return front.input == "a"; }));
  settle();
  EXPECT_TRUE(front.connected);
  front.auto_credit = 1;
  front.backend->set_read_credit(1);
  EXPECT_TRUE(run_until([&] { return front.input == "abc" && !front.connected; }));
}

TEST_F(ChardevTest, AReaderThatDoesNotReadStopsTheWriterAndWakesItWhenItReads) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  const UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  std::string sent;
  // Letters in an order that shows any loss, doubling or mix-up.
  const auto next_piece = [&] {
    std::string piece;
    for (std::size_t i = 0; i < 1000; ++i) piece += static_cast<char>('a' + (sent.size() + i) % 23);
    return piece;
  };
  for (;;) {
    const std::string piece = next_piece();
    const std::size_t taken = front.write(piece);
    sent += piece.substr(0, taken);
    ASSERT_LT(sent.size(), 64u << 20) << "the queue has no bound";
    settle();
    if (taken < piece.size()) break;
  }
  EXPECT_EQ(front.writable, 0u);
  std::string got;
  EXPECT_TRUE(run_until([&] {
    got += read_some(client.get());
    return front.writable > 0 && got.size() == sent.size();
  }));
  EXPECT_TRUE(got == sent);
}

TEST_F(ChardevTest, APeerThatLeavesAWriterWaitingLetsItGo) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  while (front.write(std::string(4096, 'x')) == 4096) settle();
  client.reset();
  EXPECT_TRUE(run_until([&] { return front.writable > 0 && !front.connected; }));
  EXPECT_EQ(front.write("more"), 4u) << "output for an absent peer is taken and dropped";
}

TEST_F(ChardevTest, ClientConnectsAndConnectsAgainAfterLosingItsServer) {
  const host::UnixAddress address{directory + "/s"};
  std::optional<host::Listener> listener = host::Listener::listen(address).value();
  const auto device = make(SocketSpec{.address = address, .reconnect_s = 1});
  Front front(*device);
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  std::optional<UniqueFd> server = listener->accept().value();
  ASSERT_TRUE(server);
  server.reset();
  front.backend->set_read_credit(1);
  EXPECT_TRUE(run_until([&] { return !front.connected; }));
  EXPECT_TRUE(run_until([&] { return front.connected; }));
  server = listener->accept().value();
  ASSERT_TRUE(server);
  front.write("again");
  EXPECT_EQ(read_from(server->get(), 5), "again");
}

TEST_F(ChardevTest, ClientWithoutReconnectFailsAtOnceIfNobodyListens) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/none"}};
  const auto device = Chardev::create(*loop, Spec{.id = "s", .kind = spec});
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("cannot connect to unix:" + directory + "/none"), std::string::npos);
}

TEST_F(ChardevTest, TcpServerPassesBothWays) {
  const auto device =
      make(SocketSpec{.address = host::TcpAddress{"127.0.0.1", 0}, .server = true, .wait = false, .no_delay = true});
  EXPECT_TRUE(device->ready());
  Front front(*device);
  front.backend->set_read_credit(100);
  const UniqueFd client = connect(*device);
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  front.write("ping");
  EXPECT_EQ(read_from(client.get(), 4), "ping");
  ASSERT_EQ(::write(client.get(), "pong", 4), 4);
  EXPECT_TRUE(run_until([&] { return front.input == "pong"; }));
}

TEST_F(ChardevTest, TelnetGreetsDoublesIacAndUnderstandsBreak) {
  const auto device = make(SocketSpec{.address = host::TcpAddress{"127.0.0.1", 0}, .server = true, .telnet = true});
  Front front(*device);
  front.backend->set_read_credit(100);
  const UniqueFd client = connect(*device);
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  // RFC 854/856/857/858: IAC WILL ECHO, IAC WILL SGA, IAC WILL BINARY, IAC DO BINARY.
  const std::string greeting = "\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00"s;
  EXPECT_EQ(read_from(client.get(), greeting.size()), greeting);
  front.write(
      "a\xff"
      "b");
  EXPECT_EQ(read_from(client.get(), 4),
            "a\xff\xff"
            "b");
  const std::string sent = "x\xff\xfd\x01\xff\xff\xff\xf3y\r\0z"s;
  ASSERT_EQ(::write(client.get(), sent.data(), sent.size()), static_cast<ssize_t>(sent.size()));
  EXPECT_TRUE(run_until([&] { return front.input.size() >= 5; }));
  EXPECT_EQ(front.input,
            "x\xff"
            "y\rz");
  EXPECT_EQ(front.breaks, 1u);
}

TEST(TelnetDecoder, GivesTheSameDataHoweverTheInputIsCut) {
  // Data, an option, a subnegotiation with a doubled IAC and an SE inside, a NOP, CR NUL, CR LF.
  const std::string input =
      "ab\xff\xfb\x18"
      "c\xff\xfa\x18\xff\xff\xf0\xff\xf0"
      "d\xff\xf1"
      "e\r\0f\r\n"s;
  const std::string expected = "abcde\rf\r\n";
  for (std::size_t cut = 0; cut <= input.size(); ++cut) {
    TelnetDecoder decoder;
    std::vector<std::uint8_t> data;
    decoder.decode(bytes(std::string_view(input).substr(0, cut)), data);
    decoder.decode(bytes(std::string_view(input).substr(cut)), data);
    EXPECT_EQ(std::string(data.begin(), data.end()), expected) << "cut at " << cut;
  }
}

TEST_F(ChardevTest, PtyConnectsWhenItsSlaveIsOpenedAndPassesBothWaysUnchanged) {
  const auto device = make(PtySpec{});
  ASSERT_TRUE(device->describe().starts_with("pty /dev/pts/")) << device->describe();
  Front front(*device);
  front.backend->set_read_credit(100);
  EXPECT_EQ(front.write("nobody"), 6u);
  for (int round = 0; round < 2; ++round) {
    UniqueFd slave(::open(device->describe().substr(4).c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK));
    ASSERT_TRUE(slave);
    EXPECT_TRUE(run_until([&] { return front.connected; }));
    front.write("line\n\x03\x04");
    EXPECT_EQ(read_from(slave.get(), 7), "line\n\x03\x04") << "no line discipline in between";
    front.input.clear();
    ASSERT_EQ(::write(slave.get(), "a\r\n", 3), 3);
    EXPECT_TRUE(run_until([&] { return front.input == "a\r\n"; }));
    slave.reset();
    EXPECT_TRUE(run_until([&] { return !front.connected; }));
  }
}

TEST_F(ChardevTest, LogFileHoldsAllOutputEvenWithoutAPeer) {
  Spec spec{.id = "c0", .kind = SocketSpec{.address = host::UnixAddress{directory + "/s"}, .server = true}};
  spec.log_path = directory + "/log";
  {
    const auto device = Chardev::create(*loop, spec).value();
    Front front(*device);
    front.write("alone ");
    settle();
    const UniqueFd client = host::connect_socket(std::get<SocketSpec>(spec.kind).address).value();
    ASSERT_TRUE(run_until([&] { return front.connected; }));
    front.write("together");
    EXPECT_EQ(read_from(client.get(), 8), "together");
  }
  EXPECT_EQ(host::read_text(directory + "/log").value(), "alone together");
}

TEST_F(ChardevTest, AFullLogDoesNotStopTheDevice) {
  Spec spec{.id = "c0", .kind = FileSpec{.path = directory + "/out"}};
  spec.log_path = "/dev/full";
  std::string warning;
  Log log([&](LogLevel, std::string_view line) { warning = line; });
  {
    const auto device = Chardev::create(*loop, spec, {.quit = {}, .log = &log}).value();
    Front(*device).write("text");
  }
  EXPECT_EQ(host::read_text(directory + "/out").value(), "text");
  EXPECT_EQ(warning, "character device 'c0': cannot write its log file: No space left on device; make room there");
}

TEST_F(ChardevTest, AFirstByteGoesOutWithoutWaitingForMore) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  Front front(*device);
  const UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  settle();
  front.write("x");
  loop->run_once(0);  // one round, without time passing
  EXPECT_EQ(read_some(client.get()), "x");
}

TEST_F(ChardevTest, CallbacksRunInsideTheDomain) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  bool inside = false, all_inside = true;
  unsigned calls = 0;
  const auto backend = device
                           ->attach(
                               [&](const std::function<void()>& function) {
                                 inside = true;
                                 function();
                                 inside = false;
                               },
                               "test")
                           .value();
  const auto check = [&] {
    ++calls;
    all_inside = all_inside && inside;
  };
  backend->set_callbacks({.received = [&](auto) { check(); },
                          .writable = check,
                          .connection = [&](bool) { check(); },
                          .break_received = check});
  backend->set_read_credit(10);
  const UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_EQ(::write(client.get(), "x", 1), 1);
  EXPECT_TRUE(run_until([&] { return calls >= 2; }));
  EXPECT_TRUE(all_inside);
}

TEST_F(ChardevTest, AThreadThatWritesByteByByteLosesNothing) {
  const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
  const auto device = make(spec);
  std::mutex domain;
  Front front(*device, [&](const std::function<void()>& function) {
    const std::lock_guard guard(domain);
    function();
  });
  front.auto_credit = 16;
  front.backend->set_read_credit(16);
  const UniqueFd client = host::connect_socket(spec.address).value();
  ASSERT_TRUE(run_until([&] { return front.connected; }));
  constexpr std::size_t kTotal = 300'000;
  std::atomic<bool> done = false;
  host::Thread writer = host::Thread::start("writer", [&] {
                          for (std::size_t i = 0; i < kTotal;) {
                            const std::lock_guard guard(domain);
                            const char byte = static_cast<char>('a' + i % 23);
                            i += front.write({&byte, 1});
                          }
                          done = true;
                        }).value();
  std::string got;
  std::size_t sent_back = 0;
  EXPECT_TRUE(run_until([&] {
    got += read_some(client.get());
    while (sent_back < got.size()) {
      const ssize_t count = ::write(client.get(), got.data() + sent_back, got.size() - sent_back);
      if (count <= 0) break;
      sent_back += static_cast<std::size_t>(count);
    }
    const std::lock_guard guard(domain);
    return done && got.size() == kTotal && front.input.size() == kTotal;
  }));
  ASSERT_EQ(got.size(), kTotal);
  for (std::size_t i = 0; i < kTotal; ++i) ASSERT_EQ(got[i], static_cast<char>('a' + i % 23)) << "at " << i;
  EXPECT_TRUE(front.input == got);
}

TEST_F(ChardevTest, ADeviceMayOutliveItsBackend) {
  auto device = make(SocketSpec{.address = host::UnixAddress{directory + "/s"}, .server = true});
  Front front(*device);
  device.reset();
  EXPECT_EQ(front.write("text"), 4u);
  front.backend->set_read_credit(1);
  front.backend->send_break();
  settle();
}

TEST_F(ChardevTest, ASetRefusesTwoDevicesOfOneNameAndTwoOnStdio) {
  const Spec null{.id = "a", .kind = NullSpec{}};
  const std::vector<Spec> same{null, null};
  const auto set = ChardevSet::create(*loop, same, {});
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().message, "two character devices have the id 'a'");
  const std::vector<Spec> stdio{{.id = "a", .kind = StdioSpec{}}, {.id = "b", .kind = StdioSpec{}}};
  const auto both = ChardevSet::create(*loop, stdio, {});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().message, "character devices 'a' and 'b' both want standard input and output");
  const std::vector<Spec> different{{.id = "a", .kind = NullSpec{}}, {.id = "b", .kind = PtySpec{}}};
  const auto good = ChardevSet::create(*loop, different, {});
  ASSERT_TRUE(good);
  EXPECT_EQ(good->find("b")->id(), "b");
  EXPECT_EQ(good->find("c"), nullptr);
}

// The multiplexer, on a unix socket.
struct MuxTest : ChardevTest {
  MuxTest() {
    const SocketSpec spec{.address = host::UnixAddress{directory + "/s"}, .server = true};
    device = make(spec, true);
    guest.emplace(*device);
    guest->backend->set_read_credit(1000);
    client = host::connect_socket(spec.address).value();
    EXPECT_TRUE(run_until([&] { return guest->connected; }));
  }
  void type(std::string_view text) {
    ASSERT_EQ(::write(client.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::unique_ptr<Chardev> device;
  std::optional<Front> guest;
  UniqueFd client;
};

TEST_F(MuxTest, PassesTextBothWays) {
  type("hello");
  EXPECT_TRUE(run_until([&] { return guest->input == "hello"; }));
  guest->write("world");
  EXPECT_EQ(read_from(client.get(), 5), "world");
}

TEST_F(MuxTest, CtrlAXQuitsEvenIfTheGuestTakesNoInput) {
  guest->backend->set_read_credit(0);
  type("stuck\x01x");
  EXPECT_TRUE(run_until([&] { return quits == 1; }));
}

TEST_F(MuxTest, CtrlATwiceIsOneForTheGuestAndUnknownCommandsAreEaten) {
  type(
      "a\x01\x01"
      "b\x01zc");
  EXPECT_TRUE(run_until([&] { return guest->input.size() >= 4; }));
  EXPECT_EQ(guest->input,
            "a\x01"
            "bc");
}

TEST_F(MuxTest, ACommandMayArriveInTwoPieces) {
  type("\x01");
  settle();
  type("x");
  EXPECT_TRUE(run_until([&] { return quits == 1; }));
  EXPECT_EQ(guest->input, "");
}

TEST_F(MuxTest, CtrlAHShowsEveryCommand) {
  type("\x01h");
  const std::string help = read_until(client.get(), "Ctrl-A Ctrl-A");
  for (const char* command : {"Ctrl-A h", "Ctrl-A x", "Ctrl-A c", "Ctrl-A b", "Ctrl-A Ctrl-A"})
    EXPECT_NE(help.find(command), std::string::npos) << command;
}

TEST_F(MuxTest, CtrlABSendsABreak) {
  type(
      "\x01"
      "b");
  EXPECT_TRUE(run_until([&] { return guest->breaks == 1; }));
}

TEST_F(MuxTest, CtrlACSwitchesInputToTheNextFrontEndAndBack) {
  Front monitor(*device);
  monitor.backend->set_read_credit(100);
  type(
      "1\x01"
      "c2\x01"
      "c3");
  EXPECT_TRUE(run_until([&] { return guest->input == "13" && monitor.input == "2"; }));
  monitor.write("(husk)");
  EXPECT_NE(read_until(client.get(), "(husk)").find("(husk)"), std::string::npos) << "output needs no focus";
}

TEST_F(MuxTest, CtrlACWithNothingToSwitchToSaysSo) {
  type(
      "\x01"
      "c");
  EXPECT_NE(read_until(client.get(), "nothing else").find("nothing else"), std::string::npos);
}

TEST_F(MuxTest, InputWaitsForTheGuestWithoutLoss) {
  guest->backend->set_read_credit(0);
  std::string script;
  for (int i = 0; i < 20'000; ++i) script += "line " + std::to_string(i) + "\n";
  std::size_t typed = 0;
  guest->auto_credit = 16;
  bool begun = false;
  EXPECT_TRUE(run_until([&] {
    const ssize_t count = ::write(client.get(), script.data() + typed, script.size() - typed);
    if (count > 0) typed += static_cast<std::size_t>(count);
    // All is sent, or all the queues on the way are full: only now the guest begins to read.
    else if (!std::exchange(begun, true))
      guest->backend->set_read_credit(1);
    return guest->input.size() == script.size();
  }));
  EXPECT_TRUE(guest->input == script) << guest->input.size() << " of " << script.size() << " bytes";
}

TEST_F(MuxTest, OutputOfAFloodArrivesWhole) {
  std::string sent, got;
  EXPECT_TRUE(run_until([&] {
    while (sent.size() < 500'000) {
      const std::string line = "line " + std::to_string(sent.size()) + "\n";
      const std::size_t taken = guest->write(line);
      sent += line.substr(0, taken);
      if (taken < line.size()) break;
    }
    got += read_some(client.get());
    return sent.size() >= 500'000 && got.size() == sent.size();
  }));
  EXPECT_TRUE(got == sent);
}

// Standard input and output can only be tested in a process of its own.
struct StdioTest : ::testing::Test {
  /// Runs `body` in a child with `fd` as standard input and output.
  template <class Body>
  static pid_t child_with(int fd, Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::signal(SIGPIPE, SIG_IGN);
      ::dup2(fd, 0);
      ::dup2(fd, 1);
      ::_exit(body());
    }
    return child;
  }
  /// Echoes what it reads in upper case, until 'q' or Ctrl-A x.
  static int echo(bool mux) {
    const auto loop = EventLoop::create().value();
    bool quit = false;
    {
      const auto device = Chardev::create(*loop, Spec{.id = "stdio", .kind = StdioSpec{.signals = false}, .mux = mux},
                                          Environment{.quit = [&] { quit = true; }})
                              .value();
      const auto backend = device->attach({}, "test").value();
      backend->set_callbacks({.received =
                                  [&](std::span<const std::uint8_t> data) {
                                    for (const std::uint8_t byte : data) {
                                      const auto upper = static_cast<std::uint8_t>(::toupper(byte));
                                      backend->write({&upper, 1});
                                      quit = quit || byte == 'q';
                                    }
                                    backend->set_read_credit(1);
                                  },
                              .writable = {},
                              .connection = {},
                              .break_received = {}});
      backend->set_read_credit(1);
      backend->write(bytes("ready\n"));
      while (!quit) loop->run_once();
    }
    return 7;
  }
  static std::string read_until(int fd, std::string_view end) {
    std::string text;
    while (text.find(end) == std::string::npos) {
      pollfd waiting{fd, POLLIN, 0};
      char buffer[256];
      if (::poll(&waiting, 1, 10'000) != 1) break;
      const ssize_t got = ::read(fd, buffer, sizeof buffer);
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
};

TEST_F(StdioTest, ATerminalIsRawWhileInUseAndAsBeforeAfterwards) {
  int master, slave;
  ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  termios before{}, during{}, after{};
  ::tcgetattr(slave, &before);
  const pid_t child = child_with(slave, [] { return echo(true); });
  EXPECT_NE(read_until(master, "\n").find("ready\r\n"), std::string::npos) << "output processing stays on";
  ::tcgetattr(slave, &during);
  EXPECT_FALSE(during.c_lflag & (ICANON | ECHO | ISIG));
  ASSERT_EQ(::write(master, "ab\x03", 3), 3);
  EXPECT_NE(read_until(master, "\x03").find("AB\x03"), std::string::npos) << "Ctrl-C reaches the guest";
  ASSERT_EQ(::write(master, "\x01x", 2), 2);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  ::tcgetattr(slave, &after);
  EXPECT_EQ(after.c_lflag, before.c_lflag);
  EXPECT_EQ(after.c_iflag, before.c_iflag);
  EXPECT_FALSE(::fcntl(slave, F_GETFL) & O_NONBLOCK) << "the shell's descriptor must not become nonblocking";
  ::close(master);
  ::close(slave);
}

TEST_F(StdioTest, SocketsWorkAndAreSetBack) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  const pid_t child = child_with(fds[1], [] { return echo(false); });
  EXPECT_EQ(read_until(fds[0], "\n"), "ready\n");
  ASSERT_EQ(::write(fds[0], "script q", 8), 8);
  EXPECT_EQ(read_until(fds[0], "Q"), "SCRIPT Q");
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  ::close(fds[0]);
  ::close(fds[1]);
}

}  // namespace
}  // namespace husk::chardev
