// husk: softfloat against the host's SSE, FMA and F16C instructions, results and flags bit by bit
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "cpu/softfloat/softfloat.h"
#include "cpu/softfloat/test_operands.h"

#if defined(__x86_64__)

namespace husk::fp::test {
namespace {

constexpr std::uint32_t kHostDefault = 0x1f80;

float as_float(std::uint32_t a) { return std::bit_cast<float>(a); }
double as_float(std::uint64_t a) { return std::bit_cast<double>(a); }
std::uint32_t as_bits(float a) { return std::bit_cast<std::uint32_t>(a); }
std::uint64_t as_bits(double a) { return std::bit_cast<std::uint64_t>(a); }

/// Compares soft(a, b, c, env) with host(a, b, c, mxcsr) over count draws of operands and modes.
template <class T, class Host, class Soft, class Prepare = std::identity>
void expect_agreement(const char* what, unsigned count, Host host, Soft soft, Prepare prepare = {}) {
  Dice dice(std::hash<std::string>{}(what));
  const std::uint64_t total = count * setting("HUSK_FP_SCALE", 1);
  unsigned shown = 0;
  for (std::uint64_t i = 0; i < total && shown < 8; ++i) {
    const typename T::Bits a = prepare(dice.narrow<T>());
    auto b = dice.partner<T>(a);
    auto c = dice.partner<T>(dice.below(2) ? a : b);
    const unsigned modes = dice.below(16);
    std::uint32_t mxcsr = kHostDefault | ((modes & 3) << 13) | ((modes >> 2 & 1) << 15) | ((modes >> 3) << 6);
    Env env = Env::from_mxcsr(mxcsr);
    const std::uint32_t before = mxcsr;
    const auto expected = host(a, b, c, mxcsr);
    const auto got = soft(a, b, c, env);
    if (expected != got || (mxcsr & kAllFlags) != env.raised) {
      ++shown;
      ADD_FAILURE() << fmt::format("{}: {:#x} {:#x} {:#x} mxcsr {:#x}: host {:#x} flags {:#x}, husk {:#x} flags {:#x}",
                                   what, a, b, c, before, expected, mxcsr & kAllFlags, got, env.raised);
    }
  }
}

#define HOST_BINARY(insn, T)                                                 \
  [](T::Bits a, T::Bits b, T::Bits, std::uint32_t& mxcsr) {                  \
    auto r = as_float(a);                                                    \
    asm volatile("ldmxcsr %1\n\t" insn " %2, %0\n\tstmxcsr %1\n\tldmxcsr %3" \
                 : "+x"(r), "+m"(mxcsr)                                      \
                 : "x"(as_float(b)), "m"(kHostDefault));                     \
    return as_bits(r);                                                       \
  }
#define HOST_UNARY(insn, T)                                                  \
  [](T::Bits a, T::Bits, T::Bits, std::uint32_t& mxcsr) {                    \
    auto r = as_float(a);                                                    \
    asm volatile("ldmxcsr %1\n\t" insn " %0, %0\n\tstmxcsr %1\n\tldmxcsr %2" \
                 : "+x"(r), "+m"(mxcsr)                                      \
                 : "m"(kHostDefault));                                       \
    return as_bits(r);                                                       \
  }
/// An instruction with source type S and a result of another register class or type.
#define HOST_CONVERT(insn, S, constraint, R, result)                         \
  [](S::Bits a, S::Bits, S::Bits, std::uint32_t& mxcsr) {                    \
    R r{};                                                                   \
    asm volatile("ldmxcsr %1\n\t" insn " %2, %0\n\tstmxcsr %1\n\tldmxcsr %3" \
                 : "=" constraint(r), "+m"(mxcsr)                            \
                 : "x"(as_float(a)), "m"(kHostDefault));                     \
    return result;                                                           \
  }
#define SOFT(T, expression)                                                                          \
  []([[maybe_unused]] T::Bits a, [[maybe_unused]] T::Bits b, [[maybe_unused]] T::Bits c, Env& env) { \
    return expression;                                                                               \
  }

constexpr unsigned kCount = 120'000;

TEST(SoftfloatSse, ArithmeticIsTheHosts) {
  expect_agreement<F32>("addss", kCount, HOST_BINARY("addss", F32), SOFT(F32, add<F32>(a, b, env)));
  expect_agreement<F64>("addsd", kCount, HOST_BINARY("addsd", F64), SOFT(F64, add<F64>(a, b, env)));
  expect_agreement<F32>("subss", kCount, HOST_BINARY("subss", F32), SOFT(F32, sub<F32>(a, b, env)));
  expect_agreement<F64>("subsd", kCount, HOST_BINARY("subsd", F64), SOFT(F64, sub<F64>(a, b, env)));
  expect_agreement<F32>("mulss", kCount, HOST_BINARY("mulss", F32), SOFT(F32, mul<F32>(a, b, env)));
  expect_agreement<F64>("mulsd", kCount, HOST_BINARY("mulsd", F64), SOFT(F64, mul<F64>(a, b, env)));
  expect_agreement<F32>("divss", kCount, HOST_BINARY("divss", F32), SOFT(F32, div<F32>(a, b, env)));
  expect_agreement<F64>("divsd", kCount, HOST_BINARY("divsd", F64), SOFT(F64, div<F64>(a, b, env)));
  expect_agreement<F32>("sqrtss", kCount, HOST_UNARY("sqrtss", F32), SOFT(F32, sqrt<F32>(a, env)));
  expect_agreement<F64>("sqrtsd", kCount, HOST_UNARY("sqrtsd", F64), SOFT(F64, sqrt<F64>(a, env)));
}

TEST(SoftfloatSse, MinimumAndMaximumAreTheHosts) {
  expect_agreement<F32>("minss", kCount, HOST_BINARY("minss", F32), SOFT(F32, min<F32>(a, b, env)));
  expect_agreement<F64>("minsd", kCount, HOST_BINARY("minsd", F64), SOFT(F64, min<F64>(a, b, env)));
  expect_agreement<F32>("maxss", kCount, HOST_BINARY("maxss", F32), SOFT(F32, max<F32>(a, b, env)));
  expect_agreement<F64>("maxsd", kCount, HOST_BINARY("maxsd", F64), SOFT(F64, max<F64>(a, b, env)));
}

#define HOST_FMA(insn, T)                                                        \
  [](T::Bits a, T::Bits b, T::Bits c, std::uint32_t& mxcsr) {                    \
    auto r = as_float(a);                                                        \
    asm volatile("ldmxcsr %1\n\t" insn " %3, %2, %0\n\tstmxcsr %1\n\tldmxcsr %4" \
                 : "+x"(r), "+m"(mxcsr)                                          \
                 : "x"(as_float(b)), "x"(as_float(c)), "m"(kHostDefault));       \
    return as_bits(r);                                                           \
  }

// The asm operands are op1, op2, op3 of the instruction in the manual's order.
TEST(SoftfloatSse, FusedMultiplyAddIsTheHosts) {
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "the host has no FMA";
#define CHECK_FMA(name, negate_product, negate_addend)                                                    \
  expect_agreement<F32>(name "132ss", kCount, HOST_FMA(name "132ss", F32),                                \
                        SOFT(F32, fused_multiply_add<F32>(a, c, b, negate_product, negate_addend, env))); \
  expect_agreement<F32>(name "213ss", kCount, HOST_FMA(name "213ss", F32),                                \
                        SOFT(F32, fused_multiply_add<F32>(b, a, c, negate_product, negate_addend, env))); \
  expect_agreement<F32>(name "231ss", kCount, HOST_FMA(name "231ss", F32),                                \
                        SOFT(F32, fused_multiply_add<F32>(b, c, a, negate_product, negate_addend, env))); \
  expect_agreement<F64>(name "132sd", kCount, HOST_FMA(name "132sd", F64),                                \
                        SOFT(F64, fused_multiply_add<F64>(a, c, b, negate_product, negate_addend, env))); \
  expect_agreement<F64>(name "213sd", kCount, HOST_FMA(name "213sd", F64),                                \
                        SOFT(F64, fused_multiply_add<F64>(b, a, c, negate_product, negate_addend, env))); \
  expect_agreement<F64>(name "231sd", kCount, HOST_FMA(name "231sd", F64),                                \
                        SOFT(F64, fused_multiply_add<F64>(b, c, a, negate_product, negate_addend, env)))
  CHECK_FMA("vfmadd", false, false);
  CHECK_FMA("vfmsub", false, true);
  CHECK_FMA("vfnmadd", true, false);
  CHECK_FMA("vfnmsub", true, true);
}

#define HOST_COMPARE(insn, T)                                                  \
  [](T::Bits a, T::Bits b, T::Bits, std::uint32_t& mxcsr) {                    \
    bool zero, parity, carry;                                                  \
    asm volatile("ldmxcsr %3\n\t" insn " %5, %4\n\tstmxcsr %3\n\tldmxcsr %6"   \
                 : "=@ccz"(zero), "=@ccp"(parity), "=@ccc"(carry), "+m"(mxcsr) \
                 : "x"(as_float(a)), "x"(as_float(b)), "m"(kHostDefault));     \
    return static_cast<unsigned>(parity  ? Relation::kUnordered                \
                                 : zero  ? Relation::kEqual                    \
                                 : carry ? Relation::kLess                     \
                                         : Relation::kGreater);                \
  }

TEST(SoftfloatSse, ComparisonsAreTheHosts) {
  expect_agreement<F32>("comiss", kCount, HOST_COMPARE("comiss", F32),
                        SOFT(F32, static_cast<unsigned>(compare<F32>(a, b, true, env))));
  expect_agreement<F64>("comisd", kCount, HOST_COMPARE("comisd", F64),
                        SOFT(F64, static_cast<unsigned>(compare<F64>(a, b, true, env))));
  expect_agreement<F32>("ucomiss", kCount, HOST_COMPARE("ucomiss", F32),
                        SOFT(F32, static_cast<unsigned>(compare<F32>(a, b, false, env))));
  expect_agreement<F64>("ucomisd", kCount, HOST_COMPARE("ucomisd", F64),
                        SOFT(F64, static_cast<unsigned>(compare<F64>(a, b, false, env))));
}

#define HOST_PREDICATE(insn, number, T)                                                       \
  [](T::Bits a, T::Bits b, T::Bits, std::uint32_t& mxcsr) {                                   \
    auto r = as_float(a);                                                                     \
    asm volatile("ldmxcsr %1\n\t" insn " $" number ", %2, %0, %0\n\tstmxcsr %1\n\tldmxcsr %3" \
                 : "+x"(r), "+m"(mxcsr)                                                       \
                 : "x"(as_float(b)), "m"(kHostDefault));                                      \
    return static_cast<unsigned>(as_bits(r) != 0);                                            \
  }

TEST(SoftfloatSse, The32PredicatesAreTheHosts) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "the host has no AVX";
#define CHECK_PREDICATE(n)                                                                       \
  expect_agreement<F32>("vcmpss $" #n, kCount / 8, HOST_PREDICATE("vcmpss", #n, F32),            \
                        SOFT(F32, static_cast<unsigned>(compare_predicate<F32>(a, b, n, env)))); \
  expect_agreement<F64>("vcmpsd $" #n, kCount / 8, HOST_PREDICATE("vcmpsd", #n, F64),            \
                        SOFT(F64, static_cast<unsigned>(compare_predicate<F64>(a, b, n, env))))
  CHECK_PREDICATE(0);
  CHECK_PREDICATE(1);
  CHECK_PREDICATE(2);
  CHECK_PREDICATE(3);
  CHECK_PREDICATE(4);
  CHECK_PREDICATE(5);
  CHECK_PREDICATE(6);
  CHECK_PREDICATE(7);
  CHECK_PREDICATE(8);
  CHECK_PREDICATE(9);
  CHECK_PREDICATE(10);
  CHECK_PREDICATE(11);
  CHECK_PREDICATE(12);
  CHECK_PREDICATE(13);
  CHECK_PREDICATE(14);
  CHECK_PREDICATE(15);
  CHECK_PREDICATE(16);
  CHECK_PREDICATE(17);
  CHECK_PREDICATE(18);
  CHECK_PREDICATE(19);
  CHECK_PREDICATE(20);
  CHECK_PREDICATE(21);
  CHECK_PREDICATE(22);
  CHECK_PREDICATE(23);
  CHECK_PREDICATE(24);
  CHECK_PREDICATE(25);
  CHECK_PREDICATE(26);
  CHECK_PREDICATE(27);
  CHECK_PREDICATE(28);
  CHECK_PREDICATE(29);
  CHECK_PREDICATE(30);
  CHECK_PREDICATE(31);
}

TEST(SoftfloatSse, RoundingToIntegralIsTheHosts) {
  if (!__builtin_cpu_supports("sse4.1")) GTEST_SKIP() << "the host has no SSE4.1";
#define CHECK_ROUND(n, rounding)                                                          \
  expect_agreement<F32>("roundss $" #n, kCount / 4, HOST_UNARY("roundss $" #n ",", F32),  \
                        SOFT(F32, round_to_integral<F32>(a, rounding, !((n) & 8), env))); \
  expect_agreement<F64>("roundsd $" #n, kCount / 4, HOST_UNARY("roundsd $" #n ",", F64),  \
                        SOFT(F64, round_to_integral<F64>(a, rounding, !((n) & 8), env)))
  CHECK_ROUND(0, Rounding::kNearestEven);
  CHECK_ROUND(1, Rounding::kDown);
  CHECK_ROUND(2, Rounding::kUp);
  CHECK_ROUND(3, Rounding::kTowardZero);
  CHECK_ROUND(4, env.rounding);
  CHECK_ROUND(8, Rounding::kNearestEven);
  CHECK_ROUND(9, Rounding::kDown);
  CHECK_ROUND(10, Rounding::kUp);
  CHECK_ROUND(11, Rounding::kTowardZero);
  CHECK_ROUND(12, env.rounding);
}

TEST(SoftfloatSse, ConversionsBetweenFormatsAreTheHosts) {
  expect_agreement<F32>("cvtss2sd", kCount, HOST_CONVERT("cvtss2sd", F32, "x", double, as_bits(r)),
                        SOFT(F32, f32_to_f64(a, env)));
  expect_agreement<F64>("cvtsd2ss", 3 * kCount, HOST_CONVERT("cvtsd2ss", F64, "x", float, as_bits(r)),
                        SOFT(F64, f64_to_f32(a, env)));
}

TEST(SoftfloatSse, NarrowedDoublesNearTheRangeOfSingleAreTheHosts) {
  const auto near_single = [](std::uint64_t x) {
    // Exponents from far below the smallest denormal to beyond the largest single.
    const std::uint64_t exponent = 1023 - 160 + (x >> 52) % 300;
    return (x & 0x800fffffffffffff) | (exponent << 52);
  };
  expect_agreement<F64>("cvtsd2ss", 3 * kCount, HOST_CONVERT("cvtsd2ss", F64, "x", float, as_bits(r)),
                        SOFT(F64, f64_to_f32(a, env)), near_single);
}

TEST(SoftfloatSse, ConversionsToIntegersAreTheHosts) {
#define CHECK_TO_INT(S, suffix)                                                                                  \
  expect_agreement<S>("cvt" suffix "2si", kCount, HOST_CONVERT("cvt" suffix "2si", S, "r", std::int32_t, r),     \
                      SOFT(S, to_int32<S>(a, env.rounding, env)));                                               \
  expect_agreement<S>("cvtt" suffix "2si", kCount, HOST_CONVERT("cvtt" suffix "2si", S, "r", std::int32_t, r),   \
                      SOFT(S, to_int32<S>(a, Rounding::kTowardZero, env)));                                      \
  expect_agreement<S>("cvt" suffix "2siq", kCount, HOST_CONVERT("cvt" suffix "2siq", S, "r", std::int64_t, r),   \
                      SOFT(S, to_int64<S>(a, env.rounding, env)));                                               \
  expect_agreement<S>("cvtt" suffix "2siq", kCount, HOST_CONVERT("cvtt" suffix "2siq", S, "r", std::int64_t, r), \
                      SOFT(S, to_int64<S>(a, Rounding::kTowardZero, env)))
  CHECK_TO_INT(F32, "ss");
  CHECK_TO_INT(F64, "sd");
}

TEST(SoftfloatSse, ConversionsToUnsignedAreTheHosts) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "the host has no AVX-512";
#define CHECK_TO_UINT(S, suffix)                                                                                     \
  expect_agreement<S>("vcvt" suffix "2usi", kCount, HOST_CONVERT("vcvt" suffix "2usi", S, "r", std::uint32_t, r),    \
                      SOFT(S, to_uint32<S>(a, env.rounding, env)));                                                  \
  expect_agreement<S>("vcvtt" suffix "2usi", kCount, HOST_CONVERT("vcvtt" suffix "2usi", S, "r", std::uint32_t, r),  \
                      SOFT(S, to_uint32<S>(a, Rounding::kTowardZero, env)));                                         \
  expect_agreement<S>("vcvt" suffix "2usiq", kCount, HOST_CONVERT("vcvt" suffix "2usi", S, "r", std::uint64_t, r),   \
                      SOFT(S, to_uint64<S>(a, env.rounding, env)));                                                  \
  expect_agreement<S>("vcvtt" suffix "2usiq", kCount, HOST_CONVERT("vcvtt" suffix "2usi", S, "r", std::uint64_t, r), \
                      SOFT(S, to_uint64<S>(a, Rounding::kTowardZero, env)))
  CHECK_TO_UINT(F32, "ss");
  CHECK_TO_UINT(F64, "sd");
}

