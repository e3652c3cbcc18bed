// husk: the contract between a vsock device and what carries its connections on the host
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace husk::core {

enum class VsockKind : std::uint16_t { stream = 1, seqpacket = 2 };

/// One connection: its port in the guest and its port on the host.
struct VsockPorts {
  std::uint32_t guest = 0;
  std::uint32_t host = 0;
  auto operator<=>(const VsockPorts&) const = default;
};

/// The host's side of a vsock device. Calls and callbacks under the device's lock domain, on any thread. No callback is
/// made from inside a call.
class VsockBackend {
 public:
  virtual ~VsockBackend() = default;

  struct Callbacks {
    /// Somebody on the host wants this port of the guest: the connection's port on the host, to be answered by
    /// accepted() or close(); or nothing, and it is refused.
    std::function<std::optional<std::uint32_t>(std::uint32_t guest_port, VsockKind kind)> incoming;
    /// There may be something to read() again.
    std::function<void(VsockPorts)> readable;
    /// So many more bytes of what was sent have left husk.
    std::function<void(VsockPorts, std::size_t bytes)> forwarded;
    /// The host's side takes no more; what is left to read can still be read.
    std::function<void(VsockPorts)> gone;
  };
  virtual void set_callbacks(Callbacks callbacks) = 0;

  /// The guest wants a port of the host. False: nobody is there.
  virtual bool connect(VsockPorts ports, VsockKind kind) = 0;
  /// The guest took an incoming connection.
  virtual void accepted(VsockPorts ports) = 0;
  /// Takes all of it; returns how many bytes of this and earlier calls have left husk by now and were not told of yet.
  /// `end_of_message` counts for seqpacket only.
  virtual std::size_t send(VsockPorts ports, std::span<const std::uint8_t> data, bool end_of_message) = 0;

  struct Piece {
    std::size_t bytes = 0;
    bool end_of_message = false;
    bool ended = false;  ///< there is nothing more to come
  };
  /// The next bytes from the host. None, and not ended: readable() tells when there are more.
  virtual Piece read(VsockPorts ports, std::span<std::uint8_t> into) = 0;
  /// The guest sends no more.
  virtual void guest_ended(VsockPorts ports) = 0;
  /// The connection is over; what was sent still goes out.
  virtual void close(VsockPorts ports) = 0;
};

}  // namespace husk::core
