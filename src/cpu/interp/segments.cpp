// husk: descriptors and loads of segment registers
#include "cpu/interp/system_ops.h"

namespace husk::cpu::interp {

namespace {

constexpr std::uint64_t kAccessedBit = std::uint64_t{1} << 40;
constexpr std::uint64_t kBusyBit = std::uint64_t{1} << 41;

/// Linear address of a descriptor, or nothing if the selector lies beyond its table.
std::optional<std::uint64_t> descriptor_address(const CpuState& s, std::uint16_t selector, unsigned size) {
  std::uint64_t base = s.gdtr.base;
  std::uint64_t limit = s.gdtr.limit;
  if (selector & 4) {
    if (null_selector(s.ldtr.selector) || !s.ldtr.present()) return std::nullopt;
    base = s.ldtr.base;
    limit = s.ldtr.limit;
  }
  const std::uint64_t offset = selector & 0xFFF8u;
  if (offset + size - 1 > limit) return std::nullopt;
  const std::uint64_t address = base + offset;
  return s.long_mode_active() ? address : static_cast<std::uint32_t>(address);
}

}  // namespace

bool SystemOps::find_descriptor(Core& core, std::uint16_t selector, Descriptor& out, bool& found) {
  found = false;
  if (null_selector(selector)) return true;
  const auto address = descriptor_address(core.s, selector, 8);
  if (!address) return true;
  if (!core.load_system(*address, out.low)) return false;
  out.high = 0;
  out.address = *address;
  found = true;
  return true;
}

bool SystemOps::read_descriptor(Core& core, std::uint16_t selector, std::uint8_t vector, bool external, Descriptor& out) {
  const auto address = descriptor_address(core.s, selector, 8);
  if (!address) {
    (void)core.raise(vector, selector_error(selector, external));
    return false;
  }
  out.high = 0;
  out.address = *address;
  return core.load_system(*address, out.low);
}

bool SystemOps::read_descriptor_high(Core& core, std::uint16_t selector, std::uint8_t vector, bool external, Descriptor& d) {
  if (!core.s.long_mode_active()) return true;
  const auto address = descriptor_address(core.s, selector, 16);
  if (!address) {
    (void)core.raise(vector, selector_error(selector, external));
    return false;
  }
  if (!core.load_system(*address + 8, d.high)) return false;
  if (bits(d.high, 40, 5) != 0) {
    (void)core.raise(vector, selector_error(selector, external));
    return false;
  }
  return true;
}

bool SystemOps::set_accessed(Core& core, Descriptor& d) {
  if (d.low & kAccessedBit) return true;
  d.low |= kAccessedBit;
  return core.store_system(d.address + 5, static_cast<std::uint8_t>(d.low >> 40));
}

bool SystemOps::set_tss_busy(Core& core, Descriptor& d, bool busy) {
  d.low = busy ? d.low | kBusyBit : d.low & ~kBusyBit;
  return core.store_system(d.address + 5, static_cast<std::uint8_t>(d.low >> 40));
}

Segment SystemOps::real_segment(const Core& core, unsigned seg, std::uint16_t selector) {
  Segment segment = core.s.seg[seg];
  segment.selector = selector;
  segment.base = std::uint64_t{selector} << 4;
  if (core.s.v86()) {
    segment.limit = 0xFFFF;
    segment.attributes = 0xF3;
  }
  // In real mode limit and attributes stay: a limit of 4 GiB left from protected mode ("unreal mode") keeps working.
  return segment;
}

void SystemOps::load_null(Core& core, unsigned seg, std::uint16_t selector) {
  // The base is cleared, as Intel's and AMD's newer CPUs (CPUID 8000_0021h EAX[6]) do.
  core.s.seg[seg] = {.selector = selector, .attributes = 0, .limit = 0, .base = 0};
  // The privilege level of a null SS is where CPL lives (CpuState::cpl).
  if (seg == kSs) core.s.seg[kSs].attributes = static_cast<std::uint16_t>((selector & 3) << 5);
}

bool Core::load_segment(unsigned seg, std::uint16_t selector) {
  const auto after_load = [this, seg] {
    if (seg == kSs) update_mode();  // the stack's width
    else SystemOps::refresh_segment(*this, seg);
  };
  if (s.real_mode() || s.v86()) {
    s.seg[seg] = SystemOps::real_segment(*this, seg, selector);
    after_load();
    return true;
  }
  const unsigned rpl = selector & 3;
  if (null_selector(selector)) {
    if (seg == kSs && !(code64() && cpl_ != 3 && rpl == cpl_)) {
      (void)raise_gp();
      return false;
    }
    SystemOps::load_null(*this, seg, selector);
    after_load();
    return true;
  }
  Descriptor d;
  if (!SystemOps::read_descriptor(*this, selector, kGP, false, d)) return false;
  const std::uint32_t error = selector_error(selector);
  if (seg == kSs) {
    if (rpl != cpl_ || !d.writable_data() || d.dpl() != cpl_) {
      (void)raise(kGP, error);
      return false;
    }
  } else {
    if (!d.readable() || (!d.conforming() && (rpl > d.dpl() || cpl_ > d.dpl()))) {
      (void)raise(kGP, error);
      return false;
    }
  }
  if (!d.present()) {
    (void)raise(seg == kSs ? kSS_ : kNP, error);
    return false;
  }
  if (!SystemOps::set_accessed(*this, d)) return false;
  s.seg[seg] = d.segment(selector);
  after_load();
  return true;
}

void SystemOps::set_code_segment(Core& core, const Descriptor& d, std::uint16_t selector, unsigned cpl) {
  Segment& cs = core.s.seg[kCs];
  cs = d.segment(static_cast<std::uint16_t>((selector & 0xFFFC) | cpl));
}

void SystemOps::drop_inaccessible_segments(Core& core, unsigned new_cpl) {
  for (const unsigned seg : {kEs, kDs, kFs, kGs}) {
    Segment& segment = core.s.seg[seg];
    if (null_selector(segment.selector)) {
      // The base of FS and GS is that of 64-bit code, which holds a null selector there; it stays.
      if (core.s.long_mode_active()) segment.selector = 0;
      else load_null(core, seg, 0);
    } else if (!segment.conforming() && segment.dpl() < new_cpl) {
      load_null(core, seg, 0);
    }
  }
}

bool SystemOps::check_code_target(Core& core, const Descriptor& d, std::uint64_t offset) {
  const bool to64 = core.s.long_mode_active() && d.long_mode();
  if (to64 ? core.canonical(offset) : offset <= d.limit()) return true;
  (void)core.raise_gp();
  return false;
}

}  // namespace husk::cpu::interp
