// husk: the symbols of the kernel that was booted, read when somebody asks for a name
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "boot/kernel_file.h"
#include "boot/symbols.h"

namespace husk::boot {

/// Few runs ever ask for a symbol, while finding them costs time at each start and keeps megabytes; so the kernel's
/// file and the System.map beside it are read again at the first question. If one is gone or another by then, its names
/// could be wrong: then there are none. Thread-safe; whoever asks first reads, others wait.
class KernelSymbols {
 public:
  struct Source {
    std::filesystem::path kernel;
    FileStamp stamp;  ///< of what was booted
    /// False leaves out those in the kernel itself: of one that may have moved itself, as its own decompressor does.
    bool in_kernel = true;
    /// Told at most once, by the thread that asked first, why there are no symbols. A kernel that never had any is no
    /// reason.
    std::function<void(const std::string&)> note;
  };
  explicit KernelSymbols(Source source);

  /// The kernel's own first, then System.map's; valid as long as this object.
  std::span<const SymbolTable* const> tables() const;
  std::optional<SymbolTable::Hit> find(std::uint64_t address) const;
  std::optional<std::uint64_t> address_of(std::string_view name) const;

 private:
  Status read() const;

  Source source_;
  std::optional<FileStamp> map_stamp_;
  mutable std::once_flag once_;
  mutable SymbolTable in_kernel_, beside_;
  const std::array<const SymbolTable*, 2> tables_{&in_kernel_, &beside_};
};

}  // namespace husk::boot
