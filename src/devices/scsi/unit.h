// husk: a SCSI logical unit: what disks and CD-ROM drives share
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "core/block_backend.h"
#include "core/block_policy.h"
#include "devices/scsi/command.h"
#include "state/state.h"

namespace husk::devices::scsi {

struct UnitState {
  std::vector<std::uint16_t> attentions;  ///< unit attentions to be told, in their order
  bool stopped = false;                   ///< by START STOP UNIT
  bool tray_open = false;
  bool prevented = false;         ///< medium removal
  bool write_cache = true;        ///< WCE of the caching mode page
  bool descriptor_sense = false;  ///< D_SENSE of the control mode page
  std::uint8_t media_event = 0;   ///< of GET EVENT STATUS NOTIFICATION
  static constexpr auto state() {
    using state::field;
    using U = UnitState;
    return std::tuple{
        field(1, "attentions", &U::attentions),         field(2, "stopped", &U::stopped),
        field(3, "tray_open", &U::tray_open),           field(4, "prevented", &U::prevented),
        field(5, "write_cache", &U::write_cache),       field(6, "descriptor_sense", &U::descriptor_sense),
        field(7, "media_event", &U::media_event).max(3)};
  }
};

/// Who the unit says that it is.
struct Identity {
  std::string vendor = "HUSK";   ///< 8 bytes count
  std::string product = {};      ///< 16
  std::string revision = "1.0";  ///< 4
  std::string serial = {};       ///< page 80h; empty: no such page
  std::string name = {};         ///< of the T10 designator in page 83h; the serial if empty
  std::uint64_t wwn = 0;         ///< an NAA designator; 0: none
};
Status check_identity(const Identity& identity);

/// SPC-4. Calls are made, and completions come, with the lock domain of the controller held.
class LogicalUnit {
 public:
  virtual ~LogicalUnit();
  LogicalUnit(const LogicalUnit&) = delete;
  LogicalUnit& operator=(const LogicalUnit&) = delete;

  void execute(CommandPtr command);
  /// Has a command end soon, with whatever status; a request that is under way is still waited for.
  void abort(const CommandPtr& command);
  /// As after power-on.
  void power_on();
  /// LOGICAL UNIT RESET (SAM-5, 6.3.3); the transport sees to the commands under way.
  void reset_unit();
  /// Tells a unit attention to the initiator, with the next command that may carry one.
  void attend(std::uint16_t code);
  const UnitState& state() const { return state_; }
  static Status validate(const UnitState& incoming);
  void load(UnitState incoming) { state_ = std::move(incoming); }
  /// Called when something changed by itself that a controller may tell its driver at once.
  void set_news(std::function<void(std::uint16_t attention)> news) { news_ = std::move(news); }
  bool removable() const { return config_.removable; }
  bool prevented() const { return state_.prevented; }
  bool tray_open() const { return state_.tray_open; }
  const core::BlockErrorPolicy& policy() const { return config_.policy; }
  void begin_batch();
  void end_batch();

  /// The user wants the medium out: the guest is told, if the drive is locked; else it comes out.
  void request_eject();
  /// Puts a medium in (null: takes it out), and closes the tray. No request to the old one may be under way.
  void change_medium(core::BlockBackend* medium);

 protected:
  struct Config {
    std::uint8_t device_type = 0;
    bool removable = false;
    Identity identity = {};
    std::uint32_t block_size = 512;
    core::BlockErrorPolicy policy = {};
    bool write_cache = true;
  };
  enum class PageControl : std::uint8_t { current = 0, changeable = 1, defaults = 2 };
  static constexpr std::size_t kBounceBytes = 1 << 20;

  LogicalUnit(core::BlockBackend* medium, Config config);

