// husk: files and block devices of the host as block nodes
#include "block/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/bits.h"
#include "base/check.h"

namespace husk::block {
namespace {

constexpr std::size_t kZeroBuffer = 64 * 1024;
constexpr unsigned kZeroVectors = 16;
constexpr std::size_t kMostVectors = 1024;  // IOV_MAX of Linux

// Byte locks that QEMU's file-posix.c places in every image: at 100+n a permission that somebody uses, at 200+n one
// that somebody does not share. n: 0 consistent read, 1 write, 3 resize.
constexpr off_t kUsedBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr unsigned kPermissions[] = {0, 1, 3};
constexpr const char* permission_name(unsigned n) { return n == 0 ? "consistent read" : n == 1 ? "write" : "resize"; }

bool is_unsupported(std::int64_t result) {
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY || result == -EINVAL;
}

}  // namespace

struct File::Work : FileOperation {
  File* file = nullptr;
  core::BlockRequest request;
  std::vector<iovec> list;
  std::size_t next_vector = 0;
  std::uint64_t done_bytes = 0;
  std::uint64_t total = 0;
  bool sync_after = false;
  /// O_DIRECT and not aligned: the aligned range and its copy.
  std::unique_ptr<std::uint8_t, void (*)(void*)> bounce{nullptr, std::free};
  std::uint64_t bounce_offset = 0;
  std::uint64_t bounce_length = 0;
  bool read_modify_write = false;
  bool registered = false;
  core::BlockSpan zero_span;
  enum class Step : std::uint8_t {
    transfer,
    bounce_read,
    bounce_modify,
    bounce_write,
    sync,
    allocate,
    zero_write
  } step{};
};

File::File(Context& context, FileOptions options) : context_(context), options_(std::move(options)) {}
File::~File() { HUSK_CHECK(in_flight_ == 0); }

Result<std::unique_ptr<File>> File::open(Context& context, const FileOptions& options) {
  std::unique_ptr<File> file(new File(context, options));
  struct stat what{};
  if (::stat(options.path.c_str(), &what) != 0)
    return fail_errno(errno, fmt::format("cannot open the image '{}'", options.path));
  if (!S_ISREG(what.st_mode) && !S_ISBLK(what.st_mode))
    return fail("'{}' is neither a file nor a block device", options.path);
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | (options.direct ? O_DIRECT : 0);
  file->fd_.reset(::open(options.path.c_str(), flags));
  if (!file->fd_) {
    if (errno == EINVAL && options.direct)
      return std::unexpected(Error{fmt::format("the file system of '{}' has no O_DIRECT", options.path),
                                   "use another cache mode than none and directsync"});
    return fail_errno(errno, fmt::format("cannot open the image '{}' for {}", options.path,
                                         options.read_only ? "reading" : "reading and writing"));
  }
  HUSK_TRY(file->examine());
  HUSK_TRY(file->lock());
  return file;
}

Status File::examine() {
  struct stat what{};
  if (::fstat(fd_.get(), &what) != 0) return fail_errno(errno, fmt::format("cannot examine '{}'", options_.path));
  block_device_ = S_ISBLK(what.st_mode);
  if (!block_device_ && !S_ISREG(what.st_mode)) return fail("'{}' is neither a file nor a block device", options_.path);
  const off_t end = ::lseek(fd_.get(), 0, SEEK_END);
  if (end < 0) return fail_errno(errno, fmt::format("cannot tell the size of '{}'", options_.path));
  size_ = static_cast<std::uint64_t>(end);
  zeroes_ = {static_cast<std::uint8_t*>(std::aligned_alloc(4096, kZeroBuffer)), std::free};
  std::memset(zeroes_.get(), 0, kZeroBuffer);
  if (options_.direct) {
    alignment_ = 4096;
    int sector = 0;
    if (block_device_ && ::ioctl(fd_.get(), BLKSSZGET, &sector) == 0 && sector >= 512 && sector <= 4096) {
      alignment_ = static_cast<std::uint32_t>(sector);
    } else if (size_ >= 1024) {
      // What the file system wants can only be tried: a read of 512 bytes at an offset and an address that are 512
      // apart from any larger alignment.
      std::unique_ptr<std::uint8_t, void (*)(void*)> probe{static_cast<std::uint8_t*>(std::aligned_alloc(4096, 4096)),
                                                           std::free};
      if (::pread(fd_.get(), probe.get() + 512, 512, 512) == 512) alignment_ = 512;
    }
  }
  return {};
}

Status File::lock() {
  if (options_.locking == Locking::off) return {};
  const bool writes = !options_.read_only;
  const bool share_all = options_.locking == Locking::share_rw || options_.locking == Locking::force_share;
  const auto place = [&](off_t at) {
    struct flock range{};
    range.l_type = F_RDLCK;
    range.l_whence = SEEK_SET;
    range.l_start = at;
    range.l_len = 1;
    return ::fcntl(fd_.get(), F_OFD_SETLK, &range) == 0;
  };
  const auto held_by_other = [&](off_t at) {
    struct flock range{};
    range.l_type = F_WRLCK;
    range.l_whence = SEEK_SET;
    range.l_start = at;
    range.l_len = 1;
    return ::fcntl(fd_.get(), F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
  };
  const auto refuse = [&](const char* shared, unsigned n) {
    return std::unexpected(Error{fmt::format("cannot get the {}\"{}\" lock of '{}': another process uses the image",
                                             shared, permission_name(n), options_.path),
                                 writes ? "end that process, or use share-rw=on if the guests can share a disk"
                                        : "end that process, or read it as it is with -U (force-share)"});
  };
  const auto used = [&](unsigned n) { return n == 0 ? options_.locking != Locking::force_share : writes; };
  const auto unshared = [&](unsigned n) { return n != 0 && !share_all; };
  // First place, then look: of two processes that start together at least one sees the other.
  for (const unsigned n : kPermissions) {
    if ((used(n) && !place(kUsedBase + n)) || (unshared(n) && !place(kUnsharedBase + n))) {
      if (errno == EAGAIN || errno == EACCES) return refuse("", n);
      context_.log().debug("no locks on '{}': {}", options_.path, std::strerror(errno));
      return {};
    }
  }
  for (const unsigned n : kPermissions) {
    if (used(n) && held_by_other(kUnsharedBase + n)) return refuse("", n);
    if (unshared(n) && held_by_other(kUsedBase + n)) return refuse("shared ", n);
  }
  return {};
}

core::BlockInfo File::info() const {
  return {.size = size_,
          .alignment = alignment_,
          .optimal_io = 0,
          .discard_unit = 4096,
          .read_only = options_.read_only,
          .can_discard = options_.discard && can_punch_,
          .fast_zeroes = can_zero_range_ || can_punch_,
          .volatile_cache = !options_.writethrough};
}

File::Work& File::take_work() {
  if (free_work_.empty()) {
    all_work_.push_back(std::make_unique<Work>());
    free_work_.push_back(all_work_.back().get());
  }
  Work& work = *free_work_.back();
  free_work_.pop_back();
  work.file = this;
  work.fd = fd_.get();
  work.mode = 0;
  work.next_vector = 0;
  work.done_bytes = 0;
  work.sync_after = false;
  work.read_modify_write = false;
  work.registered = false;
  work.finished = [](FileOperation& operation, std::int64_t result) {
    auto& self = static_cast<Work&>(operation);
    self.file->transferred(self, result);
  };
  ++in_flight_;
  return work;
}

void File::submit(core::BlockRequest request) {
  using core::BlockOp;
  const bool writes = request.op != BlockOp::read && request.op != BlockOp::flush;
  if (writes && options_.read_only) return request.completion(EROFS);
  if (request.op == BlockOp::flush) {
    if (options_.ignore_flush || options_.read_only) return request.completion(0);
  } else {
    const auto end = checked_add<std::uint64_t>(request.offset, request.length);
    if (!end || *end > INT64_MAX || (block_device_ && *end > size_)) return request.completion(EINVAL);
    if (request.length == 0) return request.completion(0);
    if (request.flags & core::BlockFlags::kCompressed) return request.completion(ENOTSUP);
    if (request.op == BlockOp::discard && (!options_.discard || !can_punch_)) return request.completion(0);
  }
  Work& work = take_work();
  work.request = std::move(request);
  work.total = work.request.length;
  const bool stable =
      !options_.ignore_flush && (options_.writethrough || (work.request.flags & core::BlockFlags::kFua) != 0);
  switch (work.request.op) {
    case BlockOp::flush:
      work.kind = FileOperation::Kind::sync;
      work.step = Work::Step::sync;
      context_.files().start(work);
      return;
    case BlockOp::discard:
      // Beyond the end there is nothing to give back, and KEEP_SIZE leaves the end where it is.
      work.kind = FileOperation::Kind::allocate;
      work.FileOperation::mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      work.FileOperation::offset = work.request.offset;
      work.FileOperation::length = work.request.length;
      work.step = Work::Step::allocate;
      context_.files().start(work);
      return;
    case BlockOp::write_zeroes:
      work.sync_after = stable;
      if (must_wait(work))
        waiting_.push_back(&work);
      else
        start_zeroes(work);
      return;
    case BlockOp::read:
    case BlockOp::write: break;
  }
  work.list.clear();
  bool aligned = true;
  std::uint64_t sum = 0;
  for (const core::BlockSpan span : work.request.spans) {
    if (span.empty()) continue;
    sum += span.size();
    aligned = aligned && ((reinterpret_cast<std::uintptr_t>(span.data()) | span.size()) & (alignment_ - 1)) == 0;
    work.list.push_back({span.data(), span.size()});
  }
  HUSK_CHECK(sum == work.request.length);
  aligned = aligned && (work.request.offset & (alignment_ - 1)) == 0;
  work.kind = work.request.op == BlockOp::read ? FileOperation::Kind::read : FileOperation::Kind::write;
  if (work.kind == FileOperation::Kind::write && stable) work.FileOperation::mode = RWF_DSYNC;
  if (!aligned) {
    work.bounce_offset = align_down(work.request.offset, alignment_);
    work.bounce_length = align_up(work.request.offset + work.request.length, alignment_) - work.bounce_offset;
    work.read_modify_write = work.kind == FileOperation::Kind::write &&
                             (work.bounce_offset != work.request.offset || work.bounce_length != work.request.length);
    work.bounce.reset(
        static_cast<std::uint8_t*>(std::aligned_alloc(4096, align_up<std::size_t>(work.bounce_length, 4096))));
    if (!work.bounce) return finish(work, ENOMEM);
  }
  if (work.kind == FileOperation::Kind::write && must_wait(work)) {
    waiting_.push_back(&work);
    return;
  }
  if (work.bounce)
    start_unaligned(work);
  else {
    work.step = Work::Step::transfer;
    work.FileOperation::offset = work.request.offset;
    start_transfer(work);
  }
}

/// Only where blocks are rewritten whole (O_DIRECT): a read-modify-write would undo a neighbour's write to its block.
bool File::must_wait(const Work& work) const {
  if (alignment_ == 1) return false;
  const auto block_start = [&](const Work& w) { return align_down(w.request.offset, alignment_); };
  const auto block_end = [&](const Work& w) { return align_up(w.request.offset + w.request.length, alignment_); };
  const auto conflicts = [&](const Work* other) {
    return other != &work && (other->read_modify_write || work.read_modify_write) &&
           block_start(*other) < block_end(work) && block_start(work) < block_end(*other);
  };
  if (std::any_of(writes_.begin(), writes_.end(), conflicts)) return true;
  const_cast<File*>(this)->writes_.push_back(const_cast<Work*>(&work));
  const_cast<Work&>(work).registered = true;
  return false;
}

void File::retry_waiting() {
  std::list<Work*> again;
  again.swap(waiting_);
  for (Work* work : again) {
    if (must_wait(*work)) {
      waiting_.push_back(work);
    } else if (work->request.op == core::BlockOp::write_zeroes) {
      start_zeroes(*work);
    } else if (work->bounce) {
      start_unaligned(*work);
    } else {
      work->step = Work::Step::transfer;
      work->FileOperation::offset = work->request.offset;
      start_transfer(*work);
    }
  }
}

void File::start_transfer(Work& work) {
  work.vectors = work.list.data() + work.next_vector;
  work.vector_count = static_cast<unsigned>(std::min(work.list.size() - work.next_vector, kMostVectors));
  context_.files().start(work);
}

void File::start_unaligned(Work& work) {
  if (work.kind == FileOperation::Kind::write && !work.read_modify_write) return write_unaligned(work);
  // Reads of the whole range also for a write: its middle costs little beside the two edges, and is one request.
  work.kind = FileOperation::Kind::read;
  const int flags = work.FileOperation::mode;
  work.step = work.request.op == core::BlockOp::read ? Work::Step::bounce_read : Work::Step::bounce_modify;
  work.list.assign(1, {work.bounce.get(), work.bounce_length});
  work.next_vector = 0;
  work.done_bytes = 0;
  work.total = work.bounce_length;
  work.FileOperation::offset = work.bounce_offset;
  work.FileOperation::mode = 0;
  if (flags != 0) work.sync_after = true;
  start_transfer(work);
}

void File::write_unaligned(Work& work) {
  std::uint8_t* to = work.bounce.get() + (work.request.offset - work.bounce_offset);
  for (const core::BlockSpan span : work.request.spans) {
    if (!span.empty()) std::memcpy(to, span.data(), span.size());
    to += span.size();
  }
  work.kind = FileOperation::Kind::write;
  work.step = Work::Step::bounce_write;
  work.list.assign(1, {work.bounce.get(), work.bounce_length});
  work.next_vector = 0;
  work.done_bytes = 0;
  work.total = work.bounce_length;
  work.FileOperation::offset = work.bounce_offset;
  start_transfer(work);
}

void File::start_zeroes(Work& work) {
  const bool unmap = (work.request.flags & core::BlockFlags::kMayUnmap) != 0 && options_.discard;
  const bool keeps_size = work.request.offset + work.request.length <= size_;
  work.kind = FileOperation::Kind::allocate;
  work.step = Work::Step::allocate;
  work.FileOperation::offset = work.request.offset;
  work.FileOperation::length = work.request.length;
  if (unmap && can_punch_)
    work.FileOperation::mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  else if (can_zero_range_)
    work.FileOperation::mode = FALLOC_FL_ZERO_RANGE | (keeps_size ? FALLOC_FL_KEEP_SIZE : 0);
  else if (work.request.flags & core::BlockFlags::kNoFallback)
    return finish(work, ENOTSUP);
  else
    return zeroes_by_writing(work);
  context_.files().start(work);
}

void File::zeroes_by_writing(Work& work) {
  work.kind = FileOperation::Kind::write;
  work.step = Work::Step::zero_write;
  work.FileOperation::mode = 0;
  work.list.clear();
  std::uint64_t left = work.request.length - work.done_bytes;
  for (unsigned i = 0; i < kZeroVectors && left > 0; ++i) {
    const auto piece = std::min<std::uint64_t>(left, kZeroBuffer);
    work.list.push_back({zeroes_.get(), piece});
    left -= piece;
  }
  if (work.request.offset % alignment_ != 0 || work.request.length % alignment_ != 0) {
    // O_DIRECT and odd edges: ordinary unaligned writes of zeroes do it. They take their own turn with their
    // neighbours.
    if (work.registered) {
      writes_.remove(&work);
      work.registered = false;
    }
    const std::uint64_t piece = std::min<std::uint64_t>(work.request.length - work.done_bytes, kZeroBuffer);
    work.zero_span = core::BlockSpan(zeroes_.get(), piece);
    submit({.op = core::BlockOp::write,
            .flags = 0,
            .offset = work.request.offset + work.done_bytes,
            .length = piece,
            .spans = {&work.zero_span, 1},
            .completion = [this, &work, piece](int error) {
              work.done_bytes += piece;
              if (error != 0 || work.done_bytes == work.request.length)
                finish(work, error);
              else
                zeroes_by_writing(work);
            }});
    return;
  }
  work.FileOperation::offset = work.request.offset + work.done_bytes;
  work.next_vector = 0;
  start_transfer(work);
}

void File::transferred(Work& work, std::int64_t result) {
  using Step = Work::Step;
  if (result == -EINTR || result == -EAGAIN) {
    context_.files().start(work);
    return;
  }
  if (work.step == Step::sync) {
    // fsync(2): after an error the pages that failed count as clean, so a later success would be a lie.
    if (result < 0) failed_sync_ = true;
    return finish(work, failed_sync_ ? EIO : 0);
  }
  if (work.step == Step::allocate) {
    if (is_unsupported(result)) {
      if (work.FileOperation::mode & FALLOC_FL_PUNCH_HOLE)
        can_punch_ = false;
      else
        can_zero_range_ = false;
      if (work.request.op == core::BlockOp::write_zeroes) return start_zeroes(work);
      return finish(work, 0);
    }
    const std::uint64_t end = work.request.offset + work.request.length;
    if (result >= 0 && work.request.op == core::BlockOp::write_zeroes && end > size_) {
      if (work.FileOperation::mode & FALLOC_FL_KEEP_SIZE) {
        if (::ftruncate(fd_.get(), static_cast<off_t>(end)) != 0) return finish(work, errno);
      }
      size_ = std::max(size_, end);
    }
    return finish(work, result < 0 ? static_cast<int>(-result) : 0);
  }
  if (result < 0) return finish(work, static_cast<int>(-result));
  const bool reading = work.kind == FileOperation::Kind::read;
  if (result == 0 && !reading) return finish(work, ENOSPC);
  auto moved = static_cast<std::uint64_t>(result);
  work.done_bytes += moved;
  const std::uint64_t position = work.FileOperation::offset + moved;
  if (!reading) size_ = std::max(size_, position);
  const std::uint64_t wanted = work.step == Step::zero_write ? work.request.length : work.total;
  // Past the end of the file there are zeroes. O_DIRECT can end only there at an odd place, and could not go on from
  // it.
  if (reading && work.done_bytes < wanted && (result == 0 || position % alignment_ != 0)) {
    // The list has been cut at its front as pieces were done; what is left of it is what is still to fill.
    for (std::size_t i = work.next_vector; i < work.list.size(); ++i) {
      iovec& piece = work.list[i];
      const std::uint64_t cut = std::min<std::uint64_t>(moved, piece.iov_len);
      moved -= cut;
      std::memset(static_cast<std::uint8_t*>(piece.iov_base) + cut, 0, piece.iov_len - cut);
    }
    work.done_bytes = wanted;
  }
  if (work.done_bytes < wanted) {
    if (work.step == Step::zero_write) return zeroes_by_writing(work);
    while (moved > 0 && moved >= work.list[work.next_vector].iov_len) moved -= work.list[work.next_vector++].iov_len;
    iovec& front = work.list[work.next_vector];
    front.iov_base = static_cast<std::uint8_t*>(front.iov_base) + moved;
    front.iov_len -= moved;
    work.FileOperation::offset = position;
    return start_transfer(work);
  }
  if (work.step == Step::bounce_modify) return write_unaligned(work);
  if (work.step == Step::bounce_read) {
    const std::uint8_t* from = work.bounce.get() + (work.request.offset - work.bounce_offset);
    for (const core::BlockSpan span : work.request.spans) {
      if (!span.empty()) std::memcpy(span.data(), from, span.size());
      from += span.size();
    }
  }
  finish(work, 0);
}

void File::finish(Work& work, int error) {
  if (error == 0 && work.sync_after) {
    work.sync_after = false;
    work.kind = FileOperation::Kind::sync;
    work.step = Work::Step::sync;
    context_.files().start(work);
    return;
  }
  if (work.registered) {
    writes_.remove(&work);
    work.registered = false;
  }
  work.bounce.reset();
  core::BlockCompletion completion = std::move(work.request.completion);
  work.request = {};
  free_work_.push_back(&work);
  if (!waiting_.empty()) retry_waiting();
  completion(error);
  --in_flight_;
  if (in_flight_ == 0 && !drained_.empty()) {
    auto drained = std::exchange(drained_, {});
    for (auto& done : drained) done();
  }
}

void File::drain(std::move_only_function<void()> done) {
  if (in_flight_ == 0)
    done();
  else
    drained_.push_back(std::move(done));
}

void File::status(std::uint64_t offset, std::uint64_t length, StatusDone done) {
  if (offset >= size_) return done(0, {.length = std::max<std::uint64_t>(length, 1), .present = true, .zero = true});
  length = std::min(length, size_ - offset);
  Extent extent{.length = length, .present = true, .zero = false, .data = true, .host_offset = offset};
  if (!block_device_) {
    const off_t data = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
      extent.data = false;
      extent.zero = true;
    } else if (data >= 0 && static_cast<std::uint64_t>(data) > offset) {
      extent.length = std::min(length, static_cast<std::uint64_t>(data) - offset);
      extent.data = false;
      extent.zero = true;
    } else if (data >= 0) {
      const off_t hole = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_HOLE);
      if (hole > 0 && static_cast<std::uint64_t>(hole) > offset)
        extent.length = std::min(length, static_cast<std::uint64_t>(hole) - offset);
    }
  }
  done(0, extent);
}

