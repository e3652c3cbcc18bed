// husk: a PCI Express root port
#include "devices/pci/root_port.h"

#include "base/bits.h"
#include "devices/pci/express.h"

namespace husk::devices::pci {

namespace {
constexpr std::uint16_t kSecondaryBusReset = 0x40;
}

RootPort::RootPort(Deps deps, Config config)
    : deps_(deps),
      id_(std::move(config.id)),
      space_(state_.config,
             {.vendor = 0x1B36, .device = 0x000C, .class_code = 0x060400, .multifunction = config.multifunction},
             false),
      secondary_(
          0,
          // PCI-to-PCI Bridge 9.1: a pin below is swizzled by its device number onto the bridge's own pins.
          [this, device = unsigned{config.devfn} >> 3](unsigned below, unsigned pin) {
            return deps_.bus.intx(device, (below + pin) % 4);
          },
          this) {
  space_.define(kHeaderType, 1, config.multifunction ? 0x81 : 0x01);
  space_.define(kPrimary, 4, 0, 0x00FFFFFF);  // with the latency timer, hardwired to 0
  space_.define(kIoBase, 2, 0x0000, 0xF0F0);
  space_.define(0x1E, 2, 0, 0, 0xF900);
  space_.define(kMemoryBase, 4, 0, 0xFFF0FFF0);
  space_.define(kPrefetchBase, 4, 0x00010001, 0xFFF0FFF0);
  space_.define(kPrefetchBaseUpper, 8, 0, ~std::uint64_t{0});
  space_.define(kBridgeControl, 2, 0, 0x005F);
  add_express_capability(space_, ExpressType::root_port, config.slot);
  add_power_management(space_);
}

Result<std::unique_ptr<RootPort>> RootPort::create(Deps deps, Config config) {
  const std::uint8_t place = config.devfn;
  std::unique_ptr<RootPort> port(new RootPort(deps, std::move(config)));
  port->slot_ = HUSK_TRY(deps.bus.attach(place, *port, deps.domain, port.get()));
  return port;
}

void RootPort::reset(core::ResetKind) {
  space_.reset();
  secondary_.set_number(0);
  secondary_.decode_changed();
}

void RootPort::after_load() {
  secondary_.set_number(static_cast<std::uint8_t>(space_.get(kSecondary, 1)));
  secondary_.decode_changed();
}

void RootPort::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  const auto control = space_.get(kBridgeControl, 2);
  if (!space_.write(offset, value, size)) return;
  secondary_.set_number(static_cast<std::uint8_t>(space_.get(kSecondary, 1)));
  if (!(control & kSecondaryBusReset) && (space_.get(kBridgeControl, 2) & kSecondaryBusReset)) secondary_.bus_reset();
  if (offset < kBridgeControl && offset + size > kCommand) secondary_.decode_changed();
}

Bus* RootPort::route(unsigned number) {
  const auto first = space_.get(kSecondary, 1);
  return first != 0 && number >= first && number <= space_.get(kSubordinate, 1) ? &secondary_ : nullptr;
}

bool RootPort::forwards(bool io, std::uint64_t base, std::uint64_t size) const {
  const auto command = space_.get(kCommand, 2);
  const auto inside = [&](std::uint64_t first, std::uint64_t last) {
    return first <= last && base >= first && size - 1 <= last - first && base - first <= last - first - (size - 1);
  };
  bool forwarded = false;
  if (io) {
    forwarded = (command & kCommandIo) &&
                inside((space_.get(kIoBase, 1) & 0xF0) << 8, ((space_.get(kIoLimit, 1) & 0xF0) << 8) | 0xFFF);
  } else if (command & kCommandMemory) {
    const auto high = [&](unsigned low, unsigned upper) {
      return (space_.get(upper, 4) << 32) | ((space_.get(low, 2) & 0xFFF0) << 16);
    };
    forwarded =
        inside((space_.get(kMemoryBase, 2) & 0xFFF0) << 16, ((space_.get(kMemoryLimit, 2) & 0xFFF0) << 16) | 0xFFFFF) ||
        inside(high(kPrefetchBase, kPrefetchBaseUpper), high(kPrefetchLimit, kPrefetchLimitUpper) | 0xFFFFF);
  }
  return forwarded && deps_.bus.decodes(io, base, size);
}

}  // namespace husk::devices::pci
