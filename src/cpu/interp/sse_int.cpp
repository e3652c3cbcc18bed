// husk: SSE integer and shuffle instructions without immediate peculiarities, and bind_mmx_sse
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_ops.h"
#include "cpu/interp/vec_shapes.h"

namespace husk::cpu::interp {
namespace {

/// MOVDDUP reads only 64 bits, at any alignment.
Flow movddup(Core& core, const Insn& insn) {
  std::uint64_t value;
  if (!fetch_scalar(core, insn, value)) return Flow::fault;
  write_low(core, insn.reg, block_of(std::array<std::uint64_t, 2>{value, value}));
  return Flow::next;
}

}  // namespace

void bind_sse_int(HandlerTable& table) {
#define X(name) table.set(Sem::sse_##name, sse_binary<ops::name>);
  HUSK_VEC_BINARY_MMX(X)
  HUSK_VEC_BINARY_SSE(X)
#undef X
#define X(name) table.set(Sem::sse_##name, sse_unary<ops::name>);
  HUSK_VEC_UNARY_MMX(X)
  HUSK_VEC_UNARY_SSE(X)
#undef X
#define X(name)                                                       \
  table.set(Sem::sse_##name, vector_shift<ops::name, Encoding::sse>); \
  table.set(Sem::sse_##name##_i, sse_shift_imm<ops::name>);
  HUSK_VEC_SHIFTS(X)
#undef X
  table.set(Sem::sse_pslldq_i, sse_shift_imm<ops::pslldq>);
  table.set(Sem::sse_psrldq_i, sse_shift_imm<ops::psrldq>);
  table.set(Sem::sse_pmovsxbw, sse_widen<std::int8_t, std::int16_t>);
  table.set(Sem::sse_pmovsxbd, sse_widen<std::int8_t, std::int32_t>);
  table.set(Sem::sse_pmovsxbq, sse_widen<std::int8_t, std::int64_t>);
  table.set(Sem::sse_pmovsxwd, sse_widen<std::int16_t, std::int32_t>);
  table.set(Sem::sse_pmovsxwq, sse_widen<std::int16_t, std::int64_t>);
  table.set(Sem::sse_pmovsxdq, sse_widen<std::int32_t, std::int64_t>);
  table.set(Sem::sse_pmovzxbw, sse_widen<std::uint8_t, std::uint16_t>);
  table.set(Sem::sse_pmovzxbd, sse_widen<std::uint8_t, std::uint32_t>);
  table.set(Sem::sse_pmovzxbq, sse_widen<std::uint8_t, std::uint64_t>);
  table.set(Sem::sse_pmovzxwd, sse_widen<std::uint16_t, std::uint32_t>);
  table.set(Sem::sse_pmovzxwq, sse_widen<std::uint16_t, std::uint64_t>);
  table.set(Sem::sse_pmovzxdq, sse_widen<std::uint32_t, std::uint64_t>);
  table.set(Sem::sse_pblendvb, sse_blendv<std::uint8_t>);
  table.set(Sem::sse_blendvps, sse_blendv<std::uint32_t>);
  table.set(Sem::sse_blendvpd, sse_blendv<std::uint64_t>);
  table.set(Sem::sse_movddup, movddup);
}

void bind_mmx_sse(HandlerTable& table) {
  bind_mmx(table);
  bind_sse_int(table);
  bind_vec_moves(table);
  bind_vec_strings(table);
  bind_sse_fp(table);
  bind_vec_conversions(table);
}

}  // namespace husk::cpu::interp
