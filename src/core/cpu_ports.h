// husk: the two sides of the wire bundle between a CPU core and its interrupt controller
#pragma once

#include <cstdint>
#include <optional>

namespace husk::core {

/// The CPU as interrupt controllers and the board see it. Thread-safe and lock-free: each call sets an atomic flag and
/// kicks the CPU out of guest code or sleep.
class CpuPins {
 public:
  virtual ~CpuPins() = default;
  /// The answer of CpuInterrupts::pending() may have changed to true.
  virtual void interrupt_changed() = 0;
  virtual void nmi() = 0;
  virtual void smi() = 0;
  virtual void init() = 0;
  /// Start-up IPI: begin at vector<<12 if waiting for it, else ignored.
  virtual void startup(std::uint8_t vector) = 0;
};

/// The interrupt controller as one CPU sees it: a local APIC, with the 8259 behind its LINT0. Called by that CPU's
/// thread only, without locks held; whatever locks are needed are taken inside.
class CpuInterrupts {
 public:
  virtual ~CpuInterrupts() = default;
  /// True if acknowledge() would deliver something now (priority above TPR/PPR). Cheap: atomics only.
  virtual bool pending() = 0;
  /// The INTA cycle: the vector, or nothing if it has gone away.
  virtual std::optional<std::uint8_t> acknowledge() = 0;

  /// CR8: task priority class, 0..15.
  virtual std::uint8_t task_priority() = 0;
  virtual void set_task_priority(std::uint8_t priority_class) = 0;
  /// IA32_APIC_BASE (MSR 1Bh). False: the write takes #GP(0).
  virtual std::uint64_t apic_base() = 0;
  virtual bool set_apic_base(std::uint64_t value) = 0;
  /// MSRs 800h..8FFh and IA32_TSC_DEADLINE (6E0h). Nothing or false: #GP(0).
  virtual std::optional<std::uint64_t> read_msr(std::uint32_t index) = 0;
  virtual bool write_msr(std::uint32_t index, std::uint64_t value) = 0;
  /// The CPU's time-stamp counter is the machine's plus `offset` now, for the TSC deadline.
  virtual void tsc_offset_changed(std::uint64_t offset) { (void)offset; }
  /// The CPU took INIT: what the APIC resets on it (SDM vol. 3, 11.4.7.3).
  virtual void cpu_init() = 0;
};

}  // namespace husk::core
