// husk: ports, waiting, caches, time and identification instructions
#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {

bool Core::check_io_permission(std::uint16_t port, unsigned size) {
  const bool free_access = s.real_mode() || (!s.v86() && cpl_ <= bits(s.rflags, 12, 2));
  if (!free_access) {
    // SDM vol. 1, 19.5.2. The two bytes at the port's bit are read whatever the size, so both must be in the TSS.
    std::uint16_t map, pair;
    const bool tss = (s.tr.type() & 9) == 9 && s.tr.present() && s.tr.limit >= 103;
    if (!tss) {
      (void)raise_gp();
      return false;
    }
    if (!load_system(s.tr.base + 102, map)) return false;
    const std::uint64_t at = std::uint64_t{map} + port / 8;
    if (at + 1 > s.tr.limit) {
      (void)raise_gp();
      return false;
    }
    if (!load_system(s.tr.base + at, pair)) return false;
    if ((pair >> (port & 7)) & mask_of(size)) {
      (void)raise_gp();
      return false;
    }
  }
  if ((s.dr7 & 0xFF) && (s.cr4 & kCr4De)) [[unlikely]] SystemOps::check_io_watch(*this, port, size);
  return true;
}

// I/O breakpoints: R/W = 10b with CR4.DE; a trap after the instruction (SDM vol. 3, 18.2.4).
void SystemOps::check_io_watch(Core& core, std::uint16_t port, unsigned size) {
  static constexpr unsigned kLengths[] = {1, 2, 8, 4};
  for (unsigned i = 0; i < 4; ++i) {
    if (!bits(core.s.dr7, i * 2, 2) || bits(core.s.dr7, 16 + i * 4, 2) != 2) continue;
    const unsigned length = kLengths[bits(core.s.dr7, 18 + i * 4, 2)];
    const std::uint64_t start = align_down(core.s.dr[i], length);
    if (port < start + length && start < std::uint64_t{port} + size) core.note_debug_trap(std::uint64_t{1} << i);
  }
}

bool SystemOps::watch_line(Core& core, std::uint64_t linear) {
  Translation t;
  if (!core.translate(linear, AccessKind::read, core.cpl_ == 3, t)) return false;
  core.monitor_.gpa = align_down(t.gpa & core.a20_mask_, std::uint64_t{64});
  core.monitor_.armed = true;
  for (unsigned i = 0; i < 8; ++i) core.monitor_.line[i] = read_entry(core, core.monitor_.gpa + i * 8, 8);
  return true;
}

bool SystemOps::line_written(Core& core) {
  if (!core.monitor_.armed) return true;
  for (unsigned i = 0; i < 8; ++i)
    if (read_entry(core, core.monitor_.gpa + i * 8, 8) != core.monitor_.line[i]) return true;
  return false;
}

bool Core::monitored_line_written() { return SystemOps::line_written(*this); }

