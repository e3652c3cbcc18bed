// husk: tests of the SCSI disk against SPC-4 and SBC-3
#include "devices/scsi/disk.h"

#include <gtest/gtest.h>

#include "base/bits.h"
#include "devices/scsi/initiator.h"
#include "testing/fake_block.h"

namespace husk::devices::scsi {
namespace {

Bytes text(std::string_view s) { return {s.begin(), s.end()}; }

struct DiskTest : ::testing::Test {
  void make(Disk::Config config = {}) {
    disk = Disk::create(store, std::move(config)).value();
    initiator.emplace(*disk);
    initiator->settle();
  }
  Answer run(const Bytes& cdb, Bytes out = {}, std::size_t in = 0) { return initiator->run(cdb, std::move(out), in); }
  static Bytes blocks(unsigned count, std::uint8_t seed = 1) {
    Bytes bytes(count * 512u);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 512 + seed);
    return bytes;
  }
  Bytes stored(std::size_t lba, std::size_t count) const {
    return {store.content.begin() + static_cast<long>(lba * 512),
            store.content.begin() + static_cast<long>((lba + count) * 512)};
  }
  testing::FakeBlock store{1 << 20};
  std::unique_ptr<Disk> disk;
  std::optional<Initiator> initiator;
};

TEST_F(DiskTest, TheFirstCommandMeetsThePowerOnAttentionAndInquiryDoesNot) {
  disk = Disk::create(store, {}).value();
  Initiator i(*disk);
  EXPECT_EQ(i.run({0x12, 0, 0, 0, 36, 0}, {}, 36).status, CommandStatus::good);
  const Answer first = i.run({0, 0, 0, 0, 0, 0});
  EXPECT_EQ(first.status, CommandStatus::check_condition);
  EXPECT_EQ(first.sense[0], 0x70);
  EXPECT_EQ(first.fixed_sense(), 0x062900u);
  EXPECT_EQ(first.sense[7], 10);
  EXPECT_EQ(i.run({0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
}

TEST_F(DiskTest, RequestSenseTellsAnAttentionOnceInTheFormatAskedFor) {
  make();
  disk->attend(kCapacityChanged);
  const Bytes descriptor = run({0x03, 1, 0, 0, 252, 0}, {}, 252).data;
  ASSERT_EQ(descriptor.size(), 8u);
  EXPECT_EQ(descriptor, (Bytes{0x72, 6, 0x2A, 0x09, 0, 0, 0, 0}));
  const Bytes none = run({0x03, 0, 0, 0, 18, 0}, {}, 18).data;
  EXPECT_EQ(none, (Bytes{0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_F(DiskTest, StandardInquiryNamesAnSpc4Disk) {
  make({.identity = {.vendor = "ACME", .product = "Anvil", .revision = "7"}});
  const Bytes data = run({0x12, 0, 0, 0, 96, 0}, {}, 96).data;
  ASSERT_EQ(data.size(), 96u);
  EXPECT_EQ(Bytes(data.begin(), data.begin() + 8), (Bytes{0, 0, 6, 0x12, 91, 0, 0, 2}));
  EXPECT_EQ(Bytes(data.begin() + 8, data.begin() + 36), text("ACME    Anvil           7   "));
  EXPECT_EQ(Bytes(data.begin() + 58, data.begin() + 64), (Bytes{0x00, 0xA0, 0x04, 0x60, 0x04, 0xC0}));
}

TEST_F(DiskTest, AnAllocationLengthCutsAnswersOffAndABufferThatIsSmallerIsAnOverrun) {
  make();
  for (const std::uint8_t length : std::initializer_list<std::uint8_t>{0, 1, 5, 36, 95, 96})
    EXPECT_EQ(run({0x12, 0, 0, 0, length, 0}, {}, length).data.size(), length);
  EXPECT_EQ(run({0x12, 0, 0, 1, 0, 0}, {}, 256).data.size(), 96u);
  const Answer small = run({0x12, 0, 0, 0, 96, 0}, {}, 95);
  EXPECT_TRUE(small.overrun);
  EXPECT_TRUE(small.data.empty());
}

TEST_F(DiskTest, InquiryRefusesPagesThatAreNotThere) {
  make();
  EXPECT_EQ(run({0x12, 0, 0x80, 0, 96, 0}, {}, 96).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x12, 2, 0, 0, 96, 0}, {}, 96).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x12, 1, 0x80, 0, 96, 0}, {}, 96).fixed_sense(), 0x052400u) << "no serial number, no page";
  EXPECT_EQ(run({0x12, 1, 0xC0, 0, 96, 0}, {}, 96).fixed_sense(), 0x052400u);
}

TEST_F(DiskTest, VitalProductPagesTellWhoTheDiskIs) {
  make({.identity = {.product = "P", .serial = "S-42", .wwn = 0x5000C50015EA71AC}});
  EXPECT_EQ(run({0x12, 1, 0x00, 0, 96, 0}, {}, 96).data, (Bytes{0, 0, 0, 6, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2}));
  EXPECT_EQ(run({0x12, 1, 0x80, 0, 96, 0}, {}, 96).data, (Bytes{0, 0x80, 0, 4, 'S', '-', '4', '2'}));
  Bytes expected{0, 0x83, 0, 28, 0x02, 0x01, 0, 12, 'H', 'U', 'S', 'K', ' ', ' ', ' ', ' ', 'S', '-', '4', '2'};
  expected.insert(expected.end(), {0x01, 0x03, 0, 8, 0x50, 0x00, 0xC5, 0x00, 0x15, 0xEA, 0x71, 0xAC});
  EXPECT_EQ(run({0x12, 1, 0x83, 0, 96, 0}, {}, 96).data, expected);
}

TEST_F(DiskTest, BlockLimitsCharacteristicsAndProvisioningAreAsConfigured) {
  make({.min_io = 4096, .opt_io = 65536, .discard_granularity = 8192, .rotation_rate = 1});
  const Bytes limits = run({0x12, 1, 0xB0, 0, 64, 0}, {}, 64).data;
  ASSERT_EQ(limits.size(), 64u);
  EXPECT_EQ(limits[3], 60);
  EXPECT_EQ(limits[4], 1);                                   // WSNZ
  EXPECT_EQ(load_be<std::uint16_t>(&limits[6]), 8);          // optimal granularity
  EXPECT_EQ(load_be<std::uint32_t>(&limits[12]), 128u);      // optimal length
  EXPECT_EQ(load_be<std::uint32_t>(&limits[20]), 2097152u);  // 1 GiB a command
  EXPECT_EQ(load_be<std::uint32_t>(&limits[24]), 255u);
  EXPECT_EQ(load_be<std::uint32_t>(&limits[28]), 16u);
  EXPECT_EQ(load_be<std::uint64_t>(&limits[36]), 2097152u);
  const Bytes turns = run({0x12, 1, 0xB1, 0, 64, 0}, {}, 64).data;
  EXPECT_EQ(turns.size(), 64u);
  EXPECT_EQ(load_be<std::uint16_t>(&turns[4]), 1);
  EXPECT_EQ(run({0x12, 1, 0xB2, 0, 64, 0}, {}, 64).data, (Bytes{0, 0xB2, 0, 4, 0, 0xE0, 2, 0}));
}

TEST_F(DiskTest, CapacityIsTheLastBlockAndTheTopology) {
  make({.physical_block = 4096});
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8).data, (Bytes{0, 0, 7, 0xFF, 0, 0, 2, 0}));
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0}, {}, 8).fixed_sense(), 0x052400u);
  const Bytes sixteen = run({0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, {}, 32).data;
  ASSERT_EQ(sixteen.size(), 32u);
  EXPECT_EQ(load_be<std::uint64_t>(&sixteen[0]), 2047u);
  EXPECT_EQ(load_be<std::uint32_t>(&sixteen[8]), 512u);
  EXPECT_EQ(sixteen[13], 3);     // 2^3 logical blocks in a physical one
  EXPECT_EQ(sixteen[14], 0x80);  // LBPME
  EXPECT_EQ(run({0x9E, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, {}, 32).fixed_sense(), 0x052400u);
}

TEST_F(DiskTest, AResizeIsAUnitAttention) {
  make();
  std::uint16_t news = 0;
  disk->set_news([&](std::uint16_t code) { news = code; });
  store.resize(2 << 20);
  EXPECT_EQ(news, 0x2A09);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x062A09u);
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8).data, (Bytes{0, 0, 0xF, 0xFF, 0, 0, 2, 0}));
}

