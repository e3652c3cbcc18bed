// husk: instructions on RFLAGS that depend on privilege
#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

bool iopl3(const Core& core) { return bits(core.s.rflags, 12, 2) == 3; }
bool iopl_allows(const Core& core) { return core.cpl() <= bits(core.s.rflags, 12, 2); }

template <unsigned N>
Flow pushf(Core& core, const Insn&) {
  std::uint64_t image = core.s.rflags & ~std::uint64_t{kVM | kRF};
  if (core.s.v86() && !iopl3(core)) {
    if (!(core.s.cr4 & kCr4Vme) || N != 2) return core.raise_gp();
    image = (image & ~std::uint64_t{kIF}) | kIOPL | ((image & kVIF) ? std::uint64_t{kIF} : 0);
  }
  return core.push<Uint<N>>(static_cast<Uint<N>>(image)) ? Flow::next : Flow::fault;
}

template <unsigned N>
Flow popf(Core& core, const Insn&) {
  const bool virtualised = core.s.v86() && !iopl3(core);
  if (virtualised && (!(core.s.cr4 & kCr4Vme) || N != 2)) return core.raise_gp();
  Uint<N> popped;
  if (!core.peek(popped)) return Flow::fault;
  std::uint64_t value = popped;
  std::uint64_t mask = kCF | kPF | kAF | kZF | kSF | kTF | kDF | kOF | kNT;
  if (virtualised) {
    if (((value & kIF) && (core.s.rflags & kVIP)) || (value & kTF)) return core.raise_gp();
    mask |= kVIF;
    value = (value & ~std::uint64_t{kVIF}) | ((value & kIF) ? std::uint64_t{kVIF} : 0);
  } else {
    if (iopl_allows(core)) mask |= kIF;
    if (core.cpl() == 0) mask |= kIOPL;
    if (N >= 4) mask |= kAC | kID;
  }
  mask |= kRF;
  value &= ~std::uint64_t{kRF};
  core.set_stack_pointer(core.s.gpr[kRsp] + N);
  core.write_rflags(value, mask);
  return Flow::next;
}

/// Virtual interrupts of virtual-8086 mode (VME) or of ring 3 (PVI) are in effect.
bool virtual_interrupts(const Core& core) {
  return core.s.v86() ? (core.s.cr4 & kCr4Vme) != 0 : core.cpl() == 3 && (core.s.cr4 & kCr4Pvi);
}

Flow cli(Core& core, const Insn&) {
  if (iopl_allows(core)) core.write_rflags(0, kIF);
  else if (virtual_interrupts(core)) core.write_rflags(0, kVIF);
  else return core.raise_gp();
  return Flow::next;
}

Flow sti(Core& core, const Insn&) {
  if (iopl_allows(core)) {
    const bool was_off = !(core.s.rflags & kIF);
    core.write_rflags(kIF, kIF);
    if (was_off) core.set_interrupt_shadow(false);
  } else if (virtual_interrupts(core)) {
    if (core.s.rflags & kVIP) return core.raise_gp();
    core.write_rflags(kVIF, kVIF);
  } else {
    return core.raise_gp();
  }
  return Flow::next;
}

constexpr std::uint64_t kLahfFlags = kSF | kZF | kAF | kPF | kCF;
Flow lahf(Core& core, const Insn&) {
  core.set_reg<1>(kRax | kHighByte, static_cast<std::uint8_t>((core.s.rflags & kLahfFlags) | kReservedOne));
  return Flow::next;
}
Flow sahf(Core& core, const Insn&) {
  core.s.rflags = (core.s.rflags & ~kLahfFlags) | (core.reg<1>(kRax | kHighByte) & kLahfFlags);
  return Flow::next;
}

// Outside ring 0 they do not exist (SDM vol. 2, CLAC: #UD if CPL > 0).
Flow clac(Core& core, const Insn&) {
  if (core.cpl() != 0) return core.raise_ud();
  core.s.rflags &= ~std::uint64_t{kAC};
  core.update_mmu_index();
  return Flow::next;
}
Flow stac(Core& core, const Insn&) {
  if (core.cpl() != 0) return core.raise_ud();
  core.s.rflags |= kAC;
  core.update_mmu_index();
  return Flow::next;
}

}  // namespace

void bind_flags(HandlerTable& t) {
  HUSK_BIND_SIZES(t, pushf, pushf<N>);
  HUSK_BIND_SIZES(t, popf, popf<N>);
  t.set(Sem::cli, cli);
  t.set(Sem::sti, sti);
  t.set(Sem::lahf, lahf);
  t.set(Sem::sahf, sahf);
  t.set(Sem::clac, clac);
  t.set(Sem::stac, stac);
}

}  // namespace husk::cpu::interp
