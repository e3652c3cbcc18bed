// husk: QEMU's command line, for what husk has of it
#include "app/qemu_options.h"

#include <algorithm>
#include <array>

#include "app/qemu_network.h"
#include "app/qemu_properties.h"
#include "app/qemu_virtio.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

/// QEMU's default, which scripts rely on.
constexpr std::uint64_t kDefaultMemory = std::uint64_t{128} << 20;

/// The state of one parse.
struct Parser {
  MachineConfig config;
  QemuRequest::Print print = QemuRequest::Print::nothing;
  std::vector<std::string> serials;
  std::vector<std::string> debug_consoles;
  bool nographic = false;
  bool no_display = false;
  bool no_defaults = false;

  Status machine(const std::string& value);
  Status accel(const std::string& value);
  Status take_irqchip(Properties& properties);
  Status global(const std::string& value);
  Status cpu(const std::string& value);
  Status memory(const std::string& value);
  Status initrd(const std::string& value);
  Status display(const std::string& value);
  Status only(const std::string& value, std::string_view possible, const char* what);
  Status gdb(const std::string& value);
  Status name(const std::string& value);
  Status log_items(const std::string& value);
  Status rtc(const std::string& value);
  Status action(const std::string& value);
  Status device(const std::string& value);
  Status chardev(const std::string& value);
  Result<MachineConfig> finish();
};

struct Option {
  std::string_view name;      ///< without dash
  std::string_view argument;  ///< in the help; empty: it takes none
  std::string_view help;
  Status (*apply)(Parser&, const std::string& value);
};

Status Parser::machine(const std::string& value) {
  Properties properties(value, "type", "the machine");
  const auto type = properties.take("type");
  if (type == "help" || type == "?") {
    print = QemuRequest::Print::machines;
    return {};
  }
  if (type && *type != "micro")
    return refuse(fmt::format("there is no machine '{}'", *type), "husk has 'micro', which is also the default");
  if (const auto list = properties.take("accel")) {
    config.accelerators.clear();
    std::string_view rest = *list;
    for (;;) {
      const std::size_t colon = rest.find(':');
      config.accelerators.push_back(HUSK_TRY(parse_accelerator(rest.substr(0, colon))));
      if (colon == std::string_view::npos) break;
      rest.remove_prefix(colon + 1);
    }
  }
  HUSK_TRY(take_irqchip(properties));
  // What describes this board as it is.
  HUSK_TRY(properties.take_fixed("usb", {"off"}));
  HUSK_TRY(properties.take_fixed("vmport", {"off", "auto"}));
  HUSK_TRY(properties.take_fixed("smm", {"off"}));
  HUSK_TRY(properties.take_fixed("acpi", {"on", "auto"}));
  HUSK_TRY(properties.take_fixed("hpet", {"on"}));
  HUSK_TRY(properties.take_fixed("graphics", {"off"}));
  return properties.finish();
}

/// Both spellings are QEMU's.
Status Parser::take_irqchip(Properties& properties) {
  for (const std::string_view key : {"kernel-irqchip", "kernel_irqchip"})
    if (const auto value = properties.take(key)) {
      auto mode = machine::parse_kernel_irqchip(*value);
      if (!mode) return std::unexpected(std::move(mode).error().within(std::string(key)));
      config.kernel_irqchip = *mode;
    }
  return {};
}

Status Parser::global(const std::string& value) {
  constexpr std::string_view kPolicy = "kvm-pit.lost_tick_policy";
  Properties properties(value, "", "the global property");
  // "-global driver=D,property=P,value=V" is the long form.
  const auto driver = properties.take("driver"), property = properties.take("property");
  if (driver && property && *driver + "." + *property != kPolicy)
    return refuse(fmt::format("husk has no global property {}.{}", *driver, *property),
                  fmt::format("it has {}", kPolicy));
  const auto policy = properties.take(driver && property ? "value" : kPolicy);
  HUSK_TRY(properties.finish());
  if (!policy) return refuse("no property is given", fmt::format("write -global {}=delay", kPolicy));
  auto parsed = machine::parse_lost_ticks(*policy);
  if (!parsed) return std::unexpected(std::move(parsed).error().within(std::string(kPolicy)));
  config.lost_ticks = *parsed;
  return {};
}

