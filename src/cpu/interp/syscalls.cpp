// husk: SYSCALL, SYSRET, SYSENTER, SYSEXIT
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"

// Where the vendors differ, the model's vendor decides:
// - SYSCALL outside 64-bit mode exists on AMD only (APM vol. 3, SYSCALL; SDM: #UD).
// - SYSRET with a non-canonical RCX takes #GP in ring 0 on Intel; AMD loads it and faults on the fetch in ring 3.
// - SYSENTER and SYSEXIT are #UD in long mode on AMD.
// SYSRET sets all of SS on both: AMD's keeping of the old SS attributes is an erratum-like detail that Linux works round.

namespace husk::cpu::interp {
namespace {

constexpr std::uint16_t kCode64 = 0xA09B, kCode32 = 0xC09B, kData32 = 0xC093, kUserDpl = 3u << 5;

bool amd(const Core& core) { return core.model.vendor == "AuthenticAMD" || core.model.vendor == "HygonGenuine"; }

void load_flat(Core& core, std::uint16_t cs, bool code64, std::uint16_t ss, unsigned cpl) {
  const auto dpl = static_cast<std::uint16_t>(cpl == 3 ? kUserDpl : 0);
  core.s.seg[kCs] = {.selector = cs,
                     .attributes = static_cast<std::uint16_t>((code64 ? kCode64 : kCode32) | dpl),
                     .limit = 0xFFFFFFFF,
                     .base = 0};
  core.s.seg[kSs] = {.selector = ss, .attributes = static_cast<std::uint16_t>(kData32 | dpl), .limit = 0xFFFFFFFF, .base = 0};
}

Flow syscall(Core& core, const Insn& insn) {
  CpuState& s = core.s;
  const bool long_mode = s.long_mode_active();
  if (!(s.efer & kEferSce) || !s.protected_mode()) return core.raise_ud();
  if (!core.code64() && !amd(core)) return core.raise_ud();
  const std::uint64_t next = s.rip + insn.length;
  const auto cs = static_cast<std::uint16_t>(bits(s.msr.star, 32, 16) & 0xFFFC);
  const auto ss = static_cast<std::uint16_t>(bits(s.msr.star, 32, 16) + 8);
  if (long_mode) {
    s.gpr[kRcx] = core.code64() ? next : static_cast<std::uint32_t>(next);
    s.gpr[kR11] = s.rflags & ~std::uint64_t{kRF};
    s.rip = core.code64() ? s.msr.lstar : s.msr.cstar;
    s.rflags = ((s.rflags & ~s.msr.sfmask) | kReservedOne) & ~std::uint64_t{kRF};
    load_flat(core, cs, true, ss, 0);
  } else {
    s.gpr[kRcx] = static_cast<std::uint32_t>(next);
    s.rip = static_cast<std::uint32_t>(s.msr.star);
    s.rflags &= ~std::uint64_t{kIF | kVM | kRF};
    load_flat(core, cs, false, ss, 0);
  }
  SystemOps::set_trap_by_result(core);
  core.update_mode();
  return Flow::jump;
}

Flow sysret(Core& core, const Insn& insn) {
  CpuState& s = core.s;
  const bool long_mode = s.long_mode_active();
  if (!(s.efer & kEferSce) || !s.protected_mode()) return core.raise_ud();
  if (!core.code64() && !amd(core)) return core.raise_ud();
  if (core.cpl() != 0) return core.raise_gp();
  const bool to64 = core.code64() && insn.op_size == 8;
  if (to64 && !amd(core) && !core.canonical(s.gpr[kRcx])) return core.raise_gp();
  const auto base = static_cast<std::uint16_t>(bits(s.msr.star, 48, 16));
  const auto cs = static_cast<std::uint16_t>((base + (to64 ? 16 : 0)) | 3);
  const auto ss = static_cast<std::uint16_t>((base + 8) | 3);
  s.rip = to64 ? s.gpr[kRcx] : static_cast<std::uint32_t>(s.gpr[kRcx]);
  if (long_mode) s.rflags = (s.gpr[kR11] & 0x3C7FD7) | kReservedOne;
  else s.rflags |= kIF;
  load_flat(core, cs, to64, ss, 3);
  SystemOps::set_trap_by_result(core);
  core.update_mode();
  return Flow::jump;
}

Flow sysenter(Core& core, const Insn&) {
  CpuState& s = core.s;
  const bool long_mode = s.long_mode_active();
  if (long_mode && amd(core)) return core.raise_ud();
  if (s.real_mode() || null_selector(static_cast<std::uint16_t>(s.msr.sysenter_cs))) return core.raise_gp();
  const auto cs = static_cast<std::uint16_t>(s.msr.sysenter_cs & 0xFFFC);
  s.rflags &= ~std::uint64_t{kVM | kIF | kRF};
  s.gpr[kRsp] = long_mode ? s.msr.sysenter_esp : static_cast<std::uint32_t>(s.msr.sysenter_esp);
  s.rip = long_mode ? s.msr.sysenter_eip : static_cast<std::uint32_t>(s.msr.sysenter_eip);
  load_flat(core, cs, long_mode, static_cast<std::uint16_t>(cs + 8), 0);
  core.update_mode();
  return Flow::jump;
}

Flow sysexit(Core& core, const Insn& insn) {
  CpuState& s = core.s;
  if (s.long_mode_active() && amd(core)) return core.raise_ud();
  if (s.real_mode() || null_selector(static_cast<std::uint16_t>(s.msr.sysenter_cs)) || core.cpl() != 0) return core.raise_gp();
  const bool to64 = core.code64() && insn.op_size == 8;
  if (to64 && (!core.canonical(s.gpr[kRdx]) || !core.canonical(s.gpr[kRcx]))) return core.raise_gp();
  const unsigned offset = to64 ? 32 : 16;
  const auto cs = static_cast<std::uint16_t>((s.msr.sysenter_cs + offset) | 3);
  s.gpr[kRsp] = to64 ? s.gpr[kRcx] : static_cast<std::uint32_t>(s.gpr[kRcx]);
  s.rip = to64 ? s.gpr[kRdx] : static_cast<std::uint32_t>(s.gpr[kRdx]);
  load_flat(core, cs, to64, static_cast<std::uint16_t>(cs + 8), 3);
  core.update_mode();
  return Flow::jump;
}

/// RSM outside SMM, what needs VMX, and SKINIT, whose security processor husk's machines do not have.
Flow undefined(Core& core, const Insn&) { return core.raise_ud(); }

}  // namespace

void bind_syscalls(HandlerTable& t) {
  t.set(Sem::syscall, syscall);
  t.set(Sem::sysret, sysret);
  t.set(Sem::sysenter, sysenter);
  t.set(Sem::sysexit, sysexit);
  for (const Sem sem : {Sem::rsm, Sem::vmcall, Sem::skinit}) t.set(sem, undefined);
}

}  // namespace husk::cpu::interp
