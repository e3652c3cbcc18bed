// husk: tests of the keyboard controller, keyboard and mouse against the IBM technical references
#include <gtest/gtest.h>

#include "devices/chipset/port92.h"
#include "devices/input/i8042.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

using Bytes = std::vector<unsigned>;
constexpr core::VmTime kMillisecond = 1'000'000;

struct InputTest : ::testing::Test {
  std::unique_ptr<I8042> make(I8042::Config config = {}) {
    return I8042::create({.io = machine.io_space,
                          .clock = machine.clock,
                          .keyboard_irq = machine.lines.line(1),
                          .mouse_irq = machine.lines.line(12),
                          .control = machine.control,
                          .a20 = gate,
                          .leds_changed = [this](std::uint8_t value) { leds = value; }},
                         config)
        .value();
  }
  unsigned status() { return machine.in8(0x64); }
  unsigned data() { return machine.in8(0x60); }
  void command(unsigned value) { machine.out8(0x64, static_cast<std::uint8_t>(value)); }
  void send(unsigned value) { machine.out8(0x60, static_cast<std::uint8_t>(value)); }
  void send_mouse(unsigned value) {
    command(0xD4);
    send(value);
  }
  void set_command_byte(unsigned value) {
    command(0x60);
    send(value);
  }
  /// Everything that the guest finds in the output buffer.
  Bytes drain() {
    Bytes bytes;
    while ((status() & 1) && bytes.size() < 1000) bytes.push_back(data());
    return bytes;
  }
  Bytes to_keyboard(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) send(byte);
    return drain();
  }
  Bytes to_mouse(std::initializer_list<unsigned> bytes) {
    Bytes all;
    for (const unsigned byte : bytes) {
      send_mouse(byte);
      for (const unsigned answer : drain()) all.push_back(answer);
    }
    return all;
  }
  Bytes press(KeyCode code) {
    device->key(code, true);
    return drain();
  }
  Bytes release(KeyCode code) {
    device->key(code, false);
    return drain();
  }

  husk::testing::TestMachine machine;
  A20Gate gate{machine.control};
  unsigned leds = 99;
  std::unique_ptr<I8042> device = make();
};

TEST_F(InputTest, SelfTestPassesAndSetsTheSystemFlag) {
  EXPECT_EQ(status(), 0x10u);
  command(0xAA);
  EXPECT_EQ(status(), 0x1Du) << "output full, system flag, command, not locked";
  EXPECT_EQ(data(), 0x55u);
  EXPECT_EQ(status(), 0x1Cu);
}

TEST_F(InputTest, InterfaceTestsPass) {
  command(0xAB);
  EXPECT_EQ(drain(), Bytes{0x00});
  command(0xA9);
  EXPECT_EQ(drain(), Bytes{0x00});
  command(0xA4);
  EXPECT_EQ(drain(), Bytes{0xF1});
}

TEST_F(InputTest, CommandByteAndRamAreReadBack) {
  set_command_byte(0x47);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x47});
  command(0x7F);
  send(0x5A);
  command(0x3F);
  EXPECT_EQ(drain(), Bytes{0x5A});
  command(0xA7);
  command(0xAD);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x77});
  command(0xA8);
  command(0xAE);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x47});
}

TEST_F(InputTest, InitialisedConfigurationHasTranslationAndInterruptsOn) {
  device.reset();
  device = make({.initialised = true});
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x47});
  EXPECT_EQ(press(0x1E), Bytes{0x1E});
}

TEST_F(InputTest, PulseAndOutputPortBitZeroReset) {
  command(0xFE);
  EXPECT_EQ(machine.control.resets.size(), 1u);
  command(0xFF);
  EXPECT_EQ(machine.control.resets.size(), 1u) << "no line is pulsed";
  command(0xD1);
  send(0xDE);
  EXPECT_EQ(machine.control.resets.size(), 2u);
}

