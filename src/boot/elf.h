// husk: a bounds-checked view of an ELF file: segments, notes, symbols
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "boot/memory_layout.h"
#include "boot/symbols.h"

namespace husk::boot {

/// A PT_LOAD segment; its file bytes are inside the file, its memory range does not wrap.
struct ElfSegment {
  Gpa paddr = 0;
  std::uint64_t vaddr = 0;
  std::uint64_t memory_size = 0;
  std::span<const std::uint8_t> data;
  std::uint32_t flags = 0;
  /// Read-only and from file offset 0: the linker's copy of the ELF headers, which nothing needs in memory.
  bool holds_headers = false;
};

/// The bytes must outlive the view. ELF32 and ELF64, little-endian.
class ElfFile {
 public:
  /// Refuses, by name, what is no ELF, big-endian, of another machine than x86, of a type that cannot be loaded at its
  /// own address, truncated, or with overlapping segments.
  static Result<ElfFile> parse(std::span<const std::uint8_t> file);

  bool is_64() const { return is_64_; }
  std::uint64_t entry() const { return entry_; }
  const std::vector<ElfSegment>& segments() const { return segments_; }

  /// Where the entry point is in memory: a virtual address inside an executable segment becomes its physical one, as
  /// GRUB and QEMU do it.
  std::uint64_t physical_entry() const;

  /// The descriptor of the first note with this owner (without NUL) and type.
  std::optional<std::span<const std::uint8_t>> note(std::string_view owner, std::uint32_t type) const;

  /// Functions and objects of .symtab; empty if the file is stripped. Damaged tables give what is readable of them.
  SymbolTable symbols() const;

  /// Copies the segments to their physical addresses and zeroes the rest of each. Each must be RAM of `map`, clear of
  /// `forbidden`. Returns the ranges written. An image linked to 1 MiB often has its headers in a segment just below,
  /// in the ROMs' area; that one is left out.
  Result<std::vector<GpaRange>> load(mem::GuestMemory& memory, std::span<const E820Entry> map,
                                     std::span<const GpaRange> forbidden) const;

 private:
  std::span<const std::uint8_t> file_;
  bool is_64_ = false;
  std::uint64_t entry_ = 0;
  std::uint64_t section_offset_ = 0;
  std::uint32_t section_count_ = 0;
  std::vector<ElfSegment> segments_;
  struct NoteArea {
    std::span<const std::uint8_t> data;
    std::size_t alignment;
  };
  std::vector<NoteArea> notes_;
};

/// The name of an ELF machine number ("AArch64"), or "machine 0x123".
std::string elf_machine_name(std::uint16_t machine);

}  // namespace husk::boot
