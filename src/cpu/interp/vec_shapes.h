// husk: handler shapes of integer vector instructions: one operation serves MMX, SSE, AVX and AVX2
#pragma once

#include "cpu/interp/vec_block.h"

/// An operation is a struct with `template <unsigned N> static Block<N> apply(Block<N> a, Block<N> b)` for N = 8 and
/// 16, with a further `unsigned imm` if it has an immediate; unary ones have no `a`. 256-bit instructions do the two
/// halves one after the other, as the processor does. Where each half has its own immediate bits, the operation says
/// how many with kImmBits.
namespace husk::cpu::interp {

template <class Op>
constexpr unsigned imm_of_half(unsigned imm, unsigned half) {
  if constexpr (requires { Op::kImmBits; })
    return imm >> (half * Op::kImmBits);
  else
    return imm;
}
template <class Op, unsigned N>
inline Block<N> apply2(const Block<N>& a, const Block<N>& b, unsigned imm) {
  if constexpr (N == 32) {
    Block<32> out;
    for (unsigned h = 0; h < 2; ++h)
      set_half(out, h, apply2<Op>(half_of(a, h), half_of(b, h), imm_of_half<Op>(imm, h)));
    return out;
  } else if constexpr (requires { Op::apply(a, b, imm); }) {
    return Op::apply(a, b, imm);
  } else {
    return Op::apply(a, b);
  }
}
template <class Op, unsigned N>
inline Block<N> apply1(const Block<N>& b, unsigned imm) {
  if constexpr (N == 32) {
    Block<32> out;
    for (unsigned h = 0; h < 2; ++h) set_half(out, h, apply1<Op>(half_of(b, h), imm_of_half<Op>(imm, h)));
    return out;
  } else if constexpr (requires { Op::apply(b, imm); }) {
    return Op::apply(b, imm);
  } else {
    return Op::apply(b);
  }
}

// ---- P Q ----

template <class Op>
Flow mmx_binary(Core& core, const Insn& insn) {
  Block<8> b;
  if (!fetch_mmx(core, insn, b)) return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, apply2<Op>(read_mmx(core, insn.reg), b, imm8(insn)));
  return Flow::next;
}
template <class Op>
Flow mmx_unary(Core& core, const Insn& insn) {
  Block<8> b;
  if (!fetch_mmx(core, insn, b)) return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, apply1<Op>(b, imm8(insn)));
  return Flow::next;
}

// ---- V W and V H W ----

template <class Op, Encoding E, unsigned N>
inline Flow binary_sized(Core& core, const Insn& insn) {
  Block<N> b;
  if (!fetch<E>(core, insn, b)) return Flow::fault;
  write_result<E>(core, insn.reg, apply2<Op>(read_vector<N>(core, first_source<E>(insn)), b, imm8(insn)));
  return Flow::next;
}
template <class Op>
Flow sse_binary(Core& core, const Insn& insn) {
  return binary_sized<Op, Encoding::sse, 16>(core, insn);
}
template <class Op>
Flow avx_binary(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? binary_sized<Op, Encoding::vex, 32>(core, insn)
                                 : binary_sized<Op, Encoding::vex, 16>(core, insn);
}
template <class Op, Encoding E, unsigned N>
inline Flow unary_sized(Core& core, const Insn& insn) {
  Block<N> b;
  if (!fetch<E>(core, insn, b)) return Flow::fault;
  write_result<E>(core, insn.reg, apply1<Op>(b, imm8(insn)));
  return Flow::next;
}
template <class Op>
Flow sse_unary(Core& core, const Insn& insn) {
  return unary_sized<Op, Encoding::sse, 16>(core, insn);
}
template <class Op>
Flow avx_unary(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? unary_sized<Op, Encoding::vex, 32>(core, insn)
                                 : unary_sized<Op, Encoding::vex, 16>(core, insn);
}

// ---- shifts: every element by one count, a whole 64-bit number. Op::shift(T element, count) ----

