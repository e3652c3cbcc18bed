// husk: an eventfd: wakes whoever polls it
#include "host/event_fd.h"

#include <sys/eventfd.h>

#include <cerrno>

namespace husk::host {

Result<EventFd> EventFd::create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return fail_errno(errno, "cannot create an eventfd");
  return EventFd(std::move(fd));
}

void EventFd::signal(std::uint64_t add) const {
  const int saved = errno;
  [[maybe_unused]] const auto written = ::write(fd_.get(), &add, sizeof add);
  errno = saved;
}

std::uint64_t EventFd::take() const {
  std::uint64_t count = 0;
  if (::read(fd_.get(), &count, sizeof count) != sizeof count) return 0;
  return count;
}

}  // namespace husk::host
