// husk: whether the host and the interpreter made the same of a test, and what of it does not count
#include "compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "cpu/encode.h"

namespace husk::differential {

namespace {

using namespace cpu;

constexpr Exception kExceptions[] = {
#define X(name, rule, reason) {name, Rule::rule, reason},
#include "exceptions.def"
#undef X
};

constexpr const char* kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/// "CVT*PI*": parts in that order, the first at the beginning.
bool matches_parts(std::string_view pattern, std::string_view text) {
  const std::size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == text;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  pattern.remove_prefix(star + 1);
  text.remove_prefix(star);
  for (;; text.remove_prefix(1)) {
    if (pattern.empty() || matches_parts(pattern, text)) return true;
    if (text.empty()) return false;
  }
}
bool matches(std::string_view pattern, std::uint16_t form) {
  return pattern.find('[') == pattern.npos ? matches_parts(pattern, forms()[form].mnemonic)
                                           : pattern == form_name(form);
}

/// For each form the rules that hold for it, as a mask.
std::uint32_t rules_of(std::uint16_t form) {
  static const std::vector<std::uint32_t> rules = [] {
    std::vector<std::uint32_t> made(forms().size());
    for (std::uint16_t f = 0; f < made.size(); ++f)
      for (const Exception& e : kExceptions)
        if (matches(e.name, f)) made[f] |= 1u << static_cast<unsigned>(e.rule);
    return made;
  }();
  return rules[form];
}

/// The shift count that the instruction uses, if it is a shift or rotate by CL or an immediate.
std::optional<unsigned> shift_count(const Test& test) {
  const Form& form = forms()[test.form];
  constexpr std::string_view kShifts[] = {"ROL", "ROR", "RCL", "RCR", "SHL", "SHR", "SAR", "SHLD", "SHRD"};
  if (std::find(std::begin(kShifts), std::end(kShifts), form.mnemonic) == std::end(kShifts)) return {};
  const unsigned mask = test.insn.op_size == 8 ? 63 : 31;
  for (const Operand& o : form.operands) {
    if (o.kind == OperandKind::const_one) return 1;
    if (o.kind == OperandKind::imm) return static_cast<unsigned>(test.insn.imm) & mask;
    if (o.kind == OperandKind::fixed_gpr) return static_cast<unsigned>(test.request.gpr[kRcx]) & mask;
  }
  return {};
}

/// RFLAGS bits that count after the instruction.
std::uint64_t defined_flags(const Test& test, bool fault) {
  constexpr std::uint64_t kNever = kRF;
  if (fault) return ~kNever;
  std::uint64_t undefined = forms()[test.form].flags_undefined;
  if (const auto count = shift_count(test)) {
    const unsigned bits = test.insn.op_size * 8u;
    const std::string_view m = forms()[test.form].mnemonic;
    // A count of zero changes no flag; OF is defined for a count of one (SDM vol. 2).
    if (*count == 0)
      undefined = 0;
    else if (*count == 1)
      undefined &= ~std::uint64_t{kOF};
    // CF is undefined for SHL and SHR by the operand's size or more; SHLD and SHRD leave all undefined beyond it.
    if ((m == "SHL" || m == "SHR") && *count >= bits) undefined |= kCF;
    if ((m == "SHLD" || m == "SHRD") && *count > bits) undefined = kArithmeticFlags;
  }
  return ~(undefined | kNever);
}

class Comparison {
 public:
  Comparison(const Test& test, const Outcome& host, const Outcome& guest)
      : test_(test), host_(host), guest_(guest), h_(host.state), g_(guest.state), rules_(rules_of(test.form)) {}

  std::vector<std::string> run() {
    const bool fault = h_.vector != kNoFault && !host_.fetch_fault;
    if (h_.vector != g_.vector || host_.fetch_fault != guest_.fetch_fault) {
      if (!justified_fault()) note("fault", fault_text(host_), fault_text(guest_));
      return std::move(found_);
    }
    fault_ = fault;
    if (fault && h_.vector == 14 && h_.cr2 != g_.cr2 && has(Rule::fault_order)) return {};
    std::uint32_t error_mask = ~0u;
    // Linux tells programs that kernel addresses are present, whether they are or not (arch/x86/mm/fault.c).
    if (h_.vector == 14 && h_.cr2 >= 0x7FFF'FFFF'F000) error_mask &= ~1u;
    number("error code", h_.error & error_mask, g_.error & error_mask);
    number("cr2", h_.cr2, g_.cr2);
    const bool wide = test_.mode == Mode::long64;
    const std::uint64_t gpr_mask = wide ? ~std::uint64_t{0} : 0xFFFF'FFFF;
    number("rip", h_.rip & gpr_mask, g_.rip & gpr_mask);
    const bool any_result = has(Rule::any_result) || has(Rule::any_flags) || undefined_double_shift();
    for (unsigned i = 0; i < (wide ? 16u : 8u); ++i) {
      if (fault && i != kRsp && has(Rule::pops_on_fault)) continue;
      if (any_result || (has(Rule::cpu_number) && (g_.gpr[i] & 0xFFFF) == 0 && (h_.gpr[i] ^ g_.gpr[i]) < 0x10000))
        continue;
      const std::uint64_t mask = has(Rule::rights_limit) ? ~std::uint64_t{0xF0000} : gpr_mask;
      number(kGprNames[i], h_.gpr[i] & gpr_mask & mask, g_.gpr[i] & gpr_mask & mask);
    }
    const std::uint64_t flags = has(Rule::any_flags) ? 0 : defined_flags(test_, fault);
    number("rflags", h_.rflags & flags, g_.rflags & flags);
    number("es", h_.es, g_.es);
    number("cs", h_.cs, g_.cs);
    number("ss", h_.ss, g_.ss);
    number("ds", h_.ds, g_.ds);
    number("fs", h_.fs, g_.fs);
    number("gs", h_.gs, g_.gs);
    number("fs base", h_.fs_base, g_.fs_base);
    number("gs base", h_.gs_base, g_.gs_base);
    x87();
    vectors();
    if (!undefined_double_shift()) memory();
    return std::move(found_);
  }

