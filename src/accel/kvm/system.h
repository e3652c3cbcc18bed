// husk: the host's KVM: what it can do, and CPU models cut to that
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "accel/kvm/api.h"
#include "base/log.h"
#include "base/result.h"
#include "cpu/model.h"
#include "host/unique_fd.h"

namespace husk::accel::kvm {

/// What optional parts this KVM has (Documentation/virt/kvm/api.rst names each).
struct Capabilities {
  bool user_msr = false;         ///< unknown MSRs come to husk: x2APIC without an in-kernel APIC
  bool sregs2 = false;           ///< PDPTEs can be read and set
  bool readonly_memory = false;  ///< ROMs
  bool tsc_offset = false;       ///< a vCPU's TSC offset can be read and set exactly
  bool adjust_clock = false;     ///< KVM_SET_CLOCK
  bool triple_fault_event = false;
  bool xsave = false;
  bool xcrs = false;
  bool io_eventfd = false;  ///< for writes of any length
  bool tsc_deadline = false;  ///< KVM's own local APIC has that timer
  unsigned most_vcpus = 1;
  unsigned most_slots = 32;
  unsigned vcpu_area_bytes = 0;
};

class System {
 public:
  /// Opens the device and checks what husk cannot do without. Errors name what is missing and the next step.
  static Result<std::unique_ptr<System>> open(const std::string& device = "/dev/kvm");

  int fd() const { return fd_.get(); }
  const Capabilities& caps() const { return caps_; }
  const CpuidTable& supported() const { return supported_; }
  std::uint64_t tsc_hz() const { return tsc_hz_; }
  /// The MSRs that a guest's state has here (KVM_GET_MSR_INDEX_LIST).
  std::span<const std::uint32_t> msr_list() const { return msr_list_; }

  /// The model that a guest can have here: "max" becomes what the host has; other models lose what the host lacks, with
  /// one warning that lists it. An error if the TSC frequency asked for cannot be had.
  Result<cpu::CpuModel> adapt(cpu::CpuModel model, Log& log) const;
  /// Whether a guest that runs on this very model elsewhere can go on here. An error names what is missing.
  Status accepts(const cpu::CpuModel& model) const;
  /// Whether the local APICs are to be KVM's, with x2APIC and a TSC-deadline timer; before adapt().
  void use_kernel_apic(bool on) { kernel_apic_ = on; }
  /// Names of the model's features that a guest cannot have here.
  std::vector<std::string> missing(const cpu::CpuModel& model) const;
  /// The CPUID entry of the host, or null.
  const kvm_cpuid_entry2* find(std::uint32_t leaf, std::uint32_t subleaf) const;

 private:
  System() = default;
  Status look();
  bool offers(cpu::Feature feature) const;
  void take_host_identity(cpu::CpuModel& model) const;

  host::UniqueFd fd_;
  Capabilities caps_;
  CpuidTable supported_;
  std::vector<std::uint32_t> msr_list_;
  std::uint64_t tsc_hz_ = 0;
  bool kernel_apic_ = false;
};

/// What CPUID is to answer on the vCPU with this APIC id. The layout of the XSAVE area is the host's.
std::unique_ptr<CpuidTable> cpuid_table(const System& system, const cpu::CpuModel& model, unsigned apic_id);

/// Offset of an XSAVE component in the host's standard format; 0: the host lacks it.
unsigned xsave_offset(const System& system, unsigned component);

}  // namespace husk::accel::kvm
