// husk: tests of virtio-scsi against virtio 1.2, 5.6
#include "devices/virtio/scsi.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "devices/scsi/cdrom.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/mmio.h"
#include "testing/fake_block.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
using Bytes = std::vector<std::uint8_t>;
constexpr mem::Gpa kBase = 0xFEB00000;
constexpr std::uint64_t kAll = ~std::uint64_t{0} & ~VirtioDriver::kPacked;

struct ScsiTest : ::testing::Test {
  void make(scsi::Disk::Config first = {}, Scsi::Config config = {}, std::uint64_t features = kAll) {
    config.stop = [this](int error, bool writing) { stops.emplace_back(error, writing); };
    if (!first.identity.serial.empty()) first.identity.product = "P";
    scsi = create(first, config);
    transport =
        MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), *scsi}, "m", kBase).value();
    ASSERT_TRUE(driver.begin(features, 2 + config.queues, 64));
  }
  std::unique_ptr<Scsi> create(const scsi::Disk::Config& first, const Scsi::Config& config) {
    std::vector<Scsi::Place> units;
    units.push_back({0, 0, scsi::Disk::create(disk, first).value()});
    units.push_back({0, 300, scsi::Disk::create(other, {}).value()});
    units.push_back({5, 1, scsi::Cdrom::create(&disc, {}).value()});
    return Scsi::create({machine.memory, machine.clock, machine.log}, std::move(units), config).value();
  }
  static Bytes address(unsigned target, unsigned lun) {
    return {1,
            static_cast<std::uint8_t>(target),
            static_cast<std::uint8_t>(0x40 | (lun >> 8)),
            static_cast<std::uint8_t>(lun),
            0,
            0,
            0,
            0};
  }
  static Bytes header(const Bytes& lun, const Bytes& cdb, std::uint64_t tag = 1, std::size_t cdb_size = 32) {
    Bytes bytes(19 + cdb_size);
    std::copy(lun.begin(), lun.end(), bytes.begin());
    store_le<std::uint64_t>(&bytes[8], tag);
    std::copy(cdb.begin(), cdb.end(), bytes.begin() + 19);
    return bytes;
  }
  struct Reply {
    std::uint32_t sense_length = 0, residual = 0;
    std::uint8_t status = 0xFF, response = 0xFF;
    Bytes sense, data;
    bool operator==(const Reply&) const = default;
  };
  static Reply parse(const Bytes& raw) {
    Reply reply;
    if (raw.size() < 108) return reply;
    reply.sense_length = load_le<std::uint32_t>(&raw[0]);
    reply.residual = load_le<std::uint32_t>(&raw[4]);
    reply.status = raw[10];
    reply.response = raw[11];
    reply.sense.assign(raw.begin() + 12, raw.begin() + 12 + reply.sense_length);
    reply.data.assign(raw.begin() + 108, raw.end());
    return reply;
  }
  Reply command(unsigned target, unsigned lun, const Bytes& cdb, const Bytes& out = {}, std::uint32_t in = 0) {
    Bytes bytes = header(address(target, lun), cdb);
    bytes.insert(bytes.end(), out.begin(), out.end());
    return parse(driver.request(2, bytes, 108 + in).value_or(Bytes{}));
  }
  void settle() {
    command(0, 0, {0, 0, 0, 0, 0, 0});
    command(0, 300, {0, 0, 0, 0, 0, 0});
    command(5, 1, {0, 0, 0, 0, 0, 0});
  }
  /// Starts a command without waiting; the response's place.
  mem::Gpa begin(const Bytes& cdb, std::uint64_t tag, std::uint32_t in = 0, const Bytes& out = {}) {
    Bytes bytes = header(address(0, 0), cdb, tag);
    bytes.insert(bytes.end(), out.begin(), out.end());
    const mem::Gpa from = driver.place(bytes), to = driver.room(108 + in);
    const VirtioDriver::Part parts[] = {{from, static_cast<std::uint32_t>(bytes.size()), false}, {to, 108 + in, true}};
    driver.add(2, parts);
    driver.kick(2);
    return to;
  }
  std::optional<std::uint8_t> manage(std::uint32_t function, const Bytes& lun, std::uint64_t tag = 0) {
    Bytes bytes(24);
    store_le<std::uint32_t>(&bytes[4], function);
    std::copy(lun.begin(), lun.end(), bytes.begin() + 8);
    store_le<std::uint64_t>(&bytes[16], tag);
    const auto answer = driver.request(0, bytes, 1);
    return answer ? std::optional(answer->at(0)) : std::nullopt;
  }
  testing::TestMachine machine;
  testing::FakeBlock disk{1 << 20}, other{1 << 20}, disc{1 << 20};
  std::unique_ptr<Scsi> scsi;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
  std::vector<std::pair<int, bool>> stops;
};

