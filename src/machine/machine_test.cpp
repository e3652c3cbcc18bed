// husk: tests of whole machines with tiny ROMs: lifecycle, requests, two in one process
#include "machine/machine.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>
#include <initializer_list>

#include "testing/fake_pmem.h"

namespace husk::machine {
namespace {

/// A 64 KiB ROM whose reset vector jumps to `code` at its start (F000:0000 after the far jump).
std::vector<std::uint8_t> rom_with(std::initializer_list<std::uint8_t> code) {
  std::vector<std::uint8_t> rom(0x10000, 0xF4);
  std::copy(code.begin(), code.end(), rom.begin());
  // jmp F000:0000, which also moves CS from its reset base to the alias below 1 MiB
  const std::array<std::uint8_t, 5> jump = {0xEA, 0x00, 0x00, 0x00, 0xF0};
  std::copy(jump.begin(), jump.end(), rom.begin() + 0xFFF0);
  return rom;
}

class MachineTest : public ::testing::Test {
 protected:
  MachineOptions options(std::vector<std::uint8_t> rom) {
    MachineOptions made;
    made.board.ram_bytes = 1 << 20;
    made.board.debug_exits = {{.iobase = 0xF4, .iosize = 1}};
    made.board.rom = std::move(rom);
    made.cpu_model = cpu::cpu_model("max").value();
    return made;
  }
  std::unique_ptr<Machine> make(MachineOptions made, std::vector<MachineEvent>& events) {
    return Machine::create(*loop_, log_, std::move(made),
                           [&events](const MachineEvent& event) { events.push_back(event); })
        .value();
  }
  void run_until(const std::function<bool()>& done) {
    while (!done()) loop_->run_once();
  }
  std::unique_ptr<host::EventLoop> loop_ = host::EventLoop::create().value();
  Log log_;
  std::vector<MachineEvent> events_;
};

TEST_F(MachineTest, StartsAtTheResetVectorAndEndsByDebugExit) {
  // mov al, 21; out F4h, al; hlt
  const auto machine = make(options(rom_with({0xB0, 21, 0xE6, 0xF4, 0xF4})), events_);
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::debug_exit);
  EXPECT_EQ(events_[0].status, 43);
  EXPECT_FALSE(machine->running());
}

// SDM vol. 1, 8.7.2; ICH9 data sheet, COPROC_ERR: without CR0.NE an x87 error comes as IRQ 13, INT 75h on a PC.
TEST_F(MachineTest, X87ErrorWithoutNumericErrorComesAsInterrupt13) {
  const auto machine = make(
      options(rom_with({
          0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0, 0xBC, 0x00, 0x10,  // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 1000h
          0x66, 0xB9, 0x1B, 0x00, 0x00, 0x00, 0x66, 0x31, 0xC0,  // mov ecx, IA32_APIC_BASE; xor eax, eax
          0x66, 0x31, 0xD2, 0x0F, 0x30,        // xor edx, edx; wrmsr: no local APIC, the 8259s reach the CPU
          0xC7, 0x06, 0xD4, 0x01, 0x6D, 0x00,  // mov word [75h * 4], handler
          0xC7, 0x06, 0xD6, 0x01, 0x00, 0xF0,  // mov word [75h * 4 + 2], F000h
          0xB0, 0x11, 0xE6, 0x20, 0xE6, 0xA0,  // ICW1 of both 8259s
          0xB0, 0x08, 0xE6, 0x21, 0xB0, 0x70, 0xE6, 0xA1,        // ICW2: 08h and 70h
          0xB0, 0x04, 0xE6, 0x21, 0xB0, 0x02, 0xE6, 0xA1,        // ICW3
          0xB0, 0x01, 0xE6, 0x21, 0xE6, 0xA1,                    // ICW4
          0xB0, 0xFB, 0xE6, 0x21, 0xB0, 0xDF, 0xE6, 0xA1,        // masks: only the cascade and IRQ 13 open
          0x30, 0xDB, 0xFB, 0xDB, 0xE3,                          // xor bl, bl; sti; fninit
          0xC7, 0x06, 0x00, 0x05, 0x7B, 0x03,                    // mov word [500h], 37Bh: zero divide unmasked
          0xD9, 0x2E, 0x00, 0x05, 0xB9, 0x03, 0x00,              // fldcw [500h]; mov cx, 3
          0xD9, 0xE8, 0xD9, 0xEE, 0xDE, 0xF9,                    // again: fld1; fldz; fdivp st(1), st
          0x9B, 0xDB, 0xE3, 0xD9, 0x2E, 0x00, 0x05, 0xE2, 0xF1,  // fwait; fninit; fldcw [500h]; loop again
          0x88, 0xD8, 0xE6, 0xF4, 0xF4,                          // mov al, bl; out F4h, al; hlt
          0xFE, 0xC3, 0xE6, 0xF0, 0xDB, 0xE2,                    // handler: inc bl; out F0h, al; fnclex
          0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0xCF,              // mov al, 20h; out A0h, al; out 20h, al; iret
      })),
      events_);
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::debug_exit);
  EXPECT_EQ(events_[0].status, 3 * 2 + 1) << "one interrupt for each of the three errors";
}

