// husk: the software CPU's core: state, memory access, exceptions; shared by the interpreter's handlers and the JIT
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/bits.h"
#include "base/log.h"
#include "core/clock.h"
#include "core/cpu_ports.h"
#include "cpu/debug.h"
#include "cpu/insn.h"
#include "cpu/model.h"
#include "cpu/state.h"
#include "mem/address_space.h"

namespace husk::cpu::jit {
class Engine;
class Translator;
}  // namespace husk::cpu::jit

namespace husk::cpu::interp {

/// Exception vectors (SDM vol. 3, table 6-1).
enum Vector : std::uint8_t {
  kDE = 0, kDB = 1, kNMI = 2, kBP = 3, kOverflow = 4, kBR = 5, kUD = 6, kNM = 7, kDF_ = 8, kTS = 10, kNP = 11,
  kSS_ = 12, kGP = 13, kPF_ = 14, kMF = 16, kACheck = 17, kMC = 18, kXM = 19,
};

/// An exception waiting to be delivered, or an interrupt being delivered.
struct Event {
  enum class Kind : std::uint8_t {
    fault,               ///< exception; RIP is that of the instruction (RF set in the pushed image)
    trap,                ///< exception after the instruction (#DB of single step or data breakpoint): RIP is the next
    software_interrupt,  ///< INT n: DPL is checked, RIP is the next
    software_exception,  ///< INT3, INTO: DPL is checked, RIP is the next
    privileged_software, ///< INT1: no DPL check, RIP is the next
    external,            ///< INTR
    nmi,
    vm_exit,             ///< no event of the guest's: #VMEXIT, for the reason in Core::exit_ (see Core::vm_exit())
  } kind = Kind::fault;
  std::uint8_t vector = 0;
  bool has_error = false;
  std::uint32_t error = 0;
  std::uint64_t cr2 = 0;        ///< #PF
  std::uint64_t dr6_bits = 0;   ///< #DB: bits to set in DR6
};

enum class AccessKind : std::uint8_t { read, write, execute };

/// Page-fault error code bits (SDM vol. 3, 4.7).
enum PageFaultError : std::uint32_t { kPfPresent = 1, kPfWrite = 2, kPfUser = 4, kPfReserved = 8, kPfFetch = 16, kPfKey = 32 };

/// A linear address turned physical, with what the TLB needs to know.
struct Translation {
  std::uint64_t gpa = 0;
  std::uint64_t page_size = 4096;
  bool writable = false;  ///< a write by the same privilege would succeed without touching the tables (D already set)
  bool global = false;
};

/// Counters and hooks for traces; every call is guarded by a mask test.
class TraceSink {
 public:
  virtual ~TraceSink() = default;
  enum Category : std::uint32_t { kExceptions = 1, kInterrupts = 2, kIo = 4, kMsr = 8, kMmio = 16, kExec = 32, kBlocks = 64 };
  virtual void exception(const Core&, const Event&) = 0;
  virtual void interrupt(const Core&, const Event&) = 0;
  virtual void io(const Core&, bool write, std::uint16_t port, unsigned size, std::uint64_t value) = 0;
  virtual void mmio(const Core&, bool write, std::uint64_t gpa, unsigned size, std::uint64_t value) = 0;
  virtual void msr(const Core&, bool write, std::uint32_t index, std::uint64_t value, bool fault) = 0;
  virtual void exec(const Core&, const Insn&) = 0;
};

/// One past exception or interrupt, kept for crash reports.
struct PastEvent {
  Event event;
  std::uint64_t rip = 0;   ///< instruction that faulted, or was interrupted
  std::uint16_t cs = 0;
  std::uint64_t count = 0; ///< instructions executed until then
};

/// Everything outside the CPU that it talks to.
struct CoreDeps {
  unsigned index = 0;  ///< vCPU number
  const CpuModel& model;
  mem::AddressSpace& memory;
  mem::AddressSpace& io;
  core::CpuInterrupts& interrupts;
  const core::Clock& clock;
  Log& log;
  std::uint64_t tsc_hz = 1'000'000'000;
  /// FERR#, asserted when an x87 instruction waits, an exception is pending and CR0.NE is 0 (IRQ 13 of a PC); answers
  /// whether IGNNE# lets the CPU go on. Not asserted: the exception is gone. Without one the CPU goes on.
  std::function<bool(bool asserted)> floating_point_error{};
};

/// Why run() came back.
enum class RunExit : std::uint8_t {
  stop_requested,  ///< request_stop()
  halted,          ///< HLT or MWAIT: nothing to do until attention; call run() again after a wake-up
  shutdown,        ///< triple fault; last_events() tell the story
  debug,           ///< breakpoint, watchpoint or step asked for by the debugger
  quantum,         ///< the number of instructions given to run() has been executed
};

class BlockCache;

/// Runs guest code faster than handlers do, where it can: the JIT. Called on the CPU's own thread only.
class CodeEngine {
 public:
  virtual ~CodeEngine() = default;
  /// In place of one block: runs from the current CS:RIP on until something needs Core::run().
  virtual Flow run(Core& core) = 0;
  /// As Core::code_written(), for the engine's own code.
  virtual bool code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) = 0;
  /// Linear addresses mean something else now; global pages too unless `keep_global`.
  virtual void space_changed(bool keep_global) = 0;
  virtual void page_flushed(std::uint64_t linear) = 0;
  /// Cached writability of one page of RAM, or of all (null), is no longer valid. True if there was any.
  virtual bool write_access_dropped(const std::uint8_t* host_page) = 0;
  /// The interpreter decoded more of a page of RAM.
  virtual void code_decoded(const std::uint8_t* host_page) = 0;
};

