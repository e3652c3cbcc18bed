// husk: stack and control-transfer instructions
#include "cpu/interp/operands.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

// ---- stack ----

template <unsigned N>
Flow push_value(Core& core, Uint<N> value) {
  return core.push<Uint<N>>(value) ? Flow::next : Flow::fault;
}
template <unsigned N>
Flow push_z(Core& core, const Insn& insn) {
  return push_value<N>(core, core.reg<N>(insn.reg));
}
template <unsigned N>
Flow push_i(Core& core, const Insn& insn) {
  return push_value<N>(core, static_cast<Uint<N>>(insn.imm));
}
template <unsigned N>
Flow push_e(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!read_rm<N>(core, insn, value)) return Flow::fault;
  return push_value<N>(core, value);
}
template <unsigned N>
Flow push_sreg(Core& core, const Insn& insn) {
  return push_value<N>(core, static_cast<Uint<N>>(core.s.seg[forms()[insn.form].operands[0].fixed].selector));
}
/// Frees `bytes` of the stack.
void drop(Core& core, std::uint64_t bytes) { core.set_stack_pointer(core.s.gpr[kRsp] + bytes); }

template <unsigned N>
Flow pop_z(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!core.peek(value)) return Flow::fault;
  drop(core, N);
  // POP SP gets the popped value, after the increment.
  core.set_reg<N>(insn.reg, value);
  return Flow::next;
}
template <unsigned N>
Flow pop_e(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!core.peek(value)) return Flow::fault;
  // A memory destination based on SP uses the incremented SP (SDM vol. 2, POP).
  const std::uint64_t before = core.s.gpr[kRsp];
  drop(core, N);
  if (!write_rm<N>(core, insn, value)) {
    core.s.gpr[kRsp] = before;
    return Flow::fault;
  }
  return Flow::next;
}
template <unsigned N>
Flow pop_sreg(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!core.peek(value)) return Flow::fault;
  const unsigned seg = forms()[insn.form].operands[0].fixed;
  // SP moves by the old stack size: a POP SS changes it for later instructions only.
  const std::uint64_t mask = mask_of(core.stack_size() * 8);
  const std::uint64_t sp = (core.s.gpr[kRsp] & ~mask) | ((core.s.gpr[kRsp] + N) & mask);
  if (!core.load_segment(seg, static_cast<std::uint16_t>(value))) return Flow::fault;
  core.s.gpr[kRsp] = sp;
  if (seg == kSs) core.set_interrupt_shadow();
  return Flow::next;
}
template <unsigned N>
Flow pusha(Core& core, const Insn&) {
  const std::uint64_t sp = core.s.gpr[kRsp];
  for (unsigned i = 0; i < 8; ++i) {
    const Uint<N> value = i == kRsp ? static_cast<Uint<N>>(sp) : core.reg<N>(i);
    if (!core.store<Uint<N>>(kSs, core.stack_address(sp - (i + 1) * N), value)) return Flow::fault;
  }
  core.set_stack_pointer(sp - 8 * N);
  return Flow::next;
}
template <unsigned N>
Flow popa(Core& core, const Insn&) {
  std::array<Uint<N>, 8> values;
  for (unsigned i = 0; i < 8; ++i)
    if (!core.peek(values[i], i * N)) return Flow::fault;
  drop(core, 8 * N);
  for (unsigned i = 0; i < 8; ++i)
    if (7 - i != kRsp) core.set_reg<N>(7 - i, values[i]);
  return Flow::next;
}
template <unsigned N>
Flow enter(Core& core, const Insn& insn) {
  const auto size = static_cast<std::uint16_t>(insn.imm);
  const unsigned level = insn.imm2 & 31;
  std::uint64_t sp = core.s.gpr[kRsp];
  std::uint64_t bp = core.s.gpr[kRbp];
  const auto push = [&](Uint<N> value) {
    sp = core.stack_address(sp - N);
    return core.store<Uint<N>>(kSs, sp, value);
  };
  if (!push(core.reg<N>(kRbp))) return Flow::fault;
  const std::uint64_t frame = sp;
  if (level > 0) {
    for (unsigned i = 1; i < level; ++i) {
      bp -= N;
      Uint<N> pointer;
      if (!core.load<Uint<N>>(kSs, core.stack_address(bp), pointer) || !push(pointer)) return Flow::fault;
    }
    if (!push(static_cast<Uint<N>>(frame))) return Flow::fault;
  }
  sp = core.stack_address(sp - size);
  // The new top must be writable before anything changes (SDM vol. 2, ENTER).
  if (!core.probe(kSs, sp, 1, AccessKind::write)) return Flow::fault;
  core.set_reg<N>(kRbp, static_cast<Uint<N>>(frame));
  core.set_stack_pointer(sp);
  return Flow::next;
}
template <unsigned N>
Flow leave(Core& core, const Insn&) {
  Uint<N> value;
  const std::uint64_t frame = core.stack_address(core.s.gpr[kRbp]);
  if (!core.load<Uint<N>>(kSs, frame, value)) return Flow::fault;
  core.set_stack_pointer(frame + N);
  core.set_reg<N>(kRbp, value);
  return Flow::next;
}

