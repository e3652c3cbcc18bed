// husk: a network by passt, which carries a guest's connections with the host's own sockets and addresses
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "core/net_backend.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

/// Starts `program` (looked for in PATH) with `arguments` and talks to it over a socket of its own; it ends when the
/// network goes.
Result<std::unique_ptr<core::NetBackend>> open_passt(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                     const std::string& program,
                                                     const std::vector<std::string>& arguments);

}  // namespace husk::netdev
