// husk: a network over a stream socket, each frame behind its length
#include "netdev/stream.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/bits.h"
#include "netdev/fd_backend.h"

namespace husk::netdev {

namespace {

constexpr std::size_t kLength = 4;  // big-endian, before each frame
/// Bytes that wait for a slow peer; frames beyond are lost.
constexpr std::size_t kMostWaiting = std::size_t{1} << 20;
constexpr std::size_t kReceiveBytes = std::size_t{256} << 10;
constexpr unsigned kBatch = 16;
constexpr int kConnectMs = 10'000;

class Stream final : public FdBackend {
 public:
  Stream(host::EventLoop& loop, Log& log, mem::LockDomain& domain, StreamOptions options)
      : FdBackend(loop, domain), log_(log), options_(std::move(options)), received_(kReceiveBytes) {
    set_link(false);
    timer_ = loop_.make_timer([this] { connect(); });
  }
  ~Stream() override {
    watch_.reset();
    listening_.reset();
  }

  Status open() {
    if (options_.descriptor >= 0) {
      host::UniqueFd fd(options_.descriptor);
      int type = 0;
      socklen_t length = sizeof type;
      if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM)
        return std::unexpected(
            Error{fmt::format("descriptor {} is no stream socket", fd.get()), "pass a connected one, or use dgram"});
      ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
      HUSK_TRY(host::set_nonblocking(fd.get(), true));
      return connected(std::move(fd));
    }
    if (options_.server) {
      listener_.emplace(HUSK_TRY(host::Listener::listen(options_.address)));
      listening_ = HUSK_TRY(
          loop_.watch(listener_->fd(), host::EventLoop::kReadable, [this](host::EventLoop::Events) { accept(); }));
      return {};
    }
    if (options_.reconnect) {
      connect();
      return {};
    }
    return connected(HUSK_TRY(host::connect_socket(options_.address, kConnectMs)));
  }

  void send(std::span<const std::uint8_t> frame, const core::NetOffload&) override {
    if (!fd_ || frame.size() > kMostFrame) return;
    std::uint8_t head[kLength];
    store_be<std::uint32_t>(head, static_cast<std::uint32_t>(frame.size()));
    std::size_t done = 0;
    if (waiting_.empty()) {
      iovec parts[2] = {{head, kLength}, {const_cast<std::uint8_t*>(frame.data()), frame.size()}};
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0)
        done = static_cast<std::size_t>(sent);
      else if (errno != EAGAIN && errno != EINTR)
        return;  // the loop hears of it too, and ends the connection
      if (done == kLength + frame.size()) return;
      post([this] { update_interest(); });
    } else if (waiting_.size() + kLength + frame.size() > kMostWaiting) {
      return;
    }
    if (done < kLength) waiting_.insert(waiting_.end(), head + done, head + kLength);
    const std::size_t from = done > kLength ? done - kLength : 0;
    waiting_.insert(waiting_.end(), frame.begin() + static_cast<std::ptrdiff_t>(from), frame.end());
  }

 private:
  Status connected(host::UniqueFd fd) {
    host::set_no_delay(fd.get());
    watch_ = HUSK_TRY(
        loop_.watch(fd.get(), host::EventLoop::kReadable, [this](host::EventLoop::Events events) { ready(events); }));
    {
      const mem::DomainGuard guard(&domain_);
      fd_ = std::move(fd);
    }
    filled_ = 0;
    blocked_ = false;
    set_link(true);
    return {};
  }

  void accept() {
    auto client = listener_->accept();
    if (!client) return log_.warning("network: {}", client.error().text());
    if (!*client) return;
    if (auto done = connected(std::move(**client)); !done) return log_.warning("network: {}", done.error().text());
    // The next one has to wait until this one goes.
    listening_.set_interest(0);
  }

