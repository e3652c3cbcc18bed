// husk: tests of the HPET; expected values from the IA-PC HPET specification 1.0a
#include "devices/timer/hpet.h"

#include <gtest/gtest.h>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

constexpr std::uint64_t kBase = 0xFED00000;
constexpr core::VmTime kTick = 10;

struct HpetTest : ::testing::Test {
  husk::testing::TestMachine m;
  std::vector<bool> legacy;
  Hpet hpet{deps()};

  Hpet::Deps deps() {
    std::vector<core::InterruptLine> routes;
    for (unsigned pin = 0; pin < 24; ++pin) routes.push_back(m.lines.line(pin));
    return {.memory_space = m.memory_space,
            .clock = m.clock,
            .msi = m.msi,
            .requester_id = 0xF0,
            .routes = std::move(routes),
            .irq0 = m.lines.line(100),
            .irq8 = m.lines.line(108),
            .legacy_replacement = [this](bool on) { legacy.push_back(on); }};
  }
  std::uint64_t get(std::uint64_t offset, unsigned size = 8) { return m.mmio_read(kBase + offset, size); }
  void set(std::uint64_t offset, std::uint64_t value, unsigned size = 8) { m.mmio_write(kBase + offset, value, size); }
  void ticks(std::uint64_t count) { m.clock.advance(count * kTick); }
};

