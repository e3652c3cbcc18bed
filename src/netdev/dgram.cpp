// husk: a network over a datagram socket, one frame each
#include "netdev/dgram.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "host/unique_fd.h"
#include "netdev/fd_backend.h"

namespace husk::netdev {

namespace {

constexpr unsigned kBatch = 64;

struct RawAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  bool multicast() const {
    return family() == AF_INET && IN_MULTICAST(ntohl(reinterpret_cast<const sockaddr_in&>(storage).sin_addr.s_addr));
  }
};

Result<RawAddress> resolve(const host::SocketAddress& address, bool passive) {
  RawAddress raw;
  if (const auto* local = std::get_if<host::UnixAddress>(&address)) {
    auto& name = reinterpret_cast<sockaddr_un&>(raw.storage);
    name.sun_family = AF_UNIX;
    if (local->path.empty() || local->path.size() + 1 > sizeof name.sun_path)
      return std::unexpected(Error{fmt::format("the unix socket path '{}' is empty or too long", local->path),
                                   fmt::format("give 1 to {} bytes", sizeof name.sun_path - 1)});
    std::memcpy(name.sun_path + (local->abstract ? 1 : 0), local->path.data(), local->path.size());
    raw.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + local->path.size() + 1);
    return raw;
  }
  const auto& udp = std::get<host::TcpAddress>(address);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(udp.host.empty() ? nullptr : udp.host.c_str(), std::to_string(udp.port).c_str(), &hints, &found);
  if (error != 0)
    return std::unexpected(Error{fmt::format("cannot find host '{}': {}", udp.host, ::gai_strerror(error)),
                                 "check the name, or give a numeric address"});
  std::memcpy(&raw.storage, found->ai_addr, found->ai_addrlen);
  raw.length = found->ai_addrlen;
  ::freeaddrinfo(found);
  return raw;
}

class Dgram final : public FdBackend {
 public:
  Dgram(host::EventLoop& loop, Log& log, mem::LockDomain& domain, DgramOptions options)
      : FdBackend(loop, domain), log_(log), options_(std::move(options)), buffer_(kMostFrame) {}
  ~Dgram() override {
    watch_.reset();
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  Status open() {
    if (options_.descriptor >= 0)
      HUSK_TRY(adopt());
    else
      HUSK_TRY(make());
    watch_ = HUSK_TRY(
        loop_.watch(fd_.get(), host::EventLoop::kReadable, [this](host::EventLoop::Events events) { ready(events); }));
    return {};
  }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload&) override {
    if (options_.descriptor < 0 && !to_.length) return;
    // A peer that is not there, or not fast enough, misses it.
    while (::sendto(fd_.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                    to_.length ? to_.get() : nullptr, to_.length) < 0 &&
           errno == EINTR) {
    }
  }

