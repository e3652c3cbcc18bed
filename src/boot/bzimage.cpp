// husk: parsing and placing a bzImage
#include "boot/bzimage.h"

#include <algorithm>
#include <array>

#include "base/bits.h"
#include "base/check.h"
#include "boot/elf.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

// Offsets in the setup header, the same in the file and in boot_params (boot.rst, "The Real-Mode Kernel Header").
enum : std::size_t {
  kSetupSects = 0x1F1,
  kSysSize = 0x1F4,
  kBootFlag = 0x1FE,
  kJump = 0x200,
  kMagic = 0x202,
  kVersion = 0x206,
  kKernelVersion = 0x20E,
  kTypeOfLoader = 0x210,
  kLoadFlags = 0x211,
  kCode32Start = 0x214,
  kRamdiskImage = 0x218,
  kRamdiskSize = 0x21C,
  kCmdLinePtr = 0x228,
  kInitrdAddrMax = 0x22C,
  kKernelAlignment = 0x230,
  kRelocatable = 0x234,
  kXloadFlags = 0x236,
  kCmdlineSize = 0x238,
  kPayloadOffset = 0x248,
  kPayloadLength = 0x24C,
  kSetupDataPointer = 0x250,
  kPrefAddress = 0x258,
  kInitSize = 0x260,
};
// Offsets in boot_params outside the setup header (Documentation/arch/x86/zero-page.rst).
enum : std::size_t {
  kAcpiRsdp = 0x070,
  kExtRamdiskImage = 0x0C0,
  kExtRamdiskSize = 0x0C4,
  kExtCmdLinePtr = 0x0C8,
  kAltMemK = 0x1E0,
  kE820Entries = 0x1E8,
  kE820Table = 0x2D0,
};
constexpr std::size_t kBootParamsSize = 4096;
constexpr std::size_t kE820Most = 128;
constexpr std::uint8_t kLoadedHigh = 0x01, kKaslrFlag = 0x02, kQuietFlag = 0x20, kCanUseHeap = 0x80;
constexpr std::size_t kVmlinuxLimit = 512u << 20;

std::unexpected<Error> bad_image(std::string message) {
  return std::unexpected(Error{std::move(message), "give a bzImage, as /boot/vmlinuz-* is"});
}
std::unexpected<Error> truncated(std::size_t have, std::uint64_t want) {
  return std::unexpected(
      Error{fmt::format("the bzImage is truncated: it has {} bytes of {}", have, want), "get the file again"});
}

Status check_fields(Bytes file, const SetupHeader& h) {
  if (h.protocol >= 0x0204) {
    const std::uint64_t want = h.setup_size + std::uint64_t{load_le<std::uint32_t>(file.data() + kSysSize)} * 16;
    if (want > file.size()) return truncated(file.size(), want);
  }
  if (h.setup_size >= file.size()) return truncated(file.size(), h.setup_size + std::uint64_t{1});
  if (h.payload_length != 0 && !range_within(h.payload_offset, h.payload_length, file.size()))
    return truncated(file.size(), std::uint64_t{h.payload_offset} + h.payload_length);
  if (h.relocatable && (h.kernel_alignment == 0 || (h.kernel_alignment & (h.kernel_alignment - 1))))
    return bad_image(fmt::format("the bzImage's alignment {:#x} is no power of two", h.kernel_alignment));
  if (h.preferred_address >= kFourGiB)
    return bad_image(fmt::format("the bzImage wants to be at {:#x}, above 4 GiB", h.preferred_address));
  return {};
}

std::string version_text(Bytes file, std::uint32_t setup_size) {
  const std::uint32_t pointer = load_le<std::uint16_t>(file.data() + kKernelVersion);
  if (pointer == 0 || pointer + 0x200 >= std::min<std::size_t>(setup_size, file.size())) return {};
  std::string text;
  for (std::size_t at = pointer + 0x200; at < file.size() && text.size() < 128; ++at) {
    if (file[at] == 0) break;
    text += (file[at] >= 0x20 && file[at] < 0x7F) ? static_cast<char>(file[at]) : '?';
  }
  return text;
}

