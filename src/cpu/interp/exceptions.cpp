// husk: delivery of exceptions and interrupts through the IVT and the IDT
#include <utility>

#include "cpu/interp/svm.h"
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kDr6Breakpoints = 0xF;
constexpr std::uint64_t kDr6Bd = 1u << 13;
constexpr std::uint64_t kDr7Gd = 1u << 13;
constexpr std::uint64_t kDebugControlBtf = 2;

bool is_software(Event::Kind kind) {
  return kind == Event::Kind::software_interrupt || kind == Event::Kind::software_exception ||
         kind == Event::Kind::privileged_software;
}

/// EXT in the error code of a fault met while delivering: clear only for INT n, INT3 and INTO (SDM vol. 3, 6.13).
bool sets_ext(const Event& event) {
  return event.kind != Event::Kind::software_interrupt && event.kind != Event::Kind::software_exception;
}

std::uint32_t gate_error(const Event& event) { return event.vector * 8u + 2u + (sets_ext(event) ? 1u : 0u); }

enum class FaultClass { benign, contributory, page_fault, double_fault };

FaultClass classify(const Event& event) {
  if (event.kind != Event::Kind::fault) return FaultClass::benign;
  switch (event.vector) {
    case kDE:
    case kTS:
    case kNP:
    case kSS_:
    case kGP: return FaultClass::contributory;
    case kPF_: return FaultClass::page_fault;
    case kDF_: return FaultClass::double_fault;
    default: return FaultClass::benign;
  }
}

/// SDM vol. 3, table 6-5.
bool makes_double_fault(FaultClass first, FaultClass second) {
  if (first == FaultClass::contributory) return second == FaultClass::contributory;
  if (first == FaultClass::page_fault) return second == FaultClass::contributory || second == FaultClass::page_fault;
  return false;
}

}  // namespace

void SystemOps::record_past(Core& core, const Event& event) {
  core.past_[core.past_count_++ % Core::kPastEvents] = {event, core.s.rip, core.s.seg[kCs].selector, core.instructions_};
}

void SystemOps::enter_shutdown(Core& core) {
  core.s.activity = Activity::shutdown;
  core.leave_block_ = true;
}

void Core::deliver(Event event) {
  SystemOps::deliver_chain(*this, event, s.rip, std::exchange(delivery_under_way_, 0), true);
}

void SystemOps::deliver_chain(Core& core, Event event, std::uint64_t return_rip, std::uint64_t under_way, bool intercepts) {
  CpuState& s = core.s;
  for (;; return_rip = s.rip, intercepts = true) {
    if (event.kind == Event::Kind::vm_exit) return leave_guest(core, under_way);
    const bool exception = event.kind == Event::Kind::fault || event.kind == Event::Kind::trap;
    if (event.vector == kDB && exception) {
      // B0..B3 tell the latest cause only, the other bits are left for software to clear (SDM vol. 3, 18.2.3).
      s.dr6 = (s.dr6 & ~kDr6Breakpoints) | event.dr6_bits;
      if (s.dr7 & kDr7Gd) s.dr7 &= ~kDr7Gd;
      s.msr.debug_control &= ~kDebugControlBtf;
    }
    // Before the rules of double faults, which are the hypervisor's affair then (APM vol. 2, 15.12). DR6 shows what the
    // handler would see, CR2 is as it was.
    if (exception && intercepts && core.intercepts(kExitException + event.vector)) {
      (void)core.vm_exit(kExitException + event.vector, event.has_error ? event.error : 0, event.vector == kPF_ ? event.cr2 : 0);
      return leave_guest(core, under_way);
    }
    record_past(core, event);
    if (core.trace_mask & (TraceSink::kExceptions | TraceSink::kInterrupts)) [[unlikely]] {
      if (exception && (core.trace_mask & TraceSink::kExceptions)) core.trace->exception(core, event);
      if (event.kind == Event::Kind::nmi && (core.trace_mask & TraceSink::kInterrupts)) core.trace->interrupt(core, event);
    }
    if (event.kind == Event::Kind::fault && event.vector == kPF_) s.cr2 = event.cr2;
    if (deliver_once(core, event, return_rip) != Flow::fault) return;
    const Event second = core.fault_;
    under_way = interruption_info(event);
    if (second.kind == Event::Kind::vm_exit) return leave_guest(core, under_way);
    if (core.intercepts(kExitException + second.vector)) {
      event = second;
      continue;
    }
    const FaultClass first = classify(event);
    if (first == FaultClass::double_fault) {
      record_past(core, second);
      if (core.trace_mask & TraceSink::kExceptions) [[unlikely]] core.trace->exception(core, second);
      if (core.intercepts(kExitShutdown)) {
        (void)core.vm_exit(kExitShutdown);
        return leave_guest(core, 0);
      }
      enter_shutdown(core);
      return;
    }
    if (makes_double_fault(first, classify(second))) {
      if (second.vector == kPF_) s.cr2 = second.cr2;
      event = {.kind = Event::Kind::fault, .vector = kDF_, .has_error = true, .error = 0};
    } else {
      event = second;
    }
  }
}

