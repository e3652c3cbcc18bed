// husk: the decoder agrees with Zydis: bounded runs; the long one is decoder_compare
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "byte_source.h"
#include "zydis_compare.h"

namespace husk::cpu::testing {
namespace {

constexpr CodeSize kCodeSizes[] = {CodeSize::bits16, CodeSize::bits32, CodeSize::bits64};

void expect_all_justified(std::span<const Comparison> comparisons) {
  for (const std::string& line : unjustified(comparisons)) ADD_FAILURE() << line;
}

TEST(DecoderAgainstZydis, EveryOpcodeWithEveryModrmAgrees) {
  std::vector<Comparison> comparisons;
  std::mt19937_64 random(1);
  for (const CodeSize size : kCodeSizes) {
    Comparison& comparison = comparisons.emplace_back(size);
    for_each_opcode(size, random, [&](const Sample& sample) { comparison.compare(sample); });
  }
  expect_all_justified(comparisons);
  for (const JustifiedDifference& justified : justified_differences()) {
    bool used = false;
    for (const Comparison& comparison : comparisons) {
      for (const auto& [key, kind] : comparison.differences()) used = used || matches(justified, key);
    }
    EXPECT_TRUE(used) << justified.key << ": no such difference, take it out of differences.def";
  }
}

void compare_random(std::uint64_t seed, std::chrono::seconds time) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::vector<Comparison> comparisons;
  for (const CodeSize size : kCodeSizes) comparisons.emplace_back(size);
  std::mt19937_64 random(seed);
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    for (unsigned mode = 0; mode < 3; ++mode) {
      for (unsigned i = 0; i < 1000; ++i) comparisons[mode].compare(random_sample(kCodeSizes[mode], random));
    }
  }
  expect_all_justified(comparisons);
}

TEST(DecoderAgainstZydis, RandomBytesOfAFixedSeedAgree) { compare_random(20240601, std::chrono::seconds(5)); }

TEST(DecoderAgainstZydis, RandomBytesOfAFreshSeedAgree) {
  const std::uint64_t seed = std::random_device{}();
  fmt::print("seed {}\n", seed);
  compare_random(seed, std::chrono::seconds(5));
}

}  // namespace
}  // namespace husk::cpu::testing
