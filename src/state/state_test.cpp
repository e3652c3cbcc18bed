// husk: tests of declared state
#include "state/state.h"

#include <gtest/gtest.h>

#include <map>

namespace husk::state {
namespace {

enum class Mode : std::uint8_t { off, on };
struct Channel {
  std::uint16_t reload = 0;
  bool gate = true;
  static constexpr auto state() {
    return std::tuple{field(1, "reload", &Channel::reload), field(2, "gate", &Channel::gate, 2)};
  }
};
struct Chip {
  Mode mode = Mode::off;
  std::array<Channel, 2> channels{};
  std::vector<std::uint8_t> fifo;
  std::optional<std::uint32_t> latch;
  std::uint64_t later = 77;
  static constexpr auto state() {
    return std::tuple{field(1, "mode", &Chip::mode).max(1), field(2, "channels", &Chip::channels),
                      field(3, "fifo", &Chip::fifo), field(4, "latch", &Chip::latch),
                      field(5, "later", &Chip::later, 2).optional()};
  }
};
/// Chip as an older husk knew it.
struct OldChip {
  Mode mode = Mode::off;
  std::array<Channel, 2> channels{};
  std::vector<std::uint8_t> fifo;
  std::optional<std::uint32_t> latch;
  static constexpr auto state() {
    return std::tuple{field(1, "mode", &OldChip::mode), field(2, "channels", &OldChip::channels),
                      field(3, "fifo", &OldChip::fifo), field(4, "latch", &OldChip::latch)};
  }
};

Chip sample() {
  Chip chip;
  chip.mode = Mode::on;
  chip.channels[1] = {0x1234, false};
  chip.fifo = {1, 2, 3};
  chip.latch = 9;
  chip.later = 5;
  return chip;
}
template <class T>
std::vector<std::uint8_t> saved(const T& object) {
  StateWriter w;
  w.record(object);
  return std::move(w).take();
}

TEST(State, RoundTripIsByteEqual) {
  const auto bytes = saved(sample());
  Chip copy;
  ASSERT_TRUE(StateReader(bytes).record(copy));
  EXPECT_EQ(copy.channels[1].reload, 0x1234);
  EXPECT_EQ(saved(copy), bytes);
}

TEST(State, OlderReaderSkipsOptionalAndNewerReaderKeepsInitialiser) {
  OldChip old;
  ASSERT_TRUE(StateReader(saved(sample())).record(old));
  Chip fresh;
  ASSERT_TRUE(StateReader(saved(old)).record(fresh));
  EXPECT_EQ(fresh.later, 77u);
}

TEST(State, UnknownRequiredFieldIsRefused) {
  StateWriter w;
  w.tagged(99, true, [](StateWriter& inner) { inner.put<std::uint8_t>(1); });
  Chip chip;
  const auto outcome = StateReader(w.bytes()).record(chip);
  ASSERT_FALSE(outcome);
  EXPECT_NE(outcome.error().message.find("99"), std::string::npos);
}

TEST(State, RangeIsEnforced) {
  StateWriter w;
  w.tagged(1, true, [](StateWriter& inner) { inner.put<std::uint8_t>(2); });
  Chip chip;
  EXPECT_FALSE(StateReader(w.bytes()).record(chip));
}

TEST(State, TruncationAtEveryByteNeverReadsBeyond) {
  const auto bytes = saved(sample());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const std::vector<std::uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    Chip chip;
    (void)StateReader(cut).record(chip);
  }
}

TEST(State, BitFlipsGiveErrorOrValidState) {
  auto bytes = saved(sample());
  for (std::size_t bit_index = 0; bit_index < bytes.size() * 8; ++bit_index) {
    bytes[bit_index / 8] ^= static_cast<std::uint8_t>(1u << (bit_index % 8));
    Chip chip;
    if (StateReader(bytes).record(chip)) {
      EXPECT_LE(static_cast<unsigned>(chip.mode), 1u);
    }
    bytes[bit_index / 8] ^= static_cast<std::uint8_t>(1u << (bit_index % 8));
  }
}

TEST(State, InspectorSeesEveryLeaf) {
  struct Map : Inspector {
    std::map<std::string, std::string, std::less<>> seen;
    void value(std::string_view path, std::string text) override { seen.emplace(path, std::move(text)); }
  } map;
  map.record(sample());
  EXPECT_EQ(map.seen.at("channels[1].reload"), "0x1234");
  EXPECT_EQ(map.seen.at("fifo[2]"), "0x3");
}

TEST(State, SchemaNamesTypesAndTags) {
  const auto lines = schema<Chip>();
  EXPECT_EQ(lines.front(), "mode tag=1 type=enum8 since=1");
  EXPECT_EQ(lines[1], "channels tag=2 type=record[2] since=1");
  EXPECT_EQ(lines[2], "channels.reload tag=1 type=u16 since=1");
}

}  // namespace
}  // namespace husk::state
