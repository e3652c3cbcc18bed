// husk: tests of event delivery against SDM vol. 3, chapters 6 and 18
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class Exceptions : public CoreFixture {
 protected:
  static constexpr std::uint64_t handler(unsigned vector) { return kHandlers + vector * 16; }
  Event fault(std::uint8_t vector, std::optional<std::uint32_t> error = std::nullopt) {
    return {.kind = Event::Kind::fault, .vector = vector, .has_error = error.has_value(), .error = error.value_or(0)};
  }
  void set_gate(unsigned vector, std::uint64_t low, std::uint64_t high = 0) {
    if (core->s.long_mode_active()) {
      put<std::uint64_t>(kIdt + vector * 16, low);
      put<std::uint64_t>(kIdt + vector * 16 + 8, high);
    } else {
      put<std::uint64_t>(kIdt + vector * 8, low);
    }
  }
  /// Vector and error of the last event recorded, which is the one delivered in the end.
  PastEvent last() { return core->past_events().back(); }
};

// ---- long mode ----

TEST_F(Exceptions, LongModePushesFiveQuadwordsAndAligns) {
  long_mode();
  core->s.gpr[kRsp] = kStack - 8;
  core->s.rflags |= kIF | kTF | kNT | kCF;
  core->deliver(fault(kUD));
  EXPECT_EQ(core->s.rip, handler(kUD));
  EXPECT_EQ(core->s.gpr[kRsp], kStack - 16 - 40);
  const std::uint64_t sp = core->s.gpr[kRsp];
  EXPECT_EQ(get<std::uint64_t>(sp), kCode);
  EXPECT_EQ(get<std::uint64_t>(sp + 8), std::uint64_t{kCs64});
  EXPECT_EQ(get<std::uint64_t>(sp + 16), std::uint64_t{kIF | kTF | kNT | kCF | kRF | kReservedOne})
      << "a fault's image has RF";
  EXPECT_EQ(get<std::uint64_t>(sp + 24), kStack - 8);
  EXPECT_EQ(get<std::uint64_t>(sp + 32), std::uint64_t{kDs0});
  EXPECT_EQ(core->s.rflags, std::uint64_t{kCF | kReservedOne}) << "an interrupt gate clears IF; TF, NT, RF go always";
}
TEST_F(Exceptions, TrapGateLeavesInterruptsOn) {
  long_mode();
  core->s.rflags |= kIF;
  set_gate(kUD, make_gate(kCs64, handler(kUD), 0x8F));
  core->deliver(fault(kUD));
  EXPECT_TRUE(core->s.rflags & kIF);
}
TEST_F(Exceptions, ErrorCodeAndCr2OfPageFault) {
  long_mode();
  Event event = fault(kPF_, 6);
  event.cr2 = 0xDEADBEEF;
  core->deliver(event);
  EXPECT_EQ(core->s.cr2, 0xDEADBEEFu);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), 6u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack - 48);
}
TEST_F(Exceptions, FromUserModeTheStackComesFromTheTss) {
  long_mode(3);
  core->deliver(fault(kGP, 0));
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 48);
  EXPECT_EQ(core->s.seg[kSs].selector, 0u) << "SS becomes null";
  EXPECT_EQ(core->s.seg[kCs].selector, kCs64);
  EXPECT_EQ(get<std::uint64_t>(kStack0 - 8), std::uint64_t{kDsUser});
  EXPECT_EQ(get<std::uint64_t>(kStack0 - 16), std::uint64_t{kUserStack});
  EXPECT_EQ(get<std::uint64_t>(kStack0 - 32), std::uint64_t{kCs64User});
}
TEST_F(Exceptions, InterruptStackTableIsUsedAtAnyLevel) {
  long_mode();
  set_gate(kNMI, make_gate(kCs64, handler(kNMI), 0x8E, 1));
  core->deliver({.kind = Event::Kind::nmi, .vector = kNMI});
  EXPECT_EQ(core->s.gpr[kRsp], kIst1 - 40);
  EXPECT_EQ(core->s.seg[kSs].selector, kDs0) << "no change of level, no change of SS";
  EXPECT_TRUE(core->s.nmi_blocked);
}
TEST_F(Exceptions, NonCanonicalInnerStackIsAStackFaultThenDoubleFault) {
  long_mode(3);
  put<std::uint64_t>(kTss + 4, 0x0000800000000000);
  set_gate(kDF_, make_gate(kCs64, handler(kDF_), 0x8E, 1));
  core->deliver(fault(kGP, 0));
  EXPECT_EQ(core->s.rip, handler(kDF_));
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), 0u) << "the double fault's error code";
}
TEST_F(Exceptions, HandlerMustBe64BitCode) {
  long_mode();
  set_gate(kUD, make_gate(kCs32, handler(kUD), 0x8E));
  core->deliver(fault(kUD));
  EXPECT_EQ(core->s.rip, handler(kGP));
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCs32 | 1u) << "selector and EXT";
}
TEST_F(Exceptions, GateBeyondTheIdtGivesItsIndex) {
  long_mode();
  core->s.idtr.limit = 16 * 0x40 - 1;
  core->deliver({.kind = Event::Kind::external, .vector = 0x80});
  EXPECT_EQ(core->s.rip, handler(kGP));
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), 0x80u * 8 + 2 + 1) << "IDT and EXT bits";
}
TEST_F(Exceptions, AbsentGateIsNp) {
  long_mode();
  set_gate(0x80, make_gate(kCs64, handler(0x80), 0x0E));
  core->deliver({.kind = Event::Kind::external, .vector = 0x80});
  EXPECT_EQ(core->s.rip, handler(kNP));
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), 0x80u * 8 + 2 + 1);
}
TEST_F(Exceptions, SoftwareInterruptChecksTheGatesDpl) {
  long_mode(3);
  expect_fault(step({0xCD, 0x80}), 0x80);  // delivered as INT 80h first...
  EXPECT_EQ(core->s.rip, handler(kGP)) << "...then refused: DPL 0";
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), 0x80u * 8 + 2) << "no EXT for INT n";
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp] + 8), kCode) << "RIP of the INT";
  long_mode(3);
  set_gate(0x80, make_gate(kCs64, handler(0x80), 0xEE));
  EXPECT_TRUE(step({0xCD, 0x80}).has_value());
  EXPECT_EQ(core->s.rip, handler(0x80));
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCode + 2) << "RIP of the next instruction";
}
TEST_F(Exceptions, Int1NeedsNoPrivilege) {
  long_mode(3);
  EXPECT_TRUE(step({0xF1}).has_value());
  EXPECT_EQ(core->s.rip, handler(kDB));
  EXPECT_EQ(core->s.dr6, 0xFFFF0FF0u) << "INT1 reports nothing in DR6";
}

