// husk: the SIMD floating-point operations of both encodings, and the list that binds them
#pragma once

#include "cpu/interp/vec_fp.h"

namespace husk::cpu::interp::fpops {

template <class F>
typename F::Bits add(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::add<F>(a, b, env);
}
template <class F>
typename F::Bits sub(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::sub<F>(a, b, env);
}
template <class F>
typename F::Bits mul(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::mul<F>(a, b, env);
}
template <class F>
typename F::Bits div(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::div<F>(a, b, env);
}
template <class F>
typename F::Bits min(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::min<F>(a, b, env);
}
template <class F>
typename F::Bits max(typename F::Bits a, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::max<F>(a, b, env);
}
template <class F>
typename F::Bits sqrt(typename F::Bits, typename F::Bits b, unsigned, fp::Env& env) {
  return fp::sqrt<F>(b, env);
}
/// Legacy encodings know the first eight predicates; the other bits of the immediate are ignored there.
template <class F, unsigned PredicateMask>
typename F::Bits cmp(typename F::Bits a, typename F::Bits b, unsigned imm, fp::Env& env) {
  return fp::compare_predicate<F>(a, b, imm & PredicateMask, env) ? static_cast<typename F::Bits>(-1)
                                                                  : typename F::Bits{0};
}
/// ROUNDxx: imm[2] takes MXCSR.RC instead of imm[1:0], imm[3] keeps the precision exception quiet.
template <class F>
typename F::Bits round(typename F::Bits, typename F::Bits b, unsigned imm, fp::Env& env) {
  const auto rounding = (imm & 4) ? env.rounding : static_cast<fp::Rounding>(imm & 3);
  return fp::round_to_integral<F>(b, rounding, !(imm & 8), env);
}
inline std::uint32_t rcp(std::uint32_t, std::uint32_t b, unsigned, fp::Env&) { return approximate_reciprocal(b); }
inline std::uint32_t rsqrt(std::uint32_t, std::uint32_t b, unsigned, fp::Env&) {
  return approximate_reciprocal_sqrt(b);
}

/// HADDPx, HSUBPx: neighbours of a, then of b.
template <class F, FpFunction<F> Of>
struct Horizontal {
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm, fp::Env& env) {
    using Bits = typename F::Bits;
    const auto x = lanes_of<Bits>(a), y = lanes_of<Bits>(b);
    constexpr unsigned kHalf = 8 / sizeof(Bits);
    Lanes<Bits, 16> out;
    for (unsigned i = 0; i < kHalf; ++i) out[i] = Of(x[2 * i], x[2 * i + 1], imm, env);
    for (unsigned i = 0; i < kHalf; ++i) out[kHalf + i] = Of(y[2 * i], y[2 * i + 1], imm, env);
    return block_of(out);
  }
};
/// ADDSUBPx: even elements are subtracted, odd ones added.
template <class F>
struct AddSub {
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned, fp::Env& env) {
    auto x = lanes_of<typename F::Bits>(a);
    const auto y = lanes_of<typename F::Bits>(b);
    for (unsigned i = 0; i < x.size(); ++i) x[i] = (i & 1) ? fp::add<F>(x[i], y[i], env) : fp::sub<F>(x[i], y[i], env);
    return block_of(x);
  }
};
/// DPPS, DPPD: products that imm[7:4] leaves out are +0; sums are made in pairs (SDM vol. 2). The exceptions are found
/// step by step, each over the whole vector: an unmasked one ends the instruction before the next step, and takes only
/// its own step's post-computation flags with it.
template <class Format, Encoding E, unsigned N>
inline Flow dot_product_sized(Core& core, const Insn& insn) {
  using Bits = typename Format::Bits;
  constexpr unsigned kCount = N / sizeof(Bits), kHalf = 16 / sizeof(Bits);
  Block<N> rm;
  if (!fetch<E>(core, insn, rm)) return Flow::fault;
  const auto a = lanes_of<Bits>(read_vector<N>(core, first_source<E>(insn))), b = lanes_of<Bits>(rm);
  const unsigned imm = imm8(insn);
  Lanes<Bits, N> product{}, out{};
  fp::Env env = fp_environment(core);
  for (unsigned i = 0; i < kCount; ++i) {
    if ((imm >> (4 + i % kHalf)) & 1) product[i] = fp::mul<Format>(a[i], b[i], env);
  }
  if (!commit_fp(core, env)) return Flow::fault;
  for (unsigned stride = 1; stride < kHalf; stride *= 2) {
    env = fp_environment(core);
    for (unsigned i = 0; i < kCount; i += 2 * stride)
      product[i] = fp::add<Format>(product[i], product[i + stride], env);
    if (!commit_fp(core, env)) return Flow::fault;
  }
  for (unsigned i = 0; i < kCount; ++i) {
    if ((imm >> (i % kHalf)) & 1) out[i] = product[i - i % kHalf];
  }
  write_result<E>(core, insn.reg, block_of(out));
  return Flow::next;
}
template <class Format, Encoding E>
Flow dot_product(Core& core, const Insn& insn) {
  if (E == Encoding::vex && insn.vector_bytes == 32) return dot_product_sized<Format, E, 32>(core, insn);
  return dot_product_sized<Format, E, 16>(core, insn);
}

