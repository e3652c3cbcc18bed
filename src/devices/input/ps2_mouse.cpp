// husk: a PS/2 mouse as a pure chip
#include "devices/input/ps2_mouse.h"

#include <algorithm>

namespace husk::devices {

namespace {
enum Command : std::uint8_t {
  kScalingSingle = 0xE6,
  kScalingDouble = 0xE7,
  kSetResolution = 0xE8,
  kStatusRequest = 0xE9,
  kSetStream = 0xEA,
  kReadData = 0xEB,
  kResetWrap = 0xEC,
  kSetWrap = 0xEE,
  kSetRemote = 0xF0,
  kGetId = 0xF2,
  kSetRate = 0xF3,
  kEnable = 0xF4,
  kDisable = 0xF5,
  kDefaults = 0xF6,
  kResend = 0xFE,
  kReset = 0xFF,
};
constexpr std::uint8_t kAck = 0xFA;
constexpr std::int32_t kMostCounts = 1 << 15;

std::int32_t accumulate(std::int32_t sum, std::int32_t by) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(std::int64_t{sum} + by, -kMostCounts, kMostCounts));
}

// Scaling 2:1 of the technical reference: 0, 1, 2, 3, 4, 5 become 0, 1, 1, 3, 6, 9; from 6 on, twice the value.
std::int32_t doubled(std::int32_t counts) {
  static constexpr std::int32_t kSmall[] = {0, 1, 1, 3, 6, 9};
  const std::int32_t size = counts < 0 ? -counts : counts;
  const std::int32_t scaled = size < 6 ? kSmall[size] : 2 * size;
  return counts < 0 ? -scaled : scaled;
}
}  // namespace

bool Ps2Mouse::plausible(const State& state) {
  const auto small = [](std::int32_t counts) { return counts >= -kMostCounts && counts <= kMostCounts; };
  return (state.id == 0 || state.id == 3 || state.id == 4) && small(state.dx) && small(state.dy) && small(state.dz);
}

void Ps2Mouse::defaults() {
  s_.rate = 100;
  s_.resolution = 2;
  s_.double_scaling = s_.reporting = s_.remote = s_.wrap = false;
  s_.rates_before = {};
  s_.dx = s_.dy = s_.dz = 0;
  s_.buttons_sent = s_.buttons;
}

std::uint8_t Ps2Mouse::take() {
  s_.last_sent = s_.replies.empty() ? s_.events.pop() : s_.replies.pop();
  return s_.last_sent;
}

void Ps2Mouse::parameter(std::uint8_t command, std::uint8_t value) {
  if (command == kSetResolution) {
    if (value > 3) {
      reply(kResend);
      return;
    }
    s_.resolution = value;
    reply(kAck);
    return;
  }
  static constexpr std::uint8_t kRates[] = {10, 20, 40, 60, 80, 100, 200};
  if (std::find(std::begin(kRates), std::end(kRates), value) == std::end(kRates)) {
    reply(kResend);
    return;
  }
  // The knocks by which drivers ask for the extensions: 200, 100, 80 for the wheel, 200, 200, 80 for five buttons.
  if (value == 80 && s_.rates_before[0] == 100 && s_.rates_before[1] == 200) s_.id = std::max<std::uint8_t>(s_.id, 3);
  if (value == 80 && s_.rates_before[0] == 200 && s_.rates_before[1] == 200) s_.id = 4;
  s_.rates_before = {value, s_.rates_before[0]};
  s_.rate = value;
  reply(kAck);
}

