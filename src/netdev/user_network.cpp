// husk: user-mode networking by libslirp
#include "netdev/user_network.h"

#include <arpa/inet.h>
#include <libslirp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace husk::netdev {

namespace {
using Frame = std::vector<std::uint8_t>;
/// Frames under way in each direction; what comes on top is lost, as on a real wire.
constexpr std::size_t kMostQueued = 1024;

in_addr address(const char* text) {
  in_addr parsed{};
  ::inet_pton(AF_INET, text, &parsed);
  return parsed;
}
in6_addr address6(const char* text) {
  in6_addr parsed{};
  ::inet_pton(AF_INET6, text, &parsed);
  return parsed;
}
}  // namespace

struct UserNetwork::Impl : std::enable_shared_from_this<UserNetwork::Impl> {
  Impl(host::EventLoop& event_loop, Log& where) : loop(event_loop), log(where) {}
  ~Impl() {
    // Its sockets' watches go through unregister_fd meanwhile.
    if (slirp) ::slirp_cleanup(slirp);
  }

  struct Socket {
    host::EventLoop::Watch watch;
    host::EventLoop::Events wanted = 0;
    host::EventLoop::Events ready = 0;
    bool listed = false;  ///< by the last fill()
  };
  struct SlirpTimer {
    host::EventLoop::Timer timer;
  };

  host::EventLoop& loop;
  Log& log;
  Slirp* slirp = nullptr;
  std::map<int, Socket> sockets;
  host::EventLoop::Timer timeout;
  bool processing = false;
  bool posted = false;

  // The card. `mutex` guards what both threads use.
  std::mutex mutex;
  std::deque<Frame> from_guest;
  bool pump_posted = false;
  mem::LockDomain* domain = nullptr;      ///< null: no card
  core::NetBackend::Callbacks callbacks;  ///< under the domain
  std::deque<Frame> to_guest;             ///< on the loop only

  // ---- libslirp's side ----

  void process() {
    posted = false;
    processing = true;
    ::slirp_pollfds_poll(
        slirp, 0,
        [](int index, void* opaque) -> int {
          auto* self = static_cast<Impl*>(opaque);
          const auto found = self->sockets.find(index);
          if (found == self->sockets.end()) return 0;
          const host::EventLoop::Events ready = std::exchange(found->second.ready, host::EventLoop::Events{0});
          int events = 0;
          if (ready & host::EventLoop::kReadable) events |= SLIRP_POLL_IN;
          if (ready & host::EventLoop::kWritable) events |= SLIRP_POLL_OUT;
          // Whatever is wrong shows when it is read from.
          if (ready & host::EventLoop::kHangup) events |= SLIRP_POLL_HUP | SLIRP_POLL_IN;
          return events;
        },
        this);
    processing = false;
    fill();
  }

  /// Asks what to wait for.
  void fill() {
    for (auto& [fd, socket] : sockets) socket.listed = false;
    std::uint32_t wait_ms = UINT32_MAX;
    ::slirp_pollfds_fill(
        slirp, &wait_ms,
        [](int fd, int events, void* opaque) -> int {
          auto* self = static_cast<Impl*>(opaque);
          Socket& socket = self->sockets[fd];
          socket.listed = true;
          socket.wanted = 0;
          if (events & SLIRP_POLL_IN) socket.wanted |= host::EventLoop::kReadable;
          if (events & SLIRP_POLL_OUT) socket.wanted |= host::EventLoop::kWritable;
          return fd;
        },
        this);
    for (auto entry = sockets.begin(); entry != sockets.end();) {
      auto& [fd, socket] = *entry;
      if (!socket.listed) {
        entry = sockets.erase(entry);
        continue;
      }
      if (!socket.watch) {
        auto watch = loop.watch(fd, socket.wanted, [this, ready_fd = fd](host::EventLoop::Events events) {
          socket_ready(ready_fd, events);
        });
        if (watch)
          socket.watch = std::move(*watch);
        else
          log.warning("user network: cannot wait for a socket: {}", watch.error().text());
      } else if (socket.watch.interest() != socket.wanted) {
        socket.watch.set_interest(socket.wanted);
      }
      ++entry;
    }
    if (wait_ms == UINT32_MAX)
      timeout.cancel();
    else
      timeout.arm_after(std::uint64_t{std::max(wait_ms, 1u)} * 1'000'000);
  }

  void socket_ready(int fd, host::EventLoop::Events events) {
    const auto found = sockets.find(fd);
    if (found == sockets.end()) return;
    found->second.ready |= events;
    // A hangup is reported for ever: look away until libslirp has dealt with it.
    if (events & host::EventLoop::kHangup) {
      found->second.watch.reset();
    }
    schedule();
  }

  void schedule() {
    if (posted || processing) return;
    posted = true;
    loop.post([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->process();
    });
  }

  /// A frame for the guest.
  void output(std::span<const std::uint8_t> frame) {
    if (to_guest.size() >= kMostQueued) return;
    to_guest.emplace_back(frame.begin(), frame.end());
    deliver();
  }

  void deliver() {
    while (!to_guest.empty()) {
      {
        if (!domain) {
          to_guest.clear();
          return;
        }
        const mem::DomainGuard guard(domain);
        // libslirp makes whole and right checksums.
        if (callbacks.receive && !callbacks.receive(to_guest.front(), {.checksum_valid = true})) return;
      }
      to_guest.pop_front();
    }
  }

