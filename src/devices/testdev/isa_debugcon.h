// husk: isa-debugcon: a port that takes characters for the host, as Bochs has it at E9h
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/backends.h"
#include "core/device.h"
#include "mem/address_space.h"

namespace husk::devices {

struct IsaDebugconState {
  std::vector<std::uint8_t> pending;  ///< what the backend has not taken yet
  static constexpr auto state() { return std::tuple{state::field(1, "pending", &IsaDebugconState::pending)}; }
};

/// One write-only port without a status: what the backend does not take at once is kept, up to kMostPending bytes, and
/// beyond that dropped. Reading gives the readback value, by which guests find the device.
class IsaDebugcon final : public core::StatefulDevice<IsaDebugconState>, private mem::IoHandler {
 public:
  static constexpr std::size_t kMostPending = 64 * 1024;
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::CharBackend* backend = nullptr;  ///< none: output is dropped
  };
  struct Config {
    std::string id = "isa_debugcon";
    std::uint16_t base = 0xE9;
    std::uint8_t readback = 0xE9;
  };
  static Result<std::unique_ptr<IsaDebugcon>> create(Deps deps, Config config);
  ~IsaDebugcon() override;

  std::string_view state_id() const override { return config_.id; }
  /// What the guest has written stays on its way out.
  void reset(core::ResetKind) override {}
  void start() override { send(); }

 private:
  IsaDebugcon(Deps deps, Config config) : deps_(deps), config_(std::move(config)) {}
  std::uint64_t read(const mem::Access&) override { return config_.readback; }
  void write(const mem::Access& access, std::uint64_t value) override;
  Status validate(const IsaDebugconState& incoming) const override;
  void send();

  Deps deps_;
  Config config_;
  mem::Mapping port_;
};

}  // namespace husk::devices
