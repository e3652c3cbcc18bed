// husk: makes random sequences: instructions of every kind, memory operands that mostly lie well, branches, loops
#include "sequence_generator.h"

#include <algorithm>
#include <cstring>

#include "../compare.h"
#include "base/bits.h"
#include "cpu/coding.h"
#include "cpu/model.h"
#include "machine.h"

namespace husk::differential {

namespace {

using namespace cpu;

constexpr std::uint16_t bit_of(unsigned reg) { return static_cast<std::uint16_t>(1u << reg); }

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// What depends on more than the state, waits, or would leave the sequence for good.
bool never(const Form& form) {
  return one_of(form.mnemonic,
                {"RDTSC",    "RDTSCP",  "RDRAND", "RDSEED", "RDPMC",  "RDPID",  "HLT",   "MWAIT",   "MONITOR",
                 "JMP",      "CALL",    "RET",    "RETF",   "IRET",   "IRETD",  "IRETQ", "SYSCALL", "SYSRET",
                 "SYSENTER", "SYSEXIT", "JCXZ",   "JECXZ",  "JRCXZ",  "RSM",    "VMRUN", "LGDT",    "LIDT",
                 "LLDT",     "LTR",     "LMSW",   "WRMSR",  "XSETBV", "SKINIT", "INVD"}) ||
         form.operands[0].kind == OperandKind::rel || form.operands[0].kind == OperandKind::far_ptr;
}
bool privileged_and_harmless(const Form& form) {
  return one_of(form.mnemonic,
                {"CLI",   "STI",      "CLAC",     "STAC",   "CLTS",    "INVLPG", "WBINVD",  "SWAPGS",   "RDMSR",
                 "IN",    "OUT",      "INS",      "OUTS",   "INSB",    "INSW",   "INSD",    "OUTSB",    "OUTSW",
                 "OUTSD", "WRFSBASE", "WRGSBASE", "WRPKRU", "INVPCID", "XSAVES", "XRSTORS", "XSAVES64", "XRSTORS64"}) ||
         (form.mnemonic == "MOV" && form.operands[0].kind == OperandKind::gpr_rm_only &&
          (form.operands[1].kind == OperandKind::creg || form.operands[1].kind == OperandKind::dreg));
}

/// General registers that the instruction writes, as a mask.
std::uint16_t registers_written(const Insn& insn) {
  unsigned mask = 0;
  const Form& form = forms()[insn.form];
  const auto number = [&](unsigned reg, OperandSize size) {
    return size == OperandSize::b && (reg & kHighByte) ? reg & 3u : reg & 15u;
  };
  for (const Operand& o : form.operands) {
    if (o.kind == OperandKind::string_src) mask |= bit_of(kRsi) | bit_of(kRcx);
    if (o.kind == OperandKind::string_dst) mask |= bit_of(kRdi) | bit_of(kRcx);
    if (!o.written) continue;
    switch (o.kind) {
      case OperandKind::gpr_rm:
        if (!insn.memory) mask |= 1u << number(insn.rm, o.size);
        break;
      case OperandKind::gpr_rm_only: mask |= 1u << number(insn.rm, o.size); break;
      case OperandKind::gpr_reg:
      case OperandKind::gpr_opcode: mask |= 1u << number(insn.reg, o.size); break;
      case OperandKind::gpr_vvvv: mask |= 1u << (insn.vvvv & 15); break;
      case OperandKind::fixed_gpr: mask |= 1u << (o.fixed & 15); break;
      default: break;
    }
  }
  const std::string_view m = form.mnemonic;
  if (m == "CPUID" || m.starts_with("CMPXCHG"))
    mask |= bit_of(kRax) | bit_of(kRcx) | bit_of(kRdx) | (m == "CPUID" ? bit_of(kRbx) : 0u);
  if (m == "LEAVE" || m == "ENTER") mask |= bit_of(kRbp) | bit_of(kRsp);
  if (m.starts_with("POPA")) mask |= 0xFF;
  return static_cast<std::uint16_t>(mask);
}

}  // namespace

SequenceGenerator::SequenceGenerator(SequenceOptions options) : options_(std::move(options)) {}

Insn SequenceGenerator::from_bytes(std::initializer_list<std::uint8_t> bytes) const {
  Insn insn{};
  std::array<std::uint8_t, 15> padded{};
  std::copy(bytes.begin(), bytes.end(), padded.begin());
  (void)decode(padded, size_, insn);
  return insn;
}

// ---- which instructions ----

std::optional<SequenceGenerator::Group> SequenceGenerator::group_of(std::uint16_t number, SequenceMode mode) const {
  const Form& form = forms()[number];
  const CodeSize size = code_size_of(mode);
  if (!shape_of(number, size).exists || never(form)) return {};
  if (size == CodeSize::bits64 ? (form.attributes & kAttrNo64) : (form.attributes & kAttrOnly64)) return {};
  if (!options_.forms.empty() && !options_.forms[number]) return {};
  const std::string_view m = form.mnemonic;
  if (options_.settle_flags && result_is_open(number)) return {};
  if (options_.for_host) {
    if (form.attributes & kAttrSystem) return {};
    if (!exceptions_of(number).empty()) return {};
    if (m.starts_with("POPF") || m.starts_with("POPA") || m.starts_with("UD")) return {};
    for (const Operand& o : form.operands)
      if (o.kind == OperandKind::sreg || o.kind == OperandKind::fixed_sreg) return {};
    if (form.operands[0].kind == OperandKind::moffs || form.operands[1].kind == OperandKind::moffs) return {};
  }
  for (const Operand& o : form.operands) {
    if ((o.kind == OperandKind::sreg || o.kind == OperandKind::fixed_sreg) && o.written) return kSegment;
    if (o.kind == OperandKind::string_dst || o.kind == OperandKind::string_src) {
      if (form.attributes & kAttrSystem) return kSystem;
      return kString;
    }
  }
  if (form.attributes & kAttrSystem) {
    if (ring_of(mode) == 0 && !privileged_and_harmless(form)) return {};
    return kSystem;
  }
  if (form.attributes & kAttrAvx) return kAvx;
  if (form.attributes & (kAttrSse | kAttrMmx)) return kMmxSse;
  if (form.attributes & kAttrFpu) return kX87;
  if (m.starts_with("PUSH") || m.starts_with("POP") || m == "ENTER" || m == "LEAVE")
    return m == "POPCNT" ? kInteger : kStack;
  if (form.feature == Feature::none
          ? one_of(m, {"ADC", "SBB", "RCL", "RCR", "LAHF", "SAHF", "CMC", "CLC", "STC", "SALC"})
          : one_of(m, {"ADCX", "ADOX"}))
    return kFlags;
  if (m.starts_with("SET") || m.starts_with("CMOV") || m == "CMP" || m == "TEST" || m == "BT") return kFlags;
  return kInteger;
}

void SequenceGenerator::sort_forms(SequenceMode mode) {
  if (std::exchange(sorted_[static_cast<unsigned>(mode)], true)) return;
  const CpuModel model = cpu_model("max").value();
  for (std::uint16_t form = 0; form < forms().size(); ++form) {
    if (!model.has(forms()[form].feature)) continue;
    if (const auto group = group_of(form, mode)) forms_[static_cast<unsigned>(mode)][*group].push_back(form);
  }
}

// ---- the start ----

std::uint64_t SequenceGenerator::data_address() {
  const unsigned kind = dice_.below(32);
  if (kind < 22) return arena_.data + align_down(dice_.below(static_cast<unsigned>(arena_.writable) - 256), 32);
  if (kind < 26) return arena_.data + dice_.below(static_cast<unsigned>(arena_.writable) - 64);
  if (kind < 28) return arena_.data + 0x1000 - dice_.below(40);
  if (kind == 28) return arena_.data + arena_.writable - dice_.below(40);
  if (kind == 29) return arena_.data + arena_.writable + dice_.below(0xF00);
  if (kind == 30) return arena_.data + arena_.data_size - dice_.below(64);
  return options_.for_host || dice_.one_in(2) ? arena_.data - dice_.below(64)
                                              : arena::kOtherPrivilege + dice_.below(64);
}

void SequenceGenerator::point(unsigned reg) {
  CpuState& s = out_->state;
  std::uint64_t linear =
      reg == kRsp ? arena_.stack + arena_.stack_size / 2 + align_down(dice_.below(0x300), dice_.one_in(4) ? 1u : 8u)
                  : data_address();
  if (wide() && arena_.high && reg != kRsp && dice_.one_in(3) && linear - arena_.data < arena_.data_size)
    linear += arena_.high;
  std::uint64_t value = linear - (wide() ? 0 : s.seg[segment_of_base(reg)].base);
  if (!wide()) value &= 0xFFFF'FFFF;
  if (size_ == CodeSize::bits16) value &= 0xFFFF;
  s.gpr[reg] = value;
}

void SequenceGenerator::start_state() {
  CpuState& s = out_->state;
  s = CpuState{};
  const bool user = ring_of(mode_) == 3;
  const auto flat = [](std::uint16_t selector, unsigned attributes) {
    return Segment{selector, static_cast<std::uint16_t>(attributes), 0xFFFFFFFF, 0};
  };
  const unsigned dpl = user ? 0x60 : 0;
  switch (mode_) {
    case SequenceMode::user64:
    case SequenceMode::kernel64:
      s.seg[kCs] = flat(user ? 0x33 : 0x10, 0xA09B | dpl);
      s.seg[kSs] = flat(user ? 0x2B : 0x18, 0xC093 | dpl);
      for (const unsigned seg : {kEs, kDs}) s.seg[seg] = dice_.one_in(2) ? s.seg[kSs] : Segment{};
      for (const unsigned seg : {kFs, kGs})
        s.seg[seg] = {0, 0, 0, dice_.one_in(2) ? 0 : align_down(dice_.below(0x200), 16)};
      break;
    case SequenceMode::user32:
    case SequenceMode::kernel32:
    case SequenceMode::user16: {
      const bool narrow = mode_ == SequenceMode::user16;
      const unsigned d = narrow ? 0x0093 : 0xC093;
      s.seg[kCs] = flat(narrow ? 0x3B : user ? 0x23 : 0x08, (narrow ? 0x009B : 0xC09B) | dpl);
      for (const unsigned seg : {kEs, kSs, kDs, kFs, kGs}) {
        s.seg[seg] = flat(user ? 0x2B : 0x18, d | dpl);
        if (options_.for_host || !dice_.one_in(3)) continue;
        Segment& to = s.seg[seg];
        // Bases and limits, so that segments matter; data that expands down; a stack of the other width.
        to.base = align_down(dice_.below(0x1800), dice_.one_in(3) ? 1u : 16u);
        if (dice_.one_in(2)) to.limit = static_cast<std::uint32_t>(0x9000 + dice_.below(0x6FFF));
        if (dice_.one_in(6)) to.attributes = static_cast<std::uint16_t>(to.attributes ^ 0x4000);
        if (dice_.one_in(12)) {
          to.attributes = static_cast<std::uint16_t>(to.attributes | 4);
          to.limit = 0x1000 + dice_.below(0x7800);
        }
        if (seg != kSs && dice_.one_in(24)) to.attributes = static_cast<std::uint16_t>(to.attributes & ~2u);
        if (seg != kSs && dice_.one_in(24)) to = {};
      }
      if (narrow) {
        s.seg[kCs].limit = 0xFFFF;
        for (const unsigned seg : {kEs, kSs, kDs, kFs, kGs})
          s.seg[seg].limit = std::min<std::uint32_t>(s.seg[seg].limit, 0xFFFF);
      }
      if (!options_.for_host && dice_.one_in(4)) s.seg[kCs].base = align_down(dice_.below(0x1000), 16);
      break;
    }
    case SequenceMode::v86:
    case SequenceMode::real16:
      for (Segment& seg : s.seg) {
        const unsigned selector = dice_.one_in(2) ? 0 : dice_.below(0x180);
        seg = {static_cast<std::uint16_t>(selector), static_cast<std::uint16_t>(0x93 | dpl), 0xFFFF, selector * 16u};
      }
      break;
  }
  s.rflags = kReservedOne | kIF | (dice_.next() & kArithmeticFlags);
  if (dice_.one_in(8)) s.rflags |= kDF;
  if (mode_ == SequenceMode::v86) s.rflags |= kVM | (dice_.one_in(2) ? std::uint64_t{kIOPL} : 0);
  if (!options_.for_host) {
    if (dice_.one_in(12) && !options_.settle_flags) s.rflags |= kTF;
    if (user && dice_.one_in(12)) s.rflags |= kAC;
    if (ring_of(mode_) == 0 && dice_.one_in(4)) s.rflags |= kAC;  // SMAP lets it through then
  }
  pointers_ = bit_of(kRbx) | bit_of(kRbp) | bit_of(kRsi) | bit_of(kRdi) | bit_of(kRsp);
  if (wide()) pointers_ = static_cast<std::uint16_t>(pointers_ | bit_of(kR12) | bit_of(kR13));
  for (unsigned i = 0; i < (wide() ? 16u : 8u); ++i) {
    s.gpr[i] = dice_.integer();
    if (!wide()) s.gpr[i] &= 0xFFFF'FFFF;
    if (pointers_ >> i & 1) point(i);
  }
  if (dice_.one_in(2)) s.gpr[kRcx] = dice_.below(24);
  if (size_ == CodeSize::bits16 && dice_.one_in(2)) s.gpr[kRsi] = dice_.below(64);

  for (unsigned i = 0; i < (wide() ? 16u : 8u); ++i) {
    if (dice_.one_in(2))
      dice_.fill_reals(s.vector[i].bytes.data(), 32);
    else
      dice_.fill(s.vector[i].bytes.data(), 32);
  }
  s.mxcsr = dice_.one_in(4) ? static_cast<std::uint32_t>(0x1F80 | (dice_.next() & 0xE03F)) : 0x1F80;
  if (dice_.one_in(10)) s.mxcsr = static_cast<std::uint32_t>(dice_.next() & 0xFFFF);
  s.x87.control =
      static_cast<std::uint16_t>(0x7F | dice_.below(4) << 10 | (dice_.one_in(3) ? dice_.below(4) << 8 : 0x300));
  if (dice_.one_in(6)) s.x87.control = static_cast<std::uint16_t>(s.x87.control & ~dice_.below(64));
  const unsigned full = dice_.below(6);
  s.x87.status = static_cast<std::uint16_t>(((8 - full) & 7) << 11);
  s.x87.tag = 0;
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned physical = (8 - full + i) & 7;
    unsigned tag = 3;
    if (i < full) {
      const Dice::Extended e = dice_.extended();
      s.x87.registers[physical] = {e.significand, e.sign_exponent};
      const unsigned exponent = e.sign_exponent & 0x7FFFu;
      tag = exponent == 0 && e.significand == 0                             ? 1
            : exponent == 0 || exponent == 0x7FFF || !(e.significand >> 63) ? 2
                                                                            : 0;
    }
    s.x87.tag = static_cast<std::uint16_t>(s.x87.tag | tag << (2 * physical));
  }
}

