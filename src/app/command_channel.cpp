// husk: the streams of a command that runs in a guest
#include "app/command_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/bits.h"
#include "base/check.h"

namespace husk::app {

using chardev::Link;
using guest::Port;
using guest::ToGuest;
using guest::ToHost;
using host::EventLoop;

namespace {

constexpr std::size_t kMostKernelLog = 256 * 1024;

bool ready_now(int fd, short events) {
  pollfd one{fd, events, 0};
  return ::poll(&one, 1, 0) > 0 && one.revents != 0;
}

/// How much a write to a ready descriptor takes without blocking. The descriptors are shared with other processes, so
/// they cannot be made non-blocking: a ready pipe has room for PIPE_BUF (pipe(7)); terminals take less.
std::size_t piece_of(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return 256;
  if (S_ISREG(status.st_mode)) return Link::kCapacity;
  return S_ISCHR(status.st_mode) ? 1024 : 4096;
}

}  // namespace

/// Guest to descriptor.
class CommandChannel::OutputPort final : public chardev::Transport {
 public:
  OutputPort(CommandChannel& channel, int fd, Port port)
      : channel_(channel),
        fd_(fd),
        port_(port),
        piece_(piece_of(fd)),
        link_(Link::create(channel.loop_, *this, Link::Pace::coalesce)) {
    link_->set_connected(true);
  }
  ~OutputPort() override { link_->close(); }

  std::unique_ptr<core::CharBackend> attach(chardev::DomainRunner run) { return link_->attach(std::move(run)); }
  /// All of `total` bytes have been written, or nobody takes them.
  bool done(std::uint64_t total) const { return closed_ || written_ >= total; }

  void output_ready() override { pump(); }
  void credit_given() override {}

 private:
  void pump() {
    watch_.reset();
    for (;;) {
      const auto data = link_->output();
      if (data.empty()) {
        link_->idle();
        break;
      }
      if (!closed_ && !ready_now(fd_, POLLOUT)) {
        auto watch = channel_.loop_.watch(fd_, EventLoop::kWritable, [this](EventLoop::Events) { pump(); });
        if (watch) {
          watch_ = std::move(*watch);
          return;
        }
        close("cannot be waited for");
      }
      const std::size_t size = closed_ ? data.size() : send(data.first(std::min(data.size(), piece_)));
      link_->consume(size);
      if (!closed_) written_ += size;
    }
    channel_.check_end();
  }

  std::size_t send(std::span<const std::uint8_t> data) {
    for (;;) {
      const ssize_t sent = ::write(fd_, data.data(), data.size());
      if (sent >= 0) return static_cast<std::size_t>(sent);
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return 0;
      close(errno == EPIPE ? nullptr : fail_errno(errno, "cannot be written").error().message.c_str());
      return data.size();
    }
  }

  void close(const char* why);

  CommandChannel& channel_;
  const int fd_;
  const Port port_;
  const std::size_t piece_;
  const std::shared_ptr<Link> link_;
  EventLoop::Watch watch_;
  std::uint64_t written_ = 0;
  bool closed_ = false;
};

/// Descriptor to guest.
class CommandChannel::InputPort final : public chardev::Transport {
 public:
  InputPort(CommandChannel& channel, int fd)
      : channel_(channel),
        fd_(fd),
        link_(Link::create(channel.loop_, *this, Link::Pace::coalesce)),
        retry_(channel.loop_.make_timer([this] { pump(); })) {
    link_->set_connected(true);
  }
  ~InputPort() override { link_->close(); }

  std::unique_ptr<core::CharBackend> attach(chardev::DomainRunner run) {
    auto backend = link_->attach(std::move(run));
    if (!link_->want_credit()) pump();
    return backend;
  }

  void output_ready() override {
    link_->consume(link_->output().size());
    link_->idle();
  }
  void credit_given() override { pump(); }

 private:
  void pump() {
    watch_.reset();
    while (!ended_) {
      if (!held_.empty()) {
        const std::size_t taken = link_->deliver(held_);
        held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(taken));
      }
      const std::size_t credit = link_->credit();
      if (!held_.empty() || credit == 0) {
        if (link_->want_credit()) return;
        continue;
      }
      // A background job that read its terminal would be stopped, though its command may never want any input.
      if (in_background()) return retry_.arm_after(kRetryNs);
      // What cannot be watched (regular files, /dev/null) is ready at any time.
      if (!ready_now(fd_, POLLIN)) {
        auto watch = channel_.loop_.watch(fd_, EventLoop::kReadable, [this](EventLoop::Events) { pump(); });
        if (watch) {
          watch_ = std::move(*watch);
          return;
        }
      }
      take(credit);
    }
  }

  static constexpr std::uint64_t kRetryNs = 200'000'000;
  bool in_background() const {
    const pid_t foreground = ::tcgetpgrp(fd_);
    return foreground > 0 && foreground != ::getpgrp();
  }
  void take(std::size_t credit);
  /// True at the end of Enter ~ . as ssh(1) knows it.
  bool escape(std::vector<std::uint8_t>& data);

