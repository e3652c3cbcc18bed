// husk: the architectural state of one x86 CPU, the same for every accelerator
#pragma once

#include <array>
#include <cstdint>

namespace husk::cpu {

enum Gpr : std::uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR11, kR12, kR13, kR14, kR15 };
enum SegmentIndex : std::uint8_t { kEs, kCs, kSs, kDs, kFs, kGs };

/// RFLAGS bits (SDM vol. 1, 3.4.3).
enum Flag : std::uint64_t {
  kCF = 1u << 0, kReservedOne = 1u << 1, kPF = 1u << 2, kAF = 1u << 4, kZF = 1u << 6, kSF = 1u << 7, kTF = 1u << 8,
  kIF = 1u << 9, kDF = 1u << 10, kOF = 1u << 11, kIOPL = 3u << 12, kNT = 1u << 14, kRF = 1u << 16, kVM = 1u << 17,
  kAC = 1u << 18, kVIF = 1u << 19, kVIP = 1u << 20, kID = 1u << 21,
  kArithmeticFlags = kCF | kPF | kAF | kZF | kSF | kOF,
};
enum Cr0 : std::uint64_t {
  kCr0Pe = 1u << 0, kCr0Mp = 1u << 1, kCr0Em = 1u << 2, kCr0Ts = 1u << 3, kCr0Et = 1u << 4, kCr0Ne = 1u << 5,
  kCr0Wp = 1u << 16, kCr0Am = 1u << 18, kCr0Nw = 1u << 29, kCr0Cd = 1u << 30, kCr0Pg = 1u << 31,
};
enum Cr4 : std::uint64_t {
  kCr4Vme = 1u << 0, kCr4Pvi = 1u << 1, kCr4Tsd = 1u << 2, kCr4De = 1u << 3, kCr4Pse = 1u << 4, kCr4Pae = 1u << 5,
  kCr4Mce = 1u << 6, kCr4Pge = 1u << 7, kCr4Pce = 1u << 8, kCr4Osfxsr = 1u << 9, kCr4Osxmmexcpt = 1u << 10,
  kCr4Umip = 1u << 11, kCr4La57 = 1u << 12, kCr4Fsgsbase = 1u << 16, kCr4Pcide = 1u << 17, kCr4Osxsave = 1u << 18,
  kCr4Smep = 1u << 20, kCr4Smap = 1u << 21, kCr4Pke = 1u << 22,
};
enum Efer : std::uint64_t { kEferSce = 1u << 0, kEferLme = 1u << 8, kEferLma = 1u << 10, kEferNxe = 1u << 11, kEferSvme = 1u << 12, kEferFfxsr = 1u << 14 };

/// A segment register with its hidden part. `attributes` is laid out as bits 40..55 of a descriptor, limit bits taken
/// out: type 0..3, S 4, DPL 5..6, P 7, AVL 12, L 13, D/B 14, G 15. `limit` is in bytes, granularity applied.
struct Segment {
  std::uint16_t selector = 0;
  std::uint16_t attributes = 0;
  std::uint32_t limit = 0;
  std::uint64_t base = 0;

  bool present() const { return attributes & 0x80; }
  unsigned type() const { return attributes & 0xF; }
  bool code_or_data() const { return attributes & 0x10; }
  bool is_code() const { return (attributes & 0x18) == 0x18; }
  bool writable_data() const { return (attributes & 0x1A) == 0x12; }
  bool readable() const { return !is_code() || (attributes & 2); }
  bool expand_down() const { return (attributes & 0x1C) == 0x14; }
  bool conforming() const { return (attributes & 0x1C) == 0x1C; }
  unsigned dpl() const { return (attributes >> 5) & 3; }
  bool long_mode() const { return attributes & 0x2000; }
  bool big() const { return attributes & 0x4000; }  ///< D/B
  bool operator==(const Segment&) const = default;
  static constexpr auto state();
};
struct DescriptorTable {
  std::uint64_t base = 0;
  std::uint16_t limit = 0xFFFF;
  bool operator==(const DescriptorTable&) const = default;
  static constexpr auto state();
};

/// An 80-bit x87 register: explicit integer bit at bit 63 of the significand.
struct F80Bits {
  std::uint64_t significand = 0;
  std::uint16_t sign_exponent = 0;
  bool operator==(const F80Bits&) const = default;
  static constexpr auto state();
};

