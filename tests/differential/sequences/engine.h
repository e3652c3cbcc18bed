// husk: the ways in which a software CPU can execute code, all of which must come to the same
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "cpu/interp/core.h"

namespace husk::differential {

/// What an engine is told, and tells, beside what the CPU does.
struct RunNotes {
  const std::uint8_t* ram;           ///< at physical 0
  std::uint64_t salt;                ///< random, the same for each run of a sequence
  bool string_wrote_itself = false;  ///< a string instruction wrote its own bytes between iterations: when that shows
                                     ///< is not laid down. Only the reference looks.
};

struct Engine {
  std::string_view name;
  /// Once, before anything runs.
  void (*prepare)(cpu::interp::Core&);
  /// Until an exception has led to shutdown, a HLT, or about `budget` instructions.
  cpu::interp::RunExit (*run)(cpu::interp::Core&, std::uint64_t budget, RunNotes& notes);
  /// What the manuals leave undefined may come out otherwise than in the interpreter.
  bool undefined_differs = false;
};

/// The first is the reference: every instruction decoded by itself.
std::span<const Engine> engines();
const Engine* engine_named(std::string_view name);

}  // namespace husk::differential
