// husk: the page-table walk, a template over how entries are read; included by walk.cpp and the interpreter only
#pragma once

#include "base/bits.h"
#include "cpu/walk.h"

namespace husk::cpu {

/// Bits of paging-structure entries (SDM vol. 3, tables 4-5 to 4-20).
enum PageEntry : std::uint64_t {
  kPageP = 1u << 0, kPageRw = 1u << 1, kPageUs = 1u << 2, kPageA = 1u << 5, kPageD = 1u << 6, kPagePs = 1u << 7,
  kPageG = 1u << 8, kPageXd = std::uint64_t{1} << 63,
};

enum class PagingMode : std::uint8_t { off, legacy, pae, level4, level5 };

template <class State>
PagingMode paging_mode(const State& state) {
  if (!(state.cr0 & kCr0Pg)) return PagingMode::off;
  if (!(state.cr4 & kCr4Pae)) return PagingMode::legacy;
  if (!(state.efer & kEferLma)) return PagingMode::pae;
  return (state.cr4 & kCr4La57) ? PagingMode::level5 : PagingMode::level4;
}

namespace walk_detail {

enum Error : std::uint32_t { kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16, kKey = 32 };

/// Rights of SDM vol. 3, 4.6.1 and 4.6.2 once the translation is known. Returns whether the access is allowed.
template <class State>
bool check_rights(const State& state, const WalkAccess& access, bool keys_on, PageWalk& walk) {
  const bool wp = state.cr0 & kCr0Wp;
  bool allowed = true;
  walk.write_allowed = access.user || wp ? walk.writable : true;
  if (access.user) {
    allowed = walk.user;
  } else if (walk.user) {
    if (access.execute) allowed = !(state.cr4 & kCr4Smep);
    else if (state.cr4 & kCr4Smap) allowed = !access.implicit && (state.rflags & kAC);
  }
  if (access.execute && walk.no_execute) allowed = false;
  if (access.write && !walk.write_allowed) allowed = false;
  if (keys_on && walk.user && !access.execute) {
    const std::uint32_t rights = (state.pkru >> (2 * walk.key)) & 3;
    const bool write_disabled = (rights & 2) && (access.user || wp);
    if (write_disabled) walk.write_allowed = false;
    if ((rights & 1) || (access.write && write_disabled)) {
      walk.error |= kKey;
      allowed = false;
    }
  }
  return allowed;
}

}  // namespace walk_detail

/// `State` is CpuState, or what of it has a meaning for nested page tables.
template <class State, class Reader>
PageWalk walk_pages_with(const State& state, const WalkLimits& limits, std::uint64_t linear, const WalkAccess& access,
                         Reader&& read) {
  PageWalk walk;
  const PagingMode mode = paging_mode(state);
  if (mode == PagingMode::off) {
    walk.gpa = static_cast<std::uint32_t>(linear);
    walk.user = walk.writable = walk.dirty = walk.write_allowed = true;
    return walk;
  }
  const bool long_mode = mode >= PagingMode::level4;
  if (limits.nested) {
    if (linear >> (long_mode ? (mode == PagingMode::level5 ? 57 : 48) : 32)) {
      walk.outcome = WalkOutcome::not_present;
      walk.error = (access.write ? walk_detail::kWrite : 0u) | walk_detail::kUser;
      return walk;
    }
  } else if (!long_mode) {
    linear = static_cast<std::uint32_t>(linear);
  } else if (static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << (mode == PagingMode::level5 ? 7 : 16)) >>
                                        (mode == PagingMode::level5 ? 7 : 16)) != linear) {
    walk.outcome = WalkOutcome::non_canonical;
    return walk;
  }
  const bool nxe = (state.efer & kEferNxe) && mode != PagingMode::legacy;
  std::uint32_t error = (access.write ? walk_detail::kWrite : 0u) | (access.user ? walk_detail::kUser : 0u);
  // SDM vol. 3, 4.7: I/D is reported only where fetches can be restricted.
  if (access.execute && (nxe || (state.cr4 & kCr4Smep))) error |= walk_detail::kFetch;
  walk.error = error;
  walk.user = walk.writable = true;

  const bool wide = mode != PagingMode::legacy;
  const std::uint64_t address_mask = mask_of(limits.physical_bits) & ~std::uint64_t{0xFFF};
  // Long mode ignores bits 62:52; PAE paging reserves them.
  std::uint64_t reserved = 0;
  if (wide) {
    reserved = mask_of(52) & ~mask_of(limits.physical_bits);
    if (!long_mode) reserved |= mask_of(11, 52);
    if (!nxe) reserved |= kPageXd;
  }
  unsigned level = mode == PagingMode::level5 ? 5 : mode == PagingMode::level4 ? 4 : 2;
  std::uint64_t table = long_mode ? state.cr3 & address_mask : static_cast<std::uint32_t>(state.cr3) & ~std::uint32_t{0xFFF};
  if (mode == PagingMode::pae) {
    const unsigned index = static_cast<unsigned>(linear >> 30) & 3;
    const std::uint32_t address = (static_cast<std::uint32_t>(state.cr3) & ~std::uint32_t{0x1F}) + index * 8;
    const std::uint64_t value = limits.nested ? read(address, 8) : state.pdpte[index];
    walk.entries[walk.count++] = {3, 8, true, address, value};
    if (!(value & kPageP)) {
      walk.outcome = WalkOutcome::not_present;
      return walk;
    }
    if (limits.nested && (value & pdpte_reserved(limits))) {
      walk.outcome = WalkOutcome::reserved;
      walk.error = error | walk_detail::kPresent | walk_detail::kReserved;
      return walk;
    }
    table = value & address_mask;
  }
  const unsigned index_bits = wide ? 9 : 10;
  for (;; --level) {
    const unsigned shift = 12 + index_bits * (level - 1);
    const unsigned entry_bytes = wide ? 8 : 4;
    const std::uint64_t address = table + bits(linear, shift, index_bits) * entry_bytes;
    const std::uint64_t entry = read(address, entry_bytes);
    walk.entries[walk.count++] = {static_cast<std::uint8_t>(level), static_cast<std::uint8_t>(entry_bytes), false, address, entry};
    if (!(entry & kPageP)) {
      walk.outcome = WalkOutcome::not_present;
      return walk;
    }
    bool large = false;
    std::uint64_t here = reserved;
    if (level > 1 && (entry & kPagePs)) {
      if (!wide) {
        large = state.cr4 & kCr4Pse;
        if (large) {
          // PSE-36 (SDM vol. 3, table 4-4): bits 20:13 are address bits 39:32 as far as the CPU has them.
          const unsigned physical = limits.pse36 ? (limits.physical_bits < 40 ? limits.physical_bits : 40) : 32;
          here = mask_of(22) & ~mask_of(13 + physical - 32);
        }
      } else if (level == 2 || (level == 3 && limits.gigabyte_pages)) {
        large = true;
        here |= mask_of(shift - 13, 13);
      } else {
        here |= kPagePs;
      }
    }
    if (entry & here) {
      walk.outcome = WalkOutcome::reserved;
      walk.error = error | walk_detail::kPresent | walk_detail::kReserved;
      return walk;
    }
    walk.user &= (entry & kPageUs) != 0;
    walk.writable &= (entry & kPageRw) != 0;
    walk.no_execute |= nxe && (entry & kPageXd);
    if (level > 1 && !large) {
      table = entry & (wide ? address_mask : std::uint64_t{0xFFFFF000});
      continue;
    }
    const std::uint64_t offset_mask = mask_of(shift);
    std::uint64_t page = entry & (wide ? address_mask : std::uint64_t{0xFFFFF000});
    if (!wide && large) page = (entry & 0xFFC00000) | (bits(entry, 13, 8) << 32);
    walk.gpa = (page & ~offset_mask) | (linear & offset_mask);
    walk.page_size = offset_mask + 1;
    walk.global = (entry & kPageG) && (state.cr4 & kCr4Pge);
    walk.dirty = entry & kPageD;
    walk.key = static_cast<std::uint8_t>(bits(entry, 59, 4));
    break;
  }
  const bool keys_on = long_mode && (state.cr4 & kCr4Pke);
  if (!walk_detail::check_rights(state, access, keys_on, walk)) {
    walk.outcome = WalkOutcome::denied;
    walk.error |= walk_detail::kPresent;
  }
  return walk;
}

}  // namespace husk::cpu
