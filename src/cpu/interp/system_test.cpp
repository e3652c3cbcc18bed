// husk: tests of control and debug registers, MSRs, flags, ports and waiting against SDM vol. 2 to 4
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

class System : public CoreFixture {
 protected:
  bool accepts(unsigned cr, std::uint64_t value) {
    const Flow flow = core->write_cr(cr, value);
    if (flow == Flow::fault) {
      EXPECT_EQ(core->fault().vector, kGP);
      EXPECT_EQ(core->fault().error, 0u);
    }
    return flow != Flow::fault;
  }
};

// ---- CR0 ----

TEST_F(System, Cr0Consistency) {
  protected_mode();
  EXPECT_FALSE(accepts(0, kCr0Pg)) << "PG without PE";
  EXPECT_FALSE(accepts(0, core->s.cr0 | kCr0Nw)) << "NW without CD";
  EXPECT_TRUE(accepts(0, core->s.cr0 | kCr0Nw | kCr0Cd));
  EXPECT_TRUE(accepts(0, kCr0Pe));
  EXPECT_TRUE(core->s.cr0 & kCr0Et) << "ET is always 1";
  EXPECT_FALSE(accepts(0, kCr0Pe | (std::uint64_t{1} << 32)));
}
TEST_F(System, PagingWithLmeActivatesLongMode) {
  protected_mode();
  put<std::uint64_t>(kPml4, 0);
  with_state([](CpuState& s) {
    s.cr3 = kPml4;
    s.efer = kEferLme;
  });
  EXPECT_FALSE(accepts(0, core->s.cr0 | kCr0Pg)) << "needs CR4.PAE";
  EXPECT_FALSE(core->s.efer & kEferLma);
  ASSERT_TRUE(accepts(4, kCr4Pae));
  ASSERT_TRUE(accepts(0, core->s.cr0 | kCr0Pg));
  EXPECT_TRUE(core->s.efer & kEferLma);
  ASSERT_TRUE(accepts(0, core->s.cr0 & ~std::uint64_t{kCr0Pg}));
  EXPECT_FALSE(core->s.efer & kEferLma);
}
TEST_F(System, LongModeCannotBeEnteredWithA64BitCodeSegmentOr16BitTss) {
  protected_mode();
  with_state([](CpuState& s) {
    s.efer = kEferLme;
    s.cr4 = kCr4Pae;
    s.tr.attributes = kTss16 | 2;
  });
  model.vendor = "GenuineIntel";
  EXPECT_FALSE(accepts(0, core->s.cr0 | kCr0Pg));
  with_state([](CpuState& s) {
    s.tr.attributes = kTss32 | 2;
    s.seg[kCs].attributes = kCode64;
  });
  EXPECT_FALSE(accepts(0, core->s.cr0 | kCr0Pg));
}
// After INIT a CPU under KVM has one (APM vol. 2, 14.6.2 lists no such check).
TEST_F(System, AmdEntersLongModeWithA16BitTss) {
  protected_mode();
  with_state([](CpuState& s) {
    s.efer = kEferLme;
    s.cr4 = kCr4Pae;
    s.tr.attributes = kTss16 | 2;
  });
  EXPECT_TRUE(accepts(0, core->s.cr0 | kCr0Pg));
}
TEST_F(System, PagingCannotBeTurnedOffIn64BitMode) {
  long_mode();
  EXPECT_FALSE(accepts(0, core->s.cr0 & ~std::uint64_t{kCr0Pg}));
}
TEST_F(System, LmswSetsButNeverClearsPe) {
  protected_mode();
  core->s.gpr[kRax] = kCr0Ts;
  EXPECT_FALSE(step({0x0F, 0x01, 0xF0}).has_value());  // lmsw ax
  EXPECT_EQ(core->s.cr0 & 0xF, std::uint64_t{kCr0Pe | kCr0Ts});
  EXPECT_FALSE(step({0x0F, 0x06}).has_value());  // clts
  EXPECT_EQ(core->s.cr0 & 0xF, std::uint64_t{kCr0Pe});
}
TEST_F(System, ProtectedModeEntryFromRealModeRunsAtRing0) {
  real_mode();
  with_state([](CpuState& s) {
    s.seg[kCs].selector = 0x1003;  // RPL bits that mean nothing here
    s.seg[kCs].base = 0x10030;
  });
  ASSERT_TRUE(accepts(0, core->s.cr0 | kCr0Pe));
  EXPECT_EQ(core->cpl(), 0u);
}

