// husk: the guest's network interfaces
#include <linux/fcntl.h>
#include <linux/if.h>
#include <linux/in.h>
#include <linux/route.h>
#include <linux/socket.h>
#include <linux/sockios.h>

#include "setup.h"

namespace husk::guest {
namespace {

constexpr Word kAfInet = 2, kSockDgram = 2;

/// "10.0.2.15" as a network-order number; `text` goes on behind it.
unsigned parse_address(const char*& text) {
  unsigned char bytes[4] = {};
  for (int i = 0; i < 4; ++i) {
    bytes[i] = static_cast<unsigned char>(number(text));
    while (*text >= '0' && *text <= '9') ++text;
    if (*text == '.' || *text == ' ') ++text;
  }
  unsigned value;
  memcpy(&value, bytes, sizeof value);
  return value;
}

void set_address(struct sockaddr& to, unsigned address) {
  sockaddr_in in{};
  in.sin_family = kAfInet;
  in.sin_addr.s_addr = address;
  memcpy(&to, &in, sizeof in);
}

ifreq request(const char* name) {
  ifreq result{};
  memcpy(result.ifr_name, name, strlen(name) + 1);
  return result;
}

}  // namespace

void set_up_network(const Control& control, const Config& config) {
  const Word fd = call(__NR_socket, kAfInet, kSockDgram, 0);
  if (fd < 0) {
    if (config.network) fail(control, "the kernel has no network (CONFIG_INET)", "", fd);
    return;
  }
  ifreq loopback = request("lo");
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  call(__NR_ioctl, fd, SIOCSIFFLAGS, &loopback);
  if (config.network) {
    const char* text = config.network;
    const unsigned address = parse_address(text), gateway = parse_address(text);
    ifreq card = request("eth0");
    set_address(card.ifr_addr, address);
    Word error = call(__NR_ioctl, fd, SIOCSIFADDR, &card);
    unsigned char mask[4] = {255, 255, 255, 0};
    unsigned value;
    memcpy(&value, mask, sizeof value);
    set_address(card.ifr_netmask, value);
    if (!error) error = call(__NR_ioctl, fd, SIOCSIFNETMASK, &card);
    card.ifr_flags = IFF_UP | IFF_RUNNING;
    if (!error) error = call(__NR_ioctl, fd, SIOCSIFFLAGS, &card);
    rtentry route{};
    set_address(route.rt_dst, 0);
    set_address(route.rt_genmask, 0);
    set_address(route.rt_gateway, gateway);
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    if (!error) error = call(__NR_ioctl, fd, SIOCADDRT, &route);
    if (error) fail(control, "cannot set the network card eth0 up (CONFIG_VIRTIO_NET)", "", error);
    // A new file, for it may be a link to one that a daemon of the host writes.
    call(__NR_unlink, "/etc/resolv.conf");
    const Word file = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    Text<128> line;
    line << "nameserver " << text << "\n";
    write(file, line.text(), line.size());
    close(file);
  }
  close(fd);
}

}  // namespace husk::guest
