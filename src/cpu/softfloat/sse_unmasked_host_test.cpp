// husk: flags of SSE instructions with unmasked exceptions against the host's, seen by a SIGFPE handler
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cpu/softfloat/softfloat.h"
#include "cpu/softfloat/test_operands.h"

#if defined(__x86_64__) && defined(__linux__)

#include <ucontext.h>
#include <csetjmp>
#include <csignal>

namespace husk::fp::test {
namespace {

sigjmp_buf resume;
volatile std::uint32_t seen_mxcsr;

void on_fault(int, siginfo_t*, void* context) {
  seen_mxcsr = static_cast<ucontext_t*>(context)->uc_mcontext.fpregs->mxcsr;
  siglongjmp(resume, 1);
}

class SoftfloatSseUnmasked : public testing::Test {
 protected:
  void SetUp() override {
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGFPE, &action, &before_);
  }
  void TearDown() override { sigaction(SIGFPE, &before_, nullptr); }

  /// host runs on a __m128 of two singles or doubles; both elements take part.
  template <class T, class Host, class Soft>
  void check(const char* what, Host host, Soft soft) {
    Dice dice(std::hash<std::string>{}(what));
    unsigned shown = 0;
    for (unsigned i = 0; i < 6000 * setting("HUSK_FP_SCALE", 1) && shown < 8; ++i) {
      alignas(16) std::array<typename T::Bits, 16 / sizeof(typename T::Bits)> a{}, b{};
      for (unsigned e = 0; e < a.size(); ++e) {
        a[e] = e < 2 ? dice.narrow<T>() : a[0];
        b[e] = e < 2 ? dice.partner<T>(a[e]) : b[0];
      }
      const std::uint32_t mxcsr =
          (dice.below(64) << 7) | (dice.below(4) << 13) | (dice.below(2) << 15) | (dice.below(2) << 6);
      const std::uint32_t normal = 0x1f80;
      if (sigsetjmp(resume, 1) == 0) {
        seen_mxcsr = host(a, b, mxcsr);
      } else {
        asm volatile("ldmxcsr %0" : : "m"(normal));
      }
      Env env = Env::from_mxcsr(mxcsr);
      for (unsigned e = 0; e < 2; ++e) soft(a[e], b[e], env);
      env.settle();
      if ((seen_mxcsr & kAllFlags) != env.raised) {
        ++shown;
        ADD_FAILURE() << fmt::format("{}: {:#x} {:#x}, {:#x} {:#x}, mxcsr {:#x}: host flags {:#x}, husk {:#x}", what,
                                     a[0], b[0], a[1], b[1], mxcsr, seen_mxcsr & kAllFlags, env.raised);
      }
    }
  }

 private:
  struct sigaction before_{};
};

#define HOST(insn)                                                               \
  [](const auto& a, const auto& b, std::uint32_t mxcsr) {                        \
    const std::uint32_t normal = 0x1f80;                                         \
    asm volatile("movaps %1, %%xmm0\n\tmovaps %2, %%xmm1\n\tldmxcsr %0\n\t" insn \
                 " %%xmm1, %%xmm0\n\tstmxcsr %0\n\tldmxcsr %3"                   \
                 : "+m"(mxcsr)                                                   \
                 : "m"(a), "m"(b), "m"(normal)                                   \
                 : "xmm0", "xmm1");                                              \
    return mxcsr;                                                                \
  }
#define SOFT(T, expression) []([[maybe_unused]] T::Bits a, [[maybe_unused]] T::Bits b, Env& env) { return expression; }

TEST_F(SoftfloatSseUnmasked, FlagsOfPackedInstructionsAreTheHosts) {
  check<F32>("addps", HOST("addps"), SOFT(F32, add<F32>(a, b, env)));
  check<F64>("addpd", HOST("addpd"), SOFT(F64, add<F64>(a, b, env)));
  check<F32>("mulps", HOST("mulps"), SOFT(F32, mul<F32>(a, b, env)));
  check<F64>("mulpd", HOST("mulpd"), SOFT(F64, mul<F64>(a, b, env)));
  check<F32>("divps", HOST("divps"), SOFT(F32, div<F32>(a, b, env)));
  check<F64>("divpd", HOST("divpd"), SOFT(F64, div<F64>(a, b, env)));
  check<F32>("sqrtps", HOST("sqrtps"), SOFT(F32, sqrt<F32>(b, env)));
  check<F32>("minps", HOST("minps"), SOFT(F32, min<F32>(a, b, env)));
  check<F64>("cmpltpd", HOST("cmpltpd"), SOFT(F64, compare_predicate<F64>(a, b, 1, env)));
  check<F64>("cvtpd2ps", HOST("cvtpd2ps"), SOFT(F64, f64_to_f32(b, env)));
  check<F32>("cvtps2pd", HOST("cvtps2pd"), SOFT(F32, f32_to_f64(b, env)));
  check<F32>("cvtps2dq", HOST("cvtps2dq"), SOFT(F32, to_int32<F32>(b, env.rounding, env)));
}

TEST_F(SoftfloatSseUnmasked, FlagsOfFusedMultiplyAddAreTheHosts) {
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "the host has no FMA";
  check<F64>("vfmadd213pd", HOST("vfmadd213pd %%xmm0,"),
             SOFT(F64, fused_multiply_add<F64>(b, a, a, false, false, env)));
}

}  // namespace
}  // namespace husk::fp::test

#endif
