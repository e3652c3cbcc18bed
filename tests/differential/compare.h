// husk: whether the host and the interpreter made the same of a test, and what of it does not count
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "test_case.h"

namespace husk::differential {

enum class Rule : std::uint8_t {
  not_run,     ///< the form is left out
  any_result,  ///< general registers may differ
  near,        ///< vector lanes within 1.5 * 2^-12 of each other, as the manuals promise of approximations
  one_ulp,     ///< x87 results within a unit in the last place, and C1
  tag_of_pointers,
};
struct Exception {
  std::string_view mnemonic;
  Rule rule;
  std::string_view reason;
};
/// The table of exceptions.def.
std::vector<Exception> exceptions_of(std::string_view mnemonic);
/// Why the form is not compared with the host, empty if it is. `features`: those that host and interpreter have.
std::string reason_not_run(std::uint16_t form, Mode mode, const cpu::FeatureSet& features);

/// Empty if equal, else one line a field: "rax: host 1, husk 2".
std::vector<std::string> differences(const Test& test, const Outcome& host, const Outcome& guest);

}  // namespace husk::differential
