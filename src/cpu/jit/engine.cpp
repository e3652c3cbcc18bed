// husk: the JIT of one vCPU: what translated code asks for
#include "cpu/jit/engine.h"

#include <sys/auxv.h>
#include <sys/random.h>

#include <array>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "base/bits.h"
#include "base/check.h"
#include "cpu/interp/tag_search.h"
#include "cpu/jit/translator.h"

namespace husk::cpu::jit {

using interp::Core;

namespace {
/// LAHF's layout in AH, SETO's in AL.
std::uint64_t spilled_form(std::uint64_t rflags) {
  return ((rflags & (kSF | kZF | kAF | kPF | kCF)) | 2) << 8 | ((rflags & kOF) ? 1 : 0);
}
std::uint64_t rflags_form(std::uint64_t spilled) {
  return ((spilled >> 8) & (kSF | kZF | kAF | kPF | kCF)) | ((spilled & 1) ? std::uint64_t{kOF} : 0);
}
/// DataSlots of loads and stores and of each privilege are apart: what one may reach is not for the others.
struct SlotShare {
  unsigned first, count;
};
constexpr SlotShare kSlotShares[3][2] = {{{0, 8 << 10}, {8 << 10, 4 << 10}},
                                         {{12 << 10, 16 << 10}, {28 << 10, 8 << 10}},
                                         {{36 << 10, 2 << 10}, {38 << 10, 1 << 10}}};
static_assert(kSlotShares[2][1].first + kSlotShares[2][1].count == kDataSlots);
static_assert(kSlotShares[1][0].count + kSlotShares[1][1].count + 2 * kTlbEntries <= kFilled);
constexpr std::uint32_t kAllMasked = 0x1F80;  ///< of MXCSR
}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(Core& core, const EngineOptions& options) {
  constexpr unsigned long kHwcap2Fsgsbase = 2;
  if (!(getauxval(AT_HWCAP2) & kHwcap2Fsgsbase))
    return fail("the JIT needs WRGSBASE, which this kernel or CPU does not let programs use; run with accel=interp");
  return std::unique_ptr<Engine>(new Engine(core, HUSK_TRY(CodeMemory::create(options.code_bytes)), options));
}

Engine::Engine(Core& core, std::unique_ptr<CodeMemory> memory, const EngineOptions& options)
    : core_(core),
      context_(*new(core.engine_area_.bytes) Context{}),
      cache_(std::move(memory)),
      heat_(options.heat),
      count_(options.count),
      dummy_(std::make_unique<std::uint8_t[]>(2 * mem::kPageSize)),
      workspace_(std::make_unique<TranslatorWorkspace>()) {
  static_assert(sizeof(Context) <= Core::kEngineBytes);
  const FeatureSet host = options.host_features ? *options.host_features : host_features();
  statistics_.calls_of.resize(forms().size());
  statistics_.slow_of.resize(forms().size());
  plans_ = make_plans(core.model, host);
  host_bmi2_ = host[static_cast<std::size_t>(Feature::bmi2)];
  host_avx_ = host[static_cast<std::size_t>(Feature::avx)];
  // A non-canonical page that the guest cannot know: see emit_check() of the translator.
  std::uint64_t random = 0;
  HUSK_CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
  if (options.seed) random = *options.seed;
  invalid_page_ = (random & 0x003F'FFFF'FFFF'E000) | 0x4000'0000'0000'0000;
  context_.self = &core;
  context_.code = cache_.running_at(0);
  dummy_page_ = align_up(reinterpret_cast<std::uintptr_t>(dummy_.get()), mem::kPageSize);
  for (DataSlot& slot : context_.slots) make_empty(slot, kEmpty);
  for (auto& tables : context_.tlb)
    for (auto& table : tables)
      for (TlbSlot& slot : table) make_empty(slot, kEmpty);
  beside_used_ = true;
  forget_beside();
  make_stubs();
  cache_.set_link_stub(stubs_.link_host);
  std::array<std::uint8_t, 32> restore_flags;
  Emitter e{restore_flags.data()};
  emit_restore_flags(e, kHostR11);
  cache_.set_restore_flags({restore_flags.data(), e.at});
  cache_.keep_all();
  reset_jumps(false);
}

Engine::~Engine() { core_.set_engine(nullptr); }

// linear + addend, or the host page, lies in dummy_, should a guest ever hit upon the page.
void Engine::make_empty(DataSlot& slot, SlotMark mark) const {
  slot.page = invalid_page_ | mark;
  slot.addend = dummy_page_ - invalid_page_;
}
void Engine::make_empty(TlbSlot& slot, SlotMark mark) const {
  slot.page = invalid_page_ | mark;
  slot.host = dummy_page_;
}

template <class Drops>
bool Engine::empty_slots(unsigned mmu_index, SlotMark mark, Drops&& drops) {
  bool any = false;
  const std::int32_t tlb = gs(context_.tlb);
  for (unsigned i = 0; i < context_.filled_bytes[mmu_index] / 4; ++i) {
    const std::uint32_t distance = context_.filled[mmu_index][i];
    std::uint8_t* const at = reinterpret_cast<std::uint8_t*>(&core_) + distance;
    if (static_cast<std::int32_t>(distance) < tlb) {
      DataSlot& slot = *reinterpret_cast<DataSlot*>(at);
      if (!drops(slot.page, slot.page + slot.addend)) continue;
      make_empty(slot, mark);
    } else {
      TlbSlot& slot = *reinterpret_cast<TlbSlot*>(at);
      if (!drops(slot.page, slot.host)) continue;
      make_empty(slot, mark);
    }
    any = true;
  }
  return any;
}

template <class Each>
void Engine::slots_tagged(const std::uint16_t (&tags)[kDataSlots], unsigned mmu_index, bool write,
                          std::uint64_t page_number, Each&& each) {
  const auto [first, count] = kSlotShares[mmu_index][write];
  const unsigned used = std::min(count, align_up(next_slot_[mmu_index][write], 64u));
  interp::each_equal({tags + first, used}, static_cast<std::uint16_t>(page_number),
                     [&](std::size_t i) { each(context_.slots[first + i]); });
}

void Engine::forget_beside() {
  if (!beside_used_) return;
  beside_used_ = false;
  for (auto& pages : context_.beside)
    for (BesidePage& beside : pages) beside.page = invalid_page_;
}

void Engine::note_beside(mem::RamRegion& ram, std::uint64_t page_offset) {
  const std::uint64_t linear = std::exchange(context_.missed, 0);
  const std::uint64_t page = align_down(linear, mem::kPageSize);
  const unsigned mmu_index = core_.mmu_index_;
  const std::uint8_t* const host = ram.data() + page_offset;
  const Core::TlbEntry& entry = core_.tlb_[mmu_index][Core::tlb_index(linear)];
  if (entry.read_tag != (page | core_.pcid_) || entry.write_tag != (page ^ Core::kOnlyCodeForbids) ||
      entry.addend + page != reinterpret_cast<std::uintptr_t>(host) || !core_.sole_code_holder(ram, page_offset))
    return;
  constexpr std::uint64_t kWrites = 256;
  context_.beside[mmu_index][(page >> 12) % kBesidePages] = {
      page, entry.addend, cache_.granules(host) | core_.decoded_granules(host), kWrites};
  beside_used_ = true;
}

void Engine::code_decoded(const std::uint8_t*) { forget_beside(); }

void Engine::reset_slots(bool keep_global) {
  slots_changed_ = true;
  forget_beside();
  for (const unsigned mmu_index : {Core::kMmuUser, Core::kMmuSupervisor, Core::kMmuSupervisorAc}) {
    if (mmu_index == Core::kMmuSupervisor) {
      if (keep_global && !context_.local_supervisor) continue;
      context_.local_supervisor = 0;
    }
    empty_slots(mmu_index, kEmpty, [](std::uint64_t, std::uint64_t) { return true; });
    context_.filled_bytes[mmu_index] = 0;
  }
}

DataSlot& Engine::next_slot(unsigned mmu_index, bool write) {
  const SlotShare& share = kSlotShares[mmu_index][write];
  return context_.slots[share.first + next_slot_[mmu_index][write]++ % share.count];
}

std::uint32_t& Engine::next_heat() {
  std::uint32_t& heat = context_.heat[next_heat_++ % kHeatCounters];
  heat = heat_;
  return heat;
}

void Engine::reset_jumps(bool keep_global) {
  mapping_changed_ = true;
  far_links_local_.unlink_all(cache_);
  empty_jump_table(Core::kMmuUser);
  if (keep_global) return;
  far_links_.unlink_all(cache_);
  for (const unsigned table : {Core::kMmuSupervisor, Core::kMmuSupervisorAc}) empty_jump_table(table);
}

void Engine::reset_jumps_to(unsigned shift, std::uint64_t number) {
  // What leads to a block that crosses into the page leads to the page before.
  const std::uint64_t first = number == 0 ? 0 : (number << (shift - 12)) - 1, last = ((number + 1) << (shift - 12)) - 1;
  bool any = other_ways_ || (entered_page_ >= first && entered_page_ <= last);
  for (FarLinks* links : {&far_links_, &far_links_local_}) any |= links->unlink_pages(cache_, first, last);
  for (unsigned table = 0; table < Core::kMmuCount; ++table) {
    const auto& pages = jump_pages_[table];
    if (shift == 12 ? !pages.test(jump_page(first)) && !pages.test(jump_page(last)) : pages.none()) continue;
    for (JumpEntry& entry : context_.jumps[table])
      if (entry.rip >> 12 >= first && entry.rip >> 12 <= last) {
        entry = {invalid_page_, nullptr};
        any = true;
      }
  }
  // Code of a page that nothing led to has not called anything either.
  mapping_changed_ |= any;
}

void Engine::empty_jump_table(unsigned table) {
  if (!std::exchange(jump_table_used_[table], false)) return;
  jump_pages_[table].reset();
  std::fill(std::begin(context_.jumps[table]), std::end(context_.jumps[table]), JumpEntry{invalid_page_, nullptr});
}

void Engine::space_changed(bool keep_global) {
  ++statistics_.spaces;
  reset_slots(keep_global);
  reset_jumps(keep_global);
}

void Engine::page_flushed(std::uint64_t linear) {
  ++statistics_.pages;
  slots_changed_ = true;
  // Pieces of a large page go together, as in Core::flush_tlb_page().
  const unsigned shift = core_.huge_seen_[Core::huge_index(linear)]     ? 30
                         : core_.large_seen_[Core::large_index(linear)] ? 22
                                                                        : 12;
  const std::uint64_t number = linear >> shift;
  forget_beside();
  for (unsigned mmu_index = 0; mmu_index < Core::kMmuCount; ++mmu_index) {
    if (shift != 12) {
      empty_slots(mmu_index, kEmptyListed, [=](std::uint64_t page, std::uint64_t) { return page >> shift == number; });
      continue;
    }
    for (const bool write : {false, true}) {
      slots_tagged(context_.linear_tags, mmu_index, write, number, [&](DataSlot& slot) {
        if (slot.page >> 12 == number) make_empty(slot, kEmptyListed);
      });
      TlbSlot& entry = context_.tlb[mmu_index][write][number % kTlbEntries];
      if (entry.page >> 12 == number) make_empty(entry, kEmptyListed);
    }
  }
  reset_jumps_to(shift, number);
}

bool Engine::write_access_dropped(const std::uint8_t* host_page) {
  if (!host_page) {
    reset_slots(false);
    return true;
  }
  const auto host = reinterpret_cast<std::uintptr_t>(host_page);
  bool any = beside_used_;
  slots_changed_ = true;
  forget_beside();
  for (unsigned mmu_index = 0; mmu_index < Core::kMmuCount; ++mmu_index) {
    slots_tagged(context_.host_tags, mmu_index, true, host >> 12, [&](DataSlot& slot) {
      if (slot.page + slot.addend != host) return;
      make_empty(slot, kEmptyListed);
      any = true;
    });
    auto& table = context_.tlb[mmu_index][1];
    interp::each_equal(context_.tlb_host_tags[mmu_index], static_cast<std::uint16_t>(host >> 12), [&](std::size_t i) {
      if (table[i].host != host) return;
      make_empty(table[i], kEmptyListed);
      any = true;
    });
  }
  return any;
}

bool Engine::code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
  unsigned dropped = 0;
  const bool none_left = cache_.written(ram, offset, length, dropped);
  if (dropped) {
    statistics_.dropped += dropped;
    code_dropped_ = true;
    // Without room for the jumps to their successors the dropped blocks must not be entered again.
    if (cache_.full()) flush_wanted_ = true;
  } else if (!none_left) {
    beside_ram_ = &ram;
    beside_offset_ = align_down(offset, mem::kPageSize);
  }
  return none_left;
}

std::uint32_t Engine::key() const {
  std::uint32_t key = core_.block_key_ | static_cast<std::uint32_t>(core_.mmu_index_) << 9;
  key |= static_cast<std::uint32_t>((core_.s.mxcsr & kAllMasked) == kAllMasked) << 11;
  key |= static_cast<std::uint32_t>(x87_masked()) << 14;
  // So that code stops where a segment register was loaded with something that translated code does not know of.
  key |= static_cast<std::uint32_t>(translatable()) << 15;
  // 32-bit code: FS and GS that reach everywhere.
  key |= static_cast<std::uint32_t>(core_.fast_[kFs].write_end > 0xFFFFFFFF) << 12;
  key |= static_cast<std::uint32_t>(core_.fast_[kGs].write_end > 0xFFFFFFFF) << 13;
  return key;
}

bool Engine::translatable() const {
  if (core_.watch_active_) return false;
  if (core_.code64()) return core_.fast_[kDs].read_end != 0;  // 0: alignment checks are on
  if (core_.code_size_ != CodeSize::bits32 || core_.stack_size_ != 4) return false;
  for (const unsigned seg : {kEs, kSs, kDs})
    if (core_.fast_[seg].base != 0 || core_.fast_[seg].read_end <= 0xFFFFFFFF ||
        core_.fast_[seg].write_end <= 0xFFFFFFFF)
      return false;
  return core_.s.seg[kCs].base == 0 && core_.s.seg[kCs].limit == 0xFFFFFFFF && core_.fast_[kCs].read_end > 0xFFFFFFFF;
}

bool Engine::must_leave() const {
  return core_.attention_.load(std::memory_order_acquire) != 0 || core_.s.activity != Activity::running ||
         (core_.interrupt_waiting_ && (core_.s.rflags & kIF)) || (core_.s.nmi_pending && !core_.s.nmi_blocked) ||
         core_.careful() || code_dropped_ || flush_wanted_;
}

void Engine::take_state() {
  if (context_.x87_saved) {
    context_.x87_saved = 0;
    unpack_x87();
  }
  core_.s.rflags = (core_.s.rflags & ~std::uint64_t{kArithmeticFlags}) | rflags_form(context_.flags);
}
// FNSAVE's image: control, status and tag word in 4 bytes each, 16 bytes of pointers, ST(0) to ST(7) in 10 bytes each.
// The pointers are not followed: with all exceptions masked they say nothing of use.
void Engine::unpack_x87() {
  const std::uint8_t* const image = context_.x87;
  X87State& x = core_.s.x87;
  x.control = load_le<std::uint16_t>(image);
  x.status = load_le<std::uint16_t>(image + 4);
  x.tag = load_le<std::uint16_t>(image + 8);
  const unsigned top = x.status >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    const std::uint8_t* const st = image + 28 + 10 * i;
    x.registers[(top + i) & 7] = {load_le<std::uint64_t>(st), load_le<std::uint16_t>(st + 8)};
  }
}

