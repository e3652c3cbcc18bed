// husk: RETF and IRET in every form
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

namespace {
std::uint64_t cut(std::uint64_t value, unsigned size) {
  return size == 8 ? value : value & (size == 4 ? 0xFFFFFFFF : 0xFFFF);
}
}  // namespace

std::uint64_t SystemOps::flags_mask(const Core& core, unsigned size) {
  std::uint64_t mask = kCF | kPF | kAF | kZF | kSF | kTF | kDF | kOF | kNT;
  const unsigned iopl = static_cast<unsigned>(bits(core.s.rflags, 12, 2));
  if (size >= 4) mask |= kRF | kAC | kID;
  if (core.cpl_ <= iopl) mask |= kIF;
  if (core.cpl_ == 0) {
    mask |= kIOPL;
    if (size >= 4) mask |= kVIF | kVIP;
  }
  return mask;
}

Flow Core::far_return(unsigned op_size, std::uint16_t release) {
  return s.real_mode() || s.v86() ? SystemOps::real_return(*this, op_size, release)
                                  : SystemOps::protected_return(*this, op_size, release);
}

Flow SystemOps::real_return(Core& core, unsigned size, std::uint16_t release) {
  StackCursor stack = current_stack(core);
  std::uint64_t rip, cs;
  if (!pop(core, stack, size, rip) || !pop(core, stack, size, cs)) return Flow::fault;
  if (rip > core.s.seg[kCs].limit) return core.raise_gp();
  stack.sp = (stack.sp & ~stack.mask) | ((stack.sp + release) & stack.mask);
  commit_stack(core, stack);
  return real_far_jump(core, static_cast<std::uint16_t>(cs), rip);
}

Flow SystemOps::protected_return(Core& core, unsigned size, std::uint16_t release) {
  Return r{.size = size, .release = release, .stack = current_stack(core)};
  std::uint64_t cs;
  if (!pop(core, r.stack, size, r.rip) || !pop(core, r.stack, size, cs)) return Flow::fault;
  r.cs = static_cast<std::uint16_t>(cs);
  return return_to(core, r);
}

bool SystemOps::check_return_stack(Core& core, std::uint16_t selector, unsigned rpl, bool to64, Segment& ss) {
  if (null_selector(selector)) {
    if (!to64 || rpl == 3) {
      (void)core.raise_gp();
      return false;
    }
    if ((selector & 3u) != rpl) {
      (void)core.raise(kGP, selector_error(selector));
      return false;
    }
    ss = {.selector = selector, .attributes = static_cast<std::uint16_t>(rpl << 5), .limit = 0, .base = 0};
    return true;
  }
  Descriptor d;
  if (!read_descriptor(core, selector, kGP, false, d)) return false;
  const std::uint32_t error = selector_error(selector);
  if ((selector & 3u) != rpl || !d.writable_data() || d.dpl() != rpl) {
    (void)core.raise(kGP, error);
    return false;
  }
  if (!d.present()) {
    (void)core.raise(kSS_, error);
    return false;
  }
  if (!set_accessed(core, d)) return false;
  ss = d.segment(selector);
  return true;
}

// The order of checks is that of RET and IRET in SDM vol. 2.
Flow SystemOps::return_to(Core& core, Return r) {
  CpuState& s = core.s;
  const unsigned cpl = core.cpl_;
  const unsigned rpl = r.cs & 3;
  if (null_selector(r.cs)) return core.raise_gp();
  Descriptor code;
  if (!read_descriptor(core, r.cs, kGP, false, code)) return Flow::fault;
  const std::uint32_t error = selector_error(r.cs);
  if (!code.is_code() || rpl < cpl) return core.raise(kGP, error);
  if (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl) return core.raise(kGP, error);
  if (bad_code_width(core, code)) return core.raise(kGP, error);
  if (!code.present()) return core.raise(kNP, error);

  const bool to64 = s.long_mode_active() && code.long_mode();
  const bool outer = rpl > cpl;
  // IRET of 64-bit code pops SS:RSP whether the privilege changes or not.
  const bool pops_stack = outer || (r.iret && core.code64());
  if (!pops_stack) {
    if (!check_code_target(core, code, r.rip) || !set_accessed(core, code)) return Flow::fault;
    r.stack.sp = (r.stack.sp & ~r.stack.mask) | ((r.stack.sp + r.release) & r.stack.mask);
    commit_stack(core, r.stack);
  } else {
    r.stack.sp = (r.stack.sp & ~r.stack.mask) | ((r.stack.sp + r.release) & r.stack.mask);
    std::uint64_t sp, ss_selector;
    if (!pop(core, r.stack, r.size, sp) || !pop(core, r.stack, r.size, ss_selector)) return Flow::fault;
    Segment ss;
    if (!check_return_stack(core, static_cast<std::uint16_t>(ss_selector), rpl, to64, ss)) return Flow::fault;
    if (!check_code_target(core, code, r.rip) || !set_accessed(core, code)) return Flow::fault;
    StackCursor to{.ss = ss};
    to.mask = to64 ? ~std::uint64_t{0} : ss.big() ? 0xFFFFFFFF : 0xFFFF;
    to.sp = sp + r.release;
    commit_stack(core, to);
  }
  const std::uint64_t mask = r.iret ? flags_mask(core, r.size) : 0;
  set_code_segment(core, code, r.cs, rpl);
  if (outer) drop_inaccessible_segments(core, rpl);
  s.rip = r.rip;
  if (r.iret) s.rflags = (s.rflags & ~mask) | (r.rflags & mask) | kReservedOne;
  core.update_mode();
  return Flow::jump;
}

