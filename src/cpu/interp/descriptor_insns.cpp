// husk: instructions on descriptors, descriptor-table registers and segment registers
#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

bool umip_forbids(const Core& core) { return (core.s.cr4 & kCr4Umip) && core.cpl() != 0; }

/// A 16-bit value into a register of the operand size (zero-extended) or into a memory word.
Flow store_word(Core& core, const Insn& insn, std::uint64_t value) {
  if (insn.memory)
    return core.store<std::uint16_t>(insn.segment, core.effective_address(insn), static_cast<std::uint16_t>(value)) ? Flow::next
                                                                                                                  : Flow::fault;
  switch (insn.op_size) {
    case 2: core.set_reg<2>(insn.rm, static_cast<std::uint16_t>(value)); break;
    case 4: core.set_reg<4>(insn.rm, static_cast<std::uint32_t>(value)); break;
    default: core.set_reg<8>(insn.rm, value); break;
  }
  return Flow::next;
}
bool load_word(Core& core, const Insn& insn, std::uint16_t& value) { return read_rm<2>(core, insn, value); }

Flow sldt(Core& core, const Insn& insn) {
  return umip_forbids(core) ? core.raise_gp() : store_word(core, insn, core.s.ldtr.selector);
}
Flow str(Core& core, const Insn& insn) {
  return umip_forbids(core) ? core.raise_gp() : store_word(core, insn, core.s.tr.selector);
}
Flow smsw(Core& core, const Insn& insn) { return umip_forbids(core) ? core.raise_gp() : store_word(core, insn, core.s.cr0); }

Flow lldt(Core& core, const Insn& insn) {
  std::uint16_t selector;
  if (!load_word(core, insn, selector)) return Flow::fault;
  if (null_selector(selector)) {
    core.s.ldtr = {.selector = selector, .attributes = 0, .limit = 0, .base = 0};
    return Flow::next;
  }
  const std::uint32_t error = selector_error(selector);
  if (selector & 4) return core.raise(kGP, error);
  Descriptor d;
  if (!SystemOps::read_descriptor(core, selector, kGP, false, d)) return Flow::fault;
  if (d.code_or_data() || d.type() != kLdt) return core.raise(kGP, error);
  if (!d.present()) return core.raise(kNP, error);
  if (!SystemOps::read_descriptor_high(core, selector, kGP, false, d)) return Flow::fault;
  if (!core.canonical(d.base())) return core.raise(kGP, error);
  core.s.ldtr = d.segment(selector);
  return Flow::next;
}

Flow ltr(Core& core, const Insn& insn) {
  std::uint16_t selector;
  if (!load_word(core, insn, selector)) return Flow::fault;
  if (null_selector(selector)) return core.raise_gp();
  const std::uint32_t error = selector_error(selector);
  if (selector & 4) return core.raise(kGP, error);
  Descriptor d;
  if (!SystemOps::read_descriptor(core, selector, kGP, false, d)) return Flow::fault;
  const bool long_mode = core.s.long_mode_active();
  if (d.code_or_data() || (d.type() != kTss32Available && (long_mode || d.type() != kTss16Available))) return core.raise(kGP, error);
  if (!d.present()) return core.raise(kNP, error);
  if (!SystemOps::read_descriptor_high(core, selector, kGP, false, d)) return Flow::fault;
  if (!core.canonical(d.base())) return core.raise(kGP, error);
  if (!SystemOps::set_tss_busy(core, d, true)) return Flow::fault;
  core.s.tr = d.segment(selector);
  return Flow::next;
}

void set_zf(Core& core, bool on) { core.s.rflags = on ? core.s.rflags | kZF : core.s.rflags & ~std::uint64_t{kZF}; }

/// True if the privilege rules let `selector` be used for `d` (conforming code always).
bool privilege_ok(const Core& core, std::uint16_t selector, const Descriptor& d) {
  return d.conforming() || (d.dpl() >= core.cpl() && d.dpl() >= (selector & 3u));
}

