// husk: whole files: open, read, write, pid files
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/unique_fd.h"

namespace husk::host {

/// open(2) with O_CLOEXEC; the error names the path and what was wanted. `mode` is for files that it creates.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0644);

/// The whole content. A file longer than `most` bytes is refused, as is anything but a file or pipe.
Result<std::vector<std::uint8_t>> read_file(const std::string& path, std::size_t most);
/// The same as text, for small files (/proc, configuration); at most 1 MiB.
Result<std::string> read_text(const std::string& path);

/// Replaces or creates a file; a reader sees the old or the new content, never a part.
Status write_file(const std::string& path, std::span<const std::uint8_t> content);
Status write_file(const std::string& path, std::string_view content);

/// Writes all of it to a blocking descriptor, however many calls that takes.
Status write_all(int fd, std::span<const std::uint8_t> data, const std::string& what);

/// The entries of a directory without "." and "..", sorted.
Result<std::vector<std::string>> list_directory(const std::string& path);

/// True if this process may read it.
bool is_readable(const std::string& path);

/// A file with this process's id, locked as long as the object lives and removed with it.
class PidFile {
 public:
  /// Fails if another live process holds the file.
  static Result<PidFile> create(const std::string& path);
  PidFile(PidFile&&) = default;
  PidFile& operator=(PidFile&&) = delete;
  ~PidFile();

 private:
  PidFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  UniqueFd fd_;
  std::string path_;
};

}  // namespace husk::host
