// husk: byte strings for decoder tests
#include "byte_source.h"

namespace husk::cpu::testing {

namespace {

void fill(Sample& sample, std::size_t from, std::mt19937_64& random) {
  std::uint64_t word = 0;
  for (std::size_t i = from; i < sample.size(); ++i) {
    if ((i - from) % 8 == 0) word = random();
    sample[i] = static_cast<std::uint8_t>(word);
    word >>= 8;
  }
}

/// Writes 0F, 0F 38 or 0F 3A for maps 1 to 3.
std::size_t put_map(Sample& sample, std::size_t at, unsigned map) {
  if (map >= 1) sample[at++] = 0x0F;
  if (map >= 2) sample[at++] = map == 2 ? 0x38 : 0x3A;
  return at;
}

using Take = std::function<void(const Sample&)>;

void for_each_legacy_opcode(bool long_mode, std::mt19937_64& random, const Take& take) {
  constexpr std::uint8_t kMandatory[] = {0, 0x66, 0xF3, 0xF2};
  Sample sample{};
  for (unsigned map = 0; map < 4; ++map) {
    for (unsigned prefix = 0; prefix < 4; ++prefix) {
      for (unsigned w = 0; w < (long_mode ? 2u : 1u); ++w) {
        for (unsigned low = 0; low < 0x10000; ++low) {
          std::size_t at = 0;
          if (prefix != 0) sample[at++] = kMandatory[prefix];
          if (w != 0) sample[at++] = 0x48;
          at = put_map(sample, at, map);
          sample[at++] = static_cast<std::uint8_t>(low >> 8);
          sample[at++] = static_cast<std::uint8_t>(low);
          fill(sample, at, random);
          take(sample);
        }
      }
    }
  }
}

void for_each_vex_opcode(std::mt19937_64& random, const Take& take) {
  Sample sample{};
  for (unsigned map = 1; map < 4; ++map) {
    for (unsigned payload = 0; payload < 16; ++payload) {
      // W, L and pp; vvvv is unused or register 1, so that forms with and without it are met.
      for (const unsigned vvvv : {0x78u, 0x70u}) {
        for (unsigned low = 0; low < 0x10000; ++low) {
          sample[0] = 0xC4;
          sample[1] = static_cast<std::uint8_t>(0xE0 | map);
          sample[2] = static_cast<std::uint8_t>((payload & 8) << 4 | vvvv | (payload & 7));
          sample[3] = static_cast<std::uint8_t>(low >> 8);
          sample[4] = static_cast<std::uint8_t>(low);
          fill(sample, 5, random);
          take(sample);
        }
      }
    }
  }
}

/// EVEX (and the older MVEX, told apart by one bit) and XOP, which husk does not have: a few samples of every opcode.
void for_each_foreign_opcode(std::mt19937_64& random, const Take& take) {
  Sample sample{};
  for (unsigned low = 0; low < 0x8000; ++low) {
    const unsigned map = low >> 8 & 3;
    const unsigned opcode = low & 0xFF;
    const unsigned pp = low >> 10 & 3;
    const unsigned w = low >> 12 & 1;
    for (unsigned modrm : {0x00u, 0x08u, 0x10u, 0x18u, 0x20u, 0x28u, 0x30u, 0x38u, 0xC0u, 0xD1u, 0xEAu, 0xF3u}) {
      sample = {
          0x62, static_cast<std::uint8_t>(0xF0 | map), static_cast<std::uint8_t>(w << 7 | 0x78 | (low >> 11 & 4) | pp),
          0x08, static_cast<std::uint8_t>(opcode),     static_cast<std::uint8_t>(modrm)};
      fill(sample, 6, random);
      take(sample);
      sample = {0x8F, static_cast<std::uint8_t>(0xE8 | map), static_cast<std::uint8_t>(w << 7 | 0x78 | pp),
                static_cast<std::uint8_t>(opcode), static_cast<std::uint8_t>(modrm)};
      fill(sample, 5, random);
      take(sample);
    }
  }
}

}  // namespace

void for_each_opcode(CodeSize code_size, std::mt19937_64& random, const std::function<void(const Sample&)>& take) {
  for_each_legacy_opcode(code_size == CodeSize::bits64, random, take);
  for_each_vex_opcode(random, take);
  for_each_foreign_opcode(random, take);
  // 32-bit addressing in 64-bit mode with REX.B and a SIB byte without base.
  take({0x67, 0x41, 0x8B, 0x04, 0x25, 1, 2, 3, 4});
}

Sample random_sample(CodeSize code_size, std::mt19937_64& random) {
  constexpr std::uint8_t kPrefixes[] = {0x66, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0xF3, 0x26,
                                        0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0xF2, 0x40};
  Sample sample;
  std::uint64_t dice = random();
  const auto draw = [&](unsigned bits) {
    const unsigned value = static_cast<unsigned>(dice & ((1u << bits) - 1));
    dice >>= bits;
    return value;
  };
  std::size_t at = 0;
  if (draw(4) == 0) {
    fill(sample, 0, random);
    return sample;
  }
  // 0 to 3 prefixes, now and then up to 13, so that the limit of 15 bytes is met.
  unsigned prefixes = draw(2);
  if (draw(4) == 0)
    prefixes = draw(4) % 14;
  else if (draw(1) == 0)
    prefixes = 0;
  for (unsigned i = 0; i < prefixes; ++i) {
    if (i % 8 == 7) dice ^= random();
    sample[at++] = kPrefixes[draw(4)];
  }
  dice = random();
  const unsigned kind = draw(4);
  if (kind < 12) {
    if (code_size == CodeSize::bits64 && draw(1)) sample[at++] = static_cast<std::uint8_t>(0x40 | draw(4));
    at = put_map(sample, at, kind < 5 ? 0 : kind < 9 ? 1 : kind < 11 ? 2 : 3);
  } else {
    if (prefixes != 0 && draw(3) != 0) at = 0;
    if (kind < 13) {
      sample[at++] = 0xC5;
    } else {
      sample[at++] = 0xC4;
      const unsigned map = draw(4) == 0 ? draw(5) : 1 + draw(4) % 3;
      sample[at++] = static_cast<std::uint8_t>(draw(3) << 5 | map);
    }
    // The payload's vvvv is 1111 half of the time.
    sample[at++] = static_cast<std::uint8_t>(draw(8) | (draw(1) ? 0x78 : 0));
    if (code_size != CodeSize::bits64 && draw(3) != 0) sample[1] |= 0xC0;
  }
  if (at < sample.size()) fill(sample, at, random);
  return sample;
}

}  // namespace husk::cpu::testing
