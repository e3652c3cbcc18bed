// husk: an accelerator's figures as a table
#include "monitor/statistics_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace husk::monitor {
namespace {

using accel::Figure;

constexpr std::size_t kMostColumns = 8;  ///< of single CPUs
constexpr std::size_t kMostInterpreted = 25;

std::string value_text(std::uint64_t value, Figure::Unit unit) {
  switch (unit) {
    case Figure::Unit::count: return fmt::format("{}", value);
    case Figure::Unit::bytes:
      return value < 10'000 ? fmt::format("{} B", value) : fmt::format("{:.1f} KiB", static_cast<double>(value) / 1024);
    case Figure::Unit::nanoseconds: return fmt::format("{:.3f} ms", static_cast<double>(value) / 1e6);
  }
  return {};
}

double ratio(std::uint64_t a, std::uint64_t b) { return b ? static_cast<double>(a) / static_cast<double>(b) : 0; }

class Table {
 public:
  explicit Table(const StatisticsReport& report) : report_(report), columns_(report.cpus.size()) {
    if (columns_ < 2 || columns_ > kMostColumns) columns_ = 0;
  }
  std::string text() {
    std::string out = fmt::format("accelerator {}, {} CPU{}, {:.3f} s\n", report_.accelerator, report_.cpus.size(),
                                  report_.cpus.size() == 1 ? "" : "s", static_cast<double>(report_.run_ns) / 1e9);
    if (report_.cpus.empty() || report_.cpus[0].figures.empty()) return out + "  keeps no figures\n";
    figures(out);
    ratios(out);
    times(out);
    interpreted(out);
    return out;
  }

 private:
  std::uint64_t total(std::string_view name) const {
    std::uint64_t sum = 0;
    for (const accel::Statistics& cpu : report_.cpus)
      for (const Figure& figure : cpu.figures)
        if (figure.name == name) sum += figure.value;
    return sum;
  }
  void figures(std::string& out) const {
    std::string group;
    for (std::size_t i = 0; i < report_.cpus[0].figures.size(); ++i) {
      const Figure& first = report_.cpus[0].figures[i];
      const std::size_t slash = first.name.find('/');
      if (const std::string its = first.name.substr(0, slash); its != group) {
        group = its;
        out += fmt::format("{:<42}{:>16}", group, columns_ ? "total" : "");
        for (std::size_t cpu = 0; cpu < columns_; ++cpu) out += fmt::format("{:>14}", fmt::format("cpu{}", cpu));
        out += '\n';
      }
      out += fmt::format("  {:<40}{:>16}", first.name.substr(slash + 1), value_text(total(first.name), first.unit));
      for (std::size_t cpu = 0; cpu < columns_; ++cpu)
        out += fmt::format("{:>14}", i < report_.cpus[cpu].figures.size()
                                         ? value_text(report_.cpus[cpu].figures[i].value, first.unit)
                                         : "");
      out += '\n';
    }
  }
  void ratios(std::string& out) const {
    const auto line = [&](std::string_view name, const std::string& value) {
      out += fmt::format("  {:<40}{:>16}\n", name, value);
    };
    out += "ratios\n";
    const std::uint64_t guest = total("translation/guest code");
    line("host bytes a guest byte", fmt::format("{:.2f}", ratio(total("translation/host code"), guest)));
    line("the same with those out of line",
         fmt::format("{:.2f}",
                     ratio(total("translation/host code") + total("translation/host code out of line"), guest)));
    line("instructions a block",
         fmt::format("{:.2f}", ratio(total("translation/guest instructions"), total("translation/blocks"))));
    line("time to translate an instruction",
         fmt::format("{:.0f} ns", ratio(total("translation/time"), total("translation/guest instructions"))));
    line("translation's share of the CPUs' time",
         fmt::format("{:.2f} %", 100 * ratio(total("translation/time"), report_.run_ns * report_.cpus.size())));
    const std::uint64_t executed = total("execution/translated instructions");
    if (!executed) return;
    const std::uint64_t handlers = total("execution/interpreted for translated code") +
                                   total("execution/interpreted for a memory access") +
                                   total("execution/interpreted in blocks") + total("execution/interpreted singly");
    line("instructions executed a second", fmt::format("{:.1f} M", 1e3 * ratio(executed, report_.run_ns)));
    line("executed for each one translated",
         fmt::format("{:.1f}", ratio(executed, total("translation/guest instructions"))));
    line("interpreted a million executed", fmt::format("{:.0f}", 1e6 * ratio(handlers, executed)));
    line("slot misses a million executed", fmt::format("{:.0f}", 1e6 * ratio(total("memory/slot misses"), executed)));
  }
  void times(std::string& out) const {
    constexpr std::array<std::pair<accel::Doing, std::string_view>, accel::kDoings> kNames = {{
        {accel::Doing::translated_code, "in translated code"},
        {accel::Doing::translation, "translating"},
        {accel::Doing::instruction, "interpreting for translated code"},
        {accel::Doing::look_up, "looking up code"},
        {accel::Doing::page_walk, "walking page tables"},
        {accel::Doing::run_loop, "in the run loop and the interpreter"},
        {accel::Doing::idle, "idle"},
        {accel::Doing::unknown, "unknown"},
    }};
    DoingSamples sums{};
    for (const DoingSamples& one : report_.samples)
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += one[i];
    std::uint64_t all = 0;
    for (const std::uint64_t count : sums) all += count;
    if (!all) return;
    out += fmt::format("time, by {} samples\n", all);
    for (const auto& [doing, name] : kNames) {
      const auto index = static_cast<std::size_t>(doing);
      if (!sums[index]) continue;
      out += fmt::format("  {:<40}{:>14.1f} %", name, 100 * ratio(sums[index], all));
      for (std::size_t cpu = 0; cpu < columns_ && cpu < report_.samples.size(); ++cpu) {
        std::uint64_t own = 0;
        for (const std::uint64_t count : report_.samples[cpu]) own += count;
        out += fmt::format("{:>12.1f} %", 100 * ratio(report_.samples[cpu][index], own));
      }
      out += '\n';
    }
  }
  void interpreted(std::string& out) const {
    std::map<std::string_view, std::uint64_t> sums;
    for (const accel::Statistics& cpu : report_.cpus)
      for (const Figure& figure : cpu.interpreted) sums[figure.name] += figure.value;
    std::vector<std::pair<std::string_view, std::uint64_t>> sorted(sums.begin(), sums.end());
    // By name among equals; stable_sort of libstdc++ 12 warns under clang.
    std::ranges::sort(sorted, [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    if (sorted.empty()) return;
    out += fmt::format("interpreted most, of {} kinds\n", sorted.size());
    if (sorted.size() > kMostInterpreted) sorted.resize(kMostInterpreted);
    for (const auto& [name, count] : sorted) out += fmt::format("  {:<40}{:>16}\n", name, count);
  }

  const StatisticsReport& report_;
  std::size_t columns_;
};

}  // namespace

std::string statistics_text(const StatisticsReport& report) { return Table(report).text(); }

}  // namespace husk::monitor
