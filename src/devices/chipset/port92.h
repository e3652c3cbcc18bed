// husk: system control port A: fast A20 gate and fast CPU reset at port 92h
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/device.h"
#include "devices/chipset/a20_gate.h"
#include "mem/address_space.h"

namespace husk::devices {

/// PORT92 of the ICH9 data sheet (13.7.2): bit 0 INIT_NOW, bit 1 ALT_A20_GATE. A rise of bit 0 resets the machine.
struct Port92State {
  std::uint8_t value = 0;
  static constexpr auto state() { return std::tuple{state::field(1, "value", &Port92State::value)}; }
};

class Port92 final : public core::StatefulDevice<Port92State>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::MachineControl& control;
    A20Gate& a20;
  };
  static constexpr std::uint16_t kPort = 0x92;

  static Result<std::unique_ptr<Port92>> create(Deps deps);

  std::string_view state_id() const override { return "port92"; }
  void reset(core::ResetKind kind) override;

 private:
  explicit Port92(Deps deps);
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  void after_load() override;
  void drive() { a20_.set(state_.value & 2); }

  Deps deps_;
  A20Gate::Input a20_;
  mem::Mapping port_;
};

}  // namespace husk::devices