/// One ZMM register as little-endian bytes; XMM and YMM are its low part.
struct alignas(64) VectorRegister {
  std::array<std::uint8_t, 64> bytes{};
  bool operator==(const VectorRegister&) const = default;
  static constexpr auto state();
};

struct X87State {
  std::array<F80Bits, 8> registers{};  ///< physical R0..R7, not ST-relative
  std::uint16_t control = 0x0040;      ///< value after RESET; FNINIT gives 37Fh
  std::uint16_t status = 0;            ///< with TOP in bits 11..13
  std::uint16_t tag = 0x5555;          ///< full tag word, two bits a physical register
  std::uint16_t opcode = 0;            ///< FOP, 11 bits
  std::uint16_t ip_selector = 0;
  std::uint16_t dp_selector = 0;
  std::uint64_t ip = 0;
  std::uint64_t dp = 0;
  static constexpr auto state();
};

enum class Activity : std::uint8_t {
  running,
  halted,         ///< HLT: until an interrupt, NMI, SMI, INIT
  wait_for_sipi,  ///< after INIT on an application processor
  shutdown,       ///< triple fault
  mwait,          ///< MWAIT: as halted, and a write to the monitored line wakes too
};

/// An event whose delivery has begun: nothing can call it back, and it comes before the next instruction, whatever
/// RFLAGS.IF or a shadow says. CR2 and DR6 already tell its cause. Software interrupts are not among them: their
/// instruction is executed again.
struct InjectedEvent {
  enum class Kind : std::uint8_t {
    none,
    exception,  ///< RIP is the instruction's that faulted, or the next one's if it traps
    interrupt,  ///< acknowledged at the interrupt controller
    nmi,
  } kind = Kind::none;
  std::uint8_t vector = 0;
  bool has_error = false;
  std::uint32_t error = 0;
  bool operator==(const InjectedEvent&) const = default;
  static constexpr auto state();
};

/// MSRs with plain storage. Registers that live in other units (APIC base, x2APIC, TSC deadline) are not here.
struct MsrState {
  std::uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
  std::uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  std::uint64_t pat = 0x0007040600070406;
  std::uint64_t tsc_offset = 0;  ///< added to the machine's TSC
  std::uint64_t tsc_adjust = 0;
  std::uint32_t tsc_aux = 0;
  std::uint64_t misc_enable = 1;
  std::uint64_t debug_control = 0;
  std::uint64_t spec_control = 0;
  std::uint64_t mcg_status = 0;
  std::uint64_t mcg_ctl = 0;
  std::array<std::uint64_t, 40> mc_banks{};  ///< CTL, STATUS, ADDR, MISC of ten banks
  std::uint64_t hwcr = 0;                    ///< AMD: C001_0015h
  std::uint64_t syscfg = 0;                  ///< AMD: C001_0010h
  std::uint64_t xss = 0;
  std::uint64_t kvm_system_time = 0, kvm_wall_clock = 0;  ///< MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW
  std::uint64_t mtrr_default_type = 0;
  std::array<std::uint64_t, 11> mtrr_fixed{};
  std::array<std::uint64_t, 16> mtrr_variable{};  ///< base 0, mask 0, base 1, ...
  std::int64_t kvm_clock_offset = 0;              ///< what KVM's paravirtual clock is ahead of VM time, ns
  std::uint64_t vm_cr = 0;                        ///< AMD: C001_0114h
  std::uint64_t vm_hsave_pa = 0;                  ///< AMD: C001_0117h
  static constexpr auto state();
};

/// What VMRUN keeps of the host until #VMEXIT (APM vol. 2, 15.5.1). Where it is kept is the processor's own affair: husk
/// keeps it here and not at VM_HSAVE_PA, where guests of the guest and other CPUs could change it.
struct SvmHost {
  std::array<Segment, 4> seg{};  ///< ES, CS, SS, DS
  DescriptorTable gdtr, idtr;
  std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
  std::uint64_t rflags = 0, rip = 0, rsp = 0, rax = 0;
  std::uint64_t pat = 0;
  std::array<std::uint64_t, 4> pdpte{};
  static constexpr auto state();
};

