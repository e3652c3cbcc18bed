// husk: tests of far jumps, calls, returns and fast system calls against SDM vol. 2 and APM vol. 3
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class Far : public CoreFixture {
 protected:
  void expect_gp(Flow flow, std::uint32_t error, std::uint8_t vector = kGP) {
    EXPECT_EQ(flow, Flow::fault);
    EXPECT_EQ(core->fault().vector, vector);
    EXPECT_EQ(core->fault().error, error);
  }
  Flow jump(std::uint16_t selector, std::uint64_t offset = 0x1234, unsigned size = 4) {
    return core->far_jump(selector, offset, size, core->s.rip + 7);
  }
  Flow call(std::uint16_t selector, std::uint64_t offset = 0x1234, unsigned size = 4) {
    return core->far_call(selector, offset, size, core->s.rip + 7);
  }
  void push32(std::initializer_list<std::uint32_t> values) {
    for (const std::uint32_t value : values) {
      core->s.gpr[kRsp] -= 4;
      put<std::uint32_t>(core->s.gpr[kRsp], value);
    }
  }
  void push64(std::initializer_list<std::uint64_t> values) {
    for (const std::uint64_t value : values) {
      core->s.gpr[kRsp] -= 8;
      put<std::uint64_t>(core->s.gpr[kRsp], value);
    }
  }
  Flow iret(unsigned size) { return core->interrupt_return(size, core->s.rip + 1); }
};

// ---- jumps and calls ----

TEST_F(Far, RealModeJumpLoadsBaseOnly) {
  real_mode();
  EXPECT_EQ(jump(0x1234, 0x10, 2), Flow::jump);
  EXPECT_EQ(core->s.seg[kCs].base, 0x12340u);
  EXPECT_EQ(core->s.seg[kCs].limit, 0xFFFFu);
  EXPECT_EQ(core->s.rip, 0x10u);
}
TEST_F(Far, JumpChecksThePrivilegeOfCode) {
  protected_mode(3);
  expect_gp(jump(kCs32), kCs32);
  EXPECT_EQ(jump(kCs32User), Flow::jump);
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, 0xC09E));  // conforming, ring 0
  EXPECT_EQ(jump(kFree | 3), Flow::jump);
  EXPECT_EQ(core->cpl(), 3u) << "conforming code runs at its caller's level";
  EXPECT_EQ(core->s.seg[kCs].selector, kFree | 3);
}
TEST_F(Far, JumpFaults) {
  protected_mode();
  expect_gp(jump(0), 0);
  expect_gp(jump(kDs0), kDs0);
  expect_gp(jump(0x80), 0x80);
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, kCode32 & ~0x80));
  expect_gp(jump(kFree), kFree, kNP);
  set_descriptor(kFree, make_descriptor(0, 0xFFF, 0x409A));
  expect_gp(jump(kFree, 0x1000), 0);
}
TEST_F(Far, SixteenBitJumpCutsTheOffset) {
  protected_mode();
  EXPECT_EQ(jump(kCs32, 0x12345678, 2), Flow::jump);
  EXPECT_EQ(core->s.rip, 0x5678u);
}
TEST_F(Far, LongModeRefusesCodeWithBothLAndD) {
  long_mode();
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, 0xE09A));
  expect_gp(jump(kFree), kFree);
}
TEST_F(Far, JumpFrom64BitToCompatibilityMode) {
  long_mode();
  EXPECT_EQ(jump(kCs32, 0x1234, 4), Flow::jump);
  EXPECT_FALSE(core->code64());
  EXPECT_EQ(core->code_size(), CodeSize::bits32);
}
TEST_F(Far, CallPushesSelectorAndReturnAddress) {
  protected_mode();
  EXPECT_EQ(call(kCs32), Flow::jump);
  EXPECT_EQ(core->s.gpr[kRsp], kStack - 8);
  EXPECT_EQ(get<std::uint32_t>(kStack - 8), kCode + 7);
  EXPECT_EQ(get<std::uint32_t>(kStack - 4), std::uint32_t{kCs32});
}
TEST_F(Far, FaultingCallLeavesTheStackPointer) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(0, 0xFFF, 0x409A));
  expect_gp(call(kFree, 0x1000), 0);
  EXPECT_EQ(core->s.gpr[kRsp], kStack);
}

// ---- call gates ----

