// husk: tests of task switches against SDM vol. 3, chapter 8
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class Tasks : public CoreFixture {
 protected:
  static constexpr std::uint64_t kNewTss = 0x9000;
  static constexpr std::uint16_t kNewTr = kFree;

  /// A 32-bit TSS at kNewTss for a task of ring 0 in flat segments.
  void new_task(unsigned attributes = kTss32) {
    set_descriptor(kNewTr, make_descriptor(kNewTss, 0x67, attributes));
    for (unsigned i = 0; i < 0x68; ++i) put<std::uint8_t>(kNewTss + i, 0);
    put<std::uint32_t>(kNewTss + 32, 0x123456);            // EIP
    put<std::uint32_t>(kNewTss + 36, kCF | kReservedOne);  // EFLAGS
    for (unsigned i = 0; i < 8; ++i) put<std::uint32_t>(kNewTss + 40 + i * 4, 0x1000 + i);
    put<std::uint32_t>(kNewTss + 40 + kRsp * 4, 0x60000);
    for (const unsigned i : {0u, 2u, 3u, 4u, 5u}) put<std::uint16_t>(kNewTss + 72 + i * 4, kDs0);
    put<std::uint16_t>(kNewTss + 76, kCs32);
  }
  unsigned type_of(std::uint16_t selector) { return static_cast<unsigned>(bits(descriptor(selector), 40, 4)); }
  Flow jump(std::uint16_t selector) { return core->far_jump(selector, 0, 4, core->s.rip + 7); }
  Flow call(std::uint16_t selector) { return core->far_call(selector, 0, 4, core->s.rip + 7); }
};

