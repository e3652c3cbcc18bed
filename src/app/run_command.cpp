// husk: the command line of `husk run`
#include "app/run_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "app/exit_status.h"
#include "app/qemu_network.h"
#include "app/qemu_options.h"
#include "app/qemu_properties.h"
#include "app/qemu_virtio.h"
#include "boot/initramfs.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

/// The options as they are written; what they mean comes after.
struct Written {
  std::string kernel, memory, cpus, cpu, initrd, append, firmware, console, rtc_base, rtc_clock, gdb, trace, timeout;
  std::string log_file, pid_file, name, exec, accelerators, irqchip;
  std::string modules_directory, overlay, directory;
  std::vector<std::string> modules, serials, chardevs, devices, disks, cdroms, networks, ports, vsocks;
  std::vector<std::string> writable, shares, passed;
  bool no_initrd = false, guest_decompress = false, paused = false, no_reboot = false, quiet = false;
  bool guest_errors = false, statistics = false, perf_map = false;
  bool root_user = false, verbose = false;
};

std::unique_ptr<CLI::App> make_parser(Written& written) {
  auto app = std::make_unique<CLI::App>(
      "Runs a virtual machine with its serial console on this terminal.\n"
      "Ctrl-A x quits, Ctrl-A h shows more keys.\n\n"
      "With -- COMMAND it runs the command in a Linux guest whose files are the host's own, to be read; what is "
      "written\n"
      "stays in the guest. Streams, user, directory and exit status are as on the host; Enter ~ . quits.\n\n"
      "Without KERNEL the newest of /boot is taken; without --initrd a Linux guest gets a small one with busybox, and "
      "a\n"
      "shell. DEVICE is one of stdio, null, none, pty, file:PATH, pipe:PATH, chardev:ID, "
      "unix:PATH[,server=on][,wait=off],\n"
      "tcp:[HOST]:PORT[,server=on][,wait=off], telnet:...; mon: before it adds the Ctrl-A keys.",
      "husk run");
  app->allow_extras();
  app->set_help_flag("-h,--help", "show this help");
  app->get_formatter()->column_width(34);
  app->add_option("KERNEL", written.kernel, "bzImage, ELF vmlinux or Multiboot kernel");

  const std::string machine = "Machine";
  app->add_option("-m,--memory", written.memory, "memory, such as 512M or 4G (1G)")->type_name("SIZE")->group(machine);
  app->add_option("--cpus", written.cpus, "N[,sockets=N,cores=N,threads=N] (1)")->type_name("N")->group(machine);
  app->add_option("--cpu", written.cpu, "MODEL[,+FEATURE][,-FEATURE][,enforce]; 'husk cpu list' has them (max)")
      ->type_name("MODEL")
      ->group(machine);
  app->add_option(
         "--accel", written.accelerators,
         "accelerators in the order to try: kvm, the host's virtualization; jit, husk's own CPU; interp, the same "
         "without translation (kvm where it is fast, else jit)")
      ->type_name("LIST")
      ->group(machine);
  app->add_option("--kernel-irqchip", written.irqchip,
                  "KVM's own interrupt controllers: on, all of them; split, the local APICs; off (split)")
      ->type_name("on|split|off")
      ->group(machine);
  app->add_option("--device", written.devices, "a device with its properties; 'husk qemu -device help' lists them")
      ->type_name("NAME,...")
      ->group(machine);
  app->add_option("--disk", written.disks,
                  "FILE[,format=raw|qcow2][,readonly=on][,snapshot=on][,cache=MODE][,bus=virtio|scsi]: a disk")
      ->type_name("FILE")
      ->group(machine);
  app->add_option("--cdrom", written.cdroms, "FILE[,format=raw|qcow2]: a CD-ROM drive with this disc, on a SCSI bus")
      ->type_name("FILE")
      ->group(machine);
  app->add_option("--net", written.networks,
                  "a virtio network card. user: the host is 10.0.2.2, no rights needed; tap=NAME, bridge=NAME: an "
                  "interface of the host; passt; stream, dgram with QEMU's properties; none. [,capture=FILE][,mac=...] "
                  "(none)")
      ->type_name("KIND")
      ->group(machine);
  app->add_option("--port", written.ports, "[udp:][ADDRESS:]HOSTPORT:GUESTPORT: forward a port of the host")
      ->type_name("RULE")
      ->group(machine);
  app->add_option("--vsock", written.vsocks,
                  "path=FILE[,cid=N]: sockets between guest and host; write CONNECT PORT to FILE, or listen at "
                  "FILE_PORT (cid 3)")
      ->type_name("path=FILE")
      ->group(machine);
  app->add_option("--rtc", written.rtc_base, "clock shows utc, localtime or a date (utc)")
      ->type_name("BASE")
      ->group(machine);
  app->add_option("--rtc-clock", written.rtc_clock, "clock follows the host or the vm's own time (host)")
      ->type_name("host|vm")
      ->group(machine);
  app->add_option("--name", written.name, "the machine's name, shown in messages")->type_name("NAME")->group(machine);

  const std::string boot = "Boot";
  app->add_option("--initrd", written.initrd, "initial RAM disk")->type_name("FILE")->group(boot);
  app->add_flag("--no-initrd", written.no_initrd, "boot without one")->group(boot);
  app->add_option("--append", written.append, "added to the kernel's command line")->type_name("TEXT")->group(boot);
  app->add_option("--exec", written.exec, "run a shell script in the small initramfs, then power off")
      ->type_name("SCRIPT")
      ->group(boot);
  app->add_option("--module", written.modules, "Multiboot module: FILE[ ARGUMENTS]")->type_name("FILE")->group(boot);
  app->add_option("--bios", written.firmware, "start a firmware image instead of a kernel")
      ->type_name("FILE")
      ->group(boot);
  app->add_flag("--guest-decompress", written.guest_decompress, "let the guest unpack its kernel itself")->group(boot);

  const std::string command = "Command (after --)";
  app->add_option("--rw", written.writable, "a directory of the host that the command may change")
      ->type_name("DIR")
      ->group(command);
  app->add_option("--share", written.shares, "HOST:GUEST[:ro]: a directory of the host somewhere else in the guest")
      ->type_name("DIRS")
      ->group(command);
  app->add_option("--overlay", written.overlay, "keep changes of other files in this directory, not in guest memory")
      ->type_name("DIR")
      ->group(command);
  app->add_option("--pass-env", written.passed,
                  "a variable for the command besides PATH, HOME, USER, SHELL, TERM and LANG; or all")
      ->type_name("NAME[=VALUE]|all")
      ->group(command);
  app->add_option("--cwd", written.directory, "working directory of the command (this one)")
      ->type_name("DIR")
      ->group(command);
  app->add_flag("--root-user", written.root_user, "run it as the guest's root")->group(command);
  app->add_option("--modules", written.modules_directory, "the kernel's modules (looked for beside it and in /lib)")
      ->type_name("DIR")
      ->group(command);
  app->add_flag("--verbose", written.verbose, "the kernel's messages go to standard error")->group(command);

  const std::string consoles = "Consoles";
  app->add_option("--console", written.console, "first serial port (mon:stdio)")->type_name("DEVICE")->group(consoles);
  app->add_option("--serial", written.serials, "one more serial port")->type_name("DEVICE")->group(consoles);
  app->add_option("--chardev", written.chardevs, "KIND,id=ID,...: a character device to refer to")
      ->type_name("KIND,...")
      ->group(consoles);

  const std::string life = "Life";
  app->add_option("--timeout", written.timeout, "end after this time: 30, 500ms, 2m")->type_name("TIME")->group(life);
  app->add_flag("--no-reboot", written.no_reboot, "end when the guest resets the machine")->group(life);
  app->add_option("--pidfile", written.pid_file, "write husk's process id there")->type_name("FILE")->group(life);
  app->add_flag("--quiet", written.quiet, "do not say how the run ended")->group(life);

  const std::string debugging = "Debugging";
  app->add_option("--gdb", written.gdb, "[HOST:]PORT or unix:PATH: listen for gdb")
      ->type_name("ADDRESS")
      ->group(debugging);
  app->add_flag("--paused", written.paused, "do not start the CPUs: gdb will")->group(debugging);
  app->add_option("--trace", written.trace, "log exceptions, interrupts, io, msr, mmio, exec or all; in_asm, out_asm")
      ->type_name("LIST")
      ->group(debugging);
  app->add_flag("--stats", written.statistics, "show the JIT's figures at the end, and on SIGUSR1")->group(debugging);
  app->add_flag("--perf-map", written.perf_map, "write /tmp/perf-PID.map, names of translated code for perf")
      ->group(debugging);
  app->add_flag("--guest-errors", written.guest_errors, "log what the guest does wrong")->group(debugging);
  app->add_option("--log", written.log_file, "where logs go (standard error)")->type_name("FILE")->group(debugging);
  app->footer("\n" + exit_status_help());
  return app;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

Error unknown_option(const CLI::App& app, const std::string& argument) {
  const std::string shown = argument.substr(0, argument.find('='));
  const std::vector<std::string> names = option_names(app);
  const std::string bare = shown.substr(std::min(shown.find_first_not_of('-'), shown.size()));
  std::vector<std::string_view> bare_names;
  for (const std::string& name : names) bare_names.push_back(std::string_view(name).substr(2));
  // QEMU's names for what is called otherwise here.
  static constexpr std::pair<std::string_view, std::string_view> kQemuNames[] = {
      {"smp", "cpus"}, {"kernel", "KERNEL"}, {"bios", "bios"}, {"S", "paused"},          {"s", "gdb"},
      {"d", "trace"},  {"D", "log"},         {"M", "machine"}, {"nographic", "console"}, {"drive", "disk"},
  };
  for (const auto& [qemu, own] : kQemuNames)
    if (bare == qemu)
      return {fmt::format("husk run has no option '{}'", shown),
              own == "KERNEL" ? "give the kernel without an option: husk run FILE"
              : own == "machine"
                  ? "it has one board only; 'husk qemu' takes QEMU's options"
                  : fmt::format("the nearest one it has is --{}; 'husk qemu' takes QEMU's options", own)};
  const auto near = machine::nearest(bare, bare_names);
  return {fmt::format("husk run has no option '{}'", shown),
          near ? fmt::format("the nearest one it has is --{}; 'husk run --help' lists all", *near)
               : "'husk run --help' lists those it has"};
}

/// Puts the option's name before an error.
template <class T>
Result<T> of(const char* option, Result<T> result) {
  if (!result) return std::unexpected(std::move(result).error().within(option));
  return result;
}

Status apply_accelerators(MachineConfig& config, std::string_view list) {
  for (;;) {
    const std::size_t end = list.find_first_of(",:");
    config.accelerators.push_back(HUSK_TRY(of("--accel", parse_accelerator(list.substr(0, end)))));
    if (end == std::string_view::npos) return {};
    list.remove_prefix(end + 1);
  }
}

/// The file's name first, and then what -drive takes.
Status add_disk(MachineConfig& config, const std::string& text, bool cdrom) {
  if (text.empty() || text[0] == ',')
    return refuse(fmt::format("the {} has no file", cdrom ? "disc" : "disk"),
                  fmt::format("write --{} FILE", cdrom ? "cdrom" : "disk"));
  return add_run_disk(config, text.starts_with("file=") ? text : "file=" + text, cdrom);
}

/// "[udp:][ADDRESS:]HOSTPORT:GUESTPORT" as the rule that -netdev takes. Only the host itself gets in if nothing is
/// said.
Result<machine::HostForward> parse_port(std::string_view text) {
  const bool udp = text.starts_with("udp:");
  if (udp || text.starts_with("tcp:")) text.remove_prefix(4);
  const std::size_t last = text.rfind(':');
  std::string rule = std::string(udp ? "udp:" : "tcp:");
  if (last == std::string_view::npos || last == 0)
    return refuse(fmt::format("'{}' is no port forward", text), "write --port 8022:22");
  const std::string_view host = text.substr(0, last);
  rule += host.find(':') == std::string_view::npos ? fmt::format("127.0.0.1:{}", host) : std::string(host);
  return parse_host_forward(fmt::format("{}-:{}", rule, text.substr(last + 1)));
}

/// "path=FILE[,cid=N]".
Status add_run_vsock(MachineConfig& config, const std::string& text) {
  std::string words = text;
  const std::size_t at = text.starts_with("cid=") ? 0 : text.find(",cid=");
  if (at == std::string::npos)
    words += ",guest-cid=3";
  else
    words.insert(at == 0 ? 0 : at + 1, "guest-");
  return add_device_option(config, "virtio-vsock-pci," + words);
}

Status apply_network(MachineConfig& config, const Written& written) {
  for (const std::string& text : written.networks) HUSK_TRY(of("--net", add_run_network(config, text)));
  if (!written.ports.empty() && config.netdevs.empty())
    HUSK_TRY(of("--port", written.networks.empty()
                              ? add_run_network(config, "user")
                              : Status(refuse("there is no network to forward to", "add --net user"))));
  if (written.ports.empty()) return {};
  const auto user = std::find_if(config.netdevs.begin(), config.netdevs.end(), [](const machine::NetdevConfig& one) {
    return std::holds_alternative<machine::UserNetConfig>(one.kind);
  });
  if (user == config.netdevs.end())
    return refuse("--port: only a network of kind user forwards ports", "add --net user, or leave --port out");
  for (const std::string& text : written.ports)
    std::get<machine::UserNetConfig>(user->kind).forwards.push_back(HUSK_TRY(of("--port", parse_port(text))));
  return {};
}

Status apply_machine(MachineConfig& config, const Written& written) {
  if (!written.memory.empty())
    config.memory_bytes = HUSK_TRY(of("--memory", machine::parse_size(written.memory, 1 << 20)));
  if (!written.cpu.empty()) config.cpu = HUSK_TRY(of("--cpu", parse_cpu(written.cpu)));
  if (!written.cpus.empty()) config.cpu.topology = HUSK_TRY(of("--cpus", parse_smp(written.cpus)));
  if (!written.accelerators.empty()) HUSK_TRY(apply_accelerators(config, written.accelerators));
  if (!written.irqchip.empty())
    config.kernel_irqchip = HUSK_TRY(of("--kernel-irqchip", machine::parse_kernel_irqchip(written.irqchip)));
  for (const std::string& text : written.chardevs) HUSK_TRY(of("--chardev", add_chardev_option(config, text)));
  for (const std::string& text : written.devices) HUSK_TRY(of("--device", add_device_option(config, text)));
  for (const std::string& text : written.disks) HUSK_TRY(of("--disk", add_disk(config, text, false)));
  for (const std::string& text : written.cdroms) HUSK_TRY(of("--cdrom", add_disk(config, text, true)));
  HUSK_TRY(apply_network(config, written));
  for (const std::string& text : written.vsocks) HUSK_TRY(of("--vsock", add_run_vsock(config, text)));
  if (!written.rtc_base.empty()) config.rtc = HUSK_TRY(of("--rtc", machine::parse_rtc_base(written.rtc_base)));
  if (written.rtc_clock == "vm")
    config.rtc.clock = machine::RtcConfig::Clock::vm;
  else if (!written.rtc_clock.empty() && written.rtc_clock != "host")
    return refuse(fmt::format("--rtc-clock: there is no clock '{}'", written.rtc_clock), "choose host or vm");
  config.name = written.name;
  return {};
}

Status apply_life(MachineConfig& config, const Written& written) {
  if (!written.timeout.empty()) config.timeout_ns = HUSK_TRY(of("--timeout", machine::parse_duration(written.timeout)));
  if (!written.gdb.empty()) config.gdb = HUSK_TRY(of("--gdb", machine::parse_gdb(written.gdb)));
  if (!written.trace.empty()) config.debug_log.trace = HUSK_TRY(of("--trace", machine::parse_trace(written.trace)));
  if (written.paused && !config.gdb) return refuse("--paused: nothing could ever start the machine", "add --gdb PORT");
  config.debug_log.guest_errors = written.guest_errors;
  config.debug_log.statistics = written.statistics;
  config.debug_log.perf_map = written.perf_map;
  config.debug_log.file = written.log_file;
  config.start_paused = written.paused;
  config.no_reboot = written.no_reboot;
  config.pid_file = written.pid_file;
  return {};
}

Status apply_consoles(MachineConfig& config, const Written& written, bool command) {
  // The standard streams are the command's; the launcher keeps what the console says.
  std::vector<std::string> sources{written.console.empty() ? (command ? "none" : "mon:stdio") : written.console};
  sources.insert(sources.end(), written.serials.begin(), written.serials.end());
  for (std::size_t i = 0; i < sources.size(); ++i)
    config.serials.push_back(HUSK_TRY(
        of(i == 0 ? "--console" : "--serial", add_char_source(config, sources[i], fmt::format("serial{}", i)))));
  return {};
}

/// True if `word` begins a word of `text`.
bool has_word(std::string_view text, std::string_view word) {
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1))
    if (at == 0 || text[at - 1] == ' ') return true;
  return false;
}

