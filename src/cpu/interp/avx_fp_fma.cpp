// husk: FMA3: fused multiply-add
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_fp.h"

namespace husk::cpu::interp {
namespace {

/// Which operands are multiplied, by their places in the mnemonic's digits: 1 destination, 2 vvvv, 3 rm. The order is
/// also that in which a NaN wins (SDM vol. 1, table 14-17).
enum class Order : std::uint8_t { o132, o213, o231 };
/// Signs of product and addend; the two alternating forms differ by element.
enum class Signs : std::uint8_t { add, sub, negated_add, negated_sub, addsub, subadd };

template <class Format, Order O, Signs S>
inline typename Format::Bits fma_element(typename Format::Bits one, typename Format::Bits two,
                                         typename Format::Bits three, unsigned index, fp::Env& env) {
  constexpr bool kNegateProduct = S == Signs::negated_add || S == Signs::negated_sub;
  bool subtract = S == Signs::sub || S == Signs::negated_sub;
  if constexpr (S == Signs::addsub) subtract = (index & 1) == 0;
  if constexpr (S == Signs::subadd) subtract = (index & 1) == 1;
  if constexpr (O == Order::o132) return fp::fused_multiply_add<Format>(one, three, two, kNegateProduct, subtract, env);
  if constexpr (O == Order::o213) return fp::fused_multiply_add<Format>(two, one, three, kNegateProduct, subtract, env);
  return fp::fused_multiply_add<Format>(two, three, one, kNegateProduct, subtract, env);
}
template <class Format, Order O, Signs S, unsigned N>
inline Flow fma_packed_sized(Core& core, const Insn& insn) {
  using Bits = typename Format::Bits;
  Block<N> rm;
  if (!fetch<Encoding::vex>(core, insn, rm)) return Flow::fault;
  auto one = lanes_of<Bits>(read_vector<N>(core, insn.reg));
  const auto two = lanes_of<Bits>(read_vector<N>(core, insn.vvvv)), three = lanes_of<Bits>(rm);
  fp::Env env = fp_environment(core);
  for (unsigned i = 0; i < one.size(); ++i) one[i] = fma_element<Format, O, S>(one[i], two[i], three[i], i, env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_vex(core, insn.reg, block_of(one));
  return Flow::next;
}
template <class Format, Order O, Signs S>
Flow fma_packed(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? fma_packed_sized<Format, O, S, 32>(core, insn)
                                 : fma_packed_sized<Format, O, S, 16>(core, insn);
}
template <class Format, Order O, Signs S>
Flow fma_scalar(Core& core, const Insn& insn) {
  using Bits = typename Format::Bits;
  Bits three;
  if (!fetch_scalar(core, insn, three)) return Flow::fault;
  auto one = lanes_of<Bits>(read_vector<16>(core, insn.reg));
  fp::Env env = fp_environment(core);
  one[0] = fma_element<Format, O, S>(one[0], read_element<Bits>(core, insn.vvvv), three, 0, env);
  if (!commit_fp(core, env)) return Flow::fault;
  write_vex(core, insn.reg, block_of(one));
  return Flow::next;
}

}  // namespace

void bind_avx_fma(HandlerTable& table) {
#define HUSK_FMA_PACKED(name, order, signs)                                                  \
  table.set(Sem::avx_##name##order##ps, fma_packed<fp::F32, Order::o##order, Signs::signs>); \
  table.set(Sem::avx_##name##order##pd, fma_packed<fp::F64, Order::o##order, Signs::signs>);
#define HUSK_FMA_BOTH(name, order, signs)                                                    \
  HUSK_FMA_PACKED(name, order, signs)                                                        \
  table.set(Sem::avx_##name##order##ss, fma_scalar<fp::F32, Order::o##order, Signs::signs>); \
  table.set(Sem::avx_##name##order##sd, fma_scalar<fp::F64, Order::o##order, Signs::signs>);
#define HUSK_FMA_ORDER(order)               \
  HUSK_FMA_BOTH(fmadd, order, add)          \
  HUSK_FMA_BOTH(fmsub, order, sub)          \
  HUSK_FMA_BOTH(fnmadd, order, negated_add) \
  HUSK_FMA_BOTH(fnmsub, order, negated_sub) \
  HUSK_FMA_PACKED(fmaddsub, order, addsub)  \
  HUSK_FMA_PACKED(fmsubadd, order, subadd)
  HUSK_FMA_ORDER(132)
  HUSK_FMA_ORDER(213)
  HUSK_FMA_ORDER(231)
#undef HUSK_FMA_ORDER
#undef HUSK_FMA_BOTH
#undef HUSK_FMA_PACKED
}

}  // namespace husk::cpu::interp
