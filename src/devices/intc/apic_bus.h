// husk: the set of all local APICs, and how a message finds its targets among them
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "devices/intc/apic_message.h"

namespace husk::devices {

class LocalApic;

/// Local APICs enter and leave while no vCPU runs; all else is lock-free and thread-safe.
class ApicBus : public InterruptBus, public core::MsiPort {
 public:
  bool deliver(const ApicMessage& message) override;
  /// For IPIs with the shorthands "all including self" (null) and "all excluding self" (the sender).
  void deliver_all(const ApicMessage& message, const LocalApic* except);
  void send(std::uint16_t requester_id, core::MsiMessage message) override;

  /// vCPU indices run below this.
  unsigned count() const { return static_cast<unsigned>(by_index_.size()); }
  /// The APIC of vCPU `index`, or null.
  LocalApic* at(unsigned index) const { return index < by_index_.size() ? by_index_[index] : nullptr; }

 private:
  friend class LocalApic;
  void attach(LocalApic& apic);
  void detach(LocalApic& apic);
  bool deliver_lowest_priority(const ApicMessage& message);

  std::vector<LocalApic*> by_index_;
  std::vector<LocalApic*> all_;
  std::unordered_map<std::uint32_t, LocalApic*> by_id_;
};

}  // namespace husk::devices