Status Parser::accel(const std::string& value) {
  Properties properties(value, "accel", "the accelerator");
  const std::string name = properties.take("accel").value_or("");
  if (name == "help" || name == "?") {
    print = QemuRequest::Print::accelerators;
    return {};
  }
  const auto kind = HUSK_TRY(parse_accelerator(name));
  if (kind == machine::AcceleratorKind::jit) HUSK_TRY(properties.take_fixed("thread", {"multi"}));
  if (kind == machine::AcceleratorKind::kvm) HUSK_TRY(take_irqchip(properties));
  HUSK_TRY(properties.finish());
  config.accelerators.push_back(kind);
  return {};
}

Status Parser::cpu(const std::string& value) {
  if (value == "help" || value == "?") {
    print = QemuRequest::Print::cpus;
    return {};
  }
  const machine::TopologyConfig topology = config.cpu.topology;
  config.cpu = HUSK_TRY(parse_cpu(value));
  config.cpu.topology = topology;
  return {};
}

Status Parser::memory(const std::string& value) {
  Properties properties(value, "size", "the memory");
  const auto size = properties.take("size");
  for (const std::string_view key : {"slots", "maxmem"})
    if (properties.take(key))
      return refuse(fmt::format("{} asks for memory hotplug, which husk does not have", key), "leave it out");
  HUSK_TRY(properties.finish());
  if (!size) return refuse("no size is given", "write -m 512M");
  config.memory_bytes = HUSK_TRY(machine::parse_size(*size, 1 << 20));
  return {};
}

/// "FILE1 ARGUMENTS,FILE2 ARGUMENTS": Multiboot's modules; Linux takes the option as one path.
Status Parser::initrd(const std::string& value) {
  if (value.empty()) return refuse("the initrd has no path", "write -initrd FILE");
  config.boot.initrd = value;
  config.boot.modules.clear();
  for (const machine::OptionPart& part : machine::split_option(value)) {
    const std::string text = part.has_value ? part.key + "=" + part.value : part.key;
    const std::size_t space = text.find(' ');
    config.boot.modules.push_back({text.substr(0, space), space == std::string::npos ? "" : text.substr(space + 1)});
  }
  return {};
}

Status Parser::display(const std::string& value) {
  if (value != "none") return refuse(fmt::format("there is no display '{}'", value), "husk has only -display none");
  no_display = true;
  return {};
}

Status Parser::only(const std::string& value, std::string_view possible, const char* what) {
  if (value == possible) return {};
  return refuse(fmt::format("{} '{}' is not there", what, value), fmt::format("husk has only '{}'", possible));
}

Status Parser::gdb(const std::string& value) {
  if (value == "none")
    config.gdb.reset();
  else
    config.gdb = HUSK_TRY(machine::parse_gdb(value));
  return {};
}

Status Parser::name(const std::string& value) {
  Properties properties(value, "guest", "the name");
  config.name = properties.take("guest").value_or("");
  HUSK_TRY(properties.take_bool("debug-threads", true));  // threads always have names
  return properties.finish();
}

