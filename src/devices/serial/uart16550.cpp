// husk: the PC16550D serial controller as a pure chip
#include "devices/serial/uart16550.h"

#include <algorithm>

namespace husk::devices {

namespace {
constexpr std::uint64_t kBaudBase = 115200;  // 1.8432 MHz / 16
constexpr std::uint8_t kFcrKept = 0xC9;
constexpr std::uint8_t kErrorsOfCharacter = Uart16550::kLsrParity | Uart16550::kLsrFraming | Uart16550::kLsrBreak;
}  // namespace

void Uart16550::reset() {
  const std::uint8_t pins = s_.modem_pins;
  s_ = State{};
  s_.modem_pins = s_.modem_level = pins;
}

bool Uart16550::plausible(const State& state) {
  const unsigned depth = (state.fcr & 1) ? kFifoDepth : 1;
  return state.rx_count <= depth && state.tx_count <= depth && (state.fcr & ~kFcrKept) == 0 &&
         (state.modem_level & 0x0F) == 0 && (state.modem_pins & 0x0F) == 0;
}

unsigned Uart16550::trigger() const {
  if (!fifo()) return 1;
  static constexpr std::uint8_t kLevels[] = {1, 4, 8, 14};
  return kLevels[s_.fcr >> 6];
}

// PC16550D, table IV: the order of the tests is the priority.
Uart16550::Identity Uart16550::identify() const {
  if ((s_.ier & kIerLine) && s_.line_errors) return kLine;
  if (s_.ier & kIerData) {
    if (s_.rx_count >= trigger()) return kReceived;
    if (s_.character_timeout) return kTimeout;
  }
  if ((s_.ier & kIerEmpty) && s_.empty_interrupt) return kEmpty;
  if ((s_.ier & kIerModem) && s_.modem_deltas) return kModem;
  return kNone;
}

void Uart16550::clear_receiver() {
  s_.rx_head = s_.rx_count = 0;
  s_.rx_errors.fill(0);
  s_.character_timeout = false;
}

void Uart16550::clear_transmitter() {
  s_.tx_head = s_.tx_count = 0;
  s_.empty_interrupt = true;
}

void Uart16550::write_fcr(std::uint8_t value) {
  // FCR bit 0: changing it clears both FIFOs; the other bits are programmed only while it is written as 1.
  const bool toggled = (value ^ s_.fcr) & 1;
  if (toggled || (value & 3) == 3) clear_receiver();
  if (toggled || (value & 5) == 5) clear_transmitter();
  s_.fcr = (value & 1) ? value & kFcrKept : 0;
}

void Uart16550::expose_errors() {
  // LSR 4:2 belong to the character at the top of the FIFO and show when it gets there.
  if (s_.rx_count) s_.line_errors |= s_.rx_errors[s_.rx_head];
}

void Uart16550::receive(std::uint8_t data, std::uint8_t errors, core::VmTime now) {
  s_.rx_activity = now;
  if (s_.rx_count >= depth()) {
    s_.line_errors |= kLsrOverrun;
    // 16450 mode overwrites the holding register; in FIFO mode the shift register alone is lost.
    if (fifo()) return;
    s_.rx_count = 0;
  }
  const unsigned at = (s_.rx_head + s_.rx_count) % kFifoDepth;
  s_.rx_data[at] = data;
  s_.rx_errors[at] = errors & kErrorsOfCharacter;
  ++s_.rx_count;
  s_.character_timeout = false;
  if (s_.rx_count == 1) expose_errors();
}

unsigned Uart16550::receive_room() const { return (s_.mcr & kMcrLoop) ? 0 : depth() - s_.rx_count; }

void Uart16550::transmit(std::uint8_t value, core::VmTime now) {
  s_.empty_interrupt = false;
  if (s_.mcr & kMcrLoop) {
    receive(static_cast<std::uint8_t>(value & mask_of(5u + (s_.lcr & 3u))), 0, now);
    s_.empty_interrupt = s_.tx_count == 0;
    return;
  }
  if (s_.tx_count == depth()) --s_.tx_count;  // A full transmitter loses: the latest character takes the last place.
  s_.tx_data[(s_.tx_head + s_.tx_count) % kFifoDepth] = value;
  ++s_.tx_count;
}

std::span<const std::uint8_t> Uart16550::to_send() const {
  return {s_.tx_data.data() + s_.tx_head, std::min<std::size_t>(s_.tx_count, kFifoDepth - s_.tx_head)};
}

void Uart16550::sent(std::size_t count) {
  if (count == 0) return;
  count = std::min<std::size_t>(count, s_.tx_count);
  s_.tx_count = static_cast<std::uint8_t>(s_.tx_count - count);
  s_.tx_head = s_.tx_count ? static_cast<std::uint8_t>((s_.tx_head + count) % kFifoDepth) : 0;
  if (s_.tx_count == 0) s_.empty_interrupt = true;
}

void Uart16550::set_modem_pins(std::uint8_t pins) {
  s_.modem_pins = pins & 0xF0;
  update_modem();
}

void Uart16550::update_modem() {
  std::uint8_t level = s_.modem_pins;
  if (s_.mcr & kMcrLoop) {
    level = static_cast<std::uint8_t>(((s_.mcr & kMcrRts) ? kMsrCts : 0) | ((s_.mcr & kMcrDtr) ? kMsrDsr : 0) |
                                      ((s_.mcr & kMcrOut1) ? kMsrRi : 0) | ((s_.mcr & kMcrOut2) ? kMsrDcd : 0));
  }
  const unsigned changed = static_cast<unsigned>(level ^ s_.modem_level);
  unsigned deltas = (changed & ~static_cast<unsigned>(kMsrRi)) >> 4;
  if ((changed & kMsrRi) && !(level & kMsrRi)) deltas |= 4;  // TERI: the trailing edge only
  s_.modem_deltas = static_cast<std::uint8_t>(s_.modem_deltas | deltas);
  s_.modem_level = level;
}

std::uint8_t Uart16550::read(unsigned offset, core::VmTime now) {
  switch (offset) {
    case kData: {
      if (s_.lcr & kLcrDlab) return static_cast<std::uint8_t>(s_.divisor);
      const std::uint8_t value = s_.rx_data[s_.rx_head];
      if (s_.rx_count == 0) return value;
      s_.rx_errors[s_.rx_head] = 0;
      s_.rx_head = static_cast<std::uint8_t>((s_.rx_head + 1) % kFifoDepth);
      --s_.rx_count;
      s_.character_timeout = false;
      s_.rx_activity = now;
      expose_errors();
      return value;
    }
    case kIer: return (s_.lcr & kLcrDlab) ? static_cast<std::uint8_t>(s_.divisor >> 8) : s_.ier;
    case kIirFcr: {
      const Identity identity = identify();
      // Reading IIR acknowledges the THR interrupt, but only if that is the one shown.
      if (identity == kEmpty) s_.empty_interrupt = false;
      return static_cast<std::uint8_t>(identity | (fifo() ? 0xC0 : 0));
    }
    case kLcr: return s_.lcr;
    case kMcr: return s_.mcr;
    case kLsr: {
      unsigned value = s_.line_errors;
      if (s_.rx_count) value |= kLsrData;
      if (s_.tx_count == 0) value |= kLsrThrEmpty | kLsrIdle;
      if (fifo() && std::any_of(s_.rx_errors.begin(), s_.rx_errors.end(), [](std::uint8_t e) { return e != 0; }))
        value |= kLsrFifoError;
      s_.line_errors = 0;
      if (s_.rx_count) s_.rx_errors[s_.rx_head] = 0;
      return static_cast<std::uint8_t>(value);
    }
    case kMsr: {
      const auto value = static_cast<std::uint8_t>(s_.modem_level | s_.modem_deltas);
      s_.modem_deltas = 0;
      return value;
    }
    default: return s_.scratch;
  }
}

void Uart16550::write(unsigned offset, std::uint8_t value, core::VmTime now) {
  switch (offset) {
    case kData:
      if (s_.lcr & kLcrDlab)
        s_.divisor = static_cast<std::uint16_t>((s_.divisor & 0xFF00) | value);
      else
        transmit(value, now);
      break;
    case kIer:
      if (s_.lcr & kLcrDlab) {
        s_.divisor = static_cast<std::uint16_t>((s_.divisor & 0x00FF) | (value << 8));
        break;
      }
      // Enabling the THR interrupt while the holding register is empty raises it at once.
      if ((value & ~s_.ier & kIerEmpty) && s_.tx_count == 0) s_.empty_interrupt = true;
      s_.ier = value & 0x0F;
      break;
    case kIirFcr: write_fcr(value); break;
    case kLcr:
      // In loop-back a break reaches the receiver: one zero character with BI and FE.
      if ((value & ~s_.lcr & kLcrBreak) && (s_.mcr & kMcrLoop)) receive(0, kLsrBreak | kLsrFraming, now);
      s_.lcr = value;
      break;
    case kMcr:
      s_.mcr = value & 0x1F;
      update_modem();
      break;
    case kLsr:  // "intended for read operations only": factory testing
    case kMsr: break;
    default: s_.scratch = value;
  }
}

core::VmTime Uart16550::character_time() const {
  const unsigned half_bits = 2 * (1 + 5 + (s_.lcr & 3u) + ((s_.lcr & kLcrParity) ? 1 : 0)) +
                             // Two stop bits are one and a half with five-bit characters.
                             ((s_.lcr & kLcrTwoStop) ? ((s_.lcr & 3) ? 4 : 3) : 2);
  // A divisor of 0 is undefined; it counts as the fastest rate.
  const std::uint64_t divisor = s_.divisor ? s_.divisor : 1;
  return core::kNanosecondsPerSecond * half_bits * divisor / (2 * kBaudBase);
}

std::optional<core::VmTime> Uart16550::timeout_deadline() const {
  if (!fifo() || !(s_.ier & kIerData) || s_.rx_count == 0 || s_.rx_count >= trigger() || s_.character_timeout)
    return std::nullopt;
  return s_.rx_activity + 4 * character_time();
}

void Uart16550::expire_timeout() {
  if (fifo() && s_.rx_count) s_.character_timeout = true;
}

}  // namespace husk::devices
