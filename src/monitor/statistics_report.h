// husk: an accelerator's figures as a table
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "accel/accel.h"

namespace husk::monitor {

/// How often a CPU's thread was seen at what.
using DoingSamples = std::array<std::uint64_t, accel::kDoings>;

struct StatisticsReport {
  std::string accelerator;
  std::uint64_t run_ns = 0;  ///< how long the machine ran
  std::span<const accel::Statistics> cpus;
  std::span<const DoingSamples> samples;  ///< a CPU each
};

/// A line a figure, with the sum first and, if there are several CPUs, a column for each; then shares and ratios, where
/// the time went, and what was interpreted most.
std::string statistics_text(const StatisticsReport& report);

}  // namespace husk::monitor
