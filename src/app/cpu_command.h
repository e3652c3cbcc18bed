// husk: `husk cpu`: CPU models and hosts listed, shown, compared and brought to a baseline
#pragma once

#include <cstdio>
#include <span>
#include <string>

namespace husk::app {

/// What follows "husk cpu". Returns the exit status: 0, 1 if `compare` finds something lacking, 2 for a usage error.
int run_cpu_command(std::span<const std::string> arguments, std::FILE* out, std::FILE* err);

}  // namespace husk::app
