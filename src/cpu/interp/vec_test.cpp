// husk: vector instructions with values from the manuals and published vectors, and what they do with faults and state
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/interp/vec_fixture.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

class Vector : public ::testing::Test {
 protected:
  void expect_fault(Flow flow, unsigned vector) {
    EXPECT_EQ(flow, Flow::fault);
    EXPECT_EQ(m.core().fault().vector, vector);
  }
  void set_text(unsigned number, std::string_view text) {
    m.state().vector[number] = {};
    std::memcpy(m.state().vector[number].bytes.data(), text.data(), text.size());
  }
  void set_bytes(unsigned number, std::string_view hex) {
    for (unsigned i = 0; i < hex.size() / 2; ++i) {
      m.state().vector[number].bytes[i] = static_cast<u8>(std::stoul(std::string(hex.substr(i * 2, 2)), nullptr, 16));
    }
  }
  std::string bytes(unsigned number, unsigned count = 16) {
    std::string text;
    for (unsigned i = 0; i < count; ++i) text += fmt::format("{:02x}", m.state().vector[number].bytes[i]);
    return text;
  }
  bool flag(u64 bit) { return m.state().rflags & bit; }

  VectorMachine m;
};

TEST_F(Vector, EveryFormOfTheVectorTablesHasAHandler) {
  unsigned count = 0;
  for (const Form& form : forms()) {
    const std::string_view sem = sem_name(form.sem);
    if (!sem.starts_with("mmx_") && !sem.starts_with("sse_") && !sem.starts_with("avx_")) continue;
    ++count;
    for (unsigned size : {1u, 2u, 4u, 8u}) EXPECT_NE(handler_table().find(form.sem, size), nullptr) << sem;
  }
  EXPECT_GT(count, 900u);
}

// ---- encodings and state ----

TEST_F(Vector, LegacyEncodingKeepsAndVexEncodingClearsTheUpperBits) {
  m.state().vector[1].bytes.fill(0xAA);
  m.set_vector<u64>(2, {1, 2});
  EXPECT_EQ(m.run({0x66, 0x0F, 0xD4, 0xCA}), Flow::next);  // paddq xmm1, xmm2
  EXPECT_EQ(m.vector<u64>(1, 4),
            (std::vector<u64>{0xAAAAAAAAAAAAAAAB, 0xAAAAAAAAAAAAAAAC, 0xAAAAAAAAAAAAAAAA, 0xAAAAAAAAAAAAAAAA}));
  EXPECT_EQ(m.run({0xC5, 0xF1, 0xD4, 0xCA}), Flow::next);  // vpaddq xmm1, xmm1, xmm2
  EXPECT_EQ(m.vector<u64>(1, 8), (std::vector<u64>{0xAAAAAAAAAAAAAAAC, 0xAAAAAAAAAAAAAAAE, 0, 0, 0, 0, 0, 0}));
  m.state().vector[1].bytes.fill(0xAA);
  EXPECT_EQ(m.run({0xC5, 0xF5, 0xEF, 0xC9}), Flow::next);  // vpxor ymm1, ymm1, ymm1
  EXPECT_EQ(m.state().vector[1], VectorRegister{});
}

TEST_F(Vector, VzeroupperKeepsTheLowHalvesAndVzeroallClearsAll) {
  for (unsigned i = 0; i < 16; ++i) m.state().vector[i].bytes.fill(0x55);
  EXPECT_EQ(m.run({0xC5, 0xF8, 0x77}), Flow::next);
  for (unsigned i = 0; i < 16; ++i)
    EXPECT_EQ(m.vector<u64>(i, 3), (std::vector<u64>{0x5555555555555555, 0x5555555555555555, 0}));
  EXPECT_EQ(m.run({0xC5, 0xFC, 0x77}), Flow::next);
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(m.state().vector[i], VectorRegister{});
}

TEST_F(Vector, LegacyMemoryOperandMustBeAlignedAndVexOperandNeedNot) {
  for (unsigned i = 0; i < 64; ++i) m.scratch()[i] = static_cast<u8>(i);
  m.state().gpr[kRbx] = VectorMachine::kScratch + 1;
  expect_fault(m.run({0x66, 0x0F, 0xFC, 0x0B}), kGP);        // paddb xmm1, [rbx]
  expect_fault(m.run({0x0F, 0x28, 0x0B}), kGP);              // movaps xmm1, [rbx]
  expect_fault(m.run({0x0F, 0x29, 0x0B}), kGP);              // movaps [rbx], xmm1
  expect_fault(m.run({0xC5, 0xF8, 0x28, 0x0B}), kGP);        // vmovaps xmm1, [rbx]
  expect_fault(m.run({0xC4, 0xE2, 0x7D, 0x2A, 0x0B}), kGP);  // vmovntdqa ymm1, [rbx]
  EXPECT_EQ(m.run({0x0F, 0x10, 0x0B}), Flow::next);          // movups xmm1, [rbx]
  EXPECT_EQ(bytes(1), "0102030405060708090a0b0c0d0e0f10");
  EXPECT_EQ(m.run({0xC5, 0xF1, 0xFC, 0x13}), Flow::next);  // vpaddb xmm2, xmm1, [rbx]
  EXPECT_EQ(bytes(2), "020406080a0c0e10121416181a1c1e20");
  EXPECT_EQ(m.run({0x66, 0x0F, 0x3A, 0x63, 0x0B, 0x08}), Flow::next);  // pcmpistri xmm1, [rbx]: exempt
  m.state().gpr[kRbx] = VectorMachine::kScratch + 16;
  expect_fault(m.run({0xC5, 0xFC, 0x28, 0x0B}), kGP);  // vmovaps ymm1, [rbx]: 32 bytes
  EXPECT_EQ(m.run({0x0F, 0x28, 0x0B}), Flow::next);
}

