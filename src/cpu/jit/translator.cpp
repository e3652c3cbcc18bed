// husk: one block of guest code into host code
#include "cpu/jit/translator.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {

// ---- residence ----

void Translator::emit_cold_unless_zero(std::uint32_t load, std::int32_t field) {
  hot_.mov(kHostR11, kHostRcx);
  hot_.gs(load, kHostRcx, field, false);
  hot_.jmp_unless_rcx(cold_.at);
  hot_.mov(kHostRcx, kHostR11);
  cold_.mov(kHostRcx, kHostR11);
}

void Translator::emit_vectors_resident(std::uint16_t live) {
  if (vectors_known_) return;
  vectors_known_ = true;
  held_ = kNoRegister;
  const std::int32_t away = e_.gs(e_.context_.vectors_away);
  if (flags_ == Flags::host && live) {
    emit_cold_unless_zero(0xB60F, away);  // movzx
    e_.emit_spill_flags(cold_);
    std::uint8_t* const loaded = cold_.mov_address_forward(kHostR11);
    cold_.jmp(e_.stubs_.need_vectors);
    Emitter::set_address(loaded, e_.cache_.running(cold_.at));
    e_.emit_restore_flags(cold_, kHostR11);
    cold_.jmp(hot_.at);
    return;
  }
  hot_.cmp_gs_byte(away, 0);
  hot_.jcc(kNotZero, cold_.at);
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(e_.cache_.running(hot_.at)));
  cold_.jmp(e_.stubs_.need_vectors);
}

void Translator::emit_x87_resident(std::uint16_t live) {
  if (x87_known_) return;
  x87_known_ = true;
  held_ = kNoRegister;
  free_flags(live);
  hot_.cmp_gs_byte(e_.gs(e_.context_.x87_resident), 0);
  hot_.jcc(kZero, cold_.at);
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(e_.cache_.running(hot_.at)));
  cold_.jmp(e_.stubs_.need_x87);
}

// ---- memory ----

void Translator::emit_address(const Item& item, unsigned bytes) {
  const Insn& insn = item.insn;
  HostAddress m;
  const bool wide = insn.addr_size == 8;
  bool in_place = false;  // R10 holds the address already
  m.disp = insn.disp;
  if (insn.base == kRipBase) {
    hot_.load_gs(kHostR10, e_.gs(e_.context_.page_base));
    m.base = kHostR10;
    m.disp += static_cast<std::int32_t>(item.offset + insn.length);
  } else if (insn.base != kNoRegister) {
    m.base = static_cast<std::uint8_t>(value_of(insn.base, kHostR10));
  }
  if (insn.index != kNoRegister) {
    m.index = static_cast<std::uint8_t>(value_of(insn.index, kHostR11));
    m.scale = insn.scale;
  }
  if (m.base == HostAddress::kNone && m.index == HostAddress::kNone) {
    const auto constant = static_cast<std::uint64_t>(static_cast<std::int64_t>(m.disp));
    hot_.mov_imm(kHostR10, wide ? constant : static_cast<std::uint32_t>(constant));
    in_place = true;
  }
  // A move costs no time where the host renames it.
  const bool plain = wide && m.index == HostAddress::kNone && m.disp == 0;
  if (!in_place && plain)
    hot_.mov(kHostR10, m.base);
  else if (!in_place)
    hot_.lea(kHostR10, m, wide);
  if (insn.segment >= kFs) emit_segment_base(item, bytes);
}

void Translator::emit_segment_base(const Item& item, unsigned bytes) {
  // An offset that wraps faults (see Core::segment_access()). Below a base of zero it ends its page, which is checked
  // anyway.
  if (!wide_ && bytes > 1) {
    hot_.alu_imm(7, kHostR10, -static_cast<std::int32_t>(bytes), false);
    hot_.jcc(kAbove, cold_slow(item));
  }
  hot_.load_gs(kHostR11, e_.gs(core_.s.seg[item.insn.segment].base), wide_);
  hot_.lea(kHostR10, {kHostR10, kHostR11, 0, 0}, wide_);
}

