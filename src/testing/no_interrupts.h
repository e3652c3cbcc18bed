// husk: interrupts for a CPU that runs by itself: there are none
#pragma once

#include "core/cpu_ports.h"

namespace husk::testing {

struct NoInterrupts final : core::CpuInterrupts {
  bool pending() override { return false; }
  std::optional<std::uint8_t> acknowledge() override { return {}; }
  std::uint8_t task_priority() override { return 0; }
  void set_task_priority(std::uint8_t) override {}
  std::uint64_t apic_base() override { return 0xFEE00900; }
  bool set_apic_base(std::uint64_t) override { return true; }
  std::optional<std::uint64_t> read_msr(std::uint32_t) override { return {}; }
  bool write_msr(std::uint32_t, std::uint64_t) override { return false; }
  void cpu_init() override {}
};

}  // namespace husk::testing
