// husk: virtio-blk: a disk
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/block_backend.h"
#include "core/block_policy.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct BlkState {
  CommonState common;
  bool writeback = true;        ///< what the driver chose with CONFIG_WCE
  std::vector<HeldChain> held;  ///< requests that failed, to be done again
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "common", &BlkState::common), field(2, "writeback", &BlkState::writeback),
                      field(3, "held", &BlkState::held, 2)};
  }
};

/// Virtio 1.2, 5.2. Requests of all queues run at the same time, in no order.
class Blk final : public Base<BlkState> {
 public:
  struct Config {
    std::string id = "virtio_blk0";
    unsigned queues = 1;
    std::uint16_t queue_size = 256;
    std::string serial = {};  ///< at most 20 bytes count
    std::uint32_t logical_block = 512;
    std::uint32_t physical_block = 512;
    std::uint32_t min_io = 0;  ///< bytes; 0: not told
    std::uint32_t opt_io = 0;
    std::uint32_t discard_granularity = 0;  ///< bytes; 0: the backend's
    bool read_only = false;
    bool discard = true;
    bool write_zeroes = true;
    bool writeback = true;  ///< false: every write is stable when it completes, whatever the backend's cache does
    core::BlockErrorPolicy policy = {};
    /// Asked to stop the machine when the policy says so; start() then does the request again. Without it such errors
    /// are reported.
    core::BlockStop stop = {};
    RingOptions ring = {};
  };
  static constexpr unsigned kSerialBytes = 20;
  /// Refuses impossible block sizes and queue counts. The backend outlives the device, which calls it, and is called by
  /// it, with the device's lock domain held.
  static Result<std::unique_ptr<Blk>> create(Environment environment, core::BlockBackend& backend, Config config);
  void start() override;

 private:
  struct Request {
    Chain chain;
    unsigned queue = 0;
    std::vector<core::BlockSpan> spans;
    std::uint64_t written = 0;  ///< bytes of data that a read puts into the buffer
    unsigned parts = 0;
    std::uint8_t status = 0;
    int stop_for = 0;  ///< the error that is to stop the machine
    bool writing = false;
  };

  Blk(Environment environment, core::BlockBackend& backend, Config config);
  void handle_queue(unsigned queue) override;
  Status validate_device(const BlkState& incoming) const override { return validate_held(incoming.held); }
  void device_reset() override { state_.writeback = config_.writeback; }
  void fill_config(std::span<std::uint8_t> bytes) override;
  void config_written(std::uint64_t offset, std::uint64_t value, unsigned size) override;
  void start_request(std::unique_ptr<Request> request);
  void start_transfer(std::unique_ptr<Request> request, bool write, std::uint64_t sector);
  void start_ranges(std::unique_ptr<Request> request, core::BlockOp op);
  void submit(std::shared_ptr<Request> request, core::BlockOp op, std::uint32_t flags, std::uint64_t offset,
              std::uint64_t length);
  void part_done(Request& request, int error);
  void finish(Request& request);
  std::uint64_t size() const { return backend_.info().size / 512 * 512; }
  bool read_only() const { return config_.read_only || backend_.info().read_only; }

  core::BlockBackend& backend_;
  Config config_;
  bool in_batch_ = false;
};

}  // namespace husk::devices::virtio
