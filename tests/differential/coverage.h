// husk: which forms a differential run covered, and why others were not
#pragma once

#include <string>
#include <vector>

#include "campaign.h"

namespace husk::differential {

/// Some lines for people: counts, the forms least run, mismatches by form.
std::string summary(const Report& report);
/// covered.txt: one line a form of the table, "covered|not covered: reason", in the table's order.
std::string covered_text(const Report& report);
/// Forms that should have been run and were not, or that only ever faulted.
std::vector<std::string> untested(const Report& report);

}  // namespace husk::differential
