// husk: the contract between a persistent memory device and what keeps its contents
#pragma once

#include <functional>

#include "mem/ram_region.h"

namespace husk::core {

/// Guest memory whose contents outlive the machine. Calls and completions with the device's lock domain held, on any
/// thread.
class PersistentMemory {
 public:
  /// Only after drain().
  virtual ~PersistentMemory() = default;
  virtual mem::RamRegion& region() = 0;
  /// What was in the region before the call is to be on stable storage. `completion` is called exactly once, possibly
  /// before flush() returns, and told whether it is.
  virtual void flush(std::move_only_function<void(bool stable)> completion) = 0;
  /// Returns when no flush is under way. The one call that must be made without the domain, on which completions wait.
  virtual void drain() = 0;
};

}  // namespace husk::core