// ---- double and triple faults (SDM vol. 3, table 6-5) ----

struct DoubleFaultCase {
  std::uint8_t first, second;
  bool doubles;
};
class DoubleFaults : public Exceptions, public ::testing::WithParamInterface<DoubleFaultCase> {};
TEST_P(DoubleFaults, Matrix) {
  const auto [first, second, doubles] = GetParam();
  long_mode();
  // The gate of the first refuses to be entered with the second.
  if (second == kNP)
    set_gate(first, make_gate(kCs64, handler(first), 0x0E));
  else if (second == kGP)
    set_gate(first, make_gate(0, handler(first), 0x8E));
  else if (second == kPF_)
    set_gate(first, make_gate(kCs64, handler(first), 0x8E, 1));
  if (second == kPF_) put<std::uint64_t>(kTss + 36, 0x40000000);  // IST1 is not mapped
  core->deliver(fault(first, first == kUD || first == kDE ? std::nullopt : std::optional<std::uint32_t>(0)));
  EXPECT_EQ(core->s.rip, handler(doubles ? unsigned{kDF_} : second));
}
INSTANTIATE_TEST_SUITE_P(All, DoubleFaults,
                         ::testing::Values(DoubleFaultCase{kUD, kNP, false}, DoubleFaultCase{kUD, kPF_, false},
                                           DoubleFaultCase{kDE, kNP, true}, DoubleFaultCase{kDE, kPF_, false},
                                           DoubleFaultCase{kTS, kGP, true}, DoubleFaultCase{kSS_, kGP, true},
                                           DoubleFaultCase{kGP, kNP, true}, DoubleFaultCase{kGP, kPF_, false},
                                           DoubleFaultCase{kPF_, kNP, true}, DoubleFaultCase{kPF_, kGP, true}));
