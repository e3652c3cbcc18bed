// husk: a network over a stream socket, each frame behind its length (QEMU's -netdev stream and socket)
#pragma once

#include <memory>
#include <optional>

#include "base/log.h"
#include "base/result.h"
#include "core/net_backend.h"
#include "host/event_loop.h"
#include "host/socket.h"
#include "host/unique_fd.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

struct StreamOptions {
  host::SocketAddress address = {};
  int descriptor = -1;  ///< instead of the address: a connected socket, taken over
  bool server = false;  ///< waits for a peer, one at a time; the next may come when it has gone
  std::uint64_t reconnect =
      0;  ///< ns between attempts of a client to connect; 0: one attempt, and none when it is lost
};

/// The link is up while a peer is connected. A client without `reconnect` fails if the peer is not there.
Result<std::unique_ptr<core::NetBackend>> open_stream(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                      StreamOptions options);

}  // namespace husk::netdev
