// husk: exact software floating point with x86 semantics (SSE, AVX, FMA, F16C and x87), no host floating point
#pragma once

#include <array>
#include <cstdint>

/// Values are raw encodings in host integers; no function touches memory, a global or the host's floating-point unit.
/// Every function takes an Env: what the guest's MXCSR or x87 control word says, and the flags raised so far. Functions
/// only ever add to Env::raised and Env::c1; the caller starts an instruction with both clear.
///
/// What an unmasked exception does is the caller's part, in two steps:
///  - settle() after the last element, which drops the flags of post-computation exceptions when a pre-computation one
///    is unmasked (SDM vol. 1, 11.5.3), then
///  - if faults(): do not write the destination (SSE: any unmasked flag; x87: see each function).
namespace husk::fp {

/// The order of MXCSR.RC and FCW.RC.
enum class Rounding : std::uint8_t { kNearestEven = 0, kDown = 1, kUp = 2, kTowardZero = 3 };

/// Bit positions of MXCSR and of the x87 status word.
enum Flag : std::uint8_t {
  kInvalid = 0x01,
  kDenormal = 0x02,
  kZeroDivide = 0x04,
  kOverflow = 0x08,
  kUnderflow = 0x10,
  kPrecision = 0x20,
};
inline constexpr std::uint8_t kAllFlags = 0x3f;
inline constexpr std::uint8_t kPreComputation = kInvalid | kDenormal | kZeroDivide;

struct Env {
  Rounding rounding = Rounding::kNearestEven;
  std::uint8_t precision = 64;  ///< x87 precision control: 24, 53 or 64 bits; only add, sub, mul, div, sqrt look at it
  bool flush_to_zero = false;
  bool denormals_are_zero = false;
  std::uint8_t masked = kAllFlags;  ///< exceptions that are masked
  std::uint8_t raised = 0;
  bool c1 = false;  ///< x87: the last rounding made the magnitude larger

