// husk: compares husk's decoder with Zydis, instruction by instruction, and names each kind of difference
#include "zydis_compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <tuple>
#include <utility>

namespace husk::cpu::testing {

namespace {

constexpr std::string_view kWideInName =
    "REX.W or VEX.W makes the destination 64 bits wide in name only: it is zero-extended either way (SDM vol. 2)";
constexpr std::string_view kKeepsPart = "the destination keeps its value, or a part of it (SDM vol. 2)";

constexpr JustifiedDifference kJustified[] = {
#define D(key, reason) {key, reason},
#include "differences.def"
#undef D
};

/// Names of one instruction that differ only in taste.
constexpr std::pair<std::string_view, std::string_view> kSameName[] = {
#define N(husk_name, zydis_name) {husk_name, zydis_name},
#include "names.def"
#undef N
};

bool same_name(std::string_view ours, std::string_view theirs) {
  if (ours == theirs) return true;
  return std::ranges::find(kSameName, std::pair(ours, theirs)) != std::end(kSameName);
}

/// CPUID features and the sets that Zydis sorts instructions into.
constexpr std::pair<std::string_view, std::string_view> kSameFeature[] = {
#define F(feature, set) {feature, set},
#include "isa_sets.def"
#undef F
};

bool same_feature(std::string_view feature, std::string_view set) {
  return std::ranges::find(kSameFeature, std::pair(feature, set)) != std::end(kSameFeature);
}

std::string upper(const char* name) {
  std::string text = name ? name : "?";
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

ZydisRegister plus(ZydisRegister first, unsigned n) { return static_cast<ZydisRegister>(first + static_cast<int>(n)); }

ZydisRegister gpr(unsigned number, unsigned bytes) {
  if (bytes == 1) {
    if (number & kHighByte) return plus(ZYDIS_REGISTER_AH, number & 3);
    return number < 4 ? plus(ZYDIS_REGISTER_AL, number) : plus(ZYDIS_REGISTER_SPL, number - 4);
  }
  return plus(bytes == 2 ? ZYDIS_REGISTER_AX : bytes == 4 ? ZYDIS_REGISTER_EAX : ZYDIS_REGISTER_RAX, number);
}

ZydisRegister vector(unsigned number, unsigned bytes) {
  return plus(bytes == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0, number);
}

/// Size of an operand in bytes; 0: not compared.
unsigned size_in_bytes(const Insn& insn, OperandSize size, CodeSize code_size) {
  const bool long_mode = code_size == CodeSize::bits64;
  switch (size) {
    case OperandSize::none:
    case OperandSize::any:
    case OperandSize::xsave: return 0;
    case OperandSize::b: return 1;
    case OperandSize::w: return 2;
    case OperandSize::d: return 4;
    case OperandSize::q: return 8;
    case OperandSize::v: return insn.op_size;
    case OperandSize::z: return std::min<unsigned>(insn.op_size, 4);
    case OperandSize::y: return long_mode && (insn.op_size == 8 || insn.rex_w) ? 8 : 4;
    case OperandSize::x: return insn.vector_bytes;
    case OperandSize::dq: return 16;
    case OperandSize::qq: return 32;
    case OperandSize::t: return 10;
    case OperandSize::p: return insn.op_size + 2u;
    case OperandSize::s: return long_mode ? 10 : 6;
    case OperandSize::a: return 2 * std::min<unsigned>(insn.op_size, 4);
    case OperandSize::fpu_env: return insn.op_size == 2 ? 14 : 28;
    case OperandSize::fpu_state: return insn.op_size == 2 ? 94 : 108;
    case OperandSize::fxsave: return 512;
  }
  return 0;
}

/// An operand in Zydis' terms, made of ours.
struct View {
  enum class Kind { reg, mem, imm, ptr } kind = Kind::reg;
  ZydisRegister reg = ZYDIS_REGISTER_NONE;
  unsigned bytes = 0;
  ZydisRegister base = ZYDIS_REGISTER_NONE, index = ZYDIS_REGISTER_NONE, segment = ZYDIS_REGISTER_NONE;
  unsigned scale = 0;
  std::int64_t disp = 0;
  std::uint64_t imm = 0;
  bool relative = false;
  bool moffs = false;
};

View memory_view(const Insn& insn, const Form& form) {
  View view{.kind = View::Kind::mem};
  view.segment = plus(ZYDIS_REGISTER_ES, insn.segment);
  view.disp = insn.disp;
  if (insn.base == kRipBase)
    view.base = insn.addr_size == 4 ? ZYDIS_REGISTER_EIP : ZYDIS_REGISTER_RIP;
  else if (insn.base != kNoRegister)
    view.base = gpr(insn.base, insn.addr_size);
  if (insn.index != kNoRegister) {
    view.index = gpr(insn.index, insn.addr_size);
    view.scale = 1u << insn.scale;
    if (form.encoding.find("vsib") != std::string_view::npos) view.index = plus(ZYDIS_REGISTER_XMM0, insn.index);
  }
  return view;
}

/// True if an immediate operand is not the first one.
bool second_immediate(const Form& form, unsigned which) {
  for (unsigned i = 0; i < which; ++i) {
    if (form.operands[i].kind == OperandKind::imm) return true;
  }
  return false;
}

View view_of(const Insn& insn, const Form& form, unsigned which, CodeSize code_size) {
  const Operand& operand = form.operands[which];
  const unsigned bytes = size_in_bytes(insn, operand.size, code_size);
  View view;
  view.bytes = bytes;
  const auto memory = [&] {
    View m = memory_view(insn, form);
    m.bytes = bytes;
    return m;
  };
  const auto reg = [&](ZydisRegister r) {
    view.reg = r;
    return view;
  };
  switch (operand.kind) {
    case OperandKind::none: break;
    case OperandKind::gpr_rm: return insn.memory ? memory() : reg(gpr(insn.rm, bytes));
    case OperandKind::gpr_rm_only: return reg(gpr(insn.rm, bytes));
    case OperandKind::gpr_reg:
    case OperandKind::gpr_opcode: return reg(gpr(insn.reg, bytes));
    case OperandKind::gpr_vvvv: return reg(gpr(insn.vvvv, bytes));
    case OperandKind::mem: return memory();
    case OperandKind::imm:
      view.kind = View::Kind::imm;
      view.imm = second_immediate(form, which) ? insn.imm2 : insn.imm;
      return view;
    case OperandKind::rel:
      view.kind = View::Kind::imm;
      view.relative = true;
      view.imm = insn.imm;
      return view;
    case OperandKind::moffs:
      view = memory();
      view.disp = static_cast<std::int64_t>(insn.imm);
      view.moffs = true;
      return view;
    case OperandKind::far_ptr:
      view.kind = View::Kind::ptr;
      view.imm = insn.imm;
      return view;
    case OperandKind::sreg: return reg(plus(ZYDIS_REGISTER_ES, insn.reg));
    case OperandKind::creg: return reg(plus(ZYDIS_REGISTER_CR0, insn.reg));
    case OperandKind::dreg: return reg(plus(ZYDIS_REGISTER_DR0, insn.reg));
    case OperandKind::vec_reg: return reg(vector(insn.reg, bytes));
    case OperandKind::vec_rm: return insn.memory ? memory() : reg(vector(insn.rm, bytes));
    case OperandKind::vec_rm_only: return reg(vector(insn.rm, bytes));
    case OperandKind::vec_vvvv: return reg(vector(insn.vvvv, bytes));
    case OperandKind::vec_is4: return reg(vector(insn.imm2, bytes));
    case OperandKind::mmx_reg: return reg(plus(ZYDIS_REGISTER_MM0, insn.reg));
    case OperandKind::mmx_rm: return insn.memory ? memory() : reg(plus(ZYDIS_REGISTER_MM0, insn.rm));
    case OperandKind::mmx_rm_only: return reg(plus(ZYDIS_REGISTER_MM0, insn.rm));
    case OperandKind::string_src:
      view = memory();
      view.base = gpr(kRsi, insn.addr_size);
      return view;
    case OperandKind::string_dst:
      view = memory();
      view.base = gpr(kRdi, insn.addr_size);
      view.segment = ZYDIS_REGISTER_ES;
      return view;
    case OperandKind::st0: return reg(ZYDIS_REGISTER_ST0);
    case OperandKind::sti: return reg(plus(ZYDIS_REGISTER_ST0, insn.rm));
    case OperandKind::fixed_gpr: return reg(gpr(operand.fixed, bytes));
    case OperandKind::fixed_sreg: return reg(plus(ZYDIS_REGISTER_ES, operand.fixed));
    case OperandKind::fixed_xmm0: return reg(ZYDIS_REGISTER_XMM0);
    case OperandKind::const_one:
      view.kind = View::Kind::imm;
      view.imm = 1;
      return view;
  }
  return view;
}

/// A slip of Zydis 4.0: see differences.def.
constexpr std::string_view kSibBaseR13d = "base r13d";

bool is_vector(ZydisRegister reg) {
  const ZydisRegisterClass c = ZydisRegisterGetClass(reg);
  return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM;
}

/// What differs between the two, or nothing.
std::string_view first_difference(const Insn& insn, const View& ours, const ZydisDecodedOperand& theirs) {
  switch (theirs.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
      if (ours.kind != View::Kind::reg) return "kind";
      if (is_vector(ours.reg) && is_vector(theirs.reg.value)) {
        // A scalar operand is a part of a vector register: compare the number, and the width where it is whole.
        if (ZydisRegisterGetId(ours.reg) != ZydisRegisterGetId(theirs.reg.value)) return "register";
        return ours.bytes < 16 || ours.reg == theirs.reg.value ? "" : "register width";
      }
      return ours.reg == theirs.reg.value ? "" : "register";
    case ZYDIS_OPERAND_TYPE_MEMORY: {
      if (ours.kind != View::Kind::mem) return "kind";
      const ZydisDecodedOperandMem& mem = theirs.mem;
      // LEA: no access, so Zydis names no segment.
      if (mem.type == ZYDIS_MEMOP_TYPE_AGEN ? ours.bytes != 0 : ours.segment != mem.segment) return "segment";
      if (ours.base == ZYDIS_REGISTER_NONE && mem.base == ZYDIS_REGISTER_R13D) return kSibBaseR13d;
      if (ours.base != mem.base) return "base";
      const bool vector_index = is_vector(ours.index) && is_vector(mem.index);
      if (vector_index ? ZydisRegisterGetId(ours.index) != ZydisRegisterGetId(mem.index) : ours.index != mem.index) {
        return "index";
      }
      if (ours.index != ZYDIS_REGISTER_NONE && ours.scale != std::max<unsigned>(mem.scale, 1)) return "scale";
      // Zydis sign-extends moffs, which is an unsigned offset.
      const unsigned unused = ours.moffs ? 64 - 8u * insn.addr_size : 0;
      if (((ours.disp ^ mem.disp.value) << unused) != 0) return "disp";
      return ours.bytes == 0 || ours.bytes * 8 == theirs.size ? "" : "size";
    }
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: {
      if (ours.kind != View::Kind::imm) return "kind";
      if (ours.relative != (theirs.imm.is_relative != 0)) return "relative";
      const unsigned bits = ours.relative || insn.op_size == 8 ? 64 : std::max<unsigned>(insn.op_size * 8u, 8);
      const std::uint64_t mask = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
      return ((ours.imm ^ theirs.imm.value.u) & mask) == 0 ? "" : "immediate";
    }
    case ZYDIS_OPERAND_TYPE_POINTER:
      if (ours.kind != View::Kind::ptr) return "kind";
      return ours.imm == theirs.ptr.offset && insn.imm2 == theirs.ptr.segment ? "" : "pointer";
    default: return "kind";
  }
}

constexpr std::uint32_t kTableFlags = kCF | kPF | kAF | kZF | kSF | kTF | kIF | kDF | kOF;

std::string flag_letters(std::uint32_t mask) {
  std::string text;
  for (const auto& [bit, letter] : {std::pair{kOF, 'o'},
                                    {kSF, 's'},
                                    {kZF, 'z'},
                                    {kAF, 'a'},
                                    {kPF, 'p'},
                                    {kCF, 'c'},
                                    {kDF, 'd'},
                                    {kIF, 'i'},
                                    {kTF, 't'}}) {
    if (mask & bit) text += letter;
  }
  return text.empty() ? "-" : text;
}

}  // namespace

bool matches(const JustifiedDifference& justified, std::string_view key) {
  const std::size_t star = justified.key.find('*');
  if (star == std::string_view::npos) return key == justified.key;
  const std::string_view head = justified.key.substr(0, star);
  const std::string_view rest = justified.key.substr(star + 1);
  return key.size() >= head.size() + rest.size() && key.starts_with(head) && key.ends_with(rest);
}

std::span<const JustifiedDifference> justified_differences() { return kJustified; }

Comparison::Comparison(CodeSize code_size) : code_size_(code_size), facts_seen_(forms().size()) {
  switch (code_size) {
    case CodeSize::bits16: ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16); break;
    case CodeSize::bits32: ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32); break;
    case CodeSize::bits64: ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); break;
  }
  // Without these features the encodings are NOPs or older instructions, as in husk's table.
  for (const ZydisDecoderMode mode :
       {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE}) {
    ZydisDecoderEnableMode(&decoder_, mode, ZYAN_FALSE);
  }
}

