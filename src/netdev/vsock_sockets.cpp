// husk: a guest's vsock connections as unix sockets of the host
#include "netdev/vsock_sockets.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <set>
#include <vector>

#include "host/socket.h"
#include "host/unique_fd.h"

namespace husk::netdev {

namespace {

using core::VsockKind;
using core::VsockPorts;
using Events = host::EventLoop::Events;
constexpr Events kReadable = host::EventLoop::kReadable, kWritable = host::EventLoop::kWritable,
                 kHangup = host::EventLoop::kHangup;

/// "CONNECT 4294967295\n"
constexpr std::size_t kMostGreeting = 32;
/// Programs that have connected and not yet said to which port; the oldest goes when there are more.
constexpr std::size_t kMostGreeters = 64;
/// Connections that are over in the guest and still have bytes for the host.
constexpr std::size_t kMostClosing = 512;
/// A message to the guest; no larger one can ever arrive there as a whole (Linux' buffer).
constexpr std::size_t kMostMessage = 256 << 10;

/// One connection on the host. Descriptor and lists under the domain; the watch on the loop.
struct Link {
  host::UniqueFd fd;
  host::EventLoop::Watch watch;
  VsockPorts ports;
  VsockKind kind = VsockKind::stream;
  bool wants_read = false;
  bool guest_ended = false;
  bool closing = false;
  bool hung_up = false;
  /// To the host: pieces of a stream, or whole messages.
  std::deque<std::vector<std::uint8_t>> out;
  std::size_t out_at = 0;
  std::vector<std::uint8_t> growing;  ///< a message whose end has not come
  /// To the guest: what is left of a message.
  std::vector<std::uint8_t> message;
  std::size_t message_at = 0;
};
using LinkPointer = std::shared_ptr<Link>;

struct Greeter {
  host::UniqueFd fd;
  host::EventLoop::Watch watch;
  std::string line = {};  ///< as far as it has come
};

class VsockSockets final : public core::VsockBackend {
 public:
  VsockSockets(host::EventLoop& loop, Log& log, mem::LockDomain& domain, std::string path)
      : loop_(loop), log_(log), domain_(domain), path_(std::move(path)), alive_(std::make_shared<bool>(true)) {}
  ~VsockSockets() override {
    for (auto& [ports, link] : links_) link->watch.reset();
    for (const LinkPointer& link : closing_) link->watch.reset();
    for (Greeter& greeter : greeters_) greeter.watch.reset();
    listening_.reset();
  }
  Status open() {
    listener_.emplace(HUSK_TRY(host::Listener::listen(host::UnixAddress{path_})));
    listening_ = HUSK_TRY(loop_.watch(listener_->fd(), kReadable, [this](Events) { greet(); }));
    return {};
  }

  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }

  bool connect(VsockPorts ports, VsockKind kind) override {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string path = fmt::format("{}_{}", path_, ports.host);
    if (path.size() >= sizeof name.sun_path) return false;
    std::memcpy(name.sun_path, path.data(), path.size());
    const int type = kind == VsockKind::stream ? SOCK_STREAM : SOCK_SEQPACKET;
    host::UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    // A unix socket connects at once or not at all.
    if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) return false;
    add(ports, kind, std::move(fd))->wants_read = true;
    return true;
  }

  void accepted(VsockPorts ports) override {
    const LinkPointer& link = links_.at(ports);
    const std::string answer = fmt::format("OK {}\n", ports.host);
    // The first bytes on this socket: there is room.
    if (::send(link->fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) link->hung_up = true;
    link->wants_read = true;
    update(link);
  }

  std::size_t send(VsockPorts ports, std::span<const std::uint8_t> data, bool end_of_message) override {
    const LinkPointer& link = links_.at(ports);
    if (link->hung_up) return data.size();
    if (link->kind == VsockKind::seqpacket) {
      link->growing.insert(link->growing.end(), data.begin(), data.end());
      // An empty message would look like the end to whoever reads.
      if (!end_of_message || link->growing.empty()) return 0;
      link->out.push_back(std::exchange(link->growing, {}));
    } else if (!link->out.empty()) {
      // As few pieces as there can be: a guest may send single bytes.
      std::vector<std::uint8_t>& last = link->out.back();
      last.insert(last.end(), data.begin(), data.end());
      return 0;
    } else if (!data.empty()) {
      link->out.emplace_back(data.begin(), data.end());
    }
    const std::size_t sent = flush(*link);
    if (!link->out.empty() || link->hung_up) update(link);
    return sent;
  }

  Piece read(VsockPorts ports, std::span<std::uint8_t> into) override {
    const LinkPointer& link = links_.at(ports);
    return link->kind == VsockKind::stream ? read_stream(link, into) : read_message(link, into);
  }

  void guest_ended(VsockPorts ports) override {
    const LinkPointer& link = links_.at(ports);
    link->guest_ended = true;
    if (link->out.empty()) ::shutdown(link->fd.get(), SHUT_WR);
  }

  void close(VsockPorts ports) override {
    const auto found = links_.find(ports);
    if (found == links_.end()) return;
    const LinkPointer link = found->second;
    links_.erase(found);
    link->closing = true;
    link->wants_read = false;
    const bool flushes = !link->out.empty() && !link->hung_up && closing_.size() < kMostClosing;
    if (flushes) closing_.insert(link);
    update(link);
  }

 private:
  void post(std::function<void()> work) {
    loop_.post([work = std::move(work), alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired()) work();
    });
  }

