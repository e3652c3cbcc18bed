// husk: the chipset's part in reporting x87 errors: FERR#, IRQ 13, IGNNE# and port F0h
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

struct FpuErrorState {
  bool ferr = false;       ///< the processor's FERR# pin
  bool interrupt = false;  ///< IRQ 13, latched until port F0h is written
  bool ignne = false;      ///< the processor's IGNNE# pin
  static constexpr auto state() {
    return std::tuple{state::field(1, "ferr", &FpuErrorState::ferr),
                      state::field(2, "interrupt", &FpuErrorState::interrupt),
                      state::field(3, "ignne", &FpuErrorState::ignne)};
  }
};

/// ICH9 data sheet, "Coprocessor Error" and COPROC_ERR (port F0h): with CR0.NE clear a pending x87 exception drives
/// FERR#, which raises IRQ 13. Its handler writes port F0h: IRQ 13 falls and IGNNE# lets x87 instructions through until
/// FERR# falls.
class FpuError final : public core::StatefulDevice<FpuErrorState>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::InterruptLine irq = {};  ///< IRQ 13
  };
  static constexpr std::uint16_t kPort = 0xF0;

  static Result<std::unique_ptr<FpuError>> create(Deps deps);

  std::string_view state_id() const override { return "fpu-error"; }
  void reset(core::ResetKind kind) override;

  /// The processor's FERR# pin; answers with IGNNE#. Called with the domain held.
  bool set_ferr(bool asserted);

 private:
  explicit FpuError(Deps deps) : deps_(std::move(deps)) {}
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  void after_load() override { deps_.irq.restore_level(state_.interrupt); }

  Deps deps_;
  mem::Mapping port_;
};

}  // namespace husk::devices
