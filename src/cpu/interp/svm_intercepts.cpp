// husk: AMD SVM: what intercepts an instruction of a guest's guest, and which exceptions come before that
#include <array>

#include "cpu/interp/operands.h"
#include "cpu/interp/svm.h"
#include "cpu/interp/system_ops.h"

// Most intercepts come after the exceptions that need no look at memory (privilege, modes, values) and before those of
// memory operands; those of CPUID, PAUSE, PUSHF, POPF, INT n, IRET, INT1, RSM and XSETBV before any but #UD of a form that
// does not exist (APM vol. 2, 15.9, table 15-7). CPL 0, where a form asks for it, was checked by Core::select_handler().

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kDr7Gd = 1u << 13;

Flow leave_at(Core& core, const Insn& insn, std::uint64_t code, std::uint64_t info1 = 0, std::uint64_t info2 = 0) {
  std::uint64_t next = core.s.rip + insn.length;
  if (!core.code64()) next = static_cast<std::uint32_t>(next);
  return core.vm_exit(code, info1, info2, next);
}

using Exception = bool (*)(const Core&);
bool none(const Core&) { return false; }
bool by_umip(const Core& core) { return (core.s.cr4 & kCr4Umip) && core.cpl() != 0; }
bool by_tsd(const Core& core) { return (core.s.cr4 & kCr4Tsd) && core.cpl() != 0; }
bool by_pce(const Core& core) { return !(core.s.cr4 & kCr4Pce) && core.cpl() != 0; }
bool by_svm(const Core& core) {
  return !(core.s.efer & kEferSvme) || core.s.real_mode() || core.s.v86() || core.cpl() != 0;
}
bool by_mwait(const Core& core) {
  return core.cpl() != 0 || (static_cast<std::uint32_t>(core.s.gpr[kRcx]) & ~std::uint32_t{1});
}

/// Intercepted by one bit, unless an exception comes first, which is then the handler's to raise.
template <unsigned Code, Exception First = none>
Flow simple(Core& core, const Insn& insn) {
  return core.intercepts(Code) && !First(core) ? leave_at(core, insn, Code) : Flow::next;
}

// ---- control and debug registers ----

Flow read_cr(Core& core, const Insn& insn) {
  return insn.reg <= 15 && core.intercepts(kExitReadCr0 + insn.reg) && SystemOps::control_register(insn.reg)
             ? leave_at(core, insn, kExitReadCr0 + insn.reg)
             : Flow::next;
}

/// `value` as CR0 would hold it.
bool selective(const Core& core, std::uint64_t value) {
  constexpr std::uint64_t kNotSelected = kCr0Ts | kCr0Mp | kCr0Et;
  return core.intercepts(kExitCr0Selective) && ((core.s.cr0 ^ value) & 0xE005003F & ~kNotSelected);
}

Flow write_cr(Core& core, const Insn& insn) {
  if (!SystemOps::control_register(insn.reg)) return Flow::next;
  const std::uint64_t value = core.code64() ? core.s.gpr[insn.rm] : static_cast<std::uint32_t>(core.s.gpr[insn.rm]);
  const bool by_number = core.intercepts(kExitWriteCr0 + insn.reg);
  if (!by_number && !(insn.reg == 0 && selective(core, value))) return Flow::next;
  if (!SystemOps::control_value_ok(core, insn.reg, value)) return Flow::next;
  return leave_at(core, insn, by_number ? kExitWriteCr0 + insn.reg : unsigned{kExitCr0Selective});
}

Flow lmsw(Core& core, const Insn& insn) {
  if (core.intercepts(kExitWriteCr0)) return leave_at(core, insn, kExitWriteCr0);
  if (!core.intercepts(kExitCr0Selective)) return Flow::next;
  std::uint16_t value;
  if (!read_rm<2>(core, insn, value)) return Flow::fault;
  const std::uint64_t low = (value & 0xFu) | (core.s.cr0 & kCr0Pe);
  return selective(core, (core.s.cr0 & ~std::uint64_t{0xF}) | low) ? leave_at(core, insn, kExitCr0Selective) : Flow::next;
}

