// husk: the interpreter repeats what a host CPU made of recorded tests; runs on any host
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "compare.h"
#include "guest_cpu.h"
#include "vector.h"

namespace husk::differential {
namespace {

std::vector<std::filesystem::path> vector_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(HUSK_DIFFERENTIAL_VECTORS))
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(DifferentialVectors, EveryRecordedTestGivesWhatTheHostGave) {
  GuestCpu guest(background_data(), ~cpu::FeatureSet{}, false);
  unsigned count = 0;
  for (const std::filesystem::path& path : vector_files()) {
    std::ifstream file(path);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const husk::Result<std::vector<Vector>> vectors = parse_vectors(text);
    ASSERT_TRUE(vectors) << path << ": " << vectors.error().text();
    for (const Vector& v : *vectors) {
      for (const bool cached : {false, true}) {
        Outcome outcome{};
        guest.run(v.test, cached, outcome);
        const std::vector<std::string> found = differences(v.test, v.host, outcome);
        if (found.empty()) continue;
        std::string lines = path.filename().string() + ": " + to_text(v.test, v.host);
        for (const std::string& line : found) lines += "  " + line + "\n";
        ADD_FAILURE() << lines;
        break;
      }
      ++count;
    }
  }
  EXPECT_GT(count, 0u);
}

TEST(DifferentialVectors, TextReadsBackAsItWasWritten) {
  for (const std::filesystem::path& path : vector_files()) {
    std::ifstream file(path);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const husk::Result<std::vector<Vector>> vectors = parse_vectors(text);
    ASSERT_TRUE(vectors);
    for (const Vector& v : *vectors) {
      const std::string once = to_text(v.test, v.host);
      const husk::Result<std::vector<Vector>> again = parse_vectors(once);
      ASSERT_TRUE(again) << once;
      ASSERT_EQ(again->size(), 1u);
      EXPECT_EQ(to_text(again->front().test, again->front().host), once);
    }
  }
}

TEST(DifferentialVectors, WrongLinesAreRefusedWithTheirNumber) {
  EXPECT_FALSE(parse_vectors("mode 16\n"));
  EXPECT_FALSE(parse_vectors("mode 64\nrip 100200a0\ncode 06\n"));  // no instruction in 64-bit mode
  const husk::Result<std::vector<Vector>> bad = parse_vectors("mode 64\nin rax=xyz\n");
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().text().find("line 2"), std::string::npos);
}

}  // namespace
}  // namespace husk::differential
