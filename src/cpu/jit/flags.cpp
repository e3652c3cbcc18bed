// husk: the guest's flags while translated code needs the host's: kept in memory, or made again from registers
#include "cpu/jit/translator.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {
namespace {

constexpr std::uint16_t kAll = kArithmeticFlags;
constexpr std::uint16_t kOfResult = kZF | kSF | kPF;

constexpr std::uint32_t bit(unsigned reg) { return std::uint32_t{1} << reg; }

}  // namespace

Translator::Recipe Translator::recipe_of(const Item& item) const {
  using Kind = Recipe::Kind;
  const Insn& insn = item.insn;
  const FormPlan& plan = e_.plans_[insn.form];
  if (plan.way != Way::copy || insn.lock) return {};
  const Sem sem = forms()[insn.form].sem;
  const unsigned reg = insn.reg & 15u, rm = insn.rm & 15u;
  const bool high = (insn.reg | insn.rm) & kHighByte;
  const bool whole = insn.op_size >= 4, wide = insn.op_size == 8;
  const auto immediate = static_cast<std::int64_t>(insn.imm);
  const auto from = [&](Kind kind, std::uint16_t flags, unsigned result, unsigned other = kNoRegister,
                        std::int32_t by = 0) -> Recipe {
    if (homeless(result) || (other != kNoRegister && homeless(other))) return {};
    const std::uint32_t registers = bit(result) | (other == kNoRegister ? 0 : bit(other));
    return {.kind = kind,
            .wide = wide,
            .result = static_cast<std::uint8_t>(result),
            .other = static_cast<std::uint8_t>(other),
            .by = by,
            .flags = flags,
            .registers = registers,
            .item = &item};
  };
  const auto by_immediate = [&](bool add, std::uint16_t flags, unsigned result, std::int64_t by) -> Recipe {
    // Room for what the stack pointer may move meanwhile.
    if (std::abs(by) >= kFar) return {};
    return from(add ? Kind::add_immediate : Kind::subtract_immediate, flags, result, kNoRegister,
                static_cast<std::int32_t>(by));
  };
  switch (sem) {
    case Sem::cmp_eg:
    case Sem::cmp_ge:
    case Sem::test_eg:
      if (insn.memory || high) return {};
      return from(Kind::again, kAll, reg, rm);
    case Sem::bt_eg:
      if (insn.memory) return {};
      return from(Kind::again, kCF, reg, rm);
    case Sem::cmp_ei:
    case Sem::test_ei:
      if (insn.memory || high) return {};
      return from(Kind::again, kAll, rm);
    case Sem::bt_ei:
      if (insn.memory) return {};
      return from(Kind::again, kCF, rm);
    case Sem::cmp_ai:
    case Sem::test_ai: return from(Kind::again, kAll, kRax);
    default: break;
  }
  if (!whole) return {};
  switch (sem) {
    case Sem::and_ge:
    case Sem::or_ge:
    case Sem::xor_ge: return from(Kind::of_result, kAll, reg);
    case Sem::and_eg:
    case Sem::or_eg:
    case Sem::xor_eg:
    case Sem::and_ei:
    case Sem::or_ei:
    case Sem::xor_ei:
      if (insn.memory) return {};
      return from(Kind::of_result, kAll, rm);
    case Sem::and_ai:
    case Sem::or_ai:
    case Sem::xor_ai: return from(Kind::of_result, kAll, kRax);
    case Sem::shl_ei:
    case Sem::shr_ei:
    case Sem::sar_ei:
      if (insn.memory || (insn.imm & (wide ? 63 : 31)) == 0) return {};
      return from(Kind::of_result, kOfResult, rm);
    case Sem::add_ei:
    case Sem::sub_ei:
      if (insn.memory) return {};
      return by_immediate(sem == Sem::add_ei, kAll, rm, immediate);
    case Sem::add_ai:
    case Sem::sub_ai: return by_immediate(sem == Sem::add_ai, kAll, kRax, immediate);
    case Sem::inc_e:
    case Sem::dec_e:
      if (insn.memory) return {};
      return by_immediate(sem == Sem::inc_e, kAll & ~kCF, rm, 1);
    case Sem::add_eg:
    case Sem::add_ge:
    case Sem::sub_eg:
    case Sem::sub_ge: {
      if (insn.memory || reg == rm) return {};
      const bool to_reg = sem == Sem::add_ge || sem == Sem::sub_ge;
      const bool add = sem == Sem::add_eg || sem == Sem::add_ge;
      return from(add ? Kind::add_register : Kind::subtract_register, kAll, to_reg ? reg : rm, to_reg ? rm : reg);
    }
    default: return {};
  }
}