void Engine::pack_x87() {
  std::uint8_t* const image = context_.x87;
  const X87State& x = core_.s.x87;
  std::memset(image, 0, 28);
  store_le(image, x.control);
  store_le(image + 4, x.status);
  store_le(image + 8, x.tag);
  const unsigned top = x.status >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    std::uint8_t* const st = image + 28 + 10 * i;
    const F80Bits& r = x.registers[(top + i) & 7];
    store_le(st, r.significand);
    store_le(st + 8, r.sign_exponent);
  }
}

void Engine::give_state() {
  if (context_.reload_x87) pack_x87();
  context_.flags = spilled_form(core_.s.rflags);
}

Block* Engine::find_block(bool& fault, bool& global) {
  fault = false;
  if (!translatable()) return nullptr;
  const std::uint64_t linear = core_.code64() ? core_.s.rip : static_cast<std::uint32_t>(core_.s.rip);
  const Core::ExecEntry* entry = nullptr;
  if (!core_.fetch_page(linear, entry)) {
    fault = true;
    return nullptr;
  }
  if (!entry) return nullptr;
  global = entry->global;
  const std::uint8_t* const code = entry->ram->data() + entry->offset + (linear & 0xFFF);
  context_.page_base = linear & ~std::uint64_t{0xFFF};
  const std::uint32_t block_key = key();
  // Code looks its table up without asking for the mode: what lies there is for this one only.
  if (std::uint32_t& table_key = jump_keys_[core_.mmu_index_]; table_key != block_key) {
    table_key = block_key;
    empty_jump_table(core_.mmu_index_);
  }
  Block* block = cache_.find(code, block_key);
  if (block && block->crosses && !second_page_follows(*block, fault, global)) {
    if (fault) return nullptr;
    cache_.forget(code, block_key);
    block = nullptr;
  }
  if (block) return block;
  if (cache_.full()) {
    flush_wanted_ = true;
    return nullptr;
  }
  forget_beside();
  const PhaseMark phase(phase_, Phase::translation);
  const auto start = std::chrono::steady_clock::now();
  block =
      Translator(*this).translate(*entry->ram, entry->offset, static_cast<unsigned>(linear & 0xFFF), block_key, fault);
  statistics_.translation_ns += static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  if (block && block->crosses) (void)second_page_follows(*block, fault, global);
  return block;
}