Flow Core::interrupt_return(unsigned op_size, std::uint64_t next_rip) {
  Flow flow;
  if (s.real_mode()) flow = SystemOps::iret_real(*this, op_size);
  else if (s.v86()) flow = SystemOps::iret_v86(*this, op_size);
  else flow = SystemOps::iret_protected(*this, op_size, next_rip);
  if (flow != Flow::fault) s.nmi_blocked = false;
  return flow;
}

Flow SystemOps::iret_real(Core& core, unsigned size) {
  StackCursor stack = current_stack(core);
  std::uint64_t rip, cs, flags;
  if (!pop(core, stack, size, rip) || !pop(core, stack, size, cs) || !pop(core, stack, size, flags)) return Flow::fault;
  if (rip > core.s.seg[kCs].limit) return core.raise_gp();
  commit_stack(core, stack);
  // EFLAGS := (temp AND 257FD5H) OR (EFLAGS AND 1A0000H): VM, VIF and VIP stay.
  const std::uint64_t mask = size == 2 ? std::uint64_t{0x7FD5} : std::uint64_t{0x257FD5};
  core.write_rflags(flags, mask);
  return real_far_jump(core, static_cast<std::uint16_t>(cs), rip);
}

Flow SystemOps::iret_v86(Core& core, unsigned size) {
  CpuState& s = core.s;
  const bool iopl3 = bits(s.rflags, 12, 2) == 3;
  const bool vme = (s.cr4 & kCr4Vme) && size == 2;
  if (!iopl3 && !vme) return core.raise_gp();
  StackCursor stack = current_stack(core);
  std::uint64_t rip, cs, flags;
  if (!pop(core, stack, size, rip) || !pop(core, stack, size, cs) || !pop(core, stack, size, flags)) return Flow::fault;
  if (!iopl3 && (((flags & kIF) && (s.rflags & kVIP)) || (flags & kTF))) return core.raise_gp();
  if (rip > s.seg[kCs].limit) return core.raise_gp();
  commit_stack(core, stack);
  std::uint64_t mask = kCF | kPF | kAF | kZF | kSF | kTF | kDF | kOF | kNT;
  if (size == 4) mask |= kRF | kAC | kID;
  if (iopl3) {
    mask |= kIF;
  } else {
    mask |= kVIF;
    flags = (flags & ~std::uint64_t{kVIF}) | ((flags & kIF) ? std::uint64_t{kVIF} : 0);
  }
  core.write_rflags(flags, mask);
  return real_far_jump(core, static_cast<std::uint16_t>(cs), rip);
}

Flow SystemOps::iret_protected(Core& core, unsigned size, std::uint64_t next_rip) {
  CpuState& s = core.s;
  if (s.rflags & kNT) {
    if (s.long_mode_active()) return core.raise_gp();
    std::uint16_t link;
    if (!core.load_system(s.tr.base, link)) return Flow::fault;
    // The link must name a busy TSS in the GDT: #TS, not #GP (SDM vol. 2, IRET, TASK-RETURN).
    return task_switch(core, link, TaskSource::iret, next_rip, false, std::nullopt, core.s.rflags);
  }
  Return r{.size = size, .iret = true, .stack = current_stack(core)};
  std::uint64_t cs;
  if (!pop(core, r.stack, size, r.rip) || !pop(core, r.stack, size, cs) || !pop(core, r.stack, size, r.rflags))
    return Flow::fault;
  r.cs = static_cast<std::uint16_t>(cs);
  if (!s.long_mode_active() && size == 4 && (r.rflags & kVM) && core.cpl_ == 0)
    return iret_to_v86(core, r.rip, r.cs, r.rflags, r.stack);
  return return_to(core, r);
}

Flow SystemOps::iret_to_v86(Core& core, std::uint64_t eip, std::uint16_t cs, std::uint64_t eflags, StackCursor stack) {
  // On the stack above EFLAGS: ESP, SS, ES, DS, FS, GS.
  std::array<std::uint64_t, 6> above;
  for (auto& value : above)
    if (!pop(core, stack, 4, value)) return Flow::fault;
  if (cut(eip, 4) > 0xFFFF) return core.raise_gp();
  CpuState& s = core.s;
  s.rflags = (eflags & 0x3F7FD5) | kReservedOne;
  s.rip = eip;
  s.gpr[kRsp] = above[0];
  s.seg[kCs] = real_segment(core, kCs, cs);
  static constexpr unsigned kOrder[] = {kSs, kEs, kDs, kFs, kGs};
  for (unsigned i = 0; i < 5; ++i) s.seg[kOrder[i]] = real_segment(core, kOrder[i], static_cast<std::uint16_t>(above[i + 1]));
  core.update_mode();
  return Flow::jump;
}

}  // namespace husk::cpu::interp
