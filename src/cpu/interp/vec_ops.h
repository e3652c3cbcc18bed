// husk: integer vector operations on blocks of 8 (MMX) and 16 bytes, named as the instructions
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/interp/vec_block.h"

namespace husk::cpu::interp::ops {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

// ---- element functions ----

template <class T>
constexpr T wrap_add(T a, T b) {
  return static_cast<T>(a + b);
}
template <class T>
constexpr T wrap_sub(T a, T b) {
  return static_cast<T>(a - b);
}
template <class To, class From>
constexpr To saturate(From value) {
  using Limits = std::numeric_limits<To>;
  return static_cast<To>(std::clamp<From>(value, static_cast<From>(Limits::min()), static_cast<From>(Limits::max())));
}
template <class T>
constexpr T sat_add(T a, T b) {
  return saturate<T>(static_cast<i32>(a) + static_cast<i32>(b));
}
template <class T>
constexpr T sat_sub(T a, T b) {
  return saturate<T>(static_cast<i32>(a) - static_cast<i32>(b));
}
template <class T>
constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}
template <class T>
constexpr T average(T a, T b) {
  return static_cast<T>((static_cast<u32>(a) + static_cast<u32>(b) + 1) >> 1);
}
/// All ones for true.
template <class T>
constexpr T equal(T a, T b) {
  return a == b ? static_cast<T>(-1) : T{0};
}
template <class T>
constexpr T greater(T a, T b) {
  return a > b ? static_cast<T>(-1) : T{0};
}
constexpr u64 bit_and(u64 a, u64 b) { return a & b; }
constexpr u64 bit_andn(u64 a, u64 b) { return ~a & b; }
constexpr u64 bit_or(u64 a, u64 b) { return a | b; }
constexpr u64 bit_xor(u64 a, u64 b) { return a ^ b; }
constexpr u16 mul_low16(u16 a, u16 b) { return static_cast<u16>(u32{a} * b); }
constexpr u16 mul_high_unsigned(u16 a, u16 b) { return static_cast<u16>((u32{a} * b) >> 16); }
constexpr i16 mul_high_signed(i16 a, i16 b) { return static_cast<i16>((i32{a} * b) >> 16); }
constexpr i16 mul_high_rounded(i16 a, i16 b) { return static_cast<i16>((((i32{a} * b) >> 14) + 1) >> 1); }
constexpr u32 mul_low32(u32 a, u32 b) { return a * b; }
/// PMULUDQ and PMULDQ: only the low half of each 64-bit element counts.
constexpr u64 mul_even_unsigned(u64 a, u64 b) { return u64{static_cast<u32>(a)} * static_cast<u32>(b); }
constexpr u64 mul_even_signed(u64 a, u64 b) { return static_cast<u64>(i64{static_cast<i32>(a)} * static_cast<i32>(b)); }
template <class T>
constexpr T sign_by(T a, T b) {
  if (b == 0) return 0;
  return b < 0 ? static_cast<T>(-static_cast<i64>(a)) : a;  // the lowest value stays itself, by wrapping
}
template <class T>
constexpr T magnitude(T b) {
  return b < 0 ? static_cast<T>(-static_cast<i64>(b)) : b;
}

// ---- element-wise operations ----

