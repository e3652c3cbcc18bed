// husk: the local APIC of one CPU: xAPIC and x2APIC (Intel SDM vol. 3, chapter 11)
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "core/clock.h"
#include "core/cpu_ports.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/intc/apic_bus.h"
#include "devices/intc/apic_message.h"
#include "mem/lock_domain.h"

namespace husk::devices {

/// The local vector table, in the order of its registers 320h..370h.
enum class Lvt : std::uint8_t { timer, thermal, performance, lint0, lint1, error };

struct LocalApicState {
  std::uint64_t base = 0;  ///< IA32_APIC_BASE
  std::uint32_t task_priority = 0;
  std::uint32_t logical_destination = 0;
  std::uint32_t destination_format = 0xFFFF'FFFF;
  std::uint32_t spurious = 0xFF;
  std::uint32_t error_status = 0;   ///< what ESR reads
  std::uint32_t error_pending = 0;  ///< errors since the last write of ESR
  bool error_armed = true;          ///< the next error raises the LVT error interrupt
  std::uint32_t icr_low = 0;
  std::uint32_t icr_high = 0;
  std::array<std::uint32_t, 6> lvt{};
  std::array<std::uint64_t, 4> irr{};
  std::array<std::uint64_t, 4> isr{};
  std::array<std::uint64_t, 4> tmr{};
  std::uint32_t divide = 0;
  std::uint32_t initial_count = 0;
  std::uint64_t timer_start = 0;   ///< VmTime at which the count was first_count
  std::uint32_t first_count = 0;   ///< 0: the timer is not counting
  std::uint64_t timer_expiry = 0;  ///< counts after timer_start at which the next interrupt is due
  std::uint64_t tsc_deadline = 0;  ///< 0: disarmed
  std::array<bool, 2> lint{};
  bool ext_int = false;  ///< an ExtINT message has come and was not acknowledged
  static constexpr auto state() {
    using S = LocalApicState;
    using state::field;
    return std::tuple{field(1, "base", &S::base),
                      field(2, "task_priority", &S::task_priority).max(0xFF),
                      field(3, "logical_destination", &S::logical_destination),
                      field(4, "destination_format", &S::destination_format),
                      field(5, "spurious", &S::spurious).max(0x13FF),
                      field(6, "error_status", &S::error_status).max(0xFF),
                      field(7, "error_pending", &S::error_pending).max(0xFF),
                      field(8, "error_armed", &S::error_armed),
                      field(9, "icr_low", &S::icr_low),
                      field(10, "icr_high", &S::icr_high),
                      field(11, "lvt", &S::lvt).max(0x7FFFF),
                      field(12, "irr", &S::irr),
                      field(13, "isr", &S::isr),
                      field(14, "tmr", &S::tmr),
                      field(15, "divide", &S::divide).max(0xB),
                      field(16, "initial_count", &S::initial_count),
                      field(17, "timer_start", &S::timer_start),
                      field(18, "first_count", &S::first_count),
                      field(19, "timer_expiry", &S::timer_expiry),
                      field(20, "tsc_deadline", &S::tsc_deadline),
                      field(21, "lint", &S::lint),
                      field(22, "ext_int", &S::ext_int)};
  }
};

/// What decides which states are possible.
struct LocalApicLimits {
  bool x2apic = true;
  bool tsc_deadline = false;
  unsigned physical_bits = 46;
};
/// The state after power-on or a platform reset (SDM vol. 3, 11.4.7.1).
LocalApicState local_apic_reset_state(bool bootstrap);
/// What loading refuses beyond the ranges of the fields; `name` is for the message.
Status check_local_apic(const LocalApicState& incoming, const LocalApicLimits& limits, std::string_view name);

/// One local APIC. As a LineSink it has the pins 0 = LINT0 and 1 = LINT1.
///
/// Threads: interrupts are received (receive, set_pin) by any thread without a lock. Registers are accessed by the
/// owning CPU's thread; the timer's own registers under the domain, which is taken inside and which is the domain of
/// the clock. It may be of the CPU alone: nothing below it takes another lock while it is held.
class LocalApic : public core::StatefulDevice<LocalApicState>, public core::CpuInterrupts, public core::LineSink {
 public:
  static constexpr std::uint64_t kDefaultBase = 0xFEE0'0000;
  static constexpr std::uint64_t kBaseBsp = 1u << 8;
  static constexpr std::uint64_t kBaseX2apic = 1u << 10;
  static constexpr std::uint64_t kBaseEnable = 1u << 11;

