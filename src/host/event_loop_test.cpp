// husk: tests of the event loop, its timers, watches and posted functions
#include "host/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include "host/event_fd.h"
#include "host/signals.h"
#include "host/thread.h"
#include "host/unique_fd.h"

namespace husk::host {
namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;

std::array<UniqueFd, 2> socket_pair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

struct EventLoopTest : ::testing::Test {
  std::unique_ptr<EventLoop> loop = EventLoop::create().value();
};

TEST_F(EventLoopTest, ReportsReadableOnlyWhileThereIsData) {
  auto [ours, theirs] = socket_pair();
  int calls = 0;
  const auto watch = loop->watch(ours.get(), EventLoop::kReadable, [&](EventLoop::Events events) {
    EXPECT_EQ(events, EventLoop::kReadable);
    char byte;
    EXPECT_EQ(::read(ours.get(), &byte, 1), 1);
    ++calls;
  });
  ASSERT_TRUE(watch);
  EXPECT_FALSE(loop->run_once(0));
  ASSERT_EQ(::write(theirs.get(), "x", 1), 1);
  EXPECT_TRUE(loop->run_once(1000 * kMillisecond));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(loop->run_once(0));
}

TEST_F(EventLoopTest, ReportsHangupWithoutInterest) {
  auto [ours, theirs] = socket_pair();
  EventLoop::Events seen = 0;
  auto watch = loop->watch(ours.get(), 0, [&](EventLoop::Events events) { seen = events; }).value();
  theirs.reset();
  EXPECT_TRUE(loop->run_once(1000 * kMillisecond));
  EXPECT_TRUE(seen & EventLoop::kHangup);
  watch.reset();
  EXPECT_FALSE(loop->run_once(0));
}

TEST_F(EventLoopTest, ChangedInterestTakesEffect) {
  auto [ours, theirs] = socket_pair();
  int calls = 0;
  auto watch = loop->watch(ours.get(), 0, [&](EventLoop::Events) { ++calls; }).value();
  EXPECT_FALSE(loop->run_once(0));
  watch.set_interest(EventLoop::kWritable);
  EXPECT_TRUE(loop->run_once(0));
  EXPECT_EQ(calls, 1);
  watch.set_interest(0);
  EXPECT_FALSE(loop->run_once(0));
}

TEST_F(EventLoopTest, AWatchDestroyedByAnotherCallbackOfTheSameRoundIsNotCalled) {
  auto [a1, a2] = socket_pair();
  auto [b1, b2] = socket_pair();
  EventLoop::Watch first, second;
  int calls = 0;
  first = loop->watch(a1.get(), EventLoop::kWritable,
                      [&](EventLoop::Events) {
                        ++calls;
                        second.reset();
                      })
              .value();
  second = loop->watch(b1.get(), EventLoop::kWritable,
                       [&](EventLoop::Events) {
                         ++calls;
                         first.reset();
                       })
               .value();
  loop->run_once(0);
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, ARoundWithinAPostedFunctionRunsWhatWasPostedBefore) {
  std::string order;
  loop->post([&] {
    order += 'a';
    while (order.find('c') == std::string::npos) loop->run_once();
    order += 'A';
  });
  loop->post([&] {
    order += 'b';
    loop->post([&] { order += 'c'; });
  });
  loop->post([&] { order += 'd'; });
  while (order.size() < 5) loop->run_once();
  EXPECT_EQ(order, "abdcA");
}

TEST_F(EventLoopTest, RefusesARegularFileByName) {
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY));
  ASSERT_TRUE(file);
  const auto watch = loop->watch(file.get(), EventLoop::kReadable, [](EventLoop::Events) {});
  ASSERT_FALSE(watch);
  EXPECT_NE(watch.error().message.find("not permitted"), std::string::npos) << watch.error().message;
}

TEST_F(EventLoopTest, TimersFireInOrderOfTheirDeadlinesAndNotBefore) {
  std::vector<int> order;
  const std::uint64_t start = monotonic_now();
  std::uint64_t second_at = 0;
  auto late = loop->make_timer([&] {
    order.push_back(2);
    second_at = monotonic_now();
    loop->stop();
  });
  auto early = loop->make_timer([&] { order.push_back(1); });
  late.arm(start + 3 * kMillisecond);
  early.arm(start + 1 * kMillisecond);
  loop->run();
  EXPECT_EQ(order, (std::vector{1, 2}));
  EXPECT_GE(second_at, start + 3 * kMillisecond);
  EXPECT_EQ(late.deadline(), std::nullopt);
}

TEST_F(EventLoopTest, ADeadlineInThePastFiresSoonButNotInsideArm) {
  bool fired = false;
  auto timer = loop->make_timer([&] { fired = true; });
  timer.arm(0);
  EXPECT_FALSE(fired);
  EXPECT_TRUE(loop->run_once(1000 * kMillisecond));
  EXPECT_TRUE(fired);
}

TEST_F(EventLoopTest, ACancelledTimerStaysSilent) {
  bool fired = false;
  auto timer = loop->make_timer([&] { fired = true; });
  auto end = loop->make_timer([&] { loop->stop(); });
  timer.arm_after(kMillisecond);
  end.arm_after(2 * kMillisecond);
  timer.cancel();
  loop->run();
  EXPECT_FALSE(fired);
}

