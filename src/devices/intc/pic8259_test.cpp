// husk: tests of the 8259A pair; expected values from Intel 231468-003 and the 82371SB datasheet
#include "devices/intc/pic8259.h"

#include <gtest/gtest.h>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

struct PicTest : ::testing::Test {
  husk::testing::TestMachine m;
  PicPair pic{{m.io_space, nullptr, m.lines.line(0), true}};

  /// As Linux's init_8259A does: vectors 30h and 38h.
  void initialise(std::uint8_t icw4_master = 0x01, std::uint8_t icw4_slave = 0x01) {
    m.out8(0x20, 0x11), m.out8(0x21, 0x30), m.out8(0x21, 0x04), m.out8(0x21, icw4_master);
    m.out8(0xA0, 0x11), m.out8(0xA1, 0x38), m.out8(0xA1, 0x02), m.out8(0xA1, icw4_slave);
  }
  bool interrupt() const { return m.lines.level(0); }
  void pulse(unsigned irq) {
    pic.set_pin(irq, true);
    pic.set_pin(irq, false);
  }
  std::uint8_t isr(std::uint16_t port) {
    m.out8(port, 0x0B);
    return m.in8(port);
  }
  std::uint8_t irr(std::uint16_t port) {
    m.out8(port, 0x0A);
    return m.in8(port);
  }
};

TEST_F(PicTest, InitialisationClearsMasksAndSetsVectors) {
  m.out8(0x21, 0xFF);
  initialise();
  EXPECT_EQ(m.in8(0x21), 0);
  pulse(3);
  EXPECT_TRUE(interrupt());
  EXPECT_EQ(pic.acknowledge(), 0x33);
  EXPECT_FALSE(interrupt());
  EXPECT_EQ(isr(0x20), 0x08);
  m.out8(0x20, 0x20);
  EXPECT_EQ(isr(0x20), 0);
}

TEST_F(PicTest, IcwSequenceWithoutIcw4AndInSingleModeSkipsThem) {
  m.out8(0x20, 0x10), m.out8(0x21, 0x40), m.out8(0x21, 0x04);
  m.out8(0x21, 0x5A);
  EXPECT_EQ(m.in8(0x21), 0x5A) << "after ICW3 the next write is OCW1";
  m.out8(0x20, 0x12), m.out8(0x21, 0x40);
  m.out8(0x21, 0xA5);
  EXPECT_EQ(m.in8(0x21), 0xA5) << "single mode has no ICW3";
}

TEST_F(PicTest, HigherPriorityNestsLowerWaits) {
  initialise();
  pulse(4);
  EXPECT_EQ(pic.acknowledge(), 0x34);
  pulse(5);
  EXPECT_FALSE(interrupt());
  pulse(1);
  EXPECT_TRUE(interrupt());
  EXPECT_EQ(pic.acknowledge(), 0x31);
  EXPECT_EQ(isr(0x20), 0x12);
  m.out8(0x20, 0x20);
  EXPECT_EQ(isr(0x20), 0x10) << "non-specific EOI ends the highest";
  EXPECT_FALSE(interrupt());
  m.out8(0x20, 0x64);
  EXPECT_TRUE(interrupt()) << "specific EOI of 4 lets 5 through";
  EXPECT_EQ(pic.acknowledge(), 0x35);
}

TEST_F(PicTest, SlaveVectorComesThroughTheCascade) {
  initialise();
  pulse(12);
  EXPECT_EQ(irr(0x20), 0x04);
  EXPECT_EQ(pic.acknowledge(), 0x3C);
  EXPECT_EQ(isr(0x20), 0x04);
  EXPECT_EQ(isr(0xA0), 0x10);
  pulse(8);
  EXPECT_FALSE(interrupt()) << "fully nested: the master holds the whole slave back";
  m.out8(0xA0, 0x20), m.out8(0x20, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x38);
}

TEST_F(PicTest, SpecialFullyNestedModeLetsTheSlaveInterruptItself) {
  initialise(0x11);
  pulse(12);
  EXPECT_EQ(pic.acknowledge(), 0x3C);
  pulse(13);
  EXPECT_FALSE(interrupt());
  pulse(8);
  EXPECT_TRUE(interrupt());
  EXPECT_EQ(pic.acknowledge(), 0x38);
}

TEST_F(PicTest, MaskHoldsRequestAndUnmaskReleasesIt) {
  initialise();
  m.out8(0x21, 0x02);
  pulse(1);
  EXPECT_FALSE(interrupt());
  EXPECT_EQ(irr(0x20), 0x02);
  m.out8(0x21, 0);
  EXPECT_TRUE(interrupt());
}

TEST_F(PicTest, AutoEoiLeavesNothingInService) {
  initialise(0x03);
  pulse(6);
  EXPECT_EQ(pic.acknowledge(), 0x36);
  EXPECT_EQ(isr(0x20), 0);
}

TEST_F(PicTest, RotationInAutoEoiMakesTheServedOneLowest) {
  initialise(0x03);
  m.out8(0x20, 0x80);
  pulse(3);
  pic.acknowledge();
  pulse(3), pulse(4), pulse(0);
  EXPECT_EQ(pic.acknowledge(), 0x34);
  EXPECT_EQ(pic.acknowledge(), 0x30);
  EXPECT_EQ(pic.acknowledge(), 0x33);
}

