// husk: tests of virtual-8086 mode, its extensions and PVI, against SDM vol. 3, chapter 21
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class V86 : public CoreFixture {
 protected:
  /// CS 1000h, SS 2000h, SP 1000h, IVT as real_mode() has it; ring 0 behind it as protected_mode() has it.
  void v86(unsigned iopl, std::uint64_t cr4 = 0, std::uint64_t extra_flags = 0) {
    protected_mode();
    for (unsigned v = 0; v < 256; ++v) put<std::uint32_t>(v * 4, 0x30000000u | (v * 16));
    for (unsigned i = 0; i < 32; ++i) put<std::uint8_t>(kTss + 0x88 - 32 + i, 0);
    with_state([&](CpuState& s) {
      s.rflags = kVM | kReservedOne | (iopl << 12) | extra_flags;
      s.cr4 |= cr4;
      const std::uint16_t selectors[] = {0x4000, 0x1000, 0x2000, 0x5000, 0x6000, 0x7000};
      for (unsigned i = 0; i < 6; ++i)
        s.seg[i] = {
            .selector = selectors[i], .attributes = 0xF3, .limit = 0xFFFF, .base = std::uint64_t{selectors[i]} << 4};
      s.rip = 0;
      s.gpr[kRsp] = 0x1000;
    });
  }
  void redirect(unsigned vector, bool to_ring0) {
    put<std::uint8_t>(kTss + 0x88 - 32 + vector / 8, to_ring0 ? 0xFF : 0);
  }
  std::uint16_t stack_word(unsigned offset) { return get<std::uint16_t>(0x20000 + core->s.gpr[kRsp] + offset); }
};

TEST_F(V86, FaultsGoToRing0WithAllSegmentsSaved) {
  v86(3);
  core->deliver({.kind = Event::Kind::fault, .vector = kGP, .has_error = true, .error = 0});
  EXPECT_FALSE(core->s.v86());
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.rip, kHandlers + kGP * 16);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 40);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 4), 0x7000u);   // GS
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 8), 0x6000u);   // FS
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 12), 0x5000u);  // DS
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 16), 0x4000u);  // ES
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 20), 0x2000u);  // SS
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 24), 0x1000u);  // ESP
  EXPECT_TRUE(get<std::uint32_t>(kStack0 - 28) & kVM);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 32), 0x1000u);  // CS
  for (const unsigned seg : {kEs, kDs, kFs, kGs}) EXPECT_EQ(core->s.seg[seg].selector, 0u);
}
TEST_F(V86, IretReturnsIntoIt) {
  v86(3);
  core->deliver({.kind = Event::Kind::external, .vector = 0x20});
  ASSERT_FALSE(core->s.v86());
  ASSERT_EQ(core->interrupt_return(4, core->s.rip + 1), Flow::jump);
  EXPECT_TRUE(core->s.v86());
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.rip, 0u);
  EXPECT_EQ(core->s.gpr[kRsp], 0x1000u);
  EXPECT_EQ(core->s.seg[kGs].base, 0x70000u);
  EXPECT_EQ(core->s.seg[kCs].base, 0x10000u);
}
TEST_F(V86, HandlerMustBeRing0) {
  v86(3);
  put<std::uint64_t>(kIdt + 0x20 * 8, make_gate(kFree, 0, 0x8E));
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, 0xC09E));  // conforming would stay at ring 3
  core->deliver({.kind = Event::Kind::external, .vector = 0x20});
  EXPECT_EQ(core->s.rip, kHandlers + kGP * 16);
  EXPECT_EQ(get<std::uint32_t>(core->s.gpr[kRsp]), kFree | 1u);
}
TEST_F(V86, SensitiveInstructionsNeedIopl3) {
  v86(0);
  expect_fault(step({0xFA}), kGP, 0);  // cli
  v86(0);
  expect_fault(step({0x9C}), kGP, 0);  // pushf
  v86(0);
  expect_fault(step({0x9D}), kGP, 0);  // popf
  v86(0);
  expect_fault(step({0xCD, 0x21}), kGP, 0);
  v86(0);
  expect_fault(step({0xCF}), kGP, 0);  // iret
  v86(3);
  EXPECT_FALSE(step({0xFA}).has_value());
  EXPECT_FALSE(step({0x9C}).has_value());
}
TEST_F(V86, IntWithIopl3GoesThroughTheIdt) {
  v86(3);
  put<std::uint64_t>(kIdt + 0x21 * 8, make_gate(kCs32, kHandlers + 0x210, 0xEE));
  EXPECT_TRUE(step({0xCD, 0x21}).has_value());
  EXPECT_FALSE(core->s.v86());
  EXPECT_EQ(get<std::uint32_t>(core->s.gpr[kRsp]), 2u) << "behind the INT";
}
TEST_F(V86, Int3IsNotIoplSensitive) {
  v86(0);
  put<std::uint64_t>(kIdt + 3 * 8, make_gate(kCs32, kHandlers + 0x30, 0xEE));
  EXPECT_TRUE(step({0xCC}).has_value());
  EXPECT_EQ(core->s.rip, kHandlers + 0x30);
}
TEST_F(V86, IoAlwaysAsksTheBitmap) {
  v86(3);
  put<std::uint8_t>(kTss + 0x88 + 0x60 / 8, 0xFF);
  expect_fault(step({0xE4, 0x60}), kGP, 0);  // in al, 60h
  v86(3);
  put<std::uint8_t>(kTss + 0x88 + 0x60 / 8, 0);
  put<std::uint8_t>(kTss + 0x88 + 0x60 / 8 + 1, 0);
  EXPECT_FALSE(step({0xE4, 0x60}).has_value());
}
TEST_F(V86, PrivilegedInstructionsFault) {
  v86(3);
  expect_fault(step({0x0F, 0x20, 0xC0}), kGP, 0);  // mov eax, cr0
  v86(3);
  expect_fault(step({0xF4}), kGP, 0);
  v86(3);
  expect_fault(step({0x0F, 0x00, 0xC0}), kUD);  // sldt ax
}

