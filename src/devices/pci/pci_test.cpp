// husk: tests of PCI configuration access, BARs and the Q35 functions against PCI 3.0 and the chip set data sheets
#include <gtest/gtest.h>

#include "devices/pci/q35.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices::pci {
namespace {

using husk::testing::TestMachine;

struct ByteAtCf9 : mem::IoHandler {
  std::uint64_t read(const mem::Access&) override { return value; }
  void write(const mem::Access& access, std::uint64_t v) override {
    EXPECT_EQ(access.size, 1);
    value = static_cast<std::uint8_t>(v);
    ++writes;
  }
  std::uint8_t value = 0;
  unsigned writes = 0;
};

/// A function with one BAR of each kind and a vendor-specific capability.
struct Gadget : Function, mem::IoHandler {
  Gadget(TestMachine& machine, Bus& bus, std::uint8_t where)
      : config(state, {.vendor = 0x1AF4, .device = 0x1005, .class_code = 0xFF0000, .interrupt_pin = 1}, false) {
    config.add_bar(0, {BarSpec::Kind::io, 32, false});
    config.add_bar(1, {BarSpec::Kind::memory32, 4096, false});
    config.add_bar(4, {BarSpec::Kind::memory64, 1 << 20, true});
    first = config.add_capability(0x09, 16);
    second = config.add_capability(0x11, 12);
    config.reset();
    logic.emplace(config, FunctionLogic::Deps{.memory = &machine.memory_space,
                                              .io = &machine.io_space,
                                              .domain = nullptr,
                                              .intx = machine.lines.line(16)});
    for (const unsigned bar : {0u, 1u, 4u}) logic->set_bar_handler(bar, *this, "gadget");
    slot = bus.attach(where, *this).value();
  }
  std::uint32_t read_config(unsigned offset, unsigned size) override { return logic->read_config(offset, size); }
  void write_config(unsigned offset, std::uint32_t v, unsigned size) override { logic->write_config(offset, v, size); }
  std::uint64_t read(const mem::Access& access) override { return 0xC0 + access.offset; }
  void write(const mem::Access&, std::uint64_t) override {}
  ConfigState state;
  ConfigSpace config;
  std::optional<FunctionLogic> logic;
  Slot slot;
  unsigned first, second;
};

struct PciTest : ::testing::Test {
  PciTest() {
    lpc = LpcBridge::create({.bus = bus, .acpi_base = [this](auto base) { acpi_base = base; }, .routing = {}}, {})
              .value();
  }
  static std::uint32_t address(unsigned device, unsigned function, unsigned reg) {
    return 0x80000000u | (device << 11) | (function << 8) | reg;
  }
  std::uint32_t config_read(unsigned device, unsigned function, unsigned reg) {
    machine.out32(0xCF8, address(device, function, reg));
    return machine.in32(0xCFC);
  }
  void config_write(unsigned device, unsigned function, unsigned reg, std::uint32_t value) {
    machine.out32(0xCF8, address(device, function, reg));
    machine.out32(0xCFC, value);
  }
  TestMachine machine;
  ByteAtCf9 cf9;
  Bus bus;
  std::unique_ptr<PciHost> host =
      PciHost::create({.memory = machine.memory_space, .io = machine.io_space, .root = bus, .byte_at_cf9 = &cf9})
          .value();
  std::unique_ptr<HostBridge> bridge = HostBridge::create({bus, *host}, {}).value();
  std::optional<std::uint16_t> acpi_base;
  std::unique_ptr<LpcBridge> lpc;
};

// The probe of Linux, pci_check_type1(): a byte to CFB, then the address register must hold 80000000h.
TEST_F(PciTest, PassesTheMechanismOneProbe) {
  machine.out8(0xCFB, 0x01);
  const auto before = machine.in32(0xCF8);
  machine.out32(0xCF8, 0x80000000);
  EXPECT_EQ(machine.in32(0xCF8), 0x80000000u);
  machine.out32(0xCF8, before);
  EXPECT_EQ(machine.in32(0xCF8), 0u);
}

TEST_F(PciTest, AddressRegisterIsWrittenByDwordsOnly) {
  machine.out32(0xCF8, 0xFFFFFFFF);
  EXPECT_EQ(machine.in32(0xCF8), 0x80FFFFFCu);
  machine.out8(0xCF8, 0);
  machine.out16(0xCF8, 0);
  machine.out16(0xCFA, 0);
  EXPECT_EQ(machine.in32(0xCF8), 0x80FFFFFCu);
  EXPECT_EQ(machine.in8(0xCF8), 0xFF);
  EXPECT_EQ(cf9.writes, 0u);
}

TEST_F(PciTest, ByteAtCf9IsTheResetControlAndLeavesTheAddressAlone) {
  machine.out32(0xCF8, 0x80001234);
  machine.out8(0xCF9, 0x06);
  EXPECT_EQ(cf9.writes, 1u);
  EXPECT_EQ(machine.in8(0xCF9), 0x06);
  EXPECT_EQ(machine.in32(0xCF8), 0x80001234u);
}

TEST_F(PciTest, FindsBothBridgesByBytesWordsAndDwords) {
  EXPECT_EQ(config_read(0, 0, 0), 0x29C08086u);
  EXPECT_EQ(config_read(0, 0, 8) >> 8, 0x060000u);
  EXPECT_EQ(config_read(0x1F, 0, 0), 0x29188086u);
  EXPECT_EQ(machine.in16(0xCFE), 0x2918);
  EXPECT_EQ(machine.in8(0xCFD), 0x80);
  EXPECT_EQ(config_read(0x1F, 0, 8) >> 8, 0x060100u);
  EXPECT_EQ(config_read(0x1F, 0, 0xC) & 0x00FF0000, 0x00800000u) << "multifunction";
}

TEST_F(PciTest, AbsentFunctionsAndBusesReadAllOnes) {
  EXPECT_EQ(config_read(5, 0, 0), 0xFFFFFFFFu);
  EXPECT_EQ(config_read(0, 3, 0), 0xFFFFFFFFu);
  machine.out32(0xCF8, 0x80010000);
  EXPECT_EQ(machine.in32(0xCFC), 0xFFFFFFFFu) << "bus 1";
  EXPECT_EQ(machine.in16(0xCFC), 0xFFFF);
  machine.out32(0xCFC, 0x12345678);
}

TEST_F(PciTest, DataPortIsDeadWhileTheEnableBitIsClear) {
  machine.out32(0xCF8, 0);
  EXPECT_EQ(machine.in32(0xCFC), 0xFFFFFFFFu);
}

TEST_F(PciTest, EcamReachesTheSameRegisters) {
  EXPECT_EQ(machine.mmio_read(0xE0000000, 4), 0x29C08086u);
  EXPECT_EQ(machine.mmio_read(0xE0000000 + (0x1F << 15) + 2, 2), 0x2918u);
  EXPECT_EQ(machine.mmio_read(0xE0000000 + (5 << 15), 4), 0xFFFFFFFFu);
  EXPECT_EQ(machine.mmio_read(0xE0100000, 4), 0xFFFFFFFFu);
  EXPECT_EQ(machine.mmio_read(0xE0000000 + 0x100, 4), 0u) << "no extended capabilities";
  EXPECT_EQ(machine.mmio_read(0xE0000000 + 0xFFE, 4), 0xFFFF0000u) << "crosses into 00:00.1, which is absent";
}

TEST_F(PciTest, PciExBarMovesTheWindow) {
  config_write(0, 0, 0x60, 0xB0000001);
  EXPECT_EQ(machine.mmio_read(0xB0000000, 4), 0x29C08086u);
  EXPECT_EQ(machine.mmio_read(0xE0000000, 4), 0xFFFFFFFFu);
  EXPECT_EQ(machine.mmio_read(0xBFFFFFFC, 4), 0xFFFFFFFFu);
  config_write(0, 0, 0x60, 0xB0000000);
  EXPECT_EQ(machine.mmio_read(0xB0000000, 4), 0xFFFFFFFFu);
  config_write(0, 0, 0x60, 0xB4000005);  // 64 MiB
  EXPECT_EQ(machine.mmio_read(0xB4000000, 4), 0x29C08086u);
  EXPECT_FALSE(machine.memory_space.find(0xB8000000).handler);
  bridge->reset(core::ResetKind::warm);
  EXPECT_EQ(machine.mmio_read(0xE0000000, 4), 0x29C08086u);
}

TEST_F(PciTest, BarsAreSizedAsTheSpecificationSays) {
  Gadget gadget(machine, bus, devfn(3, 0));
  for (unsigned bar = 0; bar < 6; ++bar) config_write(3, 0, 0x10 + bar * 4, 0xFFFFFFFF);
  EXPECT_EQ(config_read(3, 0, 0x10), 0xFFFFFFE1u);
  EXPECT_EQ(config_read(3, 0, 0x14), 0xFFFFF000u);
  EXPECT_EQ(config_read(3, 0, 0x18), 0u);
  EXPECT_EQ(config_read(3, 0, 0x20), 0xFFF0000Cu);
  EXPECT_EQ(config_read(3, 0, 0x24), 0xFFFFFFFFu);
  config_write(3, 0, 0x30, 0xFFFFFFFF);
  EXPECT_EQ(config_read(3, 0, 0x30), 0u) << "no ROM";
}

TEST_F(PciTest, BarsDecodeWhereTheGuestPutsThemOnceEnabled) {
  Gadget gadget(machine, bus, devfn(3, 0));
  config_write(3, 0, 0x10, 0xC000);
  config_write(3, 0, 0x14, 0xFE000000);
  config_write(3, 0, 0x20, 0);
  config_write(3, 0, 0x24, 0x8);
  EXPECT_EQ(machine.in8(0xC000), 0xFF) << "not enabled";
  config_write(3, 0, 4, 1);
  EXPECT_EQ(machine.in8(0xC005), 0xC5);
  EXPECT_EQ(machine.in8(0xC020), 0xFF);
  EXPECT_EQ(machine.mmio_read(0xFE000000, 1), 0xFFu);
  config_write(3, 0, 4, 3);
  EXPECT_EQ(machine.mmio_read(0xFE000004, 1), 0xC4u);
  EXPECT_EQ(machine.mmio_read(0x800000006, 1), 0xC6u);
  config_write(3, 0, 0x14, 0xFE001000);
  EXPECT_EQ(machine.mmio_read(0xFE000000, 1), 0xFFu);
  EXPECT_EQ(machine.mmio_read(0xFE001001, 1), 0xC1u);
  gadget.logic->reset();
  EXPECT_EQ(machine.in8(0xC000), 0xFF);
}

TEST_F(PciTest, RamWinsOverABarPutUponIt) {
  Gadget gadget(machine, bus, devfn(3, 0));
  ASSERT_TRUE(machine.memory.store<std::uint8_t>(0x1000, 0x77));
  config_write(3, 0, 0x14, 0x1000);
  config_write(3, 0, 4, 2);
  EXPECT_EQ(machine.mmio_read(0x1000, 1), 0x77u);
}

TEST_F(PciTest, CapabilitiesAreChained) {
  Gadget gadget(machine, bus, devfn(3, 0));
  EXPECT_EQ(config_read(3, 0, 4) >> 16, 0x0010u);
  EXPECT_EQ(config_read(3, 0, 0x34), 0x40u);
  EXPECT_EQ(config_read(3, 0, 0x40), 0x5009u);
  EXPECT_EQ(config_read(3, 0, 0x50), 0x0011u);
  EXPECT_EQ(gadget.config.find_capability(0x11), 0x50u);
  EXPECT_EQ(gadget.config.find_capability(0x05), std::nullopt);
}

TEST(ConfigSpace, ExtendedCapabilitiesAreChainedFrom100h) {
  ConfigState state;
  ConfigSpace space(state, {.vendor = 1, .device = 2}, true);
  EXPECT_EQ(space.add_extended_capability(0x0003, 1, 12), 0x100u);
  EXPECT_EQ(space.add_extended_capability(0x000B, 1, 8), 0x10Cu);
  EXPECT_EQ(space.read(0x100, 4), 0x10C10003u);
  EXPECT_EQ(space.read(0x10C, 4), 0x0001000Bu);
}

TEST_F(PciTest, InterruptDisableKeepsTheRequestFromThePin) {
  Gadget gadget(machine, bus, devfn(3, 0));
  gadget.logic->set_intx(true);
  EXPECT_TRUE(machine.lines.level(16));
  EXPECT_EQ(config_read(3, 0, 4) >> 16, 0x0018u);
  config_write(3, 0, 4, 0x0400);
  EXPECT_FALSE(machine.lines.level(16));
  EXPECT_EQ(config_read(3, 0, 4) >> 16, 0x0018u) << "status still shows it";
  config_write(3, 0, 4, 0x0000);
  EXPECT_TRUE(machine.lines.level(16));
}

TEST_F(PciTest, APlaceOnTheBusIsTakenOnceAndFreedWithTheFunction) {
  {
    Gadget gadget(machine, bus, devfn(3, 0));
    const auto second = bus.attach(devfn(3, 0), gadget);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().message, "PCI address 00:03.0 is taken");
  }
  EXPECT_EQ(config_read(3, 0, 0), 0xFFFFFFFFu);
}