// ---- CR3, CR4, CR8 ----

TEST_F(System, Cr3ReservedBits) {
  long_mode();
  EXPECT_FALSE(accepts(3, kPml4 | (std::uint64_t{1} << 40))) << "beyond MAXPHYADDR";
  EXPECT_FALSE(accepts(3, kPml4 | (std::uint64_t{1} << 63))) << "bit 63 without PCIDE";
  EXPECT_TRUE(accepts(3, kPml4 | 0x18));
}
TEST_F(System, Cr4Consistency) {
  long_mode();
  const std::uint64_t cr4 = core->s.cr4;
  EXPECT_FALSE(accepts(4, cr4 & ~std::uint64_t{kCr4Pae})) << "PAE is needed in long mode";
  EXPECT_FALSE(accepts(4, cr4 | kCr4La57)) << "LA57 is fixed in long mode";
  EXPECT_FALSE(accepts(4, cr4 | (1u << 13))) << "VMX is not there";
  EXPECT_FALSE(accepts(4, cr4 | (std::uint64_t{1} << 32)));
  ASSERT_TRUE(accepts(3, kPml4 | 1));
  EXPECT_FALSE(accepts(4, cr4 | kCr4Pcide)) << "CR3[11:0] must be 0";
  ASSERT_TRUE(accepts(3, kPml4));
  EXPECT_TRUE(accepts(4, cr4 | kCr4Pcide));
  protected_mode();
  EXPECT_FALSE(accepts(4, kCr4Pcide)) << "PCIDE needs long mode";
}
TEST_F(System, Cr8IsTheTaskPriority) {
  long_mode();
  EXPECT_FALSE(accepts(8, 16));
  EXPECT_TRUE(accepts(8, 9));
  EXPECT_EQ(interrupts.priority, 9);
  EXPECT_FALSE(step({0x44, 0x0F, 0x20, 0xC0}).has_value());  // mov rax, cr8
  EXPECT_EQ(core->s.gpr[kRax], 9u);
}
TEST_F(System, UndefinedControlRegisters) {
  protected_mode();
  for (const unsigned modrm : {0xC8u, 0xE8u, 0xF0u, 0xF8u}) {  // CR1, CR5, CR6, CR7
    protected_mode();
    expect_fault(step({0x0F, 0x20, modrm}), kUD);
  }
}
TEST_F(System, ControlRegistersNeedRing0) {
  long_mode(3);
  expect_fault(step({0x0F, 0x20, 0xC0}), kGP, 0);
}

// ---- debug registers ----

TEST_F(System, DebugRegister4And5AliasUnlessDe) {
  long_mode();
  core->s.gpr[kRax] = 0x401;
  EXPECT_FALSE(step({0x0F, 0x23, 0xE8}).has_value());  // mov dr5, rax
  EXPECT_EQ(core->s.dr7, 0x401u);
  with_state([](CpuState& s) {
    s.cr4 |= kCr4De;
    s.dr7 = 0x400;
  });
  expect_fault(step({0x0F, 0x23, 0xE8}), kUD);
}
TEST_F(System, DebugRegistersKeepFixedBits) {
  long_mode();
  core->s.gpr[kRax] = 0;
  EXPECT_FALSE(step({0x0F, 0x23, 0xF0}).has_value());  // mov dr6, rax
  EXPECT_EQ(core->s.dr6, 0xFFFF0FF0u);
  core->s.gpr[kRax] = 0xFFFFFFFF & ~0x20FFu;
  EXPECT_FALSE(step({0x0F, 0x23, 0xF8}).has_value());  // mov dr7, rax
  EXPECT_EQ(core->s.dr7, 0xFFFF0700u);
  core->s.gpr[kRax] = std::uint64_t{1} << 32;
  expect_fault(step({0x0F, 0x23, 0xF8}), kGP, 0);
}

// ---- MSRs ----

