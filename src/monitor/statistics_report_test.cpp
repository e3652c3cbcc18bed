// husk: tests of the table of an accelerator's figures
#include "monitor/statistics_report.h"

#include <gmock/gmock.h>

namespace husk::monitor {
namespace {

using accel::Figure;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

accel::Statistics one_cpu(std::uint64_t factor) {
  accel::Statistics s;
  s.figures = {{"translation/blocks", 10 * factor},
               {"translation/guest instructions", 50 * factor},
               {"translation/guest code", 200 * factor, Figure::Unit::bytes},
               {"translation/host code", 1000 * factor, Figure::Unit::bytes},
               {"translation/host code out of line", 600 * factor, Figure::Unit::bytes},
               {"translation/time", 5000 * factor, Figure::Unit::nanoseconds},
               {"execution/translated instructions", 1'000'000 * factor},
               {"execution/interpreted for translated code", 100 * factor},
               {"memory/slot misses", 2000 * factor}};
  s.interpreted = {{"CPUID (not translated)", 7 * factor}, {"MOV (memory access)", 90 * factor}};
  return s;
}

TEST(StatisticsReport, SumsAndColumnsOfSeveralCpus) {
  const std::vector<accel::Statistics> cpus{one_cpu(1), one_cpu(3)};
  const std::string text = statistics_text({"jit", 1'000'000, cpus, {}});
  EXPECT_THAT(text, HasSubstr("accelerator jit, 2 CPUs, 0.001 s\n"));
  EXPECT_THAT(text, ContainsRegex("\n  blocks +40 +10 +30\n"));
  EXPECT_THAT(text, ContainsRegex("\n  guest code +800 B +200 B +600 B\n"));
}
TEST(StatisticsReport, RatiosAreOfTheSums) {
  const std::vector<accel::Statistics> cpus{one_cpu(1), one_cpu(3)};
  const std::string text = statistics_text({"jit", 1'000'000, cpus, {}});
  EXPECT_THAT(text, ContainsRegex("host bytes a guest byte +5\\.00\n"));
  EXPECT_THAT(text, ContainsRegex("with those out of line +8\\.00\n"));
  EXPECT_THAT(text, ContainsRegex("instructions a block +5\\.00\n"));
  EXPECT_THAT(text, ContainsRegex("time to translate an instruction +100 ns\n"));
  // 20 us of the 2 ms that two CPUs had
  EXPECT_THAT(text, ContainsRegex("share of the CPUs' time +1\\.00 %\n"));
  EXPECT_THAT(text, ContainsRegex("interpreted a million executed +100\n"));
  EXPECT_THAT(text, ContainsRegex("slot misses a million executed +2000\n"));
}
TEST(StatisticsReport, OneCpuHasNoColumnOfItsOwn) {
  const std::vector<accel::Statistics> cpus{one_cpu(1)};
  const std::string text = statistics_text({"jit", 1, cpus, {}});
  EXPECT_THAT(text, Not(HasSubstr("cpu0")));
  EXPECT_THAT(text, ContainsRegex("\n  blocks +10\n"));
}
TEST(StatisticsReport, TimeIsSharedBySamples) {
  const std::vector<accel::Statistics> cpus{one_cpu(1), one_cpu(1)};
  std::array<DoingSamples, 2> samples{};
  samples[0][static_cast<std::size_t>(accel::Doing::translated_code)] = 30;
  samples[0][static_cast<std::size_t>(accel::Doing::idle)] = 10;
  samples[1][static_cast<std::size_t>(accel::Doing::idle)] = 40;
  const std::string text = statistics_text({"jit", 1, cpus, samples});
  EXPECT_THAT(text, ContainsRegex("in translated code +37\\.5 % +75\\.0 % +0\\.0 %\n"));
  EXPECT_THAT(text, ContainsRegex("idle +62\\.5 % +25\\.0 % +100\\.0 %\n"));
}
TEST(StatisticsReport, WhatWasInterpretedMostComesFirst) {
  const std::vector<accel::Statistics> cpus{one_cpu(1)};
  const std::string text = statistics_text({"jit", 1, cpus, {}});
  EXPECT_LT(text.find("MOV (memory access)"), text.find("CPUID (not translated)"));
}
TEST(StatisticsReport, AcceleratorWithoutFiguresSaysSo) {
  const std::vector<accel::Statistics> cpus(4);
  EXPECT_THAT(statistics_text({"kvm", 1, cpus, {}}), HasSubstr("keeps no figures"));
}

}  // namespace
}  // namespace husk::monitor
