// husk: a ROM image at the reset vector
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "boot/boot_image.h"

namespace husk::boot {

inline constexpr std::uint64_t kRomSmallest = 64u << 10, kRomLargest = 16u << 20;

/// Refuses a size that is not a multiple of 64 KiB from 64 KiB to 16 MiB.
Status check_rom_size(std::uint64_t size);

/// A firmware ROM in a memory space for as long as it lives: it ends at 4 GiB, and its last 128 KiB (all of it, if it
/// is smaller) also show up below 1 MiB, as on a PC. Writes to it are dropped.
class RomImage {
 public:
  static Result<RomImage> map(mem::AddressSpace& space, std::span<const std::uint8_t> image, std::string name);

  /// The processor after reset: CS:IP F000:FFF0 with base 0xFFFF0000.
  static EntryState entry() { return EntryState::reset(); }
  GpaRange high() const { return {kFourGiB - ram_->size(), ram_->size()}; }
  GpaRange low() const { return {kHighRamBase - low_size_, low_size_}; }

 private:
  RomImage() = default;
  std::unique_ptr<mem::RamRegion> ram_;
  std::uint64_t low_size_ = 0;
  mem::Mapping high_, low_;  // after ram_: they go first
};

}  // namespace husk::boot
