// husk: a named thread that is joined when its object goes
#pragma once

#include <pthread.h>

#include <functional>
#include <string>

#include "base/result.h"

namespace husk::host {

/// Runs a function on a thread of its own. The destructor waits for it, so whoever owns the object must first have told
/// the function to end.
class Thread {
 public:
  Thread() = default;
  /// `name` shows in ps and gdb; the kernel keeps its first 15 bytes. All signals but the synchronous ones are blocked
  /// in the thread, so that they reach the thread that handles them.
  static Result<Thread> start(std::string name, std::move_only_function<void()> body);
  Thread(Thread&& other) noexcept : thread_(other.thread_), running_(std::exchange(other.running_, false)) {}
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { join(); }

  void join();
  bool joinable() const { return running_; }
  /// For pthread_kill and scheduling calls; valid while joinable().
  pthread_t native_handle() const { return thread_; }

 private:
  pthread_t thread_{};
  bool running_ = false;
};

}  // namespace husk::host
