// husk: tests of the CPU state as a record, and of what a CPU refuses to be in
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "cpu/state_check.h"
#include "cpu/state_record.h"

namespace husk::cpu {
namespace {

constexpr const char* kSchemaPath = HUSK_SOURCE_DIR "/docs/cpu-state-schema.txt";

std::vector<std::uint8_t> bytes_of(const CpuState& state) {
  state::StateWriter writer;
  writer.record(state);
  return {writer.bytes().begin(), writer.bytes().end()};
}

CpuState busy_state() {
  CpuState state = reset_state(0x600F12);
  for (unsigned i = 0; i < 16; ++i) state.gpr[i] = 0x0102'0304'0506'0700u + i;
  for (unsigned i = 0; i < 32; ++i)
    for (unsigned b = 0; b < 64; ++b) state.vector[i].bytes[b] = static_cast<std::uint8_t>(i * 3 + b);
  state.x87.registers[5] = {0x8000'0000'0000'0001, 0xC001};
  state.msr.mc_banks[39] = 7;
  state.msr.kvm_clock_offset = -5;
  state.activity = Activity::halted;
  state.pending_debug = 0x4000;
  state.shadow_holds_debug = true;
  state.sipi_pending = true;
  state.sipi_vector = 0x9A;
  state.injected = {InjectedEvent::Kind::exception, 14, true, 6};
  state.svm.guest = true;
  state.svm.intercepts[3] = 0x12345678;
  state.svm.host.rip = 0xFFFF'FFFF'8100'0000;
  return state;
}

TEST(CpuStateRecord, ComesBackByteForByte) {
  const auto bytes = bytes_of(busy_state());
  CpuState loaded;
  ASSERT_TRUE(state::StateReader(bytes).record(loaded));
  EXPECT_EQ(bytes_of(loaded), bytes);
  EXPECT_EQ(loaded.injected, busy_state().injected);
  EXPECT_EQ(loaded.vector, busy_state().vector);
  EXPECT_EQ(loaded.activity, Activity::halted);
}

TEST(CpuStateRecord, DamagedBytesAreAnErrorOrAnotherStateThatSavesAgain) {
  const auto bytes = bytes_of(busy_state());
  std::minstd_rand random(1);
  unsigned refused = 0;
  for (unsigned round = 0; round < 20'000; ++round) {
    auto damaged = bytes;
    damaged[random() % damaged.size()] ^= static_cast<std::uint8_t>(1u << (random() % 8));
    if (round % 4 == 0) damaged.resize(random() % damaged.size());
    CpuState loaded;
    if (!state::StateReader(damaged).record(loaded)) {
      ++refused;
      continue;
    }
    CpuState again;
    ASSERT_TRUE(state::StateReader(bytes_of(loaded)).record(again));
  }
  EXPECT_GT(refused, 5000u);
}

// What has no name in the enumeration never gets into a CPU.
TEST(CpuStateRecord, UnknownActivitiesAndEventsAreRefused) {
  CpuState state;
  state.activity = static_cast<Activity>(5);
  CpuState loaded;
  EXPECT_FALSE(state::StateReader(bytes_of(state)).record(loaded));
  state.activity = Activity::running;
  state.injected.kind = static_cast<InjectedEvent::Kind>(4);
  EXPECT_FALSE(state::StateReader(bytes_of(state)).record(loaded));
}

TEST(CpuStateRecord, MatchesItsSchema) {
  std::string text =
      "# The saved state of a CPU: field, tag, type, and the schema version in which it appeared.\n"
      "# Compared by cpu_test. After a wanted change, run that test with HUSK_UPDATE_GOLDEN=1 to write this file anew, "
      "and\n"
      "# see in the difference that no tag was reused or changed its type.\n\n";
  for (const std::string& line : state::schema<CpuState>()) text += line + "\n";
  if (std::getenv("HUSK_UPDATE_GOLDEN")) {
    std::ofstream(kSchemaPath) << text;
    return;
  }
  std::stringstream golden;
  golden << std::ifstream(kSchemaPath).rdbuf();
  EXPECT_EQ(golden.str(), text);
}

/// A guest of the guest runs, in a way that is allowed.
SvmState& nested(CpuState& s) {
  s.svm.guest = true;
  s.svm.asid = 1;
  s.svm.host.cr0 = kCr0Pe | kCr0Et;
  s.svm.host.efer = kEferSvme;
  return s.svm;
}

TEST(CpuStateSvm, AGuestOfTheGuestIsNamedWhereTheModelHasNoSvm) {
  CpuState state;
  nested(state);
  EXPECT_TRUE(check_state(state, cpu_model("max").value()));
  const auto checked = check_state(state, cpu_model("Haswell").value());
  ASSERT_FALSE(checked);
  EXPECT_NE(checked.error().message.find("SVM"), std::string::npos);
}

struct Refusal {
  const char* name;
  void (*spoil)(CpuState&);
  const char* says;
};
void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

class CpuStateCheck : public ::testing::TestWithParam<Refusal> {};

TEST_P(CpuStateCheck, NamesWhatACpuCannotHold) {
  const CpuModel model = cpu_model("max").value();
  CpuState state = reset_state(model.signature());
  ASSERT_TRUE(check_state(state, model));
  GetParam().spoil(state);
  const auto checked = check_state(state, model);
  ASSERT_FALSE(checked);
  EXPECT_NE(checked.error().message.find(GetParam().says), std::string::npos) << checked.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    All, CpuStateCheck,
    ::testing::Values(Refusal{"Smm", [](CpuState& s) { s.in_smm = true; }, "system management mode"},
                      Refusal{"Smi", [](CpuState& s) { s.smi_pending = true; }, "SMI"},
                      Refusal{"PagingWithoutProtection", [](CpuState& s) { s.cr0 |= kCr0Pg; }, "CR0"},
                      Refusal{"Cr4", [](CpuState& s) { s.cr4 = 1u << 13; }, "CR4 has bits 0x2000"},  // VMXE
                      Refusal{"Efer", [](CpuState& s) { s.efer = 1u << 13; }, "EFER has bits 0x2000"},
                      Refusal{"Vmcb", [](CpuState& s) { nested(s).vmcb = 0x1008; }, "VMCB"},
                      Refusal{"PermissionMap", [](CpuState& s) { nested(s).io_map = std::uint64_t{1} << 52; }, "permission map"},
                      Refusal{"Asid", [](CpuState& s) { nested(s).asid = 0; }, "ASID 0"},
                      Refusal{"Host", [](CpuState& s) { nested(s).host.cr4 = 1u << 13; }, "#VMEXIT"},
                      Refusal{"HostInRing3", [](CpuState& s) { nested(s).host.seg[kSs].attributes = 0xF3; }, "#VMEXIT"},
                      Refusal{"GuestWithoutGif", [](CpuState& s) { nested(s).gif = false; }, "global interrupt flag"},
                      Refusal{"Xcr0", [](CpuState& s) { s.xcr0 = 0xE7; }, "XCR0 0xe7"},
                      Refusal{"Mxcsr", [](CpuState& s) { s.mxcsr = 0x10000; }, "MXCSR"},
                      Refusal{"Zmm", [](CpuState& s) { s.vector[3].bytes[40] = 1; }, "AVX-512"},
                      Refusal{"Opmask", [](CpuState& s) { s.opmask[2] = 1; }, "AVX-512"},
                      Refusal{"Cr3", [](CpuState& s) { s.cr3 = std::uint64_t{1} << 60; }, "CR3"},
                      Refusal{"InjectedBreakpoint",
                              [](CpuState& s) { s.injected = {InjectedEvent::Kind::exception, 3, false, 0}; },
                              "exception 3"},
                      Refusal{"InjectedBeyondExceptions",
                              [](CpuState& s) { s.injected = {InjectedEvent::Kind::exception, 32, false, 0}; },
                              "exception 32"}),
    [](const ::testing::TestParamInfo<Refusal>& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace husk::cpu
