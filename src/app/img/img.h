// husk: `husk img`: works on disk images, with qemu-img's commands and options
#pragma once

#include <cstdio>
#include <span>
#include <string>

namespace husk::app {

/// Runs `husk img ARGUMENTS...`; returns the exit status, as qemu-img's: 0, or 1 for failure; `check` and `compare`
/// have further ones.
int run_img(std::span<const std::string> arguments, std::FILE* out, std::FILE* err);

}  // namespace husk::app
