// husk: tests of the software accelerators: state in and out, and on from one engine to the other
#include "accel/soft/soft_accel.h"

#include <gtest/gtest.h>

#include <bit>
#include <initializer_list>
#include <thread>

#include "cpu/state_record.h"
#include "testing/manual_clock.h"
#include "testing/no_interrupts.h"

namespace husk::accel {
namespace {

std::vector<std::uint8_t> bytes_of(const cpu::CpuState& state) {
  state::StateWriter writer;
  writer.record(state);
  return {writer.bytes().begin(), writer.bytes().end()};
}

/// 2 MiB of RAM with page tables that map it one to one, and a CPU in 64-bit mode at 10000h.
class SoftMoves : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kCode = 0x10000, kData = 0x20000, kIdt = 0x8000, kHandler = 0x30000;

  SoftMoves() {
    ram_ = mem::RamRegion::create("ram", 2 << 20).value();
    mapping_ = memory_.map_ram(0, 2 << 20, *ram_, 0, true).value();
    put(0x1000, 0x2003), put(0x2000, 0x3003), put(0x3000, 0x83);  // one large page
    put(0x4008, 0x00AF'9B00'0000'FFFF), put(0x4010, 0x00CF'9300'0000'FFFF);
    // Every vector leads to the same handler.
    for (std::uint64_t vector = 0; vector < 256; ++vector)
      put(kIdt + vector * 16, 0x0000'8E00'0008'0000 | (kHandler & 0xFFFF) | (kHandler >> 16 << 48));
  }
  void put(std::uint64_t at, std::uint64_t value) { store_le<std::uint64_t>(ram_->data() + at, value); }
  std::uint64_t get(std::uint64_t at) const { return load_le<std::uint64_t>(ram_->data() + at); }
  void code(std::uint64_t at, std::initializer_list<std::uint8_t> bytes) {
    std::copy(bytes.begin(), bytes.end(), ram_->data() + at);
  }

  cpu::CpuState long_mode() const {
    cpu::CpuState s = cpu::reset_state(model_.signature());
    s.cr0 = cpu::kCr0Pe | cpu::kCr0Et | cpu::kCr0Ne | cpu::kCr0Mp | cpu::kCr0Pg;
    s.cr3 = 0x1000;
    s.cr4 = cpu::kCr4Pae | cpu::kCr4Osfxsr | cpu::kCr4Osxmmexcpt | cpu::kCr4Osxsave;
    s.efer = cpu::kEferLme | cpu::kEferLma;
    s.xcr0 = 7;
    s.gdtr = {0x4000, 0x17};
    s.idtr = {kIdt, 0xFFF};
    s.seg[cpu::kCs] = {.selector = 8, .attributes = 0xA09B, .limit = 0xFFFFFFFF, .base = 0};
    for (const unsigned data : {cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs})
      s.seg[data] = {.selector = 0x10, .attributes = 0xC093, .limit = 0xFFFFFFFF, .base = 0};
    s.rip = kCode;
    s.gpr[cpu::kRsp] = 0x80000;
    return s;
  }

  struct Engine {
    std::unique_ptr<SoftAccel> accel;
    std::unique_ptr<Vcpu> vcpu;
  };
  Engine make(SoftEngine engine) {
    Engine made;
    made.accel = std::make_unique<SoftAccel>(SoftAccelDeps{memory_, io_, clock_, log_, engine, false});
    EXPECT_TRUE(made.accel->add_ram(*ram_));
    made.vcpu = made.accel->create_vcpu({0, model_, interrupts_}).value();
    return made;
  }
  /// The engine that a move of this number leads to.
  static SoftEngine other(unsigned number) {
    return HUSK_HAVE_JIT && number % 2 == 0 ? SoftEngine::jit : SoftEngine::interpreter;
  }

  Log log_;
  testing::ManualClock clock_;
  testing::NoInterrupts interrupts_;
  cpu::CpuModel model_ = cpu::cpu_model("max").value();
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  std::unique_ptr<mem::RamRegion> ram_;
  mem::Mapping mapping_;
};

// A loop with sums in general, vector and x87 registers, and in memory, and code that it changes itself; then the sums
// are stored. Wherever it is stopped, another engine goes on.
TEST_F(SoftMoves, AComputationGoesOnInTheOtherEngineWhereverItIsStopped) {
  code(kCode, {
                  0xC4, 0xE2, 0x7D, 0x58, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00,  // vpbroadcastd ymm0, [20000h]
                  0xC5, 0xF5, 0xEF, 0xC9,                                      // vpxor ymm1, ymm1, ymm1
                  0xDB, 0xE3, 0xD9, 0xE8, 0xD9, 0xEE,                          // fninit; fld1; fldz
                  0x31, 0xC0,                                                  // xor eax, eax
                  // again:
                  0xC5, 0xF5, 0xFE, 0xC8,                                // vpaddd ymm1, ymm1, ymm0
                  0xD8, 0xC1,                                            // fadd st0, st1
                  0x48, 0x01, 0xC8,                                      // add rax, rcx
                  0x48, 0x69, 0xC0, 0x05, 0x01, 0x00, 0x00,              // imul rax, rax, 261
                  0x48, 0x31, 0x04, 0x25, 0x40, 0x00, 0x02, 0x00,        // xor [20040h], rax
                  0xFF, 0xC9, 0x75, 0xE4,                                // dec ecx; jnz again
                  0xC5, 0xFE, 0x7F, 0x0C, 0x25, 0x00, 0x01, 0x02, 0x00,  // vmovdqu [20100h], ymm1
                  0xDD, 0x1C, 0x25, 0x48, 0x00, 0x02, 0x00,              // fstp qword [20048h]
                  0x48, 0x89, 0x04, 0x25, 0x50, 0x00, 0x02, 0x00,        // mov [20050h], rax
                  0xF4,                                                  // hlt
              });
  constexpr std::uint32_t kTurns = 6'000'000;
  cpu::CpuState state = long_mode();
  state.gpr[cpu::kRcx] = kTurns;
  put(kData, 3);
  Exit exit;
  unsigned moves = 0;
  for (;; ++moves) {
    Engine engine = make(other(moves));
    ASSERT_TRUE(engine.vcpu->set_state(state));
    EXPECT_EQ(bytes_of(engine.vcpu->get_state()), bytes_of(state));
    std::jthread stopper([&, moves] {
      for (unsigned spin = 0; spin < 1000 + moves * 37; ++spin) std::this_thread::yield();
      engine.vcpu->kick();
    });
    exit = engine.vcpu->run();
    stopper.join();
    state = engine.vcpu->export_state().value();
    if (exit.reason != Exit::Reason::stopped) break;
  }
  EXPECT_EQ(exit.reason, Exit::Reason::stuck) << "halted with interrupts off";
  EXPECT_EQ(state.activity, cpu::Activity::halted);
  std::uint64_t sum = 0, mixed = 0;
  for (std::uint64_t n = kTurns; n != 0; --n) {
    sum = (sum + n) * 261;
    mixed ^= sum;
  }
  EXPECT_EQ(get(kData + 0x50), sum) << "after " << moves << " moves";
  EXPECT_EQ(get(kData + 0x40), mixed);
  for (unsigned lane = 0; lane < 8; ++lane)
    EXPECT_EQ(load_le<std::uint32_t>(ram_->data() + kData + 0x100 + lane * 4), kTurns * 3);
  const auto real = std::bit_cast<double>(get(kData + 0x48));
  EXPECT_EQ(real, static_cast<double>(kTurns));
}

class SoftStates : public SoftMoves, public ::testing::WithParamInterface<SoftEngine> {};

TEST_P(SoftStates, EverythingComesBackByteForByte) {
  Engine engine = make(GetParam());
  cpu::CpuState state = long_mode();
  for (unsigned i = 0; i < 16; ++i) {
    state.gpr[i] = 0x1111'0000'0000'0000u + i;
    for (unsigned b = 0; b < 32; ++b) state.vector[i].bytes[b] = static_cast<std::uint8_t>(i * 8 + b);
  }
  state.x87.registers[2] = {0xC000'0000'0000'0000, 0x4000};
  state.x87.tag = 0xFFCF;
  state.interrupt_shadow = true;
  state.nmi_blocked = state.nmi_pending = true;
  state.pending_debug = 0x4001;
  state.shadow_holds_debug = true;
  state.init_pending = state.sipi_pending = true;
  state.sipi_vector = 0x12;
  state.msr.tsc_offset = 77;
  for (const auto activity : {cpu::Activity::running, cpu::Activity::halted, cpu::Activity::wait_for_sipi}) {
    state.activity = activity;
    ASSERT_TRUE(engine.vcpu->set_state(state));
    EXPECT_EQ(bytes_of(engine.vcpu->export_state().value()), bytes_of(state)) << static_cast<unsigned>(activity);
  }
  using Kind = cpu::InjectedEvent::Kind;
  for (const cpu::InjectedEvent injected :
       {cpu::InjectedEvent{Kind::exception, 14, true, 2}, cpu::InjectedEvent{Kind::interrupt, 0x40, false, 0},
        cpu::InjectedEvent{Kind::nmi, 2, false, 0}}) {
    state.injected = injected;
    ASSERT_TRUE(engine.vcpu->set_state(state));
    EXPECT_EQ(bytes_of(engine.vcpu->export_state().value()), bytes_of(state));
  }
}

// SDM vol. 3, 6.14: what is pushed. The handler keeps the vector's frame and halts.
TEST_P(SoftStates, AnEventThatHadBegunIsTakenFirstWhateverTheInterruptFlagSays) {
  using Kind = cpu::InjectedEvent::Kind;
  code(kCode, {0xF4});
  code(kHandler, {0x58, 0x5B, 0xF4});  // pop rax; pop rbx; hlt
  struct Case {
    cpu::InjectedEvent injected;
    std::uint64_t rax, rbx;
  };
  for (const Case& one : {Case{{Kind::interrupt, 0x40, false, 0}, kCode, 8}, Case{{Kind::nmi, 2, false, 0}, kCode, 8},
                          Case{{Kind::exception, 13, true, 0x18}, 0x18, kCode}}) {
    Engine engine = make(GetParam());
    cpu::CpuState state = long_mode();
    state.injected = one.injected;
    state.interrupt_shadow = true;
    ASSERT_TRUE(engine.vcpu->set_state(state));
    EXPECT_EQ(engine.vcpu->run().reason, Exit::Reason::stuck);
    const cpu::CpuState after = engine.vcpu->get_state();
    EXPECT_EQ(after.rip, kHandler + 3);
    EXPECT_EQ(after.gpr[cpu::kRax], one.rax);
    EXPECT_EQ(after.gpr[cpu::kRbx], one.rbx);
    EXPECT_EQ(after.nmi_blocked, one.injected.kind == Kind::nmi);
    EXPECT_EQ(after.injected.kind, Kind::none);
  }
}

// SDM vol. 3, 18.3.1.4 and 6.8.3: a single-step trap that MOV SS holds back comes after the next instruction.
TEST_P(SoftStates, ADebugTrapThatWasHeldBackComesAfterTheNextInstruction) {
  code(kCode, {0x90, 0x90, 0xF4});
  code(kHandler, {0x58, 0xF4});  // pop rax; hlt
  for (const bool held : {false, true}) {
    Engine engine = make(GetParam());
    cpu::CpuState state = long_mode();
    state.pending_debug = 1u << 14;
    state.interrupt_shadow = state.shadow_holds_debug = held;
    ASSERT_TRUE(engine.vcpu->set_state(state));
    EXPECT_EQ(engine.vcpu->run().reason, Exit::Reason::stuck);
    const cpu::CpuState after = engine.vcpu->get_state();
    EXPECT_EQ(after.gpr[cpu::kRax], kCode + (held ? 1 : 0));
    EXPECT_TRUE(after.dr6 & (1u << 14));
    EXPECT_EQ(after.pending_debug, 0u);
  }
}

// Documentation/virt/kvm/x86/msr.rst: version, TSC, time; a reader that was stopped in the midst must see a new
// version.
TEST_P(SoftStates, KvmsClockIsToldAnewWithAnotherVersion) {
  Engine engine = make(GetParam());
  cpu::CpuState state = long_mode();
  state.msr.kvm_system_time = kData | 1;
  state.msr.tsc_offset = 1234;
  state.msr.kvm_clock_offset = 5678;
  put(kData, 36);
  ASSERT_TRUE(engine.vcpu->set_state(state));
  EXPECT_EQ(get(kData) & 0xFFFFFFFF, 38u);
  EXPECT_EQ(get(kData + 8), 1234u);
  EXPECT_EQ(get(kData + 16), 5678u);
  EXPECT_EQ(engine.vcpu->get_state().msr.kvm_clock_offset, 5678);
}

TEST_P(SoftStates, WhatNoCpuCanHoldIsRefusedByName) {
  Engine engine = make(GetParam());
  cpu::CpuState state = long_mode();
  state.xcr0 = 0xE7;
  const auto set = engine.vcpu->set_state(state);
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("XCR0"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Engines, SoftStates,
#if HUSK_HAVE_JIT
                         ::testing::Values(SoftEngine::interpreter, SoftEngine::jit),
#else
                         ::testing::Values(SoftEngine::interpreter),
#endif
                         [](const ::testing::TestParamInfo<SoftEngine>& one) {
                           return one.param == SoftEngine::jit ? "Jit" : "Interpreter";
                         });

}  // namespace
}  // namespace husk::accel
