// husk: the x87's transcendental functions, from 128-bit polynomials; errors stay within 0.51 units in the last place
#include <algorithm>

#include "cpu/softfloat/fixed128.h"
#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

/// A positive number sig * 2^(exp - 127), bit 127 of sig set.
struct Wide {
  U128 sig = 0;
  int exp = 0;
};

Wide normalise(U128 sig, int exp) {
  const int shift = leading_zeros(sig);
  return {sig << shift, exp - shift};
}
Wide multiply(Wide a, Wide b) { return normalise(multiply_high(a.sig, b.sig), a.exp + b.exp + 1); }
Wide divide(Wide a, Wide b) {
  // The quotient is in (1/2, 2), in Q127.
  return normalise(divide_normalised(a.sig, b.sig), a.exp - b.exp);
}
/// Value as Q(q); what lies below is cut.
U128 to_fixed(Wide a, int q) {
  const int shift = 127 - a.exp - q;
  return shift >= 128 ? 0 : a.sig >> shift;
}

/// Processors flag every result as inexact, also 2^1 - 1 and the logarithms of powers of two: they compute as here and
/// do not look. So the sticky bit is set.
F80 round_inexact(bool sign, Wide a, Env& env) { return round_pack80(sign, a.exp, a.sig | 1, 64, env); }

bool ordinary(const Parts& p) { return p.kind <= Kind::kInfinity; }

/// Raises the denormal exception where due; true if the instruction stops here.
bool denormal_stops(const Parts& a, Env& env) {
  if (!a.denormal) return false;
  env.raise(kDenormal);
  return env.stopped();
}

// ---- sine and cosine --------------------------------------------------------------------------------------------

constexpr auto kSineTerms = inverse_factorials<15>(3, 2);
constexpr auto kCosineTerms = inverse_factorials<15>(2, 2);

struct Reduced {
  bool negative = false;
  unsigned quadrant = 0;
  Wide angle;
};

// Argument reduction is exact, by the 66-bit pi that the processors use (SDM vol. 1, 8.3.8), |a| < 2^63.
Reduced reduce(const Parts& p) {
  constexpr U128 kHalfPi = make128(3, 0x243f6a8885a308d3);  // Q65
  Reduced r;
  if (p.exp < -1) {
    r.angle = {make128(p.sig, 0), p.exp};
    return r;
  }
  U128 rest = p.sig;
  unsigned quotient = 0;
  int shift = p.exp + 2;  // to units of 2^-65
  while (shift > 0) {
    const int step = std::min(shift, 60);
    rest <<= step;
    const U128 whole = rest / kHalfPi;
    rest -= whole * kHalfPi;
    quotient = (step >= 2 ? 0 : quotient << step) + static_cast<unsigned>(low64(whole) & 3);
    shift -= step;
  }
  if (rest > kHalfPi >> 1) {
    rest = kHalfPi - rest;
    r.negative = true;
    ++quotient;
  }
  r.quadrant = quotient & 3;
  // Never 0: the odd 66-bit constant does not divide a 64-bit number times a power of two.
  r.angle = normalise(rest, 127 - 65);
  return r;
}

U128 squared(Wide a) { return to_fixed({multiply_high(a.sig, a.sig), 2 * a.exp + 1}, 128); }

Wide sine_kernel(Wide a) {
  const U128 z = squared(a);
  const U128 loss = multiply_high(a.sig, multiply_high(z, polynomial(kSineTerms, z, true)) << 1);
  return normalise(a.sig - std::max<U128>(loss, 1), a.exp);
}
Wide cosine_kernel(Wide a) {
  const U128 z = squared(a);
  const U128 loss = multiply_high(z, polynomial(kCosineTerms, z, true)) << 1;  // Q128
  return normalise(0 - std::max<U128>(loss, 1), -1);
}
Wide tangent_kernel(Wide a) {
  if (a.exp < -70) return {a.sig | 1, a.exp};
  return divide(sine_kernel(a), cosine_kernel(a));
}

F80 sine_of(const Parts& p, const Reduced& r, unsigned quadrant, Env& env) {
  quadrant &= 3;
  const bool upper = quadrant & 2;
  if (quadrant & 1) return round_inexact(upper != p.sign, cosine_kernel(r.angle), env);
  return round_inexact((upper != r.negative) != p.sign, sine_kernel(r.angle), env);
}

