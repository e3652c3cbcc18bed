// husk: the virtqueue engine
#include "devices/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices::virtio {

namespace {
// Flags of a descriptor (virtio 1.2, 2.7.5 and 2.8.10).
constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;
constexpr std::uint16_t kPackedAvailable = 1 << 7;
constexpr std::uint16_t kPackedUsed = 1 << 15;
constexpr unsigned kDescriptorBytes = 16;
// Flags of the rings: no interrupt, no notification; of packed event suppression.
constexpr std::uint16_t kSuppress = 1;
constexpr std::uint16_t kEventEnable = 0, kEventDisable = 1, kEventDescriptor = 2;

/// Whether the step from `old` to `now` passed `event` (virtio 1.2, 2.7.7.2).
bool passed(std::uint16_t event, std::uint16_t now, std::uint16_t old) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - old);
}
}  // namespace

// ---- chains ----

std::size_t Chain::read(std::uint64_t offset, std::span<std::uint8_t> into) const {
  std::size_t done = 0;
  for (const Segment& segment : readable()) {
    if (done == into.size()) break;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const std::size_t count = std::min<std::size_t>(into.size() - done, segment.length - offset);
    std::memcpy(into.data() + done, segment.data + offset, count);
    done += count;
    offset = 0;
  }
  return done;
}

std::size_t Chain::write(std::uint64_t offset, std::span<const std::uint8_t> from) const {
  std::size_t done = 0;
  for (const Segment& segment : writable()) {
    if (done == from.size()) break;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const std::size_t count = std::min<std::size_t>(from.size() - done, segment.length - offset);
    std::memcpy(segment.data + offset, from.data() + done, count);
    segment.ram->note_write(segment.offset + offset, count);
    done += count;
    offset = 0;
  }
  return done;
}

void Chain::note_written(std::uint64_t offset, std::uint64_t length) const {
  for (const Segment& segment : writable()) {
    if (length == 0) break;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const std::uint64_t count = std::min<std::uint64_t>(length, segment.length - offset);
    segment.ram->note_write(segment.offset + offset, count);
    length -= count;
    offset = 0;
  }
}

// ---- rings in guest memory ----

template <class T>
T Queue::Area::load(std::uint64_t at) const {
  T raw = std::atomic_ref<T>(*reinterpret_cast<T*>(data + at)).load(std::memory_order_acquire);
  if constexpr (std::endian::native == std::endian::big) raw = byte_swap(raw);
  return raw;
}

template <class T>
void Queue::Area::store(std::uint64_t at, T value) const {
  if constexpr (std::endian::native == std::endian::big) value = byte_swap(value);
  std::atomic_ref<T>(*reinterpret_cast<T*>(data + at)).store(value, std::memory_order_release);
  ram->note_write(offset + at, sizeof(T));
}

void Queue::bind(QueueState& state, RingFeatures features) {
  state_ = &state;
  features_ = features;
  opened_ = false;
  fault_.clear();
  staged_.clear();
  published_ = false;
  ++generation_;
}

void Queue::forget() {
  opened_ = false;
  fault_.clear();
  staged_.clear();
  state_->taken.clear();
  published_ = false;
  ++generation_;
}

bool Queue::fail(std::string why) {
  if (fault_.empty()) fault_ = std::move(why);
  return false;
}

bool Queue::open_area(Area& area, std::uint64_t address, std::uint64_t length, unsigned alignment, const char* what) {
  if (address % alignment) return fail(fmt::format("{} at {:#x} is not aligned to {} bytes", what, address, alignment));
  const mem::Target target = memory_->space().find(address);
  // Rings are not split over two pieces of RAM by any driver; descriptors' buffers may be.
  if (!target.ram || !target.writable || target.length < length)
    return fail(fmt::format("{} at {:#x} is not {} bytes of RAM", what, address, length));
  area = {target.ram->data() + target.offset, target.ram, target.offset};
  return true;
}

