// husk: tests of the filter that lets requests fail
#include "block/error_injector.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace husk::block {
namespace {

/// Completes all and counts.
struct Below final : Node {
  explicit Below(unsigned& count) : reached(count) {}
  const std::string& name() const override { return name_; }
  std::string_view driver() const override { return "below"; }
  core::BlockInfo info() const override { return {.size = 1 << 20}; }
  void submit(core::BlockRequest request) override {
    ++reached;
    request.completion(0);
  }
  void drain(std::move_only_function<void()> done) override { done(); }
  void status(std::uint64_t, std::uint64_t, StatusDone done) override { done(0, {}); }
  void resize_to(std::uint64_t, Preallocation, core::BlockCompletion done) override { done(0); }
  void close(core::BlockCompletion done) override { done(0); }
  unsigned& reached;
  std::string name_ = "below";
};

struct ErrorInjectorTest : ::testing::Test {
  void make(std::vector<InjectionRule> rules) {
    node = std::make_unique<ErrorInjector>(std::make_unique<Below>(reached), std::move(rules));
  }
  int run(core::BlockOp op, std::uint64_t offset = 0, std::uint64_t length = 512) {
    int result = -1;
    core::BlockRequest request;
    request.op = op;
    request.offset = offset;
    request.length = length;
    request.completion = [&](int error) { result = error; };
    node->submit(std::move(request));
    return result;
  }
  unsigned reached = 0;
  std::unique_ptr<ErrorInjector> node;
};

TEST_F(ErrorInjectorTest, ARuleIsForItsKindsOfRequests) {
  make({{.reads = false, .writes = true, .flushes = false, .error = ENOSPC}});
  EXPECT_EQ(run(core::BlockOp::read), 0);
  EXPECT_EQ(run(core::BlockOp::write), ENOSPC);
  EXPECT_EQ(run(core::BlockOp::write_zeroes), ENOSPC);
  EXPECT_EQ(run(core::BlockOp::discard), ENOSPC);
  EXPECT_EQ(run(core::BlockOp::flush), 0);
  EXPECT_EQ(reached, 2u);
}

TEST_F(ErrorInjectorTest, ASectorIsHitByAnyRequestThatTouchesIt) {
  make({{.sector = 8}});
  EXPECT_EQ(run(core::BlockOp::read, 7 * 512), 0);
  EXPECT_EQ(run(core::BlockOp::read, 7 * 512, 1024), EIO);
  EXPECT_EQ(run(core::BlockOp::write, 8 * 512 + 511, 1), EIO);
  EXPECT_EQ(run(core::BlockOp::read, 9 * 512), 0);
}

TEST_F(ErrorInjectorTest, OnceIsOnce) {
  make({{.error = EIO, .once = true}, {.reads = false, .writes = false, .flushes = true, .error = ENOMEM}});
  EXPECT_EQ(run(core::BlockOp::read), EIO);
  EXPECT_EQ(run(core::BlockOp::read), 0);
  EXPECT_EQ(run(core::BlockOp::flush), ENOMEM);
  EXPECT_EQ(run(core::BlockOp::flush), ENOMEM);
}

}  // namespace
}  // namespace husk::block
