// husk: tests of the test library itself
#include <gtest/gtest.h>

#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::testing {
namespace {

TEST(ManualClock, FiresInOrderAtExactDeadlines) {
  ManualClock clock;
  std::vector<core::VmTime> fired;
  std::unique_ptr<core::Timer> periodic;
  periodic = clock.make_timer([&] {
    fired.push_back(clock.now());
    if (fired.size() < 3) periodic->arm(clock.now() + 10);
  });
  periodic->arm(5);
  clock.advance(100);
  EXPECT_EQ(fired, (std::vector<core::VmTime>{5, 15, 25}));
  EXPECT_EQ(clock.now(), 100u);
}

TEST(Ticks, ConversionIsExactForThePit) {
  constexpr std::uint64_t kPitHertz = 1193182;
  EXPECT_EQ(core::ticks_at(core::kNanosecondsPerSecond, kPitHertz), kPitHertz);
  for (std::uint64_t tick : {1ull, 2ull, 1193181ull, 1193182ull, 99999999999ull})
    EXPECT_EQ(core::ticks_at(core::time_of_tick(tick, kPitHertz), kPitHertz), tick);
}

TEST(SharedLine, IsTheOrOfItsInputs) {
  LineRecorder recorder;
  core::SharedLine shared(recorder.line(4));
  auto a = shared.share("a");
  auto b = shared.share("b");
  a.set(true);
  b.set(true);
  a.set(false);
  EXPECT_TRUE(recorder.level(4));
  b.set(false);
  EXPECT_FALSE(recorder.level(4));
  EXPECT_EQ(recorder.edges(4), 1u);
}

}  // namespace
}  // namespace husk::testing
