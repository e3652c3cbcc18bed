// husk: a board's interrupt controllers where KVM has some or all of them
#pragma once

#if HUSK_HAVE_KVM

#include <memory>

#include "accel/kvm/irqchip.h"
#include "machine/interrupts.h"

namespace husk::machine {

/// Connects a board to the interrupt controllers of `irqchip`; what KVM has not (IrqchipMode::split) is husk's own.
Result<std::unique_ptr<Interrupts>> make_kvm_interrupts(std::shared_ptr<accel::kvm::Irqchip> irqchip,
                                                        Interrupts::Deps deps);

}  // namespace husk::machine

#endif