const Bytes kReadOne{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0};
const Bytes kWriteOne{0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0};

TEST_F(ScsiTest, ConfigurationTellsQueuesAndSizes) {
  make({}, {.queues = 3});
  EXPECT_EQ(driver.config(0, 4), 3u);
  EXPECT_EQ(driver.config(4, 4), 254u);
  EXPECT_EQ(driver.config(8, 4), 0xFFFFu);
  EXPECT_EQ(driver.config(12, 4), 128u);
  EXPECT_EQ(driver.config(16, 4), 16u);
  EXPECT_EQ(driver.config(20, 4), 96u);
  EXPECT_EQ(driver.config(24, 4), 32u);
  EXPECT_EQ(driver.config(28, 2), 0u);
  EXPECT_EQ(driver.config(30, 2), 255u);
  EXPECT_EQ(driver.config(32, 4), 16383u);
  EXPECT_EQ(driver.offered() & 0xF, 0x6u) << "hot-plug and changes, no T10-PI";
}

TEST_F(ScsiTest, CommandsReachTheUnitsAndAnswerWithResiduals) {
  make();
  const Reply inquiry = command(0, 300, {0x12, 0, 0, 0, 36, 0}, {}, 64);
  EXPECT_EQ(inquiry.response, 0);
  EXPECT_EQ(inquiry.status, 0);
  EXPECT_EQ(inquiry.residual, 28u);
  ASSERT_EQ(inquiry.data.size(), 36u);
  EXPECT_EQ(command(5, 1, {0x12, 0, 0, 0, 36, 0}, {}, 36).data[0], 5);
  const Reply attention = command(0, 0, {0, 0, 0, 0, 0, 0});
  EXPECT_EQ(attention.status, 2);
  EXPECT_EQ(attention.sense_length, 18u);
  EXPECT_EQ(attention.sense[12], 0x29);
  Bytes data(512, 0x42);
  EXPECT_EQ(command(0, 0, kWriteOne, data).residual, 0u);
  EXPECT_EQ(disk.content[511], 0x42);
  EXPECT_EQ(command(0, 0, kReadOne, {}, 512).data, data);
}

TEST_F(ScsiTest, AddressesThatAreNoneGetTheirResponses) {
  make();
  EXPECT_EQ(command(1, 0, {0, 0, 0, 0, 0, 0}).response, 3);
  EXPECT_EQ(command(0, 7, {0, 0, 0, 0, 0, 0}).sense[12], 0x25) << "a target answers for its missing units";
  for (const Bytes& lun : {Bytes{0, 0, 0x40, 0, 0, 0, 0, 0}, Bytes{1, 0, 0x80, 0, 0, 0, 0, 0},
                           Bytes{1, 0, 0x40, 0, 0, 0, 0, 1}, Bytes{0xC1, 1, 0, 0, 0, 0, 0, 0}})
    EXPECT_EQ(parse(driver.request(2, header(lun, {0, 0, 0, 0, 0, 0}), 108).value()).response, 3);
  EXPECT_EQ(parse(driver.request(2, header({1, 0, 0, 0, 0, 0, 0, 0}, {0x12, 0, 0, 0, 36, 0}), 144).value()).status, 0);
}

