// husk: tests of the 16550 against the PC16550D data sheet
#include <gtest/gtest.h>

#include "devices/serial/serial_port.h"
#include "testing/state_checks.h"
#include "testing/test_machine.h"

namespace husk::devices {
namespace {

constexpr std::uint16_t kBase = 0x3F8;

struct SerialTest : ::testing::Test {
  SerialTest() { port->start(); }
  std::unique_ptr<SerialPort> make() {
    return SerialPort::create(
               {.io = machine.io_space, .clock = machine.clock, .irq = machine.lines.line(4), .backend = &host}, {})
        .value();
  }
  std::uint8_t in(unsigned reg) { return machine.in8(static_cast<std::uint16_t>(kBase + reg)); }
  void out(unsigned reg, unsigned value) {
    machine.out8(static_cast<std::uint16_t>(kBase + reg), static_cast<std::uint8_t>(value));
  }
  bool irq() const { return machine.lines.level(4); }
  unsigned edges() const { return machine.lines.edges(4); }

  ::husk::testing::TestMachine machine;
  ::husk::testing::FakeChar host;
  std::unique_ptr<SerialPort> port = make();
};

// Table I, "UART reset configuration".
TEST_F(SerialTest, RegistersHaveTheirResetValues) {
  EXPECT_EQ(in(1), 0x00);
  EXPECT_EQ(in(2), 0x01);
  EXPECT_EQ(in(3), 0x00);
  EXPECT_EQ(in(4), 0x00);
  EXPECT_EQ(in(5), 0x60);
  EXPECT_EQ(in(6), 0xB0);
  EXPECT_FALSE(irq());
}

TEST_F(SerialTest, ReservedBitsReadZero) {
  out(1, 0xFF);
  EXPECT_EQ(in(1), 0x0F);
  out(4, 0xEF);
  EXPECT_EQ(in(4), 0x0F);
}

TEST_F(SerialTest, ScratchAndDivisorHoldWhatIsWritten) {
  out(7, 0xA5);
  EXPECT_EQ(in(7), 0xA5);
  out(3, 0x83);
  out(0, 0x0C);
  out(1, 0x34);
  EXPECT_EQ(in(0), 0x0C);
  EXPECT_EQ(in(1), 0x34);
  out(3, 0x03);
  EXPECT_EQ(in(1), 0x00) << "DLAB off: IER again";
  EXPECT_TRUE(host.output.empty()) << "the divisor is not data";
}

TEST_F(SerialTest, IirShowsTheFifosEnabled) {
  out(2, 0x01);
  EXPECT_EQ(in(2), 0xC1);
  out(2, 0x00);
  EXPECT_EQ(in(2), 0x01);
}

TEST_F(SerialTest, DataLeavesAtOnce) {
  for (const char c : std::string("hello")) {
    EXPECT_EQ(in(5), 0x60);
    out(0, static_cast<unsigned char>(c));
  }
  EXPECT_EQ(host.output, "hello");
}

TEST_F(SerialTest, StuckBackendShowsInLsrAndIsRetriedWhenWritable) {
  out(2, 0x01);
  host.room = 2;
  for (const char c : std::string("abcde")) out(0, static_cast<unsigned char>(c));
  EXPECT_EQ(host.output, "ab");
  EXPECT_EQ(in(5), 0x00) << "THRE and TEMT clear";
  out(4, 0x08);
  out(1, 0x02);
  EXPECT_FALSE(irq());
  host.make_writable(2);
  EXPECT_EQ(host.output, "abcd");
  EXPECT_EQ(in(5), 0x00);
  EXPECT_FALSE(irq());
  host.make_writable(::husk::testing::FakeChar::kUnlimited);
  EXPECT_EQ(host.output, "abcde");
  EXPECT_EQ(in(5), 0x60);
  EXPECT_TRUE(irq());
}

TEST_F(SerialTest, FullTransmitterKeepsTheOldestFifteenInOrder) {
  out(2, 0x01);
  host.room = 0;
  for (unsigned i = 0; i < 20; ++i) out(0, 'a' + i);
  host.make_writable(::husk::testing::FakeChar::kUnlimited);
  EXPECT_EQ(host.output, "abcdefghijklmnot");
}

TEST_F(SerialTest, EnablingTheEmptyInterruptRaisesItAndIirAcknowledgesIt) {
  out(4, 0x08);
  out(1, 0x02);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(2), 0x02);
  EXPECT_FALSE(irq());
  EXPECT_EQ(in(2), 0x01);
  // Linux tests for exactly this (its UART_BUG_THRE): off and on again must raise it once more.
  out(1, 0x00);
  out(1, 0x02);
  EXPECT_EQ(in(2), 0x02);
}

TEST_F(SerialTest, EveryCharacterSentGivesAnEdge) {
  out(4, 0x08);
  out(1, 0x02);
  const unsigned before = edges();
  out(0, 'x');
  out(0, 'y');
  EXPECT_EQ(edges(), before + 2);
}

TEST_F(SerialTest, Out2GatesTheInterrupt) {
  out(1, 0x02);
  EXPECT_FALSE(irq());
  out(4, 0x08);
  EXPECT_TRUE(irq());
  out(4, 0x18);
  EXPECT_FALSE(irq()) << "loop-back forces the output pins inactive";
}

TEST_F(SerialTest, ReceiverWithoutFifoTakesOneCharacterAtATime) {
  out(4, 0x08);
  out(1, 0x01);
  EXPECT_EQ(host.deliver("xyz"), 1u);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(2), 0x04);
  EXPECT_EQ(in(5), 0x61);
  EXPECT_EQ(in(0), 'x');
  EXPECT_FALSE(irq());
  EXPECT_EQ(in(5), 0x60);
  EXPECT_EQ(host.credit, 1u);
  EXPECT_EQ(host.deliver("yz"), 1u);
  EXPECT_EQ(in(0), 'y');
}

