// husk: tests of the 8254; expected values from Intel 231164-005, section "Mode definitions"
#include "devices/timer/pit8254.h"

#include <gtest/gtest.h>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

constexpr std::uint64_t kHertz = 1'193'182;

struct PitTest : ::testing::Test {
  husk::testing::TestMachine m;
  Pit pit{{m.io_space, nullptr, m.clock, m.lines.line(0)}};

  void to_tick(std::uint64_t tick) { m.clock.advance_to(core::time_of_tick(tick, kHertz)); }
  std::uint64_t tick() { return core::ticks_at(m.clock.now(), kHertz); }
  void program(unsigned counter, unsigned mode, unsigned count, bool bcd = false) {
    m.out8(0x43, static_cast<std::uint8_t>(counter << 6 | 0x30 | mode << 1 | (bcd ? 1 : 0)));
    write_count(counter, count);
  }
  void write_count(unsigned counter, unsigned count) {
    m.out8(static_cast<std::uint16_t>(0x40 + counter), static_cast<std::uint8_t>(count));
    m.out8(static_cast<std::uint16_t>(0x40 + counter), static_cast<std::uint8_t>(count >> 8));
  }
  unsigned read_count(unsigned counter) {
    const auto port = static_cast<std::uint16_t>(0x40 + counter);
    m.out8(0x43, static_cast<std::uint8_t>(counter << 6));
    const unsigned low = m.in8(port);
    return low | static_cast<unsigned>(m.in8(port)) << 8;
  }
  std::uint8_t status(unsigned counter) {
    m.out8(0x43, static_cast<std::uint8_t>(0xE0 | 2u << counter));
    return m.in8(static_cast<std::uint16_t>(0x40 + counter));
  }
  bool out(unsigned counter) { return status(counter) & 0x80; }
  /// OUT of a counter over the next ticks, one character each.
  std::string wave(unsigned counter, unsigned ticks) {
    std::string text;
    for (unsigned n = 0; n < ticks; ++n) {
      to_tick(tick() + 1);
      text += out(counter) ? 'H' : '_';
    }
    return text;
  }
  void gate2(bool on) { m.out8(0x61, on ? 1 : 0); }
};

TEST_F(PitTest, Mode0GoesHighOneClockAfterCountAndStays) {
  to_tick(10);
  program(0, 0, 4);
  EXPECT_EQ(status(0), 0x70) << "OUT low, null count, LSB/MSB, mode 0";
  EXPECT_EQ(wave(0, 8), "____HHHH") << "low for N+1 clocks after the write";
  EXPECT_EQ(m.lines.edges(0), 1u);
  EXPECT_EQ(read_count(0), 0xFFFDu) << "goes on from zero to FFFF";
}

TEST_F(PitTest, Mode0CountIsReadAsItFalls) {
  to_tick(10);
  program(0, 0, 1000);
  to_tick(11);
  EXPECT_EQ(read_count(0), 1000u);
  EXPECT_EQ(status(0), 0x30);
  to_tick(111);
  EXPECT_EQ(read_count(0), 900u);
}

TEST_F(PitTest, Mode0GateStopsCounting) {
  gate2(true);
  program(2, 0, 10);
  to_tick(4);
  EXPECT_EQ(read_count(2), 7u);
  gate2(false);
  to_tick(100);
  EXPECT_EQ(read_count(2), 7u);
  gate2(true);
  to_tick(106);
  EXPECT_FALSE(m.in8(0x61) & 0x20);
  to_tick(107);
  EXPECT_TRUE(m.in8(0x61) & 0x20);
}

TEST_F(PitTest, Mode0FirstByteStopsCountingAndLowersOut) {
  program(0, 0, 3);
  to_tick(10);
  EXPECT_TRUE(out(0));
  m.out8(0x40, 5);
  EXPECT_FALSE(out(0));
  to_tick(50);
  EXPECT_FALSE(out(0));
  m.out8(0x40, 0);
  EXPECT_EQ(wave(0, 6), "_____H");
}

TEST_F(PitTest, Mode1IsARetriggerableOneShot) {
  program(2, 1, 3);
  EXPECT_EQ(wave(2, 3), "HHH");
  gate2(true);
  EXPECT_EQ(wave(2, 6), "___HHH");
  gate2(false);
  gate2(true);
  EXPECT_EQ(wave(2, 2), "__");
  gate2(false);
  gate2(true);
  EXPECT_EQ(wave(2, 5), "___HH");
}

