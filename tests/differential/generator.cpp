// husk: makes random tests of any form of the instruction table: the instruction and where its operands are
#include "generator.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/bits.h"
#include "cpu/coding.h"

namespace husk::differential {

namespace {

using namespace cpu;

unsigned size_in_bytes(OperandSize size, const FormShape& shape) {
  switch (size) {
    case OperandSize::b: return 1;
    case OperandSize::w: return 2;
    case OperandSize::d: return 4;
    case OperandSize::q: return 8;
    case OperandSize::x: return shape.vector_sizes & 32 ? 32 : 16;
    case OperandSize::dq: return 16;
    case OperandSize::qq: return 32;
    case OperandSize::t: return 10;
    case OperandSize::fpu_env: return 28;
    case OperandSize::fpu_state: return 108;
    case OperandSize::fxsave: return 512;
    case OperandSize::xsave: return 832;
    default: return 8;
  }
}

Special special_of(const Form& form) {
  const std::string_view m = form.mnemonic;
  constexpr struct {
    std::string_view mnemonic;
    Special special;
  } kNamed[] = {{"LEA", Special::lea},
                {"MASKMOVQ", Special::maskmov},
                {"MASKMOVDQU", Special::maskmov},
                {"VMASKMOVDQU", Special::maskmov},
                {"XLAT", Special::xlat},
                {"CLZERO", Special::clzero},
                {"ENTER", Special::enter},
                {"LEAVE", Special::leave},
                {"FLDENV", Special::fldenv},
                {"FRSTOR", Special::frstor},
                {"FXRSTOR", Special::fxrstor},
                {"FXRSTOR64", Special::fxrstor},
                {"XRSTOR", Special::xrstor},
                {"XRSTOR64", Special::xrstor},
                {"LDMXCSR", Special::ldmxcsr},
                {"VLDMXCSR", Special::ldmxcsr},
                {"POPF", Special::popf},
                {"POPFD", Special::popf},
                {"POPFQ", Special::popf},
                {"CMPXCHG", Special::cmpxchg},
                {"CMPXCHG8B", Special::cmpxchg8b},
                {"CMPXCHG16B", Special::cmpxchg16b},
                {"RET", Special::ret},
                {"DIV", Special::divide},
                {"IDIV", Special::divide},
                {"FBLD", Special::fbld}};
  for (const auto& named : kNamed)
    if (m == named.mnemonic) return named.special;
  if (m.starts_with("XSAVE")) return Special::xsave;
  if (m.find("PCMPESTR") != m.npos) return Special::pcmpestr;
  if (m == "BT" || m == "BTS" || m == "BTR" || m == "BTC") {
    return form.operands[1].kind == OperandKind::gpr_reg ? Special::bit_string : Special::none;
  }
  for (const Operand& operand : form.operands)
    if (operand.kind == OperandKind::fixed_gpr && operand.fixed == kRcx && operand.size == OperandSize::b)
      return Special::shift_cl;
  return Special::none;
}

FormTraits traits_of(std::uint16_t number) {
  const Form& form = forms()[number];
  const FormShape shape = shape_of(number, (form.attributes & kAttrNo64) ? CodeSize::bits32 : CodeSize::bits64);
  FormTraits t;
  const std::string_view m = form.mnemonic;
  t.special = special_of(form);
  for (const Operand& o : form.operands) {
    switch (o.kind) {
      case OperandKind::gpr_reg:
      case OperandKind::gpr_opcode: t.reg_byte |= o.size == OperandSize::b; break;
      case OperandKind::gpr_rm:
      case OperandKind::gpr_rm_only: t.rm_byte |= o.size == OperandSize::b; break;
      case OperandKind::sreg:
        t.reg_sreg = true;
        t.selector |= o.written;
        break;
      case OperandKind::fixed_sreg: t.selector |= o.written; break;
      case OperandKind::string_src: t.string_source = true; break;
      case OperandKind::string_dst: t.string_destination = true; break;
      case OperandKind::rel: t.relative = true; break;
      case OperandKind::vec_reg:
      case OperandKind::vec_rm:
      case OperandKind::vec_rm_only:
      case OperandKind::vec_vvvv:
      case OperandKind::mmx_rm:
      case OperandKind::mmx_reg: t.vector = true; break;
      default: break;
    }
    if (o.kind == OperandKind::gpr_rm || o.kind == OperandKind::mem || o.kind == OperandKind::vec_rm ||
        o.kind == OperandKind::mmx_rm)
      t.memory_size = size_in_bytes(o.size, shape);
  }
  if (form.attributes & kAttrAligned) t.align = 16;
  if (t.special == Special::xsave || t.special == Special::xrstor) t.align = 64;
  if (t.special == Special::fxrstor || m.starts_with("FXSAVE") || t.special == Special::cmpxchg16b) t.align = 16;
  t.x87 = (form.attributes & kAttrFpu) || m == "FWAIT";
  t.vector |= (form.attributes & (kAttrSse | kAttrAvx | kAttrMmx)) != 0;
  if (t.vector && (m.ends_with("PS") || m.ends_with("SS"))) t.single = true;
  if (t.vector && (m.ends_with("PD") || m.ends_with("SD"))) t.real = true;
  if (m.find("CVT") != m.npos) t.single = t.real = m.find("SI2") == m.npos;
  t.gather = shape.vsib;
  if (t.gather) {
    t.gather_quad_index = m.find("GATHERQ") != m.npos;
    t.gather_quad_data = m.ends_with("Q") || m.ends_with("PD");
  }
  constexpr std::string_view kStack[] = {"PUSH",   "POP",  "PUSHA", "PUSHAD", "POPA", "POPAD", "PUSHF", "PUSHFD",
                                         "PUSHFQ", "POPF", "POPFD", "POPFQ",  "CALL", "RET",   "ENTER"};
  t.stack = std::find(std::begin(kStack), std::end(kStack), m) != std::end(kStack);
  t.indirect = (m == "JMP" || m == "CALL") && !t.relative;
  if (m == "LAR" || m == "LSL" || m == "VERR" || m == "VERW" || m == "ARPL") t.selector = true;
  t.two_immediates = kDecodeForms[number].imm == ImmKind::iw_ib || kDecodeForms[number].imm == ImmKind::ib_ib ||
                     kDecodeForms[number].imm == ImmKind::is4;
  return t;
}

bool is_canonical(std::uint64_t a) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(a << 16) >> 16) == a; }
std::uint64_t cut(std::uint64_t value, unsigned bytes) { return bytes == 8 ? value : value & mask_of(bytes * 8); }

}  // namespace

