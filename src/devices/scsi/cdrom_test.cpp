// husk: tests of the SCSI CD-ROM drive and the target against MMC-6, SPC-4 and SAM-5
#include "devices/scsi/cdrom.h"

#include <gtest/gtest.h>

#include "base/bits.h"
#include "devices/scsi/disk.h"
#include "devices/scsi/initiator.h"
#include "devices/scsi/target.h"
#include "testing/fake_block.h"

namespace husk::devices::scsi {
namespace {

/// A disc of 4.7 GB that nobody reads.
struct Dvd final : core::BlockBackend {
  core::BlockInfo info() const override { return {.size = 4'700'000'000}; }
  void submit(core::BlockRequest request) override { request.completion(EIO); }
  void drain(std::move_only_function<void()> done) override { done(); }
};

struct CdromTest : ::testing::Test {
  void make(bool with_disc = true) {
    drive = Cdrom::create(with_disc ? &disc : nullptr, {}).value();
    initiator.emplace(*drive);
    while (!drive->state().attentions.empty()) initiator->run({0, 0, 0, 0, 0, 0});
  }
  Answer run(const Bytes& cdb, Bytes out = {}, std::size_t in = 0) { return initiator->run(cdb, std::move(out), in); }
  // 600 blocks: 8 seconds, so that the lead-out is at 00:10:00 (600 + 150 frames).
  testing::FakeBlock disc{600 * 2048 + 100};
  std::unique_ptr<Cdrom> drive;
  std::optional<Initiator> initiator;
};

TEST_F(CdromTest, IsARemovableMultimediaDevice) {
  make();
  const Bytes data = run({0x12, 0, 0, 0, 96, 0}, {}, 96).data;
  EXPECT_EQ(data[0], 0x05);
  EXPECT_EQ(data[1], 0x80);
  EXPECT_EQ(Bytes(data.begin() + 58, data.begin() + 64), (Bytes{0x00, 0xA0, 0x04, 0x60, 0x04, 0xE0}));
  EXPECT_EQ(run({0x12, 1, 0, 0, 96, 0}, {}, 96).data, (Bytes{5, 0, 0, 2, 0x00, 0x83}));
}

TEST_F(CdromTest, ReadsBlocksOf2048Bytes) {
  make();
  disc.content[2048] = 0xAB;
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8).data, (Bytes{0, 0, 2, 0x57, 0, 0, 8, 0}));
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0}, {}, 2048).data[0], 0xAB);
  EXPECT_EQ(run({0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}, {}, 2048).data[0], 0xAB);
  EXPECT_EQ(run({0xBE, 0, 0, 0, 0, 1, 0, 0, 1, 0x10, 0, 0}, {}, 2048).data[0], 0xAB);
  EXPECT_EQ(run({0xBE, 0, 0, 0, 0, 1, 0, 0, 1, 0xF8, 0, 0}, {}, 2352).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x28, 0, 0, 0, 2, 0x58, 0, 0, 1, 0}, {}, 2048).fixed_sense(), 0x052100u);
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, Bytes(2048)).fixed_sense(), 0x052000u);
}

TEST_F(CdromTest, TellsItsTableOfContents) {
  make();
  EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0}, {}, 255).data,
            (Bytes{0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 2, 0x58}));
  EXPECT_EQ(run({0x43, 2, 0, 0, 0, 0, 0xAA, 0, 255, 0}, {}, 255).data,
            (Bytes{0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 10, 0}));
  EXPECT_EQ(run({0x43, 2, 1, 0, 0, 0, 0, 0, 255, 0}, {}, 255).data, (Bytes{0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0}));
  const Bytes full = run({0x43, 2, 2, 0, 0, 0, 1, 0, 255, 0}, {}, 255).data;
  ASSERT_EQ(full.size(), 4u + 4 * 11);
  EXPECT_EQ(Bytes(full.begin() + 26, full.begin() + 37), (Bytes{1, 0x14, 0, 0xA2, 0, 0, 0, 0, 0, 10, 0}));
  EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 2, 0, 255, 0}, {}, 255).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x43, 0, 5, 0, 0, 0, 0, 0, 255, 0}, {}, 255).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 0, 0, 4, 0}, {}, 4).data, (Bytes{0, 18, 1, 1}));
}

