// husk: starting the user's command in the guest
#pragma once

#include "setup.h"

namespace husk::guest {

/// husk's ends of the command's streams, none of which blocks. On a terminal they are duplicates of one descriptor.
struct Process {
  Word pid = -1;
  Word terminal = -1;  ///< the master of the pseudo-terminal, if there is one
  Word input = -1, output = -1, error = -1;
};

/// Starts the command. One that cannot be executed is reported, and the machine's end awaited.
Process spawn(const Control& control, const Config& config);

}  // namespace husk::guest
