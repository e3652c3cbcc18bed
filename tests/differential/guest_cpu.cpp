// husk: runs tests in husk's interpreter, as a Linux process would find the machine
#include "guest_cpu.h"

#if HUSK_HAVE_JIT
#include "cpu/jit/engine.h"
#endif

#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"

namespace husk::differential {

namespace {

using namespace cpu;
using namespace cpu::interp;

// Guest-physical layout: tables and GDT, then code, then data.
constexpr std::uint64_t kPml4 = 0x1000, kGdt = 0x2000, kTables = 0x10000, kCodeGpa = 0x80000;
constexpr std::uint64_t kDataGpa = kCodeGpa + kCodeSize;
constexpr std::uint64_t kRamSize = 0x200000;
constexpr std::uint64_t kGdtLinear = 0xFFFF'FE00'0000'0000;  ///< where Linux shows it to itself: not for user code

/// Linux's GDT (arch/x86/kernel/cpu/common.c), the part that user code can see.
constexpr std::uint64_t kGdtEntries[16] = {
    0,
    0x00CF9B000000FFFF,  // kernel code, 32 bits
    0x00AF9B000000FFFF,  // kernel code
    0x00CF93000000FFFF,  // kernel data
    0x00CFFB000000FFFF,  // user code, 32 bits
    0x00CFF3000000FFFF,  // user data
    0x00AFFB000000FFFF,  // user code
    0,
    0x00008B000000206F,  // TSS; the base does not matter here
    0,
    0,
    0,
    0,
    0,
    0,
    0x0040F50000000000,  // CPU and node number in the limit: not compared
};

std::uint16_t full_tag(const CpuState& s, std::uint8_t abridged) {
  unsigned tags = 0;
  for (unsigned i = 0; i < 8; ++i) {
    unsigned tag = 3;
    if (abridged >> i & 1) {
      const F80Bits& r = s.x87.registers[i];
      const unsigned exponent = r.sign_exponent & 0x7FFF;
      if (exponent == 0 && r.significand == 0)
        tag = 1;
      else
        tag = exponent == 0 || exponent == 0x7FFF || !(r.significand >> 63) ? 2 : 0;
    }
    tags |= tag << (2 * i);
  }
  return static_cast<std::uint16_t>(tags);
}

}  // namespace

void load_fp(CpuState& s, const FpImage& image) {
  const std::uint8_t* const p = image.legacy;
  s.x87.control = load_le<std::uint16_t>(p);
  s.x87.status = load_le<std::uint16_t>(p + 2);
  s.x87.opcode = load_le<std::uint16_t>(p + 6);
  s.x87.ip = load_le<std::uint64_t>(p + 8);
  s.x87.dp = load_le<std::uint64_t>(p + 16);
  s.x87.ip_selector = s.x87.dp_selector = 0;
  s.mxcsr = load_le<std::uint32_t>(p + 24);
  const unsigned top = s.x87.status >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    const std::uint8_t* const st = p + 32 + 16 * i;
    s.x87.registers[(top + i) & 7] = {load_le<std::uint64_t>(st), load_le<std::uint16_t>(st + 8)};
  }
  s.x87.tag = full_tag(s, p[4]);
  for (unsigned i = 0; i < 16; ++i) {
    std::memcpy(s.vector[i].bytes.data(), p + 160 + 16 * i, 16);
    std::memcpy(s.vector[i].bytes.data() + 16, image.ymm_high[i], 16);
  }
}

