// husk: for tests: turns a loop until something has happened
#pragma once

#include <cstdint>
#include <functional>

#include "host/event_loop.h"

namespace husk::netdev {

/// False if it has not after five seconds.
inline bool run_until(host::EventLoop& loop, const std::function<bool()>& so) {
  const std::uint64_t end = host::monotonic_now() + 5'000'000'000;
  while (!so()) {
    if (host::monotonic_now() > end) return false;
    loop.run_once(10'000'000);
  }
  return true;
}

}  // namespace husk::netdev
