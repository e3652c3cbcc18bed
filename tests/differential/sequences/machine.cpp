// husk: a software CPU with a little memory in which sequences run, and what came of each
#include "machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"

namespace husk::differential {

namespace {

using namespace cpu;
using namespace cpu::interp;

// Behind the arena: the page tables of each kind.
constexpr std::uint64_t kTables = arena::kSize, kTablesEach = 0x8000;
constexpr std::uint64_t kLongUser = kTables, kLongKernel = kTables + kTablesEach,
                        kLegacyUser = kTables + 2 * kTablesEach, kLegacyKernel = kTables + 3 * kTablesEach;
constexpr std::uint64_t kTablesEnd = kTables + 4 * kTablesEach;
constexpr std::uint64_t kRamSize = kTablesEnd;
constexpr std::uint64_t kPage = 4096;
constexpr unsigned kMostExceptions = 40;

constexpr std::uint64_t kGdtEntries[16] = {
    0,
    0x00CF9B000000FFFF,  // ring 0: 32-bit code, 64-bit code, data
    0x00AF9B000000FFFF,
    0x00CF93000000FFFF,
    0x00CFFB000000FFFF,  // ring 3: 32-bit code, data, 64-bit code
    0x00CFF3000000FFFF,
    0x00AFFB000000FFFF,
    0x0000FB000000FFFF,  // 16-bit code
    0x00008B00F8000067,  // TSS
    0,
    0x00CFF1008000FFFF,  // data, read-only, based
    0x0000F7000000BFFF,  // data, expand-down, 16 bits
    0x00CF73000000FFFF,  // not present
    0,
    0,
    0,
};

std::uint64_t tables_of(SequenceMode mode) {
  const bool user = ring_of(mode) == 3;
  if (code_size_of(mode) == CodeSize::bits64 || mode == SequenceMode::user32) return user ? kLongUser : kLongKernel;
  return user ? kLegacyUser : kLegacyKernel;
}

std::uint64_t hash(const std::uint8_t* bytes, std::size_t size) {
  std::uint64_t h[4] = {1, 2, 3, 4};
  for (std::size_t at = 0; at < size; at += 32) {
    std::uint64_t words[4];
    std::memcpy(words, bytes + at, 32);
    for (unsigned i = 0; i < 4; ++i) h[i] = (h[i] ^ words[i]) * 0x9E3779B97F4A7C15 + (h[i] >> 29);
  }
  return h[0] ^ std::rotl(h[1], 17) ^ std::rotl(h[2], 31) ^ std::rotl(h[3], 47);
}

}  // namespace

SequenceMachine::SequenceMachine(const Engine& engine)
    : engine_(engine), ram_(mem::RamRegion::create("ram", kRamSize).value()) {
  mapping_ = memory_.map_ram(0, ram_->size(), *ram_, 0, true).value();
  model_ = cpu_model("max").value();
  core_ = std::make_unique<Core>(CoreDeps{0, model_, memory_, io_, interrupts_, clock_, log_});
  ram_->set_listener({.code_written =
                          [this](mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
                            if (core_->code_written(ram, offset, length))
                              ram.clear_page_flags(offset, mem::RamRegion::kHasCode);
                          },
                      .protection_changed = [this](mem::RamRegion&) { core_->drop_write_access(); }});
  std::uint8_t* const ram = ram_->data();
  std::uint64_t x = 0x6A09E667F3BCC908;
  for (std::uint64_t at = arena::kData; at < arena::kGdt; at += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    store_le(ram + at, at / 64 % 4 == 3 ? 0 : at / 64 % 4 == 2 ? x & 0x0000'00FF'0000'00FF : x);
  }
  for (unsigned i = 0; i < 16; ++i) store_le(ram + arena::kGdt + 8 * i, kGdtEntries[i]);
  std::memset(ram + arena::kCode, 0xCC, arena::kCodeSize);
  build_tables(kLongUser, true, true);
  build_tables(kLongKernel, true, false);
  build_tables(kLegacyUser, false, true);
  build_tables(kLegacyKernel, false, false);
  pristine_.assign(ram, ram + kTablesEnd);
  code_engine_ = engine_.prepare(*core_);
  core_->trace = &first_;
  core_->trace_mask = TraceSink::kExceptions;
}

void SequenceMachine::build_tables(std::uint64_t root, bool long_mode, bool user) {
  std::uint8_t* const ram = ram_->data();
  std::uint64_t next = root + kPage;
  const auto map = [&](std::uint64_t linear, std::uint64_t gpa, bool writable, bool user_page) {
    const std::uint64_t flags = gpa | 1 | (writable ? 2u : 0u) | (user_page ? 4u : 0u);
    if (!long_mode) {
      if (!(load_le<std::uint32_t>(ram + root) & 1)) {
        store_le(ram + root, static_cast<std::uint32_t>(next | 7));
        next += kPage;
      }
      const std::uint64_t table = load_le<std::uint32_t>(ram + root) & ~std::uint32_t{0xFFF};
      store_le(ram + table + (linear >> 12 & 1023) * 4, static_cast<std::uint32_t>(flags));
      return;
    }
    std::uint64_t table = root;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
      std::uint8_t* const entry = ram + table + (linear >> shift & 511) * 8;
      if (!(load_le<std::uint64_t>(entry) & 1)) {
        store_le(entry, next | 7);
        next += kPage;
      }
      table = load_le<std::uint64_t>(entry) & ~std::uint64_t{0xFFF};
    }
    store_le(ram + table + (linear >> 12 & 511) * 8, flags);
  };
  for (std::uint64_t at = 0; at < arena::kCodeSize; at += kPage) {
    map(arena::kCode + at, arena::kCode + at, false, user);
    map(arena::kCodeAlias + at, arena::kCode + at, true, user);
  }
  const std::uint64_t high = user ? arena::kHighUser : arena::kHighKernel;
  for (std::uint64_t at = 0; at < arena::kWritable + arena::kReadOnly; at += kPage) {
    map(arena::kData + at, arena::kData + at, at < arena::kWritable, user);
    if (long_mode) map(high + arena::kData + at, arena::kData + at, at < arena::kWritable, user);
  }
  for (std::uint64_t at = 0; at < arena::kStackSize; at += kPage)
    map(arena::kStack + at, arena::kStack + at, true, user);
  map(arena::kOtherPrivilege, arena::kOtherPrivilege, true, !user);
  map(arena::kGdt, arena::kGdt, true, false);
  HUSK_CHECK(next <= root + kTablesEach);
}

void SequenceMachine::set_up(const Sequence& sequence, const Program& program) {
  std::uint8_t* const ram = ram_->data();
  tables_ = tables_of(sequence.mode);
  std::memcpy(ram, pristine_.data(), arena::kSize);
  if (sequence.mode == SequenceMode::real16) {
    // It reaches all of the memory; and what only one of two machines ran must leave nothing.
    std::memcpy(ram + kTables, pristine_.data() + kTables, kTablesEnd - kTables);
    ram_->note_write(kTables, kTablesEnd - kTables);
  } else {
    std::memcpy(ram + tables_, pristine_.data() + tables_, kTablesEach);
  }
  for (const DataPatch& patch : sequence.data) std::memcpy(ram + patch.linear, patch.bytes, sizeof patch.bytes);
  std::memcpy(ram + sequence.start, program.code.data(), program.code.size());
  ram_->note_write(0, arena::kSize);
  ram_->note_write(tables_, kTablesEach);

  CpuState s = reset_state(model_.signature());
  const CpuState& from = sequence.state;
  s.gpr = from.gpr;
  s.seg = from.seg;
  s.rflags = from.rflags;
  s.x87 = from.x87;
  s.mxcsr = from.mxcsr;
  std::copy_n(from.vector.begin(), 16, s.vector.begin());
  s.gdtr = {arena::kGdt, 127};
  s.idtr = {0, 0};
  s.ldtr = {};
  s.tr = {0x40, 0x8B, 0x67, arena::kGdt + 0x800};
  s.cr0 = kCr0Mp | kCr0Et | kCr0Ne | kCr0Wp | kCr0Am;
  s.cr4 = kCr4De | kCr4Osfxsr | kCr4Osxmmexcpt | kCr4Osxsave | kCr4Fsgsbase;
  s.xcr0 = 7;
  const SequenceMode mode = sequence.mode;
  if (mode != SequenceMode::real16) s.cr0 |= kCr0Pe | kCr0Pg;
  if (code_size_of(mode) == CodeSize::bits64 || mode == SequenceMode::user32) {
    s.cr4 |= kCr4Pae | kCr4Pge | kCr4Smap | kCr4Smep;
    s.efer = kEferSce | kEferLme | kEferLma | kEferNxe;
    s.cr3 = tables_;
  } else if (mode != SequenceMode::real16) {
    s.cr3 = tables_;
  }
  if (sequence.writable_code && mode != SequenceMode::real16) {
    const bool wide = s.efer & kEferLma;
    // The last table of the path to the arena is the fourth, or the second.
    for (std::uint64_t at = 0; at < arena::kCodeSize; at += kPage) {
      std::uint64_t table = s.cr3;
      for (unsigned i = 0; i < (wide ? 3u : 1u); ++i)
        table = load_le<std::uint32_t>(ram + table) & ~std::uint32_t{0xFFF};
      ram[table + (arena::kCode + at) / kPage * (wide ? 8 : 4)] |= 2;
    }
  }
  s.rip = program.places.front().rip;
  core_->set_state(s);
}

void SequenceMachine::snapshot(Snapshot::Why why, std::vector<Snapshot>& to) {
  Snapshot& snap = to.emplace_back();
  snap.why = why;
  if (why == Snapshot::Why::exception) snap.event = first_.event;
  snap.state = core_->s;
  snap.memory = hash(ram_->data(), arena::kSize);
}

bool SequenceMachine::resume(const Program& program, Snapshot& last, unsigned count) {
  CpuState& s = core_->s;
  const auto place = std::find_if(program.places.begin(), program.places.end(),
                                  [&](const Program::Place& p) { return p.rip == s.rip; });
  s.activity = Activity::running;
  s.interrupt_shadow = false;
  if (last.why == Snapshot::Why::exception) {
    const bool trap = last.event.kind == Event::Kind::trap;
    const bool at_end = place != program.places.end() && place + 1 == program.places.end();
    if (at_end && !trap && last.event.vector == kUD) last.why = Snapshot::Why::end;
    if (place == program.places.end() || last.why == Snapshot::Why::end) return false;
    if (!trap) s.rip = (place + 1 == program.places.end() ? place : place + 1)->rip;
    // What was undefined must not be read later on.
    s.rflags &= ~std::uint64_t{last.undefined_flags};
    if (count > 8) s.rflags &= ~std::uint64_t{kTF};
    if (at_end && !trap) return false;
    if (s.rflags & kTF || (last.state.rflags & kTF)) {
      // Drops such a trap.
      core_->set_state(CpuState(s));
      return count < kMostExceptions;
    }
  }
  core_->update_mode();
  return count < kMostExceptions;
}

void SequenceMachine::run(const Sequence& sequence, const Program& program, std::uint64_t budget, const Run* reference,
                          Run& out) {
  set_up(sequence, program);
  out.snapshots.clear();
  out.over_budget = false;
  const std::uint64_t begin = core_->instructions();
  RunNotes notes{ram_->data(), 0};
  for (;;) {
    first_.seen = false;
    const std::uint64_t used = core_->instructions() - begin;
    notes.salt = sequence.state.gpr[kRax] ^ used;
    const RunExit exit = used >= budget ? RunExit::quantum : engine_.run(*core_, budget - used, notes);
    if (exit == RunExit::quantum) {
      out.over_budget = true;
      snapshot(Snapshot::Why::budget, out.snapshots);
      break;
    }
    snapshot(first_.seen ? Snapshot::Why::exception : Snapshot::Why::halt, out.snapshots);
    Snapshot& stop = out.snapshots.back();
    const std::size_t index = out.snapshots.size() - 1;
    if (!reference)
      stop.undefined_flags = notes.undefined_flags;
    else if (index < reference->snapshots.size())
      stop.undefined_flags = reference->snapshots[index].undefined_flags;
    constexpr std::uint32_t kOperandFaults =
        1u << kDE | 1u << kUD | 1u << kSS_ | 1u << kGP | 1u << kPF_ | 1u << kMF | 1u << kACheck | 1u << kXM;
    if (ignore_flags_at_faults_ && first_.seen && stop.state.rip != program.places.back().rip &&
        (kOperandFaults >> stop.event.vector & 1))
      stop.undefined_flags = static_cast<std::uint16_t>(stop.undefined_flags | kArithmeticFlags);
    notes.undefined_flags = 0;
    if (!resume(program, out.snapshots.back(), static_cast<unsigned>(out.snapshots.size()))) break;
  }
  out.ambiguous = notes.string_wrote_itself;
  out.open = notes.open;
  out.instructions = core_->instructions() - begin;
  out.memory.resize(arena::kSize + kTablesEach);
  std::memcpy(out.memory.data(), ram_->data(), arena::kSize);
  std::memcpy(out.memory.data() + arena::kSize, ram_->data() + tables_, kTablesEach);
}

namespace {

class RunComparison {
 public:
  RunComparison(const Run& reference, const Run& subject, const Engine& engine)
      : reference_(reference), subject_(subject), engine_(engine) {}

