// husk: the configuration space of one PCI function: header, BARs, capabilities, write rules
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "state/state.h"

namespace husk::devices::pci {

/// Offsets of the type 0 header (PCI Local Bus Specification 3.0, 6.1).
enum Header : unsigned {
  kVendorId = 0x00,
  kDeviceId = 0x02,
  kCommand = 0x04,
  kStatus = 0x06,
  kRevision = 0x08,
  kProgrammingInterface = 0x09,
  kSubclass = 0x0A,
  kBaseClass = 0x0B,
  kCacheLineSize = 0x0C,
  kLatencyTimer = 0x0D,
  kHeaderType = 0x0E,
  kBar0 = 0x10,
  kSubsystemVendorId = 0x2C,
  kSubsystemId = 0x2E,
  kRomBar = 0x30,
  kCapabilityPointer = 0x34,
  kInterruptLine = 0x3C,
  kInterruptPin = 0x3D,
};
enum CommandBits : std::uint16_t {
  kCommandIo = 0x0001,
  kCommandMemory = 0x0002,
  kCommandBusMaster = 0x0004,
  kCommandParity = 0x0040,
  kCommandSerr = 0x0100,
  kCommandIntxDisable = 0x0400,
};
enum StatusBits : std::uint16_t { kStatusInterrupt = 0x0008, kStatusCapabilities = 0x0010 };
inline constexpr unsigned kBarCount = 6;
inline constexpr unsigned kConventionalSize = 256;
inline constexpr unsigned kExpressSize = 4096;

/// What a function says of itself and the guest cannot change.
struct Identity {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint8_t revision = 0;
  std::uint32_t class_code = 0;  ///< base class, subclass, programming interface: 060100h is an ISA bridge
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint8_t interrupt_pin = 0;  ///< 0 none, 1 INTA# .. 4 INTD#
  bool multifunction = false;
};

struct BarSpec {
  enum class Kind : std::uint8_t { none, io, memory32, memory64 } kind = Kind::none;
  std::uint64_t size = 0;  ///< a power of two; at least 4 (I/O) or 16 (memory)
  bool prefetchable = false;
};

/// The saved part of a configuration space.
struct ConfigState {
  std::vector<std::uint8_t> bytes;
  static constexpr auto state() { return std::tuple{state::field(1, "bytes", &ConfigState::bytes)}; }
};

/// Bytes with three rules each: read only, writable, write 1 to clear. Built once by the device that owns it, then
/// driven by the guest; the layout is no part of the saved state, and a state whose read-only bytes differ is refused.
/// Capabilities are laid out in the order added, from 40h (or the `from` given) and 100h on.
class ConfigSpace {
 public:
  /// 256 bytes, or 4096 with `express`.
  ConfigSpace(ConfigState& state, const Identity& identity, bool express);

  // ---- building ----
  /// Gives [offset, offset+size) a reset value and the bits that the guest may write; size 1, 2, 4 or 8.
  void define(unsigned offset, unsigned size, std::uint64_t reset, std::uint64_t writable = 0, std::uint64_t clear = 0);
  /// Bits that the device itself changes and the guest cannot: a saved state may have them either way.
  void define_dynamic(unsigned offset, unsigned size, std::uint64_t mask);
  /// A standard capability of `length` bytes (its two header bytes included) with read-only zeros; returns its offset.
  /// The first is placed at `from` if given.
  unsigned add_capability(std::uint8_t id, unsigned length, unsigned from = 0);
  /// An extended capability of `length` bytes (its four header bytes included), only in a 4096-byte space.
  unsigned add_extended_capability(std::uint16_t id, std::uint8_t version, unsigned length);
  /// A 64-bit BAR takes `index` and `index + 1`.
  void add_bar(unsigned index, BarSpec spec);

  // ---- use ----
  /// Every byte to its reset value.
  void reset();
  /// Little-endian; bytes beyond the space read as zeros with PCI Express (a conventional function seen through ECAM).
  std::uint32_t read(unsigned offset, unsigned size) const;
  /// True if any byte changed (as far as the rules allow).
  bool write(unsigned offset, std::uint32_t value, unsigned size);
  /// The device's own changes, past the rules.
  std::uint64_t get(unsigned offset, unsigned size) const;
  void set(unsigned offset, unsigned size, std::uint64_t value);

  const BarSpec& bar(unsigned index) const { return bars_[index]; }
  /// Where a BAR decodes: nothing while the command register disables it, or while it holds an address that no access
  /// can reach (zero, or all ones during sizing).
  std::optional<std::uint64_t> bar_address(unsigned index) const;
  /// The first offset of a capability, if there is one.
  std::optional<unsigned> find_capability(std::uint8_t id) const;

  unsigned size() const { return static_cast<unsigned>(reset_.size()); }
  /// Refuses a state of another size or with other read-only contents.
  Status validate(const ConfigState& incoming, const std::string& owner) const;

 private:
  ConfigState& state_;
  std::vector<std::uint8_t> reset_;
  std::vector<std::uint8_t> writable_;
  std::vector<std::uint8_t> clear_;
  std::vector<std::uint8_t> dynamic_;
  std::array<BarSpec, kBarCount> bars_{};
  unsigned capability_end_ = 0x40;
  unsigned last_capability_ = 0;
  unsigned extended_end_ = 0x100;
  unsigned last_extended_ = 0;
};

}  // namespace husk::devices::pci