TEST_F(System, EferConsistency) {
  long_mode();
  const std::uint64_t efer = core->s.efer;
  EXPECT_FALSE(core->write_msr(0xC0000080, efer & ~std::uint64_t{kEferLme})) << "LME is fixed while paging is on";
  ASSERT_TRUE(core->write_msr(0xC0010114, 0x18));
  EXPECT_FALSE(core->write_msr(0xC0000080, efer | kEferSvme)) << "VM_CR.SVMDIS";
  EXPECT_TRUE(core->write_msr(0xC0010114, 0));
  EXPECT_FALSE(core->write_msr(0xC0000080, efer | kEferSvme)) << "VM_CR.LOCK";
  EXPECT_FALSE(core->write_msr(0xC0000080, efer | (1u << 1)));
  EXPECT_TRUE(core->write_msr(0xC0000080, efer & ~std::uint64_t{kEferLma | kEferSce}));
  EXPECT_TRUE(core->s.efer & kEferLma) << "LMA is read-only";
  EXPECT_FALSE(core->s.efer & kEferSce);
}
TEST_F(System, AddressMsrsMustBeCanonical) {
  long_mode();
  for (const std::uint32_t index : {0xC0000082u, 0xC0000083u, 0xC0000100u, 0xC0000101u, 0xC0000102u, 0x175u, 0x176u}) {
    EXPECT_FALSE(core->write_msr(index, 0x0100000000000000)) << std::hex << index;
    EXPECT_TRUE(core->write_msr(index, 0xFFFF800000000000)) << std::hex << index;
    EXPECT_EQ(core->read_msr(index), 0xFFFF800000000000u) << std::hex << index;
  }
}
TEST_F(System, PatTypesAreChecked) {
  EXPECT_TRUE(core->write_msr(0x277, 0x0007010600070106));
  EXPECT_FALSE(core->write_msr(0x277, 0x0007010600070206)) << "type 2 is reserved";
  EXPECT_FALSE(core->write_msr(0x277, 0x0807010600070106));
}
TEST_F(System, MtrrsAreChecked) {
  EXPECT_EQ(*core->read_msr(0xFE) & 0xFF, 8u);
  EXPECT_TRUE(core->write_msr(0x2FF, 0xC06));
  EXPECT_FALSE(core->write_msr(0x2FF, 0xC02));
  EXPECT_FALSE(core->write_msr(0x2FF, 0x100));
  EXPECT_TRUE(core->write_msr(0x200, 0xC0000006));
  EXPECT_FALSE(core->write_msr(0x200, std::uint64_t{1} << 40));
  EXPECT_TRUE(core->write_msr(0x201, 0xFFC0000800));
  EXPECT_FALSE(core->write_msr(0x201, 0xFFC0000001));
  EXPECT_TRUE(core->write_msr(0x250, 0x0606060606060606));
  EXPECT_FALSE(core->write_msr(0x250, 0x0606060606060603));
  EXPECT_FALSE(core->write_msr(0xFE, 0)) << "read-only";
}
TEST_F(System, TscWritesMoveTheOffsetAndAdjustFollows) {
  clock.advance(1000);
  EXPECT_EQ(core->read_msr(0x10), 1000u);
  EXPECT_TRUE(core->write_msr(0x10, 5000));
  EXPECT_EQ(core->read_msr(0x10), 5000u);
  EXPECT_EQ(core->read_msr(0x3B), 4000u);
  EXPECT_TRUE(core->write_msr(0x3B, 0));
  EXPECT_EQ(core->read_msr(0x10), 1000u);
}
TEST_F(System, UnknownMsrFaults) {
  long_mode();
  core->s.gpr[kRcx] = 0x12345;
  expect_fault(step({0x0F, 0x32}), kGP, 0);
  long_mode();
  core->s.gpr[kRcx] = 0x12345;
  expect_fault(step({0x0F, 0x30}), kGP, 0);
}
TEST_F(System, MsrsReadUnguardedByLinuxOnAmdExist) {
  for (const std::uint32_t index : {0x8Bu, 0xC0010010u, 0xC0010015u, 0xC001001Au, 0xC001001Du, 0xC0010055u, 0xC0010114u,
                                    0xC0011029u, 0x179u, 0x17Au, 0x1A0u, 0x1D9u})
    EXPECT_TRUE(core->read_msr(index).has_value()) << std::hex << index;
  EXPECT_TRUE(*core->read_msr(0xC0010015) & (1u << 24)) << "HWCR.TscFreqSel, or Linux warns";
}
TEST_F(System, MachineCheckStatusTakesZeroOnly) {
  EXPECT_TRUE(core->write_msr(0x401, 0));
  EXPECT_FALSE(core->write_msr(0x401, 1));
  EXPECT_TRUE(core->write_msr(0x400, ~std::uint64_t{0}));
  EXPECT_FALSE(core->read_msr(0x428).has_value()) << "ten banks";
}

