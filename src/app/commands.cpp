// husk: the program's commands
#include "app/commands.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "app/cpu_command.h"
#include "app/doctor.h"
#include "app/exit_status.h"
#include "app/host_files.h"
#include "app/img/img.h"
#include "app/launcher.h"
#include "app/qemu_options.h"
#include "app/run_command.h"
#include "app/session.h"
#include "cpu/model.h"

#ifndef HUSK_VERSION
#error "the build defines HUSK_VERSION"
#endif

namespace husk::app {
namespace {

constexpr char kHelp[] =
    "Usage: husk run [KERNEL] [OPTION...]   run a virtual machine\n"
    "       husk run [KERNEL] [OPTION...] -- COMMAND...\n"
    "                                       run a command in one, on the host's own files\n"
    "       husk qemu [OPTION...]           the same with QEMU's command line\n"
    "       husk img COMMAND [OPTION...]    work on disk images as qemu-img does\n"
    "       husk cpu COMMAND [CPU...]       list, show and compare CPU models and hosts\n"
    "       husk doctor [--json]            say what this host offers, and what to do about what it lacks\n"
    "       husk --version\n"
    "       husk --help\n"
    "\n"
    "'husk COMMAND --help' describes a command; man husk has it all. 'husk run' alone boots the newest kernel in "
    "/boot\n"
    "to a shell on this terminal.\n";

int usage_error(const char* program, const Error& error) {
  print_error(program, error);
  return kUsageError;
}

void put(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

/// Output that nobody could have got is a failure too (`husk --help > /dev/full`).
int printed() {
  if (std::fflush(stdout) == 0) return 0;
  return usage_error("husk", fail_errno(errno, "cannot write to standard output").error());
}

RunDefaults host_defaults() {
  const auto guests = guest_directories();
  RunDefaults defaults{.kernel = default_kernel("/boot", guests), .busybox = find_busybox(guests)};
  winsize size{};
  if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
    defaults.rows_columns = {size.ws_row, size.ws_col};
  return defaults;
}

/// Messages of several machines on one terminal are told apart by their names.
std::string with_name(const char* program, const machine::MachineConfig& machine) {
  return machine.name.empty() ? program : fmt::format("{} ({})", program, machine.name);
}

int command_run(std::span<const std::string> arguments) {
  const auto request = parse_run_options(arguments, host_defaults);
  if (!request) return usage_error("husk run", request.error());
  if (!request->machine) {
    put(request->print);
    return printed();
  }
  const std::string program = with_name("husk", *request->machine);
  const LaunchOptions options{.dialect = request->command ? Dialect::command : Dialect::run,
                              .program = program.c_str(),
                              .announce_ending = !request->quiet,
                              .command = request->command ? &*request->command : nullptr};
  return launch(*request->machine, options);
}

std::string list_cpus() {
  std::string text;
  for (const std::string& name : cpu::cpu_model_names()) text += name + "\n";
  return text;
}

int command_qemu(const char* program, std::span<const std::string> arguments) {
  const auto request = parse_qemu_options(arguments);
  if (!request) return usage_error(program, request.error());
  using Print = QemuRequest::Print;
  switch (request->print) {
    case Print::nothing: break;
    case Print::help: put(qemu_help()); return printed();
    case Print::version: put("husk " HUSK_VERSION ", taking QEMU's options\n"); return printed();
    case Print::machines:
      put("Supported machines are:\nmicro                husk's small PC (default)\n");
      return printed();
    case Print::accelerators: put("Accelerators supported by husk:\ntcg\nkvm\ninterp\n"); return printed();
    case Print::cpus: put(list_cpus()); return printed();
    case Print::devices: put(device_help()); return printed();
    case Print::chardevs: put(chardev_help()); return printed();
    case Print::log_items: put(log_item_help()); return printed();
  }
  const std::string shown = with_name(program, *request->machine);
  const LaunchOptions options{.dialect = Dialect::qemu, .program = shown.c_str(), .announce_ending = false};
  return launch(*request->machine, options);
}

int command_doctor(std::span<const std::string> arguments) {
  bool as_json = false;
  for (const std::string& argument : arguments) {
    if (argument == "--json") {
      as_json = true;
    } else if (argument == "--help" || argument == "-h") {
      put("Usage: husk doctor [--json]\n\n"
          "Tries this host's KVM with a small guest, and looks for memory, kernels, busybox and tools. Says what to "
          "do\n"
          "about what is missing. Exit status: 0.\n\n"
          "Options:\n"
          "  -h,--help   show this help\n"
          "  --json      for programs\n");
      return printed();
    } else {
      return usage_error("husk doctor", {fmt::format("there is no option '{}'", argument), "it has --json and --help"});
    }
  }
  const DoctorReport report = examine_host();
  put(as_json ? to_json(report) : to_text(report));
  return printed();
}

}  // namespace

int run_command_line(const std::string& program, std::span<const std::string> arguments) {
  const std::string name = program.substr(program.rfind('/') + 1);
  if (name == "qemu-system-x86_64") return command_qemu("qemu-system-x86_64", arguments);
  if (name == "qemu-img") return run_img(arguments, stdout, stderr);
  if (arguments.empty()) {
    std::fputs(kHelp, stderr);
    return kUsageError;
  }
  const std::string& command = arguments.front();
  const auto rest = arguments.subspan(1);
  if (command == "run") return command_run(rest);
  if (command == "qemu") return command_qemu("husk qemu", rest);
  if (command == "doctor") return command_doctor(rest);
  if (command == "cpu") return run_cpu_command(rest, stdout, stderr);
  if (command == "img") return run_img(rest, stdout, stderr);
  if (command == "--version" || command == "-V" || command == "version") {
    put("husk " HUSK_VERSION "\n");
    return printed();
  }
  if (command == "--help" || command == "-h" || command == "help") {
    put(kHelp);
    return printed();
  }
  static constexpr std::string_view kCommands[] = {"run", "qemu", "img", "cpu", "doctor", "--version", "--help"};
  return usage_error("husk",
                     {fmt::format("there is no command '{}'{}", command, machine::nearest_hint(command, kCommands)),
                      "'husk --help' lists those there are"});
}

}  // namespace husk::app
