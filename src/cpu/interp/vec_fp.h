// husk: handler shapes of SIMD floating-point instructions, and how their exceptions are taken
#pragma once

#include "cpu/interp/vec_block.h"
#include "cpu/softfloat/softfloat.h"

/// An operation is a function `Bits f(Bits a, Bits b, unsigned imm, fp::Env&)` on raw encodings: a the first source, b
/// the rm operand. Unary ones ignore a; the scalar forms take the bits above the result from it.
namespace husk::cpu::interp {

inline fp::Env fp_environment(const Core& core) { return fp::Env::from_mxcsr(core.s.mxcsr); }

/// After all elements: adds the flags to MXCSR. False: an unmasked one was raised, #XM (or #UD without OSXMMEXCPT) is
/// recorded and the destination must stay (SDM vol. 1, 11.5.3 and 11.5.5).
[[nodiscard]] inline bool commit_fp(Core& core, fp::Env& env) {
  env.settle();
  core.s.mxcsr |= env.raised;
  if (!env.faults()) [[likely]]
    return true;
  (void)core.raise((core.s.cr4 & kCr4Osxmmexcpt) ? kXM : kUD);
  return false;
}

template <class Format>
using FpFunction = typename Format::Bits (*)(typename Format::Bits, typename Format::Bits, unsigned, fp::Env&);

template <class Format, FpFunction<Format> F, Encoding E, unsigned N>
inline Flow fp_packed_sized(Core& core, const Insn& insn) {
  Block<N> rm;
  if (!fetch<E>(core, insn, rm)) return Flow::fault;
  auto a = lanes_of<typename Format::Bits>(read_vector<N>(core, first_source<E>(insn)));
  const auto b = lanes_of<typename Format::Bits>(rm);
  fp::Env env = fp_environment(core);
  for (unsigned i = 0; i < a.size(); ++i) a[i] = F(a[i], b[i], imm8(insn), env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(a));
  return Flow::next;
}
template <class Format, FpFunction<Format> F, Encoding E>
Flow fp_packed(Core& core, const Insn& insn) {
  if (E == Encoding::vex && insn.vector_bytes == 32) return fp_packed_sized<Format, F, E, 32>(core, insn);
  return fp_packed_sized<Format, F, E, 16>(core, insn);
}
template <class Format, FpFunction<Format> F, Encoding E>
Flow fp_scalar(Core& core, const Insn& insn) {
  typename Format::Bits b;
  if (!fetch_scalar(core, insn, b)) return Flow::fault;
  auto a = lanes_of<typename Format::Bits>(read_vector<16>(core, first_source<E>(insn)));
  fp::Env env = fp_environment(core);
  a[0] = F(a[0], b, imm8(insn), env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(a));
  return Flow::next;
}

/// Operations that work on a 128-bit block as a whole: Op::apply(a, b, imm, env), 256 bits half by half.
template <class Op, Encoding E, unsigned N>
inline Flow fp_block_sized(Core& core, const Insn& insn) {
  Block<N> b;
  if (!fetch<E>(core, insn, b)) return Flow::fault;
  const auto a = read_vector<N>(core, first_source<E>(insn));
  fp::Env env = fp_environment(core);
  Block<N> out;
  if constexpr (N == 32) {
    for (unsigned h = 0; h < 2; ++h) set_half(out, h, Op::apply(half_of(a, h), half_of(b, h), imm8(insn), env));
  } else {
    out = Op::apply(a, b, imm8(insn), env);
  }
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, out);
  return Flow::next;
}
template <class Op, Encoding E>
Flow fp_block(Core& core, const Insn& insn) {
  if (E == Encoding::vex && insn.vector_bytes == 32) return fp_block_sized<Op, E, 32>(core, insn);
  return fp_block_sized<Op, E, 16>(core, insn);
}

/// COMISx, UCOMISx: ZF, PF, CF from the relation of reg and rm; the same for both encodings.
template <class Format, bool Signalling>
Flow fp_compare_flags(Core& core, const Insn& insn) {
  typename Format::Bits b;
  if (!fetch_scalar(core, insn, b)) return Flow::fault;
  fp::Env env = fp_environment(core);
  const fp::Relation relation =
      fp::compare<Format>(read_element<typename Format::Bits>(core, insn.reg), b, Signalling, env);
  if (!commit_fp(core, env)) return Flow::fault;
  static constexpr std::uint64_t kLess = kCF, kEqual = kZF, kUnordered = kZF | kPF | kCF;
  switch (relation) {
    case fp::Relation::kLess: set_flags(core, kLess); break;
    case fp::Relation::kEqual: set_flags(core, kEqual); break;
    case fp::Relation::kGreater: set_flags(core, 0); break;
    case fp::Relation::kUnordered: set_flags(core, kUnordered); break;
  }
  return Flow::next;
}

/// RCPPS, RSQRTPS and their scalar forms (vec_approx.cpp): no exceptions, MXCSR neither read nor written but for DAZ.
std::uint32_t approximate_reciprocal(std::uint32_t bits);
std::uint32_t approximate_reciprocal_sqrt(std::uint32_t bits);

}  // namespace husk::cpu::interp
