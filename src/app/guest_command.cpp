// husk: a command that runs in a guest as it would on the host
#include "app/guest_command.h"

#include <pwd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "app/qemu_properties.h"
#include "boot/bzimage.h"
#include "boot/initramfs.h"
#include "guest/init_image.h"
#include "machine/config.h"

extern char** environ;

namespace husk::app {
namespace {

constexpr std::string_view kRootTag = "husk-root", kUpperTag = "husk-upper", kModulesTag = "husk-modules";

/// What a command of any kind needs to be itself; the rest of the environment is the host's own business.
constexpr std::string_view kUsualVariables[] = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_ALL"};

std::string working_directory() {
  std::error_code error;
  const auto path = std::filesystem::current_path(error);
  return error ? std::string("/") : path.string();
}

void set_variable(std::vector<std::string>& environment, std::string_view name, std::string_view value) {
  const std::string prefix = std::string(name) + "=";
  std::erase_if(environment, [&](const std::string& one) { return one.starts_with(prefix); });
  environment.push_back(prefix + std::string(value));
}

/// `path` is `directory` or below it.
bool is_within(std::string_view path, std::string_view directory) {
  if (directory == "/") return path.starts_with('/');
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

Result<std::string> real_directory(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (error) return fail("'{}': {}", path, error.message());
  if (!std::filesystem::is_directory(real, error)) return fail("'{}' is not a directory", path);
  return real.string();
}

bool has_network(const machine::MachineConfig& config) { return !config.netdevs.empty(); }
/// Of other networks nobody knows the addresses.
bool has_user_network(const machine::MachineConfig& config) {
  return has_network(config) && std::holds_alternative<machine::UserNetConfig>(config.netdevs.front().kind);
}

unsigned disk_count(const machine::MachineConfig& config) {
  return static_cast<unsigned>(std::count_if(config.virtio.begin(), config.virtio.end(), [](const auto& device) {
    return std::holds_alternative<machine::VirtioBlkConfig>(device);
  }));
}

/// Disks, or CD-ROM drives, of SCSI controllers.
unsigned scsi_count(const machine::MachineConfig& config, bool cdroms) {
  std::ptrdiff_t count = 0;
  for (const machine::VirtioConfig& device : config.virtio)
    if (const auto* controller = std::get_if<machine::VirtioScsiConfig>(&device))
      count += std::count_if(controller->units.begin(), controller->units.end(),
                             [&](const machine::ScsiUnitConfig& unit) { return unit.cdrom == cdroms; });
  return static_cast<unsigned>(count);
}

}  // namespace

GuestCommand command_of_this_process() {
  GuestCommand command;
  command.uid = ::geteuid();
  command.gid = ::getegid();
  if (const int count = ::getgroups(0, nullptr); count > 0) {
    std::vector<gid_t> groups(static_cast<std::size_t>(count));
    if (const int got = ::getgroups(count, groups.data()); got >= 0)
      command.groups.assign(groups.begin(), groups.begin() + got);
  }
  const mode_t mask = ::umask(0);
  ::umask(mask);
  command.umask = mask;
  command.directory = working_directory();
  for (const std::string_view name : kUsualVariables)
    if (const char* value = std::getenv(std::string(name).c_str())) set_variable(command.environment, name, value);
  const auto missing = [&](const char* name) { return std::getenv(name) == nullptr; };
  if (missing("PATH")) set_variable(command.environment, "PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
  if (missing("TERM")) set_variable(command.environment, "TERM", "dumb");
  if (missing("HOME") || missing("USER"))
    if (const passwd* user = ::getpwuid(command.uid)) {
      if (missing("HOME")) set_variable(command.environment, "HOME", user->pw_dir);
      if (missing("USER")) set_variable(command.environment, "USER", user->pw_name);
    }
  return command;
}

void make_root_user(GuestCommand& command) {
  command.uid = command.gid = 0;
  command.groups = {0};
  set_variable(command.environment, "HOME", "/root");
  set_variable(command.environment, "USER", "root");
  set_variable(command.environment, "LOGNAME", "root");
  for (std::string& variable : command.environment)
    if (variable.starts_with("PATH=") && variable.find("/sbin") == std::string::npos)
      variable += ":/usr/local/sbin:/usr/sbin:/sbin";
}

Status pass_environment(GuestCommand& command, std::string_view text) {
  if (text == "all") {
    for (char** variable = environ; *variable; ++variable) {
      const std::string_view one = *variable;
      if (const std::size_t end = one.find('='); end != std::string_view::npos && end > 0)
        set_variable(command.environment, one.substr(0, end), one.substr(end + 1));
    }
    return {};
  }
  const std::size_t end = text.find('=');
  const std::string name(text.substr(0, end));
  if (name.empty()) return refuse(fmt::format("'{}' names no variable", text), "write NAME, NAME=VALUE or all");
  if (end != std::string_view::npos) {
    set_variable(command.environment, name, text.substr(end + 1));
  } else if (const char* value = std::getenv(name.c_str())) {
    set_variable(command.environment, name, value);
  }
  return {};
}

Result<GuestShare> share_in_place(const std::string& directory) {
  const std::string real = HUSK_TRY(real_directory(directory));
  return GuestShare{.host = real, .guest = real, .read_only = false};
}

Result<GuestShare> parse_share(std::string_view text) {
  GuestShare share;
  if (text.ends_with(":ro") || text.ends_with(":rw")) {
    share.read_only = text.ends_with(":ro");
    text.remove_suffix(3);
  }
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0)
    return refuse(fmt::format("'{}' is no share", text), "write HOST:GUEST or HOST:GUEST:ro, both directories");
  share.guest = text.substr(colon + 1);
  if (!share.guest.starts_with('/') || share.guest.find("/../") != std::string::npos || share.guest.ends_with("/.."))
    return refuse(fmt::format("the guest's directory '{}' is not absolute", share.guest), "begin it with a slash");
  if (share.guest == "/")
    return refuse("the guest's root directory cannot be replaced", "share the directories that are wanted");
  share.host = HUSK_TRY(real_directory(std::string(text.substr(0, colon))));
  return share;
}

std::string command_kernel_words(const GuestCommand& command) {
  // quiet: the console is a serial port, a register access a letter. The self-tests of the kernel's ciphers take a
  // fifth of the time to the command.
  return command.verbose ? "console=ttyS0 cryptomgr.notests" : "console=ttyS0 quiet cryptomgr.notests";
}

Result<std::unique_ptr<CommandRun>> CommandRun::create(host::EventLoop& loop, Log& log, const GuestCommand& command,
                                                       CommandChannel::Events events) {
  if (guest::init_image().empty())
    return std::unexpected(Error{"this husk was not built for x86-64, so it has no program to run commands with",
                                 "boot a kernel without a command"});
  std::unique_ptr<CommandRun> run(new CommandRun(log, command));
  HUSK_TRY(run->make_servers());
  run->terminal_ = host::is_terminal(STDIN_FILENO) && host::is_terminal(STDOUT_FILENO);
  run->error_is_terminal_ = host::is_terminal(STDERR_FILENO);
  run->channel_ = HUSK_TRY(CommandChannel::create(loop, log,
                                                  {.input = STDIN_FILENO,
                                                   .output = STDOUT_FILENO,
                                                   .error = STDERR_FILENO,
                                                   .terminal = run->terminal_,
                                                   .show_console = command.verbose},
                                                  std::move(events)));
  return run;
}

Status CommandRun::serve(std::string tag, hostfs::ServerOptions options) {
  auto server = hostfs::Server::create(std::move(options), log_);
  if (!server) return std::unexpected(std::move(server).error());
  served_.push_back({std::move(tag), std::move(*server)});
  return {};
}

Status CommandRun::make_servers() {
  // The lower layer of an overlay is not supposed to change under it, so the guest may believe what it knows for long.
  constexpr std::uint64_t kLong = 10'000'000'000;
  HUSK_TRY(serve(std::string(kRootTag), {.root = "/",
                                         .read_only = true,
                                         .entry_timeout_ns = kLong,
                                         .attribute_timeout_ns = kLong,
                                         .negative_timeout_ns = kLong,
                                         .trust_cache = true}));
  if (!command_.overlay.empty()) HUSK_TRY(serve(std::string(kUpperTag), {.root = command_.overlay}));
  for (std::size_t i = 0; i < command_.shares.size(); ++i)
    HUSK_TRY(serve(fmt::format("husk-share{}", i),
                   {.root = command_.shares[i].host, .read_only = command_.shares[i].read_only}));
  return {};
}

Result<std::vector<KernelModule>> CommandRun::find_modules(const machine::MachineConfig& config,
                                                           std::span<const std::uint8_t> kernel) {
  std::string version;
  if (boot::looks_like_bzimage(kernel))
    if (const auto header = boot::parse_setup_header(kernel))
      version = header->version.substr(0, header->version.find(' '));
  std::optional<ModuleTree> tree;
  if (command_.modules.empty())
    tree = ModuleTree::find(config.boot.kernel, version);
  else
    tree = HUSK_TRY(ModuleTree::open(command_.modules));
  // Without modules anywhere, all of it must be built in; the guest's program says what is not.
  if (!tree) return std::vector<KernelModule>{};
  std::vector<std::string_view> wanted = {"virtio_pci", "virtio_console", "overlay"};
  const auto lacks = [&](std::string_view name) {
    return tree->knows_builtin() && !tree->is_builtin(name) && !tree->has_module(name);
  };
  ninep_ = lacks("virtiofs") && !lacks("9p") && !lacks("9pnet_virtio");
  if (ninep_)
    wanted.insert(wanted.end(), {"9pnet_virtio", "9p"});
  else
    wanted.push_back("virtiofs");
  if (disk_count(config) > 0) wanted.push_back("virtio_blk");
  if (scsi_count(config, false) || scsi_count(config, true)) wanted.push_back("virtio_scsi");
  if (scsi_count(config, false)) wanted.push_back("sd_mod");
  if (scsi_count(config, true)) wanted.push_back("sr_mod");
  if (has_network(config)) wanted.push_back("virtio_net");
  if (std::any_of(config.virtio.begin(), config.virtio.end(), [](const machine::VirtioConfig& device) {
        return std::holds_alternative<machine::VirtioVsockConfig>(device);
      }))
    wanted.push_back("vmw_vsock_virtio_transport");
  for (const std::string_view name : wanted)
    if (lacks(name))
      return std::unexpected(
          Error{fmt::format("the kernel '{}' has no {}, neither built in nor in {}", config.boot.kernel, name,
                            tree->directory()),
                "take a kernel with CONFIG_VIRTIO_PCI, VIRTIO_CONSOLE, VIRTIO_FS (or NET_9P_VIRTIO and 9P_FS) and "
                "OVERLAY_FS, or run without a "
                "command"});
  // modprobe(8) shall find in the guest what depmod(8) has prepared.
  const std::string place = "/lib/modules/" + version;
  std::error_code error;
  if (tree->has_dependencies() && !version.empty() && version.find('/') == std::string::npos &&
      !std::filesystem::equivalent(tree->directory(), place, error)) {
    HUSK_TRY(serve(std::string(kModulesTag), {.root = tree->directory(), .read_only = true, .trust_cache = true}));
    modules_place_ = place;
  }
  return tree->load(wanted);
}

std::string CommandRun::describe(const machine::MachineConfig& config, std::span<const KernelModule> modules) const {
  std::string text;
  const auto add = [&](std::string_view key, std::string_view value) {
    text += key;
    text += '=';
    text += value;
    text += '\0';
  };
  const auto flag = [&](std::string_view key) {
    text += key;
    text += '\0';
  };
  for (const KernelModule& module : modules) add("module", fmt::format("/modules/{}.ko", module.name));
  if (ninep_) flag("9p");
  add("root", kRootTag);
  if (!command_.overlay.empty()) add("upper", kUpperTag);
  // A working directory in one of these is the host's, unless it is shared.
  for (const std::string_view path : {"/tmp", "/run"}) {
    const bool shared = std::any_of(command_.shares.begin(), command_.shares.end(), [&](const GuestShare& share) {
      return is_within(command_.directory, share.guest);
    });
    if (shared || !is_within(command_.directory, path)) add("fresh", path);
  }
  for (std::size_t i = 0; i < command_.shares.size(); ++i)
    add("share",
        fmt::format("{} husk-share{} {}", command_.shares[i].read_only ? "ro" : "rw", i, command_.shares[i].guest));
  if (!modules_place_.empty()) add("share", fmt::format("ro {} {}", kModulesTag, modules_place_));
  for (unsigned i = 0; i < std::min(disk_count(config), 26u); ++i)
    add("disk", fmt::format("vd{}", static_cast<char>('a' + i)));
  for (unsigned i = 0; i < std::min(scsi_count(config, false), 26u); ++i)
    add("disk", fmt::format("sd{}", static_cast<char>('a' + i)));
  for (unsigned i = 0; i < std::min(scsi_count(config, true), 26u); ++i) add("disk", fmt::format("sr{}", i));
  if (has_user_network(config)) add("network", "10.0.2.15 10.0.2.2 10.0.2.3");
  if (terminal_) {
    winsize size{};
    if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) size = {};
    add("tty", fmt::format("{} {}", size.ws_row, size.ws_col));
    flag("tty-in");
    flag("tty-out");
    if (error_is_terminal_) flag("tty-err");
  }
  add("hostname", command_.hostname.empty() ? std::string_view("husk") : std::string_view(command_.hostname));
  add("uid", std::to_string(command_.uid));
  add("gid", std::to_string(command_.gid));
  for (const std::uint32_t group : command_.groups) add("group", std::to_string(group));
  add("umask", std::to_string(command_.umask));
  add("cwd", command_.directory);
  for (const std::string& argument : command_.arguments) add("arg", argument);
  for (const std::string& variable : command_.environment) add("env", variable);
  return text;
}

Result<std::vector<std::uint8_t>> CommandRun::make_initramfs(const machine::MachineConfig& config,
                                                             std::span<const std::uint8_t> kernel) {
  const std::vector<KernelModule> modules = HUSK_TRY(find_modules(config, kernel));
  boot::CpioWriter cpio;
  cpio.directory("dev");
  // The kernel opens /dev/console for process 1 before anything is mounted.
  cpio.character_device("dev/console", 5, 1);
  cpio.directory("modules");
  for (const KernelModule& module : modules) cpio.file("modules/" + module.name + ".ko", module.data);
  cpio.file("init", guest::init_image(), 0755);
  cpio.file(std::string(guest::kConfigPath).substr(1), describe(config, modules), 0600);
  return cpio.finish();
}

std::vector<machine::VirtioSpec> CommandRun::devices() {
  const auto runner = [](mem::LockDomain& domain) {
    return [&domain](const std::function<void()>& work) {
      const mem::DomainGuard guard(&domain);
      work();
    };
  };
  std::vector<machine::VirtioSpec> specs;
  machine::VirtioConsoleConfig console;
  machine::VirtioSpec streams;
  static constexpr std::pair<guest::Port, const char*> kPorts[] = {{guest::Port::input, "husk.input"},
                                                                   {guest::Port::output, "husk.output"},
                                                                   {guest::Port::error, "husk.error"},
                                                                   {guest::Port::control, "husk.control"}};
  for (const auto& [port, name] : kPorts) {
    console.ports.push_back({.name = name});
    streams.ports.push_back(
        [this, runner, which = port](mem::LockDomain& domain,
                                     const std::string&) -> Result<std::unique_ptr<core::CharBackend>> {
          return channel_->attach(which, runner(domain));
        });
  }
  streams.config = console;
  specs.push_back(std::move(streams));
  for (const Served& served : served_) {
    machine::VirtioSpec spec;
    if (ninep_)
      spec.config = machine::Virtio9pConfig{.tag = served.tag};
    else
      spec.config = machine::VirtioFsConfig{.tag = served.tag};
    spec.fs = [server = served.server.get(), ninep = ninep_](
                  mem::LockDomain& domain, const std::string&) -> Result<std::unique_ptr<core::ShareBackend>> {
      return ninep ? server->attach_ninep(domain) : server->attach(domain);
    };
    specs.push_back(std::move(spec));
  }
  return specs;
}

machine::BackendFactory<core::CharBackend> CommandRun::console() {
  return [this](mem::LockDomain& domain, const std::string&) -> Result<std::unique_ptr<core::CharBackend>> {
    return channel_->attach_console([&domain](const std::function<void()>& work) {
      const mem::DomainGuard guard(&domain);
      work();
    });
  };
}

}  // namespace husk::app
