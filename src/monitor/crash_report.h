// husk: why an early boot died, as a person can read it
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "boot/symbols.h"
#include "cpu/model.h"
#include "mem/address_space.h"

namespace husk::monitor {

struct CrashReportInput {
  std::string headline;  ///< "CPU 0: triple fault"
  const cpu::CpuState& state;
  const cpu::CpuModel& model;
  mem::AddressSpace& memory;
  std::span<const accel::PastEvent> past;  ///< oldest first
  /// Searched in order for names; may be empty.
  std::span<const boot::SymbolTable* const> symbols;
  std::uint64_t instructions = 0;  ///< 0: not known
  /// Added to an address that no table has and that is its own physical address, for a second look: what a kernel's
  /// link addresses are above its physical ones. Names the place in a kernel that does not use its own page tables yet.
  std::uint64_t symbol_offset = 0;
};

/// Registers, the last exceptions with where they came from, the code around RIP, the page walk of the address that
/// faulted entry by entry, and a sentence on the likely cause where one can be told.
std::string crash_report(const CrashReportInput& input);

}  // namespace husk::monitor
