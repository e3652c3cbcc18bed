// husk: the seam between the command lines and the machine
#pragma once

#include "app/exit_status.h"
#include "machine/config.h"

namespace husk::app {

struct GuestCommand;

struct LaunchOptions {
  Dialect dialect = Dialect::run;
  /// The program's name in messages.
  const char* program = "husk";
  /// Say how the run ended, if not by power-off.
  bool announce_ending = false;
  /// Dialect::command: what to run in the guest.
  const GuestCommand* command = nullptr;
};

/// Builds the machine, runs it to its end and returns husk's exit status. `config` has passed machine::validate().
/// Everything that goes wrong is reported on standard error; what the user can mend (a file that is missing or no
/// kernel, an unknown CPU model, no memory) gives kUsageError.
int launch(const machine::MachineConfig& config, const LaunchOptions& options);

}  // namespace husk::app
