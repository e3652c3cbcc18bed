// husk: whether a CPU of a model can be in a state
#include "cpu/state_check.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::cpu {

std::uint64_t cr4_bits(const CpuModel& model) {
  std::uint64_t allowed = kCr4Pce;
  const auto when = [&](Feature feature, std::uint64_t which) {
    if (model.has(feature)) allowed |= which;
  };
  when(Feature::vme, kCr4Vme | kCr4Pvi);
  when(Feature::tsc, kCr4Tsd);
  when(Feature::de, kCr4De);
  when(Feature::pse, kCr4Pse);
  when(Feature::pae, kCr4Pae);
  when(Feature::mce, kCr4Mce);
  when(Feature::pge, kCr4Pge);
  when(Feature::fxsr, kCr4Osfxsr);
  when(Feature::sse, kCr4Osxmmexcpt);
  when(Feature::umip, kCr4Umip);
  when(Feature::la57, kCr4La57);
  when(Feature::fsgsbase, kCr4Fsgsbase);
  when(Feature::pcid, kCr4Pcide);
  when(Feature::xsave, kCr4Osxsave);
  when(Feature::smep, kCr4Smep);
  when(Feature::smap, kCr4Smap);
  when(Feature::pku, kCr4Pke);
  return allowed;
}

std::uint64_t efer_bits(const CpuModel& model) {
  std::uint64_t allowed = kEferLma;
  if (model.has(Feature::syscall)) allowed |= kEferSce;
  if (model.has(Feature::lm)) allowed |= kEferLme;
  if (model.has(Feature::nx)) allowed |= kEferNxe;
  if (model.has(Feature::fxsr_opt)) allowed |= kEferFfxsr;
  if (model.has(Feature::svm)) allowed |= kEferSvme;
  if (model.has(Feature::autoibrs)) allowed |= std::uint64_t{1} << 21;
  return allowed;
}

namespace {
/// AVX-512's upper registers and masks, which no model of husk's has: they cannot hold anything.
bool upper_registers_used(const CpuState& state) {
  const auto used = [](const std::uint8_t byte) { return byte != 0; };
  for (std::size_t i = 0; i < state.vector.size(); ++i) {
    const auto& bytes = state.vector[i].bytes;
    if (std::any_of(bytes.begin() + (i < 16 ? 32 : 0), bytes.end(), used)) return true;
  }
  return std::any_of(state.opmask.begin(), state.opmask.end(), [](std::uint64_t mask) { return mask != 0; });
}

/// Physical addresses must be ones that VMRUN takes, and the host one that #VMEXIT can go back to.
Status check_svm(const CpuState& state, const CpuModel& model) {
  const SvmState& svm = state.svm;
  if (!model.has(Feature::svm)) {
    if (svm.guest || !svm.gif || state.msr.vm_hsave_pa != 0)
      return fail("CPU state: the CPU uses SVM, which the CPU model {} lacks", model.name);
    return {};
  }
  if (svm.guest && !svm.gif) return fail("CPU state: a guest of the guest runs with the global interrupt flag clear");
  const std::uint64_t page = mask_of(model.physical_bits) & ~std::uint64_t{0xFFF};
  if (state.msr.vm_hsave_pa & ~page) return fail("CPU state: VM_HSAVE_PA is {:#x}", state.msr.vm_hsave_pa);
  if (!svm.guest) return {};
  for (const std::uint64_t address : {svm.vmcb, svm.io_map, svm.msr_map})
    if (address & ~page) return fail("CPU state: {:#x} is no address for a VMCB or a permission map", address);
  if (svm.nested_cr3 & ~mask_of(model.physical_bits)) return fail("CPU state: nested CR3 is {:#x}", svm.nested_cr3);
  if (svm.asid == 0) return fail("CPU state: a guest of the guest has the ASID {}", svm.asid);
  const SvmHost& host = svm.host;
  if ((host.cr0 >> 32) || !(host.cr0 & kCr0Pe) || (host.cr4 & ~cr4_bits(model)) ||
      (host.efer & ~efer_bits(model)) || !(host.efer & kEferSvme) || (host.cr3 & ~mask_of(model.physical_bits)) ||
      (host.rflags & kVM) || host.seg[kSs].dpl() != 0)
    return fail("CPU state: what #VMEXIT would go back to is no state for VMRUN");
  return {};
}

Status check_injected(const InjectedEvent& event) {
  switch (event.kind) {
    case InjectedEvent::Kind::none: return {};
    case InjectedEvent::Kind::exception:
      // SDM vol. 3, table 6-1; 2 is the NMI, and INT3 and INTO are executed again.
      if (event.vector > 31 || event.vector == 2 || event.vector == 3 || event.vector == 4)
        return fail("CPU state: exception {} cannot be under way", event.vector);
      return {};
    case InjectedEvent::Kind::interrupt: return {};
    case InjectedEvent::Kind::nmi:
      if (event.vector != 2) return fail("CPU state: an NMI has vector 2 and not {}", event.vector);
      return {};
  }
  return fail("CPU state: an event of unknown kind {} is under way", static_cast<unsigned>(event.kind));
}
}  // namespace

Status check_state(const CpuState& state, const CpuModel& model) {
  if (state.in_smm) return fail("CPU state: the CPU is in system management mode, which husk's CPUs do not have");
  if (state.smi_pending) return fail("CPU state: an SMI is pending, which husk's CPUs do not have");
  if (state.activity > Activity::mwait)
    return fail("CPU state: unknown activity {}", static_cast<unsigned>(state.activity));
  if (const std::uint64_t extra = state.cr4 & ~cr4_bits(model))
    return fail("CPU state: CR4 has bits {:#x}, which the CPU model {} lacks", extra, model.name);
  if (const std::uint64_t extra = state.efer & ~efer_bits(model))
    return fail("CPU state: EFER has bits {:#x}, which the CPU model {} lacks", extra, model.name);
  // SDM vol. 3, 2.5.
  // VMRUN allows it (APM vol. 2, 15.5.1: paged real mode).
  if ((state.cr0 & kCr0Pg) && !(state.cr0 & kCr0Pe) && !state.svm.guest)
    return fail("CPU state: CR0 {:#x} has paging without protection", state.cr0);
  if (state.cr0 >> 32) return fail("CPU state: CR0 {:#x} has reserved bits", state.cr0);
  if (state.cr3 & ~mask_of(model.physical_bits))
    return fail("CPU state: CR3 {:#x} is beyond the {} address bits of the CPU model {}", state.cr3,
                model.physical_bits, model.name);
  if (!(state.xcr0 & 1) || (state.xcr0 & ~(supported_xcr0(model) | 1)))
    return fail("CPU state: XCR0 {:#x} has components that the CPU model {} lacks", state.xcr0, model.name);
  if (state.mxcsr & ~std::uint32_t{0xFFFF}) return fail("CPU state: MXCSR {:#x} has reserved bits", state.mxcsr);
  if (upper_registers_used(state))
    return fail("CPU state: registers of AVX-512 hold something, and the CPU model {} has none", model.name);
  if (state.msr.kvm_clock_offset != 0 && !model.has(Feature::kvmclock))
    return fail("CPU state: there is a paravirtual clock, and the CPU model {} has none", model.name);
  HUSK_TRY(check_svm(state, model));
  return check_injected(state.injected);
}

}  // namespace husk::cpu
