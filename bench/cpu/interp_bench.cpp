// husk: speed of the interpreter in guest instructions a second
#include <benchmark/benchmark.h>

#include <fstream>
#include <iterator>

#include "cpu/interp/core.h"
#include "testing/manual_clock.h"
#include "testing/no_interrupts.h"

namespace husk {
namespace {

/// Flat 64-bit code in supervisor mode, the first GiB mapped one to one by 2 MiB pages.
cpu::CpuState flat64(mem::GuestMemory& memory, std::uint64_t entry) {
  constexpr std::uint64_t kPml4 = 0x10000, kPdpt = 0x11000, kDirectory = 0x12000;
  (void)memory.store<std::uint64_t>(kPml4, kPdpt | 3);
  (void)memory.store<std::uint64_t>(kPdpt, kDirectory | 3);
  for (std::uint64_t i = 0; i < 512; ++i) (void)memory.store<std::uint64_t>(kDirectory + i * 8, (i << 21) | 0x83);
  cpu::CpuState state = cpu::reset_state(0);
  for (auto& segment : state.seg) segment = {0x18, 0xC093, 0xFFFFFFFF, 0};
  state.seg[cpu::kCs] = {0x10, 0xA09B, 0xFFFFFFFF, 0};
  state.cr0 = cpu::kCr0Pe | cpu::kCr0Pg | cpu::kCr0Et | cpu::kCr0Ne;
  state.cr4 = cpu::kCr4Pae;
  state.efer = cpu::kEferLme | cpu::kEferLma;
  state.cr3 = kPml4;
  state.gpr[cpu::kRsp] = 0x80000;
  state.rip = entry;
  return state;
}

void compute(benchmark::State& bench) {
  mem::AddressSpace memory_space("memory"), io_space("io", 0x10000);
  const auto ram = mem::RamRegion::create("ram", 16 << 20).value();
  const auto mapping = memory_space.map_ram(0, ram->size(), *ram, 0, true).value();
  mem::GuestMemory memory(memory_space);
  std::ifstream file(COMPUTE_BIN, std::ios::binary);
  const std::vector<std::uint8_t> code((std::istreambuf_iterator<char>(file)), {});
  (void)memory.write(0x100000, code);
  testing::NoInterrupts interrupts;
  testing::ManualClock clock;
  Log log;
  const cpu::CpuModel model = cpu::cpu_model("max").value();
  const auto core = std::make_unique<cpu::interp::Core>(
      cpu::interp::CoreDeps{0, model, memory_space, io_space, interrupts, clock, log});
  std::uint64_t instructions = 0;
  for (auto _ : bench) {
    core->set_state(flat64(memory, 0x100000));
    const std::uint64_t before = core->instructions();
    if (core->run(~std::uint64_t{0} >> 1) != cpu::interp::RunExit::halted) bench.SkipWithError("guest did not halt");
    instructions += core->instructions() - before;
  }
  bench.counters["guest_insns"] = benchmark::Counter(static_cast<double>(instructions), benchmark::Counter::kIsRate);
}
BENCHMARK(compute)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace husk
