// husk: the state of a CPU after RESET and INIT
#include "cpu/state.h"

namespace husk::cpu {

namespace {

constexpr std::uint16_t kDataAttributes = 0x93;  // present, writable, accessed
constexpr std::uint16_t kCodeAttributes = 0x9B;
constexpr std::uint16_t kLdtAttributes = 0x82;
constexpr std::uint16_t kTssAttributes = 0x8B;  // a busy 32-bit TSS, as VM entry checks ask for (SDM vol. 3, 27.3.1.2)

void reset_segments(CpuState& state) {
  for (Segment& segment : state.seg) segment = {.selector = 0, .attributes = kDataAttributes, .limit = 0xFFFF, .base = 0};
  state.seg[kCs] = {.selector = 0xF000, .attributes = kCodeAttributes, .limit = 0xFFFF, .base = 0xFFFF0000};
  state.ldtr = {.selector = 0, .attributes = kLdtAttributes, .limit = 0xFFFF, .base = 0};
  state.tr = {.selector = 0, .attributes = kTssAttributes, .limit = 0xFFFF, .base = 0};
  state.gdtr = {.base = 0, .limit = 0xFFFF};
  state.idtr = {.base = 0, .limit = 0xFFFF};
}

}  // namespace

CpuState reset_state(std::uint32_t signature) {
  CpuState state;
  reset_segments(state);
  state.gpr[kRdx] = signature;
  return state;
}

// SDM vol. 3, table 10-1, column INIT.
CpuState init_state(const CpuState& before, std::uint32_t signature) {
  CpuState state = reset_state(signature);
  state.cr0 = kCr0Et | (before.cr0 & (kCr0Nw | kCr0Cd));
  state.xcr0 = before.xcr0;
  state.msr = before.msr;
  state.x87 = before.x87;
  state.mxcsr = before.mxcsr;
  state.pkru = before.pkru;
  state.vector = before.vector;
  state.opmask = before.opmask;
  return state;
}

}  // namespace husk::cpu
