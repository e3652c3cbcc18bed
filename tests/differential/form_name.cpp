// husk: names and background memory of differential tests
#include "test_case.h"

namespace husk::differential {

std::string form_name(std::uint16_t form) {
  return std::string(cpu::forms()[form].mnemonic) + " [" + std::string(cpu::forms()[form].encoding) + "]";
}

std::vector<std::uint8_t> background_data() {
  // Vectors depend on these bytes: they must never change.
  std::vector<std::uint8_t> bytes(kDataSize);
  std::uint64_t x = 0x6A09E667F3BCC908;
  for (unsigned at = 0; at < kDataSize; at += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    const std::uint64_t word = at / 64 % 4 == 3 ? 0 : at / 64 % 4 == 2 ? x & 0x0000'00FF'0000'00FF : x;
    for (unsigned i = 0; i < 8; ++i) bytes[at + i] = static_cast<std::uint8_t>(word >> (8 * i));
  }
  return bytes;
}

}  // namespace husk::differential