enum class Function : std::uint8_t { kSine, kCosine, kTangent };

/// NaNs, infinities, denormals and the range, common to all four; true if `out` is the result.
bool special_angle(F80 a, const Parts& p, Trigonometric& out, Env& env) {
  if (!ordinary(p)) {
    out.value = propagate80(a, p, env);
    return true;
  }
  if (p.infinite()) {
    out.value = invalid80(env);
    return true;
  }
  if (p.finite() && p.exp >= 63) {
    out = {a, false};
    return true;
  }
  if (denormal_stops(p, env)) {
    out.value = a;
    return true;
  }
  return false;
}

constexpr F80 kOne80{kIntegerBit, kBias80};

Trigonometric trigonometric(F80 a, Function function, Env& env) {
  const Parts p = unpack80(a);
  Trigonometric out;
  if (special_angle(a, p, out, env)) return out;
  if (p.zero()) return {function == Function::kCosine ? kOne80 : a};
  const Reduced r = reduce(p);
  if (function == Function::kSine) return {sine_of(p, r, r.quadrant, env)};
  if (function == Function::kCosine) {
    Parts positive = p;
    positive.sign = false;
    return {sine_of(positive, r, r.quadrant + 1, env)};
  }
  const bool sign = (r.negative != p.sign) != ((r.quadrant & 1) != 0);
  const Wide value = r.quadrant & 1 ? divide(cosine_kernel(r.angle), sine_kernel(r.angle)) : tangent_kernel(r.angle);
  return {round_inexact(sign, value, env)};
}

}  // namespace

Trigonometric f80_sin(F80 a, Env& env) { return trigonometric(a, Function::kSine, env); }
Trigonometric f80_cos(F80 a, Env& env) { return trigonometric(a, Function::kCosine, env); }
Trigonometric f80_tan(F80 a, Env& env) { return trigonometric(a, Function::kTangent, env); }

SinCos f80_sincos(F80 a, Env& env) {
  const Trigonometric sin = f80_sin(a, env);
  if (!sin.reduced || env.stopped()) return {a, a, sin.reduced};
  const bool c1 = env.c1;  // the sine's rounding is the one that is told
  const F80 cos = f80_cos(a, env).value;
  env.c1 = c1;
  return {sin.value, cos, true};
}

// ---- arc tangent ------------------------------------------------------------------------------------------------

namespace {

constexpr auto kArcTangent = inverses<12>(3, 2);

/// t - t^3/3 + ... for t <= 1/32.
Wide arc_tangent_kernel(Wide t) {
  const U128 z = squared(t);
  const U128 loss = multiply_high(t.sig, multiply_high(z, polynomial(kArcTangent, z, true)) << 1);
  return normalise(t.sig - std::max<U128>(loss, 1), t.exp);
}

/// The angle of the point (b, a), both positive, a <= b, in (0, pi/4]. fixed: value is Q125, else angle holds it.
struct Angle {
  bool small = false;
  Wide angle;
  U128 fixed = 0;
  U128 to_q125() const { return small ? to_fixed(angle, 125) : fixed; }
};

Angle first_octant(const Parts& a, const Parts& b) {
  const int distance = b.exp - a.exp;
  unsigned index = 0;
  if (distance <= 6) {
    const U128 ratio = ((static_cast<U128>(a.sig) << (63 - distance)) / b.sig);  // a / b in Q63, cut
    index = static_cast<unsigned>((ratio + (static_cast<U128>(1) << 57)) >> 58);
  }
  Angle result;
  if (index == 0) {
    result.small = true;
    result.angle = arc_tangent_kernel(divide({make128(a.sig, 0), a.exp}, {make128(b.sig, 0), b.exp}));
    return result;
  }
  // atan(a/b) = atan(c) + atan((a - c*b) / (b + c*a)) with c = index / 32; all exact in integers.
  const U128 wide_a = static_cast<U128>(a.sig) << (6 - distance);
  const U128 wide_b = static_cast<U128>(b.sig) << 6;
  const U128 left = wide_a * 32, right = wide_b * index;
  result.fixed = kArcTangents[index] >> 2;
  if (left != right) {
    const U128 numerator = left > right ? left - right : right - left;
    const Wide t = divide(normalise(numerator, 0), normalise(wide_b * 32 + wide_a * index, 0));
    const U128 correction = to_fixed(arc_tangent_kernel(t), 125);
    result.fixed = left > right ? result.fixed + correction : result.fixed - correction;
  }
  return result;
}

F80 round_q125(bool sign, U128 value, Env& env) { return round_inexact(sign, normalise(value, 2), env); }

}  // namespace

