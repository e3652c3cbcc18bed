// husk: CPU models and hosts described, compared, and brought to what they have in common
#include "cpu/catalog.h"

#include <algorithm>
#include <iterator>

#include "base/bits.h"
#include "cpu/model_table.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace husk::cpu {

namespace {

using Names = std::vector<std::string>;

/// CPUID bits beyond features.def, to name what a host has.
struct HostBit {
  std::string_view name;
  std::uint32_t leaf, subleaf;
  CpuidRegister reg;
  unsigned bit;
};
constexpr HostBit kHostBits[] = {
#define H(name, leaf, subleaf, reg, bit) {name, leaf, subleaf, CpuidRegister::reg, bit},
#include "cpu/host_bits.def"
#undef H
};

Names words(std::string_view text) {
  Names list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) list.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

CatalogEntry entry_of(const ModelRow& row) {
  return {std::string(row.name), std::string(row.vendor), std::string(row.brand), words(row.aliases),
          words(row.left_out)};
}

std::string dashed(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

/// Not a property of the CPU: what a hypervisor says of itself, and what an operating system has turned on.
bool describes_cpu(Feature feature) {
  return feature_info(feature).leaf >> 28 != 4 && feature != Feature::hypervisor && feature != Feature::osxsave &&
         feature != Feature::ospke && feature != Feature::ht;
}
/// Nested virtualization is not offered by any of husk's CPUs yet, and MONITOR only where it is asked for.
bool offered(Feature feature) {
  return describes_cpu(feature) && feature != Feature::cr8_legacy &&
         feature != Feature::monitor;
}

Names difference(const Names& a, const Names& b) {
  Names result;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(result));
  return result;
}

std::uint32_t register_of(const CpuidResult& r, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::eax: return r.eax;
    case CpuidRegister::ebx: return r.ebx;
    case CpuidRegister::ecx: return r.ecx;
    default: return r.edx;
  }
}

#if defined(__x86_64__) || defined(__i386__)
constexpr bool kHostIsX86 = true;
/// Zeros beyond the last leaf, whatever the vendor answers there.
CpuidResult host_cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidResult r;
  __cpuid_count(leaf & 0xC0000000, 0, r.eax, r.ebx, r.ecx, r.edx);
  if (leaf > r.eax || r.eax - (leaf & 0xC0000000) > 0xFFFF) return {};
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}
#else
constexpr bool kHostIsX86 = false;
CpuidResult host_cpuid(std::uint32_t, std::uint32_t) { return {}; }
#endif

void append(std::string& text, std::uint32_t value) {
  for (unsigned i = 0; i < 4; ++i)
    if (const auto c = static_cast<char>(value >> (i * 8))) text += c;
}

bool host_has(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg, unsigned number) {
  return bit(register_of(host_cpuid(leaf, subleaf), reg), number);
}

bool contains(const Names& all, const Names& part) {
  return std::includes(all.begin(), all.end(), part.begin(), part.end());
}

}  // namespace

std::vector<CatalogEntry> model_catalog() {
  std::vector<CatalogEntry> list;
  for (const ModelRow& row : model_rows()) list.push_back(entry_of(row));
  return list;
}

std::optional<CatalogEntry> catalog_entry(std::string_view name) {
  for (CatalogEntry& entry : model_catalog())
    if (entry.name == name || std::find(entry.aliases.begin(), entry.aliases.end(), name) != entry.aliases.end())
      return std::move(entry);
  return std::nullopt;
}

CpuDescription describe(const CpuModel& model) {
  CpuDescription d{model.name,          model.vendor,      model.brand, model.family, model.model, model.stepping,
                   model.physical_bits, model.linear_bits, {}};
  if (!model.has(Feature::lm)) d.linear_bits = 32;
  for (std::size_t i = 1; i < kFeatureCount; ++i)
    if (const auto feature = static_cast<Feature>(i); model.has(feature) && describes_cpu(feature))
      d.features.push_back(dashed(feature_info(feature).name));
  std::sort(d.features.begin(), d.features.end());
  return d;
}

