// husk: for tests of x87 handlers: a Core in flat 32-bit mode without paging, one instruction at a time
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>

#include "cpu/interp/core.h"
#include "testing/manual_clock.h"

namespace husk::cpu::interp {

class X87Machine {
 public:
  /// RAM lies at [base, base+size); what is around it reads as nothing.
  X87Machine(std::uint64_t base, std::uint64_t size)
      : ram_(mem::RamRegion::create("ram", size).value()),
        mapping_(memory_.map_ram(base, size, *ram_, 0, true).value()) {
    CpuState state = core_->s;
    state.cr0 = kCr0Pe | kCr0Ne | kCr0Et;
    for (Segment& segment : state.seg)
      segment = {.selector = 0x2B, .attributes = 0xC093, .limit = 0xFFFFFFFF, .base = 0};
    state.seg[kCs] = {.selector = 0x33, .attributes = 0xC09B, .limit = 0xFFFFFFFF, .base = 0};
    core_->set_state(state);
  }

  Core& core() { return *core_; }
  CpuState& state() { return core_->s; }
  std::uint8_t* ram() { return ram_->data(); }
  /// What the FERR# wire answers; and how often it was pulled.
  bool ignne = false;
  unsigned ferr_pulled = 0;
  bool ferr = false;

  /// Decodes one instruction in the current mode and runs its handler, without the dispatcher's checks; RIP moves on.
  Flow run(std::span<const std::uint8_t> bytes) {
    Insn insn;
    std::array<std::uint8_t, 15> padded{};
    std::copy(bytes.begin(), bytes.end(), padded.begin());
    if (decode(padded, core_->code_size(), insn) != DecodeStatus::ok) {
      ADD_FAILURE() << "not an instruction";
      return Flow::fault;
    }
    const Handler handler = handler_table().find(forms()[insn.form].sem, insn.op_size);
    const Flow flow = handler(*core_, insn);
    if (flow == Flow::next) core_->s.rip += insn.length;
    return flow;
  }
  Flow run(std::initializer_list<std::uint8_t> bytes) { return run(std::span(bytes.begin(), bytes.size())); }

 private:
  class NoInterrupts : public core::CpuInterrupts {
   public:
    bool pending() override { return false; }
    std::optional<std::uint8_t> acknowledge() override { return std::nullopt; }
    std::uint8_t task_priority() override { return 0; }
    void set_task_priority(std::uint8_t) override {}
    std::uint64_t apic_base() override { return 0; }
    bool set_apic_base(std::uint64_t) override { return false; }
    std::optional<std::uint64_t> read_msr(std::uint32_t) override { return std::nullopt; }
    bool write_msr(std::uint32_t, std::uint64_t) override { return false; }
    void cpu_init() override {}
  };
  static CpuModel everything() {
    CpuModel model;
    model.features.set();
    return model;
  }

  CpuModel model_ = everything();
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  std::unique_ptr<mem::RamRegion> ram_;
  mem::Mapping mapping_;
  NoInterrupts interrupts_;
  testing::ManualClock clock_;
  Log log_;
  std::unique_ptr<Core> core_ = std::make_unique<Core>(CoreDeps{.model = model_,
                                                                .memory = memory_,
                                                                .io = io_,
                                                                .interrupts = interrupts_,
                                                                .clock = clock_,
                                                                .log = log_,
                                                                .floating_point_error = [this](bool asserted) {
                                                                  ferr_pulled += asserted;
                                                                  ferr = asserted;
                                                                  return ignne;
                                                                }});
};

}  // namespace husk::cpu::interp
