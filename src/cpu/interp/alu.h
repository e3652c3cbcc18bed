// husk: integer operations with their flags, as pure functions of operands and RFLAGS
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/state.h"

namespace husk::cpu::interp::alu {

template <class T>
inline constexpr unsigned kBits = sizeof(T) * 8;
template <class T>
constexpr bool msb(T value) {
  return (value >> (kBits<T> - 1)) & 1;
}
constexpr std::uint64_t flag_if(bool condition, std::uint64_t flag) { return condition ? flag : 0; }

/// ZF, SF and PF of a result.
template <class T>
constexpr std::uint64_t zsp(T result) {
  return flag_if(result == 0, kZF) | flag_if(msb(result), kSF) |
         flag_if(!__builtin_parity(static_cast<std::uint8_t>(result)), kPF);
}
constexpr void put_flags(std::uint64_t& rflags, std::uint64_t mask, std::uint64_t value) {
  rflags = (rflags & ~mask) | value;
}

// Every operation: T apply(T a, T b, rflags). Undefined flags take the values that AMD's Zen 4 gives where known.

template <class T>
constexpr T add_carry(T a, T b, bool carry, std::uint64_t& rflags) {
  const T result = static_cast<T>(a + b + carry);
  const bool out = carry ? result <= a : result < a;
  put_flags(rflags, kArithmeticFlags,
            zsp(result) | flag_if(out, kCF) | flag_if(msb(static_cast<T>((a ^ result) & (b ^ result))), kOF) |
                ((a ^ b ^ result) & kAF));
  return result;
}
template <class T>
constexpr T sub_borrow(T a, T b, bool borrow, std::uint64_t& rflags) {
  const T result = static_cast<T>(a - b - borrow);
  const bool out = borrow ? a <= b : a < b;
  put_flags(rflags, kArithmeticFlags,
            zsp(result) | flag_if(out, kCF) | flag_if(msb(static_cast<T>((a ^ b) & (a ^ result))), kOF) |
                ((a ^ b ^ result) & kAF));
  return result;
}
template <class T>
constexpr T logic(T result, std::uint64_t& rflags) {
  put_flags(rflags, kArithmeticFlags, zsp(result));
  return result;
}

struct Add {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return add_carry(a, b, false, rflags); }
};
struct Adc {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return add_carry(a, b, rflags & kCF, rflags); }
};
struct Sub {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return sub_borrow(a, b, false, rflags); }
};
struct Sbb {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return sub_borrow(a, b, rflags & kCF, rflags); }
};
struct Cmp {
  static constexpr bool kWrites = false;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return sub_borrow(a, b, false, rflags); }
};
struct And {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return logic(static_cast<T>(a & b), rflags); }
};
struct Or {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return logic(static_cast<T>(a | b), rflags); }
};
struct Xor {
  static constexpr bool kWrites = true;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return logic(static_cast<T>(a ^ b), rflags); }
};
struct Test {
  static constexpr bool kWrites = false;
  template <class T>
  static T apply(T a, T b, std::uint64_t& rflags) { return logic(static_cast<T>(a & b), rflags); }
};

// One operand; the second is ignored.
struct Inc {
  template <class T>
  static T apply(T a, std::uint64_t& rflags) {
    const std::uint64_t carry = rflags & kCF;
    const T result = add_carry<T>(a, 1, false, rflags);
    put_flags(rflags, kCF, carry);
    return result;
  }
};
struct Dec {
  template <class T>
  static T apply(T a, std::uint64_t& rflags) {
    const std::uint64_t carry = rflags & kCF;
    const T result = sub_borrow<T>(a, 1, false, rflags);
    put_flags(rflags, kCF, carry);
    return result;
  }
};
struct Not {
  template <class T>
  static T apply(T a, std::uint64_t&) { return static_cast<T>(~a); }
};
struct Neg {
  template <class T>
  static T apply(T a, std::uint64_t& rflags) { return sub_borrow<T>(0, a, false, rflags); }
};

// Shifts and rotates: T apply(T a, unsigned raw_count, rflags). The count is masked here (SDM vol. 2, SAL/SAR/SHL/SHR).
template <class T>
constexpr unsigned masked_count(unsigned raw) { return raw & (sizeof(T) == 8 ? 63 : 31); }