TEST_F(Vector, MisalignedExceptionMaskFreesOperandsButNotAlignedMoves) {
  m.state().mxcsr = 0x21F80;
  m.state().gpr[kRbx] = VectorMachine::kScratch + 1;
  EXPECT_EQ(m.run({0x66, 0x0F, 0xFC, 0x0B}), Flow::next);    // paddb xmm1, [rbx]
  EXPECT_EQ(m.run({0x0F, 0x58, 0x0B}), Flow::next);          // addps xmm1, [rbx]
  expect_fault(m.run({0x0F, 0x28, 0x0B}), kGP);              // movaps xmm1, [rbx]
  expect_fault(m.run({0x66, 0x0F, 0x38, 0x2A, 0x0B}), kGP);  // movntdqa xmm1, [rbx]
  expect_fault(m.run({0xC5, 0xF8, 0x28, 0x0B}), kGP);        // vmovaps xmm1, [rbx]
}

TEST_F(Vector, PackedLoadAcrossIntoAnAbsentPageFaultsWithoutAChange) {
  m.state().gpr[kRbx] = VectorMachine::kScratch + VectorMachine::kScratchSize - 8;
  m.set_vector<u64>(1, {7, 8});
  expect_fault(m.run({0x0F, 0x10, 0x0B}), kPF_);
  EXPECT_EQ(m.core().fault().cr2, VectorMachine::kScratch + VectorMachine::kScratchSize);
  EXPECT_EQ(m.vector<u64>(1, 2), (std::vector<u64>{7, 8}));
  expect_fault(m.run({0x0F, 0x11, 0x0B}), kPF_);
  EXPECT_EQ(load_le<u64>(m.scratch() + VectorMachine::kScratchSize - 8), 0u);
  EXPECT_EQ(m.run({0xF3, 0x0F, 0x7E, 0x0B}), Flow::next);  // movq takes only the eight bytes that are there
}

// ---- MMX (SDM vol. 1, 9; vol. 3, 13) ----

TEST_F(Vector, MmxWriteMarksAllRegistersValidAndFillsTheExponent) {
  X87State& x87 = m.state().x87;
  x87.status = 0x3800;
  x87.tag = 0xFFFF;
  x87.registers[1] = {0x0102030405060708, 0x1234};
  x87.registers[2] = {0xFF01FF01FF01FF01, 0x4321};
  EXPECT_EQ(m.run({0x0F, 0xFC, 0xCA}), Flow::next);  // paddb mm1, mm2
  EXPECT_EQ(x87.registers[1], (F80Bits{0x0003020504070609, 0xFFFF}));
  EXPECT_EQ(x87.registers[2], (F80Bits{0xFF01FF01FF01FF01, 0x4321}));
  EXPECT_EQ(x87.status & 0x3800, 0);
  EXPECT_EQ(x87.tag, 0);
  EXPECT_EQ(m.run({0x0F, 0x77}), Flow::next);  // emms
  EXPECT_EQ(x87.tag, 0xFFFF);
}

TEST_F(Vector, MmxTakesAPendingX87ExceptionFirst) {
  m.state().x87.control = 0x37B;
  m.state().x87.status = 0x8084;
  expect_fault(m.run({0x0F, 0xFC, 0xCA}), kMF);
  expect_fault(m.run({0x0F, 0x77}), kMF);
  expect_fault(m.run({0xF3, 0x0F, 0xD6, 0xCA}), kMF);      // movq2dq xmm1, mm2
  EXPECT_EQ(m.run({0x0F, 0x2A, 0x0B}), Flow::next);        // cvtpi2ps xmm1, [rbx]: no MMX register
  EXPECT_EQ(m.run({0x66, 0x0F, 0x2A, 0x0B}), Flow::next);  // cvtpi2pd xmm1, [rbx]
  expect_fault(m.run({0x0F, 0x2A, 0xCA}), kMF);
}

