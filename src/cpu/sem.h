// husk: the semantic ids of the instruction table, Sem::add_eg and the like
#pragma once

#include "cpu/insn.h"

namespace husk::cpu {

enum class Sem : std::uint16_t {
#define S(name) name,
#include "cpu/sem.inc"
#undef S
};

}  // namespace husk::cpu
