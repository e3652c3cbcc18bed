// husk: placing a Multiboot kernel, its modules and its information structure
#include "boot/multiboot.h"

#include <algorithm>

#include "base/bits.h"
#include "boot/elf.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::uint32_t kHeaderMagic = 0x1BADB002, kLoaderMagic = 0x2BADB002;
constexpr std::size_t kSearchLength = 8192;
// Flag 2 asks for a video mode, which a loader may fail to set: the guest must look whether it got one.
constexpr std::uint32_t kMandatory = 0xFFFF, kUnderstood = 0x7;
constexpr std::size_t kMostModules = 256;
// Of the information structure (section 3.3).
constexpr std::size_t kInfoSize = 120;
constexpr std::uint32_t kHasMemory = 1 << 0, kHasCommandLine = 1 << 2, kHasModules = 1 << 3, kHasMap = 1 << 6,
                        kHasLoaderName = 1 << 9;
constexpr char kLoaderName[] = "husk";

struct Image {
  Gpa entry = 0;
  std::vector<GpaRange> ranges;
  std::string format;
  std::uint64_t symbol_offset = 0;
};

std::unexpected<Error> bad_header(std::string why) {
  return std::unexpected(Error{"the Multiboot header " + std::move(why), "the image is damaged or badly linked"});
}

/// Section 3.1.3: the header's own address fields say what goes where.
Result<Image> load_kludge(mem::GuestMemory& memory, std::span<const E820Entry> map, Bytes file,
                          const MultibootHeader& h) {
  if (h.load_address > h.header_address) return bad_header("is to be loaded below the image's start");
  const std::uint32_t before = h.header_address - h.load_address;
  if (before > h.offset) return bad_header("asks for bytes before the start of the file");
  const std::uint32_t start = h.offset - before;
  std::uint64_t size = file.size() - start;
  if (h.load_end != 0) {
    if (h.load_end < h.load_address) return bad_header("ends the image before its start");
    size = h.load_end - h.load_address;
    if (size > file.size() - start)
      return std::unexpected(
          Error{fmt::format("the Multiboot image is truncated: it has {} bytes of {}", file.size(), start + size),
                "get the file again"});
  }
  std::uint64_t total = size;
  if (h.bss_end != 0) {
    if (h.bss_end < h.load_address + size) return bad_header("ends .bss before the image's end");
    total = h.bss_end - h.load_address;
  }
  if (total == 0) return bad_header("describes an empty image");
  const GpaRange range{h.load_address, total};
  if (!is_ram(map, range))
    return std::unexpected(Error{
        fmt::format("the image wants {} at guest-physical {:#x}, where there is no RAM", size_text(total), range.base),
        "give the guest more memory with -m"});
  if (h.entry < range.base || h.entry >= range.end()) return bad_header("has its entry point outside of the image");
  HUSK_TRY(memory.write(range.base, file.subspan(start, size)));
  HUSK_TRY(memory.fill(range.base + size, 0, total - size));
  return Image{h.entry, {range}, "a.out-kludge", 0};
}

Result<Image> load_elf32(mem::GuestMemory& memory, std::span<const E820Entry> map, Bytes file) {
  const ElfFile elf = HUSK_TRY(ElfFile::parse(file));
  if (elf.is_64())
    return std::unexpected(Error{"the Multiboot image is a 64-bit ELF file, which Multiboot 1 does not know",
                                 "make a 32-bit one of it: objcopy -O elf32-i386 IN OUT"});
  Image image{elf.physical_entry(), HUSK_TRY(elf.load(memory, map, {})), "ELF32",
              elf.segments().front().vaddr - elf.segments().front().paddr};
  if (!std::ranges::any_of(image.ranges,
                           [&](const GpaRange& r) { return image.entry >= r.base && image.entry < r.end(); }))
    return fail("the Multiboot image's entry point {:#x} lies outside of it", image.entry);
  return image;
}