bool Translator::has_slot(const Item& item) const {
  return hot_form_ && (second_ || !e_.wandering_.contains(page_ + item.offset));
}

MemorySite& Translator::new_memory_site(const Item& item, unsigned bytes, bool write) {
  MemorySite& site = e_.cache_.new_memory_site();
  site.room = static_cast<std::uint16_t>(mem::kPageSize - bytes);
  site.last = static_cast<std::uint16_t>(bytes - 1);
  site.patience = kPatience;
  place_site(site, item);
  site.write = site.writes = write;
  open_sites_[open_count_++] = &site;
  return site;
}

void Translator::place_site(MemorySite& site, const Item& item) const {
  site.page = page_;
  site.offset = item.offset;
  site.block = items_[0].offset;
  site.key = key_;
  site.crosses = second_ != nullptr;
  site.length = item.insn.length;
}

DataSlot* Translator::emit_check(const Item& item, const HostAddress& linear, unsigned bytes, bool write,
                                 unsigned align, const Access* leader, std::int32_t beyond) {
  MemorySite& site = new_memory_site(item, bytes, write);
  site.align_mask = static_cast<std::uint8_t>(align - 1);
  site.leads = leader != nullptr;
  site.own = static_cast<std::uint16_t>(beyond);
  if (leader) site.writes = leader->write;
  const auto in_page = [&](unsigned reg) {
    if (align > 1) {
      const bool both = bytes <= align;  // what is aligned crosses nothing
      hot_.test_imm(reg, (both ? -4096 : 0) | static_cast<std::int32_t>(align - 1), both);
      hot_.jcc(kNotZero, cold_.at);
    }
    if (align == 1 || bytes > align) {
      hot_.alu_imm(7, reg, static_cast<std::int32_t>(mem::kPageSize - bytes));
      hot_.jcc(kAbove, cold_.at);
    }
  };
  if (counts_ && !counted_) {
    counted_ = true;
    hot_.sub_gs_imm8(e_.gs(e_.next_heat()), 1);
    hot_.jcc(kZero, cold_.at);
    spill_flags_cold(item.live_in);
    cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
    cold_.jmp(e_.stubs_.heated_inside);
  }
  if (!has_slot(item)) {
    const std::int32_t table = e_.gs(e_.context_.tlb[core_.mmu_index_][write][0]);
    site.resume = e_.cache_.place(hot_.at);
    hot_.mov(kHostR11, kHostR10);
    hot_.shift_imm(5, kHostR11, 8);
    hot_.alu_imm(4, kHostR11, static_cast<std::int32_t>((kTlbEntries - 1) << 4), false);
    hot_.gs(0x33, kHostR10, table, true, kHostR11);  // xor: the offset in the page, if it is that
    in_page(kHostR10);
    hot_.gs(0x03, kHostR10, table + 8, true, kHostR11);
    if (!leader) site.checked = e_.cache_.place(hot_.at);
    cold_.gs(0x33, kHostR10, table, true, kHostR11);
    spill_flags_cold(item.live_in);
    cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
    cold_.jmp(e_.stubs_.tlb_miss[core_.mmu_index_][write]);
    return nullptr;
  }
  DataSlot& data = e_.next_slot(core_.mmu_index_, write);
  site.slot = static_cast<std::uint32_t>(e_.gs(data));
  if (linear.base == kHostR10) {
    hot_.load_gs(kHostR11, e_.gs(data.page));
    hot_.rr(0x33, kHostR11, kHostR10);
    in_page(kHostR11);
    site.resume = e_.cache_.place(hot_.at);
    hot_.gs(0x03, kHostR10, e_.gs(data.addend));
  } else {
    emit_sum(hot_, kHostR11, linear.base, linear.disp);
    hot_.gs(0x33, kHostR11, e_.gs(data.page));
    in_page(kHostR11);
    emit_sum(cold_, kHostR10, linear.base, linear.disp);
    site.resume = e_.cache_.place(hot_.at);
    hot_.load_gs(kHostR10, e_.gs(data.addend));
    site.adds_base = true;
  }
  if (!leader) site.checked = e_.cache_.place(hot_.at);
  spill_flags_cold(item.live_in);
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  cold_.jmp(e_.stubs_.slot_miss[core_.mmu_index_][write]);
  return &data;
}

