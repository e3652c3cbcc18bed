// husk: where a guest's RAM is, what loaders may use of it, and the e820 map that says so
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "mem/address_space.h"

namespace husk::boot {

using mem::Gpa;

inline constexpr std::uint64_t kFourGiB = std::uint64_t{1} << 32;
inline constexpr Gpa kLowRamEnd = 0x9'FC00;  ///< below it is free; from it to 640 KiB is where an EBDA would be
inline constexpr Gpa kHighRamBase = 0x10'0000;

enum class E820Type : std::uint32_t { ram = 1, reserved = 2, acpi_reclaimable = 3, acpi_nvs = 4 };

struct E820Entry {
  Gpa base = 0;
  std::uint64_t length = 0;
  E820Type type = E820Type::ram;
  friend bool operator==(const E820Entry&, const E820Entry&) = default;
};

/// A half-open range of guest-physical addresses.
struct GpaRange {
  Gpa base = 0;
  std::uint64_t length = 0;
  Gpa end() const { return base + length; }
  bool overlaps(const GpaRange& other) const { return base < other.end() && other.base < end(); }
};

/// The guest's memory as a board has laid it out: RAM at [0, below_4g) and [4 GiB, 4 GiB + above_4g), PCI in between.
struct MemoryLayout {
  std::uint64_t below_4g = 0;  ///< bytes, a multiple of 4 KiB, at most 4 GiB
  std::uint64_t above_4g = 0;  ///< bytes, a multiple of 4 KiB
  GpaRange pci_hole{};         ///< 32-bit MMIO window; not in the e820 map, as on real boards
  /// What else the guest must leave alone, inside RAM (ACPI tables) or outside (ECAM). May not overlap each other.
  std::vector<E820Entry> reserved;

  std::uint64_t total() const { return below_4g + above_4g; }
};

/// The map in order of address, without overlaps: low RAM, 0x9FC00 to 1 MiB reserved, RAM below and above 4 GiB cut
/// around layout.reserved.
std::vector<E820Entry> e820_map(const MemoryLayout& layout);

/// Finds the highest free RAM for `size` bytes, at a multiple of `alignment`, wholly within [floor, ceiling), clear of
/// `taken`. Nothing if there is none. size 0 counts as 1.
std::optional<Gpa> place_high(std::span<const E820Entry> map, std::uint64_t size, std::uint64_t alignment, Gpa floor,
                              Gpa ceiling, std::span<const GpaRange> taken);
/// The same, lowest first.
std::optional<Gpa> place_low(std::span<const E820Entry> map, std::uint64_t size, std::uint64_t alignment, Gpa floor,
                             Gpa ceiling, std::span<const GpaRange> taken);

/// True if all of `range` is RAM in the map.
bool is_ram(std::span<const E820Entry> map, const GpaRange& range);

/// "12 MiB", "640 KiB" or "37 bytes".
std::string size_text(std::uint64_t bytes);

}  // namespace husk::boot
