// husk: reading ELF files that may be damaged or hostile
#include "boot/elf.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::uint16_t kMachine386 = 3, kMachineX8664 = 62;
constexpr std::uint16_t kTypeExecutable = 2, kTypeShared = 3;
constexpr std::uint32_t kPtLoad = 1, kPtNote = 4;
constexpr std::uint32_t kShtSymtab = 2;
constexpr std::uint32_t kExecutable = 1, kReadable = 4;  // PF_X, PF_R
constexpr std::uint32_t kMostSymbols = 4u << 20;

std::unexpected<Error> bad_elf(std::string_view why) {
  return std::unexpected(Error{fmt::format("the ELF file is damaged: {}", why), "it may be truncated; get it again"});
}

struct ProgramHeader {
  std::uint32_t type, flags;
  std::uint64_t offset, vaddr, paddr, file_size, memory_size, alignment;
};
ProgramHeader read_program_header(const std::uint8_t* p, bool is_64) {
  if (is_64)
    return {load_le<std::uint32_t>(p),      load_le<std::uint32_t>(p + 4),  load_le<std::uint64_t>(p + 8),
            load_le<std::uint64_t>(p + 16), load_le<std::uint64_t>(p + 24), load_le<std::uint64_t>(p + 32),
            load_le<std::uint64_t>(p + 40), load_le<std::uint64_t>(p + 48)};
  return {load_le<std::uint32_t>(p),      load_le<std::uint32_t>(p + 24), load_le<std::uint32_t>(p + 4),
          load_le<std::uint32_t>(p + 8),  load_le<std::uint32_t>(p + 12), load_le<std::uint32_t>(p + 16),
          load_le<std::uint32_t>(p + 20), load_le<std::uint32_t>(p + 28)};
}

struct SectionHeader {
  std::uint32_t type, link;
  std::uint64_t offset, size;
};
SectionHeader read_section_header(const std::uint8_t* p, bool is_64) {
  if (is_64)
    return {load_le<std::uint32_t>(p + 4), load_le<std::uint32_t>(p + 40), load_le<std::uint64_t>(p + 24),
            load_le<std::uint64_t>(p + 32)};
  return {load_le<std::uint32_t>(p + 4), load_le<std::uint32_t>(p + 24), load_le<std::uint32_t>(p + 16),
          load_le<std::uint32_t>(p + 20)};
}

Status check_overlaps(const std::vector<ElfSegment>& segments) {
  std::vector<GpaRange> ranges;
  for (const ElfSegment& segment : segments) ranges.push_back({segment.paddr, segment.memory_size});
  std::ranges::sort(ranges, {}, &GpaRange::base);
  for (std::size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i - 1].overlaps(ranges[i])) return bad_elf(fmt::format("two segments overlap at {:#x}", ranges[i].base));
  return {};
}

bool left_out(const ElfSegment& segment) {
  return segment.holds_headers && segment.paddr >= kLowRamEnd && segment.paddr + segment.memory_size <= kHighRamBase;
}

}  // namespace

std::string elf_machine_name(std::uint16_t machine) {
  switch (machine) {
    case 2: return "SPARC";
    case 3: return "i386";
    case 8: return "MIPS";
    case 20: return "PowerPC";
    case 21: return "PowerPC64";
    case 22: return "S/390";
    case 40: return "ARM";
    case 43: return "SPARC V9";
    case 50: return "IA-64";
    case 62: return "x86-64";
    case 183: return "AArch64";
    case 243: return "RISC-V";
    case 258: return "LoongArch";
    default: return fmt::format("machine {:#x}", machine);
  }
}

