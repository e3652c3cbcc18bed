// husk: translated control flow, stack and the few instructions that are neither copied nor called
#include <bit>

#include "cpu/jit/translator.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {

// ---- ends of blocks ----

LinkSite& Translator::new_link(std::int64_t target) {
  LinkSite& site = e_.cache_.new_link_site();
  site.unlinked = e_.cache_.place(cold_.at);
  site.offset = static_cast<std::uint16_t>(target & 0xFFF);
  site.counts = hot_form_ || second_;
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  cold_.jmp(e_.stubs_.link_host);
  return site;
}

void Translator::emit_link(std::int64_t target, bool call, bool looked_up) {
  std::uint8_t* const ask = cold_.at;
  LinkSite& site = new_link(target);
  // No round is without a call or a jump back. Behind what runs often every way is looked at.
  site.counts |= call || target < static_cast<std::int64_t>(end_);
  const bool here = target >= 0 && target < static_cast<std::int64_t>(mem::kPageSize);
  if (here && !looked_up) {
    keep_patches_off_entry();
    if (call)
      hot_.call(ask);
    else
      hot_.jmp(ask);
    site.place = e_.cache_.place(hot_.at - 4);
    return;
  }
  // Which code lies in the other page is known only as long as the mapping holds: the jump goes through memory that is
  // reset with it. The address itself is relative, since the same page may be mapped elsewhere by another process.
  const std::int64_t page = target & ~std::int64_t{0xFFF};
  if (!here) {
    hot_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
    hot_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(page)}, wide_);
    hot_.store_gs(e_.gs(e_.context_.page_base), kHostR11);
  }
  while (reinterpret_cast<std::uintptr_t>(cold_.at) % 8) cold_.byte(0xCC);
  site.far = true;
  const std::uint8_t* const slot = cold_.at;
  site.place = e_.cache_.place(slot);
  cold_.qword(reinterpret_cast<std::uintptr_t>(e_.cache_.running_at(site.unlinked)));
  hot_.byte(0xFF);  // jmp or call [rip + slot]
  hot_.byte(call ? 0x15 : 0x25);
  hot_.dword(0);
  Emitter::set_relative(hot_.at - 4, slot);
}

void Translator::keep_patches_off_entry() {
  // Where a dropped block begins a jump is written over it (CodeCache::forward()), while its links may still change.
  static constexpr std::uint8_t kNop5[] = {0x0F, 0x1F, 0x44, 0x00, 0x00};
  if (hot_.at < entry_ + sizeof kNop5) hot_.bytes(kNop5, sizeof kNop5);
}

void Translator::emit_link_if(unsigned condition, std::int64_t target) {
  std::uint8_t* const ask = cold_.at;
  LinkSite& site = new_link(target);
  keep_patches_off_entry();
  hot_.jcc(condition, ask);
  site.place = e_.cache_.place(hot_.at - 4);
}

void Translator::emit_cold_exit(std::int64_t target) {
  if (flags_ == Flags::gone) emit_recipe(cold_);
  cold_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
  cold_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(target)}, wide_);
  cold_.store_gs(e_.gs(core_.s.rip), kHostR11);
  cold_.jmp(flags_ == Flags::spilled ? e_.stubs_.exit_spilled : e_.stubs_.exit_host);
}

void Translator::emit_attention_check(std::int64_t target, std::uint16_t live) {
  if (flags_ == Flags::host && live) {
    emit_cold_unless_zero(0x8B, e_.gs(core_.attention_));
  } else {
    hot_.cmp_gs_imm8(e_.gs(core_.attention_), 0);
    hot_.jcc(kNotZero, cold_.at);
  }
  emit_cold_exit(target);
}

void Translator::emit_exit(std::int64_t target, std::uint16_t live) {
  // Interrupts are taken at the back edges: no loop is without one.
  if (target < static_cast<std::int64_t>(end_)) emit_attention_check(target, live);
  if (live) want_flags();
  emit_link(target, false);
}

