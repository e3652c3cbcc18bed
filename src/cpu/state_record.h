// husk: the CPU state as a declared record: its form in a saved machine, in a move between accelerators, in inspection
#pragma once

#include <tuple>

#include "cpu/state.h"
#include "state/state.h"

// Apart from state.h, which everything of the CPU includes. docs/cpu-state-schema.txt holds what is declared here; tags
// are never given anew.
namespace husk::cpu {

constexpr auto Segment::state() {
  using state::field;
  return std::tuple{field(1, "selector", &Segment::selector), field(2, "attributes", &Segment::attributes),
                    field(3, "limit", &Segment::limit), field(4, "base", &Segment::base)};
}

constexpr auto DescriptorTable::state() {
  using state::field;
  return std::tuple{field(1, "base", &DescriptorTable::base), field(2, "limit", &DescriptorTable::limit)};
}

constexpr auto F80Bits::state() {
  using state::field;
  return std::tuple{field(1, "significand", &F80Bits::significand), field(2, "sign_exponent", &F80Bits::sign_exponent)};
}

constexpr auto VectorRegister::state() { return std::tuple{state::field(1, "bytes", &VectorRegister::bytes)}; }

constexpr auto X87State::state() {
  using S = X87State;
  using state::field;
  return std::tuple{field(1, "registers", &S::registers),
                    field(2, "control", &S::control),
                    field(3, "status", &S::status),
                    field(4, "tag", &S::tag),
                    field(5, "opcode", &S::opcode).max(0x7FF),
                    field(6, "ip_selector", &S::ip_selector),
                    field(7, "dp_selector", &S::dp_selector),
                    field(8, "ip", &S::ip),
                    field(9, "dp", &S::dp)};
}

constexpr auto InjectedEvent::state() {
  using S = InjectedEvent;
  using state::field;
  return std::tuple{field(1, "kind", &S::kind).max(static_cast<std::uint64_t>(S::Kind::nmi)),
                    field(2, "vector", &S::vector), field(3, "has_error", &S::has_error), field(4, "error", &S::error)};
}

constexpr auto MsrState::state() {
  using S = MsrState;
  using state::field;
  return std::tuple{field(1, "star", &S::star),
                    field(2, "lstar", &S::lstar),
                    field(3, "cstar", &S::cstar),
                    field(4, "sfmask", &S::sfmask),
                    field(5, "kernel_gs_base", &S::kernel_gs_base),
                    field(6, "sysenter_cs", &S::sysenter_cs),
                    field(7, "sysenter_esp", &S::sysenter_esp),
                    field(8, "sysenter_eip", &S::sysenter_eip),
                    field(9, "pat", &S::pat),
                    field(10, "tsc_offset", &S::tsc_offset),
                    field(11, "tsc_adjust", &S::tsc_adjust),
                    field(12, "tsc_aux", &S::tsc_aux),
                    field(13, "misc_enable", &S::misc_enable),
                    field(14, "debug_control", &S::debug_control),
                    field(15, "spec_control", &S::spec_control),
                    field(16, "mcg_status", &S::mcg_status),
                    field(17, "mcg_ctl", &S::mcg_ctl),
                    field(18, "mc_banks", &S::mc_banks),
                    field(19, "hwcr", &S::hwcr),
                    field(20, "syscfg", &S::syscfg),
                    field(21, "xss", &S::xss),
                    field(22, "kvm_system_time", &S::kvm_system_time),
                    field(23, "kvm_wall_clock", &S::kvm_wall_clock),
                    field(24, "mtrr_default_type", &S::mtrr_default_type),
                    field(25, "mtrr_fixed", &S::mtrr_fixed),
                    field(26, "mtrr_variable", &S::mtrr_variable),
                    field(27, "kvm_clock_offset", &S::kvm_clock_offset),
                    field(28, "vm_cr", &S::vm_cr),
                    field(29, "vm_hsave_pa", &S::vm_hsave_pa)};
}

constexpr auto SvmHost::state() {
  using S = SvmHost;
  using state::field;
  return std::tuple{field(1, "seg", &S::seg),       field(2, "gdtr", &S::gdtr), field(3, "idtr", &S::idtr),
                    field(4, "cr0", &S::cr0),       field(5, "cr3", &S::cr3),   field(6, "cr4", &S::cr4),
                    field(7, "efer", &S::efer),     field(8, "rflags", &S::rflags), field(9, "rip", &S::rip),
                    field(10, "rsp", &S::rsp),      field(11, "rax", &S::rax),  field(12, "pat", &S::pat),
                    field(13, "pdpte", &S::pdpte)};
}

constexpr auto SvmState::state() {
  using S = SvmState;
  using state::field;
  return std::tuple{field(1, "gif", &S::gif),
                    field(2, "guest", &S::guest),
                    field(3, "vmcb", &S::vmcb),
                    field(4, "intercepts", &S::intercepts),
                    field(5, "io_map", &S::io_map),
                    field(6, "msr_map", &S::msr_map),
                    field(7, "tsc_offset", &S::tsc_offset),
                    field(8, "asid", &S::asid),
                    field(9, "nested_paging", &S::nested_paging),
                    field(10, "nested_cr3", &S::nested_cr3),
                    field(11, "virtual_tpr", &S::virtual_tpr).max(15),
                    field(12, "virtual_interrupt", &S::virtual_interrupt),
                    field(13, "virtual_priority", &S::virtual_priority).max(15),
                    field(14, "virtual_vector", &S::virtual_vector),
                    field(15, "ignore_virtual_tpr", &S::ignore_virtual_tpr),
                    field(16, "virtual_masking", &S::virtual_masking),
                    field(17, "pause_count", &S::pause_count),
                    field(18, "pause_threshold", &S::pause_threshold),
                    field(19, "pauses_left", &S::pauses_left),
                    field(20, "host", &S::host)};
}

constexpr auto CpuState::state() {
  using S = CpuState;
  using state::field;
  return std::tuple{field(1, "gpr", &S::gpr),
                    field(2, "rip", &S::rip),
                    field(3, "rflags", &S::rflags),
                    field(4, "seg", &S::seg),
                    field(5, "ldtr", &S::ldtr),
                    field(6, "tr", &S::tr),
                    field(7, "gdtr", &S::gdtr),
                    field(8, "idtr", &S::idtr),
                    field(9, "cr0", &S::cr0),
                    field(10, "cr2", &S::cr2),
                    field(11, "cr3", &S::cr3),
                    field(12, "cr4", &S::cr4),
                    field(13, "pdpte", &S::pdpte),
                    field(14, "xcr0", &S::xcr0),
                    field(15, "efer", &S::efer),
                    field(16, "dr", &S::dr),
                    field(17, "dr6", &S::dr6),
                    field(18, "dr7", &S::dr7),
                    field(19, "msr", &S::msr),
                    field(20, "x87", &S::x87),
                    field(21, "mxcsr", &S::mxcsr),
                    field(22, "pkru", &S::pkru),
                    field(23, "vector", &S::vector),
                    field(24, "opmask", &S::opmask),
                    field(25, "activity", &S::activity).max(static_cast<std::uint64_t>(Activity::mwait)),
                    field(26, "interrupt_shadow", &S::interrupt_shadow),
                    field(27, "nmi_blocked", &S::nmi_blocked),
                    field(28, "nmi_pending", &S::nmi_pending),
                    field(29, "in_smm", &S::in_smm),
                    field(30, "smi_pending", &S::smi_pending),
                    field(31, "init_pending", &S::init_pending),
                    field(32, "sipi_pending", &S::sipi_pending),
                    field(33, "sipi_vector", &S::sipi_vector),
                    field(34, "pending_debug", &S::pending_debug).max(0xFFFF),
                    field(35, "shadow_holds_debug", &S::shadow_holds_debug),
                    field(36, "injected", &S::injected),
                    field(37, "svm", &S::svm)};
}

}  // namespace husk::cpu
