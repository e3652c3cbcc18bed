// husk: model-specific registers
#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"
#include "cpu/state_check.h"
#include "cpu/walk.h"

namespace husk::cpu::interp {

namespace {

/// Numbers as in SDM vol. 4 and APM vol. 2 appendix A.
enum Msr : std::uint32_t {
  kMsrP5McAddr = 0x0, kMsrP5McType = 0x1, kMsrTsc = 0x10, kMsrPlatformId = 0x17, kMsrApicBase = 0x1B, kMsrFeatureControl = 0x3A,
  kMsrTscAdjust = 0x3B, kMsrSpecCtrl = 0x48, kMsrPredCmd = 0x49, kMsrBiosSignature = 0x8B, kMsrMtrrCap = 0xFE,
  kMsrArchCapabilities = 0x10A, kMsrSysenterCs = 0x174, kMsrSysenterEsp = 0x175, kMsrSysenterEip = 0x176, kMsrMcgCap = 0x179,
  kMsrMcgStatus = 0x17A, kMsrMcgCtl = 0x17B, kMsrMiscEnable = 0x1A0, kMsrDebugCtl = 0x1D9, kMsrLastBranchFrom = 0x1DB,
  kMsrLastIntTo = 0x1DE, kMsrMtrrPhysBase0 = 0x200, kMsrMtrrPhysMask7 = 0x20F, kMsrMtrrFix64K = 0x250, kMsrMtrrFix16K80 = 0x258,
  kMsrMtrrFix16KA0 = 0x259, kMsrMtrrFix4KC0 = 0x268, kMsrMtrrFix4KF8 = 0x26F, kMsrPat = 0x277, kMsrMtrrDefType = 0x2FF,
  kMsrMc0Ctl = 0x400, kMsrMc9Misc = 0x427, kMsrTscDeadline = 0x6E0, kMsrX2ApicFirst = 0x800, kMsrX2ApicLast = 0x8FF, kMsrXss = 0xDA0,
  kMsrKvmWallClock = 0x4B564D00, kMsrKvmSystemTime = 0x4B564D01, kMsrEfer = 0xC0000080, kMsrStar = 0xC0000081, kMsrLstar = 0xC0000082, kMsrCstar = 0xC0000083, kMsrSfmask = 0xC0000084,
  kMsrFsBase = 0xC0000100, kMsrGsBase = 0xC0000101, kMsrKernelGsBase = 0xC0000102, kMsrTscAux = 0xC0000103,
  kMsrSyscfg = 0xC0010010, kMsrHwcr = 0xC0010015, kMsrIorrBase0 = 0xC0010016, kMsrTopMem = 0xC001001A, kMsrTopMem2 = 0xC001001D,
  kMsrNbCfg = 0xC001001F, kMsrPatchLoader = 0xC0010020, kMsrIntPending = 0xC0010055, kMsrMmConfBase = 0xC0010058,
  kMsrVmCr = 0xC0010114, kMsrVmHsavePa = 0xC0010117, kMsrLsCfg = 0xC0011020, kMsrBuCfg = 0xC0011023, kMsrDeCfg = 0xC0011029,
  kMsrBuCfg2 = 0xC001102A,
};

constexpr std::uint64_t kMtrrCap = 0x508;       // 8 variable ranges, fixed ranges, write combining
constexpr std::uint64_t kMcgCap = 10 | 0x100;   // ten banks, MCG_CTL
constexpr std::uint64_t kHwcrTscFreqSel = 1u << 24;  // the TSC counts at the P0 frequency; read-only
constexpr std::uint64_t kHwcrMcStatusWrEn = 1u << 18;
constexpr std::uint64_t kVmCrLock = 1u << 3, kVmCrSvmDisabled = 1u << 4;
constexpr std::uint64_t kDeCfgLfenceSerialize = 2;
constexpr std::uint64_t kMicrocodeLevel = 0x01000065;
// The software CPU does not run guest code speculatively. RDCL_NO IBRS_ALL SKIP_L1DFL_VMENTRY SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO
// SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO GDS_NO RFDS_NO (SDM vol. 4, IA32_ARCH_CAPABILITIES).
constexpr std::uint64_t kArchCapabilities = 0x0C10E17B;

/// Canonical for the widest paging mode that the model has: LSTAR and the bases may be set before CR4.LA57.
bool address_ok(const Core& core, std::uint64_t value) {
  const unsigned unused = core.model.linear_bits == 57 ? 7 : 16;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value << unused) >> unused) == value;
}

