// husk: gdb's registers
#include "monitor/gdb_registers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bits.h"

namespace husk::monitor {
namespace {

using cpu::CpuState;
using Get = void (*)(const CpuState&, unsigned, std::uint8_t*);
using Set = bool (*)(CpuState&, unsigned, const std::uint8_t*);

/// A register that is a plain member, `Bytes` wide on the wire.
template <auto Member, unsigned Bytes>
void get_member(const CpuState& s, unsigned, std::uint8_t* out) {
  std::uint8_t raw[8];
  store_le<std::uint64_t>(raw, static_cast<std::uint64_t>(s.*Member));
  std::memcpy(out, raw, Bytes);
}
template <auto Member, unsigned Bytes>
bool set_member(CpuState& s, unsigned, const std::uint8_t* in) {
  std::uint8_t raw[8] = {};
  std::memcpy(raw, in, Bytes);
  using T = std::remove_reference_t<decltype(s.*Member)>;
  s.*Member = static_cast<T>(load_le<std::uint64_t>(raw));
  return true;
}

constexpr const char* kGprNames[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr unsigned kGprOrder[] = {0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr const char* kSegmentNames[] = {"cs", "ss", "ds", "es", "fs", "gs"};
constexpr unsigned kSegmentOrder[] = {cpu::kCs, cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs};
constexpr const char* kX87Control[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};

std::uint64_t x87_control(const CpuState& s, unsigned n) {
  switch (n) {
    case 0: return s.x87.control;
    case 1: return s.x87.status;
    case 2: return s.x87.tag;
    case 3: return s.x87.ip_selector;
    case 4: return static_cast<std::uint32_t>(s.x87.ip);
    case 5: return s.x87.dp_selector;
    case 6: return static_cast<std::uint32_t>(s.x87.dp);
    default: return s.x87.opcode;
  }
}
bool set_x87_control(CpuState& s, unsigned n, const std::uint8_t* in) {
  const auto value = load_le<std::uint32_t>(in);
  const auto low = static_cast<std::uint16_t>(value);
  switch (n) {
    case 0: s.x87.control = low; break;
    case 1: s.x87.status = low; break;
    case 2: s.x87.tag = low; break;
    case 3: s.x87.ip_selector = low; break;
    case 4: s.x87.ip = value; break;
    case 5: s.x87.dp_selector = low; break;
    case 6: s.x87.dp = value; break;
    default: s.x87.opcode = low; break;
  }
  return true;
}
/// ST(n) counts from TOP.
unsigned physical(const CpuState& s, unsigned n) { return (bits(s.x87.status, 11, 3) + n) & 7; }

/// Where the registers of one feature begin, and its name; the rows follow in order.
struct Feature {
  std::string_view name;
  std::size_t first;
};
constexpr std::size_t kCoreCount = 16 + 2 + 6 + 8 + 8;
constexpr std::size_t kSseCount = 17;
constexpr std::size_t kSegmentsCount = 2;

template <class Table>
void add_core(Table& table) {
  for (unsigned i = 0; i < 16; ++i)
    table.push_back({kGprNames[i], 8, [](const CpuState& s, unsigned n, std::uint8_t* out) { store_le(out, s.gpr[n]); },
                     [](CpuState& s, unsigned n, const std::uint8_t* in) {
                       s.gpr[n] = load_le<std::uint64_t>(in);
                       return true;
                     },
                     kGprOrder[i]});
  table.push_back({"rip", 8, get_member<&CpuState::rip, 8>, set_member<&CpuState::rip, 8>, 0});
  table.push_back({"eflags", 4, get_member<&CpuState::rflags, 4>, set_member<&CpuState::rflags, 4>, 0});
  for (unsigned i = 0; i < 6; ++i)
    table.push_back(
        {kSegmentNames[i], 4,
         [](const CpuState& s, unsigned n, std::uint8_t* out) { store_le<std::uint32_t>(out, s.seg[n].selector); },
         // A selector alone says nothing of base and limit, so it cannot be written from outside.
         [](CpuState& s, unsigned n, const std::uint8_t* in) {
           return s.seg[n].selector == load_le<std::uint32_t>(in);
         },
         kSegmentOrder[i]});
  static constexpr const char* kStNames[] = {"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"};
  for (unsigned i = 0; i < 8; ++i)
    table.push_back({kStNames[i], 10,
                     [](const CpuState& s, unsigned n, std::uint8_t* out) {
                       const cpu::F80Bits& value = s.x87.registers[physical(s, n)];
                       store_le(out, value.significand);
                       store_le(out + 8, value.sign_exponent);
                     },
                     [](CpuState& s, unsigned n, const std::uint8_t* in) {
                       s.x87.registers[physical(s, n)] = {load_le<std::uint64_t>(in), load_le<std::uint16_t>(in + 8)};
                       return true;
                     },
                     i});
  for (unsigned i = 0; i < 8; ++i)
    table.push_back({kX87Control[i], 4,
                     [](const CpuState& s, unsigned n, std::uint8_t* out) {
                       store_le(out, static_cast<std::uint32_t>(x87_control(s, n)));
                     },
                     set_x87_control, i});
}

template <class Table>
void add_vectors(Table& table) {
  static constexpr const char* kXmm[] = {"xmm0", "xmm1", "xmm2",  "xmm3",  "xmm4",  "xmm5",  "xmm6",  "xmm7",
                                         "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"};
  static constexpr const char* kYmmHigh[] = {"ymm0h",  "ymm1h",  "ymm2h",  "ymm3h", "ymm4h",  "ymm5h",
                                             "ymm6h",  "ymm7h",  "ymm8h",  "ymm9h", "ymm10h", "ymm11h",
                                             "ymm12h", "ymm13h", "ymm14h", "ymm15h"};
  for (unsigned i = 0; i < 16; ++i)
    table.push_back(
        {kXmm[i], 16,
         [](const CpuState& s, unsigned n, std::uint8_t* out) { std::copy_n(s.vector[n].bytes.begin(), 16, out); },
         [](CpuState& s, unsigned n, const std::uint8_t* in) {
           std::copy_n(in, 16, s.vector[n].bytes.begin());
           return true;
         },
         i});
  table.push_back({"mxcsr", 4, get_member<&CpuState::mxcsr, 4>, set_member<&CpuState::mxcsr, 4>, 0});
  table.push_back({"fs_base", 8,
                   [](const CpuState& s, unsigned, std::uint8_t* out) { store_le(out, s.seg[cpu::kFs].base); },
                   [](CpuState& s, unsigned, const std::uint8_t* in) {
                     s.seg[cpu::kFs].base = load_le<std::uint64_t>(in);
                     return true;
                   },
                   0});
  table.push_back({"gs_base", 8,
                   [](const CpuState& s, unsigned, std::uint8_t* out) { store_le(out, s.seg[cpu::kGs].base); },
                   [](CpuState& s, unsigned, const std::uint8_t* in) {
                     s.seg[cpu::kGs].base = load_le<std::uint64_t>(in);
                     return true;
                   },
                   0});
  for (unsigned i = 0; i < 16; ++i)
    table.push_back(
        {kYmmHigh[i], 16,
         [](const CpuState& s, unsigned n, std::uint8_t* out) { std::copy_n(s.vector[n].bytes.begin() + 16, 16, out); },
         [](CpuState& s, unsigned n, const std::uint8_t* in) {
           std::copy_n(in, 16, s.vector[n].bytes.begin() + 16);
           return true;
         },
         i});
}

template <class Table>
void add_system(Table& table) {
  table.push_back({"cr0", 8, get_member<&CpuState::cr0, 8>, set_member<&CpuState::cr0, 8>, 0});
  table.push_back({"cr2", 8, get_member<&CpuState::cr2, 8>, set_member<&CpuState::cr2, 8>, 0});
  table.push_back({"cr3", 8, get_member<&CpuState::cr3, 8>, set_member<&CpuState::cr3, 8>, 0});
  table.push_back({"cr4", 8, get_member<&CpuState::cr4, 8>, set_member<&CpuState::cr4, 8>, 0});
  table.push_back({"efer", 8, get_member<&CpuState::efer, 8>, set_member<&CpuState::efer, 8>, 0});
  table.push_back({"xcr0", 8, get_member<&CpuState::xcr0, 8>, set_member<&CpuState::xcr0, 8>, 0});
  static constexpr const char* kTables[] = {"gdt_base", "idt_base"};
  static constexpr const char* kLimits[] = {"gdt_limit", "idt_limit"};
  for (unsigned i = 0; i < 2; ++i) {
    table.push_back(
        {kTables[i], 8,
         [](const CpuState& s, unsigned n, std::uint8_t* out) { store_le(out, n ? s.idtr.base : s.gdtr.base); },
         [](CpuState& s, unsigned n, const std::uint8_t* in) {
           (n ? s.idtr : s.gdtr).base = load_le<std::uint64_t>(in);
           return true;
         },
         i});
    table.push_back({kLimits[i], 4,
                     [](const CpuState& s, unsigned n, std::uint8_t* out) {
                       store_le<std::uint32_t>(out, n ? s.idtr.limit : s.gdtr.limit);
                     },
                     [](CpuState& s, unsigned n, const std::uint8_t* in) {
                       (n ? s.idtr : s.gdtr).limit = load_le<std::uint16_t>(in);
                       return true;
                     },
                     i});
  }
  table.push_back({"tr_base", 8, [](const CpuState& s, unsigned, std::uint8_t* out) { store_le(out, s.tr.base); },
                   [](CpuState&, unsigned, const std::uint8_t*) { return false; }, 0});
  table.push_back({"cs_base", 8,
                   [](const CpuState& s, unsigned, std::uint8_t* out) { store_le(out, s.seg[cpu::kCs].base); },
                   [](CpuState&, unsigned, const std::uint8_t*) { return false; }, 0});
  static constexpr const char* kDr[] = {"dr0", "dr1", "dr2", "dr3"};
  for (unsigned i = 0; i < 4; ++i)
    table.push_back({kDr[i], 8, [](const CpuState& s, unsigned n, std::uint8_t* out) { store_le(out, s.dr[n]); },
                     [](CpuState& s, unsigned n, const std::uint8_t* in) {
                       s.dr[n] = load_le<std::uint64_t>(in);
                       return true;
                     },
                     i});
  table.push_back({"dr6", 8, get_member<&CpuState::dr6, 8>, set_member<&CpuState::dr6, 8>, 0});
  table.push_back({"dr7", 8, get_member<&CpuState::dr7, 8>, set_member<&CpuState::dr7, 8>, 0});
}

std::string_view type_of(std::size_t index, const GdbRegister& r) {
  if (r.name == "rip") return "code_ptr";
  if (r.name == "rsp" || r.name == "rbp") return "data_ptr";
  if (r.name == "eflags") return "i386_eflags";
  if (r.name == "mxcsr") return "i386_mxcsr";
  if (r.bytes == 10) return "i387_ext";
  if (r.bytes == 16) return r.name.starts_with("ymm") ? "uint128" : "vec128";
  if (index < kCoreCount && r.bytes == 4) return "int32";
  return r.bytes == 8 ? "int64" : "int32";
}

}  // namespace

const std::vector<GdbRegister>& gdb_registers() {
  static const std::vector<GdbRegister> table = [] {
    std::vector<GdbRegister> made;
    add_core(made);
    add_vectors(made);
    add_system(made);
    return made;
  }();
  return table;
}

std::string gdb_target_description() {
  // gdb demands the registers of its own features under these names; the order of the file gives their numbers.
  static constexpr Feature kFeatures[] = {{"org.gnu.gdb.i386.core", 0},
                                          {"org.gnu.gdb.i386.sse", kCoreCount},
                                          {"org.gnu.gdb.i386.segments", kCoreCount + kSseCount},
                                          {"org.gnu.gdb.i386.avx", kCoreCount + kSseCount + kSegmentsCount},
                                          {"org.husk.x86.system", kCoreCount + kSseCount + kSegmentsCount + 16}};
  std::string xml =
      "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
      "<target version=\"1.0\"><architecture>i386:x86-64</architecture>\n";
  const auto& table = gdb_registers();
  for (std::size_t f = 0; f < std::size(kFeatures); ++f) {
    const std::size_t end = f + 1 < std::size(kFeatures) ? kFeatures[f + 1].first : table.size();
    xml += fmt::format("<feature name=\"{}\">\n", kFeatures[f].name);
    if (f == 0)
      xml +=
          "<flags id=\"i386_eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"PF\" "
          "start=\"2\" "
          "end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/><field "
          "name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" "
          "end=\"9\"/><field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" "
          "end=\"11\"/></flags>\n";
    if (f == 1)
      xml +=
          "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
          "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
          "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
          "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
          "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
          "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
          "<field name=\"uint128\" type=\"uint128\"/></union>"
          "<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/></flags>\n";
    for (std::size_t i = kFeatures[f].first; i < end; ++i)
      xml += fmt::format("<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"/>\n", table[i].name, table[i].bytes * 8,
                         type_of(i, table[i]));
    xml += "</feature>\n";
  }
  return xml + "</target>\n";
}

}  // namespace husk::monitor
