// husk: decoded basic blocks, keyed by where their bytes lie in RAM
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cpu/insn.h"
#include "mem/ram_region.h"

namespace husk::cpu::interp {

/// A run of instructions inside one page of RAM, decoded for one mode.
struct Block {
  const std::uint8_t* code;  ///< host address of the first byte: the identity of the code, whatever maps to it
  std::uint32_t key;         ///< Core::block_key_ it was decoded under
  std::uint16_t bytes;
  std::uint16_t count;
  const Insn* insns;
  Block* next_in_bucket;
  Block* next_in_page;
};

/// Blocks survive changes of paging and CR3, since they are keyed by RAM. Memory of dropped blocks comes back when the
/// arena is full and everything is dropped at once.
class BlockCache {
 public:
  static constexpr unsigned kMaxInsns = 64;

  Block* find(const std::uint8_t* code, std::uint32_t key) const {
    for (Block* block = buckets_[bucket_of(code, key)]; block; block = block->next_in_bucket)
      if (block->code == code && block->key == key) return block;
    return nullptr;
  }
  /// Stores a decoded block; the instructions are copied.
  Block* add(mem::RamRegion& ram, const std::uint8_t* code, std::uint32_t key, unsigned bytes, const Insn* insns,
             unsigned count);
  /// Drops the blocks of the page that overlap the written bytes. True if the page has none left.
  bool written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length);
  /// True once the arena is used up: the owner calls clear() when no block is running.
  bool full() const { return used_ >= kArenaInsns; }
  void clear();
  bool holds_page(const std::uint8_t* host_page) const { return pages_.contains(host_page); }
  /// Which granules of the page blocks came from.
  std::uint64_t granules(const std::uint8_t* host_page) const {
    const auto found = pages_.find(host_page);
    return found == pages_.end() ? 0 : found->second.granules;
  }

 private:
  static constexpr unsigned kBucketBits = 16;
  static constexpr std::size_t kChunkInsns = 1 << 14;
  static constexpr std::size_t kArenaInsns = std::size_t{1} << 20;  ///< about 48 MiB
  struct Page {
    mem::RamRegion* ram;
    std::uint64_t offset;
    std::uint64_t granules = 0;  ///< bit n: some block has bytes in [64n, 64n+64)
    Block* blocks = nullptr;
  };
  static std::size_t bucket_of(const std::uint8_t* code, std::uint32_t key) {
    const std::uint64_t mixed = (reinterpret_cast<std::uintptr_t>(code) ^ (std::uint64_t{key} << 40)) * 0x9E3779B97F4A7C15;
    return mixed >> (64 - kBucketBits);
  }
  void unlink(Block* block);

  std::vector<Block*> buckets_ = std::vector<Block*>(std::size_t{1} << kBucketBits);
  std::unordered_map<const std::uint8_t*, Page> pages_;
  std::vector<std::unique_ptr<Insn[]>> chunks_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::size_t chunk_ = 0, chunk_used_ = 0, used_ = 0;
};

}  // namespace husk::cpu::interp
