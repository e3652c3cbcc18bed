// husk: the ways to PCI configuration space: mechanism 1 ports and the ECAM window
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "core/device.h"
#include "devices/pci/bus.h"
#include "mem/address_space.h"

namespace husk::devices::pci {

struct PciHostState {
  std::uint32_t address = 0;  ///< CONFIG_ADDRESS
  static constexpr auto state() { return std::tuple{state::field(1, "config_address", &PciHostState::address)}; }
};

/// PCI 3.0, 3.2.2.3.2: a dword at CF8h is CONFIG_ADDRESS; anything narrower there is an ordinary I/O access, of which
/// the byte at CF9h is the chip set's reset control. CFCh..CFFh is the addressed dword, by bytes, words or whole.
/// The ECAM window (PCI Express 7.2.2) gives each function 4 KiB.
class PciHost final : public core::StatefulDevice<PciHostState> {
 public:
  struct Deps {
    mem::AddressSpace& memory;
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    Bus& root;
    mem::IoHandler* byte_at_cf9 = nullptr;  ///< ResetControl; none: nothing answers there
  };
  static constexpr std::uint16_t kAddressPort = 0xCF8;
  static constexpr std::uint16_t kDataPort = 0xCFC;

  static Result<std::unique_ptr<PciHost>> create(Deps deps);

  std::string_view state_id() const override { return "pci_host"; }
  void reset(core::ResetKind) override { state_ = {}; }

  /// Moves or closes the ECAM window of `buses` (1..256) times 1 MiB. Fails if it does not fit the address space; then
  /// it is closed. No part of this device's state: whoever decides (PCIEXBAR) tells it again after a load.
  Status set_ecam(std::optional<mem::Gpa> base, unsigned buses = 256);
  std::optional<mem::Gpa> ecam_base() const { return ecam_base_; }

  /// Any function in the hierarchy; absent ones read as all ones. Crossing a dword is split into bytes.
  std::uint32_t read_config(unsigned bus, std::uint8_t devfn, unsigned offset, unsigned size);
  void write_config(unsigned bus, std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size);

 private:
  struct Ports final : mem::IoHandler {
    explicit Ports(PciHost& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    PciHost& owner_;
  };
  struct Ecam final : mem::IoHandler {
    explicit Ecam(PciHost& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    PciHost& owner_;
  };
  explicit PciHost(Deps deps) : deps_(deps) {}

  Deps deps_;
  Ports ports_handler_{*this};
  Ecam ecam_handler_{*this};
  std::optional<mem::Gpa> ecam_base_;
  unsigned ecam_buses_ = 0;
  mem::Mapping ports_;
  mem::Mapping ecam_;
};

}  // namespace husk::devices::pci
