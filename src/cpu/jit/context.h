// husk: what translated code and the engine share, reached through the host's GS segment
#pragma once

#include <cstdint>

#include "cpu/insn.h"
#include "cpu/jit/statistics.h"

namespace husk::cpu::jit {

inline constexpr unsigned kDataSlots = 39 << 10;
inline constexpr unsigned kTlbBits = 10;
inline constexpr unsigned kTlbEntries = 1u << kTlbBits;
inline constexpr unsigned kJumpBits = 11;
inline constexpr unsigned kJumpEntries = 1u << kJumpBits;
/// Where jumps to `rip` are looked up. Targets near each other, as those of one program's dispatch, do not collide.
constexpr unsigned jump_index(std::uint64_t rip) {
  return (static_cast<std::uint32_t>(rip) >> kJumpBits ^ static_cast<std::uint32_t>(rip)) & (kJumpEntries - 1);
}

/// A translated page of one memory operand (or of a few that share the slot): linear ^ page is below the page's size
/// if the operand is in it, and linear + addend is its host address.
struct DataSlot {
  std::uint64_t page;
  std::uint64_t addend;
};

/// Most slots of both kinds that one privilege has.
inline constexpr unsigned kFilled = (24 << 10) + 2 * kTlbEntries;

/// The same for any operand of a privilege, found by page number: entry n holds a page whose number is n modulo
/// kTlbEntries. `host` is the page's host address.
struct TlbSlot {
  std::uint64_t page;
  std::uint64_t host;
};

/// Low bits of DataSlot::page and TlbSlot::page, which are 0 in a page's address.
enum SlotMark : std::uint64_t {
  kEmpty = 1,        ///< holds no page, and is not listed in Context::filled
  kEmptyListed = 2,  ///< holds no page
};

/// A page that holds code of this CPU and is written beside it: stores that meet none of the code need nobody's leave.
struct BesidePage {
  std::uint64_t page;      ///< linear address, or an invalid one
  std::uint64_t addend;    ///< host address minus linear address
  std::uint64_t granules;  ///< as mem::granules_of(): where code is
  std::uint64_t writes;    ///< left until the store is looked at again
};
inline constexpr unsigned kBesidePages = 16;

/// A guest address that was jumped to indirectly, and where its code is.
struct JumpEntry {
  std::uint64_t rip;
  const std::uint8_t* host;
};

inline constexpr unsigned kMaxGroups = 64;
/// More than most programs have blocks in use; those beyond share counters.
inline constexpr unsigned kHeatCounters = 64 << 10;

/// Lies inside the Core (Core::engine_area_).
struct Context {
  std::uint64_t flags;      ///< guest's arithmetic flags while they are not in the host's: AL = OF, AH as LAHF gives
  std::uint64_t page_base;  ///< linear address of the page that the running code lies in
  std::uint64_t rax, rcx, rdx;  ///< kept by stubs
  std::uint64_t value;          ///< kept across the memory checks of one instruction
  std::uint64_t borrowed;       ///< a host register lent to one instruction
  std::uint64_t last_round;     ///< what a loop's counting register holds when its operands are due for a look
  std::int32_t rounds_left;     ///< of the running loop, until looking at its operands is worth it
  std::uint64_t group_hosts[kMaxGroups];  ///< host address of the lowest byte of groups of operands that have no slot
  std::uint64_t jump_target;              ///< guest address for the indirect-branch stub
  const std::uint8_t* resume;             ///< where the stubs go on
  std::uint64_t host_rsp;
  std::uint64_t return_stack;        ///< host RSP when the return stack is empty
  std::uint64_t stack_pointer;       ///< host RSP of the code that called a stub, and where it goes on
  std::uint64_t return_stack_limit;  ///< below it the return stack is emptied
  void* self;                        ///< the Core
  const std::uint8_t* code;          ///< where translated code begins to run
  std::uint64_t missed;              ///< linear address of an access whose page no TLB has
  void* missed_site;                 ///< its MemorySite
  std::uint32_t host_mxcsr;
  std::uint8_t vectors_away = 1;  ///< 0: XMM/YMM and MXCSR of the guest are in the host's
  std::uint8_t reload_vectors;    ///< a stub is to make them resident before it goes on
  std::uint32_t filled_bytes[3];  ///< used of `filled`
  std::uint8_t local_supervisor;  ///< slots of the supervisor hold a page of this address space only
  std::uint8_t x87_resident;      ///< x87 state of the guest is in the host's
  std::uint8_t x87_saved;         ///< `x87` holds what CpuState is to get
  std::uint8_t reload_x87;        ///< as reload_vectors
  std::uint8_t x87[112];          ///< FNSAVE's image (SDM vol. 1, figure 8-9 and following)
  DataSlot slots[kDataSlots];
  TlbSlot tlb[3][2][kTlbEntries];  ///< by Core::MmuIndex, for loads and for stores
  /// For each slot in its order, of either kind: number modulo 2^16 of the linear page and (stores only) of the host
  /// page that it was last given, to find slots by.
  std::uint16_t linear_tags[kDataSlots];
  std::uint16_t host_tags[kDataSlots];
  std::uint16_t tlb_host_tags[3][kTlbEntries];  ///< of the tables for stores
  BesidePage beside[3][kBesidePages];           ///< by Core::MmuIndex and page number
  std::uint32_t filled[3][kFilled];  ///< slots of both kinds in use, by their distance from GS; by Core::MmuIndex
  JumpEntry jumps[3][kJumpEntries];  ///< by Core::MmuIndex
  HotCounters hot;
  std::uint32_t heat[kHeatCounters];  ///< jumps left to blocks in their first form
};

/// Where a piece of translated code is: its distance from Context::code. 0, where stubs are, stands for none.
using CodePlace = std::uint32_t;

/// A memory operand, for the stub that its fast path falls back on. Its layout is known to the stubs. There are
/// hundreds of thousands of them: their size matters.
struct MemorySite {
  CodePlace resume = 0;                ///< in the fast path, behind the check
  CodePlace checked = 0;               ///< where R10 holds the host address; none: others rely on the slot
  CodePlace after = 0;                 ///< behind the instruction, for when the interpreter did it
  std::uint32_t slot = 0;              ///< its DataSlot's distance from GS; 0: the operand is looked up by page number
  const std::uint8_t* page = nullptr;  ///< host address of the page that the instruction lies in
  const Insn* insn = nullptr;          ///< decoded, once it was needed
  std::uint32_t key = 0;               ///< of the block
  std::uint16_t offset = 0;            ///< of the instruction in its page
  std::uint16_t block = 0;             ///< of the block's first
  std::uint16_t room = 0;              ///< a page's size less the operand's
  std::uint16_t last = 0;              ///< bytes - 1
  std::uint16_t own = 0;               ///< where in the span of a check for several operands its own begins
  std::uint16_t patience = 0;          ///< misses until another form is tried
  std::uint8_t align_mask = 0;         ///< alignment that the instruction demands, less 1
  std::uint8_t length = 0;             ///< of the instruction in bytes
  std::uint8_t failures = 0;           ///< of a check for several operands, for which nothing can be done
  bool crosses = false;                ///< the instruction reaches into the next page
  bool adds_base = false;              ///< what R10 holds at `checked` is the distance from the linear address
  bool leads = false;                  ///< the check is for several operands
  bool write = false;                  ///< the check is for writing
  bool writes = false;                 ///< the access itself does, whatever the check is for

  const std::uint8_t* code() const { return page + offset; }
  const std::uint8_t* block_code() const { return page + block; }
};

struct Block;

/// A jump to code known by its place relative to the current page.
struct LinkSite {
  static constexpr std::uint64_t kNotListed = ~std::uint64_t{0};
  CodePlace place = 0;  ///< of the jump's rel32; or, of one to another page, of the 8-byte target that it goes through
  CodePlace unlinked = 0;                  ///< of the code that asks for the link
  std::uint16_t offset = 0;                ///< of the target in the page at page_base
  bool far = false;                        ///< through memory
  bool counts = false;                     ///< jumps to a block in its first form are counted here
  std::uint64_t listed_page = kNotListed;  ///< number of the page that FarLinks has it under
  Block* target = nullptr;
  LinkSite* next = nullptr;  ///< of the target's incoming links
};

}  // namespace husk::cpu::jit