Block* Engine::find_entered(bool& fault, bool& global) {
  Block* const block = find_block(fault, global);
  if (!block || !block->heat || --block->heat) return block;
  give_second_form(block->code, block->key);
  return find_block(fault, global);
}

bool Engine::second_page_follows(const Block& block, bool& fault, bool& global) {
  const std::uint64_t next = context_.page_base + mem::kPageSize;
  const Core::ExecEntry* second = nullptr;
  fault = !core_.fetch_page(core_.code64() ? next : static_cast<std::uint32_t>(next), second);
  if (fault) return false;
  global &= second && second->global;
  return (second ? second->ram->data() + second->offset : nullptr) == block.second_page;
}

void Engine::empty_cache() {
  flush_wanted_ = false;
  far_links_.clear();
  far_links_local_.clear();
  wandering_.clear();
  ungrouped_.clear();
  hot_.clear();
  cache_.clear();
  reset_jumps(false);
  ++statistics_.flushes;
}

bool Engine::translate() {
  bool fault = false, global = false;
  return find_block(fault, global) != nullptr;
}

Flow Engine::run(Core& core) {
  if (flush_wanted_) empty_cache();
  code_dropped_ = mapping_changed_ = slots_changed_ = false;
  bool fault = false, global = false;
  Block* const block = find_entered(fault, global);
  if (fault) return Flow::fault;
  if (!block) {
    const std::uint64_t before = core.instructions_;
    const Flow flow = core.run_block();
    ++statistics_.interpreted_blocks;
    statistics_.interpreted_instructions += core.instructions_ - before;
    return flow;
  }
  entered_page_ = context_.page_base >> 12;
  other_ways_ = false;
  ++statistics_.entries;
  ++core.instructions_;
  result_ = Flow::next;
  core.leave_block_ = false;
  give_state();
  const auto enter = reinterpret_cast<void (*)(Core*, const std::uint8_t*)>(
      reinterpret_cast<std::uintptr_t>(cache_.running(stubs_.enter)));
  {
    const PhaseMark phase(phase_, Phase::translated_code);
    enter(&core, block->entry);
  }
  take_state();
  return result_;
}

