// husk: virtio-balloon
#include "devices/virtio/balloon.h"

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
constexpr unsigned kStatsQueue = 1, kDeflateOnOom = 2, kPageReporting = 5;
constexpr unsigned kInflate = 0, kDeflate = 1, kStatistics = 2;
constexpr unsigned kConfigBytes = 8;
constexpr unsigned kPageShift = 12;
constexpr std::uint64_t kPage = 1u << kPageShift;
constexpr std::size_t kStatisticBytes = 10;

VirtioDevice::Traits traits_of(const Balloon::Config& config) {
  std::uint64_t features = 1u << kStatsQueue;
  if (config.deflate_on_oom) features |= 1u << kDeflateOnOom;
  if (config.free_page_reporting) features |= 1u << kPageReporting;
  // 5.5.2: queues are numbered without those whose feature is not offered; the statistics queue always is.
  return {.type = DeviceType::balloon,
          .features = features,
          .queue_sizes = std::vector<std::uint16_t>(config.free_page_reporting ? 4 : 3, 128),
          .config_size = kConfigBytes,
          .ring = config.ring};
}
}  // namespace

Balloon::Balloon(Environment environment, Discard discard, Config config)
    : Base(config.id, environment, traits_of(config)), config_(std::move(config)), discard_(std::move(discard)) {
  timer_ = this->environment().clock.make_timer([this] { ask_for_statistics(); });
}

void Balloon::device_reset() {
  state_.actual = 0;
  state_.statistics_seen = 0;
  timer_->cancel();
}

void Balloon::activated() {
  if (config_.statistics_period_ns) timer_->arm(environment().clock.now() + config_.statistics_period_ns);
}

void Balloon::fill_config(std::span<std::uint8_t> bytes) {
  store_le<std::uint32_t>(&bytes[0], state_.target);
  store_le<std::uint32_t>(&bytes[4], state_.actual);
}

void Balloon::config_written(std::uint64_t offset, std::uint64_t value, unsigned size) {
  if (offset == 4 && size == 4) state_.actual = static_cast<std::uint32_t>(value);
}

void Balloon::set_target(std::uint32_t pages) {
  if (state_.target == pages) return;
  state_.target = pages;
  config_changed();
}

std::optional<std::uint64_t> Balloon::statistic(Statistic which) const {
  const auto tag = static_cast<unsigned>(which);
  if (!bit(state_.statistics_seen, tag)) return std::nullopt;
  return state_.statistics[tag];
}

void Balloon::inflate(const Chain& chain) {
  std::uint8_t raw[4 * 256];
  // Runs of neighbours are given back together: one call to the host instead of hundreds.
  mem::RamRegion* ram = nullptr;
  std::uint64_t first = 0;
  std::uint64_t length = 0;
  const auto flush = [&] {
    if (length) discard_(*ram, first, length);
    length = 0;
  };
  // The driver's lists are 256 long; a chain of gigabytes would hold the lock for seconds.
  for (std::uint64_t offset = 0; offset < chain.readable_bytes() && offset < (1 << 20);) {
    const std::size_t got = chain.read(offset, raw) / 4 * 4;
    if (got == 0) break;
    for (std::size_t i = 0; i < got; i += 4) {
      const mem::Gpa page = std::uint64_t{load_le<std::uint32_t>(raw + i)} << kPageShift;
      const mem::Target target = environment().memory.space().find(page);
      if (!target.ram || !target.writable || target.length < kPage || target.offset % kPage) continue;
      if (length && target.ram == ram && target.offset == first + length) {
        length += kPage;
        continue;
      }
      flush();
      ram = target.ram;
      first = target.offset;
      length = kPage;
    }
    offset += got;
  }
  flush();
}

void Balloon::take_statistics(const Chain& chain) {
  std::uint8_t raw[kStatisticBytes];
  for (unsigned i = 0; i < 64 && chain.read(i * kStatisticBytes, raw) == kStatisticBytes; ++i) {
    const unsigned tag = load_le<std::uint16_t>(raw);
    if (tag >= state_.statistics.size()) continue;
    state_.statistics[tag] = load_le<std::uint64_t>(raw + 2);
    state_.statistics_seen |= static_cast<std::uint16_t>(1u << tag);
  }
}

void Balloon::ask_for_statistics() {
  // 5.5.6.3: the device holds one buffer, and returns it to ask. It is left in the ring until then, so that nothing of
  // it needs to be saved.
  if (config_.statistics_period_ns) timer_->arm(environment().clock.now() + config_.statistics_period_ns);
  Chain chain;
  if (!negotiated_bit(kStatsQueue) || !usable(kStatistics) || !take(kStatistics, chain)) return;
  give(kStatistics, chain, 0);
  interrupt_queue(kStatistics);
}

void Balloon::handle_queue(unsigned index) {
  if (index == kStatistics && negotiated_bit(kStatsQueue)) {
    Chain chain;
    if (!take(index, chain)) return;
    take_statistics(chain);
    queue(index).unpop(chain);
    queue(index).enable_notifications();
    return;
  }
  drain_queue(index, [&](Chain& chain) {
    if (index == kInflate) inflate(chain);
    if (index > kDeflate) {
      // Free page reporting (5.5.6.5): the writable part is the memory itself, whose old content nobody misses.
      for (const Segment& segment : chain.writable()) {
        const std::uint64_t skip = align_up(segment.offset, kPage) - segment.offset;
        if (skip >= segment.length) continue;
        const std::uint64_t whole = align_down(segment.length - skip, kPage);
        if (whole) discard_(*segment.ram, segment.offset + skip, whole);
      }
    }
    give(index, chain, 0);
    return true;
  });
}

}  // namespace husk::devices::virtio
