// husk: what all nodes on one loop share: the io_uring or the threads that stand in for it, and workers
#include "block/context.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "host/event_fd.h"

namespace husk::block {
namespace {

constexpr unsigned kRingEntries = 256;

class UringEngine final : public FileEngine {
 public:
  explicit UringEngine(host::EventFd event) : event_(std::move(event)) {}
  ~UringEngine() override {
    if (ready_) ::io_uring_queue_exit(&ring_);
  }

  Status open(host::EventLoop& loop) {
    int error = -::io_uring_queue_init(kRingEntries, &ring_, 0);
    if (error != 0) return fail_errno(error, "cannot create an io_uring");
    ready_ = true;
    // Kernels before 5.6 have rings without all of these operations.
    io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
    bool complete = probe != nullptr;
    for (int op : {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE})
      complete = complete && ::io_uring_opcode_supported(probe, op);
    ::io_uring_free_probe(probe);
    if (!complete) return fail("this kernel's io_uring lacks operations on files");
    error = -::io_uring_register_eventfd(&ring_, event_.fd());
    if (error != 0) return fail_errno(error, "cannot register an eventfd with an io_uring");
    watch_ = HUSK_TRY(loop.watch(event_.fd(), host::EventLoop::kReadable, [this](host::EventLoop::Events) { reap(); }));
    return {};
  }

  const char* name() const override { return "io_uring"; }

  void start(FileOperation& operation) override {
    waiting_.push_back(&operation);
    if (batch_ == 0) submit();
  }
  void begin_batch() override { ++batch_; }
  void end_batch() override {
    HUSK_CHECK(batch_ > 0);
    if (--batch_ == 0) submit();
  }

 private:
  void submit() {
    // As many as the completion ring (twice the entries) surely holds; the others wait their turn.
    while (!waiting_.empty() && in_flight_ < kRingEntries) {
      io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
      if (entry == nullptr) break;
      FileOperation& operation = *waiting_.front();
      waiting_.pop_front();
      switch (operation.kind) {
        case FileOperation::Kind::read:
          ::io_uring_prep_readv2(entry, operation.fd, operation.vectors, operation.vector_count, operation.offset,
                                 operation.mode);
          break;
        case FileOperation::Kind::write:
          ::io_uring_prep_writev2(entry, operation.fd, operation.vectors, operation.vector_count, operation.offset,
                                  operation.mode);
          break;
        case FileOperation::Kind::sync: ::io_uring_prep_fsync(entry, operation.fd, IORING_FSYNC_DATASYNC); break;
        case FileOperation::Kind::allocate:
          ::io_uring_prep_fallocate(entry, operation.fd, operation.mode, static_cast<off_t>(operation.offset),
                                    static_cast<off_t>(operation.length));
          break;
      }
      ::io_uring_sqe_set_data(entry, &operation);
      ++in_flight_;
    }
    int sent;
    do sent = ::io_uring_submit(&ring_);
    while (sent == -EINTR);
    // EAGAIN and EBUSY: entries stay in the ring and go with the next call, which the completions under way bring.
    if (sent < 0 && in_flight_ > 0) event_.signal();
  }

  void reap() {
    event_.take();
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(&ring_, &entry) == 0 && entry != nullptr) {
      auto* operation = static_cast<FileOperation*>(::io_uring_cqe_get_data(entry));
      const std::int64_t result = entry->res;
      ::io_uring_cqe_seen(&ring_, entry);
      --in_flight_;
      operation->finished(*operation, result);
    }
    if (!waiting_.empty() || ::io_uring_sq_ready(&ring_) > 0) submit();
  }

  host::EventFd event_;
  io_uring ring_{};
  bool ready_ = false;
  host::EventLoop::Watch watch_;
  std::deque<FileOperation*> waiting_;
  unsigned in_flight_ = 0;
  unsigned batch_ = 0;
};

class ThreadEngine final : public FileEngine {
 public:
  explicit ThreadEngine(WorkerPool& workers) : workers_(workers) {}
  const char* name() const override { return "threads"; }