template <class T, T (*F)(T, T)>
struct Elementwise {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    auto x = lanes_of<T>(a);
    const auto y = lanes_of<T>(b);
    for (unsigned i = 0; i < x.size(); ++i) x[i] = F(x[i], y[i]);
    return block_of(x);
  }
};
template <class T, T (*F)(T)>
struct ElementwiseUnary {
  template <unsigned N>
  static Block<N> apply(const Block<N>& b) {
    auto x = lanes_of<T>(b);
    for (auto& lane : x) lane = F(lane);
    return block_of(x);
  }
};
using paddb = Elementwise<u8, wrap_add<u8>>;
using paddw = Elementwise<u16, wrap_add<u16>>;
using paddd = Elementwise<u32, wrap_add<u32>>;
using paddq = Elementwise<u64, wrap_add<u64>>;
using psubb = Elementwise<u8, wrap_sub<u8>>;
using psubw = Elementwise<u16, wrap_sub<u16>>;
using psubd = Elementwise<u32, wrap_sub<u32>>;
using psubq = Elementwise<u64, wrap_sub<u64>>;
using paddsb = Elementwise<i8, sat_add<i8>>;
using paddsw = Elementwise<i16, sat_add<i16>>;
using paddusb = Elementwise<u8, sat_add<u8>>;
using paddusw = Elementwise<u16, sat_add<u16>>;
using psubsb = Elementwise<i8, sat_sub<i8>>;
using psubsw = Elementwise<i16, sat_sub<i16>>;
using psubusb = Elementwise<u8, sat_sub<u8>>;
using psubusw = Elementwise<u16, sat_sub<u16>>;
using pminub = Elementwise<u8, min_of<u8>>;
using pminuw = Elementwise<u16, min_of<u16>>;
using pminud = Elementwise<u32, min_of<u32>>;
using pminsb = Elementwise<i8, min_of<i8>>;
using pminsw = Elementwise<i16, min_of<i16>>;
using pminsd = Elementwise<i32, min_of<i32>>;
using pmaxub = Elementwise<u8, max_of<u8>>;
using pmaxuw = Elementwise<u16, max_of<u16>>;
using pmaxud = Elementwise<u32, max_of<u32>>;
using pmaxsb = Elementwise<i8, max_of<i8>>;
using pmaxsw = Elementwise<i16, max_of<i16>>;
using pmaxsd = Elementwise<i32, max_of<i32>>;
using pavgb = Elementwise<u8, average<u8>>;
using pavgw = Elementwise<u16, average<u16>>;
using pcmpeqb = Elementwise<u8, equal<u8>>;
using pcmpeqw = Elementwise<u16, equal<u16>>;
using pcmpeqd = Elementwise<u32, equal<u32>>;
using pcmpeqq = Elementwise<u64, equal<u64>>;
using pcmpgtb = Elementwise<i8, greater<i8>>;
using pcmpgtw = Elementwise<i16, greater<i16>>;
using pcmpgtd = Elementwise<i32, greater<i32>>;
using pcmpgtq = Elementwise<i64, greater<i64>>;
using pand = Elementwise<u64, bit_and>;
using pandn = Elementwise<u64, bit_andn>;
using por = Elementwise<u64, bit_or>;
using pxor = Elementwise<u64, bit_xor>;
using pmullw = Elementwise<u16, mul_low16>;
using pmulhuw = Elementwise<u16, mul_high_unsigned>;
using pmulhw = Elementwise<i16, mul_high_signed>;
using pmulhrsw = Elementwise<i16, mul_high_rounded>;
using pmulld = Elementwise<u32, mul_low32>;
using pmuludq = Elementwise<u64, mul_even_unsigned>;
using pmuldq = Elementwise<u64, mul_even_signed>;
using psignb = Elementwise<i8, sign_by<i8>>;
using psignw = Elementwise<i16, sign_by<i16>>;
using psignd = Elementwise<i32, sign_by<i32>>;
using pabsb = ElementwiseUnary<i8, magnitude<i8>>;
using pabsw = ElementwiseUnary<i16, magnitude<i16>>;
using pabsd = ElementwiseUnary<i32, magnitude<i32>>;

// ---- pack, unpack ----

template <class From, class To>
struct Pack {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    const auto x = lanes_of<From>(a), y = lanes_of<From>(b);
    constexpr unsigned kHalf = N / sizeof(From);
    Lanes<To, N> out;
    for (unsigned i = 0; i < kHalf; ++i) {
      out[i] = saturate<To>(i64{x[i]});
      out[kHalf + i] = saturate<To>(i64{y[i]});
    }
    return block_of(out);
  }
};
using packsswb = Pack<i16, i8>;
using packuswb = Pack<i16, u8>;
using packssdw = Pack<i32, i16>;
using packusdw = Pack<i32, u16>;

template <class T, bool High>
struct Unpack {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    const auto x = lanes_of<T>(a), y = lanes_of<T>(b);
    constexpr unsigned kHalf = N / sizeof(T) / 2, kFrom = High ? kHalf : 0;
    Lanes<T, N> out{};
    for (unsigned i = 0; i < kHalf; ++i) {
      out[2 * i] = x[kFrom + i];
      out[2 * i + 1] = y[kFrom + i];
    }
    return block_of(out);
  }
};
using punpcklbw = Unpack<u8, false>;
using punpcklwd = Unpack<u16, false>;
using punpckldq = Unpack<u32, false>;
using punpcklqdq = Unpack<u64, false>;
using punpckhbw = Unpack<u8, true>;
using punpckhwd = Unpack<u16, true>;
using punpckhdq = Unpack<u32, true>;
using punpckhqdq = Unpack<u64, true>;

