// husk: integer instructions: arithmetic, logic, shifts, bits, moves, atomics
#include <atomic>
#include <random>

#include "cpu/interp/operands.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

using alu::flag_if;
using alu::put_flags;

// ---- two-operand arithmetic ----

template <class Op, unsigned N>
Flow alu_store(Core& core, const Insn& insn, Uint<N> source) {
  if constexpr (Op::kWrites) {
    std::uint64_t rflags = core.s.rflags;
    const std::uint64_t before = rflags;
    if (!modify_rm<N>(core, insn, [&](Uint<N> old) {
          rflags = before;
          return Op::template apply<Uint<N>>(old, source, rflags);
        }))
      return Flow::fault;
    core.s.rflags = rflags;
  } else {
    Uint<N> old;
    if (!read_rm<N>(core, insn, old)) return Flow::fault;
    (void)Op::template apply<Uint<N>>(old, source, core.s.rflags);
  }
  return Flow::next;
}
template <class Op, unsigned N>
Flow alu_eg(Core& core, const Insn& insn) {
  return alu_store<Op, N>(core, insn, core.reg<N>(insn.reg));
}
template <class Op, unsigned N>
Flow alu_ei(Core& core, const Insn& insn) {
  return alu_store<Op, N>(core, insn, static_cast<Uint<N>>(insn.imm));
}
template <class Op, unsigned N>
Flow alu_ge(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  const auto result = Op::template apply<Uint<N>>(core.reg<N>(insn.reg), source, core.s.rflags);
  if constexpr (Op::kWrites) core.set_reg<N>(insn.reg, result);
  return Flow::next;
}
template <class Op, unsigned N>
Flow alu_ai(Core& core, const Insn& insn) {
  const auto result = Op::template apply<Uint<N>>(core.reg<N>(kRax), static_cast<Uint<N>>(insn.imm), core.s.rflags);
  if constexpr (Op::kWrites) core.set_reg<N>(kRax, result);
  return Flow::next;
}
template <class Op, unsigned N>
Flow unary_e(Core& core, const Insn& insn) {
  std::uint64_t rflags = core.s.rflags;
  const std::uint64_t before = rflags;
  if (!modify_rm<N>(core, insn, [&](Uint<N> old) {
        rflags = before;
        return Op::template apply<Uint<N>>(old, rflags);
      }))
    return Flow::fault;
  core.s.rflags = rflags;
  return Flow::next;
}
template <class Op, unsigned N>
Flow unary_z(Core& core, const Insn& insn) {
  core.set_reg<N>(insn.reg, Op::template apply<Uint<N>>(core.reg<N>(insn.reg), core.s.rflags));
  return Flow::next;
}

// ---- shifts and rotates ----

template <class Op, unsigned N>
Flow shift_by(Core& core, const Insn& insn, unsigned count) {
  std::uint64_t rflags = core.s.rflags;
  if (!modify_rm<N>(core, insn, [&](Uint<N> old) { return Op::template apply<Uint<N>>(old, count, rflags); }))
    return Flow::fault;
  core.s.rflags = rflags;
  return Flow::next;
}
template <class Op, unsigned N>
Flow shift_e1(Core& core, const Insn& insn) {
  return shift_by<Op, N>(core, insn, 1);
}
template <class Op, unsigned N>
Flow shift_ecl(Core& core, const Insn& insn) {
  return shift_by<Op, N>(core, insn, core.reg<1>(kRcx));
}
template <class Op, unsigned N>
Flow shift_ei(Core& core, const Insn& insn) {
  return shift_by<Op, N>(core, insn, static_cast<std::uint8_t>(insn.imm));
}

template <bool Left, unsigned N>
Flow double_shift(Core& core, const Insn& insn, unsigned count) {
  std::uint64_t rflags = core.s.rflags;
  const Uint<N> source = core.reg<N>(insn.reg);
  if (!modify_rm<N>(core, insn, [&](Uint<N> old) {
        return Left ? alu::shld<Uint<N>>(old, source, count, rflags) : alu::shrd<Uint<N>>(old, source, count, rflags);
      }))
    return Flow::fault;
  core.s.rflags = rflags;
  return Flow::next;
}
template <bool Left, unsigned N>
Flow double_shift_i(Core& core, const Insn& insn) {
  return double_shift<Left, N>(core, insn, static_cast<std::uint8_t>(insn.imm));
}
template <bool Left, unsigned N>
Flow double_shift_cl(Core& core, const Insn& insn) {
  return double_shift<Left, N>(core, insn, core.reg<1>(kRcx));
}

// ---- multiplication and division ----

template <unsigned N>
struct WideOf {
  using Unsigned = std::conditional_t<
      N == 1, std::uint16_t,
      std::conditional_t<N == 2, std::uint32_t, std::conditional_t<N == 4, std::uint64_t, unsigned __int128>>>;
  using Signed =
      std::conditional_t<N == 1, std::int16_t,
                         std::conditional_t<N == 2, std::int32_t, std::conditional_t<N == 4, std::int64_t, __int128>>>;
};