bool Queue::open() {
  if (broken()) return false;
  if (opened_) return true;
  const QueueState& q = *state_;
  if (!q.ready || q.size == 0 || q.size > kMostQueueSize) return false;
  if (!features_.packed && !std::has_single_bit(unsigned{q.size}))
    return fail(fmt::format("the split queue's size {} is no power of two", q.size));
  const std::uint64_t n = q.size;
  if (!open_area(descriptors_, q.descriptors, n * kDescriptorBytes, kDescriptorBytes, "descriptor area")) return false;
  if (features_.packed) {
    if (q.next_available >= q.size || q.next_used >= q.size) return fail("a ring position is beyond the queue's size");
    if (!open_area(driver_, q.driver_area, 4, 4, "driver area") ||
        !open_area(device_, q.device_area, 4, 4, "device area"))
      return false;
  } else {
    // Alignment 2 and 4 by 2.7; the event fields come after the rings and count only with the feature.
    const std::uint64_t event = features_.event_index ? 2 : 0;
    if (!open_area(driver_, q.driver_area, 4 + n * 2 + event, 2, "available ring") ||
        !open_area(device_, q.device_area, 4 + n * 8 + event, 4, "used ring"))
      return false;
  }
  return opened_ = true;
}

void Queue::advance(std::uint16_t& slot, bool& wrap, unsigned by) const {
  unsigned next = slot + by;
  if (next >= state_->size) {
    next -= state_->size;
    wrap = !wrap;
  }
  slot = static_cast<std::uint16_t>(next);
}

// ---- taking ----

bool Queue::available() {
  if (!open()) return false;
  if (!features_.packed) return driver_.load<std::uint16_t>(2) != state_->next_available;
  const auto flags = descriptors_.load<std::uint16_t>(state_->next_available * std::uint64_t{kDescriptorBytes} + 14);
  const bool made = flags & kPackedAvailable, used = flags & kPackedUsed;
  return made == state_->available_wrap && used != state_->available_wrap;
}

bool Queue::add(Chain& chain, std::uint64_t address, std::uint32_t length, bool writable) {
  if (!writable && chain.writable_from_ != chain.segments_.size())
    return fail("a readable descriptor comes after a writable one");
  if (length == 0) return true;  // holds nothing, and harms nobody
  if (address + length < address) return fail(fmt::format("a buffer wraps around at {:#x}", address));
  (writable ? chain.writable_bytes_ : chain.readable_bytes_) += length;
  while (length) {
    const mem::Target target = memory_->space().find(address);
    if (!target.ram || (writable && !target.writable))
      return fail(fmt::format("a buffer at {:#x} is not RAM", address));
    if (chain.segments_.size() >= 2 * kMostSegments) return fail("a chain has too many segments");
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(length, target.length));
    chain.segments_.push_back({target.ram->data() + target.offset, count, target.ram, target.offset, address});
    if (!writable) chain.writable_from_ = chain.segments_.size();
    address += count;
    length -= count;
  }
  return true;
}

bool Queue::add_indirect(Chain& chain, std::uint64_t address, std::uint32_t length) {
  if (!features_.indirect) return fail("an indirect descriptor without the feature");
  if (length == 0 || length % kDescriptorBytes || length / kDescriptorBytes > kMostSegments)
    return fail(fmt::format("an indirect table of {} bytes", length));
  const unsigned count = length / kDescriptorBytes;
  std::vector<std::uint8_t> table(length);
  if (auto read = memory_->read(address, table); !read) return fail("an indirect table is not in RAM");
  unsigned at = 0;
  for (unsigned steps = 0;; ++steps) {
    if (steps >= count) return fail("an indirect table loops");
    const std::uint8_t* const d = &table[at * kDescriptorBytes];
    const bool last_of_packed = features_.packed && at + 1 == count;
    const auto flags = load_le<std::uint16_t>(d + (features_.packed ? 14 : 12));
    if (flags & kIndirect) return fail("an indirect descriptor inside an indirect table");
    if (!add(chain, load_le<std::uint64_t>(d), load_le<std::uint32_t>(d + 8), flags & kWrite)) return false;
    if (features_.packed) {
      // 2.8.7: the whole table is one buffer, in order; NEXT means nothing in it.
      if (last_of_packed) return true;
      ++at;
      continue;
    }
    if (!(flags & kNext)) return true;
    at = load_le<std::uint16_t>(d + 14);
    if (at >= count) return fail(fmt::format("an indirect descriptor's next is {}, of {}", at, count));
  }
}

bool Queue::walk_split(Chain& chain, std::uint16_t head) {
  unsigned at = head;
  for (unsigned steps = 0;; ++steps) {
    if (steps >= state_->size || steps >= kMostSegments) return fail("a descriptor chain loops");
    const std::uint64_t base = at * std::uint64_t{kDescriptorBytes};
    const auto address = descriptors_.load<std::uint64_t>(base);
    const auto length = descriptors_.load<std::uint32_t>(base + 8);
    const auto flags = descriptors_.load<std::uint16_t>(base + 12);
    if (flags & kIndirect) {
      if (flags & kNext) return fail("an indirect descriptor has a next one");
      return add_indirect(chain, address, length);
    }
    if (!add(chain, address, length, flags & kWrite)) return false;
    if (!(flags & kNext)) return true;
    at = descriptors_.load<std::uint16_t>(base + 14);
    if (at >= state_->size) return fail(fmt::format("a descriptor's next is {}, of {}", at, state_->size));
  }
}

