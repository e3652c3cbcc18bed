// husk: tests of reset states, CPU models, CPUID and the pure page walk
#include "cpu/model.h"

#include <gtest/gtest.h>

#include <map>

#include "cpu/state.h"
#include "cpu/walk.h"

namespace husk::cpu {
namespace {

// ---- reset (SDM vol. 3, table 10-1) ----

TEST(ResetState, IsThatOfTheManual) {
  const CpuState s = reset_state(0x12345);
  EXPECT_EQ(s.rip, 0xFFF0u);
  EXPECT_EQ(s.seg[kCs].selector, 0xF000u);
  EXPECT_EQ(s.seg[kCs].base, 0xFFFF0000u);
  EXPECT_EQ(s.rflags, 2u);
  EXPECT_EQ(s.cr0, 0x60000010u);
  EXPECT_EQ(s.gpr[kRdx], 0x12345u);
  EXPECT_EQ(s.dr6, 0xFFFF0FF0u);
  EXPECT_EQ(s.dr7, 0x400u);
  EXPECT_EQ(s.idtr.limit, 0xFFFFu);
  EXPECT_EQ(s.x87.control, 0x40u);
  EXPECT_EQ(s.mxcsr, 0x1F80u);
  EXPECT_EQ(s.msr.pat, 0x0007040600070406u);
}
TEST(InitState, KeepsCachesVectorsAndMsrs) {
  CpuState before = reset_state(0);
  before.cr0 = kCr0Pe | kCr0Pg | kCr0Et;
  before.vector[3].bytes[5] = 0x77;
  before.msr.star = 0x1234;
  before.x87.control = 0x37F;
  before.efer = kEferLme | kEferLma;
  const CpuState after = init_state(before, 0x55);
  EXPECT_EQ(after.cr0, std::uint64_t{kCr0Et}) << "CD and NW stay as they were";
  EXPECT_EQ(after.vector[3].bytes[5], 0x77);
  EXPECT_EQ(after.msr.star, 0x1234u);
  EXPECT_EQ(after.x87.control, 0x37Fu);
  EXPECT_EQ(after.efer, 0u);
  EXPECT_EQ(after.gpr[kRdx], 0x55u);
}

// ---- models ----

CpuidResult ask(const CpuModel& model, std::uint32_t leaf, std::uint32_t subleaf = 0, CpuidContext context = {}) {
  return cpuid(model, context, leaf, subleaf);
}

TEST(CpuModels, EveryOneCanBeMadeAndIsConsistent) {
  for (const std::string& name : cpu_model_names()) {
    const auto model = cpu_model(name);
    ASSERT_TRUE(model) << name;
    EXPECT_EQ(model->vendor.size(), 12u) << name;
    EXPECT_LE(model->brand.size(), 47u) << name;
    for (std::size_t i = 1; i < kFeatureCount; ++i) {
      if (!model->features.test(i)) continue;
      const FeatureInfo& info = feature_info(static_cast<Feature>(i));
      if (info.leaf >> 28 == 4) continue;  // the hypervisor's range has its own last leaf
      const std::uint32_t last = info.leaf < 0x80000000 ? model->basic_leaves : model->extended_leaves;
      EXPECT_LE(info.leaf, last) << name << " cannot show " << info.name;
      CpuModel again = *model;
      ASSERT_TRUE(edit_features(again, "+" + std::string(info.name)) || !edit_features(again, "")) << name << info.name;
      EXPECT_EQ(again.features, model->features) << name << " lacks what " << info.name << " needs";
    }
  }
}
TEST(CpuModels, SignaturesAreThoseOfTheProcessors) {
  EXPECT_EQ(cpu_model("Haswell")->signature(), 0x000306C4u);
  EXPECT_EQ(cpu_model("Nehalem")->signature(), 0x000106A3u);
  EXPECT_EQ(cpu_model("EPYC")->signature(), 0x00800F12u);
  EXPECT_EQ(cpu_model("EPYC-Milan")->signature(), 0x00A00F11u);
  EXPECT_EQ(cpu_model("qemu64")->signature(), 0x00060FB1u);
  EXPECT_EQ(cpu_model("pentium3")->signature(), 0x00000673u);
}
TEST(CpuModels, UnknownNameSuggestsNearOnes) {
  const auto model = cpu_model("haswel");
  ASSERT_FALSE(model);
  EXPECT_NE(model.error().text().find("Haswell"), std::string::npos) << model.error().text();
}
TEST(CpuModels, EditsBringDependenciesAndTakeDependents) {
  CpuModel model = *cpu_model("qemu64");
  ASSERT_TRUE(edit_features(model, "+avx2"));
  EXPECT_TRUE(model.has(Feature::avx));
  EXPECT_TRUE(model.has(Feature::xsave));
  EXPECT_TRUE(model.has(Feature::sse4_2));
  ASSERT_TRUE(edit_features(model, "-xsave,+lzcnt"));
  EXPECT_FALSE(model.has(Feature::avx));
  EXPECT_FALSE(model.has(Feature::avx2));
  EXPECT_TRUE(model.has(Feature::abm));
  EXPECT_TRUE(model.has(Feature::sse4_2));
}
TEST(CpuModels, EditsRaiseTheLastLeafNoFurtherThanNeeded) {
  CpuModel model = *cpu_model("pentium");
  ASSERT_TRUE(edit_features(model, "+smep"));
  EXPECT_EQ(cpuid(model, {}, 0, 0).eax, 7u);
  ASSERT_TRUE(edit_features(model, "+nx"));
  EXPECT_EQ(cpuid(model, {}, 0x80000000, 0).eax, 0x80000001u);
}
TEST(CpuModels, EditsTakeQemuProperties) {
  CpuModel model = *cpu_model("max");
  ASSERT_TRUE(
      edit_features(model, "vendor=GenuineIntel,family=6,model=0x3c,stepping=2,phys-bits=46,hypervisor=off,la57=off"));
  EXPECT_EQ(model.signature(), 0x000306C2u);
  EXPECT_EQ(model.physical_bits, 46u);
  EXPECT_EQ(model.linear_bits, 48u);
  EXPECT_FALSE(model.has(Feature::hypervisor));
}
TEST(CpuModels, BadEditsAreRefusedByName) {
  for (const char* edit : {"+nosuch", "-nosuch", "nosuch=on", "family=banana", "family=", "phys-bits=99",
                           "vendor=short", "+vmx", "+osxsave", "avx=maybe", "stepping=99999999999999999999"}) {
    CpuModel model = *cpu_model("max");
    const auto status = edit_features(model, edit);
    ASSERT_FALSE(status) << edit;
    EXPECT_FALSE(status.error().message.empty());
  }
}

// QEMU's users take away what a model has on their hosts: "-cpu EPYC,-svm" must work where there is no SVM anyway.
TEST(CpuModels, WhatIsNeverThereCanBeTakenAwayButNotAdded) {
  CpuModel model = *cpu_model("EPYC");
  EXPECT_TRUE(edit_features(model, "-svm,-vmx,hle=off,-avx512f,-avx512_vpopcntdq"));
  for (const char* edit : {"+skinit", "+vmx", "hle=on", "avx512f"}) {
    const auto status = edit_features(model, edit);
    ASSERT_FALSE(status) << edit;
    EXPECT_NE(status.error().message.find("is not offered"), std::string::npos) << status.error().text();
  }
}
// APM vol. 3, E.4.9. What belongs to SVM goes with it.
TEST(CpuModels, SvmHasALeafOfItsOwn) {
  CpuModel model = *cpu_model("Opteron_G2");
  EXPECT_EQ(cpuid(model, {}, 0x80000000, 0).eax, 0x8000000Au);
  EXPECT_TRUE(cpuid(model, {}, 0x80000001, 0).ecx & 4);
  EXPECT_EQ(cpuid(model, {}, 0x8000000A, 0).eax, 1u);
  EXPECT_EQ(cpuid(model, {}, 0x8000000A, 0).edx, 0u);
  ASSERT_TRUE(edit_features(model, "nrip-save=on"));
  EXPECT_EQ(cpuid(model, {}, 0x8000000A, 0).edx, 8u);
  ASSERT_TRUE(edit_features(model, "-svm"));
  EXPECT_FALSE(model.has(Feature::nrip_save));
  EXPECT_EQ(cpuid(model, {}, 0x8000000A, 0).ebx, 0u);
}
TEST(CpuModels, LevelSetsTheLastLeaf) {
  CpuModel model = *cpu_model("Skylake-Client");
  ASSERT_TRUE(edit_features(model, "level=0x1f,xlevel=0x80000007"));
  EXPECT_EQ(cpuid(model, {}, 0, 0).eax, 0x1Fu);
  EXPECT_EQ(cpuid(model, {}, 0x80000000, 0).eax, 0x80000007u);
  EXPECT_FALSE(edit_features(model, "level=0x20"));
  EXPECT_FALSE(edit_features(model, "xlevel=0x7"));
}

// ---- CPUID ----

// SDM vol. 2, CPUID, leaf 1Fh: "a preferred superset to leaf 0BH"; without further levels both say the same. It is
// reserved on AMD's (APM vol. 3, E.3).
TEST(Cpuid, TheSecondTopologyLeafAgreesWithTheFirst) {
  CpuModel model = *cpu_model("Skylake-Client");
  ASSERT_TRUE(edit_features(model, "level=0x1f"));
  model.topology = {2, 3, 2};
  const CpuidContext context{.apic_id = apic_id_of(model.topology, 7)};  // socket 1, core 0, thread 1
  EXPECT_EQ(context.apic_id, 9u);
  const CpuidResult smt = ask(model, 0x1F, 0, context), core = ask(model, 0x1F, 1, context),
                    none = ask(model, 0x1F, 2, context);
  EXPECT_EQ(smt.eax, 1u);
  EXPECT_EQ(smt.ebx, 2u);
  EXPECT_EQ(smt.ecx, 0x100u);
  EXPECT_EQ(core.eax, 3u);
  EXPECT_EQ(core.ebx, 6u);
  EXPECT_EQ(core.ecx, 0x201u);
  EXPECT_EQ(none.eax | none.ebx, 0u);
  EXPECT_EQ(none.ecx, 2u);
  for (const CpuidResult& r : {smt, core, none}) EXPECT_EQ(r.edx, 9u);
  CpuModel amd = *cpu_model("EPYC");
  ASSERT_TRUE(edit_features(amd, "level=0x1f"));
  EXPECT_EQ(ask(amd, 0x1F, 0, context).ebx, 0u);
}

TEST(Cpuid, VendorAndBrand) {
  const CpuModel model = *cpu_model("EPYC");
  const CpuidResult r = ask(model, 0);
  EXPECT_EQ(r.ebx, 0x68747541u);
  EXPECT_EQ(r.edx, 0x69746E65u);
  EXPECT_EQ(r.ecx, 0x444D4163u);
  EXPECT_EQ(ask(model, 0x80000002).eax, 0x20444D41u);  // "AMD "
}
TEST(Cpuid, BeyondTheLastLeafAmdGivesZerosAndIntelTheLastBasicOne) {
  const CpuModel amd = *cpu_model("EPYC"), intel = *cpu_model("Nehalem");
  EXPECT_EQ(ask(amd, 0x7FFF).eax | ask(amd, 0x7FFF).ebx | ask(amd, 0x7FFF).ecx | ask(amd, 0x7FFF).edx, 0u);
  EXPECT_EQ(ask(intel, 0x7FFF, 1).ebx, ask(intel, 0xB, 1).ebx);
  EXPECT_EQ(ask(intel, 0x7FFF, 1).ecx, ask(intel, 0xB, 1).ecx);
}
TEST(Cpuid, HypervisorLeavesTellTheClock) {
  CpuModel model = *cpu_model("max");
  model.tsc_hz = 2'500'000'000;
  EXPECT_EQ(ask(model, 0x40000010).eax, 2'500'000u);
  EXPECT_EQ(ask(model, 0x40000010).ebx, 1'000'000u);
  EXPECT_TRUE(ask(model, 1).ecx >> 31);
  ASSERT_TRUE(edit_features(model, "-hypervisor"));
  EXPECT_EQ(ask(model, 0x40000000).ebx, 0u);
}
TEST(Cpuid, IntelCrystalGivesTheTscFrequency) {
  CpuModel model = *cpu_model("Skylake-Client");
  model.tsc_hz = 2'400'000'000;
  const CpuidResult r = ask(model, 0x15);
  EXPECT_EQ(std::uint64_t{r.ecx} * r.ebx / r.eax, 2'400'000'000u);
  EXPECT_EQ(ask(model, 0x16).eax, 2400u);
}
TEST(Cpuid, TopologyOfThreadsCoresAndSockets) {
  CpuModel model = *cpu_model("Haswell");
  model.topology = {.sockets = 2, .cores = 6, .threads = 2};
  const CpuidContext context{.apic_id = apic_id_of(model.topology, 13)};
  EXPECT_EQ(context.apic_id, 16u + 1u) << "socket 1, core 0, thread 1; cores take three bits";
  const CpuidResult smt = ask(model, 0xB, 0, context), core = ask(model, 0xB, 1, context),
                    none = ask(model, 0xB, 2, context);
  EXPECT_EQ(smt.eax, 1u);
  EXPECT_EQ(smt.ebx, 2u);
  EXPECT_EQ(smt.ecx, 0x100u);
  EXPECT_EQ(core.eax, 4u);
  EXPECT_EQ(core.ebx, 12u);
  EXPECT_EQ(core.ecx, 0x201u);
  EXPECT_EQ(core.edx, 17u);
  EXPECT_EQ(none.ebx, 0u);
  EXPECT_EQ(none.ecx, 2u);
  EXPECT_EQ(ask(model, 1, 0, context).ebx >> 16 & 0xFF, 16u);
  EXPECT_TRUE(ask(model, 1, 0, context).edx & (1u << 28)) << "HTT";
}
TEST(Cpuid, ApicIdsAreUnique) {
  const CpuTopology topology{.sockets = 3, .cores = 5, .threads = 3};
  std::map<unsigned, unsigned> seen;
  for (unsigned i = 0; i < 45; ++i) EXPECT_EQ(++seen[apic_id_of(topology, i)], 1u) << i;
}
TEST(Cpuid, OneProcessorHasNoHtt) { EXPECT_FALSE(ask(*cpu_model("max"), 1).edx & (1u << 28)); }
TEST(Cpuid, AmdRepeatsLeafOneBits) {
  const CpuModel model = *cpu_model("EPYC");
  EXPECT_EQ(ask(model, 0x80000001).edx & 0x0183F3FF, ask(model, 1).edx & 0x0183F3FF);
  EXPECT_EQ(ask(*cpu_model("Haswell"), 0x80000001).edx & 0x0183F3FF, 0u);
}
TEST(Cpuid, CachesSayTheSameInBothForms) {
  const CpuModel model = *cpu_model("EPYC");
  const CpuidResult l2 = ask(model, 0x8000001D, 2);
  const std::uint32_t bytes = ((l2.ebx >> 22) + 1) * ((l2.ebx & 0xFFF) + 1) * (l2.ecx + 1);
  EXPECT_EQ(bytes / 1024, ask(model, 0x80000006).ecx >> 16);
  EXPECT_EQ(ask(model, 0x8000001D, 4).eax & 0x1F, 0u) << "no more caches";
}
TEST(Cpuid, XsaveLeaves) {
  const CpuModel model = *cpu_model("max");
  EXPECT_EQ(ask(model, 0xD).eax, 0x207u);
  EXPECT_EQ(ask(model, 0xD, 0, {.xcr0 = 3}).ebx, 576u);
  EXPECT_EQ(ask(model, 0xD, 0, {.xcr0 = 7}).ebx, 832u);
  EXPECT_EQ(ask(model, 0xD).ecx, 2696u);
  EXPECT_EQ(ask(model, 0xD, 1, {.xcr0 = 0x207}).ebx, 576u + 256 + 8);
  EXPECT_EQ(ask(model, 0xD, 2).eax, 256u);
  EXPECT_EQ(ask(model, 0xD, 2).ebx, 576u);
  EXPECT_EQ(ask(*cpu_model("qemu64"), 0xD).eax, 0u);
}
TEST(Cpuid, ContextShowsThrough) {
  const CpuModel model = *cpu_model("max");
  EXPECT_TRUE(ask(model, 7, 0, {.ospke = true}).ecx & (1u << 4));
  EXPECT_FALSE(ask(model, 7).ecx & (1u << 4));
  EXPECT_FALSE(ask(model, 1, 0, {.apic_enabled = false}).edx & (1u << 9));
}
TEST(Cpuid, AddressSizes) {
  CpuModel model = *cpu_model("max");
  EXPECT_EQ(ask(model, 0x80000008).eax & 0xFFFF, 40u | (57u << 8));
  ASSERT_TRUE(edit_features(model, "-la57"));
  EXPECT_EQ(ask(model, 0x80000008).eax & 0xFFFF, 40u | (48u << 8));
}

// ---- the pure walk ----

TEST(Walk, ListsTheEntriesItRead) {
  std::map<std::uint64_t, std::uint64_t> tables{
      {0x1000 + 0x1F0 * 8, 0x2007}, {0x2000 + 8, 0x3027}, {0x3000 + 16, 0x4006}};
  CpuState s = reset_state(0);
  s.cr0 |= kCr0Pe | kCr0Pg;
  s.cr4 = kCr4Pae;
  s.efer = kEferLme | kEferLma;
  s.cr3 = 0x1000;
  const std::uint64_t linear = 0xFFFFF80000000000 | (1ull << 30) | (2ull << 21);
  const PageWalk walk = walk_pages(s, {}, linear, {.write = true}, [&](std::uint64_t gpa, unsigned bytes) {
    EXPECT_EQ(bytes, 8u);
    return tables[gpa];
  });
  EXPECT_EQ(walk.outcome, WalkOutcome::not_present);
  EXPECT_EQ(walk.error, 2u);
  ASSERT_EQ(walk.count, 3u);
  EXPECT_EQ(walk.entries[0].level, 4);
  EXPECT_EQ(walk.entries[0].address, 0x1F80u);
  EXPECT_EQ(walk.entries[2].level, 2);
  EXPECT_EQ(walk.entries[2].value, 0x4006u);
  EXPECT_STREQ(walk_level_name(4), "PML4E");
  EXPECT_EQ(tables[0x2008], 0x3027u) << "nothing is changed";
}
TEST(Walk, PagingOffGivesTheAddress) {
  const CpuState s = reset_state(0);
  const PageWalk walk = walk_pages(s, {}, 0x123456789, {}, [](std::uint64_t, unsigned) { return 0; });
  EXPECT_EQ(walk.outcome, WalkOutcome::ok);
  EXPECT_EQ(walk.gpa, 0x23456789u);
  EXPECT_EQ(walk.count, 0u);
}

}  // namespace
}  // namespace husk::cpu
