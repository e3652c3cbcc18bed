// husk: a PCI Express root port: a bridge with windows and a bus of its own
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/device.h"
#include "devices/pci/bus.h"
#include "devices/pci/q35.h"

namespace husk::devices::pci {

/// 1b36:000c, which QEMU calls pcie-root-port: a type 1 header (PCI-to-PCI Bridge Architecture 1.2) with I/O, memory
/// and 64-bit prefetchable windows. Its interrupts, of which there are none without hot-plug, are not wired.
class RootPort final : public core::StatefulDevice<FunctionState>,
                       private Function,
                       private Upstream,
                       private Downstream {
 public:
  struct Deps {
    Bus& bus;
    mem::LockDomain* domain = nullptr;  ///< that of the PciHost
  };
  struct Config {
    std::string id = "root_port0";
    std::uint8_t devfn = 0;
    unsigned slot = 0;  ///< physical slot number; 0: the port has no slot
    bool multifunction = false;
  };
  enum Register : unsigned {
    kPrimary = 0x18,
    kSecondary = 0x19,
    kSubordinate = 0x1A,
    kIoBase = 0x1C,
    kIoLimit = 0x1D,
    kMemoryBase = 0x20,
    kMemoryLimit = 0x22,
    kPrefetchBase = 0x24,
    kPrefetchLimit = 0x26,
    kPrefetchBaseUpper = 0x28,
    kPrefetchLimitUpper = 0x2C,
    kBridgeControl = 0x3E,
  };
  static Result<std::unique_ptr<RootPort>> create(Deps deps, Config config);

  std::string_view state_id() const override { return id_; }
  void reset(core::ResetKind kind) override;
  /// The bus below, for functions to be attached to.
  Bus& secondary() { return secondary_; }

 private:
  RootPort(Deps deps, Config config);
  std::uint32_t read_config(unsigned offset, unsigned size) override { return space_.read(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override;
  void decode_changed() override { secondary_.decode_changed(); }
  void bus_reset() override { reset(core::ResetKind::warm); }
  bool forwards(bool io, std::uint64_t base, std::uint64_t size) const override;
  Bus* route(unsigned number) override;
  Status validate(const FunctionState& incoming) const override { return space_.validate(incoming.config, id_); }
  void after_load() override;

  Deps deps_;
  std::string id_;
  ConfigSpace space_;
  Bus secondary_;
  Slot slot_;
};

}  // namespace husk::devices::pci
