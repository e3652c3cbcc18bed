// husk: tests of guest memory in files
#include "machine/memory_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace husk::machine {
namespace {

struct MemoryFileTest : ::testing::Test {
  MemoryFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "husk-pmem-XXXXXX").string();
    EXPECT_TRUE(::mkdtemp(pattern.data()));
    directory = pattern;
  }
  ~MemoryFileTest() override { std::filesystem::remove_all(directory); }
  std::string path() const { return directory / "file"; }
  std::string content(std::size_t offset, std::size_t length) const {
    std::ifstream in(path(), std::ios::binary);
    in.seekg(static_cast<std::streamoff>(offset));
    std::string bytes(length, '?');
    in.read(bytes.data(), static_cast<std::streamsize>(length));
    return bytes;
  }
  std::filesystem::path directory;
  mem::LockDomain domain;
};

constexpr std::uint64_t kSize = 4 << 20;

TEST_F(MemoryFileTest, AFileIsMadeWithItsSpace) {
  const auto file = MemoryFile::create({path(), kSize}, domain);
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(std::filesystem::file_size(path()), kSize);
  EXPECT_EQ((*file)->region().size(), kSize);
  EXPECT_EQ((*file)->region().data()[kSize - 1], 0);
}

TEST_F(MemoryFileTest, WhatIsWrittenIsInTheFileAndIsFoundAgain) {
  bool stable = false;
  {
    const auto file = MemoryFile::create({path(), kSize}, domain).value();
    std::copy_n("persistent", 10, file->region().data() + 5000);
    {
      const mem::DomainGuard guard(&domain);
      file->flush([&](bool success) {
        EXPECT_TRUE(domain.held());
        stable = success;
      });
    }
    file->drain();
  }
  EXPECT_TRUE(stable);
  EXPECT_EQ(content(5000, 10), "persistent");
  const auto again = MemoryFile::create({path(), kSize}, domain).value();
  EXPECT_EQ(again->region().data()[5000], 'p');
}

TEST_F(MemoryFileTest, EveryFlushIsAnswered) {
  const auto file = MemoryFile::create({path(), kSize}, domain).value();
  unsigned answered = 0;
  for (int i = 0; i < 100; ++i) {
    const mem::DomainGuard guard(&domain);
    file->flush([&](bool success) { answered += success; });
  }
  file->drain();
  EXPECT_EQ(answered, 100u);
}

TEST_F(MemoryFileTest, APrivateOneLeavesTheFileAsItIs) {
  std::ofstream(path()) << std::string(kSize, 'x');
  const auto file = MemoryFile::create({path(), kSize, false}, domain).value();
  EXPECT_EQ(file->region().data()[0], 'x');
  file->region().data()[0] = 'y';
  bool stable = false;
  file->flush([&](bool success) { stable = success; });
  EXPECT_TRUE(stable);
  EXPECT_EQ(content(0, 1), "x");
}

TEST_F(MemoryFileTest, RefusesWhatCannotBe) {
  EXPECT_FALSE(MemoryFile::create({path(), 0}, domain));
  EXPECT_FALSE(MemoryFile::create({path(), 5000}, domain));
  EXPECT_FALSE(MemoryFile::create({directory.string(), kSize}, domain));
  EXPECT_FALSE(MemoryFile::create({"/nowhere/file", kSize}, domain));
  std::ofstream(path()) << "short";
  EXPECT_FALSE(MemoryFile::create({path(), kSize}, domain));
  EXPECT_EQ(std::filesystem::file_size(path()), 5u);
}

}  // namespace
}  // namespace husk::machine
