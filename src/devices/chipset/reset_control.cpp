// husk: the reset control register at port CF9h
#include "devices/chipset/reset_control.h"

namespace husk::devices {

Status ResetControl::map(mem::AddressSpace& io, mem::LockDomain* domain) {
  port_ = HUSK_TRY(io.map(kPort, 1, *this, {.domain = domain, .max_size = 1, .priority = 0, .name = "reset_control"}));
  return {};
}

std::uint64_t ResetControl::read(const mem::Access&) { return state_.value; }

void ResetControl::write(const mem::Access&, std::uint64_t value) {
  const auto next = static_cast<std::uint8_t>(value & 0x0E);
  const bool rise = next & ~state_.value & 4;
  state_.value = next;
  if (!rise) return;
  // A soft reset (SYS_RST clear) would be INIT# to the CPUs alone; firmware then starts anew, as after a hard one.
  deps_.control.request_reset((next & 2) ? "hard reset (port CF9h)" : "soft reset (port CF9h)");
}

}  // namespace husk::devices
