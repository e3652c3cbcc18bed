// husk: tests of the catalogue of CPU models, comparisons and baselines
#include "cpu/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace husk::cpu {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

CpuDescription model(const char* name) { return describe(cpu_model(name).value()); }

TEST(CpuCatalog, AliasesNameTheSameModel) {
  // QEMU: Haswell is Haswell-v1, Haswell-noTSX is Haswell-v2, EPYC-IBPB is EPYC-v2.
  for (const auto& [alias, name] :
       {std::pair{"Haswell-v1", "Haswell"}, {"Haswell-v2", "Haswell-noTSX"}, {"EPYC-v2", "EPYC-IBPB"}})
    EXPECT_EQ(cpu_model(alias).value().name, name);
}

TEST(CpuCatalog, TellsWhatIsLeftOut) {
  EXPECT_THAT(catalog_entry("Haswell")->left_out, ElementsAre("hle", "rtm"));
  EXPECT_THAT(catalog_entry("Haswell-noTSX")->left_out, IsEmpty());
  EXPECT_THAT(catalog_entry("Skylake-Server")->left_out, Contains("avx512f"));
  EXPECT_THAT(catalog_entry("EPYC")->left_out, Contains("osvw"));
  EXPECT_FALSE(catalog_entry("nosuch"));
}

// What Intel added from one generation to the next (SDM vol. 1, 5.x): Broadwell brought ADX, RDSEED, PREFETCHW, SMAP.
TEST(CpuCatalog, ComparisonNamesWhatAMachineWouldMiss) {
  const CpuComparison down = compare(model("Broadwell-noTSX"), model("Haswell-noTSX"));
  EXPECT_THAT(down.lacks, ElementsAre("adx", "prefetchw", "rdseed", "smap"));
  EXPECT_FALSE(down.fits());
  EXPECT_TRUE(down.same_vendor);
  const CpuComparison up = compare(model("Haswell-noTSX"), model("Broadwell-noTSX"));
  EXPECT_TRUE(up.fits());
  EXPECT_THAT(up.gains, ElementsAre("adx", "prefetchw", "rdseed", "smap"));
  EXPECT_FALSE(compare(model("EPYC"), model("Haswell")).same_vendor);
}

TEST(CpuCatalog, NarrowerAddressesDoNotFit) {
  CpuDescription wide = model("EPYC"), narrow = wide;
  wide.physical_bits = 48;
  EXPECT_FALSE(compare(wide, narrow).fits());
  EXPECT_TRUE(compare(narrow, wide).fits());
}

TEST(CpuCatalog, BaselineIsTheLargestModelThatAllHave) {
  const std::array all{model("Broadwell"), model("Skylake-Client"), model("Haswell")};
  const auto common = baseline(all);
  ASSERT_TRUE(common);
  EXPECT_EQ(common->model, "Haswell");
  EXPECT_THAT(common->added, IsEmpty());
  EXPECT_TRUE(common->one_vendor);
}

TEST(CpuCatalog, BaselineAddsWhatTheModelLacks) {
  CpuModel a = cpu_model("Haswell").value(), b = cpu_model("Broadwell").value();
  ASSERT_TRUE(edit_features(a, "+rdseed,phys-bits=46"));
  ASSERT_TRUE(edit_features(b, "phys-bits=39"));
  const std::array both{describe(a), describe(b)};
  const auto common = baseline(both);
  ASSERT_TRUE(common);
  EXPECT_EQ(common->text(), "Haswell,+rdseed,phys-bits=39");
  // Taken at its word, it runs on each of them.
  CpuModel made = cpu_model("Haswell").value();
  ASSERT_TRUE(edit_features(made, "+rdseed,phys-bits=39"));
  for (const CpuDescription& host : both) EXPECT_TRUE(compare(describe(made), host).fits());
}

TEST(CpuCatalog, BaselineAcrossVendorsSaysSo) {
  const std::array both{model("EPYC"), model("Haswell-noTSX")};
  const auto common = baseline(both);
  ASSERT_TRUE(common);
  EXPECT_FALSE(common->one_vendor);
  for (const CpuDescription& host : both) EXPECT_TRUE(compare(model(common->model.c_str()), host).fits());
}

TEST(CpuCatalog, BaselineOfNothingInCommonIsRefused) {
  CpuDescription odd;
  odd.vendor = "GenuineIntel";
  EXPECT_FALSE(baseline(std::array{odd}));
  EXPECT_FALSE(baseline({}));
}

TEST(CpuCatalog, HostModelOffersNothingThatTheHostLacks) {
  const auto host = describe_host();
  if (!host) GTEST_SKIP() << "this host is not x86";
  const auto made = cpu_model("host");
  ASSERT_TRUE(made) << made.error().text();
  EXPECT_EQ(made->vendor, host->vendor);
  EXPECT_TRUE(compare(describe(*made), *host).fits());
  EXPECT_THAT(host->features, Contains("sse2"));
}

TEST(CpuCatalog, Level4IsRefusedWithTheNearest) {
  const auto refused = cpu_model("x86-64-v4");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text().find("x86-64-v3"), std::string::npos);
}

}  // namespace
}  // namespace husk::cpu