TEST_F(MachineTest, TwoMachinesRunAtOnceInOneProcess) {
  // Each counts a word at 500h up to 10,000 and tells its low byte plus its own number.
  const auto counting = [](std::uint8_t number) {
    return rom_with({0x31, 0xC0,   0x8E, 0xD8,              // xor ax, ax; mov ds, ax
                     0xB9, 0x10,   0x27,                    // mov cx, 10000
                     0xFF, 0x06,   0x00, 0x05, 0xE2, 0xFA,  // again: inc word [500h]; loop again
                     0xA0, 0x00,   0x05,                    // mov al, [500h]
                     0x04, number, 0xE6, 0xF4, 0xF4});      // add al, number; out F4h, al; hlt
  };
  std::vector<MachineEvent> other_events;
  const auto one = make(options(counting(1)), events_);
  const auto other = make(options(counting(2)), other_events);
  one->resume();
  other->resume();
  run_until([&] { return !events_.empty() && !other_events.empty(); });
  EXPECT_EQ(events_[0].status, ((0x10 + 1) << 1) | 1);
  EXPECT_EQ(other_events[0].status, ((0x10 + 2) << 1) | 1);
}

TEST_F(MachineTest, ResetThroughPortCf9StartsAnew) {
  // Counts starts in CMOS byte 40h, which survives: the first start resets, the second exits with the count.
  auto made = options(rom_with({0xB0, 0x40, 0xE6, 0x70, 0xE4, 0x71,              // in al from CMOS 40h
                                0xFE, 0xC0, 0x88, 0xC3,                          // inc al; mov bl, al
                                0xB0, 0x40, 0xE6, 0x70, 0x88, 0xD8, 0xE6, 0x71,  // write it back
                                0x80, 0xFB, 0x02, 0x74, 0x08,                    // cmp bl, 2; je exit
                                0xBA, 0xF9, 0x0C, 0xB0, 0x06, 0xEE,              // mov dx, CF9h; mov al, 6; out dx, al
                                0xF4, 0xF4,                                      // hlt
                                0x88, 0xD8, 0xE6, 0xF4, 0xF4}));                 // exit: mov al, bl; out F4h, al
  const auto machine = make(std::move(made), events_);
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::debug_exit);
  EXPECT_EQ(events_[0].status, 5);
}

TEST_F(MachineTest, NoRebootTurnsAResetIntoAnEvent) {
  auto made = options(rom_with({0xB0, 0xFE, 0xE6, 0x64, 0xF4}));  // keyboard controller command FEh
  made.no_reboot = true;
  const auto machine = make(std::move(made), events_);
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::reset);
  EXPECT_FALSE(events_[0].cause.empty());
}

