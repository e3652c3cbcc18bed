// husk: the accelerator on /dev/kvm
#include "accel/kvm/kvm_accel.h"

#include <x86intrin.h>

#include <algorithm>
#include <csignal>

#include "accel/kvm/kvm_vcpu.h"

namespace husk::accel {

using kvm::call;

namespace {
/// Where Intel CPUs without unrestricted guest mode keep a task state segment and page tables for real mode (KVM
/// api.rst, 4.11): between the I/O APIC and the local APIC's page, where no board has RAM or a device.
constexpr unsigned long kTssAddress = 0xFEFF'D000;
constexpr std::uint64_t kIdentityMapAddress = 0xFEFF'C000;

extern "C" void husk_kvm_kicked(int) {}
}  // namespace

int KvmAccel::kick_signal() { return SIGRTMIN; }

Result<std::unique_ptr<KvmAccel>> KvmAccel::create(KvmAccelDeps deps) {
  std::unique_ptr<KvmAccel> accel(new KvmAccel(deps));
  HUSK_TRY(accel->start());
  return accel;
}

Status KvmAccel::start() {
  struct sigaction action{};
  action.sa_handler = husk_kvm_kicked;
  action.sa_flags = SA_RESTART;
  if (::sigaction(kick_signal(), &action, nullptr) != 0) return fail_errno(errno, "sigaction");

  vm_.reset(call(deps_.system.fd(), KVM_CREATE_VM, 0));
  if (!vm_) return fail_errno(errno, "KVM_CREATE_VM");
  // Hosts that need neither refuse both; what does need them fails at the first KVM_RUN with a message of its own.
  (void)call(vm_.get(), KVM_SET_TSS_ADDR, kTssAddress);
  std::uint64_t identity = kIdentityMapAddress;
  (void)call(vm_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity);
  if (deps_.system.caps().user_msr) {
    kvm_enable_cap enable{};
    enable.cap = KVM_CAP_X86_USER_SPACE_MSR;
    enable.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    if (call(vm_.get(), KVM_ENABLE_CAP, &enable) != 0) return fail_errno(errno, "KVM_CAP_X86_USER_SPACE_MSR");
  }
  if (deps_.system.caps().triple_fault_event) {
    kvm_enable_cap enable{};
    enable.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT;
    enable.args[0] = 1;
    if (call(vm_.get(), KVM_ENABLE_CAP, &enable) != 0) return fail_errno(errno, "KVM_CAP_X86_TRIPLE_FAULT_EVENT");
  }
  if (deps_.irqchip != kvm::IrqchipMode::off)
    irqchip_ = HUSK_TRY(kvm::Irqchip::create(vm_.get(), deps_.irqchip, deps_.lost_ticks));
  tsc_hz_ = deps_.system.tsc_hz();
  slots_ = std::make_unique<kvm::MemorySlots>(
      kvm::MemorySlots::Deps{vm_.get(), deps_.system.caps().readonly_memory, deps_.system.caps().most_slots});
  HUSK_TRY(slots_->apply(slots_->wanted(deps_.memory)));
  layout_listener_ = deps_.memory.on_change([this] { layout_changed(); });
  return {};
}

KvmAccel::~KvmAccel() {
  for (mem::RamRegion* region : regions_) region->set_listener({});
}

Result<std::unique_ptr<Vcpu>> KvmAccel::create_vcpu(VcpuDeps deps) {
  if (deps.index >= deps_.system.caps().most_vcpus)
    return std::unexpected(Error{fmt::format("KVM on this host has at most {} CPUs", deps_.system.caps().most_vcpus),
                                 "give fewer with --cpus or -smp, or use --accel soft"});
  return KvmVcpu::create(*this, deps);
}

Status KvmAccel::add_ram(mem::RamRegion& region) {
  if (std::find(regions_.begin(), regions_.end(), &region) == regions_.end()) regions_.push_back(&region);
  mem::RamRegion::Listener listener;
  listener.protection_changed = [this](mem::RamRegion& ram) {
    const std::lock_guard lock(layout_mutex_);
    if (const auto done = slots_->follow_dirty_log(ram); !done) deps_.log.error("{}", done.error().text());
  };
  listener.collect_dirty = [this](mem::RamRegion& ram) {
    const std::lock_guard lock(layout_mutex_);
    if (const auto done = slots_->collect_dirty(ram); !done) deps_.log.error("{}", done.error().text());
  };
  region.set_listener(std::move(listener));
  return {};
}

void KvmAccel::set_a20(bool open) {
  if (!open && !told_a20_.exchange(true))
    deps_.log.info("the guest closed the A20 gate; KVM cannot mask address bit 20, so it stays open");
}

// ---- memory slots ----

bool KvmAccel::enter_guest() {
  inside_.fetch_add(1);
  if (!closed_.load()) return true;
  leave_guest();
  return false;
}

void KvmAccel::leave_guest() {
  inside_.fetch_sub(1);
  if (closed_.load()) inside_.notify_all();
}

void KvmAccel::layout_changed() {
  const std::lock_guard lock(layout_mutex_);
  const auto wanted = slots_->wanted(deps_.memory);
  // KVM exchanges one slot at a time: a CPU that fetched code in between would find no memory there.
  const bool exchange = slots_->removes(wanted);
  if (exchange) {
    closed_.store(true);
    {
      const std::lock_guard vcpus(vcpus_mutex_);
      for (KvmVcpu* vcpu : vcpus_) vcpu->leave_soon();
    }
    for (unsigned inside; (inside = inside_.load()) != 0;) inside_.wait(inside);
  }
  if (auto done = slots_->apply(wanted); !done) {
    layout_error_ = done.error();
    layout_failed_ = true;
  }
  place_doorbells();
  if (exchange) {
    closed_.store(false);
    closed_.notify_all();
  }
}

// ---- doorbells ----

void KvmAccel::set_doorbells(std::vector<Doorbell> doorbells) {
  const std::lock_guard lock(layout_mutex_);
  doorbells_ = std::move(doorbells);
  place_doorbells();
}

void KvmAccel::place_doorbells() {
  std::vector<Placed> wanted;
  if (!doorbells_.empty())
    deps_.memory.enumerate([&](mem::Gpa base, std::uint64_t length, const std::string&, const mem::Target& target) {
      if (!target.handler) return;
      for (const Doorbell& bell : doorbells_)
        if (bell.handler == target.handler && bell.offset >= target.offset && bell.offset - target.offset < length)
          wanted.push_back({base + (bell.offset - target.offset), bell.eventfd});
    });
  const auto tell = [this](const Placed& bell, std::uint32_t flags) {
    kvm_ioeventfd request{};
    request.addr = bell.address;
    request.fd = bell.eventfd;
    request.flags = flags;
    return call(vm_.get(), KVM_IOEVENTFD, &request) == 0;
  };
  // First those that go: another may come to the address of one.
  std::erase_if(placed_, [&](const Placed& bell) {
    return std::ranges::find(wanted, bell) == wanted.end() && tell(bell, KVM_IOEVENTFD_FLAG_DEASSIGN);
  });
  for (const Placed& bell : wanted)
    // KVM takes a thousand. Writes to the others leave the guest.
    if (std::ranges::find(placed_, bell) == placed_.end() && tell(bell, 0)) placed_.push_back(bell);
}

// ---- time ----

void KvmAccel::time_starts() {
  const std::lock_guard lock(time_mutex_);
  if (running_++ != 0) return;
  const core::VmTime now = deps_.clock.now();
  host_tsc_at_start_ = __rdtsc();
  machine_tsc_at_start_ = core::ticks_at(now, tsc_hz_) + tsc_drift_;
  if (irqchip_) irqchip_->time_starts();
  if (!deps_.system.caps().adjust_clock) return;
  kvm_clock_data clock{};
  clock.clock = std::max<std::uint64_t>(now, kvm_clock_);
  if (call(vm_.get(), KVM_SET_CLOCK, &clock) != 0) deps_.log.warning("KVM_SET_CLOCK failed: kvmclock may jump");
}

void KvmAccel::time_stops() {
  const std::lock_guard lock(time_mutex_);
  if (--running_ != 0) return;
  const std::uint64_t machine_tsc = __rdtsc() + host_to_machine_tsc();
  tsc_drift_ = machine_tsc - core::ticks_at(deps_.clock.now(), tsc_hz_);
  if (irqchip_) irqchip_->time_stops();
  kvm_clock_data clock{};
  if (deps_.system.caps().adjust_clock && call(vm_.get(), KVM_GET_CLOCK, &clock) == 0) kvm_clock_ = clock.clock;
}

}  // namespace husk::accel
