// husk: tests of networks over sockets: frames between two cards, peers that come, go, stall and lie
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "base/bits.h"
#include "netdev/capture.h"
#include "netdev/dgram.h"
#include "netdev/fd_backend.h"
#include "netdev/run_until.h"
#include "netdev/stream.h"

namespace husk::netdev {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// A card on a network.
struct Card {
  void plug(std::unique_ptr<core::NetBackend> network) {
    wire = std::move(network);
    const mem::DomainGuard guard(&domain);
    wire->set_callbacks({[this](std::span<const std::uint8_t> frame, const core::NetOffload&) {
                           if (room == 0) return false;
                           --room;
                           received.emplace_back(frame.begin(), frame.end());
                           return true;
                         },
                         [this](bool up) { links.push_back(up); }});
  }
  void send(const Bytes& frame) {
    const mem::DomainGuard guard(&domain);
    wire->send(frame, {});
  }
  void make_room(std::size_t frames) {
    const mem::DomainGuard guard(&domain);
    room = frames;
    wire->ready_to_receive();
  }
  mem::LockDomain domain;
  std::size_t room = 1'000'000;
  std::vector<Bytes> received;
  std::vector<bool> links;
  std::unique_ptr<core::NetBackend> wire;
};

struct Sockets : ::testing::Test {
  Sockets() {
    directory = std::filesystem::path(::testing::TempDir()) / ("husk_net_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory);
  }
  ~Sockets() override {
    for (Card* card : {&one, &two}) card->wire.reset();
    std::filesystem::remove_all(directory);
  }
  bool until(const std::function<bool()>& so) { return run_until(*loop, so); }
  std::string path(const char* name) const { return (directory / name).string(); }
  void plug_stream(Card& card, StreamOptions options) {
    card.plug(open_stream(*loop, log, card.domain, std::move(options)).value());
  }
  void plug_dgram(Card& card, DgramOptions options) {
    card.plug(open_dgram(*loop, log, card.domain, std::move(options)).value());
  }
  static Bytes frame(std::size_t size, unsigned seed) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + seed);
    return bytes;
  }
  /// Many frames of many sizes from one to the other arrive whole and in order.
  void expect_carries(Card& from, Card& to) {
    std::vector<Bytes> sent;
    for (unsigned i = 0; i < 50; ++i) {
      sent.push_back(frame(14 + i * 60, i));
      from.send(sent.back());
    }
    EXPECT_TRUE(until([&] { return to.received.size() >= sent.size(); }));
    EXPECT_EQ(to.received, sent);
  }
  Log log;
  std::unique_ptr<host::EventLoop> loop = host::EventLoop::create().value();
  std::filesystem::path directory;
  Card one, two;
};

TEST_F(Sockets, AStreamCarriesFramesBothWays) {
  plug_stream(one, {.address = host::UnixAddress{path("s")}, .server = true});
  plug_stream(two, {.address = host::UnixAddress{path("s")}});
  ASSERT_TRUE(until([&] { return one.wire->link_up(); }));
  EXPECT_EQ(one.links, std::vector<bool>{true});
  expect_carries(one, two);
  expect_carries(two, one);
}

TEST_F(Sockets, AFrameOnAStreamFollowsItsLengthInNetworkOrder) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const host::UniqueFd peer(ends[0]);
  plug_stream(one, {.descriptor = ends[1]});
  one.send({1, 2, 3});
  Bytes got(16);
  ASSERT_EQ(::recv(peer.get(), got.data(), got.size(), 0), 7);
  got.resize(7);
  EXPECT_EQ(got, (Bytes{0, 0, 0, 3, 1, 2, 3}));
  // Byte by byte the other way: two frames, one of them empty, which is none.
  for (const std::uint8_t byte : Bytes{0, 0, 0, 2, 8, 9, 0, 0, 0, 0, 0, 0, 0, 1, 7}) {
    ASSERT_EQ(::send(peer.get(), &byte, 1, 0), 1);
    loop->run_once(1'000'000'000);
  }
  EXPECT_EQ(one.received, (std::vector<Bytes>{{8, 9}, {7}}));
}

TEST_F(Sockets, AStreamHoldsFramesBackWhileTheCardHasNoRoom) {
  plug_stream(one, {.address = host::UnixAddress{path("s")}, .server = true});
  plug_stream(two, {.address = host::UnixAddress{path("s")}});
  ASSERT_TRUE(until([&] { return one.wire->link_up(); }));
  two.room = 3;
  for (unsigned i = 0; i < 10; ++i) one.send(frame(100, i));
  ASSERT_TRUE(until([&] { return two.received.size() == 3; }));
  while (loop->run_once(0)) {
  }
  EXPECT_EQ(two.received.size(), 3u);
  two.make_room(100);
  ASSERT_TRUE(until([&] { return two.received.size() == 10; }));
  EXPECT_EQ(two.received.back(), frame(100, 9));
}

