// husk: numbers the buses and places the BARs of a PCI hierarchy, as firmware does before an operating system starts
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "devices/pci/host.h"

namespace husk::devices::pci {

struct ResourceWindows {
  struct Window {
    std::uint64_t base = 0;
    std::uint64_t size = 0;
  };
  Window io;
  Window memory32;
  Window memory64;  ///< for prefetchable and 64-bit BARs; empty: they go into memory32 too
  /// What the interrupt line register is to tell (for kernels that do without ACPI); `pin` 0 is INTA#.
  std::function<std::uint8_t(unsigned device, unsigned pin)> interrupt_line = {};
};

/// Works by configuration cycles alone, so it also goes for functions that it knows nothing of. Decoding is switched on
/// for what got all its resources. Fails, naming the function, where a window is full; everything placed before stays.
Status assign_resources(PciHost& host, const ResourceWindows& windows);

}  // namespace husk::devices::pci
