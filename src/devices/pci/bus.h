// husk: PCI functions and the bus they sit on
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "core/interrupt_line.h"
#include "devices/pci/config_space.h"
#include "mem/address_space.h"

namespace husk::devices::pci {

/// Device and function number: device in bits 7:3, function in 2:0.
constexpr std::uint8_t devfn(unsigned device, unsigned function) {
  return static_cast<std::uint8_t>((device << 3) | function);
}

/// What answers configuration cycles. `offset` 0..4095; size 1, 2 or 4; an access never crosses a dword.
class Function {
 public:
  virtual ~Function() = default;
  virtual std::uint32_t read_config(unsigned offset, unsigned size) = 0;
  virtual void write_config(unsigned offset, std::uint32_t value, unsigned size) = 0;
  /// A bridge above moved or closed its windows: what is mapped may have to change.
  virtual void decode_changed() {}
  /// A bridge above resets its secondary bus (conventional reset, PCI Express 6.6.1).
  virtual void bus_reset() {}
};

class Bus;

/// The bridge that leads to a bus, as functions below see it.
class Upstream {
 public:
  virtual ~Upstream() = default;
  /// True if the bridge, and every one above it, forwards [base, base+size) downstream.
  virtual bool forwards(bool io, std::uint64_t base, std::uint64_t size) const = 0;
};

/// A bridge as the root of the hierarchy sees it: how configuration cycles find the buses below.
class Downstream {
 public:
  virtual ~Downstream() = default;
  /// The bus below, if configuration cycles for `number` go that way now.
  virtual Bus* route(unsigned number) = 0;
};

/// A function's place on a bus for as long as it lives; movable.
class Slot {
 public:
  Slot() = default;
  Slot(Slot&& other) noexcept : bus_(std::exchange(other.bus_, nullptr)), devfn_(other.devfn_) {}
  Slot& operator=(Slot&& other) noexcept;
  ~Slot();
  std::uint8_t devfn() const { return devfn_; }

 private:
  friend class Bus;
  Slot(Bus* bus, std::uint8_t devfn) : bus_(bus), devfn_(devfn) {}
  Bus* bus_ = nullptr;
  std::uint8_t devfn_ = 0;
};

/// Up to 256 functions. Absent ones read as all ones and swallow writes. Must outlive its slots. One lock domain guards
/// the ways to it (PciHost's); each function's own domain is taken below that one.
class Bus {
 public:
  /// Gives out wires for interrupt pins: `device` 0..31 of this bus, `pin` 0 (INTA#) to 3.
  using IntxRouter = std::function<core::InterruptLine(unsigned device, unsigned pin)>;

  explicit Bus(std::uint8_t number = 0, IntxRouter intx = {}, const Upstream* upstream = nullptr)
      : number_(number), intx_(std::move(intx)), upstream_(upstream) {}
  /// Fails if the place is taken. Function 0 of a device with several functions needs Identity::multifunction.
  /// `domain` is taken around the function's calls; `downstream` if the function is a bridge.
  Result<Slot> attach(std::uint8_t devfn, Function& function, mem::LockDomain* domain = nullptr,
                      Downstream* downstream = nullptr);
  /// The lowest device number at or above `from` with no function; nothing if the bus is full.
  std::optional<unsigned> free_device(unsigned from = 1) const;

  std::uint32_t read_config(std::uint8_t devfn, unsigned offset, unsigned size) const;
  void write_config(std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size);
  Function* at(std::uint8_t devfn) const { return places_[devfn].function; }
  /// This bus or one below it that has this number now; null if there is none.
  Bus* find(unsigned number);

