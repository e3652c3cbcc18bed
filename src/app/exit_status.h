// husk: how a machine's run can end, and what exit status that gives
#pragma once

#include <cstdint>
#include <string>

namespace husk::app {

struct Ending {
  enum class Kind : std::uint8_t {
    power_off,     ///< the guest switched itself off
    reset,         ///< the guest asked for a reset, and --no-reboot was given
    guest_panic,   ///< the guest said that it has crashed
    triple_fault,  ///< a CPU shut down, or every CPU stopped for good
    time_out,      ///< --timeout is over
    user_quit,     ///< Ctrl-A x
    debug_exit,    ///< isa-debug-exit; `status` is the exit status
    signal,        ///< SIGTERM, SIGINT or SIGHUP to husk; `status` is its number
    failed,        ///< husk or its accelerator could not go on
    command,       ///< the command in the guest ended; `status` is its exit status, as a shell shows it
    not_set_up,    ///< the guest could not be made ready for the command
  } kind = Kind::power_off;
  int status = 0;
  bool operator==(const Ending&) const = default;
};

/// Whose command line it was: statuses differ.
enum class Dialect : std::uint8_t {
  run,
  command,  ///< `husk run -- COMMAND`
  qemu,
};

inline constexpr int kUsageError = 2;  ///< a malformed option, or a file that cannot be used

/// `husk run`: all but isa-debug-exit's own are even, as those are always odd ((value << 1) | 1).
/// `husk run -- COMMAND`: the command's own, so that others must be ones that commands seldom have: 120 to 127.
/// `husk qemu`: as QEMU, whose users expect 0 however the guest ended.
int exit_status(const Ending& ending, Dialect dialect);

/// What a malformed option or an unusable file gives.
int usage_status(Dialect dialect);
/// A command that cannot be executed, or is not found (POSIX, "Exit Status for Commands").
inline constexpr int kNotExecutable = 126, kNotFound = 127;

/// "the guest powered off", for messages.
std::string to_text(const Ending& ending);

/// The table of `husk run` for help texts.
std::string exit_status_help();

}  // namespace husk::app
