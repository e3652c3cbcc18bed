// husk: far jumps and calls, call gates, and the stacks they switch to
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

// ---- stacks ----

StackCursor SystemOps::current_stack(const Core& core) {
  return {.ss = core.s.seg[kSs], .sp = core.s.gpr[kRsp], .mask = core.stack_mask_, .cpl = core.cpl_, .flat = core.code64(), .error = 0};
}

bool SystemOps::stack_linear(Core& core, const StackCursor& stack, std::uint64_t sp, unsigned size, std::uint64_t& linear) {
  sp &= stack.mask;
  bool inside;
  if (stack.flat) {
    linear = sp;
    inside = core.canonical(sp) && core.canonical(sp + size - 1);
  } else {
    const std::uint64_t last = sp + size - 1;
    const bool checked = core.s.protected_mode() && !core.s.v86();
    if (checked && stack.ss.expand_down()) inside = sp > stack.ss.limit && last <= (stack.ss.big() ? 0xFFFFFFFF : 0xFFFF);
    else inside = last <= stack.ss.limit;
    linear = static_cast<std::uint32_t>(stack.ss.base + sp);
  }
  if (inside) return true;
  (void)core.raise(kSS_, stack.error);
  return false;
}

bool SystemOps::push(Core& core, StackCursor& stack, unsigned size, std::uint64_t value) {
  const std::uint64_t sp = (stack.sp - size) & stack.mask;
  std::uint64_t linear;
  if (!stack_linear(core, stack, sp, size, linear)) return false;
  std::uint8_t raw[8];
  store_le<std::uint64_t>(raw, value);
  if (!core.access_linear(linear, raw, size, AccessKind::write, stack.cpl == 3)) return false;
  if (core.watch_active_) core.check_watch(linear, size, AccessKind::write);
  stack.sp = (stack.sp & ~stack.mask) | sp;
  return true;
}

bool SystemOps::pop(Core& core, StackCursor& stack, unsigned size, std::uint64_t& value) {
  const std::uint64_t sp = stack.sp & stack.mask;
  std::uint64_t linear;
  if (!stack_linear(core, stack, sp, size, linear)) return false;
  std::uint8_t raw[8] = {};
  if (!core.access_linear(linear, raw, size, AccessKind::read, stack.cpl == 3)) return false;
  if (core.watch_active_) core.check_watch(linear, size, AccessKind::read);
  value = load_le<std::uint64_t>(raw);
  stack.sp = (stack.sp & ~stack.mask) | ((sp + size) & stack.mask);
  return true;
}

void SystemOps::commit_stack(Core& core, const StackCursor& stack) {
  core.s.seg[kSs] = stack.ss;
  // With a 16-bit stack the upper bits of ESP stay as they were (hence Linux's espfix).
  if (stack.mask == 0xFFFF) core.s.gpr[kRsp] = (core.s.gpr[kRsp] & ~std::uint64_t{0xFFFF}) | (stack.sp & 0xFFFF);
  else core.s.gpr[kRsp] = stack.sp & stack.mask;
}

bool SystemOps::inner_stack(Core& core, unsigned new_cpl, bool external, StackCursor& out) {
  const CpuState& s = core.s;
  const std::uint32_t tss_error = selector_error(s.tr.selector, external);
  const bool wide = s.tr.type() & 8;
  const unsigned offset = wide ? 4 + new_cpl * 8 : 2 + new_cpl * 4;
  if (offset + (wide ? 5 : 3) > s.tr.limit) {
    (void)core.raise(kTS, tss_error);
    return false;
  }
  std::uint16_t selector;
  std::uint32_t sp;
  if (wide) {
    if (!core.load_system(s.tr.base + offset, sp) || !core.load_system(s.tr.base + offset + 4, selector)) return false;
  } else {
    std::uint16_t sp16;
    if (!core.load_system(s.tr.base + offset, sp16) || !core.load_system(s.tr.base + offset + 2, selector)) return false;
    sp = sp16;
  }
  const std::uint32_t error = selector_error(selector, external);
  if (null_selector(selector)) {
    (void)core.raise(kTS, error);
    return false;
  }
  Descriptor d;
  if (!read_descriptor(core, selector, kTS, external, d)) return false;
  if ((selector & 3u) != new_cpl || d.dpl() != new_cpl || !d.writable_data()) {
    (void)core.raise(kTS, error);
    return false;
  }
  if (!d.present()) {
    (void)core.raise(kSS_, error);
    return false;
  }
  if (!set_accessed(core, d)) return false;
  out = {.ss = d.segment(selector), .sp = sp, .mask = d.big() ? 0xFFFFFFFFu : 0xFFFFu, .cpl = new_cpl, .flat = false, .error = error};
  return true;
}

