// husk: Linux/x86 bzImage by the boot protocol of Documentation/arch/x86/boot.rst
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "boot/boot_image.h"
#include "boot/decompress.h"

namespace husk::boot {

/// The fields of the setup header that matter to a loader, checked against the file. Values absent in old protocol
/// versions have the meaning that boot.rst gives to their absence.
struct SetupHeader {
  std::uint16_t protocol = 0;    ///< 0x020F is version 2.15
  std::uint32_t setup_size = 0;  ///< bytes of real-mode code, boot sector included
  std::uint32_t header_end = 0;  ///< offset in the file of the end of the setup header
  std::uint8_t load_flags = 0;
  std::uint32_t code32_start = 0;
  std::uint32_t initrd_max = 0;
  std::uint32_t kernel_alignment = 0;
  bool relocatable = false;
  std::uint16_t xload_flags = 0;
  std::uint32_t command_line_max = 0;                    ///< without the NUL
  std::uint32_t payload_offset = 0, payload_length = 0;  ///< in the file; length 0: the header does not say
  std::uint64_t preferred_address = 0;
  std::uint32_t init_size = 0;
  std::string version;

  bool has_64bit_entry() const { return xload_flags & 1; }  // XLF_KERNEL_64
  bool loads_above_4g() const { return xload_flags & 2; }   // XLF_CAN_BE_LOADED_ABOVE_4G
};

/// True if the bytes have the signatures of a bzImage (or zImage).
bool looks_like_bzimage(std::span<const std::uint8_t> file);

/// Refuses, by name: no bzImage, a protocol before 2.02, a zImage, a truncated file, impossible offsets.
Result<SetupHeader> parse_setup_header(std::span<const std::uint8_t> file);

/// The vmlinux inside a bzImage, and how it was packed.
struct Payload {
  std::optional<Compression> compression;  ///< nothing: stored as it is
  std::vector<std::uint8_t> vmlinux;
};
Result<Payload> unpack_payload(std::span<const std::uint8_t> file, const SetupHeader& header);

/// Puts the kernel, its initrd, command line and boot_params into guest memory. By default the payload is decompressed
/// here and entered at its own startup_64 (or startup_32), at the address it is linked to, so that the guest spends no
/// time on it and nothing is randomised; with request.guest_decompress the bzImage's own stub is entered.
Result<LoadedGuest> load_bzimage(mem::GuestMemory& memory, std::span<const std::uint8_t> file,
                                 const BootRequest& request);

}  // namespace husk::boot
