// husk: tests of the local APIC; expected values from the Intel SDM, vol. 3, chapter 11
#include "devices/intc/local_apic.h"

#include <gtest/gtest.h>

#include <thread>

#include "devices/intc/apic_mmio.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

constexpr std::uint64_t kBase = 0xFEE00000;

struct Cpu {
  Cpu(husk::testing::TestMachine& m, ApicBus& bus, ApicMmio* mmio, unsigned index, std::uint32_t id,
      std::uint64_t bus_hertz, std::vector<std::uint8_t>* eois)
      : apic(LocalApic::Deps{.index = index,
                             .id = id,
                             .bootstrap = index == 0,
                             .pins = pins,
                             .clock = m.clock,
                             .bus = bus,
                             .ext_int_acknowledge = [] { return std::uint8_t{0x30}; },
                             .eoi_broadcast = [eois](std::uint8_t v) { eois->push_back(v); },
                             .base_changed = mmio ? std::function<void()>([mmio] { mmio->bases_changed(); }) : nullptr,
                             .bus_hertz = bus_hertz,
                             .read_tsc = [&m] { return m.clock.now() * 2; },
                             .tsc_hertz = 2'000'000'000}) {}
  husk::testing::FakeCpu pins;
  LocalApic apic;
};

struct LocalApicTest : ::testing::Test {
  husk::testing::TestMachine m;
  ApicBus bus;
  ApicMmio mmio{{m.memory_space, bus}};
  std::vector<std::uint8_t> eois;
  std::vector<std::unique_ptr<Cpu>> cpus;

  Cpu& add(std::uint32_t id, std::uint64_t bus_hertz = 1'000'000'000) {
    cpus.push_back(std::make_unique<Cpu>(m, bus, &mmio, static_cast<unsigned>(cpus.size()), id, bus_hertz, &eois));
    return *cpus.back();
  }
  std::uint32_t read(unsigned cpu, std::uint32_t offset) {
    return static_cast<std::uint32_t>(m.memory_space.read(mem::Requester::cpu(cpu), kBase + offset, 4));
  }
  void write(unsigned cpu, std::uint32_t offset, std::uint32_t value) {
    m.memory_space.write(mem::Requester::cpu(cpu), kBase + offset, value, 4);
  }
  void enable(unsigned cpu) { write(cpu, 0xF0, 0x1FF); }
  Cpu& boot() {
    Cpu& cpu = add(0);
    enable(0);
    return cpu;
  }
  void enter_x2apic(unsigned cpu) { ASSERT_TRUE(cpus[cpu]->apic.set_apic_base(cpus[cpu]->apic.apic_base() | 0x400)); }
};

TEST_F(LocalApicTest, ResetValuesAreThoseOfThePowerUpReset) {
  add(3);
  EXPECT_EQ(read(0, 0x20), 0x03000000u);
  EXPECT_EQ(read(0, 0x30) & 0xFF, 0x14u);
  EXPECT_EQ(read(0, 0x30) >> 16 & 0xFF, 5u);
  EXPECT_EQ(read(0, 0x80), 0u);
  EXPECT_EQ(read(0, 0xD0), 0u);
  EXPECT_EQ(read(0, 0xE0), 0xFFFFFFFFu);
  EXPECT_EQ(read(0, 0xF0), 0xFFu);
  for (std::uint32_t lvt = 0x320; lvt <= 0x370; lvt += 0x10) EXPECT_EQ(read(0, lvt), 0x10000u);
  for (std::uint32_t n = 0x100; n < 0x280; n += 0x10) EXPECT_EQ(read(0, n), 0u);
  EXPECT_EQ(cpus[0]->apic.apic_base(), 0xFEE00900u);
  add(1);
  EXPECT_EQ(cpus[1]->apic.apic_base(), 0xFEE00800u);
}

TEST_F(LocalApicTest, EachCpuSeesItsOwnRegisters) {
  add(0), add(7);
  EXPECT_EQ(read(1, 0x20), 0x07000000u);
  write(1, 0x80, 0x50);
  EXPECT_EQ(read(0, 0x80), 0u);
  EXPECT_EQ(read(1, 0x80), 0x50u);
}

TEST_F(LocalApicTest, ReadOnlyAndUndefinedAccessesChangeNothing) {
  boot();
  write(0, 0x20, 0xFF000000);
  EXPECT_EQ(read(0, 0x20), 0u);
  m.memory_space.write(m.kCpu, kBase + 0x80, 0x55, 1);
  EXPECT_EQ(read(0, 0x80), 0u) << "narrow writes are not defined";
  EXPECT_EQ(m.memory_space.read(m.kCpu, kBase + 0xF1, 1), 0x01u);
  EXPECT_EQ(read(0, 0xF4), 0u);
}

TEST_F(LocalApicTest, FixedInterruptGoesThroughIrrIsrAndEoi) {
  Cpu& cpu = boot();
  bus.send(0, {kBase, 0x41});
  EXPECT_EQ(cpu.pins.kicks, 1u);
  EXPECT_EQ(read(0, 0x220), 0x2u);
  EXPECT_TRUE(cpu.apic.pending());
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
  EXPECT_EQ(read(0, 0x220), 0u);
  EXPECT_EQ(read(0, 0x120), 0x2u);
  EXPECT_EQ(read(0, 0xA0), 0x40u);
  EXPECT_EQ(cpu.apic.acknowledge(), std::nullopt);
  write(0, 0xB0, 0);
  EXPECT_EQ(read(0, 0x120), 0u);
  EXPECT_TRUE(eois.empty()) << "edge-triggered: no broadcast";
}

TEST_F(LocalApicTest, PriorityClassesNestAndTprHolds) {
  Cpu& cpu = boot();
  bus.send(0, {kBase, 0x41});
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
  bus.send(0, {kBase, 0x4F});
  EXPECT_FALSE(cpu.apic.pending()) << "same class";
  bus.send(0, {kBase, 0x50});
  EXPECT_EQ(cpu.apic.acknowledge(), 0x50);
  write(0, 0xB0, 0);
  write(0, 0xB0, 0);
  cpu.apic.set_task_priority(4);
  EXPECT_EQ(read(0, 0x80), 0x40u);
  EXPECT_FALSE(cpu.apic.pending());
  EXPECT_EQ(read(0, 0xA0), 0x40u);
  const unsigned kicks = cpu.pins.kicks;
  write(0, 0x80, 0x3F);
  EXPECT_GT(cpu.pins.kicks, kicks);
  EXPECT_EQ(cpu.apic.task_priority(), 3);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x4F);
}

TEST_F(LocalApicTest, LevelInterruptBroadcastsItsEoiUnlessSuppressed) {
  Cpu& cpu = boot();
  ApicMessage message{.destination = 0, .vector = 0x61, .level = true};
  bus.deliver(message);
  EXPECT_EQ(read(0, 0x1B0), 0x2u) << "TMR";
  cpu.apic.acknowledge();
  write(0, 0xB0, 0);
  EXPECT_EQ(eois, std::vector<std::uint8_t>{0x61});
  write(0, 0xF0, 0x11FF);
  bus.deliver(message);
  cpu.apic.acknowledge();
  write(0, 0xB0, 0);
  EXPECT_EQ(eois.size(), 1u);
}

TEST_F(LocalApicTest, SoftwareDisabledApicTakesNoFixedButTakesNmiInitSipi) {
  Cpu& cpu = add(0);
  EXPECT_FALSE(bus.deliver({.destination = 0, .vector = 0x41}));
  EXPECT_TRUE(bus.deliver({.destination = 0, .mode = DeliveryMode::nmi}));
  EXPECT_TRUE(bus.deliver({.destination = 0, .mode = DeliveryMode::init}));
  EXPECT_TRUE(bus.deliver({.destination = 0, .mode = DeliveryMode::startup, .vector = 0x9A}));
  EXPECT_TRUE(bus.deliver({.destination = 0, .mode = DeliveryMode::smi}));
  EXPECT_EQ(cpu.pins.nmis, 1u);
  EXPECT_EQ(cpu.pins.inits, 1u);
  EXPECT_EQ(cpu.pins.smis, 1u);
  EXPECT_EQ(cpu.pins.startups, std::vector<std::uint8_t>{0x9A});
  write(0, 0x350, 0x700);
  EXPECT_EQ(read(0, 0x350), 0x10700u) << "mask cannot be cleared while software-disabled";
}

TEST_F(LocalApicTest, SoftwareDisableMasksTheLvt) {
  boot();
  write(0, 0x320, 0x20030);
  EXPECT_EQ(read(0, 0x320), 0x20030u);
  write(0, 0xF0, 0xFF);
  EXPECT_EQ(read(0, 0x320), 0x30030u);
}

TEST_F(LocalApicTest, IpiShorthandsAndPhysicalDestination) {
  for (std::uint32_t id = 0; id < 3; ++id) add(id), enable(id);
  write(0, 0x310, 2u << 24);
  write(0, 0x300, 0x4041);
  EXPECT_EQ(read(2, 0x220), 2u);
  EXPECT_EQ(read(1, 0x220), 0u);
  write(0, 0x300, 0x44042);  // self
  EXPECT_EQ(read(0, 0x220), 4u);
  write(0, 0x300, 0x84043);  // all
  for (unsigned cpu = 0; cpu < 3; ++cpu) EXPECT_EQ(read(cpu, 0x220) & 8, 8u);
  write(0, 0x300, 0xC4044);  // others
  EXPECT_EQ(read(0, 0x220) & 0x10, 0u);
  EXPECT_EQ(read(1, 0x220) & 0x10, 0x10u);
  write(0, 0x310, 0xFF000000);
  write(0, 0x300, 0x4045);
  for (unsigned cpu = 0; cpu < 3; ++cpu) EXPECT_EQ(read(cpu, 0x220) & 0x20, 0x20u);
  EXPECT_EQ(read(0, 0x300), 0x4045u) << "delivery status reads idle";
}

TEST_F(LocalApicTest, InitSipiSequenceReachesTheTarget) {
  add(0), add(1);
  write(0, 0x310, 1u << 24);
  write(0, 0x300, 0xC500);  // INIT, level, assert
  write(0, 0x300, 0x8500);  // INIT level de-assert: nothing
  write(0, 0x300, 0x0699);
  EXPECT_EQ(cpus[1]->pins.inits, 1u);
  EXPECT_EQ(cpus[1]->pins.startups, std::vector<std::uint8_t>{0x99});
  EXPECT_EQ(cpus[0]->pins.inits, 0u);
}

TEST_F(LocalApicTest, LogicalFlatAndClusterDestinations) {
  for (std::uint32_t id = 0; id < 3; ++id) add(id), enable(id), write(id, 0xD0, 1u << (24 + id));
  bus.deliver({.destination = 0x5, .logical = true, .vector = 0x41});
  EXPECT_EQ(read(0, 0x220), 2u);
  EXPECT_EQ(read(1, 0x220), 0u);
  EXPECT_EQ(read(2, 0x220), 2u);
  for (unsigned cpu = 0; cpu < 3; ++cpu) write(cpu, 0xE0, 0x0FFFFFFF);
  EXPECT_EQ(read(0, 0xE0), 0x0FFFFFFFu);
  write(0, 0xD0, 0x11000000), write(1, 0xD0, 0x12000000), write(2, 0xD0, 0x21000000);
  bus.deliver({.destination = 0x13, .logical = true, .vector = 0x42});
  EXPECT_EQ(read(0, 0x220) & 4, 4u);
  EXPECT_EQ(read(1, 0x220) & 4, 4u);
  EXPECT_EQ(read(2, 0x220) & 4, 0u);
}

TEST_F(LocalApicTest, LowestPriorityGoesToOneCpuWithTheLowestPpr) {
  for (std::uint32_t id = 0; id < 3; ++id) add(id), enable(id), write(id, 0xD0, 1u << (24 + id));
  write(0, 0x80, 0x20), write(2, 0x80, 0x30);
  EXPECT_TRUE(bus.deliver({.destination = 7, .logical = true, .mode = DeliveryMode::lowest_priority, .vector = 0x41}));
  EXPECT_EQ(read(1, 0x220), 2u);
  EXPECT_EQ(read(0, 0x220) | read(2, 0x220), 0u);
  write(0, 0x80, 0), write(2, 0x80, 0);
  unsigned hits[3] = {};
  for (std::uint8_t vector = 0x60; vector < 0x80; ++vector)
    bus.deliver({.destination = 7, .logical = true, .mode = DeliveryMode::lowest_priority, .vector = vector});
  for (unsigned cpu = 0; cpu < 3; ++cpu) hits[cpu] = static_cast<unsigned>(std::popcount(read(cpu, 0x230)));
  EXPECT_EQ(hits[0] + hits[1] + hits[2], 32u);
  for (unsigned cpu = 0; cpu < 3; ++cpu) EXPECT_GE(hits[cpu], 10u);
  EXPECT_FALSE(bus.deliver({.destination = 8, .logical = true, .mode = DeliveryMode::lowest_priority, .vector = 0x41}));
}

TEST_F(LocalApicTest, IllegalVectorsSetTheErrorStatus) {
  boot();
  write(0, 0x300, 0x400F);
  EXPECT_EQ(read(0, 0x280), 0u) << "shown only after a write";
  write(0, 0x280, 0);
  EXPECT_EQ(read(0, 0x280), 0x20u);
  bus.deliver({.destination = 0, .vector = 0x05});
  write(0, 0x280, 0);
  EXPECT_EQ(read(0, 0x280), 0x40u);
  read(0, 0x40);
  write(0, 0x280, 0);
  EXPECT_EQ(read(0, 0x280), 0x80u);
  write(0, 0x280, 0);
  EXPECT_EQ(read(0, 0x280), 0u);
}

TEST_F(LocalApicTest, ErrorInterruptIsRaisedOnceUntilRearmed) {
  Cpu& cpu = boot();
  write(0, 0x370, 0xFE);
  write(0, 0x300, 0x4001);
  EXPECT_EQ(cpu.apic.acknowledge(), 0xFE);
  write(0, 0xB0, 0);
  write(0, 0x300, 0x4001);
  EXPECT_FALSE(cpu.apic.pending());
  write(0, 0x280, 0);
  write(0, 0x300, 0x4001);
  EXPECT_EQ(cpu.apic.acknowledge(), 0xFE);
}

TEST_F(LocalApicTest, ErrorEntryWithIllegalVectorDoesNotRecurse) {
  boot();
  write(0, 0x370, 0x01);
  write(0, 0x300, 0x4001);
  write(0, 0x280, 0);
  EXPECT_EQ(read(0, 0x280), 0x60u);
}

TEST_F(LocalApicTest, OneShotCountsDownExactlyAndInterruptsOnce) {
  Cpu& cpu = boot();
  write(0, 0x320, 0x41);
  write(0, 0x3E0, 0x3);  // divide by 16
  write(0, 0x380, 1000);
  EXPECT_EQ(read(0, 0x390), 1000u);
  m.clock.advance(15);
  EXPECT_EQ(read(0, 0x390), 1000u);
  m.clock.advance(1);
  EXPECT_EQ(read(0, 0x390), 999u);
  m.clock.advance_to(15'999);
  EXPECT_EQ(read(0, 0x390), 1u);
  EXPECT_FALSE(cpu.apic.pending());
  m.clock.advance(1);
  EXPECT_EQ(read(0, 0x390), 0u);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
  write(0, 0xB0, 0);
  m.clock.advance(1'000'000);
  EXPECT_FALSE(cpu.apic.pending());
  EXPECT_EQ(read(0, 0x380), 1000u);
}

TEST_F(LocalApicTest, DivideConfigurationHasAllEightValues) {
  boot();
  const std::uint32_t codes[8] = {0xB, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xA};
  for (unsigned shift = 0; shift < 8; ++shift) {
    write(0, 0x3E0, codes[shift]);
    write(0, 0x380, 1'000'000);
    m.clock.advance(1280);
    EXPECT_EQ(read(0, 0x390), 1'000'000u - (1280u >> shift)) << shift;
  }
}

TEST_F(LocalApicTest, PeriodicTimerDoesNotDriftAtAnOddFrequency) {
  Cpu& cpu = add(0, 99'999'937);
  enable(0);
  write(0, 0x3E0, 0xB);
  write(0, 0x320, 0x20041);
  write(0, 0x380, 99'999'937 / 100);
  unsigned count = 0;
  for (unsigned ms = 0; ms < 20'000; ++ms) {
    m.clock.advance(1'000'000);
    if (cpu.apic.acknowledge()) ++count, write(0, 0xB0, 0);
  }
  EXPECT_EQ(count, static_cast<unsigned>(20ull * 99'999'937 / (99'999'937 / 100)));
}

/// A host that was stopped: time jumps, and the timer is called once, late.
struct LateClock : core::Clock {
  struct OneTimer : core::Timer {
    explicit OneTimer(std::function<void()> c) : callback(std::move(c)) {}
    void arm(core::VmTime at) override { when = at; }
    void cancel() override { when.reset(); }
    std::optional<core::VmTime> deadline() const override { return when; }
    std::function<void()> callback;
    std::optional<core::VmTime> when;
  };
  core::VmTime now() const override { return time; }
  std::int64_t wall_clock() const override { return 0; }
  std::unique_ptr<core::Timer> make_timer(std::function<void()> callback) override {
    auto made = std::make_unique<OneTimer>(std::move(callback));
    timer = made.get();
    return made;
  }
  void jump_to(core::VmTime at) {
    time = at;
    if (timer->when && *timer->when <= time) {
      timer->when.reset();
      timer->callback();
    }
  }
  core::VmTime time = 0;
  OneTimer* timer = nullptr;
};

TEST(LocalApicTimer, LatePeriodicTimerDeliversOneInterruptAndKeepsItsPhase) {
  LateClock clock;
  husk::testing::FakeCpu pins;
  ApicBus bus;
  LocalApic apic({.pins = pins, .clock = clock, .bus = bus});
  apic.mmio_write(0xF0, 0x1FF, 4);
  apic.mmio_write(0x3E0, 0xB, 4);
  apic.mmio_write(0x320, 0x20041, 4);
  apic.mmio_write(0x380, 100'000, 4);
  clock.jump_to(350'000);
  EXPECT_EQ(apic.acknowledge(), 0x41);
  apic.mmio_write(0xB0, 0, 4);
  EXPECT_EQ(apic.mmio_read(0x390, 4), 50'000u);
  EXPECT_EQ(clock.timer->when, 400'000u) << "three periods were lost, the fourth comes in time";
  clock.jump_to(350'001);
  EXPECT_EQ(apic.acknowledge(), std::nullopt);
}

TEST_F(LocalApicTest, TinyPeriodDoesNotFloodTheHost) {
  boot();
  write(0, 0x3E0, 0xB);
  write(0, 0x320, 0x20041);
  write(0, 0x380, 1);
  m.clock.advance(1);
  EXPECT_GE(m.clock.next_deadline(), 20'000u);
}

TEST_F(LocalApicTest, ChangingBetweenOneShotAndPeriodicKeepsCounting) {
  boot();
  write(0, 0x3E0, 0xB);
  write(0, 0x320, 0x41);
  write(0, 0x380, 1000);
  m.clock.advance(600);
  write(0, 0x320, 0x20041);
  EXPECT_EQ(read(0, 0x390), 400u);
  m.clock.advance(500);
  EXPECT_EQ(read(0, 0x390), 900u);
  write(0, 0x320, 0x41);
  m.clock.advance(5000);
  EXPECT_EQ(read(0, 0x390), 0u);
  write(0, 0x320, 0x20041);
  EXPECT_EQ(read(0, 0x390), 0u) << "an expired count stays at zero until written";
}

TEST_F(LocalApicTest, MaskedTimerCountsWithoutInterrupt) {
  Cpu& cpu = boot();
  write(0, 0x320, 0x10041);
  write(0, 0x3E0, 0xB);
  write(0, 0x380, 100);
  m.clock.advance(200);
  EXPECT_FALSE(cpu.apic.pending());
  EXPECT_EQ(read(0, 0x390), 0u);
}

TEST_F(LocalApicTest, TscDeadlineFiresAtItsTscAndReadsZeroAfter) {
  Cpu& cpu = boot();
  EXPECT_TRUE(cpu.apic.write_msr(0x6E0, 5000));
  EXPECT_EQ(cpu.apic.read_msr(0x6E0), 0u) << "ignored outside TSC-deadline mode";
  write(0, 0x320, 0x40041);
  write(0, 0x380, 1000);
  EXPECT_EQ(read(0, 0x380), 0u) << "initial count is ignored in this mode";
  EXPECT_TRUE(cpu.apic.write_msr(0x6E0, 5001));
  EXPECT_EQ(cpu.apic.read_msr(0x6E0), 5001u);
  m.clock.advance(2500);
  EXPECT_FALSE(cpu.apic.pending());
  m.clock.advance(1);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
  EXPECT_EQ(cpu.apic.read_msr(0x6E0), 0u);
  write(0, 0xB0, 0);
  cpu.apic.write_msr(0x6E0, 1);
  m.clock.advance(0);
  EXPECT_TRUE(cpu.apic.pending()) << "a deadline in the past fires at once";
  cpu.apic.acknowledge();
  cpu.apic.write_msr(0x6E0, 1'000'000);
  cpu.apic.write_msr(0x6E0, 0);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
  cpu.apic.write_msr(0x6E0, 1'000'000);
  write(0, 0x320, 0x41);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt) << "changing the mode disarms";
}

// SDM vol. 3, 11.5.4.1: the deadline is an absolute value of the CPU's own time-stamp counter.
TEST_F(LocalApicTest, TscDeadlineFollowsTheCpusOwnOffset) {
  Cpu& cpu = boot();
  write(0, 0x320, 0x40041);
  m.clock.advance(1000);
  cpu.apic.tsc_offset_changed(1000);
  EXPECT_TRUE(cpu.apic.write_msr(0x6E0, 5000));
  EXPECT_EQ(m.clock.next_deadline(), 2000u) << "2000 ticks of 2 GHz";
  cpu.apic.tsc_offset_changed(std::uint64_t{0} - 1000);
  EXPECT_EQ(m.clock.next_deadline(), 3000u);
  m.clock.advance(1999);
  EXPECT_FALSE(cpu.apic.pending());
  m.clock.advance(1);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
}

TEST_F(LocalApicTest, ExtIntFollowsLint0AndTakesTheVectorOfThe8259) {
  Cpu& cpu = boot();
  write(0, 0x350, 0x10700);
  cpu.apic.set_pin(0, true);
  EXPECT_FALSE(cpu.apic.pending());
  write(0, 0x350, 0x700);
  EXPECT_TRUE(cpu.apic.pending());
  cpu.apic.set_task_priority(15);
  EXPECT_TRUE(cpu.apic.pending()) << "not subject to priority";
  EXPECT_EQ(cpu.apic.acknowledge(), 0x30);
  EXPECT_EQ(read(0, 0x110), 0u) << "ISR does not know it";
  cpu.apic.set_pin(0, false);
  EXPECT_FALSE(cpu.apic.pending());
  bus.deliver({.destination = 0, .mode = DeliveryMode::ext_int});
  EXPECT_EQ(cpu.apic.acknowledge(), 0x30);
  EXPECT_FALSE(cpu.apic.pending());
}

TEST_F(LocalApicTest, GloballyDisabledApicMakesTheLintPinsIntrAndNmi) {
  Cpu& cpu = boot();
  ASSERT_TRUE(cpu.apic.set_apic_base(0xFEE00100));
  EXPECT_EQ(read(0, 0x20), 0xFFFFFFFFu);
  cpu.apic.set_pin(0, true);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x30);
  cpu.apic.set_pin(1, true);
  EXPECT_EQ(cpu.pins.nmis, 1u);
  EXPECT_FALSE(bus.deliver({.destination = 0, .mode = DeliveryMode::nmi}));
}

TEST_F(LocalApicTest, Lint1AsNmiActsOnTheEdge) {
  Cpu& cpu = boot();
  write(0, 0x360, 0x400);
  cpu.apic.set_pin(1, true);
  cpu.apic.set_pin(1, true);
  EXPECT_EQ(cpu.pins.nmis, 1u);
  write(0, 0x360, 0x10400);
  cpu.apic.set_pin(1, false);
  cpu.apic.set_pin(1, true);
  EXPECT_EQ(cpu.pins.nmis, 1u);
}

TEST_F(LocalApicTest, LevelLint0HasRemoteIrrUntilEoi) {
  Cpu& cpu = boot();
  write(0, 0x350, 0x8041);
  cpu.apic.set_pin(0, true);
  EXPECT_EQ(read(0, 0x350), 0xC041u);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41);
  write(0, 0xB0, 0);
  EXPECT_EQ(cpu.apic.acknowledge(), 0x41) << "still asserted";
  cpu.apic.set_pin(0, false);
  write(0, 0xB0, 0);
  EXPECT_FALSE(cpu.apic.pending());
  EXPECT_EQ(read(0, 0x350), 0x8041u);
}

TEST_F(LocalApicTest, PerformanceInterruptMasksItself) {
  Cpu& cpu = boot();
  write(0, 0x340, 0x400);
  cpu.apic.signal(Lvt::performance);
  cpu.apic.signal(Lvt::performance);
  EXPECT_EQ(cpu.pins.nmis, 1u);
  EXPECT_EQ(read(0, 0x340), 0x10400u);
}

TEST_F(LocalApicTest, ApicBaseTransitionsFollowFigure11_27) {
  LocalApic& apic = add(0).apic;
  EXPECT_TRUE(apic.set_apic_base(0xFEE00D00)) << "xAPIC to x2APIC";
  EXPECT_FALSE(apic.set_apic_base(0xFEE00900)) << "x2APIC to xAPIC";
  EXPECT_FALSE(apic.set_apic_base(0xFEE00500)) << "EXTD without EN";
  EXPECT_TRUE(apic.set_apic_base(0xFEE00100)) << "x2APIC to disabled";
  EXPECT_FALSE(apic.set_apic_base(0xFEE00D00)) << "disabled to x2APIC";
  EXPECT_TRUE(apic.set_apic_base(0xFEE00900)) << "disabled to xAPIC";
  EXPECT_FALSE(apic.set_apic_base(0xFEE00901)) << "reserved bit";
  EXPECT_FALSE(apic.set_apic_base(0x8000'FEE00900)) << "beyond MAXPHYADDR";
  EXPECT_EQ(apic.apic_base(), 0xFEE00900u);
}

TEST_F(LocalApicTest, RelocatedPageAnswersAtItsNewBase) {
  boot();
  ASSERT_TRUE(cpus[0]->apic.set_apic_base(0x42000900));
  EXPECT_EQ(read(0, 0x20), 0xFFFFFFFFu);
  EXPECT_EQ(m.memory_space.read(m.kCpu, 0x42000030, 4) & 0xFF, 0x14u);
  m.memory_space.write(m.kCpu, 0x42000080, 0x70, 4);
  EXPECT_EQ(m.memory_space.read(m.kCpu, 0x42000080, 4), 0x70u);
  ASSERT_TRUE(cpus[0]->apic.set_apic_base(0xFEE00900));
  EXPECT_EQ(read(0, 0x80), 0x70u);
  EXPECT_EQ(m.memory_space.find(0x42000000).handler, nullptr);
}

TEST_F(LocalApicTest, X2apicRegistersAreMsrsAndThePageIsGone) {
  LocalApic& apic = add(0x123).apic;
  EXPECT_EQ(apic.read_msr(0x802), std::nullopt) << "not in x2APIC mode";
  enter_x2apic(0);
  EXPECT_EQ(read(0, 0x30), 0xFFFFFFFFu);
  EXPECT_EQ(apic.read_msr(0x802), 0x123u);
  EXPECT_EQ(apic.read_msr(0x80D), 0x00120008u);
  EXPECT_TRUE(apic.write_msr(0x80F, 0x1FF));
  EXPECT_TRUE(apic.write_msr(0x83F, 0x41));
  EXPECT_EQ(apic.read_msr(0x822), 2u);
  EXPECT_EQ(apic.acknowledge(), 0x41);
  EXPECT_TRUE(apic.write_msr(0x80B, 0));
  EXPECT_EQ(apic.read_msr(0x812), 0u);
}

TEST_F(LocalApicTest, X2apicReservedAccessesFault) {
  LocalApic& apic = add(0).apic;
  enter_x2apic(0);
  for (const std::uint32_t msr : {0x800u, 0x809u, 0x80Bu, 0x80Cu, 0x80Eu, 0x831u, 0x83Fu, 0x840u, 0x8FFu})
    EXPECT_EQ(apic.read_msr(msr), std::nullopt) << std::hex << msr;
  for (const std::uint32_t msr : {0x802u, 0x803u, 0x80Au, 0x80Du, 0x80Eu, 0x810u, 0x820u, 0x831u, 0x839u})
    EXPECT_FALSE(apic.write_msr(msr, 0)) << std::hex << msr;
  EXPECT_FALSE(apic.write_msr(0x80B, 1));
  EXPECT_FALSE(apic.write_msr(0x828, 1));
  EXPECT_FALSE(apic.write_msr(0x808, 0x100));
  EXPECT_FALSE(apic.write_msr(0x80F, 0x10000));
  EXPECT_FALSE(apic.write_msr(0x832, 0x80041));
  EXPECT_FALSE(apic.write_msr(0x838, 0x1'00000000));
  EXPECT_FALSE(apic.write_msr(0x830, 0x100000));
  EXPECT_TRUE(apic.write_msr(0x828, 0));
}

TEST_F(LocalApicTest, X2apicIpisUse32BitDestinations) {
  for (const std::uint32_t id : {0u, 0x21u, 0x22u, 0x131u}) add(id);
  for (unsigned cpu = 0; cpu < 4; ++cpu) enter_x2apic(cpu), cpus[cpu]->apic.write_msr(0x80F, 0x1FF);
  LocalApic& apic = cpus[0]->apic;
  apic.write_msr(0x830, 0x00000131'00000041);
  EXPECT_TRUE(cpus[3]->apic.pending());
  apic.write_msr(0x830, 0x00020006'00000842);  // logical: cluster 2, members 1 and 2
  EXPECT_EQ(cpus[1]->apic.acknowledge(), 0x42);
  EXPECT_EQ(cpus[2]->apic.acknowledge(), 0x42);
  EXPECT_FALSE(cpus[0]->apic.pending());
  apic.write_msr(0x830, 0xFFFFFFFF'00000051);
  for (auto& cpu : cpus) EXPECT_EQ(cpu->apic.acknowledge(), 0x51);
  EXPECT_EQ(apic.read_msr(0x830), 0xFFFFFFFF'00000051u);
}

TEST_F(LocalApicTest, DeviceWritesToTheWindowAreMsis) {
  add(0), add(5);
  enable(1);
  m.memory_space.write(mem::Requester::device(0x18), 0xFEE05000, 0x0042, 4);
  EXPECT_EQ(cpus[1]->apic.acknowledge(), 0x42);
  m.memory_space.write(mem::Requester::device(0x18), 0xFEEFF000, 0x0462, 4);
  EXPECT_EQ(cpus[0]->pins.nmis, 1u);
  EXPECT_EQ(cpus[1]->pins.nmis, 1u);
}

TEST_F(LocalApicTest, CpuInitKeepsTheModeAndForgetsTheRest) {
  Cpu& cpu = boot();
  enter_x2apic(0);
  cpu.apic.write_msr(0x832, 0x20041);
  cpu.apic.write_msr(0x838, 1000);
  bus.deliver({.destination = 0, .vector = 0x41});
  cpu.apic.cpu_init();
  EXPECT_FALSE(cpu.apic.pending());
  EXPECT_EQ(cpu.apic.apic_base(), 0xFEE00D00u);
  EXPECT_EQ(cpu.apic.read_msr(0x832), 0x10000u);
  EXPECT_EQ(m.clock.next_deadline(), std::nullopt);
}

TEST_F(LocalApicTest, InterruptsFromManyThreadsAreAllSeen) {
  struct CountingCpu : core::CpuPins {
    void interrupt_changed() override { changed.store(true); }
    void nmi() override {}
    void smi() override {}
    void init() override {}
    void startup(std::uint8_t) override {}
    std::atomic<bool> changed{false};
  } pins;
  LocalApic apic({.index = 0, .id = 0, .pins = pins, .clock = m.clock, .bus = bus});
  enable(0);
  constexpr unsigned kThreads = 4;
  std::atomic<unsigned> running{kThreads};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (unsigned n = 0; n < 48; ++n)
        bus.deliver({.destination = 0, .vector = static_cast<std::uint8_t>(0x40 + t * 48 + n)});
      --running;
    });
  std::array<unsigned, 256> seen{};
  while (running.load() || apic.pending()) {
    if (const auto vector = apic.acknowledge()) {
      ++seen[*vector];
      apic.mmio_write(0xB0, 0, 4);
    }
  }
  for (auto& thread : threads) thread.join();
  while (const auto vector = apic.acknowledge()) ++seen[*vector], apic.mmio_write(0xB0, 0, 4);
  for (unsigned vector = 0x40; vector < 0x100; ++vector) EXPECT_EQ(seen[vector], 1u) << vector;
}

TEST(LocalApicState, PassesTheStateChecks) {
  husk::testing::TestMachine m;
  std::vector<std::unique_ptr<ApicBus>> buses;
  husk::testing::FakeCpu pins;
  m.clock.advance(12345);
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        buses.push_back(std::make_unique<ApicBus>());
        return std::make_unique<LocalApic>(LocalApic::Deps{.pins = pins,
                                                           .clock = m.clock,
                                                           .bus = *buses.back(),
                                                           .read_tsc = [&m] { return m.clock.now(); },
                                                           .tsc_hertz = 1'000'000'000});
      },
      [&](core::Device& device) {
        auto& apic = dynamic_cast<LocalApic&>(device);
        apic.mmio_write(0xF0, 0x1FF, 4);
        apic.mmio_write(0x320, 0x20041, 4);
        apic.mmio_write(0x380, 100'000, 4);
        apic.mmio_write(0x350, 0x700, 4);
        apic.mmio_write(0x300, 0x44099, 4);
        apic.acknowledge();
        apic.set_pin(0, true);
      });
}

TEST(LocalApicState, RunningTimerGoesOnAfterLoad) {
  husk::testing::TestMachine m;
  ApicBus one, two;
  husk::testing::FakeCpu pins;
  LocalApic from({.pins = pins, .clock = m.clock, .bus = one});
  from.mmio_write(0xF0, 0x1FF, 4);
  from.mmio_write(0x3E0, 0xB, 4);
  from.mmio_write(0x320, 0x20041, 4);
  from.mmio_write(0x380, 1'000'000, 4);
  m.clock.advance(1'250'000);
  LocalApic to({.pins = pins, .clock = m.clock, .bus = two});
  ASSERT_TRUE(husk::testing::load_state(to, husk::testing::saved_state(from)));
  EXPECT_EQ(to.mmio_read(0x390, 4), 750'000u);
  EXPECT_EQ(to.acknowledge(), 0x41) << "what had been pending";
  to.mmio_write(0xB0, 0, 4);
  m.clock.advance(749'999);
  EXPECT_FALSE(to.pending());
  m.clock.advance(1);
  EXPECT_EQ(to.acknowledge(), 0x41);
}

}  // namespace
}  // namespace husk::devices
