// husk: Motorola MC146818 real-time clock with 256 bytes of CMOS RAM, as in a PC
#include "devices/timer/rtc_mc146818.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"

namespace husk::devices {

namespace {

enum : unsigned {
  kSeconds = 0,
  kSecondsAlarm = 1,
  kMinutes = 2,
  kMinutesAlarm = 3,
  kHours = 4,
  kHoursAlarm = 5,
  kDayOfWeek = 6,
  kDayOfMonth = 7,
  kMonth = 8,
  kYear = 9,
  kRegA = 10,
  kRegB = 11,
  kRegC = 12,
  kRegD = 13,
  kCentury = 0x32,  // where the FADT says it is
};

constexpr std::uint8_t kUpdateInProgress = 0x80;                                      // A
constexpr std::uint8_t kSet = 0x80, kPeriodic = 0x40, kAlarm = 0x20, kUpdate = 0x10;  // B enables, C flags
constexpr std::uint8_t kSquareWave = 0x08, kBinary = 0x04, k24Hours = 0x02;           // B
constexpr std::uint8_t kInterruptFlag = 0x80;                                         // C
constexpr std::uint8_t kInterrupts = kPeriodic | kAlarm | kUpdate;
constexpr std::uint8_t kValidRam = 0x80;  // D

constexpr std::uint64_t kOscillator = 32'768;
constexpr std::int64_t kBillion = 1'000'000'000;
// UIP goes high tBUC = 244 us before the update, which takes tUC = 1984 us with a 32.768 kHz time base.
constexpr std::uint32_t kUipStart = 1'000'000'000 - (244'000 + 1'984'000);
/// The first update comes half a second after the divider is let go.
constexpr std::uint32_t kHalfSecond = 500'000'000;
/// Years 0..9999 are what two year bytes can say; offsets beyond a few times that are a lie.
constexpr std::int64_t kMostOffset = 1'000'000'000'000;

bool is_clock_byte(unsigned index) { return index <= kYear || index == kCentury; }
bool is_alarm_byte(unsigned index) { return index == kSecondsAlarm || index == kMinutesAlarm || index == kHoursAlarm; }

}  // namespace

Rtc::Rtc(Deps deps) : deps_(std::move(deps)) {
  timer_ = deps_.clock.make_timer([this] {
    catch_up();
    update();
  });
  auto mapping = deps_.io_space.map(0x70, 4, ports_, {deps_.domain, 1, 0, "rtc"});
  HUSK_CHECK(mapping);
  mapping_ = *std::move(mapping);
  state_.offset_seconds = std::clamp(deps_.start_offset_seconds, -kMostOffset, kMostOffset);
  state_.seconds_seen = time().seconds;
  state_.periods_seen = oscillator();
}

void Rtc::reset(core::ResetKind) {
  state_.reg_b &= static_cast<std::uint8_t>(~(kInterrupts | kSquareWave));
  state_.reg_c = 0;
  state_.index = 0;
  state_.upper_index = 0;
  if (state_.nmi_masked && deps_.nmi_mask) deps_.nmi_mask(false);
  state_.nmi_masked = false;
  catch_up();
  state_.reg_c = 0;
  update();
}

// ---- time ----

/// False: the time stands still, and the clock bytes are plain memory.
bool Rtc::running() const { return !(state_.reg_b & kSet) && (state_.reg_a & 0x70) == 0x20; }

Rtc::Instant Rtc::time() const {
  const std::int64_t wall = deps_.clock.wall_clock();
  std::int64_t seconds = wall / kBillion;
  std::int64_t rest = wall % kBillion;
  if (rest < 0) rest += kBillion, --seconds;
  rest += state_.offset_nanoseconds;
  if (rest >= kBillion) rest -= kBillion, ++seconds;
  return {seconds + state_.offset_seconds, static_cast<std::uint32_t>(rest)};
}

void Rtc::set_time(Instant wanted) {
  state_.offset_seconds = 0;
  state_.offset_nanoseconds = 0;
  const Instant wall = time();
  std::int64_t rest = std::int64_t{wanted.nanoseconds} - wall.nanoseconds;
  state_.offset_seconds = wanted.seconds - wall.seconds;
  if (rest < 0) rest += kBillion, --state_.offset_seconds;
  state_.offset_nanoseconds = static_cast<std::uint32_t>(rest);
  state_.seconds_seen = wanted.seconds;
}

