// husk: the virtqueue engine: split and packed rings whose other end is not trusted
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "mem/address_space.h"
#include "state/state.h"

namespace husk::devices::virtio {

inline constexpr unsigned kMostQueueSize = 32768;
/// Descriptors in one chain, indirect ones included; Linux never uses more than a queue's size.
inline constexpr unsigned kMostSegments = 1024;

/// Of a ring whose buffers are used in order: one that was taken and is not yet published.
struct TakenState {
  std::uint16_t id = 0;
  std::uint16_t slots = 1;
  std::uint32_t written = 0;
  bool done = false;  ///< waits for earlier ones
  static constexpr auto state() {
    using state::field;
    using T = TakenState;
    return std::tuple{field(1, "id", &T::id), field(2, "slots", &T::slots).range(1, kMostQueueSize),
                      field(3, "written", &T::written), field(4, "done", &T::done)};
  }
};

/// What the driver set up and where both sides are. Addresses are guest-physical.
struct QueueState {
  std::uint16_t size = 0;
  bool ready = false;
  std::uint64_t descriptors = 0;
  std::uint64_t driver_area = 0;     ///< split: available ring; packed: driver event suppression
  std::uint64_t device_area = 0;     ///< split: used ring; packed: device event suppression
  std::uint16_t next_available = 0;  ///< split: free-running index; packed: slot
  std::uint16_t next_used = 0;
  bool available_wrap = true;  ///< packed only
  bool used_wrap = true;
  std::uint16_t signalled = 0;  ///< next_used at the last decision about an interrupt
  bool signalled_valid = false;
  std::vector<TakenState> taken;  ///< with IN_ORDER only
  static constexpr auto state() {
    using state::field;
    using Q = QueueState;
    return std::tuple{field(1, "size", &Q::size).max(kMostQueueSize),
                      field(2, "ready", &Q::ready),
                      field(3, "descriptors", &Q::descriptors),
                      field(4, "driver_area", &Q::driver_area),
                      field(5, "device_area", &Q::device_area),
                      field(6, "next_available", &Q::next_available),
                      field(7, "next_used", &Q::next_used),
                      field(8, "available_wrap", &Q::available_wrap),
                      field(9, "used_wrap", &Q::used_wrap),
                      field(10, "signalled", &Q::signalled),
                      field(11, "signalled_valid", &Q::signalled_valid),
                      field(12, "taken", &Q::taken, 2)};
  }
};

/// The negotiated features that change how rings work.
struct RingFeatures {
  bool packed = false;
  bool event_index = false;
  bool indirect = false;
  bool in_order = false;
};

/// A run of guest RAM.
struct Segment {
  std::uint8_t* data = nullptr;
  std::uint32_t length = 0;
  mem::RamRegion* ram = nullptr;
  std::uint64_t offset = 0;  ///< of `data` in `ram`
  mem::Gpa address = 0;
};

/// A buffer that was taken and is to be worked on later, perhaps by another machine: what was in its descriptors, which
/// the ring may not keep until then.
struct HeldPiece {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "address", &HeldPiece::address), field(2, "length", &HeldPiece::length)};
  }
};
struct HeldChain {
  std::uint16_t queue = 0;
  std::uint16_t id = 0;
  std::uint16_t slots = 1;
  std::uint32_t readable = 0;  ///< pieces that the device reads; the others it writes
  std::vector<HeldPiece> pieces;
  static constexpr auto state() {
    using state::field;
    using H = HeldChain;
    return std::tuple{field(1, "queue", &H::queue), field(2, "id", &H::id),
                      field(3, "slots", &H::slots).range(1, kMostQueueSize),
                      field(4, "readable", &H::readable).max(2 * kMostSegments), field(5, "pieces", &H::pieces)};
  }
};

/// A buffer that the driver made available: first what the device reads, then what it writes. Every byte of it was RAM
/// when it was taken. Its contents may change under the device at any time: read what is decided on once.
class Chain {
 public:
  std::span<const Segment> readable() const { return {segments_.data(), writable_from_}; }
  std::span<const Segment> writable() const {
    return {segments_.data() + writable_from_, segments_.size() - writable_from_};
  }
  std::uint64_t readable_bytes() const { return readable_bytes_; }
  std::uint64_t writable_bytes() const { return writable_bytes_; }
  /// Copies from the readable part at `offset`; returns how many bytes there were.
  std::size_t read(std::uint64_t offset, std::span<std::uint8_t> into) const;
  /// Copies into the writable part at `offset` and marks it written; returns how many bytes fitted.
  std::size_t write(std::uint64_t offset, std::span<const std::uint8_t> from) const;
  /// For writers of the segments themselves: tells that [offset, offset+length) of the writable part was written.
  void note_written(std::uint64_t offset, std::uint64_t length) const;
  std::uint16_t id() const { return id_; }

