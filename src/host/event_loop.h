// husk: a single-threaded loop over descriptors, timers and posted functions
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/result.h"

namespace husk::host {

/// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t monotonic_now();

/// One thread runs the loop; everything it calls back runs there. Watches belong to that thread: they are added,
/// changed and destroyed by it, or by anyone while no thread runs the loop. post(), stop() and timers may be used from
/// anywhere.
///
/// Callbacks may add, change and destroy any watch or timer, their own included.
///
/// Another source of completions, such as an io_uring, joins by its descriptor: register an eventfd with the ring,
/// watch() it and reap in the callback.
class EventLoop {
  struct Impl;
  struct WatchRecord;
  struct TimerRecord;

 public:
  /// Bit set of what a descriptor is ready for, or is waited for.
  using Events = std::uint8_t;
  static constexpr Events kReadable = 1;
  static constexpr Events kWritable = 2;
  /// Reported whether asked for or not, as long as it lasts: the peer is gone or the descriptor has an error. A
  /// callback that can do nothing about it yet must drop the watch, or the loop spins.
  static constexpr Events kHangup = 4;

  /// A descriptor's membership in the loop; destroying it ends it. The descriptor must stay open until then.
  class Watch {
   public:
    Watch() = default;
    Watch(Watch&& other) noexcept;
    Watch& operator=(Watch&& other) noexcept;
    ~Watch();
    explicit operator bool() const { return record_ != nullptr; }
    /// What to wait for from now on; 0 waits for kHangup only.
    void set_interest(Events interest);
    Events interest() const;
    void reset();

   private:
    friend class EventLoop;
    explicit Watch(std::shared_ptr<WatchRecord> record) : record_(std::move(record)) {}
    std::shared_ptr<WatchRecord> record_;
  };

  /// One deadline. Thread-safe, except that destruction off the loop's thread does not wait for a callback that is
  /// running.
  class Timer {
   public:
    Timer() = default;
    Timer(Timer&& other) noexcept;
    Timer& operator=(Timer&& other) noexcept;
    ~Timer();
    explicit operator bool() const { return record_ != nullptr; }
    /// Calls back once when monotonic_now() has reached `deadline` (ns), replacing an earlier deadline; never from
    /// inside this call.
    void arm(std::uint64_t deadline);
    void arm_after(std::uint64_t nanoseconds);
    void cancel();
    std::optional<std::uint64_t> deadline() const;

   private:
    friend class EventLoop;
    explicit Timer(std::shared_ptr<TimerRecord> record) : record_(std::move(record)) {}
    std::shared_ptr<TimerRecord> record_;
  };

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  /// Fails with EPERM's text on what cannot be waited for (regular files).
  Result<Watch> watch(int fd, Events interest, std::function<void(Events)> ready);
  Timer make_timer(std::function<void()> expired);

  /// Runs `function` on the loop's thread, in the order of the calls. From any thread; with no loop running it stays
  /// queued. What is left when the loop is destroyed is dropped unrun.
  void post(std::move_only_function<void()> function);
  /// post(), and waits until it has run; runs it at once if called on the loop's thread or while no thread runs the
  /// loop. The caller must hold no lock that the loop may want.
  void run_sync(const std::function<void()>& function);

  /// Runs until stop().
  void run();
  /// Waits for one round of events at most `timeout_ns` (none: without limit) and handles it. Returns false if nothing
  /// happened in that time.
  bool run_once(std::optional<std::uint64_t> timeout_ns = std::nullopt);
  /// Makes run() return after the current round; if it is not running, the next run() returns at once.
  void stop();

  /// True on the thread that runs the loop, and on every thread while none does.
  bool in_loop_thread() const;

 private:
  explicit EventLoop(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace husk::host
