// husk: memory for translated code, and which guest code it came from
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cpu/insn.h"
#include "cpu/jit/context.h"
#include "mem/ram_region.h"

namespace husk::cpu::jit {

/// Records that all go at once. They stay where they are, and their memory is kept for the next ones.
template <class T>
class Records {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  template <class... Args>
  T& add(Args&&... args) {
    if (size_ == chunks_.size() * kChunk) chunks_.push_back(std::make_unique_for_overwrite<Place[]>(kChunk));
    Place& place = chunks_[size_ / kChunk][size_ % kChunk];
    ++size_;
    return *new (&place) T(std::forward<Args>(args)...);
  }
  std::size_t size() const { return size_; }
  void clear() { size_ = 0; }

 private:
  static constexpr std::size_t kChunk = 1024;
  struct alignas(T) Place {
    std::byte bytes[sizeof(T)];
  };
  std::vector<std::unique_ptr<Place[]>> chunks_;
  std::size_t size_ = 0;
};

/// Translated code of a run of guest instructions inside one page of RAM.
struct Block {
  const std::uint8_t* code =
      nullptr;  ///< host address of the first guest byte: identity of the code, whatever maps to it
  const std::uint8_t* entry = nullptr;  ///< running address
  bool wants_flags = true;              ///< reads flags that it did not set itself
  bool counts = false;                  ///< how often it runs, by itself
  /// One instruction that reaches into the next page: who comes here makes sure that `second_page` follows.
  bool crosses = false;
  std::uint16_t bytes = 0;
  std::uint32_t key = 0;
  std::uint32_t heat = 0;       ///< entries by the engine until its second form; 0: it has that, or never gets it
  CodePlace spilled_entry = 0;  ///< restores the flags first; none: not made yet
  /// The same entries, where jumps are counted until the block is worth its second form.
  CodePlace counted_entry = 0, counted_spilled_entry = 0;
  std::uint64_t looked_at = 0;  ///< granules of the page whose bytes the translation relies on besides its own
  Block* next_in_bucket = nullptr;
  Block* next_in_page = nullptr;
  LinkSite* incoming = nullptr;
  const std::uint8_t* second_page = nullptr;  ///< host address; null: none that can be translated from
  Block* partner = nullptr;  ///< in the second page: what stands there for a block that crosses into it
};

/// An instruction that the interpreter's handler does from inside translated code.
struct CallSite {
  Insn insn;
  std::uint32_t key = 0;                 ///< of its block
  bool keeps_mode = false;               ///< nothing that the key depends on is changed by it
  std::uint16_t offset = 0;              ///< of the instruction in its page
  const std::uint8_t* resume = nullptr;  ///< running address of what follows
};

/// Memory that can be written at one address and run at another, so that no page is both at once.
class CodeMemory {
 public:
  static Result<std::unique_ptr<CodeMemory>> create(std::size_t size);
  ~CodeMemory();
  CodeMemory(const CodeMemory&) = delete;
  CodeMemory& operator=(const CodeMemory&) = delete;

  std::uint8_t* writable() { return writable_; }
  std::size_t size() const { return size_; }
  const std::uint8_t* running(const std::uint8_t* written) const { return written + to_running_; }
  const std::uint8_t* written(const std::uint8_t* running) const { return running - to_running_; }

 private:
  CodeMemory(std::uint8_t* writable, std::uint8_t* running, std::size_t size)
      : writable_(writable), size_(size), to_running_(running - writable) {}
  std::uint8_t* writable_;
  std::size_t size_;
  std::ptrdiff_t to_running_;
};

/// Blocks by guest code and mode, the links between them, and the space for more. Nothing is freed singly: when the
/// memory is used up everything goes at once.
class CodeCache {
 public:
  explicit CodeCache(std::unique_ptr<CodeMemory> memory);

  /// Room below which a translation is not begun: more than the largest block takes.
  static constexpr std::size_t kReserve = std::size_t{64} << 10;

  const std::uint8_t* running(const std::uint8_t* written) const { return memory_->running(written); }
  const std::uint8_t* written(const std::uint8_t* running) const { return memory_->written(running); }
  CodePlace place(const std::uint8_t* written) const { return static_cast<CodePlace>(written - memory_->writable()); }
  const std::uint8_t* running_at(CodePlace place) const { return running(memory_->writable() + place); }
  std::uint8_t* hot() { return hot_; }
  std::uint8_t* cold() { return cold_; }
  void use(std::uint8_t* hot_end, std::uint8_t* cold_end) {
    hot_ = hot_end;
    cold_ = cold_end;
  }
  bool full() const { return hot_ + kReserve > hot_end_ || cold_ + kReserve > cold_end_; }
  /// What was written so far stays for ever: the stubs.
  void keep_all();
  /// What keep_all() kept: where it begins, and its size.
  const std::uint8_t* begin() const { return memory_->writable(); }
  std::size_t kept_bytes() const { return static_cast<std::size_t>(hot_begin_ - memory_->writable()); }
  void clear();
  std::size_t bytes_used() const {
    return static_cast<std::size_t>(hot_ - memory_->writable()) + static_cast<std::size_t>(cold_ - hot_end_);
  }

