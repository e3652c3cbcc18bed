// husk: FXSAVE, FXRSTOR, the XSAVE family, XCR0 and MXCSR
#include <algorithm>

#include "cpu/interp/operands.h"
#include "cpu/interp/system_handlers.h"
#include "cpu/interp/system_ops.h"
#include "cpu/interp/x87.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

bool amd(const Core& core) { return core.model.vendor == "AuthenticAMD" || core.model.vendor == "HygonGenuine"; }
/// AMD stores FOP, FIP and FDP of a pending exception only, and zeros otherwise (APM vol. 5, FXSAVE; a Zen 4, which has
/// xsaveerptr, does so too). FNSTENV always tells them.
bool stores_pointers(const Core& core) { return !amd(core) || (core.s.x87.status & kX87ErrorSummary); }
/// AMD before xsaveerptr (CPUID 8000_0008:EBX[2], RstrFpErrPtrs) loads them under the same condition only.
bool loads_pointers(const Core& core) {
  return !amd(core) || core.model.has(Feature::xsaveerptr) || (core.s.x87.status & kX87ErrorSummary);
}
/// Writable bits of MXCSR: all of the lower half, and MM where the model has it (APM vol. 1, 4.2.2).
std::uint32_t mxcsr_mask(const Core& core) { return core.model.has(Feature::misalignsse) ? 0x2FFFF : 0xFFFF; }
constexpr std::uint32_t kMxcsrInit = 0x1F80;
constexpr unsigned kLegacySize = 512, kHeaderSize = 64, kAreaSize = 4096;
enum Component : unsigned { kX87 = 0, kSse = 1, kAvx = 2, kPkru = 9 };
constexpr std::uint64_t kX87Bit = 1, kSseBit = 2, kAvxBit = 4, kPkruBit = 1u << 9;
constexpr std::uint64_t kCompact = std::uint64_t{1} << 63;
/// Offsets into the legacy region (SDM vol. 1, table 10-2).
enum LegacyOffset : unsigned { kOffsetMxcsr = 24, kOffsetRegisters = 32, kOffsetXmm = 160, kOffsetBv = 512, kOffsetComp = 520 };

/// A saved area as it goes to or comes from memory.
using Area = std::array<std::uint8_t, kAreaSize>;

unsigned xmm_count(const Core& core) { return core.code64() ? 16 : 8; }

// ---- pieces of the area ----

void put_x87(const Core& core, bool wide, std::uint8_t* to) {
  const X87State& x = core.s.x87;
  std::uint8_t abridged = 0;
  for (unsigned i = 0; i < 8; ++i)
    if (((x.tag >> (i * 2)) & 3) != 3) abridged = static_cast<std::uint8_t>(abridged | (1u << i));
  store_le<std::uint16_t>(to, x.control);
  store_le<std::uint16_t>(to + 2, x.status);
  to[4] = abridged;
  to[5] = 0;
  const bool pointers = stores_pointers(core);
  store_le<std::uint16_t>(to + 6, pointers ? x.opcode : 0);
  if (!pointers) {
    std::fill_n(to + 8, kOffsetMxcsr - 8, std::uint8_t{0});
  } else if (wide) {
    store_le<std::uint64_t>(to + 8, x.ip);
    store_le<std::uint64_t>(to + 16, x.dp);
  } else {
    store_le<std::uint32_t>(to + 8, static_cast<std::uint32_t>(x.ip));
    store_le<std::uint32_t>(to + 12, x.ip_selector);
    store_le<std::uint32_t>(to + 16, static_cast<std::uint32_t>(x.dp));
    store_le<std::uint32_t>(to + 20, x.dp_selector);
  }
  const unsigned top = (x.status >> 11) & 7;
  for (unsigned i = 0; i < 8; ++i) {
    const F80Bits& r = x.registers[(top + i) & 7];
    std::uint8_t* const at = to + kOffsetRegisters + i * 16;
    store_le<std::uint64_t>(at, r.significand);
    store_le<std::uint64_t>(at + 8, r.sign_exponent);
  }
}

