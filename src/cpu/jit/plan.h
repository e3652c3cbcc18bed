// husk: how the translator treats each form of the instruction table
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/insn.h"
#include "cpu/model.h"

namespace husk::cpu::jit {

enum class Way : std::uint8_t {
  call,     ///< the interpreter's handler does it
  copy,     ///< the instruction again, with registers and the memory operand replaced
  nothing,  ///< hints
  lea,
  move_moffs_load,
  move_moffs_store,
  inc_dec_short,  ///< 40h to 4Fh, which are prefixes in the host's mode
  push_reg,
  push_imm,
  push_rm,
  pop_reg,
  pop_rm,
  leave,
  jcc,
  jmp,
  call_near,
  jmp_rm,
  call_rm,
  ret,
  loop,
  jcxz,
  div,
  idiv,
  sti,
  cli,
  string,  ///< REP MOVS and REP STOS
};

/// What a register field of the encoding names.
enum class Field : std::uint8_t { none, gpr, vector, opaque /* opcode digits, or not ours to change */ };

struct FormPlan {
  Way way = Way::call;
  Field reg = Field::none, rm = Field::none, vvvv = Field::none;
  bool modrm = false;
  bool opcode_reg = false;                     ///< operand Z: register in the opcode's low bits
  bool reg_read = false, reg_written = false;  ///< general registers only
  bool rm_read = false, rm_written = false;    ///< register or memory
  bool vvvv_read = false, vvvv_written = false;
  std::uint16_t implicit_written = 0;      ///< general registers that no field names, or more
  bool byte_reg = false, byte_rm = false;  ///< SPL to DIL need a REX
  bool vex = false;
  bool w_ignored = false;  ///< VEX.W, outside 64-bit mode
  bool uses_vectors = false;
  bool uses_x87 = false;         ///< or MMX; copied only while FCW masks all
  bool simd_exceptions = false;  ///< copied only while MXCSR masks all
  OperandSize memory_size = OperandSize::none;
};

/// One plan a form of forms(), for a guest of this model on a host with these features: forms that it lacks are
/// left to the interpreter.
std::vector<FormPlan> make_plans(const CpuModel& model, const FeatureSet& host);
/// What the host's CPUID tells.
FeatureSet host_features();

/// Bytes that the memory operand of a copied instruction covers.
unsigned memory_bytes(OperandSize size, const Insn& insn);

}  // namespace husk::cpu::jit