TEST_F(Exceptions, PageFaultWithinPageFaultDoubles) {
  long_mode();
  set_gate(kPF_, make_gate(kCs64, handler(kPF_), 0x8E, 1));
  put<std::uint64_t>(kTss + 36, 0x40000000);
  core->deliver(fault(kPF_, 0));
  EXPECT_EQ(core->s.rip, handler(kDF_));
  EXPECT_EQ(core->s.cr2, 0x40000000u - 8) << "CR2 tells of the second one";
}
TEST_F(Exceptions, ExternalInterruptsNeverDouble) {
  long_mode();
  set_gate(kGP, make_gate(kCs64, handler(kGP), 0x0E));
  core->deliver({.kind = Event::Kind::external, .vector = kGP});
  EXPECT_EQ(core->s.rip, handler(kNP)) << "vector 13 from outside is benign";
}
TEST_F(Exceptions, FaultInDoubleFaultShutsDown) {
  long_mode();
  core->s.idtr.limit = 0;
  const std::uint64_t rip = core->s.rip;
  core->deliver(fault(kUD));
  EXPECT_EQ(core->s.activity, Activity::shutdown);
  EXPECT_EQ(core->s.rip, rip);
  const auto past = core->past_events();
  ASSERT_EQ(past.size(), 4u);
  EXPECT_EQ(past[0].event.vector, kUD);
  EXPECT_EQ(past[1].event.vector, kGP);
  EXPECT_EQ(past[2].event.vector, kDF_);
  EXPECT_EQ(past[3].event.vector, kGP);
  EXPECT_EQ(core->run(10), RunExit::shutdown);
}

// ---- protected mode ----

TEST_F(Exceptions, ProtectedModePushesDoublewords) {
  protected_mode();
  core->deliver(fault(kGP, 0x1234));
  EXPECT_EQ(core->s.gpr[kRsp], kStack - 16);
  EXPECT_EQ(get<std::uint32_t>(kStack - 16), 0x1234u);
  EXPECT_EQ(get<std::uint32_t>(kStack - 12), kCode);
  EXPECT_EQ(get<std::uint32_t>(kStack - 8), std::uint32_t{kCs32});
}
TEST_F(Exceptions, SixteenBitGatePushesWords) {
  protected_mode();
  set_gate(kGP, make_gate(kCs32, 0x4321, 0x86));
  core->s.rip = 0xABCDE;
  core->update_mode();
  core->deliver(fault(kGP, 0x1234));
  EXPECT_EQ(core->s.rip, 0x4321u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack - 8);
  EXPECT_EQ(get<std::uint16_t>(kStack - 8), 0x1234u);
  EXPECT_EQ(get<std::uint16_t>(kStack - 6), 0xBCDEu);
}
TEST_F(Exceptions, ProtectedModeSwitchesStacksThroughTheTss) {
  protected_mode(3);
  core->deliver(fault(kUD));
  EXPECT_EQ(core->cpl(), 0u);
  EXPECT_EQ(core->s.seg[kSs].selector, kDs0);
  EXPECT_EQ(core->s.gpr[kRsp], kStack0 - 20);
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 4), std::uint32_t{kDsUser});
  EXPECT_EQ(get<std::uint32_t>(kStack0 - 8), kUserStack);
}
TEST_F(Exceptions, BadInnerStackSelectorIsInvalidTss) {
  protected_mode(3);
  put<std::uint16_t>(kTss + 8, kDsUser);
  core->deliver({.kind = Event::Kind::external, .vector = 0x80});
  const auto past = core->past_events();
  EXPECT_EQ(past[1].event.vector, kTS);
  EXPECT_EQ(past[1].event.error, (kDsUser & 0xFFFCu) | 1u);
}
TEST_F(Exceptions, ConformingHandlerRunsAtTheInterruptedLevel) {
  protected_mode(3);
  set_descriptor(kFree, make_descriptor(0, 0xFFFFF, 0xC09E));
  set_gate(kUD, make_gate(kFree, handler(kUD), 0x8E));
  core->deliver(fault(kUD));
  EXPECT_EQ(core->cpl(), 3u);
  EXPECT_EQ(core->s.seg[kCs].selector, kFree | 3);
  EXPECT_EQ(core->s.gpr[kRsp], kUserStack - 12);
}

// ---- real mode ----

