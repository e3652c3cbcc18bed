// husk: the neutral CPU state as KVM's structures, and back
#include "accel/kvm/registers.h"

#include <algorithm>
#include <cstring>

#include "base/bits.h"

namespace husk::accel::kvm {

namespace {

using cpu::CpuState;
using cpu::Feature;
using cpu::MsrState;
using cpu::Segment;

kvm_segment to_segment(const Segment& from) {
  kvm_segment to{};
  to.base = from.base;
  to.limit = from.limit;
  to.selector = from.selector;
  const auto field = [&](unsigned at, unsigned width) {
    return static_cast<std::uint8_t>(bits(from.attributes, at, width));
  };
  to.type = field(0, 4);
  to.s = field(4, 1);
  to.dpl = field(5, 2);
  to.present = field(7, 1);
  to.avl = field(12, 1);
  to.l = field(13, 1);
  to.db = field(14, 1);
  to.g = field(15, 1);
  to.unusable = to.present ? 0 : 1;
  return to;
}

Segment from_segment(const kvm_segment& from) {
  Segment to;
  to.base = from.base;
  to.limit = from.limit;
  to.selector = from.selector;
  const bool present = from.present && !from.unusable;
  to.attributes =
      static_cast<std::uint16_t>((from.type & 0xF) | (from.s & 1) << 4 | (from.dpl & 3) << 5 | present << 7 |
                                 (from.avl & 1) << 12 | (from.l & 1) << 13 | (from.db & 1) << 14 | (from.g & 1) << 15);
  return to;
}

kvm_dtable to_table(const cpu::DescriptorTable& from) {
  kvm_dtable to{};
  to.base = from.base;
  to.limit = from.limit;
  return to;
}

// Offsets in the XSAVE area (SDM vol. 1, 13.4).
constexpr unsigned kOffsetMxcsr = 24, kOffsetMxcsrMask = 28, kOffsetX87 = 32, kOffsetXmm = 160, kOffsetBv = 512;
constexpr std::uint64_t kX87Bit = 1, kSseBit = 2, kAvxBit = 4, kPkruBit = 1u << 9;
constexpr std::uint16_t kX87ControlInit = 0x37F;

/// Two tag bits of a register that is not empty (SDM vol. 1, 8.1.7).
unsigned tag_of_value(const cpu::F80Bits& r) {
  const unsigned exponent = r.sign_exponent & 0x7FFF;
  if (exponent == 0) return r.significand == 0 ? 1 : 2;
  if (exponent == 0x7FFF || !(r.significand >> 63)) return 2;
  return 0;
}

struct PlainMsr {
  std::uint32_t index;
  std::uint64_t MsrState::* member;
  Feature feature;
  std::string_view name;
};
constexpr PlainMsr kPlain[] = {
    {0xC0000081, &MsrState::star, Feature::syscall, "STAR"},
    {0xC0000082, &MsrState::lstar, Feature::lm, "LSTAR"},
    {0xC0000083, &MsrState::cstar, Feature::lm, "CSTAR"},
    {0xC0000084, &MsrState::sfmask, Feature::lm, "SFMASK"},
    {0xC0000102, &MsrState::kernel_gs_base, Feature::lm, "KERNEL_GS_BASE"},
    {0x174, &MsrState::sysenter_cs, Feature::sep, "SYSENTER_CS"},
    {0x175, &MsrState::sysenter_esp, Feature::sep, "SYSENTER_ESP"},
    {0x176, &MsrState::sysenter_eip, Feature::sep, "SYSENTER_EIP"},
    {0x277, &MsrState::pat, Feature::pat, "PAT"},
    {0x3B, &MsrState::tsc_adjust, Feature::tsc_adjust, "TSC_ADJUST"},
    {0x1D9, &MsrState::debug_control, Feature::none, "DEBUGCTL"},
    {0x48, &MsrState::spec_control, Feature::spec_ctrl, "SPEC_CTRL"},
    {0x17A, &MsrState::mcg_status, Feature::mca, "MCG_STATUS"},
    {0x17B, &MsrState::mcg_ctl, Feature::mca, "MCG_CTL"},
    {0xC0010015, &MsrState::hwcr, Feature::none, "HWCR"},
    {0xC0010010, &MsrState::syscfg, Feature::none, "SYSCFG"},
    {0xC0010117, &MsrState::vm_hsave_pa, Feature::svm, "VM_HSAVE_PA"},
    {0xDA0, &MsrState::xss, Feature::xsaves, "XSS"},
    {0x4B564D01, &MsrState::kvm_system_time, Feature::kvmclock, "KVM_SYSTEM_TIME_NEW"},
    {0x4B564D00, &MsrState::kvm_wall_clock, Feature::kvmclock, "KVM_WALL_CLOCK_NEW"},
    {0x2FF, &MsrState::mtrr_default_type, Feature::mtrr, "MTRR_DEF_TYPE"},
};
constexpr std::uint32_t kMsrMiscEnable = 0x1A0, kMsrTscAux = 0xC0000103, kMsrMc0Ctl = 0x400, kMsrMtrrPhysBase0 = 0x200;
/// "BTS unavailable" and "PEBS unavailable": always set, and not part of the neutral value.
constexpr std::uint64_t kMiscEnableFixed = 0x1800;
constexpr std::uint32_t kMtrrFixed[11] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F};
constexpr std::uint64_t kHwcrTscFreqSel = 1u << 24;  // read-only

}  // namespace

