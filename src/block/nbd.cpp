// husk: an export of an NBD server as a block node, by libnbd
#include "block/nbd.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"

namespace husk::block {
namespace {
constexpr std::uint64_t kRetryNs = 200'000'000;
constexpr std::uint64_t kMostTransfer = 16u << 20;  // servers must take 32 MiB
constexpr std::uint64_t kConnectNs = 10'000'000'000;
}  // namespace

struct Nbd::Work {
  Nbd& nbd;
  core::BlockRequest request;
  std::vector<std::uint8_t> buffer{};  // where the request's memory is not in one piece
  std::uint64_t done = 0;
  std::uint64_t piece = 0;
  bool issued = false;
  int result = 0;
  bool answered = false;
};

std::string nbd_uri(const std::string& address) {
  if (address.starts_with("nbd://") || address.starts_with("nbds://") || address.starts_with("nbd+unix://") ||
      address.starts_with("nbds+unix://"))
    return address;
  std::string rest = address.substr(4);  // "nbd:"
  std::string name;
  if (const auto at = rest.find(":exportname="); at != std::string::npos) {
    name = rest.substr(at + 12);
    rest.resize(at);
  }
  if (rest.starts_with("unix:")) return "nbd+unix:///" + name + "?socket=" + rest.substr(5);
  return "nbd://" + rest + "/" + name;
}

Nbd::Nbd(Context& context, NbdOptions options)
    : context_(context), options_(std::move(options)), uri_(nbd_uri(options_.address)) {}

Nbd::~Nbd() {
  HUSK_CHECK(works_.empty());
  watch_.reset();
  if (handle_ != nullptr) ::nbd_close(handle_);
}

Result<std::unique_ptr<Nbd>> Nbd::open(Context& context, const NbdOptions& options) {
  std::unique_ptr<Nbd> nbd(new Nbd(context, options));
  host::EventLoop& loop = context.loop();
  const auto unreachable = [&](const std::string& why) {
    return std::unexpected(Error{fmt::format("cannot connect to the NBD server '{}': {}", options.address, why),
                                 "see that it runs and exports that name"});
  };
  // By Context::wait(), so that it works with the loop running elsewhere.
  Status started;
  const int failed = context.wait([&](core::BlockCompletion done) {
    nbd->retry_ = loop.make_timer([raw = nbd.get()] { raw->retry_connecting(); });
    nbd->deadline_ = loop.make_timer([raw = nbd.get()] { raw->fail_waiting(ETIMEDOUT); });
    started = nbd->connect();
    if (!started) return done(EIO);
    // A flush that waits for the connection.
    nbd->deadline_.arm_after(kConnectNs);
    nbd->works_.push_back(std::make_unique<Work>(Work{.nbd = *nbd,
                                                      .request = {.op = core::BlockOp::flush,
                                                                  .flags = 0,
                                                                  .offset = 0,
                                                                  .length = 0,
                                                                  .spans = {},
                                                                  .completion = std::move(done)}}));
    nbd->poll();
  });
  if (!started) return unreachable(started.error().text());
  if (failed != 0) return unreachable(nbd->connect_error_.empty() ? std::strerror(failed) : nbd->connect_error_);
  if (nbd->server_read_only_ && !options.read_only)
    return std::unexpected(
        Error{fmt::format("the NBD export '{}' is read-only", options.address), "open it read-only"});
  return nbd;
}

Status Nbd::connect() {
  handle_ = ::nbd_create();
  if (handle_ == nullptr) return fail("{}", ::nbd_get_error());
  ready_ = false;
  connecting_ = true;
  ::nbd_set_uri_allow_local_file(handle_, true);
  if (::nbd_aio_connect_uri(handle_, uri_.c_str()) == -1) {
    connect_error_ = ::nbd_get_error();
    ::nbd_close(handle_);
    handle_ = nullptr;
    connecting_ = false;
    return fail("{}", connect_error_);
  }
  return {};
}

/// Makes the loop wait for what libnbd wants next.
void Nbd::poll() {
  if (handle_ == nullptr) return;
  check_connection();
  if (handle_ == nullptr) return;
  const int fd = ::nbd_aio_get_fd(handle_);
  if (fd < 0) return;
  const unsigned direction = ::nbd_aio_get_direction(handle_);
  host::EventLoop::Events wanted = 0;
  if (direction & LIBNBD_AIO_DIRECTION_READ) wanted |= host::EventLoop::kReadable;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) wanted |= host::EventLoop::kWritable;
  if (watch_ && watched_fd_ == fd) {
    watch_.set_interest(wanted);
    return;
  }
  watch_.reset();
  auto watch = context_.loop().watch(fd, wanted, [this](host::EventLoop::Events events) {
    if (handle_ == nullptr) return;
    const unsigned ready_for = ::nbd_aio_get_direction(handle_);
    // A hangup is for libnbd to find, by reading or (while connecting) by writing.
    if ((events & (host::EventLoop::kReadable | host::EventLoop::kHangup)) && (ready_for & LIBNBD_AIO_DIRECTION_READ))
      ::nbd_aio_notify_read(handle_);
    else if ((events & (host::EventLoop::kWritable | host::EventLoop::kHangup)) &&
             (ready_for & LIBNBD_AIO_DIRECTION_WRITE))
      ::nbd_aio_notify_write(handle_);
    poll();
  });
  if (!watch) {
    lost();
    return;
  }
  watch_ = *std::move(watch);
  watched_fd_ = fd;
}

