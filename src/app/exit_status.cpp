// husk: how a machine's run can end, and what exit status that gives
#include "app/exit_status.h"

#include <fmt/format.h>

namespace husk::app {
namespace {
constexpr int kReset = 4, kPanic = 6, kTripleFault = 8, kFailed = 10, kQuit = 12;
constexpr int kTimeOut = 124;  // as timeout(1)
}  // namespace

int exit_status(const Ending& ending, Dialect dialect) {
  const bool qemu = dialect == Dialect::qemu;
  switch (ending.kind) {
    case Ending::Kind::power_off: return 0;
    case Ending::Kind::debug_exit: return ending.status & 0xff;
    case Ending::Kind::failed: return qemu ? 1 : kFailed;
    case Ending::Kind::time_out: return kTimeOut;
    case Ending::Kind::reset: return qemu ? 0 : kReset;
    case Ending::Kind::guest_panic: return qemu ? 0 : kPanic;
    case Ending::Kind::triple_fault: return qemu ? 0 : kTripleFault;
    case Ending::Kind::user_quit: return qemu ? 0 : kQuit;
    case Ending::Kind::signal: return qemu ? 0 : 128 + ending.status;
  }
  return kFailed;
}

std::string to_text(const Ending& ending) {
  switch (ending.kind) {
    case Ending::Kind::power_off: return "the guest powered off";
    case Ending::Kind::reset: return "the guest reset the machine";
    case Ending::Kind::guest_panic: return "the guest panicked";
    case Ending::Kind::triple_fault: return "the guest's CPU stopped for good";
    case Ending::Kind::time_out: return "the time-out is over";
    case Ending::Kind::user_quit: return "the user quit";
    case Ending::Kind::debug_exit: return fmt::format("the guest ended husk with status {}", ending.status);
    case Ending::Kind::signal: return fmt::format("signal {} ended husk", ending.status);
    case Ending::Kind::failed: return "husk could not go on";
  }
  return "";
}

std::string exit_status_help() {
  return fmt::format(
      "Exit status: 0 the guest powered off; {} bad option or file; {} reset with --no-reboot; {} guest panic;\n"
      "{} triple fault or all CPUs stopped; {} husk failed; {} quit by Ctrl-A x; {} time-out; odd: from "
      "isa-debug-exit.\n"
      "Ended by a signal, husk dies of that signal.",
      kUsageError, kReset, kPanic, kTripleFault, kFailed, kQuit, kTimeOut);
}

}  // namespace husk::app
