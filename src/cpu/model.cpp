// husk: CPU models by name, and edits to their features
#include "cpu/model.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "cpu/catalog.h"
#include "cpu/model_table.h"

namespace husk::cpu {

namespace {

std::size_t index_of(Feature feature) { return static_cast<std::size_t>(feature); }

/// Calls each(word) for every piece of `text` between separators; stops at the first error.
template <class Each>
Status for_each_word(std::string_view text, char separator, Each&& each) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!word.empty()) HUSK_TRY(each(word));
  }
  return {};
}

const ModelRow* row_named(std::string_view name) {
  const auto rows = model_rows();
  const auto is_alias = [&](const ModelRow& row) {
    bool found = false;
    (void)for_each_word(row.aliases, ' ', [&](std::string_view alias) -> Status {
      found = found || alias == name;
      return {};
    });
    return found;
  };
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const ModelRow& row) { return row.name == name || is_alias(row); });
  return found == rows.end() ? nullptr : &*found;
}

FeatureSet features_of(const ModelRow& row) {
  FeatureSet set;
  if (!row.based_on.empty()) {
    const ModelRow* base = row_named(row.based_on);
    HUSK_CHECK(base);
    set = features_of(*base);
  }
  const Status listed = for_each_word(row.features, ' ', [&](std::string_view name) -> Status {
    const bool on = name[0] != '-';
    const auto feature = feature_named(on ? name : name.substr(1));
    HUSK_CHECK(feature);
    set.set(index_of(*feature), on);
    return {};
  });
  HUSK_CHECK(listed);
  // The paravirtual clock belongs to the virtual machine, not to the CPU that a model is made after.
  if (set.test(index_of(Feature::hypervisor)))
    for (const Feature feature : {Feature::kvm_nopiodelay, Feature::kvmclock, Feature::kvmclock_stable})
      set.set(index_of(feature));
  return set;
}

/// Edit distance, for "did you mean".
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = up;
    }
  }
  return row[b.size()];
}

std::string near_names(std::string_view name, std::vector<std::string> known) {
  std::erase_if(known, [&](const std::string& candidate) {
    return distance(name, candidate) > std::max<std::size_t>(2, name.size() / 3);
  });
  std::sort(known.begin(), known.end(),
            [&](const auto& a, const auto& b) { return distance(name, a) < distance(name, b); });
  if (known.size() > 3) known.resize(3);
  std::string text;
  for (const std::string& candidate : known) text += (text.empty() ? "" : ", ") + candidate;
  return text;
}

