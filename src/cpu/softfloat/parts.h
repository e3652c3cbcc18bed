// husk: unpacked values, rounding and packing shared by the softfloat sources; internal to this folder
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/softfloat/softfloat.h"

namespace husk::fp {

using U128 = unsigned __int128;

enum class Kind : std::uint8_t { kZero, kFinite, kInfinity, kQuietNan, kSignallingNan, kUnsupported };

/// A finite value is (-1)^sign * sig * 2^(exp - 63) with bit 63 of sig set.
struct Parts {
  Kind kind = Kind::kZero;
  bool sign = false;
  bool denormal = false;
  int exp = 0;
  std::uint64_t sig = 0;

  bool finite() const { return kind == Kind::kFinite; }
  bool zero() const { return kind == Kind::kZero; }
  bool infinite() const { return kind == Kind::kInfinity; }
  bool nan() const { return kind == Kind::kQuietNan || kind == Kind::kSignallingNan; }
  bool signalling() const { return kind == Kind::kSignallingNan; }
  bool unsupported() const { return kind == Kind::kUnsupported; }
};

constexpr std::uint64_t high64(U128 a) { return static_cast<std::uint64_t>(a >> 64); }
constexpr std::uint64_t low64(U128 a) { return static_cast<std::uint64_t>(a); }
constexpr U128 make128(std::uint64_t high, std::uint64_t low) { return (static_cast<U128>(high) << 64) | low; }
constexpr int leading_zeros(U128 a) {
  return high64(a) ? std::countl_zero(high64(a)) : 64 + std::countl_zero(low64(a));
}
/// Shifts right; bits shifted out are kept as a set lowest bit ("sticky").
constexpr std::uint64_t shift_right_jam(std::uint64_t a, int count) {
  if (count <= 0) return a;
  if (count >= 64) return a != 0;
  return (a >> count) | ((a << (64 - count)) != 0);
}
constexpr U128 shift_right_jam(U128 a, int count) {
  if (count <= 0) return a;
  if (count >= 128) return a != 0;
  return (a >> count) | ((a << (128 - count)) != 0);
}
/// The upper half with the lower one folded into its lowest bit.
constexpr std::uint64_t fold(U128 a) { return high64(a) | (low64(a) != 0); }

/// Whether a magnitude is to be incremented; rest is what lies below the last kept bit, half the weight of half a unit.
template <class U>
constexpr bool rounds_up(Rounding rounding, bool sign, bool odd, U rest, U half) {
  switch (rounding) {
    case Rounding::kNearestEven: return rest > half || (rest == half && odd);
    case Rounding::kDown: return sign && rest != 0;
    case Rounding::kUp: return !sign && rest != 0;
    case Rounding::kTowardZero: return false;
  }
  return false;
}
/// Whether an overflow gives infinity, not the largest finite number.
constexpr bool overflows_to_infinity(Rounding rounding, bool sign) {
  return rounding == Rounding::kNearestEven || rounding == (sign ? Rounding::kDown : Rounding::kUp);
}

/// floor(sqrt(a)) for a >= 2^126; remainder is a - root^2.
std::uint64_t square_root(U128 a, U128& remainder);

// ---- interchange formats ----------------------------------------------------------------------------------------

template <class T>
struct Layout {
  using Bits = typename T::Bits;
  static constexpr int kBias = (1 << (T::kExponent - 1)) - 1;
  static constexpr unsigned kMaxBiased = (1U << T::kExponent) - 1;
  static constexpr Bits kFractionMask = static_cast<Bits>((std::uint64_t{1} << T::kFraction) - 1);
  static constexpr Bits kQuietBit = static_cast<Bits>(std::uint64_t{1} << (T::kFraction - 1));
  static constexpr Bits kSignBit = static_cast<Bits>(std::uint64_t{1} << (T::kFraction + T::kExponent));
  static constexpr Bits kInfinity = static_cast<Bits>(static_cast<std::uint64_t>(kMaxBiased) << T::kFraction);

