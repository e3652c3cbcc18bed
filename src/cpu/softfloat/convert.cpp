// husk: conversions between floating-point formats, integers and packed BCD
#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

/// Exact: every value of From is one of To.
template <class To, class From>
typename To::Bits widen_narrow(typename From::Bits a, const Parts& p) {
  using L = Layout<To>;
  if (p.nan())
    return L::pack(
        p.sign, L::kInfinity | L::kQuietBit |
                    (static_cast<std::uint64_t>(a & Layout<From>::kFractionMask) << (To::kFraction - From::kFraction)));
  if (p.infinite()) return L::pack(p.sign, L::kInfinity);
  if (p.zero()) return L::pack(p.sign, 0);
  return L::pack(
      p.sign, (static_cast<std::uint64_t>(p.exp + L::kBias) << To::kFraction) | ((p.sig << 1) >> (64 - To::kFraction)));
}

template <class To, class From>
typename To::Bits narrow_special(typename From::Bits a, const Parts& p, Env& env) {
  using L = Layout<To>;
  if (p.zero()) return L::pack(p.sign, 0);
  if (p.infinite()) return L::pack(p.sign, L::kInfinity);
  if (p.signalling()) env.raise(kInvalid);
  return L::pack(
      p.sign, L::kInfinity | L::kQuietBit |
                  (static_cast<std::uint64_t>(a & Layout<From>::kFractionMask) >> (From::kFraction - To::kFraction)));
}

/// Signed of the given width; the caller has taken care of NaNs and unsupported encodings.
std::int64_t to_signed(const Parts& p, Rounding rounding, unsigned width, Env& env) {
  const std::uint64_t indefinite = std::uint64_t{1} << (width - 1);
  const auto fail = [&] {
    env.raise(kInvalid);
    return static_cast<std::int64_t>(indefinite);
  };
  if (p.infinite() || (p.finite() && p.exp > 63)) return fail();
  const RoundedInteger r = round_to_integer(p, rounding);
  if (r.carry || r.value > indefinite - !p.sign) return fail();
  if (r.inexact) env.raise(kPrecision);
  env.c1 |= r.up;
  return static_cast<std::int64_t>(p.sign ? 0 - r.value : r.value);
}

std::uint64_t to_unsigned(const Parts& p, Rounding rounding, unsigned width, Env& env) {
  const std::uint64_t highest = ~std::uint64_t{0} >> (64 - width);
  const auto fail = [&] {
    env.raise(kInvalid);
    return highest;
  };
  if (p.nan() || p.infinite() || (p.finite() && p.exp > 63)) return fail();
  const RoundedInteger r = round_to_integer(p, rounding);
  if (r.carry || r.value > highest || (p.sign && r.value != 0)) return fail();
  if (r.inexact) env.raise(kPrecision);
  return r.value;
}

template <class T>
std::int64_t to_signed(typename T::Bits a, Rounding rounding, unsigned width, Env& env) {
  const Parts p = unpack<T>(a, env.denormals_are_zero);
  if (p.nan()) {
    env.raise(kInvalid);
    return static_cast<std::int64_t>(std::uint64_t{1} << (width - 1));
  }
  return to_signed(p, rounding, width, env);
}

std::int64_t to_signed(F80 a, Rounding rounding, unsigned width, Env& env) {
  const Parts p = unpack80(a);
  if (p.nan() || p.unsupported()) {
    env.raise(kInvalid);
    return static_cast<std::int64_t>(std::uint64_t{1} << (width - 1));
  }
  return to_signed(p, rounding, width, env);
}

template <class T>
F80 widen80(typename T::Bits a, const Parts& p) {
  if (p.zero()) return zero80(p.sign);
  if (p.finite()) return pack80(p.sign, static_cast<unsigned>(p.exp + kBias80), p.sig);
  const std::uint64_t fraction = static_cast<std::uint64_t>(a & Layout<T>::kFractionMask) << (63 - T::kFraction);
  return pack80(p.sign, 0x7fff, kIntegerBit | fraction);
}

