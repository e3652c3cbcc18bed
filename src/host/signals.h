// husk: asynchronous signals as events of the loop
#pragma once

#include <csignal>
#include <functional>
#include <initializer_list>

#include "base/result.h"
#include "host/event_loop.h"
#include "host/unique_fd.h"

namespace husk::host {

/// Takes signals away from their handlers and reports them on the loop instead, where any call is allowed. Create it
/// before any other thread: it blocks them in the calling thread, and new threads inherit that. The destructor, on the
/// same thread, restores the mask; what is pending then takes its usual way.
class SignalWatch {
 public:
  static Result<SignalWatch> create(EventLoop& loop, std::initializer_list<int> signals,
                                    std::function<void(int)> arrived);
  SignalWatch(SignalWatch&& other) noexcept;
  SignalWatch& operator=(SignalWatch&&) = delete;
  ~SignalWatch();

 private:
  SignalWatch() = default;
  UniqueFd fd_;
  EventLoop::Watch watch_;
  sigset_t before_{};
  bool active_ = false;
};

/// Ends this process by the default action of `signal`, so that its parent sees the true cause.
[[noreturn]] void die_by_signal(int signal);
/// Stops this process (as Ctrl-Z does) until SIGCONT.
void stop_self();

}  // namespace husk::host
