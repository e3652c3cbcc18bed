// husk: writes docs/instructions.md: every instruction form, whether it is implemented and compared with a real CPU
//
//   insn_page [--tested FILE] --out PAGE     writes the page
//   insn_page [--tested FILE] --check PAGE   fails if the page is not what would be written
//
// FILE is the differential test's list, a line a form: `MNEMONIC | encoding | note`, as in the table's first two
// columns. An empty note: the form is compared with the host CPU. Anything else says why it is not.
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpu/encode.h"
#include "cpu/insn.h"
#include "cpu/interp/core.h"
#include "cpu/sem.h"

namespace {

using namespace husk::cpu;

std::string_view size_name(OperandSize size) {
  switch (size) {
    case OperandSize::none: return "";
    case OperandSize::b: return "b";
    case OperandSize::w: return "w";
    case OperandSize::d: return "d";
    case OperandSize::q: return "q";
    case OperandSize::v: return "v";
    case OperandSize::z: return "z";
    case OperandSize::y: return "y";
    case OperandSize::x: return "x";
    case OperandSize::dq: return "dq";
    case OperandSize::qq: return "qq";
    case OperandSize::t: return "t";
    case OperandSize::p: return "p";
    case OperandSize::s: return "s";
    case OperandSize::a: return "a";
    case OperandSize::any: return "";
    case OperandSize::fpu_env: return " env";
    case OperandSize::fpu_state: return " state";
    case OperandSize::fxsave: return " fxsave";
    case OperandSize::xsave: return " xsave";
  }
  return "";
}

std::string fixed_name(const Operand& operand) {
  constexpr std::string_view kSegments[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
  switch (operand.kind) {
    case OperandKind::st0: return "ST0";
    case OperandKind::sti: return "STi";
    case OperandKind::fixed_xmm0: return "XMM0";
    case OperandKind::const_one: return "1";
    case OperandKind::fixed_sreg: return std::string(kSegments[operand.fixed]);
    default: break;
  }
  constexpr std::string_view kNames[] = {"AX", "CX", "DX"};
  const std::string_view name = kNames[operand.fixed];
  switch (operand.size) {
    case OperandSize::b: return fmt::format("{}L", name[0]);
    case OperandSize::w: return std::string(name);
    case OperandSize::d: return fmt::format("E{}", name);
    case OperandSize::z: return fmt::format("e{}", name);
    case OperandSize::q: return fmt::format("R{}", name);
    default: return fmt::format("r{}", name);
  }
}

std::string operand_name(const Operand& operand) {
  constexpr std::string_view kLetters = "-EGRMBZIJOASCDVWUHLPQNXY";
  const auto index = static_cast<std::size_t>(operand.kind);
  if (index >= kLetters.size()) return fixed_name(operand);
  return fmt::format("{}{}", kLetters[index], size_name(operand.size));
}

std::string operand_list(const Form& form) {
  std::string text;
  for (const Operand& operand : form.operands) {
    if (operand.kind == OperandKind::none) break;
    if (!text.empty()) text += ", ";
    text += operand_name(operand);
  }
  return text;
}

/// "yes" if a handler is bound for every operand size that the form can have; else why not.
std::string_view implementation(std::uint16_t form) {
  const interp::HandlerTable& handlers = interp::handler_table();
  // One handler for RSM and VMRUN can only be the one that always raises #UD.
  const Handler refusing =
      handlers.find(Sem::rsm, 4) == handlers.find(Sem::vmcall, 4) ? handlers.find(Sem::rsm, 4) : nullptr;
  unsigned sizes = 0;
  for (const CodeSize size : {CodeSize::bits16, CodeSize::bits32, CodeSize::bits64}) {
    sizes |= shape_of(form, size).op_sizes;
  }
  for (unsigned op_size = 1; op_size <= 8; op_size *= 2) {
    if (!(sizes & op_size)) continue;
    const Handler handler = handlers.find(forms()[form].sem, op_size);
    if (!handler) return "**no**";
    if (handler == refusing) return "no: #UD, no CPU model has it";
  }
  return "yes";
}

using Tested = std::map<std::pair<std::string, std::string>, std::string>;

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(' ') - first + 1));
}