/// {feature, what it needs} (SDM vol. 1, chapters 10 to 15; APM vol. 2).
constexpr struct {
  Feature feature, needs;
} kNeeds[] = {
    {Feature::sse, Feature::fxsr},
    {Feature::sse2, Feature::sse},
    {Feature::sse3, Feature::sse2},
    {Feature::ssse3, Feature::sse3},
    {Feature::sse4_1, Feature::ssse3},
    {Feature::sse4_2, Feature::sse4_1},
    {Feature::sse4a, Feature::sse3},
    {Feature::misalignsse, Feature::sse2},
    {Feature::aes, Feature::sse2},
    {Feature::pclmulqdq, Feature::sse2},
    {Feature::sha_ni, Feature::ssse3},
    {Feature::gfni, Feature::sse2},
    {Feature::avx, Feature::xsave},
    {Feature::avx, Feature::sse4_2},
    {Feature::avx2, Feature::avx},
    {Feature::fma, Feature::avx},
    {Feature::f16c, Feature::avx},
    {Feature::vaes, Feature::avx},
    {Feature::vaes, Feature::aes},
    {Feature::vpclmulqdq, Feature::avx},
    {Feature::vpclmulqdq, Feature::pclmulqdq},
    {Feature::xsaveopt, Feature::xsave},
    {Feature::xsavec, Feature::xsave},
    {Feature::xgetbv1, Feature::xsavec},
    {Feature::xsaves, Feature::xsavec},
    {Feature::xsaves, Feature::msr},
    {Feature::xsave, Feature::fxsr},
    {Feature::mmxext, Feature::mmx},
    {Feature::mmx, Feature::fpu},
    {Feature::fxsr, Feature::fpu},
    {Feature::fxsr_opt, Feature::fxsr},
    {Feature::cx16, Feature::cx8},
    {Feature::lm, Feature::pae},
    {Feature::lm, Feature::msr},
    {Feature::lm, Feature::cx8},
    {Feature::lm, Feature::pse},
    {Feature::lm, Feature::sse2},
    {Feature::lm, Feature::syscall},
    {Feature::lahf_lm, Feature::lm},
    {Feature::fsgsbase, Feature::lm},
    {Feature::pcid, Feature::lm},
    {Feature::invpcid, Feature::pcid},
    {Feature::pku, Feature::lm},
    {Feature::pku, Feature::xsave},
    {Feature::la57, Feature::lm},
    {Feature::pdpe1gb, Feature::lm},
    {Feature::nx, Feature::pae},
    {Feature::nx, Feature::msr},
    {Feature::syscall, Feature::msr},
    {Feature::sep, Feature::msr},
    {Feature::tsc_adjust, Feature::tsc},
    {Feature::tsc_deadline, Feature::apic},
    {Feature::x2apic, Feature::apic},
    {Feature::arat, Feature::apic},
    {Feature::rdtscp, Feature::tsc},
    {Feature::invtsc, Feature::tsc},
    {Feature::mca, Feature::mce},
    {Feature::mtrr, Feature::msr},
    {Feature::pat, Feature::msr},
    {Feature::apic, Feature::msr},
    {Feature::adx, Feature::cmov},
    {Feature::topoext, Feature::syscall},
    {Feature::svm, Feature::lm},
    {Feature::npt, Feature::svm},
    {Feature::nrip_save, Feature::svm},
    {Feature::flushbyasid, Feature::svm},
    {Feature::pause_filter, Feature::svm},
    {Feature::pfthreshold, Feature::pause_filter},
    {Feature::svme_addr_chk, Feature::svm},
    {Feature::fsrm, Feature::erms},
    {Feature::spec_ctrl, Feature::msr},
    {Feature::ibpb, Feature::msr},
    {Feature::arch_capabilities, Feature::msr},
    {Feature::autoibrs, Feature::lm},
    {Feature::clwb, Feature::clflush},
    {Feature::clflushopt, Feature::clflush},
    {Feature::pge, Feature::pse},
    {Feature::pse36, Feature::pse},
};

void add_with_needs(FeatureSet& set, Feature feature) {
  set.set(index_of(feature));
  for (const auto& rule : kNeeds)
    if (rule.feature == feature && !set.test(index_of(rule.needs))) add_with_needs(set, rule.needs);
}
void remove_with_dependents(FeatureSet& set, Feature feature) {
  set.reset(index_of(feature));
  for (const auto& rule : kNeeds)
    if (rule.needs == feature && set.test(index_of(rule.feature))) remove_with_dependents(set, rule.feature);
}

/// Other names that QEMU's command line knows for features of features.def.
constexpr struct {
  std::string_view alias;
  Feature feature;
} kAliases[] = {
    {"pni", Feature::sse3},
    {"lzcnt", Feature::abm},
    {"xd", Feature::nx},
    {"i64", Feature::lm},
    {"ffxsr", Feature::fxsr_opt},
    {"pclmuldq", Feature::pclmulqdq},
    {"cmpxchg16b", Feature::cx16},
    {"3dnowprefetch", Feature::prefetchw},
    {"pse1g", Feature::pdpe1gb},
    {"sha", Feature::sha_ni},
    {"clfsh", Feature::clflush},
    {"cx8", Feature::cx8},
    {"amd-ssb-no", Feature::amd_ssb_no},
    {"auto-ibrs", Feature::autoibrs},
    {"null-sel-clr-base", Feature::null_sel_clears_base},
    {"lfence-always-serializing", Feature::lfence_serializing},
    {"spec-ctrl", Feature::spec_ctrl},
};

std::unexpected<Error> not_offered(std::string_view name) {
  return std::unexpected(Error{fmt::format("CPU feature '{}' is not offered by husk's CPU", name), "leave it out"});
}

