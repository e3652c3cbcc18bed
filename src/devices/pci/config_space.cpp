// husk: the configuration space of one PCI function
#include "devices/pci/config_space.h"

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices::pci {

ConfigSpace::ConfigSpace(ConfigState& state, const Identity& identity, bool express)
    : state_(state),
      reset_(express ? kExpressSize : kConventionalSize),
      writable_(reset_.size()),
      clear_(reset_.size()),
      dynamic_(reset_.size()) {
  define(kVendorId, 2, identity.vendor);
  define(kDeviceId, 2, identity.device);
  define(kCommand, 2, 0,
         kCommandIo | kCommandMemory | kCommandBusMaster | kCommandParity | kCommandSerr | kCommandIntxDisable);
  // Status 15:11 and 8 are error bits, write 1 to clear; nothing here ever sets them.
  define(kStatus, 2, 0, 0, 0xF900);
  define(kRevision, 4, identity.revision | (std::uint64_t{identity.class_code} << 8));
  define(kCacheLineSize, 1, 0, 0xFF);
  define(kHeaderType, 1, identity.multifunction ? 0x80 : 0);
  define(kSubsystemVendorId, 2, identity.subsystem_vendor);
  define(kSubsystemId, 2, identity.subsystem);
  define(kInterruptLine, 1, 0, 0xFF);
  define(kInterruptPin, 1, identity.interrupt_pin);
  reset();
}

void ConfigSpace::define(unsigned offset, unsigned size, std::uint64_t reset, std::uint64_t writable,
                         std::uint64_t clear) {
  HUSK_CHECK(range_within(offset, size, reset_.size()));
  for (unsigned i = 0; i < size; ++i) {
    reset_[offset + i] = static_cast<std::uint8_t>(reset >> (i * 8));
    writable_[offset + i] = static_cast<std::uint8_t>(writable >> (i * 8));
    clear_[offset + i] = static_cast<std::uint8_t>(clear >> (i * 8));
    if (!state_.bytes.empty()) state_.bytes[offset + i] = reset_[offset + i];
  }
}

void ConfigSpace::define_dynamic(unsigned offset, unsigned size, std::uint64_t mask) {
  HUSK_CHECK(range_within(offset, size, reset_.size()));
  for (unsigned i = 0; i < size; ++i) dynamic_[offset + i] = static_cast<std::uint8_t>(mask >> (i * 8));
}

unsigned ConfigSpace::add_capability(std::uint8_t id, unsigned length, unsigned from) {
  const unsigned offset = align_up(from ? from : capability_end_, 4u);
  HUSK_CHECK(length >= 2 && offset >= capability_end_ && range_within(offset, length, kConventionalSize));
  define(offset, 2, id);
  // Chained in the order added, the pointer of the last one being zero.
  define(last_capability_ ? last_capability_ + 1 : +kCapabilityPointer, 1, offset);
  define(kStatus, 2, kStatusCapabilities, 0, 0xF900);
  last_capability_ = offset;
  capability_end_ = offset + length;
  return offset;
}

unsigned ConfigSpace::add_extended_capability(std::uint16_t id, std::uint8_t version, unsigned length) {
  const unsigned offset = align_up(extended_end_, 4u);
  HUSK_CHECK(length >= 4 && range_within(offset, length, reset_.size()));
  define(offset, 4, id | (std::uint64_t{version} << 16));
  if (last_extended_) {
    const std::uint32_t header = load_le<std::uint32_t>(&reset_[last_extended_]);
    define(last_extended_, 4, (header & 0xFFFFF) | (std::uint64_t{offset} << 20));
  }
  last_extended_ = offset;
  extended_end_ = offset + length;
  return offset;
}

void ConfigSpace::add_bar(unsigned index, BarSpec spec) {
  HUSK_CHECK(index < kBarCount && (spec.size & (spec.size - 1)) == 0);
  const unsigned offset = kBar0 + index * 4;
  const std::uint64_t address_bits = ~(spec.size - 1);
  switch (spec.kind) {
    case BarSpec::Kind::none: return;
    case BarSpec::Kind::io:
      HUSK_CHECK(spec.size >= 4 && spec.size <= 0x10000);
      define(offset, 4, 1, address_bits & 0xFFFFFFFC);
      break;
    case BarSpec::Kind::memory32:
      HUSK_CHECK(spec.size >= 16 && spec.size <= 0x80000000);
      define(offset, 4, spec.prefetchable ? 8 : 0, address_bits & 0xFFFFFFF0);
      break;
    case BarSpec::Kind::memory64:
      HUSK_CHECK(spec.size >= 16 && index + 1 < kBarCount);
      define(offset, 8, spec.prefetchable ? 0xC : 4, address_bits & ~std::uint64_t{0xF});
      break;
  }
  bars_[index] = spec;
}

void ConfigSpace::reset() { state_.bytes = reset_; }

std::uint64_t ConfigSpace::get(unsigned offset, unsigned size) const {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size && offset + i < state_.bytes.size(); ++i)
    value |= std::uint64_t{state_.bytes[offset + i]} << (i * 8);
  return value;
}

