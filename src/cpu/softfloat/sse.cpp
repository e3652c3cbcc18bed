// husk: binary32 and binary64 arithmetic as SSE, AVX and FMA instructions do it
#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

// SDM vol. 1, table 4-7: the first operand if it is a NaN, else the second; made quiet.
template <class T>
typename T::Bits propagate(typename T::Bits a, const Parts& pa, typename T::Bits b, const Parts& pb, Env& env) {
  if (pa.signalling() || pb.signalling()) env.raise(kInvalid);
  return Layout<T>::quiet(pa.nan() ? a : b);
}

template <class T>
typename T::Bits invalid(Env& env) {
  env.raise(kInvalid);
  return kDefaultNan<T>;
}

template <class T>
typename T::Bits add_signed(typename T::Bits a, typename T::Bits b, bool subtract, Env& env) {
  using L = Layout<T>;
  Parts pa = unpack<T>(a, env.denormals_are_zero);
  Parts pb = unpack<T>(b, env.denormals_are_zero);
  if (!pa.finite() || !pb.finite()) [[unlikely]] {
    if (pa.nan() || pb.nan()) return propagate<T>(a, pa, b, pb, env);
    pb.sign ^= subtract;
    if (pa.infinite() && pb.infinite() && pa.sign != pb.sign) return invalid<T>(env);
    if (pa.denormal || pb.denormal) env.raise(kDenormal);
    if (pa.infinite()) return L::pack(pa.sign, L::kInfinity);
    if (pb.infinite()) return L::pack(pb.sign, L::kInfinity);
    if (pa.zero() && pb.zero()) return L::pack(pa.sign == pb.sign ? pa.sign : env.rounding == Rounding::kDown, 0);
    const Parts& p = pa.zero() ? pb : pa;
    return round_pack<T>(p.sign, p.exp, p.sig, env);
  }
  pb.sign ^= subtract;
  if (pa.denormal || pb.denormal) env.raise(kDenormal);
  if (pb.exp > pa.exp || (pb.exp == pa.exp && pb.sig > pa.sig)) std::swap(pa, pb);
  // One bit of head room for the carry.
  const std::uint64_t large = pa.sig >> 1;
  const std::uint64_t small = shift_right_jam(pb.sig >> 1, pa.exp - pb.exp);
  const std::uint64_t sum = pa.sign == pb.sign ? large + small : large - small;
  if (sum == 0) return L::pack(env.rounding == Rounding::kDown, 0);
  const int shift = std::countl_zero(sum);
  return round_pack<T>(pa.sign, pa.exp + 1 - shift, sum << shift, env);
}

}  // namespace

template <class T>
typename T::Bits add(typename T::Bits a, typename T::Bits b, Env& env) {
  return add_signed<T>(a, b, false, env);
}

template <class T>
typename T::Bits sub(typename T::Bits a, typename T::Bits b, Env& env) {
  return add_signed<T>(a, b, true, env);
}

template <class T>
typename T::Bits mul(typename T::Bits a, typename T::Bits b, Env& env) {
  using L = Layout<T>;
  const Parts pa = unpack<T>(a, env.denormals_are_zero);
  const Parts pb = unpack<T>(b, env.denormals_are_zero);
  const bool sign = pa.sign != pb.sign;
  if (!pa.finite() || !pb.finite()) [[unlikely]] {
    if (pa.nan() || pb.nan()) return propagate<T>(a, pa, b, pb, env);
    if ((pa.infinite() && pb.zero()) || (pa.zero() && pb.infinite())) return invalid<T>(env);
    if (pa.denormal || pb.denormal) env.raise(kDenormal);
    return L::pack(sign, pa.infinite() || pb.infinite() ? L::kInfinity : 0);
  }
  if (pa.denormal || pb.denormal) env.raise(kDenormal);
  const U128 product = static_cast<U128>(pa.sig) * pb.sig;
  const int carry = static_cast<int>(high64(product) >> 63);
  return round_pack<T>(sign, pa.exp + pb.exp + carry, fold(product << (1 - carry)), env);
}

