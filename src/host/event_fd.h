// husk: an eventfd: wakes whoever polls it
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "host/unique_fd.h"

namespace husk::host {

/// A nonblocking counter that is readable while not zero.
class EventFd {
 public:
  static Result<EventFd> create();

  /// From any thread, and from a signal handler. Never blocks: a counter at its limit is readable as it is.
  void signal(std::uint64_t add = 1) const;
  /// Takes the counter to zero; returns what it was.
  std::uint64_t take() const;
  int fd() const { return fd_.get(); }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace husk::host
