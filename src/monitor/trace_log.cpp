// husk: trace lines
#include "monitor/trace_log.h"

#include <array>

#include "monitor/cpu_view.h"
#include "monitor/disassembler.h"

namespace husk::monitor {

void TraceLog::line(const std::string& text) {
  const std::lock_guard lock(mutex_);
  std::fwrite(text.data(), 1, text.size(), deps_.out);
  std::fputc('\n', deps_.out);
}

std::string TraceLog::named(std::uint64_t address) const {
  const std::string name = deps_.name_of ? deps_.name_of(address) : std::string();
  return name.empty() ? fmt::format("{:#x}", address) : fmt::format("{:#x} <{}>", address, name);
}

void TraceLog::event(unsigned vcpu, const accel::PastEvent& event) {
  std::string what;
  switch (event.kind) {
    case accel::PastEvent::Kind::exception: what = "exception " + vector_name(event.vector); break;
    case accel::PastEvent::Kind::software: what = fmt::format("software interrupt {:#04x}", event.vector); break;
    case accel::PastEvent::Kind::interrupt: what = fmt::format("interrupt {:#04x}", event.vector); break;
    case accel::PastEvent::Kind::nmi: what = "NMI"; break;
  }
  if (event.has_error) what += fmt::format(" error={:#x}", event.error);
  if (event.kind == accel::PastEvent::Kind::exception && event.vector == 14) what += " address=" + named(event.cr2);
  line(fmt::format("cpu{} {} at {:04x}:{}", vcpu, what, event.cs, named(event.rip)));
}

void TraceLog::io(unsigned vcpu, bool write, std::uint16_t port, unsigned size, std::uint64_t value) {
  line(
      fmt::format("cpu{} io {} {:#06x} {} {:#0{}x}", vcpu, write ? "write" : "read ", port, size, value, size * 2 + 2));
}

void TraceLog::mmio(unsigned vcpu, bool write, mem::Gpa address, unsigned size, std::uint64_t value) {
  line(fmt::format("cpu{} mmio {} {:#010x} {} {:#0{}x}", vcpu, write ? "write" : "read ", address, size, value,
                   size * 2 + 2));
}

void TraceLog::msr(unsigned vcpu, bool write, std::uint32_t index, std::uint64_t value, bool fault) {
  line(fmt::format("cpu{} msr {} {:#010x} {:#018x}{}", vcpu, write ? "write" : "read ", index, value,
                   fault ? " #GP" : ""));
}

void TraceLog::exec(unsigned vcpu, const cpu::CpuState& state) {
  const CpuView view(state, deps_.model, deps_.memory);
  std::array<std::uint8_t, 15> bytes{};
  const std::size_t got = view.read(view.linear_rip(), bytes);
  const DisassembledInsn insn = disassemble(std::span(bytes).first(got), state.rip, view.code_size());
  std::string text = fmt::format("cpu{} {:04x}:{:016x}  {}", vcpu, state.seg[cpu::kCs].selector, state.rip, insn.text);
  const std::string name = deps_.name_of ? deps_.name_of(state.rip) : std::string();
  if (!name.empty()) text += fmt::format("  <{}>", name);
  if (deps_.registers) text += "\n" + registers_text(state, [](std::uint64_t) { return std::string(); });
  line(text);
}

}  // namespace husk::monitor