  static constexpr Bits pack(bool sign, std::uint64_t magnitude) {
    return static_cast<Bits>((sign ? kSignBit : Bits{0}) | magnitude);
  }
  static constexpr bool is_nan(Bits a) { return static_cast<Bits>(a & ~kSignBit) > kInfinity; }
  static constexpr Bits quiet(Bits a) { return static_cast<Bits>(a | kQuietBit); }
};

template <class T>
inline Parts unpack(typename T::Bits a, bool denormals_are_zero) {
  using L = Layout<T>;
  Parts p;
  p.sign = (a & L::kSignBit) != 0;
  const auto biased = static_cast<unsigned>(a >> T::kFraction) & L::kMaxBiased;
  const auto fraction = static_cast<std::uint64_t>(a & L::kFractionMask);
  if (biased - 1 < L::kMaxBiased - 1) {
    p.kind = Kind::kFinite;
    p.exp = static_cast<int>(biased) - L::kBias;
    p.sig = (std::uint64_t{1} << 63) | (fraction << (63 - T::kFraction));
  } else if (biased != 0) {
    p.kind = fraction == 0 ? Kind::kInfinity : (fraction & L::kQuietBit) ? Kind::kQuietNan : Kind::kSignallingNan;
  } else if (fraction != 0 && !denormals_are_zero) {
    const int shift = std::countl_zero(fraction);
    p.kind = Kind::kFinite;
    p.denormal = true;
    p.sig = fraction << shift;
    p.exp = 1 - L::kBias + (63 - T::kFraction) - shift;
  }
  return p;
}

template <class T>
typename T::Bits round_pack_tiny(bool sign, int biased, std::uint64_t sig, Rounding rounding, bool flush, Env& env);

/// Rounds sig * 2^(exp - 63), bit 63 of sig set, its lowest bit sticky.
template <class T>
inline typename T::Bits round_pack(bool sign, int exp, std::uint64_t sig, Rounding rounding, bool flush, Env& env) {
  using L = Layout<T>;
  constexpr int kDrop = 63 - T::kFraction;
  constexpr std::uint64_t kRest = (std::uint64_t{1} << kDrop) - 1;
  constexpr std::uint64_t kHalf = std::uint64_t{1} << (kDrop - 1);
  int biased = exp + L::kBias;
  if (biased <= 0) [[unlikely]]
    return round_pack_tiny<T>(sign, biased, sig, rounding, flush, env);
  const std::uint64_t rest = sig & kRest;
  std::uint64_t kept = sig >> kDrop;
  if (rest != 0) {
    env.raise(kPrecision);
    if (rounds_up(rounding, sign, kept & 1, rest, kHalf)) {
      env.c1 = true;
      ++kept;
      if (kept >> (T::kFraction + 1)) {
        kept >>= 1;
        ++biased;
      }
    }
  }
  if (biased >= static_cast<int>(L::kMaxBiased)) [[unlikely]] {
    env.raise(kOverflow | (env.masked & kOverflow ? kPrecision : 0));
    env.c1 = overflows_to_infinity(rounding, sign);
    return L::pack(sign, env.c1 ? L::kInfinity : L::kInfinity - 1U);
  }
  return L::pack(sign, (static_cast<std::uint64_t>(biased) << T::kFraction) | (kept & L::kFractionMask));
}
template <class T>
inline typename T::Bits round_pack(bool sign, int exp, std::uint64_t sig, Env& env) {
  return round_pack<T>(sign, exp, sig, env.rounding, env.flush_to_zero, env);
}

/// The integer nearest in the given mode to a finite value below 2^64 (exp <= 63); inexact is set if it was none.
struct RoundedInteger {
  std::uint64_t value = 0;
  bool inexact = false, up = false, carry = false;  ///< carry: the value is 2^64
};
RoundedInteger round_to_integer(const Parts& p, Rounding rounding);

// ---- x87 --------------------------------------------------------------------------------------------------------

inline constexpr int kBias80 = 16383;
inline constexpr int kMinExp80 = 1 - kBias80;
inline constexpr std::uint64_t kIntegerBit = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kQuietBit80 = std::uint64_t{1} << 62;

constexpr F80 pack80(bool sign, unsigned biased, std::uint64_t sig) {
  return {sig, static_cast<std::uint16_t>((sign ? 0x8000U : 0U) | biased)};
}
constexpr F80 zero80(bool sign) { return pack80(sign, 0, 0); }
constexpr F80 infinity80(bool sign) { return pack80(sign, 0x7fff, kIntegerBit); }
constexpr F80 quiet80(F80 a) { return {a.sig | kQuietBit80, a.sign_exp}; }

inline Parts unpack80(F80 a) {
  Parts p;
  p.sign = a.sign();
  const unsigned biased = a.biased();
  if (a.sig & kIntegerBit) {
    if (biased == 0x7fff) {
      p.kind = a.sig == kIntegerBit ? Kind::kInfinity : (a.sig & kQuietBit80) ? Kind::kQuietNan : Kind::kSignallingNan;
      return p;
    }
    p.kind = Kind::kFinite;
    p.denormal = biased == 0;  // a pseudo-denormal: as if its exponent field were 1
    p.exp = static_cast<int>(biased == 0 ? 1 : biased) - kBias80;
    p.sig = a.sig;
  } else if (biased != 0) {
    p.kind = Kind::kUnsupported;
  } else if (a.sig != 0) {
    const int shift = std::countl_zero(a.sig);
    p.kind = Kind::kFinite;
    p.denormal = true;
    p.exp = kMinExp80 - shift;
    p.sig = a.sig << shift;
  }
  return p;
}

/// Rounds sig * 2^(exp - 127), bit 127 of sig set, to precision (24, 53, 64) bits with the x87's range.
F80 round_pack80(bool sign, int exp, U128 sig, unsigned precision, Env& env);
/// Result of an operation with a NaN or an unsupported operand; flags what is to be flagged.
F80 propagate80(F80 a, const Parts& pa, F80 b, const Parts& pb, Env& env);
F80 propagate80(F80 a, const Parts& pa, Env& env);
inline F80 invalid80(Env& env) {
  env.raise(kInvalid);
  return kDefaultNan80;
}

}  // namespace husk::fp
