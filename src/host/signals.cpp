// husk: asynchronous signals as events of the loop
#include "host/signals.h"

#include <pthread.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <cstdlib>

#include "host/terminal.h"

namespace husk::host {

Result<SignalWatch> SignalWatch::create(EventLoop& loop, std::initializer_list<int> signals,
                                        std::function<void(int)> arrived) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  SignalWatch watch;
  watch.fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!watch.fd_) return fail_errno(errno, "cannot create a signalfd");
  watch.watch_ = HUSK_TRY(
      loop.watch(watch.fd_.get(), EventLoop::kReadable, [fd = watch.fd_.get(), arrived = std::move(arrived)](auto) {
        signalfd_siginfo info{};
        while (::read(fd, &info, sizeof info) == sizeof info) arrived(static_cast<int>(info.ssi_signo));
      }));
  ::pthread_sigmask(SIG_BLOCK, &set, &watch.before_);
  watch.active_ = true;
  return watch;
}

SignalWatch::SignalWatch(SignalWatch&& other) noexcept
    : fd_(std::move(other.fd_)),
      watch_(std::move(other.watch_)),
      before_(other.before_),
      active_(std::exchange(other.active_, false)) {}

SignalWatch::~SignalWatch() {
  if (!active_) return;
  watch_.reset();
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void die_by_signal(int signal) {
  // With the default action in place, RawTerminal's handler does not run.
  restore_terminals();
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

void stop_self() { ::kill(::getpid(), SIGSTOP); }

}  // namespace husk::host
