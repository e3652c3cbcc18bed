// husk: tests of translated code where more than single instructions matters: patching, aliases, calls, modes,
// debugging
#include "cpu/interp/core_fixture.h"
#include "cpu/jit/engine.h"

namespace husk::cpu::jit {
namespace {

using interp::CoreFixture;
using interp::RunExit;

/// The parameter: EngineOptions::heat.
class Jit : public CoreFixture, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  void SetUp() override {
    auto made = Engine::create(*core, {.code_bytes = std::size_t{2} << 20, .heat = GetParam()});
    if (!made) GTEST_SKIP() << made.error().text();
    engine = *std::move(made);
    core->set_engine(engine.get());
    // As the accelerator does: writes to code are told to the CPU.
    ram->set_listener({[this](mem::RamRegion& region, std::uint64_t offset, std::uint64_t length) {
                         if (core->code_written(region, offset, length))
                           region.clear_page_flags(offset, mem::RamRegion::kHasCode);
                       },
                       [this](mem::RamRegion&) { core->drop_write_access(); }});
  }
  void code(std::uint64_t at, std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) put<std::uint8_t>(at++, static_cast<std::uint8_t>(byte));
  }
  /// Runs to a HLT.
  void run() {
    core->s.activity = Activity::running;
    for (exit = RunExit::quantum; exit == RunExit::quantum;) exit = core->run(1'000'000);
    ASSERT_EQ(exit, RunExit::halted);
  }
  std::uint64_t& rax() { return core->s.gpr[kRax]; }
  std::unique_ptr<Engine> engine;
};

