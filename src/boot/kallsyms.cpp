// husk: finding and decoding kallsyms
#include "boot/kallsyms.h"

namespace husk::boot {

SymbolTable find_kallsyms(std::span<const std::uint8_t>) { return {}; }

}  // namespace husk::boot
