// husk: the long differential run, by hand: random tests of every form on the host CPU and in the interpreter
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <random>

#include "campaign.h"
#include "coverage.h"
#include "vector.h"

int main(int argc, char** argv) {
  using namespace husk::differential;
  CLI::App app("Random tests of every instruction form, on the host CPU and in husk's interpreter");
  CampaignOptions options;
  options.seed = std::random_device{}();
  double seconds = 0;
  std::string vectors, covered, mode = "both";
  app.add_option("--seed", options.seed, "of the tests; printed, so that a run can be repeated");
  app.add_option("--seconds", seconds, "how long");
  app.add_option("--tests", options.tests, "how many");
  app.add_option("--only", options.only, "forms with this in their name, say 'ADD [' or '0F B6'");
  app.add_option("--mode", mode, "64, 32 or both");
  app.add_option("--keep", options.mismatches_per_form, "mismatches shown of one form");
  app.add_option("--vectors", vectors, "file to append the mismatches to, as vectors");
  app.add_option("--covered", covered, "file to write the list of covered forms to");
  CLI11_PARSE(app, argc, argv);
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
  if (!covered.empty()) std::ofstream(covered) << covered_text(report);
  return report.mismatched == 0 && report.broken.empty() ? 0 : 1;
}
