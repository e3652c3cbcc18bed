// husk: character devices: the host side of serial ports, debug consoles and monitors
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "chardev/link.h"
#include "chardev/spec.h"
#include "core/backends.h"
#include "host/event_loop.h"

namespace husk::chardev {

/// What a character device may ask of the program around it. Called on the loop's thread.
struct Environment {
  std::function<void()> quit;  ///< Ctrl-A x
  Log* log = nullptr;          ///< trouble that does not stop the device (a log file that is full)
};

/// One character device. Created, used and destroyed on the loop's thread or while no thread runs the loop, unless said
/// otherwise; the loop must outlive it. A device that still has its front end then writes into nothing.
///
/// SIGPIPE must be ignored in the process, or a reader that goes away kills it.
class Chardev {
 public:
  /// Opens what the spec names; an error names the spec's id. Only one stdio device can exist in a process (its
  /// terminal and its escapes cannot be shared); see ChardevSet.
  static Result<std::unique_ptr<Chardev>> create(host::EventLoop& loop, const Spec& spec, Environment environment = {});
  virtual ~Chardev() = default;
  Chardev(const Chardev&) = delete;
  Chardev& operator=(const Chardev&) = delete;

  const std::string& id() const { return id_; }
  /// For the user: "pty /dev/pts/4", "tcp:127.0.0.1:4000, server".
  virtual std::string describe() const = 0;

  /// A device's end; its callbacks run on the loop's thread inside `run`. `name` is shown by a mux. Fails if the device
  /// has its one front end already (a mux takes many). Thread-safe.
  virtual Result<std::unique_ptr<core::CharBackend>> attach(DomainRunner run, std::string name) = 0;

  /// False while a server that was told to wait for its first client has none.
  virtual bool ready() const { return true; }

  /// Writes out what is queued; gives up after `timeout_ns`. Returns true if nothing is left.
  bool flush(std::uint64_t timeout_ns);

  /// Gives a terminal back to the user's shell for a while, and takes it again.
  virtual void suspend_terminal() {}
  virtual void resume_terminal() {}

  /// A ring device: the output kept, oldest first, at most `most` bytes of it; `take` removes them. Empty for others.
  virtual std::vector<std::uint8_t> ring_contents(std::size_t most, bool take);

 protected:
  Chardev(host::EventLoop& loop, std::string id) : loop_(loop), id_(std::move(id)) {}
  friend class Mux;
  /// Writes as much as goes without waiting; returns true if nothing is left.
  virtual bool try_drain() = 0;
  /// The descriptor whose writability would let try_drain() go on, or -1.
  virtual int blocked_fd() const = 0;

  host::EventLoop& loop_;
  const std::string id_;
};

/// All character devices of a machine.
class ChardevSet {
 public:
  /// Refuses two devices with one id, and two on stdio.
  static Result<ChardevSet> create(host::EventLoop& loop, std::span<const Spec> specs, Environment environment);
  ChardevSet(ChardevSet&&) = default;
  ChardevSet& operator=(ChardevSet&&) = default;
  ~ChardevSet();

  /// Null if there is none of that name.
  Chardev* find(std::string_view id) const;
  std::span<const std::unique_ptr<Chardev>> all() const { return devices_; }
  bool ready() const;
  void flush(std::uint64_t timeout_ns);
  void suspend_terminal();
  void resume_terminal();

 private:
  ChardevSet() = default;
  std::vector<std::unique_ptr<Chardev>> devices_;
};

}  // namespace husk::chardev