void store_fp(const CpuState& s, FpImage& image) {
  std::uint8_t* const p = image.legacy;
  store_le(p, s.x87.control);
  store_le(p + 2, s.x87.status);
  unsigned abridged = 0;
  for (unsigned i = 0; i < 8; ++i) abridged |= (s.x87.tag >> (2 * i) & 3) != 3 ? 1u << i : 0;
  store_le(p + 4, static_cast<std::uint16_t>(abridged));
  store_le(p + 6, s.x87.opcode);
  store_le(p + 8, s.x87.ip);
  store_le(p + 16, s.x87.dp);
  store_le(p + 24, s.mxcsr);
  const unsigned top = s.x87.status >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    std::uint8_t* const st = p + 32 + 16 * i;
    const F80Bits& r = s.x87.registers[(top + i) & 7];
    store_le(st, r.significand);
    store_le(st + 8, static_cast<std::uint64_t>(r.sign_exponent));
  }
  for (unsigned i = 0; i < 16; ++i) {
    std::memcpy(p + 160 + 16 * i, s.vector[i].bytes.data(), 16);
    std::memcpy(image.ymm_high[i], s.vector[i].bytes.data() + 16, 16);
  }
}

GuestCpu::GuestCpu(std::span<const std::uint8_t> data, const FeatureSet& features, bool tiny_data, bool jit)
    : ram_(mem::RamRegion::create("ram", kRamSize).value()) {
  mapping_ = memory_.map_ram(0, ram_->size(), *ram_, 0, true).value();
  model_ = cpu_model("max").value();
  model_.features &= features;
  core_ = std::make_unique<Core>(CoreDeps{0, model_, memory_, io_, interrupts_, clock_, log_});
  std::memcpy(pristine_->bytes, data.data(), kDataSize);
  std::memcpy(ram_->data() + kDataGpa, data.data(), kDataSize);
  std::memset(ram_->data() + kCodeGpa, 0xCC, kCodeSize);
  for (unsigned i = 0; i < 16; ++i) store_le(ram_->data() + kGdt + 8 * i, kGdtEntries[i]);
  next_table_ = kTables;
  map_pages(tiny_data);
  core_->set_state(process_state());
  core_->trace = &first_;
  core_->trace_mask = TraceSink::kExceptions;
  if (jit) {
#if HUSK_HAVE_JIT
    auto engine = jit::Engine::create(*core_, jit::EngineOptions{.heat = 0});
    HUSK_CHECK(engine);
    (*engine)->set_single_block(true);
    engine_ = *std::move(engine);
    core_->set_engine(engine_.get());
#else
    HUSK_CHECK(!"there is no JIT for this host");
#endif
  }
}

void GuestCpu::map_page(std::uint64_t linear, std::uint64_t gpa, bool writable, bool executable) {
  constexpr std::uint64_t kNx = std::uint64_t{1} << 63;
  std::uint8_t* const ram = ram_->data();
  std::uint64_t table = kPml4;
  for (unsigned shift = 39; shift > 12; shift -= 9) {
    std::uint8_t* const entry = ram + table + ((linear >> shift) & 511) * 8;
    if (!(load_le<std::uint64_t>(entry) & 1)) {
      store_le(entry, next_table_ | 7);
      next_table_ += kPage;
    }
    table = load_le<std::uint64_t>(entry) & ~std::uint64_t{0xFFF};
  }
  HUSK_CHECK(next_table_ <= kCodeGpa);
  const bool user = linear != kGdtLinear;
  store_le(ram + table + ((linear >> 12) & 511) * 8,
           gpa | 1 | (writable ? 2u : 0u) | (user ? 4u : 0u) | 0x60 | (executable ? 0 : kNx));
}

void GuestCpu::map_pages(bool tiny_data) {
  for (std::uint64_t at = 0; at < kCodeSize; at += kPage) {
    map_page(kLowCode + at, kCodeGpa + at, false, true);
    map_page(kHighCode + at, kCodeGpa + at, false, true);
  }
  for (std::uint64_t at = 0; at < kDataSize; at += kPage) {
    for (const std::uint64_t base : {kTinyData, kLowData, kHighData})
      if (base != kTinyData || tiny_data) map_page(base + at, kDataGpa + at, at < kWritableSize, false);
  }
  map_page(kGdtLinear, kGdt, true, false);
}

