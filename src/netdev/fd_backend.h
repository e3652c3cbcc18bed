// husk: what networks over descriptors share: the card's callbacks, and waiting while the card has no room
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "core/net_backend.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

/// The longest frame that goes over a socket: QEMU's NET_BUFSIZE, so that both agree on what is too long.
inline constexpr std::size_t kMostFrame = 4096 + 65536;

/// Frames come in on the loop's thread and go out on whatever thread the card sends from, with its domain held. To be
/// destroyed on the loop's thread, or while none runs it.
class FdBackend : public core::NetBackend {
 public:
  FdBackend(host::EventLoop& loop, mem::LockDomain& domain)
      : loop_(loop), domain_(domain), alive_(std::make_shared<bool>(true)) {}
  void set_callbacks(Callbacks callbacks) final { callbacks_ = std::move(callbacks); }
  void ready_to_receive() final {
    if (std::exchange(stalled_, false)) post([this] { resume(); });
  }
  bool link_up() const final { return link_up_; }

 protected:
  /// On the loop, without the domain. False: there is no room, and resume() is called when there is.
  bool offer(std::span<const std::uint8_t> frame, const core::NetOffload& offload) {
    const mem::DomainGuard guard(&domain_);
    if (!callbacks_.receive || callbacks_.receive(frame, offload)) return true;
    stalled_ = true;
    return false;
  }
  virtual void resume() = 0;
  void set_link(bool up) {
    const mem::DomainGuard guard(&domain_);
    if (std::exchange(link_up_, up) != up && callbacks_.link) callbacks_.link(up);
  }
  /// Runs it on the loop, unless this has gone by then.
  void post(std::function<void()> work) {
    loop_.post([work = std::move(work), alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired()) work();
    });
  }

  host::EventLoop& loop_;
  mem::LockDomain& domain_;

 private:
  std::shared_ptr<bool> alive_;
  // Under the domain.
  Callbacks callbacks_;
  bool stalled_ = false;
  bool link_up_ = true;
};

}  // namespace husk::netdev
