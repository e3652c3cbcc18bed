// husk: the FUSE server: open files and their data
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
/// Above, a thread of the server's writes, not the guest's CPU.
constexpr std::uint32_t kSmallWrite = 64 * 1024;
constexpr std::size_t kMostSpans = 1024;  // IOV_MAX

int host_open_flags(std::uint32_t guest) {
  int flags = static_cast<int>(guest & fuse::kOpenAccess) | O_CLOEXEC;
  if (guest & fuse::kOpenDsync) flags |= O_DSYNC;
  if ((guest & fuse::kOpenSync) == fuse::kOpenSync) flags |= O_SYNC;
  // O_APPEND is added write by write: pages that the guest's cache writes back belong to where they are.
  // O_DIRECT stays out: it is the guest's cache that is passed by, and buffers need not be aligned as the host wants.
  return flags;
}

/// [skip, skip+count) of the spans, as the system calls take it.
class Vector {
 public:
  Vector(std::span<const core::ShareSpan> spans, std::uint64_t skip, std::uint64_t count) {
    for (const core::ShareSpan& span : spans) {
      if (skip >= span.size()) {
        skip -= span.size();
        continue;
      }
      const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(span.size() - skip, count));
      if (length == 0 || used_ == parts_.size()) break;
      parts_[used_++] = {span.data() + skip, length};
      bytes_ += length;
      count -= length;
      skip = 0;
    }
  }
  const iovec* data() const { return parts_.data() + first_; }
  int count() const { return static_cast<int>(used_ - first_); }
  std::uint64_t bytes() const { return bytes_; }
  /// Drops what was done.
  void advance(std::size_t done) {
    bytes_ -= done;
    while (done) {
      iovec& part = parts_[first_];
      const std::size_t step = std::min(done, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + step;
      part.iov_len -= step;
      done -= step;
      if (part.iov_len == 0) ++first_;
    }
  }

 private:
  std::array<iovec, kMostSpans> parts_;
  std::size_t used_ = 0, first_ = 0;
  std::uint64_t bytes_ = 0;
};

/// Whether it is on tmpfs or ramfs (linux/magic.h).
bool is_in_memory(int fd) {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0) return false;
  const auto magic = static_cast<std::uint32_t>(system.f_type);
  return magic == 0x01021994 || magic == 0x858458f6;
}

bool is_position(std::uint64_t offset, std::uint64_t length) {
  return offset <= INT64_MAX && length <= INT64_MAX - offset;
}
}  // namespace

Outcome<OpenFileRef> Server::Impl::open_node(NodeId node, std::uint32_t guest_flags, bool directory) {
  const auto kind = nodes_->kind(node);
  if (!kind) return std::unexpected(kind.error());
  auto file = std::make_shared<OpenFile>();
  file->node = node;
  file->flags = guest_flags;
  file->directory = directory;
  if (directory) {
    if (kind->type != S_IFDIR) return std::unexpected(ENOTDIR);
    if (kind->hidden) return file;
  } else {
    // The guest's kernel has its own devices, FIFOs and sockets: opening the host's would do something.
    if (kind->type != S_IFREG) return std::unexpected(kind->type == S_IFDIR ? EISDIR : ENXIO);
    if (kind->hidden) return std::unexpected(EACCES);
    if (options_.read_only && ((guest_flags & fuse::kOpenAccess) != O_RDONLY || (guest_flags & fuse::kOpenTruncate)))
      return std::unexpected(EROFS);
  }
  const auto path = nodes_->path(node);
  if (!path) return std::unexpected(path.error());
  int flags = directory ? O_RDONLY | O_DIRECTORY | O_CLOEXEC : host_open_flags(guest_flags);
  if (guest_flags & fuse::kOpenTruncate && !directory) flags |= O_TRUNC;
  file->fd = host::UniqueFd(::open(ProcPath((*path)->get()).c_str(), flags));
  if (!file->fd) return std::unexpected(errno);
  return file;
}