  CommandChannel& channel_;
  const int fd_;
  const std::shared_ptr<Link> link_;
  EventLoop::Watch watch_;
  EventLoop::Timer retry_;
  std::vector<std::uint8_t> held_;
  std::uint64_t total_ = 0;
  bool ended_ = false;
  enum class Escape { none, line, tilde } escape_ = Escape::line;
};

/// Messages both ways.
class CommandChannel::ControlPort final : public chardev::Transport {
 public:
  explicit ControlPort(CommandChannel& channel)
      : channel_(channel), link_(Link::create(channel.loop_, *this, Link::Pace::coalesce)) {
    link_->set_connected(true);
  }
  ~ControlPort() override { link_->close(); }

  std::unique_ptr<core::CharBackend> attach(chardev::DomainRunner run) { return link_->attach(std::move(run)); }

  void send(ToGuest kind, std::span<const std::uint8_t> data) {
    std::uint8_t header[4] = {static_cast<std::uint8_t>(kind), 0, 0, 0};
    store_le<std::uint16_t>(header + 2, static_cast<std::uint16_t>(data.size()));
    // A guest that reads none of them gets no more than it could ever want.
    if (waiting_.size() > 65536) return;
    waiting_.insert(waiting_.end(), std::begin(header), std::end(header));
    waiting_.insert(waiting_.end(), data.begin(), data.end());
    credit_given();
  }

  void output_ready() override {
    for (auto data = link_->output(); !data.empty(); data = link_->output()) {
      received_.insert(received_.end(), data.begin(), data.end());
      link_->consume(data.size());
      parse();
    }
    link_->idle();
  }

  void credit_given() override {
    while (!waiting_.empty()) {
      const std::size_t taken = link_->deliver(waiting_);
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
      if (!waiting_.empty() && link_->want_credit()) return;
    }
  }

 private:
  void parse() {
    std::size_t at = 0;
    while (!damaged_ && received_.size() - at >= 4) {
      const auto size = load_le<std::uint16_t>(&received_[at + 2]);
      if (size > guest::kMostMessage || received_[at + 1] != 0) {
        damaged_ = true;
        break;
      }
      if (received_.size() - at < 4u + size) break;
      const auto kind = static_cast<ToHost>(received_[at]);
      channel_.handle(kind, std::span(received_).subspan(at + 4, size));
      at += 4u + size;
    }
    received_.erase(received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(at));
    if (!damaged_) return;
    received_.clear();
    channel_.end({.kind = CommandEnd::Kind::failed, .text = "the guest sent a message that is damaged"});
  }

  CommandChannel& channel_;
  const std::shared_ptr<Link> link_;
  std::vector<std::uint8_t> received_, waiting_;
  bool damaged_ = false;
};

/// What the kernel prints.
class CommandChannel::ConsolePort final : public chardev::Transport {
 public:
  explicit ConsolePort(CommandChannel& channel)
      : channel_(channel), link_(Link::create(channel.loop_, *this, Link::Pace::coalesce)) {
    link_->set_connected(true);
  }
  ~ConsolePort() override {
    output_ready();
    link_->close();
  }

  std::unique_ptr<core::CharBackend> attach(chardev::DomainRunner run) { return link_->attach(std::move(run)); }
  void credit_given() override {}

  void output_ready() override {
    for (auto data = link_->output(); !data.empty(); data = link_->output()) {
      take(data);
      link_->consume(data.size());
    }
    link_->idle();
  }

  std::string text() {
    output_ready();
    return kept_;
  }

 private:
  void take(std::span<const std::uint8_t> data) {
    std::string plain;
    for (const std::uint8_t byte : data)
      if (byte != '\r') plain += static_cast<char>(byte);
    if (channel_.streams_.show_console) {
      // A raw terminal wants the carriage returns. Its reader is waited for: the user has asked for all of it.
      const bool as_it_is = channel_.streams_.terminal;
      const ssize_t ignored = as_it_is ? ::write(channel_.streams_.error, data.data(), data.size())
                                       : ::write(channel_.streams_.error, plain.data(), plain.size());
      static_cast<void>(ignored);
    }
    kept_ += plain;
    if (kept_.size() > kMostKernelLog) kept_.erase(0, kept_.size() - kMostKernelLog / 2);
  }

  CommandChannel& channel_;
  const std::shared_ptr<Link> link_;
  std::string kept_;
};

void CommandChannel::OutputPort::close(const char* why) {
  closed_ = true;
  watch_.reset();
  if (why) channel_.log_.error("standard {} {}", port_ == Port::output ? "output" : "error", why);
  const std::uint8_t port = static_cast<std::uint8_t>(port_);
  channel_.control_->send(ToGuest::output_closed, {&port, 1});
}

