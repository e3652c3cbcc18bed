// husk: the JIT of one vCPU: runs translated code, and does what that code cannot do itself
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "cpu/code_observer.h"
#include "cpu/interp/core.h"
#include "cpu/jit/code_cache.h"
#include "cpu/jit/context.h"
#include "cpu/jit/emitter.h"
#include "cpu/jit/plan.h"
#include "cpu/jit/statistics.h"

namespace husk::cpu::jit {

/// Host addresses of guest instructions. Most questions are about others, and answered without looking far.
class PlaceSet {
 public:
  void insert(const std::uint8_t* place) {
    places_.insert(place);
    marks_.set(index(place));
  }
  bool contains(const std::uint8_t* place) const { return marks_.test(index(place)) && places_.contains(place); }
  void clear() {
    places_.clear();
    marks_.reset();
  }

 private:
  static constexpr unsigned kMarkBits = 14;
  static std::size_t index(const std::uint8_t* place) {
    return (reinterpret_cast<std::uintptr_t>(place) * 0x9E3779B97F4A7C15) >> (64 - kMarkBits);
  }
  std::unordered_set<const std::uint8_t*> places_;
  std::bitset<1u << kMarkBits> marks_;
};

struct EngineOptions {
  static constexpr std::size_t kDefaultCodeBytes = std::size_t{128} << 20;
  std::size_t code_bytes = kDefaultCodeBytes;  ///< size of the code cache
  bool count = false;                          ///< keep HotCounters
  /// For tests that compare emitted code: in place of the host's own features, and of a random number.
  std::optional<FeatureSet> host_features = {};
  std::optional<std::uint64_t> seed = {};
  /// Jumps to a block after which it gets its second form; 0: it has that at once. What the second form gains pays for
  /// its making only in code that runs very often, and slots have misses and a footprint that the shared table has not.
  /// Compilers ran fastest with 20,000 to 400,000.
  std::uint32_t heat = 50'000;
};

struct TranslatorWorkspace;

/// Same-ISA translator: guest x86 to the host's x86-64, see docs/jit.md.
class Engine final : public interp::CodeEngine, private HostNames {
 public:
  /// Fails where the host cannot map executable memory or lets no program set its GS base.
  static Result<std::unique_ptr<Engine>> create(interp::Core& core, std::size_t code_bytes) {
    return create(core, EngineOptions{.code_bytes = code_bytes});
  }
  static Result<std::unique_ptr<Engine>> create(interp::Core& core, const EngineOptions& options = {});
  ~Engine() override;

  Flow run(interp::Core& core) override;
  bool code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) override;
  void space_changed(bool keep_global) override;
  void page_flushed(std::uint64_t linear) override;
  bool write_access_dropped(const std::uint8_t* host_page) override;
  void code_decoded(const std::uint8_t* host_page) override;

  /// For tests: each run() ends with the block it began with.
  void set_single_block(bool on) { single_block_ = on; }

  const Statistics& statistics() const { return statistics_; }
  /// Zero unless asked for.
  const HotCounters& hot_counters() const { return context_.hot; }
  std::size_t code_bytes() const { return cache_.bytes_used(); }
  /// From any thread.
  Phase phase() const { return phase_.load(std::memory_order_relaxed); }
  /// Has `observer` (null: nobody) told of what is translated from now on.
  void observe(CodeObserver* observer);
  /// For tests and measurements: translates what is at CS:RIP, if it was not, and runs nothing. False: there is nothing
  /// that can be translated.
  bool translate();
  /// The same: everything translated is forgotten.
  void forget_all() { empty_cache(); }
  /// For tests: the operand of the instruction at this host address is one that wanders from now on.
  void set_wandering(const std::uint8_t* code) { wandering_.insert(code); }

 private:
  friend class Translator;
  Engine(interp::Core& core, std::unique_ptr<CodeMemory> memory, const EngineOptions& options);