/// Two tag bits of a register that is not empty (SDM vol. 1, 8.1.7).
unsigned tag_of_value(const F80Bits& r) {
  const unsigned exponent = r.sign_exponent & 0x7FFF;
  if (exponent == 0) return r.significand == 0 ? 1 : 2;
  if (exponent == 0x7FFF || !(r.significand >> 63)) return 2;
  return 0;
}

void take_pointers(Core& core, bool wide, const std::uint8_t* from) {
  if (!loads_pointers(core)) return;
  X87State& x = core.s.x87;
  x.opcode = load_le<std::uint16_t>(from + 6) & 0x7FF;
  if (wide) {
    x.ip = load_le<std::uint64_t>(from + 8);
    x.dp = load_le<std::uint64_t>(from + 16);
    x.ip_selector = x.dp_selector = 0;
  } else {
    x.ip = load_le<std::uint32_t>(from + 8);
    x.ip_selector = load_le<std::uint16_t>(from + 12);
    x.dp = load_le<std::uint32_t>(from + 16);
    x.dp_selector = load_le<std::uint16_t>(from + 20);
  }
}

void take_x87(Core& core, bool wide, const std::uint8_t* from) {
  X87State& x = core.s.x87;
  const bool was_pending = x.status & kX87ErrorSummary;
  x.control = static_cast<std::uint16_t>((load_le<std::uint16_t>(from) & 0x1F7F) | 0x40);
  x.status = load_le<std::uint16_t>(from + 2);
  // ES and B follow from the exception flags and masks.
  const bool unmasked = x.status & ~x.control & 0x3F;
  x.status = static_cast<std::uint16_t>((x.status & ~0x8080) | (unmasked ? 0x8080 : 0));
  take_pointers(core, wide, from);
  if (was_pending && !unmasked) x87_error_cleared(core);
  const unsigned top = (x.status >> 11) & 7;
  x.tag = 0;
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned physical = (top + i) & 7;
    const std::uint8_t* const at = from + kOffsetRegisters + i * 16;
    x.registers[physical] = {load_le<std::uint64_t>(at), load_le<std::uint16_t>(at + 8)};
    const unsigned tag = bit(from[4], physical) ? tag_of_value(x.registers[physical]) : 3;
    x.tag = static_cast<std::uint16_t>(x.tag | (tag << (physical * 2)));
  }
}

void init_x87(Core& core) {
  if (core.s.x87.status & kX87ErrorSummary) x87_error_cleared(core);
  core.s.x87 = X87State{};
  core.s.x87.control = 0x37F;
  core.s.x87.tag = 0xFFFF;
}

void put_vector(const Core& core, unsigned offset, std::uint8_t* to) {
  for (unsigned i = 0; i < xmm_count(core); ++i) std::copy_n(core.s.vector[i].bytes.begin() + offset, 16, to + i * 16);
}
void take_vector(Core& core, unsigned offset, const std::uint8_t* from) {
  for (unsigned i = 0; i < xmm_count(core); ++i) {
    if (from) std::copy_n(from + i * 16, 16, core.s.vector[i].bytes.begin() + offset);
    else std::fill_n(core.s.vector[i].bytes.begin() + offset, 16, std::uint8_t{0});
  }
}
bool vector_in_use(const Core& core, unsigned offset) {
  for (const VectorRegister& r : std::span(core.s.vector).first(16))
    if (std::any_of(r.bytes.begin() + offset, r.bytes.begin() + offset + 16, [](std::uint8_t b) { return b != 0; })) return true;
  return false;
}
bool x87_in_use(const Core& core) {
  const X87State& x = core.s.x87;
  if (x.control != 0x37F || x.status || x.tag != 0xFFFF || x.opcode || x.ip || x.dp || x.ip_selector || x.dp_selector) return true;
  return std::any_of(x.registers.begin(), x.registers.end(), [](const F80Bits& r) { return !(r == F80Bits{}); });
}

