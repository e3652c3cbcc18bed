// husk: what the CPUID instruction answers
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bits.h"
#include "cpu/model.h"

// Sources: SDM vol. 2, CPUID; APM vol. 3, appendix E.

namespace husk::cpu {

namespace {

constexpr std::uint32_t kHypervisorBase = 0x40000000, kHypervisorTiming = 0x40000010;
constexpr char kHypervisorSignature[] = "HuskHuskHusk";
/// Guests look for KVM's features behind KVM's name only.
constexpr char kKvmSignature[] = "KVMKVMKVM\0\0\0";
constexpr std::uint32_t kKvmFeatures = 0x40000001;
constexpr std::uint64_t kApicBusHz = 1'000'000'000;  // what the local APIC's timer divides (devices/intc)
constexpr std::uint32_t kAsids = 32768;               // as AMD's own; any number may be in use at a time
constexpr std::uint32_t kAmdMirrored = 0x0183F3FF;   // bits of 1:EDX that AMD repeats in 8000_0001:EDX

bool amd(const CpuModel& m) { return m.vendor == "AuthenticAMD" || m.vendor == "HygonGenuine"; }
unsigned processors_in_socket(const CpuModel& m) { return m.topology.cores * m.topology.threads; }
unsigned thread_bits(const CpuModel& m) { return static_cast<unsigned>(std::bit_width(m.topology.threads - 1)); }
unsigned core_bits(const CpuModel& m) { return static_cast<unsigned>(std::bit_width(m.topology.cores - 1)); }

std::uint32_t& reg_of(CpuidResult& r, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::eax: return r.eax;
    case CpuidRegister::ebx: return r.ebx;
    case CpuidRegister::ecx: return r.ecx;
    default: return r.edx;
  }
}

/// Sets the feature bits of a leaf.
void add_features(const CpuModel& m, std::uint32_t leaf, std::uint32_t subleaf, CpuidResult& r) {
  for (std::size_t i = 1; i < kFeatureCount; ++i) {
    if (!m.features.test(i)) continue;
    const FeatureInfo& info = feature_info(static_cast<Feature>(i));
    if (info.leaf == leaf && info.subleaf == subleaf) reg_of(r, info.reg) |= std::uint32_t{1} << info.bit;
  }
}

std::uint32_t four(std::string_view text, std::size_t at) {
  char raw[4] = {};
  for (std::size_t i = 0; i < 4 && at + i < text.size(); ++i) raw[i] = text[at + i];
  return load_le<std::uint32_t>(raw);
}

/// One cache as leaves 4 and 8000_001Dh describe it.
struct Cache {
  unsigned type;  ///< 1 data, 2 instruction, 3 unified
  unsigned level;
  unsigned ways, sets;
  bool whole_socket;
};
constexpr Cache kCaches[] = {
    {1, 1, 8, 64, false},     // 32 KiB L1D
    {2, 1, 8, 64, false},     // 32 KiB L1I
    {3, 2, 8, 1024, false},   // 512 KiB L2
    {3, 3, 16, 16384, true},  // 16 MiB L3
};
constexpr unsigned kLineBytes = 64;
constexpr unsigned kibibytes(const Cache& c) { return c.ways * c.sets * kLineBytes / 1024; }

CpuidResult cache_leaf(const CpuModel& m, std::uint32_t subleaf) {
  CpuidResult r;
  if (subleaf >= std::size(kCaches)) return r;
  const Cache& c = kCaches[subleaf];
  const unsigned sharing_bits = c.whole_socket ? thread_bits(m) + core_bits(m) : thread_bits(m);
  const std::uint32_t sharing =
      amd(m) ? (c.whole_socket ? processors_in_socket(m) : m.topology.threads) - 1 : (1u << sharing_bits) - 1;
  r.eax = c.type | (c.level << 5) | (1u << 8) | (sharing << 14);
  if (!amd(m)) r.eax |= ((1u << core_bits(m)) - 1) << 26;
  r.ebx = (kLineBytes - 1) | ((c.ways - 1) << 22);
  r.ecx = c.sets - 1;
  r.edx = c.whole_socket ? 0 : 1;  // WBINVD reaches the sharing threads only, for the private ones
  return r;
}

CpuidResult leaf1(const CpuModel& m, const CpuidContext& context) {
  CpuidResult r;
  r.eax = m.signature();
  const std::uint32_t count = std::bit_ceil(processors_in_socket(m));
  r.ebx = (m.has(Feature::clflush) ? (kLineBytes / 8) << 8 : 0) | (std::min(count, 255u) << 16) |
          ((context.apic_id & 0xFF) << 24);
  add_features(m, 1, 0, r);
  if (processors_in_socket(m) > 1)
    r.edx |= 1u << 28;
  else
    r.edx &= ~(1u << 28);
  if (!context.apic_enabled) r.edx &= ~(1u << 9);
  if (context.osxsave && m.has(Feature::xsave)) r.ecx |= 1u << 27;
  return r;
}

CpuidResult topology_leaf(const CpuModel& m, const CpuidContext& context, std::uint32_t subleaf) {
  CpuidResult r;
  r.ecx = subleaf & 0xFF;
  r.edx = context.apic_id;
  if (subleaf == 0) {
    r.eax = thread_bits(m);
    r.ebx = m.topology.threads;
    r.ecx |= 1u << 8;
  } else if (subleaf == 1) {
    r.eax = thread_bits(m) + core_bits(m);
    r.ebx = processors_in_socket(m);
    r.ecx |= 2u << 8;
  }
  return r;
}

/// Bytes of an XSAVE area that holds `components`.
std::uint32_t xsave_size(std::uint64_t components, bool compact) {
  std::uint32_t size = 576;
  for (unsigned i = 2; i < 63; ++i) {
    if (!bit(components, i)) continue;
    const auto c = xsave_component(i);
    if (!c) continue;
    size = compact ? size + c->size : std::max(size, c->offset + c->size);
  }
  return size;
}

CpuidResult xsave_leaf(const CpuModel& m, const CpuidContext& context, std::uint32_t subleaf) {
  CpuidResult r;
  const std::uint64_t supported = supported_xcr0(m);
  if (!supported) return r;
  if (subleaf == 0) {
    r.eax = static_cast<std::uint32_t>(supported);
    r.edx = static_cast<std::uint32_t>(supported >> 32);
    r.ebx = xsave_size(context.xcr0, false);
    r.ecx = xsave_size(supported, false);
  } else if (subleaf == 1) {
    add_features(m, 0xD, 1, r);
    if (m.has(Feature::xsavec) || m.has(Feature::xsaves)) r.ebx = xsave_size(context.xcr0 | context.xss, true);
  } else if (subleaf < 63 && bit(supported, subleaf)) {
    const auto c = xsave_component(subleaf);
    r.eax = c->size;
    r.ebx = c->offset;
  }
  return r;
}

CpuidResult basic(const CpuModel& m, const CpuidContext& context, std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidResult r;
  switch (leaf) {
    case 0: r = {m.basic_leaves, four(m.vendor, 0), four(m.vendor, 8), four(m.vendor, 4)}; break;
    case 1: r = leaf1(m, context); break;
    case 2:
      // FFh: see leaf 4 for the caches; FEh would ask for leaf 18h. AL = 1: one query is enough.
      if (!amd(m))
        r = m.basic_leaves >= 4 ? CpuidResult{0x00FFFF01, 0, 0, 0} : CpuidResult{0x03020101, 0, 0, 0x0C040843};
      break;
    case 4:
      if (!amd(m)) r = cache_leaf(m, subleaf);
      break;
    case 5:
      // 64-byte lines; extensions enumerated; interrupts break MWAIT even if masked; two sub-states of C1.
      if (m.has(Feature::monitor)) r = {kLineBytes, kLineBytes, 3, 0x20};
      break;
    case 6: add_features(m, 6, 0, r); break;
    case 7:
      if (subleaf == 0) {
        add_features(m, 7, 0, r);
        if (context.ospke && m.has(Feature::pku)) r.ecx |= 1u << 4;
      }
      break;
    case 0xB: r = topology_leaf(m, context, subleaf); break;
    case 0x1F:
      // V2 extended topology: the same levels, as there are no modules, tiles or dies. AMD has 8000_0026h for that.
      if (!amd(m)) r = topology_leaf(m, context, subleaf);
      break;
    case 0xD: r = xsave_leaf(m, context, subleaf); break;
    case 0x15:
      // TSC = crystal * EBX / EAX; Linux takes the crystal for the APIC timer's clock too.
      r.ecx = static_cast<std::uint32_t>(kApicBusHz);
      r.eax = 1'000'000;
      r.ebx = static_cast<std::uint32_t>(std::min<std::uint64_t>(mul_div(m.tsc_hz, 1'000'000, kApicBusHz), 0xFFFFFFFF));
      break;
    case 0x16: {
      const auto mhz = static_cast<std::uint32_t>(m.tsc_hz / 1'000'000);
      r = {mhz, mhz, 100, 0};
      break;
    }
    default: break;
  }
  return r;
}

CpuidResult hypervisor(const CpuModel& m, std::uint32_t leaf) {
  switch (leaf) {
    case kHypervisorBase: {
      const std::string_view name(m.has(Feature::kvmclock) ? kKvmSignature : kHypervisorSignature, 12);
      return {kHypervisorTiming, four(name, 0), four(name, 4), four(name, 8)};
    }
    case kKvmFeatures: {
      CpuidResult r;
      if (m.has(Feature::kvmclock)) add_features(m, leaf, 0, r);
      return r;
    }
    case kHypervisorTiming:
      // As VMware defined it: TSC and APIC bus in kHz.
      return {static_cast<std::uint32_t>(m.tsc_hz / 1000), static_cast<std::uint32_t>(kApicBusHz / 1000), 0, 0};
    default: return {};
  }
}

/// Associativity codes of 8000_0006h.
constexpr std::uint32_t amd_ways(unsigned ways) { return ways == 16 ? 8u : ways == 8 ? 6u : 4u; }

CpuidResult extended(const CpuModel& m, const CpuidContext& context, std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidResult r;
  switch (leaf) {
    case 0x80000000:
      r.eax = m.extended_leaves;
      if (amd(m)) {
        r.ebx = four(m.vendor, 0);
        r.edx = four(m.vendor, 4);
        r.ecx = four(m.vendor, 8);
      }
      break;
    case 0x80000001:
      if (amd(m)) r.eax = m.signature();
      add_features(m, leaf, 0, r);
      if (amd(m)) r.edx |= basic(m, context, 1, 0).edx & kAmdMirrored;
      if (processors_in_socket(m) == 1) r.ecx &= ~2u;  // CmpLegacy
      break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
      const std::size_t at = (leaf - 0x80000002) * 16;
      r = {four(m.brand, at), four(m.brand, at + 4), four(m.brand, at + 8), four(m.brand, at + 12)};
      break;
    }
    case 0x80000005:
      if (amd(m)) {
        r.eax = r.ebx = 0xFF40FF40;  // 64 fully associative entries, all page sizes
        r.ecx = (kibibytes(kCaches[0]) << 24) | (kCaches[0].ways << 16) | (1u << 8) | kLineBytes;
        r.edx = (kibibytes(kCaches[1]) << 24) | (kCaches[1].ways << 16) | (1u << 8) | kLineBytes;
      }
      break;
    case 0x80000006:
      r.ecx = (kibibytes(kCaches[2]) << 16) | (amd_ways(kCaches[2].ways) << 12) | kLineBytes;
      if (amd(m)) {
        r.ecx |= 1u << 8;
        r.eax = r.ebx = 0x42004200;
        r.edx = (kibibytes(kCaches[3]) / 512 << 18) | (amd_ways(kCaches[3].ways) << 12) | (1u << 8) | kLineBytes;
      }
      break;
    case 0x80000007: add_features(m, leaf, 0, r); break;
    case 0x80000008:
      r.eax = m.physical_bits | ((m.has(Feature::lm) ? m.linear_bits : 32u) << 8);
      if (amd(m)) {
        add_features(m, leaf, 0, r);
        r.ecx = (processors_in_socket(m) - 1) | ((thread_bits(m) + core_bits(m)) << 12);
      }
      break;
    case 0x8000000A:
      // APM vol. 3, E.4.9: SVM revision and number of ASIDs.
      if (m.has(Feature::svm)) {
        r.eax = 1;
        r.ebx = kAsids;
        add_features(m, leaf, 0, r);
      }
      break;
    case 0x8000001D:
      if (m.has(Feature::topoext)) r = cache_leaf(m, subleaf);
      break;
    case 0x8000001E:
      if (m.has(Feature::topoext)) {
        const unsigned core = (context.apic_id >> thread_bits(m)) & ((1u << core_bits(m)) - 1);
        r.eax = context.apic_id;
        r.ebx = core | ((m.topology.threads - 1) << 8);
        r.ecx = context.apic_id >> (thread_bits(m) + core_bits(m));  // one node a socket
      }
      break;
    default:
      if (leaf >= 0x80000009) add_features(m, leaf, 0, r);
      break;
  }
  return r;
}

}  // namespace

CpuidResult cpuid(const CpuModel& model, const CpuidContext& context, std::uint32_t leaf, std::uint32_t subleaf) {
  if (leaf <= model.basic_leaves) return basic(model, context, leaf, subleaf);
  if (leaf >= kHypervisorBase && leaf <= 0x4FFFFFFF && model.has(Feature::hypervisor)) return hypervisor(model, leaf);
  if (leaf >= 0x80000000 && leaf <= 0x8FFFFFFF && (leaf <= model.extended_leaves || leaf == 0x80000000))
    return extended(model, context, leaf, subleaf);
  // Beyond the last leaf Intel repeats the last basic leaf, AMD gives zeros.
  if (!amd(model)) return basic(model, context, model.basic_leaves, subleaf);
  return {};
}

}  // namespace husk::cpu