template <class T>
typename T::Bits div(typename T::Bits a, typename T::Bits b, Env& env) {
  using L = Layout<T>;
  const Parts pa = unpack<T>(a, env.denormals_are_zero);
  const Parts pb = unpack<T>(b, env.denormals_are_zero);
  const bool sign = pa.sign != pb.sign;
  if (!pa.finite() || !pb.finite()) [[unlikely]] {
    if (pa.nan() || pb.nan()) return propagate<T>(a, pa, b, pb, env);
    if ((pa.infinite() && pb.infinite()) || (pa.zero() && pb.zero())) return invalid<T>(env);
    // A division by zero hides a denormal dividend (SDM vol. 1, 4.9.2).
    if (pb.zero() && !pa.infinite())
      env.raise(kZeroDivide);
    else if (pa.denormal || pb.denormal)
      env.raise(kDenormal);
    return L::pack(sign, pa.infinite() || pb.zero() ? L::kInfinity : 0);
  }
  if (pa.denormal || pb.denormal) env.raise(kDenormal);
  const bool below = pa.sig < pb.sig;
  const U128 numerator = static_cast<U128>(pa.sig) << (below ? 64 : 63);
  const auto quotient = static_cast<std::uint64_t>(numerator / pb.sig);
  const bool exact = low64(numerator) == quotient * pb.sig;
  return round_pack<T>(sign, pa.exp - pb.exp - below, quotient | !exact, env);
}

template <class T>
typename T::Bits sqrt(typename T::Bits a, Env& env) {
  const Parts p = unpack<T>(a, env.denormals_are_zero);
  if (p.nan()) return propagate<T>(a, p, a, p, env);
  if (p.zero()) return Layout<T>::pack(p.sign, 0);
  if (p.sign) return invalid<T>(env);
  if (p.infinite()) return a;
  if (p.denormal) env.raise(kDenormal);
  U128 remainder;
  const int odd = p.exp & 1;
  const std::uint64_t root = square_root(static_cast<U128>(p.sig) << (63 + odd), remainder);
  return round_pack<T>(false, (p.exp - odd) / 2, root | (remainder != 0), env);
}

template <class T>
typename T::Bits fused_multiply_add(typename T::Bits a, typename T::Bits b, typename T::Bits c, bool negate_product,
                                    bool negate_addend, Env& env) {
  using L = Layout<T>;
  const Parts pa = unpack<T>(a, env.denormals_are_zero);
  const Parts pb = unpack<T>(b, env.denormals_are_zero);
  Parts pc = unpack<T>(c, env.denormals_are_zero);
  bool sign = (pa.sign != pb.sign) != negate_product;
  const bool invalid_product = (pa.infinite() && pb.zero()) || (pa.zero() && pb.infinite());
  if (pa.nan() || pb.nan() || pc.nan()) {
    if (pa.signalling() || pb.signalling() || pc.signalling()) env.raise(kInvalid);
    return L::quiet(pa.nan() ? a : pb.nan() ? b : c);
  }
  pc.sign ^= negate_addend;
  const bool infinite_product = pa.infinite() || pb.infinite();
  if (invalid_product || (infinite_product && pc.infinite() && pc.sign != sign)) return invalid<T>(env);
  if (pa.denormal || pb.denormal || pc.denormal) env.raise(kDenormal);
  if (infinite_product) return L::pack(sign, L::kInfinity);
  if (pc.infinite()) return L::pack(pc.sign, L::kInfinity);
  if (pa.zero() || pb.zero()) {
    if (pc.zero()) return L::pack(sign == pc.sign ? sign : env.rounding == Rounding::kDown, 0);
    return round_pack<T>(pc.sign, pc.exp, pc.sig, env);
  }
  // Both terms as 128-bit numbers with bit 126 leading, worth 2^(exp - 126).
  U128 product = static_cast<U128>(pa.sig) * pb.sig;
  const int carry = static_cast<int>(high64(product) >> 63);
  int exp = pa.exp + pb.exp + carry;
  product = carry ? shift_right_jam(product, 1) : product;
  if (pc.zero()) return round_pack<T>(sign, exp, fold(product << 1), env);
  U128 large = product, small = static_cast<U128>(pc.sig) << 63;
  int distance = exp - pc.exp;
  bool small_sign = pc.sign;
  if (distance < 0 || (distance == 0 && small > large)) {
    std::swap(large, small);
    std::swap(sign, small_sign);
    exp = pc.exp;
    distance = -distance;
  }
  small = shift_right_jam(small, distance);
  const U128 sum = sign == small_sign ? large + small : large - small;
  if (sum == 0) return L::pack(env.rounding == Rounding::kDown, 0);
  const int shift = leading_zeros(sum);
  return round_pack<T>(sign, exp + 1 - shift, fold(sum << shift), env);
}

namespace {

template <class T>
typename T::Bits squash_denormal(typename T::Bits a, const Env& env) {
  return env.denormals_are_zero && is_denormal<T>(a) ? static_cast<typename T::Bits>(a & Layout<T>::kSignBit) : a;
}

template <class T>
Relation relation(typename T::Bits a, typename T::Bits b) {
  using L = Layout<T>;
  const auto magnitude_a = static_cast<typename T::Bits>(a & ~L::kSignBit);
  const auto magnitude_b = static_cast<typename T::Bits>(b & ~L::kSignBit);
  const bool sign_a = (a & L::kSignBit) != 0, sign_b = (b & L::kSignBit) != 0;
  if (a == b || (magnitude_a == 0 && magnitude_b == 0)) return Relation::kEqual;
  if (sign_a != sign_b) return sign_a ? Relation::kLess : Relation::kGreater;
  return (magnitude_a < magnitude_b) != sign_a ? Relation::kLess : Relation::kGreater;
}

template <class T>
bool is_signalling(typename T::Bits a) {
  return Layout<T>::is_nan(a) && !(a & Layout<T>::kQuietBit);
}

}  // namespace

