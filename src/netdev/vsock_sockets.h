// husk: a guest's vsock connections as unix sockets of the host
#pragma once

#include <memory>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "core/vsock_backend.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

/// As Firecracker and Cloud Hypervisor have it. A program of the host connects to the stream socket at `path`, writes
/// "CONNECT PORT\n" and, when the guest has taken it, reads "OK HOSTPORT\n"; then the connection is the guest's. What
/// the guest connects to on port P of the host goes to a socket that listens at `path`_P, a stream or seqpacket one as
/// the guest wants.
///
/// To be destroyed on the loop's thread, or while none runs it.
Result<std::unique_ptr<core::VsockBackend>> open_vsock_sockets(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                               const std::string& path);

}  // namespace husk::netdev