std::optional<Tested> read_tested(const char* path) {
  Tested tested;
  std::ifstream file(path);
  if (!file) {
    fmt::print(stderr, "insn_page: cannot read {}; it is the list that the differential test keeps\n", path);
    return std::nullopt;
  }
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.starts_with("#")) continue;
    const std::size_t first = line.find('|');
    const std::size_t second = line.find('|', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      fmt::print(stderr, "insn_page: {}: '{}' is not MNEMONIC | encoding | note\n", path, line);
      return std::nullopt;
    }
    tested[{trimmed(std::string_view(line).substr(0, first)),
            trimmed(std::string_view(line).substr(first + 1, second - first - 1))}] =
        trimmed(std::string_view(line).substr(second + 1));
  }
  return tested;
}

std::string tested_text(const Form& form, const Tested& tested) {
  const auto found = tested.find({std::string(form.mnemonic), std::string(form.encoding)});
  if (found != tested.end()) return found->second.empty() ? "yes" : "no: " + found->second;
  if (form.attributes & kAttrSystem) return "no: not for user programs";
  return "no";
}

std::string make_page(const Tested& tested) {
  struct Group {
    std::string rows;
    unsigned forms = 0, implemented = 0, tested = 0;
  };
  std::vector<std::pair<std::string, Group>> groups;
  for (std::uint16_t i = 0; i < forms().size(); ++i) {
    const Form& form = forms()[i];
    const std::string feature = form.feature == Feature::none ? "base" : std::string(feature_info(form.feature).name);
    auto group = groups.begin();
    while (group != groups.end() && group->first != feature) ++group;
    if (group == groups.end()) group = groups.insert(groups.end(), {feature, {}});
    const std::string_view done = implementation(i);
    const std::string compared = tested_text(form, tested);
    Group& g = group->second;
    ++g.forms;
    g.implemented += done == "yes";
    g.tested += compared == "yes";
    g.rows +=
        fmt::format("| {} | `{}` | {} | {} | {} |\n", form.mnemonic, form.encoding, operand_list(form), done, compared);
  }
  Group all;
  std::string summary;
  for (const auto& [feature, group] : groups) {
    summary +=
        fmt::format("| [{0}](#{0}) | {1} | {2} | {3} |\n", feature, group.forms, group.implemented, group.tested);
    all.forms += group.forms;
    all.implemented += group.implemented;
    all.tested += group.tested;
  }
  std::string page =
      "# Instructions of the software CPU\n\n"
      "Generated by `tools/insn_page.cpp` from the instruction table (`src/cpu/table`); a test fails when this page "
      "is\n"
      "not current. A row is one form: an encoding with its operands, in the letters of the Intel manual (vol. 2,\n"
      "appendix A.2; see `src/cpu/README.md`). *Implemented*: the interpreter has a handler for it. *Compared*: "
      "random\n"
      "instructions of the form run on the host's own CPU and in the interpreter, and all state is compared.\n\n"
      "Choices where processors differ: in 64-bit mode 66 is ignored on near branches, as Intel does (AMD truncates "
      "to\n"
      "16 bits). F3 41 90 is XCHG. UD0 has a ModRM byte. Not in the table, so #UD: EVEX (AVX-512), XOP, FMA4, TBM, "
      "LWP,\n"
      "3DNow!, MPX and CET (NOPs where their encodings are hint NOPs), AMX, TSX, VMX, SGX, Key Locker.\n\n"
      "| Feature | Forms | Implemented | Compared |\n|---|---|---|---|\n";
  page += summary;
  page += fmt::format("| all | {} | {} | {} |\n", all.forms, all.implemented, all.tested);
  for (const auto& [feature, group] : groups) {
    page +=
        fmt::format("\n## {}\n\n| Mnemonic | Encoding | Operands | Implemented | Compared |\n|---|---|---|---|---|\n{}",
                    feature, group.rows);
  }
  return page;
}

}  // namespace

int main(int argc, char** argv) {
  Tested tested;
  const char* out = nullptr;
  const char* check = nullptr;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const char* value = i + 1 < argc ? argv[++i] : nullptr;
    if (arg == "--tested" && value) {
      auto list = read_tested(value);
      if (!list) return 2;
      tested = std::move(*list);
    } else if (arg == "--out" && value) {
      out = value;
    } else if (arg == "--check" && value) {
      check = value;
    } else {
      fmt::print(stderr, "usage: insn_page [--tested FILE] --out PAGE | --check PAGE\n");
      return 2;
    }
  }
  const std::string page = make_page(tested);
  if (out) {
    std::ofstream(out) << page;
    return 0;
  }
  if (!check) return 2;
  std::ifstream file(check);
  const std::string current((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (current == page) return 0;
  fmt::print(stderr, "{} is not current; write it with insn_page --out\n", check);
  return 1;
}
