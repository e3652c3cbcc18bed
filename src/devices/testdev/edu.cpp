// husk: edu
#include "devices/testdev/edu.h"

#include "base/bits.h"

namespace husk::devices {

namespace {
constexpr std::uint32_t kVersion = 0x010000ED;

constexpr pci::Identity kIdentity{.vendor = 0x1234,
                                  .device = 0x11E8,
                                  .revision = 0x10,
                                  .class_code = 0x00FF00,
                                  .subsystem_vendor = 0x1AF4,
                                  .subsystem = 0x1100,
                                  .interrupt_pin = 1};

/// n! modulo 2^32.
std::uint32_t factorial_of(std::uint32_t n) {
  // 34! has the factor 2 thirty-two times.
  if (n >= 34) return 0;
  std::uint32_t product = 1;
  for (; n > 1; --n) product *= n;
  return product;
}
}  // namespace

Edu::Edu(Deps deps, Config config)
    : deps_(deps),
      config_(std::move(config)),
      memory_(deps_.memory),
      space_(state_.config, kIdentity, false),
      msi_(space_, {deps_.msi, [this] { return deps_.bus.requester_id(config_.devfn); }}, 1),
      logic_(space_, {.memory = &deps_.memory,
                      .domain = deps_.domain,
                      .intx = deps_.bus.intx(config_.devfn >> 3, 0),
                      .bus = &deps_.bus}) {
  space_.add_bar(0, {pci::BarSpec::Kind::memory32, kBarSize});
  logic_.set_bar_handler(0, registers_, config_.id, 8);
  computing_ = deps_.clock.make_timer([this] { computed(); });
  transferring_ = deps_.clock.make_timer([this] { transferred(); });
  state_.buffer.assign(kBufferSize, 0);
}

Result<std::unique_ptr<Edu>> Edu::create(Deps deps, Config config) {
  std::unique_ptr<Edu> device(new Edu(deps, std::move(config)));
  device->slot_ = HUSK_TRY(deps.bus.attach(device->config_.devfn, *device, deps.domain));
  return device;
}

void Edu::reset(core::ResetKind) {
  computing_->cancel();
  transferring_->cancel();
  pci::ConfigState config = std::move(state_.config);
  state_ = {};
  state_.config = std::move(config);
  state_.buffer.assign(kBufferSize, 0);
  logic_.reset();
}

void Edu::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  logic_.write_config(offset, value, size);
  msi_.config_written();
  // Interrupts go the one way or the other.
  logic_.set_intx(intx_asserted());
}

std::uint64_t Edu::read(std::uint64_t offset, unsigned size) const {
  if (size != 4 && (size != 8 || offset < kDmaSource)) return ~std::uint64_t{0};
  switch (offset) {
    case kIdentification: return kVersion;
    case kLiveness: return state_.liveness;
    case kFactorial: return state_.factorial;
    case kStatus: return state_.status;
    case kInterruptStatus: return state_.interrupts;
    case kDmaSource: return state_.source;
    case kDmaDestination: return state_.destination;
    case kDmaCount: return state_.count;
    case kDmaCommand: return state_.command;
    default: return ~std::uint64_t{0};
  }
}

void Edu::write(std::uint64_t offset, std::uint64_t value, unsigned size) {
  if (size != 4 && (size != 8 || offset < kDmaSource)) return;
  const auto low = static_cast<std::uint32_t>(value);
  const bool transferring = state_.command & kStart;
  switch (offset) {
    case kLiveness: state_.liveness = ~low; return;
    case kFactorial:
      if (state_.status & kComputing) return;
      state_.factorial = low;
      state_.status |= kComputing;
      state_.computed_at = deps_.clock.now() + kComputeTime;
      return computing_->arm(state_.computed_at);
    case kStatus:
      state_.status = (state_.status & ~std::uint32_t{kInterruptWhenComputed}) | (low & kInterruptWhenComputed);
      return;
    case kInterruptRaise: return raise(low);
    case kInterruptAcknowledge: state_.interrupts &= ~low; return logic_.set_intx(intx_asserted());
    // The registers of a transfer that is under way stay as they are.
    case kDmaSource:
      if (!transferring) state_.source = value;
      return;
    case kDmaDestination:
      if (!transferring) state_.destination = value;
      return;
    case kDmaCount:
      if (!transferring) state_.count = value;
      return;
    case kDmaCommand:
      if (transferring || !(value & kStart)) return;
      state_.command = value;
      state_.transferred_at = deps_.clock.now() + kTransferTime;
      return transferring_->arm(state_.transferred_at);
    default: return;
  }
}

void Edu::raise(std::uint32_t causes) {
  state_.interrupts |= causes;
  if (state_.interrupts == 0) return;
  msi_.notify(0);
  logic_.set_intx(intx_asserted());
}

void Edu::computed() {
  state_.factorial = factorial_of(state_.factorial);
  state_.status &= ~std::uint32_t{kComputing};
  if (state_.status & kInterruptWhenComputed) raise(kComputed);
}

void Edu::transferred() {
  if (auto done = transfer(); !done) deps_.log.guest_error("{}: {}", config_.id, done.error().text());
  state_.command &= ~std::uint64_t{kStart};
  if (state_.command & kInterruptWhenDone) raise(kTransferred);
}

Status Edu::transfer() {
  const bool to_ram = state_.command & kToRam;
  const std::uint64_t own = to_ram ? state_.source : state_.destination;
  const std::uint64_t remote = to_ram ? state_.destination : state_.source;
  if (own < kBufferAt || !range_within(own - kBufferAt, state_.count, kBufferSize))
    return fail("a transfer of {} bytes at {:#x} leaves the buffer", state_.count, own);
  if (!logic_.bus_master()) return fail("a transfer, and bus mastering is off");
  const std::span<std::uint8_t> bytes(&state_.buffer[0] + (own - kBufferAt), state_.count);
  const std::uint64_t address = remote & config_.dma_mask;
  if (address != remote) deps_.log.guest_error("{}: DMA address {:#x} becomes {:#x}", config_.id, remote, address);
  return to_ram ? memory_.write(address, bytes) : memory_.read(address, bytes);
}

Status Edu::validate(const EduState& incoming) const {
  HUSK_TRY(space_.validate(incoming.config, config_.id));
  if (incoming.buffer.size() != kBufferSize)
    return fail("the saved state of {} has a buffer of {} bytes, not {}", config_.id, incoming.buffer.size(),
                kBufferSize);
  return {};
}

void Edu::after_load() {
  logic_.after_load();
  logic_.restore_intx(intx_asserted());
  computing_->cancel();
  transferring_->cancel();
  if (state_.status & kComputing) computing_->arm(state_.computed_at);
  if (state_.command & kStart) transferring_->arm(state_.transferred_at);
}

}  // namespace husk::devices