Flow Core::software_interrupt(std::uint8_t vector, Event::Kind kind, std::uint64_t next_rip) {
  const Event event{.kind = kind, .vector = vector};
  // INT3, INTO and INT1 count as exceptions, INT n never (APM vol. 2, 15.12).
  if (kind != Event::Kind::software_interrupt && intercepts(kExitException + vector)) [[unlikely]] {
    // #DB is a trap: the instruction has been done.
    if (kind == Event::Kind::privileged_software) s.rip = std::exchange(next_rip, 0);
    return vm_exit(kExitException + vector, 0, 0, next_rip);
  }
  if (s.v86() && kind == Event::Kind::software_interrupt) {
    const bool iopl3 = bits(s.rflags, 12, 2) == 3;
    if (s.cr4 & kCr4Vme) {
      // The redirection bitmap lies in the 32 bytes below the I/O bitmap (SDM vol. 3, 21.3.3).
      std::uint16_t io_map;
      std::uint8_t redirect;
      if (!(s.tr.type() & 8) || s.tr.limit < 103) return raise_gp();
      if (!load_system(s.tr.base + 102, io_map)) return Flow::fault;
      const std::uint64_t at = std::uint64_t{io_map} - 32 + vector / 8;
      if (io_map < 32 || at > s.tr.limit) return raise_gp();
      if (!load_system(s.tr.base + at, redirect)) return Flow::fault;
      if (!bit(redirect, vector & 7)) {
        SystemOps::record_past(*this, event);
        const Flow flow = SystemOps::deliver_real(*this, event, next_rip, 0, true);
        if (flow == Flow::fault) delivery_under_way_ = SystemOps::interruption_info(event);
        return flow;
      }
    }
    if (!iopl3) return raise_gp();
  }
  SystemOps::record_past(*this, event);
  if (trace_mask & TraceSink::kInterrupts) [[unlikely]] trace->interrupt(*this, event);
  const Flow flow = SystemOps::deliver_once(*this, event, next_rip);
  if (flow == Flow::fault) delivery_under_way_ = SystemOps::interruption_info(event);
  return flow;
}

std::uint64_t SystemOps::pushed_rflags(const Core& core, const Event& event) {
  const std::uint64_t flags = core.s.rflags;
  if (event.kind == Event::Kind::fault && event.vector != kDF_ && event.vector != kMC) {
    // An instruction breakpoint's own #DB pushes RF as it is (0); the handler sets it (SDM vol. 3, 18.3.1.1).
    const bool breakpoint = event.vector == kDB && !(event.dr6_bits & kDr6Bd);
    return breakpoint ? flags : flags | kRF;
  }
  if (event.kind == Event::Kind::trap || is_software(event.kind)) return flags & ~std::uint64_t{kRF};
  return flags;
}

Flow SystemOps::deliver_once(Core& core, const Event& event, std::uint64_t return_rip) {
  Flow flow;
  if (core.s.real_mode()) flow = deliver_real(core, event, return_rip, core.s.idtr.base, false);
  else if (core.s.long_mode_active()) flow = deliver_long(core, event, return_rip);
  else flow = deliver_protected(core, event, return_rip);
  if (flow == Flow::fault) return flow;
  if (event.kind == Event::Kind::nmi) core.s.nmi_blocked = true;
  core.s.interrupt_shadow = false;
  return flow;
}

