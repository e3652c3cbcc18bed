// husk: the figures of a vCPU's JIT in the accelerator's terms
#pragma once

#include "accel/accel.h"

#if HUSK_HAVE_JIT
#include "cpu/jit/engine.h"

namespace husk::accel {

Statistics jit_statistics(const cpu::jit::Engine& engine, const cpu::interp::Core& core);
Doing doing_of(cpu::jit::Phase phase);

}  // namespace husk::accel
#endif
