// husk: a single-threaded loop over descriptors, timers and posted functions
#include "host/event_loop.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <iterator>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "host/event_fd.h"
#include "host/unique_fd.h"

namespace husk::host {

std::uint64_t monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

struct EventLoop::WatchRecord {
  std::shared_ptr<Impl> loop;
  int fd = -1;
  std::uint64_t id = 0;
  Events interest = 0;
  std::function<void(Events)> ready;
};

struct EventLoop::TimerRecord : std::enable_shared_from_this<TimerRecord> {
  std::weak_ptr<Impl> loop;
  std::uint64_t id = 0;
  std::function<void()> expired;
  std::optional<std::uint64_t> deadline;  // guarded by Impl::mutex
};

struct EventLoop::Impl {
  static constexpr std::uint64_t kWakeId = 0;
  static constexpr std::uint64_t kTimerId = 1;

  UniqueFd epoll;
  UniqueFd timer_fd;
  std::optional<EventFd> wake;
  std::atomic<std::thread::id> runner{};

  // Loop thread only. Events carry ids, never pointers: an event of the same round for a watch that a callback has just
  // destroyed finds nothing.
  std::unordered_map<std::uint64_t, std::weak_ptr<WatchRecord>> watches;
  std::uint64_t next_id = 2;

  std::mutex mutex;
  std::deque<std::move_only_function<void()>> batch;  ///< posted and due, on the loop's thread
  std::vector<std::move_only_function<void()>> posted;
  bool stop_wanted = false;
  std::set<std::pair<std::uint64_t, TimerRecord*>> timers;
  // What the timerfd is set to. Deadlines that move later leave it as it is: it then fires once for nothing, which
  // costs less than a system call on every arm.
  std::optional<std::uint64_t> programmed;

  bool in_loop_thread() const {
    const auto id = runner.load(std::memory_order_acquire);
    return id == std::thread::id{} || id == std::this_thread::get_id();
  }

  void program(std::uint64_t deadline) {
    // A zero it_value would disarm the timer.
    const std::uint64_t at = deadline ? deadline : 1;
    itimerspec spec{};
    spec.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000u);
    spec.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000u);
    ::timerfd_settime(timer_fd.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
    programmed = deadline;
  }

  void arm(TimerRecord& timer, std::optional<std::uint64_t> deadline) {
    const std::lock_guard guard(mutex);
    if (timer.deadline) timers.erase({*timer.deadline, &timer});
    // Beyond what a timespec holds is never.
    if (deadline) deadline = std::min<std::uint64_t>(*deadline, std::uint64_t{1} << 62);
    timer.deadline = deadline;
    if (!deadline) return;
    timers.insert({*deadline, &timer});
    if (!programmed || *deadline < *programmed) program(*deadline);
  }

  void fire_timers() {
    std::uint64_t expirations;
    [[maybe_unused]] const auto got = ::read(timer_fd.get(), &expirations, sizeof expirations);
    const std::uint64_t now = monotonic_now();
    std::unique_lock lock(mutex);
    programmed.reset();
    // Only what is due on entry, once: a timer that re-arms itself in the past must not starve the descriptors. The
    // Timer's destructor takes the mutex to leave the set, so everything in the set is still owned.
    std::vector<std::shared_ptr<TimerRecord>> due;
    for (auto it = timers.begin(); it != timers.end() && it->first <= now; ++it)
      due.push_back(it->second->shared_from_this());
    for (const std::shared_ptr<TimerRecord>& timer : due) {
      if (!timer->deadline || *timer->deadline > now) continue;  // an earlier callback cancelled or moved it
      timers.erase({*timer->deadline, timer.get()});
      timer->deadline.reset();
      lock.unlock();
      timer->expired();
      lock.lock();
    }
    if (!timers.empty() && (!programmed || timers.begin()->first < *programmed)) program(timers.begin()->first);
  }