TEST_F(InputTest, A20FollowsDdDfAndTheOutputPort) {
  EXPECT_TRUE(machine.control.a20);
  command(0xDD);
  EXPECT_FALSE(machine.control.a20);
  command(0xDF);
  EXPECT_TRUE(machine.control.a20);
  command(0xD1);
  send(0xDD);
  EXPECT_FALSE(machine.control.a20);
  command(0xD0);
  EXPECT_EQ(data() & 3, 1u);
  command(0xD1);
  send(0xDF);
  EXPECT_TRUE(machine.control.a20);
}

TEST_F(InputTest, Port92AndTheControllerShareA20) {
  const auto port92 = Port92::create({.io = machine.io_space, .control = machine.control, .a20 = gate}).value();
  EXPECT_TRUE(machine.control.a20);
  machine.out8(0x92, 2);
  command(0xDD);
  EXPECT_TRUE(machine.control.a20);
  machine.out8(0x92, 0);
  EXPECT_FALSE(machine.control.a20);
}

TEST_F(InputTest, OutputBufferCommandsMarkTheirSource) {
  command(0xD2);
  send(0x12);
  EXPECT_EQ(status() & 0x21, 0x01u);
  EXPECT_TRUE(machine.lines.level(1));
  EXPECT_EQ(data(), 0x12u);
  // Linux's AUX loop test.
  command(0xD3);
  send(0x5A);
  EXPECT_EQ(status() & 0x21, 0x21u);
  EXPECT_TRUE(machine.lines.level(12));
  EXPECT_FALSE(machine.lines.level(1));
  EXPECT_EQ(data(), 0x5Au);
  EXPECT_FALSE(machine.lines.level(12));
}

TEST_F(InputTest, KeyboardAnswersResetIdentifyAndEcho) {
  EXPECT_EQ(to_keyboard({0xFF}), (Bytes{0xFA, 0xAA}));
  EXPECT_EQ(to_keyboard({0xF2}), (Bytes{0xFA, 0xAB, 0x83}));
  EXPECT_EQ(to_keyboard({0xEE}), Bytes{0xEE});
  EXPECT_EQ(to_keyboard({0xFE}), Bytes{0xEE}) << "resend";
  EXPECT_EQ(to_keyboard({0x01}), Bytes{0xFE}) << "unknown";
}

TEST_F(InputTest, IdentityIsTranslatedTooAsOnRealControllers) {
  set_command_byte(0x47);
  EXPECT_EQ(to_keyboard({0xF2}), (Bytes{0xFA, 0xAB, 0x41}));
}

TEST_F(InputTest, LedsAreSetByEd) {
  EXPECT_EQ(to_keyboard({0xED, 0x05}), (Bytes{0xFA, 0xFA}));
  EXPECT_EQ(leds, 5u);
}

TEST_F(InputTest, KeysInSet2AndTranslatedToSet1) {
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
  EXPECT_EQ(release(0x1E), (Bytes{0xF0, 0x1C}));
  EXPECT_EQ(press(0xC8), (Bytes{0xE0, 0x75}));
  EXPECT_EQ(release(0xC8), (Bytes{0xE0, 0xF0, 0x75}));
  EXPECT_EQ(press(0x41), Bytes{0x83}) << "F7";
  EXPECT_EQ(release(0x41), (Bytes{0xF0, 0x83}));
  set_command_byte(0x43);
  EXPECT_EQ(press(0x1E), Bytes{0x1E});
  EXPECT_EQ(release(0x1E), Bytes{0x9E});
  EXPECT_EQ(press(0xC8), (Bytes{0xE0, 0x48}));
  EXPECT_EQ(release(0xC8), (Bytes{0xE0, 0xC8}));
  EXPECT_EQ(press(0x41), Bytes{0x41});
}

TEST_F(InputTest, EveryKeyOfSet1SurvivesTranslationToSet2AndBack) {
  set_command_byte(0x43);
  for (unsigned code = 1; code <= 0x58; ++code) {
    if (code == 0x55) continue;  // not on any keyboard of 101 to 105 keys
    EXPECT_EQ(press(static_cast<KeyCode>(code)), Bytes{code});
    EXPECT_EQ(release(static_cast<KeyCode>(code)), Bytes{code | 0x80});
  }
}