TEST_F(Exceptions, RealModeUsesTheVectorTable) {
  real_mode();
  core->s.rflags |= kIF | kTF | kAC;
  core->deliver({.kind = Event::Kind::external, .vector = 8});
  EXPECT_EQ(core->s.seg[kCs].selector, 0x3000u);
  EXPECT_EQ(core->s.seg[kCs].base, 0x30000u);
  EXPECT_EQ(core->s.rip, 0x80u);
  EXPECT_EQ(core->s.gpr[kRsp], 0xFFAu);
  EXPECT_EQ(get<std::uint16_t>(0x20FFA), 0u);
  EXPECT_EQ(get<std::uint16_t>(0x20FFC), 0x1000u);
  EXPECT_EQ(get<std::uint16_t>(0x20FFE), kIF | kTF | kReservedOne);
  EXPECT_EQ(core->s.rflags & (kIF | kTF | kAC), 0u);
}
TEST_F(Exceptions, RealModePushesNoErrorCode) {
  real_mode();
  core->deliver(fault(kGP, 0));
  EXPECT_EQ(core->s.gpr[kRsp], 0xFFAu);
}
TEST_F(Exceptions, RealModeShortVectorTableShutsDown) {
  real_mode();
  core->s.idtr.limit = 0;
  core->deliver(fault(kUD));
  EXPECT_EQ(core->s.activity, Activity::shutdown);
}
TEST_F(Exceptions, RealModeWordPushAtSpOneFaults) {
  real_mode();
  core->s.gpr[kRsp] = 1;
  core->deliver({.kind = Event::Kind::external, .vector = 8});
  EXPECT_EQ(core->s.activity, Activity::shutdown) << "no exception can be delivered on such a stack";
}

// ---- debug exceptions ----

