// husk: the command's process, and the bytes between it and husk
#include "relay.h"

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/termios.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/signalfd.h>
#include <linux/time_types.h>
#include <linux/wait.h>

#include "spawn.h"

namespace husk::guest {
namespace {

/// What the port's driver takes at once (port_fops_write in Linux' drivers/char/virtio_console.c).
constexpr Size kPiece = 32768;

/// One direction of one stream. Bytes are taken from `from` only when all earlier ones have gone to `to`.
struct Stream {
  Word from = -1, to = -1;
  Size begin = 0, end = 0;
  unsigned long total = 0;  ///< bytes that have gone out
  char bytes[kPiece];

  bool holds() const { return begin < end; }
  void close_from() {
    if (from >= 0) close(from);
    from = -1;
  }
  /// Returns false at the end of the input.
  bool fill() {
    const Word got = read(from, bytes, sizeof bytes);
    if (got == -EAGAIN || got == -EINTR) return true;
    if (got <= 0) return false;
    begin = 0;
    end = static_cast<Size>(got);
    return true;
  }
  /// Returns false if nobody takes it any more.
  bool drain() {
    const Word sent = write(to, bytes + begin, end - begin);
    if (sent == -EAGAIN || sent == -EINTR) return true;
    if (sent < 0) return false;
    begin += static_cast<Size>(sent);
    total += static_cast<unsigned long>(sent);
    return true;
  }
};

class Relay {
 public:
  Relay(Control& control, const Config& config) : control_(control), config_(config) {}
  void run();

 private:
  enum Slot { kSignals, kControl, kInputFrom, kInputTo, kOutputFrom, kOutputTo, kErrorFrom, kErrorTo, kSlots };

  void start();
  void prepare_polls();
  void move();
  void output(Stream& stream, const pollfd& from, const pollfd& to);
  void input();
  void reap();
  void read_control();
  void obey(const MessageHeader& header, const unsigned char* data);
  void end_input();
  /// All that there is to say after the command's end has gone out.
  bool finished() const;
  void report();

