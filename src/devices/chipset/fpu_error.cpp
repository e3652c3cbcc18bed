// husk: FERR#, IRQ 13, IGNNE# and port F0h
#include "devices/chipset/fpu_error.h"

namespace husk::devices {

Result<std::unique_ptr<FpuError>> FpuError::create(Deps deps) {
  std::unique_ptr<FpuError> device(new FpuError(std::move(deps)));
  device->port_ = HUSK_TRY(device->deps_.io.map(
      kPort, 1, *device, {.domain = device->deps_.domain, .max_size = 1, .priority = 0, .name = "fpu-error"}));
  return device;
}

void FpuError::reset(core::ResetKind) {
  state_ = {};
  deps_.irq.set(false);
}

bool FpuError::set_ferr(bool asserted) {
  if (!asserted) {
    state_.ferr = state_.ignne = false;
    return false;
  }
  if (!state_.ignne && !state_.interrupt) {
    state_.interrupt = true;
    deps_.irq.set(true);
  }
  state_.ferr = true;
  return state_.ignne;
}

// COPROC_ERR can only be written.
std::uint64_t FpuError::read(const mem::Access&) { return 0xFF; }

void FpuError::write(const mem::Access&, std::uint64_t) {
  state_.interrupt = false;
  deps_.irq.set(false);
  state_.ignne = state_.ferr;
}

}  // namespace husk::devices
