// husk: writes x86-64 machine code, byte by byte
#pragma once

#include <cstdint>
#include <cstring>

namespace husk::cpu::jit {

/// Host registers by their numbers in encodings.
enum HostReg : std::uint8_t {
  kHostRax,
  kHostRcx,
  kHostRdx,
  kHostRbx,
  kHostRsp,
  kHostRbp,
  kHostRsi,
  kHostRdi,
  kHostR8,
  kHostR9,
  kHostR10,
  kHostR11,
  kHostR12,
  kHostR13,
  kHostR14,
  kHostR15,
};

/// Condition codes as in the low four bits of Jcc (SDM vol. 2, appendix B.1).
enum HostCondition : std::uint8_t {
  kOverflow = 0,
  kBelow = 2,
  kAboveOrEqual = 3,
  kZero = 4,
  kNotZero = 5,
  kBelowOrEqual = 6,
  kAbove = 7,
  kNotNegative = 9
};

/// A [base + index << scale + disp] operand; without a base, disp is absolute and must be read through GS.
struct HostAddress {
  static constexpr std::uint8_t kNone = 0xFF;
  std::uint8_t base = kNone;
  std::uint8_t index = kNone;
  std::uint8_t scale = 0;
  std::int32_t disp = 0;
};
inline constexpr HostAddress kAtR10{kHostR10};

/// Appends instructions at `at`. The caller sees to the room: no instruction here is longer than 15 bytes. Code is
/// written through one mapping and runs from another: `to_run` is added to a written address to get the running one.
class Emitter {
 public:
  std::uint8_t* at = nullptr;

  void byte(unsigned value) { *at++ = static_cast<std::uint8_t>(value); }
  void word(std::uint16_t value) { put(value); }
  void dword(std::uint32_t value) { put(value); }
  void qword(std::uint64_t value) { put(value); }
  void bytes(const std::uint8_t* data, std::size_t count) {
    std::memcpy(at, data, count);
    at += count;
  }

  /// REX if any bit of it is wanted (`force` for the byte registers SPL to DIL), then opcode (one to three bytes, the
  /// first in the lowest bits).
  void rex_opcode(bool wide, unsigned reg, unsigned index, unsigned base, std::uint32_t opcode, bool force = false) {
    const unsigned rex = 0x40u | (wide ? 8u : 0u) | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
    if (rex != 0x40 || force) byte(rex);
    do {
      byte(opcode & 0xFF);
      opcode >>= 8;
    } while (opcode);
  }
  /// op reg, rm (or op rm, reg): register forms.
  void rr(std::uint32_t opcode, unsigned reg, unsigned rm, bool wide = true) {
    rex_opcode(wide, reg, 0, rm, opcode);
    byte(0xC0 | (reg & 7) << 3 | (rm & 7));
  }
  /// op reg, [memory] (or the reverse).
  void rm(std::uint32_t opcode, unsigned reg, const HostAddress& m, bool wide = true) {
    rex_opcode(wide, reg, m.index == HostAddress::kNone ? 0u : m.index, m.base == HostAddress::kNone ? 0u : m.base,
               opcode);
    modrm_memory(reg, m);
  }
  /// op reg, gs:[disp] (or the reverse), optionally indexed by a register.
  void gs(std::uint32_t opcode, unsigned reg, std::int32_t disp, bool wide = true,
          std::uint8_t base = HostAddress::kNone) {
    byte(0x65);
    rm(opcode, reg, {base, HostAddress::kNone, 0, disp}, wide);
  }
  void modrm_memory(unsigned reg, const HostAddress& m) {
    const unsigned r = (reg & 7) << 3;
    const bool has_index = m.index != HostAddress::kNone;
    if (m.base == HostAddress::kNone) {
      byte(0x04 | r);
      byte(has_index ? static_cast<unsigned>(m.scale << 6 | (m.index & 7) << 3 | 5) : 0x25u);
      dword(static_cast<std::uint32_t>(m.disp));
      return;
    }
    const bool needs_sib = has_index || (m.base & 7) == 4;
    const bool no_disp = m.disp == 0 && (m.base & 7) != 5;
    const bool short_disp = m.disp >= -128 && m.disp <= 127;
    const unsigned mod = no_disp ? 0u : short_disp ? 0x40u : 0x80u;
    byte(mod | r | (needs_sib ? 4u : m.base & 7u));
    if (needs_sib) byte(static_cast<unsigned>(m.scale << 6 | ((has_index ? m.index & 7 : 4) << 3) | (m.base & 7)));
    if (no_disp) return;
    if (short_disp)
      byte(static_cast<std::uint8_t>(m.disp));
    else
      dword(static_cast<std::uint32_t>(m.disp));
  }

