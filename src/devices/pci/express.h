// husk: the PCI Express and power management capabilities
#pragma once

#include <cstdint>

#include "devices/pci/config_space.h"

namespace husk::devices::pci {

/// Device/port type of the PCI Express capabilities register (PCI Express Base 4.0, 7.5.3.2).
enum class ExpressType : std::uint8_t { endpoint = 0, root_port = 4, integrated_endpoint = 9 };

/// Adds the PCI Express capability, version 2, of a 2.5 GT/s x1 device; `slot` is the physical slot number of a root
/// port (0: it has no slot). Returns its offset.
unsigned add_express_capability(ConfigSpace& config, ExpressType type, unsigned slot = 0);
/// Adds power management, version 3, without PME; D0 and D3hot, which keeps the registers. Returns its offset.
unsigned add_power_management(ConfigSpace& config);

}  // namespace husk::devices::pci
