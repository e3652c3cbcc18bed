// husk: the two functions that every Q35-like board has: the memory controller hub and the LPC bridge
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "core/device.h"
#include "devices/pci/bus.h"
#include "devices/pci/host.h"

namespace husk::devices::pci {

struct FunctionState {
  ConfigState config;
  static constexpr auto state() { return std::tuple{state::field(1, "config", &FunctionState::config)}; }
};

/// Host bridge 8086:29c0 at 00:00.0 (Intel 3 Series Express Chipset data sheet, chapter 5), with PCIEXBAR, by which the
/// guest finds and moves the ECAM window. Memory-hole registers (PAM, SMRAM) come with firmware boot.
class HostBridge final : public core::StatefulDevice<FunctionState>, private Function {
 public:
  struct Deps {
    Bus& bus;
    PciHost& host;  ///< its lock domain is this device's too
  };
  struct Config {
    /// PCIEXBAR after reset: 64, 128 or 256 MiB aligned to their size, below 64 GiB. Nothing: closed, as on hardware.
    std::optional<mem::Gpa> ecam_base = 0xE0000000;
    unsigned ecam_buses = 256;  ///< 64, 128 or 256
  };
  static constexpr unsigned kPciExBar = 0x60;

  static Result<std::unique_ptr<HostBridge>> create(Deps deps, Config config);

  std::string_view state_id() const override { return "host_bridge"; }
  void reset(core::ResetKind kind) override;

 private:
  HostBridge(Deps deps, Config config);
  std::uint32_t read_config(unsigned offset, unsigned size) override { return space_.read(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override;
  Status validate(const FunctionState& incoming) const override {
    return space_.validate(incoming.config, "host_bridge");
  }
  void after_load() override { place_ecam(); }
  void place_ecam();

  Deps deps_;
  ConfigSpace space_;
  Slot slot_;
};

/// LPC interface bridge 8086:2918 of ICH9 at 00:1f.0 (data sheet chapter 13): ACPI base, PIRQ routing and the decode
/// registers that drivers look at. What is behind it (serial ports, keyboard, timers) is wired by the board itself.
class LpcBridge final : public core::StatefulDevice<FunctionState>, private Function {
 public:
  struct Deps {
    Bus& bus;
    /// PMBASE or ACPI_CNTL changed: where the ACPI block is now. Called from reset, configuration writes and load.
    std::function<void(std::optional<std::uint16_t>)> acpi_base = {};
    /// PIRQ[A..H] routing changed; look at pirq_route(). May be empty.
    std::function<void()> routing = {};
    mem::LockDomain* domain = nullptr;
  };
  struct Config {
    /// PMBASE after reset, 128-byte aligned and enabled; 0: as on hardware, for firmware to place.
    std::uint16_t acpi_base = 0x600;
    bool multifunction = true;  ///< SATA (1f.2) and SMBus (1f.3) may be beside it
  };
  enum Register : unsigned {
    kPmBase = 0x40,
    kAcpiControl = 0x44,
    kPirqA = 0x60,
    kSerialIrqControl = 0x64,
    kPirqE = 0x68,
    kLpcIoDecode = 0x80,
    kLpcEnable = 0x82,
    kRootComplexBase = 0xF0
  };

  static Result<std::unique_ptr<LpcBridge>> create(Deps deps, Config config);

  std::string_view state_id() const override { return "lpc_bridge"; }
  void reset(core::ResetKind kind) override;

  /// The ISA interrupt to which PIRQ[A..H] (0..7) is routed, if it is.
  std::optional<unsigned> pirq_route(unsigned pirq) const;

 private:
  LpcBridge(Deps deps, Config config);
  std::uint32_t read_config(unsigned offset, unsigned size) override { return space_.read(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override;
  Status validate(const FunctionState& incoming) const override {
    return space_.validate(incoming.config, "lpc_bridge");
  }
  void after_load() override { announce(); }
  void announce();

  Deps deps_;
  ConfigSpace space_;
  Slot slot_;
};

}  // namespace husk::devices::pci
