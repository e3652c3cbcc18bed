// husk: tests of virtio-net against virtio 1.2, 5.1
#include "devices/virtio/net.h"

#include <gtest/gtest.h>

#include "base/bits.h"
#include "devices/virtio/mmio.h"
#include "devices/virtio/net_offload.h"
#include "testing/fake_net.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;
constexpr std::uint64_t kModern = VirtioDriver::kVersion1 | 0xFFFFFF;
constexpr std::uint64_t kUnmerged = kModern & ~(std::uint64_t{1} << 15);

struct NetTest : ::testing::Test {
  void make(std::uint64_t features, Net::Config config = {}) {
    net = std::make_unique<Net>(Environment{machine.memory, machine.clock, machine.log}, &wire, std::move(config));
    transport = MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *net}, "m", kBase).value();
    ASSERT_TRUE(
        driver.begin(features, driver.read(8) == 1 ? (driver.offered() >> 22 & features >> 22 & 1 ? 5u : 3u) : 0, 64));
  }
  static Bytes frame_to(Bytes to, std::size_t size) {
    Bytes frame(size);
    std::copy(to.begin(), to.end(), frame.begin());
    for (std::size_t i = 12; i < size; ++i) frame[i] = static_cast<std::uint8_t>(i);
    return frame;
  }
  Bytes ours() const { return {0x52, 0x54, 0, 0x12, 0x34, 0x56}; }
  /// Adds a receive buffer; returns its place.
  mem::Gpa receive_buffer(std::uint32_t size) {
    const mem::Gpa at = driver.room(size);
    const VirtioDriver::Part part{at, size, true};
    driver.add(0, {&part, 1});
    return at;
  }
  std::uint8_t control(Bytes command) {
    const auto answer = driver.request(2, command, 1);
    return answer ? answer->at(0) : 0xEE;
  }
  testing::TestMachine machine;
  testing::FakeNet wire;
  std::unique_ptr<Net> net;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
};

TEST_F(NetTest, TellsItsAddressAndLink) {
  make(kModern, {.mtu = 9000});
  EXPECT_EQ(driver.config(0, 4), 0x12005452u);
  EXPECT_EQ(driver.config(6, 2), 1u);
  EXPECT_EQ(driver.config(10, 2), 9000u);
  wire.set_link(false);
  EXPECT_EQ(driver.config(6, 2), 0u);
  EXPECT_EQ(driver.interrupt_status() & 2, 2u);
}

TEST_F(NetTest, SendsFramesWithoutTheHeader) {
  make(kModern);
  const Bytes frame = frame_to({1, 2, 3, 4, 5, 6}, 60);
  Bytes out(12);
  out.insert(out.end(), frame.begin(), frame.end());
  ASSERT_TRUE(driver.request(1, out, 0));
  ASSERT_EQ(wire.sent.size(), 1u);
  EXPECT_EQ(wire.sent[0].bytes, frame);
}

TEST_F(NetTest, CompletesAChecksumThatTheDriverLeftOpen) {
  make(kModern);
  // RFC 1071, 3: the bytes 00 01 f2 03 f4 f5 f6 f7 have the sum ddf2.
  Bytes out(12 + 14);
  out[0] = 1;
  store_le<std::uint16_t>(&out[6], 14);
  store_le<std::uint16_t>(&out[8], 8);
  for (const std::uint8_t byte : Bytes{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0x00, 0x00}) out.push_back(byte);
  ASSERT_TRUE(driver.request(1, out, 0));
  ASSERT_EQ(wire.sent.size(), 1u);
  EXPECT_EQ(load_be<std::uint16_t>(&wire.sent[0].bytes[22]), 0xFFFF & ~0xddf2);
  store_le<std::uint16_t>(&out[8], 9);
  ASSERT_TRUE(driver.request(1, out, 0));
  EXPECT_EQ(wire.sent.size(), 1u) << "a checksum outside the frame";
}

TEST_F(NetTest, OddFramesAreDropped) {
  make(kModern);
  ASSERT_TRUE(driver.request(1, Bytes(5), 0));
  ASSERT_TRUE(driver.request(1, Bytes(12 + 13), 0));
  EXPECT_TRUE(wire.sent.empty());
  EXPECT_EQ(driver.status(), 15);
}