TEST_F(EventLoopTest, ATimerCancelledByAnotherThatIsDueWithItStaysSilent) {
  bool fired = false;
  EventLoop::Timer victim = loop->make_timer([&] { fired = true; });
  auto killer = loop->make_timer([&] { victim.cancel(); });
  killer.arm(1);
  victim.arm(2);
  loop->run_once(1000 * kMillisecond);
  loop->run_once(0);
  EXPECT_FALSE(fired);
}

TEST_F(EventLoopTest, ATimerThatRearmsItselfInThePastDoesNotStarveDescriptors) {
  auto [ours, theirs] = socket_pair();
  EventLoop::Timer timer = loop->make_timer([&] { timer.arm(0); });
  timer.arm(0);
  bool seen = false;
  const auto watch = loop->watch(ours.get(), EventLoop::kWritable, [&](EventLoop::Events) { seen = true; });
  for (int i = 0; i < 3; ++i) loop->run_once(1000 * kMillisecond);
  EXPECT_TRUE(seen);
}

TEST_F(EventLoopTest, ALaterDeadlineReplacesAnEarlierOne) {
  std::uint64_t fired_at = 0;
  const std::uint64_t start = monotonic_now();
  auto timer = loop->make_timer([&] {
    fired_at = monotonic_now();
    loop->stop();
  });
  timer.arm(start + kMillisecond);
  timer.arm(start + 5 * kMillisecond);
  loop->run();
  EXPECT_GE(fired_at, start + 5 * kMillisecond);
}

TEST_F(EventLoopTest, ADestroyedTimerStaysSilent) {
  bool fired = false;
  {
    auto timer = loop->make_timer([&] { fired = true; });
    timer.arm(0);
  }
  loop->run_once(0);
  EXPECT_FALSE(fired);
}

TEST_F(EventLoopTest, PostedFunctionsOfManyThreadsAllRunOnTheLoopInTheirOrder) {
  constexpr int kThreads = 4, kEach = 2000;
  std::array<int, kThreads> next{};
  int total = 0;
  bool in_order = true;
  std::vector<Thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.push_back(Thread::start("poster", [&, t] {
                        for (int i = 0; i < kEach; ++i)
                          loop->post([&, t, i] {
                            in_order = in_order && next[static_cast<std::size_t>(t)]++ == i && loop->in_loop_thread();
                            if (++total == kThreads * kEach) loop->stop();
                          });
                      }).value());
  loop->run();
  EXPECT_EQ(total, kThreads * kEach);
  EXPECT_TRUE(in_order);
}

TEST_F(EventLoopTest, RunSyncReturnsAfterTheFunctionRanOnTheLoopThread) {
  const pthread_t* runner = nullptr;
  Thread thread = Thread::start("loop", [&] { loop->run(); }).value();
  pthread_t self{};
  // Until the thread has begun to run the loop the call runs here, which is as good.
  loop->run_sync([&] { self = ::pthread_self(); });
  runner = &self;
  EXPECT_TRUE(::pthread_equal(*runner, thread.native_handle()) || ::pthread_equal(*runner, ::pthread_self()));
  loop->stop();
}

TEST_F(EventLoopTest, StopBeforeRunMakesRunReturnAtOnce) {
  loop->stop();
  loop->run();
}

TEST_F(EventLoopTest, TimersArmedFromAnotherThreadWakeTheLoop) {
  auto timer = loop->make_timer([&] { loop->stop(); });
  const Thread thread = Thread::start("armer", [&] { timer.arm(1); }).value();
  loop->run();
}

TEST_F(EventLoopTest, WhatWasPostedToAnEndedLoopIsDroppedWithoutRunning) {
  bool ran = false;
  auto owned = std::make_shared<int>(1);
  std::weak_ptr<int> observer = owned;
  loop->post([&ran, owned = std::move(owned)] { ran = true; });
  loop.reset();
  EXPECT_FALSE(ran);
  EXPECT_TRUE(observer.expired());
}

TEST_F(EventLoopTest, SignalsArriveOnTheLoop) {
  int arrived = 0;
  {
    const auto signals = SignalWatch::create(*loop, {SIGUSR1}, [&](int signal) { arrived = signal; });
    ASSERT_TRUE(signals);
    ::kill(::getpid(), SIGUSR1);
    loop->run_once(1000 * kMillisecond);
  }
  EXPECT_EQ(arrived, SIGUSR1);
  sigset_t now;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
  EXPECT_FALSE(sigismember(&now, SIGUSR1));
}

TEST(EventFd, CountsUntilTaken) {
  const EventFd event = EventFd::create().value();
  EXPECT_EQ(event.take(), 0u);
  event.signal();
  event.signal(4);
  EXPECT_EQ(event.take(), 5u);
  EXPECT_EQ(event.take(), 0u);
}

TEST(Thread, CarriesItsNameAndIsJoinedByItsDestructor) {
  std::string name;
  {
    const Thread thread = Thread::start("a-name-longer-than-fifteen", [&] {
                            char buffer[32] = {};
                            ::pthread_getname_np(::pthread_self(), buffer, sizeof buffer);
                            name = buffer;
                          }).value();
  }
  EXPECT_EQ(name, "a-name-longer-t");
}

TEST(UniqueFd, ClosesOnceAndGivesUpOnRelease) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const int write_end = fds[1];
  const UniqueFd read_end(fds[0]);
  {
    UniqueFd a(write_end);
    UniqueFd b(std::move(a));
    EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): that it is empty is what is tested
    EXPECT_EQ(b.get(), write_end);
  }
  char byte;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "the write end is closed";
}

}  // namespace
}  // namespace husk::host
