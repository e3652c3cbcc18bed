// husk: a memory mapping that unmaps itself
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace husk::host {

/// Owns one mapping, or none (empty).
class Mmap {
 public:
  Mmap() = default;
  Mmap(Mmap&& other) noexcept;
  Mmap& operator=(Mmap&& other) noexcept;
  ~Mmap();

  /// `length` bytes of zero-filled private memory, taken from the host only when touched.
  static Result<Mmap> anonymous(std::size_t length, bool writable = true);
  /// [offset, offset+length) of a descriptor, shared with everyone who maps it. `offset`: a multiple of the host's
  /// page size. The descriptor may be closed afterwards.
  static Result<Mmap> shared(int fd, std::uint64_t offset, std::size_t length, bool writable);
  /// A whole file, read only. An empty file gives an empty mapping. The file must not be cut while mapped.
  static Result<Mmap> file(const std::string& path);

  std::uint8_t* data() { return data_; }
  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::uint8_t> bytes() { return {data_, size_}; }
  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  static Result<Mmap> map(std::size_t length, int protection, int flags, int fd, std::uint64_t offset,
                          const std::string& what);
  Mmap(std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace husk::host
