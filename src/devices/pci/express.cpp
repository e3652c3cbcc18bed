// husk: the PCI Express and power management capabilities
#include "devices/pci/express.h"

namespace husk::devices::pci {

unsigned add_express_capability(ConfigSpace& config, ExpressType type, unsigned slot) {
  const unsigned at = config.add_capability(0x10, 60);
  const bool port = type == ExpressType::root_port;
  const bool link = type != ExpressType::integrated_endpoint;
  config.define(at + 2, 2, 2u | (static_cast<unsigned>(type) << 4) | (port && slot ? 0x100u : 0u));
  config.define(at + 4, 4, 0x8000);  // role-based error reporting, which since 1.1 everyone has
  // Device control: error reporting, relaxed ordering, payload size, no snoop, read request size. Status: write 1.
  config.define(at + 8, 2, 0x2810, 0x78FF);
  config.define(at + 10, 2, 0, 0, 0x000F);
  if (link) {
    config.define(at + 12, 4, 0x11 | (port ? 0x00100000u | (slot << 24) : 0u));  // 2.5 GT/s, x1; ports tell link state
    config.define(at + 16, 2, 0, 0x00FB);
    config.define(at + 18, 2, 0x11 | (port ? 0x2000u : 0u));  // ... which is up
    config.define(at + 44, 4, 0x2);
    config.define(at + 48, 2, 0x1, 0xF);
  }
  if (port) {
    config.define(at + 20, 4, slot << 19);
    config.define(at + 24, 2, 0, 0x1FFF);
    config.define(at + 26, 2, slot ? 0x40u : 0u, 0, 0x1F);  // presence: a card is in the slot
    config.define(at + 28, 2, 0, 0x1F);
    config.define(at + 32, 4, 0);
  }
  config.define(at + 40, 2, 0, 0x001F);
  return at;
}

unsigned add_power_management(ConfigSpace& config) {
  const unsigned at = config.add_capability(0x01, 8);
  config.define(at + 2, 2, 0x0003);
  config.define(at + 4, 2, 0x0008, 0x0003);  // no soft reset: D3hot to D0 keeps all state
  return at;
}

}  // namespace husk::devices::pci
