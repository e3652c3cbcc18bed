// husk: user-mode networking by libslirp: a NAT router, DHCP and DNS server in this process, without any rights
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "core/net_backend.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::netdev {

struct PortForward {
  bool udp = false;
  std::string host_address = {};  ///< IPv4; empty: every address of the host
  std::uint16_t host_port = 0;
  std::string guest_address = {};  ///< empty: the address that DHCP gives first, 10.0.2.15
  std::uint16_t guest_port = 0;
};

struct UserNetworkOptions {
  bool restricted = false;  ///< the guest reaches nothing but what is forwarded to it
  bool ipv4 = true;
  bool ipv6 = true;
  std::string hostname = {};  ///< told to the guest by DHCP
  std::vector<PortForward> forwards = {};
};

/// The network 10.0.2.0/24 (and fec0::/64) with the host at .2, DNS at .3 and guests from .15 on: QEMU's addresses.
/// Lives on the loop's thread; the backend that it gives out belongs to one card.
class UserNetwork {
 public:
  static Result<std::unique_ptr<UserNetwork>> create(host::EventLoop& loop, Log& log, UserNetworkOptions options);
  ~UserNetwork();
  UserNetwork(const UserNetwork&) = delete;
  UserNetwork& operator=(const UserNetwork&) = delete;

  /// The end of the cable for one card, called and calling back with `domain` held. Must go before the network does.
  std::unique_ptr<core::NetBackend> attach(mem::LockDomain& domain);

 private:
  struct Impl;
  class Port;
  explicit UserNetwork(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace husk::netdev
