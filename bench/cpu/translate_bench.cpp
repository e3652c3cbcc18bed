// husk: what it costs to translate an instruction: the JIT over compiled code, this program's own
#include <benchmark/benchmark.h>

#include <algorithm>

#include "cpu/interp/core.h"
#include "cpu/jit/engine.h"
#include "testing/manual_clock.h"
#include "testing/no_interrupts.h"

extern "C" {
// The linker's: where the program's code begins and ends (ld(1), end(3)).
extern const char __executable_start;  // NOLINT
extern const char etext;
}

namespace husk {
namespace {

constexpr std::uint64_t kCode = 0x200000;
constexpr std::size_t kMostCode = std::size_t{1} << 20;

/// Flat 64-bit code at privilege `cpl`, 16 MiB mapped one to one.
cpu::CpuState flat64(mem::RamRegion& ram, unsigned cpl) {
  constexpr std::uint64_t kPml4 = 0x10000, kPdpt = 0x11000, kDirectory = 0x12000;
  store_le<std::uint64_t>(ram.data() + kPml4, kPdpt | 7);
  store_le<std::uint64_t>(ram.data() + kPdpt, kDirectory | 7);
  for (std::uint64_t i = 0; i < 8; ++i) store_le<std::uint64_t>(ram.data() + kDirectory + i * 8, (i << 21) | 0x87);
  cpu::CpuState state = cpu::reset_state(0);
  const auto dpl = static_cast<std::uint16_t>(cpl << 5);
  for (auto& segment : state.seg) segment = {0x18, static_cast<std::uint16_t>(0xC093 | dpl), 0xFFFFFFFF, 0};
  state.seg[cpu::kCs] = {0x10, static_cast<std::uint16_t>(0xA09B | dpl), 0xFFFFFFFF, 0};
  state.cr0 = cpu::kCr0Pe | cpu::kCr0Pg | cpu::kCr0Et | cpu::kCr0Ne;
  state.cr4 = cpu::kCr4Pae | cpu::kCr4Osfxsr;
  state.efer = cpu::kEferLme | cpu::kEferLma;
  state.cr3 = kPml4;
  state.x87.control = 0x37F;
  return state;
}

/// Each block once, one behind the other, as a program that runs through all of its code would have it.
void translate(benchmark::State& bench) {
  mem::AddressSpace memory_space("memory"), io_space("io", 0x10000);
  const auto ram = mem::RamRegion::create("ram", 16 << 20).value();
  const auto mapping = memory_space.map_ram(0, ram->size(), *ram, 0, true).value();
  const std::size_t bytes = std::min(static_cast<std::size_t>(&etext - &__executable_start), kMostCode);
  std::copy_n(&etext - bytes, bytes, ram->data() + kCode);
  testing::NoInterrupts interrupts;
  testing::ManualClock clock;
  Log log;
  const cpu::CpuModel model = cpu::cpu_model("max").value();
  const auto core = std::make_unique<cpu::interp::Core>(
      cpu::interp::CoreDeps{0, model, memory_space, io_space, interrupts, clock, log});
  auto engine = cpu::jit::Engine::create(*core);
  if (!engine) return bench.SkipWithError(engine.error().text().c_str());
  core->set_engine(engine->get());
  core->set_state(flat64(*ram, static_cast<unsigned>(bench.range(0))));
  const cpu::jit::Statistics& statistics = (*engine)->statistics();
  const cpu::jit::Statistics before = statistics;
  for (auto _ : bench) {
    (*engine)->forget_all();
    for (core->s.rip = kCode; core->s.rip < kCode + bytes;) {
      const std::uint64_t so_far = statistics.guest_bytes;
      const bool made = (*engine)->translate();
      const std::uint64_t step = statistics.guest_bytes - so_far;
      core->s.rip += made && step ? step : 1;
    }
  }
  const auto made = [&](std::uint64_t cpu::jit::Statistics::* which) {
    return static_cast<double>(statistics.*which - before.*which);
  };
  const double instructions = made(&cpu::jit::Statistics::instructions);
  bench.counters["an_instruction"] =
      benchmark::Counter(instructions, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  bench.counters["instructions_a_block"] = instructions / made(&cpu::jit::Statistics::blocks);
  bench.counters["host_bytes_a_guest_byte"] =
      (made(&cpu::jit::Statistics::hot_bytes) + made(&cpu::jit::Statistics::cold_bytes)) /
      made(&cpu::jit::Statistics::guest_bytes);
}
BENCHMARK(translate)->ArgName("cpl")->Arg(0)->Arg(3)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace husk
