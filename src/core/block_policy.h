// husk: what a disk device does about an error of its backend
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>

namespace husk::core {

/// `enospc` stops the machine when the store is full, and reports all else.
enum class OnBlockError : std::uint8_t { report, ignore, stop, enospc };
enum class BlockErrorAction : std::uint8_t { report, ignore, stop };

/// The defaults are QEMU's.
struct BlockErrorPolicy {
  OnBlockError read = OnBlockError::report;
  OnBlockError write = OnBlockError::enospc;  ///< also flush, discard and write_zeroes
  bool operator==(const BlockErrorPolicy&) const = default;

  BlockErrorAction action(bool writing, int error) const {
    // What the guest asked wrongly stays wrong however often it is tried, and ECANCELED means that the backend is gone.
    if (error == EINVAL || error == EROFS || error == ENOTSUP || error == ECANCELED) return BlockErrorAction::report;
    switch (writing ? write : read) {
      case OnBlockError::report: return BlockErrorAction::report;
      case OnBlockError::ignore: return BlockErrorAction::ignore;
      case OnBlockError::stop: return BlockErrorAction::stop;
      case OnBlockError::enospc: return error == ENOSPC ? BlockErrorAction::stop : BlockErrorAction::report;
    }
    return BlockErrorAction::report;
  }
};

/// Asks for the machine to be stopped because of an error (an errno value). Called with the device's lock domain held.
using BlockStop = std::function<void(int error, bool writing)>;

}  // namespace husk::core
