// husk: virtio-fs: a file system that a FUSE server on the host's side answers for
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fuse_backend.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct FsState {
  CommonState common;
  std::vector<std::uint8_t> session;  ///< the server's, see core::FuseBackend::save
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "common", &FsState::common), field(2, "session", &FsState::session)};
  }
};

/// Virtio 1.2, 5.11. Queue 0 is for requests that must not wait behind others (FORGET, INTERRUPT), the others are
/// alike. Requests of all queues run at the same time, in no order.
class Fs final : public Base<FsState> {
 public:
  static constexpr unsigned kTagBytes = 36;
  struct Config {
    std::string id = "virtio_fs0";
    std::string tag;      ///< the name by which the guest mounts it: 1 to 36 bytes of UTF-8
    unsigned queues = 1;  ///< request queues, 1 to 64
    /// A power of two from 8 to 1024. Linux sends at most this many pages, less 4, in one request.
    std::uint16_t queue_size = 512;
    RingOptions ring = {};
  };
  /// Refuses bad tags and numbers. The backend outlives the device, which calls it, and is called by it, with the
  /// device's lock domain held.
  static Result<std::unique_ptr<Fs>> create(Environment environment, core::FuseBackend& backend, Config config);

 private:
  struct Request {
    Chain chain;
    unsigned queue = 0;
    std::vector<core::FuseSpan> in, out;
  };

  Fs(Environment environment, core::FuseBackend& backend, Config config);
  void handle_queue(unsigned queue) override;
  void device_reset() override { backend_.reset(); }
  void fill_config(std::span<std::uint8_t> bytes) override;
  void before_save() override { state_.session = backend_.save(); }
  Status validate_device(const FsState& incoming) const override;
  void finish(Request& request, std::uint64_t written);

  core::FuseBackend& backend_;
  Config config_;
  bool in_batch_ = false;
};

}  // namespace husk::devices::virtio
