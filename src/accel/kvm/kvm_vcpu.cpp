// husk: one virtual CPU on KVM: its loop and its exits
#include "accel/kvm/kvm_vcpu.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bits.h"

namespace husk::accel {

using kvm::call;

Result<std::unique_ptr<Vcpu>> KvmVcpu::create(KvmAccel& accel, VcpuDeps deps) {
  std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(accel, deps));
  HUSK_TRY(vcpu->build());
  return vcpu;
}

KvmVcpu::KvmVcpu(KvmAccel& accel, VcpuDeps deps) : accel_(accel), deps_(deps), kernel_apic_(accel.irqchip_ != nullptr) {
  const std::lock_guard lock(accel_.vcpus_mutex_);
  accel_.vcpus_.push_back(this);
}

KvmVcpu::~KvmVcpu() {
  if (kernel_apic_) accel_.irqchip_->remove_vcpu(deps_.index);
  const std::lock_guard lock(accel_.vcpus_mutex_);
  std::erase(accel_.vcpus_, this);
}

Status KvmVcpu::build() {
  const kvm::System& system = accel_.deps_.system;
  const unsigned apic_id = cpu::apic_id_of(deps_.model.topology, deps_.index);
  // Messages to KVM's local APICs have eight bits for the destination, and all ones are everybody.
  constexpr unsigned kMostApicId = 254;
  if (kernel_apic_ && apic_id > kMostApicId)
    return std::unexpected(Error{fmt::format("CPU {} has the APIC id {}, and KVM's own local APICs go up to {} here",
                                             deps_.index, apic_id, kMostApicId),
                                 "use kernel_irqchip=off"});
  // KVM's local APIC takes its id from the vCPU's.
  fd_.reset(call(accel_.vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(kernel_apic_ ? apic_id : deps_.index)));
  if (!fd_) return fail_errno(errno, fmt::format("KVM_CREATE_VCPU for CPU {}", deps_.index));
  area_ = HUSK_TRY(host::Mmap::shared(fd_.get(), 0, system.caps().vcpu_area_bytes, true));
  run_ = reinterpret_cast<kvm_run*>(area_.data());
  const auto cpuid = kvm::cpuid_table(system, deps_.model, apic_id);
  if (call(fd_.get(), kvm::kSetCpuid2, cpuid.get()) != 0) {
    Error error = fail_errno(errno, fmt::format("KVM refuses the CPU model {}", deps_.model.name)).error();
    error.next_step = "choose another with --cpu, or use --accel soft";
    return std::unexpected(std::move(error));
  }
  xsave_layout_.avx = deps_.model.has(cpu::Feature::avx) ? kvm::xsave_offset(system, 2) : 0;
  xsave_layout_.pkru = deps_.model.has(cpu::Feature::pku) ? kvm::xsave_offset(system, 9) : 0;
  if (deps_.model.has(cpu::Feature::mca)) {
    std::uint64_t mce = 10 | 0x100;  // ten banks, MCG_CTL: as the neutral state has them
    (void)call(fd_.get(), KVM_X86_SETUP_MCE, &mce);
  }
  cpu::CpuState state = cpu::reset_state(deps_.model.signature());
  if (deps_.index != 0) state.activity = cpu::Activity::wait_for_sipi;
  HUSK_TRY(replace_state(state));
  other_msrs_at_reset_ = other_msrs();
  if (kernel_apic_) accel_.irqchip_->add_vcpu(deps_.index, fd_.get());
  return {};
}

// ---- attention ----

void KvmVcpu::signal(std::uint32_t bits) {
  attention_.fetch_or(bits);
  {
    // An empty critical section: the sleeper is either before its check, and will see the bits, or waits.
    const std::lock_guard lock(sleep_mutex_);
  }
  awake_.notify_one();
  leave_soon();
}

