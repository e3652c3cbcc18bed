// husk: nonblocking stream sockets, listening and connected
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "host/unique_fd.h"

namespace husk::host {

struct UnixAddress {
  std::string path;
  bool abstract = false;  ///< a name without a file (Linux); `path` goes without the leading NUL
  bool operator==(const UnixAddress&) const = default;
};
/// A host name or number; an empty one listens on every address, and connects to this machine. Port 0 lets the host
/// choose a free one when listening.
struct TcpAddress {
  std::string host;
  std::uint16_t port = 0;
  bool operator==(const TcpAddress&) const = default;
};
using SocketAddress = std::variant<UnixAddress, TcpAddress>;

/// "unix:/path", "tcp:host:port".
std::string to_text(const SocketAddress& address);

/// A listening socket. A unix socket's file is removed with the object.
class Listener {
 public:
  /// A stale socket file at a unix path (nobody listens on it) is replaced; one in use, or anything else, is refused.
  static Result<Listener> listen(const SocketAddress& address);
  Listener(Listener&&) = default;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  /// The next client, nonblocking; nothing if there is none now.
  Result<std::optional<UniqueFd>> accept();
  /// The address in use, with the port that the host chose.
  const SocketAddress& address() const { return address_; }
  int fd() const { return fd_.get(); }

 private:
  Listener(UniqueFd fd, SocketAddress address) : fd_(std::move(fd)), address_(std::move(address)) {}
  UniqueFd fd_;
  SocketAddress address_;
};

/// A connection under way.
class Connecting {
 public:
  /// Begins to connect, nonblocking. Looks a host name up, which may take time; numbers and unix paths do not.
  static Result<Connecting> begin(const SocketAddress& address);
  /// After fd() has become writable: the connected socket, or why not. Of several addresses of a name, the next one may
  /// be under way now: then nothing, and fd() has changed.
  Result<std::optional<UniqueFd>> finish();
  int fd() const { return fd_.get(); }

 private:
  Connecting() = default;
  Result<bool> next();
  std::vector<std::vector<std::uint8_t>> candidates_;  // raw sockaddrs
  std::size_t at_ = 0;
  UniqueFd fd_;
  int last_errno_ = 0;
  bool connected_ = false;
  std::string name_;
};

/// Connects and waits for it at most `timeout_ms`.
Result<UniqueFd> connect_socket(const SocketAddress& address, int timeout_ms = 30'000);

/// Switches Nagle's delay off. Does nothing on sockets that have none.
void set_no_delay(int fd);
Status set_nonblocking(int fd, bool on);

}  // namespace husk::host
