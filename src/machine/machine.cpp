// husk: a machine's life
#include "machine/machine.h"

#include "accel/soft/soft_accel.h"
#include "machine/entry.h"
#if HUSK_HAVE_KVM
#include "accel/kvm/kvm_accel.h"
#include "machine/kvm_interrupts.h"
#endif

namespace husk::machine {

#if HUSK_HAVE_KVM
struct Machine::Kvm {
  std::unique_ptr<accel::kvm::System> system;
  accel::kvm::IrqchipMode irqchip;
};

namespace {
accel::kvm::IrqchipMode irqchip_mode(KernelIrqchip wanted) {
  switch (wanted) {
    case KernelIrqchip::on: return accel::kvm::IrqchipMode::on;
    case KernelIrqchip::off: return accel::kvm::IrqchipMode::off;
    case KernelIrqchip::split:
    case KernelIrqchip::automatic: break;
  }
  return accel::kvm::IrqchipMode::split;
}
}  // namespace
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
  stop_vcpus();
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  for (auto& slot : vcpus_)
    if (slot->thread.joinable()) slot->thread.join();
  for (auto& pins : pins_) pins->target = nullptr;
}

Status Machine::open_kvm() {
#if HUSK_HAVE_KVM
  if (kvm_) return {};
  auto opened = std::make_unique<Kvm>(HUSK_TRY(accel::kvm::System::open(options_.kvm_device)),
                                      irqchip_mode(options_.kernel_irqchip));
  opened->system->use_kernel_apic(opened->irqchip != accel::kvm::IrqchipMode::off);
  kvm_ = std::move(opened);
  return {};
#else
  return std::unexpected(Error{"accelerator kvm: husk has it on x86-64 hosts only", "use --accel soft"});
#endif
}

Status Machine::adapt_model() {
#if HUSK_HAVE_KVM
  Log silent;
  options_.cpu_model =
      HUSK_TRY(kvm_->system->adapt(std::move(options_.cpu_model), options_.warn_of_missing_features ? log_ : silent));
#endif
  return {};
}

bool Machine::has_own_interrupts(const std::string& accelerator) const {
#if HUSK_HAVE_KVM
  return accelerator != "kvm" || kvm_->irqchip == accel::kvm::IrqchipMode::off;
#else
  return true;
#endif
}

struct Machine::Cpus {
  std::unique_ptr<accel::Accelerator> accelerator;
  std::unique_ptr<Interrupts> interrupts;  ///< null: the board's stay
  std::vector<std::unique_ptr<accel::Vcpu>> vcpus;
};

Result<Machine::Cpus> Machine::make_accelerator(const std::string& name, Interrupts::Deps deps) {
  Cpus made;
#if HUSK_HAVE_KVM
  if (name == "kvm") {
    auto kvm = HUSK_TRY(accel::KvmAccel::create({.system = *kvm_->system,
                                                 .memory = deps.memory_space,
                                                 .io = deps.io_space,
                                                 .clock = deps.cpu_clock,
                                                 .log = log_,
                                                 .irqchip = kvm_->irqchip,
                                                 .lost_ticks = options_.lost_ticks == LostTicks::delay
                                                                   ? accel::kvm::LostTicks::delay
                                                                   : accel::kvm::LostTicks::discard}));
    if (kvm->irqchip()) made.interrupts = HUSK_TRY(make_kvm_interrupts(kvm->irqchip(), deps));
    made.accelerator = std::move(kvm);
  }
#endif
  if (!made.accelerator)
    made.accelerator = std::make_unique<accel::SoftAccel>(accel::SoftAccelDeps{
        deps.memory_space, deps.io_space, deps.cpu_clock, log_,
        name == "jit" ? accel::SoftEngine::jit : accel::SoftEngine::interpreter, options_.statistics});
  // husk's own serve all accelerators alike.
  const bool stay = board_ && has_own_interrupts(options_.accelerator);
  if (!made.interrupts && !stay) made.interrupts = HUSK_TRY(OwnInterrupts::create(std::move(deps)));
  return made;
}

