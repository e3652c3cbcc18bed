// husk: the interrupt controllers wired together as on a PC board
#include <gtest/gtest.h>

#include "devices/intc/apic_mmio.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/local_apic.h"
#include "devices/intc/pic8259.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

/// One wire to a pin of the 8259 and a pin of the I/O APIC, as every legacy interrupt goes.
struct BothControllers : core::LineSink {
  void set_pin(unsigned irq, bool level) override {
    pic->set_pin(irq, level);
    ioapic->set_pin(irq == 0 ? 2 : irq, level);
  }
  void restore_pin(unsigned irq, bool level) override {
    pic->restore_pin(irq, level);
    ioapic->restore_pin(irq == 0 ? 2 : irq, level);
  }
  PicPair* pic = nullptr;
  Ioapic* ioapic = nullptr;
};

struct WiringTest : ::testing::Test {
  husk::testing::TestMachine m;
  mem::LockDomain chipset;
  mem::LockDomain cpu_domain;
  husk::testing::FakeCpu pins;
  ApicBus bus;
  ApicMmio mmio{{m.memory_space, bus}};
  Ioapic ioapic{{m.memory_space, &chipset, bus}};
  std::unique_ptr<PicPair> pic;
  LocalApic apic{{.bootstrap = true,
                  .pins = pins,
                  .clock = m.clock,
                  .domain = &cpu_domain,
                  .bus = bus,
                  .ext_int_acknowledge = [this] { return pic->acknowledge(); },
                  .eoi_broadcast = [this](std::uint8_t vector) { ioapic.end_of_interrupt(vector); },
                  .base_changed = [this] { mmio.bases_changed(); }}};
  BothControllers both;
  core::InterruptLine irq0{both, 0};
  core::InterruptLine irq11{both, 11};

  void SetUp() override {
    pic = std::make_unique<PicPair>(PicPair::Deps{m.io_space, &chipset, core::InterruptLine(apic, 0)});
    both.pic = pic.get();
    both.ioapic = &ioapic;
    m.out8(0x20, 0x11), m.out8(0x21, 0x30), m.out8(0x21, 0x04), m.out8(0x21, 0x01);
    m.out8(0xA0, 0x11), m.out8(0xA1, 0x38), m.out8(0xA1, 0x02), m.out8(0xA1, 0x01);
    m.mmio_write(0xFEE000F0, 0x1FF, 4);
  }
  void redirect(unsigned pin, std::uint32_t low) {
    m.mmio_write(0xFEC00000, 0x10 + 2 * pin, 4);
    m.mmio_write(0xFEC00010, low, 4);
  }
};

TEST_F(WiringTest, VirtualWireModeTakesThe8259sVectorThroughLint0) {
  m.mmio_write(0xFEE00350, 0x700, 4);
  irq0.pulse();
  EXPECT_TRUE(apic.pending());
  EXPECT_EQ(apic.acknowledge(), 0x30);
  EXPECT_FALSE(apic.pending());
  m.out8(0x20, 0x20);
  irq0.pulse();
  EXPECT_EQ(apic.acknowledge(), 0x30);
}

TEST_F(WiringTest, LinuxCheckTimerFindsTheTimerOnPin2) {
  m.out8(0x21, 0xFF), m.out8(0xA1, 0xFF);
  m.mmio_write(0xFEE00350, 0x10700, 4);
  redirect(2, 0x30);
  irq0.pulse();
  EXPECT_EQ(apic.acknowledge(), 0x30);
  m.mmio_write(0xFEE000B0, 0, 4);
  EXPECT_FALSE(apic.pending());
}

TEST_F(WiringTest, LevelInterruptComesAgainAfterEoiWhileAsserted) {
  m.out8(0x21, 0xFF), m.out8(0xA1, 0xFF);
  redirect(11, 0x8051);
  irq11.set(true);
  EXPECT_EQ(apic.acknowledge(), 0x51);
  EXPECT_FALSE(apic.pending());
  m.mmio_write(0xFEE000B0, 0, 4);
  EXPECT_EQ(apic.acknowledge(), 0x51);
  irq11.set(false);
  m.mmio_write(0xFEE000B0, 0, 4);
  EXPECT_FALSE(apic.pending());
}

TEST_F(WiringTest, DirectedEoiOfTheIoapicReplacesTheBroadcast) {
  m.out8(0x21, 0xFF), m.out8(0xA1, 0xFF);
  m.mmio_write(0xFEE000F0, 0x11FF, 4);
  redirect(11, 0x8051);
  irq11.set(true);
  EXPECT_EQ(apic.acknowledge(), 0x51);
  m.mmio_write(0xFEE000B0, 0, 4);
  EXPECT_FALSE(apic.pending()) << "no broadcast";
  m.mmio_write(0xFEC00040, 0x51, 4);
  EXPECT_EQ(apic.acknowledge(), 0x51);
}

}  // namespace
}  // namespace husk::devices