Generator::Generator(std::uint64_t seed, bool tiny_data) : dice_(seed), tiny_data_(tiny_data), images_(64) {
  for (std::uint16_t form = 0; form < forms().size(); ++form) traits_.push_back(traits_of(form));
  for (FpImage& image : images_) {
    image = {};
    image.xstate_bv = 7;
    dice_.fill(image.legacy + 160, 256);
    for (unsigned i = 0; i < 16; ++i) {
      dice_.fill(image.legacy + 160 + 16 * i, 16);
      dice_.fill(image.ymm_high[i], 16);
    }
    fill_x87(image);
    store_le(image.legacy + 24, std::uint32_t{0x1F80});
  }
}

bool Generator::make(std::uint16_t form, Mode mode, unsigned set, unsigned index, Test& test) {
  test.mode = mode;
  test.form = form;
  Request& request = test.request;
  request.poke_count = 0;
  request.cs = mode == Mode::long64 ? kUserCs64 : kUserCs32;
  request.ss = kUserDs;
  request.fs_base = request.gs_base = 0;
  request.es = request.ds = mode == Mode::long64 ? 0 : kUserDs;
  request.fs = request.gs = mode == Mode::long64 ? 0 : kUserDs;
  for (unsigned attempt = 0; attempt < 40; ++attempt) {
    test.high_code = mode == Mode::long64 && dice_.one_in(2);
    request.rip = insn_address(test.high_code, set, index);
    request.poke_count = 0;
    if (!choose_insn(form, test)) continue;
    fill_general(test);
    fill_fp(test);
    operand_values(test);
    settle_vendors(test);
    if (!solve_operand(test) || !solve_implicit(test)) continue;
    request.rsp = request.gpr[kRsp];
    return true;
  }
  return false;
}

