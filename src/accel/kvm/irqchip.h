// husk: KVM's own interrupt controllers and timer
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "accel/kvm/api.h"
#include "base/result.h"
#include "core/interrupt_line.h"
#include "host/unique_fd.h"

namespace husk::accel::kvm {

/// What of a local APIC's state is MSRs and no registers of its page.
inline constexpr std::uint32_t kMsrApicBase = 0x1B, kMsrTscDeadline = 0x6E0;

/// Which of a PC's interrupt controllers are KVM's.
enum class IrqchipMode : std::uint8_t {
  off,    ///< none
  split,  ///< the local APICs
  on,     ///< the local APICs, the I/O APIC, both 8259s and the 8254
};

/// What becomes of ticks of KVM's 8254 that a guest was too slow to take.
enum class LostTicks : std::uint8_t {
  discard,  ///< they are lost, as on real hardware
  delay,    ///< they come later, so that a guest that counts ticks keeps the time
};

/// The interrupt controllers of one VM that are in the kernel, as KVM shows them: which wires and messages go in, and
/// what their registers are. Any thread; shared, because whoever sends interrupts may live longer than the accelerator.
class Irqchip {
 public:
  static constexpr unsigned kPins = KVM_IOAPIC_NUM_PINS;
  /// In mode `on`: ISA interrupt n (0 to 15) is the line n, which ends at both controllers, with ISA interrupt 0 on pin
  /// 2 of the I/O APIC; pin n of the I/O APIC alone is the line kFirstPinLine + n.
  static constexpr unsigned kFirstPinLine = 32;

  /// Before any vCPU is made. Errors name what this KVM lacks and the next step.
  static Result<std::shared_ptr<Irqchip>> create(int vm, IrqchipMode mode, LostTicks lost_ticks);

  IrqchipMode mode() const { return mode_; }

  // ---- the vCPUs, whose local APICs these are ----
  /// `fd` stays open until remove_vcpu. Calls what on_new_vcpu() was given.
  void add_vcpu(unsigned index, int fd);
  void remove_vcpu(unsigned index);
  void on_new_vcpu(std::function<void(unsigned index)> told) { new_vcpu_ = std::move(told); }

  // ---- interrupts ----
  /// False if no local APIC took it.
  bool send(core::MsiMessage message);
  /// Mode `on`.
  void set_line(unsigned line, bool level);
  /// Mode `split`: the messages of the I/O APIC's level-triggered pins, by which KVM knows whose EOI husk wants to hear
  /// of. `messages` has kPins entries; one without data is a pin that sends none.
  Status set_level_messages(std::span<const core::MsiMessage> messages);
  /// Mode `split`: called by a CPU's thread at the EOI of a level-triggered vector.
  void on_eoi(std::function<void(std::uint8_t vector)> told) { eoi_ = std::move(told); }
  void end_of_interrupt(std::uint8_t vector) {
    if (eoi_) eoi_(vector);
  }

  // ---- registers; only while no vCPU runs. False: there is no such vCPU (yet), or KVM refuses ----
  bool get_lapic(unsigned index, kvm_lapic_state& state) const;
  bool set_lapic(unsigned index, const kvm_lapic_state& state) const;
  bool get_msr(unsigned index, std::uint32_t msr, std::uint64_t& value) const;
  bool set_msr(unsigned index, std::uint32_t msr, std::uint64_t value) const;
  /// `chip.chip_id` tells which.
  bool get_chip(kvm_irqchip& chip) const;
  bool set_chip(kvm_irqchip chip) const;
  /// `count_load_time` is here how many ns of the machine's time ago the count was loaded. While the machine stands,
  /// KVM's timer does too.
  bool get_pit(kvm_pit_state2& state) const;
  bool set_pit(kvm_pit_state2 state);
  /// The machine's time runs, or stands: for the timers. It stands at first.
  void time_starts();
  void time_stops();
  /// How long it has stood, in ns: so far have the timers of KVM's local APICs run on.
  std::uint64_t since_stop() const;

 private:
  Irqchip(host::UniqueFd vm, IrqchipMode mode) : vm_(std::move(vm)), mode_(mode) {}
  Status build_split();
  Status build_whole(LostTicks lost_ticks);
  int vcpu(unsigned index) const;
  bool get_pit_now(kvm_pit_state2& state) const;
  bool set_pit_now(kvm_pit_state2 state) const;

  host::UniqueFd vm_;
  IrqchipMode mode_;
  std::function<void(unsigned)> new_vcpu_;
  std::function<void(std::uint8_t)> eoi_;
  mutable std::mutex mutex_;
  std::vector<int> vcpus_;                        ///< descriptors by index, -1: none; under mutex_
  std::vector<core::MsiMessage> level_messages_;  ///< as KVM has them; under mutex_
  bool time_stands_ = true;                       ///< under mutex_
  std::int64_t stopped_at_ = 0;                   ///< by the host's clock; 0: it has never run; under mutex_
  kvm_pit_state2 standing_{};                     ///< the timer while time stands; under mutex_
};

}  // namespace husk::accel::kvm
