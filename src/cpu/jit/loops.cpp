// husk: loops of one block: operands that move by the same step in each round are checked for many rounds at once
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <span>

#include "cpu/jit/translator.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {
namespace {

constexpr std::int32_t kMostRounds = 1024;  ///< between two looks at what demands attention
constexpr std::int32_t kFirstRounds = 8;    ///< by then the look ahead costs little beside what was spent
constexpr std::int64_t kLongestStep = mem::kPageSize / 4;

}  // namespace

bool Translator::is_loop() {
  if (!hot_form_ || !wide_ || second_ || count_ < 2) return false;
  const Item& last = items_[count_ - 1];
  if (last.call || last.runs_on || e_.plans_[last.insn.form].way != Way::jcc) return false;
  const std::int64_t target = std::int64_t{end_} + static_cast<std::int64_t>(last.insn.imm);
  if (target != items_[0].offset || flags_wanted(target)) return false;
  // An instruction that the interpreter does may change what is mapped where.
  return std::none_of(items_.begin(), items_.begin() + count_,
                      [this](const Item& item) { return item.call || e_.plans_[item.insn.form].way == Way::string; });
}

void Translator::carry(Item& item, const std::array<std::int64_t, 16>& before) {
  const Insn& insn = item.insn;
  Access& access = item.accesses[0];
  const bool follows = access.group != Access::kNoGroup && !access.leads;
  if (!insn.memory || follows || carried_count_ == kMaxCarried || !has_slot(item)) return;
  if (insn.addr_size != 8 || insn.segment >= kFs) return;
  const FormPlan& plan = e_.plans_[insn.form];
  if (plan.way != Way::copy && plan.way != Way::div && plan.way != Way::idiv && plan.way != Way::push_rm) return;
  Carried carried{insn.base, insn.index, insn.scale, 0, 0, 0, 1, nullptr};
  std::int64_t disp = insn.disp, step = 0;
  if (access.group != Access::kNoGroup) {
    const Group& group = groups_[access.group];
    disp = group.low;
    carried.bytes = static_cast<unsigned>(group.high - group.low);
    carried.align = group.align;
  } else {
    carried.bytes = access.bytes;
    if (must_be_aligned(insn)) carried.align = carried.bytes;
    if (insn.base == kRipBase && access.base == kNoRegister) return;
    if (insn.base == kRipBase) disp = access.disp;
  }
  const auto moved_by = [&](unsigned guest, unsigned scale) {
    if (!round_step_[guest]) return false;
    step += *round_step_[guest] << scale;
    disp += before[guest] << scale;
    return true;
  };
  if (insn.base < 16 && !moved_by(insn.base, 0)) return;
  if (insn.index != kNoRegister && (homeless(insn.index) || !moved_by(insn.index, insn.scale))) return;
  if (std::abs(step) > kLongestStep || std::abs(disp) > kFar || step % carried.align) return;
  carried.disp = static_cast<std::int32_t>(disp);
  carried.step = static_cast<std::int32_t>(step);
  access.carried = static_cast<std::uint8_t>(carried_count_);
  if (access.group != Access::kNoGroup) groups_[access.group].carried = true;
  carried_[carried_count_++] = carried;
}

void Translator::find_loop() {
  carried_count_ = 0;
  counting_ = kNoRegister;
  if (!is_loop()) return;
  round_step_.fill(0);
  std::array<std::optional<std::int64_t>, 16> narrow_step;
  narrow_step.fill(0);
  for (unsigned i = 0; i + 1 < count_; ++i) {
    const Insn& insn = items_[i].insn;
    if (const auto step = constant_step(insn)) {
      auto& steps = step->wide ? round_step_[step->reg] : narrow_step[step->reg];
      if (steps) *steps += step->by;
      (step->wide ? narrow_step : round_step_)[step->reg].reset();
      continue;
    }
    std::uint32_t written = registers_written(insn);
    if (stack_step(e_.plans_[insn.form].way)) written |= std::uint32_t{1} << kRsp;
    for (; written; written &= written - 1) {
      const auto guest = static_cast<unsigned>(__builtin_ctz(written));
      round_step_[guest].reset();
      narrow_step[guest].reset();
    }
  }
  const auto counts = [](const std::optional<std::int64_t>& step) {
    return step && *step != 0 && std::abs(*step) <= kFar / kMostRounds;
  };
  for (unsigned guest = 0; guest < 16; ++guest) {
    if (homeless(guest) || !(counts(round_step_[guest]) || counts(narrow_step[guest]))) continue;
    counting_ = guest;
    counting_wide_ = counts(round_step_[guest]);
    counting_step_ = static_cast<std::int32_t>(counting_wide_ ? *round_step_[guest] : *narrow_step[guest]);
  }
  // Something moves in every loop that is worth it.
  if (counting_ == kNoRegister) return;
  std::array<std::int64_t, 16> before{};
  for (unsigned i = 0; i + 1 < count_; ++i) {
    Item& item = items_[i];
    carry(item, before);
    if (const auto step = constant_step(item.insn)) before[step->reg] += step->by;
  }
}