void Generator::settle_vendors(Test& test) {
  const FormTraits& traits = traits_[test.form];
  Request& request = test.request;
  // Whether #AC looks at operands beyond eight bytes, or at the elements of masked ones, is the processor's choice (SDM
  // vol. 3, 6.15).
  if (traits.memory_size > 8 || traits.gather || traits.vector) request.rflags &= ~std::uint64_t{kAC};
  // AMD's save FOP, FIP and FDP as zeros unless an exception is pending, and take the x87 for unused by the rest.
  if (traits.memory_size >= 512 && !(request.fp.legacy[2] & 0x80)) std::memset(request.fp.legacy + 6, 0, 18);
}

// ---- the instruction ----

bool Generator::choose_insn(std::uint16_t form, Test& test) {
  const CodeSize code_size = code_size_of(test.mode);
  const FormShape shape = shape_of(form, code_size);
  const FormTraits& traits = traits_[form];
  std::optional<Insn> made = example(form, code_size);
  if (!made) return false;
  Insn& insn = *made;
  const auto pick = [&](unsigned mask) {
    unsigned choices[4], count = 0;
    for (unsigned value = 1; value <= 32; value *= 2)
      if ((mask & value) && count < 4) choices[count++] = value;
    return static_cast<std::uint8_t>(choices[dice_.below(count)]);
  };
  insn.op_size = pick(shape.op_sizes);
  if (dice_.one_in(8)) insn.addr_size = pick(shape.addr_sizes);
  insn.vector_bytes = pick(shape.vector_sizes);
  if (dice_.one_in(2)) insn.rex_w = !insn.rex_w;
  choose_registers(insn, traits, shape, test.mode);
  const ImmKind imm = kDecodeForms[form].imm;
  if (imm == ImmKind::moffs) {
    insn.imm = 0;
  } else if (imm != ImmKind::none) {
    insn.imm = dice_.integer();
    if (imm == ImmKind::ib && dice_.one_in(2)) insn.imm = dice_.below(72);
  }
  if (traits.two_immediates) insn.imm2 = static_cast<std::uint16_t>(dice_.one_in(4) ? dice_.next() : dice_.below(16));
  if (traits.special == Special::enter) {
    insn.imm = dice_.one_in(4) ? dice_.integer() : dice_.below(256);
    insn.imm2 = static_cast<std::uint16_t>(dice_.one_in(2) ? 0 : dice_.one_in(8) ? dice_.below(256) : dice_.below(6));
  }
  const std::uint32_t attributes = forms()[form].attributes;
  if (attributes & (kAttrRep | kAttrRepCond)) {
    insn.rep = static_cast<RepPrefix>(dice_.below(3));
    if (dice_.one_in(8)) insn.segment = static_cast<SegmentIndex>(dice_.below(6));
  }
  // LSS, LFS and LGS with REX.W load a 64-bit offset on Intel's, not on AMD's.
  if (traits.selector && insn.op_size == 8 && forms()[form].operands[2].size == OperandSize::p) return false;
  if (insn.memory) {
    insn.lock = (attributes & kAttrLock) && dice_.one_in(4);
    if (dice_.one_in(10))
      insn.segment = dice_.one_in(4) ? static_cast<SegmentIndex>(dice_.below(6)) : dice_.one_in(2) ? kFs : kGs;
  }
  if (traits.relative) {
    test.insn = insn;
    return choose_relative(test);
  }
  std::optional<EncodedInsn> bytes = encode(insn, code_size);
  if (!bytes) return false;
  if (decode(bytes->span(), code_size, test.insn) != DecodeStatus::ok) return false;
  test.code = bytes->bytes;
  test.length = bytes->length;
  if (!insn.lock && dice_.one_in(400) && test.length < 15) {
    // #UD for everything that LOCK does not go with.
    std::copy_backward(test.code.begin(), test.code.begin() + test.length, test.code.begin() + test.length + 1);
    test.code[0] = 0xF0;
    ++test.length;
    Insn locked;
    const DecodeStatus status = decode({test.code.data(), test.length}, code_size, locked);
    if (status == DecodeStatus::ok) test.insn = locked;
  }
  return true;
}

