// husk: tests of `husk cpu`
#include "app/cpu_command.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "host/file.h"

namespace husk::app {
namespace {

using nlohmann::json;

struct Outcome {
  int status;
  std::string output, errors;
  json parsed() const { return json::parse(output, nullptr, false); }
};

Outcome cpu(std::vector<std::string> arguments) {
  char *out_text = nullptr, *err_text = nullptr;
  std::size_t out_size = 0, err_size = 0;
  std::FILE* out = ::open_memstream(&out_text, &out_size);
  std::FILE* err = ::open_memstream(&err_text, &err_size);
  const int status = run_cpu_command(arguments, out, err);
  std::fclose(out);
  std::fclose(err);
  Outcome outcome{status, {out_text, out_size}, {err_text, err_size}};
  std::free(out_text);
  std::free(err_text);
  return outcome;
}

std::set<std::string> features(const json& description) { return description["features"].get<std::set<std::string>>(); }

struct CpuFiles : ::testing::Test {
  CpuFiles() {
    char name[] = "/tmp/husk-cpu-test.XXXXXX";
    directory = ::mkdtemp(name);
    path = directory + "/host.json";
  }
  ~CpuFiles() override {
    ::unlink(path.c_str());
    ::rmdir(directory.c_str());
  }
  void put(const std::string& text) { ASSERT_TRUE(host::write_file(path, text)); }
  std::string directory, path;
};

TEST(CpuCommand, ListNamesEveryModelInTextAsInJson) {
  const Outcome text = cpu({"list"}), list = cpu({"list", "--json"});
  EXPECT_EQ(text.status, 0);
  ASSERT_TRUE(list.parsed().is_array());
  EXPECT_GE(list.parsed().size(), 60u);
  for (const json& model : list.parsed())
    EXPECT_NE(text.output.find("\n" + model["name"].get<std::string>() + " "), std::string::npos) << model["name"];
  EXPECT_NE(text.output.find("\nhost "), std::string::npos);
}

// SDM vol. 4, table 2-1: 06_3CH is the 4th generation Core, which brought AVX2, BMI1/2, FMA and INVPCID (SDM vol. 1,
// 5.x); 06_5EH the 6th. APM/PPR: family 17h, models 00h-0Fh are Zen.
TEST(CpuCommand, ShowTellsWhatTheVendorsManualsTell) {
  const json haswell = cpu({"show", "Haswell", "--json"}).parsed();
  EXPECT_EQ(haswell["vendor"], "GenuineIntel");
  EXPECT_EQ(haswell["family"], 6);
  EXPECT_EQ(haswell["model"], 0x3c);
  for (const char* name : {"avx2", "bmi1", "bmi2", "fma", "invpcid", "movbe", "abm", "rdrand", "f16c"})
    EXPECT_TRUE(features(haswell).contains(name)) << name;
  for (const char* name : {"adx", "rdseed", "smap", "sha-ni", "clwb"}) EXPECT_FALSE(features(haswell).contains(name));
  EXPECT_EQ(haswell["left-out"], json({"hle", "rtm"}));
  EXPECT_EQ(cpu({"show", "Skylake-Client", "--json"}).parsed()["model"], 0x5e);
  const json zen = cpu({"show", "EPYC", "--json"}).parsed();
  EXPECT_EQ(zen["vendor"], "AuthenticAMD");
  EXPECT_EQ(zen["family"], 0x17);
  EXPECT_EQ(zen["model"], 1);
  for (const char* name : {"sse4a", "misalignsse", "sha-ni", "topoext"})
    EXPECT_TRUE(features(zen).contains(name)) << name;
  EXPECT_FALSE(features(zen).contains("pcid")) << "came with Zen 3";
}

// The psABI (x86-64, 3.1.1): what each level adds.
TEST(CpuCommand, LevelsOfTheAbiHaveTheirFeatures) {
  const auto of = [](const char* model) { return features(cpu({"show", model, "--json"}).parsed()); };
  for (const char* name : {"cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"})
    EXPECT_TRUE(of("x86-64-v1").contains(name)) << name;
  for (const char* name : {"cx16", "lahf-lm", "popcnt", "sse3", "sse4-1", "sse4-2", "ssse3"}) {
    EXPECT_TRUE(of("x86-64-v2").contains(name)) << name;
    EXPECT_FALSE(of("x86-64-v1").contains(name) && std::string(name) != "sse3" && std::string(name) != "lahf-lm")
        << name;
  }
  for (const char* name : {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}) {
    EXPECT_TRUE(of("x86-64-v3").contains(name)) << name;
    EXPECT_FALSE(of("x86-64-v2").contains(name)) << name;
  }
}

TEST(CpuCommand, ShowTakesChangesAsTheMachineDoes) {
  const json changed = cpu({"show", "Haswell,-avx2,+rdseed,phys-bits=39", "--json"}).parsed();
  EXPECT_FALSE(features(changed).contains("avx2"));
  EXPECT_TRUE(features(changed).contains("rdseed"));
  EXPECT_EQ(changed["physical-bits"], 39);
  EXPECT_EQ(changed["name"], "Haswell,-avx2,+rdseed,phys-bits=39");
}

TEST(CpuCommand, CompareTellsByItsStatusWhetherAMachineFits) {
  EXPECT_EQ(cpu({"compare", "Haswell", "Broadwell"}).status, 0);
  const Outcome down = cpu({"compare", "Broadwell", "Haswell"});
  EXPECT_EQ(down.status, 1);
  for (const char* name : {"adx", "prefetchw", "rdseed", "smap"})
    EXPECT_NE(down.output.find(name), std::string::npos) << down.output;
  const json parsed = cpu({"compare", "Broadwell", "Haswell", "--json"}).parsed();
  EXPECT_EQ(parsed["fits"], false);
  EXPECT_EQ(parsed["lacks"], json({"adx", "prefetchw", "rdseed", "smap"}));
  EXPECT_EQ(parsed["same-vendor"], true);
  EXPECT_EQ(cpu({"compare", "EPYC", "Haswell", "--json"}).parsed()["same-vendor"], false);
}

TEST(CpuCommand, BaselineFitsOnAllOfThem) {
  const Outcome common = cpu({"baseline", "Haswell,+rdseed,phys-bits=46", "Broadwell,phys-bits=39"});
  ASSERT_EQ(common.status, 0) << common.errors;
  EXPECT_EQ(common.output, "Haswell,+rdseed,phys-bits=39\n");
  const std::string made = common.output.substr(0, common.output.size() - 1);
  for (const char* host : {"Haswell,+rdseed,phys-bits=46", "Broadwell,phys-bits=39"})
    EXPECT_EQ(cpu({"compare", made, host}).status, 0) << host;
  const Outcome mixed = cpu({"baseline", "EPYC", "Haswell"});
  EXPECT_EQ(mixed.status, 0);
  EXPECT_NE(mixed.errors.find("not all of one vendor"), std::string::npos);
}

TEST_F(CpuFiles, WhatAnotherHostWroteIsReadBack) {
  put(cpu({"show", "Skylake-Client", "--json"}).output);
  EXPECT_EQ(cpu({"compare", path, "Skylake-Client"}).status, 0);
  EXPECT_EQ(cpu({"compare", "Skylake-Client", path}).status, 0);
  const Outcome common = cpu({"baseline", path, "Haswell"});
  EXPECT_EQ(common.output, cpu({"baseline", "Skylake-Client", "Haswell"}).output);
}

TEST_F(CpuFiles, HostIsDescribedWhole) {
  const Outcome host = cpu({"show", "host", "--json"});
  if (host.status == 2) GTEST_SKIP() << host.errors;
  put(host.output);
  EXPECT_EQ(cpu({"compare", path, "host"}).status, 0);
  // Linux's own list of the same processor (/proc/cpuinfo), for names that both spell alike.
  const std::string flags = host::read_text("/proc/cpuinfo").value_or("");
  const std::string line =
      flags.substr(flags.find("flags"), flags.find('\n', flags.find("flags")) - flags.find("flags"));
  const auto in_linux = [&](const std::string& name) {
    return (line + " ").find(" " + name + " ") != std::string::npos;
  };
  for (const char* name : {"sse2",    "ssse3", "popcnt", "aes",  "avx", "avx2",   "bmi1", "bmi2", "fma",     "movbe",
                           "avx512f", "pcid",  "smep",   "smap", "adx", "rdseed", "gfni", "vaes", "invpcid", "erms"})
    EXPECT_EQ(features(host.parsed()).contains(name), in_linux(name)) << name;
}

TEST_F(CpuFiles, NoDescriptionIsRefusedWithItsNameAndACure) {
  const std::string good = cpu({"show", "Haswell", "--json"}).output;
  const auto without = [&](const char* key) {
    json d = json::parse(good);
    d.erase(key);
    return d.dump();
  };
  const auto with = [&](const char* key, json value) {
    json d = json::parse(good);
    d[key] = std::move(value);
    return d.dump();
  };
  for (const std::string& text :
       {std::string(), std::string("x"), std::string("[]"), good.substr(0, good.size() / 2), without("features"),
        without("vendor"), with("family", "six"), with("family", -1), with("family", 1u << 20), with("features", "avx"),
        with("features", json::array({1})), with("brand", nullptr)}) {
    put(text);
    const Outcome refused = cpu({"compare", path, "Haswell"});
    EXPECT_EQ(refused.status, 2) << text;
    EXPECT_NE(refused.errors.find(path), std::string::npos) << refused.errors;
    EXPECT_NE(refused.errors.find("; write it by"), std::string::npos) << refused.errors;
    EXPECT_EQ(refused.output, "");
  }
  put(std::string((1 << 20) + 1, ' '));
  EXPECT_NE(cpu({"show", path}).errors.find("too large"), std::string::npos);
  EXPECT_EQ(cpu({"show", "/nonexistent/host.json"}).status, 2);
  EXPECT_EQ(cpu({"show", "/tmp/"}).status, 2) << "a directory";
}

TEST(CpuCommand, MistakesAreRefusedByName) {
  for (const auto& [arguments, message] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{}, "what is to be done?"},
           {{"shwo", "Haswell"}, "cannot do 'shwo'"},
           {{"show"}, "cannot do 'show' with 0 CPUs"},
           {{"compare", "Haswell"}, "cannot do 'compare' with 1 CPUs"},
           {{"list", "--yaml"}, "there is no option '--yaml'"},
           {{"show", "Hasswell"}, "did you mean Haswell"},
           {{"show", "Haswell,+avx3"}, "unknown CPU feature 'avx3'"},
           {{"show", "Haswell,+vmx"}, "'vmx' is not offered"}}) {
    const Outcome refused = cpu(arguments);
    EXPECT_EQ(refused.status, 2);
    EXPECT_NE(refused.errors.find(message), std::string::npos) << refused.errors;
    EXPECT_EQ(std::count(refused.errors.begin(), refused.errors.end(), '\n'), 1) << refused.errors;
    EXPECT_EQ(refused.output, "");
  }
}

}  // namespace
}  // namespace husk::app