TEST_F(DiskTest, EverySizeOfCdbWritesAndReadsBack) {
  make();
  const Bytes cdbs[][2] = {
      {{0x0A, 0, 0, 3, 2, 0}, {0x08, 0, 0, 3, 2, 0}},
      {{0x2A, 0, 0, 0, 0, 9, 0, 0, 2, 0}, {0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0}},
      {{0xAA, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0}, {0xA8, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0}},
      {{0x8A, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0}, {0x88, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0}}};
  const unsigned places[] = {3, 9, 20, 256};
  for (unsigned i = 0; i < 4; ++i) {
    const Bytes data = blocks(2, static_cast<std::uint8_t>(i));
    EXPECT_EQ(run(cdbs[i][0], data).status, CommandStatus::good);
    EXPECT_EQ(stored(places[i], 2), data);
    EXPECT_EQ(run(cdbs[i][1], {}, 1024).data, data);
  }
}

TEST_F(DiskTest, ACountOfZeroIs256InSixBytesAndNothingElsewhere) {
  make();
  EXPECT_EQ(run({0x08, 0, 0, 0, 0, 0}, {}, 256 * 512).data.size(), 256u * 512);
  EXPECT_TRUE(run({0x08, 0, 0, 0, 0, 0}, {}, 512).overrun);
  store.log.clear();
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_TRUE(store.log.empty());
}