CpuState GuestCpu::process_state() const {
  CpuState state = reset_state(model_.signature());
  for (Segment& segment : state.seg) segment = {};
  state.seg[kCs] = {kUserCs64, 0xA0FB, 0xFFFFFFFF, 0};
  state.seg[kSs] = {kUserDs, 0xC0F3, 0xFFFFFFFF, 0};
  state.gdtr = {kGdtLinear, 127};
  state.idtr = {0, 0};
  state.ldtr = {};
  // Too short for an I/O bitmap: ports are refused without a look at memory.
  state.tr = {0x40, 0x8B, 0x66, 0};
  state.cr0 = kCr0Pe | kCr0Mp | kCr0Et | kCr0Ne | kCr0Wp | kCr0Am | kCr0Pg;
  state.cr4 = kCr4De | kCr4Pse | kCr4Pae | kCr4Mce | kCr4Pge | kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Umip | kCr4Fsgsbase |
              kCr4Osxsave | kCr4Smep | kCr4Smap;
  state.efer = kEferSce | kEferLme | kEferLma | kEferNxe;
  state.xcr0 = 7;
  state.cr3 = kPml4;
  state.rflags = kReservedOne | kIF;
  return state;
}

void GuestCpu::set_up(const Test& test) {
  const Request& request = test.request;
  CpuState& s = core_->s;
  std::memcpy(s.gpr.data(), request.gpr, sizeof request.gpr);
  s.rip = request.rip;
  s.rflags = request.rflags;
  const bool compat = test.mode == Mode::compat32;
  s.seg[kCs] = {static_cast<std::uint16_t>(request.cs), static_cast<std::uint16_t>(compat ? 0xC0FB : 0xA0FB),
                0xFFFFFFFF, 0};
  s.seg[kSs] = {kUserDs, 0xC0F3, 0xFFFFFFFF, 0};
  const auto data_segment = [](Segment& segment, std::uint16_t selector, std::uint64_t base) {
    // A null selector leaves the base of FS and GS to be used in 64-bit mode.
    segment = selector < 4 ? Segment{selector, 0, 0, base} : Segment{selector, 0xC0F3, 0xFFFFFFFF, base};
  };
  data_segment(s.seg[kEs], request.es, 0);
  data_segment(s.seg[kDs], request.ds, 0);
  data_segment(s.seg[kFs], request.fs, request.fs_base);
  data_segment(s.seg[kGs], request.gs, request.gs_base);
  s.activity = Activity::running;
  s.interrupt_shadow = false;
  s.cr2 = 0;
  load_fp(s, request.fp);
  core_->update_mode();
  first_.seen = false;

  std::uint8_t* const data = ram_->data() + kDataGpa;
  for (unsigned i = 0; i < request.poke_count; ++i)
    std::memcpy(data + request.pokes[i].offset, request.poke_bytes + request.pokes[i].source, request.pokes[i].length);
  const std::uint64_t slot = kCodeGpa + (request.rip - (test.high_code ? kHighCode : kLowCode));
  std::uint8_t* const code = ram_->data() + slot;
  std::memcpy(code, test.code.data(), test.length);
  // No instruction in any mode: a block ends before it.
  code[test.length] = 0x0F;
  code[test.length + 1u] = 0x0A;
}

void GuestCpu::step(std::uint64_t insn_rip) {
  // A REP string may pause between iterations.
  for (unsigned i = 0; i < 100'000; ++i) {
    (void)core_->run(1);
    if (first_.seen || core_->s.rip != insn_rip) return;
  }
}

void GuestCpu::read_back(Outcome& out) {
  const CpuState& s = core_->s;
  Answer& r = out.state;
  std::memcpy(r.gpr, s.gpr.data(), sizeof r.gpr);
  r.rip = s.rip;
  r.rflags = s.rflags;
  r.fs_base = s.seg[kFs].base;
  r.gs_base = s.seg[kGs].base;
  r.es = s.seg[kEs].selector;
  r.cs = s.seg[kCs].selector;
  r.ss = s.seg[kSs].selector;
  r.ds = s.seg[kDs].selector;
  r.fs = s.seg[kFs].selector;
  r.gs = s.seg[kGs].selector;
  store_fp(s, r.fp);
}

