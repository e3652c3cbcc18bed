// husk: the tables that every 32-bit and 64-bit entry protocol wants
#include "boot/boot_image.h"

#include <array>

#include "base/bits.h"

namespace husk::boot {

Result<EntryTable> write_boot_gdt(mem::GuestMemory& memory, Gpa address, bool code_is_64) {
  // Base 0, limit 4 GiB; type and flags as the EntrySegment constants have them.
  constexpr std::uint64_t kCode64 = 0x00AF'9B00'0000'FFFF, kCode32 = 0x00CF'9B00'0000'FFFF,
                          kData = 0x00CF'9300'0000'FFFF;
  const std::array<std::uint64_t, 4> table = {0, 0, code_is_64 ? kCode64 : kCode32, kData};
  for (std::size_t i = 0; i < table.size(); ++i) HUSK_TRY(memory.store<std::uint64_t>(address + i * 8, table[i]));
  return EntryTable{address, sizeof table - 1};
}

Result<std::uint64_t> write_identity_map(mem::GuestMemory& memory, Gpa address) {
  constexpr std::uint64_t kPresentWritable = 3, kLarge = 0x80;
  constexpr std::uint64_t kPage = 0x1000;
  std::vector<std::uint8_t> tables(6 * kPage);
  const auto entry = [&](std::size_t page, std::size_t index, std::uint64_t value) {
    store_le<std::uint64_t>(tables.data() + page * kPage + index * 8, value);
  };
  entry(0, 0, (address + kPage) | kPresentWritable);
  for (std::size_t gib = 0; gib < 4; ++gib) {
    entry(1, gib, (address + (2 + gib) * kPage) | kPresentWritable);
    for (std::size_t i = 0; i < 512; ++i) entry(2 + gib, i, ((gib * 512 + i) << 21) | kLarge | kPresentWritable);
  }
  HUSK_TRY(memory.write(address, tables));
  return address;
}

Status write_string(mem::GuestMemory& memory, Gpa address, const std::string& text) {
  return memory.write(address, {reinterpret_cast<const std::uint8_t*>(text.c_str()), text.size() + 1});
}

Status check_layout(const MemoryLayout& layout) {
  if (layout.below_4g < 2 * kHighRamBase)
    return std::unexpected(
        Error{fmt::format("the guest has {} of memory, too little to boot anything", size_text(layout.below_4g)),
              "give it more with -m"});
  return {};
}

}  // namespace husk::boot
