// husk: decoded basic blocks
#include "cpu/interp/block_cache.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::cpu::interp {
using mem::granules_of;

Block* BlockCache::add(mem::RamRegion& ram, const std::uint8_t* code, std::uint32_t key, unsigned bytes,
                       const Insn* insns, unsigned count) {
  if (chunks_.empty() || chunk_used_ + count > kChunkInsns) {
    if (!chunks_.empty()) ++chunk_;
    if (chunk_ == chunks_.size()) chunks_.push_back(std::make_unique<Insn[]>(kChunkInsns));
    chunk_used_ = 0;
  }
  Insn* const storage = &chunks_[chunk_][chunk_used_];
  chunk_used_ += count;
  used_ += count;
  std::copy(insns, insns + count, storage);

  const auto offset = static_cast<std::uint64_t>(code - ram.data());
  const std::uint64_t page_offset = align_down(offset, mem::kPageSize);
  Page& page = pages_.try_emplace(ram.data() + page_offset, Page{&ram, page_offset}).first->second;
  page.granules |= granules_of(offset, bytes);
  Block*& bucket = buckets_[bucket_of(code, key)];
  blocks_.push_back(std::make_unique<Block>(Block{code, key, static_cast<std::uint16_t>(bytes),
                                                  static_cast<std::uint16_t>(count), storage, bucket, page.blocks}));
  return bucket = page.blocks = blocks_.back().get();
}

void BlockCache::unlink(Block* block) {
  for (Block** link = &buckets_[bucket_of(block->code, block->key)]; *link; link = &(*link)->next_in_bucket)
    if (*link == block) {
      *link = block->next_in_bucket;
      return;
    }
}

bool BlockCache::written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
  const auto found = pages_.find(ram.data() + align_down(offset, mem::kPageSize));
  if (found == pages_.end()) return true;
  Page& page = found->second;
  if (!(page.granules & granules_of(offset, length))) return false;
  // The running block may be among them: its memory stays until clear(), and the caller ends it.
  page.granules = 0;
  const std::uint64_t in_page = offset - page.offset;
  for (Block** link = &page.blocks; *link;) {
    Block* const block = *link;
    const auto start = static_cast<std::uint64_t>(block->code - ram.data()) - page.offset;
    if (start < in_page + length && in_page < start + block->bytes) {
      unlink(block);
      *link = block->next_in_page;
    } else {
      page.granules |= granules_of(start, block->bytes);
      link = &block->next_in_page;
    }
  }
  if (page.blocks) return false;
  pages_.erase(found);
  return true;
}

void BlockCache::clear() {
  std::fill(buckets_.begin(), buckets_.end(), nullptr);
  // kHasCode stays set on the pages: other CPUs may hold code of them. A later write finds nothing and clears it.
  pages_.clear();
  blocks_.clear();
  chunk_ = chunk_used_ = used_ = 0;
}

}  // namespace husk::cpu::interp
