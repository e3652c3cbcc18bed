// husk: tests of bits.h, result.h and log.h
#include <gtest/gtest.h>

#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "base/result.h"

namespace husk {
namespace {

TEST(Bits, FieldsAreExtractedAndMasked) {
  EXPECT_EQ(mask_of(64), ~std::uint64_t{0});
  EXPECT_EQ(mask_of(4, 8), 0xF00u);
  EXPECT_EQ(bits(0xABCD, 4, 8), 0xBCu);
  EXPECT_TRUE(bit(0x8000000000000000u, 63));
}

TEST(Bits, RangeWithinRejectsOverflow) {
  EXPECT_TRUE(range_within(0, 16, 16));
  EXPECT_TRUE(range_within(16, 0, 16));
  EXPECT_FALSE(range_within(17, 0, 16));
  EXPECT_FALSE(range_within(~std::uint64_t{0}, 2, 16));
}

TEST(Bits, ByteOrderIsFixed) {
  const unsigned char bytes[] = {0x11, 0x22, 0x33, 0x44};
  EXPECT_EQ(load_le<std::uint32_t>(bytes), 0x44332211u);
  EXPECT_EQ(load_be<std::uint32_t>(bytes), 0x11223344u);
  unsigned char out[2];
  store_be<std::uint16_t>(out, 0xA1B2);
  EXPECT_EQ(out[0], 0xA1);
}

TEST(Bits, CheckedArithmeticReportsOverflow) {
  EXPECT_FALSE(checked_add<std::uint32_t>(0xFFFFFFFFu, 1));
  EXPECT_EQ(checked_mul<std::uint64_t>(1u << 20, 1u << 20), std::uint64_t{1} << 40);
  EXPECT_EQ(mul_div(~std::uint64_t{0}, 1000, 1000), ~std::uint64_t{0});
}

Result<int> half(int value) {
  if (value % 2) return fail("{} is odd", value);
  return value / 2;
}
Result<int> quarter(int value) { return HUSK_TRY(half(HUSK_TRY(half(value)))); }

TEST(Result, TryPassesTheErrorUp) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ((Error{"a", "b"}.within("ctx").text()), "ctx: a; b");
}

TEST(Log, GuestErrorsAreBounded) {
  unsigned lines = 0;
  Log log([&](LogLevel, std::string_view) { ++lines; }, LogLevel::debug);
  for (unsigned i = 0; i < Log::kGuestErrorLimit * 2; ++i) log.guest_error("bad {}", i);
  EXPECT_EQ(lines, Log::kGuestErrorLimit + 1);
}

TEST(Check, BrokenInvariantAborts) { EXPECT_DEATH(HUSK_CHECK(1 == 2), "broken invariant: 1 == 2"); }

}  // namespace
}  // namespace husk
