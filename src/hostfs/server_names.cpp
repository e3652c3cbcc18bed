// husk: the FUSE server: names: looking up, making, linking, renaming, removing
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
constexpr std::uint32_t kRenameNoReplace = 1, kRenameExchange = 2, kRenameWhiteout = 4;
/// Freeing the space of a file larger than this takes so long that no CPU should wait for it.
constexpr std::uint64_t kLargeFile = std::uint64_t{64} << 20;
}  // namespace

int Server::Impl::reply_entry(Call& call, const Location& location) {
  const auto entry = nodes_->look_up(location.parent, location.name);
  if (!entry) return entry.error();
  put_entry(call.reply, *entry);
  return 0;
}

int Server::Impl::look_up(Call& call) {
  const std::string_view name = call.args.text();
  if (!call.args.ok()) return EINVAL;
  if (name.size() > 255) return ENAMETOOLONG;
  if (!is_plain_name(name)) return EINVAL;
  const int error = reply_entry(call, {call.node, std::string(name)});
  if (error != ENOENT || options_.negative_timeout_ns == 0) return error;
  // Node 0: there is no such name, and this may be believed for a while.
  call.reply.zeroes(16);
  call.reply.u64(options_.negative_timeout_ns / 1'000'000'000);
  call.reply.u64(0);
  call.reply.u32(options_.negative_timeout_ns % 1'000'000'000);
  call.reply.zeroes(4 + fuse::kAttr);
  return 0;
}

int Server::Impl::forget(Call& call) {
  call.no_answer = true;
  const std::uint64_t count = call.args.u64();
  if (call.args.ok()) nodes_->forget(call.node, count);
  return 0;
}

int Server::Impl::batch_forget(Call& call) {
  call.no_answer = true;
  std::uint32_t count = call.args.u32();
  call.args.skip(4);
  for (; count && call.args.left() >= 16; --count) {
    const NodeId id = call.args.u64();
    nodes_->forget(id, call.args.u64());
  }
  return 0;
}

Outcome<FdRef> Server::Impl::place_for(Call& call, std::string_view name) {
  if (!call.args.ok()) return std::unexpected(EINVAL);
  if (name.size() > 255) return std::unexpected(ENAMETOOLONG);
  if (!is_plain_name(name)) return std::unexpected(EINVAL);
  const auto kind = nodes_->kind(call.node);
  if (!kind) return std::unexpected(kind.error());
  if (kind->hidden) return std::unexpected(EACCES);
  return nodes_->path(call.node);
}

int Server::Impl::settle(Call& call, const Stat& directory, NodeTable::Entry& made, std::uint32_t mode) {
  // The guest has applied its process' umask; this process has one of its own, which means nothing to it.
  std::uint32_t wanted = mode & 07777;
  if (S_ISDIR(made.stat.stx_mode)) wanted |= made.stat.stx_mode & S_ISGID;
  const bool right_mode = S_ISLNK(made.stat.stx_mode) || (made.stat.stx_mode & 07777) == wanted;
  if (!may_chown_ && right_mode) return 0;
  const auto path = nodes_->path(made.id);
  if (!path) return path.error();
  std::uint32_t now = made.stat.stx_mode;
  if (may_chown_) {
    const std::uint32_t uid = shown(call.uid, false);
    // In a directory with the set-group-ID bit new files belong to its group (inode(7)).
    const bool inherits = directory.stx_mode & S_ISGID;
    const std::uint32_t gid = inherits ? made.stat.stx_gid : shown(call.gid, true);
    if (uid != made.stat.stx_uid || gid != made.stat.stx_gid) {
      if (::fchownat((*path)->get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
      if (!S_ISDIR(now)) now &= ~static_cast<std::uint32_t>(S_ISUID | S_ISGID);
    }
  }
  if (!S_ISLNK(now) && (now & 07777) != wanted && ::chmod(ProcPath((*path)->get()).c_str(), wanted) != 0) return errno;
  return stat_at((*path)->get(), "", made.stat);
}

int Server::Impl::reply_made(Call& call, const std::string& name, std::uint32_t mode, NodeTable::Entry* made) {
  const auto parent = may_chown_ ? nodes_->stat(call.node) : Outcome<Stat>(Stat{});
  if (!parent) return parent.error();
  auto entry = nodes_->look_up(call.node, name);
  if (!entry) return entry.error();
  if (const int error = settle(call, *parent, *entry, mode)) {
    nodes_->forget(entry->id, 1);
    return error;
  }
  put_entry(call.reply, *entry);
  if (made) *made = *entry;
  return 0;
}

int Server::Impl::make_node(Call& call) {
  const std::uint32_t mode = call.args.u32();
  const std::uint32_t device = call.args.u32();
  call.args.skip(8);
  const std::string name(call.args.text());
  const auto directory = place_for(call, name);
  if (!directory) return directory.error();
  // A device node that the guest makes must be none on the host. 0:0 is none: it is overlayfs' whiteout.
  if ((S_ISCHR(mode) || S_ISBLK(mode)) && !(S_ISCHR(mode) && device == 0)) return EPERM;
  const std::lock_guard lock(names_);
  if (::mknodat((*directory)->get(), name.c_str(), mode, 0) != 0) return errno;
  return reply_made(call, name, mode);
}

int Server::Impl::make_directory(Call& call) {
  const std::uint32_t mode = call.args.u32();
  call.args.skip(4);
  const std::string name(call.args.text());
  const auto directory = place_for(call, name);
  if (!directory) return directory.error();
  const std::lock_guard lock(names_);
  if (::mkdirat((*directory)->get(), name.c_str(), mode & 07777) != 0) return errno;
  return reply_made(call, name, mode);
}

int Server::Impl::make_symlink(Call& call) {
  const std::string name(call.args.text());
  const std::string target(call.args.text());
  const auto directory = place_for(call, name);
  if (!directory) return directory.error();
  const std::lock_guard lock(names_);
  if (::symlinkat(target.c_str(), (*directory)->get(), name.c_str()) != 0) return errno;
  return reply_made(call, name, 0777);
}

int Server::Impl::make_link(Call& call) {
  const NodeId old = call.args.u64();
  const std::string name(call.args.text());
  const auto directory = place_for(call, name);
  if (!directory) return directory.error();
  const auto kind = nodes_->kind(old);
  if (!kind) return kind.error();
  if (kind->hidden) return EACCES;
  const auto path = nodes_->path(old);
  if (!path) return path.error();
  const std::lock_guard lock(names_);
  if (::linkat(AT_FDCWD, ProcPath((*path)->get()).c_str(), (*directory)->get(), name.c_str(), AT_SYMLINK_FOLLOW) != 0)
    return errno;
  return reply_entry(call, {call.node, name});
}

int Server::Impl::remove(Call& call, bool directory) {
  const std::string name(call.args.text());
  const auto parent = place_for(call, name);
  if (!parent) return parent.error();
  const std::lock_guard lock(names_);
  const Location location{call.node, name};
  const auto what = nodes_->behind(location);
  if (!what) return what.error();
  if (!call.may_block && !directory && what->stat.stx_nlink == 1 && what->stat.stx_size > kLargeFile) return kLater;
  if (::unlinkat((*parent)->get(), name.c_str(), directory ? AT_REMOVEDIR : 0) != 0) return errno;
  nodes_->removed(location, *what);
  return 0;
}

int Server::Impl::rename(Call& call, bool with_flags) {
  const NodeId target = call.args.u64();
  const std::uint32_t flags = with_flags ? call.args.u32() : 0;
  if (with_flags) call.args.skip(4);
  const Location from{call.node, std::string(call.args.text())};
  const Location to{target, std::string(call.args.text())};
  const auto old_directory = place_for(call, from.name);
  if (!old_directory) return old_directory.error();
  if (to.name.size() > 255) return ENAMETOOLONG;
  if (!is_plain_name(to.name)) return EINVAL;
  const auto kind = nodes_->kind(target);
  if (!kind) return kind.error();
  if (kind->hidden) return EACCES;
  const auto new_directory = nodes_->path(target);
  if (!new_directory) return new_directory.error();
  if (flags & ~(kRenameNoReplace | kRenameExchange | kRenameWhiteout)) return EINVAL;

  const std::lock_guard lock(names_);
  const auto moved = nodes_->behind(from);
  if (!moved) return moved.error();
  const auto replaced = nodes_->behind(to);
  if (!replaced && replaced.error() != ENOENT) return replaced.error();
  const int old_fd = (*old_directory)->get(), new_fd = (*new_directory)->get();
  const int result = flags ? ::renameat2(old_fd, from.name.c_str(), new_fd, to.name.c_str(), flags)
                           : ::renameat(old_fd, from.name.c_str(), new_fd, to.name.c_str());
  if (result != 0) return errno;
  // Two names of one file: nothing happens (rename(2)).
  const bool same =
      replaced && replaced->stat.stx_ino == moved->stat.stx_ino && device_of(replaced->stat) == device_of(moved->stat);
  if (same) return 0;
  if (replaced && !(flags & kRenameExchange)) nodes_->removed(to, *replaced);
  nodes_->renamed(from, to, *moved);
  if (replaced && (flags & kRenameExchange)) nodes_->renamed(to, from, *replaced);
  return 0;
}

int Server::Impl::read_link(Call& call) {
  const auto path = nodes_->path(call.node);
  if (!path) return path.error();
  std::array<char, 4097> target;
  const ssize_t length = ::readlinkat((*path)->get(), "", target.data(), target.size() - 1);
  if (length < 0) return errno == ENOENT ? EINVAL : errno;
  call.reply.text({target.data(), static_cast<std::size_t>(length)});
  return 0;
}

}  // namespace husk::hostfs
