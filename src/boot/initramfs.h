// husk: newc cpio archives, and the small initramfs that a guest without one is given
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace husk::boot {

/// Writes the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst). Paths are relative, without
/// a leading slash; directories must be added before what is in them. All files belong to root and are dated 0, so
/// that equal content gives equal archives.
class CpioWriter {
 public:
  void directory(std::string_view path, std::uint32_t mode = 0755);
  void file(std::string_view path, std::span<const std::uint8_t> data, std::uint32_t mode = 0644);
  void file(std::string_view path, std::string_view text, std::uint32_t mode = 0644);
  void symlink(std::string_view path, std::string_view target);
  void character_device(std::string_view path, std::uint32_t major, std::uint32_t minor, std::uint32_t mode = 0600);
  /// The whole archive with its trailer, padded to 512 bytes.
  std::vector<std::uint8_t> finish();

 private:
  void entry(std::string_view path, std::uint32_t mode, std::span<const std::uint8_t> data, std::uint32_t major = 0,
             std::uint32_t minor = 0);
  std::vector<std::uint8_t> bytes_;
  std::uint32_t next_inode_ = 1;
};

struct InitramfsOptions {
  std::string hostname = "husk";
  /// A shell script to run instead of an interactive shell; the guest powers off after it.
  std::string script;
  struct ExtraFile {
    std::string path;  ///< "bin/mytool"; its directory is made
    std::vector<std::uint8_t> data;
    std::uint32_t mode = 0755;
  };
  std::vector<ExtraFile> files;
};

/// busybox with its applets as symbolic links, and an /init that mounts proc, sys and dev, sets the host name and runs
/// a shell with job control on the console; when it ends the guest powers off. Words of the kernel command line:
///   husk.exec=BASE64         run this shell script instead, print "husk.exec: exit status N", power off
///   husk.rows=N husk.cols=N  the terminal's size
///   husk.quiet               no banner
/// `busybox` is the program's bytes; a dynamically linked one, or one for another CPU, is refused.
Result<std::vector<std::uint8_t>> make_default_initramfs(std::span<const std::uint8_t> busybox,
                                                         const InitramfsOptions& options = {});
Result<std::vector<std::uint8_t>> make_default_initramfs(const std::filesystem::path& busybox,
                                                         const InitramfsOptions& options = {});

/// The applet names compiled into a busybox, from its own table; empty if the table is not found.
std::vector<std::string> busybox_applets(std::span<const std::uint8_t> busybox);

/// Where a static busybox may be: the given directories (a package cache first), then the host's own.
Result<std::filesystem::path> find_busybox(std::span<const std::filesystem::path> directories);

/// For husk.exec=.
std::string base64(std::string_view text);

}  // namespace husk::boot
