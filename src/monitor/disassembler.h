// husk: disassembly for reports, logs and the debugger (by Zydis)
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "cpu/insn.h"

namespace husk::monitor {

struct DisassembledInsn {
  unsigned length = 1;  ///< 1 for a byte that is no instruction
  std::string text;     ///< Intel syntax; "(bad)" for no instruction
};

/// The instruction at the start of `bytes`, which lies at `address`.
DisassembledInsn disassemble(std::span<const std::uint8_t> bytes, std::uint64_t address, cpu::CodeSize code_size);

}  // namespace husk::monitor