Status Parser::log_items(const std::string& value) {
  static constexpr std::array<std::string_view, 9> kItems = {"int",     "exec", "cpu",     "guest_errors", "in_asm",
                                                             "out_asm", "jit",  "nochain", "unimp"};
  using machine::TraceCategory;
  machine::DebugLogConfig& log = config.debug_log;
  std::string_view rest = value;
  for (;;) {
    const std::size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    if (item == "help" || item == "?")
      print = QemuRequest::Print::log_items;
    else if (item == "int")
      log.trace |= static_cast<machine::TraceSet>(TraceCategory::exceptions) |
                   static_cast<machine::TraceSet>(TraceCategory::interrupts);
    else if (item == "exec")
      log.trace |= static_cast<machine::TraceSet>(TraceCategory::exec);
    else if (item == "cpu") {
      log.registers = true;
      log.trace |= static_cast<machine::TraceSet>(TraceCategory::exec);
    } else if (item == "guest_errors")
      log.guest_errors = true;
    else if (item == "in_asm")
      log.trace |= static_cast<machine::TraceSet>(TraceCategory::in_asm);
    else if (item == "out_asm")
      log.trace |= static_cast<machine::TraceSet>(TraceCategory::out_asm);
    else if (item == "jit")
      log.statistics = true;
    else if (item != "nochain" && item != "unimp")
      return refuse(fmt::format("there is no log item '{}'{}", item, machine::nearest_hint(item, kItems)),
                    "choose from int, exec, cpu, guest_errors, in_asm, out_asm, jit");
    if (comma == std::string_view::npos) return {};
    rest.remove_prefix(comma + 1);
  }
}

Status Parser::rtc(const std::string& value) {
  Properties properties(value, "", "the real-time clock");
  const machine::RtcConfig::Clock clock_before = config.rtc.clock;
  if (const auto base = properties.take("base")) config.rtc = HUSK_TRY(machine::parse_rtc_base(*base));
  config.rtc.clock = clock_before;
  if (const auto clock = properties.take("clock")) {
    if (*clock == "host") config.rtc.clock = machine::RtcConfig::Clock::host;
    // QEMU's rt is the host's monotonic clock; here it is the machine's, as both count alike while it runs.
    else if (*clock == "vm" || *clock == "rt")
      config.rtc.clock = machine::RtcConfig::Clock::vm;
    else
      return refuse(fmt::format("there is no clock '{}'", *clock), "choose host, rt or vm");
  }
  HUSK_TRY(properties.take_fixed("driftfix", {"none"}));
  return properties.finish();
}

Status Parser::action(const std::string& value) {
  Properties properties(value, "", "-action");
  if (const auto reboot = properties.take("reboot")) {
    if (*reboot != "reset" && *reboot != "shutdown")
      return refuse(fmt::format("a reboot cannot do '{}'", *reboot), "choose reset or shutdown");
    config.no_reboot = *reboot == "shutdown";
  }
  HUSK_TRY(properties.take_fixed("shutdown", {"poweroff"}));
  HUSK_TRY(properties.take_fixed("panic", {"shutdown"}));
  return properties.finish();
}

bool wants_help(const std::string& value) { return value == "help" || value == "?"; }

Status Parser::device(const std::string& value) {
  if (wants_help(value)) {
    print = QemuRequest::Print::devices;
    return {};
  }
  return add_device_option(config, value);
}

Status Parser::chardev(const std::string& value) {
  if (wants_help(value)) {
    print = QemuRequest::Print::chardevs;
    return {};
  }
  return add_chardev_option(config, value);
}

Result<MachineConfig> Parser::finish() {
  if (!nographic && !no_display)
    return refuse("QEMU would open a window here, and husk has no display yet",
                  "add -nographic (the serial port on this terminal) or -display none");
  if (serials.empty() && !no_defaults) serials.emplace_back(nographic ? "mon:stdio" : "null");
  for (std::size_t i = 0; i < serials.size(); ++i) {
    const auto before = config.chardevs.size();
    auto id = add_char_source(config, serials[i], fmt::format("serial{}", i));
    if (!id) return std::unexpected(std::move(id).error().within(fmt::format("-serial {}", serials[i])));
    config.serials.push_back(std::move(*id));
    // As QEMU: without a display the terminal's keys belong to the guest.
    if (nographic && config.chardevs.size() > before)
      if (auto* stdio = std::get_if<chardev::StdioSpec>(&config.chardevs.back().kind)) stdio->signals = false;
  }
  for (const std::string& source : debug_consoles) {
    auto id = add_char_source(config, source, fmt::format("debugcon{}", config.devices.size()));
    if (!id) return std::unexpected(std::move(id).error().within("-debugcon " + source));
    if (!id->empty()) config.devices.emplace_back(machine::DebugConsoleConfig{.chardev = std::move(*id)});
  }
  HUSK_TRY(machine::validate(config));
  return std::move(config);
}

