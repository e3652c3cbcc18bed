// husk: virtio-rng
#include "devices/virtio/rng.h"

#include <algorithm>

namespace husk::devices::virtio {

namespace {
constexpr std::uint16_t kQueueSize = 8;
/// A buffer is filled at most so far: the driver asks for more if it wants more, and no request holds the lock long.
constexpr std::uint64_t kMostBytes = 65536;
}  // namespace

Rng::Rng(Environment environment, Source source, Config config)
    : Base(config.id, environment, {.type = DeviceType::rng, .queue_sizes = {kQueueSize}, .ring = config.ring}),
      config_(std::move(config)),
      source_(std::move(source)) {
  refill_ = this->environment().clock.make_timer([this] {
    if (usable(0)) handle_queue(0);
  });
}

void Rng::device_reset() {
  // The quota is not the guest's to reset: it goes on over a reset of the device.
  refill_->cancel();
}

void Rng::arm() {
  refill_->cancel();
  if (config_.max_bytes && state_.period_used >= *config_.max_bytes) refill_->arm(state_.period_end);
}

std::uint64_t Rng::allowed() {
  if (!config_.max_bytes) return kMostBytes;
  const core::VmTime now = environment().clock.now();
  if (now >= state_.period_end) {
    state_.period_end = now + config_.period_ns;
    state_.period_used = 0;
  }
  return std::min(kMostBytes, *config_.max_bytes - std::min(*config_.max_bytes, state_.period_used));
}

void Rng::handle_queue(unsigned) {
  drain_queue(0, [this](Chain& chain) {
    const std::uint64_t most = allowed();
    if (most == 0) {
      queue(0).unpop(chain);
      arm();
      return false;
    }
    std::uint64_t left = std::min(most, chain.writable_bytes());
    const std::uint64_t total = left;
    for (const Segment& segment : chain.writable()) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, segment.length));
      if (count == 0) break;
      source_({segment.data, count});
      left -= count;
    }
    chain.note_written(0, total);
    state_.period_used += config_.max_bytes ? total : 0;
    give(0, chain, total);
    return true;
  });
}

}  // namespace husk::devices::virtio
