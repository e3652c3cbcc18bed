// husk: a random sequence of instructions with branches among them, and how it is laid out in memory
#include "sequence.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <algorithm>

namespace husk::differential {

namespace {

using namespace cpu;

constexpr std::string_view kNames[] = {"user64", "kernel64", "user32", "kernel32", "user16", "v86", "real16"};

/// What assemble() puts out for each instruction of the program, CMPs of its own included.
struct Piece {
  const Item* item = nullptr;
  Insn insn;
  std::uint64_t at = 0;  ///< offset from the start
  std::uint8_t length = 0;
  std::uint16_t undefined_flags = 0;
};

Insn decoded(std::initializer_list<std::uint8_t> bytes, CodeSize size) {
  Insn insn{};
  (void)decode({bytes.begin(), bytes.size()}, size, insn);
  return insn;
}

class Assembler {
 public:
  explicit Assembler(const Sequence& sequence) : sequence_(sequence), size_(code_size_of(sequence.mode)) {
    settle_ = decoded({0x83, 0xF8, 0x01, 0, 0, 0, 0, 0}, size_);  // CMP eAX, 1
    end_ = decoded({0x0F, 0x0B, 0, 0, 0, 0, 0, 0}, size_);
  }

  std::optional<Program> run() {
    if (!place()) return {};
    Program program;
    for (Piece& piece : pieces_) {
      fix(piece);
      const std::optional<EncodedInsn> bytes = encode(piece.insn, size_);
      if (!bytes || bytes->length != piece.length) return {};
      program.code.insert(program.code.end(), bytes->bytes.begin(), bytes->bytes.begin() + bytes->length);
      program.places.push_back(
          {sequence_.start + piece.at - sequence_.state.seg[kCs].base, piece.length, piece.undefined_flags});
    }
    return program;
  }

 private:
  /// Flags left undefined when control reaches an item, over every path: branches settle theirs before they leave.
  bool place() {
    // A store is meant for its one instruction: not for what comes in the place of one that is out.
    for (std::size_t i = 0; i < sequence_.items.size(); ++i) {
      const Item& item = sequence_.items[i];
      if (sequence_.kept[i] && item.kind == Item::Kind::store && item.label < sequence_.items.size() &&
          !sequence_.kept[item.label])
        return false;
    }
    std::vector<bool> is_target(sequence_.items.size() + 1);
    for (std::size_t i = 0; i < sequence_.items.size(); ++i)
      if (sequence_.kept[i] && sequence_.items[i].kind != Item::Kind::plain) is_target[sequence_.items[i].label] = true;
    offsets_.assign(sequence_.items.size() + 1, 0);
    std::uint64_t at = 0;
    std::uint16_t undefined = 0;
    bool target = false;
    const auto add = [&](const Item* item, const Insn& insn) {
      const std::optional<EncodedInsn> bytes = encode(insn, size_);
      if (!bytes) return false;
      pieces_.push_back({item, insn, at, bytes->length, undefined});
      at += bytes->length;
      return true;
    };
    for (std::size_t i = 0; i <= sequence_.items.size(); ++i) {
      target = target || is_target[i];
      const bool last = i == sequence_.items.size();
      if (!last && !sequence_.kept[i]) {
        offsets_[i] = ~std::uint64_t{0};  // where the next one will be
        continue;
      }
      const Item* const item = last ? nullptr : &sequence_.items[i];
      const Insn& insn = last ? end_ : item->insn;
      const Form& form = forms()[insn.form];
      const bool leaves = last || (form.attributes & kAttrEndsBlock) || item->kind == Item::Kind::relative;
      if (sequence_.settle_flags && undefined && (target || leaves || (form.flags_read & undefined))) {
        if (!add(nullptr, settle_)) return false;
        undefined = 0;
      }
      target = false;
      offsets_[i] = at;
      if (!add(item, insn)) return false;
      undefined = undefined_flags_after(insn.form, undefined);
    }
    for (std::size_t i = offsets_.size(); i-- > 0;)
      if (offsets_[i] == ~std::uint64_t{0}) offsets_[i] = offsets_[i + 1];
    return true;
  }
  std::uint64_t linear_of(unsigned label) const { return sequence_.start + offsets_[label]; }