TEST_F(PitTest, Mode2IsLowForTheLastClockOfEachPeriod) {
  program(0, 2, 3);
  EXPECT_EQ(wave(0, 9), "HH_HH_HH_");
  EXPECT_EQ(read_count(0), 1u);
}

TEST_F(PitTest, Mode2NewCountTakesEffectAfterTheCurrentPeriod) {
  program(0, 2, 4);
  EXPECT_EQ(wave(0, 2), "HH");
  write_count(0, 5);
  EXPECT_EQ(status(0) & 0x40, 0x40);
  EXPECT_EQ(wave(0, 8), "H_HHHH_H");
  EXPECT_EQ(status(0) & 0x40, 0);
}

TEST_F(PitTest, Mode2GateLowSetsOutHighAndRisingReloads) {
  gate2(true);
  program(2, 2, 4);
  to_tick(3);
  gate2(false);
  EXPECT_EQ(wave(2, 4), "HHHH");
  gate2(true);
  EXPECT_EQ(wave(2, 8), "HHH_HHH_");
}

TEST_F(PitTest, Mode3EvenAndOddCounts) {
  program(0, 3, 4);
  EXPECT_EQ(wave(0, 8), "HH__HH__");
  program(0, 3, 5);
  EXPECT_EQ(wave(0, 10), "HHH__HHH__");
}

TEST_F(PitTest, Mode3CountsDownByTwo) {
  program(0, 3, 6);
  std::vector<unsigned> seen;
  for (unsigned n = 0; n < 6; ++n) to_tick(tick() + 1), seen.push_back(read_count(0));
  EXPECT_EQ(seen, (std::vector<unsigned>{6, 4, 2, 6, 4, 2}));
  program(0, 3, 5);
  seen.clear();
  for (unsigned n = 0; n < 5; ++n) to_tick(tick() + 1), seen.push_back(read_count(0));
  EXPECT_EQ(seen, (std::vector<unsigned>{4, 2, 0, 4, 2}));
}

TEST_F(PitTest, Mode3NewCountTakesEffectAfterTheHalfCycle) {
  program(0, 3, 8);
  EXPECT_EQ(wave(0, 2), "HH");
  write_count(0, 4);
  EXPECT_EQ(wave(0, 10), "HH__HH__HH");
}

TEST_F(PitTest, Mode4StrobesOnce) {
  program(0, 4, 3);
  EXPECT_EQ(wave(0, 8), "HHH_HHHH");
  EXPECT_EQ(m.lines.edges(0), 2u) << "the control word raises OUT, the end of the strobe raises it again";
}

TEST_F(PitTest, Mode5StrobesAfterATrigger) {
  program(2, 5, 3);
  EXPECT_EQ(wave(2, 5), "HHHHH");
  gate2(true);
  EXPECT_EQ(wave(2, 6), "HHH_HH");
}

TEST_F(PitTest, CountZeroIs65536AndInBcd10000) {
  program(0, 2, 0);
  to_tick(2);
  EXPECT_EQ(read_count(0), 0xFFFFu);
  to_tick(0x10000);
  EXPECT_EQ(read_count(0), 1u);
  program(0, 2, 0, true);
  to_tick(0x10002);
  EXPECT_EQ(read_count(0), 0x9999u);
}

TEST_F(PitTest, BcdCountsInDecimal) {
  program(0, 0, 0x1000, true);
  to_tick(2);
  EXPECT_EQ(read_count(0), 0x0999u);
  to_tick(1002);
  EXPECT_EQ(read_count(0), 0x9999u);
}

TEST_F(PitTest, LatchHoldsUntilReadAndSecondLatchIsIgnored) {
  program(0, 0, 1000);
  to_tick(101);
  m.out8(0x43, 0x00);
  to_tick(201);
  m.out8(0x43, 0x00);
  const unsigned low = m.in8(0x40);
  EXPECT_EQ(low | static_cast<unsigned>(m.in8(0x40)) << 8, 900u);
  const unsigned live = m.in8(0x40);
  EXPECT_EQ(live | static_cast<unsigned>(m.in8(0x40)) << 8, 800u);
}

TEST_F(PitTest, ReadBackLatchesStatusFirstThenCountOfSeveralCounters) {
  program(0, 2, 1000);
  m.out8(0x43, 0x96);  // counter 2, LSB only, mode 3
  m.out8(0x42, 100);
  to_tick(11);
  m.out8(0x43, 0xC0 | 0x02 | 0x08);
  EXPECT_EQ(m.in8(0x40), 0xB4);
  const unsigned low = m.in8(0x40);
  EXPECT_EQ(low | static_cast<unsigned>(m.in8(0x40)) << 8, 990u);
  EXPECT_EQ(m.in8(0x42), 0x96);
  EXPECT_EQ(m.in8(0x42), 100) << "gate is low: not counting";
}