TEST_F(Sockets, WhatAStalledPeerCannotTakeIsBoundedAndWhatItTakesIsWhole) {
  plug_stream(one, {.address = host::UnixAddress{path("s")}, .server = true});
  plug_stream(two, {.address = host::UnixAddress{path("s")}});
  ASSERT_TRUE(until([&] { return one.wire->link_up(); }));
  two.room = 0;
  // 64 MiB: much more than socket buffers and the waiting list hold.
  const Bytes big = frame(65000, 5);
  for (unsigned i = 0; i < 1000; ++i) one.send(big);
  two.make_room(100'000);
  const Bytes last = frame(77, 1);
  ASSERT_TRUE(until([&] {
    one.send(last);
    return !two.received.empty() && two.received.back() == last;
  }));
  EXPECT_LT(two.received.size(), 900u);
  for (const Bytes& got : two.received) EXPECT_TRUE(got == big || got == last) << got.size();
}

TEST_F(Sockets, AServerTakesTheNextPeerWhenOneHasGone) {
  plug_stream(one, {.address = host::UnixAddress{path("s")}, .server = true});
  plug_stream(two, {.address = host::UnixAddress{path("s")}});
  ASSERT_TRUE(until([&] { return one.wire->link_up(); }));
  two.wire.reset();
  ASSERT_TRUE(until([&] { return !one.wire->link_up(); }));
  plug_stream(two, {.address = host::UnixAddress{path("s")}});
  ASSERT_TRUE(until([&] { return one.wire->link_up(); }));
  EXPECT_EQ(one.links, (std::vector<bool>{true, false, true}));
  expect_carries(two, one);
}

TEST_F(Sockets, AClientConnectsAgainToAServerThatCameBack) {
  plug_stream(two, {.address = host::UnixAddress{path("s")}, .reconnect = 1'000'000});
  EXPECT_FALSE(two.wire->link_up());
  for (unsigned round = 0; round < 2; ++round) {
    plug_stream(one, {.address = host::UnixAddress{path("s")}, .server = true});
    ASSERT_TRUE(until([&] { return two.wire->link_up() && one.wire->link_up(); }));
    one.send(frame(60, round));
    ASSERT_TRUE(until([&] { return two.received.size() == round + 1; }));
    one.wire.reset();
    ASSERT_TRUE(until([&] { return !two.wire->link_up(); }));
  }
}

TEST_F(Sockets, AClientWithoutReconnectNeedsItsServer) {
  const auto made = open_stream(*loop, log, one.domain, {.address = host::UnixAddress{path("nobody")}});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().text().find("nobody"), std::string::npos);
}

TEST_F(Sockets, APeerThatSendsAnImpossibleLengthIsCutOff) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const host::UniqueFd peer(ends[0]);
  plug_stream(one, {.descriptor = ends[1]});
  EXPECT_TRUE(one.wire->link_up());
  const Bytes lie = {0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3};
  ASSERT_EQ(::send(peer.get(), lie.data(), lie.size(), 0), 7);
  ASSERT_TRUE(until([&] { return !one.wire->link_up(); }));
  EXPECT_TRUE(one.received.empty());
  char byte;
  EXPECT_EQ(::recv(peer.get(), &byte, 1, 0), 0);
  one.send(frame(60, 0));  // to nobody
}

TEST_F(Sockets, AStreamWorksOverTcp) {
  auto listener = host::Listener::listen(host::TcpAddress{"127.0.0.1", 0}).value();
  const auto port = std::get<host::TcpAddress>(listener.address()).port;
  plug_stream(two, {.address = host::TcpAddress{"127.0.0.1", port}});
  plug_stream(one, {.descriptor = listener.accept().value()->release()});
  expect_carries(one, two);
  expect_carries(two, one);
}

