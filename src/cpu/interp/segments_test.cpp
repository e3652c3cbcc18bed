// husk: tests of segment loads and of instructions on descriptors, against SDM vol. 2 and vol. 3, chapter 5
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class Segments : public CoreFixture {
 protected:
  /// Loads `seg` with the free GDT entry after it was set to `value`; `rpl` goes into the selector.
  bool load(unsigned seg, std::uint64_t value, unsigned rpl = 0) {
    set_descriptor(kFree, value);
    return core->load_segment(seg, static_cast<std::uint16_t>(kFree | rpl));
  }
  void expect_refused(unsigned seg, std::uint64_t value, std::uint8_t vector, unsigned rpl = 0) {
    const Segment before = core->s.seg[seg];
    EXPECT_FALSE(load(seg, value, rpl));
    EXPECT_EQ(core->fault().vector, vector);
    EXPECT_EQ(core->fault().error, unsigned{kFree});
    EXPECT_EQ(core->s.seg[seg], before) << "a faulting load changes nothing";
  }
};

TEST_F(Segments, LoadFillsTheHiddenPartAndSetsAccessed) {
  protected_mode();
  ASSERT_TRUE(load(kDs, make_descriptor(0x12345678, 0x00FFF, kData16)));
  EXPECT_EQ(core->s.seg[kDs].base, 0x12345678u);
  EXPECT_EQ(core->s.seg[kDs].limit, 0xFFFu);
  EXPECT_EQ(descriptor(kFree) >> 40 & 1, 1u);
  ASSERT_TRUE(load(kEs, make_descriptor(0, 0x12345, kData32)));
  EXPECT_EQ(core->s.seg[kEs].limit, 0x12345FFFu) << "granularity: 4 KiB units, low bits ones";
}
TEST_F(Segments, NotPresentIsNpOrSs) {
  protected_mode();
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, kData32 & ~0x80), kNP);
  expect_refused(kSs, make_descriptor(0, 0xFFFFF, kData32 & ~0x80), kSS_);
}
TEST_F(Segments, DataRegistersTakeReadableSegmentsOnly) {
  protected_mode();
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, 0xC098), kGP);  // execute-only code
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, kTss32), kGP);
  EXPECT_TRUE(load(kDs, make_descriptor(0, 0xFFFFF, kCode32)));
}
TEST_F(Segments, StackRegisterTakesWritableDataOfItsOwnLevelOnly) {
  protected_mode();
  expect_refused(kSs, make_descriptor(0, 0xFFFFF, 0xC090), kGP);  // read-only
  expect_refused(kSs, make_descriptor(0, 0xFFFFF, kCode32), kGP);
  expect_refused(kSs, make_descriptor(0, 0xFFFFF, kData32 | kDpl3), kGP);
  expect_refused(kSs, make_descriptor(0, 0xFFFFF, kData32), kGP, 1);  // RPL is not CPL
  EXPECT_TRUE(load(kSs, make_descriptor(0, 0xFFFFF, kData32)));
}
TEST_F(Segments, PrivilegeOfDataSegmentsIsChecked) {
  protected_mode(3);
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, kData32), kGP);
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, kData32 | kDpl2), kGP, 3);
  EXPECT_TRUE(load(kDs, make_descriptor(0, 0xFFFFF, kData32 | kDpl3), 3));
  EXPECT_TRUE(load(kDs, make_descriptor(0, 0xFFFFF, 0xC09E), 3)) << "conforming code is open to all";
  protected_mode(0);
  expect_refused(kDs, make_descriptor(0, 0xFFFFF, kData32 | kDpl1), kGP, 2);  // RPL 2 beyond DPL 1
}
TEST_F(Segments, NullSelectorIsAcceptedAndFaultsOnUse) {
  protected_mode();
  ASSERT_TRUE(core->load_segment(kDs, 3));
  std::uint8_t unused;
  EXPECT_FALSE(core->load(kDs, 0, unused));
  EXPECT_EQ(core->fault().vector, kGP);
  EXPECT_FALSE(core->load_segment(kSs, 0));
  EXPECT_EQ(core->fault().vector, kGP);
  EXPECT_EQ(core->fault().error, 0u);
}
TEST_F(Segments, NullStackIsAllowedIn64BitModeBelowRing3WithMatchingRpl) {
  long_mode();
  EXPECT_TRUE(core->load_segment(kSs, 0));
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_FALSE(core->load_segment(kSs, 1));
  long_mode(3);
  EXPECT_FALSE(core->load_segment(kSs, 3));
}
TEST_F(Segments, SelectorBeyondTheTableIsGp) {
  protected_mode();
  EXPECT_FALSE(core->load_segment(kDs, 0x80));
  EXPECT_EQ(core->fault().error, 0x80u);
  EXPECT_FALSE(core->load_segment(kDs, 0x0C)) << "no LDT";
  EXPECT_EQ(core->fault().error, 0x0Cu);
}
TEST_F(Segments, LdtSelectorsReadTheLdt) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(kData, 0x0F, kLdtType));
  put<std::uint64_t>(kData + 8, make_descriptor(0x4000, 0xFFFFF, kData32));
  core->s.gpr[kRax] = kFree;
  EXPECT_FALSE(step({0x0F, 0x00, 0xD0}).has_value());  // lldt ax
  ASSERT_TRUE(core->load_segment(kDs, 0x0C));
  EXPECT_EQ(core->s.seg[kDs].base, 0x4000u);
}
TEST_F(Segments, LimitIsInclusiveAndExpandDownIsItsComplement) {
  protected_mode();
  std::uint32_t word;
  std::uint8_t byte;
  ASSERT_TRUE(load(kDs, make_descriptor(0, 0x0FFF, kData16)));
  EXPECT_TRUE(core->load(kDs, 0xFFF, byte));
  EXPECT_TRUE(core->load(kDs, 0xFFC, word));
  EXPECT_FALSE(core->load(kDs, 0xFFD, word));
  EXPECT_EQ(core->fault().vector, kGP);
  ASSERT_TRUE(load(kDs, make_descriptor(0, 0x0FFF, 0x0096)));
  EXPECT_FALSE(core->load(kDs, 0xFFF, byte));
  EXPECT_TRUE(core->load(kDs, 0x1000, byte));
  EXPECT_FALSE(core->load(kDs, 0xFFFD, word)) << "a 16-bit expand-down segment ends at FFFFh";
}
TEST_F(Segments, ByteAtOffsetZeroOfAnUnusableSegmentFaults) {
  protected_mode();
  std::uint8_t byte;
  ASSERT_TRUE(core->load(kDs, 0, byte)) << "the page is in the TLB";
  ASSERT_TRUE(core->load_segment(kDs, 0));
  EXPECT_FALSE(core->load(kDs, 0, byte));
  EXPECT_FALSE(core->store<std::uint8_t>(kCs, 0, 1)) << "code is not writable";
  EXPECT_EQ(core->fault().vector, kGP);
}
TEST_F(Segments, StackSegmentFaultsAreSs) {
  protected_mode();
  ASSERT_TRUE(load(kSs, make_descriptor(0, 0x0FFF, kData16)));
  EXPECT_FALSE(core->store<std::uint16_t>(kSs, 0xFFF, 1));
  EXPECT_EQ(core->fault().vector, kSS_);
}
TEST_F(Segments, RealModeKeepsLimitsAndAttributes) {
  real_mode();
  with_state([](CpuState& s) { s.seg[kDs].limit = 0xFFFFFFFF; });  // "unreal mode"
  ASSERT_TRUE(core->load_segment(kDs, 0x1234));
  EXPECT_EQ(core->s.seg[kDs].base, 0x12340u);
  std::uint32_t value;
  EXPECT_TRUE(core->load(kDs, 0x100000, value));
}
TEST_F(Segments, MovToCsIsUndefined) {
  protected_mode();
  core->s.gpr[kRax] = kCs32;
  expect_fault(step({0x8E, 0xC8}), kUD);  // mov cs, ax
}
TEST_F(Segments, MovSsShadowsInterrupts) {
  protected_mode();
  core->s.gpr[kRax] = kDs0;
  EXPECT_FALSE(step({0x8E, 0xD0}).has_value());  // mov ss, ax
  EXPECT_TRUE(core->s.interrupt_shadow);
}
TEST_F(Segments, FsAndGsKeep64BitBases) {
  long_mode();
  with_state([](CpuState& s) {
    s.cr4 |= kCr4Fsgsbase;
    s.gpr[kRax] = 0x0000123456789000;
    s.gpr[kRbx] = 0x0000800000000000;
    s.msr.kernel_gs_base = 0xFFFF888800000000;
  });
  EXPECT_FALSE(step({0xF3, 0x48, 0x0F, 0xAE, 0xD8}).has_value());  // wrgsbase rax
  EXPECT_EQ(core->s.seg[kGs].base, 0x0000123456789000u);
  EXPECT_FALSE(step({0x0F, 0x01, 0xF8}).has_value());  // swapgs
  EXPECT_EQ(core->s.seg[kGs].base, 0xFFFF888800000000u);
  EXPECT_EQ(core->s.msr.kernel_gs_base, 0x0000123456789000u);
  expect_fault(step({0xF3, 0x48, 0x0F, 0xAE, 0xDB}), kGP, 0);  // wrgsbase rbx: not canonical
}
TEST_F(Segments, FsgsbaseNeedsItsCr4Bit) {
  long_mode(3);
  expect_fault(step({0xF3, 0x48, 0x0F, 0xAE, 0xC0}), kUD);  // rdfsbase rax
}

