// husk: the command's process, and the bytes between it and husk
#pragma once

#include "setup.h"

namespace husk::guest {

/// Runs the command to its end with its streams on the ports, and reports how it ended. Returns when all is said.
void run_command(Control& control, const Config& config);

}  // namespace husk::guest
