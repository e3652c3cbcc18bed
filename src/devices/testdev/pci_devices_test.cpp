// husk: tests of edu and pci-testdev against QEMU's docs/specs/edu.rst and pci-testdev.rst
#include <gtest/gtest.h>

#include <numeric>

#include "devices/pci/host.h"
#include "devices/testdev/edu.h"
#include "devices/testdev/pci_testdev.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

using husk::testing::TestMachine;

constexpr mem::Gpa kBar = 0xFE000000;
constexpr std::uint16_t kPorts = 0xC000;
constexpr std::uint8_t kPlace = pci::devfn(3, 0);

/// A bus with the configuration mechanism, as firmware leaves it for device 3.
struct PciBus : ::testing::Test {
  std::uint32_t config(unsigned offset, unsigned size = 4) { return bus.read_config(kPlace, offset, size); }
  void set_config(unsigned offset, std::uint32_t value, unsigned size = 4) {
    bus.write_config(kPlace, offset, value, size);
  }
  TestMachine machine;
  pci::Bus bus{0, [this](unsigned device, unsigned pin) { return machine.lines.line(device * 4 + pin); }};
};

struct EduTest : PciBus {
  EduTest() { place(*device); }
  std::unique_ptr<Edu> make(std::uint64_t mask = (1 << 28) - 1) {
    return Edu::create({machine.memory_space, nullptr, machine.clock, machine.msi, bus, machine.log},
                       {.devfn = kPlace, .dma_mask = mask})
        .value();
  }
  void place(Edu&) {
    set_config(pci::kBar0, kBar);
    set_config(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster, 2);
  }
  std::uint64_t get(std::uint64_t at, unsigned size = 4) { return machine.mmio_read(kBar + at, size); }
  void set(std::uint64_t at, std::uint64_t value, unsigned size = 4) { machine.mmio_write(kBar + at, value, size); }
  bool wire() const { return machine.lines.level(3 * 4); }
  /// A transfer, all of it.
  void transfer(std::uint64_t source, std::uint64_t destination, std::uint64_t count, std::uint64_t command) {
    set(Edu::kDmaSource, source, 8);
    set(Edu::kDmaDestination, destination, 8);
    set(Edu::kDmaCount, count, 8);
    set(Edu::kDmaCommand, command, 8);
    EXPECT_EQ(get(Edu::kDmaCommand, 8), command);
    machine.clock.advance(Edu::kTransferTime);
    EXPECT_EQ(get(Edu::kDmaCommand, 8), command & ~std::uint64_t{1});
  }
  unsigned msi_capability() { return config(pci::kCapabilityPointer, 1); }
  void enable_msi() {
    const unsigned at = msi_capability();
    set_config(at + 4, 0xFEE00000);
    set_config(at + 12, 0x41, 2);
    set_config(at + 2, config(at + 2, 2) | 1, 2);
  }
  std::unique_ptr<Edu> device = make();
};

TEST_F(EduTest, IdentifiesItself) {
  EXPECT_EQ(config(0), 0x11E81234u);
  EXPECT_EQ(config(pci::kRevision), 0x00FF0010u);
  EXPECT_EQ(get(Edu::kIdentification) & 0xFFFF, 0x00EDu);
  set_config(pci::kBar0, 0xFFFFFFFF);
  EXPECT_EQ(config(pci::kBar0), 0xFFF00000u) << "one megabyte of memory";
  EXPECT_EQ(config(msi_capability(), 1), 5u);
}

TEST_F(EduTest, LivenessIsTheInverse) {
  set(Edu::kLiveness, 0x12345678);
  EXPECT_EQ(get(Edu::kLiveness), 0xEDCBA987u);
}

TEST_F(EduTest, OtherWidthsThanTheAllowedDoNothing) {
  set(Edu::kLiveness, 0);
  for (const unsigned size : {1u, 2u, 8u}) set(Edu::kLiveness, 0x5A, size);
  EXPECT_EQ(get(Edu::kLiveness), 0xFFFFFFFFu);
  EXPECT_EQ(get(Edu::kIdentification, 2), 0xFFFFu);
  EXPECT_EQ(get(Edu::kIdentification, 8), ~std::uint64_t{0});
  set(Edu::kDmaSource, 0x1'2345'6789, 8);
  set(Edu::kDmaSource, 0xAA, 2);
  EXPECT_EQ(get(Edu::kDmaSource, 8), 0x1'2345'6789u);
  set(Edu::kDmaSource, 0x1234, 4);
  EXPECT_EQ(get(Edu::kDmaSource, 8), 0x1234u);
}