// ---- instructions ----

void SequenceGenerator::add(const Item& item) { out_->items.push_back(item); }
void SequenceGenerator::add_plain(const Insn& insn) { add({.insn = insn}); }

void SequenceGenerator::load_constant(unsigned reg, std::uint64_t value, bool narrow) {
  Insn insn;
  if (wide() && value >> 32)
    insn = from_bytes({0x48, 0xB8});
  else if (size_ == CodeSize::bits16 && !narrow)
    insn = from_bytes({0x66, 0xB8});
  else
    insn = from_bytes({0xB8});
  insn.reg = static_cast<std::uint8_t>(reg);
  insn.imm = insn.op_size == 2   ? static_cast<std::uint64_t>(static_cast<std::int16_t>(value))
             : insn.op_size == 4 ? static_cast<std::uint64_t>(static_cast<std::int32_t>(value))
                                 : value;
  if (encode(insn, size_)) add_plain(insn);
}

/// Registers that should point to memory do so again, mostly.
void SequenceGenerator::repair(const Insn& insn) {
  const std::uint16_t written = registers_written(insn) & pointers_;
  if (!written) return;
  const std::uint64_t saved[] = {out_->state.gpr[kRsp]};
  for (unsigned reg = 0; reg < 16; ++reg) {
    if (!(written >> reg & 1)) continue;
    const Form& form = forms()[insn.form];
    const bool drifts =
        form.operands[0].kind == OperandKind::string_dst || form.operands[1].kind == OperandKind::string_src ||
        form.operands[0].kind == OperandKind::string_src || form.operands[1].kind == OperandKind::string_dst;
    if (dice_.one_in(drifts ? 2 : 5)) continue;
    const std::uint64_t before = out_->state.gpr[reg];
    point(reg);
    load_constant(reg, out_->state.gpr[reg], false);
    out_->state.gpr[reg] = before;
  }
  out_->state.gpr[kRsp] = saved[0];
}