  void start(FileOperation& operation) override {
    auto result = std::make_shared<std::int64_t>(0);
    workers_.run([&operation, result] { *result = perform(operation); },
                 [&operation, result] { operation.finished(operation, *result); });
  }

 private:
  static std::int64_t perform(const FileOperation& operation) {
    std::int64_t result = -1;
    do {
      const auto offset = static_cast<off_t>(operation.offset);
      const auto count = static_cast<int>(operation.vector_count);
      switch (operation.kind) {
        case FileOperation::Kind::read:
          result = ::preadv2(operation.fd, operation.vectors, count, offset, operation.mode);
          break;
        case FileOperation::Kind::write:
          result = ::pwritev2(operation.fd, operation.vectors, count, offset, operation.mode);
          break;
        case FileOperation::Kind::sync: result = ::fdatasync(operation.fd); break;
        case FileOperation::Kind::allocate:
          result = ::fallocate(operation.fd, operation.mode, offset, static_cast<off_t>(operation.length));
          break;
      }
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
  }
  WorkerPool& workers_;
};

}  // namespace

Result<std::unique_ptr<FileEngine>> make_uring_engine(host::EventLoop& loop) {
  auto engine = std::make_unique<UringEngine>(HUSK_TRY(host::EventFd::create()));
  HUSK_TRY(engine->open(loop));
  return engine;
}

std::unique_ptr<FileEngine> make_thread_engine(WorkerPool& workers) { return std::make_unique<ThreadEngine>(workers); }

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard guard(mutex_);
    ending_ = true;
    queue_.clear();
    wanted_.notify_all();
  }
  for (host::Thread& thread : threads_) thread.join();
}

void WorkerPool::run(std::move_only_function<void()> work, std::move_only_function<void()> done) {
  const std::lock_guard guard(mutex_);
  queue_.push_back({std::move(work), std::move(done)});
  if (idle_ >= queue_.size()) {
    wanted_.notify_one();
    return;
  }
  if (threads_.size() < most_threads_) {
    auto thread = host::Thread::start("husk-block", [this] { serve(); });
    if (thread) threads_.push_back(*std::move(thread));
    // With no thread at all nothing would ever answer; with one, the work just waits longer.
    HUSK_CHECK(!threads_.empty());
  }
  wanted_.notify_one();
}

void WorkerPool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    wanted_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    --idle_;
    if (ending_) return;
    Job job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job.work();
    loop_.post(std::move(job.done));
    lock.lock();
  }
}

Result<std::unique_ptr<Context>> Context::create(host::EventLoop& loop, Log& log, EngineChoice choice) {
  std::unique_ptr<Context> context(new Context(loop, log));
  if (choice != EngineChoice::threads) {
    auto engine = make_uring_engine(loop);
    if (engine)
      context->engine_ = *std::move(engine);
    else if (choice == EngineChoice::io_uring)
      return std::unexpected(std::move(engine).error());
    else
      log.info("disk I/O by threads: {}", engine.error().text());
  }
  if (!context->engine_) context->engine_ = make_thread_engine(context->workers_);
  return context;
}

int Context::wait(const std::function<void(core::BlockCompletion)>& start) {
  if (loop_.in_loop_thread()) {
    bool done = false;
    int result = 0;
    start([&](int error) {
      result = error;
      done = true;
    });
    while (!done) loop_.run_once();
    return result;
  }
  return wait_on_worker(start);
}

int Context::wait_on_worker(const std::function<void(core::BlockCompletion)>& start) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  int result = 0;
  loop_.post([&] {
    start([&](int error) {
      const std::lock_guard guard(mutex);
      result = error;
      done = true;
      changed.notify_one();
    });
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
  return result;
}

}  // namespace husk::block
