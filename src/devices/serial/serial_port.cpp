// husk: a 16550 on the ISA bus
#include "devices/serial/serial_port.h"

namespace husk::devices {

namespace {
constexpr std::uint8_t kConnectedPins = Uart16550::kMsrCts | Uart16550::kMsrDsr | Uart16550::kMsrDcd;
}

SerialPort::SerialPort(Deps deps, Config config) : deps_(std::move(deps)), config_(std::move(config)) {
  timeout_ = deps_.clock.make_timer([this] {
    armed_.reset();
    chip_.expire_timeout();
    refresh();
  });
  state_.modem_pins = kConnectedPins;
  chip_.reset();
  if (!deps_.backend) return;
  deps_.backend->set_callbacks({.received = [this](std::span<const std::uint8_t> data) { received(data); },
                                .writable =
                                    [this] {
                                      send_pending();
                                      refresh();
                                    },
                                .connection =
                                    [this](bool connected) {
                                      chip_.set_modem_pins(connected ? kConnectedPins : 0);
                                      refresh();
                                    },
                                .break_received = [this] { break_received(); }});
}

SerialPort::~SerialPort() {
  if (!deps_.backend) return;
  deps_.backend->set_read_credit(0);
  deps_.backend->set_callbacks({});
}

Result<std::unique_ptr<SerialPort>> SerialPort::create(Deps deps, Config config) {
  std::unique_ptr<SerialPort> port(new SerialPort(std::move(deps), std::move(config)));
  port->ports_ = HUSK_TRY(
      port->deps_.io.map(port->config_.base, 8, *port,
                         {.domain = port->deps_.domain, .max_size = 1, .priority = 0, .name = port->config_.id}));
  return port;
}

void SerialPort::reset(core::ResetKind) {
  chip_.reset();
  refresh();
  give_credit();
}

void SerialPort::start() {
  running_ = true;
  send_pending();
  refresh();
  give_credit();
}

void SerialPort::quiesce(std::function<void()> done) {
  running_ = false;
  give_credit();
  done();
}

void SerialPort::received(std::span<const std::uint8_t> data) {
  const core::VmTime now = deps_.clock.now();
  for (const std::uint8_t byte : data) chip_.receive(byte, 0, now);
  credit_ -= static_cast<unsigned>(std::min<std::size_t>(credit_, data.size()));
  refresh();
}

// PC16550D, LSR bit 4: a break enters the FIFO as one zero character, with a framing error since its stop bit is low.
void SerialPort::break_received() {
  // Loop-back mode cuts the line off; a stopped machine misses what comes on it.
  if (!running_ || (state_.mcr & Uart16550::kMcrLoop)) return;
  chip_.receive(0, Uart16550::kLsrBreak | Uart16550::kLsrFraming, deps_.clock.now());
  refresh();
  give_credit();
}

void SerialPort::send_pending() {
  for (;;) {
    const auto data = chip_.to_send();
    if (data.empty()) return;
    const std::size_t taken = deps_.backend ? deps_.backend->write(data) : data.size();
    chip_.sent(taken);
    if (taken < data.size()) return;
  }
}

std::uint64_t SerialPort::read(const mem::Access& access) {
  const bool data = access.offset == Uart16550::kData;
  const std::uint8_t value = chip_.read(static_cast<unsigned>(access.offset), data ? deps_.clock.now() : 0);
  // LSR is what a polling driver reads all the time, and LCR, MCR and SCR have no side effects.
  refresh();
  if (data) give_credit();
  return value;
}

void SerialPort::write(const mem::Access& access, std::uint64_t value) {
  const bool break_before = chip_.break_sent();
  const bool plain_send = access.offset == Uart16550::kData && !(state_.mcr & Uart16550::kMcrLoop);
  chip_.write(static_cast<unsigned>(access.offset), static_cast<std::uint8_t>(value),
              plain_send ? 0 : deps_.clock.now());
  if (plain_send) {
    // Writing THR takes the THR interrupt back and its emptying raises it again: an edge-triggered controller must
    // see both, even though here no time lies between.
    deps_.irq.set(chip_.interrupt());
    send_pending();
    deps_.irq.set(chip_.interrupt());
    return;
  }
  if (!break_before && chip_.break_sent() && deps_.backend) deps_.backend->send_break();
  refresh();
  give_credit();
}

void SerialPort::refresh() {
  deps_.irq.set(chip_.interrupt());
  update_timer();
}

void SerialPort::update_timer() {
  const auto wanted = chip_.timeout_deadline();
  if (wanted == armed_) return;
  armed_ = wanted;
  if (wanted)
    timeout_->arm(*wanted);
  else
    timeout_->cancel();
}

void SerialPort::give_credit() {
  const unsigned room = running_ ? chip_.receive_room() : 0;
  if (!deps_.backend || room == credit_) return;
  credit_ = room;
  deps_.backend->set_read_credit(room);
}

Status SerialPort::validate(const Uart16550::State& incoming) const {
  if (!Uart16550::plausible(incoming)) return fail("saved state of {} contradicts itself", config_.id);
  return {};
}

void SerialPort::after_load() {
  deps_.irq.restore_level(chip_.interrupt());
  update_timer();
  give_credit();
}

}  // namespace husk::devices
