// husk: `husk doctor`: what this host offers, and what to do about what it lacks
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/host_files.h"
#include "app/kvm_probe.h"

namespace husk::app {

struct ToolReport {
  std::string name, purpose, package;
  std::string path;  ///< empty: it is missing
};

struct DoctorReport {
  KvmReport kvm;
  std::string cpu_name;
  unsigned cores = 0;
  std::uint64_t memory_bytes = 0, available_bytes = 0;
  std::uint64_t huge_pages = 0, huge_page_bytes = 0;
  std::string transparent_huge_pages;  ///< "always", "madvise", "never"; empty if unknown
  std::vector<KernelFile> kernels;
  std::optional<std::string> busybox;
  std::vector<ToolReport> tools;
};

/// Looks at this host; takes about a tenth of a second.
DoctorReport examine_host();
/// For people; for programs (one JSON object).
std::string to_text(const DoctorReport& report);
std::string to_json(const DoctorReport& report);

}  // namespace husk::app
