// husk: a small queue of fixed capacity that is part of a declared state
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

#include "state/state.h"

namespace husk::devices {

template <class T, std::size_t N>
struct BoundedQueue {
  std::array<T, N> data{};
  std::uint16_t head = 0;
  std::uint16_t count = 0;

  static constexpr auto state() {
    return std::tuple{state::field(1, "data", &BoundedQueue::data),
                      state::field(2, "head", &BoundedQueue::head).max(N - 1),
                      state::field(3, "count", &BoundedQueue::count).max(N)};
  }

  bool empty() const { return count == 0; }
  std::size_t room() const { return N - count; }
  void clear() { head = count = 0; }
  /// False if full.
  bool push(T value) {
    if (count == N) return false;
    data[(head + count) % N] = value;
    ++count;
    return true;
  }
  /// The queue must not be empty.
  T pop() {
    const T value = data[head];
    head = static_cast<std::uint16_t>((head + 1) % N);
    --count;
    return value;
  }
};

}  // namespace husk::devices
