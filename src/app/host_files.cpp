// husk: finding kernels and a busybox on this host
#include "app/host_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/bits.h"
#include "host/file.h"

namespace husk::app {
namespace {

bool is_file(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}
bool is_directory(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool digit(char letter) { return letter >= '0' && letter <= '9'; }

/// Debian policy 5.6.12: '~' sorts before everything, even the end; letters before the rest.
int weight(std::string_view text, std::size_t at) {
  if (at >= text.size() || digit(text[at])) return 0;
  const char letter = text[at];
  if (letter == '~') return -1;
  const bool alphabetic = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
  return alphabetic ? letter : static_cast<unsigned char>(letter) + 256;
}

/// An ELF program for x86-64 without an interpreter runs in a guest that has no libraries (ELF-64 object file format).
bool is_static_x86_64(const std::string& path) {
  const auto fd = host::open_file(path, 0);
  if (!fd) return false;
  std::uint8_t header[64];
  if (::pread(fd->get(), header, sizeof header, 0) != sizeof header) return false;
  if (load_be<std::uint32_t>(header) != 0x7f454c46 || header[4] != 2 || header[5] != 1) return false;
  if (load_le<std::uint16_t>(header + 18) != 62) return false;  // EM_X86_64
  const auto table = load_le<std::uint64_t>(header + 32);
  const auto entry_size = load_le<std::uint16_t>(header + 54);
  const auto count = load_le<std::uint16_t>(header + 56);
  if (entry_size < 56 || table > (std::uint64_t{1} << 40)) return false;
  for (unsigned i = 0; i < count; ++i) {
    std::uint8_t type[4];
    const auto at = static_cast<off_t>(table + std::uint64_t{i} * entry_size);
    if (::pread(fd->get(), type, sizeof type, at) != sizeof type) return false;
    if (load_le<std::uint32_t>(type) == 3) return false;  // PT_INTERP
  }
  return true;
}

}  // namespace

bool newer_version(std::string_view a, std::string_view b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    while ((i < a.size() && !digit(a[i])) || (j < b.size() && !digit(b[j]))) {
      const int left = weight(a, i), right = weight(b, j);
      if (left != right) return left > right;
      ++i;
      ++j;
    }
    const auto number = [](std::string_view text, std::size_t& at) {
      while (at < text.size() && text[at] == '0') ++at;
      const std::size_t begin = at;
      while (at < text.size() && digit(text[at])) ++at;
      return text.substr(begin, at - begin);
    };
    const std::string_view left = number(a, i), right = number(b, j);
    if (left.size() != right.size()) return left.size() > right.size();
    if (left != right) return left > right;
  }
  return false;
}

std::vector<std::string> guest_directories() {
  std::vector<std::string> directories;
  const auto add = [&](const std::string& path) {
    if (is_directory(path) && std::find(directories.begin(), directories.end(), path) == directories.end())
      directories.push_back(path);
  };
  if (const char* chosen = std::getenv("HUSK_GUESTS"); chosen && *chosen) add(chosen);
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    add(std::string(cache) + "/husk/guest");
  else if (const char* home = std::getenv("HOME"); home && *home)
    add(std::string(home) + "/.cache/husk/guest");
  char own[4096];
  if (const ssize_t length = ::readlink("/proc/self/exe", own, sizeof own); length > 0) {
    std::string path(own, static_cast<std::size_t>(length));
    // TOP/build/PRESET/husk, or deeper for tests.
    for (int up = 0; up < 5 && path.find('/') != std::string::npos; ++up) {
      path.erase(path.rfind('/'));
      // Only a tree that is husk's own: a cache by that name elsewhere belongs to somebody else.
      if (is_file(path + "/tools/fetch-guest")) add(path + "/.cache/guest");
    }
  }
  return directories;
}

std::vector<KernelFile> find_kernels(const std::string& boot, const std::vector<std::string>& guests) {
  const auto newest_first = [](const KernelFile& a, const KernelFile& b) {
    return newer_version(a.version, b.version);
  };
  std::vector<KernelFile> found;
  if (const auto names = host::list_directory(boot))
    for (const std::string& name : *names)
      if (name.starts_with("vmlinuz-") && is_file(boot + "/" + name))
        found.push_back({boot + "/" + name, name.substr(8), host::is_readable(boot + "/" + name)});
  std::sort(found.begin(), found.end(), newest_first);
  for (const std::string& guest : guests) {
    std::vector<KernelFile> here;
    const auto names = host::list_directory(guest);
    if (!names) continue;
    for (const std::string& name : *names) {
      const std::string path = guest + "/" + name + "/vmlinuz";
      if (!is_file(path)) continue;
      std::string version = name;
      if (const auto text = host::read_text(guest + "/" + name + "/version"))
        version = text->substr(0, text->find('\n'));
      here.push_back({path, version, host::is_readable(path)});
    }
    std::sort(here.begin(), here.end(), newest_first);
    found.insert(found.end(), here.begin(), here.end());
  }
  return found;
}

Result<std::string> default_kernel(const std::string& boot, const std::vector<std::string>& guests) {
  const auto kernels = find_kernels(boot, guests);
  for (const KernelFile& kernel : kernels)
    if (kernel.readable) return kernel.path;
  if (!kernels.empty())
    return std::unexpected(
        Error{fmt::format("the kernel '{}' is not readable for this user", kernels.front().path),
              fmt::format("run 'sudo chmod +r {}', or give a kernel: husk run KERNEL", kernels.front().path)});
  return std::unexpected(Error{fmt::format("there is no kernel in {}", boot),
                               "give one: husk run KERNEL; or get one with tools/fetch-guest of husk's source, or by "
                               "'apt install linux-image-cloud-amd64'"});
}

std::optional<std::string> find_busybox(const std::vector<std::string>& guests) {
  std::vector<std::string> paths;
  for (const std::string& guest : guests) paths.push_back(guest + "/busybox");
  for (const char* path : {"/usr/lib/initramfs-tools/bin/busybox", "/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"})
    paths.emplace_back(path);
  for (const std::string& path : paths)
    if (is_file(path) && is_static_x86_64(path)) return path;
  return std::nullopt;
}

}  // namespace husk::app