TEST_F(InputTest, ScanSetCommandChoosesAndReports) {
  EXPECT_EQ(to_keyboard({0xF0, 0x00}), (Bytes{0xFA, 0xFA, 0x02}));
  EXPECT_EQ(to_keyboard({0xF0, 0x01}), (Bytes{0xFA, 0xFA}));
  EXPECT_EQ(press(0x10), Bytes{0x10});
  EXPECT_EQ(release(0x10), Bytes{0x90});
  EXPECT_EQ(to_keyboard({0xF0, 0x04}), (Bytes{0xFA, 0xFE}));
  EXPECT_EQ(to_keyboard({0xF0, 0x00}), (Bytes{0xFA, 0xFA, 0x01}));
}

TEST_F(InputTest, Set3SendsBreaksOnlyForKeysSoSet) {
  to_keyboard({0xF0, 0x03});
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
  EXPECT_EQ(release(0x1E), Bytes{}) << "typematic";
  EXPECT_EQ(press(kKeyLeftShift), Bytes{0x12});
  EXPECT_EQ(release(kKeyLeftShift), (Bytes{0xF0, 0x12}));
  EXPECT_EQ(press(0xD3), Bytes{0x64}) << "Delete has no prefix here";
  release(0xD3);
  EXPECT_EQ(to_keyboard({0xFC, 0x1C}), (Bytes{0xFA, 0xFA}));
  EXPECT_EQ(to_keyboard({0xF4}), Bytes{0xFA});
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
  EXPECT_EQ(release(0x1E), (Bytes{0xF0, 0x1C}));
  EXPECT_EQ(to_keyboard({0xF8}), Bytes{0xFA});
  press(0x01);
  EXPECT_EQ(release(0x01), (Bytes{0xF0, 0x08}));
}

TEST_F(InputTest, PauseAndPrintScreenHaveTheirSequences) {
  EXPECT_EQ(press(kKeyPause), (Bytes{0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77}));
  EXPECT_EQ(release(kKeyPause), Bytes{});
  EXPECT_EQ(press(kKeyPrintScreen), (Bytes{0xE0, 0x12, 0xE0, 0x7C}));
  EXPECT_EQ(release(kKeyPrintScreen), (Bytes{0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12}));
  press(kKeyLeftAlt);
  EXPECT_EQ(press(kKeyPrintScreen), Bytes{0x84});
  release(kKeyPrintScreen);
  release(kKeyLeftAlt);
  press(kKeyLeftControl);
  EXPECT_EQ(press(kKeyPause), (Bytes{0xE0, 0x7E, 0xE0, 0xF0, 0x7E}));
  release(kKeyPause);
  set_command_byte(0x43);
  release(kKeyLeftControl);
  EXPECT_EQ(press(kKeyPause), (Bytes{0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5}));
}

TEST_F(InputTest, HeldKeyRepeatsAtTheTypematicRate) {
  to_keyboard({0xF3, 0x00});  // 250 ms, then 30 a second (33.4 ms)
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
  machine.clock.advance(249 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{});
  machine.clock.advance(2 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{0x1C});
  machine.clock.advance(32 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{});
  machine.clock.advance(2 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{0x1C});
  release(0x1E);
  machine.clock.advance(1000 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{});
}

TEST_F(InputTest, RepeatedDownsFromTheDisplayAreIgnored) {
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
  EXPECT_EQ(press(0x1E), Bytes{});
}

TEST_F(InputTest, DisabledKeyboardSaysNothing) {
  EXPECT_EQ(to_keyboard({0xF5}), Bytes{0xFA});
  EXPECT_EQ(press(0x1E), Bytes{});
  EXPECT_EQ(to_keyboard({0xF4}), Bytes{0xFA});
  release(0x1E);
  EXPECT_EQ(press(0x1E), Bytes{0x1C});
}

