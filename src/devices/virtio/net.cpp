// husk: virtio-net
#include "devices/virtio/net.h"

#include <algorithm>

#include "base/bits.h"
#include "base/check.h"
#include "devices/virtio/net_offload.h"

namespace husk::devices::virtio {

namespace {
constexpr unsigned kConfigBytes = 12;
constexpr std::uint16_t kLinkUp = 1, kAnnounce = 2;
// struct virtio_net_hdr (5.1.6).
constexpr std::uint8_t kNeedsChecksum = 1, kDataValid = 2;
constexpr std::uint8_t kGsoTcp4 = 1, kGsoTcp6 = 4, kGsoEcn = 0x80;
constexpr std::size_t kShortHeader = 10, kHeader = 12;
/// An IPv6 jumbo frame of 64 KiB with its Ethernet and VLAN headers; longer ones are no frames.
constexpr std::size_t kMostFrame = 65535 + 18 + 40;
constexpr std::size_t kEthernet = 14;
constexpr std::size_t kMacEntries = 64;
constexpr std::uint8_t kAckOk = 0, kAckError = 1;
constexpr std::size_t kMostControl = 4096;

constexpr std::uint64_t flag(unsigned n) { return std::uint64_t{1} << n; }
constexpr std::uint64_t kReceiveOffloads =
    flag(Net::kGuestCsum) | flag(Net::kGuestTso4) | flag(Net::kGuestTso6) | flag(Net::kGuestEcn);

/// 5.1.3.1: which features need which, any one of them.
std::uint64_t without_orphans(std::uint64_t features) {
  static constexpr struct {
    unsigned feature;
    std::uint64_t needs;
  } kNeeds[] = {{Net::kGuestTso4, flag(Net::kGuestCsum)},
                {Net::kGuestTso6, flag(Net::kGuestCsum)},
                {Net::kGuestEcn, flag(Net::kGuestTso4) | flag(Net::kGuestTso6)},
                {Net::kHostTso4, flag(Net::kCsum)},
                {Net::kHostTso6, flag(Net::kCsum)},
                {Net::kHostEcn, flag(Net::kHostTso4) | flag(Net::kHostTso6)},
                {Net::kControlRx, flag(Net::kControlQueue)},
                {Net::kControlVlan, flag(Net::kControlQueue)},
                {Net::kControlRxExtra, flag(Net::kControlQueue)},
                {Net::kControlOffloads, flag(Net::kControlQueue)},
                {Net::kGuestAnnounce, flag(Net::kControlQueue)},
                {Net::kMultiQueue, flag(Net::kControlQueue)},
                {Net::kControlMac, flag(Net::kControlQueue)}};
  for (const auto& [feature, needs] : kNeeds)
    if (!(features & needs)) features &= ~flag(feature);
  return features;
}

VirtioDevice::Traits traits_of(const core::NetBackend* backend, const Net::Config& config) {
  HUSK_CHECK(config.pairs >= 1 && config.pairs <= Net::kMostPairs);
  using N = Net;
  std::uint64_t features = flag(N::kMac) | flag(N::kStatus) | flag(N::kMergeable) | flag(N::kControlQueue) |
                           flag(N::kControlRx) | flag(N::kControlVlan) | flag(N::kControlRxExtra) |
                           flag(N::kGuestAnnounce) | flag(N::kControlMac) | flag(N::kControlOffloads) | flag(N::kCsum) |
                           flag(N::kGuestCsum) | flag(N::kHostTso4) | flag(N::kHostTso6) | flag(N::kHostEcn);
  if (config.mtu) features |= flag(N::kMtu);
  if (config.pairs > 1) features |= flag(N::kMultiQueue);
  // Only what comes segmented can be left to the driver.
  if (backend && backend->capabilities().segmentation)
    features |= flag(N::kGuestTso4) | flag(N::kGuestTso6) | flag(N::kGuestEcn);
  features = without_orphans(features & ~config.withheld);
  return {.type = DeviceType::net,
          .features = features,
          .queue_sizes = std::vector<std::uint16_t>(config.pairs * 2 + 1, config.queue_size),
          .config_size = kConfigBytes,
          .ring = config.ring};
}
}  // namespace

Net::Net(Environment environment, core::NetBackend* backend, Config config)
    : Base(config.id, environment, traits_of(backend, config)), backend_(backend), config_(std::move(config)) {
  state_.mac = config_.mac;
  state_.link_up = backend_ && backend_->link_up();
  if (backend_)
    backend_->set_callbacks({[this](std::span<const std::uint8_t> frame, const core::NetOffload& offload) {
                               return receive(frame, offload);
                             },
                             [this](bool up) { set_link(up); }});
}

Net::~Net() {
  if (backend_) backend_->set_callbacks({});
}

void Net::device_reset() {
  NetState fresh;
  fresh.common = std::move(state_.common);
  fresh.mac = config_.mac;
  fresh.link_up = state_.link_up;
  // The queues point into the vector that was moved, whose elements stay where they are.
  state_ = std::move(fresh);
  if (backend_) backend_->set_receive_offloads({});
}

void Net::start() {
  stopped_ = false;
  if (backend_) backend_->ready_to_receive();
}

void Net::quiesce(std::function<void()> done) {
  stopped_ = true;
  Base::quiesce(std::move(done));
}

void Net::activated() {
  if (!backend_) return;
  tell_backend();
  backend_->ready_to_receive();
}

void Net::tell_backend() {
  if (backend_)
    backend_->set_receive_offloads(
        {.checksum = takes(kGuestCsum), .tcp4 = takes(kGuestTso4), .tcp6 = takes(kGuestTso6), .ecn = takes(kGuestEcn)});
}

Status Net::validate_device(const NetState& incoming) const {
  if (incoming.pairs < 1 || incoming.pairs > config_.pairs)
    return fail("the saved state uses {} queue pairs of {}", incoming.pairs, config_.pairs);
  if (incoming.unicast.size() > kMacEntries || incoming.multicast.size() > kMacEntries)
    return fail("the saved filter has more than {} addresses", kMacEntries);
  if (incoming.offloads_off & ~kReceiveOffloads)
    return fail("the saved state switches off {:#x}, which are no receive offloads", incoming.offloads_off);
  return {};
}

void Net::fill_config(std::span<std::uint8_t> bytes) {
  std::copy(state_.mac.begin(), state_.mac.end(), bytes.begin());
  store_le<std::uint16_t>(
      &bytes[6], static_cast<std::uint16_t>((state_.link_up ? kLinkUp : 0) | (state_.announce ? kAnnounce : 0)));
  store_le<std::uint16_t>(&bytes[8], static_cast<std::uint16_t>(config_.pairs));
  store_le<std::uint16_t>(&bytes[10], config_.mtu);
}

void Net::config_written(std::uint64_t offset, std::uint64_t value, unsigned size) {
  // 5.1.4.1: the address is writable for legacy drivers without CTRL_MAC_ADDR.
  if (!legacy() || negotiated_bit(kControlMac)) return;
  for (unsigned i = 0; i < size; ++i)
    if (offset + i < 6) state_.mac[offset + i] = static_cast<std::uint8_t>(value >> (i * 8));
}

void Net::set_link(bool up) {
  if (state_.link_up == up) return;
  state_.link_up = up;
  config_changed();
}

void Net::announce() {
  if (!negotiated_bit(kGuestAnnounce)) return;
  state_.announce = true;
  config_changed();
}

unsigned Net::control_queue() const { return negotiated_bit(kMultiQueue) ? config_.pairs * 2 : 2; }

std::size_t Net::header_size() const { return !legacy() || negotiated_bit(kMergeable) ? kHeader : kShortHeader; }

void Net::handle_queue(unsigned index) {
  if (negotiated_bit(kControlQueue) && index == control_queue()) {
    drain_queue(index, [&](Chain& chain) {
      const std::uint8_t ack = control(chain);
      give(index, chain, chain.write(0, {&ack, 1}));
      return true;
    });
  } else if (index % 2 == 0) {
    // New receive buffers. Notifications stay off until there is something for which there was no room.
    if (queue(index).available()) {
      queue(index).disable_notifications();
      if (backend_) backend_->ready_to_receive();
    } else {
      queue(index).enable_notifications();
    }
  } else {
    drain_queue(index, [&](Chain& chain) {
      transmit(chain, index / 2);
      give(index, chain, 0);
      return true;
    });
  }
}

// ---- sending ----

void Net::transmit(const Chain& chain, unsigned pair) {
  const std::size_t header_bytes = header_size();
  if (chain.readable_bytes() < header_bytes + kEthernet || chain.readable_bytes() > header_bytes + kMostFrame) return;
  std::uint8_t header[kHeader];
  chain.read(0, {header, header_bytes});
  frame_.resize(static_cast<std::size_t>(chain.readable_bytes()) - header_bytes);
  chain.read(header_bytes, frame_);
  if (!backend_ || !state_.link_up) return;

  core::NetOffload offload;
  if (config_.pairs > 1) offload.queue = static_cast<std::uint16_t>(pair);
  offload.needs_checksum = header[0] & kNeedsChecksum;
  offload.checksum_start = load_le<std::uint16_t>(header + 6);
  offload.checksum_offset = load_le<std::uint16_t>(header + 8);
  offload.ecn = header[1] & kGsoEcn;
  offload.segment_size = load_le<std::uint16_t>(header + 4);
  offload.header_length = load_le<std::uint16_t>(header + 2);
  using Segmentation = core::NetOffload::Segmentation;
  switch (header[1] & ~kGsoEcn) {
    case 0: break;
    case kGsoTcp4: offload.segmentation = Segmentation::tcp4; break;
    case kGsoTcp6: offload.segmentation = Segmentation::tcp6; break;
    default: return;  // not offered
  }
  const core::NetCapabilities can = backend_->capabilities();
  if (offload.segmentation != Segmentation::none && !can.segmentation) {
    segment_tcp(frame_, offload,
                [&](std::span<const std::uint8_t> segment) { backend_->send(segment, {.queue = offload.queue}); });
    return;
  }
  if (offload.needs_checksum && !can.checksum) {
    if (!complete_checksum(frame_, offload)) return;
    offload.needs_checksum = false;
  }
  backend_->send(frame_, offload);
}

// ---- receiving ----

bool Net::wanted(std::span<const std::uint8_t> frame) const {
  if (negotiated_bit(kControlVlan) && load_be<std::uint16_t>(&frame[12]) == 0x8100 && frame.size() >= 16) {
    const unsigned id = load_be<std::uint16_t>(&frame[14]) & 0xFFF;
    if (!bit(state_.vlans[id / 32], id % 32)) return false;
  }
  if (state_.promiscuous) return true;
  MacAddress to;
  std::copy_n(frame.begin(), to.size(), to.begin());
  static constexpr MacAddress kBroadcast{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
  if (to == kBroadcast) return !state_.no_broadcast;
  const auto listed = [&](const std::vector<MacAddress>& list) {
    return std::find(list.begin(), list.end(), to) != list.end();
  };
  if (to[0] & 1)
    return !state_.no_multicast && (state_.all_multicast || state_.multicast_overflow || listed(state_.multicast));
  return !state_.no_unicast &&
         (to == state_.mac || state_.all_unicast || state_.unicast_overflow || listed(state_.unicast));
}

bool Net::receive(std::span<const std::uint8_t> frame, const core::NetOffload& offload) {
  // What nobody can take is gone, as on a wire; only a lack of buffers holds it back.
  if (!driver_ok() || !state_.link_up || frame.size() < kEthernet || frame.size() > kMostFrame || !wanted(frame))
    return true;
  if (stopped_) return false;
  if (offload.segmentation != core::NetOffload::Segmentation::none && !takes_segmented(offload)) {
    // As many as there is room for; TCP sends the others again.
    segment_tcp(frame, offload, [&](std::span<const std::uint8_t> segment) {
      receive(segment, {.checksum_valid = true, .queue = offload.queue});
    });
    return true;
  }
  if (offload.needs_checksum && !takes(kGuestCsum)) {
    completed_.assign(frame.begin(), frame.end());
    if (!complete_checksum(completed_, offload)) return true;
    return receive(completed_, {.queue = offload.queue});
  }
  unsigned pair = 0;
  if (offload.queue) {
    pair = *offload.queue % state_.pairs;
  } else if (state_.pairs > 1 && frame.size() >= 38) {
    // A flow stays on one queue: addresses and ports of IPv4 without options.
    std::uint32_t hash = 0;
    for (std::size_t i = 26; i < 38; ++i) hash = hash * 31 + frame[i];
    pair = hash % state_.pairs;
  }
  if (!usable(pair * 2)) return true;
  return store_frame(pair * 2, frame, offload);
}

bool Net::takes_segmented(const core::NetOffload& offload) const {
  const bool v6 = offload.segmentation == core::NetOffload::Segmentation::tcp6;
  if (offload.segmentation == core::NetOffload::Segmentation::udp) return false;
  return takes(v6 ? kGuestTso6 : kGuestTso4) && (!offload.ecn || takes(kGuestEcn));
}

bool Net::store_frame(unsigned index, std::span<const std::uint8_t> frame, const core::NetOffload& offload) {
  Queue& rx = queue(index);
  std::uint8_t header[kHeader] = {};
  const std::size_t header_bytes = header_size();
  if (offload.needs_checksum) {
    header[0] = kNeedsChecksum;
    store_le<std::uint16_t>(header + 6, offload.checksum_start);
    store_le<std::uint16_t>(header + 8, offload.checksum_offset);
  } else if (offload.checksum_valid && takes(kGuestCsum)) {
    header[0] = kDataValid;
  }
  using Segmentation = core::NetOffload::Segmentation;
  if (offload.segmentation == Segmentation::tcp4) header[1] = kGsoTcp4;
  if (offload.segmentation == Segmentation::tcp6) header[1] = kGsoTcp6;
  if (header[1] && offload.ecn) header[1] |= kGsoEcn;
  if (header[1]) store_le<std::uint16_t>(header + 4, offload.segment_size);
  if (header[1]) store_le<std::uint16_t>(header + 2, offload.header_length);

  const std::uint64_t needed = header_bytes + frame.size();
  std::uint64_t room = 0;
  std::size_t count = 0;
  const bool merge = negotiated_bit(kMergeable);
  while (room < needed) {
    if (count == chains_.size()) chains_.emplace_back();
    if (count == (merge ? 64 : 1) || !take(index, chains_[count])) break;
    room += chains_[count++].writable_bytes();
  }
  if (room < needed) {
    if (count && !merge) {
      // A single buffer that is too small for the frame: dropped, and the buffer serves the next one (5.1.6.3.2).
      rx.unpop(chains_[0]);
      return true;
    }
    while (count) rx.unpop(chains_[--count]);
    // Tell us of the next buffer; if it came meanwhile, the frame is offered again at once.
    if (usable(index) && rx.enable_notifications()) handle_later(index);
    return !usable(index);
  }
  store_le<std::uint16_t>(header + 10, static_cast<std::uint16_t>(count));
  std::uint64_t done = 0;  // of header and frame
  for (std::size_t i = 0; i < count; ++i) {
    const Chain& chain = chains_[i];
    std::uint64_t written = 0;
    if (i == 0) written = chain.write(0, {header, header_bytes});
    if (i == 0 && written < header_bytes) {
      // A first buffer shorter than the header: no driver that follows 5.1.6.3.1 makes one.
      needs_reset("a receive buffer is shorter than the header");
      return true;
    }
    if (i == 0) done = header_bytes;
    written += chain.write(written, frame.subspan(static_cast<std::size_t>(done - header_bytes)));
    done += written - (i == 0 ? header_bytes : 0);
    rx.stage(chain, static_cast<std::uint32_t>(written));
  }
  rx.publish();
  interrupt_queue(index);
  return true;
}

// ---- control ----

std::uint8_t Net::control(const Chain& chain) {
  if (chain.readable_bytes() < 2 || chain.readable_bytes() > kMostControl) return kAckError;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(chain.readable_bytes()));
  chain.read(0, bytes);
  const std::uint8_t command = bytes[1];
  const std::span<const std::uint8_t> data(bytes.data() + 2, bytes.size() - 2);
  switch (bytes[0]) {
    case 0: return control_rx(command, data);
    case 1: return control_mac(command, data);
    case 2: return control_vlan(command, data);
    case 3:
      if (command != 0 || !state_.announce) return kAckError;
      state_.announce = false;
      return kAckOk;
    case 4: {
      if (command != 0 || data.size() != 2 || !negotiated_bit(kMultiQueue)) return kAckError;
      const auto pairs = load_le<std::uint16_t>(data.data());
      if (pairs < 1 || pairs > config_.pairs) return kAckError;
      state_.pairs = pairs;
      return kAckOk;
    }
    case 5: return control_offloads(command, data);
    default: return kAckError;
  }
}

std::uint8_t Net::control_offloads(std::uint8_t command, std::span<const std::uint8_t> data) {
  if (command != 0 || data.size() != 8 || !negotiated_bit(kControlOffloads)) return kAckError;
  // 5.1.6.5.6.1: the bits that shall be on, of those negotiated.
  const auto wanted = load_le<std::uint64_t>(data.data());
  if (wanted & ~(driver_features() & kReceiveOffloads)) return kAckError;
  state_.offloads_off = driver_features() & kReceiveOffloads & ~wanted;
  tell_backend();
  return kAckOk;
}

std::uint8_t Net::control_rx(std::uint8_t command, std::span<const std::uint8_t> data) {
  if (data.size() != 1) return kAckError;
  bool* const flags[] = {&state_.promiscuous,  &state_.all_multicast, &state_.all_unicast,
                         &state_.no_multicast, &state_.no_unicast,    &state_.no_broadcast};
  if (command >= std::size(flags)) return kAckError;
  *flags[command] = data[0] != 0;
  return kAckOk;
}

std::uint8_t Net::control_mac(std::uint8_t command, std::span<const std::uint8_t> data) {
  if (command == 1) {
    if (data.size() != 6) return kAckError;
    std::copy(data.begin(), data.end(), state_.mac.begin());
    return kAckOk;
  }
  if (command != 0) return kAckError;
  // Two lists, unicast and multicast: a 32-bit count and so many addresses each.
  std::vector<MacAddress> lists[2];
  bool overflow[2] = {};
  for (unsigned i = 0; i < 2; ++i) {
    if (data.size() < 4) return kAckError;
    const auto count = load_le<std::uint32_t>(data.data());
    data = data.subspan(4);
    if (count > data.size() / 6) return kAckError;
    overflow[i] = count > kMacEntries;
    for (std::uint32_t n = 0; n < count && !overflow[i]; ++n) {
      MacAddress& one = lists[i].emplace_back();
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(n * 6), 6, one.begin());
    }
    data = data.subspan(std::size_t{count} * 6);
  }
  if (!data.empty()) return kAckError;
  state_.unicast = std::move(lists[0]);
  state_.multicast = std::move(lists[1]);
  state_.unicast_overflow = overflow[0];
  state_.multicast_overflow = overflow[1];
  return kAckOk;
}

std::uint8_t Net::control_vlan(std::uint8_t command, std::span<const std::uint8_t> data) {
  if (data.size() != 2 || command > 1) return kAckError;
  const unsigned id = load_le<std::uint16_t>(data.data());
  if (id > 0xFFF) return kAckError;
  const std::uint32_t mask = 1u << (id % 32);
  std::uint32_t& word = state_.vlans[id / 32];
  word = command == 0 ? word | mask : word & ~mask;
  return kAckOk;
}

}  // namespace husk::devices::virtio
