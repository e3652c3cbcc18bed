// husk: tests of FXSAVE and the XSAVE family against SDM vol. 1, chapters 10 and 13
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class Xsave : public CoreFixture {
 protected:
  static constexpr std::uint64_t kArea = CoreFixture::kData;
  void SetUp() override {
    long_mode();
    with_state([](CpuState& s) {
      s.cr4 |= kCr4Osxsave;
      s.xcr0 = 7;
      s.x87.control = 0x37F;
      s.x87.tag = 0xFFFF;
      s.gpr[kRdi] = kArea;
      s.gpr[kRax] = 7;
      s.gpr[kRdx] = 0;
    });
    std::memset(ram->data() + kArea, 0xCC, 4096);
    std::memset(ram->data() + kArea + 512, 0, 64);
  }
  void fill(unsigned reg, std::uint8_t value, unsigned from, unsigned to) {
    std::fill(core->s.vector[reg].bytes.begin() + from, core->s.vector[reg].bytes.begin() + to, value);
  }
  std::uint64_t bv() { return get<std::uint64_t>(kArea + 512); }
  std::uint64_t comp() { return get<std::uint64_t>(kArea + 520); }
  auto xsave() { return step({0x48, 0x0F, 0xAE, 0x27}); }
  auto xsaveopt() { return step({0x48, 0x0F, 0xAE, 0x37}); }
  auto xsavec() { return step({0x48, 0x0F, 0xC7, 0x27}); }
  auto xsaves() { return step({0x48, 0x0F, 0xC7, 0x2F}); }
  auto xrstor() { return step({0x48, 0x0F, 0xAE, 0x2F}); }
  auto xrstors() { return step({0x48, 0x0F, 0xC7, 0x1F}); }
};