template <bool Write>
Flow verify(Core& core, const Insn& insn) {
  std::uint16_t selector;
  if (!load_word(core, insn, selector)) return Flow::fault;
  Descriptor d;
  bool found;
  if (!SystemOps::find_descriptor(core, selector, d, found)) return Flow::fault;
  set_zf(core, found && d.code_or_data() && (Write ? d.writable_data() : d.readable()) && privilege_ok(core, selector, d));
  return Flow::next;
}

constexpr unsigned type_bit(unsigned type) { return 1u << type; }
constexpr unsigned kLarTypes = type_bit(kTss16Available) | type_bit(kLdt) | type_bit(kTss16Busy) | type_bit(kCallGate16) |
                               type_bit(kTaskGate) | type_bit(kTss32Available) | type_bit(kTss32Busy) | type_bit(kCallGate32);
constexpr unsigned kLarLongTypes = type_bit(kLdt) | type_bit(kTss32Available) | type_bit(kTss32Busy) | type_bit(kCallGate32);
constexpr unsigned kLslTypes = type_bit(kTss16Available) | type_bit(kLdt) | type_bit(kTss16Busy) | type_bit(kTss32Available) |
                               type_bit(kTss32Busy);
constexpr unsigned kLslLongTypes = type_bit(kLdt) | type_bit(kTss32Available) | type_bit(kTss32Busy);

/// SDM vol. 2, tables 3-53 (LAR) and 3-55 (LSL).
template <bool Limit>
Flow inspect_descriptor(Core& core, const Insn& insn) {
  std::uint16_t selector;
  if (!load_word(core, insn, selector)) return Flow::fault;
  Descriptor d;
  bool found;
  if (!SystemOps::find_descriptor(core, selector, d, found)) return Flow::fault;
  if (found && !d.code_or_data()) {
    const bool long_mode = core.s.long_mode_active();
    const unsigned types = Limit ? (long_mode ? kLslLongTypes : kLslTypes) : (long_mode ? kLarLongTypes : kLarTypes);
    found = types & type_bit(d.type());
  }
  found = found && privilege_ok(core, selector, d);
  set_zf(core, found);
  if (!found) return Flow::next;
  const std::uint64_t value = Limit ? d.limit() : bits(d.low, 32, 32) & 0x00F0FF00;
  switch (insn.op_size) {
    case 2: core.set_reg<2>(insn.reg, static_cast<std::uint16_t>(value)); break;
    case 4: core.set_reg<4>(insn.reg, static_cast<std::uint32_t>(value)); break;
    default: core.set_reg<8>(insn.reg, value); break;
  }
  return Flow::next;
}

Flow arpl_eg(Core& core, const Insn& insn) {
  const unsigned rpl = core.reg<2>(insn.reg) & 3u;
  std::uint16_t old;
  if (!read_rm<2>(core, insn, old)) return Flow::fault;
  // Written only where it changes: processors fault as a read first.
  const bool raised = (old & 3u) < rpl;
  if (raised && !write_rm<2>(core, insn, static_cast<std::uint16_t>((old & ~3u) | rpl))) return Flow::fault;
  set_zf(core, raised);
  return Flow::next;
}

Flow store_table(Core& core, const Insn& insn, const DescriptorTable& table) {
  if (umip_forbids(core)) return core.raise_gp();
  const std::uint64_t ea = core.effective_address(insn);
  if (core.code64()) {
    std::array<std::uint8_t, 10> raw;
    store_le<std::uint16_t>(raw.data(), table.limit);
    store_le<std::uint64_t>(raw.data() + 2, table.base);
    return core.store(insn.segment, ea, raw) ? Flow::next : Flow::fault;
  }
  std::array<std::uint8_t, 6> raw;
  store_le<std::uint16_t>(raw.data(), table.limit);
  store_le<std::uint32_t>(raw.data() + 2, static_cast<std::uint32_t>(table.base));
  return core.store(insn.segment, ea, raw) ? Flow::next : Flow::fault;
}
Flow sgdt(Core& core, const Insn& insn) { return store_table(core, insn, core.s.gdtr); }
Flow sidt(Core& core, const Insn& insn) { return store_table(core, insn, core.s.idtr); }

