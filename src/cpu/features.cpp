// husk: names and CPUID places of the features
#include "cpu/features.h"

#include "base/check.h"

namespace husk::cpu {

namespace {

constexpr FeatureInfo kFeatures[] = {
#define F(name, leaf, subleaf, reg, bit) {#name, leaf, subleaf, CpuidRegister::reg, bit},
#include "cpu/features.def"
#undef F
};
static_assert(std::size(kFeatures) + 1 == kFeatureCount);

constexpr char folded(char c) {
  if (c == '-' || c == '.') return '_';
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool same_name(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (folded(a[i]) != folded(b[i])) return false;
  }
  return true;
}

}  // namespace

const FeatureInfo& feature_info(Feature feature) {
  HUSK_CHECK(feature != Feature::none && feature < Feature::count_);
  return kFeatures[static_cast<std::size_t>(feature) - 1];
}

std::optional<Feature> feature_named(std::string_view name) {
  for (std::size_t i = 0; i < std::size(kFeatures); ++i) {
    if (same_name(kFeatures[i].name, name)) return static_cast<Feature>(i + 1);
  }
  return std::nullopt;
}

}  // namespace husk::cpu
