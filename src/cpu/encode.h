// husk: the encoder: an Insn back to bytes, for tests of every form and for generated code
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "cpu/insn.h"

namespace husk::cpu {

/// Which operands a form takes in a code size; what one needs to make up random instructions of it.
struct FormShape {
  bool exists = false;            ///< in this code size
  bool modrm = false;             ///< has a ModRM byte
  bool memory = false;            ///< ModRM.rm may be memory
  bool register_rm = false;       ///< ModRM.rm may be a register
  bool free_reg = false;          ///< Insn::reg is the caller's choice (ModRM.reg or opcode)
  bool free_rm = false;           ///< so is Insn::rm where it is a register
  bool vvvv = false;              ///< Insn::vvvv is an operand
  bool vsib = false;              ///< the index is a vector register and must be given
  std::uint8_t op_sizes = 0;      ///< possible Insn::op_size, as a mask of 1, 2, 4, 8
  std::uint8_t addr_sizes = 0;    ///< possible Insn::addr_size, as a mask of 2, 4, 8
  std::uint8_t vector_sizes = 0;  ///< possible Insn::vector_bytes, as a mask of 16, 32
};
FormShape shape_of(std::uint16_t form, CodeSize code_size);

/// A valid instruction of the form with plain operands: registers where it takes them, else memory at [rBX]. Change
/// what you like in it (operands, sizes, immediates, segment, lock, rep) and encode it. Nothing if the form does not
/// exist in that code size.
std::optional<Insn> example(std::uint16_t form, CodeSize code_size);

struct EncodedInsn {
  std::array<std::uint8_t, 15> bytes{};
  std::uint8_t length = 0;
  std::span<const std::uint8_t> span() const { return {bytes.data(), length}; }
};

/// The shortest encoding of the instruction by insn.form: decode() gives the same form, operands, sizes, immediates and
/// prefixes back. handler and length are not looked at; vector_bytes and rex_w only where the form leaves them open.
/// Nothing if there is none: AH with REX, R8 outside 64-bit mode, an address or operand size that the form has not, an
/// override of DS in 64-bit mode, bytes that would mean another form (XCHG EAX,EAX).
std::optional<EncodedInsn> encode(const Insn& insn, CodeSize code_size);

}  // namespace husk::cpu
