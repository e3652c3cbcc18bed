// husk: the encoder
#include "cpu/encode.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"
#include "cpu/coding.h"

namespace husk::cpu {

namespace {

constexpr std::uint8_t kAny2 = 3;
constexpr std::uint8_t kAny8 = 0xFF;

unsigned lowest(unsigned mask) { return static_cast<unsigned>(std::countr_zero(mask)); }

bool exists(std::uint16_t form, CodeSize code_size) {
  const std::uint32_t attributes = forms()[form].attributes;
  return !(attributes & (code_size == CodeSize::bits64 ? kAttrNo64 : kAttrOnly64));
}

/// The prefixes' part of the operand size.
struct SizeChoice {
  bool operand_prefix;
  bool w;
};

std::uint8_t size_of(SizeClass size_class, CodeSize code_size, SizeChoice choice) {
  const bool long_mode = code_size == CodeSize::bits64;
  const bool wide = long_mode && choice.w;
  const bool small = (code_size == CodeSize::bits16) != choice.operand_prefix;
  const std::uint8_t v = wide ? 8 : small ? 2 : 4;
  switch (size_class) {
    case SizeClass::byte: return 1;
    case SizeClass::four: return 4;
    case SizeClass::v: return v;
    case SizeClass::z: return std::min<std::uint8_t>(v, 4);
    case SizeClass::y: return wide ? 8 : 4;
    case SizeClass::v_d64: return long_mode && v == 4 ? 8 : v;
    case SizeClass::v_f64: return long_mode ? 8 : v;
    case SizeClass::y_f64: return long_mode ? 8 : 4;
  }
  return 4;
}

/// True if the form takes these: its prefix, W and o16/o32/o64 restrictions.
bool allowed(const FormPattern& pattern, const DecodeForm& form, CodeSize code_size, SizeChoice choice) {
  const bool long_mode = code_size == CodeSize::bits64;
  const bool vex = (form.flags & kCodingVex) != 0;
  if (choice.w && !vex && !long_mode) return false;
  if (!(pattern.w >> (choice.w ? 1 : 0) & 1)) return false;
  if (vex) return !choice.operand_prefix;
  const bool mandatory66 = pattern.prefix == 2;
  if (choice.operand_prefix && !mandatory66 && !(pattern.prefix & 0xE)) return false;
  if (mandatory66) return choice.operand_prefix;
  if (pattern.op_size == 7) return true;
  unsigned key = choice.w ? 2 : (code_size == CodeSize::bits16) != choice.operand_prefix ? 0 : 1;
  if (key == 1 && long_mode && (form.size_class == SizeClass::v_d64 || form.size_class == SizeClass::v_f64)) key = 2;
  return pattern.op_size >> key & 1;
}

bool signed_fits(std::uint64_t value, unsigned bytes) {
  const unsigned shift = 64 - 8 * bytes;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value << shift) >> shift) == value;
}

class Encoder {
 public:
  Encoder(const Insn& insn, CodeSize code_size)
      : insn_(insn),
        code_size_(code_size),
        long_(code_size == CodeSize::bits64),
        form_(kDecodeForms[insn.form]),
        pattern_(kFormPatterns[insn.form]) {}

  std::optional<EncodedInsn> run() {
    if (!exists(insn_.form, code_size_) || !choose_size() || !registers() || !address()) return std::nullopt;
    if (!prefixes()) return std::nullopt;
    opcode();
    if (form_.flags & kCodingModrm) tail(static_cast<std::uint8_t>(mod_ << 6 | reg_field() << 3 | rm_field()), 1);
    if (sib_) tail(*sib_, 1);
    if (disp_bytes_ != 0) tail(static_cast<std::uint32_t>(insn_.disp), disp_bytes_);
    immediates();
    if (overflow_ || !decodes_back()) return std::nullopt;
    return out_;
  }

 private:
  bool vex() const { return (form_.flags & kCodingVex) != 0; }
  bool uses_memory() const { return (form_.flags & kCodingModrm) && insn_.memory && !(form_.flags & kCodingModAny); }