/// Binds what both encodings have under `prefix` (sse_ or avx_).
#define HUSK_VEC_BIND_FP(table, prefix, E, predicates)                                          \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, add, add)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, sub, sub)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, mul, mul)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, div, div)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, min, min)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, max, max)                                               \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, sqrt, sqrt)                                             \
  HUSK_VEC_BIND_FP_OP(table, prefix, E, round, round)                                           \
  table.set(Sem::prefix##cmpps, fp_packed<fp::F32, fpops::cmp<fp::F32, predicates>, E>);        \
  table.set(Sem::prefix##cmppd, fp_packed<fp::F64, fpops::cmp<fp::F64, predicates>, E>);        \
  table.set(Sem::prefix##cmpss, fp_scalar<fp::F32, fpops::cmp<fp::F32, predicates>, E>);        \
  table.set(Sem::prefix##cmpsd, fp_scalar<fp::F64, fpops::cmp<fp::F64, predicates>, E>);        \
  table.set(Sem::prefix##rcpps, fp_packed<fp::F32, fpops::rcp, E>);                             \
  table.set(Sem::prefix##rcpss, fp_scalar<fp::F32, fpops::rcp, E>);                             \
  table.set(Sem::prefix##rsqrtps, fp_packed<fp::F32, fpops::rsqrt, E>);                         \
  table.set(Sem::prefix##rsqrtss, fp_scalar<fp::F32, fpops::rsqrt, E>);                         \
  table.set(Sem::prefix##comiss, fp_compare_flags<fp::F32, true>);                              \
  table.set(Sem::prefix##comisd, fp_compare_flags<fp::F64, true>);                              \
  table.set(Sem::prefix##ucomiss, fp_compare_flags<fp::F32, false>);                            \
  table.set(Sem::prefix##ucomisd, fp_compare_flags<fp::F64, false>);                            \
  table.set(Sem::prefix##haddps, fp_block<fpops::Horizontal<fp::F32, fpops::add<fp::F32>>, E>); \
  table.set(Sem::prefix##haddpd, fp_block<fpops::Horizontal<fp::F64, fpops::add<fp::F64>>, E>); \
  table.set(Sem::prefix##hsubps, fp_block<fpops::Horizontal<fp::F32, fpops::sub<fp::F32>>, E>); \
  table.set(Sem::prefix##hsubpd, fp_block<fpops::Horizontal<fp::F64, fpops::sub<fp::F64>>, E>); \
  table.set(Sem::prefix##addsubps, fp_block<fpops::AddSub<fp::F32>, E>);                        \
  table.set(Sem::prefix##addsubpd, fp_block<fpops::AddSub<fp::F64>, E>);                        \
  table.set(Sem::prefix##dpps, fpops::dot_product<fp::F32, E>);                                 \
  table.set(Sem::prefix##dppd, fpops::dot_product<fp::F64, E>);
#define HUSK_VEC_BIND_FP_OP(table, prefix, E, name, function)                        \
  table.set(Sem::prefix##name##ps, fp_packed<fp::F32, fpops::function<fp::F32>, E>); \
  table.set(Sem::prefix##name##pd, fp_packed<fp::F64, fpops::function<fp::F64>, E>); \
  table.set(Sem::prefix##name##ss, fp_scalar<fp::F32, fpops::function<fp::F32>, E>); \
  table.set(Sem::prefix##name##sd, fp_scalar<fp::F64, fpops::function<fp::F64>, E>);

}  // namespace husk::cpu::interp::fpops
