// husk: a bounded run of random sequences on each way to execute them, with a fixed and a fresh seed
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "sequence_campaign.h"
#ifdef HUSK_SEQUENCES_ON_HOST
#include "host_comparer.h"
#endif

namespace husk::differential {
namespace {

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 0) : otherwise;
}

class EngineAgainstSteps : public ::testing::TestWithParam<std::string_view> {
 protected:
  /// HUSK_SEQUENCES: how many sequences each run has.
  void compare(std::uint64_t seed) {
    SequenceCampaignOptions options;
    options.subject = GetParam();
    options.seed = seed;
    options.count = setting("HUSK_SEQUENCES", HUSK_DEFAULT_SEQUENCES);
    Result<SequenceCampaign> campaign = SequenceCampaign::create(options);
    if (!campaign) GTEST_SKIP() << "NOT RUN: " << campaign.error().text();
    const SequenceReport report = campaign->run();
    fmt::print("{}", summary(report));
    for (const SequenceDifference& difference : report.differences) ADD_FAILURE() << difference.text;
    EXPECT_GT(report.compared, options.count / 2);
    // Most sequences must get somewhere.
    EXPECT_GT(report.instructions, report.compared * 20);
  }
};

TEST_P(EngineAgainstSteps, AgreesOnSequencesOfAFixedSeed) { compare(20261121); }

TEST_P(EngineAgainstSteps, AgreesOnSequencesOfAFreshSeed) {
  const std::uint64_t seed = setting("HUSK_SEQUENCES_SEED", std::random_device{}());
  fmt::print("seed {}: HUSK_SEQUENCES_SEED={} repeats it\n", seed, seed);
  SCOPED_TRACE(fmt::format("seed {}", seed));
  compare(seed);
}

std::vector<std::string_view> subjects() {
  std::vector<std::string_view> names;
  for (const Engine& engine : engines())
    if (engine.name != "step") names.push_back(engine.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Engines, EngineAgainstSteps, ::testing::ValuesIn(subjects()),
                         [](const auto& named) { return std::string(named.param); });

#ifdef HUSK_SEQUENCES_ON_HOST
TEST(HostAgainstBlocks, AgreesOnSequencesOfAFreshSeed) {
  Result<std::unique_ptr<HostComparer>> comparer = HostComparer::create();
  if (!comparer) GTEST_SKIP() << "NOT COMPARED WITH THE HOST CPU: " << comparer.error().text();
  SequenceCampaignOptions options;
  choose_for_host(options);
  options.seed = setting("HUSK_SEQUENCES_SEED", std::random_device{}());
  options.count = setting("HUSK_SEQUENCES", HUSK_DEFAULT_SEQUENCES);
  fmt::print("seed {}: HUSK_SEQUENCES_SEED={} repeats it\n", options.seed, options.seed);
  const SequenceReport report = SequenceCampaign(options, std::move(*comparer)).run();
  fmt::print("{}", summary(report));
  for (const SequenceDifference& difference : report.differences) ADD_FAILURE() << difference.text;
  EXPECT_GT(report.compared, options.count / 2);
}
#endif

// ---- that differences are found and made small ----

Sequence one_sequence(std::uint64_t number) {
  return SequenceGenerator(SequenceOptions{}).make(SequenceMode::user64, 7, number);
}

TEST(Sequences, SameSeedAndNumberMakeTheSameSequence) {
  const auto a = assemble(one_sequence(5)), b = assemble(one_sequence(5)), c = assemble(one_sequence(6));
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->code, b->code);
  EXPECT_NE(a->code, c->code);
}

TEST(Sequences, EachModeMakesSequencesThatRunToTheirEnd) {
  SequenceGenerator generator{SequenceOptions{}};
  SequenceMachine machine(engines().front());
  for (const SequenceMode mode : kSequenceModes) {
    unsigned ended = 0;
    for (std::uint64_t n = 0; n < 50; ++n) {
      const Sequence sequence = generator.make(mode, 1, n);
      const auto program = assemble(sequence);
      if (!program) continue;
      husk::differential::Run run;
      machine.run(sequence, *program, 4000, nullptr, run);
      ended += !run.snapshots.empty() && run.snapshots.back().why == Snapshot::Why::end;
    }
    EXPECT_GT(ended, 25u) << name_of(mode);
  }
}

TEST(Sequences, SettledFlagsPutACompareBetweenAnUndefinedFlagAndItsReader) {
  Sequence sequence;
  sequence.start = arena::kCode;
  sequence.settle_flags = true;
  const auto plain = [&](std::initializer_list<std::uint8_t> bytes) {
    Item item;
    ASSERT_EQ(cpu::decode({bytes.begin(), bytes.size()}, cpu::CodeSize::bits64, item.insn), cpu::DecodeStatus::ok);
    sequence.items.push_back(item);
  };
  plain({0x0F, 0xAF, 0xC1});  // IMUL EAX, ECX leaves ZF undefined (SDM vol. 2, IMUL)
  plain({0x89, 0xC2});        // MOV EDX, EAX does not look
  plain({0x0F, 0x94, 0xC3});  // SETZ BL does
  sequence.kept.assign(3, true);
  const auto program = assemble(sequence);
  ASSERT_TRUE(program);
  EXPECT_EQ(program->places.size(), 5u);  // with the compare and the UD2
  EXPECT_TRUE(program->places[1].undefined_flags & cpu::kZF);
  EXPECT_TRUE(program->places[2].undefined_flags & cpu::kZF);
  EXPECT_EQ(program->places[3].undefined_flags, 0);
}

cpu::interp::RunExit run_forgetting_carry(cpu::interp::Core& core, std::uint64_t budget, RunNotes& notes) {
  // A wrong engine: an instruction behind ADC sees no carry.
  const std::uint64_t end = core.instructions() + budget;
  core.debug.single_step = true;
  cpu::interp::RunExit exit = cpu::interp::RunExit::quantum;
  while (core.instructions() < end) {
    const std::uint64_t rip = core.s.rip;
    exit = core.run(1);
    if (core.s.activity == cpu::Activity::shutdown) exit = cpu::interp::RunExit::shutdown;
    if (exit != cpu::interp::RunExit::debug) break;
    if (rip < 0xFFFF && notes.ram[rip] == 0x13) core.s.rflags &= ~std::uint64_t{cpu::kCF};
    exit = cpu::interp::RunExit::quantum;
  }
  core.debug.single_step = false;
  return exit;
}

TEST(Sequences, AWrongEngineIsFoundAndTheSequenceShrinksToWhereItIsWrong) {
  const Engine wrong{"wrong", [](cpu::interp::Core&) { return std::unique_ptr<cpu::interp::CodeEngine>(); },
                     run_forgetting_carry};
  SequenceCampaignOptions options;
  options.modes = {SequenceMode::user32};
  options.count = 20'000;
  options.most_differences = 1;
  SequenceCampaign campaign(options, std::make_unique<EngineComparer>(engines().front(), wrong));
  const SequenceReport report = campaign.run();
  ASSERT_EQ(report.differences.size(), 1u);
  const SequenceDifference& found = report.differences.front();
  const auto program = assemble(found.sequence);
  ASSERT_TRUE(program);
  EXPECT_LE(program->places.size(), 4u) << found.text;
  EXPECT_NE(found.text.find("adc"), std::string::npos) << found.text;
  EXPECT_NE(found.text.find("--keep"), std::string::npos);
}

}  // namespace
}  // namespace husk::differential
