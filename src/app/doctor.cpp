// husk: `husk doctor`: what this host offers, and what to do about what it lacks
#include "app/doctor.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "host/file.h"
#include "machine/config.h"

namespace husk::app {
namespace {

/// The value of "KEY : VALUE" or "KEY: VALUE" in a file of /proc.
std::string proc_value(const std::string& text, std::string_view key) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.starts_with(key)) {
      const std::size_t colon = line.find(':');
      const std::size_t value = colon == std::string_view::npos ? colon : line.find_first_not_of(" \t", colon + 1);
      if (value != std::string_view::npos &&
          line.substr(key.size(), colon - key.size()).find_first_not_of(" \t") == std::string_view::npos)
        return std::string(line.substr(value));
    }
    at = end + 1;
  }
  return {};
}

/// /proc/meminfo counts in "kB", which are KiB.
std::uint64_t kib_value(const std::string& text, std::string_view key) {
  return std::strtoull(proc_value(text, key).c_str(), nullptr, 10) * 1024;
}

std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string rest = path ? path : "/usr/bin:/bin";
  rest += ":/usr/sbin:/sbin";
  for (std::size_t at = 0; at < rest.size();) {
    const std::size_t end = std::min(rest.find(':', at), rest.size());
    const std::string candidate = rest.substr(at, end - at) + "/" + name;
    if (end > at && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return {};
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= std::uint64_t{1} << 30) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
  return fmt::format("{} MiB", bytes >> 20);
}

struct Tool {
  const char *name, *purpose, *package;
};
constexpr Tool kTools[] = {
    {"gdb", "debug a guest through --gdb", "gdb"},
    {"iasl", "tests check the ACPI tables with it", "acpica-tools"},
    {"nasm", "tests build their guests with it", "nasm"},
    {"qemu-img", "tests check disk images with it", "qemu-utils"},
    {"qemu-system-x86_64", "tests and benchmarks compare with it", "qemu-system-x86"},
};

}  // namespace

DoctorReport examine_host() {
  DoctorReport report;
  report.kvm = probe_kvm(ProbeDepth::measure);
  if (const auto cpuinfo = host::read_text("/proc/cpuinfo")) report.cpu_name = proc_value(*cpuinfo, "model name");
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) report.cores = static_cast<unsigned>(CPU_COUNT(&allowed));
  if (const auto meminfo = host::read_text("/proc/meminfo")) {
    report.memory_bytes = kib_value(*meminfo, "MemTotal");
    report.available_bytes = kib_value(*meminfo, "MemAvailable");
    report.huge_pages = std::strtoull(proc_value(*meminfo, "HugePages_Free").c_str(), nullptr, 10);
    report.huge_page_bytes = kib_value(*meminfo, "Hugepagesize");
  }
  if (const auto setting = host::read_text("/sys/kernel/mm/transparent_hugepage/enabled")) {
    const std::size_t open = setting->find('['), close = setting->find(']');
    if (open != std::string::npos && close != std::string::npos && close > open)
      report.transparent_huge_pages = setting->substr(open + 1, close - open - 1);
  }
  const auto guests = guest_directories();
  report.kernels = find_kernels("/boot", guests);
  report.busybox = find_busybox(guests);
  for (const Tool& tool : kTools)
    report.tools.push_back({tool.name, tool.purpose, tool.package, find_program(tool.name)});
  return report;
}