void Translator::emit_recipe(Emitter& e) {
  using Kind = Recipe::Kind;
  const Recipe& r = recipe_;
  const auto result = static_cast<std::uint8_t>(home(r.result));
  const auto other = static_cast<std::uint8_t>(home(r.other));
  switch (r.kind) {
    case Kind::again: {
      const Insn& insn = r.item->insn;
      const FormPlan& plan = e_.plans_[insn.form];
      emit_encoded(e, r.item->bytes.data(), insn, plan, plan.reg == Field::gpr ? home(insn.reg & 15u) : 0u,
                   plan.rm == Field::gpr ? home(insn.rm & 15u) : 0u, nullptr, 0);
      break;
    }
    case Kind::of_result: e.rr(0x85, result, result, r.wide); break;  // test
    case Kind::add_immediate:
    case Kind::subtract_immediate: {
      const bool add = r.kind == Kind::add_immediate;
      e.lea(kHostR11, {result, HostAddress::kNone, 0, (add ? -r.by : r.by) - r.moved}, r.wide);
      e.alu_imm(add ? 0 : 5, kHostR11, r.by, r.wide);
      break;
    }
    case Kind::add_register:
      e.mov(kHostR11, result, r.wide);
      e.rr(0x2B, kHostR11, other, r.wide);
      e.rr(0x03, kHostR11, other, r.wide);
      break;
    case Kind::subtract_register:
      e.lea(kHostR11, {result, other, 0, 0}, r.wide);
      e.rr(0x3B, kHostR11, other, r.wide);
      break;
    case Kind::none: break;
  }
}

void Translator::keep_recipe(const Item& item) {
  if (recipe_.kind == Recipe::Kind::none) return;
  const Way way = e_.plans_[item.insn.form].way;
  bool lost = item.call || (registers_written(item.insn) & recipe_.registers);
  if (recipe_.registers & bit(kRsp)) {
    const bool counted =
        recipe_.kind == Recipe::Kind::add_immediate || recipe_.kind == Recipe::Kind::subtract_immediate;
    lost |= stack_step(way) != 0 && !counted;
  }
  if (!lost) return;
  if (flags_ == Flags::gone) {
    if (item.live_in)
      want_flags();
    else
      flags_ = Flags::spilled;
  }
  recipe_ = {};
}

void Translator::free_flags(std::uint16_t live) {
  if (flags_ != Flags::host || !live) return;
  if (!(live & ~recipe_.flags))
    flags_ = Flags::gone;
  else
    spill_flags(live);
}

void Translator::spill_flags(std::uint16_t live) {
  if (!live) return;
  if (flags_ == Flags::gone) want_flags();
  if (flags_ != Flags::host) return;
  e_.emit_spill_flags(hot_);
  flags_ = Flags::spilled;
  held_ = kNoRegister;
}

void Translator::spill_flags_cold(std::uint16_t live) {
  if (flags_ != Flags::gone || !live) return;
  emit_recipe(cold_);
  e_.emit_spill_flags(cold_);
}

void Translator::want_flags() {
  if (flags_ == Flags::host) return;
  if (flags_ == Flags::gone)
    emit_recipe(hot_);
  else
    e_.emit_restore_flags(hot_, kHostR11);
  held_ = kNoRegister;
  flags_ = Flags::host;
}

}  // namespace husk::cpu::jit
