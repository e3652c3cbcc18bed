// husk: character devices on unix and TCP sockets
#include "chardev/socket_device.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>

#include "host/socket.h"

namespace husk::chardev {
namespace {

using host::EventLoop;
using host::UniqueFd;

class SocketChardev : public StreamChardev {
 protected:
  SocketChardev(EventLoop& loop, std::string id, std::string description, Environment environment,
                const SocketSpec& spec)
      : StreamChardev(loop, std::move(id), std::move(description), std::move(environment)), spec_(spec) {}

  /// Returns false if it cannot be used.
  bool open_socket(UniqueFd socket) {
    if (spec_.no_delay) host::set_no_delay(socket.get());
    StreamEnds ends;
    ends.out = UniqueFd(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
    if (!ends.out) {
      warn(fail_errno(errno, "cannot duplicate a socket").error().text());
      return false;
    }
    ends.in = std::move(socket);
    ends.socket = true;
    ends.telnet = spec_.telnet;
    ends.input_end_is_disconnect = true;
    open(std::move(ends));
    return true;
  }

  const SocketSpec spec_;
};

/// Serves one client at a time; the next ones wait in the listen queue.
class ServerChardev : public SocketChardev {
 public:
  static Result<std::unique_ptr<StreamChardev>> create(EventLoop& loop, const std::string& id, const SocketSpec& spec,
                                                       Environment environment) {
    host::Listener listener = HUSK_TRY(host::Listener::listen(spec.address));
    std::string description = host::to_text(listener.address()) + ", server";
    std::unique_ptr<ServerChardev> device(
        new ServerChardev(loop, id, std::move(description), std::move(environment), spec, std::move(listener)));
    device->wait_for_client();
    return device;
  }
  bool ready() const override { return !spec_.wait || served_; }

 private:
  static constexpr std::uint64_t kRetryNs = 1'000'000'000;

  ServerChardev(EventLoop& loop, std::string id, std::string description, Environment environment,
                const SocketSpec& spec, host::Listener listener)
      : SocketChardev(loop, std::move(id), std::move(description), std::move(environment), spec),
        listener_(std::move(listener)),
        retry_(loop.make_timer([this] { wait_for_client(); })) {}

  void wait_for_client() {
    auto watch = loop_.watch(listener_.fd(), EventLoop::kReadable, [this](EventLoop::Events) { accept(); });
    if (watch)
      accepting_ = std::move(*watch);
    else
      retry_.arm_after(kRetryNs);
  }
  void accept() {
    auto client = listener_.accept();
    if (client && !*client) return;
    accepting_.reset();
    if (client) {
      served_ = true;
      if (open_socket(std::move(**client))) return;
    } else {
      warn(client.error().text());
    }
    // Out of descriptors, most likely: the listener would report the same client without end.
    retry_.arm_after(kRetryNs);
  }
  void disconnected() override { wait_for_client(); }

  host::Listener listener_;
  EventLoop::Watch accepting_;
  EventLoop::Timer retry_;
  bool served_ = false;
};

class ClientChardev : public SocketChardev {
 public:
  static Result<std::unique_ptr<StreamChardev>> create(EventLoop& loop, const std::string& id, const SocketSpec& spec,
                                                       Environment environment) {
    std::unique_ptr<ClientChardev> device(
        new ClientChardev(loop, id, host::to_text(spec.address), std::move(environment), spec));
    // Only who asked for reconnection finds a server that is not there yet acceptable.
    if (spec.reconnect_s)
      device->begin();
    else
      device->open_socket(HUSK_TRY(host::connect_socket(spec.address)));
    return device;
  }

 private:
  ClientChardev(EventLoop& loop, std::string id, std::string description, Environment environment,
                const SocketSpec& spec)
      : SocketChardev(loop, std::move(id), std::move(description), std::move(environment), spec),
        retry_(loop.make_timer([this] { begin(); })) {}

  void retry_later() { retry_.arm_after(std::uint64_t{spec_.reconnect_s} * 1'000'000'000u); }

  void begin() {
    auto connecting = host::Connecting::begin(spec_.address);
    if (!connecting) {
      retry_later();
      return;
    }
    connecting_ = std::move(*connecting);
    watch_connecting();
  }
  void watch_connecting() {
    auto watch = loop_.watch(connecting_->fd(), EventLoop::kWritable, [this](EventLoop::Events) { progress(); });
    if (watch)
      watch_ = std::move(*watch);
    else
      retry_later();
  }
  void progress() {
    watch_.reset();
    auto socket = connecting_->finish();
    if (socket && !*socket) {  // the next address of the name
      watch_connecting();
      return;
    }
    connecting_.reset();
    if (!socket || !open_socket(std::move(**socket))) retry_later();
  }
  void disconnected() override {
    if (spec_.reconnect_s) retry_later();
  }

  EventLoop::Timer retry_;
  std::optional<host::Connecting> connecting_;
  EventLoop::Watch watch_;
};

}  // namespace

Result<std::unique_ptr<StreamChardev>> create_socket(EventLoop& loop, const std::string& id, const SocketSpec& spec,
                                                     Environment environment) {
  if (spec.server) return ServerChardev::create(loop, id, spec, std::move(environment));
  return ClientChardev::create(loop, id, spec, std::move(environment));
}

}  // namespace husk::chardev
