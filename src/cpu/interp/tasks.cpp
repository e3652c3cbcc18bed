// husk: task switches through TSS descriptors and task gates (SDM vol. 3, chapter 8)
#include "cpu/interp/svm.h"
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kDr6Bt = 1u << 15;
constexpr std::uint64_t kDr7Local = 0x155;  // L0..L3 and LE: cleared by every task switch
constexpr unsigned kTss32Size = 104, kTss16Size = 44;
/// In the order in which a TSS holds them.
constexpr unsigned kTssSegments[] = {kEs, kCs, kSs, kDs, kFs, kGs};

/// The dynamic part of a TSS (SDM vol. 3, figures 8-2 and 8-10).
struct TaskImage {
  std::uint64_t cr3 = 0;
  std::uint64_t eip = 0;
  std::uint64_t eflags = 0;
  std::array<std::uint32_t, 8> gpr{};
  std::array<std::uint16_t, 6> seg{};  ///< in the order of kTssSegments
  std::uint16_t ldt = 0;
  bool trap = false;
};

bool probe_pages(Core& core, std::uint64_t linear, unsigned size, AccessKind kind) {
  Translation unused;
  const std::uint64_t last = static_cast<std::uint32_t>(linear + size - 1);
  return core.translate(linear, kind, false, unused) &&
         ((last >> 12) == (linear >> 12) || core.translate(last & ~std::uint64_t{0xFFF}, kind, false, unused));
}

bool load_image(Core& core, std::uint64_t base, bool wide, TaskImage& image) {
  std::uint8_t raw[kTss32Size];
  // Two pages at most have been probed; pieces of 64 bytes are what one access may have.
  const unsigned size = wide ? kTss32Size : kTss16Size;
  for (unsigned done = 0; done < size; done += 4)
    if (!core.access_linear(base + done, raw + done, 4, AccessKind::read, false)) return false;
  if (wide) {
    image.cr3 = load_le<std::uint32_t>(raw + 28);
    image.eip = load_le<std::uint32_t>(raw + 32);
    image.eflags = load_le<std::uint32_t>(raw + 36);
    for (unsigned i = 0; i < 8; ++i) image.gpr[i] = load_le<std::uint32_t>(raw + 40 + i * 4);
    for (unsigned i = 0; i < 6; ++i) image.seg[i] = load_le<std::uint16_t>(raw + 72 + i * 4);
    image.ldt = load_le<std::uint16_t>(raw + 96);
    image.trap = raw[100] & 1;
  } else {
    image.eip = load_le<std::uint16_t>(raw + 14);
    image.eflags = load_le<std::uint16_t>(raw + 16);
    for (unsigned i = 0; i < 8; ++i) image.gpr[i] = load_le<std::uint16_t>(raw + 18 + i * 2);
    for (unsigned i = 0; i < 4; ++i) image.seg[i] = load_le<std::uint16_t>(raw + 34 + i * 2);
    image.ldt = load_le<std::uint16_t>(raw + 42);
  }
  return true;
}

bool save_image(Core& core, std::uint64_t next_rip, std::uint64_t rflags) {
  const CpuState& s = core.s;
  const std::uint64_t base = s.tr.base;
  if (s.tr.type() & 8) {
    bool ok = core.store_system(base + 32, static_cast<std::uint32_t>(next_rip)) &&
              core.store_system(base + 36, static_cast<std::uint32_t>(rflags));
    for (unsigned i = 0; ok && i < 8; ++i) ok = core.store_system(base + 40 + i * 4, static_cast<std::uint32_t>(s.gpr[i]));
    for (unsigned i = 0; ok && i < 6; ++i) ok = core.store_system(base + 72 + i * 4, s.seg[kTssSegments[i]].selector);
    return ok;
  }
  bool ok = core.store_system(base + 14, static_cast<std::uint16_t>(next_rip)) &&
            core.store_system(base + 16, static_cast<std::uint16_t>(rflags));
  for (unsigned i = 0; ok && i < 8; ++i) ok = core.store_system(base + 18 + i * 2, static_cast<std::uint16_t>(s.gpr[i]));
  for (unsigned i = 0; ok && i < 4; ++i) ok = core.store_system(base + 34 + i * 2, s.seg[kTssSegments[i]].selector);
  return ok;
}