TEST_F(PciTest, LpcTellsWhereTheAcpiBlockIs) {
  EXPECT_EQ(acpi_base, 0x600);
  EXPECT_EQ(config_read(0x1F, 0, 0x40), 0x601u);
  config_write(0x1F, 0, 0x40, 0xB000);
  EXPECT_EQ(acpi_base, 0xB000);
  config_write(0x1F, 0, 0x44, 0x00);
  EXPECT_EQ(acpi_base, std::nullopt);
  lpc->reset(core::ResetKind::warm);
  EXPECT_EQ(acpi_base, 0x600);
}

TEST_F(PciTest, PirqRoutesAreOffAfterResetAndRefuseReservedInterrupts) {
  for (unsigned pirq = 0; pirq < 8; ++pirq) EXPECT_EQ(lpc->pirq_route(pirq), std::nullopt);
  config_write(0x1F, 0, 0x60, 0x0D0A0B02);
  EXPECT_EQ(lpc->pirq_route(0), std::nullopt);
  EXPECT_EQ(lpc->pirq_route(1), 11u);
  EXPECT_EQ(lpc->pirq_route(2), 10u);
  EXPECT_EQ(lpc->pirq_route(3), std::nullopt);
  config_write(0x1F, 0, 0x68, 0x80808005);
  EXPECT_EQ(lpc->pirq_route(4), 5u);
}

