// husk: Intel 8254 programmable interval timer, and its wiring in a PC with port 61h
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <tuple>

#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

/// One counter of an 8254 (Intel 231164-005). Nothing ticks: every question is answered for a given tick, the absolute
/// number of input clocks since time 0, which must not go back from call to call.
class PitCounter {
 public:
  struct State {
    std::uint8_t mode = 0;    ///< 0..5
    std::uint8_t access = 3;  ///< 1 LSB, 2 MSB, 3 LSB then MSB
    bool bcd = false;
    bool gate = true;
    bool loaded = false;         ///< a count has reached the counting element since the control word
    std::uint32_t count = 1;     ///< the initial count now in use, 1..65536
    std::uint32_t pending = 0;   ///< written, but waiting for the end of a cycle or a trigger; 0: none
    std::uint64_t base = 0;      ///< the tick at which `progress` clocks had been counted
    std::uint64_t progress = 0;  ///< clocks counted since the count was loaded
    std::uint8_t low_byte = 0;   ///< the LSB of a two-byte count half written
    bool write_high_next = false;
    bool read_high_next = false;
    std::optional<std::uint16_t> latched_count;
    std::optional<std::uint8_t> latched_status;
    static constexpr auto state() {
      using state::field;
      return std::tuple{field(1, "mode", &State::mode).max(5),
                        field(2, "access", &State::access).range(1, 3),
                        field(3, "bcd", &State::bcd),
                        field(4, "gate", &State::gate),
                        field(5, "loaded", &State::loaded),
                        field(6, "count", &State::count).range(1, 65536),
                        field(7, "pending", &State::pending).max(65536),
                        field(8, "base", &State::base).max(kMaxTick),
                        field(9, "progress", &State::progress).max(kMaxTick),
                        field(10, "low_byte", &State::low_byte),
                        field(11, "write_high_next", &State::write_high_next),
                        field(12, "read_high_next", &State::read_high_next),
                        field(13, "latched_count", &State::latched_count),
                        field(14, "latched_status", &State::latched_status)};
    }
    static constexpr std::uint64_t kMaxTick = std::uint64_t{1} << 62;
  };

  explicit PitCounter(State& state) : s_(state) {}

  void write_control(std::uint8_t value);
  void write(std::uint64_t tick, std::uint8_t value);
  std::uint8_t read(std::uint64_t tick);
  void latch_count(std::uint64_t tick);
  void latch_status(std::uint64_t tick);
  void set_gate(std::uint64_t tick, bool level);
  bool out(std::uint64_t tick) const;
  /// Takes up a count whose moment has come.
  void settle(std::uint64_t tick);

  struct Event {
    std::uint64_t tick;
    bool rising;  ///< OUT rises; else just settle
  };
  /// The first event after `tick`, if nothing is written until then.
  std::optional<Event> next_event(std::uint64_t tick) const;

 private:
  bool periodic() const { return s_.mode == 2 || s_.mode == 3; }
  bool triggered() const { return s_.mode == 1 || s_.mode == 5; }
  bool counting() const { return s_.loaded && (triggered() || s_.gate); }
  std::uint64_t elapsed(std::uint64_t tick) const {
    return s_.progress + (counting() && tick > s_.base ? tick - s_.base : 0);
  }
  void rebase(std::uint64_t tick);
  void load(std::uint64_t tick, std::uint32_t count);
  void count_written(std::uint64_t tick, std::uint16_t raw);
  std::uint16_t value(std::uint64_t tick) const;
  std::uint64_t takeover_point() const;
  std::uint32_t high_clocks(std::uint32_t count) const { return s_.mode == 3 ? (count + 1) / 2 : count - 1; }

  State& s_;
};

struct PitState {
  std::array<PitCounter::State, 3> counters;
  std::uint8_t port61 = 0;       ///< bits 3..0 as written
  bool output_disabled = false;  ///< HPET legacy replacement has taken IRQ0
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "counters", &PitState::counters), field(2, "port61", &PitState::port61).max(15),
                      field(3, "output_disabled", &PitState::output_disabled)};
  }
};

/// Ports 40h..43h and 61h. OUT of counter 0 is the interrupt line; counter 2 is the speaker's, gated by port 61h.
class Pit : public core::StatefulDevice<PitState> {
 public:
  static constexpr std::uint64_t kHertz = 1'193'182;

  struct Deps {
    mem::AddressSpace& io_space;
    mem::LockDomain* domain = nullptr;  ///< that of the clock
    core::Clock& clock;
    core::InterruptLine interrupt = {};  ///< IRQ0
  };
  explicit Pit(Deps deps);

  std::string_view state_id() const override { return "pit"; }
  void reset(core::ResetKind kind) override;

  /// The HPET in legacy replacement mode owns IRQ0, and the PIT's output goes nowhere (IA-PC HPET 1.0a, 2.3.5).
  void set_output_disabled(bool disabled);
  /// The speaker's input: OUT of counter 2 and the data bit of port 61h.
  bool speaker() const;

 protected:
  void after_load() override;

 private:
  struct CounterPorts : mem::IoHandler {
    explicit CounterPorts(Pit& pit) : owner(pit) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    Pit& owner;
  };
  struct Port61 : mem::IoHandler {
    explicit Port61(Pit& pit) : owner(pit) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    Pit& owner;
  };
  std::uint64_t tick() const { return core::ticks_at(deps_.clock.now(), kHertz); }
  void write_control(std::uint8_t value);
  void deliver_due(std::uint64_t tick);
  void update(std::uint64_t tick, bool restoring = false);

  Deps deps_;
  std::array<PitCounter, 3> counters_;
  CounterPorts counter_ports_{*this};
  Port61 port61_{*this};
  std::unique_ptr<core::Timer> timer_;
  std::optional<PitCounter::Event> next_;
  std::array<mem::Mapping, 2> mappings_;
};

}  // namespace husk::devices