/// Everything load_bzimage gathers on its way.
struct Boot {
  mem::GuestMemory& memory;
  const BootRequest& request;
  const SetupHeader& header;
  std::vector<E820Entry> map;
  std::vector<GpaRange> taken;
  LoadedGuest guest;
  std::array<std::uint8_t, kBootParamsSize> params{};

  template <class T>
  void put(std::size_t offset, T value) {
    store_le<T>(params.data() + offset, value);
  }
};

Status place_command_line(Boot& boot) {
  const std::string& line = boot.request.command_line;
  const std::uint64_t most = std::min<std::uint64_t>(boot.header.command_line_max, kCommandLineRoom - 1);
  if (line.size() > most)
    return std::unexpected(Error{fmt::format("the command line has {} bytes; this kernel takes {}", line.size(), most),
                                 "shorten --append"});
  if (line.find('\0') != std::string::npos) return fail("the command line has a NUL byte in it");
  HUSK_TRY(write_string(boot.memory, kCommandLineAddress, line));
  boot.put<std::uint32_t>(kCmdLinePtr, static_cast<std::uint32_t>(kCommandLineAddress));
  boot.put<std::uint32_t>(kExtCmdLinePtr, 0);
  return {};
}

Status place_initrd(Boot& boot) {
  const BootRequest& request = boot.request;
  if (request.modules.size() > 1) return fail("Linux takes one initrd, {} were given", request.modules.size());
  if (request.modules.empty()) return {};
  const Bytes initrd = request.modules.front().data;
  if (initrd.empty()) return std::unexpected(Error{"the initrd is empty", "give another, or none"});
  // boot.rst, xloadflags bit 1: such a kernel takes its ramdisk anywhere below 4 GiB whatever initrd_addr_max says.
  const std::uint64_t ceiling = boot.header.loads_above_4g() ? kFourGiB : std::uint64_t{boot.header.initrd_max} + 1;
  auto at = place_high(boot.map, initrd.size(), mem::kPageSize, kHighRamBase, ceiling, boot.taken);
  if (!at && boot.header.loads_above_4g())
    at = place_high(boot.map, initrd.size(), mem::kPageSize, kFourGiB, ~std::uint64_t{0}, boot.taken);
  if (!at)
    return std::unexpected(
        Error{fmt::format("the initrd of {} does not fit beside the kernel into {} of guest memory (below {:#x})",
                          size_text(initrd.size()), size_text(request.layout.total()), ceiling),
              "give the guest more memory with -m, or a smaller initrd"});
  HUSK_TRY(boot.memory.write(*at, initrd));
  boot.taken.push_back({*at, initrd.size()});
  boot.guest.parts.push_back({"initrd", {*at, initrd.size()}});
  boot.put<std::uint32_t>(kRamdiskImage, static_cast<std::uint32_t>(*at));
  boot.put<std::uint32_t>(kRamdiskSize, static_cast<std::uint32_t>(initrd.size()));
  boot.put<std::uint32_t>(kExtRamdiskImage, static_cast<std::uint32_t>(*at >> 32));
  boot.put<std::uint32_t>(kExtRamdiskSize, static_cast<std::uint32_t>(std::uint64_t{initrd.size()} >> 32));
  return {};
}

Status place_setup_data(Boot& boot) {
  if (boot.request.setup_data.empty()) return {};
  if (boot.header.protocol < 0x0209)
    return fail("boot protocol {}.{:02} of this kernel has no setup_data", boot.header.protocol >> 8,
                boot.header.protocol & 0xFF);
  Gpa next = 0;
  Gpa at = kSetupDataAddress;
  // Written from the last to the first, so that each knows where its successor is.
  for (auto item = boot.request.setup_data.rbegin(); item != boot.request.setup_data.rend(); ++item) {
    const std::uint64_t size = 16 + item->data.size();
    if (size > kSetupDataAddress + kSetupDataRoom - at)
      return fail("setup_data of {} bytes does not fit into {} bytes", size, kSetupDataRoom);
    std::array<std::uint8_t, 16> head{};
    store_le<std::uint64_t>(head.data(), next);
    store_le<std::uint32_t>(head.data() + 8, item->type);
    store_le<std::uint32_t>(head.data() + 12, static_cast<std::uint32_t>(item->data.size()));
    HUSK_TRY(boot.memory.write(at, head));
    HUSK_TRY(boot.memory.write(at + 16, item->data));
    next = at;
    at = align_up<Gpa>(at + size, 16);
  }
  boot.put<std::uint64_t>(kSetupDataPointer, next);
  return {};
}

