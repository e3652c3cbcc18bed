// husk: what segment loads, far transfers, task switches and event delivery share
#pragma once

#include "cpu/interp/core.h"
#include "cpu/sem.h"
#include "cpu/walk.h"

namespace husk::cpu::interp {

/// A segment or gate descriptor of 8 bytes, or 16 in long mode for system descriptors.
struct Descriptor {
  std::uint64_t low = 0;
  std::uint64_t high = 0;  ///< only for 16-byte descriptors
  std::uint64_t address = 0;  ///< linear address it was read from

  unsigned type() const { return static_cast<unsigned>(bits(low, 40, 4)); }
  bool code_or_data() const { return bit(low, 44); }
  unsigned dpl() const { return static_cast<unsigned>(bits(low, 45, 2)); }
  bool present() const { return bit(low, 47); }
  bool long_mode() const { return bit(low, 53); }
  bool big() const { return bit(low, 54); }
  bool is_code() const { return code_or_data() && (type() & 8); }
  bool is_data() const { return code_or_data() && !(type() & 8); }
  bool conforming() const { return is_code() && (type() & 4); }
  bool readable() const { return code_or_data() && (!(type() & 8) || (type() & 2)); }
  bool writable_data() const { return is_data() && (type() & 2); }
  std::uint64_t base() const { return bits(low, 16, 24) | (bits(low, 56, 8) << 24) | (bits(high, 0, 32) << 32); }
  std::uint32_t limit() const {
    const auto raw = static_cast<std::uint32_t>(bits(low, 0, 16) | (bits(low, 48, 4) << 16));
    return bit(low, 55) ? (raw << 12) | 0xFFF : raw;
  }
  std::uint16_t attributes() const { return static_cast<std::uint16_t>(bits(low, 40, 8) | (bits(low, 52, 4) << 12)); }
  Segment segment(std::uint16_t selector) const {
    return {.selector = selector, .attributes = attributes(), .limit = limit(), .base = base()};
  }
  // Gates.
  std::uint16_t gate_selector() const { return static_cast<std::uint16_t>(bits(low, 16, 16)); }
  std::uint64_t gate_offset() const { return bits(low, 0, 16) | (bits(low, 48, 16) << 16) | (bits(high, 0, 32) << 32); }
  unsigned gate_parameters() const { return static_cast<unsigned>(bits(low, 32, 5)); }
  unsigned gate_ist() const { return static_cast<unsigned>(bits(low, 32, 3)); }
};

/// Types of system descriptors (SDM vol. 3, table 3-2).
enum SystemType : unsigned {
  kTss16Available = 1, kLdt = 2, kTss16Busy = 3, kCallGate16 = 4, kTaskGate = 5, kInterruptGate16 = 6, kTrapGate16 = 7,
  kTss32Available = 9, kTss32Busy = 11, kCallGate32 = 12, kInterruptGate32 = 14, kTrapGate32 = 15,
};

constexpr bool null_selector(std::uint16_t selector) { return (selector & 0xFFFC) == 0; }
/// Error code for a fault about a selector.
constexpr std::uint32_t selector_error(std::uint16_t selector, bool external = false) {
  return (selector & 0xFFFCu) | (external ? 1u : 0u);
}

/// A stack being pushed to or popped from before the switch to it is final: nothing of CpuState changes.
struct StackCursor {
  Segment ss;
  std::uint64_t sp = 0;
  std::uint64_t mask = 0xFFFF;  ///< of the stack pointer
  unsigned cpl = 0;             ///< privilege of the accesses
  bool flat = false;            ///< 64-bit: no limit, canonical check
  std::uint32_t error = 0;      ///< error code of #SS
};

/// All members are static and act on the given Core; a friend of it. False or Flow::fault: fault recorded.
struct SystemOps {
  // descriptors (segments.cpp)
  [[nodiscard]] static bool read_descriptor(Core& core, std::uint16_t selector, std::uint8_t vector, bool external, Descriptor& out);
  /// Reads the upper half of a system descriptor in long mode and checks its type field is zero.
  [[nodiscard]] static bool read_descriptor_high(Core& core, std::uint16_t selector, std::uint8_t vector, bool external, Descriptor& d);
  /// As read_descriptor, but failure of the limit check only gives `found` false (LAR, LSL, VERR, VERW). False: #PF.
  [[nodiscard]] static bool find_descriptor(Core& core, std::uint16_t selector, Descriptor& out, bool& found);
  [[nodiscard]] static bool set_accessed(Core& core, Descriptor& d);
  [[nodiscard]] static bool set_tss_busy(Core& core, Descriptor& d, bool busy);
  static Segment real_segment(const Core& core, unsigned seg, std::uint16_t selector);
  static void load_null(Core& core, unsigned seg, std::uint16_t selector);
  static void set_code_segment(Core& core, const Descriptor& d, std::uint16_t selector, unsigned cpl);
  /// After a return to an outer level: DS, ES, FS, GS that the new level may not use become null.
  static void drop_inaccessible_segments(Core& core, unsigned new_cpl);
  [[nodiscard]] static bool check_code_target(Core& core, const Descriptor& d, std::uint64_t offset);
  /// L and D both set in long mode is no valid code segment.
  static bool bad_code_width(const Core& core, const Descriptor& d) {
    return core.s.long_mode_active() && d.long_mode() && d.big();
  }