Outcome<OpenFileRef> Server::Impl::file_of(Call& call, std::uint64_t handle, bool directory) {
  if (handle == 0 && (features_ & (directory ? fuse::kNoOpendir : fuse::kNoOpen))) {
    if (OpenFileRef file = recent_.find(call.node)) {
      if (file->directory != directory) return std::unexpected(EBADF);
      return file;
    }
    auto opened = open_node(call.node, O_RDONLY, directory);
    if (opened) recent_.add(*opened);
    return opened;
  }
  OpenFileRef file = handles_->find(handle, call.node);
  if (!file || file->directory != directory) return std::unexpected(EBADF);
  return file;
}

void Server::Impl::reply_open(Call& call, std::uint64_t handle, bool directory) {
  call.reply.u64(handle);
  std::uint32_t flags = 0;
  if (options_.trust_cache) flags = fuse::kFopenKeepCache | (directory ? fuse::kFopenCacheDir : 0);
  call.reply.u32(flags);
  call.reply.u32(0);
}

int Server::Impl::open(Call& call, bool directory) {
  const std::uint32_t flags = call.args.u32();
  const std::uint32_t open_flags = call.args.u32();
  if (!call.args.ok()) return EINVAL;
  // ENOSYS once, and the guest asks no more.
  if (features_ & (directory ? fuse::kNoOpendir : fuse::kNoOpen)) {
    const bool writes = (flags & fuse::kOpenAccess) != O_RDONLY || (flags & fuse::kOpenTruncate);
    return writes && !directory ? EROFS : ENOSYS;
  }
  if (!directory && (flags & fuse::kOpenTruncate) && !call.may_block) return kLater;
  auto file = open_node(call.node, flags, directory);
  if (!file) return file.error();
  if ((flags & fuse::kOpenTruncate) && (open_flags & fuse::kOpenKillSuidgid) && !directory)
    if (const int error = drop_privilege_bits((*file)->fd.get())) return error;
  const auto handle = handles_->add(std::move(*file));
  if (!handle) return handle.error();
  reply_open(call, *handle, directory);
  return 0;
}

int Server::Impl::create_file(Call& call) {
  const std::uint32_t flags = call.args.u32();
  const std::uint32_t mode = call.args.u32();
  call.args.skip(8);
  const std::string name(call.args.text());
  const auto directory = place_for(call, name);
  if (!directory) return directory.error();
  auto file = std::make_shared<OpenFile>();
  file->flags = flags;
  NodeTable::Entry entry;
  {
    const std::lock_guard lock(names_);
    // Always exclusive: what exists is not opened by its name, which may be that of anything.
    file->fd = host::UniqueFd(::openat((*directory)->get(), name.c_str(),
                                       host_open_flags(flags) | O_CREAT | O_EXCL | O_NOFOLLOW, mode & 07777));
    if (file->fd) {
      if (const int error = reply_made(call, name, mode, &entry)) return error;
      file->node = entry.id;
    } else if (errno != EEXIST || (flags & fuse::kOpenExclusive)) {
      return errno;
    }
  }
  if (!file->fd) {
    if ((flags & fuse::kOpenTruncate) && !call.may_block) return kLater;
    const auto found = nodes_->look_up(call.node, name);
    if (!found) return found.error();
    entry = *found;
    auto opened = open_node(entry.id, flags & ~fuse::kOpenCreate, false);
    const auto stat = opened ? nodes_->stat(entry.id) : Outcome<Stat>(std::unexpected(opened.error()));
    if (!stat) {
      nodes_->forget(entry.id, 1);
      return stat.error();
    }
    file = std::move(*opened);
    entry.stat = *stat;
    put_entry(call.reply, entry);
  }
  const auto handle = handles_->add(std::move(file));
  if (!handle) {
    nodes_->forget(entry.id, 1);
    return handle.error();
  }
  reply_open(call, *handle, false);
  return 0;
}