// ---- emission ----

std::optional<Translator::Pin> Translator::pin_for(const Item& item) const {
  const Insn& insn = item.insn;
  const Access& access = item.accesses[0];
  if (!insn.memory) return {};
  const DataSlot* slot = nullptr;
  if (access.carried != Access::kNoGroup)
    slot = e_.slot_of(*carried_[access.carried].site);
  else if (access.group != Access::kNoGroup && groups_[access.group].carried)
    slot = groups_[access.group].slot;
  if (!slot) return {};
  const bool fixed = insn.index != kNoRegister && insn.base < 16 && round_step_[insn.base] == 0;
  return Pin{slot, insn.base == kRipBase || fixed ? insn.base : std::uint8_t{kNoRegister}};
}

bool Translator::leaves_spares_alone() const {
  if (e_.count_) return false;
  for (unsigned i = 0; i + 1 < count_; ++i) {
    const Insn& insn = items_[i].insn;
    const FormPlan& plan = e_.plans_[insn.form];
    if (plan.way == Way::nothing || items_[i].runs_on) continue;
    if (plan.way == Way::lea && is_plain_lea(insn)) continue;
    if (plan.way != Way::copy || (insn.memory && !pin_for(items_[i]))) return false;
    if (insn.memory && (homeless(insn.base) || homeless(insn.index))) return false;
    if ((plan.reg == Field::gpr || plan.opcode_reg) && homeless(insn.reg & 15u)) return false;
    if (plan.rm == Field::gpr && !insn.memory && !plan.opcode_reg && homeless(insn.rm & 15u)) return false;
    if (plan.vvvv == Field::gpr && homeless(insn.vvvv)) return false;
    if (insn.memory && plan.byte_reg && (insn.reg & kHighByte)) return false;
  }
  return true;
}

void Translator::emit_pins() {
  pin_count_ = 0;
  if (!leaves_spares_alone()) return;
  std::array<Pin, kMaxInsns> wanted;
  unsigned count = 0;
  bool sums = false;  // some operand needs a register for the sum of base and distance
  for (unsigned i = 0; i + 1 < count_; ++i) {
    const auto pin = pin_for(items_[i]);
    if (!pin) continue;
    const Insn& insn = items_[i].insn;
    sums |= insn.index != kNoRegister && insn.base != kNoRegister && pin->added == kNoRegister;
    unsigned n = 0;
    while (n < count && (wanted[n].slot != pin->slot || wanted[n].added != pin->added)) ++n;
    if (n < count)
      ++wanted[n].uses;
    else
      wanted[count++] = *pin;
  }
  // R10 is needed for what has no register of its own.
  const unsigned most = count <= 2 && !sums ? 2 : 1;
  for (; pin_count_ < std::min(most, count); ++pin_count_) {
    const auto by_uses = [](const Pin& a, const Pin& b) { return a.uses < b.uses; };
    const auto most_used = std::max_element(wanted.begin(), wanted.begin() + count, by_uses);
    Pin& pin = pins_[pin_count_] = *most_used;
    most_used->uses = 0;
    pin.host = pin_count_ == 0 ? kHostR11 : kHostR10;
    hot_.load_gs(pin.host, e_.gs(pin.slot->addend));
    if (pin.added == kRipBase)
      hot_.gs(0x03, pin.host, e_.gs(e_.context_.page_base));
    else if (pin.added != kNoRegister)
      hot_.rr(0x03, pin.host, home(pin.added));
  }
}

HostAddress Translator::emit_carried(const Item& item, const Pin& wanted) {
  const Insn& insn = item.insn;
  const std::int32_t disp = insn.base == kRipBase ? item.accesses[0].disp : insn.disp;
  const auto index =
      insn.index == kNoRegister ? std::uint8_t{HostAddress::kNone} : static_cast<std::uint8_t>(home(insn.index));
  const bool has_base = insn.base != kNoRegister && insn.base != kRipBase;
  for (const Pin& pin : std::span(pins_).first(pin_count_)) {
    if (pin.slot != wanted.slot || pin.added != wanted.added) continue;
    if (pin.added != kNoRegister || !has_base) return {pin.host, index, insn.scale, disp};
    if (index == HostAddress::kNone) return {pin.host, static_cast<std::uint8_t>(home(insn.base)), 0, disp};
    hot_.lea(kHostR10, {pin.host, static_cast<std::uint8_t>(home(insn.base)), 0, 0});
    return {kHostR10, index, insn.scale, disp};
  }
  hot_.load_gs(kHostR10, e_.gs(wanted.slot->addend));
  if (insn.base == kNoRegister) return {kHostR10, index, insn.scale, disp};
  std::uint8_t base = kHostR11;
  if (insn.base == kRipBase)
    hot_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
  else
    base = static_cast<std::uint8_t>(value_of(insn.base, kHostR11));
  if (base == kHostR11) held_ = kNoRegister;
  if (base != kHostR11 && index == HostAddress::kNone) return {kHostR10, base, 0, disp};
  hot_.lea(kHostR10, {kHostR10, base, 0, 0});
  return {kHostR10, index, insn.scale, disp};
}

