// husk: AMD SVM: VMRUN and #VMEXIT, the instructions about the VMCB and GIF, events while a guest's guest runs
#include "cpu/interp/svm.h"

#include <utility>

#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/state_check.h"

// The VMCB is guest memory: another CPU may change it at any time, or the guest's guest may have it mapped. VMRUN reads
// each field once, into CpuState, which is what counts until #VMEXIT.

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kDr6Fixed = 0xFFFF0FF0, kDr6Writable = 0xE00F;
constexpr std::uint64_t kDr7Fixed = 0x400, kDr7Writable = 0xFFFF23FF;
constexpr std::uint64_t kCr0Defined = kCr0Pe | kCr0Mp | kCr0Em | kCr0Ts | kCr0Et | kCr0Ne | kCr0Wp | kCr0Am | kCr0Nw | kCr0Cd | kCr0Pg;
constexpr std::uint64_t kRflagsDefined = 0x3F7FD5;
constexpr std::uint64_t kIoMapBytes = 0x3000, kMsrMapBytes = 0x2000;
constexpr std::uint64_t kVirtualIrq = 1u << 8, kVirtualIgnoreTpr = 1u << 20, kVirtualMasking = 1u << 24;

using VmcbBytes = std::array<std::uint8_t, kVmcbEnd>;

template <class T>
T field(const VmcbBytes& vmcb, unsigned offset) {
  return load_le<T>(vmcb.data() + offset);
}

/// Attributes have no gap in the VMCB (APM vol. 2, 15.5.1).
Segment segment_from(const std::uint8_t* raw) {
  const auto packed = load_le<std::uint16_t>(raw + 2);
  return {.selector = load_le<std::uint16_t>(raw),
          .attributes = static_cast<std::uint16_t>((packed & 0xFF) | (packed & 0xF00) << 4),
          .limit = load_le<std::uint32_t>(raw + 4),
          .base = load_le<std::uint64_t>(raw + 8)};
}
void segment_to(const Segment& segment, std::uint8_t* raw) {
  store_le<std::uint16_t>(raw, segment.selector);
  store_le<std::uint16_t>(raw + 2, static_cast<std::uint16_t>((segment.attributes & 0xFF) | (segment.attributes >> 4 & 0xF00)));
  store_le<std::uint32_t>(raw + 4, segment.limit);
  store_le<std::uint64_t>(raw + 8, segment.base);
}

/// Bases and targets that are loaded without a check are made canonical (APM vol. 2, 15.5.1).
std::uint64_t canonical_form(const Core& core, std::uint64_t value) {
  const unsigned unused = core.model.linear_bits == 57 ? 7 : 16;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value << unused) >> unused);
}

bool svm_usable(const Core& core) { return (core.s.efer & kEferSvme) && !core.s.real_mode() && !core.s.v86(); }

/// The physical address in rAX, of a page.
std::uint64_t address_in_rax(const Core& core, const Insn& insn) { return core.s.gpr[kRax] & mask_of(insn.addr_size * 8u); }
bool page_ok(const Core& core, std::uint64_t address) {
  return !(address & ~(mask_of(core.model.physical_bits) & ~std::uint64_t{0xFFF}));
}
bool map_ok(const Core& core, std::uint64_t address, std::uint64_t bytes) {
  const std::uint64_t limit = std::uint64_t{1} << core.model.physical_bits;
  return address < limit && limit - address >= bytes;
}

bool injection_ok(std::uint64_t injection) {
  if (!(injection & kEventValid)) return true;
  const auto vector = injection & 0xFF;
  switch (bits(injection, 8, 3)) {
    case kEventInterrupt:
    case kEventNmi:
    case kEventSoftware: return true;
    case kEventException: return vector < 32 && vector != 2;
    default: return false;
  }
}

bool pat_ok(std::uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) {
    const std::uint64_t type = bits(value, i * 8, 8);
    if (type > 7 || type == 2 || type == 3) return false;
  }
  return true;
}

