// husk: the FUSE server: attributes, extended attributes, the file system's own figures
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
constexpr std::size_t kMostXattr = 65536;  // XATTR_SIZE_MAX, XATTR_LIST_MAX

/// Attributes of the host's security modules, overlay mounts and ACLs are the host's business; the guest would take
/// them for its own.
bool is_shown_xattr(std::string_view name) { return name.starts_with("user.") || name == "security.capability"; }
}  // namespace

int Server::Impl::get_attributes(Call& call) {
  const std::uint32_t flags = call.args.u32();
  call.args.skip(4);
  const std::uint64_t handle = call.args.u64();
  Stat stat{};
  OpenFileRef file = flags & fuse::kGetattrHandle ? handles_->find(handle, call.node) : nullptr;
  if (file && file->fd) {
    if (const int error = stat_at(file->fd.get(), "", stat)) return error;
  } else {
    const auto found = nodes_->stat(call.node);
    if (!found) return found.error();
    stat = *found;
  }
  call.reply.u64(options_.attribute_timeout_ns / 1'000'000'000);
  call.reply.u32(options_.attribute_timeout_ns % 1'000'000'000);
  call.reply.u32(0);
  put_attributes(call.reply, stat);
  return 0;
}

int Server::Impl::set_size(Call& call, std::uint64_t handle, bool has_handle, std::uint64_t size) {
  if (size > INT64_MAX) return EINVAL;
  if (!call.may_block) return kLater;
  OpenFileRef file = has_handle ? handles_->find(handle, call.node) : nullptr;
  if (!file || (file->flags & fuse::kOpenAccess) == 0) {
    auto opened = open_node(call.node, O_WRONLY, false);
    if (!opened) return opened.error();
    file = std::move(*opened);
  }
  return ::ftruncate(file->fd.get(), static_cast<off_t>(size)) == 0 ? 0 : errno;
}

int Server::Impl::set_attributes(Call& call) {
  const std::uint32_t valid = call.args.u32();
  call.args.skip(4);
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t size = call.args.u64();
  call.args.skip(8);
  timespec times[2] = {};
  for (timespec& time : times) time.tv_sec = static_cast<time_t>(call.args.u64());
  call.args.skip(8);
  for (timespec& time : times) time.tv_nsec = static_cast<long>(call.args.u32());
  call.args.skip(4);
  const std::uint32_t mode = call.args.u32();
  call.args.skip(4);
  const std::uint32_t uid = call.args.u32();
  const std::uint32_t gid = call.args.u32();
  call.args.skip(4);
  if (!call.args.ok()) return EINVAL;
  const auto kind = nodes_->kind(call.node);
  if (!kind) return kind.error();
  if (kind->hidden) return EACCES;
  if ((valid & fuse::kSetSize) && !call.may_block) return kLater;
  const auto path = nodes_->path(call.node);
  if (!path) return path.error();
  const int fd = (*path)->get();
  const ProcPath proc(fd);
  if (valid & fuse::kSetMode) {
    // chmod of a symbolic link: there is no such thing, and the kernel's errors for it differ.
    if (kind->type == S_IFLNK) return EOPNOTSUPP;
    if (::chmod(proc.c_str(), mode & 07777) != 0) return errno;
  }
  if (valid & (fuse::kSetUid | fuse::kSetGid)) {
    const uid_t owner = valid & fuse::kSetUid ? shown(uid, false) : static_cast<uid_t>(-1);
    const gid_t group = valid & fuse::kSetGid ? shown(gid, true) : static_cast<gid_t>(-1);
    if (::fchownat(fd, "", owner, group, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  }
  if (valid & fuse::kSetSize)
    if (const int error = set_size(call, handle, valid & fuse::kSetHandle, size)) return error;
  if ((valid & fuse::kSetKillSuidgid) && kind->type == S_IFREG)
    if (const int error = drop_privilege_bits(fd)) return error;
  if (valid & (fuse::kSetAtime | fuse::kSetMtime)) {
    const auto choose = [&](timespec& time, std::uint32_t set, std::uint32_t now) {
      if (!(valid & set))
        time.tv_nsec = UTIME_OMIT;
      else if (valid & now)
        time.tv_nsec = UTIME_NOW;
      else if (time.tv_nsec > 999'999'999)
        return false;
      return true;
    };
    if (!choose(times[0], fuse::kSetAtime, fuse::kSetAtimeNow) ||
        !choose(times[1], fuse::kSetMtime, fuse::kSetMtimeNow))
      return EINVAL;
    if (::utimensat(AT_FDCWD, proc.c_str(), times, 0) != 0) return errno;
  }
  Stat stat{};
  if (const int error = stat_at(fd, "", stat)) return error;
  call.reply.u64(options_.attribute_timeout_ns / 1'000'000'000);
  call.reply.u32(options_.attribute_timeout_ns % 1'000'000'000);
  call.reply.u32(0);
  put_attributes(call.reply, stat);
  return 0;
}

int Server::Impl::drop_privilege_bits(int fd) const {
  if (!may_chown_) return 0;
  Stat stat{};
  if (const int error = stat_at(fd, "", stat)) return error;
  std::uint32_t mode = stat.stx_mode & 07777;
  // The set-group-ID bit of a file that its group may not execute stands for something else (inode(7)).
  const std::uint32_t gone = (mode & S_ISUID) | (mode & S_IXGRP ? mode & S_ISGID : 0);
  if (!gone) return 0;
  return ::chmod(ProcPath(fd).c_str(), mode & ~gone) == 0 ? 0 : errno;
}

int Server::Impl::get_xattr(Call& call) {
  const std::uint32_t size = call.args.u32();
  call.args.skip(4);
  const std::string name(call.args.text());
  if (!call.args.ok()) return EINVAL;
  if (!options_.extended_attributes) return ENOSYS;
  if (!is_shown_xattr(name)) return name.starts_with("security.") ? ENODATA : EOPNOTSUPP;
  const auto kind = nodes_->kind(call.node);
  if (!kind) return kind.error();
  // The class `user` is for files and directories only (xattr(7)); and special files must not be touched.
  if (kind->hidden || (kind->type != S_IFREG && kind->type != S_IFDIR)) return ENODATA;
  const auto path = nodes_->path(call.node);
  if (!path) return path.error();
  std::vector<char> value(std::min<std::size_t>(size, kMostXattr));
  const ssize_t length = ::getxattr(ProcPath((*path)->get()).c_str(), name.c_str(), value.data(), value.size());
  if (length < 0) return errno == ENOSYS ? EOPNOTSUPP : errno;
  if (size == 0) {
    call.reply.u32(static_cast<std::uint64_t>(length));
    call.reply.u32(0);
  } else {
    call.reply.text({value.data(), static_cast<std::size_t>(length)});
  }
  return 0;
}

int Server::Impl::list_xattr(Call& call) {
  const std::uint32_t size = call.args.u32();
  call.args.skip(4);
  if (!call.args.ok()) return EINVAL;
  if (!options_.extended_attributes) return ENOSYS;
  std::string names;
  const auto kind = nodes_->kind(call.node);
  if (!kind) return kind.error();
  if (!kind->hidden && (kind->type == S_IFREG || kind->type == S_IFDIR)) {
    const auto path = nodes_->path(call.node);
    if (!path) return path.error();
    std::vector<char> list(kMostXattr);
    const ssize_t length = ::listxattr(ProcPath((*path)->get()).c_str(), list.data(), list.size());
    if (length < 0 && errno != EOPNOTSUPP) return errno == ENOSYS ? EOPNOTSUPP : errno;
    std::string_view rest(list.data(), length < 0 ? 0 : static_cast<std::size_t>(length));
    while (!rest.empty()) {
      const std::string_view name = rest.substr(0, rest.find('\0'));
      rest.remove_prefix(std::min(rest.size(), name.size() + 1));
      if (is_shown_xattr(name)) names.append(name).push_back('\0');
    }
  }
  if (size == 0) {
    call.reply.u32(names.size());
    call.reply.u32(0);
    return 0;
  }
  if (names.size() > size) return ERANGE;
  call.reply.text(names);
  return 0;
}

Outcome<FdRef> Server::Impl::xattr_to_change(NodeId node, const std::string& name) {
  if (!options_.extended_attributes) return std::unexpected(ENOSYS);
  if (!is_shown_xattr(name)) return std::unexpected(EOPNOTSUPP);
  const auto kind = nodes_->kind(node);
  if (!kind) return std::unexpected(kind.error());
  if (kind->hidden || (kind->type != S_IFREG && kind->type != S_IFDIR)) return std::unexpected(EPERM);
  return nodes_->path(node);
}

int Server::Impl::set_xattr(Call& call) {
  const std::uint32_t size = call.args.u32();
  const std::uint32_t flags = call.args.u32();
  const std::string name(call.args.text());
  const auto value = call.args.bytes(size);
  if (!call.args.ok()) return EINVAL;
  const auto path = xattr_to_change(call.node, name);
  if (!path) return path.error();
  if (::setxattr(ProcPath((*path)->get()).c_str(), name.c_str(), value.data(), value.size(), static_cast<int>(flags)) ==
      0)
    return 0;
  return errno == ENOSYS ? EOPNOTSUPP : errno;
}

int Server::Impl::remove_xattr(Call& call) {
  const std::string name(call.args.text());
  if (!call.args.ok()) return EINVAL;
  const auto path = xattr_to_change(call.node, name);
  if (!path) return path.error();
  if (::removexattr(ProcPath((*path)->get()).c_str(), name.c_str()) == 0) return 0;
  return errno == ENOSYS ? EOPNOTSUPP : errno;
}

int Server::Impl::access(Call& call) {
  const std::uint32_t mask = call.args.u32();
  if (!call.args.ok() || (mask & ~7u)) return EINVAL;
  const auto path = nodes_->path(call.node);
  if (!path) return path.error();
  if ((mask & W_OK) && options_.read_only) return EROFS;
  const ProcPath proc((*path)->get());
  return ::faccessat(AT_FDCWD, proc.c_str(), static_cast<int>(mask), AT_EACCESS) == 0 ? 0 : errno;
}

int Server::Impl::stat_file_system(Call& call) {
  const auto path = nodes_->path(call.node);
  if (!path) return path.error();
  struct statfs system{};
  if (::fstatfs((*path)->get(), &system) != 0) return errno;
  fuse::Writer& out = call.reply;
  out.u64(system.f_blocks);
  out.u64(system.f_bfree);
  out.u64(system.f_bavail);
  out.u64(system.f_files);
  out.u64(system.f_ffree);
  out.u32(static_cast<std::uint64_t>(system.f_bsize));
  out.u32(255);
  out.u32(static_cast<std::uint64_t>(system.f_frsize ? system.f_frsize : system.f_bsize));
  out.zeroes(28);
  return 0;
}

}  // namespace husk::hostfs
