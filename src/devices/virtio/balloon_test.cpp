// husk: tests of virtio-balloon against virtio 1.2, 5.5
#include "devices/virtio/balloon.h"

#include <gtest/gtest.h>

#include "devices/virtio/mmio.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;

struct BalloonTest : ::testing::Test {
  void make(std::uint64_t features, Balloon::Config config = {}) {
    balloon = std::make_unique<Balloon>(
        Environment{machine.memory, machine.clock, machine.log},
        [this](mem::RamRegion&, std::uint64_t offset, std::uint64_t length) { given.emplace_back(offset, length); },
        config);
    transport =
        MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *balloon}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(VirtioDriver::kVersion1 | features, config.free_page_reporting ? 4 : 3, 16));
  }
  static Bytes pages(std::initializer_list<std::uint32_t> numbers) {
    Bytes bytes;
    for (const std::uint32_t number : numbers)
      for (unsigned i = 0; i < 4; ++i) bytes.push_back(static_cast<std::uint8_t>(number >> (i * 8)));
    return bytes;
  }
  testing::TestMachine machine;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> given;
  std::unique_ptr<Balloon> balloon;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
};

TEST_F(BalloonTest, GivesRunsOfPagesBackAndLeavesOutWhatIsNoRam) {
  make(0);
  ASSERT_TRUE(driver.request(0, pages({0x80, 0x81, 0x82, 0x90, 0xFFFFFFFF, 0x91}), 0));
  EXPECT_EQ(given, (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0x80000, 0x3000}, {0x90000, 0x2000}}));
  given.clear();
  ASSERT_TRUE(driver.request(1, pages({0x80}), 0));
  EXPECT_TRUE(given.empty()) << "deflating needs nothing of the host";
}

TEST_F(BalloonTest, TargetAndActualAreInTheConfiguration) {
  make(0);
  balloon->set_target(1000);
  EXPECT_EQ(driver.config(0, 4), 1000u);
  EXPECT_EQ(driver.interrupt_status() & 2, 2u);
  driver.set_config(4, 640, 4);
  EXPECT_EQ(balloon->actual(), 640u);
}

TEST_F(BalloonTest, StatisticsBufferIsReturnedWhenTheyAreAskedFor) {
  make(2, {.statistics_period_ns = 1000});
  const Bytes bytes = {4, 0, 0x39, 0x30, 0, 0, 0, 0, 0, 0, 99, 0, 1, 0, 0, 0, 0, 0, 0, 0};
  const VirtioDriver::Part part{driver.place(bytes), 20, false};
  driver.add(2, {&part, 1});
  driver.kick(2);
  EXPECT_FALSE(driver.used(2));
  EXPECT_EQ(balloon->statistic(Balloon::Statistic::free), 12345u);
  EXPECT_EQ(balloon->statistic(Balloon::Statistic::total), std::nullopt);
  machine.clock.advance(1000);
  EXPECT_TRUE(driver.used(2));
}

TEST_F(BalloonTest, ReportedFreePagesAreGivenBack) {
  make(1 << 5, {.free_page_reporting = true});
  const VirtioDriver::Part part{0x80800, 0x3000, true};
  driver.add(3, {&part, 1});
  driver.kick(3);
  EXPECT_TRUE(driver.used(3));
  EXPECT_EQ(given, (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0x81000, 0x2000}})) << "whole pages only";
}

}  // namespace
}  // namespace husk::devices::virtio