template <auto Member>
Status method(Parser& parser, const std::string& value) {
  return (parser.*Member)(value);
}
template <auto Member>
Status set_flag(Parser& parser, const std::string&) {
  parser.*Member = true;
  return {};
}
Status nothing(Parser&, const std::string&) { return {}; }
template <QemuRequest::Print What>
Status set_print(Parser& parser, const std::string&) {
  parser.print = What;
  return {};
}
Status none_only(Parser& parser, const std::string& value) { return parser.only(value, "none", "the device"); }

constexpr Option kOptions[] = {
    {"h", "", "show this help", set_print<QemuRequest::Print::help>},
    {"help", "", "", set_print<QemuRequest::Print::help>},
    {"version", "", "show the version", set_print<QemuRequest::Print::version>},
    {"machine", "[type=]micro[,accel=A[:B...]]", "the board, and accelerators to try in order",
     method<&Parser::machine>},
    {"M", "MACHINE", "as -machine", method<&Parser::machine>},
    {"accel", "kvm[,kernel-irqchip=on|split|off]|tcg", "an accelerator to try; may be given several times",
     method<&Parser::accel>},
    {"enable-kvm", "", "as -accel kvm", [](Parser& parser, const std::string&) { return parser.accel("kvm"); }},
    {"cpu", "MODEL[,+FEATURE][,-FEATURE][,PROPERTY=VALUE][,check=off][,enforce]", "the CPU model; 'help' lists them",
     method<&Parser::cpu>},
    {"smp", "[cpus=]N[,sockets=N][,cores=N][,threads=N]", "the number of CPUs and how they sit",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.cpu.topology = HUSK_TRY(parse_smp(value));
       return {};
     }},
    {"m", "[size=]MEBIBYTES", "memory; a suffix K, M, G or T may follow (128M)", method<&Parser::memory>},
    {"name", "NAME", "the machine's name, shown in messages", method<&Parser::name>},
    {"kernel", "FILE", "a bzImage, ELF or Multiboot kernel",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.boot.kernel = value;
       return {};
     }},
    {"initrd", "FILE[ ARGUMENTS][,FILE...]", "its initial RAM disk, or Multiboot modules", method<&Parser::initrd>},
    {"append", "TEXT", "its command line",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.boot.append = value;
       return {};
     }},
    {"bios", "FILE", "a firmware image to start instead of a kernel",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.boot.firmware = value;
       return {};
     }},
    {"serial", "DEVICE", "where a serial port leads; the n-th one given is COMn",
     [](Parser& parser, const std::string& value) -> Status {
       parser.serials.push_back(value);
       return {};
     }},
    {"chardev", "KIND,id=ID,...", "a character device; 'help' lists the kinds", method<&Parser::chardev>},
    {"device", "NAME[,PROPERTY=VALUE...]", "a device; 'help' lists them", method<&Parser::device>},
    {"debugcon", "DEVICE", "a debug console at port 0xe9, leading to DEVICE",
     [](Parser& parser, const std::string& value) -> Status {
       parser.debug_consoles.push_back(value);
       return {};
     }},
    {"nographic", "", "no display; the serial port is on this terminal, Ctrl-A h shows help",
     set_flag<&Parser::nographic>},
    {"display", "none", "no display", method<&Parser::display>},
    {"vga", "none", "no graphics adapter",
     [](Parser& parser, const std::string& value) { return parser.only(value, "none", "the graphics adapter"); }},
    {"vnc", "none", "no VNC server; as -display none", method<&Parser::display>},
    {"monitor", "none", "no monitor",
     [](Parser& parser, const std::string& value) { return parser.only(value, "none", "the monitor on"); }},
    {"parallel", "none", "no parallel port", none_only},
    {"net", "none", "no network", none_only},
    {"nic", "user|tap|bridge|stream|dgram|socket|passt[,mac=ADDRESS][,...]|none",
     "a virtio network card and its network, as -netdev has it",
     [](Parser& parser, const std::string& value) { return add_nic_option(parser.config, value); }},
    {"netdev",
     "user,id=ID[,hostfwd=tcp|udp:[HOST]:PORT-[GUEST]:PORT][,restrict=on], "
     "tap,id=ID[,ifname=NAME|fd=N|fds=N:N...|br=BRIDGE][,script=FILE|no][,queues=N][,vnet_hdr=off], "
     "bridge,id=ID,br=NAME, stream,id=ID,addr.type=unix|inet|fd,...[,server=on][,reconnect=SECONDS], "
     "dgram,id=ID,local.type=...,remote.type=..., socket,id=ID,listen|connect|mcast|udp|fd=..., "
     "passt,id=ID[,path=PROGRAM]",
     "a network for a card; JSON too",
     [](Parser& parser, const std::string& value) { return add_netdev_option(parser.config, value); }},
    {"drive", "file=FILE[,format=raw|qcow2][,if=virtio|none][,id=ID][,cache=MODE][,readonly=on][,snapshot=on]",
     "a disk; with if=virtio also its device",
     [](Parser& parser, const std::string& value) { return add_drive_option(parser.config, value); }},
    {"blockdev", "driver=FORMAT,node-name=ID,file.driver=file,file.filename=FILE", "a disk for a device; JSON too",
     [](Parser& parser, const std::string& value) { return add_blockdev_option(parser.config, value); }},
    {"fsdev", "local,id=ID,path=DIR[,readonly=on][,cache=none|auto|always][,security_model=none|passthrough]",
     "a folder for virtio-fs or virtio-9p",
     [](Parser& parser, const std::string& value) { return add_fsdev_option(parser.config, value); }},
    {"virtfs", "local,path=DIR,mount_tag=NAME[,id=ID][,readonly=on][,security_model=none|passthrough]",
     "a folder with its virtio-9p device",
     [](Parser& parser, const std::string& value) { return add_virtfs_option(parser.config, value); }},
    {"object",
     "filter-dump,id=ID,netdev=ID,file=FILE[,maxlen=BYTES], "
     "memory-backend-file,id=ID,mem-path=FILE,size=SIZE[,share=on], rng-random|rng-builtin|iothread,id=ID",
     "a file of a network's frames (pcap); a file as memory for virtio-pmem; or what husk has in any case",
     [](Parser& parser, const std::string& value) { return add_object_option(parser.config, value); }},
    {"global", "kvm-pit.lost_tick_policy=discard|delay", "ticks of KVM's own timer that the guest was too slow to take",
     method<&Parser::global>},
    {"nodefaults", "", "no device that is not asked for", set_flag<&Parser::no_defaults>},
    {"no-user-config", "", "nothing: husk reads no configuration file", nothing},
    {"no-fd-bootchk", "", "nothing: husk has no floppy disk", nothing},
    {"no-reboot", "", "end husk when the guest resets the machine",
     [](Parser& parser, const std::string&) -> Status {
       parser.config.no_reboot = true;
       return {};
     }},
    {"action", "reboot=reset|shutdown", "what a reset by the guest does", method<&Parser::action>},
    {"rtc", "[base=utc|localtime|DATE][,clock=host|rt|vm]", "what the real-time clock shows", method<&Parser::rtc>},
    {"S", "", "do not start the CPUs: gdb will",
     [](Parser& parser, const std::string&) -> Status {
       parser.config.start_paused = true;
       return {};
     }},
    {"gdb", "[tcp:][HOST]:PORT|unix:PATH|none", "listen for gdb", method<&Parser::gdb>},
    {"s", "", "as -gdb tcp::1234", [](Parser& parser, const std::string&) { return parser.gdb("tcp::1234"); }},
    {"d", "ITEM[,ITEM...]", "log what happens; 'help' lists the items", method<&Parser::log_items>},
    {"D", "FILE", "where the log goes (standard error)",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.debug_log.file = value;
       return {};
     }},
    {"perfmap", "", "write /tmp/perf-PID.map, names of translated code for perf",
     [](Parser& parser, const std::string&) -> Status {
       parser.config.debug_log.perf_map = true;
       return {};
     }},
    {"pidfile", "FILE", "write husk's process id there",
     [](Parser& parser, const std::string& value) -> Status {
       parser.config.pid_file = value;
       return {};
     }},
    {"sandbox", "off", "nothing: husk has no sandbox yet",
     [](Parser& parser, const std::string& value) { return parser.only(value, "off", "the sandbox"); }},
};