TEST_F(EduTest, FactorialIsThereWhenTheStatusSaysSo) {
  const std::pair<std::uint32_t, std::uint32_t> known[] = {
      {0, 1}, {1, 1}, {5, 120}, {12, 479001600}, {13, 1932053504}, {33, 2147483648}, {34, 0}, {0xFFFFFFFF, 0}};
  for (const auto& [n, result] : known) {
    set(Edu::kFactorial, n);
    EXPECT_EQ(get(Edu::kStatus), 1u);
    set(Edu::kFactorial, 3);  // not taken
    machine.clock.advance(Edu::kComputeTime);
    EXPECT_EQ(get(Edu::kStatus), 0u);
    EXPECT_EQ(get(Edu::kFactorial), result) << n;
  }
  EXPECT_EQ(get(Edu::kInterruptStatus), 0u);
}

TEST_F(EduTest, FactorialInterruptsIfItShall) {
  set(Edu::kStatus, 0xFF);
  EXPECT_EQ(get(Edu::kStatus), 0x80u) << "the computing bit is read only";
  set(Edu::kFactorial, 4);
  EXPECT_FALSE(wire());
  machine.clock.advance(Edu::kComputeTime);
  EXPECT_TRUE(wire());
  EXPECT_EQ(get(Edu::kInterruptStatus), 1u);
  set(Edu::kInterruptAcknowledge, 1);
  EXPECT_FALSE(wire());
}

TEST_F(EduTest, InterruptStaysUntilEveryCauseIsAcknowledged) {
  set(Edu::kInterruptRaise, 0x30);
  set(Edu::kInterruptRaise, 0x04);
  EXPECT_EQ(get(Edu::kInterruptStatus), 0x34u);
  EXPECT_EQ(config(pci::kStatus, 2) & pci::kStatusInterrupt, pci::kStatusInterrupt);
  set(Edu::kInterruptAcknowledge, 0x14);
  EXPECT_TRUE(wire());
  EXPECT_EQ(get(Edu::kInterruptStatus), 0x20u);
  set(Edu::kInterruptAcknowledge, 0x20);
  EXPECT_FALSE(wire());
  set(Edu::kInterruptRaise, 0);
  EXPECT_FALSE(wire());
}

TEST_F(EduTest, WithMsiEachCauseIsAMessageAndTheWireRests) {
  set(Edu::kInterruptRaise, 1);
  EXPECT_TRUE(wire());
  enable_msi();
  EXPECT_FALSE(wire());
  set(Edu::kInterruptRaise, 2);
  set(Edu::kInterruptRaise, 2);
  ASSERT_EQ(machine.msi.sent.size(), 2u);
  EXPECT_EQ(machine.msi.sent[0].first, kPlace);
  EXPECT_EQ(machine.msi.sent[0].second.address, 0xFEE00000u);
  EXPECT_EQ(machine.msi.sent[0].second.data, 0x41u);
  EXPECT_FALSE(wire());
}

TEST_F(EduTest, DmaGoesThroughTheBuffer) {
  std::vector<std::uint8_t> bytes(100), back(100);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{1});
  ASSERT_TRUE(machine.memory.write(0x2000, bytes));
  transfer(0x2000, Edu::kBufferAt + 0xF9C, 100, 1);
  EXPECT_EQ(get(Edu::kInterruptStatus), 0u);
  transfer(Edu::kBufferAt + 0xF9C, 0x3000, 100, 7);
  EXPECT_EQ(get(Edu::kInterruptStatus), 0x100u);
  EXPECT_TRUE(wire());
  ASSERT_TRUE(machine.memory.read(0x3000, back));
  EXPECT_EQ(back, bytes);
}

