// husk: bringing the guest's drivers, file systems, network and terminals up
#pragma once

#include "config.h"

namespace husk::guest {

/// /dev of its own, for the console and the ports.
void mount_devices();
void load_modules(const Control& control, const Config& config);
/// Opens a port of husk's console device, waiting for the driver to make it.
Word open_port(const Control& control, Port port, Word flags);
/// The root file system with all that belongs in it, then goes into it.
void make_root(const Control& control, const Config& config);
void set_up_network(const Control& control, const Config& config);
/// Host name, and disks for the user.
void give_names(const Config& config);

}  // namespace husk::guest
