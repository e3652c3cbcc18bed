// husk: placing a PVH kernel and its start info
#include "boot/pvh.h"

#include <algorithm>

#include "base/bits.h"
#include "boot/elf.h"

namespace husk::boot {
namespace {

constexpr std::uint32_t kPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::uint32_t kStartMagic = 0x336EC578;
constexpr std::size_t kStartInfoSize = 56, kModuleSize = 32, kMemMapSize = 24;
constexpr std::size_t kMostModules = 16;

Result<std::uint32_t> entry_of(const ElfFile& elf) {
  const auto note = elf.note("Xen", kPhys32Entry);
  if (!note)
    return std::unexpected(Error{"the ELF kernel has no PVH entry point (ELF note Xen 18)",
                                 "give the bzImage instead, or build the kernel with CONFIG_PVH"});
  // The descriptor is as wide as an address of the kernel's class.
  if (note->size() == 8) {
    const auto entry = load_le<std::uint64_t>(note->data());
    if (entry < kFourGiB) return static_cast<std::uint32_t>(entry);
    return fail("the kernel's PVH entry point {:#x} is above 4 GiB", entry);
  }
  if (note->size() == 4) return load_le<std::uint32_t>(note->data());
  return fail("the kernel's PVH note has {} bytes instead of 4 or 8", note->size());
}

struct PlacedModule {
  GpaRange range;
  const std::string* command_line;
};

}  // namespace

Result<std::uint32_t> pvh_entry(std::span<const std::uint8_t> file) { return entry_of(HUSK_TRY(ElfFile::parse(file))); }

Result<LoadedGuest> load_pvh(mem::GuestMemory& memory, std::span<const std::uint8_t> file, const BootRequest& request) {
  HUSK_TRY(check_layout(request.layout));
  const ElfFile elf = HUSK_TRY(ElfFile::parse(file));
  const std::uint32_t entry = HUSK_TRY(entry_of(elf));
  if (request.command_line.size() >= kCommandLineRoom)
    return std::unexpected(
        Error{fmt::format("the command line has {} bytes; {} fit", request.command_line.size(), kCommandLineRoom - 1),
              "shorten --append"});
  if (request.modules.size() > kMostModules)
    return fail("{} modules were given, {} fit", request.modules.size(), kMostModules);
  if (!request.setup_data.empty()) return fail("PVH has no setup_data");

  const auto map = e820_map(request.layout);
  LoadedGuest guest;
  guest.kind = fmt::format("ELF{} kernel by PVH", elf.is_64() ? 64 : 32);
  std::vector<GpaRange> taken = HUSK_TRY(elf.load(memory, map, std::span(&kBootDataRange, 1)));
  if (!std::ranges::any_of(taken, [&](const GpaRange& r) { return entry >= r.base && entry < r.end(); }))
    return fail("the kernel's PVH entry point {:#x} lies outside of the kernel", entry);
  for (const GpaRange& range : taken) guest.parts.push_back({"kernel", range});
  guest.symbol_offset = elf.segments().front().vaddr - elf.segments().front().paddr;
  taken.push_back(kBootDataRange);

  // Linux clears its .bss and makes page tables behind its image before it looks at modules, so they go to the top.
  std::vector<std::uint8_t> info(kStartInfoSize + request.modules.size() * kModuleSize + map.size() * kMemMapSize);
  if (info.size() > kPageTables - kBootParamsAddress)
    return fail("the PVH start info of {} bytes does not fit", info.size());
  Gpa text_at = kCommandLineAddress;
  HUSK_TRY(write_string(memory, text_at, request.command_line));
  text_at += request.command_line.size() + 1;
  const Gpa modules_at = kBootParamsAddress + kStartInfoSize;
  const Gpa map_at = modules_at + request.modules.size() * kModuleSize;
  for (std::size_t i = 0; i < request.modules.size(); ++i) {
    const BootModule& module = request.modules[i];
    if (module.data.empty()) return std::unexpected(Error{"the initrd is empty", "give another, or none"});
    const auto at = place_high(map, module.data.size(), mem::kPageSize, kHighRamBase, kFourGiB, taken);
    if (!at)
      return std::unexpected(
          Error{fmt::format("the initrd of {} does not fit beside the kernel into {} of guest memory",
                            size_text(module.data.size()), size_text(request.layout.total())),
                "give the guest more memory with -m, or a smaller initrd"});
    HUSK_TRY(memory.write(*at, module.data));
    taken.push_back({*at, module.data.size()});
    guest.parts.push_back({i == 0 ? "initrd" : "module", taken.back()});
    std::uint8_t* const p = info.data() + kStartInfoSize + i * kModuleSize;
    store_le<std::uint64_t>(p, *at);
    store_le<std::uint64_t>(p + 8, module.data.size());
    if (!module.command_line.empty()) {
      if (module.command_line.size() + 1 > kCommandLineAddress + kCommandLineRoom - text_at)
        return fail("the command lines of the modules do not fit into {} bytes", kCommandLineRoom);
      HUSK_TRY(write_string(memory, text_at, module.command_line));
      store_le<std::uint64_t>(p + 16, text_at);
      text_at += module.command_line.size() + 1;
    }
  }
  for (std::size_t i = 0; i < map.size(); ++i) {
    std::uint8_t* const p = info.data() + (map_at - kBootParamsAddress) + i * kMemMapSize;
    store_le<std::uint64_t>(p, map[i].base);
    store_le<std::uint64_t>(p + 8, map[i].length);
    store_le<std::uint32_t>(p + 16, static_cast<std::uint32_t>(map[i].type));
  }
  std::uint8_t* const p = info.data();
  store_le<std::uint32_t>(p, kStartMagic);
  store_le<std::uint32_t>(p + 4, 1);  // version
  store_le<std::uint32_t>(p + 12, static_cast<std::uint32_t>(request.modules.size()));
  store_le<std::uint64_t>(p + 16, request.modules.empty() ? 0 : modules_at);
  store_le<std::uint64_t>(p + 24, kCommandLineAddress);
  store_le<std::uint64_t>(p + 32, request.rsdp_address);
  store_le<std::uint64_t>(p + 40, map_at);
  store_le<std::uint32_t>(p + 48, static_cast<std::uint32_t>(map.size()));
  HUSK_TRY(memory.write(kBootParamsAddress, info));
  guest.parts.push_back({"hvm_start_info", {kBootParamsAddress, info.size()}});
  guest.parts.push_back({"command line", {kCommandLineAddress, text_at - kCommandLineAddress}});

  guest.entry = EntryState::flat32(entry, HUSK_TRY(write_boot_gdt(memory, kGdtAddress, false)), kBootCode, kBootData);
  guest.entry.rbx = kBootParamsAddress;
  return guest;
}

}  // namespace husk::boot