struct Shl {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw);
    if (count == 0) return a;
    const T result = count < kBits<T> ? static_cast<T>(a << count) : T{0};
    const bool carry = count <= kBits<T> && ((a >> (kBits<T> - count)) & 1);
    put_flags(rflags, kArithmeticFlags, zsp(result) | flag_if(carry, kCF) | flag_if(msb(result) != carry, kOF));
    return result;
  }
};
struct Shr {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw);
    if (count == 0) return a;
    const T result = count < kBits<T> ? static_cast<T>(a >> count) : T{0};
    const bool carry = count <= kBits<T> && ((a >> (count - 1)) & 1);
    // OF is the top bit of the source for a count of 1; for larger counts Zen 4 gives the two top bits of the result.
    const bool overflow = count == 1 ? msb(a) : msb(result) != msb(static_cast<T>(result << 1));
    put_flags(rflags, kArithmeticFlags, zsp(result) | flag_if(carry, kCF) | flag_if(overflow, kOF));
    return result;
  }
};
struct Sar {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw);
    if (count == 0) return a;
    using S = std::make_signed_t<T>;
    const unsigned effective = count < kBits<T> ? count : kBits<T> - 1;
    const T result = static_cast<T>(static_cast<S>(a) >> effective);
    const bool carry = count < kBits<T> ? ((a >> (count - 1)) & 1) : msb(a);
    put_flags(rflags, kArithmeticFlags, zsp(result) | flag_if(carry, kCF));
    return result;
  }
};
struct Rol {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw);
    if (count == 0) return a;
    const unsigned turn = count % kBits<T>;
    const T result = turn ? static_cast<T>((a << turn) | (a >> (kBits<T> - turn))) : a;
    const bool carry = result & 1;
    put_flags(rflags, kCF | kOF, flag_if(carry, kCF) | flag_if(msb(result) != carry, kOF));
    return result;
  }
};
struct Ror {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw);
    if (count == 0) return a;
    const unsigned turn = count % kBits<T>;
    const T result = turn ? static_cast<T>((a >> turn) | (a << (kBits<T> - turn))) : a;
    put_flags(rflags, kCF | kOF,
              flag_if(msb(result), kCF) | flag_if(msb(result) != msb(static_cast<T>(result << 1)), kOF));
    return result;
  }
};
struct Rcl {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw) % (kBits<T> + 1);
    if (count == 0) return a;
    using Wide = unsigned __int128;
    const Wide wide = (Wide{(rflags & kCF) != 0} << kBits<T>) | a;
    const Wide turned = (wide << count) | (wide >> (kBits<T> + 1 - count));
    const T result = static_cast<T>(turned);
    const bool carry = (turned >> kBits<T>)&1;
    put_flags(rflags, kCF | kOF, flag_if(carry, kCF) | flag_if(msb(result) != carry, kOF));
    return result;
  }
};
struct Rcr {
  template <class T>
  static T apply(T a, unsigned raw, std::uint64_t& rflags) {
    const unsigned count = masked_count<T>(raw) % (kBits<T> + 1);
    if (count == 0) return a;
    using Wide = unsigned __int128;
    const Wide wide = (Wide{(rflags & kCF) != 0} << kBits<T>) | a;
    const Wide turned = (wide >> count) | (wide << (kBits<T> + 1 - count));
    const T result = static_cast<T>(turned);
    const bool carry = (turned >> kBits<T>)&1;
    put_flags(rflags, kCF | kOF,
              flag_if(carry, kCF) | flag_if(msb(result) != msb(static_cast<T>(result << 1)), kOF));
    return result;
  }
};

/// SHLD and SHRD. A 16-bit count above 16 is undefined; the bits then come around again from the destination.
template <class T>
T shld(T a, T b, unsigned raw, std::uint64_t& rflags) {
  const unsigned count = masked_count<T>(raw);
  if (count == 0) return a;
  T result;
  bool carry;
  if (count <= kBits<T>) {
    result = count == kBits<T> ? b : static_cast<T>((a << count) | (b >> (kBits<T> - count)));
    carry = (a >> (kBits<T> - count)) & 1;
  } else {
    const unsigned more = count - kBits<T>;
    result = static_cast<T>((b << more) | (a >> (kBits<T> - more)));
    carry = (b >> (kBits<T> - more)) & 1;
  }
  put_flags(rflags, kArithmeticFlags, zsp(result) | flag_if(carry, kCF) | flag_if(msb(result) != msb(a), kOF));
  return result;
}
template <class T>
T shrd(T a, T b, unsigned raw, std::uint64_t& rflags) {
  const unsigned count = masked_count<T>(raw);
  if (count == 0) return a;
  T result;
  bool carry;
  if (count <= kBits<T>) {
    result = count == kBits<T> ? b : static_cast<T>((a >> count) | (b << (kBits<T> - count)));
    carry = (a >> (count - 1)) & 1;
  } else {
    const unsigned more = count - kBits<T>;
    result = static_cast<T>((b >> more) | (a << (kBits<T> - more)));
    carry = (b >> (more - 1)) & 1;
  }
  const bool overflow = msb(result) != msb(static_cast<T>(result << 1));
  put_flags(rflags, kArithmeticFlags, zsp(result) | flag_if(carry, kCF) | flag_if(count == 1 ? msb(result) != msb(a) : overflow, kOF));
  return result;
}

/// Condition codes 0..15 (SDM vol. 1, appendix B).
inline bool condition(unsigned code, std::uint64_t rflags) {
  bool met = false;
  switch (code >> 1) {
    case 0: met = rflags & kOF; break;
    case 1: met = rflags & kCF; break;
    case 2: met = rflags & kZF; break;
    case 3: met = rflags & (kCF | kZF); break;
    case 4: met = rflags & kSF; break;
    case 5: met = rflags & kPF; break;
    case 6: met = ((rflags & kSF) != 0) != ((rflags & kOF) != 0); break;
    default: met = (rflags & kZF) || ((rflags & kSF) != 0) != ((rflags & kOF) != 0); break;
  }
  return met != static_cast<bool>(code & 1);
}

}  // namespace husk::cpu::interp::alu