/// Looks at what libnbd's calls led to: requests that were answered, a connection that came or went.
void Nbd::check_connection() {
  if (::nbd_aio_is_dead(handle_) || ::nbd_aio_is_closed(handle_)) {
    if (const char* why = ::nbd_get_error(); why != nullptr && connecting_) connect_error_ = why;
    return lost();
  }
  if (!ready_ && ::nbd_aio_is_ready(handle_)) {
    ready_ = true;
    connecting_ = false;
    const std::int64_t size = ::nbd_get_size(handle_);
    const auto can = [](int answer) { return answer == 1; };
    if (was_ready_ && static_cast<std::uint64_t>(size) < size_) {
      context_.log().error("the NBD export '{}' came back with {} bytes instead of {}", options_.address, size, size_);
      return lost();
    }
    if (size >= 0) size_ = static_cast<std::uint64_t>(size);
    server_read_only_ = can(::nbd_is_read_only(handle_));
    can_trim_ = can(::nbd_can_trim(handle_));
    can_zero_ = can(::nbd_can_zero(handle_));
    can_flush_ = can(::nbd_can_flush(handle_));
    can_fua_ = can(::nbd_can_fua(handle_));
    was_ready_ = true;
    deadline_.cancel();
    for (auto& work : works_)
      if (!work->issued) issue(*work);
  }
  // Callbacks only note the answer: completions may come back here.
  while (true) {
    const auto found = std::find_if(works_.begin(), works_.end(), [](const auto& work) { return work->answered; });
    if (found == works_.end()) break;
    Work& work = **found;
    work.answered = false;
    work.issued = false;
    if (work.result != 0 && handle_ != nullptr && !::nbd_aio_is_dead(handle_)) {
      finish(work, work.result);
    } else if (work.result == 0) {
      work.done += work.piece;
      if (work.request.op == core::BlockOp::flush || work.done >= work.request.length)
        finish(work, 0);
      else
        issue(work);
    }
    // With a dead connection it is sent again over the next.
    if (handle_ == nullptr) return;
  }
  if (::nbd_aio_is_dead(handle_)) lost();
}

void Nbd::lost() {
  const bool fresh = ready_;
  ready_ = false;
  watch_.reset();
  watched_fd_ = -1;
  if (handle_ != nullptr) ::nbd_close(std::exchange(handle_, nullptr));
  for (auto& work : works_) work->issued = work->answered = false;
  if (fresh) {
    context_.log().warning("lost the NBD server '{}'", options_.address);
    if (options_.reconnect_ns > 0) deadline_.arm_after(options_.reconnect_ns);
  }
  connecting_ = false;
  if (!was_ready_ || options_.reconnect_ns == 0) return fail_waiting(EIO);
  retry_.arm_after(kRetryNs);
}

void Nbd::retry_connecting() {
  if (handle_ != nullptr) return;
  if (!connect()) {
    retry_.arm_after(kRetryNs);
    return;
  }
  poll();
}

void Nbd::fail_waiting(int error) {
  std::vector<core::BlockCompletion> failed;
  for (auto it = works_.begin(); it != works_.end();) {
    if ((*it)->issued) {
      ++it;
      continue;
    }
    failed.push_back(std::move((*it)->request.completion));
    it = works_.erase(it);
  }
  for (auto& completion : failed) completion(error);
  if (works_.empty()) {
    auto drained = std::exchange(drained_, {});
    for (auto& done : drained) done();
  }
}

core::BlockInfo Nbd::info() const {
  core::BlockInfo info;
  info.size = size_;
  info.read_only = options_.read_only;
  info.can_discard = can_trim_;
  info.fast_zeroes = can_zero_;
  info.volatile_cache = !options_.writethrough;
  return info;
}