bool Translator::must_be_aligned(const Insn& insn) const {
  const Form& form = forms()[insn.form];
  return (form.attributes & kAttrAligned) || form.sem == Sem::cmpxchg16b_m;
}

std::uint8_t* Translator::cold_slow(const Item& item) {
  MemorySite& site = e_.cache_.new_memory_site();
  place_site(site, item);
  open_sites_[open_count_++] = &site;
  std::uint8_t* const start = cold_.at;
  spill_flags_cold(item.live_in);
  cold_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  cold_.jmp(e_.stubs_.slow);
  return start;
}

void Translator::close_sites() {
  // Where the interpreter did an instruction whose check others rely on, code goes on elsewhere.
  const auto sites = std::span(open_sites_).first(open_count_);
  if (!sites.empty()) held_ = kNoRegister;
  if (std::none_of(sites.begin(), sites.end(), [](const MemorySite* site) { return site->leads; }))
    for (MemorySite* site : sites) site->after = e_.cache_.place(hot_.at);
  open_count_ = 0;
}

// ---- instructions ----

unsigned Translator::value_of(unsigned guest, unsigned spare) {
  if (!homeless(guest)) return home(guest);
  hot_.load_gs(spare, gpr_gs(guest));
  return spare;
}

Encoding Translator::parse(const std::uint8_t* bytes, const FormPlan& plan) const {
  Encoding out;
  unsigned at = 0;
  for (;; ++at) {
    const std::uint8_t b = bytes[at];
    const bool kept = b == 0x66 || b == 0xF2 || b == 0xF3 || b == 0xF0;
    const bool replaced = b == 0x67 || b == 0x2E || b == 0x36 || b == 0x3E || b == 0x26 || b == 0x64 || b == 0x65;
    if (kept) out.prefixes[out.prefix_count++] = b;
    // Only a REX right before the opcode counts (SDM vol. 2, 2.2.1).
    if (wide_ && (b & 0xF0) == 0x40)
      out.rex = b;
    else if (kept || replaced)
      out.rex = 0;
    else
      break;
  }
  if (plan.vex) {
    if (bytes[at] == 0xC5) {
      out.vex = {0xC4, static_cast<std::uint8_t>((bytes[at + 1] & 0x80) | 0x61),
                 static_cast<std::uint8_t>(bytes[at + 1] & 0x7F)};
      at += 2;
    } else {
      out.vex = {bytes[at], bytes[at + 1], bytes[at + 2]};
      at += 3;
    }
    out.opcode[out.opcode_count++] = bytes[at++];
  } else {
    out.opcode[out.opcode_count++] = bytes[at++];
    if (out.opcode[0] == 0x0F) {
      out.opcode[out.opcode_count++] = bytes[at++];
      if (out.opcode[1] == 0x38 || out.opcode[1] == 0x3A) out.opcode[out.opcode_count++] = bytes[at++];
    }
  }
  if (plan.modrm) {
    out.modrm = bytes[at++];
    const unsigned mod = out.modrm >> 6;
    if (mod != 3) {
      bool disp32 = mod == 2;
      const unsigned base = (out.modrm & 7) == 4 ? bytes[at++] : out.modrm;
      disp32 |= mod == 0 && (base & 7) == 5;
      at += disp32 ? 4u : mod == 1 ? 1u : 0u;
    }
  }
  out.immediate_at = at;
  return out;
}

