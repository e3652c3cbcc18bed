// husk: CPU models and hosts described, compared, and brought to what they have in common
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cpu/model.h"

namespace husk::cpu {

/// A model's name with what else is known under it.
struct CatalogEntry {
  std::string name, vendor, brand;
  std::vector<std::string> aliases;
  /// What the CPU of this name has and no CPU of husk's does, by QEMU's names, sorted.
  std::vector<std::string> left_out;
};
std::vector<CatalogEntry> model_catalog();
/// Of one model or alias; nothing if there is none of that name.
std::optional<CatalogEntry> catalog_entry(std::string_view name);

/// A CPU as another one is compared with it. Features have QEMU's names ("sse4-2"), sorted; the hypervisor's own and
/// those that an operating system sets are not among them.
struct CpuDescription {
  std::string name, vendor, brand;
  unsigned family = 0, model = 0, stepping = 0;
  unsigned physical_bits = 0, linear_bits = 0;
  std::vector<std::string> features;
};
CpuDescription describe(const CpuModel& model);
/// The CPU that husk runs on; nothing on a host that is not x86.
std::optional<CpuDescription> describe_host();
/// A model with what the host's CPU and husk both have; an error on a host that is not x86.
Result<CpuModel> host_cpu_model();

struct CpuComparison {
  std::vector<std::string> lacks;  ///< features that a machine started as `from` would miss on `to`
  std::vector<std::string> gains;  ///< features of `to` that `from` has not
  bool same_vendor = true;
  bool enough_address_bits = true;  ///< `to` has as many physical and linear address bits
  bool fits() const { return lacks.empty() && enough_address_bits; }
};
CpuComparison compare(const CpuDescription& from, const CpuDescription& to);

/// What several CPUs have in common, as something to start a machine with on any of them.
struct CpuBaseline {
  std::string model;               ///< the largest model that all of them have
  std::vector<std::string> added;  ///< what they have in common beyond it and husk offers
  unsigned physical_bits = 0;
  bool one_vendor = true;
  /// For -cpu: "Haswell,+rdseed,phys-bits=39".
  std::string text() const;
};
/// At least one description; an error if they share no model at all.
Result<CpuBaseline> baseline(std::span<const CpuDescription> cpus);

}  // namespace husk::cpu
