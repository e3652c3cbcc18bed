// husk: what the guest knows of a shared tree: a number for each file, and how to get at the file again
#include "hostfs/node_table.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "hostfs/fuse_protocol.h"

namespace husk::hostfs {

namespace {
/// Directories within each other; only a guest that means harm gets anywhere near.
constexpr unsigned kMostDepth = 1u << 16;

/// File systems that are a window into the kernel, or into this very process (statfs(2), linux/magic.h): what can be
/// reached there is not files. With /proc writable, a guest would write husk's own memory.
constexpr std::array<std::uint32_t, 17> kKernelFileSystems = {
    0x9fa0,      // proc
    0x62656572,  // sysfs
    0x64626720,  // debugfs
    0x74726163,  // tracefs
    0x27e0eb,    // cgroup
    0x63677270,  // cgroup2
    0x73636673,  // securityfs
    0xf97cff8c,  // selinuxfs
    0x62656570,  // configfs
    0x1cd1,      // devpts
    0xcafe4a11,  // bpf
    0x6165676c,  // pstore
    0xde5e81e4,  // efivarfs
    0x65735543,  // fusectl
    0x19800202,  // mqueue
    0x42494e4d,  // binfmt_misc
    0x6e736673,  // nsfs
};
/// On overlayfs a file that is copied up keeps its inode number, but not its time of birth.
constexpr std::uint32_t kOverlayfs = 0x794c7630;
}  // namespace

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

std::uint64_t device_of(const Stat& stat) { return ::makedev(stat.stx_dev_major, stat.stx_dev_minor); }

int stat_at(int fd, const char* name, Stat& stat) {
  const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
  return ::statx(fd, name, flags, STATX_BASIC_STATS | STATX_BTIME, &stat) == 0 ? 0 : errno;
}

Result<std::unique_ptr<NodeTable>> NodeTable::create(host::UniqueFd root, Limits limits) {
  std::unique_ptr<NodeTable> table(new NodeTable(limits));
  Stat stat{};
  if (const int error = stat_at(root.get(), "", stat)) return fail_errno(error, "cannot look at the shared directory");
  if (const int error = table->learn_device(root.get(), stat))
    return fail_errno(error, "cannot ask for the shared directory's file system");
  if (table->devices_[device_of(stat)].hidden)
    return std::unexpected(Error{"the shared directory belongs to a file system of the kernel's own (proc, sysfs, ...)",
                                 "share a directory of files"});
  // Slot 0 stays unused: FUSE has no node 0, and the root is 1.
  table->nodes_.resize(2);
  Node& node = table->nodes_[fuse::kRootId];
  node.identity = table->identity_of(stat);
  node.mode = stat.stx_mode;
  node.used = node.pinned = true;
  node.lookups = 1;
  node.path = std::make_shared<const host::UniqueFd>(std::move(root));
  table->by_identity_.emplace(node.identity, static_cast<std::uint32_t>(fuse::kRootId));
  table->used_ = 1;
  return table;
}

NodeTable::~NodeTable() = default;

NodeTable::Node* NodeTable::find(NodeId id) { return const_cast<Node*>(std::as_const(*this).find(id)); }
const NodeTable::Node* NodeTable::find(NodeId id) const {
  const std::uint32_t slot = slot_of(id);
  if (slot >= nodes_.size() || !nodes_[slot].used || nodes_[slot].generation != id >> 32) return nullptr;
  return &nodes_[slot];
}

Identity NodeTable::identity_of(const Stat& stat) const {
  const auto device = devices_.find(device_of(stat));
  const bool birth = device != devices_.end() && device->second.has_birth && (stat.stx_mask & STATX_BTIME);
  return {device_of(stat), stat.stx_ino,
          birth ? static_cast<std::uint64_t>(stat.stx_btime.tv_sec) * 1'000'000'000 + stat.stx_btime.tv_nsec : 0};
}

int NodeTable::learn_device(int fd, const Stat& stat) {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0) return errno;
  const auto magic = static_cast<std::uint32_t>(system.f_type);
  const auto index = static_cast<std::uint32_t>(devices_.size());
  Device& device = devices_.try_emplace(device_of(stat), Device{index, true, false}).first->second;
  device.has_birth = magic != kOverlayfs;
  device.hidden = std::find(kKernelFileSystems.begin(), kKernelFileSystems.end(), magic) != kKernelFileSystems.end();
  return 0;
}

Outcome<NodeTable::Entry> NodeTable::look_up(NodeId parent, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto directory = path_locked(parent);
  if (!directory) return std::unexpected(directory.error());
  if (find(parent)->hidden) return std::unexpected(ENOENT);
  Stat stat{};
  if (const int error = stat_at((*directory)->get(), name.c_str(), stat)) return std::unexpected(error);
  bool hidden = false;
  if (device_of(stat) != find(parent)->identity.device) {
    // A mount point. Numbers of devices are used again, so what is mounted is asked for each time.
    const host::UniqueFd top(::openat((*directory)->get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!top) return std::unexpected(errno);
    if (const int error = stat_at(top.get(), "", stat)) return std::unexpected(error);
    if (const int error = learn_device(top.get(), stat)) return std::unexpected(error);
    hidden = devices_[device_of(stat)].hidden;
  }
  const auto id = enter(stat, {parent, name}, hidden);
  if (!id) return std::unexpected(id.error());
  ++find(*id)->lookups;
  return Entry{*id, stat};
}

Outcome<NodeTable::Entry> NodeTable::adopt(FdRef fd) {
  const std::lock_guard lock(mutex_);
  Stat stat{};
  if (const int error = stat_at(fd->get(), "", stat)) return std::unexpected(error);
  if (pinned_ >= limits_.pinned_descriptors) return std::unexpected(ENFILE);
  const auto id = enter(stat, {}, false);
  if (!id) return std::unexpected(id.error());
  ++find(*id)->lookups;
  pin(slot_of(*id), std::move(fd));
  return Entry{*id, stat};
}

Outcome<NodeId> NodeTable::enter(const Stat& stat, const Location& location, bool hidden) {
  const Identity identity = identity_of(stat);
  if (const auto known = by_identity_.find(identity); known != by_identity_.end()) {
    const std::uint32_t slot = known->second;
    Node& node = nodes_[slot];
    if ((node.mode & S_IFMT) == (stat.stx_mode & S_IFMT)) {
      if (slot == fuse::kRootId) return id_of(slot);
      node.hidden = hidden;
      if (location.parent && !(node.location == location) && !is_below(location.parent, id_of(slot)))
        set_location(slot, location);
      return id_of(slot);
    }
    by_identity_.erase(known);
  }
  const auto slot = new_slot();
  if (!slot) return std::unexpected(slot.error());
  Node& node = nodes_[*slot];
  node.identity = identity;
  node.mode = stat.stx_mode;
  node.hidden = hidden;
  by_identity_.emplace(identity, *slot);
  if (location.parent) set_location(*slot, location);
  return id_of(*slot);
}

Outcome<std::uint32_t> NodeTable::new_slot() {
  if (used_ >= limits_.most_nodes) return std::unexpected(ENFILE);
  std::uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
    const std::uint32_t generation = nodes_[slot].generation + 1;
    nodes_[slot] = {};
    nodes_[slot].generation = generation;
  }
  nodes_[slot].used = true;
  ++used_;
  return slot;
}

bool NodeTable::hold(NodeId id) {
  const std::lock_guard lock(mutex_);
  Node* const node = find(id);
  if (!node) return false;
  ++node->lookups;
  return true;
}

Outcome<Location> NodeTable::location(NodeId id) const {
  const std::lock_guard lock(mutex_);
  if (id == fuse::kRootId) return Location{fuse::kRootId, {}};
  const Node* const node = find(id);
  if (!node || !node->location.parent) return std::unexpected(ESTALE);
  return node->location;
}

void NodeTable::forget(NodeId id, std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  Node* const node = find(id);
  if (!node || id == fuse::kRootId) return;
  node->lookups -= std::min(node->lookups, count);
  release_if_unused(slot_of(id));
}

void NodeTable::release_if_unused(std::uint32_t slot) {
  while (slot != fuse::kRootId) {
    Node& node = nodes_[slot];
    if (!node.used || node.lookups || node.children) return;
    const NodeId parent = std::exchange(node.location, {}).parent;
    drop_path(slot);
    if (const auto known = by_identity_.find(node.identity); known != by_identity_.end() && known->second == slot)
      by_identity_.erase(known);
    node.used = false;
    --used_;
    free_.push_back(slot);
    Node* const above = parent ? find(parent) : nullptr;
    if (!above) return;
    --above->children;
    slot = slot_of(parent);
  }
}

void NodeTable::clear() {
  const std::lock_guard lock(mutex_);
  for (std::uint32_t slot = fuse::kRootId + 1; slot < nodes_.size(); ++slot) {
    Node& node = nodes_[slot];
    if (!node.used) continue;
    drop_path(slot);
    // Numbers of before stay unknown, whoever still uses them.
    const std::uint32_t generation = node.generation;
    node = {};
    node.generation = generation;
    free_.push_back(slot);
  }
  nodes_[fuse::kRootId].children = 0;
  by_identity_.clear();
  by_identity_.emplace(nodes_[fuse::kRootId].identity, static_cast<std::uint32_t>(fuse::kRootId));
  used_ = 1;
}

Outcome<Stat> NodeTable::stat(NodeId id) {
  const std::lock_guard lock(mutex_);
  const Node* const node = find(id);
  if (!node) return std::unexpected(ESTALE);
  Stat stat{};
  if (node->path) {
    if (const int error = stat_at(node->path->get(), "", stat)) return std::unexpected(error);
    return stat;
  }
  if (!node->location.parent) return std::unexpected(ESTALE);
  const std::string name = node->location.name;
  const Identity identity = node->identity;
  const auto directory = path_locked(node->location.parent);
  if (!directory) return std::unexpected(directory.error());
  const int error = stat_at((*directory)->get(), name.c_str(), stat);
  if (error || !(identity_of(stat) == identity)) return std::unexpected(error && error != ENOENT ? error : ESTALE);
  return stat;
}

Outcome<FdRef> NodeTable::path(NodeId id) {
  const std::lock_guard lock(mutex_);
  return path_locked(id);
}

Outcome<FdRef> NodeTable::path_locked(NodeId id) {
  Node* node = find(id);
  if (!node) return std::unexpected(ESTALE);
  if (node->path) {
    if (!node->pinned) {
      unlist(slot_of(id));
      list_as_newest(slot_of(id));
    }
    return node->path;
  }
  std::vector<std::uint32_t> chain;
  NodeId at = id;
  while (!node->path) {
    if (!node->location.parent || chain.size() >= kMostDepth) return std::unexpected(ESTALE);
    chain.push_back(slot_of(at));
    at = node->location.parent;
    node = find(at);
    if (!node) return std::unexpected(ESTALE);
  }
  FdRef current = node->path;
  for (auto slot = chain.rbegin(); slot != chain.rend(); ++slot) {
    const Node& next = nodes_[*slot];
    host::UniqueFd fd(::openat(current->get(), next.location.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return std::unexpected(errno == ENOENT || errno == ENOTDIR ? ESTALE : errno);
    Stat stat{};
    if (const int error = stat_at(fd.get(), "", stat)) return std::unexpected(error);
    if (!(identity_of(stat) == next.identity) || (stat.stx_mode & S_IFMT) != (next.mode & S_IFMT))
      return std::unexpected(ESTALE);
    current = std::make_shared<const host::UniqueFd>(std::move(fd));
    keep_path(*slot, current);
  }
  return current;
}

Outcome<NodeTable::Kind> NodeTable::kind(NodeId id) const {
  const std::lock_guard lock(mutex_);
  const Node* const node = find(id);
  if (!node) return std::unexpected(ESTALE);
  return Kind{node->mode & S_IFMT, node->hidden, node->identity.device};
}

void NodeTable::keep_path(std::uint32_t slot, FdRef fd) {
  nodes_[slot].path = std::move(fd);
  list_as_newest(slot);
  ++cached_;
  while (cached_ > std::max<std::size_t>(1, limits_.cached_descriptors)) drop_path(oldest_);
}

void NodeTable::drop_path(std::uint32_t slot) {
  Node& node = nodes_[slot];
  if (!node.path) return;
  if (node.pinned) {
    --pinned_;
  } else {
    unlist(slot);
    --cached_;
  }
  node.pinned = false;
  node.path.reset();
}

void NodeTable::pin(std::uint32_t slot, FdRef fd) {
  if (nodes_[slot].pinned) return;
  drop_path(slot);
  if (pinned_ >= limits_.pinned_descriptors || !fd) return;
  nodes_[slot].path = std::move(fd);
  nodes_[slot].pinned = true;
  ++pinned_;
}

void NodeTable::list_as_newest(std::uint32_t slot) {
  Node& node = nodes_[slot];
  node.newer = kNone;
  node.older = newest_;
  if (newest_ != kNone) nodes_[newest_].newer = slot;
  newest_ = slot;
  if (oldest_ == kNone) oldest_ = slot;
}

void NodeTable::unlist(std::uint32_t slot) {
  Node& node = nodes_[slot];
  (node.newer == kNone ? newest_ : nodes_[node.newer].older) = node.older;
  (node.older == kNone ? oldest_ : nodes_[node.older].newer) = node.newer;
  node.newer = node.older = kNone;
}

void NodeTable::set_location(std::uint32_t slot, const Location& location) {
  Node& node = nodes_[slot];
  const NodeId before = std::exchange(node.location, location).parent;
  if (location.parent) {
    ++find(location.parent)->children;
    if (node.pinned) {
      // It has a name again, by which it can be found.
      FdRef fd = node.path;
      drop_path(slot);
      keep_path(slot, std::move(fd));
    }
  }
  if (!before) return;
  if (Node* const above = find(before)) {
    --above->children;
    release_if_unused(slot_of(before));
  }
}

bool NodeTable::is_below(NodeId id, NodeId ancestor) const {
  for (unsigned depth = 0; depth < kMostDepth; ++depth) {
    if (id == ancestor) return true;
    const Node* const node = find(id);
    if (!node || id == fuse::kRootId) return false;
    id = node->location.parent;
  }
  return true;
}

Outcome<NodeTable::Named> NodeTable::behind(const Location& location) {
  const std::lock_guard lock(mutex_);
  const auto directory = path_locked(location.parent);
  if (!directory) return std::unexpected(directory.error());
  if (find(location.parent)->hidden) return std::unexpected(ENOENT);
  Named what;
  if (const int error = stat_at((*directory)->get(), location.name.c_str(), what.stat)) return std::unexpected(error);
  const auto known = by_identity_.find(identity_of(what.stat));
  if (known == by_identity_.end()) return what;
  what.id = id_of(known->second);
  if (nodes_[known->second].location == location)
    if (auto path = path_locked(what.id)) what.path = std::move(*path);
  return what;
}

void NodeTable::removed(const Location& location, const Named& what) {
  const std::lock_guard lock(mutex_);
  Node* const node = find(what.id);
  if (!node || !(node->location == location)) return;
  pin(slot_of(what.id), what.path);
  set_location(slot_of(what.id), {});
}

void NodeTable::renamed(const Location& from, const Location& to, const Named& what) {
  const std::lock_guard lock(mutex_);
  Node* const node = find(what.id);
  if (!node || !find(to.parent) || !(node->location == from) || is_below(to.parent, what.id)) return;
  set_location(slot_of(what.id), to);
}

std::uint64_t NodeTable::shown_inode(std::uint64_t number, std::uint64_t inode) const {
  const std::lock_guard lock(mutex_);
  const auto device = devices_.find(number);
  // Inode numbers of 48 bits and more are rare; two files that come to the same one would be taken for hard links.
  return inode ^ (std::uint64_t{device == devices_.end() ? 0 : device->second.index} << 48);
}

std::size_t NodeTable::size() const {
  const std::lock_guard lock(mutex_);
  return used_;
}
std::size_t NodeTable::descriptors() const {
  const std::lock_guard lock(mutex_);
  return cached_ + pinned_ + 1;
}

std::vector<NodeTable::Saved> NodeTable::save() const {
  const std::lock_guard lock(mutex_);
  std::vector<Saved> saved;
  std::vector<bool> done(nodes_.size());
  std::vector<std::uint32_t> chain;
  done[fuse::kRootId] = true;
  for (std::uint32_t first = fuse::kRootId + 1; first < nodes_.size(); ++first) {
    for (std::uint32_t slot = first; nodes_[slot].used && !done[slot];) {
      done[slot] = true;
      chain.push_back(slot);
      const NodeId parent = nodes_[slot].location.parent;
      if (!find(parent)) break;
      slot = slot_of(parent);
    }
    for (; !chain.empty(); chain.pop_back()) {
      const Node& node = nodes_[chain.back()];
      saved.push_back({id_of(chain.back()), node.location.parent, node.location.name, node.lookups, node.mode});
    }
  }
  return saved;
}

Status NodeTable::restore(const std::vector<Saved>& nodes) {
  for (const Saved& saved : nodes) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t slot = slot_of(saved.id);
    if (slot <= fuse::kRootId || slot >= limits_.most_nodes || (slot < nodes_.size() && nodes_[slot].used))
      return fail("the saved session has a node {:#x} that cannot be", saved.id);
    if (saved.parent && !find(saved.parent))
      return fail("the saved session has node {:#x} in a directory {:#x} that it lacks", saved.id, saved.parent);
    if (saved.parent && !is_plain_name(saved.name))
      return fail("the saved session has node {:#x} under a name that cannot be", saved.id);
    while (nodes_.size() <= slot) {
      free_.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.emplace_back();
    }
    // Whether the slot is among the free ones is put right in the end.
    Node& node = nodes_[slot];
    node = {};
    node.generation = static_cast<std::uint32_t>(saved.id >> 32);
    node.lookups = saved.lookups;
    node.mode = saved.mode;
    node.used = true;
    ++used_;
    if (!saved.parent) continue;
    const auto directory = path_locked(saved.parent);
    Stat stat{};
    bool found = directory && stat_at((*directory)->get(), saved.name.c_str(), stat) == 0;
    if (found && device_of(stat) != find(saved.parent)->identity.device) {
      const host::UniqueFd top(::openat((*directory)->get(), saved.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      found = top && stat_at(top.get(), "", stat) == 0 && learn_device(top.get(), stat) == 0;
      if (found) node.hidden = devices_[device_of(stat)].hidden;
    }
    node.identity = {~std::uint64_t{0}, saved.id, 0};
    if (found && ((stat.stx_mode ^ saved.mode) & S_IFMT) == 0 && !find(saved.parent)->hidden &&
        by_identity_.emplace(identity_of(stat), slot).second)
      node.identity = identity_of(stat);
    set_location(slot, {saved.parent, saved.name});
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(free_, [this](std::uint32_t slot) { return nodes_[slot].used; });
  return {};
}

}  // namespace husk::hostfs
