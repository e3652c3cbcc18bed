// husk: SMBIOS tables, judged by dmidecode where it is installed
#include "boot/smbios.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/bits.h"

namespace husk::boot {
namespace {

SmbiosConfig example() {
  SmbiosConfig config;
  config.serial = "S-1";
  config.uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF};
  config.processor_manufacturer = "GenuineIntel";
  config.cores_per_socket = 4;
  config.ram_below_4g = 3ull << 30;
  config.ram_above_4g = 61ull << 30;
  return config;
}

std::string dmidecode(std::span<const std::uint8_t> dump) {
  const std::string path = (std::filesystem::temp_directory_path() / "husk-smbios-XXXXXX").string();
  std::string name = path;
  const int fd = ::mkstemp(name.data());
  if (fd < 0) return {};
  std::FILE* file = ::fdopen(fd, "wb");
  std::fwrite(dump.data(), 1, dump.size(), file);
  std::fclose(file);
  std::string text;
  std::FILE* pipe = ::popen(("PATH=$PATH:/usr/sbin:/sbin dmidecode --from-dump " + name + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, got);
  const int status = ::pclose(pipe);
  std::filesystem::remove(name);
  return status == 0 ? text : std::string();
}

void expect_in(const std::string& text, const char* what) {
  EXPECT_NE(text.find(what), std::string::npos) << what << "\n" << text;
}

void expect_clean(const std::string& text) {
  for (const char* bad : {"OUT OF SPEC", "BROKEN", "TRUNCATED", "Wrong", "WARNING"})
    EXPECT_EQ(text.find(bad), std::string::npos) << bad << "\n" << text;
}

TEST(Smbios, DmidecodeReadsBothEntryPointsAsConfigured) {
  // A dump file of dmidecode is the entry point at 0 with the table at the file offset that it names: base 0 is one.
  SmbiosBlob blob = build_smbios(example(), 0);
  const std::string text = dmidecode(blob.bytes);
  if (text.empty()) GTEST_SKIP() << "dmidecode is not installed";
  for (const char* line :
       {"SMBIOS 3.0.0 present", "Manufacturer: husk", "Serial Number: S-1", "Core Count: 4",
        "UUID: 00112233-4455-6677-8899-aabbccddeeff", "System is a virtual machine", "64-bit capable",
        "Maximum Capacity: 64 GB", "Size: 64 GB", "Range Size: 3 GB", "Range Size: 61 GB",
        "Starting Address: 0x00100000000", "No errors detected", "End Of Table"})
    expect_in(text, line);
  expect_clean(text);

  std::copy_n(blob.bytes.begin() + 32, 31, blob.bytes.begin());
  const std::string old = dmidecode(blob.bytes);
  expect_in(old, "SMBIOS 2.8 present");
  expect_in(old, "End Of Table");
  expect_clean(old);
}

TEST(Smbios, MoreThan2TiBUsesTheExtendedFields) {
  SmbiosConfig config = example();
  config.ram_above_4g = 8ull << 40;
  const std::string text = dmidecode(build_smbios(config, 0).bytes);
  if (text.empty()) GTEST_SKIP() << "dmidecode is not installed";
  expect_in(text, "Range Size: 8 TB");
  expect_clean(text);
}

TEST(Smbios, ChecksumsOfEntryPointsAreZero) {
  const SmbiosBlob blob = build_smbios(example(), 0xF0000);
  const auto sum = [&](std::size_t at, std::size_t length) {
    return static_cast<std::uint8_t>(std::accumulate(blob.bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                                     blob.bytes.begin() + static_cast<std::ptrdiff_t>(at + length), 0));
  };
  EXPECT_EQ(sum(0, 24), 0);
  EXPECT_EQ(sum(32, 31), 0);
  EXPECT_EQ(sum(48, 15), 0);
  EXPECT_EQ(load_le<std::uint64_t>(&blob.bytes[16]), 0xF0040u);
}

TEST(Smbios, OverlongStringsAreCut) {
  SmbiosConfig config = example();
  config.product = std::string(10000, 'x');
  EXPECT_LT(build_smbios(config, 0).bytes.size(), 2000u);
}

}  // namespace
}  // namespace husk::boot
