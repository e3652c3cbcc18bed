// husk: one block of guest code into host code
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "cpu/insn.h"
#include "cpu/jit/engine.h"

namespace husk::cpu::jit {

/// Where the pieces of an instruction's bytes are.
struct Encoding {
  std::array<std::uint8_t, 14> prefixes{};  ///< 66, F2, F3, F0 in the order found
  unsigned prefix_count = 0;
  std::uint8_t rex = 0;
  std::array<std::uint8_t, 3> vex{};  ///< three-byte form
  std::array<std::uint8_t, 4> opcode{};
  unsigned opcode_count = 0;
  std::uint8_t modrm = 0;
  unsigned immediate_at = 0;  ///< the rest of the bytes
};

/// Translates one block; made anew for each.
class Translator {
 public:
  explicit Translator(Engine& engine);
  /// Translates from `start` (offset in the page at `page_offset` of `ram`) on. Null if there is no complete valid
  /// instruction: the interpreter is to try, for its exact faults.
  /// `fault`: the exception of an instruction whose second page cannot be fetched.
  Block* translate(mem::RamRegion& ram, std::uint64_t page_offset, unsigned start, std::uint32_t key, bool& fault);

 private:
  friend struct TranslatorWorkspace;
  static constexpr unsigned kMaxInsns = 64;
  /// A block runs on behind so many conditional jumps forward; fewer while nobody knows whether it is worth it.
  static constexpr unsigned kMostInnerJumps = 6;
  static constexpr unsigned kMostInnerJumpsAtFirst = 2;
  /// Misses of a memory operand's slot before it is looked up by page number instead.
  static constexpr std::uint16_t kPatience = 200;
  /// Sums of two displacements below it fit in 32 bits.
  static constexpr std::int64_t kFar = std::int64_t{1} << 30;
  /// Where the guest's flags are: in the host's, in the context, or nowhere (recipe_ makes them again).
  enum class Flags : std::uint8_t { host, spilled, gone };
  /// A memory access of an instruction. Those by the same base register that lie near each other make a group, whose
  /// first access checks for all.
  struct Access {
    static constexpr std::uint8_t kNoGroup = 0xFF;
    std::uint8_t base = kNoRegister;  ///< kRipBase: the page of the code; none: of another form, or of no kind
    bool write = false;
    std::uint8_t bytes = 0;
    std::int32_t disp = 0;
    std::uint8_t align = 1;  ///< that the instruction demands, unless it is known already
    std::uint8_t group = kNoGroup;
    bool leads = false;
    std::uint8_t number = kNoGroup;   ///< of the group that it leads, be there others or not
    std::int32_t offset = 0;          ///< from what the base register held at the group's first access
    std::uint8_t carried = kNoGroup;  ///< number of its check in `carried_`
  };
  /// A check that holds for many rounds of a loop: the operand moves by the same step in each.
  struct Carried {
    std::uint8_t base, index, scale;  ///< guest registers
    std::int32_t disp;                ///< with them as they are where a round begins: the first byte
    std::int32_t step;                ///< bytes from one round to the next
    unsigned bytes, align;
    MemorySite* site;  ///< once its check is emitted
  };
  /// What stays in a host register for all rounds: a slot's distance, or that and what never moves in the loop.
  struct Pin {
    const DataSlot* slot;
    std::uint8_t added;  ///< guest register, kRipBase: the page of the code, or none
    std::uint8_t host = HostAddress::kNone;
    unsigned uses = 1;
  };
  struct Group {
    std::int32_t low, high;  ///< offsets of the first byte and behind the last
    bool write;
    std::uint8_t align;  ///< of the first byte
    DataSlot* slot;      ///< once its check is emitted; null: the host address is in Context::group_hosts
    bool carried;        ///< by the rounds of a loop
  };
  struct Item {
    Insn insn;
    std::array<Access, 2> accesses;
    /// The instruction and more, read once: another CPU may write the guest's memory meanwhile, and what is emitted
    /// must be what was decoded.
    std::array<std::uint8_t, 15> bytes;
    std::uint16_t offset;
    bool call;              ///< by the interpreter's handler
    bool runs_on;           ///< a conditional jump with more of the block behind it
    std::uint16_t live_in;  ///< flags that the instruction or one after it may read
    std::uint16_t live_out;
  };
  /// General registers of one copied instruction that have no home in a host register.
  struct Scratch {
    std::uint8_t guest = 0xFF;
    std::uint8_t host = 0xFF;
    bool loaded = false, written = false;
  };