Status Machine::make_vcpus(Cpus& of) {
  Interrupts& interrupts = of.interrupts ? *of.interrupts : board_->interrupts();
  for (mem::RamRegion* region : board_->ram()) HUSK_TRY(of.accelerator->add_ram(*region));
  for (unsigned i = 0; i < options_.board.cpus; ++i)
    of.vcpus.push_back(HUSK_TRY(
        of.accelerator->create_vcpu({i, options_.cpu_model, interrupts.cpu(i), board_->floating_point_error(i)})));
  return {};
}

void Machine::exchange_cpus(Cpus& cpus) {
  std::swap(accelerator_, cpus.accelerator);
  for (unsigned i = 0; i < vcpus_.size(); ++i) {
    std::swap(vcpus_[i]->vcpu, cpus.vcpus[i]);
    pins_[i]->target = &vcpus_[i]->vcpu->pins();
    // Its interrupts may have come before it was there to be told.
    pins_[i]->interrupt_changed();
  }
  accelerator_->set_a20(a20_);
  if (!accelerator_->rings_doorbells()) return;
  if (auto doorbells = board_->doorbells())
    accelerator_->set_doorbells(*std::move(doorbells));
  else
    log_.warning("devices are notified the slow way: {}", doorbells.error().text());
}

Status Machine::build() {
  if (options_.accelerator == "kvm") {
    HUSK_TRY(open_kvm());
    HUSK_TRY(adapt_model());
  } else if (options_.accelerator != "interp" && options_.accelerator != "jit") {
    return fail("accelerator {} is not built into this husk", options_.accelerator);
  }
  std::vector<core::CpuPins*> pins;
  for (unsigned i = 0; i < options_.board.cpus; ++i) {
    pins_.push_back(std::make_unique<PinsForwarder>());
    pins.push_back(pins_.back().get());
  }
  Cpus cpus;
  board_ = HUSK_TRY(MicroBoard::create({clock_, loop_, log_, *this, std::move(pins), options_.cpu_model,
                                        [this, alive = alive_](const std::string& cause) {
                                          // Backends are drained when little of the machine is left.
                                          if (*alive) request_stop(cause);
                                        },
                                        [this, &cpus](Interrupts::Deps deps) -> Result<std::unique_ptr<Interrupts>> {
                                          cpus = HUSK_TRY(make_accelerator(options_.accelerator, std::move(deps)));
                                          return std::move(cpus.interrupts);
                                        }},
                                       options_.board));

  HUSK_TRY(make_vcpus(cpus));
  for (unsigned i = 0; i < options_.board.cpus; ++i) vcpus_.push_back(std::make_unique<VcpuSlot>());
  exchange_cpus(cpus);
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
  // What stopped it has still to finish, and has then this wish to follow.
  if (running_ || draining_depth_ != 0) return;
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
  if (wanted_running_) resume();
}

