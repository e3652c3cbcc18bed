// husk: softfloat against the host's x87, results, flags and condition codes bit by bit, exceptions masked or not
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
  F80 first, second;         // ST(0) and ST(1) after the instruction; for stores first holds the integer or encoding
  std::uint16_t status = 0;  // C3 C2 C1 C0 and the flags
  unsigned c(unsigned n) const { return (status >> (n == 3 ? 14 : 8 + n)) & 1; }
};

constexpr std::uint16_t kFlagsAndC1 = 0x23f;
constexpr std::uint16_t kFlagsAndCodes = 0x473f | 0x4000;

/// What softfloat gave, in the same form.
struct Soft {
  F80 first;
  std::uint16_t codes = 0;  // C3, C2, C0 at their places in the status word
  F80 second{};
  bool two = false;
  bool store = false;  // to memory: no result with any unmasked exception
};

constexpr std::uint16_t codes_of(Relation relation) {
  switch (relation) {
    case Relation::kLess: return 0x0100;
    case Relation::kEqual: return 0x4000;
    case Relation::kGreater: return 0;
    case Relation::kUnordered: return 0x4500;
  }
  return 0;
}

/// a goes to ST(0), b to ST(1). checked: the bits of the status word that are compared.
template <class Host, class SoftOp, class Prepare>
void expect_agreement(const char* what, unsigned count, std::uint16_t checked, Host host, SoftOp soft,
                      Prepare prepare) {
  Dice dice(std::hash<std::string>{}(what));
  const std::uint64_t total = count * setting("HUSK_FP_SCALE", 1);
  unsigned shown = 0;
  for (std::uint64_t i = 0; i < total && shown < 8; ++i) {
    F80 a = dice.extended();
    F80 b = dice.partner80(a);
    prepare(a, b, dice);
    static constexpr std::array<std::uint16_t, 4> kPrecisions{0x000, 0x200, 0x300, 0x300};
    auto fcw = static_cast<std::uint16_t>(kPrecisions[dice.below(4)] | (dice.below(4) << 10));
    fcw = static_cast<std::uint16_t>(fcw | (dice.below(2) ? 0x3fU : dice.below(64)));
    const Outcome expected = host(a, b, fcw);
    Env env = Env::from_fcw(fcw);
    const Soft got = soft(a, b, env);
    env.settle();
    const auto status = static_cast<std::uint16_t>(env.raised | got.codes | (env.c1 && !env.stopped() ? 0x200 : 0));
    const bool result_matters = got.store ? !env.faults() : !env.stopped();
    const bool same_result =
        !result_matters || (expected.first == got.first && (!got.two || expected.second == got.second));
    if (!same_result || ((expected.status ^ status) & checked)) {
      ++shown;
      ADD_FAILURE() << fmt::format(
          "{}: {:04x}:{:016x} {:04x}:{:016x} fcw {:#x}: host {:04x}:{:016x} {:04x}:{:016x} fsw {:#x}, "
          "husk {:04x}:{:016x} {:04x}:{:016x} fsw {:#x}",
          what, a.sign_exp, a.sig, b.sign_exp, b.sig, fcw, expected.first.sign_exp, expected.first.sig,
          expected.second.sign_exp, expected.second.sig, expected.status & checked, got.first.sign_exp, got.first.sig,
          got.second.sign_exp, got.second.sig, status & checked);
    }
  }
}
template <class Host, class SoftOp>
void expect_agreement(const char* what, unsigned count, std::uint16_t checked, Host host, SoftOp soft) {
  expect_agreement(what, count, checked, host, soft, [](F80&, F80&, Dice&) {});
}

// Exceptions stay pending in the status word, which is read and cleared before the next waiting instruction.
#define HOST_X87(insn, result)                                                                         \
  [](F80 a, F80 b, std::uint16_t fcw) {                                                                \
    Image ia = to_image(a), ib = to_image(b), out;                                                     \
    const std::uint16_t all_masked = 0x37f;                                                            \
    Outcome o;                                                                                         \
    asm volatile("fninit\n\tfldt %[b]\n\tfldt %[a]\n\tfldcw %[fcw]\n\t" insn                           \
                 "\n\tfnstsw %[sw]\n\tfnclex\n\tfldcw %[masked]\n\tfstpt %[a]\n\tfstpt %[b]\n\tfninit" \
                 : [a] "+m"(ia), [b] "+m"(ib), [sw] "=m"(o.status), [out] "+m"(out)                    \
                 : [fcw] "m"(fcw), [masked] "m"(all_masked));                                          \
    o.first = from_image(result);                                                                      \
    o.second = from_image(ib);                                                                         \
    return o;                                                                                          \
  }
