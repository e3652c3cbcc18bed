// husk: tests of the real-time clock; expected values from the MC146818 data sheet and the calendar
#include "devices/timer/rtc_mc146818.h"

#include <gtest/gtest.h>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

constexpr core::VmTime kSecond = 1'000'000'000;

// ManualClock starts at 2023-11-14 22:13:20 UTC, a Tuesday.
struct RtcTest : ::testing::Test {
  husk::testing::TestMachine m;
  std::vector<bool> masks;
  Rtc rtc{{m.io_space, nullptr, m.clock, m.lines.line(8), 0, [this](bool masked) { masks.push_back(masked); }}};

  std::uint8_t get(std::uint8_t index) {
    m.out8(0x70, index);
    return m.in8(0x71);
  }
  void set(std::uint8_t index, std::uint8_t value) {
    m.out8(0x70, index);
    m.out8(0x71, value);
  }
  std::vector<int> date() {
    std::vector<int> bytes;
    for (const unsigned index : {0x32u, 9u, 8u, 7u, 4u, 2u, 0u}) bytes.push_back(get(static_cast<std::uint8_t>(index)));
    return bytes;
  }
  using Date = std::vector<int>;
};

TEST_F(RtcTest, TellsTheHostsTimeInBcd) {
  EXPECT_EQ(date(), (Date{0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20}));
  EXPECT_EQ(get(6), 3) << "Tuesday; Sunday is 1";
  EXPECT_EQ(get(0x0D), 0x80);
  EXPECT_EQ(get(0x0A), 0x26);
  EXPECT_EQ(get(0x0B), 0x02);
  m.clock.advance(100 * kSecond);
  EXPECT_EQ(date(), (Date{0x20, 0x23, 0x11, 0x14, 0x22, 0x15, 0x00}));
}

TEST_F(RtcTest, BinaryAnd12HourModes) {
  set(0x0B, 0x06);
  EXPECT_EQ(date(), (Date{20, 23, 11, 14, 22, 13, 20}));
  set(0x0B, 0x04);
  EXPECT_EQ(get(4), 0x80 | 10);
  set(0x0B, 0x00);
  EXPECT_EQ(get(4), 0x80 | 0x10);
  m.clock.advance(2 * 3600 * kSecond);
  EXPECT_EQ(get(4), 0x12) << "midnight is 12 AM";
  m.clock.advance(12 * 3600 * kSecond);
  EXPECT_EQ(get(4), 0x92) << "noon is 12 PM";
}

TEST_F(RtcTest, StartOffsetShiftsTheTime) {
  husk::testing::TestMachine other;
  Rtc shifted({other.io_space, nullptr, other.clock, {}, 3600});
  other.out8(0x70, 4);
  EXPECT_EQ(other.in8(0x71), 0x23);
}

TEST_F(RtcTest, LinuxSetsTheTimeThroughSetAndDividerReset) {
  // drivers/rtc/rtc-mc146818-lib.c, mc146818_set_time.
  set(0x0B, 0x82);
  set(0x0A, 0x76);
  for (const auto& [index, value] :
       std::vector<std::pair<int, int>>{{9, 0x24}, {8, 0x02}, {7, 0x28}, {4, 0x23}, {2, 0x59}, {0, 0x58}, {0x32, 0x20}})
    set(static_cast<std::uint8_t>(index), static_cast<std::uint8_t>(value));
  m.clock.advance(10 * kSecond);
  EXPECT_EQ(get(0), 0x58) << "stands still";
  set(0x0B, 0x02);
  set(0x0A, 0x26);
  EXPECT_EQ(date(), (Date{0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58}));
  m.clock.advance(kSecond / 2 - 1);
  EXPECT_EQ(get(0), 0x58);
  m.clock.advance(1);
  EXPECT_EQ(get(0), 0x59) << "the first update comes 500 ms after the divider is released";
  m.clock.advance(kSecond);
  EXPECT_EQ(date(), (Date{0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00})) << "2024 is a leap year";
}

TEST_F(RtcTest, WritingOneByteWhileRunningSetsJustThat) {
  m.clock.advance(kSecond / 4);
  set(2, 0x45);
  EXPECT_EQ(date(), (Date{0x20, 0x23, 0x11, 0x14, 0x22, 0x45, 0x20}));
  m.clock.advance(3 * kSecond / 4);
  EXPECT_EQ(get(0), 0x21);
}