TEST_F(PitTest, SingleByteAccess) {
  m.out8(0x43, 0x14);
  m.out8(0x40, 200);
  to_tick(51);
  EXPECT_EQ(m.in8(0x40), 150);
  m.out8(0x43, 0x24);
  m.out8(0x40, 0x02);
  to_tick(52 + 0x80);
  EXPECT_EQ(m.in8(0x40), 0x01);
}

TEST_F(PitTest, Port61ReadsBackGateSpeakerRefreshAndOut2) {
  m.out8(0x61, 0xFF);
  EXPECT_EQ(m.in8(0x61) & 0xCF, 0x0F);
  unsigned toggles = 0;
  std::uint8_t before = m.in8(0x61) & 0x10;
  for (unsigned n = 0; n < 1000; ++n) {
    m.clock.advance(5000);
    const std::uint8_t now = m.in8(0x61) & 0x10;
    toggles += now != before;
    before = now;
  }
  EXPECT_NEAR(toggles, 5'000'000 / 15'085, 1);
}

TEST_F(PitTest, LinuxTscCalibrationBySpeakerCounter) {
  // arch/x86/kernel/tsc.c, pit_calibrate_tsc: mode 0 on counter 2 for 50 ms.
  m.out8(0x61, static_cast<std::uint8_t>((m.in8(0x61) & ~0x02) | 0x01));
  m.out8(0x43, 0xB0);
  const unsigned latch = static_cast<unsigned>(kHertz / 20);
  m.out8(0x42, latch & 0xFF), m.out8(0x42, static_cast<std::uint8_t>(latch >> 8));
  const auto start = m.clock.now();
  while (!(m.in8(0x61) & 0x20)) m.clock.advance(1000);
  EXPECT_NEAR(static_cast<double>(m.clock.now() - start), 50e6, 3000);
}

TEST_F(PitTest, PeriodicInterruptDoesNotDriftOverAnHour) {
  program(0, 2, 11932);
  const unsigned before = m.lines.edges(0);
  m.clock.advance(3'600'000'000'000);
  EXPECT_EQ(m.lines.edges(0) - before, 3600 * kHertz / 11932);
}

TEST_F(PitTest, SmallestCountDoesNotFloodTheHost) {
  program(0, 2, 2);
  const unsigned before = m.lines.edges(0);
  m.clock.advance(1'000'000'000);
  EXPECT_LE(m.lines.edges(0) - before, 50'001u);
  EXPECT_GE(m.lines.edges(0) - before, 40'000u);
  program(0, 2, 1);
  m.clock.advance(1'000'000'000);
  program(0, 3, 1);
  m.clock.advance(1'000'000'000);
}

TEST_F(PitTest, DisabledOutputMakesNoInterrupts) {
  program(0, 2, 1000);
  pit.set_output_disabled(true);
  EXPECT_FALSE(m.lines.level(0));
  const unsigned before = m.lines.edges(0);
  m.clock.advance(100'000'000);
  EXPECT_EQ(m.lines.edges(0), before);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
  pit.set_output_disabled(false);
  m.clock.advance(10'000'000);
  EXPECT_GT(m.lines.edges(0), before + 5);
}

TEST_F(PitTest, SavedCounterContinuesWhereItWas) {
  program(0, 2, 5000);
  to_tick(12'001);
  husk::testing::TestMachine other;
  Pit copy({other.io_space, nullptr, m.clock, other.lines.line(0)});
  ASSERT_TRUE(husk::testing::load_state(copy, husk::testing::saved_state(pit)));
  EXPECT_EQ(other.lines.edges(0), 0u);
  to_tick(15'000);
  EXPECT_EQ(other.lines.edges(0), 0u);
  to_tick(15'001);
  EXPECT_EQ(other.lines.edges(0), 1u);
}

TEST(PitState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  m.clock.advance(1'000'000);
  husk::testing::check_device_state([&] { return std::make_unique<Pit>(Pit::Deps{m.io_space, nullptr, m.clock}); },
                                    [&](core::Device&) {
                                      m.out8(0x43, 0x34), m.out8(0x40, 0x34), m.out8(0x40, 0x12);
                                      m.out8(0x43, 0xB6), m.out8(0x42, 0x10);
                                      m.out8(0x61, 0x03);
                                      m.out8(0x43, 0xC2);
                                    });
}

}  // namespace
}  // namespace husk::devices
