// husk: address to symbol, for crash reports and the debugger
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace husk::boot {

/// A sorted table of names. Names live in one arena, so a kernel's 150,000 symbols cost a few megabytes.
class SymbolTable {
 public:
  struct Hit {
    std::string_view name;  ///< valid as long as the table
    std::uint64_t offset;   ///< from the symbol's address
    /// "name" or "name+0x1c".
    std::string text() const;
  };

  /// Adds a symbol; `size` 0 means up to the next one. Names are cut at 511 bytes and may be in any order.
  void add(std::uint64_t address, std::uint64_t size, std::string_view name);
  /// To be called once after the last add(); look-ups before it find nothing.
  void finish();

  bool empty() const { return entries_.empty(); }
  std::size_t size() const { return entries_.size(); }

  /// The symbol that holds `address`. Nothing below the first one, behind a symbol's size, or more than 16 MiB behind
  /// one without a size.
  std::optional<Hit> find(std::uint64_t address) const;
  /// The address of a name; the first one if there are several.
  std::optional<std::uint64_t> address_of(std::string_view name) const;

  /// Parses the kernel's System.map (`nm -n` lines: "ffffffff81000000 T _text"). Per-cpu offsets and absolute constants
  /// below 1 MiB are left out. An error names the first bad line.
  static Result<SymbolTable> from_system_map(std::string_view text);

 private:
  struct Entry {
    std::uint64_t address;
    std::uint64_t size;
    std::uint32_t name_offset;
    std::uint32_t name_length;
  };
  std::string_view name_of(const Entry& entry) const {
    return std::string_view(names_).substr(entry.name_offset, entry.name_length);
  }
  std::string names_;
  std::vector<Entry> entries_;
  bool finished_ = false;
};

}  // namespace husk::boot
