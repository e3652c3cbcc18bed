// husk: what the guest knows of a shared tree: a number for each file, and how to get at the file again
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <deque>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "host/unique_fd.h"

namespace husk::hostfs {

/// A value, or a positive errno.
template <class T>
using Outcome = std::expected<T, int>;
using NodeId = std::uint64_t;
using FdRef = std::shared_ptr<const host::UniqueFd>;
using Stat = struct ::statx;

/// Which file it is, whatever its name. The time of birth tells a file from one that got its inode number after it;
/// 0 where the file system does not know it.
struct Identity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t birth = 0;
  bool operator==(const Identity&) const = default;
};

/// Where a file was when it was seen last.
struct Location {
  NodeId parent = 0;
  std::string name;
  bool operator==(const Location&) const = default;
};

/// A tree of hundreds of thousands of nodes must not take as many descriptors. So a node is known by its parent and
/// its name, and what is found there is compared with its identity each time; O_PATH descriptors are kept for those
/// used last, and as long as needed for those that have no name any more. All calls from any thread.
class NodeTable {
 public:
  struct Limits {
    std::size_t most_nodes = std::size_t{4} << 20;
    std::size_t cached_descriptors = 256;
    /// Of files without a name. Beyond it they are lost (ESTALE).
    std::size_t pinned_descriptors = 256;
  };
  /// `root` is an O_PATH descriptor of a directory.
  static Result<std::unique_ptr<NodeTable>> create(host::UniqueFd root, Limits limits);
  ~NodeTable();

  struct Entry {
    NodeId id = 0;
    Stat stat{};
  };
  /// Finds one name in a directory and counts a look-up of what is there. ENOENT in hidden directories.
  Outcome<Entry> look_up(NodeId parent, const std::string& name);
  /// The same for a file without a name (O_TMPFILE), which keeps the descriptor.
  Outcome<Entry> adopt(FdRef fd);
  /// Counts one more look-up of a node that the guest knows. False if it does not.
  bool hold(NodeId id);
  void forget(NodeId id, std::uint64_t count);
  /// Where it was seen last; the root is in itself, under no name. ESTALE if it has no name any more.
  Outcome<Location> location(NodeId id) const;
  /// Forgets all but the root.
  void clear();

  Outcome<Stat> stat(NodeId id);
  /// An O_PATH descriptor of exactly this file. ESTALE if it is not where it was.
  Outcome<FdRef> path(NodeId id);

  struct Kind {
    std::uint32_t type = 0;  ///< S_IFMT's bits; of an inode these never change
    bool hidden = false;     ///< neither opened nor, if it is a directory, looked into
    std::uint64_t device = 0;
  };
  Outcome<Kind> kind(NodeId id) const;

  // ---- what the guest did to names. Whoever calls serializes these with the system calls that they belong to. ----
  /// What is behind a name that is about to go, and a hold on it if the guest knows it.
  struct Named {
    NodeId id = 0;  ///< 0: not known to the guest
    Stat stat{};
    FdRef path;
  };
  Outcome<Named> behind(const Location& location);
  /// The name is gone: the file stays reachable by its descriptor, as long as the guest knows it.
  void removed(const Location& location, const Named& what);
  void renamed(const Location& from, const Location& to, const Named& what);

  /// The inode number to show: unique over all file systems below the root.
  std::uint64_t shown_inode(std::uint64_t device, std::uint64_t inode) const;
  std::size_t size() const;
  std::size_t descriptors() const;

  // ---- for a session that goes on elsewhere ----
  struct Saved {
    NodeId id = 0;
    NodeId parent = 0;
    std::string name;
    std::uint64_t lookups = 0;
    std::uint32_t mode = 0;
  };
  /// Parents before their children.
  std::vector<Saved> save() const;
  /// In the order of save(); into an empty table. A file that is not found keeps its number and is stale.
  Status restore(const std::vector<Saved>& nodes);

 private:
  static constexpr std::uint32_t kNone = 0xFFFF'FFFF;
  struct Node {
    Identity identity;
    Location location;  ///< no parent: no name is known
    std::uint64_t lookups = 0;
    std::uint32_t generation = 0;
    std::uint32_t children = 0;
    std::uint32_t mode = 0;
    bool used = false;
    bool hidden = false;
    bool pinned = false;
    FdRef path;
    std::uint32_t newer = kNone, older = kNone;  ///< in the list of cached descriptors
  };
  struct Device {
    std::uint32_t index = 0;
    bool has_birth = true;
    bool hidden = false;
  };
  struct IdentityHash {
    std::size_t operator()(const Identity& identity) const {
      return static_cast<std::size_t>((identity.inode ^ (identity.device << 40) ^ (identity.birth << 17)) *
                                      0x9E37'79B9'7F4A'7C15u);
    }
  };

  explicit NodeTable(Limits limits) : limits_(limits) {}
  Node* find(NodeId id);
  const Node* find(NodeId id) const;
  std::uint32_t slot_of(NodeId id) const { return static_cast<std::uint32_t>(id); }
  NodeId id_of(std::uint32_t slot) const { return (static_cast<NodeId>(nodes_[slot].generation) << 32) | slot; }
  Identity identity_of(const Stat& stat) const;
  /// Reads what kind of file system `fd` is on.
  int learn_device(int fd, const Stat& stat);
  Outcome<FdRef> path_locked(NodeId id);
  /// With the parent's descriptor: the node of what was found, or a new one.
  Outcome<NodeId> enter(const Stat& stat, const Location& location, bool hidden);
  Outcome<std::uint32_t> new_slot();
  void keep_path(std::uint32_t slot, FdRef fd);
  void drop_path(std::uint32_t slot);
  void pin(std::uint32_t slot, FdRef fd);
  void list_as_newest(std::uint32_t slot);
  void unlist(std::uint32_t slot);
  void set_location(std::uint32_t slot, const Location& location);
  bool is_below(NodeId id, NodeId ancestor) const;
  void release_if_unused(std::uint32_t slot);

  Limits limits_;
  mutable std::mutex mutex_;
  std::deque<Node> nodes_;
  std::vector<std::uint32_t> free_;
  std::unordered_map<Identity, std::uint32_t, IdentityHash> by_identity_;
  std::unordered_map<std::uint64_t, Device> devices_;
  std::uint32_t newest_ = kNone, oldest_ = kNone;
  std::size_t cached_ = 0, pinned_ = 0, used_ = 0;
};

/// True for what may be looked up: one component, which is neither "." nor "..".
bool is_plain_name(std::string_view name);
std::uint64_t device_of(const Stat& stat);
/// statx of a name in a directory, or of the descriptor itself (empty name). Follows nothing, mounts nothing.
int stat_at(int fd, const char* name, Stat& stat);

}  // namespace husk::hostfs