void Translator::emit_encoded(Emitter& e, const std::uint8_t* bytes, const Insn& insn, const FormPlan& plan,
                              unsigned reg, unsigned rm, const HostAddress* memory, unsigned vvvv) {
  const Encoding raw = parse(bytes, plan);
  if (memory && memory->base == HostAddress::kNone) e.byte(0x65);
  const bool extends_base = memory ? memory->base != HostAddress::kNone && (memory->base & 8) : rm & 8;
  const bool extends_index = memory && memory->index != HostAddress::kNone && (memory->index & 8);
  if (plan.vex) {
    e.byte(0xC4);
    e.byte(static_cast<unsigned>((raw.vex[1] & 0x1F) | (reg & 8 ? 0 : 0x80) | (extends_index ? 0 : 0x40) |
                                 (extends_base ? 0 : 0x20)));
    const unsigned keep = plan.vvvv == Field::none ? raw.vex[2] & 0x78u : (~vvvv & 15u) << 3;
    // W says nothing about general registers outside 64-bit mode, but the host would take it at its word.
    const bool ignored = plan.w_ignored || plan.reg == Field::gpr || plan.rm == Field::gpr || plan.vvvv == Field::gpr;
    e.byte((raw.vex[2] & (ignored && !wide_ ? 0x07u : 0x87u)) | keep);
  } else {
    for (unsigned i = 0; i < raw.prefix_count; ++i) e.byte(raw.prefixes[i]);
    unsigned rex = (raw.rex & 8u) | (reg & 8 ? 4u : 0) | (extends_index ? 2u : 0) | (extends_base ? 1u : 0);
    const bool low_byte =
        (plan.byte_reg && reg >= 4 && reg < 8 && !(insn.reg & kHighByte)) ||
        (plan.byte_rm && !memory && rm >= 4 && rm < 8 && !((plan.opcode_reg ? insn.reg : insn.rm) & kHighByte));
    if (rex || low_byte) e.byte(0x40 | rex);
  }
  for (unsigned i = 0; i + 1 < raw.opcode_count; ++i) e.byte(raw.opcode[i]);
  const unsigned last = raw.opcode[raw.opcode_count - 1];
  e.byte(plan.opcode_reg ? (last & 0xF8) | (rm & 7) : last);
  if (plan.modrm) {
    const unsigned field = plan.reg == Field::none ? raw.modrm & 0x38u : (reg & 7) << 3;
    if (memory)
      e.modrm_memory(field >> 3, *memory);
    else
      e.byte(0xC0 | field | (plan.rm == Field::none ? raw.modrm & 7u : rm & 7));
  }
  HUSK_CHECK(raw.immediate_at <= insn.length);
  e.bytes(bytes + raw.immediate_at, insn.length - raw.immediate_at);
}

bool Translator::may_read_from_state(const std::uint8_t* bytes, const FormPlan& plan) const {
  if (plan.vex || plan.opcode_reg || plan.rm_written) return false;
  // What means the same with memory as with a register.
  const Encoding raw = parse(bytes, plan);
  const unsigned opcode = raw.opcode[raw.opcode_count - 1];
  if (raw.opcode_count == 1)
    return (opcode < 0x40 && (opcode & 7) < 4) || opcode == 0x63 || opcode == 0x69 || opcode == 0x6B ||
           (opcode >= 0x80 && opcode <= 0x85) || opcode == 0x8A || opcode == 0x8B;
  return raw.opcode_count == 2 && ((opcode >= 0x40 && opcode <= 0x4F) || opcode == 0xAF ||
                                   (opcode & 0xF6) == 0xB6);  // CMOVcc, IMUL, MOVZX, MOVSX
}

void Translator::emit_rotate(unsigned reg, unsigned count) {
  // rorx reg, reg, count: moves AH's byte to where REX can name it, without touching flags
  hot_.byte(0xC4);
  hot_.byte(static_cast<unsigned>((reg & 8 ? 0 : 0x80) | 0x40 | (reg & 8 ? 0 : 0x20) | 3));
  hot_.byte(0xFB);
  hot_.byte(0xF0);
  hot_.byte(0xC0 | (reg & 7) << 3 | (reg & 7));
  hot_.byte(count);
}

