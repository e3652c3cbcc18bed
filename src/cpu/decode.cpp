// husk: the decoder: bytes to Insn by the trees generated from the instruction table
#include <algorithm>

#include "base/bits.h"
#include "cpu/coding.h"
#include "cpu/insn.h"

namespace husk::cpu {

namespace {

constexpr unsigned kMaxLength = 15;  // SDM vol. 3, 6.15, #GP: "exceeding the instruction length limit of 15 bytes"

enum class PrefixClass : std::uint8_t { none, operand_size, address_size, lock, repne, rep, segment, rex };

constexpr std::array<PrefixClass, 256> make_prefix_classes() {
  std::array<PrefixClass, 256> classes{};
  classes[0x66] = PrefixClass::operand_size;
  classes[0x67] = PrefixClass::address_size;
  classes[0xF0] = PrefixClass::lock;
  classes[0xF2] = PrefixClass::repne;
  classes[0xF3] = PrefixClass::rep;
  for (unsigned b : {0x26u, 0x2Eu, 0x36u, 0x3Eu, 0x64u, 0x65u}) classes[b] = PrefixClass::segment;
  for (unsigned b = 0x40; b < 0x50; ++b) classes[b] = PrefixClass::rex;
  return classes;
}
constexpr std::array<PrefixClass, 256> kPrefixClasses = make_prefix_classes();

constexpr std::uint8_t kNoSegment = 0xFF;

SegmentIndex segment_of_prefix(unsigned byte) {
  switch (byte) {
    case 0x26: return kEs;
    case 0x2E: return kCs;
    case 0x36: return kSs;
    case 0x3E: return kDs;
    case 0x64: return kFs;
    default: return kGs;
  }
}

/// 16-bit addressing forms (SDM vol. 2, table 2-1).
struct Address16 {
  std::uint8_t base, index;
  SegmentIndex segment;
};
constexpr Address16 kAddress16[8] = {
    {kRbx, kRsi, kDs},        {kRbx, kRdi, kDs},        {kRbp, kRsi, kSs},        {kRbp, kRdi, kSs},
    {kRsi, kNoRegister, kDs}, {kRdi, kNoRegister, kDs}, {kRbp, kNoRegister, kSs}, {kRbx, kNoRegister, kDs},
};

/// One decoding in progress.
class Decoder {
 public:
  Decoder(std::span<const std::uint8_t> bytes, CodeSize code_size, Insn& out)
      : bytes_(bytes.data()),
        limit_(static_cast<unsigned>(std::min<std::size_t>(bytes.size(), kMaxLength))),
        long_(code_size == CodeSize::bits64),
        insn_(out) {
    size_key_ = code_size == CodeSize::bits16 ? 0 : 1;
    address_key_ = static_cast<unsigned>(code_size);
  }

  DecodeStatus run() {
    insn_ = Insn{};
    if (!prefixes()) return overrun();
    std::uint16_t entry = 0;
    if (!opcode(entry)) return status_;
    if (entry == 0) return invalid();
    const bool has_modrm = (entry & kTreeNode) ? (kDecodeTree[entry & ~kTreeNode] & kTreeHasModrm) != 0
                                               : (kDecodeForms[entry - 1].flags & kCodingModrm) != 0;
    if (has_modrm) {
      if (pos_ >= limit_) return overrun();
      modrm_ = insn_.modrm = bytes_[pos_++];
    }
    while (entry & kTreeNode) {
      const std::uint16_t* node = &kDecodeTree[entry & ~kTreeNode];
      entry = node[1 + answer(static_cast<DecodeKey>(*node & 0xFF))];
    }
    if (entry == 0) return invalid();
    insn_.form = static_cast<std::uint16_t>(entry - 1);
    form_ = &kDecodeForms[insn_.form];
    return finish();
  }

 private:
  DecodeStatus invalid() {
    insn_.length = static_cast<std::uint8_t>(pos_);
    return DecodeStatus::invalid;
  }
  DecodeStatus overrun() {
    insn_.length = static_cast<std::uint8_t>(limit_);
    return limit_ == kMaxLength ? DecodeStatus::too_long : DecodeStatus::truncated;
  }
  bool fail(DecodeStatus status) {
    status_ = status;
    return false;
  }
  /// True if `count` more bytes are there.
  bool room(unsigned count) const { return limit_ - pos_ >= count; }

