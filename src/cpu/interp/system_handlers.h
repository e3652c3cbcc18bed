// husk: the parts that bind_system() is made of, one a file
#pragma once

#include "cpu/interp/core.h"

namespace husk::cpu::interp {

void bind_flags(HandlerTable& table);              // flags.cpp
void bind_control_registers(HandlerTable& table);  // control_registers.cpp
void bind_descriptors(HandlerTable& table);        // descriptor_insns.cpp
void bind_syscalls(HandlerTable& table);           // syscalls.cpp
void bind_msr(HandlerTable& table);                // msr.cpp
void bind_svm(HandlerTable& table);                // svm.cpp
void bind_xsave(HandlerTable& table);              // xsave.cpp

}  // namespace husk::cpu::interp