Result<ElfFile> ElfFile::parse(Bytes file) {
  if (file.size() < 4 || load_be<std::uint32_t>(file.data()) != 0x7F454C46) return fail("this is no ELF file");
  if (file.size() < 52) return bad_elf("its header is incomplete");
  ElfFile elf;
  elf.file_ = file;
  const std::uint8_t* const p = file.data();
  if (p[5] == 2)
    return std::unexpected(Error{
        fmt::format("this ELF file is big-endian ({}), not for x86", elf_machine_name(load_be<std::uint16_t>(p + 18))),
        "give a kernel built for x86"});
  if ((p[4] != 1 && p[4] != 2) || p[5] != 1) return bad_elf("unknown class or byte order");
  elf.is_64_ = p[4] == 2;
  if (elf.is_64_ && file.size() < 64) return bad_elf("its header is incomplete");
  const auto type = load_le<std::uint16_t>(p + 16), machine = load_le<std::uint16_t>(p + 18);
  if (machine != kMachine386 && machine != kMachineX8664)
    return std::unexpected(Error{fmt::format("this ELF file is for {}, not for x86", elf_machine_name(machine)),
                                 "give a kernel built for x86"});
  if (type != kTypeExecutable && type != kTypeShared)
    return std::unexpected(
        Error{fmt::format("this ELF file is of type {} (an object file or core dump), no executable", type),
              "link it to a fixed address"});
  elf.entry_ = elf.is_64_ ? load_le<std::uint64_t>(p + 24) : load_le<std::uint32_t>(p + 24);
  const std::uint64_t offset = elf.is_64_ ? load_le<std::uint64_t>(p + 32) : load_le<std::uint32_t>(p + 28);
  elf.section_offset_ = elf.is_64_ ? load_le<std::uint64_t>(p + 40) : load_le<std::uint32_t>(p + 32);
  const std::uint8_t* const counts = p + (elf.is_64_ ? 54 : 42);
  const std::size_t entry_size = load_le<std::uint16_t>(counts), count = load_le<std::uint16_t>(counts + 2);
  elf.section_count_ = load_le<std::uint16_t>(counts + 6);
  if (load_le<std::uint16_t>(counts + 4) != (elf.is_64_ ? 64 : 40)) elf.section_count_ = 0;
  if (count == 0) return bad_elf("it has no program headers");
  if (entry_size != (elf.is_64_ ? 56u : 32u)) return bad_elf("its program headers have an unknown size");
  if (!range_within(offset, count * entry_size, file.size())) return bad_elf("its program headers are cut off");

  for (std::size_t i = 0; i < count; ++i) {
    const ProgramHeader header = read_program_header(p + offset + i * entry_size, elf.is_64_);
    if (header.type != kPtLoad && header.type != kPtNote) continue;
    if (!range_within(header.offset, header.file_size, file.size()))
      return bad_elf(fmt::format("segment {} ends at byte {} of {}", i, header.offset + header.file_size, file.size()));
    const Bytes data = file.subspan(header.offset, header.file_size);
    if (header.type == kPtNote) {
      elf.notes_.push_back({data, header.alignment == 8 ? 8u : 4u});
      continue;
    }
    if (header.memory_size == 0) continue;
    if (header.file_size > header.memory_size)
      return bad_elf(fmt::format("segment {} is larger in the file than in memory", i));
    if (!checked_add(header.paddr, header.memory_size))
      return bad_elf(fmt::format("segment {} wraps around the end of memory", i));
    elf.segments_.push_back({header.paddr, header.vaddr, header.memory_size, data, header.flags,
                             header.offset == 0 && header.flags == kReadable});
  }
  if (elf.segments_.empty()) return bad_elf("it has nothing to load");
  HUSK_TRY(check_overlaps(elf.segments_));
  return elf;
}

std::uint64_t ElfFile::physical_entry() const {
  for (const ElfSegment& segment : segments_)
    if ((segment.flags & kExecutable) && entry_ >= segment.vaddr && entry_ - segment.vaddr < segment.memory_size)
      return entry_ - segment.vaddr + segment.paddr;
  return entry_;
}