TEST_F(Vector, MmxFaultLeavesTheX87StateAlone) {
  m.state().x87.status = 0x2800;
  m.state().x87.tag = 0xFFFF;
  m.state().gpr[kRbx] = VectorMachine::kScratch + VectorMachine::kScratchSize;
  expect_fault(m.run({0x0F, 0xFC, 0x0B}), kPF_);
  expect_fault(m.run({0x0F, 0x7F, 0x0B}), kPF_);
  EXPECT_EQ(m.state().x87.status, 0x2800);
  EXPECT_EQ(m.state().x87.tag, 0xFFFF);
}

TEST_F(Vector, MmxUnpackLowReadsOnlyFourBytes) {
  m.state().gpr[kRbx] = VectorMachine::kScratch + VectorMachine::kScratchSize - 4;
  store_le<u32>(m.scratch() + VectorMachine::kScratchSize - 4, 0x44332211);
  m.state().x87.registers[0].significand = 0x8877665504030201;
  EXPECT_EQ(m.run({0x0F, 0x60, 0x03}), Flow::next);  // punpcklbw mm0, [rbx]
  EXPECT_EQ(m.state().x87.registers[0].significand, 0x4404330322021101u);
}

// ---- integer arithmetic: the manual's own corner cases ----

TEST_F(Vector, SaturationStopsAtTheTypesLimits) {
  m.set_vector<u8>(1, {0x7F, 0x80, 0xFF, 0x00, 0x01});
  m.set_vector<u8>(2, {0x01, 0xFF, 0x02, 0x01, 0x02});
  m.state().vector[3] = m.state().vector[4] = m.state().vector[5] = m.state().vector[1];
  (void)m.run({0x66, 0x0F, 0xEC, 0xDA});  // paddsb xmm3, xmm2
  (void)m.run({0x66, 0x0F, 0xDC, 0xE2});  // paddusb xmm4, xmm2
  (void)m.run({0x66, 0x0F, 0xD8, 0xEA});  // psubusb xmm5, xmm2
  EXPECT_EQ(m.vector<u8>(3, 5), (std::vector<u8>{0x7F, 0x80, 0x01, 0x01, 0x03}));
  EXPECT_EQ(m.vector<u8>(4, 5), (std::vector<u8>{0x80, 0xFF, 0xFF, 0x01, 0x03}));
  EXPECT_EQ(m.vector<u8>(5, 5), (std::vector<u8>{0x7E, 0x00, 0xFD, 0x00, 0x00}));
}
TEST_F(Vector, PmaddwdOfTheLowestValuesWraps) {
  m.set_vector<u16>(1, {0x8000, 0x8000, 2, 3});
  m.set_vector<u16>(2, {0x8000, 0x8000, 5, 7});
  (void)m.run({0x66, 0x0F, 0xF5, 0xCA});
  EXPECT_EQ(m.vector<u32>(1, 2), (std::vector<u32>{0x80000000, 31}));
}
TEST_F(Vector, PmulhrswOfTheLowestValuesWraps) {
  m.set_vector<u16>(1, {0x8000, 0x4000});
  m.set_vector<u16>(2, {0x8000, 0x4001});
  (void)m.run({0x66, 0x0F, 0x38, 0x0B, 0xCA});
  EXPECT_EQ(m.vector<u16>(1, 2), (std::vector<u16>{0x8000, 0x2001}));
}
TEST_F(Vector, ShiftCountIsAWhole64BitNumber) {
  m.set_vector<u32>(1, {0x80000001, 0xFFFFFFFF});
  m.set_vector<u64>(2, {u64{1} << 32, 5});
  m.state().vector[3] = m.state().vector[1];
  (void)m.run({0x66, 0x0F, 0xE2, 0xCA});  // psrad xmm1, xmm2
  (void)m.run({0x66, 0x0F, 0xF2, 0xDA});  // pslld xmm3, xmm2
  EXPECT_EQ(m.vector<u32>(1, 2), (std::vector<u32>{0xFFFFFFFF, 0xFFFFFFFF}));
  EXPECT_EQ(m.vector<u32>(3, 2), (std::vector<u32>{0, 0}));
}
TEST_F(Vector, PshufbClearsWhereTheTopBitIsSet) {
  set_bytes(1, "000102030405060708090a0b0c0d0e0f");
  set_bytes(2, "0f800e7f01ff000203040506070809aa");
  (void)m.run({0x66, 0x0F, 0x38, 0x00, 0xCA});
  EXPECT_EQ(bytes(1), "0f000e0f010000020304050607080900");
}
TEST_F(Vector, PalignrBeyondBothOperandsIsZero) {
  set_bytes(1, "101112131415161718191a1b1c1d1e1f");
  set_bytes(2, "000102030405060708090a0b0c0d0e0f");
  m.state().vector[3] = m.state().vector[4] = m.state().vector[1];
  (void)m.run({0x66, 0x0F, 0x3A, 0x0F, 0xCA, 5});
  EXPECT_EQ(bytes(1), "05060708090a0b0c0d0e0f1011121314");
  (void)m.run({0x66, 0x0F, 0x3A, 0x0F, 0xDA, 30});
  EXPECT_EQ(bytes(3), "1e1f0000000000000000000000000000");
  (void)m.run({0x66, 0x0F, 0x3A, 0x0F, 0xE2, 255});
  EXPECT_EQ(bytes(4), "00000000000000000000000000000000");
}
TEST_F(Vector, PhminposuwTakesTheFirstOfEqualMinima) {
  m.set_vector<u16>(2, {9, 5, 7, 5, 8, 6, 5, 9});
  (void)m.run({0x66, 0x0F, 0x38, 0x41, 0xCA});
  EXPECT_EQ(m.vector<u16>(1, 3), (std::vector<u16>{5, 1, 0}));
}
TEST_F(Vector, PtestSetsZeroAndCarryAndClearsTheRest) {
  m.state().rflags = kReservedOne | kArithmeticFlags;
  m.set_vector<u64>(1, {0xF0, 0});
  m.set_vector<u64>(2, {0x0F, 0});
  (void)m.run({0x66, 0x0F, 0x38, 0x17, 0xCA});
  EXPECT_EQ(m.state().rflags & kArithmeticFlags, u64{kZF});
  m.set_vector<u64>(2, {0x30, 0});
  (void)m.run({0x66, 0x0F, 0x38, 0x17, 0xCA});
  EXPECT_EQ(m.state().rflags & kArithmeticFlags, u64{kCF});
}