void add_word(std::string& text, std::string_view word) {
  if (!text.empty()) text += ' ';
  text += word;
}

Status refuse_command_options(const Written& written) {
  const std::pair<const char*, bool> given[] = {{"--rw", !written.writable.empty()},
                                                {"--share", !written.shares.empty()},
                                                {"--overlay", !written.overlay.empty()},
                                                {"--pass-env", !written.passed.empty()},
                                                {"--cwd", !written.directory.empty()},
                                                {"--root-user", written.root_user},
                                                {"--modules", !written.modules_directory.empty()},
                                                {"--verbose", written.verbose}};
  for (const auto& [option, is_given] : given)
    if (is_given)
      return refuse(fmt::format("{}: there is no command", option), "put one behind the options: husk run -- COMMAND");
  return {};
}

Result<GuestCommand> make_command(const Written& written, std::vector<std::string> arguments) {
  const std::pair<const char*, bool> contrary[] = {{"--initrd", !written.initrd.empty()},
                                                   {"--no-initrd", written.no_initrd},
                                                   {"--module", !written.modules.empty()},
                                                   {"--exec", !written.exec.empty()},
                                                   {"--bios", !written.firmware.empty()}};
  for (const auto& [option, is_given] : contrary)
    if (is_given)
      return refuse(fmt::format("{} does not go with a command, which needs husk's own initramfs", option),
                    "leave it out, or the command");
  GuestCommand command = command_of_this_process();
  command.arguments = std::move(arguments);
  if (written.root_user) make_root_user(command);
  for (const std::string& text : written.passed) HUSK_TRY(of("--pass-env", pass_environment(command, text)));
  for (const std::string& text : written.writable) command.shares.push_back(HUSK_TRY(of("--rw", share_in_place(text))));
  for (const std::string& text : written.shares) command.shares.push_back(HUSK_TRY(of("--share", parse_share(text))));
  if (command.shares.size() > kMostShares)
    return refuse(fmt::format("{} directories are too many", command.shares.size()),
                  fmt::format("at most {} can be shared", kMostShares));
  if (!written.overlay.empty()) command.overlay = HUSK_TRY(of("--overlay", share_in_place(written.overlay))).host;
  if (!written.directory.empty()) {
    if (written.directory[0] != '/')
      return refuse(fmt::format("--cwd: '{}' is not absolute", written.directory), "begin it with a slash");
    command.directory = written.directory;
  }
  command.modules = written.modules_directory;
  command.hostname = written.name;
  command.verbose = written.verbose;
  return command;
}

