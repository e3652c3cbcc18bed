// husk: a software CPU with a little memory in which sequences run, and what came of each
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/cpu_ports.h"
#include "cpu/interp/core.h"
#include "engine.h"
#include "mem/ram_region.h"
#include "sequence.h"
#include "testing/manual_clock.h"

namespace husk::differential {

/// Linear addresses, all below 64 KiB so that 16-bit code reaches them; the same physical ones. In 64-bit modes the
/// data is seen at kHighUser or kHighKernel too. With paging nothing else is mapped.
namespace arena {
inline constexpr std::uint64_t kSize = 0x10000;
inline constexpr std::uint64_t kCode = 0x2000, kCodeSize = 0x3000;
inline constexpr std::uint64_t kCodeAlias =
    0x5000;  ///< the same code by another linear address; plain RAM in real mode
inline constexpr std::uint64_t kData = 0x8000, kWritable = 0x2000, kReadOnly = 0x1000;  ///< then a page that is absent
inline constexpr std::uint64_t kStack = 0xC000, kStackSize = 0x2000;
inline constexpr std::uint64_t kCounters = 0xDF00;        ///< of loops; above the stack's use
inline constexpr std::uint64_t kOtherPrivilege = 0xE000;  ///< supervisor page in ring 3, user page in ring 0
inline constexpr std::uint64_t kGdt = 0xF000;
inline constexpr std::uint64_t kHighUser = 0x0000'7FFF'4321'0000, kHighKernel = 0xFFFF'8765'4321'0000;
}  // namespace arena

/// The CPU at an exception, a HLT, or the end.
struct Snapshot {
  enum class Why : std::uint8_t { exception, halt, end, budget } why = Why::end;
  cpu::interp::Event event;
  cpu::CpuState state;
  std::uint64_t memory = 0;           ///< hash of the arena
  std::uint16_t undefined_flags = 0;  ///< that do not count
};
struct Run {
  std::vector<Snapshot> snapshots;
  std::vector<std::uint8_t> memory;  ///< the arena and the page tables at the end
  bool over_budget = false;
  bool ambiguous = false;  ///< nobody has to agree: RunNotes::string_wrote_itself
  bool open = false;       ///< who translates need not agree: RunNotes::open
  std::uint64_t instructions = 0;
};

class SequenceMachine {
 public:
  explicit SequenceMachine(const Engine& engine);
  /// Arithmetic flags do not count where an operand faults: Engine::drops_dead_flags of whatever this is compared with.
  void ignore_flags_at_faults(bool on) { ignore_flags_at_faults_ = on; }
  /// From the sequence's start state to its UD2, or until control is somewhere else. Exceptions are noted and the
  /// instruction is left out. `budget`: instructions, roughly.
  /// `reference`: the run to be compared with, if this is not it.
  void run(const Sequence& sequence, const Program& program, std::uint64_t budget, const Run* reference, Run& out);
  /// False: the engine needs what this host does not allow.
  bool usable() const { return code_engine_ || !engine_.translates; }

 private:
  struct NoInterrupts final : core::CpuInterrupts {
    bool pending() override { return false; }
    std::optional<std::uint8_t> acknowledge() override { return {}; }
    std::uint8_t task_priority() override { return priority; }
    void set_task_priority(std::uint8_t p) override { priority = p; }
    std::uint64_t apic_base() override { return 0xFEE00900; }
    bool set_apic_base(std::uint64_t) override { return true; }
    std::optional<std::uint64_t> read_msr(std::uint32_t) override { return {}; }
    bool write_msr(std::uint32_t, std::uint64_t) override { return false; }
    void cpu_init() override {}
    std::uint8_t priority = 0;
  };
  /// Keeps the first exception; what follows is the absent IDT's.
  struct FirstException final : cpu::interp::TraceSink {
    void exception(const cpu::interp::Core&, const cpu::interp::Event& e) override {
      if (!seen) event = e;
      seen = true;
    }
    void interrupt(const cpu::interp::Core&, const cpu::interp::Event&) override {}
    void io(const cpu::interp::Core&, bool, std::uint16_t, unsigned, std::uint64_t) override {}
    void mmio(const cpu::interp::Core&, bool, std::uint64_t, unsigned, std::uint64_t) override {}
    void msr(const cpu::interp::Core&, bool, std::uint32_t, std::uint64_t, bool) override {}
    void exec(const cpu::interp::Core&, const cpu::Insn&) override {}
    bool seen = false;
    cpu::interp::Event event;
  };

  void build_tables(std::uint64_t root, bool long_mode, bool user);
  void set_up(const Sequence& sequence, const Program& program);
  void snapshot(Snapshot::Why why, std::vector<Snapshot>& to);
  /// Goes on behind the exception. False: the run is over.
  bool resume(const Program& program, Snapshot& last, unsigned count);

  Engine engine_;
  std::unique_ptr<mem::RamRegion> ram_;
  std::vector<std::uint8_t> pristine_;
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  mem::Mapping mapping_;
  NoInterrupts interrupts_;
  testing::ManualClock clock_;
  Log log_;
  cpu::CpuModel model_;
  FirstException first_;
  bool ignore_flags_at_faults_ = false;
  std::unique_ptr<cpu::interp::Core> core_;
  std::unique_ptr<cpu::interp::CodeEngine> code_engine_;
  std::uint64_t tables_ = 0;  ///< those of the running sequence
};

/// What differs between two runs of a sequence, a line each; empty if nothing. `reference` and `subject` name them.
std::vector<std::string> differences(const Run& reference, const Run& subject, const Engine& engine);

}  // namespace husk::differential
