// husk: x87 control: environment, state images, control and status words, pending exceptions
#include "cpu/interp/svm.h"
#include "cpu/interp/x87_unit.h"

namespace husk::cpu::interp {

std::uint16_t x87_full_tags(const X87State& x87) {
  unsigned tags = 0;
  for (unsigned i = 0; i < 8; ++i) {
    const F80Bits& r = x87.registers[i];
    const unsigned exponent = r.sign_exponent & 0x7fffu;
    unsigned tag;
    if (((x87.tag >> (2 * i)) & 3) == 3)
      tag = 3;
    else if (exponent == 0 && r.significand == 0)
      tag = 1;
    else if (exponent == 0 || exponent == 0x7fff || !(r.significand >> 63))
      tag = 2;
    else
      tag = 0;
    tags |= tag << (2 * i);
  }
  return static_cast<std::uint16_t>(tags);
}

void x87_set_status(X87State& x87, std::uint16_t status) {
  unsigned value = status & ~(kX87ErrorSummary | kX87Busy);
  if (value & fp::kAllFlags & ~unsigned{x87.control}) value |= kX87ErrorSummary | kX87Busy;
  x87.status = static_cast<std::uint16_t>(value);
}

// Bit 6 reads as one, bits 7 and 13..15 as zero; bit 12 (infinity control of the 287) is kept but means nothing.
void x87_set_control(X87State& x87, std::uint16_t control) {
  x87.control = static_cast<std::uint16_t>((control & 0x1F7F) | 0x40);
  x87_set_status(x87, x87.status);
}

void x87_init(X87State& x87) {
  x87.control = 0x37F;
  x87.status = 0;
  x87.tag = 0xFFFF;
  x87.opcode = 0;
  x87.ip = x87.dp = 0;
  x87.ip_selector = x87.dp_selector = 0;
}

Flow x87_deliver_pending(Core& core) {
  if (core.s.cr0 & kCr0Ne) return core.raise(kMF);
  if (core.intercepts(kExitFerrFreeze)) return core.vm_exit(kExitFerrFreeze);
  if (!core.deps().floating_point_error || core.deps().floating_point_error(true)) return Flow::next;
  return Flow::repeat;
}

void x87_error_cleared(Core& core) {
  if (core.deps().floating_point_error) core.deps().floating_point_error(false);
}

namespace {

using fp::F80;

// ---- environment images (SDM vol. 1, figures 8-9 to 8-12) -------------------------------------------------------

/// Real mode and V86 store 20- or 32-bit linear addresses and the opcode, protected mode selectors and offsets.
bool real_format(const Core& core) { return core.s.real_mode() || core.s.v86(); }
unsigned environment_size(const Insn& insn) { return insn.op_size == 2 ? 14 : 28; }

void build_environment16(const Core& core, std::uint8_t* at) {
  const X87State& x = core.s.x87;
  store_le(at, x.control);
  store_le(at + 2, x.status);
  store_le(at + 4, x87_full_tags(x));
  if (real_format(core)) {
    const auto ip = static_cast<std::uint32_t>(x.ip) + (std::uint32_t{x.ip_selector} << 4);
    const auto dp = static_cast<std::uint32_t>(x.dp) + (std::uint32_t{x.dp_selector} << 4);
    store_le(at + 6, static_cast<std::uint16_t>(ip));
    store_le(at + 8, static_cast<std::uint16_t>(((ip >> 4) & 0xF000) | x.opcode));
    store_le(at + 10, static_cast<std::uint16_t>(dp));
    store_le(at + 12, static_cast<std::uint16_t>((dp >> 4) & 0xF000));
  } else {
    store_le(at + 6, static_cast<std::uint16_t>(x.ip));
    store_le(at + 8, x.ip_selector);
    store_le(at + 10, static_cast<std::uint16_t>(x.dp));
    store_le(at + 12, x.dp_selector);
  }
}

void build_environment32(const Core& core, std::uint8_t* at) {
  const X87State& x = core.s.x87;
  constexpr std::uint32_t kReserved = 0xFFFF0000;
  store_le(at, kReserved | x.control);
  store_le(at + 4, kReserved | x.status);
  store_le(at + 8, kReserved | x87_full_tags(x));
  if (real_format(core)) {
    const auto ip = static_cast<std::uint32_t>(x.ip) + (std::uint32_t{x.ip_selector} << 4);
    const auto dp = static_cast<std::uint32_t>(x.dp) + (std::uint32_t{x.dp_selector} << 4);
    store_le(at + 12, kReserved | (ip & 0xFFFF));
    store_le(at + 16, ((ip >> 4) & 0x0FFFF000) | x.opcode);
    store_le(at + 20, kReserved | (dp & 0xFFFF));
    store_le(at + 24, (dp >> 4) & 0x0FFFF000);
  } else {
    store_le(at + 12, static_cast<std::uint32_t>(x.ip));
    store_le(at + 16, x.ip_selector | (std::uint32_t{x.opcode} << 16));
    store_le(at + 20, static_cast<std::uint32_t>(x.dp));
    store_le(at + 24, kReserved | x.dp_selector);
  }
}

void build_environment(const Core& core, const Insn& insn, std::uint8_t* at) {
  if (insn.op_size == 2)
    build_environment16(core, at);
  else
    build_environment32(core, at);
}

void take_environment(Core& core, const Insn& insn, const std::uint8_t* at) {
  X87State& x = core.s.x87;
  const bool narrow = insn.op_size == 2;
  const unsigned step = narrow ? 2 : 4;
  x.status = load_le<std::uint16_t>(at + step);
  x87_set_control(x, load_le<std::uint16_t>(at));
  x.tag = load_le<std::uint16_t>(at + 2 * step);
  const auto word = [&](unsigned n) { return std::uint32_t{load_le<std::uint16_t>(at + n)}; };
  if (real_format(core)) {
    // The linear address comes back as an offset of segment 0.
    const std::uint32_t middle_ip = narrow ? word(8) : load_le<std::uint32_t>(at + 16);
    const std::uint32_t middle_dp = narrow ? word(12) : load_le<std::uint32_t>(at + 24);
    const std::uint32_t high = narrow ? 0xF000 : 0x0FFFF000;
    x.ip = word(3 * step) | ((middle_ip & high) << 4);
    x.dp = word(5 * step) | ((middle_dp & high) << 4);
    x.opcode = static_cast<std::uint16_t>(middle_ip & 0x7FF);
    x.ip_selector = x.dp_selector = 0;
  } else if (narrow) {
    x.ip = word(6);
    x.ip_selector = static_cast<std::uint16_t>(word(8));
    x.dp = word(10);
    x.dp_selector = static_cast<std::uint16_t>(word(12));
    x.opcode = 0;  // not in this format
  } else {
    x.ip = load_le<std::uint32_t>(at + 12);
    x.ip_selector = static_cast<std::uint16_t>(word(16));
    x.opcode = static_cast<std::uint16_t>(word(18) & 0x7FF);
    x.dp = load_le<std::uint32_t>(at + 20);
    x.dp_selector = static_cast<std::uint16_t>(word(24));
  }
}

/// Images are longer than one access may be: checked as a whole, then moved in pieces.
bool store_image(Core& core, const Insn& insn, const std::uint8_t* from, unsigned size) {
  const std::uint64_t address = core.effective_address(insn);
  if (!core.probe(insn.segment, address, size, AccessKind::write)) return false;
  for (unsigned done = 0; done < size; done += 2)
    if (!core.store(insn.segment, address + done, load_le<std::uint16_t>(from + done))) return false;
  return true;
}
bool load_image(Core& core, const Insn& insn, std::uint8_t* to, unsigned size) {
  const std::uint64_t address = core.effective_address(insn);
  if (!core.probe(insn.segment, address, size, AccessKind::read)) return false;
  for (unsigned done = 0; done < size; done += 2) {
    std::uint16_t word;
    if (!core.load(insn.segment, address + done, word)) return false;
    store_le(to + done, word);
  }
  return true;
}

Flow store_environment(Core& core, const Insn& insn) {
  std::array<std::uint8_t, 28> image;
  build_environment(core, insn, image.data());
  if (!store_image(core, insn, image.data(), environment_size(insn))) return Flow::fault;
  x87_set_control(core.s.x87, static_cast<std::uint16_t>(core.s.x87.control | fp::kAllFlags));
  return Flow::next;
}
Flow load_environment(Core& core, const Insn& insn) {
  std::array<std::uint8_t, 28> image;
  if (!load_image(core, insn, image.data(), environment_size(insn))) return Flow::fault;
  take_environment(core, insn, image.data());
  return Flow::next;
}
Flow save(Core& core, const Insn& insn) {
  std::array<std::uint8_t, 108> image;
  const unsigned head = environment_size(insn);
  build_environment(core, insn, image.data());
  const X87State& x = core.s.x87;
  const unsigned top = (x.status >> 11) & 7u;
  for (unsigned i = 0; i < 8; ++i) {
    const F80Bits& r = x.registers[(top + i) & 7];
    store_le(image.data() + head + 10 * i, r.significand);
    store_le(image.data() + head + 10 * i + 8, r.sign_exponent);
  }
  if (!store_image(core, insn, image.data(), head + 80)) return Flow::fault;
  x87_init(core.s.x87);
  return Flow::next;
}
Flow restore(Core& core, const Insn& insn) {
  std::array<std::uint8_t, 108> image;
  const unsigned head = environment_size(insn);
  if (!load_image(core, insn, image.data(), head + 80)) return Flow::fault;
  take_environment(core, insn, image.data());
  X87State& x = core.s.x87;
  const unsigned top = (x.status >> 11) & 7u;
  for (unsigned i = 0; i < 8; ++i)
    x.registers[(top + i) & 7] = {load_le<std::uint64_t>(image.data() + head + 10 * i),
                                  load_le<std::uint16_t>(image.data() + head + 10 * i + 8)};
  return Flow::next;
}

// ---- words and the stack pointer --------------------------------------------------------------------------------

Flow load_control(Core& core, const Insn& insn) {
  std::uint16_t control;
  if (!core.load(insn.segment, core.effective_address(insn), control)) return Flow::fault;
  x87_set_control(core.s.x87, control);
  return Flow::next;
}
Flow store_control(Core& core, const Insn& insn) {
  return core.store(insn.segment, core.effective_address(insn), core.s.x87.control) ? Flow::next : Flow::fault;
}
Flow store_status(Core& core, const Insn& insn) {
  return core.store(insn.segment, core.effective_address(insn), core.s.x87.status) ? Flow::next : Flow::fault;
}
Flow status_to_ax(Core& core, const Insn&) {
  core.set_reg<2>(kRax, core.s.x87.status);
  return Flow::next;
}
Flow clear_exceptions(Core& core, const Insn&) {
  core.s.x87.status &= 0x7F00;
  return Flow::next;
}
Flow initialise(Core& core, const Insn&) {
  x87_init(core.s.x87);
  return Flow::next;
}
Flow nothing(Core&, const Insn&) { return Flow::next; }
/// FWAIT: #NM by CR0.MP and CR0.TS together, whatever EM says, and before a pending #MF (SDM vol. 3, table 2-2).
Flow wait(Core& core, const Insn&) {
  if ((core.s.cr0 & (kCr0Mp | kCr0Ts)) == (kCr0Mp | kCr0Ts)) return core.raise(kNM);
  return x87_check_pending(core);
}

/// Instructions that can take a pending exception away.
template <Flow (*Handler)(Core&, const Insn&)>
Flow settling(Core& core, const Insn& insn) {
  const bool pending = core.s.x87.status & kX87ErrorSummary;
  const Flow flow = Handler(core, insn);
  if (pending && !(core.s.x87.status & kX87ErrorSummary)) x87_error_cleared(core);
  return flow;
}

void no_operation(X87Unit&, const Insn&) {}
template <int By>
void move_top(X87Unit& unit, const Insn&) {
  unit.rotate(By);
  unit.commit();
}
template <bool Pop>
void free_register(X87Unit& unit, const Insn& insn) {
  unit.set_empty(insn.rm & 7u);
  unit.commit();
  if (Pop) unit.pop();
}

}  // namespace

void bind_x87_control(HandlerTable& table) {
  table.set(Sem::fnop, on_registers<no_operation>);
  table.set(Sem::fnop_control, nothing);
  table.set(Sem::fwait, wait);
  table.set(Sem::fincstp, on_registers<move_top<1>>);
  table.set(Sem::fdecstp, on_registers<move_top<-1>>);
  table.set(Sem::ffree_i, on_registers<free_register<false>>);
  table.set(Sem::ffreep_i, on_registers<free_register<true>>);
  table.set(Sem::fldcw, settling<waiting<load_control>>);
  table.set(Sem::fnstcw, store_control);
  table.set(Sem::fnstsw_m, store_status);
  table.set(Sem::fnstsw_a, status_to_ax);
  table.set(Sem::fnclex, settling<clear_exceptions>);
  table.set(Sem::fninit, settling<initialise>);
  table.set(Sem::fldenv, settling<waiting<load_environment>>);
  table.set(Sem::fnstenv, settling<store_environment>);
  table.set(Sem::frstor, settling<waiting<restore>>);
  table.set(Sem::fnsave, settling<save>);
}

void bind_x87(HandlerTable& table) {
  bind_x87_arithmetic(table);
  bind_x87_moves(table);
  bind_x87_functions(table);
  bind_x87_control(table);
}

}  // namespace husk::cpu::interp
