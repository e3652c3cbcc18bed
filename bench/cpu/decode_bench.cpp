// husk: how long the decoder takes an instruction, on this program's own code
#include <benchmark/benchmark.h>

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/insn.h"

extern "C" {
extern const unsigned char __executable_start;
extern const unsigned char etext;
}

namespace husk::cpu {
namespace {

/// Code of a real program: the end of this one's own text, where its functions are.
std::span<const std::uint8_t> own_code(std::size_t size) {
  const auto whole = static_cast<std::size_t>(&etext - &__executable_start);
  const std::size_t used = std::min(size, whole / 2);
  return {&etext - used, used};
}

void decode_own_code(benchmark::State& state) {
  const auto code = own_code(static_cast<std::size_t>(state.range(0)));
  std::int64_t instructions = 0;
  for (auto _ : state) {
    for (std::size_t at = 0; at + 16 <= code.size();) {
      Insn insn;
      const DecodeStatus status = decode(code.subspan(at, 16), CodeSize::bits64, insn);
      benchmark::DoNotOptimize(insn);
      at += status == DecodeStatus::ok ? insn.length : 1;
      ++instructions;
    }
  }
  state.SetItemsProcessed(instructions);
  state.counters["per_instruction"] =
      benchmark::Counter(static_cast<double>(instructions), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(decode_own_code)->Arg(16 << 10)->Arg(256 << 10);

}  // namespace
}  // namespace husk::cpu