TEST_F(ScsiTest, ACdbThatWantsMoreThanTheBufferIsAnOverrun) {
  make();
  settle();
  const Reply read = command(0, 0, kReadOne, {}, 511);
  EXPECT_EQ(read.response, 1);
  EXPECT_EQ(read.residual, 511u);
  EXPECT_EQ(command(0, 0, kWriteOne, Bytes(100)).response, 1);
  Bytes both = header(address(0, 0), kReadOne);
  both.resize(both.size() + 512);
  EXPECT_EQ(parse(driver.request(2, both, 108 + 512).value()).response, 9) << "two directions want INOUT";
}

TEST_F(ScsiTest, ARequestWithoutRoomForItsResponseBreaksTheDevice) {
  make();
  EXPECT_EQ(driver.request(2, header(address(0, 0), kReadOne), 107), std::nullopt);
  EXPECT_EQ(driver.status() & kNeedsReset, kNeedsReset);
  ASSERT_TRUE(driver.begin(kAll, 3, 64));
  EXPECT_EQ(driver.request(2, Bytes(50), 108), std::nullopt);
  EXPECT_EQ(driver.status() & kNeedsReset, kNeedsReset);
}

TEST_F(ScsiTest, TheDriverSetsTheSizesOfCdbAndSense) {
  make();
  driver.set_config(20, 8, 4);
  driver.set_config(24, 16, 4);
  const auto raw = driver.request(2, header(address(0, 0), {0, 0, 0, 0, 0, 0}, 1, 16), 20).value();
  EXPECT_EQ(load_le<std::uint32_t>(&raw[0]), 8u) << "sense data are cut off";
  EXPECT_EQ(raw[12], 0x70);
  EXPECT_EQ(raw[14], 0x06);
  driver.set_config(24, 256, 4);
  EXPECT_EQ(driver.status() & kNeedsReset, kNeedsReset);
  ASSERT_TRUE(driver.begin(kAll, 3, 64));
  EXPECT_EQ(driver.config(20, 4), 96u);
  EXPECT_EQ(driver.config(24, 4), 32u);
}

TEST_F(ScsiTest, AbortTaskEndsWhenTheCommandHasEnded) {
  make();
  settle();
  disk.hold = true;
  const mem::Gpa first = begin(kReadOne, 11, 512), second = begin(kReadOne, 12, 512);
  EXPECT_EQ(manage(6, address(0, 0), 12), 10) << "QUERY TASK: it is there";
  EXPECT_EQ(manage(6, address(0, 0), 99), 0);
  EXPECT_EQ(manage(0, address(0, 0), 99), 0) << "nothing to abort";
  EXPECT_EQ(manage(0, address(0, 0), 11), std::nullopt) << "its data may still arrive";
  disk.complete(0);
  EXPECT_EQ(driver.bytes_at(first + 11, 1)[0], 2);
  EXPECT_TRUE(driver.used(0).has_value());
  disk.complete(0);
  EXPECT_EQ(driver.bytes_at(second + 11, 1)[0], 0);
}

TEST_F(ScsiTest, AUnitResetEndsItsCommandsAndIsTold) {
  make();
  settle();
  disk.hold = true;
  const mem::Gpa response = begin(kReadOne, 11, 512);
  EXPECT_EQ(manage(7, address(0, 0)), 10);
  EXPECT_EQ(manage(7, address(0, 300)), 0);
  EXPECT_EQ(manage(5, address(0, 0)), std::nullopt);
  disk.complete(0);
  EXPECT_EQ(driver.bytes_at(response + 11, 1)[0], 4);
  while (driver.used(2)) {
  }
  disk.hold = false;
  EXPECT_EQ(command(0, 0, {0, 0, 0, 0, 0, 0}).sense[13], 0x03) << "29/03: bus device reset";
  EXPECT_EQ(command(0, 300, {0, 0, 0, 0, 0, 0}).status, 0);
}

