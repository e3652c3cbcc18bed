// husk: virtio-pmem: memory of the guest whose contents a file of the host keeps
#pragma once

#include <cstdint>
#include <string>

#include "core/persistent_memory.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct PmemState {
  CommonState common;
  static constexpr auto state() { return std::tuple{state::field(1, "common", &PmemState::common)}; }
};

/// Virtio 1.2, 5.19: the driver learns where the memory is, which whoever makes the device has mapped, and asks for
/// what it wrote to be made stable. Flushes run aside and may end in any order; a reset waits for them.
class Pmem final : public Base<PmemState> {
 public:
  struct Config {
    std::string id = "virtio_pmem0";
    mem::Gpa start = 0;  ///< where the region is mapped
    RingOptions ring = {};
  };
  /// The memory outlives the device.
  Pmem(Environment environment, core::PersistentMemory& memory, Config config);

 private:
  void handle_queue(unsigned queue) override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  void answer(const Chain& chain, bool success);

  core::PersistentMemory& memory_;
  Config config_;
  bool in_batch_ = false;
};

}  // namespace husk::devices::virtio
