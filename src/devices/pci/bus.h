// husk: PCI functions and the bus they sit on
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

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
};

class Bus;

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

/// Up to 256 functions. Absent ones read as all ones and swallow writes. Must outlive its slots; one lock domain guards
/// it and the ways to it.
class Bus {
 public:
  explicit Bus(std::uint8_t number = 0) : number_(number) {}
  /// Fails if the place is taken. Function 0 of a device with several functions needs Identity::multifunction.
  Result<Slot> attach(std::uint8_t devfn, Function& function);

  std::uint32_t read_config(std::uint8_t devfn, unsigned offset, unsigned size) const;
  void write_config(std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size);
  Function* at(std::uint8_t devfn) const { return functions_[devfn]; }
  std::uint8_t number() const { return number_; }

 private:
  friend class Slot;
  std::uint8_t number_;
  std::array<Function*, 256> functions_{};
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
