// husk: the FUSE server over a directory of the host: making one, requests in, answers out
#include "hostfs/server.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "hostfs/server_impl.h"
#include "state/state.h"

namespace husk::hostfs {

namespace {
/// Data of one READ or WRITE, in 4 KiB pages: what Linux allows at most (FUSE_MAX_MAX_PAGES).
constexpr std::uint32_t kMostPages = 256;
/// Arguments of requests other than WRITE: the largest is an extended attribute of 64 KiB with its name.
constexpr std::size_t kMostArguments = 80 * 1024;
constexpr rlim_t kWantedDescriptors = 65536;

/// What others in this process may need.
constexpr rlim_t kSparedDescriptors = 128;

rlim_t descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  const rlim_t wanted = std::min(limit.rlim_max, kWantedDescriptors);
  if (limit.rlim_cur < wanted) {
    const rlimit raised{wanted, limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) return wanted;
  }
  return std::min(limit.rlim_cur, kWantedDescriptors);
}

void put_header(std::span<const core::ShareSpan> out, std::uint64_t length, int error, std::uint64_t unique) {
  std::array<std::uint8_t, fuse::kOutHeader> header;
  store_le<std::uint32_t>(&header[0], static_cast<std::uint32_t>(length));
  store_le<std::uint32_t>(&header[4], static_cast<std::uint32_t>(-error));
  store_le<std::uint64_t>(&header[8], unique);
  scatter(out, 0, header);
}

struct SavedNode {
  std::uint64_t id = 0, parent = 0;
  std::string name;
  std::uint64_t lookups = 0;
  std::uint32_t mode = 0;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "id", &SavedNode::id), field(2, "parent", &SavedNode::parent),
                      field(3, "name", &SavedNode::name), field(4, "lookups", &SavedNode::lookups),
                      field(5, "mode", &SavedNode::mode)};
  }
};
struct SavedFile {
  std::uint64_t handle = 0, node = 0;
  std::uint32_t flags = 0;
  bool directory = false;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "handle", &SavedFile::handle), field(2, "node", &SavedFile::node),
                      field(3, "flags", &SavedFile::flags), field(4, "directory", &SavedFile::directory)};
  }
};
struct SavedSession {
  std::uint64_t features = 0;
  std::vector<SavedNode> nodes;
  std::vector<SavedFile> files;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "features", &SavedSession::features), field(2, "nodes", &SavedSession::nodes),
                      field(3, "files", &SavedSession::files)};
  }
};
}  // namespace

ProcPath::ProcPath(int fd) { std::snprintf(text_.data(), text_.size(), "/proc/self/fd/%d", fd); }

Result<std::unique_ptr<Server>> Server::create(ServerOptions options, Log& log) {
  auto impl = HUSK_TRY(Impl::create(std::move(options), log));
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}
Server::~Server() = default;

std::unique_ptr<core::ShareBackend> Server::attach(mem::LockDomain& domain) {
  return make_port(impl_, domain, impl_->options().threads);
}

