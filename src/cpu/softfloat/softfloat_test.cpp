// husk: softfloat against values from IEEE 754 and the manuals, for hosts that cannot be asked
#include "cpu/softfloat/softfloat.h"

#include <gtest/gtest.h>

namespace husk::fp {
namespace {

constexpr std::uint64_t kOne64 = 0x3ff0000000000000;
constexpr F80 kOne{0x8000000000000000, 0x3fff};
constexpr F80 kTwo{0x8000000000000000, 0x4000};

Env with(Rounding rounding) {
  Env env;
  env.rounding = rounding;
  return env;
}

TEST(Softfloat, TenthAndFifthMakeTheWellKnownSum) {
  Env env;
  EXPECT_EQ(add<F64>(0x3fb999999999999a, 0x3fc999999999999a, env), 0x3fd3333333333334u);  // 0.30000000000000004
  EXPECT_EQ(env.raised, kPrecision);
}

TEST(Softfloat, ThirdIsRoundedInEachDirection) {
  constexpr std::uint32_t kOne32 = 0x3f800000, kThree = 0x40400000;
  for (const auto& [rounding, expected] : {std::pair{Rounding::kNearestEven, 0x3eaaaaabu},
                                           {Rounding::kDown, 0x3eaaaaaau},
                                           {Rounding::kUp, 0x3eaaaaabu},
                                           {Rounding::kTowardZero, 0x3eaaaaaau}}) {
    Env env = with(rounding);
    EXPECT_EQ(div<F32>(kOne32, kThree, env), expected);
  }
}

TEST(Softfloat, SquareRootOfTwoIsTheKnownConstant) {
  Env env;
  EXPECT_EQ(sqrt<F64>(0x4000000000000000, env), 0x3ff6a09e667f3bcdu);
  EXPECT_EQ(sqrt<F32>(0x40000000, env), 0x3fb504f3u);
  EXPECT_EQ(f80_sqrt(kTwo, env), (F80{0xb504f333f9de6484, 0x3fff}));
}

TEST(Softfloat, FusedMultiplyAddKeepsTheLowHalfOfTheProduct) {
  Env env;
  // (1 + 2^-52)^2 - (1 + 2^-51) = 2^-104
  EXPECT_EQ(fused_multiply_add<F64>(kOne64 + 1, kOne64 + 1, 0x3ff0000000000002, false, true, env), 0x3970000000000000u);
  EXPECT_EQ(env.raised, 0);
}

// SDM vol. 1, tables 4-1 and 4-7, 11.5.2.
TEST(Softfloat, InvalidOperationsGiveTheRealIndefinite) {
  Env env;
  EXPECT_EQ(sub<F32>(0x7f800000, 0x7f800000, env), 0xffc00000u);
  EXPECT_EQ(mul<F64>(0, 0xfff0000000000000, env), 0xfff8000000000000u);
  EXPECT_EQ(f80_sqrt({0x8000000000000000, 0xbfff}, env), (F80{0xc000000000000000, 0xffff}));
  EXPECT_EQ(to_int32<F64>(0x41e0000000000000, Rounding::kNearestEven, env), INT32_MIN);  // 2^31
  EXPECT_EQ(env.raised, kInvalid);
}

TEST(Softfloat, SseKeepsTheFirstNanAndX87TheLarger) {
  Env env;
  EXPECT_EQ(add<F32>(0x7fc00001, 0x7fc00002, env), 0x7fc00001u);
  EXPECT_EQ(env.raised, 0);
  EXPECT_EQ(add<F32>(0x7f800001, 0x7fc00002, env), 0x7fc00001u);
  EXPECT_EQ(env.raised, kInvalid);
  EXPECT_EQ(f80_add({0xc000000000000001, 0x7fff}, {0xc000000000000002, 0x7fff}, env),
            (F80{0xc000000000000002, 0x7fff}));
}

TEST(Softfloat, UnnormalsAreInvalidOperands) {
  Env env;
  EXPECT_EQ(f80_add({0x4000000000000000, 0x4000}, kOne, env), kDefaultNan80);
  EXPECT_EQ(env.raised, kInvalid);
}

TEST(Softfloat, PseudoDenormalCountsAsIfItsExponentWereOne) {
  Env env;
  EXPECT_EQ(f80_add({0x8000000000000000, 0}, {}, env), (F80{0x8000000000000000, 1}));
  EXPECT_EQ(env.raised, kDenormal);
}

TEST(Softfloat, MinimumReturnsTheSecondOperandWhenInDoubt) {
  Env env;
  EXPECT_EQ(min<F32>(0x00000000, 0x80000000, env), 0x80000000u);
  EXPECT_EQ(max<F32>(0x00000000, 0x80000000, env), 0x80000000u);
  EXPECT_EQ(env.raised, 0);
  EXPECT_EQ(min<F32>(0x7fc00000, 0x3f800000, env), 0x3f800000u);
  EXPECT_EQ(env.raised, kInvalid);
}

TEST(Softfloat, TinyResultsAreFlushedOnlyWhileUnderflowIsMasked) {
  Env env;
  env.flush_to_zero = true;
  EXPECT_EQ(mul<F32>(0x80800000, 0x3f000000, env), 0x80000000u);  // -2^-126 / 2
  EXPECT_EQ(env.raised, kUnderflow | kPrecision);
  Env unmasked = env;
  unmasked.raised = 0;
  unmasked.masked = kAllFlags & ~kUnderflow;
  mul<F32>(0x80800000, 0x3f000000, unmasked);
  EXPECT_EQ(unmasked.raised, kUnderflow);
  EXPECT_TRUE(unmasked.faults());
}

TEST(Softfloat, DenormalsAreZeroRaisesNoDenormalException) {
  Env env;
  EXPECT_EQ(add<F32>(1, 0x80000001, env), 0u);
  EXPECT_EQ(env.raised, kDenormal);
  Env daz;
  daz.denormals_are_zero = true;
  EXPECT_EQ(add<F32>(1, 0x80000001, daz), 0u);
  EXPECT_EQ(daz.raised, 0);
}

TEST(Softfloat, UnmaskedPreComputationExceptionHidesTheLaterOnes) {
  Env env;
  env.masked = kAllFlags & ~kDenormal;
  div<F32>(1, 0x40400000, env);
  env.settle();
  EXPECT_EQ(env.raised, kDenormal);
}

TEST(Softfloat, HalfPrecisionLimitsConvert) {
  Env env;
  EXPECT_EQ(f16_to_f32(0x7bff, env), 0x477fe000u);  // 65504
  EXPECT_EQ(f16_to_f32(0x0001, env), 0x33800000u);  // 2^-24
  EXPECT_EQ(env.raised, 0);
  EXPECT_EQ(f32_to_f16(0x477ff000, Rounding::kNearestEven, env), 0x7c00);  // 65520 rounds to infinity
  EXPECT_EQ(env.raised, kOverflow | kPrecision);
  EXPECT_EQ(f32_to_f16(0x477fefff, Rounding::kNearestEven, env), 0x7bff);
}

TEST(Softfloat, PredicatesFollowTheTableOfCmppd) {
  constexpr std::uint32_t kTwo32 = 0x40000000, kOne32 = 0x3f800000, kNan = 0x7fc00000;
  Env env;
  EXPECT_TRUE(compare_predicate<F32>(kOne32, kTwo32, 0x01, env));   // LT_OS
  EXPECT_FALSE(compare_predicate<F32>(kTwo32, kOne32, 0x02, env));  // LE_OS
  EXPECT_TRUE(compare_predicate<F32>(kTwo32, kOne32, 0x0e, env));   // GT_OS
  EXPECT_TRUE(compare_predicate<F32>(kNan, kOne32, 0x04, env));     // NEQ_UQ
  EXPECT_FALSE(compare_predicate<F32>(kNan, kOne32, 0x0c, env));    // NEQ_OQ
  EXPECT_EQ(env.raised, 0);
  EXPECT_TRUE(compare_predicate<F32>(kNan, kOne32, 0x1f, env));  // TRUE_US
  EXPECT_EQ(env.raised, kInvalid);
}

TEST(Softfloat, PrecisionControlRoundsTheSignificand) {
  Env env;
  env.precision = 24;
  EXPECT_EQ(f80_div(kOne, {0xc000000000000000, 0x4000}, env), (F80{0xaaaaab0000000000, 0x3ffd}));
  EXPECT_TRUE(env.c1);
  env = {};
  env.precision = 53;
  EXPECT_EQ(f80_div(kOne, {0xc000000000000000, 0x4000}, env), (F80{0xaaaaaaaaaaaaa800, 0x3ffd}));
  EXPECT_FALSE(env.c1);
}

// SDM vol. 1, 8.5.4 and 8.5.5: the exponent is wrapped by 24576.
TEST(Softfloat, UnmaskedOverflowWrapsTheExponentOfARegisterResult) {
  Env env;
  env.masked = kAllFlags & ~kOverflow;
  EXPECT_EQ(f80_mul({0x8000000000000000, 0x7ffe}, {0x8000000000000000, 0x7ffe}, env),
            (F80{0x8000000000000000, 0x7ffe * 2 - 0x3fff - 24576}));
  EXPECT_EQ(env.raised, kOverflow);
}

// SDM vol. 2, FLDPI..., the values of the constants.
TEST(Softfloat, ConstantsAreRoundedByTheControlWord) {
  EXPECT_EQ(f80_pi(Rounding::kNearestEven), (F80{0xc90fdaa22168c235, 0x4000}));
  EXPECT_EQ(f80_pi(Rounding::kTowardZero), (F80{0xc90fdaa22168c234, 0x4000}));
  EXPECT_EQ(f80_log2_10(Rounding::kNearestEven), (F80{0xd49a784bcd1b8afe, 0x4000}));
  EXPECT_EQ(f80_log2_e(Rounding::kNearestEven), (F80{0xb8aa3b295c17f0bc, 0x3fff}));
  EXPECT_EQ(f80_log10_2(Rounding::kNearestEven), (F80{0x9a209a84fbcff799, 0x3ffd}));
  EXPECT_EQ(f80_ln_2(Rounding::kNearestEven), (F80{0xb17217f7d1cf79ac, 0x3ffe}));
}

TEST(Softfloat, PackedDecimalsKeepEighteenDigits) {
  const std::array<std::uint8_t, 10> digits{0x78, 0x56, 0x34, 0x12, 0x90, 0x78, 0x56, 0x34, 0x12, 0x80};
  const F80 value = f80_from_bcd(digits);
  EXPECT_EQ(value, f80_from_int64(-123456789012345678));
  Env env;
  EXPECT_EQ(f80_to_bcd(value, env), digits);
  EXPECT_EQ(env.raised, 0);
  const std::array<std::uint8_t, 10> indefinite{0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff};
  EXPECT_EQ(f80_to_bcd(f80_from_int64(1'000'000'000'000'000'000), env), indefinite);
  EXPECT_EQ(env.raised, kInvalid);
}

TEST(Softfloat, RemaindersDifferInTheRoundingOfTheQuotient) {
  Env env;
  const F80 five = f80_from_int64(5), three = f80_from_int64(3);
  const Remainder truncated = f80_remainder_truncated(five, three, env);
  EXPECT_EQ(truncated.value, f80_from_int64(2));
  EXPECT_EQ(truncated.quotient, 1);
  const Remainder nearest = f80_remainder_nearest(five, three, env);
  EXPECT_EQ(nearest.value, f80_from_int64(-1));
  EXPECT_EQ(nearest.quotient, 2);
  EXPECT_TRUE(f80_remainder_truncated({0x8000000000000000, 0x5000}, three, env).partial);
  EXPECT_EQ(env.raised, 0);
}

TEST(Softfloat, FunctionsGiveTheirWellKnownValues) {
  Env env;
  EXPECT_EQ(f80_atan2(kOne, kOne, env), (F80{0xc90fdaa22168c235, 0x3ffe}));             // pi / 4
  EXPECT_EQ(f80_sin(f80_from_int64(1), env).value, (F80{0xd76aa47848677021, 0x3ffe}));  // 0.8414709848...
  EXPECT_EQ(f80_cos({}, env).value, kOne);
  EXPECT_EQ(f80_y_log2(f80_from_int64(8), kOne, env), f80_from_int64(3));
  EXPECT_EQ(f80_exp2m1({0x8000000000000000, 0x3ffe}, env), (F80{0xd413cccfe7799211, 0x3ffd}));  // sqrt(2) - 1
  EXPECT_FALSE(f80_sin({0x8000000000000000, 0x3fff + 63}, env).reduced);
}

}  // namespace
}  // namespace husk::fp
