// husk: tests of address spaces, guest memory and snapshots
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "mem/address_space.h"

namespace husk::mem {
namespace {

struct Recorder : IoHandler {
  std::uint64_t value = 0x1122334455667788;
  std::vector<Access> reads;
  std::vector<std::pair<Access, std::uint64_t>> writes;
  std::uint64_t read(const Access& a) override {
    reads.push_back(a);
    return value >> (a.offset * 8 % 64);
  }
  void write(const Access& a, std::uint64_t v) override { writes.emplace_back(a, v); }
};
constexpr auto kCpu = Requester::cpu(0);

TEST(AddressSpace, NothingReadsAsOnes) {
  AddressSpace space("io", 0x10000);
  EXPECT_EQ(space.read(kCpu, 0x80, 2), 0xFFFFu);
  space.write(kCpu, 0x80, 1, 1);
}

TEST(AddressSpace, WideAccessesAreSplit) {
  AddressSpace space("mem");
  Recorder device;
  const auto mapping = space.map(0x1000, 8, device, {.max_size = 4, .name = "dev"}).value();
  EXPECT_EQ(space.read(kCpu, 0x1000, 8), 0x1122334455667788u);
  ASSERT_EQ(device.reads.size(), 2u);
  space.write(kCpu, 0x1002, 0xAABB, 2);
  EXPECT_EQ(device.writes.at(0).first.offset, 2u);
  EXPECT_EQ(device.writes.at(0).second, 0xAABBu);
}

TEST(AddressSpace, AccessAcrossTheEdgeIsBytewise) {
  AddressSpace space("mem");
  Recorder device;
  device.value = 0;
  const auto mapping = space.map(0x1000, 2, device, {.name = "dev"}).value();
  EXPECT_EQ(space.read(kCpu, 0x1001, 4), 0xFFFFFF00u);
}

TEST(AddressSpace, HigherPriorityWinsAndUnmappingRestores) {
  AddressSpace space("mem");
  Recorder low, high;
  low.value = 1;
  high.value = 2;
  const auto below = space.map(0, 0x3000, low, {.name = "low"}).value();
  auto above = space.map(0x1000, 0x1000, high, {.priority = 1, .name = "high"}).value();
  EXPECT_EQ(space.read(kCpu, 0x1000, 1), 2u);
  EXPECT_EQ(space.find(0x0).length, 0x1000u);
  above.reset();
  EXPECT_EQ(space.find(0x0).length, 0x3000u);
}

TEST(AddressSpace, ChangesAreToldAsLongAsTheListenerLives) {
  AddressSpace space("mem");
  Recorder device;
  unsigned told = 0;
  auto listener = space.on_change([&] { ++told; });
  auto mapping = space.map(0, 8, device, {.name = "dev"}).value();
  EXPECT_EQ(told, 1u);
  listener.reset();
  mapping.reset();
  EXPECT_EQ(told, 1u);
}

TEST(AddressSpace, RefusesRangesOutsideItself) {
  AddressSpace space("io", 0x10000);
  Recorder device;
  EXPECT_FALSE(space.map(0xFFFF, 2, device, {.name = "dev"}));
  EXPECT_FALSE(space.map(0x10, 0, device, {.name = "dev"}));
}

TEST(AddressSpace, ReaderMayRemapFromInsideItsHandler) {
  AddressSpace space("mem");
  struct Mover : IoHandler {
    AddressSpace* space = nullptr;
    Mapping mapping;
    std::uint64_t read(const Access&) override { return 0; }
    void write(const Access&, std::uint64_t value) override {
      mapping.reset();
      mapping = space->map(value, 8, *this, {.name = "mover"}).value();
    }
  } mover;
  mover.space = &space;
  mover.mapping = space.map(0, 8, mover, {.name = "mover"}).value();
  for (Gpa at = 0; at < 8000; at += 8) space.write(kCpu, at, at + 8, 8);
  EXPECT_EQ(space.find(8000).handler, &mover);
}

TEST(AddressSpace, LookUpsRaceWithChanges) {
  AddressSpace space("mem");
  Recorder device;
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) EXPECT_TRUE(space.find(0x1000).handler == &device || !space.find(0x1000).handler || true);
  });
  for (int i = 0; i < 2000; ++i) const auto mapping = space.map(0x1000, 8, device, {.name = "dev"}).value();
  stop = true;
  reader.join();
}

TEST(GuestMemory, CopiesAcrossRegionsAndStopsAtHoles) {
  AddressSpace space("mem");
  const auto a = RamRegion::create("a", kPageSize).value();
  const auto b = RamRegion::create("b", kPageSize).value();
  const auto ma = space.map_ram(0, kPageSize, *a, 0, true).value();
  const auto mb = space.map_ram(kPageSize, kPageSize, *b, 0, false).value();
  GuestMemory memory(space);
  ASSERT_TRUE(memory.store<std::uint32_t>(kPageSize - 4, 0xDEADBEEF));
  b->data()[0] = 0x99;
  EXPECT_EQ(memory.load<std::uint64_t>(kPageSize - 4).value(), 0x99DEADBEEFu);
  EXPECT_FALSE(memory.store<std::uint64_t>(kPageSize - 4, 0)) << "second page is read-only";
  EXPECT_FALSE(memory.load<std::uint8_t>(2 * kPageSize));
  EXPECT_EQ(memory.pin(16, 1 << 20, false).value().span().size(), kPageSize - 16);
}

TEST(RamRegion, DirtyLogSeesEveryWriteOnce) {
  AddressSpace space("mem");
  const auto ram = RamRegion::create("ram", 8 * kPageSize).value();
  const auto mapping = space.map_ram(0, ram->size(), *ram, 0, true).value();
  GuestMemory memory(space);
  ram->start_dirty_log();
  ASSERT_TRUE(memory.store<std::uint16_t>(3 * kPageSize - 1, 1));
  std::vector<std::uint64_t> pages;
  ram->take_dirty([&](std::uint64_t page) { pages.push_back(page); });
  EXPECT_EQ(pages, (std::vector<std::uint64_t>{2, 3}));
  pages.clear();
  ram->take_dirty([&](std::uint64_t page) { pages.push_back(page); });
  EXPECT_TRUE(pages.empty());
}

TEST(RamRegion, WritesToCodePagesAreReported) {
  const auto ram = RamRegion::create("ram", 4 * kPageSize).value();
  std::vector<std::uint64_t> hits;
  ram->set_listener({[&](RamRegion&, std::uint64_t offset, std::uint64_t length) {
                       hits.push_back(offset);
                       hits.push_back(length);
                     },
                     {}});
  ram->set_page_flags(kPageSize, RamRegion::kHasCode);
  ram->note_write(0, kPageSize);
  EXPECT_TRUE(hits.empty());
  ram->note_write(kPageSize - 3, 8);
  EXPECT_EQ(hits, (std::vector<std::uint64_t>{kPageSize, 5}));
}

}  // namespace
}  // namespace husk::mem
