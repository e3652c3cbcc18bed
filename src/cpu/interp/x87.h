// husk: the x87 state as other parts of the interpreter and the state savers see it
#pragma once

#include <cstdint>

#include "cpu/interp/core.h"

namespace husk::cpu::interp {

/// Bits of the x87 status word (SDM vol. 1, 8.1.3).
inline constexpr unsigned kX87StackFault = 1u << 6, kX87ErrorSummary = 1u << 7, kX87C0 = 1u << 8, kX87C1 = 1u << 9,
                          kX87C2 = 1u << 10, kX87Top = 7u << 11, kX87C3 = 1u << 14, kX87Busy = 1u << 15;

/// Only emptiness (11) is kept up to date in X87State::tag while code runs; what a register holds (00 valid, 01 zero,
/// 10 special) is found when it is asked for. This is the tag word that FNSTENV would store.
std::uint16_t x87_full_tags(const X87State& x87);
/// Values as the registers can hold them: reserved bits of the control word fixed, ES and B of the status word derived.
void x87_set_control(X87State& x87, std::uint16_t control);
void x87_set_status(X87State& x87, std::uint16_t status);
/// FNINIT.
void x87_init(X87State& x87);

/// Every x87 and MMX instruction that waits calls this first: next if no unmasked exception is pending, else what
/// became of it: #MF with CR0.NE; without, FERR# is pulled and the instruction is tried again until an interrupt comes
/// or IGNNE# lets it pass (SDM vol. 1, 8.7).
Flow x87_deliver_pending(Core& core);
/// To be called when an instruction has taken a pending exception away: lets FERR# fall.
void x87_error_cleared(Core& core);
inline Flow x87_check_pending(Core& core) {
  if (!(core.s.x87.status & kX87ErrorSummary)) [[likely]]
    return Flow::next;
  return x87_deliver_pending(core);
}

}  // namespace husk::cpu::interp