TEST_F(NetTest, ReceivesIntoOneBuffer) {
  make(kUnmerged);
  const mem::Gpa at = receive_buffer(1600);
  driver.kick(0);
  const Bytes frame = frame_to(ours(), 100);
  EXPECT_TRUE(wire.deliver(frame));
  const auto used = driver.used(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 112u);
  EXPECT_EQ(driver.bytes_at(at + 10, 2), (Bytes{1, 0})) << "num_buffers";
  EXPECT_EQ(driver.bytes_at(at + 12, 100), frame);
}

TEST_F(NetTest, SpreadsALargeFrameOverMergeableBuffers) {
  make(kModern);
  const mem::Gpa first = receive_buffer(64), second = receive_buffer(64);
  const Bytes frame = frame_to(ours(), 100);
  EXPECT_TRUE(wire.deliver(frame));
  EXPECT_EQ(driver.used(0)->length, 64u);
  EXPECT_EQ(driver.used(0)->length, 48u);
  EXPECT_EQ(driver.bytes_at(first + 10, 2), (Bytes{2, 0}));
  Bytes joined = driver.bytes_at(first + 12, 52);
  const Bytes rest = driver.bytes_at(second, 48);
  joined.insert(joined.end(), rest.begin(), rest.end());
  EXPECT_EQ(joined, frame);
}

TEST_F(NetTest, HoldsAFrameBackUntilThereIsRoom) {
  make(kModern);
  receive_buffer(64);
  const Bytes frame = frame_to(ours(), 100);
  const unsigned before = wire.ready;
  EXPECT_FALSE(wire.deliver(frame));
  EXPECT_FALSE(driver.used(0)) << "the buffer taken must be put back";
  receive_buffer(64);
  driver.kick(0);
  EXPECT_GT(wire.ready, before);
  EXPECT_TRUE(wire.deliver(frame));
  EXPECT_TRUE(driver.used(0));
}

TEST_F(NetTest, FramesWaitWhileTheMachineIsStopped) {
  make(kModern);
  receive_buffer(200);
  driver.kick(0);
  bool quiet = false;
  net->quiesce([&] { quiet = true; });
  EXPECT_TRUE(quiet);
  const Bytes frame = frame_to(ours(), 100);
  EXPECT_FALSE(wire.deliver(frame));
  EXPECT_FALSE(driver.used(0)) << "guest memory stays as it is";
  const unsigned before = wire.ready;
  net->start();
  EXPECT_GT(wire.ready, before);
  EXPECT_TRUE(wire.deliver(frame));
  EXPECT_TRUE(driver.used(0));
}

TEST_F(NetTest, FiltersByAddressAndVlan) {
  make(kModern);
  for (int i = 0; i < 8; ++i) receive_buffer(256);
  const auto arrives = [&](Bytes frame) {
    EXPECT_TRUE(wire.deliver(frame));
    return driver.used(0).has_value();
  };
  EXPECT_TRUE(arrives(frame_to({2, 0, 0, 0, 0, 1}, 64))) << "promiscuous until told otherwise";
  EXPECT_EQ(control({0, 0, 0}), 0);
  for (int i = 0; i < 8; ++i) receive_buffer(256);
  EXPECT_FALSE(arrives(frame_to({2, 0, 0, 0, 0, 1}, 64)));
  EXPECT_TRUE(arrives(frame_to(ours(), 64)));
  EXPECT_TRUE(arrives(frame_to({255, 255, 255, 255, 255, 255}, 64)));
  EXPECT_FALSE(arrives(frame_to({1, 0, 0x5e, 0, 0, 1}, 64)));
  EXPECT_EQ(control({1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1}), 0);
  for (int i = 0; i < 8; ++i) receive_buffer(256);
  EXPECT_TRUE(arrives(frame_to({1, 0, 0x5e, 0, 0, 1}, 64)));
  EXPECT_TRUE(arrives(frame_to({2, 0, 0, 0, 0, 1}, 64)));
  Bytes tagged = frame_to(ours(), 64);
  tagged[12] = 0x81, tagged[13] = 0, tagged[14] = 0, tagged[15] = 7;
  EXPECT_FALSE(arrives(tagged));
  EXPECT_EQ(control({2, 0, 7, 0}), 0);
  for (int i = 0; i < 8; ++i) receive_buffer(256);
  EXPECT_TRUE(arrives(tagged));
  EXPECT_EQ(control({2, 1, 7, 0}), 0);
  EXPECT_FALSE(arrives(tagged));
}