#define HOST_FROM_INT(insn, type, S, R)                                      \
  [](S::Bits a, S::Bits, S::Bits, std::uint32_t& mxcsr) {                    \
    R r{};                                                                   \
    asm volatile("ldmxcsr %1\n\t" insn " %2, %0\n\tstmxcsr %1\n\tldmxcsr %3" \
                 : "+x"(r), "+m"(mxcsr)                                      \
                 : "r"(static_cast<type>(a)), "m"(kHostDefault));            \
    return as_bits(r);                                                       \
  }

TEST(SoftfloatSse, ConversionsFromIntegersAreTheHosts) {
  // Encodings of floats as integers have the runs of ones and zeros that matter here too.
  expect_agreement<F32>("cvtsi2ss", kCount, HOST_FROM_INT("cvtsi2ssl", std::int32_t, F32, float),
                        SOFT(F32, from_int64<F32>(static_cast<std::int32_t>(a), env)));
  expect_agreement<F32>("cvtsi2sd", kCount, HOST_FROM_INT("cvtsi2sdl", std::int32_t, F32, double),
                        SOFT(F32, from_int64<F64>(static_cast<std::int32_t>(a), env)));
  expect_agreement<F64>("cvtsi2ssq", kCount, HOST_FROM_INT("cvtsi2ssq", std::int64_t, F64, float),
                        SOFT(F64, from_int64<F32>(static_cast<std::int64_t>(a), env)));
  expect_agreement<F64>("cvtsi2sdq", kCount, HOST_FROM_INT("cvtsi2sdq", std::int64_t, F64, double),
                        SOFT(F64, from_int64<F64>(static_cast<std::int64_t>(a), env)));
}

