// husk: the software CPU's page walks and the life of its TLB entries
#include <algorithm>

#include "cpu/interp/core.h"
#include "cpu/interp/system_ops.h"
#include "cpu/walk_impl.h"

namespace husk::cpu::interp {

// Address-space tags. The low 12 bits of each TLB tag name the address space an entry belongs to: not the PCID itself
// but a number given out anew whenever the PCID's entries are to be forgotten. So a CR3 write flushes in constant time,
// and only when the numbers run out are the tables cleared. Global pages are forgotten together with the rest, which
// the architecture allows: a TLB may drop what it likes. The guests of VMRUN have tags of their own, by ASID (APM vol. 2,
// 15.16); their entries lead from the guest's linear addresses to the host's RAM at once.

namespace {
constexpr std::uint16_t kSpaceTagEnd = 4096;

unsigned current_pcid(const CpuState& s) { return (s.cr4 & kCr4Pcide) ? static_cast<unsigned>(s.cr3 & 0xFFF) : 0; }
}  // namespace

void SystemOps::select_space(Core& core) {
  std::uint16_t& tag = (*core.tags_)[current_pcid(core.s)];
  if (tag == 0) {
    if (core.next_space_tag_ == kSpaceTagEnd) {
      forget_all_tags(core);
      core.next_space_tag_ = 1;
      for (auto& table : core.tlb_)
        for (auto& entry : table) entry.read_tag = entry.write_tag = Core::kInvalidTag;
      for (auto& table : core.exec_tlb_)
        for (auto& entry : table) entry.tag = Core::kInvalidTag;
      core.large_seen_.fill(false);
      core.huge_seen_.fill(false);
    }
    tag = core.next_space_tag_++;
  }
  core.pcid_ = tag;
  if (core.engine_) core.engine_->space_changed(true);
}

void SystemOps::forget_space(Core& core, unsigned pcid) {
  (*core.tags_)[pcid] = 0;
  if (pcid == current_pcid(core.s)) select_space(core);
}

void SystemOps::forget_all_tags(Core& core) {
  core.space_tags_.fill(0);
  for (auto& space : core.guest_spaces_)
    if (space.tags) space.tags->fill(0);
  core.nested_tlb_.fill({});
}

void SystemOps::use_space(Core& core) {
  const SvmState& svm = core.s.svm;
  core.tags_ = &core.space_tags_;
  if (svm.guest) {
    auto found = std::find_if(core.guest_spaces_.begin(), core.guest_spaces_.end(),
                              [&](const auto& space) { return space.tags && space.asid == svm.asid; });
    if (found == core.guest_spaces_.end()) {
      found = core.guest_spaces_.begin() + static_cast<std::ptrdiff_t>(core.next_guest_space_++ % core.guest_spaces_.size());
      if (!found->tags) found->tags = std::make_unique<Core::SpaceTags>();
      found->tags->fill(0);
      found->asid = svm.asid;
    }
    core.tags_ = found->tags.get();
    // Of one guest at a time.
    if (core.nested_space_ != svm.asid || core.nested_root_ != svm.nested_cr3) core.nested_tlb_.fill({});
    core.nested_space_ = svm.asid;
    core.nested_root_ = svm.nested_cr3;
  }
  select_space(core);
  // Global pages of the one are none of the other.
  if (core.engine_) core.engine_->space_changed(false);
  core.end_block();
}

void SystemOps::forget_asid(Core& core, std::uint32_t asid) {
  core.nested_tlb_.fill({});
  for (auto& space : core.guest_spaces_)
    if (space.tags && space.asid == asid) space.tags->fill(0);
}

void Core::flush_tlb_all() {
  // Before the first use the tables hold zeros, which are tags of space 0, never given out.
  SystemOps::forget_all_tags(*this);
  walk_ram_ = nullptr;
  SystemOps::select_space(*this);
  if (engine_) engine_->space_changed(false);
  leave_block_ = true;
}

void Core::flush_tlb_non_global() {
  SystemOps::forget_space(*this, current_pcid(s));
  leave_block_ = true;
}

void SystemOps::invalidate_large(Core& core, std::uint64_t linear, unsigned shift) {
  const std::uint64_t page = linear >> shift;
  for (auto& table : core.tlb_)
    for (auto& entry : table)
      if ((entry.read_tag >> shift) == page || (entry.write_tag >> shift) == page)
        entry.read_tag = entry.write_tag = Core::kInvalidTag;
  for (auto& table : core.exec_tlb_)
    for (auto& entry : table)
      if ((entry.tag >> shift) == page) entry.tag = Core::kInvalidTag;
}

void Core::flush_tlb_page(std::uint64_t linear) {
  const std::size_t index = tlb_index(linear);
  for (auto& table : tlb_) table[index].read_tag = table[index].write_tag = kInvalidTag;
  for (auto& table : exec_tlb_) table[index].tag = kInvalidTag;
  // INVLPG forgets every piece of a large page (SDM vol. 3, 4.10.4.1). 22 bits cover the 4 MiB pages of 32-bit paging.
  if (huge_seen_[huge_index(linear)]) SystemOps::invalidate_large(*this, linear, 30);
  else if (large_seen_[large_index(linear)]) SystemOps::invalidate_large(*this, linear, 22);
  if (engine_) engine_->page_flushed(linear);
  leave_block_ = true;
}

std::uint8_t* SystemOps::entry_pointer(Core& core, std::uint64_t gpa, unsigned bytes) {
  const std::uint64_t offset = gpa - core.walk_ram_gpa_;
  if (core.walk_ram_ && offset < core.walk_ram_length_ && core.walk_ram_length_ - offset >= bytes) [[likely]]
    return core.walk_ram_ + offset;
  const mem::Target target = core.deps_.memory.find(gpa);
  if (!target.ram || !target.writable || target.length < bytes) return nullptr;
  core.walk_ram_ = target.ram->data() + target.offset;
  core.walk_ram_gpa_ = gpa;
  core.walk_ram_length_ = target.length;
  core.walk_region_ = target.ram;
  core.walk_region_offset_ = target.offset;
  // Start the window as low as possible, so that tables below this one hit too.
  const std::uint64_t page_start = gpa & ~std::uint64_t{0xFFFFFFF};
  if (page_start < gpa) {
    const mem::Target low = core.deps_.memory.find(page_start);
    if (low.ram == target.ram && low.writable && low.length > gpa - page_start &&
        low.offset + (gpa - page_start) == target.offset) {
      core.walk_ram_ = low.ram->data() + low.offset;
      core.walk_ram_gpa_ = page_start;
      core.walk_ram_length_ = low.length;
      core.walk_region_offset_ = low.offset;
    }
  }
  return core.walk_ram_ + (gpa - core.walk_ram_gpa_);
}

std::uint64_t SystemOps::read_entry(Core& core, std::uint64_t gpa, unsigned bytes) {
  gpa &= core.a20_mask_;
  if (std::uint8_t* const host = entry_pointer(core, gpa, bytes)) [[likely]] {
    // Entries are naturally aligned: their tables are. One load sees one value of a racing writer.
    if (bytes == 4) {
      std::uint32_t value = __atomic_load_n(reinterpret_cast<std::uint32_t*>(host), __ATOMIC_ACQUIRE);
      if constexpr (std::endian::native == std::endian::big) value = byte_swap(value);
      return value;
    }
    std::uint64_t value = __atomic_load_n(reinterpret_cast<std::uint64_t*>(host), __ATOMIC_ACQUIRE);
    if constexpr (std::endian::native == std::endian::big) value = byte_swap(value);
    return value;
  }
  return core.deps_.memory.read(mem::Requester::cpu(core.deps_.index), gpa, bytes);
}

namespace {
template <class T>
bool exchange(std::uint8_t* host, std::uint64_t expected, std::uint64_t value) {
  T from = static_cast<T>(expected), to = static_cast<T>(value);
  if constexpr (std::endian::native == std::endian::big) {
    from = byte_swap(from);
    to = byte_swap(to);
  }
  return __atomic_compare_exchange_n(reinterpret_cast<T*>(host), &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
}  // namespace

bool SystemOps::update_entry(Core& core, std::uint64_t gpa, unsigned bytes, std::uint64_t expected, std::uint64_t set) {
  gpa &= core.a20_mask_;
  const std::uint64_t value = expected | set;
  if (std::uint8_t* const host = entry_pointer(core, gpa, bytes)) [[likely]] {
    if (!(bytes == 4 ? exchange<std::uint32_t>(host, expected, value) : exchange<std::uint64_t>(host, expected, value)))
      return false;
    core.walk_region_->note_write(core.walk_region_offset_ + (gpa - core.walk_ram_gpa_), bytes);
    return true;
  }
  // Tables in ROM or in device memory: no other CPU is in the middle of a change there.
  core.deps_.memory.write(mem::Requester::cpu(core.deps_.index), gpa, value, bytes);
  return true;
}

void SystemOps::note_large(Core& core, std::uint64_t linear, std::uint64_t page_size) {
  if (page_size <= mem::kPageSize) return;
  if (page_size > (std::uint64_t{1} << 22)) {
    core.huge_seen_[Core::huge_index(linear)] = true;
    return;
  }
  core.large_seen_[Core::large_index(linear)] = true;
  if (page_size == std::uint64_t{1} << 22) core.large_seen_[Core::large_index(linear) ^ 1] = true;
}

bool Core::translate(std::uint64_t linear, AccessKind kind, bool user, Translation& out) {
  if (SystemOps::nested(*this)) [[unlikely]] return SystemOps::translate_nested(*this, linear, kind, user, out);
  if (!(s.cr0 & kCr0Pg)) {
    out = {.gpa = static_cast<std::uint32_t>(linear), .page_size = mem::kPageSize, .writable = true, .global = false};
    return true;
  }
  const WalkAccess access{.write = kind == AccessKind::write,
                          .execute = kind == AccessKind::execute,
                          .user = user,
                          .implicit = implicit_access_ || (!user && cpl_ == 3)};
  const WalkLimits limits = walk_limits(model);
  ++page_walks_;
  for (;;) {
    PageWalk walk = walk_pages_with(s, limits, linear, access, [this](std::uint64_t gpa, unsigned bytes) {
      return SystemOps::read_entry(*this, gpa, bytes);
    });
    if (walk.outcome != WalkOutcome::ok) [[unlikely]] {
      if (walk.outcome == WalkOutcome::non_canonical) (void)raise_gp();
      else
        (void)record_fault({.vector = kPF_,
                            .has_error = true,
                            .error = walk.error,
                            .cr2 = s.long_mode_active() ? linear : static_cast<std::uint32_t>(linear)});
      return false;
    }
    bool changed = false;
    for (unsigned i = 0; i < walk.count && !changed; ++i) {
      const WalkEntry& entry = walk.entries[i];
      if (entry.in_register) continue;
      std::uint64_t want = kPageA;
      if (access.write && i + 1u == walk.count) want |= kPageD;
      if ((entry.value & want) == want) continue;
      changed = !SystemOps::update_entry(*this, entry.address, entry.bytes, entry.value, want);
    }
    if (changed) [[unlikely]] continue;  // another CPU changed the entry between the read and the update: walk again
    SystemOps::note_large(*this, linear, walk.page_size);
    out = {.gpa = walk.gpa,
           .page_size = walk.page_size,
           .writable = walk.write_allowed && (access.write || walk.dirty),
           .global = walk.global};
    return true;
  }
}

bool SystemOps::load_pdptes(Core& core, std::uint64_t cr3) {
  if (nested(core)) return true;  // read by each walk (APM vol. 2, 15.25.10)
  std::array<std::uint64_t, 4> loaded;
  const std::uint64_t reserved = pdpte_reserved(walk_limits(core.model));
  for (unsigned i = 0; i < 4; ++i) {
    loaded[i] = read_entry(core, (cr3 & 0xFFFFFFE0) + i * 8, 8);
    if ((loaded[i] & kPageP) && (loaded[i] & reserved)) {
      (void)core.raise_gp();
      return false;
    }
  }
  core.s.pdpte = loaded;
  return true;
}

}  // namespace husk::cpu::interp
