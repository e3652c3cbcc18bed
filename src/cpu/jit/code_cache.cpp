// husk: memory for translated code, and which guest code it came from
#include "cpu/jit/code_cache.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bits.h"
#include "cpu/jit/emitter.h"

namespace husk::cpu::jit {

Result<std::unique_ptr<CodeMemory>> CodeMemory::create(std::size_t size) {
  // A shared anonymous mapping, and a second one of the same pages (mremap(2), old_size of 0). Unlike a memfd's it
  // counts as anonymous for perf, which looks up names of code there in its map file.
  void* const writable = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (writable == MAP_FAILED) return fail("cannot map {} bytes for translated code: {}", size, std::strerror(errno));
  void* const running = mremap(writable, 0, size, MREMAP_MAYMOVE);
  if (running == MAP_FAILED || mprotect(running, size, PROT_READ | PROT_EXEC) != 0) {
    const int error = errno;
    munmap(writable, size);
    if (running != MAP_FAILED) munmap(running, size);
    return fail("cannot map {} bytes of translated code to run them: {}", size, std::strerror(error));
  }
  return std::unique_ptr<CodeMemory>(
      new CodeMemory(static_cast<std::uint8_t*>(writable), static_cast<std::uint8_t*>(running), size));
}

CodeMemory::~CodeMemory() {
  munmap(const_cast<std::uint8_t*>(running(writable_)), size_);
  munmap(writable_, size_);
}

CodeCache::CodeCache(std::unique_ptr<CodeMemory> memory) : memory_(std::move(memory)) {
  hot_ = hot_begin_ = memory_->writable();
  hot_end_ = cold_ = cold_begin_ = hot_ + memory_->size() / 2;
  cold_end_ = memory_->writable() + memory_->size();
}

void CodeCache::keep_all() {
  hot_begin_ = hot_;
  cold_begin_ = cold_;
}

void CodeCache::clear() {
  std::fill(buckets_.begin(), buckets_.end(), nullptr);
  // kHasCode stays set on the pages: other CPUs may hold code of them. A later write finds nothing and clears it.
  pages_.clear();
  blocks_.clear();
  memory_sites_.clear();
  call_sites_.clear();
  link_sites_.clear();
  hot_ = hot_begin_;
  cold_ = cold_begin_;
}

Block* CodeCache::add(mem::RamRegion& ram, const Block& made) {
  const auto offset = static_cast<std::uint64_t>(made.code - ram.data());
  const std::uint64_t page_offset = align_down(offset, mem::kPageSize);
  Page& page = pages_.try_emplace(ram.data() + page_offset, Page{&ram, page_offset}).first->second;
  page.granules |= mem::granules_of(offset, made.bytes) | made.looked_at;
  page.idle_writes = 0;
  if (blocks_.size() >= buckets_.size()) grow_buckets();
  Block& block = blocks_.add(made);
  Block*& bucket = buckets_[bucket_of(block.code, block.key)];
  block.next_in_bucket = bucket;
  block.next_in_page = page.blocks;
  return bucket = page.blocks = &block;
}

void CodeCache::grow_buckets() {
  bucket_bits_ += 2;
  const std::vector<Block*> before = std::exchange(buckets_, std::vector<Block*>(std::size_t{1} << bucket_bits_));
  for (Block* chain : before)
    while (Block* const block = chain) {
      chain = block->next_in_bucket;
      Block*& bucket = buckets_[bucket_of(block->code, block->key)];
      block->next_in_bucket = bucket;
      bucket = block;
    }
}

void CodeCache::add_second(mem::RamRegion& ram, Block& block, unsigned bytes) {
  Block second;
  second.code = block.second_page;
  // Nobody looks for it.
  second.key = ~std::uint32_t{0};
  second.bytes = static_cast<std::uint16_t>(bytes);
  second.partner = &block;
  (void)add(ram, second);
}

void CodeCache::point(const LinkSite& site, const std::uint8_t* running_target) {
  std::uint8_t* const at = memory_->writable() + site.place;
  if (site.far) {
    std::memcpy(at, &running_target, sizeof running_target);
  } else {
    const auto distance = static_cast<std::int32_t>(running_target - (running(at) + 4));
    // Aligned or not, one store: another CPU of this cache there is none, and this one is not in the middle of it.
    std::memcpy(at, &distance, sizeof distance);
  }
}

void CodeCache::link(LinkSite& site, Block& target, const std::uint8_t* entry) {
  if (site.target) unlink(site);
  site.target = &target;
  site.next = target.incoming;
  target.incoming = &site;
  point(site, entry);
}

void CodeCache::unlink(LinkSite& site) {
  if (!site.target) return;
  for (LinkSite** at = &site.target->incoming; *at; at = &(*at)->next)
    if (*at == &site) {
      *at = site.next;
      break;
    }
  site.target = nullptr;
  point(site, running_at(site.unlinked));
}

void CodeCache::remove(Block& block) {
  for (Block** at = &buckets_[bucket_of(block.code, block.key)]; *at; at = &(*at)->next_in_bucket)
    if (*at == &block) {
      *at = block.next_in_bucket;
      break;
    }
  while (block.incoming) unlink(*block.incoming);
  if (block.entry) forward(block);
}

void CodeCache::forward(Block& block) {
  // No room for it: the owner empties the cache before anything runs again.
  if (cold_ + 64 > cold_end_) return;
  LinkSite& site = new_link_site();
  Emitter entry{memory_->writable() + (block.entry - running_at(0))};
  entry.jmp(cold_);
  Emitter cold{cold_};
  // Only jump tables lead here: the block may not have wanted flags, its successor may.
  cold.bytes(restore_flags_.data(), restore_flags_.size());
  std::uint8_t* const jump = cold.jmp_forward();
  cold.bind(jump);
  site.place = place(jump);
  site.unlinked = place(cold.at);
  site.offset = static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(block.code) & (mem::kPageSize - 1));
  cold.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&site));
  cold.jmp(link_stub_);
  cold_ = cold.at;
}