// ---- text (SDM vol. 2, 4.1) ----

TEST_F(Vector, PcmpistriFindsASubstring) {
  set_text(1, "ell");
  set_text(2, "say hello");
  EXPECT_EQ(m.run({0x66, 0x0F, 0x3A, 0x63, 0xCA, 0x0C}), Flow::next);  // equal ordered
  EXPECT_EQ(m.state().gpr[kRcx], 5u);
  EXPECT_TRUE(flag(kCF));
  EXPECT_TRUE(flag(kZF));  // xmm2 ends within
  EXPECT_TRUE(flag(kSF));  // so does xmm1
  EXPECT_FALSE(flag(kOF));
}
TEST_F(Vector, PcmpistriGivesTheElementCountIfNothingMatches) {
  set_text(1, "xyz");
  set_text(2, "0123456789abcdef");
  (void)m.run({0x66, 0x0F, 0x3A, 0x63, 0xCA, 0x00});  // equal any
  EXPECT_EQ(m.state().gpr[kRcx], 16u);
  EXPECT_FALSE(flag(kCF));
  EXPECT_FALSE(flag(kZF));
}
TEST_F(Vector, PcmpistrmMarksRanges) {
  set_text(1, "azAZ");
  set_text(2, "a1-Z[q");
  (void)m.run({0x66, 0x0F, 0x3A, 0x62, 0xCA, 0x44});  // ranges, byte mask
  EXPECT_EQ(bytes(0), "ff0000ff00ff00000000000000000000");
  (void)m.run({0x66, 0x0F, 0x3A, 0x62, 0xCA, 0x34});  // bit mask, inverted where valid
  EXPECT_EQ(m.vector<u64>(0, 2), (std::vector<u64>{0b010110, 0}));
}
TEST_F(Vector, PcmpestriTakesTheMagnitudeOfLengths) {
  set_text(1, "abcdefgh");
  set_text(2, "abcdXfgh");
  m.state().gpr[kRax] = static_cast<u64>(-8);
  m.state().gpr[kRdx] = 0xFFFFFFFF00000008;           // only EDX counts without REX.W
  (void)m.run({0x66, 0x0F, 0x3A, 0x61, 0xCA, 0x18});  // equal each, negative
  EXPECT_EQ(m.state().gpr[kRcx], 4u);
  m.state().gpr[kRax] = 0x80000000;  // INT_MIN: 16 elements
  m.state().gpr[kRdx] = 20;
  (void)m.run({0x66, 0x0F, 0x3A, 0x61, 0xCA, 0x18});
  EXPECT_FALSE(flag(kSF));
  EXPECT_FALSE(flag(kZF));
}

// ---- masked and gathered memory ----