void GuestCpu::run(const Test& test, bool cached, Outcome& out) {
  set_up(test);
  // Behind a load of SS the block's run goes on to one more instruction before it counts.
  for (const Operand& o : forms()[test.form].operands)
    if (o.written && (o.kind == OperandKind::sreg || o.kind == OperandKind::fixed_sreg)) cached = false;
  Core& core = *core_;
  const std::uint64_t slot = kCodeGpa + (test.request.rip - (test.high_code ? kHighCode : kLowCode));
  core.debug.single_step = !cached;
  if (cached) (void)core.code_written(*ram_, slot, test.length + 2u);
  step(test.request.rip);
  read_back(out);
  Answer& r = out.state;
  r.vector = kNoFault;
  r.error = 0;
  r.cr2 = 0;
  out.fetch_fault = false;
  const auto take_fault = [&] {
    r.vector = first_.event.vector;
    r.error = first_.event.has_error ? first_.event.error : 0;
    r.cr2 = first_.event.vector == kPF_ ? first_.event.cr2 : 0;
  };
  if (first_.seen) {
    take_fault();
  } else {
    // Where a branch went must be fetched from before the host tells of it.
    const std::uint64_t in_code = r.rip - (test.high_code ? kHighCode : kLowCode);
    if (in_code >= kCodeSize) {
      core.debug.single_step = true;
      (void)core.run(1);
      if (first_.seen) {
        take_fault();
        out.fetch_fault = true;
      }
    }
  }
  std::memcpy(ram_->data() + slot, "\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC\xCC",
              test.length + 2u);
  const Request& request = test.request;
  std::uint8_t* const data = ram_->data() + kDataGpa;
  r.chunk_count = static_cast<std::uint16_t>(take_changes(data, pristine_->bytes, r.chunks));
  for (unsigned i = 0; i < request.poke_count; ++i) {
    const Poke& poke = request.pokes[i];
    if (poke.offset + poke.length > kWritableSize)
      std::memcpy(data + poke.offset, pristine_->bytes + poke.offset, poke.length);
  }
}

bool GuestCpu::run_code(const Test& test, std::span<const std::uint8_t> code, std::uint64_t budget,
                        const std::function<void(const Core&)>& before_each, Outcome& out) {
  set_up(test);
  Core& core = *core_;
  const std::uint64_t at = kCodeGpa + (test.request.rip - kLowCode);
  HUSK_CHECK(at + code.size() <= kCodeGpa + kCodeSize);
  std::memcpy(ram_->data() + at, code.data(), code.size());
  for (std::uint64_t page = at / kPage * kPage; page < at + code.size(); page += kPage)
    (void)core.code_written(*ram_, page, kPage);
  core.debug.single_step = static_cast<bool>(before_each);
  const std::uint64_t end = core.instructions() + budget;
  while (!first_.seen && core.instructions() < end) {
    if (before_each) before_each(core);
    (void)core.run(before_each ? 1 : end - core.instructions());
  }
  read_back(out);
  Answer& r = out.state;
  out.fetch_fault = false;
  r.vector = first_.seen ? first_.event.vector : kNoFault;
  r.error = first_.seen && first_.event.has_error ? first_.event.error : 0;
  r.cr2 = first_.seen && first_.event.vector == kPF_ ? first_.event.cr2 : 0;
  std::memset(ram_->data() + at, 0xCC, std::max<std::size_t>(code.size(), test.length + 2u));
  std::uint8_t* const data = ram_->data() + kDataGpa;
  r.chunk_count = static_cast<std::uint16_t>(take_changes(data, pristine_->bytes, r.chunks));
  return first_.seen;
}

}  // namespace husk::differential