TEST(PciState, SurvivesDamage) {
  TestMachine machine;
  Bus bus;
  const auto host =
      PciHost::create({.memory = machine.memory_space, .io = machine.io_space, .root = bus, .byte_at_cf9 = nullptr})
          .value();
  // A place on the bus is taken once only, so each device gets a bus of its own.
  std::vector<std::unique_ptr<Bus>> buses;
  const auto fresh_bus = [&]() -> Bus& { return *buses.emplace_back(std::make_unique<Bus>()); };
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return PciHost::create(
                   {.memory = machine.memory_space, .io = machine.io_space, .root = bus, .byte_at_cf9 = nullptr})
            .value();
      },
      [&](core::Device&) { machine.out32(0xCF8, 0x80001234); });
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> { return HostBridge::create({fresh_bus(), *host}, {}).value(); },
      [&](core::Device&) { buses.back()->write_config(0, 0x60, 0xB0000001, 4); });
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return LpcBridge::create({.bus = fresh_bus(), .acpi_base = {}, .routing = {}}, {}).value();
      },
      [&](core::Device&) { buses.back()->write_config(devfn(0x1F, 0), 0x60, 0x0B0A0B0A, 4); });
}

TEST(PciState, RefusesAnotherFunctionsSpaceByValue) {
  TestMachine machine;
  Bus bus;
  const auto lpc = LpcBridge::create({.bus = bus, .acpi_base = {}, .routing = {}}, {}).value();
  auto bytes = husk::testing::saved_state(*lpc);
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i)
    if (bytes[i] == 0x86 && bytes[i + 1] == 0x80) {
      bytes[i] = 0x87;
      break;
    }
  const auto loaded = husk::testing::load_state(*lpc, bytes);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("read-only"), std::string::npos);
}

}  // namespace
}  // namespace husk::devices::pci