  void tail(std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) {
      if (out_.length == out_.bytes.size()) {
        overflow_ = true;
        return;
      }
      out_.bytes[out_.length++] = static_cast<std::uint8_t>(value >> (8 * i));
    }
  }

  bool choose_size() {
    for (const bool prefix : {false, true}) {
      for (const bool w : {insn_.rex_w, !insn_.rex_w}) {
        const SizeChoice choice{prefix, w};
        if (!allowed(pattern_, form_, code_size_, choice)) continue;
        if (size_of(form_.size_class, code_size_, choice) != insn_.op_size) continue;
        size_ = choice;
        return true;
      }
    }
    return false;
  }

  /// Fills in REX.R, REX.B of register operands and the need of (or ban on) REX.
  bool registers() {
    const unsigned flags = form_.flags;
    if (flags & kCodingOpcodeRegister) {
      if (!take_register(insn_.reg, (flags & kCodingRegByte) != 0, true, 1)) return false;
    } else if ((flags & kCodingModrm) && std::popcount(pattern_.reg) != 1) {
      if (!take_register(insn_.reg, (flags & kCodingRegByte) != 0, (flags & kCodingRegExtends) != 0, 4)) return false;
    }
    if ((flags & kCodingModrm) && !uses_memory() && pattern_.rm == kAny8) {
      if (!take_register(insn_.rm, (flags & kCodingRmByte) != 0, (flags & kCodingRmExtends) != 0, 1)) return false;
    }
    return insn_.vvvv < (long_ ? 16 : 8);
  }

  bool take_register(std::uint8_t number, bool byte, bool extends, unsigned rex_bit) {
    if (number & kHighByte) {
      no_rex_ = true;
      return byte && (number & 0xF) < 4;
    }
    if (number >= (long_ && extends ? 16 : 8)) return false;
    if (number >= 8) rex_ |= rex_bit;
    if (byte && number >= 4 && number < 8) {
      if (!long_) return false;
      need_rex_ = true;
    }
    return true;
  }

  bool address() {
    if (!uses_memory()) {
      mod_ = 3;
      return !(form_.flags & kCodingModrm) || (form_.flags & kCodingModAny) || (pattern_.mod3 & 2);
    }
    if (!(pattern_.mod3 & 1)) return false;
    return insn_.addr_size == 2 ? address16() : address32();
  }

  bool address16() {
    constexpr std::uint8_t kBases[8] = {kRbx, kRbx, kRbp, kRbp, kRsi, kRdi, kRbp, kRbx};
    constexpr std::uint8_t kIndexes[8] = {kRsi, kRdi, kRsi, kRdi, kNoRegister, kNoRegister, kNoRegister, kNoRegister};
    if (!signed_fits(static_cast<std::uint64_t>(static_cast<std::int64_t>(insn_.disp)), 2)) return false;
    if (insn_.base == kNoRegister && insn_.index == kNoRegister) {
      rm_ = 6;
      disp_bytes_ = 2;
      return true;
    }
    for (std::uint8_t rm = 0; rm < 8; ++rm) {
      if (kBases[rm] != insn_.base || kIndexes[rm] != insn_.index) continue;
      rm_ = rm;
      choose_displacement(rm == 6, 2);
      return insn_.index == kNoRegister || insn_.scale == 0;
    }
    return false;
  }

  void choose_displacement(bool must, std::uint8_t wide) {
    if (insn_.disp == 0 && !must) return;
    const bool short_enough = insn_.disp >= -128 && insn_.disp <= 127;
    mod_ = short_enough ? 1 : 2;
    disp_bytes_ = short_enough ? 1 : wide;
  }

  bool address32() {
    const bool vsib = (form_.flags & kCodingVsib) != 0;
    if (insn_.base == kRipBase) {
      rm_ = 5;
      disp_bytes_ = 4;
      return long_ && insn_.index == kNoRegister && !vsib;
    }
    const unsigned limit = long_ ? 16 : 8;
    const bool has_base = insn_.base != kNoRegister;
    const bool has_index = insn_.index != kNoRegister;
    if ((has_base && insn_.base >= limit) || (has_index && insn_.index >= limit)) return false;
    if ((!has_index && vsib) || (insn_.index == kRsp && !vsib)) return false;
    if (has_base && insn_.base >= 8) rex_ |= 1;
    if (has_index && insn_.index >= 8) rex_ |= 2;
    if (!has_base && !has_index && !long_) {
      rm_ = 5;
      disp_bytes_ = 4;
      return true;
    }
    if (has_index || !has_base || (insn_.base & 7) == kRsp) {
      rm_ = 4;
      const unsigned index = has_index ? insn_.index & 7u : 4u;
      const unsigned base = has_base ? insn_.base & 7u : 5u;
      const unsigned scale = has_index ? insn_.scale & 3u : 0u;
      sib_ = static_cast<std::uint8_t>(scale << 6 | index << 3 | base);
    } else {
      rm_ = insn_.base & 7;
    }
    if (!has_base) {
      disp_bytes_ = 4;
      return true;
    }
    choose_displacement((insn_.base & 7) == kRbp, 4);
    return true;
  }

  bool prefixes() {
    if (insn_.lock) {
      if (vex()) return false;
      tail(0xF0, 1);
    }
    const unsigned default_address = code_size_ == CodeSize::bits16 ? 2 : long_ ? 8 : 4;
    if (insn_.addr_size != default_address) {
      if (insn_.addr_size != (default_address == 4 ? 2 : 4)) return false;
      tail(0x67, 1);
    }
    if (!(pattern_.addr_size & insn_.addr_size >> 1)) return false;
    if (!segment_prefix()) return false;
    if (vex()) return true;
    if (size_.operand_prefix) tail(0x66, 1);
    if (pattern_.prefix == 4 || (insn_.rep == RepPrefix::rep && (pattern_.prefix & 4)))
      tail(0xF3, 1);
    else if (pattern_.prefix == 8 || (insn_.rep == RepPrefix::repne && (pattern_.prefix & 8)))
      tail(0xF2, 1);
    else if (insn_.rep != RepPrefix::none)
      return false;
    const unsigned rex = rex_ | (size_.w && long_ ? 8u : 0u);
    if (rex != 0 || need_rex_) {
      if (no_rex_ || !long_) return false;
      tail(0x40 | rex, 1);
    }
    return true;
  }

  bool segment_prefix() {
    constexpr std::uint8_t kPrefixes[6] = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65};
    const bool stack = uses_memory() && (insn_.base == kRsp || insn_.base == kRbp);
    if (insn_.segment == (stack ? kSs : kDs)) return true;
    if (insn_.segment > kGs || (long_ && insn_.segment < kFs)) return false;
    tail(kPrefixes[insn_.segment], 1);
    return true;
  }

  void opcode() {
    const unsigned low = (form_.flags & kCodingOpcodeRegister) ? insn_.reg & 7u : 0u;
    if (vex()) {
      vex_prefix();
    } else if (pattern_.map != kMapOneByte) {
      tail(0x0F, 1);
      if (pattern_.map != kMap0F) tail(pattern_.map == kMap0F38 ? 0x38 : 0x3A, 1);
    }
    tail(pattern_.opcode | low, 1);
  }

  void vex_prefix() {
    const unsigned map = pattern_.map - kMapVex0F + 1u;
    const unsigned l = pattern_.l == kAny2 ? (insn_.vector_bytes == 32 ? 1u : 0u) : lowest(pattern_.l);
    const unsigned vvvv = (form_.flags & kCodingVvvv) ? insn_.vvvv : 0u;
    const unsigned last = (~vvvv & 15) << 3 | l << 2 | lowest(pattern_.prefix);
    if (map == 1 && !size_.w && !(rex_ & 3)) {
      tail(0xC5, 1);
      tail((rex_ & 4 ? 0u : 0x80u) | last, 1);
      return;
    }
    tail(0xC4, 1);
    tail((~rex_ & 7) << 5 | map, 1);
    tail((size_.w ? 0x80u : 0u) | last, 1);
  }

  unsigned reg_field() const { return std::popcount(pattern_.reg) == 1 ? lowest(pattern_.reg) : insn_.reg & 7u; }
  unsigned rm_field() const {
    if (uses_memory()) return rm_;
    return std::popcount(pattern_.rm) == 1 ? lowest(pattern_.rm) : insn_.rm & 7u;
  }

  void immediates() {
    switch (form_.imm) {
      case ImmKind::none: break;
      case ImmKind::ib:
      case ImmKind::ibs: tail(insn_.imm, 1); break;
      case ImmKind::iw: tail(insn_.imm, 2); break;
      case ImmKind::id: tail(insn_.imm, 4); break;
      case ImmKind::iz: tail(insn_.imm, insn_.op_size == 2 ? 2 : 4); break;
      case ImmKind::iv: tail(insn_.imm, insn_.op_size); break;
      case ImmKind::iq: tail(insn_.imm, 8); break;
      case ImmKind::moffs: tail(insn_.imm, insn_.addr_size); break;
      case ImmKind::ptr:
        tail(insn_.imm, insn_.op_size);
        tail(insn_.imm2, 2);
        break;
      case ImmKind::is4:  // Outside 64-bit mode the highest bit of the register is ignored: kept as it came.
        tail((insn_.imm2 & 15u) << 4 | (insn_.imm & (long_ ? 15u : 0x8Fu)), 1);
        break;
      case ImmKind::iw_ib:
      case ImmKind::ib_ib:
        tail(insn_.imm, form_.imm == ImmKind::iw_ib ? 2 : 1);
        tail(insn_.imm2, 1);
        break;
    }
  }

  /// A wished prefix or register can turn the bytes into another form, or be refused (LOCK).
  bool decodes_back() const {
    Insn back;
    return decode(out_.span(), code_size_, back) == DecodeStatus::ok && back.form == insn_.form &&
           back.length == out_.length && back.op_size == insn_.op_size;
  }

  const Insn& insn_;
  CodeSize code_size_;
  bool long_;
  const DecodeForm& form_;
  const FormPattern& pattern_;
  EncodedInsn out_;
  SizeChoice size_{};
  unsigned rex_ = 0;
  bool need_rex_ = false;
  bool no_rex_ = false;
  bool overflow_ = false;
  unsigned mod_ = 0;
  std::uint8_t rm_ = 0;
  std::uint8_t disp_bytes_ = 0;
  std::optional<std::uint8_t> sib_;
};

