// husk: the program's commands
#pragma once

#include <span>
#include <string>

namespace husk::app {

/// Runs the command line; returns the exit status. `program` is argv[0]: under a name that ends in qemu-system-x86_64
/// all arguments are QEMU's.
int run_command_line(const std::string& program, std::span<const std::string> arguments);

}  // namespace husk::app
