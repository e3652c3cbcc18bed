// husk: message-signalled interrupts of a PCI function: MSI and MSI-X, with masking and pending bits
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "core/interrupt_line.h"
#include "devices/pci/config_space.h"
#include "mem/io_handler.h"
#include "state/state.h"

namespace husk::devices::pci {

/// Where messages go, and as whom.
struct MsiSender {
  core::MsiPort& port;
  std::function<std::uint16_t()> requester_id;
};

/// PCI 3.0, 6.8.1: 64-bit addresses and per-vector masking, 1 to 32 vectors (a power of two). All of its state is in
/// the configuration space.
class Msi {
 public:
  static constexpr std::uint8_t kId = 0x05;
  Msi(ConfigSpace& config, MsiSender sender, unsigned vectors);

  bool enabled() const;
  /// An event of `vector`, wrapped to the number of vectors that software allotted. Pends while masked.
  void notify(unsigned vector);
  /// To be called after every configuration write: sends what an unmasking lets through.
  void config_written();

 private:
  unsigned allotted() const;
  void send(unsigned vector);
  ConfigSpace& config_;
  MsiSender sender_;
  unsigned vectors_;
  unsigned at_;
};

struct MsixState {
  std::vector<std::uint8_t> table;
  std::vector<std::uint8_t> pending;
  static constexpr auto state() {
    return std::tuple{state::field(1, "table", &MsixState::table), state::field(2, "pending", &MsixState::pending)};
  }
};

/// PCI 3.0, 6.8.2. The handler is one BAR of 16-byte entries from offset 0, and pending bits from pba_offset().
class Msix final : public mem::IoHandler {
 public:
  static constexpr std::uint8_t kId = 0x11;
  static constexpr unsigned kMostVectors = 2048;
  static constexpr std::uint8_t kAccessSize = 8;
  /// Adds the capability and a 32-bit memory BAR; the owner gives the BAR this handler.
  Msix(ConfigSpace& config, MsixState& state, MsiSender sender, unsigned vectors, unsigned bar);

  unsigned vectors() const { return vectors_; }
  bool enabled() const;
  /// An event of `vector`; ignored beyond the table or while MSI-X is off. Pends while masked.
  void notify(unsigned vector);
  /// To be called after every configuration write.
  void config_written();
  void reset();
  Status validate(const MsixState& incoming, const std::string& owner) const;

  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;

 private:
  bool function_masked() const;
  bool masked(unsigned vector) const { return function_masked() || (state_.table[vector * 16 + 12] & 1); }
  void send_pending();
  ConfigSpace& config_;
  MsixState& state_;
  MsiSender sender_;
  unsigned vectors_;
  unsigned pba_offset_;
  unsigned at_;
};

}  // namespace husk::devices::pci
