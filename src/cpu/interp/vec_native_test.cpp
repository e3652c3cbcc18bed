// husk: every vector form against the processor the test runs on, with random operands
#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ucontext.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/encode.h"
#include "cpu/interp/vec_fixture.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {
namespace {

using Random = std::mt19937_64;

/// What the stub loads before and stores after the instruction.
struct alignas(64) NativeState {
  std::uint8_t fxsave[512];  ///< x87, MMX and MXCSR; its XMM part is overwritten
  std::uint8_t ymm[16][32];
  std::uint64_t gpr[16];
  std::uint64_t rflags;
};

bool host_has(Feature feature) {
  if (feature == Feature::none) return true;
  const FeatureInfo& info = feature_info(feature);
  unsigned r[4] = {};
  if (!__get_cpuid_count(info.leaf, info.subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
  return (r[static_cast<unsigned>(info.reg)] >> info.bit) & 1;
}
/// The AMD processors that husk follows where the manuals leave a choice (vec_approx.cpp).
bool host_is_family_19h() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid(0, &a, &b, &c, &d);
  if (b != signature_AMD_ebx) return false;
  __get_cpuid(1, &a, &b, &c, &d);
  return ((a >> 8) & 0xF) + ((a >> 20) & 0xFF) == 0x19;
}

sigjmp_buf recovery;
volatile sig_atomic_t caught_signal;
volatile std::uint32_t caught_mxcsr;

void on_signal(int number, siginfo_t*, void* context) {
  caught_signal = number;
  caught_mxcsr = static_cast<ucontext_t*>(context)->uc_mcontext.fpregs->mxcsr;
  siglongjmp(recovery, 1);
}

/// A page of code that loads a NativeState, runs one instruction and stores another.
class NativeRunner {
 public:
  NativeRunner() {
    code_ = static_cast<std::uint8_t*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    for (unsigned i = 0; i < 4; ++i) sigaction(kSignals[i], &action, &old_[i]);
  }
  ~NativeRunner() {
    for (unsigned i = 0; i < 4; ++i) sigaction(kSignals[i], &old_[i], nullptr);
    munmap(code_, 8192);
  }
  NativeRunner(const NativeRunner&) = delete;
  NativeRunner& operator=(const NativeRunner&) = delete;

  bool usable() const { return code_ != MAP_FAILED; }
  /// The signal that the instruction ended with, or 0; `out` is complete only then.
  int run(std::span<const std::uint8_t> insn, const NativeState& in, NativeState& out) {
    at_ = code_;
    emit({0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push rbx rbp r12..r15
    emit({0x48, 0x89, 0x25});                                            // mov [rsp_], rsp
    emit_rip(kRspAt);
    emit_mov_rax(&in);
    emit({0x48, 0x0F, 0xAE, 0x08});  // fxrstor64 [rax]
    for (unsigned i = 0; i < 16; ++i) emit_vmovdqu(0x6F, i);
    emit_rax_disp({0xFF}, 6, offsetof(NativeState, rflags));  // push rflags
    emit({0x9D});                                             // popf
    for (unsigned i = 1; i < 16; ++i) {
      if (i != kRsp) emit_mov_gpr(0x8B, i);
    }
    emit_mov_gpr(0x8B, kRax);
    for (std::uint8_t byte : insn) emit({byte});
    emit({0x48, 0x89, 0x05});  // mov [rax_], rax
    emit_rip(kRaxAt);
    emit_mov_rax(&out);
    for (unsigned i = 1; i < 16; ++i) {
      if (i != kRsp) emit_mov_gpr(0x89, i);
    }
    for (unsigned i = 0; i < 16; ++i) emit_vmovdqu(0x7F, i);
    emit({0x48, 0x0F, 0xAE, 0x00});                           // fxsave64 [rax]
    emit({0x9C});                                             // pushf
    emit_rax_disp({0x8F}, 0, offsetof(NativeState, rflags));  // pop rflags
    emit({0xFC, 0xDB, 0xE3, 0xC5, 0xF8, 0x77});               // cld; fninit; vzeroupper
    emit({0x48, 0x8B, 0x25});                                 // mov rsp, [rsp_]
    emit_rip(kRspAt);
    emit({0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3});
    caught_signal = 0;
    if (sigsetjmp(recovery, 0) == 0) reinterpret_cast<void (*)()>(code_)();
    const std::uint32_t mxcsr = 0x1F80;
    asm volatile("ldmxcsr %0; fninit; vzeroupper" ::"m"(mxcsr));
    std::memcpy(&out.gpr[kRax], code_ + kRaxAt, 8);
    return caught_signal;
  }

 private:
  static constexpr int kSignals[4] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS};
  static constexpr unsigned kRspAt = 4096, kRaxAt = 4104;
  void emit(std::initializer_list<unsigned> bytes) {
    for (unsigned byte : bytes) *at_++ = static_cast<std::uint8_t>(byte);
  }
  void emit32(std::uint32_t value) {
    std::memcpy(at_, &value, 4);
    at_ += 4;
  }
  void emit_rip(unsigned to) { emit32(static_cast<std::uint32_t>(code_ + to - (at_ + 4))); }
  void emit_mov_rax(const void* value) {
    emit({0x48, 0xB8});
    std::memcpy(at_, &value, 8);
    at_ += 8;
  }
  void emit_rax_disp(std::initializer_list<unsigned> opcode, unsigned reg, std::size_t disp) {
    emit(opcode);
    emit({0x80 | reg << 3});
    emit32(static_cast<std::uint32_t>(disp));
  }
  void emit_mov_gpr(unsigned opcode, unsigned i) {
    emit_rax_disp({0x48 | (i >> 3) << 2, opcode}, i & 7, offsetof(NativeState, gpr) + 8 * i);
  }
  void emit_vmovdqu(unsigned opcode, unsigned i) {
    emit_rax_disp({0xC5, i >= 8 ? 0x7Eu : 0xFEu, opcode}, i & 7, offsetof(NativeState, ymm) + 32 * i);
  }

  std::uint8_t* code_ = nullptr;
  std::uint8_t* at_ = nullptr;
  struct sigaction old_[4];
};

template <class T>
T pick(Random& random, std::initializer_list<T> values) {
  return values.begin()[random() % values.size()];
}
std::uint32_t interesting32(Random& random) {
  switch (random() % 6) {
    case 0:
      return pick<std::uint32_t>(random,
                                 {0,          0x80000000, 1,          0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF,
                                  0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001, 0xFFA00000, 0x3F800000,
                                  0xBF800000, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x3F000000, 0x5F000000, 0x33800000,
                                  0x477FE000, 0x477FF000, 0x38800000, 0x387FC000, 0x33000000, 0x7FFFFFFF, 0xFFFFFFFF});
    case 1:  // near one
      return 0x3F000000 + static_cast<std::uint32_t>(random() % 0x01000000) + (random() % 2 ? 0x80000000 : 0);
    case 2:  // around the integers
      return 0x41000000 + static_cast<std::uint32_t>(random() % 0x10000000) + (random() % 2 ? 0x80000000 : 0);
    case 3: return static_cast<std::uint32_t>(random() % 64);
    case 4: return (static_cast<std::uint32_t>(random()) & 0x80FFF000) | (random() % 2 ? 0x3F800000 : 0);
    default: return static_cast<std::uint32_t>(random());
  }
}
std::uint64_t interesting64(Random& random) {
  switch (random() % 6) {
    case 0:
      return pick<std::uint64_t>(random, {0,
                                          0x8000000000000000,
                                          1,
                                          0x8000000000000001,
                                          0x000FFFFFFFFFFFFF,
                                          0x0010000000000000,
                                          0x7FEFFFFFFFFFFFFF,
                                          0x7FF0000000000000,
                                          0xFFF0000000000000,
                                          0x7FF8000000000000,
                                          0xFFF8123456789ABC,
                                          0x7FF0000000000001,
                                          0xFFF4000000000000,
                                          0x3FF0000000000000,
                                          0xBFF0000000000000,
                                          0x41E0000000000000,
                                          0xC1E0000000000000,
                                          0x41DFFFFFFFC00000,
                                          0x41DFFFFFFFE00000,
                                          0x43E0000000000000,
                                          0xC3E0000000000000,
                                          0x3FE0000000000000,
                                          0x47EFFFFFE0000000,
                                          0x47EFFFFFF0000000,
                                          0x3810000000000000,
                                          0x380FFFFFE0000000,
                                          0x36A0000000000000,
                                          0xFFFFFFFFFFFFFFFF});
    case 1: return 0x3FE0000000000000 + random() % 0x0020000000000000 + (random() % 2 ? 0x8000000000000000 : 0);
    case 2: return 0x4020000000000000 + random() % 0x0400000000000000 + (random() % 2 ? 0x8000000000000000 : 0);
    case 3: return random() % 64;
    case 4:  // what becomes a denormal or overflow as a single
      return (random() & 0x800FFFFFFFFFFFFF) | ((random() % 2 ? 0x368 + random() % 0x28 : 0x478 + random() % 8) << 52);
    default: return random();
  }
}
void fill(Random& random, std::uint8_t* to, unsigned size) {
  const unsigned kind = static_cast<unsigned>(random() % 5);
  for (unsigned i = 0; i < size; i += 8) {
    std::uint64_t value = 0;
    if (kind == 0)
      value = random();
    else if (kind == 1)
      value = interesting64(random);
    else if (kind == 2)
      value = interesting32(random) | std::uint64_t{interesting32(random)} << 32;
    else if (kind == 3) {
      for (unsigned k = 0; k < 8; ++k)
        value |= pick<std::uint64_t>(random, {0, 1, 2, 0x7F, 0x80, 0x81, 0xFE, 0xFF, 'a', 'b'}) << (8 * k);
    } else {
      for (unsigned k = 0; k < 4; ++k)
        value |= pick<std::uint64_t>(random, {0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0x7C00, 0xFFFF, 0x3C00, 0x03FF, 0x7D01})
                 << (16 * k);
    }
    std::memcpy(to + i, &value, 8);
  }
}

/// One form with random operands on both sides. Returns a description of the first difference, or nothing.
class Comparison {
 public:
  Comparison(VectorMachine& machine, NativeRunner& native, Random& random)
      : machine_(machine), native_(native), random_(random) {
    host_memory_ = static_cast<std::uint8_t*>(std::aligned_alloc(4096, kMemory));
  }
  ~Comparison() { std::free(host_memory_); }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  std::string once(std::uint16_t form) {
    const FormShape shape = shape_of(form, CodeSize::bits64);
    auto insn = example(form, CodeSize::bits64);
    if (!shape.exists || !insn) return {};
    if (!choose_operands(form, shape, *insn)) return {};
    const auto encoded = encode(*insn, CodeSize::bits64);
    if (!encoded) return {};
    Insn decoded{};
    if (decode(encoded->span(), CodeSize::bits64, decoded) != DecodeStatus::ok || decoded.form != form) {
      return "encoding does not decode back";
    }
    make_state(form, decoded);
    CpuState& s = machine_.state();
    before_ = s;
    const Flow flow = machine_.run(decoded);
    NativeState out{};
    const int signal = native_.run(encoded->span(), in_, out);
    std::string where = fmt::format("{} [", forms()[form].mnemonic);
    for (std::uint8_t byte : encoded->span()) where += fmt::format("{:02x} ", byte);
    where += fmt::format("] mxcsr {:04x}: ", before_.mxcsr);
    std::string difference = compare(form, decoded, flow, signal, out);
    if (difference.empty()) return {};
    for (unsigned n : {unsigned{decoded.reg}, unsigned{decoded.vvvv}, unsigned{decoded.rm}, 0u}) {
      difference += fmt::format("\n  v{:<2} before {}", n & 15, hex(before_.vector[n & 15].bytes.data(), 32));
    }
    if (decoded.memory) difference += "\n  memory " + hex(memory_before_.data() + kOperand, 32);
    return where + difference;
  }

 private:
  static constexpr unsigned kMemory = 4096, kOperand = 1024;

  static std::string hex(const std::uint8_t* bytes, unsigned size) {
    std::string text;
    for (unsigned i = size; i-- > 0;) text += fmt::format("{:02x}{}", bytes[i], i % 8 == 0 && i != 0 ? "_" : "");
    return text;
  }

  bool choose_operands(std::uint16_t form, const FormShape& shape, Insn& insn) {
    const auto random_register = [&] {
      for (;;) {
        const auto number = static_cast<std::uint8_t>(random_() % 16);
        if (number != kRsp && number != kRbx && number != kRdi) return number;
      }
    };
    const bool mmx = forms()[form].attributes & kAttrMmx;
    insn.memory = shape.memory && (!shape.register_rm || random_() % 2);
    // All register files in one: 4, 3 and 7 are left out as general registers and lose nothing as vector registers.
    if (shape.free_reg) insn.reg = random_register();
    if (shape.free_rm && !insn.memory) insn.rm = random_register();
    if (shape.vvvv) insn.vvvv = random_register();
    if (mmx) {
      for (const Operand& operand : forms()[form].operands) {
        if (operand.kind == OperandKind::mmx_reg) insn.reg &= 7;
        if (operand.kind == OperandKind::mmx_rm || operand.kind == OperandKind::mmx_rm_only) insn.rm &= 7;
      }
    }
    if (shape.vector_sizes) {
      insn.vector_bytes = (shape.vector_sizes & 48) == 48 ? (random_() % 2 ? 32 : 16) : (shape.vector_sizes & 48);
    }
    insn.imm = static_cast<std::uint8_t>(random_());
    insn.imm2 = static_cast<std::uint8_t>(random_());
    for (const Operand& operand : forms()[form].operands) {
      if (operand.kind == OperandKind::vec_is4) insn.imm2 = static_cast<std::uint16_t>(insn.imm >> 4);
    }
    if (std::string_view(sem_name(forms()[form].sem)).starts_with("sse_extrq") ||
        std::string_view(sem_name(forms()[form].sem)).starts_with("sse_insertq")) {
      insn.imm &= 63;  // fields beyond bit 63 are undefined
      insn.imm2 = static_cast<std::uint16_t>(insn.imm == 0 ? 0 : random_() % (65 - insn.imm));
    }
    if (insn.memory) {
      insn.base = kRbx;
      insn.disp = kOperand;
      insn.index = kNoRegister;
      if (shape.vsib) {
        insn.index = random_register();
        insn.scale = static_cast<std::uint8_t>(random_() % 4);
        if (insn.index == insn.reg || insn.index == insn.vvvv || insn.reg == insn.vvvv) return false;
      }
    }
    return true;
  }

  void make_state(std::uint16_t form, const Insn& insn) {
    CpuState& s = machine_.state();
    for (auto& v : s.vector) fill(random_, v.bytes.data(), 64);
    for (auto& r : s.gpr) r = random_() % 3 ? random_() : random_() % 20;
    s.gpr[kRsp] = 0;
    for (auto& r : s.x87.registers) {
      r = {random_(), static_cast<std::uint16_t>(random_())};
      fill(random_, reinterpret_cast<std::uint8_t*>(&r.significand), 8);
    }
    s.x87.control = 0x37F;
    s.x87.status = static_cast<std::uint16_t>(random_() & 0x7800);
    s.x87.tag = static_cast<std::uint16_t>((random_() % 2) * 0xFFFF);
    s.mxcsr =
        static_cast<std::uint32_t>(0x1F80 | (random_() & 0x6000) | (random_() % 4 == 0 ? 0x40 : 0) |
                                   (random_() % 4 == 0 ? 0x8000 : 0) | (random_() % 4 == 0 ? random_() & 0x3F : 0));
    if (random_() % 8 == 0) s.mxcsr = (s.mxcsr & ~0x1F80u) | (static_cast<std::uint32_t>(random_()) & 0x1F80);
    s.rflags = kReservedOne | (random_() & kArithmeticFlags);
    if (std::string_view(sem_name(forms()[form].sem)).find("gather") != std::string_view::npos) small_indices(insn);
    if (std::string_view(sem_name(forms()[form].sem)) == "sse_extrq" ||
        std::string_view(sem_name(forms()[form].sem)) == "sse_insertq") {
      const std::uint64_t length = random_() % 64, index = length == 0 ? 0 : random_() % (65 - length);
      const unsigned element = sem_name(forms()[form].sem) == "sse_extrq" ? 0 : 1;
      write_element<std::uint64_t>(machine_.core(), insn.rm, element, length | index << 8);
    }
    fill(random_, host_memory_, kMemory);
    std::memcpy(machine_.scratch(), host_memory_, kMemory);
    memory_before_.assign(host_memory_, host_memory_ + kMemory);
    const bool string_store = forms()[form].mnemonic.find("MASKMOVQ") != std::string_view::npos ||
                              forms()[form].mnemonic.find("MASKMOVDQU") != std::string_view::npos;
    std::memset(&in_, 0, sizeof in_);
    const unsigned top = (s.x87.status >> 11) & 7;
    const std::uint32_t header[] = {
        s.x87.control | std::uint32_t{s.x87.status} << 16, s.x87.tag == 0 ? 0xFFu : 0u, 0, 0, 0, 0, s.mxcsr};
    std::memcpy(in_.fxsave, header, sizeof header);
    for (unsigned i = 0; i < 8; ++i) {
      std::memcpy(in_.fxsave + 32 + 16 * i, &s.x87.registers[(top + i) & 7].significand, 8);
      std::memcpy(in_.fxsave + 40 + 16 * i, &s.x87.registers[(top + i) & 7].sign_exponent, 2);
    }
    for (unsigned i = 0; i < 16; ++i) std::memcpy(in_.ymm[i], s.vector[i].bytes.data(), 32);
    in_.rflags = s.rflags | 0x200;
    for (unsigned i = 0; i < 16; ++i) in_.gpr[i] = s.gpr[i];
    if (insn.memory) {
      s.gpr[kRbx] = VectorMachine::kScratch;
      in_.gpr[kRbx] = reinterpret_cast<std::uint64_t>(host_memory_);
    }
    if (string_store) {
      s.gpr[kRdi] = VectorMachine::kScratch + kOperand + 3;
      in_.gpr[kRdi] = reinterpret_cast<std::uint64_t>(host_memory_ + kOperand + 3);
    }
  }
  void small_indices(const Insn& insn) {
    auto& bytes = machine_.state().vector[insn.index].bytes;
    for (unsigned i = 0; i < 64; i += 4) {
      const auto sem = sem_name(forms()[insn.form].sem);
      const bool wide = sem == "avx_gatherqd" || sem == "avx_gatherqq";
      const std::int32_t value = static_cast<std::int32_t>(random_() % 64) - 32;
      store_le<std::int32_t>(bytes.data() + i,
                             wide && i % 8 == 4 ? load_le<std::int32_t>(bytes.data() + i - 4) >> 31 : value);
    }
  }

  std::string compare(std::uint16_t form, const Insn& insn, Flow flow, int signal, const NativeState& out) {
    CpuState& s = machine_.state();
    if (flow == Flow::fault || signal != 0) {
      const int expected = flow != Flow::fault ? 0 : machine_.core().fault().vector == kXM ? SIGFPE : SIGILL;
      if (signal != expected) {
        return fmt::format("husk {} vector {}, host signal {} mxcsr {:x}", flow == Flow::fault ? "fault" : "no fault",
                           machine_.core().fault().vector, signal, std::uint32_t{caught_mxcsr});
      }
      if (signal == SIGFPE && s.mxcsr != caught_mxcsr) {
        return fmt::format("mxcsr with the exception: husk {:x}, host {:x}", s.mxcsr, std::uint32_t{caught_mxcsr});
      }
      for (unsigned i = 0; i < 16; ++i) {
        if (s.vector[i] != before_.vector[i]) return fmt::format("v{} changed by a faulting instruction", i);
      }
      return {};
    }
    std::uint32_t mxcsr;
    std::memcpy(&mxcsr, out.fxsave + 24, 4);
    for (unsigned i = 0; i < 16; ++i) {
      if (std::memcmp(out.ymm[i], s.vector[i].bytes.data(), 32) != 0) {
        return fmt::format("v{}\n  husk       {}\n  host       {}", i, hex(s.vector[i].bytes.data(), 32),
                           hex(out.ymm[i], 32));
      }
      const bool moved = s.gpr[i] != before_.gpr[i] || out.gpr[i] != in_.gpr[i];
      if (i != kRsp && moved && s.gpr[i] != out.gpr[i]) {
        return fmt::format("gpr {}: husk {:x}, host {:x}", i, s.gpr[i], out.gpr[i]);
      }
    }
    if (mxcsr != s.mxcsr) return fmt::format("mxcsr: husk {:x}, host {:x}", s.mxcsr, mxcsr);
    const std::uint64_t flags = kArithmeticFlags & ~std::uint64_t{forms()[form].flags_undefined};
    if ((out.rflags ^ s.rflags) & flags) return fmt::format("flags: husk {:x}, host {:x}", s.rflags, out.rflags);
    if (std::memcmp(machine_.scratch(), host_memory_, kMemory) != 0) {
      for (unsigned i = 0; i < kMemory; ++i) {
        if (machine_.scratch()[i] != host_memory_[i]) {
          return fmt::format("memory at {}: husk {}\n  host {}", i, hex(machine_.scratch() + i, 16),
                             hex(host_memory_ + i, 16));
        }
      }
    }
    (void)insn;
    return compare_x87(out);
  }
  std::string compare_x87(const NativeState& out) {
    const X87State& x87 = machine_.state().x87;
    std::uint16_t status;
    std::memcpy(&status, out.fxsave + 2, 2);
    if (status != x87.status) return fmt::format("x87 status: husk {:x}, host {:x}", x87.status, status);
    const unsigned top = (status >> 11) & 7;
    for (unsigned i = 0; i < 8; ++i) {
      const unsigned physical = (top + i) & 7;
      const bool empty = ((x87.tag >> (2 * physical)) & 3) == 3;
      if (empty == (((out.fxsave[4] >> physical) & 1) != 0)) {
        return fmt::format("x87 tag: husk {:x}, host (abridged) {:x}", x87.tag, out.fxsave[4]);
      }
      std::uint64_t significand;
      std::uint16_t sign_exponent;
      std::memcpy(&significand, out.fxsave + 32 + 16 * i, 8);
      std::memcpy(&sign_exponent, out.fxsave + 40 + 16 * i, 2);
      if (F80Bits{significand, sign_exponent} != x87.registers[physical]) {
        return fmt::format("r{}: husk {:x}:{:x}, host {:x}:{:x}", physical, x87.registers[physical].sign_exponent,
                           x87.registers[physical].significand, sign_exponent, significand);
      }
    }
    return {};
  }

  VectorMachine& machine_;
  NativeRunner& native_;
  Random& random_;
  std::uint8_t* host_memory_;
  NativeState in_{};
  CpuState before_;
  std::vector<std::uint8_t> memory_before_;
};

/// Forms whose behaviour the manuals leave open, where husk follows family 19h: x87 state after CVTPI2PS from memory,
/// and which flags an unmasked exception inside a dot product leaves.
bool follows_family_19h(const Form& form) {
  const std::string_view sem = sem_name(form.sem);
  return sem == "mmx_cvtpi2ps_m" || sem.starts_with("sse_dpp") || sem.starts_with("avx_dpp") ||
         sem.starts_with("sse_rcp") || sem.starts_with("avx_rcp") || sem.starts_with("sse_rsqrt") ||
         sem.starts_with("avx_rsqrt");
}
bool is_vector_form(const Form& form) {
  const std::string_view sem = sem_name(form.sem);
  return sem.starts_with("mmx_") || sem.starts_with("sse_") || sem.starts_with("avx_");
}

/// Rounds a form: HUSK_VEC_ROUNDS, HUSK_VEC_SEED and HUSK_VEC_ONLY (a mnemonic) steer long runs by hand.
TEST(VectorNative, EveryFormEqualsTheHostProcessor) {
  if (!host_has(Feature::avx2)) GTEST_SKIP() << "the host has no AVX2, with which this test loads its registers";
  VectorMachine machine;
  NativeRunner native;
  ASSERT_TRUE(native.usable());
  const char* rounds_text = std::getenv("HUSK_VEC_ROUNDS");
  const char* seed_text = std::getenv("HUSK_VEC_SEED");
  const char* only = std::getenv("HUSK_VEC_ONLY");
  const int rounds = rounds_text ? std::atoi(rounds_text) : 60;
  Random random(seed_text ? std::strtoull(seed_text, nullptr, 0) : 1);
  Comparison comparison(machine, native, random);
  const bool family_19h = host_is_family_19h();
  unsigned tried = 0, without_feature = 0, failed = 0;
  for (std::uint16_t form = 0; form < forms().size(); ++form) {
    if (!is_vector_form(forms()[form])) continue;
    const std::string_view mnemonic = forms()[form].mnemonic;
    if (only && mnemonic != only) continue;
    if (!host_has(forms()[form].feature) || (!family_19h && follows_family_19h(forms()[form]))) {
      ++without_feature;
      continue;
    }
    ++tried;
    for (int round = 0; round < rounds; ++round) {
      const std::string difference = comparison.once(form);
      if (difference.empty()) continue;
      ADD_FAILURE() << difference;
      ++failed;
      break;
    }
  }
  RecordProperty("forms", static_cast<int>(tried));
  if (!only) {
    EXPECT_GT(tried, 500u) << without_feature << " forms need features that the host lacks";
  }
  EXPECT_EQ(failed, 0u);
}

TEST(VectorNative, ApproximationsEqualAmdFamily19hForEveryFraction) {
  if (!host_is_family_19h()) GTEST_SKIP() << "the host is no AMD family 19h processor";
  VectorMachine machine;
  unsigned differences = 0;
  for (std::uint32_t bits = 0; bits < 0x1'0000; ++bits) {
    for (std::uint32_t low : {0u, 0x7FFu, 0x800u, 0xFFFFu}) {
      const std::uint32_t value = bits << 16 | low;
      std::uint32_t rcp, rsqrt;
      asm("vmovd %2, %%xmm0; vrcpss %%xmm0, %%xmm0, %%xmm1; vmovd %%xmm1, %0; vrsqrtss %%xmm0, %%xmm0, %%xmm1; "
          "vmovd %%xmm1, %1"
          : "=r"(rcp), "=r"(rsqrt)
          : "r"(value)
          : "xmm0", "xmm1");
      machine.set_vector<std::uint32_t>(1, {value});
      (void)machine.run({0xF3, 0x0F, 0x53, 0xC1});
      differences += machine.vector<std::uint32_t>(0, 1)[0] != rcp;
      (void)machine.run({0xF3, 0x0F, 0x52, 0xC1});
      differences += machine.vector<std::uint32_t>(0, 1)[0] != rsqrt;
    }
  }
  EXPECT_EQ(differences, 0u);
}

}  // namespace
}  // namespace husk::cpu::interp
#endif
