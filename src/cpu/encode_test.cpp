// husk: every form of the table can be written and is read back as itself
#include "cpu/encode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

namespace husk::cpu {
namespace {

constexpr CodeSize kCodeSizes[] = {CodeSize::bits16, CodeSize::bits32, CodeSize::bits64};

std::string describe(const Insn& insn, CodeSize size) {
  const Form& form = forms()[insn.form];
  return fmt::format("{} '{}' in {}-bit code, op_size {} addr_size {} reg {} rm {} memory {} base {} index {}",
                     form.mnemonic, form.encoding, 16u << static_cast<unsigned>(size), insn.op_size, insn.addr_size,
                     insn.reg, insn.rm, insn.memory, insn.base, insn.index);
}

/// The fields that the form uses come back as they were.
void expect_round_trip(const Insn& insn, CodeSize size) {
  const auto encoded = encode(insn, size);
  ASSERT_TRUE(encoded) << describe(insn, size);
  Insn back;
  ASSERT_EQ(decode(encoded->span(), size, back), DecodeStatus::ok) << describe(insn, size);
  const std::string what = describe(insn, size);
  const FormShape shape = shape_of(insn.form, size);
  EXPECT_EQ(back.form, insn.form) << what;
  EXPECT_EQ(back.length, encoded->length) << what;
  EXPECT_EQ(back.op_size, insn.op_size) << what;
  EXPECT_EQ(back.addr_size, insn.addr_size) << what;
  EXPECT_EQ(back.imm, insn.imm) << what;
  EXPECT_EQ(back.imm2, insn.imm2) << what;
  EXPECT_EQ(back.reg, insn.reg) << what;
  EXPECT_EQ(back.memory, insn.memory) << what;
  EXPECT_EQ(back.segment, insn.segment) << what;
  EXPECT_EQ(back.lock, insn.lock) << what;
  EXPECT_EQ(back.rep, insn.rep) << what;
  EXPECT_EQ(back.vvvv, insn.vvvv) << what;
  if (!insn.memory) {
    if (shape.register_rm) {
      EXPECT_EQ(back.rm, insn.rm) << what;
    }
    return;
  }
  EXPECT_EQ(back.base, insn.base) << what;
  EXPECT_EQ(back.index, insn.index) << what;
  EXPECT_EQ(back.scale, insn.scale) << what;
  EXPECT_EQ(back.disp, insn.disp) << what;
}

/// One byte that any immediate can hold and that sign extension leaves alone.
void give_immediate(Insn& insn) {
  for (const Operand& operand : forms()[insn.form].operands) {
    if (operand.kind == OperandKind::imm || operand.kind == OperandKind::rel || operand.kind == OperandKind::moffs ||
        operand.kind == OperandKind::far_ptr) {
      insn.imm = 0x35;
    }
    if (operand.kind == OperandKind::far_ptr) insn.imm2 = 0x1234;
    if (operand.kind == OperandKind::vec_is4) {
      insn.imm2 = 6;
      insn.imm = 0x60;
    }
  }
}

TEST(Encode, EveryFormIsReachableInSomeCodeSize) {
  for (std::uint16_t form = 0; form < forms().size(); ++form) {
    unsigned found = 0;
    for (const CodeSize size : kCodeSizes) {
      auto insn = example(form, size);
      if (!insn) continue;
      ++found;
      give_immediate(*insn);
      expect_round_trip(*insn, size);
    }
    EXPECT_GT(found, 0u) << forms()[form].mnemonic << " " << forms()[form].encoding;
  }
}

TEST(Encode, EveryOperandAndAddressSizeComesBack) {
  for (std::uint16_t form = 0; form < forms().size(); ++form) {
    for (const CodeSize size : kCodeSizes) {
      auto insn = example(form, size);
      if (!insn) continue;
      const FormShape shape = shape_of(form, size);
      give_immediate(*insn);
      for (unsigned op_size = 1; op_size <= 8; op_size *= 2) {
        if (!(shape.op_sizes & op_size)) continue;
        insn->op_size = static_cast<std::uint8_t>(op_size);
        for (unsigned address = 2; address <= 8; address *= 2) {
          if (!(shape.addr_sizes & address)) continue;
          insn->addr_size = static_cast<std::uint8_t>(address);
          expect_round_trip(*insn, size);
        }
      }
    }
  }
}

TEST(Encode, EveryMemoryFormTakesEveryAddressing) {
  struct Address {
    std::uint8_t base, index, scale;
    std::int32_t disp;
  };
  constexpr Address kAddresses[] = {
      {kRbx, kRsi, 0, 0},         {kRbp, kRdi, 0, 5},          {kRbp, kNoRegister, 0, 0},
      {kRdi, kNoRegister, 0, -3}, {kRbx, kNoRegister, 0, 300}, {kNoRegister, kNoRegister, 0, 0x1234},
      {kRsp, kNoRegister, 0, 0},  {kRax, kRbp, 3, 70000},      {kNoRegister, kRdx, 2, 9},
      {kR13, kR12, 1, 0},         {kR12, kNoRegister, 0, 0},   {kRipBase, kNoRegister, 0, -100},
  };
  for (std::uint16_t form = 0; form < forms().size(); ++form) {
    for (const CodeSize size : kCodeSizes) {
      auto insn = example(form, size);
      const FormShape shape = shape_of(form, size);
      if (!insn || !shape.memory) continue;
      give_immediate(*insn);
      insn->rm = 0;
      insn->memory = true;
      for (const Address& a : kAddresses) {
        if (shape.vsib && (a.index == kNoRegister || a.base == kRipBase)) continue;
        insn->base = a.base;
        insn->index = a.index;
        insn->scale = a.scale;
        insn->disp = a.disp;
        insn->segment = a.base == kRsp || a.base == kRbp ? kSs : kDs;
        const bool extended = (a.base >= 8 && a.base < 16) || (a.index >= 8 && a.index < 16);
        if (size != CodeSize::bits64 && (extended || a.base == kRipBase)) continue;
        if (shape.vsib && a.index == insn->reg) continue;
        const bool fits16 = &a - kAddresses < 6;
        if (insn->addr_size == 2 && !fits16) continue;
        expect_round_trip(*insn, size);
        insn->segment = kFs;
        expect_round_trip(*insn, size);
      }
    }
  }
}

TEST(Encode, RefusesWhatHasNoEncoding) {
  const auto form_with = [](std::string_view encoding) {
    for (std::uint16_t form = 0; form < forms().size(); ++form) {
      if (forms()[form].encoding == encoding) return form;
    }
    ADD_FAILURE() << encoding;
    return std::uint16_t{0};
  };
  // MOV AH, R8B: REX takes AH away.
  Insn insn = *example(form_with("88 /r"), CodeSize::bits64);
  insn.rm = kHighByte;
  insn.reg = kR8;
  EXPECT_FALSE(encode(insn, CodeSize::bits64));
  insn.reg = kRcx;
  EXPECT_TRUE(encode(insn, CodeSize::bits64));
  // R8 outside 64-bit mode.
  insn = *example(form_with("89 /r"), CodeSize::bits32);
  insn.reg = kR8;
  EXPECT_FALSE(encode(insn, CodeSize::bits32));
  // LOCK on a register destination.
  insn = *example(form_with("01 /r"), CodeSize::bits32);
  insn.lock = true;
  EXPECT_FALSE(encode(insn, CodeSize::bits32));
  insn.memory = true;
  insn.base = kRbx;
  EXPECT_TRUE(encode(insn, CodeSize::bits32));
  // XCHG EAX, EAX is NOP.
  insn = *example(form_with("90+r"), CodeSize::bits32);
  insn.reg = kRax;
  EXPECT_FALSE(encode(insn, CodeSize::bits32));
}

}  // namespace
}  // namespace husk::cpu