/// Options of QEMU (7.2) that husk lacks, where letters alone would find a bad neighbour: what each is for, and what of
/// husk comes nearest.
struct Missing {
  std::string_view name, purpose, nearest;
};
constexpr Missing kMissing[] = {
    {"hda", "disks", "-drive"},
    {"hdb", "disks", "-drive"},
    {"hdc", "disks", "-drive"},
    {"hdd", "disks", "-drive"},
    {"cdrom", "disks", "-drive"},
    {"fda", "disks", "-drive"},
    {"fdb", "disks", "-drive"},
    {"snapshot", "disks", "-drive"},
    {"boot", "a boot order", "-kernel"},
    {"usb", "USB", "-device"},
    {"usbdevice", "USB", "-device"},
    {"global", "global properties", "-device"},
    {"set", "global properties", "-device"},
    {"qmp", "a monitor", "-gdb"},
    {"qmp-pretty", "a monitor", "-gdb"},
    {"mon", "a monitor", "-serial"},
    {"spice", "displays", "-display none"},
    {"sdl", "displays", "-display none"},
    {"gtk", "displays", "-display none"},
    {"curses", "displays", "-nographic"},
    {"full-screen", "displays", "-display none"},
    {"k", "keyboards", "-nographic"},
    {"audio", "sound", "-device"},
    {"audiodev", "sound", "-device"},
    {"soundhw", "sound", "-device"},
    {"pflash", "flash memory", "-bios"},
    {"L", "a firmware directory", "-bios"},
    {"dtb", "device trees", "-append"},
    {"incoming", "migration", "-S"},
    {"loadvm", "snapshots", "-S"},
    {"icount", "counted time", "-rtc"},
    {"daemonize", "running in the background", "-pidfile"},
    {"no-shutdown", "staying after power-off", "-no-reboot"},
    {"no-acpi", "leaving ACPI out", "-machine"},
    {"no-hpet", "leaving the HPET out", "-machine"},
    {"smbios", "SMBIOS fields", "-name"},
    {"uuid", "a UUID", "-name"},
    {"fw_cfg", "firmware files", "-append"},
    {"acpitable", "extra ACPI tables", "-append"},
    {"trace", "QEMU's trace events", "-d"},
    {"dfilter", "log filters", "-d"},
    {"readconfig", "configuration files", "-no-user-config"},
    {"runas", "changing the user", "-sandbox"},
    {"chroot", "changing the root", "-sandbox"},
    {"numa", "NUMA", "-smp"},
    {"mem-path", "named memory", "-m"},
    {"mem-prealloc", "memory set-up", "-m"},
    {"overcommit", "memory set-up", "-m"},
    {"watchdog", "watchdogs", "-device"},
    {"echr", "another escape key", "-serial mon:stdio"},
    {"plugin", "plugins", "-d"},
};

