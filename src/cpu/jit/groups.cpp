// husk: memory operands of a block that lie side by side: one check for all of them
#include <algorithm>
#include <optional>

#include "cpu/jit/translator.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {
namespace {

constexpr std::uint32_t bit(unsigned reg) { return std::uint32_t{1} << reg; }

}  // namespace

std::optional<Translator::Step> Translator::constant_step(const Insn& insn) {
  const auto immediate = static_cast<std::int64_t>(insn.imm);
  const auto register_rm = [&](std::int64_t by) -> std::optional<Step> {
    if (insn.memory || insn.op_size < 4) return {};
    return {{insn.rm, by, insn.op_size == 8}};
  };
  switch (forms()[insn.form].sem) {
    case Sem::add_ei: return register_rm(immediate);
    case Sem::sub_ei: return register_rm(-immediate);
    case Sem::inc_e: return register_rm(1);
    case Sem::dec_e: return register_rm(-1);
    case Sem::lea_gm:
      if (insn.op_size != 8 || insn.addr_size != 8 || insn.index != kNoRegister || insn.base != insn.reg) return {};
      return {{insn.reg, insn.disp, true}};
    default: return {};
  }
}

std::int32_t Translator::stack_step(Way way) const {
  switch (way) {
    case Way::push_reg:
    case Way::push_imm:
    case Way::push_rm:
    case Way::call_near: return -static_cast<std::int32_t>(word_);
    case Way::pop_reg:
    case Way::pop_rm: return static_cast<std::int32_t>(word_);
    default: return 0;
  }
}

std::uint32_t Translator::registers_written(const Insn& insn) const {
  const FormPlan& plan = e_.plans_[insn.form];
  switch (plan.way) {
    case Way::lea: return bit(insn.reg);
    case Way::move_moffs_load: return bit(kRax);
    case Way::pop_reg: return bit(insn.reg);
    case Way::pop_rm: return bit(insn.rm);
    case Way::leave: return bit(kRsp) | bit(kRbp);
    case Way::div:
    case Way::idiv: return bit(kRax) | bit(kRdx);
    case Way::string: return bit(kRcx) | bit(kRsi) | bit(kRdi);
    case Way::copy: break;
    default: return 0;
  }
  std::uint32_t written = plan.implicit_written;
  // Bits 4 and up of a register number tell AH from SPL.
  if (plan.reg == Field::gpr && plan.reg_written) written |= bit(insn.reg & 15u);
  if (plan.opcode_reg && plan.rm_written) written |= bit(insn.reg & 15u);
  if (!plan.opcode_reg && plan.rm == Field::gpr && plan.rm_written && !insn.memory) written |= bit(insn.rm & 15u);
  if (plan.vvvv == Field::gpr && plan.vvvv_written) written |= bit(insn.vvvv);
  return written;
}

