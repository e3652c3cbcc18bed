// husk: whether an initrd is one that Linux can use
#include "app/initrd_check.h"

#include <array>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/bits.h"

namespace husk::app {
namespace {

using Bytes = std::span<const std::uint8_t>;

bool starts_with(Bytes data, std::size_t at, std::string_view magic) {
  if (data.size() < at || data.size() - at < magic.size()) return false;
  for (std::size_t i = 0; i < magic.size(); ++i)
    if (data[at + i] != static_cast<std::uint8_t>(magic[i])) return false;
  return true;
}

/// Linux's boot protocol (Documentation/arch/x86/boot.rst): from 2.08 on the header tells where the compressed kernel
/// is, which only Linux has.
bool is_linux(Bytes kernel) {
  constexpr std::size_t kVersion = 0x206, kPayloadLength = 0x24c;
  return kernel.size() >= kPayloadLength + 4 && starts_with(kernel, 0x202, "HdrS") &&
         load_le<std::uint16_t>(kernel.data() + kVersion) >= 0x208 &&
         load_le<std::uint32_t>(kernel.data() + kPayloadLength) != 0;
}

/// The magic numbers of lib/decompress.c and init/do_mounts_rd.c.
bool is_compressed_or_file_system(Bytes data) {
  using namespace std::string_view_literals;
  static constexpr struct {
    std::size_t at;
    std::string_view magic;
  } kMagic[] = {
      {0, "\x1f\x8b"sv},
      {0, "\x1f\x9e"sv},
      {0, "BZ"sv},
      {0, "\x5d\x00"sv},
      {0, "\xfd\x37"sv},
      {0, "\x89\x4c"sv},
      {0, "\x02\x21"sv},
      {0, "\x28\xb5"sv},
      {0, "-rom1fs-"sv},
      {0, "\x45\x3d\xcd\x28"sv},
      {512, "-rom1fs-"sv},
      {512, "\x45\x3d\xcd\x28"sv},
      {0, "hsqs"sv},
      {1024 + 56, "\x53\xef"sv},  // ext2
      {1024 + 16, "\x7f\x13"sv},
      {1024 + 16, "\x8f\x13"sv},  // minix
  };
  for (const auto& [at, magic] : kMagic)
    if (starts_with(data, at, magic)) return true;
  return false;
}

/// One of the 13 fields of a cpio header, 8 hexadecimal digits each (Documentation/driver-api/early-userspace/
/// buffer-format.rst).
std::optional<std::uint32_t> field(Bytes header, unsigned index) {
  const auto* text = reinterpret_cast<const char*>(header.data()) + 6 + std::size_t{index} * 8;
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text, text + 8, value, 16);
  if (error != std::errc{} || end != text + 8) return std::nullopt;
  return value;
}

enum class Archive : std::uint8_t { whole, truncated, damaged };

/// Follows the first archive of the file from entry to entry.
Archive walk_cpio(Bytes data) {
  constexpr std::size_t kHeader = 110;
  constexpr unsigned kFileSize = 6, kNameSize = 11;
  while (!data.empty()) {
    if (!starts_with(data, 0, "070701") && !starts_with(data, 0, "070702"))
      return data.size() < 6 ? Archive::truncated : (data[0] == 0 ? Archive::whole : Archive::damaged);
    if (data.size() < kHeader) return Archive::truncated;
    const auto size = field(data, kFileSize), name_size = field(data, kNameSize);
    if (!size || !name_size) return Archive::damaged;
    const std::uint64_t name_end = align_up(std::uint64_t{kHeader} + *name_size, std::uint64_t{4});
    const std::uint64_t end = name_end + *size;
    if (end > data.size()) return Archive::truncated;
    if (starts_with(data, kHeader, "TRAILER!!!")) return Archive::whole;
    data = data.subspan(std::min<std::size_t>(align_up(end, std::uint64_t{4}), data.size()));
  }
  return Archive::whole;
}

}  // namespace

Status check_initrd(Bytes kernel, Bytes initrd, const std::string& name) {
  if (!is_linux(kernel)) return {};
  const auto unusable = [&](std::string_view what) {
    return std::unexpected(Error{fmt::format("initrd {} {}", name, what), "get the file again"});
  };
  // Linux skips zeros before an archive.
  std::size_t zeros = 0;
  while (zeros < initrd.size() && initrd[zeros] == 0) ++zeros;
  const Bytes data = initrd.subspan(zeros);
  if (starts_with(data, 0, "07070")) {
    switch (walk_cpio(data)) {
      case Archive::whole: return {};
      case Archive::truncated:
        return unusable(fmt::format("is truncated: the cpio archive goes on after its {} bytes", initrd.size()));
      case Archive::damaged: return unusable("is a damaged cpio archive, or none of the kind newc");
    }
  }
  if (is_compressed_or_file_system(data) || is_compressed_or_file_system(initrd)) return {};
  return std::unexpected(Error{fmt::format("initrd {} is of no kind that Linux knows", name),
                               "give a cpio archive (cpio -o -H newc), compressed or not, as /boot/initrd.img-*"});
}

}  // namespace husk::app
