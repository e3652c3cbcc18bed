// husk: the program that husk puts into a guest as its process 1
#pragma once

#include <cstdint>
#include <span>

namespace husk::guest {

/// A static x86-64 ELF file; empty where husk was built for another architecture.
std::span<const std::uint8_t> init_image();

}  // namespace husk::guest
