// husk: KVM's own interrupt controllers and timer
#include "accel/kvm/irqchip.h"

#include <fcntl.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/bits.h"

namespace husk::accel::kvm {

namespace {

/// struct kvm_irq_routing with room for every line and pin.
struct RouteTable {
  static constexpr std::uint32_t kMost = 96;
  std::uint32_t count = 0;
  std::uint32_t flags = 0;
  kvm_irq_routing_entry entries[kMost] = {};

  void add_pin(unsigned line, unsigned chip, unsigned pin) {
    kvm_irq_routing_entry& entry = entries[count++];
    entry.gsi = line;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
  }
  void add_message(unsigned line, const core::MsiMessage& message) {
    kvm_irq_routing_entry& entry = entries[count++];
    entry.gsi = line;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<std::uint32_t>(message.address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
    entry.u.msi.data = message.data;
  }
};
static_assert(offsetof(RouteTable, entries) == 8);

struct OneMsr {
  std::uint32_t count = 1;
  std::uint32_t padding = 0;
  kvm_msr_entry entry = {};
};

/// A mode that the 8254 does not have, and in which KVM's counter 0 has no timer (its state after reset).
constexpr std::uint8_t kNoMode = 0xFF;

std::int64_t host_now() {
  std::timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::unexpected<Error> lacks(IrqchipMode mode, const char* what) {
  return std::unexpected(Error{fmt::format("this host's KVM has no {}", what),
                               mode == IrqchipMode::on ? "use kernel_irqchip=split or off" : "use kernel_irqchip=off"});
}

}  // namespace

Result<std::shared_ptr<Irqchip>> Irqchip::create(int vm, IrqchipMode mode, LostTicks lost_ticks) {
  host::UniqueFd own(::fcntl(vm, F_DUPFD_CLOEXEC, 0));
  if (!own) return fail_errno(errno, "cannot duplicate the VM's descriptor");
  std::shared_ptr<Irqchip> irqchip(new Irqchip(std::move(own), mode));
  const auto has = [&](int extension) { return call(vm, KVM_CHECK_EXTENSION, extension) > 0; };
  if (!has(KVM_CAP_SIGNAL_MSI)) return lacks(mode, "KVM_CAP_SIGNAL_MSI");
  if (!has(KVM_CAP_IRQ_ROUTING)) return lacks(mode, "KVM_CAP_IRQ_ROUTING");
  if (!has(KVM_CAP_MP_STATE)) return lacks(mode, "KVM_CAP_MP_STATE");
  // As the manual has it, and husk's own local APIC: LINT0 is masked after reset.
  if (has(KVM_CAP_DISABLE_QUIRKS)) {
    kvm_enable_cap quirks{};
    quirks.cap = KVM_CAP_DISABLE_QUIRKS;
    quirks.args[0] = KVM_X86_QUIRK_LINT0_REENABLED;
    if (call(vm, KVM_ENABLE_CAP, &quirks) != 0) return fail_errno(errno, "KVM_CAP_DISABLE_QUIRKS");
  }
  if (mode == IrqchipMode::split)
    HUSK_TRY(irqchip->build_split());
  else
    HUSK_TRY(irqchip->build_whole(lost_ticks));
  return irqchip;
}

Status Irqchip::build_split() {
  kvm_enable_cap enable{};
  enable.cap = KVM_CAP_SPLIT_IRQCHIP;
  enable.args[0] = kPins;
  if (call(vm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) <= 0) return lacks(mode_, "KVM_CAP_SPLIT_IRQCHIP");
  if (call(vm_.get(), KVM_ENABLE_CAP, &enable) != 0) return fail_errno(errno, "KVM_CAP_SPLIT_IRQCHIP");
  level_messages_.resize(kPins);
  return {};
}

Status Irqchip::build_whole(LostTicks lost_ticks) {
  for (const auto& [extension, name] :
       {std::pair{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"}, std::pair{KVM_CAP_PIT2, "KVM_CAP_PIT2"},
        std::pair{KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2"},
        std::pair{KVM_CAP_REINJECT_CONTROL, "KVM_CAP_REINJECT_CONTROL"}})
    if (call(vm_.get(), KVM_CHECK_EXTENSION, extension) <= 0) return lacks(mode_, name);
  if (call(vm_.get(), KVM_CREATE_IRQCHIP, 0) != 0) return fail_errno(errno, "KVM_CREATE_IRQCHIP");
  kvm_pit_config config{};
  config.flags = KVM_PIT_SPEAKER_DUMMY;  // port 61h, which tells of counter 2
  if (call(vm_.get(), KVM_CREATE_PIT2, &config) != 0) return fail_errno(errno, "KVM_CREATE_PIT2");
  kvm_reinject_control reinject{};
  reinject.pit_reinject = lost_ticks == LostTicks::delay;
  if (call(vm_.get(), KVM_REINJECT_CONTROL, &reinject) != 0) return fail_errno(errno, "KVM_REINJECT_CONTROL");
  RouteTable routes;
  for (unsigned irq = 0; irq < 16; ++irq) {
    if (irq != 2) routes.add_pin(irq, irq < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, irq % 8);
    if (irq != 2) routes.add_pin(irq, KVM_IRQCHIP_IOAPIC, irq == 0 ? 2 : irq);
  }
  for (unsigned pin = 0; pin < kPins; ++pin) routes.add_pin(kFirstPinLine + pin, KVM_IRQCHIP_IOAPIC, pin);
  if (call(vm_.get(), kSetGsiRouting, &routes) != 0) return fail_errno(errno, "KVM_SET_GSI_ROUTING");
  if (!get_pit_now(standing_)) return fail_errno(errno, "KVM_GET_PIT2");
  kvm_pit_state2 still = standing_;
  still.channels[0].mode = kNoMode;
  if (!set_pit_now(still)) return fail_errno(errno, "KVM_SET_PIT2");
  return {};
}

// ---- vCPUs ----

void Irqchip::add_vcpu(unsigned index, int fd) {
  {
    const std::lock_guard lock(mutex_);
    if (vcpus_.size() <= index) vcpus_.resize(index + 1, -1);
    vcpus_[index] = fd;
  }
  if (new_vcpu_) new_vcpu_(index);
}

void Irqchip::remove_vcpu(unsigned index) {
  const std::lock_guard lock(mutex_);
  if (index < vcpus_.size()) vcpus_[index] = -1;
}

int Irqchip::vcpu(unsigned index) const {
  const std::lock_guard lock(mutex_);
  return index < vcpus_.size() ? vcpus_[index] : -1;
}

// ---- interrupts ----

bool Irqchip::send(core::MsiMessage message) {
  kvm_msi msi{};
  msi.address_lo = static_cast<std::uint32_t>(message.address);
  msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  msi.data = message.data;
  return call(vm_.get(), KVM_SIGNAL_MSI, &msi) > 0;
}

void Irqchip::set_line(unsigned line, bool level) {
  kvm_irq_level irq{};
  irq.irq = line;
  irq.level = level;
  (void)call(vm_.get(), KVM_IRQ_LINE, &irq);
}

Status Irqchip::set_level_messages(std::span<const core::MsiMessage> messages) {
  const std::lock_guard lock(mutex_);
  // Each exchange makes KVM wait for all CPUs of the host: not for nothing.
  if (std::ranges::equal(messages, level_messages_, [](const core::MsiMessage& a, const core::MsiMessage& b) {
        return a.address == b.address && a.data == b.data;
      }))
    return {};
  RouteTable routes;
  for (unsigned pin = 0; pin < kPins; ++pin)
    if (messages[pin].data != 0) routes.add_message(pin, messages[pin]);
  if (call(vm_.get(), kSetGsiRouting, &routes) != 0) return fail_errno(errno, "KVM_SET_GSI_ROUTING");
  level_messages_.assign(messages.begin(), messages.end());
  return {};
}

// ---- registers ----

bool Irqchip::get_lapic(unsigned index, kvm_lapic_state& state) const {
  const int fd = vcpu(index);
  return fd >= 0 && call(fd, KVM_GET_LAPIC, &state) == 0;
}

bool Irqchip::set_lapic(unsigned index, const kvm_lapic_state& state) const {
  const int fd = vcpu(index);
  return fd >= 0 && call(fd, KVM_SET_LAPIC, &state) == 0;
}

bool Irqchip::get_msr(unsigned index, std::uint32_t msr, std::uint64_t& value) const {
  const int fd = vcpu(index);
  OneMsr one;
  one.entry.index = msr;
  if (fd < 0 || call(fd, kGetMsrs, &one) != 1) return false;
  value = one.entry.data;
  return true;
}

bool Irqchip::set_msr(unsigned index, std::uint32_t msr, std::uint64_t value) const {
  const int fd = vcpu(index);
  OneMsr one;
  one.entry.index = msr;
  one.entry.data = value;
  return fd >= 0 && call(fd, kSetMsrs, &one) == 1;
}

bool Irqchip::get_chip(kvm_irqchip& chip) const { return call(vm_.get(), KVM_GET_IRQCHIP, &chip) == 0; }
bool Irqchip::set_chip(kvm_irqchip chip) const { return call(vm_.get(), KVM_SET_IRQCHIP, &chip) == 0; }

bool Irqchip::get_pit_now(kvm_pit_state2& state) const {
  if (call(vm_.get(), KVM_GET_PIT2, &state) != 0) return false;
  const std::int64_t now = host_now();
  for (auto& channel : state.channels)
    channel.count_load_time = std::max<std::int64_t>(now - static_cast<std::int64_t>(channel.count_load_time), 0);
  return true;
}

bool Irqchip::set_pit_now(kvm_pit_state2 state) const {
  const std::int64_t now = host_now();
  for (auto& channel : state.channels)
    channel.count_load_time = now - static_cast<std::int64_t>(channel.count_load_time);
  return call(vm_.get(), KVM_SET_PIT2, &state) == 0;
}

bool Irqchip::get_pit(kvm_pit_state2& state) const {
  const std::lock_guard lock(mutex_);
  if (!time_stands_) return get_pit_now(state);
  state = standing_;
  return true;
}

bool Irqchip::set_pit(kvm_pit_state2 state) {
  const std::lock_guard lock(mutex_);
  if (!time_stands_) return set_pit_now(state);
  standing_ = state;
  return true;
}

void Irqchip::time_starts() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(time_stands_, false)) return;
  if (mode_ == IrqchipMode::on) (void)set_pit_now(standing_);
}

void Irqchip::time_stops() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(time_stands_, true)) return;
  stopped_at_ = host_now();
  if (mode_ != IrqchipMode::on || !get_pit_now(standing_)) return;
  // Its ticks would pile up, to come all at once when the machine goes on.
  kvm_pit_state2 still = standing_;
  still.channels[0].mode = kNoMode;
  (void)set_pit_now(still);
}

std::uint64_t Irqchip::since_stop() const {
  const std::lock_guard lock(mutex_);
  return time_stands_ && stopped_at_ ? static_cast<std::uint64_t>(std::max<std::int64_t>(host_now() - stopped_at_, 0))
                                     : 0;
}

}  // namespace husk::accel::kvm
