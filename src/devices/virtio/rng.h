// husk: virtio-rng: entropy for the guest
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct RngState {
  CommonState common;
  std::uint64_t period_end = 0;   ///< VM time at which the quota is refilled
  std::uint64_t period_used = 0;  ///< bytes given in this period
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "common", &RngState::common), field(2, "period_end", &RngState::period_end),
                      field(3, "period_used", &RngState::period_used)};
  }
};

/// Virtio 1.2, 5.4: one queue, whose buffers are filled with random bytes.
class Rng final : public Base<RngState> {
 public:
  struct Config {
    std::string id = "virtio_rng0";
    /// At most so many bytes each `period_ns`; none: no limit.
    std::optional<std::uint64_t> max_bytes = {};
    std::uint64_t period_ns = 65'536'000'000;  ///< QEMU's default
    RingOptions ring = {};
  };
  /// Fills the span; called with the device's lock held, so it must not wait.
  using Source = std::function<void(std::span<std::uint8_t>)>;
  Rng(Environment environment, Source source, Config config);

 private:
  void handle_queue(unsigned queue) override;
  Status validate_device(const RngState&) const override { return {}; }
  void loaded() override { arm(); }
  void device_reset() override;
  void arm();
  std::uint64_t allowed();

  Config config_;
  Source source_;
  std::unique_ptr<core::Timer> refill_;
};

}  // namespace husk::devices::virtio
