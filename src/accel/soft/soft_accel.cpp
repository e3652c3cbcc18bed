// husk: the software accelerator
#include "accel/soft/soft_accel.h"

#include <algorithm>
#include <thread>

#include "cpu/interp/core.h"
#include "cpu/state_check.h"
#if HUSK_HAVE_JIT
#include "accel/soft/jit_statistics.h"
#include "cpu/jit/engine.h"
#endif

namespace husk::accel {

namespace interp = cpu::interp;

namespace {
PastEvent neutral(const interp::Event& event, std::uint16_t cs, std::uint64_t rip, std::uint64_t count) {
  PastEvent out;
  switch (event.kind) {
    case interp::Event::Kind::fault:
    case interp::Event::Kind::trap: out.kind = PastEvent::Kind::exception; break;
    case interp::Event::Kind::software_interrupt:
    case interp::Event::Kind::software_exception:
    case interp::Event::Kind::privileged_software: out.kind = PastEvent::Kind::software; break;
    case interp::Event::Kind::external: out.kind = PastEvent::Kind::interrupt; break;
    case interp::Event::Kind::nmi: out.kind = PastEvent::Kind::nmi; break;
    case interp::Event::Kind::vm_exit: break;  // never among them
  }
  out.vector = event.vector;
  out.has_error = event.has_error;
  out.error = event.error;
  out.cr2 = event.cr2;
  out.cs = cs;
  out.rip = rip;
  out.count = count;
  return out;
}

/// Turns the core's hooks into neutral ones.
class TraceAdapter final : public interp::TraceSink {
 public:
  explicit TraceAdapter(accel::TraceSink& sink) : sink_(sink) {}
  void exception(const interp::Core& core, const interp::Event& event) override { pass(core, event); }
  void interrupt(const interp::Core& core, const interp::Event& event) override { pass(core, event); }
  void io(const interp::Core& core, bool write, std::uint16_t port, unsigned size, std::uint64_t value) override {
    sink_.io(core.index(), write, port, size, value);
  }
  void mmio(const interp::Core& core, bool write, std::uint64_t gpa, unsigned size, std::uint64_t value) override {
    sink_.mmio(core.index(), write, gpa, size, value);
  }
  void msr(const interp::Core& core, bool write, std::uint32_t index, std::uint64_t value, bool fault) override {
    sink_.msr(core.index(), write, index, value, fault);
  }
  void exec(const interp::Core& core, const cpu::Insn&) override { sink_.exec(core.index(), core.s); }

 private:
  void pass(const interp::Core& core, const interp::Event& event) {
    sink_.event(core.index(), neutral(event, core.s.seg[cpu::kCs].selector, core.s.rip, core.instructions()));
  }
  accel::TraceSink& sink_;
};
}  // namespace

class SoftVcpu final : public Vcpu {
 public:
  SoftVcpu(SoftAccel& accel, VcpuDeps deps)
      : accel_(accel),
        index_(deps.index),
        interrupts_(deps.interrupts),
        core_({deps.index, deps.model, accel.deps_.memory, accel.deps_.io, deps.interrupts, accel.deps_.clock,
               accel.deps_.log, deps.model.tsc_hz, std::move(deps.floating_point_error)}) {
    core_.on_wake([this] { wake(); });
    core_.on_code_page(
        [this](mem::RamRegion& ram, std::uint64_t offset) { accel_.code_page_marked(*this, ram, offset); });
    core_.on_late_drop(
        [this](mem::RamRegion& ram, std::uint64_t offset) { accel_.code_written(ram, offset, mem::kPageSize); });
    core_.on_page_forgotten(
        [this](mem::RamRegion& ram, std::uint64_t offset) { accel_.code_page_forgotten(*this, ram, offset); });
    core_.on_sole_holder([this](mem::RamRegion& ram, std::uint64_t offset) { return accel_.sole_holder(*this, ram, offset); });
    core_.on_split_lock([this](const std::function<void()>& work) {
      const std::lock_guard lock(accel_.split_mutex_);
      work();
    });
    // A spinning CPU waits for one that may have no host CPU to run on.
    core_.on_spin([this] {
      if (accel_.vcpus_.size() > 1) std::this_thread::yield();
    });
    const std::lock_guard lock(accel_.vcpus_mutex_);
    accel_.vcpus_.push_back(this);
  }
  ~SoftVcpu() override {
    const std::lock_guard lock(accel_.vcpus_mutex_);
    std::erase(accel_.vcpus_, this);
  }

  Status start_jit() {
#if HUSK_HAVE_JIT
    auto engine = HUSK_TRY(cpu::jit::Engine::create(core_, cpu::jit::EngineOptions{.count = accel_.deps_.count}));
    jit_ = engine.get();
    engine_ = std::move(engine);
    core_.set_engine(engine_.get());
    return {};
#else
    return fail("the JIT is for x86-64 hosts; use accel=interp");
#endif
  }