std::uint8_t Rtc::encode(unsigned value) const {
  value %= 100;
  return static_cast<std::uint8_t>(state_.reg_b & kBinary ? value : value / 10 * 16 + value % 10);
}
unsigned Rtc::decode(std::uint8_t raw) const { return state_.reg_b & kBinary ? raw : (raw >> 4) * 10u + (raw & 15u); }

std::uint8_t Rtc::encode_hour(unsigned hour) const {
  if (state_.reg_b & k24Hours) return encode(hour);
  return static_cast<std::uint8_t>(encode(hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}
unsigned Rtc::decode_hour(std::uint8_t raw) const {
  if (state_.reg_b & k24Hours) return decode(raw);
  return decode(raw & 0x7F) % 12 + (raw & 0x80 ? 12 : 0);
}

void Rtc::bytes_from_time(std::int64_t seconds, std::array<std::uint8_t, 256>& ram) const {
  using namespace std::chrono;
  const sys_seconds when{std::chrono::seconds(seconds)};
  const sys_days day = floor<days>(when);
  const year_month_day date(day);
  const auto of_day = static_cast<unsigned>((when - day).count());
  const int year = static_cast<int>(date.year());
  const auto in_era = static_cast<unsigned>((year % 10'000 + 10'000) % 10'000);
  ram[kSeconds] = encode(of_day % 60);
  ram[kMinutes] = encode(of_day / 60 % 60);
  ram[kHours] = encode_hour(of_day / 3600);
  ram[kDayOfWeek] = encode(weekday(day).c_encoding() + 1);  // Sunday is 1
  ram[kDayOfMonth] = encode(static_cast<unsigned>(date.day()));
  ram[kMonth] = encode(static_cast<unsigned>(date.month()));
  ram[kYear] = encode(in_era % 100);
  ram[kCentury] = encode(in_era / 100);
}

/// Any bytes at all give a time: values beyond their range carry over.
std::int64_t Rtc::time_from_bytes(const std::array<std::uint8_t, 256>& ram) const {
  using namespace std::chrono;
  const auto years = static_cast<int>(decode(ram[kCentury]) * 100 + decode(ram[kYear]));
  const unsigned month_index = (decode(ram[kMonth]) + 11) % 12;  // 0: January
  const sys_days first = year(years) / static_cast<int>(month_index + 1) / 1;
  const auto day = first.time_since_epoch().count() + static_cast<int>(decode(ram[kDayOfMonth])) - 1;
  return std::int64_t{day} * 86'400 + decode_hour(ram[kHours]) * 3600 + decode(ram[kMinutes]) * 60 +
         decode(ram[kSeconds]);
}

/// The first second after `after` at which the alarm bytes match; each with both top bits set matches anything.
std::optional<std::int64_t> Rtc::next_alarm(std::int64_t after) const {
  const auto matches = [&](unsigned at, std::uint8_t value) {
    return (state_.ram[at] & 0xC0) == 0xC0 || state_.ram[at] == value;
  };
  std::int64_t when = after + 1;
  const std::int64_t end = when + 86'400;
  while (when < end) {
    const std::int64_t of_day = (when % 86'400 + 86'400) % 86'400;
    if (!matches(kHoursAlarm, encode_hour(static_cast<unsigned>(of_day / 3600))))
      when += 3600 - of_day % 3600;
    else if (!matches(kMinutesAlarm, encode(static_cast<unsigned>(of_day / 60 % 60))))
      when += 60 - of_day % 60;
    else if (!matches(kSecondsAlarm, encode(static_cast<unsigned>(of_day % 60))))
      ++when;
    else
      return when;
  }
  return std::nullopt;
}

/// The clock bytes become memory that holds the time as it was.
void Rtc::freeze() { bytes_from_time(time().seconds, state_.ram); }

// ---- interrupts ----

/// Of the periodic interrupt, in oscillator ticks; 0: none (MC146818 data sheet, table 5).
unsigned Rtc::period() const {
  const unsigned rate = state_.reg_a & 15u;
  if (rate == 0 || (state_.reg_a & 0x70) != 0x20) return 0;
  return 1u << (rate <= 2 ? rate + 6 : rate - 1);
}

std::uint64_t Rtc::oscillator() const { return core::ticks_at(deps_.clock.now(), kOscillator); }

/// Sets the flags of everything that has happened since they were last looked at, however late that is.
void Rtc::catch_up() {
  const std::uint64_t ticks = oscillator();
  if (const unsigned every = period();
      every && ticks / every != state_.periods_seen / every && ticks > state_.periods_seen)
    state_.reg_c |= kPeriodic;
  state_.periods_seen = ticks;
  if (!running()) return;
  const std::int64_t now = time().seconds;
  if (now > state_.seconds_seen) {
    state_.reg_c |= kUpdate;
    const auto alarm = next_alarm(state_.seconds_seen);
    if (alarm && *alarm <= now) state_.reg_c |= kAlarm;
  }
  // The host's wall clock may be set back; then the seconds until it has caught up are silent.
  state_.seconds_seen = now;
}

/// What IRQF tells, less a wire that the HPET has taken.
bool Rtc::requesting() const { return (state_.reg_b & state_.reg_c & kInterrupts) && !state_.output_disabled; }

void Rtc::set_output_disabled(bool disabled) {
  const mem::DomainGuard guard(deps_.domain);
  if (disabled == state_.output_disabled) return;
  state_.output_disabled = disabled;
  catch_up();
  update();
}

/// Drives the line and arms the timer for the next flag that would raise it.
void Rtc::update() {
  const bool requested = state_.reg_b & state_.reg_c & kInterrupts;
  deps_.interrupt.set(requesting());
  std::optional<core::VmTime> next;
  const auto sooner = [&](core::VmTime when) { next = next ? std::min(*next, when) : when; };
  // A flag that is up already holds the line; the timer is armed again once it has been read.
  if (!requested) {
    if (const unsigned every = period(); every && (state_.reg_b & kPeriodic))
      sooner(core::time_of_tick((state_.periods_seen / every + 1) * every, kOscillator));
    if (running() && (state_.reg_b & (kUpdate | kAlarm))) {
      std::optional<std::int64_t> second;
      if (state_.reg_b & kUpdate)
        second = state_.seconds_seen + 1;
      else
        second = next_alarm(state_.seconds_seen);
      if (second) {
        const Instant now = time();
        // An alarm is at most a day away; looking again each day costs nothing and keeps the arithmetic small.
        const std::int64_t away = std::clamp<std::int64_t>(*second - now.seconds, 0, 86'400);
        const std::int64_t wait = std::max<std::int64_t>(away * kBillion - now.nanoseconds, 0);
        sooner(deps_.clock.now() + static_cast<core::VmTime>(wait));
      }
    }
  }
  if (next)
    timer_->arm(*next);
  else
    timer_->cancel();
}

// ---- registers ----

std::uint8_t Rtc::read_register(unsigned index) {
  switch (index) {
    case kRegA: {
      const bool updating = running() && time().nanoseconds >= kUipStart;
      return static_cast<std::uint8_t>(state_.reg_a | (updating ? kUpdateInProgress : 0));
    }
    case kRegB: return state_.reg_b;
    case kRegC: {
      catch_up();
      const std::uint8_t flags = state_.reg_c;
      const bool requested = flags & state_.reg_b & kInterrupts;
      state_.reg_c = 0;
      update();
      return static_cast<std::uint8_t>(flags | (requested ? kInterruptFlag : 0));
    }
    case kRegD: return kValidRam;
    default: break;
  }
  if (is_clock_byte(index) && !is_alarm_byte(index) && running()) {
    std::array<std::uint8_t, 256> now{};
    bytes_from_time(time().seconds, now);
    return now[index];
  }
  return state_.ram[index];
}

void Rtc::write_register(unsigned index, std::uint8_t value) {
  switch (index) {
    case kRegA: write_reg_a(value); return;
    case kRegB: write_reg_b(value); return;
    case kRegC:
    case kRegD: return;
    default: break;
  }
  if (is_clock_byte(index))
    write_clock_byte(index, value);
  else
    state_.ram[index] = value;
}

void Rtc::write_clock_byte(unsigned index, std::uint8_t value) {
  catch_up();
  if (!running() || is_alarm_byte(index)) {
    state_.ram[index] = value;
  } else {
    const Instant now = time();
    bytes_from_time(now.seconds, state_.ram);
    state_.ram[index] = value;
    set_time({time_from_bytes(state_.ram), now.nanoseconds});
  }
  update();
}

void Rtc::write_reg_a(std::uint8_t value) {
  catch_up();
  const bool was_running = running();
  const bool was_held = (state_.reg_a & 0x70) != 0x20;
  if (was_running && (value & 0x70) != 0x20) freeze();
  state_.reg_a = value & 0x7F;
  if (was_held && (value & 0x70) == 0x20) {
    // The divider starts anew, also if SET holds the time for longer: what is left of the second is then unknown.
    if (running())
      set_time({time_from_bytes(state_.ram), kHalfSecond});
    else
      set_time({time().seconds, kHalfSecond});
  }
  update();
}

void Rtc::write_reg_b(std::uint8_t value) {
  catch_up();
  const bool was_running = running();
  // "SET ... a high clears the UIE bit."
  if (value & kSet) value &= static_cast<std::uint8_t>(~kUpdate);
  if (was_running && (value & kSet)) freeze();
  state_.reg_b = value;
  if (!was_running && running()) set_time({time_from_bytes(state_.ram), time().nanoseconds});
  update();
}

std::uint64_t Rtc::Ports::read(const mem::Access& access) {
  switch (access.offset) {
    case 1: return owner.read_register(owner.state_.index);
    case 2: return owner.state_.upper_index;
    case 3: return owner.state_.ram[128 + (owner.state_.upper_index & 0x7F)];
    default: return 0xFF;  // port 70h is write-only
  }
}

void Rtc::Ports::write(const mem::Access& access, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  switch (access.offset) {
    case 0: {
      owner.state_.index = byte & 0x7F;
      const bool masked = byte & 0x80;
      if (masked != owner.state_.nmi_masked) {
        owner.state_.nmi_masked = masked;
        if (owner.deps_.nmi_mask) owner.deps_.nmi_mask(masked);
      }
      break;
    }
    case 1: owner.write_register(owner.state_.index, byte); break;
    case 2: owner.state_.upper_index = byte; break;
    case 3: owner.state_.ram[128 + (owner.state_.upper_index & 0x7F)] = byte; break;
    default: break;
  }
}

// ---- the board's side ----

void Rtc::set_cmos(std::uint8_t index, std::uint8_t value) {
  if (index > kRegD && index != kCentury) state_.ram[index] = value;
}

void Rtc::set_memory_size(std::uint64_t below_4g, std::uint64_t above_4g) {
  const auto put16 = [&](std::uint8_t at, std::uint64_t value) {
    value = std::min<std::uint64_t>(value, 0xFFFF);
    set_cmos(at, static_cast<std::uint8_t>(value));
    set_cmos(static_cast<std::uint8_t>(at + 1), static_cast<std::uint8_t>(value >> 8));
  };
  constexpr std::uint64_t kMiB = 1 << 20;
  const auto beyond = [&](std::uint64_t start) { return below_4g > start ? below_4g - start : 0; };
  put16(0x15, std::min<std::uint64_t>(below_4g / 1024, 640));
  put16(0x17, beyond(kMiB) / 1024);
  put16(0x30, beyond(kMiB) / 1024);
  put16(0x34, beyond(16 * kMiB) / 65'536);
  const std::uint64_t high = std::min<std::uint64_t>(above_4g / 65'536, 0xFF'FFFF);
  for (unsigned n = 0; n < 3; ++n)
    set_cmos(static_cast<std::uint8_t>(0x5B + n), static_cast<std::uint8_t>(high >> (8 * n)));
}

void Rtc::update_checksum() {
  unsigned sum = 0;
  for (unsigned n = 0x10; n <= 0x2D; ++n) sum += state_.ram[n];
  state_.ram[0x2E] = static_cast<std::uint8_t>(sum >> 8);
  state_.ram[0x2F] = static_cast<std::uint8_t>(sum);
}

Status Rtc::validate(const RtcState& incoming) const {
  const auto within = [](std::int64_t value) { return value >= -kMostOffset && value <= kMostOffset; };
  if (!within(incoming.offset_seconds) || !within(incoming.seconds_seen))
    return fail("saved rtc is {} seconds away from the host's clock", incoming.offset_seconds);
  return {};
}

void Rtc::after_load() {
  deps_.interrupt.restore_level(requesting());
  if (deps_.nmi_mask) deps_.nmi_mask(state_.nmi_masked);
  update();
}

}  // namespace husk::devices