void CommandChannel::InputPort::take(std::size_t credit) {
  std::array<std::uint8_t, 4096> buffer;
  const ssize_t got = ::read(fd_, buffer.data(), std::min(credit, buffer.size()));
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (got <= 0) {
    ended_ = true;
    std::uint8_t total[8];
    store_le<std::uint64_t>(total, total_);
    channel_.control_->send(ToGuest::input_end, total);
    return;
  }
  held_.assign(buffer.begin(), buffer.begin() + got);
  if (channel_.streams_.terminal && escape(held_)) {
    ended_ = true;
    channel_.events_.quit();
    return;
  }
  total_ += held_.size();
}

bool CommandChannel::InputPort::escape(std::vector<std::uint8_t>& data) {
  for (const std::uint8_t byte : data) {
    if (escape_ == Escape::tilde && byte == '.') return true;
    if (escape_ == Escape::line && byte == '~')
      escape_ = Escape::tilde;
    else
      escape_ = byte == '\r' || byte == '\n' ? Escape::line : Escape::none;
  }
  return false;
}

CommandChannel::CommandChannel(EventLoop& loop, Log& log, const Streams& streams, Events events)
    : loop_(loop), log_(log), streams_(streams), events_(std::move(events)) {}

Result<std::unique_ptr<CommandChannel>> CommandChannel::create(EventLoop& loop, Log& log, const Streams& streams,
                                                               Events events) {
  std::unique_ptr<CommandChannel> channel(new CommandChannel(loop, log, streams, std::move(events)));
  CommandChannel* const self = channel.get();
  channel->control_ = std::make_unique<ControlPort>(*self);
  channel->input_ = std::make_unique<InputPort>(*self, streams.input);
  channel->output_ = std::make_unique<OutputPort>(*self, streams.output, Port::output);
  channel->error_ = std::make_unique<OutputPort>(*self, streams.error, Port::error);
  channel->console_ = std::make_unique<ConsolePort>(*self);
  if (streams.terminal) {
    channel->window_.emplace(HUSK_TRY(host::SignalWatch::create(loop, {SIGWINCH}, [self](int) { self->resized(); })));
    channel->raw_.emplace(HUSK_TRY(host::RawTerminal::enter(streams.input, false, true)));
  }
  return channel;
}

CommandChannel::~CommandChannel() = default;

std::unique_ptr<core::CharBackend> CommandChannel::attach(Port port, chardev::DomainRunner run) {
  switch (port) {
    case Port::input: return input_->attach(std::move(run));
    case Port::output: return output_->attach(std::move(run));
    case Port::error: return error_->attach(std::move(run));
    case Port::control: return control_->attach(std::move(run));
  }
  return nullptr;
}

std::unique_ptr<core::CharBackend> CommandChannel::attach_console(chardev::DomainRunner run) {
  return console_->attach(std::move(run));
}

void CommandChannel::send_signal(int signal) {
  const auto number = static_cast<std::uint8_t>(signal);
  control_->send(ToGuest::signal, {&number, 1});
}

void CommandChannel::resized() {
  winsize size{};
  if (::ioctl(streams_.input, TIOCGWINSZ, &size) != 0) return;
  std::uint8_t data[4];
  store_le<std::uint16_t>(data, size.ws_row);
  store_le<std::uint16_t>(data + 2, size.ws_col);
  control_->send(ToGuest::resize, data);
}

void CommandChannel::suspend_terminal() {
  if (raw_) raw_->suspend();
}
void CommandChannel::resume_terminal() {
  if (raw_) raw_->resume();
  resized();
}

void CommandChannel::handle(ToHost kind, std::span<const std::uint8_t> data) {
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  switch (kind) {
    case ToHost::started:
      started_ = true;
      if (streams_.terminal) resized();
      return;
    case ToHost::exited:
      if (data.size() != 20 || exit_) return;
      exit_ = CommandEnd{.kind = CommandEnd::Kind::exited,
                         .status = static_cast<int>(load_le<std::uint32_t>(data.data())),
                         .text = {}};
      output_total_ = load_le<std::uint64_t>(data.data() + 4);
      error_total_ = load_le<std::uint64_t>(data.data() + 12);
      return check_end();
    case ToHost::not_started:
      if (data.size() < 4) return;
      return end({.kind = CommandEnd::Kind::not_started,
                  .status = static_cast<int>(load_le<std::uint32_t>(data.data())),
                  .text = std::string(text.substr(4))});
    case ToHost::failed: return end({.kind = CommandEnd::Kind::failed, .text = std::string(text)});
    case ToHost::log:
      if (kernel_log_.size() < kMostKernelLog) kernel_log_ += text;
      return;
  }
}

void CommandChannel::check_end() {
  if (exit_ && output_->done(output_total_) && error_->done(error_total_)) end(*exit_);
}

void CommandChannel::end(CommandEnd end) {
  if (!events_.ended) return;
  const auto ended = std::exchange(events_.ended, nullptr);
  ended(end);
}

std::string CommandChannel::console_text() const { return kernel_log_.empty() ? console_->text() : kernel_log_; }

}  // namespace husk::app