  std::vector<std::string> run() {
    if (subject_.over_budget) lines_.push_back("the subject does not come to an end");
    const std::size_t count = std::min(reference_.snapshots.size(), subject_.snapshots.size());
    for (std::size_t i = 0; i < count && lines_.empty(); ++i) {
      where_ = fmt::format("at stop {}", i);
      compare(reference_.snapshots[i], subject_.snapshots[i]);
    }
    if (lines_.empty() && reference_.snapshots.size() != subject_.snapshots.size())
      lines_.push_back(
          fmt::format("stops: reference {}, subject {}", reference_.snapshots.size(), subject_.snapshots.size()));
    if (lines_.empty() || memory_differs_) memory();
    return std::move(lines_);
  }

 private:
  template <class T>
  void field(std::string_view name, const T& a, const T& b) {
    if (a != b) lines_.push_back(fmt::format("{}: {}: reference {:#x}, subject {:#x}", where_, name, a, b));
  }
  void segment(std::string_view name, const Segment& a, const Segment& b) {
    if (a == b) return;
    lines_.push_back(fmt::format("{}: {}: reference {:x}:{:x}:{:x}:{:x}, subject {:x}:{:x}:{:x}:{:x}", where_, name,
                                 a.selector, a.attributes, a.limit, a.base, b.selector, b.attributes, b.limit, b.base));
  }
  void compare(const Snapshot& a, const Snapshot& b) {
    constexpr std::string_view kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    constexpr std::string_view kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
    field("kind of stop", static_cast<unsigned>(a.why), static_cast<unsigned>(b.why));
    field("vector", a.event.vector, b.event.vector);
    field("error code", a.event.error, b.event.error);
    field("kind of exception", static_cast<unsigned>(a.event.kind), static_cast<unsigned>(b.event.kind));
    field("faulting address", a.event.cr2, b.event.cr2);
    field("dr6 bits", a.event.dr6_bits, b.event.dr6_bits);
    const CpuState& s = a.state;
    const CpuState& t = b.state;
    field("rip", s.rip, t.rip);
    for (unsigned i = 0; i < 16; ++i) field(kGprNames[i], s.gpr[i], t.gpr[i]);
    const std::uint64_t flags = engine_.translates ? ~std::uint64_t{a.undefined_flags} : ~std::uint64_t{0};
    field("rflags", s.rflags & flags, t.rflags & flags);
    for (unsigned i = 0; i < 6; ++i) segment(kSegments[i], s.seg[i], t.seg[i]);
    field("cr0", s.cr0, t.cr0);
    field("cr2", s.cr2, t.cr2);
    field("cr3", s.cr3, t.cr3);
    field("cr4", s.cr4, t.cr4);
    // A trap that MOV SS holds back may come after the shutdown that ends a stop, or be dropped with it.
    const std::uint64_t held = (s.rflags & kTF) ? 0x4000 : 0;
    field("dr6", s.dr6 | held, t.dr6 | held);
    field("kernel gs base", s.msr.kernel_gs_base, t.msr.kernel_gs_base);
    field("pkru", s.pkru, t.pkru);
    field("mxcsr", s.mxcsr, t.mxcsr);
    field("interrupt shadow", s.interrupt_shadow, t.interrupt_shadow);
    x87(s.x87, t.x87);
    for (unsigned i = 0; i < 16; ++i) {
      if (std::memcmp(s.vector[i].bytes.data(), t.vector[i].bytes.data(), 32) == 0) continue;
      const auto text = [](const VectorRegister& r) {
        std::string hex;
        for (unsigned k = 32; k > 0; k -= 8)
          hex += fmt::format("{:016x} ", load_le<std::uint64_t>(r.bytes.data() + k - 8));
        return hex;
      };
      lines_.push_back(
          fmt::format("{}: ymm{}: reference {}subject {}", where_, i, text(s.vector[i]), text(t.vector[i])));
    }
    if (a.memory != b.memory) {
      lines_.push_back(fmt::format("{}: memory differs (what is left of it at the end follows)", where_));
      memory_differs_ = true;
    }
  }
  void x87(const X87State& a, const X87State& b) {
    field("fcw", a.control, b.control);
    field("fsw", a.status, b.status);
    // FXRSTOR takes only which registers are empty, and finds the rest from what they hold.
    const auto full = [](std::uint16_t tag) { return static_cast<std::uint16_t>(~(tag & tag >> 1) & 0x5555); };
    if (engine_.translates) {
      field("registers in use", full(a.tag), full(b.tag));
    } else {
      field("ftw", a.tag, b.tag);
      field("fop", a.opcode, b.opcode);
      field("fip", a.ip, b.ip);
      field("fdp", a.dp, b.dp);
      field("fcs", a.ip_selector, b.ip_selector);
      field("fds", a.dp_selector, b.dp_selector);
    }
    for (unsigned i = 0; i < 8; ++i) {
      if (a.registers[i] == b.registers[i]) continue;
      lines_.push_back(fmt::format("{}: r{} of the x87: reference {:04x}:{:016x}, subject {:04x}:{:016x}", where_, i,
                                   a.registers[i].sign_exponent, a.registers[i].significand,
                                   b.registers[i].sign_exponent, b.registers[i].significand));
    }
  }
  void memory() {
    if (reference_.memory == subject_.memory) return;
    unsigned shown = 0;
    for (std::size_t at = 0; at < reference_.memory.size() && shown < 8; at += 8) {
      const std::uint64_t a = load_le<std::uint64_t>(&reference_.memory[at]),
                          b = load_le<std::uint64_t>(&subject_.memory[at]);
      if (a == b) continue;
      lines_.push_back(fmt::format("memory at {:#x}{}: reference {:016x}, subject {:016x}", at,
                                   at >= arena::kSize ? " (page tables)" : "", a, b));
      ++shown;
    }
  }

  const Run& reference_;
  const Run& subject_;
  const Engine& engine_;
  std::string where_;
  std::vector<std::string> lines_;
  bool memory_differs_ = false;
};

}  // namespace

std::vector<std::string> differences(const Run& reference, const Run& subject, const Engine& engine) {
  return RunComparison(reference, subject, engine).run();
}

}  // namespace husk::differential
