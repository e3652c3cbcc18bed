// husk: the sandboxed child that runs test instructions on the host's own CPU: no libc, no threads, own mappings only
#include <asm/prctl.h>
#include <asm/sigcontext.h>
#include <asm/signal.h>
#include <asm/ucontext.h>
#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "layout.h"

// mman.h of the kernel's headers does not go with C++'s; these are its values (include/uapi/asm-generic/mman-common.h).
enum {
  kProtRead = 1,
  kProtWrite = 2,
  kProtExec = 4,
  kMapShared = 1,
  kMapFixedNoReplace = 0x100000,
  kMapPopulate = 0x8000
};

using namespace husk::differential;

static_assert(offsetof(Request, gpr) == 832 && offsetof(Request, rip) == 960 && offsetof(Request, fs_base) == 1000 &&
              offsetof(Request, es) == 1016 && offsetof(Request, gs) == 1022);
static_assert(offsetof(Answer, gpr) == 832 && offsetof(Answer, rip) == 960 && offsetof(Answer, rflags) == 968 &&
              offsetof(Answer, fs_base) == 976 && offsetof(Answer, es) == 1008 && offsetof(Answer, gs) == 1018);

#pragma GCC visibility push(hidden)
extern "C" {
void run_test(const Request* request, Answer* result);
void leave_test();
void signal_entry();
void signal_restorer();
[[noreturn]] void child_main();
void record_signal(Answer* result, const ucontext* context);
void* memcpy(void* to, const void* from, size_t n);
void* memset(void* to, int value, size_t n);
int memcmp(const void* a, const void* b, size_t n);
}
#pragma GCC visibility pop

void* memcpy(void* to, const void* from, size_t n) {
  void* const start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return start;
}
void* memset(void* to, int value, size_t n) {
  void* const start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
  return start;
}
int memcmp(const void* a, const void* b, size_t n) {
  const auto* const x = static_cast<const unsigned char*>(a);
  const auto* const y = static_cast<const unsigned char*>(b);
  for (size_t i = 0; i < n; ++i)
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  return 0;
}

namespace {

alignas(64) std::uint8_t pristine[kDataSize];
alignas(64) std::uint8_t signal_stack[65536];

long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

std::uint8_t* shared() { return reinterpret_cast<std::uint8_t*>(kShared); }
Control& control() { return *reinterpret_cast<Control*>(shared() + kControlOffset); }

bool map(std::uint64_t at, std::uint64_t size, long protection, std::uint64_t offset) {
  const long got = call(__NR_mmap, static_cast<long>(at), static_cast<long>(size), protection,
                        kMapShared | kMapFixedNoReplace | kMapPopulate, kSharedFd, static_cast<long>(offset));
  return got == static_cast<long>(at);
}

[[noreturn]] void give_up(std::uint32_t step) {
  if (step > 2) control().ready = step;
  for (;;) call(__NR_exit_group, static_cast<long>(step));
}

bool map_data(std::uint64_t at) {
  return map(at, kWritableSize, kProtRead | kProtWrite, kDataOffset) &&
         map(at + kWritableSize, kDataSize - kWritableSize, kProtRead, kDataOffset + kWritableSize);
}

void catch_signals() {
  struct {
    void* sp;
    int flags;
    size_t size;
  } stack{signal_stack, 0, sizeof signal_stack};
  if (call(__NR_sigaltstack, reinterpret_cast<long>(&stack), 0) != 0) give_up(5);
  struct {
    void (*handler)();
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  } action{signal_entry, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER, signal_restorer, 0};
  static const int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  for (const int signal : kSignals) {
    if (call(__NR_rt_sigaction, signal, reinterpret_cast<long>(&action), 0, 8) != 0) give_up(6);
  }
}

/// From here on the child can wait, wake and end; anything else kills it.
void enter_sandbox() {
  constexpr auto kNr = static_cast<__u32>(offsetof(seccomp_data, nr));
  constexpr auto kArch = static_cast<__u32>(offsetof(seccomp_data, arch));
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArch),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNr),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_futex, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  sock_fprog program{sizeof filter / sizeof filter[0], filter};
  if (call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1) != 0) give_up(7);
  if (call(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, reinterpret_cast<long>(&program)) != 0) give_up(8);
}