void SequenceGenerator::choose_memory(Item& item, const FormShape& shape) {
  Insn& insn = item.insn;
  const unsigned count = wide() ? 16 : 8;
  insn.base = insn.index = kNoRegister;
  insn.scale = 0;
  insn.disp = dice_.one_in(3) ? 0 : static_cast<std::int8_t>(dice_.next());
  if (dice_.one_in(3)) insn.disp = static_cast<std::int32_t>(align_down(dice_.below(192), 16));
  if (dice_.one_in(48)) insn.disp = static_cast<std::int32_t>(dice_.integer());
  if (insn.addr_size == 2) {
    constexpr std::uint8_t kPairs[9][2] = {{kRbx, kRsi},        {kRbx, kRdi},        {kRbp, kRsi},
                                           {kRbp, kRdi},        {kRsi, kNoRegister}, {kRdi, kNoRegister},
                                           {kRbp, kNoRegister}, {kRbx, kNoRegister}, {kNoRegister, kNoRegister}};
    const auto& pair = kPairs[dice_.one_in(4) ? dice_.below(9) : 4 + dice_.below(5)];
    insn.base = pair[0];
    insn.index = pair[1];
    insn.disp = static_cast<std::int16_t>(insn.disp);
  } else {
    constexpr std::uint8_t kBases[] = {kRbx, kRbx, kRsi, kRdi, kRbp, kRsp, kR12, kR13};
    insn.base = kBases[dice_.below(wide() ? 8 : 6)];
    if (dice_.one_in(24)) insn.base = static_cast<std::uint8_t>(dice_.below(count));
    if (shape.vsib) {
      do insn.index = static_cast<std::uint8_t>(dice_.below(count));
      while (insn.index == insn.reg || insn.index == insn.vvvv);
    } else if (dice_.one_in(4)) {
      insn.index = dice_.one_in(8) ? static_cast<std::uint8_t>(dice_.below(count)) : std::uint8_t{kRcx};
      if (insn.index == kRsp) insn.index = kNoRegister;
    }
    if (insn.index != kNoRegister) insn.scale = static_cast<std::uint8_t>(dice_.below(4));
  }
  const bool absolute = insn.addr_size == 2 ? insn.base == kNoRegister : !shape.vsib && dice_.one_in(10);
  insn.segment = static_cast<SegmentIndex>(insn.base == kRsp || insn.base == kRbp ? kSs : kDs);
  if (absolute) {
    const std::uint64_t linear = data_address();
    insn.base = insn.index = kNoRegister;
    insn.scale = 0;
    insn.segment = kDs;
    insn.disp = static_cast<std::int32_t>(linear - (wide() ? 0 : out_->state.seg[kDs].base));
    if (insn.addr_size == 2) insn.disp = static_cast<std::int16_t>(insn.disp);
    if (wide() && dice_.one_in(2)) {
      insn.base = kRipBase;
      item.kind = Item::Kind::rip_operand;
      item.extra = linear;
    }
  }
  if (!options_.for_host && dice_.one_in(16))
    insn.segment = static_cast<SegmentIndex>(wide() ? kFs + dice_.below(2) : dice_.below(6));
}

