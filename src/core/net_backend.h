// husk: the contract between a network card and what carries its frames
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace husk::core {

/// What one side left for the other to do to a frame (the fields of Linux' virtio_net_hdr).
struct NetOffload {
  enum class Segmentation : std::uint8_t { none, tcp4, tcp6, udp };
  bool needs_checksum = false;  ///< the 16-bit sum from checksum_start goes to checksum_start + checksum_offset
  bool checksum_valid = false;  ///< known to be right
  std::uint16_t checksum_start = 0;
  std::uint16_t checksum_offset = 0;
  Segmentation segmentation = Segmentation::none;
  bool ecn = false;
  std::uint16_t segment_size = 0;  ///< payload bytes of each segment
  std::uint16_t header_length = 0;
  std::optional<std::uint16_t> queue = {};  ///< the queue (pair) it came by, if its sender has several
};

/// What the driver of a card takes in a received frame. What it does not take must be done before the frame is offered.
struct NetReceiveOffloads {
  bool checksum = false;  ///< needs_checksum
  bool tcp4 = false;      ///< segmentation, each of its kinds
  bool tcp6 = false;
  bool ecn = false;
  bool operator==(const NetReceiveOffloads&) const = default;
};

struct NetCapabilities {
  bool checksum = false;      ///< takes frames with needs_checksum
  bool segmentation = false;  ///< takes frames to be segmented
};

/// The host side of a network card. Calls and callbacks under the device's lock domain, on any thread.
class NetBackend {
 public:
  virtual ~NetBackend() = default;
  virtual NetCapabilities capabilities() const { return {}; }
  /// Whether there is a carrier now; Callbacks::link tells of changes.
  virtual bool link_up() const { return true; }
  /// What the card takes from now on; nothing until the first call. A few frames of before may still come.
  virtual void set_receive_offloads(const NetReceiveOffloads& offloads) { (void)offloads; }
  /// Takes an Ethernet frame without its check sequence; copies what it keeps. What cannot be sent is dropped.
  virtual void send(std::span<const std::uint8_t> frame, const NetOffload& offload) = 0;
  struct Callbacks {
    /// False: there is no room; the frame is offered again after ready_to_receive().
    std::function<bool(std::span<const std::uint8_t> frame, const NetOffload& offload)> receive;
    std::function<void(bool up)> link = {};
  };
  virtual void set_callbacks(Callbacks callbacks) = 0;
  virtual void ready_to_receive() = 0;
};

}  // namespace husk::core
