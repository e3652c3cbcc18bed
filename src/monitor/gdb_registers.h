// husk: the registers that husk shows to gdb, in the order of its target description
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/state.h"

namespace husk::monitor {

/// One register of the target description.
struct GdbRegister {
  std::string_view name;
  unsigned bytes;
  void (*get)(const cpu::CpuState& state, unsigned argument, std::uint8_t* out);
  /// False: read-only.
  bool (*set)(cpu::CpuState& state, unsigned argument, const std::uint8_t* in);
  unsigned argument;
};
const std::vector<GdbRegister>& gdb_registers();
/// target.xml.
std::string gdb_target_description();

}  // namespace husk::monitor
