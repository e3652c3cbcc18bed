// husk: vector operands: blocks of bytes, their lanes, and access to XMM, YMM, MMX registers and memory
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/bits.h"
#include "cpu/interp/core.h"
#include "cpu/interp/x87.h"

namespace husk::cpu::interp {

/// Up to 32 bytes of a vector register or memory operand, little-endian: byte 0 is bits 7:0 whatever the host.
template <unsigned N>
struct Block {
  static constexpr unsigned kBytes = N;
  std::array<std::uint8_t, N> bytes;
  bool operator==(const Block&) const = default;
};

/// The elements of a Block as host integers; element 0 is the lowest.
template <class T, unsigned N>
using Lanes = std::array<T, N / sizeof(T)>;

template <class T, unsigned N>
inline Lanes<T, N> lanes_of(const Block<N>& block) {
  Lanes<T, N> lanes;
  if constexpr (std::endian::native == std::endian::little || sizeof(T) == 1) {
    std::memcpy(lanes.data(), block.bytes.data(), N);
  } else {
    for (unsigned i = 0; i < lanes.size(); ++i) lanes[i] = load_le<T>(block.bytes.data() + i * sizeof(T));
  }
  return lanes;
}
template <class T, std::size_t Count>
inline Block<static_cast<unsigned>(Count * sizeof(T))> block_of(const std::array<T, Count>& lanes) {
  Block<static_cast<unsigned>(Count * sizeof(T))> block;
  if constexpr (std::endian::native == std::endian::little || sizeof(T) == 1) {
    std::memcpy(block.bytes.data(), lanes.data(), sizeof block.bytes);
  } else {
    for (unsigned i = 0; i < Count; ++i) store_le<T>(block.bytes.data() + i * sizeof(T), lanes[i]);
  }
  return block;
}
template <unsigned N>
inline Block<N> zero_block() {
  Block<N> block;
  block.bytes.fill(0);
  return block;
}
/// 16 bytes of a wider block, or the reverse.
inline Block<16> half_of(const Block<32>& block, unsigned half) {
  Block<16> out;
  std::memcpy(out.bytes.data(), block.bytes.data() + half * 16, 16);
  return out;
}
inline void set_half(Block<32>& block, unsigned half, const Block<16>& value) {
  std::memcpy(block.bytes.data() + half * 16, value.bytes.data(), 16);
}

// ---- XMM and YMM registers ----

template <unsigned N>
inline Block<N> read_vector(const Core& core, unsigned number) {
  Block<N> block;
  std::memcpy(block.bytes.data(), core.s.vector[number].bytes.data(), N);
  return block;
}
/// Legacy SSE: everything above the written bytes stays.
template <unsigned N>
inline void write_low(Core& core, unsigned number, const Block<N>& block) {
  std::memcpy(core.s.vector[number].bytes.data(), block.bytes.data(), N);
}
/// VEX: everything above the written bytes becomes zero.
template <unsigned N>
inline void write_vex(Core& core, unsigned number, const Block<N>& block) {
  std::uint8_t* const to = core.s.vector[number].bytes.data();
  std::memcpy(to, block.bytes.data(), N);
  std::memset(to + N, 0, 64 - N);
}
/// One element of a register.
template <class T>
inline T read_element(const Core& core, unsigned number, unsigned index = 0) {
  return load_le<T>(core.s.vector[number].bytes.data() + index * sizeof(T));
}
template <class T>
inline void write_element(Core& core, unsigned number, unsigned index, T value) {
  store_le<T>(core.s.vector[number].bytes.data() + index * sizeof(T), value);
}

/// Which encoding a handler serves: it decides alignment, sources, and what happens to the upper bits.
enum class Encoding : std::uint8_t { sse, vex };

template <Encoding E, unsigned N>
inline void write_result(Core& core, unsigned number, const Block<N>& block) {
  if constexpr (E == Encoding::sse)
    write_low(core, number, block);
  else
    write_vex(core, number, block);
}
/// The first source: the destination itself for legacy SSE, VEX.vvvv otherwise.
template <Encoding E>
inline unsigned first_source(const Insn& insn) {
  return E == Encoding::sse ? insn.reg : insn.vvvv;
}
// ---- the rm operand ----

/// MXCSR.MM, AMD's misaligned exception mask; it can be set only where the CPU model has misalignsse.
inline constexpr std::uint32_t kMxcsrMisaligned = 1u << 17;

/// A whole vector. Legacy SSE operands of 16 bytes must be aligned (SDM vol. 1, 15.3) unless MXCSR.MM is set; the moves
/// that are aligned by name (vec_move.cpp) heed no MM (APM vol. 1, 4.2.2).
template <Encoding E, unsigned N>
[[nodiscard]] inline bool fetch(Core& core, const Insn& insn, Block<N>& out) {
  if (!insn.memory) {
    out = read_vector<N>(core, insn.rm);
    return true;
  }
  if constexpr (E == Encoding::sse && N == 16) {
    if (core.s.mxcsr & kMxcsrMisaligned) [[unlikely]]
      return core.load(insn.segment, core.effective_address(insn), out);
    return core.load_aligned(insn.segment, core.effective_address(insn), out);
  } else {
    return core.load(insn.segment, core.effective_address(insn), out);
  }
}
/// A scalar of sizeof(T) bytes at the low end of a register or in memory; never aligned.
template <class T>
[[nodiscard]] inline bool fetch_scalar(Core& core, const Insn& insn, T& out) {
  if (!insn.memory) {
    out = read_element<T>(core, insn.rm);
    return true;
  }
  return core.load(insn.segment, core.effective_address(insn), out);
}

// ---- MMX registers: the significands of x87 R0..R7 (SDM vol. 1, 9.2) ----

/// What every MMX instruction but EMMS does to the x87 state: TOP = 0, all registers valid (SDM vol. 3, table 13-2).
inline void begin_mmx(Core& core) {
  core.s.x87.status = static_cast<std::uint16_t>(core.s.x87.status & ~0x3800);
  core.s.x87.tag = 0;
}
/// An x87 exception that waits to be taken comes before any MMX instruction (SDM vol. 3, 13.4).
template <Handler H>
Flow mmx_instruction(Core& core, const Insn& insn) {
  if (const Flow flow = x87_check_pending(core); flow != Flow::next) [[unlikely]]
    return flow;
  return H(core, insn);
}
inline Block<8> read_mmx(const Core& core, unsigned number) {
  return block_of(std::array<std::uint64_t, 1>{core.s.x87.registers[number & 7].significand});
}
/// Sign and exponent become all ones, so that the register reads as a NaN or infinity in x87 code.
inline void write_mmx(Core& core, unsigned number, std::uint64_t value) {
  core.s.x87.registers[number & 7] = {.significand = value, .sign_exponent = 0xFFFF};
}
inline void write_mmx(Core& core, unsigned number, const Block<8>& block) {
  write_mmx(core, number, lanes_of<std::uint64_t>(block)[0]);
}
[[nodiscard]] inline bool fetch_mmx(Core& core, const Insn& insn, Block<8>& out) {
  if (!insn.memory) {
    out = read_mmx(core, insn.rm);
    return true;
  }
  return core.load(insn.segment, core.effective_address(insn), out);
}

inline unsigned imm8(const Insn& insn) { return static_cast<std::uint8_t>(insn.imm); }

/// MASKMOVQ, MASKMOVDQU: stores at DS:rDI (the segment may be overridden) the bytes whose mask byte has its top bit
/// set. Only these can fault; all are checked before the first is written.
template <unsigned N>
[[nodiscard]] inline bool store_masked_bytes(Core& core, const Insn& insn, const Block<N>& value,
                                             const Block<N>& mask) {
  const auto address_of = [&](unsigned i) {
    const std::uint64_t ea = core.s.gpr[kRdi] + i;
    if (insn.addr_size == 8) return ea;
    return insn.addr_size == 4 ? std::uint64_t{static_cast<std::uint32_t>(ea)}
                               : std::uint64_t{static_cast<std::uint16_t>(ea)};
  };
  for (unsigned i = 0; i < N; ++i) {
    if ((mask.bytes[i] & 0x80) && !core.probe(insn.segment, address_of(i), 1, AccessKind::write)) return false;
  }
  for (unsigned i = 0; i < N; ++i) {
    if ((mask.bytes[i] & 0x80) && !core.store<std::uint8_t>(insn.segment, address_of(i), value.bytes[i])) return false;
  }
  return true;
}

/// All arithmetic flags at once; those not named become clear.
inline void set_flags(Core& core, std::uint64_t flags) {
  core.s.rflags = (core.s.rflags & ~std::uint64_t{kArithmeticFlags}) | flags;
}

}  // namespace husk::cpu::interp