bool amd(const CpuModel& model) { return model.vendor == "AuthenticAMD" || model.vendor == "HygonGenuine"; }
bool intel(const CpuModel& model) { return model.vendor == "GenuineIntel"; }

/// Memory types of MTRRs (UC WC WT WP WB); PAT has UC- (7) too.
bool mtrr_type(std::uint64_t type) { return type <= 6 && type != 2 && type != 3; }
bool pat_ok(std::uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) {
    const std::uint64_t type = bits(value, i * 8, 8);
    if (type != 7 && !mtrr_type(type)) return false;
  }
  return true;
}
/// The wall clock at virtual time 0.
void publish_kvm_wall_clock(Core& core) {
  const std::int64_t start = core.deps().clock.wall_clock() - static_cast<std::int64_t>(core.deps().clock.now());
  std::array<std::uint8_t, 12> record{};
  store_le<std::uint32_t>(&record[0], 2);
  store_le<std::uint32_t>(&record[4], static_cast<std::uint32_t>(start / 1'000'000'000));
  store_le<std::uint32_t>(&record[8], static_cast<std::uint32_t>(start % 1'000'000'000));
  (void)mem::GuestMemory(core.deps().memory).write(core.s.msr.kvm_wall_clock, record);
}

/// Index into MsrState::mtrr_fixed.
std::optional<unsigned> mtrr_fixed_index(std::uint32_t index) {
  if (index == kMsrMtrrFix64K) return 0;
  if (index == kMsrMtrrFix16K80 || index == kMsrMtrrFix16KA0) return 1 + (index - kMsrMtrrFix16K80);
  if (index >= kMsrMtrrFix4KC0 && index <= kMsrMtrrFix4KF8) return 3 + (index - kMsrMtrrFix4KC0);
  return std::nullopt;
}

bool write_efer(Core& core, std::uint64_t value) {
  CpuState& s = core.s;
  if (value & ~efer_bits(core.model)) return false;
  if ((s.cr0 & kCr0Pg) && ((s.efer ^ value) & kEferLme)) return false;
  if ((value & ~s.efer & kEferSvme) && (s.msr.vm_cr & kVmCrSvmDisabled)) return false;
  value = (value & ~std::uint64_t{kEferLma}) | (s.efer & kEferLma);
  const std::uint64_t changed = s.efer ^ value;
  s.efer = value;
  if (changed & kEferNxe) core.flush_tlb_all();
  core.update_mode();
  return true;
}

std::optional<std::uint64_t> read_amd(const Core& core, std::uint32_t index) {
  const MsrState& r = core.s.msr;
  switch (index) {
    case kMsrSyscfg: return r.syscfg;
    case kMsrHwcr: return r.hwcr | kHwcrTscFreqSel;
    case kMsrVmCr: return core.model.has(Feature::svm) ? r.vm_cr : kVmCrSvmDisabled;
    case kMsrVmHsavePa: return r.vm_hsave_pa;
    case kMsrDeCfg: return kDeCfgLfenceSerialize;
    case kMsrTopMem:
    case kMsrTopMem2:
    case kMsrNbCfg:
    case kMsrIntPending:
    case kMsrMmConfBase:
    case kMsrBuCfg2: return 0;
    default: break;
  }
  if (index >= kMsrIorrBase0 && index < kMsrTopMem) return 0;
  if (index >= kMsrLsCfg && index <= kMsrBuCfg) return 0;
  return std::nullopt;
}

/// APM vol. 2, 15.30.1: what is locked stays; SVMDIS cannot come while SVM is on.
bool write_vm_cr(Core& core, std::uint64_t value) {
  std::uint64_t& vm_cr = core.s.msr.vm_cr;
  if (value & ~std::uint64_t{0x1F}) return false;
  if (vm_cr & kVmCrLock) value = (value & ~(kVmCrLock | kVmCrSvmDisabled)) | (vm_cr & (kVmCrLock | kVmCrSvmDisabled));
  if ((value & kVmCrSvmDisabled) && (core.s.efer & kEferSvme)) return false;
  vm_cr = value;
  return true;
}

bool write_amd(Core& core, std::uint32_t index, std::uint64_t value) {
  MsrState& r = core.s.msr;
  switch (index) {
    case kMsrSyscfg: r.syscfg = value & 0x7FFFFF; return true;
    case kMsrHwcr: r.hwcr = value & 0xFFFFFFFF & ~kHwcrTscFreqSel; return true;
    case kMsrVmCr: return !core.model.has(Feature::svm) || write_vm_cr(core, value);
    case kMsrVmHsavePa:
      if (!core.model.has(Feature::svm)) return true;
      if (value & ~(mask_of(core.model.physical_bits) & ~std::uint64_t{0xFFF})) return false;
      r.vm_hsave_pa = value;
      return true;
    case kMsrPatchLoader: return true;  // a hypervisor drops microcode updates
    default: break;
  }
  // Configuration that changes nothing the guest can see.
  return read_amd(core, index).has_value();
}

std::optional<std::uint64_t> read_mtrr(const Core& core, std::uint32_t index) {
  const MsrState& r = core.s.msr;
  if (!core.model.has(Feature::mtrr)) return std::nullopt;
  if (index == kMsrMtrrCap) return kMtrrCap;
  if (index == kMsrMtrrDefType) return r.mtrr_default_type;
  if (const auto fixed = mtrr_fixed_index(index)) return r.mtrr_fixed[*fixed];
  if (index >= kMsrMtrrPhysBase0 && index <= kMsrMtrrPhysMask7) return r.mtrr_variable[index - kMsrMtrrPhysBase0];
  return std::nullopt;
}

// SDM vol. 3, 12.11.2: reserved bits and types are checked.
bool write_mtrr(Core& core, std::uint32_t index, std::uint64_t value) {
  MsrState& r = core.s.msr;
  if (!core.model.has(Feature::mtrr)) return false;
  if (index == kMsrMtrrDefType) {
    if ((value & ~std::uint64_t{0xCFF}) || !mtrr_type(value & 0xFF)) return false;
    r.mtrr_default_type = value;
    return true;
  }
  if (const auto fixed = mtrr_fixed_index(index)) {
    for (unsigned i = 0; i < 8; ++i)
      // AMD's RdMem and WrMem (bits 3 and 4 of each byte) exist while SYSCFG shows them.
      if (!mtrr_type(bits(value, i * 8, 8) & (amd(core.model) && bit(r.syscfg, 19) ? 0xE7u : 0xFFu))) return false;
    r.mtrr_fixed[*fixed] = value;
    return true;
  }
  if (index >= kMsrMtrrPhysBase0 && index <= kMsrMtrrPhysMask7) {
    const bool is_mask = index & 1;
    const std::uint64_t reserved = ~mask_of(core.model.physical_bits) | (is_mask ? 0x7FFu : 0xF00u);
    if ((value & reserved) || (!is_mask && !mtrr_type(value & 0xFF))) return false;
    r.mtrr_variable[index - kMsrMtrrPhysBase0] = value;
    return true;
  }
  return false;
}

bool is_mtrr(std::uint32_t index) {
  return index == kMsrMtrrCap || index == kMsrMtrrDefType || (index >= kMsrMtrrPhysBase0 && index <= kMsrMtrrPhysMask7) ||
         mtrr_fixed_index(index).has_value();
}

bool write_mc_bank(Core& core, std::uint32_t index, std::uint64_t value) {
  MsrState& r = core.s.msr;
  // IA32_MCi_STATUS: only zeros may be written, unless AMD's McStatusWrEn is set.
  if ((index & 3) == 1 && value != 0 && !(amd(core.model) && (r.hwcr & kHwcrMcStatusWrEn))) return false;
  r.mc_banks[index - kMsrMc0Ctl] = value;
  return true;
}

}  // namespace

/// KVM's paravirtual clock (Documentation/virt/kvm/x86/msr.rst, struct pvclock_vcpu_time_info): virtual time is 0 where
/// the TSC equals its offset, and both run at fixed rates, so that the page needs writing only when the offset changes.
void Core::publish_kvm_clock() {
  const std::uint64_t where = s.msr.kvm_system_time;
  if (!(where & 1) || !model.has(Feature::kvmclock)) return;
  // ns = ((ticks << shift) * multiplier) >> 32, with the multiplier's top bit set.
  std::uint64_t hertz = deps_.tsc_hz;
  std::int8_t shift = 0;
  while (hertz >= core::kNanosecondsPerSecond * 2) {
    hertz >>= 1;
    --shift;
  }
  while (hertz <= core::kNanosecondsPerSecond) {
    hertz <<= 1;
    ++shift;
  }
  const auto multiplier = static_cast<std::uint32_t>((core::kNanosecondsPerSecond << 32) / hertz);
  constexpr std::uint8_t kTscStable = 1;
  mem::GuestMemory memory(deps_.memory);
  std::array<std::uint8_t, 32> page{};
  (void)memory.read(where & ~std::uint64_t{1}, page);
  // Odd while it is being written. A reader that was stopped in the midst must see that it changed, whoever wrote it
  // before.
  const std::uint32_t version = (load_le<std::uint32_t>(page.data()) & ~std::uint32_t{1}) + 2;
  page = {};
  store_le<std::uint32_t>(&page[0], version);
  store_le<std::uint64_t>(&page[8], s.msr.tsc_offset);
  store_le<std::uint64_t>(&page[16], static_cast<std::uint64_t>(s.msr.kvm_clock_offset));
  store_le<std::uint32_t>(&page[24], multiplier);
  page[28] = static_cast<std::uint8_t>(shift);
  page[29] = kTscStable;
  (void)memory.write(where & ~std::uint64_t{1}, page);
}

std::optional<std::uint64_t> Core::read_msr(std::uint32_t index) {
  const MsrState& r = s.msr;
  if (index >= kMsrX2ApicFirst && index <= kMsrX2ApicLast) return deps_.interrupts.read_msr(index);
  if (is_mtrr(index)) return read_mtrr(*this, index);
  if (index >= kMsrMc0Ctl && index <= kMsrMc9Misc && model.has(Feature::mca)) return r.mc_banks[index - kMsrMc0Ctl];
  const auto when = [this](Feature feature, std::uint64_t value) {
    return model.has(feature) ? std::optional<std::uint64_t>(value) : std::nullopt;
  };
  switch (index) {
    case kMsrP5McAddr:
    case kMsrP5McType: return when(Feature::mce, 0);
    case kMsrTsc: return when(Feature::tsc, tsc());
    case kMsrPlatformId: return intel(model) ? std::optional<std::uint64_t>(0) : std::nullopt;
    case kMsrApicBase: return deps_.interrupts.apic_base();
    case kMsrFeatureControl: return intel(model) ? std::optional<std::uint64_t>(1) : std::nullopt;  // locked, VMX off
    case kMsrTscAdjust: return when(Feature::tsc_adjust, r.tsc_adjust);
    case kMsrSpecCtrl: return when(Feature::spec_ctrl, r.spec_control);
    case kMsrBiosSignature: return intel(model) ? kMicrocodeLevel << 32 : kMicrocodeLevel;
    case kMsrArchCapabilities: return when(Feature::arch_capabilities, kArchCapabilities);
    case kMsrSysenterCs: return when(Feature::sep, r.sysenter_cs);
    case kMsrSysenterEsp: return when(Feature::sep, r.sysenter_esp);
    case kMsrSysenterEip: return when(Feature::sep, r.sysenter_eip);
    case kMsrMcgCap: return when(Feature::mca, kMcgCap);
    case kMsrMcgStatus: return when(Feature::mca, r.mcg_status);
    case kMsrMcgCtl: return when(Feature::mca, r.mcg_ctl);
    case kMsrMiscEnable: return r.misc_enable | 0x1800;  // no BTS, no PEBS
    case kMsrDebugCtl: return r.debug_control;
    case kMsrPat: return when(Feature::pat, r.pat);
    case kMsrTscDeadline: return model.has(Feature::tsc_deadline) ? deps_.interrupts.read_msr(index) : std::nullopt;
    case kMsrXss: return when(Feature::xsaves, r.xss);
    case kMsrKvmWallClock: return when(Feature::kvmclock, r.kvm_wall_clock);
    case kMsrKvmSystemTime: return when(Feature::kvmclock, r.kvm_system_time);
    case kMsrEfer: return model.has(Feature::lm) || model.has(Feature::nx) || model.has(Feature::syscall)
                              ? std::optional<std::uint64_t>(s.efer) : std::nullopt;
    case kMsrStar: return when(Feature::syscall, r.star);
    case kMsrLstar: return when(Feature::lm, r.lstar);
    case kMsrCstar: return when(Feature::lm, r.cstar);
    case kMsrSfmask: return when(Feature::lm, r.sfmask);
    case kMsrFsBase: return when(Feature::lm, s.seg[kFs].base);
    case kMsrGsBase: return when(Feature::lm, s.seg[kGs].base);
    case kMsrKernelGsBase: return when(Feature::lm, r.kernel_gs_base);
    case kMsrTscAux:
      return model.has(Feature::rdtscp) || model.has(Feature::rdpid) ? std::optional<std::uint64_t>(r.tsc_aux) : std::nullopt;
    default: break;
  }
  if (index >= kMsrLastBranchFrom && index <= kMsrLastIntTo) return 0;
  return amd(model) ? read_amd(*this, index) : std::nullopt;
}

bool Core::write_msr(std::uint32_t index, std::uint64_t value) {
  MsrState& r = s.msr;
  if (index >= kMsrX2ApicFirst && index <= kMsrX2ApicLast) return deps_.interrupts.write_msr(index, value);
  if (is_mtrr(index)) return write_mtrr(*this, index, value);
  if (index >= kMsrMc0Ctl && index <= kMsrMc9Misc && model.has(Feature::mca)) return write_mc_bank(*this, index, value);
  const auto store = [&](Feature feature, std::uint64_t& to) {
    if (!model.has(feature)) return false;
    to = value;
    return true;
  };
  const auto store_address = [&](Feature feature, std::uint64_t& to) { return address_ok(*this, value) && store(feature, to); };
  switch (index) {
    case kMsrP5McAddr:
    case kMsrP5McType: return model.has(Feature::mce);
    case kMsrTsc:
    case kMsrTscAdjust: {
      if (!model.has(index == kMsrTsc ? Feature::tsc : Feature::tsc_adjust)) return false;
      const std::uint64_t delta = value - (index == kMsrTsc ? tsc() : r.tsc_adjust);
      r.tsc_offset += delta;
      r.tsc_adjust += delta;
      deps_.interrupts.tsc_offset_changed(r.tsc_offset);
      publish_kvm_clock();
      return true;
    }
    case kMsrKvmWallClock:
      if (!store(Feature::kvmclock, r.kvm_wall_clock)) return false;
      publish_kvm_wall_clock(*this);
      return true;
    case kMsrKvmSystemTime:
      if (!store(Feature::kvmclock, r.kvm_system_time)) return false;
      publish_kvm_clock();
      return true;
    case kMsrApicBase: return deps_.interrupts.set_apic_base(value);
    case kMsrSpecCtrl: return !(value & ~std::uint64_t{7}) && store(Feature::spec_ctrl, r.spec_control);
    case kMsrPredCmd: return !(value & ~std::uint64_t{1}) && (model.has(Feature::spec_ctrl) || model.has(Feature::ibpb));
    case kMsrBiosSignature: return true;  // written before a microcode query
    case kMsrSysenterCs: return store(Feature::sep, r.sysenter_cs);
    case kMsrSysenterEsp: return store_address(Feature::sep, r.sysenter_esp);
    case kMsrSysenterEip: return store_address(Feature::sep, r.sysenter_eip);
    case kMsrMcgStatus: return !(value & ~std::uint64_t{7}) && store(Feature::mca, r.mcg_status);
    case kMsrMcgCtl: return store(Feature::mca, r.mcg_ctl);
    case kMsrMiscEnable: r.misc_enable = value & ~std::uint64_t{0x1800}; return true;
    case kMsrDebugCtl:
      if (value & ~std::uint64_t{amd(model) ? 0x3Fu : 0x3u}) return false;
      r.debug_control = value;
      return true;
    case kMsrPat: return pat_ok(value) && store(Feature::pat, r.pat);
    case kMsrTscDeadline: return model.has(Feature::tsc_deadline) && deps_.interrupts.write_msr(index, value);
    case kMsrXss: return value == 0 && store(Feature::xsaves, r.xss);  // no supervisor state component exists
    case kMsrEfer: return (model.has(Feature::lm) || model.has(Feature::nx) || model.has(Feature::syscall)) && write_efer(*this, value);
    case kMsrStar: return store(Feature::syscall, r.star);
    case kMsrLstar: return store_address(Feature::lm, r.lstar);
    case kMsrCstar: return store_address(Feature::lm, r.cstar);
    case kMsrSfmask: return !(value >> 32) && store(Feature::lm, r.sfmask);
    case kMsrFsBase:
    case kMsrGsBase:
      if (!model.has(Feature::lm) || !address_ok(*this, value)) return false;
      s.seg[index == kMsrFsBase ? kFs : kGs].base = value;
      SystemOps::refresh_segment(*this, index == kMsrFsBase ? kFs : kGs);
      return true;
    case kMsrKernelGsBase: return store_address(Feature::lm, r.kernel_gs_base);
    case kMsrTscAux:
      if ((value >> 32) || !(model.has(Feature::rdtscp) || model.has(Feature::rdpid))) return false;
      r.tsc_aux = static_cast<std::uint32_t>(value);
      return true;
    default: break;
  }
  return amd(model) && write_amd(*this, index, value);
}

namespace {

void trace_msr(Core& core, bool write, std::uint32_t index, std::uint64_t value, bool fault) {
  if (core.trace_mask & TraceSink::kMsr) [[unlikely]] core.trace->msr(core, write, index, value, fault);
}

Flow rdmsr(Core& core, const Insn&) {
  const auto index = static_cast<std::uint32_t>(core.s.gpr[kRcx]);
  const auto value = core.read_msr(index);
  trace_msr(core, false, index, value.value_or(0), !value);
  if (!value) {
    core.deps().log.guest_error("RDMSR of unknown register {:#x}", index);
    return core.raise_gp();
  }
  core.s.gpr[kRax] = static_cast<std::uint32_t>(*value);
  core.s.gpr[kRdx] = *value >> 32;
  return Flow::next;
}

Flow wrmsr(Core& core, const Insn&) {
  const auto index = static_cast<std::uint32_t>(core.s.gpr[kRcx]);
  const std::uint64_t value = (core.s.gpr[kRdx] << 32) | static_cast<std::uint32_t>(core.s.gpr[kRax]);
  const bool ok = core.write_msr(index, value);
  trace_msr(core, true, index, value, !ok);
  if (!ok) {
    core.deps().log.guest_error("WRMSR of {:#x} to register {:#x} refused", value, index);
    return core.raise_gp();
  }
  core.end_block();
  return Flow::next;
}

}  // namespace

void bind_msr(HandlerTable& t) {
  t.set(Sem::rdmsr, rdmsr);
  t.set(Sem::wrmsr, wrmsr);
}

}  // namespace husk::cpu::interp
