// husk: tests of virtio-blk against virtio 1.2, 5.2
#include "devices/virtio/blk.h"

#include <gtest/gtest.h>

#include "devices/virtio/mmio.h"
#include "testing/fake_block.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
constexpr mem::Gpa kBase = 0xFEB00000;
constexpr std::uint64_t kAll = ~std::uint64_t{0} & ~VirtioDriver::kPacked;

struct BlkTest : ::testing::Test {
  void make(Blk::Config config = {}) {
    blk = Blk::create({machine.memory, machine.clock, machine.log}, disk, std::move(config)).value();
    transport = MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *blk}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(kAll, 1, 64));
  }
  std::vector<std::uint8_t> request(std::uint32_t type, std::uint64_t sector, std::vector<std::uint8_t> data,
                                    std::uint32_t in) {
    std::vector<std::uint8_t> out(16);
    store_le<std::uint32_t>(&out[0], type);
    store_le<std::uint64_t>(&out[8], sector);
    out.insert(out.end(), data.begin(), data.end());
    return driver.request(0, out, in + 1).value_or(std::vector<std::uint8_t>{});
  }
  static std::vector<std::uint8_t> range(std::uint64_t sector, std::uint32_t count, std::uint32_t flags) {
    std::vector<std::uint8_t> bytes(16);
    store_le<std::uint64_t>(&bytes[0], sector);
    store_le<std::uint32_t>(&bytes[8], count);
    store_le<std::uint32_t>(&bytes[12], flags);
    return bytes;
  }
  testing::TestMachine machine;
  testing::FakeBlock disk{1 << 20};
  std::unique_ptr<Blk> blk;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
};

TEST_F(BlkTest, WritesAndReadsBack) {
  make();
  std::vector<std::uint8_t> data(1024);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i * 7);
  EXPECT_EQ(request(1, 3, data, 0), std::vector<std::uint8_t>{0});
  EXPECT_TRUE(std::equal(data.begin(), data.end(), disk.content.begin() + 3 * 512));
  auto expected = data;
  expected.push_back(0);
  EXPECT_EQ(request(0, 3, {}, 1024), expected);
}

TEST_F(BlkTest, ConfigurationTellsCapacityAndTopology) {
  make({.queues = 4, .physical_block = 4096, .min_io = 4096, .opt_io = 65536});
  EXPECT_EQ(driver.config(0, 8), 2048u);
  EXPECT_EQ(driver.config(12, 4), 254u);
  EXPECT_EQ(driver.config(20, 4), 512u);
  EXPECT_EQ(driver.config(24, 1), 3u);
  EXPECT_EQ(driver.config(26, 2), 8u);
  EXPECT_EQ(driver.config(28, 4), 128u);
  EXPECT_EQ(driver.config(34, 2), 4u);
  EXPECT_EQ(driver.offered() & 0x7000, 0x7000u);
}

TEST_F(BlkTest, OutOfRangeAndOddRequestsFail) {
  make();
  EXPECT_EQ(request(0, 2048, {}, 512).back(), 1);
  EXPECT_EQ(request(0, 2047, {}, 1024).back(), 1);
  EXPECT_EQ(request(0, ~std::uint64_t{0} / 512, {}, 512).back(), 1);
  EXPECT_EQ(request(0, 0, {}, 100).back(), 1);
  EXPECT_EQ(request(1, 2048, std::vector<std::uint8_t>(512), 0).back(), 1);
  EXPECT_EQ(request(99, 0, {}, 0).back(), 2);
  EXPECT_TRUE(disk.log.empty());
}

TEST_F(BlkTest, ARequestWithoutAStatusByteBreaksTheDevice) {
  make();
  const std::vector<std::uint8_t> out(16);
  EXPECT_EQ(driver.request(0, out, 0), std::nullopt);
  EXPECT_EQ(driver.status() & kNeedsReset, kNeedsReset);
}

TEST_F(BlkTest, TellsItsSerialNumber) {
  make({.serial = "disk-42"});
  const auto answer = request(8, 0, {}, 20);
  EXPECT_EQ(std::string(answer.begin(), answer.begin() + 7), "disk-42");
  EXPECT_EQ(answer[7], 0);
  EXPECT_EQ(answer.back(), 0);
}

TEST_F(BlkTest, FlushesAndHonoursTheWriteCacheSetting) {
  make();
  EXPECT_EQ(request(4, 0, {}, 0), std::vector<std::uint8_t>{0});
  EXPECT_EQ(disk.log.back().op, core::BlockOp::flush);
  request(1, 0, std::vector<std::uint8_t>(512), 0);
  EXPECT_EQ(disk.log.back().flags, 0u);
  driver.set_config(32, 0, 1);
  request(1, 0, std::vector<std::uint8_t>(512), 0);
  EXPECT_EQ(disk.log.back().flags, core::BlockFlags::kFua);
}

