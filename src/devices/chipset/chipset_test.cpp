// husk: tests of port 92, port CF9 and the A20 gate against the ICH9 data sheet
#include <gtest/gtest.h>

#include "devices/chipset/fpu_error.h"
#include "devices/chipset/port92.h"
#include "devices/chipset/reset_control.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

using husk::testing::TestMachine;

TEST(A20Gate, IsTheOrOfItsInputs) {
  husk::testing::FakeControl control;
  A20Gate gate(control);
  auto keyboard = gate.input();
  auto fast = gate.input();
  EXPECT_TRUE(control.a20) << "nobody drives it yet";
  fast.set(false);
  EXPECT_FALSE(control.a20);
  keyboard.set(true);
  EXPECT_TRUE(control.a20);
  fast.set(true);
  keyboard.set(false);
  EXPECT_TRUE(control.a20);
  fast.set(false);
  EXPECT_FALSE(control.a20);
}

TEST(Port92, BitOneGatesA20) {
  TestMachine machine;
  A20Gate gate(machine.control);
  const auto port = Port92::create({.io = machine.io_space, .control = machine.control, .a20 = gate}).value();
  EXPECT_EQ(machine.in8(0x92), 0x00);
  EXPECT_FALSE(machine.control.a20);
  machine.out8(0x92, 0x02);
  EXPECT_TRUE(machine.control.a20);
  EXPECT_EQ(machine.in8(0x92), 0x02);
  port->reset(core::ResetKind::warm);
  EXPECT_FALSE(machine.control.a20);
}

TEST(Port92, RiseOfBitZeroResetsOnce) {
  TestMachine machine;
  A20Gate gate(machine.control);
  const auto port = Port92::create({.io = machine.io_space, .control = machine.control, .a20 = gate}).value();
  machine.out8(0x92, 0x03);
  machine.out8(0x92, 0x01);
  EXPECT_EQ(machine.control.resets.size(), 1u);
  machine.out8(0x92, 0x00);
  machine.out8(0x92, 0x01);
  EXPECT_EQ(machine.control.resets.size(), 2u);
}

// ICH9 data sheet, "Coprocessor Error" and COPROC_ERR (port F0h).
TEST(FpuError, PortF0LowersInterrupt13AndIgnoresErrorsUntilFerrFalls) {
  TestMachine machine;
  const auto device = FpuError::create({.io = machine.io_space, .irq = machine.lines.line(13)}).value();
  EXPECT_FALSE(device->set_ferr(true)) << "the CPU has to wait";
  EXPECT_TRUE(machine.lines.level(13));
  EXPECT_FALSE(device->set_ferr(true));
  EXPECT_EQ(machine.lines.edges(13), 1u);
  machine.out8(0xF0, 0);
  EXPECT_FALSE(machine.lines.level(13));
  EXPECT_TRUE(device->set_ferr(true)) << "IGNNE#";
  EXPECT_FALSE(machine.lines.level(13));
  device->set_ferr(false);
  EXPECT_FALSE(device->set_ferr(true)) << "IGNNE# fell with FERR#";
  EXPECT_EQ(machine.lines.edges(13), 2u);
}

TEST(FpuError, PortF0WithoutAnErrorDoesNotDriveIgnne) {
  TestMachine machine;
  const auto device = FpuError::create({.io = machine.io_space, .irq = machine.lines.line(13)}).value();
  machine.out8(0xF0, 0);
  EXPECT_FALSE(device->set_ferr(true));
  EXPECT_TRUE(machine.lines.level(13));
  device->reset(core::ResetKind::warm);
  EXPECT_FALSE(machine.lines.level(13));
}

TEST(ResetControl, RiseOfRstCpuResetsHardOrSoft) {
  TestMachine machine;
  ResetControl device({machine.control});
  ASSERT_TRUE(device.map(machine.io_space, nullptr));
  machine.out8(0xCF9, 0x02);
  EXPECT_TRUE(machine.control.resets.empty());
  EXPECT_EQ(machine.in8(0xCF9), 0x02);
  machine.out8(0xCF9, 0x06);
  machine.out8(0xCF9, 0x06);
  ASSERT_EQ(machine.control.resets.size(), 1u);
  EXPECT_EQ(machine.control.resets[0], "hard reset (port CF9h)");
  machine.out8(0xCF9, 0xF0);
  EXPECT_EQ(machine.in8(0xCF9), 0x00) << "reserved bits read zero";
  machine.out8(0xCF9, 0x04);
  ASSERT_EQ(machine.control.resets.size(), 2u);
  EXPECT_EQ(machine.control.resets[1], "soft reset (port CF9h)");
}

TEST(ChipsetState, SurvivesDamage) {
  TestMachine machine;
  A20Gate gate(machine.control);
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return Port92::create({.io = machine.io_space, .control = machine.control, .a20 = gate}).value();
      },
      [&](core::Device&) { machine.out8(0x92, 0x02); });
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        auto device = std::make_unique<ResetControl>(ResetControl::Deps{machine.control});
        EXPECT_TRUE(device->map(machine.io_space, nullptr));
        return device;
      },
      [&](core::Device&) { machine.out8(0xCF9, 0x0A); });
}

}  // namespace
}  // namespace husk::devices