 private:
  bool has(Rule rule) const { return rules_ >> static_cast<unsigned>(rule) & 1; }
  bool justified_fault() const {
    const bool host_faults = h_.vector != kNoFault, husk_faults = g_.vector != kNoFault;
    if (g_.vector == 13 && g_.error == 0 && has(Rule::host_lax)) return true;
    // Whatever the host makes of it then, a fault of the operand's included.
    if (g_.vector == 6 && has(Rule::lock_ignored) && test_.code[0] == 0xF0) return true;
    if (host_faults && husk_faults) return has(Rule::fault_order);
    if (h_.vector == 17) return has(Rule::may_align);
    return host_faults && has(Rule::may_fault) && h_.vector != 6;
  }
  /// SHLD and SHRD of 16 bits by more: the result is undefined (SDM vol. 2, SHLD).
  bool undefined_double_shift() const {
    const std::string_view m = forms()[test_.form].mnemonic;
    return test_.insn.op_size == 2 && (m == "SHLD" || m == "SHRD") && shift_count(test_).value_or(0) > 16;
  }
  bool undefined_argument() const {
    const unsigned exponent = load_le<std::uint16_t>(test_.request.fp.legacy + 40) & 0x7FFF;
    return has(Rule::undefined_argument) && exponent >= (forms()[test_.form].mnemonic == "F2XM1" ? 0x3FFFu : 0x3FFDu);
  }

  static std::string fault_text(const Outcome& o) {
    if (o.state.vector == kNoFault) return "none";
    return fmt::format("vector {} error {:#x} cr2 {:#x}{}", o.state.vector, o.state.error, o.state.cr2,
                       o.fetch_fault ? " at the branch target" : "");
  }
  void note(std::string_view field, const std::string& host, const std::string& guest) {
    found_.push_back(fmt::format("{}: host {}, husk {}", field, host, guest));
  }
  void number(std::string_view field, std::uint64_t host, std::uint64_t guest) {
    if (host != guest) note(field, fmt::format("{:#x}", host), fmt::format("{:#x}", guest));
  }

  void x87() {
    const std::uint8_t* const a = h_.fp.legacy;
    const std::uint8_t* const b = g_.fp.legacy;
    if (std::memcmp(a, b, 28) == 0 && std::memcmp(a + 32, b + 32, 128) == 0) return;
    const bool one_ulp = has(Rule::one_ulp);
    if (undefined_argument()) return;
    number("fcw", load_le<std::uint16_t>(a), load_le<std::uint16_t>(b));
    const bool tags = !(fault_ && has(Rule::tags_on_fault));
    const unsigned status = (one_ulp ? ~0x200u : ~0u) & (tags ? ~0u : ~0x3800u);
    number("fsw", load_le<std::uint16_t>(a + 2) & status, load_le<std::uint16_t>(b + 2) & status);
    if (tags) number("ftw", a[4], b[4]);
    // AMD's XSAVE stores the pointers only of a pending exception, else zeros (APM vol. 5, FXSAVE); FNSTENV tells them.
    const bool pointers = (load_le<std::uint16_t>(a + 2) & 0x80) != 0 || !host_clears_pointers_;
    if (pointers) {
      number("fop", load_le<std::uint16_t>(a + 6), load_le<std::uint16_t>(b + 6));
      // Processors keep as many bits of them as linear addresses have.
      constexpr std::uint64_t kLinear = mask_of(48);
      number("fip", load_le<std::uint64_t>(a + 8) & kLinear, load_le<std::uint64_t>(b + 8) & kLinear);
      number("fdp", load_le<std::uint64_t>(a + 16) & kLinear, load_le<std::uint64_t>(b + 16) & kLinear);
    }
    number("mxcsr", load_le<std::uint32_t>(a + 24), load_le<std::uint32_t>(b + 24));
    for (unsigned i = 0; i < 8 && tags; ++i) {
      const std::uint64_t sa = load_le<std::uint64_t>(a + 32 + 16 * i), sb = load_le<std::uint64_t>(b + 32 + 16 * i);
      const unsigned ea = load_le<std::uint16_t>(a + 40 + 16 * i), eb = load_le<std::uint16_t>(b + 40 + 16 * i);
      if (sa == sb && ea == eb) continue;
      if (one_ulp && ea == eb && sa - sb + 1 <= 2) continue;
      constexpr std::uint64_t kLowest = 0x8000'0000'0000'0000;
      // Neighbours on either side of a power of two.
      if (one_ulp && ((ea == eb + 1 && sa == kLowest && sb == ~std::uint64_t{0}) ||
                      (eb == ea + 1 && sb == kLowest && sa == ~std::uint64_t{0})))
        continue;
      note(fmt::format("st{}", i), fmt::format("{:04x}:{:016x}", ea, sa), fmt::format("{:04x}:{:016x}", eb, sb));
    }
  }