bool Queue::finish(Chain& chain) {
  chain.generation_ = generation_;
  if (features_.in_order) state_->taken.push_back({chain.id_, chain.slots_, 0, false});
  return true;
}

bool Queue::pop_split(Chain& chain) {
  QueueState& q = *state_;
  const auto ahead = static_cast<std::uint16_t>(driver_.load<std::uint16_t>(2) - q.next_available);
  if (ahead == 0) return false;
  if (ahead > q.size) return fail(fmt::format("the available index is {} ahead in a queue of {}", ahead, q.size));
  const auto head = driver_.load<std::uint16_t>(4 + (q.next_available & (q.size - 1)) * std::uint64_t{2});
  if (head >= q.size) return fail(fmt::format("the available ring has descriptor {} of {}", head, q.size));
  chain.id_ = head;
  chain.slots_ = 1;
  if (!walk_split(chain, head)) return false;
  ++q.next_available;
  return finish(chain);
}

bool Queue::pop_packed(Chain& chain) {
  if (!available()) return false;
  QueueState& q = *state_;
  std::uint16_t slot = q.next_available;
  bool wrap = q.available_wrap;
  unsigned slots = 0;
  for (;;) {
    const std::uint64_t base = slot * std::uint64_t{kDescriptorBytes};
    const auto address = descriptors_.load<std::uint64_t>(base);
    const auto length = descriptors_.load<std::uint32_t>(base + 8);
    const auto flags = descriptors_.load<std::uint16_t>(base + 14);
    chain.id_ = descriptors_.load<std::uint16_t>(base + 12);
    if (++slots > q.size || slots > kMostSegments) return fail("a descriptor chain loops");
    advance(slot, wrap, 1);
    if (flags & kIndirect) {
      if (slots > 1 || (flags & kNext)) return fail("an indirect descriptor is part of a chain");
      if (!add_indirect(chain, address, length)) return false;
      break;
    }
    if (!add(chain, address, length, flags & kWrite)) return false;
    if (!(flags & kNext)) break;
  }
  chain.slots_ = static_cast<std::uint16_t>(slots);
  q.next_available = slot;
  q.available_wrap = wrap;
  return finish(chain);
}

bool Queue::pop(Chain& chain) {
  chain.segments_.clear();
  chain.writable_from_ = 0;
  chain.readable_bytes_ = chain.writable_bytes_ = 0;
  if (!open()) return false;
  return features_.packed ? pop_packed(chain) : pop_split(chain);
}

void Queue::unpop(const Chain& chain) {
  if (chain.generation_ != generation_) return;
  QueueState& q = *state_;
  if (features_.in_order) q.taken.pop_back();
  if (!features_.packed) {
    --q.next_available;
    return;
  }
  if (q.next_available < chain.slots_) q.available_wrap = !q.available_wrap;
  q.next_available = static_cast<std::uint16_t>((q.next_available + q.size - chain.slots_) % q.size);
}

HeldChain Queue::hold(const Chain& chain) const {
  HeldChain held{.id = chain.id_, .slots = chain.slots_, .readable = static_cast<std::uint32_t>(chain.writable_from_), .pieces = {}};
  for (const Segment& segment : chain.segments_) held.pieces.push_back({segment.address, segment.length});
  return held;
}

bool Queue::restore(const HeldChain& held, Chain& chain) {
  chain.segments_.clear();
  chain.writable_from_ = 0;
  chain.readable_bytes_ = chain.writable_bytes_ = 0;
  if (!open()) return false;
  // The state may come from anywhere.
  if (held.pieces.size() > 2 * kMostSegments || held.readable > held.pieces.size() || held.slots == 0 ||
      held.slots > state_->size || (!features_.packed && held.id >= state_->size))
    return fail("a held buffer does not fit the queue");
  for (std::size_t i = 0; i < held.pieces.size(); ++i)
    if (!add(chain, held.pieces[i].address, held.pieces[i].length, i >= held.readable)) return false;
  chain.id_ = held.id;
  chain.slots_ = held.slots;
  chain.generation_ = generation_;
  return true;
}

// ---- returning ----

