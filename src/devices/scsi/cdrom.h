// husk: a SCSI CD-ROM drive
#pragma once

#include <memory>

#include "devices/scsi/unit.h"

namespace husk::devices::scsi {

/// A CD/DVD-ROM drive (MMC-6) with a disc of one data track, or none. A disc that is larger than 80 minutes of CD is a
/// DVD.
class Cdrom final : public LogicalUnit {
 public:
  static constexpr std::uint32_t kBlock = 2048;
  struct Config {
    Identity identity = {.product = "HUSK CD-ROM"};
    core::BlockErrorPolicy policy = {};
  };
  /// `medium` may be null, and outlives its being in the drive.
  static Result<std::unique_ptr<Cdrom>> create(core::BlockBackend* medium, Config config);

 private:
  Cdrom(core::BlockBackend* medium, Config config);
  bool start(const CommandPtr& command) override;
  /// MMC-6, 4.3: these two tell of media changes themselves.
  bool ignores_attention(std::uint8_t opcode) const override { return opcode == 0x46 || opcode == 0x4A; }
  std::span<const std::uint16_t> versions() const override;
  std::span<const std::uint8_t> mode_pages() const override;
  std::vector<std::uint8_t> mode_page(std::uint8_t page, PageControl control) const override;
  Sense absent_medium() const override { return tray_open() ? kNoMediumTrayOpen : kNoMediumTrayClosed; }

  bool is_dvd() const;
  std::uint16_t profile() const;
  void read_capacity(const CommandPtr& command);
  void read_cd(const CommandPtr& command);
  void read_toc(const CommandPtr& command);
  void get_configuration(const CommandPtr& command);
  void get_event_status(const CommandPtr& command);
  void read_disc_information(const CommandPtr& command);
  void read_disc_structure(const CommandPtr& command);
  void mechanism_status(const CommandPtr& command);
};

}  // namespace husk::devices::scsi