const std::uint8_t* Engine::leave(Flow flow) {
  result_ = flow;
  ++statistics_.leaves[static_cast<std::size_t>(leave_reason(flow == Flow::fault))];
  context_.reload_vectors = context_.reload_x87 = 0;
  core_.leave_block_ = true;
  give_state();
  return cache_.running(stubs_.exit_spilled);
}

Leave Engine::leave_reason(bool fault) const {
  if (fault) return Leave::fault;
  if (core_.s.activity != Activity::running) return Leave::halted;
  if (core_.attention_.load(std::memory_order_relaxed) != 0 || core_.interrupt_waiting_) return Leave::event;
  if (core_.careful()) return Leave::stepping;
  if (flush_wanted_) return Leave::cache_full;
  return code_dropped_ ? Leave::code_dropped : Leave::not_translated;
}

std::int32_t Engine::return_mark(std::uint32_t key) const {
  const std::uint64_t mixed = (key ^ invalid_page_) * 0x9E3779B97F4A7C15;
  return static_cast<std::int32_t>(mixed >> 34);
}

bool Engine::may_go_on() {
  context_.reload_vectors = context_.reload_x87 = 0;
  // The callers on the return stack may lie elsewhere now.
  if (mapping_changed_) context_.stack_pointer = context_.return_stack;
  if (single_block_ || must_leave()) return false;
  core_.leave_block_ = mapping_changed_ = slots_changed_ = false;
  return true;
}

