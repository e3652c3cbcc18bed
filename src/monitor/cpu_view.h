// husk: a stopped CPU as debuggers and reports look at it: memory through its page tables, registers as text
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "cpu/insn.h"
#include "cpu/model.h"
#include "cpu/state.h"
#include "cpu/walk.h"
#include "mem/address_space.h"

namespace husk::monitor {

/// Reads and writes through a CPU's translation with a debugger's rights: supervisor, no accessed or dirty bits, write
/// protection ignored. RAM and ROM only, so that no device register is touched.
class CpuView {
 public:
  CpuView(const cpu::CpuState& state, const cpu::CpuModel& model, mem::AddressSpace& memory)
      : state_(state), limits_(cpu::walk_limits(model)), memory_(memory) {}

  const cpu::CpuState& state() const { return state_; }
  cpu::CodeSize code_size() const;
  /// Linear address of the next instruction.
  std::uint64_t linear_rip() const;

  cpu::PageWalk walk(std::uint64_t linear, const cpu::WalkAccess& access = {}) const;
  std::optional<mem::Gpa> translate(std::uint64_t linear) const;
  /// How many bytes from `linear` on could be read (up to into.size()).
  std::size_t read(std::uint64_t linear, std::span<std::uint8_t> into) const;
  std::size_t write(std::uint64_t linear, std::span<const std::uint8_t> from);
  std::size_t read_physical(mem::Gpa address, std::span<std::uint8_t> into) const;
  std::size_t write_physical(mem::Gpa address, std::span<const std::uint8_t> from);

 private:
  template <class Each>
  std::size_t by_page(std::uint64_t linear, std::size_t length, Each&& each) const;
  const cpu::CpuState& state_;
  cpu::WalkLimits limits_;
  mem::AddressSpace& memory_;
};

/// Registers as a table of several lines; `name_of` puts a symbol behind an address (may return "").
std::string registers_text(const cpu::CpuState& state, const std::function<std::string(std::uint64_t)>& name_of);
/// "#PF", "#GP", "NMI", "vector 0x30".
std::string vector_name(unsigned vector);

}  // namespace husk::monitor