void KvmVcpu::leave_soon() {
  if (!in_guest_.load()) return;
  // KVM looks at the flag when it enters the guest, and at signals while it is there: between the two nothing is lost.
  __atomic_store_n(&run_->immediate_exit, std::uint8_t{1}, __ATOMIC_SEQ_CST);
  // By number, as the thread may have ended meanwhile.
  (void)::syscall(SYS_tgkill, ::getpid(), thread_.load(), KvmAccel::kick_signal());
}

std::optional<Exit> KvmVcpu::attend() {
  const std::uint32_t bits = attention_.exchange(0);
  if (bits & kInit) init_by_signal();
  if ((bits & kSipi) && activity() == cpu::Activity::wait_for_sipi)
    start_by_signal(sipi_vector_.load(std::memory_order_relaxed));
  if ((bits & kNmi) && call(fd_.get(), KVM_NMI, 0) == 0) {
    can_inject_ = false;
    if (activity_ == cpu::Activity::halted) activity_ = cpu::Activity::running;
  }
  if (bits & kStop) return Exit{Exit::Reason::stopped, 0, {}};
  if (accel_.layout_failed_.load()) return failed(accel_.layout_error_.message, accel_.layout_error_.next_step);
  return std::nullopt;
}

bool KvmVcpu::can_wake() {
  if (attention_.load() != 0) return true;
  return activity_ == cpu::Activity::halted && halted_with_if_ && deps_.interrupts.pending();
}

bool KvmVcpu::sleep() {
  std::unique_lock lock(sleep_mutex_);
  const bool hopeless = activity_ != cpu::Activity::halted || !halted_with_if_;
  const bool all = hopeless && accel_.hopeless_.fetch_add(1) + 1 == accel_.vcpus_.size();
  if (!all) awake_.wait(lock, [this] { return can_wake(); });
  const bool woken = can_wake();
  if (hopeless) accel_.hopeless_.fetch_sub(1);
  return woken;
}

// ---- an end that KVM does not tell of ----

namespace {
/// Takes this thread out of the guest once a second.
class EverySecond {
 public:
  EverySecond() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = KvmAccel::kick_signal();
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return;
    made_ = true;
    const itimerspec period{{1, 0}, {1, 0}};
    (void)::timer_settime(timer_, 0, &period, nullptr);
  }
  ~EverySecond() {
    if (made_) (void)::timer_delete(timer_);
  }
  EverySecond(const EverySecond&) = delete;
  EverySecond& operator=(const EverySecond&) = delete;

 private:
  timer_t timer_{};
  bool made_ = false;
};
}  // namespace

void KvmVcpu::forget_hopeless() {
  if (std::exchange(hopeless_looks_, 0u) != 0) accel_.hopeless_.fetch_sub(1);
}

std::optional<Exit> KvmVcpu::look_for_end() {
  // Signals come for other reasons too.
  constexpr std::int64_t kLeastWait = 800'000'000;
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  const std::int64_t at = std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  if (at - last_look_ns_ < kLeastWait) return std::nullopt;
  last_look_ns_ = at;
  const cpu::Activity now = activity();
  kvm_regs regs{};
  bool hopeless = now == cpu::Activity::wait_for_sipi;
  if (now == cpu::Activity::halted && call(fd_.get(), KVM_GET_REGS, &regs) == 0) hopeless = !(regs.rflags & cpu::kIF);
  if (!hopeless) {
    forget_hopeless();
    return std::nullopt;
  }
  if (hopeless_looks_++ == 0) accel_.hopeless_.fetch_add(1);
  // One that another CPU has started since its last look tells so at its next: two looks of this one later.
  if (accel_.hopeless_.load() < accel_.vcpus_.size() || hopeless_looks_ < 3) return std::nullopt;
  return Exit{Exit::Reason::stuck, 0, {}};
}

// ---- the loop ----

