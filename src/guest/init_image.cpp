// husk: the program that husk puts into a guest as its process 1
#include "guest/init_image.h"

#ifdef HUSK_INIT_FILE
asm(".section .rodata\n"
    ".globl husk_init_begin, husk_init_end\n"
    "husk_init_begin:\n"
    ".incbin \"" HUSK_INIT_FILE
    "\"\n"
    "husk_init_end:\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const std::uint8_t husk_init_begin[], husk_init_end[];
#endif

namespace husk::guest {

std::span<const std::uint8_t> init_image() {
#ifdef HUSK_INIT_FILE
  return {husk_init_begin, husk_init_end};
#else
  return {};
#endif
}

}  // namespace husk::guest
