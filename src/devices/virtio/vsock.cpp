// husk: virtio-vsock
#include "devices/virtio/vsock.h"

#include <algorithm>
#include <array>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
constexpr unsigned kReceive = 0, kTransmit = 1, kEvents = 2;
constexpr std::uint64_t kFeatureStream = 1, kFeatureSeqpacket = 2;
constexpr std::size_t kHeaderBytes = 44;
/// Of one packet either way; Linux' largest.
constexpr std::size_t kMostPacket = 64 << 10;
// Operations (5.10.6).
constexpr std::uint16_t kRequest = 1, kResponse = 2, kReset = 3, kShutdown = 4, kReadWrite = 5, kCreditUpdate = 6,
                        kCreditRequest = 7;
// Flags of SHUTDOWN, and of RW with seqpacket.
constexpr std::uint32_t kNoReceive = 1, kNoSend = 2;
constexpr std::uint32_t kEndOfMessage = 1;
/// Where ports of the host for connections from there begin; those below belong to services.
constexpr std::uint32_t kFirstPort = 1u << 30;

VirtioDevice::Traits traits_of(const Vsock::Config& config) {
  return {.type = DeviceType::vsock,
          .features = kFeatureStream | kFeatureSeqpacket,
          .queue_sizes = {config.queue_size, config.queue_size, config.queue_size},
          .config_size = 8,
          .ring = config.ring};
}
}  // namespace

struct Vsock::Header {
  std::uint64_t from, to;
  Ports ports;  ///< of a packet from the guest
  std::uint32_t length;
  std::uint16_t type, op;
  std::uint32_t flags, buffer, forwarded;
};

Result<std::unique_ptr<Vsock>> Vsock::create(Environment environment, core::VsockBackend& backend, Config config) {
  if (config.guest_cid <= kHostCid || config.guest_cid >= 0xFFFFFFFF)
    return fail("{}: the context id {} is reserved, or no number of 32 bits", config.id, config.guest_cid);
  return std::unique_ptr<Vsock>(new Vsock(environment, backend, std::move(config)));
}

Vsock::Vsock(Environment environment, core::VsockBackend& backend, Config config)
    : Base(config.id, environment, traits_of(config)),
      backend_(backend),
      config_(std::move(config)),
      next_port_(kFirstPort),
      scratch_(kMostPacket) {
  backend_.set_callbacks({.incoming = [this](std::uint32_t port, Kind kind) { return incoming(port, kind); },
                          .readable =
                              [this](Ports ports) {
                                list_readable(ports);
                                fill_receive_queue();
                              },
                          .forwarded =
                              [this](Ports ports, std::size_t bytes) {
                                const auto found = connections_.find(ports);
                                if (found == connections_.end()) return;
                                note_forwarded(ports, found->second, bytes);
                                fill_receive_queue();
                              },
                          .gone =
                              [this](Ports ports) {
                                const auto found = connections_.find(ports);
                                if (found == connections_.end()) return;
                                Connection& connection = found->second;
                                if (connection.phase == Phase::requested) {
                                  reset_connection(ports, static_cast<std::uint16_t>(connection.kind));
                                } else {
                                  // What is there to be read goes first: its end says that nobody listens.
                                  connection.guest_ended = true;
                                  if (connection.host_ended)
                                    answer(ports, static_cast<std::uint16_t>(connection.kind), kShutdown,
                                           kNoReceive | kNoSend);
                                  else
                                    list_readable(ports);
                                }
                                fill_receive_queue();
                              }});
}

Vsock::~Vsock() {
  drop_all();
  backend_.set_callbacks({});
}

void Vsock::fill_config(std::span<std::uint8_t> bytes) { store_le<std::uint64_t>(bytes.data(), config_.guest_cid); }

void Vsock::drop(Ports ports) {
  if (connections_.erase(ports)) backend_.close(ports);
}
void Vsock::drop_all() {
  while (!connections_.empty()) drop(connections_.begin()->first);
  ready_.clear();
  answers_.clear();
  held_up_ = false;
}
void Vsock::device_reset() {
  drop_all();
  owed_event_ = false;
  state_.interrupted = false;
}
void Vsock::loaded() {
  drop_all();
  owed_event_ = state_.interrupted;
}

