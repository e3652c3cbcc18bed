// husk: virtio over MMIO
#include "devices/virtio/mmio.h"

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
/// Offsets of 4.2.2, table 4.1.
enum Register : std::uint64_t {
  kMagic = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00C,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMax = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDescriptors = 0x080,
  kQueueDriver = 0x090,
  kQueueDevice = 0x0A0,
  kSharedMemoryLength = 0x0B0,
  kSharedMemoryBase = 0x0B8,
  kQueueReset = 0x0C0,
  kConfigGeneration = 0x0FC,
  kConfig = 0x100,
};
}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(Deps deps, std::string id, mem::Gpa base) {
  std::unique_ptr<MmioTransport> transport(new MmioTransport(std::move(deps), std::move(id)));
  transport->deps_.device.connect(*transport, false);
  transport->mapping_ = HUSK_TRY(transport->deps_.memory.map(
      base, kSize, *transport, {.domain = transport->deps_.domain, .priority = 0, .name = transport->id_}));
  return transport;
}

void MmioTransport::reset(core::ResetKind) {
  state_ = {};
  deps_.line.set(false);
}

void MmioTransport::raise(std::uint32_t cause) {
  state_.interrupt_status |= cause;
  deps_.line.set(true);
}

std::uint64_t MmioTransport::read(const mem::Access& access) {
  if (access.offset >= kConfig) return deps_.device.read_config(access.offset - kConfig, access.size);
  // 4.2.2.2: the registers are 32 bits wide and aligned; anything else is a driver's mistake.
  return access.size == 4 && access.offset % 4 == 0 ? read_register(access.offset) : 0;
}

void MmioTransport::write(const mem::Access& access, std::uint64_t value) {
  if (access.offset >= kConfig)
    deps_.device.write_config(access.offset - kConfig, value, access.size);
  else if (access.size == 4 && access.offset % 4 == 0)
    write_register(access.offset, static_cast<std::uint32_t>(value));
}

std::uint32_t MmioTransport::read_register(std::uint64_t offset) {
  VirtioDevice& device = deps_.device;
  const bool queue = state_.queue_select < device.queue_count();
  switch (offset) {
    case kMagic: return 0x74726976;  // "virt"
    case kVersion: return 2;
    case kDeviceId: return static_cast<std::uint32_t>(device.type());
    case kVendorId: return 0x4B535548;  // "HUSK"
    case kDeviceFeatures:
      return state_.device_features_select > 1
                 ? 0
                 : static_cast<std::uint32_t>(device.offered_features() >> (32 * state_.device_features_select));
    case kQueueSizeMax: return queue ? device.queue_most(state_.queue_select) : 0;
    case kQueueReady: return queue && device.queue_state(state_.queue_select).ready;
    case kInterruptStatus: return state_.interrupt_status;
    case kStatus: return device.status();
    case kQueueReset: return queue && device.queue_resetting(state_.queue_select);
    // No shared memory region: length and base of all ones (4.2.2).
    case kSharedMemoryLength:
    case kSharedMemoryLength + 4:
    case kSharedMemoryBase:
    case kSharedMemoryBase + 4: return 0xFFFFFFFF;
    case kConfigGeneration: return device.config_generation();
    default: return 0;
  }
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value) {
  VirtioDevice& device = deps_.device;
  QueueState* const queue = device.configure(state_.queue_select);
  const auto half = [value](std::uint64_t& address, bool high) {
    address =
        high ? (address & 0xFFFFFFFF) | (std::uint64_t{value} << 32) : (address & ~std::uint64_t{0xFFFFFFFF}) | value;
  };
  switch (offset) {
    case kDeviceFeaturesSelect: state_.device_features_select = value; return;
    case kDriverFeaturesSelect: state_.driver_features_select = value; return;
    case kDriverFeatures: device.set_driver_features(state_.driver_features_select, value); return;
    case kQueueSelect: state_.queue_select = value; return;
    case kQueueSize:
      if (queue && value <= device.queue_most(state_.queue_select)) queue->size = static_cast<std::uint16_t>(value);
      return;
    case kQueueReady:
      if (value)
        device.enable_queue(state_.queue_select);
      else
        device.disable_queue(state_.queue_select);
      return;
    case kQueueNotify: device.notify(value & 0xFFFF); return;
    case kInterruptAck:
      state_.interrupt_status &= ~value;
      deps_.line.set(state_.interrupt_status != 0);
      return;
    case kStatus:
      if (value == 0) reset(core::ResetKind::warm);
      device.write_status(static_cast<std::uint8_t>(value));
      return;
    case kQueueDescriptors:
    case kQueueDescriptors + 4:
      if (queue) half(queue->descriptors, offset & 4);
      return;
    case kQueueDriver:
    case kQueueDriver + 4:
      if (queue) half(queue->driver_area, offset & 4);
      return;
    case kQueueDevice:
    case kQueueDevice + 4:
      if (queue) half(queue->device_area, offset & 4);
      return;
    case kQueueReset:
      if (value & 1) device.reset_queue(state_.queue_select);
      return;
    default: return;
  }
}

}  // namespace husk::devices::virtio
