// husk: the contract between a disk device and what stores its data
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"

namespace husk::core {

enum class BlockOp : std::uint8_t { read, write, flush, discard, write_zeroes };

/// Bits of BlockRequest::flags.
struct BlockFlags {
  /// write, write_zeroes: on stable storage before it completes.
  static constexpr std::uint32_t kFua = 1;
  /// write_zeroes: the space may be given back, as long as it reads as zeroes.
  static constexpr std::uint32_t kMayUnmap = 2;
  /// write_zeroes: ENOTSUP rather than writing out zeroes, where no faster way is known.
  static constexpr std::uint32_t kNoFallback = 4;
  /// write: store it compressed if the format can, ENOTSUP else. Whole clusters (the last may be cut off by the end).
  static constexpr std::uint32_t kCompressed = 8;
};

/// A piece of the caller's memory; a write only reads it.
using BlockSpan = std::span<std::uint8_t>;

/// What became of a request: 0, or a positive errno value: EIO, ENOSPC (the store is full: a device may stop the
/// machine and try again later), EROFS, EINVAL (out of range), ENOTSUP, ECANCELED (the backend went away).
using BlockCompletion = std::move_only_function<void(int error)>;

struct BlockRequest {
  BlockOp op = BlockOp::read;
  std::uint32_t flags = 0;
  std::uint64_t offset = 0;  ///< bytes; any alignment, but see BlockInfo::alignment for what is fast
  std::uint64_t length = 0;  ///< bytes; for read and write the sum of the spans; unused by flush
  /// read and write only. The list and the memory stay valid until the completion has been called.
  std::span<const BlockSpan> spans;
  /// Called exactly once, on the owner's loop, possibly before submit() returns. It may submit again.
  BlockCompletion completion;
};

struct BlockInfo {
  std::uint64_t size = 0;        ///< bytes
  std::uint32_t alignment = 1;   ///< offsets and lengths of other multiples cost a read-modify-write; a power of two
  std::uint32_t optimal_io = 0;  ///< preferred multiple for I/O and discard (a format's cluster); 0: none
  std::uint32_t discard_unit = 512;  ///< smaller or unaligned discards do nothing; a power of two
  bool read_only = false;            ///< writing requests give EROFS
  bool can_discard = false;          ///< otherwise a discard succeeds and does nothing
  bool fast_zeroes = false;          ///< write_zeroes is cheaper than a write
  /// False: a completed write is stable (writethrough, directsync), so a device need not offer a flush.
  bool volatile_cache = true;
};

/// Optional: a backend whose size can change while in use.
class BlockResizable {
 public:
  virtual ~BlockResizable() = default;
  virtual void resize(std::uint64_t size, BlockCompletion done) = 0;
};

/// Optional: a backend that keeps snapshots of its content inside itself.
class BlockSnapshotting {
 public:
  using Done = std::move_only_function<void(Status)>;
  virtual ~BlockSnapshotting() = default;
  /// A snapshot of what has completed by now; `name` must be new.
  virtual void create_snapshot(std::string name, Done done) = 0;
  /// The disk's content becomes the snapshot's. `name` is a snapshot's name or id.
  virtual void apply_snapshot(std::string name, Done done) = 0;
  virtual void delete_snapshot(std::string name, Done done) = 0;
};

/// The host side of a disk. It has one owner, and belongs to the loop (thread) that the owner gave it when it was made:
/// all calls are made there, and all callbacks come there.
class BlockBackend {
 public:
  /// A backend may be destroyed only after drain() and with no request under way.
  virtual ~BlockBackend() = default;
  /// Cheap; `size` is the only part that can change (see set_resized).
  virtual BlockInfo info() const = 0;
  /// Starts a request. A request out of range completes with EINVAL; spans that do not add up to the length break the
  /// contract. Requests under way together have no order; a flush covers the writes that completed before it.
  virtual void submit(BlockRequest request) = 0;
  /// Calls back when no request submitted before is under way any more.
  virtual void drain(std::move_only_function<void()> done) = 0;
  /// Between the two, the backend may hold back what is submitted, to start it in one go. They nest.
  virtual void begin_batch() {}
  virtual void end_batch() {}
  /// Called when the size has changed, after info() tells it.
  virtual void set_resized(std::function<void()> resized) { (void)resized; }

  virtual BlockResizable* resizable() { return nullptr; }
  virtual BlockSnapshotting* snapshotting() { return nullptr; }
};

}  // namespace husk::core