TEST_F(SerialTest, NothingIsReadFromTheHostBeforeStartOrAfterQuiesce) {
  port->quiesce([] {});
  EXPECT_EQ(host.credit, 0u);
  port->start();
  EXPECT_EQ(host.credit, 1u);
}

TEST_F(SerialTest, TriggerLevelsAre1_4_8_14) {
  const unsigned levels[] = {1, 4, 8, 14};
  out(4, 0x08);
  out(1, 0x01);
  for (unsigned code = 0; code < 4; ++code) {
    out(2, (code << 6) | 0x03);
    for (unsigned n = 1; n <= levels[code]; ++n) {
      EXPECT_FALSE(irq());
      EXPECT_EQ(host.deliver("x"), 1u);
    }
    EXPECT_TRUE(irq()) << "trigger " << levels[code];
    EXPECT_EQ(in(2), 0xC4);
    in(0);
    EXPECT_FALSE(irq()) << "below the trigger again";
  }
}

TEST_F(SerialTest, CharacterTimeoutComesAfterFourCharacterTimes) {
  out(3, 0x83);
  out(0, 12);  // 9600 baud
  out(1, 0);
  out(3, 0x03);
  out(4, 0x08);
  out(1, 0x01);
  out(2, 0x81);
  host.deliver("ab");
  const core::VmTime four_characters = 4ull * 10 * 1'000'000'000 / 9600;
  machine.clock.advance(four_characters - 10);
  EXPECT_FALSE(irq());
  machine.clock.advance(20);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(2), 0xCC);
  EXPECT_EQ(in(2), 0xCC) << "reading IIR does not acknowledge it";
  EXPECT_EQ(in(0), 'a');
  EXPECT_FALSE(irq());
  machine.clock.advance(four_characters + 10);
  EXPECT_EQ(in(2), 0xCC) << "one character is left: it times out again";
  EXPECT_EQ(in(0), 'b');
  machine.clock.advance(four_characters + 10);
  EXPECT_FALSE(irq());
}

TEST_F(SerialTest, FifoResetClearsTheReceiverAndTogglingClearsBoth) {
  out(2, 0x01);
  host.deliver("abc");
  out(2, 0x03);
  EXPECT_EQ(in(5), 0x60);
  EXPECT_EQ(host.credit, 16u);
  host.deliver("abc");
  out(2, 0x00);
  EXPECT_EQ(in(5), 0x60);
  EXPECT_EQ(host.credit, 1u);
}

TEST_F(SerialTest, LoopBackReturnsDataAndModemBits) {
  out(3, 0x03);
  out(4, 0x10);
  EXPECT_EQ(host.credit, 0u) << "the line is cut off";
  in(6);
  out(0, 0x5A);
  EXPECT_EQ(in(5), 0x61);
  EXPECT_EQ(in(0), 0x5A);
  EXPECT_TRUE(host.output.empty());
  // Linux's autoconfig: MCR 1Ah gives DCD and CTS.
  out(4, 0x1A);
  EXPECT_EQ(in(6) & 0xF0, 0x90);
  out(4, 0x15);
  EXPECT_EQ(in(6) & 0xF0, 0x60);
  out(3, 0x00);
  out(0, 0xFF);
  EXPECT_EQ(in(0), 0x1F) << "five-bit characters";
}

TEST_F(SerialTest, TrailingEdgeOfRingSetsTeriOnly) {
  out(4, 0x10);
  in(6);
  out(4, 0x14);
  EXPECT_EQ(in(6), 0x40) << "no delta on the leading edge";
  out(4, 0x10);
  EXPECT_EQ(in(6), 0x04);
}

TEST_F(SerialTest, OverrunKeepsTheFifoAndOverwritesTheHoldingRegister) {
  out(3, 0x03);
  out(4, 0x10);
  out(0, 'a');
  out(0, 'b');
  EXPECT_EQ(in(5), 0x63);
  EXPECT_EQ(in(5), 0x61) << "reading LSR clears OE";
  EXPECT_EQ(in(0), 'b');
  out(2, 0x01);
  for (unsigned i = 0; i < 17; ++i) out(0, 'a' + i);
  EXPECT_EQ(in(5), 0x63);
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(in(0), 'a' + i);
  EXPECT_EQ(in(5), 0x60);
}

