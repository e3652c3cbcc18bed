// husk: what every kernel loader is given and gives back
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "boot/entry_state.h"
#include "boot/memory_layout.h"
#include "mem/address_space.h"

namespace husk::boot {

/// A Multiboot module (its command line begins with its file name, as QEMU and GRUB give it), or an initrd.
struct BootModule {
  std::span<const std::uint8_t> data;
  std::string command_line;
};

/// An entry of the Linux boot protocol's setup_data list (boot.rst, "setup_data").
struct SetupData {
  static constexpr std::uint32_t kRngSeed = 9;
  std::uint32_t type = 0;
  std::vector<std::uint8_t> data;
};

/// What is booted besides the kernel itself. References and spans must live during the call only.
struct BootRequest {
  MemoryLayout layout;
  std::string command_line;
  /// Linux: at most one, the initrd. Multiboot: as many as wanted.
  std::vector<BootModule> modules;
  std::uint64_t rsdp_address = 0;  ///< 0: none
  std::vector<SetupData> setup_data;
  /// bzImage: let the guest run its own decompressor instead of doing it on the host.
  bool guest_decompress = false;
};

/// A part of guest memory that a loader has filled, for the debugger and for reports.
struct LoadedPart {
  std::string name;
  GpaRange range;
};

/// A guest ready to be started.
struct LoadedGuest {
  EntryState entry;
  std::string kind;     ///< "Linux bzImage (64-bit, xz payload)"
  std::string version;  ///< the kernel's own version line; may be empty
  std::vector<LoadedPart> parts;
  /// Link address minus physical address: what to add to an early physical RIP before looking it up (KernelSymbols).
  std::uint64_t symbol_offset = 0;
};

/// Low memory that the Linux and PVH loaders use for tables; all of it below 640 KiB and, to Linux, ordinary RAM that
/// it does not touch before it has copied what it needs.
inline constexpr Gpa kGdtAddress = 0x1000;
inline constexpr Gpa kStackTop = 0x7000;           ///< one page, grows down
inline constexpr Gpa kBootParamsAddress = 0x7000;  ///< also PVH's hvm_start_info
inline constexpr Gpa kPageTables = 0x9000;         ///< six pages: PML4, PDPT, four directories
inline constexpr Gpa kCommandLineAddress = 0x2'0000;
inline constexpr std::uint64_t kCommandLineRoom = 0x1'0000;
inline constexpr Gpa kSetupDataAddress = 0x3'0000;
inline constexpr std::uint64_t kSetupDataRoom = 0x2'0000;
inline constexpr GpaRange kBootDataRange{kGdtAddress, kSetupDataAddress + kSetupDataRoom - kGdtAddress};

/// Selectors of the boot GDT: Linux demands 0x10 and 0x18 (boot.rst, "64-bit Boot Protocol").
inline constexpr std::uint16_t kBootCode = 0x10, kBootData = 0x18;

/// Writes a GDT of null, null, flat code (64-bit or 32-bit) and flat data at `address`.
Result<EntryTable> write_boot_gdt(mem::GuestMemory& memory, Gpa address, bool code_is_64);

/// Writes page tables that map the first 4 GiB one to one in 2 MiB pages; returns the value for CR3.
Result<std::uint64_t> write_identity_map(mem::GuestMemory& memory, Gpa address);

/// Writes `text` and a NUL.
Status write_string(mem::GuestMemory& memory, Gpa address, const std::string& text);

/// Fails unless there is RAM enough for anything to boot: the first 640 KiB and something above 1 MiB.
Status check_layout(const MemoryLayout& layout);

}  // namespace husk::boot
