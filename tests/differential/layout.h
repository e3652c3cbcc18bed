// husk: the memory that a test instruction sees, and how tests and results lie in the memory shared with the host child
#pragma once

#include <cstddef>
#include <cstdint>

// Freestanding: the child program is built from this too.

namespace husk::differential {

// ---- linear addresses, the same for the child and for the interpreter ----

inline constexpr std::uint64_t kPage = 4096;
/// Data: two pages read-write, then one read-only; nothing mapped around them. Seen at three places: below 64 KiB for
/// 16-bit addresses (only where vm.mmap_min_addr lets it), below 4 GiB, and high.
inline constexpr std::uint64_t kDataSize = 3 * kPage;
inline constexpr std::uint64_t kWritableSize = 2 * kPage;
inline constexpr std::uint64_t kTinyData = 0x8000;
inline constexpr std::uint64_t kLowData = 0x1000'0000;
inline constexpr std::uint64_t kHighData = 0x1357'9BDF'0000;

/// Code: one slot a test, two sets used in turn, then the gate page through which the child leaves a test. Seen low and
/// high, executable and read-only. A slot is full of INT3 but for the instruction and what leads out behind it.
inline constexpr std::uint64_t kBatch = 128;
inline constexpr std::uint64_t kSlotSize = 512;
inline constexpr std::uint64_t kInsnOffset = 160;  ///< in the slot: a short branch back stays inside
inline constexpr std::uint64_t kSetSize = kBatch * kSlotSize;
inline constexpr std::uint64_t kGateOffset = 2 * kSetSize;
inline constexpr std::uint64_t kCodeSize = 2 * kSetSize + kPage;
inline constexpr std::uint64_t kLowCode = 0x1002'0000;
inline constexpr std::uint64_t kHighCode = kHighData + 0x2'0000;
/// Instructions that cross into the absent page behind the last slot of a set would need a hole there; the gate page
/// ends the code instead, and its last bytes are used for them.
inline constexpr std::uint64_t kCodeEnd = kCodeSize;

// ---- what only the child maps ----
// At addresses that no pattern of operands makes: a test that goes there would see pages that the interpreter has not.

inline constexpr std::uint64_t kChildImage = 0x5A3C'6B00'0000;  ///< its program; in the linker's options too
inline constexpr std::uint64_t kChildImageSize = 0x100'0000;
inline constexpr std::uint64_t kShared = 0x5A3D'7C00'0000;
inline constexpr int kSharedFd = 3;

/// Selectors of a Linux process (arch/x86/include/asm/segment.h).
inline constexpr std::uint16_t kUserCs32 = 0x23, kUserDs = 0x2B, kUserCs64 = 0x33;

/// x87, SSE and AVX state as XSAVE64 lays it out (SDM vol. 1, 13.4).
struct alignas(64) FpImage {
  std::uint8_t legacy[512];
  std::uint64_t xstate_bv;
  std::uint64_t xcomp_bv;
  std::uint8_t header_rest[48];
  std::uint8_t ymm_high[16][16];
};
static_assert(sizeof(FpImage) == 832);

/// Bytes to put into the data before the test.
struct Poke {
  std::uint16_t offset;  ///< in the data
  std::uint16_t length;
  std::uint16_t source;  ///< in poke_bytes
};
inline constexpr unsigned kMaxPokes = 4;
inline constexpr unsigned kPokeBytes = 1088;

struct alignas(64) Request {
  FpImage fp;
  std::uint64_t gpr[16];
  // As IRETQ takes them.
  std::uint64_t rip;
  std::uint64_t cs;
  std::uint64_t rflags;
  std::uint64_t rsp;  ///< a copy of gpr[4]
  std::uint64_t ss;
  std::uint64_t fs_base;
  std::uint64_t gs_base;
  std::uint16_t es, ds, fs, gs;
  std::uint16_t poke_count;
  std::uint16_t reserved;
  Poke pokes[kMaxPokes];
  std::uint8_t poke_bytes[kPokeBytes];
};

/// 32 bytes of the data that differ from what was there before the pokes.
struct Chunk {
  std::uint32_t offset;
  std::uint32_t pad;
  std::uint8_t bytes[32];
};
inline constexpr unsigned kMaxChunks = 48;
inline constexpr std::uint32_t kNoFault = 0xFFFF'FFFF;

struct alignas(64) Answer {
  FpImage fp;
  std::uint64_t gpr[16];
  std::uint64_t rip;  ///< only of a fault or trap; else the next instruction's
  std::uint64_t rflags;
  std::uint64_t fs_base;
  std::uint64_t gs_base;
  std::uint64_t cr2;
  std::uint32_t vector;  ///< kNoFault: ran through
  std::uint32_t error;
  std::uint16_t es, cs, ss, ds, fs, gs;
  std::uint16_t chunk_count;  ///< over kMaxChunks: the rest is not listed
  std::uint16_t reserved;
  Chunk chunks[kMaxChunks];
};

struct Control {
  std::uint32_t submitted;  ///< batches; the child waits for it to change
  std::uint32_t completed;
  std::uint32_t ready;      ///< 1: set up; else the step at which the child gave up
  std::uint32_t tiny_data;  ///< 1: kTinyData is mapped
  std::uint32_t current;    ///< test of the running batch
  std::uint32_t count[2];   ///< tests in each set
};

// ---- the shared memory ----

inline constexpr std::uint64_t kControlOffset = 0;
inline constexpr std::uint64_t kCodeOffset = kPage;
inline constexpr std::uint64_t kDataOffset = kCodeOffset + kCodeSize;
inline constexpr std::uint64_t kRequestsOffset = kDataOffset + kDataSize;
constexpr std::uint64_t page_up(std::uint64_t n) { return (n + kPage - 1) / kPage * kPage; }
inline constexpr std::uint64_t kResultsOffset = page_up(kRequestsOffset + 2 * kBatch * sizeof(Request));
inline constexpr std::uint64_t kSharedSize = page_up(kResultsOffset + 2 * kBatch * sizeof(Answer));

/// Lists the 32-byte pieces of `data` (the writable part) that differ from `pristine`, and puts them back.
inline unsigned take_changes(std::uint8_t* data, const std::uint8_t* pristine, Chunk* chunks) {
  typedef long long Lane __attribute__((vector_size(16), may_alias));
  unsigned count = 0;
  for (unsigned block = 0; block < kWritableSize; block += 128) {
    const Lane* const a = reinterpret_cast<const Lane*>(data + block);
    const Lane* const b = reinterpret_cast<const Lane*>(pristine + block);
    const Lane any = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]) |
                     (a[6] ^ b[6]) | (a[7] ^ b[7]);
    if ((any[0] | any[1]) == 0) continue;
    for (unsigned piece = 0; piece < 8; piece += 2) {
      const Lane differs = (a[piece] ^ b[piece]) | (a[piece + 1] ^ b[piece + 1]);
      if ((differs[0] | differs[1]) == 0) continue;
      if (count < kMaxChunks) {
        Chunk& chunk = chunks[count];
        chunk.offset = block + piece * 16;
        chunk.pad = 0;
        __builtin_memcpy(chunk.bytes, data + block + piece * 16, 32);
      }
      __builtin_memcpy(data + block + piece * 16, pristine + block + piece * 16, 32);
      ++count;
    }
  }
  return count;
}

}  // namespace husk::differential
