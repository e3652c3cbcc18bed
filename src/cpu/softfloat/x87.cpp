// husk: arithmetic on the x87's double extended format
#include <utility>

#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

bool ordinary(const Parts& p) { return p.kind <= Kind::kInfinity; }

F80 add_signed(F80 a, F80 b, bool subtract, Env& env, bool source_denormal) {
  Parts pa = unpack80(a);
  Parts pb = unpack80(b);
  if (!ordinary(pa) || !ordinary(pb)) return propagate80(a, pa, b, pb, env);
  pb.sign ^= subtract;
  if (pa.infinite() && pb.infinite() && pa.sign != pb.sign) return invalid80(env);
  if (pa.denormal || pb.denormal || source_denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return a;
  }
  if (pa.infinite()) return infinity80(pa.sign);
  if (pb.infinite()) return infinity80(pb.sign);
  if (pa.zero() && pb.zero()) return zero80(pa.sign == pb.sign ? pa.sign : env.rounding == Rounding::kDown);
  if (pa.zero() || pb.zero()) {
    const Parts& p = pa.zero() ? pb : pa;
    return round_pack80(p.sign, p.exp, make128(p.sig, 0), env.precision, env);
  }
  if (pb.exp > pa.exp || (pb.exp == pa.exp && pb.sig > pa.sig)) std::swap(pa, pb);
  const U128 large = static_cast<U128>(pa.sig) << 63;
  const U128 small = shift_right_jam(static_cast<U128>(pb.sig) << 63, pa.exp - pb.exp);
  const U128 sum = pa.sign == pb.sign ? large + small : large - small;
  if (sum == 0) return zero80(env.rounding == Rounding::kDown);
  const int shift = leading_zeros(sum);
  return round_pack80(pa.sign, pa.exp + 1 - shift, sum << shift, env.precision, env);
}

}  // namespace

F80 f80_add(F80 a, F80 b, Env& env, bool source_denormal) { return add_signed(a, b, false, env, source_denormal); }
F80 f80_sub(F80 a, F80 b, Env& env, bool source_denormal) { return add_signed(a, b, true, env, source_denormal); }

F80 f80_mul(F80 a, F80 b, Env& env, bool source_denormal) {
  const Parts pa = unpack80(a);
  const Parts pb = unpack80(b);
  if (!ordinary(pa) || !ordinary(pb)) return propagate80(a, pa, b, pb, env);
  const bool sign = pa.sign != pb.sign;
  if ((pa.infinite() && pb.zero()) || (pa.zero() && pb.infinite())) return invalid80(env);
  if (pa.denormal || pb.denormal || source_denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return a;
  }
  if (pa.infinite() || pb.infinite()) return infinity80(sign);
  if (pa.zero() || pb.zero()) return zero80(sign);
  const U128 product = static_cast<U128>(pa.sig) * pb.sig;
  const int carry = static_cast<int>(high64(product) >> 63);
  return round_pack80(sign, pa.exp + pb.exp + carry, product << (1 - carry), env.precision, env);
}

F80 f80_div(F80 a, F80 b, Env& env, bool source_denormal) {
  const Parts pa = unpack80(a);
  const Parts pb = unpack80(b);
  if (!ordinary(pa) || !ordinary(pb)) return propagate80(a, pa, b, pb, env);
  const bool sign = pa.sign != pb.sign;
  if ((pa.infinite() && pb.infinite()) || (pa.zero() && pb.zero())) return invalid80(env);
  if (pb.zero() && !pa.infinite())
    env.raise(kZeroDivide);
  else if (pa.denormal || pb.denormal || source_denormal)
    env.raise(kDenormal);
  if (env.stopped()) return a;
  if (pa.infinite() || pb.zero()) return infinity80(sign);
  if (pb.infinite() || pa.zero()) return zero80(sign);
  const bool below = pa.sig < pb.sig;
  const U128 numerator = static_cast<U128>(pa.sig) << (below ? 64 : 63);
  const auto quotient = static_cast<std::uint64_t>(numerator / pb.sig);
  const std::uint64_t rest = low64(numerator) - quotient * pb.sig;
  // What follows the 64 quotient bits: its half bit and stickiness are all that rounding needs.
  const std::uint64_t half = rest >= pb.sig - rest ? kIntegerBit : 0;
  const std::uint64_t sticky = rest != 0 && (half == 0 || rest != pb.sig - rest);
  return round_pack80(sign, pa.exp - pb.exp - below, make128(quotient, half | sticky), env.precision, env);
}

F80 f80_sqrt(F80 a, Env& env) {
  const Parts p = unpack80(a);
  if (!ordinary(p)) return propagate80(a, p, env);
  if (p.zero()) return a;
  if (p.sign) return invalid80(env);
  if (p.infinite()) return a;
  if (p.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return a;
  }
  U128 remainder;
  const int odd = p.exp & 1;
  const std::uint64_t root = square_root(static_cast<U128>(p.sig) << (63 + odd), remainder);
  // (root + 1/2)^2 = root^2 + root + 1/4, so the remainder against root tells the half bit; a tie cannot be.
  const std::uint64_t below = remainder > root ? kIntegerBit | 1 : remainder != 0;
  return round_pack80(false, (p.exp - odd) / 2, make128(root, below), env.precision, env);
}