TEST_F(DiskTest, BlocksBeyondTheEndAreOutOfRangeWithTheFirstBadAddress) {
  make();
  const Answer past = run({0x28, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0}, {}, 1024);
  EXPECT_EQ(past.fixed_sense(), 0x052100u);
  EXPECT_EQ(past.sense[0], 0xF0);
  EXPECT_EQ(load_be<std::uint32_t>(&past.sense[3]), 2048u);
  EXPECT_EQ(run({0x88, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 2, 0, 0}, {}, 1024).fixed_sense(),
            0x052100u);
  EXPECT_EQ(run({0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0}, blocks(1)).fixed_sense(), 0x052100u);
  EXPECT_EQ(run({0x28, 0, 0, 0, 7, 0xFF, 0, 0, 1, 0}, {}, 512).status, CommandStatus::good);
  EXPECT_TRUE(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 2, 0}, blocks(1)).overrun);
}

TEST_F(DiskTest, FuaAndAnOffWriteCacheMakeWritesStable) {
  make();
  run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1));
  EXPECT_EQ(store.log.back().flags, 0u);
  run({0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1));
  EXPECT_EQ(store.log.back().flags, core::BlockFlags::kFua);
  // MODE SELECT of the caching page without WCE.
  Bytes list(24);
  list[4] = 0x08;
  list[5] = 0x12;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 24, 0}, list).status, CommandStatus::good);
  run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1));
  EXPECT_EQ(store.log.back().flags, core::BlockFlags::kFua);
  EXPECT_EQ(run({0x1A, 8, 0x08, 0, 255, 0}, {}, 255).data[6], 0);
  EXPECT_EQ(run({0x1A, 8, 0x88, 0, 255, 0}, {}, 255).data[6], 4) << "the default";
  disk->reset_unit();
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x062903u);
  EXPECT_EQ(run({0x1A, 8, 0x08, 0, 255, 0}, {}, 255).data[6], 4) << "a reset brings it back";
}

