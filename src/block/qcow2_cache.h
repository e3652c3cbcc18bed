// husk: pieces of qcow2's tables (L2 and refcounts) in memory
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "block/node.h"

namespace husk::block::qcow2 {

/// A piece of a table, all of it loaded; small, so that one change costs one small write.
struct Slice {
  std::uint64_t offset = 0;  ///< in the file
  std::unique_ptr<std::uint8_t, void (*)(void*)> data{nullptr, std::free};
  bool dirty = false;
  bool saving = false;  ///< being written: the file may still have the old content
  bool loading = false;
  bool forgotten = false;  ///< its place in the file is used for something else now
  unsigned pins = 0;
  std::vector<std::move_only_function<void(int, Slice*)>> waiters;
  std::list<Slice*>::iterator age;
};

/// A least-recently-used cache of slices. What is dirty, being saved or pinned stays, over the capacity if need be; the
/// image commits (Qcow2::commit) long before that gets out of hand.
class TableCache {
 public:
  using Got = std::move_only_function<void(int error, Slice*)>;

  TableCache(Node& file, std::size_t slice_bytes, std::size_t capacity)
      : file_(file), slice_bytes_(slice_bytes), capacity_(capacity) {}
  ~TableCache();

  std::size_t slice_bytes() const { return slice_bytes_; }
  std::size_t capacity() const { return capacity_; }
  std::size_t dirty_count() const { return dirty_.size(); }

  /// The slice if it is loaded, unpinned: valid until control leaves the caller.
  Slice* find(std::uint64_t offset);
  /// Calls back at once if it is loaded. The slice comes pinned.
  void get(std::uint64_t offset, Got got);
  void unpin(Slice& slice);
  void mark_dirty(Slice& slice);
  /// Loses what is known of a range of the file, because it is used for something new.
  void forget(std::uint64_t offset, std::uint64_t length);
  /// Loses all; nothing may be pinned, dirty or under way.
  void clear();

  /// Takes the dirty slices: each is clean and `saving` from now on, until saved() is told how it went.
  std::vector<Slice*> take_dirty();
  void saved(Slice& slice, int error);

 private:
  void loaded(Slice& slice, int error);
  void trim();
  void release_if_forgotten(Slice& slice);

  Node& file_;
  const std::size_t slice_bytes_;
  const std::size_t capacity_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Slice>> slices_;
  std::vector<std::unique_ptr<Slice>> forgotten_;
  std::list<Slice*> ages_;  // oldest first
  std::vector<Slice*> dirty_;
  Slice* last_ = nullptr;  // most lookups are for the one before
};

}  // namespace husk::block::qcow2