std::optional<Bytes> ElfFile::note(std::string_view owner, std::uint32_t type) const {
  for (const NoteArea& area : notes_) {
    Bytes rest = area.data;
    while (rest.size() >= 12) {
      const std::uint64_t name_size = load_le<std::uint32_t>(rest.data());
      const std::uint64_t desc_size = load_le<std::uint32_t>(rest.data() + 4);
      const std::uint64_t desc_at = align_up<std::uint64_t>(12 + name_size, area.alignment);
      if (!range_within(12, name_size, rest.size()) || !range_within(desc_at, desc_size, rest.size())) break;
      const std::string_view name(reinterpret_cast<const char*>(rest.data() + 12), name_size);
      if (load_le<std::uint32_t>(rest.data() + 8) == type && name.substr(0, name.find('\0')) == owner)
        return rest.subspan(desc_at, desc_size);
      rest = rest.subspan(
          std::min<std::uint64_t>(align_up<std::uint64_t>(desc_at + desc_size, area.alignment), rest.size()));
    }
  }
  return std::nullopt;
}

SymbolTable ElfFile::symbols() const {
  SymbolTable table;
  const std::size_t header_size = is_64_ ? 64 : 40;
  if (!range_within(section_offset_, section_count_ * header_size, file_.size())) return table;
  const auto section = [&](std::uint32_t index) {
    return read_section_header(file_.data() + section_offset_ + index * header_size, is_64_);
  };
  for (std::uint32_t i = 0; i < section_count_; ++i) {
    const SectionHeader symtab = section(i);
    if (symtab.type != kShtSymtab || symtab.link >= section_count_) continue;
    const SectionHeader strtab = section(symtab.link);
    if (!range_within(symtab.offset, symtab.size, file_.size()) ||
        !range_within(strtab.offset, strtab.size, file_.size()))
      continue;
    const std::string_view names(reinterpret_cast<const char*>(file_.data() + strtab.offset), strtab.size);
    const std::size_t entry_size = is_64_ ? 24 : 16;
    const std::uint64_t count = std::min<std::uint64_t>(symtab.size / entry_size, kMostSymbols);
    for (std::uint64_t n = 0; n < count; ++n) {
      const std::uint8_t* const s = file_.data() + symtab.offset + n * entry_size;
      const std::uint8_t kind = s[is_64_ ? 4 : 12] & 0xF;
      if (kind > 2) continue;  // NOTYPE (assembler labels), OBJECT, FUNC
      const std::uint16_t defined_in = load_le<std::uint16_t>(s + (is_64_ ? 6 : 14));
      if (defined_in == 0 || defined_in >= 0xFF00) continue;
      const std::uint32_t name_at = load_le<std::uint32_t>(s);
      if (name_at >= names.size()) continue;
      // The window keeps a table of overlapping endless names from costing quadratic time.
      const std::string_view window = names.substr(name_at, 512);
      const std::uint64_t value = is_64_ ? load_le<std::uint64_t>(s + 8) : load_le<std::uint32_t>(s + 4);
      const std::uint64_t size = is_64_ ? load_le<std::uint64_t>(s + 16) : load_le<std::uint32_t>(s + 8);
      table.add(value, size, window.substr(0, window.find('\0')));
    }
    break;  // an ELF file has at most one .symtab
  }
  table.finish();
  return table;
}

Result<std::vector<GpaRange>> ElfFile::load(mem::GuestMemory& memory, std::span<const E820Entry> map,
                                            std::span<const GpaRange> forbidden) const {
  std::vector<GpaRange> loaded;
  for (const ElfSegment& segment : segments_) {
    const GpaRange range{segment.paddr, segment.memory_size};
    if (left_out(segment)) continue;
    if (!is_ram(map, range))
      return std::unexpected(Error{fmt::format("the image wants {} at guest-physical {:#x}, where there is no RAM",
                                               size_text(range.length), range.base),
                                   "give the guest more memory, or link the image to another address"});
    for (const GpaRange& other : forbidden)
      if (range.overlaps(other))
        return fail("the image wants {} at guest-physical {:#x}, which is needed for boot data at {:#x}",
                    size_text(range.length), range.base, other.base);
    loaded.push_back(range);
  }
  for (const ElfSegment& segment : segments_) {
    if (left_out(segment)) continue;
    HUSK_TRY(memory.write(segment.paddr, segment.data));
    // A guest that is restarted finds its old memory; what the file does not cover has to be zero all the same.
    HUSK_TRY(memory.fill(segment.paddr + segment.data.size(), 0, segment.memory_size - segment.data.size()));
  }
  return loaded;
}

}  // namespace husk::boot
