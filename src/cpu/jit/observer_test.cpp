// husk: tests of what the JIT tells of itself: observers of translated code, and figures
#include "cpu/interp/core_fixture.h"
#include "cpu/jit/engine.h"

namespace husk::cpu::jit {
namespace {

using interp::CoreFixture;
using interp::RunExit;

/// Keeps what it is told.
class Recorder final : public CodeObserver {
 public:
  struct Told {
    std::uint64_t linear;
    std::vector<std::uint8_t> guest;
    HostCode hot;
  };
  void translated(const TranslatedCode& code) override {
    told.push_back({code.linear, {code.guest.begin(), code.guest.end()}, code.hot});
  }
  void shared_code(unsigned, const HostCode& code) override { shared = code; }
  std::vector<Told> told;
  HostCode shared;
};

class JitFigures : public CoreFixture {
 protected:
  void start(const EngineOptions& options) {
    long_mode();
    auto made = Engine::create(*core, options);
    if (!made) GTEST_SKIP() << made.error().text();
    engine = *std::move(made);
    core->set_engine(engine.get());
    engine->observe(&recorder);
  }
  void code(std::initializer_list<unsigned> bytes) {
    std::uint64_t at = kCode;
    for (const unsigned byte : bytes) put<std::uint8_t>(at++, static_cast<std::uint8_t>(byte));
  }
  void run() {
    for (exit = RunExit::quantum; exit == RunExit::quantum;) exit = core->run(1'000'000);
    ASSERT_EQ(exit, RunExit::halted);
  }
  const Statistics& figures() const { return engine->statistics(); }

  Recorder recorder;
  std::unique_ptr<Engine> engine;
};

TEST_F(JitFigures, ObserverIsToldOfEachBlockOnce) {
  start({});
  // mov ecx, 1000; again: dec ecx; jnz again; hlt
  code({0xB9, 0xE8, 0x03, 0, 0, 0xFF, 0xC9, 0x75, 0xFC, 0xF4});
  run();
  EXPECT_EQ(recorder.told.size(), figures().blocks);
  ASSERT_FALSE(recorder.told.empty());
  EXPECT_EQ(recorder.told[0].linear, kCode);
  EXPECT_EQ(recorder.told[0].guest, (std::vector<std::uint8_t>{0xB9, 0xE8, 0x03, 0, 0, 0xFF, 0xC9, 0x75, 0xFC}));
  EXPECT_FALSE(recorder.shared.bytes.empty());
  for (const Recorder::Told& told : recorder.told) {
    EXPECT_NE(told.hot.address, reinterpret_cast<std::uintptr_t>(told.hot.bytes.data())) << "written and run apart";
    // The running view holds the same bytes.
    EXPECT_EQ(std::memcmp(reinterpret_cast<const void*>(told.hot.address), told.hot.bytes.data(), 5), 0);
  }
}
TEST_F(JitFigures, ExecutedInstructionsAreCountedIfAskedFor) {
  start({.count = true});
  code({0xB9, 0xE8, 0x03, 0, 0, 0xFF, 0xC9, 0x75, 0xFC, 0xF4});
  run();
  EXPECT_GE(engine->hot_counters().instructions, 2001u);
  EXPECT_LE(engine->hot_counters().instructions, 2010u);
}
TEST_F(JitFigures, NothingIsCountedInTranslatedCodeOtherwise) {
  start({});
  code({0xB9, 0xE8, 0x03, 0, 0, 0xFF, 0xC9, 0x75, 0xFC, 0xF4});
  run();
  EXPECT_EQ(engine->hot_counters().instructions, 0u);
}
TEST_F(JitFigures, CountingLeavesFlagsAndRegistersAlone) {
  start({.count = true});
  // stc; jmp +0 (a new block); adc eax, r11d; hlt
  code({0xF9, 0xEB, 0x00, 0x44, 0x11, 0xD8, 0xF4});
  core->s.gpr[kRax] = 1;
  core->s.gpr[kR11] = 40;
  run();
  EXPECT_EQ(core->s.gpr[kRax], 42u);
  EXPECT_EQ(core->s.gpr[kR11], 40u);
}
TEST_F(JitFigures, HandlersAreCountedByForm) {
  start({});
  // mov esi, 5; again: xor eax, eax; cpuid; dec esi; jnz again; hlt
  code({0xBE, 5, 0, 0, 0, 0x31, 0xC0, 0x0F, 0xA2, 0xFF, 0xCE, 0x75, 0xF8, 0xF4});
  run();
  std::uint64_t cpuid = 0;
  for (std::size_t form = 0; form < forms().size(); ++form)
    if (forms()[form].mnemonic == "CPUID") cpuid += figures().calls_of[form];
  EXPECT_EQ(cpuid, 5u);
}
TEST_F(JitFigures, ExitsHaveTheirReasons) {
  start({});
  // mov rax, [1 GiB], which is not mapped; the handler halts.
  code({0x48, 0x8B, 0x04, 0x25, 0, 0, 0, 0x40});
  put<std::uint8_t>(kHandlers + 14 * 16, 0xF4);
  run();
  EXPECT_EQ(figures().leaves[static_cast<std::size_t>(Leave::fault)], 1u);
  EXPECT_EQ(figures().leaves[static_cast<std::size_t>(Leave::halted)], 1u);
}
TEST_F(JitFigures, SizesAddUp) {
  start({});
  code({0xB9, 0xE8, 0x03, 0, 0, 0xFF, 0xC9, 0x75, 0xFC, 0xF4});
  run();
  std::uint64_t guest = 0, host = 0;
  for (const Recorder::Told& told : recorder.told) {
    guest += told.guest.size();
    host += told.hot.bytes.size();
  }
  EXPECT_EQ(figures().guest_bytes, guest);
  EXPECT_EQ(figures().hot_bytes, host);
  EXPECT_GE(engine->code_bytes(), figures().hot_bytes + figures().cold_bytes);
}
TEST_F(JitFigures, PhaseIsTheRunLoopsBetweenRuns) {
  start({});
  code({0xF4});
  run();
  EXPECT_EQ(engine->phase(), Phase::run_loop);
}

}  // namespace
}  // namespace husk::cpu::jit
