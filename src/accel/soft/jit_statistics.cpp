// husk: the figures of a vCPU's JIT in the accelerator's terms
#include "accel/soft/jit_statistics.h"

#if HUSK_HAVE_JIT
#include <algorithm>
#include <map>

namespace husk::accel {

namespace jit = cpu::jit;

namespace {
/// Forms of one mnemonic together.
void add_by_mnemonic(std::vector<Figure>& out, const std::vector<std::uint64_t>& counts, std::string_view reason) {
  std::map<std::string_view, std::uint64_t> sums;
  for (std::size_t form = 0; form < counts.size(); ++form)
    if (counts[form]) sums[cpu::forms()[form].mnemonic] += counts[form];
  for (const auto& [mnemonic, count] : sums)
    out.push_back({.name = fmt::format("{} ({})", mnemonic, reason), .value = count});
}
}  // namespace

Doing doing_of(jit::Phase phase) {
  switch (phase) {
    case jit::Phase::run_loop: return Doing::run_loop;
    case jit::Phase::translated_code: return Doing::translated_code;
    case jit::Phase::translation: return Doing::translation;
    case jit::Phase::instruction: return Doing::instruction;
    case jit::Phase::look_up: return Doing::look_up;
    case jit::Phase::page_walk: return Doing::page_walk;
  }
  return Doing::unknown;
}

Statistics jit_statistics(const jit::Engine& engine, const cpu::interp::Core& core) {
  const jit::Statistics& s = engine.statistics();
  const jit::HotCounters& hot = engine.hot_counters();
  const auto left = [&](jit::Leave why) { return s.leaves[static_cast<std::size_t>(why)]; };
  std::uint64_t by_code = s.entries;
  for (const std::uint64_t count : s.leaves) by_code -= std::min(by_code, count);
  // The core counts what it executes itself, and one for each entry.
  const std::uint64_t single =
      core.instructions() - std::min(core.instructions(), s.entries + s.slow_accesses + s.interpreted_instructions);
  Statistics out;
  const auto put = [&](std::string name, std::uint64_t value, Figure::Unit unit = Figure::Unit::count) {
    out.figures.push_back({std::move(name), value, unit});
  };
  using enum Figure::Unit;
  put("translation/blocks", s.blocks);
  put("translation/guest instructions", s.instructions);
  put("translation/guest code", s.guest_bytes, bytes);
  put("translation/host code", s.hot_bytes, bytes);
  put("translation/host code out of line", s.cold_bytes, bytes);
  put("translation/blocks made anew, they run often", s.heated);
  put("translation/loops checked ahead", s.loops);
  put("translation/time", s.translation_ns, nanoseconds);
  put("code cache/in use", engine.code_bytes(), bytes);
  put("code cache/emptied", s.flushes);
  put("code cache/blocks dropped, their code was written", s.dropped);
  put("execution/translated instructions", hot.instructions);
  put("execution/interpreted for translated code", s.calls);
  put("execution/interpreted for a memory access", s.slow_accesses);
  put("execution/interpreted in blocks", s.interpreted_instructions);
  put("execution/interpreted singly", single);
  put("exits/into translated code", s.entries);
  put("exits/event seen by the code", by_code);
  put("exits/event", left(jit::Leave::event));
  put("exits/exception", left(jit::Leave::fault));
  put("exits/halt", left(jit::Leave::halted));
  put("exits/single steps and shadows", left(jit::Leave::stepping));
  put("exits/running code written", left(jit::Leave::code_dropped));
  put("exits/cache full", left(jit::Leave::cache_full));
  put("exits/code for the interpreter", left(jit::Leave::not_translated));
  put("jumps/links made", s.links);
  put("jumps/indirect ones not in the table", s.lookups);
  put("memory/slot misses", hot.slot_misses);
  put("memory/table misses", hot.table_misses);
  put("memory/misses that the page tables answer", s.misses);
  put("memory/page walks", core.page_walks());
  put("memory/operands that wander", s.wandering);
  put("memory/address space changes", s.spaces);
  put("memory/single pages flushed", s.pages);
  add_by_mnemonic(out.interpreted, s.calls_of, "not translated");
  add_by_mnemonic(out.interpreted, s.slow_of, "memory access");
  return out;
}

}  // namespace husk::accel
#endif
