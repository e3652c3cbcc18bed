// husk: Motorola MC146818 real-time clock with 256 bytes of CMOS RAM, as in a PC
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>

#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

struct RtcState {
  std::array<std::uint8_t, 256> ram{};  ///< the clock's own bytes (0..9, 32h) are in use only while it stands still
  std::uint8_t index = 0;               ///< port 70h
  std::uint8_t upper_index = 0;         ///< port 72h
  bool nmi_masked = false;
  std::uint8_t reg_a = 0x26;             ///< 32.768 kHz time base, 1024 Hz; UIP is not kept
  std::uint8_t reg_b = 0x02;             ///< 24 hours, BCD
  std::uint8_t reg_c = 0;                ///< PF, AF, UF
  std::int64_t offset_seconds = 0;       ///< clock's time minus the host's wall clock,
  std::uint32_t offset_nanoseconds = 0;  ///< the sum of both
  std::int64_t seconds_seen = 0;         ///< the second (since 1970, clock's time) up to which UF and AF are known
  std::uint64_t periods_seen = 0;        ///< 32768 Hz ticks of VM time up to which PF is known
  bool output_disabled = false;          ///< HPET legacy replacement has taken IRQ8
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "ram", &RtcState::ram),
                      field(2, "index", &RtcState::index).max(0x7F),
                      field(3, "upper_index", &RtcState::upper_index),
                      field(4, "nmi_masked", &RtcState::nmi_masked),
                      field(5, "reg_a", &RtcState::reg_a).max(0x7F),
                      field(6, "reg_b", &RtcState::reg_b),
                      field(7, "reg_c", &RtcState::reg_c).max(0x7F),
                      field(8, "offset_seconds", &RtcState::offset_seconds),
                      field(9, "offset_nanoseconds", &RtcState::offset_nanoseconds).max(999'999'999),
                      field(10, "seconds_seen", &RtcState::seconds_seen),
                      field(11, "periods_seen", &RtcState::periods_seen),
                      field(12, "output_disabled", &RtcState::output_disabled)};
  }
};

/// Ports 70h/71h (the first 128 bytes) and 72h/73h (the upper 128). The time is the host's wall clock plus an offset;
/// nothing ticks unless an interrupt is enabled.
class Rtc : public core::StatefulDevice<RtcState> {
 public:
  struct Deps {
    mem::AddressSpace& io_space;
    mem::LockDomain* domain = nullptr;  ///< that of the clock
    core::Clock& clock;
    core::InterruptLine interrupt = {};  ///< IRQ8, active while IRQF is set
    /// The clock's time at start, minus Clock::wall_clock (UTC): 0, the local zone's offset, or the distance to a date.
    std::int64_t start_offset_seconds = 0;
    /// Bit 7 of port 70h changed. May be null.
    std::function<void(bool masked)> nmi_mask = {};
  };
  explicit Rtc(Deps deps);

  std::string_view state_id() const override { return "rtc"; }
  /// Battery-backed: keeps the time and the RAM, and clears the interrupt enables (RESET pin, MC146818 data sheet).
  void reset(core::ResetKind kind) override;

  /// For the board: what the firmware would have left in the CMOS. Clock registers 0..Dh are not changed.
  void set_cmos(std::uint8_t index, std::uint8_t value);
  std::uint8_t cmos(std::uint8_t index) const { return state_.ram[index]; }
  /// The bytes that tell RAM sizes (15h-18h, 30h-31h, 34h-35h, 5Bh-5Dh) from the bytes of RAM below and above 4 GiB.
  void set_memory_size(std::uint64_t below_4g, std::uint64_t above_4g);
  /// The PC/AT checksum of 10h..2Dh into 2Eh/2Fh; call it after the last set_cmos.
  void update_checksum();
  /// The HPET in legacy replacement mode owns IRQ8 (IA-PC HPET 1.0a, 2.3.5); the flags are set all the same.
  void set_output_disabled(bool disabled);
  bool nmi_masked() const { return state_.nmi_masked; }

 protected:
  Status validate(const RtcState& incoming) const override;
  void after_load() override;

 private:
  struct Ports : mem::IoHandler {
    explicit Ports(Rtc& rtc) : owner(rtc) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    Rtc& owner;
  };
  /// Time since 1970 as the clock tells it.
  struct Instant {
    std::int64_t seconds;
    std::uint32_t nanoseconds;
  };
  using ClockBytes = std::array<std::uint8_t, 10>;

  bool running() const;
  Instant time() const;
  void set_time(Instant wanted);
  std::uint8_t encode(unsigned value) const;
  unsigned decode(std::uint8_t raw) const;
  std::uint8_t encode_hour(unsigned hour) const;
  unsigned decode_hour(std::uint8_t raw) const;
  void bytes_from_time(std::int64_t seconds, std::array<std::uint8_t, 256>& ram) const;
  std::int64_t time_from_bytes(const std::array<std::uint8_t, 256>& ram) const;
  std::optional<std::int64_t> next_alarm(std::int64_t after) const;

  std::uint8_t read_register(unsigned index);
  void write_register(unsigned index, std::uint8_t value);
  void write_clock_byte(unsigned index, std::uint8_t value);
  void write_reg_a(std::uint8_t value);
  void write_reg_b(std::uint8_t value);
  void freeze();
  unsigned period() const;
  std::uint64_t oscillator() const;
  void catch_up();
  bool requesting() const;
  void update();

  Deps deps_;
  Ports ports_{*this};
  std::unique_ptr<core::Timer> timer_;
  mem::Mapping mapping_;
};

}  // namespace husk::devices
