// husk: tests of the dumps of translated code and of the map for perf
#include "monitor/code_log.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "monitor/host_listing.h"

namespace husk::monitor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Names final : public cpu::HostNames {
 public:
  std::string code_name(const std::uint8_t* running) const override {
    return reinterpret_cast<std::uintptr_t>(running) == 0x7F00'0000'9000 ? "slow" : "";
  }
  std::string field_name(std::int64_t distance) const override { return distance == 0x1234 ? "page_base" : ""; }
};

class CodeLogTest : public ::testing::Test {
 protected:
  CodeLogTest() {
    std::string name = (std::filesystem::temp_directory_path() / "husk-code-log-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~CodeLogTest() override { std::filesystem::remove_all(directory_); }

  cpu::TranslatedCode code() const {
    return {.cpu = 1,
            .linear = 0xFFFFFFFF81000004,
            .code_size = cpu::CodeSize::bits64,
            .guest = guest_,
            .hot = {0x7F00'0000'1000, hot_},
            .cold = {0x7F00'0000'8000, cold_},
            .names = &names_};
  }
  static std::string name_of(std::uint64_t address) { return address == 0xFFFFFFFF81000004 ? "startup_64+0x4" : ""; }
  std::string path() const { return directory_ + "/map"; }
  static std::vector<std::string> lines(const std::string& path) {
    std::ifstream file(path);
    std::vector<std::string> all;
    for (std::string line; std::getline(file, line);) all.push_back(line);
    return all;
  }

  Names names_;
  std::string directory_;
  // add rax, rcx
  std::array<std::uint8_t, 3> guest_{0x48, 0x01, 0xC8};
  // mov r11, gs:[1234h]; add rax, rcx; jmp +5 (the cold code)
  std::array<std::uint8_t, 17> hot_{0x65, 0x4C, 0x8B, 0x1C, 0x25, 0x34, 0x12, 0, 0,
                                    0x48, 0x01, 0xC8, 0xE9, 0xEF, 0x6F, 0,    0};
  // jmp slow
  std::array<std::uint8_t, 5> cold_{0xE9, 0xFB, 0x0F, 0, 0};
};

TEST_F(CodeLogTest, MapHasALineEachForHotAndColdCode) {
  auto map = PerfMap::create(path(), name_of);
  ASSERT_TRUE(map) << map.error().text();
  (*map)->translated(code());
  map->reset();
  EXPECT_THAT(lines(path()), ElementsAre("7f0000001000 11 guest:startup_64+0x4 [0xffffffff81000004]",
                                         "7f0000008000 5 guest:startup_64+0x4 [0xffffffff81000004] (out of line)"));
}
TEST_F(CodeLogTest, MapNamesCodeWithoutASymbolByItsAddress) {
  auto map = PerfMap::create(path(), {});
  cpu::TranslatedCode other = code();
  other.cold = {};
  (*map)->translated(other);
  (*map)->shared_code(3, other.hot);
  map->reset();
  EXPECT_THAT(lines(path()),
              ElementsAre("7f0000001000 11 guest:0xffffffff81000004", "7f0000001000 11 husk:shared code of cpu3"));
}
TEST_F(CodeLogTest, SymbolOfTheGuestCannotForgeALineOfTheMap) {
  auto map = PerfMap::create(path(), [](std::uint64_t) { return std::string("evil\n401000 100 main"); });
  cpu::TranslatedCode other = code();
  other.cold = {};
  (*map)->translated(other);
  map->reset();
  EXPECT_THAT(lines(path()), ElementsAre("7f0000001000 11 guest:evil?401000 100 main [0xffffffff81000004]"));
}
TEST_F(CodeLogTest, MapIsNotWrittenThroughALink) {
  const std::string victim = directory_ + "/victim";
  std::ofstream(victim) << "precious";
  std::filesystem::create_symlink(victim, path());
  auto map = PerfMap::create(path(), {});
  ASSERT_TRUE(map);
  (*map)->translated(code());
  map->reset();
  EXPECT_THAT(lines(victim), ElementsAre("precious"));
  EXPECT_FALSE(std::filesystem::is_symlink(path()));
}
TEST_F(CodeLogTest, MapInAFolderThatIsNotThereIsRefusedByName) {
  const auto map = PerfMap::create(directory_ + "/none/map", {});
  ASSERT_FALSE(map);
  EXPECT_THAT(map.error().message, HasSubstr("/none/map"));
}

TEST_F(CodeLogTest, DumpShowsGuestAndHostInstructions) {
  std::FILE* const file = std::fopen(path().c_str(), "w+");
  {
    CodeLog({.out = file, .guest_code = true, .host_code = true, .name_of = name_of}).translated(code());
  }
  std::fclose(file);
  EXPECT_THAT(lines(path()),
              ElementsAre("cpu1 in_asm 0xffffffff81000004 <startup_64+0x4>: 3 bytes",
                          "  0xffffffff81000004: 48 01 c8                         add rax, rcx",
                          "cpu1 out_asm 0xffffffff81000004 <startup_64+0x4>: 17 bytes, 5 out of line",
                          "  0x7f0000001000: 65 4c 8b 1c 25 34 12 00 00       mov r11, gs:[page_base]",
                          "  0x7f0000001009: 48 01 c8                         add rax, rcx",
                          "  0x7f000000100c: e9 ef 6f 00 00                   jmp 0x7f0000008000",
                          "  out of line:", "  0x7f0000008000: e9 fb 0f 00 00                   jmp slow"));
}
TEST_F(CodeLogTest, DumpOfGuestCodeAloneShowsNoHostCode) {
  std::FILE* const file = std::fopen(path().c_str(), "w+");
  {
    CodeLog({.out = file, .guest_code = true, .name_of = {}}).translated(code());
  }
  std::fclose(file);
  EXPECT_EQ(lines(path()).size(), 2u);
}

TEST_F(CodeLogTest, RelativeListingHasNoAddress) {
  const HostListing listing = list_host_code(code(), ListingStyle::relative);
  ASSERT_EQ(listing.hot.size(), 3u);
  EXPECT_EQ(listing.hot[2].text, "jmp cold+0");
  EXPECT_EQ(listing.cold[0].text, "jmp slow");
}

}  // namespace
}  // namespace husk::monitor
