// husk: fixed vectors for the decoder's rules; the broad comparison with another decoder is in tests/decoder
#include <gtest/gtest.h>

#include <vector>

#include "cpu/insn.h"
#include "cpu/sem.h"

namespace husk::cpu {
namespace {

using Bytes = std::vector<std::uint8_t>;

Insn decoded(const Bytes& bytes, CodeSize size) {
  Insn insn;
  EXPECT_EQ(decode(bytes, size, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.length, bytes.size());
  return insn;
}
Sem sem_of(const Insn& insn) { return forms()[insn.form].sem; }

TEST(Decode, TakesAddOfRegisterToMemory) {
  const Insn insn = decoded({0x01, 0x5C, 0x8B, 0x10}, CodeSize::bits32);
  EXPECT_EQ(sem_of(insn), Sem::add_eg);
  EXPECT_EQ(insn.op_size, 4);
  EXPECT_EQ(insn.reg, kRbx);
  EXPECT_TRUE(insn.memory);
  EXPECT_EQ(insn.base, kRbx);
  EXPECT_EQ(insn.index, kRcx);
  EXPECT_EQ(insn.scale, 2);
  EXPECT_EQ(insn.disp, 0x10);
  EXPECT_EQ(insn.segment, kDs);
}

}  // namespace
}  // namespace husk::cpu
