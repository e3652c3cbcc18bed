// husk: a machine's life
#include "machine/machine.h"

#include "accel/soft/soft_accel.h"
#include "machine/entry.h"
#if HUSK_HAVE_KVM
#include "accel/kvm/kvm_accel.h"
#endif

namespace husk::machine {

#if HUSK_HAVE_KVM
struct Machine::Kvm {
  std::unique_ptr<accel::kvm::System> system;
};
#else
struct Machine::Kvm {};
#endif

Result<std::unique_ptr<Machine>> Machine::create(host::EventLoop& loop, Log& log, MachineOptions options,
                                                 EventHandler on_event) {
  std::unique_ptr<Machine> machine(new Machine(loop, log, std::move(options), std::move(on_event)));
  HUSK_TRY(machine->build());
  return machine;
}

Machine::Machine(host::EventLoop& loop, Log& log, MachineOptions options, EventHandler on_event)
    : loop_(loop),
      log_(log),
      options_(std::move(options)),
      on_event_(std::move(on_event)),
      clock_(loop, options_.wall_clock_base) {}

Machine::~Machine() {
  *alive_ = false;
  pause();
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  for (auto& slot : vcpus_)
    if (slot->thread.joinable()) slot->thread.join();
}

Status Machine::open_kvm() {
#if HUSK_HAVE_KVM
  kvm_ = std::make_unique<Kvm>(HUSK_TRY(accel::kvm::System::open(options_.kvm_device)));
  Log silent;
  options_.cpu_model = HUSK_TRY(
      kvm_->system->adapt(std::move(options_.cpu_model), options_.warn_of_missing_features ? log_ : silent));
  return {};
#else
  return std::unexpected(Error{"accelerator kvm: husk has it on x86-64 hosts only", "use --accel soft"});
#endif
}

Status Machine::make_accelerator() {
#if HUSK_HAVE_KVM
  if (kvm_) {
    accelerator_ = HUSK_TRY(accel::KvmAccel::create(
        {*kvm_->system, board_->memory_space(), board_->io_space(), board_->clock(), log_}));
    return {};
  }
#endif
  const auto engine = options_.accelerator == "jit" ? accel::SoftEngine::jit : accel::SoftEngine::interpreter;
  accelerator_ = std::make_unique<accel::SoftAccel>(
      accel::SoftAccelDeps{board_->memory_space(), board_->io_space(), board_->clock(), log_, engine,
                           options_.statistics});
  return {};
}

Status Machine::build() {
  if (options_.accelerator == "kvm")
    HUSK_TRY(open_kvm());
  else if (options_.accelerator != "interp" && options_.accelerator != "jit")
    return fail("accelerator {} is not built into this husk", options_.accelerator);
  std::vector<core::CpuPins*> pins;
  for (unsigned i = 0; i < options_.board.cpus; ++i) {
    pins_.push_back(std::make_unique<PinsForwarder>());
    pins.push_back(pins_.back().get());
  }
  board_ = HUSK_TRY(MicroBoard::create({clock_, log_, *this, std::move(pins), options_.cpu_model}, options_.board));

  HUSK_TRY(make_accelerator());
  for (mem::RamRegion* region : board_->ram()) HUSK_TRY(accelerator_->add_ram(*region));
  for (unsigned i = 0; i < options_.board.cpus; ++i) {
    auto slot = std::make_unique<VcpuSlot>();
    slot->vcpu = HUSK_TRY(
        accelerator_->create_vcpu({i, options_.cpu_model, board_->interrupts(i), board_->floating_point_error(i)}));
    pins_[i]->target = &slot->vcpu->pins();
    vcpus_.push_back(std::move(slot));
  }
  accelerator_->set_a20(a20_);
  HUSK_TRY(load_guest());
  for (unsigned i = 0; i < vcpus_.size(); ++i) vcpus_[i]->thread = std::thread([this, i] { vcpu_main(i); });
  return {};
}

Status Machine::load_guest() {
  guest_.reset();
  if (!options_.boot) return {};
  mem::GuestMemory memory(board_->memory_space());
  guest_ = HUSK_TRY(options_.boot(memory, *board_));
  return vcpus_[0]->vcpu->set_state(state_at_entry(guest_->entry, options_.cpu_model));
}

// ---- running and pausing ----

void Machine::vcpu_main(unsigned index) {
  VcpuSlot& slot = *vcpus_[index];
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      slot.parked = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return quit_ || (may_run_ && !slot.held); });
      if (quit_) return;
      slot.parked = false;
    }
    accel::Exit exit = slot.vcpu->run();
    if (exit.reason == accel::Exit::Reason::stopped) continue;
    {
      const std::lock_guard lock(mutex_);
      slot.held = true;
    }
    interrupt_with([this, index, exit = std::move(exit)] { handle_exit(index, exit); });
  }
}

