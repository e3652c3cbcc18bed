// husk: pci-testdev: a PCI device that counts writes to its BARs, for tests of low-level I/O
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/device.h"
#include "devices/pci/bus.h"
#include "mem/address_space.h"

namespace husk::devices {

struct PciTestdevState {
  pci::ConfigState config;
  std::uint8_t current = 0xFF;  ///< the chosen test: 0..2 of the memory BAR, 3..5 of the I/O BAR; FFh: none
  std::array<std::uint32_t, 6> counts{};
  static constexpr auto state() {
    using state::field;
    using S = PciTestdevState;
    return std::tuple{field(1, "config", &S::config), field(2, "current", &S::current), field(3, "counts", &S::counts)};
  }
};

/// 1b36:0005 as QEMU's docs/specs/pci-testdev.rst describes it. BAR 0 (4 KiB of memory) and BAR 1 (256 ports) begin
/// with a header: a write of a test's number to its first byte chooses the test, whose header both then show (access
/// width, offset, data, count of writes, name). The tests have QEMU's names, for which of its ways of notification
/// each is to take; husk has no such ways here, so that every write that counts is counted. BAR 2 is 64-bit memory of
/// any size with nothing behind it.
class PciTestdev final : public core::StatefulDevice<PciTestdevState>, private pci::Function {
 public:
  struct Deps {
    mem::AddressSpace& memory;
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    pci::Bus& bus;
  };
  struct Config {
    std::string id = "pci_testdev0";
    std::uint8_t devfn = 0;
    std::uint64_t memory_bar = 0;  ///< bytes of BAR 2, a power of two of at least 16; 0: there is none
  };
  static constexpr std::uint64_t kMemorySize = 4096;
  static constexpr std::uint64_t kPortCount = 256;
  static constexpr unsigned kTests = 3;  ///< of each BAR

  /// Refuses a size of BAR 2 that no BAR can have; fails if the place on the bus is taken.
  static Result<std::unique_ptr<PciTestdev>> create(Deps deps, Config config);

  std::string_view state_id() const override { return config_.id; }
  void reset(core::ResetKind kind) override;

 private:
  struct Bar final : mem::IoHandler {
    Bar(PciTestdev& owner, unsigned first) : owner_(owner), first_(first) {}
    std::uint64_t read(const mem::Access& access) override { return owner_.read(access.offset); }
    void write(const mem::Access& access, std::uint64_t value) override {
      owner_.write(first_, access.offset, static_cast<std::uint8_t>(value));
    }
    PciTestdev& owner_;
    unsigned first_;
  };

  PciTestdev(Deps deps, Config config);
  // pci::Function
  std::uint32_t read_config(unsigned offset, unsigned size) override { return logic_.read_config(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override {
    logic_.write_config(offset, value, size);
  }
  void decode_changed() override { logic_.decode_changed(); }
  void bus_reset() override { reset(core::ResetKind::warm); }

  /// Bytewise: wider accesses are split by the bus.
  std::uint8_t read(std::uint64_t offset) const;
  void write(unsigned first_test, std::uint64_t offset, std::uint8_t value);

  Status validate(const PciTestdevState& incoming) const override;
  void after_load() override { logic_.after_load(); }

  Deps deps_;
  Config config_;
  pci::ConfigSpace space_;
  pci::FunctionLogic logic_;
  Bar memory_bar_{*this, 0};
  Bar io_bar_{*this, kTests};
  pci::Slot slot_;
};

}  // namespace husk::devices
