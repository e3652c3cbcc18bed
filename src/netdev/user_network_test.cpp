// husk: tests of the user-mode network by frames as a guest would send them
#include "netdev/user_network.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/bits.h"
#include "netdev/capture.h"

namespace husk::netdev {
namespace {

using Bytes = std::vector<std::uint8_t>;
const Bytes kGuestMac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct Guest {
  explicit Guest(UserNetworkOptions options = {}, const std::string& capture = "") {
    loop = host::EventLoop::create().value();
    network = UserNetwork::create(*loop, log, std::move(options)).value();
    port = network->attach(domain);
    if (!capture.empty()) port = captured(std::move(port), PacketCapture::create(capture).value());
    port->set_callbacks({[this](std::span<const std::uint8_t> frame, const core::NetOffload&) {
                           received.emplace_back(frame.begin(), frame.end());
                           return true;
                         },
                         {}});
  }
  ~Guest() {
    port.reset();
    network.reset();
  }
  void send(const Bytes& frame) {
    const mem::DomainGuard guard(&domain);
    port->send(frame, {});
  }
  /// Runs the loop until a frame fits, or five seconds have passed.
  template <class Match>
  bool wait_for(Match&& match) {
    const std::uint64_t end = host::monotonic_now() + 5'000'000'000;
    while (host::monotonic_now() < end) {
      for (const Bytes& frame : received)
        if (match(frame)) return true;
      loop->run_once(100'000'000);
    }
    return false;
  }
  Log log;
  std::unique_ptr<host::EventLoop> loop;
  mem::LockDomain domain;
  std::unique_ptr<UserNetwork> network;
  std::unique_ptr<core::NetBackend> port;
  std::vector<Bytes> received;
};

/// Who has `target`? 10.0.2.15 asks (RFC 826).
Bytes arp_request(Bytes target) {
  Bytes frame(6, 0xFF);
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  const Bytes fixed = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
  frame.insert(frame.end(), fixed.begin(), fixed.end());
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  const Bytes rest = {10, 0, 2, 15, 0, 0, 0, 0, 0, 0};
  frame.insert(frame.end(), rest.begin(), rest.end());
  frame.insert(frame.end(), target.begin(), target.end());
  return frame;
}

bool is_arp_reply(const Bytes& frame) {
  return frame.size() >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 && frame[28] == 10 && frame[31] == 2;
}

TEST(UserNetwork, TheRouterAnswersArp) {
  Guest guest;
  guest.send(arp_request({10, 0, 2, 2}));
  EXPECT_TRUE(guest.wait_for(is_arp_reply));
}

TEST(UserNetwork, AnOfferComesByDhcp) {
  Guest guest;
  // A DISCOVER by RFC 2131 in UDP 68 to 67.
  Bytes dhcp(240);
  dhcp[0] = 1, dhcp[1] = 1, dhcp[2] = 6;
  std::copy(kGuestMac.begin(), kGuestMac.end(), dhcp.begin() + 28);
  dhcp[236] = 0x63, dhcp[237] = 0x82, dhcp[238] = 0x53, dhcp[239] = 0x63;
  for (const std::uint8_t byte : Bytes{53, 1, 1, 255}) dhcp.push_back(byte);
  Bytes frame(6, 0xFF);
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  frame.push_back(8), frame.push_back(0);
  Bytes ip(28);
  ip[0] = 0x45, ip[8] = 64, ip[9] = 17;
  store_be<std::uint16_t>(&ip[2], static_cast<std::uint16_t>(28 + dhcp.size()));
  std::fill(ip.begin() + 16, ip.begin() + 20, 0xFF);
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < 20; i += 2) sum += load_be<std::uint16_t>(&ip[i]);
  while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
  store_be<std::uint16_t>(&ip[10], static_cast<std::uint16_t>(~sum));
  ip[21] = 68, ip[23] = 67;
  store_be<std::uint16_t>(&ip[24], static_cast<std::uint16_t>(8 + dhcp.size()));
  frame.insert(frame.end(), ip.begin(), ip.end());
  frame.insert(frame.end(), dhcp.begin(), dhcp.end());
  guest.send(frame);
  // yiaddr of the answer: 10.0.2.15.
  EXPECT_TRUE(guest.wait_for([](const Bytes& answer) {
    return answer.size() > 62 && answer[23] == 17 && answer[37] == 68 && answer[58] == 10 && answer[61] == 15;
  }));
}

TEST(UserNetwork, AFrameForWhichThereIsNoRoomComesAgain) {
  Guest guest;
  bool room = false;
  guest.port->set_callbacks({[&](std::span<const std::uint8_t> frame, const core::NetOffload&) {
                               if (room) guest.received.emplace_back(frame.begin(), frame.end());
                               return room;
                             },
                             {}});
  guest.send(arp_request({10, 0, 2, 2}));
  for (int i = 0; i < 5; ++i) guest.loop->run_once(1'000'000);
  room = true;
  guest.port->ready_to_receive();
  EXPECT_TRUE(guest.wait_for(is_arp_reply));
}

TEST(UserNetwork, AForwardedConnectionReachesTheGuest) {
  // A free port, found by binding one.
  const int probe = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length);
  ::close(probe);
  Guest guest({.forwards = {{false, "127.0.0.1", ntohs(address.sin_port), "", 80}}});
  const int client = ::socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  // The network asks for 10.0.2.15 first; having the answer it sends the SYN to port 80.
  ASSERT_TRUE(
      guest.wait_for([](const Bytes& frame) { return frame.size() >= 42 && frame[13] == 6 && frame[41] == 15; }));
  Bytes reply = arp_request({10, 0, 2, 2});
  reply[21] = 2;
  guest.send(reply);
  EXPECT_TRUE(guest.wait_for([](const Bytes& frame) {
    return frame.size() >= 54 && frame[12] == 8 && frame[13] == 0 && frame[23] == 6 && frame[33] == 15 &&
           frame[37] == 80 && (frame[47] & 0x12) == 0x02;
  }));
  ::close(client);
}

TEST(UserNetwork, APortInUseIsRefused) {
  const int taken = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(taken, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(taken, 1), 0);
  ::getsockname(taken, reinterpret_cast<sockaddr*>(&address), &length);
  const auto loop = host::EventLoop::create().value();
  Log log;
  const auto network =
      UserNetwork::create(*loop, log, {.forwards = {{false, "127.0.0.1", ntohs(address.sin_port), "", 80}}});
  ASSERT_FALSE(network);
  EXPECT_NE(network.error().message.find(std::to_string(ntohs(address.sin_port))), std::string::npos);
  ::close(taken);
}

TEST(UserNetwork, CapturesFramesAsPcap) {
  const std::string path = ::testing::TempDir() + "husk_capture.pcap";
  {
    Guest guest({}, path);
    guest.send(arp_request({10, 0, 2, 2}));
    ASSERT_TRUE(guest.wait_for(is_arp_reply));
  }
  std::ifstream file(path, std::ios::binary);
  const Bytes bytes{std::istreambuf_iterator<char>(file), {}};
  std::filesystem::remove(path);
  ASSERT_GE(bytes.size(), 24 + 2 * (16 + 42u));
  std::uint32_t magic, link, first;
  std::memcpy(&magic, &bytes[0], 4);
  std::memcpy(&link, &bytes[20], 4);
  std::memcpy(&first, &bytes[24 + 8], 4);
  EXPECT_EQ(magic, 0xA1B23C4Du);
  EXPECT_EQ(link, 1u);
  EXPECT_EQ(first, 42u);
}

}  // namespace
}  // namespace husk::netdev
