// husk: crash reports
#include "monitor/crash_report.h"

#include <algorithm>
#include <array>
#include <optional>

#include "monitor/cpu_view.h"
#include "monitor/disassembler.h"

namespace husk::monitor {
namespace {

constexpr unsigned kPageFault = 14;

class Report {
 public:
  explicit Report(const CrashReportInput& input) : in_(input), view_(input.state, input.model, input.memory) {}

  std::string write() {
    line("==== {} ====", in_.headline);
    if (in_.instructions) line("after {} instructions", in_.instructions);
    text_ += registers_text(in_.state, [this](std::uint64_t address) { return symbol(address); });
    past_events();
    code();
    fault_walk();
    cause();
    return std::move(text_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format(format, std::forward<Args>(args)...);
    text_ += '\n';
  }
  std::optional<boot::SymbolTable::Hit> find(std::uint64_t address) const {
    for (const boot::SymbolTable* table : in_.symbols)
      if (const auto hit = table->find(address)) return hit;
    // A kernel that runs at its physical address still has to build the page tables that its link addresses need. A
    // user process may have the same linear address, but not for the same physical one.
    if (in_.symbol_offset != 0 && view_.translate(address) == address)
      for (const boot::SymbolTable* table : in_.symbols)
        if (const auto hit = table->find(address + in_.symbol_offset)) return hit;
    return std::nullopt;
  }
  std::string symbol(std::uint64_t address) const {
    const auto hit = find(address);
    return hit ? hit->text() : std::string();
  }
  std::string named(std::uint64_t address) const {
    const std::string name = symbol(address);
    return name.empty() ? fmt::format("{:#x}", address) : fmt::format("{:#x} <{}>", address, name);
  }

  void past_events() {
    if (in_.past.empty()) return;
    line("-- last exceptions and interrupts, newest last");
    for (const accel::PastEvent& event : in_.past) {
      std::string what = event.kind == accel::PastEvent::Kind::interrupt
                             ? fmt::format("interrupt {:#04x}", event.vector)
                         : event.kind == accel::PastEvent::Kind::software ? fmt::format("INT {:#04x}", event.vector)
                                                                          : vector_name(event.vector);
      if (event.has_error) what += fmt::format(" error={:#x}", event.error);
      if (event.kind == accel::PastEvent::Kind::exception && event.vector == kPageFault)
        what += fmt::format(" address={}", named(event.cr2));
      line("   {:<44} at {:04x}:{}", what, event.cs, named(event.rip));
    }
  }

  /// Where disassembly that ends exactly at `rip` can start: the symbol's start if that is near, else nothing.
  std::optional<std::uint64_t> start_before(std::uint64_t rip) const {
    const auto hit = find(rip);
    if (!hit || hit->offset > 4096) return std::nullopt;
    return rip - hit->offset;
  }

  void code() {
    const std::uint64_t rip = view_.linear_rip();
    std::array<std::uint8_t, 160> bytes{};
    const std::size_t got = view_.read(rip, bytes);
    line("-- code at {}", named(rip));
    if (got == 0) {
      line("   the page is not mapped or is not RAM: nothing to execute there");
      return;
    }
    std::vector<std::string> before;
    if (const auto start = start_before(rip)) {
      for (std::uint64_t at = *start; at < rip;) {
        std::array<std::uint8_t, 15> raw{};
        const std::size_t count = view_.read(at, raw);
        if (count == 0) break;
        const DisassembledInsn insn = disassemble(std::span(raw).first(count), at, view_.code_size());
        before.push_back(fmt::format("   {:016x}  {}", at, insn.text));
        at += insn.length;
      }
      const std::size_t shown = std::min<std::size_t>(before.size(), 6);
      for (std::size_t i = before.size() - shown; i < before.size(); ++i) line("{}", before[i]);
    }
    std::size_t at = 0;
    for (unsigned shown = 0; shown < 8 && at < got; ++shown) {
      const DisassembledInsn insn =
          disassemble(std::span(bytes).subspan(at, std::min<std::size_t>(15, got - at)), rip + at, view_.code_size());
      line("{}{:016x}  {}", shown == 0 ? "=> " : "   ", rip + at, insn.text);
      at += insn.length;
    }
    std::string raw;
    for (std::size_t i = 0; i < std::min<std::size_t>(got, 16); ++i) raw += fmt::format(" {:02x}", bytes[i]);
    line("   bytes:{}", raw);
  }

  const accel::PastEvent* last_page_fault() const {
    for (auto event = in_.past.rbegin(); event != in_.past.rend(); ++event)
      if (event->kind == accel::PastEvent::Kind::exception && event->vector == kPageFault) return &*event;
    return nullptr;
  }

  void fault_walk() {
    if (!(in_.state.cr0 & cpu::kCr0Pg)) {
      line("-- paging is off");
      return;
    }
    const accel::PastEvent* fault = last_page_fault();
    const std::uint64_t address = fault ? fault->cr2 : view_.linear_rip();
    cpu::WalkAccess access;
    if (fault) {
      access.write = fault->error & 2;
      access.user = fault->error & 4;
      access.execute = fault->error & 16;
      line("-- page walk of {} ({} by {})", named(address),
           access.execute ? "fetch"
           : access.write ? "write"
                          : "read",
           access.user ? "user" : "supervisor");
    } else {
      access.execute = true;
      line("-- page walk of RIP {}", named(address));
    }
    const cpu::PageWalk walk = view_.walk(address, access);
    for (unsigned i = 0; i < walk.count; ++i) {
      const cpu::WalkEntry& entry = walk.entries[i];
      std::string flags;
      static constexpr std::pair<unsigned, const char*> kBits[] = {
          {0, "P"}, {1, "W"}, {2, "U"}, {3, "PWT"}, {4, "PCD"}, {5, "A"}, {6, "D"}, {7, "PS"}, {8, "G"}, {63, "NX"}};
      for (const auto& [bit_number, name] : kBits)
        if (bit(entry.value, bit_number)) flags += fmt::format(" {}", name);
      line("   {:<6} at {:#012x} = {:#018x}{}", cpu::walk_level_name(entry.level), entry.address, entry.value,
           flags.empty() ? " (not present)" : flags);
    }
    switch (walk.outcome) {
      case cpu::WalkOutcome::ok: line("   maps to {:#x} ({} KiB page)", walk.gpa, walk.page_size >> 10); break;
      case cpu::WalkOutcome::non_canonical: line("   the address is not canonical"); break;
      case cpu::WalkOutcome::not_present: line("   not present: the walk ends here"); break;
      case cpu::WalkOutcome::reserved: line("   a reserved bit is set in the last entry"); break;
      case cpu::WalkOutcome::denied: line("   maps to {:#x}, but this access is not allowed", walk.gpa); break;
    }
  }

  void cause() {
    const cpu::CpuState& s = in_.state;
    const accel::PastEvent* first = nullptr;
    // The first of the run of exceptions, each inside the delivery of the one before, is the cause of a triple fault.
    for (auto event = in_.past.rbegin(); event != in_.past.rend(); ++event) {
      if (event->kind != accel::PastEvent::Kind::exception) break;
      if (first && event->rip != first->rip) break;
      first = &*event;
    }
    if (s.activity == cpu::Activity::shutdown && first) {
      std::string why = fmt::format("{} at {} could not be delivered", vector_name(first->vector), named(first->rip));
      if (s.protected_mode() && s.idtr.limit < 8u * first->vector + 7)
        why += fmt::format(": the IDT (base {:#x}, limit {:#x}) has no entry for it", s.idtr.base, s.idtr.limit);
      else if (!view_.translate(s.idtr.base) && (s.cr0 & cpu::kCr0Pg))
        why += fmt::format(": the IDT at {:#x} is not mapped", s.idtr.base);
      line("-- likely cause: {}", why);
    } else if (s.activity == cpu::Activity::halted && !(s.rflags & cpu::kIF)) {
      line("-- likely cause: the guest executed HLT with interrupts off and waits for an NMI, which will not come");
    }
  }

  const CrashReportInput& in_;
  CpuView view_;
  std::string text_;
};

}  // namespace

std::string crash_report(const CrashReportInput& input) { return Report(input).write(); }

}  // namespace husk::monitor
