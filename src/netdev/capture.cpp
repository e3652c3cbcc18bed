// husk: a network whose frames are also written to a file
#include "netdev/capture.h"

namespace husk::netdev {

namespace {

class Captured final : public core::NetBackend {
 public:
  Captured(std::unique_ptr<core::NetBackend> inner, PacketCapture capture)
      : inner_(std::move(inner)), capture_(std::move(capture)) {}
  core::NetCapabilities capabilities() const override { return inner_->capabilities(); }
  bool link_up() const override { return inner_->link_up(); }
  void set_receive_offloads(const core::NetReceiveOffloads& offloads) override {
    inner_->set_receive_offloads(offloads);
  }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload& offload) override {
    capture_.add(frame);
    inner_->send(frame, offload);
  }
  void set_callbacks(Callbacks callbacks) override {
    if (auto receive = std::move(callbacks.receive))
      callbacks.receive = [this, receive = std::move(receive)](std::span<const std::uint8_t> frame,
                                                               const core::NetOffload& offload) {
        // What has no room comes again.
        if (!receive(frame, offload)) return false;
        capture_.add(frame);
        return true;
      };
    inner_->set_callbacks(std::move(callbacks));
  }
  void ready_to_receive() override { inner_->ready_to_receive(); }

 private:
  std::unique_ptr<core::NetBackend> inner_;
  PacketCapture capture_;
};

}  // namespace

std::unique_ptr<core::NetBackend> captured(std::unique_ptr<core::NetBackend> inner, PacketCapture capture) {
  return std::make_unique<Captured>(std::move(inner), std::move(capture));
}

}  // namespace husk::netdev
