// husk: what a character device's host side is to be, as typed values
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "host/socket.h"

namespace husk::chardev {

/// Drops all output, has no input.
struct NullSpec {
  bool operator==(const NullSpec&) const = default;
};
/// This process's standard input and output; a terminal goes into raw mode.
struct StdioSpec {
  bool signals = true;  ///< Ctrl-C still ends husk, instead of reaching the guest
  bool operator==(const StdioSpec&) const = default;
};
struct FileSpec {
  std::string path = {};
  bool append = false;          ///< else the file is emptied
  std::string input_path = {};  ///< where input comes from; none if empty
  bool operator==(const FileSpec&) const = default;
};
/// A new pseudo-terminal; its name is in Chardev::describe().
struct PtySpec {
  bool operator==(const PtySpec&) const = default;
};
/// A pair of FIFOs, `path`.in (to the guest) and `path`.out; if those do not exist, `path` itself for both.
struct PipeSpec {
  std::string path = {};
  bool operator==(const PipeSpec&) const = default;
};
/// Keeps the last `size` bytes of output in memory.
struct RingSpec {
  std::size_t size = 65536;
  bool operator==(const RingSpec&) const = default;
};
struct SocketSpec {
  host::SocketAddress address = {};
  bool server = false;            ///< listens, else connects
  bool wait = true;               ///< server: not Chardev::ready() before the first client
  bool no_delay = false;          ///< TCP: no Nagle delay
  bool telnet = false;            ///< speaks the telnet protocol (RFC 854)
  std::uint32_t reconnect_s = 0;  ///< client: tries again this long after losing the connection; 0: never
  bool operator==(const SocketSpec&) const = default;
};

using Kind = std::variant<NullSpec, StdioSpec, FileSpec, PtySpec, PipeSpec, RingSpec, SocketSpec>;

struct Spec {
  std::string id = {};
  Kind kind = {};
  bool mux = false;           ///< several front ends, told apart by Ctrl-A commands
  std::string log_path = {};  ///< all output goes there too; none if empty
  bool log_append = false;    ///< else the log file is emptied
  bool operator==(const Spec&) const = default;
};

}  // namespace husk::chardev