TEST_F(CdromTest, ConfigurationNamesTheProfileOfTheDisc) {
  make();
  const Bytes all = run({0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0}, {}, 256).data;
  EXPECT_EQ(load_be<std::uint32_t>(&all[0]), all.size() - 4);
  EXPECT_EQ(load_be<std::uint16_t>(&all[6]), 0x0008);
  // One feature at a time, of which a removable medium is the third.
  EXPECT_EQ(run({0x46, 2, 0, 3, 0, 0, 0, 1, 0, 0}, {}, 256).data,
            (Bytes{0, 0, 0, 12, 0, 0, 0, 8, 0, 3, 3, 4, 0x29, 0, 0, 0}));
  EXPECT_EQ(run({0x46, 2, 0x99, 0, 0, 0, 0, 1, 0, 0}, {}, 256).data.size(), 8u);
  EXPECT_EQ(run({0x46, 3, 0, 0, 0, 0, 0, 1, 0, 0}, {}, 256).fixed_sense(), 0x052400u);
  Dvd dvd_disc;
  drive->change_medium(&dvd_disc);
  EXPECT_EQ(load_be<std::uint16_t>(&run({0x46, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {}, 8).data[6]), 0x0010);
  run({0, 0, 0, 0, 0, 0});  // takes the attention away
  const Bytes dvd = run({0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0}, {}, 2052).data;
  ASSERT_EQ(dvd.size(), 2052u);
  EXPECT_EQ(load_be<std::uint32_t>(&dvd[8]), 0x30000u);
  drive->change_medium(nullptr);
}

TEST_F(CdromTest, AnEmptyDriveSaysSo) {
  make(false);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x023A01u);
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 2048).fixed_sense(), 0x023A01u);
  EXPECT_EQ(run({0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0}, {}, 255).fixed_sense(), 0x023A01u);
  EXPECT_EQ(run({0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0}, {}, 34).fixed_sense(), 0x023A01u);
  EXPECT_EQ(load_be<std::uint16_t>(&run({0x46, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {}, 8).data[6]), 0);
  EXPECT_EQ(run({0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).data, (Bytes{0, 6, 4, 0x10, 0, 0, 0, 0}));
}

TEST_F(CdromTest, ANewDiscIsAnEventAndAnAttention) {
  make(false);
  drive->change_medium(&disc);
  EXPECT_EQ(run({0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).data, (Bytes{0, 6, 4, 0x10, 2, 2, 0, 0}));
  EXPECT_EQ(run({0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).data, (Bytes{0, 6, 4, 0x10, 0, 2, 0, 0})) << "once";
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x062800u);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).fixed_sense(), 0x052400u) << "not polled";
  EXPECT_EQ(run({0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8, 0}, {}, 8).data, (Bytes{0, 2, 0x80, 0x10}));
}

TEST_F(CdromTest, ALockedTrayAsksTheGuestToEject) {
  make();
  run({0x1E, 0, 0, 0, 1, 0});
  EXPECT_EQ(run({0x1A, 0, 0x2A, 0, 255, 0}, {}, 255).data[4 + 6], 0x2B);
  drive->request_eject();
  EXPECT_FALSE(drive->tray_open());
  EXPECT_EQ(run({0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).data[4], 1);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 2, 0}).fixed_sense(), 0x055302u);
  run({0x1E, 0, 0, 0, 0, 0});
  EXPECT_EQ(run({0x1B, 0, 0, 0, 2, 0}).status, CommandStatus::good);
  EXPECT_TRUE(drive->tray_open());
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x023A02u);
  EXPECT_EQ(run({0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0}, {}, 8).data, (Bytes{0, 0x10, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(run({0x1B, 0, 0, 0, 3, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x062800u);
}

TEST_F(CdromTest, DiscInformationIsThatOfACompleteDisc) {
  make();
  const Bytes data = run({0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0}, {}, 34).data;
  EXPECT_EQ(Bytes(data.begin(), data.begin() + 8), (Bytes{0, 32, 0x0E, 1, 1, 1, 1, 0x20}));
  EXPECT_EQ(run({0x51, 1, 0, 0, 0, 0, 0, 0, 34, 0}, {}, 34).fixed_sense(), 0x052400u);
}

struct TargetTest : ::testing::Test {
  Answer run(unsigned lun, const Bytes& cdb, std::size_t in = 0) {
    auto command = std::make_shared<Command>();
    std::copy(cdb.begin(), cdb.end(), command->cdb.begin());
    Bytes buffer(in);
    if (in) command->in.emplace_back(buffer);
    command->in_bytes = in;
    Answer answer;
    command->done = [&, raw = command.get()] {
      answer = {
          true, raw->status, Bytes(buffer.begin(), buffer.begin() + static_cast<long>(raw->moved)), {}, raw->overrun};
      answer.sense.assign(raw->sense.bytes.begin(), raw->sense.bytes.begin() + static_cast<long>(raw->sense.length));
    };
    target.execute(lun, command);
    return answer;
  }
  testing::FakeBlock store{1 << 20};
  std::unique_ptr<Disk> disk = Disk::create(store, {}).value();
  Target target;
};

TEST_F(TargetTest, ReportsItsUnits) {
  target.add(3, *disk);
  target.add(300, *disk);
  EXPECT_EQ(
      run(3, {0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0}, 255).data,
      (Bytes{0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x41, 0x2C, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(run(0, {0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 255, 0, 0}, 255).data, (Bytes(8)));
  EXPECT_EQ(run(0, {0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0}, 15).fixed_sense(), 0x052400u);
}

TEST_F(TargetTest, AnswersForUnitsThatAreNotThere) {
  target.add(0, *disk);
  const Answer inquiry = run(1, {0x12, 0, 0, 0, 36, 0}, 36);
  ASSERT_EQ(inquiry.data.size(), 36u);
  EXPECT_EQ(inquiry.data[0], 0x7F);
  EXPECT_EQ(run(1, {0, 0, 0, 0, 0, 0}).fixed_sense(), 0x052500u);
  EXPECT_EQ(run(1, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 512).fixed_sense(), 0x052500u);
  const Answer sense = run(1, {0x03, 0, 0, 0, 18, 0}, 18);
  EXPECT_EQ(sense.data[12], 0x25);
}

}  // namespace
}  // namespace husk::devices::scsi
