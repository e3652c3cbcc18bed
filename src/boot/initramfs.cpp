// husk: cpio and the default initramfs
#include "boot/initramfs.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/bits.h"
#include "base/check.h"
#include "boot/elf.h"
#include "boot/kernel_file.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::uint32_t kDirectory = 0040000, kRegular = 0100000, kSymlink = 0120000, kCharacter = 0020000;

Bytes as_bytes(std::string_view text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }

// Every fork costs a software CPU millions of instructions, so this script keeps to the shell's own means where it can.
constexpr std::string_view kInit = R"(#!/bin/sh
# husk: init of the default guest
export PATH=/bin HOME=/root TERM="${TERM:-vt220}"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts 2>/dev/null
hostname -F /etc/hostname

# busybox's poweroff, halt and reboot without -f signal process 1.
trap 'poweroff -f' USR2
trap 'halt -f' USR1
trap 'reboot -f' TERM

script= rows= cols= quiet=
[ -f /etc/husk-script ] && script=/etc/husk-script
set -f
read -r line </proc/cmdline
for word in $line; do
  case $word in
    husk.exec=*) base64 -d >/tmp/husk-exec <<END
${word#husk.exec=}
END
      script=/tmp/husk-exec ;;
    husk.rows=*) rows=${word#*=} ;;
    husk.cols=*) cols=${word#*=} ;;
    husk.quiet) quiet=1 ;;
  esac
done
set +f
[ -n "$rows" ] && [ -n "$cols" ] && stty rows "$rows" cols "$cols" </dev/console 2>/dev/null

if [ -n "$script" ]; then
  sh "$script" </dev/null
  echo "husk.exec: exit status $?"
  poweroff -f
fi

if [ -z "$quiet" ]; then
  read -r _ _ release _ </proc/version
  echo
  echo "Linux $release runs in husk. This is busybox; 'exit' or 'poweroff -f' ends the machine."
fi
# A terminal for job control: cttyhack opens the console's real device as the controlling one of a new session.
setsid cttyhack sh -l </dev/console &
shell=$!
while kill -0 $shell 2>/dev/null; do wait $shell; done
poweroff -f
)";

constexpr std::string_view kProfile = R"(export PATH=/bin HOME=/root
PS1='husk:\w# '
cd /root
)";

/// Applets that /init and a usable shell need, for a busybox whose own table is not found.
constexpr std::array<std::string_view, 46> kCoreApplets = {
    "ash",   "base64", "cat",   "chmod", "clear",    "cp",     "cttyhack", "cut",      "date", "dd",     "df", "dmesg",
    "echo",  "env",    "find",  "free",  "grep",     "halt",   "head",     "hostname", "ip",   "kill",   "ln", "ls",
    "mkdir", "mknod",  "mount", "mv",    "poweroff", "ps",     "reboot",   "rm",       "sed",  "setsid", "sh", "sleep",
    "stty",  "sync",   "tail",  "top",   "tr",       "umount", "uname",    "vi",       "wc",   "which"};

bool is_applet_name(std::string_view name) {
  return !name.empty() && name.size() <= 24 && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '[' || c == '-' || c == '_' || c == '.';
  });
}

Status check_busybox(Bytes busybox) {
  const char* const kNext = "give a statically linked one: install busybox-static, or run tools/fetch-guest";
  auto elf = ElfFile::parse(busybox);
  if (!elf) return std::unexpected(Error{"busybox: " + elf.error().message, kNext});
  const bool is_64 = elf->is_64();
  const std::uint64_t headers =
      is_64 ? load_le<std::uint64_t>(busybox.data() + 32) : load_le<std::uint32_t>(busybox.data() + 28);
  const std::size_t size = is_64 ? 56 : 32, count = load_le<std::uint16_t>(busybox.data() + (is_64 ? 56 : 44));
  constexpr std::uint32_t kInterpreter = 3;
  for (std::size_t i = 0; i < count; ++i)
    if (load_le<std::uint32_t>(busybox.data() + headers + i * size) == kInterpreter)
      return std::unexpected(Error{"busybox is dynamically linked, so it cannot run alone in an initramfs", kNext});
  return {};
}

}  // namespace

void CpioWriter::entry(std::string_view path, std::uint32_t mode, Bytes data, std::uint32_t major,
                       std::uint32_t minor) {
  HUSK_CHECK(!path.empty() && path[0] != '/' && data.size() <= 0xFFFF'FFFF);
  const std::uint32_t links = (mode & 0170000) == kDirectory ? 2 : 1;
  const std::string header =
      fmt::format("070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}", next_inode_++,
                  mode, 0, 0, links, 0, data.size(), 0, 0, major, minor, path.size() + 1, 0);
  const auto append = [&](Bytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); };
  const auto pad = [&] { bytes_.resize(align_up<std::size_t>(bytes_.size(), 4)); };
  append(as_bytes(header));
  append(as_bytes(path));
  bytes_.push_back(0);
  pad();
  append(data);
  pad();
}