/// XINUSE of SDM vol. 1, 13.6.
std::uint64_t in_use(const Core& core) {
  return (x87_in_use(core) ? kX87Bit : 0) | (vector_in_use(core, 0) ? kSseBit : 0) | (vector_in_use(core, 16) ? kAvxBit : 0) |
         (core.s.pkru ? kPkruBit : 0);
}

// ---- memory ----

bool aligned(Core& core, const Insn& insn, std::uint64_t ea, unsigned alignment) {
  const bool flat = core.code64() && insn.segment < kFs;
  if (((flat ? 0 : core.s.seg[insn.segment].base) + ea) % alignment == 0) return true;
  (void)core.raise_gp();
  return false;
}
bool write_part(Core& core, const Insn& insn, std::uint64_t ea, const Area& area, unsigned from, unsigned size) {
  unsigned done = 0;
  for (; size - done >= 64; done += 64) {
    std::array<std::uint8_t, 64> piece;
    std::copy_n(area.begin() + from + done, 64, piece.begin());
    if (!core.store(insn.segment, ea + from + done, piece)) return false;
  }
  for (; done < size; done += 8)
    if (!core.store(insn.segment, ea + from + done, load_le<std::uint64_t>(area.data() + from + done))) return false;
  return true;
}
bool read_part(Core& core, const Insn& insn, std::uint64_t ea, Area& area, unsigned from, unsigned size) {
  unsigned done = 0;
  for (; size - done >= 64; done += 64) {
    std::array<std::uint8_t, 64> piece;
    if (!core.load(insn.segment, ea + from + done, piece)) return false;
    std::copy_n(piece.begin(), 64, area.begin() + from + done);
  }
  for (; done < size; done += 8) {
    std::uint64_t value;
    if (!core.load(insn.segment, ea + from + done, value)) return false;
    store_le<std::uint64_t>(area.data() + from + done, value);
  }
  return true;
}
/// Whether all of [ea, ea+size) can be written, at most two pages of it; faults as the write would.
bool probe_write(Core& core, const Insn& insn, std::uint64_t ea, unsigned size) {
  for (unsigned done = 0; done < size; done += 64)
    if (!core.probe(insn.segment, ea + done, std::min(64u, size - done), AccessKind::write)) return false;
  return true;
}

// ---- FXSAVE, FXRSTOR ----

/// FFXSR (APM vol. 2, 11.4.4): ring 0 of 64-bit mode leaves the XMM registers out.
bool skips_xmm(const Core& core) { return (core.s.efer & kEferFfxsr) && core.code64() && core.cpl() == 0; }

Flow fxsave(Core& core, const Insn& insn) {
  const std::uint64_t ea = core.effective_address(insn);
  if (!aligned(core, insn, ea, 16)) return Flow::fault;
  Area area;
  put_x87(core, insn.rex_w, area.data());
  store_le<std::uint32_t>(area.data() + kOffsetMxcsr, core.s.mxcsr);
  store_le<std::uint32_t>(area.data() + kOffsetMxcsr + 4, mxcsr_mask(core));
  put_vector(core, 0, area.data() + kOffsetXmm);
  const unsigned size = kOffsetXmm + (skips_xmm(core) ? 0 : xmm_count(core) * 16);
  // All 512 bytes must be writable, though the last 48 are software's and stay.
  if (!probe_write(core, insn, ea, kLegacySize)) return Flow::fault;
  return write_part(core, insn, ea, area, 0, size) ? Flow::next : Flow::fault;
}