  bool prefixes() {
    for (; pos_ < limit_; ++pos_) {
      const std::uint8_t byte = bytes_[pos_];
      switch (kPrefixClasses[byte]) {
        case PrefixClass::none: return true;
        case PrefixClass::rex:
          if (!long_) return true;
          // Only the last one, directly before the opcode, counts (SDM vol. 2, 2.2.1).
          rex_ = byte;
          continue;
        case PrefixClass::operand_size: operand_prefix_ = true; break;
        case PrefixClass::address_size: address_prefix_ = true; break;
        case PrefixClass::lock: insn_.lock = true; break;
        case PrefixClass::repne: insn_.rep = RepPrefix::repne; break;
        case PrefixClass::rep: insn_.rep = RepPrefix::rep; break;
        case PrefixClass::segment:
          // In 64-bit mode CS, DS, ES and SS overrides are ignored (SDM vol. 1, 3.3.7.1), they do not even undo FS.
          if (!long_ || byte >= 0x64) segment_ = segment_of_prefix(byte);
          break;
      }
      rex_ = 0;
    }
    return false;
  }

  /// Reads the opcode (or a VEX prefix and it) and looks up its root. False: status_ says why.
  bool opcode(std::uint16_t& entry) {
    sizes();
    const OpcodeRoots& roots = kDecodeRoots[long_ ? 1 : 0];
    std::uint8_t byte = bytes_[pos_++];
    unsigned map = kMapOneByte;
    if (byte == 0x0F) {
      if (!room(1)) return fail(overrun());
      byte = bytes_[pos_++];
      map = kMap0F;
      if (byte == 0x38 || byte == 0x3A) {
        if (!room(1)) return fail(overrun());
        map = byte == 0x38 ? kMap0F38 : kMap0F3A;
        byte = bytes_[pos_++];
      }
    } else if ((byte & 0xFE) == 0xC4) {
      if (!room(1)) return fail(overrun());
      // Outside 64-bit mode these are LES and LDS, unless mod would be 3.
      if (long_ || bytes_[pos_] >= 0xC0) return vex(byte, entry);
    }
    opcode_ = byte;
    prefix_key_ = insn_.rep == RepPrefix::rep ? 2 : insn_.rep == RepPrefix::repne ? 3 : operand_prefix_ ? 1 : 0;
    w_key_ = rex_ >> 3 & 1;
    entry = roots[map][byte];
    return true;
  }

  /// SDM vol. 2, 2.3: VEX after 66, F2, F3, LOCK or REX is #UD.
  bool vex(std::uint8_t first, std::uint16_t& entry) {
    if (operand_prefix_ || insn_.rep != RepPrefix::none || insn_.lock || rex_ != 0) return fail(invalid());
    unsigned map = 1;
    std::uint8_t payload = bytes_[pos_++];
    // R, X and B are kept inverted; so is vvvv.
    rex_ = static_cast<std::uint8_t>(~payload >> 5 & 4);
    if (first == 0xC4) {
      rex_ = static_cast<std::uint8_t>(~payload >> 5 & 7);
      map = payload & 0x1F;
      if (!room(1)) return fail(overrun());
      payload = bytes_[pos_++];
      w_key_ = payload >> 7;
    }
    if (map < 1 || map > 3) return fail(invalid());
    if (!long_) rex_ = 0;
    vvvv_ = ~static_cast<unsigned>(payload) >> 3 & 15;
    l_key_ = payload >> 2 & 1;
    constexpr std::uint8_t kPrefixOfPp[4] = {0, 1, 2, 3};
    prefix_key_ = kPrefixOfPp[payload & 3];
    insn_.vector_bytes = l_key_ ? 32 : 16;
    insn_.rep = RepPrefix::none;
    if (!room(1)) return fail(overrun());
    opcode_ = bytes_[pos_++];
    entry = kDecodeRoots[long_ ? 1 : 0][kMapVex0F + map - 1][opcode_];
    return true;
  }

  /// Effective sizes as the prefixes alone make them: 0: 16, 1: 32, 2: 64 bits.
  void sizes() {
    if (operand_prefix_) size_key_ ^= 1;
    if (rex_ & 8) size_key_ = 2;
    if (address_prefix_) address_key_ = address_key_ == 1 ? 0 : 1;
    insn_.addr_size = static_cast<std::uint8_t>(2u << address_key_);
  }

  unsigned answer(DecodeKey key) const {
    switch (key) {
      case DecodeKey::mod3: return modrm_ >= 0xC0;
      case DecodeKey::reg: return modrm_ >> 3 & 7;
      case DecodeKey::prefix: return prefix_key_;
      case DecodeKey::l: return l_key_;
      case DecodeKey::w: return w_key_;
      case DecodeKey::op_size: return size_key_;
      case DecodeKey::addr_size: return address_key_;
      case DecodeKey::rex_b: return rex_ & 1;
      case DecodeKey::rm: return modrm_ & 7;
    }
    return 0;
  }

