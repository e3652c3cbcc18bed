// husk: tests of tap by an interface in a network namespace of its own
#include "netdev/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/bits.h"
#include "host/unique_fd.h"
#include "netdev/run_until.h"

namespace husk::netdev {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// Runs `body` on a thread that is in a network namespace of its own, if this user may make one with tap interfaces.
void in_namespace(const std::function<void()>& body) {
  std::string missing;
  std::thread thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      missing = "a network namespace needs CAP_SYS_ADMIN";
    } else if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
      missing = "no /dev/net/tun";
    } else {
      body();
    }
  });
  thread.join();
  if (!missing.empty()) GTEST_SKIP() << missing;
}

struct Wire {
  explicit Wire(TapOptions options) : wire(open_tap(*loop, log, domain, std::move(options))) {
    if (!wire) return;
    (*wire)->set_callbacks({[this](std::span<const std::uint8_t> frame, const core::NetOffload& offload) {
      if (frame.size() >= 14 && load_be<std::uint16_t>(&frame[12]) == 0x88B5)  // the test's own; not IPv6's chatter
        received.push_back({{frame.begin(), frame.end()}, offload});
      return true;
    }});
  }
  bool until(const std::function<bool()>& so) { return run_until(*loop, so); }
  struct Frame {
    Bytes bytes;
    core::NetOffload offload;
  };
  Log log;
  std::unique_ptr<host::EventLoop> loop = host::EventLoop::create().value();
  mem::LockDomain domain;
  std::vector<Frame> received;
  Result<std::unique_ptr<core::NetBackend>> wire;
};

/// The host's end: a packet socket on the interface, set up.
host::UniqueFd host_end(const char* name) {
  host::UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(0x88B5)));
  ifreq request{};
  std::strcpy(request.ifr_name, name);
  EXPECT_EQ(::ioctl(fd.get(), SIOCGIFFLAGS, &request), 0) << name;
  request.ifr_flags |= IFF_UP;
  EXPECT_EQ(::ioctl(fd.get(), SIOCSIFFLAGS, &request), 0);
  EXPECT_EQ(::ioctl(fd.get(), SIOCGIFINDEX, &request), 0);
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(0x88B5);
  at.sll_ifindex = request.ifr_ifindex;
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  return fd;
}

/// Ethertype 88B5 is IEEE's for experiments.
Bytes frame(std::uint8_t seed, std::size_t size = 60) {
  Bytes bytes(size, seed);
  const Bytes head = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0, 0, 1, 0x88, 0xB5};
  std::copy(head.begin(), head.end(), bytes.begin());
  return bytes;
}

