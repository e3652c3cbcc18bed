// husk: limits of bytes and requests a second, as QEMU's throttling
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "block/context.h"
#include "block/filter.h"

namespace husk::block {

/// One limit: a leaking bucket. A rate of 0 is no limit.
struct ThrottleRate {
  std::uint64_t average = 0;        ///< units a second
  std::uint64_t burst = 0;          ///< units a second, for a while; 0: a tenth of a second's worth at the average
  std::uint64_t burst_seconds = 1;  ///< how long the burst may last
};

struct ThrottleLimits {
  ThrottleRate bytes, read_bytes, write_bytes;
  ThrottleRate requests, read_requests, write_requests;
  std::uint64_t request_size = 0;  ///< bytes; a larger request counts as several; 0: as one
  bool any() const {
    return bytes.average || read_bytes.average || write_bytes.average || requests.average || read_requests.average ||
           write_requests.average;
  }
};

/// A bucket with what was let through lately; time in ns.
class ThrottleBucket {
 public:
  explicit ThrottleBucket(ThrottleRate rate) : rate_(rate) {}
  /// How long until a request may go; 0: now.
  std::uint64_t delay(std::uint64_t now);
  void take(double units);

 private:
  void leak(std::uint64_t now);
  ThrottleRate rate_;
  double level_ = 0, burst_level_ = 0;  // units above the average, and above the burst rate
  std::uint64_t last_ = 0;
};

/// Holds reads and writes back; lets all else pass. `now` is for tests.
class Throttle final : public Filter {
 public:
  Throttle(Context& context, std::unique_ptr<Node> below, const ThrottleLimits& limits,
           std::function<std::uint64_t()> now = {});
  std::string_view driver() const override { return "throttle"; }
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void close(core::BlockCompletion done) override;
  /// New limits from now on.
  void set_limits(const ThrottleLimits& limits);

 private:
  void serve(bool writes);
  std::uint64_t delay(bool writes);
  void let_through(core::BlockRequest request, bool writes);

  ThrottleLimits limits_;
  std::function<std::uint64_t()> now_;
  std::vector<ThrottleBucket> buckets_;
  std::array<std::deque<core::BlockRequest>, 2> queues_;  // reads, writes
  std::array<host::EventLoop::Timer, 2> timers_;
  bool draining_ = false;
};

}  // namespace husk::block