void Translator::emit_copy(const Item& item) {
  Insn insn = item.insn;
  const FormPlan& plan = e_.plans_[insn.form];
  const FlagUse use = flag_use(insn, false);
  const bool memory = insn.memory;
  if (plan.uses_vectors) emit_vectors_resident(item.live_in);
  if (plan.uses_x87) emit_x87_resident(item.live_in);
  HostAddress at;
  if (memory) at = emit_operand(item, 0, memory_bytes(plan.memory_size, insn), plan.rm_written);
  // Flags that the instruction reads, or leaves as they are for others, must be there; R11 is free now.
  const bool passes = (use.killed != 0 || use.read != 0) && (item.live_in & ~use.killed);
  if (use.read || passes) want_flags();

  // General registers without a home in the host.
  std::array<Scratch, 3> scratch;
  unsigned scratch_count = 0;
  const bool partial = insn.op_size < 4 || plan.byte_reg || plan.byte_rm;
  const bool in_state = !memory && plan.rm == Field::gpr && homeless(insn.rm & 15u) && held_ != (insn.rm & 15u) &&
                        may_read_from_state(item.bytes.data(), plan);
  bool borrowed = false;
  unsigned lent = 0;
  const auto names = [&](unsigned host) {
    return (memory && at.index == host) || (plan.reg == Field::gpr && home(insn.reg & 15u) == host) ||
           (plan.rm == Field::gpr && !memory && home((plan.opcode_reg ? insn.reg : insn.rm) & 15u) == host) ||
           (plan.vvvv == Field::gpr && home(insn.vvvv) == host);
  };
  const auto place = [&](unsigned guest, bool read, bool written) -> unsigned {
    if (!homeless(guest)) return home(guest);
    for (unsigned i = 0; i < scratch_count; ++i)
      if (scratch[i].guest == guest) {
        if (read && !scratch[i].loaded) hot_.load_gs(scratch[i].host, gpr_gs(guest));
        scratch[i].loaded |= read;
        scratch[i].written |= written;
        return scratch[i].host;
      }
    unsigned host = kHostR11;
    if (scratch_count == 1) host = memory ? unsigned{HostAddress::kNone} : unsigned{kHostR10};
    if (scratch_count == 2) host = HostAddress::kNone;
    if (host == HostAddress::kNone) {
      // A register that the instruction does not touch is lent to it. R8 to R14 are implicit operands of nothing.
      constexpr std::uint8_t kLendable[] = {kHostR8, kHostR9, kHostR12, kHostR13};
      for (const std::uint8_t candidate : kLendable)
        if (!names(candidate) && !(borrowed && lent == candidate)) host = candidate;
      HUSK_CHECK(!borrowed);
      borrowed = true;
      lent = host;
      hot_.store_gs(e_.gs(e_.context_.borrowed), host);
    }
    if ((read || partial) && !(host == kHostR11 && held_ == guest)) hot_.load_gs(host, gpr_gs(guest));
    scratch[scratch_count++] = {static_cast<std::uint8_t>(guest), static_cast<std::uint8_t>(host), read || partial,
                                written};
    return host;
  };
  unsigned reg = plan.reg == Field::none ? 0u : insn.reg, vvvv = insn.vvvv;
  unsigned rm = memory || (plan.rm == Field::none && !plan.opcode_reg) ? 0u : insn.rm;
  if (plan.reg == Field::gpr) reg = place(insn.reg & 15u, plan.reg_read, plan.reg_written);
  if (plan.opcode_reg)
    rm = place(insn.reg & 15u, plan.rm_read, plan.rm_written);
  else if (in_state)
    at = {HostAddress::kNone, HostAddress::kNone, 0, gpr_gs(insn.rm & 15u)};
  else if (plan.rm == Field::gpr && !memory)
    rm = place(insn.rm & 15u, plan.rm_read, plan.rm_written);
  if (plan.vvvv == Field::gpr) vvvv = place(insn.vvvv, plan.vvvv_read, plan.vvvv_written);

  const bool reg_high = plan.byte_reg && (insn.reg & kHighByte);
  const bool rm_high = plan.byte_rm && !memory && ((plan.opcode_reg ? insn.reg : insn.rm) & kHighByte);
  const std::uint8_t* const bytes = item.bytes.data();
  if (memory && reg_high) {
    const unsigned whole = insn.reg & 3u;
    insn.reg = static_cast<std::uint8_t>(whole);
    // The rotated register may be the operand's base.
    if (at.index != HostAddress::kNone) hot_.lea(kHostR10, at);
    if (at.index != HostAddress::kNone) at = kAtR10;
    emit_rotate(whole, 8);
    emit_encoded(hot_, bytes, insn, plan, whole, rm, &at, vvvv);
    emit_rotate(whole, 56);
  } else {
    // AH to BH are 4 to 7 in the encoding.
    if (reg_high) reg = 4 | (insn.reg & 3u);
    if (rm_high) rm = 4 | ((plan.opcode_reg ? insn.reg : insn.rm) & 3u);
    emit_encoded(hot_, bytes, insn, plan, reg, rm, memory || in_state ? &at : nullptr, vvvv);
  }
  for (unsigned i = 0; i < scratch_count; ++i)
    if (scratch[i].written) hot_.store_gs(gpr_gs(scratch[i].guest), scratch[i].host);
  if (borrowed) hot_.load_gs(lent, e_.gs(e_.context_.borrowed));
  if (scratch_count && scratch[0].host == kHostR11) held_ = scratch[0].guest;
  if (use.killed || use.read) flags_ = Flags::host;
  const Form& form = forms()[insn.form];
  if ((form.flags_written | form.flags_undefined) & kArithmeticFlags) recipe_ = recipe_of(item);
  if (memory) close_sites();
}

