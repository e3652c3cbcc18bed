// husk: tests of virtio-console against virtio 1.2, 5.3
#include "devices/virtio/console.h"

#include <gtest/gtest.h>

#include "devices/virtio/mmio.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;

struct ConsoleTest : ::testing::Test {
  void make(std::uint64_t features = VirtioDriver::kVersion1 | 3) {
    console =
        std::make_unique<Console>(Environment{machine.memory, machine.clock, machine.log},
                                  std::vector<Console::Port>{{&first, "", true}, {&second, "org.example.agent", false}},
                                  Console::Config{.columns = 80, .rows = 25});
    transport =
        MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *console}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(features, 6, 16));
    console->start();
  }
  Bytes buffer(unsigned queue, std::uint32_t size) {
    const VirtioDriver::Part part{driver.room(size), size, true};
    places.push_back(part.address);
    driver.add(queue, {&part, 1});
    driver.kick(queue);
    return {};
  }
  /// The next control message to the driver: port, event, value, text.
  std::optional<std::tuple<unsigned, unsigned, unsigned, std::string>> message() {
    const VirtioDriver::Part part{driver.room(80), 80, true};
    driver.add(2, {&part, 1});
    driver.kick(2);
    const auto used = driver.used(2);
    if (!used) return std::nullopt;
    const Bytes b = driver.bytes_at(part.address, used->length);
    return std::tuple{load_le<std::uint32_t>(&b[0]), load_le<std::uint16_t>(&b[4]), load_le<std::uint16_t>(&b[6]),
                      std::string(b.begin() + 8, b.end())};
  }
  void tell(std::uint8_t port, std::uint8_t event, std::uint8_t value) {
    ASSERT_TRUE(driver.request(3, Bytes{port, 0, 0, 0, event, 0, value, 0}, 0));
  }
  testing::TestMachine machine;
  testing::FakeChar first, second;
  std::unique_ptr<Console> console;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
  std::vector<mem::Gpa> places;
};

TEST_F(ConsoleTest, WritesGoToTheBackend) {
  make();
  ASSERT_TRUE(driver.request(1, Bytes{'h', 'i'}, 0));
  EXPECT_EQ(first.output, "hi");
}

TEST_F(ConsoleTest, TellsItsSizeAndPorts) {
  make();
  EXPECT_EQ(driver.config(0, 2), 80u);
  EXPECT_EQ(driver.config(2, 2), 25u);
  EXPECT_EQ(driver.config(4, 4), 2u);
  console->resize(132, 50);
  EXPECT_EQ(driver.config(0, 2), 132u);
  EXPECT_EQ(driver.interrupt_status() & 2, 2u);
}

TEST_F(ConsoleTest, TakesInputOnlyWhileThereAreBuffers) {
  make(VirtioDriver::kVersion1 | 1);
  EXPECT_EQ(first.deliver("lost?"), 0u);
  buffer(0, 64);
  EXPECT_EQ(first.deliver("hello"), 5u);
  EXPECT_EQ(driver.used(0)->length, 5u);
  EXPECT_EQ(driver.bytes_at(places[0], 5), (Bytes{'h', 'e', 'l', 'l', 'o'}));
  EXPECT_EQ(first.deliver("more"), 0u);
}

TEST_F(ConsoleTest, AWriteWaitsForAFullBackend) {
  make();
  first.room = 0;
  const VirtioDriver::Part part{driver.place(Bytes{'x', 'y'}), 2, false};
  driver.add(1, {&part, 1});
  driver.kick(1);
  EXPECT_FALSE(driver.used(1));
  first.make_writable(100);
  EXPECT_TRUE(driver.used(1));
  EXPECT_EQ(first.output, "xy");
}

TEST_F(ConsoleTest, NothingIsTakenOrGivenWhileTheMachineIsStopped) {
  make(VirtioDriver::kVersion1 | 1);
  buffer(0, 64);
  first.room = 0;
  const VirtioDriver::Part part{driver.place(Bytes{'x', 'y'}), 2, false};
  driver.add(1, {&part, 1});
  driver.kick(1);
  console->quiesce([] {});
  EXPECT_EQ(first.deliver("early"), 0u);
  first.make_writable(100);
  EXPECT_FALSE(driver.used(0));
  EXPECT_FALSE(driver.used(1));
  console->start();
  EXPECT_TRUE(driver.used(1)) << "the backend had said that it can take more";
  EXPECT_EQ(first.output, "xy");
  EXPECT_EQ(first.deliver("late"), 4u);
}

