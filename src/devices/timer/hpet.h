// husk: high precision event timer (IA-PC HPET specification 1.0a)
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

struct HpetTimerState {
  std::uint64_t config = 0;  ///< the writable bits of Tn_CONF
  std::uint64_t comparator = ~std::uint64_t{0};
  std::uint64_t period = 0;
  std::uint64_t fsb = 0;
  bool set_accumulator = false;  ///< VAL_SET: the next comparator write goes to the comparator itself
  static constexpr auto state() {
    using S = HpetTimerState;
    using state::field;
    return std::tuple{field(1, "config", &S::config), field(2, "comparator", &S::comparator),
                      field(3, "period", &S::period), field(4, "fsb", &S::fsb),
                      field(5, "set_accumulator", &S::set_accumulator)};
  }
};

inline constexpr unsigned kHpetMostTimers = 8;

struct HpetState {
  std::uint64_t config = 0;        ///< bit 0 enable, bit 1 legacy replacement
  std::uint32_t status = 0;        ///< level-triggered timers that wait for their acknowledgement
  std::uint64_t counter = 0;       ///< the main counter
  std::uint64_t counter_tick = 0;  ///< at this 100 MHz tick of VM time; matches are dealt with up to here
  std::array<HpetTimerState, kHpetMostTimers> timers{};
  static constexpr auto state() {
    using S = HpetState;
    using state::field;
    return std::tuple{field(1, "config", &S::config).max(3), field(2, "status", &S::status).max(0xFF),
                      field(3, "counter", &S::counter), field(4, "counter_tick", &S::counter_tick),
                      field(5, "timers", &S::timers)};
  }
};

/// 1 KiB of registers; a 64-bit main counter of 100 MHz that is computed from VM time. Every timer is 64 bits wide,
/// can be periodic and can deliver messages.
class Hpet : public core::StatefulDevice<HpetState> {
 public:
  static constexpr mem::Gpa kDefaultBase = 0xFED0'0000;
  static constexpr std::uint64_t kHertz = 100'000'000;
  static constexpr std::uint64_t kPeriodFemtoseconds = 10'000'000;

  struct Deps {
    mem::AddressSpace& memory_space;
    mem::LockDomain* domain = nullptr;  ///< that of the clock
    core::Clock& clock;
    core::MsiPort& msi;
    std::uint16_t requester_id = 0;
    /// Wires to the I/O APIC, by pin; the pins in route_mask (Tn_INT_ROUTE_CAP) must be there.
    std::vector<core::InterruptLine> routes = {};
    std::uint32_t route_mask = 0x00FF'0104;
    /// Timers 0 and 1 in legacy replacement mode: IRQ0 (8259 pin 0, I/O APIC pin 2) and IRQ8.
    core::InterruptLine irq0 = {};
    core::InterruptLine irq8 = {};
    /// Legacy replacement goes on or off: the PIT and the RTC lose or regain their wires. May be null.
    std::function<void(bool on)> legacy_replacement = {};
    unsigned timers = 3;  ///< 3..8
    mem::Gpa base = kDefaultBase;
  };
  explicit Hpet(Deps deps);

  std::string_view state_id() const override { return "hpet"; }
  void reset(core::ResetKind kind) override;

  /// GCAP_ID bits 31..0, as the ACPI HPET table repeats them (event timer block id).
  std::uint32_t block_id() const;

 protected:
  Status validate(const HpetState& incoming) const override;
  void after_load() override;

 private:
  struct Registers : mem::IoHandler {
    explicit Registers(Hpet& hpet) : owner(hpet) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    Hpet& owner;
  };
  bool enabled() const { return state_.config & 1; }
  bool legacy() const { return state_.config & 2; }
  std::uint64_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint64_t value, std::uint64_t written);
  void write_config(std::uint64_t value);
  void write_timer_config(unsigned n, std::uint64_t value);
  void write_comparator(unsigned n, std::uint64_t value, std::uint64_t written);
  std::uint64_t distance(const HpetTimerState& timer) const;
  void catch_up();
  void fire(unsigned n);
  void update_lines(bool restoring = false);
  void arm(bool after_firing);
  core::InterruptLine* line_of(unsigned n);

  Deps deps_;
  Registers registers_{*this};
  std::unique_ptr<core::Timer> timer_;
  mem::Mapping mapping_;
};

}  // namespace husk::devices