  /// Frames from the guest, on the loop.
  void pump() {
    std::deque<Frame> frames;
    {
      const std::lock_guard lock(mutex);
      pump_posted = false;
      frames.swap(from_guest);
    }
    for (const Frame& frame : frames) {
      ::slirp_input(slirp, frame.data(), static_cast<int>(frame.size()));
    }
    deliver();
    fill();
  }

  void post_pump() {
    // mutex is held
    if (std::exchange(pump_posted, true)) return;
    loop.post([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->pump();
    });
  }

  void unregister_fd(int fd) { sockets.erase(fd); }

  static const SlirpCb kCallbacks;
};

const SlirpCb UserNetwork::Impl::kCallbacks = {
    .send_packet = [](const void* data, std::size_t length, void* opaque) -> ssize_t {
      static_cast<Impl*>(opaque)->output({static_cast<const std::uint8_t*>(data), length});
      return static_cast<ssize_t>(length);
    },
    .guest_error = [](const char* message,
                      void* opaque) { static_cast<Impl*>(opaque)->log.guest_error("network: {}", message); },
    .clock_get_ns = [](void*) -> std::int64_t { return static_cast<std::int64_t>(host::monotonic_now()); },
    .timer_new = [](SlirpTimerCb callback, void* callback_opaque, void* opaque) -> void* {
      auto* timer = new SlirpTimer;
      timer->timer =
          static_cast<Impl*>(opaque)->loop.make_timer([callback, callback_opaque] { callback(callback_opaque); });
      return timer;
    },
    .timer_free = [](void* timer, void*) { delete static_cast<SlirpTimer*>(timer); },
    .timer_mod =
        [](void* timer, std::int64_t expire_ms, void*) {
          static_cast<SlirpTimer*>(timer)->timer.arm(static_cast<std::uint64_t>(expire_ms) * 1'000'000);
        },
    .register_poll_fd = [](int, void*) {},
    // Called before it closes one: a new socket may get the same number at once.
    .unregister_poll_fd = [](int fd, void* opaque) { static_cast<Impl*>(opaque)->unregister_fd(fd); },
    .notify = [](void* opaque) { static_cast<Impl*>(opaque)->schedule(); },
    .init_completed = nullptr,
    .timer_new_opaque = nullptr,
};

/// One card's end of the cable.
class UserNetwork::Port final : public core::NetBackend {
 public:
  Port(std::shared_ptr<Impl> impl, mem::LockDomain& domain) : impl_(std::move(impl)) { impl_->domain = &domain; }
  ~Port() override {
    impl_->domain = nullptr;
    impl_->callbacks = {};
  }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload&) override {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->from_guest.size() >= kMostQueued) return;
    impl_->from_guest.emplace_back(frame.begin(), frame.end());
    impl_->post_pump();
  }
  void set_callbacks(Callbacks callbacks) override { impl_->callbacks = std::move(callbacks); }
  void ready_to_receive() override {
    const std::lock_guard lock(impl_->mutex);
    impl_->post_pump();
  }

 private:
  std::shared_ptr<Impl> impl_;
};

Result<std::unique_ptr<UserNetwork>> UserNetwork::create(host::EventLoop& loop, Log& log, UserNetworkOptions options) {
  auto impl = std::make_shared<Impl>(loop, log);
  SlirpConfig config{};
  config.version = 4;
  config.restricted = options.restricted;
  config.in_enabled = options.ipv4;
  config.vnetwork = address("10.0.2.0");
  config.vnetmask = address("255.255.255.0");
  config.vhost = address("10.0.2.2");
  config.in6_enabled = options.ipv6;
  config.vprefix_addr6 = address6("fec0::");
  config.vprefix_len = 64;
  config.vhost6 = address6("fec0::2");
  config.vhostname = options.hostname.empty() ? nullptr : options.hostname.c_str();
  config.vdhcp_start = address("10.0.2.15");
  config.vnameserver = address("10.0.2.3");
  config.vnameserver6 = address6("fec0::3");
  impl->timeout = loop.make_timer([raw = impl.get()] { raw->schedule(); });
  impl->slirp = ::slirp_new(&config, &Impl::kCallbacks, impl.get());
  if (!impl->slirp) return fail("libslirp could not set up a user-mode network");
  for (const PortForward& forward : options.forwards) {
    in_addr host{}, guest = address("10.0.2.15");
    if (!forward.host_address.empty() && ::inet_pton(AF_INET, forward.host_address.c_str(), &host) != 1)
      return fail("port forward: '{}' is no IPv4 address", forward.host_address);
    if (!forward.guest_address.empty() && ::inet_pton(AF_INET, forward.guest_address.c_str(), &guest) != 1)
      return fail("port forward: '{}' is no IPv4 address", forward.guest_address);
    if (::slirp_add_hostfwd(impl->slirp, forward.udp, host, forward.host_port, guest, forward.guest_port) != 0)
      return fail_errno(
          errno, fmt::format("cannot forward {} port {} of the host", forward.udp ? "UDP" : "TCP", forward.host_port));
  }
  impl->fill();
  return std::unique_ptr<UserNetwork>(new UserNetwork(std::move(impl)));
}

UserNetwork::~UserNetwork() = default;

std::unique_ptr<core::NetBackend> UserNetwork::attach(mem::LockDomain& domain) {
  return std::make_unique<Port>(impl_, domain);
}

}  // namespace husk::netdev