/// The consistency checks of VMRUN (APM vol. 2, 15.5.1, "Canonicalization and Consistency Checks").
bool consistent(const Core& core, const VmcbBytes& vmcb) {
  const auto efer = field<std::uint64_t>(vmcb, kVmcbEfer);
  const auto cr0 = field<std::uint64_t>(vmcb, kVmcbCr0);
  const auto cr3 = field<std::uint64_t>(vmcb, kVmcbCr3);
  const auto cr4 = field<std::uint64_t>(vmcb, kVmcbCr4);
  const std::uint64_t beyond = ~mask_of(core.model.physical_bits);
  if (!(efer & kEferSvme) || (efer & ~efer_bits(core.model))) return false;
  if ((cr0 >> 32) || ((cr0 & kCr0Nw) && !(cr0 & kCr0Cd))) return false;
  if (cr4 & ~cr4_bits(core.model)) return false;
  if ((field<std::uint64_t>(vmcb, kVmcbDr6) >> 32) || (field<std::uint64_t>(vmcb, kVmcbDr7) >> 32)) return false;
  if ((efer & kEferLme) && (cr0 & kCr0Pg)) {
    if (!(cr4 & kCr4Pae) || !(cr0 & kCr0Pe) || (cr3 & beyond)) return false;
    const Segment cs = segment_from(vmcb.data() + kVmcbSegments + 16 * kCs);
    if (cs.long_mode() && cs.big()) return false;
  }
  if (!bit(field<std::uint32_t>(vmcb, kVmcbIntercepts + 16), kExitVmrun % 32)) return false;
  if (field<std::uint32_t>(vmcb, kVmcbAsid) == 0) return false;
  constexpr std::uint64_t kPage = ~std::uint64_t{0xFFF};
  if (!map_ok(core, field<std::uint64_t>(vmcb, kVmcbIoMap) & kPage, kIoMapBytes) ||
      !map_ok(core, field<std::uint64_t>(vmcb, kVmcbMsrMap) & kPage, kMsrMapBytes))
    return false;
  const bool nested = field<std::uint64_t>(vmcb, kVmcbNested) & 1;
  if (nested && (!core.model.has(Feature::npt) || (field<std::uint64_t>(vmcb, kVmcbNestedCr3) & beyond) ||
                 !pat_ok(field<std::uint64_t>(vmcb, kVmcbPat)) || !(core.s.cr0 & kCr0Pg)))
    return false;
  return injection_ok(field<std::uint64_t>(vmcb, kVmcbEventInjection));
}

SvmState controls(const VmcbBytes& vmcb, std::uint64_t address) {
  SvmState svm;
  svm.guest = true;
  svm.vmcb = address;
  for (unsigned i = 0; i < svm.intercepts.size(); ++i) svm.intercepts[i] = field<std::uint32_t>(vmcb, kVmcbIntercepts + i * 4);
  svm.io_map = field<std::uint64_t>(vmcb, kVmcbIoMap) & ~std::uint64_t{0xFFF};
  svm.msr_map = field<std::uint64_t>(vmcb, kVmcbMsrMap) & ~std::uint64_t{0xFFF};
  svm.tsc_offset = field<std::uint64_t>(vmcb, kVmcbTscOffset);
  svm.asid = field<std::uint32_t>(vmcb, kVmcbAsid);
  svm.nested_paging = field<std::uint64_t>(vmcb, kVmcbNested) & 1;
  if (svm.nested_paging) svm.nested_cr3 = field<std::uint64_t>(vmcb, kVmcbNestedCr3);
  const auto control = field<std::uint64_t>(vmcb, kVmcbVirtual);
  svm.virtual_tpr = control & 15;
  svm.virtual_interrupt = control & kVirtualIrq;
  svm.virtual_priority = bits(control, 16, 4) & 15;
  svm.ignore_virtual_tpr = control & kVirtualIgnoreTpr;
  svm.virtual_masking = control & kVirtualMasking;
  svm.virtual_vector = static_cast<std::uint8_t>(bits(control, 32, 8));
  svm.pause_threshold = field<std::uint16_t>(vmcb, kVmcbPauseThreshold);
  svm.pause_count = svm.pauses_left = field<std::uint16_t>(vmcb, kVmcbPauseCount);
  return svm;
}