  static constexpr Env from_mxcsr(std::uint32_t mxcsr) {
    Env env;
    env.rounding = static_cast<Rounding>((mxcsr >> 13) & 3);
    env.flush_to_zero = (mxcsr >> 15) & 1;
    env.denormals_are_zero = (mxcsr >> 6) & 1;
    env.masked = static_cast<std::uint8_t>((mxcsr >> 7) & kAllFlags);
    return env;
  }
  /// PC = 01 is reserved; processors take it as 64 bits.
  static constexpr Env from_fcw(std::uint16_t fcw) {
    constexpr std::array<std::uint8_t, 4> kPrecisions{24, 64, 53, 64};
    Env env;
    env.rounding = static_cast<Rounding>((fcw >> 10) & 3);
    env.precision = kPrecisions[(fcw >> 8) & 3];
    env.masked = static_cast<std::uint8_t>(fcw & kAllFlags);
    return env;
  }
  constexpr void raise(unsigned flags) { raised = static_cast<std::uint8_t>(raised | flags); }
  constexpr std::uint8_t unmasked() const { return static_cast<std::uint8_t>(raised & ~masked); }
  /// True if an exception before the computation (invalid, denormal, zero divide) is to be delivered: x87 instructions
  /// then leave their destination and the stack as they were.
  constexpr bool stopped() const { return (unmasked() & kPreComputation) != 0; }
  constexpr bool faults() const { return unmasked() != 0; }
  constexpr void settle() {
    if (stopped()) raised &= kPreComputation;
  }
};

/// Format traits of the interchange formats. Bits is the raw encoding.
struct F16 {
  using Bits = std::uint16_t;
  static constexpr int kFraction = 10, kExponent = 5;
};
struct F32 {
  using Bits = std::uint32_t;
  static constexpr int kFraction = 23, kExponent = 8;
};
struct F64 {
  using Bits = std::uint64_t;
  static constexpr int kFraction = 52, kExponent = 11;
};

/// x87 double extended. sig holds the explicit integer bit in bit 63; sign_exp the sign in bit 15, biased by 16383.
struct F80 {
  std::uint64_t sig = 0;
  std::uint16_t sign_exp = 0;
  constexpr bool operator==(const F80&) const = default;
  constexpr bool sign() const { return sign_exp >> 15; }
  constexpr unsigned biased() const { return sign_exp & 0x7fffU; }
};

template <class T>
inline constexpr typename T::Bits kDefaultNan =
    static_cast<typename T::Bits>(~typename T::Bits{0} << (T::kFraction - 1));  ///< "real indefinite": negative, quiet
inline constexpr F80 kDefaultNan80{0xc000000000000000, 0xffff};

/// The operands cannot be ordered if either is a NaN (or, x87, an unsupported encoding).
enum class Relation : std::uint8_t { kLess, kEqual, kGreater, kUnordered };

// ---- SSE arithmetic; T is F32 or F64 ----------------------------------------------------------------------------

template <class T>
typename T::Bits add(typename T::Bits a, typename T::Bits b, Env& env);
template <class T>
typename T::Bits sub(typename T::Bits a, typename T::Bits b, Env& env);
template <class T>
typename T::Bits mul(typename T::Bits a, typename T::Bits b, Env& env);
template <class T>
typename T::Bits div(typename T::Bits a, typename T::Bits b, Env& env);
template <class T>
typename T::Bits sqrt(typename T::Bits a, Env& env);
/// +-(a*b) +- c with one rounding. A NaN operand wins in the order a, b, c and keeps its sign whatever is negated.
template <class T>
typename T::Bits fused_multiply_add(typename T::Bits a, typename T::Bits b, typename T::Bits c, bool negate_product,
                                    bool negate_addend, Env& env);
/// MINPS and MAXPS: the second operand if either is a NaN or both are zeros.
template <class T>
typename T::Bits min(typename T::Bits a, typename T::Bits b, Env& env);
template <class T>
typename T::Bits max(typename T::Bits a, typename T::Bits b, Env& env);
/// COMISS (signalling: a quiet NaN is invalid too) and UCOMISS.
template <class T>
Relation compare(typename T::Bits a, typename T::Bits b, bool signalling, Env& env);
/// CMPPS and VCMPPS; predicate is the immediate, 0..31 (bits above are ignored).
template <class T>
bool compare_predicate(typename T::Bits a, typename T::Bits b, unsigned predicate, Env& env);
/// ROUNDPS: to an integral value in the given mode. exact_flag false keeps inexactness quiet (immediate bit 3).
template <class T>
typename T::Bits round_to_integral(typename T::Bits a, Rounding rounding, bool exact_flag, Env& env);

// ---- conversions ------------------------------------------------------------------------------------------------

std::uint64_t f32_to_f64(std::uint32_t a, Env& env);
std::uint32_t f64_to_f32(std::uint64_t a, Env& env);
/// VCVTPH2PS: denormals are neither zeroed nor flagged.
std::uint32_t f16_to_f32(std::uint16_t a, Env& env);
/// VCVTPS2PH; pass the rounding that the immediate selects (bit 2 set: env.rounding). Ignores flush-to-zero.
std::uint16_t f32_to_f16(std::uint32_t a, Rounding rounding, Env& env);

/// To a signed integer; out of range, infinities and NaNs are invalid and give the "integer indefinite" (only the top
/// bit set). Pass Rounding::kTowardZero for the truncating forms.
template <class T>
std::int32_t to_int32(typename T::Bits a, Rounding rounding, Env& env);
template <class T>
std::int64_t to_int64(typename T::Bits a, Rounding rounding, Env& env);
/// To an unsigned integer, AVX-512 style: out of range (also negative beyond rounding) is invalid and gives all ones.
template <class T>
std::uint32_t to_uint32(typename T::Bits a, Rounding rounding, Env& env);
template <class T>
std::uint64_t to_uint64(typename T::Bits a, Rounding rounding, Env& env);
template <class T>
typename T::Bits from_int64(std::int64_t a, Env& env);
template <class T>
typename T::Bits from_uint64(std::uint64_t a, Env& env);

// ---- x87 --------------------------------------------------------------------------------------------------------
// When env.stopped() after a call, the instruction must leave registers as they were. With overflow or underflow
// unmasked, results for a register are returned with the exponent wrapped by 24576 as the SDM describes and are to be
// written; stores to memory (f80_to_f32, f80_to_f64) with such a fault are not.

/// The raw value of a memory operand; nothing is flagged and a signalling NaN stays one. Follow it with
/// source_denormal in the operation so that its exceptions get their proper priority.
F80 widen(std::uint32_t a);
F80 widen(std::uint64_t a);
template <class T>
constexpr bool is_denormal(typename T::Bits a) {
  const auto magnitude = static_cast<typename T::Bits>(a & static_cast<typename T::Bits>(~typename T::Bits{0} >> 1));
  return magnitude != 0 && (magnitude >> T::kFraction) == 0;
}

/// FLD m32 and m64.
F80 f32_to_f80(std::uint32_t a, Env& env);
F80 f64_to_f80(std::uint64_t a, Env& env);
/// FST m32 and m64.
std::uint32_t f80_to_f32(F80 a, Env& env);
std::uint64_t f80_to_f64(F80 a, Env& env);
/// FILD.
F80 f80_from_int64(std::int64_t a);
/// FIST (env.rounding) and FISTTP (Rounding::kTowardZero).
std::int16_t f80_to_int16(F80 a, Rounding rounding, Env& env);
std::int32_t f80_to_int32(F80 a, Rounding rounding, Env& env);
std::int64_t f80_to_int64(F80 a, Rounding rounding, Env& env);
/// FBLD: 18 digits, two a byte, least significant first; the sign in bit 7 of byte 9. Digits above 9 are undefined in
/// the manuals; they count with their binary value here as on processors.
F80 f80_from_bcd(const std::array<std::uint8_t, 10>& digits);
/// FBSTP.
std::array<std::uint8_t, 10> f80_to_bcd(F80 a, Env& env);

/// source_denormal: one operand was widened from a denormal m32 or m64.
F80 f80_add(F80 a, F80 b, Env& env, bool source_denormal = false);
F80 f80_sub(F80 a, F80 b, Env& env, bool source_denormal = false);
F80 f80_mul(F80 a, F80 b, Env& env, bool source_denormal = false);
F80 f80_div(F80 a, F80 b, Env& env, bool source_denormal = false);
F80 f80_sqrt(F80 a, Env& env);
/// FCOM, FTST (signalling) and FUCOM.
Relation f80_compare(F80 a, F80 b, bool signalling, Env& env, bool source_denormal = false);
/// FRNDINT.
F80 f80_round_to_integral(F80 a, Env& env);
/// FSCALE: a * 2^trunc(b).
F80 f80_scale(F80 a, F80 b, Env& env);

struct Extracted {
  F80 significand, exponent;
};
/// FXTRACT.
Extracted f80_extract(F80 a, Env& env);

struct Remainder {
  F80 value;
  std::uint8_t quotient = 0;  ///< the low three bits, 0 if partial: C1 = bit 0, C3 = bit 1, C0 = bit 2
  bool partial = false;       ///< C2: the reduction is to be repeated
};
/// FPREM (quotient truncated) and FPREM1 (quotient rounded to nearest even).
Remainder f80_remainder_truncated(F80 a, F80 b, Env& env);
Remainder f80_remainder_nearest(F80 a, F80 b, Env& env);

/// FXAM: C3 C2 C0 of the value as bits 2, 1, 0 (an empty register is the caller's to know): unsupported 0, NaN 1,
/// normal 2, infinity 3, zero 4, denormal 6.
unsigned f80_examine(F80 a);

/// FSIN, FCOS, FSINCOS, FPTAN. reduced false (C2 set, value = the operand): |a| >= 2^63.
struct Trigonometric {
  F80 value;
  bool reduced = true;
};
Trigonometric f80_sin(F80 a, Env& env);
Trigonometric f80_cos(F80 a, Env& env);
Trigonometric f80_tan(F80 a, Env& env);
struct SinCos {
  F80 sin, cos;
  bool reduced = true;
};
SinCos f80_sincos(F80 a, Env& env);
/// FPATAN: the angle of the point (x, y); y is ST(1), x is ST(0).
F80 f80_atan2(F80 y, F80 x, Env& env);
/// F2XM1: 2^a - 1. Outside [-1, 1] the result is undefined by the manuals; here it is a itself.
F80 f80_exp2m1(F80 a, Env& env);
/// FYL2X: y * log2(x); x is ST(0).
F80 f80_y_log2(F80 x, F80 y, Env& env);
/// FYL2XP1: y * log2(x + 1). Outside +-(1 - sqrt(1/2)) the manuals leave the result undefined; it is exact here too as
/// long as x > -1.
F80 f80_y_log2_plus1(F80 x, F80 y, Env& env);

/// FLDPI and the like, rounded by env.rounding; nothing is flagged.
F80 f80_pi(Rounding rounding);
F80 f80_log2_10(Rounding rounding);
F80 f80_log2_e(Rounding rounding);
F80 f80_log10_2(Rounding rounding);
F80 f80_ln_2(Rounding rounding);

}  // namespace husk::fp