/// Collects the information structure and all that it points to into one block, whose address is known beforehand.
class InfoBlock {
 public:
  explicit InfoBlock(Gpa base) : base_(base), bytes_(kInfoSize) {}
  void put(std::size_t offset, std::uint64_t value) {
    store_le<std::uint32_t>(bytes_.data() + offset, static_cast<std::uint32_t>(value));
  }
  void add_flag(std::uint32_t flag) { put(0, load_le<std::uint32_t>(bytes_.data()) | flag); }
  std::uint64_t append(Bytes data, std::size_t alignment) {
    bytes_.resize(align_up(bytes_.size(), alignment));
    const std::uint64_t at = base_ + bytes_.size();
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return at;
  }
  std::uint64_t append(const std::string& text) {
    return append({reinterpret_cast<const std::uint8_t*>(text.c_str()), text.size() + 1}, 1);
  }
  const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  Gpa base_;
  std::vector<std::uint8_t> bytes_;
};

std::vector<std::uint8_t> memory_map(std::span<const E820Entry> map) {
  std::vector<std::uint8_t> out(map.size() * 24);
  for (std::size_t i = 0; i < map.size(); ++i) {
    std::uint8_t* const p = out.data() + i * 24;
    store_le<std::uint32_t>(p, 20);  // the size field does not count itself
    store_le<std::uint64_t>(p + 4, map[i].base);
    store_le<std::uint64_t>(p + 12, map[i].length);
    store_le<std::uint32_t>(p + 20, static_cast<std::uint32_t>(map[i].type));
  }
  return out;
}

void fill_info(InfoBlock& info, const BootRequest& request, std::span<const E820Entry> map,
               const std::vector<GpaRange>& modules) {
  info.add_flag(kHasMemory | kHasCommandLine | kHasMap | kHasLoaderName);
  info.put(4, kLowRamEnd >> 10);
  // mem_upper counts up to the first hole above 1 MiB.
  std::uint64_t upper = 0;
  for (const E820Entry& entry : map)
    if (entry.base == kHighRamBase && entry.type == E820Type::ram) upper = entry.length;
  info.put(8, upper >> 10);
  info.put(16, info.append(request.command_line));
  if (!modules.empty()) {
    std::vector<std::uint8_t> list(modules.size() * 16);
    for (std::size_t i = 0; i < modules.size(); ++i) {
      store_le<std::uint32_t>(list.data() + i * 16, static_cast<std::uint32_t>(modules[i].base));
      store_le<std::uint32_t>(list.data() + i * 16 + 4, static_cast<std::uint32_t>(modules[i].end()));
      store_le<std::uint32_t>(list.data() + i * 16 + 8,
                              static_cast<std::uint32_t>(info.append(request.modules[i].command_line)));
    }
    info.add_flag(kHasModules);
    info.put(20, modules.size());
    info.put(24, info.append(list, 4));
  }
  const auto entries = memory_map(map);
  info.put(44, entries.size());
  info.put(48, info.append(entries, 4));
  info.put(64, info.append(std::string(kLoaderName)));
}

/// An upper bound on the block's size, before its address is known.
std::uint64_t info_bound(const BootRequest& request, std::size_t map_entries) {
  std::uint64_t size = kInfoSize + request.command_line.size() + map_entries * 24 + sizeof kLoaderName + 64;
  for (const BootModule& module : request.modules) size += 16 + module.command_line.size() + 1;
  return size;
}

}  // namespace

std::optional<MultibootHeader> find_multiboot_header(Bytes file) {
  const std::size_t end = std::min(file.size(), kSearchLength);
  for (std::size_t at = 0; at + 12 <= end; at += 4) {
    const std::uint8_t* const p = file.data() + at;
    if (load_le<std::uint32_t>(p) != kHeaderMagic) continue;
    const auto flags = load_le<std::uint32_t>(p + 4);
    if (kHeaderMagic + flags + load_le<std::uint32_t>(p + 8) != 0) continue;
    MultibootHeader header;
    header.offset = static_cast<std::uint32_t>(at);
    header.flags = flags;
    if (header.has_addresses()) {
      if (at + 32 > end) continue;
      header.header_address = load_le<std::uint32_t>(p + 12);
      header.load_address = load_le<std::uint32_t>(p + 16);
      header.load_end = load_le<std::uint32_t>(p + 20);
      header.bss_end = load_le<std::uint32_t>(p + 24);
      header.entry = load_le<std::uint32_t>(p + 28);
    }
    return header;
  }
  return std::nullopt;
}

