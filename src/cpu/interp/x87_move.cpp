// husk: x87 loads, stores, exchanges and constants
#include "cpu/interp/x87_unit.h"

namespace husk::cpu::interp {
namespace {

using fp::F80;
using Bytes10 = std::array<std::uint8_t, 10>;

// ---- loads ------------------------------------------------------------------------------------------------------

/// A denormal operand is loaded even with its exception unmasked; it faults at the next waiting instruction (Zen 4).
void push_checked(X87Unit& unit, F80 value) {
  if (!unit.empty(7)) {
    if (unit.overflow()) unit.push(fp::kDefaultNan80);
  } else if (!(unit.env.unmasked() & fp::kInvalid)) {
    unit.push(value);
  }
  unit.commit();
}

/// Convert: F80(raw, Env&).
template <class T, auto Convert>
Flow load_memory(Core& core, const Insn& insn) {
  T raw;
  const std::uint64_t address = core.effective_address(insn);
  if (!core.load(insn.segment, address, raw)) return Flow::fault;
  note_operand(core, insn, address);
  X87Unit unit(core);
  // With no room on the stack the operand is not looked at.
  push_checked(unit, unit.empty(7) ? Convert(raw, unit.env) : F80{});
  return Flow::next;
}
template <class T>
F80 from_integer(T raw, fp::Env&) {
  return fp::f80_from_int64(static_cast<std::make_signed_t<T>>(raw));
}
F80 from_extended(const Bytes10& raw, fp::Env&) {
  return {load_le<std::uint64_t>(raw.data()), load_le<std::uint16_t>(raw.data() + 8)};
}
F80 from_bcd(const Bytes10& raw, fp::Env&) { return fp::f80_from_bcd(raw); }

void load_register(X87Unit& unit, const Insn& insn) {
  const unsigned i = insn.rm & 7u;
  // If both faults are there, it is the underflow that is told.
  if (unit.empty(i)) {
    if (unit.underflow()) unit.push(fp::kDefaultNan80);
  } else if (!unit.empty(7)) {
    if (unit.overflow()) unit.push(fp::kDefaultNan80);
  } else {
    unit.push(unit.st(i));
  }
  unit.commit();
}

template <F80 (*Constant)(fp::Rounding)>
void load_constant(X87Unit& unit, const Insn&) {
  push_checked(unit, Constant(unit.env.rounding));
}
F80 zero(fp::Rounding) { return {}; }
F80 one(fp::Rounding) { return {std::uint64_t{1} << 63, 0x3fff}; }

// ---- stores -----------------------------------------------------------------------------------------------------

/// Stores what Convert (T(F80, Env&)) makes of ST(0), or `indefinite` for an empty register. Nothing is entered before
/// the access has succeeded.
template <class T, auto Convert, bool Pop>
Flow store_memory(Core& core, const Insn& insn, const T& indefinite) {
  const std::uint64_t address = core.effective_address(insn);
  X87Unit unit(core);
  const std::uint16_t status = core.s.x87.status;
  const bool empty = unit.empty(0);
  T value = indefinite;
  if (empty)
    unit.underflow();
  else
    value = Convert(unit.st(0), unit.env);
  unit.env.settle();
  const bool suppressed = unit.store_suppressed();
  const bool stored = suppressed ? core.probe(insn.segment, address, sizeof(T), AccessKind::write)
                                 : core.store(insn.segment, address, value);
  if (!stored) {
    core.s.x87.status = status;
    return Flow::fault;
  }
  note_operand(core, insn, address);
  unit.commit();
  if (Pop && !suppressed) unit.pop();
  return Flow::next;
}

template <class T, bool Pop>
Flow store_float(Core& core, const Insn& insn) {
  constexpr auto kConvert = [](F80 a, fp::Env& env) {
    if constexpr (sizeof(T) == 4)
      return fp::f80_to_f32(a, env);
    else
      return fp::f80_to_f64(a, env);
  };
  return store_memory<T, kConvert, Pop>(core, insn,
                                        fp::kDefaultNan<std::conditional_t<sizeof(T) == 4, fp::F32, fp::F64>>);
}
template <class T, bool Pop, bool Truncate>
Flow store_integer(Core& core, const Insn& insn) {
  constexpr auto kConvert = [](F80 a, fp::Env& env) {
    const fp::Rounding rounding = Truncate ? fp::Rounding::kTowardZero : env.rounding;
    if constexpr (sizeof(T) == 2)
      return static_cast<T>(fp::f80_to_int16(a, rounding, env));
    else if constexpr (sizeof(T) == 4)
      return static_cast<T>(fp::f80_to_int32(a, rounding, env));
    else
      return static_cast<T>(fp::f80_to_int64(a, rounding, env));
  };
  return store_memory<T, kConvert, Pop>(core, insn, static_cast<T>(T{1} << (sizeof(T) * 8 - 1)));
}
Flow store_bcd(Core& core, const Insn& insn) {
  constexpr auto kConvert = [](F80 a, fp::Env& env) { return fp::f80_to_bcd(a, env); };
  return store_memory<Bytes10, kConvert, true>(core, insn, {0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF});
}
Flow store_extended(Core& core, const Insn& insn) {
  constexpr auto kConvert = [](F80 a, fp::Env&) {
    Bytes10 raw;
    store_le(raw.data(), a.sig);
    store_le(raw.data() + 8, a.sign_exp);
    return raw;
  };
  return store_memory<Bytes10, kConvert, true>(core, insn, {0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF});
}

template <bool Pop>
void store_register(X87Unit& unit, const Insn& insn) {
  bool done = true;
  if (unit.empty(0)) {
    done = unit.underflow();
    if (done) unit.set(insn.rm & 7u, fp::kDefaultNan80);
  } else {
    unit.set(insn.rm & 7u, unit.st(0));
  }
  unit.commit();
  if (Pop && done) unit.pop();
}

/// FSTPNCE: FSTP to which an empty register is no fault: it is popped and nothing is stored.
void store_register_unchecked(X87Unit& unit, const Insn& insn) {
  if (!unit.empty(0)) unit.set(insn.rm & 7u, unit.st(0));
  unit.commit();
  unit.pop();
}

void exchange(X87Unit& unit, const Insn& insn) {
  const unsigned i = insn.rm & 7u;
  const bool empty_top = unit.empty(0), empty_other = unit.empty(i);
  bool done = true;
  F80 top = unit.st(0), other = unit.st(i);
  if (empty_top || empty_other) {
    done = unit.underflow();
    if (empty_top) top = fp::kDefaultNan80;
    if (empty_other) other = fp::kDefaultNan80;
  }
  if (done) {
    unit.set(0, other);
    unit.set(i, top);
  }
  unit.commit();
}

/// Flags: those of which one set makes the condition true; Not: it is the opposite that moves.
template <std::uint64_t Flags, bool Not>
Flow conditional_move(Core& core, const Insn& insn) {
  note_instruction(core, insn);
  X87Unit unit(core);
  const unsigned i = insn.rm & 7u;
  if (unit.empty(0) || unit.empty(i)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else if (((core.s.rflags & Flags) != 0) != Not) {
    unit.set(0, unit.st(i));
  }
  unit.commit_keeping_c1();
  return Flow::next;
}

}  // namespace

void bind_x87_moves(HandlerTable& table) {
  table.set(Sem::fld_md, waiting<load_memory<std::uint32_t, fp::f32_to_f80>>);
  table.set(Sem::fld_mq, waiting<load_memory<std::uint64_t, fp::f64_to_f80>>);
  table.set(Sem::fld_mt, waiting<load_memory<Bytes10, from_extended>>);
  table.set(Sem::fild_mw, waiting<load_memory<std::uint16_t, from_integer<std::uint16_t>>>);
  table.set(Sem::fild_md, waiting<load_memory<std::uint32_t, from_integer<std::uint32_t>>>);
  table.set(Sem::fild_mq, waiting<load_memory<std::uint64_t, from_integer<std::uint64_t>>>);
  table.set(Sem::fbld_mt, waiting<load_memory<Bytes10, from_bcd>>);
  table.set(Sem::fld_i, on_registers<load_register>);
  table.set(Sem::fst_md, waiting<store_float<std::uint32_t, false>>);
  table.set(Sem::fst_mq, waiting<store_float<std::uint64_t, false>>);
  table.set(Sem::fstp_md, waiting<store_float<std::uint32_t, true>>);
  table.set(Sem::fstp_mq, waiting<store_float<std::uint64_t, true>>);
  table.set(Sem::fstp_mt, waiting<store_extended>);
  table.set(Sem::fist_mw, waiting<store_integer<std::uint16_t, false, false>>);
  table.set(Sem::fist_md, waiting<store_integer<std::uint32_t, false, false>>);
  table.set(Sem::fistp_mw, waiting<store_integer<std::uint16_t, true, false>>);
  table.set(Sem::fistp_md, waiting<store_integer<std::uint32_t, true, false>>);
  table.set(Sem::fistp_mq, waiting<store_integer<std::uint64_t, true, false>>);
  table.set(Sem::fisttp_mw, waiting<store_integer<std::uint16_t, true, true>>);
  table.set(Sem::fisttp_md, waiting<store_integer<std::uint32_t, true, true>>);
  table.set(Sem::fisttp_mq, waiting<store_integer<std::uint64_t, true, true>>);
  table.set(Sem::fbstp_mt, waiting<store_bcd>);
  table.set(Sem::fst_i0, on_registers<store_register<false>>);
  table.set(Sem::fstp_i0, on_registers<store_register<true>>);
  table.set(Sem::fstpnce_i0, on_registers<store_register_unchecked>);
  table.set(Sem::fxch_0i, on_registers<exchange>);
  table.set(Sem::fcmovb_0i, waiting<conditional_move<kCF, false>>);
  table.set(Sem::fcmove_0i, waiting<conditional_move<kZF, false>>);
  table.set(Sem::fcmovbe_0i, waiting<conditional_move<kCF | kZF, false>>);
  table.set(Sem::fcmovu_0i, waiting<conditional_move<kPF, false>>);
  table.set(Sem::fcmovnb_0i, waiting<conditional_move<kCF, true>>);
  table.set(Sem::fcmovne_0i, waiting<conditional_move<kZF, true>>);
  table.set(Sem::fcmovnbe_0i, waiting<conditional_move<kCF | kZF, true>>);
  table.set(Sem::fcmovnu_0i, waiting<conditional_move<kPF, true>>);
  table.set(Sem::fld1, on_registers<load_constant<one>>);
  table.set(Sem::fldz, on_registers<load_constant<zero>>);
  table.set(Sem::fldl2t, on_registers<load_constant<fp::f80_log2_10>>);
  table.set(Sem::fldl2e, on_registers<load_constant<fp::f80_log2_e>>);
  table.set(Sem::fldpi, on_registers<load_constant<fp::f80_pi>>);
  table.set(Sem::fldlg2, on_registers<load_constant<fp::f80_log10_2>>);
  table.set(Sem::fldln2, on_registers<load_constant<fp::f80_ln_2>>);
}

}  // namespace husk::cpu::interp
