// husk: the messages between I/O APICs, MSI sources and local APICs
#pragma once

#include <cstdint>

#include "base/bits.h"
#include "core/interrupt_line.h"

namespace husk::devices {

/// SDM vol. 3, 11.6.1, "Delivery Mode"; the same codes in LVT, ICR, redirection entries and MSI data.
enum class DeliveryMode : std::uint8_t {
  fixed = 0,
  lowest_priority = 1,
  smi = 2,
  reserved = 3,
  nmi = 4,
  init = 5,
  startup = 6,
  ext_int = 7,
};

struct ApicMessage {
  static constexpr std::uint32_t kBroadcast = 0xFFFF'FFFF;

  std::uint32_t destination = 0;  ///< kBroadcast reaches every local APIC in both destination modes
  bool logical = false;
  DeliveryMode mode = DeliveryMode::fixed;
  std::uint8_t vector = 0;
  bool level = false;  ///< trigger mode: an EOI of it is broadcast to the I/O APICs
};

/// Where I/O APICs send to. Lock-free and thread-safe; may be called under any lock.
class InterruptBus {
 public:
  virtual ~InterruptBus() = default;
  /// False if no local APIC took it.
  virtual bool deliver(const ApicMessage& message) = 0;
};

/// What a write to the MSI window means (SDM vol. 3, 11.11). An 8-bit destination of FFh is a broadcast.
constexpr ApicMessage decode_msi(const core::MsiMessage& msi) {
  const auto destination = static_cast<std::uint32_t>(bits(msi.address, 12, 8));
  ApicMessage message;
  message.destination = destination == 0xFF ? ApicMessage::kBroadcast : destination;
  message.logical = bit(msi.address, 2);
  message.mode = static_cast<DeliveryMode>(bits(msi.data, 8, 3));
  message.vector = static_cast<std::uint8_t>(msi.data);
  message.level = bit(msi.data, 15);
  return message;
}

/// The opposite: the MSI that has the same effect. Destinations beyond 8 bits do not fit in one.
constexpr core::MsiMessage encode_msi(const ApicMessage& message) {
  core::MsiMessage msi;
  msi.address = 0xFEE0'0000 | (std::uint64_t{message.destination & 0xFF} << 12) | (message.logical ? 4u : 0u);
  msi.data = message.vector | (static_cast<std::uint32_t>(message.mode) << 8) | (message.level ? 0xC000u : 0u);
  return msi;
}

}  // namespace husk::devices
