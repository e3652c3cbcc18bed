// husk: what the software CPU derives from its control registers, code and stack segments and debug registers
#include "cpu/interp/core.h"
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

void Core::update_mmu_index() {
  if (cpl_ == 3) mmu_index_ = kMmuUser;
  else mmu_index_ = (s.cr4 & kCr4Smap) && (s.rflags & kAC) ? kMmuSupervisorAc : kMmuSupervisor;
}

void SystemOps::refresh_segment(Core& core, unsigned seg) {
  const CpuState& s = core.s;
  const Segment& segment = s.seg[seg];
  Core::FastSegment& fast = core.fast_[seg];
  // Alignment checks and watchpoints look at every access.
  const bool always_look = core.watch_active_ || (core.cpl_ == 3 && (s.cr0 & kCr0Am) && (s.rflags & kAC));
  if (core.code64()) {
    fast.base = seg >= kFs ? segment.base : 0;
    fast.read_end = fast.write_end = always_look ? 0 : ~std::uint64_t{0};
    return;
  }
  fast.base = segment.base;
  const std::uint64_t end = always_look ? 0 : std::uint64_t{segment.limit} + 1;
  if (!s.protected_mode() || s.v86()) {
    fast.read_end = fast.write_end = end;
  } else {
    const bool usable = segment.present() && !segment.expand_down();
    fast.read_end = usable && segment.readable() ? end : 0;
    fast.write_end = usable && segment.writable_data() ? end : 0;
  }
}

void Core::update_mode() {
  cpl_ = s.cpl();
  const bool flat = s.code64();
  code_size_ = flat ? CodeSize::bits64 : s.seg[kCs].big() && !s.v86() ? CodeSize::bits32 : CodeSize::bits16;
  stack_size_ = flat ? 8 : s.seg[kSs].big() && !s.v86() ? 4 : 2;
  stack_mask_ = flat ? ~std::uint64_t{0} : s.seg[kSs].big() && !s.v86() ? 0xFFFFFFFF : 0xFFFF;
  linear_mask_ = flat ? ~std::uint64_t{0} : 0xFFFFFFFF;
  update_mmu_index();

  for (unsigned i = 0; i < 6; ++i) SystemOps::refresh_segment(*this, i);
  update_block_key();
  leave_block_ = true;
}

void Core::update_debug() {
  bool watch = !debug.watchpoints.empty();
  for (unsigned i = 0; i < 4; ++i)
    if (bits(s.dr7, i * 2, 2) && (bits(s.dr7, 16 + i * 4, 2) & 1)) watch = true;
  const bool changed = watch != watch_active_;
  watch_active_ = watch;
  if (changed) update_mode();
  leave_block_ = true;
}

void Core::write_rflags(std::uint64_t value, std::uint64_t mask) {
  const std::uint64_t before = s.rflags;
  s.rflags = ((before & ~mask) | (value & mask) | kReservedOne) & 0x3F7FD7;
  const std::uint64_t changed = before ^ s.rflags;
  if (changed & kVM) update_mode();
  else if (changed & kAC) {
    if (s.cr0 & kCr0Am) update_mode();
    else update_mmu_index();
  }
  if (changed & (kIF | kTF | kAC | kVM | kRF | kVIF | kVIP)) leave_block_ = true;
}

}  // namespace husk::cpu::interp
