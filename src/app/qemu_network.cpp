// husk: QEMU's options for networks
#include "app/qemu_network.h"

#include <algorithm>

namespace husk::app {

Result<machine::HostForward> parse_host_forward(std::string_view text) {
  machine::HostForward forward;
  const auto wrong = [&] {
    return refuse(fmt::format("'{}' is no port forward", text),
                  "write tcp:[HOST]:PORT-[GUEST]:PORT or HOSTPORT:GUESTPORT");
  };
  std::string_view rest = text;
  if (rest.starts_with("udp:")) forward.udp = true;
  if (rest.starts_with("tcp:") || rest.starts_with("udp:")) rest.remove_prefix(4);
  const std::size_t dash = rest.find('-');
  if (dash == std::string_view::npos) return wrong();
  const auto end = [&](std::string_view part, std::string& address, std::uint16_t& port) -> bool {
    const std::size_t colon = part.rfind(':');
    if (colon == std::string_view::npos) return false;
    address = part.substr(0, colon);
    const auto number = machine::parse_number(part.substr(colon + 1), 65535);
    if (!number || *number == 0) return false;
    port = static_cast<std::uint16_t>(*number);
    return true;
  };
  if (!end(rest.substr(0, dash), forward.host_address, forward.host_port) ||
      !end(rest.substr(dash + 1), forward.guest_address, forward.guest_port))
    return wrong();
  return forward;
}

Result<std::array<std::uint8_t, 6>> parse_mac(std::string_view text) {
  std::array<std::uint8_t, 6> mac{};
  bool good = text.size() == 17;
  for (unsigned i = 0; good && i < 6; ++i) {
    const std::string part(text.substr(i * 3, 2));
    good = part.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos && (i == 5 || text[i * 3 + 2] == ':');
    if (good) mac[i] = static_cast<std::uint8_t>(std::stoul(part, nullptr, 16));
  }
  if (!good) return refuse(fmt::format("'{}' is no MAC address", text), "write 52:54:00:12:34:56");
  if (mac[0] & 1) return refuse(fmt::format("'{}' is a multicast address", text), "give one whose first byte is even");
  return mac;
}

namespace {

using machine::MachineConfig;
using machine::NetdevConfig;

constexpr std::string_view kKinds = "husk has user, tap, bridge, stream, dgram, socket and passt";

Result<machine::UserNetConfig> take_user(Properties& p) {
  machine::UserNetConfig net;
  net.restricted = HUSK_TRY(p.take_bool("restrict", false));
  net.ipv4 = HUSK_TRY(p.take_bool("ipv4", true));
  net.ipv6 = HUSK_TRY(p.take_bool("ipv6", true));
  net.hostname = p.take("hostname").value_or("");
  while (true) {
    const auto forward = p.take_next("hostfwd");
    if (!forward) break;
    net.forwards.push_back(HUSK_TRY(parse_host_forward(*forward)));
  }
  return net;
}

Result<int> parse_descriptor(std::string_view text, const Properties& p) {
  const auto number = machine::parse_number(text, 1 << 20);
  if (number && *number > 2) return static_cast<int>(*number);
  return refuse(fmt::format("{}: '{}' is no descriptor that husk was started with", p.what(), text),
                "give the number of an open one, 3 or more");
}

/// Where QEMU looks, and Debian puts it.
constexpr std::string_view kBridgeHelper = "/usr/lib/qemu/qemu-bridge-helper";

/// "no" means none; husk runs no script that nobody named.
Result<std::string> take_script(Properties& p, std::string_view key, bool own_interface) {
  const auto script = p.take(key);
  if (script) return *script == "no" ? std::string() : *script;
  if (!own_interface) return std::string();
  return refuse(fmt::format("{}: husk knows no {} of its own", p.what(), key),
                fmt::format("give {}=no, or the script's name", key));
}

Result<machine::TapConfig> take_tap(Properties& p) {
  machine::TapConfig net;
  net.interface = p.take("ifname").value_or("");
  if (const auto fd = p.take("fd")) net.descriptors = {HUSK_TRY(parse_descriptor(*fd, p))};
  if (const auto list = p.take("fds")) {
    if (!net.descriptors.empty()) return refuse("-netdev tap has both fd and fds", "give one of them");
    std::string_view rest = *list;
    for (bool more = true; more;) {
      const std::size_t colon = rest.find(':');
      net.descriptors.push_back(HUSK_TRY(parse_descriptor(rest.substr(0, colon), p)));
      more = colon != std::string_view::npos;
      if (more) rest.remove_prefix(colon + 1);
    }
  }
  net.queues = static_cast<unsigned>(HUSK_TRY(p.take_number("queues", 1, 64)));
  if (net.queues == 0) return refuse("-netdev tap cannot have queues=0", "give 1 to 64");
  if (net.descriptors.size() > 64) return refuse("-netdev tap has more than 64 descriptors", "give fewer");
  if (!net.descriptors.empty()) net.queues = static_cast<unsigned>(net.descriptors.size());
  net.offloads = HUSK_TRY(p.take_bool("vnet_hdr", true));
  if (const auto helper = p.take("helper")) net.helper = *helper;
  const auto bridge = p.take("br");
  if (bridge && net.helper.empty()) net.helper = kBridgeHelper;
  if (!net.helper.empty()) net.bridge = bridge.value_or("br0");
  const unsigned sources = !net.interface.empty() + !net.descriptors.empty() + !net.helper.empty();
  if (sources > 1)
    return refuse("-netdev tap has more than one of ifname, fd or fds, and helper or br", "give one of them");
  if (!net.helper.empty() && net.queues > 1) return refuse("a bridge helper makes one queue", "leave queues out");
  const bool own = net.descriptors.empty() && net.helper.empty();
  net.script = HUSK_TRY(take_script(p, "script", own));
  net.down_script = HUSK_TRY(take_script(p, "downscript", own && !net.script.empty()));
  if (HUSK_TRY(p.take_bool("vhost", false)) || HUSK_TRY(p.take_bool("vhostforce", false)))
    return refuse("husk does not hand a card to the host's kernel (vhost)", "leave vhost=on out");
  HUSK_TRY(p.take_fixed("sndbuf", {"0"}));
  return net;
}

Result<machine::TapConfig> take_bridge(Properties& p) {
  machine::TapConfig net;
  net.bridge = p.take("br").value_or("br0");
  net.helper = p.take("helper").value_or(std::string(kBridgeHelper));
  return net;
}

/// An address of QEMU's type SocketAddress: PREFIX.type=inet|unix|fd and what belongs to it. Nothing if there is none.
struct Endpoint {
  std::optional<host::SocketAddress> address = {};
  int descriptor = -1;
  bool given() const { return address || descriptor >= 0; }
};
Result<Endpoint> take_endpoint(Properties& p, const std::string& prefix) {
  const auto type = p.take(prefix + ".type");
  Endpoint end;
  if (!type) return end;
  if (*type == "unix") {
    host::UnixAddress address{p.take(prefix + ".path").value_or("")};
    address.abstract = HUSK_TRY(p.take_bool(prefix + ".abstract", false));
    HUSK_TRY(p.take_fixed(prefix + ".tight", {"on"}));
    if (address.path.empty()) return refuse(fmt::format("{}: {} has no path", p.what(), prefix), "give a path");
    end.address = address;
  } else if (*type == "inet") {
    host::TcpAddress address{p.take(prefix + ".host").value_or("")};
    const auto port = machine::parse_number(p.take(prefix + ".port").value_or(""), 65535);
    if (!port) return refuse(fmt::format("{}: {} has no port of 0 to 65535", p.what(), prefix), "give a number");
    address.port = static_cast<std::uint16_t>(*port);
    HUSK_TRY(p.take_fixed(prefix + ".numeric", {"on", "off"}));
    end.address = address;
  } else if (*type == "fd") {
    end.descriptor = HUSK_TRY(parse_descriptor(p.take(prefix + ".str").value_or(""), p));
  } else {
    return refuse(fmt::format("{}: there is no kind of address '{}'", p.what(), *type), "choose inet, unix or fd");
  }
  return end;
}

Result<machine::StreamConfig> take_stream(Properties& p) {
  machine::StreamConfig net;
  const Endpoint end = HUSK_TRY(take_endpoint(p, "addr"));
  net.server = HUSK_TRY(p.take_bool("server", false));
  const std::uint64_t seconds = HUSK_TRY(p.take_number("reconnect", 0, 1'000'000));
  const std::uint64_t ms = HUSK_TRY(p.take_number("reconnect-ms", 0, 1'000'000'000));
  if (!end.given())
    return refuse("-netdev stream has no address", "give addr.type=unix,addr.path=PATH or addr.type=inet,...");
  if (end.address) net.address = *end.address;
  net.descriptor = end.descriptor;
  net.reconnect_ns = seconds ? seconds * 1'000'000'000 : ms * 1'000'000;
  if (net.reconnect_ns && (net.server || net.descriptor >= 0))
    return refuse("-netdev stream reconnects only what it has connected", "leave reconnect out");
  if (net.server && net.descriptor >= 0)
    return refuse("-netdev stream takes a descriptor that is connected, not one that listens", "leave server=on out");
  return net;
}

bool is_multicast(const host::SocketAddress& address) {
  const auto* inet = std::get_if<host::TcpAddress>(&address);
  // 224.0.0.0/4
  const auto first =
      inet ? machine::parse_number(inet->host.substr(0, inet->host.find('.')), 255) : Result<std::uint64_t>(0);
  return first && *first >= 224 && *first < 240;
}

Result<machine::DgramConfig> take_dgram(Properties& p) {
  const Endpoint remote = HUSK_TRY(take_endpoint(p, "remote"));
  const bool group = remote.address && is_multicast(*remote.address);
  // The interface of a multicast group is an address without a port.
  if (group && !p.take("local.port"))
    if (const auto type = p.take("local.type"); type == "inet")
      return machine::DgramConfig{.local = host::TcpAddress{p.take("local.host").value_or("")},
                                  .remote = remote.address};
  const Endpoint local = HUSK_TRY(take_endpoint(p, "local"));
  if (remote.descriptor >= 0) return refuse("-netdev dgram: a descriptor is local", "give local.type=fd");
  if (local.descriptor >= 0 && remote.address)
    return refuse("-netdev dgram: a descriptor knows where its frames go", "leave remote out");
  if (!local.given() && !group)
    return refuse("-netdev dgram has no local address", "give local.type=inet|unix|fd and what belongs to it");
  return machine::DgramConfig{.local = local.address, .remote = remote.address, .descriptor = local.descriptor};
}

Result<host::TcpAddress> parse_pair(const std::string& text, const Properties& p) {
  const std::size_t colon = text.rfind(':');
  const auto port =
      colon == std::string::npos ? std::nullopt : std::optional(machine::parse_number(text.substr(colon + 1), 65535));
  if (!port || !*port) return refuse(fmt::format("{}: '{}' is no address", p.what(), text), "write HOST:PORT");
  return host::TcpAddress{text.substr(0, colon), static_cast<std::uint16_t>(**port)};
}

/// The old way to say what stream and dgram say.
Status take_socket(Properties& p, NetdevConfig& net) {
  const auto listen = p.take("listen"), connect = p.take("connect"), group = p.take("mcast"), udp = p.take("udp"),
             fd = p.take("fd"), local = p.take("localaddr");
  if (!!listen + !!connect + !!group + !!udp + !!fd != 1)
    return refuse("-netdev socket needs one of listen, connect, mcast, udp and fd", "give exactly one");
  if (local && !group && !udp) return refuse("-netdev socket: localaddr goes with mcast and udp", "leave it out");
  if (listen) {
    net.kind = machine::StreamConfig{.address = HUSK_TRY(parse_pair(*listen, p)), .server = true};
  } else if (connect) {
    net.kind = machine::StreamConfig{.address = HUSK_TRY(parse_pair(*connect, p))};
  } else if (fd) {
    net.kind = machine::StreamConfig{.descriptor = HUSK_TRY(parse_descriptor(*fd, p))};
  } else if (group) {
    machine::DgramConfig dgram{.remote = HUSK_TRY(parse_pair(*group, p))};
    if (!is_multicast(*dgram.remote))
      return refuse(fmt::format("-netdev socket: '{}' is no IPv4 multicast group", *group), "give one of 224 to 239");
    if (local) dgram.local = host::TcpAddress{*local};
    net.kind = dgram;
  } else {
    if (!local) return refuse("-netdev socket: udp needs localaddr", "give localaddr=HOST:PORT");
    net.kind = machine::DgramConfig{.local = HUSK_TRY(parse_pair(*local, p)), .remote = HUSK_TRY(parse_pair(*udp, p))};
  }
  return {};
}

Result<machine::PasstConfig> take_passt(Properties& p) {
  machine::PasstConfig net;
  net.program = p.take("path").value_or(net.program);
  // QEMU's names for passt's own options, which take a value.
  for (const char* name : {"mtu", "address", "netmask", "mac", "gateway", "interface", "outbound", "outbound-if4",
                           "outbound-if6", "dns", "tcp-ports", "udp-ports"}) {
    const auto value = p.take(name);
    if (!value) continue;
    net.arguments.push_back(std::string("--") + (std::string_view(name) == "mac" ? "mac-addr" : name));
    net.arguments.push_back(*value);
  }
  while (const auto more = p.take_next("param")) net.arguments.push_back(*more);
  return net;
}

/// Takes what belongs to the network of the kind.
Status take_network(Properties& p, const std::string& type, NetdevConfig& net) {
  if (type == "user")
    net.kind = HUSK_TRY(take_user(p));
  else if (type == "tap")
    net.kind = HUSK_TRY(take_tap(p));
  else if (type == "bridge")
    net.kind = HUSK_TRY(take_bridge(p));
  else if (type == "stream")
    net.kind = HUSK_TRY(take_stream(p));
  else if (type == "dgram")
    net.kind = HUSK_TRY(take_dgram(p));
  else if (type == "socket")
    HUSK_TRY(take_socket(p, net));
  else if (type == "passt")
    net.kind = HUSK_TRY(take_passt(p));
  else if (type == "vhost-user" || type == "vhost-vdpa")
    return refuse(fmt::format("husk does not hand a card to another program ({})", type), std::string(kKinds));
  else
    return refuse(fmt::format("there is no network '{}'", type), std::string(kKinds));
  return {};
}

Status add_card(MachineConfig& config, Properties& p, bool run) {
  const std::string type = p.take("type").value_or("");
  if (type == "none") return p.finish();
  HUSK_TRY(p.take_fixed("model", {"virtio-net-pci", "virtio"}));
  machine::VirtioNetConfig device;
  if (const auto mac = p.take("mac"); mac && type != "passt") device.mac = HUSK_TRY(parse_mac(*mac));
  NetdevConfig net;
  net.id = p.take("id").value_or(fmt::format("nic{}", config.netdevs.size()));
  HUSK_TRY(take_network(p, type, net));
  if (const auto file = run ? p.take("capture") : std::nullopt) {
    if (file->empty()) return refuse("capture has no file", "give capture=FILE");
    config.frame_dumps.push_back({.id = net.id + "-capture", .netdev = net.id, .file = *file});
  }
  HUSK_TRY(p.finish());
  const auto* tap = std::get_if<machine::TapConfig>(&net.kind);
  device.multi_queue = tap && tap->queues > 1;
  device.netdev = net.id;
  config.virtio.emplace_back(std::move(device));
  config.netdevs.push_back(std::move(net));
  return {};
}

}  // namespace

Status add_netdev_option(MachineConfig& config, const std::string& text) {
  const std::string flat = HUSK_TRY(flat_properties(text, "-netdev"));
  Properties p(flat, "type", "-netdev");
  const std::string type = p.take("type").value_or("");
  NetdevConfig net;
  HUSK_TRY(take_network(p, type, net));
  net.id = p.take("id").value_or("");
  HUSK_TRY(p.finish());
  if (net.id.empty()) return refuse("-netdev has no id", "give id=ID");
  config.netdevs.push_back(std::move(net));
  return {};
}

Status add_nic_option(MachineConfig& config, std::string_view text) {
  Properties p(text, "type", "-nic");
  return add_card(config, p, false);
}

Status add_run_network(MachineConfig& config, std::string_view text) {
  std::string words(text);
  if (text.starts_with("tap="))
    words = fmt::format("tap,ifname={},script=no", text.substr(4));
  else if (text.starts_with("bridge="))
    words = fmt::format("bridge,br={}", text.substr(7));
  Properties p(words, "type", "the network");
  return add_card(config, p, true);
}

Status add_filter_dump(MachineConfig& config, Properties& p) {
  machine::FrameDumpConfig dump;
  dump.id = p.take("id").value_or("");
  dump.netdev = p.take("netdev").value_or("");
  dump.file = p.take("file").value_or("");
  dump.most_bytes = static_cast<std::uint32_t>(HUSK_TRY(p.take_number("maxlen", dump.most_bytes, 65536)));
  HUSK_TRY(p.take_fixed("queue", {"all"}));
  HUSK_TRY(p.take_fixed("status", {"on"}));
  HUSK_TRY(p.finish());
  if (dump.id.empty() || dump.netdev.empty() || dump.file.empty())
    return refuse("filter-dump lacks its id, netdev or file", "write filter-dump,id=ID,netdev=ID,file=FILE");
  if (dump.most_bytes == 0) return refuse("filter-dump cannot have maxlen=0", "give 1 to 65536");
  config.frame_dumps.push_back(std::move(dump));
  return {};
}

}  // namespace husk::app
