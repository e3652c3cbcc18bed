// husk: control and debug registers, and the instructions that flush translations
#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"
#include "cpu/state_check.h"
#include "cpu/walk.h"

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kCr0Defined = kCr0Pe | kCr0Mp | kCr0Em | kCr0Ts | kCr0Et | kCr0Ne | kCr0Wp | kCr0Am | kCr0Nw | kCr0Cd | kCr0Pg;
constexpr std::uint64_t kCr3NoFlush = std::uint64_t{1} << 63;
constexpr std::uint64_t kDr6Fixed = 0xFFFF0FF0, kDr6Writable = 0xE00F, kDr6Bd = 1u << 13;
constexpr std::uint64_t kDr7Fixed = 0x400, kDr7Writable = 0xFFFF23FF, kDr7Gd = 1u << 13;

bool pae_paging(std::uint64_t cr0, std::uint64_t cr4, std::uint64_t efer) {
  return (cr0 & kCr0Pg) && (cr4 & kCr4Pae) && !(efer & kEferLma);
}

// SDM vol. 2, MOV to control registers, and vol. 3, 2.5 and 10.8.5.
bool cr0_ok(const Core& core, std::uint64_t value) {
  const CpuState& s = core.s;
  if (value >> 32) return false;
  if ((value & kCr0Pg) && !(value & kCr0Pe)) return false;
  if ((value & kCr0Nw) && !(value & kCr0Cd)) return false;
  if (!((s.cr0 ^ value) & kCr0Pg)) return true;
  if (!(value & kCr0Pg)) return !core.code64() && !(s.cr4 & kCr4Pcide);
  if (!(s.efer & kEferLme)) return true;
  // Only Intel asks for another TSS than a 16-bit one, which TR holds after INIT by KVM (SDM vol. 2; APM vol. 2, 14.6.2).
  const bool tss_ok = s.tr.type() != kTss16Busy || core.model.vendor != "GenuineIntel";
  return (s.cr4 & kCr4Pae) && !s.seg[kCs].long_mode() && tss_ok;
}

bool cr3_ok(const Core& core, std::uint64_t value) {
  if (!core.s.long_mode_active()) return true;
  if (core.s.cr4 & kCr4Pcide) value &= ~kCr3NoFlush;
  return !(value & ~mask_of(core.model.physical_bits));
}

bool cr4_ok(const Core& core, std::uint64_t value) {
  const CpuState& s = core.s;
  if (value & ~cr4_bits(core.model)) return false;
  const std::uint64_t changed = s.cr4 ^ value;
  if (s.long_mode_active() && ((changed & kCr4La57) || !(value & kCr4Pae))) return false;
  return !(changed & value & kCr4Pcide) || (s.long_mode_active() && !(s.cr3 & 0xFFF));
}

Flow write_cr0(Core& core, std::uint64_t value) {
  CpuState& s = core.s;
  if (!cr0_ok(core, value)) return core.raise_gp();
  value = (value & kCr0Defined) | kCr0Et;
  const std::uint64_t changed = s.cr0 ^ value;
  std::uint64_t efer = s.efer;
  if (changed & kCr0Pg) {
    if (!(value & kCr0Pg)) efer &= ~std::uint64_t{kEferLma};
    else if (efer & kEferLme) efer |= kEferLma;
  }
  if (pae_paging(value, s.cr4, efer) && (changed & (kCr0Pg | kCr0Cd | kCr0Nw)) && !SystemOps::load_pdptes(core, s.cr3))
    return Flow::fault;
  s.cr0 = value;
  s.efer = efer;
  if (changed & (kCr0Pg | kCr0Wp)) core.flush_tlb_all();
  core.update_mode();
  return Flow::next;
}

