// husk: fuzzes the decoder and the encoder: no input may crash them, and what decodes must encode to its like
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/check.h"
#include "cpu/encode.h"
#include "cpu/insn.h"

namespace {

using namespace husk::cpu;

void check_size(std::span<const std::uint8_t> bytes, CodeSize size) {
  Insn insn;
  const DecodeStatus status = decode(bytes, size, insn);
  HUSK_CHECK(insn.length <= 15 && insn.length <= bytes.size());
  if (status == DecodeStatus::truncated) HUSK_CHECK(bytes.size() < 15);
  if (status != DecodeStatus::ok) return;
  HUSK_CHECK(insn.length > 0 && insn.form < forms().size());

  // The same instruction from a span of exactly its length, and nothing from less.
  Insn again;
  HUSK_CHECK(decode(bytes.first(insn.length), size, again) == DecodeStatus::ok && again.form == insn.form);
  HUSK_CHECK(decode(bytes.first(insn.length - 1u), size, again) != DecodeStatus::ok);

  // Redundant prefixes may make an instruction that has no other encoding than its own; what can be encoded is the
  // same.
  const auto encoded = encode(insn, size);
  if (!encoded) return;
  HUSK_CHECK(decode(encoded->span(), size, again) == DecodeStatus::ok);
  HUSK_CHECK(again.form == insn.form && again.op_size == insn.op_size && again.addr_size == insn.addr_size);
  HUSK_CHECK(again.imm == insn.imm && again.imm2 == insn.imm2 && again.disp == insn.disp &&
             again.memory == insn.memory);
  HUSK_CHECK(again.base == insn.base && again.index == insn.index && again.segment == insn.segment);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A copy of the exact size, so that reading past the end is seen.
  const std::vector<std::uint8_t> bytes(data, data + size);
  for (const CodeSize code_size : {CodeSize::bits16, CodeSize::bits32, CodeSize::bits64}) check_size(bytes, code_size);
  return 0;
}
