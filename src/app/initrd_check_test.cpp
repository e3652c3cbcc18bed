// husk: tests of the look at an initrd before it is booted
#include "app/initrd_check.h"

#include <gtest/gtest.h>

#include <vector>

#include "boot/initramfs.h"

namespace husk::app {
namespace {

using Bytes = std::vector<std::uint8_t>;
using namespace std::string_literals;

/// As much of a bzImage as says "Linux": the magic, protocol 2.15, and a compressed payload.
Bytes linux_kernel() {
  Bytes kernel(4096);
  const std::string magic = "HdrS";
  std::copy(magic.begin(), magic.end(), kernel.begin() + 0x202);
  kernel[0x206] = 0x0f;
  kernel[0x207] = 0x02;
  kernel[0x24c] = 1;
  return kernel;
}

/// `printf a | cpio -o -H newc` of one file "f" with the contents "hello", and the trailer.
std::string archive() {
  const auto header = [](unsigned size, unsigned name_size) {
    return fmt::format("070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}", 1,
                       0100644, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0);
  };
  return header(5, 2) + "f\0"s + "hello\0\0\0"s + header(0, 11) + "TRAILER!!!\0"s + "\0\0\0"s;
}

std::string refusal(const std::string& initrd, const Bytes& kernel = linux_kernel()) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(initrd.data());
  const Status status = check_initrd(kernel, {data, initrd.size()}, "/i");
  return status ? "" : status.error().text();
}

TEST(InitrdCheck, TakesArchivesAndWhatLinuxDecompresses) {
  EXPECT_EQ(refusal(archive()), "");
  EXPECT_EQ(refusal(std::string(512, '\0') + archive()), "") << "Linux skips zeros";
  EXPECT_EQ(refusal(archive() + std::string(512, '\0') + "\x28\xb5\x2f\xfd"), "") << "microcode before the rest";
  for (const std::string& magic : {"\x1f\x8b\x08"s, "BZh9"s, "\x5d\0\0"s, "\xfd\x37zXZ\0"s, "\x89LZO"s,
                                   "\x02\x21\x4c\x18"s, "\x28\xb5\x2f\xfd"s, "hsqs"s})
    EXPECT_EQ(refusal(magic + std::string(100, 'x')), "");
}

TEST(InitrdCheck, RefusesWhatLinuxWouldPanicOf) {
  EXPECT_NE(refusal("#!/bin/sh\n").find("is of no kind that Linux knows"), std::string::npos);
  EXPECT_NE(refusal(std::string(4096, '\xa5')).find("is of no kind that Linux knows"), std::string::npos);
  EXPECT_NE(refusal("070707" + std::string(70, '0')).find("none of the kind newc"), std::string::npos)
      << "cpio's old format";
  std::string bad_digit = archive();
  bad_digit[6 + 8 * 6] = 'x';
  EXPECT_NE(refusal(bad_digit).find("damaged"), std::string::npos);
}

TEST(InitrdCheck, AnArchiveThatEndsInsideAnEntryIsTruncated) {
  const std::string whole = archive();
  const std::size_t second = 110 + 2 + 8;  // where the trailer's header begins
  for (std::size_t size = 6; size < whole.size() - 4; ++size) {
    if (size == second) continue;  // between entries, which Linux takes
    const bool padding = size > second - 4 && size < second;
    EXPECT_EQ(refusal(whole.substr(0, size)).find("is truncated") == std::string::npos, padding) << size;
  }
}

TEST(InitrdCheck, OtherKernelsMayTakeAnything) {
  Bytes other = linux_kernel();
  other[0x24c] = 0;
  EXPECT_EQ(refusal("#!ipxe\n", other), "");
  EXPECT_EQ(refusal("x", Bytes(100)), "");
}

TEST(InitrdCheck, TakesHusksOwn) {
  boot::CpioWriter writer;
  const Bytes empty = writer.finish();
  EXPECT_EQ(refusal({empty.begin(), empty.end()}), "");
}

}  // namespace
}  // namespace husk::app
