// husk: a memory mapping that unmaps itself
#include "host/mmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "host/file.h"
#include "host/unique_fd.h"

namespace husk::host {

Mmap::Mmap(Mmap&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mmap& Mmap::operator=(Mmap&& other) noexcept {
  if (this != &other) {
    if (data_) ::munmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mmap::~Mmap() {
  if (data_) ::munmap(data_, size_);
}

Result<Mmap> Mmap::map(std::size_t length, int protection, int flags, int fd, std::uint64_t offset,
                       const std::string& what) {
  if (length == 0) return Mmap();
  void* at = ::mmap(nullptr, length, protection, flags, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return fail_errno(errno, fmt::format("cannot map {} bytes of {}", length, what));
  return Mmap(static_cast<std::uint8_t*>(at), length);
}

Result<Mmap> Mmap::anonymous(std::size_t length, bool writable) {
  return map(length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
             "memory");
}

Result<Mmap> Mmap::shared(int fd, std::uint64_t offset, std::size_t length, bool writable) {
  return map(length, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, offset, "a descriptor");
}

Result<Mmap> Mmap::file(const std::string& path) {
  UniqueFd fd = HUSK_TRY(open_file(path, O_RDONLY));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, fmt::format("cannot look at '{}'", path));
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file", path);
  return map(static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0, fmt::format("'{}'", path));
}

}  // namespace husk::host