  // HostNames (names.cpp)
  std::string code_name(const std::uint8_t* running) const override;
  std::string field_name(std::int64_t distance) const override;
  struct CodePiece {  ///< written addresses
    const std::uint8_t* begin;
    const std::uint8_t* end;
  };
  void tell_observer(std::uint64_t linear, std::span<const std::uint8_t> guest, CodePiece hot, CodePiece cold) const;
  void empty_cache();
  Leave leave_reason(bool fault) const;

  /// Addresses (written ones) of the shared pieces of code.
  struct Stubs {
    std::uint8_t* enter = nullptr;
    std::uint8_t* exit_spilled = nullptr;  ///< leaves translated code; the flags are in Context::flags
    std::uint8_t* exit_host = nullptr;     ///< the same; the flags are the host's
    std::uint8_t* save_vectors = nullptr;
    std::uint8_t* load_vectors = nullptr;   ///< called
    std::uint8_t* need_vectors = nullptr;   ///< jumped to: R11 is the running address to go on at
    std::uint8_t* save_x87 = nullptr;       ///< called
    std::uint8_t* need_x87 = nullptr;       ///< as need_vectors; the flags are spilled
    std::uint8_t* slot_miss[3][2] = {};     ///< R10 linear address, R11 MemorySite; by MMU index, load or store
    std::uint8_t* tlb_miss[3][2] = {};      ///< the same, of a site that looks up by page number
    std::uint8_t* slow = nullptr;           ///< R11 MemorySite: the interpreter does the instruction
    std::uint8_t* missed = nullptr;         ///< R11 MemorySite, Context::missed: the page tables are asked first
    std::uint8_t* retry[3][2] = {};         ///< the access of Context::missed once more
    std::uint8_t* heated_inside = nullptr;  ///< R11 MemorySite, flags spilled: its block is to have its second form
    std::uint8_t* heated = nullptr;         ///< R11 Block, flags spilled: it is to have its second form
    std::uint8_t* call_spilled = nullptr;   ///< R11 CallSite
    std::uint8_t* call_host = nullptr;
    std::uint8_t* link_host = nullptr;  ///< R11 LinkSite
    std::uint8_t* look_up = nullptr;    ///< R10 guest address, flags spilled: without the jump table
    std::uint8_t* indirect[3] = {};     ///< R10 guest address, flags spilled; by MMU index
    std::uint8_t* base_return = nullptr;
    /// Called: REP MOVS (0) or REP STOS (1) upward, of 1 << n bytes an element, with the flags free. If RCX is not zero
    /// then, R11 is a StringStop.
    std::uint8_t* string[3][2][4] = {};
  };
  /// Why the code of REP MOVS and REP STOS did not go on.
  enum StringStop : std::uint8_t {
    kLoadMissed,   ///< the table for loads has no page for the address in R10
    kStoreMissed,  ///< nor the one for stores
    kNotByCode,    ///< an element lies across pages, or attention is demanded
  };
  using Glue = const std::uint8_t* (*)(interp::Core*, void*);

  template <class T>
  std::int32_t gs(const T& member) const {
    return static_cast<std::int32_t>(reinterpret_cast<const std::uint8_t*>(&member) -
                                     reinterpret_cast<const std::uint8_t*>(&core_));
  }
  void make_stubs();
  void emit_spill_flags(Emitter& e) const;
  void emit_restore_flags(Emitter& e, unsigned spare) const;
  void emit_save_registers(Emitter& e) const;
  void emit_load_registers(Emitter& e) const;
  std::uint8_t* emit_trampoline(Emitter& e, Glue glue);
  void emit_jump_to(Emitter& e, std::size_t field) const;
  void emit_beside(Emitter& e, unsigned mmu_index);
  void emit_misses(Emitter& e, unsigned mmu_index, bool write, const std::uint8_t* wander);
  void emit_indirect(Emitter& e, unsigned table, const std::uint8_t* slow) const;
  void emit_string(Emitter& e, unsigned mmu_index, bool fill, unsigned shift);

