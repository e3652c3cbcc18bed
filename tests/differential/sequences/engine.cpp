// husk: the ways in which a software CPU can execute code, all of which must come to the same
#include "engine.h"

#include <algorithm>
#include <array>

namespace husk::differential {

namespace {

using cpu::interp::Core;
using cpu::interp::RunExit;

void nothing(Core&) {}

/// Where the instruction at CS:RIP lies, if in the first 64 KiB.
const std::uint8_t* code_at_rip(const Core& core, const RunNotes& notes) {
  constexpr std::uint64_t kAliases = 0x3000;  // arena::kCodeAlias over arena::kCode, with paging
  std::uint64_t linear = core.s.rip + (core.s.code64() ? 0 : core.s.seg[cpu::kCs].base);
  if ((core.s.cr0 & cpu::kCr0Pg) && linear - 0x5000 < kAliases) linear -= kAliases;
  return linear < 0xFFF0 ? notes.ram + linear : nullptr;
}

RunExit run_steps(Core& core, std::uint64_t budget, RunNotes& notes) {
  core.debug.single_step = true;
  RunExit exit = RunExit::quantum;
  for (const std::uint64_t end = core.instructions() + budget; core.instructions() < end;) {
    const std::uint64_t rip = core.s.rip;
    std::array<std::uint8_t, 15> before{};
    const std::uint8_t* const code = code_at_rip(core, notes);
    if (code) std::copy_n(code, before.size(), before.begin());
    exit = core.run(1);
    // The step that ended in shutdown was reported as a step.
    if (core.s.activity == cpu::Activity::shutdown) exit = RunExit::shutdown;
    if (exit != RunExit::debug) break;
    if (core.s.rip == rip && code && !std::equal(before.begin(), before.end(), code)) notes.string_wrote_itself = true;
    exit = RunExit::quantum;
  }
  core.debug.single_step = false;
  return exit;
}

RunExit run_whole(Core& core, std::uint64_t budget, RunNotes&) { return core.run(budget); }

/// In pieces of every length, so that each instruction is at times the last or the first.
RunExit run_pieces(Core& core, std::uint64_t budget, RunNotes& notes) {
  std::uint64_t salt = notes.salt;
  const std::uint64_t end = core.instructions() + budget;
  for (;;) {
    salt = salt * 0x5851F42D4C957F2D + 0x14057B7EF767814F;
    const RunExit exit = core.run(1 + (salt >> 33) % 23);
    if (exit != RunExit::quantum || core.instructions() >= end) return exit;
  }
}

// A new way to execute is one more line here.
constexpr Engine kEngines[] = {
    {"step", nothing, run_steps},
    {"block", nothing, run_whole},
    {"pieces", nothing, run_pieces},
};

}  // namespace

std::span<const Engine> engines() { return kEngines; }
const Engine* engine_named(std::string_view name) {
  for (const Engine& engine : kEngines)
    if (engine.name == name) return &engine;
  return nullptr;
}

}  // namespace husk::differential
