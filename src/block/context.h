// husk: what all nodes on one loop share: the io_uring or the threads that stand in for it, and workers
#pragma once

#include <sys/uio.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "core/block_backend.h"
#include "host/event_loop.h"
#include "host/thread.h"

namespace husk::block {

/// Threads for what would block the loop: decompression, metadata surgery, and file I/O where the kernel has no
/// io_uring. Threads start as they are needed.
class WorkerPool {
 public:
  explicit WorkerPool(host::EventLoop& loop, unsigned most_threads) : loop_(loop), most_threads_(most_threads) {}
  /// Waits for what runs; what is queued and its completions are dropped.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /// Runs `work` on a thread, then `done` on the loop.
  void run(std::move_only_function<void()> work, std::move_only_function<void()> done);

 private:
  struct Job {
    std::move_only_function<void()> work, done;
  };
  void serve();

  host::EventLoop& loop_;
  const unsigned most_threads_;
  std::mutex mutex_;
  std::condition_variable wanted_;
  std::deque<Job> queue_;
  std::vector<host::Thread> threads_;
  unsigned idle_ = 0;
  bool ending_ = false;
};

/// One system call on a descriptor. Lives until `finished` has been called; the engine keeps only the pointer.
struct FileOperation {
  enum class Kind : std::uint8_t { read, write, sync, allocate };
  Kind kind = Kind::read;
  int fd = -1;
  int mode = 0;  ///< RWF_ flags of read and write, fallocate's mode of allocate
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  ///< allocate only
  iovec* vectors = nullptr;
  unsigned vector_count = 0;
  /// On the loop; result is what the system call gave, or -errno.
  void (*finished)(FileOperation& operation, std::int64_t result) = nullptr;
};

class FileEngine {
 public:
  virtual ~FileEngine() = default;
  virtual const char* name() const = 0;
  /// Not before end_batch(), if begin_batch() came before.
  virtual void start(FileOperation& operation) = 0;
  virtual void begin_batch() {}
  virtual void end_batch() {}
};

enum class EngineChoice { automatic, io_uring, threads };

/// Shared by the nodes of one loop; outlives them, and the loop outlives it.
class Context {
 public:
  /// `automatic` takes threads only where the kernel refuses an io_uring, and says so in the log.
  static Result<std::unique_ptr<Context>> create(host::EventLoop& loop, Log& log,
                                                 EngineChoice choice = EngineChoice::automatic);
  host::EventLoop& loop() { return loop_; }
  Log& log() { return log_; }
  FileEngine& files() { return *engine_; }
  WorkerPool& workers() { return workers_; }

  /// Calls `start` with a completion on the loop and waits for that completion: straight-line code over nodes. On any
  /// thread; on the loop's own thread (or while nobody runs the loop) it runs the loop meanwhile, which must not happen
  /// inside a callback of a node that is concerned.
  int wait(const std::function<void(core::BlockCompletion)>& start);
  /// The same on a thread of workers(): leaves the loop to whoever runs it, also while nobody does for a moment.
  int wait_on_worker(const std::function<void(core::BlockCompletion)>& start);

 private:
  Context(host::EventLoop& loop, Log& log) : loop_(loop), log_(log), workers_(loop, 8) {}
  host::EventLoop& loop_;
  Log& log_;
  std::unique_ptr<FileEngine> engine_;
  WorkerPool workers_;
};

/// The two engines, for Context and tests.
Result<std::unique_ptr<FileEngine>> make_uring_engine(host::EventLoop& loop);
std::unique_ptr<FileEngine> make_thread_engine(WorkerPool& workers);

}  // namespace husk::block
