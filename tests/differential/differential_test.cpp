// husk: a bounded differential run on this host's CPU: with a fixed seed and with a fresh one
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "campaign.h"
#include "coverage.h"
#include "vector.h"

namespace husk::differential {
namespace {

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 0) : otherwise;
}

/// HUSK_DIFFERENTIAL_SECONDS: how long each of the runs takes.
void run_and_expect_no_difference(std::uint64_t seed, bool jit = false) {
  if (const std::string lack = host_lacks(); !lack.empty()) GTEST_SKIP() << "NOT COMPARED WITH THE HOST CPU: " << lack;
  CampaignOptions options;
  options.seed = seed;
  options.jit = jit;
  options.time = std::chrono::seconds(setting("HUSK_DIFFERENTIAL_SECONDS", HUSK_DIFFERENTIAL_DEFAULT_SECONDS));
  Campaign campaign(options);
  const husk::Result<Report> report = campaign.run();
  ASSERT_TRUE(report) << report.error().text();
  fmt::print("{}", summary(*report));
  EXPECT_EQ(report->broken, "");
  for (const Mismatch& m : report->mismatches) {
    std::string text = form_name(m.test.form) + "\n" + to_text(m.test, m.host);
    for (const std::string& line : m.differences) text += "  " + line + "\n";
    ADD_FAILURE() << text;
  }
  EXPECT_EQ(report->mismatched, 0u);
  EXPECT_GT(report->compared, 10'000u);
  for (const std::string& line : untested(*report)) ADD_FAILURE() << line;
}

TEST(InterpreterAgainstHost, TestsOfAFixedSeedAgree) { run_and_expect_no_difference(20261121); }

TEST(InterpreterAgainstHost, TestsOfAFreshSeedAgree) {
  const std::uint64_t seed = setting("HUSK_DIFFERENTIAL_SEED", std::random_device{}());
  fmt::print("seed {}: HUSK_DIFFERENTIAL_SEED={} repeats it\n", seed, seed);
  SCOPED_TRACE(fmt::format("seed {}", seed));
  run_and_expect_no_difference(seed);
}

#if HUSK_HAVE_JIT
TEST(JitAgainstHost, TestsOfAFreshSeedAgree) {
  const std::uint64_t seed = setting("HUSK_DIFFERENTIAL_SEED", std::random_device{}());
  fmt::print("seed {}: HUSK_DIFFERENTIAL_SEED={} repeats it\n", seed, seed);
  SCOPED_TRACE(fmt::format("seed {}", seed));
  run_and_expect_no_difference(seed, true);
}
#endif

TEST(TestedForms, ListIsWhatAHostWithEveryFeatureOfTheListRuns) {
  std::ifstream file(HUSK_DIFFERENTIAL_TESTED_FORMS);
  ASSERT_TRUE(file) << HUSK_DIFFERENTIAL_TESTED_FORMS;
  const std::string current((std::istreambuf_iterator<char>(file)), {});
  // The host that wrote the list may have features that this one has not, and the other way round: its lines say which.
  cpu::FeatureSet features = cpu::cpu_model("max").value().features;
  std::istringstream lines(current);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t end = line.find(" is not in both the host CPU and the model");
    if (end == line.npos) continue;
    const std::size_t begin = line.rfind(' ', end - 1) + 1;
    for (std::size_t f = 1; f < features.size(); ++f)
      if (cpu::feature_info(static_cast<cpu::Feature>(f)).name == line.substr(begin, end - begin)) features.reset(f);
  }
  EXPECT_EQ(tested_forms_text(features, {}), current)
      << "write it with differential_compare --tested tests/differential/tested_forms.txt";
}

}  // namespace
}  // namespace husk::differential