  Exit run() override {
    runner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    tell_tsc_offset();
    for (;;) {
      interp::RunExit why;
      if (engine_) {
        why = core_.run(kQuantum);
      } else {
        accel_.turn_.acquire();
        do {
          why = core_.run(kQuantum);
        } while (why == interp::RunExit::quantum && !accel_.turn_.contended());
        accel_.turn_.release();
      }
      switch (why) {
        case interp::RunExit::quantum: break;
        case interp::RunExit::halted:
          if (!sleep()) return {Exit::Reason::stuck, 0, {}};
          break;
        case interp::RunExit::stop_requested: return {Exit::Reason::stopped, 0, {}};
        case interp::RunExit::shutdown: return {Exit::Reason::shutdown, 0, {}};
        case interp::RunExit::debug: return {Exit::Reason::debug, core_.debug_hit_address, {}};
      }
    }
  }
  void kick() override { core_.request_stop(); }
  core::CpuPins& pins() override { return core_; }

  cpu::CpuState get_state() const override { return core_.whole_state(); }
  Status set_state(const cpu::CpuState& state) override {
    HUSK_TRY(cpu::check_state(state, core_.model));
    core_.set_whole_state(state);
    tell_tsc_offset();
    return {};
  }
  void reset(bool bootstrap) override {
    core_.reset(bootstrap);
    tell_tsc_offset();
  }

  Status set_debug(const cpu::DebugRequest& request) override {
    core_.debug = request;
    core_.update_debug();
    return {};
  }
  Status set_trace(TraceSink* sink, std::uint32_t categories) override {
    adapter_ = sink ? std::make_unique<TraceAdapter>(*sink) : nullptr;
    core_.trace = adapter_.get();
    core_.trace_mask = sink ? categories : 0;
    return {};
  }
  std::vector<PastEvent> past_events() const override {
    std::vector<PastEvent> events;
    for (const interp::PastEvent& past : core_.past_events())
      events.push_back(neutral(past.event, past.cs, past.rip, past.count));
    return events;
  }
  std::uint64_t instructions() const override { return core_.instructions(); }
#if HUSK_HAVE_JIT
  Statistics statistics() const override { return jit_ ? jit_statistics(*jit_, core_) : Statistics{}; }
  Doing doing() const override {
    if (sleeping_.load(std::memory_order_relaxed)) return Doing::idle;
    return jit_ ? doing_of(jit_->phase()) : Doing::unknown;
  }
  Status observe_code(cpu::CodeObserver* observer) override {
    if (!jit_) return Vcpu::observe_code(observer);
    jit_->observe(observer);
    return {};
  }
#endif

 private:
  friend class SoftAccel;
  /// At each start too, as a CPU that is to take this one's place may have told its own meanwhile.
  void tell_tsc_offset() { interrupts_.tsc_offset_changed(core_.s.msr.tsc_offset); }

  /// Long enough to make a change of turns cheap, short enough that a spinning CPU does not hold up the others.
  static constexpr std::uint64_t kQuantum = 50'000;

  static constexpr std::chrono::milliseconds kMonitorPoll{1};

  void wake() {
    // An empty critical section: the sleeper is either before its check, and will see the attention, or waits.
    {
      const std::lock_guard lock(sleep_mutex_);
    }
    awake_.notify_one();
  }
  /// Waits until there is something to do. False: there never will be, since all CPUs wait for another to wake them.
  bool sleep() {
    sleeping_.store(true, std::memory_order_relaxed);
    const bool woken = wait_for_work();
    sleeping_.store(false, std::memory_order_relaxed);
    return woken;
  }
  bool wait_for_work() {
    std::unique_lock lock(sleep_mutex_);
    const bool hopeless = core_.s.activity == cpu::Activity::wait_for_sipi ||
                          (core_.s.activity == cpu::Activity::halted && !(core_.s.rflags & cpu::kIF));
    const bool all = hopeless && accel_.hopeless_.fetch_add(1) + 1 == accel_.vcpus_.size();
    const auto runnable = [this] { return core_.runnable(); };
    if (core_.s.activity == cpu::Activity::mwait) {
      // A store by another CPU to the monitored line ends the wait, and nobody tells of it.
      while (!awake_.wait_for(lock, kMonitorPoll, runnable)) {
      }
    } else if (!all) {
      awake_.wait(lock, runnable);
    }
    const bool woken = core_.runnable();
    if (hopeless) accel_.hopeless_.fetch_sub(1);
    return woken;
  }