Error unknown_option(const std::string& argument, std::string_view name) {
  for (const Missing& missing : kMissing)
    if (missing.name == name)
      return {fmt::format("option '{}': husk does not have {} this way", argument, missing.purpose),
              fmt::format("the nearest option it has is {}; 'husk qemu -help' lists all", missing.nearest)};
  std::vector<std::string_view> names;
  for (const Option& option : kOptions) names.push_back(option.name);
  const auto near = machine::nearest(name, names);
  return {fmt::format("husk has no option '{}'", argument),
          near ? fmt::format("the nearest one it has is -{}; 'husk qemu -help' lists all", *near)
               : "'husk qemu -help' lists those it has"};
}

}  // namespace

Result<QemuRequest> parse_qemu_options(std::span<const std::string> arguments) {
  Parser parser;
  parser.config.memory_bytes = kDefaultMemory;
  parser.config.cpu.model = "qemu64";
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.size() < 2 || argument[0] != '-')
      return refuse(fmt::format("'{}' would be a disk image", argument), "give it by -drive file=FILE");
    // One dash or two, as in QEMU.
    const std::string_view name = std::string_view(argument).substr(argument[1] == '-' ? 2 : 1);
    const auto* option =
        std::find_if(std::begin(kOptions), std::end(kOptions), [&](const Option& one) { return one.name == name; });
    if (option == std::end(kOptions)) return std::unexpected(unknown_option(argument, name));
    std::string value;
    if (!option->argument.empty()) {
      if (i + 1 == arguments.size())
        return refuse(fmt::format("option '{}' lacks its value", argument),
                      fmt::format("write {} {}", argument, option->argument));
      value = arguments[++i];
      if (value.find('\0') != std::string::npos) return fail("option '{}' has a NUL byte in its value", argument);
    }
    if (Status status = option->apply(parser, value); !status)
      return std::unexpected(
          std::move(status).error().within(value.empty() ? argument : fmt::format("{} {}", argument, value)));
    // As QEMU: help is given at once, and nothing after it is looked at.
    if (parser.print != QemuRequest::Print::nothing) return QemuRequest{.machine = {}, .print = parser.print};
  }
  return QemuRequest{.machine = HUSK_TRY(parser.finish())};
}