void Nbd::submit(core::BlockRequest request) {
  using core::BlockOp;
  const bool writes = request.op != BlockOp::read && request.op != BlockOp::flush;
  if (writes && options_.read_only) return request.completion(EROFS);
  if (request.op == BlockOp::flush) {
    if (!can_flush_ || options_.read_only) return request.completion(0);
  } else {
    if (!range_within(request.offset, request.length, size_)) return request.completion(EINVAL);
    if (request.length == 0 || (request.op == BlockOp::discard && !can_trim_)) return request.completion(0);
    if (request.flags & core::BlockFlags::kCompressed) return request.completion(ENOTSUP);
    if (request.op == BlockOp::write_zeroes && !can_zero_ && (request.flags & core::BlockFlags::kNoFallback))
      return request.completion(ENOTSUP);
  }
  works_.push_back(std::make_unique<Work>(Work{.nbd = *this, .request = std::move(request)}));
  Work& work = *works_.back();
  if (ready_) {
    issue(work);
    poll();
  } else if (handle_ == nullptr) {
    if (options_.reconnect_ns == 0) {
      // Without a time to wait: one try now, whose outcome decides.
      if (!connect()) return fail_waiting(EIO);
      poll();
    } else if (!deadline_.deadline() && !retry_.deadline()) {
      deadline_.arm_after(options_.reconnect_ns);
      retry_.arm_after(1);
    } else if (!deadline_.deadline()) {
      deadline_.arm_after(options_.reconnect_ns);
    }
  }
}

void Nbd::issue(Work& work) {
  using core::BlockOp;
  core::BlockRequest& r = work.request;
  work.issued = true;
  const auto answered = [](void* data, int* error) {
    auto* done = static_cast<Work*>(data);
    done->answered = true;
    done->result = *error;
    return 1;  // libnbd frees the command
  };
  const nbd_completion_callback completion{.callback = answered, .user_data = &work, .free = nullptr};
  const bool stable = can_fua_ && (options_.writethrough || (r.flags & core::BlockFlags::kFua));
  const std::uint32_t fua = stable ? LIBNBD_CMD_FLAG_FUA : 0;
  work.piece = std::min(r.length - work.done, kMostTransfer);
  const std::uint64_t at = r.offset + work.done;
  std::int64_t cookie = -1;
  if (r.op == BlockOp::read || (r.op == BlockOp::write) || (r.op == BlockOp::write_zeroes && !can_zero_)) {
    std::uint8_t* data;
    if (r.spans.size() == 1) {
      data = r.spans[0].data() + work.done;
    } else {
      if (work.buffer.empty()) {
        work.buffer.resize(r.length);
        std::uint8_t* to = work.buffer.data();
        if (r.op == BlockOp::write)
          for (const core::BlockSpan span : r.spans) to = std::copy(span.begin(), span.end(), to);
      }
      data = work.buffer.data() + work.done;
    }
    if (r.op == BlockOp::read)
      cookie = ::nbd_aio_pread(handle_, data, work.piece, at, completion, 0);
    else
      cookie = ::nbd_aio_pwrite(handle_, data, work.piece, at, completion, fua);
  } else if (r.op == BlockOp::flush) {
    work.piece = 0;
    cookie = can_flush_ ? ::nbd_aio_flush(handle_, completion, 0) : 0;
    if (!can_flush_) {
      work.answered = true;
      work.result = 0;
    }
  } else {
    work.piece = std::min<std::uint64_t>(r.length - work.done, 1u << 30);
    if (r.op == BlockOp::discard)
      cookie = ::nbd_aio_trim(handle_, work.piece, at, completion, fua);
    else
      cookie = ::nbd_aio_zero(handle_, work.piece, at, completion,
                              fua | ((r.flags & core::BlockFlags::kMayUnmap) ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
  }
  if (cookie == -1) {
    work.answered = true;
    work.result = ::nbd_get_errno() != 0 ? ::nbd_get_errno() : EIO;
  }
}

void Nbd::finish(Work& work, int error) {
  core::BlockRequest& r = work.request;
  if (error == 0 && r.op == core::BlockOp::read && !work.buffer.empty()) {
    const std::uint8_t* from = work.buffer.data();
    for (const core::BlockSpan span : r.spans) {
      if (!span.empty()) std::memcpy(span.data(), from, span.size());
      from += span.size();
    }
  }
  core::BlockCompletion completion = std::move(r.completion);
  works_.remove_if([&](const auto& owned) { return owned.get() == &work; });
  completion(error);
  if (works_.empty()) {
    auto drained = std::exchange(drained_, {});
    for (auto& done : drained) done();
  }
}

void Nbd::drain(std::move_only_function<void()> done) {
  if (works_.empty())
    done();
  else
    drained_.push_back(std::move(done));
}

void Nbd::status(std::uint64_t offset, std::uint64_t length, StatusDone done) {
  if (offset >= size_) return done(EINVAL, {});
  length = std::min(length, size_ - offset);
  done(0, {.length = length, .present = true, .zero = false, .data = true, .host_offset = offset});
}

void Nbd::resize_to(std::uint64_t, Preallocation, core::BlockCompletion done) { done(ENOTSUP); }

void Nbd::close(core::BlockCompletion done) {
  retry_.cancel();
  deadline_.cancel();
  submit(
      {.op = core::BlockOp::flush, .flags = 0, .offset = 0, .length = 0, .spans = {}, .completion = std::move(done)});
}

}  // namespace husk::block