Result<std::shared_ptr<Server::Impl>> Server::Impl::create(ServerOptions options, Log&) {
  host::UniqueFd root(::open(options.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return fail_errno(errno, "cannot share the directory " + options.root);
  // All that is opened is opened by way of /proc.
  const host::UniqueFd probe(::open(ProcPath(root.get()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!probe) {
    const int error = errno;
    if (::access("/proc/self/fd", X_OK) != 0)
      return std::unexpected(Error{"cannot share " + options.root + ": /proc/self/fd is not there", "mount /proc"});
    return fail_errno(error, "cannot read the shared directory " + options.root);
  }
  const rlim_t limit = descriptor_limit();
  std::size_t budget = options.most_descriptors;
  if (budget == 0) budget = (limit > 2 * kSparedDescriptors ? limit - kSparedDescriptors : kSparedDescriptors) / 4;
  budget = std::max<std::size_t>(budget, 64);
  NodeTable::Limits limits;
  limits.cached_descriptors = std::min<std::size_t>(budget / 4, 4096);
  limits.pinned_descriptors = budget / 8;
  const std::size_t recent = std::min<std::size_t>(options.read_only && options.trust_cache ? budget / 4 : 0, 1024);
  const std::size_t handles = budget / 2;
  auto nodes = NodeTable::create(std::move(root), limits);
  if (!nodes) return std::unexpected(std::move(nodes).error().within(options.root));
  return std::shared_ptr<Impl>(new Impl(std::move(options), std::move(*nodes), limits, handles, recent));
}

Server::Impl::Impl(ServerOptions options, std::unique_ptr<NodeTable> nodes, NodeTable::Limits limits,
                   std::size_t handles, std::size_t recent)
    : options_(std::move(options)),
      limits_(limits),
      most_handles_(handles),
      own_uid_(::geteuid()),
      own_gid_(::getegid()),
      may_chown_(::geteuid() == 0),
      nodes_(std::move(nodes)),
      handles_(std::make_unique<HandleTable>(handles)),
      recent_(recent) {}

Protocol::Identity Server::Impl::identify(const core::ShareRequest& request) const {
  std::array<std::uint8_t, 16> start{};
  gather(request.in, 0, start);
  Identity who{.id = load_le<std::uint64_t>(&start[8])};
  switch (static_cast<fuse::Op>(load_le<std::uint32_t>(&start[4]))) {
    case fuse::Op::interrupt: {
      std::array<std::uint8_t, 8> about{};
      who.effect = Effect::cancels;
      gather(request.in, fuse::kInHeader, about);
      who.about = load_le<std::uint64_t>(about.data());
      break;
    }
    case fuse::Op::setlk:
    case fuse::Op::flush:
    case fuse::Op::release: who.effect = Effect::frees_locks; break;
    default: break;
  }
  return who;
}

std::uint64_t Server::Impl::refuse(const core::ShareRequest& request, std::uint64_t unique, int error) const {
  if (total(request.out) < fuse::kOutHeader) return 0;
  put_header(request.out, fuse::kOutHeader, error, unique);
  return fuse::kOutHeader;
}

Protocol::Answer Server::Impl::handle(const core::ShareRequest& request, Scratch& scratch, bool may_block) {
  std::array<std::uint8_t, fuse::kInHeader> header;
  const std::uint64_t in_bytes = total(request.in);
  if (gather(request.in, 0, header) != header.size()) return {};
  fuse::Reader reader(header);
  const std::uint32_t length = reader.u32();
  const auto op = static_cast<fuse::Op>(reader.u32());
  scratch.reply.clear();
  Call call{.unique = reader.u64(),
            .node = reader.u64(),
            .uid = reader.u32(),
            .gid = reader.u32(),
            .args = {},
            .reply = fuse::Writer(scratch.reply),
            .in = request.in,
            .out = request.out,
            .in_bytes = in_bytes,
            .out_bytes = total(request.out),
            .may_block = may_block};
  // The data of a WRITE goes to the file from where it is.
  const std::size_t most = op == fuse::Op::write ? fuse::kWriteIn : kMostArguments;
  int error = 0;
  if (length < fuse::kInHeader || length > in_bytes) {
    error = EINVAL;
  } else if (length - fuse::kInHeader > most && op != fuse::Op::write) {
    error = E2BIG;
  } else {
    scratch.in.resize(std::min<std::size_t>(length - fuse::kInHeader, most));
    gather(request.in, fuse::kInHeader, scratch.in);
    call.in_bytes = length;
    call.args = fuse::Reader(scratch.in);
    error = dispatch(op, call);
  }
  if (error < 0) return {error, 0};
  if (call.no_answer || call.out_bytes < fuse::kOutHeader) return {};
  if (error) return {0, refuse(request, call.unique, error)};
  const std::uint64_t written = fuse::kOutHeader + scratch.reply.size() + call.placed;
  if (written > call.out_bytes) return {0, refuse(request, call.unique, EIO)};
  scatter(request.out, fuse::kOutHeader, scratch.reply);
  put_header(request.out, written, 0, call.unique);
  return {0, written};
}

bool Server::Impl::changes_something(fuse::Op op) {
  using enum fuse::Op;
  switch (op) {
    case setattr:
    case fuse::Op::symlink:
    case mknod:
    case mkdir:
    case unlink:
    case rmdir:
    case fuse::Op::rename:
    case rename2:
    case link:
    case fuse::Op::write:
    case setxattr:
    case removexattr:
    case create:
    case fallocate:
    case copy_file_range:
    case tmpfile: return true;
    default: return false;
  }
}

int Server::Impl::dispatch(fuse::Op op, Call& call) {
  using fuse::Op;
  if (op == Op::init) return init(call);
  if (op == Op::forget) return forget(call);
  if (op == Op::batch_forget) return batch_forget(call);
  if (op == Op::interrupt) {
    call.no_answer = true;
    return 0;
  }
  if (!session_open_) return EIO;
  if (options_.read_only && changes_something(op)) return EROFS;
  switch (op) {
    case Op::lookup: return look_up(call);
    case Op::getattr: return get_attributes(call);
    case Op::setattr: return set_attributes(call);
    case Op::readlink: return read_link(call);
    case Op::symlink: return make_symlink(call);
    case Op::mknod: return make_node(call);
    case Op::mkdir: return make_directory(call);
    case Op::unlink: return remove(call, false);
    case Op::rmdir: return remove(call, true);
    case Op::rename: return rename(call, false);
    case Op::rename2: return rename(call, true);
    case Op::link: return make_link(call);
    case Op::open: return open(call, false);
    case Op::opendir: return open(call, true);
    case Op::read: return read(call);
    case Op::write: return write(call);
    case Op::statfs: return stat_file_system(call);
    case Op::release:
    case Op::releasedir: return release(call);
    case Op::fsync:
    case Op::fsyncdir: return sync(call);
    case Op::setxattr: return set_xattr(call);
    case Op::getxattr: return get_xattr(call);
    case Op::listxattr: return list_xattr(call);
    case Op::removexattr: return remove_xattr(call);
    case Op::flush: return flush(call);
    case Op::readdir: return read_directory(call, false);
    case Op::readdirplus: return read_directory(call, true);
    case Op::getlk: return get_lock(call);
    case Op::setlk: return set_lock(call, false);
    case Op::setlkw: return set_lock(call, true);
    case Op::access: return access(call);
    case Op::create: return create_file(call);
    case Op::tmpfile: return make_temporary(call);
    case Op::fallocate: return allocate(call);
    case Op::lseek: return seek(call);
    case Op::copy_file_range: return copy_range(call);
    case Op::destroy: reset(); return 0;
    default: return ENOSYS;
  }
}

int Server::Impl::init(Call& call) {
  const std::uint32_t major = call.args.u32();
  const std::uint32_t minor = call.args.u32();
  const std::uint32_t readahead = call.args.u32();
  std::uint64_t offered = call.args.u32();
  if (!call.args.ok()) return EINVAL;
  if (offered & fuse::kInitExt) offered |= std::uint64_t{call.args.u32()} << 32;
  if (major < fuse::kMajor || (major == fuse::kMajor && minor < fuse::kOldestMinor)) return EPROTO;
  fuse::Writer& out = call.reply;
  out.u32(fuse::kMajor);
  out.u32(fuse::kMinor);
  if (major > fuse::kMajor) {
    // The kernel asks again, in our version (fuse.h, on version negotiation).
    out.zeroes(fuse::kInitOut - 8);
    return 0;
  }
  std::uint64_t wanted = fuse::kAsyncRead | fuse::kAtomicTruncate | fuse::kBigWrites | fuse::kAutoInvalidate |
                         fuse::kReaddirPlus | fuse::kReaddirPlusAuto | fuse::kAsyncDio | fuse::kParallelDirops |
                         fuse::kMaxPages | fuse::kCacheSymlinks | fuse::kKillPrivV2 | fuse::kInitExt;
  if (locks_on_host()) wanted |= fuse::kPosixLocks | fuse::kFlockLocks;
  if (options_.read_only && options_.trust_cache) wanted |= fuse::kNoOpen | fuse::kNoOpendir;
  begin(wanted & offered);
  out.u32(readahead);
  out.u32(features_);
  out.u16(64);  // max_background: requests that no process waits for
  out.u16(48);  // congestion_threshold
  out.u32(kMostPages * 4096);
  out.u32(1);  // time_gran: nanoseconds
  out.u16(kMostPages);
  out.u16(0);
  out.u32(features_ >> 32);
  out.zeroes(28);
  return 0;
}

void Server::Impl::begin(std::uint64_t features) {
  reset();
  features_ = features;
  session_open_ = true;
}

void Server::Impl::reset() {
  session_open_ = false;
  handles_->clear();
  recent_.clear();
  {
    const std::lock_guard lock(locks_mutex_);
    lock_owners_.clear();
  }
  nodes_->clear();
}

std::uint32_t Server::Impl::shown(std::uint32_t id, bool group) const {
  const auto& as = group ? options_.shown_gid : options_.shown_uid;
  const std::uint32_t own = group ? own_gid_ : own_uid_;
  if (!as) return id;
  return id == own ? *as : id == *as ? own : id;
}

void Server::Impl::put_attributes(fuse::Writer& out, const Stat& stat) const {
  out.u64(nodes_->shown_inode(device_of(stat), stat.stx_ino));
  out.u64(stat.stx_size);
  out.u64(stat.stx_blocks);
  for (const auto* const time : {&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime})
    out.u64(static_cast<std::uint64_t>(time->tv_sec));
  for (const auto* const time : {&stat.stx_atime, &stat.stx_mtime, &stat.stx_ctime}) out.u32(time->tv_nsec);
  out.u32(stat.stx_mode);
  out.u32(stat.stx_nlink);
  out.u32(shown(stat.stx_uid, false));
  out.u32(shown(stat.stx_gid, true));
  // As Linux packs device numbers into 32 bits (new_encode_dev).
  const std::uint32_t major = stat.stx_rdev_major, minor = stat.stx_rdev_minor;
  out.u32((minor & 0xFF) | (major << 8) | ((minor & ~0xFFu) << 12));
  out.u32(stat.stx_blksize);
  out.u32(0);
}

void Server::Impl::put_entry(fuse::Writer& out, const NodeTable::Entry& entry) const {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  out.u64(entry.id);
  out.u64(0);  // node numbers are never used twice
  out.u64(options_.entry_timeout_ns / kSecond);
  out.u64(options_.attribute_timeout_ns / kSecond);
  out.u32(options_.entry_timeout_ns % kSecond);
  out.u32(options_.attribute_timeout_ns % kSecond);
  put_attributes(out, entry.stat);
}

std::vector<std::uint8_t> Server::Impl::save() const {
  if (!session_open_) return {};
  SavedSession session;
  session.features = features_;
  for (NodeTable::Saved& node : nodes_->save())
    session.nodes.push_back({node.id, node.parent, std::move(node.name), node.lookups, node.mode});
  for (const HandleTable::Saved& file : handles_->save())
    session.files.push_back({file.handle, file.file->node, file.file->flags, file.file->directory});
  state::StateWriter writer;
  writer.record(session);
  return std::move(writer).take();
}

Status Server::Impl::load(std::span<const std::uint8_t> bytes) {
  if (bytes.empty()) {
    reset();
    return {};
  }
  SavedSession session;
  state::StateReader reader(bytes);
  HUSK_TRY(reader.record(session));
  const auto root = nodes_->path(fuse::kRootId);
  if (!root) return fail_errno(root.error(), "cannot reach the shared directory");
  host::UniqueFd copy(::fcntl((*root)->get(), F_DUPFD_CLOEXEC, 3));
  if (!copy) return fail_errno(errno, "cannot reach the shared directory");
  auto nodes = HUSK_TRY(NodeTable::create(std::move(copy), limits_));
  std::vector<NodeTable::Saved> saved;
  for (SavedNode& node : session.nodes)
    saved.push_back({node.id, node.parent, std::move(node.name), node.lookups, node.mode});
  HUSK_TRY(nodes->restore(saved));
  auto handles = std::make_unique<HandleTable>(most_handles_);
  std::swap(nodes, nodes_);
  Status loaded;
  for (const SavedFile& file : session.files) {
    // Never created or truncated again; a file that is not there any more gives EBADF to who still has it open.
    const std::uint32_t flags = file.flags & ~(fuse::kOpenCreate | fuse::kOpenExclusive | fuse::kOpenTruncate);
    auto opened = open_node(file.node, flags, file.directory);
    if (!opened) continue;
    (*opened)->flags = file.flags;
    if (!handles->restore(file.handle, std::move(*opened)))
      loaded = fail("the saved session has an open file {:#x} that cannot be", file.handle);
  }
  if (!loaded) {
    std::swap(nodes, nodes_);
    return loaded;
  }
  handles_ = std::move(handles);
  recent_.clear();
  {
    const std::lock_guard lock(locks_mutex_);
    lock_owners_.clear();
  }
  features_ = session.features;
  session_open_ = true;
  return {};
}

}  // namespace husk::hostfs
