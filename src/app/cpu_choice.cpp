// husk: what the CPU that a user named lacks when a machine gets it
#include "app/cpu_choice.h"

#include <algorithm>

#include "cpu/catalog.h"

namespace husk::app {

namespace {
void add(std::string& list, std::string_view name) {
  if (!list.empty()) list += ' ';
  list += name;
}

/// QEMU and Linux differ in where a name has its dashes (cr8legacy, cr8_legacy).
bool same_name(std::string a, std::string b) {
  for (std::string* name : {&a, &b}) std::erase_if(*name, [](char c) { return c == '-' || c == '_'; });
  return a == b;
}
}  // namespace

std::string features_left_out(const machine::CpuConfig& cpu) {
  std::string list;
  const auto entry = cpu::catalog_entry(cpu.model);
  if (!entry) return list;
  // What the user took away is not missed, and what he added is there.
  const auto decided = [&](const std::string& name) {
    return std::any_of(cpu.edits.begin(), cpu.edits.end(),
                       [&](const machine::FeatureEdit& edit) { return same_name(edit.name, name); });
  };
  // Parts of SVM (APM vol. 3, CPUID 8000_000Ah), which go with it.
  static constexpr std::string_view kSvmParts[] = {"npt", "nrip-save", "lbrv", "svme-addr-chk", "vgif", "avic"};
  for (const std::string& name : entry->left_out) {
    const bool of_svm = std::find(std::begin(kSvmParts), std::end(kSvmParts), name) != std::end(kSvmParts);
    if (!decided(name) && !(of_svm && decided("svm"))) add(list, name);
  }
  return list;
}

std::string features_lost(const cpu::CpuModel& asked, const cpu::CpuModel& given) {
  std::string list;
  // "max" is what there is, wherever it runs.
  if (asked.name == "max" || asked.name == "host") return list;
  for (std::size_t i = 1; i < cpu::kFeatureCount; ++i)
    if (const auto feature = static_cast<cpu::Feature>(i); asked.has(feature) && !given.has(feature))
      add(list, cpu::feature_info(feature).name);
  return list;
}

}  // namespace husk::app