bool SequenceGenerator::random_insn(std::uint16_t number, Item& item) {
  const FormShape shape = shape_of(number, size_);
  const Form& form = forms()[number];
  std::optional<Insn> made = example(number, size_);
  if (!made) return false;
  Insn& insn = item.insn = *made;
  item.kind = Item::Kind::plain;
  const auto pick = [&](unsigned mask) {
    unsigned choices[6], count = 0;
    for (unsigned value = 1; value <= 32; value *= 2)
      if (mask & value) choices[count++] = value;
    return static_cast<std::uint8_t>(choices[dice_.below(count)]);
  };
  if (!dice_.one_in(3)) insn.op_size = pick(shape.op_sizes);
  if (dice_.one_in(12)) insn.addr_size = pick(shape.addr_sizes);
  insn.vector_bytes = pick(shape.vector_sizes);
  if (dice_.one_in(2)) insn.rex_w = !insn.rex_w;

  const unsigned count = wide() ? 16 : 8;
  bool reg_vector = false, rm_vector = false, reg_byte = false, rm_byte = false, reg_segment = false, reg_other = false;
  bool reg_written = false, rm_written = false;
  for (const Operand& o : form.operands) {
    switch (o.kind) {
      case OperandKind::vec_reg:
      case OperandKind::mmx_reg: reg_vector = true; break;
      case OperandKind::vec_rm:
      case OperandKind::vec_rm_only:
      case OperandKind::mmx_rm:
      case OperandKind::mmx_rm_only: rm_vector = true; break;
      case OperandKind::sreg: reg_segment = true; break;
      case OperandKind::creg:
      case OperandKind::dreg: reg_other = true; break;
      case OperandKind::gpr_reg:
      case OperandKind::gpr_opcode:
        reg_byte |= o.size == OperandSize::b;
        reg_written |= o.written;
        break;
      case OperandKind::gpr_rm:
      case OperandKind::gpr_rm_only:
        rm_byte |= o.size == OperandSize::b;
        rm_written |= o.written;
        break;
      default: break;
    }
  }
  const auto general = [&](bool byte, bool written) {
    if (byte && dice_.one_in(4)) return static_cast<std::uint8_t>(kHighByte | dice_.below(4));
    for (unsigned attempt = 0;; ++attempt) {
      const auto reg = static_cast<std::uint8_t>(dice_.below(!wide() ? (byte ? 4 : 8) : dice_.one_in(2) ? 8 : count));
      // Pointers are read as any other, and seldom written.
      if (!written || attempt == 8 || !(pointers_ >> reg & 1) || dice_.one_in(12)) return reg;
    }
  };
  if (shape.free_reg) {
    insn.reg = reg_segment  ? static_cast<std::uint8_t>(dice_.below(6))
               : reg_other  ? static_cast<std::uint8_t>(dice_.below(5))
               : reg_vector ? static_cast<std::uint8_t>(dice_.below(dice_.one_in(2) ? 4 : count))
                            : general(reg_byte, reg_written);
  }
  if (shape.register_rm && shape.memory) insn.memory = dice_.one_in(2);
  if (!insn.memory && shape.free_rm)
    insn.rm =
        rm_vector ? static_cast<std::uint8_t>(dice_.below(dice_.one_in(2) ? 4 : count)) : general(rm_byte, rm_written);
  if (shape.vvvv) insn.vvvv = static_cast<std::uint8_t>(dice_.below(count));
  if (shape.vsib && insn.vvvv == insn.reg) insn.vvvv = static_cast<std::uint8_t>((insn.reg + 1) % count);
  const ImmKind imm = kDecodeForms[number].imm;
  if (shape.memory && insn.memory && imm != ImmKind::moffs) choose_memory(item, shape);
  if (imm == ImmKind::moffs)
    insn.imm = (data_address() - (wide() ? 0 : out_->state.seg[kDs].base)) & mask_of(insn.addr_size * 8u);
  else if (imm != ImmKind::none)
    insn.imm = dice_.one_in(2) ? dice_.below(72) : dice_.integer();
  if (imm == ImmKind::iw_ib || imm == ImmKind::ib_ib || imm == ImmKind::is4)
    insn.imm2 = static_cast<std::uint16_t>(imm == ImmKind::iw_ib && !dice_.one_in(4) ? 0 : dice_.below(8));
  if (form.mnemonic == "ENTER") insn.imm = align_down(dice_.below(128), 8);
  if (form.attributes & (kAttrRep | kAttrRepCond)) insn.rep = static_cast<RepPrefix>(dice_.below(3));
  if (insn.memory) insn.lock = (form.attributes & kAttrLock) && dice_.one_in(5);

  const std::optional<EncodedInsn> bytes = encode(insn, size_);
  if (!bytes) return false;
  if (decode(bytes->span(), size_, insn) != DecodeStatus::ok || insn.form != number) return false;
  return true;
}

