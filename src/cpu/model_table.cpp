// husk: the list of CPU models, as data
#include "cpu/model_table.h"

namespace husk::cpu {

namespace {

constexpr std::string_view kIntel = "GenuineIntel", kAmd = "AuthenticAMD";

// Names, versions and features are those under which QEMU, libvirt and the vendors' manuals know these CPUs, less what
// the software CPU does not do (TSX, MPX, VMX, SVM, performance counters, AVX-512). Every model shows the hypervisor
// bit. "max" is made like an AMD Zen 3: SYSCALL works from 32-bit code too, and Linux has the fewest work-arounds for
// it. MONITOR is left out there as on other virtual CPUs: a HLT that wakes by interrupt costs the host less.
constexpr ModelRow kRows[] = {
    {"max", kAmd, "husk max", 25, 1, 1, 40, 0xD, 0x80000021, "EPYC-Milan",
     "cmp_legacy tsc_deadline tsc_adjust x2apic rdpid la57 gfni xsaves lfence_serializing null_sel_clears_base "
     "autoibrs srso_no "
     "btc_no invtsc"},

    {"486", kIntel, "Intel 80486", 4, 8, 0, 32, 1, 0, "", "fpu vme pse hypervisor"},
    {"pentium", kIntel, "Intel Pentium", 5, 4, 3, 32, 1, 0, "486", "de tsc msr mce cx8 mmx apic"},
    {"pentium2", kIntel, "Intel Pentium II", 6, 5, 2, 36, 2, 0, "pentium", "pae sep mtrr pge mca cmov pat pse36 fxsr"},
    {"pentium3", kIntel, "Intel Pentium III", 6, 7, 3, 36, 3, 0, "pentium2", "sse"},
    {"qemu32", kIntel, "husk Virtual CPU qemu32", 6, 6, 3, 36, 4, 0x80000008, "",
     "fpu de pse tsc msr mce cx8 pge cmov pat fxsr mmx sse sse2 pae sep apic sse3 hypervisor"},
    {"kvm32", kIntel, "husk Virtual CPU kvm32", 15, 6, 1, 36, 5, 0x80000008, "qemu32", "vme mtrr clflush mca pse36"},
    {"qemu64", kAmd, "husk Virtual CPU qemu64", 15, 107, 1, 40, 0xD, 0x80000008, "qemu32",
     "mtrr clflush mca pse36 cx16 lm syscall nx lahf_lm"},
    {"kvm64", kIntel, "husk Virtual CPU kvm64", 15, 6, 1, 40, 0xD, 0x80000008, "kvm32", "cx16 lm syscall nx"},

    {"x86-64-v1", kAmd, "husk Virtual CPU x86-64-v1", 15, 107, 1, 40, 0xD, 0x80000008, "kvm32", "lm syscall nx"},
    {"x86-64-v2", kAmd, "husk Virtual CPU x86-64-v2", 15, 107, 1, 40, 0xD, 0x80000008, "x86-64-v1",
     "cx16 lahf_lm popcnt ssse3 sse4_1 sse4_2"},
    {"x86-64-v3", kAmd, "husk Virtual CPU x86-64-v3", 15, 107, 1, 40, 0xD, 0x80000008, "x86-64-v2",
     "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},

    {"Conroe", kIntel, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", 6, 15, 3, 40, 0xA, 0x80000008, "kvm32",
     "ssse3 lm nx syscall lahf_lm"},
    {"core2duo", kIntel, "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", 6, 15, 11, 40, 0xA, 0x80000008, "Conroe",
     "cx16"},
    {"Penryn", kIntel, "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", 6, 23, 3, 40, 0xA, 0x80000008, "Conroe",
     "cx16 sse4_1"},
    {"Nehalem", kIntel, "Intel Core i7 9xx (Nehalem Class Core i7)", 6, 26, 3, 40, 0xB, 0x80000008, "Penryn",
     "sse4_2 popcnt"},
    {"Westmere", kIntel, "Westmere E56xx/L56xx/X56xx (Nehalem-C)", 6, 44, 1, 40, 0xB, 0x80000008, "Nehalem",
     "aes pclmulqdq arat"},
    {"SandyBridge", kIntel, "Intel Xeon E312xx (Sandy Bridge)", 6, 42, 1, 40, 0xD, 0x80000008, "Westmere",
     "avx xsave xsaveopt tsc_deadline x2apic rdtscp"},
    {"IvyBridge", kIntel, "Intel Xeon E3-12xx v2 (Ivy Bridge)", 6, 58, 9, 40, 0xD, 0x80000008, "SandyBridge",
     "f16c rdrand fsgsbase smep erms"},
    {"Haswell", kIntel, "Intel Core Processor (Haswell)", 6, 60, 4, 40, 0xD, 0x80000008, "IvyBridge",
     "fma movbe pcid bmi1 avx2 bmi2 invpcid abm"},
    {"Broadwell", kIntel, "Intel Core Processor (Broadwell)", 6, 61, 2, 40, 0xD, 0x80000008, "Haswell",
     "rdseed adx smap prefetchw"},
    {"Skylake-Client", kIntel, "Intel Core Processor (Skylake)", 6, 94, 3, 40, 0x16, 0x80000008, "Broadwell",
     "xsavec xgetbv1 clflushopt pdpe1gb"},

    {"EPYC", kAmd, "AMD EPYC Processor", 23, 1, 2, 40, 0xD, 0x8000001E, "",
     "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 sse3 pclmulqdq "
     "ssse3 fma "
     "cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand hypervisor lm rdtscp pdpe1gb fxsr_opt mmxext nx "
     "syscall "
     "prefetchw misalignsse sse4a abm lahf_lm topoext fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha_ni "
     "xsaveopt "
     "xsavec xgetbv1 arat"},
    {"EPYC-Rome", kAmd, "AMD EPYC-Rome Processor", 23, 49, 0, 40, 0xD, 0x8000001E, "EPYC",
     "clzero xsaveerptr clwb ibpb umip rdpid xsaves amd_ssb_no"},
    {"EPYC-Milan", kAmd, "AMD EPYC-Milan Processor", 25, 1, 1, 40, 0xD, 0x8000001E, "EPYC-Rome",
     "pcid erms invpcid fsrm pku vaes vpclmulqdq"},
};

}  // namespace

std::span<const ModelRow> model_rows() { return kRows; }

}  // namespace husk::cpu
