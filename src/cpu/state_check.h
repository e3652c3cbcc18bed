// husk: whether a CPU of a model can be in a state
#pragma once

#include "base/result.h"
#include "cpu/model.h"
#include "cpu/state.h"

namespace husk::cpu {

/// Bits of CR4 and EFER that a CPU of the model has; the others are reserved.
std::uint64_t cr4_bits(const CpuModel& model);
std::uint64_t efer_bits(const CpuModel& model);

/// Refuses, by name, what no CPU of the model can hold, whoever runs it. For states from elsewhere: a saved machine,
/// the other accelerator.
Status check_state(const CpuState& state, const CpuModel& model);

}  // namespace husk::cpu