/// Puts a double-width value into AX or rDX:rAX.
template <unsigned N>
void set_accumulator_pair(Core& core, typename WideOf<N>::Unsigned value) {
  if constexpr (N == 1) {
    core.set_reg<2>(kRax, value);
  } else {
    core.set_reg<N>(kRax, static_cast<Uint<N>>(value));
    core.set_reg<N>(kRdx, static_cast<Uint<N>>(value >> (N * 8)));
  }
}
template <unsigned N>
typename WideOf<N>::Unsigned accumulator_pair(Core& core) {
  if constexpr (N == 1)
    return core.reg<2>(kRax);
  else
    return static_cast<typename WideOf<N>::Unsigned>(
        (static_cast<typename WideOf<N>::Unsigned>(core.reg<N>(kRdx)) << (N * 8)) | core.reg<N>(kRax));
}
void set_multiply_flags(Core& core, bool overflow) { put_flags(core.s.rflags, kCF | kOF, overflow ? kCF | kOF : 0); }

template <unsigned N>
Flow mul_e(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  using Wide = typename WideOf<N>::Unsigned;
  const auto product = static_cast<Wide>(static_cast<Wide>(core.reg<N>(kRax)) * source);
  set_accumulator_pair<N>(core, product);
  set_multiply_flags(core, (product >> (N * 8)) != 0);
  return Flow::next;
}
template <unsigned N>
typename WideOf<N>::Signed signed_product(Uint<N> a, Uint<N> b, bool& overflow) {
  using Wide = typename WideOf<N>::Signed;
  const auto product = static_cast<Wide>(static_cast<Wide>(static_cast<Sint<N>>(a)) * static_cast<Sint<N>>(b));
  overflow = product != static_cast<Wide>(static_cast<Sint<N>>(product));
  return product;
}
template <unsigned N>
Flow imul_e(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  bool overflow;
  const auto product = signed_product<N>(core.reg<N>(kRax), source, overflow);
  set_accumulator_pair<N>(core, static_cast<typename WideOf<N>::Unsigned>(product));
  set_multiply_flags(core, overflow);
  return Flow::next;
}
template <unsigned N>
Flow imul_ge(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  bool overflow;
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(signed_product<N>(core.reg<N>(insn.reg), source, overflow)));
  set_multiply_flags(core, overflow);
  return Flow::next;
}
template <unsigned N>
Flow imul_gei(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  bool overflow;
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(signed_product<N>(source, static_cast<Uint<N>>(insn.imm), overflow)));
  set_multiply_flags(core, overflow);
  return Flow::next;
}
template <unsigned N>
void set_quotient(Core& core, Uint<N> quotient, Uint<N> remainder) {
  if constexpr (N == 1) {
    core.set_reg<2>(kRax, static_cast<std::uint16_t>(quotient | (remainder << 8)));
  } else {
    core.set_reg<N>(kRax, quotient);
    core.set_reg<N>(kRdx, remainder);
  }
}
template <unsigned N>
Flow div_e(Core& core, const Insn& insn) {
  Uint<N> divisor;
  if (!read_rm<N>(core, insn, divisor)) return Flow::fault;
  const auto dividend = accumulator_pair<N>(core);
  if (divisor == 0 || (dividend >> (N * 8)) >= divisor) return core.raise(kDE);
  set_quotient<N>(core, static_cast<Uint<N>>(dividend / divisor), static_cast<Uint<N>>(dividend % divisor));
  return Flow::next;
}
template <unsigned N>
Flow idiv_e(Core& core, const Insn& insn) {
  Uint<N> raw;
  if (!read_rm<N>(core, insn, raw)) return Flow::fault;
  using Unsigned = typename WideOf<N>::Unsigned;
  using Signed = typename WideOf<N>::Signed;
  const auto divisor = static_cast<Sint<N>>(raw);
  const auto dividend = static_cast<Signed>(accumulator_pair<N>(core));
  // The most negative double-width dividend over -1 would overflow the division itself.
  if (divisor == 0 || (divisor == -1 && dividend == static_cast<Signed>(Unsigned{1} << (N * 16 - 1))))
    return core.raise(kDE);
  const auto quotient = static_cast<Signed>(dividend / divisor);
  if (quotient != static_cast<Signed>(static_cast<Sint<N>>(quotient))) return core.raise(kDE);
  set_quotient<N>(core, static_cast<Uint<N>>(quotient), static_cast<Uint<N>>(dividend % divisor));
  return Flow::next;
}

// ---- moves ----

