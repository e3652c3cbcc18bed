// husk: tests of the ACPI fixed hardware against ACPI 6.4 chapter 4.8 and the ICH9 data sheet
#include <gtest/gtest.h>

#include "devices/acpi/pm.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

using Shutdown = core::MachineControl::Shutdown;

struct AcpiTest : ::testing::Test {
  std::unique_ptr<AcpiPm> make(AcpiPm::Config config = {}) {
    return AcpiPm::create({.io = machine.io_space,
                           .clock = machine.clock,
                           .sci = machine.lines.line(9),
                           .control = machine.control,
                           .log = machine.log},
                          config)
        .value();
  }
  bool sci() const { return machine.lines.level(9); }
  husk::testing::TestMachine machine;
  std::unique_ptr<AcpiPm> pm = make();
};

TEST_F(AcpiTest, ResetValuesAreAllOffInAcpiMode) {
  EXPECT_EQ(machine.in16(0x600), 0);
  EXPECT_EQ(machine.in16(0x602), 0);
  EXPECT_EQ(machine.in16(0x604), 1) << "SCI_EN";
  EXPECT_EQ(machine.in32(0x620), 0u);
  EXPECT_EQ(machine.in32(0x628), 0u);
}

TEST_F(AcpiTest, TimerRunsAt3579545Hertz) {
  EXPECT_EQ(machine.in32(0x608), 0u);
  machine.clock.advance(core::kNanosecondsPerSecond);
  EXPECT_EQ(machine.in32(0x608), 3579545u);
  machine.out32(0x608, 0);
  EXPECT_EQ(machine.in32(0x608), 3579545u) << "read only";
  EXPECT_EQ(machine.in8(0x60A), 0x36u) << "3579545 is 369E99h";
}

TEST_F(AcpiTest, TimerOverflowSetsStatusAndRaisesSciWhenTheTopBitChanges) {
  machine.out16(0x602, 0x0001);
  const core::VmTime top = core::time_of_tick(std::uint64_t{1} << 31, 3579545);
  machine.clock.advance_to(top - 1000);
  EXPECT_EQ(machine.in16(0x600), 0);
  EXPECT_FALSE(sci());
  machine.clock.advance_to(top);
  EXPECT_TRUE(sci());
  EXPECT_EQ(machine.in16(0x600), 1);
  EXPECT_EQ(machine.in32(0x608), 0x80000000u);
  machine.out16(0x600, 1);
  EXPECT_FALSE(sci());
  machine.clock.advance_to(core::time_of_tick(std::uint64_t{1} << 32, 3579545));
  EXPECT_TRUE(sci()) << "both directions count";
  EXPECT_EQ(machine.in32(0x608), 0u);
}

TEST_F(AcpiTest, OverflowIsSeenWithoutTheInterruptEnabled) {
  machine.clock.advance_to(core::time_of_tick(std::uint64_t{1} << 31, 3579545));
  EXPECT_EQ(machine.in16(0x600), 1);
  EXPECT_FALSE(sci());
  EXPECT_FALSE(machine.clock.next_deadline()) << "no timer runs for a status that is worked out on reading";
}

TEST_F(AcpiTest, PowerButtonRaisesSciOnlyWhenEnabledAndIsClearedByWritingOne) {
  pm->press_power_button();
  EXPECT_FALSE(sci());
  EXPECT_EQ(machine.in16(0x600), 0x0100);
  machine.out16(0x602, 0x0100);
  EXPECT_TRUE(sci());
  machine.out16(0x600, 0xFEFF);
  EXPECT_TRUE(sci());
  machine.out16(0x600, 0x0100);
  EXPECT_FALSE(sci());
  EXPECT_EQ(machine.in16(0x600), 0);
}

