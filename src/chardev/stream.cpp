// husk: moving bytes between a link and descriptors
#include "chardev/stream.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "host/file.h"

namespace husk::chardev {

using host::EventLoop;

StreamChardev::StreamChardev(EventLoop& loop, std::string id, std::string description, Environment environment)
    : Chardev(loop, std::move(id)),
      link_(Link::create(loop, *this, Link::Pace::coalesce)),
      description_(std::move(description)),
      environment_(std::move(environment)) {
  link_->set_discard(true);
}

StreamChardev::~StreamChardev() {
  // The guest's last words. A reader that does not read does not hold husk up for long.
  flush(kLastWordsNs);
  link_->close();
}

Result<std::unique_ptr<core::CharBackend>> StreamChardev::attach(DomainRunner run, std::string name) {
  auto front_end = link_->attach(std::move(run));
  if (!front_end)
    return std::unexpected(
        Error{fmt::format("character device '{}' is in use already, so {} cannot have it", id_, name),
              "give it mux=on, or use another one"});
  return front_end;
}

Status open_log(StreamChardev& device, const Spec& spec) {
  if (spec.log_path.empty()) return {};
  device.log_ = HUSK_TRY(
      host::open_file(spec.log_path, O_WRONLY | O_CREAT | O_NOCTTY | (spec.log_append ? O_APPEND : O_TRUNC), 0666));
  device.apply_discard();
  return {};
}

void StreamChardev::warn(const std::string& text) {
  if (environment_.log) environment_.log->warning("character device '{}': {}", id_, text);
}

/// Output is worth keeping if it goes anywhere at all.
void StreamChardev::apply_discard() {
  const bool goes_out = ends_ && ends_->out && !output_failed_;
  link_->set_discard(!goes_out && !absorbs_ && (!log_ || log_failed_));
}

void StreamChardev::open(StreamEnds ends) {
  ends_ = std::move(ends);
  ++generation_;
  output_failed_ = false;
  input_done_ = !ends_->in;
  hung_up_ = false;
  telnet_ = {};
  pending_.clear();
  if (ends_->telnet) pending_.assign(TelnetDecoder::greeting().begin(), TelnetDecoder::greeting().end());
  apply_discard();
  link_->set_connected(true);
  if (!ends_) return;  // a callback may have led to a close
  pump();
  if (ends_) read_input();
}

void StreamChardev::close_ends() {
  if (!ends_) return;
  in_watch_.reset();
  out_watch_.reset();
  ends_.reset();
  pending_.clear();
  apply_discard();
  // What is queued now is for the log or for nobody.
  pump();
  link_->set_connected(false);
  disconnected();
}

void StreamChardev::log_output(std::span<const std::uint8_t> data) {
  if (!log_ || log_failed_) return;
  if (const Status done = host::write_all(log_.get(), data, "its log file"); !done) {
    log_failed_ = true;
    warn(done.error().text());
    apply_discard();
  }
}

std::optional<std::size_t> StreamChardev::send(std::span<const std::uint8_t> data) {
  for (;;) {
    const ssize_t sent = ends_->socket ? ::send(ends_->out.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
                                       : ::write(ends_->out.get(), data.data(), data.size());
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    if (!ends_->socket && errno != EPIPE && errno != EIO) warn(fail_errno(errno, "cannot write").error().text());
    return std::nullopt;
  }
}

void StreamChardev::output_lost() {
  if (ends_->input_end_is_disconnect) {
    close_ends();
    return;
  }
  output_failed_ = true;
  out_watch_.reset();
  apply_discard();
}

bool StreamChardev::send_pending() {
  while (!pending_.empty()) {
    const auto sent = send(pending_);
    if (!sent) {
      output_lost();
      return false;
    }
    if (*sent == 0) {
      wait_writable();
      return false;
    }
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(*sent));
  }
  return true;
}

/// Returns how much was taken; 0 if it must wait.
std::size_t StreamChardev::transmit(std::span<const std::uint8_t> data) {
  if (!ends_ || !ends_->out || output_failed_) {
    absorb(data);
    return data.size();
  }
  if (!send_pending()) return ends_ && !output_failed_ ? 0 : data.size();
  bool escape = false;
  if (ends_->telnet) {
    const auto iac = std::find(data.begin(), data.end(), TelnetDecoder::kIac);
    if (iac == data.begin()) {
      escape = true;
      data = data.first(1);
    } else {
      data = {data.begin(), iac};
    }
  }
  const auto sent = send(data);
  if (!sent) {
    output_lost();
    return data.size();
  }
  if (*sent == 0)
    wait_writable();
  else if (escape)
    pending_.push_back(TelnetDecoder::kIac);
  return *sent;
}

void StreamChardev::wait_writable() {
  if (out_watch_) return;
  auto watch = loop_.watch(ends_->out.get(), EventLoop::kWritable, [this](EventLoop::Events) {
    out_watch_.reset();
    pump();
  });
  // Only what cannot be waited for fails, and such a thing (a file) never says EAGAIN.
  if (watch)
    out_watch_ = std::move(*watch);
  else
    output_lost();
}

void StreamChardev::pump() {
  // Losing the output in transmit() can lead back here by way of close_ends() and open().
  if (pumping_) return;
  pumping_ = true;
  for (;;) {
    const std::span<const std::uint8_t> chunk = link_->output();
    if (chunk.empty() && (pending_.empty() || send_pending())) break;
    const std::size_t taken = chunk.empty() ? 0 : transmit(chunk);
    if (taken == 0 && out_watch_) break;
    log_output(chunk.first(taken));
    link_->consume(taken);
  }
  pumping_ = false;
  if (!out_watch_) link_->idle();
}

bool StreamChardev::try_drain() {
  pump();
  return link_->output().empty() && pending_.empty();
}

void StreamChardev::wait_readable() {
  if (in_watch_) {
    in_watch_.set_interest(EventLoop::kReadable);
    return;
  }
  if (watch_input(EventLoop::kReadable)) return;
  // A regular file is always readable: take the next piece in the next round.
  loop_.post([alive = std::weak_ptr(life_), this, generation = generation_] {
    if (!alive.expired() && generation == generation_ && ends_) read_input();
  });
}

void StreamChardev::input_watch_event() {
  if (in_watch_.interest() == 0) {
    // Hung up while the device takes no input: the event would come again at once, for ever. What the peer sent before
    // is still to be had; read_input() finds it when there is credit, and the end after it.
    int unread = 0;
    in_watch_.reset();
    hung_up_ = true;
    if (::ioctl(ends_->in.get(), FIONREAD, &unread) != 0 || unread == 0) input_ended();
    return;
  }
  read_input();
}

void StreamChardev::pause_input() {
  if (in_watch_) {
    in_watch_.set_interest(0);
  } else if (ends_ && ends_->in && !input_done_ && !hung_up_) {
    // Only to hear of a peer that leaves.
    watch_input(0);
  }
}

bool StreamChardev::watch_input(EventLoop::Events interest) {
  auto watch = loop_.watch(ends_->in.get(), interest, [this](EventLoop::Events) { input_watch_event(); });
  if (watch) in_watch_ = std::move(*watch);
  return watch.has_value();
}

/// Returns false if the device takes no more now.
bool StreamChardev::deliver_held() {
  while (!held_.empty()) {
    const std::size_t taken = link_->deliver(held_);
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(taken));
    if (taken == 0 && link_->want_credit()) {
      pause_input();
      return false;
    }
  }
  return true;
}

