// husk: tests of the virtqueue engine and the transports against virtio 1.2, with rng as the device behind
#include <gtest/gtest.h>

#include "devices/virtio/mmio.h"
#include "devices/virtio/pci.h"
#include "devices/virtio/rng.h"
#include "testing/virtio_driver.h"

namespace husk::devices::virtio {
namespace {

using testing::VirtioDriver;
constexpr mem::Gpa kBase = 0xFEB00000;
constexpr auto kV1 = VirtioDriver::kVersion1;

/// A device whose single queue copies the readable part of each buffer, every byte plus one, into the writable part.
struct EchoState {
  CommonState common;
  static constexpr auto state() { return std::tuple{state::field(1, "common", &EchoState::common)}; }
};
class Echo final : public Base<EchoState> {
 public:
  Echo(Environment environment, RingOptions ring)
      : Base("echo", environment,
             {.type = DeviceType::rng, .queue_sizes = {256, 256}, .config_size = 8, .ring = ring}) {}
  std::vector<Chain> held;
  bool hold = false;
  void finish(std::size_t index) {
    const Chain chain = held[index];
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    answer(chain);
    interrupt_queue(0);
    work_ended(0);
  }

 private:
  void answer(const Chain& chain) {
    std::vector<std::uint8_t> bytes(chain.readable_bytes());
    chain.read(0, bytes);
    for (std::uint8_t& byte : bytes) ++byte;
    give(0, chain, chain.write(0, bytes));
  }
  void handle_queue(unsigned index) override {
    drain_queue(index, [&](Chain& chain) {
      if (hold) {
        work_begins(0);
        held.push_back(chain);
      } else {
        answer(chain);
      }
      return true;
    });
  }
};

struct Fixture {
  explicit Fixture(RingOptions ring = {.packed = true, .in_order = true})
      : echo({machine.memory, machine.clock, machine.log}, ring) {
    transport =
        MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(5), echo}, "mmio", kBase).value();
  }
  testing::TestMachine machine;
  Echo echo;
  std::unique_ptr<MmioTransport> transport;
  VirtioDriver driver{machine, kBase};
};

struct RingKinds : ::testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Queue, RingKinds,
                         ::testing::Values(kV1, kV1 | VirtioDriver::kEventIndex, kV1 | VirtioDriver::kPacked,
                                           kV1 | VirtioDriver::kPacked | VirtioDriver::kEventIndex,
                                           kV1 | VirtioDriver::kInOrder,
                                           kV1 | VirtioDriver::kPacked | VirtioDriver::kInOrder));

TEST_P(RingKinds, CarryManyBuffersAroundTheRing) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(GetParam(), 1, 8));
  for (unsigned i = 0; i < 300; ++i) {
    const std::uint8_t out[] = {static_cast<std::uint8_t>(i), 7};
    const auto answer = f.driver.request(0, out, 2);
    ASSERT_TRUE(answer) << i;
    EXPECT_EQ(*answer, (std::vector<std::uint8_t>{static_cast<std::uint8_t>(i + 1), 8}));
  }
  EXPECT_EQ(f.machine.lines.level(5), true);
  EXPECT_EQ(f.driver.status(), 15);
}

TEST_P(RingKinds, CarryChainsOfSeveralDescriptorsAndIndirectOnes) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(GetParam() | VirtioDriver::kIndirect, 1, 8));
  for (unsigned i = 0; i < 100; ++i) {
    f.driver.recycle();
    const std::uint8_t a[] = {1, 2, 3}, b[] = {4, 5};
    const mem::Gpa in1 = f.driver.room(1), in2 = f.driver.room(10);
    const VirtioDriver::Part parts[] = {
        {f.driver.place(a), 3, false}, {f.driver.place(b), 2, false}, {in1, 1, true}, {in2, 10, true}};
    f.driver.add(0, parts, i & 1);
    f.driver.kick(0);
    const auto used = f.driver.used(0);
    ASSERT_TRUE(used) << i;
    EXPECT_EQ(used->length, 5u);
    EXPECT_EQ(f.driver.bytes_at(in1, 1), std::vector<std::uint8_t>{2});
    EXPECT_EQ(f.driver.bytes_at(in2, 5), (std::vector<std::uint8_t>{3, 4, 5, 6, 0}));
  }
}

