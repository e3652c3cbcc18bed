// husk: QEMU's options for virtio devices, disks and folders
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "app/qemu_properties.h"
#include "machine/config.h"

namespace husk::app {

/// True if `driver` is a virtio device (or a port of one), which is then added from the rest of the properties.
Result<bool> add_virtio_device(machine::MachineConfig& config, std::string_view driver, Properties& properties);
/// The names that add_virtio_device() knows, for messages.
std::span<const std::string_view> virtio_device_names();
std::string virtio_device_help();

/// -drive: with if=virtio (or none given) the disk's device too.
Status add_drive_option(machine::MachineConfig& config, std::string_view text);
/// husk run's --disk and --cdrom: "file=FILE", what -drive takes, bus=virtio|scsi and serial=TEXT.
Status add_run_disk(machine::MachineConfig& config, std::string_view text, bool cdrom);
/// -blockdev, in QEMU's dotted form or as JSON.
Status add_blockdev_option(machine::MachineConfig& config, const std::string& text);
/// -fsdev local,id=ID,path=DIR[,readonly=on]
Status add_fsdev_option(machine::MachineConfig& config, std::string_view text);
/// -virtfs local,path=DIR,mount_tag=NAME[,readonly=on]: a folder and its virtio-9p device
Status add_virtfs_option(machine::MachineConfig& config, std::string_view text);
/// -object: filter-dump; rng-random, rng-builtin and iothread are taken for what husk does anyway. JSON too.
Status add_object_option(machine::MachineConfig& config, const std::string& text);

}  // namespace husk::app
