// husk: a PS/2 keyboard as a pure chip
#include "devices/input/ps2_keyboard.h"

#include <initializer_list>

namespace husk::devices {

namespace {
enum Command : std::uint8_t {
  kSetLeds = 0xED,
  kEcho = 0xEE,
  kScanSet = 0xF0,
  kIdentify = 0xF2,
  kTypematic = 0xF3,
  kEnable = 0xF4,
  kDisable = 0xF5,
  kDefaults = 0xF6,
  kAllTypematic = 0xF7,
  kAllMakeBreak = 0xF8,
  kAllMake = 0xF9,
  kAllTypematicMakeBreak = 0xFA,
  kKeyTypematic = 0xFB,
  kKeyMakeBreak = 0xFC,
  kKeyMake = 0xFD,
  kResend = 0xFE,
  kReset = 0xFF,
};
constexpr std::uint8_t kAck = 0xFA;
constexpr std::uint8_t kTestPassed = 0xAA;
constexpr core::VmTime kMillisecond = 1'000'000;
}  // namespace

void Ps2Keyboard::defaults() {
  s_.scan_set = 2;
  s_.typematic = 0x2B;
  s_.awaited_by = 0;
  s_.repeat_key = 0;
  s_.events.clear();
  for (unsigned code = 0; code < kSet3Codes; ++code)
    s_.set3_types[code] = set3_default_type(static_cast<std::uint8_t>(code));
}

void Ps2Keyboard::power_on() {
  s_ = State{};
  defaults();
}

std::uint8_t Ps2Keyboard::take() {
  s_.last_sent = s_.replies.empty() ? s_.events.pop() : s_.replies.pop();
  return s_.last_sent;
}

void Ps2Keyboard::set_all_types(std::uint8_t type) {
  s_.set3_types.fill(type);
  s_.events.clear();
}

void Ps2Keyboard::parameter(std::uint8_t command, std::uint8_t value) {
  switch (command) {
    case kSetLeds: s_.leds = value & 7; break;
    case kScanSet:
      if (value > 3) {
        reply(kResend);
        return;
      }
      reply(kAck);
      if (value == 0)
        reply(s_.scan_set);
      else
        s_.scan_set = value;
      s_.events.clear();
      return;
    case kTypematic: s_.typematic = value & 0x7F; break;
    default:  // kKeyTypematic, kKeyMakeBreak, kKeyMake: a list of set 3 codes, ended by the next command
      if (value < kSet3Codes)
        s_.set3_types[value] = command == kKeyTypematic   ? kKeyRepeats
                               : command == kKeyMakeBreak ? kKeySendsBreak
                                                          : kKeyMakeOnly;
      s_.awaited_by = command;
  }
  reply(kAck);
}

void Ps2Keyboard::receive(std::uint8_t byte, core::VmTime now) {
  // All commands are above EDh; a byte below that is a parameter, or nonsense.
  if (s_.awaited_by && byte < kSetLeds) {
    const std::uint8_t command = s_.awaited_by;
    s_.awaited_by = 0;
    parameter(command, byte);
    return;
  }
  s_.awaited_by = 0;
  if (byte != kResend) s_.replies.clear();
  switch (byte) {
    case kSetLeds:
    case kScanSet:
    case kTypematic:
    case kKeyTypematic:
    case kKeyMakeBreak:
    case kKeyMake:
      s_.awaited_by = byte;
      reply(kAck);
      break;
    case kEcho: reply(kEcho); break;
    case kIdentify:
      reply(kAck);
      reply(0xAB);
      reply(0x83);
      break;
    case kEnable:
      s_.events.clear();
      s_.repeat_key = 0;
      s_.scanning = true;
      reply(kAck);
      break;
    case kDisable:
      defaults();
      s_.scanning = false;
      reply(kAck);
      break;
    case kDefaults:
      defaults();
      reply(kAck);
      break;
    case kAllTypematic:
      set_all_types(kKeyRepeats);
      reply(kAck);
      break;
    case kAllMakeBreak:
      set_all_types(kKeySendsBreak);
      reply(kAck);
      break;
    case kAllMake:
      set_all_types(kKeyMakeOnly);
      reply(kAck);
      break;
    case kAllTypematicMakeBreak:
      set_all_types(kKeyRepeats | kKeySendsBreak);
      reply(kAck);
      break;
    case kResend: reply(s_.last_sent); break;
    case kReset:
      defaults();
      s_.leds = 0;
      s_.scanning = true;
      reply(kAck);
      reply(kTestPassed);
      break;
    default: reply(kResend);
  }
  (void)now;
}

// Typematic byte: delay (bits 6:5 + 1) * 250 ms; period (8 + bits 2:0) * 2^(bits 4:3) * 4.17 ms.
core::VmTime Ps2Keyboard::repeat_delay() const { return ((s_.typematic >> 5) + 1u) * 250 * kMillisecond; }
core::VmTime Ps2Keyboard::repeat_period() const {
  return (8u + (s_.typematic & 7u)) * (1u << ((s_.typematic >> 3) & 3)) * (kMillisecond * 417 / 100);
}

bool Ps2Keyboard::repeats(KeyCode code) const {
  if (s_.scan_set != 3) return code != kKeyPause;
  const std::uint8_t set3 = set3_code(code);
  return set3 && (s_.set3_types[set3] & kKeyRepeats);
}

void Ps2Keyboard::key(KeyCode code, bool down, core::VmTime now) {
  if (is_down(code) == down) return;
  s_.keys_down[code / 8] = static_cast<std::uint8_t>(s_.keys_down[code / 8] ^ (1u << (code % 8)));
  if (!s_.scanning) return;
  send_key(code, down, false);
  if (!down) {
    if (s_.repeat_key == code) s_.repeat_key = 0;
  } else if (repeats(code)) {
    s_.repeat_key = code;
    s_.repeat_at = now + repeat_delay();
  }
}

std::optional<core::VmTime> Ps2Keyboard::deadline() const {
  if (!s_.repeat_key || !s_.scanning) return std::nullopt;
  return s_.repeat_at;
}

void Ps2Keyboard::run(core::VmTime now) {
  if (!deadline() || now < s_.repeat_at) return;
  // A guest that does not fetch the last one gets no more: else its queue fills up with one key.
  if (s_.events.empty() && is_down(s_.repeat_key)) send_key(s_.repeat_key, true, true);
  s_.repeat_at = now + repeat_period();
}

void Ps2Keyboard::send_event(const std::uint8_t* bytes, std::size_t count) {
  // The last place is for the overrun code: FFh in set 1, 00h in the others.
  if (s_.events.room() < count + 1) {
    if (s_.events.room() == 1) s_.events.push(s_.scan_set == 1 ? 0xFF : 0x00);
    while (s_.events.room() > 1) s_.events.push(s_.scan_set == 1 ? 0xFF : 0x00);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) s_.events.push(bytes[i]);
}

void Ps2Keyboard::send_set3(KeyCode code, bool down) {
  const std::uint8_t set3 = set3_code(code);
  if (!set3 || (!down && !(s_.set3_types[set3] & kKeySendsBreak))) return;
  const std::uint8_t bytes[] = {0xF0, set3};
  if (down)
    send_event(bytes + 1, 1);
  else
    send_event(bytes, 2);
}

void Ps2Keyboard::send_key(KeyCode code, bool down, bool repeat) {
  if (s_.scan_set == 3) {
    send_set3(code, down);
    return;
  }
  std::uint8_t bytes[16];
  std::size_t count = 0;
  const auto put = [&](KeyCode key, bool make) {
    const bool set1 = s_.scan_set == 1;
    const std::uint8_t base = set1 ? key & 0x7F : set2_code(key);
    if (base == 0) return;
    if (key & 0x80) bytes[count++] = 0xE0;
    if (!make && !set1) bytes[count++] = 0xF0;
    bytes[count++] = static_cast<std::uint8_t>(base | (!make && set1 ? 0x80 : 0));
  };
  const bool control = is_down(kKeyLeftControl) || is_down(kKeyRightControl);
  const bool shift = is_down(kKeyLeftShift) || is_down(kKeyRightShift);
  const bool alt = is_down(kKeyLeftAlt) || is_down(kKeyRightAlt);
  if (code == kKeyPause) {
    // Pause has no break code and is sent whole on the make; with Ctrl it is Break (E0 46).
    if (!down) return;
    if (control) {
      put(kKeyPause, true);
      put(kKeyPause, false);
    } else {
      static constexpr std::uint8_t kPause1[] = {0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5};
      static constexpr std::uint8_t kPause2[] = {0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77};
      if (s_.scan_set == 1)
        send_event(kPause1, sizeof kPause1);
      else
        send_event(kPause2, sizeof kPause2);
      return;
    }
  } else if (code == kKeyPrintScreen && alt) {
    put(kKeySysRq, down);
  } else if (code == kKeyPrintScreen && !control && !shift && !repeat) {
    // With a simulated left Shift around it: Print Screen was Shift with keypad * on older keyboards.
    constexpr KeyCode kFakeShift = kKeyLeftShift | 0x80;
    if (down) put(kFakeShift, true);
    put(code, down);
    if (!down) put(kFakeShift, false);
  } else {
    put(code, down);
  }
  if (count) send_event(bytes, count);
}

}  // namespace husk::devices
