// husk: the logging front; where lines go is decided by whoever makes the Log
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

namespace husk {

enum class LogLevel { error, warning, info, debug };

/// One machine's (or test's) log. Thread-safe as long as the sink is.
class Log {
 public:
  using Sink = std::function<void(LogLevel, std::string_view line)>;

  /// A log without a sink drops everything.
  explicit Log(Sink sink = {}, LogLevel most = LogLevel::info) : sink_(std::move(sink)), most_(most) {}

  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) {
    emit(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) {
    emit(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    if (sink_ && most_ >= LogLevel::info) emit(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) {
    if (sink_ && most_ >= LogLevel::debug) emit(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
  }

  /// Something the guest did that real hardware would ignore or answer with garbage. Shown at debug level only, and
  /// at most kGuestErrorLimit times in a machine's life, so that a hostile guest cannot fill a disk.
  template <class... Args>
  void guest_error(fmt::format_string<Args...> format, Args&&... args) {
    if (!sink_ || most_ < LogLevel::debug) return;
    const auto count = guest_errors_.fetch_add(1, std::memory_order_relaxed);
    if (count < kGuestErrorLimit) emit(LogLevel::debug, "guest error: " + fmt::format(format, std::forward<Args>(args)...));
    else if (count == kGuestErrorLimit) emit(LogLevel::debug, "guest error: further ones are not shown");
  }

  static constexpr unsigned kGuestErrorLimit = 1000;

 private:
  void emit(LogLevel level, std::string_view line) {
    if (sink_ && level <= most_) sink_(level, line);
  }

  Sink sink_;
  LogLevel most_;
  std::atomic<unsigned> guest_errors_{0};
};

}  // namespace husk