void ConfigSpace::set(unsigned offset, unsigned size, std::uint64_t value) {
  HUSK_CHECK(range_within(offset, size, state_.bytes.size()));
  for (unsigned i = 0; i < size; ++i) state_.bytes[offset + i] = static_cast<std::uint8_t>(value >> (i * 8));
}

std::uint32_t ConfigSpace::read(unsigned offset, unsigned size) const {
  return static_cast<std::uint32_t>(get(offset, size));
}

bool ConfigSpace::write(unsigned offset, std::uint32_t value, unsigned size) {
  bool changed = false;
  for (unsigned i = 0; i < size && offset + i < state_.bytes.size(); ++i) {
    const unsigned at = offset + i;
    const unsigned byte = (value >> (i * 8)) & 0xFF;
    const unsigned old = state_.bytes[at];
    unsigned next = (old & ~unsigned{writable_[at]}) | (byte & writable_[at]);
    next &= ~(byte & clear_[at]);
    state_.bytes[at] = static_cast<std::uint8_t>(next);
    changed = changed || next != old;
  }
  return changed;
}

std::optional<std::uint64_t> ConfigSpace::bar_address(unsigned index) const {
  const BarSpec& spec = bars_[index];
  const unsigned offset = kBar0 + index * 4;
  const auto command = get(kCommand, 2);
  switch (spec.kind) {
    case BarSpec::Kind::none: return std::nullopt;
    case BarSpec::Kind::io: {
      const std::uint64_t base = get(offset, 4) & ~std::uint64_t{3};
      if (!(command & kCommandIo) || base == 0 || base + spec.size > 0x10000) return std::nullopt;
      return base;
    }
    case BarSpec::Kind::memory32: {
      const std::uint64_t base = get(offset, 4) & ~std::uint64_t{0xF};
      // The topmost place is what sizing writes while decoding is still on; nothing real is ever put there.
      if (!(command & kCommandMemory) || base == 0 || base + spec.size > 0xFFFFFFFF) return std::nullopt;
      return base;
    }
    case BarSpec::Kind::memory64: {
      const std::uint64_t base = get(offset, 8) & ~std::uint64_t{0xF};
      if (!(command & kCommandMemory) || base == 0 || base > ~std::uint64_t{0} - spec.size) return std::nullopt;
      return base;
    }
  }
  return std::nullopt;
}

std::optional<unsigned> ConfigSpace::find_capability(std::uint8_t id) const {
  unsigned at = reset_[kCapabilityPointer];
  // The list was built here, in rising order: it ends.
  for (; at; at = reset_[at + 1])
    if (reset_[at] == id) return at;
  return std::nullopt;
}

Status ConfigSpace::validate(const ConfigState& incoming, const std::string& owner) const {
  if (incoming.bytes.size() != reset_.size())
    return fail("saved configuration space of {} has {} bytes, not {}", owner, incoming.bytes.size(), reset_.size());
  for (unsigned at = 0; at < reset_.size(); ++at) {
    unsigned free = unsigned{writable_[at]} | clear_[at] | dynamic_[at];
    // Status bit 3 follows the interrupt pin.
    if (at == kStatus) free |= kStatusInterrupt;
    if ((incoming.bytes[at] ^ reset_[at]) & ~free)
      return fail("saved configuration space of {} holds {:#x} at {:#x}, where this husk has the read-only value {:#x}",
                  owner, incoming.bytes[at], at, reset_[at]);
  }
  return {};
}

}  // namespace husk::devices::pci
