// husk: the host's side of vsock connections as a test says
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/vsock_backend.h"

namespace husk::testing {

/// Ports of the host below 100 are served; what is sent there is kept.
class FakeVsock final : public core::VsockBackend {
 public:
  struct Connection {
    core::VsockKind kind = core::VsockKind::stream;
    bool accepted = false, guest_ended = false, ended = false;
    std::string received;
    std::vector<std::size_t> messages;  ///< where each ends in `received`
    std::string waiting;                ///< for the guest
    std::size_t held = 0;               ///< bytes that have not been reported as forwarded
  };
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  bool connect(core::VsockPorts ports, core::VsockKind kind) override {
    if (ports.host >= 100) return false;
    connections[ports].kind = kind;
    return true;
  }
  void accepted(core::VsockPorts ports) override { connections.at(ports).accepted = true; }
  std::size_t send(core::VsockPorts ports, std::span<const std::uint8_t> data, bool end_of_message) override {
    Connection& one = connections.at(ports);
    one.received.append(data.begin(), data.end());
    if (end_of_message) one.messages.push_back(one.received.size());
    if (!hold) return data.size();
    one.held += data.size();
    return 0;
  }
  Piece read(core::VsockPorts ports, std::span<std::uint8_t> into) override {
    Connection& one = connections.at(ports);
    const std::size_t count = std::min(into.size(), one.waiting.size());
    std::copy_n(one.waiting.begin(), count, into.begin());
    one.waiting.erase(0, count);
    return {count, one.waiting.empty(), count == 0 && one.ended};
  }
  void guest_ended(core::VsockPorts ports) override { connections.at(ports).guest_ended = true; }
  void close(core::VsockPorts ports) override {
    connections.erase(ports);
    ++closed;
  }

  // ---- the host's part ----
  std::optional<core::VsockPorts> call(std::uint32_t guest_port, core::VsockKind kind) {
    const auto host = callbacks_.incoming ? callbacks_.incoming(guest_port, kind) : std::nullopt;
    if (!host) return std::nullopt;
    const core::VsockPorts ports{guest_port, *host};
    connections[ports].kind = kind;
    return ports;
  }
  void deliver(core::VsockPorts ports, std::string_view text) {
    connections.at(ports).waiting += text;
    callbacks_.readable(ports);
  }
  void end(core::VsockPorts ports) {
    connections.at(ports).ended = true;
    callbacks_.readable(ports);
  }
  void vanish(core::VsockPorts ports) {
    connections.at(ports).ended = true;
    callbacks_.gone(ports);
  }
  void forward(core::VsockPorts ports) {
    if (const std::size_t held = std::exchange(connections.at(ports).held, 0)) callbacks_.forwarded(ports, held);
  }
  std::map<core::VsockPorts, Connection> connections;
  unsigned closed = 0;
  bool hold = false;

 private:
  Callbacks callbacks_;
};

}  // namespace husk::testing