bool SystemOps::long_stack(Core& core, unsigned offset, unsigned new_cpl, bool external, StackCursor& out) {
  const CpuState& s = core.s;
  if (offset + 7 > s.tr.limit) {
    (void)core.raise(kTS, selector_error(s.tr.selector, external));
    return false;
  }
  std::uint64_t sp;
  if (!core.load_system(s.tr.base + offset, sp)) return false;
  out.sp = sp;
  out.mask = ~std::uint64_t{0};
  out.cpl = new_cpl;
  out.flat = true;
  out.error = external ? 1 : 0;
  if (!core.canonical(sp)) {
    (void)core.raise(kSS_, out.error);
    return false;
  }
  if (new_cpl != core.cpl_) {
    // SS becomes null with RPL = new CPL (SDM vol. 3, 6.14.2).
    out.ss = {.selector = static_cast<std::uint16_t>(new_cpl), .attributes = static_cast<std::uint16_t>(new_cpl << 5), .limit = 0, .base = 0};
  } else {
    out.ss = s.seg[kSs];
  }
  return true;
}

// ---- jumps and calls ----

namespace {
std::uint64_t cut(std::uint64_t value, unsigned size) {
  return size == 8 ? value : value & (size == 4 ? 0xFFFFFFFF : 0xFFFF);
}
}  // namespace

