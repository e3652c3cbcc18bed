// husk: bit fields, alignment, byte order and checked arithmetic
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace husk {

/// A value with bits [lo, lo+count) set. count in 1..64.
constexpr std::uint64_t mask_of(unsigned count, unsigned lo = 0) {
  return (count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << lo;
}
/// Bits [lo, lo+count) of value, shifted down.
constexpr std::uint64_t bits(std::uint64_t value, unsigned lo, unsigned count) { return (value >> lo) & mask_of(count); }
constexpr bool bit(std::uint64_t value, unsigned n) { return (value >> n) & 1; }

/// alignment must be a power of two.
template <std::unsigned_integral T>
constexpr T align_down(T value, std::type_identity_t<T> alignment) {
  return value & ~(alignment - 1);
}
template <std::unsigned_integral T>
constexpr T align_up(T value, std::type_identity_t<T> alignment) {
  return align_down<T>(static_cast<T>(value + alignment - 1), alignment);
}

template <std::unsigned_integral T>
constexpr std::optional<T> checked_add(T a, std::type_identity_t<T> b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
template <std::unsigned_integral T>
constexpr std::optional<T> checked_mul(T a, std::type_identity_t<T> b) {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
/// True if [offset, offset+length) lies within [0, size), with no overflow.
constexpr bool range_within(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

/// Reverses the bytes of an integer (std::byteswap is absent from g++ 12).
template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 1) return value;
  else if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  else if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  else return __builtin_bswap64(value);
}

/// Loads and stores in a fixed byte order, at any alignment. The pointer must have sizeof(T) bytes behind it.
template <class T>
  requires std::is_integral_v<T>
T load_le(const void* from) {
  std::make_unsigned_t<T> value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (std::endian::native == std::endian::big) value = byte_swap(value);
  return static_cast<T>(value);
}
template <class T>
  requires std::is_integral_v<T>
void store_le(void* to, T value) {
  auto raw = static_cast<std::make_unsigned_t<T>>(value);
  if constexpr (std::endian::native == std::endian::big) raw = byte_swap(raw);
  std::memcpy(to, &raw, sizeof raw);
}
template <class T>
  requires std::is_integral_v<T>
T load_be(const void* from) {
  return static_cast<T>(byte_swap(static_cast<std::make_unsigned_t<T>>(load_le<T>(from))));
}
template <class T>
  requires std::is_integral_v<T>
void store_be(void* to, T value) {
  store_le<T>(to, static_cast<T>(byte_swap(static_cast<std::make_unsigned_t<T>>(value))));
}

/// A value*numerator/denominator with a 128-bit intermediate product; rounds down.
constexpr std::uint64_t mul_div(std::uint64_t value, std::uint64_t numerator, std::uint64_t denominator) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(value) * numerator / denominator);
}

}  // namespace husk
