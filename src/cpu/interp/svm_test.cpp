// husk: tests of SVM that no guest can make: a CPU whose state is taken out while its guest's guest runs
#include <gtest/gtest.h>

#include "cpu/interp/core_fixture.h"
#include "cpu/interp/svm.h"
#include "cpu/state_check.h"

namespace husk::cpu::interp {
namespace {

class Svm : public CoreFixture {
 protected:
  static constexpr std::uint64_t kVmcb = 0x200000, kMaps = 0x201000;

  void segment(unsigned offset, const Segment& from) {
    put<std::uint16_t>(kVmcb + offset, from.selector);
    put<std::uint16_t>(kVmcb + offset + 2,
                       static_cast<std::uint16_t>((from.attributes & 0xFF) | (from.attributes >> 4 & 0xF00)));
    put<std::uint32_t>(kVmcb + offset + 4, from.limit);
    put<std::uint64_t>(kVmcb + offset + 8, from.base);
  }
  /// VMRUN at kCode; the guest begins at kHandlers with `code` and has the host's address space.
  void begin(std::initializer_list<std::uint8_t> code) {
    long_mode();
    core->s.efer |= kEferSvme;
    core->set_state(core->s);
    put<std::uint32_t>(kVmcb + kVmcbIntercepts + 16, 3);  // VMRUN, VMMCALL
    put<std::uint64_t>(kVmcb + kVmcbIoMap, kMaps);
    put<std::uint64_t>(kVmcb + kVmcbMsrMap, kMaps);
    put<std::uint32_t>(kVmcb + kVmcbAsid, 5);
    for (unsigned i = 0; i < 4; ++i) segment(kVmcbSegments + 16 * i, core->s.seg[i]);
    put<std::uint64_t>(kVmcb + kVmcbEfer, core->s.efer);
    put<std::uint64_t>(kVmcb + kVmcbCr0, core->s.cr0);
    put<std::uint64_t>(kVmcb + kVmcbCr3, core->s.cr3);
    put<std::uint64_t>(kVmcb + kVmcbCr4, core->s.cr4);
    put<std::uint64_t>(kVmcb + kVmcbDr6, 0xFFFF0FF0);
    put<std::uint64_t>(kVmcb + kVmcbDr7, 0x400);
    put<std::uint64_t>(kVmcb + kVmcbRflags, 2);
    put<std::uint64_t>(kVmcb + kVmcbRip, kHandlers);
    std::uint64_t at = kHandlers;
    for (const std::uint8_t byte : code) put<std::uint8_t>(at++, byte);
    at = kCode;
    for (const int byte : {0x0F, 0x01, 0xD8, 0xF4}) put<std::uint8_t>(at++, static_cast<std::uint8_t>(byte));
    core->s.gpr[kRax] = kVmcb;
  }
};

// inc ebx; vmmcall: one CPU enters the guest, another with the same state goes on in it and leaves it.
TEST_F(Svm, AnotherCpuGoesOnInTheGuest) {
  begin({0xFF, 0xC3, 0x0F, 0x01, 0xD9});
  core->s.gpr[kRbx] = 6;
  (void)core->run(1);
  ASSERT_TRUE(core->s.svm.guest);
  ASSERT_EQ(core->s.rip, kHandlers);
  const CpuState carried = core->whole_state();
  ASSERT_TRUE(check_state(carried, model));
  Core other(CoreDeps{
      .index = 0, .model = model, .memory = memory, .io = io, .interrupts = interrupts, .clock = clock, .log = log});
  other.set_whole_state(carried);
  EXPECT_EQ(other.run(100), RunExit::halted);
  EXPECT_FALSE(other.s.svm.guest);
  EXPECT_FALSE(other.s.svm.gif);
  EXPECT_EQ(other.s.gpr[kRbx], 7u);
  EXPECT_EQ(other.s.gpr[kRax], kVmcb);
  EXPECT_EQ(get<std::uint64_t>(kVmcb + kVmcbExitCode), kExitVmmcall);
  EXPECT_EQ(get<std::uint64_t>(kVmcb + kVmcbRip), kHandlers + 2);
}

// What the guest writes over its VMCB while it runs changes nothing of what is intercepted (APM vol. 2, 15.5.1).
TEST_F(Svm, TheVmcbIsReadOnce) {
  begin({0x0F, 0xA2, 0x0F, 0x01, 0xD9});  // cpuid; vmmcall
  put<std::uint32_t>(kVmcb + kVmcbIntercepts + 12, 1u << 18);
  (void)core->run(1);
  put<std::uint32_t>(kVmcb + kVmcbIntercepts + 12, 0);
  EXPECT_EQ(core->run(100), RunExit::halted);
  EXPECT_EQ(get<std::uint64_t>(kVmcb + kVmcbExitCode), kExitCpuid);
}

// A VMCB in no memory reads as something that VMRUN refuses, and the host goes on.
TEST_F(Svm, AVmcbBeyondMemoryIsRefused) {
  begin({0xF4});
  core->s.gpr[kRax] = 0x4000'0000;
  EXPECT_EQ(core->run(100), RunExit::halted);
  EXPECT_FALSE(core->s.svm.guest);
  EXPECT_EQ(core->s.rip, kCode + 4);
}

}  // namespace
}  // namespace husk::cpu::interp