void Machine::stop_vcpus() {
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

void Machine::stop_cpus() {
  const bool ran = running_;
  stop_vcpus();
  if (ran || !draining_->empty()) drain_devices();
}

void Machine::drain_devices() {
  // Callbacks of the loop that would stop or start the machine come in here: stops wait as this one does, starts are
  // remembered, and requests of the guest are put off.
  ++draining_depth_;
  if (draining_depth_ == 1) {
    auto round = std::make_shared<Draining>();
    for (const MicroBoard::Entry& entry : board_->devices()) round->left.emplace(entry.device->state_id());
    draining_ = round;
    board_->quiesce([&loop = loop_, round](const core::Device& device) {
      bool last = false;
      {
        const std::lock_guard lock(round->mutex);
        const auto found = round->left.find(device.state_id());
        if (found != round->left.end()) round->left.erase(found);
        last = round->left.empty();
      }
      // It may be another thread that told.
      if (last) loop.post([] {});
    });
  }
  const std::uint64_t end = host::monotonic_now() + kDrainLimitNs;
  constexpr std::uint64_t kRound = 100'000'000;
  while (!draining_->empty() && host::monotonic_now() < end) loop_.run_once(kRound);
  --draining_depth_;
  if (draining_depth_ != 0 || draining_->empty()) return;
  const std::lock_guard lock(draining_->mutex);
  for (const std::string& name : draining_->left)
    log_.warning("the machine is stopped, and {} still has something under way", name);
}

// ---- from one accelerator to another ----

Status Machine::check_move(const std::string& name) {
  if (name == "interp" || (name == "jit" && HUSK_HAVE_JIT)) return {};
  if (name != "kvm") return fail("accelerator {} is not built into this husk", name);
  HUSK_TRY(open_kvm());
#if HUSK_HAVE_KVM
  if (auto fits = kvm_->system->accepts(options_.cpu_model); !fits) return fits;
  if (options_.board.cpus > kvm_->system->caps().most_vcpus)
    return fail("accelerator kvm: the machine has {} CPUs, and KVM on this host at most {}", options_.board.cpus,
                kvm_->system->caps().most_vcpus);
#endif
  return {};
}

Status Machine::copy_cpu_state(Cpus& to) {
  for (unsigned i = 0; i < vcpus_.size(); ++i) {
    const cpu::CpuState state = HUSK_TRY(vcpus_[i]->vcpu->export_state());
    HUSK_TRY(to.vcpus[i]->set_state(state));
  }
  return {};
}

Status Machine::move_cpus(const std::string& name, bool& later) {
  auto made = make_accelerator(name, board_->interrupt_deps());
  if (!made) return std::unexpected(std::move(made).error());
  Status done = make_vcpus(*made);
  // KVM's local APICs hold part of what a CPU is there: they come first.
  const bool others = done && made->interrupts;
  if (others) done = board_->exchange_interrupts(made->interrupts);
  const bool exchanged = others && done;
  if (done) {
    done = copy_cpu_state(*made);
    later = !done;
  }
  if (done) {
    exchange_cpus(*made);
    for (const auto& repeat : on_new_cpus_)
      if (done) done = repeat();
    if (!done) {
      exchange_cpus(*made);
      for (const auto& again : on_new_cpus_) (void)again();
    }
  }
  if (!done && exchanged) board_->take_back_interrupts(made->interrupts);
  // CPUs go before what they belong to, and with that the listeners of the RAM, which the others take again.
  made->vcpus.clear();
  made->accelerator.reset();
  made->interrupts.reset();
  for (mem::RamRegion* region : board_->ram()) HUSK_TRY(accelerator_->add_ram(*region));
  if (!done) return std::unexpected(std::move(done).error().within(fmt::format("accelerator {}", name)));
  options_.accelerator = name;
  return {};
}

Status Machine::set_accelerator(const std::string& name) {
  HUSK_TRY(check_move(name));
  const bool ran = wanted_running_;
  // A CPU can stand where another cannot hold it, as behind MOV SS with a debug trap due: an instruction later it does
  // not.
  constexpr int kMostTries = 10;
  constexpr std::uint64_t kBetweenTriesNs = 1'000'000;
  Status done;
  for (int attempt = 0; attempt < kMostTries; ++attempt) {
    pause();
    bool later = false;
    done = quiet() ? move_cpus(name, later) : fail("accelerator {}: the machine cannot be stopped now", name);
    if (ran) resume();
    if (!later || !ran) break;
    (void)loop_.run_once(kBetweenTriesNs);
  }
  return done;
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
    if (draining_depth_ != 0) return interrupt_with(handle);
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

void Machine::request_stop(const std::string& cause) {
  interrupt_with([this, cause] {
    // Several requests may have failed together, and a reset may have come between.
    if (!wanted_running_) return;
    wanted_running_ = false;
    MachineEvent event;
    event.kind = MachineEvent::Kind::io_error;
    event.cause = cause;
    raise_event(std::move(event));
  });
}

void Machine::set_a20(bool enabled) {
  // Devices drive the line while the board is built, before there is a CPU to see it.
  a20_ = enabled;
  if (accelerator_) accelerator_->set_a20(enabled);
}

}  // namespace husk::machine