Block* Engine::next_block(bool& global, const std::uint8_t*& exit) {
  bool fault = false;
  Block* const block = find_entered(fault, global);
  if (block)
    give_state();
  else
    exit = leave(fault ? Flow::fault : Flow::next);
  return block;
}

const std::uint8_t* Engine::dispatch() {
  if (!may_go_on()) return leave(Flow::next);
  const std::uint64_t rip = core_.s.rip;
  const unsigned table = core_.mmu_index_;
  JumpEntry& entry = context_.jumps[table][jump_index(rip)];
  if (entry.rip == rip && jump_keys_[table] == key()) {
    context_.page_base = align_down(rip, mem::kPageSize);
    give_state();
    return entry.host;
  }
  bool global = false;
  const std::uint8_t* exit = nullptr;
  Block* const block = next_block(global, exit);
  if (!block) return exit;
  if (const std::uint8_t* host = nullptr;
      (core_.cpl_ != 0 || global) && may_link(*block, true) && (host = counted_spilled_entry(*block))) {
    entry = {rip, host};
    note_jump_target(table, rip);
  } else {
    other_ways_ = true;
  }
  return block->entry;
}

const std::uint8_t* Engine::spilled_entry(Block& block) {
  if (!block.wants_flags) return block.entry;
  if (!block.spilled_entry && !cache_.full()) {
    Emitter cold{cache_.cold()};
    block.spilled_entry = cache_.place(cold.at);
    emit_restore_flags(cold, kHostR11);
    cold.jmp(cache_.written(block.entry));
    cache_.use(cache_.hot(), cold.at);
  }
  return block.spilled_entry ? cache_.running_at(block.spilled_entry) : nullptr;
}