void Machine::resume() {
  wanted_running_ = true;
  if (running_) return;
  running_ = true;
  board_->start();
  clock_.start();
  {
    const std::lock_guard lock(mutex_);
    may_run_ = true;
  }
  changed_.notify_all();
}

void Machine::pause() {
  wanted_running_ = false;
  stop_cpus();
}

void Machine::stop_cpus() {
  {
    std::unique_lock lock(mutex_);
    may_run_ = false;
    for (auto& slot : vcpus_)
      if (!slot->parked) slot->vcpu->kick();
    changed_.wait(lock, [&] {
      for (auto& slot : vcpus_)
        if (!slot->parked) return false;
      return true;
    });
  }
  clock_.stop();
  running_ = false;
}

void Machine::interrupt_with(std::function<void()> handle) {
  {
    const std::lock_guard lock(mutex_);
    may_run_ = false;
    for (auto& slot : vcpus_)
      if (!slot->parked) slot->vcpu->kick();
  }
  loop_.post([this, alive = alive_, handle = std::move(handle)] {
    if (!*alive) return;
    stop_cpus();
    handle();
  });
}

Status Machine::reset() {
  stop_cpus();
  board_->reset(core::ResetKind::warm);
  for (unsigned i = 0; i < vcpus_.size(); ++i) vcpus_[i]->vcpu->reset(i == 0);
  HUSK_TRY(load_guest());
  {
    const std::lock_guard lock(mutex_);
    for (auto& slot : vcpus_) slot->held = false;
  }
  if (wanted_running_) resume();
  return {};
}

void Machine::press_power_button() { board_->press_power_button(); }

void Machine::raise_event(MachineEvent event) { on_event_(event); }

void Machine::handle_exit(unsigned index, const accel::Exit& exit) {
  MachineEvent event;
  event.vcpu = index;
  switch (exit.reason) {
    case accel::Exit::Reason::stopped: return;
    case accel::Exit::Reason::shutdown:
      if (options_.reset_on_triple_fault) {
        request_reset("triple fault");
        return;
      }
      event.kind = MachineEvent::Kind::triple_fault;
      break;
    case accel::Exit::Reason::stuck: event.kind = MachineEvent::Kind::stuck; break;
    case accel::Exit::Reason::debug:
      event.kind = MachineEvent::Kind::debug;
      event.address = exit.address;
      break;
    case accel::Exit::Reason::failed:
      event.kind = MachineEvent::Kind::failed;
      event.error = exit.error;
      break;
  }
  {
    // The owner may resume: the CPU then goes on (after a debug stop) or stops at once again (after a shutdown).
    const std::lock_guard lock(mutex_);
    vcpus_[index]->held = false;
  }
  raise_event(std::move(event));
}

// ---- what devices ask for ----

void Machine::request_reset(const char* cause) {
  interrupt_with([this, cause = std::string(cause)] {
    if (options_.no_reboot) {
      MachineEvent event;
      event.kind = MachineEvent::Kind::reset;
      event.cause = cause;
      raise_event(std::move(event));
      return;
    }
    // A guest that does nothing but reset must not fill a terminal or a disk.
    if (resets_told_ < kMostResetsTold)
      log_.info("machine reset ({}){}", cause, ++resets_told_ == kMostResetsTold ? "; further ones are not shown" : "");
    if (auto done = reset(); !done) {
      MachineEvent event;
      event.kind = MachineEvent::Kind::failed;
      event.error = done.error();
      raise_event(std::move(event));
    }
  });
}

void Machine::request_shutdown(Shutdown kind, int status) {
  interrupt_with([this, kind, status] {
    MachineEvent event;
    event.status = status;
    switch (kind) {
      case Shutdown::power_off: event.kind = MachineEvent::Kind::power_off; break;
      case Shutdown::guest_panic: event.kind = MachineEvent::Kind::guest_panic; break;
      case Shutdown::debug_exit: event.kind = MachineEvent::Kind::debug_exit; break;
    }
    raise_event(std::move(event));
  });
}

void Machine::set_a20(bool enabled) {
  // Devices drive the line while the board is built, before there is a CPU to see it.
  a20_ = enabled;
  if (accelerator_) accelerator_->set_a20(enabled);
}

}  // namespace husk::machine
