// husk: virtio devices on a board's PCI bus
#include "machine/virtio_devices.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include <cstring>

#include "base/bits.h"
#include "devices/scsi/cdrom.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/fs.h"
#include "devices/virtio/net.h"
#include "devices/virtio/pmem.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/scsi.h"
#include "devices/virtio/vsock.h"

namespace husk::machine {

namespace {

namespace virtio = devices::virtio;

virtio::RingOptions ring_options(const VirtioPlace& place) {
  return {.packed = place.packed,
          .event_index = place.event_index,
          .indirect = place.indirect,
          .in_order = place.in_order,
          .ring_reset = place.queue_reset};
}

void fill_random(std::span<std::uint8_t> into) {
  while (!into.empty()) {
    // Small reads of the kernel's generator neither block nor fail once it is seeded; large ones may be cut short.
    const ssize_t got = ::getrandom(into.data(), std::min<std::size_t>(into.size(), 256), 0);
    if (got > 0) into = into.subspan(static_cast<std::size_t>(got));
  }
}

/// Guest memory that the guest does not need: the host's pages inside go, and read as zeroes from then on.
void give_back(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t first = align_up(offset, page);
  const std::uint64_t end = align_down(offset + length, page);
  if (first >= end) return;
  if (::madvise(ram.data() + first, end - first, MADV_DONTNEED) == 0) ram.note_write(first, end - first);
}

std::string_view kind_name(const VirtioConfig& config) {
  static constexpr std::string_view kNames[] = {"virtio_rng",  "virtio_blk",     "virtio_net", "virtio_console",
                                                "virtio_9p",   "virtio_balloon", "virtio_fs",  "virtio_vsock",
                                                "virtio_scsi", "virtio_pmem"};
  return kNames[config.index()];
}

core::BlockErrorPolicy policy_of(const DiskErrorConfig& config) {
  const core::BlockErrorPolicy defaults;
  return {config.read.value_or(defaults.read), config.write.value_or(defaults.write)};
}

/// What husk calls itself where the user has not given another name.
devices::scsi::Identity identity_of(const ScsiUnitConfig& config) {
  devices::scsi::Identity who{.product = config.cdrom ? "HUSK CD-ROM" : "HUSK HARDDISK"};
  if (!config.vendor.empty()) who.vendor = config.vendor;
  if (!config.product.empty()) who.product = config.product;
  if (!config.revision.empty()) who.revision = config.revision;
  who.serial = config.serial;
  who.name = !config.name.empty() ? config.name : !config.serial.empty() ? config.serial : config.drive;
  who.wwn = config.wwn;
  return who;
}

}  // namespace

VirtioDevices::~VirtioDevices() {
  // Backends end what is under way before the devices that it belongs to go.
  for (auto& attached : attached_) {
    if (attached->block) attached->block->drain([] {});
    for (auto& unit : attached->units) unit->drain([] {});
    if (attached->fs) attached->fs->drain();
    if (attached->pmem) attached->pmem->drain();
  }
}

Status VirtioDevices::add(const VirtioSpec& spec) {
  const VirtioPlace& place = std::visit([](const auto& one) -> const VirtioPlace& { return one.place; }, spec.config);
  const std::string id = fmt::format("{}{}", kind_name(spec.config), attached_.size());
  auto attached = std::make_unique<Attached>();
  attached->domain = std::make_unique<mem::LockDomain>();
  attached->clock = deps_.clock.for_domain(attached->domain.get());
  HUSK_TRY(std::visit([&](const auto& config) { return make(*attached, config, spec, id); }, spec.config));
  const auto device = place.address ? place.address : deps_.bus.free_device();
  if (!device || *device > 30)
    return fail("{}: there is no room for another device on the PCI bus", place.id.empty() ? id : place.id);
  auto transport = virtio::PciTransport::create(
      {deps_.memory_space, deps_.io_space, attached->domain.get(), deps_.msi, deps_.bus, *attached->virtio},
      {.id = id + "_pci", .devfn = devices::pci::devfn(*device, 0), .legacy = place.legacy, .vectors = place.vectors});
  if (!transport) return std::unexpected(std::move(transport).error());
  attached->transport = std::move(*transport);
  deps_.add(*attached->transport, attached->domain.get());
  deps_.add(*attached->device, attached->domain.get());
  attached_.push_back(std::move(attached));
  return {};
}

void VirtioDevices::answer(Attached& attached, unsigned queue) {
  if (attached.bells[queue].event.take() == 0) return;
  const mem::DomainGuard guard(attached.domain.get());
  attached.virtio->notify(queue);
}

Result<std::vector<accel::Doorbell>> VirtioDevices::doorbells() {
  std::vector<accel::Doorbell> all;
  for (auto& attached : attached_) {
    // It does much of the work of a request on the thread that notifies, for each CPU apart.
    if (attached->fs) continue;
    for (unsigned queue = static_cast<unsigned>(attached->bells.size()); queue < attached->virtio->queue_count();
         ++queue) {
      host::EventFd event = HUSK_TRY(host::EventFd::create());
      auto watch = HUSK_TRY(deps_.loop.watch(event.fd(), host::EventLoop::kReadable,
                                             [&one = *attached, queue](auto) { answer(one, queue); }));
      attached->bells.push_back({std::move(event), std::move(watch)});
    }
    for (unsigned queue = 0; queue < attached->bells.size(); ++queue) {
      const auto place = attached->transport->notify_place(queue);
      all.push_back({place.handler, place.offset, attached->bells[queue].event.fd()});
    }
  }
  return all;
}

void VirtioDevices::answer_doorbells() {
  for (auto& attached : attached_)
    for (unsigned queue = 0; queue < attached->bells.size(); ++queue) answer(*attached, queue);
}

Status VirtioDevices::make(Attached& attached, const VirtioRngConfig& config, const VirtioSpec&,
                           const std::string& id) {
  keep(attached, std::make_unique<virtio::Rng>(environment(attached), fill_random,
                                               virtio::Rng::Config{.id = id,
                                                                   .max_bytes = config.max_bytes,
                                                                   .period_ns = config.period_ns,
                                                                   .ring = ring_options(config.place)}));
  return {};
}

Status VirtioDevices::make(Attached& attached, const VirtioBlkConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (!spec.block) return fail("{} has no drive", id);
  attached.block = HUSK_TRY(spec.block(*attached.domain, id));
  keep(attached, HUSK_TRY(virtio::Blk::create(environment(attached), *attached.block,
                                              {.id = id,
                                               .queues = config.queues ? config.queues : std::min(deps_.cpus, 64u),
                                               .queue_size = config.queue_size,
                                               .serial = config.serial,
                                               .logical_block = config.logical_block,
                                               .physical_block = config.physical_block,
                                               .min_io = config.min_io,
                                               .opt_io = config.opt_io,
                                               .discard_granularity = config.discard_granularity,
                                               .discard = config.discard,
                                               .write_zeroes = config.write_zeroes,
                                               .writeback = config.writeback,
                                               .policy = policy_of(config.errors),
                                               .stop = stop_for(config.place.id.empty() ? id : config.place.id),
                                               .ring = ring_options(config.place)})));
  return {};
}

core::BlockStop VirtioDevices::stop_for(std::string disk) const {
  if (!deps_.stop) return {};
  return [this, disk = std::move(disk)](int error, bool writing) {
    deps_.stop(fmt::format("{}: a {} failed: {}", disk, writing ? "write" : "read", std::strerror(error)));
  };
}

Status VirtioDevices::make(Attached& attached, const VirtioScsiConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  namespace scsi = devices::scsi;
  std::vector<virtio::Scsi::Place> places;
  for (std::size_t i = 0; i < config.units.size(); ++i) {
    const ScsiUnitConfig& unit = config.units[i];
    const std::string name =
        unit.id.empty() ? fmt::format("SCSI id {}, LUN {} of {}", unit.target, unit.lun, id) : unit.id;
    core::BlockBackend* backend = nullptr;
    if (i < spec.units.size() && spec.units[i]) {
      attached.units.push_back(HUSK_TRY(spec.units[i](*attached.domain, name)));
      backend = attached.units.back().get();
    }
    virtio::Scsi::Place place{unit.target, unit.lun, nullptr};
    const auto named = [&](Error error) { return std::unexpected(std::move(error).within(name)); };
    if (unit.cdrom) {
      auto made = scsi::Cdrom::create(backend, {.identity = identity_of(unit), .policy = policy_of(unit.errors)});
      if (!made) return named(std::move(made).error());
      place.unit = std::move(*made);
    } else {
      if (!backend) return fail("{} has no drive", name);
      auto made = scsi::Disk::create(*backend, {.identity = identity_of(unit),
                                                .logical_block = unit.logical_block,
                                                .physical_block = unit.physical_block,
                                                .min_io = unit.min_io,
                                                .opt_io = unit.opt_io,
                                                .discard_granularity = unit.discard_granularity,
                                                .rotation_rate = unit.rotation_rate,
                                                .removable = unit.removable,
                                                .write_cache = unit.writeback,
                                                .dpo_fua = unit.dpo_fua,
                                                .policy = policy_of(unit.errors)});
      if (!made) return named(std::move(made).error());
      place.unit = std::move(*made);
    }
    places.push_back(std::move(place));
  }
  keep(attached, HUSK_TRY(virtio::Scsi::create(environment(attached), std::move(places),
                                               {.id = id,
                                                .queues = config.queues ? config.queues : std::min(deps_.cpus, 64u),
                                                .queue_size = config.queue_size,
                                                .commands_per_unit = config.commands_per_unit,
                                                .max_sectors = config.max_sectors,
                                                .stop = stop_for(config.place.id.empty() ? id : config.place.id),
                                                .ring = ring_options(config.place)})));
  return {};
}

Status VirtioDevices::make(Attached& attached, const VirtioNetConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (spec.net) attached.net = HUSK_TRY(spec.net(*attached.domain, id));
  virtio::MacAddress mac{0x52, 0x54, 0x00, 0x12, 0x34, static_cast<std::uint8_t>(0x56 + net_cards_++)};
  if (config.mac) mac = *config.mac;
  keep(attached, std::make_unique<virtio::Net>(
                     environment(attached), attached.net.get(),
                     virtio::Net::Config{.id = id,
                                         .mac = mac,
                                         .pairs = std::clamp(spec.net_queues, 1u, virtio::Net::kMostPairs),
                                         .queue_size = config.queue_size,
                                         .mtu = config.mtu,
                                         .withheld = config.withheld,
                                         .ring = ring_options(config.place)}));
  return {};
}
Status VirtioDevices::make(Attached& attached, const VirtioConsoleConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  std::vector<virtio::Console::Port> ports;
  // Port 0 is reserved for a console (QEMU's virtio-serial keeps it free for one).
  if (config.ports.empty() || !config.ports.front().console) ports.push_back({});
  for (std::size_t i = 0; i < config.ports.size() && ports.size() < virtio::Console::kMostPorts; ++i) {
    const VirtioPortConfig& port = config.ports[i];
    core::CharBackend* backend = nullptr;
    if (i < spec.ports.size() && spec.ports[i]) {
      attached.ports.push_back(HUSK_TRY(spec.ports[i](*attached.domain, fmt::format("{} port {}", id, i))));
      backend = attached.ports.back().get();
    }
    ports.push_back({backend, port.name, port.console});
  }
  keep(attached,
       std::make_unique<virtio::Console>(environment(attached), std::move(ports),
                                         virtio::Console::Config{.id = id, .ring = ring_options(config.place)}));
  return {};
}
Status VirtioDevices::make(Attached& attached, const Virtio9pConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (!spec.fs) return fail("{} has no folder", id);
  attached.fs = HUSK_TRY(spec.fs(*attached.domain, id));
  keep(attached, HUSK_TRY(virtio::Fs::create(environment(attached), *attached.fs,
                                             {.id = id,
                                              .protocol = virtio::Fs::Protocol::ninep,
                                              .tag = config.tag,
                                              .queue_size = 128,
                                              .ring = ring_options(config.place)})));
  return {};
}
Status VirtioDevices::make(Attached& attached, const VirtioBalloonConfig& config, const VirtioSpec&,
                           const std::string& id) {
  keep(attached,
       std::make_unique<virtio::Balloon>(environment(attached), give_back,
                                         virtio::Balloon::Config{.id = id,
                                                                 .deflate_on_oom = config.deflate_on_oom,
                                                                 .free_page_reporting = config.free_page_reporting,
                                                                 .ring = ring_options(config.place)}));
  return {};
}
Status VirtioDevices::make(Attached& attached, const VirtioFsConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (!spec.fs) return fail("{} has no folder", id);
  attached.fs = HUSK_TRY(spec.fs(*attached.domain, id));
  keep(attached, HUSK_TRY(virtio::Fs::create(environment(attached), *attached.fs,
                                             {.id = id,
                                              .tag = config.tag,
                                              .queues = config.queues,
                                              .queue_size = config.queue_size,
                                              .ring = ring_options(config.place)})));
  return {};
}

Status VirtioDevices::make(Attached& attached, const VirtioVsockConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (!spec.vsock) return fail("{} has no sockets on the host", id);
  attached.vsock = HUSK_TRY(spec.vsock(*attached.domain, id));
  keep(attached,
       HUSK_TRY(virtio::Vsock::create(environment(attached), *attached.vsock,
                                      {.id = id, .guest_cid = config.guest_cid, .ring = ring_options(config.place)})));
  return {};
}

Status VirtioDevices::make(Attached& attached, const VirtioPmemConfig& config, const VirtioSpec& spec,
                           const std::string& id) {
  if (!spec.pmem) return fail("{} has no memory", id);
  attached.pmem = HUSK_TRY(spec.pmem(*attached.domain, id));
  auto placed = deps_.place_memory(attached.pmem->region());
  if (!placed) return std::unexpected(std::move(placed).error().within(config.place.id.empty() ? id : config.place.id));
  attached.memory = std::move(placed->mapping);
  keep(attached, std::make_unique<virtio::Pmem>(
                     environment(attached), *attached.pmem,
                     virtio::Pmem::Config{.id = id, .start = placed->start, .ring = ring_options(config.place)}));
  return {};
}

}  // namespace husk::machine