void CodeCache::forget(const std::uint8_t* code, std::uint32_t key) {
  Block* const block = find(code, key);
  if (!block) return;
  remove(*block);
  const auto page =
      reinterpret_cast<const std::uint8_t*>(reinterpret_cast<std::uintptr_t>(code) & ~std::uintptr_t{0xFFF});
  const auto found = pages_.find(page);
  if (found == pages_.end()) return;
  for (Block** at = &found->second.blocks; *at; at = &(*at)->next_in_page)
    if (*at == block) {
      *at = block->next_in_page;
      return;
    }
}

bool CodeCache::written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length, unsigned& dropped) {
  const auto found = pages_.find(ram.data() + align_down(offset, mem::kPageSize));
  if (found == pages_.end()) return true;
  Page& page = found->second;
  const std::uint64_t granules = mem::granules_of(offset, length);
  // A page that is filled anew is another page.
  constexpr std::uint64_t kAnew = 1024;
  constexpr unsigned kIdleWrites = 4;
  if (!page.blocks && (++page.idle_writes >= kIdleWrites || length >= kAnew)) {
    pages_.erase(found);
    return true;
  }
  if (!(page.granules & granules)) return false;
  page.granules = 0;
  const std::uint64_t in_page = offset - page.offset;
  std::vector<const Block*> crossing;
  for (Block** at = &page.blocks; *at;) {
    Block* const block = *at;
    const auto start = static_cast<std::uint64_t>(block->code - ram.data()) - page.offset;
    if ((start < in_page + length && in_page < start + block->bytes) || (block->looked_at & granules)) {
      remove(*block);
      *at = block->next_in_page;
      if (block->partner) crossing.push_back(block->partner);
      ++dropped;
    } else {
      page.granules |= mem::granules_of(start, block->bytes) | block->looked_at;
      at = &block->next_in_page;
    }
  }
  for (const Block* block : crossing) forget(block->code, block->key);
  if (page.blocks || length < kAnew) return false;
  pages_.erase(found);
  return true;
}

void FarLinks::add(LinkSite& site, std::uint64_t page_number) {
  // A block that comes and goes has its links listed once.
  if (site.listed_page == page_number) return;
  site.listed_page = page_number;
  buckets_[page_number % kBuckets].push_back({&site, page_number});
}

void FarLinks::unlink(CodeCache& cache, const Link& link) {
  cache.unlink(*link.site);
  link.site->listed_page = LinkSite::kNotListed;
}

void FarLinks::unlink_all(CodeCache& cache) {
  for (std::vector<Link>& bucket : buckets_) {
    for (const Link& link : bucket) unlink(cache, link);
    bucket.clear();
  }
}

bool FarLinks::unlink_pages(CodeCache& cache, std::uint64_t first, std::uint64_t last) {
  std::size_t count = 0;
  const auto meets = [&](const Link& link) {
    if (link.page < first || link.page > last) return false;
    unlink(cache, link);
    return true;
  };
  if (last - first >= kBuckets) {
    for (std::vector<Link>& bucket : buckets_) count += std::erase_if(bucket, meets);
  } else {
    for (std::uint64_t page = first; page <= last; ++page) count += std::erase_if(buckets_[page % kBuckets], meets);
  }
  return count != 0;
}

void FarLinks::clear() {
  for (std::vector<Link>& bucket : buckets_) bucket.clear();
}

}  // namespace husk::cpu::jit
