// husk: the set of all local APICs, and how a message finds its targets among them
#include "devices/intc/apic_bus.h"

#include <algorithm>

#include "base/check.h"
#include "devices/intc/local_apic.h"

namespace husk::devices {

void ApicBus::attach(LocalApic& apic) {
  HUSK_CHECK(!at(apic.index()) && !by_id_.contains(apic.id()));
  if (by_index_.size() <= apic.index()) by_index_.resize(apic.index() + 1);
  by_index_[apic.index()] = &apic;
  by_id_.emplace(apic.id(), &apic);
  all_.push_back(&apic);
}

void ApicBus::detach(LocalApic& apic) {
  by_index_[apic.index()] = nullptr;
  by_id_.erase(apic.id());
  std::erase(all_, &apic);
}

bool ApicBus::deliver(const ApicMessage& message) {
  if (message.mode == DeliveryMode::lowest_priority) return deliver_lowest_priority(message);
  if (!message.logical && message.destination != ApicMessage::kBroadcast) {
    const auto found = by_id_.find(message.destination);
    return found != by_id_.end() && found->second->receive(message);
  }
  bool taken = false;
  for (LocalApic* apic : all_)
    if (apic->is_target(message)) taken |= apic->receive(message);
  return taken;
}

void ApicBus::deliver_all(const ApicMessage& message, const LocalApic* except) {
  for (LocalApic* apic : all_)
    if (apic != except) apic->receive(message);
}

// SDM vol. 3, 11.6.2.4: the lowest processor priority wins. Ties go by the vector, so that a machine that is replayed
// decides as it did before, and different vectors still spread over the CPUs.
bool ApicBus::deliver_lowest_priority(const ApicMessage& message) {
  unsigned lowest = 256;
  unsigned ties = 0;
  const auto eligible = [&](LocalApic* apic) { return apic->accepts_fixed() && apic->is_target(message); };
  for (LocalApic* apic : all_) {
    if (!eligible(apic)) continue;
    const unsigned priority = apic->processor_priority();
    if (priority < lowest) lowest = priority, ties = 0;
    if (priority == lowest) ++ties;
  }
  if (!ties) return false;
  LocalApic* last = nullptr;
  unsigned skip = message.vector % ties;
  for (LocalApic* apic : all_) {
    if (!eligible(apic)) continue;
    // Priorities may move under us; whoever was eligible at the end still gets it.
    last = apic;
    if (apic->processor_priority() == lowest && skip-- == 0) break;
  }
  return last && last->receive(message);
}

void ApicBus::send(std::uint16_t, core::MsiMessage message) {
  // The de-assertion of a level-triggered message (trigger mode 1, level 0) requests nothing.
  if (bit(message.data, 15) && !bit(message.data, 14)) return;
  deliver(decode_msi(message));
}

}  // namespace husk::devices
