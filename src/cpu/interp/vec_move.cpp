// husk: SSE and AVX moves, inserts, extracts, sign masks, tests; SSE4A bit fields
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_block.h"

namespace husk::cpu::interp {
namespace {

using u64 = std::uint64_t;

// ---- whole registers ----

enum class Alignment : std::uint8_t { any, natural };

template <Encoding E, unsigned N, Alignment A>
inline Flow load_sized(Core& core, const Insn& insn) {
  Block<N> value;
  if (!insn.memory) {
    value = read_vector<N>(core, insn.rm);
  } else {
    const u64 ea = core.effective_address(insn);
    const bool loaded =
        A == Alignment::natural ? core.load_aligned(insn.segment, ea, value) : core.load(insn.segment, ea, value);
    if (!loaded) return Flow::fault;
  }
  write_result<E>(core, insn.reg, value);
  return Flow::next;
}
template <Encoding E, unsigned N, Alignment A>
inline Flow store_sized(Core& core, const Insn& insn) {
  const auto value = read_vector<N>(core, insn.reg);
  if (!insn.memory) {
    write_result<E>(core, insn.rm, value);
    return Flow::next;
  }
  const u64 ea = core.effective_address(insn);
  const bool stored =
      A == Alignment::natural ? core.store_aligned(insn.segment, ea, value) : core.store(insn.segment, ea, value);
  return stored ? Flow::next : Flow::fault;
}
template <Alignment A>
Flow sse_load(Core& core, const Insn& insn) {
  return load_sized<Encoding::sse, 16, A>(core, insn);
}
template <Alignment A>
Flow sse_store(Core& core, const Insn& insn) {
  return store_sized<Encoding::sse, 16, A>(core, insn);
}
template <Alignment A>
Flow avx_load(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? load_sized<Encoding::vex, 32, A>(core, insn)
                                 : load_sized<Encoding::vex, 16, A>(core, insn);
}
template <Alignment A>
Flow avx_store(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? store_sized<Encoding::vex, 32, A>(core, insn)
                                 : store_sized<Encoding::vex, 16, A>(core, insn);
}

// ---- scalars ----

/// From a general register or memory, or from the low end of a vector register or memory; the rest of 128 bits is zero.
template <unsigned Size, Encoding E>
Flow from_gpr(Core& core, const Insn& insn) {
  Core::UintOf<Size> value;
  if (!insn.memory)
    value = core.reg<Size>(insn.rm);
  else if (!core.load(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  write_result<E>(core, insn.reg, block_of(std::array<u64, 2>{value, 0}));
  return Flow::next;
}
template <class T, Encoding E>
Flow load_zeroing(Core& core, const Insn& insn) {
  T value;
  if (!fetch_scalar(core, insn, value)) return Flow::fault;
  write_result<E>(core, insn.reg, block_of(std::array<u64, 2>{value, 0}));
  return Flow::next;
}
template <unsigned Size>
Flow to_gpr(Core& core, const Insn& insn) {
  const auto value = read_element<Core::UintOf<Size>>(core, insn.reg);
  if (insn.memory) return core.store(insn.segment, core.effective_address(insn), value) ? Flow::next : Flow::fault;
  core.set_reg<Size>(insn.rm, value);
  return Flow::next;
}
template <Encoding E>
Flow movq_store(Core& core, const Insn& insn) {
  const u64 value = read_element<u64>(core, insn.reg);
  if (insn.memory) return core.store(insn.segment, core.effective_address(insn), value) ? Flow::next : Flow::fault;
  write_result<E>(core, insn.rm, block_of(std::array<u64, 2>{value, 0}));
  return Flow::next;
}
/// MOVSS, MOVSD, MOVLPx, MOVHPx, MOVNTSS, MOVNTSD to memory: element Index of the register.
template <class T, unsigned Index>
Flow store_element(Core& core, const Insn& insn) {
  return core.store(insn.segment, core.effective_address(insn), read_element<T>(core, insn.reg, Index)) ? Flow::next
                                                                                                        : Flow::fault;
}
/// MOVLPx, MOVHPx from memory: element Index of 128 bits is replaced.
template <Encoding E, unsigned Index>
Flow load_half(Core& core, const Insn& insn) {
  u64 value;
  if (!core.load(insn.segment, core.effective_address(insn), value)) return Flow::fault;
  auto lanes = lanes_of<u64>(read_vector<16>(core, first_source<E>(insn)));
  lanes[Index] = value;
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}
template <Encoding E, unsigned From, unsigned To>
Flow move_half(Core& core, const Insn& insn) {  // MOVHLPS, MOVLHPS
  auto lanes = lanes_of<u64>(read_vector<16>(core, first_source<E>(insn)));
  lanes[To] = read_element<u64>(core, insn.rm, From);
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}
/// MOVSS, MOVSD between registers. Opcode 11 has destination and source the other way round.
template <class T, Encoding E, bool Opcode11>
Flow merge_scalar(Core& core, const Insn& insn) {
  const unsigned to = Opcode11 ? insn.rm : insn.reg, from = Opcode11 ? insn.reg : insn.rm;
  auto lanes = lanes_of<T>(read_vector<16>(core, E == Encoding::sse ? to : unsigned{insn.vvvv}));
  lanes[0] = read_element<T>(core, from);
  write_result<E>(core, to, block_of(lanes));
  return Flow::next;
}
Flow maskmovdqu(Core& core, const Insn& insn) {
  return store_masked_bytes(core, insn, read_vector<16>(core, insn.reg), read_vector<16>(core, insn.rm)) ? Flow::next
                                                                                                         : Flow::fault;
}

// ---- insert, extract ----

template <unsigned Size, Encoding E>
Flow insert(Core& core, const Insn& insn) {
  Core::UintOf<Size> value;
  if (!insn.memory)
    value = static_cast<Core::UintOf<Size>>(core.s.gpr[insn.rm]);  // byte forms name no AH..BH
  else if (!core.load(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  auto lanes = lanes_of<Core::UintOf<Size>>(read_vector<16>(core, first_source<E>(insn)));
  lanes[imm8(insn) % lanes.size()] = value;
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}
/// To memory, or to a general register with zeros above.
template <unsigned Size>
Flow extract(Core& core, const Insn& insn) {
  const auto value = read_element<Core::UintOf<Size>>(core, insn.reg, imm8(insn) % (16 / Size));
  if (insn.memory) return core.store(insn.segment, core.effective_address(insn), value) ? Flow::next : Flow::fault;
  core.s.gpr[insn.rm] = value;
  return Flow::next;
}
Flow pextrw_to_reg(Core& core, const Insn& insn) {
  core.s.gpr[insn.reg] = read_element<std::uint16_t>(core, insn.rm, imm8(insn) & 7);
  return Flow::next;
}
template <Encoding E>
Flow insertps(Core& core, const Insn& insn) {
  const unsigned imm = imm8(insn);
  std::uint32_t value;
  if (!insn.memory)
    value = read_element<std::uint32_t>(core, insn.rm, imm >> 6);
  else if (!core.load(insn.segment, core.effective_address(insn), value))
    return Flow::fault;
  auto lanes = lanes_of<std::uint32_t>(read_vector<16>(core, first_source<E>(insn)));
  lanes[(imm >> 4) & 3] = value;
  for (unsigned i = 0; i < 4; ++i) {
    if ((imm >> i) & 1) lanes[i] = 0;
  }
  write_result<E>(core, insn.reg, block_of(lanes));
  return Flow::next;
}

// ---- sign masks and tests ----

template <class T, unsigned N>
u64 sign_mask(const Core& core, unsigned number) {
  u64 mask = 0;
  if constexpr (sizeof(T) == 1) {
    const auto lanes = lanes_of<u64>(read_vector<N>(core, number));
    // The product moves bit 8k+7 to bit 56+k; no two terms meet.
    for (unsigned i = 0; i < lanes.size(); ++i) {
      mask |= ((lanes[i] & 0x8080808080808080) * 0x0002040810204081) >> 56 << (8 * i);
    }
  } else {
    const auto lanes = lanes_of<T>(read_vector<N>(core, number));
    for (unsigned i = 0; i < lanes.size(); ++i) mask |= u64{lanes[i]} >> (sizeof(T) * 8 - 1) << i;
  }
  return mask;
}
/// PMOVMSKB, MOVMSKPS, MOVMSKPD. vector_bytes is 16 for legacy SSE.
template <class T>
Flow movmsk(Core& core, const Insn& insn) {
  core.s.gpr[insn.reg] = insn.vector_bytes == 32 ? sign_mask<T, 32>(core, insn.rm) : sign_mask<T, 16>(core, insn.rm);
  return Flow::next;
}
/// PTEST (Mask all ones) and VTESTPS, VTESTPD (sign bits): ZF of b & a, CF of b & ~a.
template <Encoding E, unsigned N, u64 Mask>
inline Flow test_sized(Core& core, const Insn& insn) {
  Block<N> rm;
  if (!fetch<E>(core, insn, rm)) return Flow::fault;
  const auto a = lanes_of<u64>(read_vector<N>(core, insn.reg)), b = lanes_of<u64>(rm);
  u64 both = 0, only_b = 0;
  for (unsigned i = 0; i < a.size(); ++i) {
    both |= b[i] & a[i] & Mask;
    only_b |= b[i] & ~a[i] & Mask;
  }
  set_flags(core, (both == 0 ? u64{kZF} : 0) | (only_b == 0 ? u64{kCF} : 0));
  return Flow::next;
}
Flow sse_ptest(Core& core, const Insn& insn) { return test_sized<Encoding::sse, 16, ~u64{0}>(core, insn); }
template <u64 Mask>
Flow avx_test(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? test_sized<Encoding::vex, 32, Mask>(core, insn)
                                 : test_sized<Encoding::vex, 16, Mask>(core, insn);
}

// ---- SSE4A (APM vol. 4). A length of 0 means 64; a field beyond bit 63 is undefined, here cut off. The upper half of
// the register is undefined too; it becomes zero, as on family 19h ----

u64 field_mask(unsigned length) { return mask_of(length == 0 ? 64 : length); }
void extract_field(Core& core, unsigned number, unsigned length, unsigned index) {
  const u64 field = (read_element<u64>(core, number) >> index) & field_mask(length);
  write_low(core, number, block_of(std::array<u64, 2>{field, 0}));
}
void insert_field(Core& core, const Insn& insn, unsigned length, unsigned index) {
  const u64 mask = field_mask(length) << index;
  const u64 old = read_element<u64>(core, insn.reg), from = read_element<u64>(core, insn.rm) << index;
  write_low(core, insn.reg, block_of(std::array<u64, 2>{(old & ~mask) | (from & mask), 0}));
}
Flow extrq_imm(Core& core, const Insn& insn) {
  extract_field(core, insn.rm, imm8(insn) & 63, insn.imm2 & 63);
  return Flow::next;
}
Flow extrq(Core& core, const Insn& insn) {
  const unsigned control = read_element<std::uint16_t>(core, insn.rm);
  extract_field(core, insn.reg, control & 63, (control >> 8) & 63);
  return Flow::next;
}
Flow insertq_imm(Core& core, const Insn& insn) {
  insert_field(core, insn, imm8(insn) & 63, insn.imm2 & 63);
  return Flow::next;
}
Flow insertq(Core& core, const Insn& insn) {
  const unsigned control = read_element<std::uint16_t>(core, insn.rm, 4);  // bits 79:64
  insert_field(core, insn, control & 63, (control >> 8) & 63);
  return Flow::next;
}

void bind_moves(HandlerTable& table) {
  table.set(Sem::sse_mova_vw, sse_load<Alignment::natural>);
  table.set(Sem::sse_mova_wv, sse_store<Alignment::natural>);
  table.set(Sem::sse_movu_vw, sse_load<Alignment::any>);
  table.set(Sem::sse_movu_wv, sse_store<Alignment::any>);
  table.set(Sem::avx_mova_vw, avx_load<Alignment::natural>);
  table.set(Sem::avx_mova_wv, avx_store<Alignment::natural>);
  table.set(Sem::avx_movu_vw, avx_load<Alignment::any>);
  table.set(Sem::avx_movu_wv, avx_store<Alignment::any>);
  table.set(Sem::sse_movd_ve, from_gpr<4, Encoding::sse>);
  table.set(Sem::sse_movq_ve, from_gpr<8, Encoding::sse>);
  table.set(Sem::avx_movd_ve, from_gpr<4, Encoding::vex>);
  table.set(Sem::avx_movq_ve, from_gpr<8, Encoding::vex>);
  table.set(Sem::sse_movd_ev, to_gpr<4>);
  table.set(Sem::sse_movq_ev, to_gpr<8>);
  table.set(Sem::avx_movd_ev, to_gpr<4>);
  table.set(Sem::avx_movq_ev, to_gpr<8>);
  table.set(Sem::sse_movq_vw, load_zeroing<u64, Encoding::sse>);
  table.set(Sem::sse_movq_wv, movq_store<Encoding::sse>);
  table.set(Sem::avx_movq_vw, load_zeroing<u64, Encoding::vex>);
  table.set(Sem::avx_movq_wv, movq_store<Encoding::vex>);
  table.set(Sem::sse_movss_vu, merge_scalar<std::uint32_t, Encoding::sse, false>);
  table.set(Sem::sse_movss_uv, merge_scalar<std::uint32_t, Encoding::sse, true>);
  table.set(Sem::sse_movss_vm, load_zeroing<std::uint32_t, Encoding::sse>);
  table.set(Sem::sse_movss_mv, store_element<std::uint32_t, 0>);
  table.set(Sem::sse_movsd_vu, merge_scalar<u64, Encoding::sse, false>);
  table.set(Sem::sse_movsd_uv, merge_scalar<u64, Encoding::sse, true>);
  table.set(Sem::sse_movsd_vm, load_zeroing<u64, Encoding::sse>);
  table.set(Sem::sse_movsd_mv, store_element<u64, 0>);
  table.set(Sem::avx_movss_vu, merge_scalar<std::uint32_t, Encoding::vex, false>);
  table.set(Sem::avx_movss_uv, merge_scalar<std::uint32_t, Encoding::vex, true>);
  table.set(Sem::avx_movss_vm, load_zeroing<std::uint32_t, Encoding::vex>);
  table.set(Sem::avx_movss_mv, store_element<std::uint32_t, 0>);
  table.set(Sem::avx_movsd_vu, merge_scalar<u64, Encoding::vex, false>);
  table.set(Sem::avx_movsd_uv, merge_scalar<u64, Encoding::vex, true>);
  table.set(Sem::avx_movsd_vm, load_zeroing<u64, Encoding::vex>);
  table.set(Sem::avx_movsd_mv, store_element<u64, 0>);
  table.set(Sem::sse_movlp_vm, load_half<Encoding::sse, 0>);
  table.set(Sem::sse_movhp_vm, load_half<Encoding::sse, 1>);
  table.set(Sem::sse_movhp_mv, store_element<u64, 1>);
  table.set(Sem::avx_movlp_vm, load_half<Encoding::vex, 0>);
  table.set(Sem::avx_movhp_vm, load_half<Encoding::vex, 1>);
  table.set(Sem::avx_movhp_mv, store_element<u64, 1>);
  table.set(Sem::sse_movhlps, move_half<Encoding::sse, 1, 0>);
  table.set(Sem::sse_movlhps, move_half<Encoding::sse, 0, 1>);
  table.set(Sem::avx_movhlps, move_half<Encoding::vex, 1, 0>);
  table.set(Sem::avx_movlhps, move_half<Encoding::vex, 0, 1>);
  table.set(Sem::sse_maskmovdqu, maskmovdqu);
  table.set(Sem::avx_maskmovdqu, maskmovdqu);
}

}  // namespace

void bind_vec_moves(HandlerTable& table) {
  bind_moves(table);
  table.set(Sem::sse_pinsrb, insert<1, Encoding::sse>);
  table.set(Sem::sse_pinsrw, insert<2, Encoding::sse>);
  table.set(Sem::sse_pinsrd, insert<4, Encoding::sse>);
  table.set(Sem::sse_pinsrq, insert<8, Encoding::sse>);
  table.set(Sem::avx_pinsrb, insert<1, Encoding::vex>);
  table.set(Sem::avx_pinsrw, insert<2, Encoding::vex>);
  table.set(Sem::avx_pinsrd, insert<4, Encoding::vex>);
  table.set(Sem::avx_pinsrq, insert<8, Encoding::vex>);
  table.set(Sem::sse_pextrb, extract<1>);
  table.set(Sem::sse_pextrw, extract<2>);
  table.set(Sem::sse_pextrd, extract<4>);
  table.set(Sem::sse_pextrq, extract<8>);
  table.set(Sem::avx_pextrb, extract<1>);
  table.set(Sem::avx_pextrw, extract<2>);
  table.set(Sem::avx_pextrd, extract<4>);
  table.set(Sem::avx_pextrq, extract<8>);
  table.set(Sem::sse_pextrw_g, pextrw_to_reg);
  table.set(Sem::avx_pextrw_g, pextrw_to_reg);
  table.set(Sem::sse_insertps, insertps<Encoding::sse>);
  table.set(Sem::avx_insertps, insertps<Encoding::vex>);
  table.set(Sem::sse_pmovmskb, movmsk<std::uint8_t>);
  table.set(Sem::sse_movmskps, movmsk<std::uint32_t>);
  table.set(Sem::sse_movmskpd, movmsk<u64>);
  table.set(Sem::avx_pmovmskb, movmsk<std::uint8_t>);
  table.set(Sem::avx_movmskps, movmsk<std::uint32_t>);
  table.set(Sem::avx_movmskpd, movmsk<u64>);
  table.set(Sem::sse_ptest, sse_ptest);
  table.set(Sem::avx_ptest, avx_test<~u64{0}>);
  table.set(Sem::avx_testps, avx_test<0x8000'0000'8000'0000>);
  table.set(Sem::avx_testpd, avx_test<0x8000'0000'0000'0000>);
  table.set(Sem::sse_extrq_i, extrq_imm);
  table.set(Sem::sse_extrq, extrq);
  table.set(Sem::sse_insertq_i, insertq_imm);
  table.set(Sem::sse_insertq, insertq);
}

}  // namespace husk::cpu::interp
