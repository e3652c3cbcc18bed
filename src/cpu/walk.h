// husk: the page-table walk as a pure function of CPU state and memory
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include "cpu/model.h"
#include "cpu/state.h"

namespace husk::cpu {

/// What the CPU model says about page tables.
struct WalkLimits {
  unsigned physical_bits = 40;
  bool gigabyte_pages = true;
  bool pse36 = true;
  /// Nested paging (APM vol. 2, 15.25): what is translated is a physical address, which no rule makes canonical, and
  /// the PDPTEs of PAE paging are read where they are used.
  bool nested = false;
};
WalkLimits walk_limits(const CpuModel& model);

/// The access whose rights are checked.
struct WalkAccess {
  bool write = false;
  bool execute = false;
  bool user = false;
  bool implicit = false;  ///< supervisor access to a descriptor table or TSS: SMAP holds whatever RFLAGS.AC says
};

enum class WalkOutcome : std::uint8_t {
  ok,
  non_canonical,  ///< #GP or #SS; no entry was read
  not_present,    ///< the last entry has P=0
  reserved,       ///< the last entry has a reserved bit set
  denied,         ///< present, but the access is not allowed
};

/// One paging-structure entry that the walk read.
struct WalkEntry {
  std::uint8_t level = 0;      ///< 5 PML5E, 4 PML4E, 3 PDPTE, 2 PDE, 1 PTE
  std::uint8_t bytes = 8;      ///< 4 or 8
  bool in_register = false;    ///< a PDPTE of PAE paging, held in the CPU since CR3 was written
  std::uint64_t address = 0;   ///< guest-physical address of the entry
  std::uint64_t value = 0;
};

struct PageWalk {
  WalkOutcome outcome = WalkOutcome::ok;
  std::uint32_t error = 0;  ///< page-fault error code (SDM vol. 3, 4.7) if the outcome is a page fault
  std::uint64_t gpa = 0;    ///< if ok or denied
  std::uint64_t page_size = 4096;
  bool user = false;        ///< U/S of all levels
  bool writable = false;    ///< R/W of all levels
  bool no_execute = false;
  bool global = false;
  bool dirty = false;
  bool write_allowed = false;  ///< the same privilege could write, D aside
  std::uint8_t key = 0;        ///< protection key
  std::uint8_t count = 0;      ///< entries read
  std::array<WalkEntry, 5> entries;
};

/// Reads a little-endian paging-structure entry of 4 or 8 bytes.
using WalkReader = std::function<std::uint64_t(std::uint64_t gpa, unsigned bytes)>;

/// Translates `linear` as `state` would, changing nothing: accessed and dirty bits stay as they are. Paging off gives
/// the address itself with no entries.
PageWalk walk_pages(const CpuState& state, const WalkLimits& limits, std::uint64_t linear, const WalkAccess& access,
                    const WalkReader& reader);

/// True if `linear` is canonical for the paging mode of `state` (always true outside long mode).
bool is_canonical(const CpuState& state, std::uint64_t linear);

/// Reserved bits of a PDPTE of PAE paging (SDM vol. 3, 4.4.1): one of them set in a present entry is #GP(0) on CR3 load.
std::uint64_t pdpte_reserved(const WalkLimits& limits);

/// Name of an entry by level: "PML4E".
const char* walk_level_name(unsigned level);

}  // namespace husk::cpu