template <class Op, unsigned N>
inline Block<N> shift_block(const Block<N>& a, std::uint64_t count) {
  if constexpr (requires { Op::apply(half_of(Block<32>{}, 0), count); }) {  // PSLLDQ, PSRLDQ
    if constexpr (N == 32) {
      Block<32> out;
      for (unsigned h = 0; h < 2; ++h) set_half(out, h, Op::apply(half_of(a, h), count));
      return out;
    } else {
      return Op::apply(a, count);
    }
  } else {
    auto lanes = lanes_of<typename Op::Element>(a);
    for (auto& lane : lanes) lane = Op::shift(lane, count);
    return block_of(lanes);
  }
}
template <class Op>
Flow mmx_shift(Core& core, const Insn& insn) {
  Block<8> count;
  if (!fetch_mmx(core, insn, count)) return Flow::fault;
  begin_mmx(core);
  write_mmx(core, insn.reg, shift_block<Op>(read_mmx(core, insn.reg), lanes_of<std::uint64_t>(count)[0]));
  return Flow::next;
}
template <class Op>
Flow mmx_shift_imm(Core& core, const Insn& insn) {
  begin_mmx(core);
  write_mmx(core, insn.rm, shift_block<Op>(read_mmx(core, insn.rm), imm8(insn)));
  return Flow::next;
}
template <class Op, Encoding E>
Flow vector_shift(Core& core, const Insn& insn) {
  Block<16> count;
  if (!fetch<E>(core, insn, count)) return Flow::fault;
  const std::uint64_t n = lanes_of<std::uint64_t>(count)[0];
  const unsigned from = first_source<E>(insn);
  if (E == Encoding::vex && insn.vector_bytes == 32) {
    write_result<E>(core, insn.reg, shift_block<Op>(read_vector<32>(core, from), n));
  } else {
    write_result<E>(core, insn.reg, shift_block<Op>(read_vector<16>(core, from), n));
  }
  return Flow::next;
}
template <class Op>
Flow sse_shift_imm(Core& core, const Insn& insn) {
  write_low(core, insn.rm, shift_block<Op>(read_vector<16>(core, insn.rm), imm8(insn)));
  return Flow::next;
}
template <class Op>
Flow avx_shift_imm(Core& core, const Insn& insn) {
  if (insn.vector_bytes == 32) {
    write_vex(core, insn.vvvv, shift_block<Op>(read_vector<32>(core, insn.rm), imm8(insn)));
  } else {
    write_vex(core, insn.vvvv, shift_block<Op>(read_vector<16>(core, insn.rm), imm8(insn)));
  }
  return Flow::next;
}

// ---- PMOVSX, PMOVZX: the source is narrower than the destination ----

template <class From, class To, Encoding E, unsigned N>
inline Flow widen_sized(Core& core, const Insn& insn) {
  constexpr unsigned kSource = N * sizeof(From) / sizeof(To);
  Block<kSource> from;
  if (!insn.memory)
    from = read_vector<kSource>(core, insn.rm);
  else if (!core.load(insn.segment, core.effective_address(insn), from))
    return Flow::fault;
  const auto narrow = lanes_of<From>(from);
  Lanes<To, N> wide;
  for (unsigned i = 0; i < wide.size(); ++i) wide[i] = static_cast<To>(narrow[i]);
  write_result<E>(core, insn.reg, block_of(wide));
  return Flow::next;
}
/// From is signed for PMOVSX and unsigned for PMOVZX, and To likewise.
template <class From, class To>
Flow sse_widen(Core& core, const Insn& insn) {
  return widen_sized<From, To, Encoding::sse, 16>(core, insn);
}
template <class From, class To>
Flow avx_widen(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? widen_sized<From, To, Encoding::vex, 32>(core, insn)
                                 : widen_sized<From, To, Encoding::vex, 16>(core, insn);
}

// ---- variable blends: Op::Element's sign bit in the mask selects b ----

template <class T, unsigned N>
inline Block<N> blend_by_sign(const Block<N>& a, const Block<N>& b, const Block<N>& mask) {
  auto out = lanes_of<T>(a);
  const auto other = lanes_of<T>(b);
  const auto select = lanes_of<std::make_signed_t<T>>(mask);
  for (unsigned i = 0; i < out.size(); ++i) out[i] = select[i] < 0 ? other[i] : out[i];
  return block_of(out);
}
template <class T>
Flow sse_blendv(Core& core, const Insn& insn) {
  Block<16> b;
  if (!fetch<Encoding::sse>(core, insn, b)) return Flow::fault;
  write_low(core, insn.reg, blend_by_sign<T>(read_vector<16>(core, insn.reg), b, read_vector<16>(core, 0)));
  return Flow::next;
}
template <class T, unsigned N>
inline Flow avx_blendv_sized(Core& core, const Insn& insn) {
  Block<N> b;
  if (!fetch<Encoding::vex>(core, insn, b)) return Flow::fault;
  const auto mask = read_vector<N>(core, insn.imm2);  // imm8[7:4]
  write_vex(core, insn.reg, blend_by_sign<T>(read_vector<N>(core, insn.vvvv), b, mask));
  return Flow::next;
}
template <class T>
Flow avx_blendv(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? avx_blendv_sized<T, 32>(core, insn) : avx_blendv_sized<T, 16>(core, insn);
}

}  // namespace husk::cpu::interp
