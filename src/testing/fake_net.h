// husk: a network that keeps what the card sends, and delivers what a test says
#pragma once

#include <vector>

#include "core/net_backend.h"

namespace husk::testing {

class FakeNet final : public core::NetBackend {
 public:
  core::NetCapabilities capabilities() const override { return can; }
  bool link_up() const override { return carrier; }
  void set_receive_offloads(const core::NetReceiveOffloads& offloads) override { taken = offloads; }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload& offload) override {
    if (sent.size() < 4096) sent.push_back({{frame.begin(), frame.end()}, offload});
  }
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  void ready_to_receive() override { ++ready; }
  /// False if the card had no room.
  bool deliver(std::span<const std::uint8_t> frame, const core::NetOffload& offload = {}) {
    return !callbacks_.receive || callbacks_.receive(frame, offload);
  }
  void set_link(bool up) {
    if (callbacks_.link) callbacks_.link(up);
  }
  struct Frame {
    std::vector<std::uint8_t> bytes;
    core::NetOffload offload;
  };
  std::vector<Frame> sent;
  unsigned ready = 0;
  core::NetCapabilities can;
  bool carrier = true;             ///< when the card is made
  core::NetReceiveOffloads taken;  ///< what the card said last

 private:
  Callbacks callbacks_;
};

}  // namespace husk::testing