std::string to_text(const DoctorReport& report) {
  std::string text;
  std::vector<std::string> steps;
  const auto line = [&](bool good, std::string_view subject, const std::string& finding, const std::string& step) {
    text += fmt::format("[{}] {:<9} {}\n", good ? "ok" : "--", subject, finding);
    if (!step.empty()) text += fmt::format("               -> {}\n", step);
  };
  const KvmReport& kvm = report.kvm;
  switch (kvm.state) {
    case KvmReport::State::usable:
      line(true, "KVM", fmt::format("works at hardware speed ({:.0f} million instructions/s)", kvm.million_per_second),
           "");
      break;
    case KvmReport::State::slow:
      line(false, "KVM",
           fmt::format("works, but only by emulation ({:.1f} million instructions/s)", kvm.million_per_second),
           kvm.next_step);
      break;
    default: line(false, "KVM", fmt::format("{}: {}", to_text(kvm.state), kvm.detail), kvm.next_step);
  }
  line(report.cores > 0, "CPU",
       fmt::format("{} core{}, {}", report.cores, report.cores == 1 ? "" : "s", report.cpu_name), "");
  const bool enough = report.available_bytes >= std::uint64_t{3} << 29;
  line(enough, "memory",
       fmt::format("{} free of {}", size_text(report.available_bytes), size_text(report.memory_bytes)),
       enough ? "" : "the default guest has 1 GiB: end other programs, or give less with -m");
  const bool huge = report.transparent_huge_pages == "always" || report.transparent_huge_pages == "madvise";
  line(huge, "hugepages",
       fmt::format("transparent: {}; reserved and free: {} of {}",
                   report.transparent_huge_pages.empty() ? "unknown" : report.transparent_huge_pages, report.huge_pages,
                   size_text(report.huge_page_bytes)),
       huge ? "" : "guests run faster after: echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
  if (report.kernels.empty())
    line(false, "kernel", "none in /boot or in a guest cache",
         "sudo apt install linux-image-cloud-amd64, or tools/fetch-guest in husk's source, or give one: husk run "
         "KERNEL");
  for (const KernelFile& kernel : report.kernels)
    line(kernel.readable, "kernel", fmt::format("{} ({})", kernel.path, kernel.version),
         kernel.readable ? "" : fmt::format("this user cannot read it: sudo chmod +r {}", kernel.path));
  if (report.busybox)
    line(true, "busybox", *report.busybox, "");
  else
    line(false, "busybox", "no statically linked one found",
         "sudo apt install busybox-static, or tools/fetch-guest in husk's source; else a guest needs an --initrd");
  for (const ToolReport& tool : report.tools)
    line(!tool.path.empty(), "tool",
         tool.path.empty() ? fmt::format("{} is missing ({})", tool.name, tool.purpose)
                           : fmt::format("{} ({})", tool.path, tool.purpose),
         tool.path.empty() ? "sudo apt install " + tool.package : "");
  return text;
}

std::string to_json(const DoctorReport& report) {
  using nlohmann::json;
  json out;
  out["kvm"] = {{"state", to_text(report.kvm.state)}};
  if (report.kvm.million_per_second > 0) out["kvm"]["million_instructions_per_second"] = report.kvm.million_per_second;
  if (!report.kvm.detail.empty()) out["kvm"]["detail"] = report.kvm.detail;
  if (!report.kvm.next_step.empty()) out["kvm"]["next_step"] = report.kvm.next_step;
  out["cpu"] = {{"name", report.cpu_name}, {"cores", report.cores}};
  out["memory"] = {{"total_bytes", report.memory_bytes}, {"available_bytes", report.available_bytes}};
  out["hugepages"] = {{"transparent", report.transparent_huge_pages},
                      {"free", report.huge_pages},
                      {"page_bytes", report.huge_page_bytes}};
  out["kernels"] = json::array();
  for (const KernelFile& kernel : report.kernels)
    out["kernels"].push_back({{"path", kernel.path}, {"version", kernel.version}, {"readable", kernel.readable}});
  out["busybox"] = report.busybox ? json(*report.busybox) : json();
  out["tools"] = json::array();
  for (const ToolReport& tool : report.tools)
    out["tools"].push_back({{"name", tool.name},
                            {"path", tool.path.empty() ? json() : json(tool.path)},
                            {"purpose", tool.purpose},
                            {"package", tool.package}});
  // Names of files and CPUs come from outside and need not be UTF-8.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace husk::app
