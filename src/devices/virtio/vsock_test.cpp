// husk: tests of virtio-vsock against virtio 1.2, 5.10
#include "devices/virtio/vsock.h"

#include <gtest/gtest.h>

#include "base/bits.h"
#include "devices/virtio/mmio.h"
#include "testing/fake_vsock.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;
constexpr std::uint16_t kStream = 1, kSeqpacket = 2;
constexpr std::uint16_t kRequest = 1, kResponse = 2, kReset = 3, kShutdown = 4, kReadWrite = 5, kCreditUpdate = 6,
                        kCreditRequest = 7;

struct Packet {
  std::uint64_t from = 3, to = 2;
  std::uint32_t from_port = 1000, to_port = 50;
  std::uint16_t type = kStream, op = kRequest;
  std::uint32_t flags = 0, buffer = 65536, forwarded = 0;
  std::string data = {};
  std::optional<std::uint32_t> length = {};
};

struct VsockTest : ::testing::Test {
  void make(std::uint64_t features = VirtioDriver::kVersion1 | 3) {
    vsock = Vsock::create({machine.memory, machine.clock, machine.log}, host, {}).value();
    transport =
        MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *vsock}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(features, 3, 64));
  }
  void send(const Packet& packet) {
    Bytes raw(44);
    store_le<std::uint64_t>(&raw[0], packet.from);
    store_le<std::uint64_t>(&raw[8], packet.to);
    store_le<std::uint32_t>(&raw[16], packet.from_port);
    store_le<std::uint32_t>(&raw[20], packet.to_port);
    store_le<std::uint32_t>(&raw[24], packet.length.value_or(static_cast<std::uint32_t>(packet.data.size())));
    store_le<std::uint16_t>(&raw[28], packet.type);
    store_le<std::uint16_t>(&raw[30], packet.op);
    store_le<std::uint32_t>(&raw[32], packet.flags);
    store_le<std::uint32_t>(&raw[36], packet.buffer);
    store_le<std::uint32_t>(&raw[40], packet.forwarded);
    raw.insert(raw.end(), packet.data.begin(), packet.data.end());
    (void)driver.request(1, raw, 0);
  }
  void receive_buffer(std::uint32_t size = 4096) {
    // Beyond the driver's own memory, which it uses anew for each request.
    if (receive_at + size > 0x400000) receive_at = 0x200000;
    const VirtioDriver::Part part{receive_at, size, true};
    receive_at += size;
    places[driver.add(0, {&part, 1})] = part.address;
    driver.kick(0);
  }
  /// The next packet to the guest, for which a buffer is given.
  std::optional<Packet> next(bool with_buffer = true) {
    if (with_buffer) receive_buffer();
    const auto used = driver.used(0);
    if (!used) return std::nullopt;
    const Bytes raw = driver.bytes_at(places[used->id], used->length);
    Packet packet{.from = load_le<std::uint64_t>(&raw[0]),
                  .to = load_le<std::uint64_t>(&raw[8]),
                  .from_port = load_le<std::uint32_t>(&raw[16]),
                  .to_port = load_le<std::uint32_t>(&raw[20]),
                  .type = load_le<std::uint16_t>(&raw[28]),
                  .op = load_le<std::uint16_t>(&raw[30]),
                  .flags = load_le<std::uint32_t>(&raw[32]),
                  .buffer = load_le<std::uint32_t>(&raw[36]),
                  .forwarded = load_le<std::uint32_t>(&raw[40]),
                  .data = std::string(raw.begin() + 44, raw.end()),
                  .length = load_le<std::uint32_t>(&raw[24])};
    EXPECT_EQ(packet.from, 2u);
    EXPECT_EQ(packet.to, 3u);
    EXPECT_EQ(*packet.length, packet.data.size());
    return packet;
  }
  void expect_next(std::uint16_t op, std::uint32_t flags = 0) {
    const auto packet = next();
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->op, op);
    EXPECT_EQ(packet->flags, flags);
  }
  void connect(Packet packet = {}) {
    send(packet);
    expect_next(kResponse);
  }
  static constexpr core::VsockPorts kPorts{1000, 50};
  testing::TestMachine machine{4 << 20};
  testing::FakeVsock host;
  std::unique_ptr<Vsock> vsock;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase, 0x10000, 0x1F0000};
  mem::Gpa receive_at = 0x200000;
  std::map<std::uint16_t, mem::Gpa> places;
};

TEST_F(VsockTest, TellsItsContextIdAndRefusesReservedOnes) {
  make();
  EXPECT_EQ(driver.config(0, 4), 3u);
  EXPECT_EQ(driver.config(4, 4), 0u);
  for (const std::uint64_t cid :
       {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{0xFFFFFFFF}, std::uint64_t{1} << 40})
    EXPECT_FALSE(Vsock::create({machine.memory, machine.clock, machine.log}, host, {.guest_cid = cid})) << cid;
}

