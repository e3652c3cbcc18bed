// husk: finding a kernel, reading it, and telling by its content what it is
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "boot/boot_image.h"
#include "boot/symbols.h"

namespace husk::boot {

enum class KernelKind : std::uint8_t { bzimage, pvh, multiboot };

std::string_view kernel_kind_name(KernelKind kind);

/// What the bytes are. Anything husk cannot boot is refused by its name: another architecture's kernel, a compressed
/// file, a disk image, a script, an empty or truncated file. `name` is how messages call the file.
Result<KernelKind> detect_kernel(std::span<const std::uint8_t> file, const std::string& name);

/// Loads any of the kinds. Errors carry `name`; a Multiboot kernel finds it as the first word of its command line.
Result<LoadedGuest> load_kernel(mem::GuestMemory& memory, std::span<const std::uint8_t> file, const std::string& name,
                                const BootRequest& request);

inline constexpr std::uint64_t kKernelFileLimit = 512u << 20;
inline constexpr std::uint64_t kInitrdFileLimit = std::uint64_t{4} << 30;

/// What tells a file from any other, and from itself after it was written to.
struct FileStamp {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t seconds = 0, nanoseconds = 0;  ///< of its last modification
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

/// Nothing if there is no such file.
std::optional<FileStamp> stamp_of(const std::filesystem::path& path);

/// Reads a whole regular file of at most `limit` bytes. `what` names its role in messages ("kernel"). `stamp` gets the
/// file's from before the first byte was read.
Result<std::vector<std::uint8_t>> read_boot_file(const std::filesystem::path& path, const std::string& what,
                                                 std::uint64_t limit, FileStamp* stamp = nullptr);

/// A kernel installed on this host.
struct InstalledKernel {
  std::filesystem::path path;  ///< .../vmlinuz-VERSION
  std::string version;
  bool readable = false;  ///< some distributions let only root read kernels
};

/// All vmlinuz-* of a directory, the newest version first ("6.1.0-9" before "6.1.0-10" is older, as dpkg orders them).
std::vector<InstalledKernel> installed_kernels(const std::filesystem::path& directory = "/boot");

/// The newest readable one; the error says what was found and what to do.
Result<InstalledKernel> newest_kernel(const std::filesystem::path& directory = "/boot");

/// The symbols in a kernel of any kind: an ELF symbol table's, or a Linux kernel's kallsyms. Empty if it has none;
/// fails for what load_kernel() cannot read.
Result<SymbolTable> symbols_of_kernel(std::span<const std::uint8_t> file, const std::string& name);

/// Where the System.map of a kernel file has to be; empty if the file is called otherwise than vmlinuz*.
std::filesystem::path system_map_of(const std::filesystem::path& kernel);

/// The System.map that belongs to a kernel file: /boot/System.map-VERSION beside vmlinuz-VERSION, or System.map beside
/// vmlinuz. Empty table if there is none or it is only a stub (Debian's).
SymbolTable symbols_beside(const std::filesystem::path& kernel);

/// True if version a is older than b: digit runs compare as numbers, the rest bytewise.
bool version_less(std::string_view a, std::string_view b);

}  // namespace husk::boot
