// husk: symbols out of a stripped Linux kernel, from the kallsyms tables it carries for its own use
#pragma once

#include <cstdint>
#include <span>

#include "boot/symbols.h"

namespace husk::boot {

/// Looks for the kallsyms tables in an unpacked vmlinux (Linux 4.6 and later, 64-bit, built with
/// CONFIG_KALLSYMS_BASE_RELATIVE, as all distributions' are) and reads the symbols at their link addresses. Empty if
/// there are none or they look damaged; never fails, since they serve reports only.
SymbolTable find_kallsyms(std::span<const std::uint8_t> vmlinux);

}  // namespace husk::boot
