// husk: ACPI tables of a PC with fixed hardware and a PCI Express root, written from a description of the board
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "boot/memory_layout.h"

namespace husk::boot {

struct AcpiIoApic {
  std::uint8_t id = 0;
  std::uint32_t address = 0xFEC0'0000;
  std::uint32_t gsi_base = 0;
};

struct AcpiSerialPort {
  std::uint16_t port = 0x3F8;
  std::uint8_t irq = 4;
};

/// The fixed hardware of ACPI 6.3, section 4.8. Ports of 0 mean that a block is absent.
struct AcpiFixedHardware {
  std::uint16_t pm1a_event = 0x600;    ///< 4 bytes
  std::uint16_t pm1a_control = 0x604;  ///< 2 bytes
  std::uint16_t pm_timer = 0x608;      ///< 4 bytes, 32-bit counter
  std::uint16_t gpe0 = 0;
  std::uint8_t gpe0_length = 0;  ///< bytes of status plus enable registers
  /// The I/O ports that all of them lie in, if a PCI function's window covers them: Linux then wants them declared as one.
  std::uint16_t block = 0, block_length = 0;
  std::uint8_t sci_irq = 9;      ///< also its GSI
  bool sci_active_low = false;
  /// With smi_command 0 the machine is always in ACPI mode and SCI_EN must read as 1.
  std::uint16_t smi_command = 0;
  std::uint8_t acpi_enable = 0, acpi_disable = 0;
  std::uint8_t s5_sleep_type = 7;  ///< SLP_TYP value that powers off (7: as in the ICH9)
  std::uint16_t reset_port = 0xCF9;
  std::uint8_t reset_value = 0x06;
};

struct AcpiPci {
  /// ECAM for buses first_bus..last_bus at ecam_base (of bus 0). ecam_base 0: none, mechanism 1 only.
  std::uint64_t ecam_base = 0;
  std::uint8_t first_bus = 0, last_bus = 0;
  GpaRange memory32{};  ///< window below 4 GiB
  GpaRange memory64{};  ///< window above it; may be empty
  /// The GSI of a device's pin (0 = INTA#) on bus 0; level-triggered, active low.
  std::function<std::uint32_t(unsigned device, unsigned pin)> interrupt_of;
};

struct AcpiConfig {
  std::vector<std::uint32_t> apic_ids = {0};  ///< in order of processor number; at most 4096
  std::uint32_t local_apic_address = 0xFEE0'0000;
  std::vector<AcpiIoApic> ioapics = {AcpiIoApic{}};
  AcpiFixedHardware fixed;
  std::optional<AcpiPci> pci;
  std::optional<std::uint64_t> hpet_address;
  std::uint32_t hpet_block_id = 0x8086'A201;  ///< low half of the HPET's capability register
  std::vector<AcpiSerialPort> serial_ports;
  bool pit = true, pic = true, rtc = true, keyboard = true, mouse = true;
  bool vga = false;
};

struct AcpiTable {
  std::string signature;
  std::size_t offset = 0;  ///< in AcpiBlob::bytes
  std::size_t length = 0;
};

/// All tables with every pointer right for `base`.
struct AcpiBlob {
  std::uint64_t base = 0;
  std::vector<std::uint8_t> bytes;
  std::vector<AcpiTable> tables;  ///< RSDP first
  std::uint64_t rsdp() const { return base; }
};

/// `base` must be 64-byte aligned and the blob must end below 4 GiB. Guests that are given no pointer look for the RSDP
/// at 16-byte steps in 0xE0000..0xFFFFF. The memory belongs into the e820 map as reserved or ACPI.
AcpiBlob build_acpi_tables(const AcpiConfig& config, std::uint64_t base);

/// The DSDT's AML without its header.
std::vector<std::uint8_t> build_dsdt_code(const AcpiConfig& config);

}  // namespace husk::boot