  SoftAccel& accel_;
  unsigned index_;
  core::CpuInterrupts& interrupts_;
  std::atomic<std::thread::id> runner_{};  ///< the thread that last called run()
  interp::Core core_;
  std::unique_ptr<interp::CodeEngine> engine_;
#if HUSK_HAVE_JIT
  cpu::jit::Engine* jit_ = nullptr;  ///< engine_
#endif
  std::atomic<bool> sleeping_{false};
  std::unique_ptr<TraceAdapter> adapter_;
  std::mutex sleep_mutex_;
  std::condition_variable awake_;
};

void SoftAccel::Turn::acquire() {
  std::unique_lock lock(mutex_);
  const std::uint64_t mine = next_ticket_++;
  waiting_.fetch_add(1, std::memory_order_relaxed);
  changed_.wait(lock, [&] { return serving_ == mine; });
  waiting_.fetch_sub(1, std::memory_order_relaxed);
}

void SoftAccel::Turn::release() {
  {
    const std::lock_guard lock(mutex_);
    ++serving_;
  }
  changed_.notify_all();
}

SoftAccel::SoftAccel(SoftAccelDeps deps) : deps_(deps) {
  layout_listener_ = deps_.memory.on_change([this] {
    const std::lock_guard lock(vcpus_mutex_);
    for (SoftVcpu* vcpu : vcpus_) vcpu->core_.request_tlb_flush();
  });
}

SoftAccel::~SoftAccel() {
  for (mem::RamRegion* region : regions_) region->set_listener({});
}

Result<std::unique_ptr<Vcpu>> SoftAccel::create_vcpu(VcpuDeps deps) {
  auto vcpu = std::make_unique<SoftVcpu>(*this, deps);
  if (deps_.engine == SoftEngine::jit) HUSK_TRY(vcpu->start_jit());
  return vcpu;
}

Status SoftAccel::add_ram(mem::RamRegion& region) {
  if (std::find(regions_.begin(), regions_.end(), &region) == regions_.end()) regions_.push_back(&region);
  region.set_listener({[this](mem::RamRegion& written, std::uint64_t offset, std::uint64_t length) {
                         code_written(written, offset, length);
                       },
                       [this](mem::RamRegion&) {
                         for (SoftVcpu* vcpu : vcpus_) vcpu->core_.request_drop_write_access();
                       }});
  return {};
}

void SoftAccel::code_page_marked(SoftVcpu& vcpu, mem::RamRegion& region, std::uint64_t offset) {
  {
    const std::lock_guard lock(holders_mutex_);
    holders_[region.data() + offset] |= std::uint64_t{1} << (vcpu.index_ % 64);
    // Once more, under the lock: the last holder before may just have given the page up.
    region.set_page_flags(offset, mem::RamRegion::kHasCode);
  }
  for (SoftVcpu* other : vcpus_)
    if (other != &vcpu) other->core_.request_drop_write_access(region, offset);
}

bool SoftAccel::sole_holder(const SoftVcpu& vcpu, const mem::RamRegion& region, std::uint64_t offset) {
  if (vcpus_.size() > 64) return false;
  const std::lock_guard lock(holders_mutex_);
  const auto found = holders_.find(region.data() + offset);
  return found != holders_.end() && found->second == std::uint64_t{1} << vcpu.index_;
}

void SoftAccel::code_page_forgotten(SoftVcpu& vcpu, mem::RamRegion& region, std::uint64_t offset) {
  const std::lock_guard lock(holders_mutex_);
  const auto found = holders_.find(region.data() + offset);
  if (found == holders_.end()) return;
  // With more than 64 CPUs a bit stands for several: the page stays marked.
  if (vcpus_.size() > 64) return;
  found->second &= ~(std::uint64_t{1} << vcpu.index_);
  if (found->second != 0) return;
  holders_.erase(found);
  region.clear_page_flags(offset, mem::RamRegion::kHasCode);
}

void SoftAccel::code_written(mem::RamRegion& region, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t page = offset - offset % mem::kPageSize;
  std::uint64_t holders;
  {
    const std::lock_guard lock(holders_mutex_);
    const auto found = holders_.find(region.data() + page);
    // Decoded long ago and forgotten since with the rest of a full cache.
    if (found == holders_.end()) {
      region.clear_page_flags(page, mem::RamRegion::kHasCode);
      return;
    }
    holders = found->second;
  }
  const std::thread::id here = std::this_thread::get_id();
  for (SoftVcpu* vcpu : vcpus_) {
    if (!(holders >> (vcpu->index_ % 64) & 1)) continue;
    // A CPU's own code is gone before its next instruction. The others hear of it soon, as they would on real hardware:
    // there too code that another CPU changes is only sure to be seen after that CPU serialized.
    if (vcpu->runner_.load(std::memory_order_relaxed) != here)
      vcpu->core_.request_code_written(region, offset, length);
    else if (vcpu->core_.code_written(region, offset, length))
      code_page_forgotten(*vcpu, region, page);
  }
}

void SoftAccel::set_a20(bool open) {
  for (SoftVcpu* vcpu : vcpus_) vcpu->core_.set_a20_mask(open ? ~std::uint64_t{0} : ~(std::uint64_t{1} << 20));
}

}  // namespace husk::accel