std::string Comparison::describe(std::span<const std::uint8_t> bytes) const {
  std::string text = fmt::format("{}-bit:", 16u << static_cast<unsigned>(code_size_));
  for (const std::uint8_t byte : bytes) text += fmt::format(" {:02X}", byte);
  return text;
}

void Comparison::note(std::string key, std::span<const std::uint8_t> bytes, std::string text) {
  Kind& kind = differences_[std::move(key)];
  ++kind.count;
  if (kind.count != 1 && kind.example_bytes <= bytes.size()) return;
  kind.example_bytes = bytes.size();
  kind.example = describe(bytes) + ": " + text;
}

unsigned Comparison::compare(std::span<const std::uint8_t> bytes) {
  ++compared_;
  Insn insn;
  const DecodeStatus status = decode(bytes, code_size_, insn);
  const ZyanStatus their_status = ZydisDecoderDecodeFull(&decoder_, bytes.data(), bytes.size(), &theirs_, operands_);
  const bool theirs_ok = ZYAN_SUCCESS(their_status);
  const unsigned advance = theirs_ok ? theirs_.length : 1;
  if (status != DecodeStatus::ok) {
    if (theirs_ok) {
      const char* set = ZydisISASetGetString(theirs_.meta.isa_set);
      const char* name = ZydisMnemonicGetString(theirs_.mnemonic);
      note(fmt::format("missing {} {}", set, upper(name)), bytes.first(theirs_.length), "Zydis takes it");
    }
    return advance;
  }
  const Form& form = forms()[insn.form];
  const auto used = bytes.first(insn.length);
  if (!theirs_ok) {
    note(fmt::format("extra {} '{}'", form.mnemonic, form.encoding), used,
         fmt::format("Zydis refuses it with status {}", ZYAN_STATUS_CODE(their_status)));
    return advance;
  }
  ++valid_;
  const std::string theirs_name = upper(ZydisMnemonicGetString(theirs_.mnemonic));
  if (insn.length != theirs_.length) {
    note(fmt::format("length {}", form.mnemonic), used, fmt::format("{} against {}", insn.length, theirs_.length));
    return advance;
  }
  if (!same_name(form.mnemonic, theirs_name)) {
    note(fmt::format("name {} / {}", form.mnemonic, theirs_name), used, "");
    return advance;
  }
  compare_operands(insn, form, used);
  // With ST0 as STi it is open which of Zydis' operands is which.
  const bool ambiguous = insn.rm == 0 && std::ranges::any_of(form.operands, [](const Operand& operand) {
                           return operand.kind == OperandKind::sti;
                         });
  if (!facts_seen_[insn.form] && !ambiguous) {
    facts_seen_[insn.form] = true;
    compare_facts(insn, form, used);
  }
  return advance;
}