TEST_F(HpetTest, CapabilitiesSayTenNanosecondsThreeTimersLegacy64Bit) {
  EXPECT_EQ(get(0), 0x00989680'8086A201u);
  EXPECT_EQ(get(4, 4), 10'000'000u);
  set(0, ~0ull);
  EXPECT_EQ(get(0), 0x00989680'8086A201u);
  EXPECT_EQ(hpet.block_id(), 0x8086A201u);
}

TEST_F(HpetTest, TimerCapabilitiesAreReadOnly) {
  EXPECT_EQ(get(0x100), 0x00FF0104'00008030u);
  set(0x100, ~0ull);
  EXPECT_EQ(get(0x100) >> 32, 0x00FF0104u);
  EXPECT_EQ(get(0x100) & 0x8030, 0x8030u);
  EXPECT_EQ(get(0x108), 0xFFFFFFFFu) << "32-bit mode cuts the comparator";
  EXPECT_EQ(get(0x160), 0u) << "there is no fourth timer";
}

TEST_F(HpetTest, CounterRunsAt100MhzOnlyWhileEnabled) {
  ticks(50);
  EXPECT_EQ(get(0xF0), 0u);
  set(0xF0, 0x1'00000000);
  set(0x10, 1);
  ticks(7);
  EXPECT_EQ(get(0xF0), 0x1'00000007u);
  EXPECT_EQ(get(0xF4, 4), 1u);
  set(0xF0, 0);
  EXPECT_EQ(get(0xF0), 0x1'00000007u) << "not writable while running";
  set(0x10, 0);
  ticks(100);
  EXPECT_EQ(get(0xF0), 0x1'00000007u);
  set(0x10, 1);
  m.clock.advance(1'000'000'000);
  EXPECT_EQ(get(0xF0), 0x1'00000007u + 100'000'000);
}

TEST_F(HpetTest, OneShotEdgeInterruptOnItsRoute) {
  set(0x120, 20u << 9 | 4);
  set(0x128, 1000);
  set(0x10, 1);
  ticks(999);
  EXPECT_EQ(m.lines.edges(20), 0u);
  ticks(1);
  EXPECT_EQ(m.lines.edges(20), 1u);
  EXPECT_FALSE(m.lines.level(20));
  EXPECT_EQ(get(0x20), 0u) << "edge-triggered: no status";
  m.clock.advance(100'000'000'000);
  EXPECT_EQ(m.lines.edges(20), 1u);
}

TEST_F(HpetTest, LevelInterruptHoldsUntilStatusIsWritten) {
  set(0x140, 21u << 9 | 4 | 2);
  set(0x148, 100);
  set(0x10, 1);
  ticks(100);
  EXPECT_TRUE(m.lines.level(21));
  EXPECT_EQ(get(0x20), 4u);
  set(0x20, 3);
  EXPECT_TRUE(m.lines.level(21));
  set(0x20, 4);
  EXPECT_FALSE(m.lines.level(21));
  EXPECT_EQ(get(0x20), 0u);
}

TEST_F(HpetTest, LevelStatusIsSetEvenWithoutInterruptEnable) {
  set(0x140, 21u << 9 | 2);
  set(0x148, 100);
  set(0x10, 1);
  ticks(100);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
  EXPECT_EQ(get(0x20), 4u);
  EXPECT_FALSE(m.lines.level(21));
}

TEST_F(HpetTest, LinuxPeriodicLegacySetup) {
  // arch/x86/kernel/hpet.c, hpet_clkevt_set_state_periodic and hpet_enable_legacy_int.
  set(0x10, 1, 4);
  const auto config = get(0x100, 4);
  set(0x100, config | 4 | 8 | 0x40 | 0x100, 4);
  const std::uint64_t delta = 400'000;  // 4 ms
  const auto now = get(0xF0, 4);
  set(0x108, now + delta, 4);
  set(0x108, delta, 4);
  set(0x10, get(0x10, 4) | 3, 4);
  EXPECT_EQ(legacy, std::vector<bool>{true});
  m.clock.advance(1'000'000'000);
  EXPECT_EQ(m.lines.edges(100), 250u);
  m.clock.advance(9'000'000'000);
  EXPECT_EQ(m.lines.edges(100), 2500u) << "across the wrap of the 32-bit comparator, no drift";
  m.clock.advance(90'000'000'000);
  EXPECT_EQ(m.lines.edges(100), 25000u);
  set(0x10, 1, 4);
  EXPECT_EQ(legacy.back(), false);
}

TEST_F(HpetTest, LinuxOneShotNextEvent) {
  set(0x10, 3);
  set(0x100, 4 | 0x100, 4);
  for (unsigned n = 1; n <= 5; ++n) {
    set(0x108, get(0xF0, 4) + 100'000, 4);
    m.clock.advance(999'999);
    EXPECT_EQ(m.lines.edges(100), n - 1);
    m.clock.advance(1);
    EXPECT_EQ(m.lines.edges(100), n);
  }
}

TEST_F(HpetTest, Timer1InLegacyModeIsIrq8AndTimer2KeepsItsRoute) {
  set(0x120, 4), set(0x128, 100);
  set(0x140, 22u << 9 | 4), set(0x148, 200);
  set(0x10, 3);
  ticks(300);
  EXPECT_EQ(m.lines.edges(108), 1u);
  EXPECT_EQ(m.lines.edges(22), 1u);
}

TEST_F(HpetTest, ThirtyTwoBitTimerMatchesAgainAfterTheWrap) {
  set(0x120, 20u << 9 | 4 | 0x100);
  set(0x128, 1000);
  set(0x10, 1);
  ticks(1000);
  EXPECT_EQ(m.lines.edges(20), 1u);
  ticks(0xFFFFFFFF);
  EXPECT_EQ(m.lines.edges(20), 1u);
  ticks(1);
  EXPECT_EQ(m.lines.edges(20), 2u);
}

TEST_F(HpetTest, MessagesGoToTheirAddress) {
  set(0x140, 1u << 14 | 4);
  set(0x150, 0xFEE01000'00000041);
  set(0x148, 50);
  set(0x10, 1);
  ticks(50);
  ASSERT_EQ(m.msi.sent.size(), 1u);
  EXPECT_EQ(m.msi.sent[0].first, 0xF0);
  EXPECT_EQ(m.msi.sent[0].second.address, 0xFEE01000u);
  EXPECT_EQ(m.msi.sent[0].second.data, 0x41u);
}

TEST_F(HpetTest, UnsupportedRouteIsNotTaken) {
  set(0x120, 20u << 9);
  set(0x120, 5u << 9);
  EXPECT_EQ(get(0x120) >> 9 & 0x1F, 20u);
}

TEST_F(HpetTest, PeriodWithoutSetAccumulatorKeepsTheComparator) {
  set(0x120, 20u << 9 | 4 | 8 | 0x40);
  set(0x128, 1000);
  set(0x128, 300);
  EXPECT_EQ(get(0x128), 1000u);
  set(0x10, 1);
  ticks(1000);
  EXPECT_EQ(get(0x128), 1300u);
  ticks(10'000);
  EXPECT_EQ(get(0x128), 11'200u);
}

TEST_F(HpetTest, SharedLevelRouteIsTheOrOfItsTimers) {
  set(0x120, 20u << 9 | 4 | 2), set(0x128, 100);
  set(0x140, 20u << 9 | 4 | 2), set(0x148, 200);
  set(0x10, 1);
  ticks(300);
  set(0x20, 2);
  EXPECT_TRUE(m.lines.level(20));
  set(0x20, 4);
  EXPECT_FALSE(m.lines.level(20));
}

TEST_F(HpetTest, TinyPeriodDoesNotFloodTheHost) {
  set(0x120, 20u << 9 | 4 | 8 | 0x40);
  set(0x128, 1);
  set(0x10, 1);
  m.clock.advance(100'000'000);
  EXPECT_LE(m.lines.edges(20), 5001u);
  EXPECT_GE(m.lines.edges(20), 4900u);
  set(0x120, 20u << 9 | 4 | 8 | 0x40);
  set(0x128, 0);
  m.clock.advance(100'000'000);
}

TEST_F(HpetTest, OddAccessesAreHarmless) {
  set(0x10, 1, 1);
  EXPECT_EQ(get(0x10), 0u);
  EXPECT_EQ(get(0x2, 2), 0x8086u);
  set(0x14, ~0ull, 8);
  EXPECT_EQ(get(0x10), 0u);
  EXPECT_EQ(get(0x3F8), 0u);
  set(0x3F8, 1);
}

TEST_F(HpetTest, ResetStopsEverythingAndGivesTheLegacyLinesBack) {
  set(0x140, 21u << 9 | 4 | 2), set(0x148, 100);
  set(0x10, 3);
  ticks(100);
  EXPECT_TRUE(m.lines.level(21));
  hpet.reset(core::ResetKind::warm);
  EXPECT_FALSE(m.lines.level(21));
  EXPECT_EQ(get(0x148), ~0ull);
  EXPECT_EQ(legacy, (std::vector<bool>{true, false}));
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
}

TEST_F(HpetTest, SavedTimerFiresAtItsTime) {
  set(0x120, 20u << 9 | 4 | 8 | 0x40);
  set(0x128, 10'000);
  set(0x10, 1);
  ticks(25'000);
  const auto before = m.lines.edges(20);
  husk::testing::TestMachine other;
  std::vector<core::InterruptLine> routes;
  for (unsigned pin = 0; pin < 24; ++pin) routes.push_back(other.lines.line(pin));
  Hpet copy({.memory_space = other.memory_space, .clock = m.clock, .msi = other.msi, .routes = std::move(routes)});
  ASSERT_TRUE(husk::testing::load_state(copy, husk::testing::saved_state(hpet)));
  ticks(4'999);
  EXPECT_EQ(other.lines.edges(20), 0u);
  ticks(1);
  EXPECT_EQ(other.lines.edges(20), 1u);
  EXPECT_EQ(m.lines.edges(20), before + 1);
}

TEST(HpetState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  husk::testing::check_device_state(
      [&] {
        return std::make_unique<Hpet>(
            Hpet::Deps{.memory_space = m.memory_space, .clock = m.clock, .msi = m.msi, .routes = {}});
      },
      [&](core::Device&) {
        m.mmio_write(kBase + 0x120, 20u << 9 | 4 | 8 | 0x40, 8);
        m.mmio_write(kBase + 0x128, 1000, 8);
        m.mmio_write(kBase + 0x140, 21u << 9 | 4 | 2, 8);
        m.mmio_write(kBase + 0x148, 500, 8);
        m.mmio_write(kBase + 0x10, 3, 8);
        m.clock.advance(12'345);
        m.mmio_read(kBase + 0xF0, 8);
      });
}

}  // namespace
}  // namespace husk::devices
