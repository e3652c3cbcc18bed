// husk: any bytes as a Multiboot image; the first ones choose the modules
#include <span>

#include "boot/multiboot.h"
#include "boot/test_images.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static testing::TestMemory guest(4u << 20);
  const std::span<const std::uint8_t> file(data + 1, size - 1);
  auto request = guest.request();
  for (unsigned i = 0; i < (data[0] & 3u); ++i) request.modules.push_back({file.first(file.size() / (i + 1)), "m"});
  (void)load_multiboot(guest.memory, file, request);
  return 0;
}
