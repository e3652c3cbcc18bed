// husk: what all virtio devices share, between a transport and the device proper
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/log.h"
#include "core/clock.h"
#include "core/device.h"
#include "devices/virtio/queue.h"
#include "mem/address_space.h"

namespace husk::devices::virtio {

/// Device ids (virtio 1.2, chapter 5).
enum class DeviceType : std::uint16_t {
  net = 1,
  block = 2,
  console = 3,
  rng = 4,
  balloon = 5,
  scsi = 8,
  ninep = 9,
  vsock = 19,
  fs = 26,
  pmem = 27,
};

enum StatusBits : std::uint8_t {
  kAcknowledge = 1,
  kDriver = 2,
  kDriverOk = 4,
  kFeaturesOk = 8,
  kNeedsReset = 0x40,
  kFailed = 0x80,
};

/// Feature bits that belong to no device type (chapter 6).
inline constexpr std::uint64_t kFeatureIndirect = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kFeatureEventIndex = std::uint64_t{1} << 29;
inline constexpr std::uint64_t kFeatureVersion1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kFeaturePacked = std::uint64_t{1} << 34;
inline constexpr std::uint64_t kFeatureInOrder = std::uint64_t{1} << 35;
inline constexpr std::uint64_t kFeatureRingReset = std::uint64_t{1} << 40;

struct CommonState {
  std::uint8_t status = 0;
  std::uint64_t driver_features = 0;
  std::uint32_t config_generation = 0;
  std::vector<QueueState> queues;
  static constexpr auto state() {
    using state::field;
    return std::tuple{
        field(1, "status", &CommonState::status), field(2, "driver_features", &CommonState::driver_features),
        field(3, "config_generation", &CommonState::config_generation), field(4, "queues", &CommonState::queues)};
  }
};

/// The way from a device to its driver. Called with the device's lock domain held.
class Interrupts {
 public:
  virtual ~Interrupts() = default;
  virtual void queue_used(unsigned queue) = 0;
  virtual void config_changed() = 0;
};

/// What every device is given; all outlive it.
struct Environment {
  mem::GuestMemory& memory;
  core::Clock& clock;
  Log& log;
};

/// Which of the optional ring features a device offers.
struct RingOptions {
  bool packed = false;
  bool event_index = true;
  bool indirect = true;
  bool in_order = false;
  bool ring_reset = true;
  bool operator==(const RingOptions&) const = default;
};

/// The part of a device that transports talk to. All calls with the device's lock domain held.
class VirtioDevice {
 public:
  struct Traits {
    DeviceType type;
    std::uint64_t features = 0;              ///< of the device type
    std::vector<std::uint16_t> queue_sizes;  ///< the most that each queue takes
    std::uint32_t config_size = 0;
    RingOptions ring = {};
  };
  static constexpr unsigned kMostConfig = 256;

  VirtioDevice(CommonState& common, Environment environment, Traits traits);
  virtual ~VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  /// Whoever carries the device. `legacy` drivers may then leave out VERSION_1 and FEATURES_OK.
  void connect(Interrupts& interrupts, bool legacy_allowed) {
    interrupts_ = &interrupts;
    legacy_allowed_ = legacy_allowed;
  }

  // ---- for transports ----
  DeviceType type() const { return traits_.type; }
  std::uint64_t offered_features() const { return offered_; }
  std::uint64_t driver_features() const { return common_.driver_features; }
  /// Ignored once FEATURES_OK is set. Half 0 or 1.
  void set_driver_features(unsigned half, std::uint32_t value);
  std::uint8_t status() const;
  void write_status(std::uint8_t value);
  std::uint32_t config_generation() const { return common_.config_generation; }
  std::uint32_t config_size() const { return traits_.config_size; }
  std::uint64_t read_config(std::uint64_t offset, unsigned size);
  void write_config(std::uint64_t offset, std::uint64_t value, unsigned size);
  unsigned queue_count() const { return static_cast<unsigned>(traits_.queue_sizes.size()); }
  std::uint16_t queue_most(unsigned queue) const { return traits_.queue_sizes[queue]; }
  const QueueState& queue_state(unsigned queue) const { return common_.queues[queue]; }
  /// Null while the queue is in use: then the driver may not change it.
  QueueState* configure(unsigned queue);
  void enable_queue(unsigned queue);
  /// Legacy and MMIO: back to unused, ring positions forgotten.
  void disable_queue(unsigned queue);
  /// RING_RESET; finished when queue_resetting() is false.
  void reset_queue(unsigned queue);
  bool queue_resetting(unsigned queue) const { return resetting_[queue]; }
  void notify(unsigned queue);
  bool driver_ok() const { return common_.status & kDriverOk; }
  bool legacy() const { return !(common_.driver_features & kFeatureVersion1); }

