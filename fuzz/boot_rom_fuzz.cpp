// husk: ROM images of any size and content, and accesses around both windows
#include <span>
#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "boot/rom.h"

using namespace husk;
using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  // Sizes near multiples of 64 KiB up to 256 KiB; larger ones differ in nothing but time.
  const std::size_t length = (data[0] % 5) * std::size_t{65536} + data[1] % 3 - 1;
  if (length > 5 * 65536) return 0;
  std::vector<std::uint8_t> image(length);
  for (std::size_t i = 0; i < length; i += 61) image[i] = data[i % size];
  mem::AddressSpace space("fuzz");
  const auto rom = RomImage::map(space, image, "fuzz");
  HUSK_CHECK(rom.has_value() == (length >= 65536 && length % 65536 == 0));
  if (!rom) return 0;
  for (std::size_t i = 2; i + 4 <= size && i < 66; i += 4) {
    const auto offset = load_le<std::uint32_t>(data + i);
    const Gpa low = rom->low().base + offset % (rom->low().length + 16) - 8;
    space.write(mem::Requester::cpu(0), low, offset, 1u << (offset & 3));
    const std::size_t at = offset % length;
    HUSK_CHECK(space.read(mem::Requester::cpu(0), kFourGiB - length + at, 1) == image[at]);
  }
  return 0;
}