/// AMD's secure virtual machine (APM vol. 2, chapter 15): what the CPU holds of it. All but `gif` means something only
/// while `guest` is set; it is read from the VMCB by VMRUN and holds until #VMEXIT.
struct SvmState {
  bool gif = true;    ///< global interrupt flag
  bool guest = false; ///< between VMRUN and #VMEXIT
  std::uint64_t vmcb = 0;  ///< physical address
  /// The intercept vectors of the VMCB's offsets 0 to 13h: bit n stands for exit code n.
  std::array<std::uint32_t, 5> intercepts{};
  std::uint64_t io_map = 0, msr_map = 0;  ///< physical addresses
  std::uint64_t tsc_offset = 0;
  std::uint32_t asid = 0;
  bool nested_paging = false;
  std::uint64_t nested_cr3 = 0;
  std::uint8_t virtual_tpr = 0;
  bool virtual_interrupt = false;  ///< V_IRQ
  std::uint8_t virtual_priority = 0, virtual_vector = 0;
  bool ignore_virtual_tpr = false;
  bool virtual_masking = false;    ///< V_INTR_MASKING
  std::uint16_t pause_count = 0, pause_threshold = 0;
  std::uint16_t pauses_left = 0;
  SvmHost host;
  static constexpr auto state();
};

/// Everything architectural about one CPU. Values are those the guest would see, between two instructions. What it looks
/// like in a saved machine is declared in state_record.h. Not here: the local APIC, which is a device, and the line that
/// MONITOR armed, since MWAIT may end at any time.
struct CpuState {
  std::array<std::uint64_t, 16> gpr{};
  std::uint64_t rip = 0xFFF0;
  std::uint64_t rflags = kReservedOne;
  std::array<Segment, 6> seg{};
  Segment ldtr, tr;
  DescriptorTable gdtr, idtr;
  std::uint64_t cr0 = kCr0Et | kCr0Nw | kCr0Cd;
  std::uint64_t cr2 = 0, cr3 = 0, cr4 = 0;
  std::array<std::uint64_t, 4> pdpte{};  ///< PAE paging without long mode: as loaded by the last write of CR3
  std::uint64_t xcr0 = 1;
  std::uint64_t efer = 0;
  std::array<std::uint64_t, 4> dr{};
  std::uint64_t dr6 = 0xFFFF0FF0;
  std::uint64_t dr7 = 0x400;
  MsrState msr;

  X87State x87;
  std::uint32_t mxcsr = 0x1F80;
  std::uint32_t pkru = 0;
  std::array<VectorRegister, 32> vector{};
  std::array<std::uint64_t, 8> opmask{};

  Activity activity = Activity::running;
  bool interrupt_shadow = false;  ///< the instruction before was STI or a load of SS
  bool nmi_blocked = false;       ///< between an NMI and the next IRET
  bool nmi_pending = false;
  bool in_smm = false;
  bool smi_pending = false;
  bool init_pending = false;
  bool sipi_pending = false;  ///< forgotten if the CPU does not wait for it
  std::uint8_t sipi_vector = 0;
  /// DR6 bits of a #DB that the last instruction caused and that is not taken yet: it comes before any interrupt.
  std::uint64_t pending_debug = 0;
  /// The shadow is that of MOV SS or POP SS, which holds back pending_debug too. Of no meaning without it.
  bool shadow_holds_debug = false;
  InjectedEvent injected;
  SvmState svm;
  static constexpr auto state();

  /// SS.DPL holds it in protected mode: CS.RPL may differ just after CR0.PE was set.
  unsigned cpl() const { return real_mode() ? 0 : v86() ? 3 : seg[kSs].dpl(); }
  bool protected_mode() const { return cr0 & kCr0Pe; }
  bool v86() const { return rflags & kVM; }
  bool real_mode() const { return !(cr0 & kCr0Pe); }
  bool long_mode_active() const { return efer & kEferLma; }
  bool code64() const { return (efer & kEferLma) && seg[kCs].long_mode(); }
};

/// The state after power-on or a platform reset (SDM vol. 3, table 10-1): real mode, CS base FFFF0000h, IP FFF0h.
/// `signature` is CPUID.1:EAX, left in EDX.
CpuState reset_state(std::uint32_t signature);
/// The state after INIT: as reset_state, but x87, vector, MSR and cache-control state stay as in `before`.
CpuState init_state(const CpuState& before, std::uint32_t signature);

}  // namespace husk::cpu
