// husk: a decoded instruction, and the facts of the instruction table about its form
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "cpu/features.h"
#include "cpu/state.h"

namespace husk::cpu {

namespace interp {
class Core;
}
struct Insn;

/// What happened in a handler. `next`: go on behind the instruction. `jump`: rip was set by the handler, or something
/// changed that ends the block (mode, segment, TLB, IF). `fault`: Core::fault() holds the exception; no state changed.
/// `repeat`: a string instruction paused between iterations with its registers up to date; run it again.
enum class Flow : std::uint8_t { next, jump, fault, repeat };
using Handler = Flow (*)(interp::Core&, const Insn&);

/// Width of the code segment: decides default sizes and which forms exist.
enum class CodeSize : std::uint8_t { bits16, bits32, bits64 };

inline constexpr std::uint8_t kNoRegister = 0xFF;  ///< in base, index
inline constexpr std::uint8_t kRipBase = 0xFE;     ///< in base: RIP-relative, disp counts from the next instruction
inline constexpr std::uint8_t kHighByte = 0x10;    ///< flag in reg/rm of byte operands: AH CH DH BH are 10h|0..3

enum class RepPrefix : std::uint8_t { none, rep /* F3 */, repne /* F2 */ };

/// One instruction as decoded from bytes; meaning of fields depends on form->operands.
struct Insn {
  Handler handler = nullptr;   ///< set by the interpreter
  std::uint64_t imm = 0;       ///< immediate sign-extended as the form says, relative displacement, moffs, far offset
  std::int32_t disp = 0;       ///< memory displacement
  std::uint16_t form = 0;      ///< index into forms()
  std::uint16_t imm2 = 0;      ///< far selector; second immediate (ENTER, EXTRQ); condition of Jcc, SETcc, CMOVcc; number
                               ///< of the fixed segment register (PUSH ES, LDS); register of an is4 operand
  std::uint8_t length = 0;     ///< 1..15 bytes
  std::uint8_t op_size = 0;    ///< effective operand size in bytes: 1, 2, 4, 8 (1 for byte forms)
  std::uint8_t addr_size = 0;  ///< 2, 4, 8
  std::uint8_t reg = 0;        ///< ModRM.reg with REX.R/VEX.R, or register in the opcode with REX.B (operand Z)
  std::uint8_t rm = 0;         ///< ModRM.rm with REX.B if it names a register
  std::uint8_t vvvv = 0;       ///< VEX.vvvv
  std::uint8_t base = kNoRegister, index = kNoRegister, scale = 0;  ///< memory operand; scale is a shift 0..3
  SegmentIndex segment = kDs;  ///< effective segment of the memory operand, defaults and overrides applied
  RepPrefix rep = RepPrefix::none;
  std::uint8_t vector_bytes = 16;  ///< 16 or 32 (VEX.L)
  bool memory = false;             ///< the ModRM (or moffs) operand is memory
  bool lock = false;
  bool rex_w = false;  ///< REX.W or VEX.W
  std::uint8_t modrm = 0;  ///< as read, 0 without one; the x87 records it in FOP
};

/// Operand kinds, after the letters of SDM vol. 2 appendix A.2 (see README.md of this folder).
enum class OperandKind : std::uint8_t {
  none, gpr_rm /*E*/, gpr_reg /*G*/, gpr_rm_only /*R*/, mem /*M*/, gpr_vvvv /*B*/, gpr_opcode /*Z*/, imm /*I*/,
  rel /*J*/, moffs /*O*/, far_ptr /*A*/, sreg /*S*/, creg /*C*/, dreg /*D*/, vec_reg /*V*/, vec_rm /*W*/,
  vec_rm_only /*U*/, vec_vvvv /*H*/, vec_is4 /*L*/, mmx_reg /*P*/, mmx_rm /*Q*/, mmx_rm_only /*N*/, string_src /*X*/,
  string_dst /*Y*/, st0, sti, fixed_gpr, fixed_sreg, fixed_xmm0, const_one,
};
/// Operand sizes: b 1, w 2, d 4, q 8, v by operand size, z 2 or 4, y 4 or 8, x vector length, dq 16, qq 32, t 10
/// (x87), p far pointer, s descriptor-table register image, a two of z (BOUND), any: address only.
enum class OperandSize : std::uint8_t { none, b, w, d, q, v, z, y, x, dq, qq, t, p, s, a, any, fpu_env, fpu_state, fxsave, xsave };
struct Operand {
  OperandKind kind = OperandKind::none;
  OperandSize size = OperandSize::none;
  bool read = false, written = false;
  std::uint8_t fixed = 0;  ///< register number of fixed_gpr, fixed_sreg
};

/// Semantic ids: the distinct names of the table's semantics column, generated (cpu/sem.h).
enum class Sem : std::uint16_t;

enum FormAttribute : std::uint32_t {
  kAttrLock = 1u << 0,        ///< LOCK allowed (memory destination)
  kAttrRep = 1u << 1,         ///< REP repeats it
  kAttrRepCond = 1u << 2,     ///< REPE/REPNE
  kAttrNo64 = 1u << 3,        ///< #UD in 64-bit mode
  kAttrOnly64 = 1u << 4,      ///< exists only in 64-bit mode
  kAttrCpl0 = 1u << 5,        ///< #GP(0) outside ring 0
  kAttrIopl = 1u << 6,        ///< sensitive to IOPL or the I/O bitmap
  kAttrAligned = 1u << 7,     ///< memory operand of 16 bytes or more must be aligned
  kAttrEndsBlock = 1u << 8,   ///< control transfer, or changes what later instructions mean
  kAttrNoReal = 1u << 9,      ///< #UD in real and V86 mode
  kAttrFpu = 1u << 10,        ///< x87: CR0.EM/TS, pending exceptions
  kAttrMmx = 1u << 11,
  kAttrSse = 1u << 12,        ///< CR0.EM/TS, CR4.OSFXSR
  kAttrAvx = 1u << 13,        ///< CR4.OSXSAVE, XCR0[2:1], CR0.TS
  kAttrSimdFp = 1u << 14,     ///< may raise SIMD floating-point exceptions
  kAttrUndefResult = 1u << 15,///< destination undefined in some cases (BSF of 0); the tests know
  kAttrSystem = 1u << 16,     ///< cannot run in an ordinary process: not compared with the host
  kAttrFpuControl = 1u << 17, ///< x87 that does not check for pending exceptions
  kAttrOwnFeature = 1u << 18, ///< the handler looks at the feature itself (TZCNT without BMI1 is BSF)
};

/// One line of the table.
struct Form {
  std::string_view mnemonic;   ///< upper case, as the manuals
  std::string_view encoding;   ///< as written in the table
  Operand operands[5];
  Sem sem;
  Feature feature;
  std::uint16_t flags_read, flags_written, flags_undefined;  ///< bits of the low 16 RFLAGS (CF PF AF ZF SF TF IF DF OF)
  std::uint16_t flags_cleared, flags_set;                    ///< constant results, also in flags_written
  std::uint32_t attributes;
};
std::span<const Form> forms();
std::string_view sem_name(Sem sem);
std::size_t sem_count();

enum class DecodeStatus : std::uint8_t {
  ok,
  invalid,    ///< no such instruction: #UD
  truncated,  ///< more bytes are needed
  too_long,   ///< over 15 bytes: #GP(0)
};
/// Decodes the instruction at the start of `bytes` (1 to 15 of them are looked at). Features are not checked here.
/// On `invalid`, out.length is the number of bytes that were enough to see it.
DecodeStatus decode(std::span<const std::uint8_t> bytes, CodeSize code_size, Insn& out);

}  // namespace husk::cpu
