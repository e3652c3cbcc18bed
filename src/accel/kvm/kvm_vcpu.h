// husk: one virtual CPU on KVM
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "accel/kvm/kvm_accel.h"
#include "accel/kvm/registers.h"
#include "host/mmap.h"

namespace husk::accel {

class KvmVcpu final : public Vcpu, public core::CpuPins {
 public:
  static Result<std::unique_ptr<Vcpu>> create(KvmAccel& accel, VcpuDeps deps);
  ~KvmVcpu() override;

  Exit run() override;
  void kick() override { signal(kStop); }
  core::CpuPins& pins() override { return *this; }

  cpu::CpuState get_state() const override;
  Status set_state(const cpu::CpuState& state) override;
  Result<cpu::CpuState> export_state() const override;
  void reset(bool bootstrap) override;

  /// Breakpoints and watchpoints share the four debug registers of the processor; more are refused.
  Status set_debug(const cpu::DebugRequest& request) override;
  /// Port and memory-mapped I/O only: KVM does not show the rest.
  Status set_trace(TraceSink* sink, std::uint32_t categories) override;
  std::vector<PastEvent> past_events() const override { return {}; }
  std::uint64_t instructions() const override { return 0; }

  // core::CpuPins, any thread
  void interrupt_changed() override { signal(kInterrupt); }
  void nmi() override { signal(kNmi); }
  void smi() override {}  // no model offers SMM: dropped, as by a CPU with SMRAM disabled
  void init() override { signal(kInit); }
  void startup(std::uint8_t vector) override {
    sipi_vector_.store(vector, std::memory_order_relaxed);
    signal(kSipi);
  }

  /// Takes the thread out of the guest, if it is there, without telling it anything. Any thread.
  void leave_soon();

 private:
  enum Attention : std::uint32_t { kStop = 1, kInterrupt = 2, kNmi = 4, kInit = 8, kSipi = 16 };

  KvmVcpu(KvmAccel& accel, VcpuDeps deps);
  Status build();
  void signal(std::uint32_t bits);

  // ---- the loop ----
  /// What is due before each run.
  Status prepare();
  Exit loop();
  /// With look_for_end(), once a second.
  Exit loop_with_looks();
  /// Nothing, or why run() is to return.
  std::optional<Exit> attend();
  std::optional<Exit> enter();
  std::optional<Exit> after_run(int error);
  /// Tells husk's local APIC what the guest did to TPR and IA32_APIC_BASE.
  void follow_apic();
  std::optional<Exit> dispatch();
  void offer_interrupt();
  bool can_wake();
  /// With KVM's local APIC, where a CPU sleeps in the kernel: looks whether this CPU and all others wait for what
  /// cannot come.
  std::optional<Exit> look_for_end();
  void forget_hopeless();
  /// False: nothing ever will wake this CPU or any other.
  bool sleep();
  /// Has KVM complete the access that the last exit asked for, so that the state is that between two instructions.
  std::optional<Exit> settle();

  // ---- exits ----
  void port_io();
  void memory_io();
  void msr_exit(bool write);
  std::optional<Exit> debug_exit();
  Exit internal_error() const;
  Exit failed(std::string message, std::string next_step = {}) const;

  // ---- state ----
  cpu::Activity activity() const;
  Status set_activity(cpu::Activity activity);
  void take_tsc_offset();
  Status apply_tsc_offset();
  Status set_msrs(const cpu::CpuState& state);
  void take_all_msrs(cpu::CpuState& state) const;
  Status set_special(const cpu::CpuState& state);
  Status set_floating_point(const cpu::CpuState& state);
  /// set_state() without the signals and the clock, which only a state from outside brings.
  Status replace_state(const cpu::CpuState& state);
  Status set_events(const cpu::CpuState& state);
  void take_events(cpu::CpuState& state) const;
  /// The registers that KVM has beyond those of the neutral state, with what they hold.
  std::vector<kvm_msr_entry> other_msrs() const;
  void init_by_signal();
  void start_by_signal(std::uint8_t vector);
  /// `over`: the breakpoint at this address is left out, and one instruction is stepped.
  Status apply_debug(std::optional<std::uint64_t> over = std::nullopt);
  /// Where the CPU stands on a breakpoint that it has told of: that one must not stop it again.
  Status step_over_breakpoint();
  std::uint64_t linear_rip() const;

  KvmAccel& accel_;
  VcpuDeps deps_;
  host::UniqueFd fd_;
  host::Mmap area_;
  kvm_run* run_ = nullptr;
  kvm::XsaveLayout xsave_layout_;

  std::atomic<std::uint32_t> attention_{0};
  std::atomic<std::uint8_t> sipi_vector_{0};
  std::atomic<bool> in_guest_{false};
  std::atomic<int> thread_{0};

  std::vector<kvm_msr_entry> other_msrs_at_reset_;

  /// KVM's local APIC: the activity is KVM's too, and activity_ is `running` or `shutdown`.
  const bool kernel_apic_;
  unsigned hopeless_looks_ = 0;  ///< how often in a row look_for_end() found no way on
  std::int64_t last_look_ns_ = 0;
  cpu::Activity activity_ = cpu::Activity::running;
  bool halted_with_if_ = false;   ///< RFLAGS.IF when it halted
  /// An interrupt of husk's 8259s that KVM, whose local APIC it passes by, has perhaps not begun to deliver.
  std::optional<std::uint8_t> given_;
  bool can_inject_ = false;       ///< the guest can take an interrupt at once, as of the last exit
  bool access_open_ = false;      ///< KVM has yet to complete what the last exit asked for
  std::uint64_t apic_base_ = 0;   ///< as KVM has it
  std::uint64_t tsc_offset_ = 0;  ///< MsrState::tsc_offset
  cpu::DebugRequest debug_;
  bool debug_on_ = false;
  std::optional<std::uint64_t> told_breakpoint_;  ///< the breakpoint that run() returned for last
  bool stepping_over_ = false;
  TraceSink* trace_ = nullptr;
  std::uint32_t trace_categories_ = 0;

  std::mutex sleep_mutex_;
  std::condition_variable awake_;
};

}  // namespace husk::accel
