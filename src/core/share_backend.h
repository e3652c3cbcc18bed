// husk: the contract between a shared-file-system device and the FUSE server that answers its requests
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"

namespace husk::core {

/// A piece of guest memory. The guest may change it at any time: read what is decided on once.
using ShareSpan = std::span<std::uint8_t>;

/// One request of the FUSE protocol (Linux' include/uapi/linux/fuse.h), little-endian.
struct ShareRequest {
  /// What the guest sent: fuse_in_header, arguments, data. Only read.
  std::span<const ShareSpan> in;
  /// Where the answer goes: fuse_out_header, results, data. Lists and memory stay valid until the completion is called.
  std::span<const ShareSpan> out;
  /// Called exactly once, possibly before submit() returns: how many bytes of `out` were written, from its start on. 0:
  /// there is no answer (FORGET), or what came was no request.
  std::move_only_function<void(std::uint64_t written)> completion;
};

/// A FUSE server for one device. Calls and completions with the device's lock domain held, on any thread.
class ShareBackend {
 public:
  /// Only after drain().
  virtual ~ShareBackend() = default;
  virtual void submit(ShareRequest request) = 0;
  /// The driver is gone: forgets everything that it looked up, opened and locked. Requests under way still complete,
  /// soon.
  virtual void reset() = 0;
  /// Returns when no request is under way any more. Those that wait for a lock are completed with EINTR. The one call
  /// that must be made without the domain, on which completions wait.
  virtual void drain() = 0;
  /// What the driver was told of (node numbers, open files), to go on elsewhere; nothing if no session is open. With no
  /// request under way.
  virtual std::vector<std::uint8_t> save() = 0;
  /// The opposite. A state that save() cannot have made is refused, and the session is as it was; files that cannot be
  /// found any more fail later, one by one.
  virtual Status load(std::span<const std::uint8_t> state) = 0;
};

}  // namespace husk::core
