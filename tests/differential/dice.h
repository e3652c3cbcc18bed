// husk: random operands of differential tests, biased to the values at which processors and programs go wrong
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace husk::differential {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    // SplitMix64 (Steele, Lea, Flood 2014).
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  /// 0 to n-1.
  unsigned below(unsigned n) { return static_cast<unsigned>(((next() >> 32) * n) >> 32); }
  bool one_in(unsigned n) { return below(n) == 0; }
  bool percent(unsigned p) { return below(100) < p; }

  /// An integer: edges of every size, small numbers, powers of two and their neighbours, or anything.
  std::uint64_t integer();
  std::uint32_t single();
  std::uint64_t real();
  /// Significand and sign with exponent of an 80-bit number, invalid encodings among them.
  struct Extended {
    std::uint64_t significand;
    std::uint16_t sign_exponent;
  };
  Extended extended();
  /// `size` bytes of one kind: integers of some width, singles, doubles, text of few letters, anything.
  void fill(std::uint8_t* out, unsigned size);
  void fill_singles(std::uint8_t* out, unsigned size);
  void fill_reals(std::uint8_t* out, unsigned size);
  void fill_text(std::uint8_t* out, unsigned size);

 private:
  std::uint64_t state_;
};

}  // namespace husk::differential