void Queue::stage(const Chain& chain, std::uint32_t written) {
  if (chain.generation_ != generation_ || !opened_) return;
  if (!features_.in_order) {
    staged_.push_back({chain.id_, chain.slots_, written});
    return;
  }
  // 2.7.9: buffers are used in the order in which they were made available; early ones wait for their turn.
  std::vector<TakenState>& taken = state_->taken;
  for (TakenState& one : taken)
    if (one.id == chain.id_ && !one.done) {
      one.written = written;
      one.done = true;
      break;
    }
  auto first = taken.begin();
  for (; first != taken.end() && first->done; ++first) staged_.push_back({first->id, first->slots, first->written});
  taken.erase(taken.begin(), first);
}

void Queue::publish_split() {
  QueueState& q = *state_;
  for (const Staged& one : staged_) {
    const std::uint64_t at = 4 + (q.next_used & (q.size - 1)) * std::uint64_t{8};
    device_.store<std::uint32_t>(at, one.id);
    device_.store<std::uint32_t>(at + 4, one.written);
    ++q.next_used;
  }
  device_.store<std::uint16_t>(2, q.next_used);
}

void Queue::publish_packed() {
  QueueState& q = *state_;
  // The first one's flags last: then the driver sees all of them or none.
  const std::uint64_t first_at = q.next_used * std::uint64_t{kDescriptorBytes};
  std::uint16_t first_flags = 0;
  for (const Staged& one : staged_) {
    const std::uint64_t at = q.next_used * std::uint64_t{kDescriptorBytes};
    descriptors_.store<std::uint32_t>(at + 8, one.written);
    descriptors_.store<std::uint16_t>(at + 12, one.id);
    const auto flags =
        static_cast<std::uint16_t>((q.used_wrap ? kPackedAvailable | kPackedUsed : 0) | (one.written ? kWrite : 0));
    if (&one == &staged_.front())
      first_flags = flags;
    else
      descriptors_.store<std::uint16_t>(at + 14, flags);
    advance(q.next_used, q.used_wrap, one.slots);
  }
  descriptors_.store<std::uint16_t>(first_at + 14, first_flags);
}

void Queue::publish() {
  if (staged_.empty() || !opened_) return;
  if (features_.packed)
    publish_packed();
  else
    publish_split();
  staged_.clear();
  published_ = true;
}

bool Queue::should_interrupt() {
  if (!opened_ || !std::exchange(published_, false)) return false;
  QueueState& q = *state_;
  // What was published must be visible before the driver's wish is read, or both sides may wait for each other.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint16_t old = q.signalled;
  const std::uint16_t now = q.signalled = q.next_used;
  const bool valid = std::exchange(q.signalled_valid, true);
  if (!features_.packed) {
    if (!features_.event_index) return !(driver_.load<std::uint16_t>(0) & kSuppress);
    return !valid || passed(driver_.load<std::uint16_t>(4 + q.size * std::uint64_t{2}), now, old);
  }
  const auto flags = driver_.load<std::uint16_t>(2) & 3;
  if (flags == kEventDisable) return false;
  if (flags != kEventDescriptor || !features_.event_index || !valid) return true;
  const auto where = driver_.load<std::uint16_t>(0);
  int event = where & 0x7FFF;
  int before = old;
  if (bit(where, 15) != q.used_wrap) event -= q.size;
  if (before > now) before -= q.size;
  return passed(static_cast<std::uint16_t>(event), now, static_cast<std::uint16_t>(before));
}

bool Queue::enable_notifications() {
  if (!open()) return false;
  const QueueState& q = *state_;
  if (features_.packed) {
    if (features_.event_index) {
      device_.store<std::uint16_t>(0, static_cast<std::uint16_t>(q.next_available | (q.available_wrap ? 0x8000 : 0)));
      device_.store<std::uint16_t>(2, kEventDescriptor);
    } else {
      device_.store<std::uint16_t>(2, kEventEnable);
    }
  } else if (features_.event_index) {
    device_.store<std::uint16_t>(4 + q.size * std::uint64_t{8}, q.next_available);
  } else {
    device_.store<std::uint16_t>(0, 0);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return available();
}

void Queue::disable_notifications() {
  if (!open()) return;
  if (features_.packed)
    device_.store<std::uint16_t>(2, kEventDisable);
  else if (!features_.event_index)
    device_.store<std::uint16_t>(0, kSuppress);
  // With event indices there is nothing to do: the driver notifies once, and then not before enable.
}

}  // namespace husk::devices::virtio
