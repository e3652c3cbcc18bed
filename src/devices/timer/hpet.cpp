// husk: high precision event timer (IA-PC HPET specification 1.0a)
#include "devices/timer/hpet.h"

#include <algorithm>
#include <limits>

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices {

namespace {

// Register offsets (2.3.2).
constexpr std::uint64_t kCapabilities = 0x000;
constexpr std::uint64_t kConfig = 0x010;
constexpr std::uint64_t kStatus = 0x020;
constexpr std::uint64_t kCounter = 0x0F0;
constexpr std::uint64_t kTimers = 0x100;
constexpr std::uint64_t kTimerStride = 0x20;

// Tn_CONF (2.3.8).
constexpr std::uint64_t kLevel = 1u << 1;
constexpr std::uint64_t kInterruptEnable = 1u << 2;
constexpr std::uint64_t kPeriodic = 1u << 3;
constexpr std::uint64_t kPeriodicCapable = 1u << 4;
constexpr std::uint64_t kSizeCapable = 1u << 5;
constexpr std::uint64_t kSetAccumulator = 1u << 6;
constexpr std::uint64_t k32BitMode = 1u << 8;
constexpr std::uint64_t kRoute = 0x1Fu << 9;
constexpr std::uint64_t kFsbEnable = 1u << 14;
constexpr std::uint64_t kFsbCapable = 1u << 15;
constexpr std::uint64_t kStored = kLevel | kInterruptEnable | kPeriodic | k32BitMode | kRoute | kFsbEnable;

/// Shortest time between two wake-ups for periodic timers: a period of 10 ns must not starve the host.
constexpr core::VmTime kShortestPeriod = 20'000;
constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

unsigned route_of(std::uint64_t config) { return static_cast<unsigned>(bits(config, 9, 5)); }
std::uint64_t width_mask(const HpetTimerState& timer) {
  return timer.config & k32BitMode ? 0xFFFF'FFFFu : ~std::uint64_t{0};
}

}  // namespace

Hpet::Hpet(Deps deps) : deps_(std::move(deps)) {
  HUSK_CHECK(deps_.timers >= 3 && deps_.timers <= kHpetMostTimers);
  if (deps_.routes.size() < 32) deps_.routes.resize(32);
  timer_ = deps_.clock.make_timer([this] {
    catch_up();
    arm(true);
  });
  auto mapping = deps_.memory_space.map(deps_.base, 0x400, registers_, {deps_.domain, 8, 0, "hpet"});
  HUSK_CHECK(mapping);
  mapping_ = *std::move(mapping);
}

void Hpet::reset(core::ResetKind) {
  const bool was_legacy = legacy();
  state_ = {};
  timer_->cancel();
  update_lines();
  if (was_legacy && deps_.legacy_replacement) deps_.legacy_replacement(false);
}

std::uint32_t Hpet::block_id() const {
  // Revision 1, 64-bit counter, legacy replacement capable, vendor Intel.
  return 0x8086'0000u | 1u << 15 | 1u << 13 | (deps_.timers - 1) << 8 | 0x01;
}

// ---- time ----

/// Counts from the main counter to the next match; kNever if there is none to come.
std::uint64_t Hpet::distance(const HpetTimerState& timer) const {
  const std::uint64_t mask = width_mask(timer);
  const std::uint64_t away = (timer.comparator - state_.counter) & mask;
  // Equal already: the match is over, and the next one comes when the counter has gone round.
  if (away == 0) return mask == ~std::uint64_t{0} ? kNever : mask + 1;
  return away;
}

/// Moves the counter to the present and deals with every match on the way: at most one interrupt a timer.
void Hpet::catch_up() {
  const std::uint64_t tick = core::ticks_at(deps_.clock.now(), kHertz);
  if (!enabled() || tick <= state_.counter_tick) return;
  const std::uint64_t passed = tick - state_.counter_tick;
  std::uint32_t matched = 0;
  for (unsigned n = 0; n < deps_.timers; ++n) {
    HpetTimerState& timer = state_.timers[n];
    const std::uint64_t away = distance(timer);
    if (away == kNever || away > passed) continue;
    matched |= 1u << n;
    const std::uint64_t period = timer.period & width_mask(timer);
    if ((timer.config & kPeriodic) && period != 0)
      timer.comparator = (timer.comparator + ((passed - away) / period + 1) * period) & width_mask(timer);
  }
  state_.counter += passed;
  state_.counter_tick = tick;
  for (unsigned n = 0; n < deps_.timers; ++n)
    if (bit(matched, n)) fire(n);
}

/// For the next match that interrupts. `after_firing`: a periodic timer with a tiny period has to wait for a while.
void Hpet::arm(bool after_firing) {
  std::optional<core::VmTime> next;
  for (unsigned n = 0; n < deps_.timers && enabled(); ++n) {
    const HpetTimerState& timer = state_.timers[n];
    // A timer without interrupt only sets its status bit, which is seen to when someone looks.
    if (!(timer.config & kInterruptEnable)) continue;
    const std::uint64_t away = distance(timer);
    // Beyond about 90 years VM time itself would overflow.
    if (away > std::uint64_t{1} << 58) continue;
    core::VmTime when = core::time_of_tick(state_.counter_tick + away, kHertz);
    if (after_firing && (timer.config & kPeriodic)) when = std::max(when, deps_.clock.now() + kShortestPeriod);
    next = next ? std::min(*next, when) : when;
  }
  if (next)
    timer_->arm(*next);
  else
    timer_->cancel();
}

// ---- interrupts ----

core::InterruptLine* Hpet::line_of(unsigned n) {
  if (legacy() && n == 0) return &deps_.irq0;
  if (legacy() && n == 1) return &deps_.irq8;
  const unsigned route = route_of(state_.timers[n].config);
  return bit(deps_.route_mask, route) ? &deps_.routes[route] : nullptr;
}

void Hpet::fire(unsigned n) {
  const HpetTimerState& timer = state_.timers[n];
  if (timer.config & kLevel) state_.status |= 1u << n;
  if (!(timer.config & kInterruptEnable)) return;
  if (timer.config & kFsbEnable) {
    deps_.msi.send(deps_.requester_id, {timer.fsb >> 32, static_cast<std::uint32_t>(timer.fsb)});
  } else if (timer.config & kLevel) {
    update_lines();
  } else if (core::InterruptLine* line = line_of(n); line && !line->level()) {
    line->pulse();
  }
}

/// Level-triggered timers hold their line as long as their status bit is set; several may share one.
void Hpet::update_lines(bool restoring) {
  std::uint64_t raised = 0;  // bits 0..31 routes, 32 irq0, 33 irq8
  for (unsigned n = 0; n < deps_.timers; ++n) {
    const std::uint64_t config = state_.timers[n].config;
    if (!enabled() || !bit(state_.status, n) || !(config & kLevel) || !(config & kInterruptEnable) ||
        (config & kFsbEnable))
      continue;
    raised |= std::uint64_t{1} << (legacy() && n < 2 ? 32 + n : route_of(config));
  }
  const auto drive = [&](core::InterruptLine& line, bool level) {
    if (restoring)
      line.restore_level(level);
    else
      line.set(level);
  };
  for (unsigned route = 0; route < 32; ++route)
    if (bit(deps_.route_mask, route)) drive(deps_.routes[route], bit(raised, route));
  drive(deps_.irq0, bit(raised, 32));
  drive(deps_.irq8, bit(raised, 33));
}

// ---- registers ----

std::uint64_t Hpet::read_register(std::uint64_t offset) const {
  switch (offset) {
    case kCapabilities: return kPeriodFemtoseconds << 32 | block_id();
    case kConfig: return state_.config;
    case kStatus: return state_.status;
    case kCounter: return state_.counter;
    default: break;
  }
  const unsigned n = static_cast<unsigned>((offset - kTimers) / kTimerStride);
  if (offset < kTimers || n >= deps_.timers) return 0;
  const HpetTimerState& timer = state_.timers[n];
  switch ((offset - kTimers) % kTimerStride) {
    case 0x00:
      return std::uint64_t{deps_.route_mask} << 32 | timer.config | kPeriodicCapable | kSizeCapable | kFsbCapable;
    case 0x08: return timer.comparator;
    case 0x10: return timer.fsb;
    default: return 0;
  }
}

void Hpet::write_config(std::uint64_t value) {
  const std::uint64_t changed = (state_.config ^ value) & 3;
  state_.config = value & 3;
  // The counter stands or goes on from where it stood.
  if (changed & 1) state_.counter_tick = core::ticks_at(deps_.clock.now(), kHertz);
  if ((changed & 2) && deps_.legacy_replacement) deps_.legacy_replacement(legacy());
}

void Hpet::write_timer_config(unsigned n, std::uint64_t value) {
  HpetTimerState& timer = state_.timers[n];
  std::uint64_t config = value & kStored;
  // "If a value is not supported, the value read back will not match": keep the route there was.
  if (!bit(deps_.route_mask, route_of(config))) config = (config & ~kRoute) | (timer.config & kRoute);
  timer.config = config;
  timer.set_accumulator = (value & kSetAccumulator) && (config & kPeriodic);
  timer.comparator &= width_mask(timer);
  timer.period &= width_mask(timer);
  if (!(config & kLevel)) state_.status &= ~(1u << n);
}

/// `written` has the bits of `value` that the access covered.
void Hpet::write_comparator(unsigned n, std::uint64_t value, std::uint64_t written) {
  HpetTimerState& timer = state_.timers[n];
  const auto merge = [&](std::uint64_t old) { return ((old & ~written) | (value & written)) & width_mask(timer); };
  if (!(timer.config & kPeriodic)) {
    timer.comparator = merge(timer.comparator);
    timer.period = timer.comparator;
    return;
  }
  // 2.3.9.2.2: with VAL_SET the accumulator is written, too; else only the period is.
  if (timer.set_accumulator) timer.comparator = merge(timer.comparator);
  timer.period = merge(timer.period);
  timer.set_accumulator = false;
}

void Hpet::write_register(std::uint64_t offset, std::uint64_t value, std::uint64_t written) {
  const std::uint64_t merged = (read_register(offset) & ~written) | (value & written);
  switch (offset) {
    case kConfig: write_config(merged); return;
    case kStatus: state_.status &= ~static_cast<std::uint32_t>(value & written); return;
    case kCounter:
      // "Writes to this register should only be done while the counter is halted."
      if (!enabled()) state_.counter = merged;
      return;
    default: break;
  }
  const unsigned n = static_cast<unsigned>((offset - kTimers) / kTimerStride);
  if (offset < kTimers || n >= deps_.timers) return;
  switch ((offset - kTimers) % kTimerStride) {
    case 0x00:
      if (written & 0xFFFF'FFFF) write_timer_config(n, merged);
      break;
    case 0x08: write_comparator(n, value, written); break;
    case 0x10: state_.timers[n].fsb = merged; break;
    default: break;
  }
}

// 2.3.2: accesses are of 4 or 8 bytes, aligned. Narrower reads are answered all the same, other writes are dropped.
std::uint64_t Hpet::Registers::read(const mem::Access& access) {
  if (access.offset % 8 + access.size > 8) return 0;
  owner.catch_up();
  return owner.read_register(align_down(access.offset, 8)) >> (access.offset % 8 * 8);
}

void Hpet::Registers::write(const mem::Access& access, std::uint64_t value) {
  if (access.size < 4 || access.offset % access.size != 0) return;
  const auto shift = static_cast<unsigned>(access.offset % 8 * 8);
  owner.catch_up();
  owner.write_register(align_down(access.offset, 8), value << shift, mask_of(access.size * 8u, shift));
  owner.update_lines();
  owner.arm(false);
}

// ---- state ----

Status Hpet::validate(const HpetState& incoming) const {
  for (unsigned n = 0; n < kHpetMostTimers; ++n) {
    const HpetTimerState& timer = incoming.timers[n];
    if (timer.config & ~kStored) return fail("saved hpet has reserved bits in timer {}: {:#x}", n, timer.config);
    if ((timer.comparator | timer.period) & ~width_mask(timer))
      return fail("saved hpet has a comparator beyond 32 bits in the 32-bit timer {}", n);
    if (n >= deps_.timers && bit(incoming.status, n)) return fail("saved hpet has more than {} timers", deps_.timers);
  }
  return {};
}

void Hpet::after_load() {
  update_lines(true);
  if (deps_.legacy_replacement) deps_.legacy_replacement(legacy());
  arm(false);
}

}  // namespace husk::devices
