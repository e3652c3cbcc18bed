// husk: the instruction table as data: forms(), names of semantics, the decoder's generated tables
#include "base/check.h"
#include "cpu/coding.h"
#include "cpu/insn.h"
#include "cpu/sem.h"

namespace husk::cpu {

namespace {

constexpr Form kForms[] = {
#include "cpu/insn_table.inc"
};

constexpr std::string_view kSemNames[] = {
#define S(name) #name,
#include "cpu/sem.inc"
#undef S
};

}  // namespace

const DecodeForm kDecodeForms[] = {
#define HUSK_DECODE_FORMS
#include "cpu/decode_tables.inc"
#undef HUSK_DECODE_FORMS
};

const FormPattern kFormPatterns[] = {
#define HUSK_FORM_PATTERNS
#include "cpu/decode_tables.inc"
#undef HUSK_FORM_PATTERNS
};

const std::uint16_t kDecodeTree[] = {
#define HUSK_DECODE_TREE
#include "cpu/decode_tables.inc"
#undef HUSK_DECODE_TREE
};

const std::array<OpcodeRoots, 2> kDecodeRoots = {{
#define HUSK_DECODE_ROOTS
#include "cpu/decode_tables.inc"
#undef HUSK_DECODE_ROOTS
}};

static_assert(std::size(kForms) < kTreeNode - 1);

std::span<const Form> forms() { return kForms; }

std::string_view sem_name(Sem sem) {
  HUSK_CHECK(static_cast<std::size_t>(sem) < std::size(kSemNames));
  return kSemNames[static_cast<std::size_t>(sem)];
}

std::size_t sem_count() { return std::size(kSemNames); }

}  // namespace husk::cpu