TEST_F(DiskTest, ProtectionAndNacaAreRefused) {
  make();
  EXPECT_EQ(run({0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x2A, 0x20, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 4}).fixed_sense(), 0x052400u);
  for (const std::uint8_t opcode : std::initializer_list<std::uint8_t>{0x5E, 0x5F, 0x04, 0x7F, 0xC0, 0xFF})
    EXPECT_EQ(run({opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0}).fixed_sense(), 0x052000u) << +opcode;
}

TEST_F(DiskTest, ModeSenseHasHeadersDescriptorsAndPages) {
  make();
  const Bytes six = run({0x1A, 0, 0x3F, 0, 255, 0}, {}, 255).data;
  ASSERT_EQ(six.size(), 4u + 8 + 12 + 20 + 12);
  EXPECT_EQ(Bytes(six.begin(), six.begin() + 12), (Bytes{55, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0}));
  EXPECT_EQ(six[12], 0x01);
  EXPECT_EQ(six[24], 0x08);
  EXPECT_EQ(six[44], 0x0A);
  const Bytes ten = run({0x5A, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0}, {}, 255).data;
  ASSERT_EQ(ten.size(), 8u + 16 + 20);
  EXPECT_EQ(Bytes(ten.begin(), ten.begin() + 8), (Bytes{0, 42, 0, 0x10, 1, 0, 0, 16}));
  EXPECT_EQ(load_be<std::uint64_t>(&ten[8]), 2048u);
  EXPECT_EQ(load_be<std::uint32_t>(&ten[20]), 512u);
  EXPECT_EQ(run({0x1A, 0, 0xC8, 0, 255, 0}, {}, 255).fixed_sense(), 0x053900u) << "saved values";
  EXPECT_EQ(run({0x1A, 0, 0x1F, 0, 255, 0}, {}, 255).fixed_sense(), 0x052400u);
}

TEST_F(DiskTest, ModeSelectChangesOnlyWhatIsChangeable) {
  make();
  Bytes control(16);
  control[4] = 0x0A;
  control[5] = 0x0A;
  control[6] = 0x04;
  control[7] = 0x10;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 16, 0}, control).status, CommandStatus::good);
  // D_SENSE: sense data are descriptors from now on.
  EXPECT_EQ(run({0xC0, 0, 0, 0, 0, 0}).sense, (Bytes{0x72, 5, 0x20, 0, 0, 0, 0, 0}));
  control[6] = 0x00;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 16, 0}, control).status, CommandStatus::good);
  control[7] = 0x20;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 16, 0}, control).fixed_sense(), 0x052600u);
  control[7] = 0x10;
  EXPECT_EQ(run({0x15, 0x11, 0, 0, 16, 0}, control).fixed_sense(), 0x053900u);
  EXPECT_EQ(run({0x15, 0x00, 0, 0, 16, 0}, control).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 3, 0}, control).fixed_sense(), 0x051A00u);
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 15, 0}, control).fixed_sense(), 0x051A00u);
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_TRUE(run({0x15, 0x10, 0, 0, 17, 0}, control).overrun);
  control[3] = 9;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 16, 0}, control).fixed_sense(), 0x052600u);
  control[3] = 200;
  EXPECT_EQ(run({0x15, 0x10, 0, 0, 16, 0}, control).fixed_sense(), 0x051A00u);
}

