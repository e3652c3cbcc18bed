// husk: finding and decoding kallsyms
//
// scripts/kallsyms.c of Linux writes, each aligned to 8 bytes: num_syms (u32), names (per symbol a length, then that
// many token numbers), markers (u32: where every 256th name is), token_table (256 strings), token_index (u16 each).
// offsets (s32 each) and relative_base (u64) are before num_syms up to 6.3 and behind token_index since 6.4. Nothing
// points at them from outside, so they are found by what they must look like.
#include "boot/kallsyms.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/bits.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::size_t kTokens = 256;
constexpr std::uint32_t kFewestSymbols = 512, kMostSymbols = 4u << 20;
constexpr std::size_t kNamesReach = 64u << 20;     // the names of a kernel with everything built in have some 10 MiB
constexpr std::size_t kDecodeBudget = 256u << 20;  // bytes of names walked in all, against a hostile file
constexpr std::uint64_t kKernelSpace = 0xFFFF'FFFF'8000'0000;  // __START_KERNEL_map of x86-64

struct TokenTable {
  std::size_t begin = 0;
  std::size_t index = 0;  ///< where token_index is
  std::array<std::string_view, kTokens> tokens;
};

/// The table around the tokens "0" to "9", which stand for themselves in every kernel.
std::optional<TokenTable> tokens_around(Bytes file, std::size_t digits) {
  std::size_t at = digits;
  for (int nuls = 0;;) {
    if (at == 0) return std::nullopt;
    if (file[--at] == 0 && ++nuls == '0' + 1) break;
    if (digits - at > 4096) return std::nullopt;
  }
  TokenTable table;
  table.begin = at + 1;
  std::size_t end = table.begin;
  std::array<std::uint16_t, kTokens> offsets{};
  for (std::size_t i = 0; i < kTokens; ++i) {
    const void* const nul = std::memchr(file.data() + end, 0, std::min<std::size_t>(file.size() - end, 512));
    if (!nul) return std::nullopt;
    const auto length = static_cast<std::size_t>(static_cast<const std::uint8_t*>(nul) - (file.data() + end));
    if (end - table.begin > 0xFFFF) return std::nullopt;
    offsets[i] = static_cast<std::uint16_t>(end - table.begin);
    table.tokens[i] = {reinterpret_cast<const char*>(file.data() + end), length};
    end += length + 1;
    if (end >= file.size()) return std::nullopt;
  }
  for (std::size_t index = align_up<std::size_t>(end, 2); index < end + 8; index += 2) {
    if (!range_within(index, kTokens * 2, file.size())) return std::nullopt;
    bool same = true;
    for (std::size_t i = 0; i < kTokens && same; ++i)
      same = load_le<std::uint16_t>(file.data() + index + i * 2) == offsets[i];
    if (!same) continue;
    table.index = index;
    return table;
  }
  return std::nullopt;
}

std::optional<TokenTable> find_tokens(Bytes file) {
  constexpr std::string_view kDigits(
      "0\0"
      "1\0"
      "2\0"
      "3\0"
      "4\0"
      "5\0"
      "6\0"
      "7\0"
      "8\0"
      "9\0",
      20);
  const std::string_view all(reinterpret_cast<const char*>(file.data()), file.size());
  std::size_t tries = 0;
  for (std::size_t at = all.find(kDigits); at != std::string_view::npos && ++tries < 1000;
       at = all.find(kDigits, at + 1))
    if (auto table = tokens_around(file, at)) return table;
  return std::nullopt;
}

/// Walks the packed names.
class NameReader {
 public:
  NameReader(Bytes data, const TokenTable& table) : data_(data), table_(table) {}
  std::size_t at() const { return at_; }
  /// The token numbers of the next name; nothing at the end or where no name can be.
  std::optional<Bytes> next() {
    if (at_ >= data_.size()) return std::nullopt;
    std::size_t length = data_[at_];
    std::size_t head = 1;
    if (length & 0x80) {  // since 6.1
      if (at_ + 1 >= data_.size()) return std::nullopt;
      length = (length & 0x7F) | std::size_t{data_[at_ + 1]} << 7;
      head = 2;
    }
    if (length == 0 || !range_within(at_ + head, length, data_.size())) return std::nullopt;
    at_ += head + length;
    return data_.subspan(at_ - length, length);
  }
  /// True if the first character is one of nm's type letters.
  bool plausible(Bytes name) const {
    const std::string_view first = table_.tokens[name[0]];
    return !first.empty() && std::strchr("aAbBcCdDgGiIrRsStTuUvVwWnN?", first[0]) != nullptr;
  }