TEST_F(MachineTest, TripleFaultIsReportedWithItsStory) {
  // lidt of a zero limit, then INT3: no handler, no double-fault handler.
  auto made =
      options(rom_with({0x2E, 0x0F, 0x01, 0x1E, 0x10, 0x00, 0xCC, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const auto machine = make(std::move(made), events_);
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::triple_fault);
  EXPECT_FALSE(machine->vcpu(0).past_events().empty());
  EXPECT_EQ(machine->vcpu(0).get_state().activity, cpu::Activity::shutdown);
}

TEST_F(MachineTest, HaltWithInterruptsOffIsReported) {
  const auto machine = make(options(rom_with({0xFA, 0xF4})), events_);  // cli; hlt
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::stuck);
}

TEST_F(MachineTest, PauseStopsCpusAndTimeAndResumeGoesOn) {
  const auto machine = make(options(rom_with({0xFF, 0x06, 0x00, 0x05, 0xEB, 0xFA})), events_);  // inc word [500h]; jmp
  for (int round = 0; round < 20; ++round) {
    machine->resume();
    const auto before = machine->clock().now();
    while (machine->clock().now() < before + 1'000'000) {
    }
    machine->pause();
    const auto state = machine->vcpu(0).get_state();
    const auto instructions = machine->vcpu(0).instructions();
    const auto now = machine->clock().now();
    EXPECT_TRUE(state.rip <= 6 || state.rip == 0xFFF0) << state.rip;
    EXPECT_EQ(machine->vcpu(0).instructions(), instructions);
    EXPECT_EQ(machine->clock().now(), now);
  }
  EXPECT_GT(machine->vcpu(0).instructions(), 0u);
}

TEST_F(MachineTest, DebuggerBreaksStepsAndWatches) {
  // F000:0000 inc word [500h]; F000:0004 jmp back
  const auto machine = make(options(rom_with({0xFF, 0x06, 0x00, 0x05, 0xEB, 0xFA})), events_);
  ASSERT_TRUE(machine->vcpu(0).set_debug({.single_step = false, .breakpoints = {0xF0004}, .watchpoints = {}}));
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].kind, MachineEvent::Kind::debug);
  EXPECT_EQ(events_[0].address, 0xF0004u);
  EXPECT_EQ(machine->vcpu(0).get_state().rip, 4u);
  events_.clear();
  ASSERT_TRUE(machine->vcpu(0).set_debug({.single_step = true, .breakpoints = {}, .watchpoints = {}}));
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(machine->vcpu(0).get_state().rip, 0u);
  events_.clear();
  ASSERT_TRUE(
      machine->vcpu(0).set_debug({.single_step = false,
                                  .breakpoints = {},
                                  .watchpoints = {{.address = 0x500, .length = 2, .read = false, .write = true}}}));
  machine->resume();
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].address, 0x500u);
  EXPECT_EQ(machine->vcpu(0).get_state().rip, 4u) << "a watchpoint stops after the instruction";
}

// Each turn of the guest's loop adds 3 to one word and 1 to another: whoever runs it, they go together.
TEST_F(MachineTest, ARunningMachineIsCarriedToAndFro) {
  auto made = options(rom_with({0x31, 0xC0, 0x8E, 0xD8,                    // xor ax, ax; mov ds, ax
                                0x66, 0x31, 0xC9, 0x66, 0x31, 0xDB,        // xor ecx, ecx; xor ebx, ebx
                                0x66, 0x41, 0x66, 0x83, 0xC3, 0x03,        // again: inc ecx; add ebx, 3
                                0x66, 0x89, 0x0E, 0x00, 0x05,              // mov [500h], ecx
                                0x80, 0x3E, 0x10, 0x05, 0x00, 0x74, 0xEE,  // cmp byte [510h], 0; je again
                                0x66, 0x89, 0x1E, 0x04, 0x05,              // mov [504h], ebx
                                0xB0, 7,    0xE6, 0xF4, 0xF4}));           // mov al, 7; out F4h, al; hlt
  const auto machine = make(std::move(made), events_);
  const std::string names[] = {HUSK_HAVE_JIT ? "jit" : "interp", "interp"};
  mem::GuestMemory memory(machine->memory_space());
  unsigned announced = 0;
  machine->on_new_cpus([&]() -> Status {
    ++announced;
    return {};
  });
  machine->resume();
  std::uint32_t before = 0;
  for (unsigned move = 0; move < 30; ++move) {
    // Each of them runs for a while.
    std::uint32_t turns = 0;
    do {
      loop_->run_once(100'000);
      turns = memory.load<std::uint32_t>(0x500).value();
    } while (turns == before);
    const auto moved = machine->set_accelerator(names[move % 2]);
    ASSERT_TRUE(moved) << moved.error().text();
    EXPECT_EQ(machine->accelerator_name(), names[move % 2]);
    EXPECT_TRUE(machine->running());
    before = memory.load<std::uint32_t>(0x500).value();
  }
  EXPECT_EQ(announced, 30u);
  ASSERT_TRUE(memory.store<std::uint8_t>(0x510, 1));
  run_until([&] { return !events_.empty(); });
  EXPECT_EQ(events_[0].status, 15);
  EXPECT_EQ(memory.load<std::uint32_t>(0x504).value(), memory.load<std::uint32_t>(0x500).value() * 3);
}

TEST_F(MachineTest, AMoveThatCannotBeIsRefusedAndTheGuestGoesOn) {
  const auto machine = make(options(rom_with({0xFF, 0x06, 0x00, 0x05, 0xEB, 0xFA})), events_);  // inc word [500h]; jmp
  mem::GuestMemory memory(machine->memory_space());
  const auto goes_on = [&] {
    const auto seen = memory.load<std::uint16_t>(0x500).value();
    while (memory.load<std::uint16_t>(0x500).value() == seen) loop_->run_once(100'000);
  };
  machine->resume();
  goes_on();
  const auto unknown = machine->set_accelerator("xen");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("xen"), std::string::npos);
  goes_on();
  // Somebody's request cannot be repeated on the new CPUs: the old ones stay.
  accel::Vcpu* const before = &machine->vcpu(0);
  machine->on_new_cpus([&]() -> Status {
    if (&machine->vcpu(0) != before) return fail("no such breakpoint here");
    return {};
  });
  const auto refused = machine->set_accelerator("interp");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("no such breakpoint"), std::string::npos);
  EXPECT_EQ(&machine->vcpu(0), before);
  goes_on();
}