CallSite& Translator::new_call_site(const Item& item) {
  CallSite& site = e_.cache_.new_call_site();
  site.insn = item.insn;
  site.key = key_;
  const Form& form = forms()[item.insn.form];
  site.keeps_mode = (form.attributes & (kAttrRep | kAttrRepCond)) || form.sem == Sem::rdtsc || form.sem == Sem::cpuid;
  site.offset = item.offset;
  return site;
}

void Translator::emit_call(const Item& item) {
  CallSite& site = new_call_site(item);
  hot_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  hot_.jmp(flags_ == Flags::host ? e_.stubs_.call_host : e_.stubs_.call_spilled);
  if (!ends_block(item)) site.resume = e_.cache_.running(hot_.at);
  flags_ = Flags::host;
  recipe_ = {};
}

void Translator::emit(const Item& item) {
  keep_recipe(item);
  if (item.call) {
    held_ = kNoRegister;
    emit_call(item);
    return;
  }
  const Insn& insn = item.insn;
  const FormPlan& plan = e_.plans_[insn.form];
  if (plan.way != Way::copy) held_ = kNoRegister;
  switch (plan.way) {
    case Way::copy: emit_copy(item); break;
    case Way::nothing: break;
    case Way::jcc: emit_jcc(item); break;
    case Way::jmp:
      emit_exit(static_cast<std::int64_t>(end_) + static_cast<std::int64_t>(insn.imm), item.live_out);
      break;
    case Way::call_near: emit_near_call(item, false); break;
    case Way::call_rm: emit_near_call(item, true); break;
    case Way::jmp_rm: emit_jump_indirect(item); break;
    case Way::ret: emit_return(item); break;
    case Way::loop:
    case Way::jcxz: emit_loop(item); break;
    case Way::push_reg:
    case Way::push_imm:
    case Way::push_rm: emit_push(item, plan); break;
    case Way::pop_reg:
    case Way::pop_rm: emit_pop(item, plan); break;
    case Way::leave: emit_leave(item); break;
    case Way::div: emit_divide(item, false); break;
    case Way::idiv: emit_divide(item, true); break;
    case Way::sti: emit_interrupt_flag(item, true); break;
    case Way::cli: emit_interrupt_flag(item, false); break;
    case Way::string: emit_string(item); break;
    case Way::lea:
    case Way::move_moffs_load:
    case Way::move_moffs_store:
    case Way::inc_dec_short: emit_stack_and_data(item, plan); break;
    case Way::call: break;
  }
}

void Translator::emit_crossing() {
  // Fetched anew each time: what lies in the next page is not known for longer.
  spill_flags(kArithmeticFlags);
  MemorySite& site = e_.cache_.new_memory_site();
  site.page = page_;
  site.offset = static_cast<std::uint16_t>(end_);
  site.crosses = true;
  hot_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  hot_.jmp(e_.stubs_.slow);
}

