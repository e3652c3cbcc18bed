// husk: the software CPU's construction, run loop and pending events
#include "cpu/interp/core.h"

#include <algorithm>

#include "base/check.h"
#include "cpu/interp/block_cache.h"
#include "cpu/interp/svm.h"
#include "cpu/interp/system_ops.h"
#include "mem/guest_bytes.h"

namespace husk::cpu::interp {

Core::Core(CoreDeps deps) : model(deps.model), deps_(deps), blocks_(std::make_unique<BlockCache>()) {
  flush_tlb_all();
  reset(deps_.index == 0);
}

Core::~Core() = default;

void Core::reset(bool bootstrap) {
  attention_.store(0);
  past_count_ = 0;
  set_state(reset_state(model.signature()));
  if (!bootstrap) s.activity = Activity::wait_for_sipi;
}

void Core::set_state(const CpuState& state) {
  s = state;
  watch_hit_ = false;
  interrupt_waiting_ = true;
  update_mode();
  SystemOps::use_space(*this);
  flush_tlb_all();
  leave_block_ = true;
}

CpuState Core::whole_state() const {
  CpuState state = s;
  const std::uint32_t signals = attention_.load(std::memory_order_acquire);
  if (signals & kAttentionNmi) state.nmi_pending = true;
  if (signals & kAttentionInit) state.init_pending = true;
  if (signals & kAttentionSipi) {
    state.sipi_pending = true;
    state.sipi_vector = sipi_vector_.load(std::memory_order_relaxed);
  }
  state.shadow_holds_debug &= state.interrupt_shadow && state.pending_debug;
  return state;
}

void Core::set_whole_state(const CpuState& state) {
  attention_.fetch_and(~std::uint32_t{kAttentionNmi | kAttentionInit | kAttentionSipi});
  set_state(state);
  // Signals are kept in one place.
  if (std::exchange(s.init_pending, false)) init();
  if (std::exchange(s.sipi_pending, false)) startup(std::exchange(s.sipi_vector, std::uint8_t{0}));
  publish_kvm_clock();
}

std::vector<PastEvent> Core::past_events() const {
  std::vector<PastEvent> events;
  const std::size_t kept = std::min(past_count_, kPastEvents);
  for (std::size_t i = past_count_ - kept; i < past_count_; ++i) events.push_back(past_[i % kPastEvents]);
  return events;
}

// ---- what happens between blocks ----

bool Core::careful() const {
  return (s.rflags & (kTF | kRF)) || s.interrupt_shadow || (s.dr7 & 0xFF) || debug.single_step || !debug.watchpoints.empty() ||
         s.pending_debug || watch_hit_ || skip_breakpoint_;
}

bool Core::breakpoint_near() const {
  // No block reaches farther than this from its start, so the rest of the code runs at full speed.
  constexpr std::uint64_t kReach = BlockCache::kMaxInsns * 15;
  const std::uint64_t linear = (s.seg[kCs].base * !code64() + s.rip) & linear_mask_;
  return std::any_of(debug.breakpoints.begin(), debug.breakpoints.end(),
                     [&](std::uint64_t at) { return at - linear < kReach; });
}

bool Core::handle_attention() {
  const std::uint32_t bits = attention_.exchange(0, std::memory_order_acq_rel);
  if (bits & kAttentionTlb) flush_tlb_all();
  if (bits & kAttentionPages) handle_page_requests();
  if (bits & kAttentionInterrupt) interrupt_waiting_ = true;
  if (bits & kAttentionNmi) s.nmi_pending = true;
  // GIF holds INIT back (APM vol. 2, 15.17); a guest's may be intercepted.
  if ((bits & kAttentionInit) && !s.svm.gif) {
    s.init_pending = true;
  } else if ((bits & kAttentionInit) && intercepts(kExitInit)) {
    s.init_pending = true;
    (void)vm_exit(kExitInit);
    deliver(fault_);
  } else if (bits & kAttentionInit) {
    deps_.interrupts.cpu_init();
    set_state(init_state(s, model.signature()));
    // The boot processor begins at the reset vector, the others wait (SDM vol. 3, 9.4.3).
    s.activity = (deps_.interrupts.apic_base() & 0x100) ? Activity::running : Activity::wait_for_sipi;
  }
  if ((bits & kAttentionSipi) && s.activity == Activity::wait_for_sipi) {
    const unsigned vector = sipi_vector_.load(std::memory_order_relaxed);
    s.seg[kCs].selector = static_cast<std::uint16_t>(vector << 8);
    s.seg[kCs].base = static_cast<std::uint64_t>(vector) << 12;
    s.rip = 0;
    s.activity = Activity::running;
    update_mode();
  }
  // SMM is not offered by any model: an SMI is dropped, as by a CPU with SMRAM disabled.
  return bits & kAttentionStop;
}

bool Core::take_pending() {
  if (s.injected.kind != InjectedEvent::Kind::none) {
    take_injected();
    return true;
  }
  // MOV SS and POP SS hold debug traps back too, STI does not (SDM vol. 3, 6.8.3).
  if (s.pending_debug && !(s.interrupt_shadow && s.shadow_holds_debug)) {
    const std::uint64_t cause = std::exchange(s.pending_debug, 0);
    deliver({.kind = Event::Kind::trap, .vector = kDB, .dr6_bits = cause});
    return true;
  }
  if (s.svm.guest || !s.svm.gif) [[unlikely]] return SystemOps::take_guest_event(*this);
  if (s.nmi_pending && !s.nmi_blocked && !s.interrupt_shadow) {
    s.nmi_pending = false;
    s.activity = Activity::running;
    deliver({.kind = Event::Kind::nmi, .vector = kNMI});
    s.nmi_blocked = true;
    return true;
  }
  if (interrupt_waiting_ && (s.rflags & kIF) && !s.interrupt_shadow) {
    if (!deps_.interrupts.pending()) {
      interrupt_waiting_ = false;
      return false;
    }
    const auto vector = deps_.interrupts.acknowledge();
    if (!vector) return false;
    s.activity = Activity::running;
    const Event event{.kind = Event::Kind::external, .vector = *vector};
    if (trace_mask & TraceSink::kInterrupts) trace->interrupt(*this, event);
    deliver(event);
    return true;
  }
  return false;
}

// Another accelerator began to deliver it; this one never leaves an event half-way.
void Core::take_injected() {
  const InjectedEvent begun = std::exchange(s.injected, {});
  s.activity = Activity::running;
  Event event{.vector = begun.vector, .has_error = begun.has_error, .error = begun.error};
  switch (begun.kind) {
    case InjectedEvent::Kind::none: return;
    case InjectedEvent::Kind::exception:
      event.cr2 = s.cr2;
      // DR6 tells the cause already. A single step or a data breakpoint is a trap, and so most of them.
      if (event.vector == kDB) event.kind = Event::Kind::trap;
      if (event.vector == kDB) event.dr6_bits = s.dr6 & 0xF;
      break;
    case InjectedEvent::Kind::interrupt:
      event.kind = Event::Kind::external;
      if (trace_mask & TraceSink::kInterrupts) trace->interrupt(*this, event);
      break;
    case InjectedEvent::Kind::nmi: event.kind = Event::Kind::nmi; break;
  }
  deliver(event);
  if (begun.kind == InjectedEvent::Kind::nmi) s.nmi_blocked = true;
}

bool Core::runnable() {
  if (attention_pending() || s.injected.kind != InjectedEvent::Kind::none) return true;
  switch (s.activity) {
    case Activity::running: return true;
    case Activity::shutdown:
    case Activity::wait_for_sipi: return false;
    case Activity::halted:
    case Activity::mwait:
      if (s.activity == Activity::mwait && monitored_line_written()) return true;
      if (!s.svm.gif) return false;
      if (s.svm.guest) return SystemOps::guest_wakes(*this);
      if (s.nmi_pending && !s.nmi_blocked) return true;
      // MWAIT may leave at any time; husk leaves it for an interrupt even with IF clear, as ECX bit 0 allows.
      return deps_.interrupts.pending() && ((s.rflags & kIF) || s.activity == Activity::mwait);
  }
  return true;
}

RunExit Core::run(std::uint64_t max_instructions) {
  const std::uint64_t end = instructions_ + max_instructions;
  leave_block_ = true;
  for (;;) {
    if (leave_block_ || careful_ || attention_.load(std::memory_order_acquire)) [[unlikely]] {
      leave_block_ = false;
      if (handle_attention()) return RunExit::stop_requested;
      if (blocks_->full()) blocks_->clear();
      if (watch_hit_) {
        watch_hit_ = false;
        return RunExit::debug;
      }
      // A CPU in shutdown takes nothing: the machine ends it by INIT or RESET (SDM vol. 3, 6.15, interrupt 8).
      if (s.activity != Activity::shutdown && take_pending()) {
        leave_block_ = true;
        if (s.activity != Activity::shutdown) continue;
      }
      if (s.activity != Activity::running) {
        if (s.activity == Activity::shutdown) return RunExit::shutdown;
        if (!runnable()) return RunExit::halted;
        if (s.svm.guest || deps_.interrupts.pending()) interrupt_waiting_ = true;
        if (s.activity == Activity::mwait && (!(s.rflags & kIF) || monitored_line_written())) s.activity = Activity::running;
        leave_block_ = true;
        continue;
      }
      careful_ = careful();
      // RF alone, as after a page fault in REP MOVS, is no reason to go element by element.
      step_iterations_ = careful_ && ((s.rflags & kTF) || (s.dr7 & 0xFF) || debug.single_step || !debug.watchpoints.empty());
      if (careful_) {
        RunExit exit;
        if (run_carefully(exit)) return exit;
        if (instructions_ >= end) return RunExit::quantum;
        continue;
      }
    }
    if (instructions_ >= end) return RunExit::quantum;
    if (!debug.breakpoints.empty() && breakpoint_near()) [[unlikely]] {
      RunExit exit;
      if (run_carefully(exit)) return exit;
      continue;
    }
    // Breakpoints and instruction traces want to see every block.
    const bool translated = engine_ && debug.breakpoints.empty() && !(trace_mask & TraceSink::kExec);
    if ((translated ? engine_->run(*this) : run_block()) == Flow::fault) [[unlikely]] {
      deliver(fault_);
      leave_block_ = true;
    }
  }
}

bool Core::instruction_breakpoint(RunExit& exit) {
  const std::uint64_t linear = (s.seg[kCs].base * !code64() + s.rip) & linear_mask_;
  if (!std::exchange(skip_breakpoint_, false)) {
    if (std::find(debug.breakpoints.begin(), debug.breakpoints.end(), linear) != debug.breakpoints.end()) {
      debug_hit_address = linear;
      skip_breakpoint_ = true;
      exit = RunExit::debug;
      return true;
    }
  }
  if (!(s.dr7 & 0xFF) || (s.rflags & kRF)) return false;
  std::uint64_t hits = 0;
  for (unsigned i = 0; i < 4; ++i)
    if (bits(s.dr7, i * 2, 2) && bits(s.dr7, 16 + i * 4, 2) == 0 && s.dr[i] == linear) hits |= std::uint64_t{1} << i;
  if (hits) {
    deliver({.kind = Event::Kind::fault, .vector = kDB, .dr6_bits = hits});
    leave_block_ = true;
  }
  return false;
}

bool Core::run_carefully(RunExit& exit) {
  if (instruction_breakpoint(exit)) return true;
  if (leave_block_) return false;  // a guest breakpoint was delivered
  const bool trap_flag = s.rflags & kTF;
  const bool shadow = s.interrupt_shadow;
  s.interrupt_shadow = false;
  // RF lasts for one instruction; IRET and task switches load it for the next one (SDM vol. 3, 18.3.1.1).
  const bool resume_flag = s.rflags & kRF;
  s.rflags &= ~std::uint64_t{kRF};
  const std::size_t events_before = past_count_;
  trap_by_result_ = entered_guest_ = false;
  const Flow flow = execute_uncached();
  leave_block_ = true;
  if (flow == Flow::fault) {
    // A VMCB shows the shadow of the instruction that was left; delivery ends it.
    s.interrupt_shadow = shadow && s.svm.guest;
    deliver(fault_);
  } else {
    // Between the iterations of a string instruction its breakpoint must not hit again.
    if (flow == Flow::repeat && resume_flag) s.rflags |= kRF;
    // TF at the start of the instruction counts, but an INT n clears the trap with the flag; SYSCALL and SYSRET trap by
    // what they leave in TF.
    const bool entered_handler = past_count_ != events_before;
    if (trap_by_result_ ? (s.rflags & kTF) != 0 : trap_flag && !entered_handler && !entered_guest_)
      s.pending_debug |= 1u << 14;
  }
  if (shadow && s.interrupt_shadow) s.interrupt_shadow = false;  // a second STI in a row gives no second shadow
  if (debug.single_step) {
    exit = RunExit::debug;
    debug_hit_address = s.rip;
    skip_breakpoint_ = !debug.breakpoints.empty();
    return true;
  }
  return false;
}

// ---- fetching and executing ----

void Core::update_block_key() {
  // What select_handler() looks at; code of another mode is decoded anew.
  std::uint32_t key = static_cast<std::uint32_t>(code_size_);
  key |= static_cast<std::uint32_t>(cpl_ == 0) << 2;
  key |= static_cast<std::uint32_t>(s.real_mode() || s.v86()) << 3;
  key |= static_cast<std::uint32_t>((s.cr0 & kCr0Em) != 0) << 4;
  key |= static_cast<std::uint32_t>((s.cr0 & kCr0Ts) != 0) << 5;
  key |= static_cast<std::uint32_t>((s.cr0 & kCr0Mp) != 0) << 6;
  key |= static_cast<std::uint32_t>((s.cr4 & kCr4Osfxsr) != 0) << 7;
  key |= static_cast<std::uint32_t>((s.cr4 & kCr4Osxsave) && (s.xcr0 & 6) == 6) << 8;
  key |= static_cast<std::uint32_t>(s.svm.guest) << 16;  // those below are the engine's
  block_key_ = key;
}

namespace {
Flow handle_ud(Core& core, const Insn&) { return core.raise_ud(); }
Flow handle_nm(Core& core, const Insn&) { return core.raise(kNM); }
Flow handle_gp(Core& core, const Insn&) { return core.raise_gp(); }
Flow handle_unbound(Core& core, const Insn& insn) {
  core.deps().log.error("instruction {} ({}) has no handler; raising #UD", forms()[insn.form].mnemonic,
                        sem_name(forms()[insn.form].sem));
  return core.raise_ud();
}
/// The instruction may be intercepted.
Flow handle_in_guest(Core& core, const Insn& insn) {
  const Sem sem = forms()[insn.form].sem;
  if (const Handler check = SystemOps::intercept_check(sem))
    if (const Flow flow = check(core, insn); flow != Flow::next) return flow;
  const Handler handler = handler_table().find(sem, insn.op_size);
  return handler ? handler(core, insn) : handle_unbound(core, insn);
}
Flow handle_traced(Core& core, const Insn& insn) {
  core.trace->exec(core, insn);
  if (core.s.svm.guest) return handle_in_guest(core, insn);
  const Handler handler = handler_table().find(forms()[insn.form].sem, insn.op_size);
  return handler ? handler(core, insn) : handle_unbound(core, insn);
}
}  // namespace

Handler Core::select_handler(const Insn& insn) const {
  const Form& form = forms()[insn.form];
  const std::uint32_t a = form.attributes;
  if (!model.has(form.feature)) return handle_ud;
  if ((a & kAttrNoReal) && (s.real_mode() || s.v86())) return handle_ud;
  if ((a & kAttrCpl0) && cpl_ != 0) return handle_gp;
  if (a & kAttrAvx) {
    if (s.real_mode() || s.v86() || !(s.cr4 & kCr4Osxsave) || (s.xcr0 & 6) != 6) return handle_ud;
    if (s.cr0 & kCr0Ts) return handle_nm;
  } else if (a & kAttrSse) {
    if ((s.cr0 & kCr0Em) || !(s.cr4 & kCr4Osfxsr)) return handle_ud;
    if (s.cr0 & kCr0Ts) return handle_nm;
  } else if (a & kAttrMmx) {
    if (s.cr0 & kCr0Em) return handle_ud;
    if (s.cr0 & kCr0Ts) return handle_nm;
  } else if (a & kAttrFpu) {
    if (s.cr0 & (kCr0Em | kCr0Ts)) return handle_nm;
  }
  if (trace_mask & TraceSink::kExec) return handle_traced;
  if (s.svm.guest && SystemOps::intercept_check(form.sem)) return handle_in_guest;
  const Handler handler = handler_table().find(form.sem, insn.op_size);
  return handler ? handler : handle_unbound;
}

bool Core::fetch_page(std::uint64_t linear, const ExecEntry*& entry) {
  ExecEntry& slot = exec_tlb_[cpl_ == 3][tlb_index(linear)];
  const std::uint64_t tag = (linear & ~std::uint64_t{0xFFF}) | pcid_;
  if (slot.tag != tag) [[unlikely]] {
    Translation t;
    if (!translate(linear, AccessKind::execute, cpl_ == 3, t)) return false;
    const mem::Target target = deps_.memory.find(align_down(t.gpa & a20_mask_, mem::kPageSize));
    if (!target.ram || target.length < mem::kPageSize) {
      entry = nullptr;
      return true;
    }
    slot = {tag, target.ram, target.offset, t.global};
  }
  entry = &slot;
  return true;
}

std::uint64_t Core::decoded_granules(const std::uint8_t* host_page) const { return blocks_->granules(host_page); }

void Core::mark_code_page(mem::RamRegion& ram, std::uint64_t page_offset) {
  ram.set_page_flags(page_offset, mem::RamRegion::kHasCode);
  drop_write_access(ram.data() + page_offset);
  if (code_page_marked_) code_page_marked_(ram, page_offset);
}

Flow Core::run_block() {
  const bool flat = code64();
  const std::uint64_t linear = flat ? s.rip : static_cast<std::uint32_t>(s.seg[kCs].base + s.rip);
  const ExecEntry* entry;
  if (!fetch_page(linear, entry)) return Flow::fault;
  if (!entry) [[unlikely]]
    return execute_uncached();
  const std::uint8_t* const code = entry->ram->data() + entry->offset + (linear & 0xFFF);
  Block* block = blocks_->find(code, block_key_);
  if (!block) [[unlikely]] {
    std::array<Insn, BlockCache::kMaxInsns> insns;
    unsigned count = 0, bytes = 0;
    const auto room = static_cast<unsigned>(mem::kPageSize - (linear & 0xFFF));
    // An instruction across the page's end is executed alone, with exact fetch faults. It makes no code page of this one.
    if (room < 15 && decode({code, room}, code_size_, insns[0] = Insn{}) != DecodeStatus::ok) return execute_uncached();
    // The flag goes up before the bytes are read, so that a write in between is noticed.
    mem::RamRegion& ram = *entry->ram;
    const std::uint64_t page_offset = entry->offset;
    if (!blocks_->holds_page(ram.data() + page_offset)) mark_code_page(ram, page_offset);
    while (count < BlockCache::kMaxInsns && bytes < room) {
      Insn& insn = insns[count];
      insn = Insn{};
      // A copy: another CPU may write there while the decoder looks, and looks again.
      std::array<std::uint8_t, 15> copy;
      const std::size_t most = std::min(room - bytes, 15u);
      std::memcpy(copy.data(), code + bytes, most);
      const DecodeStatus status = decode({copy.data(), most}, code_size_, insn);
      if (status != DecodeStatus::ok) break;
      insn.handler = select_handler(insn);
      bytes += insn.length;
      ++count;
      if (forms()[insn.form].attributes & kAttrEndsBlock) break;
    }
    // Invalid: alone.
    if (count == 0) return execute_uncached();
    block = blocks_->add(ram, code, block_key_, bytes, insns.data(), count);
    if (engine_) engine_->code_decoded(ram.data() + page_offset);
  }
  if (!flat && s.rip + block->bytes - 1 > s.seg[kCs].limit) [[unlikely]]
    return execute_uncached();

  const Insn* insn = block->insns;
  const Insn* const last = insn + block->count;
  Flow flow = Flow::next;
  do {
    flow = insn->handler(*this, *insn);
    if (flow == Flow::next) [[likely]] {
      s.rip += insn->length;
      ++insn;
    } else {
      break;
    }
  } while (insn != last && !leave_block_);
  instructions_ += static_cast<std::uint64_t>(insn - block->insns) + (flow != Flow::next);
  if (!flat) s.rip &= 0xFFFFFFFF;
  return flow;
}

bool Core::fetch_bytes(std::uint64_t linear, std::uint8_t* bytes, unsigned count, unsigned& got) {
  for (got = 0; got < count;) {
    const std::uint64_t at = (linear + got) & linear_mask_;
    const auto piece = std::min<unsigned>(count - got, static_cast<unsigned>(mem::kPageSize - (at & 0xFFF)));
    const ExecEntry* entry;
    if (!fetch_page(at, entry)) return false;
    if (entry) {
      mem::copy_guest_bytes(bytes + got, entry->ram->data() + entry->offset + (at & 0xFFF), piece);
    } else {
      Translation t;
      if (!translate(at, AccessKind::execute, cpl_ == 3, t)) return false;
      for (unsigned i = 0; i < piece; ++i)
        bytes[got + i] =
            static_cast<std::uint8_t>(deps_.memory.read(mem::Requester::cpu(deps_.index), (t.gpa + i) & a20_mask_, 1));
    }
    got += piece;
  }
  return true;
}

Flow Core::execute_uncached() {
  const std::uint64_t linear = code64() ? s.rip : static_cast<std::uint32_t>(s.seg[kCs].base + s.rip);
  ++instructions_;
  std::uint8_t bytes[15];
  // Fetch up to the page's end first; the next page is touched only if the instruction reaches into it.
  unsigned wanted = std::min<unsigned>(15, static_cast<unsigned>(mem::kPageSize - (linear & 0xFFF)));
  const std::uint64_t limit = code64() ? ~std::uint64_t{0} : s.seg[kCs].limit;
  if (s.rip > limit) return raise_gp();
  Insn insn{};
  for (;;) {
    unsigned got = 0;
    if (!fetch_bytes(linear, bytes, wanted, got)) return Flow::fault;
    insn = Insn{};
    switch (decode({bytes, wanted}, code_size_, insn)) {
      case DecodeStatus::ok: break;
      case DecodeStatus::invalid: return raise_ud();
      case DecodeStatus::too_long: return raise_gp();
      case DecodeStatus::truncated:
        if (wanted == 15) return raise_gp();
        wanted = 15;
        continue;
    }
    break;
  }
  if (s.rip + insn.length - 1 > limit) return raise_gp();
  insn.handler = select_handler(insn);
  const Flow flow = insn.handler(*this, insn);
  if (flow == Flow::next) s.rip += insn.length;
  if (!code64()) s.rip &= 0xFFFFFFFF;
  return flow;
}

const HandlerTable& handler_table() {
  static const HandlerTable table = [] {
    HandlerTable made;
    bind_integer(made);
    bind_string(made);
    bind_control(made);
    bind_system(made);
    bind_x87(made);
    bind_mmx_sse(made);
    bind_avx(made);
    bind_crypto(made);
    return made;
  }();
  return table;
}

}  // namespace husk::cpu::interp
