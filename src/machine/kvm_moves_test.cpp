// husk: tests of moves between husk's own interrupt controllers and KVM's, where /dev/kvm opens
#include <gtest/gtest.h>

#include "machine/machine.h"

#if HUSK_HAVE_KVM

#include "accel/kvm/system.h"

namespace husk::machine {
namespace {

/// Counts at 500h what counter 0 of the 8254 sends through the 8259 every 2 ms, and at 504h what the local APIC's
/// periodic timer sends every 3 ms.
std::vector<std::uint8_t> counting_rom() {
  const std::vector<std::uint8_t> code = {
      0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0, 0xBC, 0x00, 0x10,  // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 1000h
      0xC7, 0x06, 0x20, 0x00, 0x5B, 0x00, 0xC7, 0x06, 0x22, 0x00, 0x00, 0xF0,        // interrupt 8: tick
      0xC7, 0x06, 0x40, 0x01, 0x67, 0x00, 0xC7, 0x06, 0x42, 0x01, 0x00, 0xF0,        // interrupt 50h: timer
      0x66, 0xB9, 0x1B, 0x00, 0x00, 0x00, 0x0F, 0x32, 0x0D, 0x00, 0x0C, 0x0F, 0x30,  // IA32_APIC_BASE: x2APIC mode
      0xBE, 0x7B, 0x00, 0xBF, 0x05, 0x00,                                            // mov si, msrs; mov di, 5
      0x2E, 0xAD, 0x66, 0x0F, 0xB7, 0xC8, 0x2E, 0x66, 0xAD,                    // cs lodsw; movzx ecx, ax; cs lodsd
      0x66, 0x31, 0xD2, 0x0F, 0x30, 0x4F, 0x75, 0xEF,                          // xor edx, edx; wrmsr; dec di; jnz
      0xBE, 0x99, 0x00, 0xBF, 0x08, 0x00,                                      // mov si, ports; mov di, 8
      0x2E, 0xAD, 0x88, 0xC2, 0xB6, 0x00, 0x88, 0xE0, 0xEE, 0x4F, 0x75, 0xF4,  // cs lodsw; the low byte a port, the
                                                                               // high its value
      0xFB, 0xF4, 0xEB, 0xFD,                                                  // sti; sleep: hlt; jmp sleep
      0x50, 0x66, 0xFF, 0x06, 0x00, 0x05, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF,  // tick: inc dword [500h]; EOI; iret
      0x66, 0xFF, 0x06, 0x04, 0x05, 0x66, 0x31, 0xC0, 0x66, 0x31, 0xD2,        // timer: inc dword [504h]
      0x66, 0xB9, 0x0B, 0x08, 0x00, 0x00, 0x0F, 0x30, 0xCF,                    // EOI; iret
      0x0F, 0x08, 0xFF, 0x01, 0x00, 0x00, 0x35, 0x08, 0x00, 0x07, 0x00, 0x00,  // msrs: enabled; LINT0 ExtINT
      0x3E, 0x08, 0x0B, 0x00, 0x00, 0x00, 0x32, 0x08, 0x50, 0x00, 0x02, 0x00,  // divided by 1; periodic, vector 50h
      0x38, 0x08, 0xC0, 0xC6, 0x2D, 0x00,                                      // 3,000,000 ns
      0x20, 0x11, 0x21, 0x08, 0x21, 0x04, 0x21, 0x01, 0x21, 0xFE,              // ports: the 8259; only IRQ 0 is open
      0x43, 0x34, 0x40, 0x52, 0x40, 0x09};                                     // the 8254: mode 2, 2386 clocks
  std::vector<std::uint8_t> rom(0x10000, 0xF4);
  std::ranges::copy(code, rom.begin());
  const std::array<std::uint8_t, 5> jump = {0xEA, 0x00, 0x00, 0x00, 0xF0};
  std::ranges::copy(jump, rom.begin() + 0xFFF0);
  return rom;
}

class KvmMovesTest : public ::testing::TestWithParam<KernelIrqchip> {
 protected:
  void SetUp() override {
    if (const auto opened = accel::kvm::System::open(); !opened)
      GTEST_SKIP() << "no usable KVM here: " << opened.error().text();
    MachineOptions options;
    options.board.ram_bytes = 1 << 20;
    options.board.rom = counting_rom();
    options.cpu_model = cpu::cpu_model("max").value();
    options.accelerator = "kvm";
    options.kernel_irqchip = GetParam();
    options.warn_of_missing_features = false;
    machine_ = Machine::create(*loop_, log_, std::move(options), [this](const MachineEvent&) { ++events_; }).value();
  }
  std::uint32_t counted(mem::Gpa where) {
    return mem::GuestMemory(machine_->memory_space()).load<std::uint32_t>(where).value();
  }
  /// Both timers interrupt, again and again.
  ::testing::AssertionResult goes_on() {
    const std::uint64_t end = host::monotonic_now() + 20'000'000'000;
    const std::uint32_t ticks = counted(0x500), timers = counted(0x504);
    while (counted(0x500) - ticks < 5 || counted(0x504) - timers < 5) {
      loop_->run_once(1'000'000);
      if (host::monotonic_now() > end || events_ != 0)
        return ::testing::AssertionFailure()
               << counted(0x500) - ticks << " ticks of the 8254, " << counted(0x504) - timers << " of the local APIC, "
               << events_ << " events, on " << machine_->accelerator_name();
    }
    return ::testing::AssertionSuccess();
  }
  std::unique_ptr<host::EventLoop> loop_ = host::EventLoop::create().value();
  Log log_;
  unsigned events_ = 0;
  std::unique_ptr<Machine> machine_;
};

TEST_P(KvmMovesTest, TimersGoOnWhoeverHasTheControllers) {
  machine_->resume();
  ASSERT_TRUE(goes_on());
  const std::string others[] = {"interp", HUSK_HAVE_JIT ? "jit" : "interp"};
  for (unsigned move = 0; move < 8; ++move) {
    const auto moved = machine_->set_accelerator(move % 2 ? "kvm" : others[move / 2 % 2]);
    ASSERT_TRUE(moved) << moved.error().text();
    ASSERT_TRUE(goes_on()) << "after move " << move;
  }
  // From one VM of KVM's to another.
  ASSERT_TRUE(machine_->set_accelerator("kvm"));
  ASSERT_TRUE(goes_on());
}

TEST_P(KvmMovesTest, AMoveThatIsTakenBackLeavesTheControllersAsTheyWere) {
  machine_->resume();
  ASSERT_TRUE(goes_on());
  const accel::Vcpu* const before = &machine_->vcpu(0);
  machine_->on_new_cpus([&]() -> Status {
    if (&machine_->vcpu(0) != before) return fail("no such breakpoint here");
    return {};
  });
  for (const char* to : {"interp", "kvm"}) {
    ASSERT_FALSE(machine_->set_accelerator(to));
    EXPECT_EQ(&machine_->vcpu(0), before);
    ASSERT_TRUE(goes_on()) << to;
  }
}

TEST_P(KvmMovesTest, AMachineThatStandsKeepsItsListOfDevices) {
  machine_->resume();
  ASSERT_TRUE(goes_on());
  machine_->pause();
  const auto ids = [&] {
    std::vector<std::string> found;
    for (const auto& entry : machine_->board().devices()) found.emplace_back(entry.device->state_id());
    return found;
  };
  const auto before = ids();
  ASSERT_TRUE(machine_->set_accelerator("interp"));
  EXPECT_EQ(ids(), before);
  EXPECT_FALSE(machine_->running());
  ASSERT_TRUE(machine_->set_accelerator("kvm"));
  EXPECT_EQ(ids(), before);
  machine_->resume();
  ASSERT_TRUE(goes_on());
}

// Whoever has the controllers is reset with the machine.
TEST_P(KvmMovesTest, AResetAfterAMoveStartsAnew) {
  machine_->resume();
  ASSERT_TRUE(goes_on());
  for (const char* to : {"interp", "kvm"}) {
    ASSERT_TRUE(machine_->set_accelerator(to));
    ASSERT_TRUE(machine_->reset());
    ASSERT_TRUE(goes_on()) << to;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, KvmMovesTest, ::testing::Values(KernelIrqchip::on, KernelIrqchip::split),
                         [](const auto& shown) { return shown.param == KernelIrqchip::on ? "on" : "split"; });

}  // namespace
}  // namespace husk::machine

#endif