void load_guest(Core& core, const VmcbBytes& vmcb) {
  CpuState& s = core.s;
  s.cr0 = (field<std::uint64_t>(vmcb, kVmcbCr0) & kCr0Defined) | kCr0Et;
  s.cr2 = field<std::uint64_t>(vmcb, kVmcbCr2);
  s.cr4 = field<std::uint64_t>(vmcb, kVmcbCr4);
  s.efer = field<std::uint64_t>(vmcb, kVmcbEfer) & ~std::uint64_t{kEferLma};
  if ((s.efer & kEferLme) && (s.cr0 & kCr0Pg)) s.efer |= kEferLma;
  s.cr3 = field<std::uint64_t>(vmcb, kVmcbCr3) & (s.long_mode_active() ? ~std::uint64_t{0} : 0xFFFFFFFF);
  s.rflags = (field<std::uint64_t>(vmcb, kVmcbRflags) & kRflagsDefined) | kReservedOne;
  if (s.long_mode_active() || !s.protected_mode()) s.rflags &= ~std::uint64_t{kVM};
  for (unsigned i = 0; i <= kDs; ++i) {
    s.seg[i] = segment_from(vmcb.data() + kVmcbSegments + 16 * i);
    s.seg[i].base = static_cast<std::uint32_t>(s.seg[i].base);
  }
  // The CPL has its own field; husk's place for it is SS.DPL.
  const unsigned cpl = s.real_mode() ? 0 : s.v86() ? 3 : field<std::uint8_t>(vmcb, kVmcbCpl) & 3u;
  s.seg[kSs].attributes = static_cast<std::uint16_t>((s.seg[kSs].attributes & ~0x60u) | cpl << 5);
  const auto table = [&](unsigned offset) {
    const Segment segment = segment_from(vmcb.data() + offset);
    return DescriptorTable{.base = canonical_form(core, segment.base), .limit = static_cast<std::uint16_t>(segment.limit)};
  };
  s.gdtr = table(kVmcbGdtr);
  s.idtr = table(kVmcbIdtr);
  s.dr6 = (field<std::uint64_t>(vmcb, kVmcbDr6) & kDr6Writable) | kDr6Fixed;
  s.dr7 = (field<std::uint64_t>(vmcb, kVmcbDr7) & kDr7Writable) | kDr7Fixed;
  s.rip = field<std::uint64_t>(vmcb, kVmcbRip);
  if (!s.code64()) s.rip = static_cast<std::uint32_t>(s.rip);
  s.gpr[kRsp] = field<std::uint64_t>(vmcb, kVmcbRsp);
  s.gpr[kRax] = field<std::uint64_t>(vmcb, kVmcbRax);
  if (s.svm.nested_paging) s.msr.pat = field<std::uint64_t>(vmcb, kVmcbPat);
  s.interrupt_shadow = field<std::uint64_t>(vmcb, kVmcbShadow) & 1;
  s.shadow_holds_debug = s.interrupt_shadow;
  s.pending_debug = 0;
  s.activity = Activity::running;
}

/// Writes a piece of the VMCB.
template <std::size_t N>
struct Piece {
  std::array<std::uint8_t, N> raw{};
  template <class T>
  void put(unsigned offset, T value) {
    store_le<T>(raw.data() + offset, value);
  }
};

}  // namespace

std::uint64_t SystemOps::interruption_info(const Event& event) {
  unsigned type = kEventException;
  switch (event.kind) {
    case Event::Kind::external: type = kEventInterrupt; break;
    case Event::Kind::nmi: type = kEventNmi; break;
    case Event::Kind::software_interrupt: type = kEventSoftware; break;
    default: break;
  }
  std::uint64_t info = event.vector | std::uint64_t{type} << 8 | kEventValid;
  if (event.has_error) info |= kEventHasError | std::uint64_t{event.error} << 32;
  return info;
}

void SystemOps::look_for_events(Core& core) {
  core.interrupt_waiting_ = true;
  // Translated code asks for nothing else before it goes on.
  core.attention_.fetch_or(Core::kAttentionInterrupt, std::memory_order_relaxed);
  core.leave_block_ = true;
}

