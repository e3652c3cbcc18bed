// husk: what the guest has open of a shared tree
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hostfs/node_table.h"

namespace husk::hostfs {

struct OpenFile {
  host::UniqueFd fd;  ///< none: a hidden directory, which is empty
  NodeId node = 0;
  std::uint32_t flags = 0;  ///< as the guest gave them to open(2)
  bool directory = false;
  /// The file system cannot tell whether a read would wait, but none of it ever does: it is all in memory.
  std::atomic<bool> in_memory = false;

  /// Directories: what was read of the host and not passed on yet.
  std::mutex mutex;
  std::vector<std::uint8_t> entries;
  std::size_t next = 0;      ///< into `entries`
  std::uint64_t offset = 0;  ///< the guest's offset of `next`
};
using OpenFileRef = std::shared_ptr<OpenFile>;

/// Open files by the numbers that the guest was given. Any thread.
class HandleTable {
 public:
  explicit HandleTable(std::size_t most) : most_(most) {}
  /// Never 0, which stands for no handle.
  Outcome<std::uint64_t> add(OpenFileRef file);
  /// Null if this node has no such handle.
  OpenFileRef find(std::uint64_t handle, NodeId node) const;
  OpenFileRef remove(std::uint64_t handle, NodeId node);
  void clear();
  /// What is not descriptors of handles, but counts as if (locks).
  bool reserve(std::size_t count);
  void give_back(std::size_t count);

  struct Saved {
    std::uint64_t handle = 0;
    OpenFileRef file;
  };
  std::vector<Saved> save() const;
  /// False if the number cannot be one of this table's, or is in use.
  bool restore(std::uint64_t handle, OpenFileRef file);

 private:
  struct Slot {
    OpenFileRef file;
    std::uint32_t generation = 0;
  };
  const Slot* find_slot(std::uint64_t handle) const;
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t used_ = 0, reserved_ = 0;
};

/// Files of shares whose guest opens without asking: those read last stay open.
class RecentFiles {
 public:
  explicit RecentFiles(std::size_t most) : most_(most) {}
  OpenFileRef find(NodeId node);
  void add(OpenFileRef file);
  void clear();

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::list<OpenFileRef> files_;  ///< newest first
  std::unordered_map<NodeId, std::list<OpenFileRef>::iterator> by_node_;
};

}  // namespace husk::hostfs
