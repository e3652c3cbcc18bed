// husk: the FUSE protocol, version 7.38: numbers, flags and layouts (Linux, include/uapi/linux/fuse.h)
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "base/bits.h"

/// Everything on the wire is little-endian: guests are x86. So are the open(2) flags, which differ between machines.
namespace husk::hostfs::fuse {

enum class Op : std::uint32_t {
  lookup = 1,
  forget = 2,
  getattr = 3,
  setattr = 4,
  readlink = 5,
  symlink = 6,
  mknod = 8,
  mkdir = 9,
  unlink = 10,
  rmdir = 11,
  rename = 12,
  link = 13,
  open = 14,
  read = 15,
  write = 16,
  statfs = 17,
  release = 18,
  fsync = 20,
  setxattr = 21,
  getxattr = 22,
  listxattr = 23,
  removexattr = 24,
  flush = 25,
  init = 26,
  opendir = 27,
  readdir = 28,
  releasedir = 29,
  fsyncdir = 30,
  getlk = 31,
  setlk = 32,
  setlkw = 33,
  access = 34,
  create = 35,
  interrupt = 36,
  bmap = 37,
  destroy = 38,
  ioctl = 39,
  poll = 40,
  batch_forget = 42,
  fallocate = 43,
  readdirplus = 44,
  rename2 = 45,
  lseek = 46,
  copy_file_range = 47,
  syncfs = 50,
  tmpfile = 51,
};

inline constexpr std::uint32_t kMajor = 7, kMinor = 38, kOldestMinor = 31;
inline constexpr std::uint64_t kRootId = 1;
inline constexpr std::size_t kInHeader = 40, kOutHeader = 16;
inline constexpr std::size_t kInitIn = 16, kInitOut = 64;
inline constexpr std::size_t kAttr = 88, kEntryOut = 40 + kAttr, kAttrOut = 16 + kAttr, kOpenOut = 16;
inline constexpr std::size_t kWriteIn = 40, kDirent = 24;

// INIT flags; those of 32 and more are in flags2.
inline constexpr std::uint64_t kAsyncRead = 1u << 0, kPosixLocks = 1u << 1, kAtomicTruncate = 1u << 3,
                               kBigWrites = 1u << 5, kFlockLocks = 1u << 10, kAutoInvalidate = 1u << 12,
                               kReaddirPlus = 1u << 13, kReaddirPlusAuto = 1u << 14, kAsyncDio = 1u << 15,
                               kNoOpen = 1u << 17, kParallelDirops = 1u << 18, kMaxPages = 1u << 22,
                               kCacheSymlinks = 1u << 23, kNoOpendir = 1u << 24, kKillPrivV2 = 1u << 28,
                               kSetxattrExt = 1u << 29, kInitExt = 1u << 30;

inline constexpr std::uint32_t kSetMode = 1, kSetUid = 2, kSetGid = 4, kSetSize = 8, kSetAtime = 16, kSetMtime = 32,
                               kSetHandle = 64, kSetAtimeNow = 128, kSetMtimeNow = 256, kSetKillSuidgid = 1u << 11;
inline constexpr std::uint32_t kFopenKeepCache = 2, kFopenCacheDir = 8;
inline constexpr std::uint32_t kGetattrHandle = 1;
inline constexpr std::uint32_t kLockFlock = 1;
inline constexpr std::uint32_t kWriteCache = 1, kWriteKillSuidgid = 4;
inline constexpr std::uint32_t kReleaseFlockUnlock = 2;
inline constexpr std::uint32_t kOpenKillSuidgid = 1;
inline constexpr std::uint32_t kFsyncData = 1;

/// open(2) flags as x86 Linux has them.
inline constexpr std::uint32_t kOpenAccess = 3, kOpenCreate = 0100, kOpenExclusive = 0200, kOpenTruncate = 01000,
                               kOpenAppend = 02000, kOpenDsync = 010000, kOpenNoAtime = 01000000, kOpenSync = 04010000;

/// Takes values off the front of a request; behind its end come zeroes, and ok() is false.
class Reader {
 public:
  Reader() = default;
  explicit Reader(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  std::uint8_t u8() { return take<std::uint8_t>(); }
  std::uint16_t u16() { return take<std::uint16_t>(); }
  std::uint32_t u32() { return take<std::uint32_t>(); }
  std::uint64_t u64() { return take<std::uint64_t>(); }
  void skip(std::size_t count) {
    ok_ &= count <= rest_.size();
    rest_ = rest_.subspan(std::min(count, rest_.size()));
  }
  /// Up to the next zero byte, which must be there.
  std::string_view text() {
    const auto* const begin = reinterpret_cast<const char*>(rest_.data());
    const void* const zero = rest_.empty() ? nullptr : std::memchr(begin, 0, rest_.size());
    if (!zero) {
      ok_ = false;
      return {};
    }
    const auto length = static_cast<std::size_t>(static_cast<const char*>(zero) - begin);
    rest_ = rest_.subspan(length + 1);
    return {begin, length};
  }
  std::span<const std::uint8_t> bytes(std::size_t count) {
    if (count > rest_.size()) {
      ok_ = false;
      return {};
    }
    const auto taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  std::size_t left() const { return rest_.size(); }
  bool ok() const { return ok_; }

 private:
  template <class T>
  T take() {
    if (rest_.size() < sizeof(T)) {
      ok_ = false;
      rest_ = {};
      return 0;
    }
    const T value = load_le<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  std::span<const std::uint8_t> rest_;
  bool ok_ = true;
};

/// Appends to an answer.
class Writer {
 public:
  explicit Writer(std::vector<std::uint8_t>& bytes) : bytes_(bytes) {}
  void u8(std::uint8_t value) { bytes_.push_back(value); }
  void u16(std::uint16_t value) { put(value); }
  void u32(std::uint64_t value) { put(static_cast<std::uint32_t>(value)); }
  void u64(std::uint64_t value) { put(value); }
  void zeroes(std::size_t count) { bytes_.resize(bytes_.size() + count); }
  void text(std::string_view text) { bytes_.insert(bytes_.end(), text.begin(), text.end()); }
  void align8() { bytes_.resize(align_up(bytes_.size(), 8)); }
  std::size_t size() const { return bytes_.size(); }

 private:
  template <class T>
  void put(T value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    store_le<T>(&bytes_[at], value);
  }
  std::vector<std::uint8_t>& bytes_;
};

}  // namespace husk::hostfs::fuse
