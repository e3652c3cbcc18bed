// husk: 9P2000.L: message numbers, flags and layouts (Linux, include/net/9p/9p.h; diod's protocol.md)
#pragma once

#include <cstddef>
#include <cstdint>

/// Everything on the wire is little-endian. A message is size[4] type[1] tag[2] and what its type has; a string is a
/// length of two bytes and so many bytes. The answer's type is the request's plus one, or Rlerror.
namespace husk::hostfs::ninep {

enum class Type : std::uint8_t {
  rlerror = 7,
  statfs = 8,
  lopen = 12,
  lcreate = 14,
  symlink = 16,
  mknod = 18,
  rename = 20,
  readlink = 22,
  getattr = 24,
  setattr = 26,
  xattrwalk = 30,
  xattrcreate = 32,
  readdir = 40,
  fsync = 50,
  lock = 52,
  getlock = 54,
  link = 70,
  mkdir = 72,
  renameat = 74,
  unlinkat = 76,
  version = 100,
  attach = 104,
  flush = 108,
  walk = 110,
  read = 116,
  write = 118,
  clunk = 120,
  remove = 122,
};

inline constexpr std::size_t kMostXattr = 65536;  ///< bytes of an extended attribute, as Linux has it
inline constexpr char kVersion[] = "9P2000.L";
inline constexpr std::size_t kHeader = 7;
inline constexpr std::size_t kErrorMessage = kHeader + 4;
/// Before the data of a Twrite, behind the header; of an Rread and Rreaddir.
inline constexpr std::size_t kWriteIn = 16, kReadOut = 4;
inline constexpr std::size_t kDirent = 24;  ///< without the name
inline constexpr std::uint32_t kLeastMessage = 4096;
inline constexpr std::uint32_t kMostMessage = 1u << 20;
inline constexpr std::uint32_t kNoFid = ~0u;
inline constexpr std::uint32_t kNoUser = ~0u;
inline constexpr unsigned kMostNames = 16;  ///< of one Twalk

inline constexpr std::uint8_t kQidDirectory = 0x80, kQidSymlink = 0x02;
inline constexpr std::uint64_t kGetattrBasic = 0x7FF;  ///< all that stat(2) tells
inline constexpr std::uint32_t kSetMode = 1, kSetUid = 2, kSetGid = 4, kSetSize = 8, kSetAtime = 0x10, kSetMtime = 0x20,
                               kSetAtimeGiven = 0x80, kSetMtimeGiven = 0x100;
inline constexpr std::uint32_t kRemoveDirectory = 0x200;
/// Flags of Tlopen are those of open(2) on x86, but for this one, which there is two bits.
inline constexpr std::uint32_t kOpenSync = 04000000;
inline constexpr std::uint32_t kXattrReplace = 2;
inline constexpr std::uint32_t kLockBlock = 1;
inline constexpr std::uint8_t kUnlocked = 2;
enum LockStatus : std::uint8_t { kLockSuccess = 0, kLockBlocked = 1 };
/// What statfs(2) calls this file system (linux/magic.h).
inline constexpr std::uint32_t kMagic = 0x01021997;

}  // namespace husk::hostfs::ninep
