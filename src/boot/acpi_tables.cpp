// husk: the static ACPI tables
#include "boot/acpi_tables.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "base/bits.h"
#include "base/check.h"

namespace husk::boot {
namespace {

constexpr std::size_t kHeaderSize = 36;

/// A table under construction, addressed by the offsets that the specification's tables print.
class Table {
 public:
  Table(std::string_view signature, std::uint8_t revision, std::size_t size) : bytes_(size) {
    HUSK_CHECK(signature.size() == 4 && size >= kHeaderSize);
    text(0, signature, 4);
    put<std::uint8_t>(8, revision);
    text(10, "HUSK", 6);
    text(16, "HUSKPC", 8);
    put<std::uint32_t>(24, 1);
    text(28, "HUSK", 4);
    put<std::uint32_t>(32, 1);
  }
  template <class T>
  void put(std::size_t offset, T value) {
    store_le<T>(bytes_.data() + offset, value);
  }
  void text(std::size_t offset, std::string_view what, std::size_t room) {
    std::fill_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), room, ' ');
    std::memcpy(bytes_.data() + offset, what.data(), std::min(room, what.size()));
  }
  /// Generic Address Structure (5.2.3.2) of an I/O port block.
  void io_block(std::size_t offset, std::uint16_t port, unsigned bytes, std::uint8_t access) {
    if (port == 0) return;
    put<std::uint8_t>(offset, 1);  // system I/O
    put<std::uint8_t>(offset + 1, static_cast<std::uint8_t>(bytes * 8));
    put<std::uint8_t>(offset + 3, access);  // 1 byte, 2 word, 3 dword
    put<std::uint64_t>(offset + 4, port);
  }
  template <class... T>
  void append(T... values) {
    (append_one(values), ...);
  }
  void append_bytes(const std::vector<std::uint8_t>& more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
  std::vector<std::uint8_t> finish() {
    put<std::uint32_t>(4, static_cast<std::uint32_t>(bytes_.size()));
    put<std::uint8_t>(9, 0);
    put<std::uint8_t>(9, static_cast<std::uint8_t>(-std::accumulate(bytes_.begin(), bytes_.end(), 0)));
    return std::move(bytes_);
  }

 private:
  template <class T>
  void append_one(T value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    store_le<T>(bytes_.data() + at, value);
  }
  std::vector<std::uint8_t> bytes_;
};

using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

/// 5.2.9, for ACPI 6.3.
std::vector<U8> fadt(const AcpiConfig& config, U64 facs, U64 dsdt) {
  const AcpiFixedHardware& hw = config.fixed;
  Table t("FACP", 6, 276);
  t.put<U32>(36, static_cast<U32>(facs));
  t.put<U32>(40, static_cast<U32>(dsdt));
  t.put<U8>(45, 1);  // profile: desktop
  t.put<U16>(46, hw.sci_irq);
  t.put<U32>(48, hw.smi_command);
  t.put<U8>(52, hw.acpi_enable);
  t.put<U8>(53, hw.acpi_disable);
  t.put<U32>(56, hw.pm1a_event);
  t.put<U32>(64, hw.pm1a_control);
  t.put<U32>(76, hw.pm_timer);
  t.put<U32>(80, hw.gpe0);
  t.put<U8>(88, hw.pm1a_event ? 4 : 0);
  t.put<U8>(89, hw.pm1a_control ? 2 : 0);
  t.put<U8>(91, hw.pm_timer ? 4 : 0);
  t.put<U8>(92, hw.gpe0 ? hw.gpe0_length : 0);
  t.put<U16>(96, 0xFFF);  // no C2 (latency beyond 100 us)
  t.put<U16>(98, 0xFFF);  // no C3 (beyond 1000 us)
  if (config.rtc) {
    t.put<U8>(106, 0x0D);  // day alarm and
    t.put<U8>(108, 0x32);  // century registers of the CMOS
  }
  U16 boot = 0x0001;                    // legacy devices
  if (config.keyboard) boot |= 0x0002;  // 8042
  if (!config.vga) boot |= 0x0004;      // no VGA
  if (!config.rtc) boot |= 0x0020;      // no CMOS RTC
  t.put<U16>(109, boot);
  // WBINVD, C1 everywhere, no sleep button, RTC wake not in the fixed registers, 32-bit timer.
  U32 flags = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6;
  if (hw.pm_timer) flags |= 1 << 8;
  if (hw.reset_port) {
    flags |= 1 << 10;
    t.io_block(116, hw.reset_port, 1, 1);
    t.put<U8>(128, hw.reset_value);
  }
  t.put<U32>(112, flags);
  t.put<U8>(131, 3);  // minor version
  t.put<U64>(140, dsdt);
  t.io_block(148, hw.pm1a_event, 4, 2);
  t.io_block(172, hw.pm1a_control, 2, 2);
  t.io_block(208, hw.pm_timer, 4, 3);
  t.io_block(220, hw.gpe0, hw.gpe0_length, 1);
  return t.finish();
}

/// 5.2.10: no header of the usual kind and no checksum.
std::vector<U8> facs_table() {
  std::vector<U8> bytes(64);
  std::memcpy(bytes.data(), "FACS", 4);
  store_le<U32>(bytes.data() + 4, 64);
  bytes[32] = 2;  // version
  return bytes;
}

/// 5.2.12.
std::vector<U8> madt(const AcpiConfig& config) {
  Table t("APIC", 5, kHeaderSize);
  t.append(U32{config.local_apic_address}, U32{config.pic ? 1u : 0u});
  bool any_x2apic = false, any_xapic = false;
  for (std::size_t i = 0; i < config.apic_ids.size(); ++i) {
    const U32 id = config.apic_ids[i], uid = static_cast<U32>(i);
    // A local-APIC entry has eight bits for both numbers; 255 is the broadcast id.
    if (id < 255 && uid < 255) {
      any_xapic = true;
      t.append(U8{0}, U8{8}, static_cast<U8>(uid), static_cast<U8>(id), U32{1});
    } else {
      any_x2apic = true;
      t.append(U8{9}, U8{16}, U16{0}, U32{id}, U32{1}, U32{uid});
    }
  }
  for (const AcpiIoApic& io : config.ioapics)
    t.append(U8{1}, U8{12}, U8{io.id}, U8{0}, U32{io.address}, U32{io.gsi_base});
  const auto source_override = [&](U8 irq, U32 gsi, U16 flags) { t.append(U8{2}, U8{10}, U8{0}, irq, gsi, flags); };
  if (config.pit) source_override(0, 2, 0);  // conforms to the bus: edge, active high
  // Level-triggered; MPS INTI polarity 1 is active high, 3 active low.
  source_override(config.fixed.sci_irq, config.fixed.sci_irq,
                  static_cast<U16>(0x0C | (config.fixed.sci_active_low ? 3 : 1)));
  // NMI comes in at LINT1 of every processor.
  if (any_xapic) t.append(U8{4}, U8{6}, U8{0xFF}, U16{0}, U8{1});
  if (any_x2apic) t.append(U8{0xA}, U8{12}, U16{0}, U32{0xFFFF'FFFF}, U8{1}, U8{0}, U16{0});
  return t.finish();
}

/// PCI Firmware Specification 3.2, table 4-2.
std::vector<U8> mcfg(const AcpiPci& pci) {
  Table t("MCFG", 1, kHeaderSize + 8);
  t.append(U64{pci.ecam_base}, U16{0}, U8{pci.first_bus}, U8{pci.last_bus}, U32{0});
  return t.finish();
}

/// IA-PC HPET Specification 1.0a, 3.2.4.
std::vector<U8> hpet(const AcpiConfig& config) {
  Table t("HPET", 1, 56);
  t.put<U32>(36, config.hpet_block_id);
  t.put<U8>(41, 64);  // the GAS at 40: system memory, 64 bits wide
  t.put<U64>(44, *config.hpet_address);
  t.put<U16>(53, 100);  // minimum tick
  return t.finish();
}

}  // namespace

AcpiBlob build_acpi_tables(const AcpiConfig& config, std::uint64_t base) {
  HUSK_CHECK(base % 64 == 0);
  AcpiBlob blob;
  blob.base = base;
  const auto place = [&](std::string signature, const std::vector<U8>& bytes, std::size_t alignment) {
    const std::size_t at = align_up<std::size_t>(blob.bytes.size(), alignment);
    blob.bytes.resize(at + bytes.size());
    std::ranges::copy(bytes, blob.bytes.begin() + static_cast<std::ptrdiff_t>(at));
    blob.tables.push_back({std::move(signature), at, bytes.size()});
    return base + at;
  };
  place("RSD PTR ", std::vector<U8>(36), 16);  // filled in last

  const U64 facs = place("FACS", facs_table(), 64);
  Table code("DSDT", 2, kHeaderSize);
  code.append_bytes(build_dsdt_code(config));
  const U64 dsdt = place("DSDT", code.finish(), 16);
  std::vector<U64> pointers = {place("FACP", fadt(config, facs, dsdt), 16), place("APIC", madt(config), 16)};
  if (config.pci && config.pci->ecam_base != 0) pointers.push_back(place("MCFG", mcfg(*config.pci), 16));
  if (config.hpet_address) pointers.push_back(place("HPET", hpet(config), 16));

  Table rsdt("RSDT", 1, kHeaderSize), xsdt("XSDT", 1, kHeaderSize);
  for (const U64 pointer : pointers) {
    rsdt.append(static_cast<U32>(pointer));
    xsdt.append(pointer);
  }
  const U64 rsdt_at = place("RSDT", rsdt.finish(), 16), xsdt_at = place("XSDT", xsdt.finish(), 16);
  HUSK_CHECK(base + blob.bytes.size() <= kFourGiB);

  // 5.2.5.3: the first checksum covers ACPI 1.0's 20 bytes.
  U8* const p = blob.bytes.data();
  std::memcpy(p, "RSD PTR ", 8);
  std::memcpy(p + 9, "HUSK  ", 6);
  p[15] = 2;
  store_le<U32>(p + 16, static_cast<U32>(rsdt_at));
  store_le<U32>(p + 20, 36);
  store_le<U64>(p + 24, xsdt_at);
  p[8] = static_cast<U8>(-std::accumulate(p, p + 20, 0));
  p[32] = static_cast<U8>(-std::accumulate(p, p + 36, 0));
  return blob;
}

}  // namespace husk::boot
