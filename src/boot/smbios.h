// husk: SMBIOS tables, what dmidecode and /sys/class/dmi show in the guest
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "boot/memory_layout.h"

namespace husk::boot {

struct SmbiosConfig {
  std::string manufacturer = "husk";
  std::string product = "husk virtual machine";
  std::string version = "1";
  std::string serial;
  std::string bios_version = "husk";
  std::string bios_date = "01/01/2026";  ///< mm/dd/yyyy
  std::array<std::uint8_t, 16> uuid{};   ///< in the order of its text form; all zero: not given
  std::string processor_manufacturer, processor_version;
  std::uint32_t processor_signature = 0, processor_features = 0;  ///< CPUID leaf 1, EAX and EDX
  std::uint16_t sockets = 1;
  std::uint16_t cores_per_socket = 1, threads_per_core = 1;
  std::uint64_t ram_below_4g = 0, ram_above_4g = 0;  ///< bytes
};

struct SmbiosBlob {
  std::uint64_t base = 0;
  std::vector<std::uint8_t> bytes;  ///< 64-bit entry point at 0, 32-bit one at 32, the structures behind
};

/// SMBIOS 3.0 structures with both entry points, their pointers right for `base`. A multiple of 16 in 0xF0000..0xFFFFF
/// lets guests find it without EFI. Strings are cut at 64 bytes.
SmbiosBlob build_smbios(const SmbiosConfig& config, std::uint64_t base);

}  // namespace husk::boot
