// husk: system control port A
#include "devices/chipset/port92.h"

namespace husk::devices {

Port92::Port92(Deps deps) : deps_(deps), a20_(deps.a20.input()) { drive(); }

Result<std::unique_ptr<Port92>> Port92::create(Deps deps) {
  std::unique_ptr<Port92> device(new Port92(deps));
  device->port_ =
      HUSK_TRY(deps.io.map(kPort, 1, *device, {.domain = deps.domain, .max_size = 1, .priority = 0, .name = "port92"}));
  return device;
}

void Port92::reset(core::ResetKind) {
  state_ = {};
  drive();
}

std::uint64_t Port92::read(const mem::Access&) { return state_.value; }

void Port92::write(const mem::Access&, std::uint64_t value) {
  const auto next = static_cast<std::uint8_t>(value);
  const bool reset_now = next & ~state_.value & 1;
  state_.value = next;
  drive();
  if (reset_now) deps_.control.request_reset("fast reset (port 92h)");
}

void Port92::after_load() { drive(); }

}  // namespace husk::devices
