// husk: listings of translated code, with names for what it refers to
#pragma once

#include <string>
#include <vector>

#include "cpu/code_observer.h"

namespace husk::monitor {

struct ListedInsn {
  std::uint64_t address = 0;
  std::string text;
};

enum class ListingStyle : std::uint8_t {
  addresses,  ///< as it lies in memory
  /// For comparisons of two runs: places in the code itself are offsets ("hot+12", "cold+0"), and addresses of husk's
  /// own data are numbered as they appear ("site0").
  relative,
};

/// The guest's instructions.
std::vector<ListedInsn> list_guest_code(const cpu::TranslatedCode& code);
/// The host's, hot and cold.
struct HostListing {
  std::vector<ListedInsn> hot, cold;
};
HostListing list_host_code(const cpu::TranslatedCode& code, ListingStyle style);

}  // namespace husk::monitor