// ---- horizontal ----

template <class T, T (*F)(T, T)>
struct Horizontal {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    const auto x = lanes_of<T>(a), y = lanes_of<T>(b);
    constexpr unsigned kHalf = N / sizeof(T) / 2;
    Lanes<T, N> out;
    for (unsigned i = 0; i < kHalf; ++i) {
      out[i] = F(x[2 * i], x[2 * i + 1]);
      out[kHalf + i] = F(y[2 * i], y[2 * i + 1]);
    }
    return block_of(out);
  }
};
using phaddw = Horizontal<u16, wrap_add<u16>>;
using phaddd = Horizontal<u32, wrap_add<u32>>;
using phaddsw = Horizontal<i16, sat_add<i16>>;
using phsubw = Horizontal<u16, wrap_sub<u16>>;
using phsubd = Horizontal<u32, wrap_sub<u32>>;
using phsubsw = Horizontal<i16, sat_sub<i16>>;

struct pmaddwd {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    const auto x = lanes_of<i16>(a), y = lanes_of<i16>(b);
    Lanes<u32, N> out;  // 8000h * 8000h twice wraps to 80000000h
    for (unsigned i = 0; i < out.size(); ++i) {
      out[i] = static_cast<u32>(x[2 * i] * y[2 * i]) + static_cast<u32>(x[2 * i + 1] * y[2 * i + 1]);
    }
    return block_of(out);
  }
};
struct pmaddubsw {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    const auto x = lanes_of<u8>(a);
    const auto y = lanes_of<i8>(b);
    Lanes<i16, N> out;
    for (unsigned i = 0; i < out.size(); ++i) {
      out[i] = saturate<i16>(x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1]);
    }
    return block_of(out);
  }
};
struct psadbw {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    Block<N> differences;
    for (unsigned i = 0; i < N; ++i) {
      const u8 x = a.bytes[i], y = b.bytes[i];
      differences.bytes[i] = static_cast<u8>(std::max(x, y) - std::min(x, y));
    }
    auto out = lanes_of<u64>(differences);
    for (auto& lane : out) {  // pairs of bytes, then all four words, which the product gathers in the top one
      lane = (lane & 0x00FF00FF00FF00FF) + ((lane >> 8) & 0x00FF00FF00FF00FF);
      lane = (lane * 0x0001000100010001) >> 48;
    }
    return block_of(out);
  }
};
struct mpsadbw {
  static constexpr unsigned kImmBits = 3;
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    const unsigned first = (imm & 4) ? 4 : 0, second = (imm & 3) * 4;
    Lanes<u16, 16> out{};
    for (unsigned i = 0; i < 8; ++i) {
      for (unsigned k = 0; k < 4; ++k) {
        const int difference = a.bytes[first + i + k] - b.bytes[second + k];
        out[i] = static_cast<u16>(out[i] + (difference < 0 ? -difference : difference));
      }
    }
    return block_of(out);
  }
};
struct phminposuw {
  static Block<16> apply(const Block<16>& b) {
    const auto x = lanes_of<u16>(b);
    unsigned at = 0;
    for (unsigned i = 1; i < 8; ++i) {
      if (x[i] < x[at]) at = i;
    }
    return block_of(Lanes<u16, 16>{x[at], static_cast<u16>(at)});
  }
};

// ---- shuffles ----

