// husk: KVM's system calls, with their numbers made safe for C++
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>
#include <vector>

namespace husk::accel::kvm {

// Structures that end in a flexible array are larger in C++ than in C with some versions of the kernel's headers, and
// with the size the numbers of these calls change. Numbers and sizes: Linux, include/uapi/linux/kvm.h.
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long kSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
inline constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
inline constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);

/// struct kvm_cpuid2 with room for as many entries as any host has.
struct CpuidTable {
  static constexpr std::uint32_t kMost = 256;
  std::uint32_t count = kMost;
  std::uint32_t padding = 0;
  kvm_cpuid_entry2 entries[kMost] = {};
};
/// struct kvm_msrs with room for every register of the neutral state.
struct MsrTable {
  static constexpr std::uint32_t kMost = 160;
  std::uint32_t count = 0;
  std::uint32_t padding = 0;
  kvm_msr_entry entries[kMost] = {};
};
struct alignas(64) XsaveArea {
  std::uint8_t bytes[4096] = {};
};

/// ioctl() that is not ended by signals. -1 and errno on failure.
template <class Argument>
int call(int fd, unsigned long request, Argument argument) {
  int result;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

}  // namespace husk::accel::kvm