template <unsigned N>
Flow mov_eg(Core& core, const Insn& insn) {
  return write_rm<N>(core, insn, core.reg<N>(insn.reg)) ? Flow::next : Flow::fault;
}
template <unsigned N>
Flow mov_ge(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!read_rm<N>(core, insn, value)) return Flow::fault;
  core.set_reg<N>(insn.reg, value);
  return Flow::next;
}
template <unsigned N>
Flow mov_ei(Core& core, const Insn& insn) {
  return write_rm<N>(core, insn, static_cast<Uint<N>>(insn.imm)) ? Flow::next : Flow::fault;
}
template <unsigned N>
Flow mov_zi(Core& core, const Insn& insn) {
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(insn.imm));
  return Flow::next;
}
/// The address of a moffs operand.
std::uint64_t moffs(const Insn& insn) {
  return insn.addr_size == 8 ? insn.imm : insn.imm & mask_of(insn.addr_size * 8u);
}
template <unsigned N>
Flow mov_ao(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!core.load<Uint<N>>(insn.segment, moffs(insn), value)) return Flow::fault;
  core.set_reg<N>(kRax, value);
  return Flow::next;
}
template <unsigned N>
Flow mov_oa(Core& core, const Insn& insn) {
  return core.store<Uint<N>>(insn.segment, moffs(insn), core.reg<N>(kRax)) ? Flow::next : Flow::fault;
}
template <unsigned N>
Flow lea_gm(Core& core, const Insn& insn) {
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(core.effective_address(insn)));
  return Flow::next;
}
template <unsigned N>
Flow movsxd_ge(Core& core, const Insn& insn) {
  if constexpr (N == 8) {
    std::uint32_t value;
    if (!read_rm<4>(core, insn, value)) return Flow::fault;
    core.set_reg<8>(insn.reg, static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(value))));
    return Flow::next;
  } else {
    return mov_ge<N>(core, insn);
  }
}
template <unsigned From, bool Sign, unsigned N>
Flow extend_ge(Core& core, const Insn& insn) {
  Uint<From> value;
  if (!read_rm<From>(core, insn, value)) return Flow::fault;
  if constexpr (Sign)
    core.set_reg<N>(insn.reg, static_cast<Uint<N>>(static_cast<Sint<From>>(value)));
  else
    core.set_reg<N>(insn.reg, static_cast<Uint<N>>(value));
  return Flow::next;
}
template <unsigned N>
Flow movbe_gm(Core& core, const Insn& insn) {
  Uint<N> value;
  if (!read_rm<N>(core, insn, value)) return Flow::fault;
  core.set_reg<N>(insn.reg, byte_swap(value));
  return Flow::next;
}
template <unsigned N>
Flow movbe_mg(Core& core, const Insn& insn) {
  return write_rm<N>(core, insn, byte_swap(core.reg<N>(insn.reg))) ? Flow::next : Flow::fault;
}
template <unsigned N>
Flow xchg_eg(Core& core, const Insn& insn) {
  const Uint<N> mine = core.reg<N>(insn.reg);
  if (!insn.memory) {
    const Uint<N> other = core.reg<N>(insn.rm);
    core.set_reg<N>(insn.rm, mine);
    core.set_reg<N>(insn.reg, other);
    return Flow::next;
  }
  Uint<N> old{};
  // XCHG with memory is locked with or without the prefix.
  if (!core.modify<Uint<N>>(insn.segment, core.effective_address(insn), true, [&](Uint<N> value) {
        old = value;
        return mine;
      }))
    return Flow::fault;
  core.set_reg<N>(insn.reg, old);
  return Flow::next;
}
template <unsigned N>
Flow xchg_za(Core& core, const Insn& insn) {
  const Uint<N> accumulator = core.reg<N>(kRax);
  const Uint<N> other = core.reg<N>(insn.reg);
  core.set_reg<N>(insn.reg, accumulator);
  core.set_reg<N>(kRax, other);
  return Flow::next;
}
template <unsigned N>
Flow bswap_z(Core& core, const Insn& insn) {
  // BSWAP of 16 bits is undefined; processors clear the register's low half.
  if constexpr (N <= 2)
    core.set_reg<2>(insn.reg, 0);
  else
    core.set_reg<N>(insn.reg, byte_swap(core.reg<N>(insn.reg)));
  return Flow::next;
}
Flow xlat(Core& core, const Insn& insn) {
  std::uint64_t ea = core.s.gpr[kRbx] + core.reg<1>(kRax);
  if (insn.addr_size != 8) ea &= mask_of(insn.addr_size * 8u);
  std::uint8_t value;
  if (!core.load<std::uint8_t>(insn.segment, ea, value)) return Flow::fault;
  core.set_reg<1>(kRax, value);
  return Flow::next;
}
template <unsigned N>
Flow cbw(Core& core, const Insn&) {
  if constexpr (N >= 2) core.set_reg<N>(kRax, static_cast<Uint<N>>(static_cast<Sint<N / 2>>(core.reg<N / 2>(kRax))));
  return Flow::next;
}
template <unsigned N>
Flow cwd(Core& core, const Insn&) {
  core.set_reg<N>(kRdx, alu::msb(core.reg<N>(kRax)) ? static_cast<Uint<N>>(~Uint<N>{0}) : Uint<N>{0});
  return Flow::next;
}
template <unsigned N>
Flow cmovcc_ge(Core& core, const Insn& insn) {
  // The source is read, and may fault, whatever the condition; a 32-bit destination is always zero-extended.
  Uint<N> value;
  if (!read_rm<N>(core, insn, value)) return Flow::fault;
  if (!alu::condition(insn.imm2, core.s.rflags)) value = core.reg<N>(insn.reg);
  core.set_reg<N>(insn.reg, value);
  return Flow::next;
}
Flow setcc_e(Core& core, const Insn& insn) {
  return write_rm<1>(core, insn, alu::condition(insn.imm2, core.s.rflags)) ? Flow::next : Flow::fault;
}

// ---- bits ----

