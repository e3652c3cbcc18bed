// husk: tests of the I/O APIC; expected values from the 82093AA datasheet
#include "devices/intc/ioapic.h"

#include <gtest/gtest.h>

#include <vector>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

struct BusRecorder : InterruptBus {
  bool deliver(const ApicMessage& message) override {
    sent.push_back(message);
    return accept;
  }
  std::vector<ApicMessage> sent;
  bool accept = true;
};

struct IoapicTest : ::testing::Test {
  husk::testing::TestMachine m;
  BusRecorder bus;
  Ioapic ioapic{{m.memory_space, nullptr, bus, 2}};

  std::uint32_t read(unsigned index) {
    m.mmio_write(0xFEC00000, index, 4);
    return static_cast<std::uint32_t>(m.mmio_read(0xFEC00010, 4));
  }
  void write(unsigned index, std::uint32_t value) {
    m.mmio_write(0xFEC00000, index, 4);
    m.mmio_write(0xFEC00010, value, 4);
  }
  void entry(unsigned pin, std::uint64_t value) {
    write(0x11 + 2 * pin, static_cast<std::uint32_t>(value >> 32));
    write(0x10 + 2 * pin, static_cast<std::uint32_t>(value));
  }
};

TEST_F(IoapicTest, IdentifiesItself) {
  EXPECT_EQ(read(0), 0x02000000u);
  EXPECT_EQ(read(1), 0x00170020u);
  write(0, 0xFFFFFFFF);
  EXPECT_EQ(read(0), 0x0F000000u);
  EXPECT_EQ(read(2), 0x0F000000u);
  EXPECT_EQ(read(0x40), 0u);
}

TEST_F(IoapicTest, EntriesAreMaskedAfterResetAndKeepReadOnlyBits) {
  EXPECT_EQ(read(0x10), 0x00010000u);
  write(0x10, 0xFFFFFFFF);
  EXPECT_EQ(read(0x10), 0x0001AFFFu);
  write(0x3F, 0xFFFFFFFF);
  EXPECT_EQ(read(0x3F), 0xFF000000u);
}

TEST_F(IoapicTest, EdgeSendsOncePerEdgeWithVectorAndDestination) {
  entry(4, 0x03000000'00000834);  // logical 3, vector 34h
  ioapic.set_pin(4, true);
  ioapic.set_pin(4, true);
  ASSERT_EQ(bus.sent.size(), 1u);
  EXPECT_EQ(bus.sent[0].vector, 0x34);
  EXPECT_EQ(bus.sent[0].destination, 3u);
  EXPECT_TRUE(bus.sent[0].logical);
  EXPECT_FALSE(bus.sent[0].level);
  ioapic.set_pin(4, false);
  ioapic.set_pin(4, true);
  EXPECT_EQ(bus.sent.size(), 2u);
}

TEST_F(IoapicTest, EdgeOnMaskedPinIsLost) {
  entry(4, 0x10034);
  ioapic.set_pin(4, true);
  entry(4, 0x34);
  EXPECT_TRUE(bus.sent.empty());
}

TEST_F(IoapicTest, LevelWaitsForEoiAndRequestsAgainWhileAsserted) {
  entry(17, 0x8041);
  ioapic.set_pin(17, true);
  EXPECT_EQ(bus.sent.size(), 1u);
  EXPECT_TRUE(bus.sent[0].level);
  EXPECT_EQ(read(0x10 + 34), 0xC041u) << "remote IRR";
  ioapic.set_pin(17, false);
  ioapic.set_pin(17, true);
  EXPECT_EQ(bus.sent.size(), 1u);
  ioapic.end_of_interrupt(0x42);
  EXPECT_EQ(bus.sent.size(), 1u) << "another vector's EOI";
  ioapic.end_of_interrupt(0x41);
  EXPECT_EQ(bus.sent.size(), 2u);
  ioapic.set_pin(17, false);
  m.mmio_write(0xFEC00040, 0x41, 4);
  EXPECT_EQ(bus.sent.size(), 2u);
  EXPECT_EQ(read(0x10 + 34), 0x8041u);
}

TEST_F(IoapicTest, UnmaskingAnAssertedLevelPinSends) {
  entry(17, 0x18041);
  ioapic.set_pin(17, true);
  EXPECT_TRUE(bus.sent.empty());
  entry(17, 0x8041);
  EXPECT_EQ(bus.sent.size(), 1u);
}

TEST_F(IoapicTest, RemoteIrrIsNotWritableButGoesWhenMadeEdge) {
  entry(17, 0x8041);
  ioapic.set_pin(17, true);
  entry(17, 0x18041);
  EXPECT_EQ(read(0x10 + 34), 0x1C041u);
  entry(17, 0x10041);
  entry(17, 0x18041);
  EXPECT_EQ(read(0x10 + 34), 0x18041u);
}

TEST_F(IoapicTest, LevelMessageThatNobodyTakesSetsNoRemoteIrr) {
  bus.accept = false;
  entry(17, 0x8041);
  ioapic.set_pin(17, true);
  EXPECT_EQ(read(0x10 + 34), 0x8041u);
}

TEST_F(IoapicTest, NmiAndExtIntAreEdgesWhateverTheTriggerBitSays) {
  entry(0, 0x8700);
  ioapic.set_pin(0, true);
  ASSERT_EQ(bus.sent.size(), 1u);
  EXPECT_EQ(bus.sent[0].mode, DeliveryMode::ext_int);
  EXPECT_FALSE(bus.sent[0].level);
  EXPECT_EQ(read(0x10), 0x8700u);
}

TEST_F(IoapicTest, DestinationFfIsABroadcast) {
  entry(1, 0xFF000000'00000034);
  ioapic.set_pin(1, true);
  EXPECT_EQ(bus.sent.at(0).destination, ApicMessage::kBroadcast);
}

TEST_F(IoapicTest, RestoredPinSendsNothing) {
  entry(4, 0x34);
  ioapic.restore_pin(4, true);
  EXPECT_TRUE(bus.sent.empty());
}

TEST(IoapicState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  BusRecorder bus;
  husk::testing::check_device_state(
      [&] { return std::make_unique<Ioapic>(Ioapic::Deps{m.memory_space, nullptr, bus}); },
      [&](core::Device& device) {
        m.mmio_write(0xFEC00000, 0x20, 4);
        m.mmio_write(0xFEC00010, 0x8051, 4);
        dynamic_cast<Ioapic&>(device).set_pin(8, true);
      });
}

}  // namespace
}  // namespace husk::devices