void SequenceGenerator::add_random() {
  const auto& groups = forms_[static_cast<unsigned>(mode_)];
  for (unsigned attempt = 0; attempt < 20; ++attempt) {
    std::uint16_t form;
    if (!theme_.empty() && !dice_.one_in(6)) {
      form = theme_[dice_.below(static_cast<unsigned>(theme_.size()))];
    } else {
      // Of each hundred: what programs are made of, and some of all the rest.
      constexpr unsigned kWeights[kGroups] = {38, 24, 7, 9, 8, 4, 6, 3, 1};
      unsigned at = dice_.below(100), group = 0;
      while (at >= kWeights[group]) at -= kWeights[group++];
      if (groups[group].empty()) continue;
      form = groups[group][dice_.below(static_cast<unsigned>(groups[group].size()))];
    }
    Item item;
    if (!random_insn(form, item)) continue;
    const Form& f = forms()[form];
    if (item.insn.rep != RepPrefix::none && !dice_.one_in(8)) load_constant(kRcx, dice_.below(40), false);
    if (f.mnemonic == "DIV" && !dice_.one_in(3)) load_constant(kRdx, dice_.below(3), false);
    add(item);
    repair(item.insn);
    return;
  }
}

// ---- branches ----

void SequenceGenerator::add_forward_branch() {
  const unsigned here = static_cast<unsigned>(out_->items.size());
  const unsigned reach = 1 + dice_.below(5);
  Insn insn;
  switch (dice_.below(8)) {
    case 0: insn = from_bytes({0xEB}); break;
    case 1: insn = from_bytes({0xE9}); break;
    case 2: insn = from_bytes({static_cast<std::uint8_t>(0xE0 + dice_.below(4))}); break;
    case 3:
    case 4: insn = from_bytes({0x0F, static_cast<std::uint8_t>(0x80 + dice_.below(16))}); break;
    default: insn = from_bytes({static_cast<std::uint8_t>(0x70 + dice_.below(16))}); break;
  }
  add({.kind = Item::Kind::relative, .insn = insn, .label = here + 1 + reach});
}