void Translator::emit_jcc(const Item& item) {
  const auto condition = static_cast<unsigned>(item.insn.imm2 & 15);
  const std::int64_t behind = std::int64_t{item.offset} + item.insn.length;
  const std::int64_t target = behind + static_cast<std::int64_t>(item.insn.imm);
  want_flags();
  if (target >= behind && target < static_cast<std::int64_t>(mem::kPageSize)) {
    emit_link_if(condition, target);
    if (item.runs_on) return;
  } else {
    std::uint8_t* const not_taken = hot_.jcc_forward(condition ^ 1);
    if (carried_count_) {
      emit_rounds(condition, not_taken, target);
    } else {
      emit_exit(target, flags_wanted(target));
      hot_.bind(not_taken);
      flags_ = Flags::host;
    }
  }
  emit_exit(behind, flags_wanted(behind));
}

void Translator::emit_loop(const Item& item) {
  const Insn& insn = item.insn;
  const bool is_loop = e_.plans_[insn.form].way == Way::loop;
  const bool wide = insn.addr_size == 8;
  const std::int64_t behind = end_;
  const std::int64_t target = behind + static_cast<std::int64_t>(insn.imm);
  if (item.live_in) want_flags();
  if (is_loop) hot_.lea(kHostRcx, {kHostRcx, HostAddress::kNone, 0, -1}, wide);
  // jrcxz has a short displacement only: over a jump.
  if (!wide) hot_.byte(0x67);
  hot_.byte(0xE3);
  hot_.byte(5);
  std::uint8_t* const not_zero = hot_.jmp_forward();
  const Flags before = flags_;
  emit_exit(is_loop ? behind : target, item.live_out);
  hot_.bind(not_zero);
  flags_ = before;
  emit_exit(is_loop ? target : behind, item.live_out);
}

// ---- calls and returns ----

// A guest call is a host call, so that the host predicts the return. Beside the host's return address lies the guest's:
// RET compares it with what the guest's stack says, and only if they agree returns the host's way. A mark of the mode
// is added, so that the return of another mode does not agree.

void Translator::emit_canonical_check(Emitter& e, const std::uint8_t* slow) {
  e.mov(kHostR11, kHostR10);
  e.shift_imm(4, kHostR11, 16);
  e.shift_imm(7, kHostR11, 16);
  e.rr(0x3B, kHostR11, kHostR10);
  e.jcc(kNotZero, slow);
}

void Translator::emit_target(const Item& item) {
  if (item.insn.memory) {
    hot_.rm(0x8B, kHostR10, emit_operand(item, 0, word_, false), wide_);
  } else {
    hot_.mov(kHostR10, value_of(item.insn.rm, kHostR10), wide_);
  }
}

void Translator::abandon_sites() {
  for (unsigned i = 0; i < open_count_; ++i) open_sites_[i]->after = 0;
  open_count_ = 0;
}

void Translator::emit_near_call(const Item& item, bool indirect) {
  const Insn& insn = item.insn;
  const std::int64_t behind = end_;
  const std::int64_t target = behind + static_cast<std::int64_t>(insn.imm);
  const std::int32_t value = e_.gs(e_.context_.value);
  // The shared look-up has flags spilled.
  if (indirect)
    spill_flags(item.live_in);
  else
    free_flags(item.live_in);
  hot_.gs(0x3B, kHostRsp, e_.gs(e_.context_.return_stack_limit));
  hot_.jcc(kBelow, cold_.at);
  cold_.load_gs(kHostRsp, e_.gs(e_.context_.return_stack));
  // Endless recursion is a loop without a back edge.
  cold_.cmp_gs_imm8(e_.gs(core_.attention_), 0);
  cold_.jcc(kZero, hot_.at);
  emit_cold_exit(item.offset);

  if (indirect) {
    emit_target(item);
    if (wide_) emit_canonical_check(hot_, cold_slow(item));
    hot_.store_gs(value, kHostR10);
  }
  const HostAddress pushed = emit_operand(item, indirect && insn.memory ? 1 : 0, word_, true);
  hot_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
  hot_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(behind)}, wide_);
  hot_.rm(0x89, kHostR11, pushed, wide_);
  hot_.lea(kHostR15, {kHostR15, HostAddress::kNone, 0, -static_cast<std::int32_t>(word_)}, wide_);
  stack_moved(-static_cast<std::int32_t>(word_));
  if (indirect) hot_.load_gs(kHostR10, value);
  const std::uint16_t live = flags_wanted(behind);
  hot_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, return_mark_ | (live ? kReadsFlags : 0)});
  hot_.push(kHostR11);
  if (indirect) {
    // The shared look-up restores spilled flags. Those that nobody wants may be anything.
    hot_.call(e_.stubs_.indirect[core_.mmu_index_]);
  } else {
    if (item.live_out) want_flags();
    emit_link(target, true);
  }
  // Here RET arrives, with the guest's flags spilled if the mark asks for them.
  hot_.lea(kHostRsp, {kHostRsp, HostAddress::kNone, 0, 8});
  flags_ = Flags::spilled;
  recipe_ = {};
  if (behind >= static_cast<std::int64_t>(mem::kPageSize)) {
    // RET has made the page of the return address the current one, which is not the page of this code.
    hot_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
    hot_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, -static_cast<std::int32_t>(mem::kPageSize)}, wide_);
    hot_.store_gs(e_.gs(e_.context_.page_base), kHostR11);
  }
  if (live) want_flags();
  emit_link(behind, false);
  abandon_sites();
}

