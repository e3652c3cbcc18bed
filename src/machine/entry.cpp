// husk: entry states
#include "machine/entry.h"

namespace husk::machine {

namespace {
cpu::Segment segment(const boot::EntrySegment& from) {
  cpu::Segment to;
  to.selector = from.selector;
  to.base = from.base;
  to.limit = from.limit;
  to.attributes = from.attributes;
  return to;
}
}  // namespace

cpu::CpuState state_at_entry(const boot::EntryState& entry, const cpu::CpuModel& model) {
  cpu::CpuState state = cpu::reset_state(model.signature());
  state.rip = entry.rip;
  state.rflags = entry.rflags | cpu::kReservedOne;
  state.gpr[cpu::kRax] = entry.rax;
  state.gpr[cpu::kRbx] = entry.rbx;
  state.gpr[cpu::kRsi] = entry.rsi;
  state.gpr[cpu::kRdi] = entry.rdi;
  state.gpr[cpu::kRbp] = entry.rbp;
  state.gpr[cpu::kRsp] = entry.rsp;
  state.seg[cpu::kCs] = segment(entry.cs);
  state.seg[cpu::kDs] = segment(entry.ds);
  state.seg[cpu::kEs] = segment(entry.es);
  state.seg[cpu::kFs] = segment(entry.fs);
  state.seg[cpu::kGs] = segment(entry.gs);
  state.seg[cpu::kSs] = segment(entry.ss);
  state.ldtr = segment(entry.ldtr);
  state.tr = segment(entry.tr);
  state.gdtr = {entry.gdt.base, entry.gdt.limit};
  state.idtr = {entry.idt.base, entry.idt.limit};
  state.cr0 = entry.cr0;
  state.cr3 = entry.cr3;
  state.cr4 = entry.cr4;
  state.efer = entry.efer;
  return state;
}

}  // namespace husk::machine