Flow load_table(Core& core, const Insn& insn, DescriptorTable& table) {
  const std::uint64_t ea = core.effective_address(insn);
  std::uint64_t base;
  std::uint16_t limit;
  if (core.code64()) {
    std::array<std::uint8_t, 10> raw;
    if (!core.load(insn.segment, ea, raw)) return Flow::fault;
    limit = load_le<std::uint16_t>(raw.data());
    base = load_le<std::uint64_t>(raw.data() + 2);
    if (!core.canonical(base)) return core.raise_gp();
  } else {
    std::array<std::uint8_t, 6> raw;
    if (!core.load(insn.segment, ea, raw)) return Flow::fault;
    limit = load_le<std::uint16_t>(raw.data());
    base = load_le<std::uint32_t>(raw.data() + 2);
    if (insn.op_size == 2) base &= 0xFFFFFF;
  }
  table = {.base = base, .limit = limit};
  return Flow::next;
}
Flow lgdt(Core& core, const Insn& insn) { return load_table(core, insn, core.s.gdtr); }
Flow lidt(Core& core, const Insn& insn) { return load_table(core, insn, core.s.idtr); }

// ---- segment registers ----

Flow mov_es(Core& core, const Insn& insn) {
  if ((insn.reg & 7) > kGs) return core.raise_ud();
  return store_word(core, insn, core.s.seg[insn.reg & 7].selector);
}
Flow mov_se(Core& core, const Insn& insn) {
  const unsigned seg = insn.reg & 7;
  if (seg == kCs || seg > kGs) return core.raise_ud();
  std::uint16_t selector;
  if (!load_word(core, insn, selector) || !core.load_segment(seg, selector)) return Flow::fault;
  if (seg == kSs) core.set_interrupt_shadow();
  return Flow::next;
}

Flow swapgs(Core& core, const Insn&) {
  const std::uint64_t base = core.s.seg[kGs].base;
  SystemOps::set_base(core, kGs, core.s.msr.kernel_gs_base);
  core.s.msr.kernel_gs_base = base;
  return Flow::next;
}

template <unsigned Seg>
Flow read_base(Core& core, const Insn& insn) {
  if (!(core.s.cr4 & kCr4Fsgsbase)) return core.raise_ud();
  const std::uint64_t base = core.s.seg[Seg].base;
  core.s.gpr[insn.rm] = insn.op_size == 8 ? base : static_cast<std::uint32_t>(base);
  return Flow::next;
}
template <unsigned Seg>
Flow write_base(Core& core, const Insn& insn) {
  if (!(core.s.cr4 & kCr4Fsgsbase)) return core.raise_ud();
  const std::uint64_t base = insn.op_size == 8 ? core.s.gpr[insn.rm] : static_cast<std::uint32_t>(core.s.gpr[insn.rm]);
  if (!core.canonical(base)) return core.raise_gp();
  SystemOps::set_base(core, Seg, base);
  return Flow::next;
}

}  // namespace

void bind_descriptors(HandlerTable& t) {
  t.set(Sem::sldt, sldt);
  t.set(Sem::str, str);
  t.set(Sem::smsw, smsw);
  t.set(Sem::lldt, lldt);
  t.set(Sem::ltr, ltr);
  t.set(Sem::verr, verify<false>);
  t.set(Sem::verw, verify<true>);
  t.set(Sem::lar_ge, inspect_descriptor<false>);
  t.set(Sem::lsl_ge, inspect_descriptor<true>);
  t.set(Sem::arpl_eg, arpl_eg);
  t.set(Sem::sgdt, sgdt);
  t.set(Sem::sidt, sidt);
  t.set(Sem::lgdt, lgdt);
  t.set(Sem::lidt, lidt);
  t.set(Sem::mov_es, mov_es);
  t.set(Sem::mov_se, mov_se);
  t.set(Sem::swapgs, swapgs);
  t.set(Sem::rdfsbase, read_base<kFs>);
  t.set(Sem::rdgsbase, read_base<kGs>);
  t.set(Sem::wrfsbase, write_base<kFs>);
  t.set(Sem::wrgsbase, write_base<kGs>);
}

}  // namespace husk::cpu::interp