TEST_P(Jit, LoopIsTranslatedOnce) {
  long_mode();
  // mov ecx, 100000; xor eax, eax; again: add rax, rcx; dec ecx; jnz again; hlt
  code(kCode, {0xB9, 0xA0, 0x86, 0x01, 0, 0x31, 0xC0, 0x48, 0x01, 0xC8, 0xFF, 0xC9, 0x75, 0xF9, 0xF4});
  run();
  EXPECT_EQ(rax(), std::uint64_t{100000} * 100001 / 2);
  EXPECT_LE(engine->statistics().blocks, 4u);
  EXPECT_LE(engine->statistics().entries, 3u);
}
TEST_P(Jit, BlockThatRunsOftenIsMadeAnew) {
  if (GetParam() == 0) GTEST_SKIP() << "it has its second form at once";
  long_mode();
  // again: add [rbx], rcx; dec ecx; jnz again; hlt
  code(kCode, {0x48, 0x01, 0x0B, 0xFF, 0xC9, 0x75, 0xF9, 0xF4});
  core->s.gpr[kRbx] = kData;
  core->s.gpr[kRcx] = 200'000;
  run();
  EXPECT_EQ(get<std::uint64_t>(kData), std::uint64_t{200'000} * 200'001 / 2);
  EXPECT_GE(engine->statistics().heated, 1u);
  EXPECT_LE(engine->statistics().blocks, 8u);
}
TEST_P(Jit, RegistersWithoutAHomeInTheHostKeepTheirValues) {
  long_mode();
  // mov r10d, 5; mov r11d, 7; lea r15, [r10+r11*4]; add r15, r11; xchg r15, rax; mulx r10, r11, r15 (rdx = 3); hlt
  code(kCode, {0x41, 0xBA, 5,    0,    0,    0,    0x41, 0xBB, 7,    0,    0,    0,    0x4F, 0x8D,
               0x3C, 0x9A, 0x4D, 0x01, 0xDF, 0x49, 0x97, 0xC4, 0x42, 0xA3, 0xF6, 0xD7, 0xF4});
  core->s.gpr[kRdx] = 3;
  rax() = 9;
  run();
  EXPECT_EQ(rax(), 5u + 28 + 7);
  EXPECT_EQ(core->s.gpr[kR15], 9u);
  EXPECT_EQ(core->s.gpr[kR11], 27u);
  EXPECT_EQ(core->s.gpr[kR10], 0u);
}
TEST_P(Jit, RexBeforeAnotherPrefixIsNone) {
  long_mode();
  // REX.RB, then 66: and dx, 15, not r10w; twice REX, the second counts: add rax, rcx; hlt
  code(kCode, {0x45, 0x66, 0x83, 0xE2, 0x0F, 0x45, 0x48, 0x01, 0xC8, 0xF4});
  core->s.gpr[kRdx] = 0x12345;
  core->s.gpr[kR10] = 0xFFFF;
  core->s.gpr[kRcx] = std::uint64_t{1} << 40;
  rax() = 1;
  run();
  EXPECT_EQ(core->s.gpr[kRdx], 0x10005u);
  EXPECT_EQ(core->s.gpr[kR10], 0xFFFFu);
  EXPECT_EQ(rax(), (std::uint64_t{1} << 40) + 1);
}
TEST_P(Jit, FlagsLiveAcrossAMemoryAccess) {
  long_mode();
  put<std::uint64_t>(kData, 40);
  // mov rbx, kData; stc; mov rdx, [rbx]; adc rdx, 1; mov [rbx+8], rdx; setc al; hlt
  code(kCode, {0x48, 0xC7, 0xC3, 0,    0,    0x18, 0, 0xF9, 0x48, 0x8B, 0x13, 0x48,
               0x83, 0xD2, 1,    0x48, 0x89, 0x53, 8, 0x0F, 0x92, 0xC0, 0xF4});
  rax() = 0xFF;
  run();
  EXPECT_EQ(get<std::uint64_t>(kData + 8), 42u);
  EXPECT_EQ(rax(), 0u);
}
TEST_P(Jit, FaultInTheMiddleOfABlockIsPrecise) {
  long_mode();
  // inc eax; mov rbx, 1 GiB (not mapped); inc eax; mov rdx, [rbx]; inc eax; hlt. The handler halts.
  code(kCode, {0xFF, 0xC0, 0x48, 0xC7, 0xC3, 0, 0, 0, 0x40, 0xFF, 0xC0, 0x48, 0x8B, 0x13, 0xFF, 0xC0, 0xF4});
  code(kHandlers + 14 * 16, {0xF4});
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 2u);
  EXPECT_EQ(core->s.cr2, 0x40000000u);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp] + 8), kCode + 11) << "RIP of the frame is the load's";
}
TEST_P(Jit, CodeThatPatchesItsNextInstructionRunsThePatch) {
  long_mode();
  // mov byte [rip+1], 7 (the immediate of the next); mov al, 1; hlt
  code(kCode, {0xC6, 0x05, 1, 0, 0, 0, 7, 0xB0, 1, 0xF4});
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 7u);
}
TEST_P(Jit, CodeWrittenByADeviceIsTranslatedAnew) {
  long_mode();
  code(kCode, {0xB0, 1, 0xF4});
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 1u);
  put<std::uint8_t>(kCode + 1, 9);
  ram->note_write(kCode + 1, 1);
  core->s.rip = kCode;
  run();
  EXPECT_EQ(rax(), 9u);
  EXPECT_GE(engine->statistics().dropped, 1u);
}
TEST_P(Jit, PatchThroughAnotherMappingOfThePageIsSeen) {
  long_mode();
  // The same 2 MiB again at 8 MiB.
  put<std::uint64_t>(kPd + 4 * 8, 0x87);
  // again: mov al, 1; mov byte [rbx], 5; dec ecx; jnz again; hlt
  code(kCode, {0xB0, 1, 0xC6, 0x03, 5, 0xFF, 0xC9, 0x75, 0xF7, 0xF4});
  core->s.gpr[kRbx] = (std::uint64_t{8} << 20) + kCode + 1;
  core->s.gpr[kRcx] = 2;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 5u);
}
TEST_P(Jit, DataBesideCodeDropsNothing) {
  long_mode();
  // again: inc qword [rip + 256 - 7]; dec ecx; jnz again; hlt
  code(kCode, {0x48, 0xFF, 0x05, 0xF9, 0, 0, 0, 0xFF, 0xC9, 0x75, 0xF5, 0xF4});
  core->s.gpr[kRcx] = 1000;
  run();
  EXPECT_EQ(get<std::uint64_t>(kCode + 256), 1000u);
  EXPECT_EQ(engine->statistics().dropped, 0u);
}
TEST_P(Jit, StoresBesideCodeStayInTranslatedCode) {
  long_mode();
  core->on_sole_holder([](mem::RamRegion&, std::uint64_t) { return true; });
  // again: inc qword [rip + 256 - 7]; dec ecx; jnz again; hlt
  code(kCode, {0x48, 0xFF, 0x05, 0xF9, 0, 0, 0, 0xFF, 0xC9, 0x75, 0xF5, 0xF4});
  core->s.gpr[kRcx] = 10000;
  run();
  EXPECT_EQ(get<std::uint64_t>(kCode + 256), 10000u);
  EXPECT_LE(engine->statistics().slow_accesses, 10000u / 256 + 2);
}
TEST_P(Jit, StoreBesideCodeIsSeenOnceItIsCodeToo) {
  long_mode();
  core->on_sole_holder([](mem::RamRegion&, std::uint64_t) { return true; });
  // again: inc dword [rip + 512 - 6], the immediate of mov eax, imm32; ret at 511; from the 5th time on it is called
  // too cmp ecx, 5; ja skip; call 511; skip: dec ecx; jnz again; hlt
  code(kCode, {0xFF, 0x05, 0xFA, 1, 0, 0, 0x83, 0xF9, 5, 0x77, 5, 0xE8, 0xEF, 1, 0, 0, 0xFF, 0xC9, 0x75, 0xEC, 0xF4});
  code(kCode + 511, {0xB8, 0, 0, 0, 0, 0xC3});
  core->s.gpr[kRcx] = 100;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 100u);
  EXPECT_GE(engine->statistics().dropped, 4u);
}
TEST_P(Jit, StoreAcrossTheEdgeOfCodeIsSeen) {
  long_mode();
  core->on_sole_holder([](mem::RamRegion&, std::uint64_t) { return true; });
  // mov [rbx], rdx; mov [rsi], rdx; call 64; hlt. At 64: mov al, 1; ret
  code(kCode, {0x48, 0x89, 0x13, 0x48, 0x89, 0x16, 0xE8, 0x35, 0, 0, 0, 0xF4});
  code(kCode + 64, {0xB0, 1, 0xC3});
  core->s.gpr[kRbx] = kCode + 128;
  core->s.gpr[kRsi] = kCode + 136;
  for (int i = 0; i < 2; ++i) {
    core->s.rip = kCode;
    run();
    EXPECT_EQ(rax() & 0xFF, 1u);
  }
  // Bytes 59 to 66: the last three are mov al, 9; ret.
  core->s.gpr[kRsi] = kCode + 59;
  core->s.gpr[kRdx] = 0xC309'B000'0000'0000;
  core->s.rip = kCode;
  run();
  EXPECT_EQ(rax() & 0xFF, 9u);
}
TEST_P(Jit, NeighboursInTwoPagesAreAccessedOneByOne) {
  long_mode();
  // again: mov rax, [rbx]; add rax, [rbx+8]; mov [rbx+16], rax; add rbx, 24; dec ecx; jnz again; hlt
  code(kCode, {0x48, 0x8B, 0x03, 0x48, 0x03, 0x43, 8,    0x48, 0x89, 0x43,
               16,   0x48, 0x83, 0xC3, 24,   0xFF, 0xC9, 0x75, 0xED, 0xF4});
  // By turns the page ends before, between, in and behind the three.
  constexpr std::uint64_t kStart = kData + 4096 - 64, kTriples = 6;
  for (std::uint64_t pass = 0; pass < 24; ++pass) {
    const std::uint64_t start = kStart + pass;
    for (std::uint64_t i = 0; i < kTriples; ++i) {
      put<std::uint64_t>(start + 24 * i, 1000 * pass + i);
      put<std::uint64_t>(start + 24 * i + 8, 77 * i);
      put<std::uint64_t>(start + 24 * i + 16, 0);
    }
    core->s.rip = kCode;
    core->s.gpr[kRbx] = start;
    core->s.gpr[kRcx] = kTriples;
    run();
    for (std::uint64_t i = 0; i < kTriples; ++i)
      EXPECT_EQ(get<std::uint64_t>(start + 24 * i + 16), 1000 * pass + 78 * i) << pass << ' ' << i;
  }
}
TEST_P(Jit, ConstantsRelativeToRipAreReadWhereverTheyLie) {
  long_mode();
  // again: add rax, [rip+100h]; add rax, [rip+800h]; add rax, [rip+1ffah], across pages; add rax, [rip+1000h];
  // add [rip+200h], rax; dec ecx; jnz again; hlt
  const std::array<std::pair<std::uint64_t, std::uint64_t>, 4> operands{
      {{kCode + 7 + 0x100, 3}, {kCode + 14 + 0x800, 50}, {kCode + 21 + 0x1FE7, 700}, {kCode + 28 + 0x1000, 9000}}};
  code(kCode, {0x48, 0x03, 0x05, 0, 1,    0, 0, 0x48, 0x03, 0x05, 0, 8, 0, 0, 0x48, 0x03, 0x05, 0xE7, 0x1F, 0, 0,
               0x48, 0x03, 0x05, 0, 0x10, 0, 0, 0x48, 0x01, 0x05, 0, 2, 0, 0, 0xFF, 0xC9, 0x75, 0xD9, 0xF4});
  for (const auto& [address, value] : operands) put<std::uint64_t>(address, value);
  core->s.gpr[kRcx] = 20;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 20u * 9753);
  EXPECT_EQ(get<std::uint64_t>(kCode + 35 + 0x200), 20u * 21 / 2 * 9753);
}
TEST_P(Jit, LargestDisplacementHasNoNeighbours) {
  long_mode();
  // mov [rbx + 7FFFFFFFh], al, 2 GiB from where a page is; mov [rbx], al; hlt
  code(kCode, {0x88, 0x83, 0xFF, 0xFF, 0xFF, 0x7F, 0x88, 0x03, 0xF4});
  core->s.gpr[kRbx] = kData + 1 - (std::uint64_t{1} << 31);
  code(kHandlers + 14 * 16, {0xF4});
  rax() = 0x55;
  run();
  EXPECT_EQ(get<std::uint8_t>(kData), 0x55u);
  EXPECT_EQ(core->s.cr2, core->s.gpr[kRbx]);
}
TEST_P(Jit, AddressThatIsNotCanonicalMeetsNoTag) {
  long_mode();
  // The bits in which the TLB's tags of pages with code, and of none, differ from addresses.
  code(kHandlers + 13 * 16, {0xF4});
  for (const std::uint64_t bit : {std::uint64_t{1} << 62, std::uint64_t{1} << 63}) {
    // mov rbx, bit | kCode + 200h; inc dword [rip+1f0h], which is in the same page; inc dword [rbx]; hlt
    code(kCode, {0x48, 0xBB, 0, 0x02, 0x10, 0, 0, 0, 0, static_cast<unsigned>(bit >> 56), 0xFF, 0x05, 0xF0, 1, 0, 0,
                 0xFF, 0x03, 0xF4});
    for (unsigned pass = 0; pass < 3; ++pass) {
      core->s.rip = kCode;
      run();
      EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp] + 8), kCode + 16) << "RIP in the frame of #GP";
    }
  }
}
TEST_P(Jit, NeighbourBeyondTheLastMappedPageFaultsByItself) {
  long_mode();
  // inc eax; mov rdx, [rbx]; inc eax; mov rdx, [rbx+8]; inc eax; hlt. 2 MiB is where the mapping ends.
  code(kCode, {0xFF, 0xC0, 0x48, 0x8B, 0x13, 0xFF, 0xC0, 0x48, 0x8B, 0x53, 8, 0xFF, 0xC0, 0xF4});
  code(kHandlers + 14 * 16, {0xF4});
  put<std::uint64_t>(kPd + 8, 0);
  core->s.gpr[kRbx] = (std::uint64_t{2} << 20) - 8;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 2u);
  EXPECT_EQ(core->s.cr2, std::uint64_t{2} << 20);
}
TEST_P(Jit, CheckOfNeighboursDoesNotSurviveAnotherInstructionsFailure) {
  long_mode();
  // push [rdx], which the interpreter does, then neighbours of what it pushed: pop rax; push rax; pop rbx; hlt
  code(kCode, {0xFF, 0x32, 0x58, 0x50, 0x5B, 0xF4});
  put<std::uint64_t>(kData + 4096 - 4, 0x1234'5678'9ABC);
  core->s.gpr[kRdx] = kData + 4096 - 4;
  run();
  EXPECT_EQ(rax(), 0x1234'5678'9ABCu);
  EXPECT_EQ(core->s.gpr[kRbx], 0x1234'5678'9ABCu);
}
/// 4 KiB pages from 4 MiB on: as many as `pages` says, each at a physical address of its own.
class JitPages : public Jit {
 protected:
  static constexpr std::uint64_t kBase = 4 << 20, kFrames = 0x140000;
  void SetUp() override {
    Jit::SetUp();
    if (IsSkipped()) return;
    long_mode();
    put<std::uint64_t>(kPd + 2 * 8, kPt | 7);
    for (unsigned i = 0; i < 512; ++i) put<std::uint64_t>(kPt + i * 8, 0);
    map(0, 0);
    map(1, 1);
    code(kHandlers + 14 * 16, {0xF4});
    core->s.rip = kBase + 4096 - 4;
    // again: inc edx; add eax, imm32 across the pages; dec ecx; jnz again; hlt
    code(kFrames + 4096 - 4, {0xFF, 0xC2, 0x05, 1});
    for (const unsigned frame : {1u, 2u}) code(kFrames + 4096 * frame, {0, 0, frame, 0xFF, 0xC9, 0x75, 0xF5, 0xF4});
    rax() = core->s.gpr[kRdx] = 0;
  }
  void map(unsigned page, unsigned frame) {
    put<std::uint64_t>(kPt + page * 8, (kFrames + 4096 * frame) | 7);
    core->flush_tlb_page(kBase + 4096 * page);
  }
};
TEST_P(JitPages, InstructionAcrossPagesIsTranslated) {
  core->s.gpr[kRcx] = 1000;
  run();
  EXPECT_EQ(rax(), 1000u * 0x0100'0001 % (std::uint64_t{1} << 32));
  EXPECT_EQ(core->s.gpr[kRdx], 1000u);
  EXPECT_LE(engine->statistics().slow_accesses, 2u);
}
TEST_P(JitPages, InstructionAcrossPagesFollowsAWriteToTheSecond) {
  core->s.gpr[kRcx] = 10;
  run();
  put<std::uint8_t>(kFrames + 4096 + 1, 1);
  ram->note_write(kFrames + 4096 + 1, 1);
  rax() = 0;
  core->s.gpr[kRcx] = 10;
  core->s.rip = kBase + 4096 - 4;
  run();
  EXPECT_EQ(rax(), 10u * 0x0101'0001);
}
TEST_P(JitPages, InstructionAcrossPagesFollowsTheMappingOfTheSecond) {
  for (const unsigned frame : {1u, 2u, 1u}) {
    map(1, frame);
    rax() = 0;
    core->s.gpr[kRcx] = 10;
    core->s.rip = kBase + 4096 - 4;
    run();
    EXPECT_EQ(rax(), 10u * (0x0000'0001 | frame << 24)) << frame;
  }
}
TEST_P(JitPages, InstructionAcrossPagesFaultsOnTheSecond) {
  core->s.gpr[kRcx] = 10;
  run();
  put<std::uint64_t>(kPt + 8, 0);
  core->flush_tlb_page(kBase + 4096);
  core->s.gpr[kRdx] = 0;
  core->s.rip = kBase + 4096 - 4;
  run();
  EXPECT_EQ(core->s.gpr[kRdx], 1u);
  EXPECT_EQ(core->s.cr2, kBase + 4096);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp] + 8), kBase + 4096 - 2) << "RIP of the frame is the instruction's";
}
TEST_P(JitPages, LoopWalksOverPagesThatLieApart) {
  constexpr unsigned kPages = 4, kWords = kPages * 512;
  const auto frame_of = [](unsigned page) { return 40 - 3 * page; };
  for (unsigned page = 2; page < 2 + 2 * kPages; ++page) map(page, frame_of(page));
  const auto place = [&](unsigned page, unsigned word) {
    return kFrames + 4096 * frame_of(page + word / 512) + 8 * (word % 512);
  };
  // again: add rax, [rbx]; mov [rsi], rax; add rbx, 8; sub rsi, 8; dec ecx; jnz again; hlt
  code(kCode,
       {0x48, 0x03, 0x03, 0x48, 0x89, 0x06, 0x48, 0x83, 0xC3, 8, 0x48, 0x83, 0xEE, 8, 0xFF, 0xC9, 0x75, 0xEE, 0xF4});
  for (unsigned i = 0; i < kWords; ++i) put<std::uint64_t>(place(2, i), i * i);
  for (unsigned pass = 0; pass < 2; ++pass) {
    core->s.rip = kCode;
    core->s.gpr[kRbx] = kBase + 2 * 4096;
    core->s.gpr[kRsi] = kBase + (2 + 2 * kPages) * 4096 - 8;
    core->s.gpr[kRcx] = kWords;
    rax() = pass;
    run();
    std::uint64_t sum = pass;
    for (unsigned i = 0; i < kWords; ++i) {
      sum += i * i;
      ASSERT_EQ(get<std::uint64_t>(place(2 + kPages, kWords - 1 - i)), sum) << i;
    }
  }
  EXPECT_GE(engine->statistics().loops, GetParam() == 0 ? 1u : 0u);
}
TEST_P(JitPages, LoopFaultsInTheRoundThatLeavesWhatIsMapped) {
  map(2, 7);
  map(3, 5);
  // again: inc edx; movaps xmm0, [rbx+rcx*8]; add rcx, 6; test edx, edx; jnz again; hlt
  code(kCode, {0xFF, 0xC2, 0x0F, 0x28, 0x04, 0xCB, 0x48, 0x83, 0xC1, 6, 0x85, 0xD2, 0x75, 0xF2, 0xF4});
  core->s.rip = kCode;
  core->s.gpr[kRbx] = kBase + 2 * 4096 + 16;
  core->s.gpr[kRcx] = 0;
  run();
  constexpr unsigned kRounds = 1 + (2 * 4096 - 16 - 16) / 48;
  EXPECT_EQ(core->s.gpr[kRdx], kRounds + 1);
  EXPECT_EQ(core->s.cr2, kBase + 2 * 4096 + 16 + kRounds * 48);
  EXPECT_EQ(core->s.gpr[kRcx], kRounds * 6);
}
TEST_P(JitPages, LoopLearnsOfCodeThatItWritesOver) {
  map(2, 3);
  map(3, 0);  // once more the page of which SetUp() has code
  // again: mov [rbx], eax; add rbx, 4; cmp rbx, rsi; jnz again; jmp rdi. The walk begins a page before the code.
  code(kCode, {0x89, 0x03, 0x48, 0x83, 0xC3, 4, 0x48, 0x39, 0xF3, 0x75, 0xF5, 0xFF, 0xE7});
  core->s.gpr[kRcx] = 3;
  run();
  ASSERT_EQ(core->s.gpr[kRdx], 3u);
  core->s.rip = kCode;
  core->s.gpr[kRbx] = kBase + 2 * 4096;
  core->s.gpr[kRsi] = kBase + 4 * 4096;
  core->s.gpr[kRdi] = kBase + 4096 - 4;
  rax() = 0xF4F4F4F4;
  run();
  EXPECT_EQ(core->s.rip, kBase + 4096 - 3) << "HLT is what stands there now";
}
INSTANTIATE_TEST_SUITE_P(Forms, JitPages, ::testing::Values(0u, EngineOptions{}.heat));

TEST_P(Jit, SameCodeAtTwoAddressesIsTranslatedOnce) {
  long_mode();
  put<std::uint64_t>(kPd + 4 * 8, 0x87);
  // lea rax, [rip]; hlt
  code(kCode, {0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xF4});
  run();
  EXPECT_EQ(rax(), kCode + 7);
  const std::uint64_t blocks = engine->statistics().blocks;
  core->s.rip = (std::uint64_t{8} << 20) + kCode;
  run();
  EXPECT_EQ(rax(), (std::uint64_t{8} << 20) + kCode + 7);
  EXPECT_EQ(engine->statistics().blocks, blocks);
}
TEST_P(Jit, CallsAndReturnsAcrossPages) {
  long_mode();
  // again: call next page; dec ecx; jnz again; hlt. There: inc eax; ret
  code(kCode, {0xE8, 0xFB, 0x0F, 0, 0, 0xFF, 0xC9, 0x75, 0xF7, 0xF4});
  code(kCode + 0x1000, {0xFF, 0xC0, 0xC3});
  core->s.gpr[kRcx] = 5000;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 5000u);
  EXPECT_EQ(core->s.gpr[kRsp], kStack);
  EXPECT_LE(engine->statistics().lookups, 2u) << "returns go the host's way";
}
TEST_P(Jit, CallAtTheEndOfAPageReturnsToTheNext) {
  long_mode();
  code(kCode + 0xFFB, {0xE8, 0xFB, 0x0F, 0, 0});
  code(kCode + 0x1000, {0xFF, 0xC3, 0x8D, 0x05, 0, 0, 0, 0, 0xF4});  // inc ebx; lea eax, [rip]; hlt
  code(kCode + 0x1FFB, {0xC3});
  core->s.rip = kCode + 0xFFB;
  core->s.gpr[kRbx] = 0;
  run();
  EXPECT_EQ(core->s.gpr[kRbx], 1u);
  EXPECT_EQ(rax(), kCode + 0x1008);
}
TEST_P(Jit, ReturnToAnotherPlaceThanTheCallers) {
  long_mode();
  // call +0; there: mov qword [rsp], kCode + 32; ret. At 32: hlt
  code(kCode, {0xE8, 0, 0, 0, 0, 0x48, 0xC7, 0x04, 0x24, 0x20, 0, 0x10, 0, 0xC3});
  code(kCode + 32, {0xF4});
  run();
  EXPECT_EQ(core->s.rip, kCode + 33);
}
TEST_P(Jit, EndlessRecursionEndsInAFaultNotInTheHost) {
  long_mode();
  // Stack of one page above an absent one: push until it is hit. The handler has a stack of its own (IST 1).
  put<std::uint64_t>(kPd + 3 * 8, 0);
  put<std::uint64_t>(kIdt + 14 * 16, interp::make_gate(kCs64, kHandlers + 14 * 16, 0x8E, 1));
  code(kHandlers + 14 * 16, {0xF4});
  code(kCode, {0xE8, 0xFB, 0xFF, 0xFF, 0xFF});  // call self
  core->s.gpr[kRsp] = (std::uint64_t{8} << 20) + 0x1000;
  put<std::uint64_t>(kPd + 4 * 8, (std::uint64_t{4} << 20) | 0x87);
  run();
  EXPECT_EQ(core->s.cr2, (std::uint64_t{8} << 20) - 8);
}
TEST_P(Jit, InstructionAcrossThePageEnd) {
  long_mode();
  code(kCode + 0xFFD, {0xB8, 0x78, 0x56, 0x34, 0x12, 0xF4});  // mov eax, 12345678h; hlt
  core->s.rip = kCode + 0xFFD;
  run();
  EXPECT_EQ(rax(), 0x12345678u);
}
TEST_P(Jit, BreakpointInsideTranslatedCodeStopsThere) {
  long_mode();
  // again: inc eax; inc ebx; dec ecx; jnz again; hlt
  code(kCode, {0xFF, 0xC0, 0xFF, 0xC3, 0xFF, 0xC9, 0x75, 0xF8, 0xF4});
  core->s.gpr[kRcx] = 3;
  rax() = core->s.gpr[kRbx] = 0;
  run();
  core->s.rip = kCode;
  core->s.gpr[kRcx] = 3;
  core->s.activity = Activity::running;
  core->debug.breakpoints = {kCode + 2};
  core->update_debug();
  EXPECT_EQ(core->run(1'000'000), RunExit::debug);
  EXPECT_EQ(core->s.rip, kCode + 2);
  EXPECT_EQ(rax(), 4u);
  EXPECT_EQ(core->s.gpr[kRbx], 3u);
}
TEST_P(Jit, SingleStepOfTheGuestTrapsAfterEachInstruction) {
  long_mode();
  code(kCode, {0xFF, 0xC0, 0xFF, 0xC0, 0xF4});
  code(kHandlers + 1 * 16, {0xF4});
  core->s.rflags |= kTF;
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 1u);
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCode + 2);
}
TEST_P(Jit, InterruptEndsALoopWithoutMemoryAccess) {
  long_mode();
  code(kCode, {0xEB, 0xFE});
  code(kHandlers + 0x40 * 16, {0xF4});
  core->s.rflags |= kIF;
  interrupts.vector = 0x40;
  core->interrupt_changed();
  run();
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCode);
}
TEST_P(Jit, Code32InProtectedMode) {
  protected_mode();
  // mov ecx, 10; again: inc eax; push eax; pop edx; loop again; hlt
  code(kCode, {0xB9, 10, 0, 0, 0, 0x40, 0x50, 0x5A, 0xE2, 0xFB, 0xF4});
  rax() = 0;
  run();
  EXPECT_EQ(rax(), 10u);
  EXPECT_EQ(core->s.gpr[kRdx], 10u);
  EXPECT_GE(engine->statistics().blocks, 1u);
}
TEST_P(Jit, NullDataSegmentFaultsInCodeThatWasTranslatedFlat) {
  protected_mode();
  // mov eax, [kData]; push 0; pop ds; mov eax, [kData]; hlt
  code(kCode, {0xA1, 0, 0, 0x18, 0, 0x6A, 0, 0x1F, 0xA1, 0, 0, 0x18, 0, 0xF4});
  code(kHandlers + 13 * 16, {0xF4});
  run();
  EXPECT_EQ(get<std::uint32_t>(core->s.gpr[kRsp] + 4), kCode + 8) << "EIP of #GP's frame";
}
TEST_P(Jit, LinksOfADroppedBlockDoNotChangeTheJumpToItsSuccessor) {
  long_mode(3);
  code(kHandlers + 13 * 16, {0xF4});
  // A function that begins with a conditional jump: jz out; inc ecx; ret; out: inc edx; ret
  constexpr std::uint64_t kFunction = kCode + 0x200, kOut = kFunction + 0x80;
  code(kFunction, {0x74, 0x7E, 0xFF, 0xC1, 0xC3});
  code(kOut, {0xFF, 0xC2, 0xC3});
  // again: xor eax, eax; call rbx; call rbx; mov byte [rbx], 74h; mov byte [rdi], FFh; dec esi; jnz again; hlt: both
  // blocks are dropped, the first while jumps through RBX still lead to it, then what it was linked with.
  code(kCode, {0x31, 0xC0, 0xFF, 0xD3, 0xFF, 0xD3, 0xC6, 0x03, 0x74, 0xC6, 0x07, 0xFF, 0xFF, 0xCE, 0x75, 0xF0, 0xF4});
  core->s.gpr[kRbx] = kFunction;
  core->s.gpr[kRdi] = kOut;
  core->s.gpr[kRsi] = 5;
  core->s.gpr[kRcx] = core->s.gpr[kRdx] = 0;
  run();
  EXPECT_EQ(core->s.gpr[kRdx], 5u) << "jumps taken";
  EXPECT_EQ(core->s.gpr[kRcx], 5u) << "jumps not taken";
}
TEST_P(Jit, RegisterWithoutAHomeIsReadAnewAfterTheInterpreterLoadedIt) {
  long_mode();
  put<std::uint64_t>(kData + 0xFFC, 42);
  // mov r11, [rbx], which reaches into the next page; lea rax, [rax+1]; mov rdx, r11; add r11, r11; mov rcx, r11; hlt
  code(kCode, {0x4C, 0x8B, 0x1B, 0x48, 0x8D, 0x40, 0x01, 0x4C, 0x89, 0xDA, 0x4D, 0x01, 0xDB, 0x4C, 0x89, 0xD9, 0xF4});
  // mov r11, [rbx]; mov rdx, r11; hlt
  code(kCode + 0x100, {0x4C, 0x8B, 0x1B, 0x4C, 0x89, 0xDA, 0xF4});
  core->s.gpr[kRbx] = kData + 0xFFC;
  run();
  EXPECT_EQ(core->s.gpr[kRdx], 42u);
  EXPECT_EQ(core->s.gpr[kRcx], 84u);
  core->s.rip = kCode + 0x100;
  core->s.gpr[kRdx] = 0;
  run();
  EXPECT_EQ(core->s.gpr[kRdx], 42u);
}
TEST_P(Jit, OffsetInFsThatWrapsFaults) {
  protected_mode();
  with_state([](CpuState& s) { s.seg[kFs].base = kData; });
  // mov al, fs:[-1]; mov ebx, fs:[-4]; mov eax, fs:[-3]; hlt
  code(kCode, {0x64, 0xA0, 0xFF, 0xFF, 0xFF, 0xFF, 0x64, 0x8B, 0x1D, 0xFC, 0xFF,
               0xFF, 0xFF, 0x64, 0x8B, 0x05, 0xFD, 0xFF, 0xFF, 0xFF, 0xF4});
  code(kHandlers + 13 * 16, {0xF4});
  put<std::uint32_t>(kData - 4, 0x12345678);
  run();
  EXPECT_EQ(rax() & 0xFF, 0x12u);
  EXPECT_EQ(core->s.gpr[kRbx], 0x12345678u);
  EXPECT_EQ(get<std::uint32_t>(core->s.gpr[kRsp] + 4), kCode + 13) << "EIP of #GP's frame";
}
TEST_P(Jit, DivisionErrorsAreTheGuests) {
  long_mode();
  code(kHandlers, {0xF4});
  // mov eax, 5; cdq; xor ecx, ecx; idiv ecx
  code(kCode, {0xB8, 5, 0, 0, 0, 0x99, 0x31, 0xC9, 0xF7, 0xF9});
  run();
  EXPECT_EQ(get<std::uint64_t>(core->s.gpr[kRsp]), kCode + 8);
}
TEST_P(Jit, FullCacheStartsOver) {
  long_mode();
  // Pages of jumps from one to the next, more than the cache holds: mov eax, imm32 many times over.
  constexpr std::uint64_t kFirst = 0x200000, kPages = 1200;
  for (std::uint64_t page = 0; page < kPages; ++page) {
    std::uint64_t at = kFirst + page * 4096;
    for (unsigned i = 0; i < 400; ++i, at += 8)
      code(at, {0x48, 0x83, 0x44, 0x24, 0xF8, 1, 0x66, 0x90});  // add qword [rsp-8], 1
    if (page + 1 == kPages)
      code(at, {0xF4});
    else
      code(at, {0xE9, static_cast<unsigned>((4096 - 3205) & 0xFF), static_cast<unsigned>((4096 - 3205) >> 8), 0, 0});
  }
  core->s.rip = kFirst;
  put<std::uint64_t>(kStack - 8, 0);
  run();
  EXPECT_EQ(get<std::uint64_t>(kStack - 8), kPages * 400);
  EXPECT_GE(engine->statistics().flushes, 1u);
}

INSTANTIATE_TEST_SUITE_P(Forms, Jit, ::testing::Values(0u, EngineOptions{}.heat));

}  // namespace
}  // namespace husk::cpu::jit