  bool run_posted() {
    {
      const std::lock_guard guard(mutex);
      std::move(posted.begin(), posted.end(), std::back_inserter(batch));
      posted.clear();
    }
    // What a function posts waits for the next round. One that runs rounds of its own must not wait for what was posted
    // before, so those take over the rest.
    const bool any = !batch.empty();
    for (std::size_t left = batch.size(); left != 0 && !batch.empty(); --left) {
      auto function = std::move(batch.front());
      batch.pop_front();
      function();
    }
    return any;
  }

  bool take_stop() {
    const std::lock_guard guard(mutex);
    return std::exchange(stop_wanted, false);
  }

  bool round(std::optional<std::uint64_t> timeout_ns) {
    if (!batch.empty()) return run_posted();
    std::array<epoll_event, 64> events;
    int timeout_ms = -1;
    if (timeout_ns)
      timeout_ms = static_cast<int>(std::min<std::uint64_t>((*timeout_ns + 999'999) / 1'000'000, 1 << 30));
    const int count = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    if (count <= 0) {
      HUSK_CHECK(count == 0 || errno == EINTR);
      return false;
    }
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == kWakeId) {
        wake->take();
        run_posted();
      } else if (event.data.u64 == kTimerId) {
        fire_timers();
      } else if (const auto found = watches.find(event.data.u64); found != watches.end()) {
        if (const std::shared_ptr<WatchRecord> record = found->second.lock()) {
          Events ready = 0;
          if (event.events & EPOLLIN) ready |= kReadable;
          if (event.events & EPOLLOUT) ready |= kWritable;
          if (event.events & (EPOLLHUP | EPOLLERR)) ready |= kHangup;
          record->ready(ready);
        }
      }
    }
    return true;
  }
};

namespace {

std::uint32_t epoll_bits(EventLoop::Events interest) {
  std::uint32_t bits = 0;
  if (interest & EventLoop::kReadable) bits |= EPOLLIN;
  if (interest & EventLoop::kWritable) bits |= EPOLLOUT;
  return bits;
}

/// Marks the calling thread as the loop's for a scope; nested rounds of the same thread are allowed.
class RunnerScope {
 public:
  explicit RunnerScope(std::atomic<std::thread::id>& runner) : runner_(runner), before_(runner.load()) {
    const auto self = std::this_thread::get_id();
    HUSK_CHECK(before_ == std::thread::id{} || before_ == self);
    runner_.store(self, std::memory_order_release);
  }
  ~RunnerScope() { runner_.store(before_, std::memory_order_release); }
  RunnerScope(const RunnerScope&) = delete;
  RunnerScope& operator=(const RunnerScope&) = delete;

 private:
  std::atomic<std::thread::id>& runner_;
  std::thread::id before_;
};

}  // namespace

EventLoop::Watch::Watch(Watch&& other) noexcept = default;
EventLoop::Watch& EventLoop::Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    reset();
    record_ = std::move(other.record_);
  }
  return *this;
}
EventLoop::Watch::~Watch() { reset(); }

void EventLoop::Watch::reset() {
  if (!record_) return;
  Impl& loop = *record_->loop;
  HUSK_CHECK(loop.in_loop_thread());
  ::epoll_ctl(loop.epoll.get(), EPOLL_CTL_DEL, record_->fd, nullptr);
  loop.watches.erase(record_->id);
  record_.reset();
}

void EventLoop::Watch::set_interest(Events interest) {
  HUSK_CHECK(record_ && record_->loop->in_loop_thread());
  if (record_->interest == interest) return;
  record_->interest = interest;
  epoll_event event{};
  event.events = epoll_bits(interest);
  event.data.u64 = record_->id;
  HUSK_CHECK(::epoll_ctl(record_->loop->epoll.get(), EPOLL_CTL_MOD, record_->fd, &event) == 0);
}

EventLoop::Events EventLoop::Watch::interest() const { return record_ ? record_->interest : Events{0}; }

EventLoop::Timer::Timer(Timer&& other) noexcept = default;
EventLoop::Timer& EventLoop::Timer::operator=(Timer&& other) noexcept {
  if (this != &other) {
    Timer old(std::move(*this));
    record_ = std::move(other.record_);
  }
  return *this;
}
EventLoop::Timer::~Timer() { cancel(); }