/// CALL over a jump that leads past the routine.
void SequenceGenerator::add_call() {
  const unsigned here = static_cast<unsigned>(out_->items.size());
  add({.kind = Item::Kind::relative, .insn = from_bytes({0xE8}), .label = here + 2});
  const std::size_t jump = out_->items.size();
  add({.kind = Item::Kind::relative, .insn = from_bytes({0xE9})});
  const unsigned length = 1 + dice_.below(6);
  for (unsigned i = 0; i < length; ++i) add_random();
  if (dice_.one_in(8)) {
    Insn insn = from_bytes({0xC2});
    insn.imm = 8u * dice_.below(3);
    add_plain(insn);
  } else {
    add_plain(from_bytes({0xC3}));
  }
  out_->items[jump].label = static_cast<unsigned>(out_->items.size());
}

/// A jump or call through a register or the stack, to where the sequence goes on.
void SequenceGenerator::add_indirect() {
  const unsigned kind = dice_.below(3);
  const unsigned skip = dice_.below(3);
  const auto base = out_->state.seg[kCs].base;
  const unsigned label = static_cast<unsigned>(out_->items.size()) + 2 + skip;
  if (kind == 0) {
    add({.kind = Item::Kind::address, .insn = from_bytes({0x68}), .label = label, .extra = 0 - base});
    add_plain(from_bytes({0xC3}));
  } else {
    Insn load = from_bytes({0xB8});
    Insn jump = from_bytes({0xFF, static_cast<std::uint8_t>(kind == 1 ? 0xE0 : 0xD0)});
    const unsigned reg = dice_.below(3);
    load.reg = jump.rm = static_cast<std::uint8_t>(reg);
    add({.kind = Item::Kind::address, .insn = load, .label = label, .extra = 0 - base});
    add_plain(jump);
  }
  for (unsigned i = 0; i < skip; ++i) add_random();
}

/// Counts down in memory, in a cell of its own, and goes back while it is not negative; or LOOP.
void SequenceGenerator::add_loop_end(unsigned begin) {
  const std::uint64_t counter = arena_.counters + 8 * (loops_++ % 16);
  const std::uint64_t ds = wide() ? 0 : out_->state.seg[kDs].base;
  Insn count;
  switch (size_) {
    case CodeSize::bits64: count = from_bytes({0x83, 0x2C, 0x25, 0, 0, 0, 0, 1}); break;
    case CodeSize::bits32: count = from_bytes({0x83, 0x2D, 0, 0, 0, 0, 1}); break;
    case CodeSize::bits16: count = from_bytes({0x83, 0x2E, 0, 0, 1}); break;
  }
  count.disp = static_cast<std::int32_t>(counter - ds);
  if (count.addr_size == 2) count.disp = static_cast<std::int16_t>(count.disp);
  add_plain(count);
  add({.kind = Item::Kind::relative, .insn = from_bytes({0x0F, 0x89}), .label = begin});
}

