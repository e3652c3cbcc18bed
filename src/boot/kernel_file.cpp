// husk: kernel files on the host
#include "boot/kernel_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "boot/bzimage.h"
#include "boot/elf.h"
#include "boot/kallsyms.h"
#include "boot/multiboot.h"
#include "boot/pvh.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

std::unexpected<Error> refuse(const std::string& name, std::string_view what, std::string_view next_step) {
  return std::unexpected(Error{fmt::format("kernel {} {}", name, what), std::string(next_step)});
}

FileStamp to_stamp(const struct stat& status) {
  return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size), status.st_mtim.tv_sec,
          status.st_mtim.tv_nsec};
}

constexpr std::string_view kElfMagic = "\177ELF";

bool has_at(Bytes file, std::size_t offset, std::string_view magic) {
  return range_within(offset, magic.size(), file.size()) &&
         std::memcmp(file.data() + offset, magic.data(), magic.size()) == 0;
}

bool looks_like_text(Bytes file) {
  const Bytes start = file.first(std::min<std::size_t>(file.size(), 512));
  return std::ranges::all_of(
      start, [](std::uint8_t c) { return (c >= 0x20 && c < 0x7F) || c == '\n' || c == '\t' || c == '\r'; });
}

/// Names what is not bootable, by well-known magics.
std::unexpected<Error> refuse_by_name(Bytes file, const std::string& name) {
  constexpr std::string_view kGiveOne =
      "give a bzImage (as /boot/vmlinuz-*), an ELF vmlinux or a Multiboot image for x86";
  // Documentation/arch/arm64/booting.rst; arch/riscv/boot-image-header.rst; zImage of ARM.
  if (has_at(file, 56, "ARMd")) return refuse(name, "is a Linux image for AArch64, not for x86", kGiveOne);
  if (has_at(file, 56, "RSC\x05")) return refuse(name, "is a Linux image for RISC-V, not for x86", kGiveOne);
  if (has_at(file, 36, "\x18\x28\x6F\x01")) return refuse(name, "is a Linux zImage for ARM, not for x86", kGiveOne);
  if (has_at(file, 0, "\x27\x05\x19\x56")) return refuse(name, "is a U-Boot image (uImage), not for x86", kGiveOne);
  if (has_at(file, 0, "070701") || has_at(file, 0, "070702"))
    return refuse(name, "is a cpio archive, as an initrd is", "give it with --initrd, and a kernel");
  if (has_at(file, 0, "QFI\xFB")) return refuse(name, "is a qcow2 disk image, no kernel", kGiveOne);
  if (has_at(file, 0, "\xD6\x50\x52\xE8"))
    return refuse(name, "is a Multiboot 2 image, which husk does not load", "build it for Multiboot 1");
  if (has_at(file, 0, "!<arch>\n"))
    return refuse(name, "is an archive (.deb or .a), no kernel", "unpack it: dpkg -x FILE DIRECTORY");
  if (has_at(file, 0, "MZ")) return refuse(name, "is a PE/EFI program without a Linux setup header", kGiveOne);
  if (has_at(file, 0x8001, "CD001")) return refuse(name, "is a CD image, no kernel", kGiveOne);
  if (const auto packed = detect_compression(file)) {
    constexpr std::string_view kUnpack = "unpack it first; a compressed initrd belongs to --initrd";
    return refuse(name, fmt::format("is a {}-compressed file, no kernel image", compression_name(*packed)), kUnpack);
  }
  if (std::ranges::all_of(file, [](std::uint8_t c) { return c == 0; }))
    return refuse(name, "has only zero bytes", "get the file again");
  if (looks_like_text(file)) return refuse(name, "is a text file", kGiveOne);
  if (has_at(file, 510, "\x55\xAA"))
    return refuse(name, "starts with a boot sector but is no Linux kernel; it may be a disk image", kGiveOne);
  return refuse(name, "is of no kind that husk knows", kGiveOne);
}

}  // namespace

std::string_view kernel_kind_name(KernelKind kind) {
  switch (kind) {
    case KernelKind::bzimage: return "bzImage";
    case KernelKind::pvh: return "ELF kernel with a PVH entry";
    case KernelKind::multiboot: return "Multiboot image";
  }
  return "unknown";
}

