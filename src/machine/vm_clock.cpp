// husk: virtual time
#include "machine/vm_clock.h"

#include <ctime>

namespace husk::machine {

struct VmClock::Record {
  mem::LockDomain* domain;
  std::function<void()> callback;
  std::optional<core::VmTime> deadline;  ///< under VmClock::mutex_
};

bool VmClock::Earlier::operator()(const std::shared_ptr<Record>& a, const std::shared_ptr<Record>& b) const {
  return a->deadline != b->deadline ? a->deadline < b->deadline : a < b;
}

class VmClock::DomainTimer final : public core::Timer {
 public:
  DomainTimer(VmClock& clock, std::shared_ptr<Record> record) : clock_(clock), record_(std::move(record)) {}
  ~DomainTimer() override { clock_.cancel(record_); }
  void arm(core::VmTime deadline) override { clock_.arm(record_, deadline); }
  void cancel() override { clock_.cancel(record_); }
  std::optional<core::VmTime> deadline() const override {
    const std::lock_guard lock(clock_.mutex_);
    return record_->deadline;
  }

 private:
  VmClock& clock_;
  std::shared_ptr<Record> record_;
};

class VmClock::DomainClock final : public core::Clock {
 public:
  DomainClock(VmClock& clock, mem::LockDomain* domain) : clock_(clock), domain_(domain) {}
  core::VmTime now() const override { return clock_.now(); }
  std::unique_ptr<core::Timer> make_timer(std::function<void()> callback) override {
    return std::make_unique<DomainTimer>(clock_, std::make_shared<Record>(Record{domain_, std::move(callback), {}}));
  }
  std::int64_t wall_clock() const override {
    if (clock_.wall_base_) return *clock_.wall_base_ + static_cast<std::int64_t>(clock_.now());
    std::timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }

 private:
  VmClock& clock_;
  mem::LockDomain* domain_;
};

VmClock::VmClock(host::EventLoop& loop, std::optional<std::int64_t> wall_base) : loop_(loop), wall_base_(wall_base) {
  host_timer_ = loop_.make_timer([this] { fire(); });
}

VmClock::~VmClock() = default;

core::VmTime VmClock::now() const {
  if (!running_.load(std::memory_order_acquire)) return stopped_at_.load(std::memory_order_acquire);
  return host::monotonic_now() - origin_.load(std::memory_order_relaxed);
}

void VmClock::start() {
  const std::lock_guard lock(mutex_);
  if (running_) return;
  origin_ = host::monotonic_now() - stopped_at_;
  running_.store(true, std::memory_order_release);
  schedule();
}

void VmClock::stop() {
  const std::lock_guard lock(mutex_);
  if (!running_) return;
  stopped_at_ = host::monotonic_now() - origin_;
  running_.store(false, std::memory_order_release);
  host_timer_.cancel();
}

std::unique_ptr<core::Clock> VmClock::for_domain(mem::LockDomain* domain) {
  return std::make_unique<DomainClock>(*this, domain);
}

void VmClock::schedule() {
  if (!running_ || armed_.empty()) return;
  host_timer_.arm(origin_ + *(*armed_.begin())->deadline);
}

void VmClock::arm(const std::shared_ptr<Record>& record, core::VmTime deadline) {
  const std::lock_guard lock(mutex_);
  if (record->deadline) armed_.erase(record);
  record->deadline = deadline;
  const auto place = armed_.insert(record).first;
  // The host timer is moved only for a new earliest deadline; if the old earliest goes, it fires once for nothing.
  if (place == armed_.begin()) schedule();
}

void VmClock::cancel(const std::shared_ptr<Record>& record) {
  const std::lock_guard lock(mutex_);
  if (!record->deadline) return;
  armed_.erase(record);
  record->deadline.reset();
}

void VmClock::fire() {
  for (;;) {
    std::shared_ptr<Record> due;
    {
      const std::lock_guard lock(mutex_);
      if (!running_ || armed_.empty()) return;
      if (*(*armed_.begin())->deadline > now()) {
        schedule();
        return;
      }
      due = *armed_.begin();
    }
    // The domain is taken before the clock's own lock, as arm() and cancel() do, and the record looked at again: its
    // owner may have changed its mind while the domain was not held.
    const mem::DomainGuard guard(due->domain);
    {
      const std::lock_guard lock(mutex_);
      if (!due->deadline || *due->deadline > now()) continue;
      armed_.erase(due);
      due->deadline.reset();
    }
    due->callback();
  }
}

}  // namespace husk::machine