TEST_F(InputTest, DisabledInterfaceHoldsKeysBackAndSendingOpensIt) {
  command(0xAD);
  EXPECT_EQ(press(0x1E), Bytes{});
  command(0xAE);
  EXPECT_EQ(drain(), Bytes{0x1C});
  command(0xAD);
  EXPECT_EQ(to_keyboard({0xEE}), Bytes{0xEE});
  command(0x20);
  EXPECT_EQ(data() & 0x10, 0u);
}

TEST_F(InputTest, OverrunEndsInOneOverrunCodeAndNothingIsLostBeforeIt) {
  command(0xAD);
  for (int i = 0; i < 200; ++i) {
    device->key(0x1E, true);
    device->key(0x1E, false);
  }
  command(0xAE);
  const Bytes bytes = drain();
  ASSERT_EQ(bytes.size(), 256u);
  EXPECT_EQ(bytes[0], 0x1Cu);
  EXPECT_EQ(bytes.back(), 0x00u);
}

TEST_F(InputTest, EachByteGivesOneEdgeOnIrq1) {
  const unsigned before = machine.lines.edges(1);
  device->key(0xC8, true);
  data();
  data();
  EXPECT_EQ(machine.lines.edges(1), before + 2);
  set_command_byte(0x02);
  device->key(0xC8, false);
  EXPECT_FALSE(machine.lines.level(1)) << "interrupt disabled in the command byte";
  EXPECT_EQ(status() & 1, 1u);
}

TEST_F(InputTest, MouseResetIdAndStatus) {
  EXPECT_EQ(to_mouse({0xFF}), (Bytes{0xFA, 0xAA, 0x00}));
  EXPECT_EQ(to_mouse({0xF2}), (Bytes{0xFA, 0x00}));
  EXPECT_EQ(to_mouse({0xE9}), (Bytes{0xFA, 0x00, 0x02, 0x64}));
  to_mouse({0xF4, 0xE8, 0x03, 0xF3, 0x28, 0xE7});
  device->set_mouse_buttons(Ps2Mouse::kLeft | Ps2Mouse::kRight);
  drain();
  EXPECT_EQ(to_mouse({0xE9}), (Bytes{0xFA, 0x35, 0x03, 0x28}));
  EXPECT_EQ(to_mouse({0xE8, 0x04}), (Bytes{0xFA, 0xFE}));
}

TEST_F(InputTest, MouseKnocksUnlockWheelAndButtons) {
  to_mouse({0xF3, 200, 0xF3, 100, 0xF3, 80});
  EXPECT_EQ(to_mouse({0xF2}), (Bytes{0xFA, 0x03}));
  to_mouse({0xF3, 200, 0xF3, 200, 0xF3, 80});
  EXPECT_EQ(to_mouse({0xF2}), (Bytes{0xFA, 0x04}));
  to_mouse({0xFF});
  EXPECT_EQ(to_mouse({0xF2}), (Bytes{0xFA, 0x00}));
}

TEST_F(InputTest, MovementIsSentAsSignedNineBitPackets) {
  to_mouse({0xF4});
  device->move_mouse(5, 3, 0);
  EXPECT_TRUE(machine.lines.level(12));
  EXPECT_EQ(status() & 0x21, 0x21u);
  EXPECT_EQ(drain(), (Bytes{0x28, 0x05, 0xFD})) << "down on the screen is negative for the mouse";
  machine.clock.advance(20 * kMillisecond);
  device->move_mouse(-300, 0, 0);
  EXPECT_EQ(drain(), (Bytes{0x18, 0x01, 0x00})) << "-255";
  machine.clock.advance(10 * kMillisecond);
  EXPECT_EQ(drain(), (Bytes{0x18, 0xD3, 0x00})) << "and the remaining -45";
}

