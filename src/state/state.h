// husk: declared state; one table a struct gives save, load, inspection and the schema
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/bits.h"
#include "base/result.h"

/// The wire form of a record is a sequence of {u16 tag, u32 length, bytes}, little-endian, in the order of the table.
/// Bit 15 of the tag says that a reader which does not know the tag must refuse the record; without it the field is
/// skipped. A field absent from the wire keeps its initialiser. Field types: bool, integers, enums, nested declared
/// structs, std::array and std::vector of these, std::optional, std::string.
namespace husk::state {

inline constexpr std::uint16_t kRequiredTag = 0x8000;
/// No vector or string in a saved state is longer than this many elements, whatever the wire says.
inline constexpr std::size_t kMaxElements = std::size_t{1} << 26;

template <class Owner, class T>
struct Field {
  std::uint16_t tag;
  const char* name;
  T Owner::*member;
  std::uint16_t since;  ///< schema version of the owner in which the field appeared
  std::uint64_t low = 0;
  std::uint64_t high = std::numeric_limits<std::uint64_t>::max();
  bool required = true;

  /// Loading refuses a value (or array element) outside [lowest, highest]. Unsigned comparison of the raw value.
  constexpr Field range(std::uint64_t lowest, std::uint64_t highest) const {
    Field copy = *this;
    copy.low = lowest;
    copy.high = highest;
    return copy;
  }
  constexpr Field max(std::uint64_t highest) const { return range(0, highest); }
  /// A reader that does not know the field may skip it.
  constexpr Field optional() const {
    Field copy = *this;
    copy.required = false;
    return copy;
  }
};

template <class Owner, class T>
constexpr Field<Owner, T> field(std::uint16_t tag, const char* name, T Owner::*member, std::uint16_t since = 1) {
  return {tag, name, member, since};
}

template <class T>
concept Declared = requires { T::state(); };

/// Appends records to a byte buffer.
class StateWriter {
 public:
  template <Declared T>
  void record(const T& object) {
    std::apply([&](const auto&... f) { (put_field(object, f), ...); }, T::state());
  }
  /// One tagged field made by hand, for the rare device whose state is not a struct.
  template <class Fill>
  void tagged(std::uint16_t tag, bool required, Fill&& fill) {
    put<std::uint16_t>(static_cast<std::uint16_t>(tag | (required ? kRequiredTag : 0)));
    const std::size_t at = bytes_.size();
    put<std::uint32_t>(0);
    fill(*this);
    store_le<std::uint32_t>(&bytes_[at], static_cast<std::uint32_t>(bytes_.size() - at - 4));
  }
  template <class T>
  void put(T value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    store_le<T>(&bytes_[at], value);
  }
  void put_bytes(std::span<const std::uint8_t> data) { bytes_.insert(bytes_.end(), data.begin(), data.end()); }

  std::span<const std::uint8_t> bytes() const { return bytes_; }
  std::vector<std::uint8_t> take() && { return std::move(bytes_); }

  template <class T>
  void put_value(const T& value);

 private:
  template <class Owner, class T>
  void put_field(const Owner& object, const Field<Owner, T>& f) {
    tagged(f.tag, f.required, [&](StateWriter& w) { w.put_value(object.*f.member); });
  }
  std::vector<std::uint8_t> bytes_;
};

/// Reads records out of a byte span; every length in it is checked.
class StateReader {
 public:
  explicit StateReader(std::span<const std::uint8_t> bytes) : rest_(bytes) {}

  /// Decodes every remaining byte as a record into `object`, whose fields not on the wire are left alone. On an error
  /// `object` is partly written: decode into a temporary.
  template <Declared T>
  Status record(T& object);

  std::size_t remaining() const { return rest_.size(); }
  template <class T>
  Result<T> get() {
    if (rest_.size() < sizeof(T)) return fail("saved state ends within a value of {} bytes", sizeof(T));
    const T value = load_le<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  Result<std::span<const std::uint8_t>> get_bytes(std::size_t count) {
    if (rest_.size() < count) return fail("saved state ends within {} bytes of data", count);
    auto data = rest_.first(count);
    rest_ = rest_.subspan(count);
    return data;
  }
  template <class T>
  Status get_value(T& value, std::uint64_t low, std::uint64_t high, const char* name);

 private:
  std::span<const std::uint8_t> rest_;
};

/// Receives every field of a state by path, for inspection; values are shown as text.
class Inspector {
 public:
  virtual ~Inspector() = default;
  virtual void value(std::string_view path, std::string text) = 0;