  void connect() {
    auto begun = host::Connecting::begin(options_.address);
    if (!begun) return timer_.arm_after(options_.reconnect);
    connecting_.emplace(std::move(*begun));
    wait_for_connection();
  }
  void wait_for_connection() {
    auto watch = loop_.watch(connecting_->fd(), host::EventLoop::kWritable, [this](host::EventLoop::Events) {
      connecting_watch_.reset();
      auto fd = connecting_->finish();
      if (fd && !*fd) return wait_for_connection();
      connecting_.reset();
      if (fd)
        if (auto done = connected(std::move(**fd)); done) return;
      timer_.arm_after(options_.reconnect);
    });
    if (!watch) {
      connecting_.reset();
      return timer_.arm_after(options_.reconnect);
    }
    connecting_watch_ = std::move(*watch);
  }

  void disconnected(std::string_view why) {
    watch_.reset();
    {
      const mem::DomainGuard guard(&domain_);
      fd_.reset();
      waiting_.clear();
    }
    set_link(false);
    if (listener_) return listening_.set_interest(host::EventLoop::kReadable);
    if (options_.reconnect) return timer_.arm_after(options_.reconnect);
    log_.warning("network: the peer at {} is gone: {}",
                 options_.descriptor >= 0 ? "the socket given" : host::to_text(options_.address), why);
  }

  void ready(host::EventLoop::Events events) {
    if (events & host::EventLoop::kWritable) flush();
    for (unsigned i = 0; i < kBatch && fd_ && !blocked_; ++i) {
      const ssize_t got = ::recv(fd_.get(), received_.data() + filled_, received_.size() - filled_, MSG_DONTWAIT);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) return disconnected(got < 0 ? std::strerror(errno) : "it closed the connection");
      filled_ += static_cast<std::size_t>(got);
      take_frames();
    }
    // Blocked with the peer gone: nothing more can be told apart from here, so what was read is lost with it.
    if (fd_ && blocked_ && (events & host::EventLoop::kHangup)) disconnected("it closed the connection");
  }

  void take_frames() {
    std::size_t at = 0;
    bool damaged = false;
    blocked_ = false;
    while (filled_ - at >= kLength) {
      const std::size_t length = load_be<std::uint32_t>(&received_[at]);
      damaged = length > kMostFrame;
      if (damaged || filled_ - at - kLength < length) break;
      blocked_ = length && !offer({&received_[at + kLength], length}, {});
      if (blocked_) break;
      at += kLength + length;
    }
    std::memmove(received_.data(), received_.data() + at, filled_ - at);
    filled_ -= at;
    // Where the next frame begins cannot be known any more.
    if (damaged) return disconnected("it sent a frame that is too long");
    update_interest();
  }
  void resume() override {
    if (!fd_ || !blocked_) return;
    take_frames();
  }

  void flush() {
    bool lost = false;
    {
      const mem::DomainGuard guard(&domain_);
      while (!waiting_.empty() && !lost) {
        const ssize_t sent = ::send(fd_.get(), waiting_.data(), waiting_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) break;
        lost = sent < 0;
        if (!lost) waiting_.erase(waiting_.begin(), waiting_.begin() + sent);
      }
    }
    if (lost) return disconnected("it takes nothing any more");
    update_interest();
  }

  void update_interest() {
    if (!watch_) return;
    bool waits = false;
    {
      const mem::DomainGuard guard(&domain_);
      waits = !waiting_.empty();
    }
    watch_.set_interest(static_cast<host::EventLoop::Events>((blocked_ ? 0 : host::EventLoop::kReadable) |
                                                             (waits ? host::EventLoop::kWritable : 0)));
  }

  Log& log_;
  StreamOptions options_;
  std::optional<host::Listener> listener_;
  host::EventLoop::Watch listening_;
  std::optional<host::Connecting> connecting_;
  host::EventLoop::Watch connecting_watch_;
  host::EventLoop::Timer timer_;
  host::EventLoop::Watch watch_;
  std::vector<std::uint8_t> received_;
  std::size_t filled_ = 0;
  bool blocked_ = false;  ///< the card had no room for what lies first in received_
  // Written on the loop under the domain, so either suffices for reading.
  host::UniqueFd fd_;
  std::vector<std::uint8_t> waiting_;  ///< under the domain
};

}  // namespace

Result<std::unique_ptr<core::NetBackend>> open_stream(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                      StreamOptions options) {
  auto stream = std::make_unique<Stream>(loop, log, domain, std::move(options));
  HUSK_TRY(stream->open());
  return stream;
}

}  // namespace husk::netdev
