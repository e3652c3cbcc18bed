// husk: the DSDT: what there is on the board that no bus can enumerate
#include "base/check.h"
#include "boot/acpi_tables.h"
#include "boot/aml.h"

namespace husk::boot {
namespace {

using aml::Code;
using aml::Resources;

Code pnp_device(std::string_view name, std::string_view hid, unsigned uid, const Resources& resources) {
  return aml::device(name, aml::name("_HID", aml::eisa_id(hid)) + aml::name("_UID", aml::integer(uid)) +
                               aml::name("_STA", aml::integer(0xF)) + aml::name("_CRS", resources.code()));
}

/// Four pins for each of 32 devices; source 0 means that the number is a GSI (ACPI 6.3, 6.2.13).
Code routing_table(const AcpiPci& pci) {
  std::vector<Code> entries;
  for (unsigned device = 0; device < 32; ++device)
    for (unsigned pin = 0; pin < 4; ++pin)
      entries.push_back(aml::package({aml::integer(device << 16 | 0xFFFF), aml::integer(pin), aml::integer(0),
                                      aml::integer(pci.interrupt_of(device, pin))}));
  return aml::package(entries);
}

/// PCI Firmware Specification 3.2, 4.5.1: the OS may have native hot-plug, PME, AER and the capability structure.
Code osc_method() {
  constexpr std::uint64_t kGranted = 0x1D;
  const Code status = aml::path("CDW1"), control = aml::path("CDW3");
  const Code ours = aml::create_dword_field(aml::arg(3), 8, "CDW3") + aml::store(control, aml::local(0)) +
                    aml::bit_and(aml::local(0), aml::integer(kGranted), aml::local(0)) +
                    aml::if_then(aml::logical_not(aml::equal(aml::arg(1), aml::integer(1))),
                                 aml::bit_or(status, aml::integer(0x08), status)) +
                    aml::if_then(aml::logical_not(aml::equal(control, aml::local(0))),
                                 aml::bit_or(status, aml::integer(0x10), status)) +
                    aml::store(aml::local(0), control);
  return aml::method(
      "_OSC", 4, true,
      aml::create_dword_field(aml::arg(3), 0, "CDW1") +
          aml::if_then(aml::equal(aml::arg(0), aml::uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")), ours) +
          aml::otherwise(aml::bit_or(status, aml::integer(0x04), status)) + aml::return_value(aml::arg(3)));
}

Code pci_root(const AcpiPci& pci) {
  Resources crs;
  crs.bus_window(pci.first_bus, pci.last_bus);
  crs.io(0xCF8, 8);
  crs.io_window(0, 0xCF8).io_window(0xD00, 0x1'0000 - 0xD00);
  crs.memory_window(pci.memory32.base, pci.memory32.length);
  crs.memory_window(pci.memory64.base, pci.memory64.length);
  const bool express = pci.ecam_base != 0;
  Code body = aml::name("_HID", aml::eisa_id(express ? "PNP0A08" : "PNP0A03"));
  if (express) body += aml::name("_CID", aml::eisa_id("PNP0A03"));
  body += aml::name("_UID", aml::integer(0)) + aml::name("_SEG", aml::integer(0)) +
          aml::name("_BBN", aml::integer(pci.first_bus)) + aml::name("_CRS", crs.code()) +
          aml::name("_PRT", routing_table(pci));
  if (express) body += osc_method();
  return aml::device("PCI0", body);
}

Code isa_devices(const AcpiConfig& config) {
  Code code;
  if (config.rtc) code += pnp_device("RTC", "PNP0B00", 0, Resources().io(0x70, 2).irq(8));
  if (config.pit) code += pnp_device("TIMR", "PNP0100", 0, Resources().io(0x40, 4).irq(0));
  if (config.pic) code += pnp_device("PIC", "PNP0000", 0, Resources().io(0x20, 2).io(0xA0, 2).io(0x4D0, 2).irq(2));
  if (config.keyboard) code += pnp_device("KBD", "PNP0303", 0, Resources().io(0x60, 1).io(0x64, 1).irq(1));
  // The mouse shares the keyboard's ports, which therefore are not its own resources.
  if (config.mouse) code += pnp_device("MOU", "PNP0F13", 0, Resources().irq(12));
  unsigned number = 0;
  for (const AcpiSerialPort& port : config.serial_ports) {
    ++number;
    code += pnp_device(fmt::format("COM{}", number), "PNP0501", number, Resources().io(port.port, 8).irq(port.irq));
  }
  return code;
}

/// What the OS must not hand to others: the board's own registers and the ECAM, without whose reservation Linux does
/// not use it.
Code mainboard(const AcpiConfig& config) {
  Resources crs;
  const AcpiFixedHardware& fixed = config.fixed;
  if (fixed.block_length) {
    crs.io(fixed.block, static_cast<std::uint8_t>(fixed.block_length));
  } else {
    if (fixed.pm1a_event) crs.io(fixed.pm1a_event, 4);
    if (fixed.pm1a_control) crs.io(fixed.pm1a_control, 2);
    if (fixed.pm_timer) crs.io(fixed.pm_timer, 4);
    if (fixed.gpe0) crs.io(fixed.gpe0, fixed.gpe0_length);
  }
  if (config.pci && config.pci->ecam_base != 0)
    crs.memory64(config.pci->ecam_base, (std::uint64_t{config.pci->last_bus} + 1) << 20);
  return pnp_device("MBRD", "PNP0C02", 0, crs);
}

Code processors(const AcpiConfig& config) {
  Code code;
  for (std::size_t i = 0; i < config.apic_ids.size(); ++i)
    code += aml::device(fmt::format("C{:03X}", i),
                        aml::name("_HID", aml::string("ACPI0007")) + aml::name("_UID", aml::integer(i)));
  return code;
}

}  // namespace

std::vector<std::uint8_t> build_dsdt_code(const AcpiConfig& config) {
  HUSK_CHECK(config.apic_ids.size() <= 4096 && config.serial_ports.size() <= 9);
  Code board = processors(config);
  if (config.pci) board += pci_root(*config.pci);
  board += isa_devices(config);
  if (config.hpet_address)
    board +=
        pnp_device("HPET", "PNP0103", 0, Resources().memory32(static_cast<std::uint32_t>(*config.hpet_address), 0x400));
  board += mainboard(config);
  const std::uint8_t s5 = config.fixed.s5_sleep_type;
  return (aml::scope("_SB", board) +
          aml::name("_S5", aml::package({aml::integer(s5), aml::integer(s5), aml::integer(0), aml::integer(0)})))
      .bytes;
}

}  // namespace husk::boot