// ---- flags ----

TEST_F(System, PopfKeepsWhatTheLevelMayNotChange) {
  protected_mode(3);
  core->s.gpr[kRsp] -= 4;
  put<std::uint32_t>(core->s.gpr[kRsp], kIF | kIOPL | kVM | kVIF | kRF | kDF | kAC | kID | kCF);
  EXPECT_FALSE(step({0x9D}).has_value());
  EXPECT_EQ(core->s.rflags, std::uint64_t{kDF | kAC | kID | kCF | kReservedOne});
  protected_mode(0);
  core->s.gpr[kRsp] -= 4;
  put<std::uint32_t>(core->s.gpr[kRsp], kIF | kIOPL | kVM | kVIF | kRF | kDF);
  EXPECT_FALSE(step({0x9D}).has_value());
  EXPECT_EQ(core->s.rflags, std::uint64_t{kIF | kIOPL | kDF | kReservedOne});
}
TEST_F(System, SixteenBitPopfLeavesTheUpperFlags) {
  protected_mode(0);
  core->s.rflags |= kAC | kID;
  put<std::uint16_t>(core->s.gpr[kRsp], 0);
  EXPECT_FALSE(step({0x66, 0x9D}).has_value());
  EXPECT_EQ(core->s.rflags, std::uint64_t{kAC | kID | kReservedOne});
}
TEST_F(System, PushfHidesRfAndVm) {
  long_mode();
  core->s.rflags |= kRF | kCF;
  EXPECT_FALSE(step({0x9C}).has_value());
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), std::uint64_t{kCF | kReservedOne});
}
TEST_F(System, StiShadowsOneInstruction) {
  long_mode();
  core->s.idtr.limit = 0xFFF;
  interrupts.vector = 0x40;
  core->interrupt_changed();
  EXPECT_FALSE(step({0xFB}).has_value());
  EXPECT_TRUE(core->s.interrupt_shadow);
  EXPECT_FALSE(step({0x90}).has_value()) << "the instruction after STI runs first";
  expect_fault(step(), 0x40);
}
TEST_F(System, StacAndClacNeedRing0) {
  long_mode();
  EXPECT_FALSE(step({0x0F, 0x01, 0xCB}).has_value());
  EXPECT_TRUE(core->s.rflags & kAC);
  long_mode(3);
  expect_fault(step({0x0F, 0x01, 0xCB}), kUD);
}

// ---- ports ----

TEST_F(System, PortsNeedIoplOrTheBitmap) {
  long_mode(3);
  expect_fault(step({0xE4, 0x60}), kGP, 0);  // the bitmap lies beyond the TSS
  protected_mode(3);
  EXPECT_FALSE(step({0xE4, 0x60}).has_value()) << "its bit is clear";
  put<std::uint8_t>(kTss + 0x88 + 12, 0x02);  // port 61h
  EXPECT_FALSE(step({0xE4, 0x60}).has_value());
  expect_fault(step({0xE5, 0x60}), kGP, 0);  // in eax, 60h takes 61h too
  protected_mode(3);
  core->s.rflags |= kIOPL;
  EXPECT_FALSE(step({0xE5, 0x60}).has_value());
}
TEST_F(System, ReadOfNoPortIsAllOnes) {
  real_mode();
  EXPECT_FALSE(step({0xE4, 0x60}).has_value());
  EXPECT_EQ(core->s.gpr[kRax] & 0xFF, 0xFFu);
}

// ---- time, waiting, identification ----

