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

std::string note_of(std::uint16_t form, const cpu::FeatureSet& features) {
  std::string note;
  for (const Mode mode : kModes) {
    const std::string reason = reason_not_run(form, mode, features);
    if (reason.empty()) return {};
    if (note.empty() || (!reason.starts_with("not in") && !reason.starts_with("only in"))) note = reason;
  }
  return note;
}

std::string tested_forms_text(const cpu::FeatureSet& features, const std::vector<std::uint16_t>& never_run) {
  std::string text =
      "# Written by differential_compare --tested: the forms of the instruction table that are compared with a host "
      "CPU.\n"
      "# mnemonic | encoding | nothing, or why it is not compared\n";
  for (std::uint16_t form = 0; form < cpu::forms().size(); ++form) {
    const cpu::Form& f = cpu::forms()[form];
    std::string note = note_of(form, features);
    if (note.empty() && std::find(never_run.begin(), never_run.end(), form) != never_run.end()) note = "never made";
    text += fmt::format("{} | {} |{}{}\n", f.mnemonic, f.encoding, note.empty() ? "" : " ", note);
  }
  return text;
}

std::string tested_forms_text(const Report& report) {
  std::vector<std::uint16_t> never_run;
  for (std::uint16_t form = 0; form < report.forms.size(); ++form)
    if (report.forms[form][0].run == 0 && report.forms[form][1].run == 0) never_run.push_back(form);
  return tested_forms_text(shared_features(), never_run);
}

}  // namespace husk::differential