#define HOST_TO_HALF(immediate)                                                     \
  [](std::uint32_t a, std::uint32_t, std::uint32_t, std::uint32_t& mxcsr) {         \
    std::uint32_t r;                                                                \
    asm volatile("ldmxcsr %1\n\tvmovd %2, %%xmm0\n\tvcvtps2ph $" immediate          \
                 ", %%xmm0, %%xmm0\n\tvmovd %%xmm0, %0\n\tstmxcsr %1\n\tldmxcsr %3" \
                 : "=&r"(r), "+m"(mxcsr)                                            \
                 : "r"(a), "m"(kHostDefault)                                        \
                 : "xmm0");                                                         \
    return r;                                                                       \
  }
#define HOST_FROM_HALF                                                                       \
  [](std::uint16_t a, std::uint16_t, std::uint16_t, std::uint32_t& mxcsr) {                  \
    std::uint32_t r;                                                                         \
    asm volatile(                                                                            \
        "ldmxcsr %1\n\tvmovd %2, %%xmm0\n\tvcvtph2ps %%xmm0, %%xmm0\n\tvmovd %%xmm0, %0\n\t" \
        "stmxcsr %1\n\tldmxcsr %3"                                                           \
        : "=&r"(r), "+m"(mxcsr)                                                              \
        : "r"(static_cast<std::uint32_t>(a)), "m"(kHostDefault)                              \
        : "xmm0");                                                                           \
    return r;                                                                                \
  }