  void mov(unsigned to, unsigned from, bool wide = true) { rr(0x8B, to, from, wide); }
  void load_gs(unsigned to, std::int32_t disp, bool wide = true) { gs(0x8B, to, disp, wide); }
  void store_gs(std::int32_t disp, unsigned from, bool wide = true) { gs(0x89, from, disp, wide); }
  void lea(unsigned to, const HostAddress& m, bool wide = true) { rm(0x8D, to, m, wide); }
  /// The shortest way to load a constant without touching flags.
  void mov_imm(unsigned to, std::uint64_t value) {
    if (value == static_cast<std::uint32_t>(value)) {
      rex_opcode(false, 0, 0, to, 0xB8 | (to & 7));
      dword(static_cast<std::uint32_t>(value));
    } else if (value == static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(value)))) {
      rex_opcode(true, 0, 0, to, 0xC7);
      byte(0xC0 | (to & 7));
      dword(static_cast<std::uint32_t>(value));
    } else {
      rex_opcode(true, 0, 0, to, 0xB8 | (to & 7));
      qword(value);
    }
  }
  /// Group 1 (ADD 0, OR 1, AND 4, SUB 5, XOR 6, CMP 7) with a sign-extended immediate.
  void alu_imm(unsigned operation, unsigned reg, std::int32_t value, bool wide = true) {
    const bool brief = value >= -128 && value <= 127;
    rex_opcode(wide, 0, 0, reg, brief ? 0x83 : 0x81);
    byte(0xC0 | operation << 3 | (reg & 7));
    if (brief)
      byte(static_cast<std::uint8_t>(value));
    else
      dword(static_cast<std::uint32_t>(value));
  }
  /// SHL 4, SHR 5, SAR 7 by a constant.
  void shift_imm(unsigned operation, unsigned reg, unsigned count, bool wide = true) {
    rex_opcode(wide, 0, 0, reg, 0xC1);
    byte(0xC0 | operation << 3 | (reg & 7));
    byte(count);
  }
  /// imul to, from, value
  void multiply_imm(unsigned to, unsigned from, std::int32_t value, bool wide = true) {
    rr(0x69, to, from, wide);
    dword(static_cast<std::uint32_t>(value));
  }
  void negate(unsigned reg, bool wide = true) { rr(0xF7, 3, reg, wide); }
  void cmov(unsigned condition, unsigned to, unsigned from, bool wide = true) {
    rr(0x400F | condition << 8, to, from, wide);
  }
  /// mov dword gs:[disp], value
  void set_gs_imm(std::int32_t disp, std::int32_t value) {
    gs(0xC7, 0, disp, false);
    dword(static_cast<std::uint32_t>(value));
  }
  /// sub dword gs:[disp], imm8
  void sub_gs_imm8(std::int32_t disp, std::int8_t value) {
    gs(0x83, 5, disp, false);
    byte(static_cast<std::uint8_t>(value));
  }
  void test_imm(unsigned reg, std::int32_t value, bool wide = true) {
    rex_opcode(wide, 0, 0, reg, 0xF7);
    byte(0xC0 | (reg & 7));
    dword(static_cast<std::uint32_t>(value));
  }
  /// cmp dword gs:[disp], imm8
  void cmp_gs_imm8(std::int32_t disp, std::int8_t value) {
    gs(0x83, 7, disp, false);
    byte(static_cast<std::uint8_t>(value));
  }
  /// cmp byte gs:[disp], imm8
  void cmp_gs_byte(std::int32_t disp, std::int8_t value) {
    gs(0x80, 7, disp, false);
    byte(static_cast<std::uint8_t>(value));
  }
  /// lea reg, [rip + target - next]
  void lea_rip(unsigned reg, const std::uint8_t* target) {
    rex_opcode(true, reg, 0, 0, 0x8D);
    byte(0x05 | (reg & 7) << 3);
    relative(target);
  }
  void push(unsigned reg) { rex_opcode(false, 0, 0, reg, 0x50 | (reg & 7)); }
  void pop(unsigned reg) { rex_opcode(false, 0, 0, reg, 0x58 | (reg & 7)); }
  void ret() { byte(0xC3); }
  void jmp_reg(unsigned reg) {
    rex_opcode(false, 0, 0, reg, 0xFF);
    byte(0xE0 | (reg & 7));
  }
  /// jmp (or call) to a written address in reach of 2 GiB.
  void jmp(const std::uint8_t* target) {
    byte(0xE9);
    relative(target);
  }
  void call(const std::uint8_t* target) {
    byte(0xE8);
    relative(target);
  }
  void jcc(unsigned condition, const std::uint8_t* target) {
    byte(0x0F);
    byte(0x80 | condition);
    relative(target);
  }
  /// A jump if RCX is not zero, which touches no flags (JRCXZ reaches 127 bytes only).
  void jmp_unless_rcx(const std::uint8_t* target) {
    byte(0xE3);
    byte(5);
    jmp(target);
  }
  /// Loads an address that set_address() tells later: its place.
  [[nodiscard]] std::uint8_t* mov_address_forward(unsigned to) {
    rex_opcode(true, 0, 0, to, 0xB8 | (to & 7));
    qword(0);
    return at - 8;
  }
  static void set_address(std::uint8_t* place, const std::uint8_t* address) {
    std::memcpy(place, &address, sizeof address);
  }
  /// Forward branches: the place of the 32-bit (8-bit) displacement, to be given to bind().
  [[nodiscard]] std::uint8_t* jcc_forward(unsigned condition) {
    byte(0x0F);
    byte(0x80 | condition);
    dword(0);
    return at - 4;
  }
  [[nodiscard]] std::uint8_t* jmp_forward() {
    byte(0xE9);
    dword(0);
    return at - 4;
  }
  [[nodiscard]] std::uint8_t* jcc_short(unsigned condition) {
    byte(0x70 | condition);
    byte(0);
    return at - 1;
  }
  [[nodiscard]] std::uint8_t* jrcxz_short() {
    byte(0xE3);
    byte(0);
    return at - 1;
  }
  void bind(std::uint8_t* place) { set_relative(place, at); }
  void bind_short(std::uint8_t* place) { *place = static_cast<std::uint8_t>(at - (place + 1)); }
  static void set_relative(std::uint8_t* place, const std::uint8_t* target) {
    const auto distance = static_cast<std::int32_t>(target - (place + 4));
    std::memcpy(place, &distance, 4);
  }

 private:
  template <class T>
  void put(T value) {
    std::memcpy(at, &value, sizeof value);
    at += sizeof value;
  }
  void relative(const std::uint8_t* target) {
    const auto distance = static_cast<std::int32_t>(target - (at + 4));
    dword(static_cast<std::uint32_t>(distance));
  }
};

}  // namespace husk::cpu::jit
