// husk: the lock that a device, or a group of tightly wired devices, runs under
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "base/check.h"

namespace husk::mem {

/// A mutex that knows its holder, so that a wire from a device to another of the same domain needs no second lock.
/// Domains nest downward only: device domain, then chipset domain (interrupt controllers).
class LockDomain {
 public:
  void lock() {
    mutex_.lock();
    holder_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  void unlock() {
    holder_.store(std::thread::id{}, std::memory_order_relaxed);
    mutex_.unlock();
  }
  /// True if the calling thread holds the domain.
  bool held() const { return holder_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }

 private:
  std::mutex mutex_;
  std::atomic<std::thread::id> holder_{};
};

/// Holds a domain for a scope; does nothing if this thread holds it already, or if there is none (null).
class DomainGuard {
 public:
  explicit DomainGuard(LockDomain* domain) : domain_(domain && !domain->held() ? domain : nullptr) {
    if (domain_) domain_->lock();
  }
  ~DomainGuard() {
    if (domain_) domain_->unlock();
  }
  DomainGuard(const DomainGuard&) = delete;
  DomainGuard& operator=(const DomainGuard&) = delete;

 private:
  LockDomain* domain_;
};

}  // namespace husk::mem
