// husk: the ways in which a software CPU can execute code, all of which must come to the same
#include "engine.h"

#include <algorithm>
#include <array>
#include <optional>

#include "machine.h"

#if HUSK_HAVE_JIT
#include "cpu/jit/engine.h"
#endif

namespace husk::differential {

namespace {

using cpu::interp::CodeEngine;
using cpu::interp::Core;
using cpu::interp::RunExit;

std::unique_ptr<CodeEngine> nothing(Core&) { return nullptr; }

#if HUSK_HAVE_JIT
std::unique_ptr<cpu::jit::Engine> made_jit(Core& core, cpu::jit::EngineOptions options) {
  Result<std::unique_ptr<cpu::jit::Engine>> engine = cpu::jit::Engine::create(core, options);
  if (!engine) return nullptr;
  core.set_engine(engine->get());
  return std::move(*engine);
}
/// Loops get their second form soon.
std::unique_ptr<CodeEngine> jit(Core& core) { return made_jit(core, {.heat = 2}); }
/// A cache that is soon full, and never more than one block from the run loop.
std::unique_ptr<CodeEngine> jit_single(Core& core) {
  auto engine = made_jit(core, {.code_bytes = std::size_t{1} << 20});
  if (engine) engine->set_single_block(true);
  return engine;
}
#endif

/// Where the instruction at CS:RIP lies, if in the first 64 KiB; machine.h, arena.
const std::uint8_t* code_at_rip(const Core& core, const RunNotes& notes) {
  std::uint64_t linear = core.s.rip + (core.s.code64() ? 0 : core.s.seg[cpu::kCs].base);
  if (core.s.code64() && (linear - arena::kHighUser < arena::kSize || linear - arena::kHighKernel < arena::kSize))
    linear &= arena::kSize - 1;
  if ((core.s.cr0 & cpu::kCr0Pg) && linear - arena::kCodeAlias < arena::kCodeSize)
    linear -= arena::kCodeAlias - arena::kCode;
  return linear < arena::kSize - 16 ? notes.ram + linear : nullptr;
}

/// Keeps account of flags that the manual leaves undefined, whatever code runs. Nothing if there is no instruction.
std::optional<std::uint16_t> account_for(const Core& core, const std::uint8_t* code, RunNotes& notes) {
  cpu::Insn insn{};
  if (!code) {
    notes.open = true;
    return {};
  }
  if (decode({code, 15}, core.code_size(), insn) != cpu::DecodeStatus::ok) return {};
  if (result_is_open(insn.form) || (cpu::forms()[insn.form].flags_read & notes.undefined_flags)) notes.open = true;
  return undefined_flags_after(insn.form, notes.undefined_flags);
}

RunExit run_steps(Core& core, std::uint64_t budget, RunNotes& notes) {
  core.debug.single_step = true;
  RunExit exit = RunExit::quantum;
  for (const std::uint64_t end = core.instructions() + budget; core.instructions() < end;) {
    const std::uint64_t rip = core.s.rip;
    std::array<std::uint8_t, 15> before{};
    const std::uint8_t* const code = code_at_rip(core, notes);
    if (code) std::copy_n(code, before.size(), before.begin());
    const std::optional<std::uint16_t> undefined = account_for(core, code, notes);
    exit = core.run(1);
    // The step that ended in shutdown was reported as a step.
    if (core.s.activity == cpu::Activity::shutdown) exit = RunExit::shutdown;
    if (exit != RunExit::debug) break;
    if (undefined) notes.undefined_flags = *undefined;
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
#if HUSK_HAVE_JIT
    {"jit", jit, run_whole, true, true},
    {"jit_single", jit_single, run_whole, true, true},
    {"jit_pieces", jit, run_pieces, true, true},
#endif
};

}  // namespace

std::span<const Engine> engines() { return kEngines; }
const Engine* engine_named(std::string_view name) {
  for (const Engine& engine : kEngines)
    if (engine.name == name) return &engine;
  return nullptr;
}

}  // namespace husk::differential