Flow write_cr3(Core& core, std::uint64_t value) {
  CpuState& s = core.s;
  if (!cr3_ok(core, value)) return core.raise_gp();
  bool keep = false;
  if (s.long_mode_active()) {
    if (s.cr4 & kCr4Pcide) {
      keep = value & kCr3NoFlush;
      value &= ~kCr3NoFlush;
    }
  } else {
    value &= 0xFFFFFFFF;
    if (pae_paging(s.cr0, s.cr4, s.efer) && !SystemOps::load_pdptes(core, value)) return Flow::fault;
  }
  s.cr3 = value;
  if (keep) {
    SystemOps::select_space(core);
    core.end_block();
  } else {
    core.flush_tlb_non_global();
  }
  return Flow::next;
}

Flow write_cr4(Core& core, std::uint64_t value) {
  CpuState& s = core.s;
  if (!cr4_ok(core, value)) return core.raise_gp();
  const std::uint64_t changed = s.cr4 ^ value;
  constexpr std::uint64_t kPdpteBits = kCr4Pae | kCr4Pge | kCr4Pse | kCr4Smep;
  if (pae_paging(s.cr0, value, s.efer) && (changed & kPdpteBits) && !SystemOps::load_pdptes(core, s.cr3)) return Flow::fault;
  s.cr4 = value;
  constexpr std::uint64_t kTranslationBits =
      kCr4Pae | kCr4Pge | kCr4Pse | kCr4Pcide | kCr4Smep | kCr4Smap | kCr4Pke | kCr4La57;
  if (changed & kTranslationBits) core.flush_tlb_all();
  core.update_mode();
  return Flow::next;
}

Flow mov_rc(Core& core, const Insn& insn) {
  std::uint64_t value;
  switch (insn.reg) {
    case 0: value = core.s.cr0; break;
    case 2: value = core.s.cr2; break;
    case 3: value = core.s.cr3; break;
    case 4: value = core.s.cr4; break;
    case 8:
      // A guest with virtual interrupt masking has a TPR of its own (APM vol. 2, 15.21.2).
      value = core.s.svm.guest && core.s.svm.virtual_masking ? core.s.svm.virtual_tpr : core.deps().interrupts.task_priority();
      break;
    default: return core.raise_ud();
  }
  core.s.gpr[insn.rm] = core.code64() ? value : static_cast<std::uint32_t>(value);
  return Flow::next;
}
Flow mov_cr(Core& core, const Insn& insn) {
  const std::uint64_t value = core.s.gpr[insn.rm];
  return core.write_cr(insn.reg, core.code64() ? value : static_cast<std::uint32_t>(value));
}

/// DR4 and DR5 stand for DR6 and DR7 unless CR4.DE is set. False: #UD.
bool debug_register(const Core& core, unsigned& number) {
  if (number > 7) return false;
  if (number == 4 || number == 5) {
    if (core.s.cr4 & kCr4De) return false;
    number += 2;
  }
  return true;
}
/// DR7.GD makes any access trap, before it is made.
bool general_detect(Core& core) {
  if (!(core.s.dr7 & kDr7Gd)) return false;
  (void)core.record_fault({.kind = Event::Kind::fault, .vector = kDB, .dr6_bits = kDr6Bd});
  return true;
}
Flow mov_rd(Core& core, const Insn& insn) {
  unsigned number = insn.reg;
  if (!debug_register(core, number)) return core.raise_ud();
  if (general_detect(core)) return Flow::fault;
  const std::uint64_t value = number < 4 ? core.s.dr[number] : number == 6 ? core.s.dr6 : core.s.dr7;
  core.s.gpr[insn.rm] = core.code64() ? value : static_cast<std::uint32_t>(value);
  return Flow::next;
}
Flow mov_dr(Core& core, const Insn& insn) {
  unsigned number = insn.reg;
  if (!debug_register(core, number)) return core.raise_ud();
  if (general_detect(core)) return Flow::fault;
  std::uint64_t value = core.s.gpr[insn.rm];
  if (!core.code64()) value = static_cast<std::uint32_t>(value);
  if (number >= 6 && (value >> 32)) return core.raise_gp();
  if (number < 4) core.s.dr[number] = value;
  else if (number == 6) core.s.dr6 = (value & kDr6Writable) | kDr6Fixed;
  else core.s.dr7 = (value & kDr7Writable) | kDr7Fixed;
  core.update_debug();
  return Flow::next;
}

