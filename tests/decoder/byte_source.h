// husk: byte strings for decoder tests: every opcode with every ModRM, and random ones near to real instructions
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <span>

#include "cpu/insn.h"

namespace husk::cpu::testing {

inline constexpr std::size_t kSampleBytes = 16;
using Sample = std::array<std::uint8_t, kSampleBytes>;

/// Calls `take` with every opcode of every map, each with every mandatory prefix, REX.W or VEX.W and L, and ModRM byte;
/// what follows is from `random`.
void for_each_opcode(CodeSize code_size, std::mt19937_64& random, const std::function<void(const Sample&)>& take);

/// A random byte string: mostly a few prefixes, an opcode of some map, ModRM, SIB and the rest; sometimes pure noise.
Sample random_sample(CodeSize code_size, std::mt19937_64& random);

}  // namespace husk::cpu::testing
