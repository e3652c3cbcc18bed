// husk: the accelerator on /dev/kvm
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "accel/kvm/irqchip.h"
#include "accel/kvm/memory_slots.h"
#include "accel/kvm/system.h"
#include "host/unique_fd.h"

namespace husk::accel {

class KvmVcpu;

struct KvmAccelDeps {
  kvm::System& system;  ///< outlives the accelerator
  mem::AddressSpace& memory;
  mem::AddressSpace& io;
  const core::Clock& clock;
  Log& log;
  kvm::IrqchipMode irqchip = kvm::IrqchipMode::off;
  kvm::LostTicks lost_ticks = kvm::LostTicks::discard;
};

/// Runs CPUs by the host's virtualization. Where the local APICs are husk's own (IrqchipMode::off), a CPU's interrupt
/// is given to KVM by KVM_INTERRUPT and an interrupt window; else KVM has the local APICs, with what wakes, starts and
/// interrupts a CPU, and whoever makes the machine connects the rest to irqchip().
class KvmAccel final : public Accelerator {
 public:
  static Result<std::unique_ptr<KvmAccel>> create(KvmAccelDeps deps);
  ~KvmAccel() override;

  std::string_view name() const override { return "kvm"; }
  Result<std::unique_ptr<Vcpu>> create_vcpu(VcpuDeps deps) override;
  Status add_ram(mem::RamRegion& region) override;
  /// KVM cannot mask address bit 20: a closed gate is ignored, as by every VMM on KVM.
  void set_a20(bool open) override;

  bool rings_doorbells() const override { return deps_.system.caps().io_eventfd; }
  void set_doorbells(std::vector<Doorbell> doorbells) override;

  /// Null: IrqchipMode::off.
  const std::shared_ptr<kvm::Irqchip>& irqchip() const { return irqchip_; }

  /// Sent to a vCPU's thread to take it out of the guest. Its handler does nothing; husk installs it with the first
  /// accelerator, and no other part of husk may use it.
  static int kick_signal();

 private:
  friend class KvmVcpu;

  explicit KvmAccel(KvmAccelDeps deps) : deps_(deps) {}
  Status start();
  void layout_changed();
  /// Has KVM ring each doorbell where it is now. layout_mutex_ is held.
  void place_doorbells();

  // ---- the way into the guest: closed while memory slots are exchanged ----
  /// False: slots are being exchanged; the caller waits with wait_for_gate() and tries again.
  bool enter_guest();
  void leave_guest();
  void wait_for_gate() { closed_.wait(true); }

  // ---- time ----
  /// Guest time runs from here on, if this is the first vCPU to run.
  void time_starts();
  void time_stops();
  /// What KVM's clock would be ahead of the VM's if guests ran on now, ns. While none runs.
  std::int64_t kvm_clock_offset() const {
    const core::VmTime now = deps_.clock.now();
    return kvm_clock_ > now ? static_cast<std::int64_t>(kvm_clock_ - now) : 0;
  }
  void set_kvm_clock_offset(std::int64_t offset) {
    kvm_clock_ = deps_.clock.now() + static_cast<std::uint64_t>(std::max<std::int64_t>(offset, 0));
  }
  /// Between the host's TSC and the machine's (VM time in ticks), as of the start of this run.
  std::uint64_t host_to_machine_tsc() const { return machine_tsc_at_start_ - host_tsc_at_start_; }

  KvmAccelDeps deps_;
  host::UniqueFd vm_;
  std::shared_ptr<kvm::Irqchip> irqchip_;
  std::unique_ptr<kvm::MemorySlots> slots_;
  std::mutex layout_mutex_;
  Error layout_error_;  ///< of the last exchange; under layout_mutex_
  std::atomic<bool> layout_failed_{false};
  struct Placed {
    mem::Gpa address;
    int eventfd;
    bool operator==(const Placed&) const = default;
  };
  std::vector<Doorbell> doorbells_;  ///< under layout_mutex_
  std::vector<Placed> placed_;       ///< as KVM has them; under layout_mutex_
  mem::AddressSpace::ChangeListener layout_listener_;
  std::vector<mem::RamRegion*> regions_;

  std::atomic<bool> closed_{false};
  std::atomic<unsigned> inside_{0};

  std::mutex vcpus_mutex_;
  std::vector<KvmVcpu*> vcpus_;
  std::atomic<unsigned> hopeless_{0};  ///< CPUs asleep that no interrupt can wake
  std::atomic<bool> told_a20_{false};

  std::mutex time_mutex_;
  unsigned running_ = 0;
  std::uint64_t tsc_hz_ = 0;
  std::uint64_t host_tsc_at_start_ = 0, machine_tsc_at_start_ = 0;
  /// What the host's TSC has gained on the VM clock, so that a guest's TSC never goes back when the machine goes on.
  std::uint64_t tsc_drift_ = 0;
  std::uint64_t kvm_clock_ = 0;  ///< at the last stop, ns
};

}  // namespace husk::accel