// ---- VME ----

TEST_F(V86, RedirectedIntUsesTheVectorTable) {
  v86(0, kCr4Vme, kVIF);
  redirect(0x21, false);
  EXPECT_TRUE(step({0xCD, 0x21}).has_value());
  EXPECT_TRUE(core->s.v86());
  EXPECT_EQ(core->s.seg[kCs].selector, 0x3000u);
  EXPECT_EQ(core->s.rip, 0x210u);
  EXPECT_EQ(core->s.gpr[kRsp], 0xFFAu);
  EXPECT_EQ(stack_word(0), 2u);
  EXPECT_EQ(stack_word(2), 0x1000u);
  EXPECT_EQ(stack_word(4) & (kIF | kIOPL), kIF | kIOPL) << "the image shows VIF as IF, and IOPL 3";
  EXPECT_FALSE(core->s.rflags & kVIF);
}
TEST_F(V86, IntNotRedirectedNeedsIopl3) {
  v86(0, kCr4Vme);
  redirect(0x21, true);
  expect_fault(step({0xCD, 0x21}), kGP, 0);
}
TEST_F(V86, CliAndStiWorkOnVif) {
  v86(0, kCr4Vme, kVIF | kIF);
  EXPECT_FALSE(step({0xFA}).has_value());
  EXPECT_FALSE(core->s.rflags & kVIF);
  EXPECT_TRUE(core->s.rflags & kIF);
  EXPECT_FALSE(step({0xFB}).has_value());
  EXPECT_TRUE(core->s.rflags & kVIF);
  v86(0, kCr4Vme, kVIP);
  expect_fault(step({0xFB}), kGP, 0);  // an interrupt is pending
}
TEST_F(V86, PushfShowsVifAndPopfSetsIt) {
  v86(0, kCr4Vme, kVIF);
  EXPECT_FALSE(step({0x9C}).has_value());
  EXPECT_EQ(stack_word(0) & (kIF | kIOPL), kIF | kIOPL);
  put<std::uint16_t>(0x20000 + core->s.gpr[kRsp], 0);
  EXPECT_FALSE(step({0x9D}).has_value());
  EXPECT_FALSE(core->s.rflags & kVIF);
  EXPECT_EQ(core->s.rflags & kIOPL, 0u);
}
TEST_F(V86, PopfOfTrapFlagOrWithPendingInterruptFaults) {
  v86(0, kCr4Vme);
  put<std::uint16_t>(0x21000, kTF);
  expect_fault(step({0x9D}), kGP, 0);
  v86(0, kCr4Vme, kVIP);
  put<std::uint16_t>(0x21000, kIF);
  expect_fault(step({0x9D}), kGP, 0);
}
TEST_F(V86, ThirtyTwoBitPushfIsNotHelpedByVme) {
  v86(0, kCr4Vme);
  expect_fault(step({0x66, 0x9C}), kGP, 0);
}
TEST_F(V86, IretSetsVif) {
  v86(0, kCr4Vme);
  put<std::uint16_t>(0x21000, 0x77);
  put<std::uint16_t>(0x21002, 0x1234);
  put<std::uint16_t>(0x21004, kIF | kCF);
  EXPECT_FALSE(step({0xCF}).has_value());
  EXPECT_EQ(core->s.rip, 0x77u);
  EXPECT_EQ(core->s.seg[kCs].base, 0x12340u);
  EXPECT_TRUE(core->s.rflags & kVIF);
  EXPECT_FALSE(core->s.rflags & kIF);
}

// ---- PVI ----

TEST_F(V86, ProtectedModeVirtualInterrupts) {
  protected_mode(3);
  expect_fault(step({0xFB}), kGP, 0);
  protected_mode(3);
  with_state([](CpuState& s) { s.cr4 |= kCr4Pvi; });
  EXPECT_FALSE(step({0xFB}).has_value());
  EXPECT_EQ(core->s.rflags & (kVIF | kIF), std::uint64_t{kVIF});
  EXPECT_FALSE(step({0xFA}).has_value());
  EXPECT_FALSE(core->s.rflags & kVIF);
  with_state([](CpuState& s) { s.rflags |= kVIP; });
  expect_fault(step({0xFB}), kGP, 0);
}

}  // namespace
}  // namespace husk::cpu::interp
