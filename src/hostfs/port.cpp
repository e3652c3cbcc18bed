// husk: the end of the FUSE server that a device is connected to: quick requests at once, others on threads
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <list>
#include <thread>

#include "host/thread.h"
#include "hostfs/server_impl.h"

namespace husk::hostfs {

namespace {
/// How often a lock that another process of the host's holds is tried again.
constexpr std::chrono::milliseconds kLockPeriod{20};
}  // namespace

class Server::Port final : public core::FuseBackend {
 public:
  Port(std::shared_ptr<Impl> impl, mem::LockDomain& domain) : impl_(std::move(impl)), domain_(domain) {}
  ~Port() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    threads_.clear();
  }

  void submit(core::FuseRequest request) override {
    const auto [unique, op] = Impl::identify(request);
    if (op == fuse::Op::interrupt) return interrupt(std::move(request));
    const auto answer = impl_->handle(request, scratch_, false);
    if (answer.outcome == 0) {
      request.completion(answer.written);
      // Somebody may wait for what this one let go.
      if (op == fuse::Op::setlk || op == fuse::Op::flush || op == fuse::Op::release) try_locks();
      return;
    }
    std::unique_lock lock(mutex_);
    if (answer.outcome == kLocked) {
      waiting_.push_back({unique, std::move(request)});
    } else {
      queue_.push_back({unique, std::move(request)});
    }
    if (idle_ == 0 && threads_.size() < std::max(1u, impl_->options().threads)) {
      if (auto thread = host::Thread::start("husk-files", [this] { work(); })) threads_.push_back(std::move(*thread));
    }
    if (threads_.empty()) {
      // The host has no thread for us: then the guest's CPU waits.
      for (auto pending = std::exchange(queue_, {}); !pending.empty(); pending.pop_front())
        pending.front().request.completion(impl_->handle(pending.front().request, scratch_, true).written);
      for (auto pending = std::exchange(waiting_, {}); !pending.empty(); pending.pop_front())
        pending.front().request.completion(Impl::refuse(pending.front().request, pending.front().unique, ENOLCK));
    }
    lock.unlock();
    wake_.notify_one();
  }

  void reset() override {
    impl_->reset();
    std::list<Pending> given_up;
    {
      const std::lock_guard lock(mutex_);
      given_up.swap(waiting_);
    }
    give_up(given_up);
  }

  void drain() override {
    std::unique_lock lock(mutex_);
    while (!queue_.empty() || !waiting_.empty() || busy_) {
      if (waiting_.empty()) {
        done_.wait(lock);
        continue;
      }
      std::list<Pending> given_up;
      given_up.swap(waiting_);
      lock.unlock();
      {
        const mem::DomainGuard guard(&domain_);
        give_up(given_up);
      }
      lock.lock();
    }
  }

  std::vector<std::uint8_t> save() override { return impl_->save(); }
  Status load(std::span<const std::uint8_t> state) override { return impl_->load(state); }

 private:
  struct Pending {
    std::uint64_t unique;
    core::FuseRequest request;
  };

  void give_up(std::list<Pending>& pending) {
    for (Pending& one : pending) one.request.completion(Impl::refuse(one.request, one.unique, EINTR));
  }

  /// Ends a request that waits for a lock; others are over soon anyway.
  void interrupt(core::FuseRequest request) {
    std::uint64_t about = 0;
    Scratch bytes;
    bytes.in.resize(fuse::kInHeader + 8);
    std::size_t filled = 0;
    for (const core::FuseSpan& span : request.in) {
      const std::size_t count = std::min(span.size(), bytes.in.size() - filled);
      std::copy_n(span.begin(), count, bytes.in.begin() + static_cast<std::ptrdiff_t>(filled));
      filled += count;
    }
    if (filled == bytes.in.size()) about = load_le<std::uint64_t>(&bytes.in[fuse::kInHeader]);
    std::list<Pending> ended;
    {
      const std::lock_guard lock(mutex_);
      for (auto one = waiting_.begin(); one != waiting_.end(); ++one)
        if (one->unique == about) {
          ended.splice(ended.end(), waiting_, one);
          break;
        }
    }
    give_up(ended);
    request.completion(0);
  }

  /// Without the mutex, with the domain.
  void try_locks() {
    std::list<Pending> waiting, over;
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.empty()) return;
      waiting.swap(waiting_);
    }
    for (auto one = waiting.begin(); one != waiting.end();) {
      const auto next = std::next(one);
      const auto answer = impl_->handle(one->request, scratch_, true);
      if (answer.outcome == 0) {
        over.splice(over.end(), waiting, one);
        over.back().request.completion(answer.written);
      }
      one = next;
    }
    const std::lock_guard lock(mutex_);
    waiting_.splice(waiting_.begin(), waiting);
  }

  void work() {
    Scratch scratch;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!queue_.empty()) {
        Pending pending = std::move(queue_.front());
        queue_.pop_front();
        ++busy_;
        lock.unlock();
        auto answer = impl_->handle(pending.request, scratch, true);
        if (answer.outcome) answer = {0, Impl::refuse(pending.request, pending.unique, EAGAIN)};
        {
          const mem::DomainGuard guard(&domain_);
          pending.request.completion(answer.written);
        }
        pending = {};
        lock.lock();
        --busy_;
        done_.notify_all();
        continue;
      }
      if (ending_) return;
      ++idle_;
      if (waiting_.empty()) {
        wake_.wait(lock);
        --idle_;
        continue;
      }
      wake_.wait_for(lock, kLockPeriod);
      --idle_;
      if (!queue_.empty() || waiting_.empty()) continue;
      ++busy_;
      lock.unlock();
      {
        const mem::DomainGuard guard(&domain_);
        try_locks();
      }
      lock.lock();
      --busy_;
      done_.notify_all();
    }
  }

  const std::shared_ptr<Impl> impl_;
  mem::LockDomain& domain_;
  Scratch scratch_;   ///< under the domain
  std::mutex mutex_;  ///< taken with the domain held or without; never held while the domain is taken
  std::condition_variable wake_, done_;
  std::deque<Pending> queue_;
  std::list<Pending> waiting_;  ///< for locks
  unsigned busy_ = 0, idle_ = 0;
  bool ending_ = false;
  std::vector<host::Thread> threads_;
};

std::unique_ptr<core::FuseBackend> Server::attach(mem::LockDomain& domain) {
  return std::make_unique<Port>(impl_, domain);
}

}  // namespace husk::hostfs
