// husk: the pieces of code that all translated code shares: ways in and out, TLB look-up, indirect branches
#include <cstddef>

#include "cpu/jit/engine.h"

namespace husk::cpu::jit {

// The mapping of guest registers (docs/jit.md): all but RSP, R10, R11 and R15 are in the host registers of the same
// name. Guest RSP is in R15. R10, R11 and R15 of the guest stay in CpuState; the host's R10 and R11 are for the
// translator.

namespace {
constexpr std::uint8_t kHomes[] = {kHostRax, kHostRcx, kHostRdx, kHostRbx, kHostRbp, kHostRsi,
                                   kHostRdi, kHostR8,  kHostR9,  kHostR12, kHostR13, kHostR14};
constexpr std::uint8_t kCalleeSaved[] = {kHostRbx, kHostRbp, kHostR12, kHostR13, kHostR14, kHostR15};
}  // namespace

void Engine::emit_spill_flags(Emitter& e) const {
  e.mov(kHostR11, kHostRax);
  e.byte(0x9F);                                                       // lahf
  e.bytes(reinterpret_cast<const std::uint8_t*>("\x0F\x90\xC0"), 3);  // seto al
  e.byte(0x66);
  e.byte(0x65);
  e.rm(0x89, kHostRax, {HostAddress::kNone, HostAddress::kNone, 0, gs(context_.flags)}, false);
  e.mov(kHostRax, kHostR11);
}

void Engine::emit_restore_flags(Emitter& e, unsigned spare) const {
  e.mov(spare, kHostRax);
  e.gs(0xB70F, kHostRax, gs(context_.flags), false);  // movzx eax, word
  e.byte(0x04);                                       // add al, 7Fh: OF from bit 0
  e.byte(0x7F);
  e.byte(0x9E);  // sahf
  e.mov(kHostRax, spare);
}

void Engine::emit_save_registers(Emitter& e) const {
  for (const std::uint8_t home : kHomes) e.store_gs(gs(core_.s.gpr[home]), home);
  e.store_gs(gs(core_.s.gpr[kRsp]), kHostR15);
}

void Engine::emit_load_registers(Emitter& e) const {
  for (const std::uint8_t home : kHomes) e.load_gs(home, gs(core_.s.gpr[home]));
  e.load_gs(kHostR15, gs(core_.s.gpr[kRsp]));
}

/// Entered with RSP aligned to 16 and the argument in R11; the flags are spilled.
std::uint8_t* Engine::emit_trampoline(Emitter& e, Glue glue) {
  std::uint8_t* const start = e.at;
  e.store_gs(gs(context_.stack_pointer), kHostRsp);
  emit_save_registers(e);
  e.gs(0xC6, 0, gs(context_.reload_vectors), false);
  e.byte(0);
  e.cmp_gs_byte(gs(context_.vectors_away), 0);
  std::uint8_t* const not_resident = e.jcc_short(kNotZero);
  e.call(stubs_.save_vectors);
  e.gs(0xC6, 0, gs(context_.reload_vectors), false);
  e.byte(1);
  e.bind_short(not_resident);
  e.gs(0xC6, 0, gs(context_.reload_x87), false);
  e.byte(0);
  e.cmp_gs_byte(gs(context_.x87_resident), 0);
  std::uint8_t* const no_x87 = e.jcc_short(kZero);
  e.call(stubs_.save_x87);
  e.gs(0xC6, 0, gs(context_.reload_x87), false);
  e.byte(1);
  e.bind_short(no_x87);
  e.load_gs(kHostRdi, gs(context_.self));
  e.mov(kHostRsi, kHostR11);
  e.mov_imm(kHostRax, reinterpret_cast<std::uintptr_t>(glue));
  e.bytes(reinterpret_cast<const std::uint8_t*>("\xFF\xD0"), 2);  // call rax
  e.store_gs(gs(context_.resume), kHostRax);
  e.cmp_gs_byte(gs(context_.reload_vectors), 0);
  std::uint8_t* const no_reload = e.jcc_short(kZero);
  e.call(stubs_.load_vectors);
  e.bind_short(no_reload);
  e.cmp_gs_byte(gs(context_.reload_x87), 0);
  std::uint8_t* const no_x87_reload = e.jcc_short(kZero);
  e.gs(0xDD, 4, gs(context_.x87[0]), false);  // frstor
  e.gs(0xC6, 0, gs(context_.x87_resident), false);
  e.byte(1);
  e.bind_short(no_x87_reload);
  emit_restore_flags(e, kHostR11);
  emit_load_registers(e);
  e.load_gs(kHostRsp, gs(context_.stack_pointer));
  e.gs(0xFF, 4, gs(context_.resume), false);  // jmp
  return start;
}

/// Goes on where that field of the MemorySite in R11 says.
void Engine::emit_jump_to(Emitter& e, std::size_t field) const {
  e.rm(0x8B, kHostR11, {kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(field)}, false);
  e.gs(0x03, kHostR11, gs(context_.code));
  e.jmp_reg(kHostR11);
}

/// A store to RDX's page, which is not in the TLB as writable: R10 linear address, R11 MemorySite, RAX to RDX free.
/// Falls through if the interpreter is to do it.
void Engine::emit_beside(Emitter& e, unsigned mmu_index) {
  const auto site = [](std::size_t offset) {
    return HostAddress{kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(offset)};
  };
  const auto entry = [&](std::size_t offset) {
    return gs(context_.beside[mmu_index][0]) + static_cast<std::int32_t>(offset);
  };
  static_assert(sizeof(BesidePage) == 32);
  std::uint8_t* others[6];
  e.mov(kHostRax, kHostRdx);
  e.shift_imm(5, kHostRax, 12);
  e.alu_imm(4, kHostRax, kBesidePages - 1, false);
  e.shift_imm(4, kHostRax, 5, false);
  e.gs(0x3B, kHostRdx, entry(offsetof(BesidePage, page)), true, kHostRax);
  others[0] = e.jcc_forward(kNotZero);
  // RDX is the page of the last byte.
  e.rr(0x33, kHostRdx, kHostR10);
  e.rm(0xB70F, kHostRcx, site(offsetof(MemorySite, room)), false);  // movzx
  e.rr(0x3B, kHostRdx, kHostRcx);
  others[1] = e.jcc_forward(kAbove);
  // A bit number in a register is taken modulo 64: no operand is larger than a granule, so its ends tell.
  e.gs(0x8B, kHostRdx, entry(offsetof(BesidePage, granules)), true, kHostRax);
  e.mov(kHostRcx, kHostR10);
  e.shift_imm(5, kHostRcx, 6);
  e.rr(0xA30F, kHostRcx, kHostRdx);  // bt
  others[2] = e.jcc_forward(kBelow);
  e.rm(0xB70F, kHostRcx, site(offsetof(MemorySite, last)), false);
  e.rr(0x03, kHostRcx, kHostR10);
  e.shift_imm(5, kHostRcx, 6);
  e.rr(0xA30F, kHostRcx, kHostRdx);
  others[3] = e.jcc_forward(kBelow);
  e.rm(0x83, 7, site(offsetof(MemorySite, checked)), false);  // cmp dword, 0
  e.byte(0);
  others[5] = e.jcc_forward(kZero);
  e.gs(0x83, 5, entry(offsetof(BesidePage, writes)), true, kHostRax);  // sub, 1
  e.byte(1);
  others[4] = e.jcc_forward(kBelow);
  e.rm(0x80, 7, site(offsetof(MemorySite, adds_base)), false);  // cmp byte, 0
  e.byte(0);
  std::uint8_t* const whole = e.jcc_short(kZero);
  e.mov_imm(kHostR10, 0);
  e.bind_short(whole);
  e.gs(0x03, kHostR10, entry(offsetof(BesidePage, addend)), true, kHostRax);
  e.load_gs(kHostRax, gs(context_.rax));
  e.load_gs(kHostRcx, gs(context_.rcx));
  e.load_gs(kHostRdx, gs(context_.rdx));
  emit_jump_to(e, offsetof(MemorySite, checked));
  for (std::uint8_t* other : others) e.bind(other);
}

void Engine::emit_misses(Emitter& e, unsigned mmu_index, bool write, const std::uint8_t* wander) {
  using TlbEntry = interp::Core::TlbEntry;
  static_assert(sizeof(TlbEntry) == 32 && sizeof(TlbSlot) == 16);
  const auto site = [](std::size_t offset) {
    return HostAddress{kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(offset)};
  };
  const std::int32_t table = gs(context_.tlb[mmu_index][write][0]);
  const auto tlb_index = [&] {  // RAX: distance of R10's entry in the table
    e.mov(kHostRax, kHostR10);
    e.shift_imm(5, kHostRax, 8);
    e.alu_imm(4, kHostRax, static_cast<std::int32_t>((kTlbEntries - 1) << 4), false);
  };
  const auto restore = [&] {
    e.load_gs(kHostRax, gs(context_.rax));
    e.load_gs(kHostRcx, gs(context_.rcx));
    e.load_gs(kHostRdx, gs(context_.rdx));
  };

  // The table's entry from the interpreter's TLB, then as if it had been there.
  std::uint8_t* const from_core = e.at;
  if (count_) {
    e.gs(0x83, 0, gs(context_.hot.table_misses));  // add qword, 1
    e.byte(1);
  }
  e.rm(0x84, kHostR10, site(offsetof(MemorySite, align_mask)), false);  // test byte
  std::uint8_t* const misaligned = e.jcc_forward(kNotZero);
  // Core::tlb_index()
  e.mov(kHostRax, kHostR10);
  e.shift_imm(5, kHostRax, 12);
  e.mov(kHostRcx, kHostRax);
  e.shift_imm(5, kHostRcx, interp::Core::kTlbBits);
  e.rr(0x33, kHostRax, kHostRcx, false);
  e.alu_imm(4, kHostRax, interp::Core::kTlbSize - 1, false);
  e.shift_imm(4, kHostRax, 5);
  e.rm(0xB70F, kHostRcx, site(offsetof(MemorySite, last)), false);  // movzx
  e.rr(0x03, kHostRcx, kHostR10);
  e.alu_imm(4, kHostRcx, -4096);
  e.mov(kHostRdx, kHostRcx);
  e.gs(0x0B, kHostRcx, gs(core_.pcid_));
  const std::int32_t core_tlb = gs(core_.tlb_[mmu_index][0]);
  const auto tag = static_cast<std::int32_t>(write ? offsetof(TlbEntry, write_tag) : offsetof(TlbEntry, read_tag));
  e.gs(0x3B, kHostRcx, core_tlb + tag, true, kHostRax);
  std::uint8_t* const miss = e.jcc_forward(kNotZero);
  e.gs(0x8B, kHostRcx, core_tlb + static_cast<std::int32_t>(offsetof(TlbEntry, addend)), true, kHostRax);
  e.rr(0x03, kHostRcx, kHostRdx);  // host page
  if (mmu_index == interp::Core::kMmuSupervisor) {
    e.gs(0x83, 7, core_tlb + static_cast<std::int32_t>(offsetof(TlbEntry, global)), true, kHostRax);
    e.byte(0);
    std::uint8_t* const global = e.jcc_short(kNotZero);
    e.gs(0xC6, 0, gs(context_.local_supervisor), false);
    e.byte(1);
    e.bind_short(global);
  }
  tlb_index();
  if (write) {
    e.push(kHostRcx);
    e.push(kHostRax);
    e.shift_imm(5, kHostRax, 3);
    e.shift_imm(5, kHostRcx, 12);
    e.byte(0x66);
    e.gs(0x89, kHostRcx, gs(context_.tlb_host_tags[mmu_index][0]), false, kHostRax);
    e.pop(kHostRax);
    e.pop(kHostRcx);
  }
  e.gs(0xF6, 0, table, false, kHostRax);  // test byte: listed?
  e.byte(kEmpty);
  std::uint8_t* const listed = e.jcc_short(kZero);
  e.gs(0x89, kHostRcx, table + 8, true, kHostRax);
  e.load_gs(kHostRcx, gs(context_.filled_bytes[mmu_index]), false);
  e.lea(kHostRax, {kHostRax, HostAddress::kNone, 0, table}, false);
  e.gs(0x89, kHostRax, gs(context_.filled[mmu_index][0]), false, kHostRcx);
  e.gs(0x83, 0, gs(context_.filled_bytes[mmu_index]), false);  // add dword, 4
  e.byte(4);
  e.gs(0x89, kHostRdx, 0, true, kHostRax);
  std::uint8_t* const entered = e.jmp_forward();
  e.bind_short(listed);
  e.gs(0x89, kHostRcx, table + 8, true, kHostRax);
  e.gs(0x89, kHostRdx, table, true, kHostRax);
  e.bind(entered);
  restore();
  e.rm(0x83, 7, site(offsetof(MemorySite, slot)), false);  // cmp dword, 0
  e.byte(0);
  std::uint8_t* const has_slot = e.jcc_forward(kNotZero);
  // The site has no slot: it looks in the table again.
  emit_jump_to(e, offsetof(MemorySite, resume));
  e.bind(miss);
  if (write) emit_beside(e, mmu_index);
  e.bind(misaligned);
  restore();
  e.store_gs(gs(context_.missed), kHostR10);
  e.jmp(stubs_.missed);

  stubs_.retry[mmu_index][write] = e.at;
  e.load_gs(kHostR10, gs(context_.missed));
  e.load_gs(kHostR11, gs(context_.missed_site));
  e.store_gs(gs(context_.rax), kHostRax);
  e.store_gs(gs(context_.rcx), kHostRcx);
  e.store_gs(gs(context_.rdx), kHostRdx);
  e.jmp(from_core);

  stubs_.tlb_miss[mmu_index][write] = e.at;
  e.store_gs(gs(context_.rax), kHostRax);
  e.store_gs(gs(context_.rcx), kHostRcx);
  e.store_gs(gs(context_.rdx), kHostRdx);
  e.jmp(from_core);

  stubs_.slot_miss[mmu_index][write] = e.at;
  if (count_) {
    e.gs(0x83, 0, gs(context_.hot.slot_misses));
    e.byte(1);
  }
  e.byte(0x66);
  e.rm(0x83, 5, site(offsetof(MemorySite, patience)), false);  // sub word, 1
  e.byte(1);
  e.jcc(kZero, wander);
  e.bind(has_slot);
  e.store_gs(gs(context_.rax), kHostRax);
  e.store_gs(gs(context_.rcx), kHostRcx);
  e.store_gs(gs(context_.rdx), kHostRdx);
  tlb_index();
  e.gs(0x8B, kHostRcx, table, true, kHostRax);
  e.rr(0x33, kHostR10, kHostRcx);  // offset in the page, if it is that
  e.rm(0xB70F, kHostRdx, site(offsetof(MemorySite, room)), false);
  e.rr(0x3B, kHostR10, kHostRdx);
  std::uint8_t* const other_page = e.jcc_forward(kAbove);
  e.rm(0x84, kHostR10, site(offsetof(MemorySite, align_mask)), false);
  std::uint8_t* const unaligned = e.jcc_forward(kNotZero);
  e.rm(0x8B, kHostRdx, site(offsetof(MemorySite, slot)), false);
  e.rr(0x03, kHostR10, kHostRcx);  // the linear address again
  // A walk from page to page is what slots are good at: it does not count as wandering. To and fro, as a stack goes,
  // does.
  e.mov(kHostRax, kHostRcx);
  e.gs(0x2B, kHostRax, offsetof(DataSlot, page), true, kHostRdx);
  e.alu_imm(7, kHostRax, 4096);
  std::uint8_t* const far = e.jcc_short(kNotZero);
  e.byte(0x66);
  e.rm(0x83, 0, site(offsetof(MemorySite, patience)), false);  // add word, 1
  e.byte(1);
  e.bind_short(far);
  tlb_index();
  e.gs(0x8B, kHostRax, table + 8, true, kHostRax);
  e.rr(0x2B, kHostRax, kHostRcx);
  e.gs(0x89, kHostRax, offsetof(DataSlot, addend), true, kHostRdx);
  e.push(kHostR10);
  e.mov(kHostR10, kHostRdx);
  e.shift_imm(5, kHostR10, 3);  // a slot has 16 bytes, a tag two
  const std::int32_t to_number = -gs(context_.slots[0]) / 8;
  if (write) {
    e.rr(0x03, kHostRax, kHostRcx);
    e.shift_imm(5, kHostRax, 12);
    e.byte(0x66);
    e.gs(0x89, kHostRax, gs(context_.host_tags[0]) + to_number, false, kHostR10);
  }
  e.mov(kHostRax, kHostRcx);
  e.shift_imm(5, kHostRax, 12);
  e.byte(0x66);
  e.gs(0x89, kHostRax, gs(context_.linear_tags[0]) + to_number, false, kHostR10);
  e.pop(kHostR10);
  e.gs(0xF6, 0, offsetof(DataSlot, page), false, kHostRdx);  // test byte
  e.byte(kEmpty);
  e.gs(0x89, kHostRcx, offsetof(DataSlot, page), true, kHostRdx);
  std::uint8_t* const in_list = e.jcc_short(kZero);
  e.load_gs(kHostRcx, gs(context_.filled_bytes[mmu_index]), false);
  e.gs(0x89, kHostRdx, gs(context_.filled[mmu_index][0]), false, kHostRcx);
  e.gs(0x83, 0, gs(context_.filled_bytes[mmu_index]), false);
  e.byte(4);
  e.bind_short(in_list);
  restore();
  emit_jump_to(e, offsetof(MemorySite, resume));
  e.bind(other_page);
  e.bind(unaligned);
  e.rr(0x33, kHostR10, kHostRcx);
  e.jmp(from_core);
}

/// R10: guest address. The flags are spilled, and stay so: who wants them restores them. `slow` has the jump looked up.
void Engine::emit_indirect(Emitter& e, unsigned table, const std::uint8_t* slow) const {
  const std::int32_t entries = gs(context_.jumps[table][0]);
  e.cmp_gs_imm8(gs(core_.attention_), 0);
  e.jcc(kNotZero, slow);
  // jump_index(), times the size of an entry
  static_assert(sizeof(JumpEntry) == 16);
  e.mov(kHostR11, kHostR10, false);
  e.shift_imm(5, kHostR11, kJumpBits, false);
  e.rr(0x33, kHostR11, kHostR10, false);
  e.alu_imm(4, kHostR11, kJumpEntries - 1, false);
  e.shift_imm(4, kHostR11, 4, false);
  e.gs(0x3B, kHostR10, entries + static_cast<std::int32_t>(offsetof(JumpEntry, rip)), true, kHostR11);
  e.jcc(kNotZero, slow);
  e.gs(0x8B, kHostR11, entries + static_cast<std::int32_t>(offsetof(JumpEntry, host)), true, kHostR11);
  e.alu_imm(4, kHostR10, -4096);
  e.store_gs(gs(context_.page_base), kHostR10);
  e.jmp_reg(kHostR11);
}

void Engine::emit_string(Emitter& e, unsigned mmu_index, bool fill, unsigned shift) {
  stubs_.string[mmu_index][fill][shift] = e.at;
  // RAX is what STOS stores.
  const unsigned spare = fill ? kHostRdx : kHostRax;
  const auto restore = [&] {
    e.load_gs(kHostRdx, gs(context_.rdx));
    if (!fill) e.load_gs(kHostRax, gs(context_.rax));
  };
  std::uint8_t* stops[3] = {};
  /// Has `distance` be what is added to the address in `reg`, which must lie in a page that the table has.
  const auto look_up = [&](unsigned reg, bool write, unsigned distance, StringStop stop) {
    const std::int32_t table = gs(context_.tlb[mmu_index][write][0]);
    e.mov(kHostR11, reg);
    e.shift_imm(5, kHostR11, 8);
    e.alu_imm(4, kHostR11, static_cast<std::int32_t>((kTlbEntries - 1) << 4), false);
    e.mov(spare, reg);
    e.alu_imm(4, spare, -4096);
    e.gs(0x3B, spare, table, true, kHostR11);
    std::uint8_t* const found = e.jcc_short(kZero);
    e.mov(kHostR10, reg);
    e.mov_imm(kHostR11, stop);
    stops[stop] = e.jmp_forward();
    e.bind_short(found);
    e.gs(0x8B, distance, table + 8, true, kHostR11);
    e.rr(0x2B, distance, spare);
  };
  const std::uint8_t* const again = e.at;
  e.store_gs(gs(context_.rdx), kHostRdx);
  if (!fill) e.store_gs(gs(context_.rax), kHostRax);
  e.cmp_gs_imm8(gs(core_.attention_), 0);
  std::uint8_t* others[3] = {e.jcc_forward(kNotZero)};
  // An element across pages is looked at whole, before anything is done about where it goes.
  const auto keeps_to_page = [&](unsigned reg) {
    e.mov(spare, reg, false);
    e.alu_imm(4, spare, 4095, false);
    e.alu_imm(7, spare, 4096 - (1 << shift), false);
    return e.jcc_forward(kAbove);
  };
  if (shift && !fill) others[1] = keeps_to_page(kHostRsi);
  if (shift) others[2] = keeps_to_page(kHostRdi);
  if (!fill) look_up(kHostRsi, false, kHostR10, kLoadMissed);
  if (!fill) e.store_gs(gs(context_.value), kHostR10);
  look_up(kHostRdi, true, kHostR11, kStoreMissed);
  if (!fill) e.load_gs(kHostR10, gs(context_.value));
  // Elements up to the end of the page that ends first.
  e.mov(spare, kHostRdi, false);
  e.alu_imm(4, spare, 4095, false);
  if (!fill) {
    e.mov(kHostRdx, kHostRsi, false);
    e.alu_imm(4, kHostRdx, 4095, false);
    e.rr(0x3B, kHostRax, kHostRdx, false);
    e.cmov(kBelow, kHostRax, kHostRdx, false);
  }
  e.negate(spare, false);
  e.alu_imm(0, spare, 4096, false);
  if (shift) e.shift_imm(5, spare, shift, false);
  e.rr(0x3B, spare, kHostRcx);
  e.cmov(kAbove, spare, kHostRcx);
  // What is left then goes where RDX is free, or to R10.
  const unsigned left = fill ? kHostR10 : kHostRdx;
  e.rr(0x2B, kHostRcx, spare);
  e.mov(left, kHostRcx);
  e.mov(kHostRcx, spare);
  e.rr(0x03, kHostRdi, kHostR11);
  if (!fill) e.rr(0x03, kHostRsi, kHostR10);
  e.byte(0xF3);
  if (shift == 1) e.byte(0x66);
  if (shift == 3) e.byte(0x48);
  e.byte((fill ? 0xAAu : 0xA4u) | (shift ? 1u : 0u));
  if (!fill) e.rr(0x2B, kHostRsi, kHostR10);
  e.rr(0x2B, kHostRdi, kHostR11);
  e.mov(kHostRcx, left);
  restore();
  e.rr(0x85, kHostRcx, kHostRcx);
  e.jcc(kNotZero, again);
  e.ret();

  for (std::uint8_t* other : others)
    if (other) e.bind(other);
  e.mov_imm(kHostR11, kNotByCode);
  for (std::uint8_t* stop : stops)
    if (stop) e.bind(stop);
  restore();
  e.ret();
}

void Engine::make_stubs() {
  Emitter e;
  e.at = cache_.hot();

  // Vector registers as the host keeps them, 16 of them whatever the guest's mode. VEX moves of 16 bytes clear the
  // rest.
  const auto move_vector = [&](unsigned opcode, unsigned reg, std::int32_t at, bool wide) {
    e.byte(0x65);
    if (host_avx_) {
      e.byte(0xC5);
      e.byte((reg < 8 ? 0xFA : 0x7A) | (wide ? 4u : 0u));  // vmovdqu
    } else {
      e.byte(0xF3);  // movdqu
      if (reg >= 8) e.byte(0x44);
      e.byte(0x0F);
    }
    e.byte(opcode);
    e.byte(0x04 | (reg & 7) << 3);
    e.byte(0x25);
    e.dword(static_cast<std::uint32_t>(at));
  };
  const auto vectors = [&](bool load, bool wide) {
    for (unsigned i = 0; i < 16; ++i) move_vector(load ? 0x6F : 0x7F, i, gs(core_.s.vector[i].bytes), wide);
    e.gs(0xC6, 0, gs(context_.vectors_away), false);
    e.byte(!load);
  };

  stubs_.save_vectors = e.at;
  vectors(false, true);
  if (host_avx_) e.bytes(reinterpret_cast<const std::uint8_t*>("\xC5\xF8\x77"), 3);  // vzeroupper
  e.gs(0xAE0F, 3, gs(core_.s.mxcsr), false);                                         // stmxcsr
  e.gs(0xAE0F, 2, gs(context_.host_mxcsr), false);                                   // ldmxcsr
  e.ret();
  stubs_.load_vectors = e.at;
  e.gs(0xAE0F, 2, gs(core_.s.mxcsr), false);
  if (host_avx_) {
    // Upper halves that are in use make SSE code merge with them, which is slow: they are loaded only if one is not
    // zero.
    move_vector(0x6F, 0, gs(core_.s.vector[0].bytes) + 16, false);
    for (unsigned i = 1; i < 16; ++i) {
      e.byte(0x65);
      e.bytes(reinterpret_cast<const std::uint8_t*>("\xC5\xF9\xEB\x04\x25"), 5);  // vpor xmm0, xmm0, [...]
      e.dword(static_cast<std::uint32_t>(gs(core_.s.vector[i].bytes) + 16));
    }
    e.bytes(reinterpret_cast<const std::uint8_t*>("\xC4\xE2\x79\x17\xC0"), 5);  // vptest xmm0, xmm0
    std::uint8_t* const in_use = e.jcc_forward(kNotZero);
    vectors(true, false);
    e.ret();
    e.bind(in_use);
  }
  vectors(true, true);
  e.ret();
  stubs_.need_vectors = e.at;
  e.push(kHostR11);
  e.jmp(stubs_.load_vectors);

  stubs_.save_x87 = e.at;
  e.gs(0xDD, 6, gs(context_.x87[0]), false);  // fnsave
  e.gs(0xC6, 0, gs(context_.x87_resident), false);
  e.byte(0);
  e.gs(0xC6, 0, gs(context_.x87_saved), false);
  e.byte(1);
  e.ret();

  // void enter(Core* rdi, const void* code rsi)
  stubs_.enter = e.at;
  for (const std::uint8_t reg : kCalleeSaved) e.push(reg);
  e.bytes(reinterpret_cast<const std::uint8_t*>("\xF3\x48\x0F\xAE\xDF"), 5);  // wrgsbase rdi
  e.gs(0xAE0F, 3, gs(context_.host_mxcsr), false);                            // stmxcsr
  e.store_gs(gs(context_.host_rsp), kHostRsp);
  e.store_gs(gs(context_.resume), kHostRsi);
  // Entered by a call, with six pushes: RSP is 8 off a multiple of 16. The bottom of the return stack is a pair that
  // matches no guest address, and leads to a look-up should it match all the same.
  e.lea(kHostRsp, {kHostRsp, HostAddress::kNone, 0, -8});
  e.mov_imm(kHostRax, invalid_page_);
  e.push(kHostRax);
  std::uint8_t* const base_return_place = e.at + 3;
  e.lea_rip(kHostRax, e.at);
  e.push(kHostRax);
  e.store_gs(gs(context_.return_stack), kHostRsp);
  constexpr std::int32_t kReturnStackBytes = 64 << 10;
  e.lea(kHostRax, {kHostRsp, HostAddress::kNone, 0, -kReturnStackBytes});
  e.store_gs(gs(context_.return_stack_limit), kHostRax);
  emit_restore_flags(e, kHostR11);
  emit_load_registers(e);
  e.gs(0xFF, 4, gs(context_.resume), false);

  stubs_.exit_host = e.at;
  emit_spill_flags(e);
  stubs_.exit_spilled = e.at;
  emit_save_registers(e);
  e.cmp_gs_byte(gs(context_.vectors_away), 0);
  std::uint8_t* const not_resident = e.jcc_short(kNotZero);
  e.call(stubs_.save_vectors);
  e.bind_short(not_resident);
  e.cmp_gs_byte(gs(context_.x87_resident), 0);
  std::uint8_t* const no_x87 = e.jcc_short(kZero);
  e.call(stubs_.save_x87);
  e.bind_short(no_x87);
  e.load_gs(kHostRsp, gs(context_.host_rsp));
  for (std::size_t i = std::size(kCalleeSaved); i-- > 0;) e.pop(kCalleeSaved[i]);
  e.ret();

  stubs_.slow = emit_trampoline(e, &Engine::glue_slow);
  stubs_.missed = emit_trampoline(e, &Engine::glue_missed);
  stubs_.heated = emit_trampoline(e, &Engine::glue_heated);
  stubs_.heated_inside = emit_trampoline(e, &Engine::glue_heated_inside);
  stubs_.call_host = e.at;
  // R11 is the argument: the spill must not use it.
  e.store_gs(gs(context_.value), kHostR11);
  emit_spill_flags(e);
  e.load_gs(kHostR11, gs(context_.value));
  stubs_.call_spilled = emit_trampoline(e, &Engine::glue_call);
  stubs_.link_host = e.at;
  e.store_gs(gs(context_.value), kHostR11);
  emit_spill_flags(e);
  e.load_gs(kHostR11, gs(context_.value));
  (void)emit_trampoline(e, &Engine::glue_link);
  stubs_.need_x87 = emit_trampoline(e, &Engine::glue_need_x87);
  std::uint8_t* const wander = emit_trampoline(e, &Engine::glue_wander);
  for (unsigned mmu_index = 0; mmu_index < 3; ++mmu_index)
    for (const bool write : {false, true}) emit_misses(e, mmu_index, write, wander);
  stubs_.look_up = e.at;
  e.store_gs(gs(context_.jump_target), kHostR10);
  (void)emit_trampoline(e, &Engine::glue_indirect);
  for (unsigned table = 0; table < 3; ++table) {
    stubs_.indirect[table] = e.at;
    emit_indirect(e, table, stubs_.look_up);
  }
  for (unsigned mmu_index = 0; mmu_index < 3; ++mmu_index)
    for (const bool fill : {false, true})
      for (unsigned shift = 0; shift < 4; ++shift) emit_string(e, mmu_index, fill, shift);
  stubs_.base_return = e.at;
  Emitter::set_relative(base_return_place, e.at);
  e.lea(kHostRsp, {kHostRsp, HostAddress::kNone, 0, -8});
  // The privilege is not known here: the slow way does not ask.
  e.jmp(stubs_.look_up);
  cache_.use(e.at, cache_.cold());
}

}  // namespace husk::cpu::jit
