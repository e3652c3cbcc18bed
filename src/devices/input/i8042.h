// husk: the PC keyboard controller with its keyboard and mouse: pure chip, and its attachment to ports and wires
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "core/backends.h"
#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/chipset/a20_gate.h"
#include "devices/input/bounded_queue.h"
#include "devices/input/ps2_keyboard.h"
#include "devices/input/ps2_mouse.h"
#include "mem/address_space.h"

namespace husk::devices {

/// The 8042 with PS/2 firmware ("IBM PS/2 Hardware Interface Technical Reference, Keyboard and Auxiliary Device
/// Controller"). Commands take no time: the input buffer is always empty. The output buffer holds one byte; run() fills
/// it from the controller's own answers, then the keyboard, then the mouse.
class I8042Chip {
 public:
  enum StatusBits : std::uint8_t {
    kOutputFull = 0x01,
    kInputFull = 0x02,
    kSystem = 0x04,
    kLastWasCommand = 0x08,
    kUnlocked = 0x10,
    kMouseData = 0x20,
  };
  enum CommandByte : std::uint8_t {
    kKeyboardInterrupt = 0x01,
    kMouseInterrupt = 0x02,
    kSystemFlag = 0x04,
    kKeyboardDisabled = 0x10,
    kMouseDisabled = 0x20,
    kTranslate = 0x40,
  };
  enum OutputPort : std::uint8_t { kNotReset = 0x01, kA20 = 0x02, kIrq1 = 0x10, kIrq12 = 0x20 };

  struct State {
    std::array<std::uint8_t, 32> ram{};  ///< byte 0 is the command byte
    std::uint8_t output_port = 0xCF;     ///< as written, without the interrupt bits 5:4
    std::uint8_t output = 0;
    bool output_full = false;
    bool output_is_mouse = false;
    bool last_was_command = false;
    std::uint8_t awaited_by = 0;              ///< the command that waits for its data byte, or 0
    bool break_prefix_seen = false;           ///< translation holds back F0
    BoundedQueue<std::uint16_t, 32> answers;  ///< bit 8: as if from the mouse
    Ps2Keyboard::State keyboard;
    Ps2Mouse::State mouse;

    static constexpr auto state() {
      using state::field;
      return std::tuple{
          field(1, "ram", &State::ram),
          field(2, "output_port", &State::output_port),
          field(3, "output", &State::output),
          field(4, "output_full", &State::output_full),
          field(5, "output_is_mouse", &State::output_is_mouse),
          field(6, "last_was_command", &State::last_was_command),
          field(7, "awaited_by", &State::awaited_by),
          field(8, "break_prefix_seen", &State::break_prefix_seen),
          field(9, "answers", &State::answers).max(0x1FF),
          field(10, "keyboard", &State::keyboard),
          field(11, "mouse", &State::mouse),
      };
    }
  };

  explicit I8042Chip(State& state) : s_(state), keyboard_(state.keyboard), mouse_(state.mouse) {}

  /// `initialised`: as firmware leaves it (interrupts and translation on, system flag set) rather than as the bare chip
  /// comes up.
  void power_on(bool initialised);
  static bool plausible(const State& state);

  /// Port 60h. After read_data() the output buffer is empty until run(), so that the interrupt pins fall in between.
  std::uint8_t read_data();
  void write_data(std::uint8_t value, core::VmTime now);
  /// Port 64h.
  std::uint8_t read_status() const;
  /// True if the CPU's reset line was pulsed.
  bool write_command(std::uint8_t value);
  bool take_reset() { return std::exchange(reset_pulsed_, false); }

  /// Lets keyboard and mouse act on the time and refills the output buffer.
  void run(core::VmTime now);
  std::optional<core::VmTime> deadline() const;

  bool keyboard_interrupt() const { return s_.output_full && !s_.output_is_mouse && (s_.ram[0] & kKeyboardInterrupt); }
  bool mouse_interrupt() const { return s_.output_full && s_.output_is_mouse && (s_.ram[0] & kMouseInterrupt); }
  bool a20() const { return s_.output_port & kA20; }

  Ps2Keyboard& keyboard() { return keyboard_; }
  Ps2Mouse& mouse() { return mouse_; }

 private:
  void answer(std::uint8_t value, bool from_mouse = false) {
    s_.answers.push(static_cast<std::uint16_t>(value | (from_mouse ? 0x100 : 0)));
  }
  void put(std::uint8_t value, bool from_mouse);
  void fill();
  bool take_keyboard();
  void write_output_port(std::uint8_t value);

  State& s_;
  Ps2Keyboard keyboard_;
  Ps2Mouse mouse_;
  bool reset_pulsed_ = false;  // within one access only
};

/// Ports 60h and 64h, IRQ 1 and IRQ 12, A20 and reset. The methods for keys and mouse are for a display or a test;
/// they too are called with the lock domain held.
class I8042 final : public core::StatefulDevice<I8042Chip::State>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::Clock& clock;
    core::InterruptLine keyboard_irq = {};  ///< IRQ 1
    core::InterruptLine mouse_irq = {};     ///< IRQ 12
    core::MachineControl& control;
    A20Gate& a20;
    std::function<void(std::uint8_t leds)> leds_changed = {};  ///< may be empty; not during a load
  };
  struct Config {
    bool initialised = false;  ///< see I8042Chip::power_on
  };
  static constexpr std::uint16_t kDataPort = 0x60;
  static constexpr std::uint16_t kCommandPort = 0x64;

  static Result<std::unique_ptr<I8042>> create(Deps deps, Config config);

  std::string_view state_id() const override { return "i8042"; }
  void reset(core::ResetKind kind) override;

  void key(KeyCode code, bool down);
  /// Counts to the right, down, and of the wheel towards the user.
  void move_mouse(std::int32_t dx, std::int32_t dy, std::int32_t wheel);
  /// Ps2Mouse::Button bits that are down now.
  void set_mouse_buttons(std::uint8_t buttons);
  /// Bit 0 Scroll, 1 Num, 2 Caps Lock.
  std::uint8_t leds() const { return state_.keyboard.leds; }

 private:
  I8042(Deps deps, Config config);
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  Status validate(const I8042Chip::State& incoming) const override;
  void after_load() override;
  void drive();
  void run();

  Deps deps_;
  Config config_;
  I8042Chip chip_{state_};
  A20Gate::Input a20_;
  std::unique_ptr<core::Timer> timer_;
  std::optional<core::VmTime> armed_;
  mem::Mapping data_port_;
  mem::Mapping command_port_;
  struct CommandPort final : mem::IoHandler {
    explicit CommandPort(I8042& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access&) override { return owner_.chip_.read_status(); }
    void write(const mem::Access& access, std::uint64_t value) override;
    I8042& owner_;
  } command_handler_{*this};
};

}  // namespace husk::devices