TEST(SoftfloatSse, HalfPrecisionIsTheHosts) {
  if (!__builtin_cpu_supports("avx") || !__builtin_cpu_supports("f16c")) GTEST_SKIP() << "the host has no F16C";
  const auto near_half = [](std::uint32_t x) {
    if ((x & 0x7f800000) == 0x7f800000 || (x & 0x7f800000) == 0 || (x & 3) == 3) return x;
    const std::uint32_t exponent = 127 - 28 + (x >> 23) % 48;
    return (x & 0x807fffff) | (exponent << 23);
  };
#define CHECK_HALF(n, rounding)                                     \
  expect_agreement<F32>("vcvtps2ph $" #n, kCount, HOST_TO_HALF(#n), \
                        SOFT(F32, static_cast<std::uint32_t>(f32_to_f16(a, rounding, env))), near_half)
  CHECK_HALF(0, Rounding::kNearestEven);
  CHECK_HALF(1, Rounding::kDown);
  CHECK_HALF(2, Rounding::kUp);
  CHECK_HALF(3, Rounding::kTowardZero);
  CHECK_HALF(4, env.rounding);
  expect_agreement<F16>("vcvtph2ps", kCount, HOST_FROM_HALF, SOFT(F16, f16_to_f32(a, env)));
}

}  // namespace
}  // namespace husk::fp::test

#endif