TEST_F(MachineTest, AMoveOfAPausedMachineLeavesItPaused) {
  const auto machine = make(options(rom_with({0xFF, 0x06, 0x00, 0x05, 0xEB, 0xFA})), events_);
  ASSERT_TRUE(machine->set_accelerator("interp"));
  EXPECT_FALSE(machine->running());
  EXPECT_EQ(machine->vcpu(0).get_state().rip, 0xFFF0u);
}

// The clock of a machine with a TSC of its own rate does not fit any host's KVM.
TEST_F(MachineTest, KvmRefusesAnotherTscRateBeforeAnythingStops) {
  auto made = options(rom_with({0xEB, 0xFE}));
  made.cpu_model.tsc_hz = 123'456'789;
  const auto machine = make(std::move(made), events_);
  machine->resume();
  const auto refused = machine->set_accelerator("kvm");
  ASSERT_FALSE(refused);
  EXPECT_FALSE(refused.error().text().empty());
  EXPECT_TRUE(machine->running());
}

/// Does for the first virtio device what a firmware does, by the configuration ports (PCI 2.1, 3.2.2.3.2): BAR 4 is at
/// `base`, and answers.
void place_virtio_registers(mem::AddressSpace& io, mem::Gpa base) {
  const auto who = mem::Requester::cpu(0);
  const auto reach = [&](std::uint32_t device, std::uint32_t where) {
    io.write(who, 0xCF8, 0x8000'0000 | device << 11 | where, 4);
  };
  for (std::uint32_t device = 0; device < 32; ++device) {
    reach(device, 0);
    if ((io.read(who, 0xCFC, 4) & 0xFFFF) != 0x1AF4) continue;
    reach(device, 0x20);
    io.write(who, 0xCFC, base, 4);
    reach(device, 4);
    io.write(who, 0xCFC, 6, 2);
    return;
  }
}

/// The driver of a virtio-rng device, from outside: virtio 1.2, 4.1.4.3 and 2.7, one queue of 8 entries at 40000h.
class RngDriver {
 public:
  RngDriver(mem::AddressSpace& space, mem::Gpa registers) : space_(space), memory_(space), registers_(registers) {
    for (const unsigned status : {0u, 1u, 3u}) set(0x14, status, 1);
    set(0x08, 1, 4);  // the upper half of the features: VERSION_1
    set(0x0C, 1, 4);
    set(0x14, 0xB, 1);
    set(0x16, 0, 2);
    set(0x18, 8, 2);
    set(0x20, kRings, 8);
    set(0x28, kRings + 0x1000, 8);
    set(0x30, kRings + 0x2000, 8);
    set(0x1C, 1, 2);
    set(0x14, 0xF, 1);
  }
  /// Offers 16 bytes of memory, and tells nobody.
  void offer() {
    EXPECT_TRUE(memory_.store<std::uint64_t>(kRings, kRings + 0x3000));
    EXPECT_TRUE(memory_.store<std::uint64_t>(kRings + 8, 16 | std::uint64_t{2} << 32));  // the device writes
    EXPECT_TRUE(memory_.store<std::uint16_t>(kRings + 0x1004 + offered_ % 8 * 2, 0));
    EXPECT_TRUE(memory_.store<std::uint16_t>(kRings + 0x1002, ++offered_));
  }
  unsigned used() const { return memory_.load<std::uint16_t>(kRings + 0x2002).value(); }

 private:
  static constexpr mem::Gpa kRings = 0x40000;
  void set(std::uint64_t offset, std::uint64_t value, unsigned size) {
    space_.write(mem::Requester::cpu(0), registers_ + offset, value, size);
  }
  mem::AddressSpace& space_;
  mem::GuestMemory memory_;
  mem::Gpa registers_;
  std::uint16_t offered_ = 0;
};

TEST_F(MachineTest, ADoorbellIsAnsweredByTheLoopAndBeforeAPause) {
  auto made = options(rom_with({0xEB, 0xFE}));
  made.board.virtio.push_back({.config = VirtioRngConfig{}});
  const auto machine = make(std::move(made), events_);
  const auto doorbells = machine->board().doorbells().value();
  ASSERT_EQ(doorbells.size(), 1u);
  constexpr mem::Gpa kRegisters = 0xC000'0000;
  place_virtio_registers(machine->io_space(), kRegisters);
  EXPECT_EQ(machine->board().doorbells().value()[0].eventfd, doorbells[0].eventfd) << "made once";
  EXPECT_EQ(machine->memory_space().find(kRegisters + doorbells[0].offset).handler, doorbells[0].handler);
  RngDriver driver(machine->memory_space(), kRegisters);
  driver.offer();
  machine->memory_space().write(mem::Requester::cpu(0), kRegisters + doorbells[0].offset, 0, 2);
  EXPECT_EQ(driver.used(), 1u) << "the handler does at once what a doorbell has done later";
  const auto ring = [&] { ASSERT_EQ(::eventfd_write(doorbells[0].eventfd, 1), 0); };
  driver.offer();
  ring();
  run_until([&] { return driver.used() == 2; });
  machine->resume();
  driver.offer();
  ring();
  machine->pause();
  EXPECT_EQ(driver.used(), 3u);
}

TEST_F(MachineTest, PersistentMemoryLiesAboveRamOnEveryAccelerator) {
  constexpr mem::Gpa kFirst = 0x1'0000'0000, kSecond = 0x1'4000'0000;
  std::vector<testing::FakePmem*> made;
  const auto with_pmem = [&](MachineOptions wanted, std::uint64_t bytes) {
    wanted.board.virtio.push_back({.config = VirtioPmemConfig{}});
    wanted.board.virtio.back().pmem =
        [&made, bytes](mem::LockDomain&, const std::string&) -> Result<std::unique_ptr<core::PersistentMemory>> {
      auto memory = std::make_unique<testing::FakePmem>(bytes);
      made.push_back(memory.get());
      return memory;
    };
    return wanted;
  };
  // hlt, for ever
  const auto machine =
      make(with_pmem(with_pmem(options(rom_with({0xFB, 0xF4, 0xEB, 0xFC})), 2 << 20), 4 << 20), events_);
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(machine->board().memory_space().find(kFirst).ram, &made[0]->region());
  EXPECT_EQ(machine->board().memory_space().find(kSecond).ram, &made[1]->region());
  EXPECT_EQ(machine->board().memory_space().find(kFirst + (2 << 20)).ram, nullptr);
  machine->resume();
  for (const char* name : {"interp", "jit"}) {
    ASSERT_TRUE(machine->set_accelerator(name));
    EXPECT_EQ(machine->board().ram().back(), &made[1]->region());
  }
  machine->pause();
  auto narrow = with_pmem(options(rom_with({0xF4})), 2 << 20);
  narrow.cpu_model.physical_bits = 32;
  const auto refused = Machine::create(*loop_, log_, std::move(narrow), [](const MachineEvent&) {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text().find("32 address bits"), std::string::npos) << refused.error().text();
}

TEST_F(MachineTest, RefusesTooLittleMemory) {
  auto made = options(rom_with({0xF4}));
  made.board.ram_bytes = 4096;
  const auto refused = Machine::create(*loop_, log_, std::move(made), [](const MachineEvent&) {});
  ASSERT_FALSE(refused);
  EXPECT_FALSE(refused.error().next_step.empty());
}

}  // namespace
}  // namespace husk::machine