  Block* find(const std::uint8_t* code, std::uint32_t key) const {
    for (Block* block = buckets_[bucket_of(code, key)]; block; block = block->next_in_bucket)
      if (block->code == code && block->key == key) return block;
    return nullptr;
  }
  Block* add(mem::RamRegion& ram, const Block& made);
  /// Has a block that crosses go when one of its `bytes` in its second page is written.
  void add_second(mem::RamRegion& ram, Block& block, unsigned bytes);
  bool holds_page(const std::uint8_t* host_page) const { return pages_.contains(host_page); }
  /// Which granules of the page code came from or looked at.
  std::uint64_t granules(const std::uint8_t* host_page) const {
    const auto found = pages_.find(host_page);
    return found == pages_.end() ? 0 : found->second.granules;
  }
  /// Drops the blocks of a page that overlap the written bytes; their incoming links ask anew. `dropped` counts them.
  /// True if the page has none left, and has not had any for a while: code that is changed comes back.
  bool written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length, unsigned& dropped);

  /// Takes a block out, so that it is translated anew when it is next wanted. Its code stays, but begins with a jump
  /// that asks for the new one: jump tables may still lead to it.
  void forget(const std::uint8_t* code, std::uint32_t key);

  /// Where code that asks for a link begins (written address): R11 LinkSite.
  void set_link_stub(const std::uint8_t* stub) { link_stub_ = stub; }
  /// Code that takes the flags from the context. It is copied to where it is needed.
  void set_restore_flags(std::vector<std::uint8_t> code) { restore_flags_ = std::move(code); }

  MemorySite& new_memory_site() { return memory_sites_.add(); }
  CallSite& new_call_site() { return call_sites_.add(); }
  LinkSite& new_link_site() { return link_sites_.add(); }
  /// `entry` is one of the target's entries.
  void link(LinkSite& site, Block& target, const std::uint8_t* entry);
  void unlink(LinkSite& site);
  std::size_t blocks() const { return blocks_.size(); }

 private:
  struct Page {
    mem::RamRegion* ram;
    std::uint64_t offset;
    std::uint64_t granules = 0;  ///< bit n: some block has bytes in [64n, 64n+64)
    Block* blocks = nullptr;
    unsigned idle_writes = 0;  ///< since the last block went
  };
  std::size_t bucket_of(const std::uint8_t* code, std::uint32_t key) const {
    const std::uint64_t mixed =
        (reinterpret_cast<std::uintptr_t>(code) ^ (std::uint64_t{key} << 40)) * 0x9E3779B97F4A7C15;
    return mixed >> (64 - bucket_bits_);
  }
  void grow_buckets();
  void point(const LinkSite& site, const std::uint8_t* running_target);
  void remove(Block& block);
  void forward(Block& block);

  std::unique_ptr<CodeMemory> memory_;
  std::uint8_t *hot_, *hot_begin_, *hot_end_;
  std::uint8_t *cold_, *cold_begin_, *cold_end_;
  const std::uint8_t* link_stub_ = nullptr;
  std::vector<std::uint8_t> restore_flags_;
  unsigned bucket_bits_ = 14;
  std::vector<Block*> buckets_ = std::vector<Block*>(std::size_t{1} << bucket_bits_);
  std::unordered_map<const std::uint8_t*, Page> pages_;
  Records<Block> blocks_;
  Records<MemorySite> memory_sites_;
  Records<CallSite> call_sites_;
  Records<LinkSite> link_sites_;
};

/// Links that are to be reset when a page is mapped elsewhere, by the page that they lead to.
class FarLinks {
 public:
  void add(LinkSite& site, std::uint64_t page_number);
  void unlink_all(CodeCache& cache);
  /// Those to the pages first to last, by number. True if there were any.
  bool unlink_pages(CodeCache& cache, std::uint64_t first, std::uint64_t last);
  /// Forgets them: their sites are gone.
  void clear();

 private:
  struct Link {
    LinkSite* site;
    std::uint64_t page;
  };
  static constexpr std::size_t kBuckets = 64;
  static void unlink(CodeCache& cache, const Link& link);
  std::array<std::vector<Link>, kBuckets> buckets_;
};

}  // namespace husk::cpu::jit