TEST_F(Xsave, FxsaveLayout) {
  core->s.x87.status = 3 << 11;  // TOP = 3
  core->s.x87.tag = 0xFFFF & ~(3u << 6);
  core->s.x87.registers[3] = {0x8000000000000000, 0x3FFF};
  core->s.mxcsr = 0x1FA0;
  fill(15, 0xAB, 0, 16);
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  EXPECT_EQ(get<std::uint16_t>(kArea), 0x37Fu);
  EXPECT_EQ(get<std::uint16_t>(kArea + 2), 0x1800u);
  EXPECT_EQ(get<std::uint8_t>(kArea + 4), 0x08u) << "abridged tag: one bit a physical register";
  EXPECT_EQ(get<std::uint32_t>(kArea + 24), 0x1FA0u);
  EXPECT_EQ(get<std::uint64_t>(kArea + 32), 0x8000000000000000u) << "ST0 first";
  EXPECT_EQ(get<std::uint16_t>(kArea + 40), 0x3FFFu);
  EXPECT_EQ(get<std::uint8_t>(kArea + 160 + 15 * 16), 0xABu);
  EXPECT_EQ(get<std::uint8_t>(kArea + 416), 0xCCu) << "the last 96 bytes are not written";
}
// APM vol. 5, FXSAVE; measured on a Zen 4: zeros without a pending exception, the pointers with one.
TEST_F(Xsave, AmdStoresPointersOfAPendingExceptionOnly) {
  ASSERT_EQ(core->model.vendor, "AuthenticAMD");
  const auto set = [&] {
    core->s.x87.opcode = 0x123;
    core->s.x87.ip = 0x1111222233;
    core->s.x87.dp = 0x5555666677;
  };
  set();
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  EXPECT_EQ(get<std::uint16_t>(kArea + 6), 0u);
  EXPECT_EQ(get<std::uint64_t>(kArea + 8), 0u);
  EXPECT_EQ(get<std::uint64_t>(kArea + 16), 0u);
  core->s.x87.control = 0x37B;
  core->s.x87.status = 0x8084;
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  EXPECT_EQ(get<std::uint16_t>(kArea + 6), 0x123u);
  EXPECT_EQ(get<std::uint64_t>(kArea + 8), 0x1111222233u);
  EXPECT_EQ(get<std::uint64_t>(kArea + 16), 0x5555666677u);
  ASSERT_FALSE(xsave().has_value());
  EXPECT_EQ(get<std::uint64_t>(kArea + 8), 0x1111222233u);
  core->s.x87.control = 0x37F;
  core->s.x87.status = 0;
  ASSERT_FALSE(xsave().has_value());
  EXPECT_EQ(get<std::uint64_t>(kArea + 8), 0u);
}
// CPUID 8000_0008:EBX[2] RstrFpErrPtrs, which "max" has: loaded whether or not an exception is pending.
TEST_F(Xsave, FxrstorLoadsPointersWhereTheModelSaysSo) {
  ASSERT_TRUE(core->model.has(Feature::xsaveerptr));
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  put<std::uint16_t>(kArea + 6, 0x123);
  put<std::uint64_t>(kArea + 8, 0x1111222233);
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x0F}).has_value());
  EXPECT_EQ(core->s.x87.opcode, 0x123u);
  EXPECT_EQ(core->s.x87.ip, 0x1111222233u);
}
// APM vol. 1, 4.2.2: MM (bit 17) exists with misaligned SSE, so the mask has it.
TEST_F(Xsave, MxcsrMaskFollowsMisalignedSse) {
  ASSERT_TRUE(core->model.has(Feature::misalignsse));
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  EXPECT_EQ(get<std::uint32_t>(kArea + 28), 0x2FFFFu);
}
TEST_F(Xsave, FxrstorBringsItBack) {
  core->s.x87.registers[5] = {0xC000000000000000, 0xC000};
  core->s.x87.tag = 0xFFFF & ~(3u << 10);
  fill(7, 0x5A, 0, 16);
  const CpuState before = core->s;
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x07}).has_value());
  core->s.x87 = X87State{};
  fill(7, 0, 0, 16);
  ASSERT_FALSE(step({0x48, 0x0F, 0xAE, 0x0F}).has_value());
  EXPECT_EQ(core->s.x87.registers, before.x87.registers);
  EXPECT_EQ(core->s.x87.tag, before.x87.tag);
  EXPECT_EQ(core->s.vector[7], before.vector[7]);
}
TEST_F(Xsave, MisalignedAndReservedMxcsrFault) {
  core->s.gpr[kRdi] = kArea + 8;
  expect_fault(step({0x48, 0x0F, 0xAE, 0x07}), kGP, 0);
  SetUp();
  put<std::uint32_t>(kArea + 24, 0x80000000);
  expect_fault(step({0x48, 0x0F, 0xAE, 0x0F}), kGP, 0);
}
TEST_F(Xsave, NeedsOsxsaveAndNoTs) {
  with_state([](CpuState& s) { s.cr4 &= ~std::uint64_t{kCr4Osxsave}; });
  expect_fault(xsave(), kUD);
  SetUp();
  with_state([](CpuState& s) { s.cr0 |= kCr0Ts; });
  expect_fault(xsave(), kNM);
  SetUp();
  core->s.gpr[kRdi] = kArea + 32;
  expect_fault(xsave(), kGP, 0);
}
TEST_F(Xsave, StandardFormWritesWhatIsAskedAndKeepsOtherBits) {
  fill(0, 0x11, 0, 16);
  fill(0, 0x22, 16, 32);
  put<std::uint64_t>(kArea + 512, 1);  // an old x87 bit
  core->s.gpr[kRax] = 6;
  ASSERT_FALSE(xsave().has_value());
  EXPECT_EQ(bv(), 7u);
  EXPECT_EQ(get<std::uint8_t>(kArea + 160), 0x11u);
  EXPECT_EQ(get<std::uint8_t>(kArea + 576), 0x22u);
  EXPECT_EQ(get<std::uint8_t>(kArea), 0xCCu) << "x87 was not asked for";
  EXPECT_EQ(get<std::uint32_t>(kArea + 24), 0x1F80u);
}
TEST_F(Xsave, BvShowsInitialState) {
  ASSERT_FALSE(xsave().has_value());
  EXPECT_EQ(bv(), 0u);
  EXPECT_EQ(get<std::uint8_t>(kArea + 576), 0u) << "XSAVE writes initial components too";
}
TEST_F(Xsave, OptimisedFormSkipsInitialComponents) {
  ASSERT_FALSE(xsaveopt().has_value());
  EXPECT_EQ(bv(), 0u);
  EXPECT_EQ(get<std::uint8_t>(kArea + 576), 0xCCu);
}
TEST_F(Xsave, CompactFormPacks) {
  with_state([](CpuState& s) {
    s.xcr0 = 7 | (1u << 9);
    s.pkru = 0xABCD;
    s.gpr[kRax] = 1u << 9;
  });
  ASSERT_FALSE(xsavec().has_value());
  EXPECT_EQ(comp(), (std::uint64_t{1} << 63) | (1u << 9));
  EXPECT_EQ(bv(), 1u << 9);
  EXPECT_EQ(get<std::uint32_t>(kArea + 576), 0xABCDu) << "without AVX it comes first";
  core->s.gpr[kRax] = 7 | (1u << 9);
  ASSERT_FALSE(xsavec().has_value());
  EXPECT_EQ(get<std::uint32_t>(kArea + 576 + 256), 0xABCDu) << "behind AVX, which is asked for but not in use";
  EXPECT_EQ(get<std::uint64_t>(kArea + 576 + 256 + 4), 0xCCCCCCCC00000000u);
}
TEST_F(Xsave, StandardPkruOffsetIsThatOfCpuid) {
  with_state([](CpuState& s) {
    s.xcr0 = 7 | (1u << 9);
    s.pkru = 0xABCD;
    s.gpr[kRax] = 1u << 9;
  });
  ASSERT_FALSE(xsave().has_value());
  const CpuidResult leaf = cpuid(model, {.xcr0 = 0x207}, 0xD, 9);
  EXPECT_EQ(get<std::uint32_t>(kArea + leaf.ebx), 0xABCDu);
  EXPECT_EQ(leaf.eax, 8u);
}
TEST_F(Xsave, CompactFormCountsMxcsrAsSse) {
  core->s.mxcsr = 0x1FA0;
  ASSERT_FALSE(xsavec().has_value());
  EXPECT_EQ(bv(), 2u);
  EXPECT_EQ(get<std::uint32_t>(kArea + 24), 0x1FA0u);
}
TEST_F(Xsave, RestoreInitialisesWhatBvLacks) {
  fill(3, 0x33, 0, 32);
  core->s.x87.control = 0x27F;
  put<std::uint32_t>(kArea + 24, 0x1F80);
  ASSERT_FALSE(xrstor().has_value());
  EXPECT_EQ(core->s.vector[3], VectorRegister{});
  EXPECT_EQ(core->s.x87.control, 0x37F);
}
TEST_F(Xsave, RestoreLeavesWhatIsNotAsked) {
  fill(3, 0x33, 0, 32);
  core->s.gpr[kRax] = 2;
  put<std::uint32_t>(kArea + 24, 0x1F80);
  ASSERT_FALSE(xrstor().has_value());
  EXPECT_EQ(core->s.vector[3].bytes[0], 0);
  EXPECT_EQ(core->s.vector[3].bytes[16], 0x33);
}
TEST_F(Xsave, StandardRestoreLoadsMxcsrEvenWithoutBv) {
  put<std::uint32_t>(kArea + 24, 0x1FC0);
  ASSERT_FALSE(xrstor().has_value());
  EXPECT_EQ(core->s.mxcsr, 0x1FC0u);
}
TEST_F(Xsave, CompactRestoreInitialisesMxcsrWithSse) {
  core->s.mxcsr = 0x1FC0;
  put<std::uint64_t>(kArea + 520, (std::uint64_t{1} << 63) | 7);
  ASSERT_FALSE(xrstor().has_value());
  EXPECT_EQ(core->s.mxcsr, 0x1F80u);
}
TEST_F(Xsave, RoundTripOfEachForm) {
  for (unsigned i = 0; i < 16; ++i) fill(i, static_cast<std::uint8_t>(0x10 + i), 0, 32);
  core->s.x87.control = 0x27F;
  const CpuState before = core->s;
  for (const bool compact : {false, true}) {
    core->s.rip = kCode;
    ASSERT_FALSE((compact ? xsaves() : xsave()).has_value());
    for (unsigned i = 0; i < 16; ++i) fill(i, 0, 0, 32);
    core->s.x87.control = 0x37F;
    ASSERT_FALSE((compact ? xrstors() : xrstor()).has_value());
    EXPECT_EQ(core->s.vector, before.vector);
    EXPECT_EQ(core->s.x87.control, before.x87.control);
  }
}
TEST_F(Xsave, HeadersAreChecked) {
  const auto refused = [&](std::uint64_t bv_value, std::uint64_t comp_value, std::uint64_t third, bool supervisor) {
    SetUp();
    put<std::uint32_t>(kArea + 24, 0x1F80);
    put<std::uint64_t>(kArea + 512, bv_value);
    put<std::uint64_t>(kArea + 520, comp_value);
    put<std::uint64_t>(kArea + 528, third);
    const auto event = supervisor ? xrstors() : xrstor();
    return event && event->vector == kGP;
  };
  constexpr std::uint64_t kCompact = std::uint64_t{1} << 63;
  EXPECT_TRUE(refused(8, 0, 0, false)) << "BV beyond XCR0";
  EXPECT_TRUE(refused(1, 1, 0, false)) << "XCOMP_BV without bit 63";
  EXPECT_TRUE(refused(1, 0, 1, false)) << "bytes 23:16 of the header";
  EXPECT_TRUE(refused(1, kCompact | 8, 0, false)) << "XCOMP_BV beyond XCR0";
  EXPECT_TRUE(refused(4, kCompact | 3, 0, false)) << "BV beyond XCOMP_BV";
  EXPECT_TRUE(refused(1, 0, 0, true)) << "XRSTORS takes the compact form only";
  EXPECT_FALSE(refused(3, kCompact | 7, 0, true));
  EXPECT_FALSE(refused(3, 0, 0, false));
}
TEST_F(Xsave, AcrossAPageNothingIsWrittenIfTheSecondFaults) {
  core->s.gpr[kRdi] = 0x7FFFC0;  // the next page is not mapped
  std::memset(ram->data() + 0x7FFFC0, 0xCC, 64);
  expect_fault(xsave(), kPF_, 2);
  EXPECT_EQ(core->s.cr2, 0x800000u);
  EXPECT_EQ(get<std::uint64_t>(0x7FFFC0), 0xCCCCCCCCCCCCCCCCu);
}
TEST_F(Xsave, XsetbvChecksCombinations) {
  const auto refused = [&](std::uint64_t value, std::uint64_t index = 0) {
    SetUp();
    core->s.gpr[kRcx] = index;
    core->s.gpr[kRax] = static_cast<std::uint32_t>(value);
    core->s.gpr[kRdx] = value >> 32;
    const auto event = step({0x0F, 0x01, 0xD1});
    return event && event->vector == kGP;
  };
  EXPECT_TRUE(refused(0)) << "x87 is always on";
  EXPECT_TRUE(refused(5)) << "AVX needs SSE";
  EXPECT_TRUE(refused(0xE7)) << "no AVX-512";
  EXPECT_TRUE(refused(std::uint64_t{1} << 62 | 7));
  EXPECT_TRUE(refused(7, 1));
  EXPECT_FALSE(refused(7));
  EXPECT_FALSE(refused(0x207));
}
TEST_F(Xsave, XgetbvOneShowsWhatIsInUse) {
  fill(2, 1, 16, 32);
  core->s.gpr[kRcx] = 1;
  ASSERT_FALSE(step({0x0F, 0x01, 0xD0}).has_value());
  EXPECT_EQ(core->s.gpr[kRax], 4u);
}

}  // namespace
}  // namespace husk::cpu::interp