/// A loop of a few instructions, whose operands move by the same step in each round: as compilers make them.
void SequenceGenerator::add_striding_loop() {
  constexpr std::uint8_t kPointers[] = {kRbx, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR12, kR13, kR14, kR15};
  constexpr std::int32_t kSteps[] = {1, 2, 3, 4, 8, 8, 12, 16, 16, 24, 32, 64, 100, 256, 512, -1, -4, -8, -16, -40, 0};
  std::array<std::uint8_t, 3> regs;
  do {
    for (std::uint8_t& reg : regs) reg = kPointers[dice_.below(std::size(kPointers))];
  } while (regs[0] == regs[1] || regs[0] == regs[2] || regs[1] == regs[2]);
  const auto [first, second, counter] = regs;
  const std::uint16_t kept = pointers_;
  pointers_ = static_cast<std::uint16_t>(1u << first | 1u << second | 1u << counter);
  const auto add_to = [&](unsigned reg, std::int32_t step, bool whole) {
    Insn insn = whole ? from_bytes({0x48, 0x81, 0xC0}) : from_bytes({0x81, 0xC0});
    insn.rm = static_cast<std::uint8_t>(reg);
    insn.imm = static_cast<std::uint64_t>(std::int64_t{step});
    add_plain(insn);
  };
  const bool index = dice_.one_in(2);  // the second is an index, not a pointer
  const unsigned round = dice_.one_in(4) ? 10 + dice_.below(200) : 10 + dice_.below(40);
  const auto start = [&] { return dice_.one_in(3) ? data_address() : arena_.data + 16 * dice_.below(0x200); };
  load_constant(first, start(), false);
  load_constant(second, index ? dice_.below(0x100) : start(), false);
  load_constant(counter, round, false);
  const auto begin = static_cast<unsigned>(out_->items.size());
  const auto& groups = forms_[static_cast<unsigned>(mode_)];
  const unsigned wanted = 1 + dice_.below(5);
  const unsigned moves = dice_.below(wanted + 1);
  for (unsigned done = 0; done < wanted; ++done) {
    if (done == moves) add_to(first, kSteps[dice_.below(std::size(kSteps))], true);
    for (unsigned attempt = 0; attempt < 30; ++attempt) {
      const auto& group = groups[dice_.one_in(2) ? kInteger : dice_.one_in(2) ? kMmxSse : kAvx];
      Item item;
      if (group.empty() || !random_insn(group[dice_.below(static_cast<unsigned>(group.size()))], item)) continue;
      Insn& insn = item.insn;
      if (item.kind != Item::Kind::plain || (registers_written(insn) & pointers_)) continue;
      if (!insn.memory && !dice_.one_in(3)) continue;
      if (insn.memory) {
        if (insn.base == kNoRegister || insn.base == kRipBase) continue;
        insn.base = dice_.one_in(2) || index ? first : second;
        insn.index = index && dice_.one_in(2) ? second : std::uint8_t{kNoRegister};
        insn.scale = insn.index == kNoRegister ? std::uint8_t{0} : static_cast<std::uint8_t>(dice_.below(4));
        insn.disp = dice_.one_in(2) ? 0 : 16 * (static_cast<std::int32_t>(dice_.below(9)) - 4);
        insn.addr_size = 8;
        insn.segment = kDs;
        if (!encode(insn, size_)) continue;
      }
      add(item);
      break;
    }
  }
  if (dice_.one_in(2)) add_to(second, index ? 1 : kSteps[dice_.below(std::size(kSteps))], true);
  if (dice_.one_in(8)) add_forward_branch();
  add_to(counter, -1, dice_.one_in(2));
  add({.kind = Item::Kind::relative, .insn = from_bytes({0x0F, 0x85}), .label = begin});
  pointers_ = kept;
}

// ---- code that writes code ----

void SequenceGenerator::add_code_store() {
  const auto here = static_cast<unsigned>(out_->items.size());
  const std::uint64_t alias =
      arena_.code_alias && mode_ != SequenceMode::real16 && dice_.one_in(3) ? arena_.code_alias - arena_.code : 0;
  const unsigned kind = dice_.below(4);
  Insn store;
  unsigned size;
  if (kind == 0) {
    size = 1;
    store = wide()                      ? from_bytes({0xC6, 0x04, 0x25})
            : size_ == CodeSize::bits32 ? from_bytes({0xC6, 0x05})
                                        : from_bytes({0xC6, 0x06});
  } else {
    store = wide()                      ? from_bytes({0xC7, 0x04, 0x25})
            : size_ == CodeSize::bits32 ? from_bytes({0xC7, 0x05})
                                        : from_bytes({0xC7, 0x06});
    size = store.op_size;
  }
  // An instruction of just that length, to be put in the place of another one.
  std::optional<EncodedInsn> fresh, old;
  std::uint16_t fresh_writes = 0;
  Item victim;
  for (unsigned attempt = 0; attempt < 200 && !(fresh && old); ++attempt) {
    Item item;
    const auto& group = forms_[static_cast<unsigned>(mode_)][dice_.one_in(3) ? kFlags : kInteger];
    if (!random_insn(group[dice_.below(static_cast<unsigned>(group.size()))], item)) continue;
    if (item.kind != Item::Kind::plain || (registers_written(item.insn) & pointers_) || item.insn.memory) continue;
    const std::optional<EncodedInsn> bytes = encode(item.insn, size_);
    if (!bytes || bytes->length != size) continue;
    const Form& form = forms()[item.insn.form];
    const auto writes = static_cast<std::uint16_t>(form.flags_written | form.flags_undefined);
    if (options_.settle_flags) {
      // Flags that the old instruction would have overwritten need not be there for the new one.
      if (form.flags_read || form.flags_undefined) continue;
      if (fresh && (writes & ~fresh_writes)) continue;
    }
    if (!fresh) {
      fresh_writes = writes;
      fresh = bytes;
    } else {
      old = bytes;
      victim = item;
    }
  }
  if (!fresh || !old) return;
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) value |= std::uint64_t{fresh->bytes[i]} << (8 * i);
  store.imm = size == 4   ? static_cast<std::uint64_t>(static_cast<std::int32_t>(value))
              : size == 2 ? static_cast<std::uint64_t>(static_cast<std::int16_t>(value))
                          : static_cast<std::uint64_t>(static_cast<std::int8_t>(value));
  const unsigned between = dice_.one_in(3) ? 0 : dice_.below(4);
  const bool before = dice_.one_in(3);
  if (before) {
    // Runs first as it was, then, if a loop comes back, as it was made.
    add(victim);
    for (unsigned i = 0; i < between; ++i) add_random();
    add({.kind = Item::Kind::store, .insn = store, .label = here, .extra = alias});
    return;
  }
  const std::size_t at = out_->items.size();
  add({.kind = Item::Kind::store, .insn = store, .extra = alias});
  for (unsigned i = 0; i < between; ++i) add_random();
  out_->items[at].label = static_cast<unsigned>(out_->items.size());
  add(victim);
}

