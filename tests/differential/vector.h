// husk: differential tests as text, with what the host made of them: read back on any machine
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "test_case.h"

namespace husk::differential {

struct Vector {
  Test test;
  Outcome host;
};

/// One vector: lines "name values", ended by an empty line. What is zero or as before is left out.
std::string to_text(const Test& test, const Outcome& host);
/// All vectors of a file. An error names the line.
Result<std::vector<Vector>> parse_vectors(std::string_view text);

}  // namespace husk::differential
