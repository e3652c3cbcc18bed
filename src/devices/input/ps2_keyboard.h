// husk: a PS/2 keyboard as a pure chip: the serial-line side of it
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "core/clock.h"
#include "devices/input/bounded_queue.h"
#include "devices/input/scan_codes.h"
#include "state/state.h"

namespace husk::devices {

/// The IBM 101/102-key keyboard ("IBM PS/2 Hardware Interface Technical Reference, Keyboards"). Bytes from the host go
/// in by receive(), bytes for the host come out by take(); answers to commands go before key codes.
class Ps2Keyboard {
 public:
  static constexpr std::size_t kReplyDepth = 16;
  static constexpr std::size_t kEventDepth = 256;
  static constexpr unsigned kSet3Codes = 0x90;

  struct State {
    BoundedQueue<std::uint8_t, kReplyDepth> replies;
    BoundedQueue<std::uint8_t, kEventDepth> events;
    std::uint8_t awaited_by = 0;  ///< the command that waits for a parameter, or 0
    std::uint8_t last_sent = 0;
    std::uint8_t scan_set = 2;
    std::uint8_t leds = 0;  ///< bit 0 Scroll, 1 Num, 2 Caps Lock
    std::uint8_t typematic = 0x2B;
    bool scanning = true;
    std::array<std::uint8_t, 32> keys_down{};           ///< one bit a KeyCode
    std::array<std::uint8_t, kSet3Codes> set3_types{};  ///< KeyType bits of each set 3 code
    std::uint8_t repeat_key = 0;                        ///< KeyCode, 0: none
    core::VmTime repeat_at = 0;

    static constexpr auto state() {
      using state::field;
      return std::tuple{
          field(1, "replies", &State::replies),
          field(2, "events", &State::events),
          field(3, "awaited_by", &State::awaited_by),
          field(4, "last_sent", &State::last_sent),
          field(5, "scan_set", &State::scan_set).range(1, 3),
          field(6, "leds", &State::leds).max(7),
          field(7, "typematic", &State::typematic).max(0x7F),
          field(8, "scanning", &State::scanning),
          field(9, "keys_down", &State::keys_down),
          field(10, "set3_types", &State::set3_types).max(3),
          field(11, "repeat_key", &State::repeat_key),
          field(12, "repeat_at", &State::repeat_at),
      };
    }
  };

  explicit Ps2Keyboard(State& state) : s_(state) {}

  /// As after applying power, but the completion code AAh of the self test is not sent: no driver waits for it, and
  /// some take it for a key.
  void power_on();
  void receive(std::uint8_t byte, core::VmTime now);
  bool has_data() const { return !s_.replies.empty() || !s_.events.empty(); }
  /// has_data() must be true.
  std::uint8_t take();

  /// A key goes down or up. Repeated downs of a key that is down are ignored: the keyboard repeats by itself.
  void key(KeyCode code, bool down, core::VmTime now);
  /// When a held key is due to be sent again.
  std::optional<core::VmTime> deadline() const;
  void run(core::VmTime now);

  std::uint8_t leds() const { return s_.leds; }

 private:
  void defaults();
  void reply(std::uint8_t byte) { s_.replies.push(byte); }
  void parameter(std::uint8_t command, std::uint8_t value);
  void set_all_types(std::uint8_t type);
  bool is_down(KeyCode code) const { return (s_.keys_down[code / 8] >> (code % 8)) & 1; }
  void send_key(KeyCode code, bool down, bool repeat);
  void send_event(const std::uint8_t* bytes, std::size_t count);
  void send_set3(KeyCode code, bool down);
  bool repeats(KeyCode code) const;
  core::VmTime repeat_delay() const;
  core::VmTime repeat_period() const;

  State& s_;
};

}  // namespace husk::devices