TEST_F(Vector, MaskmovdquStoresOnlyMarkedBytesAndFaultsOnlyForThem) {
  std::memset(m.scratch(), 0, 0x100);
  const u64 end = VectorMachine::kScratch + VectorMachine::kScratchSize;
  set_bytes(1, "000102030405060708090a0b0c0d0e0f");
  set_bytes(2, "80ff7f80000000000000000000000000");
  m.state().gpr[kRdi] = end - 4;
  EXPECT_EQ(m.run({0x66, 0x0F, 0xF7, 0xCA}), Flow::next);
  EXPECT_EQ(load_le<u32>(m.scratch() + VectorMachine::kScratchSize - 4), 0x03000100u);
  m.state().gpr[kRdi] = end - 3;  // byte 3 is now beyond the end
  std::memset(m.scratch() + VectorMachine::kScratchSize - 4, 0xEE, 4);
  expect_fault(m.run({0x66, 0x0F, 0xF7, 0xCA}), kPF_);
  EXPECT_EQ(load_le<u32>(m.scratch() + VectorMachine::kScratchSize - 4), 0xEEEEEEEEu);
}
TEST_F(Vector, VmaskmovSuppressesFaultsOfUnmarkedElements) {
  const u64 end = VectorMachine::kScratch + VectorMachine::kScratchSize;
  m.state().gpr[kRbx] = end - 8;
  store_le<u64>(m.scratch() + VectorMachine::kScratchSize - 8, 0x2222222211111111);
  m.set_vector<u32>(1, {0x80000000, 0xFFFFFFFF, 0x7FFFFFFF, 0, 0, 0, 0, 0});
  EXPECT_EQ(m.run({0xC4, 0xE2, 0x75, 0x2C, 0x13}), Flow::next);  // vmaskmovps ymm2, ymm1, [rbx]
  EXPECT_EQ(m.vector<u32>(2, 4), (std::vector<u32>{0x11111111, 0x22222222, 0, 0}));
  EXPECT_EQ(m.run({0xC4, 0xE2, 0x75, 0x2E, 0x1B}), Flow::next);  // vmaskmovps [rbx], ymm1, ymm3
  EXPECT_EQ(load_le<u64>(m.scratch() + VectorMachine::kScratchSize - 8), 0u);
  m.set_vector<u32>(1, {0x80000000, 0, 0x80000000, 0});
  m.set_vector<u32>(3, {5, 5, 5, 5});
  expect_fault(m.run({0xC4, 0xE2, 0x75, 0x2E, 0x1B}), kPF_);
  EXPECT_EQ(load_le<u64>(m.scratch() + VectorMachine::kScratchSize - 8), 0u);
}
TEST_F(Vector, GatherFaultKeepsWhatWasGatheredAndRestarts) {
  for (u32 i = 0; i < 64; ++i) store_le<u32>(m.scratch() + 4 * i, 0x1000 + i);
  constexpr u32 kAway = VectorMachine::kScratchSize / 4;
  m.set_vector<u32>(2, {3, 7, kAway, 1});
  m.set_vector<u32>(1, {0xAA, 0xBB, 0xCC, 0xDD});
  m.set_vector<u32>(3, {0x80000000, 0, 0x80000000, 0x80000000});
  expect_fault(m.run({0xC4, 0xE2, 0x61, 0x90, 0x0C, 0x93}), kPF_);  // vpgatherdd xmm1, [rbx+xmm2*4], xmm3
  EXPECT_EQ(m.vector<u32>(1, 4), (std::vector<u32>{0x1003, 0xBB, 0xCC, 0xDD}));
  EXPECT_EQ(m.vector<u32>(3, 4), (std::vector<u32>{0, 0, 0xFFFFFFFF, 0xFFFFFFFF}));
  m.set_vector<u32>(2, {0, 0, 9, 1});
  EXPECT_EQ(m.run({0xC4, 0xE2, 0x61, 0x90, 0x0C, 0x93}), Flow::next);
  EXPECT_EQ(m.vector<u32>(1, 4), (std::vector<u32>{0x1003, 0xBB, 0x1009, 0x1001}));
  EXPECT_EQ(m.vector<u32>(3, 4), (std::vector<u32>{0, 0, 0, 0}));
}
TEST_F(Vector, GatherWithCoincidingRegistersIsInvalid) {
  Insn insn{};
  for (const auto& bytes : {std::array<u8, 6>{0xC4, 0xE2, 0x61, 0x90, 0x0C, 0x8B},     // index = destination
                            std::array<u8, 6>{0xC4, 0xE2, 0x71, 0x90, 0x0C, 0x93},     // mask = destination
                            std::array<u8, 6>{0xC4, 0xE2, 0x69, 0x90, 0x0C, 0x93}}) {  // mask = index
    EXPECT_EQ(decode(bytes, CodeSize::bits64, insn), DecodeStatus::invalid);
  }
}

// ---- floating point: state and exceptions (values are compared with the host in vec_native_test.cpp) ----

