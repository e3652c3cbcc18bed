// husk: the page of local APIC registers and the MSI window, as the memory bus sees them
#include "devices/intc/apic_mmio.h"

#include "base/check.h"
#include "devices/intc/local_apic.h"

namespace husk::devices {

ApicMmio::ApicMmio(Deps deps) : deps_(deps) {
  auto mapping = deps_.memory_space.map(kWindow, kWindowSize, *this, {nullptr, 4, deps_.priority, "lapic"});
  HUSK_CHECK(mapping);
  window_ = *std::move(mapping);
}

LocalApic* ApicMmio::apic_at(mem::Gpa address, const mem::Access& access) const {
  if (access.who.kind == mem::Requester::Kind::device) return nullptr;
  LocalApic* apic = deps_.bus.at(access.who.id);
  if (!apic || !apic->enabled() || apic->x2apic_mode()) return nullptr;
  return align_down(address, kPage) == align_down(apic->apic_base(), kPage) ? apic : nullptr;
}

std::uint64_t ApicMmio::read_at(mem::Gpa address, const mem::Access& access) {
  LocalApic* apic = apic_at(address, access);
  if (!apic) return ~std::uint64_t{0};
  return apic->mmio_read(static_cast<std::uint32_t>(address % kPage), access.size);
}

void ApicMmio::write_at(mem::Gpa address, const mem::Access& access, std::uint64_t value) {
  if (access.who.kind == mem::Requester::Kind::device) {
    if (address - kWindow < kWindowSize && access.size == 4)
      deps_.bus.send(access.who.id, {address, static_cast<std::uint32_t>(value)});
    return;
  }
  if (LocalApic* apic = apic_at(address, access))
    apic->mmio_write(static_cast<std::uint32_t>(address % kPage), static_cast<std::uint32_t>(value), access.size);
}

void ApicMmio::bases_changed() {
  const std::lock_guard lock(moving_);
  for (unsigned index = 0; index < deps_.bus.count(); ++index) {
    LocalApic* apic = deps_.bus.at(index);
    const mem::Gpa base = apic && apic->enabled() ? align_down(apic->apic_base(), kPage) : kWindow;
    const bool inside = base - kWindow < kWindowSize;
    const auto found = moved_.find(index);
    if (inside) {
      if (found != moved_.end()) found->second.mapping.reset();
      continue;
    }
    auto& page = found != moved_.end() ? found->second : moved_.try_emplace(index, *this, base).first->second;
    if (page.mapping && page.base.load() == base) continue;
    page.mapping.reset();
    page.base = base;
    if (auto mapping = deps_.memory_space.map(base, kPage, page, {nullptr, 4, deps_.priority, "lapic-moved"}))
      page.mapping = *std::move(mapping);
  }
}

}  // namespace husk::devices
