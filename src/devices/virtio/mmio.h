// husk: virtio over MMIO (virtio 1.2, 4.2)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct MmioState {
  std::uint32_t device_features_select = 0;
  std::uint32_t driver_features_select = 0;
  std::uint32_t queue_select = 0;
  std::uint32_t interrupt_status = 0;
  static constexpr auto state() {
    using state::field;
    using S = MmioState;
    return std::tuple{field(1, "device_features_select", &S::device_features_select),
                      field(2, "driver_features_select", &S::driver_features_select),
                      field(3, "queue_select", &S::queue_select),
                      field(4, "interrupt_status", &S::interrupt_status).max(3)};
  }
};

/// The register block of version 2, 200h bytes.
class MmioTransport final : public core::StatefulDevice<MmioState>, private mem::IoHandler, private Interrupts {
 public:
  static constexpr std::uint64_t kSize = 0x200;
  struct Deps {
    mem::AddressSpace& memory;
    mem::LockDomain* domain = nullptr;
    core::InterruptLine line;
    VirtioDevice& device;
  };
  /// `base` is page-aligned by custom. Fails if it is outside the address space.
  static Result<std::unique_ptr<MmioTransport>> create(Deps deps, std::string id, mem::Gpa base);

  std::string_view state_id() const override { return id_; }
  void reset(core::ResetKind kind) override;

 private:
  MmioTransport(Deps deps, std::string id) : deps_(std::move(deps)), id_(std::move(id)) {}
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  std::uint32_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint32_t value);
  void queue_used(unsigned) override { raise(1); }
  void config_changed() override { raise(2); }
  void raise(std::uint32_t cause);
  void after_load() override { deps_.line.restore_level(state_.interrupt_status != 0); }

  Deps deps_;
  std::string id_;
  mem::Mapping mapping_;
};

}  // namespace husk::devices::virtio