/// Selector checks of the new task's segments; errors are those of the new task's context.
struct TaskLoader {
  Core& core;
  bool ext;

  bool fail(std::uint8_t vector, std::uint16_t selector) {
    (void)core.raise(vector, selector_error(selector, ext));
    return false;
  }
  bool ldt(std::uint16_t selector) {
    CpuState& s = core.s;
    s.ldtr = {.selector = selector, .attributes = 0, .limit = 0, .base = 0};
    if (null_selector(selector)) return true;
    Descriptor d;
    if (selector & 4) return fail(kTS, selector);
    if (!SystemOps::read_descriptor(core, selector, kTS, ext, d)) return false;
    if (d.code_or_data() || d.type() != kLdt || !d.present()) return fail(kTS, selector);
    s.ldtr = d.segment(selector);
    return true;
  }
  bool code(std::uint16_t selector) {
    Descriptor d;
    if (null_selector(selector)) return fail(kTS, selector);
    if (!SystemOps::read_descriptor(core, selector, kTS, ext, d)) return false;
    const unsigned rpl = selector & 3;
    if (!d.is_code() || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) return fail(kTS, selector);
    if (!d.present()) return fail(kNP, selector);
    if (!SystemOps::set_accessed(core, d)) return false;
    core.s.seg[kCs] = d.segment(selector);
    return true;
  }
  bool stack(std::uint16_t selector, unsigned cpl) {
    Descriptor d;
    if (null_selector(selector)) return fail(kTS, selector);
    if (!SystemOps::read_descriptor(core, selector, kTS, ext, d)) return false;
    if ((selector & 3u) != cpl || d.dpl() != cpl || !d.writable_data()) return fail(kTS, selector);
    if (!d.present()) return fail(kSS_, selector);
    if (!SystemOps::set_accessed(core, d)) return false;
    core.s.seg[kSs] = d.segment(selector);
    return true;
  }
  bool data(unsigned seg, std::uint16_t selector, unsigned cpl) {
    if (null_selector(selector)) {
      SystemOps::load_null(core, seg, selector);
      return true;
    }
    Descriptor d;
    if (!SystemOps::read_descriptor(core, selector, kTS, ext, d)) return false;
    if (!d.readable() || (!d.conforming() && (d.dpl() < cpl || d.dpl() < (selector & 3u)))) return fail(kTS, selector);
    if (!d.present()) return fail(kNP, selector);
    if (!SystemOps::set_accessed(core, d)) return false;
    core.s.seg[seg] = d.segment(selector);
    return true;
  }
};

}  // namespace

Flow SystemOps::task_gate(Core& core, const Descriptor& gate, std::uint16_t gate_selector, TaskSource source, std::uint64_t next_rip) {
  const std::uint32_t error = selector_error(gate_selector);
  if (gate.dpl() < core.cpl_ || gate.dpl() < (gate_selector & 3u)) return core.raise(kGP, error);
  if (!gate.present()) return core.raise(kNP, error);
  return task_switch(core, gate.gate_selector(), source, next_rip, false, std::nullopt, core.s.rflags);
}