// ---- near transfers ----

Flow jump_to(Core& core, const Insn& insn, std::uint64_t target) {
  return core.near_jump(target, insn.op_size) ? Flow::jump : Flow::fault;
}
std::uint64_t relative_target(Core& core, const Insn& insn) { return core.s.rip + insn.length + insn.imm; }

Flow jmp_j(Core& core, const Insn& insn) { return jump_to(core, insn, relative_target(core, insn)); }
Flow jcc_j(Core& core, const Insn& insn) {
  return alu::condition(insn.imm2, core.s.rflags) ? jump_to(core, insn, relative_target(core, insn)) : Flow::next;
}
template <unsigned N>
Flow jmp_e(Core& core, const Insn& insn) {
  Uint<N> target;
  if (!read_rm<N>(core, insn, target)) return Flow::fault;
  return jump_to(core, insn, target);
}
template <unsigned N>
Flow call_to(Core& core, const Insn& insn, std::uint64_t target) {
  // A bad target faults before the push, and a bad push leaves RIP alone.
  const std::uint64_t here = core.s.rip;
  if (!core.near_jump(target, insn.op_size)) return Flow::fault;
  const std::uint64_t there = std::exchange(core.s.rip, here);
  if (!core.push<Uint<N>>(static_cast<Uint<N>>(here + insn.length))) return Flow::fault;
  core.s.rip = there;
  return Flow::jump;
}
template <unsigned N>
Flow call_j(Core& core, const Insn& insn) {
  return call_to<N>(core, insn, relative_target(core, insn));
}
template <unsigned N>
Flow call_e(Core& core, const Insn& insn) {
  Uint<N> target;
  if (!read_rm<N>(core, insn, target)) return Flow::fault;
  return call_to<N>(core, insn, target);
}
template <unsigned N>
Flow return_near(Core& core, const Insn& insn, unsigned release) {
  Uint<N> target;
  if (!core.peek(target) || !core.near_jump(target, insn.op_size)) return Flow::fault;
  drop(core, N + release);
  return Flow::jump;
}
template <unsigned N>
Flow ret(Core& core, const Insn& insn) {
  return return_near<N>(core, insn, 0);
}
template <unsigned N>
Flow ret_i(Core& core, const Insn& insn) {
  return return_near<N>(core, insn, static_cast<std::uint16_t>(insn.imm));
}

/// rCX by address size.
std::uint64_t counter(Core& core, const Insn& insn) { return core.s.gpr[kRcx] & mask_of(insn.addr_size * 8u); }
void set_counter(Core& core, const Insn& insn, std::uint64_t value) {
  if (insn.addr_size == 2)
    core.set_reg<2>(kRcx, static_cast<std::uint16_t>(value));
  else
    core.s.gpr[kRcx] = value & mask_of(insn.addr_size * 8u);
}
Flow loop_if(Core& core, const Insn& insn, bool condition) {
  const std::uint64_t left = (counter(core, insn) - 1) & mask_of(insn.addr_size * 8u);
  if (left != 0 && condition && !core.near_jump(relative_target(core, insn), insn.op_size)) return Flow::fault;
  set_counter(core, insn, left);
  return left != 0 && condition ? Flow::jump : Flow::next;
}
Flow loop_j(Core& core, const Insn& insn) { return loop_if(core, insn, true); }
Flow loope_j(Core& core, const Insn& insn) { return loop_if(core, insn, core.s.rflags & kZF); }
Flow loopne_j(Core& core, const Insn& insn) { return loop_if(core, insn, !(core.s.rflags & kZF)); }
Flow jcxz_j(Core& core, const Insn& insn) {
  return counter(core, insn) == 0 ? jump_to(core, insn, relative_target(core, insn)) : Flow::next;
}

// ---- far transfers and interrupts: the work is in far_transfer.cpp ----