struct pshufb {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b) {
    Block<N> out;
    for (unsigned i = 0; i < N; ++i) {
      out.bytes[i] = (b.bytes[i] & 0x80) ? u8{0} : a.bytes[b.bytes[i] & (N - 1)];
    }
    return out;
  }
};
/// Four elements from First on, each chosen by two bits of the immediate.
template <class T, unsigned First>
struct ShuffleFour {
  template <unsigned N>
  static Block<N> apply(const Block<N>& b, unsigned imm) {
    const auto x = lanes_of<T>(b);
    auto out = x;
    for (unsigned i = 0; i < 4; ++i) out[First + i] = x[First + ((imm >> (2 * i)) & 3)];
    return block_of(out);
  }
};
using pshufw = ShuffleFour<u16, 0>;
using pshuflw = ShuffleFour<u16, 0>;
using pshufhw = ShuffleFour<u16, 4>;
using pshufd = ShuffleFour<u32, 0>;
using permilps_i = pshufd;
struct permilpd_i {
  static constexpr unsigned kImmBits = 2;
  static Block<16> apply(const Block<16>& b, unsigned imm) {
    const auto x = lanes_of<u64>(b);
    return block_of(Lanes<u64, 16>{x[imm & 1], x[(imm >> 1) & 1]});
  }
};
struct permilps {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto x = lanes_of<u32>(a), select = lanes_of<u32>(b);
    Lanes<u32, 16> out;
    for (unsigned i = 0; i < 4; ++i) out[i] = x[select[i] & 3];
    return block_of(out);
  }
};
struct permilpd {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto x = lanes_of<u64>(a), select = lanes_of<u64>(b);
    return block_of(Lanes<u64, 16>{x[(select[0] >> 1) & 1], x[(select[1] >> 1) & 1]});
  }
};
struct shufps {
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    const auto x = lanes_of<u32>(a), y = lanes_of<u32>(b);
    return block_of(Lanes<u32, 16>{x[imm & 3], x[(imm >> 2) & 3], y[(imm >> 4) & 3], y[(imm >> 6) & 3]});
  }
};
struct shufpd {
  static constexpr unsigned kImmBits = 2;
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    return block_of(Lanes<u64, 16>{lanes_of<u64>(a)[imm & 1], lanes_of<u64>(b)[(imm >> 1) & 1]});
  }
};
using unpcklps = punpckldq;
using unpckhps = punpckhdq;
using unpcklpd = punpcklqdq;
using unpckhpd = punpckhqdq;
struct movsldup {
  static Block<16> apply(const Block<16>& b) {
    const auto x = lanes_of<u32>(b);
    return block_of(Lanes<u32, 16>{x[0], x[0], x[2], x[2]});
  }
};
struct movshdup {
  static Block<16> apply(const Block<16>& b) {
    const auto x = lanes_of<u32>(b);
    return block_of(Lanes<u32, 16>{x[1], x[1], x[3], x[3]});
  }
};
/// a:b shifted right by whole bytes; zeros from above.
struct palignr {
  template <unsigned N>
  static Block<N> apply(const Block<N>& a, const Block<N>& b, unsigned imm) {
    std::array<u8, 3 * N> wide{};
    std::memcpy(wide.data(), b.bytes.data(), N);
    std::memcpy(wide.data() + N, a.bytes.data(), N);
    Block<N> out;
    std::memcpy(out.bytes.data(), wide.data() + std::min(imm, 2 * N), N);
    return out;
  }
};
template <class T, unsigned ImmBits>
struct BlendImm {
  static constexpr unsigned kImmBits = ImmBits;
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    auto out = lanes_of<T>(a);
    const auto other = lanes_of<T>(b);
    for (unsigned i = 0; i < out.size(); ++i) out[i] = ((imm >> i) & 1) ? other[i] : out[i];
    return block_of(out);
  }
};
using pblendw = BlendImm<u16, 0>;
using blendps = BlendImm<u32, 4>;
using blendpd = BlendImm<u64, 2>;

// ---- shifts ----