enum class BitOp { test, set, reset, complement };
template <BitOp Op, class T>
T bit_result(T old, T selected) {
  if constexpr (Op == BitOp::set)
    return static_cast<T>(old | selected);
  else if constexpr (Op == BitOp::reset)
    return static_cast<T>(old & ~selected);
  else if constexpr (Op == BitOp::complement)
    return static_cast<T>(old ^ selected);
  else
    return old;
}
template <BitOp Op, unsigned N>
Flow bit_at(Core& core, const Insn& insn, std::uint64_t ea, unsigned bit_index) {
  const auto selected = static_cast<Uint<N>>(Uint<N>{1} << bit_index);
  bool was_set = false;
  const auto change = [&](Uint<N> old) {
    was_set = old & selected;
    return bit_result<Op>(old, selected);
  };
  if (!insn.memory) {
    const Uint<N> result = change(core.reg<N>(insn.rm));
    if constexpr (Op != BitOp::test) core.set_reg<N>(insn.rm, result);
  } else if constexpr (Op == BitOp::test) {
    Uint<N> value;
    if (!core.load<Uint<N>>(insn.segment, ea, value)) return Flow::fault;
    (void)change(value);
  } else if (!core.modify<Uint<N>>(insn.segment, ea, insn.lock, change)) {
    return Flow::fault;
  }
  put_flags(core.s.rflags, kCF, flag_if(was_set, kCF));
  return Flow::next;
}
template <BitOp Op, unsigned N>
Flow bit_ei(Core& core, const Insn& insn) {
  return bit_at<Op, N>(core, insn, insn.memory ? core.effective_address(insn) : 0, insn.imm & (N * 8 - 1));
}
template <BitOp Op, unsigned N>
Flow bit_eg(Core& core, const Insn& insn) {
  const Uint<N> offset = core.reg<N>(insn.reg);
  std::uint64_t ea = 0;
  if (insn.memory) {
    // A memory bit string reaches both ways from the operand (SDM vol. 2, BT).
    const std::int64_t words = static_cast<Sint<N>>(offset) >> (std::countr_zero(N) + 3);
    ea = core.effective_address(insn) + static_cast<std::uint64_t>(words * static_cast<std::int64_t>(N));
    if (insn.addr_size != 8) ea &= mask_of(insn.addr_size * 8u);
  }
  return bit_at<Op, N>(core, insn, ea, static_cast<unsigned>(offset & (N * 8 - 1)));
}

template <unsigned N>
unsigned trailing_zeros(Uint<N> value) {
  return static_cast<unsigned>(std::countr_zero(value));
}
template <unsigned N>
unsigned leading_zeros(Uint<N> value) {
  return static_cast<unsigned>(std::countl_zero(value));
}

template <bool Reverse, unsigned N>
Flow bit_scan(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  if (source == 0) {
    // The destination keeps its value (AMD documents it, Intel does it); with 32-bit operands the upper half too.
    core.s.rflags |= kZF;
    return Flow::next;
  }
  core.set_reg<N>(insn.reg,
                  static_cast<Uint<N>>(Reverse ? N * 8 - 1 - leading_zeros<N>(source) : trailing_zeros<N>(source)));
  put_flags(core.s.rflags, kZF, 0);
  return Flow::next;
}
template <bool Leading, unsigned N>
Flow count_zeros(Core& core, const Insn& insn) {
  if (!core.model.has(Leading ? Feature::abm : Feature::bmi1)) return bit_scan<Leading, N>(core, insn);
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  const unsigned count = Leading ? leading_zeros<N>(source) : trailing_zeros<N>(source);
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(count));
  put_flags(core.s.rflags, kCF | kZF, flag_if(source == 0, kCF) | flag_if(count == 0, kZF));
  return Flow::next;
}
template <unsigned N>
Flow popcnt_ge(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  core.set_reg<N>(insn.reg, static_cast<Uint<N>>(std::popcount(source)));
  put_flags(core.s.rflags, kArithmeticFlags, flag_if(source == 0, kZF));
  return Flow::next;
}
template <unsigned N>
Flow crc32_ge(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  // CRC-32C, reflected polynomial 82F63B78h (SDM vol. 2, CRC32).
  std::uint32_t crc = static_cast<std::uint32_t>(core.s.gpr[insn.reg]);
  for (unsigned i = 0; i < N; ++i) {
    crc ^= static_cast<std::uint8_t>(source >> (i * 8));
    for (unsigned n = 0; n < 8; ++n) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78 : 0);
  }
  core.s.gpr[insn.reg] = crc;
  return Flow::next;
}
template <std::uint64_t Carry, unsigned N>
Flow add_with(Core& core, const Insn& insn) {
  Uint<N> source;
  if (!read_rm<N>(core, insn, source)) return Flow::fault;
  const Uint<N> a = core.reg<N>(insn.reg);
  const bool in = core.s.rflags & Carry;
  const auto result = static_cast<Uint<N>>(a + source + in);
  put_flags(core.s.rflags, Carry, flag_if(in ? result <= a : result < a, Carry));
  core.set_reg<N>(insn.reg, result);
  return Flow::next;
}

// ---- BMI ----

