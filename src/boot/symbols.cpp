// husk: symbol look-up and the System.map reader
#include "boot/symbols.h"

#include <algorithm>
#include <charconv>

namespace husk::boot {
namespace {
constexpr std::uint64_t kUnsizedReach = 16 << 20;
constexpr std::size_t kLongestName = 511;  // KSYM_NAME_LEN of Linux 6.1 is 512 with its NUL
constexpr std::size_t kArenaLimit = 512u << 20;
}  // namespace

std::string SymbolTable::Hit::text() const {
  return offset == 0 ? std::string(name) : fmt::format("{}+{:#x}", name, offset);
}

void SymbolTable::add(std::uint64_t address, std::uint64_t size, std::string_view name) {
  name = name.substr(0, kLongestName);
  if (name.empty() || names_.size() + name.size() > kArenaLimit) return;
  entries_.push_back(
      {address, size, static_cast<std::uint32_t>(names_.size()), static_cast<std::uint32_t>(name.size())});
  names_ += name;
  finished_ = false;
}

void SymbolTable::finish() {
  // Among equals the order of add() stays; stable_sort of libstdc++ 12 warns under clang.
  std::ranges::sort(entries_, [](const Entry& a, const Entry& b) {
    return a.address != b.address ? a.address < b.address : a.name_offset < b.name_offset;
  });
  finished_ = true;
}

std::optional<SymbolTable::Hit> SymbolTable::find(std::uint64_t address) const {
  if (!finished_) return std::nullopt;
  auto next = std::ranges::upper_bound(entries_, address, {}, &Entry::address);
  // Several symbols can start at one address; the last of them without a size or that reaches far enough is taken.
  // Alias groups are short, so is the walk; it is cut for hostile tables.
  for (int tries = 0; next != entries_.begin() && tries < 16; ++tries) {
    --next;
    const std::uint64_t offset = address - next->address;
    if (offset < (next->size != 0 ? next->size : kUnsizedReach)) return Hit{name_of(*next), offset};
  }
  return std::nullopt;
}

std::optional<std::uint64_t> SymbolTable::address_of(std::string_view name) const {
  for (const Entry& entry : entries_)
    if (name_of(entry) == name) return entry.address;
  return std::nullopt;
}

Result<SymbolTable> SymbolTable::from_system_map(std::string_view text) {
  SymbolTable table;
  std::size_t number = 0;
  while (!text.empty()) {
    const std::size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    ++number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    std::uint64_t address = 0;
    const auto [end, code] = std::from_chars(line.data(), line.data() + line.size(), address, 16);
    const auto digits = static_cast<std::size_t>(end - line.data());
    if (code != std::errc() || digits < 8 || line.size() < digits + 4 || line[digits] != ' ' || line[digits + 2] != ' ')
      return std::unexpected(Error{fmt::format("line {} of the System.map is not \"ADDRESS TYPE NAME\"", number),
                                   "give the System.map of this very kernel, or none"});
    if (address < 0x10'0000) continue;
    table.add(address, 0, line.substr(digits + 3));
  }
  table.finish();
  return table;
}

}  // namespace husk::boot
