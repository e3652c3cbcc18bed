// husk: any bytes as an ELF kernel: parsing, notes, symbols, loading by PVH
#include <span>

#include "boot/elf.h"
#include "boot/pvh.h"
#include "boot/test_images.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static testing::TestMemory guest(4u << 20);
  const std::span<const std::uint8_t> file(data, size);
  if (const auto elf = ElfFile::parse(file)) {
    (void)elf->physical_entry();
    (void)elf->note("Xen", 18);
    const auto symbols = elf->symbols();
    (void)symbols.find(elf->entry());
  }
  auto request = guest.request();
  request.modules.push_back({file.first(size / 3), "module"});
  (void)load_pvh(guest.memory, file, request);
  return 0;
}
