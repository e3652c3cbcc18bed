// husk: isa-debug-exit
#include "devices/testdev/isa_debug_exit.h"

namespace husk::devices {

Result<std::unique_ptr<IsaDebugExit>> IsaDebugExit::create(Deps deps, Config config) {
  if (config.size != 1 && config.size != 2 && config.size != 4)
    return fail("isa-debug-exit cannot have {} ports: only 1, 2 or 4", config.size);
  std::unique_ptr<IsaDebugExit> device(new IsaDebugExit(deps, std::move(config)));
  device->ports_ =
      HUSK_TRY(deps.io.map(device->config_.base, device->config_.size, *device,
                           {.domain = deps.domain, .max_size = 4, .priority = 0, .name = device->config_.id}));
  return device;
}

void IsaDebugExit::write(const mem::Access&, std::uint64_t value) {
  const auto status = (static_cast<std::uint32_t>(value) << 1) | 1;
  deps_.control.request_shutdown(core::MachineControl::Shutdown::debug_exit, static_cast<int>(status));
}

}  // namespace husk::devices
