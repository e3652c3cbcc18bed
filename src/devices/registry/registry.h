// husk: the list of every kind of device, with a way to build each on a test machine
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "mem/io_handler.h"
#include "testing/test_machine.h"

namespace husk::devices {

struct PortRange {
  std::uint16_t base;
  std::uint16_t length;
};
struct MmioRange {
  mem::Gpa base;
  std::uint64_t length;
};

/// A device with everything around it that is not on the test machine. Forwards core::Device to it.
class DeviceRig : public core::Device {
 public:
  virtual core::Device& device() = 0;
  virtual const core::Device& device() const = 0;
  /// An input wire of the device (interrupt controllers); ignored by devices without any.
  virtual void set_input(unsigned pin, bool level) {
    (void)pin;
    (void)level;
  }
  /// Something that comes to the device by another way than ports and MMIO: a key, a character, an MSR access. What it
  /// is, `what` says, in the device's own way; any value is valid.
  virtual void stimulate(std::uint8_t what, std::uint64_t value) {
    (void)what;
    (void)value;
  }

  std::string_view state_id() const final { return device().state_id(); }
  void reset(core::ResetKind kind) final { device().reset(kind); }
  void start() final { device().start(); }
  void quiesce(std::function<void()> done) final { device().quiesce(std::move(done)); }
  void save(state::StateWriter& writer) const final { device().save(writer); }
  Status load(state::StateReader& reader) final { return device().load(reader); }
  void inspect(state::Inspector& inspector) const final { device().inspect(inspector); }
};

struct DeviceKind {
  std::string_view name;
  std::string_view description;
  /// At their defaults; what a guest can move is listed where it is after reset.
  std::span<const PortRange> ports;
  std::span<const MmioRange> mmio;
  /// Several may be built on one machine at a time: the latest answers.
  std::unique_ptr<DeviceRig> (*build)(testing::TestMachine&);
  /// One line a field of its saved state.
  std::vector<std::string> (*schema)();
  /// False for the few devices whose state is empty.
  bool has_state = true;
};

/// Every device of src/devices, in order of name. A new device adds its line to registry.cpp; the tests of saved
/// states, the schema golden and the fuzz target then cover it.
std::span<const DeviceKind> device_kinds();

/// For GoogleTest, whose parameterised tests show their parameter.
void PrintTo(const DeviceKind& kind, std::ostream* out);

}  // namespace husk::devices
