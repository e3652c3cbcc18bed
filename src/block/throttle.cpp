// husk: limits of bytes and requests a second, as QEMU's throttling
#include "block/throttle.h"

#include <algorithm>
#include <cmath>

namespace husk::block {
namespace {
constexpr double kSecond = 1e9;
bool is_write(core::BlockOp op) { return op != core::BlockOp::read; }
}  // namespace

void ThrottleBucket::leak(std::uint64_t now) {
  const double passed = last_ == 0 ? 0 : static_cast<double>(now - std::min(now, last_)) / kSecond;
  last_ = std::max(last_, now);
  level_ = std::max(0.0, level_ - passed * static_cast<double>(rate_.average));
  burst_level_ = std::max(0.0, burst_level_ - passed * static_cast<double>(rate_.burst));
}

std::uint64_t ThrottleBucket::delay(std::uint64_t now) {
  if (rate_.average == 0) return 0;
  leak(now);
  // What may flow above the average before it counts: a burst for its seconds, else a tenth of a second.
  const double average = static_cast<double>(rate_.average);
  const double burst = static_cast<double>(rate_.burst);
  const double room =
      rate_.burst > 0 ? burst * static_cast<double>(std::max<std::uint64_t>(rate_.burst_seconds, 1)) : average / 10;
  double wait = 0;
  if (level_ > room) wait = (level_ - room) / average;
  // A long burst must still not exceed its own rate within a second.
  if (rate_.burst > 0 && rate_.burst_seconds > 1 && burst_level_ > burst / 10)
    wait = std::max(wait, (burst_level_ - burst / 10) / burst);
  return static_cast<std::uint64_t>(std::ceil(wait * kSecond));
}

void ThrottleBucket::take(double units) {
  if (rate_.average == 0) return;
  level_ += units;
  burst_level_ += units;
}

Throttle::Throttle(Context& context, std::unique_ptr<Node> below, const ThrottleLimits& limits,
                   std::function<std::uint64_t()> now)
    : Filter(std::move(below)), now_(now ? std::move(now) : host::monotonic_now) {
  timers_[0] = context.loop().make_timer([this] { serve(false); });
  timers_[1] = context.loop().make_timer([this] { serve(true); });
  set_limits(limits);
}

void Throttle::set_limits(const ThrottleLimits& limits) {
  limits_ = limits;
  buckets_.clear();
  for (const ThrottleRate& rate : {limits.bytes, limits.read_bytes, limits.write_bytes, limits.requests,
                                   limits.read_requests, limits.write_requests})
    buckets_.emplace_back(rate);
  serve(false);
  serve(true);
}

std::uint64_t Throttle::delay(bool writes) {
  const std::uint64_t now = now_();
  const std::size_t own = writes ? 2 : 1;
  return std::max(
      {buckets_[0].delay(now), buckets_[own].delay(now), buckets_[3].delay(now), buckets_[3 + own].delay(now)});
}

void Throttle::let_through(core::BlockRequest request, bool writes) {
  const std::size_t own = writes ? 2 : 1;
  const bool moves_data = request.op == core::BlockOp::read || request.op == core::BlockOp::write;
  const double bytes = moves_data ? static_cast<double>(request.length) : 0;
  double count = 1;
  if (limits_.request_size > 0 && moves_data)
    count = std::max(1.0, std::ceil(bytes / static_cast<double>(limits_.request_size)));
  for (const std::size_t i : {std::size_t{0}, own}) buckets_[i].take(bytes);
  for (const std::size_t i : {std::size_t{3}, 3 + own}) buckets_[i].take(count);
  below_->submit(std::move(request));
}

void Throttle::submit(core::BlockRequest request) {
  if (request.op == core::BlockOp::flush) return below_->submit(std::move(request));
  const bool writes = is_write(request.op);
  if (!draining_ && (!queues_[writes].empty() || delay(writes) > 0)) {
    queues_[writes].push_back(std::move(request));
    if (!timers_[writes].deadline()) timers_[writes].arm_after(std::max<std::uint64_t>(delay(writes), 1));
    return;
  }
  let_through(std::move(request), writes);
}

void Throttle::serve(bool writes) {
  while (!queues_[writes].empty()) {
    const std::uint64_t wait = draining_ ? 0 : delay(writes);
    if (wait > 0) {
      timers_[writes].arm_after(wait);
      return;
    }
    core::BlockRequest request = std::move(queues_[writes].front());
    queues_[writes].pop_front();
    let_through(std::move(request), writes);
  }
}

void Throttle::drain(std::move_only_function<void()> done) {
  // What is held back goes now: a drain must not take as long as the limits say.
  draining_ = true;
  serve(false);
  serve(true);
  draining_ = false;
  below_->drain(std::move(done));
}

void Throttle::close(core::BlockCompletion done) {
  drain([this, done = std::move(done)]() mutable { below_->close(std::move(done)); });
}

}  // namespace husk::block
