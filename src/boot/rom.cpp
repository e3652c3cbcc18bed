// husk: checking and mapping a ROM image
#include "boot/rom.h"

#include <algorithm>

namespace husk::boot {
namespace {
constexpr std::uint64_t kUnit = 64u << 10, kLowAlias = 128u << 10;
constexpr int kAboveRam = 1;  // RAM is mapped at priority 0 and may lie under both windows
}  // namespace

Status check_rom_size(std::uint64_t size) {
  if (size >= kRomSmallest && size <= kRomLargest && size % kUnit == 0) return {};
  return std::unexpected(Error{fmt::format("a ROM image of {} cannot be mapped", size_text(size)),
                               "its size must be a multiple of 64 KiB, from 64 KiB to 16 MiB; pad it at its start"});
}

Result<RomImage> RomImage::map(mem::AddressSpace& space, std::span<const std::uint8_t> image, std::string name) {
  HUSK_TRY(check_rom_size(image.size()));
  RomImage rom;
  rom.ram_ = HUSK_TRY(mem::RamRegion::create(std::move(name), image.size()));
  std::ranges::copy(image, rom.ram_->data());
  rom.low_size_ = std::min<std::uint64_t>(image.size(), kLowAlias);
  rom.high_ = HUSK_TRY(space.map_ram(kFourGiB - image.size(), image.size(), *rom.ram_, 0, false, kAboveRam));
  rom.low_ = HUSK_TRY(space.map_ram(kHighRamBase - rom.low_size_, rom.low_size_, *rom.ram_,
                                    image.size() - rom.low_size_, false, kAboveRam));
  return rom;
}

}  // namespace husk::boot