int Server::Impl::make_temporary(Call& call) {
  const std::uint32_t flags = call.args.u32();
  const std::uint32_t mode = call.args.u32();
  call.args.skip(8);
  if (!call.args.ok()) return EINVAL;
  const auto kind = nodes_->kind(call.node);
  if (!kind) return kind.error();
  if (kind->hidden) return EACCES;
  const auto directory = nodes_->path(call.node);
  if (!directory) return directory.error();
  auto file = std::make_shared<OpenFile>();
  file->flags = flags & ~fuse::kOpenExclusive;
  // O_TMPFILE; with O_EXCL it can never get a name (open(2)).
  const int exclusive = flags & fuse::kOpenExclusive ? O_EXCL : 0;
  file->fd = host::UniqueFd(
      ::open(ProcPath((*directory)->get()).c_str(), host_open_flags(flags) | O_TMPFILE | exclusive, mode & 07777));
  if (!file->fd) return errno;
  auto path = std::make_shared<const host::UniqueFd>(::open(ProcPath(file->fd.get()).c_str(), O_PATH | O_CLOEXEC));
  if (!*path) return errno;
  auto entry = nodes_->adopt(std::move(path));
  if (!entry) return entry.error();
  const auto parent = nodes_->stat(call.node);
  const int error = parent ? settle(call, *parent, *entry, mode) : parent.error();
  file->node = entry->id;
  const auto handle = error ? Outcome<std::uint64_t>(std::unexpected(error)) : handles_->add(std::move(file));
  if (!handle) {
    nodes_->forget(entry->id, 1);
    return handle.error();
  }
  put_entry(call.reply, *entry);
  reply_open(call, *handle, false);
  return 0;
}

int Server::Impl::release(Call& call) {
  const std::uint64_t handle = call.args.u64();
  call.args.skip(8);
  const std::uint64_t owner = call.args.u64();
  if (!call.args.ok()) return EINVAL;
  const OpenFileRef file = handles_->remove(handle, call.node);
  if (!file) return handle == 0 ? 0 : EBADF;
  if (locks_on_host() && !file->directory) drop_locks(call.node, owner);
  return 0;
}

int Server::Impl::read(Call& call) {
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t offset = call.args.u64();
  const std::uint32_t size = call.args.u32();
  if (!call.args.ok()) return EINVAL;
  const auto file = file_of(call, handle, false);
  if (!file) return file.error();
  if (!is_position(offset, size)) return EINVAL;
  const int fd = (*file)->fd.get();
  Vector into(call.out, call.data_out, size);
  std::uint64_t done = 0;
  while (into.bytes()) {
    const ssize_t count = ::preadv2(fd, into.data(), into.count(), static_cast<off_t>(offset + done),
                                    call.may_block || (*file)->in_memory ? 0 : RWF_NOWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && !call.may_block && errno == EOPNOTSUPP && !(*file)->in_memory && is_in_memory(fd)) {
      (*file)->in_memory = true;
      continue;
    }
    if (count < 0 && !call.may_block && (errno == EAGAIN || errno == EOPNOTSUPP)) return kLater;
    if (count < 0) {
      if (done) break;
      return errno;
    }
    if (count == 0) break;
    done += static_cast<std::uint64_t>(count);
    into.advance(static_cast<std::size_t>(count));
  }
  call.placed = done;
  return 0;
}

int Server::Impl::write(Call& call) {
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t offset = call.args.u64();
  const std::uint32_t size = call.args.u32();
  const std::uint32_t flags = call.args.u32();
  call.args.skip(16);
  if (!call.args.ok() || size > call.in_bytes - std::min(call.in_bytes, call.data_in) || !is_position(offset, size))
    return EINVAL;
  const auto file = file_of(call, handle, false);
  if (!file) return file.error();
  if (!call.may_block && (size > kSmallWrite || ((*file)->flags & fuse::kOpenSync))) return kLater;
  const int fd = (*file)->fd.get();
  if (flags & fuse::kWriteKillSuidgid)
    if (const int error = drop_privilege_bits(fd)) return error;
  const bool append = ((*file)->flags & fuse::kOpenAppend) && !(flags & fuse::kWriteCache);
  Vector from(call.in, call.data_in, size);
  std::uint64_t done = 0;
  while (from.bytes()) {
    const ssize_t count =
        ::pwritev2(fd, from.data(), from.count(), static_cast<off_t>(offset + done), append ? RWF_APPEND : 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      if (done || count == 0) break;
      return errno;
    }
    done += static_cast<std::uint64_t>(count);
    from.advance(static_cast<std::size_t>(count));
  }
  call.reply.u32(done);
  call.reply.u32(0);
  return 0;
}

