// husk: everything that a user can choose about a machine, as typed values; strings end here
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "chardev/spec.h"
#include "host/socket.h"
#include "machine/virtio_config.h"

namespace husk::machine {

enum class BoardKind : std::uint8_t { micro };
enum class AcceleratorKind : std::uint8_t {
  kvm,     ///< the host's hardware virtualization
  jit,     ///< husk's own CPU, translating; QEMU's name for its like is tcg
  interp,  ///< husk's own CPU, interpreting
};

/// Which interrupt controllers are KVM's: all, the local APICs, none (QEMU's kernel_irqchip).
enum class KernelIrqchip : std::uint8_t { automatic, off, split, on };
/// What becomes of ticks of KVM's 8254 that a guest was too slow to take (QEMU's kvm-pit.lost_tick_policy).
enum class LostTicks : std::uint8_t { discard, delay };

struct TopologyConfig {
  unsigned count = 1;  ///< CPUs; always sockets * cores * threads
  unsigned sockets = 1;
  unsigned cores = 1;    ///< a socket
  unsigned threads = 1;  ///< a core
  bool operator==(const TopologyConfig&) const = default;
};
inline constexpr unsigned kMostCpus = 255;  ///< xAPIC ids of 8 bits, of which 255 is the broadcast

/// "+name", "-name" or "name=value". The CPU model knows which names there are.
struct FeatureEdit {
  std::string name;
  bool enabled = true;
  std::string value = {};  ///< of a property that is no feature, such as vendor
  bool operator==(const FeatureEdit&) const = default;
};
/// What to do about features of a named model that the accelerator has not got.
enum class MissingFeatures : std::uint8_t { leave_out, warn, refuse };
struct CpuConfig {
  std::string model = "max";
  std::vector<FeatureEdit> edits = {};  ///< in the order given
  TopologyConfig topology = {};
  /// A model that nobody asked for by name comes as it is.
  MissingFeatures missing = MissingFeatures::leave_out;
  bool operator==(const CpuConfig&) const = default;
};
/// The edits as cpu::edit_features() takes them: "+avx2,-sse4.2,phys-bits=39".
std::string edits_text(std::span<const FeatureEdit> edits);

/// A file handed to the kernel: Linux takes the first as its initrd, Multiboot takes all, each with its own arguments.
struct ModuleConfig {
  std::string path;
  std::string arguments = {};
  bool operator==(const ModuleConfig&) const = default;
};
struct BootConfig {
  std::string kernel = {};    ///< bzImage, ELF vmlinux or Multiboot; none: the machine starts from its firmware
  std::string append = {};    ///< the kernel's command line
  std::string firmware = {};  ///< a ROM image that ends at 4 GiB
  std::vector<ModuleConfig> modules = {};
  /// The path exactly as `-initrd` gave it. Only Multiboot splits it at commas (then `modules` has the parts).
  std::string initrd = {};
  /// No initrd was given, and a Linux kernel shall get husk's own small one with this busybox.
  std::string builtin_initramfs_busybox = {};
  bool guest_decompress = false;  ///< let a bzImage unpack itself
  bool operator==(const BootConfig&) const = default;
};

/// Port and size of QEMU's isa-debug-exit; a write of V ends husk with status (V << 1) | 1.
struct DebugExitConfig {
  std::uint16_t iobase = 0x501;
  std::uint16_t iosize = 2;  ///< 1, 2 or 4
  bool operator==(const DebugExitConfig&) const = default;
};
struct DebugConsoleConfig {
  std::uint16_t iobase = 0xe9;
  std::uint8_t readback = 0xe9;  ///< what the port reads, which tells a guest that it is there
  std::string chardev = {};
  bool operator==(const DebugConsoleConfig&) const = default;
};
struct PcTestDeviceConfig {
  bool operator==(const PcTestDeviceConfig&) const = default;
};
/// Where a PCI device is.
struct PciPlace {
  std::string id = {};
  std::optional<unsigned> address = {};  ///< device number; none: the first that is free
  bool operator==(const PciPlace&) const = default;
};
struct EduConfig {
  PciPlace place = {};
  std::uint64_t dma_mask = 0xFFF'FFFF;
  bool operator==(const EduConfig&) const = default;
};
struct PciTestDeviceConfig {
  PciPlace place = {};
  std::uint64_t memory_bar = 0;  ///< bytes, a power of two of at least 16; 0: none
  bool operator==(const PciTestDeviceConfig&) const = default;
};
using DeviceConfig =
    std::variant<DebugExitConfig, DebugConsoleConfig, PcTestDeviceConfig, EduConfig, PciTestDeviceConfig>;

struct RtcConfig {
  enum class Base : std::uint8_t { utc, local_time, date } base = Base::utc;
  std::int64_t date_s = 0;  ///< Base::date: seconds since 1970 that the clock shows at the start
  enum class Clock : std::uint8_t {
    host,  ///< follows the host's wall clock, also over stops and adjustments
    vm,    ///< counts the machine's own time only
  } clock = Clock::host;
  bool operator==(const RtcConfig&) const = default;
};
/// The `wall_base` of VmClock (ns since 1970) for a machine that starts at `now_s`, where local time is
/// `local_offset_s` ahead of UTC. Nothing: follow the host's clock.
std::optional<std::int64_t> wall_clock_base(const RtcConfig& rtc, std::int64_t now_s, std::int64_t local_offset_s);

enum class TraceCategory : std::uint32_t {
  exceptions = 1,
  interrupts = 2,
  io = 4,
  msr = 8,
  mmio = 16,
  exec = 32,
  in_asm = 64,    ///< guest code as it is translated
  out_asm = 128,  ///< what it is translated into
};
/// Bit set of TraceCategory.
using TraceSet = std::uint32_t;

/// What `-d` of QEMU asks to be logged.
struct DebugLogConfig {
  TraceSet trace = 0;         ///< -d int, exec, in_asm, out_asm
  bool statistics = false;    ///< the accelerator's figures, at the end and on SIGUSR1
  bool perf_map = false;      ///< names of translated code for perf
  bool registers = false;     ///< the registers before each instruction that exec shows
  bool guest_errors = false;  ///< what a guest does wrong
  std::string file = {};      ///< standard error if empty
  bool operator==(const DebugLogConfig&) const = default;
};

struct MachineConfig {
  std::string name = {};
  BoardKind board = BoardKind::micro;
  std::vector<AcceleratorKind> accelerators = {};  ///< tried in this order; empty: the best that works
  KernelIrqchip kernel_irqchip = KernelIrqchip::automatic;
  std::optional<LostTicks> lost_ticks = {};  ///< none: delay, if the timer is KVM's
  std::uint64_t memory_bytes = std::uint64_t{1} << 30;
  CpuConfig cpu = {};
  BootConfig boot = {};
  std::vector<chardev::Spec> chardevs = {};
  /// COM1 to COM4: the id of a chardev each; an empty one is a port that the machine lacks.
  std::vector<std::string> serials = {};
  std::vector<DeviceConfig> devices = {};
  std::vector<VirtioConfig> virtio = {};
  std::vector<DriveConfig> drives = {};
  std::vector<NetdevConfig> netdevs = {};
  std::vector<FrameDumpConfig> frame_dumps = {};
  std::vector<SharedFolder> folders = {};
  std::vector<MemoryFileConfig> memory_files = {};
  std::optional<host::SocketAddress> gdb = {};
  bool start_paused = false;
  bool no_reboot = false;
  RtcConfig rtc = {};
  std::optional<std::uint64_t> timeout_ns = {};  ///< of the host's time
  std::string pid_file = {};
  DebugLogConfig debug_log = {};
  bool operator==(const MachineConfig&) const = default;
};

inline constexpr std::size_t kMostSerials = 4;
inline constexpr std::uint64_t kLeastMemory = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kMostMemory = std::uint64_t{1} << 40;

/// Refuses what no single option can see: references to chardevs that are not there or that two users want, ports that
/// overlap, nothing to boot, memory out of range. Completes nothing.
Status validate(const MachineConfig& config);

// Values as users write them. Errors say what was given and what is possible, without the option's name.

/// "512", "64K", "1.5G": bytes; a number without a suffix (B K M G T, also KiB, MB...) counts `unit`. The result is
/// exact or refused.
Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit);
/// "30", "1.5", "500ms", "2m": nanoseconds; a number alone is seconds. Not 0.
Result<std::uint64_t> parse_duration(std::string_view text);
/// Decimal, 0x or 0 (octal, as C and QEMU have it), at most `most`.
Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t most = ~std::uint64_t{0});
/// on/off, yes/no, true/false.
Result<bool> parse_bool(std::string_view text);
/// "host:port", ":port", "[v6]:port"; the host may be empty.
Result<host::TcpAddress> parse_tcp(std::string_view text);
/// "unix:PATH", "tcp:HOST:PORT", "HOST:PORT", ":PORT" or "PORT": where the gdb server listens; the host is 127.0.0.1 if
/// none is given, because whoever can connect owns the guest.
Result<host::SocketAddress> parse_gdb(std::string_view text);
/// "utc", "localtime", "2006-06-17T16:01:21", "2006-06-17".
Result<RtcConfig> parse_rtc_base(std::string_view text);
/// A comma-separated list of exceptions, interrupts, io, msr, mmio, exec, in_asm, out_asm, or all (of them but the last
/// two).
Result<TraceSet> parse_trace(std::string_view text);
/// on, off, split.
Result<KernelIrqchip> parse_kernel_irqchip(std::string_view text);
/// discard, delay.
Result<LostTicks> parse_lost_ticks(std::string_view text);
/// Completes what is left out of 0s (QEMU's rule since 6.2: cores first, then sockets); checks the product.
Result<TopologyConfig> complete_topology(unsigned count, unsigned sockets, unsigned cores, unsigned threads);

/// A device in QEMU's short syntax ("stdio", "mon:stdio", "file:PATH", "unix:PATH,server=on", "tcp:HOST:PORT",
/// "telnet:...", "pty", "pipe:PATH", "ringbuf", "null"). Spec::id is left empty. `spec` has no value for "none" and
/// `existing` is set for "chardev:ID".
struct CharSource {
  std::optional<chardev::Spec> spec = {};
  std::string existing = {};
};
Result<CharSource> parse_char_source(std::string_view text);

/// The candidate most like `given` (fewest letters to insert, delete, replace or swap), if any is near enough to be
/// what was meant.
std::optional<std::string> nearest(std::string_view given, std::span<const std::string_view> candidates);
/// " (did you mean 'X'?)" or "".
std::string nearest_hint(std::string_view given, std::span<const std::string_view> candidates);

/// One value of a comma-separated QEMU option: "key=value", "key" alone (has_value false). Values have their ",," made
/// into ",".
struct OptionPart {
  std::string key;
  std::string value = {};
  bool has_value = false;
};
std::vector<OptionPart> split_option(std::string_view text);

}  // namespace husk::machine