std::optional<CpuDescription> describe_host() {
  if (!kHostIsX86) return std::nullopt;
  CpuDescription d;
  d.name = "host";
  const CpuidResult vendor = host_cpuid(0, 0);
  for (const std::uint32_t part : {vendor.ebx, vendor.edx, vendor.ecx}) append(d.vendor, part);
  for (std::uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
    const CpuidResult r = host_cpuid(leaf, 0);
    for (const std::uint32_t part : {r.eax, r.ebx, r.ecx, r.edx}) append(d.brand, part);
  }
  d.brand.erase(0, d.brand.find_first_not_of(' '));
  d.brand.erase(d.brand.find_last_not_of(' ') + 1);
  const std::uint32_t signature = host_cpuid(1, 0).eax;
  const auto field = [&](unsigned from, unsigned count) { return static_cast<unsigned>(bits(signature, from, count)); };
  d.family = field(8, 4) == 15 ? 15 + field(20, 8) : field(8, 4);
  d.model = field(4, 4) | (field(8, 4) == 15 || field(8, 4) == 6 ? field(16, 4) << 4 : 0);
  d.stepping = field(0, 4);
  const std::uint32_t sizes = host_cpuid(0x80000008, 0).eax;
  d.physical_bits = sizes ? sizes & 0xFF : 36;
  d.linear_bits = sizes ? (sizes >> 8) & 0xFF : 32;
  for (std::size_t i = 1; i < kFeatureCount; ++i) {
    const auto feature = static_cast<Feature>(i);
    const FeatureInfo& info = feature_info(feature);
    if (describes_cpu(feature) && host_has(info.leaf, info.subleaf, info.reg, info.bit))
      d.features.push_back(dashed(info.name));
  }
  for (const HostBit& one : kHostBits)
    if (host_has(one.leaf, one.subleaf, one.reg, one.bit)) d.features.emplace_back(one.name);
  std::sort(d.features.begin(), d.features.end());
  return d;
}

Result<CpuModel> host_cpu_model() {
  const auto host = describe_host();
  if (!host) return std::unexpected(Error{"the CPU model 'host' needs an x86 host", "name a model"});
  CpuModel model;
  model.name = "host";
  model.vendor = host->vendor;
  model.brand = host->brand;
  model.family = host->family;
  model.model = host->model;
  model.stepping = host->stepping;
  model.physical_bits = std::clamp(host->physical_bits, 32u, 52u);
  // No further than what husk answers leaf by leaf.
  const std::uint32_t leaves = host_cpuid(0, 0).eax;
  model.basic_leaves = leaves >= 0x1F ? 0x1F : std::min<std::uint32_t>(leaves, 0x16);
  model.extended_leaves = std::min<std::uint32_t>(host_cpuid(0x80000000, 0).eax, 0x80000021);
  std::string lacking;
  for (std::size_t i = 1; i < kFeatureCount; ++i) {
    const auto feature = static_cast<Feature>(i);
    const FeatureInfo& info = feature_info(feature);
    if (offered(feature) && host_has(info.leaf, info.subleaf, info.reg, info.bit))
      model.features.set(i);
    else if (offered(feature))
      lacking += (lacking.empty() ? "-" : ",-") + std::string(info.name);
  }
  for (const Feature feature :
       {Feature::hypervisor, Feature::kvm_nopiodelay, Feature::kvmclock, Feature::kvmclock_stable})
    model.features.set(static_cast<std::size_t>(feature));
  // What needs something that is not there goes with it: a host's own hypervisor may have left odd gaps.
  HUSK_TRY(edit_features(model, lacking));
  return model;
}

CpuComparison compare(const CpuDescription& from, const CpuDescription& to) {
  return {difference(from.features, to.features), difference(to.features, from.features), from.vendor == to.vendor,
          from.physical_bits <= to.physical_bits && from.linear_bits <= to.linear_bits};
}

std::string CpuBaseline::text() const {
  std::string text = model;
  for (const std::string& name : added) text += ",+" + name;
  return text + fmt::format(",phys-bits={}", physical_bits);
}

Result<CpuBaseline> baseline(std::span<const CpuDescription> cpus) {
  if (cpus.empty()) return fail("a baseline needs at least one CPU");
  CpuDescription common = cpus[0];
  CpuBaseline result;
  for (const CpuDescription& cpu : cpus.subspan(1)) {
    Names both;
    std::set_intersection(common.features.begin(), common.features.end(), cpu.features.begin(), cpu.features.end(),
                          std::back_inserter(both));
    common.features = std::move(both);
    common.physical_bits = std::min(common.physical_bits, cpu.physical_bits);
    common.linear_bits = std::min(common.linear_bits, cpu.linear_bits);
    result.one_vendor = result.one_vendor && cpu.vendor == common.vendor;
  }
  // Of the models that all of them can be: one of their vendor before others, then the one with most features.
  std::optional<CpuDescription> best;
  const auto better = [&](const CpuDescription& a, const CpuDescription& b) {
    const bool vendor_a = a.vendor == common.vendor, vendor_b = b.vendor == common.vendor;
    return vendor_a != vendor_b ? vendor_a : a.features.size() > b.features.size();
  };
  for (const ModelRow& row : model_rows()) {
    if (row.name == "max") continue;  // grows with husk
    const CpuDescription candidate = describe(HUSK_TRY(cpu_model(row.name)));
    if (contains(common.features, candidate.features) && (!best || better(candidate, *best))) best = candidate;
  }
  if (!best)
    return std::unexpected(
        Error{"these CPUs have no model of husk's in common", "'husk cpu compare' shows the differences"});
  result.model = best->name;
  result.physical_bits = std::clamp(common.physical_bits, 32u, 52u);
  for (const std::string& name : difference(common.features, best->features))
    if (const auto feature = feature_named(name); feature && offered(*feature)) result.added.push_back(name);
  return result;
}

}  // namespace husk::cpu