  struct Deps {
    unsigned index = 0;    ///< of the vCPU: who in mem::Requester::cpu
    std::uint32_t id = 0;  ///< initial APIC id
    bool bootstrap = false;
    core::CpuPins& pins;
    core::Clock& clock;
    mem::LockDomain* domain = nullptr;  ///< to which `clock` belongs
    ApicBus& bus;
    /// The INTA cycle of the 8259; null if the machine has none. Called by the CPU's thread without locks.
    std::function<std::uint8_t()> ext_int_acknowledge = {};
    /// EOI of a level-triggered vector, for the I/O APICs. Called by the CPU's thread without locks.
    std::function<void(std::uint8_t vector)> eoi_broadcast = {};
    /// IA32_APIC_BASE was written with a new base or mode (ApicMmio follows it). May be null.
    std::function<void()> base_changed = {};
    std::uint64_t bus_hertz = core::kNanosecondsPerSecond;  ///< what the timer's divider divides
    /// The machine's time-stamp counter and its rate; null: no TSC-deadline mode.
    std::function<std::uint64_t()> read_tsc = {};
    std::uint64_t tsc_hertz = 0;
    bool x2apic = true;           ///< false: setting IA32_APIC_BASE.EXTD takes #GP
    unsigned physical_bits = 46;  ///< MAXPHYADDR
  };
  explicit LocalApic(Deps deps);
  ~LocalApic() override;

  // core::Device
  std::string_view state_id() const override { return state_id_; }
  void reset(core::ResetKind kind) override;

  // core::CpuInterrupts
  bool pending() override;
  std::optional<std::uint8_t> acknowledge() override;
  std::uint8_t task_priority() override { return static_cast<std::uint8_t>(task_priority_.load() >> 4); }
  void set_task_priority(std::uint8_t priority_class) override;
  std::uint64_t apic_base() override { return base_.load(); }
  bool set_apic_base(std::uint64_t value) override;
  std::optional<std::uint64_t> read_msr(std::uint32_t index) override;
  bool write_msr(std::uint32_t index, std::uint64_t value) override;
  void tsc_offset_changed(std::uint64_t offset) override;
  void cpu_init() override;

  // core::LineSink
  void set_pin(unsigned pin, bool level) override;
  void restore_pin(unsigned pin, bool level) override;

  /// The memory-mapped registers; `offset` within the page, `size` 1, 2 or 4. Owner's thread.
  std::uint32_t mmio_read(std::uint32_t offset, unsigned size);
  void mmio_write(std::uint32_t offset, std::uint32_t value, unsigned size);

  // For ApicBus; any thread.
  unsigned index() const { return deps_.index; }
  std::uint32_t id() const { return deps_.id; }
  bool is_target(const ApicMessage& message) const;
  /// Takes a message addressed to this APIC; false if it is disabled.
  bool receive(const ApicMessage& message);
  bool accepts_fixed() const { return enabled() && (spurious_.load() & kSpuriousEnable); }
  /// PPR (SDM vol. 3, 11.8.3.1).
  unsigned processor_priority() const;

  bool enabled() const { return base_.load() & kBaseEnable; }
  bool x2apic_mode() const { return (base_.load() & (kBaseEnable | kBaseX2apic)) == (kBaseEnable | kBaseX2apic); }

  /// A source inside the CPU: the performance counters, the thermal monitor. Any thread.
  void signal(Lvt entry);

 protected:
  void before_save() override;
  Status validate(const LocalApicState& incoming) const override {
    return check_local_apic(incoming, limits(), state_id_);
  }
  void after_load() override;

 private:
  static constexpr std::uint32_t kSpuriousEnable = 1u << 8;
  static constexpr std::uint32_t kSuppressEoiBroadcast = 1u << 12;

