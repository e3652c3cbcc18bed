// husk: the FUSE server: locks, which on the host are those of open file descriptions, one for each owner in the guest
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
// fcntl(2)'s lock types as x86 Linux has them.
constexpr std::uint32_t kReadLock = 0, kWriteLock = 1, kUnlock = 2;

struct LockRequest {
  std::uint64_t handle = 0, owner = 0, start = 0, end = 0;
  std::uint32_t type = 0, pid = 0, flags = 0;
};
LockRequest read_request(fuse::Reader& args) {
  LockRequest request;
  request.handle = args.u64();
  request.owner = args.u64();
  request.start = args.u64();
  request.end = args.u64();
  request.type = args.u32();
  request.pid = args.u32();
  request.flags = args.u32();
  return request;
}

/// Nothing if the range or type is none.
std::optional<struct flock> host_lock(const LockRequest& request) {
  if (request.start > request.end || request.end > INT64_MAX || request.type > kUnlock) return std::nullopt;
  struct flock lock{};
  lock.l_type = static_cast<short>(request.type == kReadLock    ? F_RDLCK
                                   : request.type == kWriteLock ? F_WRLCK
                                                                : F_UNLCK);
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(request.start);
  // The last position of all stands for "to the end, wherever that will be".
  lock.l_len = request.end == INT64_MAX ? 0 : static_cast<off_t>(request.end - request.start + 1);
  return lock;
}
}  // namespace

Outcome<FdRef> Server::Impl::lock_owner(const OpenFile& file, std::uint64_t owner) {
  const std::lock_guard lock(locks_mutex_);
  const auto known = lock_owners_.find({file.node, owner});
  if (known != lock_owners_.end()) return known->second;
  if (!handles_->reserve(1)) return std::unexpected(ENOLCK);
  const ProcPath path(file.fd.get());
  // A write lock needs a descriptor that may write.
  host::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) fd.reset(::open(path.c_str(), static_cast<int>(file.flags & fuse::kOpenAccess) | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    handles_->give_back(1);
    return std::unexpected(error);
  }
  auto ref = std::make_shared<const host::UniqueFd>(std::move(fd));
  lock_owners_.emplace(LockOwner{file.node, owner}, ref);
  return ref;
}

void Server::Impl::drop_locks(NodeId node, std::uint64_t owner) {
  const std::lock_guard lock(locks_mutex_);
  if (lock_owners_.erase({node, owner})) handles_->give_back(1);
}

int Server::Impl::get_lock(Call& call) {
  const LockRequest request = read_request(call.args);
  if (!call.args.ok()) return EINVAL;
  if (!locks_on_host()) return ENOSYS;
  const OpenFileRef file = handles_->find(request.handle, call.node);
  if (!file || file->directory) return EBADF;
  auto lock = host_lock(request);
  if (!lock) return EINVAL;
  const auto owner = lock_owner(*file, request.owner);
  if (!owner) return owner.error();
  if (::fcntl((*owner)->get(), F_OFD_GETLK, &*lock) != 0) return errno;
  const bool free = lock->l_type == F_UNLCK;
  call.reply.u64(free ? request.start : static_cast<std::uint64_t>(lock->l_start));
  call.reply.u64(free               ? request.end
                 : lock->l_len == 0 ? static_cast<std::uint64_t>(INT64_MAX)
                                    : static_cast<std::uint64_t>(lock->l_start + lock->l_len - 1));
  call.reply.u32(free ? kUnlock : lock->l_type == F_RDLCK ? kReadLock : kWriteLock);
  // Whose it is, is a process of the host's, or unknown: no number of the guest's.
  call.reply.u32(0);
  return 0;
}

int Server::Impl::set_lock(Call& call, bool wait) {
  const LockRequest request = read_request(call.args);
  if (!call.args.ok()) return EINVAL;
  if (!locks_on_host()) return ENOSYS;
  const OpenFileRef file = handles_->find(request.handle, call.node);
  if (!file || !file->fd) return EBADF;
  if (request.flags & fuse::kLockFlock) {
    const int operation = request.type == kReadLock ? LOCK_SH : request.type == kWriteLock ? LOCK_EX : LOCK_UN;
    if (::flock(file->fd.get(), operation | LOCK_NB) == 0) return 0;
    return errno == EWOULDBLOCK && wait ? kLocked : errno;
  }
  const auto lock = host_lock(request);
  if (!lock) return EINVAL;
  const auto owner = lock_owner(*file, request.owner);
  if (!owner) return owner.error();
  if (::fcntl((*owner)->get(), F_OFD_SETLK, &*lock) == 0) return 0;
  if ((errno == EAGAIN || errno == EACCES) && wait) return kLocked;
  return errno == EACCES ? EAGAIN : errno;
}

}  // namespace husk::hostfs
