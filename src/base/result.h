// husk: Result<T> and Error, how every failure that a guest, file, peer or user can cause is reported
#pragma once

#include <fmt/format.h>

#include <expected>
#include <string>
#include <utility>

namespace husk {

/// Why something could not be done. `message` is one sentence for the user: what was asked, with values, and why it
/// failed; `next_step` says what to do about it and may be empty.
struct Error {
  std::string message;
  std::string next_step;

  /// "message" or "message; next_step", as shown to the user.
  std::string text() const { return next_step.empty() ? message : message + "; " + next_step; }

  /// The same error with "context: " before its message.
  Error within(const std::string& context) && {
    message.insert(0, context + ": ");
    return std::move(*this);
  }
};

template <class T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

/// An unexpected Error made from a format string.
template <class... Args>
std::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{fmt::format(format, std::forward<Args>(args)...), {}});
}

/// An Error of an operating system call: "WHAT: strerror(errno_value)", with the next step that usually helps.
std::unexpected<Error> fail_errno(int errno_value, const std::string& what);

}  // namespace husk

#define HUSK_TRY_NAMED(result, expression)                                          \
  ({                                                                                \
    auto result = (expression);                                                     \
    if (!result) [[unlikely]]                                                       \
      return std::unexpected(std::move(result).error());                            \
    ::husk::detail::unwrap(std::move(result));                                      \
  })
#define HUSK_TRY_NUMBERED(number, expression) HUSK_TRY_NAMED(husk_try_result_##number, expression)
#define HUSK_TRY_EXPANDED(number, expression) HUSK_TRY_NUMBERED(number, expression)
/// Evaluates to the value of a Result, or returns its error from the enclosing function.
#define HUSK_TRY(expression) HUSK_TRY_EXPANDED(__COUNTER__, expression)

namespace husk::detail {
template <class T>
T unwrap(Result<T>&& result) {
  return *std::move(result);
}
inline void unwrap(Status&&) {}
}  // namespace husk::detail
