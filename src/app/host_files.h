// husk: finding kernels and a busybox on this host
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace husk::app {

struct KernelFile {
  std::string path;
  std::string version;  ///< "6.1.0-28-amd64"
  bool readable = false;
};

/// Where kernels and busybox may be: /boot is always first; then $HUSK_GUESTS, the user's cache (husk/guest), and
/// .cache/guest of the source tree that this program was built in.
std::vector<std::string> guest_directories();

/// vmlinuz-VERSION in `boot`, and vmlinuz with a file `version` beside it in each sub-directory of `guests`; the newest
/// of each place first, the places in their order.
std::vector<KernelFile> find_kernels(const std::string& boot, const std::vector<std::string>& guests);

/// The first readable of find_kernels(), or an error that says what was found and what to do.
Result<std::string> default_kernel(const std::string& boot, const std::vector<std::string>& guests);

/// A statically linked x86 busybox in a guest directory or among the host's programs.
std::optional<std::string> find_busybox(const std::vector<std::string>& guests);

/// True if version `a` is newer than `b`, as dpkg and uname order them: numbers by value, "~rc" before the release.
bool newer_version(std::string_view a, std::string_view b);

}  // namespace husk::app
