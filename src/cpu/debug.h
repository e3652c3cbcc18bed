// husk: what a debugger asks of a CPU, whatever runs it
#pragma once

#include <cstdint>
#include <vector>

namespace husk::cpu {

/// A debugger's break and watch points, independent of the guest's own debug registers.
struct DebugRequest {
  bool single_step = false;
  std::vector<std::uint64_t> breakpoints;  ///< linear addresses
  struct Watch {
    std::uint64_t address;
    std::uint64_t length;
    bool read, write;
  };
  std::vector<Watch> watchpoints;
  bool any() const { return single_step || !breakpoints.empty() || !watchpoints.empty(); }
};

}  // namespace husk::cpu
