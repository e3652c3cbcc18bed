// husk: the x87's partial remainders
#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

Remainder remainder(F80 a, F80 b, bool nearest, Env& env) {
  const Parts pa = unpack80(a);
  const Parts pb = unpack80(b);
  if (pa.kind > Kind::kInfinity || pb.kind > Kind::kInfinity) return {propagate80(a, pa, b, pb, env)};
  if (pa.infinite() || pb.zero()) return {invalid80(env)};
  if (pa.denormal || pb.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return {a};
  }
  if (pa.zero()) return {a};
  const int distance = pa.exp - pb.exp;
  if (pb.infinite() || distance < -1 || (distance < 0 && !nearest))
    return {round_pack80(pa.sign, pa.exp, make128(pa.sig, 0), 64, env)};
  // From 64 on the exponent is reduced by some 32 to 63 a time (SDM vol. 2, FPREM); this count is the processors'.
  const bool partial = distance >= 64;
  const int count = partial ? (distance & 31) | 32 : distance;
  int exp = partial ? pa.exp - count : pb.exp;
  std::uint64_t rest, quotient;
  if (distance < 0) {
    rest = pa.sig >> 1;  // one bit is lost; it is put back below
    quotient = 0;
  } else {
    const U128 numerator = static_cast<U128>(pa.sig) << count;
    const U128 whole = numerator / pb.sig;
    rest = static_cast<std::uint64_t>(numerator - whole * pb.sig);
    quotient = low64(whole);
  }
  bool sign = pa.sign;
  if (nearest && !partial) {
    // Compare twice the remainder with the divisor; with distance -1 the dividend is pa.sig / 2.
    const U128 twice = distance < 0 ? static_cast<U128>(pa.sig) : static_cast<U128>(rest) << 1;
    if (twice > pb.sig || (twice == pb.sig && (quotient & 1))) {
      const U128 left = (static_cast<U128>(pb.sig) << 1) - twice;
      sign = !sign;
      ++quotient;
      const int shift = leading_zeros(left);
      return {round_pack80(sign, exp - 1 + 64 - shift, left << shift, 64, env), static_cast<std::uint8_t>(quotient & 7),
              false};
    }
    if (distance < 0) return {round_pack80(sign, pa.exp, make128(pa.sig, 0), 64, env), 0, false};
  }
  const auto low = static_cast<std::uint8_t>(partial ? 0 : quotient & 7);
  if (rest == 0) return {zero80(sign), low, partial};
  const int shift = std::countl_zero(rest);
  exp -= shift;
  return {round_pack80(sign, exp, make128(rest << shift, 0), 64, env), low, partial};
}

}  // namespace

Remainder f80_remainder_truncated(F80 a, F80 b, Env& env) { return remainder(a, b, false, env); }
Remainder f80_remainder_nearest(F80 a, F80 b, Env& env) { return remainder(a, b, true, env); }

}  // namespace husk::fp
