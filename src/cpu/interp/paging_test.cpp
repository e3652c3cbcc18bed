// husk: tests of address translation against SDM vol. 3, chapter 4
#include "cpu/interp/core_fixture.h"

namespace husk::cpu::interp {
namespace {

constexpr std::uint64_t kXd = std::uint64_t{1} << 63;

class Paging : public CoreFixture {
 protected:
  /// Maps `linear` (below 1 GiB) to `entry` by a 4 KiB page of its own table.
  void map_page(std::uint64_t linear, std::uint64_t entry, std::uint64_t pde_flags = 7) {
    put<std::uint64_t>(kPd + (linear >> 21) * 8, kPt | pde_flags);
    put<std::uint64_t>(kPt + ((linear >> 12) & 511) * 8, entry);
    core->flush_tlb_all();
  }
  std::optional<std::uint64_t> translated(std::uint64_t linear, AccessKind kind = AccessKind::read, bool user = false) {
    Translation t;
    return core->translate(linear, kind, user, t) ? std::optional(t.gpa) : std::nullopt;
  }
  std::uint32_t page_fault(std::uint64_t linear, AccessKind kind = AccessKind::read, bool user = false) {
    Translation t;
    EXPECT_FALSE(core->translate(linear, kind, user, t));
    EXPECT_EQ(core->fault().vector, kPF_);
    EXPECT_EQ(core->fault().cr2, linear);
    return core->fault().error;
  }
};

constexpr std::uint64_t kPage = 0x800000;  // first address that long_mode() leaves unmapped

TEST_F(Paging, MapsTwoMegabytePages) {
  long_mode();
  EXPECT_EQ(translated(0x212345), 0x212345u);
  Translation t;
  ASSERT_TRUE(core->translate(0x212345, AccessKind::read, false, t));
  EXPECT_EQ(t.page_size, 0x200000u);
}
TEST_F(Paging, NotPresentGivesAccessKindOnly) {
  long_mode();
  EXPECT_EQ(page_fault(kPage), 0u);
  EXPECT_EQ(page_fault(kPage, AccessKind::write), unsigned{kPfWrite});
  EXPECT_EQ(page_fault(kPage, AccessKind::read, true), unsigned{kPfUser});
  EXPECT_EQ(page_fault(kPage, AccessKind::execute, true), unsigned{kPfUser | kPfFetch});
}
TEST_F(Paging, FetchBitIsReportedOnlyWithNxeOrSmep) {
  long_mode();
  with_state([](CpuState& s) { s.efer &= ~std::uint64_t{kEferNxe}; });
  EXPECT_EQ(page_fault(kPage, AccessKind::execute), 0u);
  with_state([](CpuState& s) { s.cr4 |= kCr4Smep; });
  EXPECT_EQ(page_fault(kPage, AccessKind::execute), unsigned{kPfFetch});
}
TEST_F(Paging, SetsAccessedOnReadAndDirtyOnWrite) {
  long_mode();
  map_page(kPage, 0x5000 | 3);
  EXPECT_EQ(translated(kPage + 5), 0x5005u);
  EXPECT_EQ(get<std::uint64_t>(kPt), 0x5023u);
  EXPECT_EQ(get<std::uint64_t>(kPml4) & 0x20, 0x20u);
  EXPECT_EQ(get<std::uint64_t>(kPdpt) & 0x20, 0x20u);
  EXPECT_EQ(translated(kPage, AccessKind::write), 0x5000u);
  EXPECT_EQ(get<std::uint64_t>(kPt), 0x5063u);
}
TEST_F(Paging, WritableIsReportedOnlyOnceDirty) {
  long_mode();
  map_page(kPage, 0x5000 | 3);
  Translation t;
  ASSERT_TRUE(core->translate(kPage, AccessKind::read, false, t));
  EXPECT_FALSE(t.writable);
  ASSERT_TRUE(core->translate(kPage, AccessKind::write, false, t));
  EXPECT_TRUE(t.writable);
}
TEST_F(Paging, DeniedAccessSetsNoAccessedBit) {
  long_mode();
  map_page(kPage, 0x5000 | 1);
  EXPECT_EQ(page_fault(kPage, AccessKind::write), unsigned{kPfPresent | kPfWrite});
  EXPECT_EQ(get<std::uint64_t>(kPt), 0x5001u);
}
TEST_F(Paging, ReadOnlyPageStopsSupervisorWritesOnlyWithWp) {
  long_mode();
  map_page(kPage, 0x5000 | 5);
  EXPECT_EQ(page_fault(kPage, AccessKind::write), unsigned{kPfPresent | kPfWrite});
  with_state([](CpuState& s) { s.cr0 &= ~std::uint64_t{kCr0Wp}; });
  EXPECT_EQ(translated(kPage, AccessKind::write), 0x5000u);
  EXPECT_EQ(page_fault(kPage, AccessKind::write, true), unsigned{kPfPresent | kPfWrite | kPfUser});
}
TEST_F(Paging, UserNeedsUserBitAtEveryLevel) {
  long_mode();
  map_page(kPage, 0x5000 | 7, 3);
  EXPECT_EQ(page_fault(kPage, AccessKind::read, true), unsigned{kPfPresent | kPfUser});
  EXPECT_EQ(translated(kPage), 0x5000u);
}
TEST_F(Paging, ExecuteDisableAtAnyLevelStopsFetches) {
  long_mode();
  map_page(kPage, 0x5000 | 7, 7 | kXd);
  EXPECT_EQ(page_fault(kPage, AccessKind::execute), unsigned{kPfPresent | kPfFetch});
  EXPECT_EQ(translated(kPage), 0x5000u);
}
TEST_F(Paging, ExecuteDisableIsReservedWithoutNxe) {
  long_mode();
  map_page(kPage, 0x5000 | 7 | kXd);
  with_state([](CpuState& s) { s.efer &= ~std::uint64_t{kEferNxe}; });
  EXPECT_EQ(page_fault(kPage), unsigned{kPfPresent | kPfReserved});
}
TEST_F(Paging, AddressBitsBeyondPhysicalWidthAreReserved) {
  long_mode();
  map_page(kPage, 0x5000 | 7 | (std::uint64_t{1} << 40));
  EXPECT_EQ(page_fault(kPage, AccessKind::write, true), unsigned{kPfPresent | kPfReserved | kPfWrite | kPfUser});
}
TEST_F(Paging, LowAddressBitsOfLargePageAreReserved) {
  long_mode();
  put<std::uint64_t>(kPd + 4 * 8, 0x800000 | 0x2000 | 0x87);
  EXPECT_EQ(page_fault(kPage), unsigned{kPfPresent | kPfReserved});
}
TEST_F(Paging, PageSizeBitInPml4EntryIsReserved) {
  long_mode();
  put<std::uint64_t>(kPml4, kPdpt | 0x87);
  core->flush_tlb_all();
  EXPECT_EQ(page_fault(kCode), unsigned{kPfPresent | kPfReserved});
}
TEST_F(Paging, GigabytePageMaps) {
  long_mode();
  put<std::uint64_t>(kPdpt + 8, 0x87);
  EXPECT_EQ(translated(0x40000000 + 0x123456), 0x123456u);
  put<std::uint64_t>(kPdpt + 8, 0x87 | (1 << 13));
  core->flush_tlb_all();
  EXPECT_EQ(page_fault(0x40000000), unsigned{kPfPresent | kPfReserved});
}
TEST_F(Paging, SmepStopsSupervisorFetchFromUserPage) {
  long_mode();
  map_page(kPage, 0x5000 | 7);
  with_state([](CpuState& s) { s.cr4 |= kCr4Smep; });
  EXPECT_EQ(page_fault(kPage, AccessKind::execute), unsigned{kPfPresent | kPfFetch});
  EXPECT_EQ(translated(kPage, AccessKind::execute, true), 0x5000u);
}
TEST_F(Paging, SmapStopsSupervisorDataUnlessAcIsSet) {
  long_mode();
  map_page(kPage, 0x5000 | 7);
  with_state([](CpuState& s) { s.cr4 |= kCr4Smap; });
  EXPECT_EQ(page_fault(kPage), unsigned{kPfPresent});
  with_state([](CpuState& s) { s.rflags |= kAC; });
  EXPECT_EQ(translated(kPage), 0x5000u);
}
TEST_F(Paging, SmapHoldsForSystemStructuresWhateverAcSays) {
  long_mode();
  map_page(kPage, 0x5000 | 7);
  with_state([](CpuState& s) {
    s.cr4 |= kCr4Smap;
    s.rflags |= kAC;
  });
  std::uint64_t unused;
  EXPECT_FALSE(core->load_system(kPage, unused));
  EXPECT_EQ(core->fault().vector, kPF_);
  EXPECT_EQ(core->fault().error, unsigned{kPfPresent});
}
TEST_F(Paging, ProtectionKeyDisablesAccessAndWrite) {
  long_mode();
  map_page(kPage, 0x5000 | 7 | (std::uint64_t{3} << 59));
  with_state([](CpuState& s) {
    s.cr4 |= kCr4Pke;
    s.pkru = 1u << 6;  // AD of key 3
  });
  EXPECT_EQ(page_fault(kPage, AccessKind::read, true), unsigned{kPfPresent | kPfUser | kPfKey});
  EXPECT_EQ(page_fault(kPage), unsigned{kPfPresent | kPfKey});
  EXPECT_EQ(translated(kPage, AccessKind::execute, true), 0x5000u);
  with_state([](CpuState& s) { s.pkru = 2u << 6; });  // WD of key 3
  EXPECT_EQ(translated(kPage, AccessKind::read, true), 0x5000u);
  EXPECT_EQ(page_fault(kPage, AccessKind::write, true), unsigned{kPfPresent | kPfUser | kPfWrite | kPfKey});
  with_state([](CpuState& s) { s.cr0 &= ~std::uint64_t{kCr0Wp}; });
  EXPECT_EQ(translated(kPage, AccessKind::write), 0x5000u);
}
TEST_F(Paging, NonCanonicalIsNoPageFault) {
  long_mode();
  Translation t;
  EXPECT_FALSE(core->translate(0x0000800000000000, AccessKind::read, false, t));
  EXPECT_EQ(core->fault().vector, kGP);
}
TEST_F(Paging, FiveLevelsWidenAddresses) {
  long_mode();
  put<std::uint64_t>(kTables, kPml4 | 7);
  with_state([](CpuState& s) {
    s.cr4 |= kCr4La57;
    s.cr3 = kTables;
  });
  EXPECT_EQ(translated(kCode), std::uint64_t{kCode});
  EXPECT_EQ(page_fault(0x0001000000000000), 0u);
  Translation t;
  EXPECT_FALSE(core->translate(0x0100000000000000, AccessKind::read, false, t));
  EXPECT_EQ(core->fault().vector, kGP);
}

// ---- 32-bit and PAE paging ----

class Paging32 : public Paging {
 protected:
  void legacy(std::uint64_t cr4) {
    protected_mode();
    for (unsigned i = 0; i < 1024; ++i) put<std::uint32_t>(kTables + i * 4, (i << 12) | 7);  // first 4 MiB
    put<std::uint32_t>(kPml4, kTables | 7);
    with_state([&](CpuState& s) {
      s.cr0 |= kCr0Pg;
      s.cr3 = kPml4;
      s.cr4 = cr4;
    });
  }
};
TEST_F(Paging32, MapsFourKilobytePages) {
  legacy(0);
  put<std::uint32_t>(kTables + 0x123 * 4, 0x00005007);
  EXPECT_EQ(translated(0x123456), 0x5456u);
  EXPECT_EQ(get<std::uint32_t>(kTables + 0x123 * 4), 0x5027u);
  EXPECT_EQ(page_fault(0x400000, AccessKind::write, true), unsigned{kPfWrite | kPfUser});
}
TEST_F(Paging32, FourMegabytePagesNeedPse) {
  legacy(0);
  put<std::uint32_t>(kPml4 + 4, kTables | 0x87);
  EXPECT_EQ(translated(0x400000), 0u);  // PS ignored: a page table
  legacy(kCr4Pse);
  put<std::uint32_t>(kPml4 + 4, 0x00400087);
  core->flush_tlb_all();
  EXPECT_EQ(translated(0x412345), 0x412345u);
}
TEST_F(Paging32, Pse36ReachesFortyBits) {
  legacy(kCr4Pse);
  put<std::uint32_t>(kPml4 + 4, 0x00400087 | (0xABu << 13));
  EXPECT_EQ(translated(0x412345), 0xAB00412345u);
  put<std::uint32_t>(kPml4 + 4, 0x00400087 | (1u << 21));
  core->flush_tlb_all();
  EXPECT_EQ(page_fault(0x412345), unsigned{kPfPresent | kPfReserved});
}
TEST_F(Paging32, FetchIsNotReportedEvenWithNxe) {
  legacy(0);
  with_state([](CpuState& s) { s.efer |= kEferNxe; });
  EXPECT_EQ(page_fault(0x400000, AccessKind::execute), 0u);
}
TEST_F(Paging32, PaeUsesPdptesLoadedWithCr3) {
  protected_mode();
  put<std::uint64_t>(kPdpt, kPd | 1);
  for (unsigned i = 0; i < 4; ++i) put<std::uint64_t>(kPd + i * 8, (i << 21) | 0x87);
  with_state([](CpuState& s) { s.cr4 = kCr4Pae; });
  core->s.cr3 = kPdpt;
  ASSERT_EQ(core->write_cr(0, core->s.cr0 | kCr0Pg), Flow::next);
  EXPECT_EQ(translated(0x312345), 0x312345u);
  // Memory changes do not matter until CR3 is written again.
  put<std::uint64_t>(kPdpt, 0);
  core->flush_tlb_all();
  EXPECT_EQ(translated(0x312345), 0x312345u);
  ASSERT_EQ(core->write_cr(3, kPdpt), Flow::next);
  EXPECT_EQ(page_fault(0x312345), 0u);
}
TEST_F(Paging32, ReservedBitInPdpteMakesCr3WriteFault) {
  protected_mode();
  put<std::uint64_t>(kPdpt, kPd | 1);
  with_state([](CpuState& s) { s.cr4 = kCr4Pae; });
  core->s.cr3 = kPdpt;
  ASSERT_EQ(core->write_cr(0, core->s.cr0 | kCr0Pg), Flow::next);
  put<std::uint64_t>(kPdpt + 8, 0x3);  // R/W is reserved in a PDPTE of PAE paging
  EXPECT_EQ(core->write_cr(3, kPdpt), Flow::fault);
  EXPECT_EQ(core->fault().vector, kGP);
}
TEST_F(Paging32, PaeReservesBits62To52) {
  protected_mode();
  put<std::uint64_t>(kPdpt, kPd | 1);
  put<std::uint64_t>(kPd, 0x87 | (std::uint64_t{1} << 52));
  with_state([](CpuState& s) { s.cr4 = kCr4Pae; });
  core->s.cr3 = kPdpt;
  ASSERT_EQ(core->write_cr(0, core->s.cr0 | kCr0Pg), Flow::next);
  EXPECT_EQ(page_fault(0), unsigned{kPfPresent | kPfReserved});
}

// ---- what the TLB may keep ----

class Tlb : public Paging {
 protected:
  std::uint32_t read_user_data(std::uint64_t linear) {
    std::uint32_t value = 0;
    EXPECT_TRUE(core->load(kDs, linear, value));
    return value;
  }
};
TEST_F(Tlb, InvlpgMakesChangedEntryVisible) {
  long_mode();
  put<std::uint32_t>(0xA000, 0x11111111);
  put<std::uint32_t>(0xB000, 0x22222222);
  map_page(kPage, 0xA000 | 7);
  EXPECT_EQ(read_user_data(kPage), 0x11111111u);
  put<std::uint64_t>(kPt, 0xB000 | 7);
  core->flush_tlb_page(kPage);
  EXPECT_EQ(read_user_data(kPage), 0x22222222u);
}
TEST_F(Tlb, InvlpgForgetsEveryPieceOfALargePage) {
  long_mode();
  put<std::uint32_t>(0x200010, 0x11111111);
  put<std::uint32_t>(0x600010, 0x22222222);
  EXPECT_EQ(read_user_data(0x200010), 0x11111111u);
  put<std::uint64_t>(kPd + 8, 0x600087);
  core->flush_tlb_page(0x3FF000);  // another 4 KiB piece of it
  EXPECT_EQ(read_user_data(0x200010), 0x22222222u);
}
TEST_F(Tlb, Cr3WriteForgets) {
  long_mode();
  put<std::uint32_t>(0xA000, 0x11111111);
  put<std::uint32_t>(0xB000, 0x22222222);
  map_page(kPage, 0xA000 | 7);
  EXPECT_EQ(read_user_data(kPage), 0x11111111u);
  put<std::uint64_t>(kPt, 0xB000 | 7);
  ASSERT_EQ(core->write_cr(3, core->s.cr3), Flow::next);
  EXPECT_EQ(read_user_data(kPage), 0x22222222u);
}
TEST_F(Tlb, PcidsKeepTheirTranslationsApart) {
  long_mode();
  put<std::uint32_t>(0xA000, 0x11111111);
  put<std::uint32_t>(0xB000, 0x22222222);
  map_page(kPage, 0xA000 | 7);
  ASSERT_EQ(core->write_cr(4, core->s.cr4 | kCr4Pcide), Flow::next);
  constexpr std::uint64_t kNoFlush = std::uint64_t{1} << 63;
  ASSERT_EQ(core->write_cr(3, kPml4 | 1), Flow::next);
  EXPECT_EQ(read_user_data(kPage), 0x11111111u);
  put<std::uint64_t>(kPt, 0xB000 | 7);
  ASSERT_EQ(core->write_cr(3, kPml4 | 2), Flow::next);
  EXPECT_EQ(read_user_data(kPage), 0x22222222u);
  // A CR3 write without bit 63 forgets the PCID's own translations.
  ASSERT_EQ(core->write_cr(3, kPml4 | 1), Flow::next);
  EXPECT_EQ(read_user_data(kPage), 0x22222222u);
  EXPECT_EQ(core->s.cr3, kPml4 | 1);
  ASSERT_EQ(core->write_cr(3, kPml4 | 2 | kNoFlush), Flow::next);
  EXPECT_EQ(core->s.cr3, kPml4 | 2) << "bit 63 is not stored";
}
TEST_F(Tlb, ManyCr3WritesDoNotExhaustTags) {
  long_mode();
  put<std::uint32_t>(0xA000, 0x11111111);
  put<std::uint32_t>(0xB000, 0x22222222);
  for (unsigned i = 0; i < 9000; ++i) {
    map_page(kPage, (i & 1 ? 0xA000 : 0xB000) | 7);
    ASSERT_EQ(core->write_cr(3, core->s.cr3), Flow::next);
    ASSERT_EQ(read_user_data(kPage), i & 1 ? 0x11111111u : 0x22222222u) << i;
  }
}
TEST_F(Tlb, WriteProtectSwitchTakesEffectAtOnce) {
  long_mode();
  map_page(kPage, 0x5000 | 5);
  with_state([](CpuState& s) { s.cr0 &= ~std::uint64_t{kCr0Wp}; });
  EXPECT_TRUE(core->store<std::uint32_t>(kDs, kPage, 1));
  EXPECT_TRUE(core->store<std::uint32_t>(kDs, kPage, 1));
  ASSERT_EQ(core->write_cr(0, core->s.cr0 | kCr0Wp), Flow::next);
  EXPECT_FALSE(core->store<std::uint32_t>(kDs, kPage, 1));
}

}  // namespace
}  // namespace husk::cpu::interp