template <class T>
struct ShiftLeft {
  using Element = T;
  static constexpr T shift(T a, u64 count) { return count < sizeof(T) * 8 ? static_cast<T>(a << count) : T{0}; }
};
template <class T>
struct ShiftRight {
  using Element = T;
  static constexpr T shift(T a, u64 count) { return count < sizeof(T) * 8 ? static_cast<T>(a >> count) : T{0}; }
};
/// T signed: beyond the width the sign fills the element.
template <class T>
struct ShiftArithmetic {
  using Element = T;
  static constexpr T shift(T a, u64 count) { return static_cast<T>(a >> std::min<u64>(count, sizeof(T) * 8 - 1)); }
};
using psllw = ShiftLeft<u16>;
using pslld = ShiftLeft<u32>;
using psllq = ShiftLeft<u64>;
using psrlw = ShiftRight<u16>;
using psrld = ShiftRight<u32>;
using psrlq = ShiftRight<u64>;
using psraw = ShiftArithmetic<i16>;
using psrad = ShiftArithmetic<i32>;
struct pslldq {
  static Block<16> apply(const Block<16>& a, u64 count) {
    std::array<u8, 32> wide{};
    std::memcpy(wide.data() + 16, a.bytes.data(), 16);
    Block<16> out;
    std::memcpy(out.bytes.data(), wide.data() + 16 - std::min<u64>(count, 16), 16);
    return out;
  }
};
struct psrldq {
  static Block<16> apply(const Block<16>& a, u64 count) {
    std::array<u8, 32> wide{};
    std::memcpy(wide.data(), a.bytes.data(), 16);
    Block<16> out;
    std::memcpy(out.bytes.data(), wide.data() + std::min<u64>(count, 16), 16);
    return out;
  }
};
/// VPSLLVD and the like: each element has its own count.
template <class Shift>
struct ShiftVariable {
  using T = typename Shift::Element;
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    auto out = lanes_of<T>(a);
    const auto count = lanes_of<std::make_unsigned_t<T>>(b);
    for (unsigned i = 0; i < out.size(); ++i) out[i] = Shift::shift(out[i], count[i]);
    return block_of(out);
  }
};
using psllvd = ShiftVariable<pslld>;
using psllvq = ShiftVariable<psllq>;
using psrlvd = ShiftVariable<psrld>;
using psrlvq = ShiftVariable<psrlq>;
using psravd = ShiftVariable<psrad>;

}  // namespace husk::cpu::interp::ops

// The names by encodings that have them, for the bind functions: HUSK_VEC_X(name).

/// Two operands, in MMX, SSE and AVX.
#define HUSK_VEC_BINARY_MMX(X)                                                                                         \
  X(paddb)                                                                                                             \
  X(paddw)                                                                                                             \
  X(paddd) X(paddq) X(psubb) X(psubw) X(psubd) X(psubq) X(paddsb) X(paddsw) X(paddusb) X(paddusw) X(psubsb) X(psubsw)  \
      X(psubusb) X(psubusw) X(pminub) X(pminsw) X(pmaxub) X(pmaxsw) X(pavgb) X(pavgw) X(pcmpeqb) X(pcmpeqw) X(pcmpeqd) \
          X(pcmpgtb) X(pcmpgtw) X(pcmpgtd) X(pand) X(pandn) X(por) X(pxor) X(pmullw) X(pmulhuw) X(pmulhw) X(pmulhrsw)  \
              X(pmuludq) X(psignb) X(psignw) X(psignd) X(packsswb) X(packuswb) X(packssdw) X(punpckhbw) X(punpckhwd)   \
                  X(punpckhdq) X(phaddw) X(phaddd) X(phaddsw) X(phsubw) X(phsubd) X(phsubsw) X(pmaddwd) X(pmaddubsw)   \
                      X(psadbw) X(pshufb) X(palignr)
/// Two operands, in SSE and AVX only.
#define HUSK_VEC_BINARY_SSE(X)                                                                                       \
  X(pminuw)                                                                                                          \
  X(pminud)                                                                                                          \
  X(pminsb) X(pminsd) X(pmaxuw) X(pmaxud) X(pmaxsb) X(pmaxsd) X(pcmpeqq) X(pcmpgtq) X(pmulld) X(pmuldq) X(packusdw)  \
      X(punpcklbw) X(punpcklwd) X(punpckldq) X(punpcklqdq) X(punpckhqdq) X(mpsadbw) X(pblendw) X(blendps) X(blendpd) \
          X(shufps) X(shufpd) X(unpcklps) X(unpckhps) X(unpcklpd) X(unpckhpd)
/// One operand.
#define HUSK_VEC_UNARY_MMX(X) X(pabsb) X(pabsw) X(pabsd)
#define HUSK_VEC_UNARY_SSE(X) X(phminposuw) X(pshufd) X(pshufhw) X(pshuflw) X(movsldup) X(movshdup)
/// Shifts by one count for all elements.
#define HUSK_VEC_SHIFTS(X) X(psllw) X(pslld) X(psllq) X(psrlw) X(psrld) X(psrlq) X(psraw) X(psrad)
