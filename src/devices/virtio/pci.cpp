// husk: virtio over PCI
#include "devices/virtio/pci.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"
#include "devices/pci/express.h"

namespace husk::devices::virtio {

namespace {
constexpr std::uint16_t kVendor = 0x1AF4;
constexpr std::uint16_t kNoVector = 0xFFFF;
constexpr unsigned kLegacyBar = 0, kMsixBar = 1, kModernBar = 4;
constexpr std::uint64_t kModernSize = 0x4000;
constexpr std::uint64_t kPart = 0x1000;  // of the modern BAR: common, ISR, device configuration, notifications
constexpr unsigned kNotifyMultiplier = 4;
constexpr unsigned kLegacyHeader = 24;

/// cfg_type of the vendor capabilities (4.1.4).
enum CapabilityType : std::uint8_t { kCommon = 1, kNotify = 2, kIsr = 3, kDevice = 4, kWindow = 5 };

/// struct virtio_pci_common_cfg (4.1.4.3).
enum CommonRegister : std::uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0C,
  kConfigVector = 0x10,
  kNumberOfQueues = 0x12,
  kDeviceStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueVector = 0x1A,
  kQueueEnable = 0x1C,
  kQueueNotifyOffset = 0x1E,
  kQueueDescriptors = 0x20,
  kQueueDriver = 0x28,
  kQueueDevice = 0x30,
  kQueueNotifyData = 0x38,
  kQueueReset = 0x3A,
  kCommonSize = 0x3C,
};

/// Class codes as QEMU gives them, which driver databases know.
std::uint32_t class_of(DeviceType type) {
  switch (type) {
    case DeviceType::net: return 0x020000;
    case DeviceType::block:
    case DeviceType::scsi: return 0x010000;
    case DeviceType::console: return 0x078000;
    case DeviceType::ninep: return 0x000200;
    case DeviceType::vsock: return 0x078000;
    case DeviceType::fs: return 0x018000;
    default: return 0x00FF00;
  }
}

/// 4.1.2.1: transitional ids exist for the first devices only.
std::uint16_t transitional_id(DeviceType type) {
  switch (type) {
    case DeviceType::net: return 0x1000;
    case DeviceType::block: return 0x1001;
    case DeviceType::balloon: return 0x1002;
    case DeviceType::console: return 0x1003;
    case DeviceType::scsi: return 0x1004;
    case DeviceType::rng: return 0x1005;
    case DeviceType::ninep: return 0x1009;
    default: return 0;
  }
}

pci::Identity identity(const VirtioDevice& device, const PciTransport::Config& config) {
  const auto type = static_cast<std::uint16_t>(device.type());
  pci::Identity id{.vendor = kVendor,
                   .device = static_cast<std::uint16_t>(0x1040 + type),
                   .revision = 1,
                   .class_code = class_of(device.type()),
                   .subsystem_vendor = kVendor,
                   .subsystem = 0x1100,
                   .interrupt_pin = 1,
                   .multifunction = config.multifunction};
  if (config.legacy) {
    id.device = transitional_id(device.type());
    id.revision = 0;
    id.subsystem = type;  // by which old drivers tell devices apart
  }
  return id;
}
}  // namespace

PciTransport::PciTransport(Deps deps, Config config)
    : deps_(deps),
      config_(std::move(config)),
      space_(state_.config, identity(deps_.device, config_), config_.express),
      msix_(space_, state_.msix, {deps_.msi, [this] { return deps_.bus.requester_id(config_.devfn); }},
            std::min(config_.vectors ? config_.vectors : deps_.device.queue_count() + 1, pci::Msix::kMostVectors),
            kMsixBar),
      logic_(space_, {&deps_.memory, &deps_.io, deps_.domain, deps_.bus.intx(config_.devfn >> 3, 0), &deps_.bus}) {
  state_.queue_vectors.assign(deps_.device.queue_count(), kNoVector);
  add_capabilities();
}