void Vsock::start() {
  stopped_ = false;
  fill_receive_queue();
}

void Vsock::quiesce(std::function<void()> done) {
  stopped_ = true;
  Base::quiesce(std::move(done));
}

void Vsock::handle_queue(unsigned index) {
  if (index == kEvents) return send_event();
  if (index == kTransmit) {
    held_up_ = false;
    drain_queue(kTransmit, [&](Chain& chain) {
      if (answers_.size() >= kMostAnswers) {
        // 5.10.6.1: the guest must take what comes while it sends.
        held_up_ = true;
        queue(kTransmit).unpop(chain);
        return false;
      }
      take_packet(chain);
      give(kTransmit, chain, 0);
      return true;
    });
  }
  fill_receive_queue();
  if (index == kReceive && held_up_ && answers_.size() < kMostAnswers) handle_later(kTransmit);
}

// ---- from the guest ----

void Vsock::take_packet(const Chain& chain) {
  std::array<std::uint8_t, kHeaderBytes> raw;
  if (chain.readable_bytes() < raw.size()) return;
  chain.read(0, raw);
  const Header header{.from = load_le<std::uint64_t>(&raw[0]),
                      .to = load_le<std::uint64_t>(&raw[8]),
                      .ports = {.guest = load_le<std::uint32_t>(&raw[16]), .host = load_le<std::uint32_t>(&raw[20])},
                      .length = load_le<std::uint32_t>(&raw[24]),
                      .type = load_le<std::uint16_t>(&raw[28]),
                      .op = load_le<std::uint16_t>(&raw[30]),
                      .flags = load_le<std::uint32_t>(&raw[32]),
                      .buffer = load_le<std::uint32_t>(&raw[36]),
                      .forwarded = load_le<std::uint32_t>(&raw[40])};
  // 5.10.6.4: from another address than the guest's it is dropped; there is nobody but the host to send to.
  if (header.from != config_.guest_cid || header.to != kHostCid) return;
  if (header.length > chain.readable_bytes() - raw.size() || header.length > kMostPacket) return;
  const bool seqpacket = header.type == static_cast<std::uint16_t>(Kind::seqpacket) && negotiated(kFeatureSeqpacket);
  if (header.type != static_cast<std::uint16_t>(Kind::stream) && !seqpacket) {
    if (header.op != kReset) answer(header.ports, header.type, kReset);
    return;
  }
  const auto found = connections_.find(header.ports);
  const bool known = found != connections_.end() && static_cast<std::uint16_t>(found->second.kind) == header.type;
  if (header.op == kReset) return known ? drop(header.ports) : void();
  if (header.op == kRequest && found == connections_.end()) return requested(header);
  if (!known || header.op == kRequest) {
    // Of a connection that is not there, or there already.
    if (known) drop(header.ports);
    return answer(header.ports, header.type, kReset);
  }
  arrived(header, found->second, chain);
}

void Vsock::requested(const Header& header) {
  const Kind kind = static_cast<Kind>(header.type);
  if (connections_.size() >= kMostConnections || !backend_.connect(header.ports, kind))
    return answer(header.ports, header.type, kReset);
  Connection& connection = connections_[header.ports];
  connection.kind = kind;
  connection.peer_buffer = header.buffer;
  connection.peer_forwarded = header.forwarded;
  answer(header.ports, header.type, kResponse);
  list_readable(header.ports);
}

