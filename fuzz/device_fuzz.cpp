// husk: fuzz target: drives any registered device by a stream of bytes
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "devices/registry/registry.h"

namespace {

using namespace husk;

/// The input, which reads as zeros once it is used up.
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

class Session {
 public:
  Session(const devices::DeviceKind& kind, Input input) : kind_(kind), input_(input), rig_(kind.build(machine_)) {}

  void run() {
    for (unsigned step = 0; input_.more() && step < kMostSteps; ++step) act(static_cast<std::uint8_t>(input_.take(1)));
    // What the device says of itself now, a fresh one must take and say again.
    const auto bytes = testing::saved_state(*rig_);
    const auto other = kind_.build(machine_);
    HUSK_CHECK(testing::load_state(*other, bytes).has_value());
    HUSK_CHECK(testing::saved_state(*other) == bytes);
  }

 private:
  static constexpr unsigned kMostSteps = 2000;
  /// Time that an input may let pass in small steps. A periodic timer at its highest rate fires in all of it, so that
  /// a millisecond is 10,000 interrupts of an HPET; jump_to_next_event() reaches what lies further ahead.
  static constexpr core::VmTime kMostTime = 1'000'000;

  void act(std::uint8_t opcode) {
    const unsigned size = 1u << (opcode >> 6);
    switch (opcode & 15) {
      case 0:
      case 1:
        if (const auto at = port(size)) machine_.io_space.read(testing::TestMachine::kCpu, *at, std::min(size, 4u));
        break;
      case 2:
      case 3:
      case 4:
        if (const auto at = port(size)) {
          const std::uint64_t value = input_.take(std::min(size, 4u));
          machine_.io_space.write(testing::TestMachine::kCpu, *at, value, std::min(size, 4u));
        }
        break;
      case 5:
      case 6:
        if (const auto at = mmio()) machine_.mmio_read(*at, size);
        break;
      case 7:
      case 8:
      case 9:
        if (const auto at = mmio()) machine_.mmio_write(*at, input_.take(size), size);
        break;
      case 10: pass_time(core::VmTime{1} << (input_.take(1) % 20)); break;
      case 11: jump_to_next_event(); break;
      case 12: {
        const auto pin = static_cast<unsigned>(input_.take(1));
        rig_->set_input(pin & 0x7F, pin & 0x80);
        break;
      }
      case 13: {
        const auto what = static_cast<std::uint8_t>(input_.take(1));
        rig_->stimulate(what, input_.take(size));
        break;
      }
      case 14: rig_->reset((opcode & 0x40) ? core::ResetKind::warm : core::ResetKind::power_on); break;
      default: load_damaged();
    }
  }

  std::optional<std::uint16_t> port(unsigned) {
    if (kind_.ports.empty()) return std::nullopt;
    const auto raw = static_cast<unsigned>(input_.take(1));
    const devices::PortRange& range = kind_.ports[raw % kind_.ports.size()];
    return static_cast<std::uint16_t>(range.base + raw / kind_.ports.size() % range.length);
  }

  std::optional<mem::Gpa> mmio() {
    if (kind_.mmio.empty()) return std::nullopt;
    const devices::MmioRange& range = kind_.mmio[0];
    // Large windows are mostly alike: enough of an address to reach their start, and sometimes their end.
    const std::uint64_t raw = input_.take(2);
    const std::uint64_t offset = raw & 0x8000 ? range.length - 1 - (raw & 0xFF) : raw & 0x7FFF;
    return range.base + offset % range.length;
  }

  void pass_time(core::VmTime by) {
    by = std::min(by, kMostTime - passed_);
    passed_ += by;
    machine_.clock.advance(by);
  }

  void jump_to_next_event() {
    const auto next = machine_.clock.next_deadline();
    constexpr core::VmTime kCentury = core::kNanosecondsPerSecond * 60 * 60 * 24 * 365 * 100;
    if (next && *next < kCentury) machine_.clock.advance_to(*next);
  }

  void load_damaged() {
    auto bytes = testing::saved_state(*rig_);
    const auto before = bytes;
    const unsigned changes = input_.take(1) % 4;
    for (unsigned i = 0; i < changes && !bytes.empty(); ++i) {
      const std::uint64_t raw = input_.take(3);
      bytes[(raw >> 8) % bytes.size()] ^= static_cast<std::uint8_t>(raw);
    }
    const bool loaded = testing::load_state(*rig_, bytes).has_value();
    HUSK_CHECK(loaded || bytes != before);
    if (!loaded) HUSK_CHECK(testing::saved_state(*rig_) == before);
  }

  const devices::DeviceKind& kind_;
  Input input_;
  testing::TestMachine machine_{0x1000};
  std::unique_ptr<devices::DeviceRig> rig_;
  core::VmTime passed_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto kinds = devices::device_kinds();
  Session(kinds[data[0] % kinds.size()], Input({data + 1, size - 1})).run();
  return 0;
}
