// husk: the host's side of one run: main loop, signals, terminal, character devices, time-out
#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "app/exit_status.h"
#include "app/launcher.h"
#include "base/log.h"
#include "base/result.h"
#include "chardev/chardev.h"
#include "host/event_loop.h"
#include "host/file.h"
#include "host/signals.h"
#include "machine/config.h"

namespace husk::app {

/// Made first and destroyed last: the machine lives in between, on this object's loop. All on the main thread, but for
/// end() and attach().
class Session {
 public:
  /// Opens everything that the configuration names on the host's side. Must come before any thread is started, because
  /// it blocks signals.
  static Result<std::unique_ptr<Session>> create(const machine::MachineConfig& config, const LaunchOptions& options);
  /// Writes out what the guest still had to say, and gives the terminal back.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  host::EventLoop& loop() { return *loop_; }
  Log& log() { return log_; }
  /// Where traces go: the file that the user named, or standard error.
  std::FILE* trace_file() const { return log_file_ ? log_file_.get() : stderr; }

  /// The end of a character device for the guest's device `name` ("serial port 0"). Callbacks run on the loop inside
  /// `run`, which takes the device's lock domain.
  Result<std::unique_ptr<core::CharBackend>> attach(const std::string& chardev_id, chardev::DomainRunner run,
                                                    const std::string& name);

  /// What a stop by Ctrl-Z (SIGTSTP) does to the machine, before and after.
  void on_suspend(std::function<void()> suspend, std::function<void()> resume);

  /// What SIGCONT does.
  void on_continue(std::function<void()> go_on) { continue_ = std::move(go_on); }

  /// Asked first about SIGINT, SIGTERM and SIGHUP; true if the signal shall not end the session.
  void on_signal(std::function<bool(int)> take) { take_signal_ = std::move(take); }
  /// What SIGUSR1 does; only if the configuration wants statistics.
  void on_statistics(std::function<void()> show) { show_statistics_ = std::move(show); }

  /// Waits until every server that was told to has its first client. Returns an ending if one came meanwhile.
  std::optional<Ending> wait_for_clients();
  /// Starts the time-out and runs the loop until end(); the guest's output is written out by then.
  Ending run();
  /// Writes out what the guest has said so far, before husk says something itself. Waits a second at most.
  void flush_output();
  /// Ends run(). The first ending counts. From any thread.
  void end(Ending ending);

 private:
  Session(const machine::MachineConfig& config, const LaunchOptions& options);
  void signalled(int signal);

  const LaunchOptions options_;
  const std::optional<std::uint64_t> timeout_ns_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> log_file_{nullptr, std::fclose};
  Log log_;
  std::unique_ptr<host::EventLoop> loop_;
  std::optional<host::SignalWatch> signals_;
  std::optional<host::PidFile> pid_file_;
  std::optional<chardev::ChardevSet> chardevs_;
  host::EventLoop::Timer timeout_;
  std::function<void()> suspend_, resume_, continue_, show_statistics_;
  std::function<bool(int)> take_signal_;
  std::mutex mutex_;
  std::optional<Ending> ending_;  // guarded by mutex_
};

/// The last act of launch(), after the session is gone: the exit status of an ending. A signal that ended `husk run`
/// ends the process here by that signal, so that a shell's loop around it stops as well.
int conclude(const Ending& ending, Dialect dialect);

/// Shows an error as husk shows them all: "PROGRAM: message; next step".
void print_error(const char* program, const Error& error);

}  // namespace husk::app
