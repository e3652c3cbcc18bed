// husk: kernel files, symbols and initramfs: what users hand in and what guests are given
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "boot/bzimage.h"
#include "boot/initramfs.h"
#include "boot/kallsyms.h"
#include "boot/kernel_file.h"
#include "boot/pvh.h"
#include "boot/symbols.h"
#include "boot/test_images.h"

namespace husk::boot {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (fs::temp_directory_path() / "husk-boot-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDirectory() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  fs::path path_;
};

void expect_error(const auto& result, std::string_view part) {
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text().find(part), std::string::npos) << result.error().text();
  EXPECT_FALSE(result.error().next_step.empty()) << "no next step: " << result.error().text();
}

TEST(KernelFile, ContentThatIsNoKernelIsRefusedByItsName) {
  const auto with = [](std::size_t at, std::string_view magic) {
    Bytes file(0x9000, 0xF1);
    testing::put_bytes(file, at, {reinterpret_cast<const std::uint8_t*>(magic.data()), magic.size()});
    return file;
  };
  const auto refused = [](const Bytes& file, std::string_view part) {
    const auto kind = detect_kernel(file, "/tmp/k");
    expect_error(kind, part);
    if (kind) return;
    EXPECT_NE(kind.error().message.find("/tmp/k"), std::string::npos) << kind.error().message;
  };
  refused({}, "empty");
  refused(with(56, "ARMd"), "AArch64");
  refused(with(56, "RSC\x05"), "RISC-V");
  refused(with(36, "\x18\x28\x6F\x01"), "ARM");
  refused(with(0, "\x1F\x8B\x08"), "gzip-compressed");
  refused(with(0, {"\xFD"
                   "7zXZ\0",
                   6}),
          "xz-compressed");
  refused(with(0, "070701"), "cpio");
  refused(with(0, "QFI\xFB"), "qcow2");
  refused(with(0, "!<arch>\n"), "archive");
  refused(with(0, "MZ"), "EFI");
  refused(with(0x8001, "CD001"), "CD image");
  refused(with(510, "\x55\xAA"), "disk image");
  refused(Bytes(0x9000, 0), "zero bytes");
  refused(Bytes(0x9000, 0xF1), "of no kind");
  const std::string text = "#!/bin/sh\necho hello\n";
  refused({text.begin(), text.end()}, "text file");
  refused({'M', 'Z', 0}, "truncated");
  testing::ElfOptions arm;
  arm.machine = 183;
  refused(testing::make_elf(arm), "AArch64");
  refused(testing::make_elf(), "PVH");
  Bytes cut = testing::make_elf();
  cut.resize(100);
  refused(cut, "cut off");
}

TEST(KernelFile, BadPathsAreRefusedWithTheNextStep) {
  const TempDirectory directory;
  directory.write("empty", "");
  directory.write("large", "0123456789");
  expect_error(read_boot_file(directory / "missing", "kernel", 100), "No such file");
  expect_error(read_boot_file(directory / "empty", "initrd", 100),
               "initrd " + (directory / "empty").string() + " is empty");
  expect_error(read_boot_file(directory / "large", "kernel", 9), "more than the 9 bytes");
  expect_error(read_boot_file(directory.path(), "kernel", 9), "is a directory");
  ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
  expect_error(read_boot_file(directory / "fifo", "kernel", 9), "no regular file");
  EXPECT_EQ(read_boot_file(directory / "large", "kernel", 10).value().size(), 10u);
}

TEST(KernelFile, NewestIsByVersionNotByName) {
  const TempDirectory directory;
  expect_error(newest_kernel(directory.path()), "no kernel");
  expect_error(newest_kernel(directory / "nowhere"), "no kernel");
  for (const char* version : {"6.1.0-9-amd64", "6.1.0-10-amd64", "5.10.0-30-amd64", "6.1.0-10-amd64.old"})
    directory.write(std::string("vmlinuz-") + version, "x");
  directory.write("vmlinux-9.9", "x");
  fs::create_directory(directory / "vmlinuz-99");
  const auto all = installed_kernels(directory.path());
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[1].version, "6.1.0-10-amd64");
  EXPECT_EQ(all[3].version, "5.10.0-30-amd64");
  EXPECT_EQ(newest_kernel(directory.path()).value().version, "6.1.0-10-amd64.old");
}