 private:
  friend class Queue;
  std::vector<Segment> segments_;
  std::size_t writable_from_ = 0;
  std::uint64_t readable_bytes_ = 0;
  std::uint64_t writable_bytes_ = 0;
  std::uint32_t generation_ = 0;
  std::uint16_t id_ = 0;     ///< split: head descriptor; packed: buffer id
  std::uint16_t slots_ = 1;  ///< packed: ring slots taken
};

/// The device's end of one virtqueue (virtio 1.2, 2.6 to 2.8). Every index, length and address that the guest controls
/// is checked; the first that is wrong breaks the queue until it is reset, and the owner is to report
/// DEVICE_NEEDS_RESET.
class Queue {
 public:
  explicit Queue(mem::GuestMemory& memory) : memory_(&memory) {}

  /// To be called before use and whenever the state or the features changed; the state must outlive this.
  void bind(QueueState& state, RingFeatures features);
  /// Drops what was taken and not returned: chains of before are ignored from now on.
  void forget();

  bool ready() const { return state_->ready; }
  bool broken() const { return !fault_.empty(); }
  const std::string& fault() const { return fault_; }
  unsigned size() const { return state_->size; }

  /// Takes the next buffer. False: there is none, or the queue is broken.
  bool pop(Chain& chain);
  /// Puts the buffer that was taken last back, as if it had not been taken. Nothing may have been taken since.
  void unpop(const Chain& chain);
  /// What restore() needs to have the buffer again.
  HeldChain hold(const Chain& chain) const;
  /// False if the queue was reset since it was taken.
  bool owns(const Chain& chain) const { return chain.generation_ == generation_; }
  /// False, and the queue is broken, if that is no buffer that the driver can have made available.
  bool restore(const HeldChain& held, Chain& chain);
  /// True if pop() would find something; cheap.
  bool available();
  /// Returns a buffer of which the device wrote the first `written` bytes; the driver sees it after publish().
  void stage(const Chain& chain, std::uint32_t written);
  void publish();
  void push(const Chain& chain, std::uint32_t written) {
    stage(chain, written);
    publish();
  }
  /// Whether the driver wants an interrupt for what was published since the last call.
  bool should_interrupt();

  /// Asks the driver to notify, or to spare the trouble. enable returns true if something is available already.
  bool enable_notifications();
  void disable_notifications();

 private:
  struct Area {
    std::uint8_t* data = nullptr;
    mem::RamRegion* ram = nullptr;
    std::uint64_t offset = 0;
    template <class T>
    T load(std::uint64_t at) const;
    template <class T>
    void store(std::uint64_t at, T value) const;
  };
  struct Staged {
    std::uint16_t id;
    std::uint16_t slots;
    std::uint32_t written;
  };
  bool fail(std::string why);
  bool open();
  bool open_area(Area& area, std::uint64_t address, std::uint64_t length, unsigned alignment, const char* what);
  bool pop_split(Chain& chain);
  bool pop_packed(Chain& chain);
  bool walk_split(Chain& chain, std::uint16_t head);
  bool add(Chain& chain, std::uint64_t address, std::uint32_t length, bool writable);
  bool add_indirect(Chain& chain, std::uint64_t address, std::uint32_t length);
  bool finish(Chain& chain);
  void publish_split();
  void publish_packed();
  void advance(std::uint16_t& slot, bool& wrap, unsigned by) const;

  mem::GuestMemory* memory_;
  QueueState* state_ = nullptr;
  RingFeatures features_;
  bool opened_ = false;
  bool published_ = false;  ///< something, since the driver was last asked whether it wants an interrupt
  std::string fault_;
  std::uint32_t generation_ = 1;
  Area descriptors_, driver_, device_;
  std::vector<Staged> staged_;
};

}  // namespace husk::devices::virtio
