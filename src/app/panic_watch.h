// husk: notices a Linux panic in what a guest prints on its console
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/backends.h"

namespace husk::app {

/// Passes everything through, and calls `panicked` once when the guest has printed the last line of a panic
/// ("---[ end Kernel panic - not syncing: ... ]---"), after which Linux does nothing more but blink.
class PanicWatch final : public core::CharBackend {
 public:
  PanicWatch(std::unique_ptr<core::CharBackend> inner, std::function<void()> panicked)
      : inner_(std::move(inner)), panicked_(std::move(panicked)) {}

  std::size_t write(std::span<const std::uint8_t> data) override {
    const std::size_t taken = inner_->write(data);
    for (const std::uint8_t byte : data.first(taken)) look(static_cast<char>(byte));
    return taken;
  }
  void set_callbacks(Callbacks callbacks) override { inner_->set_callbacks(std::move(callbacks)); }
  void set_read_credit(std::size_t bytes) override { inner_->set_read_credit(bytes); }
  void send_break() override { inner_->send_break(); }

 private:
  static constexpr std::string_view kMark = "---[ end Kernel panic";
  void look(char c) {
    if (seen_ < kMark.size()) {
      seen_ = c == kMark[seen_] ? seen_ + 1 : (c == kMark[0] ? 1 : 0);
      return;
    }
    // The whole line goes out first.
    if (c == '\n' && panicked_) std::exchange(panicked_, nullptr)();
  }
  std::unique_ptr<core::CharBackend> inner_;
  std::function<void()> panicked_;
  std::size_t seen_ = 0;
};

}  // namespace husk::app