template <unsigned N, class Make>
Flow bmi(Core& core, const Insn& insn, Make&& make) {
  if constexpr (N < 4)
    return core.raise_ud();
  else {
    Uint<N> source;
    if (!read_rm<N>(core, insn, source)) return Flow::fault;
    make(source);
    return Flow::next;
  }
}
template <unsigned N>
Flow andn(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    const auto result = static_cast<Uint<N>>(~core.reg<N>(insn.vvvv) & source);
    put_flags(core.s.rflags, kSF | kZF | kOF | kCF, alu::zsp(result) & (kSF | kZF));
    core.set_reg<N>(insn.reg, result);
  });
}
enum class LowBit { reset, mask, isolate };
template <LowBit Op, unsigned N>
Flow low_bit(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    Uint<N> result;
    bool carry;
    if constexpr (Op == LowBit::reset) {
      result = static_cast<Uint<N>>(source & (source - 1));
      carry = source == 0;
    } else if constexpr (Op == LowBit::mask) {
      result = static_cast<Uint<N>>(source ^ (source - 1));
      carry = source == 0;
    } else {
      result = static_cast<Uint<N>>(source & (0 - source));
      carry = source != 0;
    }
    std::uint64_t zs = alu::zsp(result) & (kSF | kZF);
    put_flags(core.s.rflags, kSF | kZF | kOF | kCF, zs | flag_if(carry, kCF));
    core.set_reg<N>(insn.vvvv, result);
  });
}
template <unsigned N>
Flow bzhi(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    const unsigned index = static_cast<std::uint8_t>(core.s.gpr[insn.vvvv]);
    const auto result = index < N * 8 ? static_cast<Uint<N>>(source & mask_of(index)) : source;
    put_flags(core.s.rflags, kSF | kZF | kOF | kCF, (alu::zsp(result) & (kSF | kZF)) | flag_if(index > N * 8 - 1, kCF));
    core.set_reg<N>(insn.reg, result);
  });
}
template <unsigned N>
Flow bextr(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    const auto control = core.s.gpr[insn.vvvv];
    const unsigned start = control & 0xFF;
    const unsigned length = (control >> 8) & 0xFF;
    const std::uint64_t shifted = start < N * 8 ? std::uint64_t{source} >> start : 0;
    const auto result = static_cast<Uint<N>>(length < N * 8 ? shifted & mask_of(length) : shifted);
    put_flags(core.s.rflags, kZF | kOF | kCF, flag_if(result == 0, kZF));
    core.set_reg<N>(insn.reg, result);
  });
}
template <unsigned N>
Flow pext(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> mask) {
    const Uint<N> source = core.reg<N>(insn.vvvv);
    std::uint64_t result = 0;
    for (unsigned from = 0, to = 0; from < N * 8; ++from)
      if ((mask >> from) & 1) result |= std::uint64_t{(source >> from) & 1u} << to++;
    core.set_reg<N>(insn.reg, static_cast<Uint<N>>(result));
  });
}
template <unsigned N>
Flow pdep(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> mask) {
    const Uint<N> source = core.reg<N>(insn.vvvv);
    std::uint64_t result = 0;
    for (unsigned to = 0, from = 0; to < N * 8; ++to)
      if ((mask >> to) & 1) result |= std::uint64_t{(source >> from++) & 1u} << to;
    core.set_reg<N>(insn.reg, static_cast<Uint<N>>(result));
  });
}
template <unsigned N>
Flow mulx(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    using Wide = typename WideOf<N>::Unsigned;
    const auto product = static_cast<Wide>(static_cast<Wide>(core.reg<N>(kRdx)) * source);
    // The high half wins if both destinations are one register, so it is written last.
    core.set_reg<N>(insn.vvvv, static_cast<Uint<N>>(product));
    core.set_reg<N>(insn.reg, static_cast<Uint<N>>(product >> (N * 8)));
  });
}
enum class FreeShift { left, arithmetic, right };
template <FreeShift Op, unsigned N>
Flow shift_x(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    const unsigned count = core.s.gpr[insn.vvvv] & (N * 8 - 1);
    Uint<N> result;
    if constexpr (Op == FreeShift::left)
      result = static_cast<Uint<N>>(source << count);
    else if constexpr (Op == FreeShift::right)
      result = static_cast<Uint<N>>(source >> count);
    else
      result = static_cast<Uint<N>>(static_cast<Sint<N>>(source) >> count);
    core.set_reg<N>(insn.reg, result);
  });
}
template <unsigned N>
Flow rorx(Core& core, const Insn& insn) {
  return bmi<N>(core, insn, [&](Uint<N> source) {
    core.set_reg<N>(insn.reg, std::rotr(source, static_cast<int>(insn.imm & (N * 8 - 1))));
  });
}

// ---- atomics ----

