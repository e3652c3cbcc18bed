// husk: the local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4)
#include <algorithm>
#include <limits>
#include <utility>

#include "devices/intc/local_apic.h"

namespace husk::devices {

namespace {
using Wide = unsigned __int128;
constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t saturate(Wide value) { return value > kNever ? kNever : static_cast<std::uint64_t>(value); }
/// A periodic timer interrupts no more often than this, whatever the guest asks for: it could starve the host's
/// timer thread and would get nothing else done itself.
constexpr core::VmTime kShortestPeriod = 20'000;
}  // namespace

std::uint64_t LocalApic::counts_elapsed() const {
  const core::VmTime now = deps_.clock.now();
  if (now <= state_.timer_start) return 0;
  return saturate((Wide{now - state_.timer_start} * deps_.bus_hertz / core::kNanosecondsPerSecond) >> divide_shift());
}

/// The first time at which `counts` have passed since timer_start.
core::VmTime LocalApic::time_of_count(std::uint64_t counts) const {
  const Wide bus_ticks = Wide{counts} << divide_shift();
  // A count so far off that the product overflows never comes.
  if (bus_ticks >> 96) return kNever;
  const Wide after = (bus_ticks * core::kNanosecondsPerSecond + deps_.bus_hertz - 1) / deps_.bus_hertz;
  return saturate(after + state_.timer_start);
}

std::uint32_t LocalApic::current_count() const {
  const TimerMode mode = timer_mode();
  if (state_.first_count == 0 || mode == TimerMode::tsc_deadline) return 0;
  const std::uint64_t elapsed = counts_elapsed();
  if (elapsed < state_.first_count) return static_cast<std::uint32_t>(state_.first_count - elapsed);
  if (mode != TimerMode::periodic || state_.initial_count == 0) return 0;
  return static_cast<std::uint32_t>(state_.initial_count - (elapsed - state_.first_count) % state_.initial_count);
}

void LocalApic::start_counting(std::uint32_t first) {
  state_.timer_start = deps_.clock.now();
  state_.first_count = first;
  state_.timer_expiry = first;
  arm_timer();
}

void LocalApic::continue_counting_from(std::uint32_t count) { start_counting(count); }

void LocalApic::write_initial_count(std::uint32_t value) {
  const mem::DomainGuard guard(deps_.domain);
  // "In TSC-deadline mode, writes to the initial-count register are ignored."
  if (timer_mode() == TimerMode::tsc_deadline) return;
  state_.initial_count = value;
  start_counting(value);
}

void LocalApic::write_divide(std::uint32_t value) {
  const mem::DomainGuard guard(deps_.domain);
  if (value == state_.divide) return;
  const std::uint32_t count = current_count();
  state_.divide = value;
  if (timer_mode() != TimerMode::tsc_deadline) continue_counting_from(count);
}

void LocalApic::write_timer_lvt(std::uint32_t value) {
  const mem::DomainGuard guard(deps_.domain);
  const TimerMode before = timer_mode();
  const TimerMode after = mode_of(value);
  const std::uint32_t count = current_count();
  lvt(Lvt::timer) = value;
  if (before == after) return;
  if (before == TimerMode::tsc_deadline || after == TimerMode::tsc_deadline) {
    // "A write to the LVT Timer Register that changes the timer mode disarms the local APIC timer."
    state_.initial_count = 0;
    state_.first_count = 0;
    state_.tsc_deadline = 0;
    timer_->cancel();
  } else {
    // Between one-shot and periodic the count goes on from where it is, and stays at 0 if it is there.
    continue_counting_from(count);
  }
}

void LocalApic::write_tsc_deadline(std::uint64_t value) {
  const mem::DomainGuard guard(deps_.domain);
  if (timer_mode() != TimerMode::tsc_deadline) return;
  state_.tsc_deadline = value;
  arm_timer();
}

void LocalApic::tsc_offset_changed(std::uint64_t offset) {
  const mem::DomainGuard guard(deps_.domain);
  if (std::exchange(tsc_offset_, offset) == offset) return;
  if (timer_mode() == TimerMode::tsc_deadline) arm_timer();
}

void LocalApic::arm_timer() {
  switch (timer_mode()) {
    case TimerMode::tsc_deadline: {
      if (state_.tsc_deadline == 0 || !deps_.read_tsc) break;
      const core::VmTime now = deps_.clock.now();
      const std::uint64_t tsc = cpu_tsc();
      if (state_.tsc_deadline <= tsc) {
        timer_->arm(now);
        return;
      }
      const Wide wait =
          (Wide{state_.tsc_deadline - tsc} * core::kNanosecondsPerSecond + deps_.tsc_hertz - 1) / deps_.tsc_hertz;
      timer_->arm(saturate(wait + now));
      return;
    }
    case TimerMode::one_shot:
    case TimerMode::periodic:
      if (state_.first_count == 0) break;
      timer_->arm(time_of_count(state_.timer_expiry));
      return;
    case TimerMode::reserved: break;
  }
  timer_->cancel();
}

void LocalApic::timer_fired() {
  switch (timer_mode()) {
    case TimerMode::tsc_deadline:
      if (state_.tsc_deadline == 0 || !deps_.read_tsc) return;
      if (cpu_tsc() < state_.tsc_deadline) {
        arm_timer();
        return;
      }
      state_.tsc_deadline = 0;
      break;
    case TimerMode::one_shot:
      if (state_.first_count == 0) return;
      if (counts_elapsed() < state_.timer_expiry) {
        arm_timer();
        return;
      }
      state_.first_count = 0;
      break;
    case TimerMode::periodic: {
      if (state_.first_count == 0 || state_.initial_count == 0) return;
      const std::uint64_t elapsed = counts_elapsed();
      if (elapsed < state_.timer_expiry) {
        arm_timer();
        return;
      }
      // One interrupt for however many periods have passed, then the first expiry that lies ahead: never a backlog,
      // and no drift, since every expiry is counted from timer_start.
      const std::uint64_t periods =
          elapsed < state_.first_count ? 0 : (elapsed - state_.first_count) / state_.initial_count;
      state_.timer_expiry = saturate(Wide{state_.first_count} + (Wide{periods} + 1) * state_.initial_count);
      timer_->arm(std::max(time_of_count(state_.timer_expiry), saturate(Wide{deps_.clock.now()} + kShortestPeriod)));
      break;
    }
    case TimerMode::reserved: return;
  }
  raise(Lvt::timer);
}

}  // namespace husk::devices
