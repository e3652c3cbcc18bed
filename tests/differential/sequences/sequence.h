// husk: a random sequence of instructions with branches among them, and how it is laid out in memory
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cpu/encode.h"
#include "cpu/insn.h"
#include "cpu/state.h"

namespace husk::differential {

/// What the CPU is in while a sequence runs.
enum class SequenceMode : std::uint8_t {
  user64,    ///< 64-bit code in ring 3
  kernel64,  ///< 64-bit code in ring 0
  user32,    ///< 32-bit code in ring 3 under long mode
  kernel32,  ///< 32-bit code in ring 0, paging without PAE
  user16,    ///< 16-bit protected-mode code in ring 3
  v86,
  real16,
};
inline constexpr SequenceMode kSequenceModes[] = {SequenceMode::user64,   SequenceMode::kernel64, SequenceMode::user32,
                                                  SequenceMode::kernel32, SequenceMode::user16,   SequenceMode::v86,
                                                  SequenceMode::real16};
std::string_view name_of(SequenceMode mode);
std::optional<SequenceMode> mode_named(std::string_view name);
constexpr cpu::CodeSize code_size_of(SequenceMode mode) {
  switch (mode) {
    case SequenceMode::user64:
    case SequenceMode::kernel64: return cpu::CodeSize::bits64;
    case SequenceMode::user32:
    case SequenceMode::kernel32: return cpu::CodeSize::bits32;
    default: return cpu::CodeSize::bits16;
  }
}
constexpr unsigned ring_of(SequenceMode mode) {
  return mode == SequenceMode::kernel64 || mode == SequenceMode::kernel32 || mode == SequenceMode::real16 ? 0 : 3;
}

/// One instruction, some of whose bytes may depend on where others lie.
struct Item {
  enum class Kind : std::uint8_t {
    plain,
    relative,    ///< branch displacement to `label`
    address,     ///< the immediate is the linear address of `label`, plus `extra`
    store,       ///< the memory operand, which has no base, is `label` plus `extra`
    rip_operand  ///< the memory operand is at linear address `extra`, relative to RIP
  } kind = Kind::plain;
  cpu::Insn insn;
  unsigned label = 0;       ///< number of an item, of those generated; one past the last: the end
  std::uint64_t extra = 0;  ///< address, store: added to the label's offset in its segment
};

/// 32 bytes of data that a sequence finds at a linear address.
struct DataPatch {
  std::uint64_t linear;
  std::uint8_t bytes[32];
};

struct Sequence {
  SequenceMode mode = SequenceMode::user64;
  std::uint64_t start = 0;  ///< linear address of the first instruction
  std::vector<Item> items;
  std::vector<bool> kept;  ///< items that are in: the shrinker takes others out
  std::vector<DataPatch> data;
  cpu::CpuState state;  ///< general, segment, flag, x87 and vector registers; RIP is set by assemble()
  bool writable_code = false;
  bool settle_flags = false;  ///< nothing may depend on flags that the manual leaves undefined
};

struct Program {
  std::vector<std::uint8_t> code;  ///< from Sequence::start on
  struct Place {
    std::uint64_t rip;  ///< offset in CS
    std::uint8_t length;
    std::uint16_t undefined_flags;  ///< of those before it
  };
  std::vector<Place> places;  ///< of each instruction, in order; the last is the UD2 that ends it
};
/// Lays out the items that are kept and ends them with UD2. Where flags that some instruction left undefined could be
/// read, or at branches, a CMP comes between if `settle_flags`. Nothing if a branch does not reach.
std::optional<Program> assemble(const Sequence& sequence);

/// Results that the manuals leave open, or state that not every way to execute keeps, like the x87's pointers: whoever
/// executes such a form may differ from others without being wrong.
bool result_is_open(std::uint16_t form);
/// Flags that are undefined behind an instruction, if `before` were before it.
std::uint16_t undefined_flags_after(std::uint16_t form, std::uint16_t before);

/// The instructions as text (Intel syntax, by Zydis), a line each with address and bytes.
std::string disassembly(const Sequence& sequence, const Program& program);

}  // namespace husk::differential