void Translator::find_accesses(Item& item) const {
  const Insn& insn = item.insn;
  const FormPlan& plan = e_.plans_[insn.form];
  unsigned count = 0;
  const auto stack = [&](unsigned base, std::int32_t disp, bool write) {
    item.accesses[count++] = {static_cast<std::uint8_t>(base), write, static_cast<std::uint8_t>(word_), disp};
  };
  // Whatever needs more than base and displacement keeps a check of its own.
  const auto operand = [&](unsigned bytes, bool write) {
    Access& access = item.accesses[count++];
    access.bytes = static_cast<std::uint8_t>(bytes);
    if (!wide_ || insn.addr_size != 8 || insn.index != kNoRegister || insn.segment >= kFs) return;
    if (insn.base == kRipBase) {
      // Where it lies in which page is known here, and so whether it is aligned.
      const std::int64_t place = std::int64_t{item.offset} + insn.length + insn.disp;
      const bool inside = (static_cast<std::uint64_t>(place) & 0xFFF) + bytes <= mem::kPageSize;
      const bool aligned = !must_be_aligned(insn) || static_cast<std::uint64_t>(place) % bytes == 0;
      if (inside && aligned && std::abs(place) < kFar)
        access = {kRipBase, write, access.bytes, static_cast<std::int32_t>(place)};
    } else if (insn.base < 16) {
      access = {insn.base, write, access.bytes, insn.disp};
      if (must_be_aligned(insn)) access.align = access.bytes;
    }
  };
  switch (plan.way) {
    case Way::copy:
      if (insn.memory) operand(memory_bytes(plan.memory_size, insn), plan.rm_written);
      break;
    case Way::div:
    case Way::idiv:
      if (insn.memory) operand(insn.op_size, false);
      break;
    case Way::push_rm:
      if (insn.memory) operand(word_, false);
      [[fallthrough]];
    case Way::push_reg:
    case Way::push_imm: stack(kRsp, -static_cast<std::int32_t>(word_), true); break;
    case Way::pop_reg:
    case Way::pop_rm:
    case Way::ret: stack(kRsp, 0, false); break;
    case Way::leave: stack(kRbp, 0, false); break;
    case Way::jmp_rm:
    case Way::call_rm:
      if (insn.memory) operand(word_, false);
      if (plan.way == Way::jmp_rm) break;
      [[fallthrough]];
    case Way::call_near: stack(kRsp, -static_cast<std::int32_t>(word_), true); break;
    default: break;
  }
}

bool Translator::may_lead(const Item& item) const {
  return group_count_ < kMaxGroups && !e_.ungrouped_.contains(page_ + item.offset);
}

void Translator::lead(Access& access) {
  access.leads = true;
  access.offset = access.disp;
  access.number = static_cast<std::uint8_t>(group_count_);
  groups_[group_count_++] = {access.disp, access.disp + access.bytes, access.write, access.align, nullptr, false};
}

bool Translator::join(Access& access, Access& first, std::int64_t offset) {
  constexpr std::int64_t kReach = 256;  // bytes that a group spans: the more, the more often it leaves its page
  Group& group = groups_[first.number];
  std::int64_t low = group.low;
  // Where the first byte is aligned as all of them demand, so is each.
  if (group.align == 1 || offset < low) {
    const std::int64_t align = std::max(group.align, access.align);
    low = std::min(low, offset);
    const std::int64_t fixed = group.align > 1 ? group.low : offset;
    low -= ((low - fixed) % align + align) % align;
  }
  if ((group.align > 1 && (group.low - low) % group.align) || (offset - low) % access.align) return false;
  const std::int64_t high = std::max<std::int64_t>(group.high, offset + access.bytes);
  if (access.base != kRipBase && high - low > kReach) return false;
  group.low = static_cast<std::int32_t>(low);
  group.high = static_cast<std::int32_t>(high);
  group.write |= access.write;
  group.align = std::max(group.align, access.align);
  first.group = access.group = first.number;
  access.offset = static_cast<std::int32_t>(offset);
  return true;
}

void Translator::find_groups() {
  struct Open {
    std::int64_t moved = 0;  // by the base register since the group's first access
    Access* first = nullptr;
  };
  std::array<Open, 16> open{};
  std::array<Access*, 4> constants{};  // leaders in the pages that were last named relative to RIP
  unsigned next_constant = 0;
  group_count_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Item& item = items_[i];
    item.accesses = {};
    if (item.call || e_.plans_[item.insn.form].way == Way::string) {
      // Whatever the interpreter does to mappings is looked at before the next operand.
      open = {};
      constants = {};
      continue;
    }
    find_accesses(item);
    if (!wide_) continue;
    for (Access& access : item.accesses) {
      if (access.base == kNoRegister) continue;
      const bool constant = access.base == kRipBase;
      Access* first = nullptr;
      std::int64_t offset = access.disp;
      if (constant) {
        for (Access* other : constants)
          if (other && other->disp >> 12 == access.disp >> 12) first = other;
      } else if (const Open& current = open[access.base]; std::abs(current.moved) < kFar) {
        first = current.first;
        offset += current.moved;
      }
      if (first && join(access, *first, offset)) continue;
      if (!constant) open[access.base] = {};
      if (std::abs(std::int64_t{access.disp}) >= kFar || !may_lead(item)) continue;
      lead(access);
      if (constant)
        constants[next_constant++ % constants.size()] = &access;
      else
        open[access.base].first = &access;
    }
    const FormPlan& plan = e_.plans_[item.insn.form];
    open[kRsp].moved += stack_step(plan.way);
    if (const auto step = constant_step(item.insn); step && step->wide) {
      open[step->reg].moved += step->by;
      continue;
    }
    for (std::uint32_t written = registers_written(item.insn); written; written &= written - 1)
      open[static_cast<unsigned>(__builtin_ctz(written))] = {};
  }
}