TEST_F(System, RdtscHonoursTsd) {
  long_mode(3);
  clock.advance(0x100000001);
  EXPECT_FALSE(step({0x0F, 0x31}).has_value());
  EXPECT_EQ(core->s.gpr[kRax], 1u);
  EXPECT_EQ(core->s.gpr[kRdx], 1u);
  with_state([](CpuState& s) { s.cr4 |= kCr4Tsd; });
  expect_fault(step({0x0F, 0x31}), kGP, 0);
}
TEST_F(System, HltWaitsForAnInterrupt) {
  long_mode();
  core->s.rflags |= kIF;
  EXPECT_FALSE(step({0xF4}).has_value());
  EXPECT_EQ(core->s.activity, Activity::halted);
  core->debug.single_step = false;
  EXPECT_EQ(core->run(100), RunExit::halted);
  interrupts.vector = 0x40;
  core->interrupt_changed();
  EXPECT_TRUE(core->runnable());
  expect_fault(step(), 0x40);
  EXPECT_EQ(get<std::uint64_t>(kStack - 40), kCode + 1);
}
TEST_F(System, MwaitWaitsUntilTheLineIsWritten) {
  ASSERT_TRUE(edit_features(model, "+monitor"));
  long_mode();
  with_state([](CpuState& s) {
    s.gpr[kRax] = kData;
    s.gpr[kRcx] = s.gpr[kRdx] = 0;
  });
  EXPECT_FALSE(step({0x0F, 0x01, 0xC8}).has_value());  // monitor
  EXPECT_FALSE(step({0x0F, 0x01, 0xC9}).has_value());  // mwait
  EXPECT_EQ(core->s.activity, Activity::mwait);
  EXPECT_FALSE(core->runnable());
  put<std::uint8_t>(kData + 63, 1);
  EXPECT_TRUE(core->runnable());
  EXPECT_FALSE(step({0x90}).has_value());
  EXPECT_EQ(core->s.activity, Activity::running);
  EXPECT_FALSE(step({0x0F, 0x01, 0xC9}).has_value()) << "the line was written before: no wait";
  EXPECT_EQ(core->s.activity, Activity::running);
}
TEST_F(System, CpuidShowsOsxsaveOnceSet) {
  long_mode();
  core->s.gpr[kRax] = 1;
  EXPECT_FALSE(step({0x0F, 0xA2}).has_value());
  EXPECT_FALSE(core->s.gpr[kRcx] & (1u << 27));
  with_state([](CpuState& s) {
    s.cr4 |= kCr4Osxsave;
    s.gpr[kRax] = 1;
  });
  EXPECT_FALSE(step({0x0F, 0xA2}).has_value());
  EXPECT_TRUE(core->s.gpr[kRcx] & (1u << 27));
}
TEST_F(System, InvpcidChecksItsDescriptor) {
  long_mode();
  core->s.gpr[kRdi] = kData;
  core->s.gpr[kRax] = 0;
  put<std::uint64_t>(kData, 0);
  put<std::uint64_t>(kData + 8, kCode);
  EXPECT_FALSE(step({0x66, 0x0F, 0x38, 0x82, 0x07}).has_value());
  put<std::uint64_t>(kData + 8, 0x0000800000000000);
  expect_fault(step({0x66, 0x0F, 0x38, 0x82, 0x07}), kGP, 0);
  long_mode();
  core->s.gpr[kRdi] = kData;
  core->s.gpr[kRax] = 1;
  put<std::uint64_t>(kData, 5);
  expect_fault(step({0x66, 0x0F, 0x38, 0x82, 0x07}), kGP, 0);  // a PCID without PCIDE
  long_mode();
  core->s.gpr[kRdi] = kData;
  core->s.gpr[kRax] = 4;
  expect_fault(step({0x66, 0x0F, 0x38, 0x82, 0x07}), kGP, 0);
}
TEST_F(System, ProtectionKeyInstructions) {
  long_mode(3);
  core->s.gpr[kRcx] = 0;
  expect_fault(step({0x0F, 0x01, 0xEE}), kUD);  // rdpkru without CR4.PKE
  long_mode(3);
  with_state([](CpuState& s) {
    s.cr4 |= kCr4Pke;
    s.gpr[kRax] = 0x12345678;
    s.gpr[kRcx] = s.gpr[kRdx] = 0;
  });
  EXPECT_FALSE(step({0x0F, 0x01, 0xEF}).has_value());
  EXPECT_EQ(core->s.pkru, 0x12345678u);
  core->s.gpr[kRdx] = 1;
  expect_fault(step({0x0F, 0x01, 0xEF}), kGP, 0);
}

}  // namespace
}  // namespace husk::cpu::interp
