// husk: how the forms of the instruction table are laid out in bytes; shared by the decoder and the encoder
#pragma once

#include <array>
#include <cstdint>

#include "cpu/insn.h"

namespace husk::cpu {

/// How 66 and REX.W / VEX.W make Insn::op_size.
enum class SizeClass : std::uint8_t {
  byte,   ///< 1
  four,   ///< 4, whatever the prefixes
  v,      ///< 2, 4 or 8
  z,      ///< 2 or 4
  y,      ///< 4 or 8; 66 does not count
  v_d64,  ///< v; in 64-bit mode 8, or 2 with 66
  v_f64,  ///< v; in 64-bit mode 8
  y_f64,  ///< 4; in 64-bit mode 8
};

enum class ImmKind : std::uint8_t { none, ib, ibs, iw, id, iz, iv, iq, moffs, ptr, is4, iw_ib, ib_ib };

/// Register numbers that are #UD whatever else the instruction says.
enum class RegisterCheck : std::uint8_t {
  none,
  creg,         ///< CR0, 2, 3, 4 and 8 exist
  dreg,         ///< DR0 to DR7
  sreg,         ///< ES to GS
  sreg_not_cs,  ///< a destination: not CS
  gather,       ///< VSIB: destination, index and mask differ (SDM vol. 2, VGATHERDPS: else #UD)
};

enum CodingFlag : std::uint16_t {
  kCodingModrm = 1u << 0,
  kCodingRegExtends = 1u << 1,  ///< REX.R counts (not for MMX and segment registers)
  kCodingRmExtends = 1u << 2,   ///< REX.B counts where rm is a register
  kCodingRegByte = 1u << 3,
  kCodingRmByte = 1u << 4,
  kCodingVsib = 1u << 5,
  kCodingVvvv = 1u << 6,  ///< VEX.vvvv is an operand
  kCodingVex = 1u << 7,
  kCodingModAny = 1u << 8,  ///< mod is ignored, rm is a register
  kCodingLock = 1u << 9,
  kCodingOpcodeRegister = 1u << 10,
};

/// What the decoder does after it has found the form.
struct DecodeForm {
  SizeClass size_class;
  ImmKind imm;
  RegisterCheck check;
  std::uint8_t imm2;  ///< for Insn::imm2: condition or fixed segment register
  std::uint16_t flags;
};

/// Opcode maps; the numbers of tools/insn_table.py.
enum OpcodeMap : std::uint8_t {
  kMapOneByte,
  kMap0F,
  kMap0F38,
  kMap0F3A,
  kMapVex0F,
  kMapVex0F38,
  kMapVex0F3A,
  kMapCount
};

/// Questions of the decision trees; the order of DIMENSIONS in tools/insn_table.py.
enum class DecodeKey : std::uint8_t { mod3, reg, prefix, l, w, op_size, addr_size, rex_b, rm };

/// Which values of each question a form takes: masks of bits, in the order of DecodeKey. The encoder works from it.
struct FormPattern {
  std::uint8_t map;
  std::uint8_t opcode;
  bool fixed_modrm;
  std::uint8_t mod3;  ///< bit 0: memory, bit 1: register
  std::uint8_t reg;
  std::uint8_t prefix;  ///< bits 0..3: none, 66, F3, F2
  std::uint8_t l;
  std::uint8_t w;
  std::uint8_t op_size;  ///< bits 0..2: 16, 32, 64
  std::uint8_t addr_size;
  std::uint8_t rex_b;
  std::uint8_t rm;
};

/// In a tree or root entry: 0 no such instruction, with bit 15 the offset of a node, else form index + 1. A node is a
/// word DecodeKey (bit 8: the opcode has ModRM) and one entry for each answer.
inline constexpr std::uint16_t kTreeNode = 0x8000;
inline constexpr std::uint16_t kTreeHasModrm = 0x100;

using OpcodeRoots = std::array<std::array<std::uint16_t, 256>, kMapCount>;
extern const DecodeForm kDecodeForms[];
extern const FormPattern kFormPatterns[];
extern const std::uint16_t kDecodeTree[];
/// [0]: 16 and 32-bit code, [1]: 64-bit code.
extern const std::array<OpcodeRoots, 2> kDecodeRoots;

}  // namespace husk::cpu