TEST_F(BlkTest, DiscardsAndZeroesRanges) {
  make();
  std::fill(disk.content.begin(), disk.content.end(), 0xFF);
  auto two = range(2, 2, 0);
  const auto second = range(10, 1, 0);
  two.insert(two.end(), second.begin(), second.end());
  EXPECT_EQ(request(11, 0, two, 0), std::vector<std::uint8_t>{0});
  EXPECT_EQ(disk.log.size(), 2u);
  EXPECT_EQ(disk.content[2 * 512], 0);
  EXPECT_EQ(disk.content[4 * 512], 0xFF);
  EXPECT_EQ(request(13, 0, range(20, 1, 1), 0), std::vector<std::uint8_t>{0});
  EXPECT_EQ(disk.log.back().flags, core::BlockFlags::kMayUnmap);
  EXPECT_EQ(request(11, 0, range(20, 1, 1), 0), std::vector<std::uint8_t>{2}) << "5.2.6.2: no unmap in a discard";
  EXPECT_EQ(request(13, 0, range(2047, 2, 0), 0), std::vector<std::uint8_t>{1});
}

TEST_F(BlkTest, AReadOnlyDiskRefusesWrites) {
  disk.read_only = true;
  make();
  EXPECT_TRUE(driver.offered() & (1 << 5));
  EXPECT_FALSE(driver.offered() & (1 << 13));
  EXPECT_EQ(request(1, 0, std::vector<std::uint8_t>(512), 0).back(), 1);
}

TEST_F(BlkTest, ErrorsOfTheBackendReachTheDriver) {
  make();
  disk.fail_with = EIO;
  EXPECT_EQ(request(0, 0, {}, 512).back(), 1);
  disk.fail_with = ENOTSUP;
  EXPECT_EQ(request(13, 0, range(0, 1, 0), 0).back(), 2);
}

TEST_F(BlkTest, RequestsCompleteInAnyOrder) {
  make();
  disk.hold = true;
  std::vector<std::uint8_t> header(16);
  std::uint16_t ids[2];
  for (auto& id : ids) {
    const VirtioDriver::Part parts[] = {{driver.place(header), 16, false}, {driver.room(513), 513, true}};
    id = driver.add(0, parts);
  }
  driver.kick(0);
  ASSERT_EQ(disk.held.size(), 2u);
  disk.complete(1);
  EXPECT_EQ(driver.used(0)->id, ids[1]);
  disk.complete(0);
  EXPECT_EQ(driver.used(0)->id, ids[0]);
}

TEST_F(BlkTest, QuiesceWaitsForWhatIsUnderWay) {
  make();
  disk.hold = true;
  request(0, 0, {}, 512);
  bool done = false;
  blk->quiesce([&] { done = true; });
  EXPECT_FALSE(done);
  disk.complete();
  EXPECT_TRUE(done);
}

TEST_F(BlkTest, ResizeRaisesAConfigurationInterrupt) {
  make();
  const auto generation = driver.read(0xFC);
  disk.resize(2 << 20);
  EXPECT_EQ(driver.interrupt_status() & 2, 2u);
  EXPECT_NE(driver.read(0xFC), generation);
  EXPECT_EQ(driver.config(0, 8), 4096u);
}

TEST_F(BlkTest, AFullDiskStopsTheMachineAndTheRequestIsDoneAgain) {
  std::vector<int> stops;
  const auto stop = [&](int error, bool) { stops.push_back(error); };
  make({.stop = stop});
  disk.fail_with = ENOSPC;
  EXPECT_TRUE(request(1, 3, std::vector<std::uint8_t>(512, 0x42), 0).empty());
  EXPECT_EQ(stops, std::vector<int>{ENOSPC});
  disk.fail_with = 0;
  const auto bytes = testing::saved_state(*blk);
  auto fresh = Blk::create({machine.memory, machine.clock, machine.log}, disk, {.stop = stop}).value();
  ASSERT_TRUE(testing::load_state(*fresh, bytes));
  EXPECT_EQ(testing::saved_state(*fresh), bytes);
  fresh->start();
  EXPECT_EQ(disk.content[3 * 512], 0x42);
  EXPECT_TRUE(driver.used(0));
}

TEST_F(BlkTest, PoliciesReportIgnoreAndStop) {
  std::vector<int> stops;
  const auto stop = [&](int error, bool) { stops.push_back(error); };
  make({.policy = {.read = core::OnBlockError::ignore, .write = core::OnBlockError::report}, .stop = stop});
  disk.fail_with = EIO;
  EXPECT_EQ(request(0, 0, {}, 512).back(), 0);
  disk.fail_with = ENOSPC;
  EXPECT_EQ(request(1, 0, std::vector<std::uint8_t>(512), 0).back(), 1);
  EXPECT_EQ(request(4, 0, {}, 0).back(), 1);
  EXPECT_TRUE(stops.empty());
}

TEST_F(BlkTest, AResetForgetsRequestsThatWait) {
  make({.policy = {.read = core::OnBlockError::stop}, .stop = [](int, bool) {}});
  disk.fail_with = EIO;
  EXPECT_TRUE(request(0, 0, {}, 512).empty());
  driver.write(0x70, 0);
  disk.log.clear();
  blk->start();
  EXPECT_TRUE(disk.log.empty());
}

}  // namespace
}  // namespace husk::devices::virtio
