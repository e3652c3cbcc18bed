// husk: the PC keyboard controller with its keyboard and mouse
#include "devices/input/i8042.h"

#include <algorithm>

namespace husk::devices {

namespace {
enum Command : std::uint8_t {
  kReadRam = 0x20,   // to 3Fh
  kWriteRam = 0x60,  // to 7Fh
  kTestPassword = 0xA4,
  kDisableMouse = 0xA7,
  kEnableMouse = 0xA8,
  kTestMouse = 0xA9,
  kSelfTest = 0xAA,
  kTestKeyboard = 0xAB,
  kDisableKeyboard = 0xAD,
  kEnableKeyboard = 0xAE,
  kReadInputPort = 0xC0,
  kReadMode = 0xCA,
  kReadOutputPort = 0xD0,
  kWriteOutputPort = 0xD1,
  kWriteKeyboardOutput = 0xD2,
  kWriteMouseOutput = 0xD3,
  kWriteMouse = 0xD4,
  kDisableA20 = 0xDD,
  kEnableA20 = 0xDF,
  kReadTestInputs = 0xE0,
  kPulse = 0xF0,  // to FFh
};
constexpr std::uint8_t kSelfTestPassed = 0x55;
constexpr std::uint8_t kNoPassword = 0xF1;
constexpr std::uint8_t kBreakPrefix = 0xF0;
}  // namespace

void I8042Chip::power_on(bool initialised) {
  s_.ram = {};
  s_.ram[0] = initialised ? kKeyboardInterrupt | kMouseInterrupt | kSystemFlag | kTranslate
                          : kKeyboardInterrupt | kMouseInterrupt;
  s_.output_port = 0xCF;
  s_.output = 0;
  s_.output_full = s_.output_is_mouse = s_.last_was_command = s_.break_prefix_seen = false;
  s_.awaited_by = 0;
  s_.answers = {};
  keyboard_.power_on();
  mouse_.power_on();
}

bool I8042Chip::plausible(const State& state) { return Ps2Mouse::plausible(state.mouse); }

void I8042Chip::put(std::uint8_t value, bool from_mouse) {
  s_.output = value;
  s_.output_full = true;
  s_.output_is_mouse = from_mouse;
}

bool I8042Chip::take_keyboard() {
  const std::uint8_t byte = keyboard_.take();
  if (!(s_.ram[0] & kTranslate)) {
    put(byte, false);
    return true;
  }
  // The prefix of a break code becomes bit 7 of the byte that follows.
  if (byte == kBreakPrefix) {
    s_.break_prefix_seen = true;
    return false;
  }
  const unsigned release = s_.break_prefix_seen ? 0x80 : 0;
  s_.break_prefix_seen = false;
  put(static_cast<std::uint8_t>(translate_to_set1(byte) | release), false);
  return true;
}

void I8042Chip::fill() {
  while (!s_.output_full) {
    if (!s_.answers.empty()) {
      const std::uint16_t entry = s_.answers.pop();
      put(static_cast<std::uint8_t>(entry), entry & 0x100);
    } else if (!(s_.ram[0] & kKeyboardDisabled) && keyboard_.has_data()) {
      take_keyboard();
    } else if (!(s_.ram[0] & kMouseDisabled) && mouse_.has_data()) {
      put(mouse_.take(), true);
    } else {
      return;
    }
  }
}

void I8042Chip::run(core::VmTime now) {
  keyboard_.run(now);
  mouse_.run(now);
  fill();
  // The mouse may have had something to say that only waited for its queue to empty.
  mouse_.run(now);
  fill();
}

std::optional<core::VmTime> I8042Chip::deadline() const {
  const auto keyboard = keyboard_.deadline();
  const auto mouse = mouse_.deadline();
  if (keyboard && mouse) return std::min(*keyboard, *mouse);
  return keyboard ? keyboard : mouse;
}

std::uint8_t I8042Chip::read_data() {
  s_.output_full = false;
  return s_.output;
}

std::uint8_t I8042Chip::read_status() const {
  return static_cast<std::uint8_t>((s_.output_full ? kOutputFull : 0) | ((s_.ram[0] & kSystemFlag) ? kSystem : 0) |
                                   (s_.last_was_command ? kLastWasCommand : 0) | kUnlocked |
                                   (s_.output_full && s_.output_is_mouse ? kMouseData : 0));
}

void I8042Chip::write_output_port(std::uint8_t value) {
  s_.output_port = static_cast<std::uint8_t>(value & ~(kIrq1 | kIrq12));
  if (!(value & kNotReset)) reset_pulsed_ = true;
}

bool I8042Chip::write_command(std::uint8_t value) {
  s_.last_was_command = true;
  s_.awaited_by = 0;
  if (value >= kReadRam && value < kReadRam + 32) {
    answer(s_.ram[value - kReadRam]);
  } else if (value >= kWriteRam && value < kWriteRam + 32) {
    s_.awaited_by = value;
  } else if (value >= kPulse) {
    // Bits 3:0 low pulse the output port's; bit 0 is the reset line, the others are not wired.
    if (!(value & 1)) reset_pulsed_ = true;
  } else {
    switch (value) {
      case kTestPassword: answer(kNoPassword); break;
      case kDisableMouse: s_.ram[0] |= kMouseDisabled; break;
      case kEnableMouse: s_.ram[0] &= static_cast<std::uint8_t>(~kMouseDisabled); break;
      case kTestMouse:
      case kTestKeyboard: answer(0x00); break;
      case kSelfTest:
        s_.ram[0] |= kSystemFlag;
        answer(kSelfTestPassed);
        break;
      case kDisableKeyboard: s_.ram[0] |= kKeyboardDisabled; break;
      case kEnableKeyboard: s_.ram[0] &= static_cast<std::uint8_t>(~kKeyboardDisabled); break;
      case kReadInputPort:
        answer(0x80);  // keyboard not inhibited
        break;
      case kReadMode:
        answer(0x01);  // PS/2, not AT
        break;
      case kReadOutputPort:
        answer(static_cast<std::uint8_t>(s_.output_port | (keyboard_interrupt() ? kIrq1 : 0) |
                                         (mouse_interrupt() ? kIrq12 : 0)));
        break;
      case kWriteOutputPort:
      case kWriteKeyboardOutput:
      case kWriteMouseOutput:
      case kWriteMouse: s_.awaited_by = value; break;
      case kDisableA20: s_.output_port &= static_cast<std::uint8_t>(~kA20); break;
      case kEnableA20: s_.output_port |= kA20; break;
      case kReadTestInputs: answer(0x00); break;
      default: break;  // unknown to the firmware: no answer
    }
  }
  return reset_pulsed_;
}

void I8042Chip::write_data(std::uint8_t value, core::VmTime now) {
  s_.last_was_command = false;
  const std::uint8_t command = std::exchange(s_.awaited_by, std::uint8_t{0});
  if (command >= kWriteRam && command < kWriteRam + 32) {
    s_.ram[command - kWriteRam] = value;
    return;
  }
  switch (command) {
    case kWriteOutputPort: write_output_port(value); break;
    case kWriteKeyboardOutput: answer(value); break;
    case kWriteMouseOutput: answer(value, true); break;
    case kWriteMouse:
      // Sending to a device opens its interface.
      s_.ram[0] &= static_cast<std::uint8_t>(~kMouseDisabled);
      mouse_.receive(value);
      break;
    default: s_.ram[0] &= static_cast<std::uint8_t>(~kKeyboardDisabled); keyboard_.receive(value, now);
  }
}

I8042::I8042(Deps deps, Config config) : deps_(std::move(deps)), config_(config), a20_(deps_.a20.input()) {
  timer_ = deps_.clock.make_timer([this] {
    armed_.reset();
    run();
  });
  chip_.power_on(config_.initialised);
  drive();
}

Result<std::unique_ptr<I8042>> I8042::create(Deps deps, Config config) {
  std::unique_ptr<I8042> device(new I8042(std::move(deps), config));
  const mem::MapOptions options{.domain = device->deps_.domain, .max_size = 1, .priority = 0, .name = "i8042"};
  device->data_port_ = HUSK_TRY(device->deps_.io.map(kDataPort, 1, *device, options));
  device->command_port_ = HUSK_TRY(device->deps_.io.map(kCommandPort, 1, device->command_handler_, options));
  return device;
}

void I8042::reset(core::ResetKind) {
  chip_.power_on(config_.initialised);
  run();
}

void I8042::drive() {
  deps_.keyboard_irq.set(chip_.keyboard_interrupt());
  deps_.mouse_irq.set(chip_.mouse_interrupt());
  a20_.set(chip_.a20());
}

void I8042::run() {
  chip_.run(deps_.clock.now());
  drive();
  const auto wanted = chip_.deadline();
  if (wanted == armed_) return;
  armed_ = wanted;
  if (wanted)
    timer_->arm(*wanted);
  else
    timer_->cancel();
}

std::uint64_t I8042::read(const mem::Access&) {
  const std::uint8_t value = chip_.read_data();
  // The wire falls before the next byte raises it again: an edge-triggered controller must see one edge a byte.
  drive();
  run();
  return value;
}

void I8042::write(const mem::Access&, std::uint64_t value) {
  const std::uint8_t leds_before = leds();
  chip_.write_data(static_cast<std::uint8_t>(value), deps_.clock.now());
  if (chip_.take_reset()) deps_.control.request_reset("keyboard controller (output port)");
  run();
  if (leds() != leds_before && deps_.leds_changed) deps_.leds_changed(leds());
}

void I8042::CommandPort::write(const mem::Access&, std::uint64_t value) {
  owner_.chip_.write_command(static_cast<std::uint8_t>(value));
  if (owner_.chip_.take_reset()) owner_.deps_.control.request_reset("keyboard controller (pulse)");
  owner_.run();
}

void I8042::key(KeyCode code, bool down) {
  chip_.keyboard().key(code, down, deps_.clock.now());
  run();
}

void I8042::move_mouse(std::int32_t dx, std::int32_t dy, std::int32_t wheel) {
  chip_.mouse().move(dx, dy, wheel, deps_.clock.now());
  run();
}

void I8042::set_mouse_buttons(std::uint8_t buttons) {
  chip_.mouse().set_buttons(buttons, deps_.clock.now());
  run();
}

Status I8042::validate(const I8042Chip::State& incoming) const {
  if (!I8042Chip::plausible(incoming)) return fail("saved state of i8042 contradicts itself");
  return {};
}

void I8042::after_load() {
  deps_.keyboard_irq.restore_level(chip_.keyboard_interrupt());
  deps_.mouse_irq.restore_level(chip_.mouse_interrupt());
  a20_.set(chip_.a20());
  armed_ = chip_.deadline();
  if (armed_)
    timer_->arm(*armed_);
  else
    timer_->cancel();
}

}  // namespace husk::devices
