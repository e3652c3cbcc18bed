// husk: tests of virtio-fs against virtio 1.2, 5.11
#include "devices/virtio/fs.h"

#include <gtest/gtest.h>

#include "base/bits.h"
#include "devices/virtio/mmio.h"
#include "testing/fake_share.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;

struct FsTest : ::testing::Test {
  void make(Fs::Config config = {.tag = "home"}) {
    fs = Fs::create({machine.memory, machine.clock, machine.log}, server, config).value();
    transport = MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *fs}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(VirtioDriver::kVersion1, config.queues + 1, 16));
  }
  testing::TestMachine machine;
  testing::FakeShare server;
  std::unique_ptr<Fs> fs;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
};

TEST_F(FsTest, TellsItsTagAndQueues) {
  make({.tag = "my files", .queues = 3});
  EXPECT_EQ(driver.read(8), 26u);  // 5.11.1: the device id
  std::string tag;
  for (unsigned i = 0; i < 36; ++i) tag.push_back(static_cast<char>(driver.config(i, 1)));
  EXPECT_EQ(tag, "my files" + std::string(28, '\0'));
  EXPECT_EQ(driver.config(36, 4), 3u);
}

TEST_F(FsTest, RefusesBadTagsAndNumbers) {
  const Environment environment{machine.memory, machine.clock, machine.log};
  EXPECT_FALSE(Fs::create(environment, server, {.tag = ""}));
  EXPECT_FALSE(Fs::create(environment, server, {.tag = std::string(37, 'x')}));
  EXPECT_TRUE(Fs::create(environment, server, {.tag = std::string(36, 'x')}));
  EXPECT_FALSE(Fs::create(environment, server, {.tag = "x", .queues = 0}));
  EXPECT_FALSE(Fs::create(environment, server, {.tag = "x", .queue_size = 100}));
  EXPECT_FALSE(Fs::create(environment, server, {.protocol = Fs::Protocol::ninep, .tag = std::string(33, 'x')}));
  EXPECT_FALSE(Fs::create(environment, server, {.protocol = Fs::Protocol::ninep, .tag = "x", .queues = 2}));
}

TEST_F(FsTest, NinepHasOneQueueAndItsTag) {
  fs =
      Fs::create({machine.memory, machine.clock, machine.log}, server, {.protocol = Fs::Protocol::ninep, .tag = "docs"})
          .value();
  transport = MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *fs}, "m", kBase).value();
  EXPECT_EQ(driver.read(8), 9u);
  EXPECT_EQ(driver.offered() & 1, 1u) << "VIRTIO_9P_MOUNT_TAG";
  ASSERT_TRUE(driver.begin(VirtioDriver::kVersion1 | 1, 1, 16));
  EXPECT_EQ(driver.config(0, 2), 4u);
  std::string tag;
  for (unsigned i = 0; i < 4; ++i) tag.push_back(static_cast<char>(driver.config(2 + i, 1)));
  EXPECT_EQ(tag, "docs");
  const Bytes request{1, 2, 3};
  EXPECT_EQ(driver.request(0, request, 64), request);
}

TEST_F(FsTest, CarriesRequestsOfEveryQueueAndTheirAnswers) {
  make();
  for (const unsigned queue : {0u, 1u}) {
    const Bytes request{1, 2, 3, 4, 5, static_cast<std::uint8_t>(queue)};
    EXPECT_EQ(driver.request(queue, request, 64), request);
    EXPECT_EQ(server.requests.back(), request);
  }
}

TEST_F(FsTest, ARequestWithoutRoomForAnAnswerHasNone) {
  make();
  const auto answer = driver.request(0, Bytes{1, 2, 3}, 0);
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->empty());
  EXPECT_EQ(driver.status() & 0x40, 0);
}

TEST_F(FsTest, AnswersComeInAnyOrder) {
  make();
  server.hold = true;
  std::vector<mem::Gpa> rooms;
  std::vector<std::uint16_t> ids;
  for (std::uint8_t i = 0; i < 3; ++i) {
    rooms.push_back(driver.room(16));
    const VirtioDriver::Part parts[] = {{driver.place(Bytes{i, 9}), 2, false}, {rooms.back(), 16, true}};
    ids.push_back(driver.add(1, parts));
  }
  driver.kick(1);
  EXPECT_FALSE(driver.used(1));
  server.complete(2);
  const auto used = driver.used(1);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, ids[2]);
  EXPECT_EQ(used->length, 2u);
  EXPECT_EQ(driver.bytes_at(rooms[2], 2), (Bytes{2, 9}));
  server.drain();
}

TEST_F(FsTest, AResetEndsTheSessionAndWaitsForWhatIsUnderWay) {
  make();
  server.hold = true;
  const VirtioDriver::Part parts[] = {{driver.place(Bytes{1}), 1, false}, {driver.room(16), 16, true}};
  driver.add(1, parts);
  driver.kick(1);
  const unsigned before = server.resets;
  driver.write(0x70, 0);
  EXPECT_EQ(server.resets, before + 1);
  EXPECT_NE(driver.status(), 0) << "memory may still be written";
  bool idle = false;
  fs->quiesce([&] { idle = true; });
  EXPECT_FALSE(idle);
  server.complete();
  EXPECT_EQ(driver.status(), 0);
  EXPECT_TRUE(idle);
}

TEST_F(FsTest, TheSessionIsPartOfTheState) {
  make();
  server.session = {1, 2, 3};
  const auto state = testing::saved_state(*fs);
  server.session.clear();
  ASSERT_TRUE(testing::load_state(*fs, state));
  EXPECT_EQ(server.session, (std::vector<std::uint8_t>{1, 2, 3}));
}

}  // namespace
}  // namespace husk::devices::virtio