void PciTransport::add_capabilities() {
  if (config_.legacy)
    space_.add_bar(kLegacyBar,
                   {pci::BarSpec::Kind::io, std::bit_ceil(std::uint64_t{kLegacyHeader} + deps_.device.config_size())});
  space_.add_bar(kModernBar, {pci::BarSpec::Kind::memory64, kModernSize, true});
  const auto add = [&](CapabilityType type, unsigned part, std::uint64_t length, unsigned extra) {
    const unsigned at = space_.add_capability(0x09, 16 + extra);
    space_.define(at + 2, 2, (16 + extra) | (unsigned{type} << 8));
    space_.define(at + 4, 1, kModernBar);
    space_.define(at + 8, 4, part * kPart);
    space_.define(at + 12, 4, length);
    return at;
  };
  add(kCommon, 0, kCommonSize, 0);
  add(kIsr, 1, 1, 0);
  if (deps_.device.config_size()) add(kDevice, 2, align_up(deps_.device.config_size(), 4u), 0);
  const unsigned notify = add(kNotify, 3, deps_.device.queue_count() * kNotifyMultiplier, 4);
  space_.define(notify + 16, 4, kNotifyMultiplier);
  window_at_ = add(kWindow, 0, 0, 4);
  space_.define(window_at_ + 4, 1, 0, 0xFF);
  space_.define(window_at_ + 8, 8, 0, ~std::uint64_t{0});
  space_.define(window_at_ + 16, 4, 0, 0xFFFFFFFF);
  pci::add_express_capability(space_,
                              config_.express ? pci::ExpressType::endpoint : pci::ExpressType::integrated_endpoint);
}

Result<std::unique_ptr<PciTransport>> PciTransport::create(Deps deps, Config config) {
  if (config.legacy && !transitional_id(deps.device.type()))
    return std::unexpected(
        Error{fmt::format("{}: this virtio device has no legacy form", config.id), "leave disable-legacy=off out"});
  std::unique_ptr<PciTransport> transport(new PciTransport(deps, std::move(config)));
  transport->slot_ = HUSK_TRY(deps.bus.attach(transport->config_.devfn, *transport, deps.domain));
  deps.device.connect(*transport, transport->config_.legacy);
  transport->logic_.set_bar_handler(kMsixBar, transport->msix_, transport->config_.id + ".msix",
                                    pci::Msix::kAccessSize);
  transport->logic_.set_bar_handler(kModernBar, transport->modern_, transport->config_.id, 8);
  if (transport->config_.legacy)
    transport->logic_.set_bar_handler(kLegacyBar, transport->legacy_, transport->config_.id + ".legacy");
  return transport;
}

void PciTransport::reset(core::ResetKind) {
  state_.isr = 0;
  state_.device_feature_select = state_.driver_feature_select = 0;
  state_.queue_select = 0;
  state_.config_vector = kNoVector;
  std::fill(state_.queue_vectors.begin(), state_.queue_vectors.end(), kNoVector);
  msix_.reset();
  logic_.reset();
}

PciTransport::NotifyPlace PciTransport::notify_place(unsigned queue) const {
  return {&modern_, 3 * kPart + std::uint64_t{queue} * kNotifyMultiplier};
}

void PciTransport::bus_reset() {
  deps_.device.write_status(0);
  reset(core::ResetKind::warm);
}

Status PciTransport::validate(const PciState& incoming) const {
  HUSK_TRY(space_.validate(incoming.config, config_.id));
  HUSK_TRY(msix_.validate(incoming.msix, config_.id));
  if (incoming.queue_vectors.size() != state_.queue_vectors.size())
    return fail("the saved state of {} has {} queues, not {}", config_.id, incoming.queue_vectors.size(),
                state_.queue_vectors.size());
  const auto bad = [&](std::uint16_t vector) { return vector != kNoVector && vector >= msix_.vectors(); };
  if (bad(incoming.config_vector) || std::any_of(incoming.queue_vectors.begin(), incoming.queue_vectors.end(), bad))
    return fail("the saved state of {} has an MSI-X vector beyond its table", config_.id);
  return {};
}

void PciTransport::after_load() {
  logic_.after_load();
  logic_.restore_intx(state_.isr != 0 && !msix_.enabled());
}

// ---- configuration space ----

std::uint32_t PciTransport::read_config(unsigned offset, unsigned size) {
  // 4.1.4.9: the data field of the window capability is the access itself.
  if (offset >= window_at_ + 16 && offset < window_at_ + 20) {
    const auto length = static_cast<unsigned>(space_.get(window_at_ + 12, 4));
    const auto at = space_.get(window_at_ + 8, 4);
    if (space_.get(window_at_ + 4, 1) == kModernBar && (length == 1 || length == 2 || length == 4) &&
        at % length == 0 && range_within(at, length, kModernSize))
      space_.set(window_at_ + 16, 4, read_modern(at, length));
  }
  return logic_.read_config(offset, size);
}

void PciTransport::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  const bool was_enabled = msix_.enabled();
  logic_.write_config(offset, value, size);
  msix_.config_written();
  if (was_enabled != msix_.enabled()) logic_.set_intx(state_.isr != 0 && !msix_.enabled());
  if (offset >= window_at_ + 16 && offset < window_at_ + 20) {
    const auto length = static_cast<unsigned>(space_.get(window_at_ + 12, 4));
    const auto at = space_.get(window_at_ + 8, 4);
    if (space_.get(window_at_ + 4, 1) == kModernBar && (length == 1 || length == 2 || length == 4) &&
        at % length == 0 && range_within(at, length, kModernSize))
      write_modern(at, space_.get(window_at_ + 16, 4) & mask_of(length * 8), length);
  }
}