Bytes receive(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  ::poll(&waiting, 1, 5000);  // the host hands frames over on a thread of its own
  Bytes bytes(2000);
  const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

TEST(Tap, FramesGoToTheHostAndBack) {
  for (const bool offloads : {true, false})
    in_namespace([&] {
      Wire guest({.interface = "husktest", .offloads = offloads});
      ASSERT_TRUE(guest.wire) << guest.wire.error().text();
      EXPECT_EQ((*guest.wire)->capabilities().checksum, offloads);
      EXPECT_EQ((*guest.wire)->capabilities().segmentation, offloads);
      const auto host = host_end("husktest");
      (*guest.wire)->send(frame(1), {});
      EXPECT_EQ(receive(host.get()), frame(1));
      const Bytes back = frame(2, 1000);
      ASSERT_EQ(::send(host.get(), back.data(), back.size(), 0), 1000);
      ASSERT_TRUE(guest.until([&] { return !guest.received.empty(); }));
      EXPECT_EQ(guest.received[0].bytes, back);
      EXPECT_EQ(guest.received[0].offload.queue, std::nullopt);
    });
}

TEST(Tap, AFrameThatTheHostRefusesIsLostAlone) {
  in_namespace([] {
    Wire guest({.interface = "husktest"});
    ASSERT_TRUE(guest.wire) << guest.wire.error().text();
    const auto host = host_end("husktest");
    // Behind 20 bytes of something like IPv4: the host's kernel wants as much.
    (*guest.wire)->send(frame(1), {.needs_checksum = true, .checksum_start = 34, .checksum_offset = 2});
    // A checksum that lies outside the frame is refused by the host, and the frame lost.
    (*guest.wire)->send(frame(2), {.needs_checksum = true, .checksum_start = 4000, .checksum_offset = 2});
    (*guest.wire)->send(frame(3), {});
    EXPECT_EQ(receive(host.get()), frame(1));
    EXPECT_EQ(receive(host.get()), frame(3));
  });
}

TEST(Tap, AnInterfaceMayHaveSeveralQueues) {
  in_namespace([] {
    Wire guest({.interface = "husktest", .queues = 4});
    ASSERT_TRUE(guest.wire) << guest.wire.error().text();
    const auto host = host_end("husktest");
    for (std::uint8_t i = 0; i < 4; ++i) {
      (*guest.wire)->send(frame(i), {.queue = i});
      EXPECT_EQ(receive(host.get()), frame(i));
    }
    const Bytes back = frame(9);
    ASSERT_EQ(::send(host.get(), back.data(), back.size(), 0), 60);
    ASSERT_TRUE(guest.until([&] { return !guest.received.empty(); }));
    ASSERT_TRUE(guest.received[0].offload.queue.has_value());
    EXPECT_LT(*guest.received[0].offload.queue, 4);
  });
}

TEST(Tap, ScriptsHearOfTheInterfaceWhenItComesAndGoes) {
  in_namespace([] {
    const std::string base = ::testing::TempDir() + "husk_tap_" + std::to_string(::getpid());
    for (const char* what : {"up", "down"}) {
      std::ofstream(base + what) << "#!/bin/sh\necho " << what << " $1 >> " << base << "log\n";
      std::filesystem::permissions(base + what, std::filesystem::perms::owner_all);
    }
    {
      Wire guest({.script = base + "up", .down_script = base + "down"});
      ASSERT_TRUE(guest.wire) << guest.wire.error().text();
    }
    std::ifstream log(base + "log");
    const std::string text{std::istreambuf_iterator<char>(log), {}};
    EXPECT_EQ(text, "up tap0\ndown tap0\n");
    Wire broken({.script = "/bin/false"});
    ASSERT_FALSE(broken.wire);
    EXPECT_NE(broken.wire.error().text().find("status 1"), std::string::npos);
    for (const char* what : {"up", "down", "log"}) std::filesystem::remove(base + what);
  });
}

TEST(Tap, DescriptorsThatWereOpenedBeforeAreTakenOver) {
  in_namespace([] {
    const int fd = ::open("/dev/net/tun", O_RDWR);
    ifreq request{};
    std::strcpy(request.ifr_name, "husktest");
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    ASSERT_EQ(::ioctl(fd, TUNSETIFF, &request), 0);
    Wire guest({.descriptors = {fd}});
    ASSERT_TRUE(guest.wire) << guest.wire.error().text();
    EXPECT_FALSE((*guest.wire)->capabilities().checksum);  // it was opened without IFF_VNET_HDR
    const auto host = host_end("husktest");
    (*guest.wire)->send(frame(1), {});
    EXPECT_EQ(receive(host.get()), frame(1));
  });
}

TEST(Tap, ABridgeHelperSendsItsDescriptorOverTheSocket) {
  if (::access("/usr/bin/python3", X_OK) != 0) GTEST_SKIP() << "no python3 to write a helper in";
  in_namespace([] {
    const std::string helper = ::testing::TempDir() + "husk_helper_" + std::to_string(::getpid());
    // What qemu-bridge-helper does, less the bridge: qemu-bridge-helper.c, send_fd().
    std::ofstream(helper) << R"(#!/usr/bin/python3
import array, fcntl, os, socket, struct, sys
words = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
assert "use-vnet" in words and words["br"] == "br7", words
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"husktest", 0x0002 | 0x1000 | 0x4000))
there = socket.socket(fileno=int(words["fd"]))
there.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tap]))])
)";
    std::filesystem::permissions(helper, std::filesystem::perms::owner_all);
    Wire guest({.helper = helper, .bridge = "br7"});
    ASSERT_TRUE(guest.wire) << guest.wire.error().text();
    EXPECT_TRUE((*guest.wire)->capabilities().checksum);
    const auto host = host_end("husktest");
    (*guest.wire)->send(frame(1), {});
    EXPECT_EQ(receive(host.get()), frame(1));
    Wire refused({.helper = helper, .bridge = "br8"});
    EXPECT_FALSE(refused.wire);
    std::filesystem::remove(helper);
  });
}

TEST(Tap, WhatIsNoTapIsRefused) {
  Wire file({.descriptors = {::open("/dev/null", O_RDWR)}});
  ASSERT_FALSE(file.wire);
  EXPECT_NE(file.wire.error().text().find("no tap interface"), std::string::npos);
  Wire name({.interface = "a-name-of-more-than-fifteen-bytes"});
  EXPECT_FALSE(name.wire);
}

}  // namespace
}  // namespace husk::netdev
