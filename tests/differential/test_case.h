// husk: one differential test: an instruction with everything it can see, and what a processor made of it
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/insn.h"
#include "layout.h"

namespace husk::differential {

/// The code segment a test runs in.
enum class Mode : std::uint8_t { long64, compat32 };
constexpr cpu::CodeSize code_size_of(Mode mode) {
  return mode == Mode::long64 ? cpu::CodeSize::bits64 : cpu::CodeSize::bits32;
}

struct Test {
  Request request{};
  Mode mode = Mode::long64;
  bool high_code = false;  ///< runs from kHighCode; rip-relative operands depend on it
  std::uint16_t form = 0;
  cpu::Insn insn{};
  std::array<std::uint8_t, 15> code{};
  std::uint8_t length = 0;
};

/// What came out, the same for both processors.
struct Outcome {
  Answer state;              ///< rip is the next instruction, or the faulting one's
  bool fetch_fault = false;  ///< the instruction is complete; the fault is the fetch at its target
};

/// Where the instruction of test `index` of a set lies.
constexpr std::uint64_t insn_address(bool high_code, unsigned set, unsigned index) {
  return (high_code ? kHighCode : kLowCode) + set * kSetSize + index * kSlotSize + kInsnOffset;
}

/// A name of its own for each line of the table: "ADD [00 /r]".
std::string form_name(std::uint16_t form);

/// What every test finds in the data, but for its pokes: kDataSize bytes, always the same.
std::vector<std::uint8_t> background_data();

}  // namespace husk::differential