void SystemOps::enter_guest(Core& core, std::uint64_t address, std::uint64_t next_rip) {
  CpuState& s = core.s;
  VmcbBytes vmcb;
  (void)core.physical_access(address, vmcb.data(), vmcb.size(), AccessKind::read);
  core.entered_guest_ = true;
  if (!consistent(core, vmcb)) {
    // The host's state is that before VMRUN: nothing was loaded.
    Piece<32> exit;
    exit.put<std::uint64_t>(0, kExitInvalid);
    (void)core.physical_access(address + kVmcbExitCode, exit.raw.data(), exit.raw.size(), AccessKind::write);
    s.rip = next_rip;
    set_gif(core, false);
    return;
  }
  const SvmHost host{.seg = {s.seg[kEs], s.seg[kCs], s.seg[kSs], s.seg[kDs]},
                     .gdtr = s.gdtr,
                     .idtr = s.idtr,
                     .cr0 = s.cr0,
                     .cr3 = s.cr3,
                     .cr4 = s.cr4,
                     .efer = s.efer,
                     .rflags = s.rflags,
                     .rip = next_rip,
                     .rsp = s.gpr[kRsp],
                     .rax = s.gpr[kRax],
                     .pat = s.msr.pat,
                     .pdpte = s.pdpte};
  s.svm = controls(vmcb, address);
  s.svm.host = host;
  load_guest(core, vmcb);
  core.monitor_.armed = false;
  switch (field<std::uint8_t>(vmcb, kVmcbTlbControl)) {
    case 0: break;
    case 3:
    case 7: forget_asid(core, s.svm.asid); break;
    default: forget_all_tags(core); break;
  }
  use_space(core);
  core.update_debug();
  core.update_mode();
  look_for_events(core);
  if ((s.cr0 & kCr0Pg) && (s.cr4 & kCr4Pae) && !s.long_mode_active() && !load_pdptes(core, s.cr3)) {
    (void)core.vm_exit(kExitInvalid);
    return leave_guest(core, 0);
  }
  const auto injection = field<std::uint64_t>(vmcb, kVmcbEventInjection);
  if (!(injection & kEventValid)) return;
  Event event{.vector = static_cast<std::uint8_t>(injection)};
  std::uint64_t return_rip = s.rip;
  switch (bits(injection, 8, 3)) {
    case kEventInterrupt: event.kind = Event::Kind::external; break;
    case kEventNmi:
      event.kind = Event::Kind::nmi;
      event.vector = kNMI;
      break;
    case kEventSoftware: event.kind = Event::Kind::software_interrupt; break;
    default:
      if (event.vector == kBP || event.vector == kOverflow) event.kind = Event::Kind::software_exception;
      else if (event.vector == kDB) event.kind = Event::Kind::trap;
      if (event.vector == kDB) event.dr6_bits = s.dr6 & 0xF;
      event.has_error = injection & kEventHasError;
      event.error = static_cast<std::uint32_t>(injection >> 32);
      event.cr2 = s.cr2;
      break;
  }
  // What the instruction would have pushed (APM vol. 2, 15.20).
  const bool software = event.kind == Event::Kind::software_interrupt || event.kind == Event::Kind::software_exception;
  if (software && core.model.has(Feature::nrip_save)) return_rip = field<std::uint64_t>(vmcb, kVmcbNextRip);
  deliver_chain(core, event, return_rip, 0, false);
}