TEST_F(Tasks, JumpSavesTheOldAndLoadsTheNew) {
  protected_mode();
  new_task();
  core->s.gpr[kRax] = 0xAAAA;
  core->s.rflags |= kZF;
  ASSERT_EQ(jump(kNewTr), Flow::jump);
  EXPECT_EQ(get<std::uint32_t>(kTss + 32), kCode + 7);
  EXPECT_EQ(get<std::uint32_t>(kTss + 36), std::uint32_t{kZF | kReservedOne});
  EXPECT_EQ(get<std::uint32_t>(kTss + 40), 0xAAAAu);
  EXPECT_EQ(get<std::uint32_t>(kTss + 56), kStack);
  EXPECT_EQ(get<std::uint16_t>(kTss + 76), kCs32);
  EXPECT_EQ(core->s.rip, 0x123456u);
  EXPECT_EQ(core->s.gpr[kRax], 0x1000u);
  EXPECT_EQ(core->s.gpr[kRsp], 0x60000u);
  EXPECT_EQ(core->s.rflags, std::uint64_t{kCF | kReservedOne}) << "no NT after a jump";
  EXPECT_EQ(core->s.tr.selector, kNewTr);
  EXPECT_TRUE(core->s.cr0 & kCr0Ts);
  EXPECT_EQ(type_of(kTr), 9u) << "the old task is available again";
  EXPECT_EQ(type_of(kNewTr), 11u);
}
TEST_F(Tasks, CallNestsAndIretReturns) {
  protected_mode();
  new_task();
  ASSERT_EQ(call(kNewTr), Flow::jump);
  EXPECT_TRUE(core->s.rflags & kNT);
  EXPECT_EQ(get<std::uint16_t>(kNewTss), kTr);
  EXPECT_EQ(type_of(kTr), 11u) << "the caller stays busy";
  core->s.gpr[kRbx] = 0xBBBB;
  ASSERT_EQ(core->interrupt_return(4, core->s.rip + 1), Flow::jump);
  EXPECT_EQ(core->s.rip, kCode + 7);
  EXPECT_EQ(core->s.tr.selector, kTr);
  EXPECT_FALSE(core->s.rflags & kNT);
  EXPECT_EQ(get<std::uint32_t>(kNewTss + 36) & kNT, 0u) << "NT is cleared in the image saved by IRET";
  EXPECT_EQ(get<std::uint32_t>(kNewTss + 40 + kRbx * 4), 0xBBBBu);
  EXPECT_EQ(type_of(kNewTr), 9u);
}
TEST_F(Tasks, BusyTaskIsRefused) {
  protected_mode();
  new_task(kTss32 | 2);
  EXPECT_EQ(jump(kNewTr), Flow::fault);
  EXPECT_EQ(core->fault().vector, kGP);
  EXPECT_EQ(core->fault().error, unsigned{kNewTr});
}
TEST_F(Tasks, IretToATaskThatIsNotBusyIsInvalidTss) {
  protected_mode();
  new_task();
  put<std::uint16_t>(kTss, kNewTr);
  core->s.rflags |= kNT;
  EXPECT_EQ(core->interrupt_return(4, core->s.rip + 1), Flow::fault);
  EXPECT_EQ(core->fault().vector, kTS);
  EXPECT_EQ(core->fault().error, unsigned{kNewTr});
}
TEST_F(Tasks, ShortAndAbsentTssAreRefusedInTheOldTask) {
  protected_mode();
  new_task();
  set_descriptor(kNewTr, make_descriptor(kNewTss, 0x66, kTss32));
  EXPECT_EQ(jump(kNewTr), Flow::fault);
  EXPECT_EQ(core->fault().vector, kTS);
  set_descriptor(kNewTr, make_descriptor(kNewTss, 0x67, kTss32 & ~0x80));
  EXPECT_EQ(jump(kNewTr), Flow::fault);
  EXPECT_EQ(core->fault().vector, kNP);
  EXPECT_EQ(core->s.tr.selector, kTr);
  EXPECT_EQ(type_of(kTr), 11u);
}
TEST_F(Tasks, BadSegmentFaultsInTheNewTask) {
  protected_mode();
  new_task();
  put<std::uint16_t>(kNewTss + 80, kDsUser);  // SS of another level
  EXPECT_EQ(jump(kNewTr), Flow::fault);
  EXPECT_EQ(core->fault().vector, kTS);
  EXPECT_EQ(core->fault().error, kDsUser & 0xFFFCu);
  EXPECT_EQ(core->s.tr.selector, kNewTr);
  EXPECT_EQ(core->s.rip, 0x123456u);
}
TEST_F(Tasks, PrivilegeOfTheTssDescriptorIsChecked) {
  protected_mode(3);
  new_task();
  EXPECT_EQ(jump(kNewTr | 3), Flow::fault);
  EXPECT_EQ(core->fault().error, unsigned{kNewTr});
  new_task(kTss32 | kDpl3);
  EXPECT_EQ(jump(kNewTr | 3), Flow::jump);
  EXPECT_EQ(core->cpl(), 0u);
}
TEST_F(Tasks, TaskGateInTheIdtPushesTheErrorCode) {
  protected_mode();
  new_task();
  put<std::uint64_t>(kIdt + kGP * 8, make_gate(kNewTr, 0, 0x85));
  core->deliver({.kind = Event::Kind::fault, .vector = kGP, .has_error = true, .error = 0x1238});
  EXPECT_EQ(core->s.tr.selector, kNewTr);
  EXPECT_TRUE(core->s.rflags & kNT);
  EXPECT_EQ(core->s.gpr[kRsp], 0x60000u - 4);
  EXPECT_EQ(get<std::uint32_t>(0x60000 - 4), 0x1238u);
  EXPECT_EQ(get<std::uint32_t>(kTss + 32), kCode) << "the faulting instruction";
  EXPECT_TRUE(get<std::uint32_t>(kTss + 36) & kRF);
}
TEST_F(Tasks, TaskGateByCall) {
  protected_mode();
  new_task();
  set_descriptor(0x50, make_gate(kNewTr, 0, 0x85));
  ASSERT_EQ(call(0x50), Flow::jump);
  EXPECT_EQ(core->s.tr.selector, kNewTr);
}
TEST_F(Tasks, DebugTrapFlagTrapsInTheNewTask) {
  protected_mode();
  new_task();
  put<std::uint16_t>(kNewTss + 100, 1);
  core->s.dr7 |= 0x3;  // L0 and G0
  core->s.dr[0] = 0x7FFFFFF0;
  set_descriptor(0x50, make_gate(kNewTr, 0, 0x85));
  EXPECT_FALSE(step({0xEA, 0, 0, 0, 0, kNewTr, 0}).has_value());
  expect_fault(step(), kDB);
  EXPECT_EQ(core->s.dr6 & 0xE00F, 1u << 15);
  EXPECT_EQ(core->s.dr7 & 3, 2u) << "a task switch clears the local enables";
}
TEST_F(Tasks, SixteenBitTaskSavesWords) {
  protected_mode();
  set_descriptor(kNewTr, make_descriptor(kNewTss, 0x2B, kTss16));
  for (unsigned i = 0; i < 0x2C; ++i) put<std::uint8_t>(kNewTss + i, 0);
  put<std::uint16_t>(kNewTss + 14, 0x4321);
  put<std::uint16_t>(kNewTss + 16, kReservedOne);
  put<std::uint16_t>(kNewTss + 18, 0x5555);
  put<std::uint16_t>(kNewTss + 26, 0x6000);
  for (const unsigned i : {0u, 2u, 3u}) put<std::uint16_t>(kNewTss + 34 + i * 2, kDs0);
  put<std::uint16_t>(kNewTss + 36, kCs32);
  ASSERT_EQ(call(kNewTr), Flow::jump);
  EXPECT_EQ(core->s.rip, 0x4321u);
  EXPECT_EQ(core->s.gpr[kRax], 0x5555u);
  EXPECT_EQ(core->s.seg[kFs].selector, 0u);
  core->s.gpr[kRax] = 0x12347777;
  ASSERT_EQ(core->interrupt_return(2, 0x4322), Flow::jump);
  EXPECT_EQ(get<std::uint16_t>(kNewTss + 14), 0x4322u);
  EXPECT_EQ(get<std::uint16_t>(kNewTss + 18), 0x7777u);
  EXPECT_EQ(core->s.rip, kCode + 7);
}
TEST_F(Tasks, VirtualMachineTaskRunsInV86Mode) {
  protected_mode();
  new_task();
  put<std::uint32_t>(kNewTss + 32, 0x10);
  put<std::uint32_t>(kNewTss + 36, kVM | kReservedOne);
  put<std::uint16_t>(kNewTss + 76, 0x1234);
  ASSERT_EQ(jump(kNewTr), Flow::jump);
  EXPECT_TRUE(core->s.v86());
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.seg[kCs].base, 0x12340u);
  EXPECT_EQ(core->code_size(), CodeSize::bits16);
}

}  // namespace
}  // namespace husk::cpu::interp