void Vsock::arrived(const Header& header, Connection& connection, const Chain& chain) {
  connection.peer_buffer = header.buffer;
  connection.peer_forwarded = header.forwarded;
  const bool early = connection.phase == Phase::requested;
  switch (header.op) {
    case kResponse:
      if (!early) return reset_connection(header.ports, header.type);
      connection.phase = Phase::established;
      backend_.accepted(header.ports);
      return list_readable(header.ports);
    case kShutdown: return shut_down(header, connection);
    case kReadWrite:
      if (early) return reset_connection(header.ports, header.type);
      return data_arrived(header, connection, chain);
    case kCreditUpdate: break;
    case kCreditRequest: answer(header.ports, header.type, kCreditUpdate); break;
    default: return reset_connection(header.ports, header.type);
  }
  // It may have room now for what waits.
  list_readable(header.ports);
}

void Vsock::data_arrived(const Header& header, Connection& connection, const Chain& chain) {
  // 5.10.6.3: nobody sends more than the other has told it has room for.
  const std::uint32_t under_way = connection.received - connection.forwarded;
  if (header.length > kBuffer - under_way) return reset_connection(header.ports, header.type);
  connection.received += header.length;
  if (connection.guest_ended) {
    // Sent before the guest heard that nobody listens any more.
    return note_forwarded(header.ports, connection, header.length);
  }
  const std::span<std::uint8_t> data(scratch_.data(), header.length);
  chain.read(kHeaderBytes, data);
  const bool end = connection.kind == Kind::seqpacket && (header.flags & kEndOfMessage);
  note_forwarded(header.ports, connection, backend_.send(header.ports, data, end));
}

void Vsock::shut_down(const Header& header, Connection& connection) {
  const bool sends_no_more = header.flags & kNoSend;
  connection.guest_deaf |= (header.flags & kNoReceive) != 0;
  if (sends_no_more && !connection.guest_ended) backend_.guest_ended(header.ports);
  connection.guest_ended |= sends_no_more;
  // 5.10.6.6: a connection that is shut down both ways ends by a reset.
  if (connection.guest_ended && connection.guest_deaf) reset_connection(header.ports, header.type);
}

void Vsock::reset_connection(Ports ports, std::uint16_t type) {
  drop(ports);
  answer(ports, type, kReset);
}

// ---- from the host ----

std::optional<std::uint32_t> Vsock::incoming(std::uint32_t guest_port, Kind kind) {
  if (!driver_ok() || connections_.size() >= kMostConnections || answers_.size() >= kMostAnswers) return std::nullopt;
  if (kind == Kind::seqpacket && !negotiated(kFeatureSeqpacket)) return std::nullopt;
  Ports ports{guest_port, 0};
  do {
    ports.host = next_port_++;
    // Ports of all ones mean "any".
    if (next_port_ == 0xFFFFFFFF) next_port_ = kFirstPort;
  } while (connections_.contains(ports));
  Connection& connection = connections_[ports];
  connection.kind = kind;
  connection.phase = Phase::requested;
  answer(ports, static_cast<std::uint16_t>(kind), kRequest);
  fill_receive_queue();
  return ports.host;
}

void Vsock::note_forwarded(Ports ports, Connection& connection, std::size_t bytes) {
  connection.forwarded += static_cast<std::uint32_t>(bytes);
  // Every packet tells; one of its own is due before the guest runs dry.
  if (connection.forwarded - connection.told >= kBuffer / 4) {
    connection.told = connection.forwarded;
    answer(ports, static_cast<std::uint16_t>(connection.kind), kCreditUpdate);
  }
}

void Vsock::list_readable(Ports ports) {
  const auto found = connections_.find(ports);
  if (found == connections_.end() || found->second.phase == Phase::requested) return;
  if (!std::exchange(found->second.readable, true)) ready_.push_back(ports);
}

// ---- to the guest ----

void Vsock::answer(Ports ports, std::uint16_t type, std::uint16_t op, std::uint32_t flags) {
  // One more credit update tells no more than the one that waits.
  if (op == kCreditUpdate)
    for (const Answer& one : answers_)
      if (one.op == op && one.ports == ports) return;
  answers_.push_back({ports, type, op, flags});
}

