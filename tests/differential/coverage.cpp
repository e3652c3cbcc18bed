// husk: which forms a differential run covered, and why others were not
#include "coverage.h"

#include <algorithm>

namespace husk::differential {

namespace {

constexpr Mode kModes[] = {Mode::long64, Mode::compat32};
constexpr const char* kModeNames[] = {"64-bit", "32-bit"};

/// UD0 and the like always fault.
bool always_faults(std::uint16_t form) { return cpu::forms()[form].mnemonic.starts_with("UD"); }

}  // namespace

std::string summary(const Report& report) {
  std::string text =
      fmt::format("{} comparisons in {:.1f} s ({:.0f} a second), {} of them faults; {} mismatches, {} not repeatable\n",
                  report.compared, report.seconds, static_cast<double>(report.compared) / report.seconds,
                  report.faulted, report.mismatched, report.transient);
  if (!report.broken.empty()) text += fmt::format("BROKEN: {}\n", report.broken);
  for (std::uint16_t form = 0; form < report.forms.size(); ++form)
    for (unsigned mode = 0; mode < 2; ++mode)
      if (const FormCount& c = report.forms[form][mode]; c.mismatched != 0)
        text += fmt::format("  {} {}: {} of {} differ\n", form_name(form), kModeNames[mode], c.mismatched, c.run);
  for (const std::string& line : untested(report)) text += "  not tested: " + line + "\n";
  return text;
}

std::vector<std::string> untested(const Report& report) {
  std::vector<std::string> lines;
  for (std::uint16_t form = 0; form < report.forms.size(); ++form) {
    for (unsigned mode = 0; mode < 2; ++mode) {
      const FormCount& c = report.forms[form][mode];
      if (!c.wanted) continue;
      if (c.run == 0)
        lines.push_back(fmt::format("{} {}: never run", form_name(form), kModeNames[mode]));
      else if (c.faulted == c.run && c.run > 50 && !always_faults(form))
        lines.push_back(fmt::format("{} {}: all {} faulted", form_name(form), kModeNames[mode], c.run));
    }
  }
  return lines;
}

std::string covered_text(const Report& report) {
  const cpu::FeatureSet features = shared_features();
  std::string text =
      "# Written by differential_compare --covered: forms of the instruction table that are compared with a host CPU.\n"
      "# mnemonic | encoding | yes, or why not\n";
  for (std::uint16_t form = 0; form < report.forms.size(); ++form) {
    const cpu::Form& f = cpu::forms()[form];
    std::string why;
    bool run = false;
    for (unsigned mode = 0; mode < 2; ++mode) {
      run = run || report.forms[form][mode].run != 0;
      const std::string reason = reason_not_run(form, kModes[mode], features);
      if (!reason.starts_with("not in") && !reason.starts_with("only in")) why = reason;
    }
    text += fmt::format("{} | {} | {}\n", f.mnemonic, f.encoding, run ? "yes" : why.empty() ? "not run" : why);
  }
  return text;
}

}  // namespace husk::differential