TEST_F(Far, CallGateToInnerLevelCopiesParametersInOrder) {
  protected_mode(3);
  set_descriptor(kFree, make_gate(kCs32, 0x4321, 0xEC, 2));
  push32({0x2222, 0x1111});
  EXPECT_EQ(call(kFree | 3), Flow::jump);
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.rip, 0x4321u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 24);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 4), std::uint32_t{kDsUser});
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 8), kUserStack - 8);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 12), 0x2222u);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 16), 0x1111u);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 20), std::uint32_t{kCs32User});
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 24), kCode + 7);
}
TEST_F(Far, RetfFromACallGateReleasesBothStacks) {
  protected_mode(3);
  set_descriptor(kFree, make_gate(kCs32, 0x4321, 0xEC, 2));
  push32({0x2222, 0x1111});
  ASSERT_EQ(call(kFree | 3), Flow::jump);
  core->s.seg[kEs] = flat(kDs0, kData32);
  EXPECT_EQ(core->far_return(4, 8), Flow::jump);
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.gpr[kRsp], kUserStack);
  EXPECT_EQ(core->s.rip, kCode + 7);
  EXPECT_EQ(core->s.seg[kEs].selector, 0u) << "a segment of ring 0 does not follow to ring 3";
  EXPECT_EQ(core->s.seg[kDs].selector, kDsUser);
}
TEST_F(Far, SixteenBitCallGatePushesWords) {
  protected_mode(3);
  set_descriptor(kFree, make_gate(kCs32, 0xABCD4321, 0xE4, 1));
  core->s.gpr[kRsp] -= 2;
  put<std::uint16_t>(core->s.gpr[kRsp], 0x7777);
  EXPECT_EQ(call(kFree | 3), Flow::jump);
  EXPECT_EQ(core->s.rip, 0x4321u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 10);
  EXPECT_EQ(get<std::uint16_t>(kStack0 - 6), 0x7777u);
}
TEST_F(Far, CallGateChecks) {
  protected_mode(3);
  set_descriptor(kFree, make_gate(kCs32, 0, 0x8C));
  expect_gp(call(kFree | 3), kFree);  // DPL 0
  set_descriptor(kFree, make_gate(kCs32, 0, 0x6C));
  expect_gp(call(kFree | 3), kFree, kNP);
  set_descriptor(kFree, make_gate(0, 0, 0xEC));
  expect_gp(call(kFree | 3), 0);
  set_descriptor(kFree, make_gate(kDs0, 0, 0xEC));
  expect_gp(call(kFree | 3), kDs0);
  set_descriptor(kFree, make_gate(kCs32, 0, 0xEC));
  expect_gp(jump(kFree | 3), kCs32);  // a jump cannot raise the level
}
TEST_F(Far, LongModeCallGateIsSixteenBytesAndPushesQuadwords) {
  long_mode(3);
  set_descriptor(kFree, make_gate(kCs64, 0x12345678, 0xEC));
  put<std::uint64_t>(kGdt + kFree + 8, 0x1);
  EXPECT_EQ(call(kFree | 3), Flow::jump);
  EXPECT_EQ(core->s.rip, 0x112345678u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 32);
  EXPECT_EQ(core->s.seg[kSs].selector, 0u);
  EXPECT_EQ(get<std::uint64_t>(kStack0 - 8), std::uint64_t{kDsUser});
  EXPECT_EQ(get<std::uint64_t>(kStack0 - 32), kCode + 7);
}

// ---- IRET ----

