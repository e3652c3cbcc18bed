// husk: runs tests on the host's own CPU, in a sandboxed child process
#include "host_cpu.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/bits.h"

namespace husk::differential {

cpu::FeatureSet host_features() {
  cpu::FeatureSet set;
  for (std::size_t i = 1; i < cpu::kFeatureCount; ++i) {
    const cpu::FeatureInfo& info = cpu::feature_info(static_cast<cpu::Feature>(i));
    unsigned r[4] = {};
    if (__get_cpuid_count(info.leaf, info.subleaf, &r[0], &r[1], &r[2], &r[3]) == 0) continue;
    if (r[static_cast<unsigned>(info.reg)] >> info.bit & 1) set.set(i);
  }
  return set;
}

std::string host_lacks() {
  const cpu::FeatureSet set = host_features();
  for (const cpu::Feature needed : {cpu::Feature::osxsave, cpu::Feature::avx, cpu::Feature::fsgsbase})
    if (!set.test(static_cast<std::size_t>(needed)))
      return fmt::format("the host CPU has no {}", cpu::feature_info(needed).name);
  // Bit 1 of AT_HWCAP2: the kernel lets programs use WRFSBASE (Linux 5.9 and later).
  if (!(getauxval(AT_HWCAP2) & 2)) return "the host's kernel does not allow WRFSBASE";
  return {};
}

Result<std::unique_ptr<HostCpu>> HostCpu::start(std::span<const std::uint8_t> data) {
  std::unique_ptr<HostCpu> host(new HostCpu);
  HUSK_TRY(host->launch(data));
  return host;
}

Status HostCpu::launch(std::span<const std::uint8_t> data) {
  const int fd = memfd_create("husk-differential", 0);
  if (fd < 0) return fail_errno(errno, "memfd_create");
  if (ftruncate(fd, static_cast<off_t>(kSharedSize)) != 0) return fail_errno(errno, "ftruncate");
  void* const at = mmap(nullptr, kSharedSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (at == MAP_FAILED) return fail_errno(errno, "mmap");
  shared_ = static_cast<std::uint8_t*>(at);
  std::memset(shared_ + kCodeOffset, 0xCC, kCodeSize);
  std::memcpy(shared_ + kDataOffset, data.data(), kDataSize);
  child_ = fork();
  if (child_ < 0) return fail_errno(errno, "fork");
  if (child_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (fd != kSharedFd) dup2(fd, kSharedFd);
    char* const none[] = {nullptr};
    char name[] = "differential_child";
    char* const arguments[] = {name, nullptr};
    execve(HUSK_DIFFERENTIAL_CHILD, arguments, none);
    _exit(127);
  }
  close(fd);
  if (const Status ready = wait_for(control().ready, 0, 30); !ready) return ready;
  if (control().ready != 1) return fail("the child could not set itself up (step {})", control().ready);
  tiny_data_ = control().tiny_data != 0;
  return {};
}

HostCpu::~HostCpu() {
  if (child_ > 0) {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  if (shared_) munmap(shared_, kSharedSize);
}

Status HostCpu::wait_for(const std::uint32_t& word, std::uint32_t old, unsigned seconds) {
  std::uint32_t at = ~0u;
  for (unsigned tenths = 0; __atomic_load_n(&word, __ATOMIC_ACQUIRE) == old;) {
    const timespec tenth{0, 100'000'000};
    if (syscall(SYS_futex, &word, FUTEX_WAIT, old, &tenth, nullptr, 0) == 0 || errno != ETIMEDOUT) continue;
    failed_at_ = __atomic_load_n(&control().current, __ATOMIC_RELAXED);
    int status = 0;
    if (waitpid(child_, &status, WNOHANG) == child_) {
      child_ = -1;
      return fail("the child died with wait status {:#x} at test {}", status, failed_at_);
    }
    tenths = at == failed_at_ ? tenths + 1 : 0;
    at = failed_at_;
    if (tenths > seconds * 10) return fail("the child hangs at test {}", failed_at_);
  }
  return {};
}

void HostCpu::place(const Test& test) {
  std::uint8_t* at = shared_ + kCodeOffset + (test.request.rip - (test.high_code ? kHighCode : kLowCode));
  std::memset(at - 16, 0xCC, 64);
  std::memcpy(at, test.code.data(), test.length);
  at += test.length;
  if (test.mode == Mode::long64) {
    const std::uint64_t gate = kGateOffset;
    const auto next = static_cast<std::uint64_t>(at + 5 - (shared_ + kCodeOffset));
    *at = 0xE9;
    store_le(at + 1, static_cast<std::uint32_t>(gate - next));
  } else {
    *at = 0xEA;
    store_le(at + 1, static_cast<std::uint32_t>(kLowCode + kGateOffset));
    store_le(at + 5, kUserCs64);
  }
}

void HostCpu::submit(std::span<const Test> tests) {
  const unsigned set = submitted_ & 1;
  auto* const requests = reinterpret_cast<Request*>(shared_ + kRequestsOffset) + set * kBatch;
  next_rip_[set].resize(tests.size());
  insn_rip_[set].resize(tests.size());
  cs_[set].resize(tests.size());
  slot_[set].resize(tests.size());
  for (unsigned i = 0; i < tests.size(); ++i) {
    place(tests[i]);
    Request& to = requests[i];
    const Request& from = tests[i].request;
    // The pokes' bytes are long; most tests use few of them.
    std::memcpy(&to, &from, offsetof(Request, poke_bytes));
    unsigned used = 0;
    for (unsigned p = 0; p < from.poke_count; ++p)
      used = std::max<unsigned>(used, from.pokes[p].source + from.pokes[p].length);
    std::memcpy(to.poke_bytes, from.poke_bytes, used);
    to.rsp = from.gpr[4];
    insn_rip_[set][i] = from.rip;
    cs_[set][i] = static_cast<std::uint16_t>(from.cs);
    next_rip_[set][i] = from.rip + tests[i].length;
    slot_[set][i] = from.rip - (tests[i].high_code ? kHighCode : kLowCode);
  }
  control().count[set] = static_cast<std::uint32_t>(tests.size());
  __atomic_store_n(&control().submitted, ++submitted_, __ATOMIC_RELEASE);
  syscall(SYS_futex, &control().submitted, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

Status HostCpu::collect(std::span<Outcome> outcomes) {
  HUSK_TRY(wait_for(control().completed, collected_, 10));
  const unsigned set = collected_++ & 1;
  const auto* const results = reinterpret_cast<const Answer*>(shared_ + kResultsOffset) + set * kBatch;
  for (unsigned i = 0; i < outcomes.size(); ++i) {
    // A later test whose operand lies in the code must not find what earlier ones left.
    std::memset(shared_ + kCodeOffset + slot_[set][i], 0xCC, 32);
    Answer& r = outcomes[i].state;
    const unsigned chunks = std::min<unsigned>(results[i].chunk_count, kMaxChunks);
    std::memcpy(&r, &results[i], offsetof(Answer, chunks) + chunks * sizeof(Chunk));
    bool& fetch = outcomes[i].fetch_fault;
    fetch = false;
    if (r.vector == kNoFault) {
      r.rip = next_rip_[set][i];
      r.cs = cs_[set][i];  // the way out goes through a segment of its own
      r.error = 0;
      r.cr2 = 0;
      continue;
    }
    if (r.vector == 3 && r.rip != insn_rip_[set][i] + 1) {
      // The INT3 that a branch landed on.
      --r.rip;
      r.vector = kNoFault;
      r.error = 0;
    } else if (r.vector == 14 && (r.error & 0x10) && r.rip != insn_rip_[set][i]) {
      fetch = true;
    } else if (r.vector == 13 && r.rip != insn_rip_[set][i]) {
      fetch = true;  // a target that is not canonical
    }
    if (r.vector != 14) r.cr2 = 0;
    if (r.vector != 14 && r.vector != 13 && r.vector != 12 && r.vector != 11 && r.vector != 17) r.error = 0;
  }
  return {};
}

Status HostCpu::run_code(const Request& request, std::span<const std::uint8_t> code, Answer& answer) {
  const unsigned set = submitted_ & 1;
  std::uint8_t* const at = shared_ + kCodeOffset + (request.rip - kLowCode);
  std::memcpy(at, code.data(), code.size());
  // What it may read must be what GuestCpu has there.
  std::memset(shared_ + kCodeOffset + kGateOffset, 0xCC, 16);
  Request& to = reinterpret_cast<Request*>(shared_ + kRequestsOffset)[set * kBatch];
  to = request;
  to.rsp = request.gpr[4];
  control().count[set] = 1;
  __atomic_store_n(&control().submitted, ++submitted_, __ATOMIC_RELEASE);
  syscall(SYS_futex, &control().submitted, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  HUSK_TRY(wait_for(control().completed, collected_, 10));
  ++collected_;
  answer = reinterpret_cast<const Answer*>(shared_ + kResultsOffset)[set * kBatch];
  std::memset(at, 0xCC, code.size());
  if (answer.vector != 14) answer.cr2 = 0;
  if (answer.vector != 14 && answer.vector != 13 && answer.vector != 12 && answer.vector != 11 && answer.vector != 17)
    answer.error = 0;
  return {};
}

}  // namespace husk::differential
