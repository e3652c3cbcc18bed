// husk: finds the few entries of a large table that may hold a page, by short tags beside it
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

namespace husk::cpu::interp {

/// Calls `each(i)` for the elements that equal `wanted`: few, among a multiple of 64.
template <class Each>
void each_equal(std::span<const std::uint16_t> in, std::uint16_t wanted, Each&& each) {
  using Eight [[gnu::vector_size(16)]] = std::uint16_t;
  constexpr std::size_t kRun = 64;
  const Eight everywhere = Eight{} + wanted;
  for (std::size_t at = 0; at < in.size(); at += kRun) {
    Eight any{};
    for (std::size_t i = 0; i < kRun; i += 8) {
      Eight some;
      std::memcpy(&some, &in[at + i], sizeof some);
      any |= static_cast<Eight>(some == everywhere);
    }
    std::uint64_t halves[2];
    std::memcpy(halves, &any, sizeof halves);
    if (!(halves[0] | halves[1])) continue;
    for (std::size_t i = at; i < at + kRun; ++i)
      if (in[i] == wanted) each(i);
  }
}

}  // namespace husk::cpu::interp