void Generator::choose_registers(Insn& insn, const FormTraits& traits, const FormShape& shape, Mode mode) {
  const bool long_mode = mode == Mode::long64;
  const auto any = [&](bool byte) {
    if (byte && dice_.one_in(4)) return static_cast<std::uint8_t>(kHighByte | dice_.below(4));
    // Half of them low: some forms take only eight registers.
    return static_cast<std::uint8_t>(dice_.below(!long_mode ? (byte ? 4 : 8) : dice_.one_in(2) ? 8 : 16));
  };
  if (shape.free_reg) insn.reg = traits.reg_sreg ? static_cast<std::uint8_t>(dice_.below(6)) : any(traits.reg_byte);
  if (shape.register_rm && shape.memory) {
    insn.memory = dice_.one_in(2);
  }
  if (!insn.memory && shape.free_rm) insn.rm = any(traits.rm_byte);
  if (shape.vvvv) insn.vvvv = static_cast<std::uint8_t>(dice_.below(long_mode ? 16 : 8));
  if (shape.memory && insn.memory) choose_memory(insn, shape, mode);
}

void Generator::choose_memory(Insn& insn, const FormShape& shape, Mode mode) {
  const bool long_mode = mode == Mode::long64;
  const unsigned count = long_mode ? 16 : 8;
  const unsigned kind = dice_.below(16);
  insn.disp = dice_.one_in(2)   ? 0
              : dice_.one_in(2) ? static_cast<std::int8_t>(dice_.next())
                                : static_cast<std::int32_t>(dice_.integer());
  insn.base = insn.index = kNoRegister;
  insn.scale = static_cast<std::uint8_t>(dice_.below(4));
  if (insn.addr_size == 2) {
    constexpr std::uint8_t kPairs[9][2] = {{kRbx, kRsi},        {kRbx, kRdi},        {kRbp, kRsi},
                                           {kRbp, kRdi},        {kRsi, kNoRegister}, {kRdi, kNoRegister},
                                           {kRbp, kNoRegister}, {kRbx, kNoRegister}, {kNoRegister, kNoRegister}};
    const auto& pair = kPairs[dice_.below(9)];
    insn.base = pair[0];
    insn.index = pair[1];
    insn.scale = 0;
    insn.disp = static_cast<std::int16_t>(insn.disp);
  } else if (shape.vsib) {
    insn.base = static_cast<std::uint8_t>(dice_.below(count));
    insn.index = static_cast<std::uint8_t>(dice_.below(count));
    insn.disp = static_cast<std::int8_t>(insn.disp);
  } else if (kind < 8) {
    insn.base = static_cast<std::uint8_t>(dice_.below(count));
  } else if (kind < 13) {
    insn.base = static_cast<std::uint8_t>(dice_.below(count));
    do insn.index = static_cast<std::uint8_t>(dice_.below(count));
    while (insn.index == kRsp || insn.index == insn.base);
  } else if (kind == 13) {
    do insn.index = static_cast<std::uint8_t>(dice_.below(count));
    while (insn.index == kRsp);
  } else if (kind == 14 && long_mode) {
    insn.base = kRipBase;
  }
  if (insn.index == kNoRegister) insn.scale = 0;
  insn.segment = insn.base == kRsp || insn.base == kRbp ? kSs : kDs;
}

// ---- addresses ----

