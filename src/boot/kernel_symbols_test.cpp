// husk: symbols that are read late: of the file that was booted, or none
#include "boot/kernel_symbols.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "boot/bzimage.h"
#include "boot/kallsyms.h"
#include "boot/test_images.h"

namespace husk::boot {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;
using testing::put;

constexpr std::uint64_t kFunction = 0xFFFF'FFFF'8100'0010;

/// A kernel with a PVH entry and an ELF symbol table of one function (System V gABI, chapter 4).
Bytes kernel_with_symbol(const std::string& name) {
  Bytes f = testing::make_elf({.pvh_note = true});
  const std::size_t strings = f.size();
  testing::put_bytes(f, strings + 1, {reinterpret_cast<const std::uint8_t*>(name.c_str()), name.size() + 1});
  const std::size_t symbols = align_up<std::size_t>(f.size(), 8);
  put<std::uint32_t>(f, symbols, 1);
  put<std::uint8_t>(f, symbols + 4, 0x12);  // STB_GLOBAL, STT_FUNC
  put<std::uint16_t>(f, symbols + 6, 1);
  put<std::uint64_t>(f, symbols + 8, kFunction);
  put<std::uint64_t>(f, symbols + 16, 0x20);
  const std::size_t sections = f.size();
  const auto section = [&](std::size_t index, std::uint32_t type, std::size_t offset, std::size_t size,
                           std::uint32_t link) {
    const std::size_t at = sections + index * 64;
    put<std::uint64_t>(f, at + 56, 0);
    put<std::uint32_t>(f, at + 4, type);
    put<std::uint64_t>(f, at + 24, offset);
    put<std::uint64_t>(f, at + 32, size);
    put<std::uint32_t>(f, at + 40, link);
  };
  section(0, 0, 0, 0, 0);
  section(1, 3, strings, name.size() + 2, 0);
  section(2, 2, symbols, 24, 1);
  put<std::uint64_t>(f, 40, sections);
  put<std::uint16_t>(f, 58, 64);
  put<std::uint16_t>(f, 60, 3);
  return f;
}

class KernelSymbolsTest : public ::testing::Test {
 protected:
  KernelSymbolsTest() {
    std::string pattern = (fs::temp_directory_path() / "husk-symbols-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    write(kernel(), kernel_with_symbol("do_one"));
  }
  ~KernelSymbolsTest() override { fs::remove_all(directory_); }

  fs::path kernel() const { return directory_ / "vmlinuz-6.1"; }
  fs::path map() const { return directory_ / "System.map-6.1"; }
  static void write(const fs::path& path, std::span<const std::uint8_t> data) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  }
  void write_map() const {
    std::string text;
    for (int i = 0; i < 200; ++i) text += fmt::format("ffffffff8200{:04x} T mapped_{}\n", i * 16, i);
    write(map(), {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  KernelSymbols booted(bool in_kernel = true) {
    return KernelSymbols(
        {kernel(), stamp_of(kernel()).value(), in_kernel, [this](const std::string& note) { notes_.push_back(note); }});
  }
  void expect_none(const KernelSymbols& symbols, const std::string& why) {
    EXPECT_FALSE(symbols.find(kFunction));
    EXPECT_FALSE(symbols.address_of("do_one"));
    ASSERT_EQ(notes_.size(), 1u) << "one note, however many questions";
    EXPECT_NE(notes_[0].find(why), std::string::npos) << notes_[0];
    EXPECT_NE(notes_[0].find(directory_.filename().string()), std::string::npos) << notes_[0];
  }

  fs::path directory_;
  std::vector<std::string> notes_;
};

TEST_F(KernelSymbolsTest, AreTheKernelsAndThoseOfTheMapBesideIt) {
  write_map();
  const KernelSymbols symbols = booted();
  EXPECT_EQ(symbols.find(kFunction + 4)->text(), "do_one+0x4");
  EXPECT_EQ(symbols.address_of("do_one"), kFunction);
  EXPECT_EQ(symbols.find(0xFFFF'FFFF'8200'0014)->text(), "mapped_1+0x4");
  EXPECT_EQ(symbols.address_of("mapped_2"), 0xFFFF'FFFF'8200'0020);
  EXPECT_EQ(symbols.tables().size(), 2u);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(KernelSymbolsTest, OfAKernelThatMayHaveMovedAreTheMapsOnly) {
  write_map();
  const KernelSymbols symbols = booted(false);
  EXPECT_FALSE(symbols.address_of("do_one"));
  EXPECT_TRUE(symbols.address_of("mapped_2"));
  EXPECT_TRUE(notes_.empty());
}

TEST_F(KernelSymbolsTest, AreKeptOnceTheyAreRead) {
  const KernelSymbols symbols = booted();
  EXPECT_TRUE(symbols.find(kFunction));
  fs::remove(kernel());
  EXPECT_TRUE(symbols.find(kFunction));
  EXPECT_TRUE(notes_.empty());
}

TEST_F(KernelSymbolsTest, AreFoundFromAnotherWorkingDirectory) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_);
  const KernelSymbols symbols({kernel().filename(), stamp_of(kernel()).value(), true, {}});
  fs::current_path(before);
  EXPECT_TRUE(symbols.find(kFunction));
}

TEST_F(KernelSymbolsTest, OfAKernelThatIsGoneAreNone) {
  const KernelSymbols symbols = booted();
  fs::remove(kernel());
  expect_none(symbols, "No such file");
}

TEST_F(KernelSymbolsTest, OfAnotherSizeAreNone) {
  const KernelSymbols symbols = booted();
  write(kernel(), kernel_with_symbol("do_another"));
  expect_none(symbols, "has changed");
}

TEST_F(KernelSymbolsTest, OfAnotherTimeAreNone) {
  const KernelSymbols symbols = booted();
  fs::last_write_time(kernel(), fs::last_write_time(kernel()) + std::chrono::seconds(1));
  expect_none(symbols, "has changed");
}

TEST_F(KernelSymbolsTest, OfAnotherFileOfTheSameSizeAndTimeAreNone) {
  const KernelSymbols symbols = booted();
  write(directory_ / "new", kernel_with_symbol("do_two"));
  fs::last_write_time(directory_ / "new", fs::last_write_time(kernel()));
  fs::rename(directory_ / "new", kernel());
  expect_none(symbols, "has changed");
}

TEST_F(KernelSymbolsTest, OfAMapThatChangedAreNoneWhileTheKernelsStay) {
  write_map();
  const KernelSymbols symbols = booted();
  fs::last_write_time(map(), fs::last_write_time(map()) + std::chrono::seconds(1));
  EXPECT_FALSE(symbols.address_of("mapped_2"));
  EXPECT_TRUE(symbols.address_of("do_one"));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("System.map-6.1 has changed"), std::string::npos) << notes_[0];
}

TEST_F(KernelSymbolsTest, OfAKernelThatNeverHadAnyAreNoNote) {
  write(kernel(), testing::make_elf({.pvh_note = true}));
  const KernelSymbols symbols = booted();
  EXPECT_FALSE(symbols.find(kFunction));
  EXPECT_TRUE(notes_.empty());
}

TEST_F(KernelSymbolsTest, AreReadOnceForAllThreads) {
  const KernelSymbols symbols = booted();
  write(kernel(), kernel_with_symbol("do_another"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_FALSE(symbols.find(kFunction)); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(notes_.size(), 1u);
}

TEST(SymbolsOfKernel, AreThoseInsideABzImage) {
  const Bytes image = testing::make_bzimage(kernel_with_symbol("do_one"));
  const auto table = symbols_of_kernel(image, "k");
  ASSERT_TRUE(table) << table.error().text();
  EXPECT_EQ(table->address_of("do_one"), kFunction);
  EXPECT_FALSE(symbols_of_kernel(std::span(image).first(600), "k"));
}

TEST(SymbolsOfKernel, OfAStrippedDebianKernelAreItsKallsyms) {
  const fs::path path = fs::path(HUSK_GUEST_CACHE) / "cloud" / "vmlinuz";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is missing; run tools/fetch-guest";
  const auto file = read_boot_file(path, "kernel", kKernelFileLimit).value();
  const SymbolTable expected = find_kallsyms(unpack_payload(file, parse_setup_header(file).value()).value().vmlinux);
  const KernelSymbols symbols({path, stamp_of(path).value(), true, {}});
  EXPECT_EQ(symbols.tables()[0]->size(), expected.size());
  EXPECT_EQ(symbols.address_of("start_kernel"), expected.address_of("start_kernel"));
}

}  // namespace
}  // namespace husk::boot
