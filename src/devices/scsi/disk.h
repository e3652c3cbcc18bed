// husk: a SCSI disk
#pragma once

#include <memory>

#include "devices/scsi/unit.h"

namespace husk::devices::scsi {

/// A direct-access block device (SBC-3), thin-provisioned as far as its store is.
class Disk final : public LogicalUnit {
 public:
  struct Config {
    Identity identity = {.product = "HUSK HARDDISK"};
    std::uint32_t logical_block = 512;
    std::uint32_t physical_block = 512;
    std::uint32_t min_io = 0;               ///< bytes; 0: not told
    std::uint32_t opt_io = 0;               ///< bytes; 0: the backend's
    std::uint32_t discard_granularity = 0;  ///< bytes; 0: the backend's
    std::uint16_t rotation_rate = 0;        ///< 0: not told, 1: none (a solid-state disk), else turns a minute
    bool removable = false;
    bool read_only = false;
    bool discard = true;      ///< UNMAP, and WRITE SAME that unmaps
    bool write_cache = true;  ///< WCE as it is after power-on
    bool dpo_fua = true;      ///< take DPO and FUA
    core::BlockErrorPolicy policy = {};
  };
  /// Refuses impossible block sizes and names. The backend outlives the disk.
  static Result<std::unique_ptr<Disk>> create(core::BlockBackend& backend, Config config);

 private:
  Disk(core::BlockBackend& backend, Config config);
  bool start(const CommandPtr& command) override;
  std::span<const std::uint16_t> versions() const override;
  std::span<const std::uint8_t> product_pages() const override;
  std::vector<std::uint8_t> product_page(std::uint8_t page) const override;
  std::span<const std::uint8_t> mode_pages() const override;
  std::vector<std::uint8_t> mode_page(std::uint8_t page, PageControl control) const override;
  void set_mode_page(std::span<const std::uint8_t> page) override;
  std::uint8_t mode_device_specific() const override;
  bool mode_has_block_descriptor() const override { return true; }

  bool read_only() const { return own_.read_only || (medium() && medium()->info().read_only); }
  bool check_flags(const CommandPtr& command, bool write);
  void read(const CommandPtr& command);
  void write(const CommandPtr& command);
  void verify(const CommandPtr& command, bool write_first);
  void write_same(const CommandPtr& command);
  void unmap(const CommandPtr& command);
  void read_capacity_10(const CommandPtr& command);
  void service_action_in(const CommandPtr& command);
  void synchronize_cache(const CommandPtr& command);
  bool writable(const CommandPtr& command);
  std::uint32_t unmap_granularity() const;

  Config own_;
};

}  // namespace husk::devices::scsi