std::uint8_t possible_op_sizes(std::uint16_t form, CodeSize code_size) {
  std::uint8_t sizes = 0;
  for (const bool prefix : {false, true}) {
    for (const bool w : {false, true}) {
      if (!allowed(kFormPatterns[form], kDecodeForms[form], code_size, {prefix, w})) continue;
      sizes |= size_of(kDecodeForms[form].size_class, code_size, {prefix, w});
    }
  }
  return sizes;
}

}  // namespace

FormShape shape_of(std::uint16_t form, CodeSize code_size) {
  FormShape shape;
  if (!exists(form, code_size)) return shape;
  const DecodeForm& coding = kDecodeForms[form];
  const FormPattern& pattern = kFormPatterns[form];
  shape.modrm = (coding.flags & kCodingModrm) != 0;
  const bool mod_any = (coding.flags & kCodingModAny) != 0;
  shape.memory = shape.modrm && !mod_any && (pattern.mod3 & 1);
  shape.register_rm = shape.modrm && (mod_any || (pattern.mod3 & 2));
  shape.free_reg = (shape.modrm && std::popcount(pattern.reg) != 1) || (coding.flags & kCodingOpcodeRegister);
  shape.free_rm = shape.register_rm && std::popcount(pattern.rm) != 1;
  shape.vvvv = (coding.flags & kCodingVvvv) != 0;
  shape.vsib = (coding.flags & kCodingVsib) != 0;
  shape.op_sizes = possible_op_sizes(form, code_size);
  const unsigned in_mode = code_size == CodeSize::bits64 ? 12 : 6;
  shape.addr_sizes =
      static_cast<std::uint8_t>(in_mode & static_cast<unsigned>(pattern.addr_size) << 1 & (shape.vsib ? ~2u : ~0u));
  shape.vector_sizes = (coding.flags & kCodingVex) ? static_cast<std::uint8_t>(pattern.l << 4) : std::uint8_t{16};
  shape.exists = shape.op_sizes != 0 && shape.addr_sizes != 0;
  return shape;
}

