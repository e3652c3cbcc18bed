// husk: transcendental functions against the host's x87: flags equal, results within one unit in the last place
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "cpu/softfloat/softfloat.h"
#include "cpu/softfloat/test_operands.h"

#if defined(__x86_64__)

namespace husk::fp::test {
namespace {

struct alignas(16) Image {
  std::array<std::uint8_t, 16> bytes{};
};
Image to_image(F80 a) {
  Image image;
  std::memcpy(image.bytes.data(), &a.sig, 8);
  std::memcpy(image.bytes.data() + 8, &a.sign_exp, 2);
  return image;
}
F80 from_image(const Image& image) {
  F80 a;
  std::memcpy(&a.sig, image.bytes.data(), 8);
  std::memcpy(&a.sign_exp, image.bytes.data() + 8, 2);
  return a;
}

struct Outcome {
  F80 first, second;
  std::uint16_t status = 0;
};
struct Soft {
  F80 first;
  bool reduced = true;
  F80 second{};
  bool two = false;
};

/// Neighbouring encodings of one sign count 1 apart.
std::uint64_t distance(F80 a, F80 b) {
  if (a == b) return 0;
  if (a.sign() != b.sign()) return ~std::uint64_t{0};
  const auto order = [](F80 x) {
    return (static_cast<unsigned __int128>(x.biased() == 0 && x.sig >> 63 ? 1 : x.biased()) << 63) +
           (x.sig & ~(1ULL << 63));
  };
  const auto oa = order(a), ob = order(b);
  const auto apart = oa > ob ? oa - ob : ob - oa;
  return apart > 1000 ? 1000 : static_cast<std::uint64_t>(apart);
}

constexpr std::uint16_t kCompared = 0x43f;  // flags and C2

/// a goes to ST(0), b to ST(1). Of the results at least `equal_percent` must be the host's to the last bit.
template <class Host, class SoftOp, class Prepare>
void expect_closeness(const char* what, unsigned equal_percent, Host host, SoftOp soft, Prepare prepare) {
  Dice dice(std::hash<std::string>{}(what));
  const std::uint64_t total = 20'000 * setting("HUSK_FP_SCALE", 1);
  std::uint64_t equal = 0, up_equal = 0, compared = 0;
  unsigned shown = 0;
  for (std::uint64_t i = 0; i < total && shown < 8; ++i) {
    F80 a = dice.extended();
    F80 b = dice.partner80(a);
    prepare(a, b, dice);
    auto fcw = static_cast<std::uint16_t>(0x300 | (dice.below(4) << 10));
    fcw = static_cast<std::uint16_t>(fcw | (dice.below(2) ? 0x3fU : dice.below(64)));
    const Outcome expected = host(a, b, fcw);
    Env env = Env::from_fcw(fcw);
    const Soft got = soft(a, b, env);
    env.settle();
    const auto status = static_cast<std::uint16_t>(env.raised | (got.reduced ? 0 : 0x400));
    std::uint64_t apart = 0;
    if (!env.stopped()) {
      apart = distance(expected.first, got.first);
      if (got.two && got.reduced) apart = std::max(apart, distance(expected.second, got.second));
      ++compared;
      equal += apart == 0;
      up_equal += apart == 0 && env.c1 == ((expected.status >> 9) & 1);
    }
    if (apart > 1 || ((expected.status ^ status) & kCompared)) {
      ++shown;
      ADD_FAILURE() << fmt::format(
          "{}: {:04x}:{:016x} {:04x}:{:016x} fcw {:#x}: host {:04x}:{:016x} {:04x}:{:016x} fsw {:#x}, "
          "husk {:04x}:{:016x} {:04x}:{:016x} fsw {:#x}",
          what, a.sign_exp, a.sig, b.sign_exp, b.sig, fcw, expected.first.sign_exp, expected.first.sig,
          expected.second.sign_exp, expected.second.sig, expected.status & kCompared, got.first.sign_exp, got.first.sig,
          got.second.sign_exp, got.second.sig, status & kCompared);
    }
  }
  EXPECT_GE(equal * 100, compared * equal_percent)
      << what << ": " << equal << " of " << compared << " equal, " << up_equal << " with C1";
  if (std::getenv("HUSK_FP_RATES")) fmt::print("{}: {} of {} equal, {} with C1\n", what, equal, compared, up_equal);
}

#define HOST(insn)                                                                                     \
  [](F80 a, F80 b, std::uint16_t fcw) {                                                                \
    Image ia = to_image(a), ib = to_image(b);                                                          \
    const std::uint16_t all_masked = 0x37f;                                                            \
    Outcome o;                                                                                         \
    asm volatile("fninit\n\tfldt %[b]\n\tfldt %[a]\n\tfldcw %[fcw]\n\t" insn                           \
                 "\n\tfnstsw %[sw]\n\tfnclex\n\tfldcw %[masked]\n\tfstpt %[a]\n\tfstpt %[b]\n\tfninit" \
                 : [a] "+m"(ia), [b] "+m"(ib), [sw] "=m"(o.status)                                     \
                 : [fcw] "m"(fcw), [masked] "m"(all_masked));                                          \
    o.first = from_image(ia);                                                                          \
    o.second = from_image(ib);                                                                         \
    return o;                                                                                          \
  }

void as_drawn(F80&, F80&, Dice&) {}
/// ST(0) in [2^-66, 2^low_bits), ST(1) not far from it.
auto exponents(unsigned from, unsigned count) {
  return [=](F80& a, F80& b, Dice& dice) {
    a = {a.sig | (1ULL << 63),
         static_cast<std::uint16_t>((a.sign_exp & 0x8000U) | (0x3fffU - from + dice.below(count)))};
    b = {b.sig | (1ULL << 63),
         static_cast<std::uint16_t>((b.sign_exp & 0x8000U) | (0x3fffU - from + dice.below(count)))};
  };
}

Soft of(const Trigonometric& t) { return {t.value, t.reduced}; }

TEST(SoftfloatFunctions, SinesAndTangentsAreTheHosts) {
  const auto sin = [](F80 a, F80, Env& env) { return of(f80_sin(a, env)); };
  const auto cos = [](F80 a, F80, Env& env) { return of(f80_cos(a, env)); };
  const auto tan = [](F80 a, F80, Env& env) -> Soft {
    const Trigonometric t = f80_tan(a, env);
    if (!t.reduced || env.stopped()) return of(t);
    // FPTAN pushes 1, or a second NaN.
    const bool nan = t.value.biased() == 0x7fff;
    return {nan ? t.value : F80{1ULL << 63, 0x3fff}, true, t.value, true};
  };
  const auto sincos = [](F80 a, F80, Env& env) -> Soft {
    const SinCos t = f80_sincos(a, env);
    if (!t.reduced || env.stopped()) return {t.sin, t.reduced};
    return {t.cos, true, t.sin, true};
  };
  expect_closeness("fsin", 90, HOST("fsin"), sin, as_drawn);
  expect_closeness("fsin near 1", 90, HOST("fsin"), sin, exponents(66, 140));
  expect_closeness("fcos", 90, HOST("fcos"), cos, as_drawn);
  expect_closeness("fcos near 1", 90, HOST("fcos"), cos, exponents(66, 140));
  expect_closeness("fptan", 80, HOST("fstp %%st(1)\n\tfptan"), tan, as_drawn);
  expect_closeness("fptan near 1", 80, HOST("fstp %%st(1)\n\tfptan"), tan, exponents(66, 140));
  expect_closeness("fsincos", 90, HOST("fstp %%st(1)\n\tfsincos"), sincos, as_drawn);
  expect_closeness("fsincos near 1", 90, HOST("fstp %%st(1)\n\tfsincos"), sincos, exponents(66, 140));
}

TEST(SoftfloatFunctions, ArcTangentIsTheHosts) {
  const auto atan = [](F80 a, F80 b, Env& env) -> Soft { return {f80_atan2(b, a, env)}; };
  expect_closeness("fpatan", 90, HOST("fpatan"), atan, as_drawn);
  expect_closeness("fpatan near 1", 90, HOST("fpatan"), atan, exponents(10, 20));
}

TEST(SoftfloatFunctions, ExponentialIsTheHosts) {
  const auto exp = [](F80 a, F80, Env& env) -> Soft { return {f80_exp2m1(a, env)}; };
  expect_closeness("f2xm1", 90, HOST("f2xm1"), exp, [](F80& a, F80&, Dice& dice) {
    if (a.biased() < 0x7fff && (a.biased() > 0x3fff || (a.biased() == 0x3fff && a.sig != 1ULL << 63)))
      a.sign_exp = static_cast<std::uint16_t>((a.sign_exp & 0x8000U) | (0x3ffeU - dice.below(80)));
  });
  expect_closeness("f2xm1 near 1", 90, HOST("f2xm1"), exp, exponents(10, 10));
}

TEST(SoftfloatFunctions, LogarithmsAreTheHosts) {
  const auto log = [](F80 a, F80 b, Env& env) -> Soft { return {f80_y_log2(a, b, env)}; };
  const auto log1 = [](F80 a, F80 b, Env& env) -> Soft { return {f80_y_log2_plus1(a, b, env)}; };
  expect_closeness("fyl2x", 90, HOST("fyl2x"), log, as_drawn);
  expect_closeness("fyl2x near 1", 90, HOST("fyl2x"), log, exponents(3, 6));
  const auto in_range = [](F80& a, F80& b, Dice& dice) {
    if (a.biased() >= 0x3ffd && a.biased() < 0x7fff)
      a.sign_exp = static_cast<std::uint16_t>((a.sign_exp & 0x8000U) | (0x3ffcU - dice.below(80)));
    if (dice.below(2)) b.sign_exp = static_cast<std::uint16_t>((b.sign_exp & 0x8000U) | (0x3fffU + dice.below(9)));
  };
  expect_closeness("fyl2xp1", 90, HOST("fyl2xp1"), log1, in_range);
  expect_closeness("fyl2xp1 near 1", 90, HOST("fyl2xp1"), log1, exponents(12, 10));
}

}  // namespace
}  // namespace husk::fp::test

#endif
