// husk: a network over a datagram socket, one frame each (QEMU's -netdev dgram and socket)
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "base/log.h"
#include "base/result.h"
#include "core/net_backend.h"
#include "host/event_loop.h"
#include "host/socket.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

struct DgramOptions {
  /// Where frames come in. Of a multicast group: the address of the interface, if it matters.
  std::optional<host::SocketAddress> local = {};
  /// Where they go; none: the guest only listens. A multicast address joins the group.
  std::optional<host::SocketAddress> remote = {};
  int descriptor = -1;  ///< instead of both: a socket that knows where its datagrams go, taken over
};

/// Nothing tells whether a peer is there, so the link is always up. Both addresses are of one kind; a path that another
/// program left behind is replaced, and ours removed in the end.
Result<std::unique_ptr<core::NetBackend>> open_dgram(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                     DgramOptions options);

}  // namespace husk::netdev
