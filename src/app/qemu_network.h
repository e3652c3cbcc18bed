// husk: QEMU's options for networks
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "app/qemu_properties.h"
#include "machine/config.h"

namespace husk::app {

/// -netdev KIND,id=ID,...: user, tap, bridge, stream, dgram, socket, passt. JSON too.
Status add_netdev_option(machine::MachineConfig& config, const std::string& text);
/// -nic KIND[,model=virtio-net-pci][,mac=...],...: a card and its network; or none.
Status add_nic_option(machine::MachineConfig& config, std::string_view text);
/// `husk run --net`: as -nic, and tap=NAME, bridge=NAME, capture=FILE.
Status add_run_network(machine::MachineConfig& config, std::string_view text);
/// -object filter-dump,id=ID,netdev=ID,file=FILE[,maxlen=BYTES]
Status add_filter_dump(machine::MachineConfig& config, Properties& properties);
/// A `tcp|udp:[host]:port-[guest]:port` forward.
Result<machine::HostForward> parse_host_forward(std::string_view text);
Result<std::array<std::uint8_t, 6>> parse_mac(std::string_view text);

}  // namespace husk::app
