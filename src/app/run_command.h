// husk: the command line of `husk run`
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "app/guest_command.h"
#include "base/result.h"
#include "machine/config.h"

namespace husk::app {

/// What `husk run` takes from the host when nothing is given; a test gives its own.
struct RunDefaults {
  /// The kernel to boot, or why there is none.
  Result<std::string> kernel = std::string();
  /// For the guest's own small initramfs, if there is one.
  std::optional<std::string> busybox = {};
  /// Size of the terminal, if there is one.
  std::optional<std::pair<unsigned, unsigned>> rows_columns = {};
};

struct RunRequest {
  std::optional<machine::MachineConfig> machine = {};
  std::optional<GuestCommand> command = {};  ///< what follows "--"
  std::string print = {};                    ///< to standard output, instead of running
  bool quiet = false;
};

/// Parses the arguments after `run`. `defaults` is called only if a kernel or busybox is wanted of it.
Result<RunRequest> parse_run_options(std::span<const std::string> arguments,
                                     const std::function<RunDefaults()>& defaults);

/// Every long option of `husk run`, with its dashes.
std::vector<std::string> run_option_names();

}  // namespace husk::app