 protected:
  /// The driver said DRIVER_OK, or a running state was loaded.
  virtual void activated() {}
  /// Everything that the driver set up is gone. What is under way is to be cancelled or left to end by itself.
  virtual void device_reset() {}
  /// The driver notified, or the queue came into use.
  virtual void handle_queue(unsigned queue) = 0;
  /// The configuration space as it is now; `bytes` is zeroed and has config_size() bytes.
  virtual void fill_config(std::span<std::uint8_t> bytes) { (void)bytes; }
  virtual void config_written(std::uint64_t offset, std::uint64_t value, unsigned size) {
    (void)offset, (void)value, (void)size;
  }
  /// The queue is being reset alone; as device_reset for one queue.
  virtual void queue_was_reset(unsigned queue) { (void)queue; }

  bool negotiated(std::uint64_t feature) const { return common_.driver_features & feature; }
  bool negotiated_bit(unsigned bit_number) const { return (common_.driver_features >> bit_number) & 1; }
  Queue& queue(unsigned index) { return queues_[index]; }
  /// True if the driver has the device and this queue running.
  bool usable(unsigned index) const;
  /// Takes buffers and hands each to `each` until there are none, with notifications off meanwhile; interrupts in the
  /// end. `each` returns false to stop early, having put the chain back. Bounded: goes on later if the driver keeps
  /// adding.
  void drain_queue(unsigned index, const std::function<bool(Chain&)>& each);
  /// Takes one; reports a broken ring.
  bool take(unsigned index, Chain& chain);
  void give(unsigned index, const Chain& chain, std::uint64_t written);
  void interrupt_queue(unsigned index);
  /// The configuration changed by itself.
  void config_changed();
  /// The driver did what no device can go on from: DEVICE_NEEDS_RESET (2.1.2).
  void needs_reset(const std::string& why);
  /// Asynchronous work that still touches guest memory: a reset is not over before all of it has ended.
  void work_begins(unsigned queue) { ++work_[queue]; }
  void work_ended(unsigned queue);
  bool any_work() const;
  // ---- buffers that wait for the machine to run again, because of an error that the user is to mend ----
  /// Where they are kept, which is a part of the device's state.
  void keep_held_in(std::vector<HeldChain>& held) { held_ = &held; }
  /// Puts a buffer aside, whose work thereby ends; a reset drops it. False if there was a reset already.
  bool hold(unsigned queue, const Chain& chain);
  /// Hands out all that were held, in their order.
  void resume_held(const std::function<void(unsigned queue, Chain& chain)>& each);
  Status validate_held(const std::vector<HeldChain>& incoming) const;
  /// Calls back when no such work is left; at once if there is none.
  void when_idle(std::function<void()> done);
  /// Calls `handle_queue` for it soon, from the device's clock.
  void handle_later(unsigned queue);
  Environment& environment() { return environment_; }

  // ---- for the device's own Device part ----
  void reset_all();
  Status validate_common(const CommonState& incoming) const;
  void restore_common();

 private:
  RingFeatures ring_features() const;
  void finish_reset();
  void drop_held(unsigned queue);

  CommonState& common_;
  Environment environment_;
  Traits traits_;
  std::uint64_t offered_;
  Interrupts* interrupts_ = nullptr;
  bool legacy_allowed_ = false;
  std::vector<Queue> queues_;
  std::vector<unsigned> work_;
  std::vector<HeldChain>* held_ = nullptr;
  std::vector<bool> resetting_;
  bool reset_pending_ = false;
  std::vector<std::function<void()>> when_idle_;
  std::vector<bool> later_;
  std::unique_ptr<core::Timer> later_timer_;
};

/// Joins the two sides of a device whose whole state is `State`, which has a member `common`.
template <state::Declared State>
class Base : public core::StatefulDevice<State>, public VirtioDevice {
 public:
  std::string_view state_id() const final { return id_; }
  void reset(core::ResetKind) final { reset_all(); }
  /// Ends when nothing is under way in guest memory any more.
  void quiesce(std::function<void()> done) override { when_idle(std::move(done)); }

 protected:
  Base(std::string id, Environment environment, Traits traits)
      : VirtioDevice(this->state_.common, environment, std::move(traits)), id_(std::move(id)) {}
  virtual Status validate_device(const State& incoming) const {
    (void)incoming;
    return {};
  }
  /// After a load, with the queues ready.
  virtual void loaded() {}
  Status validate(const State& incoming) const final {
    if (auto common = validate_common(incoming.common); !common)
      return std::unexpected(std::move(common).error().within(id_));
    return validate_device(incoming);
  }
  void after_load() final {
    restore_common();
    loaded();
  }

 private:
  std::string id_;
};

}  // namespace husk::devices::virtio