  // analysis (liveness.cpp)
  bool decode_block(unsigned start);
  /// The block goes on behind the instruction, a conditional jump.
  bool may_run_on(const Item& item) const;
  /// The page's bytes from `at` on, as far as they go.
  void copy_bytes(std::array<std::uint8_t, 15>& bytes, unsigned at) const;
  /// The instruction at `start`, which reaches into the next page. False: its fetch faults.
  bool decode_crossing(unsigned start);
  void find_live_flags();
  /// Makes flags again that an instruction set, from registers that hold what they held then. R11 is used.
  struct Recipe {
    enum class Kind : std::uint8_t {
      none,
      again,  ///< the instruction once more, a comparison
      of_result,
      add_immediate,
      subtract_immediate,
      add_register,
      subtract_register
    };
    Kind kind = Kind::none;
    bool wide = false;
    std::uint8_t result = 0, other = kNoRegister;  ///< guest registers
    std::int32_t by = 0;
    std::int32_t moved = 0;       ///< by stack instructions since, of RSP
    std::uint16_t flags = 0;      ///< those that it makes
    std::uint32_t registers = 0;  ///< guest registers that it reads
    const Item* item = nullptr;
  };
  struct FlagUse {
    std::uint16_t read, killed;
  };
  FlagUse flag_use(const Insn& insn, bool call) const;
  /// Flags that code from `offset` of this page on may read before it overwrites them.
  std::uint16_t flags_wanted(std::int64_t offset);
  struct LookAhead;
  /// Of those in `unknown`.
  std::uint16_t flags_wanted(std::int64_t offset, std::uint16_t unknown, LookAhead& look);
  bool handled_by_call(const Insn& insn) const;
  bool ends_block(const Item& item) const;
  bool high_byte_conflict(const Insn& insn, const FormPlan& plan) const;

  // analysis (groups.cpp)
  void find_groups();
  void find_accesses(Item& item) const;
  /// But for RSP where stack_step() tells.
  std::uint32_t registers_written(const Insn& insn) const;
  /// What pushing or popping adds to RSP.
  std::int32_t stack_step(Way way) const;
  struct Step {
    unsigned reg;
    std::int64_t by;
    bool wide;  ///< the register's 64 bits, else 32
  };
  /// What the instruction adds to a general register, if that is all it does to it.
  static std::optional<Step> constant_step(const Insn& insn);
  bool must_be_aligned(const Insn& insn) const;

  // analysis (loops.cpp)
  void find_loop();
  bool is_loop();
  void carry(Item& item, const std::array<std::int64_t, 16>& before);

