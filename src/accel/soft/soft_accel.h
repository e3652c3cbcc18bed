// husk: the software accelerator: husk's own CPU behind the accelerator contract
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "accel/accel.h"

namespace husk::accel {

/// What executes guest instructions.
enum class SoftEngine : std::uint8_t {
  interpreter,  ///< on any host
  jit,          ///< on x86-64 hosts: cpu/jit
};

struct SoftAccelDeps {
  mem::AddressSpace& memory;
  mem::AddressSpace& io;
  const core::Clock& clock;
  Log& log;
  SoftEngine engine = SoftEngine::interpreter;
  bool count = false;  ///< keep statistics that cost time in translated code
};

class SoftVcpu;

/// Runs CPUs by husk's own interpreter or JIT. Each has a thread of its own as with any accelerator. Under the
/// interpreter they take turns: one runs at a time, so that memory ordering and code invalidation between them are exact
/// without further care.
class SoftAccel final : public Accelerator {
 public:
  explicit SoftAccel(SoftAccelDeps deps);
  ~SoftAccel() override;

  std::string_view name() const override { return deps_.engine == SoftEngine::jit ? "jit" : "interp"; }
  Result<std::unique_ptr<Vcpu>> create_vcpu(VcpuDeps deps) override;
  Status add_ram(mem::RamRegion& region) override;
  void set_a20(bool open) override;

 private:
  friend class SoftVcpu;
  /// The right to run; first come, first served.
  class Turn {
   public:
    void acquire();
    void release();
    /// True if another CPU waits for its turn.
    bool contended() const { return waiting_.load(std::memory_order_relaxed) != 0; }

   private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::uint64_t next_ticket_ = 0;
    std::uint64_t serving_ = 0;
    std::atomic<unsigned> waiting_{0};
  };

  void code_written(mem::RamRegion& region, std::uint64_t offset, std::uint64_t length);
  void code_page_marked(SoftVcpu& vcpu, mem::RamRegion& region, std::uint64_t offset);
  bool sole_holder(const SoftVcpu& vcpu, const mem::RamRegion& region, std::uint64_t offset);
  void code_page_forgotten(SoftVcpu& vcpu, mem::RamRegion& region, std::uint64_t offset);

  SoftAccelDeps deps_;
  Turn turn_;
  std::mutex vcpus_mutex_;
  std::mutex split_mutex_;  ///< held for a locked access to two pages
  std::vector<SoftVcpu*> vcpus_;
  std::vector<mem::RamRegion*> regions_;
  std::mutex holders_mutex_;
  std::unordered_map<const std::uint8_t*, std::uint64_t> holders_;  ///< [host page]: which CPUs hold code of it
  mem::AddressSpace::ChangeListener layout_listener_;
  std::atomic<unsigned> hopeless_{0};  ///< CPUs asleep that no interrupt can wake
};

}  // namespace husk::accel