TEST_F(VsockTest, AConnectionOfTheGuestsCarriesBytesBothWays) {
  make();
  send({});
  const auto response = next();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->op, kResponse);
  EXPECT_EQ(response->from_port, 50u);
  EXPECT_EQ(response->to_port, 1000u);
  EXPECT_EQ(response->buffer, Vsock::kBuffer);
  send({.op = kReadWrite, .data = "to the host"});
  EXPECT_EQ(host.connections.at(kPorts).received, "to the host");
  receive_buffer();
  host.deliver(kPorts, "to the guest");
  const auto back = next(false);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->op, kReadWrite);
  EXPECT_EQ(back->data, "to the guest");
  EXPECT_EQ(back->forwarded, 11u) << "the credit that the guest has back";
}

TEST_F(VsockTest, NothingReachesTheGuestWhileTheMachineStands) {
  make();
  connect();
  receive_buffer();
  vsock->quiesce([] {});
  host.deliver(kPorts, "later");
  EXPECT_FALSE(driver.used(0));
  vsock->start();
  const auto packet = next(false);
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->data, "later");
}

TEST_F(VsockTest, APortThatNobodyServesIsReset) {
  make();
  send({.to_port = 5000});
  expect_next(kReset);
}

TEST_F(VsockTest, AConnectionOfTheHostsWaitsForTheGuestsResponse) {
  make();
  const auto ports = host.call(22, core::VsockKind::stream);
  ASSERT_TRUE(ports);
  const auto request = next();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->op, kRequest);
  EXPECT_EQ(request->to_port, 22u);
  EXPECT_EQ(request->from_port, ports->host);
  host.deliver(*ports, "early");
  EXPECT_FALSE(next());
  EXPECT_FALSE(host.connections.at(*ports).accepted);
  send({.from_port = 22, .to_port = ports->host, .op = kResponse});
  EXPECT_TRUE(host.connections.at(*ports).accepted);
  const auto data = next(false);
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, "early");
  // Refused by the guest.
  const auto other = host.call(23, core::VsockKind::stream);
  ASSERT_TRUE(other);
  EXPECT_NE(other->host, ports->host);
  send({.from_port = 23, .to_port = other->host, .op = kReset});
  EXPECT_FALSE(host.connections.contains(*other));
}

TEST_F(VsockTest, NoMoreIsSentThanTheGuestHasRoomFor) {
  make();
  connect({.buffer = 10});
  host.deliver(kPorts, "0123456789abcdef");
  auto data = next();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, "0123456789");
  EXPECT_FALSE(next());
  send({.op = kCreditUpdate, .buffer = 10, .forwarded = 4});
  data = next(false);
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, "abcd");
  // An impossible count of forwarded bytes is no credit.
  send({.op = kCreditUpdate, .buffer = 10, .forwarded = 1000});
  EXPECT_FALSE(next());
}

TEST_F(VsockTest, AGuestThatSendsMoreThanItsCreditIsReset) {
  make();
  host.hold = true;
  connect();
  const std::string piece(65536, 'x');
  for (unsigned i = 0; i < 4; ++i) {
    send({.op = kReadWrite, .data = piece});
  }
  EXPECT_EQ(host.connections.at(kPorts).received.size(), Vsock::kBuffer);
  send({.op = kReadWrite, .data = "y"});
  expect_next(kReset);
  EXPECT_TRUE(host.connections.empty());
}

TEST_F(VsockTest, CreditComesBackWhenTheHostHasTakenTheBytes) {
  make();
  host.hold = true;
  connect();
  send({.op = kReadWrite, .data = std::string(65536, 'x')});
  EXPECT_FALSE(next());
  host.forward(kPorts);
  const auto update = next(false);
  ASSERT_TRUE(update);
  EXPECT_EQ(update->op, kCreditUpdate);
  EXPECT_EQ(update->forwarded, 65536u);
  send({.op = kCreditRequest});
  expect_next(kCreditUpdate);
}

TEST_F(VsockTest, ShutDownBothWaysEndsByAReset) {
  make();
  connect();
  send({.op = kShutdown, .flags = 2});
  EXPECT_TRUE(host.connections.at(kPorts).guest_ended);
  receive_buffer();
  host.deliver(kPorts, "last words");
  EXPECT_EQ(next(false)->data, "last words");
  send({.op = kShutdown, .flags = 1});
  expect_next(kReset);
  EXPECT_TRUE(host.connections.empty());
}

TEST_F(VsockTest, TheHostsEndReachesTheGuestBehindItsData) {
  make();
  connect();
  host.connections.at(kPorts).waiting = "data";
  host.end(kPorts);
  EXPECT_EQ(next()->data, "data");
  expect_next(kShutdown, 2);
  send({.op = kReadWrite, .data = "still"});
  EXPECT_EQ(host.connections.at(kPorts).received, "still");
  receive_buffer();
  host.vanish(kPorts);
  const auto both = next(false);
  ASSERT_TRUE(both);
  EXPECT_EQ(both->op, kShutdown);
  EXPECT_EQ(both->flags, 3u);
  send({.op = kReset});
  EXPECT_TRUE(host.connections.empty());
}