  void vectors() {
    if (std::memcmp(h_.fp.legacy + 160, g_.fp.legacy + 160, 256) == 0 &&
        std::memcmp(h_.fp.ymm_high, g_.fp.ymm_high, sizeof h_.fp.ymm_high) == 0)
      return;
    for (unsigned i = 0; i < 16; ++i) {
      std::uint8_t a[32], b[32];
      std::memcpy(a, h_.fp.legacy + 160 + 16 * i, 16);
      std::memcpy(a + 16, h_.fp.ymm_high[i], 16);
      std::memcpy(b, g_.fp.legacy + 160 + 16 * i, 16);
      std::memcpy(b + 16, g_.fp.ymm_high[i], 16);
      if (std::memcmp(a, b, 32) == 0) continue;
      if (fault_ && has(Rule::gather_fault) && (i == test_.insn.vvvv || i == test_.insn.reg)) continue;
      note(fmt::format("ymm{}", i), hex(a), hex(b));
    }
  }
  static std::string hex(const std::uint8_t* bytes) {
    std::string text;
    for (unsigned i = 0; i < 32; i += 8)
      text += fmt::format("{}{:016x}", i ? "_" : "", load_le<std::uint64_t>(bytes + 24 - i));
    return text;
  }
  void memory() {
    const unsigned a = std::min<unsigned>(h_.chunk_count, kMaxChunks),
                   b = std::min<unsigned>(g_.chunk_count, kMaxChunks);
    if (h_.chunk_count != g_.chunk_count) number("changed pieces of memory", h_.chunk_count, g_.chunk_count);
    for (unsigned i = 0, j = 0; i < a || j < b;) {
      const std::uint32_t at = i == a   ? g_.chunks[j].offset
                               : j == b ? h_.chunks[i].offset
                                        : std::min(h_.chunks[i].offset, g_.chunks[j].offset);
      const Chunk* const x = i < a && h_.chunks[i].offset == at ? &h_.chunks[i++] : nullptr;
      const Chunk* const y = j < b && g_.chunks[j].offset == at ? &g_.chunks[j++] : nullptr;
      if (x && y && std::memcmp(x->bytes, y->bytes, 32) == 0) continue;
      note(fmt::format("memory +{:#x}", at), x ? hex(x->bytes) : "unchanged", y ? hex(y->bytes) : "unchanged");
    }
  }

  const Test& test_;
  const Outcome& host_;
  const Outcome& guest_;
  const Answer& h_;
  const Answer& g_;
  static constexpr bool host_clears_pointers_ = true;
  std::uint32_t rules_;
  bool fault_ = false;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<Exception> exceptions_of(std::uint16_t form) {
  std::vector<Exception> found;
  for (const Exception& e : kExceptions)
    if (matches(e.name, form)) found.push_back(e);
  return found;
}

std::string reason_not_run(std::uint16_t number, Mode mode, const FeatureSet& features) {
  const Form& form = forms()[number];
  if (!shape_of(number, code_size_of(mode)).exists)
    return mode == Mode::long64 ? "not in 64-bit mode" : "only in 64-bit mode";
  if (mode == Mode::long64 && (form.attributes & kAttrNo64)) return "not in 64-bit mode";
  if (mode != Mode::long64 && (form.attributes & kAttrOnly64)) return "only in 64-bit mode";
  if ((form.attributes & kAttrSystem) && form.mnemonic != "WRFSBASE" && form.mnemonic != "WRGSBASE")
    return "needs privilege, or gives up control";
  if (form.feature != Feature::none && !features.test(static_cast<std::size_t>(form.feature)))
    return fmt::format("{} is not in both the host CPU and the model", feature_info(form.feature).name);
  for (const Exception& e : exceptions_of(number))
    if (e.rule == Rule::not_run) return std::string(e.reason);
  return {};
}

std::vector<std::string> differences(const Test& test, const Outcome& host, const Outcome& guest) {
  return Comparison(test, host, guest).run();
}

}  // namespace husk::differential