TEST(VersionLess, OrdersNumbersByValue) {
  const char* const ordered[] = {"5.4",   "5.10",     "6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-10-cloud-amd64",
                                 "6.1.1", "6.12~rc1", "6.12"};
  for (std::size_t i = 0; i < std::size(ordered); ++i)
    for (std::size_t j = 0; j < std::size(ordered); ++j)
      EXPECT_EQ(version_less(ordered[i], ordered[j]), i < j) << i << " " << j;
}

TEST(Symbols, SystemMapLookUpsAreByRange) {
  const auto table = SymbolTable::from_system_map(
      "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\nffffffff81000000 T startup_64\n"
      "ffffffff81000100 t do_one\nffffffff81000180 D last\n");
  ASSERT_TRUE(table) << table.error().text();
  EXPECT_EQ(table->size(), 4u);
  EXPECT_EQ(table->find(0xFFFF'FFFF'8100'0000)->text(), "startup_64");
  EXPECT_EQ(table->find(0xFFFF'FFFF'8100'011C)->text(), "do_one+0x1c");
  EXPECT_EQ(table->find(0xFFFF'FFFF'8100'0190)->text(), "last+0x10");
  EXPECT_FALSE(table->find(0xFFFF'FFFF'80FF'FFFF));
  EXPECT_FALSE(table->find(0xFFFF'FFFF'F000'0000)) << "too far behind the last symbol";
  EXPECT_EQ(table->address_of("do_one"), 0xFFFF'FFFF'8100'0100);
  for (const char* bad :
       {"hello\n", "ffffffff81000000 T\n", "ffffffff81000000\n", "zz T x\n", "ffffffff81000000 TT x\n"})
    EXPECT_FALSE(SymbolTable::from_system_map(bad)) << bad;
}

TEST(Symbols, SizedSymbolsEndWhereTheyEnd) {
  SymbolTable table;
  table.add(0x2000, 0x10, "f");
  table.add(0x1000, 0x4000, "outer");
  table.finish();
  EXPECT_EQ(table.find(0x2008)->text(), "f+0x8");
  EXPECT_EQ(table.find(0x2010)->text(), "outer+0x1010");
  EXPECT_FALSE(table.find(0x5000));
}

TEST(Symbols, DebiansStubMapIsNoTable) {
  const TempDirectory directory;
  directory.write("vmlinuz-6.1", "x");
  directory.write("System.map-6.1",
                  "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n");
  EXPECT_TRUE(symbols_beside(directory / "vmlinuz-6.1").empty());
  std::string map;
  for (int i = 0; i < 200; ++i) map += fmt::format("ffffffff8100{:04x} T function_{}\n", i * 16, i);
  directory.write("System.map-6.1", map);
  EXPECT_EQ(symbols_beside(directory / "vmlinuz-6.1").size(), 200u);
}

TEST(Kallsyms, SymbolsOfAStrippedDebianKernelAgreeWithItsElfHeaders) {
  for (const char* flavour : {"cloud", "generic"}) {
    const fs::path path = fs::path(HUSK_GUEST_CACHE) / flavour / "vmlinuz";
    if (!fs::exists(path)) GTEST_SKIP() << path << " is missing; run tools/fetch-guest";
    const auto file = read_boot_file(path, "kernel", kKernelFileLimit).value();
    const auto vmlinux = unpack_payload(file, parse_setup_header(file).value()).value().vmlinux;
    const SymbolTable table = find_kallsyms(vmlinux);
    EXPECT_GT(table.size(), 50'000u);
    // The ELF header's entry point is startup_64's physical address, the Xen note names pvh_start_xen's.
    constexpr std::uint64_t kStartKernelMap = 0xFFFF'FFFF'8000'0000;
    EXPECT_EQ(table.address_of("startup_64"), kStartKernelMap + load_le<std::uint64_t>(vmlinux.data() + 24));
    EXPECT_EQ(table.address_of("pvh_start_xen"), kStartKernelMap + pvh_entry(vmlinux).value());
    EXPECT_EQ(table.find(*table.address_of("start_kernel") + 4)->text(), "start_kernel+0x4");
    EXPECT_TRUE(find_kallsyms(std::span(vmlinux).first(vmlinux.size() / 8)).empty());
  }
}

TEST(Kallsyms, NothingInNothing) {
  EXPECT_TRUE(find_kallsyms({}).empty());
  EXPECT_TRUE(find_kallsyms(Bytes(100'000, 0)).empty());
}

std::string run(const std::string& command) {
  std::string text;
  std::FILE* pipe = ::popen(command.c_str(), "r");
  char buffer[4096];
  while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, got);
  return ::pclose(pipe) == 0 ? text : "failed: " + text;
}

TEST(Cpio, BusyboxUnpacksWhatWasWritten) {
  const fs::path busybox = fs::path(HUSK_GUEST_CACHE) / "busybox";
  if (!fs::exists(busybox)) GTEST_SKIP() << busybox << " is missing; run tools/fetch-guest";
  const TempDirectory directory;
  CpioWriter cpio;
  cpio.directory("a", 0700);
  cpio.file("a/b", std::string_view("hello\n"), 0640);
  cpio.file("a/empty", std::string_view(), 0600);
  cpio.symlink("a/link", "b");
  const Bytes archive = cpio.finish();
  EXPECT_EQ(archive.size() % 512, 0u);
  directory.write("archive", {archive.begin(), archive.end()});
  const std::string list =
      run("cd " + directory.path().string() + " && " + busybox.string() + " cpio -i <archive 2>/dev/null && " +
          "stat -c '%n %a %s %F' a a/b a/empty && readlink a/link && cat a/b");
  EXPECT_NE(list.find("a/b 640 6 regular file"), std::string::npos) << list;
  EXPECT_NE(list.find("a/empty 600 0 regular empty file"), std::string::npos) << list;
  EXPECT_NE(list.find("a 700"), std::string::npos) << list;
  EXPECT_NE(list.find("b\nhello\n"), std::string::npos) << list;
}

TEST(Initramfs, HoldsInitAndEveryAppletOfBusybox) {
  const fs::path busybox = fs::path(HUSK_GUEST_CACHE) / "busybox";
  if (!fs::exists(busybox)) GTEST_SKIP() << busybox << " is missing; run tools/fetch-guest";
  InitramfsOptions options;
  options.script = "echo hi";
  options.files.push_back({"opt/tool/x", {1, 2, 3}, 0755});
  const auto archive = make_default_initramfs(busybox, options);
  ASSERT_TRUE(archive) << archive.error().text();
  EXPECT_EQ(*archive, make_default_initramfs(busybox, options).value()) << "equal content, equal bytes";
  const TempDirectory directory;
  directory.write("archive", {archive->begin(), archive->end()});
  const std::string list = run(busybox.string() + " cpio -t <" + (directory / "archive").string() + " 2>/dev/null");
  for (const char* name :
       {"init\n", "dev/console\n", "bin/sh\n", "bin/cttyhack\n", "opt/tool\n", "opt/tool/x\n", "etc/husk-script\n"})
    EXPECT_NE(list.find(name), std::string::npos) << name;
  // busybox's own opinion of what it has.
  std::string expected = run(busybox.string() + " --list");
  std::size_t count = 0;
  for (std::size_t at = 0; at < expected.size(); ++count) {
    const std::size_t end = expected.find('\n', at);
    EXPECT_NE(list.find("bin/" + expected.substr(at, end - at) + "\n"), std::string::npos);
    at = end + 1;
  }
  EXPECT_GT(count, 200u);
  EXPECT_EQ(busybox_applets(read_boot_file(busybox, "busybox", 64u << 20).value()).size(), count);
}

TEST(Initramfs, UnusableBusyboxIsRefused) {
  testing::ElfOptions arm;
  arm.machine = 183;
  expect_error(make_default_initramfs(testing::make_elf(arm)), "AArch64");
  expect_error(make_default_initramfs(Bytes(100, 0)), "no ELF");
  Bytes dynamic = testing::make_elf();
  testing::put<std::uint16_t>(dynamic, 56, 2);
  testing::put<std::uint32_t>(dynamic, 64 + 56, 3);  // PT_INTERP
  expect_error(make_default_initramfs(dynamic), "dynamically linked");
  expect_error(make_default_initramfs(fs::path("/nonexistent/busybox")), "No such file");
}

TEST(Base64, AsRfc4648Prints) {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [text, code] : vectors) EXPECT_EQ(base64(text), code);
}

}  // namespace
}  // namespace husk::boot