  // emission
  void emit(const Item& item);
  void emit_call(const Item& item);
  void emit_crossing();
  void emit_count(unsigned first);
  void emit_copy(const Item& item);
  /// LEA that is one for the host too.
  bool is_plain_lea(const Insn& insn) const;
  void emit_stack_and_data(const Item& item, const FormPlan& plan);
  void emit_push(const Item& item, const FormPlan& plan);
  void emit_pop(const Item& item, const FormPlan& plan);
  void emit_leave(const Item& item);
  void emit_divide(const Item& item, bool is_signed);
  void emit_jcc(const Item& item);
  void emit_loop(const Item& item);
  /// The way back of a loop whose operands are carried: rounds without their checks, as many as keep to their pages.
  void emit_rounds(unsigned condition, std::uint8_t* not_taken, std::int64_t target);
  /// How many more rounds the operand allows, into R11, and the least of all into R10. Answers where to go if none.
  void emit_rounds_allowed(const Carried& carried, std::uint8_t* (&fails)[2]);
  HostAddress emit_carried(const Item& item, const Pin& wanted);
  /// What could stay in a register for the operand of a round, whose check is done.
  std::optional<Pin> pin_for(const Item& item) const;
  /// Nothing in a round needs R11 (or, besides what it points to its operand with, R10).
  bool leaves_spares_alone() const;
  void emit_pins();
  void emit_near_call(const Item& item, bool indirect);
  void emit_jump_indirect(const Item& item);
  void emit_return(const Item& item);
  void emit_interrupt_flag(const Item& item, bool set);
  void emit_string(const Item& item);
  /// The end of the block, to code at `target` (offset from the page's start; may lie in another page).
  void emit_exit(std::int64_t target, std::uint16_t live);
  /// `looked_up`: the jump holds only as long as the mapping does, though the target lies in the same page.
  void emit_link(std::int64_t target, bool call, bool looked_up = false);
  /// A link to `target`, and out of line the code that asks for it.
  LinkSite& new_link(std::int64_t target);
  void keep_patches_off_entry();
  /// The same for a conditional jump forward in the page.
  void emit_link_if(unsigned condition, std::int64_t target);
  void emit_attention_check(std::int64_t target, std::uint16_t live);
  /// Out of line: leaves translated code, to go on at `target` later.
  void emit_cold_exit(std::int64_t target);
  /// Where an indirect jump or call goes, into R10.
  void emit_target(const Item& item);
  /// #GP for R10 not canonical is `slow`'s to raise (in 48 bits: with more, the interpreter looks again).
  static void emit_canonical_check(Emitter& e, const std::uint8_t* slow);

  // memory
  /// Linear address of the operand of `bytes` into R10; R11 is used. Outside 64-bit mode the flags must be free if the
  /// segment is FS or GS and there is more than one byte.
  void emit_address(const Item& item, unsigned bytes);
  /// Adds the base of FS or GS to the offset in R10: the second half of emit_address().
  void emit_segment_base(const Item& item, unsigned bytes);
  /// Where in the host's memory an access of the instruction is: R10, and perhaps the host's register of the base. R11
  /// is used, and the flags where a check is needed.
  HostAddress emit_operand(const Item& item, unsigned which, unsigned bytes, bool write);
  void emit_sum(Emitter& e, unsigned to, unsigned base, std::int32_t disp) const;
  /// The base's register can be named by the access itself, and no sum with it is cut to 32 bits.
  bool stays_in_register(const Access& access) const;
  /// In this form of the block, operands of the instruction have slots.
  bool has_slot(const Item& item) const;
  /// Adds the access, at `offset` from what the base held at the group's first, unless they fit in no common span.
  bool join(Access& access, Access& first, std::int64_t offset);
  bool may_lead(const Item& item) const;
  void lead(Access& access);
  /// Of an access, open until close_sites(). It has no slot, and demands no alignment.
  MemorySite& new_memory_site(const Item& item, unsigned bytes, bool write);
  void place_site(MemorySite& site, const Item& item) const;
  CallSite& new_call_site(const Item& item);
  /// Has the access of `bytes` at `linear` go to the host's memory, or to the interpreter. The flags must be free, R11
  /// is used. If `linear` is R10, R10 becomes the host address; if it is a base and a displacement, R10 becomes what is
  /// to be added to them. `leader`: what follows in the block relies on the check. Answers the slot that holds the page
  /// from here on, if one does.
  DataSlot* emit_check(const Item& item, const HostAddress& linear, unsigned bytes, bool write, unsigned align = 1,
                       const Access* leader = nullptr, std::int32_t beyond = 0);
  /// Code for the site is complete: the interpreter's result goes on here.
  void close_sites();
  /// The same where the instruction ends the block: the interpreter does all of it.
  void abandon_sites();
  std::uint8_t* cold_slow(const Item& item);

  // flags (flags.cpp)
  /// The host's flags may be overwritten from here on.
  void free_flags(std::uint16_t live);
  /// The same for who needs the guest's in the context.
  void spill_flags(std::uint16_t live);
  /// Out of line, on a way to somewhere that needs them there. R11 is used.
  void spill_flags_cold(std::uint16_t live);
  void want_flags();
  Recipe recipe_of(const Item& item) const;
  void emit_recipe(Emitter& e);
  /// Before the instruction is emitted: gives up the recipe if its registers change.
  void keep_recipe(const Item& item);
  void stack_moved(std::int32_t by) {
    if (recipe_.result == kRsp) recipe_.moved += by;
  }
  /// Goes on out of line if what `load` (an opcode) finds in the field is not zero. R11 is used; the flags stay.
  void emit_cold_unless_zero(std::uint32_t load, std::int32_t field);
  void emit_vectors_resident(std::uint16_t live);
  void emit_x87_resident(std::uint16_t live);

