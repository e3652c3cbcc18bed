// husk: AML encodings
#include "boot/aml.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "base/check.h"

namespace husk::boot::aml {
namespace {

Code op(std::initializer_list<std::uint8_t> bytes) { return {bytes}; }

Code raw(std::uint64_t value, unsigned size) {
  Code code;
  for (unsigned i = 0; i < size; ++i) code.bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  return code;
}

/// PkgLength counts itself; 20.2.4.
Code with_length(const Code& prefix, const Code& body) {
  const std::size_t size = body.bytes.size();
  Code length;
  if (size + 1 < 0x40) {
    length = op({static_cast<std::uint8_t>(size + 1)});
  } else {
    const unsigned extra = size + 2 < 0x1000 ? 1 : size + 3 < 0x10'0000 ? 2 : 3;
    const std::size_t total = size + 1 + extra;
    HUSK_CHECK(total < 0x1000'0000);
    length = op({static_cast<std::uint8_t>((extra << 6) | (total & 0xF))}) + raw(total >> 4, extra);
  }
  return prefix + length + body;
}

unsigned hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  const char lower = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  HUSK_CHECK(lower >= 'a' && lower <= 'f');
  return static_cast<unsigned>(lower - 'a') + 10;
}

}  // namespace

Code path(std::string_view text) {
  Code code;
  while (!text.empty() && (text[0] == '\\' || text[0] == '^')) {
    code.bytes.push_back(static_cast<std::uint8_t>(text[0]));
    text.remove_prefix(1);
  }
  std::vector<std::string> segments;
  while (!text.empty()) {
    const std::size_t dot = text.find('.');
    std::string segment(text.substr(0, dot));
    HUSK_CHECK(!segment.empty() && segment.size() <= 4);
    segment.resize(4, '_');
    segments.push_back(std::move(segment));
    text.remove_prefix(dot == std::string_view::npos ? text.size() : dot + 1);
  }
  HUSK_CHECK(segments.size() < 256);
  if (segments.empty()) code += op({0x00});
  if (segments.size() == 2) code += op({0x2E});
  if (segments.size() > 2) code += op({0x2F, static_cast<std::uint8_t>(segments.size())});
  for (const std::string& segment : segments) code.bytes.insert(code.bytes.end(), segment.begin(), segment.end());
  return code;
}

Code integer(std::uint64_t value) {
  if (value <= 1) return op({static_cast<std::uint8_t>(value)});
  if (value <= 0xFF) return op({0x0A}) + raw(value, 1);
  if (value <= 0xFFFF) return op({0x0B}) + raw(value, 2);
  if (value <= 0xFFFF'FFFF) return op({0x0C}) + raw(value, 4);
  return op({0x0E}) + raw(value, 8);
}

Code string(std::string_view text) {
  Code code = op({0x0D});
  code.bytes.insert(code.bytes.end(), text.begin(), text.end());
  return code + op({0x00});
}

Code buffer(std::span<const std::uint8_t> data) {
  Code body = integer(data.size());
  body.bytes.insert(body.bytes.end(), data.begin(), data.end());
  return with_length(op({0x11}), body);
}

Code package(std::span<const Code> elements) {
  HUSK_CHECK(elements.size() < 256);
  Code body = op({static_cast<std::uint8_t>(elements.size())});
  for (const Code& element : elements) body += element;
  return with_length(op({0x12}), body);
}
Code package(std::initializer_list<Code> elements) { return package(std::span(elements.begin(), elements.size())); }

Code eisa_id(std::string_view id) {
  HUSK_CHECK(id.size() == 7);
  // Three letters of five bits, four hexadecimal digits, all big-endian (19.3.4, EISAID).
  const auto letter = [&](std::size_t i) { return static_cast<std::uint32_t>(id[i] - '@') & 0x1F; };
  std::uint32_t value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16;
  for (std::size_t i = 0; i < 4; ++i) value |= hex_digit(id[3 + i]) << (12 - 4 * i);
  return integer(__builtin_bswap32(value));
}

Code uuid(std::string_view text) {
  HUSK_CHECK(text.size() == 36);
  // The first three groups are little-endian (19.6.142).
  constexpr std::array<std::size_t, 16> kPlaces = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  std::array<std::uint8_t, 16> data{};
  for (std::size_t i = 0; i < 16; ++i)
    data[i] = static_cast<std::uint8_t>(hex_digit(text[kPlaces[i]]) << 4 | hex_digit(text[kPlaces[i] + 1]));
  return buffer(data);
}

Code name(std::string_view object, const Code& value) { return op({0x08}) + path(object) + value; }
Code scope(std::string_view where, const Code& body) { return with_length(op({0x10}), path(where) + body); }
Code device(std::string_view object, const Code& body) { return with_length(op({0x5B, 0x82}), path(object) + body); }
Code method(std::string_view object, unsigned arguments, bool serialized, const Code& body) {
  HUSK_CHECK(arguments <= 7);
  return with_length(op({0x14}),
                     path(object) + op({static_cast<std::uint8_t>(arguments | (serialized ? 8u : 0u))}) + body);
}

Code arg(unsigned n) { return op({static_cast<std::uint8_t>(0x68 + n)}); }
Code local(unsigned n) { return op({static_cast<std::uint8_t>(0x60 + n)}); }
Code return_value(const Code& value) { return op({0xA4}) + value; }
Code store(const Code& from, const Code& to) { return op({0x70}) + from + to; }
Code bit_and(const Code& a, const Code& b, const Code& to) { return op({0x7B}) + a + b + to; }
Code bit_or(const Code& a, const Code& b, const Code& to) { return op({0x7D}) + a + b + to; }
Code equal(const Code& a, const Code& b) { return op({0x93}) + a + b; }
Code logical_not(const Code& a) { return op({0x92}) + a; }
Code if_then(const Code& condition, const Code& body) { return with_length(op({0xA0}), condition + body); }
Code otherwise(const Code& body) { return with_length(op({0xA1}), body); }
Code create_dword_field(const Code& source, std::uint64_t byte_index, std::string_view field) {
  return op({0x8A}) + source + integer(byte_index) + path(field);
}

void Resources::little_endian(std::uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) byte(static_cast<std::uint8_t>(value >> (8 * i)));
}

Resources& Resources::io(std::uint16_t base, std::uint8_t length) {
  byte(0x47);
  byte(1);  // decodes 16 bits
  little_endian(base, 2);
  little_endian(base, 2);
  byte(1);
  byte(length);
  return *this;
}

Resources& Resources::irq(unsigned number) {
  HUSK_CHECK(number < 16);
  byte(0x22);
  little_endian(1u << number, 2);
  return *this;
}

Resources& Resources::memory32(std::uint32_t base, std::uint32_t length) {
  byte(0x86);
  little_endian(9, 2);
  byte(1);  // read and write
  little_endian(base, 4);
  little_endian(length, 4);
  return *this;
}

void Resources::address_space(unsigned size, std::uint8_t type, std::uint8_t general, std::uint8_t specific,
                              std::uint64_t base, std::uint64_t length) {
  byte(size == 2 ? 0x88 : size == 4 ? 0x87 : 0x8A);
  little_endian(3 + 5 * size, 2);
  byte(type);
  byte(general);
  byte(specific);
  little_endian(0, size);                  // granularity
  little_endian(base, size);               // minimum
  little_endian(base + length - 1, size);  // maximum
  little_endian(0, size);                  // translation
  little_endian(length, size);
}

// Type-specific flags of 6.4.3.5: general 0x0C is "both ends fixed, positive decode, producer", 0x0D the consumer's.
Resources& Resources::bus_window(std::uint16_t first, std::uint16_t last) {
  address_space(2, 2, 0x0C, 0, first, static_cast<std::uint64_t>(last - first) + 1);
  return *this;
}
Resources& Resources::io_window(std::uint16_t base, std::uint32_t length) {
  HUSK_CHECK(base + std::uint64_t{length} <= 0x1'0000);
  if (length == 0x1'0000) {  // a WORD cannot hold this length
    address_space(4, 1, 0x0C, 3, base, length);
  } else if (length != 0) {
    address_space(2, 1, 0x0C, 3, base, length);
  }
  return *this;
}
Resources& Resources::memory_window(std::uint64_t base, std::uint64_t length) {
  if (length == 0) return *this;
  const bool narrow = base + length <= 0x1'0000'0000;
  address_space(narrow ? 4 : 8, 0, 0x0C, 1, base, length);
  return *this;
}
Resources& Resources::memory64(std::uint64_t base, std::uint64_t length) {
  if (length != 0) address_space(8, 0, 0x0D, 1, base, length);
  return *this;
}

Code Resources::code() const {
  std::vector<std::uint8_t> bytes = bytes_;
  bytes.push_back(0x79);  // end tag; a zero checksum means "not computed"
  bytes.push_back(0);
  return buffer(bytes);
}

}  // namespace husk::boot::aml
