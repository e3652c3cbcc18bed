// husk: edu: a PCI device for those who learn to write drivers: a calculator, interrupts, DMA
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/log.h"
#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/pci/bus.h"
#include "devices/pci/msi.h"
#include "mem/address_space.h"

namespace husk::devices {

struct EduState {
  pci::ConfigState config;
  std::uint32_t liveness = 0;  ///< as read: what was written, inverted
  std::uint32_t factorial = 0;
  std::uint32_t status = 0;
  std::uint32_t interrupts = 0;
  std::uint64_t source = 0;
  std::uint64_t destination = 0;
  std::uint64_t count = 0;
  std::uint64_t command = 0;
  std::vector<std::uint8_t> buffer;
  /// VM time at which the computation, and the transfer, that is under way ends.
  std::uint64_t computed_at = 0;
  std::uint64_t transferred_at = 0;
  static constexpr auto state() {
    using state::field;
    using S = EduState;
    return std::tuple{field(1, "config", &S::config),
                      field(2, "liveness", &S::liveness),
                      field(3, "factorial", &S::factorial),
                      field(4, "status", &S::status),
                      field(5, "interrupts", &S::interrupts),
                      field(6, "source", &S::source),
                      field(7, "destination", &S::destination),
                      field(8, "count", &S::count),
                      field(9, "command", &S::command),
                      field(10, "buffer", &S::buffer),
                      field(11, "computed_at", &S::computed_at),
                      field(12, "transferred_at", &S::transferred_at)};
  }
};

/// 1234:11e8 with a 1 MiB BAR 0, as QEMU's docs/specs/edu.rst describes it: identification, liveness check, factorials
/// (modulo 2^32), interrupts by INTx or one MSI, and a DMA engine between guest RAM and a buffer of 4 KiB at 40000h. A
/// transfer takes 100 ms of the machine's time, so that a driver must wait for it. One that leaves the buffer or RAM,
/// or is started while bus mastering is off, moves nothing and ends as others do.
class Edu final : public core::StatefulDevice<EduState>, private pci::Function {
 public:
  struct Deps {
    mem::AddressSpace& memory;
    mem::LockDomain* domain = nullptr;
    core::Clock& clock;
    core::MsiPort& msi;
    pci::Bus& bus;
    Log& log;
  };
  struct Config {
    std::string id = "edu0";
    std::uint8_t devfn = 0;
    /// Address bits of the DMA engine; the others of what a driver gives it are dropped.
    std::uint64_t dma_mask = (std::uint64_t{1} << 28) - 1;
  };
  static constexpr std::uint64_t kBarSize = 1 << 20;
  static constexpr std::uint64_t kBufferAt = 0x40000;
  static constexpr std::uint64_t kBufferSize = 4096;
  static constexpr core::VmTime kComputeTime = 10'000;        // ns
  static constexpr core::VmTime kTransferTime = 100'000'000;  // ns

  enum Register : std::uint64_t {
    kIdentification = 0x00,
    kLiveness = 0x04,
    kFactorial = 0x08,
    kStatus = 0x20,
    kInterruptStatus = 0x24,
    kInterruptRaise = 0x60,
    kInterruptAcknowledge = 0x64,
    kDmaSource = 0x80,
    kDmaDestination = 0x88,
    kDmaCount = 0x90,
    kDmaCommand = 0x98,
  };
  enum StatusBits : std::uint32_t { kComputing = 0x01, kInterruptWhenComputed = 0x80 };
  enum CommandBits : std::uint64_t { kStart = 1, kToRam = 2, kInterruptWhenDone = 4 };
  enum InterruptBits : std::uint32_t { kComputed = 0x001, kTransferred = 0x100 };

  /// Fails if the place on the bus is taken.
  static Result<std::unique_ptr<Edu>> create(Deps deps, Config config);

  std::string_view state_id() const override { return config_.id; }
  void reset(core::ResetKind kind) override;

 private:
  struct Registers final : mem::IoHandler {
    explicit Registers(Edu& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override { return owner_.read(access.offset, access.size); }
    void write(const mem::Access& access, std::uint64_t value) override {
      owner_.write(access.offset, value, access.size);
    }
    Edu& owner_;
  };

  Edu(Deps deps, Config config);
  // pci::Function
  std::uint32_t read_config(unsigned offset, unsigned size) override { return logic_.read_config(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size) override;
  void decode_changed() override { logic_.decode_changed(); }
  void bus_reset() override { reset(core::ResetKind::warm); }

  std::uint64_t read(std::uint64_t offset, unsigned size) const;
  void write(std::uint64_t offset, std::uint64_t value, unsigned size);
  void raise(std::uint32_t causes);
  bool intx_asserted() const { return state_.interrupts != 0 && !msi_.enabled(); }
  void computed();
  void transferred();
  /// Moves the bytes, or says why it cannot.
  Status transfer();

  Status validate(const EduState& incoming) const override;
  void after_load() override;

  Deps deps_;
  Config config_;
  mem::GuestMemory memory_;
  pci::ConfigSpace space_;
  pci::Msi msi_;
  pci::FunctionLogic logic_;
  Registers registers_{*this};
  std::unique_ptr<core::Timer> computing_, transferring_;
  pci::Slot slot_;
};

}  // namespace husk::devices
