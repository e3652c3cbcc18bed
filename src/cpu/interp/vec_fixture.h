// husk: for tests of vector handlers: a Core in flat 64-bit mode with a page of scratch memory, one instruction at a
// time
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>

#include "cpu/interp/core.h"
#include "cpu/interp/vec_block.h"
#include "testing/manual_clock.h"
#include "testing/no_interrupts.h"

namespace husk::cpu::interp {

class VectorMachine {
 public:
  static constexpr std::uint64_t kScratch = 0x20'0000;  ///< 16 KiB of RAM; the page behind is absent
  static constexpr std::uint64_t kScratchSize = 0x4000;

  VectorMachine() {
    constexpr std::uint64_t kPml4 = 0x10000, kPdpt = 0x11000, kDirectory = 0x12000, kTable = 0x13000;
    const auto entry = [&](std::uint64_t at, std::uint64_t value) { store_le(ram_->data() + at, value); };
    entry(kPml4, kPdpt | 3);
    entry(kPdpt, kDirectory | 3);
    entry(kDirectory + (kScratch >> 21) * 8, kTable | 3);
    for (std::uint64_t page = 0; page < kScratchSize; page += 4096) entry(kTable + page / 512, (kScratch + page) | 3);
    CpuState state = reset_state(0);
    for (auto& segment : state.seg) segment = {0x18, 0xC093, 0xFFFFFFFF, 0};
    state.seg[kCs] = {0x10, 0xA09B, 0xFFFFFFFF, 0};
    state.cr0 = kCr0Pe | kCr0Pg | kCr0Et | kCr0Ne;
    state.cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Osxsave;
    state.xcr0 = 7;
    state.efer = kEferLme | kEferLma;
    state.cr3 = kPml4;
    state.gpr[kRbx] = kScratch;
    core_->set_state(state);
  }

  Core& core() { return *core_; }
  CpuState& state() { return core_->s; }
  std::uint8_t* scratch() { return ram_->data() + kScratch; }

  /// Decodes one instruction and runs its handler. Dispatcher checks (features, CR0, CR4) are not made.
  Flow run(std::span<const std::uint8_t> bytes) {
    Insn insn{};
    if (decode(bytes, core_->code_size(), insn) != DecodeStatus::ok) {
      ADD_FAILURE() << "not an instruction";
      return Flow::fault;
    }
    return run(insn);
  }
  Flow run(std::initializer_list<std::uint8_t> bytes) { return run(std::span(bytes.begin(), bytes.size())); }
  Flow run(const Insn& insn) {
    const Handler handler = handler_table().find(forms()[insn.form].sem, insn.op_size);
    if (!handler) {
      ADD_FAILURE() << "no handler: " << sem_name(forms()[insn.form].sem);
      return Flow::fault;
    }
    return handler(*core_, insn);
  }

  template <class T>
  void set_vector(unsigned number, std::initializer_list<T> lanes) {
    unsigned i = 0;
    for (T lane : lanes) write_element<T>(*core_, number, i++, lane);
  }
  template <class T>
  std::vector<T> vector(unsigned number, unsigned count) const {
    std::vector<T> out;
    for (unsigned i = 0; i < count; ++i) out.push_back(read_element<T>(*core_, number, i));
    return out;
  }

 private:
  static CpuModel everything() {
    CpuModel model;
    model.features.set();
    return model;
  }

  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  std::unique_ptr<mem::RamRegion> ram_ = mem::RamRegion::create("ram", 4 << 20).value();
  mem::Mapping mapping_ = memory_.map_ram(0, ram_->size(), *ram_, 0, true).value();
  husk::testing::NoInterrupts interrupts_;
  testing::ManualClock clock_;
  Log log_;
  CpuModel model_ = everything();
  std::unique_ptr<Core> core_ = std::make_unique<Core>(CoreDeps{0, model_, memory_, io_, interrupts_, clock_, log_});
};

}  // namespace husk::cpu::interp