TEST_P(RingKinds, GoOnAfterSaveAndLoad) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(GetParam(), 1, 4));
  const std::uint8_t out[] = {9};
  for (unsigned i = 0; i < 23; ++i) {
    ASSERT_TRUE(f.driver.request(0, out, 1));
    const auto bytes = testing::saved_state(f.echo);
    f.echo.reset(core::ResetKind::power_on);
    ASSERT_TRUE(testing::load_state(f.echo, bytes));
    EXPECT_EQ(testing::saved_state(f.echo), bytes);
  }
}

TEST(Queue, InOrderHoldsBackWhatIsFinishedEarly) {
  for (const std::uint64_t packed : {std::uint64_t{0}, VirtioDriver::kPacked}) {
    Fixture f;
    ASSERT_TRUE(f.driver.begin(kV1 | packed | VirtioDriver::kInOrder, 1, 8));
    f.echo.hold = true;
    const std::uint8_t out[] = {1};
    std::vector<std::uint16_t> ids;
    for (int i = 0; i < 3; ++i) {
      const VirtioDriver::Part parts[] = {{f.driver.place(out), 1, false}, {f.driver.room(1), 1, true}};
      ids.push_back(f.driver.add(0, parts));
    }
    f.driver.kick(0);
    ASSERT_EQ(f.echo.held.size(), 3u);
    f.echo.finish(2);
    f.echo.finish(1);
    EXPECT_FALSE(f.driver.used(0));
    f.echo.finish(0);
    for (const std::uint16_t id : ids) EXPECT_EQ(f.driver.used(0)->id, id);
  }
}

TEST(Queue, OutOfOrderCompletionIsSeenAtOnceWithoutTheFeature) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1, 1, 8));
  f.echo.hold = true;
  const std::uint8_t out[] = {1};
  const VirtioDriver::Part parts[] = {{f.driver.place(out), 1, false}, {f.driver.room(1), 1, true}};
  f.driver.add(0, parts);
  const auto second = f.driver.add(0, parts);
  f.driver.kick(0);
  f.echo.finish(1);
  EXPECT_EQ(f.driver.used(0)->id, second);
}

TEST(Queue, ResetIsOverOnlyWhenWorkHasEnded) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1, 1, 8));
  f.echo.hold = true;
  const std::uint8_t out[] = {1};
  const mem::Gpa in = f.driver.room(1);
  const VirtioDriver::Part parts[] = {{f.driver.place(out), 1, false}, {in, 1, true}};
  f.driver.add(0, parts);
  f.driver.kick(0);
  f.driver.write(0x70, 0);
  EXPECT_NE(f.driver.status(), 0);
  const auto index_before = f.machine.memory.load<std::uint16_t>(f.driver.ring(0).device + 2).value();
  f.echo.finish(0);
  EXPECT_EQ(f.driver.status(), 0);
  EXPECT_EQ(f.machine.memory.load<std::uint16_t>(f.driver.ring(0).device + 2).value(), index_before)
      << "a buffer of before the reset must not be returned";
}

TEST(Queue, OneQueueCanBeResetAndUsedAgain) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1 | VirtioDriver::kRingReset, 2, 8));
  const std::uint8_t out[] = {1};
  ASSERT_TRUE(f.driver.request(0, out, 1));
  f.driver.write(0x30, 0);
  f.driver.write(0xC0, 1);
  EXPECT_EQ(f.driver.read(0xC0), 0u);
  EXPECT_EQ(f.driver.read(0x44), 0u);
  f.driver.add_queue(0, 4);
  EXPECT_TRUE(f.driver.request(0, out, 1));
  EXPECT_EQ(f.driver.status(), 15);
}

TEST(Queue, InterruptsAreSuppressedAsTheDriverAsks) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1, 1, 8));
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver, 1);
  const std::uint8_t out[] = {1};
  ASSERT_TRUE(f.driver.request(0, out, 1));
  EXPECT_FALSE(f.machine.lines.level(5));
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver, 0);
  ASSERT_TRUE(f.driver.request(0, out, 1));
  EXPECT_TRUE(f.machine.lines.level(5));
  f.driver.acknowledge();
  EXPECT_FALSE(f.machine.lines.level(5));
}

TEST(Queue, UsedEventDelaysTheInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1 | VirtioDriver::kEventIndex, 1, 8));
  const std::uint8_t out[] = {1};
  ASSERT_TRUE(f.driver.request(0, out, 1));
  f.driver.acknowledge();
  // used_event 3: an interrupt when entry 3 (the fourth) is used.
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver + 4 + 8 * 2, 3);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(f.driver.request(0, out, 1));
    EXPECT_FALSE(f.machine.lines.level(5)) << i;
  }
  ASSERT_TRUE(f.driver.request(0, out, 1));
  EXPECT_TRUE(f.machine.lines.level(5));
}

TEST(Queue, PackedDescriptorEventDelaysTheInterrupt) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1 | VirtioDriver::kEventIndex | VirtioDriver::kPacked, 1, 4));
  const std::uint8_t out[] = {1};
  ASSERT_TRUE(f.driver.request(0, out, 1));  // slots 0, 1
  f.driver.acknowledge();
  // In the next lap (wrap counter 0), slot 0; only descriptor events.
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver, 0);
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver + 2, 2);
  ASSERT_TRUE(f.driver.request(0, out, 1));  // slots 2, 3
  EXPECT_FALSE(f.machine.lines.level(5));
  ASSERT_TRUE(f.driver.request(0, out, 1));  // slots 0, 1 of the next lap
  EXPECT_TRUE(f.machine.lines.level(5));
}

struct BrokenRing {
  const char* name;
  std::function<void(Fixture&)> damage;
};
void PrintTo(const BrokenRing& ring, std::ostream* out) { *out << ring.name; }
struct BrokenRings : ::testing::TestWithParam<BrokenRing> {};

TEST_P(BrokenRings, PutTheDeviceInNeedsResetAndAResetRepairsIt) {
  Fixture f;
  ASSERT_TRUE(f.driver.begin(kV1 | VirtioDriver::kIndirect, 1, 8));
  GetParam().damage(f);
  f.driver.kick(0);
  EXPECT_EQ(f.driver.status() & kNeedsReset, kNeedsReset);
  EXPECT_FALSE(f.driver.used(0));
  EXPECT_EQ(f.driver.interrupt_status() & 2, 2u) << "2.1.2: the driver is told by a configuration interrupt";
  const std::uint8_t out[] = {1};
  ASSERT_TRUE(f.driver.begin(kV1, 1, 8));
  EXPECT_TRUE(f.driver.request(0, out, 1));
}

void put_descriptor(Fixture& f, unsigned index, mem::Gpa address, std::uint32_t length, std::uint16_t flags,
                    std::uint16_t next) {
  const mem::Gpa at = f.driver.ring(0).descriptors + index * 16;
  (void)f.machine.memory.store<std::uint64_t>(at, address);
  (void)f.machine.memory.store<std::uint32_t>(at + 8, length);
  (void)f.machine.memory.store<std::uint16_t>(at + 12, flags);
  (void)f.machine.memory.store<std::uint16_t>(at + 14, next);
}
void make_available(Fixture& f, std::uint16_t head, std::uint16_t index = 1) {
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver + 4, head);
  (void)f.machine.memory.store<std::uint16_t>(f.driver.ring(0).driver + 2, index);
}