namespace {

// ---- ports ----

template <unsigned N>
Flow port_in(Core& core, std::uint16_t port) {
  constexpr unsigned kSize = N == 8 ? 4 : N;
  if (!core.check_io_permission(port, kSize)) return Flow::fault;
  core.set_reg<kSize>(kRax, static_cast<Uint<kSize>>(core.io_read(port, kSize)));
  return Flow::next;
}
template <unsigned N>
Flow port_out(Core& core, std::uint16_t port) {
  constexpr unsigned kSize = N == 8 ? 4 : N;
  if (!core.check_io_permission(port, kSize)) return Flow::fault;
  core.io_write(port, kSize, core.reg<kSize>(kRax));
  // The write may have asked for a reset, moved memory or raised an interrupt.
  core.end_block();
  return Flow::next;
}
template <unsigned N>
Flow in_ai(Core& core, const Insn& insn) { return port_in<N>(core, static_cast<std::uint8_t>(insn.imm)); }
template <unsigned N>
Flow in_ad(Core& core, const Insn&) { return port_in<N>(core, core.reg<2>(kRdx)); }
template <unsigned N>
Flow out_ia(Core& core, const Insn& insn) { return port_out<N>(core, static_cast<std::uint8_t>(insn.imm)); }
template <unsigned N>
Flow out_da(Core& core, const Insn&) { return port_out<N>(core, core.reg<2>(kRdx)); }

// ---- waiting ----

Flow hlt(Core& core, const Insn&) {
  core.s.activity = Activity::halted;
  core.end_block();
  return Flow::next;
}

Flow monitor(Core& core, const Insn& insn) {
  if (core.cpl() != 0) return core.raise_ud();
  const std::uint64_t ea = insn.addr_size == 8   ? core.s.gpr[kRax]
                           : insn.addr_size == 4 ? static_cast<std::uint32_t>(core.s.gpr[kRax])
                                                 : static_cast<std::uint16_t>(core.s.gpr[kRax]);
  if (static_cast<std::uint32_t>(core.s.gpr[kRcx]) != 0) return core.raise_gp();
  std::uint8_t unused;
  if (!core.load(insn.segment, ea, unused)) return Flow::fault;
  const bool flat = core.code64() && insn.segment < kFs;
  const std::uint64_t linear = ea + (flat ? 0 : core.s.seg[insn.segment].base);
  return SystemOps::watch_line(core, core.code64() ? linear : static_cast<std::uint32_t>(linear)) ? Flow::next : Flow::fault;
}

Flow mwait(Core& core, const Insn&) {
  if (core.cpl() != 0) return core.raise_ud();
  // ECX bit 0: break on interrupts even if masked (CPUID.5:ECX[1]).
  if (static_cast<std::uint32_t>(core.s.gpr[kRcx]) & ~1u) return core.raise_gp();
  if (!core.monitored_line_written()) core.s.activity = Activity::mwait;
  core.end_block();
  return Flow::next;
}

Flow nothing(Core&, const Insn&) { return Flow::next; }  // no caches are modelled

Flow clzero(Core& core, const Insn& insn) {
  const std::uint64_t ea = insn.addr_size == 8   ? core.s.gpr[kRax]
                           : insn.addr_size == 4 ? static_cast<std::uint32_t>(core.s.gpr[kRax])
                                                 : static_cast<std::uint16_t>(core.s.gpr[kRax]);
  const std::array<std::uint8_t, 64> zeros{};
  return core.store(insn.segment, align_down(ea, std::uint64_t{64}), zeros) ? Flow::next : Flow::fault;
}

// ---- identification, time ----

Flow cpuid_(Core& core, const Insn&) {
  CpuState& s = core.s;
  const std::uint64_t apic_base = core.deps().interrupts.apic_base();
  const CpuidContext context{.apic_id = apic_id_of(core.model.topology, core.index()),
                             .osxsave = (s.cr4 & kCr4Osxsave) != 0,
                             .ospke = (s.cr4 & kCr4Pke) != 0,
                             .xcr0 = s.xcr0,
                             .xss = s.msr.xss,
                             .apic_enabled = bit(apic_base, 11)};
  const CpuidResult result =
      cpuid(core.model, context, static_cast<std::uint32_t>(s.gpr[kRax]), static_cast<std::uint32_t>(s.gpr[kRcx]));
  s.gpr[kRax] = result.eax;
  s.gpr[kRbx] = result.ebx;
  s.gpr[kRcx] = result.ecx;
  s.gpr[kRdx] = result.edx;
  return Flow::next;
}

bool tsc_forbidden(const Core& core) { return (core.s.cr4 & kCr4Tsd) && core.cpl() != 0; }
void set_edx_eax(Core& core, std::uint64_t value) {
  core.s.gpr[kRax] = static_cast<std::uint32_t>(value);
  core.s.gpr[kRdx] = value >> 32;
}
Flow rdtsc(Core& core, const Insn&) {
  if (tsc_forbidden(core)) return core.raise_gp();
  set_edx_eax(core, core.tsc());
  return Flow::next;
}
Flow rdtscp(Core& core, const Insn&) {
  if (tsc_forbidden(core)) return core.raise_gp();
  set_edx_eax(core, core.tsc());
  core.s.gpr[kRcx] = core.s.msr.tsc_aux;
  return Flow::next;
}
/// No performance counters are modelled: every index is beyond the last.
Flow rdpmc(Core& core, const Insn&) { return core.raise_gp(); }

// ---- protection keys ----

Flow rdpkru(Core& core, const Insn&) {
  if (!(core.s.cr4 & kCr4Pke)) return core.raise_ud();
  if (static_cast<std::uint32_t>(core.s.gpr[kRcx]) != 0) return core.raise_gp();
  core.s.gpr[kRax] = core.s.pkru;
  core.s.gpr[kRdx] = 0;
  return Flow::next;
}
Flow wrpkru(Core& core, const Insn&) {
  if (!(core.s.cr4 & kCr4Pke)) return core.raise_ud();
  if (static_cast<std::uint32_t>(core.s.gpr[kRcx]) != 0 || static_cast<std::uint32_t>(core.s.gpr[kRdx]) != 0) return core.raise_gp();
  SystemOps::set_pkru(core, static_cast<std::uint32_t>(core.s.gpr[kRax]));
  return Flow::next;
}

}  // namespace

void SystemOps::set_pkru(Core& core, std::uint32_t value) {
  if (core.s.pkru == value) return;
  core.s.pkru = value;
  // Cached rights were computed with the old keys.
  if (core.s.cr4 & kCr4Pke) core.flush_tlb_all();
}

void bind_system(HandlerTable& t) {
  bind_flags(t);
  bind_control_registers(t);
  bind_descriptors(t);
  bind_syscalls(t);
  bind_msr(t);
  bind_svm(t);
  bind_xsave(t);
  HUSK_BIND_SIZES(t, in_ai, in_ai<N>);
  HUSK_BIND_SIZES(t, in_ad, in_ad<N>);
  HUSK_BIND_SIZES(t, out_ia, out_ia<N>);
  HUSK_BIND_SIZES(t, out_da, out_da<N>);
  t.set(Sem::hlt, hlt);
  t.set(Sem::monitor, monitor);
  t.set(Sem::mwait, mwait);
  t.set(Sem::invd, nothing);
  t.set(Sem::wbinvd, nothing);
  t.set(Sem::clzero, clzero);
  t.set(Sem::cpuid, cpuid_);
  t.set(Sem::rdtsc, rdtsc);
  t.set(Sem::rdtscp, rdtscp);
  t.set(Sem::rdpmc, rdpmc);
  t.set(Sem::rdpkru, rdpkru);
  t.set(Sem::wrpkru, wrpkru);
}

}  // namespace husk::cpu::interp