void set_up() {
  // The kernel's stack, vDSO and heap go: what a test could hit must be what the interpreter knows of.
  call(__NR_munmap, 0x1000, static_cast<long>(kChildImage - 0x1000));
  call(__NR_munmap, kChildImage + kChildImageSize, static_cast<long>(0x7FFF'FFFF'F000 - kChildImage - kChildImageSize));
  if (!map(kShared, kSharedSize, kProtRead | kProtWrite, 0)) give_up(2);
  if (!map(kLowCode, kCodeSize, kProtRead | kProtExec, kCodeOffset) ||
      !map(kHighCode, kCodeSize, kProtRead | kProtExec, kCodeOffset))
    give_up(3);
  if (!map_data(kLowData) || !map_data(kHighData)) give_up(4);
  control().tiny_data = map_data(kTinyData) ? 1 : 0;
  memcpy(pristine, shared() + kDataOffset, kDataSize);
  // gate: jmp *8(gate)
  std::uint8_t* const gate = shared() + kCodeOffset + kGateOffset;
  static const std::uint8_t kJump[] = {0xFF, 0x25, 0x02, 0, 0, 0};
  memcpy(gate, kJump, sizeof kJump);
  void (*const target)() = leave_test;
  memcpy(gate + 8, &target, sizeof target);
  catch_signals();
  enter_sandbox();
}

void run_one(const Request& request, Answer& result) {
  std::uint8_t* const data = shared() + kDataOffset;
  for (unsigned i = 0; i < request.poke_count; ++i) {
    const Poke& poke = request.pokes[i];
    memcpy(data + poke.offset, request.poke_bytes + poke.source, poke.length);
  }
  result.vector = kNoFault;
  run_test(&request, &result);
  result.chunk_count = static_cast<std::uint16_t>(take_changes(data, pristine, result.chunks));
  for (unsigned i = 0; i < request.poke_count; ++i) {
    const Poke& poke = request.pokes[i];
    if (poke.offset + poke.length > kWritableSize) memcpy(data + poke.offset, pristine + poke.offset, poke.length);
  }
}

}  // namespace

void record_signal(Answer* result, const ucontext* context) {
  const sigcontext& c = context->uc_mcontext;
  std::uint64_t* const gpr = result->gpr;
  gpr[0] = c.rax, gpr[1] = c.rcx, gpr[2] = c.rdx, gpr[3] = c.rbx, gpr[4] = c.rsp, gpr[5] = c.rbp, gpr[6] = c.rsi,
  gpr[7] = c.rdi;
  gpr[8] = c.r8, gpr[9] = c.r9, gpr[10] = c.r10, gpr[11] = c.r11;
  gpr[12] = c.r12, gpr[13] = c.r13, gpr[14] = c.r14, gpr[15] = c.r15;
  result->rip = c.rip;
  result->rflags = c.eflags;
  result->cs = c.cs;
  result->ss = c.ss;
  result->vector = static_cast<std::uint32_t>(c.trapno);
  result->error = static_cast<std::uint32_t>(c.err);
  result->cr2 = c.cr2;
  const auto* const image = reinterpret_cast<const std::uint8_t*>(c.fpstate);
  memcpy(result->fp.legacy, image, 416);
  memcpy(&result->fp.xstate_bv, image + 512, 8);
  memcpy(result->fp.ymm_high, image + 576, sizeof result->fp.ymm_high);
}

void child_main() {
  set_up();
  control().ready = 1;
  call(__NR_futex, reinterpret_cast<long>(&control().ready), FUTEX_WAKE, 1);
  for (std::uint32_t done = 0;;) {
    while (__atomic_load_n(&control().submitted, __ATOMIC_ACQUIRE) == done)
      call(__NR_futex, reinterpret_cast<long>(&control().submitted), FUTEX_WAIT, done, 0);
    const std::uint32_t set = done & 1;
    const auto* const requests = reinterpret_cast<const Request*>(shared() + kRequestsOffset) + set * kBatch;
    auto* const results = reinterpret_cast<Answer*>(shared() + kResultsOffset) + set * kBatch;
    for (std::uint32_t i = 0; i < control().count[set]; ++i) {
      __atomic_store_n(&control().current, i, __ATOMIC_RELAXED);
      run_one(requests[i], results[i]);
    }
    ++done;
    __atomic_store_n(&control().completed, done, __ATOMIC_RELEASE);
    call(__NR_futex, reinterpret_cast<long>(&control().completed), FUTEX_WAKE, 1);
  }
}