TEST_F(SerialTest, ErrorsShowWhenTheirCharacterIsAtTheTop) {
  Uart16550::State state;
  Uart16550 chip(state);
  chip.write(Uart16550::kIirFcr, 0x01, 0);
  chip.receive('a', 0, 0);
  chip.receive('b', Uart16550::kLsrParity, 0);
  EXPECT_EQ(chip.read(Uart16550::kLsr, 0), 0xE1) << "bit 7: an error somewhere in the FIFO";
  chip.read(Uart16550::kData, 0);
  EXPECT_EQ(chip.read(Uart16550::kLsr, 0), 0xE5);
  EXPECT_EQ(chip.read(Uart16550::kLsr, 0), 0x61);
}

// Table IV: line status, then data, then THR empty, then modem status.
TEST_F(SerialTest, InterruptsFollowThePriorityTable) {
  out(3, 0x03);
  out(4, 0x10);
  out(0, 'a');
  out(0, 'b');
  out(4, 0x1B);
  out(1, 0x0F);
  EXPECT_EQ(in(2), 0x06);
  in(5);
  EXPECT_EQ(in(2), 0x04);
  in(0);
  EXPECT_EQ(in(2), 0x02);
  EXPECT_EQ(in(2), 0x00);
  in(6);
  EXPECT_EQ(in(2), 0x01);
}

// PC16550D, LSR bits 4 (BI), 3 (FE), 7; IIR: line status has the highest priority.
TEST_F(SerialTest, BreakFromTheHostIsOneZeroCharacterWithItsErrorBits) {
  out(2, 0x01);
  out(4, 0x08);
  out(1, 0x05);
  host.deliver_break();
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(2) & 0x0F, 0x06);
  EXPECT_EQ(in(5), 0xF9) << "DR BI FE THRE TEMT and an error in the FIFO";
  EXPECT_EQ(in(5), 0x61) << "reading clears the errors, bit 7 as no other follows; the character is still there";
  EXPECT_EQ(in(0), 0x00);
  EXPECT_EQ(in(5), 0x60);
  EXPECT_FALSE(irq());
}

TEST_F(SerialTest, BreakKeepsItsPlaceBetweenCharacters) {
  out(2, 0x01);
  ASSERT_EQ(host.deliver("a"), 1u);
  host.deliver_break();
  ASSERT_EQ(host.deliver("h"), 1u);
  EXPECT_EQ(in(5) & 0x1F, 0x01) << "the break is not at the top yet";
  EXPECT_EQ(in(0), 'a');
  EXPECT_EQ(in(5) & 0x1F, 0x19);
  EXPECT_EQ(in(0), 0x00);
  EXPECT_EQ(in(5) & 0x1F, 0x01);
  EXPECT_EQ(in(0), 'h');
}

TEST_F(SerialTest, BreakTakesAwayOneCharacterOfCredit) {
  out(2, 0x01);
  EXPECT_EQ(host.credit, 16u);
  host.deliver_break();
  EXPECT_EQ(host.credit, 15u);
}

TEST_F(SerialTest, BreakInLoopBackModeIsNotHeard) {
  out(4, 0x10);
  host.deliver_break();
  EXPECT_EQ(in(5), 0x60);
}

TEST_F(SerialTest, BreakGoesToTheHostOnce) {
  out(3, 0x43);
  out(3, 0x43);
  EXPECT_EQ(host.breaks, 1u);
  out(3, 0x03);
  out(4, 0x10);
  out(3, 0x43);
  EXPECT_EQ(host.breaks, 1u);
  EXPECT_EQ(in(5), 0x79) << "in loop-back the receiver sees it";
}

TEST_F(SerialTest, WideAccessesTouchNeighbouringRegisters) {
  machine.out16(kBase + 6, 0x7700);
  EXPECT_EQ(machine.in16(kBase + 6), 0x77B0);
}

TEST_F(SerialTest, LoadRestoresTheInterruptWithoutAnEdge) {
  out(4, 0x08);
  out(1, 0x02);
  const auto bytes = ::husk::testing::saved_state(*port);
  port->reset(core::ResetKind::power_on);
  const unsigned before = edges();
  ASSERT_TRUE(::husk::testing::load_state(*port, bytes));
  EXPECT_TRUE(irq());
  EXPECT_EQ(edges(), before);
}

TEST(SerialState, SurvivesDamage) {
  ::husk::testing::TestMachine machine;
  ::husk::testing::FakeChar host;
  ::husk::testing::check_device_state(
      [&]() -> std::unique_ptr<core::Device> {
        return SerialPort::create({.io = machine.io_space, .clock = machine.clock, .irq = {}, .backend = &host}, {})
            .value();
      },
      [&](core::Device& device) {
        machine.out8(kBase + 2, 0xC1);
        machine.out8(kBase + 1, 0x0F);
        host.room = 0;
        machine.out8(kBase, 'x');
        device.start();
        host.deliver("abc");
      });
}

}  // namespace
}  // namespace husk::devices
