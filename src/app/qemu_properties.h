// husk: property lists of QEMU's options: key=value pairs that must all be known
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "machine/config.h"

namespace husk::app {

/// The pairs of one option. Each is taken once; finish() refuses what nobody took.
class Properties {
 public:
  /// `implied`: the key of a first part without "=" (QEMU's implied option name), or "".
  Properties(std::string_view text, std::string_view implied, std::string what);

  std::optional<std::string> take(std::string_view key);
  /// The values of a key that may be given many times, one after the other.
  std::optional<std::string> take_next(std::string_view key);
  /// take() of a part that is no property of the object itself, so that no message lists it.
  void skip(std::string_view key);
  Result<bool> take_bool(std::string_view key, bool absent);
  Result<std::uint64_t> take_number(std::string_view key, std::uint64_t absent, std::uint64_t most);
  /// Refuses the property unless it has one of the values that describe what husk does anyway.
  Status take_fixed(std::string_view key, std::initializer_list<std::string_view> possible);
  Status finish();
  const std::string& what() const { return what_; }

 private:
  struct Pair {
    machine::OptionPart part;
    bool taken = false;
  };
  std::string what_;
  std::vector<Pair> pairs_;
  std::vector<std::string> asked_;
};

/// An option that may be written as a JSON object, as key=value pairs: {"a": {"b": 1}} is a.b=1, {"k": [{"str": "v"}]}
/// is k=v. Other text comes back as it is.
Result<std::string> flat_properties(const std::string& text, std::string_view what);

/// id, addr and bus of a PCI device.
Result<machine::PciPlace> take_pci_place(Properties& properties);

std::unexpected<Error> refuse(std::string message, std::string next_step);

}  // namespace husk::app