TEST_F(InputTest, WheelAndExtraButtonsAreInTheFourthByte) {
  to_mouse({0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF4});
  device->move_mouse(0, 0, -1);
  EXPECT_EQ(drain(), (Bytes{0x08, 0x00, 0x00, 0xFF}));
  to_mouse({0xF3, 200, 0xF3, 200, 0xF3, 80, 0xF4});
  machine.clock.advance(20 * kMillisecond);
  device->set_mouse_buttons(Ps2Mouse::kSide | Ps2Mouse::kLeft);
  EXPECT_EQ(drain(), (Bytes{0x09, 0x00, 0x00, 0x10}));
  machine.clock.advance(20 * kMillisecond);
  device->move_mouse(0, 0, 2);
  EXPECT_EQ(drain(), (Bytes{0x09, 0x00, 0x00, 0x12}));
}

TEST_F(InputTest, MouseKeepsToItsSamplingRate) {
  to_mouse({0xF3, 10, 0xF4});
  device->move_mouse(1, 0, 0);
  EXPECT_EQ(drain().size(), 3u);
  device->move_mouse(1, 0, 0);
  device->move_mouse(1, 0, 0);
  machine.clock.advance(99 * kMillisecond);
  EXPECT_EQ(drain(), Bytes{});
  machine.clock.advance(1 * kMillisecond);
  EXPECT_EQ(drain(), (Bytes{0x08, 0x02, 0x00}));
}

TEST_F(InputTest, ShortClickIsNotLost) {
  to_mouse({0xF4});
  device->move_mouse(1, 0, 0);
  drain();
  device->set_mouse_buttons(Ps2Mouse::kLeft);
  device->set_mouse_buttons(0);
  EXPECT_EQ(drain(), (Bytes{0x09, 0x00, 0x00}));
  machine.clock.advance(10 * kMillisecond);
  EXPECT_EQ(drain(), (Bytes{0x08, 0x00, 0x00}));
}

TEST_F(InputTest, RemoteModeAnswersOnRequestOnly) {
  to_mouse({0xF0});
  device->move_mouse(7, 0, 0);
  EXPECT_EQ(drain(), Bytes{});
  EXPECT_EQ(to_mouse({0xEB}), (Bytes{0xFA, 0x08, 0x07, 0x00}));
  EXPECT_EQ(to_mouse({0xEB}), (Bytes{0xFA, 0x08, 0x00, 0x00}));
}

TEST_F(InputTest, WrapModeEchoes) {
  EXPECT_EQ(to_mouse({0xEE}), Bytes{0xFA});
  EXPECT_EQ(to_mouse({0xF2, 0x55}), (Bytes{0xF2, 0x55}));
  EXPECT_EQ(to_mouse({0xEC}), Bytes{0xFA});
  EXPECT_EQ(to_mouse({0xF2}), (Bytes{0xFA, 0x00}));
}

TEST_F(InputTest, DoubleScalingFollowsTheTable) {
  to_mouse({0xE7, 0xF4});
  const int in[] = {1, 2, 3, 4, 5, 6, 10};
  const unsigned out[] = {1, 1, 3, 6, 9, 12, 20};
  for (unsigned i = 0; i < 7; ++i) {
    machine.clock.advance(20 * kMillisecond);
    device->move_mouse(in[i], 0, 0);
    EXPECT_EQ(drain(), (Bytes{0x08, out[i], 0x00}));
  }
}

TEST(InputState, SurvivesDamage) {
  husk::testing::TestMachine machine;
  A20Gate gate(machine.control);
  husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return I8042::create({.io = machine.io_space,
                              .clock = machine.clock,
                              .keyboard_irq = {},
                              .mouse_irq = {},
                              .control = machine.control,
                              .a20 = gate,
                              .leds_changed = {}},
                             {})
            .value();
      },
      [&](core::Device& device) {
        auto& i8042 = static_cast<I8042&>(device);
        machine.out8(0x64, 0xD4);
        machine.out8(0x60, 0xF4);
        i8042.key(0x1E, true);
        i8042.move_mouse(3, 4, 0);
      });
}

}  // namespace
}  // namespace husk::devices
