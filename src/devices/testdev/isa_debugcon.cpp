// husk: isa-debugcon
#include "devices/testdev/isa_debugcon.h"

namespace husk::devices {

Result<std::unique_ptr<IsaDebugcon>> IsaDebugcon::create(Deps deps, Config config) {
  std::unique_ptr<IsaDebugcon> device(new IsaDebugcon(deps, std::move(config)));
  device->port_ =
      HUSK_TRY(deps.io.map(device->config_.base, 1, *device,
                           {.domain = deps.domain, .max_size = 1, .priority = 0, .name = device->config_.id}));
  if (deps.backend)
    deps.backend->set_callbacks(
        {.received = {}, .writable = [self = device.get()] { self->send(); }, .connection = {}});
  return device;
}

IsaDebugcon::~IsaDebugcon() {
  if (deps_.backend) deps_.backend->set_callbacks({});
}

void IsaDebugcon::write(const mem::Access&, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  if (!deps_.backend) return;
  if (state_.pending.empty() && deps_.backend->write({&byte, 1}) == 1) return;
  if (state_.pending.size() < kMostPending) state_.pending.push_back(byte);
}

void IsaDebugcon::send() {
  if (!deps_.backend || state_.pending.empty()) return;
  const std::size_t taken = deps_.backend->write(state_.pending);
  state_.pending.erase(state_.pending.begin(), state_.pending.begin() + static_cast<std::ptrdiff_t>(taken));
}

Status IsaDebugcon::validate(const IsaDebugconState& incoming) const {
  if (incoming.pending.size() > kMostPending)
    return fail("saved state of {} has {} characters pending, more than {}", config_.id, incoming.pending.size(),
                kMostPending);
  return {};
}

}  // namespace husk::devices