int Server::Impl::flush(Call& call) {
  const std::uint64_t handle = call.args.u64();
  call.args.skip(8);
  const std::uint64_t owner = call.args.u64();
  if (!call.args.ok()) return EINVAL;
  // Without locks of the owner's there is nothing to do; the guest asks no more.
  if (!locks_on_host()) return ENOSYS;
  if (!handles_->find(handle, call.node)) return EBADF;
  drop_locks(call.node, owner);
  return 0;
}

int Server::Impl::sync(Call& call) {
  const std::uint64_t handle = call.args.u64();
  const std::uint32_t flags = call.args.u32();
  if (!call.args.ok()) return EINVAL;
  if (options_.read_only) return 0;
  if (!call.may_block) return kLater;
  const OpenFileRef file = handles_->find(handle, call.node);
  if (!file) return EBADF;
  if (!file->fd) return 0;
  const int result = flags & fuse::kFsyncData ? ::fdatasync(file->fd.get()) : ::fsync(file->fd.get());
  return result == 0 ? 0 : errno;
}

int Server::Impl::allocate(Call& call) {
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t offset = call.args.u64();
  const std::uint64_t length = call.args.u64();
  const std::uint32_t mode = call.args.u32();
  if (!call.args.ok() || !is_position(offset, length)) return EINVAL;
  constexpr std::uint32_t kModes = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if (mode & ~kModes) return EOPNOTSUPP;
  if (!call.may_block) return kLater;
  const auto file = file_of(call, handle, false);
  if (!file) return file.error();
  if (const int error = drop_privilege_bits((*file)->fd.get())) return error;
  const int result =
      ::fallocate((*file)->fd.get(), static_cast<int>(mode), static_cast<off_t>(offset), static_cast<off_t>(length));
  return result == 0 ? 0 : errno;
}

int Server::Impl::seek(Call& call) {
  const std::uint64_t handle = call.args.u64();
  const std::uint64_t offset = call.args.u64();
  const std::uint32_t whence = call.args.u32();
  if (!call.args.ok() || (whence != SEEK_DATA && whence != SEEK_HOLE)) return EINVAL;
  if (offset > INT64_MAX) return ENXIO;
  const auto file = file_of(call, handle, false);
  if (!file) return file.error();
  const off_t found = ::lseek((*file)->fd.get(), static_cast<off_t>(offset), static_cast<int>(whence));
  if (found < 0) return errno;
  call.reply.u64(static_cast<std::uint64_t>(found));
  return 0;
}

int Server::Impl::copy_range(Call& call) {
  const std::uint64_t from_handle = call.args.u64();
  const std::uint64_t from_offset = call.args.u64();
  const NodeId to_node = call.args.u64();
  const std::uint64_t to_handle = call.args.u64();
  const std::uint64_t to_offset = call.args.u64();
  const std::uint64_t length = call.args.u64();
  const std::uint64_t flags = call.args.u64();
  if (!call.args.ok() || flags) return EINVAL;
  if (!is_position(from_offset, 0) || !is_position(to_offset, 0)) return EINVAL;
  if (!call.may_block) return kLater;
  const OpenFileRef from = handles_->find(from_handle, call.node);
  const OpenFileRef to = handles_->find(to_handle, to_node);
  if (!from || !to || from->directory || to->directory) return EBADF;
  if (const int error = drop_privilege_bits(to->fd.get())) return error;
  auto source = static_cast<off_t>(from_offset), target = static_cast<off_t>(to_offset);
  // Not too much at a time: a pause of the machine waits for it. The answer tells how far it went.
  const std::size_t most = static_cast<std::size_t>(std::min<std::uint64_t>(length, 64u << 20));
  const ssize_t done = ::copy_file_range(from->fd.get(), &source, to->fd.get(), &target, most, 0);
  if (done < 0) return errno == EXDEV ? EOPNOTSUPP : errno;
  call.reply.u32(static_cast<std::uint64_t>(done));
  call.reply.u32(0);
  return 0;
}

}  // namespace husk::hostfs
