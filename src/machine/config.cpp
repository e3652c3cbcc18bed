// husk: what must fit together in a machine's configuration
#include "machine/config.h"

#include <algorithm>
#include <map>
#include <utility>

namespace husk::machine {
namespace {

std::unexpected<Error> bad(std::string message, std::string next_step) {
  return std::unexpected(Error{std::move(message), std::move(next_step)});
}

/// Users of each chardev, so that a second one of a chardev without mux is found before anything starts.
class CharUsers {
 public:
  explicit CharUsers(const MachineConfig& config) : config_(config) {}

  Status add(const std::string& id, const std::string& user) {
    const auto spec = std::find_if(config_.chardevs.begin(), config_.chardevs.end(),
                                   [&](const chardev::Spec& one) { return one.id == id; });
    if (spec == config_.chardevs.end()) {
      std::vector<std::string_view> ids;
      for (const chardev::Spec& one : config_.chardevs) ids.push_back(one.id);
      return bad(
          fmt::format("{} wants the character device '{}', which is not there{}", user, id, nearest_hint(id, ids)),
          fmt::format("add -chardev KIND,id={}", id));
    }
    const auto [found, first] = users_.emplace(id, user);
    if (!first && !spec->mux)
      return bad(fmt::format("{} and {} both want the character device '{}'", found->second, user, id),
                 "give it mux=on, or another device to one of them");
    return {};
  }

 private:
  const MachineConfig& config_;
  std::map<std::string, std::string> users_;
};

struct PortRange {
  unsigned first, count;
  std::string owner;
};

/// Ports of the board that a settable device must not cover: a guest would lose the device behind them.
// Legacy PC port assignments, as the ISA bus fixes them; the board's own choices are checked when it maps them.
std::vector<PortRange> fixed_ports(const MachineConfig& config) {
  std::vector<PortRange> ports = {
      {0x20, 2, "the interrupt controller"},
      {0x40, 4, "the timer"},
      {0x60, 1, "the keyboard controller"},
      {0x61, 1, "the speaker port"},
      {0x64, 1, "the keyboard controller"},
      {0x70, 2, "the real-time clock"},
      {0x92, 1, "port 92"},
      {0xa0, 2, "the interrupt controller"},
      {0xcf8, 8, "PCI configuration"},
  };
  constexpr unsigned kCom[kMostSerials] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
  for (std::size_t i = 0; i < config.serials.size() && i < kMostSerials; ++i)
    if (!config.serials[i].empty()) ports.push_back({kCom[i], 8, fmt::format("serial port {}", i)});
  return ports;
}

Status claim(std::vector<PortRange>& ports, PortRange wanted) {
  if (wanted.first + wanted.count > 0x10000)
    return fail("{} at port {:#x} reaches beyond the last port, 0xffff", wanted.owner, wanted.first);
  for (const PortRange& taken : ports)
    if (wanted.first < taken.first + taken.count && taken.first < wanted.first + wanted.count)
      return bad(fmt::format("{} at port {:#x} covers ports of {} at {:#x}", wanted.owner, wanted.first, taken.owner,
                             taken.first),
                 "give another iobase");
  ports.push_back(std::move(wanted));
  return {};
}

Status validate_devices(const MachineConfig& config) {
  std::vector<PortRange> ports = fixed_ports(config);
  unsigned test_devices = 0;
  for (const DeviceConfig& device : config.devices) {
    if (const auto* exit = std::get_if<DebugExitConfig>(&device)) {
      if (exit->iosize != 1 && exit->iosize != 2 && exit->iosize != 4)
        return bad(fmt::format("isa-debug-exit cannot have iosize={}", exit->iosize), "give 1, 2 or 4");
      HUSK_TRY(claim(ports, {exit->iobase, exit->iosize, "isa-debug-exit"}));
    } else if (const auto* console = std::get_if<DebugConsoleConfig>(&device)) {
      HUSK_TRY(claim(ports, {console->iobase, 1, "isa-debugcon"}));
    } else if (std::holds_alternative<PcTestDeviceConfig>(device) && ++test_devices > 1) {
      return bad("there are two of pc-testdev, whose ports are fixed", "leave one out");
    }
  }
  return {};
}

Status validate_networks(const MachineConfig& config) {
  const auto there = [&](const std::string& id) {
    return std::any_of(config.netdevs.begin(), config.netdevs.end(), [&](const auto& one) { return one.id == id; });
  };
  for (std::size_t i = 0; i < config.netdevs.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (config.netdevs[i].id == config.netdevs[j].id)
        return bad(fmt::format("there are two networks '{}'", config.netdevs[i].id), "give each an id of its own");
  for (const FrameDumpConfig& dump : config.frame_dumps)
    if (!there(dump.netdev))
      return bad(fmt::format("filter-dump wants the network '{}', which is not there", dump.netdev),
                 "name the id of a -netdev");
  return {};
}

}  // namespace

Status validate(const MachineConfig& config) {
  if (config.memory_bytes < kLeastMemory || config.memory_bytes > kMostMemory)
    return bad(fmt::format("{} bytes of memory are outside 1 MiB to 1 TiB", config.memory_bytes), "give another -m");
  if (config.memory_bytes % 4096 != 0)
    return bad(fmt::format("{} bytes of memory are not a whole number of 4 KiB pages", config.memory_bytes),
               "give a rounder -m");
  if (config.boot.kernel.empty() && config.boot.firmware.empty())
    return bad("there is nothing to boot", "give a kernel or a firmware image (-kernel FILE or -bios FILE)");
  if (config.boot.kernel.empty()) {
    if (!config.boot.initrd.empty()) return bad("an initrd needs a kernel", "add -kernel FILE");
    if (!config.boot.append.empty()) return bad("a kernel command line needs a kernel", "add -kernel FILE");
  } else if (!config.boot.firmware.empty()) {
    return bad("a kernel and a firmware image are both given; husk boots one or the other",
               "leave -kernel or -bios out");
  }
  if (config.serials.size() > kMostSerials)
    return fail("{} serial ports are more than the {} of a PC", config.serials.size(), kMostSerials);

  CharUsers users(config);
  for (std::size_t i = 0; i < config.serials.size(); ++i)
    if (!config.serials[i].empty()) HUSK_TRY(users.add(config.serials[i], fmt::format("serial port {}", i)));
  for (const DeviceConfig& device : config.devices)
    if (const auto* console = std::get_if<DebugConsoleConfig>(&device))
      HUSK_TRY(users.add(console->chardev, "isa-debugcon"));
  HUSK_TRY(validate_networks(config));
  return validate_devices(config);
}

}  // namespace husk::machine
