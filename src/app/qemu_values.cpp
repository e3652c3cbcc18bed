// husk: the values of QEMU's options that have a syntax of their own: -device, -chardev, -cpu, -smp, -accel
#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "app/qemu_options.h"
#include "app/qemu_properties.h"
#include "app/qemu_virtio.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

constexpr std::array<std::string_view, 5> kDevices = {"isa-debug-exit", "isa-debugcon", "pc-testdev", "edu",
                                                      "pci-testdev"};
constexpr std::array<std::string_view, 7> kChardevs = {"socket", "stdio", "file", "null", "pty", "pipe", "ringbuf"};

std::string join(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

Result<chardev::SocketSpec> socket_kind(Properties& properties) {
  chardev::SocketSpec socket;
  const auto path = properties.take("path");
  const auto host = properties.take("host");
  const auto port = properties.take("port");
  if (path && (host || port))
    return refuse(properties.what() + " has both a path and a TCP address", "leave one of them out");
  if (path) {
    if (path->empty()) return refuse(properties.what() + " has an empty path", "give path=PATH");
    socket.address = host::UnixAddress{*path, HUSK_TRY(properties.take_bool("abstract", false))};
  } else if (port) {
    // Through the same checks as an address in one piece.
    const bool v6 = host && host->find(':') != std::string::npos;
    auto address = machine::parse_tcp((v6 ? "[" + *host + "]" : host.value_or("")) + ":" + *port);
    if (!address) return std::unexpected(std::move(address).error().within(properties.what()));
    socket.address = std::move(*address);
    socket.no_delay = HUSK_TRY(properties.take_bool("nodelay", false));
    socket.telnet = HUSK_TRY(properties.take_bool("telnet", false));
  } else {
    return refuse(properties.what() + " has no address", "give path=PATH, or host=HOST and port=PORT");
  }
  socket.server = HUSK_TRY(properties.take_bool("server", false));
  socket.wait = HUSK_TRY(properties.take_bool("wait", true));
  socket.reconnect_s = static_cast<std::uint32_t>(HUSK_TRY(properties.take_number("reconnect", 0, 86'400)));
  if (socket.server && socket.reconnect_s)
    return refuse(properties.what() + ": a server cannot reconnect", "leave reconnect or server out");
  const auto* tcp = std::get_if<host::TcpAddress>(&socket.address);
  if (!socket.server && tcp && tcp->port == 0)
    return refuse(properties.what() + ": port 0 can only be listened on", "give the port to connect to, or server=on");
  return socket;
}

Result<chardev::Kind> chardev_kind(const std::string& kind, Properties& properties) {
  const auto path = [&]() -> Result<std::string> {
    auto value = properties.take("path");
    if (!value || value->empty()) return refuse(properties.what() + " has no path", "give path=PATH");
    return std::move(*value);
  };
  if (kind == "null") return chardev::NullSpec{};
  if (kind == "pty") return chardev::PtySpec{};
  if (kind == "stdio") return chardev::StdioSpec{.signals = HUSK_TRY(properties.take_bool("signal", true))};
  if (kind == "file") {
    chardev::FileSpec file{.path = HUSK_TRY(path())};
    file.append = HUSK_TRY(properties.take_bool("append", false));
    file.input_path = properties.take("input-path").value_or("");
    return file;
  }
  if (kind == "pipe") return chardev::PipeSpec{.path = HUSK_TRY(path())};
  if (kind == "ringbuf" || kind == "memory") {
    chardev::RingSpec ring;
    if (const auto size = properties.take("size")) {
      auto bytes = machine::parse_size(*size, 1);
      if (!bytes) return std::unexpected(std::move(bytes).error().within("size of " + properties.what()));
      ring.size = *bytes;
    }
    return ring;
  }
  if (kind == "socket") return HUSK_TRY(socket_kind(properties));
  return refuse(fmt::format("there is no character device '{}'{}", kind, machine::nearest_hint(kind, kChardevs)),
                "-chardev has " + join(kChardevs));
}

bool id_taken(const MachineConfig& config, std::string_view id) {
  for (const chardev::Spec& spec : config.chardevs)
    if (spec.id == id) return true;
  return false;
}

}  // namespace

Status add_chardev_option(MachineConfig& config, std::string_view text) {
  Properties properties(text, "backend", "-chardev");
  const std::string kind = properties.take("backend").value_or("");
  const auto id = properties.take("id");
  if (!id || id->empty()) return refuse(fmt::format("-chardev {} has no id", kind), "give id=NAME");
  if (id_taken(config, *id)) return refuse(fmt::format("two character devices have the id '{}'", *id), "rename one");
  Properties named(text, "backend", fmt::format("character device '{}'", *id));
  named.skip("backend");
  named.skip("id");
  chardev::Spec spec{.id = *id, .kind = HUSK_TRY(chardev_kind(kind, named))};
  spec.mux = HUSK_TRY(named.take_bool("mux", false));
  spec.log_path = named.take("logfile").value_or("");
  spec.log_append = HUSK_TRY(named.take_bool("logappend", false));
  HUSK_TRY(named.finish());
  config.chardevs.push_back(std::move(spec));
  return {};
}

Result<std::string> add_char_source(MachineConfig& config, std::string_view text, std::string user_id) {
  machine::CharSource source = HUSK_TRY(machine::parse_char_source(text));
  if (!source.existing.empty()) return source.existing;
  if (!source.spec) return std::string();
  // A user's own -chardev may have taken the name.
  while (id_taken(config, user_id)) user_id += "_";
  source.spec->id = user_id;
  config.chardevs.push_back(std::move(*source.spec));
  return user_id;
}

Status add_device_option(MachineConfig& config, std::string_view text) {
  Properties properties(text, "driver", "-device");
  const std::string driver = properties.take("driver").value_or("");
  Properties named(text, "driver", driver);
  named.skip("driver");
  if (driver == "isa-debug-exit") {
    machine::DebugExitConfig device;
    device.iobase = static_cast<std::uint16_t>(HUSK_TRY(named.take_number("iobase", device.iobase, 0xffff)));
    device.iosize = static_cast<std::uint16_t>(HUSK_TRY(named.take_number("iosize", device.iosize, 0xffff)));
    config.devices.emplace_back(device);
  } else if (driver == "isa-debugcon") {
    machine::DebugConsoleConfig device;
    device.iobase = static_cast<std::uint16_t>(HUSK_TRY(named.take_number("iobase", device.iobase, 0xffff)));
    device.readback = static_cast<std::uint8_t>(HUSK_TRY(named.take_number("readback", device.readback, 0xff)));
    device.chardev = named.take("chardev").value_or("");
    if (device.chardev.empty())
      return refuse("isa-debugcon has no character device", "give chardev=ID and -chardev KIND,id=ID");
    config.devices.emplace_back(device);
  } else if (driver == "pc-testdev") {
    config.devices.emplace_back(machine::PcTestDeviceConfig{});
  } else if (driver == "edu") {
    machine::EduConfig device;
    device.place = HUSK_TRY(take_pci_place(named));
    device.dma_mask = HUSK_TRY(named.take_number("dma_mask", device.dma_mask, ~std::uint64_t{0}));
    config.devices.emplace_back(std::move(device));
  } else if (driver == "pci-testdev") {
    machine::PciTestDeviceConfig device;
    device.place = HUSK_TRY(take_pci_place(named));
    HUSK_TRY(named.take_fixed("membar-backed", {"off"}));
    if (const auto size = named.take("membar")) {
      auto bytes = machine::parse_size(*size, 1);
      if (!bytes) return std::unexpected(std::move(bytes).error().within("membar of pci-testdev"));
      if (*bytes && (!std::has_single_bit(*bytes) || *bytes < 16))
        return refuse(fmt::format("pci-testdev cannot have membar={}", *size), "give a power of two of at least 16");
      device.memory_bar = *bytes;
    }
    config.devices.emplace_back(std::move(device));
  } else if (HUSK_TRY(add_virtio_device(config, driver, named))) {
    return named.finish();
  } else {
    std::vector<std::string_view> names(kDevices.begin(), kDevices.end());
    names.insert(names.end(), virtio_device_names().begin(), virtio_device_names().end());
    return refuse(fmt::format("there is no device '{}'{}", driver, machine::nearest_hint(driver, names)),
                  "-device has " + join(kDevices) + " and virtio devices; 'husk qemu -device help' lists them");
  }
  static_cast<void>(named.take("id"));
  return named.finish();
}

Result<machine::AcceleratorKind> parse_accelerator(std::string_view name) {
  if (name == "kvm") return machine::AcceleratorKind::kvm;
  if (name == "jit" || name == "tcg" || name == "soft") return machine::AcceleratorKind::jit;
  if (name == "interp") return machine::AcceleratorKind::interp;
  static constexpr std::array<std::string_view, 5> kNames = {"kvm", "jit", "tcg", "soft", "interp"};
  return refuse(
      fmt::format("there is no accelerator '{}'{}", name, machine::nearest_hint(name, kNames)),
      "choose kvm, or jit (also called tcg and soft: husk's own CPU), or interp (the same CPU without translation)");
}

namespace {
/// One "key" or "key=value" after the model's name.
Status apply_cpu_property(machine::CpuConfig& cpu, std::string_view item) {
  static constexpr std::array<std::string_view, 9> kProperties = {
      "vendor", "family", "model", "stepping", "model-id", "phys-bits", "tsc-frequency", "level", "xlevel"};
  const std::size_t equals = item.find('=');
  const std::string_view key = item.substr(0, equals);
  if (std::find(kProperties.begin(), kProperties.end(), key) != kProperties.end()) {
    if (equals == std::string_view::npos || equals + 1 == item.size())
      return refuse(fmt::format("the CPU's {} has no value", key), fmt::format("write {}=VALUE", key));
    cpu.edits.push_back({std::string(key), true, std::string(item.substr(equals + 1))});
    return {};
  }
  const auto value = machine::parse_bool(equals == std::string_view::npos ? "on" : item.substr(equals + 1));
  if (!value)
    return refuse(
        fmt::format("the CPU cannot have {}", item),
        "features are set by +feature, -feature, feature=on|off; with another value there are vendor, family, "
        "model, stepping, model-id, phys-bits, tsc-frequency, level and xlevel");
  using machine::MissingFeatures;
  // QEMU's: check is on unless it is switched off, enforce is stronger.
  if (key == "enforce")
    cpu.missing = *value ? MissingFeatures::refuse : MissingFeatures::warn;
  else if (key != "check")
    cpu.edits.push_back({std::string(key), *value});
  else if (cpu.missing != MissingFeatures::refuse)
    cpu.missing = *value ? MissingFeatures::warn : MissingFeatures::leave_out;
  return {};
}
}  // namespace

Result<machine::CpuConfig> parse_cpu(std::string_view text) {
  machine::CpuConfig cpu;
  cpu.missing = machine::MissingFeatures::warn;
  bool first = true;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const std::size_t equals = item.find('=');
    if (item.empty()) return refuse("the CPU has an empty part between commas", "write MODEL,+feature,-feature");
    if (first) {
      if (item[0] == '+' || item[0] == '-' || equals != std::string_view::npos)
        return refuse(fmt::format("'{}' is not a CPU model", item), "write the model first: max,+feature,-feature");
      cpu.model = item;
    } else if (item[0] == '+' || item[0] == '-') {
      if (item.size() == 1)
        return refuse(fmt::format("'{}' lacks a feature's name", item), "write +feature or -feature");
      cpu.edits.push_back({std::string(item.substr(1)), item[0] == '+'});
    } else {
      HUSK_TRY(apply_cpu_property(cpu, item));
    }
    first = false;
    if (comma == std::string_view::npos) return cpu;
    text.remove_prefix(comma + 1);
  }
}

Result<machine::TopologyConfig> parse_smp(std::string_view text) {
  Properties properties(text, "cpus", "the CPU topology");
  const auto number = [&](std::string_view key) { return properties.take_number(key, 0, 0xffff); };
  // A zero that is written out is a mistake, not "leave it to husk".
  for (const std::string_view key : {"cpus", "sockets", "cores", "threads"}) {
    const auto value = properties.take(key);
    const auto count = value ? machine::parse_number(*value) : Result<std::uint64_t>(1);
    if (count && *count == 0)
      return refuse(fmt::format("{}=0: a machine needs at least one of them", key), "give 1 or more");
  }
  const auto cpus = static_cast<unsigned>(HUSK_TRY(number("cpus")));
  const auto sockets = static_cast<unsigned>(HUSK_TRY(number("sockets")));
  const auto cores = static_cast<unsigned>(HUSK_TRY(number("cores")));
  const auto threads = static_cast<unsigned>(HUSK_TRY(number("threads")));
  HUSK_TRY(properties.take_fixed("dies", {"1"}));
  HUSK_TRY(properties.take_fixed("clusters", {"1"}));
  const auto most = static_cast<unsigned>(HUSK_TRY(number("maxcpus")));
  HUSK_TRY(properties.finish());
  const auto topology = HUSK_TRY(machine::complete_topology(cpus ? cpus : most, sockets, cores, threads));
  if (most && most != topology.count)
    return refuse(
        fmt::format("maxcpus={} with {} CPUs asks for CPU hotplug, which husk does not have", most, topology.count),
        "leave maxcpus out");
  return topology;
}

std::string device_help() {
  return "isa-debug-exit,iobase=PORT,iosize=1|2|4   a write of V ends husk with status (V << 1) | 1 (0x501, 2)\n"
         "isa-debugcon,chardev=ID,iobase=PORT,readback=BYTE   what is written goes to a character device (0xe9, 0xe9)\n"
         "pc-testdev   interrupt lines, port loop-back and memory window for test programs\n"
         "edu[,dma_mask=MASK]   a PCI device to write a first driver for (docs/test-devices.md)\n"
         "pci-testdev[,membar=SIZE]   a PCI device that counts writes to its BARs, and one of a chosen size\n" +
         virtio_device_help();
}

std::string chardev_help() {
  return "socket,id=ID,path=PATH[,abstract=on]|[,host=HOST],port=PORT[,nodelay=on][,telnet=on]\n"
         "      [,server=on][,wait=off][,reconnect=SECONDS]\n"
         "stdio,id=ID[,signal=off]\n"
         "file,id=ID,path=PATH[,append=on][,input-path=PATH]\n"
         "null,id=ID\n"
         "pty,id=ID\n"
         "pipe,id=ID,path=PATH\n"
         "ringbuf,id=ID[,size=BYTES]\n"
         "each also with [,mux=on][,logfile=PATH[,logappend=on]]\n";
}

std::string log_item_help() {
  return "int            exceptions and interrupts\n"
         "exec           each instruction\n"
         "cpu            each instruction, with the registers before it\n"
         "guest_errors   what the guest does wrong\n"
         "in_asm         guest code as it is translated\n"
         "out_asm        what it is translated into\n"
         "jit            the figures of husk's JIT, at the end and on SIGUSR1\n"
         "nochain        nothing: husk shows every instruction in any case\n"
         "unimp          nothing: what husk's devices do not have reads as on hardware without it\n";
}

}  // namespace husk::app
