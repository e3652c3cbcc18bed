// husk: Intel 8254 programmable interval timer, and its wiring in a PC with port 61h
#include "devices/timer/pit8254.h"

#include <algorithm>

#include "base/check.h"

namespace husk::devices {

namespace {

/// Shortest time between two interrupts of counter 0: a guest that programs a count of 2 must not starve the host.
constexpr core::VmTime kShortestPeriod = 20'000;

constexpr std::uint32_t from_bcd(std::uint32_t raw) {
  return (raw >> 12 & 15) * 1000 + (raw >> 8 & 15) * 100 + (raw >> 4 & 15) * 10 + (raw & 15);
}
constexpr std::uint32_t to_bcd(std::uint32_t value) {
  return (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | value % 10;
}

}  // namespace

// ---- one counter ----

void PitCounter::write_control(std::uint8_t value) {
  const bool gate = s_.gate;
  s_ = {};
  s_.gate = gate;
  s_.access = (value >> 4) & 3;
  s_.mode = (value >> 1) & 7;
  if (s_.mode > 5) s_.mode &= 3;  // X10 and X11 are modes 2 and 3
  s_.bcd = value & 1;
}

void PitCounter::rebase(std::uint64_t tick) {
  s_.progress = elapsed(tick);
  if (periodic() && !s_.pending) s_.progress %= s_.count;
  s_.base = std::max(s_.base, tick);
}

/// A count reaches the counting element on the clock after the write or trigger.
void PitCounter::load(std::uint64_t tick, std::uint32_t count) {
  s_.count = count;
  s_.pending = 0;
  s_.progress = 0;
  s_.base = tick + 1;
  s_.loaded = true;
}

/// The number of clocks counted at which a pending count of mode 2 or 3 takes over.
std::uint64_t PitCounter::takeover_point() const {
  const std::uint64_t phase = s_.progress % s_.count;
  const std::uint64_t cycle = s_.progress - phase;
  if (s_.mode == 3 && phase < high_clocks(s_.count)) return cycle + high_clocks(s_.count);
  return cycle + s_.count;
}

void PitCounter::settle(std::uint64_t tick) {
  if (!s_.pending || !periodic() || !s_.loaded) return;
  const std::uint64_t point = takeover_point();
  const std::uint64_t now = elapsed(tick);
  if (now < point) return;
  // Mode 3: "loaded at the end of the current half-cycle": if that was the high one, go on with the low one.
  const bool low_half = s_.mode == 3 && point % s_.count != 0;
  s_.count = s_.pending;
  s_.pending = 0;
  s_.progress = now - point + (low_half ? high_clocks(s_.count) : 0);
  s_.base = std::max(s_.base, tick);
}

void PitCounter::write(std::uint64_t tick, std::uint8_t value) {
  switch (s_.access) {
    case 1: count_written(tick, value); break;
    case 2: count_written(tick, static_cast<std::uint16_t>(value << 8)); break;
    default:
      if (!s_.write_high_next) {
        s_.low_byte = value;
        // Mode 0: "writing the first byte disables counting, OUT is set low immediately".
        if (s_.mode == 0) {
          rebase(tick);
          s_.loaded = false;
        }
      } else {
        count_written(tick, static_cast<std::uint16_t>(value << 8 | s_.low_byte));
      }
      s_.write_high_next = !s_.write_high_next;
      break;
  }
}

void PitCounter::count_written(std::uint64_t tick, std::uint16_t raw) {
  const std::uint32_t count = s_.bcd ? (raw ? from_bcd(raw) : 10'000) : (raw ? raw : 65'536);
  if (triggered()) {
    s_.pending = count;
  } else if (periodic() && s_.loaded) {
    settle(tick);
    rebase(tick);
    s_.pending = count;
  } else {
    load(tick, count);
  }
}

void PitCounter::set_gate(std::uint64_t tick, bool level) {
  if (level == s_.gate) return;
  settle(tick);
  rebase(tick);
  s_.gate = level;
  if (!level) return;
  s_.base = std::max(s_.base, tick);
  if (triggered()) {
    if (s_.pending || s_.loaded) load(tick, s_.pending ? s_.pending : s_.count);
  } else if (periodic() && s_.loaded) {
    load(tick, s_.pending ? s_.pending : s_.count);
  }
}

bool PitCounter::out(std::uint64_t tick) const {
  const std::uint64_t now = elapsed(tick);
  switch (s_.mode) {
    case 0: return s_.loaded && now >= s_.count;
    case 1: return !(s_.loaded && tick >= s_.base && now < s_.count);
    case 2:
    case 3:
      // A count of 1 is illegal in these modes; it leaves OUT high here.
      if (!s_.loaded || !s_.gate || s_.count == 1) return true;
      return now % s_.count < high_clocks(s_.count);
    default: return !(s_.loaded && now == s_.count);  // 4, 5: low for the one clock at zero
  }
}

std::uint16_t PitCounter::value(std::uint64_t tick) const {
  const std::uint64_t now = elapsed(tick);
  const std::uint32_t modulus = s_.bcd ? 10'000 : 65'536;
  std::uint64_t value = 0;
  if (s_.mode == 2) {
    value = s_.count - now % s_.count;
  } else if (s_.mode == 3) {
    // Decremented by two; an odd count is loaded less one, and its high half takes one clock more.
    const std::uint64_t phase = now % s_.count;
    const std::uint32_t high = high_clocks(s_.count);
    value = (s_.count & ~1u) - 2 * (phase < high ? phase : phase - high);
  } else {
    value = s_.count % modulus + modulus - now % modulus;
  }
  value %= modulus;
  return static_cast<std::uint16_t>(s_.bcd ? to_bcd(static_cast<std::uint32_t>(value)) : value);
}

void PitCounter::latch_count(std::uint64_t tick) {
  settle(tick);
  if (!s_.latched_count) s_.latched_count = value(tick);
}

void PitCounter::latch_status(std::uint64_t tick) {
  settle(tick);
  if (s_.latched_status) return;
  const bool null_count = !s_.loaded || s_.pending || tick < s_.base;
  s_.latched_status = static_cast<std::uint8_t>((out(tick) ? 0x80 : 0) | (null_count ? 0x40 : 0) | s_.access << 4 |
                                                s_.mode << 1 | (s_.bcd ? 1 : 0));
}

std::uint8_t PitCounter::read(std::uint64_t tick) {
  // "If both count and status are latched, the first read returns the status."
  if (s_.latched_status) {
    const std::uint8_t status = *s_.latched_status;
    s_.latched_status.reset();
    return status;
  }
  settle(tick);
  const std::uint16_t count = s_.latched_count ? *s_.latched_count : value(tick);
  const bool high = s_.access == 2 || (s_.access == 3 && s_.read_high_next);
  if (s_.access == 3) s_.read_high_next = !s_.read_high_next;
  if (s_.access != 3 || high) s_.latched_count.reset();
  return static_cast<std::uint8_t>(high ? count >> 8 : count);
}

std::optional<PitCounter::Event> PitCounter::next_event(std::uint64_t tick) const {
  if (!counting()) return std::nullopt;
  const std::uint64_t now = elapsed(tick);
  const auto when = [&](std::uint64_t clocks) { return s_.base + (clocks - s_.progress); };
  switch (s_.mode) {
    case 0:
    case 1:
      if (now >= s_.count) return std::nullopt;
      return Event{when(s_.count), true};
    case 2:
    case 3: {
      if (s_.pending) {
        const std::uint64_t point = takeover_point();
        return Event{when(point), point % s_.count == 0 && s_.count > 1};
      }
      if (s_.count == 1) return std::nullopt;
      return Event{when((now / s_.count + 1) * s_.count), true};
    }
    default:
      if (now > s_.count) return std::nullopt;
      return Event{when(std::uint64_t{s_.count} + 1), true};
  }
}

// ---- in a PC ----

Pit::Pit(Deps deps)
    : deps_(std::move(deps)),
      counters_{PitCounter(state_.counters[0]), PitCounter(state_.counters[1]), PitCounter(state_.counters[2])} {
  timer_ = deps_.clock.make_timer([this] {
    const std::uint64_t at = tick();
    deliver_due(at);
    update(at);
    // Edges come no faster than this; the one that is held back is late, and the ones in between are lost.
    if (const auto deadline = timer_->deadline()) timer_->arm(std::max(*deadline, deps_.clock.now() + kShortestPeriod));
  });
  auto counters = deps_.io_space.map(0x40, 4, counter_ports_, {deps_.domain, 1, 0, "pit"});
  auto port61 = deps_.io_space.map(0x61, 1, port61_, {deps_.domain, 1, 0, "port61"});
  HUSK_CHECK(counters && port61);
  mappings_[0] = *std::move(counters);
  mappings_[1] = *std::move(port61);
  reset(core::ResetKind::power_on);
}

void Pit::reset(core::ResetKind) {
  state_ = {};
  state_.counters[2].gate = false;  // port 61h bit 0
  next_.reset();
  update(tick());
}

/// At most one interrupt, however many have become due.
void Pit::deliver_due(std::uint64_t at) {
  if (!next_ || at < next_->tick) return;
  const bool rising = next_->rising;
  next_.reset();
  counters_[0].settle(at);
  if (rising && !state_.output_disabled) {
    deps_.interrupt.set(false);
    deps_.interrupt.set(true);
  }
}

void Pit::update(std::uint64_t at, bool restoring) {
  counters_[0].settle(at);
  next_ = counters_[0].next_event(at);
  const bool level = !state_.output_disabled && counters_[0].out(at);
  if (restoring) {
    deps_.interrupt.restore_level(level);
  } else {
    // In mode 3 the falling edge is not worth a timer of its own: the wire then falls with the next rise.
    deps_.interrupt.set(level);
  }
  if (next_ && !state_.output_disabled)
    timer_->arm(core::time_of_tick(next_->tick, kHertz));
  else
    timer_->cancel();
}

void Pit::set_output_disabled(bool disabled) {
  const mem::DomainGuard guard(deps_.domain);
  if (disabled == state_.output_disabled) return;
  const std::uint64_t at = tick();
  deliver_due(at);
  state_.output_disabled = disabled;
  update(at);
}

bool Pit::speaker() const { return (state_.port61 & 2) && counters_[2].out(tick()); }

void Pit::write_control(std::uint8_t value) {
  const std::uint64_t at = tick();
  const unsigned select = value >> 6;
  if (select == 3) {  // read-back command
    for (unsigned n = 0; n < 3; ++n) {
      if (!(value & (2u << n))) continue;
      if (!(value & 0x20)) counters_[n].latch_count(at);
      if (!(value & 0x10)) counters_[n].latch_status(at);
    }
  } else if ((value & 0x30) == 0) {
    counters_[select].latch_count(at);
  } else {
    counters_[select].write_control(value);
  }
}

std::uint64_t Pit::CounterPorts::read(const mem::Access& access) {
  // The control word register cannot be read: no chip drives the bus.
  if (access.offset == 3) return 0xFF;
  return owner.counters_[access.offset].read(owner.tick());
}

void Pit::CounterPorts::write(const mem::Access& access, std::uint64_t value) {
  const std::uint64_t at = owner.tick();
  owner.deliver_due(at);
  if (access.offset == 3)
    owner.write_control(static_cast<std::uint8_t>(value));
  else
    owner.counters_[access.offset].write(at, static_cast<std::uint8_t>(value));
  owner.update(at);
}

std::uint64_t Pit::Port61::read(const mem::Access&) {
  const std::uint64_t at = owner.tick();
  owner.counters_[2].settle(at);
  // Bit 4 toggles with each DRAM refresh, which counter 1 makes every 18 clocks (15 microseconds) on a PC; software
  // times delays with it, so it runs whatever counter 1 holds.
  const bool refresh = at / 18 % 2 != 0;
  return std::uint64_t{owner.state_.port61} | (refresh ? 0x10u : 0u) | (owner.counters_[2].out(at) ? 0x20u : 0u);
}

void Pit::Port61::write(const mem::Access&, std::uint64_t value) {
  owner.state_.port61 = value & 0x0F;
  owner.counters_[2].set_gate(owner.tick(), value & 1);
}

void Pit::after_load() { update(tick(), true); }

}  // namespace husk::devices
