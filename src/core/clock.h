// husk: virtual time and timers
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

namespace husk::core {

/// Nanoseconds since the machine was first started, not counting the time it was stopped.
using VmTime = std::uint64_t;
inline constexpr std::uint64_t kNanosecondsPerSecond = 1'000'000'000;

/// One deadline. Destroying it cancels it. All calls under the owner's lock domain.
class Timer {
 public:
  virtual ~Timer() = default;
  /// Calls the callback once at or soon after `deadline`, replacing an earlier deadline. A deadline in the past fires
  /// as soon as possible, but never from inside arm().
  virtual void arm(VmTime deadline) = 0;
  virtual void cancel() = 0;
  virtual std::optional<VmTime> deadline() const = 0;
};

class Clock {
 public:
  virtual ~Clock() = default;
  /// May be called from any thread, without a lock. Never goes back.
  virtual VmTime now() const = 0;
  /// The callback runs with the lock domain held to which this Clock belongs.
  virtual std::unique_ptr<Timer> make_timer(std::function<void()> callback) = 0;
  /// The host's wall clock (UTC) as nanoseconds since 1970, for real-time clocks; offset by `-rtc base=`.
  virtual std::int64_t wall_clock() const = 0;
};

/// now() as ticks of `hertz`, rounded down; and the first time at which `ticks` have passed.
constexpr std::uint64_t ticks_at(VmTime time, std::uint64_t hertz) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(time) * hertz / kNanosecondsPerSecond);
}
constexpr VmTime time_of_tick(std::uint64_t ticks, std::uint64_t hertz) {
  const auto scaled = static_cast<unsigned __int128>(ticks) * kNanosecondsPerSecond;
  return static_cast<VmTime>((scaled + hertz - 1) / hertz);
}

}  // namespace husk::core