void SystemOps::leave_guest(Core& core, std::uint64_t interrupted) {
  CpuState& s = core.s;
  const SvmState svm = s.svm;
  const Core::VmExit exit = core.exit_;
  const auto write = [&](unsigned offset, const auto& piece) {
    std::array<std::uint8_t, sizeof(piece.raw)> copy = piece.raw;
    (void)core.physical_access(svm.vmcb + offset, copy.data(), copy.size(), AccessKind::write);
  };
  const auto write_value = [&](unsigned offset, auto value) {
    std::uint8_t raw[sizeof value];
    store_le<decltype(value)>(raw, value);
    (void)core.physical_access(svm.vmcb + offset, raw, sizeof raw, AccessKind::write);
  };
  const auto read = [&](unsigned offset) {
    std::uint8_t raw[8];
    (void)core.physical_access(svm.vmcb + offset, raw, sizeof raw, AccessKind::read);
    return load_le<std::uint64_t>(raw);
  };
  Piece<0x30> control;
  std::uint64_t of_virtual = (read(kVmcbVirtual) & ~(kVirtualIrq | 0xFF)) | svm.virtual_tpr;
  if (svm.virtual_interrupt) of_virtual |= kVirtualIrq;
  control.put<std::uint64_t>(kVmcbVirtual - kVmcbVirtual, of_virtual);
  control.put<std::uint64_t>(kVmcbShadow - kVmcbVirtual, s.interrupt_shadow ? 1 : 0);
  control.put<std::uint64_t>(kVmcbExitCode - kVmcbVirtual, exit.code);
  control.put<std::uint64_t>(kVmcbExitInfo1 - kVmcbVirtual, exit.info1);
  control.put<std::uint64_t>(kVmcbExitInfo2 - kVmcbVirtual, exit.info2);
  control.put<std::uint64_t>(kVmcbExitIntInfo - kVmcbVirtual, interrupted);
  write(kVmcbVirtual, control);
  // All of it: KVM takes anything but zero for an event that still waits.
  write_value(kVmcbEventInjection, std::uint64_t{0});
  if (core.model.has(Feature::nrip_save)) write_value(kVmcbNextRip, exit.next_rip);

  Piece<0x40> segments;
  for (unsigned i = 0; i <= kDs; ++i) segment_to(s.seg[i], segments.raw.data() + 16 * i);
  write(kVmcbSegments, segments);
  for (const auto& [offset, table] : {std::pair{kVmcbGdtr, s.gdtr}, std::pair{kVmcbIdtr, s.idtr}}) {
    Piece<12> piece;
    piece.put<std::uint32_t>(0, table.limit);
    piece.put<std::uint64_t>(4, table.base);
    write(offset + 4, piece);
  }
  write_value(kVmcbCpl, static_cast<std::uint8_t>(s.cpl()));
  write_value(kVmcbEfer, s.efer);
  Piece<0x38> registers;
  registers.put<std::uint64_t>(kVmcbCr4 - kVmcbCr4, s.cr4);
  registers.put<std::uint64_t>(kVmcbCr3 - kVmcbCr4, s.cr3);
  registers.put<std::uint64_t>(kVmcbCr0 - kVmcbCr4, s.cr0);
  registers.put<std::uint64_t>(kVmcbDr7 - kVmcbCr4, s.dr7);
  registers.put<std::uint64_t>(kVmcbDr6 - kVmcbCr4, s.dr6);
  registers.put<std::uint64_t>(kVmcbRflags - kVmcbCr4, s.rflags);
  registers.put<std::uint64_t>(kVmcbRip - kVmcbCr4, s.rip);
  write(kVmcbCr4, registers);
  write_value(kVmcbRsp, s.gpr[kRsp]);
  write_value(kVmcbRax, s.gpr[kRax]);
  write_value(kVmcbCr2, s.cr2);
  if (svm.nested_paging) write_value(kVmcbPat, s.msr.pat);

  // The host comes back with GIF clear, at CPL 0 and with breakpoints off (APM vol. 2, 15.6).
  s.svm = {};
  s.svm.gif = false;
  for (unsigned i = 0; i <= kDs; ++i) s.seg[i] = svm.host.seg[i];
  s.gdtr = svm.host.gdtr;
  s.idtr = svm.host.idtr;
  s.cr0 = svm.host.cr0 | kCr0Pe;
  s.cr3 = svm.host.cr3;
  s.cr4 = svm.host.cr4;
  s.efer = svm.host.efer;
  s.rflags = svm.host.rflags & ~std::uint64_t{kVM};
  s.rip = svm.host.rip;
  s.gpr[kRsp] = svm.host.rsp;
  s.gpr[kRax] = svm.host.rax;
  s.msr.pat = svm.host.pat;
  s.pdpte = svm.host.pdpte;
  s.dr7 = kDr7Fixed;
  s.activity = Activity::running;
  s.pending_debug = 0;
  s.interrupt_shadow = s.shadow_holds_debug = false;
  core.monitor_.armed = false;
  use_space(core);
  core.update_debug();
  core.update_mode();
  look_for_events(core);
}

