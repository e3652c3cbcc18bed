// husk: x87 environment images, pointers, error reporting and faults, by the manuals
#include <gtest/gtest.h>

#include "cpu/interp/x87.h"
#include "cpu/interp/x87_fixture.h"

namespace husk::cpu::interp {
namespace {

constexpr std::uint64_t kBase = 0x10000, kSize = 0x2000;

class X87 : public ::testing::Test {
 protected:
  X87() {
    machine.state().gpr[kRbx] = kBase;
    machine.state().rip = 0x12345;
    run({0xDB, 0xE3});  // fninit
  }
  Flow run(std::initializer_list<std::uint8_t> bytes) { return machine.run(bytes); }
  template <class T>
  T at(std::uint64_t offset) {
    return load_le<T>(machine.ram() + offset);
  }
  template <class T>
  void put(std::uint64_t offset, T value) {
    store_le<T>(machine.ram() + offset, value);
  }
  X87State& x87() { return machine.state().x87; }
  void divide_by_zero_unmasked() {
    put<std::uint16_t>(0x100, 0x37B);
    machine.state().gpr[kRbx] = kBase + 0x100;
    run({0xD9, 0x2B});  // fldcw [ebx]
    machine.state().gpr[kRbx] = kBase;
    run({0xD9, 0xE8});  // fld1
    run({0xD9, 0xEE});  // fldz
    machine.state().rip = 0x23456;
    EXPECT_EQ(run({0xDE, 0xF9}), Flow::next);  // fdivp st(1), st
    EXPECT_EQ(x87().status & 0x80BF, 0x8084);
  }