  /// Its number, which the bridge above it may change; any thread.
  std::uint8_t number() const { return number_.load(std::memory_order_relaxed); }
  void set_number(std::uint8_t number) { number_.store(number, std::memory_order_relaxed); }
  std::uint16_t requester_id(std::uint8_t devfn) const { return static_cast<std::uint16_t>((number() << 8) | devfn); }
  core::InterruptLine intx(unsigned device, unsigned pin) const {
    return intx_ ? intx_(device, pin) : core::InterruptLine();
  }
  bool decodes(bool io, std::uint64_t base, std::uint64_t size) const {
    return !upstream_ || upstream_->forwards(io, base, size);
  }
  /// Tells every function here and below.
  void decode_changed();
  void bus_reset();

 private:
  friend class Slot;
  struct Place {
    Function* function = nullptr;
    mem::LockDomain* domain = nullptr;
    Downstream* downstream = nullptr;
  };
  std::atomic<std::uint8_t> number_;
  IntxRouter intx_;
  const Upstream* upstream_;
  std::array<Place, 256> places_{};
};

/// Joins the INTx pins of all functions into the wires of an interrupt controller: pin P of device D is wire
/// (D + P) mod wires (PCI Express 2.2.8.1 and the usual board wiring). The wires are driven with `domain` held.
class IntxRouter final : private core::LineSink {
 public:
  IntxRouter(mem::LockDomain* domain, std::vector<core::InterruptLine> wires)
      : domain_(domain), wires_(std::move(wires)), raised_(wires_.size()) {}
  core::InterruptLine line(unsigned device, unsigned pin);

 private:
  struct Input {
    unsigned wire;
    bool level;
  };
  void set_pin(unsigned pin, bool level) override;
  void restore_pin(unsigned pin, bool level) override;
  /// Counts the input; returns its wire.
  unsigned take(unsigned pin, bool level);
  mem::LockDomain* domain_;
  std::vector<core::InterruptLine> wires_;
  std::vector<unsigned> raised_;
  std::vector<Input> inputs_;
};

/// What nearly every function does on a configuration write: keeps its BARs mapped where the guest put them, and its
/// INTx pin as the command register lets it. A device owns one, forwards its configuration cycles, and calls
/// after_load() and reset().
class FunctionLogic {
 public:
  struct Deps {
    mem::AddressSpace* memory = nullptr;  ///< needed for memory BARs
    mem::AddressSpace* io = nullptr;      ///< needed for I/O BARs
    mem::LockDomain* domain = nullptr;
    core::InterruptLine intx;  ///< level-triggered, shared
    const Bus* bus = nullptr;  ///< whose bridges must forward what a BAR decodes; null: all is forwarded
  };
  /// BARs lie below everything else that is mapped: RAM, local APIC and ROM win over a BAR put upon them.
  static constexpr int kBarPriority = -1;

  FunctionLogic(ConfigSpace& config, Deps deps) : config_(config), deps_(std::move(deps)) {}
  /// Tells which handler a BAR (added to the ConfigSpace before) reaches; `max_size` as in mem::MapOptions.
  void set_bar_handler(unsigned index, mem::IoHandler& handler, std::string name, std::uint8_t max_size = 4);

  std::uint32_t read_config(unsigned offset, unsigned size) const { return config_.read(offset, size); }
  void write_config(unsigned offset, std::uint32_t value, unsigned size);
  /// The INTx request of the device; the pin follows unless the command register disables it. `asserted` is to be told
  /// again after a load (through restore_intx).
  void set_intx(bool asserted);
  void restore_intx(bool asserted);
  void reset();
  /// BARs again where the loaded configuration space has them.
  void after_load() { map_bars(); }
  void decode_changed() { map_bars(); }
  bool bus_master() const { return config_.get(kCommand, 2) & kCommandBusMaster; }

 private:
  void map_bars();
  bool intx_level(bool asserted);
  struct Bar {
    mem::IoHandler* handler = nullptr;
    std::string name;
    std::uint8_t max_size = 4;
    std::optional<std::uint64_t> address;
    mem::Mapping mapping;
  };
  ConfigSpace& config_;
  Deps deps_;
  std::array<Bar, kBarCount> bars_{};
  bool intx_ = false;
};

}  // namespace husk::devices::pci
