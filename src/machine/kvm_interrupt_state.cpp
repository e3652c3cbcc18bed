// husk: the state records of interrupt controllers and timer as KVM's structures, and back
#include "machine/kvm_interrupt_state.h"

#if HUSK_HAVE_KVM

#include <algorithm>
#include <cstring>

#include "base/bits.h"

namespace husk::machine::kvm_state {

using devices::Ioapic;
using devices::IoapicState;
using devices::LocalApicState;
using devices::Pic8259;
using devices::PicPairState;
using devices::PitCounter;
using devices::PitState;

// ---- local APIC ----

namespace {

// Offsets in the register page (SDM vol. 3, table 11-1).
enum : unsigned {
  kId = 0x20,
  kTaskPriority = 0x80,
  kLogicalDestination = 0xD0,
  kDestinationFormat = 0xE0,
  kSpurious = 0xF0,
  kIsr = 0x100,
  kTmr = 0x180,
  kIrr = 0x200,
  kErrorStatus = 0x280,
  kIcrLow = 0x300,
  kIcrHigh = 0x310,
  kLvtTimer = 0x320,
  kInitialCount = 0x380,
  kCurrentCount = 0x390,
  kDivide = 0x3E0,
};
constexpr std::uint32_t kDeliveryStatus = 1u << 12;
constexpr std::uint32_t kIcrWritable = 0x000C'CFFF;
constexpr unsigned kOneShot = 0, kPeriodic = 1, kDeadline = 2;

unsigned timer_mode(const LocalApicState& state) { return (state.lvt[0] >> 17) & 3; }

void put(kvm_lapic_state& page, unsigned offset, std::uint32_t value) {
  std::memcpy(page.regs + offset, &value, sizeof value);
}
std::uint32_t get(const kvm_lapic_state& page, unsigned offset) {
  std::uint32_t value;
  std::memcpy(&value, page.regs + offset, sizeof value);
  return value;
}
void put_vectors(kvm_lapic_state& page, unsigned offset, const std::array<std::uint64_t, 4>& set) {
  for (unsigned n = 0; n < 8; ++n) put(page, offset + n * 16, static_cast<std::uint32_t>(set[n / 2] >> (n % 2 * 32)));
}
std::array<std::uint64_t, 4> get_vectors(const kvm_lapic_state& page, unsigned offset) {
  std::array<std::uint64_t, 4> set{};
  for (unsigned n = 0; n < 8; ++n) set[n / 2] |= std::uint64_t{get(page, offset + n * 16)} << (n % 2 * 32);
  return set;
}

/// What the current-count register shows: both sides count at 1 GHz, before the divider.
std::uint32_t current_count(const LocalApicState& state, core::VmTime now) {
  const unsigned shift = ((state.divide & 3) + ((state.divide >> 1) & 4) + 1) & 7;
  const std::uint64_t elapsed = now > state.timer_start ? (now - state.timer_start) >> shift : 0;
  if (elapsed < state.first_count) return static_cast<std::uint32_t>(state.first_count - elapsed);
  if (timer_mode(state) != kPeriodic || state.initial_count == 0) return 0;
  return static_cast<std::uint32_t>(state.initial_count - (elapsed - state.first_count) % state.initial_count);
}

}  // namespace

kvm_lapic_state to_lapic(const LocalApicState& state, std::uint32_t apic_id, core::VmTime now) {
  kvm_lapic_state page{};
  // KVM api.rst, KVM_SET_LAPIC: without KVM_CAP_X2APIC_API the id is in bits 31 to 24 in both modes.
  put(page, kId, apic_id << 24);
  put(page, kTaskPriority, state.task_priority);
  put(page, kLogicalDestination, state.logical_destination);
  put(page, kDestinationFormat, state.destination_format);
  put(page, kSpurious, state.spurious);
  put_vectors(page, kIsr, state.isr);
  put_vectors(page, kTmr, state.tmr);
  put_vectors(page, kIrr, state.irr);
  put(page, kErrorStatus, state.error_status);
  put(page, kIcrLow, state.icr_low);
  put(page, kIcrHigh, state.icr_high);
  for (unsigned n = 0; n < state.lvt.size(); ++n) put(page, kLvtTimer + n * 16, state.lvt[n]);
  put(page, kDivide, state.divide);
  const unsigned mode = timer_mode(state);
  if (mode == kOneShot || mode == kPeriodic) {
    const bool counts = state.first_count != 0;
    put(page, kInitialCount, counts || mode == kPeriodic ? state.initial_count : 0);
    if (counts) put(page, kCurrentCount, std::max(current_count(state, now), 1u));
  }
  return page;
}

void take_lapic(LocalApicState& state, const kvm_lapic_state& from, core::VmTime now) {
  state.task_priority = get(from, kTaskPriority) & 0xFF;
  // In x2APIC mode the register shows what follows from the id.
  if (!(state.base & devices::LocalApic::kBaseX2apic))
    state.logical_destination = get(from, kLogicalDestination) & 0xFF00'0000;
  state.destination_format = get(from, kDestinationFormat) | 0x0FFF'FFFF;
  state.spurious = get(from, kSpurious) & 0x13FF;
  state.isr = get_vectors(from, kIsr);
  state.tmr = get_vectors(from, kTmr);
  state.irr = get_vectors(from, kIrr);
  // KVM takes the illegal vectors 0 to 15, which the processor refuses.
  state.irr[0] &= ~std::uint64_t{0xFFFF};
  state.isr[0] &= ~std::uint64_t{0xFFFF};
  state.error_status = get(from, kErrorStatus) & 0xFF;
  state.icr_low = get(from, kIcrLow) & kIcrWritable;
  state.icr_high = get(from, kIcrHigh);
  for (unsigned n = 0; n < state.lvt.size(); ++n)
    state.lvt[n] = get(from, kLvtTimer + n * 16) & 0x7FFFF & ~kDeliveryStatus;
  state.divide = get(from, kDivide) & 0xB;
  state.timer_start = 0, state.first_count = 0, state.timer_expiry = 0;
  const unsigned mode = timer_mode(state);
  state.initial_count = mode == kDeadline ? 0 : get(from, kInitialCount);
  if (state.initial_count == 0 || mode > kPeriodic) return;
  const std::uint32_t count = std::min(get(from, kCurrentCount), state.initial_count);
  state.first_count = count ? count : mode == kPeriodic ? state.initial_count : 1;
  state.timer_start = now;
  state.timer_expiry = state.first_count;
}

// ---- I/O APIC ----

namespace {
constexpr std::uint64_t kRemoteIrr = 1u << 14, kLevel = 1u << 15;
/// Writable by software, and remote IRR (82093AA, 3.2.4).
constexpr std::uint64_t kEntry = 0xFF00'0000'0001'EFFF;
bool is_level(std::uint64_t entry) { return (entry & kLevel) && bits(entry, 8, 3) <= 1; }
}  // namespace

kvm_ioapic_state to_ioapic(const IoapicState& state) {
  kvm_ioapic_state to{};
  to.base_address = Ioapic::kDefaultBase;
  to.ioregsel = state.index;
  to.id = state.id;
  for (unsigned pin = 0; pin < devices::kIoapicPins; ++pin) {
    to.redirtbl[pin].bits = state.redirection[pin];
    // An edge that KVM is told of again would be a second interrupt.
    if (is_level(state.redirection[pin])) to.irr |= state.pins & (1u << pin);
  }
  return to;
}

void take_ioapic(IoapicState& state, const kvm_ioapic_state& from) {
  state.index = static_cast<std::uint8_t>(from.ioregsel);
  state.id = from.id & 0xF;
  for (unsigned pin = 0; pin < devices::kIoapicPins; ++pin) {
    std::uint64_t entry = from.redirtbl[pin].bits & kEntry;
    if (!is_level(entry)) entry &= ~kRemoteIrr;
    state.redirection[pin] = entry;
  }
}

// ---- 8259 ----

namespace {
constexpr std::uint8_t kCascade = 1 << 2;
// 82371SB 2.2.3: which inputs can be level-triggered.
constexpr std::uint8_t kMasterLevels = 0xF8, kSlaveLevels = 0xDE;
bool output(Pic8259::State state, bool master) { return Pic8259(state, master ? kCascade : 0, false).interrupt(); }
}  // namespace

kvm_pic_state to_pic(const Pic8259::State& state, bool master) {
  kvm_pic_state to{};
  // KVM pulses the cascade whenever the slave requests, so that its level is never seen.
  to.last_irr = master ? state.pins & static_cast<std::uint8_t>(~kCascade) : state.pins;
  to.irr = state.irr;
  to.imr = state.imr;
  to.isr = state.isr;
  to.priority_add = static_cast<std::uint8_t>((state.lowest_priority + 1) & 7);
  to.irq_base = state.vector_base;
  to.read_reg_select = state.read_isr;
  to.poll = state.poll;
  to.special_mask = state.special_mask;
  to.init_state = static_cast<std::uint8_t>(state.init_step ? state.init_step - 1 : 0);
  to.auto_eoi = state.auto_eoi;
  to.rotate_on_auto_eoi = state.rotate_on_auto_eoi;
  to.special_fully_nested_mode = state.special_fully_nested;
  to.init4 = state.icw4_needed;
  to.elcr = state.level_inputs;
  to.elcr_mask = master ? kMasterLevels : kSlaveLevels;
  return to;
}

void take_pic(Pic8259::State& state, const kvm_pic_state& from, bool master) {
  state.pins = from.last_irr;
  state.irr = from.irr;
  state.imr = from.imr;
  state.isr = from.isr;
  state.lowest_priority = static_cast<std::uint8_t>((from.priority_add + 7) & 7);
  state.vector_base = from.irq_base & 0xF8;
  state.read_isr = from.read_reg_select;
  state.poll = from.poll;
  state.special_mask = from.special_mask;
  state.init_step = static_cast<std::uint8_t>(from.init_state && from.init_state <= 3 ? from.init_state + 1 : 0);
  state.auto_eoi = from.auto_eoi;
  state.rotate_on_auto_eoi = from.rotate_on_auto_eoi;
  state.special_fully_nested = from.special_fully_nested_mode;
  state.icw4_needed = from.init4;
  state.level_inputs = from.elcr & (master ? kMasterLevels : kSlaveLevels);
  // KVM does not keep what ICW3 said, and works as a PC is wired.
  if (state.vector_base != 0 && state.icw3 == 0) state.icw3 = master ? kCascade : 2;
}

void take_pics(PicPairState& state, const kvm_pic_state& master, const kvm_pic_state& slave) {
  take_pic(state.slave, slave, false);
  take_pic(state.master, master, true);
  const bool request = output(state.slave, false);
  for (std::uint8_t* reg : {&state.master.pins, &state.master.irr})
    *reg = static_cast<std::uint8_t>(request ? *reg | kCascade : *reg & ~kCascade);
}

bool pic_output(const PicPairState& state) { return output(state.master, true); }

// ---- 8254 ----

namespace {
/// KVM's counters after reset, which none of the 8254's six modes is (arch/x86/kvm/i8254.c).
constexpr std::uint8_t kNoMode = 0xFF;
constexpr std::uint32_t kWholeCount = 0x10000;
/// read_state and write_state: the second byte of two comes next.
constexpr std::uint8_t kSecondByte = 4;

kvm_pit_channel_state to_channel(const PitCounter::State& state, std::uint64_t now) {
  kvm_pit_channel_state to{};
  const bool untouched =
      !state.loaded && !state.pending && !state.write_high_next && state.mode == 0 && state.access == 3 && !state.bcd;
  to.mode = untouched ? kNoMode : state.mode;
  to.rw_mode = untouched ? 0 : state.access;
  to.bcd = state.bcd;
  to.gate = state.gate;
  // A count that waits for the end of a cycle is in use at once: KVM knows no other.
  to.count = state.pending ? state.pending : state.loaded ? state.count : kWholeCount;
  const bool two_bytes = state.access == 3;
  to.read_state = two_bytes && state.read_high_next && !state.latched_count ? kSecondByte : to.rw_mode;
  to.write_state = two_bytes && state.write_high_next ? kSecondByte : to.rw_mode;
  to.write_latch = state.low_byte;
  if (state.latched_count) {
    to.latched_count = *state.latched_count;
    to.count_latched = two_bytes && state.read_high_next ? std::uint8_t{2} : state.access;
  }
  if (state.latched_status) {
    to.status_latched = 1;
    to.status = *state.latched_status;
  }
  if (state.loaded && !state.pending) {
    const bool counting = state.gate || state.mode == 1 || state.mode == 5;
    const std::uint64_t elapsed = state.progress + (counting && now > state.base ? now - state.base : 0);
    to.count_load_time = static_cast<std::int64_t>(
        core::time_of_tick(std::min(elapsed, PitCounter::State::kMaxTick >> 16), devices::Pit::kHertz));
  }
  return to;
}

void take_channel(PitCounter::State& state, const kvm_pit_channel_state& from, std::uint64_t now) {
  const bool gate = from.gate;
  state = {};
  state.gate = gate;
  if (from.mode > 5) return;
  state.mode = from.mode;
  state.access = std::clamp<std::uint8_t>(from.rw_mode, 1, 3);
  state.bcd = from.bcd;
  state.loaded = true;
  state.count = std::clamp<std::uint32_t>(from.count, 1, kWholeCount);
  std::uint64_t elapsed =
      core::ticks_at(static_cast<core::VmTime>(std::max<std::int64_t>(from.count_load_time, 0)), devices::Pit::kHertz);
  if (state.mode == 2 || state.mode == 3) elapsed %= state.count;
  state.base = std::min(now, PitCounter::State::kMaxTick);
  state.progress = std::min(elapsed, PitCounter::State::kMaxTick);
  const bool two_bytes = state.access == 3;
  state.write_high_next = two_bytes && from.write_state == kSecondByte;
  state.low_byte = from.write_latch;
  if (from.count_latched) state.latched_count = from.latched_count;
  state.read_high_next = two_bytes && (from.count_latched ? from.count_latched == 2 : from.read_state == kSecondByte);
  if (from.status_latched) state.latched_status = from.status;
}
}  // namespace

kvm_pit_state2 to_pit(const PitState& state, std::uint64_t now) {
  kvm_pit_state2 to{};
  for (unsigned n = 0; n < 3; ++n) to.channels[n] = to_channel(state.counters[n], now);
  if (state.output_disabled) to.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
  if (state.port61 & 2) to.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  return to;
}

void take_pit(PitState& state, const kvm_pit_state2& from, std::uint64_t now) {
  for (unsigned n = 0; n < 3; ++n) take_channel(state.counters[n], from.channels[n], now);
  state.output_disabled = from.flags & KVM_PIT_FLAGS_HPET_LEGACY;
  const bool speaker = from.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  // Bits 3 and 2 are nobody's but the record's: KVM's port 61h does not have them.
  state.port61 = static_cast<std::uint8_t>((state.port61 & 0xC) | (speaker ? 2 : 0) | (from.channels[2].gate ? 1 : 0));
}

}  // namespace husk::machine::kvm_state

#endif
