// husk: null, stdio, file, pty, pipe and ring devices
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <optional>

#include "chardev/socket_device.h"
#include "chardev/stream.h"
#include "host/file.h"
#include "host/socket.h"

namespace husk::chardev {
namespace {

using host::EventLoop;
using host::UniqueFd;
using Created = Result<std::unique_ptr<StreamChardev>>;

class NullChardev : public StreamChardev {
 public:
  NullChardev(EventLoop& loop, std::string id, Environment environment)
      : StreamChardev(loop, std::move(id), "null", std::move(environment)) {
    open({});
  }
};

/// Standard input and output. Their open file descriptions are shared with whoever started husk, and must not be left
/// nonblocking: pipes and terminals are opened anew, the rest is set back at the end.
class StdioChardev : public StreamChardev {
 public:
  static Created create(EventLoop& loop, const std::string& id, const StdioSpec& spec, Environment environment) {
    std::unique_ptr<StdioChardev> device(new StdioChardev(loop, id, std::move(environment)));
    StreamEnds ends;
    ends.in = HUSK_TRY(device->own(STDIN_FILENO, O_RDONLY));
    ends.out = HUSK_TRY(device->own(STDOUT_FILENO, O_WRONLY));
    struct stat status{};
    ends.socket = ::fstat(ends.out.get(), &status) == 0 && S_ISSOCK(status.st_mode);
    if (host::is_terminal(STDIN_FILENO))
      device->terminal_ = HUSK_TRY(host::RawTerminal::enter(STDIN_FILENO, spec.signals));
    device->open(std::move(ends));
    return device;
  }
  ~StdioChardev() override {
    flush(kLastWordsNs);
    close_ends();
    for (const int fd : made_nonblocking_) static_cast<void>(host::set_nonblocking(fd, false));
  }
  void suspend_terminal() override {
    if (terminal_) terminal_->suspend();
  }
  void resume_terminal() override {
    if (terminal_) terminal_->resume();
  }

 private:
  StdioChardev(EventLoop& loop, std::string id, Environment environment)
      : StreamChardev(loop, std::move(id), "stdio", std::move(environment)) {}

  Result<UniqueFd> own(int fd, int access) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) return fail_errno(errno, access == O_RDONLY ? "standard input" : "standard output");
    // Anew, a file would begin at its start again.
    if (!S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode)) {
      UniqueFd own(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
      if (own) return own;
    }
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy) return fail_errno(errno, "cannot duplicate a standard descriptor");
    if (!S_ISREG(status.st_mode) && !(::fcntl(fd, F_GETFL) & O_NONBLOCK)) {
      HUSK_TRY(host::set_nonblocking(fd, true));
      made_nonblocking_.push_back(fd);
    }
    return copy;
  }

  std::vector<int> made_nonblocking_;
  std::optional<host::RawTerminal> terminal_;
};

class PlainChardev : public StreamChardev {
 public:
  PlainChardev(EventLoop& loop, std::string id, std::string description, Environment environment, StreamEnds ends)
      : StreamChardev(loop, std::move(id), std::move(description), std::move(environment)) {
    open(std::move(ends));
  }
};