  // stacks (far_transfer.cpp)
  static StackCursor current_stack(const Core& core);
  [[nodiscard]] static bool push(Core& core, StackCursor& stack, unsigned size, std::uint64_t value);
  [[nodiscard]] static bool pop(Core& core, StackCursor& stack, unsigned size, std::uint64_t& value);
  [[nodiscard]] static bool stack_linear(Core& core, const StackCursor& stack, std::uint64_t sp, unsigned size, std::uint64_t& linear);
  /// SS:ESP or RSP for an inner level from the TSS, SS checked. vector/external as in the faults of the caller.
  [[nodiscard]] static bool inner_stack(Core& core, unsigned new_cpl, bool external, StackCursor& out);
  [[nodiscard]] static bool long_stack(Core& core, unsigned offset, unsigned new_cpl, bool external, StackCursor& out);
  static void commit_stack(Core& core, const StackCursor& stack);

  // far transfers (far_transfer.cpp)
  static Flow real_far_jump(Core& core, std::uint16_t selector, std::uint64_t offset);
  static Flow protected_far_jump(Core& core, std::uint16_t selector, std::uint64_t offset, std::uint64_t next_rip);
  static Flow protected_far_call(Core& core, std::uint16_t selector, std::uint64_t offset, unsigned size, std::uint64_t return_rip);
  static Flow call_gate(Core& core, const Descriptor& gate, std::uint16_t gate_selector, bool call, std::uint64_t return_rip);
  static Flow call_gate_inner(Core& core, const Descriptor& gate, Descriptor& code, std::uint16_t code_selector,
                              std::uint64_t return_rip);
  static Flow real_return(Core& core, unsigned size, std::uint16_t release);
  static Flow protected_return(Core& core, unsigned size, std::uint16_t release);
  static Flow iret_real(Core& core, unsigned size);
  static Flow iret_v86(Core& core, unsigned size);
  static Flow iret_protected(Core& core, unsigned size, std::uint64_t next_rip);
  static Flow iret_to_v86(Core& core, std::uint64_t eip, std::uint16_t cs, std::uint64_t eflags, StackCursor stack);
  /// What RETF or IRET has popped so far, and where the rest is.
  struct Return {
    unsigned size = 0;
    std::uint64_t rip = 0;
    std::uint16_t cs = 0;
    std::uint64_t rflags = 0;      ///< IRET only
    bool iret = false;
    std::uint16_t release = 0;     ///< RETF imm16
    StackCursor stack;             ///< behind what was popped
  };
  static Flow return_to(Core& core, Return r);
  [[nodiscard]] static bool check_return_stack(Core& core, std::uint16_t selector, unsigned rpl, bool to64, Segment& ss);
  /// RFLAGS bits that IRET and POPF of this size may change at CPL and IOPL.
  static std::uint64_t flags_mask(const Core& core, unsigned size);

  // task switches (tasks.cpp)
  enum class TaskSource : std::uint8_t { jump, call, iret, gate };
  static Flow task_gate(Core& core, const Descriptor& gate, std::uint16_t gate_selector, TaskSource source, std::uint64_t next_rip);
  /// `error`: pushed on the new task's stack. `external`: EXT in the error codes of faults of the switch.
  static Flow task_switch(Core& core, std::uint16_t selector, TaskSource source, std::uint64_t next_rip, bool external,
                          std::optional<std::uint32_t> error, std::uint64_t rflags_image);

  // delivery (exceptions.cpp)
  static Flow deliver_once(Core& core, const Event& event, std::uint64_t return_rip);
  static Flow deliver_real(Core& core, const Event& event, std::uint64_t return_rip, std::uint64_t table, bool virtual_8086);
  static Flow deliver_protected(Core& core, const Event& event, std::uint64_t return_rip);
  static Flow deliver_long(Core& core, const Event& event, std::uint64_t return_rip);
  static std::uint64_t pushed_rflags(const Core& core, const Event& event);
  static void record_past(Core& core, const Event& event);
  static void enter_shutdown(Core& core);

  /// Delivers `event`, and what comes of trying to, with `return_rip` for its own frame. `under_way`: EXITINTINFO of what
  /// was being delivered before. `intercepts`: the event itself may be intercepted.
  static void deliver_chain(Core& core, Event event, std::uint64_t return_rip, std::uint64_t under_way, bool intercepts);