TEST_F(Far, IretqPopsStackEvenWithoutChangeOfLevel) {
  long_mode();
  push64({kDs0, 0x71234, kIF | kCF | kReservedOne, kCs64, 0x123456});
  EXPECT_EQ(iret(8), Flow::jump);
  EXPECT_EQ(core->s.rip, 0x123456u);
  EXPECT_EQ(core->s.gpr[kRsp], 0x71234u);
  EXPECT_EQ(core->s.rflags, std::uint64_t{kIF | kCF | kReservedOne});
}
TEST_F(Far, IretqToUserMode) {
  long_mode();
  push64({kDsUser, kUserStack, kIF | kReservedOne, kCs64User, 0x123456});
  EXPECT_EQ(iret(8), Flow::jump);
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.gpr[kRsp], kUserStack);
  EXPECT_EQ(core->s.seg[kDs].selector, 0u) << "ring 0's DS is dropped";
}
TEST_F(Far, IretqToNullStackOnlyBelowRing3) {
  long_mode();
  push64({0, 0x71234, kReservedOne, kCs64, 0x123456});
  EXPECT_EQ(iret(8), Flow::jump);
  long_mode();
  push64({3, kUserStack, kReservedOne, kCs64User, 0x123456});
  expect_gp(iret(8), 0);
}
TEST_F(Far, IretToInnerLevelIsRefused) {
  protected_mode(3);
  push32({kReservedOne, kCs32, 0x1234});
  expect_gp(iret(4), kCs32);
}
TEST_F(Far, IretChecksTheReturnAddress) {
  long_mode();
  push64({kDs0, 0x71234, kReservedOne, kCs64, 0x0000800000000000});
  expect_gp(iret(8), 0);
  protected_mode();
  set_descriptor(kFree, make_descriptor(0, 0xFFF, 0x409A));
  push32({kReservedOne, kFree, 0x1000});
  expect_gp(iret(4), 0);
}
TEST_F(Far, IretInUserModeKeepsIoplAndInterruptFlag) {
  protected_mode(3);
  push32({kIOPL | kIF | kNT | kDF | kReservedOne, kCs32User, 0x1234});
  EXPECT_EQ(iret(4), Flow::jump);
  EXPECT_EQ(core->s.rflags, std::uint64_t{kNT | kDF | kReservedOne});
}
TEST_F(Far, IretUnblocksNmis) {
  long_mode();
  core->s.nmi_blocked = true;
  push64({kDs0, kStack, kReservedOne, kCs64, kCode});
  EXPECT_EQ(iret(8), Flow::jump);
  EXPECT_FALSE(core->s.nmi_blocked);
}
TEST_F(Far, IretWithNestedTaskFaultsInLongMode) {
  long_mode();
  core->s.rflags |= kNT;
  expect_gp(iret(8), 0);
}
TEST_F(Far, IretToSixteenBitStackKeepsUpperHalfOfEsp) {
  protected_mode();
  set_descriptor(kFree, make_descriptor(0x90000, 0xFFFF, kData16 | kDpl3));
  core->s.gpr[kRsp] = kStack;
  push32({kFree | 3, 0xAAAA1000, kReservedOne, kCs32User, 0x1234});
  const std::uint64_t upper = core->s.gpr[kRsp] & 0xFFFF0000;
  EXPECT_EQ(iret(4), Flow::jump);
  EXPECT_EQ(core->s.gpr[kRsp], upper | 0x1000);
}

// ---- SYSCALL and friends ----

