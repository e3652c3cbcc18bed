// husk: a piece of guest RAM and what is known of each of its pages
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/bits.h"
#include "base/result.h"

namespace husk::mem {

inline constexpr std::uint64_t kPageSize = 4096;

/// The 64 pieces of a page that [offset, offset+length) touches, as bits; length is at least 1 and stays in the page.
inline std::uint64_t granules_of(std::uint64_t offset, std::uint64_t length) {
  constexpr std::uint64_t kGranule = kPageSize / 64;
  const auto first = static_cast<unsigned>(offset % kPageSize / kGranule);
  const auto last = static_cast<unsigned>((offset % kPageSize + length - 1) / kGranule);
  return mask_of(last - first + 1, first);
}

/// Host memory that backs guest-physical addresses. Its size is a multiple of kPageSize. Contents are shared by all
/// threads; plain accesses race exactly as they do on real memory.
class RamRegion {
 public:
  /// Anonymous zero-filled memory of `size` bytes (rounded up to pages). Fails if the host cannot map it.
  static Result<std::unique_ptr<RamRegion>> create(std::string name, std::uint64_t size);
  /// The first `size` bytes (rounded up to pages) of a file, which must have them and keep them. `shared`: what is
  /// written is the file's; else it is seen here only. The descriptor may be closed afterwards.
  static Result<std::unique_ptr<RamRegion>> map_file(std::string name, int fd, std::uint64_t size, bool shared);
  ~RamRegion();
  RamRegion(const RamRegion&) = delete;
  RamRegion& operator=(const RamRegion&) = delete;

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return size_; }
  std::uint8_t* data() { return data_; }
  const std::uint8_t* data() const { return data_; }
  std::span<std::uint8_t> bytes() { return {data_, size_}; }

  /// Reasons for which a writer must report the page before it may write again without a look.
  enum PageFlag : std::uint8_t {
    kTracked = 1,  ///< the dirty log wants to hear of the next write
    kHasCode = 2,  ///< a software CPU holds decoded or translated code of this page
  };
  std::uint8_t page_flags(std::uint64_t offset) const {
    return flags_[offset / kPageSize].load(std::memory_order_acquire);
  }
  void set_page_flags(std::uint64_t offset, std::uint8_t set) { flags_[offset / kPageSize].fetch_or(set); }
  void clear_page_flags(std::uint64_t offset, std::uint8_t clear) {
    flags_[offset / kPageSize].fetch_and(static_cast<std::uint8_t>(~clear));
  }

  /// To be called around every write to [offset, offset+length) that does not come from a vCPU with a TLB of its own:
  /// after the bytes are written. Cheap when no page is flagged.
  void note_write(std::uint64_t offset, std::uint64_t length) {
    if (length == 0) return;
    for (std::uint64_t page = offset / kPageSize; page <= (offset + length - 1) / kPageSize; ++page)
      if (flags_[page].load(std::memory_order_acquire)) [[unlikely]]
        note_write_slow(page, offset, length);
  }

  /// Starts dirty logging: every page clean. `changed` listeners (TLBs that cache writability) hear of it.
  void start_dirty_log();
  void stop_dirty_log();
  bool dirty_log_on() const { return dirty_ != nullptr; }
  /// Calls `each(page_index)` for every page written since the last call, and marks it clean.
  void take_dirty(const std::function<void(std::uint64_t)>& each);

  /// Who is told when bytes of a page with kHasCode were written (the part of the write inside that page; the flag is
  /// still set), and when cached writability must be dropped (start and end of the dirty log, take_dirty). An
  /// accelerator whose guests write past note_write() reports those pages to it when asked to collect them. Set by the
  /// accelerator before vCPUs run.
  struct Listener {
    std::function<void(RamRegion&, std::uint64_t offset, std::uint64_t length)> code_written;
    std::function<void(RamRegion&)> protection_changed;
    std::function<void(RamRegion&)> collect_dirty = {};
  };
  void set_listener(Listener listener) { listener_ = std::move(listener); }

 private:
  RamRegion(std::string name, std::uint64_t size, std::uint8_t* data);
  void note_write_slow(std::uint64_t page, std::uint64_t offset, std::uint64_t length);

  std::string name_;
  std::uint64_t size_;
  std::uint8_t* data_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> flags_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> dirty_;
  Listener listener_;
};

}  // namespace husk::mem
