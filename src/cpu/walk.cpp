// husk: the page-table walk as a pure function of CPU state and memory
#include "cpu/walk.h"

#include "cpu/walk_impl.h"

namespace husk::cpu {

WalkLimits walk_limits(const CpuModel& model) {
  return {.physical_bits = model.physical_bits, .gigabyte_pages = model.has(Feature::pdpe1gb), .pse36 = model.has(Feature::pse36)};
}

PageWalk walk_pages(const CpuState& state, const WalkLimits& limits, std::uint64_t linear, const WalkAccess& access,
                    const WalkReader& reader) {
  return walk_pages_with(state, limits, linear, access, reader);
}

bool is_canonical(const CpuState& state, std::uint64_t linear) {
  if (!state.long_mode_active()) return true;
  const unsigned unused = (state.cr4 & kCr4La57) ? 7 : 16;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << unused) >> unused) == linear;
}

std::uint64_t pdpte_reserved(const WalkLimits& limits) {
  return mask_of(2, 1) | mask_of(4, 5) | ~mask_of(limits.physical_bits);
}

const char* walk_level_name(unsigned level) {
  static constexpr const char* kNames[] = {"?", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
  return kNames[level <= 5 ? level : 0];
}

}  // namespace husk::cpu
