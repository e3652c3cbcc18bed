// husk: QEMU's options for virtio devices, disks and folders
#include "app/qemu_virtio.h"

#include <algorithm>
#include <array>
#include <utility>

#include "app/qemu_network.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

constexpr std::array<std::string_view, 27> kNames = {"virtio-pmem-pci",
                                                     "virtio-pmem",
                                                     "virtio-rng-pci",
                                                     "virtio-blk-pci",
                                                     "virtio-net-pci",
                                                     "virtio-serial-pci",
                                                     "virtio-9p-pci",
                                                     "virtio-fs-pci",
                                                     "virtio-balloon-pci",
                                                     "virtio-vsock-pci",
                                                     "virtio-rng",
                                                     "virtio-blk",
                                                     "virtio-net",
                                                     "virtio-serial",
                                                     "virtio-9p",
                                                     "virtio-fs",
                                                     "virtio-balloon",
                                                     "virtconsole",
                                                     "virtserialport",
                                                     "virtio-rng-pci-non-transitional",
                                                     "virtio-scsi-pci",
                                                     "virtio-scsi",
                                                     "scsi-hd",
                                                     "scsi-cd",
                                                     "virtio-blk-pci-non-transitional",
                                                     "virtio-net-pci-non-transitional",
                                                     "virtio-rng-pci-transitional"};

/// The name without what only says how it is attached.
struct Kind {
  std::string name;
  std::optional<bool> legacy;
};
Kind kind_of(std::string_view driver) {
  Kind kind{std::string(driver), {}};
  const auto drop = [&](std::string_view suffix) {
    const bool there = kind.name.ends_with(suffix);
    if (there) kind.name.resize(kind.name.size() - suffix.size());
    return there;
  };
  if (drop("-non-transitional")) kind.legacy = false;
  if (drop("-transitional")) kind.legacy = true;
  drop("-pci");
  return kind;
}

Result<machine::VirtioPlace> take_place(Properties& p, const Kind& kind, bool has_legacy) {
  machine::VirtioPlace place;
  const machine::PciPlace pci = HUSK_TRY(take_pci_place(p));
  place.id = pci.id;
  place.address = pci.address;
  HUSK_TRY(p.take_fixed("iommu_platform", {"off"}));
  HUSK_TRY(p.take_fixed("disable-modern", {"off"}));
  place.legacy = kind.legacy.value_or(false);
  if (const auto disable = p.take("disable-legacy"))
    if (*disable != "auto") place.legacy = !HUSK_TRY(machine::parse_bool(*disable));
  if (place.legacy && !has_legacy) return refuse(p.what() + " has no legacy form", "leave disable-legacy=off out");
  place.packed = HUSK_TRY(p.take_bool("packed", false));
  place.in_order = HUSK_TRY(p.take_bool("in_order", false));
  place.event_index = HUSK_TRY(p.take_bool("event_idx", true));
  place.indirect = HUSK_TRY(p.take_bool("indirect_desc", true));
  place.queue_reset = HUSK_TRY(p.take_bool("queue_reset", true));
  place.vectors = static_cast<unsigned>(HUSK_TRY(p.take_number("vectors", 0, 2048)));
  return place;
}

template <class T>
T narrow(std::uint64_t value) {
  return static_cast<T>(value);
}

