// husk: the out-of-line parts of result.h and check.h
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/result.h"

namespace husk {

namespace {
/// What helps against it wherever it comes from; a caller who knows better sets a next step of its own.
const char* usual_next_step(int errno_value) {
  switch (errno_value) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG: return "check the path";
    case EISDIR:
    case ENXIO: return "name a file";
    case EACCES:
    case EPERM: return "check who may do that, or do it as another user";
    case EROFS: return "choose another place";
    case ENOSPC:
    case EDQUOT: return "make room there";
    case EADDRINUSE: return "choose another address, or end what uses this one";
    case EADDRNOTAVAIL: return "choose an address of this host";
    case ECONNREFUSED: return "start what is to listen there first";
    case EMFILE:
    case ENFILE: return "raise the limit of open files (ulimit -n)";
    case ENOMEM: return "end other programs, or ask for less";
    default: return "";
  }
}
}  // namespace

std::unexpected<Error> fail_errno(int errno_value, const std::string& what) {
  // strerrordesc_np is thread-safe and locale-free, unlike strerror.
  const char* reason = strerrordesc_np(errno_value);
  return std::unexpected(Error{what + ": " + (reason ? reason : "unknown error"), usual_next_step(errno_value)});
}

void check_failed(const char* file, int line, std::string_view condition) {
  std::fprintf(stderr, "husk: %s:%d: broken invariant: %.*s\n", file, line, static_cast<int>(condition.size()),
               condition.data());
  std::abort();
}

}  // namespace husk