void File::resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) {
  if (options_.read_only) return done(EROFS);
  if (size > INT64_MAX || preallocation == Preallocation::metadata) return done(EINVAL);
  if (block_device_) return done(size <= size_ ? 0 : ENOTSUP);
  const std::uint64_t before = size_;
  if (preallocation != Preallocation::falloc || size <= before) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return done(errno);
    size_ = size;
  }
  if (size <= before || preallocation == Preallocation::off) return done(0);
  if (preallocation == Preallocation::falloc) {
    auto result = std::make_shared<int>(0);
    ++in_flight_;
    context_.workers().run(
        [fd = fd_.get(), before, size, result] {
          *result = ::posix_fallocate(fd, static_cast<off_t>(before), static_cast<off_t>(size - before));
        },
        [this, size, result, done = std::move(done)]() mutable {
          if (*result == 0) size_ = size;
          --in_flight_;
          done(*result);
        });
    return;
  }
  Work& work = take_work();
  work.request = {.op = core::BlockOp::write_zeroes,
                  .flags = 0,
                  .offset = before,
                  .length = size - before,
                  .spans = {},
                  .completion = std::move(done)};
  work.total = work.request.length;
  zeroes_by_writing(work);
}

std::optional<std::uint64_t> File::allocated_bytes() {
  struct stat what{};
  if (::fstat(fd_.get(), &what) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(what.st_blocks) * 512;
}

void File::close(core::BlockCompletion done) {
  submit(
      {.op = core::BlockOp::flush, .flags = 0, .offset = 0, .length = 0, .spans = {}, .completion = std::move(done)});
}

}  // namespace husk::block
