// husk: virtio-net: a network card
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/net_backend.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

using MacAddress = std::array<std::uint8_t, 6>;

struct NetState {
  CommonState common;
  MacAddress mac{};
  bool promiscuous = true;  ///< until a driver with CTRL_RX says otherwise
  bool all_multicast = false;
  bool all_unicast = false;
  bool no_multicast = false;
  bool no_unicast = false;
  bool no_broadcast = false;
  std::vector<MacAddress> unicast;
  std::vector<MacAddress> multicast;
  bool unicast_overflow = false;
  bool multicast_overflow = false;
  std::array<std::uint32_t, 128> vlans{};  ///< one bit an id
  std::uint16_t pairs = 1;                 ///< queue pairs that the driver uses
  bool announce = false;                   ///< VIRTIO_NET_S_ANNOUNCE is set
  bool link_up = true;
  std::uint64_t offloads_off = 0;  ///< receive offloads that were negotiated, and switched off by a command
  static constexpr auto state() {
    using state::field;
    using S = NetState;
    return std::tuple{field(1, "common", &S::common),
                      field(2, "mac", &S::mac),
                      field(3, "promiscuous", &S::promiscuous),
                      field(4, "all_multicast", &S::all_multicast),
                      field(5, "all_unicast", &S::all_unicast),
                      field(6, "no_multicast", &S::no_multicast),
                      field(7, "no_unicast", &S::no_unicast),
                      field(8, "no_broadcast", &S::no_broadcast),
                      field(9, "unicast", &S::unicast),
                      field(10, "multicast", &S::multicast),
                      field(11, "unicast_overflow", &S::unicast_overflow),
                      field(12, "multicast_overflow", &S::multicast_overflow),
                      field(13, "vlans", &S::vlans),
                      field(14, "pairs", &S::pairs),
                      field(15, "announce", &S::announce),
                      field(16, "link_up", &S::link_up),
                      field(17, "offloads_off", &S::offloads_off)};
  }
};

/// Virtio 1.2, 5.1: queue pairs, a control queue, filters, mergeable receive buffers. Checksums and TCP segmentation
/// asked for by the driver are done here when the backend does not, and so is what the backend leaves to a driver that
/// does not take it.
class Net final : public Base<NetState> {
 public:
  struct Config {
    std::string id = "virtio_net0";
    MacAddress mac{0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    unsigned pairs = 1;  ///< 1 to 64
    std::uint16_t queue_size = 256;
    std::uint16_t mtu = 0;
    /// Feature bits (5.1.3) that are not offered, nor those that need them.
    std::uint64_t withheld = 0;
    RingOptions ring = {};
  };
  static constexpr unsigned kMostPairs = 64;
  // Feature bits (5.1.3).
  static constexpr unsigned kCsum = 0, kGuestCsum = 1, kControlOffloads = 2, kMtu = 3, kMac = 5, kGuestTso4 = 7,
                            kGuestTso6 = 8, kGuestEcn = 9, kHostTso4 = 11, kHostTso6 = 12, kHostEcn = 13,
                            kMergeable = 15, kStatus = 16, kControlQueue = 17, kControlRx = 18, kControlVlan = 19,
                            kControlRxExtra = 20, kGuestAnnounce = 21, kMultiQueue = 22, kControlMac = 23;
  /// `backend` may be null: the cable is unplugged.
  Net(Environment environment, core::NetBackend* backend, Config config);
  ~Net() override;

  void set_link(bool up);
  void start() override;
  /// Frames wait in the backend until start().
  void quiesce(std::function<void()> done) override;
  /// Asks the driver to send its gratuitous packets (after a migration).
  void announce();

 private:
  void handle_queue(unsigned queue) override;
  void activated() override;
  void device_reset() override;
  void fill_config(std::span<std::uint8_t> bytes) override;
  void config_written(std::uint64_t offset, std::uint64_t value, unsigned size) override;
  Status validate_device(const NetState& incoming) const override;

  unsigned control_queue() const;
  std::size_t header_size() const;
  void transmit(const Chain& chain, unsigned pair);
  bool receive(std::span<const std::uint8_t> frame, const core::NetOffload& offload);
  /// Whether the driver takes this receive offload now.
  bool takes(unsigned feature) const { return negotiated_bit(feature) && !(state_.offloads_off >> feature & 1); }
  bool takes_segmented(const core::NetOffload& offload) const;
  void tell_backend();
  bool wanted(std::span<const std::uint8_t> frame) const;
  bool store_frame(unsigned queue, std::span<const std::uint8_t> frame, const core::NetOffload& offload);
  std::uint8_t control(const Chain& chain);
  std::uint8_t control_rx(std::uint8_t command, std::span<const std::uint8_t> data);
  std::uint8_t control_mac(std::uint8_t command, std::span<const std::uint8_t> data);
  std::uint8_t control_vlan(std::uint8_t command, std::span<const std::uint8_t> data);
  std::uint8_t control_offloads(std::uint8_t command, std::span<const std::uint8_t> data);

  core::NetBackend* backend_;
  bool stopped_ = false;  ///< between quiesce() and start()
  Config config_;
  std::vector<std::uint8_t> frame_;
  std::vector<std::uint8_t> completed_;
  std::vector<Chain> chains_;
};

}  // namespace husk::devices::virtio