Result<LoadedGuest> load_multiboot(mem::GuestMemory& memory, Bytes file, const BootRequest& request) {
  HUSK_TRY(check_layout(request.layout));
  const auto header = find_multiboot_header(file);
  if (!header) return fail("the file has no Multiboot header in its first {} bytes", kSearchLength);
  if (const std::uint32_t unknown = header->flags & kMandatory & ~kUnderstood)
    return std::unexpected(Error{fmt::format("the Multiboot header demands unknown features (flags {:#x})", unknown),
                                 "the specification's version 0.6.96 has flags 0, 1, 2 and 16 only"});
  if (request.modules.size() > kMostModules)
    return fail("{} modules were given, {} fit", request.modules.size(), kMostModules);
  if (request.command_line.size() >= kCommandLineRoom)
    return std::unexpected(
        Error{fmt::format("the command line has {} bytes; {} fit", request.command_line.size(), kCommandLineRoom - 1),
              "shorten --append"});
  if (!request.setup_data.empty()) return fail("Multiboot has no setup_data");

  const auto map = e820_map(request.layout);
  Image image =
      HUSK_TRY(header->has_addresses() ? load_kludge(memory, map, file, *header) : load_elf32(memory, map, file));
  LoadedGuest guest;
  guest.kind = "Multiboot kernel (" + image.format + ")";
  guest.symbol_offset = image.symbol_offset;
  for (const GpaRange& range : image.ranges) guest.parts.push_back({"kernel", range});

  std::vector<GpaRange> taken = image.ranges;
  Gpa top = kHighRamBase;
  for (const GpaRange& range : taken) top = std::max(top, range.end());
  std::vector<GpaRange> modules;
  for (const BootModule& module : request.modules) {
    const auto at = place_low(map, module.data.size(), mem::kPageSize, top, kFourGiB, taken);
    if (!at)
      return std::unexpected(
          Error{fmt::format("the module \"{}\" of {} does not fit behind the kernel into {} of guest memory",
                            module.command_line, size_text(module.data.size()), size_text(request.layout.below_4g)),
                "give the guest more memory with -m"});
    HUSK_TRY(memory.write(*at, module.data));
    modules.push_back({*at, module.data.size()});
    guest.parts.push_back({"module", modules.back()});
    taken.push_back({*at, std::max<std::uint64_t>(module.data.size(), 1)});
    top = align_up<Gpa>(taken.back().end(), mem::kPageSize);
  }

  // Low memory first, where GRUB has it too; an image that sits there pushes the block behind itself.
  const std::uint64_t room = align_up<std::uint64_t>(info_bound(request, map.size()), 16) + 32;
  auto at = place_low(map, room, 16, 0x9000, kLowRamEnd, taken);
  if (!at) at = place_low(map, room, 16, top, kFourGiB, taken);
  if (!at)
    return fail("there is no room for the Multiboot information in {} of guest memory",
                size_text(request.layout.below_4g));
  InfoBlock info(*at + 32);
  fill_info(info, request, map, modules);
  const EntryTable gdt = HUSK_TRY(write_boot_gdt(memory, *at, false));
  HUSK_TRY(memory.write(*at + 32, info.bytes()));
  guest.parts.push_back({"multiboot information", {*at, 32 + info.bytes().size()}});

  guest.entry = EntryState::flat32(image.entry, gdt, kBootCode, kBootData);
  guest.entry.rax = kLoaderMagic;
  guest.entry.rbx = *at + 32;
  return guest;
}

}  // namespace husk::boot
