// husk: 128-bit fixed-point arithmetic and constants behind the x87's transcendental functions
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/softfloat/parts.h"

/// Qn: an unsigned 128-bit number worth its value / 2^n.
namespace husk::fp {

/// The upper half of the 256-bit product, at most 2 too small: the product of the low halves is left out.
constexpr U128 multiply_high(U128 a, U128 b) {
  const U128 middle1 = static_cast<U128>(high64(a)) * low64(b);
  const U128 middle2 = static_cast<U128>(low64(a)) * high64(b);
  return static_cast<U128>(high64(a)) * high64(b) + high64(middle1) + high64(middle2) +
         high64(static_cast<U128>(low64(middle1)) + low64(middle2));
}

/// a / b in Q127 for a, b with bit 127 set; relative error below 2^-122.
constexpr U128 divide_normalised(U128 a, U128 b) {
  constexpr U128 kOne = static_cast<U128>(1) << 127;
  // One Newton step from a reciprocal of 63 bits that is never too large.
  const U128 start = high64(b) == ~std::uint64_t{0} ? kOne : (~static_cast<U128>(0) / (high64(b) + 1)) << 63;
  const U128 error = kOne - multiply_high(b, start);
  const U128 reciprocal = start + (multiply_high(start, error) << 1);
  return multiply_high(a, reciprocal);
}

/// coefficients[0] +- z * (coefficients[1] +- z * ...) with minus if alternating. z is Q128; the result has the Q of
/// the coefficients, whose partial sums must fit.
template <std::size_t N>
constexpr U128 polynomial(const std::array<U128, N>& coefficients, U128 z, bool alternating) {
  U128 sum = coefficients[N - 1];
  for (std::size_t i = N - 1; i-- > 0;) {
    const U128 term = multiply_high(sum, z);
    sum = alternating ? coefficients[i] - term : coefficients[i] + term;
  }
  return sum;
}

/// 1 / (first + step * k)!, in Q127.
template <std::size_t N>
constexpr std::array<U128, N> inverse_factorials(unsigned first, unsigned step) {
  std::array<U128, N> result{};
  U128 term = static_cast<U128>(1) << 127;
  unsigned n = 1;
  for (std::size_t k = 0; k < N; ++k) {
    for (; n <= first + step * k; ++n) term /= n;
    result[k] = term;
  }
  return result;
}
/// 1 / (first + step * k), in Q127.
template <std::size_t N>
constexpr std::array<U128, N> inverses(unsigned first, unsigned step) {
  std::array<U128, N> result{};
  for (std::size_t k = 0; k < N; ++k) result[k] = (static_cast<U128>(1) << 127) / (first + step * k);
  return result;
}

inline constexpr U128 kLn2 = make128(0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af);    // Q128
inline constexpr U128 kLog2E = make128(0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89);  // Q127
inline constexpr U128 kPi = make128(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1);     // Q126
/// atan(k / 32), Q127
inline constexpr std::array<U128, 33> kArcTangents{
    make128(0x0000000000000000, 0x0000000000000000), make128(0x03ffaab7752ec495, 0x09de75ddb76a3188),
    make128(0x07fd56edcb3f7a71, 0xb6593c96e071706b), make128(0x0bf70c1301788746, 0x093567e784cf8367),
    make128(0x0feadd4d5617b6e3, 0x2c897989f3e888ef), make128(0x13d6eee8c6626c58, 0x68ec33a4a06c1fd1),
    make128(0x17b97b4bce5b0226, 0x8f6169f103938e91), make128(0x1b90d7529260a204, 0x5ec434b8396aa5e0),
    make128(0x1f5b75f92c80dd62, 0xadb8f3debef442fd), make128(0x2317eb4617e2f04c, 0x3291d22c6fe20a63),
    make128(0x26c4ee6e0fd7979a, 0x716aed26349ebcca), make128(0x2a615b32a39a93b6, 0xa66dfddefdf67a30),
    make128(0x2dec3283c9bde11c, 0xe2a8c848b73f9121), make128(0x31649a7294364adb, 0x685d1ba47d428a37),
    make128(0x34c9dd879847f96d, 0x909f257a40079c4e), make128(0x381b69929d93df19, 0xf18c7b659e632e01),
    make128(0x3b58ce0ac3769ed1, 0x5bf9117b2f0ea341), make128(0x3e81ba16a8282f97, 0x19b48f1f57723b31),
    make128(0x4195fa536cc33f15, 0x25b504e5b0d28ae0), make128(0x4495766fef4aa3da, 0x84a23c7e2395a57e),
    make128(0x47802eaf7bfacfcd, 0xae41af0b32e21ba4), make128(0x4a563964c238c37b, 0x0c6279c9fbc5197c),
    make128(0x4d17c07338deed10, 0x21137c711027f9de), make128(0x4fc4fee27a5bd0f6, 0x7c5a4932278380f0),
    make128(0x525e3e8c9a7b8492, 0x0cd43f9522bed64f), make128(0x54e3d5ee24187ae4, 0x48b5425adf3c99fb),
    make128(0x5756261c5a6c6040, 0x0a392f179f290385), make128(0x59b598e48f821b48, 0xac80a0ba22317c9d),
    make128(0x5c029f15e118cf39, 0xe596d2a90852221f), make128(0x5e3daef574c57940, 0x6a0898037407d948),
    make128(0x606742dc56293320, 0x44eeb16237497d12), make128(0x627fd7fd5fc7deaa, 0x465a1e885e4f0111),
    make128(0x6487ed5110b4611a, 0x62633145c06e0e69),
};

}  // namespace husk::fp
