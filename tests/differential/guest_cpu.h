// husk: runs tests in husk's interpreter, as a Linux process would find the machine
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "cpu/interp/core.h"
#include "mem/ram_region.h"
#include "test_case.h"
#include "testing/manual_clock.h"
#include "testing/no_interrupts.h"

namespace husk::differential {

/// Segment descriptors that the test process may name, by GDT index; as LAR and LSL tell them.
struct GdtEntry {
  std::uint16_t attributes = 0;  ///< as cpu::Segment's
  std::uint32_t limit = 0;
};

class GuestCpu {
 public:
  /// `data` as for HostCpu; `features` are those that both processors have. `tiny_data`: kTinyData is mapped. `jit`:
  /// what can be translated is, where the host lets it (HUSK_CHECKed).
  GuestCpu(std::span<const std::uint8_t> data, const cpu::FeatureSet& features, bool tiny_data, bool jit = false);

  /// Runs a test whose rip is set. `cached`: through the block cache, else decoded for this time only.
  void run(const Test& test, bool cached, Outcome& out);
  /// As HostCpu::run_code, with the request and mode of `test`. False: no fault within `budget` instructions, roughly.
  /// With `before_each` it runs step by step, and that is called before each instruction.
  bool run_code(const Test& test, std::span<const std::uint8_t> code, std::uint64_t budget,
                const std::function<void(const cpu::interp::Core&)>& before_each, Outcome& out);

 private:
  /// Keeps the first exception; what follows is the absent IDT's.
  struct FirstException final : cpu::interp::TraceSink {
    void exception(const cpu::interp::Core&, const cpu::interp::Event& e) override {
      if (!seen) event = e;
      seen = true;
    }
    void interrupt(const cpu::interp::Core&, const cpu::interp::Event&) override {}
    void io(const cpu::interp::Core&, bool, std::uint16_t, unsigned, std::uint64_t) override {}
    void mmio(const cpu::interp::Core&, bool, std::uint64_t, unsigned, std::uint64_t) override {}
    void msr(const cpu::interp::Core&, bool, std::uint32_t, std::uint64_t, bool) override {}
    void exec(const cpu::interp::Core&, const cpu::Insn&) override {}
    bool seen = false;
    cpu::interp::Event event;
  };

  void map_pages(bool tiny_data);
  void map_page(std::uint64_t linear, std::uint64_t gpa, bool writable, bool executable);
  cpu::CpuState process_state() const;
  void set_up(const Test& test);
  void step(std::uint64_t insn_rip);
  void read_back(Outcome& out);

  std::unique_ptr<mem::RamRegion> ram_;
  struct alignas(64) DataCopy {
    std::uint8_t bytes[kDataSize];
  };
  std::unique_ptr<DataCopy> pristine_ = std::make_unique<DataCopy>();
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  mem::Mapping mapping_;
  husk::testing::NoInterrupts interrupts_;
  testing::ManualClock clock_;
  Log log_;
  cpu::CpuModel model_;
  FirstException first_;
  std::unique_ptr<cpu::interp::Core> core_;
  std::unique_ptr<cpu::interp::CodeEngine> engine_;
  std::uint64_t next_table_ = 0;
};

/// x87, SSE and AVX state in and out of XSAVE64's layout. Bytes 416 to 511, MXCSR_MASK and the header stay as they are.
void load_fp(cpu::CpuState& state, const FpImage& image);
void store_fp(const cpu::CpuState& state, FpImage& image);

}  // namespace husk::differential