  DecodeStatus finish() {
    const unsigned flags = form_->flags;
    insn_.op_size = operand_size(form_->size_class);
    insn_.rex_w = w_key_ != 0;
    insn_.imm2 = form_->imm2;
    insn_.segment = segment_ == kNoSegment ? kDs : static_cast<SegmentIndex>(segment_);
    if (flags & kCodingModrm) {
      if (!registers_and_memory(flags)) return status_;
    } else if (flags & kCodingOpcodeRegister) {
      insn_.reg = byte_register((opcode_ & 7u) | (rex_ & 1u) << 3, (flags & kCodingRegByte) != 0);
    }
    // SDM vol. 2, LOCK: #UD unless the destination is memory and the instruction is one of the listed.
    if (insn_.lock && !((flags & kCodingLock) && insn_.memory)) return invalid();
    if (flags & kCodingVex) {
      if (flags & kCodingVvvv) {
        insn_.vvvv = static_cast<std::uint8_t>(long_ ? vvvv_ : vvvv_ & 7);
      } else if (vvvv_ != 0) {
        return invalid();
      }
    }
    if (form_->imm != ImmKind::none && !immediates()) return overrun();
    insn_.length = static_cast<std::uint8_t>(pos_);
    if (form_->check != RegisterCheck::none && !registers_exist()) return DecodeStatus::invalid;
    return DecodeStatus::ok;
  }

  std::uint8_t operand_size(SizeClass size_class) const {
    const bool wide = long_ && w_key_ != 0;
    const std::uint8_t by_prefixes = static_cast<std::uint8_t>(2u << size_key_);
    switch (size_class) {
      case SizeClass::byte: return 1;
      case SizeClass::four: return 4;
      case SizeClass::v: return by_prefixes;
      case SizeClass::z: return std::min<std::uint8_t>(by_prefixes, 4);
      case SizeClass::y: return wide ? 8 : 4;
      case SizeClass::v_d64: return long_ && by_prefixes == 4 ? 8 : by_prefixes;
      case SizeClass::v_f64: return long_ ? 8 : by_prefixes;
      case SizeClass::y_f64: return long_ ? 8 : 4;
    }
    return 4;
  }

  /// Without any REX (or in a form of no byte register) 4..7 are SPL..DI of the full set, else AH, CH, DH, BH.
  std::uint8_t byte_register(unsigned number, bool is_byte) const {
    if (is_byte && rex_ == 0 && number >= 4) return static_cast<std::uint8_t>(kHighByte | (number - 4));
    return static_cast<std::uint8_t>(number);
  }

  bool registers_and_memory(unsigned flags) {
    const unsigned reg = (modrm_ >> 3 & 7u) | ((flags & kCodingRegExtends) ? (rex_ & 4u) << 1 : 0);
    const unsigned rm = (modrm_ & 7u) | ((flags & kCodingRmExtends) ? (rex_ & 1u) << 3 : 0);
    insn_.reg = byte_register(reg, (flags & kCodingRegByte) != 0);
    insn_.rm = byte_register(rm, (flags & kCodingRmByte) != 0);
    if (modrm_ >= 0xC0 || (flags & kCodingModAny)) return true;
    insn_.memory = true;
    if (insn_.addr_size == 2) {
      // VSIB needs a SIB byte, which 16-bit addressing has not (SDM vol. 2, 2.3.12).
      return (flags & kCodingVsib) ? fail(invalid()) : address16();
    }
    return address(flags);
  }

  bool displacement(unsigned size) {
    if (!room(size)) return fail(overrun());
    if (size == 1)
      insn_.disp = static_cast<std::int8_t>(bytes_[pos_]);
    else if (size == 2)
      insn_.disp = static_cast<std::int16_t>(load_le<std::uint16_t>(bytes_ + pos_));
    else
      insn_.disp = static_cast<std::int32_t>(load_le<std::uint32_t>(bytes_ + pos_));
    pos_ += size;
    return true;
  }

  bool address16() {
    const unsigned mod = modrm_ >> 6;
    const unsigned rm = modrm_ & 7;
    if (mod == 0 && rm == 6) return displacement(2);
    insn_.base = kAddress16[rm].base;
    insn_.index = kAddress16[rm].index;
    if (segment_ == kNoSegment) insn_.segment = kAddress16[rm].segment;
    return mod == 0 || displacement(mod);
  }