kvm_regs to_regs(const CpuState& state) {
  const auto& g = state.gpr;
  kvm_regs r{};
  r.rax = g[cpu::kRax], r.rcx = g[cpu::kRcx], r.rdx = g[cpu::kRdx], r.rbx = g[cpu::kRbx];
  r.rsp = g[cpu::kRsp], r.rbp = g[cpu::kRbp], r.rsi = g[cpu::kRsi], r.rdi = g[cpu::kRdi];
  r.r8 = g[8], r.r9 = g[9], r.r10 = g[10], r.r11 = g[11], r.r12 = g[12], r.r13 = g[13], r.r14 = g[14], r.r15 = g[15];
  r.rip = state.rip;
  r.rflags = state.rflags;
  return r;
}

void take_regs(CpuState& state, const kvm_regs& r) {
  state.gpr = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
               r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  state.rip = r.rip;
  state.rflags = r.rflags;
}

kvm_sregs2 to_sregs(const CpuState& state) {
  kvm_sregs2 s{};
  s.es = to_segment(state.seg[cpu::kEs]);
  s.cs = to_segment(state.seg[cpu::kCs]);
  s.ss = to_segment(state.seg[cpu::kSs]);
  s.ds = to_segment(state.seg[cpu::kDs]);
  s.fs = to_segment(state.seg[cpu::kFs]);
  s.gs = to_segment(state.seg[cpu::kGs]);
  s.ldt = to_segment(state.ldtr);
  s.tr = to_segment(state.tr);
  s.gdt = to_table(state.gdtr);
  s.idt = to_table(state.idtr);
  s.cr0 = state.cr0;
  s.cr2 = state.cr2;
  s.cr3 = state.cr3;
  s.cr4 = state.cr4;
  s.efer = state.efer;
  if ((state.cr0 & cpu::kCr0Pg) && (state.cr4 & cpu::kCr4Pae) && !(state.efer & cpu::kEferLma)) {
    s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    std::copy(state.pdpte.begin(), state.pdpte.end(), s.pdptrs);
  }
  return s;
}

void take_sregs(CpuState& state, const kvm_sregs2& s) {
  state.seg[cpu::kEs] = from_segment(s.es);
  state.seg[cpu::kCs] = from_segment(s.cs);
  state.seg[cpu::kSs] = from_segment(s.ss);
  state.seg[cpu::kDs] = from_segment(s.ds);
  state.seg[cpu::kFs] = from_segment(s.fs);
  state.seg[cpu::kGs] = from_segment(s.gs);
  state.ldtr = from_segment(s.ldt);
  state.tr = from_segment(s.tr);
  state.gdtr = {s.gdt.base, s.gdt.limit};
  state.idtr = {s.idt.base, s.idt.limit};
  state.cr0 = s.cr0;
  state.cr2 = s.cr2;
  state.cr3 = s.cr3;
  state.cr4 = s.cr4;
  state.efer = s.efer;
  if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) std::copy(s.pdptrs, s.pdptrs + 4, state.pdpte.begin());
}