INSTANTIATE_TEST_SUITE_P(Queue, BrokenRings,
                         ::testing::Values(BrokenRing{"index far ahead", [](Fixture& f) { make_available(f, 0, 9); }},
                                           BrokenRing{"head beyond the queue",
                                                      [](Fixture& f) { make_available(f, 8); }},
                                           BrokenRing{"chain that loops",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 1, 1, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"next beyond the queue",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 1, 1, 8);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"buffer outside RAM",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0xFFFFF000, 16, 2, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"buffer that runs out of RAM",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0xFFFF0, 0x20, 2, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"buffer that wraps",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, ~std::uint64_t{7}, 16, 2, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"readable after writable",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 1, 3, 1);
                                                        put_descriptor(f, 1, 0x8000, 1, 0, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect with next",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 16, 5, 1);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect of odd length",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 17, 4, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect of length 0",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 0, 4, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect of 4 GiB",
                                                      [](Fixture& f) {
                                                        put_descriptor(f, 0, 0x8000, 0xFFFFFFF0, 4, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect that loops",
                                                      [](Fixture& f) {
                                                        (void)f.machine.memory.store<std::uint32_t>(0x8008, 1);
                                                        (void)f.machine.memory.store<std::uint16_t>(0x800C, 1);
                                                        (void)f.machine.memory.store<std::uint16_t>(0x800E, 0);
                                                        put_descriptor(f, 0, 0x8000, 32, 4, 0);
                                                        make_available(f, 0);
                                                      }},
                                           BrokenRing{"indirect in indirect", [](Fixture& f) {
                                                        (void)f.machine.memory.store<std::uint16_t>(0x800C, 4);
                                                        put_descriptor(f, 0, 0x8000, 16, 4, 0);
                                                        make_available(f, 0);
                                                      }}));

TEST(Queue, RingsOutsideRamBreakTheDeviceOnly) {
  Fixture f;
  ASSERT_TRUE(f.driver.negotiate(kV1));
  f.driver.write(0x30, 0);
  f.driver.write(0x38, 8);
  f.driver.write(0x80, 0xFFFFF000);
  f.driver.write(0x44, 1);
  f.driver.start();
  EXPECT_EQ(f.driver.status() & kNeedsReset, kNeedsReset);
}

TEST(Virtio, FeaturesThatWereNotOfferedAreRefused) {
  Fixture f({.packed = false, .in_order = false});
  f.driver.write(0x70, 0);
  f.driver.write(0x70, 3);
  f.driver.write(0x24, 1);
  f.driver.write(0x20, 1 | 4);
  f.driver.write(0x70, 11);
  EXPECT_EQ(f.driver.status(), 3);
  f.driver.write(0x20, 0);
  f.driver.write(0x70, 11);
  EXPECT_EQ(f.driver.status(), 3) << "without VERSION_1 there is no modern driver";
  f.driver.write(0x20, 1);
  f.driver.write(0x70, 11);
  EXPECT_EQ(f.driver.status(), 11);
}

TEST(Rng, FillsBuffersAndKeepsToItsQuota) {
  testing::TestMachine machine;
  Rng rng({machine.memory, machine.clock, machine.log},
          [](std::span<std::uint8_t> into) { std::fill(into.begin(), into.end(), 0xAB); },
          {.max_bytes = 24, .period_ns = 1000});
  const auto transport =
      MmioTransport::create({machine.memory_space, nullptr, machine.lines.line(1), rng}, "m", kBase).value();
  VirtioDriver driver(machine, kBase);
  EXPECT_EQ(driver.read(0), 0x74726976u);
  EXPECT_EQ(driver.read(8), 4u);
  ASSERT_TRUE(driver.begin(kV1, 1, 8));
  EXPECT_EQ(driver.request(0, {}, 16), std::vector<std::uint8_t>(16, 0xAB));
  EXPECT_EQ(driver.request(0, {}, 16), std::vector<std::uint8_t>(8, 0xAB));
  EXPECT_EQ(driver.request(0, {}, 16), std::nullopt);
  machine.clock.advance(1000);
  EXPECT_EQ(driver.used(0)->length, 16u);
}

// ---- PCI ----

struct PciFixture {
  explicit PciFixture(bool legacy) : echo({machine.memory, machine.clock, machine.log}, {.packed = true}) {
    transport = PciTransport::create({machine.memory_space, machine.io_space, nullptr, machine.msi, bus, echo},
                                     {.devfn = pci::devfn(3, 0), .legacy = legacy})
                    .value();
  }
  std::uint32_t config(unsigned offset, unsigned size = 4) {
    return bus.read_config(pci::devfn(3, 0), offset, size) & static_cast<std::uint32_t>(mask_of(size * 8));
  }
  void set(unsigned offset, std::uint32_t value, unsigned size = 4) {
    bus.write_config(pci::devfn(3, 0), offset, value, size);
  }
  testing::TestMachine machine;
  pci::Bus bus{0, [this](unsigned, unsigned) { return machine.lines.line(20); }};
  Echo echo;
  std::unique_ptr<PciTransport> transport;
};

TEST(VirtioPci, TellsWhereItsStructuresAre) {
  PciFixture f(false);
  EXPECT_EQ(f.config(0), 0x10441AF4u);
  EXPECT_EQ(f.config(8, 1), 1u);
  std::map<unsigned, std::array<std::uint32_t, 3>> found;
  for (unsigned at = f.config(0x34, 1); at; at = f.config(at + 1, 1))
    if (f.config(at, 1) == 9) found[f.config(at + 3, 1)] = {f.config(at + 4, 1), f.config(at + 8), f.config(at + 12)};
  EXPECT_EQ(found.size(), 5u);
  EXPECT_EQ(found[1], (std::array<std::uint32_t, 3>{4, 0, 0x3C}));
  EXPECT_EQ(found[2], (std::array<std::uint32_t, 3>{4, 0x3000, 8}));
  EXPECT_EQ(found[3], (std::array<std::uint32_t, 3>{4, 0x1000, 1}));
  EXPECT_EQ(found[4], (std::array<std::uint32_t, 3>{4, 0x2000, 8}));
}

/// Sets up queue 0 by the common structure at `bar` with rings at 10000h, and makes a one-byte echo request.
void modern_request(PciFixture& f, mem::Gpa bar) {
  auto& m = f.machine;
  m.mmio_write(bar + 0x14, 0, 1);
  EXPECT_EQ(m.mmio_read(bar + 0x14, 1), 0u);
  m.mmio_write(bar + 0x14, 3, 1);
  m.mmio_write(bar + 0x08, 1, 4);
  m.mmio_write(bar + 0x0C, 1, 4);
  m.mmio_write(bar + 0x14, 11, 1);
  EXPECT_EQ(m.mmio_read(bar + 0x14, 1), 11u);
  EXPECT_EQ(m.mmio_read(bar + 0x12, 2), 2u);
  m.mmio_write(bar + 0x16, 0, 2);
  m.mmio_write(bar + 0x18, 8, 2);
  m.mmio_write(bar + 0x1A, 1, 2);
  m.mmio_write(bar + 0x20, 0x10000, 4);
  m.mmio_write(bar + 0x24, 0, 4);
  m.mmio_write(bar + 0x28, 0x11000, 8);
  m.mmio_write(bar + 0x30, 0x12000, 4);
  EXPECT_EQ(m.mmio_read(bar + 0x28, 4), 0x11000u);
  m.mmio_write(bar + 0x1C, 1, 2);
  m.mmio_write(bar + 0x14, 15, 1);
  (void)m.memory.store<std::uint64_t>(0x10000, 0x13000);
  (void)m.memory.store<std::uint32_t>(0x10008, 1);
  (void)m.memory.store<std::uint16_t>(0x1000C, 1);
  (void)m.memory.store<std::uint16_t>(0x1000E, 1);
  (void)m.memory.store<std::uint64_t>(0x10010, 0x13001);
  (void)m.memory.store<std::uint32_t>(0x10018, 1);
  (void)m.memory.store<std::uint16_t>(0x1001C, 2);
  (void)m.memory.store<std::uint8_t>(0x13000, 0x41);
  (void)m.memory.store<std::uint16_t>(0x11002, 1);
  m.mmio_write(bar + 0x3000, 0, 2);
  EXPECT_EQ(m.memory.load<std::uint8_t>(0x13001).value(), 0x42);
}

TEST(VirtioPci, WorksThroughItsModernBarWithIntx) {
  PciFixture f(false);
  f.set(0x20, 0xE0000000);
  f.set(0x24, 1);
  f.set(4, 6, 2);
  modern_request(f, 0x1E0000000);
  EXPECT_TRUE(f.machine.lines.level(20));
  EXPECT_EQ(f.machine.mmio_read(0x1E0001000, 1), 1u);
  EXPECT_FALSE(f.machine.lines.level(20)) << "reading the ISR takes the interrupt back";
}

TEST(VirtioPci, SendsMsixAndHoldsItWhileMasked) {
  PciFixture f(false);
  f.set(0x20, 0xE0000000);
  f.set(0x14, 0xE1000000);
  f.set(4, 6, 2);
  unsigned msix = f.config(0x34, 1);
  while (f.config(msix, 1) != 0x11) msix = f.config(msix + 1, 1);
  EXPECT_EQ(f.config(msix + 2, 2), 2u) << "three vectors";
  f.set(msix + 2, 0x8000, 2);
  f.machine.mmio_write(0xE1000010, 0xFEE01000, 8);
  f.machine.mmio_write(0xE1000018, 0x4055, 4);
  modern_request(f, 0xE0000000);
  EXPECT_TRUE(f.machine.msi.sent.empty());
  EXPECT_EQ(f.machine.mmio_read(0xE1000800, 4), 2u) << "pending";
  f.machine.mmio_write(0xE100001C, 0, 4);
  ASSERT_EQ(f.machine.msi.sent.size(), 1u);
  EXPECT_EQ(f.machine.msi.sent[0].first, 0x18);
  EXPECT_EQ(f.machine.msi.sent[0].second.address, 0xFEE01000u);
  EXPECT_EQ(f.machine.msi.sent[0].second.data, 0x4055u);
  EXPECT_EQ(f.machine.mmio_read(0xE1000800, 4), 0u);
  EXPECT_FALSE(f.machine.lines.level(20));
}

TEST(VirtioPci, IsReachedThroughTheConfigurationWindow) {
  PciFixture f(false);
  unsigned window = f.config(0x34, 1);
  while (f.config(window, 1) != 9 || f.config(window + 3, 1) != 5) window = f.config(window + 1, 1);
  f.set(window + 4, 4, 1);
  f.set(window + 8, 0x12);
  f.set(window + 12, 2);
  EXPECT_EQ(f.config(window + 16, 2), 2u) << "num_queues";
  f.set(window + 8, 0x14);
  f.set(window + 12, 1);
  f.set(window + 16, 3);
  EXPECT_EQ(f.echo.status(), 3);
}

TEST(VirtioPci, TransitionalDeviceServesAnOldDriver) {
  PciFixture f(true);
  EXPECT_EQ(f.config(0), 0x10051AF4u);
  EXPECT_EQ(f.config(0x2C), 0x00041AF4u);
  f.set(0x10, 0xC000);
  f.set(4, 5, 2);
  auto& m = f.machine;
  m.out8(0xC012, 0);
  m.out8(0xC012, 3);
  m.out32(0xC004, 0);
  m.out16(0xC00E, 0);
  EXPECT_EQ(m.in16(0xC00C), 256);
  // Descriptors at 20000h: 256 of them take one page; the used ring comes on the next page after the available one.
  m.out32(0xC008, 0x20);
  EXPECT_EQ(m.in32(0xC008), 0x20u);
  m.out8(0xC012, 7);
  (void)m.memory.store<std::uint64_t>(0x20000, 0x13000);
  (void)m.memory.store<std::uint32_t>(0x20008, 1);
  (void)m.memory.store<std::uint16_t>(0x2000C, 1);
  (void)m.memory.store<std::uint16_t>(0x2000E, 1);
  (void)m.memory.store<std::uint64_t>(0x20010, 0x13001);
  (void)m.memory.store<std::uint32_t>(0x20018, 1);
  (void)m.memory.store<std::uint16_t>(0x2001C, 2);
  (void)m.memory.store<std::uint16_t>(0x21002, 1);
  m.out16(0xC010, 0);
  EXPECT_EQ(m.memory.load<std::uint8_t>(0x13001).value(), 1);
  EXPECT_EQ(m.memory.load<std::uint16_t>(0x22002).value(), 1) << "used index";
  EXPECT_TRUE(m.lines.level(20));
  EXPECT_EQ(m.in8(0xC013), 1);
  EXPECT_FALSE(m.lines.level(20));
}

}  // namespace
}  // namespace husk::devices::virtio