void StreamChardev::read_input() {
  if (!deliver_held() || !ends_ || input_done_) return;
  if (link_->want_credit()) {
    pause_input();
    return;
  }
  std::array<std::uint8_t, 4096> buffer;
  const std::size_t most = std::min(buffer.size(), std::max<std::size_t>(link_->credit(), 1));
  ssize_t got;
  do got = ::read(ends_->in.get(), buffer.data(), most);
  while (got < 0 && errno == EINTR);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    wait_readable();
    return;
  }
  if (got <= 0) {
    input_ended();
    return;
  }
  const std::span<const std::uint8_t> data{buffer.data(), static_cast<std::size_t>(got)};
  const std::uint64_t generation = generation_;
  if (ends_->telnet) {
    const unsigned breaks = telnet_.decode(data, held_);
    for (unsigned i = 0; i < breaks; ++i) link_->deliver_break();
  } else {
    held_.assign(data.begin(), data.end());
  }
  if (!deliver_held() || !ends_ || generation != generation_) return;
  // One piece a round, so that a flood here leaves the loop's other work its turn.
  if (link_->want_credit())
    pause_input();
  else
    wait_readable();
}

void StreamChardev::input_ended() {
  in_watch_.reset();
  input_done_ = true;
  if (ends_->input_end_is_disconnect) close_ends();
}

}  // namespace husk::chardev
