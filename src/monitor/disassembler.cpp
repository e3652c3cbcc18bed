// husk: disassembly by Zydis
#include "monitor/disassembler.h"

#include <Zydis/Zydis.h>

namespace husk::monitor {

DisassembledInsn disassemble(std::span<const std::uint8_t> bytes, std::uint64_t address, cpu::CodeSize code_size) {
  ZydisMachineMode mode = ZYDIS_MACHINE_MODE_LONG_64;
  if (code_size == cpu::CodeSize::bits32) mode = ZYDIS_MACHINE_MODE_LEGACY_32;
  if (code_size == cpu::CodeSize::bits16) mode = ZYDIS_MACHINE_MODE_LEGACY_16;
  ZydisDisassembledInstruction insn;
  if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, address, bytes.data(), bytes.size(), &insn))) return {1, "(bad)"};
  return {insn.info.length, insn.text};
}

}  // namespace husk::monitor