TEST_F(DiskTest, AReadOnlyDiskIsWriteProtected) {
  store.read_only = true;
  make();
  EXPECT_EQ(run({0x1A, 8, 0x08, 0, 255, 0}, {}, 255).data[2], 0x90);
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x072700u);
  EXPECT_EQ(run({0x0A, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x072700u);
  EXPECT_EQ(run({0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x072700u);
  EXPECT_EQ(run({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, Bytes(24)).fixed_sense(), 0x072700u);
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).status, CommandStatus::good);
}

TEST_F(DiskTest, VerifyReadsAndComparesAndTellsAMiscompare) {
  make();
  const Bytes data = blocks(4);
  std::copy(data.begin(), data.end(), store.content.begin() + 512 * 8);
  EXPECT_EQ(run({0x2F, 0, 0, 0, 0, 8, 0, 0, 4, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x2F, 2, 0, 0, 0, 8, 0, 0, 4, 0}, data).status, CommandStatus::good);
  store.content[512 * 11 + 511] ^= 1;
  EXPECT_EQ(run({0x2F, 2, 0, 0, 0, 8, 0, 0, 4, 0}, data).fixed_sense(), 0x0E1D00u);
  EXPECT_EQ(run({0x2F, 4, 0, 0, 0, 8, 0, 0, 4, 0}, data).fixed_sense(), 0x052400u) << "BYTCHK 10b is reserved";
  std::fill_n(store.content.begin(), 4 * 512, std::uint8_t{9});
  EXPECT_EQ(run({0x2F, 6, 0, 0, 0, 0, 0, 0, 4, 0}, Bytes(512, 9)).status, CommandStatus::good);
  EXPECT_EQ(run({0x2F, 6, 0, 0, 0, 0, 0, 0, 5, 0}, Bytes(512, 9)).fixed_sense(), 0x0E1D00u);
  EXPECT_TRUE(run({0x2F, 2, 0, 0, 0, 8, 0, 0, 4, 0}, blocks(3)).overrun);
  // And what is written is verified.
  EXPECT_EQ(run({0x2E, 2, 0, 0, 0, 40, 0, 0, 4, 0}, data).status, CommandStatus::good);
  EXPECT_EQ(stored(40, 4), data);
}

TEST_F(DiskTest, VerifyOfMoreThanFitsInMemoryGoesStepByStep) {
  store.content.assign(8 << 20, 0);
  make();
  store.log.clear();
  EXPECT_EQ(run({0xAF, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(store.log.size(), 8u);
}

TEST_F(DiskTest, WriteSameFillsAndZeroesAndUnmaps) {
  make();
  Bytes block(512, 0x5A);
  EXPECT_EQ(run({0x41, 0, 0, 0, 0, 4, 0, 0, 3, 0}, block).status, CommandStatus::good);
  EXPECT_EQ(stored(4, 3), Bytes(3 * 512, 0x5A));
  EXPECT_EQ(stored(7, 1), Bytes(512, 0));
  store.log.clear();
  EXPECT_EQ(run({0x93, 0x08, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0}, Bytes(512)).status, CommandStatus::good);
  ASSERT_EQ(store.log.size(), 1u);
  EXPECT_EQ(store.log[0].op, core::BlockOp::write_zeroes);
  EXPECT_EQ(store.log[0].flags, core::BlockFlags::kMayUnmap);
  EXPECT_EQ(store.log[0].offset, 2048u);
  EXPECT_EQ(store.log[0].length, 1024u);
  // NDOB: no data-out buffer, zeroes.
  EXPECT_EQ(run({0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(stored(6, 1), Bytes(512, 0));
  EXPECT_EQ(run({0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0}, block).fixed_sense(), 0x052400u) << "WSNZ";
  EXPECT_EQ(run({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0}, block).fixed_sense(), 0x052400u);
  EXPECT_EQ(run({0x41, 0x10, 0, 0, 0, 0, 0, 0, 1, 0}, block).fixed_sense(), 0x052400u) << "ANCHOR";
  EXPECT_TRUE(run({0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0}, Bytes(511)).overrun);
  EXPECT_EQ(run({0x41, 0, 0, 0, 7, 0xFF, 0, 0, 2, 0}, block).fixed_sense(), 0x052100u);
}

Bytes unmap_list(std::initializer_list<std::pair<std::uint64_t, std::uint32_t>> ranges) {
  Bytes list(8 + ranges.size() * 16);
  store_be<std::uint16_t>(&list[0], static_cast<std::uint16_t>(list.size() - 2));
  store_be<std::uint16_t>(&list[2], static_cast<std::uint16_t>(list.size() - 8));
  std::size_t at = 8;
  for (const auto& [lba, count] : ranges) {
    store_be<std::uint64_t>(&list[at], lba);
    store_be<std::uint32_t>(&list[at + 8], count);
    at += 16;
  }
  return list;
}

TEST_F(DiskTest, UnmapDiscardsEveryRangeOrNone) {
  make();
  std::fill(store.content.begin(), store.content.end(), std::uint8_t{1});
  const auto unmap = [&](const Bytes& list, std::uint16_t length) {
    return run({0x42, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length), 0},
               list);
  };
  EXPECT_EQ(unmap(unmap_list({{1, 2}, {10, 0}, {100, 1}}), 56).status, CommandStatus::good);
  EXPECT_EQ(stored(1, 2), Bytes(1024, 0));
  EXPECT_EQ(stored(100, 1), Bytes(512, 0));
  EXPECT_EQ(stored(3, 1), Bytes(512, 1));
  store.log.clear();
  EXPECT_EQ(unmap(unmap_list({{5, 1}, {2048, 1}}), 40).fixed_sense(), 0x052100u);
  EXPECT_TRUE(store.log.empty());
  EXPECT_EQ(unmap(unmap_list({{5, 1}}), 0).status, CommandStatus::good);
  EXPECT_EQ(unmap(unmap_list({{5, 1}}), 7).fixed_sense(), 0x051A00u);
  EXPECT_EQ(unmap(unmap_list({{5, 1}}), 23).status, CommandStatus::good) << "a descriptor that is cut off";
  EXPECT_TRUE(store.log.empty());
  EXPECT_TRUE(unmap(unmap_list({{5, 1}}), 25).overrun);
  Bytes lying = unmap_list({{5, 1}});
  store_be<std::uint16_t>(&lying[2], 0xFFFF);
  EXPECT_EQ(unmap(lying, 24).status, CommandStatus::good);
  EXPECT_EQ(store.log.size(), 1u);
}

TEST_F(DiskTest, SynchronizeCacheFlushes) {
  make();
  store.log.clear();
  EXPECT_EQ(run({0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  ASSERT_EQ(store.log.size(), 2u);
  EXPECT_EQ(store.log[1].op, core::BlockOp::flush);
  EXPECT_EQ(run({0x35, 0, 0, 0, 0xFF, 0, 0, 0, 0, 0}).fixed_sense(), 0x052100u);
}

TEST_F(DiskTest, AStoppedDiskIsNotReadyUntilItIsStarted) {
  make();
  EXPECT_EQ(run({0x1B, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x020402u);
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).fixed_sense(), 0x020402u);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 1, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 2, 0}).fixed_sense(), 0x052400u) << "nothing to eject";
  EXPECT_EQ(run({0x1E, 0, 0, 0, 1, 0}).fixed_sense(), 0x052000u);
}

TEST_F(DiskTest, ARemovableDiskIsEjectedUnlessThatIsPrevented) {
  make({.removable = true});
  EXPECT_EQ(run({0x12, 0, 0, 0, 36, 0}, {}, 36).data[1], 0x80);
  EXPECT_EQ(run({0x1E, 0, 0, 0, 1, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 2, 0}).fixed_sense(), 0x055302u);
  EXPECT_EQ(run({0x1E, 0, 0, 0, 0, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 2, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).fixed_sense(), 0x023A00u);
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8).fixed_sense(), 0x023A00u);
  EXPECT_EQ(run({0x1B, 0, 0, 0, 3, 0}).status, CommandStatus::good);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).fixed_sense(), 0x062800u);
  EXPECT_EQ(run({0, 0, 0, 0, 0, 0}).status, CommandStatus::good);
}

TEST_F(DiskTest, BackendErrorsBecomeSenseData) {
  make();
  store.fail_with = EIO;
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).fixed_sense(), 0x031100u);
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x030C00u);
  EXPECT_EQ(run({0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}).fixed_sense(), 0x030C00u);
  EXPECT_EQ(run({0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0}).fixed_sense(), 0x031100u);
  make({.policy = {.write = core::OnBlockError::report}});
  store.fail_with = ENOSPC;
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x072707u);
}

