// husk: the e820 map and the search for free RAM
#include "boot/memory_layout.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::boot {
namespace {

void add_ram(std::vector<E820Entry>& map, Gpa base, Gpa end, std::span<const E820Entry> reserved) {
  for (const E820Entry& hole : reserved) {
    const Gpa hole_end = hole.base + hole.length;
    if (hole_end <= base || hole.base >= end) continue;
    if (hole.base > base) map.push_back({base, hole.base - base, E820Type::ram});
    base = hole_end;
    if (base >= end) return;
  }
  if (base < end) map.push_back({base, end - base, E820Type::ram});
}

/// The parts of RAM ranges that are free of `taken`, within [floor, ceiling).
std::vector<GpaRange> free_ranges(std::span<const E820Entry> map, Gpa floor, Gpa ceiling,
                                  std::span<const GpaRange> taken) {
  std::vector<GpaRange> sorted(taken.begin(), taken.end());
  std::erase_if(sorted, [](const GpaRange& range) { return range.length == 0; });
  std::ranges::sort(sorted, {}, &GpaRange::base);
  std::vector<GpaRange> free;
  for (const E820Entry& entry : map) {
    if (entry.type != E820Type::ram) continue;
    Gpa base = std::max(entry.base, floor);
    const Gpa end = std::min(entry.base + entry.length, ceiling);
    for (const GpaRange& used : sorted) {
      if (base >= end) break;
      if (used.end() <= base || used.base >= end) continue;
      if (used.base > base) free.push_back({base, used.base - base});
      base = used.end();
    }
    if (base < end) free.push_back({base, end - base});
  }
  return free;
}

}  // namespace

std::vector<E820Entry> e820_map(const MemoryLayout& layout) {
  std::vector<E820Entry> reserved = layout.reserved;
  std::erase_if(reserved, [](const E820Entry& entry) { return entry.length == 0; });
  std::ranges::sort(reserved, {}, &E820Entry::base);

  std::vector<E820Entry> map;
  add_ram(map, 0, std::min<Gpa>(layout.below_4g, kLowRamEnd), reserved);
  map.push_back({kLowRamEnd, kHighRamBase - kLowRamEnd, E820Type::reserved});
  if (layout.below_4g > kHighRamBase) add_ram(map, kHighRamBase, layout.below_4g, reserved);
  if (layout.above_4g != 0) add_ram(map, kFourGiB, kFourGiB + layout.above_4g, reserved);
  for (const E820Entry& entry : reserved) {
    // The first megabyte's hole already covers what lies in it.
    if (entry.base >= kLowRamEnd && entry.base + entry.length <= kHighRamBase) continue;
    map.push_back(entry);
  }
  std::ranges::sort(map, {}, &E820Entry::base);
  return map;
}

std::optional<Gpa> place_high(std::span<const E820Entry> map, std::uint64_t size, std::uint64_t alignment, Gpa floor,
                              Gpa ceiling, std::span<const GpaRange> taken) {
  size = std::max<std::uint64_t>(size, 1);
  std::optional<Gpa> best;
  for (const GpaRange& range : free_ranges(map, floor, ceiling, taken)) {
    if (range.length < size) continue;
    const Gpa base = align_down(range.end() - size, alignment);
    if (base >= range.base && (!best || base > *best)) best = base;
  }
  return best;
}

std::optional<Gpa> place_low(std::span<const E820Entry> map, std::uint64_t size, std::uint64_t alignment, Gpa floor,
                             Gpa ceiling, std::span<const GpaRange> taken) {
  size = std::max<std::uint64_t>(size, 1);
  for (const GpaRange& range : free_ranges(map, floor, ceiling, taken)) {
    const Gpa base = align_up(range.base, alignment);
    if (base >= range.base && base < range.end() && range.end() - base >= size) return base;
  }
  return std::nullopt;
}

bool is_ram(std::span<const E820Entry> map, const GpaRange& range) {
  if (range.end() < range.base) return false;
  Gpa at = range.base;
  for (const E820Entry& entry : map) {
    if (at >= range.end()) break;
    if (entry.type == E820Type::ram && entry.base <= at && at < entry.base + entry.length)
      at = entry.base + entry.length;
  }
  return at >= range.end();
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= 1 << 20) {
    if (bytes % (1 << 20) == 0) return fmt::format("{} MiB", bytes >> 20);
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
  }
  if (bytes >= 1024 && bytes % 1024 == 0) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} bytes", bytes);
}

}  // namespace husk::boot