  template <Declared T>
  void record(const T& object, const std::string& prefix = {}) {
    std::apply([&](const auto&... f) { (show(object.*f.member, prefix + f.name), ...); }, T::state());
  }

 private:
  template <class T>
  void show(const T& v, const std::string& path);
};

// ---- implementation ----

namespace detail {
template <class T>
struct IsArray : std::false_type {};
template <class T, std::size_t N>
struct IsArray<std::array<T, N>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
}  // namespace detail

template <class T>
void StateWriter::put_value(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    put<std::uint8_t>(value ? 1 : 0);
  } else if constexpr (std::is_enum_v<T>) {
    put(static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (std::is_integral_v<T>) {
    put(value);
  } else if constexpr (Declared<T>) {
    // Length before a nested record, so that it can sit in an array.
    const std::size_t at = bytes_.size();
    put<std::uint32_t>(0);
    record(value);
    store_le<std::uint32_t>(&bytes_[at], static_cast<std::uint32_t>(bytes_.size() - at - 4));
  } else if constexpr (std::is_same_v<T, std::string>) {
    put<std::uint32_t>(static_cast<std::uint32_t>(value.size()));
    for (const char c : value) put<std::uint8_t>(static_cast<std::uint8_t>(c));
  } else if constexpr (detail::IsOptional<T>::value) {
    put<std::uint8_t>(value.has_value() ? 1 : 0);
    if (value) put_value(*value);
  } else if constexpr (detail::IsArray<T>::value) {
    for (const auto& element : value) put_value(element);
  } else {
    static_assert(detail::IsVector<T>::value, "type cannot be part of a declared state");
    put<std::uint32_t>(static_cast<std::uint32_t>(value.size()));
    for (const auto& element : value) put_value(element);
  }
}

template <class T>
Status StateReader::get_value(T& value, std::uint64_t low, std::uint64_t high, const char* name) {
  if constexpr (std::is_same_v<T, bool>) {
    const auto raw = HUSK_TRY(get<std::uint8_t>());
    if (raw > 1) return fail("saved field {} holds {}, which is no truth value", name, raw);
    value = raw != 0;
  } else if constexpr (std::is_enum_v<T>) {
    std::underlying_type_t<T> raw{};
    HUSK_TRY(get_value(raw, low, high, name));
    value = static_cast<T>(raw);
  } else if constexpr (std::is_integral_v<T>) {
    value = HUSK_TRY(get<T>());
    const auto raw = static_cast<std::uint64_t>(static_cast<std::make_unsigned_t<T>>(value));
    if (raw < low || raw > high) return fail("saved field {} holds {}, outside {} to {}", name, raw, low, high);
  } else if constexpr (Declared<T>) {
    const auto length = HUSK_TRY(get<std::uint32_t>());
    StateReader inner(HUSK_TRY(get_bytes(length)));
    if (auto done = inner.record(value); !done) return std::unexpected(std::move(done).error().within(name));
  } else if constexpr (std::is_same_v<T, std::string>) {
    const auto length = HUSK_TRY(get<std::uint32_t>());
    const auto data = HUSK_TRY(get_bytes(length));
    value.assign(data.begin(), data.end());
  } else if constexpr (detail::IsOptional<T>::value) {
    bool present = false;
    HUSK_TRY(get_value(present, 0, 1, name));
    if (!present) {
      value.reset();
    } else {
      HUSK_TRY(get_value(value.emplace(), low, high, name));
    }
  } else if constexpr (detail::IsArray<T>::value) {
    for (auto& element : value) HUSK_TRY(get_value(element, low, high, name));
  } else {
    static_assert(detail::IsVector<T>::value, "type cannot be part of a declared state");
    const auto count = HUSK_TRY(get<std::uint32_t>());
    // Every element takes at least one byte, so a count beyond what is left is a lie: refuse before allocating.
    if (count > rest_.size() || count > kMaxElements) return fail("saved field {} claims {} elements", name, count);
    value.clear();
    value.resize(count);
    for (auto& element : value) HUSK_TRY(get_value(element, low, high, name));
  }
  return {};
}

template <Declared T>
Status StateReader::record(T& object) {
  while (!rest_.empty()) {
    const auto raw_tag = HUSK_TRY(get<std::uint16_t>());
    const auto length = HUSK_TRY(get<std::uint32_t>());
    StateReader body(HUSK_TRY(get_bytes(length)));
    const auto tag = static_cast<std::uint16_t>(raw_tag & ~kRequiredTag);
    bool known = false;
    Status outcome;
    std::apply(
        [&](const auto&... f) {
          (void)((f.tag == tag ? (known = true, outcome = body.get_value(object.*f.member, f.low, f.high, f.name), true)
                               : false) ||
                 ...);
        },
        T::state());
    if (!outcome) return outcome;
    if (!known && (raw_tag & kRequiredTag)) return fail("saved state has required field {}, which this husk does not know", tag);
    if (known && body.remaining()) return fail("saved field {} is {} bytes too long", tag, body.remaining());
  }
  return {};
}

template <class T>
void Inspector::show(const T& v, const std::string& path) {
  if constexpr (std::is_same_v<T, bool>) {
    value(path, v ? "true" : "false");
  } else if constexpr (std::is_enum_v<T>) {
    value(path, fmt::format("{}", static_cast<std::uint64_t>(v)));
  } else if constexpr (std::is_integral_v<T>) {
    value(path, fmt::format("{:#x}", v));
  } else if constexpr (Declared<T>) {
    record(v, path + ".");
  } else if constexpr (std::is_same_v<T, std::string>) {
    value(path, v);
  } else if constexpr (detail::IsOptional<T>::value) {
    if (v) show(*v, path);
    else value(path, "none");
  } else {
    std::size_t index = 0;
    for (const auto& element : v) show(element, fmt::format("{}[{}]", path, index++));
  }
}

/// Appends one line a field ("path tag type since") to `out`: the schema, compared with a checked-in golden by a test.
template <class T>
void describe_type(std::vector<std::string>& out, const std::string& path, std::string& type) {
  if constexpr (std::is_same_v<T, bool>) type = "bool";
  else if constexpr (std::is_enum_v<T>) type = fmt::format("enum{}", sizeof(T) * 8);
  else if constexpr (std::is_integral_v<T>) type = fmt::format("{}{}", std::is_signed_v<T> ? "i" : "u", sizeof(T) * 8);
  else if constexpr (std::is_same_v<T, std::string>) type = "string";
  else if constexpr (Declared<T>) {
    type = "record";
    std::apply(
        [&](const auto&... f) {
          const auto describe_one = [&]<class Owner, class M>(const Field<Owner, M>& one) {
            std::string inner;
            const std::size_t at = out.size();
            describe_type<M>(out, path + one.name + ".", inner);
            out.insert(out.begin() + static_cast<std::ptrdiff_t>(at),
                       fmt::format("{}{} tag={} type={} since={}{}", path, one.name, one.tag, inner, one.since,
                                   one.required ? "" : " optional"));
          };
          (describe_one(f), ...);
        },
        T::state());
  } else if constexpr (detail::IsArray<T>::value) {
    std::string inner;
    describe_type<typename T::value_type>(out, path, inner);
    type = fmt::format("{}[{}]", inner, std::tuple_size_v<T>);
  } else if constexpr (detail::IsOptional<T>::value) {
    std::string inner;
    describe_type<typename T::value_type>(out, path, inner);
    type = inner + "?";
  } else {
    std::string inner;
    describe_type<typename T::value_type>(out, path, inner);
    type = inner + "[]";
  }
}
template <Declared T>
std::vector<std::string> schema() {
  std::vector<std::string> lines;
  std::string ignored;
  describe_type<T>(lines, "", ignored);
  return lines;
}

}  // namespace husk::state
