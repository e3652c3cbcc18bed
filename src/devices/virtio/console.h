// husk: virtio-console: consoles and named ports over one device
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/backends.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct ConsolePortState {
  bool guest_open = false;      ///< the guest has the port open
  bool host_connected = false;  ///< somebody is at the other end
  bool ready = false;           ///< the driver has answered PORT_ADD
  std::uint32_t sent = 0;       ///< bytes of the first buffer to transmit that the backend has already
  static constexpr auto state() {
    using state::field;
    using S = ConsolePortState;
    return std::tuple{field(1, "guest_open", &S::guest_open), field(2, "host_connected", &S::host_connected),
                      field(3, "ready", &S::ready), field(4, "sent", &S::sent)};
  }
};

struct ConsoleState {
  CommonState common;
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
  std::vector<ConsolePortState> ports;
  bool driver_ready = false;           ///< DEVICE_READY has come
  std::vector<std::uint8_t> messages;  ///< control messages for which there was no buffer yet, with a length byte each
  static constexpr auto state() {
    using state::field;
    using S = ConsoleState;
    return std::tuple{
        field(1, "common", &S::common), field(2, "columns", &S::columns),           field(3, "rows", &S::rows),
        field(4, "ports", &S::ports),   field(5, "driver_ready", &S::driver_ready), field(6, "messages", &S::messages)};
  }
};

/// Virtio 1.2, 5.3. Port n's queues are 0 and 1 (n = 0) or 2n + 2 and 2n + 3; 2 and 3 are for control messages.
class Console final : public Base<ConsoleState> {
 public:
  struct Port {
    core::CharBackend* backend = nullptr;  ///< null: nobody is there, and what the guest writes is dropped
    std::string name = {};                 ///< of a named port, at most 60 bytes
    bool console = false;                  ///< hvc rather than a named port
  };
  struct Config {
    std::string id = "virtio_console0";
    std::uint16_t queue_size = 128;
    std::uint16_t columns = 0;  ///< of port 0; 0: not told
    std::uint16_t rows = 0;
    RingOptions ring = {};
  };
  static constexpr std::size_t kMostPorts = 31;
  static constexpr std::size_t kMostName = 60;
  /// 1 to 31 ports, whose backends outlive the device.
  Console(Environment environment, std::vector<Port> ports, Config config);
  ~Console() override;

  void start() override;
  /// Nothing is taken from the guest or given to it until start().
  void quiesce(std::function<void()> done) override;
  /// The terminal of port 0 has changed its size.
  void resize(std::uint16_t columns, std::uint16_t rows);

 private:
  void handle_queue(unsigned queue) override;
  void activated() override;
  void device_reset() override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  Status validate_device(const ConsoleState& incoming) const override;

  bool multiport() const { return negotiated_bit(1); }
  static unsigned receive_queue(std::size_t port) { return port == 0 ? 0 : static_cast<unsigned>(port * 2 + 2); }
  void control(const Chain& chain);
  void send_message(std::uint32_t port, std::uint16_t event, std::uint16_t value, std::string_view text = {});
  void flush_messages();
  void introduce(std::size_t port);
  void receive(std::size_t port, std::span<const std::uint8_t> data);
  void connection(std::size_t port, bool connected);
  void loaded() override { take_no_input(); }
  void take_no_input();
  void update_credit(std::size_t port);
  void transmit(std::size_t port);

  std::vector<Port> ports_;
  Config config_;
  bool stopped_ = false;  ///< between quiesce() and start()
};

}  // namespace husk::devices::virtio
