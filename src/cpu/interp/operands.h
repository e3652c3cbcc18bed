// husk: operand access for integer handlers
#pragma once

#include "cpu/interp/alu.h"
#include "cpu/interp/core.h"

namespace husk::cpu::interp {

template <unsigned N>
using Uint = Core::UintOf<N>;
template <unsigned N>
using Sint = std::make_signed_t<Uint<N>>;

/// Reads the E operand. False: fault.
template <unsigned N>
[[nodiscard]] inline bool read_rm(Core& core, const Insn& insn, Uint<N>& value) {
  if (!insn.memory) {
    value = core.reg<N>(insn.rm);
    return true;
  }
  return core.load<Uint<N>>(insn.segment, core.effective_address(insn), value);
}
/// Writes the E operand of an instruction that does not read it.
template <unsigned N>
[[nodiscard]] inline bool write_rm(Core& core, const Insn& insn, std::type_identity_t<Uint<N>> value) {
  if (!insn.memory) {
    core.set_reg<N>(insn.rm, value);
    return true;
  }
  return core.store<Uint<N>>(insn.segment, core.effective_address(insn), value);
}
/// E = change(E); `change` may run more than once for a locked operand and must have no side effect.
template <unsigned N, class Change>
[[nodiscard]] inline bool modify_rm(Core& core, const Insn& insn, Change&& change) {
  if (!insn.memory) {
    core.set_reg<N>(insn.rm, change(core.reg<N>(insn.rm)));
    return true;
  }
  return core.modify<Uint<N>>(insn.segment, core.effective_address(insn), insn.lock, change);
}

}  // namespace husk::cpu::interp

/// Binds a handler template over its four operand sizes.
#define HUSK_BIND_SIZES(table, sem, ...)                                                                     \
  do {                                                                                                       \
    constexpr auto husk_pick = []<unsigned N>() -> Handler { return &__VA_ARGS__; };                         \
    (table).set(Sem::sem, husk_pick.template operator()<1>(), husk_pick.template operator()<2>(),            \
                husk_pick.template operator()<4>(), husk_pick.template operator()<8>());                     \
  } while (false)