// ---- all of it ----

Sequence SequenceGenerator::make(SequenceMode mode, std::uint64_t seed, std::uint64_t number) {
  Sequence sequence;
  sequence.mode = mode_ = mode;
  sequence.settle_flags = options_.settle_flags;
  size_ = code_size_of(mode);
  sort_forms(mode);
  dice_ = Dice(seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + static_cast<unsigned>(mode));
  (void)dice_.next();
  out_ = &sequence;
  loops_ = 0;
  const bool host = options_.for_host;
  const std::uint64_t data = host ? kLowData : arena::kData;
  arena_ = {.code = host ? kLowCode : arena::kCode,
            .code_alias = host ? 0 : arena::kCodeAlias,
            .data = data,
            .data_size = arena::kWritable + arena::kReadOnly,
            .writable = arena::kWritable,
            .stack = host ? data + 0x1000 : arena::kStack,
            .stack_size = host ? 0x1000 : arena::kStackSize,
            .counters = host ? data + 0x1F00 : arena::kCounters};
  if (wide())
    arena_.high = host ? kHighData - kLowData : mode == SequenceMode::user64 ? arena::kHighUser : arena::kHighKernel;
  start_state();
  sequence.start = arena_.code + dice_.below(0x1400);
  const bool self_modifying = options_.self_modifying && !host && dice_.one_in(4);
  sequence.writable_code = self_modifying || (!host && dice_.one_in(8));

  theme_.clear();
  if (dice_.one_in(2)) {
    const auto& groups = forms_[static_cast<unsigned>(mode_)];
    for (unsigned i = 0; i < 12; ++i) {
      const auto& group = groups[dice_.one_in(3) ? dice_.below(kSystem) : dice_.below(2)];
      if (!group.empty()) theme_.push_back(group[dice_.below(static_cast<unsigned>(group.size()))]);
    }
  }
  unsigned length = options_.shortest + dice_.below(options_.longest - options_.shortest + 1);
  if (dice_.one_in(2)) length = options_.shortest + (length - options_.shortest) / 5;
  std::vector<unsigned> loops;
  while (sequence.items.size() < length) {
    const unsigned kind = dice_.below(100);
    if (wide() && loops.empty() && dice_.one_in(60))
      add_striding_loop();
    else if (kind < 9)
      add_forward_branch();
    else if (kind < 11)
      add_call();
    else if (kind < 13)
      add_indirect();
    else if (kind < 17 && loops.size() < 3)
      loops.push_back(static_cast<unsigned>(sequence.items.size()));
    else if (kind < 24 && !loops.empty()) {
      add_loop_end(loops.back());
      loops.pop_back();
    } else if (self_modifying && kind < 32)
      add_code_store();
    else
      add_random();
  }
  for (; !loops.empty(); loops.pop_back()) add_loop_end(loops.back());
  for (Item& item : sequence.items) item.label = std::min(item.label, static_cast<unsigned>(sequence.items.size()));
  sequence.kept.assign(sequence.items.size(), true);

  // Counters of the loops, and data with meaning among the noise.
  for (unsigned i = 0; i < 4; ++i) {
    DataPatch& patch = sequence.data.emplace_back();
    patch.linear = arena_.counters + 32 * i;
    for (unsigned k = 0; k < 32; k += 8)
      store_le(patch.bytes + k, std::uint64_t{dice_.one_in(12) ? dice_.below(60) : dice_.below(5)});
  }
  for (unsigned i = 0; i < (host ? 28u : 12u); ++i) {
    DataPatch& patch = sequence.data.emplace_back();
    // The child takes few pieces, so that they lie side by side for it.
    patch.linear =
        arena_.data + (host ? 0x200 + 32 * i : align_down(dice_.below(static_cast<unsigned>(arena_.writable)), 32));
    if (dice_.one_in(2))
      dice_.fill_reals(patch.bytes, 32);
    else
      dice_.fill(patch.bytes, 32);
  }
  return sequence;
}

}  // namespace husk::differential
