// husk: reading a kernel's symbols late
#include "boot/kernel_symbols.h"

namespace husk::boot {

KernelSymbols::KernelSymbols(Source source) : source_(std::move(source)) {
  // The first question may come from anywhere, a debugger's included.
  std::error_code code;
  if (auto path = std::filesystem::absolute(source_.kernel, code); !code) source_.kernel = std::move(path);
  if (const auto map = system_map_of(source_.kernel); !map.empty()) map_stamp_ = stamp_of(map);
}

Status KernelSymbols::read() const {
  const std::string name = source_.kernel.string();
  const auto changed = [](const std::string& what) {
    return std::unexpected(Error{what + " has changed since the guest was loaded", {}});
  };
  FileStamp stamp;
  const auto file = HUSK_TRY(read_boot_file(source_.kernel, "kernel", kKernelFileLimit, &stamp));
  if (stamp != source_.stamp) return changed("kernel " + name);
  if (source_.in_kernel) in_kernel_ = HUSK_TRY(symbols_of_kernel(file, name));
  if (!map_stamp_) return {};
  const auto map = system_map_of(source_.kernel);
  if (stamp_of(map) != map_stamp_) return changed(map.string());
  beside_ = symbols_beside(source_.kernel);
  return {};
}

std::span<const SymbolTable* const> KernelSymbols::tables() const {
  std::call_once(once_, [this] {
    if (const auto done = read(); !done && source_.note) source_.note(done.error().message);
  });
  return tables_;
}

std::optional<SymbolTable::Hit> KernelSymbols::find(std::uint64_t address) const {
  for (const SymbolTable* table : tables())
    if (const auto hit = table->find(address)) return hit;
  return std::nullopt;
}

std::optional<std::uint64_t> KernelSymbols::address_of(std::string_view name) const {
  for (const SymbolTable* table : tables())
    if (const auto address = table->address_of(name)) return address;
  return std::nullopt;
}

}  // namespace husk::boot