#define HOST_REG(insn) HOST_X87(insn, ia)
#define HOST_STORE(insn) HOST_X87(insn " %[out]", out)
#define SOFT(...) \
  []([[maybe_unused]] F80 a, [[maybe_unused]] F80 b, [[maybe_unused]] Env& env) -> Soft { return __VA_ARGS__; }

constexpr unsigned kCount = 120'000;

TEST(SoftfloatX87, ArithmeticIsTheHosts) {
  expect_agreement("fadd", 2 * kCount, kFlagsAndC1, HOST_REG("fadd %%st(1), %%st"), SOFT({f80_add(a, b, env)}));
  expect_agreement("fsub", 2 * kCount, kFlagsAndC1, HOST_REG("fsub %%st(1), %%st"), SOFT({f80_sub(a, b, env)}));
  expect_agreement("fsubr", kCount, kFlagsAndC1, HOST_REG("fsubr %%st(1), %%st"), SOFT({f80_sub(b, a, env)}));
  expect_agreement("fmul", 2 * kCount, kFlagsAndC1, HOST_REG("fmul %%st(1), %%st"), SOFT({f80_mul(a, b, env)}));
  expect_agreement("fdiv", 2 * kCount, kFlagsAndC1, HOST_REG("fdiv %%st(1), %%st"), SOFT({f80_div(a, b, env)}));
  expect_agreement("fdivr", kCount, kFlagsAndC1, HOST_REG("fdivr %%st(1), %%st"), SOFT({f80_div(b, a, env)}));
  expect_agreement("fsqrt", 2 * kCount, kFlagsAndC1, HOST_REG("fsqrt"), SOFT({f80_sqrt(a, env)}));
}

TEST(SoftfloatX87, ArithmeticOnMemoryOperandsIsTheHosts) {
  const auto single = [](F80&, F80& b, Dice& dice) { b.sig = dice.narrow<F32>(); };
  const auto twice = [](F80&, F80& b, Dice& dice) { b.sig = dice.narrow<F64>(); };
#define MEMORY(op, insn, T)                                                                                \
  expect_agreement(                                                                                        \
      insn, kCount, kFlagsAndC1, HOST_REG(insn " %[b]"),                                                   \
      SOFT({op(a, widen(static_cast<T::Bits>(b.sig)), env, is_denormal<T>(static_cast<T::Bits>(b.sig)))}), \
      [&](F80& a, F80& b, Dice& dice) { sizeof(T::Bits) == 4 ? single(a, b, dice) : twice(a, b, dice); })
  MEMORY(f80_add, "fadds", F32);
  MEMORY(f80_add, "faddl", F64);
  MEMORY(f80_sub, "fsubs", F32);
  MEMORY(f80_mul, "fmuls", F32);
  MEMORY(f80_mul, "fmull", F64);
  MEMORY(f80_div, "fdivs", F32);
  MEMORY(f80_div, "fdivl", F64);
#define MEMORY_COMPARE(insn, T)                                                                    \
  expect_agreement(insn, kCount, kFlagsAndCodes, HOST_REG(insn " %[b]"),                           \
                   SOFT({a, codes_of(f80_compare(a, widen(static_cast<T::Bits>(b.sig)), true, env, \
                                                 is_denormal<T>(static_cast<T::Bits>(b.sig))))}),  \
                   [&](F80& a, F80& b, Dice& dice) { sizeof(T::Bits) == 4 ? single(a, b, dice) : twice(a, b, dice); })
  MEMORY_COMPARE("fcoms", F32);
  MEMORY_COMPARE("fcoml", F64);
}