void Translator::emit_jump_indirect(const Item& item) {
  spill_flags(item.live_in);
  emit_target(item);
  std::uint8_t* miss = e_.stubs_.look_up;
  if (wide_) {
    // No address that is not canonical is in the table.
    const std::uint8_t* const slow = cold_slow(item);
    miss = cold_.at;
    emit_canonical_check(cold_, slow);
    cold_.jmp(e_.stubs_.look_up);
  }
  // In line, so that the host predicts each such jump for itself.
  e_.emit_indirect(hot_, core_.mmu_index_, miss);
  abandon_sites();
}

void Translator::emit_return(const Item& item) {
  const Insn& insn = item.insn;
  const auto release =
      static_cast<std::int32_t>(word_ + (forms()[insn.form].sem == Sem::ret_i ? insn.imm & 0xFFFF : 0));
  free_flags(item.live_in);
  hot_.rm(0x8B, kHostR10, emit_operand(item, 0, word_, false), wide_);
  hot_.lea(kHostR11, {kHostR10, HostAddress::kNone, 0, return_mark_});
  hot_.rm(0x3B, kHostR11, {kHostRsp, HostAddress::kNone, 0, 8});
  std::uint8_t* const slow = wide_ ? cold_slow(item) : nullptr;
  hot_.jcc(kNotZero, cold_.at);
  spill_flags_cold(item.live_in);
  cold_.lea(kHostR11, {kHostR10, HostAddress::kNone, 0, return_mark_ | kReadsFlags});
  cold_.rm(0x3B, kHostR11, {kHostRsp, HostAddress::kNone, 0, 8});
  cold_.jcc(kZero, hot_.at);
  if (wide_) emit_canonical_check(cold_, slow);
  cold_.lea(kHostR15, {kHostR15, HostAddress::kNone, 0, release}, wide_);
  cold_.load_gs(kHostRsp, e_.gs(e_.context_.return_stack));
  cold_.jmp(e_.stubs_.indirect[core_.mmu_index_]);

  hot_.lea(kHostR15, {kHostR15, HostAddress::kNone, 0, release}, wide_);
  hot_.mov(kHostR11, kHostR10);
  hot_.alu_imm(4, kHostR11, -4096);
  hot_.store_gs(e_.gs(e_.context_.page_base), kHostR11);
  hot_.ret();
  abandon_sites();
}

// ---- stack ----

void Translator::emit_push(const Item& item, const FormPlan& plan) {
  const Insn& insn = item.insn;
  const bool from_memory = plan.way == Way::push_rm && insn.memory;
  if (from_memory) {
    hot_.rm(0x8B, kHostR10, emit_operand(item, 0, word_, false), wide_);
    hot_.store_gs(e_.gs(e_.context_.value), kHostR10);
  }
  const auto below = -static_cast<std::int32_t>(word_);
  const HostAddress stored = emit_operand(item, from_memory ? 1 : 0, word_, true);
  if (plan.way == Way::push_imm) {
    hot_.rex_opcode(wide_, 0, stored.index == HostAddress::kNone ? 0u : stored.index, stored.base, 0xC7);
    hot_.modrm_memory(0, stored);
    hot_.dword(static_cast<std::uint32_t>(insn.imm));
  } else if (from_memory) {
    hot_.load_gs(kHostR11, e_.gs(e_.context_.value));
    hot_.rm(0x89, kHostR11, stored, wide_);
  } else {
    hot_.rm(0x89, value_of(plan.way == Way::push_rm ? insn.rm : insn.reg, kHostR11), stored, wide_);
  }
  hot_.lea(kHostR15, {kHostR15, HostAddress::kNone, 0, below}, wide_);
  stack_moved(below);
  close_sites();
}

