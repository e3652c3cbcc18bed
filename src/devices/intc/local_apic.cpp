// husk: the local APIC of one CPU: registers, delivery and priorities
#include "devices/intc/local_apic.h"

#include <bit>

#include "base/check.h"

namespace husk::devices {

namespace {

// Register numbers: offset in the page / 16, and MSR - 800h.
enum : unsigned {
  kId = 0x02,
  kVersion = 0x03,
  kTaskPriority = 0x08,
  kArbitrationPriority = 0x09,
  kProcessorPriority = 0x0A,
  kEoi = 0x0B,
  kRemoteRead = 0x0C,
  kLogicalDestination = 0x0D,
  kDestinationFormat = 0x0E,
  kSpurious = 0x0F,
  kIsr = 0x10,
  kTmr = 0x18,
  kIrr = 0x20,
  kErrorStatus = 0x28,
  kIcrLow = 0x30,
  kIcrHigh = 0x31,
  kLvtFirst = 0x32,
  kLvtLast = 0x37,
  kInitialCount = 0x38,
  kCurrentCount = 0x39,
  kDivide = 0x3E,
  kSelfIpi = 0x3F,
};

constexpr std::uint32_t kMsrX2apic = 0x800;
constexpr std::uint32_t kMsrTscDeadline = 0x6E0;

// Integrated APIC (1Xh), 6 LVT entries, EOI-broadcast suppression (SDM vol. 3, 11.4.8).
constexpr std::uint32_t kVersionValue = 0x14 | (5u << 16) | (1u << 24);

constexpr std::uint32_t kLvtVector = 0xFF;
constexpr std::uint32_t kLvtDeliveryMode = 7u << 8;
constexpr std::uint32_t kLvtPolarity = 1u << 13;
constexpr std::uint32_t kLvtRemoteIrr = 1u << 14;
constexpr std::uint32_t kLvtLevel = 1u << 15;
constexpr std::uint32_t kLvtMasked = 1u << 16;
constexpr std::uint32_t kLvtTimerMode = 3u << 17;

// ESR (SDM vol. 3, figure 11-9).
constexpr std::uint32_t kErrorSendVector = 1u << 5;
constexpr std::uint32_t kErrorReceiveVector = 1u << 6;
constexpr std::uint32_t kErrorRegister = 1u << 7;

constexpr std::uint32_t kIcrWritable = 0x000C'CFFF;

DeliveryMode mode_of_entry(std::uint32_t lvt) { return static_cast<DeliveryMode>((lvt >> 8) & 7); }

/// The bits that an entry of the local vector table has.
std::uint32_t lvt_bits(Lvt entry, bool tsc_deadline) {
  constexpr std::uint32_t kAll = kLvtVector | kLvtMasked;
  switch (entry) {
    case Lvt::timer: return kAll | (tsc_deadline ? kLvtTimerMode : 1u << 17);
    case Lvt::thermal:
    case Lvt::performance: return kAll | kLvtDeliveryMode;
    case Lvt::lint0:
    case Lvt::lint1: return kAll | kLvtDeliveryMode | kLvtPolarity | kLvtLevel;
    case Lvt::error: return kAll;
  }
  return kAll;
}

}  // namespace

LocalApicState local_apic_reset_state(bool bootstrap) {
  LocalApicState state;
  state.base = LocalApic::kDefaultBase | LocalApic::kBaseEnable | (bootstrap ? LocalApic::kBaseBsp : 0);
  state.lvt.fill(kLvtMasked);
  return state;
}

Status check_local_apic(const LocalApicState& incoming, const LocalApicLimits& limits, std::string_view name) {
  using A = LocalApic;
  const std::uint64_t writable = A::kBaseBsp | A::kBaseEnable | (limits.x2apic ? A::kBaseX2apic : 0) |
                                 (mask_of(limits.physical_bits) & ~mask_of(12));
  if ((incoming.base & ~writable) || ((incoming.base & A::kBaseX2apic) && !(incoming.base & A::kBaseEnable)))
    return fail("saved {} has the impossible APIC base {:#x}", name, incoming.base);
  if ((incoming.irr[0] | incoming.isr[0]) & 0xFFFF)
    return fail("saved {} has one of the illegal vectors 0 to 15 pending", name);
  for (unsigned n = 0; n < incoming.lvt.size(); ++n)
    if (incoming.lvt[n] & ~(lvt_bits(static_cast<Lvt>(n), limits.tsc_deadline) | kLvtRemoteIrr))
      return fail("saved {} has reserved bits set in LVT entry {}: {:#x}", name, n, incoming.lvt[n]);
  if (incoming.first_count && !incoming.initial_count)
    return fail("saved {} has a running timer with an initial count of 0", name);
  if (incoming.divide & ~0xBu || incoming.icr_low & ~kIcrWritable || (incoming.logical_destination & 0x00FF'FFFF) ||
      (incoming.destination_format & 0x0FFF'FFFF) != 0x0FFF'FFFF || incoming.spurious & ~0x13FFu)
    return fail("saved {} has reserved register bits set", name);
  if (!limits.tsc_deadline && incoming.tsc_deadline)
    return fail("saved {} uses TSC-deadline mode, which this machine lacks", name);
  return {};
}

int LocalApic::VectorSet::highest() const {
  for (int n = 3; n >= 0; --n)
    if (const std::uint64_t word = words_[static_cast<unsigned>(n)].load()) return n * 64 + 63 - std::countl_zero(word);
  return -1;
}

std::array<std::uint64_t, 4> LocalApic::VectorSet::get() const {
  return {words_[0].load(), words_[1].load(), words_[2].load(), words_[3].load()};
}

void LocalApic::VectorSet::put(const std::array<std::uint64_t, 4>& words) {
  for (unsigned n = 0; n < 4; ++n) words_[n].store(words[n]);
}

LocalApic::LocalApic(Deps deps) : deps_(std::move(deps)), state_id_(fmt::format("lapic{}", deps_.index)) {
  // Rates beyond 1 THz would overflow the arithmetic of the timer.
  HUSK_CHECK(deps_.bus_hertz > 0 && deps_.bus_hertz <= 1'000'000'000'000);
  HUSK_CHECK(!deps_.read_tsc || (deps_.tsc_hertz > 0 && deps_.tsc_hertz <= 1'000'000'000'000));
  timer_ = deps_.clock.make_timer([this] { timer_fired(); });
  base_ = reset_base();
  reset_registers();
  deps_.bus.attach(*this);
}

LocalApic::~LocalApic() { deps_.bus.detach(*this); }

void LocalApic::reset(core::ResetKind) {
  base_ = reset_base();
  reset_registers();
  if (deps_.base_changed) deps_.base_changed();
}

// SDM vol. 3, 11.4.7.1. The levels of LINT0 and LINT1 are the wires' own.
void LocalApic::reset_registers() {
  const mem::DomainGuard guard(deps_.domain);
  task_priority_ = 0;
  logical_destination_ = 0;
  destination_format_ = 0xFFFF'FFFF;
  spurious_ = 0xFF;
  error_pending_ = 0;
  error_armed_ = true;
  for (auto& entry : lvt_) entry = kLvtMasked;
  irr_.put({});
  isr_.put({});
  tmr_.put({});
  ext_int_ = false;
  state_ = {};
  timer_->cancel();
}

void LocalApic::cpu_init() { reset_registers(); }

// ---- what the CPU asks ----

unsigned LocalApic::processor_priority() const {
  const unsigned task = task_priority_.load();
  const int serving = isr_.highest();
  const unsigned service = serving < 0 ? 0u : static_cast<unsigned>(serving) & 0xF0;
  return (task & 0xF0) >= service ? task : service;
}

bool LocalApic::ext_int_ready() const {
  if (!deps_.ext_int_acknowledge) return false;
  // Without the local APIC, LINT0 is the CPU's INTR pin (SDM vol. 3, 11.4.3).
  if (!enabled()) return lint_[0].load();
  if (ext_int_.load()) return true;
  const std::uint32_t entry = lvt(Lvt::lint0).load();
  return lint_[0].load() && !(entry & kLvtMasked) && mode_of_entry(entry) == DeliveryMode::ext_int;
}

bool LocalApic::pending() {
  if (ext_int_ready()) return true;
  if (!enabled()) return false;
  const int request = irr_.highest();
  return request >= 0 && static_cast<unsigned>(request) >> 4 > processor_priority() >> 4;
}

std::optional<std::uint8_t> LocalApic::acknowledge() {
  // ExtINT is outside the priority scheme: the CPU fetches the vector from the 8259 itself.
  if (ext_int_ready()) {
    ext_int_ = false;
    return deps_.ext_int_acknowledge();
  }
  if (!enabled()) return std::nullopt;
  const int request = irr_.highest();
  if (request < 0 || static_cast<unsigned>(request) >> 4 <= processor_priority() >> 4) return std::nullopt;
  const auto vector = static_cast<std::uint8_t>(request);
  isr_.set(vector);
  irr_.clear(vector);
  return vector;
}

void LocalApic::announce_if_pending() {
  if (pending()) deps_.pins.interrupt_changed();
}

void LocalApic::set_task_priority(std::uint8_t priority_class) {
  task_priority_ = static_cast<std::uint32_t>(priority_class & 0xF) << 4;
  announce_if_pending();
}

// SDM vol. 3, 11.12.5, figure 11-27: the only ways between disabled, xAPIC and x2APIC.
bool LocalApic::set_apic_base(std::uint64_t value) {
  const std::uint64_t writable =
      kBaseBsp | kBaseEnable | (deps_.x2apic ? kBaseX2apic : 0) | (mask_of(deps_.physical_bits) & ~mask_of(12));
  if (value & ~writable) return false;
  const std::uint64_t old = base_.load();
  const bool was_enabled = old & kBaseEnable;
  const bool was_x2apic = old & kBaseX2apic;
  const bool enable = value & kBaseEnable;
  const bool x2apic = value & kBaseX2apic;
  if (x2apic && !enable) return false;
  if (x2apic && !was_enabled) return false;
  if (was_x2apic && enable && !x2apic) return false;
  if (was_enabled && !enable) reset_registers();
  base_ = value;
  if (old != value && deps_.base_changed) deps_.base_changed();
  announce_if_pending();
  return true;
}

std::optional<std::uint64_t> LocalApic::read_msr(std::uint32_t index) {
  if (index == kMsrTscDeadline) {
    if (!deps_.read_tsc) return std::nullopt;
    const mem::DomainGuard guard(deps_.domain);
    return state_.tsc_deadline;
  }
  if (index < kMsrX2apic || index > kMsrX2apic + 0xFF || !x2apic_mode()) return std::nullopt;
  const unsigned number = index - kMsrX2apic;
  switch (number) {
    case kArbitrationPriority:
    case kRemoteRead:
    case kDestinationFormat:
    case kIcrHigh:
    case kEoi:
    case kSelfIpi: return std::nullopt;
    case kIcrLow: return (std::uint64_t{state_.icr_high} << 32) | state_.icr_low;
    default: break;
  }
  return read_register(number);
}

bool LocalApic::write_msr(std::uint32_t index, std::uint64_t value) {
  if (index == kMsrTscDeadline) {
    if (!deps_.read_tsc) return false;
    write_tsc_deadline(value);
    return true;
  }
  if (index < kMsrX2apic || index > kMsrX2apic + 0xFF || !x2apic_mode()) return false;
  const unsigned number = index - kMsrX2apic;
  if (!reserved_bits_clear(number, value)) return false;
  if (number == kIcrLow) {
    state_.icr_high = static_cast<std::uint32_t>(value >> 32);
    state_.icr_low = static_cast<std::uint32_t>(value) & kIcrWritable;
    send_ipi(state_.icr_low, state_.icr_high);
    return true;
  }
  if (number == kSelfIpi) {
    send_self(static_cast<std::uint8_t>(value));
    return true;
  }
  return write_register(number, static_cast<std::uint32_t>(value));
}

/// Table 11-6: which MSRs can be written in x2APIC mode, and that reserved bits take #GP.
bool LocalApic::reserved_bits_clear(unsigned number, std::uint64_t value) const {
  switch (number) {
    case kTaskPriority:
    case kSelfIpi: return value <= 0xFF;
    case kEoi:
    case kErrorStatus: return value == 0;
    case kSpurious: return !(value & ~std::uint64_t{0x13FF});
    // Bit 12, delivery status, is gone in x2APIC mode, but software that writes back what an xAPIC read must not die.
    case kIcrLow: return !(static_cast<std::uint32_t>(value) & ~(kIcrWritable | 1u << 12));
    case kInitialCount: return value <= 0xFFFF'FFFF;
    case kDivide: return !(value & ~std::uint64_t{0xB});
    default: break;
  }
  if (number < kLvtFirst || number > kLvtLast) return false;
  // Delivery status and remote IRR are read-only, not reserved.
  return !(value & ~std::uint64_t{lvt_mask(static_cast<Lvt>(number - kLvtFirst)) | 1u << 12 | kLvtRemoteIrr});
}

// ---- memory-mapped registers ----

std::uint32_t LocalApic::mmio_read(std::uint32_t offset, unsigned size) {
  // SDM vol. 3, 11.4.1: only the first 4 bytes of each 16 may be touched; anything else is undefined.
  if ((offset & 0xF) + size > 4 || offset >= 0x1000) return 0;
  const unsigned number = offset >> 4;
  std::optional<std::uint32_t> value;
  switch (number) {
    case kIcrLow: value = state_.icr_low; break;
    case kIcrHigh: value = state_.icr_high; break;
    case kArbitrationPriority: value = processor_priority(); break;
    case kDestinationFormat: value = destination_format_.load(); break;
    case kEoi:
    case kRemoteRead: value = 0; break;
    case kSelfIpi: break;
    default: value = read_register(number); break;
  }
  if (!value) {
    report_error(kErrorRegister);
    return 0;
  }
  return *value >> ((offset & 3) * 8);
}

void LocalApic::mmio_write(std::uint32_t offset, std::uint32_t value, unsigned size) {
  if ((offset & 0xF) != 0 || size != 4 || offset >= 0x1000) return;
  const unsigned number = offset >> 4;
  switch (number) {
    case kIcrLow:
      state_.icr_low = value & kIcrWritable;
      send_ipi(state_.icr_low, state_.icr_high >> 24 == 0xFF ? ApicMessage::kBroadcast : state_.icr_high >> 24);
      return;
    case kIcrHigh: state_.icr_high = value & 0xFF00'0000; return;
    case kLogicalDestination: logical_destination_ = value & 0xFF00'0000; return;
    case kDestinationFormat: destination_format_ = value | 0x0FFF'FFFF; return;
    // Read-only: the id has not been writable since the Nehalem family, and the rest never was.
    case kId:
    case kVersion:
    case kArbitrationPriority:
    case kProcessorPriority:
    case kRemoteRead:
    case kCurrentCount: return;
    default: break;
  }
  if (number >= kIsr && number < kErrorStatus) return;
  if (number == kSelfIpi || !write_register(number, value)) report_error(kErrorRegister);
}

std::optional<std::uint32_t> LocalApic::read_register(unsigned number) {
  if (number >= kIsr && number < kIsr + 8) return isr_.word32(number - kIsr);
  if (number >= kTmr && number < kTmr + 8) return tmr_.word32(number - kTmr);
  if (number >= kIrr && number < kIrr + 8) return irr_.word32(number - kIrr);
  if (number >= kLvtFirst && number <= kLvtLast) return lvt_[number - kLvtFirst].load();
  switch (number) {
    case kId: return x2apic_mode() ? deps_.id : deps_.id << 24;
    case kVersion: return kVersionValue;
    case kTaskPriority: return task_priority_.load();
    case kProcessorPriority: return processor_priority();
    case kLogicalDestination: return logical_id();
    case kSpurious: return spurious_.load();
    case kErrorStatus: return state_.error_status;
    case kInitialCount: {
      const mem::DomainGuard guard(deps_.domain);
      return state_.initial_count;
    }
    case kCurrentCount: {
      const mem::DomainGuard guard(deps_.domain);
      return current_count();
    }
    case kDivide: {
      const mem::DomainGuard guard(deps_.domain);
      return state_.divide;
    }
    default: return std::nullopt;
  }
}

/// The registers that are written alike in both modes; false: there is no such register.
bool LocalApic::write_register(unsigned number, std::uint32_t value) {
  if (number >= kLvtFirst && number <= kLvtLast) {
    write_lvt(static_cast<Lvt>(number - kLvtFirst), value);
    return true;
  }
  switch (number) {
    case kTaskPriority:
      task_priority_ = value & 0xFF;
      announce_if_pending();
      return true;
    case kEoi: end_of_interrupt(); return true;
    case kSpurious: write_spurious(value); return true;
    case kErrorStatus: write_error_status(); return true;
    case kInitialCount: write_initial_count(value); return true;
    case kDivide: write_divide(value & 0xB); return true;
    default: return false;
  }
}

std::uint32_t LocalApic::lvt_mask(Lvt entry) const { return lvt_bits(entry, static_cast<bool>(deps_.read_tsc)); }

void LocalApic::write_spurious(std::uint32_t value) {
  spurious_ = value & 0x13FF;
  // SDM vol. 3, 11.4.7.2: software-disabled, every LVT entry is masked and cannot be unmasked.
  if (!(value & kSpuriousEnable))
    for (auto& entry : lvt_) entry |= kLvtMasked;
  announce_if_pending();
}

void LocalApic::write_lvt(Lvt entry, std::uint32_t value) {
  value &= lvt_mask(entry);
  if (!(spurious_.load() & kSpuriousEnable)) value |= kLvtMasked;
  if (entry == Lvt::timer) {
    write_timer_lvt(value);
    return;
  }
  const std::uint32_t old = lvt(entry).load();
  // Remote IRR means something only for a level-triggered fixed entry.
  if ((value & kLvtLevel) && mode_of_entry(value) == DeliveryMode::fixed) value |= old & kLvtRemoteIrr;
  lvt(entry) = value;
  if (entry != Lvt::lint0 && entry != Lvt::lint1) return;
  // A level that is there already requests at once; an edge that came while masked is lost.
  const unsigned pin = entry == Lvt::lint0 ? 0 : 1;
  if (lint_[pin].load() && (value & kLvtLevel) && mode_of_entry(value) == DeliveryMode::fixed) raise(entry, true);
  announce_if_pending();
}

// SDM vol. 3, 11.5.3: the write shows the errors found since the last one, and re-arms the error interrupt.
void LocalApic::write_error_status() {
  error_armed_ = true;
  state_.error_status = error_pending_.exchange(0);
}

void LocalApic::report_error(std::uint32_t error) {
  error_pending_.fetch_or(error);
  if (error_armed_.exchange(false)) raise(Lvt::error);
}

// ---- sending ----

void LocalApic::send_self(std::uint8_t vector) {
  if (vector < 16)
    report_error(kErrorSendVector);
  else
    accept(vector, false);
}

void LocalApic::send_ipi(std::uint32_t low, std::uint32_t destination) {
  ApicMessage message;
  message.mode = static_cast<DeliveryMode>((low >> 8) & 7);
  message.vector = static_cast<std::uint8_t>(low);
  message.logical = bit(low, 11);
  message.destination = destination;
  switch (message.mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority:
      if (message.vector < 16) {
        report_error(kErrorSendVector);
        return;
      }
      break;
    case DeliveryMode::init:
      // INIT level de-assert: not supported since the Pentium 4 (11.6.1).
      if (bit(low, 15) && !bit(low, 14)) return;
      break;
    case DeliveryMode::smi:
    case DeliveryMode::nmi:
    case DeliveryMode::startup: break;
    case DeliveryMode::reserved:
    case DeliveryMode::ext_int: return;
  }
  switch ((low >> 18) & 3) {
    case 0: deps_.bus.deliver(message); break;
    case 1: receive(message); break;
    case 2: deps_.bus.deliver_all(message, nullptr); break;
    case 3: deps_.bus.deliver_all(message, this); break;
  }
}

void LocalApic::end_of_interrupt() {
  const int serving = isr_.highest();
  if (serving >= 0) {
    const auto vector = static_cast<std::uint8_t>(serving);
    isr_.clear(vector);
    if (tmr_.test(vector)) {
      for (const Lvt entry : {Lvt::lint0, Lvt::lint1}) {
        const std::uint32_t value = lvt(entry).load();
        if (!(value & kLvtRemoteIrr) || (value & kLvtVector) != vector) continue;
        lvt(entry) &= ~kLvtRemoteIrr;
        if (lint_[entry == Lvt::lint0 ? 0 : 1].load()) raise(entry, true);
      }
      if (!(spurious_.load() & kSuppressEoiBroadcast) && deps_.eoi_broadcast) deps_.eoi_broadcast(vector);
    }
  }
  announce_if_pending();
}

// ---- receiving; any thread ----

std::uint32_t LocalApic::logical_id() const {
  // SDM vol. 3, 11.12.10.2: derived from the id in x2APIC mode.
  if (x2apic_mode()) return ((deps_.id >> 4) << 16) | (1u << (deps_.id & 0xF));
  return logical_destination_.load();
}

bool LocalApic::is_target(const ApicMessage& message) const {
  if (message.destination == ApicMessage::kBroadcast) return true;
  if (!message.logical) return message.destination == deps_.id;
  const std::uint32_t own = logical_id();
  if (x2apic_mode()) return message.destination >> 16 == own >> 16 && (message.destination & own & 0xFFFF);
  // SDM vol. 3, 11.6.2.2. Destination format 1111 is the flat model, 0000 the cluster model.
  if (message.destination > 0xFF) return false;
  if (destination_format_.load() >> 28 == 0xF) return message.destination & (own >> 24);
  return message.destination >> 4 == own >> 28 && (message.destination & (own >> 24) & 0xF);
}

bool LocalApic::accept(std::uint8_t vector, bool level) {
  if (!accepts_fixed()) return false;
  if (vector < 16) {
    report_error(kErrorReceiveVector);
    return true;
  }
  // TMR before IRR: the owner may take the interrupt at once.
  if (level)
    tmr_.set(vector);
  else
    tmr_.clear(vector);
  if (irr_.set(vector)) deps_.pins.interrupt_changed();
  return true;
}

bool LocalApic::receive(const ApicMessage& message) {
  if (!enabled()) return false;
  switch (message.mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority: return accept(message.vector, message.level);
    case DeliveryMode::smi: deps_.pins.smi(); return true;
    case DeliveryMode::nmi: deps_.pins.nmi(); return true;
    case DeliveryMode::init: deps_.pins.init(); return true;
    case DeliveryMode::startup: deps_.pins.startup(message.vector); return true;
    case DeliveryMode::ext_int:
      ext_int_ = true;
      deps_.pins.interrupt_changed();
      return true;
    case DeliveryMode::reserved: break;
  }
  return false;
}

void LocalApic::raise(Lvt entry, bool level) {
  const std::uint32_t value = lvt(entry).load();
  if (!enabled() || (value & kLvtMasked)) return;
  const auto vector = static_cast<std::uint8_t>(value);
  if (entry == Lvt::timer || entry == Lvt::error) {
    accept(vector, false);
    return;
  }
  // SDM vol. 3, 11.5.1: the mask is set when a performance interrupt is delivered.
  if (entry == Lvt::performance) lvt(entry) |= kLvtMasked;
  switch (mode_of_entry(value)) {
    case DeliveryMode::fixed:
      if (level && (lvt(entry).fetch_or(kLvtRemoteIrr) & kLvtRemoteIrr)) return;
      accept(vector, level);
      break;
    case DeliveryMode::smi: deps_.pins.smi(); break;
    case DeliveryMode::nmi: deps_.pins.nmi(); break;
    case DeliveryMode::init: deps_.pins.init(); break;
    case DeliveryMode::ext_int: deps_.pins.interrupt_changed(); break;  // ext_int_ready looks at the pin
    default: break;
  }
}

void LocalApic::signal(Lvt entry) { raise(entry); }

// The polarity bits of LINT0 and LINT1 are stored and not looked at: wires in husk carry "asserted", not volts.
void LocalApic::set_pin(unsigned pin, bool level) {
  if (pin > 1) return;
  const bool was = lint_[pin].exchange(level);
  if (!level || was) return;
  if (!enabled()) {
    if (pin == 0)
      deps_.pins.interrupt_changed();
    else
      deps_.pins.nmi();
    return;
  }
  const Lvt entry = pin == 0 ? Lvt::lint0 : Lvt::lint1;
  raise(entry, lvt(entry).load() & kLvtLevel);
}

void LocalApic::restore_pin(unsigned pin, bool level) {
  if (pin > 1) return;
  lint_[pin] = level;
  announce_if_pending();
}

// ---- state ----

void LocalApic::before_save() {
  state_.base = base_.load();
  state_.task_priority = task_priority_.load();
  state_.logical_destination = logical_destination_.load();
  state_.destination_format = destination_format_.load();
  state_.spurious = spurious_.load();
  state_.error_pending = error_pending_.load();
  state_.error_armed = error_armed_.load();
  for (unsigned n = 0; n < lvt_.size(); ++n) state_.lvt[n] = lvt_[n].load();
  state_.irr = irr_.get();
  state_.isr = isr_.get();
  state_.tmr = tmr_.get();
  for (unsigned n = 0; n < 2; ++n) state_.lint[n] = lint_[n].load();
  state_.ext_int = ext_int_.load();
}

void LocalApic::after_load() {
  base_ = state_.base;
  task_priority_ = state_.task_priority;
  logical_destination_ = state_.logical_destination;
  destination_format_ = state_.destination_format;
  spurious_ = state_.spurious;
  error_pending_ = state_.error_pending;
  error_armed_ = state_.error_armed;
  for (unsigned n = 0; n < lvt_.size(); ++n) lvt_[n] = state_.lvt[n];
  irr_.put(state_.irr);
  isr_.put(state_.isr);
  tmr_.put(state_.tmr);
  for (unsigned n = 0; n < 2; ++n) lint_[n] = state_.lint[n];
  ext_int_ = state_.ext_int;
  {
    const mem::DomainGuard guard(deps_.domain);
    arm_timer();
  }
  if (deps_.base_changed) deps_.base_changed();
  announce_if_pending();
}

}  // namespace husk::devices
