// husk: makes random tests of any form of the instruction table
#pragma once

#include <string>
#include <vector>

#include "cpu/encode.h"
#include "dice.h"
#include "test_case.h"

namespace husk::differential {

/// Instructions that want more than random operands.
enum class Special : std::uint8_t {
  none,
  lea,
  maskmov,
  xlat,
  clzero,
  enter,
  leave,
  bit_string,
  fldenv,
  frstor,
  fxrstor,
  xsave,
  xrstor,
  ldmxcsr,
  popf,
  cmpxchg,
  cmpxchg8b,
  cmpxchg16b,
  ret,
  pcmpestr,
  divide,
  shift_cl,
  fbld,
};

/// What the generator must know of a form beside the table.
struct FormTraits {
  Special special = Special::none;
  bool reg_byte = false, rm_byte = false;  ///< may be AH to BH
  bool reg_sreg = false;                   ///< Insn::reg is a segment register
  bool stack = false;                      ///< uses RSP
  bool string_source = false, string_destination = false;
  bool single = false, real = false;  ///< lanes are floating-point
  bool vector = false, x87 = false;
  bool gather = false, gather_quad_index = false, gather_quad_data = false;
  bool relative = false;  ///< branch by displacement
  bool indirect = false;  ///< branch through E
  bool selector = false;  ///< loads or asks for a selector
  bool two_immediates = false;
  unsigned memory_size = 8;  ///< roughly, in bytes
  unsigned align = 1;        ///< that most tests should keep
};

class Generator {
 public:
  Generator(std::uint64_t seed, bool tiny_data);

  /// Fills in a test of the form to run at insn_address(..., set, index). False: the form cannot be made in that mode.
  bool make(std::uint16_t form, Mode mode, unsigned set, unsigned index, Test& test);

 private:
  bool choose_insn(std::uint16_t form, Test& test);
  void choose_registers(cpu::Insn& insn, const FormTraits& traits, const cpu::FormShape& shape, Mode mode);
  void choose_memory(cpu::Insn& insn, const cpu::FormShape& shape, Mode mode);
  std::uint64_t choose_linear(const Test& test, unsigned addr_size, unsigned size, unsigned align);
  bool solve_operand(Test& test);
  bool solve_segment(Test& test, unsigned segment, std::uint64_t linear, std::uint64_t ea);
  /// Sets a register so that [register + plus] is at `linear`.
  void point(Test& test, unsigned number, unsigned addr_size, std::uint64_t linear, std::uint64_t plus);
  bool solve_implicit(Test& test);
  void gather_operand(Test& test);
  /// Keeps away from what vendors do differently without either being wrong.
  void settle_vendors(Test& test);
  void fill_general(Test& test);
  void fill_fp(Test& test);
  void fill_x87(FpImage& image);
  void operand_values(Test& test);
  void lanes(std::uint8_t* out, unsigned size, const FormTraits& traits);
  void set_vector(Test& test, unsigned number);
  void poke(Test& test, std::uint64_t linear, const void* bytes, unsigned size);
  void poke_operand(Test& test, std::uint64_t linear, unsigned size);
  void poke_state(Test& test, std::uint64_t linear);
  bool choose_relative(Test& test);
  std::uint64_t branch_target(const Test& test);
  std::uint16_t selector();

  Dice dice_;
  bool tiny_data_;
  std::vector<FormTraits> traits_;
  std::vector<FpImage> images_;
};

}  // namespace husk::differential