Status apply_boot(MachineConfig& config, const Written& written, const GuestCommand* command,
                  const std::function<RunDefaults()>& defaults) {
  machine::BootConfig& boot = config.boot;
  boot.guest_decompress = written.guest_decompress;
  boot.firmware = written.firmware;
  boot.initrd = written.initrd;
  if (!written.initrd.empty()) boot.modules.push_back({written.initrd});
  for (const std::string& module : written.modules) {
    const std::size_t space = module.find(' ');
    boot.modules.push_back({module.substr(0, space), space == std::string::npos ? "" : module.substr(space + 1)});
    if (boot.modules.back().path.empty()) return refuse("--module has no path", "write --module 'FILE ARGUMENTS'");
  }
  if (!written.firmware.empty()) {
    boot.kernel = written.kernel;  // validate() refuses both
    boot.append = written.append;
    return {};
  }
  const bool wants_initramfs = !command && written.initrd.empty() && !written.no_initrd && written.modules.empty();
  std::optional<RunDefaults> found;
  if (written.kernel.empty() || wants_initramfs) found = defaults();
  boot.kernel = written.kernel.empty() ? HUSK_TRY(std::move(found->kernel)) : written.kernel;
  if (wants_initramfs && found->busybox) boot.builtin_initramfs_busybox = *found->busybox;

  if (command) {
    add_word(boot.append, command_kernel_words(*command));
  } else if (!config.serials.front().empty() && !has_word(written.append, "console="))
    add_word(boot.append, "console=ttyS0");
  if (!boot.builtin_initramfs_busybox.empty() && found->rows_columns)
    add_word(boot.append,
             fmt::format("husk.rows={} husk.cols={}", found->rows_columns->first, found->rows_columns->second));
  if (!written.exec.empty()) {
    if (boot.builtin_initramfs_busybox.empty())
      return refuse("--exec needs husk's own small initramfs",
                    wants_initramfs ? "install busybox-static, or run tools/fetch-guest of husk's source"
                                    : "leave --initrd, --no-initrd and --module out");
    add_word(boot.append, "husk.exec=" + boot::base64(written.exec));
  }
  if (!written.append.empty()) add_word(boot.append, written.append);
  return {};
}

}  // namespace

