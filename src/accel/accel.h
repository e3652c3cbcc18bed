// husk: the contract between a machine and whatever runs its CPUs
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "core/clock.h"
#include "core/cpu_ports.h"
#include "cpu/code_observer.h"
#include "cpu/debug.h"
#include "cpu/model.h"
#include "cpu/state.h"
#include "mem/address_space.h"

namespace husk::accel {

/// Why Vcpu::run() came back. Port and memory-mapped I/O never does: accelerators make those accesses themselves, on
/// the address spaces that they were given, so that a device cannot tell who runs the CPU.
struct Exit {
  enum class Reason : std::uint8_t {
    stopped,   ///< kick()
    shutdown,  ///< triple fault
    stuck,     ///< it and every other CPU wait with interrupts off: nothing can wake them but a debugger or a reset
    debug,     ///< breakpoint, watchpoint or step of the debugger; `address` tells which
    failed,    ///< the accelerator cannot go on; `error` says why
  } reason = Reason::stopped;
  std::uint64_t address = 0;
  Error error;
};

/// An exception, interrupt or NMI that a CPU took, for traces and crash reports.
struct PastEvent {
  enum class Kind : std::uint8_t { exception, software, interrupt, nmi } kind = Kind::exception;
  std::uint8_t vector = 0;
  bool has_error = false;
  std::uint32_t error = 0;
  std::uint64_t cr2 = 0;  ///< #PF only
  std::uint16_t cs = 0;   ///< of the instruction that faulted or was interrupted
  std::uint64_t rip = 0;
  std::uint64_t count = 0;  ///< instructions executed until then, 0 if the accelerator does not count
};

/// Receives what a CPU does, on that CPU's thread. Which calls come is chosen by category.
class TraceSink {
 public:
  enum Category : std::uint32_t { kExceptions = 1, kInterrupts = 2, kIo = 4, kMsr = 8, kMmio = 16, kExec = 32 };
  virtual ~TraceSink() = default;
  virtual void event(unsigned vcpu, const PastEvent& event) = 0;
  virtual void io(unsigned vcpu, bool write, std::uint16_t port, unsigned size, std::uint64_t value) = 0;
  virtual void mmio(unsigned vcpu, bool write, mem::Gpa address, unsigned size, std::uint64_t value) = 0;
  /// `fault`: the access took #GP.
  virtual void msr(unsigned vcpu, bool write, std::uint32_t index, std::uint64_t value, bool fault) = 0;
  /// Before each instruction.
  virtual void exec(unsigned vcpu, const cpu::CpuState& state) = 0;
};

/// One figure of what an accelerator did for a CPU since that was made, for reports. Those of several CPUs add up.
struct Figure {
  enum class Unit : std::uint8_t { count, bytes, nanoseconds };
  std::string name;  ///< "group/name"
  std::uint64_t value = 0;
  Unit unit = Unit::count;
};

/// In the order of a report; empty where an accelerator keeps none.
struct Statistics {
  std::vector<Figure> figures;
  std::vector<Figure> interpreted;  ///< instructions that were not translated, by mnemonic and reason
};

/// What a CPU's thread is at, for a profile by samples.
enum class Doing : std::uint8_t {
  unknown,          ///< the accelerator does not say
  idle,             ///< waits for an interrupt
  translated_code,  ///< runs translated guest code, or what that needs of no C++
  translation,      ///< translates
  instruction,      ///< interprets an instruction for translated code
  look_up,          ///< looks for the code of a jump's target
  page_walk,        ///< translates an address by the page tables
  run_loop,         ///< the rest: events, code that is not translated, pauses
};
inline constexpr std::size_t kDoings = 8;

/// One virtual CPU. run() is called by one thread, the CPU's own; kick() and the pins by any; the rest only while run()
/// is not running.
class Vcpu {
 public:
  virtual ~Vcpu() = default;
  /// Runs guest code, sleeping while the CPU is halted, until there is something for the caller.
  virtual Exit run() = 0;
  /// Makes the current run(), or else the next one, return `stopped` soon.
  virtual void kick() = 0;
  virtual core::CpuPins& pins() = 0;

  virtual cpu::CpuState get_state() const = 0;
  /// Also signals that have come (NMI, INIT, SIPI) are those of `state` from then on. Refuses by name what this CPU
  /// cannot hold; its state is then undefined.
  virtual Status set_state(const cpu::CpuState& state) = 0;
  /// get_state() for a move: all that another CPU of the same model, of whatever accelerator, needs to go on from here.
  /// Refuses by name what this one holds and CpuState has no place for.
  virtual Result<cpu::CpuState> export_state() const { return get_state(); }
  /// Power-on or platform reset; APs wait for SIPI.
  virtual void reset(bool bootstrap) = 0;

  virtual Status set_debug(const cpu::DebugRequest& request) = 0;
  virtual Status set_trace(TraceSink* sink, std::uint32_t categories) = 0;
  /// The newest exceptions and interrupts, oldest first; empty where the accelerator cannot know.
  virtual std::vector<PastEvent> past_events() const = 0;
  /// Instructions executed since reset; 0 where not counted.
  virtual std::uint64_t instructions() const = 0;
  virtual Statistics statistics() const { return {}; }
  /// From any thread, at any time.
  virtual Doing doing() const { return Doing::unknown; }
  /// Has `observer` (null: nobody) told of code that is translated from now on. It outlives the CPU.
  virtual Status observe_code(cpu::CodeObserver* observer) {
    if (!observer) return {};
    return std::unexpected(Error{"this accelerator translates no code that could be shown", "use accel=jit"});
  }
};

/// What a vCPU is connected to. All references outlive it.
struct VcpuDeps {
  unsigned index = 0;
  const cpu::CpuModel& model;
  core::CpuInterrupts& interrupts;
  /// The CPU's FERR# pin, asserted when an x87 exception is pending with CR0.NE clear; answers with IGNNE#, which lets
  /// x87 instructions through. Null: not wired, the CPU goes on. Accelerators that cannot tell do not call it.
  std::function<bool(bool asserted)> floating_point_error{};
};

/// A place of which a guest's writes, whatever their size and value, have one meaning that can come a little later.
struct Doorbell {
  const mem::IoHandler* handler = nullptr;  ///< wherever that is mapped
  std::uint64_t offset = 0;                 ///< in its mapping
  int eventfd = -1;                         ///< becomes readable; stays open as long as the accelerator lives
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual std::string_view name() const = 0;
  virtual Result<std::unique_ptr<Vcpu>> create_vcpu(VcpuDeps deps) = 0;
  /// To be called for each region before guests run: wires code tracking and dirty logging. May be called again, after
  /// another accelerator had the region; that one's end takes its wires away.
  virtual Status add_ram(mem::RamRegion& region) = 0;
  /// The A20 gate: `open` false forces bit 20 of physical addresses to zero.
  virtual void set_a20(bool open) = 0;
  /// Whether writes to doorbells can signal their eventfds, so that no CPU leaves the guest for them. Else, or where
  /// there are too many, the handler is called as ever.
  virtual bool rings_doorbells() const { return false; }
  virtual void set_doorbells(std::vector<Doorbell> doorbells) { (void)doorbells; }
};

}  // namespace husk::accel
