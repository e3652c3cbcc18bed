// husk: virtio-vsock: sockets between guest and host
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/vsock_backend.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct VsockState {
  CommonState common;
  /// There were connections, which cannot go along: the driver is to be told that they are lost (5.10.6.7).
  bool interrupted = false;
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "common", &VsockState::common), field(2, "interrupted", &VsockState::interrupted)};
  }
};

/// Virtio 1.2, 5.10: stream and seqpacket. Queue 0 is to the guest, 1 from it, 2 for events. What the guest may have
/// under way is bounded: connections by kMostConnections, bytes of each by kBuffer, answers by kMostAnswers, beyond
/// which nothing more is taken from the guest until it takes them.
class Vsock final : public Base<VsockState> {
 public:
  static constexpr std::uint64_t kHostCid = 2;
  static constexpr std::size_t kMostConnections = 512;
  static constexpr std::uint32_t kBuffer = 256 << 10;
  static constexpr std::size_t kMostAnswers = 256;
  struct Config {
    std::string id = "virtio_vsock0";
    std::uint64_t guest_cid = 3;
    std::uint16_t queue_size = 128;
    RingOptions ring = {};
  };
  /// Refuses context ids that are reserved (0 to 2 and those of 32 bits of ones and more). The backend outlives the
  /// device.
  static Result<std::unique_ptr<Vsock>> create(Environment environment, core::VsockBackend& backend, Config config);
  ~Vsock() override;
  void start() override;
  void quiesce(std::function<void()> done) override;

 private:
  using Ports = core::VsockPorts;
  using Kind = core::VsockKind;
  struct Header;
  enum class Phase : std::uint8_t { requested, established };
  struct Connection {
    Kind kind = Kind::stream;
    Phase phase = Phase::established;
    bool readable = false;     ///< the backend may have something, and it is listed in ready_
    bool host_ended = false;   ///< SHUTDOWN with SEND has been sent
    bool guest_ended = false;  ///< SHUTDOWN with SEND has come
    bool guest_deaf = false;   ///< SHUTDOWN with RECEIVE has come
    // Credit (5.10.6.3), free-running.
    std::uint32_t sent = 0, peer_forwarded = 0, peer_buffer = 0;
    std::uint32_t received = 0, forwarded = 0, told = 0;
    std::uint32_t peer_room() const {
      const std::uint32_t under_way = sent - peer_forwarded;
      return under_way >= peer_buffer ? 0 : peer_buffer - under_way;
    }
  };
  struct Answer {
    Ports ports;
    std::uint16_t type, op;
    std::uint32_t flags;
  };

  Vsock(Environment environment, core::VsockBackend& backend, Config config);
  void handle_queue(unsigned queue) override;
  void device_reset() override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  void before_save() override { state_.interrupted = owed_event_ || !connections_.empty(); }
  void loaded() override;

  void take_packet(const Chain& chain);
  void requested(const Header& header);
  void arrived(const Header& header, Connection& connection, const Chain& chain);
  void data_arrived(const Header& header, Connection& connection, const Chain& chain);
  void shut_down(const Header& header, Connection& connection);
  void answer(Ports ports, std::uint16_t type, std::uint16_t op, std::uint32_t flags = 0);
  void reset_connection(Ports ports, std::uint16_t type);
  void drop(Ports ports);
  void drop_all();
  void note_forwarded(Ports ports, Connection& connection, std::size_t bytes);
  void list_readable(Ports ports);
  void fill_receive_queue();
  bool put_answer(const Chain& chain);
  bool put_data(const Chain& chain);
  void put(const Chain& chain, Ports ports, std::uint16_t type, std::uint16_t op, std::uint32_t flags,
           std::size_t length);
  void send_event();
  std::optional<std::uint32_t> incoming(std::uint32_t guest_port, Kind kind);

  core::VsockBackend& backend_;
  Config config_;
  std::map<Ports, Connection> connections_;
  std::deque<Ports> ready_;
  std::deque<Answer> answers_;
  bool owed_event_ = false;
  bool stopped_ = false;  ///< between quiesce() and start(): what the host sends waits
  bool held_up_ = false;  ///< packets of the guest wait until it takes answers
  std::uint32_t next_port_;
  std::vector<std::uint8_t> scratch_;
};

}  // namespace husk::devices::virtio