std::string qemu_help() {
  std::string text =
      "Usage: husk qemu [OPTION...]\n"
      "       qemu-system-x86_64 [OPTION...]   (husk under that name)\n"
      "\n"
      "QEMU's command line, for what husk has of it. Options may begin with one dash or two; a comma inside a value "
      "is\n"
      "written twice. DEVICE is one of stdio, mon:stdio, null, none, pty, file:PATH, pipe:PATH, chardev:ID,\n"
      "unix:PATH[,server=on][,wait=off], tcp:[HOST]:PORT[,server=on][,wait=off][,nodelay=on], telnet:..., ringbuf.\n\n";
  for (const Option& option : kOptions) {
    if (option.help.empty()) continue;
    const std::string head =
        option.argument.empty() ? fmt::format("-{}", option.name) : fmt::format("-{} {}", option.name, option.argument);
    text += head.size() < 24 ? fmt::format("{:<24}{}\n", head, option.help)
                             : fmt::format("{}\n{:24}{}\n", head, "", option.help);
  }
  return text +
         "\nExit status: 0 when the guest powers off, resets with -no-reboot or is quit; 2 for a bad option or file;\n"
         "1 if husk failed; (V << 1) | 1 when the guest writes V to isa-debug-exit.\n";
}

std::vector<std::string> qemu_option_names() {
  std::vector<std::string> names;
  for (const Option& option : kOptions)
    if (!option.help.empty()) names.push_back("-" + std::string(option.name));
  return names;
}

}  // namespace husk::app