void Comparison::compare_operands(const Insn& insn, const Form& form, std::span<const std::uint8_t> bytes) {
  // Operands are in the same order, but the two do not agree on which implicit ones to list: what does not match in its
  // place is looked for among all of Zydis' operands.
  std::array<bool, ZYDIS_MAX_OPERAND_COUNT> used{};
  std::array<std::string_view, 5> difference;
  unsigned count = 0;
  for (; count < std::size(form.operands) && form.operands[count].kind != OperandKind::none; ++count) {
    matched_[count] = nullptr;
    if (count >= theirs_.operand_count_visible) {
      difference[count] = "no";
      continue;
    }
    const View view = view_of(insn, form, count, code_size_);
    difference[count] = first_difference(insn, view, operands_[count]);
    if (difference[count] == kSibBaseR13d) return note(std::string(kSibBaseR13d), bytes, "");
    if (!difference[count].empty()) continue;
    matched_[count] = &operands_[count];
    used[count] = true;
  }
  for (unsigned i = 0; i < count; ++i) {
    if (matched_[i]) continue;
    const View view = view_of(insn, form, i, code_size_);
    for (unsigned j = 0; j < theirs_.operand_count && !matched_[i]; ++j) {
      if (used[j]) continue;
      const std::string_view other = first_difference(insn, view, operands_[j]);
      if (other == kSibBaseR13d) return note(std::string(kSibBaseR13d), bytes, "");
      if (!other.empty()) continue;
      matched_[i] = &operands_[j];
      used[j] = true;
    }
    if (matched_[i]) continue;
    const char* ours = ZydisRegisterGetString(view.reg);
    const char* theirs = i < theirs_.operand_count && operands_[i].type == ZYDIS_OPERAND_TYPE_REGISTER
                             ? ZydisRegisterGetString(operands_[i].reg.value)
                             : "-";
    note(fmt::format("{} {} '{}' operand {}", difference[i], form.mnemonic, form.encoding, i + 1), bytes,
         fmt::format("{} {} {} bytes against {} {} bits", ours ? ours : "-", view.imm, view.bytes, theirs,
                     i < theirs_.operand_count ? operands_[i].size : 0));
    if (i < theirs_.operand_count) used[i] = true;
  }
  for (unsigned j = 0; j < theirs_.operand_count; ++j) {
    if (used[j] || operands_[j].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT) continue;
    note(fmt::format("unlisted {} '{}' operand {}", form.mnemonic, form.encoding, j + 1), bytes,
         fmt::format("Zydis has {} operands to see", theirs_.operand_count_visible));
  }
}

