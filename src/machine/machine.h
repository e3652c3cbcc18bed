// husk: a whole machine: board, accelerator, vCPU threads, and its life
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "accel/accel.h"
#include "base/log.h"
#include "base/result.h"
#include "boot/boot_image.h"
#include "core/backends.h"
#include "cpu/model.h"
#include "host/event_loop.h"
#include "machine/micro_board.h"
#include "machine/vm_clock.h"

namespace husk::machine {

/// Something that the machine's owner must decide on. Told on the loop's thread, with the machine paused.
struct MachineEvent {
  enum class Kind : std::uint8_t {
    power_off,     ///< the guest switched itself off (ACPI S5)
    reset,         ///< the guest asked for a reset, and the machine does not do it by itself (no_reboot)
    guest_panic,   ///< a panic device was told
    debug_exit,    ///< isa-debug-exit; `status` is the exit status asked for
    triple_fault,  ///< of CPU `vcpu`; its state is as it was at the last fault
    debug,         ///< the debugger's breakpoint, watchpoint or step on CPU `vcpu`
    stuck,         ///< every CPU halted with interrupts off: nothing can ever wake them
    io_error,      ///< a disk's error policy says stop; resume() tries the request again. `cause` tells which
    failed,        ///< the accelerator gave up; `error` says why
  } kind = Kind::power_off;
  unsigned vcpu = 0;
  int status = 0;
  std::uint64_t address = 0;  ///< debug: of the breakpoint or watchpoint
  std::string cause;          ///< reset: what asked for it; io_error: what went wrong
  Error error;
};

/// What is loaded into a board at power-on and again after each reset.
using BootLoader = std::function<Result<boot::LoadedGuest>(mem::GuestMemory& memory, const MicroBoard& board)>;

struct MachineOptions {
  MicroBoard::Config board;
  std::string accelerator = "interp";  ///< or "jit", "kvm"
  std::string kvm_device = "/dev/kvm";
  KernelIrqchip kernel_irqchip = KernelIrqchip::automatic;  ///< KVM only
  LostTicks lost_ticks = LostTicks::delay;                  ///< of KVM's 8254
  cpu::CpuModel cpu_model;
  bool warn_of_missing_features = true;  ///< one line about what the accelerator had to leave out of the model
  bool statistics = false;               ///< have the accelerator count what costs time to count
  bool no_reboot = false;
  /// A triple fault resets the machine, as real boards do; else it is reported as an event.
  bool reset_on_triple_fault = false;
  std::optional<std::int64_t> wall_clock_base;  ///< see VmClock
  BootLoader boot;                              ///< none: the CPU starts at the reset vector
};

/// Created, driven and destroyed on the thread that runs the loop (or while none does).
class Machine final : private core::MachineControl {
 public:
  using EventHandler = std::function<void(const MachineEvent&)>;

  static Result<std::unique_ptr<Machine>> create(host::EventLoop& loop, Log& log, MachineOptions options,
                                                 EventHandler on_event);
  ~Machine() override;

  /// Lets the CPUs and time run. If called while pause() still waits, that one ends by it.
  void resume();
  /// Stops them; returns when every vCPU has left guest code, time stands, and the devices have finished what was under
  /// way: nothing changes the guest's memory until resume(). Runs the loop meanwhile. A device that does not finish in
  /// kDrainLimitNs (a file system that does not answer) is left at it, with a warning; see quiet().
  void pause();
  bool running() const { return running_; }
  /// Paused, and no device has anything under way.
  bool quiet() const { return !running_ && draining_->empty(); }
  static constexpr std::uint64_t kDrainLimitNs = 5'000'000'000;
  /// Platform reset, with the kernel loaded anew. The machine runs on if it ran.
  Status reset();
  /// The user's power button.
  void press_power_button();

  unsigned cpu_count() const { return static_cast<unsigned>(vcpus_.size()); }
  /// Only while paused.
  accel::Vcpu& vcpu(unsigned index) { return *vcpus_[index]->vcpu; }
  /// Carries the guest to another accelerator: "interp", "jit" or "kvm". It may run: it is stopped for a moment, and
  /// sees nothing but that moment. The CPU model stays. What the other one lacks, or cannot hold of the CPUs' state, is
  /// refused by name, and the guest goes on where it was. Objects that vcpu() gave are gone after it.
  Status set_accelerator(const std::string& name);
  /// Called when all CPUs have been made anew, paused: debuggers and traces have their requests to repeat. An error
  /// keeps the machine on its old CPUs, and it is called once more for those. Stays until the machine is gone.
  void on_new_cpus(std::function<Status()> repeat) { on_new_cpus_.push_back(std::move(repeat)); }
  mem::AddressSpace& memory_space() { return board_->memory_space(); }
  mem::AddressSpace& io_space() { return board_->io_space(); }
  MicroBoard& board() { return *board_; }
  VmClock& clock() { return clock_; }
  /// What was loaded last; null if the machine boots from its ROM.
  const boot::LoadedGuest* guest() const { return guest_ ? &*guest_ : nullptr; }
  /// The model as the guest has it: on KVM cut to what the host can do.
  const cpu::CpuModel& cpu_model() const { return options_.cpu_model; }
  std::string_view accelerator_name() const { return accelerator_->name(); }

