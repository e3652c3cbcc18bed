// husk: everything a device needs to be driven without a VM: buses, clock, recorded wires and messages, fake backends
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "core/backends.h"
#include "core/cpu_ports.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"
#include "testing/manual_clock.h"

namespace husk::testing {

/// Records what happens on the wires given out by line().
class LineRecorder : public core::LineSink {
 public:
  core::InterruptLine line(unsigned pin = 0) { return core::InterruptLine(*this, pin); }
  bool level(unsigned pin = 0) const {
    const auto found = levels_.find(pin);
    return found != levels_.end() && found->second;
  }
  /// Rising edges seen; restored levels do not count.
  unsigned edges(unsigned pin = 0) const {
    const auto found = edges_.find(pin);
    return found == edges_.end() ? 0 : found->second;
  }

 private:
  void set_pin(unsigned pin, bool level) override {
    if (level && !levels_[pin]) ++edges_[pin];
    levels_[pin] = level;
  }
  void restore_pin(unsigned pin, bool level) override { levels_[pin] = level; }
  std::map<unsigned, bool> levels_;
  std::map<unsigned, unsigned> edges_;
};

/// Keeps what the device wrote and plays the host's part.
class FakeChar : public core::CharBackend {
 public:
  std::size_t write(std::span<const std::uint8_t> data) override {
    const std::size_t taken = std::min(data.size(), room);
    output.append(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(taken));
    if (room != kUnlimited) room -= taken;
    return taken;
  }
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  void set_read_credit(std::size_t bytes) override { credit = bytes; }
  void send_break() override { ++breaks; }
  /// Delivers as much of `text` as there is credit for; returns how much.
  std::size_t deliver(std::string_view text) {
    const std::size_t count = std::min(credit, text.size());
    credit -= count;
    if (count && callbacks_.received)
      callbacks_.received({reinterpret_cast<const std::uint8_t*>(text.data()), count});
    return count;
  }
  void deliver_break() {
    if (callbacks_.break_received) callbacks_.break_received();
  }
  void make_writable(std::size_t new_room) {
    room = new_room;
    if (callbacks_.writable) callbacks_.writable();
  }

  static constexpr std::size_t kUnlimited = ~std::size_t{0};
  std::string output;
  std::size_t room = kUnlimited;
  std::size_t credit = 0;
  unsigned breaks = 0;

 private:
  Callbacks callbacks_;
};

struct FakeControl : core::MachineControl {
  void request_reset(const char* cause) override { resets.emplace_back(cause); }
  void request_shutdown(Shutdown kind, int status) override { shutdowns.emplace_back(kind, status); }
  void set_a20(bool enabled) override { a20 = enabled; }
  std::vector<std::string> resets;
  std::vector<std::pair<Shutdown, int>> shutdowns;
  bool a20 = true;
};

struct FakeCpu : core::CpuPins {
  void interrupt_changed() override { ++kicks; }
  void nmi() override { ++nmis; }
  void smi() override { ++smis; }
  void init() override { ++inits; }
  void startup(std::uint8_t vector) override { startups.push_back(vector); }
  unsigned kicks = 0, nmis = 0, smis = 0, inits = 0;
  std::vector<std::uint8_t> startups;
};

struct MsiRecorder : core::MsiPort {
  void send(std::uint16_t requester_id, core::MsiMessage message) override { sent.emplace_back(requester_id, message); }
  std::vector<std::pair<std::uint16_t, core::MsiMessage>> sent;
};

/// A bus with RAM at 0 and nothing else on it.
class TestMachine {
 public:
  explicit TestMachine(std::uint64_t ram_bytes = 1 << 20)
      : ram_(mem::RamRegion::create("ram", ram_bytes).value()),
        ram_mapping_(memory_space.map_ram(0, ram_bytes, *ram_, 0, true).value()) {}

  std::uint8_t in8(std::uint16_t port) { return static_cast<std::uint8_t>(io_space.read(kCpu, port, 1)); }
  std::uint16_t in16(std::uint16_t port) { return static_cast<std::uint16_t>(io_space.read(kCpu, port, 2)); }
  std::uint32_t in32(std::uint16_t port) { return static_cast<std::uint32_t>(io_space.read(kCpu, port, 4)); }
  void out8(std::uint16_t port, std::uint8_t value) { io_space.write(kCpu, port, value, 1); }
  void out16(std::uint16_t port, std::uint16_t value) { io_space.write(kCpu, port, value, 2); }
  void out32(std::uint16_t port, std::uint32_t value) { io_space.write(kCpu, port, value, 4); }
  std::uint64_t mmio_read(mem::Gpa address, unsigned size) { return memory_space.read(kCpu, address, size); }
  void mmio_write(mem::Gpa address, std::uint64_t value, unsigned size) { memory_space.write(kCpu, address, value, size); }

  static constexpr auto kCpu = mem::Requester::cpu(0);
  mem::AddressSpace memory_space{"memory"};
  mem::AddressSpace io_space{"io", 0x10000};
  mem::GuestMemory memory{memory_space};
  ManualClock clock;
  LineRecorder lines;
  MsiRecorder msi;
  FakeControl control;
  Log log;

 private:
  std::unique_ptr<mem::RamRegion> ram_;
  mem::Mapping ram_mapping_;
};

inline std::vector<std::uint8_t> saved_state(const core::Device& device) {
  state::StateWriter writer;
  device.save(writer);
  return std::move(writer).take();
}
inline Status load_state(core::Device& device, std::span<const std::uint8_t> bytes) {
  state::StateReader reader(bytes);
  return device.load(reader);
}

}  // namespace husk::testing
