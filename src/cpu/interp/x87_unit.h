// husk: one x87 instruction at work: stack, operands, exceptions; internal to x87*.cpp
#pragma once

#include <bit>
#include <type_traits>

#include "cpu/interp/x87.h"
#include "cpu/sem.h"
#include "cpu/softfloat/softfloat.h"

namespace husk::cpu::interp {

inline fp::F80 to_f80(const F80Bits& a) { return {a.significand, a.sign_exponent}; }
inline F80Bits to_bits(fp::F80 a) { return {a.sig, a.sign_exp}; }

/// Handlers make one, check operands, compute with `env`, then commit() once no access can fault any more.
class X87Unit {
 public:
  explicit X87Unit(Core& core)
      : x(core.s.x87), env(fp::Env::from_fcw(core.s.x87.control)), top_((x.status >> 11) & 7u) {}

  X87State& x;
  fp::Env env;

  bool empty(unsigned i) const { return ((x.tag >> shift(i)) & 3u) == 3; }
  fp::F80 st(unsigned i) const { return to_f80(x.registers[physical(i)]); }
  void set(unsigned i, fp::F80 value) {
    x.registers[physical(i)] = to_bits(value);
    x.tag = static_cast<std::uint16_t>(x.tag & ~(3u << shift(i)));
  }
  void set_empty(unsigned i) { x.tag = static_cast<std::uint16_t>(x.tag | (3u << shift(i))); }
  void rotate(int by) { set_top(top_ + static_cast<unsigned>(by)); }
  void pop() {
    set_empty(0);
    rotate(1);
  }
  void push(fp::F80 value) {
    rotate(-1);
    set(0, value);
  }

  /// Stack faults: invalid with SF; C1 tells an overflow (1) from an underflow (0). True if masked: the instruction
  /// goes on with the default NaN.
  bool underflow() { return stack_fault(false); }
  bool overflow() { return stack_fault(true); }

  /// C3, C2 and C0 to the given ones.
  void set_codes(unsigned codes) {
    x.status = static_cast<std::uint16_t>((x.status & ~(kX87C0 | kX87C2 | kX87C3)) | codes);
  }
  void set_codes(fp::Relation relation) {
    static constexpr std::array<std::uint16_t, 4> kCodes{kX87C0, kX87C3, 0, kX87C0 | kX87C2 | kX87C3};
    set_codes(kCodes[static_cast<unsigned>(relation)]);
  }

  /// Enters flags, C1 and, if one is unmasked, the error summary into the status word.
  void commit() {
    set_c1(env.c1);
    commit_keeping_c1();
  }
  /// FCOMI and FCMOV touch C1 only for a stack fault (found on Zen 4; the manuals mention no other case either).
  void commit_keeping_c1() {
    env.settle();
    unsigned status = x.status | unsigned{env.raised};
    if (status & fp::kAllFlags & ~unsigned{env.masked}) status |= kX87ErrorSummary | kX87Busy;
    x.status = static_cast<std::uint16_t>(status);
  }
  /// A store to memory does not happen with one of these unmasked; inexactness alone does not stop it.
  bool store_suppressed() const { return (env.unmasked() & ~unsigned{fp::kPrecision}) != 0; }

 private:
  unsigned physical(unsigned i) const { return (top_ + i) & 7; }
  unsigned shift(unsigned i) const { return physical(i) * 2; }
  void set_c1(bool value) { x.status = static_cast<std::uint16_t>((x.status & ~kX87C1) | (value ? kX87C1 : 0u)); }
  void set_top(unsigned top) {
    top_ = top & 7;
    x.status = static_cast<std::uint16_t>((x.status & ~kX87Top) | (top_ << 11));
  }
  bool stack_fault(bool over) {
    env.raise(fp::kInvalid);
    env.c1 = over;
    set_c1(over);
    x.status = static_cast<std::uint16_t>(x.status | kX87StackFault);
    return (env.masked & fp::kInvalid) != 0;
  }

  unsigned top_;
};

/// FOP is the low 11 bits of the two opcode bytes; FIP that of the first prefix. An AMD processor keeps them for every
/// non-control instruction, an Intel one with the compatibility mode of IA32_MISC_ENABLE[2] does so too.
inline void note_instruction(Core& core, const Insn& insn) {
  X87State& x = core.s.x87;
  // All x87 forms begin with D8..DF in their encoding column.
  const unsigned opcode = static_cast<unsigned>(forms()[insn.form].encoding[1]) & 7u;
  const bool letter = forms()[insn.form].encoding[1] > '9';
  x.opcode = static_cast<std::uint16_t>(((letter ? opcode + 1 : opcode) & 7u) << 8 | insn.modrm);
  x.ip = core.s.rip;
  x.ip_selector = core.s.seg[kCs].selector;
}
inline void note_operand(Core& core, const Insn& insn, std::uint64_t address) {
  note_instruction(core, insn);
  core.s.x87.dp = address;
  core.s.x87.dp_selector = core.s.seg[insn.segment].selector;
}

/// Body runs after a pending exception had its turn.
template <Flow (*Body)(Core&, const Insn&)>
Flow waiting(Core& core, const Insn& insn) {
  if (const Flow flow = x87_check_pending(core); flow != Flow::next) [[unlikely]]
    return flow;
  return Body(core, insn);
}
/// The same for instructions without a memory operand, whose pointers can be noted at once.
template <void (*Body)(X87Unit&, const Insn&)>
Flow on_registers(Core& core, const Insn& insn) {
  if (const Flow flow = x87_check_pending(core); flow != Flow::next) [[unlikely]]
    return flow;
  note_instruction(core, insn);
  X87Unit unit(core);
  Body(unit, insn);
  return Flow::next;
}

void bind_x87_arithmetic(HandlerTable& table);  // x87_arithmetic.cpp
void bind_x87_moves(HandlerTable& table);       // x87_move.cpp
void bind_x87_functions(HandlerTable& table);   // x87_function.cpp
void bind_x87_control(HandlerTable& table);     // x87_control.cpp

}  // namespace husk::cpu::interp