// ---- interrupts ----

void PciTransport::interrupt(std::uint16_t vector, std::uint8_t isr) {
  if (msix_.enabled()) {
    if (vector != kNoVector) msix_.notify(vector);
    return;
  }
  state_.isr |= isr;
  logic_.set_intx(true);
}

void PciTransport::queue_used(unsigned queue) { interrupt(state_.queue_vectors[queue], 1); }
void PciTransport::config_changed() { interrupt(state_.config_vector, 2); }

std::uint8_t PciTransport::read_isr() {
  // 4.1.4.5: reading clears it and takes the interrupt back.
  const std::uint8_t value = std::exchange(state_.isr, std::uint8_t{0});
  logic_.set_intx(false);
  return value;
}

std::uint16_t PciTransport::checked_vector(std::uint64_t value) const {
  return value < msix_.vectors() ? static_cast<std::uint16_t>(value) : kNoVector;
}

void PciTransport::write_status(std::uint8_t value) {
  if (value == 0) {
    state_.isr = 0;
    logic_.set_intx(false);
    state_.device_feature_select = state_.driver_feature_select = 0;
    state_.queue_select = 0;
    state_.config_vector = kNoVector;
    std::fill(state_.queue_vectors.begin(), state_.queue_vectors.end(), kNoVector);
  }
  deps_.device.write_status(value);
}

// ---- modern ----

std::uint64_t PciTransport::read_modern(std::uint64_t offset, unsigned size) {
  switch (offset / kPart) {
    case 0: {
      // Fields may be read by their bytes; 64-bit ones as two halves (4.1.3.1).
      std::uint64_t value = 0;
      for (unsigned i = 0; i < size; ++i) {
        const std::uint64_t at = offset + i;
        std::uint64_t start = at & ~std::uint64_t{3};
        if (start >= kConfigVector && start < kQueueDescriptors) start = at & ~std::uint64_t{1};
        if (at == kDeviceStatus || at == kConfigGeneration) start = at;
        if (start >= kQueueDescriptors && start < kQueueNotifyData) start = at & ~std::uint64_t{7};
        if (start >= kQueueNotifyData) start = at & ~std::uint64_t{1};
        value |= ((read_common(start) >> ((at - start) * 8)) & 0xFF) << (i * 8);
      }
      return value;
    }
    case 1: return offset == kPart ? read_isr() : 0;
    case 2: return deps_.device.read_config(offset - 2 * kPart, size);
    default: return 0;
  }
}

void PciTransport::write_modern(std::uint64_t offset, std::uint64_t value, unsigned size) {
  switch (offset / kPart) {
    case 0: return write_common(offset, value, size);
    case 2: return deps_.device.write_config(offset - 2 * kPart, value, size);
    case 3: return deps_.device.notify(static_cast<unsigned>((offset - 3 * kPart) / kNotifyMultiplier));
    default: return;
  }
}

std::uint64_t PciTransport::read_common(std::uint64_t offset) {
  VirtioDevice& device = deps_.device;
  const bool exists = state_.queue_select < device.queue_count();
  static const QueueState kNone{};
  const QueueState& queue = exists ? device.queue_state(state_.queue_select) : kNone;
  switch (offset) {
    case kDeviceFeatureSelect: return state_.device_feature_select;
    case kDeviceFeature:
      return state_.device_feature_select > 1
                 ? 0
                 : (device.offered_features() >> (32 * state_.device_feature_select)) & 0xFFFFFFFF;
    case kDriverFeatureSelect: return state_.driver_feature_select;
    case kDriverFeature:
      return state_.driver_feature_select > 1
                 ? 0
                 : (device.driver_features() >> (32 * state_.driver_feature_select)) & 0xFFFFFFFF;
    case kConfigVector: return state_.config_vector;
    case kNumberOfQueues: return device.queue_count();
    case kDeviceStatus: return device.status();
    case kConfigGeneration: return device.config_generation() & 0xFF;
    case kQueueSelect: return state_.queue_select;
    case kQueueSize: return queue.size;
    case kQueueVector: return exists ? state_.queue_vectors[state_.queue_select] : kNoVector;
    case kQueueEnable: return queue.ready;
    case kQueueNotifyOffset: return exists ? state_.queue_select : 0u;
    case kQueueDescriptors: return queue.descriptors;
    case kQueueDriver: return queue.driver_area;
    case kQueueDevice: return queue.device_area;
    case kQueueNotifyData: return state_.queue_select;
    case kQueueReset: return exists && device.queue_resetting(state_.queue_select);
    default: return 0;
  }
}