class Core final : public core::CpuPins {
 public:
  explicit Core(CoreDeps deps);
  ~Core() override;
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // ---- life ----
  /// Power-on or platform reset; the boot processor runs, others wait for SIPI if `bootstrap` is false.
  void reset(bool bootstrap);
  /// Runs until something below happens, at most about `max_instructions`.
  RunExit run(std::uint64_t max_instructions);
  /// Replaces the whole state (load, debugger); everything derived from it is recomputed. Signals that have come and
  /// were not looked at yet stay.
  void set_state(const CpuState& state);
  /// The state with the signals that have come (NMI, INIT, SIPI): all that another CPU needs to go on from here.
  CpuState whole_state() const;
  /// The opposite: signals that have come are those of `state` from now on.
  void set_whole_state(const CpuState& state);

  // ---- CpuPins: any thread ----
  void interrupt_changed() override { signal(kAttentionInterrupt); }
  void nmi() override { signal(kAttentionNmi); }
  void smi() override { signal(kAttentionSmi); }
  void init() override { signal(kAttentionInit); }
  void startup(std::uint8_t vector) override {
    sipi_vector_.store(vector, std::memory_order_relaxed);
    signal(kAttentionSipi);
  }
  void request_stop() { signal(kAttentionStop); }
  /// As code_written() and drop_write_access() below, from any thread while the CPU may run: done soon, on its own thread.
  void request_code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length);
  void request_drop_write_access(mem::RamRegion& ram, std::uint64_t page_offset);
  void request_drop_write_access();
  /// Asks the CPU to drop its TLB or its decoded code before the next instruction (layout changed, another vCPU wrote code).
  void request_tlb_flush() { signal(kAttentionTlb); }
  /// Set by the accelerator: called (from any thread) after an attention bit was set, to end a wait for it.
  void on_wake(std::function<void()> wake) { wake_ = std::move(wake); }
  bool attention_pending() const { return attention_.load(std::memory_order_acquire) != 0; }
  /// False while halted with nothing to wake it. Called by the CPU's own thread.
  bool runnable();
  /// To be given before the first run(); outlives the core's runs.
  void set_engine(CodeEngine* engine) { engine_ = engine; }

  // ---- architectural state: handlers use it directly ----
  CpuState s;
  const CpuModel& model;

  template <unsigned Size>
  using UintOf = std::conditional_t<Size == 1, std::uint8_t,
                 std::conditional_t<Size == 2, std::uint16_t, std::conditional_t<Size == 4, std::uint32_t, std::uint64_t>>>;

  /// Register operand of Size bytes; `reg` may carry kHighByte when Size is 1. 32-bit writes clear the upper half.
  template <unsigned Size>
  UintOf<Size> reg(unsigned number) const {
    if constexpr (Size == 1) {
      if (number & kHighByte) return static_cast<std::uint8_t>(s.gpr[number & 3] >> 8);
    }
    return static_cast<UintOf<Size>>(s.gpr[number]);
  }
  template <unsigned Size>
  void set_reg(unsigned number, std::type_identity_t<UintOf<Size>> value) {
    if constexpr (Size == 1) {
      const unsigned shift = (number & kHighByte) ? 8 : 0;
      std::uint64_t& r = s.gpr[number & (shift ? 3u : 15u)];
      r = (r & ~(std::uint64_t{0xFF} << shift)) | (std::uint64_t{value} << shift);
    } else if constexpr (Size == 2) {
      s.gpr[number] = (s.gpr[number] & ~std::uint64_t{0xFFFF}) | value;
    } else {
      s.gpr[number] = value;
    }
  }

  // ---- addresses ----
  /// Effective address of the memory operand, cut to the address size; not yet with the segment base.
  std::uint64_t effective_address(const Insn& insn) const {
    std::uint64_t ea = static_cast<std::uint64_t>(static_cast<std::int64_t>(insn.disp));
    if (insn.base == kRipBase) ea += s.rip + insn.length;
    else if (insn.base != kNoRegister) ea += s.gpr[insn.base];
    if (insn.index != kNoRegister) ea += s.gpr[insn.index] << insn.scale;
    if (insn.addr_size == 8) return ea;
    return insn.addr_size == 4 ? static_cast<std::uint32_t>(ea) : static_cast<std::uint16_t>(ea);
  }
  bool code64() const { return code_size_ == CodeSize::bits64; }
  CodeSize code_size() const { return code_size_; }
  /// Bytes of the stack pointer in use: 2, 4 or 8.
  unsigned stack_size() const { return stack_size_; }
  unsigned cpl() const { return cpl_; }

  // ---- memory of the current privilege, through segment and paging ----
  /// Loads or stores T (an unsigned integer, or a trivially copyable block of at most 64 bytes). False: fault recorded.
  /// Nothing is written if any byte of the operand would fault.
  template <class T>
  [[nodiscard]] bool load(unsigned seg, std::uint64_t ea, T& out) {
    const std::uint64_t la = (ea + fast_[seg].base) & linear_mask_;
    const TlbEntry& entry = tlb_entry(la);
    if (ea + (sizeof(T) - 1) < fast_[seg].read_end && entry.read_tag == tag_of(la, sizeof(T))) [[likely]] {
      std::memcpy(&out, reinterpret_cast<const void*>(entry.addend + la), sizeof(T));
      if constexpr (std::is_integral_v<T> && std::endian::native == std::endian::big) out = byte_swap(out);
      return true;
    }
    std::uint8_t raw[sizeof(T)];
    if (!load_slow(seg, ea, raw, sizeof(T))) return false;
    if constexpr (std::is_integral_v<T>) out = load_le<T>(raw);
    else std::memcpy(&out, raw, sizeof(T));
    return true;
  }
  template <class T>
  [[nodiscard]] bool store(unsigned seg, std::uint64_t ea, const T& value) {
    const std::uint64_t la = (ea + fast_[seg].base) & linear_mask_;
    const TlbEntry& entry = tlb_entry(la);
    if (ea + (sizeof(T) - 1) < fast_[seg].write_end && entry.write_tag == tag_of(la, sizeof(T))) [[likely]] {
      T wire = value;
      if constexpr (std::is_integral_v<T> && std::endian::native == std::endian::big) wire = byte_swap(wire);
      std::memcpy(reinterpret_cast<void*>(entry.addend + la), &wire, sizeof(T));
      return true;
    }
    std::uint8_t raw[sizeof(T)];
    if constexpr (std::is_integral_v<T>) store_le<T>(raw, value);
    else std::memcpy(raw, &value, sizeof(T));
    return store_slow(seg, ea, raw, sizeof(T));
  }
  /// As load/store, but #GP(0) if the linear address is not a multiple of sizeof(T).
  template <class T>
  [[nodiscard]] bool load_aligned(unsigned seg, std::uint64_t ea, T& out) {
    return aligned_or_fault(seg, ea, sizeof(T)) && load(seg, ea, out);
  }
  template <class T>
  [[nodiscard]] bool store_aligned(unsigned seg, std::uint64_t ea, const T& value) {
    return aligned_or_fault(seg, ea, sizeof(T)) && store(seg, ea, value);
  }
  /// Read-modify-write: checks that the bytes are writable (faulting as a write), then memory = change(old). Atomic
  /// against other vCPUs if `locked`. `change` must have no side effects: it may be called again when locked.
  template <class T, class Change>
  [[nodiscard]] bool modify(unsigned seg, std::uint64_t ea, bool locked, Change&& change) {
    const std::uint64_t la = (ea + fast_[seg].base) & linear_mask_;
    const TlbEntry& entry = tlb_entry(la);
    if (ea + (sizeof(T) - 1) < fast_[seg].write_end && entry.write_tag == tag_of(la, sizeof(T)) &&
        entry.read_tag == entry.write_tag && std::endian::native == std::endian::little) [[likely]] {
      T* const host = reinterpret_cast<T*>(entry.addend + la);
      if (!locked) {
        T old;
        std::memcpy(&old, host, sizeof(T));
        const T value = change(old);
        std::memcpy(host, &value, sizeof(T));
        return true;
      }
      if (la % sizeof(T) == 0) {
        T old = __atomic_load_n(host, __ATOMIC_SEQ_CST);
        while (!__atomic_compare_exchange_n(host, &old, change(old), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
        return true;
      }
    }
    return modify_slow(seg, ea, sizeof(T), locked, [&](std::uint64_t old) -> std::uint64_t { return change(static_cast<T>(old)); });
  }
  /// CMPXCHG16B's access: `change` gets and replaces {low, high}; returns whether to write. 16-byte alignment is checked by the caller.
  [[nodiscard]] bool modify128(unsigned seg, std::uint64_t ea, bool locked,
                               const std::function<std::array<std::uint64_t, 2>(std::array<std::uint64_t, 2>)>& change);
  /// Fails as a write (read) of `size` bytes would; for instructions that must check before they change anything.
  [[nodiscard]] bool probe(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind);
  /// Host pointer to [ea, ea+size) if it is plain RAM inside one page, already translated and allowed; else null. Never faults.
  std::uint8_t* host_pointer(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind);

  /// Stack, through SS with the stack's address size. pop reads at SP+`skip` and does not move SP.
  template <class T>
  [[nodiscard]] bool push(T value) {
    const std::uint64_t sp = stack_address(s.gpr[kRsp] - sizeof(T));
    if (!store<T>(kSs, sp, value)) return false;
    set_stack_pointer(sp);
    return true;
  }
  template <class T>
  [[nodiscard]] bool peek(T& out, std::uint64_t skip = 0) {
    return load<T>(kSs, stack_address(s.gpr[kRsp] + skip), out);
  }
  std::uint64_t stack_address(std::uint64_t sp) const { return sp & stack_mask_; }
  /// Writes SP, ESP or RSP, whichever the stack uses (ESP writes clear the upper half only outside 16-bit stacks).
  void set_stack_pointer(std::uint64_t sp) { s.gpr[kRsp] = (s.gpr[kRsp] & ~stack_mask_) | (sp & stack_mask_); }

  // ---- system accesses: supervisor, linear or physical ----
  /// Linear address with supervisor rights whatever the CPL (descriptor tables, TSS). Little-endian.
  template <class T>
  [[nodiscard]] bool load_system(std::uint64_t linear, T& out) {
    std::uint8_t raw[sizeof(T)];
    implicit_access_ = true;
    const bool ok = access_linear(linear, raw, sizeof(T), AccessKind::read, false);
    implicit_access_ = false;
    if (ok) out = load_le<T>(raw);
    return ok;
  }
  template <class T>
  [[nodiscard]] bool store_system(std::uint64_t linear, T value) {
    std::uint8_t raw[sizeof(T)];
    store_le<T>(raw, value);
    implicit_access_ = true;
    const bool ok = access_linear(linear, raw, sizeof(T), AccessKind::write, false);
    implicit_access_ = false;
    return ok;
  }
  /// Reads or writes `size` bytes at a linear address as user or supervisor; may cross pages. False: fault recorded.
  [[nodiscard]] bool access_linear(std::uint64_t linear, std::uint8_t* data, unsigned size, AccessKind kind, bool user);
  /// Port access, with trace. Permission has been checked (check_io_permission).
  std::uint64_t io_read(std::uint16_t port, unsigned size);
  void io_write(std::uint16_t port, unsigned size, std::uint64_t value);

  // ---- paging (paging.cpp) ----
  /// Walks the page tables for one linear address, sets accessed/dirty bits. False: #PF (or #GP for non-canonical) recorded.
  [[nodiscard]] bool translate(std::uint64_t linear, AccessKind kind, bool user, Translation& out);
  void flush_tlb_all();
  void flush_tlb_non_global();
  void flush_tlb_page(std::uint64_t linear);
  bool canonical(std::uint64_t linear) const {
    const unsigned unused = (s.cr4 & kCr4La57) ? 7 : 16;
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << unused) >> unused) == linear;
  }

  // ---- exceptions (exceptions.cpp) ----
  Flow raise(std::uint8_t vector) { return record_fault({.vector = vector}); }
  Flow raise(std::uint8_t vector, std::uint32_t error) {
    return record_fault({.vector = vector, .has_error = true, .error = error});
  }
  Flow raise_gp() { return raise(kGP, 0); }
  Flow raise_ud() { return raise(kUD); }
  Flow record_fault(const Event& event) {
    fault_ = event;
    return Flow::fault;
  }
  const Event& fault() const { return fault_; }
  /// Delivers an event through IVT or IDT, with double- and triple-fault rules. Ends with the new CS:RIP in `s`, or in
  /// shutdown.
  void deliver(Event event);
  /// To be called after a change of DR0..DR7 or of the debugger's watchpoints: which accesses must look closely.
  void update_debug();
  /// #DB after the instruction for single step and data breakpoints; called at instruction ends when armed.
  void note_debug_trap(std::uint64_t dr6_bits) { s.pending_debug |= dr6_bits; }

  // ---- SVM (svm.cpp) ----
  /// True if the guest of a VMRUN runs and what has this exit code is intercepted.
  bool intercepts(unsigned code) const { return s.svm.guest && bit(s.svm.intercepts[code / 32], code % 32); }
  /// #VMEXIT in place of the current instruction: comes up as a fault does, and happens in deliver().
  Flow vm_exit(std::uint64_t code, std::uint64_t info1 = 0, std::uint64_t info2 = 0, std::uint64_t next_rip = 0) {
    exit_ = {code, info1, info2, next_rip};
    return record_fault({.kind = Event::Kind::vm_exit});
  }

  // ---- segments and mode (segments.cpp) ----
  /// Recomputes all that is derived from CR0/CR4/EFER/CS/SS/RFLAGS: code size, CPL, segment limits for the fast path,
  /// linear mask, MMU index. To be called after any change of these.
  void update_mode();
  /// Only the MMU index: after changes of RFLAGS.AC (stac, clac, popf).
  void update_mmu_index();
  /// Loads a segment register with all checks of MOV/POP/LxS in the current mode. CS is not loaded here. False: fault recorded.
  [[nodiscard]] bool load_segment(unsigned seg, std::uint16_t selector);
  /// Far transfers: JMP, CALL (op_size of pushes), RETF, IRET in every form. `next_rip` goes into the old TSS if the
  /// transfer is a task switch.
  Flow far_jump(std::uint16_t selector, std::uint64_t offset, unsigned op_size, std::uint64_t next_rip);
  Flow far_call(std::uint16_t selector, std::uint64_t offset, unsigned op_size, std::uint64_t return_rip);
  Flow far_return(unsigned op_size, std::uint16_t release);
  Flow interrupt_return(unsigned op_size, std::uint64_t next_rip);
  /// INT n, INT3, INTO, INT1 from the guest; `next_rip` is pushed.
  Flow software_interrupt(std::uint8_t vector, Event::Kind kind, std::uint64_t next_rip);
  /// True if CPL/IOPL/TSS bitmap allow the port access; else #GP(0) recorded.
  [[nodiscard]] bool check_io_permission(std::uint16_t port, unsigned size);

  // ---- system registers (system.cpp) ----
  Flow write_cr(unsigned number, std::uint64_t value);
  /// Nothing / false: #GP(0), not recorded.
  std::optional<std::uint64_t> read_msr(std::uint32_t index);
  bool write_msr(std::uint32_t index, std::uint64_t value);
  /// Tells the guest how time runs, if it asked for KVM's clock.
  void publish_kvm_clock();
  std::uint64_t tsc() const { return ticks_now() + s.msr.tsc_offset + (s.svm.guest ? s.svm.tsc_offset : 0); }
  std::uint64_t ticks_now() const { return core::ticks_at(deps_.clock.now(), deps_.tsc_hz); }
  /// RFLAGS writes of POPF/IRET: only bits in `mask` change; ends the block if IF, TF, AC, VM changed.
  void write_rflags(std::uint64_t value, std::uint64_t mask);

  // ---- control flow ----
  /// Sets rip for a near transfer: cut to op_size outside 64-bit mode; #GP(0) recorded beyond the CS limit or non-canonical.
  [[nodiscard]] bool near_jump(std::uint64_t target, unsigned op_size) {
    if (code64()) [[likely]] {
      if (!canonical(target)) [[unlikely]] {
        (void)raise_gp();
        return false;
      }
      s.rip = target;
      return true;
    }
    target &= op_size == 2 ? 0xFFFF : 0xFFFFFFFF;
    if (target > s.seg[kCs].limit) {
      (void)raise_gp();
      return false;
    }
    s.rip = target;
    return true;
  }
  /// True if the line that MONITOR armed holds something else now, or none is armed: MWAIT does not wait. Whoever waits
  /// for a CPU in Activity::mwait must ask again now and then (runnable() does): a store by another CPU wakes it.
  bool monitored_line_written();
  /// Ends the running block after the current instruction (mode changed, code written, interrupts enabled...).
  void end_block() { leave_block_ = true; }
  /// For STI, MOV SS, POP SS: no interrupts until after the next instruction.
  /// `holds_traps`: debug traps wait too (MOV SS, POP SS).
  void set_interrupt_shadow(bool holds_traps = true) {
    s.interrupt_shadow = true;
    s.shadow_holds_debug = holds_traps;
    leave_block_ = true;
  }

  /// True while string instructions must pause after each iteration.
  bool one_iteration() const { return step_iterations_; }

  // ---- decoded code ----
  /// Bytes [offset, offset+length) of a page of `ram` with kHasCode were written, by anyone: forget what was decoded
  /// from them. Called on this CPU's thread. Returns true if nothing decoded from that page is left.
  bool code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length);
  /// Forgets cached writability of every page (dirty log started) or of one page (it now holds code of some CPU).
  /// True if there was any.
  bool drop_write_access();
  bool drop_write_access(const std::uint8_t* host_page);
  /// Asked whether this CPU alone holds code of that page of RAM; without an answer it does not.
  void on_sole_holder(std::function<bool(mem::RamRegion&, std::uint64_t page_offset)> asked) {
    sole_holder_ = std::move(asked);
  }
  bool sole_code_holder(mem::RamRegion& ram, std::uint64_t page_offset) {
    return sole_holder_ && sole_holder_(ram, page_offset);
  }
  /// Granules (mem::granules_of) of a page of RAM that instructions were decoded from.
  std::uint64_t decoded_granules(const std::uint8_t* host_page) const;
  /// Does the work of a locked access to two pages that are not neighbours in RAM, one such at a time on all CPUs.
  void on_split_lock(std::function<void(const std::function<void()>& work)> one_at_a_time) {
    split_lock_ = std::move(one_at_a_time);
  }
  /// Called now and then while the guest waits in a loop (PAUSE).
  void on_spin(std::function<void()> told) { spinning_ = std::move(told); }
  void note_pause() {
    constexpr unsigned kPatience = 64;
    if (++pauses_ % kPatience == 0 && spinning_) spinning_();
  }
  /// Called when this CPU first decodes from a page, after its kHasCode is set: others must drop_write_access to it.
  void on_code_page(std::function<void(mem::RamRegion&, std::uint64_t page_offset)> told) { code_page_marked_ = std::move(told); }
  /// Called when a request_drop_write_access() of one page took access away: the page may have been written unnoticed.
  void on_late_drop(std::function<void(mem::RamRegion&, std::uint64_t page_offset)> told) { late_drop_ = std::move(told); }
  /// Called when a request_code_written() left nothing decoded from that page.
  void on_page_forgotten(std::function<void(mem::RamRegion&, std::uint64_t page_offset)> told) { page_forgotten_ = std::move(told); }

  // ---- accelerator, debugger, reports ----
  DebugRequest debug;
  std::uint64_t debug_hit_address = 0;  ///< watchpoint or breakpoint address of the last RunExit::debug
  TraceSink* trace = nullptr;
  std::uint32_t trace_mask = 0;
  std::uint64_t instructions() const { return instructions_; }
  /// Walks of the page tables, with paging on.
  std::uint64_t page_walks() const { return page_walks_; }
  /// Oldest first, at most kPastEvents.
  std::vector<PastEvent> past_events() const;
  static constexpr std::size_t kPastEvents = 16;
  const CoreDeps& deps() const { return deps_; }
  unsigned index() const { return deps_.index; }
  void set_a20_mask(std::uint64_t mask) {
    a20_mask_ = mask;
    request_tlb_flush();
  }
  std::uint64_t a20_mask() const { return a20_mask_; }

 private:
  friend class BlockCache;
  friend class jit::Engine;
  friend class jit::Translator;
  friend struct SystemOps;  ///< system_ops.h: descriptors, far transfers, task switches, delivery, page walks
  struct TlbEntry {
    std::uint64_t read_tag, write_tag;
    std::uintptr_t addend;  ///< host address minus linear address
    std::uint64_t global;   ///< nonzero: holds in every address space
  };
  struct ExecEntry {
    std::uint64_t tag;  ///< as in TlbEntry
    mem::RamRegion* ram;
    std::uint64_t offset;  ///< of the page in ram
    bool global;           ///< holds in every address space
  };
  struct FastSegment {
    std::uint64_t base = 0;
    std::uint64_t read_end = 0, write_end = 0;  ///< first offset that needs a closer look; 0: all do
  };
  static constexpr unsigned kTlbBits = 12;
  static constexpr std::size_t kTlbSize = std::size_t{1} << kTlbBits;
  /// Why the guest of a VMRUN is to be left (APM vol. 2, appendix C).
  struct VmExit {
    std::uint64_t code = 0, info1 = 0, info2 = 0;
    std::uint64_t next_rip = 0;  ///< 0 where the reason is no instruction
  };
  /// Tags are compared before an address is known to be canonical. No address meets this one nor the next: they name no
  /// address space, and those in use begin with 1.
  static constexpr std::uint64_t kInvalidTag = 0x8000'0000'0000'0000;
  /// write_tag, with the page, of one that could be written directly but for the code that is in it.
  static constexpr std::uint64_t kOnlyCodeForbids = 0x4000'0000'0000'0000;
  enum MmuIndex : unsigned { kMmuUser, kMmuSupervisor, kMmuSupervisorAc, kMmuCount };
  enum Attention : std::uint32_t {
    kAttentionInterrupt = 1, kAttentionNmi = 2, kAttentionSmi = 4, kAttentionInit = 8, kAttentionSipi = 16,
    kAttentionStop = 32, kAttentionTlb = 64, kAttentionPages = 128,
  };

  /// Which table holds the entries of an access that may be made on behalf of another privilege than the current one.
  unsigned mmu_index_for(bool user) const {
    return user ? unsigned{kMmuUser} : cpl_ == 3 || implicit_access_ ? unsigned{kMmuSupervisor} : mmu_index_;
  }
  /// Arrays that lie a multiple of the table's reach apart must not meet in one entry.
  static std::size_t tlb_index(std::uint64_t la) { return ((la >> 12) ^ (la >> (12 + kTlbBits))) & (kTlbSize - 1); }
  TlbEntry& tlb_entry(std::uint64_t la) { return tlb_[mmu_index_][tlb_index(la)]; }
  /// Page of the operand's last byte with the address-space tag: equal to the entry's only if the operand does not
  /// leave its page.
  std::uint64_t tag_of(std::uint64_t la, std::size_t size) const { return ((la + (size - 1)) & ~std::uint64_t{0xFFF}) | pcid_; }
  void signal(std::uint32_t bits) {
    attention_.fetch_or(bits, std::memory_order_acq_rel);
    if (wake_) wake_();
  }

  bool load_slow(unsigned seg, std::uint64_t ea, std::uint8_t* data, unsigned size);
  bool store_slow(unsigned seg, std::uint64_t ea, const std::uint8_t* data, unsigned size);
  bool modify_slow(unsigned seg, std::uint64_t ea, unsigned size, bool locked,
                   const std::function<std::uint64_t(std::uint64_t)>& change);
  /// The host's address of bytes of one page, if they are RAM that may be written. Null: or a fault was recorded.
  std::uint8_t* writable_ram(std::uint64_t linear, unsigned size, mem::Target& target);
  /// Atomic against other CPUs. False if the bytes are not in RAM, or the host cannot: nothing was done.
  bool exchange_locked(std::uint64_t linear, unsigned size, const std::function<std::uint64_t(std::uint64_t)>& change);
  bool aligned_or_fault(unsigned seg, std::uint64_t ea, std::size_t size);
  /// Segment checks (limit, type, null, canonical) and alignment check; gives the linear address. False: fault recorded.
  bool segment_access(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind, std::uint64_t& linear);
  /// Translates and, for RAM, enters the page into the TLB.
  bool translate_cached(std::uint64_t linear, AccessKind kind, bool user, std::uint64_t& gpa);
  void fill_tlb(std::uint64_t linear, const Translation& t, AccessKind kind, bool user);
  bool physical_access(std::uint64_t gpa, std::uint8_t* data, unsigned size, AccessKind kind);
  void check_watch(std::uint64_t linear, unsigned size, AccessKind kind);
  /// True: to stop was asked. All that was asked is taken at once, so that nothing asked meanwhile is lost.
  bool handle_attention();
  void handle_page_requests();
  /// Takes the highest-priority pending event between instructions; true if one was delivered.
  bool take_pending();
  void take_injected();
  /// The RAM page that code at `linear` is fetched from, null if it is not RAM. False: fault recorded.
  bool fetch_page(std::uint64_t linear, const ExecEntry*& entry);
  Flow run_block();
  /// Sees to it that writes to a page are noticed before its bytes are decoded.
  void mark_code_page(mem::RamRegion& ram, std::uint64_t page_offset);
  /// Executes one instruction with every debug check. True: run() must return `exit`.
  bool run_carefully(RunExit& exit);
  Flow execute_uncached();
  bool fetch_bytes(std::uint64_t linear, std::uint8_t* bytes, unsigned count, unsigned& got);
  /// Chooses the handler from the form's attributes and the current mode.
  Handler select_handler(const Insn& insn) const;
  /// Recomputes block_key_; called at the end of update_mode().
  void update_block_key();
  bool careful() const;
  /// True if a debugger's breakpoint may lie in the block at RIP.
  bool breakpoint_near() const;
  bool instruction_breakpoint(RunExit& exit);

  CoreDeps deps_;
  std::atomic<std::uint32_t> attention_{0};
  std::atomic<std::uint8_t> sipi_vector_{0};
  std::function<void()> wake_;
  std::function<void(mem::RamRegion&, std::uint64_t)> code_page_marked_, late_drop_, page_forgotten_;
  std::function<bool(mem::RamRegion&, std::uint64_t)> sole_holder_;
  std::function<void()> spinning_;
  std::function<void(const std::function<void()>&)> split_lock_;
  unsigned pauses_ = 0;
  /// What other threads ask about pages of RAM.
  struct PageRequest {
    mem::RamRegion* ram;   ///< null: write access to every page
    std::uint64_t offset;
    std::uint64_t length;  ///< 0: drop write access to the page; else code_written()
  };
  std::mutex page_requests_mutex_;
  std::vector<PageRequest> page_requests_;
  bool leave_block_ = false;
  CodeSize code_size_ = CodeSize::bits16;
  unsigned cpl_ = 0;
  unsigned stack_size_ = 2;
  std::uint64_t stack_mask_ = 0xFFFF;
  std::uint64_t linear_mask_ = 0xFFFFFFFF;
  std::uint64_t pcid_ = 0;  ///< low 12 bits of TLB tags: stands for the address space (CR3, PCID) in use; see paging.cpp
  unsigned mmu_index_ = kMmuSupervisor;
  std::atomic<std::uint64_t> a20_mask_ = ~std::uint64_t{0};  ///< set by any thread
  std::array<FastSegment, 6> fast_;
  Event fault_;
  VmExit exit_;                           ///< of a fault_ that is Event::Kind::vm_exit
  std::uint64_t delivery_under_way_ = 0;  ///< EXITINTINFO of a software interrupt that met fault_
  bool entered_guest_ = false;            ///< the instruction was a VMRUN: TF says nothing of it
  std::uint64_t last_pause_ = 0;          ///< ticks; of the PAUSE filter's threshold
  bool watch_active_ = false;  ///< guest or debugger data watch: every access takes the slow path
  bool watch_hit_ = false;
  bool step_iterations_ = false;   ///< careful_, for something that may happen between iterations of a string instruction
  bool careful_ = false;           ///< single instructions (and string iterations), with debug checks
  bool interrupt_waiting_ = false; ///< deps_.interrupts may have something once IF and the shadow allow it
  bool skip_breakpoint_ = false;   ///< the debugger resumes from a breakpoint
  std::uint32_t block_key_ = 0;    ///< mode bits that change what bytes mean or which checks they take
  std::uint64_t instructions_ = 0;
  std::uint64_t page_walks_ = 0;
  std::array<PastEvent, kPastEvents> past_{};
  std::size_t past_count_ = 0;
  /// Address-space tags (paging.cpp): [pcid] -> tag, 0 for none given yet.
  using SpaceTags = std::array<std::uint16_t, 4096>;
  SpaceTags space_tags_{};
  /// The same for guests of VMRUN, by ASID; the oldest makes room for another.
  struct GuestSpace {
    std::uint32_t asid = 0;
    std::unique_ptr<SpaceTags> tags;
  };
  std::array<GuestSpace, 8> guest_spaces_;
  std::size_t next_guest_space_ = 0;
  SpaceTags* tags_ = &space_tags_;  ///< those in use
  /// Nested translations that the guest in use has needed lately, by guest-physical page.
  struct NestedEntry {
    std::uint64_t page = 1;  ///< no page has this number
    std::uint64_t host = 0;
    bool writable = false, executable = false;
  };
  std::array<NestedEntry, 512> nested_tlb_{};
  std::uint32_t nested_space_ = 0;  ///< ASID and nested CR3 that they belong to
  std::uint64_t nested_root_ = 0;
  std::uint16_t next_space_tag_ = 1;
  // Programs and the system's map of all memory must not meet in one entry.
  static std::size_t large_index(std::uint64_t la) { return ((la >> 21) & 1023) | (la >> 63) << 10; }
  static std::size_t huge_index(std::uint64_t la) { return ((la >> 30) & 511) | (la >> 63) << 9; }
  std::array<bool, 2048> large_seen_{};  ///< [large_index()]: a large page may be cached as 4K pieces
  std::array<bool, 1024> huge_seen_{};   ///< [huge_index()]: a page of 1G may be
  std::uint8_t* walk_ram_ = nullptr;     ///< the RAM that the last page-table entry was in: host address, gpa, length
  std::uint64_t walk_ram_gpa_ = 0, walk_ram_length_ = 0;
  mem::RamRegion* walk_region_ = nullptr;
  std::uint64_t walk_region_offset_ = 0;
  bool trap_by_result_ = false;     ///< the instruction is a SYSCALL or SYSRET
  struct Monitor {
    bool armed = false;
    std::uint64_t gpa = 0;
    std::array<std::uint64_t, 8> line{};
  } monitor_;
  bool implicit_access_ = false;  ///< the access is to a system structure: SMAP holds whatever RFLAGS.AC says
  std::array<std::array<TlbEntry, kTlbSize>, kMmuCount> tlb_{};
  /// Number modulo 2^16 of the host page that the entry was given, to find entries by.
  std::array<std::array<std::uint16_t, kTlbSize>, kMmuCount> tlb_host_tags_{};
  std::array<std::array<ExecEntry, kTlbSize>, 2> exec_tlb_{};  ///< [user]
  std::unique_ptr<BlockCache> blocks_;
  CodeEngine* engine_ = nullptr;
  /// The engine's own data, at a fixed distance from the state above, so that its code reaches both through one register.
  /// Not initialised here: untouched pages cost nothing without an engine.
  static constexpr std::size_t kEngineBytes = std::size_t{1700} << 10;
  struct alignas(64) EngineArea {
    EngineArea() {}  // NOLINT(modernize-use-equals-default): = default would fill with zeros
    std::byte bytes[kEngineBytes];
  } engine_area_;
};

/// Handlers by semantics and operand size (index 0..3 for 1, 2, 4, 8 bytes).
class HandlerTable {
 public:
  HandlerTable() : handlers_(sem_count()) {}
  void set(Sem sem, Handler all) { handlers_[static_cast<std::size_t>(sem)] = {all, all, all, all}; }
  void set(Sem sem, Handler size1, Handler size2, Handler size4, Handler size8) {
    handlers_[static_cast<std::size_t>(sem)] = {size1, size2, size4, size8};
  }
  /// Null if nothing was bound.
  Handler find(Sem sem, unsigned op_size) const {
    return handlers_[static_cast<std::size_t>(sem)][static_cast<unsigned>(std::countr_zero(op_size))];
  }

 private:
  std::vector<std::array<Handler, 4>> handlers_;
};
void bind_integer(HandlerTable& table);
void bind_string(HandlerTable& table);
void bind_control(HandlerTable& table);
void bind_system(HandlerTable& table);
void bind_x87(HandlerTable& table);
void bind_mmx_sse(HandlerTable& table);
void bind_avx(HandlerTable& table);
void bind_crypto(HandlerTable& table);
/// All of the above, made once.
const HandlerTable& handler_table();

}  // namespace husk::cpu::interp
