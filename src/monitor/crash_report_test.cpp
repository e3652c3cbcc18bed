// husk: tests of crash reports
#include "monitor/crash_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "boot/symbols.h"
#include "cpu/model.h"
#include "testing/test_machine.h"

namespace husk::monitor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Linux links at FFFFFFFF81000000h and is loaded at 1000000h (Documentation/arch/x86/boot.rst,
// Documentation/arch/x86/x86_64/mm.rst).
constexpr std::uint64_t kLinkBase = 0xFFFF'FFFF'8000'0000;

struct CrashReportTest : ::testing::Test {
  CrashReportTest() {
    symbols.add(kLinkBase + 0x3000, 0x100, "startup_64");
    symbols.add(kLinkBase + 0x3100, 0x100, "secondary_startup_64");
    symbols.finish();
    state.cr0 = cpu::kCr0Pe;
    state.seg[cpu::kCs] = {.selector = 0x10, .attributes = 0x209B | 0x80, .limit = 0xFFFF'FFFF, .base = 0};
    state.activity = cpu::Activity::shutdown;
  }
  /// Four-level tables that map the first 2 MiB to `physical`.
  void turn_paging_on(std::uint64_t physical) {
    machine.memory.store<std::uint64_t>(0x8000, 0x9003);
    machine.memory.store<std::uint64_t>(0x9000, 0xA003);
    machine.memory.store<std::uint64_t>(0xA000, physical | 0x83);
    state.cr3 = 0x8000;
    state.cr4 = cpu::kCr4Pae;
    state.efer = cpu::kEferLme | cpu::kEferLma;
    state.cr0 |= cpu::kCr0Pg;
  }
  std::string report(std::uint64_t offset) {
    const std::array<const boot::SymbolTable*, 1> tables{&symbols};
    return crash_report({"CPU 0: triple fault", state, model, machine.memory_space, past, tables, 0, offset});
  }

  ::husk::testing::TestMachine machine{4 << 20};
  cpu::CpuModel model = cpu::cpu_model("max").value();
  cpu::CpuState state;
  std::vector<accel::PastEvent> past;
  boot::SymbolTable symbols;
};

TEST_F(CrashReportTest, RipAtItsLinkAddressIsNamed) {
  state.rip = kLinkBase + 0x3110;
  EXPECT_THAT(report(0), HasSubstr("<secondary_startup_64+0x10>"));
}

TEST_F(CrashReportTest, PhysicalRipIsNamedThroughTheLoadersOffset) {
  turn_paging_on(0);
  state.rip = 0x3110;
  past.push_back({.vector = 13, .has_error = true, .cs = 0x10, .rip = 0x3010});
  const std::string text = report(kLinkBase);
  EXPECT_THAT(text, HasSubstr("-- code at 0x3110 <secondary_startup_64+0x10>"));
  EXPECT_THAT(text, HasSubstr("at 0010:0x3010 <startup_64+0x10>"));
  EXPECT_THAT(text, HasSubstr("#GP at 0x3010 <startup_64+0x10> could not be delivered"));
}

TEST_F(CrashReportTest, PhysicalRipWithoutPagingIsNamedToo) {
  state.rip = 0x3000;
  EXPECT_THAT(report(kLinkBase), HasSubstr("-- code at 0x3000 <startup_64>"));
}

TEST_F(CrashReportTest, AUserAddressOfTheSameNumberIsNotNamed) {
  turn_paging_on(0x20'0000);
  state.rip = 0x3110;
  EXPECT_THAT(report(kLinkBase), Not(HasSubstr("startup_64")));
}

TEST_F(CrashReportTest, WithoutAnOffsetPhysicalAddressesStayNumbers) {
  state.rip = 0x3110;
  EXPECT_THAT(report(0), Not(HasSubstr("startup_64")));
}

TEST_F(CrashReportTest, PageFaultIsWalkedEntryByEntry) {
  turn_paging_on(0);
  state.rip = 0x3110;
  past.push_back({.vector = 14, .has_error = true, .error = 2, .cr2 = 0x4000'0000, .cs = 0x10, .rip = 0x3110});
  const std::string text = report(kLinkBase);
  EXPECT_THAT(text, HasSubstr("-- page walk of 0x40000000 (write by supervisor)"));
  EXPECT_THAT(text, HasSubstr("0x0000009008 = 0x0000000000000000 (not present)"));
  EXPECT_THAT(text, HasSubstr("not present: the walk ends here"));
}

}  // namespace
}  // namespace husk::monitor