Flow SystemOps::task_switch(Core& core, std::uint16_t selector, TaskSource source, std::uint64_t next_rip, bool external,
                            std::optional<std::uint32_t> error, std::uint64_t rflags_image) {
  CpuState& s = core.s;
  // A wrong back link is the fault of the TSS that holds it.
  const std::uint8_t vector = source == TaskSource::iret ? kTS : kGP;
  if (core.intercepts(kExitTaskSwitch)) {
    // APM vol. 2, 15.14.1. The state is still that of the old task.
    std::uint64_t info = error ? *error | std::uint64_t{1} << 44 : 0;
    if (source == TaskSource::iret) info |= std::uint64_t{1} << 36;
    if (source == TaskSource::jump) info |= std::uint64_t{1} << 38;
    if (rflags_image & kRF) info |= std::uint64_t{1} << 48;
    return core.vm_exit(kExitTaskSwitch, selector, info, source == TaskSource::gate ? 0 : next_rip);
  }
  const std::uint32_t selector_code = selector_error(selector, external);
  if ((selector & 4) || null_selector(selector)) return core.raise(vector, selector_code);
  Descriptor d;
  if (!read_descriptor(core, selector, vector, external, d)) return Flow::fault;
  const bool wide = d.type() & 8;
  const unsigned wanted = (wide ? 9u : 1u) | (source == TaskSource::iret ? 2u : 0u);  // available, or busy for IRET
  if (d.code_or_data() || d.type() != wanted) return core.raise(vector, selector_code);
  if (!d.present()) return core.raise(kNP, selector_code);
  if (d.limit() < (wide ? kTss32Size - 1 : kTss16Size - 1)) return core.raise(kTS, selector_code);
  const bool old_wide = s.tr.type() & 8;
  if (s.tr.limit < (old_wide ? 95u : 41u)) return core.raise(kTS, selector_error(s.tr.selector, external));

  // All that the switch reads and writes must be mapped before the old task is left.
  const bool nested = source == TaskSource::call || source == TaskSource::gate;
  if (!probe_pages(core, s.tr.base, old_wide ? 96 : 42, AccessKind::write) ||
      !probe_pages(core, d.base(), wide ? kTss32Size : kTss16Size, nested ? AccessKind::write : AccessKind::read))
    return Flow::fault;
  Descriptor old;
  const bool clears_busy = source == TaskSource::jump || source == TaskSource::iret;
  if (clears_busy && (!read_descriptor(core, s.tr.selector, kTS, external, old) || !probe_pages(core, old.address, 8, AccessKind::write)))
    return Flow::fault;
  TaskImage image;
  if (!load_image(core, d.base(), wide, image)) return Flow::fault;

  if (source == TaskSource::iret) rflags_image &= ~std::uint64_t{kNT};
  if (!save_image(core, next_rip, rflags_image)) return Flow::fault;
  if (clears_busy && !set_tss_busy(core, old, false)) return Flow::fault;
  if (nested && !core.store_system(d.base(), s.tr.selector)) return Flow::fault;
  if (source != TaskSource::iret && !set_tss_busy(core, d, true)) return Flow::fault;

  // From here on faults belong to the new task.
  s.tr = d.segment(selector);
  s.cr0 |= kCr0Ts;
  s.dr7 &= ~kDr7Local;
  if (wide && (s.cr0 & kCr0Pg)) {
    s.cr3 = image.cr3;
    forget_space(core, (s.cr4 & kCr4Pcide) ? static_cast<unsigned>(s.cr3 & 0xFFF) : 0);
    if ((s.cr4 & kCr4Pae) && !load_pdptes(core, s.cr3)) return Flow::fault;
  }
  const std::uint64_t new_flags = image.eflags | (nested ? std::uint64_t{kNT} : 0);
  s.rflags = (wide ? new_flags & 0x3F7FD5 : new_flags & 0x7FD5) | kReservedOne;
  s.rip = image.eip;
  for (unsigned i = 0; i < 8; ++i) s.gpr[i] = image.gpr[i];
  const bool v86 = s.rflags & kVM;
  const unsigned cpl = v86 ? 3 : image.seg[1] & 3;
  for (unsigned i = 0; i < 6; ++i) {
    // Until a descriptor is accepted the register holds its selector and cannot be used.
    const unsigned seg = kTssSegments[i];
    if (v86) s.seg[seg] = real_segment(core, seg, image.seg[i]);
    else s.seg[seg] = {.selector = image.seg[i], .attributes = static_cast<std::uint16_t>(seg == kSs ? cpl << 5 : 0), .limit = 0, .base = 0};
  }
  core.update_debug();
  core.update_mode();
  TaskLoader loader{core, external};
  bool ok = loader.ldt(image.ldt);
  if (ok && !v86) {
    ok = loader.code(image.seg[1]) && loader.stack(image.seg[2], cpl) && loader.data(kEs, image.seg[0], cpl) &&
         loader.data(kDs, image.seg[3], cpl) && loader.data(kFs, image.seg[4], cpl) && loader.data(kGs, image.seg[5], cpl);
  }
  core.update_mode();
  if (!ok) return Flow::fault;
  if (error) {
    StackCursor stack = current_stack(core);
    stack.error = external ? 1 : 0;
    if (!push(core, stack, wide ? 4 : 2, *error)) return Flow::fault;
    commit_stack(core, stack);
  }
  if (s.rip > s.seg[kCs].limit) return core.raise(kGP, external ? 1 : 0);
  if (image.trap) core.note_debug_trap(kDr6Bt);
  return Flow::jump;
}

}  // namespace husk::cpu::interp