void SystemOps::set_gif(Core& core, bool on) {
  core.s.svm.gif = on;
  core.leave_block_ = true;
  if (!on) return;
  look_for_events(core);
  if (std::exchange(core.s.init_pending, false)) core.init();
}

bool SystemOps::take_guest_event(Core& core) {
  CpuState& s = core.s;
  SvmState& svm = s.svm;
  if (!svm.gif) return false;
  const auto exit = [&](std::uint64_t code) {
    (void)core.vm_exit(code);
    leave_guest(core, 0);
    return true;
  };
  if (s.nmi_pending && !s.nmi_blocked) {
    // The NMI stays pending for the host (APM vol. 2, 15.13.2).
    if (core.intercepts(kExitNmi)) return exit(kExitNmi);
    if (!s.interrupt_shadow) {
      s.nmi_pending = false;
      s.activity = Activity::running;
      core.deliver({.kind = Event::Kind::nmi, .vector = kNMI});
      if (svm.guest) s.nmi_blocked = true;
      return true;
    }
  }
  if (!core.interrupt_waiting_) return false;
  const bool physical = core.deps_.interrupts.pending();
  const bool open = (s.rflags & kIF) && !s.interrupt_shadow;
  if (physical && (svm.virtual_masking ? (svm.host.rflags & kIF) != 0 : open)) {
    if (core.intercepts(kExitInterrupt)) return exit(kExitInterrupt);
    if (const auto vector = core.deps_.interrupts.acknowledge()) {
      s.activity = Activity::running;
      const Event event{.kind = Event::Kind::external, .vector = *vector};
      if (core.trace_mask & TraceSink::kInterrupts) core.trace->interrupt(core, event);
      core.deliver(event);
      return true;
    }
  }
  if (open && virtual_interrupt_ready(core)) {
    if (core.intercepts(kExitVirtualInterrupt)) return exit(kExitVirtualInterrupt);
    svm.virtual_interrupt = false;
    s.activity = Activity::running;
    core.deliver({.kind = Event::Kind::external, .vector = svm.virtual_vector});
    return true;
  }
  core.interrupt_waiting_ = physical || virtual_interrupt_ready(core);
  return false;
}

bool SystemOps::guest_wakes(Core& core) {
  const CpuState& s = core.s;
  if (s.nmi_pending && !s.nmi_blocked) return true;
  const bool open = (s.rflags & kIF) != 0 || s.activity == Activity::mwait;
  if (open && virtual_interrupt_ready(core)) return true;
  return core.deps_.interrupts.pending() && (s.svm.virtual_masking ? (s.svm.host.rflags & kIF) != 0 : open);
}

Flow SystemOps::vmrun(Core& core, const Insn& insn) {
  if (!svm_usable(core)) return core.raise_ud();
  const std::uint64_t address = address_in_rax(core, insn);
  if (core.cpl() != 0 || !page_ok(core, address)) return core.raise_gp();
  std::uint64_t next_rip = core.s.rip + insn.length;
  if (!core.code64()) next_rip = static_cast<std::uint32_t>(next_rip);
  enter_guest(core, address, next_rip);
  return Flow::jump;
}

Flow SystemOps::stgi(Core& core, const Insn&) {
  if (!svm_usable(core)) return core.raise_ud();
  if (core.cpl() != 0) return core.raise_gp();
  set_gif(core, true);
  return Flow::next;
}

Flow SystemOps::clgi(Core& core, const Insn&) {
  if (!svm_usable(core)) return core.raise_ud();
  if (core.cpl() != 0) return core.raise_gp();
  set_gif(core, false);
  return Flow::next;
}

// Entries of the page are dropped for every ASID, which is allowed.
Flow SystemOps::invlpga(Core& core, const Insn& insn) {
  if (!svm_usable(core)) return core.raise_ud();
  if (core.cpl() != 0) return core.raise_gp();
  core.flush_tlb_page(address_in_rax(core, insn));
  return Flow::next;
}