void Translator::emit_pop(const Item& item, const FormPlan& plan) {
  const unsigned guest = plan.way == Way::pop_rm ? item.insn.rm : item.insn.reg;
  const HostAddress at = emit_operand(item, 0, word_, false);
  const unsigned to = homeless(guest) ? unsigned{kHostR11} : home(guest);
  hot_.rm(0x8B, to, at, wide_);
  // POP RSP ends with the value read.
  if (guest != kRsp) hot_.lea(kHostR15, {kHostR15, HostAddress::kNone, 0, static_cast<std::int32_t>(word_)}, wide_);
  stack_moved(static_cast<std::int32_t>(word_));
  if (homeless(guest)) hot_.store_gs(gpr_gs(guest), to);
  close_sites();
}

void Translator::emit_leave(const Item& item) {
  const HostAddress at = emit_operand(item, 0, word_, false);
  hot_.lea(kHostR15, {kHostRbp, HostAddress::kNone, 0, static_cast<std::int32_t>(word_)}, wide_);
  hot_.rm(0x8B, kHostRbp, at, wide_);
  close_sites();
}

// ---- others ----

bool Translator::is_plain_lea(const Insn& insn) const {
  const bool any = insn.base != kNoRegister || insn.index != kNoRegister;
  return any && insn.op_size >= 4 && !homeless(insn.reg) && insn.base != kRipBase && !homeless(insn.base) &&
         !homeless(insn.index);
}

void Translator::emit_stack_and_data(const Item& item, const FormPlan& plan) {
  const Insn& insn = item.insn;
  if (plan.way == Way::inc_dec_short) {
    // Only outside 64-bit mode, so no homeless registers. CF stays.
    if (item.live_in & kCF) want_flags();
    if (insn.op_size == 2) hot_.byte(0x66);
    hot_.rr(0xFF, forms()[insn.form].sem == Sem::dec_z ? 1 : 0, home(insn.reg), false);
    flags_ = Flags::host;
    recipe_ = {};
    return;
  }
  if (plan.way == Way::lea) {
    if (is_plain_lea(insn)) {
      const auto host = [](unsigned guest) {
        return guest == kNoRegister ? HostAddress::kNone : static_cast<std::uint8_t>(home(guest));
      };
      hot_.lea(home(insn.reg), {host(insn.base), host(insn.index), insn.scale, insn.disp},
               insn.op_size == 8 && insn.addr_size == 8);
      return;
    }
    Item address = item;
    address.insn.segment = kDs;  // LEA adds no segment base
    emit_address(address, 1);
    if (insn.op_size == 2) {
      const unsigned to = value_of(insn.reg, kHostR11);
      hot_.byte(0x66);
      hot_.rr(0x8B, to, kHostR10, false);
      if (homeless(insn.reg)) hot_.store_gs(gpr_gs(insn.reg), to);
    } else if (homeless(insn.reg)) {
      if (insn.op_size == 4) hot_.mov(kHostR10, kHostR10, false);
      hot_.store_gs(gpr_gs(insn.reg), kHostR10);
    } else {
      hot_.mov(home(insn.reg), kHostR10, insn.op_size == 8);
    }
    return;
  }
  const bool store = plan.way == Way::move_moffs_store;
  free_flags(item.live_in);
  hot_.mov_imm(kHostR10, insn.addr_size == 8 ? insn.imm : static_cast<std::uint32_t>(insn.imm));
  if (insn.segment >= kFs) emit_segment_base(item, insn.op_size);
  emit_check(item, kAtR10, insn.op_size, store);
  if (insn.op_size == 2) hot_.byte(0x66);
  const std::uint32_t opcode = (store ? 0x88u : 0x8Au) | (insn.op_size > 1 ? 1u : 0u);
  hot_.rm(opcode, kHostRax, {kHostR10, HostAddress::kNone, 0, 0}, insn.op_size == 8);
  close_sites();
}