 private:
  /// The wire bundle to a CPU that is made after its interrupt controller, and may go before it: devices whose requests
  /// end while they are taken down still raise interrupts.
  struct PinsForwarder final : core::CpuPins {
    void interrupt_changed() override { tell(&core::CpuPins::interrupt_changed); }
    void nmi() override { tell(&core::CpuPins::nmi); }
    void smi() override { tell(&core::CpuPins::smi); }
    void init() override { tell(&core::CpuPins::init); }
    void startup(std::uint8_t vector) override { tell(&core::CpuPins::startup, vector); }
    template <class... Arguments>
    void tell(void (core::CpuPins::*what)(Arguments...), Arguments... arguments) {
      if (core::CpuPins* const cpu = target.load()) (cpu->*what)(arguments...);
    }
    std::atomic<core::CpuPins*> target = nullptr;
  };
  struct VcpuSlot {
    std::unique_ptr<accel::Vcpu> vcpu;
    std::thread thread;
    bool parked = true;  ///< not in run(); under mutex_
    bool held = false;   ///< an exit of it waits to be handled; under mutex_
  };

  Machine(host::EventLoop& loop, Log& log, MachineOptions options, EventHandler on_event);
  struct Kvm;
  Status build();
  Status open_kvm();
  /// Cuts the CPU model to what KVM on this host can do.
  Status adapt_model();
  /// Whether the interrupt controllers of a machine on this accelerator are husk's own.
  bool has_own_interrupts(const std::string& accelerator) const;
  struct Cpus;
  /// An accelerator, and the interrupt controllers that go with it where the board's are others.
  Result<Cpus> make_accelerator(const std::string& name, Interrupts::Deps deps);
  /// CPUs in the state of reset; nothing of the machine refers to them yet.
  Status make_vcpus(Cpus& of);
  /// Puts them in the place of those that the machine has, which are left in `cpus`.
  void exchange_cpus(Cpus& cpus);
  Status check_move(const std::string& accelerator);
  /// `later`: on an error, whether it may be gone a few instructions later.
  Status move_cpus(const std::string& accelerator, bool& later);
  Status copy_cpu_state(Cpus& to);
  Status load_guest();
  void vcpu_main(unsigned index);
  void stop_vcpus();
  /// pause() without giving up the owner's wish to run.
  void stop_cpus();
  void drain_devices();
  /// Keeps the CPUs from running on and has `handle` called on the loop's thread with the machine paused.
  void interrupt_with(std::function<void()> handle);
  void handle_exit(unsigned index, const accel::Exit& exit);
  void raise_event(MachineEvent event);

  // core::MachineControl, on any thread
  void request_reset(const char* cause) override;
  void request_shutdown(Shutdown kind, int status) override;
  void set_a20(bool enabled) override;
  /// On any thread.
  void request_stop(const std::string& cause);

  host::EventLoop& loop_;
  Log& log_;
  MachineOptions options_;
  EventHandler on_event_;
  VmClock clock_;
  std::vector<std::unique_ptr<PinsForwarder>> pins_;
  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<MicroBoard> board_;
  std::unique_ptr<accel::Accelerator> accelerator_;
  std::optional<boot::LoadedGuest> guest_;
  std::atomic<bool> a20_{true};
  bool running_ = false;
  static constexpr unsigned kMostResetsTold = 20;
  unsigned resets_told_ = 0;
  unsigned draining_depth_ = 0;
  /// The devices that have something under way, of the last stop. Their threads, too, take them out.
  struct Draining {
    bool empty() const {
      const std::lock_guard lock(mutex);
      return left.empty();
    }
    mutable std::mutex mutex;
    std::set<std::string, std::less<>> left;
  };
  std::shared_ptr<Draining> draining_ = std::make_shared<Draining>();
  std::vector<std::function<Status()>> on_new_cpus_;
  bool wanted_running_ = false;  ///< what the owner asked for last; resets and events stop the CPUs without changing it

  std::mutex mutex_;
  std::condition_variable changed_;
  bool may_run_ = false;  ///< under mutex_
  bool quit_ = false;     ///< under mutex_
  /// Posted work finds out here that the machine is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::vector<std::unique_ptr<VcpuSlot>> vcpus_;
};

}  // namespace husk::machine