TEST_F(AcpiTest, SleepTypeFiveSwitchesOff) {
  machine.out16(0x604, (7 << 10) | 1);
  EXPECT_TRUE(machine.control.shutdowns.empty()) << "SLP_EN is not set";
  machine.out16(0x604, (7 << 10) | (1 << 13) | 1);
  ASSERT_EQ(machine.control.shutdowns.size(), 1u);
  EXPECT_EQ(machine.control.shutdowns[0], std::make_pair(Shutdown::power_off, 0));
  EXPECT_EQ(machine.in16(0x604), (7 << 10) | 1) << "SLP_EN is write only";
}

TEST_F(AcpiTest, SleepStatesNotOfferedWakeAtOnce) {
  machine.out16(0x604, (5 << 10) | (1 << 13) | 1);
  EXPECT_TRUE(machine.control.shutdowns.empty());
  EXPECT_EQ(machine.in16(0x600), 0x8000) << "WAK_STS";
}

TEST_F(AcpiTest, GeneralPurposeEventsHoldTheirStatusWhileTheInputIsActive) {
  machine.out8(0x628, 0x02);
  pm->set_gpe(1, true);
  EXPECT_TRUE(sci());
  machine.out8(0x620, 0x02);
  EXPECT_TRUE(sci()) << "still active";
  pm->set_gpe(1, false);
  EXPECT_TRUE(sci());
  machine.out8(0x620, 0x02);
  EXPECT_FALSE(sci());
  pm->pulse_gpe(1);
  EXPECT_EQ(machine.in8(0x620), 0x02);
  machine.out8(0x620, 0x02);
  EXPECT_EQ(machine.in8(0x620), 0x00);
  pm->pulse_gpe(63);
  EXPECT_EQ(machine.in8(0x627), 0x80);
}

TEST_F(AcpiTest, SmiCommandPortSwitchesAcpiModeOnAndOff) {
  machine.out8(0xB2, AcpiPm::kAcpiDisable);
  EXPECT_EQ(machine.in16(0x604) & 1, 0);
  machine.out16(0x602, 0x0100);
  pm->press_power_button();
  EXPECT_FALSE(sci());
  machine.out8(0xB2, AcpiPm::kAcpiEnable);
  EXPECT_EQ(machine.in16(0x604) & 1, 1);
  EXPECT_TRUE(sci());
  machine.out8(0xB3, 0x77);
  EXPECT_EQ(machine.in16(0xB2), 0x7700 | AcpiPm::kAcpiEnable);
}

TEST_F(AcpiTest, BlockMovesAndDisappears) {
  pm->set_base(0xB000);
  EXPECT_EQ(machine.in16(0x604), 0xFFFF);
  EXPECT_EQ(machine.in16(0xB004), 1);
  pm->set_base(std::nullopt);
  EXPECT_EQ(machine.in16(0xB004), 0xFFFF);
  pm->reset(core::ResetKind::warm);
  EXPECT_EQ(machine.in16(0x604), 1);
}

TEST_F(AcpiTest, LoadRearmsTheOverflowTimer) {
  machine.out16(0x602, 0x0001);
  const auto bytes = husk::testing::saved_state(*pm);
  pm->reset(core::ResetKind::power_on);
  EXPECT_FALSE(machine.clock.next_deadline());
  ASSERT_TRUE(husk::testing::load_state(*pm, bytes));
  EXPECT_EQ(machine.clock.next_deadline(), core::time_of_tick(std::uint64_t{1} << 31, 3579545));
}

TEST(AcpiState, SurvivesDamage) {
  husk::testing::TestMachine machine;
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return AcpiPm::create({.io = machine.io_space,
                               .clock = machine.clock,
                               .sci = {},
                               .control = machine.control,
                               .log = machine.log},
                              {})
            .value();
      },
      [&](core::Device& device) {
        machine.out16(0x602, 0x0101);
        static_cast<AcpiPm&>(device).press_power_button();
        static_cast<AcpiPm&>(device).set_gpe(3, true);
      });
}

}  // namespace
}  // namespace husk::devices