Status add_rng(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioRngConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  static_cast<void>(p.take("rng"));
  if (const auto most = p.take("max-bytes")) device.max_bytes = HUSK_TRY(machine::parse_size(*most, 1));
  device.period_ns = 1'000'000 * HUSK_TRY(p.take_number("period", 65536, 1'000'000'000));
  if (device.period_ns == 0) return refuse("virtio-rng cannot have period=0", "give milliseconds");
  config.virtio.emplace_back(device);
  return {};
}

/// QEMU's names; `auto` (and none given) is what the drive has.
Result<std::optional<core::OnBlockError>> take_policy(Properties& p, std::string_view key, bool reads) {
  static constexpr std::array<std::string_view, 4> kPolicies = {"report", "ignore", "stop", "enospc"};
  const auto text = p.take(key);
  if (!text || *text == "auto") return std::nullopt;
  const auto found = std::find(kPolicies.begin(), kPolicies.end(), *text);
  if (found == kPolicies.end() || (reads && *text == "enospc"))
    return refuse(fmt::format("{} cannot have {}={}", p.what(), key, *text),
                  fmt::format("choose report, ignore{} stop{}", reads ? " or" : ",", reads ? "" : " or enospc"));
  return static_cast<core::OnBlockError>(found - kPolicies.begin());
}
Result<machine::DiskErrorConfig> take_errors(Properties& p) {
  return machine::DiskErrorConfig{.read = HUSK_TRY(take_policy(p, "rerror", true)),
                                  .write = HUSK_TRY(take_policy(p, "werror", false))};
}

Result<machine::VirtioBlkConfig> take_blk(Properties& p, const Kind& kind) {
  machine::VirtioBlkConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  device.drive = p.take("drive").value_or("");
  device.serial = p.take("serial").value_or("");
  if (device.serial.size() > 20)
    return refuse(fmt::format("the serial '{}' is longer than 20 bytes", device.serial), "give a shorter one");
  device.queues = narrow<unsigned>(HUSK_TRY(p.take_number("num-queues", 0, 1024)));
  device.queue_size = narrow<std::uint16_t>(HUSK_TRY(p.take_number("queue-size", device.queue_size, 1024)));
  device.logical_block = narrow<std::uint32_t>(HUSK_TRY(p.take_number("logical_block_size", 512, 2 << 20)));
  device.physical_block =
      narrow<std::uint32_t>(HUSK_TRY(p.take_number("physical_block_size", device.logical_block, 2 << 20)));
  device.min_io = narrow<std::uint32_t>(HUSK_TRY(p.take_number("min_io_size", 0, 65535)));
  device.opt_io = narrow<std::uint32_t>(HUSK_TRY(p.take_number("opt_io_size", 0, 0xffffffff)));
  device.discard_granularity = narrow<std::uint32_t>(HUSK_TRY(p.take_number("discard_granularity", 0, 0x7fffffff)));
  device.discard = HUSK_TRY(p.take_bool("discard", true));
  device.write_zeroes = HUSK_TRY(p.take_bool("write-zeroes", true));
  if (const auto cache = p.take("write-cache"))
    if (*cache != "auto") device.writeback = HUSK_TRY(machine::parse_bool(*cache));
  HUSK_TRY(p.take_fixed("scsi", {"off"}));
  HUSK_TRY(p.take_fixed("config-wce", {"on"}));
  HUSK_TRY(p.take_fixed("share-rw", {"off"}));
  device.errors = HUSK_TRY(take_errors(p));
  static_cast<void>(p.take("bootindex"));
  static_cast<void>(p.take("iothread"));
  return device;
}

Status add_blk(MachineConfig& config, const Kind& kind, Properties& p) {
  auto device = HUSK_TRY(take_blk(p, kind));
  if (device.drive.empty())
    return refuse("virtio-blk has no drive", "give drive=ID and -drive file=FILE,if=none,id=ID");
  config.virtio.emplace_back(std::move(device));
  return {};
}

Result<machine::VirtioScsiConfig> take_scsi(Properties& p, const Kind& kind) {
  machine::VirtioScsiConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  device.queues = narrow<unsigned>(HUSK_TRY(p.take_number("num_queues", 0, 1024)));
  device.queue_size = narrow<std::uint16_t>(HUSK_TRY(p.take_number("virtqueue_size", device.queue_size, 1024)));
  device.max_sectors = narrow<std::uint32_t>(HUSK_TRY(p.take_number("max_sectors", device.max_sectors, 0xffffffff)));
  device.commands_per_unit =
      narrow<std::uint32_t>(HUSK_TRY(p.take_number("cmd_per_lun", device.commands_per_unit, 0xffffffff)));
  if (device.max_sectors == 0 || device.commands_per_unit == 0)
    return refuse("virtio-scsi cannot have max_sectors=0 or cmd_per_lun=0", "leave them out");
  HUSK_TRY(p.take_fixed("hotplug", {"on"}));
  HUSK_TRY(p.take_fixed("param_change", {"on"}));
  HUSK_TRY(p.take_fixed("t10_pi", {"off"}));
  static_cast<void>(p.take("iothread"));
  return device;
}

bool is_taken(const machine::VirtioScsiConfig& controller, unsigned target, unsigned lun) {
  return std::any_of(controller.units.begin(), controller.units.end(),
                     [&](const auto& unit) { return unit.target == target && unit.lun == lun; });
}

/// Where the unit is, and as in QEMU the first place that is free where nothing is said.
Status place_unit(machine::VirtioScsiConfig& controller, machine::ScsiUnitConfig unit,
                  std::optional<std::uint64_t> target, std::optional<std::uint64_t> lun) {
  unit.target = narrow<unsigned>(target.value_or(0));
  unit.lun = narrow<unsigned>(lun.value_or(0));
  if (!target)
    while (unit.target < 255 && is_taken(controller, unit.target, unit.lun)) ++unit.target;
  else if (!lun)
    while (unit.lun < 16383 && is_taken(controller, unit.target, unit.lun)) ++unit.lun;
  if (is_taken(controller, unit.target, unit.lun))
    return refuse(fmt::format("SCSI id {}, LUN {} is taken", unit.target, unit.lun), "give another scsi-id or lun");
  controller.units.push_back(std::move(unit));
  return {};
}

Result<std::uint64_t> take_wwn(Properties& p) {
  const auto text = p.take("wwn");
  if (!text) return 0;
  std::string digits = *text;
  if (digits.starts_with("0x")) digits.erase(0, 2);
  if (digits.empty() || digits.size() > 16 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    return refuse(fmt::format("'{}' is no world-wide name", *text), "write 16 hexadecimal digits: 0x5000c50015ea71ac");
  return std::stoull(digits, nullptr, 16);
}

Result<std::optional<std::uint64_t>> take_optional(Properties& p, std::string_view key, std::uint64_t most) {
  if (const auto text = p.take(key)) {
    auto number = machine::parse_number(*text, most);
    if (!number) return std::unexpected(std::move(number).error().within(fmt::format("{}: {}", p.what(), key)));
    return *number;
  }
  return std::nullopt;
}

/// A text that INQUIRY has room for.
Result<std::string> take_name(Properties& p, std::string_view key, std::size_t most) {
  std::string text = p.take(key).value_or("");
  if (text.size() > most)
    return refuse(fmt::format("{}: {}={} is longer than {} bytes", p.what(), key, text, most), "give a shorter one");
  return text;
}

Status add_scsi_unit(MachineConfig& config, bool cdrom, Properties& p) {
  machine::ScsiUnitConfig unit;
  unit.cdrom = cdrom;
  unit.id = p.take("id").value_or("");
  unit.drive = p.take("drive").value_or("");
  unit.serial = HUSK_TRY(take_name(p, "serial", 36));
  unit.vendor = HUSK_TRY(take_name(p, "vendor", 8));
  unit.product = HUSK_TRY(take_name(p, "product", 16));
  unit.revision = HUSK_TRY(take_name(p, "ver", 4));
  unit.name = HUSK_TRY(take_name(p, "device_id", 64));
  unit.wwn = HUSK_TRY(take_wwn(p));
  HUSK_TRY(p.take_fixed("channel", {"0"}));
  HUSK_TRY(p.take_fixed("share-rw", {"off"}));
  static_cast<void>(p.take("bootindex"));
  const auto target = HUSK_TRY(take_optional(p, "scsi-id", 255));
  const auto lun = HUSK_TRY(take_optional(p, "lun", 16383));
  unit.errors = HUSK_TRY(take_errors(p));
  if (cdrom) {
    unit.logical_block = unit.physical_block = 2048;
    HUSK_TRY(p.take_fixed("logical_block_size", {"2048"}));
    HUSK_TRY(p.take_fixed("physical_block_size", {"2048"}));
  } else {
    unit.logical_block = narrow<std::uint32_t>(HUSK_TRY(p.take_number("logical_block_size", 512, 32768)));
    unit.physical_block =
        narrow<std::uint32_t>(HUSK_TRY(p.take_number("physical_block_size", unit.logical_block, 32768)));
    unit.min_io = narrow<std::uint32_t>(HUSK_TRY(p.take_number("min_io_size", 0, 0x7fffffff)));
    unit.opt_io = narrow<std::uint32_t>(HUSK_TRY(p.take_number("opt_io_size", 0, 0x7fffffff)));
    unit.discard_granularity = narrow<std::uint32_t>(HUSK_TRY(p.take_number("discard_granularity", 0, 0x7fffffff)));
    unit.rotation_rate = narrow<std::uint16_t>(HUSK_TRY(p.take_number("rotation_rate", 0, 65534)));
    unit.removable = HUSK_TRY(p.take_bool("removable", false));
    unit.dpo_fua = HUSK_TRY(p.take_bool("dpofua", true));
    if (const auto cache = p.take("write-cache"))
      if (*cache != "auto") unit.writeback = HUSK_TRY(machine::parse_bool(*cache));
    if (unit.drive.empty()) return refuse("scsi-hd has no drive", "give drive=ID and -drive file=FILE,if=none,id=ID");
  }
  // "ID.0" of the controller; without it, the last one.
  std::string bus = p.take("bus").value_or("");
  if (bus.ends_with(".0")) bus.resize(bus.size() - 2);
  for (auto device = config.virtio.rbegin(); device != config.virtio.rend(); ++device) {
    auto* controller = std::get_if<machine::VirtioScsiConfig>(&*device);
    if (controller && (bus.empty() || controller->place.id == bus))
      return place_unit(*controller, std::move(unit), target, lun);
  }
  if (!bus.empty())
    return refuse(fmt::format("{}: there is no SCSI controller '{}'", p.what(), bus),
                  fmt::format("give -device virtio-scsi-pci,id={} before it", bus));
  return refuse(fmt::format("{}: there is no SCSI controller", p.what()), "give -device virtio-scsi-pci before it");
}

/// For husk run, which makes the controller of a unit itself.
Status add_unit_of_run(MachineConfig& config, machine::ScsiUnitConfig unit) {
  for (machine::VirtioConfig& device : config.virtio)
    if (auto* controller = std::get_if<machine::VirtioScsiConfig>(&device))
      return place_unit(*controller, std::move(unit), {}, {});
  machine::VirtioScsiConfig controller;
  controller.units.push_back(std::move(unit));
  config.virtio.emplace_back(std::move(controller));
  return {};
}

/// The feature bits (virtio 1.2, 5.1.3) that are switched off by QEMU's names for them.
Result<std::uint64_t> take_net_features(Properties& p) {
  static constexpr std::pair<std::string_view, unsigned> kFeatures[] = {{"csum", 0},
                                                                        {"guest_csum", 1},
                                                                        {"ctrl_guest_offloads", 2},
                                                                        {"guest_tso4", 7},
                                                                        {"guest_tso6", 8},
                                                                        {"guest_ecn", 9},
                                                                        {"host_tso4", 11},
                                                                        {"host_tso6", 12},
                                                                        {"host_ecn", 13},
                                                                        {"mrg_rxbuf", 15},
                                                                        {"status", 16},
                                                                        {"ctrl_vq", 17},
                                                                        {"ctrl_rx", 18},
                                                                        {"ctrl_vlan", 19},
                                                                        {"ctrl_rx_extra", 20},
                                                                        {"guest_announce", 21},
                                                                        {"ctrl_mac_addr", 23}};
  std::uint64_t withheld = 0;
  for (const auto& [name, bit] : kFeatures)
    if (!HUSK_TRY(p.take_bool(name, true))) withheld |= std::uint64_t{1} << bit;
  // Both ways of segmentation at once.
  if (!HUSK_TRY(p.take_bool("gso", true))) withheld |= (7u << 11) | (7u << 7);
  // UDP's was never asked for by Linux' driver since 4.14, and husk does not offer it.
  HUSK_TRY(p.take_fixed("host_ufo", {"off"}));
  HUSK_TRY(p.take_fixed("guest_ufo", {"off"}));
  return withheld;
}

Result<machine::VirtioNetConfig> take_net(Properties& p, const Kind& kind) {
  machine::VirtioNetConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  device.netdev = p.take("netdev").value_or("");
  if (const auto mac = p.take("mac")) device.mac = HUSK_TRY(parse_mac(*mac));
  device.queue_size = narrow<std::uint16_t>(HUSK_TRY(p.take_number("rx_queue_size", 256, 1024)));
  if (const auto send = HUSK_TRY(p.take_number("tx_queue_size", device.queue_size, 1024)); send != device.queue_size)
    return refuse(fmt::format("{}: its queues are all of one size, not {} and {}", p.what(), device.queue_size, send),
                  "give rx_queue_size and tx_queue_size alike");
  device.mtu = narrow<std::uint16_t>(HUSK_TRY(p.take_number("host_mtu", 0, 65535)));
  device.withheld = HUSK_TRY(take_net_features(p));
  device.multi_queue = HUSK_TRY(p.take_bool("mq", false));
  static_cast<void>(p.take("bootindex"));
  static_cast<void>(p.take("romfile"));
  return device;
}

Status add_serial(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioConsoleConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  static_cast<void>(HUSK_TRY(p.take_number("max_ports", 31, 31)));
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status add_port(MachineConfig& config, bool console, Properties& p) {
  machine::VirtioPortConfig port;
  port.console = console;
  port.chardev = p.take("chardev").value_or("");
  port.name = p.take("name").value_or("");
  static_cast<void>(p.take("id"));
  // "ID.0" or "ID" of the device; without it, the last one.
  std::string bus = p.take("bus").value_or("");
  if (bus.ends_with(".0")) bus.resize(bus.size() - 2);
  for (auto device = config.virtio.rbegin(); device != config.virtio.rend(); ++device) {
    auto* serial = std::get_if<machine::VirtioConsoleConfig>(&*device);
    if (!serial || (!bus.empty() && serial->place.id != bus)) continue;
    // Port 0 is a console's.
    const bool console_first = serial->ports.empty() ? console : serial->ports.front().console;
    const std::size_t number = serial->ports.size() + (console_first ? 0 : 1);
    if (number >= 31) return refuse("the virtio-serial device has 31 ports already", "add another one");
    if (HUSK_TRY(p.take_number("nr", number, 30)) != number)
      return refuse(fmt::format("{}: ports are numbered as they are given, and this one is {}", p.what(), number),
                    "leave nr out, or give the ports in their order");
    serial->ports.push_back(std::move(port));
    return {};
  }
  if (!bus.empty())
    return refuse(fmt::format("{}: there is no virtio-serial device '{}'", p.what(), bus),
                  fmt::format("give -device virtio-serial-pci,id={} before it", bus));
  return refuse("there is no virtio-serial device for this port", "give -device virtio-serial-pci before it");
}

Status add_fs(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioFsConfig device;
  device.place = HUSK_TRY(take_place(p, kind, false));
  device.tag = p.take("tag").value_or("");
  device.folder = p.take("fsdev").value_or("");
  device.queues = narrow<unsigned>(HUSK_TRY(p.take_number("num-request-queues", 1, 64)));
  device.queue_size = narrow<std::uint16_t>(HUSK_TRY(p.take_number("queue-size", device.queue_size, 1024)));
  if (device.queues == 0) return refuse("virtio-fs cannot have num-request-queues=0", "give 1 to 64");
  const auto folder = std::find_if(config.folders.begin(), config.folders.end(),
                                   [&](const machine::SharedFolder& one) { return one.id == device.folder; });
  if (folder == config.folders.end())
    return refuse(fmt::format("virtio-fs wants the folder '{}', which is not there", device.folder),
                  "give -fsdev local,id=ID,path=DIR before it");
  if (device.tag.empty() || device.tag.size() > 36)
    return refuse("virtio-fs needs a tag of 1 to 36 bytes", "give tag=NAME; the guest mounts it by that");
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status check_mount_tag(const std::string& tag) {
  if (tag.empty() || tag.size() > 32)
    return refuse("virtio-9p needs a mount_tag of 1 to 32 bytes", "give mount_tag=NAME; the guest mounts it by that");
  return {};
}

Status add_9p(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::Virtio9pConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  device.tag = p.take("mount_tag").value_or("");
  device.folder = p.take("fsdev").value_or("");
  const auto folder = std::find_if(config.folders.begin(), config.folders.end(),
                                   [&](const machine::SharedFolder& one) { return one.id == device.folder; });
  if (folder == config.folders.end())
    return refuse(fmt::format("virtio-9p wants the folder '{}', which is not there", device.folder),
                  "give -fsdev local,id=ID,path=DIR,security_model=none before it");
  if (folder->cache != machine::ShareCache::automatic)
    return refuse(fmt::format("virtio-9p: the folder '{}' has a cache mode, which is for virtio-fs", device.folder),
                  "leave cache out; the guest chooses by mount -o cache=none|loose|mmap");
  HUSK_TRY(check_mount_tag(device.tag));
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status add_vsock(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioVsockConfig device;
  device.place = HUSK_TRY(take_place(p, kind, false));
  device.guest_cid = HUSK_TRY(p.take_number("guest-cid", 0, 0xFFFFFFFE));
  device.path = p.take("path").value_or("");
  if (device.guest_cid < 3)
    return refuse("virtio-vsock has no guest-cid of 3 or more", "give guest-cid=3; 0, 1 and 2 are not a guest's");
  if (device.path.empty())
    return refuse("virtio-vsock has no path", "give path=FILE, where programs of the host connect to");
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status add_pmem(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioPmemConfig device;
  device.place = HUSK_TRY(take_place(p, kind, false));
  device.memory = p.take("memdev").value_or("");
  const auto memory = std::find_if(config.memory_files.begin(), config.memory_files.end(),
                                   [&](const machine::MemoryFileConfig& one) { return one.id == device.memory; });
  if (memory == config.memory_files.end())
    return refuse(fmt::format("virtio-pmem wants the memory '{}', which is not there", device.memory),
                  "give -object memory-backend-file,id=ID,mem-path=FILE,size=SIZE,share=on before it");
  for (const machine::VirtioConfig& other : config.virtio)
    if (const auto* pmem = std::get_if<machine::VirtioPmemConfig>(&other); pmem && pmem->memory == device.memory)
      return refuse(fmt::format("two virtio-pmem devices want the memory '{}'", device.memory),
                    "give each an -object of its own");
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status add_balloon(MachineConfig& config, const Kind& kind, Properties& p) {
  machine::VirtioBalloonConfig device;
  device.place = HUSK_TRY(take_place(p, kind, true));
  device.deflate_on_oom = HUSK_TRY(p.take_bool("deflate-on-oom", false));
  device.free_page_reporting = HUSK_TRY(p.take_bool("free-page-reporting", false));
  config.virtio.emplace_back(std::move(device));
  return {};
}

Result<machine::CacheMode> parse_cache(std::string_view text) {
  static constexpr std::array<std::string_view, 5> kModes = {"none", "writeback", "writethrough", "directsync",
                                                             "unsafe"};
  const auto found = std::find(kModes.begin(), kModes.end(), text);
  if (found == kModes.end())
    return refuse(fmt::format("there is no cache mode '{}'{}", text, machine::nearest_hint(text, kModes)),
                  "choose none, writeback, writethrough, directsync or unsafe");
  return static_cast<machine::CacheMode>(found - kModes.begin());
}

Result<std::string> checked_format(std::string format) {
  if (format.empty() || format == "raw" || format == "qcow2") return format;
  return refuse(fmt::format("there is no image format '{}'", format), "husk has raw and qcow2");
}

/// -blockdev's two levels (format over file, or file alone) from flat keys.
Status add_blockdev(MachineConfig& config, const std::string& driver, Properties& p) {
  machine::DriveConfig drive;
  drive.id = p.take("node-name").value_or("");
  const bool file_level = driver == "file" || driver == "host_device";
  const std::string prefix = file_level ? "" : "file.";
  if (!file_level) drive.format = HUSK_TRY(checked_format(driver));
  if (driver.empty()) return refuse("-blockdev has no driver", "give driver=raw, qcow2 or file");
  if (!file_level) HUSK_TRY(p.take_fixed("file.driver", {"file", "host_device"}));
  drive.file = p.take(prefix + "filename").value_or("");
  const auto by_name = file_level ? std::optional<std::string>() : p.take("file");
  if (by_name) {
    const auto below =
        std::find_if(config.drives.begin(), config.drives.end(), [&](const auto& one) { return one.id == *by_name; });
    if (below == config.drives.end())
      return refuse(fmt::format("-blockdev: there is no node '{}'", *by_name), "give the -blockdev of the file first");
    const std::string id = drive.id;
    const std::string format = drive.format;
    if (!below->injected.empty())
      return refuse("-blockdev: blkdebug goes over a format, not below it", "give the format its file directly");
    drive = *below;
    drive.id = id;
    drive.format = format;
    config.drives.erase(below);
  }
  if (file_level) drive.format = "raw";
  drive.read_only = HUSK_TRY(p.take_bool("read-only", drive.read_only));
  HUSK_TRY(p.take_fixed("auto-read-only", {"on", "off"}));
  HUSK_TRY(p.take_fixed("file.aio", {"threads", "io_uring", "native"}));
  HUSK_TRY(p.take_fixed("aio", {"threads", "io_uring", "native"}));
  const auto discard = p.take("discard");
  if (discard) drive.discard = *discard != "ignore" && *discard != "off";
  static_cast<void>(p.take(prefix + "discard"));
  bool direct = false, no_flush = false;
  for (const char* level : {"cache.", "file.cache."}) {
    direct |= HUSK_TRY(p.take_bool(std::string(level) + "direct", false));
    no_flush |= HUSK_TRY(p.take_bool(std::string(level) + "no-flush", false));
  }
  if (direct) drive.cache = machine::CacheMode::none;
  if (no_flush) drive.cache = machine::CacheMode::unsafe;
  if (drive.id.empty()) return refuse("-blockdev has no node-name", "give node-name=ID");
  if (drive.file.empty()) return refuse("-blockdev has no file", "give file.driver=file,file.filename=FILE");
  config.drives.push_back(std::move(drive));
  return {};
}

}  // namespace

std::span<const std::string_view> virtio_device_names() { return kNames; }

std::string virtio_device_help() {
  return "virtio-blk-pci,drive=ID[,serial=TEXT][,num-queues=N][,queue-size=N][,write-cache=on|off]   a disk\n"
         "virtio-scsi-pci[,num_queues=N][,virtqueue_size=N]   a SCSI controller\n"
         "scsi-hd,drive=ID[,bus=ID.0][,scsi-id=N][,lun=N][,serial=TEXT][,wwn=HEX][,rotation_rate=N]   a disk on it\n"
         "scsi-cd[,drive=ID][,bus=ID.0][,scsi-id=N][,lun=N]   a CD-ROM drive on it\n"
         "  all disks: [,logical_block_size=N][,physical_block_size=N][,rerror=ACTION][,werror=ACTION]; ACTION is\n"
         "  report, ignore, stop or (werror) enospc\n"
         "virtio-net-pci,netdev=ID[,mac=ADDRESS][,host_mtu=BYTES][,mq=on][,csum=off|gso=off|mrg_rxbuf=off|...]   a "
         "network card\n"
         "virtio-rng-pci[,max-bytes=N,period=MS]   random numbers\n"
         "virtio-serial-pci   ports for virtconsole and virtserialport\n"
         "virtconsole,chardev=ID   a console (hvc0 in Linux)\n"
         "virtserialport,chardev=ID,name=NAME   a named port\n"
         "virtio-fs-pci,fsdev=ID,tag=NAME          a folder of the host\n"
         "virtio-9p-pci,fsdev=ID,mount_tag=NAME    the same, for guests without virtio-fs\n"
         "virtio-vsock-pci,guest-cid=N,path=FILE   sockets between guest and host (docs/vsock.md)\n"
         "virtio-pmem-pci,memdev=ID                memory that a file keeps (-object memory-backend-file)\n"
         "virtio-balloon-pci[,deflate-on-oom=on][,free-page-reporting=on]   gives memory back\n"
         "  all virtio devices: "
         "[,addr=N][,packed=on][,disable-legacy=off][,event_idx=off][,indirect_desc=off][,vectors=N]\n";
}

Result<bool> add_virtio_device(MachineConfig& config, std::string_view driver, Properties& properties) {
  const Kind kind = kind_of(driver);
  if (kind.name == "virtio-rng")
    HUSK_TRY(add_rng(config, kind, properties));
  else if (kind.name == "virtio-blk")
    HUSK_TRY(add_blk(config, kind, properties));
  else if (kind.name == "virtio-scsi")
    config.virtio.emplace_back(HUSK_TRY(take_scsi(properties, kind)));
  else if (driver == "scsi-hd" || driver == "scsi-cd")
    HUSK_TRY(add_scsi_unit(config, driver == "scsi-cd", properties));
  else if (kind.name == "virtio-net")
    config.virtio.emplace_back(HUSK_TRY(take_net(properties, kind)));
  else if (kind.name == "virtio-serial")
    HUSK_TRY(add_serial(config, kind, properties));
  else if (driver == "virtconsole" || driver == "virtserialport")
    HUSK_TRY(add_port(config, driver == "virtconsole", properties));
  else if (kind.name == "virtio-fs")
    HUSK_TRY(add_fs(config, kind, properties));
  else if (kind.name == "vhost-user-fs")
    return refuse("vhost-user-fs wants a daemon beside the machine; husk serves folders itself",
                  "give -fsdev local,id=ID,path=DIR and -device virtio-fs-pci,fsdev=ID,tag=NAME");
  else if (kind.name == "virtio-vsock")
    HUSK_TRY(add_vsock(config, kind, properties));
  else if (kind.name == "vhost-vsock")
    return refuse("vhost-vsock wants the host's kernel (/dev/vhost-vsock); husk carries the sockets itself",
                  "give -device virtio-vsock-pci,guest-cid=N,path=FILE");
  else if (kind.name == "virtio-9p")
    HUSK_TRY(add_9p(config, kind, properties));
  else if (kind.name == "virtio-pmem")
    HUSK_TRY(add_pmem(config, kind, properties));
  else if (kind.name == "virtio-balloon")
    HUSK_TRY(add_balloon(config, kind, properties));
  else
    return false;
  return true;
}

Status add_run_disk(MachineConfig& config, std::string_view text, bool cdrom) {
  // What is its own is taken first; the rest is as for -drive.
  std::string rest, bus = "virtio", serial;
  for (const machine::OptionPart& part : machine::split_option(text)) {
    if (part.key == "bus" || (part.key == "serial" && part.value.size() <= 36)) {
      (part.key == "bus" ? bus : serial) = part.value;
      continue;
    }
    std::string value = part.value;
    for (std::size_t at = 0; (at = value.find(',', at)) != std::string::npos; at += 2) value.insert(at, ",");
    rest += fmt::format("{}{}={}", rest.empty() ? "" : ",", part.key, value);
  }
  if (bus != "virtio" && bus != "scsi")
    return refuse(fmt::format("there is no bus '{}' for disks", bus), "choose virtio or scsi");
  if (bus == "virtio" && !cdrom) return add_drive_option(config, rest + (serial.empty() ? "" : ",serial=" + serial));
  const std::string id = fmt::format("scsi{}", config.drives.size());
  HUSK_TRY(add_drive_option(config, fmt::format("{},if=none,id={}{}", rest, id, cdrom ? ",media=cdrom" : "")));
  machine::ScsiUnitConfig unit;
  unit.cdrom = cdrom;
  unit.drive = id;
  unit.serial = serial;
  if (cdrom) unit.logical_block = unit.physical_block = 2048;
  return add_unit_of_run(config, std::move(unit));
}

Status add_drive_option(MachineConfig& config, std::string_view text) {
  Properties p(text, "", "-drive");
  machine::DriveConfig drive;
  drive.file = p.take("file").value_or("");
  const std::string interface = p.take("if").value_or("virtio");
  if (interface == "scsi")
    return refuse("-drive if=scsi makes no controller",
                  "give if=none,id=ID with -device virtio-scsi-pci and -device scsi-hd,drive=ID");
  if (interface != "virtio" && interface != "none")
    return refuse(fmt::format("-drive cannot have if={}", interface), "husk has if=virtio and if=none");
  drive.id = p.take("id").value_or(fmt::format("{}{}", interface, config.drives.size()));
  drive.format = HUSK_TRY(checked_format(p.take("format").value_or("")));
  if (const auto cache = p.take("cache")) drive.cache = HUSK_TRY(parse_cache(*cache));
  drive.read_only = HUSK_TRY(p.take_bool("readonly", HUSK_TRY(p.take_bool("read-only", false))));
  drive.snapshot = HUSK_TRY(p.take_bool("snapshot", false));
  if (const auto discard = p.take("discard")) drive.discard = *discard != "ignore" && *discard != "off";
  const std::string media = p.take("media").value_or("disk");
  if (media != "disk" && media != "cdrom")
    return refuse(fmt::format("-drive cannot have media={}", media), "husk has media=disk and media=cdrom");
  if (media == "cdrom") {
    // QEMU's CD-ROM drive of an IDE controller, which this board lacks.
    if (interface != "none")
      return refuse("-drive: husk has CD-ROM drives on a SCSI controller only",
                    "give if=none,id=ID with -device virtio-scsi-pci and -device scsi-cd,drive=ID");
    drive.read_only = true;
  }
  HUSK_TRY(p.take_fixed("aio", {"threads", "io_uring", "native"}));
  drive.errors = HUSK_TRY(take_errors(p));
  const auto disks = static_cast<std::uint64_t>(std::count_if(
      config.virtio.begin(), config.virtio.end(),
      [](const machine::VirtioConfig& one) { return std::holds_alternative<machine::VirtioBlkConfig>(one); }));
  if (HUSK_TRY(p.take_number("index", disks, 1000)) != disks)
    return refuse(fmt::format("-drive: disks are numbered as they are given, and this one is {}", disks),
                  "leave index out, or give the disks in their order");
  const std::string serial = p.take("serial").value_or("");
  HUSK_TRY(p.finish());
  if (drive.file.empty()) return refuse("-drive has no file", "give file=FILE");
  if (interface == "virtio") {
    machine::VirtioBlkConfig device;
    device.drive = drive.id;
    device.serial = serial;
    config.virtio.emplace_back(std::move(device));
  }
  config.drives.push_back(std::move(drive));
  return {};
}

/// The names of iotype.N, or all of them (QEMU's BlkdebugInjectErrorOptions).
Status take_injected(Properties& p, std::vector<machine::InjectedError>& injected) {
  for (unsigned i = 0;; ++i) {
    const std::string prefix = fmt::format("inject-error.{}.", i);
    const auto event = p.take(prefix + "event");
    if (!event) return {};
    if (*event != "none" && *event != "read_aio" && *event != "write_aio" && *event != "flush_to_disk")
      return refuse(fmt::format("blkdebug has no event '{}'", *event),
                    "husk has none, read_aio, write_aio and flush_to_disk");
    machine::InjectedError one{
        .reads = *event == "read_aio", .writes = *event == "write_aio", .flushes = *event == "flush_to_disk"};
    unsigned kinds = 0;
    for (;; ++kinds) {
      const auto kind = p.take(fmt::format("{}iotype.{}", prefix, kinds));
      if (!kind) break;
      if (*event != "none") return refuse("blkdebug: iotype wants event=none", "give event=none");
      if (*kind == "read")
        one.reads = true;
      else if (*kind == "write")
        one.writes = true;
      else if (*kind == "flush")
        one.flushes = true;
      else
        return refuse(fmt::format("blkdebug has no iotype '{}'", *kind), "husk has read, write and flush");
    }
    if (*event == "none" && kinds == 0) one.reads = one.writes = one.flushes = true;
    one.error = narrow<int>(HUSK_TRY(p.take_number(prefix + "errno", 5, 4095)));
    if (one.error == 0) return refuse("blkdebug: errno 0 is no error", "give errno=5 for EIO");
    one.sector = HUSK_TRY(take_optional(p, prefix + "sector", ~std::uint64_t{0} / 512));
    one.once = HUSK_TRY(p.take_bool(prefix + "once", false));
    HUSK_TRY(p.take_fixed(prefix + "immediately", {"on", "off"}));
    injected.push_back(one);
  }
}

Status add_blkdebug(MachineConfig& config, Properties& p) {
  const std::string id = p.take("node-name").value_or("");
  const std::string image = p.take("image").value_or("");
  const auto below =
      std::find_if(config.drives.begin(), config.drives.end(), [&](const auto& one) { return one.id == image; });
  if (id.empty()) return refuse("-blockdev has no node-name", "give node-name=ID");
  if (below == config.drives.end())
    return refuse(fmt::format("-blockdev: there is no node '{}'", image), "give the -blockdev of the image first");
  below->id = id;
  return take_injected(p, below->injected);
}

Status add_blockdev_option(MachineConfig& config, const std::string& text) {
  const std::string flat = HUSK_TRY(flat_properties(text, "-blockdev"));
  Properties p(flat, "driver", "-blockdev");
  const std::string driver = p.take("driver").value_or("");
  if (driver == "blkdebug")
    HUSK_TRY(add_blkdebug(config, p));
  else
    HUSK_TRY(add_blockdev(config, driver, p));
  return p.finish();
}

namespace {
/// What -fsdev and -virtfs have in common.
Result<machine::SharedFolder> take_folder(Properties& p) {
  const std::string driver = p.take("fsdriver").value_or("");
  if (driver != "local") return refuse(fmt::format("there is no file system driver '{}'", driver), "husk has local");
  machine::SharedFolder folder;
  folder.id = p.take("id").value_or("");
  folder.path = p.take("path").value_or("");
  folder.read_only = HUSK_TRY(p.take_bool("readonly", false));
  HUSK_TRY(p.take_fixed("security_model", {"none", "passthrough"}));
  HUSK_TRY(p.take_fixed("multidevs", {"remap", "warn"}));
  return folder;
}

Status add_folder(MachineConfig& config, machine::SharedFolder folder) {
  if (std::any_of(config.folders.begin(), config.folders.end(), [&](const auto& one) { return one.id == folder.id; }))
    return refuse(fmt::format("there are two folders '{}'", folder.id), "give each an id of its own: id=ID");
  config.folders.push_back(std::move(folder));
  return {};
}
}  // namespace

Status add_virtfs_option(MachineConfig& config, std::string_view text) {
  Properties p(text, "fsdriver", "-virtfs");
  machine::SharedFolder folder = HUSK_TRY(take_folder(p));
  machine::Virtio9pConfig device;
  device.tag = p.take("mount_tag").value_or("");
  HUSK_TRY(p.finish());
  HUSK_TRY(check_mount_tag(device.tag));
  if (folder.path.empty()) return refuse("-virtfs lacks its path", "write -virtfs local,path=DIR,mount_tag=NAME");
  if (folder.id.empty()) folder.id = device.tag;
  device.folder = folder.id;
  HUSK_TRY(add_folder(config, std::move(folder)));
  config.virtio.emplace_back(std::move(device));
  return {};
}

Status add_fsdev_option(MachineConfig& config, std::string_view text) {
  Properties p(text, "fsdriver", "-fsdev");
  machine::SharedFolder folder = HUSK_TRY(take_folder(p));
  const std::string cache = p.take("cache").value_or("auto");
  if (cache == "none" || cache == "never")
    folder.cache = machine::ShareCache::none;
  else if (cache == "always")
    folder.cache = machine::ShareCache::always;
  else if (cache != "auto")
    return refuse(fmt::format("-fsdev has no cache mode '{}'", cache), "choose none, auto or always");
  HUSK_TRY(p.finish());
  if (folder.id.empty() || folder.path.empty())
    return refuse("-fsdev lacks its id or path", "write -fsdev local,id=ID,path=DIR");
  return add_folder(config, std::move(folder));
}

namespace {
Status add_memory_file(MachineConfig& config, Properties& p) {
  // Linux' driver takes no memory that is not made of such pieces (its subsections).
  constexpr std::uint64_t kPiece = std::uint64_t{2} << 20;
  machine::MemoryFileConfig file;
  file.id = p.take("id").value_or("");
  file.path = p.take("mem-path").value_or("");
  if (const auto size = p.take("size")) {
    auto bytes = machine::parse_size(*size, 1);
    if (!bytes) return std::unexpected(std::move(bytes).error().within("size of memory-backend-file"));
    file.size = *bytes;
  }
  file.shared = HUSK_TRY(p.take_bool("share", false));
  HUSK_TRY(p.take_fixed("readonly", {"off"}));
  HUSK_TRY(p.take_fixed("pmem", {"off"}));
  HUSK_TRY(p.finish());
  if (file.id.empty() || file.path.empty())
    return refuse("memory-backend-file lacks its id or mem-path",
                  "write -object memory-backend-file,id=ID,mem-path=FILE,size=SIZE,share=on");
  if (file.size == 0 || file.size % kPiece)
    return refuse(fmt::format("memory-backend-file cannot have size={}", file.size),
                  "give a multiple of 2 MiB: guests take no other");
  if (std::any_of(config.memory_files.begin(), config.memory_files.end(),
                  [&](const auto& one) { return one.id == file.id; }))
    return refuse(fmt::format("there are two memory objects '{}'", file.id), "give each an id of its own");
  config.memory_files.push_back(std::move(file));
  return {};
}
}  // namespace

Status add_object_option(MachineConfig& config, const std::string& text) {
  const std::string flat = HUSK_TRY(flat_properties(text, "-object"));
  Properties p(flat, "qom-type", "-object");
  const std::string type = p.take("qom-type").value_or("");
  if (type == "filter-dump") return add_filter_dump(config, p);
  if (type == "memory-backend-file") return add_memory_file(config, p);
  if (type != "rng-random" && type != "rng-builtin" && type != "iothread")
    return refuse(fmt::format("there is no object '{}'", type),
                  "husk has filter-dump, memory-backend-file, rng-random, rng-builtin and iothread");
  static_cast<void>(p.take("id"));
  if (type == "rng-random") HUSK_TRY(p.take_fixed("filename", {"/dev/urandom", "/dev/random", "/dev/hwrng"}));
  return p.finish();
}

}  // namespace husk::app