// ---- emission ----

unsigned Translator::base_of(const Access& access, unsigned spare) {
  if (access.base != kRipBase) return value_of(access.base, spare);
  hot_.load_gs(spare, e_.gs(e_.context_.page_base));
  return spare;
}

void Translator::emit_sum(Emitter& e, unsigned to, unsigned base, std::int32_t disp) const {
  if (disp == 0)
    e.mov(to, base, wide_);
  else
    e.lea(to, {static_cast<std::uint8_t>(base), HostAddress::kNone, 0, disp}, wide_);
}

bool Translator::stays_in_register(const Access& access) const {
  return wide_ && access.base != kRipBase && access.base != kNoRegister && !homeless(access.base);
}

HostAddress Translator::emit_operand(const Item& item, unsigned which, unsigned bytes, bool write) {
  const Access& access = item.accesses[which];
  const bool in_group = access.group != Access::kNoGroup;
  const auto beside_base = [&] {
    return HostAddress{kHostR10, static_cast<std::uint8_t>(home(access.base)), 0, access.disp};
  };
  const bool carried = access.carried != Access::kNoGroup;
  if (in_rounds_) {
    if (const auto pinned = pin_for(item)) return emit_carried(item, *pinned);
  }
  if (in_group && !access.leads) {
    // What was checked holds as long as the code runs on from there.
    const Group& group = groups_[access.group];
    if (!group.slot) {
      hot_.load_gs(kHostR10, e_.gs(e_.context_.group_hosts[access.group]));
      return {kHostR10, HostAddress::kNone, 0, access.offset - group.low};
    }
    hot_.load_gs(kHostR10, e_.gs(group.slot->addend));
    if (stays_in_register(access)) return beside_base();
    held_ = kNoRegister;
    const unsigned base = base_of(access, kHostR11);
    hot_.lea(kHostR10, {kHostR10, static_cast<std::uint8_t>(base), 0, access.disp});
    return kAtR10;
  }
  held_ = kNoRegister;
  free_flags(item.live_in);
  std::int32_t beyond = 0;
  if (in_group) beyond = access.offset - groups_[access.group].low;
  const bool folded = stays_in_register(access) && has_slot(item);
  HostAddress linear = kAtR10;
  if (folded)
    linear = {static_cast<std::uint8_t>(home(access.base)), HostAddress::kNone, 0, access.disp - beyond};
  else if (access.base == kNoRegister || (access.base == kRipBase && !in_group))
    emit_address(item, bytes);
  else
    emit_sum(hot_, kHostR10, base_of(access, kHostR10), access.disp - beyond);
  if (!in_group) {
    emit_check(item, linear, bytes, write, must_be_aligned(item.insn) ? bytes : 1);
  } else {
    Group& group = groups_[access.group];
    group.slot = emit_check(item, linear, static_cast<unsigned>(group.high - group.low), group.write, group.align,
                            &access, beyond);
    if (!group.slot) hot_.store_gs(e_.gs(e_.context_.group_hosts[access.group]), kHostR10);
  }
  if (carried) carried_[access.carried].site = open_sites_[open_count_ - 1];
  return folded ? beside_base() : HostAddress{kHostR10, HostAddress::kNone, 0, beyond};
}

}  // namespace husk::cpu::jit
