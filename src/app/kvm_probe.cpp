// husk: whether this host's KVM works, and how fast a guest runs in it
#include "app/kvm_probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <vector>

#include "base/result.h"
#include "host/unique_fd.h"

#if defined(__x86_64__)
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/bits.h"
#include "host/mmap.h"
#endif

namespace husk::app {
namespace {

using host::UniqueFd;

/// What the child tells.
struct Answer {
  double million_per_second = 0;
  int error = 0;
  char step[64] = {};
};

#if defined(__x86_64__)

constexpr std::uint64_t kCodeAddress = 0x1000;
constexpr std::size_t kGuestMemory = 0x10000;

constexpr std::uint32_t kMostCpuid = 256;
// struct kvm_cpuid2 is 8 bytes and its entries, but in C++ the empty structure inside the headers' flexible array makes
// it 12, and with it the numbers of these calls wrong.
constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);

/// One vCPU with nothing but RAM.
struct TinyGuest {
  UniqueFd vm, vcpu;
  host::Mmap memory, run_area;

  /// Returns the name of the step that failed, or null.
  const char* create(int kvm) {
    vm.reset(::ioctl(kvm, KVM_CREATE_VM, 0));
    if (!vm) return "KVM_CREATE_VM";
    // Intel CPUs without unrestricted guest mode need somewhere for a task state segment (KVM api.rst, 4.11).
    ::ioctl(vm.get(), KVM_SET_TSS_ADDR, 0xfffbd000ul);
    auto ram = host::Mmap::anonymous(kGuestMemory);
    if (!ram) return "mmap";
    memory = std::move(*ram);
    kvm_userspace_memory_region region{};
    region.memory_size = kGuestMemory;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data());
    if (::ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return "KVM_SET_USER_MEMORY_REGION";
    vcpu.reset(::ioctl(vm.get(), KVM_CREATE_VCPU, 0));
    if (!vcpu) return "KVM_CREATE_VCPU";
    const int size = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size <= 0) return "KVM_GET_VCPU_MMAP_SIZE";
    auto area = host::Mmap::shared(vcpu.get(), 0, static_cast<std::size_t>(size), true);
    if (!area) return "mmap of the vCPU";
    run_area = std::move(*area);
    return nullptr;
  }

  /// Puts the vCPU where kernels spend their time: 64-bit mode, flat, with the first 2 MiB mapped one to one.
  const char* enter_long_mode(int kvm) {
    // Without CPUID the guest has no long mode, and KVM refuses EFER.LME.
    std::vector<std::uint32_t> cpuid(2 + kMostCpuid * sizeof(kvm_cpuid_entry2) / 4);
    cpuid[0] = kMostCpuid;
    if (::ioctl(kvm, kGetSupportedCpuid, cpuid.data()) != 0) return "KVM_GET_SUPPORTED_CPUID";
    if (::ioctl(vcpu.get(), kSetCpuid2, cpuid.data()) != 0) return "KVM_SET_CPUID2";
    // SDM vol. 3, 4.5: present, writable; bit 7 of a directory entry makes it a 2 MiB page.
    store_le<std::uint64_t>(memory.data() + 0x2000, 0x3000 | 3);
    store_le<std::uint64_t>(memory.data() + 0x3000, 0x4000 | 3);
    store_le<std::uint64_t>(memory.data() + 0x4000, 0x83);
    kvm_sregs special{};
    if (::ioctl(vcpu.get(), KVM_GET_SREGS, &special) != 0) return "KVM_GET_SREGS";
    kvm_segment code{};
    code.limit = 0xffffffff;
    code.selector = 0x10;
    code.type = 11;  // code, readable, accessed
    code.present = code.s = code.l = code.g = 1;
    special.cs = code;
    kvm_segment data = code;
    data.selector = 0x18;
    data.type = 3;  // data, writable, accessed
    data.l = 0;
    data.db = 1;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    special.cr3 = 0x2000;
    special.cr4 |= 0x20;         // PAE
    special.cr0 |= 0x8000'0001;  // PG, PE
    special.efer |= 0x500;       // LMA, LME
    if (::ioctl(vcpu.get(), KVM_SET_SREGS, &special) != 0) return "KVM_SET_SREGS";
    return nullptr;
  }

  /// Counts down from `count` and halts.
  const char* run(std::uint32_t count) {
    std::uint8_t code[] = {
        0xb9, 0,    0, 0, 0,  // mov ecx, count
        0xff, 0xc9,           // dec ecx
        0x75, 0xfc,           // jnz to the dec
        0xf4,                 // hlt
    };
    store_le(code + 1, count);
    std::memcpy(memory.data() + kCodeAddress, code, sizeof code);
    kvm_regs registers{};
    registers.rip = kCodeAddress;
    registers.rflags = 2;
    if (::ioctl(vcpu.get(), KVM_SET_REGS, &registers) != 0) return "KVM_SET_REGS";
    const auto* shared = reinterpret_cast<const kvm_run*>(run_area.data());
    for (;;) {
      if (::ioctl(vcpu.get(), KVM_RUN, 0) == 0) break;
      if (errno != EINTR && errno != EAGAIN) return "KVM_RUN";
    }
    errno = 0;
    if (shared->exit_reason != KVM_EXIT_HLT) return "running a guest";
    if (::ioctl(vcpu.get(), KVM_GET_REGS, &registers) != 0) return "KVM_GET_REGS";
    return (registers.rcx & 0xffffffff) == 0 ? nullptr : "counting in a guest";
  }
};

