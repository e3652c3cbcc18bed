// husk: from what a loader asks for to the state of the boot processor
#pragma once

#include "boot/entry_state.h"
#include "cpu/model.h"
#include "cpu/state.h"

namespace husk::machine {

/// The reset state with the loader's wishes on top.
cpu::CpuState state_at_entry(const boot::EntryState& entry, const cpu::CpuModel& model);

}  // namespace husk::machine
