// husk: a network card of the host's kernel (tap) as the other end of the guest's
#include "netdev/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "host/socket.h"
#include "host/unique_fd.h"
#include "netdev/fd_backend.h"

extern char** environ;

namespace husk::netdev {

namespace {

// struct virtio_net_hdr without num_buffers (virtio 1.2, 5.1.6), little-endian by TUNSETVNETLE.
constexpr std::size_t kHeader = 10;
constexpr std::uint8_t kNeedsChecksum = 1, kDataValid = 2;
constexpr std::uint8_t kGsoNone = 0, kGsoTcp4 = 1, kGsoTcp6 = 4, kGsoEcn = 0x80;
constexpr unsigned kBatch = 64;

using Segmentation = core::NetOffload::Segmentation;

std::array<std::uint8_t, kHeader> header_of(const core::NetOffload& offload) {
  std::array<std::uint8_t, kHeader> header{};
  if (offload.needs_checksum) {
    header[0] = kNeedsChecksum;
    store_le<std::uint16_t>(&header[6], offload.checksum_start);
    store_le<std::uint16_t>(&header[8], offload.checksum_offset);
  } else if (offload.checksum_valid) {
    header[0] = kDataValid;
  }
  if (offload.segmentation == Segmentation::tcp4) header[1] = kGsoTcp4;
  if (offload.segmentation == Segmentation::tcp6) header[1] = kGsoTcp6;
  if (header[1]) {
    if (offload.ecn) header[1] |= kGsoEcn;
    store_le<std::uint16_t>(&header[2], offload.header_length);
    store_le<std::uint16_t>(&header[4], offload.segment_size);
  }
  return header;
}

/// False: of a kind that was never asked for.
bool offload_of(std::span<const std::uint8_t, kHeader> header, core::NetOffload& offload) {
  offload.needs_checksum = header[0] & kNeedsChecksum;
  offload.checksum_valid = header[0] & kDataValid;
  offload.checksum_start = load_le<std::uint16_t>(&header[6]);
  offload.checksum_offset = load_le<std::uint16_t>(&header[8]);
  offload.ecn = header[1] & kGsoEcn;
  offload.header_length = load_le<std::uint16_t>(&header[2]);
  offload.segment_size = load_le<std::uint16_t>(&header[4]);
  switch (header[1] & ~kGsoEcn) {
    case kGsoNone: return true;
    case kGsoTcp4: offload.segmentation = Segmentation::tcp4; return true;
    case kGsoTcp6: offload.segmentation = Segmentation::tcp6; return true;
    default: return false;
  }
}

Result<int> run(const std::vector<std::string>& words, int inherited = -1) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  // Onto itself: that takes the close-on-exec flag away (POSIX.1-2024).
  if (inherited >= 0) ::posix_spawn_file_actions_adddup2(&actions, inherited, inherited);
  pid_t child = -1;
  const int error = ::posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return fail_errno(error, fmt::format("cannot run {}", words[0]));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return fail_errno(errno, fmt::format("lost sight of {}", words[0]));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Status run_script(const std::string& script, const std::string& interface) {
  const int status = HUSK_TRY(run({script, interface}));
  if (status == 0) return {};
  return std::unexpected(Error{fmt::format("the network script {} {} ended with status {}", script, interface, status),
                               "mend it, or give script=no"});
}

Result<host::UniqueFd> open_queue(TapOptions& options) {
  host::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd)
    return std::unexpected(Error{fmt::format("cannot open /dev/net/tun: {}", std::strerror(errno)),
                                 "load the module tun and allow access to it, or use a network of kind user"});
  unsigned features = 0;
  if (::ioctl(fd.get(), TUNGETFEATURES, &features) != 0) return fail_errno(errno, "/dev/net/tun is no tun device");
  if (options.queues > 1 && !(features & IFF_MULTI_QUEUE))
    return std::unexpected(Error{"the host's tap has one queue only", "leave queues out"});
  if (!(features & IFF_VNET_HDR)) options.offloads = false;
  ifreq request{};
  if (options.interface.size() >= sizeof request.ifr_name)
    return std::unexpected(Error{fmt::format("the interface name '{}' is too long", options.interface),
                                 fmt::format("give at most {} bytes", sizeof request.ifr_name - 1)});
  const std::string name = options.interface.empty() ? "tap%d" : options.interface;
  std::copy(name.begin(), name.end(), request.ifr_name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | (options.offloads ? IFF_VNET_HDR : 0) |
                                         (options.queues > 1 ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    const int error = errno;
    const char* next = error == EPERM    ? "make it for this user first: ip tuntap add dev NAME mode tap user NAME"
                       : error == EBUSY  ? "another program has it; give another name"
                       : error == EINVAL ? "it may be no tap, or have another number of queues (multi_queue)"
                                         : "check its name";
    return std::unexpected(
        Error{fmt::format("cannot open the tap interface '{}': {}", options.interface, std::strerror(error)), next});
  }
  options.interface = request.ifr_name;
  return fd;
}

/// What is said of a descriptor that somebody else opened.
Status adopt(int fd, TapOptions& options) {
  ifreq request{};
  if (::ioctl(fd, TUNGETIFF, &request) != 0 || !(request.ifr_flags & IFF_TAP))
    return std::unexpected(Error{fmt::format("descriptor {} is no tap interface", fd),
                                 "open /dev/net/tun with IFF_TAP and IFF_NO_PI, and pass that"});
  const bool header = request.ifr_flags & IFF_VNET_HDR;
  if (&options.descriptors.front() != &options.descriptors.back() && fd != options.descriptors.front() &&
      header != options.offloads)
    return fail("the descriptors of the tap differ in IFF_VNET_HDR");
  options.offloads = header;
  options.interface = request.ifr_name;
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return host::set_nonblocking(fd, true);
}

/// QEMU's protocol: the helper makes the tap, puts it on the bridge and sends its descriptor over a unix socket.
Result<host::UniqueFd> ask_helper(const TapOptions& options) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return fail_errno(errno, "socketpair");
  const host::UniqueFd ours(ends[0]);
  host::UniqueFd theirs(ends[1]);
  const std::string fd = fmt::format("--fd={}", theirs.get()), bridge = "--br=" + options.bridge;
  // A helper with words of its own goes through a shell, as in QEMU.
  std::vector<std::string> words = {options.helper, "--use-vnet", fd, bridge};
  if (options.helper.find_first_of(" \t") != std::string::npos)
    words = {"/bin/sh", "-c", fmt::format("{} --use-vnet {} {}", options.helper, fd, bridge)};
  const int status = HUSK_TRY(run(words, theirs.get()));
  theirs.reset();
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (status == 0 && ::recvmsg(ours.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) == 1)
    for (cmsghdr* one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
      if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_RIGHTS) {
        int received = -1;
        std::memcpy(&received, CMSG_DATA(one), sizeof received);
        return host::UniqueFd(received);
      }
  return std::unexpected(Error{
      fmt::format("the bridge helper {} made no interface on {} (status {})", options.helper, options.bridge, status),
      "see that the bridge is there and /etc/qemu/bridge.conf allows it"});
}

class Tap final : public FdBackend {
 public:
  Tap(host::EventLoop& loop, Log& log, mem::LockDomain& domain, TapOptions options)
      : FdBackend(loop, domain), log_(log), options_(std::move(options)) {}
  ~Tap() override {
    for (Queue& queue : queues_) queue.watch.reset();
    if (!up_ || options_.down_script.empty()) return;
    if (auto done = run_script(options_.down_script, options_.interface); !done)
      log_.warning("{}", done.error().text());
  }