template <unsigned N>
Flow cmpxchg_eg(Core& core, const Insn& insn) {
  const Uint<N> accumulator = core.reg<N>(kRax);
  const Uint<N> replacement = core.reg<N>(insn.reg);
  Uint<N> seen{};
  if (!insn.memory) {
    // A register is left alone where the comparison fails: its upper half too, as processors have it.
    seen = core.reg<N>(insn.rm);
    if (seen == accumulator)
      core.set_reg<N>(insn.rm, replacement);
    else
      core.set_reg<N>(kRax, seen);
    (void)alu::sub_borrow<Uint<N>>(accumulator, seen, false, core.s.rflags);
    return Flow::next;
  }
  // Memory is written in either case (SDM vol. 2, CMPXCHG), so it must be writable.
  if (!modify_rm<N>(core, insn, [&](Uint<N> old) {
        seen = old;
        return old == accumulator ? replacement : old;
      }))
    return Flow::fault;
  (void)alu::sub_borrow<Uint<N>>(accumulator, seen, false, core.s.rflags);
  if (seen != accumulator) core.set_reg<N>(kRax, seen);
  return Flow::next;
}
template <unsigned N>
Flow xadd_eg(Core& core, const Insn& insn) {
  const Uint<N> source = core.reg<N>(insn.reg);
  Uint<N> seen{};
  if (!insn.memory) {
    seen = core.reg<N>(insn.rm);
    core.set_reg<N>(insn.reg, seen);
    core.set_reg<N>(insn.rm, alu::add_carry<Uint<N>>(seen, source, false, core.s.rflags));
    return Flow::next;
  }
  if (!core.modify<Uint<N>>(insn.segment, core.effective_address(insn), insn.lock, [&](Uint<N> old) {
        seen = old;
        return static_cast<Uint<N>>(old + source);
      }))
    return Flow::fault;
  (void)alu::add_carry<Uint<N>>(seen, source, false, core.s.rflags);
  core.set_reg<N>(insn.reg, seen);
  return Flow::next;
}
Flow cmpxchg8b_m(Core& core, const Insn& insn) {
  const std::uint64_t expected = (core.s.gpr[kRdx] << 32) | core.reg<4>(kRax);
  const std::uint64_t replacement = (core.s.gpr[kRcx] << 32) | core.reg<4>(kRbx);
  std::uint64_t seen = 0;
  if (!core.modify<std::uint64_t>(insn.segment, core.effective_address(insn), insn.lock, [&](std::uint64_t old) {
        seen = old;
        return old == expected ? replacement : old;
      }))
    return Flow::fault;
  put_flags(core.s.rflags, kZF, flag_if(seen == expected, kZF));
  if (seen != expected) {
    core.set_reg<4>(kRax, static_cast<std::uint32_t>(seen));
    core.set_reg<4>(kRdx, static_cast<std::uint32_t>(seen >> 32));
  }
  return Flow::next;
}
Flow cmpxchg16b_m(Core& core, const Insn& insn) {
  using Pair = std::array<std::uint64_t, 2>;
  const std::uint64_t ea = core.effective_address(insn);
  const std::uint64_t base = insn.segment >= kFs ? core.s.seg[insn.segment].base : 0;
  if ((ea + base) % 16) return core.raise_gp();
  const Pair expected = {core.s.gpr[kRax], core.s.gpr[kRdx]};
  const Pair replacement = {core.s.gpr[kRbx], core.s.gpr[kRcx]};
  Pair seen{};
  if (!core.modify128(insn.segment, ea, insn.lock, [&](Pair old) {
        seen = old;
        return old == expected ? replacement : old;
      }))
    return Flow::fault;
  put_flags(core.s.rflags, kZF, flag_if(seen == expected, kZF));
  if (seen != expected) {
    core.s.gpr[kRax] = seen[0];
    core.s.gpr[kRdx] = seen[1];
  }
  return Flow::next;
}

// ---- decimal adjust ----

Flow daa(Core& core, const Insn&) {
  const std::uint8_t old = core.reg<1>(kRax);
  const bool carry = core.s.rflags & kCF;
  std::uint8_t value = old;
  std::uint64_t flags = 0;
  if ((old & 0xF) > 9 || (core.s.rflags & kAF)) {
    value = static_cast<std::uint8_t>(value + 6);
    flags |= kAF;
  }
  if (old > 0x99 || carry) {
    value = static_cast<std::uint8_t>(value + 0x60);
    flags |= kCF;
  }
  put_flags(core.s.rflags, kArithmeticFlags, flags | alu::zsp(value));
  core.set_reg<1>(kRax, value);
  return Flow::next;
}
Flow das(Core& core, const Insn&) {
  const std::uint8_t old = core.reg<1>(kRax);
  const bool carry = core.s.rflags & kCF;
  std::uint8_t value = old;
  std::uint64_t flags = 0;
  if ((old & 0xF) > 9 || (core.s.rflags & kAF)) {
    flags |= kAF | flag_if(carry || old < 6, kCF);
    value = static_cast<std::uint8_t>(value - 6);
  }
  if (old > 0x99 || carry) {
    value = static_cast<std::uint8_t>(value - 0x60);
    flags |= kCF;
  }
  put_flags(core.s.rflags, kArithmeticFlags, flags | alu::zsp(value));
  core.set_reg<1>(kRax, value);
  return Flow::next;
}
template <bool Add>
Flow ascii_adjust(Core& core, const Insn&) {
  const bool adjust = (core.reg<1>(kRax) & 0xF) > 9 || (core.s.rflags & kAF);
  std::uint16_t ax = core.reg<2>(kRax);
  if (adjust) ax = static_cast<std::uint16_t>(Add ? ax + 0x106 : ax - 0x106);
  ax &= 0xFF0F;
  put_flags(core.s.rflags, kArithmeticFlags, (adjust ? kAF | kCF : 0) | alu::zsp(static_cast<std::uint8_t>(ax)));
  core.set_reg<2>(kRax, ax);
  return Flow::next;
}
Flow aam(Core& core, const Insn& insn) {
  const auto base = static_cast<std::uint8_t>(insn.imm);
  if (base == 0) return core.raise(kDE);
  const std::uint8_t al = core.reg<1>(kRax);
  const auto low = static_cast<std::uint8_t>(al % base);
  core.set_reg<2>(kRax, static_cast<std::uint16_t>((al / base) << 8 | low));
  put_flags(core.s.rflags, kArithmeticFlags, alu::zsp(low));
  return Flow::next;
}
Flow aad(Core& core, const Insn& insn) {
  const std::uint16_t ax = core.reg<2>(kRax);
  const auto al = static_cast<std::uint8_t>((ax & 0xFF) + (ax >> 8) * (insn.imm & 0xFF));
  core.set_reg<2>(kRax, al);
  put_flags(core.s.rflags, kArithmeticFlags, alu::zsp(al));
  return Flow::next;
}

// ---- flags, hints, random numbers ----