TEST_F(Vector, MaskedExceptionsAccumulateInMxcsr) {
  m.set_vector<u32>(1, {0x3F800000, 0x7F7FFFFF, 0x00000001, 0x3F800000});
  m.set_vector<u32>(2, {0, 0x00800000, 0x3F800000, 0x40400000});
  m.state().mxcsr = 0x1F80;
  EXPECT_EQ(m.run({0x0F, 0x5E, 0xCA}), Flow::next);  // divps: 1/0, overflow, denormal, 1/3
  EXPECT_EQ(m.state().mxcsr & 0x3F, 0x04u | 0x08u | 0x02u | 0x20u);
  EXPECT_EQ(m.vector<u32>(1, 4), (std::vector<u32>{0x7F800000, 0x7F800000, 0x00000001, 0x3EAAAAAB}));
}
TEST_F(Vector, UnmaskedExceptionIsXmAndLeavesTheDestination) {
  m.set_vector<u32>(1, {0x3F800000, 0x3F800000, 0x3F800000, 0x3F800000});
  m.set_vector<u32>(2, {0x40400000, 0x40400000, 0, 0x40400000});
  m.state().mxcsr = 0x1F80 & ~0x200u;
  expect_fault(m.run({0x0F, 0x5E, 0xCA}), kXM);
  EXPECT_EQ(m.state().mxcsr & 0x3F, 0x04u) << "precision of the other elements is a post-computation exception";
  EXPECT_EQ(m.vector<u32>(1, 2), (std::vector<u32>{0x3F800000, 0x3F800000}));
  m.state().cr4 &= ~u64{kCr4Osxmmexcpt};
  expect_fault(m.run({0x0F, 0x5E, 0xCA}), kUD);
}
TEST_F(Vector, MinAndMaxGiveTheSecondOperandForNansAndZeros) {
  m.set_vector<u32>(1, {0x80000000, 0x7FC00000, 0x3F800000, 0x00000000});
  m.set_vector<u32>(2, {0x00000000, 0x3F800000, 0x7FC00001, 0x80000000});
  m.state().vector[3] = m.state().vector[1];
  (void)m.run({0x0F, 0x5D, 0xCA});
  EXPECT_EQ(m.vector<u32>(1, 4), m.vector<u32>(2, 4));
  (void)m.run({0x0F, 0x5F, 0xDA});
  EXPECT_EQ(m.vector<u32>(3, 4), m.vector<u32>(2, 4));
}
TEST_F(Vector, LegacyCompareIgnoresThePredicatesUpperBits) {
  m.set_vector<u64>(1, {0x3FF0000000000000, 0x7FF8000000000000});
  m.set_vector<u64>(2, {0x3FF0000000000000, 0x7FF8000000000000});
  (void)m.run({0x66, 0x0F, 0xC2, 0xCA, 0x08});  // EQ_UQ in AVX, EQ here
  EXPECT_EQ(m.vector<u64>(1, 2), (std::vector<u64>{~u64{0}, 0}));
  m.set_vector<u64>(1, {0x3FF0000000000000, 0x7FF8000000000000});
  (void)m.run({0xC5, 0xF1, 0xC2, 0xDA, 0x08});
  EXPECT_EQ(m.vector<u64>(3, 2), (std::vector<u64>{~u64{0}, ~u64{0}}));
}
TEST_F(Vector, ConversionsOutOfRangeGiveTheIntegerIndefinite) {
  m.set_vector<u32>(1, {0x4F000000, 0xCF000000, 0x7FC00000, 0x3FC00000});
  (void)m.run({0x66, 0x0F, 0x5B, 0xD1});  // cvtps2dq xmm2, xmm1
  EXPECT_EQ(m.vector<u32>(2, 4), (std::vector<u32>{0x80000000, 0x80000000, 0x80000000, 2}));
  EXPECT_EQ(m.state().mxcsr & 0x3F, 0x21u);
  (void)m.run({0xF3, 0x48, 0x0F, 0x2C, 0xC1});  // cvttss2si rax, xmm1
  EXPECT_EQ(m.state().gpr[kRax], 0x80000000u);
}
TEST_F(Vector, ComissOrdersAndFlagsUnordered) {
  m.set_vector<u32>(1, {0x3F800000});
  m.set_vector<u32>(2, {0x40000000});
  (void)m.run({0x0F, 0x2F, 0xCA});
  EXPECT_EQ(m.state().rflags & kArithmeticFlags, u64{kCF});
  m.set_vector<u32>(2, {0x7FC00000});
  (void)m.run({0x0F, 0x2E, 0xCA});
  EXPECT_EQ(m.state().rflags & kArithmeticFlags, u64{kZF | kPF | kCF});
  EXPECT_EQ(m.state().mxcsr & 1, 0u);
  (void)m.run({0x0F, 0x2F, 0xCA});
  EXPECT_EQ(m.state().mxcsr & 1, 1u);
}
/// SDM vol. 2, RCPPS and RSQRTPS: relative error at most 1.5 * 2^-12.
TEST_F(Vector, ApproximationsKeepTheManualsBound) {
  for (u32 bits = 0x3F000000; bits < 0x41000000; bits += 997) {
    m.set_vector<u32>(1, {bits});
    const double x = std::bit_cast<float>(bits);
    (void)m.run({0xF3, 0x0F, 0x53, 0xD1});
    const double rcp = std::bit_cast<float>(m.vector<u32>(2, 1)[0]);
    ASSERT_LE(std::abs(rcp * x - 1), 1.5 / 4096);
    (void)m.run({0xF3, 0x0F, 0x52, 0xD1});
    const double rsqrt = std::bit_cast<float>(m.vector<u32>(2, 1)[0]);
    ASSERT_LE(std::abs(rsqrt * std::sqrt(x) - 1), 1.5 / 4096);
  }
}
TEST_F(Vector, Vcvtps2phPageFaultComesWithoutFlags) {
  m.state().gpr[kRbx] = VectorMachine::kScratch + VectorMachine::kScratchSize - 4;
  m.state().mxcsr = 0x1F80;
  m.set_vector<u32>(1, {0x3F800001, 0, 0, 0});
  expect_fault(m.run({0xC4, 0xE3, 0x79, 0x1D, 0x0B, 0x00}), kPF_);
  EXPECT_EQ(m.state().mxcsr, 0x1F80u);
}