F80 f80_atan2(F80 y, F80 x, Env& env) {
  const Parts py = unpack80(y);
  const Parts px = unpack80(x);
  if (!ordinary(py) || !ordinary(px)) return propagate80(x, px, y, py, env);
  if (py.denormal || px.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return y;
  }
  constexpr U128 kPi125 = kPi >> 1;
  if (py.zero() || (px.infinite() && !py.infinite()))
    return px.sign ? round_q125(py.sign, kPi125, env) : zero80(py.sign);
  if (px.zero() || (py.infinite() && !px.infinite())) return round_q125(py.sign, kPi125 >> 1, env);
  if (py.infinite()) {
    const U128 quarter = kPi125 >> 2;
    return round_q125(py.sign, px.sign ? quarter * 3 : quarter, env);
  }
  const bool steep = py.exp > px.exp || (py.exp == px.exp && py.sig > px.sig);
  const Angle angle = steep ? first_octant(px, py) : first_octant(py, px);
  if (!steep && !px.sign && angle.small) {
    // A power of two as divisor and a quotient far below 2^-64: y / x is all but exact, yet not quite.
    return round_inexact(py.sign, angle.angle, env);
  }
  const U128 octant = angle.to_q125();
  const U128 acute = steep ? (kPi125 >> 1) - octant : octant;
  return round_q125(py.sign, px.sign ? kPi125 - acute : acute, env);
}

// ---- exponential and logarithms ---------------------------------------------------------------------------------

namespace {

constexpr auto kExponential = inverse_factorials<32>(1, 1);
constexpr auto kLogarithm = inverses<26>(1, 2);

/// log2 of a number other than 1.
struct Logarithm {
  bool negative = false;
  Wide magnitude;
  bool integral = false;  ///< of a power of two
};

/// 2/ln2 * atanh(s), relative error below 2^-118, for s <= 3 - 2*sqrt(2).
Wide log2_kernel(Wide s) {
  const U128 sum = polynomial(kLogarithm, squared(s), false);  // in [1, 1.01), Q127
  const Wide product = multiply(multiply(s, {sum, 0}), {kLog2E, 0});
  return {product.sig, product.exp + 1};
}

/// log2(m * 2^exp) for m, in Q127, in [1, 2).
Logarithm log2_of(U128 m, int exp) {
  constexpr U128 kOneQ127 = static_cast<U128>(1) << 127;
  constexpr U128 kSqrt2 = make128(0xb504f333f9de6484, 0);  // where to change sides needs no precision
  Logarithm result;
  if (m == kOneQ127) return {exp < 0, normalise(static_cast<U128>(exp < 0 ? -exp : exp), 127), true};
  // m in [sqrt(1/2), sqrt(2)): s = (m - 1) / (m + 1), from exact terms but for one bit of the divisor.
  const bool below = m > kSqrt2;
  Wide numerator, divisor;
  if (below) {
    ++exp;
    numerator = normalise(0 - m, -1);                    // (2 - m) / 2
    divisor = normalise((kOneQ127 >> 1) + (m >> 2), 1);  // (m + 2) / 2 in Q126
  } else {
    numerator = normalise(m - kOneQ127, 0);
    divisor = normalise((kOneQ127 >> 1) + (m >> 1), 1);
  }
  const Wide fraction = log2_kernel(divide(numerator, divisor));
  if (exp == 0) {
    result.negative = below;
    result.magnitude = fraction;
    return result;
  }
  result.negative = exp < 0;
  const U128 whole = static_cast<U128>(exp < 0 ? -exp : exp) << 112;
  const U128 part = to_fixed(fraction, 112);
  result.magnitude = normalise(result.negative == below ? whole + part : whole - part, 15);
  return result;
}

F80 times_logarithm(const Parts& y, const Logarithm& log, Env& env) {
  const bool sign = y.sign != log.negative;
  const Wide product = multiply({make128(y.sig, 0), y.exp}, log.magnitude);
  if (!log.integral) return round_inexact(sign, product, env);
  // An exact product is not moved by directed rounding, but flagged as any other.
  const F80 value = round_pack80(sign, product.exp, product.sig, 64, env);
  env.raise(kPrecision | (value.biased() == 0 ? kUnderflow : 0));
  return value;
}

}  // namespace