TEST_F(Exceptions, SingleStepTrapsAfterTheInstruction) {
  long_mode();
  core->s.rflags |= kTF;
  EXPECT_FALSE(step({0x90}).has_value());
  expect_fault(step(), kDB);
  EXPECT_EQ(core->s.dr6, 0xFFFF0FF0u | (1u << 14));
  const std::uint64_t sp = core->past_events().back().rip;
  EXPECT_EQ(sp, kCode + 1);
}
TEST_F(Exceptions, InstructionThatClearsTrapFlagStillTraps) {
  long_mode();
  core->s.rflags |= kTF;
  put<std::uint64_t>(kStack, kReservedOne);
  EXPECT_FALSE(step({0x9D}).has_value());  // popf
  EXPECT_FALSE(core->s.rflags & kTF);
  expect_fault(step(), kDB);
}
TEST_F(Exceptions, InstructionThatSetsTrapFlagDoesNotTrap) {
  long_mode();
  put<std::uint64_t>(kStack, kTF | kReservedOne);
  EXPECT_FALSE(step({0x9D}).has_value());
  EXPECT_TRUE(core->s.rflags & kTF);
  EXPECT_FALSE(step({0x90}).has_value());
  expect_fault(step(), kDB);
  EXPECT_EQ(core->past_events().back().rip, kCode + 2);
}
TEST_F(Exceptions, SoftwareInterruptIsNotStepped) {
  long_mode();
  core->s.rflags |= kTF;
  EXPECT_TRUE(step({0xCD, 0x80}).has_value());
  EXPECT_FALSE(step({0x90}).has_value());
  EXPECT_FALSE(step({0x90}).has_value());
}
TEST_F(Exceptions, MovSsHoldsTheTrapBackAndStiDoesNot) {
  long_mode();
  core->s.rflags |= kTF;
  core->s.gpr[kRax] = kDs0;
  EXPECT_FALSE(step({0x8E, 0xD0}).has_value());  // mov ss, ax
  EXPECT_FALSE(step({0x90}).has_value());
  expect_fault(step(), kDB);
  EXPECT_EQ(core->past_events().back().rip, kCode + 3);
  long_mode();
  core->s.rflags |= kTF;
  EXPECT_FALSE(step({0xFB}).has_value());
  expect_fault(step(), kDB);
  EXPECT_EQ(core->past_events().back().rip, kCode + 1);
}
TEST_F(Exceptions, SyscallThatMasksTrapFlagDoesNotTrap) {
  long_mode(3);
  core->s.msr.star = (std::uint64_t{kCs32User} << 48) | (std::uint64_t{kCs64} << 32);
  core->s.msr.lstar = kHandlers;
  core->s.msr.sfmask = kTF;
  core->s.rflags |= kTF;
  EXPECT_FALSE(step({0x0F, 0x05}).has_value());
  EXPECT_FALSE(step({0x90}).has_value());
  EXPECT_TRUE(core->s.gpr[kR11] & kTF);
}
TEST_F(Exceptions, ResumeFlagOfAnIretLastsForTheNextInstruction) {
  long_mode();
  with_state([](CpuState& s) {
    s.dr[0] = kCode + 0x100;
    s.dr7 = 0x400 | 1;
    s.gpr[kRsp] -= 40;
  });
  core->update_debug();
  put<std::uint64_t>(core->s.gpr[kRsp], kCode + 0x100);
  put<std::uint64_t>(core->s.gpr[kRsp] + 8, kCs64);
  put<std::uint64_t>(core->s.gpr[kRsp] + 16, kRF | kReservedOne);
  put<std::uint64_t>(core->s.gpr[kRsp] + 24, kStack);
  put<std::uint64_t>(core->s.gpr[kRsp] + 32, kDs0);
  EXPECT_FALSE(step({0x48, 0xCF}).has_value());
  EXPECT_FALSE(step({0xEB, 0xFE}).has_value()) << "shielded";  // jmp $
  expect_fault(step(), kDB);                                   // the second time round it is not
}
TEST_F(Exceptions, DebugExceptionClearsGeneralDetect) {
  long_mode();
  with_state([](CpuState& s) { s.dr7 |= 1u << 13; });
  expect_fault(step({0x0F, 0x21, 0xF8}), kDB);  // mov rax, dr7
  EXPECT_EQ(core->s.dr6, 0xFFFF0FF0u | (1u << 13));
  EXPECT_EQ(core->s.dr7, 0x400u);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCode) << "a fault";
}
TEST_F(Exceptions, InstructionBreakpointFaultsOnceUnlessRf) {
  long_mode();
  with_state([](CpuState& s) {
    s.dr[1] = kCode;
    s.dr7 = 0x400 | (1u << 2);
  });
  core->update_debug();
  expect_fault(step({0x90}), kDB);
  EXPECT_EQ(core->s.dr6 & 0xF, 2u);
  long_mode();
  with_state([](CpuState& s) {
    s.dr[1] = kCode;
    s.dr7 = 0x400 | (1u << 2);
    s.rflags |= kRF;
  });
  core->update_debug();
  EXPECT_FALSE(step({0x90}).has_value());
  EXPECT_EQ(core->s.rip, kCode + 1);
  EXPECT_FALSE(core->s.rflags & kRF) << "the instruction's end clears RF";
}
TEST_F(Exceptions, DataWatchpointTrapsAfterTheWrite) {
  long_mode();
  with_state([](CpuState& s) {
    s.dr[0] = kData + 4;
    s.dr7 = 0x400 | 1 | (1u << 16) | (3u << 18);  // L0, write, four bytes
    s.gpr[kRdi] = kData;
    s.gpr[kRax] = 0x1122334455667788;
  });
  core->update_debug();
  EXPECT_FALSE(step({0x48, 0x8B, 0x0F}).has_value());  // mov rcx, [rdi]: a read
  EXPECT_FALSE(step({0x48, 0x89, 0x07}).has_value());  // mov [rdi], rax
  EXPECT_EQ(get<std::uint64_t>(kData), 0x1122334455667788u) << "the write is done";
  expect_fault(step(), kDB);
  EXPECT_EQ(core->s.dr6 & 0xF, 1u);
}
TEST_F(Exceptions, IoBreakpointNeedsDebugExtensions) {
  long_mode();
  with_state([](CpuState& s) {
    s.dr[3] = 0x80;
    s.dr7 = 0x400 | (1u << 6) | (2u << 28);
    s.cr4 |= kCr4De;
  });
  core->update_debug();
  EXPECT_FALSE(step({0xE6, 0x80}).has_value());  // out 80h, al
  expect_fault(step(), kDB);
  EXPECT_EQ(core->s.dr6 & 0xF, 8u);
}
TEST_F(Exceptions, PastEventsKeepTheLastSixteen) {
  long_mode();
  for (unsigned i = 0; i < 40; ++i)
    core->deliver({.kind = Event::Kind::external, .vector = static_cast<std::uint8_t>(0x40 + i)});
  const auto past = core->past_events();
  ASSERT_EQ(past.size(), Core::kPastEvents);
  EXPECT_EQ(past.back().event.vector, 0x40 + 39);
  EXPECT_EQ(past.front().event.vector, 0x40 + 24);
}

}  // namespace
}  // namespace husk::cpu::interp
