// husk: MMX instructions
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_ops.h"
#include "cpu/interp/vec_shapes.h"

namespace husk::cpu::interp {
namespace {

/// PUNPCKLxx: the memory operand is only 32 bits (SDM vol. 2).
template <class Op>
Flow mmx_unpack_low(Core& core, const Insn& insn) {
  std::uint32_t low;
  if (!insn.memory)
    low = static_cast<std::uint32_t>(core.s.x87.registers[insn.rm & 7].significand);
  else if (!core.load(insn.segment, core.effective_address(insn), low))
    return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, Op::apply(read_mmx(core, insn.reg), block_of(std::array<std::uint32_t, 2>{low, 0})));
  return Flow::next;
}

Flow emms(Core& core, const Insn&) {
  begin_mmx(core);
  core.s.x87.tag = 0xFFFF;
  return Flow::next;
}

template <unsigned Size>
Flow mov_from_gpr(Core& core, const Insn& insn) {
  Core::UintOf<Size> value;
  if (!insn.memory)
    value = core.reg<Size>(insn.rm);
  else if (!core.load(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, std::uint64_t{value});
  return Flow::next;
}
template <unsigned Size>
Flow mov_to_gpr(Core& core, const Insn& insn) {
  const auto value = static_cast<Core::UintOf<Size>>(core.s.x87.registers[insn.reg & 7].significand);
  if (!insn.memory)
    core.set_reg<Size>(insn.rm, value);
  else if (!core.store(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  begin_mmx(core);
  return Flow::next;
}
Flow movq_load(Core& core, const Insn& insn) {
  Block<8> value;
  if (!fetch_mmx(core, insn, value)) return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, value);
  return Flow::next;
}
Flow movq_store(Core& core, const Insn& insn) {
  const Block<8> value = read_mmx(core, insn.reg);
  if (insn.memory && !core.store(insn.segment, core.effective_address(insn), value)) return Flow::fault;
  begin_mmx(core);
  if (!insn.memory) write_mmx(core, insn.rm, value);
  return Flow::next;
}
Flow maskmovq(Core& core, const Insn& insn) {
  if (!store_masked_bytes(core, insn, read_mmx(core, insn.reg), read_mmx(core, insn.rm))) return Flow::fault;
  begin_mmx(core);
  return Flow::next;
}
Flow movq2dq(Core& core, const Insn& insn) {
  begin_mmx(core);
  write_low(core, insn.reg, block_of(std::array<std::uint64_t, 2>{core.s.x87.registers[insn.rm & 7].significand, 0}));
  return Flow::next;
}
Flow movdq2q(Core& core, const Insn& insn) {
  begin_mmx(core);
  write_mmx(core, insn.reg, read_element<std::uint64_t>(core, insn.rm));
  return Flow::next;
}
Flow pinsrw(Core& core, const Insn& insn) {
  std::uint16_t value;
  if (!insn.memory)
    value = core.reg<2>(insn.rm);
  else if (!core.load(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  begin_mmx(core);
  auto lanes = lanes_of<std::uint16_t>(read_mmx(core, insn.reg));
  lanes[imm8(insn) & 3] = value;
  write_mmx(core, insn.reg, block_of(lanes));
  return Flow::next;
}
Flow pextrw(Core& core, const Insn& insn) {
  begin_mmx(core);
  core.s.gpr[insn.reg] = lanes_of<std::uint16_t>(read_mmx(core, insn.rm))[imm8(insn) & 3];
  return Flow::next;
}
Flow pmovmskb(Core& core, const Insn& insn) {
  begin_mmx(core);
  std::uint64_t mask = 0;
  const Block<8> from = read_mmx(core, insn.rm);
  for (unsigned i = 0; i < 8; ++i) mask |= std::uint64_t{from.bytes[i]} >> 7 << i;
  core.s.gpr[insn.reg] = mask;
  return Flow::next;
}

}  // namespace

void bind_mmx(HandlerTable& table) {
#define X(name) table.set(Sem::mmx_##name, mmx_instruction<mmx_binary<ops::name>>);
  HUSK_VEC_BINARY_MMX(X)
#undef X
#define X(name) table.set(Sem::mmx_##name, mmx_instruction<mmx_unary<ops::name>>);
  HUSK_VEC_UNARY_MMX(X)
  X(pshufw)
#undef X
#define X(name)                                                      \
  table.set(Sem::mmx_##name, mmx_instruction<mmx_shift<ops::name>>); \
  table.set(Sem::mmx_##name##_i, mmx_instruction<mmx_shift_imm<ops::name>>);
  HUSK_VEC_SHIFTS(X)
#undef X
  table.set(Sem::mmx_punpcklbw, mmx_instruction<mmx_unpack_low<ops::punpcklbw>>);
  table.set(Sem::mmx_punpcklwd, mmx_instruction<mmx_unpack_low<ops::punpcklwd>>);
  table.set(Sem::mmx_punpckldq, mmx_instruction<mmx_unpack_low<ops::punpckldq>>);
  table.set(Sem::mmx_emms, mmx_instruction<emms>);
  table.set(Sem::mmx_movd_pe, mmx_instruction<mov_from_gpr<4>>);
  table.set(Sem::mmx_movq_pe, mmx_instruction<mov_from_gpr<8>>);
  table.set(Sem::mmx_movd_ep, mmx_instruction<mov_to_gpr<4>>);
  table.set(Sem::mmx_movq_ep, mmx_instruction<mov_to_gpr<8>>);
  table.set(Sem::mmx_movq_pq, mmx_instruction<movq_load>);
  table.set(Sem::mmx_movq_qp, mmx_instruction<movq_store>);
  table.set(Sem::mmx_maskmovq, mmx_instruction<maskmovq>);
  table.set(Sem::mmx_movq2dq, mmx_instruction<movq2dq>);
  table.set(Sem::mmx_movdq2q, mmx_instruction<movdq2q>);
  table.set(Sem::mmx_pinsrw, mmx_instruction<pinsrw>);
  table.set(Sem::mmx_pextrw, mmx_instruction<pextrw>);
  table.set(Sem::mmx_pmovmskb, mmx_instruction<pmovmskb>);
}

}  // namespace husk::cpu::interp
