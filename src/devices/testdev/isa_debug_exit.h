// husk: isa-debug-exit: a port by which a test program ends the machine with a status
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/backends.h"
#include "core/device.h"
#include "mem/address_space.h"

namespace husk::devices {

struct IsaDebugExitState {
  static constexpr auto state() { return std::tuple{}; }
};

/// Behaves as QEMU's device of that name: a write of V, of any width and to any of its ports, ends husk with status
/// (V << 1) | 1, so that no value says success. Reads give zero.
class IsaDebugExit final : public core::StatefulDevice<IsaDebugExitState>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::MachineControl& control;
  };
  struct Config {
    std::string id = "isa_debug_exit";
    std::uint16_t base = 0x501;
    std::uint16_t size = 2;  ///< ports: 1, 2 or 4
  };
  static Result<std::unique_ptr<IsaDebugExit>> create(Deps deps, Config config);

  std::string_view state_id() const override { return config_.id; }
  void reset(core::ResetKind) override {}

 private:
  IsaDebugExit(Deps deps, Config config) : deps_(deps), config_(std::move(config)) {}
  std::uint64_t read(const mem::Access&) override { return 0; }
  void write(const mem::Access& access, std::uint64_t value) override;

  Deps deps_;
  Config config_;
  mem::Mapping ports_;
};

}  // namespace husk::devices
