// husk: figures of one vCPU's JIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace husk::cpu::jit {

/// Why C++ ended a run of translated code. A run that ends without any was ended by that code itself, which saw an
/// event waiting at a back edge or an indirect jump.
enum class Leave : std::uint8_t {
  fault,           ///< an exception is to be delivered
  event,           ///< an interrupt, a stop or another request is waiting
  halted,          ///< HLT, MWAIT, shutdown
  stepping,        ///< single step, interrupt shadow, debug registers
  code_dropped,    ///< code that was just written may have been the running one
  cache_full,      ///< the cache is to be emptied
  not_translated,  ///< what follows is for the interpreter
};
inline constexpr std::size_t kLeaves = 7;

/// What the vCPU's thread is at, for samples from another thread.
enum class Phase : std::uint8_t { run_loop, translated_code, translation, instruction, look_up, page_walk };

/// Figures of one vCPU's JIT since it was made. All are counted on cold paths; those that would cost time in
/// translated code are in HotCounters.
struct Statistics {
  std::uint64_t blocks = 0;                     ///< translated
  std::uint64_t instructions = 0;               ///< translated
  std::uint64_t guest_bytes = 0;                ///< translated
  std::uint64_t hot_bytes = 0, cold_bytes = 0;  ///< of host code made
  std::uint64_t translation_ns = 0;
  std::uint64_t entries = 0;                   ///< into translated code from the run loop
  std::uint64_t calls = 0;                     ///< handlers called from translated code
  std::uint64_t slow_accesses = 0;             ///< instructions left to the interpreter for a memory access
  std::uint64_t misses = 0;                    ///< of the TLB
  std::uint64_t heated = 0;                    ///< blocks given their second form
  std::uint64_t loops = 0;                     ///< translated with rounds that are checked ahead
  std::uint64_t wandering = 0;                 ///< memory operands given the other form of look-up
  std::uint64_t links = 0;                     ///< direct jumps resolved
  std::uint64_t lookups = 0;                   ///< indirect jumps that missed the jump table
  std::uint64_t spaces = 0;                    ///< changes of address space, or flushes of all of it
  std::uint64_t pages = 0;                     ///< single pages flushed
  std::uint64_t flushes = 0;                   ///< of the whole code cache
  std::uint64_t dropped = 0;                   ///< blocks dropped because their guest code was written
  std::uint64_t interpreted_blocks = 0;        ///< run by the interpreter, as what is there cannot be translated
  std::uint64_t interpreted_instructions = 0;  ///< in them
  std::array<std::uint64_t, kLeaves> leaves{};
  std::vector<std::uint64_t> calls_of, slow_of;  ///< [form]: parts of calls and slow_accesses
};

/// Counted by translated code itself, and only if asked for when the engine is made.
struct HotCounters {
  std::uint64_t instructions;  ///< of the blocks that were entered
  std::uint64_t slot_misses;
  std::uint64_t table_misses;  ///< neither slot nor table had the page
};

/// Marks the phase as long as it lives; translated code goes on behind it.
class PhaseMark {
 public:
  PhaseMark(std::atomic<Phase>& phase, Phase now) : phase_(phase), before_(phase.load(std::memory_order_relaxed)) {
    phase_.store(now, std::memory_order_relaxed);
  }
  ~PhaseMark() { phase_.store(before_, std::memory_order_relaxed); }
  PhaseMark(const PhaseMark&) = delete;
  PhaseMark& operator=(const PhaseMark&) = delete;

 private:
  std::atomic<Phase>& phase_;
  Phase before_;
};

}  // namespace husk::cpu::jit
