// husk: the user's terminal in raw mode, and its certain restoration
#include "host/terminal.h"

#include <fcntl.h>
#include <pthread.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <mutex>

namespace husk::host {
namespace {

// A signal handler has no argument to find an object by, so what it must restore can only be static: the one place in
// husk where that is so. A slot is written while not armed and read by handlers while armed.
struct RestoreSlot {
  std::atomic<bool> used{false};
  std::atomic<bool> armed{false};
  int fd = -1;
  termios saved{};
};
constexpr std::size_t kSlots = 8;
struct RestoreTable {
  std::array<RestoreSlot, kSlots> slots;
  std::once_flag installed;
};
constinit RestoreTable restore_table;

// tcsetattr from a background process stops it with SIGTTOU unless that is blocked (termios(3)).
void set_mode(int fd, const termios& mode) {
  sigset_t stop, before;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &stop, &before);
  while (::tcsetattr(fd, TCSANOW, &mode) != 0 && errno == EINTR) {
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Async-signal-safe: tcsetattr, sigaction, raise and atomics only.
void restore_all() {
  for (RestoreSlot& slot : restore_table.slots)
    if (slot.armed.load(std::memory_order_acquire)) set_mode(slot.fd, slot.saved);
}

constexpr int kFatal[] = {SIGSEGV, SIGBUS,  SIGILL,    SIGFPE,  SIGSYS,  SIGTRAP, SIGABRT,
                          SIGTERM, SIGINT,  SIGHUP,    SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2,
                          SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGPWR,  SIGPOLL, SIGSTKFLT};
struct PreviousActions {
  std::array<struct sigaction, std::size(kFatal)> actions;
};
PreviousActions previous_actions;

void on_fatal(int signal) {
  const int saved_errno = errno;
  restore_all();
  // Give the signal to whoever had it before (a sanitizer, or the default action), once this handler returns: a
  // faulting instruction faults again, and raise() covers the rest.
  for (std::size_t i = 0; i < std::size(kFatal); ++i)
    if (kFatal[i] == signal) ::sigaction(signal, &previous_actions.actions[i], nullptr);
  ::raise(signal);
  errno = saved_errno;
}

void install_handlers() {
  std::atexit(restore_all);
  for (std::size_t i = 0; i < std::size(kFatal); ++i) {
    struct sigaction& previous = previous_actions.actions[i];
    ::sigaction(kFatal[i], nullptr, &previous);
    // Signals that someone ignores (nohup) or handles already do not kill.
    const bool synchronous = i < 7;
    if (!synchronous && previous.sa_handler != SIG_DFL) continue;
    struct sigaction action{};
    action.sa_handler = on_fatal;
    action.sa_flags = SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    ::sigaction(kFatal[i], &action, nullptr);
  }
}

RestoreSlot* take_slot() {
  for (RestoreSlot& slot : restore_table.slots)
    if (bool free = false; slot.used.compare_exchange_strong(free, true)) return &slot;
  return nullptr;
}

}  // namespace

struct RawTerminal::State {
  RestoreSlot* slot;
  bool signals;
  bool raw_output;

  ~State() {
    leave();
    slot->used.store(false);
  }
  Status apply() {
    if (::tcgetattr(slot->fd, &slot->saved) != 0) return fail_errno(errno, "cannot read the terminal's mode");
    termios raw = slot->saved;
    raw.c_iflag &= static_cast<tcflag_t>(~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON));
    raw.c_lflag &= static_cast<tcflag_t>(~(ECHO | ECHONL | ICANON | IEXTEN | (signals ? 0 : ISIG)));
    if (raw_output) raw.c_oflag &= static_cast<tcflag_t>(~OPOST);
    raw.c_cflag &= static_cast<tcflag_t>(~(CSIZE | PARENB));
    raw.c_cflag |= CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    slot->armed.store(true, std::memory_order_release);
    set_mode(slot->fd, raw);
    return {};
  }
  void leave() {
    if (!slot->armed.load()) return;
    set_mode(slot->fd, slot->saved);
    slot->armed.store(false, std::memory_order_release);
  }
};

void restore_terminals() { restore_all(); }

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

RawTerminal::RawTerminal(std::unique_ptr<State> state) : state_(std::move(state)) {}
RawTerminal::RawTerminal(RawTerminal&&) noexcept = default;
RawTerminal& RawTerminal::operator=(RawTerminal&&) noexcept = default;
RawTerminal::~RawTerminal() = default;

Result<RawTerminal> RawTerminal::enter(int fd, bool signals, bool raw_output) {
  if (!is_terminal(fd)) return fail("descriptor {} is not a terminal", fd);
  RestoreSlot* slot = take_slot();
  if (!slot) return fail("more than {} terminals are in raw mode at once", kSlots);
  std::call_once(restore_table.installed, install_handlers);
  slot->fd = fd;
  auto state = std::make_unique<State>(slot, signals, raw_output);
  HUSK_TRY(state->apply());
  return RawTerminal(std::move(state));
}

void RawTerminal::suspend() { state_->leave(); }
void RawTerminal::resume() {
  // An error (the terminal went away) leaves it as it is.
  if (!state_->slot->armed.load()) static_cast<void>(state_->apply());
}

}  // namespace husk::host
