// husk: kernels by the Multiboot Specification, version 0.6.96 ("Multiboot 1")
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "boot/boot_image.h"

namespace husk::boot {

struct MultibootHeader {
  std::uint32_t offset = 0;  ///< in the file
  std::uint32_t flags = 0;
  /// Only with flag 16, the "a.out kludge"; physical addresses.
  std::uint32_t header_address = 0, load_address = 0, load_end = 0, bss_end = 0, entry = 0;
  bool has_addresses() const { return flags & 0x10000; }
};

/// Searches the first 8 KiB for a header with a right checksum.
std::optional<MultibootHeader> find_multiboot_header(std::span<const std::uint8_t> file);

/// Loads the image (ELF32, or any format with the a.out kludge), its modules page-aligned behind it, and enters it with
/// EAX and EBX as section 3.2 of the specification says. request.modules' command lines go to the modules.
Result<LoadedGuest> load_multiboot(mem::GuestMemory& memory, std::span<const std::uint8_t> file,
                                   const BootRequest& request);

}  // namespace husk::boot