const std::uint8_t* Engine::counted_spilled_entry(Block& block) {
  const std::uint8_t* const entry = spilled_entry(block);
  if (!entry || !block.heat || block.counts) return entry;
  return counting(block.counted_spilled_entry, block, entry, false);
}

const std::uint8_t* Engine::linked_entry(const LinkSite& site, Block& block) {
  if (!site.counts || !block.heat || block.counts) return block.entry;
  return counting(block.counted_entry, block, block.entry, block.wants_flags);
}

const std::uint8_t* Engine::counting(CodePlace& counted, const Block& block, const std::uint8_t* entry,
                                     bool flags_live) {
  if (counted) return cache_.running_at(counted);
  if (cache_.full()) return entry;
  Emitter cold{cache_.cold()};
  const std::uint8_t* const written_entry = cache_.written(entry);
  counted = cache_.place(cold.at);
  const std::int32_t heat = gs(next_heat());
  if (flags_live) {
    cold.mov(kHostR11, kHostRcx);
    cold.load_gs(kHostRcx, heat, false);
    cold.lea(kHostRcx, {kHostRcx, HostAddress::kNone, 0, -1}, false);
    cold.store_gs(heat, kHostRcx, false);
    std::uint8_t* const heated = cold.jrcxz_short();
    cold.mov(kHostRcx, kHostR11);
    cold.jmp(written_entry);
    cold.bind_short(heated);
    cold.mov(kHostRcx, kHostR11);
    emit_spill_flags(cold);
  } else {
    cold.sub_gs_imm8(heat, 1);
    cold.jcc(kNotZero, written_entry);
  }
  cold.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&block));
  cold.jmp(stubs_.heated);
  cache_.use(cache_.hot(), cold.at);
  return cache_.running_at(counted);
}

