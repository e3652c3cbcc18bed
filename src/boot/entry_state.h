// husk: the processor state that a loader asks for, free of any accelerator
#pragma once

#include <cstdint>

namespace husk::boot {

enum class EntryMode : std::uint8_t { real, protected32, long64 };

/// A segment register with its hidden part. `limit` is in bytes, the granularity already applied.
struct EntrySegment {
  std::uint16_t selector = 0;
  std::uint64_t base = 0;
  std::uint32_t limit = 0xFFFF;
  /// Access rights in the layout of SDM vol. 3, 25.4.1 (the upper descriptor word): type 0-3, S 4, DPL 5-6, P 7, AVL
  /// 12, L 13, D/B 14, G 15.
  std::uint16_t attributes = 0;

  friend bool operator==(const EntrySegment&, const EntrySegment&) = default;
};

inline constexpr std::uint16_t kRealSegment = 0x0093;    ///< present, read/write, accessed (SDM vol. 3, table 10-1)
inline constexpr std::uint16_t kCode64Segment = 0xA09B;  ///< P, code, execute/read, accessed, L, G
inline constexpr std::uint16_t kCode32Segment = 0xC09B;  ///< P, code, execute/read, accessed, D, G
inline constexpr std::uint16_t kDataSegment = 0xC093;    ///< P, data, read/write, accessed, B, G
inline constexpr std::uint16_t kBusyTss = 0x008B;        ///< P, busy 32-bit (or 64-bit) TSS
inline constexpr std::uint16_t kLdtSegment = 0x0082;     ///< P, LDT

struct EntryTable {
  std::uint64_t base = 0;
  std::uint16_t limit = 0xFFFF;
  friend bool operator==(const EntryTable&, const EntryTable&) = default;
};

/// Everything of the boot processor that differs from its state after reset; what is not here keeps its reset value.
/// The default is that reset state (SDM vol. 3, table 10-1), except EDX, which the CPU model knows.
struct EntryState {
  EntryMode mode = EntryMode::real;
  std::uint64_t rip = 0xFFF0;
  std::uint64_t rflags = 0x2;
  std::uint64_t rax = 0, rbx = 0, rsi = 0, rdi = 0, rbp = 0, rsp = 0;

  EntrySegment cs{0xF000, 0xFFFF'0000, 0xFFFF, kRealSegment};
  EntrySegment ds{0, 0, 0xFFFF, kRealSegment};
  EntrySegment es = ds, fs = ds, gs = ds, ss = ds;
  EntrySegment ldtr{0, 0, 0xFFFF, kLdtSegment};
  EntrySegment tr{0, 0, 0xFFFF, kBusyTss};
  EntryTable gdt, idt;

  std::uint64_t cr0 = 0x6000'0010;  ///< CD, NW, ET
  std::uint64_t cr3 = 0, cr4 = 0;
  std::uint64_t efer = 0;

  /// As the processor enters its firmware.
  static EntryState reset() { return {}; }

  /// Flat 32-bit protected mode without paging, interrupts off. Selectors are those of a GDT at `gdt_base` with a null
  /// descriptor, then code at `code` and data at `data`.
  static EntryState flat32(std::uint64_t entry, EntryTable gdt_table, std::uint16_t code, std::uint16_t data) {
    EntryState state;
    state.mode = EntryMode::protected32;
    state.rip = entry;
    state.cs = {code, 0, 0xFFFF'FFFF, kCode32Segment};
    state.ds = state.es = state.fs = state.gs = state.ss = {data, 0, 0xFFFF'FFFF, kDataSegment};
    state.tr = {0, 0, 0x67, kBusyTss};
    state.gdt = gdt_table;
    state.idt = {0, 0};
    state.cr0 = 0x11;  // PE, ET
    return state;
  }

  /// 64-bit mode with the page tables at `page_tables`, interrupts off.
  static EntryState flat64(std::uint64_t entry, EntryTable gdt_table, std::uint16_t code, std::uint16_t data,
                           std::uint64_t page_tables) {
    EntryState state = flat32(entry, gdt_table, code, data);
    state.mode = EntryMode::long64;
    state.cs.attributes = kCode64Segment;
    state.cr0 = 0x8000'0011;  // PG, PE, ET
    state.cr3 = page_tables;
    state.cr4 = 0x20;    // PAE
    state.efer = 0x500;  // LMA, LME
    return state;
  }
};

}  // namespace husk::boot
