// husk: tests of vsock connections as unix sockets, the device's part played by the test
#include "netdev/vsock_sockets.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <vector>

#include "host/socket.h"
#include "host/unique_fd.h"
#include "netdev/run_until.h"

namespace husk::netdev {
namespace {

using core::VsockKind;
using core::VsockPorts;
constexpr VsockPorts kPorts{1000, 50};

struct VsockSocketsTest : ::testing::Test {
  VsockSocketsTest() {
    directory = std::filesystem::path(::testing::TempDir()) / ("husk_vsock_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory);
    path = (directory / "v").string();
    sockets = open_vsock_sockets(*loop, log, domain, path).value();
    sockets->set_callbacks({.incoming = [this](std::uint32_t port, VsockKind) -> std::optional<std::uint32_t> {
                              asked.push_back(port);
                              if (port == 666) return std::nullopt;
                              return 4711;
                            },
                            .readable = [this](VsockPorts) { ++readable; },
                            .forwarded = [this](VsockPorts, std::size_t bytes) { forwarded += bytes; },
                            .gone = [this](VsockPorts) { ++gone; }});
  }
  ~VsockSocketsTest() override {
    sockets.reset();
    std::filesystem::remove_all(directory);
  }
  bool until(const std::function<bool()>& so) { return run_until(*loop, so); }
  void settle() {
    while (loop->run_once(0)) {
    }
  }
  /// A program of the host that serves port 50.
  host::UniqueFd serve(int type) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strcpy(name.sun_path, (path + "_50").c_str());
    host::UniqueFd fd(::socket(AF_UNIX, type, 0));
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
    EXPECT_EQ(::listen(fd.get(), 5), 0);
    return fd;
  }
  std::size_t send(std::string_view text, bool end = false, VsockPorts ports = kPorts) {
    const mem::DomainGuard guard(&domain);
    return sockets->send(ports, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, end);
  }
  /// What the guest reads, "$" for the end and "|" for the end of a message.
  std::string read(std::size_t most = 1000, VsockPorts ports = kPorts) {
    const mem::DomainGuard guard(&domain);
    std::string text(most, 0);
    const auto piece = sockets->read(ports, {reinterpret_cast<std::uint8_t*>(text.data()), text.size()});
    return text.substr(0, piece.bytes) + (piece.end_of_message ? "|" : "") + (piece.ended ? "$" : "");
  }
  static std::string receive(int fd, std::size_t most = 1000) {
    std::string text(most, 0);
    const ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
    return got < 0 ? "nothing" : text.substr(0, static_cast<std::size_t>(got));
  }
  Log log;
  std::unique_ptr<host::EventLoop> loop = host::EventLoop::create().value();
  mem::LockDomain domain;
  std::filesystem::path directory;
  std::string path;
  std::unique_ptr<core::VsockBackend> sockets;
  std::vector<std::uint32_t> asked;
  unsigned readable = 0, gone = 0;
  std::size_t forwarded = 0;
};

TEST_F(VsockSocketsTest, TheGuestReachesWhoeverListensAtThePath) {
  EXPECT_FALSE(sockets->connect(kPorts, VsockKind::stream)) << "nobody yet";
  const auto server = serve(SOCK_STREAM);
  EXPECT_FALSE(sockets->connect(kPorts, VsockKind::seqpacket)) << "another kind";
  ASSERT_TRUE(sockets->connect(kPorts, VsockKind::stream));
  const host::UniqueFd peer(::accept(server.get(), nullptr, nullptr));
  EXPECT_EQ(send("hello"), 5u);
  EXPECT_EQ(receive(peer.get()), "hello");
  EXPECT_EQ(read(), "");
  ASSERT_EQ(::send(peer.get(), "world", 5, 0), 5);
  ASSERT_TRUE(until([&] { return readable == 1; }));
  EXPECT_EQ(read(3), "wor");
  EXPECT_EQ(read(3), "ld");
  EXPECT_EQ(read(3), "");
  // Half a close, and then the whole.
  ::shutdown(peer.get(), SHUT_WR);
  ASSERT_TRUE(until([&] { return readable == 2; }));
  EXPECT_EQ(read(), "$");
  EXPECT_EQ(send("more"), 4u);
  EXPECT_EQ(receive(peer.get()), "more");
  sockets->guest_ended(kPorts);
  EXPECT_EQ(receive(peer.get()), "");
}

TEST_F(VsockSocketsTest, AProgramOfTheHostAsksForAPortByALine) {
  const host::UniqueFd peer = host::connect_socket(host::UnixAddress{path}).value();
  // In pieces, and with the first bytes of the conversation behind.
  for (const char* part : {"CONN", "ECT 2", "2\nhello"}) {
    ASSERT_GT(::send(peer.get(), part, std::strlen(part), 0), 0);
    settle();
  }
  EXPECT_EQ(asked, (std::vector<std::uint32_t>{22}));
  EXPECT_EQ(receive(peer.get()), "nothing");
  const VsockPorts ports{22, 4711};
  sockets->accepted(ports);
  EXPECT_EQ(receive(peer.get()), "OK 4711\n");
  ASSERT_TRUE(until([&] { return readable == 1; }));
  EXPECT_EQ(read(1000, ports), "hello");
  EXPECT_EQ(send("answer", false, ports), 6u);
  EXPECT_EQ(receive(peer.get()), "answer");
}

TEST_F(VsockSocketsTest, WhatIsNoGreetingIsHungUpOn) {
  for (const char* line : {"CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "connect 1\n",
                           "CONNECT 1 2\n", "GET / HTTP/1.1 and so on, for ever and ever", "CONNECT 666\n"}) {
    const host::UniqueFd peer = host::connect_socket(host::UnixAddress{path}).value();
    ASSERT_GT(::send(peer.get(), line, std::strlen(line), 0), 0);
    EXPECT_TRUE(until([&] {
      char byte;
      const ssize_t got = ::recv(peer.get(), &byte, 1, MSG_DONTWAIT);
      return got == 0 || (got < 0 && errno == ECONNRESET);
    })) << line;
  }
  EXPECT_EQ(asked, (std::vector<std::uint32_t>{666})) << "which the guest refused";
}

TEST_F(VsockSocketsTest, ProgramsThatSayNothingAreBounded) {
  std::vector<host::UniqueFd> silent;
  for (unsigned i = 0; i < 100; ++i) {
    silent.push_back(host::connect_socket(host::UnixAddress{path}).value());
    settle();
  }
  char byte;
  EXPECT_EQ(::recv(silent.front().get(), &byte, 1, MSG_DONTWAIT), 0) << "the oldest";
  EXPECT_EQ(::recv(silent.back().get(), &byte, 1, MSG_DONTWAIT), -1) << "the latest";
}

TEST_F(VsockSocketsTest, BytesForASlowProgramWaitAndAreReportedAsTheyGo) {
  const auto server = serve(SOCK_STREAM);
  ASSERT_TRUE(sockets->connect(kPorts, VsockKind::stream));
  const host::UniqueFd peer(::accept(server.get(), nullptr, nullptr));
  std::size_t sent = 0, told = 0;
  const std::string piece(60000, 'x');
  for (unsigned i = 0; i < 30; ++i) {
    told += send(piece);
    sent += piece.size();
  }
  EXPECT_LT(told, sent);
  sockets->guest_ended(kPorts);
  std::size_t got = 0;
  ASSERT_TRUE(until([&] {
    std::string text = receive(peer.get(), 1 << 20);
    if (text != "nothing") got += text.size();
    return got == sent && told + forwarded == sent;
  }));
  settle();
  EXPECT_EQ(receive(peer.get()), "") << "the end, behind everything";
}

TEST_F(VsockSocketsTest, WhatWasSentBeforeACloseStillArrives) {
  const auto server = serve(SOCK_STREAM);
  ASSERT_TRUE(sockets->connect(kPorts, VsockKind::stream));
  const host::UniqueFd peer(::accept(server.get(), nullptr, nullptr));
  const std::string piece(900'000, 'x');
  (void)send(piece);
  {
    const mem::DomainGuard guard(&domain);
    sockets->close(kPorts);
  }
  std::size_t got = 0;
  bool ended = false;
  ASSERT_TRUE(until([&] {
    const std::string text = receive(peer.get(), 1 << 20);
    if (text != "nothing") got += text.size();
    ended = text.empty();
    return ended;
  }));
  EXPECT_EQ(got, piece.size());
}

TEST_F(VsockSocketsTest, AProgramThatGoesIsReported) {
  const auto server = serve(SOCK_STREAM);
  ASSERT_TRUE(sockets->connect(kPorts, VsockKind::stream));
  host::UniqueFd peer(::accept(server.get(), nullptr, nullptr));
  ASSERT_EQ(::send(peer.get(), "bye", 3, 0), 3);
  peer.reset();
  ASSERT_TRUE(until([&] { return gone == 1; }));
  EXPECT_EQ(read(), "bye");
  EXPECT_EQ(read(), "$");
  EXPECT_EQ(send("too late"), 8u) << "nobody waits for credit";
}

TEST_F(VsockSocketsTest, MessagesOfSeqpacketStayWhole) {
  const auto server = serve(SOCK_SEQPACKET);
  ASSERT_TRUE(sockets->connect(kPorts, VsockKind::seqpacket));
  const host::UniqueFd peer(::accept(server.get(), nullptr, nullptr));
  EXPECT_EQ(send("one "), 0u);
  EXPECT_EQ(send("message", true), 11u);
  EXPECT_EQ(send("two", true), 3u);
  EXPECT_EQ(receive(peer.get()), "one message");
  EXPECT_EQ(receive(peer.get()), "two");
  settle();
  ASSERT_EQ(::send(peer.get(), "answer", 6, 0), 6);
  ASSERT_EQ(::send(peer.get(), "second", 6, 0), 6);
  ASSERT_TRUE(until([&] { return readable == 1; }));
  EXPECT_EQ(read(4), "answ");
  EXPECT_EQ(read(4), "er|");
  EXPECT_EQ(read(), "second|");
  EXPECT_EQ(read(), "");
}

}  // namespace
}  // namespace husk::netdev