void Vsock::put(const Chain& chain, Ports ports, std::uint16_t type, std::uint16_t op, std::uint32_t flags,
                std::size_t length) {
  std::array<std::uint8_t, kHeaderBytes> raw{};
  store_le<std::uint64_t>(&raw[0], kHostCid);
  store_le<std::uint64_t>(&raw[8], config_.guest_cid);
  store_le<std::uint32_t>(&raw[16], ports.host);
  store_le<std::uint32_t>(&raw[20], ports.guest);
  store_le<std::uint32_t>(&raw[24], static_cast<std::uint32_t>(length));
  store_le<std::uint16_t>(&raw[28], type);
  store_le<std::uint16_t>(&raw[30], op);
  store_le<std::uint32_t>(&raw[32], flags);
  if (const auto found = connections_.find(ports); found != connections_.end()) {
    store_le<std::uint32_t>(&raw[36], kBuffer);
    store_le<std::uint32_t>(&raw[40], found->second.forwarded);
    found->second.told = found->second.forwarded;
  }
  chain.write(0, raw);
  queue(kReceive).stage(chain, static_cast<std::uint32_t>(kHeaderBytes + length));
}

bool Vsock::put_answer(const Chain& chain) {
  if (answers_.empty()) return false;
  const Answer one = answers_.front();
  answers_.pop_front();
  put(chain, one.ports, one.type, one.op, one.flags, 0);
  return true;
}

/// From the connection whose turn it is; false if none has anything that the guest has room for.
bool Vsock::put_data(const Chain& chain) {
  while (!ready_.empty()) {
    const Ports ports = ready_.front();
    ready_.pop_front();
    const auto found = connections_.find(ports);
    if (found == connections_.end()) continue;
    Connection& connection = found->second;
    connection.readable = false;
    // Without room the guest's next packet lists it again. What nobody will read stays with whoever writes it.
    const std::size_t room =
        std::min<std::size_t>({connection.peer_room(), chain.writable_bytes() - kHeaderBytes, scratch_.size()});
    if (room == 0 || connection.host_ended || connection.guest_deaf) continue;
    const auto piece = backend_.read(ports, {scratch_.data(), room});
    const auto type = static_cast<std::uint16_t>(connection.kind);
    if (piece.bytes == 0 && !piece.ended) continue;
    if (piece.ended) {
      connection.host_ended = true;
      put(chain, ports, type, kShutdown, connection.guest_ended ? kNoReceive | kNoSend : kNoSend, 0);
      return true;
    }
    connection.sent += static_cast<std::uint32_t>(piece.bytes);
    chain.write(kHeaderBytes, {scratch_.data(), piece.bytes});
    put(chain, ports, type, kReadWrite, piece.end_of_message ? kEndOfMessage : 0, piece.bytes);
    list_readable(ports);
    return true;
  }
  return false;
}

void Vsock::fill_receive_queue() {
  if (stopped_ || !usable(kReceive)) return;
  Chain chain;
  bool any = false;
  unsigned budget = 256;
  while (!answers_.empty() || !ready_.empty()) {
    if (budget-- == 0) {
      // The host and another CPU of the guest could keep this one here.
      handle_later(kReceive);
      break;
    }
    if (!take(kReceive, chain)) {
      if (usable(kReceive) && queue(kReceive).enable_notifications()) handle_later(kReceive);
      break;
    }
    if (chain.writable_bytes() <= kHeaderBytes) {
      needs_reset("a receive buffer is shorter than the header of a packet");
      break;
    }
    if (!put_answer(chain) && !put_data(chain)) {
      queue(kReceive).unpop(chain);
      break;
    }
    any = true;
  }
  if (!any) return;
  queue(kReceive).publish();
  interrupt_queue(kReceive);
  if (held_up_ && answers_.size() < kMostAnswers) handle_later(kTransmit);
}

void Vsock::send_event() {
  Chain chain;
  if (!owed_event_ || !take(kEvents, chain)) return;
  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
  const std::uint8_t event[4] = {};
  give(kEvents, chain, chain.write(0, event));
  owed_event_ = false;
  state_.interrupted = false;
  interrupt_queue(kEvents);
}

}  // namespace husk::devices::virtio
