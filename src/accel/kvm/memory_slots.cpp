// husk: guest RAM as KVM's memory slots
#include "accel/kvm/memory_slots.h"

#include <algorithm>

#include "accel/kvm/api.h"
#include "base/bits.h"

namespace husk::accel::kvm {

std::vector<MemorySlots::Slot> MemorySlots::wanted(const mem::AddressSpace& memory) const {
  std::vector<Slot> slots;
  memory.enumerate([&](mem::Gpa base, std::uint64_t length, const std::string&, const mem::Target& target) {
    if (!target.ram || (!target.writable && !deps_.readonly_memory)) return;
    // A page of which only a part is RAM is left to the slow path.
    const mem::Gpa first = align_up(base, mem::kPageSize);
    const mem::Gpa end = (base + length) & ~(mem::kPageSize - 1);
    if (end <= first) return;
    const Slot slot{first, end - first, target.ram, target.offset + (first - base), target.writable};
    if (!slots.empty()) {
      Slot& last = slots.back();
      if (last.base + last.length == slot.base && last.ram == slot.ram && last.offset + last.length == slot.offset &&
          last.writable == slot.writable) {
        last.length += slot.length;
        return;
      }
    }
    slots.push_back(slot);
  });
  return slots;
}

bool MemorySlots::removes(const std::vector<Slot>& wanted) const {
  return std::any_of(used_.begin(), used_.end(), [&](const Used& used) {
    return std::find(wanted.begin(), wanted.end(), used.slot) == wanted.end();
  });
}

Status MemorySlots::apply(const std::vector<Slot>& wanted) {
  for (auto used = used_.begin(); used != used_.end();) {
    if (std::find(wanted.begin(), wanted.end(), used->slot) != wanted.end()) {
      ++used;
      continue;
    }
    if (used->logged) HUSK_TRY(collect_dirty(*used->slot.ram));
    HUSK_TRY(set(*used, 0));
    used = used_.erase(used);
  }
  for (const Slot& slot : wanted) {
    if (std::any_of(used_.begin(), used_.end(), [&](const Used& used) { return used.slot == slot; })) continue;
    if (used_.size() >= deps_.most)
      return std::unexpected(Error{fmt::format("KVM has {} memory slots, and the machine needs more", deps_.most),
                                   "give the machine fewer ROMs and memory devices, or use --accel soft"});
    const Used used{slot, free_number(), slot.ram->dirty_log_on()};
    HUSK_TRY(set(used, slot.length));
    used_.push_back(used);
  }
  return {};
}

std::uint32_t MemorySlots::free_number() const {
  std::uint32_t number = 0;
  while (std::any_of(used_.begin(), used_.end(), [&](const Used& used) { return used.number == number; })) ++number;
  return number;
}

Status MemorySlots::set(const Used& used, std::uint64_t length) const {
  kvm_userspace_memory_region region{};
  region.slot = used.number;
  region.flags = (used.slot.writable ? 0u : KVM_MEM_READONLY) | (used.logged ? KVM_MEM_LOG_DIRTY_PAGES : 0u);
  region.guest_phys_addr = used.slot.base;
  region.memory_size = length;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(used.slot.ram->data()) + used.slot.offset;
  if (call(deps_.vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
    return fail_errno(errno, fmt::format("KVM refuses {} bytes of memory at {:#x}", length, used.slot.base));
  return {};
}

Status MemorySlots::follow_dirty_log(mem::RamRegion& ram) {
  for (Used& used : used_) {
    if (used.slot.ram != &ram || used.logged == ram.dirty_log_on()) continue;
    used.logged = ram.dirty_log_on();
    HUSK_TRY(set(used, used.slot.length));
  }
  return {};
}

Status MemorySlots::collect_dirty(mem::RamRegion& ram) {
  std::vector<std::uint64_t> bitmap;
  for (const Used& used : used_) {
    if (used.slot.ram != &ram || !used.logged) continue;
    const std::uint64_t pages = used.slot.length / mem::kPageSize;
    bitmap.assign((pages + 63) / 64, 0);
    kvm_dirty_log log{};
    log.slot = used.number;
    log.dirty_bitmap = bitmap.data();
    if (call(deps_.vm, KVM_GET_DIRTY_LOG, &log) != 0) return fail_errno(errno, "KVM_GET_DIRTY_LOG");
    for (std::uint64_t word = 0; word < bitmap.size(); ++word)
      for (std::uint64_t left = bitmap[word]; left; left &= left - 1) {
        const std::uint64_t page = word * 64 + static_cast<unsigned>(std::countr_zero(left));
        if (page < pages) ram.note_write(used.slot.offset + page * mem::kPageSize, mem::kPageSize);
      }
  }
  return {};
}

}  // namespace husk::accel::kvm