  Control& control_;
  const Config& config_;
  Process process_;
  Stream input_, output_, error_;
  pollfd polls_[kSlots];
  Word signals_ = -1;
  bool input_ends_ = false;
  unsigned long input_size_ = 0;  ///< where it ends
  bool exited_ = false;
  int status_ = 0;
  unsigned char message_[sizeof(MessageHeader) + kMostMessage];
  Size message_size_ = 0;
};

void Relay::start() {
  const unsigned long mask = 1ul << (SIGCHLD - 1);
  call(__NR_rt_sigprocmask, SIG_BLOCK, &mask, nullptr, sizeof mask);
  signals_ = call(__NR_signalfd4, -1, &mask, sizeof mask, O_CLOEXEC | O_NONBLOCK);
  input_.from = open_port(control_, Port::input, O_RDONLY | O_NONBLOCK);
  output_.to = open_port(control_, Port::output, O_WRONLY | O_NONBLOCK);
  error_.to = open_port(control_, Port::error, O_WRONLY | O_NONBLOCK);
  process_ = spawn(control_, config_);
  input_.to = process_.input;
  output_.from = process_.output;
  error_.from = process_.error;
  send(control_, ToHost::started, "", 0);
}

void Relay::prepare_polls() {
  const auto want = [&](Slot slot, Word fd, bool wanted, short events) {
    polls_[slot] = {wanted ? static_cast<int>(fd) : -1, events, 0};
  };
  want(kSignals, signals_, true, POLLIN);
  want(kControl, control_.fd, true, POLLIN);
  want(kInputFrom, input_.from, input_.to >= 0 && !input_.holds(), POLLIN);
  want(kInputTo, input_.to, input_.to >= 0 && input_.holds(), POLLOUT);
  want(kOutputFrom, output_.from, output_.from >= 0 && !output_.holds(), POLLIN);
  want(kOutputTo, output_.to, output_.holds(), POLLOUT);
  want(kErrorFrom, error_.from, error_.from >= 0 && !error_.holds(), POLLIN);
  want(kErrorTo, error_.to, error_.holds(), POLLOUT);
}

void Relay::output(Stream& stream, const pollfd& from, const pollfd& to) {
  if (from.revents && stream.from >= 0 && !stream.fill()) stream.close_from();
  // Without waiting for the next poll: the port has room nearly always.
  if ((to.revents || from.revents) && stream.holds() && !stream.drain()) stream.begin = stream.end;
}

void Relay::end_input() {
  if (input_.to < 0) return;
  // A terminal has no end; its output goes on.
  if (!config_.tty_in) close(input_.to);
  input_.to = -1;
}

void Relay::input() {
  if (polls_[kInputFrom].revents) static_cast<void>(input_.fill());
  if ((polls_[kInputFrom].revents || polls_[kInputTo].revents) && input_.holds() && !input_.drain()) {
    input_.begin = input_.end;
    end_input();
  }
  if (input_ends_ && !input_.holds() && input_.total >= input_size_) end_input();
}

void Relay::reap() {
  signalfd_siginfo ignored;
  read(signals_, &ignored, sizeof ignored);
  for (;;) {
    int status = 0;
    const Word pid = call(__NR_wait4, -1, &status, WNOHANG, nullptr);
    if (pid <= 0) return;
    if (pid != process_.pid) continue;
    exited_ = true;
    status_ = status;
  }
}

void Relay::obey(const MessageHeader& header, const unsigned char* data) {
  const auto kind = static_cast<ToGuest>(header.kind);
  if (kind == ToGuest::signal && header.size == 1) {
    if (process_.terminal >= 0)
      call(__NR_ioctl, process_.terminal, TIOCSIG, static_cast<Word>(data[0]));
    else
      call(__NR_kill, -process_.pid, static_cast<Word>(data[0]));
  } else if (kind == ToGuest::resize && header.size == 4 && process_.terminal >= 0) {
    winsize size{};
    memcpy(&size.ws_row, data, 2);
    memcpy(&size.ws_col, data + 2, 2);
    call(__NR_ioctl, process_.terminal, TIOCSWINSZ, &size);
  } else if (kind == ToGuest::input_end && header.size == 8) {
    input_ends_ = true;
    memcpy(&input_size_, data, 8);
  } else if (kind == ToGuest::output_closed && header.size == 1) {
    Stream& stream = data[0] == static_cast<unsigned char>(Port::output) ? output_ : error_;
    // The command gets SIGPIPE at its next write, as it would on the host. The terminal stays: its input goes on.
    if (stream.from != process_.terminal) stream.close_from();
    stream.begin = stream.end;
  }
}

void Relay::read_control() {
  const Word got = read(control_.fd, message_ + message_size_, sizeof message_ - message_size_);
  if (got <= 0) return;
  message_size_ += static_cast<Size>(got);
  Size at = 0;
  MessageHeader header;
  while (message_size_ - at >= sizeof header) {
    memcpy(&header, message_ + at, sizeof header);
    if (header.size > kMostMessage) fail(control_, "a message on the control port is damaged");
    if (message_size_ - at < sizeof header + header.size) break;
    obey(header, message_ + at + sizeof header);
    at += sizeof header + header.size;
  }
  memmove(message_, message_ + at, message_size_ - at);
  message_size_ -= at;
}

void Relay::move() {
  if (polls_[kSignals].revents) reap();
  if (polls_[kControl].revents & POLLIN) read_control();
  input();
  output(output_, polls_[kOutputFrom], polls_[kOutputTo]);
  output(error_, polls_[kErrorFrom], polls_[kErrorTo]);
}

bool Relay::finished() const {
  if (!exited_ || output_.holds() || error_.holds()) return false;
  // What the command's children still write is not waited for; what is in the pipes already is.
  return !polls_[kOutputFrom].revents && !polls_[kErrorFrom].revents;
}

void Relay::report() {
  // What was changed on shares and disks must have reached them.
  bool writes = config_.disks.count > 0 || config_.upper;
  for (const Config::Share& share : config_.shares) writes |= !share.read_only;
  if (writes) call(__NR_sync);
  unsigned char data[20];
  const unsigned status = static_cast<unsigned>(status_);
  memcpy(data, &status, 4);
  memcpy(data + 4, &output_.total, 8);
  memcpy(data + 12, &error_.total, 8);
  send(control_, ToHost::exited, data, sizeof data);
}

void Relay::run() {
  start();
  do {
    prepare_polls();
    const bool last = exited_ && !output_.holds() && !error_.holds();
    const __kernel_timespec now{0, 0};
    const Word ready = call(__NR_ppoll, polls_, kSlots, last ? &now : nullptr, nullptr, 0);
    if (ready < 0)
      for (pollfd& one : polls_) one.revents = 0;
    else
      move();
  } while (!finished());
  report();
}

}  // namespace

void run_command(Control& control, const Config& config) {
  static Relay relay(control, config);
  relay.run();
}

}  // namespace husk::guest