  static const std::uint8_t* glue_call(interp::Core* core, void* site);
  static const std::uint8_t* glue_slow(interp::Core* core, void* site);
  static const std::uint8_t* glue_missed(interp::Core* core, void* site);
  static const std::uint8_t* glue_heated(interp::Core* core, void* block);
  static const std::uint8_t* glue_heated_inside(interp::Core* core, void* site);
  static const std::uint8_t* glue_need_x87(interp::Core* core, void* resume);
  static const std::uint8_t* glue_wander(interp::Core* core, void* site);
  static const std::uint8_t* glue_link(interp::Core* core, void* site);
  static const std::uint8_t* glue_indirect(interp::Core* core, void* site);

  /// What a handler did is done: where to go on. `resume` is the next instruction's code;
  /// null if that is of another mode.
  const std::uint8_t* after_instruction(Flow flow, unsigned length, const std::uint8_t* resume);
  /// The code for the current CS:RIP, or the exit.
  const std::uint8_t* dispatch();
  /// Translated code may run on from the current CS:RIP, and begins with nothing checked.
  bool may_go_on();
  /// The same for who wants to remember the block; null: go to `exit`.
  Block* next_block(bool& global, const std::uint8_t*& exit);
  /// Where to enter a block while the flags are in the context; null: there is no room for it.
  const std::uint8_t* spilled_entry(Block& block);
  /// The same, for a jump table: counts, if the block is in its first form.
  const std::uint8_t* counted_spilled_entry(Block& block);
  /// Where a link's jump goes.
  const std::uint8_t* linked_entry(const LinkSite& site, Block& block);
  /// `counted`, made if it is not: counts a jump, and goes on to `entry`. `flags_live`: they are the host's, and stay.
  const std::uint8_t* counting(CodePlace& counted, const Block& block, const std::uint8_t* entry, bool flags_live);
  void give_second_form(const std::uint8_t* code, std::uint32_t key);
  /// Makes anew the block of a check for several operands that fails too often.
  void note_failed_group(MemorySite& site);
  /// The block, in the current page, is translated again when it is next wanted.
  void make_anew(const std::uint8_t* code, std::uint32_t key);
  const std::uint8_t* leave(Flow flow);
  /// Added to the guest addresses on the return stack, so that a RET in another mode does not take them for its own.
  std::int32_t return_mark(std::uint32_t key) const;
  /// Null: the interpreter is to go on (or, with fault_ set, an exception). The page's global bit goes to `global`.
  Block* find_block(bool& fault, bool& global);
  /// The same for who enters the block.
  Block* find_entered(bool& fault, bool& global);
  /// Whether the page behind the current one is what the block, which reaches into it, was made of. `fault`: it cannot
  /// be fetched from. `global` stays only if that page is global too.
  bool second_page_follows(const Block& block, bool& fault, bool& global);
  bool must_leave() const;
  bool translatable() const;
  std::uint32_t key() const;
  /// No x87 exception can come of an instruction.
  bool x87_masked() const { return (core_.s.x87.control & 0x3F) == 0x3F && !(core_.s.x87.status & 0x80); }
  void unpack_x87();
  void pack_x87();
  void take_state();  ///< from translated code's form to CpuState's
  void give_state();
  void reset_jumps(bool keep_global);
  /// The same for jumps to one page of 1 << shift bytes.
  void reset_jumps_to(unsigned shift, std::uint64_t number);
  void empty_jump_table(unsigned table);
  void reset_slots(bool keep_global);
  /// Puts every slot of either kind and of that privilege out of use whose {linear page, host page} `drops` says so of.
  template <class Drops>
  bool empty_slots(unsigned mmu_index, SlotMark mark, Drops&& drops);
  /// Calls `each` for the DataSlots of that kind in use whose tag it is (others had it once).
  template <class Each>
  void slots_tagged(const std::uint16_t (&tags)[kDataSlots], unsigned mmu_index, bool write, std::uint64_t page_number,
                    Each&& each);
  /// The store of context_.missed went to a page with code, and met none.
  void note_beside(mem::RamRegion& ram, std::uint64_t page_offset);
  void forget_beside();
  void make_empty(DataSlot& slot, SlotMark mark) const;
  void make_empty(TlbSlot& slot, SlotMark mark) const;
  DataSlot* slot_of(const MemorySite& site) {
    return site.slot ? reinterpret_cast<DataSlot*>(reinterpret_cast<std::uint8_t*>(&core_) + site.slot) : nullptr;
  }
  /// Running address; null: none.
  const std::uint8_t* after(const MemorySite& site) const {
    return site.after ? cache_.running_at(site.after) : nullptr;
  }
  /// For a new memory operand of that privilege; slots are shared in turn.
  DataSlot& next_slot(unsigned mmu_index, bool write);
  std::uint32_t& next_heat();
  /// A jump table leads to this address now.
  void note_jump_target(unsigned table, std::uint64_t linear) {
    jump_table_used_[table] = true;
    jump_pages_[table].set(jump_page(linear >> 12));
  }
  static constexpr std::size_t kJumpPages = std::size_t{1} << 14;
  static std::size_t jump_page(std::uint64_t page_number) { return (page_number ^ page_number >> 14) % kJumpPages; }
  /// What leads to a block that crosses must be reset when a mapping changes, and it must be one that is translated.
  static bool may_link(const Block& block, bool is_reset) { return !block.crosses || (block.second_page && is_reset); }

