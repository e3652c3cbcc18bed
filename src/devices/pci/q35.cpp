// husk: the memory controller hub and the LPC bridge
#include "devices/pci/q35.h"

#include "base/bits.h"

namespace husk::devices::pci {

namespace {
constexpr std::uint16_t kIntel = 0x8086;
// PCIEXBAR: bit 0 enable, 2:1 length (256, 128, 64 MiB), 35:28 base, 27:26 base too where the length leaves them.
constexpr std::uint64_t kPciExBarBits = 0xFFC000007;
constexpr std::uint8_t kAcpiEnableBit = 0x80;

std::uint64_t pciexbar_length_code(unsigned buses) { return buses >= 256 ? 0 : buses >= 128 ? 1 : 2; }
}  // namespace

HostBridge::HostBridge(Deps deps, Config config)
    : deps_(deps),
      space_(state_.config, {.vendor = kIntel, .device = 0x29C0, .revision = 2, .class_code = 0x060000}, false) {
  std::uint64_t reset = 0;
  if (config.ecam_base) reset = *config.ecam_base | (pciexbar_length_code(config.ecam_buses) << 1) | 1;
  space_.define(kPciExBar, 8, reset, kPciExBarBits);
  // Bus mastering and memory decode are hardwired on (PCICMD reset value 0006h).
  space_.define(kCommand, 2, kCommandMemory | kCommandBusMaster, kCommandSerr);
}

Result<std::unique_ptr<HostBridge>> HostBridge::create(Deps deps, Config config) {
  if (config.ecam_base && (*config.ecam_base % (std::uint64_t{config.ecam_buses} << 20) || *config.ecam_base >> 36 ||
                           (config.ecam_buses != 64 && config.ecam_buses != 128 && config.ecam_buses != 256)))
    return fail("ECAM window of {} buses cannot be at {:#x}", config.ecam_buses, *config.ecam_base);
  std::unique_ptr<HostBridge> bridge(new HostBridge(deps, config));
  bridge->slot_ = HUSK_TRY(deps.bus.attach(devfn(0, 0), *bridge));
  bridge->place_ecam();
  return bridge;
}

void HostBridge::reset(core::ResetKind) {
  space_.reset();
  place_ecam();
}

void HostBridge::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  space_.write(offset, value, size);
  if (offset + size > kPciExBar && offset < kPciExBar + 8) place_ecam();
}

void HostBridge::place_ecam() {
  const std::uint64_t bar = space_.get(kPciExBar, 8);
  const unsigned code = (bar >> 1) & 3;
  const unsigned buses = 256u >> code;
  const std::uint64_t base = align_down<std::uint64_t>(bar & 0xFFC000000, std::uint64_t{buses} << 20);
  // Length code 3 is reserved. A window that does not fit is closed, which is all that can be done about it here.
  (void)deps_.host.set_ecam((bar & 1) && code != 3 ? std::optional(base) : std::nullopt, buses);
}

LpcBridge::LpcBridge(Deps deps, Config config)
    : deps_(std::move(deps)),
      space_(state_.config,
             {.vendor = kIntel,
              .device = 0x2918,
              .revision = 2,
              .class_code = 0x060100,
              .multifunction = config.multifunction},
             false) {
  space_.define(kCommand, 2, kCommandIo | kCommandMemory | kCommandBusMaster, kCommandParity | kCommandSerr);
  space_.define(kPmBase, 4, config.acpi_base | 1u, 0xFF80);
  space_.define(kAcpiControl, 1, config.acpi_base ? kAcpiEnableBit : 0, 0x87);
  for (unsigned i = 0; i < 4; ++i) {
    space_.define(kPirqA + i, 1, 0x80, 0x8F);
    space_.define(kPirqE + i, 1, 0x80, 0x8F);
  }
  space_.define(kSerialIrqControl, 1, 0x10, 0xFF);
  space_.define(kLpcIoDecode, 2, 0, 0x1377);
  space_.define(kLpcEnable, 2, 0, 0x3F0F);
  for (unsigned i = 0; i < 4; ++i) space_.define(0x84 + i * 4, 4, 0, 0x00FCFFFD);  // GEN1_DEC..GEN4_DEC
  space_.define(kRootComplexBase, 4, 0, 0xFFFFC001);
}

Result<std::unique_ptr<LpcBridge>> LpcBridge::create(Deps deps, Config config) {
  if (config.acpi_base % 0x80) return fail("ACPI base {:#x} is not a multiple of 0x80", config.acpi_base);
  Bus& bus = deps.bus;
  std::unique_ptr<LpcBridge> bridge(new LpcBridge(std::move(deps), config));
  bridge->slot_ = HUSK_TRY(bus.attach(devfn(0x1F, 0), *bridge, bridge->deps_.domain));
  bridge->announce();
  return bridge;
}

void LpcBridge::reset(core::ResetKind) {
  space_.reset();
  announce();
}

void LpcBridge::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  if (space_.write(offset, value, size)) announce();
}

void LpcBridge::announce() {
  const auto base = static_cast<std::uint16_t>(space_.get(kPmBase, 2) & 0xFF80);
  const bool enabled = space_.get(kAcpiControl, 1) & kAcpiEnableBit;
  if (deps_.acpi_base) deps_.acpi_base(enabled && base ? std::optional(base) : std::nullopt);
  if (deps_.routing) deps_.routing();
}

std::optional<unsigned> LpcBridge::pirq_route(unsigned pirq) const {
  const auto value = static_cast<unsigned>(space_.get(pirq < 4 ? kPirqA + pirq : kPirqE + (pirq - 4), 1));
  // PIRQn_ROUT: bit 7 not routed; 0, 1, 2, 8 and 13 are reserved.
  const unsigned irq = value & 0xF;
  if ((value & 0x80) || irq < 3 || irq == 8 || irq == 13) return std::nullopt;
  return irq;
}

}  // namespace husk::devices::pci
