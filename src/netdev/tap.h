// husk: a network card of the host's kernel (tap) as the other end of the guest's
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

struct TapOptions {
  std::string interface = {};         ///< empty: the host numbers one, "tap0"
  std::vector<int> descriptors = {};  ///< of a tap that is open already, one a queue; taken over
  unsigned queues = 1;                ///< 1 to kMostTapQueues; with descriptors, as many as there are
  bool offloads = true;               ///< checksums and segmentation are left to the host (IFF_VNET_HDR)
  std::string script = {};            ///< run with the interface's name once it is there; empty: none
  std::string down_script = {};       ///< run in the end
  std::string helper = {};            ///< makes the tap on a bridge, as QEMU's qemu-bridge-helper does
  std::string bridge = {};            ///< with `helper`
};
inline constexpr unsigned kMostTapQueues = 64;

/// Fails with what is to be done if the host does not permit it. Frames of queue pair N of the card go by queue N of
/// the tap, and back.
Result<std::unique_ptr<core::NetBackend>> open_tap(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                   TapOptions options);

}  // namespace husk::netdev