Exit KvmVcpu::run() {
  if (const int id = static_cast<int>(::syscall(SYS_gettid)); thread_.exchange(id) != id) {
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, KvmAccel::kick_signal());
    (void)::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
  }
  accel_.time_starts();
  Exit exit;
  if (const auto ready = prepare(); !ready)
    exit = {Exit::Reason::failed, 0, ready.error()};
  else
    exit = kernel_apic_ ? loop_with_looks() : loop();
  if (const auto worse = settle()) exit = *worse;
  forget_hopeless();
  take_tsc_offset();
  accel_.time_stops();
  return exit;
}

Status KvmVcpu::prepare() {
  HUSK_TRY(apply_tsc_offset());
  // KVM armed its timer by the offset of the last run, and has let it run on while the machine stood.
  std::uint64_t deadline = 0;
  if (kernel_apic_ && accel_.irqchip_->get_msr(deps_.index, kvm::kMsrTscDeadline, deadline) && deadline != 0)
    (void)accel_.irqchip_->set_msr(deps_.index, kvm::kMsrTscDeadline, deadline);
  return step_over_breakpoint();
}

Exit KvmVcpu::loop_with_looks() {
  const EverySecond look;
  return loop();
}

Exit KvmVcpu::loop() {
  for (;;) {
    if (auto exit = attend()) return std::move(*exit);
    if (activity_ == cpu::Activity::shutdown) return {Exit::Reason::shutdown, 0, {}};
    if (!kernel_apic_ && activity_ != cpu::Activity::running) {
      if (!can_wake() && !sleep()) return {Exit::Reason::stuck, 0, {}};
      if (attention_.load() != 0) continue;
      activity_ = cpu::Activity::running;
    }
    if (auto exit = enter()) return std::move(*exit);
  }
}

void KvmVcpu::offer_interrupt() {
  if (can_inject_ && deps_.interrupts.pending()) {
    if (const auto vector = deps_.interrupts.acknowledge()) {
      kvm_interrupt interrupt{};
      interrupt.irq = *vector;
      // It can fail with an in-kernel interrupt controller only.
      if (call(fd_.get(), KVM_INTERRUPT, &interrupt) != 0)
        accel_.deps_.log.error("KVM_INTERRUPT failed: {}", std::strerror(errno));
      if (kernel_apic_) given_ = *vector;
      can_inject_ = false;
    }
  }
  run_->request_interrupt_window = deps_.interrupts.pending();
  if (!kernel_apic_) run_->cr8 = deps_.interrupts.task_priority();
}

std::optional<Exit> KvmVcpu::enter() {
  offer_interrupt();
  in_guest_.store(true);
  if (attention_.load() != 0) {
    in_guest_.store(false);
    return std::nullopt;
  }
  if (!accel_.enter_guest()) {
    in_guest_.store(false);
    accel_.wait_for_gate();
    return std::nullopt;
  }
  const int error = ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno;
  accel_.leave_guest();
  in_guest_.store(false);
  __atomic_store_n(&run_->immediate_exit, std::uint8_t{0}, __ATOMIC_SEQ_CST);
  return after_run(error);
}

std::optional<Exit> KvmVcpu::after_run(int error) {
  access_open_ = false;
  can_inject_ = run_->ready_for_interrupt_injection;
  // As long as KVM has one it takes no other. Once delivered, its handler has begun with interrupts off.
  if (error != EINTR || can_inject_ || !run_->if_flag) given_.reset();
  if (kernel_apic_) {
    if (error == EINTR && attention_.load() == 0) return look_for_end();
  } else {
    follow_apic();
  }
  if (error == EINTR || error == EAGAIN) return std::nullopt;
  if (error != 0) {
    Exit exit = failed(fmt::format("KVM cannot run CPU {}: {}", deps_.index, std::strerror(error)));
    exit.error.next_step = "look at the kernel's messages (sudo dmesg | grep -i kvm)";
    return exit;
  }
  return dispatch();
}