TEST_F(PicTest, RotateOnNonSpecificEoiAsInTheDatasheetExample) {
  // Figure 8: IR4 and IR6 in service, IR4 ended with rotation, then IR5 is the highest and IR4 the lowest.
  initialise();
  pulse(6);
  pic.acknowledge();
  pulse(4);
  pic.acknowledge();
  EXPECT_EQ(isr(0x20), 0x50);
  m.out8(0x20, 0xA0);
  EXPECT_EQ(isr(0x20), 0x40);
  pulse(4), pulse(0);
  EXPECT_FALSE(interrupt()) << "6 is now above 0 and 4";
  pulse(5);
  EXPECT_EQ(pic.acknowledge(), 0x35);
}

TEST_F(PicTest, SetPriorityAndRotateOnSpecificEoi) {
  initialise();
  m.out8(0x20, 0xC5);  // IR5 lowest: IR6 highest
  pulse(5), pulse(6), pulse(0);
  EXPECT_EQ(pic.acknowledge(), 0x36);
  m.out8(0x20, 0xE6);  // end 6, IR6 lowest: IR7 highest, then 0
  EXPECT_EQ(pic.acknowledge(), 0x30);
}

TEST_F(PicTest, SpecialMaskModeLetsLowerLevelsThrough) {
  initialise();
  pulse(4);
  pic.acknowledge();
  pulse(6);
  EXPECT_FALSE(interrupt());
  m.out8(0x21, 0x10);
  EXPECT_FALSE(interrupt());
  m.out8(0x20, 0x68);
  EXPECT_TRUE(interrupt());
  EXPECT_EQ(pic.acknowledge(), 0x36);
  m.out8(0x20, 0x20);
  EXPECT_EQ(isr(0x20), 0x10) << "a masked level is not ended by a non-specific EOI in special mask mode";
  m.out8(0x20, 0x20);
  EXPECT_EQ(isr(0x20), 0x10);
  m.out8(0x20, 0x64);
  EXPECT_EQ(isr(0x20), 0);
}

TEST_F(PicTest, PollReturnsTheLevelAndAcknowledges) {
  initialise();
  m.out8(0x20, 0x0C);
  EXPECT_EQ(m.in8(0x20), 0x00);
  pulse(5);
  m.out8(0x20, 0x0C);
  EXPECT_EQ(m.in8(0x20), 0x85);
  EXPECT_FALSE(interrupt());
  EXPECT_EQ(isr(0x20), 0x20);
}

TEST_F(PicTest, SpuriousInterruptIsIr7WithoutServiceBit) {
  initialise();
  m.out8(0x4D0, 0x20);
  pic.set_pin(5, true);
  EXPECT_TRUE(interrupt());
  pic.set_pin(5, false);
  EXPECT_FALSE(interrupt());
  EXPECT_EQ(pic.acknowledge(), 0x37);
  EXPECT_EQ(isr(0x20), 0);
}

TEST_F(PicTest, SpuriousInterruptOfTheSlaveLeavesTheCascadeInService) {
  // The slave withdraws between the two INTA pulses, which here means: masked slave, but the master has IR2 in special
  // fully nested mode. The pair never shows that, so drive the chips themselves.
  Pic8259::State state;
  Pic8259 slave(state, 0, false);
  slave.write(false, 0x11), slave.write(true, 0x38), slave.write(true, 2), slave.write(true, 1);
  EXPECT_EQ(slave.take(), std::nullopt);
  EXPECT_EQ(slave.vector(7), 0x3F);
  EXPECT_EQ(state.isr, 0);
}

TEST_F(PicTest, LevelInputsRequestUntilReleased) {
  initialise();
  m.out8(0x4D1, 0x0C);
  EXPECT_EQ(m.in8(0x4D1), 0x0C);
  pic.set_pin(10, true);
  EXPECT_EQ(pic.acknowledge(), 0x3A);
  m.out8(0xA0, 0x20), m.out8(0x20, 0x20);
  EXPECT_TRUE(interrupt()) << "still asserted";
  pic.acknowledge();
  pic.set_pin(10, false);
  m.out8(0xA0, 0x20), m.out8(0x20, 0x20);
  EXPECT_FALSE(interrupt());
}

TEST_F(PicTest, ElcrKeepsEdgeOnlyInputsAtZero) {
  m.out8(0x4D0, 0xFF), m.out8(0x4D1, 0xFF);
  EXPECT_EQ(m.in8(0x4D0), 0xF8);
  EXPECT_EQ(m.in8(0x4D1), 0xDE);
}

TEST_F(PicTest, EdgeInputNeedsANewEdge) {
  initialise();
  pic.set_pin(3, true);
  pic.acknowledge();
  m.out8(0x20, 0x20);
  EXPECT_FALSE(interrupt());
  pic.set_pin(3, true);
  EXPECT_FALSE(interrupt());
  pic.set_pin(3, false);
  pic.set_pin(3, true);
  EXPECT_TRUE(interrupt());
}

TEST_F(PicTest, Icw1ResetsTheEdgeLatch) {
  initialise();
  pulse(3);
  initialise();
  EXPECT_EQ(irr(0x20), 0);
  EXPECT_FALSE(interrupt());
}

TEST_F(PicTest, RestoredPinMakesNoEdge) {
  initialise();
  pic.restore_pin(4, true);
  EXPECT_FALSE(interrupt());
}

TEST(PicState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  husk::testing::check_device_state(
      [&] { return std::make_unique<PicPair>(PicPair::Deps{m.io_space, nullptr, {}, true}); },
      [&](core::Device& device) {
        m.out8(0xA0, 0x11), m.out8(0xA1, 0x38), m.out8(0xA1, 0x02), m.out8(0xA1, 0x03);
        m.out8(0x4D1, 0x0E);
        m.out8(0x20, 0xC3);
        dynamic_cast<PicPair&>(device).set_pin(9, true);
      });
}

}  // namespace
}  // namespace husk::devices
