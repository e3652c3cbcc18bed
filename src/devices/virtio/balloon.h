// husk: virtio-balloon: the guest gives memory back to the host
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct BalloonState {
  CommonState common;
  std::uint32_t target = 0;  ///< pages of 4 KiB that the host wants
  std::uint32_t actual = 0;  ///< pages that the guest says it has given
  std::array<std::uint64_t, 10> statistics{};
  std::uint16_t statistics_seen = 0;  ///< one bit a tag
  static constexpr auto state() {
    using state::field;
    using S = BalloonState;
    return std::tuple{field(1, "common", &S::common), field(2, "target", &S::target), field(3, "actual", &S::actual),
                      field(4, "statistics", &S::statistics), field(5, "statistics_seen", &S::statistics_seen)};
  }
};

/// Virtio 1.2, 5.5: inflate, deflate, statistics, and free page reporting.
class Balloon final : public Base<BalloonState> {
 public:
  struct Config {
    std::string id = "virtio_balloon0";
    bool deflate_on_oom = false;
    bool free_page_reporting = false;
    std::uint64_t statistics_period_ns = 0;  ///< 0: the driver is never asked
    RingOptions ring = {};
  };
  /// Gives [offset, offset+length) of a region back to the host: the guest will not miss what was in it. Called with
  /// whole pages of 4 KiB.
  using Discard = std::function<void(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length)>;
  Balloon(Environment environment, Discard discard, Config config);

  /// Tags of 5.5.6.3.
  enum class Statistic : std::uint8_t {
    swap_in,
    swap_out,
    major_faults,
    minor_faults,
    free,
    total,
    available,
    caches,
    huge_allocated,
    huge_failed
  };
  /// How many pages the guest is to give away.
  void set_target(std::uint32_t pages);
  std::uint32_t actual() const { return state_.actual; }
  std::optional<std::uint64_t> statistic(Statistic which) const;
  /// Asks the driver for new statistics.
  void ask_for_statistics();

 private:
  void handle_queue(unsigned queue) override;
  void device_reset() override;
  void activated() override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  void config_written(std::uint64_t offset, std::uint64_t value, unsigned size) override;
  void inflate(const Chain& chain);
  void take_statistics(const Chain& chain);

  Config config_;
  Discard discard_;
  std::unique_ptr<core::Timer> timer_;
};

}  // namespace husk::devices::virtio