  interp::Core& core_;
  Context& context_;
  CodeCache cache_;
  std::vector<FormPlan> plans_;
  Stubs stubs_;
  Statistics statistics_;
  const std::uint32_t heat_;  ///< EngineOptions::heat
  const bool count_;
  std::atomic<Phase> phase_{Phase::run_loop};
  CodeObserver* observer_ = nullptr;
  Flow result_ = Flow::next;
  bool code_dropped_ = false;     ///< since translated code was entered
  bool slots_changed_ = false;    ///< pages were taken from slots that running code may rely on
  bool mapping_changed_ = false;  ///< the running code may lie elsewhere now
  /// Of code that runs or is on the return stack: the page that it was entered in, and whether some was reached in a
  /// way that is not listed.
  std::uint64_t entered_page_ = 0;
  bool other_ways_ = false;
  bool flush_wanted_ = false;
  bool counting_jump_ = true;  ///< of the ways to a block: this one counts
  bool single_block_ = false;
  unsigned next_slot_[3][2] = {};
  unsigned next_heat_ = 0;
  bool beside_used_ = false;               ///< some Context::beside is in use
  mem::RamRegion* beside_ram_ = nullptr;   ///< region of the page where a store met no code, since it was last asked
  std::uint64_t beside_offset_ = 0;        ///< the page's offset in it
  std::uint64_t invalid_page_ = 0;         ///< matches no address that a guest would guess
  std::unique_ptr<std::uint8_t[]> dummy_;  ///< what an empty slot would reach
  std::uintptr_t dummy_page_ = 0;
  PlaceSet hot_;        ///< first bytes of blocks that have run often
  PlaceSet ungrouped_;  ///< those whose access is often apart from its neighbours
  PlaceSet wandering_;  ///< guest instructions that access many pages
  std::unique_ptr<TranslatorWorkspace> workspace_;
  std::uint32_t jump_keys_[3] = {};
  bool jump_table_used_[3] = {true, true, true};  ///< some entry may lead to code
  FarLinks far_links_;                            ///< filled links to other pages
  FarLinks far_links_local_;                      ///< those of them that hold in this address space only
  /// Marks of the pages that a jump table leads to. Another page with the same mark costs time only.
  std::bitset<kJumpPages> jump_pages_[3];
  bool host_bmi2_ = false;
  bool host_avx_ = false;
};

}  // namespace husk::cpu::jit