 private:
  Bytes data_;
  const TokenTable& table_;
  std::size_t at_ = 0;
};

struct Names {
  std::size_t count_at = 0;
  std::uint32_t count = 0;
};

/// True if `count` names begin at `begin` and are followed by the markers that belong to them.
bool check_names(Bytes file, const TokenTable& table, std::size_t begin, std::uint32_t count, std::size_t& budget) {
  NameReader reader(file.subspan(begin, table.begin - begin), table);
  std::array<std::size_t, 4> marks{};
  for (std::uint32_t i = 0; i < count; ++i) {
    if (i % 256 == 0 && i / 256 < marks.size()) marks[i / 256] = reader.at();
    const auto name = reader.next();
    if (!name || !reader.plausible(*name)) return false;
    if (budget < name->size()) return false;
    budget -= name->size();
  }
  const std::size_t markers = align_up<std::size_t>(begin + reader.at(), 8);
  const std::size_t kept = std::min<std::size_t>(marks.size(), (count + 255) / 256);
  if (!range_within(markers, kept * 4, table.begin)) return false;
  for (std::size_t i = 0; i < kept; ++i)
    if (load_le<std::uint32_t>(file.data() + markers + i * 4) != marks[i]) return false;
  return true;
}

std::optional<Names> find_names(Bytes file, const TokenTable& table) {
  std::size_t budget = kDecodeBudget;
  const std::size_t lowest = table.begin > kNamesReach ? table.begin - kNamesReach : 0;
  for (std::size_t at = align_down<std::size_t>(table.begin, 8); at >= lowest + 8 && budget != 0;) {
    at -= 8;
    const auto count = load_le<std::uint64_t>(file.data() + at);  // with its padding
    if (count < kFewestSymbols || count > kMostSymbols || count * 2 > table.begin - at) continue;
    if (check_names(file, table, at + 8, static_cast<std::uint32_t>(count), budget))
      return Names{at, static_cast<std::uint32_t>(count)};
  }
  return std::nullopt;
}

struct Addresses {
  std::size_t offsets_at = 0;
  std::uint64_t base = 0;
};

std::optional<Addresses> find_addresses(Bytes file, const TokenTable& table, const Names& names) {
  const std::size_t size = align_up<std::size_t>(std::size_t{names.count} * 4, 8);
  const auto check = [&](std::size_t offsets_at) -> std::optional<Addresses> {
    if (!range_within(offsets_at, size + 8, file.size())) return std::nullopt;
    const auto base = load_le<std::uint64_t>(file.data() + offsets_at + size);
    if (base < kKernelSpace) return std::nullopt;
    return Addresses{offsets_at, base};
  };
  if (names.count_at >= size + 8)
    if (const auto before = check(names.count_at - 8 - size)) return before;
  return check(align_up<std::size_t>(table.index + kTokens * 2, 8));
}

}  // namespace

SymbolTable find_kallsyms(Bytes file) {
  SymbolTable symbols;
  const auto table = find_tokens(file);
  if (!table) return symbols;
  const auto names = find_names(file, *table);
  if (!names) return symbols;
  const auto addresses = find_addresses(file, *table, *names);
  if (!addresses) return symbols;

  const auto offset_of = [&](std::uint32_t i) {
    return load_le<std::int32_t>(file.data() + addresses->offsets_at + std::size_t{i} * 4);
  };
  // With CONFIG_KALLSYMS_ABSOLUTE_PERCPU offsets from the base are stored as -1-offset, and per-cpu ones as they are.
  std::uint32_t negative = 0;
  for (std::uint32_t i = 0; i < names->count; ++i) negative += offset_of(i) < 0;
  const bool absolute_percpu = negative > names->count / 2;

  NameReader reader(file.subspan(names->count_at + 8, table->begin - names->count_at - 8), *table);
  std::string name;
  for (std::uint32_t i = 0; i < names->count; ++i) {
    const auto tokens = reader.next();
    if (!tokens) break;
    const std::int32_t offset = offset_of(i);
    if (absolute_percpu && offset >= 0) continue;
    const std::uint64_t address = absolute_percpu
                                      ? addresses->base - 1 - static_cast<std::uint64_t>(std::int64_t{offset})
                                      : addresses->base + static_cast<std::uint32_t>(offset);
    name.clear();
    for (const std::uint8_t token : *tokens) {
      if (name.size() > 512) break;
      name += table->tokens[token];
    }
    if (address >= kKernelSpace && name.size() > 1) symbols.add(address, 0, std::string_view(name).substr(1));
  }
  symbols.finish();
  return symbols;
}

}  // namespace husk::boot