TEST(SoftfloatX87, ComparisonsAreTheHosts) {
  expect_agreement("fcom", kCount, kFlagsAndCodes, HOST_REG("fcom %%st(1)"),
                   SOFT({a, codes_of(f80_compare(a, b, true, env))}));
  expect_agreement("fucom", kCount, kFlagsAndCodes, HOST_REG("fucom %%st(1)"),
                   SOFT({a, codes_of(f80_compare(a, b, false, env))}));
  expect_agreement("ftst", kCount, kFlagsAndCodes, HOST_REG("ftst"),
                   SOFT({a, codes_of(f80_compare(a, F80{}, true, env))}));
  expect_agreement("fxam", kCount, kFlagsAndCodes & ~0x200, HOST_REG("fxam"), [](F80 a, F80, Env&) -> Soft {
    const unsigned c = f80_examine(a);
    return {a, static_cast<std::uint16_t>((c & 4) << 12 | (c & 2) << 9 | (c & 1) << 8)};
  });
}

TEST(SoftfloatX87, LoadsAreTheHosts) {
  expect_agreement("flds", kCount, kFlagsAndC1, HOST_REG("fstp %%st(1)\n\tflds %[b]"),
                   SOFT({f32_to_f80(static_cast<std::uint32_t>(b.sig), env)}),
                   [](F80&, F80& b, Dice& dice) { b.sig = dice.narrow<F32>(); });
  expect_agreement("fldl", kCount, kFlagsAndC1, HOST_REG("fstp %%st(1)\n\tfldl %[b]"), SOFT({f64_to_f80(b.sig, env)}),
                   [](F80&, F80& b, Dice& dice) { b.sig = dice.narrow<F64>(); });
  expect_agreement("fildll", kCount, kFlagsAndC1, HOST_REG("fildll %[b]"),
                   SOFT({f80_from_int64(static_cast<std::int64_t>(b.sig))}));
  const auto digits = [](F80 b) {
    std::array<std::uint8_t, 10> bytes;
    for (unsigned i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(b.sig >> (8 * i));
    bytes[8] = static_cast<std::uint8_t>(b.sign_exp);
    bytes[9] = static_cast<std::uint8_t>(b.sign_exp >> 8);
    return bytes;
  };
  expect_agreement(
      "fbld", kCount, kFlagsAndC1, HOST_REG("fbld %[b]"),
      [&](F80, F80 b, Env&) -> Soft { return {f80_from_bcd(digits(b))}; },
      [](F80&, F80& b, Dice& dice) {
        for (unsigned i = 0; i < 64; i += 4) b.sig = (b.sig << 4) | dice.below(10);
        b.sign_exp = static_cast<std::uint16_t>((dice.below(2) << 15) | (dice.below(10) << 4) | dice.below(10));
      });
}

F80 as_stored(std::uint64_t a) { return {a, 0}; }

TEST(SoftfloatX87, StoresAreTheHosts) {
  expect_agreement("fsts", 3 * kCount, kFlagsAndC1, HOST_STORE("fsts"),
                   SOFT({.first = as_stored(f80_to_f32(a, env)), .store = true}));
  expect_agreement("fstl", 3 * kCount, kFlagsAndC1, HOST_STORE("fstl"),
                   SOFT({.first = as_stored(f80_to_f64(a, env)), .store = true}));
  expect_agreement(
      "fists", kCount, kFlagsAndC1, HOST_STORE("fists"),
      SOFT({.first = as_stored(static_cast<std::uint16_t>(f80_to_int16(a, env.rounding, env))), .store = true}));
  expect_agreement(
      "fistl", kCount, kFlagsAndC1, HOST_STORE("fistl"),
      SOFT({.first = as_stored(static_cast<std::uint32_t>(f80_to_int32(a, env.rounding, env))), .store = true}));
  expect_agreement(
      "fistpll", kCount, kFlagsAndC1, HOST_STORE("fistpll"),
      SOFT({.first = as_stored(static_cast<std::uint64_t>(f80_to_int64(a, env.rounding, env))), .store = true}));
  constexpr auto kZero = Rounding::kTowardZero;
  expect_agreement("fisttps", kCount, kFlagsAndC1, HOST_STORE("fisttps"),
                   SOFT({.first = as_stored(static_cast<std::uint16_t>(f80_to_int16(a, kZero, env))), .store = true}));
  expect_agreement("fisttpl", kCount, kFlagsAndC1, HOST_STORE("fisttpl"),
                   SOFT({.first = as_stored(static_cast<std::uint32_t>(f80_to_int32(a, kZero, env))), .store = true}));
  expect_agreement("fisttpll", kCount, kFlagsAndC1, HOST_STORE("fisttpll"),
                   SOFT({.first = as_stored(static_cast<std::uint64_t>(f80_to_int64(a, kZero, env))), .store = true}));
  expect_agreement("fbstp", 2 * kCount, kFlagsAndC1, HOST_STORE("fbstp"), [](F80 a, F80, Env& env) -> Soft {
    const auto digits = f80_to_bcd(a, env);
    F80 raw{0, static_cast<std::uint16_t>(digits[8] | (digits[9] << 8))};
    for (unsigned i = 0; i < 8; ++i) raw.sig |= static_cast<std::uint64_t>(digits[i]) << (8 * i);
    return {.first = raw, .store = true};
  });
}

TEST(SoftfloatX87, RoundingScalingAndExtractionAreTheHosts) {
  expect_agreement("frndint", kCount, kFlagsAndC1, HOST_REG("frndint"), SOFT({f80_round_to_integral(a, env)}));
  expect_agreement("fscale", kCount, kFlagsAndC1, HOST_REG("fscale"), SOFT({f80_scale(a, b, env)}));
  expect_agreement("fscale small", 2 * kCount, kFlagsAndC1, HOST_REG("fscale"), SOFT({f80_scale(a, b, env)}),
                   [](F80&, F80& b, Dice& dice) {
                     b.sign_exp = static_cast<std::uint16_t>((b.sign_exp & 0x8000U) | (0x3fffU + dice.below(20)));
                   });
  expect_agreement("fscale massive", 2 * kCount, kFlagsAndC1, HOST_REG("fscale"), SOFT({f80_scale(a, b, env)}),
                   [](F80& a, F80& b, Dice& dice) {
                     // Around the exponents that a wrapped result can just not hold.
                     const int target = (dice.below(2) ? 0x7fff + 24576 : -24576) + dice.around(4);
                     const int scale = target - static_cast<int>(a.biased());
                     b = f80_from_int64(scale);
                   });
  expect_agreement("fxtract", kCount, kFlagsAndC1, HOST_REG("fstp %%st(1)\n\tfxtract"),
                   [](F80 a, F80, Env& env) -> Soft {
                     const Extracted e = f80_extract(a, env);
                     return {.first = env.stopped() ? a : e.significand, .second = e.exponent, .two = !env.stopped()};
                   });
}

template <Remainder (*op)(F80, F80, Env&)>
Soft soft_remainder(F80 a, F80 b, Env& env) {
  const Remainder r = op(a, b, env);
  const unsigned q = r.quotient;
  env.c1 = q & 1;
  return {.first = r.value,
          .codes = static_cast<std::uint16_t>((q & 4) << 6 | (r.partial ? 0x400 : 0) | (q & 2) << 13)};
}

TEST(SoftfloatX87, PartialRemaindersAreTheHosts) {
  const auto near = [](F80& a, F80& b, Dice& dice) {
    if (dice.below(4) == 0) return;
    const unsigned exponent = std::min(0x7ffeU, b.biased() + dice.below(140));
    a.sign_exp = static_cast<std::uint16_t>((a.sign_exp & 0x8000U) | exponent);
  };
  expect_agreement("fprem", 3 * kCount, kFlagsAndCodes, HOST_REG("fprem"), soft_remainder<f80_remainder_truncated>,
                   near);
  expect_agreement("fprem1", 3 * kCount, kFlagsAndCodes, HOST_REG("fprem1"), soft_remainder<f80_remainder_nearest>,
                   near);
}

TEST(SoftfloatX87, ConstantsAreTheHosts) {
#define CONSTANT(insn, function) \
  expect_agreement(insn, 200, kFlagsAndC1, HOST_REG("fstp %%st(1)\n\t" insn), SOFT({function(env.rounding)}))
  CONSTANT("fldpi", f80_pi);
  CONSTANT("fldl2t", f80_log2_10);
  CONSTANT("fldl2e", f80_log2_e);
  CONSTANT("fldlg2", f80_log10_2);
  CONSTANT("fldln2", f80_ln_2);
}

}  // namespace
}  // namespace husk::fp::test

#endif