  Status open();
  core::NetCapabilities capabilities() const override { return {options_.offloads, options_.offloads}; }
  void set_receive_offloads(const core::NetReceiveOffloads& wanted) override {
    if (!options_.offloads) return;
    unsigned long flags = wanted.checksum ? TUN_F_CSUM : 0u;
    if (wanted.checksum && wanted.tcp4) flags |= TUN_F_TSO4;
    if (wanted.checksum && wanted.tcp6) flags |= TUN_F_TSO6;
    if (flags & (TUN_F_TSO4 | TUN_F_TSO6) && wanted.ecn) flags |= TUN_F_TSO_ECN;
    // They belong to the interface; one queue is as good as another.
    if (::ioctl(queues_.front().fd.get(), TUNSETOFFLOAD, flags) != 0)
      log_.warning("tap {}: the host takes no offloads: {}", options_.interface, std::strerror(errno));
  }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload& offload) override {
    auto header = header_of(offload);
    const iovec parts[2] = {{header.data(), header.size()}, {const_cast<std::uint8_t*>(frame.data()), frame.size()}};
    const Queue& queue = queues_[offload.queue.value_or(0) % queues_.size()];
    // A frame that the host refuses (EINVAL), or has no room for, is lost, as on a wire.
    const bool whole = options_.offloads;
    while (::writev(queue.fd.get(), whole ? parts : parts + 1, whole ? 2 : 1) < 0 && errno == EINTR) {
    }
  }

