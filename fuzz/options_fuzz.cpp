// husk: fuzzes QEMU's option syntax: each line of the input is one argument
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "app/qemu_options.h"
#include "machine/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> arguments{""};
  for (std::size_t i = 0; i < size; ++i) {
    if (data[i] == '\n')
      arguments.emplace_back();
    else
      arguments.back() += static_cast<char>(data[i]);
  }
  const auto request = husk::app::parse_qemu_options(arguments);
  if (!request) {
    // A refusal always says something.
    if (request.error().message.empty()) std::abort();
  } else if (request->machine && !husk::machine::validate(*request->machine)) {
    std::abort();  // what the parser lets through fits together
  }
  return 0;
}