Flow SystemOps::vmload(Core& core, const Insn& insn) {
  if (!svm_usable(core)) return core.raise_ud();
  const std::uint64_t address = address_in_rax(core, insn);
  if (core.cpl() != 0 || !page_ok(core, address)) return core.raise_gp();
  VmcbBytes vmcb;
  (void)core.physical_access(address, vmcb.data(), vmcb.size(), AccessKind::read);
  CpuState& s = core.s;
  const auto segment = [&](unsigned offset) {
    Segment loaded = segment_from(vmcb.data() + offset);
    loaded.base = canonical_form(core, loaded.base);
    return loaded;
  };
  s.seg[kFs] = segment(kVmcbFs);
  s.seg[kGs] = segment(kVmcbGs);
  s.ldtr = segment(kVmcbLdtr);
  s.tr = segment(kVmcbTr);
  s.msr.star = field<std::uint64_t>(vmcb, kVmcbStar);
  s.msr.lstar = canonical_form(core, field<std::uint64_t>(vmcb, kVmcbLstar));
  s.msr.cstar = canonical_form(core, field<std::uint64_t>(vmcb, kVmcbCstar));
  s.msr.sfmask = field<std::uint32_t>(vmcb, kVmcbSfmask);
  s.msr.kernel_gs_base = canonical_form(core, field<std::uint64_t>(vmcb, kVmcbKernelGsBase));
  s.msr.sysenter_cs = field<std::uint64_t>(vmcb, kVmcbSysenterCs);
  s.msr.sysenter_esp = canonical_form(core, field<std::uint64_t>(vmcb, kVmcbSysenterEsp));
  s.msr.sysenter_eip = canonical_form(core, field<std::uint64_t>(vmcb, kVmcbSysenterEip));
  core.update_mode();
  return Flow::next;
}

Flow SystemOps::vmsave(Core& core, const Insn& insn) {
  if (!svm_usable(core)) return core.raise_ud();
  const std::uint64_t address = address_in_rax(core, insn);
  if (core.cpl() != 0 || !page_ok(core, address)) return core.raise_gp();
  const CpuState& s = core.s;
  const auto write = [&](unsigned offset, auto piece) {
    (void)core.physical_access(address + offset, piece.raw.data(), piece.raw.size(), AccessKind::write);
  };
  Piece<0x20> fs_gs;
  segment_to(s.seg[kFs], fs_gs.raw.data());
  segment_to(s.seg[kGs], fs_gs.raw.data() + 16);
  write(kVmcbFs, fs_gs);
  Piece<0x10> segment;
  segment_to(s.ldtr, segment.raw.data());
  write(kVmcbLdtr, segment);
  segment_to(s.tr, segment.raw.data());
  write(kVmcbTr, segment);
  Piece<0x40> registers;
  registers.put<std::uint64_t>(kVmcbStar - kVmcbStar, s.msr.star);
  registers.put<std::uint64_t>(kVmcbLstar - kVmcbStar, s.msr.lstar);
  registers.put<std::uint64_t>(kVmcbCstar - kVmcbStar, s.msr.cstar);
  registers.put<std::uint64_t>(kVmcbSfmask - kVmcbStar, s.msr.sfmask);
  registers.put<std::uint64_t>(kVmcbKernelGsBase - kVmcbStar, s.msr.kernel_gs_base);
  registers.put<std::uint64_t>(kVmcbSysenterCs - kVmcbStar, s.msr.sysenter_cs);
  registers.put<std::uint64_t>(kVmcbSysenterEsp - kVmcbStar, s.msr.sysenter_esp);
  registers.put<std::uint64_t>(kVmcbSysenterEip - kVmcbStar, s.msr.sysenter_eip);
  write(kVmcbStar, registers);
  return Flow::next;
}

namespace {
/// VMMCALL that nothing intercepts.
Flow vmmcall(Core& core, const Insn&) { return core.raise_ud(); }
}  // namespace

void bind_svm(HandlerTable& t) {
  t.set(Sem::vmrun, SystemOps::vmrun);
  t.set(Sem::vmload, SystemOps::vmload);
  t.set(Sem::vmsave, SystemOps::vmsave);
  t.set(Sem::vmmcall, vmmcall);
  t.set(Sem::stgi, SystemOps::stgi);
  t.set(Sem::clgi, SystemOps::clgi);
  t.set(Sem::invlpga, SystemOps::invlpga);
}

}  // namespace husk::cpu::interp