  X87Machine machine{kBase, kSize};
};

// SDM vol. 1, figure 8-9.
TEST_F(X87, ProtectedModeEnvironmentOf32BitsHoldsSelectorsAndOffsets) {
  machine.state().rip = 0x12347;
  put<std::uint32_t>(0x40, 0x3FC00000);            // 1.5
  EXPECT_EQ(run({0xD9, 0x43, 0x40}), Flow::next);  // fld dword [ebx+40h]
  EXPECT_EQ(run({0xD9, 0x33}), Flow::next);        // fnstenv [ebx]
  EXPECT_EQ(at<std::uint32_t>(0), 0xFFFF037Fu);
  EXPECT_EQ(at<std::uint32_t>(4), 0xFFFF3800u);
  EXPECT_EQ(at<std::uint32_t>(8), 0xFFFF3FFFu);
  EXPECT_EQ(at<std::uint32_t>(12), 0x12347u);
  EXPECT_EQ(at<std::uint32_t>(16), 0x01430033u);  // opcode D9 43
  EXPECT_EQ(at<std::uint32_t>(20), kBase + 0x40);
  EXPECT_EQ(at<std::uint32_t>(24), 0xFFFF002Bu);
}

// SDM vol. 1, figure 8-11.
TEST_F(X87, ProtectedModeEnvironmentOf16BitsHoldsSelectorsAndOffsets) {
  put<std::uint32_t>(0x40, 0x3FC00000);
  run({0xD9, 0x43, 0x40});
  EXPECT_EQ(run({0x66, 0xD9, 0x33}), Flow::next);
  EXPECT_EQ(at<std::uint16_t>(0), 0x037F);
  EXPECT_EQ(at<std::uint16_t>(2), 0x3800);
  EXPECT_EQ(at<std::uint16_t>(4), 0x3FFF);
  EXPECT_EQ(at<std::uint16_t>(8), 0x33);
  EXPECT_EQ(at<std::uint16_t>(10), (kBase + 0x40) & 0xFFFF);
  EXPECT_EQ(at<std::uint16_t>(12), 0x2B);
}

// SDM vol. 1, figures 8-10 and 8-12: linear addresses, split around the opcode.
TEST_F(X87, RealModeEnvironmentHoldsLinearAddressesAndOpcode) {
  CpuState state = machine.state();
  state.cr0 = kCr0Et | kCr0Ne;
  for (Segment& segment : state.seg)
    segment = {.selector = 0x1000, .attributes = 0x93, .limit = 0xFFFF, .base = 0x10000};
  state.seg[kCs] = {.selector = 0xF234, .attributes = 0x9B, .limit = 0xFFFF, .base = 0xF2340};
  state.rip = 0x0015;
  state.gpr[kRbx] = 0;
  machine.core().set_state(state);
  put<std::uint32_t>(0x40, 0x3FC00000);
  EXPECT_EQ(run({0xD9, 0x47, 0x40}), Flow::next);  // fld dword [bx+40h]
  EXPECT_EQ(run({0xD9, 0x37}), Flow::next);        // fnstenv [bx], 14 bytes
  EXPECT_EQ(at<std::uint16_t>(6), 0x2355);         // F2340 + 15
  EXPECT_EQ(at<std::uint16_t>(8), 0xF147);
  EXPECT_EQ(at<std::uint16_t>(10), 0x0040);
  EXPECT_EQ(at<std::uint16_t>(12), 0x1000);
  EXPECT_EQ(run({0x66, 0xD9, 0x37}), Flow::next);  // 28 bytes
  EXPECT_EQ(at<std::uint32_t>(12), 0xFFFF2355u);
  EXPECT_EQ(at<std::uint32_t>(16), 0x0000F147u);
  EXPECT_EQ(at<std::uint32_t>(20), 0xFFFF0040u);
  EXPECT_EQ(at<std::uint32_t>(24), 0x00001000u);
  run({0xDB, 0xE3});
  EXPECT_EQ(run({0x66, 0xD9, 0x27}), Flow::next);  // fldenv [bx]
  EXPECT_EQ(x87().ip, 0xF2355u);
  EXPECT_EQ(x87().dp, 0x10040u);
  EXPECT_EQ(x87().opcode, 0x147);
}

TEST_F(X87, StoredEnvironmentMasksAllExceptions) {
  divide_by_zero_unmasked();
  EXPECT_EQ(run({0xD9, 0x33}), Flow::next);  // fnstenv does not wait
  EXPECT_EQ(at<std::uint32_t>(0), 0xFFFF037Bu);
  EXPECT_EQ(at<std::uint32_t>(4) & 0x8084, 0x8084u);
  EXPECT_EQ(x87().control, 0x37F);
  EXPECT_EQ(x87().status & 0x8080, 0);
}

TEST_F(X87, TagWordTellsZeroSpecialValidAndEmpty) {
  run({0xD9, 0xEE});            // fldz: R7
  run({0xD9, 0xE8});            // fld1: R6
  put<std::uint64_t>(0x40, 1);  // a denormal
  put<std::uint16_t>(0x48, 0);
  EXPECT_EQ(run({0xDB, 0x6B, 0x40}), Flow::next);  // fld tbyte [ebx+40h]: R5
  EXPECT_EQ(x87_full_tags(x87()), 0b01'00'10'11'11'11'11'11);
}

TEST_F(X87, SavedStateComesBackWithItsStack) {
  run({0xD9, 0xE8});
  run({0xD9, 0xEB});                         // fldpi
  EXPECT_EQ(run({0xDD, 0x33}), Flow::next);  // fnsave [ebx]
  EXPECT_EQ(x87().tag, 0xFFFF);
  EXPECT_EQ(x87().control, 0x37F);
  EXPECT_EQ(at<std::uint64_t>(28), 0xC90FDAA22168C235u);
  EXPECT_EQ(at<std::uint16_t>(36), 0x4000);
  EXPECT_EQ(at<std::uint64_t>(38), 0x8000000000000000u);
  EXPECT_EQ(at<std::uint16_t>(46), 0x3FFF);
  EXPECT_EQ(run({0xDD, 0x23}), Flow::next);  // frstor [ebx]
  EXPECT_EQ(x87_full_tags(x87()), 0x0FFF);
  EXPECT_EQ(x87().status & 0x3800, 6 << 11);
  EXPECT_EQ(x87().registers[6], (F80Bits{0xC90FDAA22168C235, 0x4000}));
}

// SDM vol. 1, 8.7: the next waiting instruction reports it.
TEST_F(X87, PendingExceptionFaultsTheNextWaitingInstruction) {
  divide_by_zero_unmasked();
  EXPECT_EQ(x87().ip, 0x23456u);
  EXPECT_EQ(x87().opcode, 0x6F9);
  for (const auto& insn : {std::initializer_list<std::uint8_t>{0xD9, 0xE8}, {0x9B}, {0xD9, 0xD0}, {0xD9, 0x03}}) {
    EXPECT_EQ(run(insn), Flow::fault);
    EXPECT_EQ(machine.core().fault().vector, kMF);
    EXPECT_FALSE(machine.core().fault().has_error);
  }
  EXPECT_EQ(run({0xDF, 0xE0}), Flow::next);  // fnstsw ax
  EXPECT_EQ(machine.state().gpr[kRax] & 0xFF, 0x84u);
  EXPECT_EQ(run({0xDB, 0xE2}), Flow::next);  // fnclex
  EXPECT_EQ(run({0x9B}), Flow::next);
}

TEST_F(X87, WithoutNumericErrorTheWireIsPulledAndTheInstructionWaits) {
  divide_by_zero_unmasked();
  machine.state().cr0 &= ~std::uint64_t{kCr0Ne};
  EXPECT_EQ(run({0xD9, 0xE8}), Flow::repeat);
  EXPECT_EQ(machine.ferr_pulled, 1u);
  const std::uint16_t top = x87().status & 0x3800;
  machine.ignne = true;
  EXPECT_EQ(run({0xD9, 0xE8}), Flow::next);
  EXPECT_NE(x87().status & 0x3800, top);
}

// SDM vol. 1, 8.7.2 and ICH9 "Coprocessor Error": IGNNE# goes when FERR# does, so the chipset must hear of that.
TEST_F(X87, TakingTheExceptionAwayLetsTheWireFall) {
  put<std::uint16_t>(0, 0x37F);
  for (const auto& insn : {std::initializer_list<std::uint8_t>{0xDB, 0xE2}, {0xDB, 0xE3}, {0xD9, 0x73, 0x40}, {0xDD, 0x73, 0x40}}) {
    run({0xDB, 0xE3});
    divide_by_zero_unmasked();
    machine.state().cr0 &= ~std::uint64_t{kCr0Ne};
    EXPECT_EQ(run({0xD9, 0xE8}), Flow::repeat);
    EXPECT_TRUE(machine.ferr);
    EXPECT_EQ(run(insn), Flow::next);  // fnclex, fninit, fnstenv, fnsave
    EXPECT_FALSE(machine.ferr);
  }
  divide_by_zero_unmasked();
  EXPECT_EQ(run({0xD9, 0xE8}), Flow::repeat);
  machine.ignne = true;
  EXPECT_EQ(run({0xD9, 0x2B}), Flow::next);  // fldcw with every exception masked
  EXPECT_FALSE(machine.ferr);
}

TEST_F(X87, UnmaskingAnOldFlagMakesItPending) {
  run({0xD9, 0xE8});
  run({0xD9, 0xEE});
  run({0xDE, 0xF9});
  EXPECT_EQ(x87().status & 0x8084, 4);
  put<std::uint16_t>(0, 0x37B);
  EXPECT_EQ(run({0xD9, 0x2B}), Flow::next);
  EXPECT_EQ(x87().status & 0x8084, 0x8084);
}

TEST_F(X87, StoreThatFaultsChangesNothing) {
  run({0xD9, 0xEB});
  const X87State before = x87();
  machine.state().seg[kDs].limit = static_cast<std::uint32_t>(kBase + 2);
  machine.core().update_mode();
  EXPECT_EQ(run({0xD9, 0x1B}), Flow::fault);  // fstp dword [ebx] would be inexact
  EXPECT_EQ(machine.core().fault().vector, kGP);
  EXPECT_EQ(x87().status, before.status);
  EXPECT_EQ(x87().tag, before.tag);
  EXPECT_EQ(x87().ip, before.ip);
  EXPECT_EQ(run({0xDD, 0x33}), Flow::fault);  // fnsave [ebx]
  EXPECT_EQ(x87().tag, before.tag);
  EXPECT_EQ(at<std::uint16_t>(0), 0);
}

// SDM vol. 1, 8.5.1.1: SF with C1 telling the direction.
TEST_F(X87, StackFaultsTellOverflowFromUnderflow) {
  EXPECT_EQ(run({0xD9, 0xFA}), Flow::next);  // fsqrt of an empty register
  EXPECT_EQ(x87().status & 0x241, 0x41);
  EXPECT_EQ(x87().registers[0], (F80Bits{0xC000000000000000, 0xFFFF}));
  run({0xDB, 0xE3});
  for (int i = 0; i < 8; ++i) run({0xD9, 0xE8});
  EXPECT_EQ(x87().status & 0x241, 0);
  run({0xD9, 0xE8});
  EXPECT_EQ(x87().status & 0x241, 0x241);
  EXPECT_EQ(x87().registers[7], (F80Bits{0xC000000000000000, 0xFFFF}));
}

}  // namespace
}  // namespace husk::cpu::interp