Flow SystemOps::deliver_real(Core& core, const Event& event, std::uint64_t return_rip, std::uint64_t table, bool virtual_8086) {
  CpuState& s = core.s;
  const std::uint32_t entry = event.vector * 4u;
  if (!virtual_8086 && entry + 3 > s.idtr.limit) return core.raise(kGP, gate_error(event));
  std::uint32_t target;
  if (!core.load_system(table + entry, target)) return Flow::fault;
  std::uint64_t flags = pushed_rflags(core, event);
  const bool iopl3 = bits(s.rflags, 12, 2) == 3;
  if (virtual_8086 && !iopl3) {
    // SDM vol. 3, 21.3.3.3: the image shows VIF as IF, and IOPL 3.
    flags = (flags & ~std::uint64_t{kIF}) | kIOPL | ((flags & kVIF) ? std::uint64_t{kIF} : 0);
  }
  StackCursor stack = current_stack(core);
  if (!push(core, stack, 2, flags) || !push(core, stack, 2, s.seg[kCs].selector) || !push(core, stack, 2, return_rip))
    return Flow::fault;
  const std::uint64_t offset = target & 0xFFFF;
  if (offset > s.seg[kCs].limit) return core.raise_gp();
  commit_stack(core, stack);
  std::uint64_t clear = kTF;
  if (!virtual_8086) clear |= kIF | kAC | kRF;
  else clear |= iopl3 ? kIF : kVIF;
  s.rflags &= ~clear;
  s.seg[kCs] = real_segment(core, kCs, static_cast<std::uint16_t>(target >> 16));
  s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

namespace {
/// What both protected-mode forms do with the gate's code segment. False: fault recorded.
bool read_handler_segment(Core& core, const Event& event, std::uint16_t selector, Descriptor& code) {
  const bool ext = sets_ext(event);
  if (null_selector(selector)) {
    (void)core.raise(kGP, ext ? 1 : 0);
    return false;
  }
  if (!SystemOps::read_descriptor(core, selector, kGP, ext, code)) return false;
  if (!code.is_code() || code.dpl() > core.cpl()) {
    (void)core.raise(kGP, selector_error(selector, ext));
    return false;
  }
  if (!code.present()) {
    (void)core.raise(kNP, selector_error(selector, ext));
    return false;
  }
  return true;
}

/// IDT limit, type, DPL and P of a gate. False: fault recorded.
bool check_gate(Core& core, const Event& event, const Descriptor& gate, bool type_ok) {
  const bool dpl_checked = event.kind == Event::Kind::software_interrupt || event.kind == Event::Kind::software_exception;
  if (!type_ok || (dpl_checked && gate.dpl() < core.cpl())) {
    (void)core.raise(kGP, gate_error(event));
    return false;
  }
  if (!gate.present()) {
    (void)core.raise(kNP, gate_error(event));
    return false;
  }
  return true;
}
}  // namespace

Flow SystemOps::deliver_long(Core& core, const Event& event, std::uint64_t return_rip) {
  CpuState& s = core.s;
  const bool ext = sets_ext(event);
  const std::uint32_t entry = event.vector * 16u;
  if (entry + 15 > s.idtr.limit) return core.raise(kGP, gate_error(event));
  Descriptor gate;
  if (!core.load_system(s.idtr.base + entry, gate.low) || !core.load_system(s.idtr.base + entry + 8, gate.high)) return Flow::fault;
  const bool type_ok = !gate.code_or_data() && (gate.type() == kInterruptGate32 || gate.type() == kTrapGate32);
  if (!check_gate(core, event, gate, type_ok)) return Flow::fault;
  const std::uint16_t selector = gate.gate_selector();
  Descriptor code;
  if (!read_handler_segment(core, event, selector, code)) return Flow::fault;
  if (!code.long_mode() || code.big()) return core.raise(kGP, selector_error(selector, ext));
  const unsigned new_cpl = code.conforming() ? core.cpl_ : code.dpl();

  StackCursor stack;
  if (gate.gate_ist() != 0 || new_cpl != core.cpl_) {
    const unsigned offset = gate.gate_ist() != 0 ? 28 + gate.gate_ist() * 8 : 4 + new_cpl * 8;
    if (!long_stack(core, offset, new_cpl, ext, stack)) return Flow::fault;
  } else {
    stack = current_stack(core);
    stack.flat = true;
    stack.mask = ~std::uint64_t{0};
    stack.error = ext ? 1 : 0;
  }
  stack.sp &= ~std::uint64_t{15};
  const std::uint64_t offset = gate.gate_offset();
  if (!core.canonical(offset)) return core.raise(kGP, ext ? 1 : 0);
  if (!push(core, stack, 8, s.seg[kSs].selector) || !push(core, stack, 8, s.gpr[kRsp]) ||
      !push(core, stack, 8, pushed_rflags(core, event)) || !push(core, stack, 8, s.seg[kCs].selector) ||
      !push(core, stack, 8, return_rip) || (event.has_error && !push(core, stack, 8, event.error)))
    return Flow::fault;
  if (!set_accessed(core, code)) return Flow::fault;
  commit_stack(core, stack);
  set_code_segment(core, code, selector, new_cpl);
  std::uint64_t clear = kTF | kNT | kRF | kVM;
  if (gate.type() == kInterruptGate32) clear |= kIF;
  s.rflags &= ~clear;
  s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

Flow SystemOps::deliver_protected(Core& core, const Event& event, std::uint64_t return_rip) {
  CpuState& s = core.s;
  const bool ext = sets_ext(event);
  const std::uint32_t entry = event.vector * 8u;
  if (entry + 7 > s.idtr.limit) return core.raise(kGP, gate_error(event));
  Descriptor gate;
  if (!core.load_system(s.idtr.base + entry, gate.low)) return Flow::fault;
  const unsigned type = gate.type();
  const bool type_ok = !gate.code_or_data() && (type == kTaskGate || type == kInterruptGate16 || type == kTrapGate16 ||
                                                type == kInterruptGate32 || type == kTrapGate32);
  if (!check_gate(core, event, gate, type_ok)) return Flow::fault;
  if (type == kTaskGate) {
    const std::uint16_t tss = gate.gate_selector();
    return task_switch(core, tss, TaskSource::gate, return_rip, ext,
                       event.has_error ? std::optional<std::uint32_t>(event.error) : std::nullopt, pushed_rflags(core, event));
  }
  const std::uint16_t selector = gate.gate_selector();
  Descriptor code;
  if (!read_handler_segment(core, event, selector, code)) return Flow::fault;
  const bool v86 = s.v86();
  const bool inner = !code.conforming() && code.dpl() < core.cpl_;
  // Out of virtual-8086 mode there is only one way: to ring 0.
  if (v86 && (!inner || code.dpl() != 0)) return core.raise(kGP, selector_error(selector, ext));
  const unsigned new_cpl = inner ? code.dpl() : core.cpl_;
  const unsigned size = type & 8 ? 4 : 2;
  const std::uint64_t offset = size == 4 ? bits(gate.gate_offset(), 0, 32) : bits(gate.gate_offset(), 0, 16);

  StackCursor stack;
  if (inner) {
    if (!inner_stack(core, new_cpl, ext, stack)) return Flow::fault;
    if (v86) {
      for (const unsigned seg : {kGs, kFs, kDs, kEs})
        if (!push(core, stack, size, s.seg[seg].selector)) return Flow::fault;
    }
    if (!push(core, stack, size, s.seg[kSs].selector) || !push(core, stack, size, s.gpr[kRsp])) return Flow::fault;
  } else {
    stack = current_stack(core);
    stack.error = ext ? 1 : 0;
  }
  if (!push(core, stack, size, pushed_rflags(core, event)) || !push(core, stack, size, s.seg[kCs].selector) ||
      !push(core, stack, size, return_rip) || (event.has_error && !push(core, stack, size, event.error)))
    return Flow::fault;
  if (offset > code.limit()) return core.raise(kGP, ext ? 1 : 0);
  if (!set_accessed(core, code)) return Flow::fault;
  if (v86)
    for (const unsigned seg : {kGs, kFs, kDs, kEs}) load_null(core, seg, 0);
  commit_stack(core, stack);
  set_code_segment(core, code, selector, new_cpl);
  std::uint64_t clear = kTF | kNT | kRF | kVM;
  if (type == kInterruptGate16 || type == kInterruptGate32) clear |= kIF;
  s.rflags &= ~clear;
  s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

}  // namespace husk::cpu::interp
