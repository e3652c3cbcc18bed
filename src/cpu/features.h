// husk: CPU features and the model a guest's CPU is made after
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>

namespace husk::cpu {

enum class Feature : std::uint8_t {
  none,  ///< in every CPU husk models
#define F(name, leaf, subleaf, reg, bit) name,
#include "cpu/features.def"
#undef F
  count_
};
inline constexpr std::size_t kFeatureCount = static_cast<std::size_t>(Feature::count_);
using FeatureSet = std::bitset<kFeatureCount>;

enum class CpuidRegister : std::uint8_t { eax, ebx, ecx, edx };
struct FeatureInfo {
  std::string_view name;
  std::uint32_t leaf;
  std::uint32_t subleaf;
  CpuidRegister reg;
  std::uint8_t bit;
};
/// Facts about a feature other than Feature::none.
const FeatureInfo& feature_info(Feature feature);
/// A feature by its name as in features.def; '-' and '_' and '.' are alike ("sse4.2", "tsc-deadline").
std::optional<Feature> feature_named(std::string_view name);

}  // namespace husk::cpu