std::uint64_t Generator::choose_linear(const Test& test, unsigned addr_size, unsigned size, unsigned align) {
  std::uint64_t base = kLowData;
  if (test.mode == Mode::long64 && addr_size == 8 && dice_.one_in(2)) base = kHighData;
  const unsigned span = std::max(size, 2u);
  const unsigned kind = dice_.below(100);
  const auto room = static_cast<unsigned>(kWritableSize) - std::min<unsigned>(span, kWritableSize / 2);
  if (kind < 62) return base + align_down(dice_.below(room), std::max(align, dice_.one_in(2) ? 16u : 1u));
  if (kind < 78) return base + dice_.below(room);
  if (kind < 84) return base + kPage - 1 - dice_.below(span);
  if (kind < 89) return base + kWritableSize - 1 - dice_.below(span);
  if (kind < 92) return base + kWritableSize + align_down(dice_.below(kPage - span % kPage), align);
  if (kind < 95) return base + kDataSize - 1 - dice_.below(span);
  if (kind < 97) return base - 1 - dice_.below(span);
  if (kind == 97 && align == 1) return dice_.below(64);
  if (test.mode == Mode::long64 && addr_size == 8) {
    constexpr std::uint64_t kOdd[] = {0x8000'0000'0000'0000, 0x0000'8000'0000'0000, 0xFFFF'7FFF'FFFF'FFF8,
                                      0x0000'7FFF'FFFF'FFFC, 0xFFFF'8000'0000'0000, 0xFFFF'FFFF'FFFF'FFF8,
                                      0x1234'5678'9ABC'DEF0};
    return kOdd[dice_.below(7)] + dice_.below(16);
  }
  return 0xFFFF'F000 + dice_.below(0xFC0);
}

bool Generator::solve_segment(Test& test, unsigned segment, std::uint64_t linear, std::uint64_t ea) {
  Request& request = test.request;
  // AMD's want the effective address canonical as well as the linear one, Intel's only that. What becomes of an operand
  // that leaves the address size depends on the instruction's pieces.
  const std::uint64_t end = ea + 1100;
  if (!is_canonical(ea) || !is_canonical(end) || end < ea || end >> 63 != ea >> 63) return false;
  if (test.insn.addr_size < 8 && end > mask_of(test.insn.addr_size * 8)) return false;
  std::uint64_t base = linear - ea;
  if (test.mode != Mode::long64) base &= 0xFFFF'FFFF;
  if (!is_canonical(base)) return false;
  (segment == kFs ? request.fs_base : request.gs_base) = base;
  return true;
}

void Generator::point(Test& test, unsigned number, unsigned addr_size, std::uint64_t linear, std::uint64_t plus) {
  std::uint64_t& r = test.request.gpr[number];
  const std::uint64_t value = linear - plus;
  if (addr_size == 8)
    r = value;
  else if (addr_size == 4)
    r = (test.mode == Mode::long64 && dice_.one_in(4) ? r & 0xFFFF'FFFF'0000'0000 : 0) | cut(value, 4);
  else
    r = (r & ~std::uint64_t{0xFFFF}) | cut(value, 2);
}

bool Generator::solve_operand(Test& test) {
  Insn& insn = test.insn;
  if (!insn.memory) return true;
  const FormTraits& traits = traits_[test.form];
  Request& request = test.request;
  if (traits.gather) {
    gather_operand(test);
    return true;
  }
  const unsigned align = traits.align > 1 && !dice_.one_in(6) ? std::max(traits.align, 1u) : dice_.one_in(2) ? 8 : 1;
  std::uint64_t linear = choose_linear(test, insn.addr_size, traits.memory_size, align);
  if (insn.addr_size == 2 && insn.segment < kFs) {
    if (!tiny_data_)
      linear &= 0xFFFF;
    else
      linear = (linear - kLowData + kTinyData) & 0xFFFF;
  }
  const std::uint64_t disp = static_cast<std::uint64_t>(static_cast<std::int64_t>(insn.disp));
  const bool moffs = kDecodeForms[test.form].imm == ImmKind::moffs;
  bool encode_again = false;
  std::uint64_t ea = linear;
  if (insn.segment >= kFs) {
    // Any effective address will do; the segment's base brings it to its place.
    std::uint64_t index = insn.index == kNoRegister ? 0 : request.gpr[insn.index] << insn.scale;
    if (moffs) {
      ea = insn.imm = cut(dice_.integer(), insn.addr_size);
      encode_again = true;
    } else {
      ea = disp + index +
           (insn.base == kNoRegister ? 0
            : insn.base == kRipBase  ? request.rip + test.length
                                     : request.gpr[insn.base]);
      ea = cut(ea, insn.addr_size);
    }
    if (!solve_segment(test, insn.segment, linear, ea)) {
      if (moffs || insn.base == kRipBase || insn.base == kNoRegister) return false;
      point(test, insn.base, insn.addr_size, linear & 0xFFFF, disp + index);
      ea = cut(disp + index + request.gpr[insn.base], insn.addr_size);
      if (!solve_segment(test, insn.segment, linear, ea)) return false;
    }
  } else if (moffs) {
    insn.imm = cut(linear, insn.addr_size);
    encode_again = true;
  } else if (insn.base == kRipBase) {
    const std::uint64_t from = request.rip + test.length;
    if (linear - kLowData < kDataSize && test.high_code && insn.addr_size == 8) linear += kHighData - kLowData;
    if (linear - kHighData < kDataSize && !test.high_code) linear -= kHighData - kLowData;
    if (insn.addr_size == 4 && test.high_code) return false;
    insn.disp = static_cast<std::int32_t>(linear - from);
    linear = cut(from + static_cast<std::uint64_t>(static_cast<std::int64_t>(insn.disp)), insn.addr_size);
    encode_again = true;
  } else if (insn.base != kNoRegister) {
    const std::uint64_t index = insn.index == kNoRegister ? 0 : request.gpr[insn.index] << insn.scale;
    point(test, insn.base, insn.addr_size, linear, disp + index);
  } else if (insn.index != kNoRegister) {
    std::uint64_t value = linear - disp;
    value = cut(value, insn.addr_size) >> insn.scale;
    if (insn.addr_size == 2) return false;
    point(test, insn.index, insn.addr_size, value, 0);
    linear = cut((value << insn.scale) + disp, insn.addr_size);
  } else {
    if (test.mode == Mode::long64 && insn.addr_size == 8 && linear >= 0x8000'0000)
      linear = kLowData + dice_.below(kWritableSize);
    insn.disp = insn.addr_size == 2 ? static_cast<std::int16_t>(linear) : static_cast<std::int32_t>(linear);
    encode_again = true;
  }
  if (encode_again) {
    const std::optional<EncodedInsn> bytes = encode(insn, code_size_of(test.mode));
    if (!bytes || (insn.base == kRipBase && bytes->length != test.length)) return false;
    test.code = bytes->bytes;
    test.length = bytes->length;
    if (decode(bytes->span(), code_size_of(test.mode), insn) != DecodeStatus::ok) return false;
  }
  if (traits.special == Special::bit_string) {
    // The offset moves the operand; keep most of them near.
    std::uint64_t& offset = request.gpr[insn.reg];
    // Under FS or GS it must not carry the effective address out of the canonical ones: solve_segment().
    if (insn.segment >= kFs && (insn.reg == insn.base || insn.reg == insn.index)) return false;
    const bool far = insn.segment < kFs && dice_.one_in(16);
    if (insn.reg != insn.base && insn.reg != insn.index && !far)
      offset = static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int16_t>(dice_.next())) >>
                                          dice_.below(8));
  }
  if (!dice_.one_in(6)) poke_operand(test, linear, traits.memory_size);
  return true;
}

bool Generator::solve_implicit(Test& test) {
  const FormTraits& traits = traits_[test.form];
  const Insn& insn = test.insn;
  Request& request = test.request;
  const bool long_mode = test.mode == Mode::long64;
  const auto aim = [&](unsigned number, unsigned segment, unsigned size, std::uint64_t plus) {
    std::uint64_t linear = choose_linear(test, insn.addr_size, size, dice_.one_in(2) ? 8 : 1);
    if (insn.addr_size == 2 && segment < kFs)
      linear = tiny_data_ ? (linear - kLowData + kTinyData) & 0xFFFF : linear & 0xFFFF;
    if (segment >= kFs) {
      point(test, number, insn.addr_size, dice_.below(0x8000), plus);
      if (!solve_segment(test, segment, linear, cut(request.gpr[number] + plus, insn.addr_size))) return false;
    } else {
      point(test, number, insn.addr_size, linear, plus);
    }
    if (!dice_.one_in(6)) poke_operand(test, linear, size);
    return true;
  };
  if (traits.string_source || traits.string_destination) {
    if (insn.rep != RepPrefix::none) {
      std::uint64_t& count = request.gpr[kRcx];
      const std::uint64_t small = dice_.one_in(4) ? dice_.below(48) : dice_.below(9);
      count = insn.addr_size == 8   ? small
              : insn.addr_size == 4 ? (count & 0xFFFF'FFFF'0000'0000) | small
                                    : (count & ~std::uint64_t{0xFFFF}) | small;
      if (!long_mode && insn.addr_size == 4) count = small;
    }
    if (traits.string_source && !aim(kRsi, insn.segment, 24, 0)) return false;
    if (traits.string_destination && !aim(kRdi, kEs, 24, 0)) return false;
  }
  switch (traits.special) {
    case Special::maskmov:
      if (!aim(kRdi, insn.segment, 16, 0)) return false;
      break;
    case Special::xlat:
      if (!aim(kRbx, insn.segment, 1, request.gpr[kRax] & 0xFF)) return false;
      break;
    case Special::clzero:
      if (!aim(kRax, kDs, 64, 0)) return false;
      break;
    case Special::enter:
    case Special::leave: {
      const std::uint64_t linear = choose_linear(test, long_mode ? 8 : 4, 16, dice_.one_in(2) ? 8 : 1);
      point(test, kRbp, long_mode ? 8 : 4, linear, 0);
      if (traits.special == Special::leave) poke_operand(test, linear, 16);
      break;
    }
    case Special::xsave:
    case Special::xrstor:
      // Only components that both have; bits that neither has are ignored.
      if (insn.base != kRax && insn.index != kRax)
        request.gpr[kRax] = dice_.one_in(2) ? 7 : (dice_.next() & ~std::uint64_t{0xE0});
      else
        return false;
      break;
    default: break;
  }
  if (traits.special == Special::leave) return true;
  if (traits.stack && (!insn.memory || (insn.base != kRsp && insn.index != kRsp))) {
    const std::uint64_t linear = choose_linear(test, long_mode ? 8 : 4, 16, dice_.one_in(4) ? 1 : 8);
    point(test, kRsp, long_mode ? 8 : 4, linear, 0);
    if (traits.special == Special::popf) {
      std::uint64_t flags = dice_.next() & ~std::uint64_t{kTF};
      if (dice_.one_in(2)) flags &= kArithmeticFlags | kDF;
      poke(test, linear, &flags, 8);
    } else if (traits.special == Special::ret) {
      const std::uint64_t target = branch_target(test);
      poke(test, linear, &target, insn.op_size == 8 ? 8 : 4);
    } else if (traits.selector) {
      std::uint64_t value = dice_.next();
      if (!dice_.one_in(8)) value = (value & ~std::uint64_t{0xFFFF}) | selector();
      poke(test, linear, &value, 8);
    } else {
      poke_operand(test, linear, 16);
    }
  }
  return true;
}

void Generator::gather_operand(Test& test) {
  const Insn& insn = test.insn;
  const FormTraits& traits = traits_[test.form];
  Request& request = test.request;
  const std::uint64_t middle = (insn.addr_size == 8 && dice_.one_in(2) ? kHighData : kLowData) + kPage;
  const std::uint64_t disp = static_cast<std::uint64_t>(static_cast<std::int64_t>(insn.disp));
  if (insn.segment >= kFs)
    (void)solve_segment(test, insn.segment, middle, cut(request.gpr[insn.base] + disp, insn.addr_size));
  else if (insn.base != kNoRegister)
    point(test, insn.base, insn.addr_size, middle, disp);
  std::uint8_t lane_bytes[32];
  const bool wild = dice_.one_in(6);
  const auto lane = [&]() -> std::int64_t {
    if (wild && dice_.one_in(4)) return static_cast<std::int64_t>(dice_.integer());
    return (static_cast<std::int64_t>(dice_.below(kWritableSize - 8)) - static_cast<std::int64_t>(kPage)) >> insn.scale;
  };
  for (unsigned i = 0; i < 32; i += traits.gather_quad_index ? 8 : 4) {
    const std::int64_t value = lane();
    std::memcpy(lane_bytes + i, &value, traits.gather_quad_index ? 8 : 4);
  }
  std::memcpy(request.fp.legacy + 160 + 16 * insn.index, lane_bytes, 16);
  std::memcpy(request.fp.ymm_high[insn.index], lane_bytes + 16, 16);
  std::uint8_t mask[32];
  for (unsigned i = 0; i < 32; i += 8) {
    const std::uint64_t bits = dice_.next() | (dice_.one_in(2) ? 0x8000'0000'8000'0000 : 0);
    std::memcpy(mask + i, &bits, 8);
  }
  std::memcpy(request.fp.legacy + 160 + 16 * insn.vvvv, mask, 16);
  std::memcpy(request.fp.ymm_high[insn.vvvv], mask + 16, 16);
}

// ---- branches ----

std::uint64_t Generator::branch_target(const Test& test) {
  const std::uint64_t slot = test.request.rip - kInsnOffset;
  const unsigned kind = dice_.below(20);
  if (kind < 10) return slot + dice_.below(kInsnOffset - 20);
  if (kind < 14) return slot + kInsnOffset + 32 + dice_.below(static_cast<unsigned>(kSlotSize - kInsnOffset - 40));
  if (kind == 14) return test.request.rip + test.length;
  if (kind == 15) return (test.mode == Mode::long64 ? kHighData : kLowData) + dice_.below(kDataSize);
  if (kind == 16) return kLowData - 1 - dice_.below(1000);
  if (kind == 17 && test.mode == Mode::long64) return 0x0000'8000'0000'0000 + dice_.below(16);
  if (kind == 18) return 0x1000 + dice_.below(0x4000);
  return slot + dice_.below(64);
}

bool Generator::choose_relative(Test& test) {
  // The length does not depend on where to.
  const CodeSize code_size = code_size_of(test.mode);
  std::optional<EncodedInsn> bytes = encode(test.insn, code_size);
  if (!bytes) return false;
  test.length = bytes->length;
  const std::uint64_t next = test.request.rip + test.length;
  std::uint64_t target = branch_target(test);
  const bool byte = kDecodeForms[test.form].imm == ImmKind::ibs || kDecodeForms[test.form].imm == ImmKind::ib;
  if (byte) {
    std::int64_t by = static_cast<std::int8_t>(dice_.next());
    // Neither into the instruction or the way out behind it, nor before the slot.
    if (by > 0 && by < 16) by += 16;
    if (by < 0 && by > -20) by -= 20;
    if (by < -100) by = -100;
    target = next + static_cast<std::uint64_t>(by);
  }
  const auto by = static_cast<std::int64_t>(target - next);
  if (by != static_cast<std::int32_t>(by)) return false;
  test.insn.imm = static_cast<std::uint64_t>(by);
  bytes = encode(test.insn, code_size);
  if (!bytes || bytes->length != test.length) return false;
  test.code = bytes->bytes;
  return decode(bytes->span(), code_size, test.insn) == DecodeStatus::ok;
}

std::uint16_t Generator::selector() {
  // No index 15, whose limit is the CPU's number, nor what is not there in every kernel.
  constexpr std::uint16_t kSelectors[] = {0,    1,    2,    3,    kUserCs32, kUserDs, kUserCs64, 0x20,  0x28,   0x29,
                                          0x2A, 0x30, 0x08, 0x0B, 0x10,      0x13,    0x18,      0x1B,  0x40,   0x43,
                                          0x38, 0x3B, 0x63, 0x07, 0x2F,      0x0F,    0x83,      0x103, 0xFFFB, 0xFFFF};
  return kSelectors[dice_.below(std::size(kSelectors))];
}

}  // namespace husk::differential