template <class T>
F80 load80(typename T::Bits a, Env& env) {
  const Parts p = unpack<T>(a, false);
  const F80 value = widen80<T>(a, p);
  if (p.denormal) env.raise(kDenormal);
  if (!p.signalling()) return value;
  env.raise(kInvalid);
  return quiet80(value);
}

template <class T>
typename T::Bits store80(F80 a, Env& env) {
  using L = Layout<T>;
  const Parts p = unpack80(a);
  switch (p.kind) {
    case Kind::kFinite: {
      const auto value = round_pack<T>(p.sign, p.exp, p.sig, env.rounding, false, env);
      if (env.unmasked() & (kOverflow | kUnderflow)) {
        // Nothing is stored, so nothing was rounded.
        env.raised &= static_cast<std::uint8_t>(~kPrecision);
        env.c1 = false;
      }
      return value;
    }
    case Kind::kZero: return L::pack(p.sign, 0);
    case Kind::kInfinity: return L::pack(p.sign, L::kInfinity);
    case Kind::kUnsupported: env.raise(kInvalid); return kDefaultNan<T>;
    case Kind::kSignallingNan: env.raise(kInvalid); break;
    case Kind::kQuietNan: break;
  }
  return L::pack(p.sign, L::kInfinity | L::kQuietBit | ((a.sig << 1) >> (64 - T::kFraction)));
}

}  // namespace

std::uint64_t f32_to_f64(std::uint32_t a, Env& env) {
  const Parts p = unpack<F32>(a, env.denormals_are_zero);
  if (p.denormal) env.raise(kDenormal);
  if (p.signalling()) env.raise(kInvalid);
  return widen_narrow<F64, F32>(a, p);
}

std::uint32_t f64_to_f32(std::uint64_t a, Env& env) {
  const Parts p = unpack<F64>(a, env.denormals_are_zero);
  if (!p.finite()) return narrow_special<F32, F64>(a, p, env);
  if (p.denormal) env.raise(kDenormal);
  return round_pack<F32>(p.sign, p.exp, p.sig, env);
}

std::uint32_t f16_to_f32(std::uint16_t a, Env& env) {
  const Parts p = unpack<F16>(a, false);
  if (p.signalling()) env.raise(kInvalid);
  return widen_narrow<F32, F16>(a, p);
}

std::uint16_t f32_to_f16(std::uint32_t a, Rounding rounding, Env& env) {
  const Parts p = unpack<F32>(a, env.denormals_are_zero);
  if (!p.finite()) return narrow_special<F16, F32>(a, p, env);
  if (p.denormal) env.raise(kDenormal);
  return round_pack<F16>(p.sign, p.exp, p.sig, rounding, false, env);
}

template <class T>
std::int32_t to_int32(typename T::Bits a, Rounding rounding, Env& env) {
  return static_cast<std::int32_t>(to_signed<T>(a, rounding, 32, env));
}
template <class T>
std::int64_t to_int64(typename T::Bits a, Rounding rounding, Env& env) {
  return to_signed<T>(a, rounding, 64, env);
}
template <class T>
std::uint32_t to_uint32(typename T::Bits a, Rounding rounding, Env& env) {
  return static_cast<std::uint32_t>(to_unsigned(unpack<T>(a, env.denormals_are_zero), rounding, 32, env));
}
template <class T>
std::uint64_t to_uint64(typename T::Bits a, Rounding rounding, Env& env) {
  return to_unsigned(unpack<T>(a, env.denormals_are_zero), rounding, 64, env);
}
template <class T>
typename T::Bits from_uint64(std::uint64_t a, Env& env) {
  if (a == 0) return 0;
  const int shift = std::countl_zero(a);
  return round_pack<T>(false, 63 - shift, a << shift, env);
}
template <class T>
typename T::Bits from_int64(std::int64_t a, Env& env) {
  if (a == 0) return 0;
  const std::uint64_t magnitude = a < 0 ? 0 - static_cast<std::uint64_t>(a) : static_cast<std::uint64_t>(a);
  const int shift = std::countl_zero(magnitude);
  return round_pack<T>(a < 0, 63 - shift, magnitude << shift, env);
}