Result<KernelKind> detect_kernel(Bytes file, const std::string& name) {
  if (file.empty()) return refuse(name, "is empty", "get the file again");
  if (looks_like_bzimage(file)) return KernelKind::bzimage;
  const bool is_elf = has_at(file, 0, kElfMagic);
  if (const auto header = find_multiboot_header(file)) {
    // Multiboot 1 knows no 64-bit ELF; where such an image has a PVH entry too, that one works.
    const bool is_elf64 = is_elf && file.size() > 4 && file[4] == 2;
    if (!is_elf64 || header->has_addresses() || !pvh_entry(file)) return KernelKind::multiboot;
  }
  if (is_elf) {
    auto elf = ElfFile::parse(file);
    if (!elf) return std::unexpected(std::move(elf.error()).within("kernel " + name));
    auto entry = pvh_entry(file);
    if (!entry) return std::unexpected(std::move(entry.error()).within("kernel " + name));
    return KernelKind::pvh;
  }
  // A prefix of a bzImage: the EFI stub's MZ or the old boot sector, cut before the signature.
  if (file.size() < 0x206 && has_at(file, 0, "MZ"))
    return refuse(name, fmt::format("is truncated: it has {} bytes", file.size()), "get the file again");
  return refuse_by_name(file, name);
}

Result<LoadedGuest> load_kernel(mem::GuestMemory& memory, Bytes file, const std::string& name,
                                const BootRequest& request) {
  const KernelKind kind = HUSK_TRY(detect_kernel(file, name));
  const auto load = [&]() -> Result<LoadedGuest> {
    if (kind == KernelKind::bzimage) return load_bzimage(memory, file, request);
    if (kind == KernelKind::pvh) return load_pvh(memory, file, request);
    // The first word of a Multiboot command line is the kernel's own name, with QEMU and GRUB Legacy alike, and test
    // programs take it for argv[0].
    BootRequest named = request;
    named.command_line = request.command_line.empty() ? name : name + " " + request.command_line;
    return load_multiboot(memory, file, named);
  };
  auto loaded = load();
  if (!loaded) return std::unexpected(std::move(loaded.error()).within("kernel " + name));
  return loaded;
}

std::optional<FileStamp> stamp_of(const std::filesystem::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return to_stamp(status);
}

Result<std::vector<std::uint8_t>> read_boot_file(const std::filesystem::path& path, const std::string& what,
                                                 std::uint64_t limit, FileStamp* stamp) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const auto cannot = [&](int code) {
    Error error = fail_errno(code, fmt::format("cannot read {} {}", what, path.string())).error();
    if (code == ENOENT) error.next_step = "check the path";
    if (code == EACCES) error.next_step = "only its owner may read it; make it readable or copy it as root";
    return std::unexpected(std::move(error));
  };
  if (fd < 0) return cannot(errno);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  struct stat status{};
  if (::fstat(fd, &status) != 0) return cannot(errno);
  if (!S_ISREG(status.st_mode))
    return std::unexpected(Error{
        fmt::format("{} {} is {}", what, path.string(), S_ISDIR(status.st_mode) ? "a directory" : "no regular file"),
        "give a file"});
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size == 0)
    return std::unexpected(Error{fmt::format("{} {} is empty", what, path.string()), "get the file again"});
  if (size > limit)
    return std::unexpected(Error{fmt::format("{} {} has {}, more than the {} that husk takes", what, path.string(),
                                             size_text(size), size_text(limit)),
                                 "check that it is the right file"});
  if (stamp) *stamp = to_stamp(status);
  std::vector<std::uint8_t> data(size);
  for (std::size_t at = 0; at < data.size();) {
    const ssize_t got = ::read(fd, data.data() + at, data.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return cannot(errno);
    if (got == 0)
      return std::unexpected(
          Error{fmt::format("{} {} shrank to {} bytes while it was read", what, path.string(), at), "try again"});
    at += static_cast<std::size_t>(got);
  }
  return data;
}

