// husk: the driver's side of a virtio device over MMIO, for tests, fuzzers and benchmarks
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "testing/test_machine.h"

namespace husk::testing {

/// Drives the register block of virtio-mmio version 2 as the specification tells a driver to, with rings and buffers in
/// the test machine's RAM. It knows nothing of husk's devices.
class VirtioDriver {
 public:
  static constexpr std::uint64_t kVersion1 = std::uint64_t{1} << 32;
  static constexpr std::uint64_t kPacked = std::uint64_t{1} << 34;
  static constexpr std::uint64_t kIndirect = std::uint64_t{1} << 28;
  static constexpr std::uint64_t kEventIndex = std::uint64_t{1} << 29;
  static constexpr std::uint64_t kInOrder = std::uint64_t{1} << 35;
  static constexpr std::uint64_t kRingReset = std::uint64_t{1} << 40;

  /// Rings and buffers are put at [ram, ram+length).
  VirtioDriver(TestMachine& machine, mem::Gpa base, mem::Gpa ram = 0x10000, std::uint64_t length = 0xF0000)
      : machine_(machine), base_(base), ram_(ram), free_(ram), end_(ram + length) {}

  std::uint32_t read(unsigned offset) { return static_cast<std::uint32_t>(machine_.mmio_read(base_ + offset, 4)); }
  void write(unsigned offset, std::uint64_t value) { machine_.mmio_write(base_ + offset, value, 4); }
  std::uint8_t status() { return static_cast<std::uint8_t>(read(0x70)); }
  std::uint64_t config(unsigned offset, unsigned size) { return machine_.mmio_read(base_ + 0x100 + offset, size); }
  void set_config(unsigned offset, std::uint64_t value, unsigned size) {
    machine_.mmio_write(base_ + 0x100 + offset, value, size);
  }
  std::uint64_t offered() {
    write(0x14, 1);
    const std::uint64_t high = read(0x10);
    write(0x14, 0);
    return (high << 32) | read(0x10);
  }

  /// Reset, ACKNOWLEDGE, DRIVER, and FEATURES_OK with what is both wanted and offered. False if the device refused.
  bool negotiate(std::uint64_t wanted);
  /// Makes and enables a queue; before start() or, after a queue reset, later.
  void add_queue(unsigned index, unsigned size);
  void start() { write(0x70, 15); }
  /// negotiate, all queues of the given size, start.
  bool begin(std::uint64_t wanted, unsigned queues, unsigned size = 16);

  struct Part {
    mem::Gpa address;
    std::uint32_t length;
    bool writable;
  };
  /// A place in RAM for a buffer, filled from `bytes`; or of `length` bytes, zeroed.
  mem::Gpa place(std::span<const std::uint8_t> bytes);
  mem::Gpa room(std::uint32_t length);
  /// Makes a chain available; returns its id. Does not notify.
  std::uint16_t add(unsigned queue, std::span<const Part> parts, bool indirect = false);
  void kick(unsigned queue) { write(0x50, queue); }
  struct Used {
    std::uint16_t id;
    std::uint32_t length;
  };
  /// The next buffer that the device has returned.
  std::optional<Used> used(unsigned queue);
  /// One request: `out` is read by the device, `in_bytes` written; notifies, and gives what was written. Nothing if the
  /// device has not answered at once.
  std::optional<std::vector<std::uint8_t>> request(unsigned queue, std::span<const std::uint8_t> out,
                                                   std::uint32_t in_bytes);
  /// Copies from guest RAM.
  std::vector<std::uint8_t> bytes_at(mem::Gpa address, std::uint64_t length);
  std::uint32_t interrupt_status() { return read(0x60); }
  void acknowledge() { write(0x64, read(0x60)); }
  /// Forgets all buffers (not the rings): their RAM is used again.
  void recycle() { free_ = buffers_; }

  struct Ring {
    unsigned size = 0;
    mem::Gpa descriptors = 0, driver = 0, device = 0;
    std::uint16_t next = 0;       ///< split: available index; packed: slot
    std::uint16_t last_used = 0;  ///< split: used index; packed: slot
    bool wrap = true, used_wrap = true;
    std::vector<std::uint16_t> free;               ///< descriptors (split) or ids (packed)
    std::map<std::uint16_t, std::uint16_t> slots;  ///< packed: id to ring slots taken
    std::map<std::uint16_t, std::vector<std::uint16_t>> chains;
  };
  Ring& ring(unsigned queue) { return rings_[queue]; }
  std::uint64_t negotiated() const { return features_; }

 private:
  mem::Gpa take(std::uint64_t length, std::uint64_t alignment);
  std::uint16_t add_split(Ring& ring, std::span<const Part> parts, bool indirect);
  std::uint16_t add_packed(Ring& ring, std::span<const Part> parts, bool indirect);
  mem::Gpa write_table(std::span<const Part> parts, bool packed);

  TestMachine& machine_;
  mem::Gpa base_;
  mem::Gpa ram_, free_, end_, buffers_ = 0;
  std::uint64_t features_ = 0;
  std::map<unsigned, Ring> rings_;
};

}  // namespace husk::testing
