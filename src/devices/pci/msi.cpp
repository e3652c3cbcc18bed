// husk: message-signalled interrupts of a PCI function
#include "devices/pci/msi.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices::pci {

namespace {
// Message control of MSI, at +2.
constexpr unsigned kMsiEnable = 0x0001;
constexpr unsigned kMsi64 = 0x0080;
constexpr unsigned kMsiMasking = 0x0100;
// Message control of MSI-X, at +2.
constexpr unsigned kMsixEnable = 0x8000;
constexpr unsigned kMsixFunctionMask = 0x4000;
}  // namespace

Msi::Msi(ConfigSpace& config, MsiSender sender, unsigned vectors)
    : config_(config), sender_(std::move(sender)), vectors_(vectors), at_(config.add_capability(kId, 24)) {
  HUSK_CHECK(std::has_single_bit(vectors) && vectors <= 32);
  const auto capable = static_cast<unsigned>(std::countr_zero(vectors));
  config_.define(at_ + 2, 2, kMsi64 | kMsiMasking | (capable << 1), kMsiEnable | 0x70);
  config_.define(at_ + 4, 8, 0, ~std::uint64_t{3});
  config_.define(at_ + 12, 2, 0, 0xFFFF);
  config_.define(at_ + 16, 4, 0, mask_of(vectors));
  config_.define_dynamic(at_ + 20, 4, mask_of(vectors));
}

bool Msi::enabled() const { return config_.get(at_ + 2, 2) & kMsiEnable; }

unsigned Msi::allotted() const {
  return std::min(vectors_, 1u << std::min<unsigned>(5, static_cast<unsigned>(config_.get(at_ + 2, 2) >> 4) & 7));
}

void Msi::send(unsigned vector) {
  if (!(config_.get(kCommand, 2) & kCommandBusMaster)) return;
  const auto data = static_cast<std::uint32_t>(config_.get(at_ + 12, 2));
  sender_.port.send(sender_.requester_id(), {config_.get(at_ + 4, 8), (data & ~(allotted() - 1)) | vector});
}

void Msi::notify(unsigned vector) {
  if (!enabled()) return;
  vector %= allotted();
  if (bit(config_.get(at_ + 16, 4), vector))
    config_.set(at_ + 20, 4, config_.get(at_ + 20, 4) | (1u << vector));
  else
    send(vector);
}

void Msi::config_written() {
  const std::uint64_t ready = enabled() ? config_.get(at_ + 20, 4) & ~config_.get(at_ + 16, 4) : 0;
  if (!ready) return;
  config_.set(at_ + 20, 4, config_.get(at_ + 20, 4) & ~ready);
  for (unsigned vector = 0; vector < allotted(); ++vector)
    if (bit(ready, vector)) send(vector);
}

Msix::Msix(ConfigSpace& config, MsixState& state, MsiSender sender, unsigned vectors, unsigned bar)
    : config_(config),
      state_(state),
      sender_(std::move(sender)),
      vectors_(vectors),
      // The pending bits begin on a page or half-page of their own, as QEMU has them.
      pba_offset_(std::max(0x800u, align_up(vectors * 16, 0x800u))),
      at_(config.add_capability(kId, 12)) {
  HUSK_CHECK(vectors >= 1 && vectors <= kMostVectors);
  const std::uint64_t used = pba_offset_ + align_up(vectors, 64u) / 8;
  config_.add_bar(bar, {BarSpec::Kind::memory32, std::bit_ceil(std::max<std::uint64_t>(used, 0x1000)), false});
  config_.define(at_ + 2, 2, vectors - 1, kMsixEnable | kMsixFunctionMask);
  config_.define(at_ + 4, 4, bar);
  config_.define(at_ + 8, 4, pba_offset_ | bar);
  reset();
}

void Msix::reset() {
  state_.table.assign(vectors_ * 16, 0);
  for (unsigned vector = 0; vector < vectors_; ++vector) state_.table[vector * 16 + 12] = 1;  // masked after reset
  state_.pending.assign(align_up(vectors_, 64u) / 8, 0);
}

bool Msix::enabled() const { return config_.get(at_ + 2, 2) & kMsixEnable; }
bool Msix::function_masked() const { return config_.get(at_ + 2, 2) & kMsixFunctionMask; }

void Msix::notify(unsigned vector) {
  if (!enabled() || vector >= vectors_) return;
  // A message is a memory write, which only a bus master may make; the event stays pending as if masked.
  if (masked(vector) || !(config_.get(kCommand, 2) & kCommandBusMaster)) {
    state_.pending[vector / 8] |= static_cast<std::uint8_t>(1u << (vector % 8));
    return;
  }
  const std::uint8_t* entry = &state_.table[vector * 16];
  sender_.port.send(sender_.requester_id(), {load_le<std::uint64_t>(entry), load_le<std::uint32_t>(entry + 8)});
}

void Msix::send_pending() {
  if (!enabled() || function_masked()) return;
  for (unsigned vector = 0; vector < vectors_; ++vector) {
    std::uint8_t& byte = state_.pending[vector / 8];
    const auto mask = static_cast<std::uint8_t>(1u << (vector % 8));
    if (!(byte & mask) || masked(vector)) continue;
    byte &= static_cast<std::uint8_t>(~mask);
    notify(vector);
  }
}

void Msix::config_written() { send_pending(); }

std::uint64_t Msix::read(const mem::Access& access) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < access.size; ++i) {
    const std::uint64_t at = access.offset + i;
    std::uint8_t byte = 0;
    if (at < state_.table.size())
      byte = state_.table[at];
    else if (at >= pba_offset_ && at - pba_offset_ < state_.pending.size())
      byte = state_.pending[at - pba_offset_];
    value |= std::uint64_t{byte} << (i * 8);
  }
  return value;
}

void Msix::write(const mem::Access& access, std::uint64_t value) {
  // Only aligned dwords and qwords are defined (6.8.2); others are dropped, and so are writes to the pending bits.
  if ((access.size != 4 && access.size != 8) || access.offset % access.size) return;
  if (!range_within(access.offset, access.size, state_.table.size())) return;
  for (unsigned i = 0; i < access.size; ++i) {
    const std::uint64_t at = access.offset + i;
    auto byte = static_cast<std::uint8_t>(value >> (i * 8));
    if (at % 16 == 0) byte &= 0xFC;
    if (at % 16 == 12) byte &= 1;
    if (at % 16 > 12) byte = 0;
    state_.table[at] = byte;
  }
  send_pending();
}

Status Msix::validate(const MsixState& incoming, const std::string& owner) const {
  if (incoming.table.size() != vectors_ * 16 || incoming.pending.size() != state_.pending.size())
    return fail("saved MSI-X table of {} has {} bytes, not {}", owner, incoming.table.size(), vectors_ * 16);
  for (unsigned vector = 0; vector < vectors_; ++vector) {
    const std::uint8_t* entry = &incoming.table[vector * 16];
    if ((entry[0] & 3) || (entry[12] & ~1) || entry[13] || entry[14] || entry[15])
      return fail("saved MSI-X entry {} of {} has reserved bits set", vector, owner);
  }
  for (unsigned vector = vectors_; vector < incoming.pending.size() * 8; ++vector)
    if (bit(incoming.pending[vector / 8], vector % 8))
      return fail("saved MSI-X state of {} has vector {} pending, beyond its table", owner, vector);
  return {};
}

}  // namespace husk::devices::pci