Relation f80_compare(F80 a, F80 b, bool signalling, Env& env, bool source_denormal) {
  const Parts pa = unpack80(a);
  const Parts pb = unpack80(b);
  if (!ordinary(pa) || !ordinary(pb)) {
    if (signalling || pa.signalling() || pb.signalling() || pa.unsupported() || pb.unsupported()) env.raise(kInvalid);
    return Relation::kUnordered;
  }
  if (pa.denormal || pb.denormal || source_denormal) env.raise(kDenormal);
  if (pa.zero() && pb.zero()) return Relation::kEqual;
  const bool sign_a = pa.zero() ? !pb.sign : pa.sign;
  const bool sign_b = pb.zero() ? !pa.sign : pb.sign;
  if (sign_a != sign_b) return sign_a ? Relation::kLess : Relation::kGreater;
  if (pa.infinite() || pb.infinite()) {
    if (pa.infinite() && pb.infinite()) return Relation::kEqual;
    return pb.infinite() != sign_a ? Relation::kLess : Relation::kGreater;
  }
  if (pa.exp == pb.exp && pa.sig == pb.sig) return Relation::kEqual;
  const bool below = pa.exp != pb.exp ? pa.exp < pb.exp : pa.sig < pb.sig;
  return below != sign_a ? Relation::kLess : Relation::kGreater;
}

F80 f80_round_to_integral(F80 a, Env& env) {
  const Parts p = unpack80(a);
  if (!ordinary(p)) return propagate80(a, p, env);
  if (p.zero() || p.infinite()) return a;
  if (p.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return a;
  }
  if (p.exp >= 63) return a;
  const RoundedInteger r = round_to_integer(p, env.rounding);
  if (r.inexact) env.raise(kPrecision);
  env.c1 |= r.up;
  if (r.value == 0) return zero80(p.sign);
  const int shift = std::countl_zero(r.value);
  return pack80(p.sign, static_cast<unsigned>(kBias80 + 63 - shift), r.value << shift);
}

F80 f80_scale(F80 a, F80 b, Env& env) {
  const Parts pa = unpack80(a);
  const Parts pb = unpack80(b);
  if (!ordinary(pa) || !ordinary(pb)) return propagate80(a, pa, b, pb, env);
  // SDM vol. 2, FSCALE, table 3-24.
  if (pb.infinite() && (pb.sign ? pa.infinite() : pa.zero())) return invalid80(env);
  if (pa.denormal || pb.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return a;
  }
  if (pa.infinite() || pa.zero()) return a;
  if (pb.infinite()) return pb.sign ? zero80(pa.sign) : infinity80(pa.sign);
  int scale = 0;
  if (pb.finite() && pb.exp >= 0) {
    // 2^16 already leaves the range from any operand, also when an unmasked exception wraps the exponent.
    const int magnitude = pb.exp > 16 ? 1 << 17 : static_cast<int>(pb.sig >> (63 - pb.exp));
    scale = pb.sign ? -magnitude : magnitude;
  }
  return round_pack80(pa.sign, pa.exp + scale, make128(pa.sig, 0), 64, env);
}

Extracted f80_extract(F80 a, Env& env) {
  const Parts p = unpack80(a);
  if (!ordinary(p)) {
    const F80 nan = propagate80(a, p, env);
    return {nan, nan};
  }
  if (p.infinite()) return {a, infinity80(false)};
  if (p.zero()) {
    env.raise(kZeroDivide);
    return {a, infinity80(true)};
  }
  if (p.denormal) env.raise(kDenormal);
  return {pack80(p.sign, kBias80, p.sig), f80_from_int64(p.exp)};
}

unsigned f80_examine(F80 a) {
  const Parts p = unpack80(a);
  switch (p.kind) {
    case Kind::kUnsupported: return 0;
    case Kind::kQuietNan:
    case Kind::kSignallingNan: return 1;
    case Kind::kInfinity: return 3;
    case Kind::kZero: return 4;
    case Kind::kFinite: break;
  }
  return p.denormal ? 6 : 2;
}

namespace {

struct Constant {
  std::uint64_t sig;  // truncated to 64 bits; none of the constants is exact
  unsigned biased;
  bool more_than_half;
};
F80 constant(const Constant& c, Rounding rounding) {
  const bool up = rounding == Rounding::kUp || (rounding == Rounding::kNearestEven && c.more_than_half);
  return pack80(false, c.biased, c.sig + up);
}

}  // namespace

F80 f80_pi(Rounding rounding) { return constant({0xc90fdaa22168c234, 0x4000, true}, rounding); }
F80 f80_log2_10(Rounding rounding) { return constant({0xd49a784bcd1b8afe, 0x4000, false}, rounding); }
F80 f80_log2_e(Rounding rounding) { return constant({0xb8aa3b295c17f0bb, 0x3fff, true}, rounding); }
F80 f80_log10_2(Rounding rounding) { return constant({0x9a209a84fbcff798, 0x3ffd, true}, rounding); }
F80 f80_ln_2(Rounding rounding) { return constant({0xb17217f7d1cf79ab, 0x3ffe, true}, rounding); }

}  // namespace husk::fp