Flow pause(Core& core, const Insn&) {
  core.note_pause();
  return Flow::next;
}
Flow nop(Core&, const Insn&) { return Flow::next; }
Flow fence(Core&, const Insn&) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return Flow::next;
}
Flow clflush(Core& core, const Insn& insn) {
  std::uint8_t ignored;
  return core.load<std::uint8_t>(insn.segment, core.effective_address(insn), ignored) ? Flow::next : Flow::fault;
}
Flow salc(Core& core, const Insn&) {
  core.set_reg<1>(kRax, (core.s.rflags & kCF) ? 0xFF : 0);
  return Flow::next;
}
Flow cmc(Core& core, const Insn&) {
  core.s.rflags ^= kCF;
  return Flow::next;
}
template <std::uint64_t Bit, bool Value>
Flow set_flag(Core& core, const Insn&) {
  put_flags(core.s.rflags, Bit, Value ? Bit : 0);
  return Flow::next;
}
template <unsigned N>
Flow random_r(Core& core, const Insn& insn) {
  std::random_device source;
  core.set_reg<N>(insn.rm, static_cast<Uint<N>>((std::uint64_t{source()} << 32) | source()));
  put_flags(core.s.rflags, kArithmeticFlags, kCF);
  return Flow::next;
}

template <unsigned N>
Flow rdpid_r(Core& core, const Insn& insn) {
  core.set_reg<N>(insn.rm, static_cast<Uint<N>>(core.s.msr.tsc_aux));
  return Flow::next;
}