std::optional<Insn> example(std::uint16_t form, CodeSize code_size) {
  const FormShape shape = shape_of(form, code_size);
  if (!shape.exists) return std::nullopt;
  const FormPattern& pattern = kFormPatterns[form];
  Insn insn;
  insn.form = form;
  const unsigned preferred = code_size == CodeSize::bits16 ? 2 : 4;
  insn.op_size = (shape.op_sizes & preferred) ? static_cast<std::uint8_t>(preferred)
                                              : static_cast<std::uint8_t>(1u << lowest(shape.op_sizes));
  const unsigned address = code_size == CodeSize::bits16 ? 2 : code_size == CodeSize::bits32 ? 4 : 8;
  insn.addr_size = (shape.addr_sizes & address) ? static_cast<std::uint8_t>(address)
                                                : static_cast<std::uint8_t>(1u << lowest(shape.addr_sizes));
  insn.vector_bytes = static_cast<std::uint8_t>(1u << lowest(shape.vector_sizes));
  insn.imm2 = kDecodeForms[form].imm2;
  insn.rex_w = pattern.w == 2;
  if (pattern.prefix == 4) insn.rep = RepPrefix::rep;
  if (pattern.prefix == 8) insn.rep = RepPrefix::repne;
  if (kDecodeForms[form].flags & kCodingVex) insn.rep = RepPrefix::none;
  if (shape.modrm || shape.free_reg)
    insn.reg = shape.free_reg ? std::uint8_t{3} : static_cast<std::uint8_t>(lowest(pattern.reg));
  if (shape.vvvv) insn.vvvv = shape.vsib ? 4 : 5;
  if (shape.register_rm) {
    insn.rm = shape.free_rm ? std::uint8_t{1} : static_cast<std::uint8_t>(lowest(pattern.rm));
  } else if (shape.memory) {
    insn.memory = true;
    insn.base = kRbx;
    if (shape.vsib) insn.index = 2;
  }
  if (kDecodeForms[form].imm == ImmKind::moffs) insn.memory = true;
  return insn;
}

std::optional<EncodedInsn> encode(const Insn& insn, CodeSize code_size) {
  if (insn.form >= forms().size()) return std::nullopt;
  return Encoder(insn, code_size).run();
}

}  // namespace husk::cpu
