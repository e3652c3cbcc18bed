// husk: a PS/2 mouse with IntelliMouse and Explorer extensions, as a pure chip
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "core/clock.h"
#include "devices/input/bounded_queue.h"
#include "state/state.h"

namespace husk::devices {

/// "IBM PS/2 Hardware Interface Technical Reference, Mouse" with Microsoft's wheel (id 3) and five-button (id 4)
/// packets. Movement comes in counts; resolution is remembered and reported, but does not scale it.
class Ps2Mouse {
 public:
  enum Button : std::uint8_t { kLeft = 1, kRight = 2, kMiddle = 4, kSide = 8, kExtra = 16 };
  static constexpr std::size_t kReplyDepth = 16;
  static constexpr std::size_t kEventDepth = 64;

  struct State {
    BoundedQueue<std::uint8_t, kReplyDepth> replies;
    BoundedQueue<std::uint8_t, kEventDepth> events;
    std::uint8_t awaited_by = 0;
    std::uint8_t last_sent = 0;
    std::uint8_t id = 0;                         ///< 0 plain, 3 wheel, 4 wheel and five buttons
    std::array<std::uint8_t, 2> rates_before{};  ///< the sampling rates set before the present one, latest first
    std::uint8_t rate = 100;                     ///< packets a second
    std::uint8_t resolution = 2;                 ///< 2^n counts a millimetre
    bool double_scaling = false;
    bool reporting = false;
    bool remote = false;
    bool wrap = false;
    std::uint8_t buttons = 0;
    std::uint8_t buttons_sent = 0;
    std::int32_t dx = 0;
    std::int32_t dy = 0;
    std::int32_t dz = 0;
    core::VmTime next_sample = 0;

    static constexpr auto state() {
      using state::field;
      return std::tuple{
          field(1, "replies", &State::replies),
          field(2, "events", &State::events),
          field(3, "awaited_by", &State::awaited_by),
          field(4, "last_sent", &State::last_sent),
          field(5, "id", &State::id).max(4),
          field(6, "rates_before", &State::rates_before),
          field(7, "rate", &State::rate).range(1, 200),
          field(8, "resolution", &State::resolution).max(3),
          field(9, "double_scaling", &State::double_scaling),
          field(10, "reporting", &State::reporting),
          field(11, "remote", &State::remote),
          field(12, "wrap", &State::wrap),
          field(13, "buttons", &State::buttons).max(0x1F),
          field(14, "buttons_sent", &State::buttons_sent).max(0x1F),
          field(15, "dx", &State::dx),
          field(16, "dy", &State::dy),
          field(17, "dz", &State::dz),
          field(18, "next_sample", &State::next_sample),
      };
    }
  };

  explicit Ps2Mouse(State& state) : s_(state) {}

  static bool plausible(const State& state);
  void power_on() { s_ = State{}; }
  void receive(std::uint8_t byte);
  bool has_data() const { return !s_.replies.empty() || !s_.events.empty(); }
  std::uint8_t take();

  /// Counts moved: x to the right, y down (as on a screen), wheel towards the user.
  void move(std::int32_t dx, std::int32_t dy, std::int32_t dz, core::VmTime now);
  /// The buttons that are down now.
  void set_buttons(std::uint8_t buttons, core::VmTime now);
  /// When a held-back movement is due to be sent: the mouse sends no more packets a second than its rate, and none
  /// while the last one has not been fetched (then the deadline is none, and run() after the fetch is enough).
  std::optional<core::VmTime> deadline() const;
  void run(core::VmTime now);

 private:
  void defaults();
  void reply(std::uint8_t byte) { s_.replies.push(byte); }
  void parameter(std::uint8_t command, std::uint8_t value);
  bool streaming() const { return s_.reporting && !s_.remote && !s_.wrap; }
  bool news() const { return s_.dx || s_.dy || s_.dz || s_.buttons != s_.buttons_sent; }
  template <std::size_t N>
  void send_packet(BoundedQueue<std::uint8_t, N>& into, bool scaled);

  State& s_;
};

}  // namespace husk::devices
