// husk: x87 functions of the stack top: roots, remainders, scaling, transcendentals
#include "cpu/interp/x87_unit.h"

namespace husk::cpu::interp {
namespace {

using fp::F80;

void change_sign(X87Unit& unit, const Insn&) {
  if (unit.empty(0)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    F80 a = unit.st(0);
    a.sign_exp ^= 0x8000;
    unit.set(0, a);
  }
  unit.commit();
}
void absolute(X87Unit& unit, const Insn&) {
  if (unit.empty(0)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    F80 a = unit.st(0);
    a.sign_exp &= 0x7fff;
    unit.set(0, a);
  }
  unit.commit();
}

/// ST(0) = Op(ST(0)).
template <F80 (*Op)(F80, fp::Env&)>
void unary(X87Unit& unit, const Insn&) {
  if (unit.empty(0)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    const F80 result = Op(unit.st(0), unit.env);
    if (!unit.env.stopped()) unit.set(0, result);
  }
  unit.commit();
}

void scale(X87Unit& unit, const Insn&) {
  if (unit.empty(0) || unit.empty(1)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    const F80 result = fp::f80_scale(unit.st(0), unit.st(1), unit.env);
    if (!unit.env.stopped()) unit.set(0, result);
  }
  unit.commit();
}

/// ST(1) = Op(ST(0), ST(1)), then pop.
template <F80 (*Op)(F80, F80, fp::Env&)>
void binary_pop(X87Unit& unit, const Insn&) {
  bool done;
  if (unit.empty(0) || unit.empty(1)) {
    done = unit.underflow();
    if (done) unit.set(1, fp::kDefaultNan80);
  } else {
    const F80 result = Op(unit.st(0), unit.st(1), unit.env);
    done = !unit.env.stopped();
    if (done) unit.set(1, result);
  }
  unit.commit();
  if (done) unit.pop();
}
F80 arc_tangent(F80 x, F80 y, fp::Env& env) { return fp::f80_atan2(y, x, env); }

void set_c2(X87Unit& unit, bool value) {
  unit.x.status = static_cast<std::uint16_t>((unit.x.status & ~kX87C2) | (value ? kX87C2 : 0u));
}

template <fp::Remainder (*Op)(F80, F80, fp::Env&)>
void remainder(X87Unit& unit, const Insn&) {
  set_c2(unit, false);  // without a result the other codes stay as they were
  if (unit.empty(0) || unit.empty(1)) {
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    const fp::Remainder r = Op(unit.st(0), unit.st(1), unit.env);
    if (!unit.env.stopped()) {
      unit.set(0, r.value);
      const bool nan = r.value.biased() == 0x7fff;
      const unsigned q = r.quotient;
      if (!nan) {
        unit.env.c1 = q & 1;
        unit.set_codes(((q & 4) ? kX87C0 : 0u) | ((q & 2) ? kX87C3 : 0u) | (r.partial ? kX87C2 : 0u));
      }
    }
  }
  unit.commit();
}

/// The checks of instructions that replace ST(0) and push one more. True if the instruction is to compute.
bool room_for_two(X87Unit& unit) {
  if (!unit.empty(0) && unit.empty(7)) return true;
  const bool masked = unit.empty(0) ? unit.underflow() : unit.overflow();
  if (masked) {
    unit.set(0, fp::kDefaultNan80);
    unit.push(fp::kDefaultNan80);
  }
  unit.commit();
  return false;
}

void extract(X87Unit& unit, const Insn&) {
  if (!room_for_two(unit)) return;
  const fp::Extracted e = fp::f80_extract(unit.st(0), unit.env);
  if (!unit.env.stopped()) {
    unit.set(0, e.exponent);
    unit.push(e.significand);
  }
  unit.commit();
}

template <fp::Trigonometric (*Op)(F80, fp::Env&)>
void trigonometric(X87Unit& unit, const Insn&) {
  if (unit.empty(0)) {
    set_c2(unit, false);
    if (unit.underflow()) unit.set(0, fp::kDefaultNan80);
  } else {
    const fp::Trigonometric t = Op(unit.st(0), unit.env);
    set_c2(unit, !t.reduced);
    if (!unit.env.stopped() && t.reduced) unit.set(0, t.value);
  }
  unit.commit();
}
void tangent(X87Unit& unit, const Insn&) {
  set_c2(unit, false);
  if (!room_for_two(unit)) return;
  const fp::Trigonometric t = fp::f80_tan(unit.st(0), unit.env);
  set_c2(unit, !t.reduced);
  if (!unit.env.stopped() && t.reduced) {
    unit.set(0, t.value);
    const bool nan = t.value.biased() == 0x7fff;  // a tangent is never infinite
    unit.push(nan ? t.value : F80{std::uint64_t{1} << 63, 0x3fff});
  }
  unit.commit();
}
void sine_and_cosine(X87Unit& unit, const Insn&) {
  set_c2(unit, false);
  if (!room_for_two(unit)) return;
  const fp::SinCos t = fp::f80_sincos(unit.st(0), unit.env);
  set_c2(unit, !t.reduced);
  if (!unit.env.stopped() && t.reduced) {
    unit.set(0, t.sin);
    unit.push(t.cos);
  }
  unit.commit();
}

}  // namespace

void bind_x87_functions(HandlerTable& table) {
  table.set(Sem::fchs, on_registers<change_sign>);
  table.set(Sem::fabs, on_registers<absolute>);
  table.set(Sem::fsqrt, on_registers<unary<fp::f80_sqrt>>);
  table.set(Sem::frndint, on_registers<unary<fp::f80_round_to_integral>>);
  table.set(Sem::f2xm1, on_registers<unary<fp::f80_exp2m1>>);
  table.set(Sem::fscale, on_registers<scale>);
  table.set(Sem::fxtract, on_registers<extract>);
  table.set(Sem::fprem, on_registers<remainder<fp::f80_remainder_truncated>>);
  table.set(Sem::fprem1, on_registers<remainder<fp::f80_remainder_nearest>>);
  table.set(Sem::fpatan, on_registers<binary_pop<arc_tangent>>);
  table.set(Sem::fyl2x, on_registers<binary_pop<fp::f80_y_log2>>);
  table.set(Sem::fyl2xp1, on_registers<binary_pop<fp::f80_y_log2_plus1>>);
  table.set(Sem::fsin, on_registers<trigonometric<fp::f80_sin>>);
  table.set(Sem::fcos, on_registers<trigonometric<fp::f80_cos>>);
  table.set(Sem::fptan, on_registers<tangent>);
  table.set(Sem::fsincos, on_registers<sine_and_cosine>);
}

}  // namespace husk::cpu::interp
