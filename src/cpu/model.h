// husk: the CPU model: what CPUID tells and which features exist
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cpu/features.h"

namespace husk::cpu {

struct CpuidResult {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

/// Where this CPU sits in the machine.
struct CpuTopology {
  unsigned sockets = 1, cores = 1, threads = 1;  ///< cores a socket, threads a core
};

/// A typed CPU model. Immutable once a machine runs.
struct CpuModel {
  std::string name;         ///< "max", "qemu64", ...
  std::string vendor;       ///< 12 characters, "AuthenticAMD"
  std::string brand;        ///< up to 47 characters
  unsigned family = 6, model = 0, stepping = 0;  ///< display family and model
  unsigned physical_bits = 40, linear_bits = 48;
  std::uint32_t basic_leaves = 0xD, extended_leaves = 0x80000008;  ///< highest CPUID leaf of each range
  FeatureSet features;
  CpuTopology topology;
  std::uint64_t tsc_hz = 1'000'000'000;

  bool has(Feature feature) const { return feature == Feature::none || features.test(static_cast<std::size_t>(feature)); }
  /// CPUID.1:EAX.
  std::uint32_t signature() const;
};

/// A model by name, or an error that lists near names. "max" is everything the software CPU does.
Result<CpuModel> cpu_model(std::string_view name);
std::vector<std::string> cpu_model_names();
/// Applies comma-separated edits in QEMU's syntax: "+feature", "-feature", "feature=on|off", "vendor=", "family=",
/// "model=", "stepping=", "model-id=", "phys-bits=", "tsc-frequency=", "level=", "xlevel=". Unknown names are refused. A feature brings what it
/// needs; taking one away takes those that need it.
Status edit_features(CpuModel& model, std::string_view edits);

/// The APIC id of vCPU `index` (thread fastest, then core, then socket), each level rounded up to a power of two as
/// CPUID leaf 0Bh tells.
unsigned apic_id_of(const CpuTopology& topology, unsigned index);

/// What CPUID answers depends on these bits of the running CPU too.
struct CpuidContext {
  unsigned apic_id = 0;
  bool osxsave = false;   ///< CR4.OSXSAVE
  bool ospke = false;     ///< CR4.PKE
  std::uint64_t xcr0 = 1;
  std::uint64_t xss = 0;
  bool apic_enabled = true;
};
/// The CPUID instruction (SDM vol. 2 CPUID, APM vol. 3 appendix E): leaves beyond the last give what the vendor gives.
CpuidResult cpuid(const CpuModel& model, const CpuidContext& context, std::uint32_t leaf, std::uint32_t subleaf);

/// Size and offset of each XSAVE component in the standard format (CPUID.Dh).
struct XsaveComponent {
  unsigned size, offset;
};
std::optional<XsaveComponent> xsave_component(unsigned index);
/// XCR0 bits that the model supports.
std::uint64_t supported_xcr0(const CpuModel& model);

}  // namespace husk::cpu
