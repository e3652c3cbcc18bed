// husk: rounding, packing and square roots behind every softfloat operation
#include "cpu/softfloat/parts.h"

namespace husk::fp {

namespace {

struct Root32 {
  std::uint32_t root;
  std::uint64_t remainder;  // up to 2 * root, so 33 bits
};

// Digit by digit for the 16 bits that start the recursion; a >= 2^30.
Root32 square_root16(std::uint32_t a) {
  std::uint32_t root = 0, rest = 0;
  for (int i = 15; i >= 0; --i) {
    rest = (rest << 2) | ((a >> (2 * i)) & 3);
    const std::uint32_t trial = (root << 2) | 1;
    root <<= 1;
    if (rest >= trial) {
      rest -= trial;
      root |= 1;
    }
  }
  return {root, rest};
}

// One step of P. Zimmermann, "Karatsuba Square Root" (INRIA RR-3805), from 16 to 32 bits of root; a >= 2^62.
Root32 square_root32(std::uint64_t a) {
  const Root32 high = square_root16(static_cast<std::uint32_t>(a >> 32));
  const std::uint64_t numerator = (high.remainder << 16) | ((a >> 16) & 0xffff);
  const std::uint64_t divisor = 2ULL * high.root;
  const std::uint64_t quotient = numerator / divisor;
  const std::uint64_t rest = numerator % divisor;
  std::uint64_t root = (static_cast<std::uint64_t>(high.root) << 16) + quotient;
  auto remainder =
      static_cast<std::int64_t>((rest << 16) | (a & 0xffff)) - static_cast<std::int64_t>(quotient * quotient);
  while (remainder < 0) {
    remainder += static_cast<std::int64_t>(2 * root - 1);
    --root;
  }
  return {static_cast<std::uint32_t>(root), static_cast<std::uint64_t>(remainder)};
}

}  // namespace

std::uint64_t square_root(U128 a, U128& remainder) {
  const Root32 high = square_root32(high64(a));
  // The remainder has up to 33 bits, so the numerator may have 65.
  const U128 numerator = (static_cast<U128>(high.remainder) << 32) | (low64(a) >> 32);
  const std::uint64_t divisor = 2ULL * high.root;
  const U128 quotient = numerator / divisor;
  const auto rest = static_cast<std::uint64_t>(numerator - quotient * divisor);
  U128 root = (static_cast<U128>(high.root) << 32) + quotient;
  auto left = static_cast<__int128>((static_cast<U128>(rest) << 32) | (low64(a) & 0xffffffff)) -
              static_cast<__int128>(quotient * quotient);
  while (left < 0) {
    left += static_cast<__int128>(2 * root - 1);
    --root;
  }
  remainder = static_cast<U128>(left);
  return static_cast<std::uint64_t>(root);
}

// Tininess is detected after rounding (SDM vol. 1, 4.9.1.5): a result that would round up to the smallest normal number
// with an unbounded exponent is not tiny, though its encoding went through the denormal path.
template <class T>
typename T::Bits round_pack_tiny(bool sign, int biased, std::uint64_t sig, Rounding rounding, bool flush, Env& env) {
  using L = Layout<T>;
  constexpr int kDrop = 63 - T::kFraction;
  constexpr std::uint64_t kRest = (std::uint64_t{1} << kDrop) - 1;
  constexpr std::uint64_t kHalf = std::uint64_t{1} << (kDrop - 1);
  bool tiny = true;
  if (biased == 0) {
    const std::uint64_t kept = sig >> kDrop;
    tiny = !(kept == (std::uint64_t{2} << T::kFraction) - 1 && rounds_up(rounding, sign, true, sig & kRest, kHalf));
  }
  const bool masked = (env.masked & kUnderflow) != 0;
  if (tiny && masked && flush) {
    env.raise(kUnderflow | kPrecision);
    return L::pack(sign, 0);
  }
  if (tiny && !masked) {
    // Nothing will be written; inexact is what would be so with an unbounded exponent.
    env.raise(kUnderflow | ((sig & kRest) != 0 ? kPrecision : 0));
    return L::pack(sign, 0);
  }
  sig = shift_right_jam(sig, 1 - biased);
  const std::uint64_t rest = sig & kRest;
  std::uint64_t kept = sig >> kDrop;
  if (rest != 0) {
    env.raise(kPrecision);
    if (rounds_up(rounding, sign, kept & 1, rest, kHalf)) {
      env.c1 = true;
      ++kept;  // a carry into the exponent field is the smallest normal number, as it should
    }
  }
  if (tiny && rest != 0) env.raise(kUnderflow);
  return L::pack(sign, kept);
}
template F16::Bits round_pack_tiny<F16>(bool, int, std::uint64_t, Rounding, bool, Env&);
template F32::Bits round_pack_tiny<F32>(bool, int, std::uint64_t, Rounding, bool, Env&);
template F64::Bits round_pack_tiny<F64>(bool, int, std::uint64_t, Rounding, bool, Env&);

RoundedInteger round_to_integer(const Parts& p, Rounding rounding) {
  RoundedInteger r;
  if (p.zero()) return r;
  std::uint64_t rest;  // the fraction, scaled by 2^64, lowest bit sticky
  if (p.exp >= 63) {
    r.value = p.sig;
    rest = 0;
  } else if (p.exp >= 0) {
    r.value = p.sig >> (63 - p.exp);
    rest = p.sig << (p.exp + 1);
  } else {
    rest = shift_right_jam(p.sig, -1 - p.exp);
  }
  r.inexact = rest != 0;
  r.up = rounds_up(rounding, p.sign, r.value & 1, rest, kIntegerBit);
  if (r.up) r.carry = ++r.value == 0;
  return r;
}

F80 round_pack80(bool sign, int exp, U128 sig, unsigned precision, Env& env) {
  const unsigned drop = 128 - precision;
  const U128 rest_mask = (static_cast<U128>(1) << drop) - 1;
  const U128 half = static_cast<U128>(1) << (drop - 1);
  const U128 ones = ~static_cast<U128>(0) >> drop;
  int biased = exp + kBias80;
  bool wrapped = false;
  bool tiny = false;
  if (biased <= 0) [[unlikely]] {
    tiny = biased < 0 || !((sig >> drop) == ones && rounds_up<U128>(env.rounding, sign, true, sig & rest_mask, half));
    if (tiny && !(env.masked & kUnderflow)) {
      // SDM vol. 1, 4.9.1.5: the true exponent plus 24576 goes to the register.
      env.raise(kUnderflow);
      biased += 24576;
      wrapped = true;
      if (biased <= 0) {  // only FSCALE gets so far down
        env.raise(kPrecision);
        return zero80(sign);
      }
    } else {
      sig = shift_right_jam(sig, 1 - biased);
      biased = 0;
    }
  }
  const U128 rest = sig & rest_mask;
  U128 kept = sig >> drop;
  if (rest != 0) {
    env.raise(kPrecision | (tiny && !wrapped ? kUnderflow : 0));
    if (rounds_up(env.rounding, sign, (kept & 1) != 0, rest, half)) {
      env.c1 = true;
      ++kept;
      if (kept >> precision) {
        kept >>= 1;
        ++biased;
      }
    }
  }
  auto significand = static_cast<std::uint64_t>(kept << (64 - precision));
  if (biased == 0 && (significand & kIntegerBit)) biased = 1;
  if (biased >= 0x7fff) [[unlikely]] {
    env.raise(kOverflow);
    if (env.masked & kOverflow) {
      env.raise(kPrecision);
      env.c1 = overflows_to_infinity(env.rounding, sign);
      if (env.c1) return infinity80(sign);
      return pack80(sign, 0x7ffe, static_cast<std::uint64_t>(ones << (64 - precision)));
    }
    biased -= 24576;
    if (biased >= 0x7fff) {  // only FSCALE gets so far up
      env.raise(kPrecision);
      env.c1 = true;
      return infinity80(sign);
    }
  }
  return pack80(sign, static_cast<unsigned>(biased), significand);
}

F80 propagate80(F80 a, const Parts& pa, F80 b, const Parts& pb, Env& env) {
  if (pa.unsupported() || pb.unsupported()) return invalid80(env);
  if (pa.signalling() || pb.signalling()) env.raise(kInvalid);
  if (!pb.nan()) return quiet80(a);
  if (!pa.nan()) return quiet80(b);
  // SDM vol. 1, table 4-7: a quiet NaN wins over a signalling one, else the larger significand, else the positive one.
  if (pa.signalling() != pb.signalling()) return pa.signalling() ? b : a;
  if (a.sig != b.sig) return quiet80(a.sig > b.sig ? a : b);
  return quiet80(a.sign() ? b : a);
}

F80 propagate80(F80 a, const Parts& pa, Env& env) {
  if (pa.unsupported()) return invalid80(env);
  if (pa.signalling()) env.raise(kInvalid);
  return quiet80(a);
}

}  // namespace husk::fp