TEST_F(EduTest, RegistersOfATransferUnderWayStay) {
  set(Edu::kDmaCount, 16, 8);
  set(Edu::kDmaCommand, 3, 8);
  set(Edu::kDmaCount, 17, 8);
  set(Edu::kDmaCommand, 5, 8);
  EXPECT_EQ(get(Edu::kDmaCount, 8), 16u);
  EXPECT_EQ(get(Edu::kDmaCommand, 8), 3u);
  device->reset(core::ResetKind::warm);
  machine.clock.advance(2 * Edu::kTransferTime);
  place(*device);
  EXPECT_EQ(get(Edu::kDmaCommand, 8), 0u);
}

TEST_F(EduTest, DmaNeverLeavesItsBufferOrRam) {
  ASSERT_TRUE(machine.memory.fill(0, 0x11, 0x10000));
  transfer(0x0, Edu::kBufferAt, 4096, 1);
  const std::pair<std::uint64_t, std::uint64_t> bad[] = {
      {Edu::kBufferAt + 1, 4096}, {Edu::kBufferAt - 1, 2},    {0, 1},       {Edu::kBufferAt, ~std::uint64_t{0}},
      {~std::uint64_t{0}, 2},     {Edu::kBufferAt + 4096, 1}, {0x100000, 1}};
  for (const auto& [own, count] : bad) {
    transfer(own, 0x8000, count, 3);
    transfer(0x8000, own, count, 1);
  }
  std::vector<std::uint8_t> ram(0x8000);
  ASSERT_TRUE(machine.memory.read(0x8000, ram));
  EXPECT_EQ(ram, std::vector<std::uint8_t>(0x8000, 0x11));
  transfer(Edu::kBufferAt, 0xFFFFFFF, 4096, 7);  // no RAM there
  EXPECT_EQ(get(Edu::kInterruptStatus), 0x100u) << "it ends nevertheless";
}

TEST_F(EduTest, DmaNeedsBusMastering) {
  set_config(pci::kCommand, pci::kCommandMemory, 2);
  ASSERT_TRUE(machine.memory.fill(0x2000, 0x22, 16));
  transfer(Edu::kBufferAt, 0x2000, 16, 3);
  EXPECT_EQ(machine.memory.load<std::uint64_t>(0x2000).value(), 0x2222222222222222u);
}

