// husk: guest RAM as KVM's memory slots
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "mem/address_space.h"

namespace husk::accel::kvm {

/// Keeps the slots of a VM like the RAM of an address space. Not thread-safe: the accelerator locks.
class MemorySlots {
 public:
  struct Deps {
    int vm;  ///< the VM's descriptor
    bool readonly_memory;
    unsigned most;  ///< slots that KVM has
  };
  explicit MemorySlots(Deps deps) : deps_(deps) {}

  struct Slot {
    mem::Gpa base;
    std::uint64_t length;
    mem::RamRegion* ram;
    std::uint64_t offset;
    bool writable;
    bool operator==(const Slot&) const = default;
  };
  /// What an address space asks for: page-aligned, neighbours joined, without ROMs if KVM cannot have them.
  std::vector<Slot> wanted(const mem::AddressSpace& memory) const;
  /// True if apply() would take a slot away: no vCPU may run then.
  bool removes(const std::vector<Slot>& wanted) const;
  Status apply(const std::vector<Slot>& wanted);

  /// Turns the dirty log of the slots of a region on or off, as the region says.
  Status follow_dirty_log(mem::RamRegion& ram);
  /// Tells the region what guests have written since the last call.
  Status collect_dirty(mem::RamRegion& ram);

  std::size_t count() const { return used_.size(); }

 private:
  struct Used {
    Slot slot;
    std::uint32_t number;
    bool logged;
  };
  Status set(const Used& used, std::uint64_t length) const;
  std::uint32_t free_number() const;

  Deps deps_;
  std::vector<Used> used_;
};

}  // namespace husk::accel::kvm