/// Features of real CPUs that no CPU of husk's has: they can be left out by name, as they are in any case.
bool never_there(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "cr8legacy", "cr8-legacy", "pmu",
#define H(name, leaf, subleaf, reg, bit) name,
#include "cpu/host_bits.def"
#undef H
  };
  std::string dashed(name);
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  if (std::find(std::begin(kNames), std::end(kNames), dashed) != std::end(kNames)) return true;
  if (feature_named(name)) return false;
  // Bits of MSRs (mds-no) that models are described with.
  bool found = false;
  for (const ModelRow& row : model_rows())
    (void)for_each_word(row.left_out, ' ', [&](std::string_view word) -> Status {
      found = found || word == dashed;
      return {};
    });
  return found;
}

Result<Feature> editable_feature(std::string_view name) {
  if (never_there(name)) return not_offered(name);
  auto feature = feature_named(name);
  if (!feature) {
    for (const auto& entry : kAliases)
      if (entry.alias == name) feature = entry.feature;
  }
  if (!feature) {
    std::vector<std::string> known;
    for (std::size_t i = 1; i < kFeatureCount; ++i) known.emplace_back(feature_info(static_cast<Feature>(i)).name);
    const std::string near = near_names(name, std::move(known));
    return std::unexpected(
        Error{fmt::format("unknown CPU feature '{}'", name),
              near.empty() ? "'husk cpu show max' lists the features" : "did you mean " + near + "?"});
  }
  if (*feature == Feature::cr8_legacy) return not_offered(name);
  if (*feature == Feature::osxsave || *feature == Feature::ospke)
    return std::unexpected(
        Error{fmt::format("CPU feature '{}' is set by the guest's operating system", name), "leave it out"});
  return *feature;
}

Result<std::uint64_t> number(std::string_view key, std::string_view text, std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = hex ? text.substr(2) : text;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (error != std::errc{} || end != digits.data() + digits.size() || digits.empty() || value < least || value > most)
    return fail("CPU property '{}={}' is not a number from {} to {}", key, text, least, most);
  return value;
}

Result<bool> on_off(std::string_view key, std::string_view text) {
  if (text == "on" || text == "true" || text == "yes") return true;
  if (text == "off" || text == "false" || text == "no") return false;
  return fail("CPU property '{}={}' is neither on nor off", key, text);
}

Status set_feature(CpuModel& model, std::string_view name, bool on) {
  if (!on && never_there(name)) return {};
  const Feature feature = HUSK_TRY(editable_feature(name));
  if (on)
    add_with_needs(model.features, feature);
  else
    remove_with_dependents(model.features, feature);
  return {};
}

