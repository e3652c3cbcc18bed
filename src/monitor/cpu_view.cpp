// husk: a stopped CPU
#include "monitor/cpu_view.h"

#include <algorithm>
#include <array>

namespace husk::monitor {

cpu::CodeSize CpuView::code_size() const {
  if (state_.code64()) return cpu::CodeSize::bits64;
  return state_.seg[cpu::kCs].big() && !state_.v86() ? cpu::CodeSize::bits32 : cpu::CodeSize::bits16;
}

std::uint64_t CpuView::linear_rip() const {
  if (state_.code64()) return state_.rip;
  return static_cast<std::uint32_t>(state_.seg[cpu::kCs].base + state_.rip);
}

cpu::PageWalk CpuView::walk(std::uint64_t linear, const cpu::WalkAccess& access) const {
  return cpu::walk_pages(state_, limits_, linear, access, [this](std::uint64_t gpa, unsigned bytes) {
    std::array<std::uint8_t, 8> raw{};
    read_physical(gpa, std::span(raw).first(bytes));
    return load_le<std::uint64_t>(raw.data());
  });
}

std::optional<mem::Gpa> CpuView::translate(std::uint64_t linear) const {
  const cpu::PageWalk found = walk(linear);
  if (found.outcome != cpu::WalkOutcome::ok && found.outcome != cpu::WalkOutcome::denied) return std::nullopt;
  return found.gpa;
}

template <class Each>
std::size_t CpuView::by_page(std::uint64_t linear, std::size_t length, Each&& each) const {
  for (std::size_t done = 0; done < length;) {
    const auto gpa = translate(linear + done);
    if (!gpa) return done;
    const std::size_t piece = std::min(length - done, static_cast<std::size_t>(4096 - (*gpa & 0xFFF)));
    const std::size_t moved = each(*gpa, done, piece);
    done += moved;
    if (moved < piece) return done;
  }
  return length;
}

std::size_t CpuView::read(std::uint64_t linear, std::span<std::uint8_t> into) const {
  return by_page(linear, into.size(), [&](mem::Gpa gpa, std::size_t at, std::size_t piece) {
    return read_physical(gpa, into.subspan(at, piece));
  });
}

std::size_t CpuView::write(std::uint64_t linear, std::span<const std::uint8_t> from) {
  return by_page(linear, from.size(), [&](mem::Gpa gpa, std::size_t at, std::size_t piece) {
    return write_physical(gpa, from.subspan(at, piece));
  });
}

std::size_t CpuView::read_physical(mem::Gpa address, std::span<std::uint8_t> into) const {
  for (std::size_t done = 0; done < into.size();) {
    const mem::Target target = memory_.find(address + done);
    if (!target.ram) return done;
    const std::size_t piece = std::min<std::uint64_t>(into.size() - done, target.length);
    std::copy_n(target.ram->data() + target.offset, piece, into.data() + done);
    done += piece;
  }
  return into.size();
}

std::size_t CpuView::write_physical(mem::Gpa address, std::span<const std::uint8_t> from) {
  for (std::size_t done = 0; done < from.size();) {
    const mem::Target target = memory_.find(address + done);
    if (!target.ram) return done;
    const std::size_t piece = std::min<std::uint64_t>(from.size() - done, target.length);
    std::copy_n(from.data() + done, piece, target.ram->data() + target.offset);
    target.ram->note_write(target.offset, piece);
    done += piece;
  }
  return from.size();
}

std::string registers_text(const cpu::CpuState& s, const std::function<std::string(std::uint64_t)>& name_of) {
  static constexpr const char* kNames[] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                           "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"};
  static constexpr unsigned kOrder[] = {0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15};
  std::string text;
  unsigned column = 0;
  for (const unsigned n : kOrder) {
    text += fmt::format("{}={:016x}{}", kNames[n], s.gpr[n], ++column % 4 ? " " : "\n");
  }
  const std::string where = name_of(s.rip);
  text += fmt::format("RIP={:016x}{}  RFLAGS={:08x} [", s.rip, where.empty() ? "" : " <" + where + ">", s.rflags);
  static constexpr std::pair<std::uint64_t, char> kFlagLetters[] = {{cpu::kOF, 'O'}, {cpu::kDF, 'D'}, {cpu::kIF, 'I'},
                                                                    {cpu::kTF, 'T'}, {cpu::kSF, 'S'}, {cpu::kZF, 'Z'},
                                                                    {cpu::kAF, 'A'}, {cpu::kPF, 'P'}, {cpu::kCF, 'C'}};
  for (const auto& [bit_mask, letter] : kFlagLetters) text += (s.rflags & bit_mask) ? letter : '-';
  text += fmt::format("]  CPL={}\n", s.cpl());
  static constexpr const char* kSegments[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
  for (unsigned n = 0; n < 6; ++n)
    text += fmt::format("{} ={:04x} base={:016x} limit={:08x} attr={:04x}{}", kSegments[n], s.seg[n].selector,
                        s.seg[n].base, s.seg[n].limit, s.seg[n].attributes, n % 2 ? "\n" : "   ");
  text += fmt::format(
      "LDT={:04x} base={:016x} limit={:08x} attr={:04x}   TR ={:04x} base={:016x} limit={:08x} attr={:04x}\n",
      s.ldtr.selector, s.ldtr.base, s.ldtr.limit, s.ldtr.attributes, s.tr.selector, s.tr.base, s.tr.limit,
      s.tr.attributes);
  text += fmt::format("GDT base={:016x} limit={:04x}   IDT base={:016x} limit={:04x}\n", s.gdtr.base, s.gdtr.limit,
                      s.idtr.base, s.idtr.limit);
  text +=
      fmt::format("CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:04x}\n", s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
  return text;
}

std::string vector_name(unsigned vector) {
  static constexpr const char* kNames[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9",  "#TS",
                                           "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};
  return vector < std::size(kNames) ? kNames[vector] : fmt::format("vector {:#x}", vector);
}

}  // namespace husk::monitor