#define HUSK_INSTANTIATE(T)                                     \
  template std::int32_t to_int32<T>(T::Bits, Rounding, Env&);   \
  template std::int64_t to_int64<T>(T::Bits, Rounding, Env&);   \
  template std::uint32_t to_uint32<T>(T::Bits, Rounding, Env&); \
  template std::uint64_t to_uint64<T>(T::Bits, Rounding, Env&); \
  template T::Bits from_uint64<T>(std::uint64_t, Env&);         \
  template T::Bits from_int64<T>(std::int64_t, Env&)
HUSK_INSTANTIATE(F32);
HUSK_INSTANTIATE(F64);
#undef HUSK_INSTANTIATE

F80 widen(std::uint32_t a) { return widen80<F32>(a, unpack<F32>(a, false)); }
F80 widen(std::uint64_t a) { return widen80<F64>(a, unpack<F64>(a, false)); }
F80 f32_to_f80(std::uint32_t a, Env& env) { return load80<F32>(a, env); }
F80 f64_to_f80(std::uint64_t a, Env& env) { return load80<F64>(a, env); }
std::uint32_t f80_to_f32(F80 a, Env& env) { return store80<F32>(a, env); }
std::uint64_t f80_to_f64(F80 a, Env& env) { return store80<F64>(a, env); }

F80 f80_from_int64(std::int64_t a) {
  if (a == 0) return {};
  const std::uint64_t magnitude = a < 0 ? 0 - static_cast<std::uint64_t>(a) : static_cast<std::uint64_t>(a);
  const int shift = std::countl_zero(magnitude);
  return pack80(a < 0, static_cast<unsigned>(kBias80 + 63 - shift), magnitude << shift);
}

std::int16_t f80_to_int16(F80 a, Rounding rounding, Env& env) {
  return static_cast<std::int16_t>(to_signed(a, rounding, 16, env));
}
std::int32_t f80_to_int32(F80 a, Rounding rounding, Env& env) {
  return static_cast<std::int32_t>(to_signed(a, rounding, 32, env));
}
std::int64_t f80_to_int64(F80 a, Rounding rounding, Env& env) { return to_signed(a, rounding, 64, env); }

F80 f80_from_bcd(const std::array<std::uint8_t, 10>& digits) {
  std::uint64_t magnitude = 0;
  for (int i = 8; i >= 0; --i) {
    const std::uint8_t pair = digits[static_cast<std::size_t>(i)];
    magnitude = magnitude * 100 + (pair >> 4) * 10U + (pair & 15U);
  }
  // At most 15 * 111'111'111'111'111'111 < 2^63.
  F80 value = f80_from_int64(static_cast<std::int64_t>(magnitude));
  value.sign_exp = static_cast<std::uint16_t>(value.sign_exp | ((digits[9] & 0x80U) << 8));
  return value;
}

std::array<std::uint8_t, 10> f80_to_bcd(F80 a, Env& env) {
  constexpr std::uint64_t kLimit = 1'000'000'000'000'000'000;  // 18 digits
  constexpr std::array<std::uint8_t, 10> kIndefinite{0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff};
  const Parts p = unpack80(a);
  const bool number = p.zero() || (p.finite() && p.exp < 63);
  const RoundedInteger r = number ? round_to_integer(p, env.rounding) : RoundedInteger{};
  if (!number || r.value >= kLimit) {
    env.raise(kInvalid);
    return kIndefinite;
  }
  if (r.inexact) env.raise(kPrecision);
  env.c1 |= r.up;
  std::array<std::uint8_t, 10> digits{};
  std::uint64_t rest = r.value;
  for (std::size_t i = 0; i < 9; ++i, rest /= 100)
    digits[i] = static_cast<std::uint8_t>(((rest / 10 % 10) << 4) | (rest % 10));
  digits[9] = p.sign ? 0x80 : 0;
  return digits;
}

}  // namespace husk::fp
