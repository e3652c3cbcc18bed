// husk: virtio-console
#include "devices/virtio/console.h"

#include <algorithm>

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices::virtio {

namespace {
constexpr unsigned kSize = 0, kMultiport = 1;
constexpr unsigned kConfigBytes = 12;
constexpr unsigned kControlReceive = 2, kControlTransmit = 3;
/// Events of struct virtio_console_control (5.3.6.2).
enum Event : std::uint16_t {
  kDeviceReady = 0,
  kPortAdd = 1,
  kPortReady = 3,
  kConsolePort = 4,
  kResize = 5,
  kPortOpen = 6,
  kPortName = 7,
};
constexpr std::size_t kMessageBytes = 8;
/// Messages that wait for a buffer: a few for each port; what comes on top a guest has itself to thank for.
constexpr std::size_t kMostWaiting = 16384;
/// What a backend may send at once: the driver's buffers are a page each.
constexpr std::size_t kMostCredit = 4096;

VirtioDevice::Traits traits_of(const std::vector<Console::Port>& ports, const Console::Config& config) {
  HUSK_CHECK(!ports.empty() && ports.size() <= Console::kMostPorts);
  return {.type = DeviceType::console,
          .features = (1u << kSize) | (1u << kMultiport),
          .queue_sizes = std::vector<std::uint16_t>(ports.size() * 2 + 2, config.queue_size),
          .config_size = kConfigBytes,
          .ring = config.ring};
}
}  // namespace

Console::Console(Environment environment, std::vector<Port> ports, Config config)
    : Base(config.id, environment, traits_of(ports, config)), ports_(std::move(ports)), config_(std::move(config)) {
  state_.columns = config_.columns;
  state_.rows = config_.rows;
  state_.ports.resize(ports_.size());
  for (std::size_t port = 0; port < ports_.size(); ++port) {
    if (!ports_[port].backend) continue;
    // Plain backends never say that somebody came: they are always there.
    state_.ports[port].host_connected = true;
    ports_[port].backend->set_callbacks(
        {.received = [this, port](std::span<const std::uint8_t> data) { receive(port, data); },
         .writable = [this, port] { transmit(port); },
         .connection = [this, port](bool connected) { connection(port, connected); }});
  }
}

Console::~Console() {
  for (const Port& port : ports_)
    if (port.backend) port.backend->set_callbacks({});
}

void Console::start() {
  const bool was_stopped = std::exchange(stopped_, false);
  for (std::size_t port = 0; port < ports_.size(); ++port) {
    update_credit(port);
    // The backend may have said meanwhile that it can take more, and says it once.
    if (was_stopped) transmit(port);
  }
}

void Console::quiesce(std::function<void()> done) {
  stopped_ = true;
  take_no_input();
  Base::quiesce(std::move(done));
}

void Console::device_reset() {
  take_no_input();
  for (ConsolePortState& port : state_.ports) port = {.host_connected = port.host_connected};
  state_.driver_ready = false;
  state_.messages.clear();
}

void Console::activated() {
  // Not now: when a state is loaded, the guest's memory may be loaded after the device.
  for (std::size_t port = 0; port < ports_.size(); ++port)
    if (usable(receive_queue(port))) handle_later(receive_queue(port));
}

void Console::take_no_input() {
  for (const Port& port : ports_)
    if (port.backend) port.backend->set_read_credit(0);
}

Status Console::validate_device(const ConsoleState& incoming) const {
  if (incoming.ports.size() != ports_.size())
    return fail("the saved console has {} ports, this one {}", incoming.ports.size(), ports_.size());
  if (incoming.messages.size() > kMostWaiting) return fail("the saved console has too many messages waiting");
  for (std::size_t at = 0; at < incoming.messages.size(); at += 1 + std::size_t{incoming.messages[at]})
    if (incoming.messages[at] < kMessageBytes || at + 1 + incoming.messages[at] > incoming.messages.size())
      return fail("a saved control message is cut off");
  return {};
}

void Console::fill_config(std::span<std::uint8_t> bytes) {
  store_le<std::uint16_t>(&bytes[0], state_.columns);
  store_le<std::uint16_t>(&bytes[2], state_.rows);
  store_le<std::uint32_t>(&bytes[4], static_cast<std::uint32_t>(ports_.size()));
}

void Console::resize(std::uint16_t columns, std::uint16_t rows) {
  if (state_.columns == columns && state_.rows == rows) return;
  state_.columns = columns;
  state_.rows = rows;
  config_changed();
  if (!multiport() || !state_.ports[0].ready) return;
  std::uint8_t size[4];
  store_le<std::uint16_t>(size, rows);
  store_le<std::uint16_t>(size + 2, columns);
  send_message(0, kResize, 0, {reinterpret_cast<const char*>(size), sizeof size});
}

void Console::handle_queue(unsigned index) {
  if (index == kControlReceive) return flush_messages();
  if (index == kControlTransmit) {
    drain_queue(index, [&](Chain& chain) {
      control(chain);
      give(index, chain, 0);
      return true;
    });
    return flush_messages();
  }
  const std::size_t port = index < 2 ? 0 : (index - 2) / 2;
  if (port >= ports_.size()) return;
  if (index % 2 == 0)
    update_credit(port);
  else
    transmit(port);
}

// ---- data ----

void Console::update_credit(std::size_t port) {
  core::CharBackend* const backend = ports_[port].backend;
  if (!backend || stopped_) return;
  const unsigned index = receive_queue(port);
  std::size_t credit = 0;
  if (driver_ok() && usable(index)) {
    // Room is what the next buffer has: a backend gives no more than it was told, so nothing is ever lost.
    queue(index).disable_notifications();
    Chain chain;
    bool more = take(index, chain);
    while (!more && usable(index) && queue(index).enable_notifications()) more = take(index, chain);
    if (more) {
      credit = static_cast<std::size_t>(std::min<std::uint64_t>(kMostCredit, chain.writable_bytes()));
      queue(index).unpop(chain);
    }
    // A closed port takes nothing: whoever opens it wants what comes from then on.
    if (multiport() && !state_.ports[port].guest_open && !ports_[port].console) credit = 0;
  }
  backend->set_read_credit(credit);
}

void Console::receive(std::size_t port, std::span<const std::uint8_t> data) {
  const unsigned index = receive_queue(port);
  Chain chain;
  while (!data.empty() && take(index, chain)) {
    const std::size_t count = chain.write(0, data);
    data = data.subspan(count);
    give(index, chain, count);
  }
  interrupt_queue(index);
  update_credit(port);
}

void Console::transmit(std::size_t port) {
  if (stopped_) return;
  const unsigned index = receive_queue(port) + 1;
  drain_queue(index, [&](Chain& chain) {
    core::CharBackend* const backend = ports_[port].backend;
    std::uint32_t& sent = state_.ports[port].sent;
    std::uint64_t skip = sent;
    for (const Segment& segment : chain.readable()) {
      if (!backend) break;
      const auto from = static_cast<std::uint32_t>(std::min<std::uint64_t>(skip, segment.length));
      skip -= from;
      if (from == segment.length) continue;
      const std::size_t taken = backend->write({segment.data + from, segment.length - from});
      sent += static_cast<std::uint32_t>(taken);
      if (taken < segment.length - from) {
        // The guest waits with its buffer until the backend is writable; what went is not sent again.
        queue(index).unpop(chain);
        return false;
      }
    }
    sent = 0;
    give(index, chain, 0);
    return true;
  });
}

// ---- control ----

void Console::connection(std::size_t port, bool connected) {
  if (state_.ports[port].host_connected == connected) return;
  state_.ports[port].host_connected = connected;
  if (multiport() && state_.ports[port].ready) send_message(static_cast<std::uint32_t>(port), kPortOpen, connected);
}

void Console::control(const Chain& chain) {
  std::uint8_t message[kMessageBytes];
  if (!multiport() || chain.read(0, message) != kMessageBytes) return;
  const auto id = load_le<std::uint32_t>(message);
  const auto event = load_le<std::uint16_t>(message + 4);
  const auto value = load_le<std::uint16_t>(message + 6);
  if (event == kDeviceReady) {
    if (value == 0 || state_.driver_ready) return;
    state_.driver_ready = true;
    for (std::size_t port = 0; port < ports_.size(); ++port)
      send_message(static_cast<std::uint32_t>(port), kPortAdd, 1);
    return;
  }
  if (id >= ports_.size()) return;
  ConsolePortState& port = state_.ports[id];
  if (event == kPortReady && value == 1 && !port.ready) {
    port.ready = true;
    introduce(id);
  } else if (event == kPortOpen) {
    port.guest_open = value != 0;
    update_credit(id);
  }
}

void Console::introduce(std::size_t index) {
  const auto id = static_cast<std::uint32_t>(index);
  const Port& port = ports_[index];
  if (port.console) {
    send_message(id, kConsolePort, 1);
    if (index == 0 && state_.columns) {
      std::uint8_t size[4];
      store_le<std::uint16_t>(size, state_.rows);
      store_le<std::uint16_t>(size + 2, state_.columns);
      send_message(id, kResize, 0, {reinterpret_cast<const char*>(size), sizeof size});
    }
  }
  if (!port.name.empty()) send_message(id, kPortName, 1, port.name);
  if (state_.ports[index].host_connected) send_message(id, kPortOpen, 1);
}

void Console::send_message(std::uint32_t port, std::uint16_t event, std::uint16_t value, std::string_view text) {
  text = text.substr(0, kMostName);
  if (state_.messages.size() + 1 + kMessageBytes + text.size() > kMostWaiting) return;
  std::uint8_t message[1 + kMessageBytes];
  message[0] = static_cast<std::uint8_t>(kMessageBytes + text.size());
  store_le<std::uint32_t>(message + 1, port);
  store_le<std::uint16_t>(message + 5, event);
  store_le<std::uint16_t>(message + 7, value);
  state_.messages.insert(state_.messages.end(), std::begin(message), std::end(message));
  state_.messages.insert(state_.messages.end(), text.begin(), text.end());
  flush_messages();
}

void Console::flush_messages() {
  Chain chain;
  while (!state_.messages.empty() && take(kControlReceive, chain)) {
    const std::size_t length = state_.messages[0];
    const auto begin = state_.messages.begin() + 1;
    const std::size_t written = chain.write(0, {&*begin, length});
    give(kControlReceive, chain, written);
    state_.messages.erase(state_.messages.begin(), begin + static_cast<std::ptrdiff_t>(length));
  }
  if (!usable(kControlReceive)) return;
  if (state_.messages.empty())
    queue(kControlReceive).disable_notifications();
  else if (queue(kControlReceive).enable_notifications())
    handle_later(kControlReceive);
  interrupt_queue(kControlReceive);
}

}  // namespace husk::devices::virtio