void EventLoop::Timer::arm(std::uint64_t deadline) {
  HUSK_CHECK(record_);
  if (const auto loop = record_->loop.lock()) loop->arm(*record_, deadline);
}
void EventLoop::Timer::arm_after(std::uint64_t nanoseconds) {
  std::uint64_t deadline;
  if (__builtin_add_overflow(monotonic_now(), nanoseconds, &deadline)) deadline = ~std::uint64_t{0};
  arm(deadline);
}
void EventLoop::Timer::cancel() {
  if (!record_) return;
  if (const auto loop = record_->loop.lock()) loop->arm(*record_, std::nullopt);
}
std::optional<std::uint64_t> EventLoop::Timer::deadline() const {
  if (!record_) return std::nullopt;
  const auto loop = record_->loop.lock();
  if (!loop) return std::nullopt;
  const std::lock_guard guard(loop->mutex);
  return record_->deadline;
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  auto impl = std::make_shared<Impl>();
  impl->epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!impl->epoll) return fail_errno(errno, "cannot create an epoll descriptor");
  impl->timer_fd.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!impl->timer_fd) return fail_errno(errno, "cannot create a timerfd");
  impl->wake.emplace(HUSK_TRY(EventFd::create()));
  const std::pair<int, std::uint64_t> own[] = {{impl->wake->fd(), Impl::kWakeId},
                                               {impl->timer_fd.get(), Impl::kTimerId}};
  for (const auto& [fd, id] : own) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = id;
    if (::epoll_ctl(impl->epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      return fail_errno(errno, "cannot set up the event loop");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
}

EventLoop::~EventLoop() {
  // What was posted may own objects that refer to this loop: let them go before it does.
  std::vector<std::move_only_function<void()>> dropped;
  const auto due = std::move(impl_->batch);
  const std::lock_guard guard(impl_->mutex);
  dropped.swap(impl_->posted);
}

Result<EventLoop::Watch> EventLoop::watch(int fd, Events interest, std::function<void(Events)> ready) {
  HUSK_CHECK(in_loop_thread());
  auto record = std::make_shared<WatchRecord>();
  record->loop = impl_;
  record->fd = fd;
  record->id = impl_->next_id++;
  record->interest = interest;
  record->ready = std::move(ready);
  epoll_event event{};
  event.events = epoll_bits(interest);
  event.data.u64 = record->id;
  if (::epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
    return fail_errno(errno, fmt::format("cannot wait for descriptor {}", fd));
  impl_->watches.emplace(record->id, record);
  return Watch(std::move(record));
}

EventLoop::Timer EventLoop::make_timer(std::function<void()> expired) {
  auto record = std::make_shared<TimerRecord>();
  record->loop = impl_;
  record->expired = std::move(expired);
  return Timer(std::move(record));
}

void EventLoop::post(std::move_only_function<void()> function) {
  bool first;
  {
    const std::lock_guard guard(impl_->mutex);
    first = impl_->posted.empty();
    impl_->posted.push_back(std::move(function));
  }
  // While functions wait, the wake-up that the first of them gave is still under way.
  if (first) impl_->wake->signal();
}

void EventLoop::run_sync(const std::function<void()>& function) {
  if (in_loop_thread()) {
    function();
    return;
  }
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  post([&] {
    function();
    const std::lock_guard guard(mutex);
    done = true;
    changed.notify_one();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
}

void EventLoop::run() {
  const RunnerScope scope(impl_->runner);
  while (!impl_->take_stop()) impl_->round(std::nullopt);
}

bool EventLoop::run_once(std::optional<std::uint64_t> timeout_ns) {
  const RunnerScope scope(impl_->runner);
  return impl_->round(timeout_ns);
}

void EventLoop::stop() {
  {
    const std::lock_guard guard(impl_->mutex);
    impl_->stop_wanted = true;
  }
  impl_->wake->signal();
}

bool EventLoop::in_loop_thread() const { return impl_->in_loop_thread(); }

}  // namespace husk::host
