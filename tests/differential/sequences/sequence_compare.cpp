// husk: the long run of sequences, by hand: random sequences on two ways to execute, compared
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <random>

#include "sequence_campaign.h"
#ifdef HUSK_SEQUENCES_ON_HOST
#include "host_comparer.h"
#endif

namespace {

using namespace husk::differential;

husk::Result<SequenceCampaign> make_campaign(SequenceCampaignOptions options) {
  if (options.subject != "host") return SequenceCampaign::create(std::move(options));
#ifdef HUSK_SEQUENCES_ON_HOST
  std::unique_ptr<HostComparer> comparer = HUSK_TRY(HostComparer::create());
  return SequenceCampaign(std::move(options), std::move(comparer));
#else
  return husk::fail("sequences run on the host only where it is x86-64 Linux");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Random sequences of instructions on two ways to execute them, compared at each exception and at the end");
  SequenceCampaignOptions options;
  options.seed = std::random_device{}();
  double seconds = 0;
  std::vector<std::string> modes;
  bool no_self_modifying = false, show = false;
  std::string known;
  for (const Engine& engine : engines()) known += fmt::format("{}{}", known.empty() ? "" : ", ", engine.name);
  app.add_option("--reference", options.reference, "one of " + known);
  app.add_option("--subject", options.subject, "one of " + known + ", host");
  app.add_option("--modes", modes, "user64, kernel64, user32, kernel32, user16, v86, real16; all without it")
      ->delimiter(',');
  app.add_option("--seed", options.seed, "of the sequences; printed, so that a run can be repeated");
  app.add_option("--first", options.first, "number of the first sequence");
  app.add_option("--count", options.count, "how many");
  app.add_option("--seconds", seconds, "how long");
  app.add_option("--differences", options.most_differences, "end after so many");
  app.add_option("--shortest", options.sequences.shortest, "instructions");
  app.add_option("--longest", options.sequences.longest, "instructions");
  app.add_option("--keep", options.keep, "of the last sequence, only the items of these numbers")->delimiter(',');
  app.add_flag("--settle-flags", options.sequences.settle_flags, "let nothing depend on undefined flags and results");
  app.add_flag("--all-flags", options.all_flags, "compare flags at faults even where nothing can read them");
  app.add_flag("--no-self-modifying", no_self_modifying, "no sequence writes to its own code");
  app.add_flag("--show", show, "print the sequences instead of running them");
  CLI11_PARSE(app, argc, argv);
  options.sequences.self_modifying = !no_self_modifying;
  options.time = std::chrono::milliseconds(static_cast<long>(seconds * 1000));
  if (options.time.count() == 0 && options.count == 0) options.count = 100'000;
  if (!modes.empty()) {
    options.modes.clear();
    for (const std::string& name : modes) {
      const auto mode = mode_named(name);
      if (!mode) {
        fmt::print(stderr, "there is no mode {:?}\n", name);
        return 2;
      }
      options.modes.push_back(*mode);
    }
  }
#ifdef HUSK_SEQUENCES_ON_HOST
  if (options.subject == "host") choose_for_host(options);
#endif
  if (show) {
    SequenceGenerator generator(options.sequences);
    for (std::uint64_t n = options.first; n < options.first + std::max<std::uint64_t>(options.count, 1); ++n) {
      const Sequence sequence = generator.make(options.modes[n % options.modes.size()], options.seed, n);
      const auto program = assemble(sequence);
      fmt::print("{} {}\n{}", name_of(sequence.mode), n,
                 program ? disassembly(sequence, *program) : "(a branch does not reach)\n");
    }
    return 0;
  }
  fmt::print("seed {}\n", options.seed);
  husk::Result<SequenceCampaign> campaign = make_campaign(std::move(options));
  if (!campaign) {
    fmt::print(stderr, "{}\n", campaign.error().text());
    return 2;
  }
  const SequenceReport report = campaign->run();
  for (const SequenceDifference& difference : report.differences) fmt::print("{}", difference.text);
  fmt::print("{}", summary(report));
  return report.differences.empty() ? 0 : 1;
}
