// husk: bzImage, PVH and ROM loaders on hand-made images, and on Debian's kernels where they are in the cache
#include <gtest/gtest.h>

#include <filesystem>

#include "boot/bzimage.h"
#include "boot/elf.h"
#include "boot/kernel_file.h"
#include "boot/pvh.h"
#include "boot/rom.h"
#include "boot/test_images.h"

namespace husk::boot {
namespace {

using testing::Bytes;
using testing::make_bzimage;
using testing::make_elf;
using testing::TestMemory;

constexpr std::uint64_t kRam = 64u << 20;

std::string error_of(const auto& result) { return result ? "no error" : result.error().text(); }
void expect_error(const auto& result, std::string_view part) {
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text().find(part), std::string::npos) << result.error().text();
}

TEST(E820, IsCutAroundReservedRangesAndOrdered) {
  MemoryLayout layout;
  layout.below_4g = 0x800'0000;
  layout.above_4g = 0x4000'0000;
  layout.reserved = {{0xB000'0000, 0x1000'0000, E820Type::reserved},
                     {0x7FF'0000, 0x1'0000, E820Type::acpi_reclaimable}};
  const std::vector<E820Entry> expected = {{0, 0x9FC00, E820Type::ram},
                                           {0x9FC00, 0x60400, E820Type::reserved},
                                           {0x10'0000, 0x7EF'0000, E820Type::ram},
                                           {0x7FF'0000, 0x1'0000, E820Type::acpi_reclaimable},
                                           {0xB000'0000, 0x1000'0000, E820Type::reserved},
                                           {0x1'0000'0000, 0x4000'0000, E820Type::ram}};
  EXPECT_EQ(e820_map(layout), expected);
}

TEST(Placement, HighestAndLowestFreeRam) {
  MemoryLayout layout;
  layout.below_4g = 0x400'0000;
  const auto map = e820_map(layout);
  const GpaRange taken[] = {{0x3FF'0000, 0x1'0000}, {0x10'0000, 0x10'0000}};
  EXPECT_EQ(place_high(map, 0x1800, 0x1000, 0x10'0000, kFourGiB, taken), 0x3FE'E000u);
  EXPECT_EQ(place_low(map, 0x1800, 0x1000, 0x10'0000, kFourGiB, taken), 0x20'0000u);
  EXPECT_EQ(place_high(map, 0x400'0000, 0x1000, 0x10'0000, kFourGiB, taken), std::nullopt);
  EXPECT_EQ(place_high(map, 0x1000, 0x1000, 0x10'0000, 0x100'0000, taken), 0xFF'F000u);
}

TEST(BzImage, SixtyFourBitKernelIsEnteredAtItsElfEntryByTheBootProtocol) {
  TestMemory guest(kRam);
  testing::ElfOptions elf;
  elf.entry = 0x100'0020;
  elf.code = {0xDE, 0xAD};
  guest.low->data()[0x100'0002] = 0x55;  // .bss of an earlier run
  auto request = guest.request();
  request.command_line = "console=ttyS0";
  request.rsdp_address = 0xE0000;
  const auto loaded = load_bzimage(guest.memory, make_bzimage(make_elf(elf)), request);
  ASSERT_TRUE(loaded) << error_of(loaded);
  EXPECT_EQ(loaded->version, "6.1.0-test (me)");
  const EntryState& e = loaded->entry;
  EXPECT_EQ(e.mode, EntryMode::long64);
  EXPECT_EQ(e.rip, 0x100'0020u);
  EXPECT_EQ(e.cs.selector, 0x10);
  EXPECT_EQ(e.ds.selector, 0x18);
  EXPECT_EQ(e.ss.selector, 0x18);
  EXPECT_EQ(e.rflags, 2u) << "interrupts off";
  EXPECT_EQ(guest.read(0x100'0000, 3), (Bytes{0xDE, 0xAD, 0}));
  // boot_params, at the offsets of zero-page.rst.
  EXPECT_EQ(guest.load<std::uint64_t>(e.rsi + 0x70), 0xE0000u);
  EXPECT_EQ(guest.load<std::uint8_t>(e.rsi + 0x1E8), 3) << "e820 entries";
  EXPECT_EQ(guest.load<std::uint64_t>(e.rsi + 0x2D0 + 40), 0x10'0000u);
  EXPECT_EQ(guest.load<std::uint32_t>(e.rsi + 0x202), 0x53726448u);
  EXPECT_EQ(guest.load<std::uint8_t>(e.rsi + 0x210), 0xFF) << "type_of_loader";
  EXPECT_EQ(guest.string(guest.load<std::uint32_t>(e.rsi + 0x228)), "console=ttyS0");
  EXPECT_EQ(guest.load<std::uint32_t>(e.rsi + 0x21C), 0u) << "no initrd";
}

TEST(BzImage, GdtAndPageTablesSayWhatTheEntryStateClaims) {
  TestMemory guest(kRam);
  const auto loaded = load_bzimage(guest.memory, make_bzimage(make_elf()), guest.request());
  ASSERT_TRUE(loaded) << error_of(loaded);
  const EntryState& e = loaded->entry;
  const auto code = guest.load<std::uint64_t>(e.gdt.base + 0x10), data = guest.load<std::uint64_t>(e.gdt.base + 0x18);
  EXPECT_EQ((code >> 40) & 0xF0FF, e.cs.attributes);
  EXPECT_EQ((data >> 40) & 0xF0FF, e.ds.attributes);
  EXPECT_EQ(e.gdt.limit, 0x1F);
  for (const Gpa address : {Gpa{0}, Gpa{0x100'0000}, Gpa{0x4020'1234}, Gpa{0xFFFF'FFFF}}) {
    const auto pml4e = guest.load<std::uint64_t>(e.cr3);
    const auto pdpte = guest.load<std::uint64_t>((pml4e & ~0xFFFull) + ((address >> 30) & 511) * 8);
    const auto pde = guest.load<std::uint64_t>((pdpte & ~0xFFFull) + ((address >> 21) & 511) * 8);
    EXPECT_EQ(pde & 0x83, 0x83u) << "present, writable, large";
    EXPECT_EQ(pde & ~0x1F'FFFFull, address & ~0x1F'FFFFull);
  }
}

TEST(BzImage, ThirtyTwoBitKernelIsEnteredInProtectedMode) {
  TestMemory guest(kRam);
  testing::ElfOptions elf;
  elf.is_64 = false;
  elf.machine = 3;
  elf.vaddr = 0xC100'0000;
  testing::BzImageOptions options;
  options.xload_flags = 0;
  const auto loaded = load_bzimage(guest.memory, make_bzimage(make_elf(elf), options), guest.request());
  ASSERT_TRUE(loaded) << error_of(loaded);
  EXPECT_EQ(loaded->entry.mode, EntryMode::protected32);
  EXPECT_EQ(loaded->entry.rip, 0x100'0000u);
  EXPECT_EQ(loaded->entry.cr0 & 0x8000'0001, 1u) << "protected, no paging";
  EXPECT_EQ(loaded->entry.rsi, kBootParamsAddress);
  EXPECT_EQ(loaded->entry.cs.attributes, kCode32Segment);
}

TEST(BzImage, GuestDecompressionEntersTheStub) {
  TestMemory guest(kRam);
  auto request = guest.request();
  request.guest_decompress = true;
  const Bytes image = make_bzimage(Bytes(100, 0xAB));
  const auto loaded = load_bzimage(guest.memory, image, request);
  ASSERT_TRUE(loaded) << error_of(loaded);
  EXPECT_EQ(loaded->entry.mode, EntryMode::long64);
  EXPECT_EQ(loaded->entry.rip, 0x100'0200u) << "64-bit entry is 0x200 behind the load address";
  EXPECT_EQ(guest.load<std::uint32_t>(kBootParamsAddress + 0x214), 0x100'0000u) << "code32_start";
  EXPECT_EQ(guest.read(0x100'02C0, 2), (Bytes{0xAB, 0xAB}));

  testing::BzImageOptions old;
  old.xload_flags = 0;
  const auto loaded32 = load_bzimage(guest.memory, make_bzimage(Bytes(100, 0xAB), old), request);
  ASSERT_TRUE(loaded32);
  EXPECT_EQ(loaded32->entry.mode, EntryMode::protected32);
  EXPECT_EQ(loaded32->entry.rip, 0x100'0000u);
}

TEST(BzImage, InitrdGoesAsHighAsTheKernelAllows) {
  TestMemory guest(kRam);
  auto request = guest.request();
  const Bytes initrd(5000, 0x42);
  request.modules.push_back({initrd, ""});
  request.layout.reserved.push_back({kRam - 0x1'0000, 0x1'0000, E820Type::acpi_reclaimable});
  ASSERT_TRUE(load_bzimage(guest.memory, make_bzimage(make_elf()), request));
  const auto at = guest.load<std::uint32_t>(kBootParamsAddress + 0x218);
  EXPECT_EQ(at, kRam - 0x1'0000 - 0x2000);
  EXPECT_EQ(guest.load<std::uint32_t>(kBootParamsAddress + 0x21C), 5000u);
  EXPECT_EQ(guest.read(at, 5000), initrd);

  // A kernel that cannot go above 4 GiB keeps to initrd_addr_max.
  Bytes old = make_bzimage(make_elf(), {.xload_flags = 1});
  testing::put<std::uint32_t>(old, 0x22C, 0x1FF'FFFF);
  ASSERT_TRUE(load_bzimage(guest.memory, old, request));
  EXPECT_EQ(guest.load<std::uint32_t>(kBootParamsAddress + 0x218), 0x200'0000u - 0x2000);
}

TEST(BzImage, InitrdAbove4GiBIsPassedInTheExtFields) {
  TestMemory guest(24u << 20, 64u << 20);
  auto request = guest.request();
  const Bytes initrd(16u << 20, 0x42);
  request.modules.push_back({initrd, ""});
  const auto loaded = load_bzimage(guest.memory, make_bzimage(make_elf()), request);
  ASSERT_TRUE(loaded) << error_of(loaded);
  const std::uint64_t at = guest.load<std::uint32_t>(kBootParamsAddress + 0x218) |
                           std::uint64_t{guest.load<std::uint32_t>(kBootParamsAddress + 0xC0)} << 32;
  EXPECT_EQ(at, kFourGiB + (48u << 20));
  expect_error(load_bzimage(guest.memory, make_bzimage(make_elf(), {.xload_flags = 1}), request), "does not fit");
}

TEST(BzImage, SetupDataIsAListInTheGivenOrder) {
  TestMemory guest(kRam);
  auto request = guest.request();
  request.setup_data = {{9, {1, 2, 3}}, {77, {4}}};
  ASSERT_TRUE(load_bzimage(guest.memory, make_bzimage(make_elf()), request));
  const auto first = guest.load<std::uint64_t>(kBootParamsAddress + 0x250);
  ASSERT_NE(first, 0u);
  EXPECT_EQ(guest.load<std::uint32_t>(first + 8), 9u);
  EXPECT_EQ(guest.load<std::uint32_t>(first + 12), 3u);
  EXPECT_EQ(guest.read(first + 16, 3), (Bytes{1, 2, 3}));
  const auto second = guest.load<std::uint64_t>(first);
  EXPECT_EQ(guest.load<std::uint32_t>(second + 8), 77u);
  EXPECT_EQ(guest.load<std::uint64_t>(second), 0u);
}

TEST(BzImage, RefusalsNameTheCause) {
  TestMemory guest(kRam);
  const auto load = [&](const Bytes& file, const BootRequest& request) {
    return load_bzimage(guest.memory, file, request);
  };
  const Bytes good = make_bzimage(make_elf());
  auto request = guest.request();
  expect_error(load(Bytes(4096, 0), request), "no bzImage");
  Bytes bad = good;
  bad[0x211] = 0;
  expect_error(load(bad, request), "zImage");
  bad = good;
  testing::put<std::uint16_t>(bad, 0x206, 0x0200);
  expect_error(load(bad, request), "older than 2.02");
  bad = good;
  testing::put<std::uint32_t>(bad, 0x248, 0xFFFF'FFF0);
  expect_error(load(bad, request), "beyond 4 GiB");
  bad = good;
  testing::put<std::uint32_t>(bad, 0x248, 0x7FFF'FFF0);
  expect_error(load(bad, request), "truncated");
  bad = good;
  testing::put<std::uint64_t>(bad, 0x258, 1ull << 40);
  expect_error(load(bad, request), "above 4 GiB");
  bad = good;
  bad[5 * 512 + 0x2C0] = 0;
  expect_error(load(bad, request), "format that husk does not know");
  expect_error(load(make_bzimage(make_elf(), {.protocol = 0x0207}), request), "--guest-decompress");
  request.command_line = std::string(2048, 'x');
  expect_error(load(good, request), "2048 bytes; this kernel takes 2047");
  request = guest.request();
  const Bytes initrd(kRam, 0);
  request.modules.push_back({initrd, ""});
  expect_error(load(good, request), "does not fit");
  request.modules.assign(2, {std::span(initrd).first(1), ""});
  expect_error(load(good, request), "one initrd");
  request.modules.assign(1, {});
  expect_error(load(good, request), "initrd is empty");
  expect_error(load(make_bzimage(make_elf(), {.init_size = 128u << 20}), guest.request()), "give it at least 144 MiB");
  TestMemory tiny(1u << 20);
  expect_error(load_bzimage(tiny.memory, good, tiny.request()), "too little");
  testing::ElfOptions arm;
  arm.machine = 183;
  expect_error(load(make_bzimage(make_elf(arm)), guest.request()), "AArch64");
}

TEST(BzImage, EveryTruncationIsRefused) {
  TestMemory guest(kRam);
  const Bytes good = make_bzimage(make_elf());
  for (std::size_t length = 0; length < good.size(); ++length) {
    const std::span cut(good.data(), length);
    EXPECT_FALSE(parse_setup_header(cut)) << length;
    ASSERT_FALSE(load_bzimage(guest.memory, cut, guest.request())) << length;
    ASSERT_FALSE(detect_kernel(cut, "cut") && length < 0x206) << length;
  }
}

TEST(Pvh, StartInfoAndEntryAreAsXenDefinesThem) {
  for (const bool is_64 : {true, false}) {
    TestMemory guest(kRam);
    testing::ElfOptions elf;
    elf.is_64 = is_64;
    elf.machine = is_64 ? 62 : 3;
    elf.pvh_note = true;
    auto request = guest.request();
    request.command_line = "root=/dev/vda";
    request.rsdp_address = 0xE0000;
    const Bytes initrd(100, 7);
    request.modules.push_back({initrd, "mod args"});
    const auto loaded = load_pvh(guest.memory, make_elf(elf), request);
    ASSERT_TRUE(loaded) << error_of(loaded);
    const EntryState& e = loaded->entry;
    EXPECT_EQ(e.mode, EntryMode::protected32);
    EXPECT_EQ(e.rip, 0x100'0010u);
    EXPECT_EQ(e.cr0 & 0x8000'0001, 1u);
    EXPECT_EQ(e.tr.limit, 0x67u);
    EXPECT_EQ(guest.load<std::uint32_t>(e.rbx), 0x336EC578u);
    EXPECT_EQ(guest.load<std::uint32_t>(e.rbx + 4), 1u);
    EXPECT_EQ(guest.load<std::uint32_t>(e.rbx + 12), 1u) << "modules";
    const auto module = guest.load<std::uint64_t>(e.rbx + 16);
    EXPECT_EQ(guest.load<std::uint64_t>(module), kRam - 0x1000);
    EXPECT_EQ(guest.load<std::uint64_t>(module + 8), 100u);
    EXPECT_EQ(guest.string(guest.load<std::uint64_t>(module + 16)), "mod args");
    EXPECT_EQ(guest.string(guest.load<std::uint64_t>(e.rbx + 24)), "root=/dev/vda");
    EXPECT_EQ(guest.load<std::uint64_t>(e.rbx + 32), 0xE0000u);
    const auto map = guest.load<std::uint64_t>(e.rbx + 40);
    EXPECT_EQ(guest.load<std::uint32_t>(e.rbx + 48), 3u);
    EXPECT_EQ(guest.load<std::uint64_t>(map + 48), 0x10'0000u);
    EXPECT_EQ(guest.load<std::uint64_t>(map + 56), kRam - 0x10'0000);
    EXPECT_EQ(guest.load<std::uint32_t>(map + 64), 1u);
  }
}

TEST(Pvh, RefusalsNameTheCause) {
  TestMemory guest(kRam);
  const auto load = [&](const testing::ElfOptions& o) { return load_pvh(guest.memory, make_elf(o), guest.request()); };
  testing::ElfOptions o;
  expect_error(load(o), "CONFIG_PVH");
  o.pvh_note = true;
  o.pvh_entry = 0x9999'0000;
  expect_error(load(o), "outside of the kernel");
  o.pvh_entry = 0x100'0000;
  o.paddr = 0x8000;
  expect_error(load(o), "needed for boot data");
  o.paddr = 0x4000'0000;
  expect_error(load(o), "no RAM");
  o.paddr = ~std::uint64_t{0} - 0x100;
  expect_error(load(o), "wraps around");
  o = {};
  o.pvh_note = true;
  const Bytes whole = make_elf(o);
  for (std::size_t length = 0; length < whole.size(); ++length)
    ASSERT_FALSE(load_pvh(guest.memory, std::span(whole).first(length), guest.request())) << length;
}

TEST(Elf, OverlappingSegmentsAreRefused) {
  Bytes elf = make_elf();
  testing::put<std::uint16_t>(elf, 56, 2);
  std::memcpy(elf.data() + 64 + 56, elf.data() + 64, 56);
  expect_error(ElfFile::parse(elf), "overlap");
}

TEST(Elf, BigEndianAndObjectFilesAreRefusedByName) {
  Bytes elf = make_elf();
  elf[5] = 2;
  elf[18] = 0;
  elf[19] = 21;
  expect_error(ElfFile::parse(elf), "PowerPC64");
  elf = make_elf();
  elf[16] = 1;
  expect_error(ElfFile::parse(elf), "object file");
}

TEST(Rom, IsAtTheTopOf4GiBAndBelow1MiBAndReadOnly) {
  for (const std::uint64_t size : {64u << 10, 128u << 10, 4u << 20, 16u << 20}) {
    TestMemory guest(kRam);
    Bytes image(size);
    for (std::size_t i = 0; i < size; ++i) image[i] = static_cast<std::uint8_t>(i * 2654435761u >> 13);
    auto rom = RomImage::map(guest.space, image, "bios");
    ASSERT_TRUE(rom) << error_of(rom);
    EXPECT_EQ(guest.read(kFourGiB - size, size), image);
    const std::size_t low = std::min<std::size_t>(size, 128u << 10);
    EXPECT_EQ(guest.read(0x10'0000 - low, low), Bytes(image.end() - static_cast<std::ptrdiff_t>(low), image.end()));
    guest.space.write(mem::Requester::cpu(0), 0xF'FFF0, static_cast<std::uint8_t>(~image[size - 16]), 1);
    EXPECT_EQ(guest.load<std::uint8_t>(0xF'FFF0), image[size - 16]);
  }
  const EntryState e = RomImage::entry();
  EXPECT_EQ(e.cs.base + e.rip, 0xFFFF'FFF0u);
  EXPECT_EQ(e.cr0, 0x6000'0010u);
}

TEST(Rom, OddSizesAreRefused) {
  TestMemory guest(kRam);
  for (const std::size_t size : {0u, 1u, 65535u, 65537u, (16u << 20) + 65536u})
    expect_error(RomImage::map(guest.space, Bytes(size), "bios"), "multiple of 64 KiB");
}

class DebianKernel : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(HUSK_GUEST_CACHE) / GetParam() / "vmlinuz";
    if (!std::filesystem::exists(path_)) GTEST_SKIP() << path_ << " is missing; run tools/fetch-guest";
    file_ = read_boot_file(path_, "kernel", kKernelFileLimit).value();
  }
  std::filesystem::path path_;
  Bytes file_;
};

TEST_P(DebianKernel, LoadsBothWays) {
  TestMemory guest(256u << 20);
  auto request = guest.request();
  const auto loaded = load_kernel(guest.memory, file_, "vmlinuz", request);
  ASSERT_TRUE(loaded) << error_of(loaded);
  // CONFIG_PHYSICAL_START of Debian's kernels is 0x1000000, where startup_64 is.
  EXPECT_EQ(loaded->entry.rip, 0x100'0000u);
  EXPECT_EQ(loaded->entry.mode, EntryMode::long64);
  EXPECT_NE(loaded->version.find("Debian"), std::string::npos) << loaded->version;
  EXPECT_EQ(load_bzimage(guest.memory, std::span(file_).first(file_.size() / 2), request).error().next_step,
            "get the file again");
  request.guest_decompress = true;
  EXPECT_EQ(load_kernel(guest.memory, file_, "vmlinuz", request).value().entry.rip, 0x100'0200u);
}

TEST_P(DebianKernel, ItsVmlinuxHasThePvhEntry) {
  const auto header = parse_setup_header(file_);
  ASSERT_TRUE(header) << error_of(header);
  const auto payload = unpack_payload(file_, *header);
  ASSERT_TRUE(payload) << error_of(payload);
  EXPECT_EQ(detect_kernel(payload->vmlinux, "vmlinux").value(), KernelKind::pvh);
  TestMemory guest(256u << 20);
  const auto loaded = load_pvh(guest.memory, payload->vmlinux, guest.request());
  ASSERT_TRUE(loaded) << error_of(loaded);
}

INSTANTIATE_TEST_SUITE_P(Cache, DebianKernel, ::testing::Values("cloud", "generic"));

}  // namespace
}  // namespace husk::boot