void Translator::emit_rounds_allowed(const Carried& carried, std::uint8_t* (&fails)[2]) {
  HostAddress linear{HostAddress::kNone, HostAddress::kNone, carried.scale, carried.disp};
  if (carried.base == kRipBase) {
    hot_.load_gs(kHostR11, e_.gs(e_.context_.page_base));
    linear.base = kHostR11;
  } else if (carried.base != kNoRegister) {
    linear.base = static_cast<std::uint8_t>(value_of(carried.base, kHostR11));
  }
  if (carried.index != kNoRegister) linear.index = static_cast<std::uint8_t>(home(carried.index));
  hot_.lea(kHostR11, linear);
  hot_.gs(0x33, kHostR11, e_.gs(e_.slot_of(*carried.site)->page));
  if (carried.align > 1) {
    hot_.test_imm(kHostR11, static_cast<std::int32_t>(carried.align - 1), false);
    fails[0] = hot_.jcc_forward(kNotZero);
  }
  const auto last = static_cast<std::int32_t>(mem::kPageSize - carried.bytes);
  hot_.alu_imm(7, kHostR11, last);
  fails[1] = hot_.jcc_forward(kAbove);
  if (carried.step == 0) return;
  if (carried.step > 0) {
    hot_.negate(kHostR11, false);
    hot_.alu_imm(0, kHostR11, last, false);
  }
  // Rounded down, and a little more where the step is no power of two.
  const auto step = static_cast<unsigned>(std::abs(carried.step));
  if (std::has_single_bit(step)) {
    if (step > 1) hot_.shift_imm(5, kHostR11, static_cast<unsigned>(std::countr_zero(step)), false);
  } else {
    hot_.multiply_imm(kHostR11, kHostR11, static_cast<std::int32_t>(0x10000 / step), false);
    hot_.shift_imm(5, kHostR11, 16, false);
  }
  hot_.rr(0x3B, kHostR11, kHostR10, false);
  hot_.cmov(kBelow, kHostR10, kHostR11, false);
}

void Translator::emit_rounds(unsigned condition, std::uint8_t* not_taken, std::int64_t target) {
  ++e_.statistics_.loops;
  const std::int32_t rounds_left = e_.gs(e_.context_.rounds_left);
  const std::int32_t last_round = e_.gs(e_.context_.last_round);
  const std::uint8_t* const back = hot_.at;
  emit_attention_check(target, 0);
  hot_.sub_gs_imm8(rounds_left, 1);
  std::uint8_t* const too_soon = hot_.jcc_forward(kNotNegative);

  std::array<std::uint8_t*, 2 * kMaxCarried> fails;
  unsigned fail_count = 0;
  hot_.mov_imm(kHostR10, kMostRounds - 1);
  for (unsigned i = 0; i < carried_count_; ++i) {
    std::uint8_t* ways[2] = {};
    emit_rounds_allowed(carried_[i], ways);
    for (std::uint8_t* way : ways)
      if (way) fails[fail_count++] = way;
  }
  // After one round and as many more as all allow, the counting register holds:
  hot_.multiply_imm(kHostR10, kHostR10, counting_step_);
  hot_.lea(kHostR10, {kHostR10, static_cast<std::uint8_t>(home(counting_)), 0, counting_step_});
  hot_.store_gs(last_round, kHostR10);

  emit_pins();

  const std::uint8_t* const round = hot_.at;
  flags_ = Flags::host;
  recipe_ = {};
  held_ = kNoRegister;
  in_rounds_ = true;
  for (unsigned i = 0; i + 1 < count_; ++i) {
    if (e_.count_ && (i == 0 || items_[i - 1].runs_on)) emit_count(i);
    emit(items_[i]);
  }
  in_rounds_ = false;
  pin_count_ = 0;
  want_flags();
  std::uint8_t* const ended = hot_.jcc_forward(condition ^ 1);
  hot_.gs(0x3B, home(counting_), last_round, counting_wide_);
  hot_.jcc(kNotZero, round);
  // Operands that use up their pages may wander now and then, and are still best off with slots.
  for (unsigned i = 0; i < carried_count_; ++i) {
    hot_.mov_imm(kHostR11, reinterpret_cast<std::uintptr_t>(&carried_[i].site->patience));
    hot_.byte(0x66);
    hot_.rm(0xC7, 0, {kHostR11}, false);
    hot_.word(kPatience);
  }
  hot_.jmp(back);

  for (unsigned i = 0; i < fail_count; ++i) hot_.bind(fails[i]);
  // One round with checks, which finds the new page.
  hot_.set_gs_imm(rounds_left, 0);
  hot_.bind(too_soon);
  emit_link(target, false);
  hot_.bind(ended);
  hot_.bind(not_taken);
  hot_.set_gs_imm(rounds_left, kFirstRounds);
  flags_ = Flags::host;
  recipe_ = {};
}

}  // namespace husk::cpu::jit