void KvmVcpu::follow_apic() {
  if (const auto tpr = static_cast<std::uint8_t>(run_->cr8 & 0xF); tpr != deps_.interrupts.task_priority())
    deps_.interrupts.set_task_priority(tpr);
  if (run_->apic_base != apic_base_) {
    apic_base_ = run_->apic_base;
    if (!deps_.interrupts.set_apic_base(apic_base_))
      accel_.deps_.log.guest_error("IA32_APIC_BASE {:#x} is not possible", apic_base_);
  }
}

std::optional<Exit> KvmVcpu::dispatch() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: port_io(); return std::nullopt;
    case KVM_EXIT_MMIO: memory_io(); return std::nullopt;
    case KVM_EXIT_X86_RDMSR: msr_exit(false); return std::nullopt;
    case KVM_EXIT_X86_WRMSR: msr_exit(true); return std::nullopt;
    case KVM_EXIT_HLT:
      activity_ = cpu::Activity::halted;
      halted_with_if_ = run_->if_flag;
      return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR: return std::nullopt;
    case KVM_EXIT_IOAPIC_EOI: accel_.irqchip_->end_of_interrupt(run_->eoi.vector); return std::nullopt;
    case KVM_EXIT_SHUTDOWN: activity_ = cpu::Activity::shutdown; return Exit{Exit::Reason::shutdown, 0, {}};
    case KVM_EXIT_DEBUG: return debug_exit();
    case KVM_EXIT_INTERNAL_ERROR: return internal_error();
    case KVM_EXIT_FAIL_ENTRY:
      return failed(fmt::format("the processor refuses to run CPU {}: reason {:#x}", deps_.index,
                                std::uint64_t{run_->fail_entry.hardware_entry_failure_reason}),
                    "look at the kernel's messages (sudo dmesg | grep -i kvm)");
    default:
      return failed(fmt::format("KVM left CPU {} for a reason that husk does not know: {}", deps_.index,
                                std::uint32_t{run_->exit_reason}),
                    "use --accel soft, and report this");
  }
}

std::optional<Exit> KvmVcpu::settle() {
  // KVM api.rst, 5, KVM_EXIT_IO and others: the instruction is completed by the next KVM_RUN, which may be one that
  // does not enter the guest. A string instruction or a wide access may ask for more on the way.
  constexpr int kMostSteps = 1000;
  for (int step = 0; access_open_ && step < kMostSteps; ++step) {
    __atomic_store_n(&run_->immediate_exit, std::uint8_t{1}, __ATOMIC_SEQ_CST);
    const int error = ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno;
    __atomic_store_n(&run_->immediate_exit, std::uint8_t{0}, __ATOMIC_SEQ_CST);
    if (auto exit = after_run(error)) return exit;
  }
  return std::nullopt;
}

// ---- exits ----

void KvmVcpu::port_io() {
  const auto io = run_->io;
  std::uint8_t* data = area_.data() + io.data_offset;
  const bool write = io.direction == KVM_EXIT_IO_OUT;
  const auto who = mem::Requester::cpu(deps_.index);
  const bool traced = trace_ && (trace_categories_ & TraceSink::kIo);
  for (std::uint32_t i = 0; i < io.count; ++i, data += io.size) {
    std::uint64_t value = 0;
    if (write) {
      std::memcpy(&value, data, io.size);
      if (traced) trace_->io(deps_.index, true, io.port, io.size, value);
      accel_.deps_.io.write(who, io.port, value, io.size);
    } else {
      value = accel_.deps_.io.read(who, io.port, io.size);
      if (traced) trace_->io(deps_.index, false, io.port, io.size, value);
      std::memcpy(data, &value, io.size);
    }
  }
  access_open_ = true;
}

void KvmVcpu::memory_io() {
  auto& mmio = run_->mmio;
  const auto who = mem::Requester::cpu(deps_.index);
  const bool traced = trace_ && (trace_categories_ & TraceSink::kMmio);
  const unsigned size = std::min<unsigned>(mmio.len, 8);
  std::uint64_t value = 0;
  if (mmio.is_write) {
    std::memcpy(&value, mmio.data, size);
    if (traced) trace_->mmio(deps_.index, true, mmio.phys_addr, size, value);
    accel_.deps_.memory.write(who, mmio.phys_addr, value, size);
  } else {
    value = accel_.deps_.memory.read(who, mmio.phys_addr, size);
    if (traced) trace_->mmio(deps_.index, false, mmio.phys_addr, size, value);
    std::memcpy(mmio.data, &value, size);
  }
  access_open_ = true;
}

