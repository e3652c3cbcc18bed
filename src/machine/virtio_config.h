// husk: virtio devices, disks and networks as typed values
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/block_policy.h"
#include "host/socket.h"

namespace husk::machine {

/// What is common to all virtio devices on PCI.
struct VirtioPlace {
  std::string id = {};
  std::optional<unsigned> address = {};  ///< PCI device number; none: the first that is free
  bool legacy = false;                   ///< transitional: also speaks virtio 0.9.5
  bool packed = false;
  bool in_order = false;
  bool event_index = true;
  bool indirect = true;
  bool queue_reset = true;
  unsigned vectors = 0;  ///< MSI-X vectors; 0: as many as are of use
  bool operator==(const VirtioPlace&) const = default;
};

struct VirtioRngConfig {
  VirtioPlace place = {};
  std::optional<std::uint64_t> max_bytes = {};
  std::uint64_t period_ns = 65'536'000'000;
  bool operator==(const VirtioRngConfig&) const = default;
};

/// What a disk does about errors of its drive; what is not told is as the drive has it.
struct DiskErrorConfig {
  std::optional<core::OnBlockError> read = {};
  std::optional<core::OnBlockError> write = {};
  bool operator==(const DiskErrorConfig&) const = default;
};

struct VirtioBlkConfig {
  VirtioPlace place = {};
  std::string drive = {};  ///< id of a DriveConfig
  std::string serial = {};
  unsigned queues = 0;  ///< 0: one a CPU
  std::uint16_t queue_size = 256;
  std::uint32_t logical_block = 512;
  std::uint32_t physical_block = 512;
  std::uint32_t min_io = 0;
  std::uint32_t opt_io = 0;
  std::uint32_t discard_granularity = 0;  ///< 0: the image's
  bool discard = true;
  bool write_zeroes = true;
  bool writeback = true;
  DiskErrorConfig errors = {};
  bool operator==(const VirtioBlkConfig&) const = default;
};

/// A disk or CD-ROM drive of a SCSI controller.
struct ScsiUnitConfig {
  bool cdrom = false;
  std::string id = {};
  std::string drive = {};  ///< id of a DriveConfig; empty: a CD-ROM drive without a disc
  unsigned target = 0;     ///< SCSI id
  unsigned lun = 0;
  std::string vendor = {}, product = {}, revision = {};  ///< empty: husk's own
  std::string serial = {};
  std::string name = {};  ///< in the device identification page
  std::uint64_t wwn = 0;
  std::uint32_t logical_block = 512;
  std::uint32_t physical_block = 512;
  std::uint32_t min_io = 0;
  std::uint32_t opt_io = 0;
  std::uint32_t discard_granularity = 0;  ///< 0: the image's
  std::uint16_t rotation_rate = 0;
  bool removable = false;
  bool writeback = true;
  bool dpo_fua = true;
  DiskErrorConfig errors = {};
  bool operator==(const ScsiUnitConfig&) const = default;
};
struct VirtioScsiConfig {
  VirtioPlace place = {};
  unsigned queues = 0;  ///< for commands; 0: one a CPU
  std::uint16_t queue_size = 256;
  std::uint32_t max_sectors = 0xFFFF;
  std::uint32_t commands_per_unit = 128;
  std::vector<ScsiUnitConfig> units = {};
  bool operator==(const VirtioScsiConfig&) const = default;
};

struct VirtioNetConfig {
  VirtioPlace place = {};
  std::string netdev = {};  ///< id of a NetdevConfig; empty: no cable
  std::optional<std::array<std::uint8_t, 6>> mac = {};
  bool multi_queue = false;  ///< as many queue pairs as the network has queues
  std::uint16_t queue_size = 256;
  std::uint16_t mtu = 0;       ///< 0: not told
  std::uint64_t withheld = 0;  ///< feature bits (virtio 1.2, 5.1.3) that are not offered
  bool operator==(const VirtioNetConfig&) const = default;
};

/// One port of a virtio-serial device.
struct VirtioPortConfig {
  std::string chardev = {};
  std::string name = {};
  bool console = false;  ///< hvc in Linux; else a named port
  bool operator==(const VirtioPortConfig&) const = default;
};
struct VirtioConsoleConfig {
  VirtioPlace place = {};
  std::vector<VirtioPortConfig> ports = {};
  bool operator==(const VirtioConsoleConfig&) const = default;
};

/// A folder of the host as a file system that the guest mounts by its tag: `mount -t virtiofs TAG DIRECTORY`.
struct VirtioFsConfig {
  VirtioPlace place = {};
  std::string tag = {};
  std::string folder = {};  ///< id of a SharedFolder
  unsigned queues = 1;      ///< for requests
  std::uint16_t queue_size = 512;
  bool operator==(const VirtioFsConfig&) const = default;
};

/// The same by 9P: `mount -t 9p -o trans=virtio,version=9p2000.L TAG DIRECTORY`.
struct Virtio9pConfig {
  VirtioPlace place = {};
  std::string tag = {};
  std::string folder = {};  ///< id of a SharedFolder
  bool operator==(const Virtio9pConfig&) const = default;
};

struct VirtioBalloonConfig {
  VirtioPlace place = {};
  bool deflate_on_oom = false;
  bool free_page_reporting = false;
  bool operator==(const VirtioBalloonConfig&) const = default;
};

/// Memory that a file keeps.
struct VirtioPmemConfig {
  VirtioPlace place = {};
  std::string memory = {};  ///< id of a MemoryFileConfig
  bool operator==(const VirtioPmemConfig&) const = default;
};

/// Sockets between guest and host.
struct VirtioVsockConfig {
  VirtioPlace place = {};
  std::uint64_t guest_cid = 3;
  std::string path = {};  ///< of the unix sockets, see netdev::open_vsock_sockets
  bool operator==(const VirtioVsockConfig&) const = default;
};

using VirtioConfig =
    std::variant<VirtioRngConfig, VirtioBlkConfig, VirtioNetConfig, VirtioConsoleConfig, Virtio9pConfig,
                 VirtioBalloonConfig, VirtioFsConfig, VirtioVsockConfig, VirtioScsiConfig, VirtioPmemConfig>;

enum class CacheMode : std::uint8_t { none, writeback, writethrough, directsync, unsafe };

/// An error that a drive pretends to have, for tests of what a guest and husk do about it (-blockdev blkdebug).
struct InjectedError {
  bool reads = true;
  bool writes = true;  ///< also write_zeroes and discard
  bool flushes = false;
  int error = 5;                             ///< errno
  std::optional<std::uint64_t> sector = {};  ///< of 512 bytes: only requests that touch it
  bool once = false;
  bool operator==(const InjectedError&) const = default;
};

/// The host's side of a disk.
struct DriveConfig {
  std::string id = {};
  std::string file = {};
  std::string format = {};  ///< "raw", "qcow2"; empty: found out, and raw only if nothing else
  CacheMode cache = CacheMode::writeback;
  bool read_only = false;
  bool snapshot = false;        ///< writes go to memory or a temporary file and are lost in the end
  bool discard = true;          ///< pass discards on
  DiskErrorConfig errors = {};  ///< of the disk, unless its device has its own
  std::vector<InjectedError> injected = {};
  bool operator==(const DriveConfig&) const = default;
};

/// How long a guest may believe what it knows of a folder: not at all, for a second, as long as it runs.
enum class ShareCache : std::uint8_t { none, automatic, always };

/// A folder that a guest may be given (-fsdev).
struct SharedFolder {
  std::string id = {};
  std::string path = {};
  bool read_only = false;
  ShareCache cache = ShareCache::automatic;  ///< virtio-fs only
  bool operator==(const SharedFolder&) const = default;
};

/// A file as guest memory (-object memory-backend-file).
struct MemoryFileConfig {
  std::string id = {};
  std::string path = {};
  std::uint64_t size = 0;
  bool shared = false;  ///< false: changes are lost in the end
  bool operator==(const MemoryFileConfig&) const = default;
};

struct HostForward {
  bool udp = false;
  std::string host_address = {};
  std::uint16_t host_port = 0;
  std::string guest_address = {};
  std::uint16_t guest_port = 0;
  bool operator==(const HostForward&) const = default;
};

/// User mode (libslirp).
struct UserNetConfig {
  bool restricted = false;
  bool ipv4 = true;
  bool ipv6 = true;
  std::string hostname = {};
  std::vector<HostForward> forwards = {};
  bool operator==(const UserNetConfig&) const = default;
};
/// A tap interface of the host.
struct TapConfig {
  std::string interface = {};         ///< empty: the host chooses
  std::vector<int> descriptors = {};  ///< open already, one a queue
  unsigned queues = 1;
  bool offloads = true;
  std::string script = {};  ///< run with the interface's name; empty: none
  std::string down_script = {};
  std::string helper = {};  ///< a program that makes the interface on `bridge`
  std::string bridge = {};
  bool operator==(const TapConfig&) const = default;
};
/// A stream socket.
struct StreamConfig {
  host::SocketAddress address = {};
  int descriptor = -1;  ///< connected already
  bool server = false;
  std::uint64_t reconnect_ns = 0;
  bool operator==(const StreamConfig&) const = default;
};
/// A datagram socket.
struct DgramConfig {
  std::optional<host::SocketAddress> local = {};
  std::optional<host::SocketAddress> remote = {};
  int descriptor = -1;
  bool operator==(const DgramConfig&) const = default;
};
/// The program passt, started for this machine.
struct PasstConfig {
  std::string program = "passt";
  std::vector<std::string> arguments = {};
  bool operator==(const PasstConfig&) const = default;
};

/// The host's side of a network card.
struct NetdevConfig {
  std::string id = {};
  std::variant<UserNetConfig, TapConfig, StreamConfig, DgramConfig, PasstConfig> kind = {};
  bool operator==(const NetdevConfig&) const = default;
};

/// A file of the frames of one network (pcap).
struct FrameDumpConfig {
  std::string id = {};
  std::string netdev = {};
  std::string file = {};
  std::uint32_t most_bytes = 65536;  ///< of each frame
  bool operator==(const FrameDumpConfig&) const = default;
};

}  // namespace husk::machine