TEST_F(RtcTest, CenturyRollsOver) {
  set(0x0B, 0x82);
  for (const auto& [index, value] :
       std::vector<std::pair<int, int>>{{9, 0x99}, {8, 0x12}, {7, 0x31}, {4, 0x23}, {2, 0x59}, {0, 0x59}, {0x32, 0x20}})
    set(static_cast<std::uint8_t>(index), static_cast<std::uint8_t>(value));
  set(0x0B, 0x02);
  m.clock.advance(kSecond);
  EXPECT_EQ(date(), (Date{0x21, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00}));
  EXPECT_EQ(get(6), 6) << "2100-01-01 is a Friday";
}

TEST_F(RtcTest, GarbageInTheClockBytesIsHarmless) {
  for (const unsigned mode : {0x80u, 0x82u, 0x84u, 0x86u}) {
    set(0x0B, static_cast<std::uint8_t>(mode));
    for (const unsigned index : {0u, 2u, 4u, 6u, 7u, 8u, 9u, 0x32u}) set(static_cast<std::uint8_t>(index), 0xFF);
    set(0x0B, static_cast<std::uint8_t>((mode & 0x7F) | 0x70));
    m.clock.advance(2 * kSecond);
    date();
    get(0x0C);
  }
}

TEST_F(RtcTest, UipIsHighBeforeAndDuringTheUpdate) {
  EXPECT_EQ(get(0x0A) & 0x80, 0);
  m.clock.advance(kSecond - 2'228'000 - 1);
  EXPECT_EQ(get(0x0A) & 0x80, 0);
  m.clock.advance(1);
  EXPECT_EQ(get(0x0A) & 0x80, 0x80);
  EXPECT_EQ(get(0), 0x20);
  m.clock.advance(2'228'000);
  EXPECT_EQ(get(0x0A) & 0x80, 0);
  EXPECT_EQ(get(0), 0x21);
  set(0x0B, 0x82);
  m.clock.advance(kSecond - 1);
  EXPECT_EQ(get(0x0A) & 0x80, 0) << "SET inhibits updates";
}

TEST_F(RtcTest, UpdateEndedFlagAndInterrupt) {
  EXPECT_EQ(get(0x0C) & 0x10, 0);
  m.clock.advance(kSecond);
  EXPECT_EQ(get(0x0C), 0x50) << "PF and UF without enables: no IRQF";
  EXPECT_EQ(get(0x0C), 0);
  set(0x0B, 0x12);
  m.clock.advance(kSecond - 1);
  EXPECT_FALSE(m.lines.level(8));
  m.clock.advance(1);
  EXPECT_TRUE(m.lines.level(8));
  m.clock.advance(5 * kSecond);
  EXPECT_EQ(m.lines.edges(8), 1u) << "held until register C is read";
  EXPECT_EQ(get(0x0C) & 0x90, 0x90);
  EXPECT_FALSE(m.lines.level(8));
  m.clock.advance(kSecond);
  EXPECT_TRUE(m.lines.level(8));
}

TEST_F(RtcTest, SetClearsUpdateInterruptEnable) {
  set(0x0B, 0x12);
  set(0x0B, 0x92);
  EXPECT_EQ(get(0x0B), 0x82);
}

TEST_F(RtcTest, PeriodicRatesAreThoseOfTable5) {
  // Interrupts a second at a 32.768 kHz time base.
  const unsigned rates[16] = {0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2};
  for (std::uint8_t rate = 0; rate < 16; ++rate) {
    set(0x0A, static_cast<std::uint8_t>(0x20 | rate));
    set(0x0B, 0x42);
    get(0x0C);
    unsigned count = 0;
    const auto end = m.clock.now() + kSecond;
    while (m.clock.next_deadline() && *m.clock.next_deadline() <= end) {
      m.clock.advance_to(*m.clock.next_deadline());
      if (m.lines.level(8)) ++count, get(0x0C);
    }
    m.clock.advance_to(end);
    get(0x0C);
    EXPECT_EQ(count, rates[rate]) << unsigned{rate};
    set(0x0B, 0x02);
  }
}

