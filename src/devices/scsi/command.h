// husk: one SCSI command on its way through a logical unit
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/block_backend.h"
#include "devices/scsi/sense.h"

namespace husk::devices::scsi {

class LogicalUnit;

/// A transport fills the first part and reads the second in `done`. The memory of the buffers stays valid until then.
struct Command {
  static constexpr std::size_t kMostCdb = 16;

  // ---- set by the transport ----
  std::array<std::uint8_t, kMostCdb> cdb{};  ///< zeros behind a shorter one; bytes of longer ones matter to no command
  std::vector<core::BlockSpan> out;          ///< data-out buffer: what the initiator sends
  std::vector<core::BlockSpan> in;           ///< data-in buffer
  std::uint64_t out_bytes = 0;               ///< sums of the spans
  std::uint64_t in_bytes = 0;
  /// Called once, possibly before execute() returns.
  std::move_only_function<void()> done;
  /// Set while the command runs to have it end at the next step, with whatever status.
  bool aborted = false;

  // ---- the answer ----
  CommandStatus status = CommandStatus::good;
  SenseBytes sense{};       ///< with check_condition
  std::uint64_t moved = 0;  ///< bytes read from `out` or written to `in`
  bool touched_in = false;  ///< a failed read may have written any of `in`
  bool overrun = false;     ///< nothing was done: the CDB wants more bytes than the buffers have
  /// The errno value of a backend error that is to stop the machine: nothing is answered yet, execute() again later.
  int stop_for = 0;
  bool writing = false;  ///< what failed was not a read

  // ---- a logical unit's work under way ----
  struct Work {
    enum class Kind : std::uint8_t { simple, verify, write_then_verify, write_same, unmap } kind = Kind::simple;
    std::uint64_t offset = 0;  ///< bytes; of the step to be done next
    std::uint64_t left = 0;
    std::uint64_t step = 0;
    std::uint64_t compared = 0;  ///< bytes of `out` that have been compared
    bool compare = false;
    bool one_block = false;  ///< compare every block with the one in `out`
    bool stepping = false;   ///< inside the loop that makes steps, which a completion then leaves them to
    bool again = false;
    bool has_bounce = false;
    std::vector<std::uint8_t> bounce;
    std::vector<core::BlockSpan> spans;
    struct Range {
      std::uint64_t offset, length;
    };
    std::vector<Range> ranges;
    std::size_t next_range = 0;
  } work;

  /// Copies from `out` at an offset; returns how many bytes there were.
  std::size_t read_out(std::uint64_t offset, std::span<std::uint8_t> into) const;
  /// Copies to the start of `in` and counts it as moved.
  void write_in(std::span<const std::uint8_t> from);
};

using CommandPtr = std::shared_ptr<Command>;

/// The first `length` bytes of a list of spans.
std::vector<core::BlockSpan> first_bytes(std::span<const core::BlockSpan> spans, std::uint64_t length);

}  // namespace husk::devices::scsi
