// husk: SSE4.2 string and text instructions PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2, 4.1)
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_block.h"

namespace husk::cpu::interp {
namespace {

/// The two operands as up to 16 elements, sign- or zero-extended as the immediate's format says.
struct Text {
  std::array<std::int32_t, 16> element;
  unsigned length;  ///< valid elements
};
struct Comparison {
  unsigned count;        ///< elements of an operand: 16 bytes or 8 words
  std::uint32_t result;  ///< IntRes2
  std::uint64_t flags;
};

Text text_of(const Block<16>& block, unsigned imm) {
  Text text{};
  if (imm & 1) {
    const auto words = lanes_of<std::uint16_t>(block);
    for (unsigned i = 0; i < 8; ++i) {
      text.element[i] = (imm & 2) ? std::int32_t{static_cast<std::int16_t>(words[i])} : std::int32_t{words[i]};
    }
  } else {
    for (unsigned i = 0; i < 16; ++i) {
      text.element[i] =
          (imm & 2) ? std::int32_t{static_cast<std::int8_t>(block.bytes[i])} : std::int32_t{block.bytes[i]};
    }
  }
  return text;
}
unsigned implicit_length(const Text& text, unsigned count) {
  unsigned length = 0;
  while (length < count && text.element[length] != 0) ++length;
  return length;
}
/// The magnitude of EAX/EDX or RAX/RDX, at most `count`. The most negative number has a magnitude above any count.
unsigned explicit_length(const Core& core, unsigned gpr, bool wide, unsigned count) {
  std::uint64_t value = core.s.gpr[gpr];
  if (!wide) value = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(value)});
  if (value >> 63) value = 0 - value;
  return value < count ? static_cast<unsigned>(value) : count;
}

/// IntRes1 of the four aggregations, with the override of comparisons that involve invalid elements (SDM vol. 2,
/// table 4-7). a is xmm1 (reg), b is xmm2/m128.
std::uint32_t aggregate(const Text& a, const Text& b, unsigned count, unsigned imm) {
  std::uint32_t result = 0;
  switch ((imm >> 2) & 3) {
    case 0:  // equal any: a is a set
      for (unsigned j = 0; j < b.length; ++j) {
        for (unsigned i = 0; i < a.length; ++i) {
          if (a.element[i] == b.element[j]) result |= 1u << j;
        }
      }
      break;
    case 1:  // ranges: a holds pairs of bounds; an odd last one is alone and matches nothing
      for (unsigned j = 0; j < b.length; ++j) {
        for (unsigned i = 0; i + 1 < a.length; i += 2) {
          if (b.element[j] >= a.element[i] && b.element[j] <= a.element[i + 1]) result |= 1u << j;
        }
      }
      break;
    case 2:  // equal each: both invalid is true, one invalid is false
      for (unsigned j = 0; j < count; ++j) {
        const bool in_a = j < a.length, in_b = j < b.length;
        if (in_a && in_b ? a.element[j] == b.element[j] : in_a == in_b) result |= 1u << j;
      }
      break;
    default:  // equal ordered: a is a needle; what lies beyond the block in b is not looked at
      for (unsigned j = 0; j < count; ++j) {
        bool found = true;
        for (unsigned i = 0; i < a.length && j + i < count && found; ++i) {
          found = j + i < b.length && a.element[i] == b.element[j + i];
        }
        if (found) result |= 1u << j;
      }
      break;
  }
  return result;
}

template <bool Explicit>
bool compare(Core& core, const Insn& insn, Comparison& out) {
  Block<16> block;  // the one packed SSE operand that need not be aligned
  if (!fetch<Encoding::vex>(core, insn, block)) return false;
  const unsigned imm = imm8(insn), count = (imm & 1) ? 8 : 16;
  Text a = text_of(read_vector<16>(core, insn.reg), imm), b = text_of(block, imm);
  // VEX.W counts in 64-bit mode only.
  const bool wide = insn.rex_w && core.code64();
  a.length = Explicit ? explicit_length(core, kRax, wide, count) : implicit_length(a, count);
  b.length = Explicit ? explicit_length(core, kRdx, wide, count) : implicit_length(b, count);
  std::uint32_t result = aggregate(a, b, count, imm);
  const std::uint32_t all = (1u << count) - 1;
  if ((imm & 0x30) == 0x10)
    result ^= all;  // negative polarity
  else if ((imm & 0x30) == 0x30)
    result ^= (1u << b.length) - 1;  // masked: only the valid elements of b
  out.count = count;
  out.result = result & all;
  out.flags = (out.result ? std::uint64_t{kCF} : 0) | (b.length < count ? std::uint64_t{kZF} : 0) |
              (a.length < count ? std::uint64_t{kSF} : 0) | ((out.result & 1) ? std::uint64_t{kOF} : 0);
  return true;
}

template <bool Explicit>
Flow compare_index(Core& core, const Insn& insn) {
  Comparison c;
  if (!compare<Explicit>(core, insn, c)) return Flow::fault;
  unsigned index = c.count;
  if (c.result != 0) {
    index = (imm8(insn) & 0x40) ? 31 - static_cast<unsigned>(std::countl_zero(c.result))
                                : static_cast<unsigned>(std::countr_zero(c.result));
  }
  core.s.gpr[kRcx] = index;
  set_flags(core, c.flags);
  return Flow::next;
}
template <bool Explicit, Encoding E>
Flow compare_mask(Core& core, const Insn& insn) {
  Comparison c;
  if (!compare<Explicit>(core, insn, c)) return Flow::fault;
  Block<16> mask = zero_block<16>();
  if (imm8(insn) & 0x40) {
    const unsigned width = 16 / c.count;
    for (unsigned i = 0; i < 16; ++i) mask.bytes[i] = ((c.result >> (i / width)) & 1) ? 0xFF : 0;
  } else {
    store_le<std::uint16_t>(mask.bytes.data(), static_cast<std::uint16_t>(c.result));
  }
  write_result<E>(core, 0, mask);
  set_flags(core, c.flags);
  return Flow::next;
}

}  // namespace

void bind_vec_strings(HandlerTable& table) {
  table.set(Sem::sse_pcmpestri, compare_index<true>);
  table.set(Sem::avx_pcmpestri, compare_index<true>);
  table.set(Sem::sse_pcmpistri, compare_index<false>);
  table.set(Sem::avx_pcmpistri, compare_index<false>);
  table.set(Sem::sse_pcmpestrm, compare_mask<true, Encoding::sse>);
  table.set(Sem::avx_pcmpestrm, compare_mask<true, Encoding::vex>);
  table.set(Sem::sse_pcmpistrm, compare_mask<false, Encoding::sse>);
  table.set(Sem::avx_pcmpistrm, compare_mask<false, Encoding::vex>);
}

}  // namespace husk::cpu::interp