TEST_F(RtcTest, AlarmMatchesAllThreeOrAnythingWhereDontCare) {
  set(1, 0x30), set(3, 0x13), set(5, 0x22);
  set(0x0B, 0x22);
  m.clock.advance(10 * kSecond - 1);
  EXPECT_FALSE(m.lines.level(8));
  m.clock.advance(1);
  EXPECT_TRUE(m.lines.level(8));
  EXPECT_EQ(get(0x0C) & 0xA0, 0xA0);
  m.clock.advance(86'400 * kSecond - 1);
  EXPECT_FALSE(m.lines.level(8));
  m.clock.advance(1);
  EXPECT_TRUE(m.lines.level(8)) << "every day";
  get(0x0C);
  set(5, 0xC0), set(3, 0xFF), set(1, 0x45);
  m.clock.advance(15 * kSecond);
  EXPECT_TRUE(m.lines.level(8)) << "every minute";
  get(0x0C);
  set(1, 0xFF);
  m.clock.advance(kSecond);
  EXPECT_TRUE(m.lines.level(8)) << "every second";
}

TEST_F(RtcTest, AlarmFlagIsSetWithoutItsEnableAndImpossibleAlarmNever) {
  set(1, 0x25), set(3, 0xC0), set(5, 0xC0);
  get(0x0C);
  m.clock.advance(4 * kSecond);
  EXPECT_EQ(get(0x0C) & 0x20, 0);
  m.clock.advance(kSecond);
  EXPECT_EQ(get(0x0C) & 0x20, 0x20);
  set(1, 0x77);
  m.clock.advance(200'000 * kSecond);
  EXPECT_EQ(get(0x0C) & 0x20, 0);
}

TEST_F(RtcTest, CmosRamAndItsUpperHalf) {
  set(0x40, 0xAB);
  EXPECT_EQ(get(0x40), 0xAB);
  m.out8(0x72, 0x40);
  EXPECT_EQ(m.in8(0x73), 0);
  m.out8(0x73, 0xCD);
  EXPECT_EQ(m.in8(0x73), 0xCD);
  EXPECT_EQ(get(0x40), 0xAB);
  EXPECT_EQ(rtc.cmos(0xC0), 0xCD);
}

TEST_F(RtcTest, Port70Bit7MasksNmi) {
  m.out8(0x70, 0x8F);
  m.out8(0x70, 0x8D);
  EXPECT_EQ(m.in8(0x71), 0x80);
  m.out8(0x70, 0x0D);
  EXPECT_EQ(masks, (std::vector<bool>{true, false}));
}

TEST_F(RtcTest, MemorySizeAndChecksum) {
  rtc.set_memory_size(std::uint64_t{3} << 30, std::uint64_t{5} << 30);
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x17) | get(0x18) << 8, 0xFFFF);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, ((3 << 10) - 16) * 16);
  EXPECT_EQ(get(0x5B) | get(0x5C) << 8 | get(0x5D) << 16, 5 * 16384);
  rtc.set_cmos(0x10, 0x40);
  rtc.update_checksum();
  unsigned sum = 0;
  for (std::uint8_t n = 0x10; n <= 0x2D; ++n) sum += get(n);
  EXPECT_EQ(static_cast<unsigned>(get(0x2E) << 8 | get(0x2F)), sum);
}

TEST_F(RtcTest, ResetKeepsTimeAndRamAndClearsEnables) {
  set(0x40, 0x11), set(2, 0x45), set(0x0B, 0x7A);
  m.clock.advance(2 * kSecond);
  EXPECT_TRUE(m.lines.level(8));
  rtc.reset(core::ResetKind::power_on);
  EXPECT_FALSE(m.lines.level(8));
  EXPECT_EQ(get(0x0B), 0x02);
  EXPECT_EQ(get(0x40), 0x11);
  EXPECT_EQ(get(2), 0x45);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
}

TEST_F(RtcTest, DisabledOutputKeepsTheLineDownButSetsFlags) {
  rtc.set_output_disabled(true);
  set(0x0B, 0x12);
  m.clock.advance(2 * kSecond);
  EXPECT_FALSE(m.lines.level(8));
  rtc.set_output_disabled(false);
  EXPECT_TRUE(m.lines.level(8));
  EXPECT_EQ(get(0x0C) & 0x90, 0x90);
}

TEST_F(RtcTest, NoInterruptsEnabledMeansNoTimer) { EXPECT_EQ(m.clock.next_deadline(), std::nullopt); }

TEST(RtcState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  husk::testing::check_device_state([&] { return std::make_unique<Rtc>(Rtc::Deps{m.io_space, nullptr, m.clock}); },
                                    [&](core::Device&) {
                                      const auto set = [&](std::uint8_t index, std::uint8_t value) {
                                        m.out8(0x70, index);
                                        m.out8(0x71, value);
                                      };
                                      set(2, 0x33), set(0x40, 1), set(5, 0xC0), set(0x0B, 0x72);
                                      m.clock.advance(1'500'000'000);
                                    });
}

}  // namespace
}  // namespace husk::devices