 private:
  Status adopt() {
    fd_.reset(options_.descriptor);
    int type = 0;
    socklen_t length = sizeof type;
    if (::getsockopt(fd_.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_DGRAM)
      return std::unexpected(
          Error{fmt::format("descriptor {} is no datagram socket", fd_.get()), "pass one, or use stream"});
    ::fcntl(fd_.get(), F_SETFD, FD_CLOEXEC);
    return host::set_nonblocking(fd_.get(), true);
  }

  Status make() {
    if (options_.remote) to_ = HUSK_TRY(resolve(*options_.remote, false));
    if (to_.multicast()) return join();
    if (!options_.local)
      return std::unexpected(Error{"a datagram network has no local address", "say where frames are to come in"});
    const RawAddress at = HUSK_TRY(resolve(*options_.local, true));
    if (to_.length && to_.family() != at.family())
      return std::unexpected(Error{fmt::format("{} and {} are addresses of two kinds", host::to_text(*options_.local),
                                               host::to_text(*options_.remote)),
                                   "give two unix sockets, or two internet addresses of one kind"});
    fd_.reset(::socket(at.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd_) return fail_errno(errno, "cannot create a datagram socket");
    const auto* local = std::get_if<host::UnixAddress>(&*options_.local);
    if (local && !local->abstract) HUSK_TRY(remove_stale(local->path, at));
    if (::bind(fd_.get(), at.get(), at.length) != 0)
      return fail_errno(errno, "cannot receive at " + host::to_text(*options_.local));
    if (local && !local->abstract) path_ = local->path;
    return {};
  }

  /// IPv4 only, as in QEMU. Our own frames come back, for there may be another machine on this host.
  Status join() {
    fd_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd_) return fail_errno(errno, "cannot create a datagram socket");
    const int on = 1;
    ip_mreq group{};
    group.imr_multiaddr = reinterpret_cast<const sockaddr_in&>(to_.storage).sin_addr;
    if (options_.local) {
      const RawAddress at = HUSK_TRY(resolve(*options_.local, true));
      if (at.family() != AF_INET) return fail("{} is no IPv4 address of an interface", host::to_text(*options_.local));
      group.imr_interface = reinterpret_cast<const sockaddr_in&>(at.storage).sin_addr;
    }
    const std::string name = host::to_text(*options_.remote);
    if (::setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(fd_.get(), to_.get(), to_.length) != 0)
      return fail_errno(errno, "cannot receive what is sent to the group " + name);
    if (::setsockopt(fd_.get(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) != 0)
      return fail_errno(errno, "cannot join the multicast group " + name);
    ::setsockopt(fd_.get(), IPPROTO_IP, IP_MULTICAST_LOOP, &on, sizeof on);
    if (options_.local &&
        ::setsockopt(fd_.get(), IPPROTO_IP, IP_MULTICAST_IF, &group.imr_interface, sizeof group.imr_interface) != 0)
      return fail_errno(errno, "cannot send to the group from " + host::to_text(*options_.local));
    return {};
  }

  static Status remove_stale(const std::string& path, const RawAddress& at) {
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) return {};
    const host::UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!S_ISSOCK(status.st_mode) || ::connect(probe.get(), at.get(), at.length) == 0 || errno != ECONNREFUSED)
      return std::unexpected(
          Error{fmt::format("cannot receive at '{}': it is in use, or no datagram socket", path), "give another path"});
    ::unlink(path.c_str());
    return {};
  }

  void ready(host::EventLoop::Events events) {
    if (held_) {
      // Nothing is waited for but an error, which asking for it clears.
      int error = 0;
      socklen_t length = sizeof error;
      ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
      if (error == 0) watch_.reset();
      return;
    }
    for (unsigned i = 0; i < kBatch; ++i) {
      const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (got < 0 && (errno == EINTR || errno == ECONNREFUSED)) continue;  // the latter: news of what we sent
      if (got < 0) {
        if (errno == EAGAIN && !(events & host::EventLoop::kHangup)) return;
        if (errno == EAGAIN && i != 0) return;  // it was such news
        log_.warning("network: the datagram socket is gone: {}", std::strerror(errno));
        watch_.reset();
        return set_link(false);
      }
      const auto length = static_cast<std::size_t>(got);
      if (!length || offer({buffer_.data(), length}, {})) continue;
      held_ = length;
      return watch_.set_interest(0);
    }
  }
  void resume() override {
    if (!held_ || !offer({buffer_.data(), held_}, {})) return;
    held_ = 0;
    if (watch_) watch_.set_interest(host::EventLoop::kReadable);
  }

  Log& log_;
  DgramOptions options_;
  host::UniqueFd fd_;
  std::string path_;
  RawAddress to_;
  host::EventLoop::Watch watch_;
  std::vector<std::uint8_t> buffer_;
  std::size_t held_ = 0;
};

}  // namespace

Result<std::unique_ptr<core::NetBackend>> open_dgram(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                     DgramOptions options) {
  auto dgram = std::make_unique<Dgram>(loop, log, domain, std::move(options));
  HUSK_TRY(dgram->open());
  return dgram;
}

}  // namespace husk::netdev