void bind_arithmetic(HandlerTable& t) {
#define HUSK_BIND_ALU(name, Op)                 \
  HUSK_BIND_SIZES(t, name##_eg, alu_eg<Op, N>); \
  HUSK_BIND_SIZES(t, name##_ei, alu_ei<Op, N>); \
  HUSK_BIND_SIZES(t, name##_ai, alu_ai<Op, N>)
#define HUSK_BIND_ALU_GE(name, Op) \
  HUSK_BIND_ALU(name, Op);         \
  HUSK_BIND_SIZES(t, name##_ge, alu_ge<Op, N>)
  HUSK_BIND_ALU_GE(add, alu::Add);
  HUSK_BIND_ALU_GE(or, alu::Or);
  HUSK_BIND_ALU_GE(adc, alu::Adc);
  HUSK_BIND_ALU_GE(sbb, alu::Sbb);
  HUSK_BIND_ALU_GE(and, alu::And);
  HUSK_BIND_ALU_GE(sub, alu::Sub);
  HUSK_BIND_ALU_GE(xor, alu::Xor);
  HUSK_BIND_ALU_GE(cmp, alu::Cmp);
  HUSK_BIND_ALU(test, alu::Test);
#undef HUSK_BIND_ALU_GE
#undef HUSK_BIND_ALU
  HUSK_BIND_SIZES(t, inc_e, unary_e<alu::Inc, N>);
  HUSK_BIND_SIZES(t, dec_e, unary_e<alu::Dec, N>);
  HUSK_BIND_SIZES(t, not_e, unary_e<alu::Not, N>);
  HUSK_BIND_SIZES(t, neg_e, unary_e<alu::Neg, N>);
  HUSK_BIND_SIZES(t, inc_z, unary_z<alu::Inc, N>);
  HUSK_BIND_SIZES(t, dec_z, unary_z<alu::Dec, N>);
#define HUSK_BIND_SHIFT(name, Op)                   \
  HUSK_BIND_SIZES(t, name##_e1, shift_e1<Op, N>);   \
  HUSK_BIND_SIZES(t, name##_ecl, shift_ecl<Op, N>); \
  HUSK_BIND_SIZES(t, name##_ei, shift_ei<Op, N>)
  HUSK_BIND_SHIFT(rol, alu::Rol);
  HUSK_BIND_SHIFT(ror, alu::Ror);
  HUSK_BIND_SHIFT(rcl, alu::Rcl);
  HUSK_BIND_SHIFT(rcr, alu::Rcr);
  HUSK_BIND_SHIFT(shl, alu::Shl);
  HUSK_BIND_SHIFT(shr, alu::Shr);
  HUSK_BIND_SHIFT(sar, alu::Sar);
#undef HUSK_BIND_SHIFT
  HUSK_BIND_SIZES(t, shld_egi, double_shift_i<true, N>);
  HUSK_BIND_SIZES(t, shld_egcl, double_shift_cl<true, N>);
  HUSK_BIND_SIZES(t, shrd_egi, double_shift_i<false, N>);
  HUSK_BIND_SIZES(t, shrd_egcl, double_shift_cl<false, N>);
  HUSK_BIND_SIZES(t, mul_e, mul_e<N>);
  HUSK_BIND_SIZES(t, imul_e, imul_e<N>);
  HUSK_BIND_SIZES(t, imul_ge, imul_ge<N>);
  HUSK_BIND_SIZES(t, imul_gei, imul_gei<N>);
  HUSK_BIND_SIZES(t, div_e, div_e<N>);
  HUSK_BIND_SIZES(t, idiv_e, idiv_e<N>);
  t.set(Sem::daa, daa);
  t.set(Sem::das, das);
  t.set(Sem::aaa, ascii_adjust<true>);
  t.set(Sem::aas, ascii_adjust<false>);
  t.set(Sem::aam, aam);
  t.set(Sem::aad, aad);
}

void bind_moves(HandlerTable& t) {
  HUSK_BIND_SIZES(t, mov_eg, mov_eg<N>);
  HUSK_BIND_SIZES(t, mov_ge, mov_ge<N>);
  HUSK_BIND_SIZES(t, mov_ei, mov_ei<N>);
  HUSK_BIND_SIZES(t, mov_zi, mov_zi<N>);
  HUSK_BIND_SIZES(t, mov_ao, mov_ao<N>);
  HUSK_BIND_SIZES(t, mov_oa, mov_oa<N>);
  HUSK_BIND_SIZES(t, lea_gm, lea_gm<N>);
  HUSK_BIND_SIZES(t, movsxd_ge, movsxd_ge<N>);
  HUSK_BIND_SIZES(t, movzx_geb, extend_ge<1, false, N>);
  HUSK_BIND_SIZES(t, movzx_gew, extend_ge<2, false, N>);
  HUSK_BIND_SIZES(t, movsx_geb, extend_ge<1, true, N>);
  HUSK_BIND_SIZES(t, movsx_gew, extend_ge<2, true, N>);
  HUSK_BIND_SIZES(t, movbe_gm, movbe_gm<N>);
  HUSK_BIND_SIZES(t, movbe_mg, movbe_mg<N>);
  HUSK_BIND_SIZES(t, movnti_mg, mov_eg<N>);
  HUSK_BIND_SIZES(t, xchg_eg, xchg_eg<N>);
  HUSK_BIND_SIZES(t, xchg_za, xchg_za<N>);
  HUSK_BIND_SIZES(t, bswap_z, bswap_z<N>);
  t.set(Sem::xlat, xlat);
  HUSK_BIND_SIZES(t, cbw, cbw<N>);
  HUSK_BIND_SIZES(t, cwd, cwd<N>);
  HUSK_BIND_SIZES(t, cmovcc_ge, cmovcc_ge<N>);
  t.set(Sem::setcc_e, setcc_e);
  HUSK_BIND_SIZES(t, cmpxchg_eg, cmpxchg_eg<N>);
  HUSK_BIND_SIZES(t, xadd_eg, xadd_eg<N>);
  t.set(Sem::cmpxchg8b_m, cmpxchg8b_m);
  t.set(Sem::cmpxchg16b_m, cmpxchg16b_m);
}

void bind_bits(HandlerTable& t) {
#define HUSK_BIND_BIT(name, op)                        \
  HUSK_BIND_SIZES(t, name##_eg, bit_eg<BitOp::op, N>); \
  HUSK_BIND_SIZES(t, name##_ei, bit_ei<BitOp::op, N>)
  HUSK_BIND_BIT(bt, test);
  HUSK_BIND_BIT(bts, set);
  HUSK_BIND_BIT(btr, reset);
  HUSK_BIND_BIT(btc, complement);
#undef HUSK_BIND_BIT
  HUSK_BIND_SIZES(t, bsf_ge, bit_scan<false, N>);
  HUSK_BIND_SIZES(t, bsr_ge, bit_scan<true, N>);
  HUSK_BIND_SIZES(t, tzcnt_ge, count_zeros<false, N>);
  HUSK_BIND_SIZES(t, lzcnt_ge, count_zeros<true, N>);
  HUSK_BIND_SIZES(t, popcnt_ge, popcnt_ge<N>);
  HUSK_BIND_SIZES(t, crc32_ge, crc32_ge<N>);
  HUSK_BIND_SIZES(t, adcx_ge, add_with<kCF, N>);
  HUSK_BIND_SIZES(t, adox_ge, add_with<kOF, N>);
  HUSK_BIND_SIZES(t, andn, andn<N>);
  HUSK_BIND_SIZES(t, blsr, low_bit<LowBit::reset, N>);
  HUSK_BIND_SIZES(t, blsmsk, low_bit<LowBit::mask, N>);
  HUSK_BIND_SIZES(t, blsi, low_bit<LowBit::isolate, N>);
  HUSK_BIND_SIZES(t, bzhi, bzhi<N>);
  HUSK_BIND_SIZES(t, bextr, bextr<N>);
  HUSK_BIND_SIZES(t, pext, pext<N>);
  HUSK_BIND_SIZES(t, pdep, pdep<N>);
  HUSK_BIND_SIZES(t, mulx, mulx<N>);
  HUSK_BIND_SIZES(t, shlx, shift_x<FreeShift::left, N>);
  HUSK_BIND_SIZES(t, sarx, shift_x<FreeShift::arithmetic, N>);
  HUSK_BIND_SIZES(t, shrx, shift_x<FreeShift::right, N>);
  HUSK_BIND_SIZES(t, rorx, rorx<N>);
}

}  // namespace

void bind_integer(HandlerTable& t) {
  bind_arithmetic(t);
  bind_moves(t);
  bind_bits(t);
  t.set(Sem::nop, nop);
  t.set(Sem::pause, pause);
  t.set(Sem::lfence, fence);
  t.set(Sem::mfence, fence);
  t.set(Sem::sfence, fence);
  t.set(Sem::clflush, clflush);
  t.set(Sem::salc, salc);
  t.set(Sem::cmc, cmc);
  t.set(Sem::clc, set_flag<kCF, false>);
  t.set(Sem::stc, set_flag<kCF, true>);
  t.set(Sem::cld, set_flag<kDF, false>);
  t.set(Sem::std, set_flag<kDF, true>);
  HUSK_BIND_SIZES(t, rdrand_r, random_r<N>);
  HUSK_BIND_SIZES(t, rdseed_r, random_r<N>);
  HUSK_BIND_SIZES(t, rdpid_r, rdpid_r<N>);
}

}  // namespace husk::cpu::interp