  // SVM (svm.cpp, svm_intercepts.cpp)
  /// #VMEXIT for the reason in exit_ (APM vol. 2, 15.6).
  static void leave_guest(Core& core, std::uint64_t interrupted);
  static void enter_guest(Core& core, std::uint64_t vmcb, std::uint64_t next_rip);
  /// The EXITINTINFO of an event.
  static std::uint64_t interruption_info(const Event& event);
  /// The check that comes before the handler of an instruction in a guest; null if nothing intercepts it.
  static Handler intercept_check(Sem sem);
  /// NMI and interrupts while a guest runs, or nothing while GIF is clear. True if one was delivered, or #VMEXIT.
  static bool take_guest_event(Core& core);
  /// Something that ends HLT while a guest runs.
  static bool guest_wakes(Core& core);
  static bool virtual_interrupt_ready(const Core& core) {
    const SvmState& svm = core.s.svm;
    return svm.virtual_interrupt && (svm.ignore_virtual_tpr || svm.virtual_priority > svm.virtual_tpr);
  }
  static void set_gif(Core& core, bool on);
  /// Has the run loop look for interrupts before the next instruction, whatever RFLAGS.IF says.
  static void look_for_events(Core& core);
  /// Whether the maps of the VMCB ask for #VMEXIT; PAUSE's filter likewise.
  static bool port_mapped(Core& core, std::uint16_t port, unsigned size);
  static bool msr_mapped(Core& core, std::uint32_t index, bool write);
  static bool pause_counts(Core& core);
  static bool monitor_armed(const Core& core) { return core.monitor_.armed; }
  static constexpr bool control_register(unsigned number) { return number <= 8 && bit(0x11D, number); }
  /// False: nested page fault, recorded as #VMEXIT.
  [[nodiscard]] static bool nested_walk(Core& core, std::uint64_t gpa, const WalkAccess& access, bool of_table,
                                        Core::NestedEntry& out);
  [[nodiscard]] static bool translate_nested(Core& core, std::uint64_t linear, AccessKind kind, bool user, Translation& out);
  static void note_large(Core& core, std::uint64_t linear, std::uint64_t page_size);
  static bool nested(const Core& core) { return core.s.svm.guest && core.s.svm.nested_paging; }
  /// Uses the tags of the host, or of the guest with this ASID.
  static void use_space(Core& core);
  static void forget_all_tags(Core& core);
  static void forget_asid(Core& core, std::uint32_t asid);
  static Flow vmrun(Core& core, const Insn& insn);
  static Flow stgi(Core& core, const Insn& insn);
  static Flow clgi(Core& core, const Insn& insn);
  static Flow invlpga(Core& core, const Insn& insn);
  static Flow vmload(Core& core, const Insn& insn);
  static Flow vmsave(Core& core, const Insn& insn);
  /// False: a write of this value is #GP(0), whatever lies in memory.
  static bool control_value_ok(const Core& core, unsigned number, std::uint64_t value);

  // paging (paging.cpp)
  static std::uint64_t read_entry(Core& core, std::uint64_t gpa, unsigned bytes);
  /// Sets bits in an entry if it still holds `expected`. False: it does not.
  static bool update_entry(Core& core, std::uint64_t gpa, unsigned bytes, std::uint64_t expected, std::uint64_t set);
  static std::uint8_t* entry_pointer(Core& core, std::uint64_t gpa, unsigned bytes);
  /// Loads PDPTE0..3 for PAE paging. False: #GP(0) recorded.
  [[nodiscard]] static bool load_pdptes(Core& core, std::uint64_t cr3);
  /// Takes up the tag of the address space that CR3 and CR4 select.
  static void select_space(Core& core);
  /// Forgets the entries of one PCID (all of them, global ones too).
  static void forget_space(Core& core, unsigned pcid);
  static void invalidate_large(Core& core, std::uint64_t linear, unsigned shift);

  // access to the private parts for handlers
  static void set_base(Core& core, unsigned seg, std::uint64_t base) {
    core.s.seg[seg].base = base;
    core.fast_[seg].base = base;
  }
  static void refresh_segment(Core& core, unsigned seg);
  static void set_trap_by_result(Core& core) { core.trap_by_result_ = true; }
  static void set_pkru(Core& core, std::uint32_t value);
  static void check_io_watch(Core& core, std::uint16_t port, unsigned size);
  /// MONITOR: remembers the line, so that MWAIT sees whether it has changed. False: fault recorded.
  [[nodiscard]] static bool watch_line(Core& core, std::uint64_t linear);
  static bool line_written(Core& core);
};

}  // namespace husk::cpu::interp
