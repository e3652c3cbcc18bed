// husk: one virtual CPU on KVM: its state in and out, and the debugger's requests
#include <x86intrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "accel/kvm/kvm_vcpu.h"
#include "base/bits.h"
#include "cpu/state_check.h"

namespace husk::accel {

using kvm::call;

namespace {
constexpr std::uint32_t kMsrTsc = 0x10;

/// kvm_sregs has the same registers as kvm_sregs2, without the PDPTEs.
template <class To, class From>
void copy_special(To& to, const From& from) {
  to.cs = from.cs, to.ds = from.ds, to.es = from.es, to.fs = from.fs, to.gs = from.gs, to.ss = from.ss;
  to.tr = from.tr, to.ldt = from.ldt, to.gdt = from.gdt, to.idt = from.idt;
  to.cr0 = from.cr0, to.cr2 = from.cr2, to.cr3 = from.cr3, to.cr4 = from.cr4, to.cr8 = from.cr8;
  to.efer = from.efer, to.apic_base = from.apic_base;
}
}  // namespace

// ---- out ----

cpu::CpuState KvmVcpu::get_state() const {
  cpu::CpuState state;
  state.activity = activity();
  kvm_regs regs{};
  if (call(fd_.get(), KVM_GET_REGS, &regs) == 0) kvm::take_regs(state, regs);
  kvm_sregs2 special{};
  if (accel_.deps_.system.caps().sregs2) {
    if (call(fd_.get(), KVM_GET_SREGS2, &special) == 0) kvm::take_sregs(state, special);
  } else if (kvm_sregs old{}; call(fd_.get(), KVM_GET_SREGS, &old) == 0) {
    copy_special(special, old);
    kvm::take_sregs(state, special);
  }
  kvm_debugregs debug{};
  if (call(fd_.get(), KVM_GET_DEBUGREGS, &debug) == 0) kvm::take_debugregs(state, debug);
  if (accel_.deps_.system.caps().xcrs) {
    kvm_xcrs xcrs{};
    if (call(fd_.get(), KVM_GET_XCRS, &xcrs) == 0)
      for (std::uint32_t i = 0; i < std::min<std::uint32_t>(xcrs.nr_xcrs, KVM_MAX_XCRS); ++i)
        if (xcrs.xcrs[i].xcr == 0) state.xcr0 = xcrs.xcrs[i].value;
  }
  if (accel_.deps_.system.caps().xsave) {
    kvm::XsaveArea area;
    if (call(fd_.get(), kvm::kGetXsave, &area) == 0) kvm::take_xsave(state, area, xsave_layout_);
  }
  take_all_msrs(state);
  state.msr.tsc_offset = tsc_offset_ + accel_.tsc_drift_;
  if (deps_.model.has(cpu::Feature::kvmclock)) state.msr.kvm_clock_offset = accel_.kvm_clock_offset();
  take_events(state);
  return state;
}

void KvmVcpu::take_events(cpu::CpuState& state) const {
  const std::uint32_t signals = attention_.load();
  state.init_pending = signals & kInit;
  state.sipi_pending = signals & kSipi;
  if (state.sipi_pending) state.sipi_vector = sipi_vector_.load(std::memory_order_relaxed);
  state.nmi_pending = signals & kNmi;
  kvm_vcpu_events events{};
  if (call(fd_.get(), KVM_GET_VCPU_EVENTS, &events) != 0) return;
  state.interrupt_shadow = events.interrupt.shadow != 0;
  state.nmi_blocked = events.nmi.masked;
  state.nmi_pending |= events.nmi.pending != 0;
  state.in_smm = (events.flags & KVM_VCPUEVENT_VALID_SMM) && events.smi.smm;
  state.smi_pending = (events.flags & KVM_VCPUEVENT_VALID_SMM) && events.smi.pending;
  if ((events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && events.triple_fault.pending)
    state.activity = cpu::Activity::shutdown;
  using Kind = cpu::InjectedEvent::Kind;
  cpu::InjectedEvent& injected = state.injected;
  // What is pending counts as begun: KVM has put its cause into CR2 or DR6 by the time that it tells of it (api.rst,
  // 4.31, without KVM_CAP_EXCEPTION_PAYLOAD), and gives it back as injected.
  if (events.exception.injected || events.exception.pending)
    injected = {Kind::exception, events.exception.nr, events.exception.has_error_code != 0,
                events.exception.has_error_code ? std::uint32_t{events.exception.error_code} : 0u};
  else if (events.nmi.injected)
    injected = {Kind::nmi, 2, false, 0};
  else if (events.interrupt.injected && !events.interrupt.soft)
    injected = {Kind::interrupt, events.interrupt.nr, false, 0};
}

Result<cpu::CpuState> KvmVcpu::export_state() const {
  cpu::CpuState state = get_state();
  // KVM tells nobody of it until it has begun.
  if (given_ && state.injected.kind == cpu::InjectedEvent::Kind::none) {
    state.injected = {cpu::InjectedEvent::Kind::interrupt, *given_, false, 0};
    if (state.activity == cpu::Activity::halted) state.activity = cpu::Activity::running;
  }
  if (state.in_smm || state.smi_pending) return fail("CPU {} is in system management mode", deps_.index);
  if (state.efer & cpu::kEferSvme)
    return fail("CPU {} runs a virtual machine of its own (EFER.SVME), whose state husk does not carry", deps_.index);
  // Exceptions come before what else KVM has begun to deliver; it never has two, but for a moment of its own.
  kvm_vcpu_events events{};
  if (call(fd_.get(), KVM_GET_VCPU_EVENTS, &events) != 0) return fail_errno(errno, "KVM_GET_VCPU_EVENTS");
  if ((events.exception.injected || events.exception.pending) + events.nmi.injected +
          (events.interrupt.injected && !events.interrupt.soft) >
      1)
    return fail("CPU {} has several events under way at once", deps_.index);
  const std::vector<kvm_msr_entry> now = other_msrs();
  for (std::size_t i = 0; i < std::min(now.size(), other_msrs_at_reset_.size()); ++i) {
    const std::uint32_t index = now[i].index;
    const std::uint64_t value = now[i].data;
    if (index == other_msrs_at_reset_[i].index && value != other_msrs_at_reset_[i].data)
      return fail("CPU {} has the value {:#x} in MSR {:#x}, which husk does not carry", deps_.index, value, index);
  }
  return state;
}

namespace {
/// Registers of KVM_GET_MSR_INDEX_LIST that are not "other": part of the neutral state by another way, of the local
/// APIC, or counting by themselves (SDM vol. 4; APM vol. 2, appendix A; Documentation/virt/kvm/x86/msr.rst).
bool belongs_elsewhere(std::uint32_t index) {
  switch (index) {
    case 0x10:  // TSC
    case 0x11:  // the old names of KVM's clock
    case 0x12:
    case 0x1B:   // APIC base
    case 0x34:   // count of SMIs
    case 0x6E0:  // TSC deadline
    case 0xE7:   // MPERF, APERF
    case 0xE8:
    case 0x40000020:  // Hyper-V's reference counter
    case 0x40000010:  // and run time
    case 0xC0000080:  // EFER
    case 0xC0000100:  // FS and GS base
    case 0xC0000101:
    case 0xC0000104:  // TSC ratio: the host's
      return true;
    default: return false;
  }
}
}  // namespace

std::vector<kvm_msr_entry> KvmVcpu::other_msrs() const {
  std::vector<kvm_msr_entry> found;
  cpu::CpuModel everything = deps_.model;
  everything.features.set();
  const kvm::MsrTable carried = kvm::to_msrs(cpu::CpuState{}, everything);
  for (const std::uint32_t index : accel_.deps_.system.msr_list()) {
    if (belongs_elsewhere(index)) continue;
    if (std::any_of(carried.entries, carried.entries + carried.count,
                    [&](const kvm_msr_entry& entry) { return entry.index == index; }))
      continue;
    kvm::MsrTable one;
    one.count = 1;
    one.entries[0].index = index;
    if (call(fd_.get(), kvm::kGetMsrs, &one) == 1) found.push_back(one.entries[0]);
  }
  return found;
}

void KvmVcpu::take_all_msrs(cpu::CpuState& state) const {
  kvm::MsrTable table = kvm::to_msrs(state, deps_.model);
  // KVM stops at the first register that it does not have; that one keeps its initial value.
  kvm::MsrTable one;
  for (std::uint32_t at = 0; at < table.count;) {
    one.count = table.count - at;
    std::copy_n(table.entries + at, one.count, one.entries);
    const int done = std::max(call(fd_.get(), kvm::kGetMsrs, &one), 0);
    kvm::take_msrs(state, std::span(one.entries).first(static_cast<std::size_t>(done)));
    at += static_cast<std::uint32_t>(done) + 1;
  }
}

// ---- in ----

Status KvmVcpu::set_state(const cpu::CpuState& state) {
  HUSK_TRY(cpu::check_state(state, deps_.model));
  if ((state.efer & cpu::kEferSvme) || state.svm.guest || !state.svm.gif)
    return std::unexpected(
        Error{fmt::format("accelerator kvm: CPU {} runs virtual machines of its own (EFER.SVME), whose state husk does not "
                          "carry to KVM",
                          deps_.index),
              "end them and unload kvm-amd in the guest"});
  attention_.fetch_and(~std::uint32_t{kNmi | kInit | kSipi});
  HUSK_TRY(replace_state(state));
  if (state.init_pending) signal(kInit);
  if (state.sipi_pending) startup(state.sipi_vector);
  if (deps_.model.has(cpu::Feature::kvmclock)) accel_.set_kvm_clock_offset(state.msr.kvm_clock_offset);
  return {};
}

Status KvmVcpu::replace_state(const cpu::CpuState& state) {
  HUSK_TRY(set_special(state));
  HUSK_TRY(set_floating_point(state));
  HUSK_TRY(set_msrs(state));
  kvm_debugregs debug = kvm::to_debugregs(state);
  if (state.pending_debug) {
    // As when the trap is taken: set_events() has it begin (SDM vol. 3, 18.2.3 and 18.2.4).
    constexpr std::uint64_t kBreakpoints = 0xF, kGeneralDetect = 1u << 13;
    debug.dr6 = (debug.dr6 & ~kBreakpoints) | state.pending_debug;
    debug.dr7 &= ~kGeneralDetect;
  }
  if (call(fd_.get(), KVM_SET_DEBUGREGS, &debug) != 0) return fail_errno(errno, "KVM refuses the debug registers");
  HUSK_TRY(set_events(state));
  const kvm_regs regs = kvm::to_regs(state);
  if (call(fd_.get(), KVM_SET_REGS, &regs) != 0) return fail_errno(errno, "KVM refuses the general registers");
  HUSK_TRY(set_activity(state.activity));
  halted_with_if_ = state.rflags & cpu::kIF;
  can_inject_ = false;
  given_.reset();
  access_open_ = false;
  tsc_offset_ = state.msr.tsc_offset - accel_.tsc_drift_;
  return {};
}

Status KvmVcpu::set_special(const cpu::CpuState& state) {
  kvm_sregs2 special = kvm::to_sregs(state);
  if (kernel_apic_) {
    kvm_sregs have{};
    if (call(fd_.get(), KVM_GET_SREGS, &have) != 0) return fail_errno(errno, "KVM_GET_SREGS");
    special.apic_base = have.apic_base;
    special.cr8 = have.cr8;
  } else {
    apic_base_ = deps_.interrupts.apic_base();
    special.apic_base = apic_base_;
    special.cr8 = deps_.interrupts.task_priority();
    run_->cr8 = special.cr8;
  }
  if (accel_.deps_.system.caps().sregs2) {
    if (call(fd_.get(), KVM_SET_SREGS2, &special) == 0) return {};
  } else {
    kvm_sregs old{};
    copy_special(old, special);
    if (call(fd_.get(), KVM_SET_SREGS, &old) == 0) return {};
  }
  return fail_errno(errno, fmt::format("KVM refuses the control registers (CR0 {:#x}, CR4 {:#x}, EFER {:#x})",
                                       state.cr0, state.cr4, state.efer));
}

Status KvmVcpu::set_floating_point(const cpu::CpuState& state) {
  const kvm::Capabilities& caps = accel_.deps_.system.caps();
  if (caps.xcrs && deps_.model.has(cpu::Feature::xsave)) {
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].xcr = 0;
    xcrs.xcrs[0].value = state.xcr0;
    if (call(fd_.get(), KVM_SET_XCRS, &xcrs) != 0)
      return fail_errno(errno, fmt::format("KVM refuses XCR0 {:#x}", state.xcr0));
  }
  if (!caps.xsave) return {};
  const kvm::XsaveArea area = kvm::to_xsave(state, xsave_layout_);
  if (call(fd_.get(), kvm::kSetXsave, &area) != 0) return fail_errno(errno, "KVM refuses the XSAVE area");
  return {};
}

Status KvmVcpu::set_msrs(const cpu::CpuState& state) {
  // Only what differs is written: KVM has registers whose own value it does not take back.
  cpu::CpuState current = state;
  take_all_msrs(current);
  const kvm::MsrTable wanted = kvm::to_msrs(state, deps_.model), have = kvm::to_msrs(current, deps_.model);
  for (std::uint32_t i = 0; i < wanted.count; ++i) {
    if (wanted.entries[i].data == have.entries[i].data) continue;
    kvm::MsrTable one;
    one.count = 1;
    one.entries[0] = wanted.entries[i];
    if (call(fd_.get(), kvm::kSetMsrs, &one) != 1)
      return fail("KVM refuses the value {:#x} of {} (MSR {:#x})", std::uint64_t{wanted.entries[i].data},
                  kvm::msr_name(wanted.entries[i].index), std::uint32_t{wanted.entries[i].index});
  }
  return {};
}

Status KvmVcpu::set_events(const cpu::CpuState& state) {
  using Kind = cpu::InjectedEvent::Kind;
  kvm_vcpu_events events{};
  cpu::InjectedEvent injected = state.injected;
  if (state.pending_debug) {
    if (state.interrupt_shadow && state.shadow_holds_debug)
      return fail("KVM cannot hold back a debug trap of CPU {} behind a load of SS", deps_.index);
    if (injected.kind != Kind::none)
      return fail("KVM cannot hold a debug trap of CPU {} behind another event", deps_.index);
    injected = {Kind::exception, 1, false, 0};
  }
  switch (injected.kind) {
    case Kind::none: break;
    case Kind::exception:
      events.exception.injected = 1;
      events.exception.nr = injected.vector;
      events.exception.has_error_code = injected.has_error;
      events.exception.error_code = injected.error;
      break;
    case Kind::interrupt:
      events.interrupt.injected = 1;
      events.interrupt.nr = injected.vector;
      break;
    case Kind::nmi: events.nmi.injected = 1; break;
  }
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  events.interrupt.shadow = state.interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
  events.nmi.pending = state.nmi_pending;
  events.nmi.masked = state.nmi_blocked;
  if (call(fd_.get(), KVM_SET_VCPU_EVENTS, &events) != 0) return fail_errno(errno, "KVM refuses the pending events");
  return {};
}

cpu::Activity KvmVcpu::activity() const {
  kvm_mp_state state{};
  if (!kernel_apic_ || activity_ == cpu::Activity::shutdown || call(fd_.get(), KVM_GET_MP_STATE, &state) != 0)
    return activity_;
  switch (state.mp_state) {
    case KVM_MP_STATE_HALTED: return cpu::Activity::halted;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
    case KVM_MP_STATE_SIPI_RECEIVED: return cpu::Activity::wait_for_sipi;
    default: return cpu::Activity::running;
  }
}

Status KvmVcpu::set_activity(cpu::Activity activity) {
  // MWAIT may end at any time (SDM vol. 2), and KVM has no state for it.
  if (activity == cpu::Activity::mwait) activity = cpu::Activity::running;
  activity_ = activity;
  if (!kernel_apic_) return {};
  if (activity != cpu::Activity::shutdown) activity_ = cpu::Activity::running;
  kvm_mp_state state{};
  state.mp_state = activity == cpu::Activity::halted          ? KVM_MP_STATE_HALTED
                   : activity == cpu::Activity::wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED
                                                              : KVM_MP_STATE_RUNNABLE;
  if (call(fd_.get(), KVM_SET_MP_STATE, &state) != 0) return fail_errno(errno, "KVM_SET_MP_STATE");
  return {};
}

void KvmVcpu::reset(bool bootstrap) {
  attention_.store(0);
  cpu::CpuState state = cpu::reset_state(deps_.model.signature());
  if (!bootstrap) state.activity = cpu::Activity::wait_for_sipi;
  if (const auto set = replace_state(state); !set)
    accel_.deps_.log.error("reset of CPU {}: {}", deps_.index, set.error().text());
}

void KvmVcpu::init_by_signal() {
  deps_.interrupts.cpu_init();
  (void)settle();
  cpu::CpuState state = cpu::init_state(get_state(), deps_.model.signature());
  // The boot processor begins at the reset vector, the others wait (SDM vol. 3, 9.4.3).
  state.activity = (deps_.interrupts.apic_base() & 0x100) ? cpu::Activity::running : cpu::Activity::wait_for_sipi;
  if (const auto set = replace_state(state); !set)
    accel_.deps_.log.error("INIT of CPU {}: {}", deps_.index, set.error().text());
}

void KvmVcpu::start_by_signal(std::uint8_t vector) {
  cpu::CpuState state = get_state();
  // One that is still to be handled, as the other signals, comes later.
  if (attention_.load() & kNmi) state.nmi_pending = false;
  state.seg[cpu::kCs].selector = static_cast<std::uint16_t>(vector << 8);
  state.seg[cpu::kCs].base = static_cast<std::uint64_t>(vector) << 12;
  state.rip = 0;
  state.activity = cpu::Activity::running;
  if (const auto set = replace_state(state); !set)
    accel_.deps_.log.error("start of CPU {}: {}", deps_.index, set.error().text());
}

// ---- the time-stamp counter ----

Status KvmVcpu::apply_tsc_offset() {
  // Guest TSC = host TSC + KVM's offset.
  std::uint64_t offset = accel_.host_to_machine_tsc() + tsc_offset_;
  if (accel_.deps_.system.caps().tsc_offset) {
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<std::uintptr_t>(&offset);
    if (call(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute) != 0) return fail_errno(errno, "KVM refuses the TSC offset");
    return {};
  }
  kvm::MsrTable one;
  one.count = 1;
  one.entries[0].index = kMsrTsc;
  one.entries[0].data = __rdtsc() + offset;
  if (call(fd_.get(), kvm::kSetMsrs, &one) != 1) return fail("KVM refuses to set the TSC of CPU {}", deps_.index);
  return {};
}

void KvmVcpu::take_tsc_offset() {
  std::uint64_t offset = 0;
  if (accel_.deps_.system.caps().tsc_offset) {
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<std::uintptr_t>(&offset);
    if (call(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) != 0) return;
  } else {
    kvm::MsrTable one;
    one.count = 1;
    one.entries[0].index = kMsrTsc;
    if (call(fd_.get(), kvm::kGetMsrs, &one) != 1) return;
    offset = one.entries[0].data - __rdtsc();
  }
  tsc_offset_ = offset - accel_.host_to_machine_tsc();
}

// ---- debugger and traces ----

Status KvmVcpu::set_debug(const cpu::DebugRequest& request) {
  constexpr std::size_t kDebugRegisters = 4;
  if (request.breakpoints.size() + request.watchpoints.size() > kDebugRegisters)
    return std::unexpected(
        Error{fmt::format("accelerator kvm: {} breakpoints and watchpoints, and the processor has {}",
                          request.breakpoints.size() + request.watchpoints.size(), kDebugRegisters),
              "use fewer, or --accel soft"});
  for (const auto& watch : request.watchpoints) {
    const bool size_ok = watch.length == 1 || watch.length == 2 || watch.length == 4 || watch.length == 8;
    if (!size_ok || watch.address % watch.length != 0)
      return std::unexpected(
          Error{fmt::format("accelerator kvm: cannot watch {} bytes at {:#x}", watch.length, watch.address),
                "the processor watches 1, 2, 4 or 8 aligned bytes; or use --accel soft"});
  }
  debug_ = request;
  stepping_over_ = false;
  return apply_debug();
}

std::uint64_t KvmVcpu::linear_rip() const {
  kvm_regs regs{};
  kvm_sregs special{};
  if (call(fd_.get(), KVM_GET_REGS, &regs) != 0 || call(fd_.get(), KVM_GET_SREGS, &special) != 0) return 0;
  if ((special.efer & cpu::kEferLma) && special.cs.l) return regs.rip;
  return (special.cs.base + regs.rip) & 0xFFFFFFFF;
}

Status KvmVcpu::step_over_breakpoint() {
  const auto told = std::exchange(told_breakpoint_, std::nullopt);
  if (!told || linear_rip() != *told) return {};
  if (std::find(debug_.breakpoints.begin(), debug_.breakpoints.end(), *told) == debug_.breakpoints.end()) return {};
  stepping_over_ = true;
  return apply_debug(told);
}

Status KvmVcpu::apply_debug(std::optional<std::uint64_t> over) {
  kvm_guest_debug debug{};
  debug_on_ = debug_.any();
  if (debug_on_) debug.control = KVM_GUESTDBG_ENABLE;
  if (debug_.single_step || over) debug.control |= KVM_GUESTDBG_SINGLESTEP;
  std::uint64_t dr7 = 0x400;
  unsigned used = 0;
  const auto add = [&](std::uint64_t address, std::uint64_t type, std::uint64_t length, bool enable) {
    debug.arch.debugreg[used] = address;
    if (enable) dr7 |= std::uint64_t{2} << (used * 2) | (type | length << 2) << (16 + used * 4);
    ++used;
  };
  for (const std::uint64_t address : debug_.breakpoints) add(address, 0, 0, over != address);
  for (const auto& watch : debug_.watchpoints) {
    // SDM vol. 3, 18.2.4: 1 breaks on writes, 3 on reads and writes; lengths 1, 2, 8, 4 are 0, 1, 2, 3.
    const std::uint64_t length = watch.length == 8 ? 2 : watch.length - 1;
    add(watch.address, watch.read ? 3 : 1, length, true);
  }
  if (used) {
    debug.control |= KVM_GUESTDBG_USE_HW_BP;
    debug.arch.debugreg[7] = dr7;
  }
  if (call(fd_.get(), KVM_SET_GUEST_DEBUG, &debug) != 0) return fail_errno(errno, "KVM_SET_GUEST_DEBUG");
  return {};
}

Status KvmVcpu::set_trace(TraceSink* sink, std::uint32_t categories) {
  constexpr std::uint32_t kVisible = TraceSink::kIo | TraceSink::kMmio;
  if (sink && (categories & ~kVisible))
    return std::unexpected(Error{"accelerator kvm: exceptions, interrupts, MSRs and instructions cannot be traced",
                                 "trace io and mmio only, or use --accel soft"});
  trace_ = sink;
  trace_categories_ = sink ? categories : 0;
  return {};
}

}  // namespace husk::accel