TEST_F(ConsoleTest, WhatABackendTookInPartIsNotSentTwice) {
  make();
  first.room = 3;
  const VirtioDriver::Part parts[] = {{driver.place(Bytes{'a', 'b'}), 2, false},
                                      {driver.place(Bytes{'c', 'd', 'e'}), 3, false}};
  driver.add(1, parts);
  driver.kick(1);
  EXPECT_EQ(first.output, "abc");
  EXPECT_FALSE(driver.used(1));
  first.make_writable(1);
  first.make_writable(9);
  EXPECT_EQ(first.output, "abcde");
  EXPECT_TRUE(driver.used(1));
}

TEST_F(ConsoleTest, ASmallBufferLimitsWhatIsTaken) {
  make(VirtioDriver::kVersion1 | 1);
  buffer(0, 4);
  buffer(0, 64);
  EXPECT_EQ(first.deliver("hello"), 4u);
  EXPECT_EQ(first.deliver("o"), 1u);
}

TEST_F(ConsoleTest, IntroducesItsPorts) {
  make();
  tell(0, 0, 1);
  EXPECT_EQ(message(), (std::tuple{0u, 1u, 1u, std::string()}));
  EXPECT_EQ(message(), (std::tuple{1u, 1u, 1u, std::string()}));
  EXPECT_EQ(message(), std::nullopt);
  driver.begin(VirtioDriver::kVersion1 | 3, 6, 16);
  tell(0, 0, 1);
  tell(0, 3, 1);
  tell(1, 3, 1);
  std::vector<std::tuple<unsigned, unsigned, unsigned, std::string>> all;
  while (const auto one = message()) all.push_back(*one);
  const std::vector<std::tuple<unsigned, unsigned, unsigned, std::string>> expected = {
      {0, 1, 1, ""}, {1, 1, 1, ""},
      {0, 4, 1, ""}, {0, 5, 0, std::string("\x19\0\x50\0", 4)},
      {0, 6, 1, ""}, {1, 7, 1, "org.example.agent"},
      {1, 6, 1, ""}};
  EXPECT_EQ(all, expected);
}

TEST_F(ConsoleTest, AClosedPortTakesNothingUntilTheGuestOpensIt) {
  make();
  tell(0, 0, 1);
  tell(1, 3, 1);
  buffer(4, 64);
  EXPECT_EQ(second.deliver("early"), 0u);
  tell(1, 6, 1);
  EXPECT_EQ(second.deliver("ping"), 4u);
  EXPECT_EQ(driver.used(4)->length, 4u);
  ASSERT_TRUE(driver.request(5, Bytes{'o', 'k'}, 0));
  EXPECT_EQ(second.output, "ok");
}

TEST_F(ConsoleTest, ALoadLooksAtNoRingUntilTheMachineRuns) {
  make(VirtioDriver::kVersion1 | 1);
  buffer(0, 64);
  const auto saved = testing::saved_state(*console);
  // Memory that is loaded after the device: until then nothing in it makes sense.
  const mem::Gpa index = driver.ring(0).driver + 2;
  (void)machine.memory.store<std::uint16_t>(index, 0x7000);
  ASSERT_TRUE(testing::load_state(*console, saved));
  EXPECT_EQ(testing::saved_state(*console), saved);
  (void)machine.memory.store<std::uint16_t>(index, 1);
  machine.clock.advance(1);
  EXPECT_EQ(driver.status(), 15);
  EXPECT_EQ(first.deliver("hello"), 5u);
}

TEST_F(ConsoleTest, NonsenseOnTheControlQueueIsIgnored) {
  make();
  tell(200, 3, 1);
  tell(0, 99, 1);
  ASSERT_TRUE(driver.request(3, Bytes{1, 2}, 0));
  EXPECT_EQ(message(), std::nullopt);
  EXPECT_EQ(driver.status(), 15);
}

}  // namespace
}  // namespace husk::devices::virtio
