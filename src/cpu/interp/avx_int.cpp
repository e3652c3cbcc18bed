// husk: AVX and AVX2 integer, shuffle, broadcast and permute instructions, and bind_avx
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_ops.h"
#include "cpu/interp/vec_shapes.h"

namespace husk::cpu::interp {
namespace {

Flow movddup(Core& core, const Insn& insn) {
  if (insn.vector_bytes == 32) {
    Block<32> from;
    if (!fetch<Encoding::vex>(core, insn, from)) return Flow::fault;
    const auto x = lanes_of<std::uint64_t>(from);
    write_vex(core, insn.reg, block_of(Lanes<std::uint64_t, 32>{x[0], x[0], x[2], x[2]}));
    return Flow::next;
  }
  std::uint64_t value;
  if (!fetch_scalar(core, insn, value)) return Flow::fault;
  write_vex(core, insn.reg, block_of(std::array<std::uint64_t, 2>{value, value}));
  return Flow::next;
}

template <class T>
Flow broadcast(Core& core, const Insn& insn) {
  T value;
  if (!fetch_scalar(core, insn, value)) return Flow::fault;
  Lanes<T, 32> out;
  out.fill(value);
  if (insn.vector_bytes == 32)
    write_vex(core, insn.reg, block_of(out));
  else
    write_vex(core, insn.reg, half_of(block_of(out), 0));
  return Flow::next;
}
Flow broadcast128(Core& core, const Insn& insn) {
  Block<16> value;
  if (!fetch<Encoding::vex>(core, insn, value)) return Flow::fault;
  Block<32> out;
  set_half(out, 0, value);
  set_half(out, 1, value);
  write_vex(core, insn.reg, out);
  return Flow::next;
}
Flow insert128(Core& core, const Insn& insn) {
  Block<16> value;
  if (!fetch<Encoding::vex>(core, insn, value)) return Flow::fault;
  auto out = read_vector<32>(core, insn.vvvv);
  set_half(out, imm8(insn) & 1, value);
  write_vex(core, insn.reg, out);
  return Flow::next;
}
Flow extract128(Core& core, const Insn& insn) {
  const Block<16> value = half_of(read_vector<32>(core, insn.reg), imm8(insn) & 1);
  if (insn.memory) return core.store(insn.segment, core.effective_address(insn), value) ? Flow::next : Flow::fault;
  write_vex(core, insn.rm, value);
  return Flow::next;
}
Flow perm2x128(Core& core, const Insn& insn) {
  Block<32> b;
  if (!fetch<Encoding::vex>(core, insn, b)) return Flow::fault;
  const auto a = read_vector<32>(core, insn.vvvv);
  const auto choose = [&](unsigned control) {
    if (control & 8) return zero_block<16>();
    return half_of((control & 2) ? b : a, control & 1);
  };
  Block<32> out;
  set_half(out, 0, choose(imm8(insn)));
  set_half(out, 1, choose(imm8(insn) >> 4));
  write_vex(core, insn.reg, out);
  return Flow::next;
}
Flow permd(Core& core, const Insn& insn) {
  Block<32> b;
  if (!fetch<Encoding::vex>(core, insn, b)) return Flow::fault;
  const auto select = lanes_of<std::uint32_t>(read_vector<32>(core, insn.vvvv)), x = lanes_of<std::uint32_t>(b);
  Lanes<std::uint32_t, 32> out;
  for (unsigned i = 0; i < 8; ++i) out[i] = x[select[i] & 7];
  write_vex(core, insn.reg, block_of(out));
  return Flow::next;
}
Flow permq(Core& core, const Insn& insn) {
  Block<32> b;
  if (!fetch<Encoding::vex>(core, insn, b)) return Flow::fault;
  const auto x = lanes_of<std::uint64_t>(b);
  Lanes<std::uint64_t, 32> out;
  for (unsigned i = 0; i < 4; ++i) out[i] = x[(imm8(insn) >> (2 * i)) & 3];
  write_vex(core, insn.reg, block_of(out));
  return Flow::next;
}

Flow vzeroupper(Core& core, const Insn&) {
  const unsigned count = core.code64() ? 16 : 8;  // SDM vol. 2: outside 64-bit mode only the first eight
  for (unsigned i = 0; i < count; ++i) std::memset(core.s.vector[i].bytes.data() + 16, 0, 48);
  return Flow::next;
}
Flow vzeroall(Core& core, const Insn&) {
  const unsigned count = core.code64() ? 16 : 8;
  for (unsigned i = 0; i < count; ++i) core.s.vector[i] = {};
  return Flow::next;
}

}  // namespace

void bind_avx_int(HandlerTable& table) {
#define X(name) table.set(Sem::avx_##name, avx_binary<ops::name>);
  HUSK_VEC_BINARY_MMX(X)
  HUSK_VEC_BINARY_SSE(X)
  X(permilps)
  X(permilpd)
  X(psllvd)
  X(psllvq)
  X(psrlvd)
  X(psrlvq)
  X(psravd)
#undef X
#define X(name) table.set(Sem::avx_##name, avx_unary<ops::name>);
  HUSK_VEC_UNARY_MMX(X)
  HUSK_VEC_UNARY_SSE(X)
  X(permilps_i)
  X(permilpd_i)
#undef X
#define X(name)                                                       \
  table.set(Sem::avx_##name, vector_shift<ops::name, Encoding::vex>); \
  table.set(Sem::avx_##name##_i, avx_shift_imm<ops::name>);
  HUSK_VEC_SHIFTS(X)
#undef X
  table.set(Sem::avx_pslldq_i, avx_shift_imm<ops::pslldq>);
  table.set(Sem::avx_psrldq_i, avx_shift_imm<ops::psrldq>);
  table.set(Sem::avx_pmovsxbw, avx_widen<std::int8_t, std::int16_t>);
  table.set(Sem::avx_pmovsxbd, avx_widen<std::int8_t, std::int32_t>);
  table.set(Sem::avx_pmovsxbq, avx_widen<std::int8_t, std::int64_t>);
  table.set(Sem::avx_pmovsxwd, avx_widen<std::int16_t, std::int32_t>);
  table.set(Sem::avx_pmovsxwq, avx_widen<std::int16_t, std::int64_t>);
  table.set(Sem::avx_pmovsxdq, avx_widen<std::int32_t, std::int64_t>);
  table.set(Sem::avx_pmovzxbw, avx_widen<std::uint8_t, std::uint16_t>);
  table.set(Sem::avx_pmovzxbd, avx_widen<std::uint8_t, std::uint32_t>);
  table.set(Sem::avx_pmovzxbq, avx_widen<std::uint8_t, std::uint64_t>);
  table.set(Sem::avx_pmovzxwd, avx_widen<std::uint16_t, std::uint32_t>);
  table.set(Sem::avx_pmovzxwq, avx_widen<std::uint16_t, std::uint64_t>);
  table.set(Sem::avx_pmovzxdq, avx_widen<std::uint32_t, std::uint64_t>);
  table.set(Sem::avx_pblendvb, avx_blendv<std::uint8_t>);
  table.set(Sem::avx_blendvps, avx_blendv<std::uint32_t>);
  table.set(Sem::avx_blendvpd, avx_blendv<std::uint64_t>);
  table.set(Sem::avx_movddup, movddup);
  table.set(Sem::avx_broadcastb, broadcast<std::uint8_t>);
  table.set(Sem::avx_broadcastw, broadcast<std::uint16_t>);
  table.set(Sem::avx_broadcastd, broadcast<std::uint32_t>);
  table.set(Sem::avx_broadcastq, broadcast<std::uint64_t>);
  table.set(Sem::avx_broadcastdq, broadcast128);
  table.set(Sem::avx_insert128, insert128);
  table.set(Sem::avx_extract128, extract128);
  table.set(Sem::avx_perm2x128, perm2x128);
  table.set(Sem::avx_permd, permd);
  table.set(Sem::avx_permq, permq);
  table.set(Sem::avx_vzeroupper, vzeroupper);
  table.set(Sem::avx_vzeroall, vzeroall);
}

void bind_avx(HandlerTable& table) {
  bind_avx_int(table);
  bind_avx_memory(table);
  bind_avx_fp(table);
  bind_avx_fma(table);
}

}  // namespace husk::cpu::interp
