// husk: the list of CPU models, as data
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace husk::cpu {

/// One row. `features` are names of features.def, on top of those of the row named `based_on`; "-name" takes one away.
struct ModelRow {
  std::string_view name;
  std::string_view vendor;
  std::string_view brand;
  unsigned family, model, stepping;
  unsigned physical_bits;
  std::uint32_t basic_leaves, extended_leaves;  ///< highest leaf of each range
  std::string_view based_on;                    ///< empty: nothing
  std::string_view features;
  std::string_view left_out;  ///< QEMU's names of what the CPU of this name has and husk does not offer
  std::string_view aliases;   ///< further names
};
std::span<const ModelRow> model_rows();

}  // namespace husk::cpu
