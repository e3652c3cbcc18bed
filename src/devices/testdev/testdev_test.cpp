// husk: tests of the test devices against the behaviour of QEMU's devices of the same names
#include <gtest/gtest.h>

#include "devices/testdev/isa_debug_exit.h"
#include "devices/testdev/isa_debugcon.h"
#include "devices/testdev/pc_testdev.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

using Shutdown = core::MachineControl::Shutdown;
using husk::testing::FakeChar;
using husk::testing::TestMachine;

TEST(IsaDebugExit, StatusIsTwiceTheValuePlusOne) {
  TestMachine machine;
  const auto device = IsaDebugExit::create({.io = machine.io_space, .control = machine.control},
                                           {.id = "isa_debug_exit", .base = 0xF4, .size = 4})
                          .value();
  machine.out8(0xF4, 0);
  machine.out32(0xF4, 0x10);
  machine.out16(0xF6, 0x31);
  const std::vector<std::pair<Shutdown, int>> expected{
      {Shutdown::debug_exit, 1}, {Shutdown::debug_exit, 0x21}, {Shutdown::debug_exit, 0x63}};
  EXPECT_EQ(machine.control.shutdowns, expected);
  EXPECT_EQ(machine.in32(0xF4), 0u);
}

TEST(IsaDebugExit, DefaultIs501hWithTwoPorts) {
  TestMachine machine;
  const auto device = IsaDebugExit::create({.io = machine.io_space, .control = machine.control}, {}).value();
  machine.out8(0x503, 1);
  EXPECT_TRUE(machine.control.shutdowns.empty());
  machine.out8(0x502, 1);
  EXPECT_EQ(machine.control.shutdowns.size(), 1u);
}

TEST(IsaDebugExit, RefusesOddSizesAndPortsBeyondTheSpace) {
  TestMachine machine;
  EXPECT_FALSE(IsaDebugExit::create({.io = machine.io_space, .control = machine.control}, {.size = 3}));
  EXPECT_FALSE(IsaDebugExit::create({.io = machine.io_space, .control = machine.control}, {.base = 0xFFFF, .size = 2}));
}

TEST(IsaDebugcon, WritesToTheHostAndReadsItsMark) {
  TestMachine machine;
  FakeChar host;
  const auto device = IsaDebugcon::create({.io = machine.io_space, .backend = &host}, {}).value();
  EXPECT_EQ(machine.in8(0xE9), 0xE9);
  for (const char c : std::string("hi\n")) machine.out8(0xE9, static_cast<std::uint8_t>(c));
  EXPECT_EQ(host.output, "hi\n");
}

TEST(IsaDebugcon, KeepsInOrderWhatTheHostDoesNotTake) {
  TestMachine machine;
  FakeChar host;
  const auto device = IsaDebugcon::create({.io = machine.io_space, .backend = &host}, {}).value();
  host.room = 1;
  for (const char c : std::string("abcd")) machine.out8(0xE9, static_cast<std::uint8_t>(c));
  EXPECT_EQ(host.output, "a");
  host.make_writable(2);
  EXPECT_EQ(host.output, "abc");
  host.make_writable(FakeChar::kUnlimited);
  EXPECT_EQ(host.output, "abcd");
}

TEST(IsaDebugcon, BoundsWhatItKeeps) {
  TestMachine machine;
  FakeChar host;
  const auto device = IsaDebugcon::create({.io = machine.io_space, .backend = &host}, {}).value();
  host.room = 0;
  for (std::size_t i = 0; i < IsaDebugcon::kMostPending + 100; ++i) machine.out8(0xE9, 'x');
  host.make_writable(FakeChar::kUnlimited);
  EXPECT_EQ(host.output.size(), IsaDebugcon::kMostPending);
}

struct PcTestdevTest : ::testing::Test {
  std::unique_ptr<PcTestdev> make() {
    PcTestdev::Deps deps{.memory = machine.memory_space, .io = machine.io_space, .domain = nullptr, .lines = {}};
    for (unsigned i = 0; i < PcTestdev::kLines; ++i) deps.lines[i] = machine.lines.line(i);
    return PcTestdev::create(std::move(deps)).value();
  }
  TestMachine machine;
  std::unique_ptr<PcTestdev> device = make();
};

TEST_F(PcTestdevTest, LatchReadsBackByEveryWidth) {
  machine.out32(0xE0, 0x12345678);
  EXPECT_EQ(machine.in32(0xE0), 0x12345678u);
  EXPECT_EQ(machine.in16(0xE0), 0x5678);
  EXPECT_EQ(machine.in16(0xE2), 0x1234);
  EXPECT_EQ(machine.in8(0xE1), 0x56);
  machine.out8(0xE3, 0xAB);
  machine.out16(0xE1, 0xCDEF);
  EXPECT_EQ(machine.in32(0xE0), 0xABCDEF78u);
  EXPECT_EQ(machine.in32(0xE8), 0xABCDEF78u);
  machine.out8(0xEA, 0x00);
  EXPECT_EQ(machine.in32(0xE0), 0xAB00EF78u);
}

TEST_F(PcTestdevTest, LinesFollowTheBytesWritten) {
  machine.out8(0x2000 + 5, 1);
  machine.out8(0x2000 + 23, 0x80);
  EXPECT_TRUE(machine.lines.level(5));
  EXPECT_TRUE(machine.lines.level(23));
  machine.out8(0x2000 + 5, 0);
  EXPECT_FALSE(machine.lines.level(5));
  device->reset(core::ResetKind::warm);
  EXPECT_FALSE(machine.lines.level(23));
}

TEST_F(PcTestdevTest, WindowIsMemory) {
  machine.mmio_write(0xFF000000, 0x0123456789ABCDEF, 8);
  machine.mmio_write(0xFF00FFFF, 0x5A, 1);
  EXPECT_EQ(machine.mmio_read(0xFF000000, 8), 0x0123456789ABCDEFu);
  EXPECT_EQ(machine.mmio_read(0xFF000003, 2), 0x6789u);
  EXPECT_EQ(machine.mmio_read(0xFF00FFFF, 1), 0x5Au);
  EXPECT_EQ(machine.mmio_read(0xFF00FFFE, 4), 0xFFFF5A00u) << "the window ends at 64 KiB";
}

TEST_F(PcTestdevTest, FlushIsTakenAndChangesNothing) {
  machine.out32(0xE4, 0x1000);
  EXPECT_EQ(machine.in32(0xE4), 0u);
}

TEST(TestdevState, SurvivesDamage) {
  TestMachine machine;
  FakeChar host;
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return IsaDebugcon::create({.io = machine.io_space, .backend = &host}, {}).value();
      },
      [&](core::Device&) {
        host.room = 0;
        machine.out8(0xE9, 'x');
      });
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return PcTestdev::create(
                   {.memory = machine.memory_space, .io = machine.io_space, .domain = nullptr, .lines = {}})
            .value();
      },
      [&](core::Device&) {
        machine.out32(0xE0, 0x12345678);
        machine.out8(0x2003, 1);
        machine.mmio_write(0xFF000004, 0xAABB, 2);
      });
}

}  // namespace
}  // namespace husk::devices