bool version_less(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  while (!a.empty() && !b.empty()) {
    if (digit(a[0]) && digit(b[0])) {
      const auto take = [&](std::string_view& s) {
        std::size_t n = 0;
        while (n < s.size() && digit(s[n])) ++n;
        std::string_view number = s.substr(0, n);
        s.remove_prefix(n);
        while (number.size() > 1 && number[0] == '0') number.remove_prefix(1);
        return number;
      };
      const std::string_view x = take(a), y = take(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      continue;
    }
    if (a[0] != b[0]) {
      // "~" sorts before everything, "6.1.0-rc1" style suffixes before digits do not occur in installed file names.
      if (a[0] == '~' || b[0] == '~') return a[0] == '~';
      return a[0] < b[0];
    }
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  if (!a.empty() && a[0] == '~') return true;
  if (!b.empty() && b[0] == '~') return false;
  return a.size() < b.size();
}

std::vector<InstalledKernel> installed_kernels(const std::filesystem::path& directory) {
  constexpr std::string_view kPrefix = "vmlinuz-";
  std::vector<InstalledKernel> kernels;
  std::error_code code;
  for (auto it = std::filesystem::directory_iterator(directory, code);
       !code && it != std::filesystem::directory_iterator(); it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kPrefix) || !it->is_regular_file(code)) continue;
    kernels.push_back({it->path(), name.substr(kPrefix.size()), ::access(it->path().c_str(), R_OK) == 0});
  }
  std::ranges::sort(
      kernels, [](const InstalledKernel& a, const InstalledKernel& b) { return version_less(b.version, a.version); });
  return kernels;
}

Result<InstalledKernel> newest_kernel(const std::filesystem::path& directory) {
  const auto kernels = installed_kernels(directory);
  for (const InstalledKernel& kernel : kernels)
    if (kernel.readable) return kernel;
  if (!kernels.empty())
    return std::unexpected(
        Error{fmt::format("there are {} kernels in {}, but none may be read by this user ({})", kernels.size(),
                          directory.string(), kernels.front().path.string()),
              "run tools/fetch-guest, or make one readable: sudo chmod +r " + kernels.front().path.string()});
  return std::unexpected(Error{fmt::format("there is no kernel (vmlinuz-*) in {}", directory.string()),
                               "name one, or run tools/fetch-guest to get Debian's"});
}

Result<SymbolTable> symbols_of_kernel(Bytes file, const std::string& name) {
  const auto in_elf = [](Bytes image, bool is_linux) {
    const auto elf = ElfFile::parse(image);
    SymbolTable table = elf ? elf->symbols() : SymbolTable();
    return table.empty() && is_linux ? find_kallsyms(image) : std::move(table);
  };
  switch (HUSK_TRY(detect_kernel(file, name))) {
    case KernelKind::bzimage: {
      const SetupHeader header = HUSK_TRY(parse_setup_header(file));
      const Payload payload = HUSK_TRY(unpack_payload(file, header));
      return in_elf(payload.vmlinux, true);
    }
    case KernelKind::pvh: return in_elf(file, true);
    // Images with the header's own addresses are often ELF files all the same, 64-bit ones too; then their symbols
    // help.
    case KernelKind::multiboot: return in_elf(file, false);
  }
  return SymbolTable();
}

std::filesystem::path system_map_of(const std::filesystem::path& kernel) {
  const std::string name = kernel.filename().string();
  if (!name.starts_with("vmlinuz")) return {};
  return kernel.parent_path() / ("System.map" + name.substr(std::strlen("vmlinuz")));
}

SymbolTable symbols_beside(const std::filesystem::path& kernel) {
  constexpr std::size_t kStubLimit = 4096;  // Debian's stub has one line
  const auto path = system_map_of(kernel);
  if (path.empty()) return {};
  const auto text = read_boot_file(path, "symbol table", 64u << 20);
  if (!text || text->size() < kStubLimit) return {};
  auto table = SymbolTable::from_system_map({reinterpret_cast<const char*>(text->data()), text->size()});
  return table ? std::move(*table) : SymbolTable();
}

}  // namespace husk::boot