std::vector<std::string> run_option_names() {
  Written written;
  return option_names(*make_parser(written));
}

Result<RunRequest> parse_run_options(std::span<const std::string> arguments,
                                     const std::function<RunDefaults()>& defaults) {
  Written written;
  const auto parser = make_parser(written);
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  std::vector<std::string> command_words(dashes == arguments.end() ? dashes : dashes + 1, arguments.end());
  // CLI11 takes its arguments from the back, and reports by exceptions; none leaves this function.
  std::vector<std::string> reversed(std::make_reverse_iterator(dashes), arguments.rend());
  try {
    parser->parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return RunRequest{.machine = {}, .print = parser->help()};
  } catch (const CLI::ParseError& error) {
    return refuse(error.what(), "'husk run --help' shows the options");
  }
  for (const std::string& extra : parser->remaining()) {
    if (extra.size() > 1 && extra[0] == '-') return std::unexpected(unknown_option(*parser, extra));
    return refuse(fmt::format("'{}' is one argument too many", extra),
                  "husk run takes one kernel; words for its command line go into --append 'WORDS'");
  }
  // A shell's unset variable must not quietly give the default.
  for (const CLI::Option* option : parser->get_options())
    for (const std::string& value : option->results())
      if (value.empty() && option->get_name() != "--append")
        return refuse(fmt::format("{}: its value is empty", option->get_name()), "give one, or leave the option out");
  if (dashes != arguments.end() && command_words.empty())
    return refuse("there is no command after '--'", "write husk run -- COMMAND, or leave '--' out");
  RunRequest request{.machine = MachineConfig{}, .print = {}, .quiet = written.quiet};
  MachineConfig& config = *request.machine;
  if (command_words.empty())
    HUSK_TRY(refuse_command_options(written));
  else
    request.command = HUSK_TRY(make_command(written, std::move(command_words)));
  const GuestCommand* const command = request.command ? &*request.command : nullptr;
  HUSK_TRY(apply_machine(config, written));
  HUSK_TRY(apply_consoles(config, written, command));
  HUSK_TRY(apply_life(config, written));
  if (command) config.no_reboot = true;  // a command is run once
  HUSK_TRY(apply_boot(config, written, command, defaults));
  HUSK_TRY(machine::validate(config));
  return request;
}

}  // namespace husk::app