/// Counts what the block is about to execute from `first` on. Its flags may be anybody's, R11 is nobody's.
void Translator::emit_count(unsigned first) {
  unsigned end = first;
  while (end < count_ && !items_[end].runs_on) ++end;
  const std::int32_t counter = e_.gs(e_.context_.hot.instructions);
  hot_.load_gs(kHostR11, counter);
  hot_.lea(kHostR11, {kHostR11, HostAddress::kNone, 0, static_cast<std::int32_t>(std::min(end + 1, count_) - first)});
  hot_.store_gs(counter, kHostR11);
}

Block* Translator::translate(mem::RamRegion& ram, std::uint64_t page_offset, unsigned start, std::uint32_t key,
                             bool& fault) {
  page_ = ram.data() + page_offset;
  code_size_ = core_.code_size_;
  wide_ = code_size_ == CodeSize::bits64;
  word_ = wide_ ? 8 : 4;
  key_ = key;
  return_mark_ = e_.return_mark(key);
  hot_form_ = e_.heat_ == 0 || e_.hot_.contains(page_ + start);
  // The flag goes up before the bytes are read, so that a write in between is noticed.
  if (!e_.cache_.holds_page(page_)) core_.mark_code_page(ram, page_offset);
  if (!decode_block(start)) return nullptr;
  if (count_ == 0 && !decode_crossing(start)) {
    fault = true;
    return nullptr;
  }
  counts_ = e_.counting_jump_ && !hot_form_ && !second_;
  find_live_flags();
  find_groups();
  find_loop();

  entry_ = hot_.at = e_.cache_.hot();
  cold_.at = e_.cache_.cold();
  Block block;
  block.code = page_ + start;
  block.entry = e_.cache_.running(hot_.at);
  block.key = key;
  block.wants_flags = count_ == 0 || items_[0].live_in;
  const std::uint8_t* const cold_begin = cold_.at;
  for (unsigned i = 0; i < count_; ++i) {
    if (e_.count_ && (i == 0 || items_[i - 1].runs_on)) emit_count(i);
    emit(items_[i]);
  }
  const bool open = count_ == 0 || !ends_block(items_[count_ - 1]);
  if (open && crossing_ && count_ == 0) {
    emit_crossing();
  } else if (open && crossing_) {
    if (items_[count_ - 1].live_out) want_flags();
    emit_link(end_, false, true);
  } else if (open)
    emit_exit(end_, items_[count_ - 1].live_out);
  e_.cache_.use(hot_.at, cold_.at);
  const unsigned here = std::min(crossing_ ? unsigned{mem::kPageSize} : end_, unsigned{mem::kPageSize});
  block.bytes = static_cast<std::uint16_t>(here - start);
  block.crosses = second_ || (crossing_ && count_ == 0);
  if (second_) block.second_page = second_->ram->data() + second_->offset;
  block.looked_at = looked_at_;
  // For its second form a block would be found by bytes that are not all here.
  block.heat = hot_form_ || block.crosses ? 0 : e_.heat_;
  block.counts = counted_;
  ++e_.statistics_.blocks;
  e_.statistics_.instructions += count_;
  e_.statistics_.guest_bytes += end_ - start;
  e_.statistics_.hot_bytes += static_cast<std::uint64_t>(hot_.at - entry_);
  e_.statistics_.cold_bytes += static_cast<std::uint64_t>(cold_.at - cold_begin);
  if (e_.observer_)
    e_.tell_observer(e_.context_.page_base + start,
                     second_ ? std::span<const std::uint8_t>(items_[0].bytes.data(), items_[0].insn.length)
                             : std::span<const std::uint8_t>(block.code, std::min(end_, here) - start),
                     {entry_, hot_.at}, {cold_begin, cold_.at});
  Block* const added = e_.cache_.add(ram, block);
  if (second_) e_.cache_.add_second(*second_->ram, *added, end_ - unsigned{mem::kPageSize});
  return added;
}

}  // namespace husk::cpu::jit
