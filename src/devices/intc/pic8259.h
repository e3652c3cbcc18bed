// husk: Intel 8259A interrupt controller, and the master and slave pair of a PC
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

/// One 8259A (Intel 231468-003). Pure: pins in, registers, INT out; knows no ports and no other chip.
class Pic8259 {
 public:
  struct State {
    std::uint8_t irr = 0;  ///< requests: edge latches, and the pins of level inputs
    std::uint8_t imr = 0;
    std::uint8_t isr = 0;
    std::uint8_t pins = 0;          ///< the IR inputs as they are now
    std::uint8_t level_inputs = 0;  ///< inputs that are level-triggered (ELCR)
    std::uint8_t vector_base = 0;   ///< ICW2 bits 7..3
    std::uint8_t icw3 = 0;
    std::uint8_t init_step = 0;        ///< the ICW expected next: 2, 3, 4, or 0 when initialised
    std::uint8_t lowest_priority = 7;  ///< the IR with the lowest priority; the one after it has the highest
    bool icw4_needed = false;
    bool single = false;
    bool level_mode = false;  ///< ICW1 LTIM
    bool auto_eoi = false;
    bool special_fully_nested = false;
    bool special_mask = false;
    bool rotate_on_auto_eoi = false;
    bool read_isr = false;
    bool poll = false;
    static constexpr auto state() {
      using state::field;
      return std::tuple{field(1, "irr", &State::irr),
                        field(2, "imr", &State::imr),
                        field(3, "isr", &State::isr),
                        field(4, "pins", &State::pins),
                        field(5, "level_inputs", &State::level_inputs),
                        field(6, "vector_base", &State::vector_base),
                        field(7, "icw3", &State::icw3),
                        field(8, "init_step", &State::init_step).max(4),
                        field(9, "lowest_priority", &State::lowest_priority).max(7),
                        field(10, "icw4_needed", &State::icw4_needed),
                        field(11, "single", &State::single),
                        field(12, "level_mode", &State::level_mode),
                        field(13, "auto_eoi", &State::auto_eoi),
                        field(14, "special_fully_nested", &State::special_fully_nested),
                        field(15, "special_mask", &State::special_mask),
                        field(16, "rotate_on_auto_eoi", &State::rotate_on_auto_eoi),
                        field(17, "read_isr", &State::read_isr),
                        field(18, "poll", &State::poll)};
    }
  };

  /// `cascade_inputs` are IR inputs fed by another 8259A: they follow their pin, since INT of a slave stays high as
  /// long as it has a request. `honor_ltim` false is a chip with an ELCR, which replaces ICW1's LTIM bit.
  Pic8259(State& state, std::uint8_t cascade_inputs, bool honor_ltim)
      : s_(state), cascade_inputs_(cascade_inputs), honor_ltim_(honor_ltim) {}

  void reset();
  /// `a0` is the address line: 0 for the command port, 1 for the data port.
  void write(bool a0, std::uint8_t value);
  std::uint8_t read(bool a0);
  void set_pin(unsigned ir, bool level, bool edge_allowed = true);
  void set_level_inputs(std::uint8_t mask);
  /// The INT output.
  bool interrupt() const { return highest_request().has_value(); }
  /// The IR that an INTA cycle would take now.
  std::optional<unsigned> highest_request() const;
  /// Both INTA pulses as this chip sees them: the IR taken, or nothing (a spurious interrupt: IR7 without its ISR bit).
  std::optional<unsigned> take();
  std::uint8_t vector(unsigned ir) const { return static_cast<std::uint8_t>(s_.vector_base | ir); }

 private:
  std::uint8_t level_sensed() const {
    return static_cast<std::uint8_t>(s_.level_inputs | cascade_inputs_ | (honor_ltim_ && s_.level_mode ? 0xFF : 0));
  }
  std::optional<unsigned> highest_of(std::uint8_t bits) const;
  void write_icw1(std::uint8_t value);
  void write_ocw2(std::uint8_t value);
  void write_ocw3(std::uint8_t value);
  void end_of_interrupt(unsigned ir) { s_.isr = static_cast<std::uint8_t>(s_.isr & ~(1u << ir)); }

  State& s_;
  std::uint8_t cascade_inputs_;
  bool honor_ltim_;
};

struct PicPairState {
  Pic8259::State master;
  Pic8259::State slave;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "master", &PicPairState::master), field(2, "slave", &PicPairState::slave)};
  }
};

/// The two 8259A of a PC at ports 20h/21h and A0h/A1h with the edge/level registers at 4D0h/4D1h (82371SB 2.2.3).
/// Pins 0..15 are IRQ0..IRQ15; pin 2 is the cascade and ignored. set_pin and acknowledge take the domain themselves.
class PicPair : public core::StatefulDevice<PicPairState>, public core::LineSink {
 public:
  struct Deps {
    mem::AddressSpace& io_space;
    mem::LockDomain* domain = nullptr;  ///< the chipset's
    core::InterruptLine interrupt;      ///< INT of the master, to LINT0 of the local APICs
    bool elcr = true;                   ///< false: a PC/AT without 4D0h/4D1h, where LTIM counts
  };
  explicit PicPair(Deps deps);

  std::string_view state_id() const override { return "pic"; }
  void reset(core::ResetKind kind) override;
  void set_pin(unsigned pin, bool level) override;
  void restore_pin(unsigned pin, bool level) override;

  /// The INTA cycle: the vector of the interrupt taken, or the spurious vector (IRQ7 or IRQ15) if none is left.
  std::uint8_t acknowledge();

  /// What loading refuses beyond the ranges of the fields.
  static Status check(const PicPairState& incoming);

 protected:
  Status validate(const PicPairState& incoming) const override { return check(incoming); }
  void after_load() override;

 private:
  /// Which registers a mapping leads to.
  struct Ports : mem::IoHandler {
    enum class What { master, slave, elcr };
    Ports(PicPair& owner, What kind) : pair(owner), what(kind) {}
    std::uint64_t read(const mem::Access& access) override { return pair.read_port(what, access.offset & 1); }
    void write(const mem::Access& access, std::uint64_t value) override {
      pair.write_port(what, access.offset & 1, static_cast<std::uint8_t>(value));
    }
    PicPair& pair;
    What what;
  };
  std::uint8_t read_port(Ports::What what, bool a0);
  void write_port(Ports::What what, bool a0, std::uint8_t value);
  void update();

  Deps deps_;
  Pic8259 master_;
  Pic8259 slave_;
  Ports master_ports_{*this, Ports::What::master};
  Ports slave_ports_{*this, Ports::What::slave};
  Ports elcr_ports_{*this, Ports::What::elcr};
  std::array<mem::Mapping, 3> mappings_;
};

}  // namespace husk::devices
