// husk: the Multiboot loader on hand-made images; offsets are those of the specification's section 3.3
#include "boot/multiboot.h"

#include <gtest/gtest.h>

#include "boot/kernel_file.h"
#include "boot/test_images.h"

namespace husk::boot {
namespace {

using testing::Bytes;
using testing::make_elf;
using testing::make_multiboot_header;
using testing::TestMemory;

constexpr std::uint64_t kRam = 32u << 20;

void expect_error(const auto& result, std::string_view part) {
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text().find(part), std::string::npos) << result.error().text();
}

testing::ElfOptions elf32(std::uint32_t flags = 3) {
  testing::ElfOptions o;
  o.is_64 = false;
  o.machine = 3;
  o.paddr = 0x10'0000;
  o.vaddr = 0xC010'0000;
  o.entry = 0x10'0010;
  o.code = make_multiboot_header(flags);
  o.code.resize(64);
  return o;
}

TEST(Multiboot, Elf32KernelGetsTheInformationStructure) {
  TestMemory guest(kRam);
  auto request = guest.request();
  request.command_line = "kernel arg";
  const Bytes first(5000, 1), second(3, 2);
  request.modules = {{first, "one a=b"}, {second, "two"}};
  const auto loaded = load_multiboot(guest.memory, make_elf(elf32()), request);
  ASSERT_TRUE(loaded) << loaded.error().text();
  const EntryState& e = loaded->entry;
  EXPECT_EQ(e.mode, EntryMode::protected32);
  EXPECT_EQ(e.rip, 0x10'0010u);
  EXPECT_EQ(e.rax, 0x2BADB002u);
  EXPECT_EQ(e.cr0 & 0x8000'0001, 1u);
  EXPECT_EQ(e.rflags & 0x200, 0u);
  const Gpa info = e.rbx;
  EXPECT_EQ(guest.load<std::uint32_t>(info), 0x24Du) << "memory, cmdline, modules, map, loader name";
  EXPECT_EQ(guest.load<std::uint32_t>(info + 4), 639u);
  EXPECT_EQ(guest.load<std::uint32_t>(info + 8), 31u << 10);
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(info + 16)), "kernel arg");
  ASSERT_EQ(guest.load<std::uint32_t>(info + 20), 2u);
  const auto list = guest.load<std::uint32_t>(info + 24);
  const auto start = guest.load<std::uint32_t>(list), end = guest.load<std::uint32_t>(list + 4);
  EXPECT_EQ(start % 4096, 0u);
  EXPECT_EQ(guest.read(start, end - start), first);
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(list + 8)), "one a=b");
  EXPECT_EQ(guest.load<std::uint32_t>(list + 16), start + 8192);
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(list + 24)), "two");
  const auto map = guest.load<std::uint32_t>(info + 48);
  EXPECT_EQ(guest.load<std::uint32_t>(info + 44), 72u);
  EXPECT_EQ(guest.load<std::uint32_t>(map), 20u);
  EXPECT_EQ(guest.load<std::uint64_t>(map + 48 + 4), 0x10'0000u);
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(info + 64)), "husk");
  EXPECT_EQ(guest.load<std::uint64_t>(e.gdt.base + e.cs.selector) >> 40 & 0xF0FF, e.cs.attributes);
}

// GNU ld puts the ELF headers into a segment of their own right below an image that is linked to 1 MiB.
TEST(Multiboot, HeaderSegmentInTheRomAreaIsLeftOut) {
  TestMemory guest(kRam);
  Bytes elf = make_elf(elf32());
  testing::put<std::uint16_t>(elf, 44, 2);
  for (const auto& [at, value] :
       {std::pair{0u, 1u}, {4u, 0u}, {8u, 0xF'F000u}, {12u, 0xF'F000u}, {16u, 148u}, {20u, 148u}, {24u, 4u}})
    testing::put<std::uint32_t>(elf, 52 + 32 + at, value);
  const auto loaded = load_multiboot(guest.memory, elf, guest.request());
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_EQ(guest.load<std::uint32_t>(0xF'F000), 0u);
  testing::put<std::uint32_t>(elf, 52 + 32 + 24, 5);  // executable: that is code
  expect_error(load_multiboot(guest.memory, elf, guest.request()), "no RAM");
}

TEST(Multiboot, CommandLineBeginsWithTheKernelsName) {
  TestMemory guest(kRam);
  auto request = guest.request();
  request.command_line = "a b";
  const auto loaded = load_kernel(guest.memory, make_elf(elf32()), "dir/k.elf", request);
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(loaded->entry.rbx + 16)), "dir/k.elf a b");
}

