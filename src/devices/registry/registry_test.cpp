// husk: what must hold for every device: names, saved state under damage, the schema golden
#include "devices/registry/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "testing/state_checks.h"

namespace husk::devices {
namespace {

constexpr const char* kSchemaPath = HUSK_SOURCE_DIR "/docs/state-schema.txt";

struct EveryDevice : ::testing::TestWithParam<DeviceKind> {};

std::string test_name(const ::testing::TestParamInfo<DeviceKind>& info) {
  std::string name(info.param.name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// Random accesses, inputs and time, until the state differs from `fresh`; the same each time.
void drive(testing::TestMachine& machine, const DeviceKind& kind, DeviceRig& rig,
           const std::vector<std::uint8_t>& fresh) {
  std::minstd_rand random(12345);
  for (unsigned round = 0; round < 1'000; ++round) {
    for (const PortRange& range : kind.ports) {
      machine.out8(static_cast<std::uint16_t>(range.base + random() % range.length),
                   static_cast<std::uint8_t>(random()));
      if (range.length >= 4 && random() % 4 == 0) machine.out32(range.base, static_cast<std::uint32_t>(random()));
    }
    for (const MmioRange& range : kind.mmio)
      // Near the start of a window, so that a device that keeps what it is told does not grow a large state.
      machine.mmio_write(range.base + random() % std::min<std::uint64_t>(range.length, 0x400) / 4 * 4, random(), 4);
    rig.set_input(static_cast<unsigned>(random() % 24), random() & 1);
    rig.stimulate(static_cast<std::uint8_t>(random()), random());
    machine.clock.advance(random() % 10'000);
    if (round >= 20 && testing::saved_state(rig) != fresh) return;
  }
}

TEST_P(EveryDevice, HasANameADescriptionAndRangesThatAnswer) {
  testing::TestMachine machine;
  const DeviceKind& kind = GetParam();
  const auto rig = kind.build(machine);
  EXPECT_FALSE(kind.name.empty());
  EXPECT_FALSE(kind.description.empty());
  EXPECT_FALSE(rig->state_id().empty());
  EXPECT_FALSE(kind.ports.empty() && kind.mmio.empty());
  for (const PortRange& range : kind.ports) EXPECT_NE(machine.io_space.find(range.base).handler, nullptr) << range.base;
  for (const MmioRange& range : kind.mmio)
    EXPECT_NE(machine.memory_space.find(range.base).handler, nullptr) << range.base;
}

TEST_P(EveryDevice, LeavesNothingMappedBehind) {
  testing::TestMachine machine;
  GetParam().build(machine).reset();
  machine.io_space.enumerate([](mem::Gpa base, std::uint64_t, const std::string& name, const mem::Target&) {
    ADD_FAILURE() << name << " is still at port " << base;
  });
  EXPECT_EQ(machine.clock.next_deadline(), std::nullopt) << "a timer outlives its device";
}

TEST_P(EveryDevice, SavedStateSurvivesRoundTripAndDamage) {
  testing::TestMachine machine;
  const DeviceKind& kind = GetParam();
  if (!kind.has_state) {
    const auto rig = kind.build(machine);
    EXPECT_TRUE(testing::saved_state(*rig).empty());
    return;
  }
  const auto fresh = testing::saved_state(*kind.build(machine));
  testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> { return kind.build(machine); },
      [&](core::Device& device) { drive(machine, kind, static_cast<DeviceRig&>(device), fresh); });
}

TEST_P(EveryDevice, LoadOfAFreshStateUndoesAllUse) {
  testing::TestMachine machine;
  const DeviceKind& kind = GetParam();
  const auto rig = kind.build(machine);
  const auto fresh = testing::saved_state(*rig);
  drive(machine, kind, *rig, fresh);
  ASSERT_TRUE(testing::load_state(*rig, fresh));
  EXPECT_EQ(testing::saved_state(*rig), fresh);
}

TEST_P(EveryDevice, ShowsEveryFieldToInspection) {
  struct Collector : state::Inspector {
    void value(std::string_view path, std::string) override { paths.emplace_back(path); }
    std::vector<std::string> paths;
  } collector;
  testing::TestMachine machine;
  const auto rig = GetParam().build(machine);
  // What is a list may be empty in a fresh device.
  drive(machine, GetParam(), *rig, testing::saved_state(*rig));
  rig->inspect(collector);
  EXPECT_EQ(collector.paths.empty(), !GetParam().has_state);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryDevice, ::testing::ValuesIn(device_kinds().begin(), device_kinds().end()),
                         test_name);

TEST(Registry, NamesAreSortedAndUnique) {
  const auto kinds = device_kinds();
  for (std::size_t i = 1; i < kinds.size(); ++i) EXPECT_LT(kinds[i - 1].name, kinds[i].name);
}

std::string schema_text() {
  std::ostringstream text;
  text
      << "# The saved state of every device: field, tag, type, and the schema version in which it appeared.\n"
         "# Compared by device_registry_test. After a wanted change, run that test with HUSK_UPDATE_GOLDEN=1 to write\n"
         "# this file anew, and see in the difference that no tag was reused or changed its type.\n";
  for (const DeviceKind& kind : device_kinds()) {
    text << '\n' << kind.name << '\n';
    for (const std::string& line : kind.schema()) text << "  " << line << '\n';
  }
  return text.str();
}

TEST(Registry, SchemaMatchesTheGolden) {
  if (std::getenv("HUSK_UPDATE_GOLDEN")) std::ofstream(kSchemaPath) << schema_text();
  std::ifstream file(kSchemaPath);
  ASSERT_TRUE(file) << kSchemaPath << " is missing";
  const std::string golden{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(schema_text(), golden) << "the saved state changed: see the head of " << kSchemaPath;
}

}  // namespace
}  // namespace husk::devices