void Comparison::compare_facts(const Insn& insn, const Form& form, std::span<const std::uint8_t> bytes) {
  for (unsigned i = 0; i < std::size(form.operands) && form.operands[i].kind != OperandKind::none; ++i) {
    const Operand& ours = form.operands[i];
    if (!matched_[i]) continue;
    if (ours.kind == OperandKind::imm || ours.kind == OperandKind::rel || ours.size == OperandSize::any) continue;
    const bool read = (matched_[i]->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    const bool written = (matched_[i]->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    if (ours.read != read || ours.written != written) {
      note(fmt::format("access {} '{}' operand {}", form.mnemonic, form.encoding, i + 1), bytes,
           fmt::format("{}{} against {}{}", ours.read ? "r" : "", ours.written ? "w" : "", read ? "r" : "",
                       written ? "w" : ""));
    }
  }
  const std::string_view feature = form.feature == Feature::none ? "-" : feature_info(form.feature).name;
  const std::string_view set = ZydisISASetGetString(theirs_.meta.isa_set);
  if (!same_feature(feature, set)) {
    note(fmt::format("feature {} / {} {}", feature, set, form.mnemonic), bytes, std::string(form.encoding));
  }
  for (const auto& [attribute, their_attribute, what] : {std::tuple{kAttrLock, ZYDIS_ATTRIB_ACCEPTS_LOCK, "lock"},
                                                         {kAttrRep, ZYDIS_ATTRIB_ACCEPTS_REP, "rep"},
                                                         {kAttrRepCond, ZYDIS_ATTRIB_ACCEPTS_REPE, "repcc"},
                                                         {kAttrCpl0, ZYDIS_ATTRIB_IS_PRIVILEGED, "cpl0"}}) {
    const bool ours = (form.attributes & attribute) != 0;
    // LOCK needs a memory destination; the first instruction met may have a register.
    if (attribute == kAttrLock && !insn.memory) continue;
    if (ours == ((theirs_.attributes & their_attribute) != 0)) continue;
    note(fmt::format("attribute {} {} '{}'", what, form.mnemonic, form.encoding), bytes, ours ? "ours" : "Zydis'");
  }
  const ZydisAccessedFlags* flags = theirs_.cpu_flags;
  if (!flags) return;
  const std::uint32_t written = flags->modified | flags->set_0 | flags->set_1;
  const auto check = [&](std::string_view what, std::uint32_t ours, std::uint32_t theirs) {
    if ((ours & kTableFlags) == (theirs & kTableFlags)) return;
    note(fmt::format("flags {} {} '{}'", what, form.mnemonic, form.encoding), bytes,
         fmt::format("{} against {}", flag_letters(ours), flag_letters(theirs)));
  };
  check("written or undefined", form.flags_written | form.flags_undefined, written | flags->undefined);
  check("undefined", form.flags_undefined, flags->undefined);
  check("cleared", form.flags_cleared, flags->set_0);
  check("set", form.flags_set, flags->set_1);
  // Flags that may stay as they are are listed as read in husk's table.
  if (form.flags_read != (form.flags_written | form.flags_undefined)) {
    const std::uint32_t kept = form.flags_read & form.flags_written;
    check("read", form.flags_read & ~kept, flags->tested & ~kept);
  }
}

std::vector<std::string> unjustified(std::span<const Comparison> comparisons) {
  std::vector<std::string> lines;
  for (const Comparison& comparison : comparisons) {
    for (const auto& [key, kind] : comparison.differences()) {
      const bool known = std::ranges::any_of(kJustified, [&](const JustifiedDifference& d) { return matches(d, key); });
      if (!known) lines.push_back(fmt::format("{} ({} times): {}", key, kind.count, kind.example));
    }
  }
  return lines;
}

}  // namespace husk::cpu::testing
