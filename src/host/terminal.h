// husk: the user's terminal in raw mode, and its certain restoration
#pragma once

#include <memory>

#include "base/result.h"

namespace husk::host {

/// True if the descriptor is a terminal.
bool is_terminal(int fd);

/// Gives every terminal in raw mode back at once, for ways to end the process that run no destructor.
void restore_terminals();

/// A terminal in raw mode for as long as the object lives: no echo, no line editing, no flow control, eight bits;
/// output processing stays (a "\n" still returns the carriage), as husk's own messages need it.
///
/// The mode found is restored by the destructor, by exit(), and by every signal that kills the process and can be
/// caught: the synchronous ones (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGTRAP, SIGABRT), and SIGTERM, SIGINT,
/// SIGHUP, SIGQUIT where nobody has taken those (SignalWatch). SIGKILL cannot be caught.
class RawTerminal {
 public:
  /// `signals`: Ctrl-C, Ctrl-\ and Ctrl-Z still send signals instead of bytes. `raw_output`: no output processing
  /// either, for a guest that has a terminal of its own and processes what it writes.
  static Result<RawTerminal> enter(int fd, bool signals, bool raw_output = false);
  RawTerminal(RawTerminal&&) noexcept;
  RawTerminal& operator=(RawTerminal&&) noexcept;
  ~RawTerminal();

  /// Gives the terminal back for a while (before the process stops itself), and takes it again. resume() takes what it
  /// then finds as the mode to restore.
  void suspend();
  void resume();

 private:
  struct State;
  explicit RawTerminal(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace husk::host
