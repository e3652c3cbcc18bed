// husk: page walks of the guest of a VMRUN: through its own tables and the nested ones (APM vol. 2, 15.25)
#include "cpu/interp/core.h"
#include "cpu/interp/svm.h"
#include "cpu/interp/system_ops.h"
#include "cpu/walk_impl.h"

namespace husk::cpu::interp {

namespace {

/// What the walk of nested tables depends on: the host's paging mode, as VMRUN found it. All nested accesses count as
/// user's (APM vol. 2, 15.25.6), so that the host's SMEP, SMAP and protection keys say nothing.
struct NestedRegisters {
  std::uint64_t cr0, cr3, cr4, efer;
  std::uint64_t rflags = 0;
  std::uint32_t pkru = 0;
  std::array<std::uint64_t, 4> pdpte{};
};

NestedRegisters nested_registers(const SvmState& svm) {
  constexpr std::uint64_t kNotForUser = kCr4Smep | kCr4Smap | kCr4Pke;
  return {.cr0 = svm.host.cr0 | kCr0Pg, .cr3 = svm.nested_cr3, .cr4 = svm.host.cr4 & ~kNotForUser, .efer = svm.host.efer};
}

/// Sets A, and D of the last entry. False: another CPU changed an entry meanwhile, and the walk is to be made again.
/// `address_of(i)`: the physical address of entry i.
template <class AddressOf>
bool mark_used(Core& core, const PageWalk& walk, bool write, AddressOf&& address_of) {
  for (unsigned i = 0; i < walk.count; ++i) {
    const WalkEntry& entry = walk.entries[i];
    if (entry.in_register) continue;
    const std::uint64_t want = kPageA | (write && i + 1u == walk.count ? std::uint64_t{kPageD} : 0);
    if ((entry.value & want) == want) continue;
    if (!SystemOps::update_entry(core, address_of(i), entry.bytes, entry.value, want)) return false;
  }
  return true;
}

}  // namespace

bool SystemOps::nested_walk(Core& core, std::uint64_t gpa, const WalkAccess& access, bool of_table, Core::NestedEntry& out) {
  const std::uint64_t page = gpa >> 12;
  Core::NestedEntry& cached = core.nested_tlb_[page % core.nested_tlb_.size()];
  if (cached.page == page << 1 && (!access.write || cached.writable) && (!access.execute || cached.executable)) {
    out = cached;
    return true;
  }
  const NestedRegisters registers = nested_registers(core.s.svm);
  WalkLimits limits = walk_limits(core.model);
  limits.nested = true;
  for (;;) {
    const PageWalk walk = walk_pages_with(registers, limits, gpa, access,
                                          [&](std::uint64_t at, unsigned bytes) { return read_entry(core, at, bytes); });
    if (walk.outcome != WalkOutcome::ok) {
      (void)core.vm_exit(kExitNestedPageFault, walk.error | (of_table ? kNpfTable : kNpfFinal), gpa);
      return false;
    }
    if (!mark_used(core, walk, access.write, [&](unsigned i) { return walk.entries[i].address; })) continue;
    // A page that may be written is taken for one only once D is set.
    cached = {page << 1, walk.gpa & ~std::uint64_t{0xFFF}, walk.write_allowed && (access.write || walk.dirty), !walk.no_execute};
    out = cached;
    return true;
  }
}

bool SystemOps::translate_nested(Core& core, std::uint64_t linear, AccessKind kind, bool user, Translation& out) {
  CpuState& s = core.s;
  const WalkAccess access{.write = kind == AccessKind::write,
                          .execute = kind == AccessKind::execute,
                          .user = user,
                          .implicit = core.implicit_access_ || (!user && core.cpl_ == 3)};
  const WalkAccess final_access{.write = access.write, .execute = access.execute, .user = true, .implicit = false};
  // Reads of the guest's tables count as writes, since they may set A and D.
  constexpr WalkAccess kTableAccess{.write = true, .execute = false, .user = true, .implicit = false};
  WalkLimits limits = walk_limits(core.model);
  if (paging_mode(s) == PagingMode::pae) limits.nested = true;
  ++core.page_walks_;
  for (;;) {
    std::array<std::uint64_t, 5> hosts{};
    unsigned tables = 0;
    bool left = false;
    Core::NestedEntry nested_page;
    const PageWalk walk = walk_pages_with(s, limits, limits.nested ? static_cast<std::uint32_t>(linear) : linear, access,
                                          [&](std::uint64_t at, unsigned bytes) -> std::uint64_t {
                                            left = left || !nested_walk(core, at, kTableAccess, true, nested_page);
                                            if (left) return 0;
                                            hosts[tables] = nested_page.host | (at & 0xFFF);
                                            return read_entry(core, hosts[tables++], bytes);
                                          });
    if (left) return false;
    if (walk.outcome == WalkOutcome::non_canonical) {
      (void)core.raise_gp();
      return false;
    }
    if (walk.outcome != WalkOutcome::ok) {
      (void)core.record_fault({.vector = kPF_,
                               .has_error = true,
                               .error = walk.error,
                               .cr2 = s.long_mode_active() ? linear : static_cast<std::uint32_t>(linear)});
      return false;
    }
    if (!mark_used(core, walk, access.write, [&](unsigned i) { return hosts[i]; })) continue;
    if (!nested_walk(core, walk.gpa, final_access, false, nested_page)) return false;
    note_large(core, linear, walk.page_size);
    out = {.gpa = nested_page.host | (walk.gpa & 0xFFF),
           .page_size = mem::kPageSize,
           .writable = walk.write_allowed && (access.write || walk.dirty) && nested_page.writable,
           .global = walk.global};
    return true;
  }
}

}  // namespace husk::cpu::interp
