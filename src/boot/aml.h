// husk: a small typed writer of AML, ACPI's byte code (ACPI 6.3, chapter 20)
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace husk::boot::aml {

/// A piece of encoded AML: a term, an argument or a list of them. Pieces are joined with operator+.
struct Code {
  std::vector<std::uint8_t> bytes;
  Code& operator+=(const Code& other) {
    bytes.insert(bytes.end(), other.bytes.begin(), other.bytes.end());
    return *this;
  }
  friend Code operator+(Code a, const Code& b) {
    a += b;
    return a;
  }
};

/// Paths are written as in ASL: "\\_SB.PCI0", "^COM1", "_HID"; segments have one to four characters.
Code path(std::string_view name);
/// The shortest encoding of a number.
Code integer(std::uint64_t value);
Code string(std::string_view text);
Code buffer(std::span<const std::uint8_t> data);
/// At most 255 elements.
Code package(std::initializer_list<Code> elements);
Code package(std::span<const Code> elements);
/// "PNP0A03" as the integer that _HID wants.
Code eisa_id(std::string_view id);
/// "33DB4D5B-1FF7-401C-9657-7441C03DD766" as a 16-byte buffer, in ToUUID's order.
Code uuid(std::string_view text);

Code name(std::string_view object, const Code& value);
Code scope(std::string_view where, const Code& body);
Code device(std::string_view object, const Code& body);
/// `arguments` 0..7.
Code method(std::string_view object, unsigned arguments, bool serialized, const Code& body);

Code arg(unsigned n);
Code local(unsigned n);
Code return_value(const Code& value);
Code store(const Code& from, const Code& to);
Code bit_and(const Code& a, const Code& b, const Code& to);
Code bit_or(const Code& a, const Code& b, const Code& to);
Code equal(const Code& a, const Code& b);
Code logical_not(const Code& a);
Code if_then(const Code& condition, const Code& body);
/// Directly behind an if_then.
Code otherwise(const Code& body);
Code create_dword_field(const Code& source, std::uint64_t byte_index, std::string_view field);

/// A _CRS value, built descriptor by descriptor (ACPI 6.3, section 6.4).
class Resources {
 public:
  /// A fixed port range, decoding 16 address bits.
  Resources& io(std::uint16_t base, std::uint8_t length);
  /// An edge-triggered, active-high ISA interrupt 0..15.
  Resources& irq(unsigned number);
  Resources& memory32(std::uint32_t base, std::uint32_t length);
  /// Windows that a bridge passes on to its bus. Memory is 32-bit or 64-bit by where it ends. An empty one adds
  /// nothing.
  Resources& bus_window(std::uint16_t first, std::uint16_t last);
  Resources& io_window(std::uint16_t base, std::uint32_t length);
  Resources& memory_window(std::uint64_t base, std::uint64_t length);
  /// Memory that a device itself uses, in 64-bit form.
  Resources& memory64(std::uint64_t base, std::uint64_t length);
  /// With the end tag, as a buffer.
  Code code() const;

 private:
  void byte(std::uint8_t value) { bytes_.push_back(value); }
  void little_endian(std::uint64_t value, unsigned size);
  void address_space(unsigned size, std::uint8_t type, std::uint8_t general, std::uint8_t specific, std::uint64_t base,
                     std::uint64_t length);
  std::vector<std::uint8_t> bytes_;
};

}  // namespace husk::boot::aml
