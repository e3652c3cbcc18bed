// husk: the ways in which a software CPU can execute code, all of which must come to the same
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "cpu/interp/core.h"

namespace husk::differential {

/// What an engine is told, and tells, beside what the CPU does.
struct RunNotes {
  const std::uint8_t* ram;  ///< at physical 0
  std::uint64_t salt;       ///< random, the same for each run of a sequence
  // The rest only the reference tells.
  bool string_wrote_itself = false;   ///< between its iterations: when that shows is not laid down
  bool open = false;                  ///< an undefined flag was read, or a result is open: result_is_open()
  std::uint16_t undefined_flags = 0;  ///< now
};

struct Engine {
  std::string_view name;
  /// Once, before anything runs. What it gives back is kept as long as the core. Null, with code of its own wanted:
  /// this host cannot.
  std::unique_ptr<cpu::interp::CodeEngine> (*prepare)(cpu::interp::Core&);
  /// Until an exception has led to shutdown, a HLT, or about `budget` instructions.
  cpu::interp::RunExit (*run)(cpu::interp::Core&, std::uint64_t budget, RunNotes& notes);
  /// prepare() gives an engine; and what the manuals leave undefined may come out otherwise than in the interpreter.
  bool translates = false;
  /// Arithmetic flags that nothing reads before they are written again may be missing where a memory access or a
  /// division faults.
  bool drops_dead_flags = false;
};

/// The first is the reference: every instruction decoded by itself.
std::span<const Engine> engines();
const Engine* engine_named(std::string_view name);

}  // namespace husk::differential