 private:
  struct Queue {
    host::UniqueFd fd;
    host::EventLoop::Watch watch;
    std::vector<std::uint8_t> buffer;
    std::size_t held = 0;  ///< bytes of a frame that the card had no room for
  };

  void ready(std::size_t index) {
    Queue& queue = queues_[index];
    // Nothing is waited for while a frame is held: the interface is gone.
    if (queue.held) return lost(queue, "an error");
    for (unsigned i = 0; i < kBatch; ++i) {
      const ssize_t got = ::read(queue.fd.get(), queue.buffer.data(), queue.buffer.size());
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (got <= 0) return lost(queue, got < 0 ? std::strerror(errno) : "end of file");
      if (deliver(index, static_cast<std::size_t>(got))) continue;
      queue.held = static_cast<std::size_t>(got);
      return queue.watch.set_interest(0);
    }
  }
  void lost(Queue& queue, std::string_view why) {
    log_.warning("tap {} is gone: {}", options_.interface, why);
    queue.watch.reset();
    set_link(false);
  }
  bool deliver(std::size_t index, std::size_t length) {
    std::span<const std::uint8_t> frame(queues_[index].buffer.data(), length);
    core::NetOffload offload;
    if (options_.offloads) {
      if (length < kHeader || !offload_of(frame.first<kHeader>(), offload)) return true;
      frame = frame.subspan(kHeader);
    }
    if (queues_.size() > 1) offload.queue = static_cast<std::uint16_t>(index);
    return offer(frame, offload);
  }
  void resume() override {
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      Queue& queue = queues_[i];
      if (!queue.held || !deliver(i, queue.held)) continue;
      queue.held = 0;
      if (queue.watch) queue.watch.set_interest(host::EventLoop::kReadable);
    }
  }

  Log& log_;
  TapOptions options_;
  bool up_ = false;
  std::vector<Queue> queues_;
};

Status Tap::open() {
  std::vector<host::UniqueFd> opened;
  for (const int fd : options_.descriptors) opened.emplace_back(fd);
  if (!options_.descriptors.empty()) {
    for (const int fd : options_.descriptors) HUSK_TRY(adopt(fd, options_));
  } else if (!options_.helper.empty()) {
    opened.push_back(HUSK_TRY(ask_helper(options_)));
    options_.descriptors = {opened.front().get()};
    HUSK_TRY(adopt(opened.front().get(), options_));
  } else {
    for (unsigned i = 0; i < options_.queues; ++i) opened.push_back(HUSK_TRY(open_queue(options_)));
  }
  for (host::UniqueFd& fd : opened) {
    if (options_.offloads) {
      int size = kHeader, little = 1;
      if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &size) != 0 || ::ioctl(fd.get(), TUNSETVNETLE, &little) != 0)
        return fail_errno(errno, "the tap takes no header of 10 bytes");
    }
    queues_.push_back({.fd = std::move(fd), .watch = {}, .buffer = std::vector<std::uint8_t>(kMostFrame + kHeader)});
  }
  set_receive_offloads({});
  if (!options_.script.empty()) HUSK_TRY(run_script(options_.script, options_.interface));
  up_ = true;
  for (std::size_t i = 0; i < queues_.size(); ++i)
    queues_[i].watch = HUSK_TRY(
        loop_.watch(queues_[i].fd.get(), host::EventLoop::kReadable, [this, i](host::EventLoop::Events) { ready(i); }));
  return {};
}

}  // namespace

Result<std::unique_ptr<core::NetBackend>> open_tap(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                   TapOptions options) {
  options.queues = std::clamp(options.queues, 1u, kMostTapQueues);
  auto tap = std::make_unique<Tap>(loop, log, domain, std::move(options));
  HUSK_TRY(tap->open());
  return tap;
}

}  // namespace husk::netdev
