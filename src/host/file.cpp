// husk: whole files: open, read, write, pid files
#include "host/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

namespace husk::host {

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int access = flags & O_ACCMODE;
    const char* wanted = flags & O_CREAT ? "create" : access == O_RDONLY ? "read" : "open";
    return fail_errno(errno, fmt::format("cannot {} '{}'", wanted, path));
  }
  return UniqueFd(fd);
}

Result<std::vector<std::uint8_t>> read_file(const std::string& path, std::size_t most) {
  UniqueFd fd = HUSK_TRY(open_file(path, O_RDONLY));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, fmt::format("cannot look at '{}'", path));
  if (S_ISDIR(status.st_mode)) return fail("cannot read '{}': it is a directory", path);
  // Of a block or character device (/dev/zero) there is no whole.
  if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode)) return fail("cannot read '{}': not a regular file", path);
  if (static_cast<std::uint64_t>(status.st_size) > most)
    return fail("'{}' is {} bytes long, more than the {} allowed", path, status.st_size, most);

  std::vector<std::uint8_t> content(static_cast<std::size_t>(status.st_size));
  std::size_t filled = 0;
  for (;;) {
    // /proc files say that they are empty, and files may grow: read on until the end is seen.
    if (filled == content.size()) content.resize(std::min(most + 1, std::max<std::size_t>(4096, filled + filled / 2)));
    const ssize_t got = ::read(fd.get(), content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", path));
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled > most) return fail("'{}' is longer than the {} bytes allowed", path, most);
  }
  content.resize(filled);
  return content;
}

Result<std::string> read_text(const std::string& path) {
  const auto content = HUSK_TRY(read_file(path, 1 << 20));
  return std::string(content.begin(), content.end());
}

Status write_all(int fd, std::span<const std::uint8_t> data, const std::string& what) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno(errno, "cannot write " + what);
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Status write_file(const std::string& path, std::span<const std::uint8_t> content) {
  std::string temporary = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot create '{}'", path));
  // mkostemp makes it private; take what open(2) with 0666 would have given.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  Status done = write_all(fd.get(), content, fmt::format("'{}'", path));
  if (done && ::fchmod(fd.get(), 0666 & ~mask) != 0) done = fail_errno(errno, fmt::format("cannot write '{}'", path));
  if (done && ::rename(temporary.c_str(), path.c_str()) != 0)
    done = fail_errno(errno, fmt::format("cannot write '{}'", path));
  if (!done) ::unlink(temporary.c_str());
  return done;
}

Status write_file(const std::string& path, std::string_view content) {
  return write_file(path, {reinterpret_cast<const std::uint8_t*>(content.data()), content.size()});
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
  if (!directory) return fail_errno(errno, fmt::format("cannot list '{}'", path));
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_readable(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

Result<PidFile> PidFile::create(const std::string& path) {
  UniqueFd fd = HUSK_TRY(open_file(path, O_RDWR | O_CREAT, 0644));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  // An open-file-description lock: it dies with the descriptor, unlike a lock file that a crash leaves behind.
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES)
      return std::unexpected(Error{fmt::format("pid file '{}' belongs to a running process", path),
                                   "give another --pidfile or end that process"});
    return fail_errno(errno, fmt::format("cannot lock pid file '{}'", path));
  }
  const std::string text = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd.get(), 0) != 0) return fail_errno(errno, fmt::format("cannot write pid file '{}'", path));
  HUSK_TRY(write_all(fd.get(), {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()},
                     fmt::format("pid file '{}'", path)));
  return PidFile(std::move(fd), path);
}

PidFile::~PidFile() {
  if (fd_) ::unlink(path_.c_str());
}

}  // namespace husk::host
