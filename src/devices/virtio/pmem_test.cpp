// husk: tests of virtio-pmem against virtio 1.2, 5.19
#include "devices/virtio/pmem.h"

#include <gtest/gtest.h>

#include "devices/virtio/mmio.h"
#include "testing/fake_pmem.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;

struct PmemTest : ::testing::Test {
  PmemTest() { EXPECT_TRUE(driver.begin(VirtioDriver::kVersion1, 1, 16)); }
  testing::TestMachine machine;
  testing::FakePmem memory{4 << 20};
  Pmem pmem{{machine.memory, machine.clock, machine.log}, memory, {.start = 0x1'4000'0000}};
  std::unique_ptr<MmioTransport> transport =
      MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), pmem}, "m", kBase).value();
  VirtioDriver driver{machine, kBase};
  const Bytes flush{0, 0, 0, 0};
};

TEST_F(PmemTest, TellsWhereTheMemoryIs) {
  EXPECT_EQ(driver.read(8), 27u);  // 5.19.1: the device id
  EXPECT_EQ(driver.config(0, 8), 0x1'4000'0000u);
  EXPECT_EQ(driver.config(8, 8), 4u << 20);
}

TEST_F(PmemTest, AFlushIsAnsweredWithWhatCameOfIt) {
  EXPECT_EQ(driver.request(0, flush, 4), (Bytes{0, 0, 0, 0}));
  memory.fail = true;
  EXPECT_EQ(driver.request(0, flush, 4), (Bytes{0xFF, 0xFF, 0xFF, 0xFF}));
  EXPECT_EQ(memory.flushes, 2u);
}

TEST_F(PmemTest, OtherRequestsFailAndFlushNothing) {
  EXPECT_EQ(driver.request(0, Bytes{1, 0, 0, 0}, 4), (Bytes{0xFF, 0xFF, 0xFF, 0xFF}));
  EXPECT_EQ(driver.request(0, Bytes{0, 0}, 4), (Bytes{0xFF, 0xFF, 0xFF, 0xFF})) << "cut short";
  EXPECT_EQ(driver.request(0, flush, 2), (Bytes{0, 0})) << "as much of an answer as fits";
  EXPECT_EQ(driver.request(0, flush, 0), Bytes{});
  EXPECT_EQ(memory.flushes, 2u);
  EXPECT_EQ(driver.status() & 0x40, 0);
}

TEST_F(PmemTest, FlushesEndInAnyOrderAndAResetWaitsForThem) {
  memory.hold = true;
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 2; ++i) {
    const VirtioDriver::Part parts[] = {{driver.place(flush), 4, false}, {driver.room(4), 4, true}};
    ids.push_back(driver.add(0, parts));
  }
  driver.kick(0);
  EXPECT_FALSE(driver.used(0));
  memory.complete(1);
  EXPECT_TRUE(machine.lines.level(5));
  const auto used = driver.used(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, ids[1]);
  EXPECT_EQ(used->length, 4u);
  bool idle = false;
  pmem.quiesce([&] { idle = true; });
  driver.write(0x70, 0);
  EXPECT_FALSE(idle);
  EXPECT_NE(driver.status(), 0);
  memory.complete();
  EXPECT_TRUE(idle);
  EXPECT_EQ(driver.status(), 0);
}

}  // namespace
}  // namespace husk::devices::virtio