void KvmVcpu::msr_exit(bool write) {
  auto& msr = run_->msr;
  // The rest is what KVM refused: #GP, as the processor does.
  const bool x2apic = !kernel_apic_ && msr.index >= 0x800 && msr.index <= 0x8FF;
  msr.error = 1;
  if (write) {
    if (x2apic && deps_.interrupts.write_msr(msr.index, msr.data)) msr.error = 0;
  } else if (const auto value = x2apic ? deps_.interrupts.read_msr(msr.index) : std::nullopt) {
    msr.data = *value;
    msr.error = 0;
  }
  if (msr.error)
    accel_.deps_.log.guest_error("{} of register {:#x} refused", write ? "WRMSR" : "RDMSR", std::uint32_t{msr.index});
  access_open_ = true;
}

std::optional<Exit> KvmVcpu::debug_exit() {
  const auto& arch = run_->debug.arch;
  const std::uint64_t at = linear_rip();
  const bool on_breakpoint =
      std::find(debug_.breakpoints.begin(), debug_.breakpoints.end(), at) != debug_.breakpoints.end();
  if (std::exchange(stepping_over_, false)) {
    if (const auto set = apply_debug(); !set) return Exit{Exit::Reason::failed, 0, set.error()};
    if (!debug_.single_step && !on_breakpoint) return std::nullopt;
  }
  if (!debug_on_) return std::nullopt;  // it was turned off while this was on its way
  Exit exit;
  exit.reason = Exit::Reason::debug;
  exit.address = at;
  if (on_breakpoint) {
    told_breakpoint_ = at;
    return exit;
  }
  // SDM vol. 3, 18.2.3: bits 0 to 3 tell which of the four registers matched; watchpoints follow the breakpoints.
  const std::size_t breakpoints = debug_.breakpoints.size();
  for (std::size_t i = 0; i < debug_.watchpoints.size(); ++i)
    if (bit(arch.dr6, static_cast<unsigned>(breakpoints + i))) exit.address = debug_.watchpoints[i].address;
  return exit;
}

Exit KvmVcpu::failed(std::string message, std::string next_step) const {
  return {Exit::Reason::failed, 0, Error{std::move(message), std::move(next_step)}};
}

Exit KvmVcpu::internal_error() const {
  const auto& internal = run_->internal;
  const char* what = "an error of a kind that husk does not know";
  switch (internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: what = "it cannot emulate an instruction"; break;
    case KVM_INTERNAL_ERROR_SIMUL_EX: what = "two exceptions at once"; break;
    case KVM_INTERNAL_ERROR_DELIVERY_EV: what = "an exit while an interrupt was delivered"; break;
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: what = "the processor left the guest for an unknown reason"; break;
    default: break;
  }
  std::string message =
      fmt::format("KVM gave CPU {} up: {} (suberror {}", deps_.index, what, std::uint32_t{internal.suberror});
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(internal.ndata, 16); ++i)
    message += fmt::format(", {:#x}", std::uint64_t{internal.data[i]});
  message += ")";
  kvm_regs regs{};
  kvm_sregs sregs{};
  if (call(fd_.get(), KVM_GET_REGS, &regs) == 0 && call(fd_.get(), KVM_GET_SREGS, &sregs) == 0) {
    std::uint64_t rip = regs.rip;
    std::uint16_t cs = sregs.cs.selector;
    message += fmt::format(" at {:#x}:{:#x}", cs, rip);
  }
  return failed(std::move(message), "use --accel soft, where every instruction works");
}

}  // namespace husk::accel