TEST(Multiboot, VirtualEntryPointBecomesPhysical) {
  TestMemory guest(kRam);
  auto o = elf32();
  o.entry = 0xC010'0010;
  EXPECT_EQ(load_multiboot(guest.memory, make_elf(o), guest.request()).value().entry.rip, 0x10'0010u);
}

TEST(Multiboot, AoutKludgeLoadsByTheHeadersAddresses) {
  TestMemory guest(kRam);
  Bytes file(0x20, 0xEE);  // before the image: not to be loaded
  testing::put_bytes(file, 0x20, Bytes{0x11, 0x22, 0x33, 0x44});
  testing::put_bytes(file, 0x24,
                     make_multiboot_header(0x10003, {0x20'0004, 0x20'0000, 0x20'0040, 0x20'1000, 0x20'0030}));
  file.resize(0x100, 0x77);
  guest.low->data()[0x20'0040] = 9;
  const auto loaded = load_multiboot(guest.memory, file, guest.request());
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_EQ(loaded->entry.rip, 0x20'0030u);
  EXPECT_EQ(guest.read(0x20'0000, 4), (Bytes{0x11, 0x22, 0x33, 0x44}));
  EXPECT_EQ(guest.load<std::uint8_t>(0x20'003F), 0x77);
  EXPECT_EQ(guest.load<std::uint8_t>(0x20'0040), 0) << ".bss";
  EXPECT_EQ(detect_kernel(file, "k").value(), KernelKind::multiboot);
}

TEST(Multiboot, KludgeWithoutLoadEndTakesTheWholeFile) {
  TestMemory guest(kRam);
  Bytes file = make_multiboot_header(0x10000, {0x10'0000, 0x10'0000, 0, 0, 0x10'0020});
  file.resize(0x500, 0x5A);
  ASSERT_TRUE(load_multiboot(guest.memory, file, guest.request()));
  EXPECT_EQ(guest.load<std::uint8_t>(0x10'04FF), 0x5A);
}

TEST(Multiboot, ImageInLowMemoryMovesTheInformationAway) {
  TestMemory guest(kRam);
  Bytes file = make_multiboot_header(0x10000, {0x1000, 0x1000, 0, 0x9'F000, 0x1020});
  file.resize(0x500, 0x5A);
  const auto loaded = load_multiboot(guest.memory, file, guest.request());
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_TRUE(loaded->entry.rbx >= 0x9'F000) << loaded->entry.rbx;
  EXPECT_EQ(guest.read(0x1000, file.size()), file);
}

TEST(Multiboot, SixtyFourBitElfIsRefusedByName) {
  TestMemory guest(kRam);
  testing::ElfOptions o;
  o.code = make_multiboot_header(3);
  o.code.resize(64);
  expect_error(load_multiboot(guest.memory, make_elf(o), guest.request()), "64-bit ELF");
  // With a PVH entry the same file is booted by that.
  o.pvh_note = true;
  EXPECT_EQ(detect_kernel(make_elf(o), "k").value(), KernelKind::pvh);
}

TEST(Multiboot, RefusalsNameTheCause) {
  TestMemory guest(kRam);
  const auto load = [&](const Bytes& file) { return load_multiboot(guest.memory, file, guest.request()); };
  expect_error(load(Bytes(9000, 0)), "no Multiboot header");
  expect_error(load(make_elf(elf32(0x13))), "unknown features");
  const auto kludge = [&](std::initializer_list<std::uint32_t> addresses) {
    Bytes file = make_multiboot_header(0x10000, addresses);
    file.resize(0x100);
    return load(file);
  };
  expect_error(kludge({0x10'0000, 0x10'0004, 0, 0, 0x10'0000}), "below the image");
  expect_error(kludge({0x10'0010, 0x10'0000, 0, 0, 0x10'0000}), "before the start of the file");
  expect_error(kludge({0x10'0000, 0x10'0000, 0xF'0000, 0, 0x10'0000}), "before its start");
  expect_error(kludge({0x10'0000, 0x10'0000, 0x10'0200, 0, 0x10'0000}), "truncated");
  expect_error(kludge({0x10'0000, 0x10'0000, 0x10'0100, 0x10'0080, 0x10'0000}), ".bss");
  expect_error(kludge({0x10'0000, 0x10'0000, 0, 0, 0x20'0000}), "entry point");
  expect_error(kludge({0xF000'0000, 0xF000'0000, 0, 0, 0xF000'0000}), "no RAM");
  auto request = guest.request();
  const Bytes module(kRam, 0);
  request.modules = {{module, "big"}};
  expect_error(load_multiboot(guest.memory, make_elf(elf32()), request), "module \"big\"");
}

TEST(Multiboot, EveryTruncationIsAnErrorOrAWholeHeader) {
  TestMemory guest(kRam);
  const Bytes file = make_elf(elf32());
  for (std::size_t length = 0; length < file.size(); ++length)
    ASSERT_FALSE(load_multiboot(guest.memory, std::span(file).first(length), guest.request())) << length;
}

TEST(Multiboot, HeaderIsFoundOnlyInTheFirst8KiBAligned) {
  for (const auto& [at, found] : {std::pair{0u, true}, {4u, true}, {8180u, true}, {8184u, false}, {2u, false}}) {
    Bytes file(at);
    testing::put_bytes(file, at, make_multiboot_header(0));
    file.resize(16384);
    EXPECT_EQ(find_multiboot_header(file).has_value(), found) << at;
  }
}

}  // namespace
}  // namespace husk::boot