kvm_debugregs to_debugregs(const CpuState& state) {
  kvm_debugregs d{};
  std::copy(state.dr.begin(), state.dr.end(), d.db);
  d.dr6 = state.dr6;
  d.dr7 = state.dr7;
  return d;
}

void take_debugregs(CpuState& state, const kvm_debugregs& d) {
  std::copy(d.db, d.db + 4, state.dr.begin());
  state.dr6 = d.dr6;
  state.dr7 = d.dr7;
}

XsaveArea to_xsave(const CpuState& state, const XsaveLayout& layout) {
  XsaveArea area;
  std::uint8_t* const to = area.bytes;
  const cpu::X87State& x = state.x87;
  std::uint8_t abridged = 0;
  for (unsigned i = 0; i < 8; ++i)
    if (((x.tag >> (i * 2)) & 3) != 3) abridged = static_cast<std::uint8_t>(abridged | (1u << i));
  store_le<std::uint16_t>(to, x.control);
  store_le<std::uint16_t>(to + 2, x.status);
  to[4] = abridged;
  store_le<std::uint16_t>(to + 6, x.opcode);
  store_le<std::uint64_t>(to + 8, x.ip);
  store_le<std::uint64_t>(to + 16, x.dp);
  const unsigned top = (x.status >> 11) & 7;
  for (unsigned i = 0; i < 8; ++i) {
    const cpu::F80Bits& r = x.registers[(top + i) & 7];
    store_le<std::uint64_t>(to + kOffsetX87 + i * 16, r.significand);
    store_le<std::uint16_t>(to + kOffsetX87 + i * 16 + 8, r.sign_exponent);
  }
  store_le<std::uint32_t>(to + kOffsetMxcsr, state.mxcsr);
  store_le<std::uint32_t>(to + kOffsetMxcsrMask, 0xFFFF);
  for (unsigned i = 0; i < 16; ++i) std::copy_n(state.vector[i].bytes.begin(), 16, to + kOffsetXmm + i * 16);
  std::uint64_t present = kX87Bit | kSseBit;
  if (layout.avx && (state.xcr0 & kAvxBit)) {
    for (unsigned i = 0; i < 16; ++i) std::copy_n(state.vector[i].bytes.begin() + 16, 16, to + layout.avx + i * 16);
    present |= kAvxBit;
  }
  if (layout.pkru && (state.xcr0 & kPkruBit)) {
    store_le<std::uint32_t>(to + layout.pkru, state.pkru);
    present |= kPkruBit;
  }
  store_le<std::uint64_t>(to + kOffsetBv, present);
  return area;
}

void take_xsave(CpuState& state, const XsaveArea& area, const XsaveLayout& layout) {
  const std::uint8_t* const from = area.bytes;
  const std::uint64_t present = load_le<std::uint64_t>(from + kOffsetBv);
  // A component that is not marked is in its initial state, whatever its bytes hold (SDM vol. 1, 13.4.2).
  cpu::X87State& x = state.x87;
  x = {};
  x.control = kX87ControlInit;
  x.tag = 0xFFFF;
  if (present & kX87Bit) {
    x.control = load_le<std::uint16_t>(from);
    x.status = load_le<std::uint16_t>(from + 2);
    x.opcode = load_le<std::uint16_t>(from + 6) & 0x7FF;
    x.ip = load_le<std::uint64_t>(from + 8);
    x.dp = load_le<std::uint64_t>(from + 16);
    const unsigned top = (x.status >> 11) & 7;
    x.tag = 0;
    for (unsigned i = 0; i < 8; ++i) {
      const unsigned physical = (top + i) & 7;
      const std::uint8_t* const at = from + kOffsetX87 + i * 16;
      x.registers[physical] = {load_le<std::uint64_t>(at), load_le<std::uint16_t>(at + 8)};
      const unsigned tag = bit(from[4], physical) ? tag_of_value(x.registers[physical]) : 3;
      x.tag = static_cast<std::uint16_t>(x.tag | (tag << (physical * 2)));
    }
  }
  state.mxcsr = load_le<std::uint32_t>(from + kOffsetMxcsr);
  state.vector = {};
  if (present & kSseBit)
    for (unsigned i = 0; i < 16; ++i) std::copy_n(from + kOffsetXmm + i * 16, 16, state.vector[i].bytes.begin());
  if ((present & kAvxBit) && layout.avx)
    for (unsigned i = 0; i < 16; ++i) std::copy_n(from + layout.avx + i * 16, 16, state.vector[i].bytes.begin() + 16);
  state.pkru = (present & kPkruBit) && layout.pkru ? load_le<std::uint32_t>(from + layout.pkru) : 0;
}