void CpioWriter::directory(std::string_view path, std::uint32_t mode) { entry(path, kDirectory | mode, {}); }
void CpioWriter::file(std::string_view path, Bytes data, std::uint32_t mode) { entry(path, kRegular | mode, data); }
void CpioWriter::file(std::string_view path, std::string_view text, std::uint32_t mode) {
  file(path, as_bytes(text), mode);
}
void CpioWriter::symlink(std::string_view path, std::string_view target) {
  entry(path, kSymlink | 0777, as_bytes(target));
}
void CpioWriter::character_device(std::string_view path, std::uint32_t major, std::uint32_t minor, std::uint32_t mode) {
  entry(path, kCharacter | mode, {}, major, minor);
}

std::vector<std::uint8_t> CpioWriter::finish() {
  next_inode_ = 0;
  entry("TRAILER!!!", 0, {});
  bytes_.resize(align_up<std::size_t>(bytes_.size(), 512));
  next_inode_ = 1;
  return std::exchange(bytes_, {});
}

std::vector<std::string> busybox_applets(Bytes busybox) {
  // applet_names of busybox: sorted, each ended by NUL, the first two being "[" and "[[" in every usual configuration.
  constexpr std::string_view kStart("\0[\0[[\0", 6);
  const std::string_view all(reinterpret_cast<const char*>(busybox.data()), busybox.size());
  for (std::size_t at = all.find(kStart); at != std::string_view::npos; at = all.find(kStart, at + 1)) {
    std::vector<std::string> names;
    std::string_view rest = all.substr(at + 1);
    while (names.size() < 1000) {
      const std::string_view name = rest.substr(0, rest.find('\0'));
      if (!is_applet_name(name) || name.size() == rest.size() || (!names.empty() && name <= names.back())) break;
      names.emplace_back(name);
      rest.remove_prefix(name.size() + 1);
    }
    if (std::ranges::find(names, "sh") != names.end()) return names;
  }
  return {};
}

Result<std::vector<std::uint8_t>> make_default_initramfs(Bytes busybox, const InitramfsOptions& options) {
  HUSK_TRY(check_busybox(busybox));
  CpioWriter cpio;
  std::set<std::string> directories;
  const auto directory = [&](const std::string& path, std::uint32_t mode = 0755) {
    if (directories.insert(path).second) cpio.directory(path, mode);
  };
  for (const char* path : {"bin", "dev", "etc", "proc", "root", "run", "sys"}) directory(path);
  directory("tmp", 01777);
  // The kernel opens /dev/console for init before anything is mounted.
  cpio.character_device("dev/console", 5, 1);
  cpio.character_device("dev/null", 1, 3, 0666);
  cpio.file("bin/busybox", busybox, 0755);
  auto applets = busybox_applets(busybox);
  if (applets.empty()) applets.assign(kCoreApplets.begin(), kCoreApplets.end());
  std::set<std::string> taken = {"bin/busybox"};
  for (const auto& extra : options.files) taken.insert(extra.path);
  for (const std::string& applet : applets)
    if (!taken.contains("bin/" + applet)) cpio.symlink("bin/" + applet, "busybox");
  cpio.symlink("sbin", "bin");
  cpio.file("init", kInit, 0755);
  cpio.file("etc/hostname", options.hostname + "\n");
  cpio.file("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + options.hostname + "\n");
  cpio.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  cpio.file("etc/group", "root:x:0:\n");
  cpio.file("etc/profile", kProfile);
  if (!options.script.empty()) cpio.file("etc/husk-script", options.script, 0755);
  for (const auto& extra : options.files) {
    if (extra.path.empty() || extra.path[0] == '/' || extra.data.size() > 0xFFFF'FFFF)
      return fail("\"{}\" cannot be put into the initramfs: its path must be relative, its size below 4 GiB",
                  extra.path);
    for (std::size_t slash = extra.path.find('/'); slash != std::string::npos; slash = extra.path.find('/', slash + 1))
      directory(extra.path.substr(0, slash));
    cpio.file(extra.path, extra.data, extra.mode);
  }
  return cpio.finish();
}

Result<std::vector<std::uint8_t>> make_default_initramfs(const std::filesystem::path& busybox,
                                                         const InitramfsOptions& options) {
  const auto bytes = HUSK_TRY(read_boot_file(busybox, "busybox", 64u << 20));
  return make_default_initramfs(Bytes(bytes), options);
}

Result<std::filesystem::path> find_busybox(std::span<const std::filesystem::path> directories) {
  std::vector<std::filesystem::path> candidates;
  for (const auto& directory : directories) candidates.push_back(directory / "busybox");
  for (const char* path : {"/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static"}) candidates.emplace_back(path);
  std::string dynamic;
  for (const auto& path : candidates) {
    const auto bytes = read_boot_file(path, "busybox", 64u << 20);
    if (!bytes) continue;
    if (check_busybox(*bytes)) return path;
    dynamic = path.string();
  }
  return std::unexpected(
      Error{dynamic.empty() ? "there is no busybox to make an initramfs of"
                            : fmt::format("{} is no static x86 program, so no initramfs can be made of it", dynamic),
            "install busybox-static, run tools/fetch-guest, or give an initrd with --initrd"});
}

std::string base64(std::string_view text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < text.size() ? static_cast<std::uint8_t>(text[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) out += i + j <= text.size() ? kAlphabet[(group >> (18 - 6 * j)) & 0x3F] : '=';
  }
  return out;
}

}  // namespace husk::boot