template <bool Write>
Flow debug_register(Core& core, const Insn& insn) {
  const unsigned number = insn.reg;
  const unsigned code = (Write ? kExitWriteDr0 : kExitReadDr0) + number;
  if (number > 7 || !core.intercepts(code)) return Flow::next;
  if (((number == 4 || number == 5) && (core.s.cr4 & kCr4De)) || (core.s.dr7 & kDr7Gd)) return Flow::next;
  if (Write && core.code64() && number >= 4 && (core.s.gpr[insn.rm] >> 32)) return Flow::next;
  return leave_at(core, insn, code);
}

// ---- ports (APM vol. 2, 15.10) ----

Flow port(Core& core, const Insn& insn, std::uint16_t number, unsigned size, std::uint64_t kind) {
  if (!core.intercepts(kExitIo)) return Flow::next;
  if (!core.check_io_permission(number, size)) return Flow::fault;
  if (!SystemOps::port_mapped(core, number, size)) return Flow::next;
  if (insn.rep != RepPrefix::none && (kind & 4)) kind |= 8;
  const std::uint64_t address_size = insn.addr_size == 2 ? 1u << 7 : insn.addr_size == 4 ? 1u << 8 : 1u << 9;
  std::uint64_t next = core.s.rip + insn.length;
  if (!core.code64()) next = static_cast<std::uint32_t>(next);
  return leave_at(core, insn, kExitIo, std::uint64_t{number} << 16 | address_size | size << 4 | kind, next);
}
unsigned port_size(const Insn& insn) { return insn.op_size == 8 ? 4 : insn.op_size; }
template <bool In>
Flow port_immediate(Core& core, const Insn& insn) {
  return port(core, insn, static_cast<std::uint8_t>(insn.imm), port_size(insn), In);
}
template <bool In>
Flow port_in_dx(Core& core, const Insn& insn) {
  return port(core, insn, core.reg<2>(kRdx), port_size(insn), In);
}
template <bool In>
Flow port_string(Core& core, const Insn& insn) {
  // Nothing is done for a count of zero.
  if (insn.rep != RepPrefix::none && !(core.s.gpr[kRcx] & mask_of(insn.addr_size * 8u))) return Flow::next;
  const std::uint64_t segment = In ? std::uint64_t{kEs} : std::uint64_t{insn.segment};
  return port(core, insn, core.reg<2>(kRdx), port_size(insn), (In ? 1u : 0u) | 4u | segment << 10);
}

// ---- the rest ----

template <bool Write>
Flow msr(Core& core, const Insn& insn) {
  if (!core.intercepts(kExitMsr) || !SystemOps::msr_mapped(core, static_cast<std::uint32_t>(core.s.gpr[kRcx]), Write))
    return Flow::next;
  return leave_at(core, insn, kExitMsr, Write);
}

Flow pause(Core& core, const Insn& insn) {
  return core.intercepts(kExitPause) && SystemOps::pause_counts(core) ? leave_at(core, insn, kExitPause) : Flow::next;
}

Flow monitor(Core& core, const Insn& insn) {
  if (!core.intercepts(kExitMonitor) || core.cpl() != 0 || static_cast<std::uint32_t>(core.s.gpr[kRcx]) != 0)
    return Flow::next;
  // After the memory operand, unlike the others.
  std::uint8_t unused;
  if (!core.load(insn.segment, core.s.gpr[kRax] & mask_of(insn.addr_size * 8u), unused)) return Flow::fault;
  return leave_at(core, insn, kExitMonitor);
}

Flow mwait(Core& core, const Insn& insn) {
  if (by_mwait(core)) return Flow::next;
  if (core.intercepts(kExitMwait)) return leave_at(core, insn, kExitMwait);
  return core.intercepts(kExitMwaitArmed) && SystemOps::monitor_armed(core) ? leave_at(core, insn, kExitMwaitArmed)
                                                                            : Flow::next;
}