  // registers
  bool homeless(unsigned guest) const { return guest == kR10 || guest == kR11 || guest == kR15; }
  static unsigned home(unsigned guest) { return guest == kRsp ? unsigned{kHostR15} : guest; }
  std::int32_t gpr_gs(unsigned guest) const { return e_.gs(core_.s.gpr[guest]); }
  /// The guest register's value in a host register: its home, or `spare`.
  unsigned value_of(unsigned guest, unsigned spare);
  /// The same of what an access is relative to.
  unsigned base_of(const Access& access, unsigned spare);
  Encoding parse(const std::uint8_t* bytes, const FormPlan& plan) const;
  void emit_encoded(Emitter& e, const std::uint8_t* bytes, const Insn& insn, const FormPlan& plan, unsigned reg,
                    unsigned rm, const HostAddress* memory, unsigned vvvv);
  void emit_rotate(unsigned reg, unsigned count);
  /// The instruction's register operand, which it only reads, may as well be read where the guest's state has it.
  bool may_read_from_state(const std::uint8_t* bytes, const FormPlan& plan) const;

  Engine& e_;
  interp::Core& core_;
  Emitter hot_, cold_;
  const std::uint8_t* entry_ = nullptr;  ///< where the block's code begins
  const std::uint8_t* page_ = nullptr;   ///< host address of the guest page
  CodeSize code_size_ = CodeSize::bits64;
  bool wide_ = true;  ///< 64-bit code
  std::uint32_t key_ = 0;
  std::int32_t return_mark_ = 0;
  /// In a mark of the return stack: the code behind the call reads flags.
  static constexpr std::int32_t kReadsFlags = 1 << 30;
  unsigned word_ = 8;  ///< bytes of a stack slot
  std::array<Item, kMaxInsns>& items_;
  unsigned inner_jumps_ = 0;
  unsigned count_ = 0;
  bool crossing_ = false;                            ///< an instruction that reaches into the next page follows
  const interp::Core::ExecEntry* second_ = nullptr;  ///< the next page, if the block is such an instruction
  unsigned end_ = 0;                                 ///< offset behind the last instruction
  std::uint64_t looked_at_ = 0;                      ///< granules outside the block that decided which flags live
  Flags flags_ = Flags::host;
  Recipe recipe_;
  unsigned held_ = kNoRegister;  ///< guest register whose value R11 has
  bool x87_known_ = false;
  bool vectors_known_ = false;  ///< resident for sure
  std::array<MemorySite*, 4> open_sites_{};
  unsigned open_count_ = 0;
  std::array<Group, kMaxGroups> groups_;
  unsigned group_count_ = 0;
  static constexpr unsigned kMaxCarried = 16;
  std::array<Carried, kMaxCarried> carried_;
  unsigned carried_count_ = 0;
  /// By guest register: what a round of the loop adds to it, where that is all that happens to it.
  std::array<std::optional<std::int64_t>, 16> round_step_;
  unsigned counting_ = kNoRegister;  ///< a register with another value in each round
  bool counting_wide_ = true;
  std::int32_t counting_step_ = 0;
  bool in_rounds_ = false;  ///< emitting a round without the checks of what is carried
  std::array<Pin, 2> pins_;
  unsigned pin_count_ = 0;
  bool hot_form_ = false;  ///< the block has run often: memory operands get slots of their own
  bool counts_ = false;    ///< the block is to count itself, at its first memory operand
  bool counted_ = false;   ///< it does
};

/// What is filled anew for each block: to make it anew would take longer than most blocks.
struct TranslatorWorkspace {
  std::array<Translator::Item, Translator::kMaxInsns> items;
};

inline Translator::Translator(Engine& engine) : e_(engine), core_(engine.core_), items_(engine.workspace_->items) {}

}  // namespace husk::cpu::jit