TEST_F(EduTest, DmaAddressesAreCutToTheMask) {
  device.reset();
  device = make(0xFFFF);
  place(*device);
  ASSERT_TRUE(machine.memory.fill(0x2000, 0x33, 16));
  transfer(0x70002000, Edu::kBufferAt, 16, 1);
  transfer(Edu::kBufferAt, 0xFFFFFFFF'00014000, 16, 3);
  EXPECT_EQ(machine.memory.load<std::uint64_t>(0x4000).value(), 0x3333333333333333u);
}

TEST_F(EduTest, WhatIsUnderWayGoesOnInALoadedDevice) {
  set(Edu::kStatus, 0x80);
  set(Edu::kFactorial, 5);
  ASSERT_TRUE(machine.memory.fill(0x2000, 0x44, 8));
  set(Edu::kDmaSource, 0x2000, 8);
  set(Edu::kDmaDestination, Edu::kBufferAt, 8);
  set(Edu::kDmaCount, 8, 8);
  set(Edu::kDmaCommand, 5, 8);
  const auto saved = husk::testing::saved_state(*device);
  device.reset();
  device = make();
  ASSERT_TRUE(husk::testing::load_state(*device, saved));
  EXPECT_FALSE(wire());
  machine.clock.advance(Edu::kTransferTime);
  EXPECT_EQ(get(Edu::kFactorial), 120u);
  EXPECT_EQ(get(Edu::kInterruptStatus), 0x101u);
  EXPECT_TRUE(wire());
}

struct PciTestdevTest : PciBus {
  PciTestdevTest() {
    set_config(pci::kBar0, kBar);
    set_config(pci::kBar0 + 4, kPorts);
    set_config(pci::kCommand, pci::kCommandMemory | pci::kCommandIo, 2);
  }
  std::unique_ptr<PciTestdev> make(std::uint64_t size) {
    return PciTestdev::create({machine.memory_space, machine.io_space, nullptr, bus},
                              {.devfn = kPlace, .memory_bar = size})
        .value();
  }
  std::unique_ptr<PciTestdev> device = make(0);
};

/// As a guest goes through the tests of a BAR: choose, read the header, write, read the count.
template <class Read, class Write>
std::vector<std::string> run_tests(Read read, Write write) {
  std::vector<std::string> names;
  for (std::uint8_t test = 0; test < 100; ++test) {
    write(0, test);
    if (read(1, 1) != 1) return names;
    std::string name;
    for (unsigned at = 16; const auto letter = static_cast<char>(read(at, 1)); ++at) name += letter;
    const auto offset = static_cast<std::uint32_t>(read(4, 4));
    const auto data = static_cast<std::uint8_t>(read(8, 4));
    EXPECT_EQ(read(12, 4), 0u);
    for (unsigned i = 0; i < 16; ++i) write(offset, data);
    EXPECT_EQ(read(12, 4), 16u) << name;
    write(offset, static_cast<std::uint8_t>(~data));
    EXPECT_EQ(read(12, 4), name.find("wildcard") != std::string::npos ? 17u : 16u) << name;
    names.push_back(name);
  }
  return names;
}

TEST_F(PciTestdevTest, GuestsFindItsTestsInBothBars) {
  EXPECT_EQ(config(0), 0x00051B36u);
  EXPECT_EQ(config(pci::kInterruptPin, 1), 0u);
  EXPECT_EQ(run_tests([&](unsigned at, unsigned size) { return machine.mmio_read(kBar + at, size); },
                      [&](unsigned at, std::uint8_t value) { machine.mmio_write(kBar + at, value, 1); }),
            (std::vector<std::string>{"mmio-no-eventfd", "mmio-wildcard-eventfd", "mmio-datamatch-eventfd"}));
  EXPECT_EQ(
      run_tests([&](unsigned at, unsigned size) { return machine.io_space.read(TestMachine::kCpu, kPorts + at, size); },
                [&](unsigned at, std::uint8_t value) { machine.out8(static_cast<std::uint16_t>(kPorts + at), value); }),
      (std::vector<std::string>{"portio-no-eventfd", "portio-wildcard-eventfd", "portio-datamatch-eventfd"}));
}

TEST_F(PciTestdevTest, WithoutATestAllIsZeroAndWritesDoNothing) {
  machine.mmio_write(kBar + 2048, 0xFA, 1);
  EXPECT_EQ(machine.mmio_read(kBar, 8), 0u);
  machine.mmio_write(kBar, 1, 1);
  EXPECT_NE(machine.mmio_read(kBar, 8), 0u);
  device->reset(core::ResetKind::warm);
  set_config(pci::kBar0, kBar);
  set_config(pci::kCommand, pci::kCommandMemory, 2);
  EXPECT_EQ(machine.mmio_read(kBar, 8), 0u);
}

TEST_F(PciTestdevTest, MemoryBarHasTheSizeAskedFor) {
  set_config(pci::kBar0 + 8, 0xFFFFFFFF);
  EXPECT_EQ(config(pci::kBar0 + 8), 0u);
  for (const std::uint64_t size : {std::uint64_t{16}, std::uint64_t{1} << 32, std::uint64_t{1} << 45}) {
    device.reset();
    device = make(size);
    set_config(pci::kBar0 + 8, 0xFFFFFFFF);
    set_config(pci::kBar0 + 12, 0xFFFFFFFF);
    const std::uint64_t read = config(pci::kBar0 + 8) | std::uint64_t{config(pci::kBar0 + 12)} << 32;
    EXPECT_EQ(read & 15, 12u) << "64-bit and prefetchable";
    EXPECT_EQ(~(read & ~std::uint64_t{15}) + 1, size);
  }
  EXPECT_FALSE(PciTestdev::create({machine.memory_space, machine.io_space, nullptr, bus}, {.memory_bar = 3000}));
  EXPECT_FALSE(PciTestdev::create({machine.memory_space, machine.io_space, nullptr, bus}, {.memory_bar = 8}));
}

}  // namespace
}  // namespace husk::devices
