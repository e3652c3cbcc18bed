// husk: how a SCSI logical unit works with its medium: readiness, ejection, and requests to the backend
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "devices/scsi/unit.h"

namespace husk::devices::scsi {

namespace {
constexpr unsigned kMostBounces = 4;
// MMC-6, table 310: media events.
constexpr std::uint8_t kEjectRequest = 1, kNewMedia = 2, kMediaRemoval = 3;
}  // namespace

// ---- the medium comes and goes ----

bool LogicalUnit::ready(const CommandPtr& command) {
  if (state_.stopped) {
    fail(command, kBecomingReady);
    return false;
  }
  if (!present()) {
    fail(command, absent_medium());
    return false;
  }
  return true;
}

void LogicalUnit::start_stop(const CommandPtr& command) {
  const std::uint8_t flags = command->cdb[4];
  // Power conditions other than START_VALID and ACTIVE are not there (SBC-3, 5.25).
  if ((flags >> 4) > 1) return fail(command, kInvalidField);
  const bool start = flags & 1, load_eject = flags & 2;
  if (flags >> 4) {
    state_.stopped = false;
    return finish(command);
  }
  if (load_eject && !config_.removable) return fail(command, kInvalidField);
  if (load_eject && !start) {
    if (state_.prevented) return fail(command, kRemovalPrevented);
    if (!state_.tray_open) state_.media_event = kMediaRemoval;
    state_.tray_open = true;
  } else if (load_eject) {
    if (state_.tray_open && medium_) {
      state_.media_event = kNewMedia;
      attend(kMediumChanged);
    }
    state_.tray_open = false;
    state_.stopped = false;
  } else {
    state_.stopped = !start;
  }
  finish(command);
}

void LogicalUnit::prevent_allow(const CommandPtr& command) {
  if (command->cdb[4] & ~1) return fail(command, kInvalidField);
  state_.prevented = command->cdb[4] & 1;
  finish(command);
}

void LogicalUnit::request_eject() {
  if (state_.prevented) {
    state_.media_event = kEjectRequest;
    return;
  }
  if (!state_.tray_open) state_.media_event = kMediaRemoval;
  state_.tray_open = true;
}

void LogicalUnit::change_medium(core::BlockBackend* medium) {
  if (medium_) medium_->set_resized({});
  medium_ = medium;
  watch_medium();
  state_.tray_open = false;
  state_.media_event = medium ? kNewMedia : kMediaRemoval;
  attend(kMediumChanged);
  if (news_) news_(kMediumChanged);
}

// ---- transfers ----

bool LogicalUnit::in_range(const CommandPtr& command, std::uint64_t lba, std::uint64_t count) {
  const std::uint64_t size = blocks();
  if (lba <= size && count <= size - lba) return true;
  fail(command, {kOutOfRange.key, kOutOfRange.code, std::max(lba, size)});
  return false;
}

void LogicalUnit::read_blocks(const CommandPtr& command, std::uint64_t lba, std::uint64_t count) {
  if (!ready(command) || !in_range(command, lba, count)) return;
  const std::uint64_t length = count * config_.block_size;
  if (length > command->in_bytes) {
    command->overrun = true;
    return finish(command);
  }
  if (length == 0) return finish(command);
  command->work.spans = first_bytes(command->in, length);
  command->moved = length;
  submit(command, core::BlockOp::read, 0, lba * config_.block_size, length, command->work.spans);
}

void LogicalUnit::write_blocks(const CommandPtr& command, std::uint64_t lba, std::uint64_t count, bool fua) {
  if (!ready(command) || !in_range(command, lba, count)) return;
  const std::uint64_t length = count * config_.block_size;
  if (length > command->out_bytes) {
    command->overrun = true;
    return finish(command);
  }
  if (length == 0) return finish(command);
  command->work.spans = first_bytes(command->out, length);
  command->moved = length;
  submit(command, core::BlockOp::write, fua || !state_.write_cache ? core::BlockFlags::kFua : 0,
         lba * config_.block_size, length, command->work.spans);
}

void LogicalUnit::flush(const CommandPtr& command) { submit(command, core::BlockOp::flush, 0, 0, 0, {}); }

void LogicalUnit::submit(const CommandPtr& command, core::BlockOp op, std::uint32_t flags, std::uint64_t offset,
                         std::uint64_t length, std::span<const core::BlockSpan> spans) {
  HUSK_CHECK(medium_ != nullptr);
  core::BlockRequest request;
  request.op = op;
  request.flags = flags;
  request.offset = offset;
  request.length = length;
  request.spans = spans;
  request.completion = [this, command, op](int error) { request_done(command, op != core::BlockOp::read, error); };
  medium_->submit(std::move(request));
}

Sense LogicalUnit::sense_of(int error, bool writing) const {
  switch (error) {
    case ENOSPC: return kSpaceFailed;
    case EROFS: return kWriteProtected;
    case EINVAL: return kOutOfRange;  // the medium became smaller meanwhile
    case ENOMEM:
    case ECANCELED: return kTargetFailure;
    default: return writing ? kWriteError : kReadError;
  }
}

void LogicalUnit::request_done(const CommandPtr& command, bool writing, int error) {
  Command::Work& work = command->work;
  if (error && !command->aborted) {
    // Also of a part that failed: the backend may have written some of it.
    if (!writing && work.kind == Command::Work::Kind::simple) command->touched_in = true;
    switch (config_.policy.action(writing, error)) {
      case core::BlockErrorAction::ignore: break;
      case core::BlockErrorAction::report: return fail(command, sense_of(error, writing));
      case core::BlockErrorAction::stop:
        command->stop_for = error;
        command->writing = writing;
        command->moved = 0;
        return finish(command);
    }
  }
  if (work.kind == Command::Work::Kind::simple || command->aborted) return finish(command);
  if (work.kind == Command::Work::Kind::write_then_verify) {
    work.kind = Command::Work::Kind::verify;
    return run_steps(command);
  }
  if (work.kind == Command::Work::Kind::verify && work.compare && !compare(*command)) return fail(command, kMiscompare);
  work.offset += work.step;
  work.left -= work.step;
  advance(command);
}

// ---- commands of many steps ----

void LogicalUnit::run_steps(const CommandPtr& command) {
  using Kind = Command::Work::Kind;
  Command::Work& work = command->work;
  if ((work.kind == Kind::verify || work.kind == Kind::write_same) && work.left) {
    // What a guest can have husk allocate by such commands is bounded.
    if (bounces_ >= kMostBounces) {
      want_bounce_.push_back(command);
      return;
    }
    ++bounces_;
    work.has_bounce = true;
    want_bounce(command);
  }
  advance(command);
}

void LogicalUnit::want_bounce(const CommandPtr& command) {
  Command::Work& work = command->work;
  const std::uint32_t block = config_.block_size;
  work.bounce.resize(static_cast<std::size_t>(std::min<std::uint64_t>(work.left, kBounceBytes / block * block)));
  if (work.kind != Command::Work::Kind::write_same) return;
  command->moved = command->read_out(0, std::span(work.bounce).first(block));
  for (std::size_t at = block; at < work.bounce.size(); at += block)
    std::memcpy(&work.bounce[at], work.bounce.data(), block);
}

void LogicalUnit::advance(const CommandPtr& command) {
  Command::Work& work = command->work;
  // A backend that completes at once would otherwise nest as deep as there are steps.
  if (work.stepping) {
    work.again = true;
    return;
  }
  work.stepping = true;
  do {
    work.again = false;
    if (!take_step(command)) break;
  } while (work.again);
  work.stepping = false;
}

bool LogicalUnit::take_step(const CommandPtr& command) {
  using Kind = Command::Work::Kind;
  Command::Work& work = command->work;
  if (work.kind == Kind::unmap && work.left == 0 && work.next_range < work.ranges.size()) {
    work.offset = work.ranges[work.next_range].offset;
    work.left = work.ranges[work.next_range].length;
    ++work.next_range;
    if (work.left == 0) {
      work.again = true;
      return true;
    }
  }
  if (work.left == 0 || command->aborted) {
    finish(command);
    return false;
  }
  if (work.kind == Kind::unmap) {
    work.step = work.left;
    submit(command, core::BlockOp::discard, 0, work.offset, work.step, {});
    return true;
  }
  work.step = std::min<std::uint64_t>(work.left, work.bounce.size());
  work.spans.assign(1, core::BlockSpan(work.bounce).first(static_cast<std::size_t>(work.step)));
  const bool verify = work.kind == Kind::verify;
  const std::uint32_t stable = verify || state_.write_cache ? 0 : core::BlockFlags::kFua;
  submit(command, verify ? core::BlockOp::read : core::BlockOp::write, stable, work.offset, work.step, work.spans);
  return true;
}

bool LogicalUnit::compare(Command& command) {
  Command::Work& work = command.work;
  const std::uint32_t block = config_.block_size;
  std::vector<std::uint8_t> expected(block);
  for (std::uint64_t at = 0; at < work.step; at += block) {
    command.read_out(work.one_block ? 0 : work.compared, expected);
    if (std::memcmp(expected.data(), &work.bounce[static_cast<std::size_t>(at)], block) != 0) return false;
    work.compared += block;
  }
  return true;
}

void LogicalUnit::abort(const CommandPtr& command) {
  command->aborted = true;
  const auto waiting = std::find(want_bounce_.begin(), want_bounce_.end(), command);
  if (waiting == want_bounce_.end()) return;
  want_bounce_.erase(waiting);
  finish(command);
}

void LogicalUnit::finish(const CommandPtr& command) {
  if (std::exchange(command->work.has_bounce, false)) {
    command->work.bounce = {};
    --bounces_;
    if (!want_bounce_.empty()) {
      const CommandPtr next = std::move(want_bounce_.front());
      want_bounce_.pop_front();
      run_steps(next);
    }
  }
  auto done = std::move(command->done);
  command->done = nullptr;
  if (done) done();
}

}  // namespace husk::devices::scsi