  /// A command that is not common to all. False: there is no such command.
  virtual bool start(const CommandPtr& command) = 0;
  /// Whether the command is executed in spite of a pending unit attention, beyond those of SPC-4 (5.14.7).
  virtual bool ignores_attention(std::uint8_t opcode) const { return opcode == 0x12; }
  /// Version descriptors of standard INQUIRY data.
  virtual std::span<const std::uint16_t> versions() const = 0;
  /// Vital product data pages beyond 00h, 80h and 83h, in ascending order; the content of one behind its header.
  virtual std::span<const std::uint8_t> product_pages() const { return {}; }
  virtual std::vector<std::uint8_t> product_page(std::uint8_t page) const;
  virtual std::span<const std::uint8_t> mode_pages() const = 0;
  /// The page with its header.
  virtual std::vector<std::uint8_t> mode_page(std::uint8_t page, PageControl control) const = 0;
  virtual void set_mode_page(std::span<const std::uint8_t> page) { (void)page; }
  virtual std::uint8_t mode_device_specific() const { return 0; }
  virtual bool mode_has_block_descriptor() const { return false; }
  virtual Sense absent_medium() const { return kNoMedium; }

  // ---- answers ----
  void finish(const CommandPtr& command);
  void fail(const CommandPtr& command, const Sense& sense);
  /// Data-in that the allocation length cuts off.
  void reply(const CommandPtr& command, std::span<const std::uint8_t> data, std::uint64_t allocation);
  /// The parameter list, of exactly `length` bytes; nothing if the command has been answered because there are less.
  std::optional<std::vector<std::uint8_t>> parameters(const CommandPtr& command, std::uint64_t length);

  // ---- the medium ----
  core::BlockBackend* medium() const { return medium_; }
  bool present() const { return medium_ && !state_.tray_open; }
  /// Answers the command unless media can be accessed.
  bool ready(const CommandPtr& command);
  std::uint64_t blocks() const { return present() ? medium_->info().size / config_.block_size : 0; }
  std::uint32_t block_size() const { return config_.block_size; }
  bool write_cache() const { return state_.write_cache; }
  UnitState& changeable_state() { return state_; }
  const Config& config() const { return config_; }
  void start_stop(const CommandPtr& command);
  void prevent_allow(const CommandPtr& command);
  /// Answers the command unless [lba, lba+count) is on the medium.
  bool in_range(const CommandPtr& command, std::uint64_t lba, std::uint64_t count);
  void read_blocks(const CommandPtr& command, std::uint64_t lba, std::uint64_t count);
  void write_blocks(const CommandPtr& command, std::uint64_t lba, std::uint64_t count, bool fua);
  void flush(const CommandPtr& command);
  /// Works through command->work by steps, each of which is a request to the backend.
  void run_steps(const CommandPtr& command);
  void submit(const CommandPtr& command, core::BlockOp op, std::uint32_t flags, std::uint64_t offset,
              std::uint64_t length, std::span<const core::BlockSpan> spans);

 private:
  void inquiry(const CommandPtr& command);
  void vital_product(const CommandPtr& command, std::uint8_t page, std::uint64_t allocation);
  std::vector<std::uint8_t> identification() const;
  void request_sense(const CommandPtr& command);
  void mode_sense(const CommandPtr& command, bool ten);
  void mode_select(const CommandPtr& command, bool ten);
  /// What is wrong with the pages of a MODE SELECT.
  std::optional<Sense> check_mode_pages(std::span<const std::uint8_t> pages) const;
  void send_diagnostic(const CommandPtr& command);
  /// A request of a command ended: what the error policy makes of it, and the next step.
  void request_done(const CommandPtr& command, bool writing, int error);
  void advance(const CommandPtr& command);
  bool take_step(const CommandPtr& command);
  bool compare(Command& command);
  void want_bounce(const CommandPtr& command);
  void watch_medium();
  Sense sense_of(int error, bool writing) const;

  core::BlockBackend* medium_;
  Config config_;
  UnitState state_;
  std::function<void(std::uint16_t)> news_;
  unsigned bounces_ = 0;
  std::deque<CommandPtr> want_bounce_;
};

}  // namespace husk::devices::scsi