TEST_F(VsockTest, SeqpacketKeepsTheBordersOfMessages) {
  make();
  connect({.type = kSeqpacket});
  send({.type = kSeqpacket, .op = kReadWrite, .data = "one "});
  send({.type = kSeqpacket, .op = kReadWrite, .flags = 1, .data = "message"});
  send({.type = kSeqpacket, .op = kReadWrite, .flags = 1, .data = "two"});
  EXPECT_EQ(host.connections.at(kPorts).messages, (std::vector<std::size_t>{11, 14}));
  receive_buffer(44 + 4);
  receive_buffer(44 + 100);
  host.deliver(kPorts, "answer");
  const auto first = next(false), second = next(false);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->data + "|" + second->data, "answ|er");
  EXPECT_EQ(first->flags, 0u);
  EXPECT_EQ(second->flags, 1u);
}

TEST_F(VsockTest, WhatIsNotNegotiatedOrNotKnownIsReset) {
  make(VirtioDriver::kVersion1 | 1);
  send({.type = kSeqpacket});
  expect_next(kReset);
  send({.type = 9});
  expect_next(kReset);
  send({.op = kReadWrite, .data = "nobody"});
  expect_next(kReset);
  send({.op = kReset});
  EXPECT_FALSE(next());
  connect();
  send({.op = 77});
  receive_buffer();
  EXPECT_EQ(next(false)->op, kReset);
  EXPECT_TRUE(host.connections.empty());
}

TEST_F(VsockTest, ForgedAddressesAndLengthsAreDropped) {
  make();
  connect();
  send({.from = 4, .op = kReset});
  send({.to = 5, .op = kReset});
  send({.op = kReadWrite, .data = "short", .length = 6});
  send({.op = kReadWrite, .data = "short", .length = 0xFFFFFFFF});
  EXPECT_FALSE(next());
  EXPECT_EQ(host.connections.at(kPorts).received, "");
  (void)driver.request(1, Bytes(43), 0);
  EXPECT_EQ(driver.status(), 15);
}

TEST_F(VsockTest, ASecondRequestEndsTheConnection) {
  make();
  connect();
  send({});
  expect_next(kReset);
  EXPECT_TRUE(host.connections.empty());
}

TEST_F(VsockTest, AFloodOfConnectionsIsBounded) {
  make();
  unsigned resets = 0;
  for (std::uint32_t port = 0; port < Vsock::kMostConnections + 10; ++port) {
    send({.from_port = port});
    const auto answer = next();
    ASSERT_TRUE(answer);
    resets += answer->op == kReset;
  }
  EXPECT_EQ(host.connections.size(), Vsock::kMostConnections);
  EXPECT_EQ(resets, 10u);
}

TEST_F(VsockTest, NothingMoreIsTakenFromAGuestThatTakesNoAnswers) {
  make();
  std::size_t taken = 0;
  const Bytes request = [] {
    Bytes raw(44);
    raw[0] = 3, raw[8] = 2, raw[20] = 200, raw[28] = 1, raw[30] = 1;
    return raw;
  }();
  const mem::Gpa at = driver.place(request);
  for (unsigned i = 0; i < Vsock::kMostAnswers + 40; ++i) {
    const VirtioDriver::Part part{at, 44, false};
    if (driver.ring(1).free.empty()) break;
    driver.add(1, {&part, 1});
    driver.kick(1);
    taken += driver.used(1).has_value();
  }
  EXPECT_EQ(taken, Vsock::kMostAnswers);
  // It goes on as soon as the guest takes them.
  for (unsigned i = 0; i < 60; ++i) {
    receive_buffer(64);
    (void)driver.used(0);
  }
  machine.clock.advance(1'000'000);
  EXPECT_TRUE(driver.used(1));
}

TEST_F(VsockTest, AReceiveBufferWithoutRoomForAHeaderBreaksTheDevice) {
  make();
  receive_buffer(40);
  send({});
  EXPECT_TRUE(driver.status() & 0x40);
}

TEST_F(VsockTest, ConnectionsThatCannotGoAlongAreToldOfAfterALoad) {
  make();
  connect();
  const Bytes saved = testing::saved_state(*vsock);
  ASSERT_TRUE(testing::load_state(*vsock, saved));
  EXPECT_TRUE(host.connections.empty());
  const VirtioDriver::Part part{driver.room(4), 4, true};
  driver.add(2, {&part, 1});
  driver.kick(2);
  const auto event = driver.used(2);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->length, 4u);
  EXPECT_EQ(driver.bytes_at(part.address, 4), Bytes(4));  // TRANSPORT_RESET
}

TEST_F(VsockTest, AResetClosesEverything) {
  make();
  connect();
  driver.write(0x70, 0);
  EXPECT_TRUE(host.connections.empty());
  EXPECT_EQ(host.call(1, core::VsockKind::stream), std::nullopt);
}

}  // namespace
}  // namespace husk::devices::virtio
