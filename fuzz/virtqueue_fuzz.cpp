// husk: fuzz target: the virtqueue engine, its rings written by a hostile driver
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "devices/virtio/queue.h"
#include "testing/test_machine.h"

namespace {

using namespace husk;
using devices::virtio::Chain;
using devices::virtio::Queue;
using devices::virtio::QueueState;
using devices::virtio::RingFeatures;

constexpr mem::Gpa kRings = 0x1000;
constexpr std::uint64_t kRam = 0x8000;

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  bool more() const { return !rest_.empty(); }
  std::uint64_t take(unsigned size) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size && !rest_.empty(); ++i, rest_ = rest_.subspan(1))
      value |= std::uint64_t{rest_.front()} << (i * 8);
    return value;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

/// What must hold of any chain that the engine hands out, however the rings look.
void check_chain(testing::TestMachine& machine, const Chain& chain) {
  std::uint64_t readable = 0, writable = 0;
  for (const auto& segment : chain.readable()) readable += segment.length;
  for (const auto& segment : chain.writable()) writable += segment.length;
  HUSK_CHECK(readable == chain.readable_bytes() && writable == chain.writable_bytes());
  const mem::Target ram = machine.memory_space.find(0);
  const auto inside = [&](const devices::virtio::Segment& segment) {
    HUSK_CHECK(segment.ram == ram.ram && segment.data == ram.ram->data() + segment.offset);
    HUSK_CHECK(range_within(segment.offset, segment.length, kRam));
  };
  for (const auto& segment : chain.readable()) inside(segment);
  for (const auto& segment : chain.writable()) inside(segment);
}

void run(Input input) {
  testing::TestMachine machine(kRam);
  QueueState state;
  const auto flags = static_cast<unsigned>(input.take(1));
  const RingFeatures features{
      .packed = bit(flags, 0), .event_index = bit(flags, 1), .indirect = bit(flags, 2), .in_order = bit(flags, 3)};
  state.size = static_cast<std::uint16_t>(bit(flags, 4) ? 8 : input.take(2));
  state.ready = true;
  state.descriptors = bit(flags, 5) ? input.take(8) : kRings;
  state.driver_area = bit(flags, 6) ? input.take(8) : kRings + 0x800;
  state.device_area = bit(flags, 7) ? input.take(8) : kRings + 0x1000;
  Queue queue(machine.memory);
  queue.bind(state, features);
  std::vector<Chain> held;
  std::uint8_t scratch[64] = {};
  for (unsigned step = 0; input.more() && step < 1000; ++step) {
    const auto what = static_cast<unsigned>(input.take(1));
    switch (what % 10) {
      case 0:
      case 1: {
        Chain chain;
        if (!queue.pop(chain)) break;
        check_chain(machine, chain);
        HUSK_CHECK(chain.read(what, scratch) <= sizeof scratch && chain.write(what, scratch) <= sizeof scratch);
        if (held.size() < 64) held.push_back(std::move(chain));
        break;
      }
      case 2:
        if (!held.empty()) {
          const std::size_t index = what / 10 % held.size();
          queue.stage(held[index], what);
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
        }
        break;
      case 3: queue.publish(); break;
      case 4: (void)queue.should_interrupt(); break;
      case 5: (void)queue.enable_notifications(); break;
      case 6: queue.disable_notifications(); break;
      case 7: {
        Chain chain;
        if (what >= 128 && !held.empty()) {
          // A buffer that comes back from a saved state, which may have been tampered with.
          devices::virtio::HeldChain saved = queue.hold(held[what / 10 % held.size()]);
          if (what & 1) saved.id = static_cast<std::uint16_t>(input.take(2));
          if (what & 2) saved.slots = static_cast<std::uint16_t>(input.take(2));
          if (what & 4) saved.readable = static_cast<std::uint32_t>(input.take(2));
          if ((what & 8) && !saved.pieces.empty()) saved.pieces[0].address = input.take(8);
          if ((what & 16) && !saved.pieces.empty()) saved.pieces[0].length = static_cast<std::uint32_t>(input.take(4));
          if (queue.restore(saved, chain)) check_chain(machine, chain);
          break;
        }
        if (queue.pop(chain)) queue.unpop(chain);
        break;
      }
      case 8:
        if (what < 30) queue.bind(state, features);
        if (what > 200) queue.forget();
        break;
      default: {
        // The driver writes into its rings or tables.
        const std::uint64_t at = input.take(2) % (kRam - 8);
        (void)machine.memory.store<std::uint64_t>(what & 0x80 ? kRings + at % 0x1800 : at,
                                                  input.take(what & 0x40 ? 8 : 2));
      }
    }
    if (queue.broken()) HUSK_CHECK(!queue.available());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  run(Input({data, size}));
  return 0;
}