TEST_F(ScsiTest, TaskManagementRefusesWhatIsNotThere) {
  make();
  EXPECT_EQ(manage(0, address(1, 0)), 3);
  EXPECT_EQ(manage(5, address(0, 9)), 12);
  EXPECT_EQ(manage(2, address(0, 0)), 11) << "CLEAR ACA";
  EXPECT_EQ(manage(77, address(0, 0)), 11);
  EXPECT_EQ(manage(4, address(5, 1)), 0) << "I_T NEXUS RESET";
  // Asynchronous notifications: none.
  Bytes query(16);
  query[0] = 1;
  EXPECT_EQ(driver.request(0, query, 5), Bytes(5));
  EXPECT_EQ(driver.request(0, Bytes(23), 1), std::nullopt);
  EXPECT_EQ(driver.status() & kNeedsReset, kNeedsReset);
}

TEST_F(ScsiTest, EventsTellPlugsAndChangesAndThatOneWasMissed) {
  make();
  other.resize(2 << 20);  // no buffer is there: missed
  const mem::Gpa buffers[] = {driver.room(16), driver.room(16), driver.room(16), driver.room(16)};
  for (const mem::Gpa buffer : buffers) {
    const VirtioDriver::Part part[] = {{buffer, 16, true}};
    driver.add(1, part);
  }
  driver.kick(1);
  ASSERT_TRUE(driver.used(1));
  EXPECT_EQ(load_le<std::uint32_t>(driver.bytes_at(buffers[0], 4).data()), 0x80000000u);
  disk.resize(2 << 20);
  EXPECT_EQ(driver.bytes_at(buffers[1], 16), (Bytes{3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2A, 0x09, 0, 0}));
  testing::FakeBlock late{1 << 20};
  ASSERT_TRUE(scsi->plug({7, 301, scsi::Disk::create(late, {}).value()}));
  EXPECT_EQ(driver.bytes_at(buffers[2], 16), (Bytes{1, 0, 0, 0, 1, 7, 0x41, 0x2D, 0, 0, 0, 0, 1, 0, 0, 0}));
  EXPECT_FALSE(scsi->plug({7, 301, scsi::Disk::create(late, {}).value()}));
  EXPECT_EQ(command(7, 301, {0x12, 0, 0, 0, 36, 0}, {}, 36).status, 0);
  bool gone = false;
  ASSERT_TRUE(scsi->unplug(7, 301, [&] { gone = true; }));
  EXPECT_TRUE(gone);
  EXPECT_EQ(driver.bytes_at(buffers[3], 16), (Bytes{1, 0, 0, 0, 1, 7, 0x41, 0x2D, 0, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(command(7, 301, {0, 0, 0, 0, 0, 0}).response, 3);
}

TEST_F(ScsiTest, AUnitLeavesWhenItsCommandsHaveEnded) {
  make();
  settle();
  disk.hold = true;
  begin(kReadOne, 1, 512);
  bool gone = false;
  ASSERT_TRUE(scsi->unplug(0, 0, [&] { gone = true; }));
  EXPECT_FALSE(gone);
  disk.complete();
  EXPECT_TRUE(gone);
}

TEST_F(ScsiTest, AFullDiskStopsTheMachineAndTheWriteIsDoneAgain) {
  make();
  settle();
  disk.fail_with = ENOSPC;
  const mem::Gpa response = begin(kWriteOne, 1, 0, Bytes(512, 0x77));
  EXPECT_EQ(stops, (std::vector<std::pair<int, bool>>{{ENOSPC, true}}));
  EXPECT_FALSE(driver.used(2)) << "not answered yet";
  scsi->start();
  EXPECT_EQ(stops.size(), 2u) << "still full";
  disk.fail_with = 0;
  // Also by another machine, from a saved state.
  const auto bytes = testing::saved_state(*scsi);
  const auto fresh = create({}, {});
  ASSERT_TRUE(testing::load_state(*fresh, bytes));
  EXPECT_EQ(testing::saved_state(*fresh), bytes);
  fresh->start();
  EXPECT_EQ(disk.content[0], 0x77);
  ASSERT_TRUE(driver.used(2));
  EXPECT_EQ(driver.bytes_at(response + 10, 2), (Bytes{0, 0}));
}

TEST_F(ScsiTest, AHeldCommandIsAbortedAsIfItRan) {
  make({.policy = {.read = core::OnBlockError::stop}});
  settle();
  disk.fail_with = EIO;
  const mem::Gpa response = begin(kReadOne, 5, 512);
  EXPECT_EQ(stops.size(), 1u);
  disk.hold = true;
  EXPECT_EQ(manage(0, address(0, 0), 5), std::nullopt);
  disk.complete();
  EXPECT_EQ(driver.bytes_at(response + 11, 1)[0], 2);
  EXPECT_EQ(stops.size(), 1u);
}

TEST_F(ScsiTest, AResetForgetsHeldCommands) {
  make({.policy = {.read = core::OnBlockError::stop}});
  settle();
  disk.fail_with = EIO;
  begin(kReadOne, 5, 512);
  driver.write(0x70, 0);
  disk.log.clear();
  scsi->start();
  EXPECT_TRUE(disk.log.empty());
}

TEST_F(ScsiTest, QuiesceWaitsForCommandsUnderWayButNotForHeldOnes) {
  make();
  settle();
  disk.hold = true;
  begin(kWriteOne, 1, 0, Bytes(512));
  bool idle = false;
  scsi->quiesce([&] { idle = true; });
  EXPECT_FALSE(idle);
  disk.fail_with = ENOSPC;
  disk.complete();
  EXPECT_TRUE(idle);
}

TEST_F(ScsiTest, WorksOnPackedAndInOrderRings) {
  make({}, {.ring = {.packed = true, .in_order = true}}, ~std::uint64_t{0});
  settle();
  disk.fail_with = ENOSPC;
  begin(kWriteOne, 1, 0, Bytes(512, 0x77));
  disk.fail_with = 0;
  const mem::Gpa later = begin({0x12, 0, 0, 0, 36, 0}, 2, 36);
  EXPECT_EQ(driver.bytes_at(later + 11, 1)[0], 0);
  EXPECT_FALSE(driver.used(2)) << "in order: the first one is held";
  const auto bytes = testing::saved_state(*scsi);
  const auto fresh = create({}, {.ring = {.packed = true, .in_order = true}});
  ASSERT_TRUE(testing::load_state(*fresh, bytes));
  fresh->start();
  EXPECT_TRUE(driver.used(2));
  EXPECT_TRUE(driver.used(2));
  EXPECT_EQ(disk.content[0], 0x77);
}

TEST_F(ScsiTest, ImpossibleControllersAreRefused) {
  const Environment environment{machine.memory, machine.clock, machine.log};
  EXPECT_FALSE(Scsi::create(environment, {}, {.queues = 0}));
  EXPECT_FALSE(Scsi::create(environment, {}, {.queue_size = 100}));
  const auto at = [&](unsigned target, unsigned lun, unsigned target2, unsigned lun2) {
    std::vector<Scsi::Place> units;
    units.push_back({target, lun, scsi::Disk::create(disk, {}).value()});
    units.push_back({target2, lun2, scsi::Disk::create(disk, {}).value()});
    return Scsi::create(environment, std::move(units), {}).has_value();
  };
  EXPECT_TRUE(at(0, 0, 0, 1));
  EXPECT_FALSE(at(0, 0, 0, 0));
  EXPECT_FALSE(at(0, 0, 256, 0));
  EXPECT_FALSE(at(0, 0, 0, 16384));
}

}  // namespace
}  // namespace husk::devices::virtio
