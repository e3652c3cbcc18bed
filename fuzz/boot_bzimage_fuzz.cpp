// husk: any bytes as a bzImage, or as the vmlinux inside a well-formed one
#include <span>

#include "boot/bzimage.h"
#include "boot/kernel_file.h"
#include "boot/test_images.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static testing::TestMemory guest(4u << 20, 1u << 20);
  const std::uint8_t mode = data[0];
  const std::span<const std::uint8_t> rest(data + 1, size - 1);
  auto request = guest.request();
  request.guest_decompress = mode & 1;
  request.command_line = "console=ttyS0";
  if (mode & 4) request.modules.push_back({rest.first(rest.size() / 2), ""});
  if (mode & 8) request.setup_data.push_back({SetupData::kRngSeed, {1, 2, 3}});
  if (mode & 2) {
    const auto image = testing::make_bzimage(rest, {.init_size = 0x1000, .preferred_address = 0x10'0000});
    (void)load_bzimage(guest.memory, image, request);
    (void)symbols_of_kernel(image, "fuzz");
  } else {
    (void)load_kernel(guest.memory, rest, "fuzz", request);
    (void)load_bzimage(guest.memory, rest, request);
    (void)symbols_of_kernel(rest, "fuzz");
  }
  return 0;
}
