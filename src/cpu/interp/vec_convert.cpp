// husk: conversions between floating-point formats and integers: SSE, AVX, F16C, and those with MMX registers
#include <algorithm>

#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_fp.h"

namespace husk::cpu::interp {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using fp::Env;
using fp::F32;
using fp::F64;

// ---- element functions: To f(From, Env&) ----

u64 ps2pd(u32 a, Env& env) { return fp::f32_to_f64(a, env); }
u32 pd2ps(u64 a, Env& env) { return fp::f64_to_f32(a, env); }
u32 dq2ps(u32 a, Env& env) { return fp::from_int64<F32>(static_cast<std::int32_t>(a), env); }
u64 dq2pd(u32 a, Env& env) { return fp::from_int64<F64>(static_cast<std::int32_t>(a), env); }
u32 qword2ss(u64 a, Env& env) { return fp::from_int64<F32>(static_cast<std::int64_t>(a), env); }
u64 qword2sd(u64 a, Env& env) { return fp::from_int64<F64>(static_cast<std::int64_t>(a), env); }
template <class F, bool Truncate>
u32 to_dword(typename F::Bits a, Env& env) {
  return static_cast<u32>(fp::to_int32<F>(a, Truncate ? fp::Rounding::kTowardZero : env.rounding, env));
}
template <class F, bool Truncate>
u64 to_qword(typename F::Bits a, Env& env) {
  return static_cast<u64>(fp::to_int64<F>(a, Truncate ? fp::Rounding::kTowardZero : env.rounding, env));
}
u32 ph2ps(u16 a, Env& env) { return fp::f16_to_f32(a, env); }

template <class To, class From>
using Convert = To (*)(From, Env&);

// ---- packed: as many elements as fit both operands; the result is as wide as its elements, at least 128 bits ----

template <class To, class From, Convert<To, From> F, Encoding E, unsigned N>
inline Flow packed_sized(Core& core, const Insn& insn) {
  constexpr unsigned kCount = N / std::max(sizeof(To), sizeof(From));
  constexpr unsigned kSource = kCount * sizeof(From), kResult = std::max<unsigned>(kCount * sizeof(To), 16);
  Block<kSource> rm;
  if (!fetch<E>(core, insn, rm)) return Flow::fault;  // aligned only if it is 16 bytes of legacy SSE
  const auto from = lanes_of<From>(rm);
  Lanes<To, kResult> to{};
  Env env = fp_environment(core);
  for (unsigned i = 0; i < kCount; ++i) to[i] = F(from[i], env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(to));
  return Flow::next;
}
template <class To, class From, Convert<To, From> F, Encoding E>
Flow packed(Core& core, const Insn& insn) {
  if (E == Encoding::vex && insn.vector_bytes == 32) return packed_sized<To, From, F, E, 32>(core, insn);
  return packed_sized<To, From, F, E, 16>(core, insn);
}

// ---- scalar ----

/// CVTSS2SD, CVTSD2SS: the rest of 128 bits comes from the first source.
template <class To, class From, Convert<To, From> F, Encoding E>
Flow scalar(Core& core, const Insn& insn) {
  From from;
  if (!fetch_scalar(core, insn, from)) return Flow::fault;
  auto lanes = lanes_of<To>(read_vector<16>(core, first_source<E>(insn)));
  Env env = fp_environment(core);
  lanes[0] = F(from, env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}
/// CVTSI2SS, CVTSI2SD.
template <class To, class From, Convert<To, From> F, Encoding E>
Flow from_gpr(Core& core, const Insn& insn) {
  From from;
  if (!insn.memory)
    from = static_cast<From>(core.s.gpr[insn.rm]);
  else if (!core.load(insn.segment, core.effective_address(insn), from))
    return Flow::fault;
  auto lanes = lanes_of<To>(read_vector<16>(core, first_source<E>(insn)));
  Env env = fp_environment(core);
  lanes[0] = F(from, env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}
/// CVT(T)SS2SI, CVT(T)SD2SI: the same for both encodings.
template <class To, class From, Convert<To, From> F>
Flow to_gpr(Core& core, const Insn& insn) {
  From from;
  if (!fetch_scalar(core, insn, from)) return Flow::fault;
  Env env = fp_environment(core);
  const To value = F(from, env);
  if (!commit_fp(core, env)) return Flow::fault;
  core.s.gpr[insn.reg] = value;
  return Flow::next;
}

// ---- with MMX registers ----

/// With a memory operand no MMX register is touched: the x87 state stays and a pending exception is not looked at (SDM
/// vol. 2, CVTPI2PD; the same holds for CVTPI2PS on family 19h).
Flow cvtpi2ps(Core& core, const Insn& insn) {
  Block<8> rm;
  if (!fetch_mmx(core, insn, rm)) return Flow::fault;
  const auto from = lanes_of<u32>(rm);
  Env env = fp_environment(core);
  const std::array<u32, 2> to{dq2ps(from[0], env), dq2ps(from[1], env)};
  if (!commit_fp(core, env)) return Flow::fault;
  if (!insn.memory) begin_mmx(core);
  write_low(core, insn.reg, block_of(to));
  return Flow::next;
}
Flow cvtpi2pd(Core& core, const Insn& insn) {
  Block<8> rm;
  if (!fetch_mmx(core, insn, rm)) return Flow::fault;
  const auto from = lanes_of<u32>(rm);
  Env env = fp_environment(core);  // exact: nothing is raised
  if (!insn.memory) begin_mmx(core);
  write_low(core, insn.reg, block_of(std::array<u64, 2>{dq2pd(from[0], env), dq2pd(from[1], env)}));
  return Flow::next;
}
template <class F, bool Truncate>
Flow to_mmx(Core& core, const Insn& insn) {
  Block<2 * sizeof(typename F::Bits)> rm;
  if (!fetch<Encoding::sse>(core, insn, rm)) return Flow::fault;
  const auto from = lanes_of<typename F::Bits>(rm);
  Env env = fp_environment(core);
  const std::array<u32, 2> to{to_dword<F, Truncate>(from[0], env), to_dword<F, Truncate>(from[1], env)};
  if (!commit_fp(core, env)) return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, block_of(to));
  return Flow::next;
}

// ---- F16C ----

template <unsigned N>
inline Flow ps2ph_sized(Core& core, const Insn& insn) {
  const auto from = lanes_of<u32>(read_vector<N>(core, insn.reg));
  Env env = fp_environment(core);
  const auto rounding = (imm8(insn) & 4) ? env.rounding : static_cast<fp::Rounding>(imm8(insn) & 3);
  Lanes<u16, N / 2> to{};
  for (unsigned i = 0; i < from.size(); ++i) to[i] = fp::f32_to_f16(from[i], rounding, env);
  const Block<N / 2> result = block_of(to);
  const std::uint64_t ea = insn.memory ? core.effective_address(insn) : 0;
  // The page fault of the destination comes before the numeric exception, and neither leaves a trace of the other.
  if (insn.memory && !core.probe(insn.segment, ea, N / 2, AccessKind::write)) return Flow::fault;
  if (!commit_fp(core, env)) return Flow::fault;
  if (insn.memory) return core.store(insn.segment, ea, result) ? Flow::next : Flow::fault;
  write_vex(core, insn.rm, result);
  return Flow::next;
}
Flow cvtps2ph(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? ps2ph_sized<32>(core, insn) : ps2ph_sized<16>(core, insn);
}

}  // namespace

void bind_vec_conversions(HandlerTable& table) {
#define HUSK_CONVERT_BOTH(name, shape, ...)                      \
  table.set(Sem::sse_##name, shape<__VA_ARGS__, Encoding::sse>); \
  table.set(Sem::avx_##name, shape<__VA_ARGS__, Encoding::vex>);
#define HUSK_CONVERT_SAME(name, ...)       \
  table.set(Sem::sse_##name, __VA_ARGS__); \
  table.set(Sem::avx_##name, __VA_ARGS__);
  HUSK_CONVERT_BOTH(cvtps2pd, packed, u64, u32, ps2pd)
  HUSK_CONVERT_BOTH(cvtpd2ps, packed, u32, u64, pd2ps)
  HUSK_CONVERT_BOTH(cvtdq2ps, packed, u32, u32, dq2ps)
  HUSK_CONVERT_BOTH(cvtdq2pd, packed, u64, u32, dq2pd)
  HUSK_CONVERT_BOTH(cvtps2dq, packed, u32, u32, to_dword<F32, false>)
  HUSK_CONVERT_BOTH(cvttps2dq, packed, u32, u32, to_dword<F32, true>)
  HUSK_CONVERT_BOTH(cvtpd2dq, packed, u32, u64, to_dword<F64, false>)
  HUSK_CONVERT_BOTH(cvttpd2dq, packed, u32, u64, to_dword<F64, true>)
  HUSK_CONVERT_BOTH(cvtss2sd, scalar, u64, u32, ps2pd)
  HUSK_CONVERT_BOTH(cvtsd2ss, scalar, u32, u64, pd2ps)
  HUSK_CONVERT_BOTH(cvtsi2ss_d, from_gpr, u32, u32, dq2ps)
  HUSK_CONVERT_BOTH(cvtsi2ss_q, from_gpr, u32, u64, qword2ss)
  HUSK_CONVERT_BOTH(cvtsi2sd_d, from_gpr, u64, u32, dq2pd)
  HUSK_CONVERT_BOTH(cvtsi2sd_q, from_gpr, u64, u64, qword2sd)
  HUSK_CONVERT_SAME(cvtss2si_d, to_gpr<u32, u32, to_dword<F32, false>>)
  HUSK_CONVERT_SAME(cvtss2si_q, to_gpr<u64, u32, to_qword<F32, false>>)
  HUSK_CONVERT_SAME(cvttss2si_d, to_gpr<u32, u32, to_dword<F32, true>>)
  HUSK_CONVERT_SAME(cvttss2si_q, to_gpr<u64, u32, to_qword<F32, true>>)
  HUSK_CONVERT_SAME(cvtsd2si_d, to_gpr<u32, u64, to_dword<F64, false>>)
  HUSK_CONVERT_SAME(cvtsd2si_q, to_gpr<u64, u64, to_qword<F64, false>>)
  HUSK_CONVERT_SAME(cvttsd2si_d, to_gpr<u32, u64, to_dword<F64, true>>)
  HUSK_CONVERT_SAME(cvttsd2si_q, to_gpr<u64, u64, to_qword<F64, true>>)
#undef HUSK_CONVERT_BOTH
#undef HUSK_CONVERT_SAME
  table.set(Sem::mmx_cvtpi2ps, mmx_instruction<cvtpi2ps>);
  table.set(Sem::mmx_cvtpi2pd, mmx_instruction<cvtpi2pd>);
  table.set(Sem::mmx_cvtpi2ps_m, cvtpi2ps);
  table.set(Sem::mmx_cvtpi2pd_m, cvtpi2pd);
  table.set(Sem::mmx_cvtps2pi, mmx_instruction<to_mmx<F32, false>>);
  table.set(Sem::mmx_cvttps2pi, mmx_instruction<to_mmx<F32, true>>);
  table.set(Sem::mmx_cvtpd2pi, mmx_instruction<to_mmx<F64, false>>);
  table.set(Sem::mmx_cvttpd2pi, mmx_instruction<to_mmx<F64, true>>);
  table.set(Sem::avx_cvtph2ps, packed<u32, u16, ph2ps, Encoding::vex>);
  table.set(Sem::avx_cvtps2ph, cvtps2ph);
}

}  // namespace husk::cpu::interp