class FastCalls : public Far {
 protected:
  void with_msrs() {
    core->s.msr.star = (std::uint64_t{kCs32User} << 48) | (std::uint64_t{kCs64} << 32);
    core->s.msr.lstar = 0x200000;
    core->s.msr.sfmask = kIF | kTF | kDF;
  }
};
TEST_F(FastCalls, SyscallSavesAndMasks) {
  long_mode(3);
  with_msrs();
  core->s.rflags = kIF | kCF | kReservedOne;
  EXPECT_FALSE(step({0x0F, 0x05}).has_value());
  EXPECT_EQ(core->s.rip, 0x200000u);
  EXPECT_EQ(core->s.gpr[kRcx], kCode + 2);
  EXPECT_EQ(core->s.gpr[kR11], std::uint64_t{kIF | kCF | kReservedOne});
  EXPECT_EQ(core->s.rflags, std::uint64_t{kCF | kReservedOne});
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.seg[kCs].selector, kCs64);
  EXPECT_EQ(core->s.seg[kSs].selector, kDs0);
}
TEST_F(FastCalls, SyscallNeedsEferSce) {
  long_mode(3);
  with_state([](CpuState& s) { s.efer &= ~std::uint64_t{kEferSce}; });
  expect_fault(step({0x0F, 0x05}), kUD);
}
TEST_F(FastCalls, SysretqGoesToRing3) {
  long_mode();
  with_msrs();
  core->s.gpr[kRcx] = 0x123456;
  core->s.gpr[kR11] = kIF | kVM | kRF | kIOPL | kReservedOne;
  EXPECT_FALSE(step({0x48, 0x0F, 0x07}).has_value());
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_TRUE(core->code64());
  EXPECT_EQ(core->s.seg[kCs].selector, kCs64User);
  EXPECT_EQ(core->s.seg[kSs].selector, kDsUser);
  EXPECT_EQ(core->s.rip, 0x123456u);
  EXPECT_EQ(core->s.rflags, std::uint64_t{kIF | kIOPL | kReservedOne}) << "RF and VM are cleared";
}
TEST_F(FastCalls, SysretlGoesToCompatibilityMode) {
  long_mode();
  with_msrs();
  core->s.gpr[kRcx] = 0xFFFFFFFF00123456;
  core->s.gpr[kR11] = kReservedOne;
  EXPECT_FALSE(step({0x0F, 0x07}).has_value());
  EXPECT_FALSE(core->code64());
  EXPECT_EQ(core->s.seg[kCs].selector, kCs32User);
  EXPECT_EQ(core->s.rip, 0x123456u);
}
TEST_F(FastCalls, SysretNeedsRing0) {
  long_mode(3);
  with_msrs();
  expect_fault(step({0x48, 0x0F, 0x07}), kGP, 0);
}
TEST_F(FastCalls, NonCanonicalSysretFaultsInUserModeOnAmd) {
  long_mode();
  with_msrs();
  core->s.gpr[kRcx] = 0x0000800000000000;
  core->s.gpr[kR11] = kReservedOne;
  EXPECT_FALSE(step({0x48, 0x0F, 0x07}).has_value());
  EXPECT_EQ(core->cpl(), 3u);
}
TEST_F(FastCalls, CompatibilityModeSyscallGoesToCstarOnAmd) {
  long_mode(3);
  with_msrs();
  with_state([](CpuState& s) {
    s.seg[kCs] = flat(kCs32User, kCode32 | kDpl3);
    s.msr.cstar = 0x300000;
  });
  EXPECT_FALSE(step({0x0F, 0x05}).has_value());
  EXPECT_EQ(core->s.rip, 0x300000u);
  EXPECT_TRUE(core->code64());
}
TEST_F(FastCalls, SysenterIsUndefinedInLongModeOnAmd) {
  long_mode(3);
  core->s.msr.sysenter_cs = kCs64;
  expect_fault(step({0x0F, 0x34}), kUD);
}
TEST_F(FastCalls, SysenterAndSysexitInProtectedMode) {
  protected_mode(3);
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, kData32));
  with_state([](CpuState& s) {
    s.msr.sysenter_cs = kCs32;
    s.msr.sysenter_esp = kStack0;
    s.msr.sysenter_eip = 0x200000;
    s.rflags |= kIF;
  });
  EXPECT_FALSE(step({0x0F, 0x34}).has_value());
  EXPECT_EQ(core->s.rip, 0x200000u);
  EXPECT_EQ(core->s.gpr[kRsp], std::uint64_t{kStack0});
  EXPECT_EQ(core->s.seg[kCs].selector, kCs32);
  EXPECT_EQ(core->s.seg[kSs].selector, kCs32 + 8);
  EXPECT_FALSE(core->s.rflags & kIF);
  core->s.gpr[kRcx] = kUserStack;
  core->s.gpr[kRdx] = 0x123456;
  EXPECT_FALSE(step({0x0F, 0x35}).has_value());
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.seg[kCs].selector, (kCs32 + 16) | 3);
  EXPECT_EQ(core->s.seg[kSs].selector, (kCs32 + 24) | 3);
  EXPECT_EQ(core->s.rip, 0x123456u);
  EXPECT_EQ(core->s.gpr[kRsp], std::uint64_t{kUserStack});
}
TEST_F(FastCalls, SysenterWithNullSelectorFaults) {
  protected_mode(3);
  expect_fault(step({0x0F, 0x34}), kGP, 0);
}

class IntelFastCalls : public FastCalls {
 protected:
  IntelFastCalls() = default;
  void make_intel() { model.vendor = "GenuineIntel"; }
};
TEST_F(IntelFastCalls, CompatibilityModeSyscallIsUndefined) {
  make_intel();
  long_mode(3);
  with_msrs();
  with_state([](CpuState& s) { s.seg[kCs] = flat(kCs32User, kCode32 | kDpl3); });
  expect_fault(step({0x0F, 0x05}), kUD);
}
TEST_F(IntelFastCalls, NonCanonicalSysretFaultsInRing0) {
  make_intel();
  long_mode();
  with_msrs();
  core->s.gpr[kRcx] = 0x0000800000000000;
  expect_fault(step({0x48, 0x0F, 0x07}), kGP, 0);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp] + 16), std::uint64_t{kCs64});
}
TEST_F(IntelFastCalls, SysenterWorksInLongMode) {
  make_intel();
  long_mode(3);
  with_state([](CpuState& s) {
    s.msr.sysenter_cs = kCs64;
    s.msr.sysenter_esp = kStack0;
    s.msr.sysenter_eip = 0x200000;
  });
  EXPECT_FALSE(step({0x0F, 0x34}).has_value());
  EXPECT_TRUE(core->code64());
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.rip, 0x200000u);
}

}  // namespace
}  // namespace husk::cpu::interp