struct Check {
  Sem sem;
  Handler check;
};
constexpr Check kChecks[] = {
    {Sem::mov_rc, read_cr},
    {Sem::mov_cr, write_cr},
    {Sem::smsw, simple<kExitReadCr0, by_umip>},
    {Sem::lmsw, lmsw},
    {Sem::clts, simple<kExitWriteCr0>},
    {Sem::mov_rd, debug_register<false>},
    {Sem::mov_dr, debug_register<true>},
    {Sem::sidt, simple<kExitReadIdtr, by_umip>},
    {Sem::sgdt, simple<kExitReadGdtr, by_umip>},
    {Sem::sldt, simple<kExitReadLdtr, by_umip>},
    {Sem::str, simple<kExitReadTr, by_umip>},
    {Sem::lidt, simple<kExitWriteIdtr>},
    {Sem::lgdt, simple<kExitWriteGdtr>},
    {Sem::lldt, simple<kExitWriteLdtr>},
    {Sem::ltr, simple<kExitWriteTr>},
    {Sem::rdtsc, simple<kExitRdtsc, by_tsd>},
    {Sem::rdtscp, simple<kExitRdtscp, by_tsd>},
    {Sem::rdpmc, simple<kExitRdpmc, by_pce>},
    {Sem::pushf, simple<kExitPushf>},
    {Sem::popf, simple<kExitPopf>},
    {Sem::cpuid, simple<kExitCpuid>},
    {Sem::rsm, simple<kExitRsm>},
    {Sem::iret, simple<kExitIret>},
    {Sem::int_i, simple<kExitSoftwareInterrupt>},
    {Sem::int1, simple<kExitInt1>},
    {Sem::invd, simple<kExitInvd>},
    {Sem::wbinvd, simple<kExitWbinvd>},
    {Sem::pause, pause},
    {Sem::hlt, simple<kExitHlt>},
    {Sem::invlpg, simple<kExitInvlpg>},
    {Sem::in_ai, port_immediate<true>},
    {Sem::in_ad, port_in_dx<true>},
    {Sem::out_ia, port_immediate<false>},
    {Sem::out_da, port_in_dx<false>},
    {Sem::ins, port_string<true>},
    {Sem::outs, port_string<false>},
    {Sem::rdmsr, msr<false>},
    {Sem::wrmsr, msr<true>},
    {Sem::vmrun, simple<kExitVmrun, by_svm>},
    {Sem::vmmcall, simple<kExitVmmcall>},
    {Sem::vmload, simple<kExitVmload, by_svm>},
    {Sem::vmsave, simple<kExitVmsave, by_svm>},
    {Sem::stgi, simple<kExitStgi, by_svm>},
    {Sem::clgi, simple<kExitClgi, by_svm>},
    {Sem::invlpga, simple<kExitInvlpga, by_svm>},
    {Sem::monitor, monitor},
    {Sem::mwait, mwait},
    {Sem::xsetbv, simple<kExitXsetbv>},
};

}  // namespace

Handler SystemOps::intercept_check(Sem sem) {
  static const std::vector<Handler> checks = [] {
    std::vector<Handler> made(sem_count());
    for (const Check& check : kChecks) made[static_cast<std::size_t>(check.sem)] = check.check;
    return made;
  }();
  return checks[static_cast<std::size_t>(sem)];
}

bool SystemOps::port_mapped(Core& core, std::uint16_t port, unsigned size) {
  std::uint8_t raw[2];
  (void)core.physical_access(core.s.svm.io_map + port / 8, raw, sizeof raw, AccessKind::read);
  return load_le<std::uint16_t>(raw) >> (port & 7) & mask_of(size);
}

// APM vol. 2, 15.11: two bits an MSR, in three ranges; an MSR in none of them is always intercepted.
bool SystemOps::msr_mapped(Core& core, std::uint32_t index, bool write) {
  constexpr struct {
    std::uint32_t first, at;
  } kRanges[] = {{0, 0}, {0xC0000000, 0x800}, {0xC0010000, 0x1000}};
  for (const auto& range : kRanges) {
    const std::uint32_t number = index - range.first;
    if (number >= 0x2000) continue;
    std::uint8_t pairs;
    (void)core.physical_access(core.s.svm.msr_map + range.at + number / 4, &pairs, 1, AccessKind::read);
    return bit(pairs, number % 4 * 2 + (write ? 1 : 0));
  }
  return true;
}

// APM vol. 2, 15.14.4: the count runs down by one each time, and with a threshold begins anew after a pause from PAUSE.
bool SystemOps::pause_counts(Core& core) {
  SvmState& svm = core.s.svm;
  if (svm.pause_count == 0 || !core.model.has(Feature::pause_filter)) return true;
  if (svm.pause_threshold != 0 && core.model.has(Feature::pfthreshold)) {
    const std::uint64_t now = core.ticks_now();
    if (now - core.last_pause_ > svm.pause_threshold) svm.pauses_left = svm.pause_count;
    core.last_pause_ = now;
  }
  if (svm.pauses_left == 0) return true;
  --svm.pauses_left;
  return false;
}

}  // namespace husk::cpu::interp