  bool address(unsigned flags) {
    const unsigned mod = modrm_ >> 6;
    unsigned base = modrm_ & 7;
    if (base == 4) {
      if (!room(1)) return fail(overrun());
      const unsigned sib = bytes_[pos_++];
      const unsigned index = (sib >> 3 & 7) | (rex_ & 2u) << 2;
      if (index != 4 || (flags & kCodingVsib)) {
        insn_.index = static_cast<std::uint8_t>(index);
        insn_.scale = static_cast<std::uint8_t>(sib >> 6);
      }
      base = sib & 7;
      // Base 5 with mod 0 is a bare disp32; REX.B does not count in that test (SDM vol. 2, table 2-5).
      if (base == 5 && mod == 0) return displacement(4);
    } else if (flags & kCodingVsib) {
      return fail(invalid());
    } else if (base == 5 && mod == 0) {
      if (long_) insn_.base = kRipBase;
      return displacement(4);
    }
    insn_.base = static_cast<std::uint8_t>(base | (rex_ & 1u) << 3);
    if (segment_ == kNoSegment && (insn_.base == kRsp || insn_.base == kRbp)) insn_.segment = kSs;
    return mod == 0 || displacement(mod == 1 ? 1 : 4);
  }

  std::uint64_t take(unsigned size) {
    std::uint64_t value = 0;
    switch (size) {
      case 1: value = bytes_[pos_]; break;
      case 2: value = load_le<std::uint16_t>(bytes_ + pos_); break;
      case 4: value = load_le<std::uint32_t>(bytes_ + pos_); break;
      default: value = load_le<std::uint64_t>(bytes_ + pos_); break;
    }
    pos_ += size;
    return value;
  }
  bool unsigned_imm(unsigned size) {
    if (!room(size)) return false;
    insn_.imm = take(size);
    return true;
  }
  bool signed_imm(unsigned size) {
    if (!unsigned_imm(size)) return false;
    const unsigned shift = 64 - 8 * size;
    insn_.imm = static_cast<std::uint64_t>(static_cast<std::int64_t>(insn_.imm << shift) >> shift);
    return true;
  }

  bool immediates() {
    switch (form_->imm) {
      case ImmKind::none: return true;
      case ImmKind::ib: return unsigned_imm(1);
      case ImmKind::ibs: return signed_imm(1);
      case ImmKind::iw: return unsigned_imm(2);
      case ImmKind::id: return signed_imm(4);
      case ImmKind::iz: return signed_imm(insn_.op_size == 2 ? 2 : 4);
      case ImmKind::iv: return unsigned_imm(insn_.op_size);
      case ImmKind::iq: return unsigned_imm(8);
      case ImmKind::moffs: insn_.memory = true; return unsigned_imm(insn_.addr_size);
      case ImmKind::ptr:
        if (!unsigned_imm(insn_.op_size) || !room(2)) return false;
        insn_.imm2 = static_cast<std::uint16_t>(take(2));
        return true;
      case ImmKind::is4:
        if (!unsigned_imm(1)) return false;
        insn_.imm2 = static_cast<std::uint16_t>(insn_.imm >> 4 & (long_ ? 15 : 7));
        return true;
      case ImmKind::iw_ib:
      case ImmKind::ib_ib:
        if (!unsigned_imm(form_->imm == ImmKind::iw_ib ? 2 : 1) || !room(1)) return false;
        insn_.imm2 = static_cast<std::uint16_t>(take(1));
        return true;
    }
    return false;
  }

  bool registers_exist() const {
    switch (form_->check) {
      case RegisterCheck::none: return true;
      case RegisterCheck::creg: return insn_.reg < 16 && (0x11Du >> insn_.reg & 1) != 0;
      case RegisterCheck::dreg: return insn_.reg < 8;
      case RegisterCheck::sreg: return insn_.reg <= kGs;
      case RegisterCheck::sreg_not_cs: return insn_.reg <= kGs && insn_.reg != kCs;
      case RegisterCheck::gather:
        return insn_.reg != insn_.index && insn_.reg != insn_.vvvv && insn_.index != insn_.vvvv;
    }
    return true;
  }

  const std::uint8_t* bytes_;
  unsigned limit_;
  bool long_;
  Insn& insn_;
  unsigned pos_ = 0;
  bool operand_prefix_ = false;
  bool address_prefix_ = false;
  std::uint8_t rex_ = 0;  ///< with VEX: its R, X, B in the same places
  std::uint8_t segment_ = kNoSegment;
  std::uint8_t opcode_ = 0;
  std::uint8_t modrm_ = 0;
  unsigned size_key_ = 1;
  unsigned address_key_ = 1;
  unsigned prefix_key_ = 0;
  unsigned l_key_ = 0;
  unsigned w_key_ = 0;
  unsigned vvvv_ = 0;
  const DecodeForm* form_ = nullptr;
  DecodeStatus status_ = DecodeStatus::invalid;
};

}  // namespace

DecodeStatus decode(std::span<const std::uint8_t> bytes, CodeSize code_size, Insn& out) {
  return Decoder(bytes, code_size, out).run();
}

}  // namespace husk::cpu
