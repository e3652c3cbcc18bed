// husk: the neutral CPU state as KVM's structures, and back
#pragma once

#include <span>
#include <string_view>

#include "accel/kvm/api.h"
#include "cpu/model.h"
#include "cpu/state.h"

namespace husk::accel::kvm {

// Pure conversions. `to` ones fill the whole structure, `take` ones set the members of the state that it holds.

kvm_regs to_regs(const cpu::CpuState& state);
void take_regs(cpu::CpuState& state, const kvm_regs& regs);

/// Segments, tables, control registers; not the APIC base and CR8, which are the interrupt controller's.
kvm_sregs2 to_sregs(const cpu::CpuState& state);
void take_sregs(cpu::CpuState& state, const kvm_sregs2& sregs);

kvm_debugregs to_debugregs(const cpu::CpuState& state);
void take_debugregs(cpu::CpuState& state, const kvm_debugregs& regs);

/// Where the host's standard XSAVE format has what is beyond the legacy region; 0: nowhere.
struct XsaveLayout {
  unsigned avx = 576;
  unsigned pkru = 0;
};
XsaveArea to_xsave(const cpu::CpuState& state, const XsaveLayout& layout);
void take_xsave(cpu::CpuState& state, const XsaveArea& area, const XsaveLayout& layout);

/// The MSRs that are part of the neutral state and that the model has, with their values; the TSC is not among them.
MsrTable to_msrs(const cpu::CpuState& state, const cpu::CpuModel& model);
void take_msrs(cpu::CpuState& state, std::span<const kvm_msr_entry> entries);
/// For messages.
std::string_view msr_name(std::uint32_t index);

}  // namespace husk::accel::kvm
