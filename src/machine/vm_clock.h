// husk: a machine's virtual time, driven by an event loop
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

#include "core/clock.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::machine {

/// Time that runs with the host's monotonic clock while the machine runs and stands still while it is stopped. Timer
/// callbacks run on the loop's thread, under the lock domain of the Clock that made the timer.
class VmClock {
 public:
  /// `wall_base`: what wall_clock() tells at the start, in ns since 1970; nothing: the host's clock at each call.
  explicit VmClock(host::EventLoop& loop, std::optional<std::int64_t> wall_base = std::nullopt);
  ~VmClock();
  VmClock(const VmClock&) = delete;
  VmClock& operator=(const VmClock&) = delete;

  core::VmTime now() const;
  /// Lets time run on, or stops it. Off at first.
  void start();
  void stop();

  /// A Clock whose timers call back with `domain` held (null: no lock). Must not outlive this object.
  std::unique_ptr<core::Clock> for_domain(mem::LockDomain* domain);

 private:
  class DomainClock;
  class DomainTimer;
  struct Record;
  /// Orders by deadline; records with equal deadlines by address.
  struct Earlier {
    bool operator()(const std::shared_ptr<Record>& a, const std::shared_ptr<Record>& b) const;
  };

  void arm(const std::shared_ptr<Record>& record, core::VmTime deadline);
  void cancel(const std::shared_ptr<Record>& record);
  /// Fires what is due; on the loop's thread.
  void fire();
  /// Sets the host timer for the earliest deadline. mutex_ is held.
  void schedule();

  host::EventLoop& loop_;
  std::optional<std::int64_t> wall_base_;
  /// While running: VM time is the host's monotonic time minus origin_. While stopped: it is stopped_at_.
  std::atomic<bool> running_{false};
  std::atomic<std::uint64_t> origin_{0};
  std::atomic<core::VmTime> stopped_at_{0};
  mutable std::mutex mutex_;
  std::set<std::shared_ptr<Record>, Earlier> armed_;
  host::EventLoop::Timer host_timer_;
};

}  // namespace husk::machine