Flow fxrstor(Core& core, const Insn& insn) {
  const std::uint64_t ea = core.effective_address(insn);
  if (!aligned(core, insn, ea, 16)) return Flow::fault;
  Area area;
  if (!read_part(core, insn, ea, area, 0, kLegacySize)) return Flow::fault;
  const auto mxcsr = load_le<std::uint32_t>(area.data() + kOffsetMxcsr);
  if (mxcsr & ~mxcsr_mask(core)) return core.raise_gp();
  take_x87(core, insn.rex_w, area.data());
  core.s.mxcsr = mxcsr;
  if (!skips_xmm(core)) take_vector(core, 0, area.data() + kOffsetXmm);
  return Flow::next;
}

Flow ldmxcsr(Core& core, const Insn& insn) {
  std::uint32_t value;
  if (!core.load(insn.segment, core.effective_address(insn), value)) return Flow::fault;
  if (value & ~mxcsr_mask(core)) return core.raise_gp();
  core.s.mxcsr = value;
  return Flow::next;
}
Flow stmxcsr(Core& core, const Insn& insn) {
  return core.store(insn.segment, core.effective_address(insn), core.s.mxcsr) ? Flow::next : Flow::fault;
}

// ---- XSAVE family (SDM vol. 1, chapter 13) ----

/// #UD without CR4.OSXSAVE, #NM with CR0.TS, in that order.
bool available(Core& core) {
  if (!(core.s.cr4 & kCr4Osxsave)) return core.raise_ud(), false;
  if (core.s.cr0 & kCr0Ts) return core.raise(kNM), false;
  return true;
}
std::uint64_t requested(const Core& core) {
  return (core.s.gpr[kRdx] << 32) | static_cast<std::uint32_t>(core.s.gpr[kRax]);
}
/// Where component i lies. Compact: packed in order of the components in `layout`.
unsigned offset_of(unsigned index, bool compact, std::uint64_t layout) {
  if (!compact) return xsave_component(index)->offset;
  unsigned offset = kLegacySize + kHeaderSize;
  for (unsigned i = 2; i < index; ++i)
    if (bit(layout, i)) offset += xsave_component(i)->size;
  return offset;
}
constexpr std::uint64_t kComponents = kX87Bit | kSseBit | kAvxBit | kPkruBit;

void put_component(const Core& core, unsigned index, unsigned offset, bool wide, Area& area) {
  switch (index) {
    case kX87: put_x87(core, wide, area.data()); break;
    case kSse: put_vector(core, 0, area.data() + kOffsetXmm); break;
    case kAvx: put_vector(core, 16, area.data() + offset); break;
    default:
      store_le<std::uint64_t>(area.data() + offset, core.s.pkru);
      break;
  }
}
bool write_component(Core& core, const Insn& insn, std::uint64_t ea, unsigned index, unsigned offset, const Area& area) {
  switch (index) {
    case kX87:
      return write_part(core, insn, ea, area, 0, kOffsetMxcsr) && write_part(core, insn, ea, area, kOffsetRegisters, kOffsetXmm - kOffsetRegisters);
    case kSse: return write_part(core, insn, ea, area, kOffsetXmm, xmm_count(core) * 16);
    case kAvx: return write_part(core, insn, ea, area, offset, xmm_count(core) * 16);
    default: return write_part(core, insn, ea, area, offset, 8);
  }
}

struct SaveForm {
  bool optimise;    ///< components in their initial state are not written
  bool compact;     ///< XSAVEC, XSAVES
  bool supervisor;  ///< XSAVES
};