// ---- LAR, LSL, VERR, VERW, ARPL, LTR, table registers ----

class Descriptors : public Segments {
 protected:
  bool zf() const { return core->s.rflags & kZF; }
};
TEST_F(Descriptors, LarGivesAccessRights) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, kCode32 | kDpl3));
  core->s.gpr[kRcx] = kFree;
  EXPECT_FALSE(step({0x0F, 0x02, 0xC1}).has_value());  // lar eax, ecx
  EXPECT_TRUE(zf());
  EXPECT_EQ(core->s.gpr[kRax] & 0xF0FF00, 0xC0FA00u);
}
TEST_F(Descriptors, LslGivesTheLimitInBytes) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(0, 0x12, kData32));
  core->s.gpr[kRcx] = kFree;
  EXPECT_FALSE(step({0x0F, 0x03, 0xC1}).has_value());  // lsl eax, ecx
  EXPECT_EQ(core->s.gpr[kRax], 0x12FFFu);
}
TEST_F(Descriptors, LslRefusesGatesAndLarTakesThem) {
  protected_mode();
  set_descriptor(kFree, make_gate(kCs32, 0, 0x8C));
  core->s.gpr[kRcx] = kFree;
  core->s.gpr[kRax] = 0x55;
  EXPECT_FALSE(step({0x0F, 0x03, 0xC1}).has_value());
  EXPECT_FALSE(zf());
  EXPECT_EQ(core->s.gpr[kRax], 0x55u);
  EXPECT_FALSE(step({0x0F, 0x02, 0xC1}).has_value());
  EXPECT_TRUE(zf());
}
TEST_F(Descriptors, LarRefusesInterruptGates) {
  protected_mode();
  set_descriptor(kFree, make_gate(kCs32, 0, 0x8E));
  core->s.gpr[kRcx] = kFree;
  EXPECT_FALSE(step({0x0F, 0x02, 0xC1}).has_value());
  EXPECT_FALSE(zf());
}
TEST_F(Descriptors, VerrAndVerwHeedTypeAndPrivilege) {
  protected_mode(3);
  core->s.gpr[kRcx] = kDsUser;
  EXPECT_FALSE(step({0x0F, 0x00, 0xE9}).has_value());  // verw cx
  EXPECT_TRUE(zf());
  core->s.gpr[kRcx] = kDs0;
  EXPECT_FALSE(step({0x0F, 0x00, 0xE1}).has_value());  // verr cx
  EXPECT_FALSE(zf());
  core->s.gpr[kRcx] = kCs32User;
  EXPECT_FALSE(step({0x0F, 0x00, 0xE9}).has_value());
  EXPECT_FALSE(zf()) << "code is not writable";
  core->s.gpr[kRcx] = 0xFFF8;
  EXPECT_FALSE(step({0x0F, 0x00, 0xE1}).has_value());
  EXPECT_FALSE(zf()) << "beyond the table";
}
TEST_F(Descriptors, ArplRaisesRpl) {
  protected_mode(3);
  core->s.gpr[kRax] = 0x10;
  core->s.gpr[kRcx] = 3;
  EXPECT_FALSE(step({0x63, 0xC8}).has_value());  // arpl ax, cx
  EXPECT_TRUE(zf());
  EXPECT_EQ(core->s.gpr[kRax], 0x13u);
  EXPECT_FALSE(step({0x63, 0xC8}).has_value());
  EXPECT_FALSE(zf());
}
TEST_F(Descriptors, LtrMarksTheTssBusy) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(kTss, 0x67, kTss32));
  core->s.gpr[kRax] = kFree;
  EXPECT_FALSE(step({0x0F, 0x00, 0xD8}).has_value());  // ltr ax
  EXPECT_EQ(core->s.tr.type(), 11u);
  EXPECT_EQ(descriptor(kFree) >> 40 & 0xF, 11u);
  expect_fault(step({0x0F, 0x00, 0xD8}), kGP, kFree);  // busy now
}
TEST_F(Descriptors, LtrFaults) {
  protected_mode();
  core->s.gpr[kRax] = 0;
  expect_fault(step({0x0F, 0x00, 0xD8}), kGP, 0);
  protected_mode();
  set_descriptor(kFree, make_descriptor(kTss, 0x67, kTss32 & ~0x80));
  core->s.gpr[kRax] = kFree;
  expect_fault(step({0x0F, 0x00, 0xD8}), kNP, kFree);
}
TEST_F(Descriptors, LongModeTssIsSixteenBytes) {
  long_mode();
  set_descriptor(kFree, make_descriptor(0x12345678, 0x67, kTss32));
  put<std::uint64_t>(kGdt + kFree + 8, 0xFFFF8880);
  core->s.gpr[kRax] = kFree;
  EXPECT_FALSE(step({0x0F, 0x00, 0xD8}).has_value());
  EXPECT_EQ(core->s.tr.base, 0xFFFF888012345678u);
}
TEST_F(Descriptors, UmipKeepsTablesFromUserMode) {
  long_mode(3);
  core->s.gpr[kRax] = kData;
  EXPECT_FALSE(step({0x0F, 0x01, 0x00}).has_value());  // sgdt [rax]
  EXPECT_EQ(get<std::uint16_t>(kData), 0x7Fu);
  EXPECT_EQ(get<std::uint64_t>(kData + 2), std::uint64_t{kGdt});
  with_state([](CpuState& s) { s.cr4 |= kCr4Umip; });
  expect_fault(step({0x0F, 0x01, 0x00}), kGP, 0);
}
TEST_F(Descriptors, LgdtTakesTwentyFourBitsWithSixteenBitOperands) {
  protected_mode();
  put<std::uint16_t>(kData, 0x1234);
  put<std::uint32_t>(kData + 2, 0xAB345678);
  core->s.gpr[kRax] = kData;
  EXPECT_FALSE(step({0x66, 0x0F, 0x01, 0x18}).has_value());  // lidt [eax]
  EXPECT_EQ(core->s.idtr.base, 0x345678u);
  EXPECT_EQ(core->s.idtr.limit, 0x1234u);
  EXPECT_FALSE(step({0x0F, 0x01, 0x18}).has_value());
  EXPECT_EQ(core->s.idtr.base, 0xAB345678u);
}

}  // namespace
}  // namespace husk::cpu::interp
