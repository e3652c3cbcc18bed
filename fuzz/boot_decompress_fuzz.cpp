// husk: any bytes as a compressed stream; built once for each format
#include <span>

#include "base/check.h"
#include "boot/decompress.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Small, for speed: what a decoder does does not change with the size of its output and dictionary, but a cleared
  // dictionary of 64 MiB, as a kernel's, lets 15 inputs pass in a second.
  constexpr std::size_t kLimit = 64u << 10, kMemory = 512u << 10;
  const std::span<const std::uint8_t> input(data, size);
  (void)detect_compression(input);
  const auto out = decompress(Compression::HUSK_FUZZ_FORMAT, input, kLimit, size == 0 ? 0 : std::size_t{data[0]} << 8, kMemory);
  if (out) HUSK_CHECK(out->data.size() <= kLimit && out->consumed <= size);
  return 0;
}