Created create_file(EventLoop& loop, const std::string& id, const FileSpec& spec, Environment environment) {
  StreamEnds ends;
  struct stat status{};
  const bool exists = ::stat(spec.path.c_str(), &status) == 0;
  // A FIFO opened for writing alone would wait for its reader, one opened for both does not (fifo(7)).
  const int access = exists && S_ISFIFO(status.st_mode) ? O_RDWR : O_WRONLY;
  ends.out =
      HUSK_TRY(host::open_file(spec.path, access | O_CREAT | O_NOCTTY | (spec.append ? O_APPEND : O_TRUNC), 0666));
  if (::fstat(ends.out.get(), &status) == 0 && !S_ISREG(status.st_mode))
    HUSK_TRY(host::set_nonblocking(ends.out.get(), true));
  if (!spec.input_path.empty()) ends.in = HUSK_TRY(host::open_file(spec.input_path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  return std::make_unique<PlainChardev>(loop, id, "file " + spec.path, std::move(environment), std::move(ends));
}

Created create_pipe(EventLoop& loop, const std::string& id, const PipeSpec& spec, Environment environment) {
  // Open for both directions, a FIFO neither waits for its other end nor ends when that goes.
  constexpr int kFlags = O_RDWR | O_NONBLOCK | O_NOCTTY;
  StreamEnds ends;
  auto in = host::open_file(spec.path + ".in", kFlags);
  auto out = host::open_file(spec.path + ".out", kFlags);
  if (in && out) {
    ends.in = std::move(*in);
    ends.out = std::move(*out);
  } else {
    auto both = host::open_file(spec.path, kFlags);
    if (!both) {
      Error error = std::move(both).error();
      error.next_step = fmt::format("create the FIFOs '{0}.in' and '{0}.out' with mkfifo", spec.path);
      return std::unexpected(std::move(error));
    }
    ends.in = std::move(*both);
    ends.out = UniqueFd(::fcntl(ends.in.get(), F_DUPFD_CLOEXEC, 3));
    if (!ends.out) return fail_errno(errno, "cannot duplicate a descriptor");
  }
  return std::make_unique<PlainChardev>(loop, id, "pipe " + spec.path, std::move(environment), std::move(ends));
}

/// A pseudo-terminal's master. While no program has the slave open, the kernel reports a hang-up without end and keeps
/// what is written for nobody; so the device then looks now and then, and drops output as with any absent peer.
class PtyChardev : public StreamChardev {
 public:
  static Created create(EventLoop& loop, const std::string& id, Environment environment) {
    int master = -1, slave = -1;
    char name[128] = {};
    if (::openpty(&master, &slave, nullptr, nullptr, nullptr) != 0)
      return fail_errno(errno, "cannot create a pseudo-terminal");
    UniqueFd master_fd(master);
    // Opening the slave and closing it again is also what makes the master report its absence.
    const UniqueFd slave_fd(slave);
    if (::ttyname_r(slave, name, sizeof name) != 0) return fail_errno(errno, "cannot name a pseudo-terminal");
    termios mode{};
    ::tcgetattr(slave, &mode);
    ::cfmakeraw(&mode);
    mode.c_cflag |= CS8;
    ::tcsetattr(slave, TCSANOW, &mode);
    ::fcntl(master, F_SETFD, FD_CLOEXEC);
    HUSK_TRY(host::set_nonblocking(master, true));
    return std::unique_ptr<StreamChardev>(
        new PtyChardev(loop, id, fmt::format("pty {}", name), std::move(environment), std::move(master_fd)));
  }

 private:
  static constexpr std::uint64_t kLookNs = 200'000'000;

  PtyChardev(EventLoop& loop, std::string id, std::string description, Environment environment, UniqueFd master)
      : StreamChardev(loop, std::move(id), std::move(description), std::move(environment)), master_(std::move(master)) {
    look_ = loop.make_timer([this] { look(); });
    look_.arm_after(kLookNs);
  }

  void look() {
    pollfd master{master_.get(), 0, 0};
    ::poll(&master, 1, 0);
    if (master.revents & POLLHUP) {
      look_.arm_after(kLookNs);
      return;
    }
    StreamEnds ends;
    ends.in = UniqueFd(::fcntl(master_.get(), F_DUPFD_CLOEXEC, 3));
    ends.out = UniqueFd(::fcntl(master_.get(), F_DUPFD_CLOEXEC, 3));
    ends.input_end_is_disconnect = true;
    if (!ends.in || !ends.out) {
      warn("out of descriptors");
      look_.arm_after(kLookNs);
      return;
    }
    open(std::move(ends));
  }
  void disconnected() override { look_.arm_after(kLookNs); }

  UniqueFd master_;
  EventLoop::Timer look_;
};

class RingChardev : public StreamChardev {
 public:
  RingChardev(EventLoop& loop, std::string id, Environment environment, std::size_t size)
      : StreamChardev(loop, std::move(id), fmt::format("ring buffer of {} bytes", size), std::move(environment)),
        size_(size) {
    set_absorbs();
    open({});
  }

  std::vector<std::uint8_t> ring_contents(std::size_t most, bool take) override {
    std::vector<std::uint8_t> contents;
    loop_.run_sync([&] {
      try_drain();
      const auto count = static_cast<std::ptrdiff_t>(std::min(most, kept_.size()));
      contents.assign(kept_.begin(), kept_.begin() + count);
      if (take) kept_.erase(kept_.begin(), kept_.begin() + count);
    });
    return contents;
  }

 private:
  void absorb(std::span<const std::uint8_t> data) override {
    if (data.size() > size_) data = data.last(size_);
    kept_.insert(kept_.end(), data.begin(), data.end());
    if (kept_.size() > size_)
      kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(kept_.size() - size_));
  }
  const std::size_t size_;
  std::deque<std::uint8_t> kept_;
};

struct Creator {
  EventLoop& loop;
  const Spec& spec;
  Environment& environment;

  Created operator()(const NullSpec&) const {
    return std::make_unique<NullChardev>(loop, spec.id, std::move(environment));
  }
  Created operator()(const StdioSpec& stdio) const {
    return StdioChardev::create(loop, spec.id, stdio, std::move(environment));
  }
  Created operator()(const FileSpec& file) const { return create_file(loop, spec.id, file, std::move(environment)); }
  Created operator()(const PtySpec&) const { return PtyChardev::create(loop, spec.id, std::move(environment)); }
  Created operator()(const PipeSpec& pipe) const { return create_pipe(loop, spec.id, pipe, std::move(environment)); }
  Created operator()(const RingSpec& ring) const {
    if (ring.size == 0 || ring.size > kLargestRing)
      return fail("a ring buffer of {} bytes is outside 1 to {}", ring.size, kLargestRing);
    return std::make_unique<RingChardev>(loop, spec.id, std::move(environment), ring.size);
  }
  Created operator()(const SocketSpec& socket) const {
    return create_socket(loop, spec.id, socket, std::move(environment));
  }
  static constexpr std::size_t kLargestRing = std::size_t{1} << 30;
};

}  // namespace

Created create_stream(EventLoop& loop, const Spec& spec, Environment environment) {
  auto device = HUSK_TRY(std::visit(Creator{loop, spec, environment}, spec.kind));
  HUSK_TRY(open_log(*device, spec));
  return device;
}

}  // namespace husk::chardev