F80 f80_exp2m1(F80 a, Env& env) {
  const Parts p = unpack80(a);
  if (!ordinary(p)) return propagate80(a, p, env);
  if (p.infinite()) return p.sign ? pack80(true, kBias80, kIntegerBit) : a;
  if (p.zero()) return a;
  if (denormal_stops(p, env)) return a;
  if (p.exp >= 0) {
    if (p.exp > 0 || p.sig != kIntegerBit) return a;  // undefined
    return p.sign ? round_inexact(true, {make128(kIntegerBit, 0), -1}, env)
                  : round_inexact(false, {~static_cast<U128>(0), -1}, env);
  }
  const Wide w = multiply({make128(p.sig, 0), p.exp}, {kLn2, -1});
  // (e^w - 1) / w = 1 + w/2! + w^2/3! + ..., halved to fit Q127 as Q126.
  static constexpr auto kHalved = [] {
    auto coefficients = kExponential;
    for (U128& c : coefficients) c >>= 1;
    return coefficients;
  }();
  const U128 sum = polynomial(kHalved, to_fixed(w, 128), p.sign);
  return round_inexact(p.sign, multiply(w, normalise(sum, 1)), env);
}

F80 f80_y_log2(F80 x, F80 y, Env& env) {
  const Parts px = unpack80(x);
  const Parts py = unpack80(y);
  if (!ordinary(px) || !ordinary(py)) return propagate80(x, px, y, py, env);
  // SDM vol. 2, FYL2X, table of results.
  if (px.sign && !px.zero()) return invalid80(env);
  const bool one = px.finite() && px.exp == 0 && px.sig == kIntegerBit;
  if (px.infinite() && py.zero()) return invalid80(env);
  if (px.zero() && py.zero()) return invalid80(env);
  if (one && py.infinite()) return invalid80(env);
  if (px.zero() && !py.infinite()) {
    env.raise(kZeroDivide);
    return infinity80(!py.sign);
  }
  if (px.denormal || py.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return y;
  }
  const bool log_negative = px.zero() || (px.finite() && px.exp < 0);
  if (px.infinite() || px.zero() || py.infinite()) return infinity80(py.sign != log_negative);
  if (one || py.zero()) return zero80(py.sign != log_negative);
  return times_logarithm(py, log2_of(make128(px.sig, 0), px.exp), env);
}

F80 f80_y_log2_plus1(F80 x, F80 y, Env& env) {
  const Parts px = unpack80(x);
  const Parts py = unpack80(y);
  if (!ordinary(px) || !ordinary(py)) return propagate80(x, px, y, py, env);
  if ((px.infinite() && (px.sign || py.zero())) || (px.zero() && py.infinite())) return invalid80(env);
  if (px.denormal || py.denormal) {
    env.raise(kDenormal);
    if (env.stopped()) return y;
  }
  const bool sign = px.sign != py.sign;
  if (px.infinite() || py.infinite()) return infinity80(sign);
  if (px.zero() || py.zero()) return zero80(sign);
  if (px.sign && px.exp >= 0) return y;  // log2 of zero or less: undefined
  const Wide wide{make128(px.sig, 0), px.exp};
  if (px.exp >= -2) {
    // 1 + x is exact in 128 bits, or x is so large that nothing is lost.
    const int exp = std::max(px.exp, 0);
    const U128 one = exp >= 127 ? 0 : static_cast<U128>(1) << (126 - exp);
    const U128 shifted = wide.sig >> (1 + exp - px.exp);
    const Wide m = normalise(px.sign ? one - shifted : one + shifted, exp + 1);
    return times_logarithm(py, log2_of(m.sig, m.exp), env);
  }
  // s = x / (2 + x)
  const U128 part = to_fixed(wide, 126);
  constexpr U128 kTwo = static_cast<U128>(2) << 126;
  const Wide divisor = px.sign ? normalise(kTwo - part, 1) : normalise(kTwo + part, 1);
  return times_logarithm(py, {.negative = px.sign, .magnitude = log2_kernel(divide(wide, divisor))}, env);
}

}  // namespace husk::fp
