// husk: the out-of-line parts of result.h and check.h
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/result.h"

namespace husk {

std::unexpected<Error> fail_errno(int errno_value, const std::string& what) {
  // strerrordesc_np is thread-safe and locale-free, unlike strerror.
  const char* reason = strerrordesc_np(errno_value);
  return std::unexpected(Error{what + ": " + (reason ? reason : "unknown error"), {}});
}

void check_failed(const char* file, int line, std::string_view condition) {
  std::fprintf(stderr, "husk: %s:%d: broken invariant: %.*s\n", file, line, static_cast<int>(condition.size()),
               condition.data());
  std::abort();
}

}  // namespace husk