  void fix(Piece& piece) const {
    if (!piece.item) return;
    const Item& item = *piece.item;
    const std::uint64_t here = sequence_.start + piece.at;
    const auto base = [&](unsigned segment) { return sequence_.state.seg[segment].base; };
    switch (item.kind) {
      case Item::Kind::plain: break;
      case Item::Kind::relative: piece.insn.imm = linear_of(item.label) - (here + piece.length); break;
      case Item::Kind::address:
        piece.insn.imm = linear_of(item.label) + item.extra;
        if (piece.insn.op_size == 2)
          piece.insn.imm = static_cast<std::uint64_t>(static_cast<std::int16_t>(piece.insn.imm));
        break;
      case Item::Kind::store:
        piece.insn.disp = static_cast<std::int32_t>(linear_of(item.label) + item.extra - base(piece.insn.segment));
        if (piece.insn.addr_size == 2) piece.insn.disp = static_cast<std::int16_t>(piece.insn.disp);
        break;
      case Item::Kind::rip_operand:
        piece.insn.disp = static_cast<std::int32_t>(item.extra - (here + piece.length));
        break;
    }
  }

  const Sequence& sequence_;
  CodeSize size_;
  Insn settle_, end_;
  std::vector<Piece> pieces_;
  std::vector<std::uint64_t> offsets_;  ///< of each item, or of the next one kept
};

}  // namespace

std::string_view name_of(SequenceMode mode) { return kNames[static_cast<unsigned>(mode)]; }
std::optional<SequenceMode> mode_named(std::string_view name) {
  for (const SequenceMode mode : kSequenceModes)
    if (name_of(mode) == name) return mode;
  return {};
}

bool result_is_open(std::uint16_t form) {
  static const std::vector<bool> open = [] {
    std::vector<bool> made(forms().size());
    constexpr std::string_view kOpen[] = {"F2XM1",    "FYL2X",   "FYL2XP1", "FPTAN",   "FPATAN",   "FSIN",   "FCOS",
                                          "FSINCOS",  "FNSTENV", "FNSAVE",  "FXSAVE",  "FXSAVE64", "BSF",    "BSR",
                                          "RCPPS",    "RCPSS",   "RSQRTPS", "RSQRTSS", "VRCPPS",   "VRCPSS", "VRSQRTPS",
                                          "VRSQRTSS", "SHLD",    "SHRD",    "LAR",     "LSL",      "RDTSC",  "RDTSCP",
                                          "RDRAND",   "RDSEED",  "RDPID",   "RDPMC"};
    for (std::uint16_t f = 0; f < made.size(); ++f) {
      const std::string_view m = forms()[f].mnemonic;
      made[f] = (forms()[f].attributes & kAttrUndefResult) || m.starts_with("XSAVE") ||
                std::find(std::begin(kOpen), std::end(kOpen), m) != std::end(kOpen);
    }
    return made;
  }();
  return open[form];
}

std::uint16_t undefined_flags_after(std::uint16_t form, std::uint16_t before) {
  static const std::vector<bool> may_leave = [] {
    // A count of zero leaves the flags alone, and with them what was undefined.
    constexpr std::string_view kShifts[] = {"ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAR", "SHLD", "SHRD"};
    std::vector<bool> made(forms().size());
    for (std::uint16_t f = 0; f < made.size(); ++f)
      made[f] = (forms()[f].attributes & kAttrRepCond) ||
                std::find(std::begin(kShifts), std::end(kShifts), forms()[f].mnemonic) != std::end(kShifts);
    return made;
  }();
  const unsigned defined = may_leave[form] ? 0u : forms()[form].flags_written;
  return static_cast<std::uint16_t>((before & ~defined) | forms()[form].flags_undefined);
}

std::optional<Program> assemble(const Sequence& sequence) { return Assembler(sequence).run(); }

std::string disassembly(const Sequence& sequence, const Program& program) {
  const CodeSize size = code_size_of(sequence.mode);
  ZydisDecoder decoder;
  ZydisFormatter formatter;
  ZydisDecoderInit(&decoder,
                   size == CodeSize::bits64   ? ZYDIS_MACHINE_MODE_LONG_64
                   : size == CodeSize::bits32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                                              : ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
                   size == CodeSize::bits64   ? ZYDIS_STACK_WIDTH_64
                   : size == CodeSize::bits32 ? ZYDIS_STACK_WIDTH_32
                                              : ZYDIS_STACK_WIDTH_16);
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  std::string text;
  std::size_t at = 0;
  for (const Program::Place& place : program.places) {
    std::string bytes;
    for (unsigned i = 0; i < place.length; ++i) bytes += fmt::format("{:02x}", program.code[at + i]);
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    char line[160] = "?";
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, program.code.data() + at, place.length, &insn, operands)))
      ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible, line, sizeof line,
                                      place.rip, nullptr);
    text += fmt::format("  {:8x}  {:<30}  {}\n", place.rip, bytes, line);
    at += place.length;
  }
  return text;
}

}  // namespace husk::differential
