// husk: what the translator learns of a block before it writes code: its instructions, and the flags that matter
#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "cpu/jit/translator.h"
#include "cpu/sem.h"

namespace husk::cpu::jit {
namespace {

constexpr std::uint16_t kAll = kArithmeticFlags;

/// What Jcc and its like read, by the upper bits of the condition (SDM vol. 1, appendix B).
constexpr std::uint16_t kConditionFlags[8] = {kOF, kCF, kZF, kCF | kZF, kSF, kPF, kSF | kOF, kZF | kSF | kOF};

bool has_memory_site(const Insn& insn) { return insn.memory; }

/// Where the instruction that ends at `end` jumps to, if it does: the immediate may be any number.
std::int64_t jump_target(unsigned end, const Insn& insn) { return static_cast<std::int64_t>(end + insn.imm); }

/// The count of a shift or rotate by an immediate, as the instruction cuts it.
unsigned shift_count(const Insn& insn) { return static_cast<unsigned>(insn.imm) & (insn.op_size == 8 ? 63 : 31); }

}  // namespace

bool Translator::high_byte_conflict(const Insn& insn, const FormPlan& plan) const {
  const bool reg_high = plan.byte_reg && (insn.reg & kHighByte);
  const bool rm_high = plan.byte_rm && !insn.memory && ((plan.opcode_reg ? insn.reg : insn.rm) & kHighByte);
  if (!reg_high && !rm_high) return false;
  if (insn.memory) return !e_.host_bmi2_;
  // AH and the like cannot be named beside a register that needs a REX prefix: guest RSP, which lives in R15.
  const bool reg_rsp = plan.reg == Field::gpr && insn.reg == kRsp;
  const bool rm_rsp = plan.rm == Field::gpr && insn.rm == kRsp;
  return reg_rsp || rm_rsp;
}

bool Translator::handled_by_call(const Insn& insn) const {
  const FormPlan& plan = e_.plans_[insn.form];
  const Form& form = forms()[insn.form];
  if (plan.way == Way::call) return true;
  // Anything but the ordinary handler raises an exception that the mode or the CPU model asks for.
  if (insn.handler != interp::handler_table().find(form.sem, insn.op_size)) return true;
  if (has_memory_site(insn)) {
    if (insn.addr_size == 2) return true;
    if (!wide_ && insn.segment >= kFs && core_.fast_[insn.segment].write_end <= 0xFFFFFFFF) return true;
    const std::int64_t displacement = std::int64_t{insn.disp} + 2 * 4096;
    if (insn.base == kRipBase && displacement > INT32_MAX) return true;
    const bool writes = plan.rm_written || plan.way == Way::move_moffs_store;
    if (!wide_ && insn.segment == kCs && writes) return true;
  }
  switch (plan.way) {
    case Way::copy:
      if (high_byte_conflict(insn, plan)) return true;
      // VZEROUPPER and VZEROALL clear as many registers as the mode has.
      if (!wide_ && plan.vex && !plan.modrm) return true;
      // A register number in an immediate has three bits there and four here.
      if (!wide_ && std::any_of(std::begin(form.operands), std::end(form.operands),
                                [](const Operand& o) { return o.kind == OperandKind::vec_is4; }))
        return true;
      // The bit offset in a register reaches beyond the operand.
      if (insn.memory &&
          (form.sem == Sem::bt_eg || form.sem == Sem::bts_eg || form.sem == Sem::btr_eg || form.sem == Sem::btc_eg))
        return true;
      if (plan.uses_x87 && !e_.x87_masked()) return true;
      return plan.simd_exceptions && (core_.s.mxcsr & 0x1F80) != 0x1F80;
    case Way::nothing:
    case Way::inc_dec_short: return false;
    case Way::lea: return insn.addr_size == 2;
    case Way::move_moffs_load:
    case Way::move_moffs_store: return insn.addr_size == 2;
    case Way::push_reg:
    case Way::push_imm:
    case Way::push_rm:
    case Way::pop_reg:
    case Way::leave: return insn.op_size != word_;
    case Way::pop_rm: return insn.op_size != word_ || insn.memory;
    case Way::jcc:
    case Way::jmp:
    case Way::call_near:
    case Way::jmp_rm:
    case Way::call_rm:
    case Way::ret: return insn.op_size != word_;
    case Way::loop:
    case Way::jcxz: return insn.op_size != word_ || insn.addr_size == 2;
    case Way::div:
    case Way::idiv: return insn.op_size < 4;
    // #VMEXIT shows the shadow behind STI, so that it must be there.
    case Way::sti: return core_.cpl_ != 0 || core_.s.svm.guest;
    case Way::cli: return core_.cpl_ != 0;
    case Way::string: return !wide_ || insn.addr_size != 8 || insn.segment >= kFs || insn.rep == RepPrefix::none;
    case Way::call: return true;
  }
  return true;
}

bool Translator::ends_block(const Item& item) const {
  if (item.call) return forms()[item.insn.form].attributes & kAttrEndsBlock;
  switch (e_.plans_[item.insn.form].way) {
    case Way::jcc: return !item.runs_on;
    case Way::jmp:
    case Way::call_near:
    case Way::jmp_rm:
    case Way::call_rm:
    case Way::ret:
    case Way::loop:
    case Way::jcxz: return true;
    default: return false;
  }
}

bool Translator::may_run_on(const Item& item) const {
  if (item.call || e_.plans_[item.insn.form].way != Way::jcc) return false;
  const std::int64_t behind = std::int64_t{item.offset} + item.insn.length;
  const std::int64_t target = behind + static_cast<std::int64_t>(item.insn.imm);
  const unsigned most = hot_form_ ? kMostInnerJumps : kMostInnerJumpsAtFirst;
  return inner_jumps_ < most && target >= behind && target < static_cast<std::int64_t>(mem::kPageSize);
}

void Translator::copy_bytes(std::array<std::uint8_t, 15>& bytes, unsigned at) const {
  const std::size_t room = mem::kPageSize - at;
  if (room >= bytes.size())
    std::memcpy(bytes.data(), page_ + at, bytes.size());
  else
    std::memcpy(bytes.data(), page_ + at, room);
}

bool Translator::decode_block(unsigned start) {
  unsigned at = start;
  while (count_ < kMaxInsns && at < mem::kPageSize) {
    Item& item = items_[count_];
    item.insn = Insn{};
    const auto room = static_cast<unsigned>(mem::kPageSize) - at;
    copy_bytes(item.bytes, at);
    const DecodeStatus status = decode({item.bytes.data(), std::min(room, 15u)}, code_size_, item.insn);
    if (status != DecodeStatus::ok) {
      crossing_ = status == DecodeStatus::truncated && room < 15;
      break;
    }
    item.insn.handler = core_.select_handler(item.insn);
    item.offset = static_cast<std::uint16_t>(at);
    item.call = handled_by_call(item.insn);
    at += item.insn.length;
    ++count_;
    item.runs_on = may_run_on(item);
    inner_jumps_ += item.runs_on;
    if (ends_block(item)) break;
  }
  end_ = at;
  return count_ != 0 || crossing_;
}

bool Translator::decode_crossing(unsigned start) {
  const std::uint64_t next = (e_.context_.page_base + mem::kPageSize) & (wide_ ? ~std::uint64_t{0} : 0xFFFFFFFF);
  const interp::Core::ExecEntry* entry = nullptr;
  if (!core_.fetch_page(next, entry)) return false;
  if (!entry) return true;
  const std::uint8_t* const second = entry->ram->data() + entry->offset;
  if (!e_.cache_.holds_page(second)) core_.mark_code_page(*entry->ram, entry->offset);
  const unsigned here = unsigned{mem::kPageSize} - start;
  Item& item = items_[0];
  copy_bytes(item.bytes, start);
  std::memcpy(item.bytes.data() + here, second, item.bytes.size() - here);
  item.insn = Insn{};
  if (decode(item.bytes, code_size_, item.insn) != DecodeStatus::ok) return true;
  item.insn.handler = core_.select_handler(item.insn);
  item.offset = static_cast<std::uint16_t>(start);
  item.call = handled_by_call(item.insn);
  item.runs_on = false;
  second_ = entry;
  count_ = 1;
  end_ = start + item.insn.length;
  crossing_ = false;
  hot_form_ = false;
  return true;
}

Translator::FlagUse Translator::flag_use(const Insn& insn, bool call) const {
  // Exceptions and system instructions show RFLAGS to the guest.
  if (call) return {kAll, 0};
  const Form& form = forms()[insn.form];
  const auto killed = static_cast<std::uint16_t>((form.flags_written | form.flags_undefined) & kAll);
  switch (form.sem) {
    case Sem::jcc_j:
    case Sem::setcc_e:
    case Sem::cmovcc_ge: return {kConditionFlags[insn.imm2 >> 1 & 7], 0};
    // By an immediate that is not zero the flags do not stay as they were.
    case Sem::shl_ei:
    case Sem::shr_ei:
    case Sem::sar_ei:
    case Sem::shld_egi:
    case Sem::shrd_egi:
      if (shift_count(insn) != 0) return {0, killed};
      return {kAll, 0};
    case Sem::rol_ei:
    case Sem::ror_ei:
      if (shift_count(insn) != 0) return {0, killed};
      return {kAll, 0};
    default: break;
  }
  const auto read = static_cast<std::uint16_t>(form.flags_read & kAll);
  // What is read may also be what stays: a shift by CL that is zero.
  return {read, static_cast<std::uint16_t>(killed & ~read)};
}

/// How far flags_wanted() has come.
struct Translator::LookAhead {
  static constexpr unsigned kDeepest = 6;
  struct Start {
    std::int64_t offset;
    std::uint16_t unknown;
  };
  unsigned instructions_left = 16;
  unsigned depth = 0;
  std::array<Start, kDeepest> starts;  ///< being looked at
};

std::uint16_t Translator::flags_wanted(std::int64_t offset) {
  LookAhead look;
  return flags_wanted(offset, kAll, look);
}

std::uint16_t Translator::flags_wanted(std::int64_t offset, std::uint16_t unknown, LookAhead& look) {
  if (offset < 0 || offset >= static_cast<std::int64_t>(mem::kPageSize)) return unknown;
  // A way round adds nothing to what is found on it already.
  for (unsigned i = 0; i < look.depth; ++i)
    if (look.starts[i].offset == offset && !(unknown & ~look.starts[i].unknown)) return 0;
  if (look.depth == LookAhead::kDeepest) return unknown;
  look.starts[look.depth++] = {offset, unknown};
  std::uint16_t wanted = 0;
  auto at = static_cast<unsigned>(offset);
  while (unknown) {
    Insn insn{};
    const auto room = static_cast<unsigned>(mem::kPageSize) - at;
    std::array<std::uint8_t, 15> bytes;
    if (at < mem::kPageSize) copy_bytes(bytes, at);
    if (at >= mem::kPageSize || look.instructions_left == 0 ||
        decode({bytes.data(), std::min(room, 15u)}, code_size_, insn) != DecodeStatus::ok) {
      wanted |= unknown;
      break;
    }
    --look.instructions_left;
    looked_at_ |= mem::granules_of(at, insn.length);
    insn.handler = core_.select_handler(insn);
    const bool call = handled_by_call(insn);
    const FlagUse use = flag_use(insn, call);
    wanted |= use.read & unknown;
    unknown = static_cast<std::uint16_t>(unknown & ~use.read & ~use.killed);
    at += insn.length;
    const Way way = call ? Way::call : e_.plans_[insn.form].way;
    const std::int64_t target = jump_target(at, insn);
    if (way == Way::jmp) {
      wanted |= flags_wanted(target, unknown, look);
      break;
    }
    if (way == Way::jcc) {
      wanted |= flags_wanted(target, unknown, look);
      unknown = static_cast<std::uint16_t>(unknown & ~wanted);
    } else if (forms()[insn.form].attributes & kAttrEndsBlock) {
      wanted |= unknown;
      break;
    }
  }
  --look.depth;
  return wanted;
}

void Translator::find_live_flags() {
  if (count_ == 0) return;
  const Item& last = items_[count_ - 1];
  const FormPlan& plan = e_.plans_[last.insn.form];
  const auto behind = static_cast<std::int64_t>(end_);
  const std::int64_t target = jump_target(end_, last.insn);
  std::uint16_t live = kAll;
  if (!ends_block(last)) {
    live = crossing_ ? kAll : flags_wanted(behind);
  } else if (!last.call) {
    switch (plan.way) {
      case Way::jcc:
      case Way::loop:
      case Way::jcxz: live = flags_wanted(target) | flags_wanted(behind); break;
      case Way::jmp:
      case Way::call_near: live = flags_wanted(target); break;
      default: break;
    }
  }
  for (unsigned i = count_; i-- > 0;) {
    Item& item = items_[i];
    const FlagUse use = flag_use(item.insn, item.call);
    if (item.runs_on)
      live |= flags_wanted(std::int64_t{item.offset} + item.insn.length + static_cast<std::int64_t>(item.insn.imm));
    item.live_out = live;
    live = static_cast<std::uint16_t>((live & ~use.killed) | use.read);
    item.live_in = live;
  }
}

}  // namespace husk::cpu::jit
