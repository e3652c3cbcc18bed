// husk: what the CPU that a user named lacks when a machine gets it
#pragma once

#include <string>

#include "cpu/model.h"
#include "machine/config.h"

namespace husk::app {

/// What CPUs of the named model have and husk's do not, without what the user took away himself: names with spaces
/// between them.
std::string features_left_out(const machine::CpuConfig& cpu);

/// What `asked` has and `given` has not, likewise.
std::string features_lost(const cpu::CpuModel& asked, const cpu::CpuModel& given);

}  // namespace husk::app