TEST_F(NetTest, MalformedControlCommandsGetAnError) {
  make(kModern);
  EXPECT_EQ(control({9, 0}), 1);
  EXPECT_EQ(control({0, 0}), 1);
  EXPECT_EQ(control({1, 0, 0xFF, 0xFF, 0xFF, 0xFF}), 1);
  EXPECT_EQ(control({1, 1, 1, 2, 3}), 1);
  EXPECT_EQ(control({2, 0, 0xFF, 0xFF}), 1);
  EXPECT_EQ(control({3, 0}), 1) << "there is nothing to acknowledge";
}

TEST_F(NetTest, AnnounceIsTakenBackByTheAcknowledgement) {
  make(kModern);
  net->announce();
  EXPECT_EQ(driver.config(6, 2), 3u);
  EXPECT_EQ(control({3, 0}), 0);
  EXPECT_EQ(driver.config(6, 2), 1u);
}

TEST_F(NetTest, TheBackendIsToldWhatTheDriverTakes) {
  wire.can = {.checksum = true, .segmentation = true};
  make(kModern);
  EXPECT_EQ(wire.taken, (core::NetReceiveOffloads{.checksum = true, .tcp4 = true, .tcp6 = true, .ecn = true}));
  // VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: of bits 1, 7, 8 and 9 only those that stay on.
  EXPECT_EQ(control({5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0}), 0);
  EXPECT_EQ(wire.taken, (core::NetReceiveOffloads{.checksum = true, .tcp4 = true}));
  EXPECT_EQ(control({5, 0, 0x82, 0x04, 0, 0, 0, 0, 0, 0}), 1) << "UFO was not negotiated";
  EXPECT_EQ(control({5, 0, 0x82}), 1);
  EXPECT_EQ(control({5, 1, 0x82, 0, 0, 0, 0, 0, 0, 0}), 1);
  driver.write(0x70, 0);
  EXPECT_EQ(wire.taken, core::NetReceiveOffloads{});
}

TEST_F(NetTest, AChecksumIsCompletedForADriverThatDoesNotTakeItOpen) {
  make(kUnmerged & ~std::uint64_t{2});
  const mem::Gpa at = receive_buffer(1600);
  // RFC 1071, 3, as above: the sum of these is ddf2, its complement 220d.
  Bytes frame = frame_to(ours(), 14);
  for (const std::uint8_t byte : Bytes{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0x00, 0x00})
    frame.push_back(byte);
  EXPECT_TRUE(wire.deliver(frame, {.needs_checksum = true, .checksum_start = 14, .checksum_offset = 8}));
  ASSERT_TRUE(driver.used(0));
  const Bytes got = driver.bytes_at(at, 12 + frame.size());
  EXPECT_EQ(got[0], 0) << "no flag that was not negotiated";
  EXPECT_EQ(got[12 + 22], 0x22);
  EXPECT_EQ(got[12 + 23], 0x0D);
  // One that lies outside the frame cannot be completed, and the frame is gone.
  EXPECT_TRUE(wire.deliver(frame, {.needs_checksum = true, .checksum_start = 4000}));
  EXPECT_FALSE(driver.used(0));
}

TEST_F(NetTest, AFrameIsSegmentedForADriverThatDoesNotTakeItWhole) {
  wire.can = {.checksum = true, .segmentation = true};
  make(kUnmerged & ~std::uint64_t{0x380});
  for (unsigned i = 0; i < 4; ++i) receive_buffer(1600);
  Bytes frame = frame_to(ours(), 14 + 20 + 20 + 2500);
  frame[12] = 8, frame[13] = 0, frame[14] = 0x45, frame[14 + 9] = 6, frame[34 + 12] = 0x50;
  EXPECT_TRUE(wire.deliver(frame, {.segmentation = core::NetOffload::Segmentation::tcp4, .segment_size = 1000}));
  std::vector<std::uint32_t> lengths;
  while (const auto used = driver.used(0)) lengths.push_back(used->length);
  EXPECT_EQ(lengths, (std::vector<std::uint32_t>{12 + 54 + 1000, 12 + 54 + 1000, 12 + 54 + 500}));
}

