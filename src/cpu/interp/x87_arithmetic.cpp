// husk: x87 add, subtract, multiply, divide and compare
#include "cpu/interp/x87_unit.h"

namespace husk::cpu::interp {
namespace {

using fp::F80;

using Operation = F80 (*)(F80, F80, fp::Env&, bool);
template <Operation Op>
F80 reversed(F80 a, F80 b, fp::Env& env, bool source_denormal) {
  return Op(b, a, env, source_denormal);
}

/// An operand from memory: a float of 32 or 64 bits (as that unsigned type) or a signed integer.
struct Source {
  F80 value;
  bool denormal = false;
};
template <class T>
[[nodiscard]] bool fetch(Core& core, const Insn& insn, Source& out) {
  std::make_unsigned_t<T> raw;
  const std::uint64_t address = core.effective_address(insn);
  if (!core.load(insn.segment, address, raw)) return false;
  note_operand(core, insn, address);
  if constexpr (std::is_signed_v<T>) {
    out.value = fp::f80_from_int64(static_cast<T>(raw));
  } else {
    out.value = fp::widen(raw);
    out.denormal = fp::is_denormal<std::conditional_t<sizeof(T) == 4, fp::F32, fp::F64>>(raw);
  }
  return true;
}

template <Operation Op, class T>
Flow with_memory(Core& core, const Insn& insn) {
  Source source;
  if (!fetch<T>(core, insn, source)) return Flow::fault;
  X87Unit unit(core);
  if (unit.empty(0)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    const F80 result = Op(unit.st(0), source.value, unit.env, source.denormal);
    if (!unit.env.stopped()) unit.set(0, result);
  }
  unit.commit();
  return Flow::next;
}

/// ST(to) = ST(to) op ST(from).
template <Operation Op, bool ToTop, bool Pop>
void with_register(X87Unit& unit, const Insn& insn) {
  const unsigned to = ToTop ? 0 : insn.rm & 7u;
  const unsigned from = ToTop ? insn.rm & 7u : 0;
  bool done;
  if (unit.empty(to) || unit.empty(from)) {
    done = unit.underflow();
    if (done) unit.set(to, fp::kDefaultNan80);
  } else {
    const F80 result = Op(unit.st(to), unit.st(from), unit.env, false);
    done = !unit.env.stopped();
    if (done) unit.set(to, result);
  }
  unit.commit();
  if (Pop && done) unit.pop();
}

void compare_with(X87Unit& unit, bool empty, const Source& source, bool signalling, unsigned pops) {
  bool done;
  if (empty) {
    done = unit.underflow();
    unit.set_codes(fp::Relation::kUnordered);
  } else {
    unit.set_codes(fp::f80_compare(unit.st(0), source.value, signalling, unit.env, source.denormal));
    done = !unit.env.stopped();
  }
  unit.commit();
  for (; done && pops > 0; --pops) unit.pop();
}
template <class T, unsigned Pops>
Flow compare_memory(Core& core, const Insn& insn) {
  Source source;
  if (!fetch<T>(core, insn, source)) return Flow::fault;
  X87Unit unit(core);
  compare_with(unit, unit.empty(0), source, true, Pops);
  return Flow::next;
}
template <bool Signalling, unsigned Pops>
void compare_register(X87Unit& unit, const Insn& insn) {
  const unsigned i = insn.rm & 7u;
  compare_with(unit, unit.empty(0) || unit.empty(i), {unit.st(i)}, Signalling, Pops);
}
void test_top(X87Unit& unit, const Insn&) { compare_with(unit, unit.empty(0), {}, true, 0); }

template <bool Signalling, bool Pop>
Flow compare_to_flags(Core& core, const Insn& insn) {
  note_instruction(core, insn);
  X87Unit unit(core);
  const unsigned i = insn.rm & 7u;
  bool done;
  fp::Relation relation = fp::Relation::kUnordered;
  if (unit.empty(0) || unit.empty(i)) {
    done = unit.underflow();
  } else {
    relation = fp::f80_compare(unit.st(0), unit.st(i), Signalling, unit.env);
    done = !unit.env.stopped();
  }
  static constexpr std::array<std::uint64_t, 4> kFlags{kCF, kZF, 0, kZF | kPF | kCF};
  core.s.rflags = (core.s.rflags & ~std::uint64_t{kArithmeticFlags}) | kFlags[static_cast<unsigned>(relation)];
  unit.commit_keeping_c1();
  if (Pop && done) unit.pop();
  return Flow::next;
}

void examine(X87Unit& unit, const Insn&) {
  const F80 a = unit.st(0);
  const unsigned c = unit.empty(0) ? 5 : fp::f80_examine(a);
  unit.env.c1 = a.sign();
  unit.set_codes(((c & 4) ? kX87C3 : 0u) | ((c & 2) ? kX87C2 : 0u) | ((c & 1) ? kX87C0 : 0u));
  unit.commit();
}

}  // namespace

#define ARITHMETIC(name, op, mirrored)                                       \
  table.set(Sem::name##_md, waiting<with_memory<op, std::uint32_t>>);        \
  table.set(Sem::name##_mq, waiting<with_memory<op, std::uint64_t>>);        \
  table.set(Sem::fi##mirrored##_mw, waiting<with_memory<op, std::int16_t>>); \
  table.set(Sem::fi##mirrored##_md, waiting<with_memory<op, std::int32_t>>); \
  table.set(Sem::name##_0i, on_registers<with_register<op, true, false>>);   \
  table.set(Sem::name##_i0, on_registers<with_register<op, false, false>>);  \
  table.set(Sem::name##p_i0, on_registers<with_register<op, false, true>>)

void bind_x87_arithmetic(HandlerTable& table) {
  ARITHMETIC(fadd, fp::f80_add, add);
  ARITHMETIC(fmul, fp::f80_mul, mul);
  ARITHMETIC(fsub, fp::f80_sub, sub);
  ARITHMETIC(fsubr, reversed<fp::f80_sub>, subr);
  ARITHMETIC(fdiv, fp::f80_div, div);
  ARITHMETIC(fdivr, reversed<fp::f80_div>, divr);
  table.set(Sem::fcom_md, waiting<compare_memory<std::uint32_t, 0>>);
  table.set(Sem::fcom_mq, waiting<compare_memory<std::uint64_t, 0>>);
  table.set(Sem::ficom_mw, waiting<compare_memory<std::int16_t, 0>>);
  table.set(Sem::ficom_md, waiting<compare_memory<std::int32_t, 0>>);
  table.set(Sem::fcomp_md, waiting<compare_memory<std::uint32_t, 1>>);
  table.set(Sem::fcomp_mq, waiting<compare_memory<std::uint64_t, 1>>);
  table.set(Sem::ficomp_mw, waiting<compare_memory<std::int16_t, 1>>);
  table.set(Sem::ficomp_md, waiting<compare_memory<std::int32_t, 1>>);
  table.set(Sem::fcom_0i, on_registers<compare_register<true, 0>>);
  table.set(Sem::fcomp_0i, on_registers<compare_register<true, 1>>);
  table.set(Sem::fcompp, on_registers<compare_register<true, 2>>);
  table.set(Sem::fucom_0i, on_registers<compare_register<false, 0>>);
  table.set(Sem::fucomp_0i, on_registers<compare_register<false, 1>>);
  table.set(Sem::fucompp, on_registers<compare_register<false, 2>>);
  table.set(Sem::fcomi_0i, waiting<compare_to_flags<true, false>>);
  table.set(Sem::fcomip_0i, waiting<compare_to_flags<true, true>>);
  table.set(Sem::fucomi_0i, waiting<compare_to_flags<false, false>>);
  table.set(Sem::fucomip_0i, waiting<compare_to_flags<false, true>>);
  table.set(Sem::ftst, on_registers<test_top>);
  table.set(Sem::fxam, on_registers<examine>);
}

}  // namespace husk::cpu::interp
