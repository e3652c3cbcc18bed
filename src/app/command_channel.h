// husk: the streams of a command that runs in a guest, and what husk and its program there tell each other
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "chardev/link.h"
#include "guest/protocol.h"
#include "host/event_loop.h"
#include "host/signals.h"
#include "host/terminal.h"

namespace husk::app {

/// How a command in the guest ended.
struct CommandEnd {
  enum class Kind : std::uint8_t {
    exited,       ///< `status` is the one of wait(2)
    not_started,  ///< it could not be executed; `status` is the error number
    failed,       ///< the guest could not be set up
  } kind = Kind::failed;
  int status = 0;
  std::string text = {};  ///< why, if it did not exit
};

/// Made on the loop's thread, before any other thread; everything happens there. It outlives the devices that its
/// backends are given to.
class CommandChannel {
 public:
  struct Streams {
    int input = 0, output = 1, error = 2;
    /// The first two are terminals, and the command shall have one: the input goes into raw mode.
    bool terminal = false;
    /// The kernel's console goes to `error` as it comes; else it is only kept.
    bool show_console = false;
  };
  /// `ended` is called once, when all output has been written out, or nobody wants it any more. `quit` is called when
  /// the user types Enter ~ . on the terminal.
  struct Events {
    std::function<void(const CommandEnd&)> ended;
    std::function<void()> quit;
  };
  static Result<std::unique_ptr<CommandChannel>> create(host::EventLoop& loop, Log& log, const Streams& streams,
                                                        Events events);
  ~CommandChannel();
  CommandChannel(const CommandChannel&) = delete;
  CommandChannel& operator=(const CommandChannel&) = delete;

  /// The backend of a port of the console device, or of the serial console.
  std::unique_ptr<core::CharBackend> attach(guest::Port port, chardev::DomainRunner run);
  std::unique_ptr<core::CharBackend> attach_console(chardev::DomainRunner run);

  /// To the command's process group, or the foreground one of its terminal.
  void send_signal(int signal);
  bool started() const { return started_; }
  void suspend_terminal();
  void resume_terminal();
  void restore_terminal() { raw_.reset(); }

  /// The last lines that the kernel wrote on its console, or that the guest's program sent after a failure.
  std::string console_text() const;

 private:
  class OutputPort;
  class InputPort;
  class ControlPort;
  class ConsolePort;

  CommandChannel(host::EventLoop& loop, Log& log, const Streams& streams, Events events);
  void handle(guest::ToHost kind, std::span<const std::uint8_t> data);
  void resized();
  void check_end();
  void end(CommandEnd end);

  host::EventLoop& loop_;
  Log& log_;
  const Streams streams_;
  Events events_;
  std::optional<host::RawTerminal> raw_;
  std::optional<host::SignalWatch> window_;
  std::unique_ptr<InputPort> input_;
  std::unique_ptr<OutputPort> output_, error_;
  std::unique_ptr<ControlPort> control_;
  std::unique_ptr<ConsolePort> console_;
  bool started_ = false;
  std::optional<CommandEnd> exit_;  ///< reported, but not all output has come yet
  std::uint64_t output_total_ = 0, error_total_ = 0;
  std::string kernel_log_;
};

}  // namespace husk::app
