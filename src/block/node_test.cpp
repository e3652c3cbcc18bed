// husk: files, raw windows, memory overlays, throttling and NBD as block nodes
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>

#include "block/disk_fixture.h"
#include "block/nbd.h"
#include "block/overlay.h"
#include "block/raw.h"
#include "block/throttle.h"

namespace husk::block {
namespace {

using core::BlockFlags;
using core::BlockOp;
using ::testing::HasSubstr;

class Nodes : public DiskFixture {};

/// Every cache mode on both engines, at offsets and lengths that O_DIRECT does not take.
TEST_F(Nodes, AFileHoldsWhatAnArrayHoldsInEachCacheModeAndEngine) {
  for (const EngineChoice engine : {EngineChoice::io_uring, EngineChoice::threads}) {
    context_.reset();
    context_ = Context::create(*loop_, log_, engine).value();
    for (const CacheMode cache :
         {CacheMode::none, CacheMode::writeback, CacheMode::writethrough, CacheMode::directsync, CacheMode::unsafe}) {
      Bytes model(300'032);
      write_content(path("f"), model);
      auto node = open({.path = path("f"), .format = "raw", .cache = cache});
      ASSERT_TRUE(node);
      std::mt19937_64 random(1);
      for (int step = 0; step < 60; ++step) {
        const std::uint64_t offset = random() % model.size(),
                            length = 1 + random() % std::min<std::uint64_t>(20'000, model.size() - offset);
        const auto begin = model.begin() + static_cast<std::ptrdiff_t>(offset);
        switch (random() % 4) {
          case 0:
            EXPECT_EQ(zero(*node, offset, length, random() % 2 ? BlockFlags::kMayUnmap : 0), 0);
            std::fill_n(begin, length, std::uint8_t{0});
            break;
          case 1:
            EXPECT_EQ(read(*node, offset, length), Bytes(begin, begin + static_cast<std::ptrdiff_t>(length)));
            break;
          default: {
            const Bytes bytes = random_bytes(length, static_cast<unsigned>(step));
            EXPECT_EQ(write(*node, offset, bytes, step % 5 == 0 ? BlockFlags::kFua : 0), 0);
            std::copy(bytes.begin(), bytes.end(), begin);
          }
        }
      }
      EXPECT_EQ(flush(*node), 0);
      EXPECT_EQ(read(*node, 0, model.size()), model);
      EXPECT_EQ(write(*node, model.size() - 1, Bytes(2)), EINVAL);
      close(node);
      Bytes stored = file_content(path("f"));
      stored.resize(model.size());
      EXPECT_EQ(stored, model);
    }
  }
}

TEST_F(Nodes, NeighbouringUnalignedWritesWithoutTheHostsCacheKeepApart) {
  write_content(path("f"), Bytes(64 * 1024));
  auto node = open({.path = path("f"), .format = "raw", .cache = CacheMode::none});
  ASSERT_TRUE(node);
  // All at once, each its own 100 bytes of shared blocks.
  std::vector<Bytes> pieces;
  std::vector<core::BlockSpan> spans;
  for (unsigned i = 0; i < 200; ++i) pieces.emplace_back(100, static_cast<std::uint8_t>(i + 1));
  for (Bytes& piece : pieces) spans.emplace_back(piece);
  unsigned pending = 200;
  for (unsigned i = 0; i < 200; ++i)
    node->submit({.op = BlockOp::write,
                  .flags = 0,
                  .offset = i * 100,
                  .length = 100,
                  .spans = {&spans[i], 1},
                  .completion = [&](int error) {
                    EXPECT_EQ(error, 0);
                    --pending;
                  }});
  while (pending > 0) loop_->run_once();
  const Bytes got = read(*node, 0, 20'000);
  for (unsigned i = 0; i < 20'000; ++i) ASSERT_EQ(got[i], i / 100 + 1) << i;
  close(node);
}

TEST_F(Nodes, AnImageInUseIsRefusedToAndByQemu) {
  qemu_create("-f qcow2 " + path("i") + " 1M");
  auto node = open({.path = path("i")});
  ASSERT_TRUE(node);
  EXPECT_THAT(run_command("qemu-img info " + path("i")).output, HasSubstr("lock"));
  EXPECT_EQ(run_command("qemu-img info -U " + path("i")).status, 0);
  const auto second = open_disk(*context_, {.path = path("i")});
  ASSERT_FALSE(second.has_value());
  EXPECT_THAT(second.error().text(), HasSubstr("another process"));
  auto forced = open({.path = path("i"), .read_only = true, .locking = Locking::force_share});
  ASSERT_TRUE(forced);
  close(forced);
  close(node);
  // Readers do not hinder each other.
  auto one = open({.path = path("i"), .read_only = true}), two = open({.path = path("i"), .read_only = true});
  EXPECT_EQ(run_command("qemu-img info " + path("i")).status, 0);
  close(one);
  close(two);
}

TEST_F(Nodes, ARawWindowStaysInItsWindow) {
  Bytes content = random_bytes(10'240, 3);
  write_content(path("w"), content);
  DiskOptions options{.path = path("w"), .format = "raw"};
  options.raw_offset = 1000;
  options.raw_size = 2048;
  auto node = open(options);
  ASSERT_TRUE(node);
  EXPECT_EQ(node->info().size, 2048u);
  EXPECT_EQ(read(*node, 0, 2048), Bytes(content.begin() + 1000, content.begin() + 3048));
  EXPECT_EQ(write(*node, 2047, Bytes(2)), EINVAL);
  EXPECT_EQ(write(*node, 2000, Bytes(48, 9)), 0);
  close(node);
  std::fill_n(content.begin() + 3000, 48, std::uint8_t{9});
  EXPECT_EQ(file_content(path("w")), content);
}

TEST_F(Nodes, AGuessedRawDiskCannotBeMadeAnotherFormat) {
  write_content(path("g"), Bytes(4096));
  auto node = open({.path = path("g")});
  ASSERT_TRUE(node);
  Bytes magic(512);
  magic[0] = 'Q';
  magic[1] = 'F';
  magic[2] = 'I';
  magic[3] = 0xfb;
  EXPECT_EQ(write(*node, 0, magic), EPERM);
  EXPECT_EQ(write(*node, 512, magic), 0);
  EXPECT_EQ(write(*node, 0, Bytes(512, 7)), 0);
  close(node);
  auto given = open({.path = path("g"), .format = "raw"});
  EXPECT_EQ(write(*given, 0, magic), 0);
  close(given);
}

TEST_F(Nodes, ATemporaryDiskLeavesItsImageAlone) {
  Bytes model = random_bytes(1 << 20, 5);
  write_content(path("t"), model);
  const Bytes before = model;
  auto node = open({.path = path("t"), .format = "raw", .temporary = true});
  ASSERT_TRUE(node);
  std::mt19937_64 random(6);
  for (int step = 0; step < 300; ++step) {
    const std::uint64_t offset = random() % model.size(),
                        length = 1 + random() % std::min<std::uint64_t>(30'000, model.size() - offset);
    const auto begin = model.begin() + static_cast<std::ptrdiff_t>(offset);
    if (random() % 3 == 0) {
      EXPECT_EQ(zero(*node, offset, length), 0);
      std::fill_n(begin, length, std::uint8_t{0});
    } else if (random() % 3 == 0) {
      EXPECT_EQ(read(*node, offset, length), Bytes(begin, begin + static_cast<std::ptrdiff_t>(length)));
    } else {
      const Bytes bytes = random_bytes(length, static_cast<unsigned>(step));
      EXPECT_EQ(write(*node, offset, bytes), 0);
      std::copy(bytes.begin(), bytes.end(), begin);
    }
  }
  EXPECT_EQ(read(*node, 0, model.size()), model);
  close(node);
  EXPECT_EQ(file_content(path("t")), before);
}

/// Time that the test moves.
TEST_F(Nodes, AThrottleLetsThroughItsRateAndNoMore) {
  std::uint64_t now = 1'000'000'000;
  ThrottleLimits limits;
  limits.write_requests.average = 100;
  ThrottleBucket bucket(limits.write_requests);
  // A tenth of a second's worth at once, then one each 10 ms.
  unsigned at_once = 0;
  while (bucket.delay(now) == 0) {
    bucket.take(1);
    ++at_once;
  }
  EXPECT_EQ(at_once, 11u);
  unsigned later = 0;
  for (const std::uint64_t end = now + 1'000'000'000; now < end; now += 1'000'000)
    while (bucket.delay(now) == 0) {
      bucket.take(1);
      ++later;
    }
  EXPECT_NEAR(later, 100, 1);

  Throttle node(*context_, std::make_unique<Overlay>(nullptr, 1 << 20), limits, [&] { return now; });
  Bytes bytes(512, 1);
  const core::BlockSpan span = bytes;
  unsigned done = 0;
  for (int i = 0; i < 50; ++i)
    node.submit({.op = BlockOp::write,
                 .flags = 0,
                 .offset = 0,
                 .length = 512,
                 .spans = {&span, 1},
                 .completion = [&](int error) {
                   EXPECT_EQ(error, 0);
                   ++done;
                 }});
  EXPECT_EQ(done, 11u);
  // Reads have their own limits: none.
  EXPECT_EQ(read(node, 0, 512), bytes);
  bool drained = false;
  node.drain([&] { drained = true; });
  EXPECT_TRUE(drained);
  EXPECT_EQ(done, 50u);
}

TEST_F(Nodes, AnOversizedHeaderOrTableIsAnErrorAndNoMore) {
  qemu_create("-f qcow2 " + path("h") + " 1M");
  const Bytes good = file_content(path("h"));
  const auto with = [&](std::size_t at, std::initializer_list<unsigned> bytes) {
    Bytes bad = good;
    for (const unsigned byte : bytes) bad[at++] = static_cast<std::uint8_t>(byte);
    write_content(path("h"), bad);
    auto node = open_disk(*context_, {.path = path("h"), .format = "qcow2"});
    return node ? std::string("opened") : node.error().text();
  };
  EXPECT_THAT(with(4, {0, 0, 0, 9}), HasSubstr("version 9"));
  EXPECT_THAT(with(20, {0, 0, 0, 31}), HasSubstr("2^31"));
  EXPECT_THAT(with(20, {0, 0, 0, 8}), HasSubstr("2^8"));
  EXPECT_THAT(with(24, {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), HasSubstr("too small"));
  EXPECT_THAT(with(36, {0xff, 0xff, 0xff, 0xff}), HasSubstr("L1 table of 4294967295"));
  EXPECT_THAT(with(40, {0, 0, 0, 0, 0, 3, 0, 1}), HasSubstr("0x30001"));
  EXPECT_THAT(with(40, {0x7f, 0, 0, 0, 0, 0, 0, 0}), HasSubstr("beyond the end"));
  EXPECT_THAT(with(48, {0, 0, 0, 0, 0, 0, 0, 0}), HasSubstr("refcount table"));
  EXPECT_THAT(with(56, {0xff, 0, 0, 0}), HasSubstr("refcount table"));
  EXPECT_THAT(with(60, {0, 2, 0, 0}), HasSubstr("snapshots"));
  EXPECT_THAT(with(72, {0x80, 0, 0, 0, 0, 0, 0, 0}), HasSubstr("bit 63"));
  EXPECT_THAT(with(96, {0, 0, 0, 7}), HasSubstr("2^7"));
  EXPECT_THAT(with(100, {0, 0xff, 0, 0}), HasSubstr("header's length"));
  EXPECT_THAT(with(8, {0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 4, 0}), HasSubstr("1024 bytes"));
  EXPECT_THAT(with(112, {0xe2, 0x79, 0x2a, 0xca, 0x7f, 0xff, 0xff, 0xff}), HasSubstr("extension"));
  write_content(path("h"), Bytes(good.begin(), good.begin() + 50));
  EXPECT_FALSE(open_disk(*context_, {.path = path("h"), .format = "qcow2"}).has_value());
}

TEST_F(Nodes, AnImageOfNothingButClaimsIsRefusedAtOnce) {
  // An L1 table of 32 MiB that names four million L2 tables, all of them in a hole.
  qemu_create("-f qcow2 " + path("v") + " 1M");
  std::filesystem::resize_file(path("v"), std::uint64_t{1} << 42);
  std::fstream file(path("v"), std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::uint64_t at, std::uint64_t value, int bytes) {
    std::string text;
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift & 0xff);
    file.seekp(static_cast<std::streamoff>(at));
    file << text;
  };
  constexpr std::uint64_t kEntries = (32u << 20) / 8;
  put(24, kEntries * 8192 * 65536, 8);
  put(36, kEntries, 4);
  put(40, 1 << 20, 8);
  put(72, 1, 8);  // dirty: to open it for writing is to count its references
  std::string table;
  for (std::uint64_t i = 0; i < kEntries; ++i)
    for (int shift = 56; shift >= 0; shift -= 8)
      table += static_cast<char>(((i + 1024) << 16 | std::uint64_t{1} << 63) >> shift & 0xff);
  file.seekp(1 << 20);
  file << table;
  file.close();
  const auto node = open_disk(*context_, {.path = path("v")});
  ASSERT_FALSE(node.has_value());
  EXPECT_THAT(node.error().text(), HasSubstr("claims 4194304 L2 tables"));
}

TEST_F(Nodes, AMappingOntoTheTablesIsCaughtBeforeItDoesHarm) {
  qemu_create("-f qcow2 " + path("m") + " 1M");
  ASSERT_EQ(run_command("qemu-io -c 'write 0 64k' " + path("m")).status, 0);
  Bytes bytes = file_content(path("m"));
  // The L2 table is at 0x40000 in qemu-img's layout; its first entry now points at the refcount table (0x10000).
  ASSERT_EQ(bytes[0x40000], 0x80);
  bytes[0x40000 + 5] = 1;
  write_content(path("m"), bytes);
  auto node = open({.path = path("m")});
  EXPECT_EQ(write(*node, 0, Bytes(65536, 0xff)), EIO);
  EXPECT_EQ(write(*node, 1 << 19, Bytes(65536, 0xff)), EIO);  // no more writes at all
  close(node);
  EXPECT_THAT(run_command("qemu-img info " + path("m")).output, HasSubstr("corrupt: true"));
  EXPECT_THAT(open_disk(*context_, {.path = path("m")}).error().text(), HasSubstr("marked as corrupt"));
}

class NbdNodes : public DiskFixture {
 protected:
  void start_server(const std::string& arguments) {
    socket_ = path("socket");
    const std::string pid = path("pid");
    std::filesystem::remove(pid);
    const CommandResult started = run_command(fmt::format("nbdkit -U {} -P {} {}", socket_, pid, arguments));
    ASSERT_EQ(started.status, 0) << started.output;
    // The server forks first and writes the file then.
    pid_ = 0;
    for (int tries = 0; tries < 2000 && pid_ <= 0; ++tries) {
      std::ifstream(pid) >> pid_;
      if (pid_ <= 0) loop_->run_once(5'000'000);
    }
    ASSERT_GT(pid_, 0);
  }
  void stop_server() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    // Not our child: wait until it is gone.
    while (::kill(pid_, 0) == 0) loop_->run_once(1'000'000);
    pid_ = 0;
    std::filesystem::remove(socket_);
  }
  ~NbdNodes() override { stop_server(); }
  std::string socket_;
  pid_t pid_ = 0;
};

TEST_F(NbdNodes, AnExportHoldsWhatAnArrayHolds) {
  start_server("memory 5M");
  for (const std::string& address : {"nbd+unix:///?socket=" + socket_, "nbd:unix:" + socket_}) {
    auto node = open({.path = address, .format = "raw"});
    ASSERT_TRUE(node);
    EXPECT_EQ(node->info().size, 5u << 20);
    Bytes model = read(*node, 0, 5 << 20);
    const Bytes bytes = random_bytes(1'234'567, 2);
    EXPECT_EQ(write(*node, 1000, bytes), 0);
    std::copy(bytes.begin(), bytes.end(), model.begin() + 1000);
    EXPECT_EQ(zero(*node, 5000, 10'000, BlockFlags::kMayUnmap), 0);
    std::fill_n(model.begin() + 5000, 10'000, std::uint8_t{0});
    EXPECT_EQ(discard(*node, 4 << 20, 65536), 0);
    EXPECT_EQ(flush(*node), 0);
    EXPECT_EQ(read(*node, 0, 4 << 20), Bytes(model.begin(), model.begin() + (4 << 20)));
    close(node);
  }
}

TEST_F(NbdNodes, RequestsWaitForAServerThatComesBack) {
  write_content(path("store"), Bytes(1 << 20, 0x11));
  start_server("file " + path("store"));
  DiskOptions options{.path = "nbd+unix:///?socket=" + socket_, .format = "raw"};
  options.nbd_reconnect_ns = 20'000'000'000;
  auto node = open(options);
  ASSERT_TRUE(node);
  EXPECT_EQ(write(*node, 0, Bytes(512, 0x22)), 0);
  stop_server();
  Bytes bytes(512);
  const core::BlockSpan span = bytes;
  int outcome = -1;
  node->submit(
      {.op = BlockOp::read, .flags = 0, .offset = 0, .length = 512, .spans = {&span, 1}, .completion = [&](int error) {
         outcome = error;
       }});
  for (int i = 0; i < 20 && outcome == -1; ++i) loop_->run_once(1'000'000);
  EXPECT_EQ(outcome, -1);
  start_server("file " + path("store"));
  while (outcome == -1) loop_->run_once();
  EXPECT_EQ(outcome, 0);
  EXPECT_EQ(bytes, Bytes(512, 0x22));
  close(node);
}

TEST_F(NbdNodes, WithoutReconnectALostServerIsAnError) {
  start_server("memory 1M");
  auto node = open({.path = "nbd:unix:" + socket_, .format = "raw"});
  ASSERT_TRUE(node);
  stop_server();
  Bytes bytes(512);
  EXPECT_EQ(request(*node, BlockOp::read, 0, bytes, 512), EIO);
  node->drain([] {});
  node.reset();
  EXPECT_FALSE(open_disk(*context_, {.path = "nbd:unix:" + socket_}).has_value());
}

TEST_F(NbdNodes, CarriesAQcow2Image) {
  qemu_create("-f qcow2 " + path("q") + " 4M");
  std::filesystem::resize_file(path("q"), 8 << 20);
  start_server("file " + path("q"));
  auto node = open({.path = "nbd:unix:" + socket_, .format = "qcow2"});
  ASSERT_TRUE(node);
  const Bytes bytes = random_bytes(3'000'000, 4);
  EXPECT_EQ(write(*node, 12'345, bytes), 0);
  EXPECT_EQ(read(*node, 12'345, bytes.size()), bytes);
  close(node);
  stop_server();
  expect_clean(path("q"));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), qemu_content(path("q")).begin() + 12'345));
}

}  // namespace
}  // namespace husk::block
