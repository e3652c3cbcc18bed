// husk: tests of virtual time
#include "machine/vm_clock.h"

#include <gtest/gtest.h>

namespace husk::machine {
namespace {

class VmClockTest : public ::testing::Test {
 protected:
  std::unique_ptr<host::EventLoop> loop_ = host::EventLoop::create().value();
  VmClock vm_clock_{*loop_};
  mem::LockDomain domain_;
  std::unique_ptr<core::Clock> clock_ = vm_clock_.for_domain(&domain_);
};

TEST_F(VmClockTest, StandsStillWhileStopped) {
  const auto before = clock_->now();
  EXPECT_EQ(before, 0u);
  vm_clock_.start();
  while (clock_->now() == before) {
  }
  vm_clock_.stop();
  const auto stopped = clock_->now();
  EXPECT_GT(stopped, 0u);
  EXPECT_EQ(clock_->now(), stopped);
  vm_clock_.start();
  EXPECT_GE(clock_->now(), stopped);
}

TEST_F(VmClockTest, TimersFireInOrderUnderTheirDomain) {
  std::string order;
  auto late = clock_->make_timer([&] {
    EXPECT_TRUE(domain_.held());
    order += 'b';
  });
  auto early = clock_->make_timer([&] { order += 'a'; });
  late->arm(2'000'000);
  early->arm(1'000'000);
  vm_clock_.start();
  while (order.size() < 2) loop_->run_once();
  EXPECT_EQ(order, "ab");
  EXPECT_FALSE(late->deadline());
}

TEST_F(VmClockTest, CancelledAndDestroyedTimersStaySilent) {
  unsigned fired = 0;
  auto cancelled = clock_->make_timer([&] { fired += 100; });
  auto destroyed = clock_->make_timer([&] { fired += 100; });
  auto last = clock_->make_timer([&] { ++fired; });
  cancelled->arm(1);
  destroyed->arm(2);
  last->arm(3);
  cancelled->cancel();
  destroyed.reset();
  vm_clock_.start();
  while (fired == 0) loop_->run_once();
  EXPECT_EQ(fired, 1u);
}

TEST_F(VmClockTest, StoppedClockFiresNothing) {
  unsigned fired = 0;
  auto timer = clock_->make_timer([&] { ++fired; });
  timer->arm(0);
  EXPECT_FALSE(loop_->run_once(0));
  EXPECT_EQ(fired, 0u);
  vm_clock_.start();
  while (fired == 0) loop_->run_once();
}

TEST_F(VmClockTest, WallClockCanBeSet) {
  VmClock set(*loop_, 1'000'000'000'000'000'000);
  EXPECT_EQ(set.for_domain(nullptr)->wall_clock(), 1'000'000'000'000'000'000);
}

}  // namespace
}  // namespace husk::machine
