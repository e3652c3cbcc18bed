// husk: any bytes as a System.map and as a kernel with kallsyms tables in it
#include <span>
#include <string_view>

#include "boot/initramfs.h"
#include "boot/kallsyms.h"
#include "boot/symbols.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  if (const auto table = SymbolTable::from_system_map({reinterpret_cast<const char*>(data), size}))
    (void)table->find(0xFFFF'FFFF'8100'0000);
  const SymbolTable found = find_kallsyms(bytes);
  (void)found.find(0xFFFF'FFFF'8100'0000);
  (void)busybox_applets(bytes);
  return 0;
}