  /// 256 bits, one a vector.
  class VectorSet {
   public:
    /// True if the bit was clear.
    bool set(unsigned v) { return !(words_[v / 64].fetch_or(mask(v)) & mask(v)); }
    void clear(unsigned v) { words_[v / 64].fetch_and(~mask(v)); }
    bool test(unsigned v) const { return words_[v / 64].load() & mask(v); }
    /// The highest set bit or -1.
    int highest() const;
    std::uint32_t word32(unsigned n) const { return static_cast<std::uint32_t>(words_[n / 2].load() >> (n % 2 * 32)); }
    std::array<std::uint64_t, 4> get() const;
    void put(const std::array<std::uint64_t, 4>& words);

   private:
    static std::uint64_t mask(unsigned v) { return std::uint64_t{1} << (v % 64); }
    std::array<std::atomic<std::uint64_t>, 4> words_{};
  };

  std::optional<std::uint32_t> read_register(unsigned number);
  bool write_register(unsigned number, std::uint32_t value);
  bool reserved_bits_clear(unsigned number, std::uint64_t value) const;
  std::uint32_t lvt_mask(Lvt entry) const;
  LocalApicLimits limits() const { return {deps_.x2apic, static_cast<bool>(deps_.read_tsc), deps_.physical_bits}; }
  void write_spurious(std::uint32_t value);
  void write_lvt(Lvt entry, std::uint32_t value);
  void write_error_status();
  void send_ipi(std::uint32_t low, std::uint32_t destination);
  void send_self(std::uint8_t vector);
  void end_of_interrupt();
  std::uint64_t reset_base() const { return kDefaultBase | kBaseEnable | (deps_.bootstrap ? kBaseBsp : 0); }
  void reset_registers();
  void announce_if_pending();

  bool ext_int_ready() const;
  bool accept(std::uint8_t vector, bool level);
  void raise(Lvt entry, bool level = false);
  void report_error(std::uint32_t error);
  std::atomic<std::uint32_t>& lvt(Lvt entry) { return lvt_[static_cast<unsigned>(entry)]; }
  const std::atomic<std::uint32_t>& lvt(Lvt entry) const { return lvt_[static_cast<unsigned>(entry)]; }
  std::uint32_t logical_id() const;

  // The timer (local_apic_timer.cpp). All under the domain.
  enum class TimerMode { one_shot, periodic, tsc_deadline, reserved };
  static TimerMode mode_of(std::uint32_t lvt_timer) { return static_cast<TimerMode>((lvt_timer >> 17) & 3); }
  TimerMode timer_mode() const { return mode_of(lvt(Lvt::timer).load()); }
  unsigned divide_shift() const { return ((state_.divide & 3) + ((state_.divide >> 1) & 4) + 1) & 7; }
  std::uint64_t counts_elapsed() const;
  std::uint64_t cpu_tsc() const { return deps_.read_tsc() + tsc_offset_; }
  core::VmTime time_of_count(std::uint64_t counts) const;
  std::uint32_t current_count() const;
  void start_counting(std::uint32_t first);
  void continue_counting_from(std::uint32_t count);
  void write_initial_count(std::uint32_t value);
  void write_divide(std::uint32_t value);
  void write_timer_lvt(std::uint32_t value);
  void write_tsc_deadline(std::uint64_t value);
  void arm_timer();
  void timer_fired();

  Deps deps_;
  std::string state_id_;
  std::unique_ptr<core::Timer> timer_;

  std::atomic<std::uint64_t> base_{0};
  std::atomic<std::uint32_t> task_priority_{0};
  std::atomic<std::uint32_t> logical_destination_{0};
  std::atomic<std::uint32_t> destination_format_{0xFFFF'FFFF};
  std::atomic<std::uint32_t> spurious_{0xFF};
  std::atomic<std::uint32_t> error_pending_{0};
  std::atomic<bool> error_armed_{true};
  std::array<std::atomic<std::uint32_t>, 6> lvt_{};
  VectorSet irr_, isr_, tmr_;
  std::array<std::atomic<bool>, 2> lint_{};
  std::atomic<bool> ext_int_{false};
  std::uint64_t tsc_offset_ = 0;  ///< the CPU's own, which tells it anew before it runs; under the domain
};

}  // namespace husk::devices