Status write_boot_params(Boot& boot, Bytes file, std::uint32_t load_address) {
  const SetupHeader& h = boot.header;
  std::ranges::copy(file.subspan(kSetupSects, h.header_end - kSetupSects), boot.params.begin() + kSetupSects);
  boot.put<std::uint8_t>(kTypeOfLoader, 0xFF);
  // The KASLR flag is the decompressor's note to the kernel that it has randomised, which here nobody does.
  boot.put<std::uint8_t>(kLoadFlags,
                         static_cast<std::uint8_t>(h.load_flags & ~(kKaslrFlag | kQuietFlag | kCanUseHeap)));
  boot.put<std::uint32_t>(kCode32Start, load_address);
  boot.put<std::uint32_t>(kRamdiskImage, 0);
  boot.put<std::uint32_t>(kRamdiskSize, 0);
  if (h.protocol >= 0x0209) boot.put<std::uint64_t>(kSetupDataPointer, 0);
  boot.put<std::uint64_t>(kAcpiRsdp, boot.request.rsdp_address);
  HUSK_TRY(place_command_line(boot));
  HUSK_TRY(place_initrd(boot));
  HUSK_TRY(place_setup_data(boot));

  if (boot.map.size() > kE820Most)
    return fail("the guest's memory map has {} entries, Linux takes {}", boot.map.size(), kE820Most);
  boot.put<std::uint8_t>(kE820Entries, static_cast<std::uint8_t>(boot.map.size()));
  for (std::size_t i = 0; i < boot.map.size(); ++i) {
    boot.put<std::uint64_t>(kE820Table + i * 20, boot.map[i].base);
    boot.put<std::uint64_t>(kE820Table + i * 20 + 8, boot.map[i].length);
    boot.put<std::uint32_t>(kE820Table + i * 20 + 16, static_cast<std::uint32_t>(boot.map[i].type));
  }
  boot.put<std::uint32_t>(kAltMemK, static_cast<std::uint32_t>((boot.request.layout.below_4g - kHighRamBase) >> 10));
  return boot.memory.write(kBootParamsAddress, boot.params);
}

Status need_ram(const Boot& boot, const GpaRange& range) {
  if (is_ram(boot.map, range)) return {};
  return std::unexpected(
      Error{fmt::format("the kernel needs {} of memory at {:#x}; the guest has {}", size_text(range.length), range.base,
                        size_text(boot.request.layout.total())),
            fmt::format("give it at least {} with -m", size_text(align_up<std::uint64_t>(range.end(), 16 << 20)))});
}

/// The bzImage's own stub, which decompresses in the guest.
Result<Gpa> place_stub(Boot& boot, Bytes file) {
  const SetupHeader& h = boot.header;
  const Bytes code = file.subspan(h.setup_size);
  // Only a relocatable kernel may be moved off 1 MiB; its wish is the address it needs no copying from.
  Gpa load = h.relocatable && h.preferred_address >= kHighRamBase
                 ? align_up<Gpa>(h.preferred_address, h.kernel_alignment)
                 : std::max<Gpa>(h.code32_start, kHighRamBase);
  const std::uint64_t size = std::max<std::uint64_t>(h.init_size, code.size());
  HUSK_TRY(need_ram(boot, {load, size}));
  HUSK_TRY(boot.memory.write(load, code));
  boot.taken.push_back({load, size});
  boot.guest.parts.push_back({"kernel", {load, code.size()}});
  boot.guest.kind = fmt::format("Linux bzImage ({}-bit, decompressed by the guest)", h.has_64bit_entry() ? 64 : 32);
  return load;
}

struct PlacedVmlinux {
  Gpa entry;
  bool is_64;
};

