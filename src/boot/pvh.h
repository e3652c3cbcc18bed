// husk: ELF kernels entered by PVH, Xen's direct boot protocol
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "boot/boot_image.h"

namespace husk::boot {

/// The physical 32-bit entry point that a kernel's ELF note XEN_ELFNOTE_PHYS32_ENTRY gives; an error if it has none.
Result<std::uint32_t> pvh_entry(std::span<const std::uint8_t> file);

/// Loads an ELF32 or ELF64 kernel at its physical addresses, hands it hvm_start_info version 1 (Xen,
/// public/arch-x86/hvm/start_info.h) with the memory map, command line, RSDP and modules, and enters it in 32-bit
/// protected mode (docs/misc/pvh.pandoc).
Result<LoadedGuest> load_pvh(mem::GuestMemory& memory, std::span<const std::uint8_t> file, const BootRequest& request);

}  // namespace husk::boot