void PciTransport::write_common(std::uint64_t offset, std::uint64_t value, unsigned size) {
  VirtioDevice& device = deps_.device;
  QueueState* const queue = device.configure(state_.queue_select);
  const bool exists = state_.queue_select < device.queue_count();
  const auto part = [&](std::uint64_t& address, std::uint64_t at) {
    const unsigned shift = static_cast<unsigned>(at) * 8;
    const std::uint64_t mask = mask_of(std::min(size * 8, 64 - shift), shift);
    address = (address & ~mask) | ((value << shift) & mask);
  };
  const auto word = static_cast<std::uint32_t>(value);
  switch (offset) {
    case kDeviceFeatureSelect: state_.device_feature_select = word; return;
    case kDriverFeatureSelect: state_.driver_feature_select = word; return;
    case kDriverFeature: return device.set_driver_features(state_.driver_feature_select, word);
    case kConfigVector: state_.config_vector = checked_vector(value & 0xFFFF); return;
    case kDeviceStatus: return write_status(static_cast<std::uint8_t>(value));
    case kQueueSelect: state_.queue_select = static_cast<std::uint16_t>(value); return;
    case kQueueSize:
      if (queue && value <= device.queue_most(state_.queue_select)) queue->size = static_cast<std::uint16_t>(value);
      return;
    case kQueueVector:
      if (exists) state_.queue_vectors[state_.queue_select] = checked_vector(value & 0xFFFF);
      return;
    case kQueueEnable:
      // 4.1.4.3.2: a driver must not write 0.
      if (value == 1) device.enable_queue(state_.queue_select);
      return;
    case kQueueReset:
      if (value == 1) device.reset_queue(state_.queue_select);
      return;
    default: break;
  }
  if (!queue || offset < kQueueDescriptors || offset >= kQueueNotifyData) return;
  std::uint64_t& address = offset < kQueueDriver   ? queue->descriptors
                           : offset < kQueueDevice ? queue->driver_area
                                                   : queue->device_area;
  part(address, offset & 7);
}

// ---- legacy (4.1.4.10) ----

std::uint64_t PciTransport::read_legacy(std::uint64_t offset, unsigned size) {
  VirtioDevice& device = deps_.device;
  if (offset >= legacy_config_at()) return device.read_config(offset - legacy_config_at(), size);
  const bool exists = state_.queue_select < device.queue_count();
  switch (offset) {
    case 0: return device.offered_features() & 0xFFFFFFFF;
    case 4: return device.driver_features() & 0xFFFFFFFF;
    case 8:
      return exists && device.queue_state(state_.queue_select).ready
                 ? device.queue_state(state_.queue_select).descriptors >> 12
                 : 0;
    case 12: return exists ? device.queue_most(state_.queue_select) : 0;
    case 14: return state_.queue_select;
    case 18: return device.status();
    case 19: return read_isr();
    case 20: return state_.config_vector;
    case 22: return exists ? state_.queue_vectors[state_.queue_select] : kNoVector;
    default: return 0;
  }
}

void PciTransport::write_legacy(std::uint64_t offset, std::uint64_t value, unsigned size) {
  VirtioDevice& device = deps_.device;
  if (offset >= legacy_config_at()) return device.write_config(offset - legacy_config_at(), value, size);
  switch (offset) {
    case 4:
      device.set_driver_features(0, static_cast<std::uint32_t>(value));
      device.set_driver_features(1, 0);
      return;
    case 8: return set_legacy_queue(static_cast<std::uint32_t>(value));
    case 14: state_.queue_select = static_cast<std::uint16_t>(value); return;
    case 16: return device.notify(static_cast<unsigned>(value & 0xFFFF));
    case 18: return write_status(static_cast<std::uint8_t>(value));
    case 20: state_.config_vector = checked_vector(value & 0xFFFF); return;
    case 22:
      if (state_.queue_select < state_.queue_vectors.size())
        state_.queue_vectors[state_.queue_select] = checked_vector(value & 0xFFFF);
      return;
    default: return;
  }
}

void PciTransport::set_legacy_queue(std::uint32_t page_number) {
  VirtioDevice& device = deps_.device;
  if (page_number == 0) return device.disable_queue(state_.queue_select);
  QueueState* const queue = device.configure(state_.queue_select);
  if (!queue) return;
  // 2.7.2: descriptors, available ring with its event field, and on the next page the used ring.
  const std::uint64_t size = queue->size = device.queue_most(state_.queue_select);
  queue->descriptors = std::uint64_t{page_number} << 12;
  queue->driver_area = queue->descriptors + size * 16;
  queue->device_area = align_up(queue->driver_area + 6 + size * 2, 4096u);
  device.enable_queue(state_.queue_select);
}

}  // namespace husk::devices::virtio
