// husk: virtio-scsi: a SCSI controller with its disks and CD-ROM drives
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/block_policy.h"
#include "devices/scsi/target.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct ScsiState {
  CommonState common;
  std::uint32_t sense_size = 96;
  std::uint32_t cdb_size = 32;
  bool events_missed = false;
  std::vector<scsi::UnitState> units;  ///< in the order in which they were attached
  std::vector<HeldChain> held;         ///< requests that failed, to be done again
  static constexpr auto state() {
    using state::field;
    using S = ScsiState;
    return std::tuple{field(1, "common", &S::common),
                      field(2, "sense_size", &S::sense_size).max(0xFFFF),
                      field(3, "cdb_size", &S::cdb_size).max(0xFF),
                      field(4, "events_missed", &S::events_missed),
                      field(5, "units", &S::units),
                      field(6, "held", &S::held)};
  }
};

/// Virtio 1.2, 5.6. Queue 0 is for task management, 1 for events, the others for commands, which run at the same time
/// and in no order; task attributes are all taken as SIMPLE.
class Scsi final : public Base<ScsiState> {
 public:
  struct Config {
    std::string id = "virtio_scsi0";
    unsigned queues = 1;  ///< for commands
    std::uint16_t queue_size = 256;
    std::uint32_t commands_per_unit = 128;
    std::uint32_t max_sectors = 0xFFFF;
    /// Asked to stop the machine when a unit's policy says so; start() then does the command again.
    core::BlockStop stop = {};
    RingOptions ring = {};
  };
  static constexpr unsigned kMostTarget = 255;
  struct Place {
    unsigned target = 0;
    unsigned lun = 0;
    std::unique_ptr<scsi::LogicalUnit> unit;
  };
  /// Refuses impossible queues, and places that are taken or are none.
  static Result<std::unique_ptr<Scsi>> create(Environment environment, std::vector<Place> units, Config config);
  void start() override;

  /// Attaches a unit while the machine may run, and tells the driver.
  Status plug(Place place);
  /// Aborts the unit's commands and takes it away; its backend may go when `done` is called.
  Status unplug(unsigned target, unsigned lun, std::function<void()> done);
  /// Null if there is none.
  scsi::LogicalUnit* unit(unsigned target, unsigned lun);

 private:
  struct Task {
    Chain chain;
    unsigned done_when = 1;
  };
  struct Request {
    Chain chain;
    unsigned queue = 0;
    std::uint64_t tag = 0;
    unsigned target = 0, lun = 0;
    std::uint8_t response = 0;
    std::uint64_t data_at = 0;  ///< of data-in in the writable part
    scsi::LogicalUnit* unit = nullptr;
    std::shared_ptr<scsi::Command> command;
    std::vector<std::function<void()>> waiters;  ///< to be called when it has ended
  };
  struct Address {
    unsigned target, lun;
  };

  Scsi(Environment environment, std::vector<Place> units, Config config);
  void handle_queue(unsigned queue) override;
  void device_reset() override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  void config_written(std::uint64_t offset, std::uint64_t value, unsigned size) override;
  Status validate_device(const ScsiState& incoming) const override;
  void before_save() override;
  void loaded() override;

  void attach(Place place);
  void start_request(unsigned queue, Chain chain);
  void finish(const std::shared_ptr<Request>& request);
  void resume_requests();
  void start_control(Chain& chain);
  std::uint8_t manage(const Chain& chain, const std::shared_ptr<Task>& task);
  void task_ended(const std::shared_ptr<Task>& task);
  std::vector<std::shared_ptr<Request>> running(const Address& address, bool whole_target) const;
  void abort(std::shared_ptr<Request> request, std::uint8_t response, std::function<void()> then);
  void send_event(std::uint32_t event, const Address& address, std::uint32_t reason);
  static std::optional<Address> address_of(std::span<const std::uint8_t, 8> lun);
  scsi::Target* target(unsigned number);

  Config config_;
  std::vector<Place> units_;
  std::map<unsigned, scsi::Target> targets_;
  std::vector<std::shared_ptr<Request>> requests_;
  bool in_batch_ = false;
};

}  // namespace husk::devices::virtio