void Ps2Mouse::receive(std::uint8_t byte) {
  if (s_.wrap && byte != kReset && byte != kResetWrap) {
    reply(byte);
    return;
  }
  if (s_.awaited_by) {
    const std::uint8_t command = s_.awaited_by;
    s_.awaited_by = 0;
    parameter(command, byte);
    return;
  }
  if (byte != kResend) {
    s_.replies.clear();
    s_.events.clear();
  }
  switch (byte) {
    case kScalingSingle:
    case kScalingDouble:
      s_.double_scaling = byte == kScalingDouble;
      reply(kAck);
      break;
    case kSetResolution:
    case kSetRate:
      s_.awaited_by = byte;
      reply(kAck);
      break;
    case kStatusRequest:
      reply(kAck);
      reply(static_cast<std::uint8_t>((s_.remote ? 0x40 : 0) | (s_.reporting ? 0x20 : 0) |
                                      (s_.double_scaling ? 0x10 : 0) | ((s_.buttons & kLeft) ? 4 : 0) |
                                      ((s_.buttons & kMiddle) ? 2 : 0) | ((s_.buttons & kRight) ? 1 : 0)));
      reply(s_.resolution);
      reply(s_.rate);
      break;
    case kSetStream:
    case kSetRemote:
      s_.remote = byte == kSetRemote;
      s_.dx = s_.dy = s_.dz = 0;
      reply(kAck);
      break;
    case kReadData:
      reply(kAck);
      send_packet(s_.replies, false);
      break;
    case kResetWrap:
    case kSetWrap:
      s_.wrap = byte == kSetWrap;
      reply(kAck);
      break;
    case kGetId:
      reply(kAck);
      reply(s_.id);
      break;
    case kEnable:
    case kDisable:
      s_.reporting = byte == kEnable;
      s_.dx = s_.dy = s_.dz = 0;
      s_.buttons_sent = s_.buttons;
      reply(kAck);
      break;
    case kDefaults:
      defaults();
      reply(kAck);
      break;
    case kResend: reply(s_.last_sent); break;
    case kReset:
      defaults();
      s_.id = 0;
      reply(kAck);
      reply(0xAA);
      reply(0x00);
      break;
    default: reply(kResend);
  }
}

template <std::size_t N>
void Ps2Mouse::send_packet(BoundedQueue<std::uint8_t, N>& into, bool scaled) {
  if (into.room() < 4) return;
  // Nine bits a direction; what does not fit goes into the next packet, so no overflow is ever reported.
  const auto limit = scaled ? 127 : 255;
  const std::int32_t taken_x = std::clamp(s_.dx, -limit, limit);
  const std::int32_t taken_y = std::clamp(s_.dy, -limit, limit);
  const std::int32_t taken_z = s_.id ? std::clamp(s_.dz, -8, 7) : 0;
  s_.dx -= taken_x;
  s_.dy -= taken_y;
  s_.dz = s_.id ? s_.dz - taken_z : 0;
  s_.buttons_sent = s_.buttons;
  const std::int32_t x = scaled ? doubled(taken_x) : taken_x;
  const std::int32_t y = -(scaled ? doubled(taken_y) : taken_y);  // the mouse counts upwards
  into.push(static_cast<std::uint8_t>(0x08 | (s_.buttons & 7) | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0)));
  into.push(static_cast<std::uint8_t>(x));
  into.push(static_cast<std::uint8_t>(y));
  if (s_.id == 3) into.push(static_cast<std::uint8_t>(taken_z));
  if (s_.id == 4) into.push(static_cast<std::uint8_t>((taken_z & 0x0F) | ((s_.buttons & (kSide | kExtra)) << 1)));
}

void Ps2Mouse::move(std::int32_t dx, std::int32_t dy, std::int32_t dz, core::VmTime now) {
  if (!s_.reporting && !s_.remote) return;
  s_.dx = accumulate(s_.dx, dx);
  s_.dy = accumulate(s_.dy, dy);
  if (s_.id) s_.dz = accumulate(s_.dz, dz);
  run(now);
}

void Ps2Mouse::set_buttons(std::uint8_t buttons, core::VmTime now) {
  buttons &= 0x1F;
  if (buttons == s_.buttons) return;
  // A click may be shorter than a sampling period: its first half leaves before the second replaces it.
  if (streaming() && s_.buttons != s_.buttons_sent) send_packet(s_.events, s_.double_scaling);
  s_.buttons = buttons;
  run(now);
}

std::optional<core::VmTime> Ps2Mouse::deadline() const {
  if (!streaming() || !news() || !s_.events.empty()) return std::nullopt;
  return s_.next_sample;
}

void Ps2Mouse::run(core::VmTime now) {
  if (!deadline() || now < s_.next_sample) return;
  send_packet(s_.events, s_.double_scaling);
  s_.next_sample = now + core::kNanosecondsPerSecond / s_.rate;
}

}  // namespace husk::devices
