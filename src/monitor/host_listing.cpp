// husk: listings of translated code
#include "monitor/host_listing.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/bits.h"
#include "monitor/disassembler.h"

namespace husk::monitor {
namespace {

class Lister {
 public:
  Lister(const cpu::TranslatedCode& code, ListingStyle style) : code_(code), style_(style) {
    ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter_, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
  }

  std::vector<ListedInsn> list(const cpu::HostCode& piece) {
    std::vector<ListedInsn> lines;
    bool falls_through = true;
    for (std::size_t at = 0; at < piece.bytes.size();) {
      const std::uint64_t address = piece.address + at;
      const auto rest = piece.bytes.subspan(at);
      // Behind a jump may lie what it goes through: an aligned address in this same code.
      if (!falls_through && rest[0] == 0xCC) {
        ++at;
        continue;
      }
      if (!falls_through && address % 8 == 0 && rest.size() >= 8) {
        if (const std::string target = place(load_le<std::uint64_t>(rest.data())); !target.empty()) {
          lines.push_back({address, "dq " + target});
          at += 8;
          continue;
        }
      }
      ZydisDecodedInstruction insn;
      ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, rest.data(), rest.size(), &insn, operands))) {
        lines.push_back({address, fmt::format("db {:#04x}", rest[0])});
        ++at;
        continue;
      }
      lines.push_back({address, text(insn, operands, address)});
      falls_through = insn.meta.category != ZYDIS_CATEGORY_UNCOND_BR && insn.meta.category != ZYDIS_CATEGORY_RET;
      at += insn.length;
    }
    return lines;
  }

 private:
  /// The name of a place in this code or in what all code shares; "" if it is neither.
  std::string place(std::uint64_t address) const {
    const auto inside = [address](const cpu::HostCode& piece) {
      return address - piece.address < piece.bytes.size() ||
             (piece.bytes.size() && address == piece.address + piece.bytes.size());
    };
    if (style_ == ListingStyle::relative) {
      if (inside(code_.hot)) return fmt::format("hot+{}", address - code_.hot.address);
      if (inside(code_.cold)) return fmt::format("cold+{}", address - code_.cold.address);
    } else if (inside(code_.hot) || inside(code_.cold)) {
      return fmt::format("{:#x}", address);
    }
    return code_.names ? code_.names->code_name(reinterpret_cast<const std::uint8_t*>(address)) : std::string();
  }

  std::string pointer(std::uint64_t value) {
    if (style_ == ListingStyle::addresses) return fmt::format("{:#x}", value);
    auto found = std::find(pointers_.begin(), pointers_.end(), value);
    if (found == pointers_.end()) found = pointers_.insert(found, value);
    return fmt::format("site{}", found - pointers_.begin());
  }

  std::string memory(const ZydisDecodedOperand& operand, std::uint64_t address, const ZydisDecodedInstruction& insn) {
    const auto& m = operand.mem;
    std::string inner;
    if (m.base == ZYDIS_REGISTER_RIP) {
      const std::uint64_t target = address + insn.length + static_cast<std::uint64_t>(m.disp.value);
      const std::string name = place(target);
      return name.empty() ? fmt::format("[{:#x}]", target) : "[" + name + "]";
    }
    if (m.base != ZYDIS_REGISTER_NONE) inner = ZydisRegisterGetString(m.base);
    if (m.index != ZYDIS_REGISTER_NONE)
      inner += fmt::format("{}{}*{}", inner.empty() ? "" : "+", ZydisRegisterGetString(m.index), m.scale);
    std::string name;
    if (m.segment == ZYDIS_REGISTER_GS && code_.names) name = code_.names->field_name(m.disp.value);
    if (!name.empty())
      inner += (inner.empty() ? "" : "+") + name;
    else if (m.disp.has_displacement && (m.disp.value != 0 || inner.empty()))
      inner += m.disp.value < 0 ? fmt::format("-{:#x}", -m.disp.value)
                                : fmt::format("{}{:#x}", inner.empty() ? "" : "+", m.disp.value);
    return fmt::format("{}[{}]", m.segment == ZYDIS_REGISTER_GS ? "gs:" : "", inner);
  }

  std::string text(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands, std::uint64_t address) {
    char buffer[256];
    ZydisFormatterFormatInstruction(&formatter_, &insn, operands, insn.operand_count_visible, buffer, sizeof buffer,
                                    address, nullptr);
    std::string out = buffer;
    // With one memory operand at most, what is in brackets, its segment included, is that.
    for (unsigned i = 0; i < insn.operand_count_visible; ++i) {
      const ZydisDecodedOperand& operand = operands[i];
      if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
        std::size_t open = out.find('[');
        const std::size_t close = out.find(']');
        if (open == std::string::npos || close == std::string::npos) continue;
        const std::size_t end = close + 1;
        if (open >= 3 && out[open - 1] == ':') open -= 3;
        out.replace(open, end - open, memory(operand, address, insn));
      } else if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand.imm.is_relative) {
        const std::uint64_t target = address + insn.length + static_cast<std::uint64_t>(operand.imm.value.s);
        if (const std::string name = place(target); !name.empty())
          out.replace(out.rfind(' ') + 1, std::string::npos, name);
      } else if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && insn.mnemonic == ZYDIS_MNEMONIC_MOV &&
                 insn.length == 10) {
        // Only husk's own data lies at 64-bit constants that R10 or R11 is loaded with.
        if (operands[0].reg.value == ZYDIS_REGISTER_R10 || operands[0].reg.value == ZYDIS_REGISTER_R11)
          out.replace(out.rfind(' ') + 1, std::string::npos, pointer(operand.imm.value.u));
      }
    }
    return out;
  }

  const cpu::TranslatedCode& code_;
  const ListingStyle style_;
  ZydisDecoder decoder_{};
  ZydisFormatter formatter_{};
  std::vector<std::uint64_t> pointers_;
};

}  // namespace

std::vector<ListedInsn> list_guest_code(const cpu::TranslatedCode& code) {
  std::vector<ListedInsn> lines;
  for (std::size_t at = 0; at < code.guest.size();) {
    const std::uint64_t address = code.linear + at;
    const DisassembledInsn insn = disassemble(code.guest.subspan(at), address, code.code_size);
    lines.push_back({address, insn.text});
    at += insn.length;
  }
  return lines;
}

HostListing list_host_code(const cpu::TranslatedCode& code, ListingStyle style) {
  Lister lister(code, style);
  HostListing listing;
  listing.hot = lister.list(code.hot);
  listing.cold = lister.list(code.cold);
  return listing;
}

}  // namespace husk::monitor