TEST_F(DiskTest, PoliciesIgnoreErrorsOrWantTheMachineStopped) {
  make({.policy = {.read = core::OnBlockError::ignore, .write = core::OnBlockError::enospc}});
  store.fail_with = EIO;
  EXPECT_EQ(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).status, CommandStatus::good);
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).fixed_sense(), 0x030C00u);
  store.fail_with = ENOSPC;
  EXPECT_TRUE(run({0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).stop_wanted);
  EXPECT_TRUE(run({0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0}, blocks(1)).stop_wanted);
  make({.policy = {.read = core::OnBlockError::stop}});
  store.fail_with = EIO;
  EXPECT_TRUE(run({0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 512).stop_wanted);
}

TEST_F(DiskTest, CommandsThatNeedMemoryOfHusksWaitForEachOther) {
  make();
  store.hold = true;
  std::vector<std::unique_ptr<Initiator::Pending>> all;
  for (int i = 0; i < 6; ++i) all.push_back(initiator->begin({0x2F, 0, 0, 0, 0, 0, 0, 0, 8, 0}, {}, 0));
  EXPECT_EQ(store.held.size(), 4u);
  disk->abort(all[5]->command);
  EXPECT_TRUE(all[5]->answer.answered);
  store.complete();
  EXPECT_TRUE(all[0]->answer.answered);
  EXPECT_EQ(store.held.size(), 4u);
  while (!store.held.empty()) store.complete();
  for (const auto& one : all) EXPECT_TRUE(one->answer.answered);
}

TEST_F(DiskTest, AnAbortedCommandEndsAfterTheStepThatRuns) {
  store.content.assign(8 << 20, 0);
  make();
  store.hold = true;
  const auto long_one = initiator->begin({0xAF, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0}, {}, 0);
  disk->abort(long_one->command);
  EXPECT_FALSE(long_one->answer.answered);
  store.complete();
  EXPECT_TRUE(long_one->answer.answered);
  EXPECT_TRUE(store.held.empty());
}

TEST_F(DiskTest, LargeBlocksCountInTheirOwnUnits) {
  make({.logical_block = 4096, .physical_block = 4096});
  EXPECT_EQ(run({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8).data, (Bytes{0, 0, 0, 0xFF, 0, 0, 0x10, 0}));
  EXPECT_EQ(run({0x2A, 0, 0, 0, 0, 2, 0, 0, 1, 0}, Bytes(4096, 3)).status, CommandStatus::good);
  EXPECT_EQ(stored(16, 8), Bytes(4096, 3));
}

TEST_F(DiskTest, ImpossibleDisksAreRefused) {
  EXPECT_FALSE(Disk::create(store, {.logical_block = 1000}));
  EXPECT_FALSE(Disk::create(store, {.logical_block = 4096, .physical_block = 512}));
  EXPECT_FALSE(Disk::create(store, {.rotation_rate = 2}));
  EXPECT_FALSE(Disk::create(store, {.discard_granularity = 100}));
  EXPECT_FALSE(Disk::create(store, {.identity = {.vendor = "NINECHARS"}}));
  EXPECT_FALSE(Disk::create(store, {.identity = {.serial = "caf\xC3\xA9"}}));
}

}  // namespace
}  // namespace husk::devices::scsi
