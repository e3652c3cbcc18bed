// husk: the state tests that every device passes: round trip, mutation, truncation, bit flips
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "testing/test_machine.h"

namespace husk::testing {

/// `make` builds a fresh device (with whatever machine it needs kept alive by the caller); `drive` brings one into a
/// state that differs from a fresh one. Checks that: save(load(save)) is byte-equal; driving changes the bytes;
/// truncation at every byte and a flip of any bit give an error, which leaves the device as it was, or a state that
/// saves again.
inline void check_device_state(const std::function<std::unique_ptr<core::Device>()>& make,
                               const std::function<void(core::Device&)>& drive) {
  const auto fresh = make();
  const auto fresh_bytes = saved_state(*fresh);
  const auto driven = make();
  drive(*driven);
  const auto bytes = saved_state(*driven);
  EXPECT_NE(bytes, fresh_bytes) << "driving the device must change its saved state";

  const auto copy = make();
  const auto loaded = load_state(*copy, bytes);
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_EQ(saved_state(*copy), bytes) << "save, load, save must be byte-equal";

  const auto target = make();
  auto before = saved_state(*target);
  const auto attempt = [&](std::span<const std::uint8_t> damaged) {
    if (load_state(*target, damaged)) {
      before = saved_state(*target);
      const auto again = make();
      const auto reloaded = load_state(*again, before);
      EXPECT_TRUE(reloaded) << "a state that was accepted must save into one that loads: " << reloaded.error().text();
    } else {
      ASSERT_EQ(saved_state(*target), before) << "a refused state must leave the device as it was";
    }
  };
  for (std::size_t length = 0; length < bytes.size(); ++length)
    attempt(std::vector<std::uint8_t>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)));
  auto flipped = bytes;
  for (std::size_t n = 0; n < bytes.size() * 8; ++n) {
    flipped[n / 8] ^= static_cast<std::uint8_t>(1u << (n % 8));
    attempt(flipped);
    flipped[n / 8] ^= static_cast<std::uint8_t>(1u << (n % 8));
  }
}

}  // namespace husk::testing
