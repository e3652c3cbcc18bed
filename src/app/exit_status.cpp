// husk: how a machine's run can end, and what exit status that gives
#include "app/exit_status.h"

#include <fmt/format.h>

namespace husk::app {
namespace {
constexpr int kReset = 4, kPanic = 6, kTripleFault = 8, kFailed = 10, kQuit = 12;
constexpr int kTimeOut = 124;  // as timeout(1)
constexpr int kCommandPanic = 120, kCommandTripleFault = 121, kCommandQuit = 122, kCommandLost = 123;
constexpr int kCommandFailed = 125;  // as env(1) and timeout(1): the program that runs the command failed
}  // namespace

namespace {
int command_status(const Ending& ending) {
  switch (ending.kind) {
    case Ending::Kind::command:
    case Ending::Kind::debug_exit: return ending.status & 0xff;
    case Ending::Kind::power_off:
    case Ending::Kind::reset: return kCommandLost;
    case Ending::Kind::guest_panic: return kCommandPanic;
    case Ending::Kind::triple_fault: return kCommandTripleFault;
    case Ending::Kind::time_out: return kTimeOut;
    case Ending::Kind::user_quit: return kCommandQuit;
    case Ending::Kind::signal: return 128 + ending.status;
    case Ending::Kind::failed:
    case Ending::Kind::not_set_up: return kCommandFailed;
  }
  return kCommandFailed;
}
}  // namespace

int exit_status(const Ending& ending, Dialect dialect) {
  if (dialect == Dialect::command) return command_status(ending);
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
    case Ending::Kind::command:
    case Ending::Kind::not_set_up: break;  // there is no command
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
    case Ending::Kind::command: return fmt::format("the command ended with status {}", ending.status);
    case Ending::Kind::not_set_up: return "the guest could not be made ready for the command";
  }
  return "";
}

int usage_status(Dialect dialect) { return dialect == Dialect::command ? kCommandFailed : kUsageError; }

std::string exit_status_help() {
  return fmt::format(
      "Exit status: 0 the guest powered off; {} bad option or file; {} reset with --no-reboot; {} guest panic;\n"
      "{} triple fault or all CPUs stopped; {} husk failed; {} quit by Ctrl-A x; {} time-out; odd: from "
      "isa-debug-exit.\n"
      "Ended by a signal, husk dies of that signal.\n"
      "With a COMMAND it is the command's (128 + N if signal N killed it); {} it cannot be executed, {} it is not "
      "found;\n"
      "{} guest panic; {} triple fault; {} quit by Enter ~ .; {} power-off or reset before the command's end; {} "
      "time-out;\n"
      "{} bad file, or the guest cannot be set up.",
      kUsageError, kReset, kPanic, kTripleFault, kFailed, kQuit, kTimeOut, kNotExecutable, kNotFound, kCommandPanic,
      kCommandTripleFault, kCommandQuit, kCommandLost, kTimeOut, kCommandFailed);
}

}  // namespace husk::app