/// The vmlinux itself, at its link address.
Result<PlacedVmlinux> place_vmlinux(Boot& boot, Bytes file) {
  const Payload payload = HUSK_TRY(unpack_payload(file, boot.header));
  auto parsed = ElfFile::parse(payload.vmlinux);
  if (!parsed)
    return std::unexpected(Error{"the bzImage's payload: " + parsed.error().message,
                                 "boot it with --guest-decompress, or get the file again"});
  const ElfFile& elf = *parsed;
  // startup_64 and startup_32 take any physical address, but the identity map here and the 32-bit GDT end at 4 GiB.
  for (const ElfSegment& segment : elf.segments())
    if (segment.paddr < kHighRamBase || segment.paddr + segment.memory_size > kFourGiB)
      return bad_image(fmt::format("the kernel inside the bzImage is linked to physical {:#x}", segment.paddr));
  const Gpa base = std::ranges::min(elf.segments(), {}, &ElfSegment::paddr).paddr;
  std::uint64_t end = base + boot.header.init_size;
  for (const ElfSegment& segment : elf.segments()) end = std::max(end, segment.paddr + segment.memory_size);
  HUSK_TRY(need_ram(boot, {base, end - base}));
  const auto loaded = HUSK_TRY(elf.load(boot.memory, boot.map, {}));
  for (const GpaRange& range : loaded) boot.guest.parts.push_back({"kernel", range});
  boot.taken.push_back({base, end - base});
  boot.guest.symbol_offset = elf.segments().front().vaddr - elf.segments().front().paddr;
  boot.guest.kind = fmt::format("Linux bzImage ({}-bit, {} payload)", elf.is_64() ? 64 : 32,
                                payload.compression ? compression_name(*payload.compression) : "stored");
  const Gpa entry = elf.physical_entry();
  if (!std::ranges::any_of(loaded, [&](const GpaRange& r) { return entry >= r.base && entry < r.end(); }))
    return bad_image(fmt::format("the kernel inside the bzImage starts at {:#x}, outside of itself", entry));
  return PlacedVmlinux{entry, elf.is_64()};
}

}  // namespace

bool looks_like_bzimage(Bytes file) {
  return file.size() >= 0x206 && load_le<std::uint16_t>(file.data() + kBootFlag) == 0xAA55 &&
         load_be<std::uint32_t>(file.data() + kMagic) == 0x48647253;  // "HdrS"
}

Result<SetupHeader> parse_setup_header(Bytes file) {
  if (!looks_like_bzimage(file)) return bad_image("this is no bzImage: the signatures 0xAA55 and \"HdrS\" are missing");
  const std::uint8_t* const p = file.data();
  SetupHeader h;
  // The short jump over the header tells where it ends (boot.rst, "Total size of the setup header").
  h.header_end = static_cast<std::uint32_t>(kMagic + p[kJump + 1]);
  if (file.size() < 0x268 || h.header_end > file.size())
    return truncated(file.size(), std::max<std::size_t>(h.header_end, 0x268));
  h.protocol = load_le<std::uint16_t>(p + kVersion);
  const auto has = [&](std::uint16_t version, std::size_t end) { return h.protocol >= version && end <= h.header_end; };
  if (h.protocol < 0x0202 || h.header_end < kInitrdAddrMax)
    return bad_image(fmt::format("the kernel's boot protocol {}.{:02} is older than 2.02 (Linux 2.4)", h.protocol >> 8,
                                 h.protocol & 0xFF));
  // zero-page.rst: 0x290 is where the next field of boot_params begins.
  h.header_end = std::min<std::uint32_t>(h.header_end, 0x290);
  h.setup_size = (p[kSetupSects] == 0 ? 5u : p[kSetupSects] + 1u) * 512;
  h.load_flags = p[kLoadFlags];
  if (!(h.load_flags & kLoadedHigh)) return bad_image("this is a zImage, loaded below 1 MiB, which husk does not boot");
  h.code32_start = load_le<std::uint32_t>(p + kCode32Start);
  h.initrd_max = has(0x0203, 0x230) ? load_le<std::uint32_t>(p + kInitrdAddrMax) : 0x37FF'FFFF;
  if (has(0x0205, 0x235)) {
    h.kernel_alignment = load_le<std::uint32_t>(p + kKernelAlignment);
    h.relocatable = p[kRelocatable] != 0;
  }
  h.command_line_max = has(0x0206, 0x23C) ? load_le<std::uint32_t>(p + kCmdlineSize) : 255;
  if (has(0x020C, 0x238)) h.xload_flags = load_le<std::uint16_t>(p + kXloadFlags);
  if (has(0x0208, 0x250)) {
    h.payload_length = load_le<std::uint32_t>(p + kPayloadLength);
    const auto offset = checked_add(load_le<std::uint32_t>(p + kPayloadOffset), h.setup_size);
    if (!offset) return bad_image("the bzImage's payload offset is beyond 4 GiB");
    h.payload_offset = *offset;
  }
  if (has(0x020A, 0x264)) {
    h.preferred_address = load_le<std::uint64_t>(p + kPrefAddress);
    h.init_size = load_le<std::uint32_t>(p + kInitSize);
  }
  HUSK_TRY(check_fields(file, h));
  h.version = version_text(file, h.setup_size);
  return h;
}