Flow clts(Core& core, const Insn&) {
  core.s.cr0 &= ~std::uint64_t{kCr0Ts};
  core.update_mode();
  return Flow::next;
}
Flow lmsw(Core& core, const Insn& insn) {
  std::uint16_t value;
  if (!read_rm<2>(core, insn, value)) return Flow::fault;
  // PE can be set but not cleared this way.
  const std::uint64_t low = (value & 0xFu) | (core.s.cr0 & kCr0Pe);
  return core.write_cr(0, (core.s.cr0 & ~std::uint64_t{0xF}) | low);
}

Flow invlpg(Core& core, const Insn& insn) {
  const std::uint64_t base = core.code64() && insn.segment < kFs ? 0 : core.s.seg[insn.segment].base;
  const std::uint64_t linear = base + core.effective_address(insn);
  core.flush_tlb_page(core.code64() ? linear : static_cast<std::uint32_t>(linear));
  return Flow::next;
}

// SDM vol. 2, INVPCID. Entries of one page are dropped for every PCID, which is allowed.
Flow invpcid(Core& core, const Insn& insn) {
  const std::uint64_t type = core.code64() ? core.s.gpr[insn.reg] : static_cast<std::uint32_t>(core.s.gpr[insn.reg]);
  std::array<std::uint8_t, 16> raw;
  if (!core.load(insn.segment, core.effective_address(insn), raw)) return Flow::fault;
  const auto first = load_le<std::uint64_t>(raw.data());
  const auto linear = load_le<std::uint64_t>(raw.data() + 8);
  const auto pcid = static_cast<unsigned>(first & 0xFFF);
  if (type > 3) return core.raise_gp();
  if (type <= 1) {
    if ((first >> 12) || (pcid != 0 && !(core.s.cr4 & kCr4Pcide))) return core.raise_gp();
    if (type == 0) {
      if (!is_canonical(core.s, linear)) return core.raise_gp();
      core.flush_tlb_page(linear);
    } else {
      SystemOps::forget_space(core, pcid);
      core.end_block();
    }
  } else {
    if (first >> 12) return core.raise_gp();
    core.flush_tlb_all();
  }
  return Flow::next;
}

}  // namespace

bool SystemOps::control_value_ok(const Core& core, unsigned number, std::uint64_t value) {
  switch (number) {
    case 0: return cr0_ok(core, value);
    case 3: return cr3_ok(core, value);
    case 4: return cr4_ok(core, value);
    case 8: return value <= 15;
    default: return true;
  }
}

Flow Core::write_cr(unsigned number, std::uint64_t value) {
  switch (number) {
    case 0: return write_cr0(*this, value);
    case 2: s.cr2 = value; return Flow::next;
    case 3: return write_cr3(*this, value);
    case 4: return write_cr4(*this, value);
    case 8:
      if (value > 15) return raise_gp();
      if (s.svm.guest && s.svm.virtual_masking) s.svm.virtual_tpr = static_cast<std::uint8_t>(value);
      else deps_.interrupts.set_task_priority(static_cast<std::uint8_t>(value));
      interrupt_waiting_ = true;
      end_block();
      return Flow::next;
    default: return raise_ud();
  }
}

void bind_control_registers(HandlerTable& t) {
  t.set(Sem::mov_rc, mov_rc);
  t.set(Sem::mov_cr, mov_cr);
  t.set(Sem::mov_rd, mov_rd);
  t.set(Sem::mov_dr, mov_dr);
  t.set(Sem::clts, clts);
  t.set(Sem::lmsw, lmsw);
  t.set(Sem::invlpg, invlpg);
  t.set(Sem::invpcid, invpcid);
}

}  // namespace husk::cpu::interp
