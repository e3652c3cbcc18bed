// husk: fixed vectors for the decoder's rules; the broad comparison with another decoder is in tests/decoder
#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "cpu/insn.h"
#include "cpu/sem.h"

namespace husk::cpu {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr CodeSize k16 = CodeSize::bits16;
constexpr CodeSize k32 = CodeSize::bits32;
constexpr CodeSize k64 = CodeSize::bits64;

Insn decoded(const Bytes& bytes, CodeSize size) {
  Insn insn;
  EXPECT_EQ(decode(bytes, size, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.length, bytes.size());
  return insn;
}
DecodeStatus status_of(const Bytes& bytes, CodeSize size) {
  Insn insn;
  return decode(bytes, size, insn);
}
Sem sem_of(const Insn& insn) { return forms()[insn.form].sem; }
Sem sem_of(const Bytes& bytes, CodeSize size) { return sem_of(decoded(bytes, size)); }
std::string_view name_of(const Bytes& bytes, CodeSize size) { return forms()[decoded(bytes, size).form].mnemonic; }

TEST(Decode, TakesAddOfRegisterToMemory) {
  const Insn insn = decoded({0x01, 0x5C, 0x8B, 0x10}, k32);
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

// ---- prefixes ----

TEST(Decode, OperandSizeFollowsModePrefixAndRexW) {
  EXPECT_EQ(decoded({0x01, 0xC0}, k16).op_size, 2);
  EXPECT_EQ(decoded({0x66, 0x01, 0xC0}, k16).op_size, 4);
  EXPECT_EQ(decoded({0x66, 0x01, 0xC0}, k32).op_size, 2);
  EXPECT_EQ(decoded({0x48, 0x01, 0xC0}, k64).op_size, 8);
  // REX.W wins over 66 (SDM vol. 2, 2.2.1.2).
  EXPECT_EQ(decoded({0x66, 0x48, 0x01, 0xC0}, k64).op_size, 8);
}

TEST(Decode, RexCountsOnlyDirectlyBeforeTheOpcode) {
  EXPECT_EQ(decoded({0x48, 0x66, 0x01, 0xC0}, k64).op_size, 2);
  // Of two, the second: REX.W is lost.
  EXPECT_EQ(decoded({0x48, 0x40, 0x01, 0xC0}, k64).op_size, 4);
  EXPECT_EQ(decoded({0x41, 0x2E, 0x01, 0xC0}, k64).rm, kRax);
}

TEST(Decode, RexBytesAreIncAndDecOutside64BitMode) {
  EXPECT_EQ(sem_of({0x41}, k32), Sem::inc_z);
  EXPECT_EQ(decoded({0x4F}, k16).reg, kRdi);
  EXPECT_EQ(sem_of({0x4F}, k32), Sem::dec_z);
}

TEST(Decode, LastRepPrefixWinsOverTheOtherAndOver66) {
  EXPECT_EQ(name_of({0xF2, 0xF3, 0x0F, 0x10, 0xC1}, k64), "MOVSS");
  EXPECT_EQ(name_of({0xF3, 0xF2, 0x0F, 0x10, 0xC1}, k64), "MOVSD");
  EXPECT_EQ(name_of({0xF3, 0x66, 0x0F, 0x10, 0xC1}, k64), "MOVSS");
  EXPECT_EQ(name_of({0x66, 0x0F, 0x10, 0xC1}, k64), "MOVUPD");
  EXPECT_EQ(name_of({0x0F, 0x10, 0xC1}, k64), "MOVUPS");
}

TEST(Decode, MandatoryRepLeaves66AsOperandSize) {
  EXPECT_EQ(decoded({0x66, 0xF3, 0x0F, 0xB8, 0xC1}, k64).op_size, 2);
  EXPECT_EQ(sem_of({0x66, 0xF3, 0x0F, 0xB8, 0xC1}, k64), Sem::popcnt_ge);
  const Insn crc = decoded({0x66, 0xF2, 0x0F, 0x38, 0xF1, 0xC1}, k64);
  EXPECT_EQ(sem_of(crc), Sem::crc32_ge);
  EXPECT_EQ(crc.op_size, 2);
  EXPECT_EQ(decoded({0xF2, 0x48, 0x0F, 0x38, 0xF0, 0xC1}, k64).op_size, 1);
}

TEST(Decode, TzcntAndLzcntAreBsfAndBsrWithoutF3) {
  EXPECT_EQ(sem_of({0x0F, 0xBC, 0xC1}, k64), Sem::bsf_ge);
  EXPECT_EQ(sem_of({0xF2, 0x0F, 0xBC, 0xC1}, k64), Sem::bsf_ge);
  EXPECT_EQ(sem_of({0xF3, 0x0F, 0xBC, 0xC1}, k64), Sem::tzcnt_ge);
  EXPECT_EQ(sem_of({0xF3, 0x0F, 0xBD, 0xC1}, k64), Sem::lzcnt_ge);
}

TEST(Decode, RepIsKeptForStringsAndBranches) {
  EXPECT_EQ(decoded({0xF3, 0xA4}, k64).rep, RepPrefix::rep);
  EXPECT_EQ(decoded({0xF2, 0xAE}, k64).rep, RepPrefix::repne);
  EXPECT_EQ(decoded({0xF2, 0xC3}, k64).rep, RepPrefix::repne);
  EXPECT_EQ(decoded({0xA4}, k64).rep, RepPrefix::none);
}

TEST(Decode, LockNeedsAMemoryDestinationOfAListedInstruction) {
  EXPECT_TRUE(decoded({0xF0, 0x01, 0x03}, k32).lock);
  EXPECT_EQ(status_of({0xF0, 0x01, 0xC3}, k32), DecodeStatus::invalid);              // register destination
  EXPECT_EQ(status_of({0xF0, 0x03, 0x03}, k32), DecodeStatus::invalid);              // memory is the source
  EXPECT_EQ(status_of({0xF0, 0x89, 0x03}, k32), DecodeStatus::invalid);              // MOV
  EXPECT_EQ(status_of({0xF0, 0x38, 0x03}, k32), DecodeStatus::invalid);              // CMP
  EXPECT_EQ(status_of({0xF0, 0x90}, k32), DecodeStatus::invalid);                    // NOP
  EXPECT_TRUE(decoded({0xF0, 0x0F, 0xC7, 0x0B}, k32).lock);                          // CMPXCHG8B
  EXPECT_TRUE(decoded({0xF0, 0x0F, 0xBA, 0x2B, 0x01}, k32).lock);                    // BTS
  EXPECT_EQ(status_of({0xF0, 0x0F, 0xBA, 0x23, 0x01}, k32), DecodeStatus::invalid);  // BT
}

TEST(Decode, LengthIsAtMostFifteenBytes) {
  Bytes fifteen(15, 0x66);
  fifteen[13] = 0x01;
  fifteen[14] = 0xC0;
  EXPECT_EQ(decoded(fifteen, k32).length, 15);
  Bytes sixteen(16, 0x66);
  sixteen[14] = 0x01;
  sixteen[15] = 0xC0;
  EXPECT_EQ(status_of(sixteen, k32), DecodeStatus::too_long);
  EXPECT_EQ(status_of(Bytes(20, 0x66), k64), DecodeStatus::too_long);
}

TEST(Decode, AsksForMoreBytesAtEachCut) {
  // 64 67 48 81 84 88 disp32 imm32
  const Bytes bytes{0x64, 0x67, 0x48, 0x81, 0x84, 0x88, 1, 2, 3, 4, 5, 6, 7, 8};
  decoded(bytes, k64);
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_EQ(status_of({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)}, k64), DecodeStatus::truncated)
        << n;
  }
}

// ---- segments ----

TEST(Decode, StackBasesUseSsUnlessOverridden) {
  EXPECT_EQ(decoded({0x8B, 0x45, 0x00}, k32).segment, kSs);
  EXPECT_EQ(decoded({0x8B, 0x04, 0x24}, k32).segment, kSs);
  EXPECT_EQ(decoded({0x8B, 0x46, 0x00}, k16).segment, kSs);  // [BP]
  EXPECT_EQ(decoded({0x8B, 0x02}, k16).segment, kSs);        // [BP+SI]
  EXPECT_EQ(decoded({0x8B, 0x05, 0, 0, 0, 0}, k32).segment, kDs);
  EXPECT_EQ(decoded({0x8B, 0x04, 0x2B}, k32).segment, kDs);  // EBP as index does not count
  EXPECT_EQ(decoded({0x3E, 0x8B, 0x45, 0x00}, k32).segment, kDs);
  EXPECT_EQ(decoded({0x41, 0x8B, 0x45, 0x00}, k64).segment, kDs);  // R13 is not RBP here
}

TEST(Decode, OnlyFsAndGsOverrideIn64BitMode) {
  EXPECT_EQ(decoded({0x26, 0x8B, 0x03}, k32).segment, kEs);
  EXPECT_EQ(decoded({0x26, 0x8B, 0x03}, k64).segment, kDs);
  EXPECT_EQ(decoded({0x65, 0x8B, 0x03}, k64).segment, kGs);
  // An ignored override does not undo FS.
  EXPECT_EQ(decoded({0x64, 0x2E, 0x8B, 0x03}, k64).segment, kFs);
  EXPECT_EQ(decoded({0x64, 0x2E, 0x8B, 0x03}, k32).segment, kCs);
  EXPECT_EQ(decoded({0x64, 0xA4}, k64).segment, kFs);  // MOVSB's source
}

// ---- registers and addresses ----

TEST(Decode, ByteRegistersFourToSevenAreHighBytesWithoutRex) {
  EXPECT_EQ(decoded({0x88, 0xE0}, k64).reg, kHighByte | 0);
  EXPECT_EQ(decoded({0x40, 0x88, 0xE0}, k64).reg, kRsp);
  EXPECT_EQ(decoded({0x88, 0xC7}, k32).rm, kHighByte | 3);
  EXPECT_EQ(decoded({0xB4, 0x01}, k64).reg, kHighByte | 0);
  EXPECT_EQ(decoded({0x40, 0xB4, 0x01}, k64).reg, kRsp);
  // MOVZX r32, AH: the source is a byte, the destination ESP.
  const Insn movzx = decoded({0x0F, 0xB6, 0xE4}, k64);
  EXPECT_EQ(movzx.reg, kRsp);
  EXPECT_EQ(movzx.rm, kHighByte | 0);
}

TEST(Decode, RipRelativeOnlyIn64BitMode) {
  const Insn insn = decoded({0x8B, 0x05, 0xF0, 0xFF, 0xFF, 0xFF}, k64);
  EXPECT_EQ(insn.base, kRipBase);
  EXPECT_EQ(insn.disp, -16);
  EXPECT_EQ(decoded({0x8B, 0x05, 0xF0, 0xFF, 0xFF, 0xFF}, k32).base, kNoRegister);
  // EIP-relative with 67; R13's encoding is RIP too (SDM vol. 2, 2.2.1.6).
  EXPECT_EQ(decoded({0x67, 0x8B, 0x05, 0, 0, 0, 0}, k64).addr_size, 4);
  EXPECT_EQ(decoded({0x41, 0x8B, 0x05, 0, 0, 0, 0}, k64).base, kRipBase);
}

TEST(Decode, SibWithoutBaseOrIndex) {
  const Insn absolute = decoded({0x8B, 0x04, 0x25, 4, 3, 2, 1}, k64);
  EXPECT_EQ(absolute.base, kNoRegister);
  EXPECT_EQ(absolute.index, kNoRegister);
  EXPECT_EQ(absolute.disp, 0x01020304);
  // REX.B does not turn it into R13, REX.X makes index 4 R12.
  EXPECT_EQ(decoded({0x41, 0x8B, 0x04, 0x25, 4, 3, 2, 1}, k64).base, kNoRegister);
  EXPECT_EQ(decoded({0x42, 0x8B, 0x04, 0x25, 4, 3, 2, 1}, k64).index, kR12);
  EXPECT_EQ(decoded({0x41, 0x8B, 0x44, 0x25, 4}, k64).base, kR13);
}

TEST(Decode, SixteenBitAddressing) {
  const Insn insn = decoded({0x8B, 0x9B, 0x34, 0xFF}, k16);  // [BP+DI-CCh]
  EXPECT_EQ(insn.base, kRbp);
  EXPECT_EQ(insn.index, kRdi);
  EXPECT_EQ(insn.disp, -0xCC);
  EXPECT_EQ(insn.addr_size, 2);
  const Insn direct = decoded({0x8B, 0x1E, 0x34, 0x12}, k16);
  EXPECT_EQ(direct.base, kNoRegister);
  EXPECT_EQ(direct.disp, 0x1234);
  EXPECT_EQ(decoded({0x67, 0x8B, 0x07}, k32).base, kRbx);
}

TEST(Decode, MoffsHasTheWidthOfAddresses) {
  const Insn insn = decoded({0xA1, 1, 2, 3, 4, 5, 6, 7, 8}, k64);
  EXPECT_EQ(insn.imm, 0x0807060504030201u);
  EXPECT_TRUE(insn.memory);
  EXPECT_EQ(decoded({0x67, 0xA1, 1, 2, 3, 4}, k64).imm, 0x04030201u);
  EXPECT_EQ(decoded({0xA0, 0xFE, 0xFF}, k16).imm, 0xFFFEu);
}

// ---- immediates ----

TEST(Decode, ImmediatesAreSignExtendedWhereTheManualSaysSo) {
  EXPECT_EQ(decoded({0x48, 0x83, 0xC0, 0xFF}, k64).imm, ~std::uint64_t{0});
  EXPECT_EQ(decoded({0x48, 0x81, 0xC0, 0xFE, 0xFF, 0xFF, 0xFF}, k64).imm, ~std::uint64_t{1});
  EXPECT_EQ(decoded({0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 0x88}, k64).imm, 0x8807060504030201u);
  EXPECT_EQ(decoded({0xC1, 0xE0, 0xFF}, k32).imm, 0xFFu);
  EXPECT_EQ(decoded({0x6A, 0x80}, k64).imm, 0xFFFFFFFFFFFFFF80u);
  const Insn enter = decoded({0xC8, 0x34, 0x12, 0x05}, k32);
  EXPECT_EQ(enter.imm, 0x1234u);
  EXPECT_EQ(enter.imm2, 5);
}

TEST(Decode, FarPointersGiveOffsetAndSelector) {
  const Insn far32 = decoded({0x9A, 1, 2, 3, 4, 0x10, 0x00}, k32);
  EXPECT_EQ(far32.imm, 0x04030201u);
  EXPECT_EQ(far32.imm2, 0x10);
  EXPECT_EQ(decoded({0xEA, 0x00, 0x7C, 0x00, 0xF0}, k16).imm2, 0xF000);
  EXPECT_EQ(status_of({0xEA, 1, 2, 3, 4, 5, 6}, k64), DecodeStatus::invalid);
}

// ---- operand sizes of their own ----

TEST(Decode, StackAndNearBranchesAre64BitIn64BitMode) {
  EXPECT_EQ(decoded({0x50}, k64).op_size, 8);
  EXPECT_EQ(decoded({0x66, 0x50}, k64).op_size, 2);
  EXPECT_EQ(decoded({0x66, 0x68, 1, 2}, k64).op_size, 2);
  EXPECT_EQ(decoded({0xC3}, k64).op_size, 8);
  EXPECT_EQ(decoded({0xFF, 0xE0}, k64).op_size, 8);
}

TEST(Decode, OperandSizePrefixIsIgnoredOnNearBranchesIn64BitModeAsIntelDoes) {
  const Insn call = decoded({0x66, 0xE8, 1, 2, 3, 4}, k64);
  EXPECT_EQ(call.op_size, 8);
  EXPECT_EQ(call.imm, 0x04030201u);
  EXPECT_EQ(decoded({0x66, 0xE8, 1, 2}, k32).op_size, 2);
  EXPECT_EQ(decoded({0x66, 0x0F, 0x84, 1, 2, 3, 4}, k64).imm, 0x04030201u);
}

TEST(Decode, ControlRegisterMovesIgnoreModAndOperandSize) {
  const Insn insn = decoded({0x0F, 0x20, 0x1B}, k64);  // mod 0: still CR3 to RBX
  EXPECT_EQ(sem_of(insn), Sem::mov_rc);
  EXPECT_FALSE(insn.memory);
  EXPECT_EQ(insn.reg, 3);
  EXPECT_EQ(insn.rm, kRbx);
  EXPECT_EQ(insn.op_size, 8);
  EXPECT_EQ(decoded({0x66, 0x0F, 0x22, 0xC0}, k32).op_size, 4);
  EXPECT_EQ(decoded({0x44, 0x0F, 0x20, 0xC0}, k64).reg, 8);
  EXPECT_EQ(status_of({0x0F, 0x20, 0xC8}, k64), DecodeStatus::invalid);        // CR1
  EXPECT_EQ(status_of({0x44, 0x0F, 0x21, 0xC0}, k64), DecodeStatus::invalid);  // DR8
}

TEST(Decode, SegmentRegistersSixAndSevenAndLoadOfCsAreInvalid) {
  EXPECT_EQ(sem_of({0x8E, 0xD8}, k32), Sem::mov_se);
  EXPECT_EQ(status_of({0x8E, 0xC8}, k32), DecodeStatus::invalid);
  EXPECT_EQ(sem_of({0x8C, 0xC8}, k32), Sem::mov_es);
  EXPECT_EQ(status_of({0x8C, 0xF0}, k32), DecodeStatus::invalid);
  EXPECT_EQ(decoded({0x44, 0x8E, 0xD8}, k64).reg, kDs);  // REX.R does not count
}

TEST(Decode, ConditionAndFixedSegmentAreInImm2) {
  EXPECT_EQ(decoded({0x7F, 0x00}, k32).imm2, 15);
  EXPECT_EQ(decoded({0x0F, 0x94, 0xC0}, k32).imm2, 4);
  EXPECT_EQ(decoded({0x0F, 0x42, 0xC1}, k32).imm2, 2);
  EXPECT_EQ(decoded({0x1E}, k32).imm2, kDs);
  EXPECT_EQ(decoded({0xC4, 0x03}, k32).imm2, kEs);
  EXPECT_EQ(decoded({0x0F, 0xA9}, k64).imm2, kGs);
}

// ---- opcodes with a story ----

TEST(Decode, NinetyIsNopPauseOrXchg) {
  EXPECT_EQ(sem_of({0x90}, k64), Sem::nop);
  EXPECT_EQ(sem_of({0x66, 0x90}, k64), Sem::nop);
  EXPECT_EQ(sem_of({0x48, 0x90}, k64), Sem::nop);
  EXPECT_EQ(sem_of({0xF3, 0x90}, k64), Sem::pause);
  EXPECT_EQ(sem_of({0x41, 0x90}, k64), Sem::xchg_za);
  EXPECT_EQ(sem_of({0xF3, 0x41, 0x90}, k64), Sem::xchg_za);  // observed on an AMD EPYC
}

TEST(Decode, HintNopsTakeAnyOperand) {
  for (unsigned opcode = 0x18; opcode <= 0x1F; ++opcode) {
    for (const CodeSize size : {k16, k32, k64}) {
      EXPECT_EQ(sem_of({0x0F, static_cast<std::uint8_t>(opcode), 0xC0}, size), Sem::nop);
      EXPECT_EQ(sem_of({0x0F, static_cast<std::uint8_t>(opcode), 0x38}, size), Sem::nop);
    }
  }
  EXPECT_EQ(name_of({0xF3, 0x0F, 0x1E, 0xFA}, k64), "ENDBR64");
  EXPECT_EQ(name_of({0xF3, 0x0F, 0x1E, 0xFB}, k32), "ENDBR32");
}

TEST(Decode, UndocumentedAliases) {
  EXPECT_EQ(sem_of({0x82, 0xC0, 0x01}, k32), Sem::add_ei);
  EXPECT_EQ(status_of({0x82, 0xC0, 0x01}, k64), DecodeStatus::invalid);
  EXPECT_EQ(sem_of({0xD6}, k16), Sem::salc);
  EXPECT_EQ(status_of({0xD6}, k64), DecodeStatus::invalid);
  EXPECT_EQ(sem_of({0xF1}, k64), Sem::int1);
  EXPECT_EQ(sem_of({0xF6, 0xC8, 0x01}, k64), Sem::test_ei);
  EXPECT_EQ(sem_of({0xC0, 0xF0, 0x01}, k64), Sem::shl_ei);
  EXPECT_EQ(sem_of({0xDC, 0xD1}, k64), Sem::fcom_0i);
  EXPECT_EQ(sem_of({0xDF, 0xC1}, k64), Sem::ffreep_i);
}

TEST(Decode, SixtyThreeIsArplOrMovsxd) {
  EXPECT_EQ(sem_of({0x63, 0xC1}, k32), Sem::arpl_eg);
  EXPECT_EQ(sem_of({0x48, 0x63, 0xC1}, k64), Sem::movsxd_ge);
}

TEST(Decode, CountRegisterOfJcxzFollowsTheAddressSize) {
  EXPECT_EQ(name_of({0xE3, 0x00}, k16), "JCXZ");
  EXPECT_EQ(name_of({0x67, 0xE3, 0x00}, k16), "JECXZ");
  EXPECT_EQ(name_of({0xE3, 0x00}, k32), "JECXZ");
  EXPECT_EQ(name_of({0xE3, 0x00}, k64), "JRCXZ");
  EXPECT_EQ(name_of({0x67, 0xE3, 0x00}, k64), "JECXZ");
}

TEST(Decode, RexWTurnsFormsIntoOthers) {
  EXPECT_EQ(name_of({0x0F, 0xC7, 0x0B}, k64), "CMPXCHG8B");
  EXPECT_EQ(name_of({0x48, 0x0F, 0xC7, 0x0B}, k64), "CMPXCHG16B");
  EXPECT_EQ(name_of({0x48, 0x98}, k64), "CDQE");
  EXPECT_EQ(name_of({0x66, 0x98}, k64), "CBW");
  EXPECT_EQ(name_of({0x9C}, k64), "PUSHFQ");
  EXPECT_EQ(name_of({0x66, 0x9C}, k64), "PUSHF");
  EXPECT_EQ(name_of({0xCF}, k64), "IRETD");
  EXPECT_EQ(name_of({0x48, 0xCF}, k64), "IRETQ");
}

TEST(Decode, InvalidIn64BitMode) {
  for (const std::uint8_t opcode :
       Bytes{0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0xCE}) {
    EXPECT_EQ(status_of({opcode, 0, 0, 0, 0, 0, 0}, k64), DecodeStatus::invalid) << int{opcode};
    Insn insn;
    EXPECT_EQ(decode(Bytes{opcode}, k32, insn), DecodeStatus::ok) << int{opcode};
  }
}

// ---- VEX ----

TEST(Decode, VexAndLesShareTheirOpcodesOutside64BitMode) {
  EXPECT_EQ(name_of({0xC5, 0xF8, 0x28, 0xC1}, k32), "VMOVAPS");
  EXPECT_EQ(name_of({0xC5, 0x38}, k32), "LDS");
  EXPECT_EQ(name_of({0xC5, 0x78, 0x28, 0xC1}, k64), "VMOVAPS");  // R inverted: XMM8
  EXPECT_EQ(decoded({0xC5, 0x78, 0x28, 0xC1}, k64).reg, 8);
}

TEST(Decode, VexAfterLegacyPrefixesIsInvalid) {
  for (const std::uint8_t prefix : Bytes{0x66, 0xF2, 0xF3, 0xF0, 0x48}) {
    EXPECT_EQ(status_of({prefix, 0xC5, 0xF8, 0x28, 0xC1}, k64), DecodeStatus::invalid) << int{prefix};
  }
  EXPECT_EQ(decoded({0x64, 0xC5, 0xF8, 0x28, 0x01}, k64).segment, kFs);
}

TEST(Decode, UnusedVvvvMustBeAllOnes) {
  EXPECT_EQ(status_of({0xC5, 0xF0, 0x28, 0xC1}, k64), DecodeStatus::invalid);
  const Insn add = decoded({0xC5, 0xE4, 0x58, 0xC1}, k64);  // VADDPS ymm0, ymm3, ymm1
  EXPECT_EQ(add.vvvv, 3);
  EXPECT_EQ(add.vector_bytes, 32);
}

TEST(Decode, VexMapsBeyondThreeAreInvalid) {
  EXPECT_EQ(status_of({0xC4, 0xE0, 0x78, 0x28, 0xC1}, k64), DecodeStatus::invalid);
  EXPECT_EQ(status_of({0xC4, 0xE5, 0x78, 0x28, 0xC1}, k64), DecodeStatus::invalid);
}

TEST(Decode, VexWMakes64BitOperandsOnlyIn64BitMode) {
  EXPECT_EQ(decoded({0xC4, 0xE2, 0xF0, 0xF2, 0xC2}, k64).op_size, 8);
  EXPECT_EQ(decoded({0xC4, 0xE2, 0xF0, 0xF2, 0xC2}, k32).op_size, 4);
}

TEST(Decode, GathersNeedASibByteAndThreeDifferentRegisters) {
  const Insn insn = decoded({0xC4, 0xE2, 0x71, 0x92, 0x14, 0x23}, k64);  // VGATHERDPS xmm2, [rbx+xmm4], xmm1
  EXPECT_EQ(insn.index, 4);
  EXPECT_EQ(insn.base, kRbx);
  EXPECT_EQ(status_of({0xC4, 0xE2, 0x71, 0x92, 0x13}, k64), DecodeStatus::invalid);        // no SIB
  EXPECT_EQ(status_of({0xC4, 0xE2, 0x71, 0x92, 0x14, 0x13}, k64), DecodeStatus::invalid);  // index is the destination
  EXPECT_EQ(status_of({0xC4, 0xE2, 0x71, 0x92, 0x0C, 0x23}, k64), DecodeStatus::invalid);  // mask is the destination
  EXPECT_EQ(status_of({0x67, 0xC4, 0xE2, 0x71, 0x92, 0x14}, k32), DecodeStatus::invalid);  // 16-bit addressing
}

TEST(Decode, WhatTheTableLeavesOutIsInvalid) {
  EXPECT_EQ(status_of({0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1}, k64), DecodeStatus::invalid);  // EVEX
  EXPECT_EQ(status_of({0x8F, 0xE8, 0x78, 0xC2, 0xC1, 0x01}, k64), DecodeStatus::invalid);  // XOP
  EXPECT_EQ(status_of({0x0F, 0x0F, 0xC1, 0x9E}, k64), DecodeStatus::invalid);              // 3DNow!
  EXPECT_EQ(status_of({0xC7, 0xF8, 0, 0, 0, 0}, k64), DecodeStatus::invalid);              // XBEGIN
}

// ---- the table's facts ----

TEST(Forms, FlagsOfAShiftAreThoseOfTheManual) {
  const Form& shl = forms()[decoded({0xD1, 0xE0}, k32).form];
  EXPECT_EQ(shl.flags_written, kOF | kSF | kZF | kPF | kCF);
  EXPECT_EQ(shl.flags_undefined, kAF);
  const Form& logic = forms()[decoded({0x21, 0xC0}, k32).form];
  EXPECT_EQ(logic.flags_cleared, kOF | kCF);
  EXPECT_EQ(logic.flags_written, kOF | kCF | kSF | kZF | kPF);
}

TEST(Forms, ConditionsReadTheirFlags) {
  EXPECT_EQ(forms()[decoded({0x74, 0x00}, k32).form].flags_read, kZF);
  EXPECT_EQ(forms()[decoded({0x7E, 0x00}, k32).form].flags_read, kZF | kSF | kOF);
  EXPECT_EQ(forms()[decoded({0x0F, 0x96, 0xC0}, k32).form].flags_read, kCF | kZF);
}

TEST(Forms, NamesOfSemanticsAreUnique) {
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < sem_count(); ++i) names.push_back(sem_name(static_cast<Sem>(i)));
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
  EXPECT_EQ(sem_name(Sem::add_eg), "add_eg");
}

TEST(Features, AreFoundByTheNamesOfOtherPrograms) {
  EXPECT_EQ(feature_named("sse4.2"), Feature::sse4_2);
  EXPECT_EQ(feature_named("TSC-deadline"), Feature::tsc_deadline);
  EXPECT_EQ(feature_named("nonesuch"), std::nullopt);
  EXPECT_EQ(feature_info(Feature::avx2).leaf, 7u);
  EXPECT_EQ(feature_info(Feature::avx2).bit, 5);
}

}  // namespace
}  // namespace husk::cpu
