// husk: the PC16550D serial controller as a pure chip: registers, FIFOs, wants-interrupt
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>

#include "core/clock.h"
#include "state/state.h"

namespace husk::devices {

/// National Semiconductor PC16550D ("PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs", June 1995). It
/// has no time and no wires of its own: the attachment passes the time in, drains the transmitter and drives the pins.
/// The line itself carries whole bytes at once: word length, parity and speed are kept and read back, and matter only
/// to the loop-back mode (word length) and the character time-out (length of a character).
class Uart16550 {
 public:
  static constexpr unsigned kFifoDepth = 16;

  enum Register : unsigned { kData = 0, kIer = 1, kIirFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6, kScratch = 7 };
  enum Ier : std::uint8_t { kIerData = 1, kIerEmpty = 2, kIerLine = 4, kIerModem = 8 };
  enum Lcr : std::uint8_t { kLcrTwoStop = 0x04, kLcrParity = 0x08, kLcrBreak = 0x40, kLcrDlab = 0x80 };
  enum Mcr : std::uint8_t { kMcrDtr = 1, kMcrRts = 2, kMcrOut1 = 4, kMcrOut2 = 8, kMcrLoop = 0x10 };
  enum Lsr : std::uint8_t {
    kLsrData = 0x01,
    kLsrOverrun = 0x02,
    kLsrParity = 0x04,
    kLsrFraming = 0x08,
    kLsrBreak = 0x10,
    kLsrThrEmpty = 0x20,
    kLsrIdle = 0x40,  ///< TEMT
    kLsrFifoError = 0x80,
  };
  enum Msr : std::uint8_t { kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRi = 0x40, kMsrDcd = 0x80 };

  struct State {
    std::uint8_t ier = 0;
    std::uint8_t fcr = 0;  ///< bits 0 (enabled), 3 (DMA mode) and 7:6 (trigger) as last programmed
    std::uint8_t lcr = 0;
    std::uint8_t mcr = 0;
    std::uint8_t scratch = 0;
    std::uint16_t divisor = 0;
    std::uint8_t line_errors = 0;   ///< LSR bits 4:1
    std::uint8_t modem_deltas = 0;  ///< MSR bits 3:0
    std::uint8_t modem_level = 0;   ///< MSR bits 7:4 as last seen, loop-back included
    std::uint8_t modem_pins = 0;    ///< MSR bits 7:4 as the input pins are
    bool empty_interrupt = false;   ///< "THR empty" not yet acknowledged
    bool character_timeout = false;
    std::array<std::uint8_t, kFifoDepth> rx_data{};
    std::array<std::uint8_t, kFifoDepth> rx_errors{};  ///< LSR bits 4:2 of each character
    std::uint8_t rx_head = 0;
    std::uint8_t rx_count = 0;
    std::array<std::uint8_t, kFifoDepth> tx_data{};
    std::uint8_t tx_head = 0;
    std::uint8_t tx_count = 0;
    core::VmTime rx_activity = 0;  ///< last time that a character came or was read

    static constexpr auto state() {
      using state::field;
      return std::tuple{
          field(1, "ier", &State::ier).max(0x0F),
          field(2, "fcr", &State::fcr),
          field(3, "lcr", &State::lcr),
          field(4, "mcr", &State::mcr).max(0x1F),
          field(5, "scratch", &State::scratch),
          field(6, "divisor", &State::divisor),
          field(7, "line_errors", &State::line_errors).max(0x1E),
          field(8, "modem_deltas", &State::modem_deltas).max(0x0F),
          field(9, "modem_level", &State::modem_level),
          field(10, "modem_pins", &State::modem_pins),
          field(11, "empty_interrupt", &State::empty_interrupt),
          field(12, "character_timeout", &State::character_timeout),
          field(13, "rx_data", &State::rx_data),
          field(14, "rx_errors", &State::rx_errors).max(0x1C),
          field(15, "rx_head", &State::rx_head).max(kFifoDepth - 1),
          field(16, "rx_count", &State::rx_count).max(kFifoDepth),
          field(17, "tx_data", &State::tx_data),
          field(18, "tx_head", &State::tx_head).max(kFifoDepth - 1),
          field(19, "tx_count", &State::tx_count).max(kFifoDepth),
          field(20, "rx_activity", &State::rx_activity),
      };
    }
  };

  /// Works on `state`, which must outlive the chip.
  explicit Uart16550(State& state) : s_(state) {}

  /// Master reset. Scratch, divisor and data are undefined by the data sheet; here they become 0.
  void reset();
  /// Bits of a loaded state that ranges cannot express.
  static bool plausible(const State& state);

  /// `offset` 0..7; `now` is looked at only where the receiver is touched (offset 0 with DLAB clear, and FCR, LCR,
  /// MCR).
  std::uint8_t read(unsigned offset, core::VmTime now);
  void write(unsigned offset, std::uint8_t value, core::VmTime now);

  /// A character from the line, with LSR bits 4:2 as errors. A full receiver overruns.
  void receive(std::uint8_t data, std::uint8_t errors, core::VmTime now);
  /// How many more characters the receiver takes without an overrun; 0 in loop-back mode, which cuts the line off.
  unsigned receive_room() const;
  /// What waits to leave: the first contiguous part of it. The taken bytes are then told to sent().
  std::span<const std::uint8_t> to_send() const;
  void sent(std::size_t count);
  /// The modem input pins: any of kMsrCts, kMsrDsr, kMsrRi, kMsrDcd.
  void set_modem_pins(std::uint8_t pins);

  /// When the receiver will have been left alone for four character times; nothing if that would change nothing.
  std::optional<core::VmTime> timeout_deadline() const;
  void expire_timeout();

  /// The INTR pin gated by OUT2, as PCs wire it. Loop-back forces the OUT2 pin inactive.
  bool interrupt() const { return (s_.mcr & (kMcrOut2 | kMcrLoop)) == kMcrOut2 && identify() != kNone; }
  bool break_sent() const { return (s_.lcr & kLcrBreak) && !(s_.mcr & kMcrLoop); }
  /// The time that one character takes on the line.
  core::VmTime character_time() const;

 private:
  enum Identity : std::uint8_t { kModem = 0, kNone = 1, kEmpty = 2, kReceived = 4, kLine = 6, kTimeout = 0xC };
  bool fifo() const { return s_.fcr & 1; }
  unsigned depth() const { return fifo() ? kFifoDepth : 1; }
  unsigned trigger() const;
  Identity identify() const;
  void clear_receiver();
  void clear_transmitter();
  void write_fcr(std::uint8_t value);
  void transmit(std::uint8_t value, core::VmTime now);
  void update_modem();
  void expose_errors();

  State& s_;
};

}  // namespace husk::devices
