// husk: brings a disk device together with a block backend that lives on a loop
#include "machine/block_bridge.h"

#include <mutex>
#include <utility>
#include <vector>

namespace husk::machine {

struct BlockBridge::Shared {
  host::EventLoop& loop;
  mem::LockDomain& domain;
  core::BlockBackend& below;
  BlockBridge* owner;             ///< on the loop; null once it is gone
  std::function<void()> resized;  ///< under the domain
  unsigned under_way = 0;         ///< on the loop
  std::mutex mutex;
  std::vector<core::BlockRequest> waiting;
  std::vector<std::pair<core::BlockCompletion, int>> completed;  ///< on the loop
  bool delivering = false;

  void run(const std::shared_ptr<Shared>& self) {
    std::vector<core::BlockRequest> requests;
    {
      const std::lock_guard lock(mutex);
      requests.swap(waiting);
    }
    below.begin_batch();
    for (core::BlockRequest& request : requests) {
      ++under_way;
      request.completion = [self, done = std::move(request.completion)](int error) mutable {
        self->completed.emplace_back(std::move(done), error);
        self->deliver_soon(self);
      };
      below.submit(std::move(request));
    }
    below.end_batch();
    deliver();
  }
  /// One round of the loop often completes many: they take the device's lock once.
  void deliver_soon(const std::shared_ptr<Shared>& self) {
    if (std::exchange(delivering, true)) return;
    loop.post([self] { self->deliver(); });
  }
  void deliver() {
    delivering = false;
    if (completed.empty()) return;
    auto ready = std::exchange(completed, {});
    const mem::DomainGuard guard(&domain);
    for (auto& [done, error] : ready) {
      done(error);
      --under_way;
    }
  }
};

BlockBridge::BlockBridge(host::EventLoop& loop, mem::LockDomain& domain, core::BlockBackend& below)
    : loop_(loop), info_(below.info()), shared_(new Shared{loop, domain, below, this, {}, 0, {}, {}, {}, false}) {
  below.set_resized([shared = shared_] {
    if (!shared->owner) return;
    const mem::DomainGuard guard(&shared->domain);
    shared->owner->info_ = shared->below.info();
    if (shared->resized) shared->resized();
  });
}

BlockBridge::~BlockBridge() {
  drain([] {});
  shared_->below.set_resized({});
  shared_->owner = nullptr;
}

void BlockBridge::submit(core::BlockRequest request) {
  bool first = false;
  {
    const std::lock_guard lock(shared_->mutex);
    first = shared_->waiting.empty();
    shared_->waiting.push_back(std::move(request));
  }
  if (first) loop_.post([shared = shared_] { shared->run(shared); });
}

void BlockBridge::drain(std::move_only_function<void()> done) {
  for (;;) {
    {
      const std::lock_guard lock(shared_->mutex);
      if (shared_->waiting.empty() && shared_->under_way == 0) break;
    }
    loop_.run_once();
  }
  done();
}

void BlockBridge::set_resized(std::function<void()> resized) { shared_->resized = std::move(resized); }

}  // namespace husk::machine
