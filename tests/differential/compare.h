// husk: whether the host and the interpreter made the same of a test, and what of it does not count
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "test_case.h"

namespace husk::differential {

enum class Rule : std::uint8_t {
  not_run,             ///< the form is left out
  any_result,          ///< general registers may differ
  any_flags,           ///< as any_result, and flags too
  one_ulp,             ///< x87 results within a unit in the last place, and C1
  undefined_argument,  ///< x87 results outside the range that the manual gives are anything
  fault_order,         ///< of several faults at once any may come, and its address
  may_align,           ///< the host may raise #AC where husk does not
  may_fault,           ///< the host may fault where husk does not
  host_lax,            ///< the host may go on where husk raises #GP(0)
  tags_on_fault,       ///< x87 tags and TOP may have changed at a fault
  rights_limit,        ///< LAR's bits 16 to 19
  pops_on_fault,       ///< general registers but RSP may have changed at a fault
  cpu_number,          ///< a small number where husk has 0
  gather_fault,        ///< lanes done, and the mask's form, at a fault
  lock_ignored,        ///< LOCK is #UD by the manual, and the host does not look
};
struct Exception {
  std::string_view name;
  Rule rule;
  std::string_view reason;
};
/// The table of exceptions.def.
std::vector<Exception> exceptions_of(std::uint16_t form);
/// Why the form is not compared with the host, empty if it is. `features`: those that host and interpreter have.
std::string reason_not_run(std::uint16_t form, Mode mode, const cpu::FeatureSet& features);

/// Empty if equal, else one line a field: "rax: host 1, husk 2".
std::vector<std::string> differences(const Test& test, const Outcome& host, const Outcome& guest);

}  // namespace husk::differential
