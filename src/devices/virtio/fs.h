// husk: virtio-fs and virtio-9p: file systems that a server on the host's side answers for
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/share_backend.h"
#include "devices/virtio/device.h"

namespace husk::devices::virtio {

struct FsState {
  CommonState common;
  std::vector<std::uint8_t> session;  ///< the server's, see core::ShareBackend::save
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "common", &FsState::common), field(2, "session", &FsState::session)};
  }
};

/// Two devices that carry requests and answers and know nothing of what is in them: virtio-fs (virtio 1.2, 5.11), whose
/// queue 0 is for requests that must not wait behind others (FORGET, INTERRUPT) while the others are alike; and
/// virtio-9p (Linux, include/uapi/linux/virtio_9p.h; virtio 1.2 has only its number), which has one queue. Requests run
/// at the same time, in no order.
class Fs final : public Base<FsState> {
 public:
  enum class Protocol : std::uint8_t { fuse, ninep };
  static constexpr unsigned kTagBytes = 36;
  static constexpr unsigned kNinepTagBytes = 32;  ///< as QEMU has it
  struct Config {
    std::string id = "virtio_fs0";
    Protocol protocol = Protocol::fuse;
    std::string tag;      ///< the name by which the guest mounts it: 1 to 36 (virtio-9p: 32) bytes of UTF-8
    unsigned queues = 1;  ///< request queues, 1 to 64; virtio-9p: 1
    /// A power of two from 8 to 1024. Linux sends at most this many pages, less 4, in one request.
    std::uint16_t queue_size = 512;
    RingOptions ring = {};
  };
  /// Refuses bad tags and numbers. The backend outlives the device, which calls it, and is called by it, with the
  /// device's lock domain held.
  static Result<std::unique_ptr<Fs>> create(Environment environment, core::ShareBackend& backend, Config config);

 private:
  struct Request {
    Chain chain;
    unsigned queue = 0;
    std::vector<core::ShareSpan> in, out;
  };

  Fs(Environment environment, core::ShareBackend& backend, Config config);
  void handle_queue(unsigned queue) override;
  void device_reset() override { backend_.reset(); }
  void fill_config(std::span<std::uint8_t> bytes) override;
  void before_save() override { state_.session = backend_.save(); }
  Status validate_device(const FsState& incoming) const override;
  void finish(Request& request, std::uint64_t written);

  core::ShareBackend& backend_;
  Config config_;
  bool in_batch_ = false;
};

}  // namespace husk::devices::virtio
