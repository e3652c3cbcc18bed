// husk: parsing QEMU's comma-separated options and its short names of character devices
#include <array>

#include "machine/config.h"

namespace husk::machine {

std::vector<OptionPart> split_option(std::string_view text) {
  std::vector<OptionPart> parts;
  OptionPart part;
  bool in_value = false;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool end = i == text.size();
    if (!end && text[i] == ',' && i + 1 < text.size() && text[i + 1] == ',') {
      (in_value ? part.value : part.key) += ',';
      ++i;
    } else if (end || text[i] == ',') {
      if (!part.key.empty() || part.has_value) parts.push_back(std::move(part));
      part = {};
      in_value = false;
    } else if (!in_value && text[i] == '=') {
      in_value = part.has_value = true;
    } else {
      (in_value ? part.value : part.key) += text[i];
    }
  }
  return parts;
}

namespace {

std::unexpected<Error> bad(std::string message, std::string next_step) {
  return std::unexpected(Error{std::move(message), std::move(next_step)});
}

/// Options after the address of a unix:, tcp: or telnet: device, with the old forms "server", "nowait".
Status apply_socket_option(chardev::SocketSpec& socket, const OptionPart& part, std::string_view what) {
  const bool tcp = std::holds_alternative<host::TcpAddress>(socket.address);
  static constexpr std::array<std::string_view, 5> kKeys = {"server", "wait", "reconnect", "nodelay", "telnet"};
  std::string key = part.key;
  bool negated = false;
  // "nowait", "noserver": but "nodelay" is a name of its own.
  if (!part.has_value && key.starts_with("no") && key != "nodelay" && key != "no") {
    negated = true;
    key.erase(0, 2);
  }
  const auto flag = [&]() -> Result<bool> {
    if (!part.has_value) return !negated;
    auto value = parse_bool(part.value);
    if (!value) return std::unexpected(std::move(value).error().within(key));
    return value;
  };
  if (key == "server")
    socket.server = HUSK_TRY(flag());
  else if (key == "wait")
    socket.wait = HUSK_TRY(flag());
  else if (key == "nodelay" && tcp)
    socket.no_delay = HUSK_TRY(flag());
  else if (key == "delay" && tcp)
    socket.no_delay = !HUSK_TRY(flag());
  else if (key == "telnet" && tcp)
    socket.telnet = HUSK_TRY(flag());
  else if (key == "reconnect" && part.has_value) {
    auto seconds = parse_number(part.value, 86'400);
    if (!seconds) return std::unexpected(std::move(seconds).error().within("reconnect"));
    socket.reconnect_s = static_cast<std::uint32_t>(*seconds);
  } else {
    return bad(fmt::format("a {} device has no option '{}'{}", what, part.key, nearest_hint(part.key, kKeys)),
               "it has server, wait, reconnect, and for TCP nodelay and telnet");
  }
  return {};
}

Result<chardev::SocketSpec> parse_socket(std::string_view text, std::string_view scheme) {
  chardev::SocketSpec socket;
  // The address is everything up to the first single comma.
  std::string address;
  std::size_t at = 0;
  for (; at < text.size(); ++at) {
    if (text[at] != ',') {
      address += text[at];
    } else if (at + 1 < text.size() && text[at + 1] == ',') {
      address += ',';
      ++at;
    } else {
      break;
    }
  }
  if (scheme == "unix") {
    if (address.empty()) return bad("the unix socket has no path", "write unix:PATH");
    socket.address = host::UnixAddress{address};
  } else {
    socket.address = HUSK_TRY(parse_tcp(address));
    socket.telnet = scheme == "telnet";
  }
  if (at < text.size())
    for (const OptionPart& part : split_option(text.substr(at + 1)))
      HUSK_TRY(apply_socket_option(socket, part, scheme));
  if (socket.server && socket.reconnect_s) return bad("a server cannot reconnect", "leave reconnect or server out");
  if (!socket.server && std::holds_alternative<host::TcpAddress>(socket.address) &&
      std::get<host::TcpAddress>(socket.address).port == 0)
    return bad("port 0 can only be listened on", "give the port to connect to, or server=on");
  return socket;
}

}  // namespace

Result<CharSource> parse_char_source(std::string_view text) {
  CharSource source;
  if (text == "none") return source;
  if (text.starts_with("chardev:")) {
    source.existing = text.substr(8);
    if (source.existing.empty()) return bad("'chardev:' lacks the id of a -chardev", "write chardev:ID");
    return source;
  }
  chardev::Spec spec;
  if (text.starts_with("mon:")) {
    spec.mux = true;
    text.remove_prefix(4);
  }
  const std::size_t colon = text.find(':');
  const std::string_view scheme = text.substr(0, colon);
  const std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  const bool alone = colon == std::string_view::npos;
  if (scheme == "stdio" && alone) {
    // As QEMU does it: with the multiplexer, Ctrl-A x is the way out and Ctrl-C belongs to the guest.
    spec.kind = chardev::StdioSpec{.signals = !spec.mux};
  } else if (scheme == "null" && alone) {
    spec.kind = chardev::NullSpec{};
  } else if (scheme == "pty" && alone) {
    spec.kind = chardev::PtySpec{};
  } else if (scheme == "file" || scheme == "pipe") {
    if (rest.empty()) return bad(fmt::format("the {} has no path", scheme), fmt::format("write {}:PATH", scheme));
    if (scheme == "file")
      spec.kind = chardev::FileSpec{.path = std::string(rest)};
    else
      spec.kind = chardev::PipeSpec{.path = std::string(rest)};
  } else if (scheme == "unix" || scheme == "tcp" || scheme == "telnet") {
    auto socket = parse_socket(rest, scheme);
    if (!socket) return std::unexpected(std::move(socket).error().within(fmt::format("'{}'", text)));
    spec.kind = std::move(*socket);
  } else if (scheme == "ringbuf") {
    chardev::RingSpec ring;
    if (!rest.empty()) ring.size = HUSK_TRY(parse_size(rest, 1));
    spec.kind = ring;
  } else {
    static constexpr std::array<std::string_view, 12> kSchemes = {
        "stdio", "null", "pty", "file", "pipe", "unix", "tcp", "telnet", "ringbuf", "none", "chardev", "mon"};
    return bad(fmt::format("there is no character device '{}'{}", text, nearest_hint(scheme, kSchemes)),
               "choose from stdio, mon:stdio, null, none, pty, file:PATH, pipe:PATH, unix:PATH, tcp:HOST:PORT, "
               "telnet:HOST:PORT, ringbuf, chardev:ID");
  }
  source.spec = std::move(spec);
  return source;
}

}  // namespace husk::machine
