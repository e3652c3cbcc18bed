// husk: AMD SVM as the manual lays it out: exit codes, the VMCB, event injection (APM vol. 2, chapter 15, appendices B, C)
#pragma once

#include <cstdint>

namespace husk::cpu::interp {

/// Exit codes (APM vol. 2, appendix C). Below 160 each is also the number of its bit in the intercept vectors.
enum SvmExit : std::uint32_t {
  kExitReadCr0 = 0x00, kExitWriteCr0 = 0x10, kExitReadDr0 = 0x20, kExitWriteDr0 = 0x30, kExitException = 0x40,
  kExitInterrupt = 0x60, kExitNmi = 0x61, kExitSmi = 0x62, kExitInit = 0x63, kExitVirtualInterrupt = 0x64,
  kExitCr0Selective = 0x65, kExitReadIdtr = 0x66, kExitReadGdtr = 0x67, kExitReadLdtr = 0x68, kExitReadTr = 0x69,
  kExitWriteIdtr = 0x6A, kExitWriteGdtr = 0x6B, kExitWriteLdtr = 0x6C, kExitWriteTr = 0x6D, kExitRdtsc = 0x6E,
  kExitRdpmc = 0x6F, kExitPushf = 0x70, kExitPopf = 0x71, kExitCpuid = 0x72, kExitRsm = 0x73, kExitIret = 0x74,
  kExitSoftwareInterrupt = 0x75, kExitInvd = 0x76, kExitPause = 0x77, kExitHlt = 0x78, kExitInvlpg = 0x79,
  kExitInvlpga = 0x7A, kExitIo = 0x7B, kExitMsr = 0x7C, kExitTaskSwitch = 0x7D, kExitFerrFreeze = 0x7E,
  kExitShutdown = 0x7F, kExitVmrun = 0x80, kExitVmmcall = 0x81, kExitVmload = 0x82, kExitVmsave = 0x83,
  kExitStgi = 0x84, kExitClgi = 0x85, kExitSkinit = 0x86, kExitRdtscp = 0x87, kExitInt1 = 0x88, kExitWbinvd = 0x89,
  kExitMonitor = 0x8A, kExitMwait = 0x8B, kExitMwaitArmed = 0x8C, kExitXsetbv = 0x8D, kExitNestedPageFault = 0x400,
};
constexpr std::uint64_t kExitInvalid = ~std::uint64_t{0};

/// EXITINFO1 of a nested page fault, beside the bits of a page fault's error code (APM vol. 2, 15.25.6).
constexpr std::uint64_t kNpfFinal = std::uint64_t{1} << 32, kNpfTable = std::uint64_t{1} << 33;

/// Offsets in the VMCB (APM vol. 2, appendix B).
enum Vmcb : std::uint32_t {
  kVmcbIntercepts = 0x000, kVmcbPauseThreshold = 0x03C, kVmcbPauseCount = 0x03E, kVmcbIoMap = 0x040, kVmcbMsrMap = 0x048,
  kVmcbTscOffset = 0x050, kVmcbAsid = 0x058, kVmcbTlbControl = 0x05C, kVmcbVirtual = 0x060, kVmcbShadow = 0x068,
  kVmcbExitCode = 0x070, kVmcbExitInfo1 = 0x078, kVmcbExitInfo2 = 0x080, kVmcbExitIntInfo = 0x088, kVmcbNested = 0x090,
  kVmcbEventInjection = 0x0A8, kVmcbNestedCr3 = 0x0B0, kVmcbNextRip = 0x0C8,
  kVmcbSegments = 0x400,  ///< ES, CS, SS, DS, FS, GS
  kVmcbFs = 0x440, kVmcbGs = 0x450, kVmcbGdtr = 0x460, kVmcbLdtr = 0x470, kVmcbIdtr = 0x480, kVmcbTr = 0x490,
  kVmcbCpl = 0x4CB, kVmcbEfer = 0x4D0, kVmcbCr4 = 0x548, kVmcbCr3 = 0x550, kVmcbCr0 = 0x558, kVmcbDr7 = 0x560,
  kVmcbDr6 = 0x568, kVmcbRflags = 0x570, kVmcbRip = 0x578, kVmcbRsp = 0x5D8, kVmcbRax = 0x5F8, kVmcbStar = 0x600,
  kVmcbLstar = 0x608, kVmcbCstar = 0x610, kVmcbSfmask = 0x618, kVmcbKernelGsBase = 0x620, kVmcbSysenterCs = 0x628,
  kVmcbSysenterEsp = 0x630, kVmcbSysenterEip = 0x638, kVmcbCr2 = 0x640, kVmcbPat = 0x668, kVmcbEnd = 0x670,
};

/// EVENTINJ and EXITINTINFO (APM vol. 2, 15.20): vector, type in bits 10:8, error code in the high half.
constexpr std::uint64_t kEventHasError = 1u << 11, kEventValid = 1u << 31;
enum EventType : unsigned { kEventInterrupt = 0, kEventNmi = 2, kEventException = 3, kEventSoftware = 4 };

}  // namespace husk::cpu::interp
