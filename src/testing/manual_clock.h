// husk: a clock that a test moves by hand
#pragma once

#include <algorithm>
#include <vector>

#include "core/clock.h"

namespace husk::testing {

class ManualClock : public core::Clock {
 public:
  core::VmTime now() const override { return now_; }
  std::int64_t wall_clock() const override { return wall_base + static_cast<std::int64_t>(now_); }
  std::unique_ptr<core::Timer> make_timer(std::function<void()> callback) override {
    return std::make_unique<ManualTimer>(*this, std::move(callback));
  }

  /// Moves on, firing timers at their exact deadlines in order.
  void advance(core::VmTime by) { advance_to(now_ + by); }
  void advance_to(core::VmTime end) {
    for (;;) {
      ManualTimer* next = nullptr;
      for (ManualTimer* timer : timers_)
        if (timer->deadline_ && *timer->deadline_ <= end && (!next || *timer->deadline_ < *next->deadline_)) next = timer;
      if (!next) break;
      now_ = std::max(now_, *next->deadline_);
      next->deadline_.reset();
      next->callback_();
    }
    now_ = std::max(now_, end);
  }
  /// The earliest deadline of all armed timers.
  std::optional<core::VmTime> next_deadline() const {
    std::optional<core::VmTime> first;
    for (const ManualTimer* timer : timers_)
      if (timer->deadline_ && (!first || *timer->deadline_ < *first)) first = timer->deadline_;
    return first;
  }

  std::int64_t wall_base = 1'700'000'000LL * 1'000'000'000LL;  ///< 2023-11-14 22:13:20 UTC

 private:
  struct ManualTimer : core::Timer {
    ManualTimer(ManualClock& clock, std::function<void()> callback) : clock_(clock), callback_(std::move(callback)) {
      clock_.timers_.push_back(this);
    }
    ~ManualTimer() override { std::erase(clock_.timers_, this); }
    void arm(core::VmTime deadline) override { deadline_ = deadline; }
    void cancel() override { deadline_.reset(); }
    std::optional<core::VmTime> deadline() const override { return deadline_; }
    ManualClock& clock_;
    std::function<void()> callback_;
    std::optional<core::VmTime> deadline_;
  };
  core::VmTime now_ = 0;
  std::vector<ManualTimer*> timers_;
};

}  // namespace husk::testing
