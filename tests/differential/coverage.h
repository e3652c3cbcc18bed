// husk: which forms a differential run covered, and why others were not
#pragma once

#include <string>
#include <vector>

#include "campaign.h"

namespace husk::differential {

/// Some lines for people: counts, the forms least run, mismatches by form.
std::string summary(const Report& report);
/// Empty if the form is compared in some mode, else why in none. `features`: those that host and interpreter have.
std::string note_of(std::uint16_t form, const cpu::FeatureSet& features);
/// tested_forms.txt: `MNEMONIC | encoding | note` for each form of the table, in its order; an empty note means
/// compared.
std::string tested_forms_text(const Report& report);
std::string tested_forms_text(const cpu::FeatureSet& features, const std::vector<std::uint16_t>& never_run);
/// Forms that should have been run and were not, or that only ever faulted.
std::vector<std::string> untested(const Report& report);

}  // namespace husk::differential