const std::uint8_t* Engine::after_instruction(Flow flow, unsigned length, const std::uint8_t* resume) {
  if (flow == Flow::next) {
    core_.s.rip += length;
    if (!core_.code64()) core_.s.rip &= 0xFFFFFFFF;
  }
  if (flow == Flow::fault) return leave(Flow::fault);
  if (flow != Flow::next || !resume || mapping_changed_ || slots_changed_ || must_leave()) return dispatch();
  core_.leave_block_ = false;
  give_state();
  return resume;
}

const std::uint8_t* Engine::glue_call(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  const CallSite& site = *static_cast<const CallSite*>(site_pointer);
  const PhaseMark phase(self.phase_, Phase::instruction);
  ++self.statistics_.calls;
  ++self.statistics_.calls_of[site.insn.form];
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  const Flow flow = site.insn.handler(*core, site.insn);
  // Code for another mode must not go on here.
  const bool same = site.keeps_mode || site.key == self.key();
  return self.after_instruction(flow, site.insn.length, same ? site.resume : nullptr);
}

const std::uint8_t* Engine::glue_slow(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  MemorySite& site = *static_cast<MemorySite*>(site_pointer);
  const PhaseMark phase(self.phase_, Phase::instruction);
  ++self.statistics_.slow_accesses;
  // A page that was not in any TLB says nothing of how the operand moves.
  ++site.patience;
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  if (!site.crosses && !site.insn) {
    CallSite& decoded = self.cache_.new_call_site();
    std::array<std::uint8_t, 15> bytes;
    std::memcpy(bytes.data(), site.code(), site.length);
    // Another CPU may just have written something else there, of which this one has not heard yet.
    if (decode({bytes.data(), site.length}, core->code_size_, decoded.insn) == DecodeStatus::ok &&
        decoded.insn.length == site.length) {
      decoded.insn.handler = core->select_handler(decoded.insn);
      site.insn = &decoded.insn;
    }
  }
  // An instruction that reaches into the next page is fetched anew, whatever is mapped there now.
  if (!site.insn) {
    self.context_.missed = 0;
    return self.after_instruction(core->execute_uncached(), 0, site.crosses ? self.after(site) : nullptr);
  }
  ++core->instructions_;
  self.beside_ram_ = nullptr;
  ++self.statistics_.slow_of[site.insn->form];
  const Flow flow = site.insn->handler(*core, *site.insn);
  if (self.beside_ram_ && flow == Flow::next && self.context_.missed)
    self.note_beside(*self.beside_ram_, self.beside_offset_);
  if (site.leads) self.note_failed_group(site);
  self.context_.missed = 0;
  return self.after_instruction(flow, site.insn->length, self.after(site));
}

// The TLB misses far more often than anything else is amiss: its entry is made, and the access tried again.
const std::uint8_t* Engine::glue_missed(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  MemorySite& site = *static_cast<MemorySite*>(site_pointer);
  const PhaseMark phase(self.phase_, Phase::page_walk);
  const std::uint64_t linear = self.context_.missed;
  const interp::AccessKind kind = site.writes ? interp::AccessKind::write : interp::AccessKind::read;
  const Core::TlbEntry& entry = core->tlb_[core->mmu_index_][Core::tlb_index(linear)];
  const std::uint64_t tag = align_down(linear, mem::kPageSize) | core->pcid_;
  const bool hopeless = entry.read_tag == tag && (!site.writes || entry.write_tag != Core::kInvalidTag);
  if ((linear & 0xFFF) + site.last >= mem::kPageSize || (linear & site.align_mask) || hopeless ||
      !core->canonical(linear))
    return glue_slow(core, site_pointer);
  ++self.statistics_.misses;
  ++site.patience;
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  std::uint64_t gpa;
  if (!core->translate_cached(linear + site.own, kind, core->cpl_ == 3, gpa)) return self.leave(Flow::fault);
  if (entry.read_tag != tag || (site.write && entry.write_tag != tag)) return glue_slow(core, site_pointer);
  self.context_.missed_site = &site;
  self.give_state();
  return self.cache_.running(self.stubs_.retry[core->mmu_index_][site.write]);
}