Flow save(Core& core, const Insn& insn, SaveForm form) {
  if (!available(core)) return Flow::fault;
  const CpuState& s = core.s;
  const std::uint64_t ea = core.effective_address(insn);
  if (!aligned(core, insn, ea, 64)) return Flow::fault;
  const std::uint64_t wanted = requested(core) & (s.xcr0 | (form.supervisor ? s.msr.xss : 0)) & kComponents;
  std::uint64_t used = in_use(core);
  // XSAVEC and XSAVES count MXCSR as part of the SSE state.
  if (form.compact && s.mxcsr != kMxcsrInit) used |= kSseBit;
  const std::uint64_t saved = form.optimise || form.compact ? wanted & used : wanted;

  Area area;
  std::array<unsigned, 16> offsets{};
  unsigned end = kLegacySize + kHeaderSize;
  for (unsigned i = 0; i < 16; ++i) {
    if (!bit(saved, i)) continue;
    offsets[i] = i < 2 ? 0 : offset_of(i, form.compact, wanted);
    put_component(core, i, offsets[i], insn.rex_w, area);
    if (i >= 2) end = std::max(end, offsets[i] + xsave_component(i)->size);
  }
  if (!probe_write(core, insn, ea, end)) return Flow::fault;
  std::uint64_t old_bv = 0;
  if (!form.compact && !core.load(insn.segment, ea + kOffsetBv, old_bv)) return Flow::fault;

  for (unsigned i = 0; i < 16; ++i)
    if (bit(saved, i) && !write_component(core, insn, ea, i, offsets[i], area)) return Flow::fault;
  const bool with_mxcsr = form.compact ? (saved & kSseBit) != 0 : (wanted & (kSseBit | kAvxBit)) != 0;
  if (with_mxcsr && (!core.store(insn.segment, ea + kOffsetMxcsr, s.mxcsr) || !core.store(insn.segment, ea + kOffsetMxcsr + 4, mxcsr_mask(core))))
    return Flow::fault;
  const std::uint64_t bv = form.compact ? saved : (old_bv & ~wanted) | (wanted & used);
  if (!core.store(insn.segment, ea + kOffsetBv, bv)) return Flow::fault;
  if (form.compact && !core.store(insn.segment, ea + kOffsetComp, wanted | kCompact)) return Flow::fault;
  return Flow::next;
}

Flow xsave(Core& core, const Insn& insn) { return save(core, insn, {.optimise = false, .compact = false, .supervisor = false}); }
Flow xsaveopt(Core& core, const Insn& insn) { return save(core, insn, {.optimise = true, .compact = false, .supervisor = false}); }
Flow xsavec(Core& core, const Insn& insn) { return save(core, insn, {.optimise = true, .compact = true, .supervisor = false}); }
Flow xsaves(Core& core, const Insn& insn) { return save(core, insn, {.optimise = true, .compact = true, .supervisor = true}); }

/// Header checks of XRSTOR and XRSTORS (SDM vol. 1, 13.8 and 13.12). False: #GP(0).
bool header_ok(const Core& core, const Area& area, bool supervisor) {
  const auto bv = load_le<std::uint64_t>(area.data() + kOffsetBv);
  const auto comp = load_le<std::uint64_t>(area.data() + kOffsetComp);
  const std::uint64_t enabled = core.s.xcr0 | (supervisor ? core.s.msr.xss : 0);
  const auto zero = [&](unsigned from, unsigned to) {
    return std::all_of(area.begin() + kOffsetBv + from, area.begin() + kOffsetBv + to, [](std::uint8_t b) { return b == 0; });
  };
  if (comp & kCompact) {
    if (!core.model.has(Feature::xsavec) && !supervisor) return false;
    return !(comp & ~kCompact & ~enabled) && !(bv & ~comp) && zero(16, 64);
  }
  return !supervisor && !(bv & ~enabled) && zero(8, 24);
}

