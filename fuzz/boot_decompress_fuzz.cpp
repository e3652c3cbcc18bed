// husk: any bytes as a compressed stream; built once for each format
#include <span>

#include "base/check.h"
#include "boot/decompress.h"

using namespace husk::boot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kLimit = 1u << 20;
  const std::span<const std::uint8_t> input(data, size);
  (void)detect_compression(input);
  const auto out = decompress(Compression::HUSK_FUZZ_FORMAT, input, kLimit, size == 0 ? 0 : std::size_t{data[0]} << 12);
  if (out) HUSK_CHECK(out->data.size() <= kLimit && out->consumed <= size);
  return 0;
}