MsrTable to_msrs(const CpuState& state, const cpu::CpuModel& model) {
  MsrTable table;
  const auto add = [&](std::uint32_t index, std::uint64_t value) {
    kvm_msr_entry& entry = table.entries[table.count++];
    entry.index = index;
    entry.data = value;
  };
  const MsrState& m = state.msr;
  for (const PlainMsr& msr : kPlain)
    if (model.has(msr.feature)) add(msr.index, m.*msr.member);
  add(kMsrMiscEnable, m.misc_enable | kMiscEnableFixed);
  if (model.has(Feature::rdtscp) || model.has(Feature::rdpid)) add(kMsrTscAux, m.tsc_aux);
  if (model.has(Feature::mca))
    for (unsigned i = 0; i < m.mc_banks.size(); ++i) add(kMsrMc0Ctl + i, m.mc_banks[i]);
  if (model.has(Feature::mtrr)) {
    for (unsigned i = 0; i < m.mtrr_fixed.size(); ++i) add(kMtrrFixed[i], m.mtrr_fixed[i]);
    for (unsigned i = 0; i < m.mtrr_variable.size(); ++i) add(kMsrMtrrPhysBase0 + i, m.mtrr_variable[i]);
  }
  return table;
}

void take_msrs(CpuState& state, std::span<const kvm_msr_entry> entries) {
  MsrState& m = state.msr;
  for (const kvm_msr_entry& entry : entries) {
    const std::uint32_t index = entry.index;
    if (const auto* plain =
            std::find_if(std::begin(kPlain), std::end(kPlain), [&](const PlainMsr& p) { return p.index == index; });
        plain != std::end(kPlain)) {
      m.*plain->member = index == 0xC0010015 ? entry.data & ~kHwcrTscFreqSel : entry.data;
    } else if (index == kMsrMiscEnable) {
      m.misc_enable = entry.data & ~kMiscEnableFixed;
    } else if (index == kMsrTscAux) {
      m.tsc_aux = static_cast<std::uint32_t>(entry.data);
    } else if (index >= kMsrMc0Ctl && index < kMsrMc0Ctl + m.mc_banks.size()) {
      m.mc_banks[index - kMsrMc0Ctl] = entry.data;
    } else if (index >= kMsrMtrrPhysBase0 && index < kMsrMtrrPhysBase0 + m.mtrr_variable.size()) {
      m.mtrr_variable[index - kMsrMtrrPhysBase0] = entry.data;
    } else if (const auto* fixed = std::find(std::begin(kMtrrFixed), std::end(kMtrrFixed), index);
               fixed != std::end(kMtrrFixed)) {
      m.mtrr_fixed[static_cast<std::size_t>(fixed - std::begin(kMtrrFixed))] = entry.data;
    }
  }
}

std::string_view msr_name(std::uint32_t index) {
  for (const PlainMsr& msr : kPlain)
    if (msr.index == index) return msr.name;
  if (index == kMsrMiscEnable) return "MISC_ENABLE";
  if (index == kMsrTscAux) return "TSC_AUX";
  if (index >= kMsrMc0Ctl && index < kMsrMc0Ctl + 40) return "a machine-check bank";
  return "an MTRR";
}

}  // namespace husk::accel::kvm
