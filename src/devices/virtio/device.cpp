// husk: what all virtio devices share
#include "devices/virtio/device.h"

#include <algorithm>

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices::virtio {

namespace {
std::uint64_t offered_by(const VirtioDevice::Traits& traits) {
  std::uint64_t features = traits.features | kFeatureVersion1;
  if (traits.ring.indirect) features |= kFeatureIndirect;
  if (traits.ring.event_index) features |= kFeatureEventIndex;
  if (traits.ring.packed) features |= kFeaturePacked;
  if (traits.ring.in_order) features |= kFeatureInOrder;
  if (traits.ring.ring_reset) features |= kFeatureRingReset;
  return features;
}
}  // namespace

VirtioDevice::VirtioDevice(CommonState& common, Environment environment, Traits traits)
    : common_(common), environment_(environment), traits_(std::move(traits)), offered_(offered_by(traits_)) {
  HUSK_CHECK(traits_.config_size <= kMostConfig);
  const std::size_t count = traits_.queue_sizes.size();
  common_.queues.assign(count, {});
  queues_.assign(count, Queue(environment_.memory));
  work_.assign(count, 0);
  resetting_.assign(count, false);
  later_.assign(count, false);
  later_timer_ = environment_.clock.make_timer([this] {
    for (unsigned i = 0; i < later_.size(); ++i)
      if (later_[i]) {
        later_[i] = false;
        if (usable(i)) handle_queue(i);
      }
  });
  for (unsigned i = 0; i < count; ++i) {
    common_.queues[i].size = traits_.queue_sizes[i];
    queues_[i].bind(common_.queues[i], {});
  }
}

RingFeatures VirtioDevice::ring_features() const {
  return {.packed = negotiated(kFeaturePacked) && !legacy(),
          .event_index = negotiated(kFeatureEventIndex),
          .indirect = negotiated(kFeatureIndirect),
          .in_order = negotiated(kFeatureInOrder)};
}

void VirtioDevice::set_driver_features(unsigned half, std::uint32_t value) {
  if (half > 1 || (common_.status & (kFeaturesOk | kDriverOk))) return;
  const unsigned shift = half * 32;
  common_.driver_features =
      (common_.driver_features & ~(std::uint64_t{0xFFFFFFFF} << shift)) | (std::uint64_t{value} << shift);
}

std::uint8_t VirtioDevice::status() const {
  // 2.4.2: zero tells that the reset is over, and it is not while old requests may still write to memory.
  return reset_pending_ ? std::uint8_t{kDriver} : common_.status;
}

void VirtioDevice::write_status(std::uint8_t value) {
  if (value == 0) {
    reset_all();
    return;
  }
  if (reset_pending_) return;
  const std::uint8_t old = common_.status;
  if ((value & kFeaturesOk) && !(old & kFeaturesOk)) {
    const bool unknown = common_.driver_features & ~offered_;
    const bool too_old = legacy() && !legacy_allowed_;
    if (unknown || too_old) value &= static_cast<std::uint8_t>(~kFeaturesOk);
  }
  // A legacy driver knows nothing of FEATURES_OK, and gets what both sides have.
  if ((value & kDriverOk) && !(old & kDriverOk) && !(value & kFeaturesOk)) common_.driver_features &= offered_;
  common_.status = static_cast<std::uint8_t>((value & 0xBF) | (old & kNeedsReset));
  if ((value & kFeaturesOk) && !(old & kFeaturesOk))
    for (unsigned i = 0; i < queues_.size(); ++i) queues_[i].bind(common_.queues[i], ring_features());
  if ((value & kDriverOk) && !(old & kDriverOk)) {
    for (unsigned i = 0; i < queues_.size(); ++i) queues_[i].bind(common_.queues[i], ring_features());
    activated();
    for (unsigned i = 0; i < queues_.size(); ++i)
      if (usable(i)) handle_queue(i);
  }
}

std::uint64_t VirtioDevice::read_config(std::uint64_t offset, unsigned size) {
  std::uint8_t bytes[kMostConfig + 8] = {};
  if (offset >= traits_.config_size) return 0;
  fill_config({bytes, traits_.config_size});
  return load_le<std::uint64_t>(bytes + offset) & mask_of(size * 8);
}

void VirtioDevice::write_config(std::uint64_t offset, std::uint64_t value, unsigned size) {
  if (range_within(offset, size, traits_.config_size)) config_written(offset, value, size);
}

QueueState* VirtioDevice::configure(unsigned index) {
  if (index >= queues_.size() || common_.queues[index].ready || resetting_[index]) return nullptr;
  return &common_.queues[index];
}

void VirtioDevice::enable_queue(unsigned index) {
  QueueState* const q = configure(index);
  if (!q || q->size == 0) return;
  const bool packed = ring_features().packed;
  q->next_available = q->next_used = q->signalled = 0;
  q->available_wrap = q->used_wrap = packed;
  q->signalled_valid = false;
  q->taken.clear();
  q->ready = true;
  queues_[index].bind(*q, ring_features());
  // Once it is running the driver may add queues (after a reset of a single one) and need not notify.
  if (usable(index)) handle_queue(index);
}

void VirtioDevice::disable_queue(unsigned index) {
  if (index >= queues_.size()) return;
  common_.queues[index] = {};
  common_.queues[index].size = traits_.queue_sizes[index];
  queues_[index].forget();
  drop_held(index);
  queue_was_reset(index);
}

void VirtioDevice::reset_queue(unsigned index) {
  if (index >= queues_.size() || !negotiated(kFeatureRingReset)) return;
  disable_queue(index);
  resetting_[index] = work_[index] != 0;
}

bool VirtioDevice::usable(unsigned index) const {
  if (!common_.queues[index].ready || (common_.status & kNeedsReset) || reset_pending_) return false;
  // Some legacy drivers use their queues before DRIVER_OK.
  return driver_ok() || (legacy_allowed_ && legacy() && (common_.status & kDriver));
}

void VirtioDevice::notify(unsigned index) {
  if (index >= queues_.size() || !usable(index)) return;
  handle_queue(index);
}

void VirtioDevice::drain_queue(unsigned index, const std::function<bool(Chain&)>& each) {
  Queue& q = queues_[index];
  if (!usable(index)) return;
  unsigned budget = 4 * std::max(64u, q.size());
  Chain chain;
  bool stopped = false;
  do {
    q.disable_notifications();
    while (!stopped && budget && usable(index) && q.pop(chain)) {
      --budget;
      stopped = !each(chain);
    }
    if (!budget) {
      // Another CPU keeps adding: let this one go, and the machine be paused.
      handle_later(index);
      break;
    }
  } while (!stopped && usable(index) && q.enable_notifications());
  if (q.broken()) needs_reset(q.fault());
  interrupt_queue(index);
}

bool VirtioDevice::take(unsigned index, Chain& chain) {
  Queue& q = queues_[index];
  if (!usable(index)) return false;
  if (q.pop(chain)) return true;
  if (q.broken()) needs_reset(q.fault());
  return false;
}

void VirtioDevice::give(unsigned index, const Chain& chain, std::uint64_t written) {
  queues_[index].push(chain, static_cast<std::uint32_t>(std::min(written, chain.writable_bytes())));
}

void VirtioDevice::interrupt_queue(unsigned index) {
  if (interrupts_ && usable(index) && queues_[index].should_interrupt()) interrupts_->queue_used(index);
}

void VirtioDevice::config_changed() {
  ++common_.config_generation;
  if (interrupts_ && driver_ok()) interrupts_->config_changed();
}

void VirtioDevice::needs_reset(const std::string& why) {
  if (common_.status & kNeedsReset) return;
  environment_.log.guest_error("virtio device {} needs a reset: {}", static_cast<unsigned>(traits_.type), why);
  common_.status |= kNeedsReset;
  if (driver_ok()) config_changed();
}

void VirtioDevice::handle_later(unsigned index) {
  later_[index] = true;
  later_timer_->arm(environment_.clock.now());
}

bool VirtioDevice::any_work() const {
  return std::any_of(work_.begin(), work_.end(), [](unsigned count) { return count != 0; });
}

void VirtioDevice::work_ended(unsigned index) {
  HUSK_CHECK(work_[index] > 0);
  if (--work_[index] != 0) return;
  resetting_[index] = false;
  if (any_work()) return;
  if (reset_pending_) finish_reset();
  for (auto& done : std::exchange(when_idle_, {})) done();
}

void VirtioDevice::when_idle(std::function<void()> done) {
  if (any_work())
    when_idle_.push_back(std::move(done));
  else
    done();
}

void VirtioDevice::reset_all() {
  common_.status = 0;
  common_.driver_features = 0;
  common_.config_generation = 0;
  std::fill(later_.begin(), later_.end(), false);
  later_timer_->cancel();
  for (unsigned i = 0; i < queues_.size(); ++i) {
    common_.queues[i] = {};
    common_.queues[i].size = traits_.queue_sizes[i];
    queues_[i].bind(common_.queues[i], {});
  }
  if (held_) held_->clear();
  device_reset();
  reset_pending_ = any_work();
  if (!reset_pending_) finish_reset();
}

void VirtioDevice::finish_reset() {
  reset_pending_ = false;
  std::fill(resetting_.begin(), resetting_.end(), false);
}

bool VirtioDevice::hold(unsigned index, const Chain& chain) {
  if (!usable(index) || !queues_[index].owns(chain)) return false;
  HeldChain held = queues_[index].hold(chain);
  held.queue = static_cast<std::uint16_t>(index);
  held_->push_back(std::move(held));
  work_ended(index);
  return true;
}

void VirtioDevice::resume_held(const std::function<void(unsigned, Chain&)>& each) {
  for (const HeldChain& held : std::exchange(*held_, {})) {
    const unsigned index = held.queue;
    Chain chain;
    if (!usable(index)) continue;
    if (queues_[index].restore(held, chain))
      each(index, chain);
    else
      needs_reset(queues_[index].fault());
  }
}

void VirtioDevice::drop_held(unsigned index) {
  if (held_) std::erase_if(*held_, [index](const HeldChain& held) { return held.queue == index; });
}

Status VirtioDevice::validate_held(const std::vector<HeldChain>& incoming) const {
  std::vector<std::size_t> counts(queues_.size());
  for (const HeldChain& held : incoming) {
    if (held.queue >= queues_.size()) return fail("a held buffer is of queue {}, of {}", held.queue, queues_.size());
    if (held.pieces.size() > 2 * kMostSegments || ++counts[held.queue] > traits_.queue_sizes[held.queue])
      return fail("the saved state holds more buffers of queue {} than there are", held.queue);
  }
  return {};
}

Status VirtioDevice::validate_common(const CommonState& incoming) const {
  if (incoming.queues.size() != queues_.size())
    return fail("the saved state has {} queues, this device {}", incoming.queues.size(), queues_.size());
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (incoming.queues[i].size > traits_.queue_sizes[i])
      return fail("saved queue {} has {} entries, more than {}", i, incoming.queues[i].size, traits_.queue_sizes[i]);
    // More cannot be taken than there are, nor a buffer that is longer than the ring.
    if (incoming.queues[i].taken.size() > incoming.queues[i].size)
      return fail("saved queue {} has {} buffers taken", i, incoming.queues[i].taken.size());
    for (const TakenState& one : incoming.queues[i].taken)
      if (one.slots > incoming.queues[i].size)
        return fail("a taken buffer of saved queue {} has {} slots", i, one.slots);
  }
  if (incoming.driver_features & ~offered_ & (std::uint64_t{0} - (incoming.status & kFeaturesOk ? 1 : 0)))
    return fail("the saved driver uses features {:#x}, of which this device lacks {:#x}", incoming.driver_features,
                incoming.driver_features & ~offered_);
  return {};
}

void VirtioDevice::restore_common() {
  reset_pending_ = false;
  for (unsigned i = 0; i < queues_.size(); ++i) queues_[i].bind(common_.queues[i], ring_features());
  if (driver_ok()) {
    activated();
    // What was available and not taken when the state was saved is looked at again; nothing may notify any more.
    for (unsigned i = 0; i < queues_.size(); ++i)
      if (usable(i)) handle_later(i);
  }
}

}  // namespace husk::devices::virtio
