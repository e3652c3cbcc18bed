// husk: nonblocking stream sockets, listening and connected
#include "host/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "host/event_loop.h"

namespace husk::host {
namespace {

using RawAddress = std::vector<std::uint8_t>;

RawAddress raw_address(const void* from, std::size_t length) {
  const auto* bytes = static_cast<const std::uint8_t*>(from);
  return RawAddress(bytes, bytes + length);
}
const sockaddr* as_sockaddr(const RawAddress& raw) { return reinterpret_cast<const sockaddr*>(raw.data()); }

Result<RawAddress> resolve(const UnixAddress& address) {
  sockaddr_un raw{};
  raw.sun_family = AF_UNIX;
  const std::size_t lead = address.abstract ? 1 : 0;
  // A path needs its NUL, an abstract name its leading one.
  if (address.path.empty()) return fail("a unix socket needs a path");
  if (address.path.size() + 1 > sizeof raw.sun_path)
    return std::unexpected(Error{fmt::format("unix socket path '{}' is {} bytes long; the host allows {}", address.path,
                                             address.path.size(), sizeof raw.sun_path - 1),
                                 "use a shorter path"});
  if (address.path.find('\0') != std::string::npos) return fail("a unix socket path may not contain a NUL byte");
  std::memcpy(raw.sun_path + lead, address.path.data(), address.path.size());
  // Either way one byte more than the name: the NUL after a path, or the one before an abstract name.
  return raw_address(&raw, offsetof(sockaddr_un, sun_path) + address.path.size() + 1);
}

Result<std::vector<RawAddress>> resolve(const TcpAddress& address, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                                  std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0)
    return std::unexpected(Error{fmt::format("cannot find host '{}': {}", address.host, ::gai_strerror(error)),
                                 "check the name, or give a numeric address"});
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, &::freeaddrinfo);
  std::vector<RawAddress> list;
  for (const addrinfo* one = found; one; one = one->ai_next) list.push_back(raw_address(one->ai_addr, one->ai_addrlen));
  return list;
}

Result<std::vector<RawAddress>> resolve(const SocketAddress& address, bool passive) {
  if (const auto* local = std::get_if<UnixAddress>(&address)) return std::vector<RawAddress>{HUSK_TRY(resolve(*local))};
  return resolve(std::get<TcpAddress>(address), passive);
}

Result<UniqueFd> new_socket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "cannot create a socket");
  return fd;
}

/// Removes the file of a unix socket that nobody listens on any more.
Status remove_stale(const std::string& path, const RawAddress& raw) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode))
    return std::unexpected(Error{fmt::format("cannot listen on '{}': something that is not a socket is there", path),
                                 "remove it or give another path"});
  const UniqueFd probe = HUSK_TRY(new_socket(AF_UNIX));
  if (::connect(probe.get(), as_sockaddr(raw), static_cast<socklen_t>(raw.size())) == 0 || errno != ECONNREFUSED)
    return std::unexpected(Error{fmt::format("cannot listen on '{}': another program listens there", path),
                                 "end it or give another path"});
  ::unlink(path.c_str());
  return {};
}

}  // namespace

std::string to_text(const SocketAddress& address) {
  if (const auto* local = std::get_if<UnixAddress>(&address))
    return fmt::format("unix:{}{}", local->abstract ? "@" : "", local->path);
  const auto& tcp = std::get<TcpAddress>(address);
  const bool v6 = tcp.host.find(':') != std::string::npos;
  return fmt::format("tcp:{}{}{}:{}", v6 ? "[" : "", tcp.host, v6 ? "]" : "", tcp.port);
}

void set_no_delay(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Status set_nonblocking(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) != 0)
    return fail_errno(errno, fmt::format("cannot change the mode of descriptor {}", fd));
  return {};
}

Result<Listener> Listener::listen(const SocketAddress& address) {
  const auto candidates = HUSK_TRY(resolve(address, true));
  const auto* local = std::get_if<UnixAddress>(&address);
  if (local && !local->abstract) HUSK_TRY(remove_stale(local->path, candidates.front()));
  int last_errno = 0;
  for (const RawAddress& raw : candidates) {
    const int family = as_sockaddr(raw)->sa_family;
    UniqueFd fd = HUSK_TRY(new_socket(family));
    const int on = 1;
    if (!local) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), as_sockaddr(raw), static_cast<socklen_t>(raw.size())) != 0 || ::listen(fd.get(), 16) != 0) {
      last_errno = errno;
      continue;
    }
    SocketAddress actual = address;
    if (auto* tcp = std::get_if<TcpAddress>(&actual)) {
      sockaddr_storage bound{};
      socklen_t length = sizeof bound;
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length);
      tcp->port = ntohs(family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<sockaddr_in&>(bound).sin_port);
    }
    return Listener(std::move(fd), std::move(actual));
  }
  return fail_errno(last_errno, "cannot listen on " + to_text(address));
}

Listener::~Listener() {
  const auto* local = std::get_if<UnixAddress>(&address_);
  if (fd_ && local && !local->abstract) ::unlink(local->path.c_str());
}

Result<std::optional<UniqueFd>> Listener::accept() {
  for (;;) {
    UniqueFd client(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (client) return client;
    switch (errno) {
      case EINTR:
      case ECONNABORTED: continue;  // that client is gone; there may be another
      case EAGAIN: return std::nullopt;
      default: return fail_errno(errno, "cannot accept a connection on " + to_text(address_));
    }
  }
}

Result<Connecting> Connecting::begin(const SocketAddress& address) {
  Connecting connecting;
  connecting.candidates_ = HUSK_TRY(resolve(address, false));
  connecting.name_ = to_text(address);
  if (!HUSK_TRY(connecting.next())) return fail_errno(connecting.last_errno_, "cannot connect to " + connecting.name_);
  return connecting;
}

Result<bool> Connecting::next() {
  while (at_ < candidates_.size()) {
    const RawAddress& raw = candidates_[at_++];
    fd_ = HUSK_TRY(new_socket(as_sockaddr(raw)->sa_family));
    if (::connect(fd_.get(), as_sockaddr(raw), static_cast<socklen_t>(raw.size())) == 0) {
      connected_ = true;
      return true;
    }
    // EAGAIN on a unix socket: its queue is full, and connecting again is the only way to wait. Count it as refused.
    if (errno == EINPROGRESS || errno == EINTR) return true;
    last_errno_ = errno;
  }
  return false;
}

Result<std::optional<UniqueFd>> Connecting::finish() {
  if (!connected_) {
    int error = 0;
    socklen_t length = sizeof error;
    ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
      last_errno_ = error;
      if (HUSK_TRY(next())) return std::nullopt;
      return fail_errno(last_errno_, "cannot connect to " + name_);
    }
  }
  return std::optional(std::move(fd_));
}

Result<UniqueFd> connect_socket(const SocketAddress& address, int timeout_ms) {
  Connecting connecting = HUSK_TRY(Connecting::begin(address));
  const std::uint64_t end = monotonic_now() + static_cast<std::uint64_t>(timeout_ms) * 1'000'000u;
  for (;;) {
    const std::uint64_t now = monotonic_now();
    pollfd waiting{connecting.fd(), POLLOUT, 0};
    const int left = now >= end ? 0 : static_cast<int>((end - now + 999'999u) / 1'000'000u);
    const int ready = ::poll(&waiting, 1, left);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return fail("cannot connect to {}: no answer within {} s", to_text(address), timeout_ms / 1000);
    if (auto fd = HUSK_TRY(connecting.finish())) return std::move(*fd);
  }
}

}  // namespace husk::host