template <unsigned N>
[[nodiscard]] bool far_pointer(Core& core, const Insn& insn, std::uint16_t& selector, std::uint64_t& offset) {
  const std::uint64_t ea = core.effective_address(insn);
  Uint<N> raw;
  if (!core.load<Uint<N>>(insn.segment, ea, raw)) return false;
  std::uint64_t selector_at = ea + N;
  if (insn.addr_size != 8) selector_at &= mask_of(insn.addr_size * 8u);
  offset = raw;
  return core.load<std::uint16_t>(insn.segment, selector_at, selector);
}
Flow jmp_far_ap(Core& core, const Insn& insn) {
  return core.far_jump(insn.imm2, insn.imm, insn.op_size, core.s.rip + insn.length);
}
Flow call_far_ap(Core& core, const Insn& insn) {
  return core.far_call(insn.imm2, insn.imm, insn.op_size, core.s.rip + insn.length);
}
template <unsigned N>
Flow jmp_far_m(Core& core, const Insn& insn) {
  std::uint16_t selector;
  std::uint64_t offset;
  if (!far_pointer<N>(core, insn, selector, offset)) return Flow::fault;
  return core.far_jump(selector, offset, N, core.s.rip + insn.length);
}
template <unsigned N>
Flow call_far_m(Core& core, const Insn& insn) {
  std::uint16_t selector;
  std::uint64_t offset;
  if (!far_pointer<N>(core, insn, selector, offset)) return Flow::fault;
  return core.far_call(selector, offset, N, core.s.rip + insn.length);
}
template <unsigned N>
Flow lxs_gm(Core& core, const Insn& insn) {
  std::uint16_t selector;
  std::uint64_t offset;
  if (!far_pointer<N>(core, insn, selector, offset)) return Flow::fault;
  const unsigned seg = forms()[insn.form].operands[0].fixed;
  if (!core.load_segment(seg, selector)) return Flow::fault;
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(offset));
  if (seg == kSs) core.set_interrupt_shadow();
  return Flow::next;
}
Flow retf(Core& core, const Insn& insn) { return core.far_return(insn.op_size, 0); }
Flow retf_i(Core& core, const Insn& insn) {
  return core.far_return(insn.op_size, static_cast<std::uint16_t>(insn.imm));
}
Flow iret(Core& core, const Insn& insn) { return core.interrupt_return(insn.op_size, core.s.rip + insn.length); }
Flow int3(Core& core, const Insn& insn) {
  return core.software_interrupt(kBP, Event::Kind::software_exception, core.s.rip + insn.length);
}
Flow int1(Core& core, const Insn& insn) {
  return core.software_interrupt(kDB, Event::Kind::privileged_software, core.s.rip + insn.length);
}
Flow int_i(Core& core, const Insn& insn) {
  return core.software_interrupt(static_cast<std::uint8_t>(insn.imm), Event::Kind::software_interrupt,
                                 core.s.rip + insn.length);
}
Flow into(Core& core, const Insn& insn) {
  if (!(core.s.rflags & kOF)) return Flow::next;
  return core.software_interrupt(kOverflow, Event::Kind::software_exception, core.s.rip + insn.length);
}
template <unsigned N>
Flow bound_gm(Core& core, const Insn& insn) {
  const std::uint64_t ea = core.effective_address(insn);
  std::uint64_t upper_at = ea + N;
  if (insn.addr_size != 8) upper_at &= mask_of(insn.addr_size * 8u);
  Uint<N> lower, upper;
  if (!core.load<Uint<N>>(insn.segment, ea, lower) || !core.load<Uint<N>>(insn.segment, upper_at, upper))
    return Flow::fault;
  const auto index = static_cast<Sint<N>>(core.reg<N>(insn.reg));
  if (index < static_cast<Sint<N>>(lower) || index > static_cast<Sint<N>>(upper)) return core.raise(kBR);
  return Flow::next;
}
Flow ud(Core& core, const Insn&) { return core.raise_ud(); }

}  // namespace

void bind_control(HandlerTable& t) {
  HUSK_BIND_SIZES(t, push_z, push_z<N>);
  HUSK_BIND_SIZES(t, push_i, push_i<N>);
  HUSK_BIND_SIZES(t, push_e, push_e<N>);
  HUSK_BIND_SIZES(t, push_sreg, push_sreg<N>);
  HUSK_BIND_SIZES(t, pop_z, pop_z<N>);
  HUSK_BIND_SIZES(t, pop_e, pop_e<N>);
  HUSK_BIND_SIZES(t, pop_sreg, pop_sreg<N>);
  HUSK_BIND_SIZES(t, pusha, pusha<N>);
  HUSK_BIND_SIZES(t, popa, popa<N>);
  HUSK_BIND_SIZES(t, enter, enter<N>);
  HUSK_BIND_SIZES(t, leave, leave<N>);
  t.set(Sem::jmp_j, jmp_j);
  t.set(Sem::jcc_j, jcc_j);
  HUSK_BIND_SIZES(t, jmp_e, jmp_e<N>);
  HUSK_BIND_SIZES(t, call_j, call_j<N>);
  HUSK_BIND_SIZES(t, call_e, call_e<N>);
  HUSK_BIND_SIZES(t, ret, ret<N>);
  HUSK_BIND_SIZES(t, ret_i, ret_i<N>);
  t.set(Sem::loop_j, loop_j);
  t.set(Sem::loope_j, loope_j);
  t.set(Sem::loopne_j, loopne_j);
  t.set(Sem::jcxz_j, jcxz_j);
  t.set(Sem::jmp_far_ap, jmp_far_ap);
  t.set(Sem::call_far_ap, call_far_ap);
  HUSK_BIND_SIZES(t, jmp_far_m, jmp_far_m<N>);
  HUSK_BIND_SIZES(t, call_far_m, call_far_m<N>);
  HUSK_BIND_SIZES(t, lxs_gm, lxs_gm<N>);
  t.set(Sem::retf, retf);
  t.set(Sem::retf_i, retf_i);
  t.set(Sem::iret, iret);
  t.set(Sem::int3, int3);
  t.set(Sem::int1, int1);
  t.set(Sem::int_i, int_i);
  t.set(Sem::into, into);
  HUSK_BIND_SIZES(t, bound_gm, bound_gm<N>);
  t.set(Sem::ud, ud);
}

}  // namespace husk::cpu::interp