/// CPU time of this thread, guest code included: on a busy host the wall clock would call any KVM slow.
std::uint64_t cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

/// Enough is known to call this KVM fast or slow. Entering and leaving a guest takes well below a millisecond on
/// hardware, however deeply nested, so that what takes longer and is far below the limit will not reach it.
bool decided(double million_per_second, std::uint64_t elapsed) {
  return million_per_second >= kHardwareSpeed || (elapsed > 1'000'000 && million_per_second < kHardwareSpeed / 10);
}

/// The last step tried, or null if all went well.
const char* measure(int kvm, ProbeDepth depth, TinyGuest& guest, double& million_per_second) {
  if (::ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) return "KVM_GET_API_VERSION";
  if (const char* step = guest.create(kvm)) return step;
  if (const char* step = guest.enter_long_mode(kvm)) return step;
  // The first run pays for the guest's pages.
  if (const char* step = guest.run(1)) return step;
  // Longer and longer, until the time is long enough to trust: a slow KVM is not asked for seconds.
  for (std::uint32_t count = 64;; count *= 4) {
    const std::uint64_t start = cpu_time();
    if (const char* step = guest.run(count)) return step;
    const std::uint64_t elapsed = std::max<std::uint64_t>(cpu_time() - start, 1);
    million_per_second = 2.0 * count * 1000.0 / static_cast<double>(elapsed);
    if (depth == ProbeDepth::decide && decided(million_per_second, elapsed)) return nullptr;
    if (elapsed > 60'000'000 || count > 600'000'000) return nullptr;
  }
}

/// Tells before the virtual machine is taken down.
template <class Tell>
void measure(int kvm, ProbeDepth depth, Tell tell) {
  Answer answer;
  TinyGuest guest;
  if (const char* step = measure(kvm, depth, guest, answer.million_per_second)) {
    answer.error = errno;
    std::strncpy(answer.step, step, sizeof answer.step - 1);
  }
  tell(answer);
}

#else

template <class Tell>
void measure(int, ProbeDepth, Tell tell) {
  Answer answer;
  std::strncpy(answer.step, "x86 guests on this CPU", sizeof answer.step - 1);
  tell(answer);
}

#endif

constexpr int kPatienceMs = 5000;

}  // namespace

const char* to_text(KvmReport::State state) {
  switch (state) {
    case KvmReport::State::absent: return "absent";
    case KvmReport::State::no_access: return "no access";
    case KvmReport::State::broken: return "broken";
    case KvmReport::State::slow: return "slow";
    case KvmReport::State::usable: return "usable";
  }
  return "";
}

KvmReport probe_kvm(ProbeDepth depth, const std::string& device) {
  KvmReport report;
  const UniqueFd kvm(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm) {
    const int error = errno;
    report.detail = fail_errno(error, "cannot open " + device).error().message;
    if (error == EACCES || error == EPERM) {
      report.state = KvmReport::State::no_access;
      report.next_step = "add this user to the group kvm (sudo usermod -aG kvm $USER) and log in again";
    } else if (error == ENOENT) {
      report.next_step =
          "load the module (sudo modprobe kvm_intel or kvm_amd) and enable virtualization in the "
          "firmware; on a virtual host, its provider must allow nesting";
    } else {
      report.state = KvmReport::State::broken;
      report.next_step = "look at the kernel's messages (sudo dmesg | grep -i kvm)";
    }
    return report;
  }

  report.state = KvmReport::State::broken;
  report.next_step = "look at the kernel's messages (sudo dmesg | grep -i kvm)";
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    report.detail = fail_errno(errno, "cannot create a pipe").error().message;
    return report;
  }
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  // A grandchild, whose end nobody here waits for: taking a virtual machine down takes some kernels tens of
  // milliseconds, and a KVM that hangs for good would hang its parent too.
  const pid_t child = ::fork();
  if (child < 0) {
    report.detail = fail_errno(errno, "cannot start a process").error().message;
    return report;
  }
  if (child == 0) {
    if (::fork() == 0) {
      ::signal(SIGALRM, SIG_DFL);
      sigset_t alarm_only;
      ::sigemptyset(&alarm_only);
      ::sigaddset(&alarm_only, SIGALRM);
      ::sigprocmask(SIG_UNBLOCK, &alarm_only, nullptr);
      ::alarm(kPatienceMs / 1000 + 1);
      measure(kvm.get(), depth,
              [&](const Answer& answer) { static_cast<void>(!::write(write_end.get(), &answer, sizeof answer)); });
    }
    ::_exit(0);
  }
  write_end.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  Answer answer;
  pollfd waiting{read_end.get(), POLLIN, 0};
  int ready;
  do ready = ::poll(&waiting, 1, kPatienceMs);
  while (ready < 0 && errno == EINTR);
  const bool answered = ready == 1 && ::read(read_end.get(), &answer, sizeof answer) == sizeof answer;
  if (!answered) {
    report.detail = ready == 0 ? "a small guest did not end within 5 s" : "a small guest crashed its process";
  } else if (answer.step[0]) {
    report.detail = answer.error ? fail_errno(answer.error, std::string(answer.step) + " failed").error().message
                                 : std::string(answer.step) + " failed";
  } else {
    report.million_per_second = answer.million_per_second;
    const bool fast = answer.million_per_second >= kHardwareSpeed;
    report.state = fast ? KvmReport::State::usable : KvmReport::State::slow;
    report.next_step = fast ? ""
                            : "use husk's own CPU (--accel jit), which husk chooses by default here; this host's KVM "
                              "emulates ordinary guests";
  }
  return report;
}

}  // namespace husk::app
