// husk: compares husk's decoder with Zydis, instruction by instruction, and names each kind of difference
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/insn.h"

namespace husk::cpu::testing {

/// A kind of difference that the manuals justify. `key` as in Comparison::differences(); a trailing `*` matches any
/// end.
struct JustifiedDifference {
  std::string_view key;
  std::string_view reason;
};
std::span<const JustifiedDifference> justified_differences();
bool matches(const JustifiedDifference& justified, std::string_view key);

/// Collects differences by kind. One object a thread.
class Comparison {
 public:
  explicit Comparison(CodeSize code_size);
  /// Decodes the start of `bytes` with both and compares validity, length, mnemonic and every operand the assembler
  /// syntax shows; and, the first time a form is met, its access, flags, feature and prefix and privilege columns.
  /// Returns how far Zydis says that a linear sweep has to go on (1 where it sees no instruction).
  unsigned compare(std::span<const std::uint8_t> bytes);

  struct Kind {
    std::uint64_t count = 0;
    std::string example;            ///< bytes and both readings of the first
    std::size_t example_bytes = 0;  ///< kept as short as possible
  };
  const std::map<std::string, Kind>& differences() const { return differences_; }
  std::uint64_t compared() const { return compared_; }
  std::uint64_t valid() const { return valid_; }

 private:
  void note(std::string key, std::span<const std::uint8_t> bytes, std::string text);
  void compare_operands(const Insn& insn, const Form& form, std::span<const std::uint8_t> bytes);
  void compare_facts(const Insn& insn, const Form& form, std::span<const std::uint8_t> bytes);
  std::string describe(std::span<const std::uint8_t> bytes) const;

  CodeSize code_size_;
  ZydisDecoder decoder_;
  ZydisDecodedInstruction theirs_;
  ZydisDecodedOperand operands_[ZYDIS_MAX_OPERAND_COUNT];
  std::array<const ZydisDecodedOperand*, 5> matched_{};  ///< Zydis' operand for each of ours
  std::vector<bool> facts_seen_;
  std::map<std::string, Kind> differences_;
  std::uint64_t compared_ = 0;
  std::uint64_t valid_ = 0;
};

/// The differences of several comparisons that no entry of justified_differences() covers, as readable lines.
std::vector<std::string> unjustified(std::span<const Comparison> comparisons);

}  // namespace husk::cpu::testing
