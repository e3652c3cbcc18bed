// husk: random operands of differential tests
#include "dice.h"

#include <algorithm>
#include <iterator>

namespace husk::differential {

std::uint64_t Dice::integer() {
  static constexpr std::uint64_t kEdges[] = {0,
                                             1,
                                             2,
                                             0x7F,
                                             0x80,
                                             0xFF,
                                             0x100,
                                             0x7FFF,
                                             0x8000,
                                             0xFFFF,
                                             0x10000,
                                             0x7FFF'FFFF,
                                             0x8000'0000,
                                             0xFFFF'FFFF,
                                             0x1'0000'0000,
                                             0x7FFF'FFFF'FFFF'FFFF,
                                             0x8000'0000'0000'0000,
                                             0xFFFF'FFFF'FFFF'FFFF,
                                             0xFFFF'FFFF'8000'0000,
                                             0x5555'5555'5555'5555,
                                             0xAAAA'AAAA'AAAA'AAAA,
                                             0x0102'0304'0506'0708};
  const std::uint64_t r = next();
  switch (r & 7) {
    case 0: return kEdges[(r >> 8) % std::size(kEdges)];
    case 1: return (r >> 8) & 0x7F;
    case 2: return std::uint64_t{1} << (r >> 8 & 63);
    case 3: return (std::uint64_t{1} << (r >> 8 & 63)) - (r >> 16 & 3) + 1;
    case 4: return ~((r >> 8) & 0xFF);
    case 5: return next() >> (r >> 8 & 63);
    default: return next();
  }
}

std::uint32_t Dice::single() {
  static constexpr std::uint32_t kEdges[] = {0,          1,          0x007FFFFF, 0x00800000, 0x00400000, 0x3F800000,
                                             0x3F7FFFFF, 0x3F800001, 0x40000000, 0x3F000000, 0x7F7FFFFF, 0x7F800000,
                                             0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 0x7FC12345, 0x4B000000,
                                             0x4B800000, 0x4EFFFFFF, 0x4F000000, 0x4F800000, 0x5F000000, 0x40490FDB,
                                             0x33800000, 0x34000000, 0x00FFFFFF, 0x477FE000, 0x38800000, 0x33000000};
  const std::uint64_t r = next();
  const std::uint32_t sign = static_cast<std::uint32_t>(r >> 63) << 31;
  switch (r & 7) {
    case 0:
    case 1:
    case 2: return kEdges[(r >> 8) % std::size(kEdges)] ^ sign;
    // Near one, so that sums cancel and products stay in range.
    case 3:
      return sign | static_cast<std::uint32_t>((0x7F - 12 + (r >> 8) % 25) << 23) |
             (static_cast<std::uint32_t>(r >> 32) & 0x7FFFFF);
    // Few significant bits: exact results and ties.
    case 4:
      return sign | static_cast<std::uint32_t>((0x7F - 26 + (r >> 8) % 52) << 23) |
             (static_cast<std::uint32_t>(r >> 32) & 0x700001);
    // Denormal and near the ends.
    case 5: return sign | (static_cast<std::uint32_t>(r >> 32) & 0x01FFFFFF) >> (r >> 8 & 15);
    case 6: return sign | 0x7E000000 | (static_cast<std::uint32_t>(r >> 32) & 0x01FFFFFF);
    default: return static_cast<std::uint32_t>(r >> 16);
  }
}

std::uint64_t Dice::real() {
  static constexpr std::uint64_t kEdges[] = {0,
                                             1,
                                             0x000FFFFFFFFFFFFF,
                                             0x0010000000000000,
                                             0x0008000000000000,
                                             0x3FF0000000000000,
                                             0x3FEFFFFFFFFFFFFF,
                                             0x3FF0000000000001,
                                             0x4000000000000000,
                                             0x3FE0000000000000,
                                             0x7FEFFFFFFFFFFFFF,
                                             0x7FF0000000000000,
                                             0x7FF0000000000001,
                                             0x7FF7FFFFFFFFFFFF,
                                             0x7FF8000000000000,
                                             0x7FFFFFFFFFFFFFFF,
                                             0x7FF8123456789ABC,
                                             0x4330000000000000,
                                             0x4340000000000000,
                                             0x41DFFFFFFFC00000,
                                             0x41E0000000000000,
                                             0x41EFFFFFFFE00000,
                                             0x43E0000000000000,
                                             0x43DFFFFFFFFFFFFF,
                                             0x400921FB54442D18,
                                             0x3CA0000000000000,
                                             0x3CB0000000000000,
                                             0x47EFFFFFE0000000,
                                             0x3810000000000000,
                                             0x36A0000000000000,
                                             0x3690000000000000,
                                             0x47EFFFFFF0000000};
  const std::uint64_t r = next();
  const std::uint64_t sign = r & 0x8000'0000'0000'0000;
  const std::uint64_t fraction = next() >> 12;
  switch (r & 7) {
    case 0:
    case 1:
    case 2: return kEdges[(r >> 8) % std::size(kEdges)] ^ sign;
    case 3: return sign | ((0x3FF - 12 + (r >> 8) % 25) << 52) | fraction;
    case 4: return sign | ((0x3FF - 54 + (r >> 8) % 108) << 52) | (fraction & 0xE000000000001);
    case 5: return sign | ((fraction & 0x001F'FFFF'FFFF'FFFF) >> (r >> 8 & 31));
    // Around the range of single precision.
    case 6: return sign | ((0x380 + (r >> 8) % 256) << 52) | (fraction & 0xFFFFFE0000001);
    default: return next();
  }
}

Dice::Extended Dice::extended() {
  static constexpr Extended kEdges[] = {{0, 0},
                                        {1, 0},
                                        {0x7FFF'FFFF'FFFF'FFFF, 0},
                                        {0x8000'0000'0000'0000, 0} /* pseudo-denormal */,
                                        {0x8000'0000'0000'0000, 1},
                                        {0xFFFF'FFFF'FFFF'FFFF, 1},
                                        {0x8000'0000'0000'0000, 0x3FFF},
                                        {0xFFFF'FFFF'FFFF'FFFF, 0x3FFE},
                                        {0x8000'0000'0000'0001, 0x3FFF},
                                        {0x8000'0000'0000'0000, 0x4000},
                                        {0x8000'0000'0000'0000, 0x3FFE},
                                        {0xC90F'DAA2'2168'C235, 0x4000},
                                        {0xC90F'DAA2'2168'C235, 0x3FFE},
                                        {0xFFFF'FFFF'FFFF'FFFF, 0x7FFE},
                                        {0x8000'0000'0000'0000, 0x7FFE},
                                        {0x8000'0000'0000'0000, 0x7FFF},
                                        {0x8000'0000'0000'0001, 0x7FFF} /* SNaN */,
                                        {0xBFFF'FFFF'FFFF'FFFF, 0x7FFF},
                                        {0xC000'0000'0000'0000, 0x7FFF},
                                        {0xFFFF'FFFF'FFFF'FFFF, 0x7FFF},
                                        {0, 0x7FFF} /* pseudo-infinity */,
                                        {1, 0x7FFF} /* pseudo-NaN */,
                                        {0x4000'0000'0000'0000, 0x7FFF},
                                        {0, 0x3FFF} /* unnormal */,
                                        {0x4000'0000'0000'0000, 0x4005},
                                        {0x8000'0000'0000'0000, 0x403E},
                                        {0xFFFF'FFFF'FFFF'FFFF, 0x403D},
                                        {0x8000'0000'0000'0000, 0x403F},
                                        {0xDE0B'6B3A'763F'FFF0, 0x403A} /* 10^18-1 */,
                                        {0xDE0B'6B3A'7640'0000, 0x403A},
                                        {0xFFFF'FF00'0000'0000, 0x407E},
                                        {0x8000'0000'0000'0000, 0x3F81},
                                        {0xFFFF'FFFF'FFFF'F800, 0x43FE},
                                        {0xFFFF'0000'0000'0000, 0x400D},
                                        {0xFFFE'0000'0000'0000, 0x400D},
                                        {0xB504'F333'F9DE'6484, 0x3FFE}};
  const std::uint64_t r = next();
  const auto sign = static_cast<std::uint16_t>(r >> 48 & 0x8000);
  const std::uint64_t integer_bit = 0x8000'0000'0000'0000;
  switch (r & 7) {
    case 0:
    case 1:
    case 2: {
      Extended e = kEdges[(r >> 8) % std::size(kEdges)];
      e.sign_exponent ^= sign;
      return e;
    }
    case 3: return {next() | integer_bit, static_cast<std::uint16_t>(sign | (0x3FFF - 12 + (r >> 8) % 25))};
    case 4: {
      // Few significant bits at some place.
      const std::uint64_t bits = integer_bit | (next() & 0xF) << (r >> 16 & 63);
      return {bits, static_cast<std::uint16_t>(sign | (0x3FFF - 70 + (r >> 8) % 140))};
    }
    case 5: return {next() >> (r >> 8 & 63), static_cast<std::uint16_t>(sign | (r >> 16 & 1))};
    case 6: {
      const std::uint64_t wide = real() & ~integer_bit;
      const auto exponent = wide >> 52;
      if (exponent == 0 || exponent == 0x7FF) return {integer_bit, static_cast<std::uint16_t>(sign | 0x3FFF)};
      return {integer_bit | wide << 11, static_cast<std::uint16_t>(sign | (exponent - 0x3FF + 0x3FFF))};
    }
    default: return {next() | (r >> 8 & 15 ? integer_bit : 0), static_cast<std::uint16_t>(r >> 16)};
  }
}

void Dice::fill_singles(std::uint8_t* out, unsigned size) {
  for (unsigned i = 0; i < size; i += 4) {
    const std::uint32_t value = single();
    std::memcpy(out + i, &value, std::min(4u, size - i));
  }
}

void Dice::fill_reals(std::uint8_t* out, unsigned size) {
  for (unsigned i = 0; i < size; i += 8) {
    const std::uint64_t value = real();
    std::memcpy(out + i, &value, std::min(8u, size - i));
  }
}

void Dice::fill_text(std::uint8_t* out, unsigned size) {
  const unsigned letters = 1 + below(4);
  const bool zeros = one_in(2);
  for (unsigned i = 0; i < size; ++i) out[i] = static_cast<std::uint8_t>(below(letters) + (zeros ? 0 : 'a'));
}

void Dice::fill(std::uint8_t* out, unsigned size) {
  switch (below(8)) {
    case 0:
    case 1: {
      const unsigned width = 1u << below(4);
      for (unsigned i = 0; i < size; i += width) {
        const std::uint64_t value = integer();
        std::memcpy(out + i, &value, std::min(width, size - i));
      }
      return;
    }
    case 2: return fill_singles(out, size);
    case 3: return fill_reals(out, size);
    case 4: return fill_text(out, size);
    case 5: {
      const Extended e = extended();
      std::uint8_t bytes[16] = {};
      std::memcpy(bytes, &e.significand, 8);
      std::memcpy(bytes + 8, &e.sign_exponent, 2);
      for (unsigned i = 0; i < size; i += 16) std::memcpy(out + i, bytes, std::min(16u, size - i));
      return;
    }
    default:
      for (unsigned i = 0; i < size; i += 8) {
        const std::uint64_t value = next();
        std::memcpy(out + i, &value, std::min(8u, size - i));
      }
  }
}

}  // namespace husk::differential
