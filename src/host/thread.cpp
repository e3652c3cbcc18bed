// husk: a named thread that is joined when its object goes
#include "host/thread.h"

#include <csignal>
#include <memory>

#include "base/check.h"

namespace husk::host {
namespace {

struct Start {
  std::string name;
  std::move_only_function<void()> body;
};

void* thread_main(void* argument) {
  const std::unique_ptr<Start> start(static_cast<Start*>(argument));
  ::pthread_setname_np(::pthread_self(), start->name.substr(0, 15).c_str());
  start->body();
  return nullptr;
}

}  // namespace

Result<Thread> Thread::start(std::string name, std::move_only_function<void()> body) {
  auto start = std::make_unique<Start>(std::move(name), std::move(body));
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
    sigdelset(&blocked, synchronous);
  ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
  Thread thread;
  const int error = ::pthread_create(&thread.thread_, nullptr, thread_main, start.get());
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return fail_errno(error, fmt::format("cannot start thread '{}'", start->name));
  start.release();
  thread.running_ = true;
  return thread;
}

Thread& Thread::operator=(Thread&& other) noexcept {
  if (this != &other) {
    join();
    thread_ = other.thread_;
    running_ = std::exchange(other.running_, false);
  }
  return *this;
}

void Thread::join() {
  if (!running_) return;
  running_ = false;
  HUSK_CHECK(::pthread_join(thread_, nullptr) == 0);
}

}  // namespace husk::host