  LinkPointer add(VsockPorts ports, VsockKind kind, host::UniqueFd fd) {
    auto link = std::make_shared<Link>();
    link->fd = std::move(fd);
    link->ports = ports;
    link->kind = kind;
    if (kind == VsockKind::seqpacket) {
      // A message of the guest's leaves as a whole.
      const int bytes = 2 * static_cast<int>(kMostMessage);
      ::setsockopt(link->fd.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    links_[ports] = link;
    update(link);
    return link;
  }

  /// Has the loop wait for what the link waits for.
  void update(const LinkPointer& link) {
    post([this, link] { update_on_loop(link); });
  }
  void update_on_loop(const LinkPointer& link) {
    const mem::DomainGuard guard(&domain_);
    if (!link->fd) return;
    if (link->closing && !closing_.contains(link)) {
      link->watch.reset();
      link->fd.reset();
      return;
    }
    if (link->hung_up) return link->watch.reset();
    const auto wanted = static_cast<Events>((link->wants_read ? kReadable : 0) | (link->out.empty() ? 0 : kWritable));
    if (link->watch) return link->watch.set_interest(wanted);
    auto watch = loop_.watch(link->fd.get(), wanted,
                             [this, weak = std::weak_ptr<Link>(link)](Events events) { ready(weak.lock(), events); });
    if (watch)
      link->watch = std::move(*watch);
    else
      log_.warning("vsock: {}", watch.error().text());
  }

  void ready(LinkPointer link, Events events) {
    const mem::DomainGuard guard(&domain_);
    if (!link || !link->fd) return;
    const bool known = !link->closing;
    if (events & kWritable) {
      const std::size_t sent = flush(*link);
      if (known && sent && callbacks_.forwarded) callbacks_.forwarded(link->ports, sent);
    }
    if (events & kHangup) link->hung_up = true;
    if (link->closing) {
      if (link->out.empty() || link->hung_up) closing_.erase(link);
      return update_on_loop(link);
    }
    const bool readable = link->wants_read && (events & (kReadable | kHangup));
    if (readable) link->wants_read = false;
    const bool gone = link->hung_up;
    update_on_loop(link);
    // Each may close it.
    if (readable && callbacks_.readable) callbacks_.readable(link->ports);
    if (gone && !link->closing && callbacks_.gone) callbacks_.gone(link->ports);
  }

  /// Writes what it can; how many bytes of the guest's have gone.
  static std::size_t flush(Link& link) {
    std::size_t done = 0;
    while (!link.out.empty() && !link.hung_up) {
      const std::vector<std::uint8_t>& first = link.out.front();
      const ssize_t sent =
          ::send(link.fd.get(), first.data() + link.out_at, first.size() - link.out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return done;
      // EPIPE, or a message larger than the host takes: lost with the connection, of which the loop hears too.
      if (sent < 0) {
        link.hung_up = true;
        ::shutdown(link.fd.get(), SHUT_RDWR);
        break;
      }
      done += static_cast<std::size_t>(sent);
      link.out_at += static_cast<std::size_t>(sent);
      if (link.out_at < first.size()) continue;
      link.out.pop_front();
      link.out_at = 0;
    }
    if (link.out.empty() && link.guest_ended) ::shutdown(link.fd.get(), SHUT_WR);
    return done;
  }

  Piece read_stream(const LinkPointer& link, std::span<std::uint8_t> into) {
    for (;;) {
      const ssize_t got = ::recv(link->fd.get(), into.data(), into.size(), MSG_DONTWAIT);
      if (got > 0) return {.bytes = static_cast<std::size_t>(got)};
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return none_now(link);
      return {.ended = true};
    }
  }

  Piece read_message(const LinkPointer& link, std::span<std::uint8_t> into) {
    if (link->message_at == link->message.size()) {
      link->message.resize(kMostMessage);
      link->message_at = 0;
      iovec place{link->message.data(), link->message.size()};
      msghdr header{};
      header.msg_iov = &place;
      header.msg_iovlen = 1;
      ssize_t got = -1;
      do got = ::recvmsg(link->fd.get(), &header, MSG_DONTWAIT);
      while (got < 0 && errno == EINTR);
      link->message.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
      if (got < 0 && errno == EAGAIN) return none_now(link);
      if (header.msg_flags & MSG_TRUNC) {
        log_.warning("vsock: a message of more than {} bytes for port {} ends its connection", kMostMessage,
                     link->ports.guest);
        ::shutdown(link->fd.get(), SHUT_RDWR);
        link->message.clear();
        return {.ended = true};
      }
      if (got <= 0) return {.ended = true};
    }
    const std::size_t count = std::min(into.size(), link->message.size() - link->message_at);
    std::memcpy(into.data(), link->message.data() + link->message_at, count);
    link->message_at += count;
    return {.bytes = count, .end_of_message = link->message_at == link->message.size()};
  }

  Piece none_now(const LinkPointer& link) {
    // A peer that is gone sends nothing more.
    if (link->hung_up) return {.ended = true};
    link->wants_read = true;
    update(link);
    return {};
  }

  // ---- connections of the host's ----

  void greet() {
    auto client = listener_->accept();
    if (!client) return log_.warning("vsock: {}", client.error().text());
    if (!*client) return;
    if (greeters_.size() >= kMostGreeters) greeters_.pop_front();
    greeters_.push_back({.fd = std::move(**client), .watch = {}});
    const auto greeter = std::prev(greeters_.end());
    auto watch = loop_.watch(greeter->fd.get(), kReadable, [this, greeter](Events) { read_greeting(greeter); });
    if (!watch) {
      greeters_.erase(greeter);
      return log_.warning("vsock: {}", watch.error().text());
    }
    greeter->watch = std::move(*watch);
  }

  void read_greeting(std::list<Greeter>::iterator greeter) {
    char text[kMostGreeting];
    // What follows the line is the guest's, so look first and take only the line.
    const ssize_t seen = ::recv(greeter->fd.get(), text, sizeof text, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0 && (errno == EAGAIN || errno == EINTR)) return;
    const std::string_view there(text, seen > 0 ? static_cast<std::size_t>(seen) : 0);
    const std::size_t end = there.find('\n');
    const std::string_view taken = there.substr(0, end == std::string_view::npos ? end : end + 1);
    greeter->line += taken;
    if (!taken.empty()) (void)::recv(greeter->fd.get(), text, taken.size(), MSG_DONTWAIT);
    if (end != std::string_view::npos) {
      const std::string line = greeter->line.substr(0, greeter->line.size() - 1);
      greeter->watch.reset();
      host::UniqueFd fd = std::move(greeter->fd);
      greeters_.erase(greeter);
      start(std::move(fd), line);
    } else if (there.empty() || greeter->line.size() >= kMostGreeting) {
      greeters_.erase(greeter);
    }
  }

  /// What is no greeting is hung up on.
  void start(host::UniqueFd fd, std::string_view line) {
    constexpr std::string_view kConnect = "CONNECT ";
    std::uint32_t port = 0;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with(kConnect)) return;
    line.remove_prefix(kConnect.size());
    const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), port);
    if (error != std::errc() || stop != line.data() + line.size()) return;
    const mem::DomainGuard guard(&domain_);
    if (!callbacks_.incoming) return;
    if (const auto host_port = callbacks_.incoming(port, VsockKind::stream))
      add({port, *host_port}, VsockKind::stream, std::move(fd));
  }

  host::EventLoop& loop_;
  Log& log_;
  mem::LockDomain& domain_;
  std::string path_;
  std::shared_ptr<bool> alive_;
  std::optional<host::Listener> listener_;
  host::EventLoop::Watch listening_;
  std::list<Greeter> greeters_;  // on the loop
  // Under the domain.
  Callbacks callbacks_;
  std::map<VsockPorts, LinkPointer> links_;
  std::set<LinkPointer> closing_;
};

}  // namespace

Result<std::unique_ptr<core::VsockBackend>> open_vsock_sockets(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                               const std::string& path) {
  auto sockets = std::make_unique<VsockSockets>(loop, log, domain, path);
  HUSK_TRY(sockets->open());
  return sockets;
}

}  // namespace husk::netdev
