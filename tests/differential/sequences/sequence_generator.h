// husk: makes random sequences: instructions of every kind, memory operands that mostly lie well, branches, loops
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "../dice.h"
#include "sequence.h"

namespace husk::differential {

struct SequenceOptions {
  unsigned shortest = 10, longest = 200;  ///< instructions
  bool settle_flags = false;              ///< as in Sequence; and no instruction whose result may be undefined
  bool self_modifying = true;             ///< some of the sequences write to their own code
  /// Forms that may be used; empty: all.
  std::vector<bool> forms;
  /// The sequence runs on the host CPU: ring 3, flat segments, nothing that its kernel would have to answer for.
  bool for_host = false;
};

/// Where a sequence may lie and what it may touch, as linear addresses.
struct SequenceArena {
  std::uint64_t code = 0, code_alias = 0;  ///< alias 0: none
  std::uint64_t data = 0, data_size = 0, writable = 0;
  std::uint64_t stack = 0, stack_size = 0;
  std::uint64_t counters = 0;
  std::uint64_t high = 0;  ///< added to data in 64-bit modes; 0: not there
};

class SequenceGenerator {
 public:
  explicit SequenceGenerator(SequenceOptions options);
  /// Sequence `number` of `seed`, always the same.
  Sequence make(SequenceMode mode, std::uint64_t seed, std::uint64_t number);

 private:
  enum Group : unsigned { kInteger, kFlags, kX87, kMmxSse, kAvx, kString, kStack, kSystem, kSegment, kGroups };

  void sort_forms(SequenceMode mode);
  std::optional<Group> group_of(std::uint16_t form, SequenceMode mode) const;
  void start_state();
  void point(unsigned reg);
  std::uint64_t data_address();
  void add(const Item& item);
  void add_plain(const cpu::Insn& insn);
  void add_random();
  bool random_insn(std::uint16_t form, Item& item);
  void choose_memory(Item& item, const cpu::FormShape& shape);
  void repair(const cpu::Insn& insn);
  void load_constant(unsigned reg, std::uint64_t value, bool narrow);
  void add_forward_branch();
  void add_call();
  void add_indirect();
  void add_loop_end(unsigned begin);
  void add_striding_loop();
  void add_code_store();
  cpu::Insn from_bytes(std::initializer_list<std::uint8_t> bytes) const;
  unsigned segment_of_base(unsigned base) const { return base == cpu::kRsp || base == cpu::kRbp ? cpu::kSs : cpu::kDs; }
  bool wide() const { return size_ == cpu::CodeSize::bits64; }

  SequenceOptions options_;
  Dice dice_{0};
  SequenceMode mode_ = SequenceMode::user64;
  cpu::CodeSize size_ = cpu::CodeSize::bits64;
  SequenceArena arena_;
  std::array<std::array<std::vector<std::uint16_t>, kGroups>, std::size(kSequenceModes)> forms_;
  std::array<bool, std::size(kSequenceModes)> sorted_{};
  std::vector<std::uint16_t> theme_;
  std::uint16_t pointers_ = 0;  ///< registers that mostly point to memory
  unsigned loops_ = 0;
  bool string_ready_ = false;
  Sequence* out_ = nullptr;
};

}  // namespace husk::differential