Result<Payload> unpack_payload(Bytes file, const SetupHeader& h) {
  const char* const kOtherWay = "boot it with --guest-decompress";
  if (h.payload_length == 0)
    return std::unexpected(Error{fmt::format("the bzImage (boot protocol {}.{:02}) does not say where its payload is",
                                             h.protocol >> 8, h.protocol & 0xFF),
                                 kOtherWay});
  const Bytes packed = file.subspan(h.payload_offset, h.payload_length);
  Payload payload;
  payload.compression = detect_compression(packed);
  if (!payload.compression) {
    if (packed.size() >= 4 && load_be<std::uint32_t>(packed.data()) == 0x7F454C46) {
      payload.vmlinux.assign(packed.begin(), packed.end());
      return payload;
    }
    return std::unexpected(Error{"the bzImage's payload is packed in a format that husk does not know", kOtherWay});
  }
  // The last four bytes are the unpacked size in every format: gzip's own trailer, or what the build appends.
  const std::uint32_t size = packed.size() >= 4 ? load_le<std::uint32_t>(packed.data() + packed.size() - 4) : 0;
  auto unpacked = decompress(*payload.compression, packed, kVmlinuxLimit, size);
  if (!unpacked) return std::unexpected(std::move(unpacked.error()).within("the bzImage's payload"));
  if (packed.size() - unpacked->consumed == 4 && unpacked->data.size() != size)
    return std::unexpected(
        Error{fmt::format("the bzImage's payload unpacks to {} bytes instead of {}", unpacked->data.size(), size),
              "the file is damaged; get it again"});
  payload.vmlinux = std::move(unpacked->data);
  return payload;
}

Result<LoadedGuest> load_bzimage(mem::GuestMemory& memory, Bytes file, const BootRequest& request) {
  HUSK_TRY(check_layout(request.layout));
  const SetupHeader header = HUSK_TRY(parse_setup_header(file));
  Boot boot{memory, request, header, e820_map(request.layout), {}, {}, {}};
  boot.guest.version = header.version;

  Gpa entry = 0;
  bool is_64 = false;
  Gpa load = kHighRamBase;
  if (request.guest_decompress) {
    load = HUSK_TRY(place_stub(boot, file));
    is_64 = header.has_64bit_entry();
    entry = is_64 ? load + 0x200 : load;
  } else {
    const PlacedVmlinux placed = HUSK_TRY(place_vmlinux(boot, file));
    entry = placed.entry;
    is_64 = placed.is_64;
    load = header.preferred_address != 0 ? header.preferred_address : kHighRamBase;
  }
  HUSK_TRY(write_boot_params(boot, file, static_cast<std::uint32_t>(load)));
  boot.guest.parts.push_back({"boot_params", {kBootParamsAddress, kBootParamsSize}});
  boot.guest.parts.push_back({"command line", {kCommandLineAddress, request.command_line.size() + 1}});

  const EntryTable gdt = HUSK_TRY(write_boot_gdt(memory, kGdtAddress, is_64));
  EntryState& state = boot.guest.entry;
  if (is_64)
    state = EntryState::flat64(entry, gdt, kBootCode, kBootData, HUSK_TRY(write_identity_map(memory, kPageTables)));
  else
    state = EntryState::flat32(entry, gdt, kBootCode, kBootData);
  // boot.rst: %rsi (%esi) holds the address of boot_params; in 32-bit mode %ebp, %edi and %ebx are zero.
  state.rsi = kBootParamsAddress;
  state.rsp = kStackTop;
  return std::move(boot.guest);
}

}  // namespace husk::boot
