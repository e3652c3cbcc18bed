// husk: files and block devices of the host as block nodes
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/node.h"
#include "host/unique_fd.h"

namespace husk::block {

/// QEMU's `cache=`, as two choices a node and one for the disk (see DiskOptions).
enum class Locking {
  automatic,    ///< as QEMU does: one writer, or many readers; nothing where the file system has no OFD locks
  share_rw,     ///< other writers are welcome (a cluster file system in the guest)
  force_share,  ///< read-only whatever others do (`qemu-img -U`)
  off,
};

struct FileOptions {
  std::string path;
  bool read_only = false;
  bool direct = false;        ///< O_DIRECT: bypass the host's page cache
  bool ignore_flush = false;  ///< `cache=unsafe`
  bool writethrough = false;  ///< every write is stable when it completes
  bool discard = true;        ///< give discarded space back to the host
  Locking locking = Locking::automatic;
};

class File final : public Node {
 public:
  /// Refuses what is neither file nor block device, and an image that another process uses (QEMU's byte locks).
  static Result<std::unique_ptr<File>> open(Context& context, const FileOptions& options);
  ~File() override;

  const std::string& name() const override { return options_.path; }
  std::string_view driver() const override { return block_device_ ? "host_device" : "file"; }
  bool growable() const override { return !block_device_; }
  core::BlockInfo info() const override;
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void begin_batch() override { context_.files().begin_batch(); }
  void end_batch() override { context_.files().end_batch(); }
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override;
  void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) override;
  std::optional<std::uint64_t> allocated_bytes() override;
  void close(core::BlockCompletion done) override;

 private:
  struct Work;
  File(Context& context, FileOptions options);
  Status lock();
  Status examine();

  Work& take_work();
  void start_transfer(Work& work);
  void transferred(Work& work, std::int64_t result);
  void finish(Work& work, int error);
  void start_zeroes(Work& work);
  void zeroes_by_writing(Work& work);
  void start_unaligned(Work& work);
  void write_unaligned(Work& work);
  bool must_wait(const Work& work) const;
  void retry_waiting();

  Context& context_;
  FileOptions options_;
  host::UniqueFd fd_;
  bool block_device_ = false;
  std::uint32_t alignment_ = 1;
  std::uint64_t size_ = 0;
  bool can_punch_ = true;
  bool can_zero_range_ = true;
  bool failed_sync_ = false;
  unsigned in_flight_ = 0;
  std::vector<std::unique_ptr<Work>> all_work_;
  std::vector<Work*> free_work_;
  /// O_DIRECT only: writes under way, so that a read-modify-write never meets another write of the same blocks.
  std::list<Work*> writes_;
  std::list<Work*> waiting_;
  std::vector<std::move_only_function<void()>> drained_;
  std::unique_ptr<std::uint8_t[], void (*)(void*)> zeroes_{nullptr, nullptr};
};

}  // namespace husk::block