void Translator::emit_divide(const Item& item, bool is_signed) {
  const Insn& insn = item.insn;
  const bool wide = insn.op_size == 8;
  free_flags(item.live_in);
  unsigned divisor = kHostR11;
  if (insn.memory) {
    hot_.rm(0x8B, kHostR11, emit_operand(item, 0, insn.op_size, false), wide);
  } else {
    divisor = value_of(insn.rm, kHostR11);
  }
  std::uint8_t* const slow = cold_slow(item);
  if (is_signed) {
    // What certainly fits: a dividend that is a sign-extended rAX, by neither 0 nor -1. The rest is for the
    // interpreter.
    hot_.mov(kHostR10, kHostRax, wide);
    hot_.shift_imm(7, kHostR10, wide ? 63 : 31, wide);
    hot_.rr(0x3B, kHostR10, kHostRdx, wide);
    hot_.jcc(kNotZero, slow);
    hot_.lea(kHostR10, {static_cast<std::uint8_t>(divisor), HostAddress::kNone, 0, 1}, wide);
    hot_.alu_imm(7, kHostR10, 1, wide);
    hot_.jcc(kBelowOrEqual, slow);
  } else {
    // The quotient fits exactly if the dividend's upper half is below the divisor, which excludes 0.
    hot_.rr(0x3B, kHostRdx, divisor, wide);
    hot_.jcc(kAboveOrEqual, slow);
  }
  hot_.rr(0xF7, is_signed ? 7 : 6, divisor, wide);
  flags_ = Flags::host;
  recipe_ = {};
  close_sites();
}

void Translator::emit_interrupt_flag(const Item& item, bool set) {
  const std::int32_t rflags = e_.gs(core_.s.rflags);
  free_flags(item.live_in);
  if (set) {
    // With an interrupt waiting the shadow after STI matters; without one nothing can tell.
    hot_.cmp_gs_byte(e_.gs(core_.interrupt_waiting_), 0);
    hot_.jcc(kNotZero, cold_slow(item));
    hot_.gs(0x81, 1, rflags, false);  // or
    hot_.dword(kIF);
  } else {
    hot_.gs(0x81, 4, rflags, false);  // and
    hot_.dword(~std::uint32_t{kIF});
  }
  close_sites();
}

void Translator::emit_string(const Item& item) {
  const Insn& insn = item.insn;
  const bool fill = forms()[insn.form].sem == Sem::stos;
  spill_flags(item.live_in);
  std::uint8_t* const again = hot_.at;
  // Downward is the interpreter's.
  std::uint8_t* const slow = cold_.at;
  hot_.gs(0xF7, 0, e_.gs(core_.s.rflags), false);  // test dword
  hot_.dword(kDF);
  hot_.jcc(kNotZero, slow);
  CallSite& call = new_call_site(item);
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&call));
  cold_.jmp(flags_ == Flags::host ? e_.stubs_.call_host : e_.stubs_.call_spilled);

  hot_.call(e_.stubs_.string[core_.mmu_index_][fill][std::countr_zero(unsigned{insn.op_size})]);
  hot_.byte(0xE3);  // jrcxz over the jump
  hot_.byte(5);
  hot_.jmp(cold_.at);
  cold_.alu_imm(7, kHostR11, Engine::kStoreMissed, false);
  cold_.jcc(kAbove, slow);
  std::uint8_t* const store = cold_.jcc_short(kZero);
  for (const bool write : {false, true}) {
    MemorySite& site = new_memory_site(item, 1, write);
    site.resume = e_.cache_.place(again);
    if (write) cold_.bind_short(store);
    cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
    cold_.jmp(e_.stubs_.tlb_miss[core_.mmu_index_][write]);
  }
  call.resume = e_.cache_.running(hot_.at);
  close_sites();
}

}  // namespace husk::cpu::jit
