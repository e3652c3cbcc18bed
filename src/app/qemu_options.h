// husk: QEMU's command line, for what husk has of it
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "machine/config.h"

namespace husk::app {

/// What a command line in QEMU's syntax asks for.
struct QemuRequest {
  /// The machine to run; none if something is only to be printed.
  std::optional<machine::MachineConfig> machine = {};
  enum class Print : std::uint8_t {
    nothing,
    help,
    version,
    machines,
    accelerators,
    cpus,
    devices,
    chardevs,
    log_items
  };
  Print print = Print::nothing;
};

/// Parses the arguments after the program's name. Touches no file. An option, property or value that husk does not have
/// is refused by name, with the nearest one it has.
Result<QemuRequest> parse_qemu_options(std::span<const std::string> arguments);

/// One property list, as it follows -device and -chardev, for `husk run` too.
Status add_device_option(machine::MachineConfig& config, std::string_view text);
Status add_chardev_option(machine::MachineConfig& config, std::string_view text);
/// A character device in the short syntax, added to the configuration if it is a new one. Returns its id, or nothing
/// for "none". `user_id` is the id of a new one.
Result<std::string> add_char_source(machine::MachineConfig& config, std::string_view text, std::string user_id);
/// "kvm", "tcg", "soft", "interp", "jit" as in -accel.
Result<machine::AcceleratorKind> parse_accelerator(std::string_view name);
/// "MODEL,+feature,-feature,feature=on".
Result<machine::CpuConfig> parse_cpu(std::string_view text);
/// "N", "cpus=N,sockets=..,cores=..,threads=..".
Result<machine::TopologyConfig> parse_smp(std::string_view text);

/// Help of the option list; of the devices; of the -chardev kinds; of the -d items.
std::string qemu_help();
std::string device_help();
std::string chardev_help();
std::string log_item_help();

/// Every option's name, with its dash, in the order of the help.
std::vector<std::string> qemu_option_names();

}  // namespace husk::app
