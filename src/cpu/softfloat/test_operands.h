// husk: operands for the softfloat tests, drawn towards the edges of each format
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "cpu/softfloat/softfloat.h"

namespace husk::fp::test {

/// HUSK_FP_SCALE multiplies the number of comparisons, HUSK_FP_SEED replaces the seed.
inline std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 0) : otherwise;
}

/// xorshift64* (S. Vigna): repeatable on every host, unlike the distributions of <random>.
class Dice {
 public:
  explicit Dice(std::uint64_t salt)
      : state_(setting("HUSK_FP_SEED", 0x9e3779b97f4a7c15) ^ (salt * 0xd1342543de82ef95)) {
    if (state_ == 0) state_ = 1;
    for (int i = 0; i < 8; ++i) next();
  }
  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }
  unsigned below(unsigned n) { return static_cast<unsigned>((next() >> 33) % n); }
  int around(int spread) { return static_cast<int>(below(static_cast<unsigned>(2 * spread + 1))) - spread; }

  /// A significand of width bits whose ones and zeros come in shapes that make carries and ties.
  std::uint64_t shape(int width) {
    const std::uint64_t mask = ~std::uint64_t{0} >> (64 - width);
    const auto position = [&] { return below(static_cast<unsigned>(width)); };
    switch (below(8)) {
      case 0: return next() & mask;
      case 1: return 0;
      case 2: return mask;
      case 3: return (std::uint64_t{1} << position()) & mask;
      case 4: return (mask << position()) & mask;
      case 5: return mask >> position();
      case 6: return ((std::uint64_t{1} << position()) | (std::uint64_t{1} << position())) & mask;
      default: return (next() << position()) & mask;
    }
  }

  template <class T>
  typename T::Bits narrow() {
    using Bits = typename T::Bits;
    constexpr unsigned kTop = (1U << T::kExponent) - 1;
    constexpr unsigned kBias = kTop >> 1;
    unsigned exponent = 0;
    switch (below(8)) {
      case 0: return static_cast<Bits>(next());
      case 1: exponent = 0; break;
      case 2: exponent = kTop; break;
      case 3: exponent = 1 + below(3); break;
      case 4: exponent = kTop - 1 - below(3); break;
      case 5: exponent = kBias + static_cast<unsigned>(around(3)); break;
      case 6: exponent = (kBias + below(70)) % kTop; break;
      default: exponent = below(kTop); break;
    }
    return assemble<T>(exponent, shape(T::kFraction));
  }
  /// An operand whose exponent stands in a relation to that of a that makes alignment, cancellation or tiny results.
  template <class T>
  typename T::Bits partner(typename T::Bits a) {
    constexpr int kTop = (1 << T::kExponent) - 1;
    constexpr int kBias = kTop >> 1;
    const int of_a = static_cast<int>(a >> T::kFraction) & kTop;
    int exponent;
    switch (below(8)) {
      case 0: return static_cast<typename T::Bits>(a + static_cast<typename T::Bits>(around(2)));
      case 1:
        return static_cast<typename T::Bits>((a ^ (std::uint64_t{1} << (T::kFraction + T::kExponent))) +
                                             static_cast<std::uint64_t>(around(2)));
      case 2: exponent = of_a + around(2); break;
      case 3: exponent = of_a + around(T::kFraction + 4); break;
      case 4: exponent = kBias - of_a + around(T::kFraction + 3); break;  // a tiny product
      case 5: exponent = of_a + kBias + around(T::kFraction + 3); break;  // a tiny quotient
      case 6: exponent = 2 * kBias + kBias - of_a + around(2); break;     // a huge product
      default: return narrow<T>();
    }
    if (exponent < 0 || exponent > kTop) return narrow<T>();
    return assemble<T>(static_cast<unsigned>(exponent), shape(T::kFraction));
  }

  F80 extended() {
    unsigned exponent = 0;
    switch (below(10)) {
      case 0: return {next(), static_cast<std::uint16_t>(next())};
      case 1: exponent = 0; break;
      case 2: exponent = 0x7fff; break;
      case 3: exponent = 1 + below(3); break;
      case 4: exponent = 0x7ffe - below(3); break;
      case 5: exponent = 0x3fff + static_cast<unsigned>(around(3)); break;
      case 6: exponent = 0x3fff + below(70); break;
      case 7: exponent = 0x3fff - 1023 + static_cast<unsigned>(around(60)); break;
      case 8: exponent = 0x3fff + (below(2) ? 1023U : 127U) + static_cast<unsigned>(around(2)); break;
      default: exponent = below(0x7fff); break;
    }
    return assemble80(exponent);
  }
  F80 partner80(F80 a) {
    const int of_a = static_cast<int>(a.biased());
    int exponent;
    switch (below(8)) {
      case 0: return {a.sig + static_cast<std::uint64_t>(around(2)), a.sign_exp};
      case 1: return {a.sig + static_cast<std::uint64_t>(around(2)), static_cast<std::uint16_t>(a.sign_exp ^ 0x8000U)};
      case 2: exponent = of_a + around(2); break;
      case 3: exponent = of_a + around(70); break;
      case 4: exponent = 0x3fff - of_a + around(70); break;
      case 5: exponent = of_a + 0x3fff + around(70); break;
      case 6: exponent = 3 * 0x3fff - of_a + around(2); break;
      default: return extended();
    }
    if (exponent < 0 || exponent > 0x7fff) return extended();
    return assemble80(static_cast<unsigned>(exponent));
  }

 private:
  template <class T>
  typename T::Bits assemble(unsigned exponent, std::uint64_t fraction) {
    return static_cast<typename T::Bits>((next() >> 63 << (T::kFraction + T::kExponent)) |
                                         (static_cast<std::uint64_t>(exponent) << T::kFraction) | fraction);
  }
  F80 assemble80(unsigned exponent) {
    std::uint64_t sig = shape(63);
    // Mostly proper encodings; now and then unnormals, pseudo-denormals, pseudo-NaNs.
    if ((exponent != 0) != (below(24) == 0)) sig |= std::uint64_t{1} << 63;
    return {sig, static_cast<std::uint16_t>((next() >> 63 << 15) | exponent)};
  }
  std::uint64_t state_;
};

}  // namespace husk::fp::test
