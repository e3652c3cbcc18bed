// husk: the reset control register at port CF9h
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/backends.h"
#include "core/device.h"
#include "mem/address_space.h"

namespace husk::devices {

/// RST_CNT of the ICH9 data sheet (13.7.5): bit 1 SYS_RST (hard rather than soft), bit 2 RST_CPU (its rise resets),
/// bit 3 FULL_RST (power cycle). It lies inside the four bytes of the PCI configuration address register, which must
/// stay one mapping for dword accesses: give it to PciHost as `byte_at_cf9`, or, on a board without PCI, map() it.
struct ResetControlState {
  std::uint8_t value = 0;
  static constexpr auto state() { return std::tuple{state::field(1, "value", &ResetControlState::value).max(0x0E)}; }
};

class ResetControl final : public core::StatefulDevice<ResetControlState>, public mem::IoHandler {
 public:
  struct Deps {
    core::MachineControl& control;
  };
  static constexpr std::uint16_t kPort = 0xCF9;

  explicit ResetControl(Deps deps) : deps_(deps) {}
  /// Answers at kPort by itself.
  Status map(mem::AddressSpace& io, mem::LockDomain* domain);

  std::string_view state_id() const override { return "reset_control"; }
  void reset(core::ResetKind) override { state_ = {}; }

  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;

 private:
  Deps deps_;
  mem::Mapping port_;
};

}  // namespace husk::devices
