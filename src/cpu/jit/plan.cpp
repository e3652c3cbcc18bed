// husk: how the translator treats each form of the instruction table
#include "cpu/jit/plan.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "cpu/sem.h"

namespace husk::cpu::jit {
namespace {

using namespace std::string_view_literals;

/// Integer semantics, without their operand shape, that act on registers, one memory operand and arithmetic flags
/// alone.
constexpr auto kCopied = std::to_array<std::string_view>({
    "adc",   "adcx",    "add",        "adox",      "and",    "andn",  "bextr",  "blsi",   "blsmsk", "blsr", "bsf",
    "bsr",   "bswap",   "bt",         "btc",       "btr",    "bts",   "bzhi",   "cbw",    "clc",    "cmc",  "cmovcc",
    "cmp",   "cmpxchg", "cmpxchg16b", "cmpxchg8b", "crc32",  "cwd",   "dec",    "imul",   "inc",    "lahf", "lfence",
    "lzcnt", "mfence",  "mov",        "movbe",     "movnti", "movsx", "movsxd", "movzx",  "mul",    "mulx", "neg",
    "not",   "or",      "pdep",       "pext",      "popcnt", "rcl",   "rcr",    "rdrand", "rdseed", "rol",  "ror",
    "rorx",  "sahf",    "sar",        "sarx",      "sbb",    "setcc", "sfence", "shl",    "shld",   "shlx", "shr",
    "shrd",  "shrx",    "stc",        "sub",       "test",   "tzcnt", "xadd",   "xchg",   "xor",
});
/// Vector instructions with an implicit address, more than one address, or accesses that depend on a mask.
constexpr auto kVectorCalls = std::to_array<std::string_view>({
    "LDMXCSR",
    "MASKMOVDQU",
    "STMXCSR",
    "VLDMXCSR",
    "VMASKMOVDQU",
    "VMASKMOVPD",
    "VMASKMOVPS",
    "VPMASKMOVD",
    "VPMASKMOVQ",
    "VPGATHERDD",
    "VPGATHERDQ",
    "VPGATHERQD",
    "VPGATHERQQ",
    "VGATHERDPD",
    "VGATHERDPS",
    "VGATHERQPD",
    "VGATHERQPS",
    "VSTMXCSR",
});

/// x87 instructions that may unmask exceptions or show where an instruction was, and MMX's implicit address.
constexpr auto kX87Calls = std::to_array<std::string_view>({
    "FLDCW",
    "FLDENV",
    "FNSAVE",
    "FNSTENV",
    "FRSTOR",
    "MASKMOVQ",
});

std::string_view stem(Sem sem) {
  const std::string_view name = sem_name(sem);
  return name.substr(0, name.find('_'));
}

Field field_of(OperandKind kind) {
  switch (kind) {
    case OperandKind::gpr_rm:
    case OperandKind::gpr_reg:
    case OperandKind::gpr_rm_only:
    case OperandKind::gpr_vvvv: return Field::gpr;
    case OperandKind::vec_reg:
    case OperandKind::vec_rm:
    case OperandKind::vec_rm_only:
    case OperandKind::vec_vvvv: return Field::vector;
    default: return Field::opaque;
  }
}

/// Fills in the roles of the fields; false if an operand is none that can be copied.
bool describe(const Form& form, FormPlan& plan) {
  for (const Operand& operand : form.operands) {
    const bool byte = operand.size == OperandSize::b;
    switch (operand.kind) {
      case OperandKind::none:
      case OperandKind::imm:
      case OperandKind::const_one:
      case OperandKind::vec_is4:
      case OperandKind::fixed_xmm0: break;
      // The only fixed registers of copied instructions are AL, CL and their wider forms, which map to themselves.
      case OperandKind::fixed_gpr:
        if (operand.fixed > kRdx) return false;
        if (operand.written) plan.implicit_written |= static_cast<std::uint16_t>(1u << operand.fixed);
        break;
      case OperandKind::gpr_reg:
      case OperandKind::vec_reg:
        plan.reg = field_of(operand.kind);
        plan.reg_read = operand.read;
        plan.reg_written = operand.written;
        plan.byte_reg = byte && operand.kind == OperandKind::gpr_reg;
        break;
      case OperandKind::gpr_opcode:
        plan.opcode_reg = true;
        plan.rm = Field::gpr;
        plan.rm_read = operand.read;
        plan.rm_written = operand.written;
        plan.byte_rm = byte;
        break;
      case OperandKind::gpr_rm:
      case OperandKind::gpr_rm_only:
      case OperandKind::vec_rm:
      case OperandKind::vec_rm_only:
      case OperandKind::mem:
        plan.rm = field_of(operand.kind);
        plan.rm_read = operand.read;
        plan.rm_written = operand.written;
        plan.byte_rm = byte && plan.rm == Field::gpr;
        plan.memory_size = operand.size;
        break;
      case OperandKind::gpr_vvvv:
      case OperandKind::vec_vvvv:
        plan.vvvv = field_of(operand.kind);
        plan.vvvv_read = operand.read;
        plan.vvvv_written = operand.written;
        break;
      case OperandKind::st0:
      case OperandKind::sti:
      case OperandKind::mmx_reg:
      case OperandKind::mmx_rm_only: break;
      case OperandKind::mmx_rm:
        plan.rm_written = operand.written;
        plan.memory_size = operand.size;
        break;
      default: return false;
    }
    if (field_of(operand.kind) == Field::vector || operand.kind == OperandKind::fixed_xmm0) plan.uses_vectors = true;
  }
  switch (plan.memory_size) {
    case OperandSize::p:
    case OperandSize::s:
    case OperandSize::a:
    case OperandSize::any:
    case OperandSize::fpu_env:
    case OperandSize::fpu_state:
    case OperandSize::fxsave:
    case OperandSize::xsave: return false;
    default: return true;
  }
}

/// The forms that need more than copying; `call` for all others.
Way special_way(const Form& form) {
  switch (form.sem) {
    case Sem::nop: return Way::nothing;
    case Sem::lea_gm: return Way::lea;
    case Sem::mov_ao: return Way::move_moffs_load;
    case Sem::mov_oa: return Way::move_moffs_store;
    case Sem::inc_z:
    case Sem::dec_z: return Way::inc_dec_short;
    case Sem::push_z: return Way::push_reg;
    case Sem::push_i: return Way::push_imm;
    case Sem::push_e: return Way::push_rm;
    case Sem::pop_z: return Way::pop_reg;
    case Sem::pop_e: return Way::pop_rm;
    case Sem::leave: return Way::leave;
    case Sem::jcc_j: return Way::jcc;
    case Sem::jmp_j: return Way::jmp;
    case Sem::call_j: return Way::call_near;
    case Sem::jmp_e: return Way::jmp_rm;
    case Sem::call_e: return Way::call_rm;
    case Sem::ret:
    case Sem::ret_i: return Way::ret;
    case Sem::loop_j: return Way::loop;
    case Sem::jcxz_j: return Way::jcxz;
    case Sem::div_e: return Way::div;
    case Sem::idiv_e: return Way::idiv;
    case Sem::sti: return Way::sti;
    case Sem::cli: return Way::cli;
    case Sem::movs:
    case Sem::stos: return Way::string;
    default: return Way::call;
  }
}

FormPlan plan_of(const Form& form, const CpuModel& model, const FeatureSet& host) {
  const auto host_has = [&](Feature feature) {
    return feature == Feature::none || host[static_cast<std::size_t>(feature)];
  };
  FormPlan plan;
  plan.modrm = form.encoding.find('/') != std::string_view::npos;
  constexpr std::uint32_t kNever = kAttrRep | kAttrRepCond | kAttrNo64 | kAttrCpl0;
  const Way special = special_way(form);
  if (special != Way::call) {
    (void)describe(form, plan);
    plan.way = special;
    return plan;
  }
  const bool vector = form.attributes & (kAttrSse | kAttrAvx);
  plan.uses_x87 =
      form.attributes & (kAttrFpu | kAttrFpuControl | kAttrMmx) ||
      std::any_of(std::begin(form.operands), std::end(form.operands), [](const Operand& o) {
        return o.kind == OperandKind::mmx_reg || o.kind == OperandKind::mmx_rm || o.kind == OperandKind::mmx_rm_only;
      });
  if (plan.uses_x87 && std::find(kX87Calls.begin(), kX87Calls.end(), form.mnemonic) != kX87Calls.end()) return plan;
  if (plan.uses_x87 && !vector) {
    if (form.attributes & (kAttrSystem | kAttrCpl0)) return plan;
  } else if (vector ? std::find(kVectorCalls.begin(), kVectorCalls.end(), form.mnemonic) != kVectorCalls.end()
                    : std::find(kCopied.begin(), kCopied.end(), stem(form.sem)) == kCopied.end())
    return plan;
  const bool only_in_32 = form.sem == Sem::lahf || form.sem == Sem::sahf || form.encoding.starts_with("82 ");
  if ((form.attributes & (only_in_32 ? kNever & ~std::uint32_t{kAttrNo64} : kNever)) ||
      form.encoding.starts_with("82 "))
    return plan;
  if (!host_has(form.feature)) return plan;
  // Without the feature they are BSF and BSR, whatever the host makes of them.
  if (form.sem == Sem::tzcnt_ge && !(model.has(Feature::bmi1) && host_has(Feature::bmi1))) return plan;
  if (form.sem == Sem::lzcnt_ge && !(model.has(Feature::abm) && host_has(Feature::abm))) return plan;
  if (!describe(form, plan)) return plan;
  plan.vex = form.encoding.starts_with("VEX");
  plan.w_ignored = form.encoding.find("WIG") != std::string_view::npos;
  plan.uses_vectors |= vector;
  plan.simd_exceptions = form.attributes & kAttrSimdFp;
  constexpr auto kImplicit =
      std::to_array<std::string_view>({"cbw", "cmpxchg", "cmpxchg16b", "cmpxchg8b", "cwd", "imul", "lahf", "mul"});
  if (std::find(kImplicit.begin(), kImplicit.end(), stem(form.sem)) != kImplicit.end() || plan.uses_x87 ||
      form.mnemonic.find("STRI") != std::string_view::npos)
    plan.implicit_written |= 1u << kRax | 1u << kRcx | 1u << kRdx;
  plan.way = Way::copy;
  return plan;
}

}  // namespace

FeatureSet host_features() {
  FeatureSet features;
  // CPUID costs microseconds on a virtual host: once a leaf, and features come by leaf.
  unsigned leaf = 0, subleaf = 0, r[4] = {};
  for (std::size_t i = 1; i < kFeatureCount; ++i) {
    const FeatureInfo& info = feature_info(static_cast<Feature>(i));
    if (info.leaf != leaf || info.subleaf != subleaf) {
      leaf = info.leaf;
      subleaf = info.subleaf;
      if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3])) std::fill(std::begin(r), std::end(r), 0u);
    }
    features[i] = r[static_cast<unsigned>(info.reg)] >> info.bit & 1;
  }
  return features;
}

std::vector<FormPlan> make_plans(const CpuModel& model, const FeatureSet& host) {
  std::vector<FormPlan> plans;
  plans.reserve(forms().size());
  for (const Form& form : forms()) plans.push_back(plan_of(form, model, host));
  return plans;
}

unsigned memory_bytes(OperandSize size, const Insn& insn) {
  switch (size) {
    case OperandSize::b: return 1;
    case OperandSize::t: return 10;
    case OperandSize::w: return 2;
    case OperandSize::d: return 4;
    case OperandSize::q: return 8;
    case OperandSize::z: return insn.op_size < 4 ? 2 : 4;
    case OperandSize::y: return insn.rex_w ? 8 : 4;
    case OperandSize::x: return insn.vector_bytes;
    case OperandSize::dq: return 16;
    case OperandSize::qq: return 32;
    default: return insn.op_size;
  }
}

}  // namespace husk::cpu::jit
