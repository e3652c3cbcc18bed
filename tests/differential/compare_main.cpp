// husk: the long differential run, by hand: random tests of every form on the host CPU and in the interpreter
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <random>

#include "campaign.h"
#include "coverage.h"
#include "vector.h"

namespace {

using namespace husk::differential;

/// Fills in what the host makes of the vectors of a file.
int record(const std::string& path) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const husk::Result<std::vector<Vector>> vectors = parse_vectors(text);
  husk::Result<HostRecorder> recorder = HostRecorder::start();
  if (!vectors || !recorder) {
    fmt::print(stderr, "{}\n", (vectors ? recorder.error() : vectors.error()).text());
    return 2;
  }
  for (const Vector& v : *vectors) {
    const husk::Result<Outcome> outcome = recorder->run(v.test);
    if (!outcome) {
      fmt::print(stderr, "{}\n", outcome.error().text());
      return 2;
    }
    fmt::print("{}", to_text(v.test, *outcome));
  }
  return 0;
}

/// One vector of each form.
int sample() {
  husk::Result<HostRecorder> recorder = HostRecorder::start();
  if (!recorder) {
    fmt::print(stderr, "{}\n", recorder.error().text());
    return 2;
  }
  const husk::cpu::FeatureSet features = shared_features();
  for (std::uint16_t form = 0; form < husk::cpu::forms().size(); ++form) {
    for (const Mode mode : {Mode::long64, Mode::compat32}) {
      if (!reason_not_run(form, mode, features).empty()) continue;
      Outcome outcome;
      const std::optional<Test> test = recorder->sample(form, mode, outcome);
      if (!test) continue;
      fmt::print("{}", to_text(*test, outcome));
      break;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Random tests of every instruction form, on the host CPU and in husk's interpreter");
  CampaignOptions options;
  options.seed = std::random_device{}();
  double seconds = 0;
  std::string vectors, tested, mode = "both";
  app.add_option("--seed", options.seed, "of the tests; printed, so that a run can be repeated");
  app.add_option("--seconds", seconds, "how long");
  app.add_option("--tests", options.tests, "how many");
  app.add_option("--only", options.only, "forms with this in their name, say 'ADD [' or '0F B6'");
  app.add_option("--mode", mode, "64, 32 or both");
  app.add_option("--keep", options.mismatches_per_form, "mismatches shown of one form");
  app.add_option("--vectors", vectors, "file to append the mismatches to, as vectors");
  app.add_option("--tested", tested, "file to write the list of compared forms to (tested_forms.txt)");
  app.add_flag("--jit", options.jit, "through the JIT instead of the interpreter alone");
  std::string to_record;
  bool samples = false;
  app.add_option("--record", to_record, "print the vectors of this file with what this host makes of them");
  app.add_flag("--sample", samples, "print a vector of each form, with what this host makes of it");
  CLI11_PARSE(app, argc, argv);
  if (!to_record.empty()) return record(to_record);
  if (samples) return sample();
  options.time = std::chrono::milliseconds(static_cast<long>(seconds * 1000));
  if (options.time.count() == 0 && options.tests == 0) options.tests = 1'000'000;
  options.long64 = mode != "32";
  options.compat32 = mode != "64";
  fmt::print("seed {}\n", options.seed);
  Campaign campaign(options);
  const husk::Result<Report> result = campaign.run();
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().text());
    return 2;
  }
  const Report& report = *result;
  for (const Mismatch& m : report.mismatches) {
    fmt::print("---- {}\n{}", form_name(m.test.form), to_text(m.test, m.host));
    for (const std::string& line : m.differences) fmt::print("  {}\n", line);
  }
  fmt::print("\n{}", summary(report));
  if (!vectors.empty()) {
    std::ofstream file(vectors, std::ios::app);
    for (const Mismatch& m : report.mismatches) file << to_text(m.test, m.host);
  }
  if (!tested.empty()) std::ofstream(tested) << tested_forms_text(report);
  return report.mismatched == 0 && report.broken.empty() ? 0 : 1;
}