TEST_F(NetTest, WhatIsWithheldIsNotOfferedNorWhatNeedsIt) {
  wire.can = {.checksum = true, .segmentation = true};
  net = std::make_unique<Net>(Environment{machine.memory, machine.clock, machine.log}, &wire,
                              Net::Config{.pairs = 2, .withheld = (1u << Net::kCsum) | (1u << Net::kControlQueue)});
  for (const unsigned feature : {Net::kCsum, Net::kHostTso4, Net::kHostEcn, Net::kControlQueue, Net::kControlRx,
                                 Net::kMultiQueue, Net::kControlOffloads})
    EXPECT_FALSE(net->offered_features() >> feature & 1) << feature;
  for (const unsigned feature : {Net::kGuestCsum, Net::kGuestTso4, Net::kMergeable})
    EXPECT_TRUE(net->offered_features() >> feature & 1) << feature;
}

TEST_F(NetTest, ACardWithoutCarrierSaysSo) {
  wire.carrier = false;
  make(kModern);
  EXPECT_EQ(driver.config(6, 2), 0u);
  wire.set_link(true);
  EXPECT_EQ(driver.config(6, 2), 1u);
}

TEST_F(NetTest, QueuePairsAreSwitchedOnByTheControlQueue) {
  make(kModern, {.pairs = 2});
  EXPECT_EQ(driver.config(8, 2), 2u);
  const auto ask = [&](std::uint8_t pairs) { return driver.request(4, Bytes{4, 0, pairs, 0}, 1)->at(0); };
  EXPECT_EQ(ask(2), 0);
  EXPECT_EQ(ask(3), 1);
  EXPECT_EQ(ask(0), 1);
}

/// Ones' complement sum over everything, which is FFFFh when the checksum inside is right.
std::uint16_t check(const Bytes& bytes, std::size_t from, std::size_t to, std::uint32_t start = 0) {
  std::uint32_t total = start;
  for (std::size_t i = from; i < to; i += 2)
    total += static_cast<std::uint32_t>((bytes[i] << 8) | (i + 1 < to ? bytes[i + 1] : 0));
  while (total >> 16) total = (total & 0xFFFF) + (total >> 16);
  return static_cast<std::uint16_t>(total);
}

TEST(NetOffload, CutsATcpFrameIntoRightSegments) {
  Bytes frame(14 + 20 + 20 + 2500);
  frame[12] = 8;
  frame[14] = 0x45;
  frame[14 + 9] = 6;
  store_be<std::uint16_t>(&frame[14 + 4], 0x1234);
  for (unsigned i = 12; i < 20; ++i) frame[14 + i] = static_cast<std::uint8_t>(i);
  store_be<std::uint32_t>(&frame[34 + 4], 0xFFFFFF00);
  frame[34 + 12] = 0x50;
  frame[34 + 13] = 0x19;  // ACK, PSH, FIN
  for (std::size_t i = 54; i < frame.size(); ++i) frame[i] = static_cast<std::uint8_t>(i * 3);
  std::vector<Bytes> parts;
  ASSERT_TRUE(segment_tcp(frame, {.segmentation = core::NetOffload::Segmentation::tcp4, .segment_size = 1000},
                          [&](std::span<const std::uint8_t> part) { parts.emplace_back(part.begin(), part.end()); }));
  ASSERT_EQ(parts.size(), 3u);
  Bytes payload;
  for (std::size_t i = 0; i < 3; ++i) {
    const Bytes& part = parts[i];
    EXPECT_EQ(load_be<std::uint16_t>(&part[16]), part.size() - 14);
    EXPECT_EQ(load_be<std::uint16_t>(&part[18]), 0x1234 + i);
    EXPECT_EQ(check(part, 14, 34), 0xFFFF);
    EXPECT_EQ(check(part, 34, part.size(), check(part, 26, 34) + 6u + static_cast<std::uint32_t>(part.size() - 34)),
              0xFFFF);
    EXPECT_EQ(load_be<std::uint32_t>(&part[38]), static_cast<std::uint32_t>(0xFFFFFF00 + i * 1000));
    EXPECT_EQ(part[47], i == 2 ? 0x19 : 0x10);
    payload.insert(payload.end(), part.begin() + 54, part.end());
  }
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(), frame.begin() + 54, frame.end()));
}

TEST(NetOffload, RefusesWhatIsNoTcp) {
  const auto never = [](std::span<const std::uint8_t>) { FAIL(); };
  for (std::size_t size : {0u, 13u, 14u, 34u, 53u, 60u})
    for (const auto kind : {core::NetOffload::Segmentation::tcp4, core::NetOffload::Segmentation::tcp6})
      EXPECT_FALSE(segment_tcp(Bytes(size), {.segmentation = kind, .segment_size = 100}, never));
}

}  // namespace
}  // namespace husk::devices::virtio