template <class T>
Relation compare(typename T::Bits a, typename T::Bits b, bool signalling, Env& env) {
  using L = Layout<T>;
  if (L::is_nan(a) || L::is_nan(b)) {
    if (signalling || is_signalling<T>(a) || is_signalling<T>(b)) env.raise(kInvalid);
    return Relation::kUnordered;
  }
  a = squash_denormal<T>(a, env);
  b = squash_denormal<T>(b, env);
  if (is_denormal<T>(a) || is_denormal<T>(b)) env.raise(kDenormal);
  return relation<T>(a, b);
}

template <class T>
bool compare_predicate(typename T::Bits a, typename T::Bits b, unsigned predicate, Env& env) {
  // SDM vol. 2, CMPPD, table 3-1. Bit r of an entry is the answer for Relation r; bit 4 is "signals on a quiet NaN".
  static constexpr std::array<std::uint8_t, 16> kAnswers{
      0b0'0010, 0b1'0001, 0b1'0011, 0b0'1000, 0b0'1101, 0b1'1110, 0b1'1100, 0b0'0111,  // EQ LT LE UNORD NEQ NLT NLE ORD
      0b0'1010, 0b1'1001, 0b1'1011, 0b0'0000, 0b0'0101, 0b1'0110, 0b1'0100, 0b0'1111};  // EQ_U NGE NGT F NEQ_O GE GT T
  const std::uint8_t answers = kAnswers[predicate & 15];
  const bool signalling = ((answers >> 4) & 1) != ((predicate >> 4) & 1);
  return (answers >> static_cast<unsigned>(compare<T>(a, b, signalling, env))) & 1;
}

template <class T>
typename T::Bits min(typename T::Bits a, typename T::Bits b, Env& env) {
  a = squash_denormal<T>(a, env);
  b = squash_denormal<T>(b, env);
  return compare<T>(a, b, true, env) == Relation::kLess ? a : b;
}

template <class T>
typename T::Bits max(typename T::Bits a, typename T::Bits b, Env& env) {
  a = squash_denormal<T>(a, env);
  b = squash_denormal<T>(b, env);
  return compare<T>(a, b, true, env) == Relation::kGreater ? a : b;
}

template <class T>
typename T::Bits round_to_integral(typename T::Bits a, Rounding rounding, bool exact_flag, Env& env) {
  using L = Layout<T>;
  const Parts p = unpack<T>(a, env.denormals_are_zero);
  if (p.nan()) return propagate<T>(a, p, a, p, env);
  if (p.zero()) return L::pack(p.sign, 0);
  if (p.infinite() || p.exp >= T::kFraction) return a;
  const RoundedInteger r = round_to_integer(p, rounding);
  if (r.inexact && exact_flag) env.raise(kPrecision);
  if (r.value == 0) return L::pack(p.sign, 0);
  const int shift = std::countl_zero(r.value);
  Env exact;
  return round_pack<T>(p.sign, 63 - shift, r.value << shift, exact);
}

#define HUSK_INSTANTIATE(T)                                                            \
  template T::Bits add<T>(T::Bits, T::Bits, Env&);                                     \
  template T::Bits sub<T>(T::Bits, T::Bits, Env&);                                     \
  template T::Bits mul<T>(T::Bits, T::Bits, Env&);                                     \
  template T::Bits div<T>(T::Bits, T::Bits, Env&);                                     \
  template T::Bits sqrt<T>(T::Bits, Env&);                                             \
  template T::Bits fused_multiply_add<T>(T::Bits, T::Bits, T::Bits, bool, bool, Env&); \
  template T::Bits min<T>(T::Bits, T::Bits, Env&);                                     \
  template T::Bits max<T>(T::Bits, T::Bits, Env&);                                     \
  template Relation compare<T>(T::Bits, T::Bits, bool, Env&);                          \
  template bool compare_predicate<T>(T::Bits, T::Bits, unsigned, Env&);                \
  template T::Bits round_to_integral<T>(T::Bits, Rounding, bool, Env&)
HUSK_INSTANTIATE(F32);
HUSK_INSTANTIATE(F64);
#undef HUSK_INSTANTIATE

}  // namespace husk::fp