Flow restore(Core& core, const Insn& insn, bool supervisor) {
  if (!available(core)) return Flow::fault;
  CpuState& s = core.s;
  const std::uint64_t ea = core.effective_address(insn);
  if (!aligned(core, insn, ea, 64)) return Flow::fault;
  Area area;
  if (!read_part(core, insn, ea, area, 0, kLegacySize + kHeaderSize)) return Flow::fault;
  if (!header_ok(core, area, supervisor)) return core.raise_gp();
  const auto bv = load_le<std::uint64_t>(area.data() + kOffsetBv);
  const auto comp = load_le<std::uint64_t>(area.data() + kOffsetComp);
  const bool compact = comp & kCompact;
  const std::uint64_t wanted = requested(core) & (s.xcr0 | (supervisor ? s.msr.xss : 0)) & kComponents;
  const std::uint64_t loaded = wanted & bv;
  std::array<unsigned, 16> offsets{};
  for (unsigned i = 2; i < 16; ++i) {
    if (!bit(loaded, i)) continue;
    offsets[i] = offset_of(i, compact, comp);
    if (!read_part(core, insn, ea, area, offsets[i], xsave_component(i)->size)) return Flow::fault;
  }
  // The standard form loads MXCSR whenever SSE or AVX are asked for; in the compact form it belongs to the SSE state.
  const bool with_mxcsr = compact ? (loaded & kSseBit) != 0 : (wanted & (kSseBit | kAvxBit)) != 0;
  const auto mxcsr = load_le<std::uint32_t>(area.data() + kOffsetMxcsr);
  if (with_mxcsr && (mxcsr & ~mxcsr_mask(core))) return core.raise_gp();

  if (with_mxcsr) s.mxcsr = mxcsr;
  else if (compact && (wanted & kSseBit)) s.mxcsr = kMxcsrInit;
  if (wanted & kX87Bit) {
    if (loaded & kX87Bit) take_x87(core, insn.rex_w, area.data());
    else init_x87(core);
  }
  if (wanted & kSseBit) take_vector(core, 0, loaded & kSseBit ? area.data() + kOffsetXmm : nullptr);
  if (wanted & kAvxBit) take_vector(core, 16, loaded & kAvxBit ? area.data() + offsets[kAvx] : nullptr);
  if (wanted & kPkruBit)
    SystemOps::set_pkru(core, loaded & kPkruBit ? load_le<std::uint32_t>(area.data() + offsets[kPkru]) : 0);
  return Flow::next;
}
Flow xrstor(Core& core, const Insn& insn) { return restore(core, insn, false); }
Flow xrstors(Core& core, const Insn& insn) { return restore(core, insn, true); }

Flow xgetbv(Core& core, const Insn&) {
  if (!(core.s.cr4 & kCr4Osxsave)) return core.raise_ud();
  std::uint64_t value;
  switch (static_cast<std::uint32_t>(core.s.gpr[kRcx])) {
    case 0: value = core.s.xcr0; break;
    case 1:
      if (!core.model.has(Feature::xgetbv1)) return core.raise_gp();
      value = core.s.xcr0 & in_use(core);
      break;
    default: return core.raise_gp();
  }
  core.s.gpr[kRax] = static_cast<std::uint32_t>(value);
  core.s.gpr[kRdx] = value >> 32;
  return Flow::next;
}

Flow xsetbv(Core& core, const Insn&) {
  if (!(core.s.cr4 & kCr4Osxsave)) return core.raise_ud();
  if (core.cpl() != 0 || static_cast<std::uint32_t>(core.s.gpr[kRcx]) != 0) return core.raise_gp();
  const std::uint64_t value = requested(core);
  if ((value & ~supported_xcr0(core.model)) || !(value & kX87Bit) || ((value & kAvxBit) && !(value & kSseBit))) return core.raise_gp();
  core.s.xcr0 = value;
  core.update_mode();
  return Flow::next;
}

}  // namespace

void bind_xsave(HandlerTable& t) {
  t.set(Sem::fxsave, fxsave);
  t.set(Sem::fxrstor, fxrstor);
  t.set(Sem::ldmxcsr, ldmxcsr);
  t.set(Sem::stmxcsr, stmxcsr);
  t.set(Sem::xsave, xsave);
  t.set(Sem::xsaveopt, xsaveopt);
  t.set(Sem::xsavec, xsavec);
  t.set(Sem::xsaves, xsaves);
  t.set(Sem::xrstor, xrstor);
  t.set(Sem::xrstors, xrstors);
  t.set(Sem::xgetbv, xgetbv);
  t.set(Sem::xsetbv, xsetbv);
}

}  // namespace husk::cpu::interp