// ---- crypto ----

/// FIPS 197, appendix B: round 1, and the last round.
TEST_F(Vector, AesencDoesRoundsOfFips197) {
  set_bytes(1, "193de3bea0f4e22b9ac68d2ae9f84808");
  set_bytes(2, "a0fafe1788542cb123a339392a6c7605");
  (void)m.run({0x66, 0x0F, 0x38, 0xDC, 0xCA});
  EXPECT_EQ(bytes(1), "a49c7ff2689f352b6b5bea43026a5049");
  set_bytes(1, "eb40f21e592e38848ba113e71bc342d2");
  set_bytes(2, "d014f9a8c9ee2589e13f0cc8b6630ca6");
  (void)m.run({0x66, 0x0F, 0x38, 0xDD, 0xCA});
  EXPECT_EQ(bytes(1), "3925841d02dc09fbdc118597196a0b32");
}
/// FIPS 197, appendix A.1: the last column of each round's key leads to the next.
TEST_F(Vector, AeskeygenassistGivesTheKeyScheduleOfFips197) {
  set_bytes(1, "2b7e151628aed2a6abf7158809cf4f3c");
  (void)m.run({0x66, 0x0F, 0x3A, 0xDF, 0xD1, 0x01});
  // SubWord(RotWord(09cf4f3c)) = 8a84eb01, xor Rcon 01000000: 8b84eb01.
  EXPECT_EQ(bytes(2).substr(24), "8b84eb01");
}
TEST_F(Vector, AesimcAndAesdecUndoAesenc) {
  set_bytes(1, "00112233445566778899aabbccddeeff");
  set_bytes(2, "000102030405060708090a0b0c0d0e0f");
  set_bytes(3, "00000000000000000000000000000000");
  (void)m.run({0x66, 0x0F, 0x38, 0xDD, 0xCB});  // aesenclast with a zero key, and back
  (void)m.run({0x66, 0x0F, 0x38, 0xDF, 0xCB});
  EXPECT_EQ(bytes(1), "00112233445566778899aabbccddeeff");
}
/// SDM vol. 2 and the white paper "Intel Carry-Less Multiplication Instruction", figure 5 values.
TEST_F(Vector, PclmulqdqMultipliesWithoutCarries) {
  m.set_vector<u64>(1, {0x63746F725D53475D, 0x7B5B546573745665});
  m.set_vector<u64>(2, {0x5B477565726F6E5D, 0x4869285368617929});
  m.state().vector[3] = m.state().vector[1];
  (void)m.run({0x66, 0x0F, 0x3A, 0x44, 0xCA, 0x00});
  EXPECT_EQ(m.vector<u64>(1, 2), (std::vector<u64>{0x929633D5D36F0451, 0x1D4D84C85C3440C0}));
  (void)m.run({0x66, 0x0F, 0x3A, 0x44, 0xDA, 0x11});
  EXPECT_EQ(m.vector<u64>(3, 2), (std::vector<u64>{0xD66EE03E410FD4ED, 0x1D1E1F2C592E7C45}));
}
TEST_F(Vector, Gf2p8mulbMultipliesInTheAesField) {
  set_bytes(1, "57");  // FIPS 197, 4.2: {57} * {83} = {c1}, {57} * {13} = {fe}
  set_bytes(2, "83");
  (void)m.run({0x66, 0x0F, 0x38, 0xCF, 0xCA});
  EXPECT_EQ(m.vector<u8>(1, 1)[0], 0xC1);
  set_bytes(1, "57");
  set_bytes(2, "13");
  (void)m.run({0x66, 0x0F, 0x38, 0xCF, 0xCA});
  EXPECT_EQ(m.vector<u8>(1, 1)[0], 0xFE);
}
/// FIPS 180-4's example: one block, "abc".
TEST_F(Vector, Sha256OfAbcIsTheStandardsDigest) {
  static constexpr std::array<u32, 64> kRound{
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<u32, 64> w{0x61626380};
  w[15] = 24;
  for (unsigned t = 16; t < 64; t += 4) {  // the message schedule by SHA256MSG1 and SHA256MSG2
    m.set_vector<u32>(1, {w[t - 16], w[t - 15], w[t - 14], w[t - 13]});
    m.set_vector<u32>(2, {w[t - 12], w[t - 11], w[t - 10], w[t - 9]});
    (void)m.run({0x0F, 0x38, 0xCC, 0xCA});  // sha256msg1 xmm1, xmm2
    m.set_vector<u32>(3, {w[t - 7], w[t - 6], w[t - 5], w[t - 4]});
    (void)m.run({0x66, 0x0F, 0xFE, 0xCB});  // paddd xmm1, xmm3
    m.set_vector<u32>(2, {w[t - 4], w[t - 3], w[t - 2], w[t - 1]});
    (void)m.run({0x0F, 0x38, 0xCD, 0xCA});  // sha256msg2 xmm1, xmm2
    for (unsigned i = 0; i < 4; ++i) w[t + i] = m.vector<u32>(1, 4)[i];
  }
  m.set_vector<u32>(1, {0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372});  // H G D C
  m.set_vector<u32>(2, {0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667});  // F E B A
  for (unsigned t = 0; t < 64; t += 4) {
    m.set_vector<u32>(0, {w[t] + kRound[t], w[t + 1] + kRound[t + 1]});
    (void)m.run({0x0F, 0x38, 0xCB, 0xCA});  // sha256rnds2 xmm1, xmm2: xmm1 becomes the new A B E F
    m.set_vector<u32>(0, {w[t + 2] + kRound[t + 2], w[t + 3] + kRound[t + 3]});
    (void)m.run({0x0F, 0x38, 0xCB, 0xD1});
  }
  const auto cdgh = m.vector<u32>(1, 4), abef = m.vector<u32>(2, 4);
  EXPECT_EQ(abef[3] + 0x6a09e667, 0xba7816bfu);
  EXPECT_EQ(abef[2] + 0xbb67ae85, 0x8f01cfeau);
  EXPECT_EQ(cdgh[3] + 0x3c6ef372, 0x414140deu);
  EXPECT_EQ(cdgh[2] + 0xa54ff53a, 0x5dae2223u);
  EXPECT_EQ(abef[1] + 0x510e527f, 0xb00361a3u);
  EXPECT_EQ(abef[0] + 0x9b05688c, 0x96177a9cu);
  EXPECT_EQ(cdgh[1] + 0x1f83d9ab, 0xb410ff61u);
  EXPECT_EQ(cdgh[0] + 0x5be0cd19, 0xf20015adu);
}
TEST_F(Vector, Sha1OfAbcIsTheStandardsDigest) {
  std::array<u32, 80> w{0x61626380};
  w[15] = 24;
  const auto quad = [&](unsigned number, unsigned t) {
    m.set_vector<u32>(number, {w[t + 3], w[t + 2], w[t + 1], w[t]});
  };
  for (unsigned t = 16; t < 80; t += 4) {
    quad(1, t - 16);
    quad(2, t - 12);
    (void)m.run({0x0F, 0x38, 0xC9, 0xCA});  // sha1msg1 xmm1, xmm2
    quad(2, t - 8);
    (void)m.run({0x66, 0x0F, 0xEF, 0xCA});  // pxor xmm1, xmm2
    quad(2, t - 4);
    (void)m.run({0x0F, 0x38, 0xCA, 0xCA});  // sha1msg2 xmm1, xmm2
    for (unsigned i = 0; i < 4; ++i) w[t + i] = m.vector<u32>(1, 4)[3 - i];
  }
  m.set_vector<u32>(1, {0x10325476, 0x98badcfe, 0xefcdab89, 0x67452301});  // D C B A
  m.set_vector<u32>(3, {0, 0, 0, 0});
  for (unsigned t = 0; t < 80; t += 4) {
    quad(2, t);
    if (t == 0) {
      m.set_vector<u32>(2, {w[3], w[2], w[1], w[0] + 0xc3d2e1f0});
    } else {
      (void)m.run({0x0F, 0x38, 0xC8, 0xDA});  // sha1nexte xmm3, xmm2: E from the A of four rounds ago
      m.state().vector[2] = m.state().vector[3];
    }
    m.state().vector[3] = m.state().vector[1];
    (void)m.run({0x0F, 0x3A, 0xCC, 0xCA, static_cast<u8>(t / 20)});  // sha1rnds4 xmm1, xmm2, f
  }
  m.set_vector<u32>(2, {0, 0, 0, 0});
  (void)m.run({0x0F, 0x38, 0xC8, 0xDA});
  const auto dcba = m.vector<u32>(1, 4);
  EXPECT_EQ(dcba[3] + 0x67452301, 0xa9993e36u);
  EXPECT_EQ(dcba[2] + 0xefcdab89, 0x4706816au);
  EXPECT_EQ(dcba[1] + 0x98badcfe, 0xba3e2571u);
  EXPECT_EQ(dcba[0] + 0x10325476, 0x7850c26cu);
  EXPECT_EQ(m.vector<u32>(3, 4)[3] + 0xc3d2e1f0, 0x9cd0d89du);
}

}  // namespace
}  // namespace husk::cpu::interp
