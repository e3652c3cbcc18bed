// husk: whether an initrd is one that Linux can use
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace husk::app {

/// Refuses what Linux would only tell by a panic seconds later: an initrd that is neither a cpio archive nor compressed
/// nor one of the old RAM disk's file systems, and an uncompressed archive that ends too early. A compressed one is not
/// unpacked here. `kernel` and `initrd` are whole files; only a bzImage that is certainly Linux is checked for, as
/// other kernels that boot by Linux's protocol (iPXE, for one) take anything as their initrd.
Status check_initrd(std::span<const std::uint8_t> kernel, std::span<const std::uint8_t> initrd,
                    const std::string& name);

}  // namespace husk::app