TEST_F(Sockets, DatagramsGoBetweenTwoUnixSockets) {
  plug_dgram(one, {.local = host::UnixAddress{path("a")}, .remote = host::UnixAddress{path("b")}});
  one.send(frame(60, 0));  // nobody there yet: lost
  plug_dgram(two, {.local = host::UnixAddress{path("b")}, .remote = host::UnixAddress{path("a")}});
  const Bytes big = frame(65550, 3);
  one.send(big);
  two.send(frame(61, 1));
  ASSERT_TRUE(until([&] { return !one.received.empty() && !two.received.empty(); }));
  EXPECT_EQ(two.received, (std::vector<Bytes>{big}));
  EXPECT_EQ(one.received, (std::vector<Bytes>{frame(61, 1)}));
  one.wire.reset();
  EXPECT_FALSE(std::filesystem::exists(path("a")));
}

TEST_F(Sockets, DatagramsAreHeldBackWhileTheCardHasNoRoom) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
  const host::UniqueFd peer(ends[0]);
  plug_dgram(one, {.descriptor = ends[1]});
  one.room = 1;
  for (unsigned i = 0; i < 5; ++i) {
    const Bytes sent = frame(64, i);
    ASSERT_EQ(::send(peer.get(), sent.data(), sent.size(), 0), 64);
  }
  ASSERT_TRUE(until([&] { return one.received.size() == 1; }));
  while (loop->run_once(0)) {
  }
  EXPECT_EQ(one.received.size(), 1u);
  one.make_room(10);
  ASSERT_TRUE(until([&] { return one.received.size() == 5; }));
  EXPECT_EQ(one.received[4], frame(64, 4));
  one.send(frame(70, 9));
  Bytes got(100);
  EXPECT_EQ(::recv(peer.get(), got.data(), got.size(), MSG_DONTWAIT), 70);
}

TEST_F(Sockets, DatagramsGoOverUdpOfBothFamilies) {
  for (const char* host : {"127.0.0.1", "::1"}) {
    // Ports that were free a moment ago.
    std::uint16_t ports[2];
    for (std::uint16_t& port : ports) {
      const auto probe = host::Listener::listen(host::TcpAddress{host, 0});
      if (!probe) GTEST_SKIP() << "this host has no " << host;
      port = std::get<host::TcpAddress>(probe->address()).port;
    }
    plug_dgram(one, {.local = host::TcpAddress{host, ports[0]}, .remote = host::TcpAddress{host, ports[1]}});
    one.send(frame(60, 7));  // nobody there: an ICMP error comes back and means nothing
    plug_dgram(two, {.local = host::TcpAddress{host, ports[1]}, .remote = host::TcpAddress{host, ports[0]}});
    one.received.clear(), two.received.clear();
    expect_carries(one, two);
    expect_carries(two, one);
    one.wire.reset(), two.wire.reset();
  }
}

TEST_F(Sockets, AMulticastGroupReachesEveryMember) {
  const DgramOptions options{
      .local = host::TcpAddress{"127.0.0.1"},
      .remote = host::TcpAddress{"230.0.0.1", static_cast<std::uint16_t>(20000 + ::getpid() % 20000)}};
  auto first = open_dgram(*loop, log, one.domain, options);
  if (!first) GTEST_SKIP() << "no multicast on this host: " << first.error().text();
  one.plug(std::move(*first));
  plug_dgram(two, options);
  one.send(frame(60, 3));
  ASSERT_TRUE(until([&] { return !two.received.empty(); }));
  EXPECT_EQ(two.received[0], frame(60, 3));
}

TEST_F(Sockets, AddressesOfTwoKindsAreRefused) {
  const auto made = open_dgram(*loop, log, one.domain,
                               {.local = host::UnixAddress{path("a")}, .remote = host::TcpAddress{"127.0.0.1", 1}});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().text().find("two kinds"), std::string::npos);
}

TEST_F(Sockets, APathWithAFileOnItIsNotReplaced) {
  ASSERT_EQ(::symlink("/etc/passwd", path("a").c_str()), 0);
  const auto made = open_dgram(*loop, log, one.domain, {.local = host::UnixAddress{path("a")}});
  ASSERT_FALSE(made);
  EXPECT_TRUE(std::filesystem::is_symlink(path("a")));
}

TEST_F(Sockets, ACaptureKeepsNoMoreOfAFrameThanAsked) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
  const host::UniqueFd peer(ends[0]);
  one.plug(captured(open_dgram(*loop, log, one.domain, {.descriptor = ends[1]}).value(),
                    PacketCapture::create(path("pcap"), 20).value()));
  one.send(frame(60, 3));
  one.wire.reset();
  // pcap: a header of 24 bytes, then 16 for each frame and what is kept of it.
  EXPECT_EQ(std::filesystem::file_size(path("pcap")), 24u + 16 + 20);
}

}  // namespace
}  // namespace husk::netdev