Flow SystemOps::real_far_jump(Core& core, std::uint16_t selector, std::uint64_t offset) {
  if (offset > core.s.seg[kCs].limit) return core.raise_gp();
  core.s.seg[kCs] = real_segment(core, kCs, selector);
  core.s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

Flow Core::far_jump(std::uint16_t selector, std::uint64_t offset, unsigned op_size, std::uint64_t next_rip) {
  offset = cut(offset, op_size);
  if (s.real_mode() || s.v86()) return SystemOps::real_far_jump(*this, selector, offset);
  return SystemOps::protected_far_jump(*this, selector, offset, next_rip);
}

Flow SystemOps::protected_far_jump(Core& core, std::uint16_t selector, std::uint64_t offset, std::uint64_t next_rip) {
  if (null_selector(selector)) return core.raise_gp();
  Descriptor d;
  if (!read_descriptor(core, selector, kGP, false, d)) return Flow::fault;
  const std::uint32_t error = selector_error(selector);
  const unsigned cpl = core.cpl_;
  const unsigned rpl = selector & 3;
  if (!d.code_or_data()) {
    const bool long_mode = core.s.long_mode_active();
    const unsigned type = d.type();
    if (type == kCallGate32 || (type == kCallGate16 && !long_mode)) return call_gate(core, d, selector, false, 0);
    if (!long_mode && type == kTaskGate)
      return task_gate(core, d, selector, TaskSource::jump, next_rip);
    if (!long_mode && (type == kTss16Available || type == kTss32Available)) {
      if (d.dpl() < cpl || d.dpl() < rpl) return core.raise(kGP, error);
      return task_switch(core, selector, TaskSource::jump, next_rip, false, std::nullopt, core.s.rflags);
    }
    return core.raise(kGP, error);
  }
  if (!d.is_code()) return core.raise(kGP, error);
  if (d.conforming() ? d.dpl() > cpl : (rpl > cpl || d.dpl() != cpl)) return core.raise(kGP, error);
  if (bad_code_width(core, d)) return core.raise(kGP, error);
  if (!d.present()) return core.raise(kNP, error);
  if (!check_code_target(core, d, offset) || !set_accessed(core, d)) return Flow::fault;
  set_code_segment(core, d, selector, cpl);
  core.s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

Flow Core::far_call(std::uint16_t selector, std::uint64_t offset, unsigned op_size, std::uint64_t return_rip) {
  offset = cut(offset, op_size);
  if (!s.real_mode() && !s.v86()) return SystemOps::protected_far_call(*this, selector, offset, op_size, return_rip);
  if (offset > s.seg[kCs].limit) return raise_gp();
  StackCursor stack = SystemOps::current_stack(*this);
  if (!SystemOps::push(*this, stack, op_size, s.seg[kCs].selector) || !SystemOps::push(*this, stack, op_size, return_rip))
    return Flow::fault;
  SystemOps::commit_stack(*this, stack);
  return SystemOps::real_far_jump(*this, selector, offset);
}

Flow SystemOps::protected_far_call(Core& core, std::uint16_t selector, std::uint64_t offset, unsigned size, std::uint64_t return_rip) {
  if (null_selector(selector)) return core.raise_gp();
  Descriptor d;
  if (!read_descriptor(core, selector, kGP, false, d)) return Flow::fault;
  const std::uint32_t error = selector_error(selector);
  const unsigned cpl = core.cpl_;
  const unsigned rpl = selector & 3;
  if (!d.code_or_data()) {
    const bool long_mode = core.s.long_mode_active();
    const unsigned type = d.type();
    if (type == kCallGate32 || (type == kCallGate16 && !long_mode)) return call_gate(core, d, selector, true, return_rip);
    if (!long_mode && type == kTaskGate) return task_gate(core, d, selector, TaskSource::call, return_rip);
    if (!long_mode && (type == kTss16Available || type == kTss32Available)) {
      if (d.dpl() < cpl || d.dpl() < rpl) return core.raise(kGP, error);
      return task_switch(core, selector, TaskSource::call, return_rip, false, std::nullopt, core.s.rflags);
    }
    return core.raise(kGP, error);
  }
  if (!d.is_code()) return core.raise(kGP, error);
  if (d.conforming() ? d.dpl() > cpl : (rpl > cpl || d.dpl() != cpl)) return core.raise(kGP, error);
  if (bad_code_width(core, d)) return core.raise(kGP, error);
  if (!d.present()) return core.raise(kNP, error);
  StackCursor stack = current_stack(core);
  if (!push(core, stack, size, core.s.seg[kCs].selector) || !push(core, stack, size, return_rip)) return Flow::fault;
  if (!check_code_target(core, d, offset) || !set_accessed(core, d)) return Flow::fault;
  commit_stack(core, stack);
  set_code_segment(core, d, selector, cpl);
  core.s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

// SDM vol. 3, 5.8.3 to 5.8.5; the pseudo-code of CALL and JMP in vol. 2.
Flow SystemOps::call_gate(Core& core, const Descriptor& gate_low, std::uint16_t gate_selector, bool call, std::uint64_t return_rip) {
  Descriptor gate = gate_low;
  const unsigned cpl = core.cpl_;
  const std::uint32_t gate_error = selector_error(gate_selector);
  const bool long_mode = core.s.long_mode_active();
  if (!read_descriptor_high(core, gate_selector, kGP, false, gate)) return Flow::fault;
  if (gate.dpl() < cpl || (gate_selector & 3u) > gate.dpl()) return core.raise(kGP, gate_error);
  if (!gate.present()) return core.raise(kNP, gate_error);
  const std::uint16_t selector = gate.gate_selector();
  if (null_selector(selector)) return core.raise_gp();
  Descriptor code;
  if (!read_descriptor(core, selector, kGP, false, code)) return Flow::fault;
  const std::uint32_t error = selector_error(selector);
  if (!code.is_code() || code.dpl() > cpl) return core.raise(kGP, error);
  if (long_mode && (!code.long_mode() || code.big())) return core.raise(kGP, error);
  if (!call && !code.conforming() && code.dpl() != cpl) return core.raise(kGP, error);
  if (!code.present()) return core.raise(kNP, error);

  if (call && !code.conforming() && code.dpl() < cpl) return call_gate_inner(core, gate, code, selector, return_rip);
  const bool wide = gate.type() & 8;
  const std::uint64_t offset = long_mode ? gate.gate_offset() : cut(gate.gate_offset(), wide ? 4 : 2);
  StackCursor stack = current_stack(core);
  if (call) {
    const unsigned size = long_mode ? 8 : wide ? 4 : 2;
    if (long_mode) {
      stack.mask = ~std::uint64_t{0};
      stack.flat = true;
    }
    if (!push(core, stack, size, core.s.seg[kCs].selector) || !push(core, stack, size, return_rip)) return Flow::fault;
  }
  if (!check_code_target(core, code, offset) || !set_accessed(core, code)) return Flow::fault;
  if (call) commit_stack(core, stack);
  set_code_segment(core, code, selector, cpl);
  core.s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

Flow SystemOps::call_gate_inner(Core& core, const Descriptor& gate, Descriptor& code, std::uint16_t code_selector,
                                std::uint64_t return_rip) {
  const unsigned new_cpl = code.dpl();
  const bool long_mode = core.s.long_mode_active();
  const bool wide = gate.type() & 8;
  const unsigned size = long_mode ? 8 : wide ? 4 : 2;
  const std::uint64_t offset = long_mode ? gate.gate_offset() : cut(gate.gate_offset(), size);
  StackCursor stack;
  if (long_mode ? !long_stack(core, 4 + new_cpl * 8, new_cpl, false, stack) : !inner_stack(core, new_cpl, false, stack))
    return Flow::fault;
  const StackCursor old = current_stack(core);
  if (!push(core, stack, size, core.s.seg[kSs].selector) || !push(core, stack, size, old.sp)) return Flow::fault;
  if (!long_mode) {
    // Parameters keep their order: the deepest is copied first.
    for (unsigned i = gate.gate_parameters(); i-- > 0;) {
      StackCursor from = old;
      from.sp = (old.sp & ~old.mask) | ((old.sp + i * size) & old.mask);
      std::uint64_t value;
      if (!pop(core, from, size, value) || !push(core, stack, size, value)) return Flow::fault;
    }
  }
  if (!push(core, stack, size, core.s.seg[kCs].selector) || !push(core, stack, size, return_rip)) return Flow::fault;
  if (!check_code_target(core, code, offset) || !set_accessed(core, code)) return Flow::fault;
  commit_stack(core, stack);
  set_code_segment(core, code, code_selector, new_cpl);
  core.s.rip = offset;
  core.update_mode();
  return Flow::jump;
}

}  // namespace husk::cpu::interp