const std::uint8_t* Engine::glue_heated(Core* core, void* block_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  const Block& block = *static_cast<const Block*>(block_pointer);
  self.take_state();
  core->s.rip = self.context_.page_base + (reinterpret_cast<std::uintptr_t>(block.code) & (mem::kPageSize - 1));
  if (!core->code64()) core->s.rip &= 0xFFFFFFFF;
  self.give_second_form(block.code, block.key);
  return self.dispatch();
}

const std::uint8_t* Engine::glue_heated_inside(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  const MemorySite& site = *static_cast<const MemorySite*>(site_pointer);
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  self.give_second_form(site.block_code(), site.key);
  return self.dispatch();
}

void Engine::give_second_form(const std::uint8_t* code, std::uint32_t key) {
  ++statistics_.heated;
  hot_.insert(code);
  make_anew(code, key);
}

void Engine::make_anew(const std::uint8_t* code, std::uint32_t key) {
  cache_.forget(code, key);
  const std::uint64_t rip = context_.page_base + (reinterpret_cast<std::uintptr_t>(code) & (mem::kPageSize - 1));
  if (JumpEntry& entry = context_.jumps[core_.mmu_index_][jump_index(rip)]; entry.rip == rip)
    entry = {invalid_page_, nullptr};
  // Without room for the jump to its successor the old code must not be entered again.
  if (cache_.full()) flush_wanted_ = true;
}

void Engine::note_failed_group(MemorySite& site) {
  const std::uint64_t linear = context_.missed;
  // A page that the interpreter has made known to the TLB will be found there the next time.
  const Core::TlbEntry& entry = core_.tlb_[core_.mmu_index_][Core::tlb_index(linear)];
  const bool crosses = (linear & 0xFFF) + site.last >= mem::kPageSize;
  const std::uint64_t tag = align_down(linear, mem::kPageSize) | core_.pcid_;
  const bool found = entry.read_tag == tag && entry.write_tag == tag;
  constexpr unsigned kTries = 8;
  if ((found && !crosses) || ++site.failures < kTries) return;
  ungrouped_.insert(site.code());
  make_anew(site.block_code(), site.key);
}

const std::uint8_t* Engine::glue_need_x87(Core* core, void* resume) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  self.take_state();
  self.context_.reload_x87 = 1;
  self.give_state();
  return static_cast<const std::uint8_t*>(resume);
}

const std::uint8_t* Engine::glue_wander(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  MemorySite& site = *static_cast<MemorySite*>(site_pointer);
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  // Its block is made anew, with the other form. What runs on from here is a block of its own until then.
  self.wandering_.insert(site.code());
  ++self.statistics_.wandering;
  self.make_anew(site.block_code(), site.key);
  return self.dispatch();
}

const std::uint8_t* Engine::glue_link(Core* core, void* site_pointer) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  LinkSite& site = *static_cast<LinkSite*>(site_pointer);
  const PhaseMark phase(self.phase_, Phase::look_up);
  self.take_state();
  core->s.rip = self.context_.page_base + site.offset;
  if (!core->code64()) core->s.rip &= 0xFFFFFFFF;
  bool global = false;
  const std::uint8_t* exit = nullptr;
  if (!self.may_go_on()) return self.leave(Flow::next);
  self.counting_jump_ = site.counts;
  Block* const block = self.next_block(global, exit);
  self.counting_jump_ = true;
  if (!block) return exit;
  ++self.statistics_.links;
  if (!self.may_link(*block, site.far)) {
    self.other_ways_ = true;
    return block->entry;
  }
  self.cache_.link(site, *block, self.linked_entry(site, *block));
  if (site.far) {
    const bool stays = global && core->cpl_ == 0;
    (stays ? self.far_links_ : self.far_links_local_).add(site, core->s.rip >> 12);
  }
  return block->entry;
}

const std::uint8_t* Engine::glue_indirect(Core* core, void*) {
  Engine& self = *static_cast<Engine*>(core->engine_);
  const PhaseMark phase(self.phase_, Phase::look_up);
  ++self.statistics_.lookups;
  self.take_state();
  core->s.rip = self.context_.jump_target;
  return self.dispatch();
}

}  // namespace husk::cpu::jit
