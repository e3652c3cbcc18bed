// husk: the I/O APIC: 24 pins to interrupt messages (Intel 82093AA, with the EOI register of version 20h)
#include "devices/intc/ioapic.h"

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices {

namespace {

constexpr std::uint32_t kVersion = 0x20 | ((kIoapicPins - 1) << 16);

// Offsets in the page.
constexpr std::uint64_t kIoRegSel = 0x00;
constexpr std::uint64_t kIoWin = 0x10;
constexpr std::uint64_t kEoi = 0x40;

// Redirection table entry (82093AA, 3.2.4).
constexpr std::uint64_t kRemoteIrr = 1u << 14;
constexpr std::uint64_t kLevel = 1u << 15;
constexpr std::uint64_t kMasked = 1u << 16;
constexpr std::uint64_t kWritable = 0xFF00'0000'0001'AFFF;

bool can_be_level(std::uint64_t entry) {
  const auto mode = static_cast<DeliveryMode>(bits(entry, 8, 3));
  return mode == DeliveryMode::fixed || mode == DeliveryMode::lowest_priority;
}
bool is_level(std::uint64_t entry) { return (entry & kLevel) && can_be_level(entry); }

}  // namespace

Ioapic::Ioapic(Deps deps) : deps_(deps) {
  auto mapping = deps_.memory_space.map(deps_.base, 0x1000, registers_, {deps_.domain, 4, 0, "ioapic"});
  HUSK_CHECK(mapping);
  mapping_ = *std::move(mapping);
  reset(core::ResetKind::power_on);
}

void Ioapic::reset(core::ResetKind) {
  const std::uint32_t pins = state_.pins;
  state_ = {};
  state_.pins = pins;
  state_.id = deps_.id & 0xF;
  state_.redirection.fill(kMasked);
  tell();
}

ApicMessage Ioapic::message(unsigned pin) const {
  const std::uint64_t entry = state_.redirection[pin];
  const auto destination = static_cast<std::uint32_t>(entry >> 56);
  ApicMessage made;
  made.destination = destination == 0xFF ? ApicMessage::kBroadcast : destination;
  made.logical = bit(entry, 11);
  made.mode = static_cast<DeliveryMode>(bits(entry, 8, 3));
  made.vector = static_cast<std::uint8_t>(entry);
  made.level = is_level(entry);
  return made;
}

bool Ioapic::send(unsigned pin) { return deps_.bus.deliver(message(pin)); }

void Ioapic::request_level(unsigned pin) {
  std::uint64_t& entry = state_.redirection[pin];
  if (!bit(state_.pins, pin) || !is_level(entry) || (entry & (kMasked | kRemoteIrr))) return;
  // "Remote IRR is set when local APIC(s) accept the level interrupt."
  if (send(pin)) entry |= kRemoteIrr;
}

// The polarity bit is stored and not looked at: wires in husk carry "asserted", not volts.
void Ioapic::set_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(deps_.domain);
  if (pin >= kIoapicPins) return;
  const std::uint32_t mask = 1u << pin;
  const bool was = state_.pins & mask;
  state_.pins = level ? state_.pins | mask : state_.pins & ~mask;
  if (!level) return;
  if (is_level(state_.redirection[pin])) request_level(pin);
  // 82093AA 3.2.4, bit 16: an edge on a masked pin is ignored, not remembered.
  else if (!was && !(state_.redirection[pin] & kMasked))
    send(pin);
}

void Ioapic::restore_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(deps_.domain);
  if (pin >= kIoapicPins) return;
  const std::uint32_t mask = 1u << pin;
  state_.pins = level ? state_.pins | mask : state_.pins & ~mask;
}

void Ioapic::end_of_interrupt(std::uint8_t vector) {
  const mem::DomainGuard guard(deps_.domain);
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
    std::uint64_t& entry = state_.redirection[pin];
    if (static_cast<std::uint8_t>(entry) != vector || !(entry & kLevel) || !(entry & kRemoteIrr)) continue;
    entry &= ~kRemoteIrr;
    request_level(pin);
  }
}

std::uint32_t Ioapic::read_register() const {
  switch (state_.index) {
    case 0:
    case 2: return std::uint32_t{state_.id} << 24;  // 2: the arbitration id follows the id
    case 1: return kVersion;
    default: break;
  }
  const unsigned n = state_.index - 0x10u;
  if (state_.index < 0x10 || n >= 2 * kIoapicPins) return 0;
  return static_cast<std::uint32_t>(state_.redirection[n / 2] >> (n % 2 * 32));
}

void Ioapic::write_register(std::uint32_t value) {
  if (state_.index == 0) {
    state_.id = static_cast<std::uint8_t>(bits(value, 24, 4));
    return;
  }
  const unsigned n = state_.index - 0x10u;
  if (state_.index < 0x10 || n >= 2 * kIoapicPins) return;
  write_redirection(n / 2, n % 2, value);
}

void Ioapic::write_redirection(unsigned pin, bool high, std::uint32_t value) {
  std::uint64_t& entry = state_.redirection[pin];
  const std::uint64_t half = mask_of(32, high ? 32 : 0);
  const std::uint64_t written = (std::uint64_t{value} << (high ? 32 : 0)) & kWritable & half;
  entry = (entry & ~(kWritable & half)) | written;
  // Made edge-triggered, a pin forgets its remote IRR. Linux's way to end an interrupt without an EOI register.
  if (!is_level(entry)) entry &= ~kRemoteIrr;
  tell();
  request_level(pin);
}

std::uint64_t Ioapic::Registers::read(const mem::Access& access) {
  switch (align_down(access.offset, 4)) {
    case kIoRegSel: return std::uint64_t{owner.state_.index} >> (access.offset % 4 * 8);
    case kIoWin: return std::uint64_t{owner.read_register()} >> (access.offset % 4 * 8);
    default: return 0;
  }
}

void Ioapic::Registers::write(const mem::Access& access, std::uint64_t value) {
  switch (access.offset) {
    case kIoRegSel: owner.state_.index = static_cast<std::uint8_t>(value); break;
    case kIoWin:
      // "Accessed as 32-bit quantities": a narrower store would lose the other bytes.
      if (access.size == 4) owner.write_register(static_cast<std::uint32_t>(value));
      break;
    case kEoi: owner.end_of_interrupt(static_cast<std::uint8_t>(value)); break;
    default: break;
  }
}

Status Ioapic::check(const IoapicState& incoming) {
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) {
    const std::uint64_t entry = incoming.redirection[pin];
    if (entry & ~(kWritable | kRemoteIrr)) return fail("saved ioapic has reserved bits in entry {}: {:#x}", pin, entry);
    if ((entry & kRemoteIrr) && !is_level(entry))
      return fail("saved ioapic has remote IRR on the edge-triggered pin {}", pin);
  }
  return {};
}

}  // namespace husk::devices
