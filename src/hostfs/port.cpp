// husk: the end of a file server that a device is connected to: quick requests at once, others on threads
#include "hostfs/port.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <thread>
#include <utility>

#include "host/thread.h"

namespace husk::hostfs {

namespace {
/// How often a lock that another process of the host's holds is tried again.
constexpr std::chrono::milliseconds kLockPeriod{20};

class Port final : public core::ShareBackend {
 public:
  Port(std::shared_ptr<Protocol> protocol, mem::LockDomain& domain, unsigned threads)
      : protocol_(std::move(protocol)), domain_(domain), most_threads_(std::max(1u, threads)) {}
  ~Port() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    threads_.clear();
  }

  void submit(core::ShareRequest request) override {
    const Protocol::Identity who = protocol_->identify(request);
    if (who.effect == Protocol::Effect::cancels) return cancel(std::move(request), who);
    const auto answer = protocol_->handle(request, scratch_, false);
    if (answer.outcome == 0) {
      request.completion(answer.written);
      if (who.effect == Protocol::Effect::frees_locks) try_locks();
      return;
    }
    std::unique_lock lock(mutex_);
    if (answer.outcome == kLocked) {
      waiting_.push_back({who.id, std::move(request)});
    } else {
      queue_.push_back({who.id, std::move(request)});
    }
    if (idle_ == 0 && threads_.size() < most_threads_) {
      if (auto thread = host::Thread::start("husk-files", [this] { work(); })) threads_.push_back(std::move(*thread));
    }
    if (threads_.empty()) {
      // The host has no thread for us: then the guest's CPU waits.
      for (auto pending = std::exchange(queue_, {}); !pending.empty(); pending.pop_front())
        pending.front().request.completion(protocol_->handle(pending.front().request, scratch_, true).written);
      for (auto pending = std::exchange(waiting_, {}); !pending.empty(); pending.pop_front())
        pending.front().request.completion(protocol_->refuse(pending.front().request, pending.front().id, ENOLCK));
    }
    lock.unlock();
    wake_.notify_one();
  }

  void reset() override {
    protocol_->reset();
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

  std::vector<std::uint8_t> save() override { return protocol_->save(); }
  Status load(std::span<const std::uint8_t> state) override { return protocol_->load(state); }

 private:
  struct Pending {
    std::uint64_t id;
    core::ShareRequest request;
  };
  /// A cancellation whose answer waits for the end of what it is about.
  struct Cancellation {
    std::uint64_t about;
    core::ShareRequest request;
  };

  void give_up(std::list<Pending>& pending) {
    for (Pending& one : pending) one.request.completion(protocol_->refuse(one.request, one.id, EINTR));
  }

  void answer_cancellation(core::ShareRequest& request) {
    request.completion(protocol_->handle(request, scratch_, true).written);
  }

  /// Ends a request that waits for a lock, or has not begun; others are over soon anyway.
  void cancel(core::ShareRequest request, const Protocol::Identity& who) {
    std::list<Pending> ended;
    const bool last = protocol_->cancellation_is_last();
    {
      const std::lock_guard lock(mutex_);
      const auto is_it = [&](const Pending& one) { return one.id == who.about; };
      if (const auto one = std::find_if(waiting_.begin(), waiting_.end(), is_it); one != waiting_.end())
        ended.splice(ended.end(), waiting_, one);
      if (const auto one = std::find_if(queue_.begin(), queue_.end(), is_it); last && one != queue_.end()) {
        ended.push_back(std::move(*one));
        queue_.erase(one);
        done_.notify_all();
      }
      if (last && std::find(running_.begin(), running_.end(), who.about) != running_.end()) {
        cancellations_.push_back({who.about, std::move(request)});
        return;
      }
    }
    for (Pending& one : ended) one.request.completion(protocol_->refuse_cancelled(one.request, one.id));
    answer_cancellation(request);
  }

  /// With the domain: answers cancellations of what has ended just now.
  void finish_cancellations(std::uint64_t id) {
    std::list<Cancellation> due;
    {
      const std::lock_guard lock(mutex_);
      running_.erase(std::find(running_.begin(), running_.end(), id));
      for (auto one = cancellations_.begin(); one != cancellations_.end();) {
        const auto next = std::next(one);
        if (std::find(running_.begin(), running_.end(), one->about) == running_.end())
          due.splice(due.end(), cancellations_, one);
        one = next;
      }
    }
    for (Cancellation& one : due) answer_cancellation(one.request);
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
      const auto answer = protocol_->handle(one->request, scratch_, true);
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
        running_.push_back(pending.id);
        lock.unlock();
        auto answer = protocol_->handle(pending.request, scratch, true);
        if (answer.outcome) answer = {0, protocol_->refuse(pending.request, pending.id, EAGAIN)};
        {
          const mem::DomainGuard guard(&domain_);
          pending.request.completion(answer.written);
          finish_cancellations(pending.id);
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

  const std::shared_ptr<Protocol> protocol_;
  mem::LockDomain& domain_;
  const unsigned most_threads_;
  Scratch scratch_;   ///< under the domain
  std::mutex mutex_;  ///< taken with the domain held or without; never held while the domain is taken
  std::condition_variable wake_, done_;
  std::deque<Pending> queue_;
  std::list<Pending> waiting_;  ///< for locks
  std::vector<std::uint64_t> running_;
  std::list<Cancellation> cancellations_;
  unsigned busy_ = 0, idle_ = 0;
  bool ending_ = false;
  std::vector<host::Thread> threads_;
};
}  // namespace

std::unique_ptr<core::ShareBackend> make_port(std::shared_ptr<Protocol> protocol, mem::LockDomain& domain,
                                              unsigned threads) {
  return std::make_unique<Port>(std::move(protocol), domain, threads);
}

std::size_t gather(std::span<const core::ShareSpan> from, std::uint64_t offset, std::span<std::uint8_t> into) {
  std::size_t done = 0;
  for (const core::ShareSpan& span : from) {
    if (offset >= span.size()) {
      offset -= span.size();
      continue;
    }
    const std::size_t count = std::min<std::size_t>(span.size() - offset, into.size() - done);
    std::copy_n(span.data() + offset, count, into.data() + done);
    done += count;
    offset = 0;
    if (done == into.size()) break;
  }
  return done;
}

void scatter(std::span<const core::ShareSpan> into, std::uint64_t offset, std::span<const std::uint8_t> from) {
  for (const core::ShareSpan& span : into) {
    if (offset >= span.size()) {
      offset -= span.size();
      continue;
    }
    const std::size_t count = std::min<std::size_t>(span.size() - offset, from.size());
    std::copy_n(from.data(), count, span.data() + offset);
    from = from.subspan(count);
    offset = 0;
    if (from.empty()) return;
  }
}

std::uint64_t total(std::span<const core::ShareSpan> spans) {
  std::uint64_t bytes = 0;
  for (const core::ShareSpan& span : spans) bytes += span.size();
  return bytes;
}

}  // namespace husk::hostfs