/// "key=value".
Status edit_property(CpuModel& model, std::string_view key, std::string_view value) {
  if (key == "family")
    model.family = static_cast<unsigned>(HUSK_TRY(number(key, value, 4, 0xFF + 0xF)));
  else if (key == "model")
    model.model = static_cast<unsigned>(HUSK_TRY(number(key, value, 0, 0xFF)));
  else if (key == "stepping")
    model.stepping = static_cast<unsigned>(HUSK_TRY(number(key, value, 0, 15)));
  else if (key == "phys-bits")
    model.physical_bits = static_cast<unsigned>(HUSK_TRY(number(key, value, 32, 52)));
  else if (key == "level")
    model.basic_leaves = static_cast<std::uint32_t>(HUSK_TRY(number(key, value, 1, 0x1F)));
  else if (key == "xlevel")
    model.extended_leaves = static_cast<std::uint32_t>(HUSK_TRY(number(key, value, 0x80000000, 0x80000021)));
  else if (key == "tsc-frequency")
    model.tsc_hz = HUSK_TRY(number(key, value, 1'000'000, 100'000'000'000));
  else if (key == "model-id") {
    if (value.size() > 47)
      return fail("CPU property 'model-id' has {} characters; at most 47 fit into CPUID", value.size());
    model.brand = value;
  } else if (key == "vendor") {
    if (value.size() != 12)
      return fail("CPU vendor '{}' has {} characters; CPUID holds exactly 12", value, value.size());
    model.vendor = value;
  } else if (key == "check" || key == "enforce") {
    // Nothing is ever left out silently, so both are always in force.
    (void)HUSK_TRY(on_off(key, value));
  } else {
    HUSK_TRY(set_feature(model, key, HUSK_TRY(on_off(key, value))));
  }
  return {};
}

}  // namespace

namespace {
/// Leaf 8000_000Ah belongs to SVM, even if nothing is set in it.
void show_svm_leaf(CpuModel& model) {
  if (model.has(Feature::svm)) model.extended_leaves = std::max(model.extended_leaves, std::uint32_t{0x8000000A});
}
}  // namespace

std::uint32_t CpuModel::signature() const {
  const unsigned base_family = std::min(family, 15u);
  const unsigned extended_family = family - base_family;
  return stepping | ((model & 0xF) << 4) | (base_family << 8) | ((model >> 4) << 16) | (extended_family << 20);
}

std::vector<std::string> cpu_model_names() {
  std::vector<std::string> names;
  for (const ModelRow& row : model_rows()) names.emplace_back(row.name);
  return names;
}

Result<CpuModel> cpu_model(std::string_view name) {
  if (name == "host") return host_cpu_model();
  if (name == "x86-64-v4")
    return std::unexpected(Error{"x86-64-v4 is AVX-512, which husk's CPUs do not have", "take x86-64-v3"});
  const ModelRow* row = row_named(name);
  if (!row) {
    const std::string near = near_names(name, cpu_model_names());
    std::string all;
    for (const std::string& known : cpu_model_names()) all += " " + known;
    return std::unexpected(Error{fmt::format("unknown CPU model '{}'", name),
                                 (near.empty() ? "" : "did you mean " + near + "? ") + "known models:" + all});
  }
  CpuModel model;
  model.name = row->name;
  model.vendor = row->vendor;
  model.brand = row->brand;
  model.family = row->family;
  model.model = row->model;
  model.stepping = row->stepping;
  model.physical_bits = row->physical_bits;
  model.basic_leaves = row->basic_leaves;
  model.extended_leaves = row->extended_leaves;
  model.features = features_of(*row);
  model.linear_bits = model.has(Feature::la57) ? 57 : 48;
  show_svm_leaf(model);
  return model;
}

Status edit_features(CpuModel& model, std::string_view edits) {
  HUSK_TRY(for_each_word(edits, ',', [&](std::string_view word) -> Status {
    if (word[0] == '+' || word[0] == '-') {
      return set_feature(model, word.substr(1), word[0] == '+');
    }
    const std::size_t equals = word.find('=');
    if (equals != std::string_view::npos) return edit_property(model, word.substr(0, equals), word.substr(equals + 1));
    return set_feature(model, word, true);
  }));
  model.linear_bits = model.has(Feature::la57) ? 57 : 48;
  show_svm_leaf(model);
  // A feature in a leaf that the model would not show otherwise makes it show.
  for (std::size_t i = 1; i < kFeatureCount; ++i) {
    if (!model.features.test(i)) continue;
    const std::uint32_t leaf = feature_info(static_cast<Feature>(i)).leaf;
    if (leaf >> 28 == 4) continue;  // the hypervisor's own range
    if (leaf < 0x80000000)
      model.basic_leaves = std::max(model.basic_leaves, leaf);
    else
      model.extended_leaves = std::max(model.extended_leaves, leaf);
  }
  return {};
}

unsigned apic_id_of(const CpuTopology& topology, unsigned index) {
  const unsigned thread_bits = static_cast<unsigned>(std::bit_width(topology.threads - 1));
  const unsigned core_bits = static_cast<unsigned>(std::bit_width(topology.cores - 1));
  const unsigned thread = index % topology.threads;
  const unsigned core = index / topology.threads % topology.cores;
  const unsigned socket = index / topology.threads / topology.cores;
  return thread | (core << thread_bits) | (socket << (thread_bits + core_bits));
}

std::uint64_t supported_xcr0(const CpuModel& model) {
  if (!model.has(Feature::xsave)) return 0;
  return 3 | (model.has(Feature::avx) ? 4u : 0u) | (model.has(Feature::pku) ? 1u << 9 : 0u);
}

std::optional<XsaveComponent> xsave_component(unsigned index) {
  switch (index) {
    case 0: return XsaveComponent{160, 0};
    case 1: return XsaveComponent{256, 160};
    case 2: return XsaveComponent{256, 576};
    case 9: return XsaveComponent{8, 2688};
    default: return std::nullopt;
  }
}

}  // namespace husk::cpu
